"""The locally-connected layer's arithmetic: convolution without weight sharing, every output position has its filters.

    y[n, k, o] = b[k, o] + sum over c, t of x[n, c, o * stride - before + t * dilation] * w[k, c, t, o]

    x   (N, C, H, W)
    w   (K, C, R, S, H', W')    convolution's weights at each position: w[..., i, j] are those of output (i, j)
    b   (K, H', W') or None
    y   (N, K, H', W')          (H', W'): window.Window.output

Fast: channels-last, a tap's row of a window is one run of memory in every image. Each position's product (images times
filters) is summed over the rows of its window, straight from the input: no columns are written.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext.conv import locally_connected as kernels
from fastconv.arrays import as_floats, channels_last, logical, need_axes
from fastconv.errors import ShapeError
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import allocate, require
from fastconv.machine.threads import threads_for
from fastconv.ops.naive import planes, windows
from fastconv.ops.registry import Gradients, add
from fastconv.window import Window, fitting

OP = "locally_connected2d"


# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    window: Window
    output: tuple[int, ...]


def prepare(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any) -> Arguments:
    x, w, b = as_floats(OP, x=x, w=w, b=b)
    need_axes(OP, "x", x, "N C H W")
    need_axes(OP, "w", w, "K C R S H' W'")
    if w.shape[1] != x.shape[1]:
        raise ShapeError(f"{OP}: w must have as many channels as x, got w {w.shape} and x {x.shape}")
    window = Window.parse(OP, x.shape[2:], w.shape[2:4], stride, padding, dilation, rational=False)
    output = window.output(x.shape[2:])
    if w.shape[4:] != output:
        raise ShapeError(
            f"{OP}: w must have filters for every output position, {output} with x {x.shape}, got {w.shape[4:]}: "
            f"w {w.shape}"
        )
    if b is not None and b.shape != (w.shape[0], *output):
        raise ShapeError(
            f"{OP}: b must have one entry per filter and position, shape {(w.shape[0], *output)}, got {b.shape}"
        )
    image, result = (
        x.shape[1] * math.prod(axis.length for axis in axes_of(window, x.shape[2:], output)),
        w.shape[0] * math.prod(output),
    )
    require(OP, x.itemsize * x.shape[0] * (image + result))
    return Arguments(x, w, b, window.tight(OP, output), output)


def check(kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any) -> None:
    """Raise what `prepare` raises for any x, of the kernel of w."""
    spatial = fitting(OP, 2, kernel, stride, dilation, rational=False)
    Window.parse(OP, spatial, kernel, stride, padding, dilation, rational=False)


class Axis(NamedTuple):
    """How the kernels see an axis of x: with the padding's zeros around it; or, where that is longer than what all
    windows see, window after window."""

    length: int
    stride: int
    dilation: int
    inside: slice | np.ndarray  # where elements of x lie
    source: slice | np.ndarray  # and which


def axes_of(window: Window, spatial: tuple[int, ...], output: tuple[int, ...]) -> list[Axis]:
    return [_axis(window, axis, n, m) for axis, (n, m) in enumerate(zip(spatial, output, strict=True))]


def _axis(window: Window, axis: int, n: int, m: int) -> Axis:
    (before, after), taps = window.padding[axis], window.kernel[axis]
    stride, dilation = window.stride[axis], window.dilation[axis]
    if n + before + after <= m * taps:
        return Axis(n + before + after, stride, dilation, slice(before, before + n), slice(None))
    at = (np.arange(m)[:, None] * stride - before + np.arange(taps) * dilation).reshape(-1)
    inside = np.flatnonzero((at >= 0) & (at < n))
    return Axis(m * taps, taps, 1, inside, at[inside])


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> tuple[np.ndarray, Any]:
    a = prepare(x, w, b, stride, padding, dilation)
    taps = windows(a.window, a.x.shape[2:], a.output)
    (batch, channels), filters = a.x.shape[:2], a.w.shape[0]
    xs, ws = planes(a.x), positions(a.w)
    bs = [[0.0] * len(taps)] * filters if a.b is None else a.b.reshape(filters, -1).tolist()
    ys = []
    for n in range(batch):
        for k in range(filters):
            for o, inside in enumerate(taps):
                total = bs[k][o]
                for c in range(channels):
                    for i, t in inside:
                        total += xs[n][c][i] * ws[k][c][t][o]
                ys.append(total)
    return np.array(ys, a.x.dtype).reshape(batch, filters, *a.output), (a, taps)


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    a, taps = saved
    (batch, channels), filters = a.x.shape[:2], a.w.shape[0]
    xs, ws, dys = planes(a.x), positions(a.w), planes(dy)
    dxs, dws = planes(np.zeros(a.x.shape)), positions(np.zeros(a.w.shape))
    dbs = [[0.0] * len(taps) for _ in range(filters)]
    for n in range(batch):
        for k in range(filters):
            for o, inside in enumerate(taps):
                d = dys[n][k][o]
                dbs[k][o] += d
                for c in range(channels):
                    for i, t in inside:
                        dxs[n][c][i] += d * ws[k][c][t][o]
                        dws[k][c][t][o] += d * xs[n][c][i]
    dx = np.array(dxs, a.x.dtype).reshape(a.x.shape)
    dw = np.array(dws, a.x.dtype).reshape(a.w.shape)
    return dx, dw, None if a.b is None else np.array(dbs, a.x.dtype).reshape(a.b.shape)


def positions(w: np.ndarray) -> list[list[list[list[float]]]]:
    """(K, C, R, S, H', W') as nested lists: filter, channel, tap, position."""
    filters, channels, r, s, height, width = w.shape
    lists: list[list[list[list[float]]]] = w.reshape(filters, channels, r * s, height * width).tolist()
    return lists


# --- fast: for each position and row of its window one BLAS call -----------------------------------------------------


class Saved(NamedTuple):
    x: np.ndarray  # (N, H, W, C), as `axes` say
    w: np.ndarray  # (H', W', K, R, S, C)
    axes: list[Axis]
    window: Window
    x_shape: tuple[int, ...]
    has_bias: bool


def forward(
    x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> tuple[np.ndarray, Saved]:
    x, w, b, window, output = prepare(x, w, b, stride, padding, dilation)
    axes = axes_of(window, x.shape[2:], output)
    x_last = laid_out(x, axes)
    w_last = np.array(w.transpose(4, 5, 0, 2, 3, 1), order="C")
    leave_padding_out(w_last, x.shape[2:], window)
    y = allocate(OP, (x.shape[0], *output, w.shape[0]), x.dtype)
    y[...] = 0 if b is None else b.transpose(1, 2, 0)
    if y.size:
        with blas_held:
            kernels.forward(x_last, w_last, y, *steps(axes), threads(w, len(x)))
    return logical(y), Saved(x_last, w_last, axes, window, x.shape, b is not None)


def backward(dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    x, w, axes, window, x_shape, has_bias = saved
    dy_last = channels_last(OP, dy)  # (N, H', W', K)
    (stride, dilation), count = steps(axes), threads(w, len(x))
    dx = dw = db = None
    if needs[0]:
        around = allocate(OP, x.shape, x.dtype)
        around[...] = 0
        if dy.size:
            with blas_held:
                kernels.gradient_input(dy_last, w, around, stride, dilation, count)
        dx = logical(sent_back(around, axes, x_shape))
    if needs[1]:
        dw_last = allocate(OP, w.shape, w.dtype)
        if dy.size:
            with blas_held:
                kernels.gradient_weights(dy_last, x, dw_last, stride, dilation, count)
            leave_padding_out(dw_last, x_shape[2:], window)
        else:
            dw_last[...] = 0
        dw = dw_last.transpose(2, 5, 3, 4, 0, 1)
    if has_bias and needs[2]:
        db = dy_last.sum(axis=0).transpose(2, 0, 1)
    return dx, dw, db


def steps(axes: list[Axis]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations."""
    return tuple(axis.stride for axis in axes), tuple(axis.dilation for axis in axes)


