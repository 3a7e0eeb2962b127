"""Softmax along an axis, and its logarithm.

    softmax       exp(x) / sum(exp(x))                      the sum over the axis `dim`
    log_softmax   x - log(sum(exp(x)))

x of any shape, y of the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import softmax as kernels
from fastconv.arrays import as_floats, memoised
from fastconv.errors import ShapeError, integer
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import as_rows, axis_of, from_rows
from fastconv.ops.registry import Gradients, add

WORK = 8  # what an element costs, in elements of a copy


# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(op: str, x: Any, dim: Any) -> tuple[np.ndarray, int]:
    """x and `dim`, counted from the front."""
    (x,) = as_floats(op, x=x)
    axis = axis_of(op, x, dim)
    if axis and x.shape[axis] == 0:
        raise ShapeError(f"{op}: x must not be empty along dim {axis}, got shape {x.shape}")
    return x, axis


def check(op: str, *, dim: Any = 1) -> None:
    integer(op, "dim", dim)


# --- reference -------------------------------------------------------------------------------------------------------


def reference(op: str, x: Any, *, dim: int = 1) -> tuple[np.ndarray, Any]:
    x, axis = prepare(op, x, dim)
    logs = [naive_log_softmax(row) for row in as_rows(op, x, axis).tolist()] if x.size else []
    ys = logs if op == "log_softmax" else [[math.exp(value) for value in row] for row in logs]
    return from_rows(np.array(ys, x.dtype), x.shape, axis), (logs, axis)


def naive_log_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    if math.isnan(sum(row)) or math.isinf(top):
        return [math.nan] * len(row)
    log_sum = math.log(sum(math.exp(value - top) for value in row))
    return [(value - top) - log_sum for value in row]


def reference_backward(op: str, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    logs, axis = saved
    dxs = []
    for row, ds in zip(logs, as_rows(op, dy, axis).tolist() if dy.size else [], strict=True):
        ps = [math.exp(value) for value in row]
        if op == "log_softmax":
            total = sum(ds)
            dxs.append([d - p * total for d, p in zip(ds, ps, strict=True)])
        else:
            total = sum(d * p for d, p in zip(ds, ps, strict=True))
            dxs.append([(d - total) * p for d, p in zip(ds, ps, strict=True)])
    return (from_rows(np.array(dxs, dy.dtype), dy.shape, axis),)


# --- fast: the axis last ---------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    table: np.ndarray  # x (rows, length)
    log_sums: np.ndarray  # (rows, 2) float64: the largest x, log(sum(exp(x - largest)))
    shape: tuple[int, ...]
    axis: int


@memoised("x")
def axis_for(op: str, x: np.ndarray, dim: Any) -> int:
    return prepare(op, x, dim)[1]


def forward(op: str, x: Any, *, dim: int = 1) -> tuple[np.ndarray, Saved]:
    x, axis = axis_for(op, x, dim)
    table = as_rows(op, x, axis)
    if not x.size:
        return np.empty(x.shape, x.dtype), Saved(table, np.empty(0), x.shape, axis)
    y = allocate(op, table.shape, x.dtype)
    if op == "log_softmax":
        log_sums = row_log_sums(op, table)
        kernels.log_softmax(table, log_sums, y, threads_for(2 * y.nbytes))
    else:
        log_sums = allocate(op, (len(table), 2), np.dtype(np.float64))
        kernels.softmax(table, y, log_sums, threads_for(WORK * y.nbytes))
    return from_rows(y, x.shape, axis), Saved(table, log_sums, x.shape, axis)


def row_log_sums(op: str, table: np.ndarray) -> np.ndarray:
    """(rows, 2) float64: every row's largest element, and the log of the sum of exp(row - largest)."""
    log_sums = allocate(op, (len(table), 2), np.dtype(np.float64))
    kernels.log_sums(table, log_sums, threads_for(WORK * table.nbytes))
    return log_sums


def backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    table, log_sums, shape, axis = saved
    dy_rows = as_rows(op, dy, axis)
    dx = allocate(op, table.shape, table.dtype)
    if dx.size:
        kernels.softmax_backward(
            dy_rows, table, log_sums, dx, op == "log_softmax", threads_for(WORK * dx.nbytes)
        )  # fmt: skip
    return (from_rows(dx, shape, axis),)


for _name in ("softmax", "log_softmax"):
    add(
        _name,
        forward=partial(forward, _name),
        backward=partial(backward, _name),
        reference=partial(reference, _name),
        reference_backward=partial(reference_backward, _name),
        check=partial(check, _name),
    )
