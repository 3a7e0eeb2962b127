"""Transposed convolution: what a convolution's backward does to its gradient, as a forward operation of its own.

    y[n, k, i] = b[k] + sum over c, t, o with o * stride - before + t * dilation = i of x[n, c, o] * w[c, k, t]

    x   (N, C, *spatial)
    w   (C, K / groups, *kernel)     as a convolution's from K to C channels
    b   (K,) or None
    y   (N, K, *output)              output = (n - 1) * stride - before - after + dilation * (kernel - 1) + 1
                                              + output_padding

Hence with that convolution: y is its gradient to the input for dy = x, dx is its forward on dy, dw its gradient to the
weights with x and dy in each other's place (torch.nn.functional.conv_transpose2d; ONNX ConvTranspose; chapter,
"upsampling layers").
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv import engine
from fastconv.arrays import as_floats, channel_sums, channels_last, logical, memoised, need_array, need_shape
from fastconv.errors import ShapeError
from fastconv.machine.memory import UNCHECKED, allocate, require, require_array
from fastconv.ops.conv import AXES, Ints
from fastconv.ops.naive import planes, windows
from fastconv.ops.registry import add
from fastconv.window import Window, integers, pairs

# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    window: Window  # of the convolution from y to x
    groups: int
    output: Ints


def prepare(
    op: str, x: Any, w: Any, b: Any, stride: Any, padding: Any, output_padding: Any, output_size: Any, dilation: Any,
    groups: Any,
) -> Arguments:  # fmt: skip
    x, w, b = as_floats(op, x=x, w=w, b=b)
    shapes = x.shape, need_array(op, "w", w).shape, None if b is None else b.shape
    window, groups, output = rule(op, *shapes, stride, padding, output_padding, output_size, dilation, groups)
    require_array(op, (x.shape[0], w.shape[1] * groups, *output), x.itemsize)
    return Arguments(x, w, b, window, groups, output)


def rule(
    op: str, x: Ints, w: Ints, b: Ints | None, stride: Any, padding: Any, output_padding: Any, output_size: Any,
    dilation: Any, groups: Any,
) -> tuple[Window, int, Ints]:  # fmt: skip
    """The window of the convolution from y to x, the groups and y's spatial shape, of the shapes of x, w and b."""
    ndim = int(op[-2])
    need_shape(op, "x", x, f"N C {AXES[ndim - 1]}")
    need_shape(op, "w", w, f"C K/groups {AXES[ndim - 1]}")
    window, groups, output = sliding(op, x, w, stride, padding, output_padding, output_size, dilation, groups)
    filters = w[1] * groups
    if b is not None and b != (filters,):
        raise ShapeError(f"{op}: b must have one entry per filter, shape ({filters},), got {b}")
    return window, groups, output


