"""The maximum of sliding windows.

    y[n, c, o] = max over the taps t inside of x[n, c, o * stride - before + t * dilation]

Taps outside the input never win.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastconv._ext.capture import refuse
from fastconv._ext.pool import pooling
from fastconv.arrays import channels_last
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate, require
from fastconv.machine.threads import threads_for
from fastconv.ops.naive import windows
from fastconv.ops.pool.windows import Plan, check, cut_pixels, plan, prepare
from fastconv.ops.spatial import add_each, planes, unlift

BYTE, INT = np.dtype(np.uint8), np.dtype(np.int32)

# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    a = prepare(op, x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=return_indices)
    return of_windows(a.x, windows(a.window, a.x.shape[2:], a.output), a.output, return_indices)


def of_windows(
    x: np.ndarray, taps: list[list[tuple[int, int]]], output: tuple[int, ...], return_indices: bool
) -> tuple[Any, Any]:
    ys, chosen = [], []
    for plane in planes(x):
        for inside in taps:
            best, where = -float("inf"), inside[0][0] if inside else -1
            for i, _ in inside:
                if plane[i] > best or (plane[i] != plane[i] and best == best):
                    best, where = plane[i], i
            ys.append(best)
            chosen.append(where)
    y = np.array(ys, x.dtype).reshape(*x.shape[:2], *output)
    indices = np.array(chosen, np.int64).reshape(y.shape)
    return (y, indices) if return_indices else y, (x, indices.copy())


def reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    x, indices = saved
    dxs = planes(np.zeros(x.shape))
    for dx, d, chosen in zip(dxs, planes(dy), planes(indices), strict=True):
        for value, i in zip(d, chosen, strict=True):
            if i >= 0:
                dx[int(i)] += value
    return np.array(dxs, x.dtype).reshape(x.shape)


# --- fast ------------------------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    taps: np.ndarray  # (N, o0, o1, o2, C): which tap won
    plan: Plan


def forward(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> tuple[Any, Saved]:  # fmt: skip
    x, found = plan(op, x, kernel_size, stride, padding, dilation, ceil_mode, "return_indices", return_indices)
    return by_plan(op, x, found, return_indices)


def by_plan(op: str, x: np.ndarray, plan: Plan, return_indices: bool) -> tuple[Any, Saved]:
    if plan.taps >= 1 << 31:
        raise ShapeError(f"{op}: a window must have less than 2**31 taps, got {plan.taps}")
    x_last = channels_last(op, x).reshape(plan.x_last)
    y_last = allocate(op, plan.y_last, x.dtype)
    taps = allocate(op, plan.y_last, BYTE if plan.taps < 256 else INT)
    if y_last.size:
        tasks = cut_pixels(plan, y_last.size // x.shape[1])
        threads = threads_for(plan.work * x.itemsize)
        pooling.max_forward(x_last, y_last, taps, plan.window, plan.adapts, tasks, threads)
    y = unlift(y_last, plan.output)
    saved = Saved(taps, plan)
    return (y, indices_of(op, saved)) if return_indices else y, saved


def indices_of(op: str, saved: Saved) -> np.ndarray:
    """(N, C, *output) int64: the winners' flat positions in the unpadded plane; -1 for a window without taps."""
    plan = saved.plan
    refuse()
    require(op, saved.taps.size * 16)
    first = np.zeros((1, 1, 1, 1), np.int64)
    for axis in range(3):
        starts = np.expand_dims(plan.starts(axis), tuple(other for other in range(4) if other != axis))
        first = first * plan.x_last[1 + axis] + starts
    indices = plan.offsets.astype(np.int64)[saved.taps]
    indices += first
    np.maximum(indices, -1, out=indices)
    return unlift(indices, plan.output)


def backward(op: str, dy: np.ndarray, saved: Saved) -> np.ndarray:
    taps, plan = saved
    dy_last = channels_last(op, dy).reshape(plan.y_last)
    dx_last = allocate(op, plan.x_last, dy.dtype)
    if dx_last.size:
        axis, cuts = plan.bands
        threads = threads_for(2 * dx_last.nbytes)
        offsets = plan.element_offsets
        pooling.max_backward(
            dy_last, taps, dx_last, offsets, plan.window, plan.adapts, plan.apart, axis, cuts, threads
        )  # fmt: skip
    return unlift(dx_last, plan.x_shape[2:])


add_each("max_pool", forward, backward, reference, reference_backward, check)
