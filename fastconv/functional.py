"""Every operation as a stateless function: torch.nn.functional's names and argument order, NumPy arrays in and out.

Logical order is N, C, then the spatial axes. float32 and float64 are kept; float16, integers and bools become the other
array's float type, or float32. Any strides are accepted and inputs are never modified. Each function has a naive twin
of the same name and signature in `fastconv.reference`, and `fastconv.vjp` gives its gradients.

All of them raise ShapeError (a ValueError) for shapes and window parameters that do not fit, TypeError for arrays that
hold no real numbers or for float32 beside float64, and MemoryError for what this process's memory could not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv.ops import OPS
from fastconv.ops.registry import FUNCTIONS

Array = np.ndarray
Sizes = int | tuple[int, ...]
Stride = int | Fraction | tuple[int | Fraction, ...]
Padding = int | str | tuple[Any, ...]


def conv1d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Stride = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Array:
    """Convolution along one axis: x (N, C, L), w (K, C / groups, R), b (K,) -> (N, K, L'). See `conv2d`."""
    return OPS["conv1d"].forward(
        x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm
    )[0]


def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Stride = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Array:
    """Convolution in the sense of CNNs (cross-correlation: the filters are not reversed).

    x          (N, C, H, W)
    w          (K, C / groups, R, S)
    b          (K,) or None
    stride     int, Fraction or a tuple of them. Fraction(S2, S1): upsample by S1 (zeros between), convolve, keep every
               S2-th output
    padding    zeros around the (upsampled) input: int, tuple of ints, tuple of (before, after), "valid", "same"
               (ceil(n / stride) outputs, an odd zero at the end: ONNX SAME_UPPER) or "same_lower" (at the start)
    dilation   input steps between neighbouring taps
    groups     filter k sees the C / groups channels of group k // (K / groups)
    algorithm  "auto" or "im2col"

    Returns (N, K, H', W') with H' = floor((H + before + after - dilation * (R - 1) - 1) / stride) + 1.
    Source: the chapter's convolutional layer; torch.nn.functional.conv2d; ONNX Conv.
    """
    return OPS["conv2d"].forward(
        x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm
    )[0]


def conv3d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Stride = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Array:
    """Convolution over volumes: x (N, C, D, H, W), w (K, C / groups, Q, R, S) -> (N, K, D', H', W'). See `conv2d`."""
    return OPS["conv3d"].forward(
        x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm
    )[0]


def __getattr__(name: str) -> Callable[..., Any]:
    try:
        return FUNCTIONS[name]
    except KeyError:
        raise AttributeError(f"module 'fastconv.functional' has no attribute {name!r}") from None
