"""How a Trainer shows where it is: a bar on a terminal, bar and curve in a notebook, lines elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterable
from typing import Any

from fastconv import notebook
from fastconv.training.history import History

__all__ = ["Progress", "track"]

REFRESH = 0.1  # seconds between two looks at the loss
REDRAW = 1.0, 10  # seconds between two curves at least, and how many times what one takes
UNSHOWN = ("epoch", "step", "lr", "seconds")  # of a record
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
    (nothing), None (the bar on a terminal, else nothing). In a notebook, but for False, a bar and the curve of
    `history`, drawn as it goes (without matplotlib the table)."""

    def __init__(self, wanted: bool | None, epochs: int, history: History) -> None:
        self.epochs = epochs
        self.bar: Any = None
        self.drawing = wanted is not False and notebook.is_running()
        self.tqdm: Any = None if wanted is False else _tqdm_of_notebooks() if self.drawing else _tqdm()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.lines = not self.drawing and self.tqdm is None and (terminal if wanted is None else wanted)
        self.shown = 0.0
        self.history = history
        self.display = notebook.Display()
        self.due = 0.0  # when the next curve is drawn
        self.drawn = 0  # epochs of the last one

    def start(self, epoch: int, steps: int | None, done: int) -> None:
        """Epoch number `epoch`, from 1, begins, `done` of its `steps` behind it."""
        if self.tqdm is not None:
            label = f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"
            if self.drawing and self.bar is not None:  # one bar for all epochs: below a cell they would pile up
                self.bar.set_description(label, refresh=False)
                self.bar.reset(steps)
                return
            options: dict[str, Any] = {"leave": False} if self.drawing else _width()
            self.bar = self.tqdm(total=steps, initial=done, desc=label, unit="step", **options)

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
        parts = [f"{name} {value:.4f}" for name, value in record.items() if name not in UNSHOWN]
        epoch = f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        if self.bar is not None and self.drawing:
            self.bar.set_postfix_str("  ".join(parts))
        elif self.bar is not None:  # what is left of it are its figures, in a line of their own: tqdm cuts long ones
            self.bar.leave = False
            self._close_bar()
            self.tqdm.write("  ".join([epoch, *parts]), file=sys.stderr)
        if self.lines:
            print("  ".join([epoch, *parts, f"{record['seconds']:.1f} s"]), file=sys.stderr, flush=True)
        if not self.drawing:
            self._close_bar()
        elif time.perf_counter() >= self.due:
            self._draw()

    def close(self) -> None:
        """Leave the bar and the curve as they are."""
        self._close_bar()
        if self.drawing and self.drawn < len(self.history):
            self._draw()

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _draw(self) -> None:
        begun = time.perf_counter()
        last = self.history[-1:]
        try:
            from fastconv import plots

            title = f"Epoch {last[0]['epoch']} of {self.epochs}"
            curve = plots.as_png(plots.training_curve(self.history, title=title), plots.SCREEN)
            picture = notebook.image(curve, "loss and accuracy by epoch")
            self.display.show(picture + History(last)._repr_html_())
        except ImportError:
            self.display.show(self.history._repr_html_())
        self.drawn = len(self.history)
        now = time.perf_counter()
        self.due = now + max(REDRAW[0], REDRAW[1] * (now - begun))


def _tqdm_of_notebooks() -> Any:
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")  # that ipywidgets is missing: the bar is text then
        from tqdm.auto import tqdm

        return tqdm
    return None
