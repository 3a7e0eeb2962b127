"""Convolution over one, two or three spatial axes (cross-correlation, as in every CNN library).

    y[n, k, o] = b[k] + sum over c, t of x[n, c, o * stride - before + t * dilation] * w[k, c, t]

    x   (N, C, *spatial)
    w   (K, C / groups, *kernel)     filter k sees the channels of its group k // (K / groups)
    b   (K,) or None
    y   (N, K, *output)              output: window.Window.output

A rational stride S2/S1 upsamples x by S1 (S1 - 1 zeros between neighbours) before the convolution with stride S2. The
fast path multiplies none of those zeros: outputs S1 apart see the same taps on input elements, so each of the S1 phases
along an axis is a convolution of x with every so many-th tap and an integer stride. With a stride of 1/S1 it is the
gradient to the input of a convolution with stride S1, and its own gradient to the input is that convolution.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv import engine
from fastconv._ext.capture import refuse
from fastconv.arrays import (
    CHANNELS_LAST,
    as_floats,
    channel_sums,
    channels_last,
    contiguous,
    copied,
    logical,
    memoised,
    need_array,
    need_shape,
    rectify,
)
from fastconv.engine.phases import ONES, Phase, across, phases, put, take
from fastconv.errors import ShapeError, nearest
from fastconv.machine.memory import UNCHECKED, allocate, require, require_array
from fastconv.ops.naive import planes, windows
from fastconv.ops.registry import add
from fastconv.window import Window, fitting, integers

Ints = tuple[int, ...]

AXES = ("L", "H W", "D H W")
CHUNK_BYTES = 1 << 22  # of outputs whose phases are put together while a cache still holds them


# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    window: Window
    groups: int
    output: Ints


def prepare(
    op: str, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any, algorithm: Any
) -> Arguments:
    """Check everything that can be wrong with a call; what comes back is proven to fit."""
    x, w, b = as_floats(op, x=x, w=w, b=b)
    shapes = x.shape, need_array(op, "w", w).shape, None if b is None else b.shape
    window, groups, output = rule(op, *shapes, stride, padding, dilation, groups, algorithm)
    require_array(op, (x.shape[0], w.shape[0], *output), x.itemsize)
    return Arguments(x, w, b, window, groups, output)


def rule(
    op: str, x: Ints, w: Ints, b: Ints | None, stride: Any, padding: Any, dilation: Any, groups: Any, algorithm: Any
) -> tuple[Window, int, Ints]:
    """The window, the groups and the output's spatial shape, of the shapes of x, w and b."""
    ndim = int(op[-2])
    need_shape(op, "x", x, f"N C {AXES[ndim - 1]}")
    need_shape(op, "w", w, f"K C/groups {AXES[ndim - 1]}")
    window, groups, output = sliding(op, x, w, stride, padding, dilation, groups)
    if b is not None and b != w[:1]:
        raise ShapeError(f"{op}: b must have one entry per filter, shape ({w[0]},), got {b}")
    need_algorithm(op, algorithm)
    return window, groups, output


def need_algorithm(op: str, algorithm: Any) -> None:
    if algorithm not in engine.ALGORITHMS:
        names, meant = ", ".join(engine.ALGORITHMS), nearest(algorithm, engine.ALGORITHMS)
        raise ValueError(f"{op}: algorithm must be one of {names}, got {algorithm!r}{meant}")


def check(
    op: str, w: Ints, stride: Any, padding: Any, dilation: Any, groups: int, algorithm: Any
) -> None:  # fmt: skip
    """Raise what `prepare` raises for any x, of the shape of w."""
    need_algorithm(op, algorithm)
    spatial = fitting(op, len(w) - 2, w[2:], stride, dilation)
    sliding(op, (1, w[1] * groups, *spatial), w, stride, padding, dilation, groups)


