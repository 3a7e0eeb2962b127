"""The step, the chapter's first activation: a neuron that says no or yes.

    y = 0 where x < 0, else 1

It keeps x's shape; NaN stays NaN. Its gradient is 0 everywhere: nothing learns through it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv.arrays import as_floats, empty_like
from fastconv.ops.registry import add
from fastconv.ops.spatial import gradient_to_x


def reference(x: Any) -> tuple[np.ndarray, None]:
    (x,) = as_floats("step", x=x)
    ys = [value if math.isnan(value) else 0.0 if value < 0 else 1.0 for value in x.ravel().tolist()]
    return np.array(ys, x.dtype).reshape(x.shape), None


def forward(x: Any) -> tuple[np.ndarray, None]:
    (x,) = as_floats("step", x=x)
    return np.heaviside(x, x.dtype.type(1), out=empty_like("step", x)), None


def reference_backward(dy: np.ndarray, saved: None) -> np.ndarray:
    return np.array([0.0] * dy.size, dy.dtype).reshape(dy.shape)


def backward(dy: np.ndarray, saved: None) -> np.ndarray:
    return np.zeros_like(dy)


add(
    "step",
    forward=forward,
    backward=gradient_to_x(backward),
    reference=reference,
    reference_backward=gradient_to_x(reference_backward),
)
