"""Binary cross entropy of logits: every element a probability of its own.

    -(pos_weight * target * log s + (1 - target) * log(1 - s)) * weight,     s = sigmoid(x)

x and target of any shape, the same; weight and pos_weight broadcast to it; "mean" divides by x.size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.arrays import as_floats
from fastconv.errors import ShapeError
from fastconv.ops.activation import naive_sigmoid, naive_softplus
from fastconv.ops.loss import errors
from fastconv.ops.loss.common import naive_reduce, naive_shares, reduced
from fastconv.ops.registry import Gradients, add

OP = "bce_with_logits"

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(
    x: Any, target: Any, weight: Any, pos_weight: Any, reduction: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """x, target, and weight and pos_weight in x's shape."""
    x, target, weight, pos_weight = as_floats(OP, x=x, target=target, weight=weight, pos_weight=pos_weight)
    x, target = errors.prepare(OP, x, target, reduction)
    weights = []
    for name, factor in (("weight", weight), ("pos_weight", pos_weight)):
        try:
            weights.append(None if factor is None else np.broadcast_to(factor, x.shape))
        except ValueError:
            raise ShapeError(f"{OP}: {name} must broadcast to x's shape {x.shape}, got {factor.shape}") from None
    return x, target, *weights


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    x: Any, target: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
) -> tuple[np.ndarray, Any]:
    x, target, weight, pos_weight = prepare(x, target, weight, pos_weight, reduction)
    ones = [1.0] * x.size
    elements = list(
        zip(
            x.ravel().tolist(),
            target.ravel().tolist(),
            ones if weight is None else weight.ravel().tolist(),
            ones if pos_weight is None else pos_weight.ravel().tolist(),
            strict=True,
        )
    )
    losses = [
        w * ((-p * t * v if v < 0 else (1 - t) * v) + (1 + (p - 1) * t) * naive_softplus(-abs(v)))
        for v, t, w, p in elements
    ]
    return naive_reduce(losses, reduction, x.size, x, x.shape), (elements, x.shape, reduction)


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    elements, shape, reduction = saved
    dxs, dtargets = [], []
    for (v, t, w, p), share in zip(
        elements, naive_shares(dy, reduction, len(elements), len(elements)), strict=True
    ):  # fmt: skip
        dxs.append(share * w * ((1 - t) * naive_sigmoid(v) - p * t * naive_sigmoid(-v)))
        dtargets.append(share * w * (p * naive_softplus(-v) - naive_softplus(v) if p != 1 else -v))
    dx, dtarget = (np.array(ds, dy.dtype).reshape(shape) for ds in (dxs, dtargets))
    return dx, dtarget


# --- fast ------------------------------------------------------------------------------------------------------------


def forward(
    x: Any, target: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
) -> tuple[np.ndarray, errors.Saved]:
    if weight is None and pos_weight is None:
        return errors.forward(OP, x, target, reduction=reduction)
    x, target, weight, pos_weight = prepare(x, target, weight, pos_weight, reduction)
    with np.errstate(all="ignore"):
        positive = target if pos_weight is None else pos_weight * target
        negative = 1 - target
        losses = np.where(x < 0, -positive, negative) * x + (positive + negative) * _softplus(-np.abs(x))
        if weight is not None:
            losses *= weight
        if reduction != "none":
            losses = reduced(float(losses.sum(dtype=np.float64)), reduction, x.size, x.dtype)
    return np.asarray(losses), errors.Saved(x, target, None, reduction, weight, pos_weight)


def _softplus(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = np.logaddexp(x, 0)
    return y


def backward(dy: np.ndarray, saved: errors.Saved, needs: tuple[bool, ...]) -> Gradients:
    x, target, _, reduction, weight, pos_weight = saved
    if weight is None and pos_weight is None:
        return errors.backward(OP, dy, saved, needs)
    with np.errstate(all="ignore"):
        shares = dy / max(1, x.size) if reduction == "mean" else dy
        if weight is not None:
            shares = shares * weight
        positive = target if pos_weight is None else pos_weight * target
        e = np.exp(-np.abs(x))
        lower, upper = e / (1 + e), 1 / (1 + e)  # of sigmoid(x) and sigmoid(-x) the smaller one, and the other
        dx = shares * np.where(x < 0, (1 - target) * lower - positive * upper, (1 - target) * upper - positive * lower)
        dtarget = None
        if len(needs) > 1 and needs[1]:
            inner = -x if pos_weight is None else pos_weight * _softplus(-x) - _softplus(x)
            dtarget = np.asarray(shares * inner, x.dtype)
    return np.asarray(dx, x.dtype), dtarget


add(OP, forward, backward, reference, reference_backward, denominator=errors.denominator_of)
