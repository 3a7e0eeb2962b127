"""Ctrl-C at the right moment."""

from __future__ import annotations

# signal.py turns every number into an enum first, which takes longer than the updates of a small net
import _signal  # type: ignore[import-not-found]
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupts", "uninterrupted"]


class Interrupts:
    """Holds Ctrl-C back between `begin` and `end` (a second one is raised at once), where Python's own handler is in
    charge and this is the main thread."""

    def __init__(self) -> None:
        self.inside = self.pending = self.installed = False

    def __enter__(self) -> Interrupts:
        own = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
        self.inside = self.pending = False
        if own and threading.current_thread() is threading.main_thread():
            self.installed = True  # first: a signal may come between the two
            _signal.signal(_signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self.installed:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
            self.installed = False

    def _on_signal(self, number: int, frame: Any) -> None:
        if not self.inside or self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def begin(self) -> None:
        self.inside = True

    def end(self) -> None:
        self.inside = False
        if self.pending:
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
