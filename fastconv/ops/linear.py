"""The fully-connected layer's arithmetic.

    y[..., k] = b[k] + sum over f of x[..., f] * w[k, f]

x (..., F), w (K, F), b (K,) or None, y (..., K).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv.arrays import as_floats, channel_sums, contiguous, memoised, need_axes
from fastconv.errors import ShapeError
from fastconv.machine.memory import require
from fastconv.ops.common import as_rows, need_entries
from fastconv.ops.registry import Gradients, add
from fastconv.products import product

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(x: Any, w: Any, b: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    x, w, b = as_floats("linear", x=x, w=w, b=b)
    rule("linear", x, w, b)
    return x, w, b


def rule(op: str, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> tuple[int, ...]:
    """The shape of y."""
    need_axes(op, "w", w, "K F")
    if x.ndim < 2:
        raise ShapeError(f"{op}: x must have at least 2 axes (N F), got {x.ndim}: shape {x.shape}")
    if x.shape[-1] != w.shape[1]:
        raise ShapeError(f"{op}: x must have as many features as w, got x {x.shape} and w {w.shape}")
    need_entries(op, "row of w", w.shape[:1], b=b)
    require(op, x.dtype.itemsize * w.shape[0] * math.prod(x.shape[:-1]))
    return (*x.shape[:-1], w.shape[0])


# --- reference -------------------------------------------------------------------------------------------------------


def reference(x: Any, w: Any, b: Any = None) -> tuple[np.ndarray, Any]:
    x, w, b = prepare(x, w, b)
    ws, bs = w.tolist(), [0.0] * len(w) if b is None else b.tolist()
    ys = []
    for row in x.reshape(-1, x.shape[-1]).tolist():
        for weights, total in zip(ws, bs, strict=True):
            for value, weight in zip(row, weights, strict=True):
                total += value * weight
            ys.append(total)
    return np.array(ys, x.dtype).reshape(*x.shape[:-1], len(ws)), (x, w, b)


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    x, w, b = saved
    filters, features = w.shape
    ws, xs, dys = w.tolist(), x.reshape(-1, features).tolist(), dy.reshape(-1, filters).tolist()
    dxs = [[0.0] * features for _ in xs]
    dws, dbs = [[0.0] * features for _ in ws], [0.0] * filters
    for n, row in enumerate(xs):
        for k, d in enumerate(dys[n]):
            dbs[k] += d
            for f in range(features):
                dxs[n][f] += d * ws[k][f]
                dws[k][f] += d * row[f]
    db = None if b is None else np.array(dbs, dy.dtype)
    return np.array(dxs, dy.dtype).reshape(x.shape), np.array(dws, dy.dtype), db


# --- fast: one BLAS call a block of the output -----------------------------------------------------------------------


Saved = tuple[np.ndarray, np.ndarray, bool]  # x (..., F), w (K, F), whether there is a bias

shape_of_y = memoised("x", "w", "b")(rule)


def forward(x: Any, w: Any, b: Any = None) -> tuple[np.ndarray, Saved]:
    x, w, b, shape = shape_of_y("linear", x, w, b)
    y = product("linear", rows(x), w.T, b)
    return y if x.ndim == 2 else y.reshape(shape), (x, w, b is not None)


def rows(x: np.ndarray) -> np.ndarray:
    """x (..., F) as a matrix."""
    return x if x.ndim == 2 else as_rows("linear", x, x.ndim - 1)


def saved(x: Any, w: Any, b: Any) -> Saved:
    """What `forward` saves, without the outputs (fastconv.plan)."""
    x, w, b, _ = shape_of_y("linear", x, w, b)
    return x, w, b is not None


def backward(dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    x, w, has_bias = saved
    dx: np.ndarray | None = None
    dw: np.ndarray | None = None
    db: np.ndarray | None = None
    dy_rows, x_rows = rows(dy), rows(x)
    if needs[0]:
        dx = product("linear", dy_rows, w)  # y = x @ w.T
        dx = dx if x.ndim == 2 else dx.reshape(x.shape)
    if needs[1]:
        dw = product("linear", dy_rows.T, x_rows)
    if has_bias and len(needs) > 2 and needs[2]:
        db = channel_sums(contiguous("linear", dy_rows))
    return dx, dw, db


add("linear", forward, backward, reference, reference_backward)
