"""The p-norm of sliding windows.

y[n, c, o] = (sum over the taps t inside of |x[n, c, o * stride - before + t]| ** p) ** (1 / p)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastconv.arrays import channels_last
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.ops.common import number
from fastconv.ops.naive import windows as naive_windows
from fastconv.ops.pool import windows
from fastconv.ops.pool.average import pool_sums, spread_sums
from fastconv.ops.pool.windows import Arguments, Plan
from fastconv.ops.spatial import add_each, planes, unlift

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(
    op: str, x: Any, norm_type: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any
) -> tuple[Arguments, float]:
    p = norm_order(op, norm_type)
    return windows.prepare(op, x, kernel_size, stride, padding, 1, ceil_mode=ceil_mode), p


def norm_order(op: str, norm_type: Any) -> float:
    p = number(op, "norm_type", norm_type)
    if not 0 < p < math.inf:
        raise ShapeError(f"{op}: norm_type must be positive and finite, got {p:g}")
    return p


def check(op: str, norm_type: Any, kernel_size: Any, **options: Any) -> None:
    norm_order(op, norm_type)
    windows.check(op, kernel_size, **options)


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    op: str, x: Any, norm_type: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False
) -> tuple[np.ndarray, Any]:
    a, p = prepare(op, x, norm_type, kernel_size, stride, padding, ceil_mode)
    taps = naive_windows(a.window, a.x.shape[2:], a.output)
    ys = []
    for plane in planes(a.x):
        for inside in taps:
            ys.append(power(sum(power(abs(plane[i]), p) for i, _ in inside), 1 / p))
    return np.array(ys, a.x.dtype).reshape(*a.x.shape[:2], *a.output), (a, p, taps, ys)


def reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    a, p, taps, ys = saved
    dxs = planes(np.zeros(a.x.shape))
    norms = iter(ys)
    for plane, dx, d in zip(planes(a.x), dxs, planes(dy), strict=True):
        for value, inside in zip(d, taps, strict=True):
            norm = next(norms)
            for i, _ in inside:
                dx[i] += 0 if norm == 0 else value * power(norm, 1 - p)
        for i, value in enumerate(plane):
            dx[i] *= value if value == 0 or math.isnan(value) else math.copysign(power(abs(value), p - 1), value)
    return np.array(dxs, a.x.dtype).reshape(a.x.shape)


def power(base: float, exponent: float) -> float:
    """base ** exponent for base >= 0, infinite where it overflows."""
    try:
        return float(base**exponent)
    except (OverflowError, ZeroDivisionError):
        return math.inf


# --- fast ------------------------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    x: np.ndarray  # (N, i0, i1, i2, C)
    sums: np.ndarray  # (N, o0, o1, o2, C), of |x| ** p
    p: float
    plan: Plan


def forward(
    op: str, x: Any, norm_type: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False
) -> tuple[np.ndarray, Saved]:
    p = norm_order(op, norm_type)
    x, plan = windows.plan(op, x, kernel_size, stride, padding, 1, ceil_mode)
    x_last = channels_last(op, x).reshape(plan.x_last)
    with np.errstate(all="ignore"):
        powers = np.abs(x_last, out=allocate(op, plan.x_last, x_last.dtype))
        sums = pool_sums(op, raised(powers, p), plan)
        y_last = allocate(op, plan.y_last, sums.dtype)
        np.copyto(y_last, sums)
        raised(y_last, 1 / p)
    return unlift(y_last, plan.output), Saved(x_last, sums, p, plan)


def backward(op: str, dy: np.ndarray, saved: Saved) -> np.ndarray:
    """dx = sign(x) |x| ** (p - 1) * the adjoint of the sum at dy * y ** (1 - p), with y ** p the sum."""
    x_last, sums, p, plan = saved
    with np.errstate(all="ignore"):
        share = raised(sums.copy(), (p - 1) / p)
        np.divide(channels_last(op, dy).reshape(plan.y_last), share, out=share)
        share[sums == 0] = 0
        slope = np.sign(x_last)
        if p != 1:
            slope *= raised(np.abs(x_last), p - 1)
            slope[x_last == 0] = 0
        dx_last = spread_sums(op, share, plan)
        dx_last *= slope
    return unlift(dx_last, plan.x_shape[2:])


def raised(base: np.ndarray, exponent: float) -> np.ndarray:
    """base ** exponent in place, for base >= 0."""
    if exponent == 2:
        np.multiply(base, base, out=base)
    elif exponent == 0.5:
        np.sqrt(base, out=base)
    elif exponent != 1:
        np.power(base, base.dtype.type(exponent), out=base)
    return base


add_each("lp_pool", forward, backward, reference, reference_backward, check)
