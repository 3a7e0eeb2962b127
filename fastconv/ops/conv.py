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

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv import engine
from fastconv.arrays import as_floats, channel_sums, channels_last, lift, logical, need_axes
from fastconv.engine.phases import ONES, Phase, across, phases, put, take
from fastconv.errors import ShapeError, nearest
from fastconv.ops.naive import planes, windows
from fastconv.ops.registry import add
from fastconv.window import Window, fitting, integers, lifted, remembered
from fastconv.workspace import allocate, require_array

AXES = ("L", "H W", "D H W")
CHUNK_BYTES = 1 << 22  # of outputs whose phases are put together while a cache still holds them

Parts = list[tuple[tuple[slice, ...], np.ndarray, Window]]  # of each phase: its taps, its dy, its window


# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    window: Window
    groups: int
    output: tuple[int, ...]


def prepare(
    op: str, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any, algorithm: Any
) -> Arguments:
    """Check everything that can be wrong with a call; what comes back is proven to fit."""
    ndim = int(op[-2])
    x, w, b = as_floats(op, x=x, w=w, b=b)
    need_axes(op, "x", x, f"N C {AXES[ndim - 1]}")
    need_axes(op, "w", w, f"K C/groups {AXES[ndim - 1]}")
    window, groups, output = sliding(op, x.shape, w.shape, stride, padding, dilation, groups)
    if b is not None and b.shape != w.shape[:1]:
        raise ShapeError(f"{op}: b must have one entry per filter, shape ({len(w)},), got {b.shape}")
    need_algorithm(op, algorithm)
    require_array(op, (x.shape[0], w.shape[0], *output), x.itemsize)
    return Arguments(x, w, b, window, groups, output)


def need_algorithm(op: str, algorithm: Any) -> None:
    if algorithm not in engine.ALGORITHMS:
        names, meant = ", ".join(engine.ALGORITHMS), nearest(algorithm, engine.ALGORITHMS)
        raise ValueError(f"{op}: algorithm must be one of {names}, got {algorithm!r}{meant}")


def check(
    op: str, w: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int, algorithm: Any
) -> None:  # fmt: skip
    """Raise what `prepare` raises for any x, of the shape of w."""
    need_algorithm(op, algorithm)
    spatial = fitting(op, len(w) - 2, w[2:], stride, dilation)
    sliding(op, (1, w[1] * groups, *spatial), w, stride, padding, dilation, groups)


@remembered
def sliding(
    op: str, x: tuple[int, ...], w: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: Any
) -> tuple[Window, int, tuple[int, ...]]:
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
    taps = windows(a.window, a.x.shape[2:], a.output)
    batch, filters, per_group = a.x.shape[0], a.w.shape[0], a.w.shape[1]
    xs, ws = planes(a.x), planes(a.w)
    ys = []
    for n in range(batch):
        for k in range(filters):
            first = k // (filters // a.groups) * per_group
            for inside in taps:
                total = 0.0 if a.b is None else float(a.b[k])
                for c in range(per_group):
                    plane, weights = xs[n][first + c], ws[k][c]
                    for i, t in inside:
                        total += plane[i] * weights[t]
                ys.append(total)
    return np.array(ys, a.x.dtype).reshape(batch, filters, *a.output), (a, taps)


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


class Saved(NamedTuple):
    x: np.ndarray  # (N, i0, i1, i2, C)
    w: np.ndarray  # (K, r0, r1, r2, C / groups)
    window: Window
    groups: int
    x_shape: tuple[int, ...]  # (N, C, *spatial)
    w_shape: tuple[int, ...]  # (K, C / groups, *kernel)
    has_bias: bool
    policy: engine.Policy


