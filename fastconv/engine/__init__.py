"""The door to the convolution algorithms: which one serves which shape, and why.

| algorithm | serves | why |
|---|---|---|
| direct    | float32 | register tiles read the input where it lies: no column is stored, nothing packed but w |
| im2col    | everything, float64 too | windows become rows of a column tile that BLAS multiplies; read it first |

Each algorithm is a module with `serves(direction, problem)`, `workspace(direction, problem)` and the three directions
`forward`, `gradient_input` and `gradient_weights`. Their arrays are lifted (three spatial axes) and channels-last, x
(N, i0, i1, i2, C), y (N, o0, o1, o2, K), w (K, r0, r1, r2, C / groups), C-contiguous all of them; strides are integers.

`choose` decides by shape, dtype and CPU alone, from measurements made beforehand (bench/NOTES.md), so that a net
computes the same bits whenever it runs. An algorithm asked for by name serves what it can; im2col does the rest.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from fastconv.engine import direct, im2col
from fastconv.trace import watched
from fastconv.window import Window

__all__ = ["ALGORITHMS", "Problem", "choose", "forward", "gradient_input", "gradient_weights"]

Ints = tuple[int, ...]
Direction = Literal["forward", "gradient_input", "gradient_weights"]

_MODULES: dict[str, ModuleType] = {"im2col": im2col, "direct": direct}
ALGORITHMS = ("auto", *_MODULES)


class Problem(NamedTuple):
    """A convolution's geometry, lifted: all that the choice depends on."""

    batch: int
    channels: int
    inputs: Ints  # spatial
    filters: int
    outputs: Ints  # spatial
    window: Window
    groups: int
    dtype: np.dtype


def choose(direction: Direction, problem: Problem, algorithm: str = "auto") -> str:
    """The name of the algorithm that serves a direction of a problem."""
    if algorithm == "auto":
        wasteful = direct.waste(direction, problem) > 1.5
        candidates: tuple[str, ...] = ("im2col",) if wasteful else ("direct", "im2col")
    else:
        candidates = (algorithm, "im2col")
    return next(name for name in candidates if _MODULES[name].serves(direction, problem))


def forward(
    op: str, algorithm: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window,
    groups: int,
) -> None:  # fmt: skip
    """Fill y."""
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], y.shape[4], y.shape[1:4], window, groups, x.dtype)
    name = choose("forward", problem, algorithm)
    watched("forward", name, _MODULES[name].forward, op, x, w, bias, y, window, groups)


def gradient_input(
    op: str, algorithm: str, dy: np.ndarray, w: np.ndarray, x_shape: Ints, window: Window, groups: int
) -> np.ndarray:
    """dx (N, i0, i1, i2, C)."""
    problem = Problem(x_shape[0], x_shape[4], x_shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_input", problem, algorithm)
    return watched("gradient_input", name, _MODULES[name].gradient_input, op, dy, w, x_shape, window, groups)


def gradient_weights(
    op: str, algorithm: str, x: np.ndarray, dy: np.ndarray, w_shape: Ints, window: Window, groups: int
) -> np.ndarray:
    """dw (K, r0, r1, r2, C / groups)."""
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_weights", problem, algorithm)
    return watched("gradient_weights", name, _MODULES[name].gradient_weights, op, x, dy, w_shape, window, groups)
