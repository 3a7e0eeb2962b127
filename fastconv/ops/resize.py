"""Interpolation along every spatial axis, as torch.nn.functional.interpolate: nearest, linear and cubic.

    y[n, c, o] = sum over the neighbours i of source(o) of weight(o, i) * x[n, c, i], along one axis after the other

    x   (N, C, *spatial), one to three spatial axes
    y   (N, C, *size)       size given, or floor(n * scale)

With r = 1 / scale where a scale is given, else n / m for m outputs of n inputs, output o's source is
    nearest              floor(o * r), in float32; with two axes r = n / m for m = n and m = 2 n, whatever the scale
    linear, cubic        (o + 1/2) * r - 1/2, for linear at least 0
    with align_corners   o * (n - 1) / (m - 1)
linear weighs the two neighbours, cubic four by Keys' kernel with a = -3/4, positions beyond the border standing for the
border's; linear copies an axis whose length stays. The backward pass applies the transposed weights.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import resampling
from fastconv.arrays import channels_last, lift, logical, memoised
from fastconv.errors import ShapeError, nearest
from fastconv.machine.memory import allocate, require, require_array
from fastconv.machine.threads import threads_for
from fastconv.ops.common import number
from fastconv.ops.naive import LIST, PAIR
from fastconv.ops.registry import add
from fastconv.ops.spatial import flag, gradient_to_x, planes, prepare_input
from fastconv.window import AXES, count_axes, integers, per_axis

OP = "resize"
MODES = ("nearest", "linear", "cubic")
A = -0.75
TASKS = 16  # pieces that the work is cut into at least, where its size allows
KEPT = 1 << 14  # positions of the longest axes whose matrices are kept
MATRIX_BYTES = 256  # of an axis's two matrices, per position, at most


# --- shape rule ------------------------------------------------------------------------------------------------------


class Axis(NamedTuple):
    """One axis of a resize."""

    n: int
    m: int
    ratio: float  # inputs from one output to the next
    mode: str
    align_corners: bool


def prepare(x: Any, size: Any, scale: Any, mode: Any, align_corners: Any) -> tuple[np.ndarray, tuple[Axis, ...]]:
    x = prepare_input(OP, x)
    spatial = x.shape[2:]
    count = len(spatial)
    if mode == "cubic" and count != 2:
        raise ShapeError(f"{OP}: cubic must have 4 axes (N C H W), got {x.ndim}: shape {x.shape}")
    sizes, scales, align_corners = parse(count, size, scale, mode, align_corners)
    if scale is not None:
        sizes = tuple(floor_product(n, f) for n, f in zip(spatial, scales, strict=True))
        if min(sizes) < 1:
            raise ShapeError(f"{OP}: the output must not be empty: scale {scale!r} makes {sizes} of {spatial}")
    require_array(OP, (*x.shape[:2], *sizes), x.itemsize)
    require(OP, MATRIX_BYTES * sum(sizes + spatial))
    axes = []
    for n, m, factor in zip(spatial, sizes, scales, strict=True):
        ratio = n / m if factor is None or (mode == "nearest" and count == 2 and m in (n, 2 * n)) else 1 / factor
        if mode == "linear" and m == n:
            axes.append(Axis(n, m, 1.0, "nearest", False))
        else:
            axes.append(Axis(n, m, ratio, mode, align_corners))
    return x, tuple(axes)


def parse(
    count: int, size: Any, scale: Any, mode: Any, align_corners: Any
) -> tuple[tuple[int, ...], tuple[Any, ...], bool]:
    """What does not depend on x but for its spatial axes: the sizes or the scales of all of them, and the flag."""
    if mode not in MODES:
        raise ShapeError(f"{OP}: mode must be one of {', '.join(MODES)}, got {mode!r}{nearest(mode, MODES)}")
    align_corners = flag(OP, "align_corners", align_corners)
    if mode == "nearest" and align_corners:
        raise ShapeError(f"{OP}: align_corners must be False for nearest, which interpolates nothing")
    if (size is None) == (scale is None):
        raise ShapeError(f"{OP}: exactly one of size and scale must be given, got size={size!r} and scale={scale!r}")
    if scale is None:
        return integers(OP, "size", size, count, 1), (None,) * count, align_corners
    return (), factors(scale, count), align_corners


def check(
    *, size: Any = None, scale: Any = None, mode: Any = "nearest", align_corners: Any = False, count: int | None = None
) -> None:
    """count: of spatial axes, where that is known."""
    count = count or (2 if mode == "cubic" else count_axes(size, scale))
    parse(count, size, scale, mode, align_corners)


def factors(scale: Any, count: int) -> tuple[float, ...]:
    entries = per_axis(OP, "scale", scale, count)
    for entry in entries:
        if not 0 < number(OP, "scale", entry) < math.inf:
            raise ShapeError(f"{OP}: scale must be positive and finite, got {entry!r}")
    return tuple(float(entry) for entry in entries)


def floor_product(n: int, factor: float) -> int:
    product = n * factor
    if product == math.inf:
        raise MemoryError(f"{OP}: {n} * {factor} outputs are more than any memory holds")
    return math.floor(product)


# --- reference -------------------------------------------------------------------------------------------------------


def neighbours(axis: Axis, o: int) -> list[tuple[int, float]]:
    """(input position, weight) of everything that output `o` is made of."""
    n, m = axis.n, axis.m
    if axis.mode == "nearest":
        return [(min(math.floor(np.float32(o) * np.float32(axis.ratio)), n - 1), 1.0)]
    if axis.align_corners:
        source = o * (n - 1) / (m - 1) if m > 1 else 0.0
    else:
        source = (o + 0.5) * axis.ratio - 0.5
    if axis.mode == "linear":
        source = max(source, 0.0)
        first = min(math.floor(source), n - 1)
        part = min(max(source - first, 0.0), 1.0)
        return [(first, 1 - part), (min(first + 1, n - 1), part)]
    first = math.floor(source)
    part = source - first
    return [(min(max(first + k, 0), n - 1), keys(part - k)) for k in (-1, 0, 1, 2)]


def keys(t: float) -> float:
    """Keys' cubic convolution kernel."""
    t = abs(t)
    if t <= 1:
        return ((A + 2) * t - (A + 3)) * t * t + 1
    return ((t - 5) * t + 8) * t * A - 4 * A if t < 2 else 0.0


