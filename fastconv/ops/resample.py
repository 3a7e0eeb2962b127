"""Resampling along every spatial axis: keeping every so many positions, and its adjoint, zeros in between.

    downsample   y[n, c, o] = x[n, c, o * factor + phase]              ceil((n - phase) / factor) outputs
    upsample     y[n, c, i * factor] = x[n, c, i], zeros elsewhere     (n - 1) * factor + 1 outputs, or more

    x   (N, C, *spatial), one to three spatial axes

Each is the other's backward.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import resampling
from fastconv.arrays import channels_last, lift, logical, memoised
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate, require_array
from fastconv.machine.threads import threads_for
from fastconv.ops.registry import add
from fastconv.ops.spatial import Ints, gradient_to_x, planes, prepare_input
from fastconv.window import AXES, count_axes, integers

# --- shape rule ------------------------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """Position o of `narrow` is position o * factor + phase of `wide`, along every axis."""

    wide: Ints
    narrow: Ints
    factor: Ints
    phase: Ints


def prepare_downsample(op: str, x: Any, factor: Any, phase: Any) -> tuple[np.ndarray, Steps]:
    x = prepare_input(op, x)
    return x, kept_steps(op, x.shape[2:], factor, phase)


def kept_steps(op: str, spatial: Ints, factor: Any, phase: Any) -> Steps:
    factors = integers(op, "factor", factor, len(spatial), 1)
    phases = integers(op, "phase", phase, len(spatial), 0)
    for axis, (n, f, p) in enumerate(zip(spatial, factors, phases, strict=True)):
        if p >= f:
            raise ShapeError(f"{op}: phase must be less than factor, got {p} and {f} on spatial axis {axis}")
        if p >= n:
            raise ShapeError(f"{op}: phase must lie inside the input, got {p} for length {n} on spatial axis {axis}")
    narrow = tuple(-(-(n - p) // f) for n, f, p in zip(spatial, factors, phases, strict=True))
    return Steps(spatial, narrow, factors, phases)


def check_downsample(factor: Any, *, phase: Any = 0) -> None:
    axes = count_axes(factor, phase)
    kept_steps("downsample", integers("downsample", "factor", factor, axes, 1), factor, phase)


def prepare_upsample(op: str, x: Any, factor: Any, output_size: Any) -> tuple[np.ndarray, Steps]:
    x = prepare_input(op, x)
    steps = spread_steps(op, x.shape[2:], factor, output_size)
    require_array(op, (*x.shape[:2], *steps.wide), x.itemsize)
    return x, steps


def spread_steps(op: str, spatial: Ints, factor: Any, output_size: Any) -> Steps:
    factors = integers(op, "factor", factor, len(spatial), 1)
    least = tuple((n - 1) * f + 1 for n, f in zip(spatial, factors, strict=True))
    wide = least if output_size is None else integers(op, "output_size", output_size, len(spatial), 1)
    for axis, (m, bound) in enumerate(zip(wide, least, strict=True)):
        if m < bound:
            raise ShapeError(
                f"{op}: output_size must be at least (n - 1) * factor + 1 = {bound} on spatial axis {axis}, got {m}"
            )
    return Steps(wide, spatial, factors, (0,) * len(spatial))


def check_upsample(factor: Any, *, output_size: Any = None) -> None:
    spread_steps("upsample", (1,) * count_axes(factor, output_size), factor, output_size)


# --- reference -------------------------------------------------------------------------------------------------------


def kept(steps: Steps) -> Iterable[int]:
    """The flat positions in `wide` of the positions of `narrow`, in C order."""
    axes = zip(steps.narrow, steps.factor, steps.phase, strict=True)
    for position in itertools.product(*([o * f + p for o in range(m)] for m, f, p in axes)):
        index = 0
        for i, n in zip(position, steps.wide, strict=True):
            index = index * n + i
        yield index


def keep_reference(x: np.ndarray, steps: Steps) -> np.ndarray:
    y = [[plane[i] for i in kept(steps)] for plane in planes(x)]
    return np.array(y, x.dtype).reshape(*x.shape[:2], *steps.narrow)


def spread_reference(x: np.ndarray, steps: Steps) -> np.ndarray:
    y = [[0.0] * math.prod(steps.wide) for _ in range(x.shape[0] * x.shape[1])]
    for wide, narrow in zip(y, planes(x), strict=True):
        for i, value in zip(kept(steps), narrow, strict=True):
            wide[i] = value
    return np.array(y, x.dtype).reshape(*x.shape[:2], *steps.wide)


def downsample_reference(x: Any, factor: Any, *, phase: Any = 0) -> tuple[np.ndarray, Steps]:
    x, steps = prepare_downsample("downsample", x, factor, phase)
    return keep_reference(x, steps), steps


def upsample_reference(x: Any, factor: Any, *, output_size: Any = None) -> tuple[np.ndarray, Steps]:
    x, steps = prepare_upsample("upsample", x, factor, output_size)
    return spread_reference(x, steps), steps


# --- fast ------------------------------------------------------------------------------------------------------------


@memoised("x")
def plan_downsample(op: str, x: np.ndarray, factor: Any, phase: Any) -> Steps:
    return prepare_downsample(op, x, factor, phase)[1]


@memoised("x")
def plan_upsample(op: str, x: np.ndarray, factor: Any, output_size: Any) -> Steps:
    return prepare_upsample(op, x, factor, output_size)[1]


def downsample(x: Any, factor: Any, *, phase: Any = 0) -> tuple[np.ndarray, Steps]:
    x, steps = plan_downsample("downsample", x, factor, phase)
    return keep("downsample", x, steps), steps


def upsample(x: Any, factor: Any, *, output_size: Any = None) -> tuple[np.ndarray, Steps]:
    x, steps = plan_upsample("upsample", x, factor, output_size)
    return spread("upsample", x, steps), steps


def keep(op: str, x: np.ndarray, steps: Steps) -> np.ndarray:
    """(N, C, *wide) -> (N, C, *narrow)"""
    x_last = lift(channels_last(op, x))
    y_last = allocate(op, (x.shape[0], *steps.narrow, x.shape[1]), x.dtype)
    if y_last.size:
        factor, phase = lifted(steps)
        resampling.keep_every(x_last, lift(y_last), factor, phase, threads_for(2 * y_last.nbytes))
    return logical(y_last)


def spread(op: str, x: np.ndarray, steps: Steps) -> np.ndarray:
    """(N, C, *narrow) -> (N, C, *wide), the adjoint of `keep`."""
    x_last = lift(channels_last(op, x))
    y_last = allocate(op, (x.shape[0], *steps.wide, x.shape[1]), x.dtype)
    if y_last.size:
        factor, phase = lifted(steps)
        resampling.spread(x_last, lift(y_last), factor, phase, threads_for(2 * y_last.nbytes))
    return logical(y_last)


def lifted(steps: Steps) -> tuple[Ints, Ints]:
    """Factors (1 where there is one position: nobody takes the step) and phases on three axes."""
    used: Sequence[int] = [f if m > 1 else 1 for f, m in zip(steps.factor, steps.narrow, strict=True)]
    front = AXES - len(used)
    return (1,) * front + tuple(used), (0,) * front + steps.phase


add(
    "downsample",
    forward=downsample,
    backward=gradient_to_x(partial(spread, "downsample")),
    reference=downsample_reference,
    reference_backward=gradient_to_x(spread_reference),
    check=check_downsample,
)
add(
    "upsample",
    forward=upsample,
    backward=gradient_to_x(partial(keep, "upsample")),
    reference=upsample_reference,
    reference_backward=gradient_to_x(keep_reference),
    check=check_upsample,
)
