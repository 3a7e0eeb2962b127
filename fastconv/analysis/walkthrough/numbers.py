"""Numbers as text: four significant digits, the same in Python and in the page's script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

import numpy as np

__all__ = ["brief", "index", "matrix", "shown"]

DIGITS = 4
WIDEST = 6  # characters in a cell
INTEGERS = 1e6  # below it integers are written whole
SMALLEST = 1e-4  # below it numbers are written with an exponent


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
    exact = Decimal(value)
    rounded = exact.quantize(Decimal((0, (1,), exact.adjusted() - DIGITS + 1)), ROUND_HALF_UP)
    if SMALLEST <= abs(rounded) < INTEGERS:
        text = format(rounded, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    exponent = rounded.adjusted()
    digits = format(rounded.scaleb(-exponent), "f").rstrip("0").rstrip(".")
    return f"{digits}e{exponent}"


def brief(value: float, noise: float = 0.0) -> str:
    """In a cell: fewer digits where they would make it wide."""
    text = shown(value, noise)
    if len(text) <= WIDEST or not math.isfinite(value):
        return text
    for digits in (3, 2, 1):
        short = shown(float(f"{value:.{digits}g}"))
        if len(short) <= WIDEST:
            return short
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def index(name: str, at: Sequence[int]) -> str:
    return f"{name}[{', '.join(map(str, at))}]"


def matrix(values: np.ndarray, noise: float = 0.0) -> list[str]:
    """Lines of right-justified columns of a matrix (rows, columns)."""
    cells = [[shown(value, noise) for value in row] for row in values]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells]