def check(
    op: str, w: Ints, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> None:  # fmt: skip
    """Raise what `prepare` raises for any x, of the shape of w."""
    spatial = [1 + before + after for before, after in pairs(op, "padding", padding, len(w) - 2)]  # some is left
    sliding(op, (1, w[0], *spatial), w, stride, padding, output_padding, None, dilation, groups)


def sliding(
    op: str, x: Ints, w: Ints, stride: Any, padding: Any, output_padding: Any, output_size: Any,
    dilation: Any, groups: Any,
) -> tuple[Window, int, Ints]:  # fmt: skip
    """The window of the convolution from y to x, the groups and y's spatial shape, of the shapes of x and w."""
    ndim = len(x) - 2
    (groups,) = integers(op, "groups", groups, 1, 1)
    if w[0] != x[1]:
        raise ShapeError(f"{op}: w must have as many channels as x on its first axis, got w {w} and x {x}")
    if x[1] % groups:
        raise ShapeError(f"{op}: groups must divide the channels of x, got {groups} for {x[1]}")
    kernel = w[2:]
    strides = integers(op, "stride", stride, ndim, 1)
    dilations = integers(op, "dilation", dilation, ndim, 1)
    around = pairs(op, "padding", padding, ndim)
    smallest = [
        (n - 1) * s - before - after + d * (k - 1) + 1
        for n, s, (before, after), d, k in zip(x[2:], strides, around, dilations, kernel, strict=True)
    ]
    extra = _extra(op, output_padding, output_size, smallest, strides, dilations)
    output = tuple(m + e for m, e in zip(smallest, extra, strict=True))
    if min(output) < 1:
        raise ShapeError(f"{op}: the output must have at least one element along each axis, got {output}")
    window = Window(kernel, strides, around, dilations, (1,) * ndim)
    return window.tight(op, x[2:]), groups, output


def _extra(
    op: str, output_padding: Any, output_size: Any, smallest: list[int], strides: Ints,
    dilations: Ints,
) -> Ints:  # fmt: skip
    """Output elements after the last that the padding rule gives: several sizes convolve to the same one."""
    if output_size is not None:
        sizes = integers(op, "output_size", output_size, len(smallest), 1)
        extra = tuple(size - m for size, m in zip(sizes, smallest, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, strides, strict=True)):
            largest = [m + s - 1 for m, s in zip(smallest, strides, strict=True)]
            raise ShapeError(f"{op}: output_size must lie between {smallest} and {largest}, got {list(sizes)}")
        return extra
    extra = integers(op, "output_padding", output_padding, len(smallest), 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise ShapeError(
            f"{op}: output_padding must be smaller than stride or dilation, got {extra} for {strides} and {dilations}"
        )
    return extra


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    op: str, x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    output_size: Any = None, dilation: Any = 1, groups: int = 1,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare(op, x, w, b, stride, padding, output_padding, output_size, dilation, groups)
    taps = windows(a.window, a.output, a.x.shape[2:])  # per position of x: the (y index, tap index) pairs it reaches
    channels, per_group = a.w.shape[0], a.w.shape[1]
    xs, ws = planes(a.x), planes(a.w)
    bias = np.zeros(per_group * a.groups) if a.b is None else a.b
    ys = [[[float(value)] * math.prod(a.output) for value in bias] for _ in xs]
    for x_image, y_image in zip(xs, ys, strict=True):
        for c in range(channels):
            first = c // (channels // a.groups) * per_group
            for value, reached in zip(x_image[c], taps, strict=True):
                for k in range(per_group):
                    plane, weights = y_image[first + k], ws[c][k]
                    for i, t in reached:
                        plane[i] += value * weights[t]
    return np.array(ys, a.x.dtype).reshape(a.x.shape[0], per_group * a.groups, *a.output), (a, taps)


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    a, taps = saved
    channels, per_group = a.w.shape[0], a.w.shape[1]
    xs, ws, dys = planes(a.x), planes(a.w), planes(dy)
    dxs, dws = planes(np.zeros(a.x.shape)), planes(np.zeros(a.w.shape))
    for x_image, dx_image, dy_image in zip(xs, dxs, dys, strict=True):
        for c in range(channels):
            first = c // (channels // a.groups) * per_group
            for o, reached in enumerate(taps):
                for k in range(per_group):
                    dplane, weights, dweights = dy_image[first + k], ws[c][k], dws[c][k]
                    for i, t in reached:
                        dx_image[c][o] += dplane[i] * weights[t]
                        dweights[t] += dplane[i] * x_image[c][o]
    dx = np.array(dxs, a.x.dtype).reshape(a.x.shape)
    dw = np.array(dws, a.x.dtype).reshape(a.w.shape)
    db = [sum(itertools.chain.from_iterable(image[k] for image in dys)) for k in range(dy.shape[1])]
    return dx, dw, None if a.b is None else np.array(db, a.x.dtype)


# --- fast: the convolution from y to x, run backwards ----------------------------------------------------------------


class Call(NamedTuple):
    """What the layout of the arrays and the options decide; shapes are channels last, the first three lifted."""

    x_shape: Ints  # (N, i0, i1, i2, C)
    w_shape: Ints  # (C, r0, r1, r2, K / groups)
    y_shape: Ints  # (N, o0, o1, o2, K)
    input: Ints  # (N, *spatial, C)
    weights: Ints  # (C, *kernel, K / groups)
    output: Ints  # (N, *output, K)
    nbytes: int  # of y
    has_bias: bool
    convolution: engine.Convolution  # from y to x


@memoised("x", "w", "b")
def plan(
    op: str, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Any, padding: Any, output_padding: Any,
    output_size: Any, dilation: Any, groups: Any, precision: str,
) -> Call:  # fmt: skip
    shapes = x.shape, need_array(op, "w", w).shape, None if b is None else b.shape
    window, groups, output = rule(op, *shapes, stride, padding, output_padding, output_size, dilation, groups)
    ones, filters = (1,) * (3 - len(output)), w.shape[1] * groups
    batch, channels, *spatial = x.shape
    _, per_group, *kernel = w.shape
    inputs, outputs = (*ones, *spatial), (*ones, *output)
    problem = engine.Problem(batch, filters, outputs, channels, inputs, window.lift(), groups, x.dtype)
    return Call(
        problem.y_shape, problem.w_shape, problem.x_shape, (batch, *spatial, channels), (channels, *kernel, per_group),
        (batch, *output, filters), x.itemsize * math.prod((batch or 1, filters, *output)), b is not None,
        engine.Convolution(problem, engine.Policy("auto", precision == "strict")),
    )  # fmt: skip


Saved = tuple[np.ndarray, np.ndarray, Call]  # x, w as the call has them


def forward(
    op: str, x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    output_size: Any = None, dilation: Any = 1, groups: int = 1,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    x, w, b, call = plan(
        op, x, w, b, stride, padding, output_padding, output_size, dilation, groups, engine.get_precision()
    )  # fmt: skip
    if call.nbytes > UNCHECKED:
        require(op, call.nbytes)
    x_last, w_last = channels_last(op, x).reshape(call.x_shape), channels_last(op, w).reshape(call.w_shape)
    bias = b if b is None or b.flags.c_contiguous else np.ascontiguousarray(b)
    y = call.convolution.gradient_input(op, x_last, w_last, bias)
    return logical(y.reshape(call.output)), (x_last, w_last, call)


def backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    x, w, call = saved
    dy_last = channels_last(op, dy).reshape(call.y_shape)
    dx = dw = db = None
    if needs[0]:
        dx = allocate(op, call.x_shape, x.dtype)
        call.convolution.forward(op, dy_last, w, None, dx)
        dx = logical(dx.reshape(call.input))
    if needs[1]:
        dw = call.convolution.gradient_weights(op, dy_last, x)
        dw = logical(dw.reshape(call.weights))
    if call.has_bias and needs[2]:
        db = channel_sums(dy_last)
    return dx, dw, db


for _name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
    add(
        _name,
        forward=partial(forward, _name),
        backward=partial(backward, _name),
        reference=partial(reference, _name),
        reference_backward=reference_backward,
    )
