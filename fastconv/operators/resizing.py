"""ONNX's Resize and Upsample: every mode, coordinate, nearest rule and policy, and the gradient.

Along each axis an output is a weighted sum of inputs, which a sparse matrix holds; the gradient is its transpose. Where
`fastconv.functional.resize` computes the same, that is called. Source: ONNX Resize, version 19, and onnx.reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv.arrays import FLOATS
from fastconv.errors import ShapeError
from fastconv.machine.memory import require
from fastconv.ops.registry import OPS

__all__ = ["lengths_of", "positions", "resize", "taps"]

COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip
NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
MODES = ("nearest", "linear", "cubic")


def resize(
    x: np.ndarray,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    antialias: int = 0,
    axes: Any = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """x at another size, and the pull of its gradient; attributes and inputs are those of ONNX Resize."""
    mode = {"bilinear": "linear"}.get(mode, mode)
    for name, value, known in (
        ("mode", mode, MODES), ("coordinate_transformation_mode", coordinate_transformation_mode, COORDINATES),
        ("nearest_mode", nearest_mode, NEAREST),
        ("keep_aspect_ratio_policy", keep_aspect_ratio_policy, ("stretch", "not_larger", "not_smaller")),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    over = [int(axis) % x.ndim for axis in (range(x.ndim) if axes is None else np.asarray(axes).reshape(-1))]
    factors, lengths = lengths_of(x, over, scales, sizes, keep_aspect_ratio_policy)
    output = list(x.shape)
    for axis, m in zip(over, lengths, strict=True):
        output[axis] = m
    require("Resize", math.prod(output) * x.itemsize)
    if coordinate_transformation_mode == "tf_crop_and_resize":
        region = np.asarray(roi, float).reshape(-1) if roi is not None else np.empty(0)
        if len(region) != 2 * len(over):
            raise ShapeError(f"roi must be {2 * len(over)} numbers, got {len(region)}")
    else:
        region = np.tile([0.0], 2 * len(over))
        by_kernel = _by_kernel(
            x, over, factors, lengths, mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a,
            exclude_outside, antialias,
        )  # fmt: skip
        if by_kernel is not None:
            return by_kernel
    rows: list[tuple[int, Any]] = []
    outside = np.zeros((1,) * x.ndim, bool)
    for place, (axis, factor, m) in enumerate(zip(over, factors, lengths, strict=True)):
        n = x.shape[axis]
        if m == n and factor == 1 and coordinate_transformation_mode != "tf_crop_and_resize":
            continue
        at = positions(
            np.arange(m), m, n, factor, coordinate_transformation_mode, region[place], region[place + len(over)]
        )
        if coordinate_transformation_mode == "tf_crop_and_resize":
            outside = outside | ((at < 0) | (at > n - 1)).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        rows.append((axis, _matrix(at, n, factor, mode, nearest_mode, cubic_coeff_a, exclude_outside, antialias)))
    y = x if x.dtype in FLOATS else x.astype(np.float64)
    for axis, matrix in rows:
        y = _along(matrix.astype(y.dtype), y, axis)
    y = y.astype(x.dtype, copy=False)
    if outside.any():
        y = np.where(outside, np.asarray(extrapolation_value, x.dtype), y)

    def pull(dy: np.ndarray) -> np.ndarray:
        dy = np.where(outside, 0, dy).astype(dy.dtype) if outside.any() else dy
        for axis, matrix in reversed(rows):
            dy = _along(matrix.T.tocsr().astype(dy.dtype), dy, axis)
        return dy

    return y, pull


def lengths_of(
    x: np.ndarray, over: Sequence[int], scales: Any, sizes: Any, policy: str
) -> tuple[list[float], list[int]]:
    """The factor and the output's length along each axis."""
    given = sizes if sizes is not None and np.size(sizes) else scales
    if given is None or np.size(given) != len(over):
        raise ShapeError(f"scales or sizes must be {len(over)} numbers, got {0 if given is None else np.size(given)}")
    numbers = np.asarray(given).reshape(-1).tolist()
    ns = [x.shape[axis] for axis in over]
    if given is scales:
        if not all(0 < number < math.inf for number in numbers):
            raise ShapeError(f"scales must be positive, got {numbers}")
        lengths = [math.floor(n * number) for n, number in zip(ns, numbers, strict=True)]
        if any(n and not m for n, m in zip(ns, lengths, strict=True)):
            raise ShapeError(f"scales {numbers} leave nothing of {x.shape}")
        return [float(number) for number in numbers], lengths
    lengths = [int(number) for number in numbers]
    if any(m < 1 for n, m in zip(ns, lengths, strict=True) if n):
        raise ShapeError(f"sizes must be at least 1, got {lengths}")
    factors = [m / n if n else 1.0 for n, m in zip(ns, lengths, strict=True)]
    if policy != "stretch":
        factor = (min if policy == "not_larger" else max)(factors)
        factors = [factor] * len(over)
        lengths = [math.floor(factor * n + 0.5) for n in ns]
    return factors, lengths