def forward(
    op: str, x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    algorithm: str = "auto",
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    x, w, b, window, groups, output = prepare(op, x, w, b, stride, padding, dilation, groups, algorithm)
    window = lifted(window)
    x_last, w_last = lift(channels_last(op, x)), lift(w.transpose(0, *range(2, w.ndim), 1))  # w is turned where need be
    bias, policy = None if b is None else np.ascontiguousarray(b), engine.Policy.now(algorithm)
    y_shape = (x.shape[0], *(1,) * (3 - len(output)), *output, w.shape[0])
    upwards = across(window, y_shape[1:4])
    if upwards is not None:
        y = engine.gradient_input(op, policy, x_last, exchanged(w_last, groups), y_shape, upwards, groups, bias)
    else:
        y = allocate(op, y_shape, x.dtype)
        parts = phases(window, y_shape[1:4])
        if window.up == ONES:
            w_last = engine.forward(op, policy, x_last, w_last, bias, y, parts[0].window, groups)
        else:
            interleave(op, policy, x_last, w_last, bias, y, parts, groups)
    saved = Saved(x_last, w_last, window, groups, x.shape, w.shape, b is not None, policy)
    return logical(y.reshape(x.shape[0], *output, w.shape[0])), saved


def exchanged(w: np.ndarray, groups: int) -> np.ndarray:
    """(K, r0, r1, r2, C / groups) -> (C, r0, r1, r2, K / groups), taps in reverse."""
    filters, *kernel, depth = w.shape
    turned = w[:, ::-1, ::-1, ::-1].reshape(groups, filters // groups, *kernel, depth).transpose(0, 5, 2, 3, 4, 1)
    return np.ascontiguousarray(turned).reshape(groups * depth, *kernel, filters // groups)


def interleave(
    op: str, policy: engine.Policy, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
    parts: tuple[Phase, ...], groups: int,
) -> None:  # fmt: skip
    """Fill y: of some images at a time, each phase's outputs are computed apart and put between the others'."""
    if sum(y[part.outputs].size for part in parts) < y.size:  # the other outputs see inserted zeros only
        y[...] = 0 if bias is None else bias
    ws = [np.ascontiguousarray(w[part.taps]) for part in parts]
    images = max(1, CHUNK_BYTES // max(1, y[:1].nbytes))
    for start in range(0, len(y), images):
        x_some, y_some = x[start : start + images], y[start : start + images]
        for part, w_part in zip(parts, ws, strict=True):
            y_part = allocate(op, y_some[part.outputs].shape, y.dtype)
            engine.forward(op, policy, x_some, w_part, bias, y_part, part.window, groups)
            put(y_part, y_some, part)


def backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    dy_last = lift(channels_last(op, dy))  # (N, o0, o1, o2, K)
    parts = [(part.taps, take(op, dy_last, part), part.window) for part in phases(saved.window, dy_last.shape[1:4])]
    dx = dw = db = None
    if needs[0]:
        upwards = across(saved.window, dy_last.shape[1:4])
        dx = gradient_input(op, parts, saved) if upwards is None else gradient_across(op, dy_last, saved, upwards)
    if saved.has_bias and needs[2]:
        if saved.window.up == ONES:
            ((_, dy_part, window),) = parts
            dw, db = engine.gradient_weights_and_bias(
                op, saved.policy, saved.x, dy_part, saved.w.shape, window, saved.groups, needs[1]
            )  # fmt: skip
            dw = as_given(dw, saved) if dw is not None and needs[1] else None
        else:
            db = channel_sums(dy_last)
    if needs[1] and dw is None:
        dw = gradient_weights(op, parts, saved)
    return dx, dw, db


def gradient_across(op: str, dy: np.ndarray, saved: Saved, window: Window) -> np.ndarray:
    """dx is the convolution of dy by the window across, with the filters reversed."""
    n, c, *spatial = saved.x_shape
    dx = allocate(op, saved.x.shape, saved.x.dtype)
    engine.forward(op, saved.policy, dy, exchanged(saved.w, saved.groups), None, dx, window, saved.groups)
    return logical(dx.reshape(n, *spatial, c))


def gradient_input(op: str, parts: Parts, saved: Saved) -> np.ndarray:
    """The sum over the phases, in order, of what each sends back."""
    n, c, *spatial = saved.x_shape
    total = None
    for taps, dy_part, window in parts:
        w_part = saved.w if window.kernel == saved.w.shape[1:4] else np.ascontiguousarray(saved.w[taps])
        dx = engine.gradient_input(op, saved.policy, dy_part, w_part, saved.x.shape, window, saved.groups)
        total = dx if total is None else np.add(total, dx, out=total)
    if total is None:
        total = allocate(op, saved.x.shape, saved.x.dtype)
        total[...] = 0
    return logical(total.reshape(n, *spatial, c))


def gradient_weights(op: str, parts: Parts, saved: Saved) -> np.ndarray:
    """Each phase fills its own taps; where a tap falls on inserted zeros only, the gradient is 0."""
    filters, per_group, *_ = saved.w_shape
    if len(parts) == 1 and parts[0][2].kernel == saved.w.shape[1:4]:
        (_, dy_part, window) = parts[0]
        dw = engine.gradient_weights(op, saved.policy, saved.x, dy_part, saved.w.shape, window, saved.groups)
    else:
        dw = allocate(op, saved.w.shape, saved.w.dtype)
        dw[...] = 0
        for taps, dy_part, window in parts:
            shape = (filters, *window.kernel, per_group)
            dw[taps] = engine.gradient_weights(op, saved.policy, saved.x, dy_part, shape, window, saved.groups)
    return as_given(dw, saved)


def as_given(dw: np.ndarray, saved: Saved) -> np.ndarray:
    """(K, r0, r1, r2, C / groups) -> (K, C / groups, *kernel)."""
    filters, per_group, *kernel = saved.w_shape
    return logical(dw.reshape(filters, *kernel, per_group))


for _name in ("conv1d", "conv2d", "conv3d"):
    add(
        _name,
        forward=partial(forward, _name),
        backward=partial(backward, _name),
        reference=partial(reference, _name),
        reference_backward=reference_backward,
    )
