"""Ctrl-C at the right moment."""

from __future__ import annotations

# signal.py turns every number into an enum first, which takes longer than the updates of a small net
import _signal  # type: ignore[import-not-found]
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupts", "uninterrupted"]


class Interrupts:
    """Holds Ctrl-C back between `begin` and `end` (a second one is raised at once), where Python's own handler is in
    charge and this is the main thread.

    together   several processes stop at the same place, or none: Ctrl-C, or SIGTERM, which a launcher makes of it, is
               only `pending`, until they have agreed. A second one that comes a second later is raised at once
    """

    def __init__(self) -> None:
        self.inside = self.pending = self.together = False
        self._installed: list[tuple[int, Any]] = []
        self._since = 0.0

    def __enter__(self) -> Interrupts:
        self.inside = self.pending = False
        if threading.current_thread() is not threading.main_thread():
            return self
        watched = [(_signal.SIGINT, _signal.default_int_handler)]
        if self.together:
            watched.append((_signal.SIGTERM, _signal.SIG_DFL))
        for number, usual in watched:
            if _signal.getsignal(number) == usual:
                self._installed.append((number, usual))  # first: a signal may come between the two
                _signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        while self._installed:
            _signal.signal(*self._installed.pop())

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.together:
            if self.pending and time.monotonic() - self._since > 1:
                raise KeyboardInterrupt
        elif not self.inside or self.pending:
            raise KeyboardInterrupt
        if not self.pending:
            self.pending, self._since = True, time.monotonic()

    def begin(self) -> None:
        self.inside = True

    def end(self) -> None:
        self.inside = False
        if self.pending and not self.together:
            self.pending = False
            raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back inside, for what must not be left half done."""
    with Interrupts() as interrupts:
        interrupts.begin()
        try:
            yield
        finally:
            interrupts.end()
