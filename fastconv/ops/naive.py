"""Geometry by definition, for the naive references: which input element lies under which tap of which window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from fastconv.window import Window

__all__ = ["planes", "windows"]


def windows(window: Window, spatial: Sequence[int], output: Sequence[int]) -> list[list[tuple[int, int]]]:
    """For every output position in C order: the (input index, tap index) pairs that lie inside the input, both flat.

    Tap t of output o reads position o * stride - before + t * dilation of the upsampled input; of those, every up-th
    holds an input element, the others zeros.
    """
    per_axis = []
    for axis, (n, m) in enumerate(zip(spatial, output, strict=True)):
        up, before = window.up[axis], window.padding[axis][0]
        positions = []
        for o in range(m):
            inside = []
            for tap in range(window.kernel[axis]):
                at = o * window.stride[axis] - before + tap * window.dilation[axis]
                if at >= 0 and at % up == 0 and at // up < n:
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


def planes(array: np.ndarray) -> list[list[list[float]]]:
    """(A, B, *spatial) as nested lists, with the spatial axes as one."""
    return array.reshape(*array.shape[:2], math.prod(array.shape[2:])).tolist()
