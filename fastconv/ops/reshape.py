"""The same elements in another shape, in their logical order (C, then the spatial axes); the batch axis stays.

flatten     (N, ...) -> (N, F)
reshape     (N, ...) -> (N, *shape)
unflatten   (N, ..., n, ...) -> (N, ..., *sizes, ...)    the axis `dim` as several
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv.arrays import CHANNELS_LAST, MOST_AXES, as_floats, contiguous, copied, logical, memoised
from fastconv.errors import ShapeError, integer
from fastconv.ops.common import axis_of, is_channels_last
from fastconv.ops.registry import add
from fastconv.ops.spatial import Ints, gradient_to_x
from fastconv.window import is_sequence

# --- shape rule ------------------------------------------------------------------------------------------------------


class Shapes(NamedTuple):
    """Of x and of y, and whether each lies channels-last in memory: y where x does, and has that many axes."""

    x: Ints
    y: Ints
    x_last: bool
    y_last: bool


def shapes_of(x: np.ndarray, shape: Ints) -> Shapes:
    last = is_channels_last(x)
    return Shapes(x.shape, shape, last, last and 3 <= len(shape) <= 5)


def lengths(op: str, name: str, value: Any) -> Ints:
    """`value` (an int, or a sequence of them) as a tuple of lengths, of which one may be -1: what is left."""
    entries = tuple(value) if is_sequence(value) else (value,)
    found = tuple(integer(op, name, entry) for entry in entries)
    for n in found:
        if n < 1 and n != -1:
            raise ShapeError(f"{op}: {name} must hold lengths of at least 1, one of them -1 perhaps, got {n}: {found}")
    if found.count(-1) > 1:
        raise ShapeError(f"{op}: {name} may hold one -1, got {found.count(-1)}: {found}")
    return found


def resolved(op: str, name: str, value: Any, count: int, what: str) -> Ints:
    """The lengths without -1; ShapeError unless they hold `count` elements."""
    found = lengths(op, name, value)
    known = math.prod(n for n in found if n != -1)
    if -1 in found and not count % known:
        found = tuple(count // known if n == -1 else n for n in found)
    if math.prod(found) != count:
        raise ShapeError(f"{op}: {name} must hold the {count} {what}, got {found}")
    return found


def prepare(op: str, x: Any, shape: Any) -> tuple[np.ndarray, Shapes]:
    (x,) = as_floats(op, x=x)
    if x.ndim < 1:
        raise ShapeError(f"{op}: x must have at least 1 axis (N), got a single number of shape {x.shape}")
    what = f"elements of a sample, the batch axis apart: x has shape {x.shape}"
    found = resolved(op, "shape", shape, math.prod(x.shape[1:]), what)
    return x, shapes_of(x, bounded(op, "shape", (len(x), *found)))


def prepare_unflatten(op: str, x: Any, dim: Any, sizes: Any) -> tuple[np.ndarray, Shapes]:
    (x,) = as_floats(op, x=x)
    check_unflatten(dim, sizes)
    axis = axis_of(op, x, dim)
    if not axis:
        raise ShapeError(f"{op}: dim must not be the batch axis, got {dim} for shape {x.shape}")
    found = resolved(op, "sizes", sizes, x.shape[axis], f"elements along axis {axis}: x has shape {x.shape}")
    return x, shapes_of(x, bounded(op, "sizes", (*x.shape[:axis], *found, *x.shape[axis + 1 :])))


def bounded(op: str, name: str, shape: Ints) -> Ints:
    if len(shape) > MOST_AXES:
        raise ShapeError(f"{op}: {name} must lead to at most {MOST_AXES} axes, got {len(shape)}")
    return shape


def check_reshape(shape: Any) -> None:
    bounded("reshape", "shape", (1, *lengths("reshape", "shape", shape)))


def check_unflatten(dim: Any, sizes: Any) -> None:
    if integer("unflatten", "dim", dim) == 0:
        raise ShapeError("unflatten: dim must not be the batch axis, got 0")
    if not bounded("unflatten", "sizes", lengths("unflatten", "sizes", sizes)):
        raise ShapeError("unflatten: sizes must hold at least one length, got none")


# --- reference -------------------------------------------------------------------------------------------------------


def in_order(x: np.ndarray, shape: Ints) -> np.ndarray:
    """The elements of x, one after the other, in another shape."""
    y = np.zeros(math.prod(shape), x.dtype)
    for place, index in enumerate(np.ndindex(x.shape)):
        y[place] = x[index]
    return y.reshape(shape)


def flatten_reference(x: Any) -> tuple[np.ndarray, Shapes]:
    x, shapes = prepare("flatten", x, -1)
    return in_order(x, shapes.y), shapes


def reshape_reference(x: Any, shape: Any) -> tuple[np.ndarray, Shapes]:
    x, shapes = prepare("reshape", x, shape)
    return in_order(x, shapes.y), shapes


def unflatten_reference(x: Any, dim: int, sizes: Any) -> tuple[np.ndarray, Shapes]:
    x, shapes = prepare_unflatten("unflatten", x, dim, sizes)
    return in_order(x, shapes.y), shapes


def reference_backward(dy: np.ndarray, shapes: Shapes) -> np.ndarray:
    return in_order(dy, shapes.x)


# --- fast: a copy in logical order -----------------------------------------------------------------------------------

plan = memoised("x")(lambda op, x, shape: prepare(op, x, shape)[1])
plan_unflatten = memoised("x")(lambda op, x, dim, sizes: prepare_unflatten(op, x, dim, sizes)[1])


def reshaped(op: str, x: np.ndarray, shape: Ints, last: bool) -> np.ndarray:
    """x in another shape, in memory of its own: channels-last or in C order."""
    y = contiguous(op, x).reshape(shape)
    if last:
        return logical(copied(op, y.transpose(CHANNELS_LAST[y.ndim])))
    return copied(op, y) if np.may_share_memory(y, x) else y


def flatten(x: Any) -> tuple[np.ndarray, Shapes]:
    x, shapes = plan("flatten", x, -1)
    return reshaped("flatten", x, shapes.y, shapes.y_last), shapes


def reshape(x: Any, shape: Any) -> tuple[np.ndarray, Shapes]:
    x, shapes = plan("reshape", x, shape)
    return reshaped("reshape", x, shapes.y, shapes.y_last), shapes


def unflatten(x: Any, dim: int, sizes: Any) -> tuple[np.ndarray, Shapes]:
    x, shapes = plan_unflatten("unflatten", x, dim, sizes)
    return reshaped("unflatten", x, shapes.y, shapes.y_last), shapes


def backward(op: str, dy: np.ndarray, shapes: Shapes) -> np.ndarray:
    return reshaped(op, dy, shapes.x, shapes.x_last)


add(
    "flatten",
    forward=flatten,
    backward=gradient_to_x(partial(backward, "flatten")),
    reference=flatten_reference,
    reference_backward=gradient_to_x(reference_backward),
)
add(
    "reshape",
    forward=reshape,
    backward=gradient_to_x(partial(backward, "reshape")),
    reference=reshape_reference,
    reference_backward=gradient_to_x(reference_backward),
    check=check_reshape,
)
add(
    "unflatten",
    forward=unflatten,
    backward=gradient_to_x(partial(backward, "unflatten")),
    reference=unflatten_reference,
    reference_backward=gradient_to_x(reference_backward),
    check=check_unflatten,
)
