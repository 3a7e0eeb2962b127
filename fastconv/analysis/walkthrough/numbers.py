"""Numbers as text: four significant digits, the same in Python and in the page's script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

import numpy as np

__all__ = ["brief", "index", "matrix", "shown"]

DIGITS = 4
WIDEST = 6  # characters in a cell, where that can be
INTEGERS = 1e6  # below it integers are written whole
SMALLEST, SMALLEST_BRIEF = Decimal("1e-4"), Decimal("1e-3")  # below it numbers are written with an exponent


def shown(value: float, noise: float = 0.0) -> str:
    """At most four significant digits, halves away from zero; what is not beyond `noise` is 0."""
    value = float(value)
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) <= noise or value == 0:
        return "0"
    if value.is_integer() and abs(value) < INTEGERS:
        return str(int(value))
    return _written(value, DIGITS, SMALLEST)


def _written(value: float, digits: int, smallest: Decimal) -> str:
    """So many digits; with an exponent below `smallest` and from a million on."""
    exact = Decimal(value)
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - digits + 1)), ROUND_HALF_UP)
    exponent = 0 if smallest <= abs(rounded) < INTEGERS else rounded.adjusted()
    text = format(rounded.scaleb(-exponent), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text}e{exponent}" if exponent else text


def brief(value: float, noise: float = 0.0) -> str:
    """In a cell: fewer digits where they would make it wide."""
    text = shown(value, noise)
    if len(text) <= WIDEST or not math.isfinite(value):
        return text
    return next((short for digits in (3, 2) if len(short := _written(value, digits, SMALLEST_BRIEF)) <= WIDEST),
                _written(value, 1, SMALLEST_BRIEF))  # fmt: skip


def index(name: str, at: Sequence[int]) -> str:
    return f"{name}[{', '.join(map(str, at))}]"


def matrix(values: np.ndarray, noise: float = 0.0) -> list[str]:
    """Lines of right-justified columns of a matrix (rows, columns)."""
    cells = [[shown(value, noise) for value in row] for row in values]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]