def sliding(
    op: str, x: Ints, w: Ints, stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Window, int, Ints]:
    """The window, the groups and the output's spatial shape, of the shapes of x and w."""
    (groups,) = integers(op, "groups", groups, 1, 1)
    channels, filters = x[1], w[0]
    if channels % groups or filters % groups:
        raise ShapeError(
            f"{op}: groups must divide the channels of x and the filters, got {groups} for {channels} and {filters}"
        )
    if w[1] * groups != channels:
        raise ShapeError(f"{op}: w must have as many channels as x has per group, got w {w} and x {x}, groups={groups}")
    window = Window.parse(op, x[2:], w[2:], stride, padding, dilation)
    output = window.output(x[2:])
    return window.tight(op, output), groups, output


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    op: str, x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    algorithm: str = "auto",
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare(op, x, w, b, stride, padding, dilation, groups, "auto")
    taps = windows(a.window, a.x.shape[2:], a.output)  # of every output: which element lies under which weight
    xs, ws, bs = planes(a.x), planes(a.w), [0.0] * len(a.w) if a.b is None else a.b.tolist()
    ys = []
    for channels in xs:
        for k, filters in enumerate(ws):
            first = k // (len(ws) // a.groups) * len(filters)  # of its group's channels
            for inside in taps:
                total = bs[k]
                for plane, weights in zip(channels[first : first + len(filters)], filters, strict=True):
                    for i, t in inside:
                        total += plane[i] * weights[t]
                ys.append(total)
    return np.array(ys, a.x.dtype).reshape(len(xs), len(ws), *a.output), (a, taps)


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    a, taps = saved
    batch, filters, per_group = a.x.shape[0], a.w.shape[0], a.w.shape[1]
    xs, ws, dys = planes(a.x), planes(a.w), planes(dy)
    dxs, dws, dbs = planes(np.zeros(a.x.shape)), planes(np.zeros(a.w.shape)), [0.0] * filters
    for n in range(batch):
        for k in range(filters):
            first = k // (filters // a.groups) * per_group
            for d, inside in zip(dys[n][k], taps, strict=True):
                dbs[k] += d
                for c in range(per_group):
                    plane, weights = xs[n][first + c], ws[k][c]
                    dplane, dweights = dxs[n][first + c], dws[k][c]
                    for i, t in inside:
                        dplane[i] += d * weights[t]
                        dweights[t] += d * plane[i]
    dx = np.array(dxs, a.x.dtype).reshape(a.x.shape)
    dw = np.array(dws, a.x.dtype).reshape(a.w.shape)
    return dx, dw, None if a.b is None else np.array(dbs, a.x.dtype)


# --- fast ------------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A phase of the outputs, as a convolution by itself."""

    phase: Phase
    convolution: engine.Convolution
    some: dict[int, engine.Convolution]  # by how many images are taken at a time


class Call(NamedTuple):
    """What the layout of the arrays and the options decide; shapes are channels last, the first three lifted."""

    x_shape: Ints  # (N, i0, i1, i2, C)
    w_shape: Ints  # (K, r0, r1, r2, C / groups)
    y_shape: Ints  # (N, o0, o1, o2, K)
    input: Ints  # (N, *spatial, C)
    weights: Ints  # (K, *kernel, C / groups)
    output: Ints  # (N, *output, K)
    nbytes: int  # of y
    groups: int
    has_bias: bool
    whole: engine.Convolution | None  # the call, where the stride is an integer
    across: engine.Convolution | None  # whose gradient to the input is the call
    parts: tuple[Part, ...]  # the phases
    images: int  # whose phases are put together at a time


