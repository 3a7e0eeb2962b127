"""What pooling and resampling share: their input, the naive versions' lists, a gradient to x alone, and one to three
spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastconv.arrays import as_floats, logical, need_axes
from fastconv.errors import ShapeError, is_numpy_bool
from fastconv.ops.naive import as_lists
from fastconv.ops.registry import Backward, Forward, add

__all__ = ["Ints", "add_each", "flag", "gradient_to_x", "planes", "prepare_input", "unlift"]

Ints = tuple[int, ...]

AXES = ("L", "H W", "D H W")


def prepare_input(op: str, x: Any, ndim: int | None = None) -> np.ndarray:
    """x as floats (N, C, *spatial) with `ndim` spatial axes, one to three where that is None."""
    (x,) = as_floats(op, x=x)
    count = x.ndim - 2 if ndim is None else ndim
    if not 1 <= count <= len(AXES):
        raise ShapeError(
            f"{op}: x must have 3 to 5 axes (N C and one to three spatial axes), got {x.ndim}: shape {x.shape}"
        )
    need_axes(op, "x", x, f"N C {AXES[count - 1]}")
    array: np.ndarray = x
    return array


def flag(op: str, name: str, value: Any) -> bool:
    """`value`, Python's or NumPy's True or False, as Python's."""
    if isinstance(value, bool) or is_numpy_bool(value):
        return bool(value)
    raise TypeError(f"{op}: {name} must be True or False, got {value!r}")


def planes(x: np.ndarray) -> list[list[float]]:
    """(N, C, *spatial) as N * C lists of elements."""
    lists: list[list[float]] = as_lists(x.reshape(x.shape[0] * x.shape[1], math.prod(x.shape[2:])))
    return lists


def unlift(last: np.ndarray, spatial: Ints) -> np.ndarray:
    """(N, i0, i1, i2, C) seen as (N, C, *spatial)."""
    return logical(last.reshape(last.shape[0], *spatial, last.shape[-1]))


def gradient_to_x(backward: Callable[[np.ndarray, Any], np.ndarray]) -> Backward:
    """`backward(dy, saved)` -> dx as the registry takes it: no other argument has a gradient."""

    def call(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
        return backward(dy, saved) if needs[0] else None, *(None,) * (len(needs) - 1)

    return call


def add_each(
    kind: str,
    forward: Forward,
    backward: Callable[[str, np.ndarray, Any], np.ndarray],
    reference: Forward,
    reference_backward: Callable[[np.ndarray, Any], np.ndarray],
    check: Callable[..., None] | None = None,
) -> None:
    """List an operation of one, two and three spatial axes; its functions take its name first, as `max_pool2d`."""
    for axes in range(1, 1 + len(AXES)):
        name = f"{kind}{axes}d"
        add(
            name,
            forward=partial(forward, name),
            backward=gradient_to_x(partial(backward, name)),
            reference=partial(reference, name),
            reference_backward=gradient_to_x(reference_backward),
            check=None if check is None else partial(check, name),
        )
