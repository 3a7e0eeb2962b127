"""What the elementwise, row and channel operations share: options, order in memory, the cut of channels-last rows."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv.arrays import CHANNELS_LAST, contiguous, copied, memoised
from fastconv.errors import ShapeError, integer
from fastconv.machine.memory import allocate

__all__ = [
    "Layout",
    "Order",
    "Rows",
    "as_rows",
    "axis_of",
    "from_rows",
    "in_memory_order",
    "is_channels_last",
    "layout_of",
    "need_channels",
    "need_entries",
    "number",
    "ordered",
    "restored",
]

# --- options ---------------------------------------------------------------------------------------------------------


def number(op: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` (any real number, 0-d arrays too) as a float between `low` and `high`, both allowed."""
    if type(value) is float and low <= value <= high:
        return value
    try:
        if type(value) is not float and (isinstance(value, str | bytes) or np.ndim(value) or np.iscomplexobj(value)):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{op}: {name} must be a number, got {value!r}") from None
    if math.isnan(result):
        raise ValueError(f"{op}: {name} must be a number, got nan")
    if not low <= result <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{op}: {name} must be {bounds}, got {result:g}")
    return result


def axis_of(op: str, x: np.ndarray, dim: Any) -> int:
    """`dim`, an axis of x, counted from the front."""
    axis = integer(op, "dim", dim)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"{op}: dim must be an axis of x, got {axis} for shape {x.shape}")
    return axis % x.ndim


def need_channels(op: str, x: np.ndarray, minimum: int = 2) -> int:
    """The channels of x (N, C, *spatial); ShapeError for fewer axes than `minimum` or an empty one behind N."""
    if x.ndim < minimum:
        axes = "N C" if minimum == 2 else "N C and spatial ones"
        raise ShapeError(f"{op}: x must have at least {minimum} axes ({axes}), got {x.ndim}: shape {x.shape}")
    if 0 in x.shape[1:]:
        raise ShapeError(f"{op}: x must not be empty along any axis but N, got shape {x.shape}")
    return int(x.shape[1])


def need_entries(op: str, what: str, shape: tuple[int, ...], **arrays: np.ndarray | None) -> None:
    """Raise ShapeError for an array that has not one entry per `what`, shape `shape`."""
    for name, array in arrays.items():
        if array is not None and array.shape != shape:
            raise ShapeError(f"{op}: {name} must have one entry per {what}, shape {shape}, got {array.shape}")


# --- order in memory -------------------------------------------------------------------------------------------------

Order = tuple[int, ...] | None  # the axes as they lie in memory; None: as they are counted


def is_channels_last(x: np.ndarray) -> bool:
    """Whether x lies in memory without gaps, its channels last, and not in C order as well."""
    return x.ndim > 2 and not x.flags.c_contiguous and bool(x.transpose(CHANNELS_LAST[x.ndim]).flags.c_contiguous)


class Layout(NamedTuple):
    """How an array lies in memory."""

    order: Order
    back: Order  # of the axes in `order`, to count them as the array does
    shape: tuple[int, ...]  # in `order`
    is_dense: bool  # else there are gaps, and a copy in C order is meant


@memoised("x")
def layout_of(op: str, x: np.ndarray) -> Layout:
    if x.flags.c_contiguous:
        return Layout(None, None, x.shape, True)
    for order in (CHANNELS_LAST[x.ndim], tuple(sorted(range(x.ndim), key=lambda axis: -x.strides[axis]))):
        moved = x.transpose(order)
        if moved.flags.c_contiguous:
            return Layout(order, tuple(order.index(axis) for axis in range(x.ndim)), moved.shape, True)
    return Layout(None, None, x.shape, False)


def in_memory_order(op: str, x: np.ndarray) -> tuple[np.ndarray, Order]:
    """x with its axes in memory order, C-contiguous, and that order; copied, to C order, where memory has gaps."""
    x, lies = layout_of(op, x)
    if not lies.is_dense:
        return copied(op, x), None
    return x if lies.order is None else x.transpose(lies.order), lies.order


def ordered(op: str, x: np.ndarray, order: Order) -> np.ndarray:
    """x with its axes in `order`, C-contiguous; no copy where memory already lies so."""
    return contiguous(op, x if order is None else x.transpose(order))


def restored(moved: np.ndarray, order: Order) -> np.ndarray:
    """The array that `ordered` moved, its axes as they are counted; no copy."""
    if order is None:
        return moved
    return moved.transpose([order.index(axis) for axis in range(len(order))])


def as_rows(op: str, x: np.ndarray, axis: int) -> np.ndarray:
    """x (..., n, ...) as (rows, n), C-contiguous."""
    if axis != x.ndim - 1:
        x = x.transpose(*range(axis), *range(axis + 1, x.ndim), axis)
    return contiguous(op, x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def from_rows(table: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The inverse of `as_rows` for an x of shape `shape`; no copy."""
    n = len(shape)
    if axis == n - 1:
        return table.reshape(shape)
    last = table.reshape(*shape[:axis], *shape[axis + 1 :], shape[axis])
    return last.transpose(*range(axis), n - 1, *range(axis, n - 1))


# --- rows of channels ------------------------------------------------------------------------------------------------

LANES = 16  # narrower rows of channels are joined to this many lanes
BLOCK = 1 << 16  # elements of a block of rows


class Rows(NamedTuple):
    """How (images, pixels, channels) in memory is cut for the kernels that treat every channel by its own coefficients.

    An image's rows of channels are seen as rows of `width` = join * channels elements, and those in blocks.
    """

    images: int
    pixels: int
    channels: int
    join: int
    block_rows: int
    blocks: int

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, images: int, pixels: int, channels: int) -> Rows:
        join = max(1, min(LANES // channels, pixels))
        width = join * channels
        block_rows = max(64, BLOCK // width)
        return cls(images, pixels, channels, join, block_rows, -(-pixels * channels // (block_rows * width)))

    def table(self, last: np.ndarray) -> np.ndarray:
        """A C-contiguous array of these elements as (images, elements of one); no copy."""
        return last.reshape(self.images, self.pixels * self.channels)

    def widen(self, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """(..., channels) as (..., width)."""
        values = values.astype(dtype, copy=False)
        return np.tile(values, self.join) if self.join > 1 else values

    def coefficients(self, count: int, dtype: np.dtype) -> np.ndarray:
        """Room for `count` coefficients of every column."""
        return np.empty((count, self.images, self.join * self.channels), dtype)

    def sums(self, op: str, count: int) -> np.ndarray:
        """Room for `count` sums of every column of every block."""
        return allocate(op, (self.images, self.blocks, count, self.join * self.channels), np.dtype(np.float64))

    def add_up(self, sums: np.ndarray) -> np.ndarray:
        """The sums (count, images, channels) of all blocks and joined rows, added in order."""
        total = sums.sum(axis=1) if self.blocks != 1 else sums[:, 0]
        if self.join > 1:
            total = total.reshape(self.images, -1, self.join, self.channels).sum(axis=2)
        return total.swapaxes(0, 1)
