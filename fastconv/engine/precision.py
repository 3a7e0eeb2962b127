"""How far one pixel reaches: "fast", the default, or "strict".

strict   "auto" picks no algorithm in which an output's value depends on inputs outside its window (Winograd spreads
         the rounding, NaN and inf of one pixel over its tile), and NaN and inf stand in y, dx and dw exactly where the
         naive reference has them: what lies in the padding is left out, not multiplied by zero

The process has a default (`set_precision`, FASTCONV_PRECISION); `with precision(…):` holds for its thread or async
task.
"""

from __future__ import annotations

import os
from contextlib import ContextDecorator
from contextvars import ContextVar

from fastconv.machine.config import SETTINGS

__all__ = ["get_precision", "need_precision", "precision", "set_precision"]

PRECISIONS = ("fast", "strict")


def need_precision(owner: str, value: object) -> str:
    """`value`, which must be one of PRECISIONS; ValueError otherwise."""
    if not isinstance(value, str) or value not in PRECISIONS:
        raise ValueError(f'{owner} must be "fast" or "strict", got {value!r}')
    return str(value)


_default = need_precision("FASTCONV_PRECISION", os.environ.get("FASTCONV_PRECISION", "").strip() or "fast")
_held: ContextVar[tuple[str, ...]] = ContextVar("fastconv_precision", default=())  # of `with`, the innermost last


def set_precision(value: str) -> None:
    """Compute convolutions "fast" (the default) or "strict" from now on, in the whole process.

    Under "strict" no output depends, not even in its last bits, on inputs outside its window, and NaN and inf stand
    exactly where `fastconv.reference` has them; layers that Winograd would serve take longer. FASTCONV_PRECISION sets
    it from outside. A convolution with `algorithm=` by name runs as named; a pullback uses what held at its forward.
    Raises ValueError for anything else.
    """
    global _default
    _default = need_precision("set_precision: the precision", value)


def get_precision() -> str:
    """The precision that holds here: that of the innermost `with precision(…):`, else the process's."""
    held = _held.get()
    return held[-1] if held else _default


SETTINGS["precision"] = get_precision


class precision(ContextDecorator):
    """`with precision("strict"):` as `set_precision`, inside and in this thread or async task only; also a decorator.

    Raises ValueError for anything but "fast" and "strict".
    """

    def __init__(self, value: str) -> None:
        self.value = need_precision("precision: the precision", value)

    def __enter__(self) -> None:
        _held.set((*_held.get(), self.value))

    def __exit__(self, *error: object) -> None:
        _held.set(_held.get()[:-1])
