"""A convolution whose input is upsampled, as convolutions that never see an inserted zero.

Outputs `up` apart see the same taps on input elements, so each of the `up` phases along an axis is a convolution of the
input with every so many-th tap and an integer stride. A rational stride is one such convolution, the gradient to the
input of a strided one is another: with stride 1 on the upsampled input the two are the same (`across`).
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv._ext import resampling
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.window import Window

__all__ = ["ONES", "Phase", "across", "phases", "put", "take"]

ONES = (1, 1, 1)


class Phase(NamedTuple):
    """A convolution with integer stride that yields some of the outputs from some of the taps."""

    outputs: tuple[slice, ...]  # of y (N, o0, o1, o2, K)
    taps: tuple[slice, ...]  # of w (K, r0, r1, r2, C / groups)
    window: Window

    def lengths(self, output: tuple[int, ...]) -> tuple[int, ...]:
        """How many outputs it has along each axis."""
        return tuple(len(range(*along.indices(n))) for along, n in zip(self.outputs[1:], output, strict=True))

    @property
    def first(self) -> tuple[int, ...]:
        """The first output along each axis."""
        return tuple(along.start for along in self.outputs[1:])

    @property
    def apart(self) -> tuple[int, ...]:
        """Steps between the outputs along each axis."""
        return tuple(along.step for along in self.outputs[1:])


@lru_cache(maxsize=1024)
def phases(window: Window, output: tuple[int, ...]) -> tuple[Phase, ...]:
    """The phases of a lifted window that have taps and outputs; one, the window itself, for an integer stride."""
    per_axis = []
    for axis in range(3):
        up, stride, dilation = window.up[axis], window.stride[axis], window.dilation[axis]
        before = window.padding[axis][0]
        step = up // math.gcd(up, dilation)  # between taps that lie on input elements
        apart = min(up, output[axis])  # between a phase's outputs; whatever it is where there is one
        turn = pow(stride, -1, up)
        tap_of = {(before - tap * dilation) * turn % up: tap for tap in range(min(step, window.kernel[axis]))}
        along = []
        for first, tap in sorted(tap_of.items()):  # the first output whose tap lies on an input element
            if first < output[axis]:
                kernel = len(range(tap, window.kernel[axis], step))
                pad = -(first * stride - before + tap * dilation) // up
                along.append((slice(first, None, apart), slice(tap, None, step), kernel, pad, step * dilation // up))
        per_axis.append(along)
    result = []
    for combination in itertools.product(*per_axis):
        outputs, every, kernel, pad, dilations = zip(*combination, strict=True)
        outputs, every = (slice(None), *outputs), (slice(None), *every)
        result.append(Phase(outputs, every, Window(kernel, window.stride, tuple((p, 0) for p in pad), dilations, ONES)))
    return tuple(result)


def put(y_part: np.ndarray, y: np.ndarray, phase: Phase) -> None:
    """The phase's outputs to their places among the others'."""
    resampling.place_every(y_part, y, phase.apart, phase.first, threads_for(2 * y_part.nbytes))


def take(op: str, y: np.ndarray, phase: Phase) -> np.ndarray:
    """The phase's outputs from among the others'; no copy where there are no others."""
    if phase.apart == ONES:
        return y
    y_part = allocate(op, y[phase.outputs].shape, y.dtype)
    resampling.keep_every(y, y_part, phase.apart, phase.first, threads_for(2 * y_part.nbytes))
    return y_part


def across(window: Window, output: tuple[int, ...]) -> Window | None:
    """The window with an integer stride, from outputs to inputs, whose gradient to its input is the convolution by this
    lifted one, filters reversed; None where there is none."""
    if window.up == ONES or window.stride != ONES or any(up > m for up, m in zip(window.up, output, strict=True)):
        return None
    around = tuple((span - 1 - before, 0) for span, (before, _) in zip(window.spans, window.padding, strict=True))
    return Window(window.kernel, window.up, around, window.dilation, ONES)
