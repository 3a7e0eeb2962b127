"""The door: what every operation does with the arrays it is given.

Logical order is N, C, then the spatial axes; physical order is channels-last wherever a kernel wants it, carried by the
strides, so that nothing shows outside and a net converts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv._ext import activation, calls, layout, reduce
from fastconv._ext.capture import Kernel
from fastconv.errors import ShapeError
from fastconv.machine.memory import UNCHECKED, allocate, allocate_lasting, require_array
from fastconv.machine.threads import threads_for
from fastconv.window import AXES

__all__ = [
    "CHANNELS_FIRST",
    "CHANNELS_LAST",
    "FLOATS",
    "add_bias",
    "as_array",
    "as_floats",
    "channel_sums",
    "channels_last",
    "contiguous",
    "copied",
    "copied_alike",
    "copy_into",
    "dense",
    "empty_like",
    "flat",
    "lift",
    "like",
    "logical",
    "memoised",
    "need_array",
    "need_axes",
    "need_shape",
    "picked",
    "rectify",
]

MOST_KEPT = 1024  # calls of a function that are kept in mind
SUM_ROWS = 1024  # rows that one partial sum covers
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
LARGE = 1 << 14  # bytes from which the way of copying matters
MOST_AXES = 64  # NumPy's
CHANNELS_LAST = [(0, *range(2, n), 1)[:n] for n in range(MOST_AXES + 1)]  # the axes, by their number
copy_into = Kernel(np.copyto)  # a[...] = b, in a captured pass too (fastconv.plan.capture)
_take = Kernel(np.take)
CHANNELS_FIRST = [(0, n - 1, *range(1, n - 1))[:n] for n in range(MOST_AXES + 1)]  # the other way


def as_floats(op: str, **arrays: Any) -> list[Any]:
    """The arrays as ndarrays of one float type, in the order given (None stays None); names go into the messages.

    float32 and float64 stay; float16, integers and bools become the other arrays' float type, or float32. So do Python
    numbers and lists of them, whatever stands beside them (NEP 50's weak scalars), and NumPy's scalars and 0-d arrays
    where an array with axes has a float type. Raises TypeError for float32 beside float64, for what holds no real
    numbers and for a first array that is None, ShapeError for rows of different lengths, MemoryError for an array whose
    elements would not fit this process's memory (a zero-stride view, say).
    """
    given = list(arrays.values())
    if _ready(given):
        return given
    found: dict[int, dict[np.dtype, str]] = {_AXES: {}, _SCALAR: {}, _WEAK: {}}
    result: list[Any] = []
    for name, value in arrays.items():
        if value is None and not result:
            raise TypeError(f"{op}: {name} must hold real numbers, got None")
        array = None
        if value is not None:
            array = as_array(op, name, value)
            dtype = array.dtype.newbyteorder("=")
            if dtype in FLOATS:
                found[_strength(value)].setdefault(dtype, name)
            elif dtype.kind not in "biu" and dtype != np.float16:
                raise TypeError(f"{op}: {name} must hold real numbers (float32 or float64 best), got {array.dtype}")
            require_array(op, array.shape, max(4, dtype.itemsize))
        result.append(array)
    deciding = found[_AXES] or found[_SCALAR]
    if len(deciding) > 1:
        (first, a), (second, b) = deciding.items()
        raise TypeError(f"{op}: {a} is {first} and {b} is {second}; arrays must share one float type (use astype)")
    dtype = next(iter(deciding), FLOATS[0])
    return [None if array is None else array.astype(dtype, copy=not array.flags.aligned) for array in result]


def memoised(*names: str, most: int = MOST_KEPT) -> Callable[[Callable[..., Any]], Callable[..., tuple[Any, ...]]]:
    """Decorate a function (op, *arrays, *options) whose answer follows from the options and from the layout of the
    arrays (float type, shape, strides): then a call like one seen before is one look-up. `names` are the arrays'.

    What is then called gives (*arrays, answer), the arrays as `as_floats` makes them: the door and the shape rule at
    once. What it raises for a call, every such call raises. At most so many answers are kept, the latest.
    """
    return lambda function: calls.Memoised(function, names, as_floats, most)


_AXES, _SCALAR, _WEAK = range(3)  # whose float type decides: the first's that has one, never the last's


def _strength(value: Any) -> int:
    """Of a list the strongest of what is in it."""
    if isinstance(value, list | tuple):
        return min(map(_strength, value), default=_WEAK)
    if isinstance(value, bool | int | float) and not isinstance(value, np.generic):
        return _WEAK
    return _AXES if np.ndim(value) else _SCALAR


def as_array(op: str, name: str, value: Any) -> np.ndarray:
    """`value` as an ndarray of its own type; ShapeError for rows of different lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        raise ShapeError(f"{op}: {name} must be a rectangular array, got rows of different lengths") from None


def _ready(arrays: list[Any]) -> bool:
    """Whether `as_floats` would change nothing, as far as that is quickly told."""
    first = arrays[0]
    if type(first) is not np.ndarray or first.dtype not in FLOATS:
        return False
    for array in arrays:
        if array is not None and (
            type(array) is not np.ndarray
            or array.dtype is not first.dtype
            or not array.flags.aligned
            or not array.size
            or not (array.nbytes <= UNCHECKED or _is_held(array))
        ):
            return False
    return True


def _is_held(array: np.ndarray) -> bool:
    """Whether memory holds each element once: in C order, Fortran's, or channels last."""
    flags = array.flags
    return flags.forc or (array.ndim > 2 and array.transpose(CHANNELS_LAST[array.ndim]).flags.c_contiguous)


def need_axes(op: str, name: str, array: np.ndarray | None, axes: str) -> None:
    """Raise ShapeError unless `array` has the axes named, e.g. "N C H W"; none but N may have length 0."""
    need_shape(op, name, need_array(op, name, array).shape, axes)


def need_array(op: str, name: str, array: np.ndarray | None) -> np.ndarray:
    """`array`; TypeError where it is None."""
    if array is None:
        raise TypeError(f"{op}: {name} must hold real numbers, got None")
    return array


def need_shape(op: str, name: str, shape: tuple[int, ...], axes: str) -> None:
    """`need_axes` of an array's shape."""
    names = axes.split()
    if len(shape) != len(names):
        raise ShapeError(f"{op}: {name} must have {len(names)} axes ({axes}), got {len(shape)}: shape {shape}")
    for axis, length in zip(names, shape, strict=True):
        if length == 0 and axis != "N":
            raise ShapeError(f"{op}: {name} must not be empty along {axis}, got shape {shape}")


def channels_last(op: str, x: np.ndarray) -> np.ndarray:
    """x (N, C, *spatial) as a C-contiguous array (N, *spatial, C); no copy where memory already lies so."""
    moved = x.transpose(CHANNELS_LAST[x.ndim])
    if moved.flags.c_contiguous:
        return moved
    last = allocate(op, moved.shape, x.dtype)
    if x.flags.c_contiguous and x.size:
        channels = x.shape[1]
        layout.swap_axes(x, last, channels, x.size // (x.shape[0] * channels), threads_for(2 * x.nbytes))
    else:
        copy_into(last, moved)
    return last


def contiguous(op: str, x: np.ndarray) -> np.ndarray:
    """x in C order; no copy where it already is."""
    return x if x.flags.c_contiguous else copied(op, x)


def copied(op: str, x: np.ndarray) -> np.ndarray:
    """A copy of x in C order, by the fast change of layout where its axes lie in memory as 0, k, …, 1, …, k - 1."""
    copy = allocate(op, x.shape, x.dtype)
    if x.nbytes >= LARGE and x.flags.c_contiguous:
        layout.copy(x, copy, threads_for(2 * x.nbytes))
        return copy
    if x.nbytes >= LARGE and x.itemsize in (4, 8):
        for k in range(2, x.ndim):
            moved = x.transpose(0, *range(k, x.ndim), *range(1, k))
            if moved.flags.c_contiguous:
                rows, columns = math.prod(x.shape[k:]), math.prod(x.shape[1:k])  # of what is moved
                layout.swap_axes(moved, copy, rows, columns, threads_for(2 * x.nbytes))
                return copy
    copy_into(copy, x)
    return copy


def picked(x: np.ndarray, index: np.ndarray, axis: int = 0) -> np.ndarray:
    """The entries of x along an axis that an index array says, C-contiguous."""
    found = np.empty((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]), x.dtype)
    _take(x, index, axis, found, "clip")  # no buffer: every index is one of x's
    return found


def logical(last: np.ndarray) -> np.ndarray:
    """(N, *spatial, C) seen as (N, C, *spatial); no copy."""
    return last.transpose(CHANNELS_FIRST[last.ndim])


def lift(last: np.ndarray) -> np.ndarray:
    """(N, *spatial, C) seen with three spatial axes, ones in front; no copy."""
    front = AXES + 2 - last.ndim
    return last.reshape(last.shape[0], *(1,) * front, *last.shape[1:])


def _memory_order(x: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(range(x.ndim), key=lambda axis: (-abs(x.strides[axis]), axis)))


def empty_like(op: str, x: np.ndarray, lasts: bool = False) -> np.ndarray:
    """An uninitialised array of x's shape and type in x's memory order, dense; lasts: it stays from step to step."""
    make = allocate_lasting if lasts else allocate
    if x.flags.c_contiguous:
        return make(op, x.shape, x.dtype)
    order = _memory_order(x)
    dense = make(op, [x.shape[axis] for axis in order], x.dtype)
    return dense.transpose(np.argsort(order))


def copied_alike(op: str, x: np.ndarray) -> np.ndarray:
    """A copy of x in x's memory order, dense."""
    copy = empty_like(op, x)
    if x.nbytes >= LARGE and x.strides == copy.strides:
        layout.copy(flat(x), flat(copy), threads_for(2 * x.nbytes))
    else:
        copy_into(copy, x)
    return copy


def like(op: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x with memory laid out as y's (same shape, y dense); no copy where it already is."""
    if x.strides == y.strides or (x.flags.c_contiguous and y.flags.c_contiguous):
        return x
    out = empty_like(op, y)
    copy_into(out, x)
    return out


def flat(x: np.ndarray) -> np.ndarray:
    """A dense array's memory as one axis; no copy."""
    if x.flags.c_contiguous:
        return x.reshape(-1)
    return x.transpose(_memory_order(x)).reshape(-1)


def dense(op: str, x: np.ndarray) -> np.ndarray:
    """x itself where its elements fill one run of memory in some order of the axes, else a C-contiguous copy."""
    if x.flags.c_contiguous or x.transpose(_memory_order(x)).flags.c_contiguous:
        return x
    copy = allocate(op, x.shape, x.dtype)
    copy_into(copy, x)
    return copy


def add_bias(last: np.ndarray, bias: np.ndarray) -> None:
    """Add one number a channel to a C-contiguous array, channels last; the adjoint of `channel_sums`."""
    table = last.reshape(-1, last.shape[-1])
    reduce.add_row(table, contiguous("bias", bias), threads_for(2 * last.nbytes))


def rectify(y: np.ndarray) -> None:
    """relu of a C-contiguous array, in place."""
    activation.activate(activation.ACTIVATIONS["RELU"], y, y, 0.0, 0.0, threads_for(2 * y.nbytes))


def channel_sums(last: np.ndarray) -> np.ndarray:
    """The sum over everything but the last axis of a C-contiguous array, added up in float64, in a fixed order."""
    table = last.reshape(-1, last.shape[-1])
    sums = np.empty((-(-table.shape[0] // SUM_ROWS), table.shape[1]))
    if table.size:
        reduce.column_sums(table, sums, SUM_ROWS, threads_for(table.nbytes))
    total = np.empty(table.shape[1], last.dtype)
    if len(sums) == 1:
        copy_into(total, sums[0])
    else:
        _add_up(sums, total)
    return total


@Kernel
def _add_up(sums: np.ndarray, total: np.ndarray) -> None:
    total[...] = sums.sum(axis=0)
