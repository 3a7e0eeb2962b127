"""The average of sliding windows.

    y[n, c, o] = sum over the taps t inside of x[n, c, o * stride - before + t] / divisor

The divisor is the number of taps inside the padded input (count_include_pad) or inside the input.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from fastconv._ext.capture import Kernel
from fastconv._ext.pool import pooling
from fastconv.arrays import channels_last
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.naive import windows
from fastconv.ops.pool.windows import Arguments, Plan, check, cut_pixels, plan, prepare
from fastconv.ops.spatial import add_each, planes, unlift

# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare(op, x, kernel_size, stride, padding, 1, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    taps = windows(a.window, a.x.shape[2:], a.output)
    divisors = naive_sizes(a) if count_include_pad else [len(inside) for inside in taps]
    return of_windows(a.x, taps, divisors, a.output)


def naive_sizes(a: Arguments) -> list[int]:
    """For every output in C order: how many taps of its window lie in the padded input."""
    per_axis = []
    for n, m, size, step, (before, after) in zip(
        a.x.shape[2:], a.output, a.window.kernel, a.window.stride, a.window.padding, strict=True
    ):
        per_axis.append([min(o * step + size, n + before + after) - o * step for o in range(m)])
    return [math.prod(sizes) for sizes in itertools.product(*per_axis)]


def of_windows(
    x: np.ndarray, taps: list[list[tuple[int, int]]], divisors: list[int], output: tuple[int, ...]
) -> tuple[np.ndarray, Any]:
    ys = []
    for plane in planes(x):
        for inside, divisor in zip(taps, divisors, strict=True):
            ys.append(sum(plane[i] for i, _ in inside) / divisor)
    return np.array(ys, x.dtype).reshape(*x.shape[:2], *output), (x, taps, divisors)


def reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    x, taps, divisors = saved
    dxs = planes(np.zeros(x.shape))
    for dx, d in zip(dxs, planes(dy), strict=True):
        for value, inside, divisor in zip(d, taps, divisors, strict=True):
            for i, _ in inside:
                dx[i] += value / divisor
    return np.array(dxs, x.dtype).reshape(x.shape)


# --- fast ------------------------------------------------------------------------------------------------------------


_divide = Kernel(np.divide)


def forward(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[np.ndarray, Plan]:  # fmt: skip
    x, found = plan(op, x, kernel_size, stride, padding, 1, ceil_mode, "count_include_pad", count_include_pad)
    return by_plan(op, x, found)


def by_plan(op: str, x: np.ndarray, plan: Plan) -> tuple[np.ndarray, Plan]:
    return unlift(pool_sums(op, channels_last(op, x).reshape(plan.x_last), plan), plan.output), plan


def backward(op: str, dy: np.ndarray, plan: Plan) -> np.ndarray:
    return unlift(spread_sums(op, channels_last(op, dy).reshape(plan.y_last), plan), plan.x_shape[2:])


def pool_sums(op: str, x_last: np.ndarray, plan: Plan) -> np.ndarray:
    """(N, i0, i1, i2, C) -> (N, o0, o1, o2, C)"""
    y_last = allocate(op, plan.y_last, x_last.dtype)
    if y_last.size:
        tasks = cut_pixels(plan, y_last.size // y_last.shape[-1])
        threads = threads_for(plan.work * y_last.itemsize)
        pooling.sum_forward(x_last, y_last, plan.window, plan.adapts, False, plan.divisor, tasks, threads)
    return y_last


def spread_sums(op: str, dy_last: np.ndarray, plan: Plan) -> np.ndarray:
    """The adjoint of `pool_sums`: every input gets the sum over the windows that cover it."""
    dx_last = allocate(op, plan.x_last, dy_last.dtype)
    if dx_last.size:
        divisor = 1
        if plan.divisors.size == 1:
            divisor = plan.divisors.item()
        else:
            shares = allocate(op, plan.y_last, dy_last.dtype)
            _divide(dy_last, plan.divisors, out=shares, dtype=dy_last.dtype)
            dy_last = shares
        tasks = cut_pixels(plan, dx_last.size // dx_last.shape[-1])
        threads = threads_for(plan.work * dx_last.itemsize)
        pooling.sum_forward(dy_last, dx_last, plan.window, plan.adapts, True, divisor, tasks, threads)
    return dx_last


add_each("avg_pool", forward, backward, reference, reference_backward, check)