def reference(
    x: Any, *, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: bool = False
) -> tuple[np.ndarray, Any]:
    x, axes = prepare(x, size, scale, mode, align_corners)
    sources = terms(axes)
    ys = [[sum(plane[i] * weight for i, weight in source) for source in sources] for plane in planes(x)]
    return np.array(ys, x.dtype).reshape(*x.shape[:2], *(axis.m for axis in axes)), (x.shape, sources)


def terms(axes: tuple[Axis, ...]) -> list[list[tuple[int, float]]]:
    """For every output in C order: the flat input positions that it is made of, with their weights."""
    require("naive loops", math.prod(axis.m for axis in axes) * (LIST + PAIR * 4 ** len(axes)))
    per_axis = [[neighbours(axis, o) for o in range(axis.m)] for axis in axes]
    result = []
    for position in itertools.product(*per_axis):
        source = []
        for combination in itertools.product(*position):
            index, weight = 0, 1.0
            for axis, (i, part) in zip(axes, combination, strict=True):
                index, weight = index * axis.n + i, weight * part
            source.append((index, weight))
        result.append(source)
    return result


def reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    x_shape, sources = saved
    dxs = planes(np.zeros(x_shape))
    for dx, d in zip(dxs, planes(dy), strict=True):
        for value, source in zip(d, sources, strict=True):
            for i, weight in source:
                dx[i] += value * weight
    return np.array(dxs, dy.dtype).reshape(x_shape)


# --- fast: one sparse matrix an axis ---------------------------------------------------------------------------------


class Rows(NamedTuple):
    """A sparse matrix by rows: row o has weights[begins[o] : begins[o + 1]] at columns[the same]."""

    begins: np.ndarray
    columns: np.ndarray
    weights: np.ndarray

    def transposed(self, count: int) -> Rows:
        """With `count` rows."""
        order = np.argsort(self.columns, kind="stable")
        row = np.repeat(np.arange(len(self.begins) - 1), np.diff(self.begins))
        begins = np.concatenate([[0], np.cumsum(np.bincount(self.columns, minlength=count))]).astype(np.intp)
        return Rows(begins, row[order].astype(np.intp), self.weights[order])


