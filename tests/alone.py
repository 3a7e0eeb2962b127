"""One algorithm of the engine by itself: planned anew for every call, whatever constants a test has set."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.engine import depthwise, grouped
from fastconv.engine.contract import Problem
from fastconv.window import Window

__all__ = ["forward", "gradient_input", "gradient_weights", "of_groups", "problem_of", "serves"]


def problem_of(x_shape: Any, y_shape: Any, window: Window, groups: int, dtype: Any) -> Problem:
    return Problem(
        x_shape[0], x_shape[4], tuple(x_shape[1:4]), y_shape[4], tuple(y_shape[1:4]), window, groups, np.dtype(dtype)
    )


def serves(algorithm: Any, direction: Any, problem: Problem) -> bool:
    return bool(np.isfinite(algorithm.cost(direction, problem)))


def of_groups(direction: Any, problem: Problem) -> Any:
    """depthwise, or grouped where it serves, which goes first."""
    return grouped if serves(grouped, direction, problem) else depthwise


def forward(algorithm, x, w, bias, y, window, groups=1):
    """y, which is filled."""
    problem = problem_of(x.shape, y.shape, window, groups, x.dtype)
    if y.size:
        plan = _plan(algorithm, "forward", problem)
        plan.run("test", plan.threads, x, w, bias, y)
    return y


def gradient_input(algorithm, dy, w, x_shape, window, groups=1, out=None):
    """dx; a bias is never given."""
    dx = np.full(x_shape, np.nan, dy.dtype) if out is None else out
    problem = problem_of(x_shape, dy.shape, window, groups, dy.dtype)
    if not dy.size:
        dx[...] = 0
    elif dx.size:
        plan = _plan(algorithm, "gradient_input", problem)
        plan.run("test", plan.threads, dy, w, dx, None)
    return dx


def gradient_weights(algorithm, x, dy, w_shape, window, groups=1, out=None, db=None):
    dw = np.full(w_shape, np.nan, dy.dtype) if out is None else out
    problem = problem_of(x.shape, dy.shape, window, groups, dy.dtype)
    if not dy.size or not x.size:
        dw[...] = 0
    else:
        plan = _plan(algorithm, "gradient_weights", problem)
        assert db is None or "sums" in plan.takes
        plan.run("test", plan.threads, x, dy, dw, db)
    return dw


def _plan(algorithm: Any, direction: Any, problem: Problem) -> Any:
    module = algorithm(direction, problem) if callable(algorithm) else algorithm
    return module.plan(direction, problem)
