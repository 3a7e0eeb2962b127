"""Geometry by definition, for the naive references: which input element lies under which tap of which window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv.machine.memory import require
from fastconv.window import Window

__all__ = ["as_lists", "planes", "windows"]

LIST, PAIR, NUMBER = 64, 128, 32  # bytes that Python takes for them


def windows(window: Window, spatial: Sequence[int], output: Sequence[int]) -> list[list[tuple[int, int]]]:
    """For every output position in C order: the (input index, tap index) pairs that lie inside the input, both flat.

    Tap t of output o reads position o * stride - before + t * dilation of the upsampled input; of those, every up-th
    holds an input element, the others zeros. Taps that lie beyond the input are not even counted: there may be more of
    them than of anything.
    """
    lengths = [(n - 1) * up + 1 for n, up in zip(spatial, window.up, strict=True)]
    reached = [min(k, -(-n // d)) for k, n, d in zip(window.kernel, lengths, window.dilation, strict=True)]
    require("naive loops", math.prod(output) * (LIST + PAIR * math.prod(reached)))
    per_axis = []
    for axis, m in enumerate(output):
        up, before, dilation = window.up[axis], window.padding[axis][0], window.dilation[axis]
        positions = []
        for o in range(m):
            inside = []
            start = o * window.stride[axis] - before
            for tap in range(max(0, -(start // dilation)), window.kernel[axis]):
                at = start + tap * dilation
                if at >= lengths[axis]:
                    break
                if at % up == 0:
                    inside.append((at // up, tap))
            positions.append(inside)
        per_axis.append(positions)
    result = []
    for position in itertools.product(*per_axis):
        inside = []
        for combination in itertools.product(*position):
            index = tap = 0
            for axis, (i, t) in enumerate(combination):
                index = index * spatial[axis] + i
                tap = tap * window.kernel[axis] + t
            inside.append((index, tap))
        result.append(inside)
    return result


def as_lists(array: np.ndarray) -> Any:
    """`array.tolist()`, where there is memory for it: Python's numbers take more than the array's."""
    require("naive loops", array.size * NUMBER)
    return array.tolist()


def planes(array: np.ndarray) -> list[list[list[float]]]:
    """(A, B, *spatial) as nested lists, with the spatial axes as one."""
    lists: list[list[list[float]]] = as_lists(array.reshape(*array.shape[:2], math.prod(array.shape[2:])))
    return lists
