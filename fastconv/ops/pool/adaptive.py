"""Adaptive pooling over one, two or three spatial axes: as many windows as outputs are asked for.

    along an axis, output o of m pools positions floor(o * n / m) .. ceil((o + 1) * n / m) - 1 of n

    x   (N, C, *spatial)
    y   (N, C, *output_size)

The average or the maximum of each window (torch.nn.functional.adaptive_avg_pool2d, adaptive_max_pool2d); output_size 1
is global pooling.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from fastconv.arrays import memoised
from fastconv.machine.memory import require, require_array
from fastconv.ops.naive import LIST, PAIR
from fastconv.ops.pool import average, maximum
from fastconv.ops.pool.windows import INNER_TAPS, MOST_KEPT, Plan, sliding
from fastconv.ops.spatial import Ints, add_each, flag, prepare_input
from fastconv.window import Window, integers, per_axis

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(op: str, x: Any, output_size: Any) -> tuple[np.ndarray, Ints]:
    x = prepare_input(op, x, int(op[-2]))
    output = sizes(op, x.shape[2:], output_size)
    require_array(op, (*x.shape[:2], *output), x.itemsize)
    return x, output


def sizes(op: str, spatial: Ints, output_size: Any) -> Ints:
    """The output's spatial shape; None keeps a length."""
    wanted = per_axis(op, "output_size", output_size, len(spatial))
    kept = [n if m is None else m for m, n in zip(wanted, spatial, strict=True)]
    return integers(op, "output_size", kept, len(spatial), 1)


def check(op: str, output_size: Any, *, return_indices: Any = False) -> None:
    sizes(op, (1,) * int(op[-2]), output_size)
    flag(op, "return_indices", return_indices)


# --- reference -------------------------------------------------------------------------------------------------------


def windows(spatial: Ints, output: Ints) -> list[list[tuple[int, int]]]:
    """For every output position in C order: the flat input indices of its window, each with its number there."""
    taps = math.prod(n // m + 2 for n, m in zip(spatial, output, strict=True))
    require("naive loops", math.prod(output) * (LIST + PAIR * taps))
    axes = [[range(o * n // m, -(-(o + 1) * n // m)) for o in range(m)] for n, m in zip(spatial, output, strict=True)]
    result = []
    for ranges in itertools.product(*axes):
        inside: list[tuple[int, int]] = []
        for position in itertools.product(*ranges):
            index = 0
            for i, n in zip(position, spatial, strict=True):
                index = index * n + i
            inside.append((index, len(inside)))
        result.append(inside)
    return result


def avg_reference(op: str, x: Any, output_size: Any) -> tuple[np.ndarray, Any]:
    x, output = prepare(op, x, output_size)
    taps = windows(x.shape[2:], output)
    return average.of_windows(x, taps, [len(inside) for inside in taps], output)


def max_reference(op: str, x: Any, output_size: Any, *, return_indices: bool = False) -> tuple[Any, Any]:
    x, output = prepare(op, x, output_size)
    flag(op, "return_indices", return_indices)
    return maximum.of_windows(x, windows(x.shape[2:], output), output, return_indices)


# --- fast ------------------------------------------------------------------------------------------------------------


@memoised("x", most=MOST_KEPT)
def plan(op: str, x: np.ndarray, output_size: Any, return_indices: Any = False) -> Plan:
    """Windows that do not overlap where every length divides: sliding ones. Else at most one tap more than n / m."""
    flag(op, "return_indices", return_indices)
    x, output = prepare(op, x, output_size)
    spatial = x.shape[2:]
    axes = len(spatial)
    ones, none = (1,) * axes, ((0, 0),) * axes
    if all(n % m == 0 for n, m in zip(spatial, output, strict=True)):
        kernel = tuple(n // m for n, m in zip(spatial, output, strict=True))
        return sliding(x.shape, Window(kernel, kernel, none, ones, ones), output, INNER_TAPS)
    kernel = tuple(n // m if n % m == 0 else min(n, -(-n // m) + 1) for n, m in zip(spatial, output, strict=True))
    return Plan(x.shape, output, Window(kernel, ones, none, ones, ones).lift(), True, INNER_TAPS)


def avg_forward(op: str, x: Any, output_size: Any) -> tuple[np.ndarray, Plan]:
    x, found = plan(op, x, output_size)
    return average.by_plan(op, x, found)


def max_forward(op: str, x: Any, output_size: Any, *, return_indices: bool = False) -> tuple[Any, maximum.Saved]:
    x, found = plan(op, x, output_size, return_indices)
    return maximum.by_plan(op, x, found, return_indices)


add_each("adaptive_avg_pool", avg_forward, average.backward, avg_reference, average.reference_backward, check)
add_each("adaptive_max_pool", max_forward, maximum.backward, max_reference, maximum.reference_backward, check)