def positions(
    outputs: np.ndarray, m: int, n: int, factor: float, mode: str, begin: float = 0.0, end: float = 0.0
) -> np.ndarray:
    """Where outputs, of m along an axis, lie among its n inputs."""
    o = outputs.astype(np.float64)
    length = factor * n
    if mode == "align_corners":
        return np.zeros(len(o)) if length == 1 or m == 1 else o * (n - 1) / (length - 1)
    if mode == "asymmetric":
        return o / factor
    if mode == "tf_half_pixel_for_nn":
        return (o + 0.5) / factor
    if mode == "tf_crop_and_resize":
        span = (end - begin) * (n - 1)
        return begin * (n - 1) + (np.full(len(o), span / 2) if m == 1 else o * span / (m - 1))
    if mode == "pytorch_half_pixel" and m == 1:
        return np.zeros(len(o))
    offset = n / 2 * (1 - m / length) if mode == "half_pixel_symmetric" and length else 0.0
    return offset + (o + 0.5) / factor - 0.5


def taps(
    at: np.ndarray, factor: float, mode: str, nearest: str, a: float, antialias: int
) -> tuple[np.ndarray, np.ndarray]:
    """(outputs, taps): the inputs around each position, beyond the border too, and their weights."""
    if mode == "nearest":
        return NEAREST[nearest](at)[:, None], np.ones((len(at), 1))
    shrink = min(factor, 1.0) if antialias else 1.0
    radius = (1 if mode == "linear" else 2) / shrink
    first = math.floor(-radius) + 1
    require("Resize", len(at) * (2 - 2 * first) * 40)
    found = np.floor(at)[:, None] + np.arange(first, 2 - first)
    weights = (_linear if mode == "linear" else _cubic)((found - at[:, None]) * shrink, a)
    return found, weights / weights.sum(axis=1, keepdims=True) if antialias else weights


def _matrix(
    at: np.ndarray, n: int, factor: float, mode: str, nearest: str, a: float, exclude_outside: int, antialias: int
) -> Any:
    """(outputs, n): what each output takes of each input."""
    from scipy.sparse import csr_array  # late: it takes as long to import as all of fastconv

    found, weights = taps(at, factor, mode, nearest, a, antialias)
    if exclude_outside and mode != "nearest":
        weights = np.where((found < 0) | (found >= n), 0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    columns = np.clip(found, 0, n - 1).astype(np.int64)
    outputs = np.repeat(np.arange(len(at)), found.shape[1])
    return csr_array((weights.reshape(-1), (outputs, columns.reshape(-1))), shape=(len(at), n))


def _linear(distance: np.ndarray, a: float) -> np.ndarray:
    weights: np.ndarray = np.clip(1 - np.abs(distance), 0, 1)
    return weights


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _along(matrix: Any, x: np.ndarray, axis: int) -> np.ndarray:
    """The matrix times every line of x along an axis."""
    lines = np.moveaxis(x, axis, 0)
    product = matrix @ lines.reshape(len(lines), math.prod(lines.shape[1:]))
    return np.moveaxis(product.reshape(matrix.shape[0], *lines.shape[1:]), 0, axis)


def _by_kernel(
    x: np.ndarray, over: Sequence[int], factors: Sequence[float], lengths: Sequence[int], mode: str, coordinates: str,
    nearest: str, a: float, exclude_outside: int, antialias: int,
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]] | None:  # fmt: skip
    """The same by `fastconv.functional.resize`, for whole factors on the spatial axes of a batch; else None."""
    by = dict(zip(over, factors, strict=True))
    if x.dtype not in FLOATS or not 3 <= x.ndim <= 5 or not x.size or by.get(0, 1) != 1 or by.get(1, 1) != 1:
        return None
    scale = tuple(by.get(axis, 1.0) for axis in range(2, x.ndim))
    if any(factor != int(factor) for factor in scale) or antialias:
        return None
    corners = coordinates == "align_corners"
    serves = {
        "nearest": coordinates == "asymmetric" and nearest == "floor",
        "linear": coordinates in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners"),
        "cubic": coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners")
        and x.ndim == 4 and a == -0.75 and not exclude_outside,
    }  # fmt: skip
    if not serves[mode]:
        return None
    op = OPS["resize"]
    options: dict[str, Any] = {} if mode == "nearest" else {"align_corners": corners}
    y, saved = op.forward(x, scale=scale, mode=mode, **options)

    def pull(dy: np.ndarray) -> np.ndarray:
        dx = op.backward(np.asarray(dy), saved, (True,))[0]
        assert dx is not None
        return dx

    return y, pull
