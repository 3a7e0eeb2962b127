"""The norm of every channel by its neighbours.

y = x / (k + alpha / size * the sum of x^2 over `size` neighbouring channels)^beta         x (N, C, *spatial)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import response as kernels
from fastconv.arrays import as_floats, channels_last, logical, memoised
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for
from fastconv.ops.common import need_channels, number
from fastconv.ops.registry import Gradients, add
from fastconv.window import LARGEST, integers

WORK = 8  # what an element of local_response_norm costs, in elements of the others

# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    before: int  # neighbours in front of a channel, at most all of them
    after: int
    alpha: float  # divided by size
    beta: float
    k: float


def prepare(x: Any, size: Any, alpha: Any, beta: Any, k: Any) -> Arguments:
    op = "local_response_norm"
    (x,) = as_floats(op, x=x)
    others = need_channels(op, x, 3) - 1
    (size,) = integers(op, "size", size, 1, 1)
    if size > LARGEST:
        raise ShapeError(f"{op}: size must be at most {LARGEST}, got {size}")
    alpha, beta, k = number(op, "alpha", alpha), number(op, "beta", beta), number(op, "k", k)
    return Arguments(x, min(size // 2, others), min((size - 1) // 2, others), alpha / size, beta, k)


def check(size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> None:
    prepare(np.empty((0, 1, 1), np.float32), size, alpha, beta, k)


# --- reference -------------------------------------------------------------------------------------------------------


def reference(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> tuple[np.ndarray, Any]:
    a = prepare(x, size, alpha, beta, k)
    last = np.moveaxis(a.x, 1, -1)
    ys = []
    for row in last.reshape(-1, last.shape[-1]).tolist():
        ys.append([value * naive_power(level, -a.beta) for value, level in zip(row, naive_levels(row, a), strict=True)])
    return np.moveaxis(np.array(ys, a.x.dtype).reshape(last.shape), -1, 1), a


def naive_levels(row: list[float], a: Arguments) -> list[float]:
    levels = []
    for c in range(len(row)):
        near = row[max(0, c - a.before) : c + a.after + 1]
        levels.append(a.k + sum(a.alpha * value * value for value in near))
    return levels


def naive_power(base: float, exponent: float) -> float:
    """base^exponent; nan of a negative base, inf where it overflows."""
    if not base >= 0:
        return math.nan
    try:
        return math.pow(base, exponent)
    except (OverflowError, ValueError):
        return math.inf


def reference_backward(dy: np.ndarray, saved: Arguments, needs: tuple[bool, ...]) -> Gradients:
    a = saved
    last, dlast = np.moveaxis(a.x, 1, -1), np.moveaxis(dy, 1, -1)
    channels = last.shape[-1]
    dxs = []
    for row, ds in zip(last.reshape(-1, channels).tolist(), dlast.reshape(-1, channels).tolist(), strict=True):
        levels = naive_levels(row, a)
        powers = [naive_power(level, -a.beta) for level in levels]
        drow = [d * power for d, power in zip(ds, powers, strict=True)]
        for c in range(channels):
            share = -2 * a.alpha * a.beta * (ds[c] * row[c] * powers[c] / levels[c] if levels[c] else math.nan)
            for near in range(max(0, c - a.before), min(channels, c + a.after + 1)):
                drow[near] += share * row[near]
        dxs.append(drow)
    return np.moveaxis(np.array(dxs, dy.dtype).reshape(last.shape), -1, 1), None, None, None, None


# --- fast: rows of channels ------------------------------------------------------------------------------------------


def scratch(last: np.ndarray) -> np.ndarray:
    """A level and a power per channel for every thread."""
    bytes_each = 2 * last.shape[-1] * last.itemsize
    threads = max(1, min(threads_for(WORK * last.nbytes), get_workspace_limit() // bytes_each))
    return allocate("local_response_norm", (threads, 2 * last.shape[-1]), last.dtype)


Numbers = tuple[int, int, float, float, float]  # as Arguments has them
Saved = tuple[np.ndarray, Numbers]  # x, channels last


@memoised("x")
def plan(op: str, x: np.ndarray, *options: Any) -> Numbers:
    return prepare(x, *options)[1:]


def forward(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> tuple[np.ndarray, Saved]:
    op = "local_response_norm"
    numbers: Numbers
    x, numbers = plan(op, x, size, alpha, beta, k)
    last = channels_last(op, x)
    y = allocate(op, last.shape, last.dtype)
    channels = last.shape[-1]
    kernels.local_response_norm(last.reshape(-1, channels), y.reshape(-1, channels), *numbers, scratch(last))
    return logical(y), (last, numbers)


def backward(dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    last, numbers = saved
    dy_last = channels_last("local_response_norm", dy)
    dx = allocate("local_response_norm", last.shape, last.dtype)
    dy_rows, x_rows, dx_rows = (array.reshape(-1, last.shape[-1]) for array in (dy_last, last, dx))
    kernels.local_response_norm_backward(dy_rows, x_rows, dx_rows, *numbers, scratch(last))
    return logical(dx), None, None, None, None


add(
    "local_response_norm",
    forward=forward,
    backward=backward,
    reference=reference,
    reference_backward=reference_backward,
    check=check,
)
