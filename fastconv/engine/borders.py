"""Convolution whose padding is left out, not multiplied by zero: 0 * inf and 0 * nan are nan.

The outputs fall into boxes that see the same taps: an inner one sees them all, those along the borders fewer. Each box
is a convolution without padding, which im2col computes. The precision "strict" takes this way where a factor of the
padding is not finite.
"""

from __future__ import annotations

import itertools
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from fastconv.arrays import contiguous
from fastconv.engine import im2col
from fastconv.engine.contract import Direction, Ints, Plan, Problem
from fastconv.engine.phases import ONES
from fastconv.machine.memory import allocate
from fastconv.window import Window

__all__ = ["plan"]


class Box(NamedTuple):
    """Outputs that see the same taps, all of them inside."""

    outputs: tuple[slice, ...]  # of y (N, o0, o1, o2, K)
    taps: tuple[slice, ...]  # of w (K, r0, r1, r2, C / groups)
    window: Window  # its padding is negative: where the box begins


def plan(direction: Direction, problem: Problem) -> Plan:
    """forward or gradient_weights, by "im2col": what it is asked of each box."""
    return Plan("im2col", partial(_forward if direction == "forward" else _gradient_weights, problem), 0, 1)


def _forward(
    problem: Problem, op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray
) -> None:
    y[...] = 0 if bias is None else bias  # outputs that see no input
    for box in boxes(problem.window, problem.inputs, problem.outputs):
        part = allocate(op, y[box.outputs].shape, y.dtype)
        inside = im2col.plan("forward", _of(problem, box))
        inside.run(op, inside.threads, x, contiguous(op, w[box.taps]), bias, part)
        y[box.outputs] = part


def _gradient_weights(
    problem: Problem, op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: None
) -> None:
    """The boxes' sums, added in order."""
    dw[...] = 0
    for box in boxes(problem.window, problem.inputs, problem.outputs):
        part = contiguous(op, dy[box.outputs])
        inside = im2col.plan("gradient_weights", _of(problem, box))
        found = allocate(op, dw[box.taps].shape, dw.dtype)
        inside.run(op, inside.threads, x, part, found, None)
        dw[box.taps] += found


def _of(problem: Problem, box: Box) -> Problem:
    outputs = tuple(along.stop - along.start for along in box.outputs[1:])
    return problem._replace(outputs=outputs, window=box.window)


@lru_cache(maxsize=64)
def boxes(window: Window, inputs: Ints, outputs: Ints) -> tuple[Box, ...]:
    """The boxes of a lifted window with whole strides that see any input."""
    result = []
    for runs in itertools.product(*(_runs(window, axis, inputs[axis], outputs[axis]) for axis in range(3))):
        begins, ends, taps, stops = zip(*runs, strict=True)
        kernel = tuple(stop - tap for tap, stop in zip(taps, stops, strict=True))
        at = zip(begins, window.stride, taps, window.dilation, window.padding, strict=True)
        around = tuple((before - o * stride - t * step, 0) for o, stride, t, step, (before, _) in at)
        result.append(
            Box(
                (slice(None), *map(slice, begins, ends)),
                (slice(None), *map(slice, taps, stops)),
                Window(kernel, window.stride, around, window.dilation, ONES),
            )
        )
    return tuple(result)


def _runs(window: Window, axis: int, inputs: int, outputs: int) -> list[tuple[int, int, int, int]]:
    """(begin, end, tap, stop): outputs begin..end-1 along the axis see exactly the taps tap..stop-1."""
    before, step = window.padding[axis][0], window.dilation[axis]
    runs: list[tuple[int, int, int, int]] = []
    for o in range(outputs):
        at = o * window.stride[axis] - before  # of tap 0
        tap, stop = max(0, -(at // step)), min(window.kernel[axis], (inputs - 1 - at) // step + 1)
        if tap >= stop:
            continue
        if runs and runs[-1][1:] == (o, tap, stop):
            runs[-1] = (runs[-1][0], o + 1, tap, stop)
        else:
            runs.append((o, o + 1, tap, stop))
    return runs