@memoised("x", "w", "b")
def plan(
    op: str, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Any, padding: Any, dilation: Any, groups: Any,
    algorithm: Any, precision: str,
) -> Call:  # fmt: skip
    shapes = x.shape, need_array(op, "w", w).shape, None if b is None else b.shape
    window, groups, output = rule(op, *shapes, stride, padding, dilation, groups, algorithm)
    policy = engine.Policy(algorithm, precision == "strict")
    window, ones = window.lift(), (1,) * (3 - len(output))
    batch, channels, *spatial = x.shape
    filters, per_group, *kernel = w.shape
    inputs, outputs = (*ones, *spatial), (*ones, *output)
    size = x.itemsize * filters * math.prod(output)  # of an image of y
    images = max(1, CHUNK_BYTES // size)

    def part(phase: Phase) -> Part:
        lengths = phase.lengths(outputs)
        whole = engine.Problem(batch, channels, inputs, filters, lengths, phase.window, groups, x.dtype)
        some = (whole._replace(batch=count) for count in {min(images, batch), batch % images})
        return Part(
            phase, engine.Convolution(whole, policy), {one.batch: engine.Convolution(one, policy) for one in some}
        )

    parts = tuple(map(part, phases(window, outputs)))
    upwards = across(window, outputs)
    other_way = None
    if upwards is not None:
        problem = engine.Problem(batch, filters, outputs, channels, inputs, upwards, groups, x.dtype)
        other_way = engine.Convolution(problem, policy)
    return Call(
        (batch, *inputs, channels), (filters, *ones, *kernel, per_group), (batch, *outputs, filters),
        (batch, *spatial, channels), (filters, *kernel, per_group), (batch, *output, filters), (batch or 1) * size,
        groups, b is not None, parts[0].convolution if window.up == ONES else None, other_way, parts, images,
    )  # fmt: skip


Saved = tuple[np.ndarray, np.ndarray, Call]  # x, w as the call has them


def forward(
    op: str, x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    algorithm: str = "auto",
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    x, w, b, call = plan(op, x, w, b, stride, padding, dilation, groups, algorithm, engine.get_precision())
    return by_plan(op, x, w, b, call)


def relu_forward(
    op: str, x: Any, w: Any, b: Any, *, stride: Any, padding: Any, dilation: Any, groups: int, algorithm: str
) -> tuple[np.ndarray, Saved]:
    """relu of the convolution: done by the kernel where it stores, if it can (fastconv.plan)."""
    x, w, b, call = plan(op, x, w, b, stride, padding, dilation, groups, algorithm, engine.get_precision())
    return by_plan(op, x, w, b, call, engine.RELU)


def normed_forward(
    op: str, x: Any, w: Any, b: Any, norm: np.ndarray, addend: np.ndarray | None, relu: bool, *, stride: Any,
    padding: Any, dilation: Any, groups: int, algorithm: str,
) -> np.ndarray | None:  # fmt: skip
    """What batch_norm by coefficients (`norm.channels.coefficients`), a sum and relu make of the convolution, where the
    kernel does that as it stores; else None (fastconv.plan)."""
    x, w, b, call = plan(op, x, w, b, stride, padding, dilation, groups, algorithm, engine.get_precision())
    epilogue = engine.Epilogue(relu, norm, addend)
    if call.whole is None or not x.size or not call.whole.takes(epilogue):
        return None
    if addend is not None:
        if addend.shape != (len(x), len(w), *call.output[1:-1]):
            return None
        epilogue = epilogue._replace(addend=channels_last(op, addend).reshape(call.y_shape))
    return by_plan(op, x, w, b, call, epilogue)[0]


def by_plan(
    op: str, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, call: Call, epilogue: engine.Epilogue = engine.NOTHING
) -> tuple[np.ndarray, Saved]:
    if call.nbytes > UNCHECKED:
        require(op, call.nbytes)
    if call.whole is None:
        refuse()
    x_last = channels_last(op, x).reshape(call.x_shape)
    w_last = w.transpose(CHANNELS_LAST[w.ndim]).reshape(call.w_shape)
    bias = b if b is None or b.flags.c_contiguous else copied(op, b)
    if call.across is not None:
        y = call.across.gradient_input(op, x_last, exchanged(op, w_last, call.groups), bias)
    else:
        y = allocate(op, call.y_shape, x.dtype)
        if call.whole is not None:
            w_last = call.whole.forward(op, x_last, w_last, bias, y, epilogue)
        else:
            interleave(op, x_last, w_last, bias, y, call)
    if epilogue.relu and call.whole is None:
        rectify(y)
    return logical(y.reshape(call.output)), (x_last, w_last, call)


def saved(
    op: str, x: Any, w: Any, b: Any, *, stride: Any, padding: Any, dilation: Any, groups: int, algorithm: str
) -> Saved:
    """What `forward` saves, without the outputs (fastconv.plan)."""
    x, w, b, call = plan(op, x, w, b, stride, padding, dilation, groups, algorithm, engine.get_precision())
    x_last = channels_last(op, x).reshape(call.x_shape)
    w_last = w.transpose(CHANNELS_LAST[w.ndim]).reshape(call.w_shape)
    if call.whole is not None and x.size:
        w_last = call.whole.as_read(op, w_last)
    return x_last, w_last, call


def exchanged(op: str, w: np.ndarray, groups: int) -> np.ndarray:
    """(K, r0, r1, r2, C / groups) -> (C, r0, r1, r2, K / groups), taps in reverse."""
    filters, *kernel, depth = w.shape
    turned = w[:, ::-1, ::-1, ::-1].reshape(groups, filters // groups, *kernel, depth).transpose(0, 5, 2, 3, 4, 1)
    return contiguous(op, turned).reshape(groups * depth, *kernel, filters // groups)


def interleave(
    op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, call: Call
) -> None:  # fmt: skip
    """Fill y: of some images at a time, each phase's outputs are computed apart and put between the others'."""
    filled = sum(math.prod(part.convolution.problem.y_shape) for part in call.parts)
    if filled < y.size:  # the others see inserted zeros only
        y[...] = 0 if bias is None else bias
    ws = [contiguous(op, w[part.phase.taps]) for part in call.parts]
    for start in range(0, len(y), call.images):
        x_some, y_some = x[start : start + call.images], y[start : start + call.images]
        for part, w_part in zip(call.parts, ws, strict=True):
            convolution = part.some[len(x_some)]
            y_part = allocate(op, convolution.problem.y_shape, y.dtype)
            convolution.forward(op, x_some, w_part, bias, y_part)
            put(y_part, y_some, part.phase)


def backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    x, w, call = saved
    dy_last = channels_last(op, dy).reshape(call.y_shape)
    dys = [dy_last] if call.whole is not None else [take(op, dy_last, part.phase) for part in call.parts]
    dx = dw = db = None
    if needs[0]:
        if call.across is not None:  # dx is the convolution of dy by it, with the filters reversed
            dx = allocate(op, call.x_shape, x.dtype)
            call.across.forward(op, dy_last, exchanged(op, w, call.groups), None, dx)
        else:
            dx = gradient_input(op, dys, w, call)
        dx = logical(dx.reshape(call.input))
    if call.has_bias and needs[2]:
        if call.whole is not None:
            dw, db = call.whole.gradient_weights_and_bias(op, x, dy_last, needs[1])
        else:
            db = channel_sums(dy_last)
    if needs[1]:
        dw = gradient_weights(op, x, dys, call) if dw is None else dw
        dw = logical(dw.reshape(call.weights))
    return dx, dw if needs[1] else None, db


def gradient_input(op: str, dys: list[np.ndarray], w: np.ndarray, call: Call) -> np.ndarray:
    """The sum over the phases, in order, of what each sends back."""
    if call.whole is not None:
        return call.whole.gradient_input(op, dys[0], w)
    total = None
    for part, dy_part in zip(call.parts, dys, strict=True):
        dx = part.convolution.gradient_input(op, dy_part, contiguous(op, w[part.phase.taps]))
        total = dx if total is None else np.add(total, dx, out=total)
    if total is None:
        total = allocate(op, call.x_shape, w.dtype)
        total[...] = 0
    return total


def gradient_weights(op: str, x: np.ndarray, dys: list[np.ndarray], call: Call) -> np.ndarray:
    """Each phase fills its own taps; where a tap falls on inserted zeros only, the gradient is 0."""
    if call.whole is not None:
        return call.whole.gradient_weights(op, x, dys[0])
    dw = allocate(op, call.w_shape, x.dtype)
    dw[...] = 0
    for part, dy_part in zip(call.parts, dys, strict=True):
        dw[part.phase.taps] = part.convolution.gradient_weights(op, x, dy_part)
    return dw


for _name in ("conv1d", "conv2d", "conv3d"):
    add(
        _name,
        forward=partial(forward, _name),
        backward=partial(backward, _name),
        reference=partial(reference, _name),
        reference_backward=reference_backward,
    )
