"""The norm of rows: mean and variance over the last axes.

    y = (x - mean) / sqrt(var + eps) * weight + bias

    x              (..., *normalized_shape)
    weight, bias   normalized_shape; None: 1 and 0

var is the biased variance.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import norm as kernels
from fastconv.arrays import as_floats, contiguous, memoised
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import need_entries
from fastconv.ops.norm.common import Arguments, in_places, naive, need_eps, reference_backward
from fastconv.ops.registry import Gradients, add
from fastconv.window import integers, is_sequence

BLOCK = 1 << 16  # elements of the rows that one partial sum of layer_norm's weight gradient covers

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(
    op: str, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any
) -> tuple[Arguments, tuple[int, ...]]:
    x, weight, bias = as_floats(op, x=x, weight=weight, bias=bias)
    shape = normalized(op, normalized_shape)
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(f"{op}: x must end in the axes of normalized_shape {shape}, got shape {x.shape}")
    need_entries(op, "element of normalized_shape", shape, weight=weight, bias=bias)
    return Arguments(x, None, None, weight, bias, 0.0, need_eps(op, eps)), shape


def normalized(op: str, normalized_shape: Any) -> tuple[int, ...]:
    count = len(normalized_shape) if is_sequence(normalized_shape) else 1
    if not count:
        raise ShapeError(f"{op}: normalized_shape must have at least one axis, got {normalized_shape!r}")
    return integers(op, "normalized_shape", normalized_shape, count, 1)


def check(op: str, normalized_shape: Any, *, eps: Any = 1e-5) -> None:
    normalized(op, normalized_shape)
    need_eps(op, eps)


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[np.ndarray, Any]:
    a, shape = prepare("layer_norm", x, normalized_shape, weight, bias, eps)
    size = math.prod(shape)
    sets = [list(range(first, first + size)) for first in range(0, a.x.size, size)]
    return naive(a, sets, [i % size for i in range(a.x.size)])[:2]


# --- fast: rows in C order -------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    table: np.ndarray  # x (rows, D)
    weight: np.ndarray  # (D,)
    statistics: np.ndarray  # (rows, 2) float64: mean, 1 / sqrt(var + eps)
    x_shape: tuple[int, ...]
    shape: tuple[int, ...]
    has_weight: bool
    has_bias: bool


@memoised("x", "weight", "bias")
def plan(
    op: str, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, normalized_shape: Any, eps: Any
) -> tuple[tuple[int, ...], float]:
    """normalized_shape and eps."""
    a, shape = prepare(op, x, normalized_shape, weight, bias, eps)
    return shape, a.eps


def forward(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[np.ndarray, Saved]:
    op = "layer_norm"
    x, weight, bias, (shape, eps) = plan(op, x, weight, bias, normalized_shape, eps)
    size = math.prod(shape)
    table = contiguous(op, x).reshape(-1, size)
    w = np.ones(size, table.dtype) if weight is None else contiguous(op, weight).reshape(-1)
    b = np.zeros(size, table.dtype) if bias is None else contiguous(op, bias).reshape(-1)
    y = allocate(op, table.shape, table.dtype)
    statistics = allocate(op, (len(table), 2), np.dtype(np.float64))
    kernels.layer_norm(table, w, b, y, statistics, eps, threads_for(2 * y.nbytes))
    saved = Saved(table, w, statistics, x.shape, shape, weight is not None, bias is not None)
    return y.reshape(x.shape), saved


def backward(dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    op = "layer_norm"
    table, weight, statistics, x_shape, shape, has_weight, has_bias = saved
    dy_table = contiguous(op, dy).reshape(table.shape)
    dx = allocate(op, table.shape, table.dtype)
    block_rows = max(16, BLOCK // table.shape[1])
    sums = allocate(op, (-(-len(table) // block_rows), 2, table.shape[1]), np.dtype(np.float64))
    kernels.layer_norm_backward(
        dy_table, table, weight, statistics, dx, sums, block_rows, threads_for(3 * dx.nbytes)
    )  # fmt: skip
    with np.errstate(all="ignore"):
        dweight, dbias = (total.astype(dx.dtype).reshape(shape) for total in sums.sum(axis=0))
    found = dx.reshape(x_shape), dweight if has_weight else None, dbias if has_bias else None
    return in_places((0, 2, 3), found, len(needs))


add(
    "layer_norm",
    forward=forward,
    backward=backward,
    reference=reference,
    reference_backward=reference_backward,
    check=partial(check, "layer_norm"),
)
