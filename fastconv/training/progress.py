"""How a Trainer shows where it is: a bar on a terminal, a line an epoch elsewhere, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any

__all__ = ["Progress", "track"]

REFRESH = 0.1  # seconds between two looks at the loss
WIDTH = 100  # columns of a terminal that says it has none: tqdm would draw nothing


def _has_no_width() -> bool:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError):
        return False


def _tqdm() -> Any:
    """tqdm's bar, where it is installed and standard error is a terminal; else None."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm


def _width() -> dict[str, Any]:
    return {"ncols": WIDTH} if _has_no_width() else {"dynamic_ncols": True}


def track(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """The items, with a bar on a terminal that is gone when they are through."""
    tqdm = _tqdm()
    return items if tqdm is None else tqdm(items, total=total, desc=what, leave=False, **_width())


class Progress:
    """`wanted`: True (a tqdm bar where tqdm is installed and standard error is a terminal, else a line an epoch), False
    (nothing), None (the bar on a terminal, else nothing)."""

    def __init__(self, wanted: bool | None, epochs: int) -> None:
        self.epochs = epochs
        self.bar: Any = None
        self.tqdm: Any = None if wanted is False else _tqdm()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.lines = self.tqdm is None and (terminal if wanted is None else wanted)
        self.shown = 0.0

    def start(self, epoch: int, steps: int | None, done: int) -> None:
        """Epoch number `epoch`, from 1, begins, `done` of its `steps` behind it."""
        if self.tqdm is not None:
            label = f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"
            self.bar = self.tqdm(total=steps, initial=done, desc=label, unit="step", **_width())

    def step(self, loss: float) -> None:
        """One more step; `loss` is the epoch's mean so far."""
        if self.bar is not None:
            now = time.perf_counter()
            if now - self.shown > REFRESH:
                self.shown = now
                self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self.bar.update()

    def finish(self, record: dict[str, Any]) -> None:
        """The epoch is over."""
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        parts = [f"{name} {record[name]:.4f}" for name in names if name in record]
        epoch = f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        if self.bar is not None:  # what is left of it are its figures, which a terminal of 80 columns holds
            self.bar.bar_format = "{desc}"
            self.bar.set_description_str("  ".join([epoch, *parts]))
        if self.lines:
            print("  ".join([epoch, *parts, f"{record['seconds']:.1f} s"]), file=sys.stderr, flush=True)
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
