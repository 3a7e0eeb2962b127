"""Gradients against finite differences, in float64 and along one random direction through all arguments.

A gradient that is wrong anywhere is wrong along a random direction with probability one, and one direction costs four
calls instead of four an element (Chainer's gradient_check.py does the same).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["check_gradients"]

STEP = 1e-4  # of the five-point rule: truncation and rounding are both below 1e-11 of the values
TOLERANCE = 1e-8


def check_gradients(
    call: Callable[..., np.ndarray],
    arrays: Sequence[Any],
    dy: np.ndarray,
    gradients: Sequence[np.ndarray | None],
    positions: Sequence[int],
    seed: int = 0,
) -> None:
    """Raise AssertionError unless `gradients` are those of sum(call(*arrays) * dy) to the arrays at `positions`.

    arrays in float64, none of them within STEP of a kink of `call`; the call must give the same every time.
    """
    rng = np.random.default_rng(seed)
    directions = {i: rng.uniform(-1, 1, np.shape(arrays[i])) for i in positions}

    def along(t: float) -> float:
        moved = [array + t * directions[i] if i in directions else array for i, array in enumerate(arrays)]
        return float(np.sum(call(*moved) * dy))

    expected = (8 * (along(STEP) - along(-STEP)) - (along(2 * STEP) - along(-2 * STEP))) / (12 * STEP)
    actual, scale = 0.0, 1.0
    for i, direction in directions.items():
        gradient = gradients[i]
        assert gradient is not None, f"no gradient for argument {i}"
        assert gradient.shape == direction.shape, f"argument {i}: gradient {gradient.shape}, argument {direction.shape}"
        terms = gradient * direction
        actual += float(terms.sum())
        scale = max(scale, float(np.abs(terms).sum()))
    assert abs(actual - expected) <= TOLERANCE * scale, f"along the direction {actual!r}, by differences {expected!r}"
