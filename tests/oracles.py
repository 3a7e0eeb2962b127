"""Other libraries' test cases: each agrees, is left out for a reason that stands in a table, or is a failure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Left", "LeftOutError", "Tally", "need"]


class Left(NamedTuple):
    """A sample that is left out for its arguments, or must be refused with this error."""

    reason: str
    error: type[Exception] | None = None
    message: str = ""  # a regular expression, for which the error is looked through


class LeftOutError(Exception):
    """The sample has no call of ours."""


def need(holds: bool, otherwise: Left) -> None:
    if not holds:
        raise LeftOutError(otherwise)


class Tally:
    """How many samples agree, and how many are left out, by reason."""

    def __init__(self, left: tuple[Left, ...], maybe: tuple[Left, ...] = ()) -> None:
        self.left, self.maybe = left, maybe
        self.counts: Counter[Left] = Counter()
        self.agreed = 0
        self.wrong: list[str] = []

    def take(self, what: str, check: Callable[[], None]) -> None:
        """Run one sample's check: it passes, or raises what a Left says, or is wrong."""
        try:
            check()
            self.agreed += 1
        except LeftOutError as error:
            self.counts[error.args[0]] += 1
        except (ValueError, TypeError, AssertionError) as error:
            for left in (*self.left, *self.maybe):
                if left.error is not None and type(error) is left.error and re.search(left.message, str(error)):
                    self.counts[left] += 1
                    return
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")

    def close(self, name: str) -> None:
        """Print the counts. Fails where a sample was wrong, or other reasons were found than those that are said."""
        print(f"{name}: {self.agreed} agree")
        for left, count in self.counts.items():
            print(f"    {count} left out: {left.reason}")
        assert not self.wrong, f"{len(self.wrong)} disagree:\n" + "\n".join(self.wrong[:20])
        assert set(self.counts) - set(self.maybe) == set(self.left), (
            "the reasons that were found are not those that are said"
        )