def laid_out(x: np.ndarray, axes: list[Axis]) -> np.ndarray:
    """x channels-last, (N, H, W, C), as the axes say."""
    last = channels_last(OP, x)
    (rows, columns), lengths = axes, [axis.length for axis in axes]
    if tuple(lengths) == x.shape[2:] and all(isinstance(axis.source, slice) for axis in axes):
        return last
    middle = allocate(OP, (len(x), lengths[0], *last.shape[2:]), x.dtype)
    middle[...] = 0
    middle[:, rows.inside] = last[:, rows.source]
    result = allocate(OP, (len(x), *lengths, x.shape[1]), x.dtype)
    result[...] = 0
    result[:, :, columns.inside] = middle[:, :, columns.source]
    return result


def sent_back(around: np.ndarray, axes: list[Axis], x_shape: tuple[int, ...]) -> np.ndarray:
    """The adjoint of `laid_out`; where windows overlap, what they send is added in order."""
    n, c, height, width = x_shape
    rows, columns = axes
    middle = _added(around, columns, (n, around.shape[1], width, c), 2)
    return _added(middle, rows, (n, height, width, c), 1)


def _added(array: np.ndarray, axis: Axis, shape: tuple[int, ...], at: int) -> np.ndarray:
    front: Any = (slice(None),) * at
    if isinstance(axis.source, slice):
        return np.ascontiguousarray(array[(*front, axis.inside)])
    total = allocate(OP, shape, array.dtype)
    total[...] = 0
    np.add.at(total, (*front, axis.source), array[(*front, axis.inside)])
    return total


def leave_padding_out(w: np.ndarray, spatial: tuple[int, ...], window: Window) -> None:
    """Zeros for the weights (H', W', K, R, S, C) of taps in the padding: 0 * inf and 0 * nan are nan."""
    for axis, n in enumerate(spatial):
        (before, after), stride, dilation = window.padding[axis], window.stride[axis], window.dilation[axis]
        if before or after:
            by_position = np.moveaxis(w, (axis, 3 + axis), (0, 1))
            for o, t in itertools.product(range(w.shape[axis]), range(window.kernel[axis])):
                if not 0 <= o * stride - before + t * dilation < n:
                    by_position[o, t] = 0


def threads(w: np.ndarray, batch: int) -> int:
    return threads_for(w.size * batch // 4)


add(OP, forward, backward, reference, reference_backward)