def matrices(axis: Axis) -> tuple[Rows, Rows]:
    """The (m, n) matrix of one axis and its transpose, kept for the next call where they are small."""
    return kept_matrices(axis) if axis.n + axis.m <= KEPT else make_matrices(axis)


def make_matrices(axis: Axis) -> tuple[Rows, Rows]:
    n, m = axis.n, axis.m
    o = np.arange(m)
    if axis.mode == "nearest":
        columns = np.minimum(np.floor(o.astype(np.float32) * np.float32(axis.ratio)), n - 1)[:, None]
        weights = np.ones(columns.shape)
    else:
        source = o * ((n - 1) / max(m - 1, 1)) if axis.align_corners else (o + 0.5) * axis.ratio - 0.5
        if axis.mode == "linear":
            source = np.maximum(source, 0)
            first = np.minimum(np.floor(source), n - 1)
            part = np.clip(source - first, 0, 1)
            columns, weights = np.stack([first, first + 1], 1), np.stack([1 - part, part], 1)
        else:
            first = np.floor(source)
            steps = np.arange(-1, 3)
            t = np.abs((source - first)[:, None] - steps)
            near, far = ((A + 2) * t - (A + 3)) * t * t + 1, ((t - 5) * t + 8) * t * A - 4 * A
            columns, weights = first[:, None] + steps, np.where(t <= 1, near, far)
        columns = np.clip(columns, 0, n - 1)
    count = columns.shape[1]
    forward = Rows(np.arange(0, (m + 1) * count, count), columns.astype(np.intp).reshape(-1), weights.reshape(-1))
    return forward, forward.transposed(n)


kept_matrices = lru_cache(maxsize=64)(make_matrices)


@memoised("x")
def axes_of(op: str, x: np.ndarray, *options: Any) -> tuple[Axis, ...]:
    return prepare(x, *options)[1]


def forward(
    x: Any, *, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: bool = False
) -> tuple[np.ndarray, tuple[Axis, ...]]:
    x, axes = axes_of(OP, x, size, scale, mode, align_corners)
    if all(axis.mode == "nearest" for axis in axes):
        return pick(x, axes), axes
    return multiply(x, [matrices(axis)[0] for axis in axes]), axes


def backward(dy: np.ndarray, axes: tuple[Axis, ...]) -> np.ndarray:
    return multiply(dy, [matrices(axis)[1] for axis in axes])


def pick(x: np.ndarray, axes: tuple[Axis, ...]) -> np.ndarray:
    """The nearest elements along every axis at once: each output has one, and its weight is 1."""
    last = channels_last(OP, x)
    out = allocate(OP, (x.shape[0], *(axis.m for axis in axes), x.shape[1]), x.dtype)
    if out.size:
        first = [np.zeros(1, np.intp)] * (AXES - len(axes))
        picked = [*first, *(matrices(axis)[0].columns for axis in axes)]
        twice = axes[-1].m == 2 * axes[-1].n and axes[-1].ratio == 0.5
        resampling.pick(lift(last), lift(out), picked[0], picked[1], picked[2], twice, threads_for(2 * out.nbytes))
    return logical(out)


def multiply(x: np.ndarray, rows: list[Rows]) -> np.ndarray:
    """Every spatial axis multiplied by its matrix; what shrinks most comes first."""
    last = channels_last(OP, x)
    sizes = [len(matrix.begins) - 1 for matrix in rows]
    for axis in sorted(range(len(rows)), key=lambda a: (sizes[a] / last.shape[1 + a], -a)):
        before, n, after = last.shape[: 1 + axis], last.shape[1 + axis], last.shape[2 + axis :]
        out = allocate(OP, (*before, sizes[axis], *after), x.dtype)
        if out.size:
            count = math.prod(before)
            inputs, outputs = last.reshape(count, n, -1), out.reshape(count, sizes[axis], -1)
            pieces = max(1, min(sizes[axis], TASKS // count))
            resampling.combine(inputs, outputs, *rows[axis], pieces, threads_for(2 * out.nbytes + last.nbytes))
        last = out
    return logical(last)


add(OP, forward, gradient_to_x(backward), reference, gradient_to_x(reference_backward), check=check)
