"""Unpooling of maxima over one, two or three spatial axes: every value back to where it was found, zeros elsewhere.

    y[n, c, indices[n, c, o]] = x[n, c, o]      the last in C order where an index occurs more than once

    x, indices   (N, C, *spatial)     indices flat in y's planes, as max_pool returns them
    y            (N, C, *output)      output: (n - 1) * stride - before - after + kernel_size, or output_size

Source: torch.nn.functional.max_unpool2d; the gradient, as PyTorch's, is dy at the indices.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv._ext.pool import pooling
from fastconv.arrays import as_array, channels_last, logical
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate, require_array
from fastconv.machine.threads import threads_for
from fastconv.ops.spatial import Ints, add_each, planes, prepare_input
from fastconv.window import integers, pairs

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(
    op: str, x: Any, indices: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> tuple[np.ndarray, np.ndarray, Ints]:
    x = prepare_input(op, x, int(op[-2]))
    indices = as_array(op, "indices", indices)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{op}: indices must be integers, got {indices.dtype}")
    if indices.shape != x.shape:
        raise ShapeError(f"{op}: indices must have the shape of x, got {indices.shape} for x {x.shape}")
    axes = x.ndim - 2
    kernel = integers(op, "kernel_size", kernel_size, axes, 1)
    strides = kernel if stride is None else integers(op, "stride", stride, axes, 1)
    around = pairs(op, "padding", padding, axes)
    output = tuple(
        (n - 1) * s - before - after + k
        for n, k, s, (before, after) in zip(x.shape[2:], kernel, strides, around, strict=True)
    )
    if output_size is not None:
        wanted = integers(op, "output_size", output_size, axes, 1)
        for axis, (m, default, s) in enumerate(zip(wanted, output, strides, strict=True)):
            if not default - s < m < default + s:
                raise ShapeError(
                    f"{op}: output_size must lie within less than a stride of the default: on spatial axis {axis} "
                    f"between {max(1, default - s + 1)} and {default + s - 1}, got {m}"
                )
        output = wanted
    if min(output) < 1:
        raise ShapeError(f"{op}: the output would be empty: padding takes away all of {output}")
    size = math.prod(output)
    require_array(op, (*x.shape[:2], *output), x.itemsize)
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise ShapeError(
            f"{op}: indices must lie in the output's planes of {size} elements, got {indices.min()} to {indices.max()}"
        )
    return x, indices, output


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    op: str, x: Any, indices: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> tuple[np.ndarray, Any]:
    x, indices, output = prepare(op, x, indices, kernel_size, stride, padding, output_size)
    ys = planes(np.zeros((*x.shape[:2], *output)))
    for y, plane, where in zip(ys, planes(x), planes(indices), strict=True):
        for value, i in zip(plane, where, strict=True):
            y[int(i)] = value
    return np.array(ys, x.dtype).reshape(*x.shape[:2], *output), (x.shape, indices)


def reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    x_shape, indices = saved
    dxs = [[plane[int(i)] for i in where] for plane, where in zip(planes(dy), planes(indices), strict=True)]
    return np.array(dxs, dy.dtype).reshape(x_shape)


# --- fast ------------------------------------------------------------------------------------------------------------


def forward(
    op: str, x: Any, indices: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    x, indices, output = prepare(op, x, indices, kernel_size, stride, padding, output_size)
    where = rows(op, indices)  # a copy: the caller may change theirs
    y_last = allocate(op, (x.shape[0], *output, x.shape[1]), x.dtype)
    if y_last.size:
        n, c = x.shape[:2]
        threads = threads_for(y_last.nbytes + 2 * where.nbytes)
        pooling.unpool(channels_last(op, x).reshape(n, -1, c), where, y_last.reshape(n, -1, c), threads)
    return logical(y_last), where.reshape(x.shape[0], *x.shape[2:], x.shape[1])


def backward(op: str, dy: np.ndarray, where: np.ndarray) -> np.ndarray:
    dx_last = allocate(op, where.shape, dy.dtype)
    if dx_last.size:
        n, c = dy.shape[:2]
        threads = threads_for(3 * where.nbytes)
        pooling.unpool_backward(
            channels_last(op, dy).reshape(n, -1, c), where.reshape(n, -1, c), dx_last.reshape(n, -1, c), threads
        )
    return logical(dx_last)


def rows(op: str, indices: np.ndarray) -> np.ndarray:
    """(N, C, *spatial) copied to (N, pixels, C) int64."""
    n, c = indices.shape[:2]
    moved = indices.transpose(0, *range(2, indices.ndim), 1)
    last = allocate(op, moved.shape, np.dtype(np.int64))
    np.copyto(last, moved, casting="unsafe")
    return last.reshape(n, math.prod(indices.shape[2:]), c)


add_each("max_unpool", forward, backward, reference, reference_backward)
