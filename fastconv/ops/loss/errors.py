"""Losses of every element's error.

    mse_loss   (x - target)^2
    l1_loss    |x - target|

x and target of any shape, the same; "mean" divides by x.size. The fast versions serve bce_with_logits, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import loss as kernels
from fastconv.arrays import as_floats
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import Order, in_memory_order, ordered, restored
from fastconv.ops.loss.common import naive_reduce, naive_shares, need_reduction, reduced, reshaped
from fastconv.ops.registry import Gradients, add

WORK = 8  # what an element of bce_with_logits costs, in elements of the others

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(op: str, x: Any, target: Any, reduction: Any) -> tuple[np.ndarray, np.ndarray]:
    need_reduction(op, reduction)
    x, target = as_floats(op, x=x, target=target)
    if target is None:
        raise TypeError(f"{op}: target must hold real numbers, got None")
    if x.shape != target.shape:
        write = reshaped(target, x.shape)
        hint = write and f"; write {write}"
        raise ShapeError(f"{op}: target must have x's shape {x.shape}, got {target.shape}{hint}")
    return x, target


# --- reference -------------------------------------------------------------------------------------------------------


def reference(op: str, x: Any, target: Any, *, reduction: str = "mean") -> tuple[np.ndarray, Any]:
    x, target = prepare(op, x, target, reduction)
    differences = [a - b for a, b in zip(x.ravel().tolist(), target.ravel().tolist(), strict=True)]
    losses = [d * d if op == "mse_loss" else abs(d) for d in differences]
    return naive_reduce(losses, reduction, x.size, x, x.shape), (differences, x.shape, reduction)


def reference_backward(op: str, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    differences, shape, reduction = saved
    dxs = []
    for d, share in zip(differences, naive_shares(dy, reduction, len(differences), len(differences)), strict=True):
        dxs.append(share * (2 * d if op == "mse_loss" else (d > 0) - (d < 0)))
    dx, dtarget = (np.array(ds, dy.dtype).reshape(shape) for ds in (dxs, [-d for d in dxs]))
    return dx, dtarget


# --- fast: over memory as it lies ------------------------------------------------------------------------------------


class Saved(NamedTuple):
    x: np.ndarray  # axes in memory order, as in the others
    target: np.ndarray
    order: Order
    reduction: str
    weight: np.ndarray | None = None
    pos_weight: np.ndarray | None = None


def forward(op: str, x: Any, target: Any, *, reduction: str = "mean") -> tuple[np.ndarray, Saved]:
    x, target = prepare(op, x, target, reduction)
    x, order = in_memory_order(op, x)
    target = ordered(op, target, order)
    threads = threads_for(_traffic(op, 2 * x.nbytes))
    if reduction == "none":
        y = allocate(op, x.shape, x.dtype)
        kernels.errors(kernels.LOSSES[op], x.reshape(-1), target.reshape(-1), y.reshape(-1), threads)
        y = restored(y, order)
    else:
        sums = np.empty(-(-x.size // kernels.ERRORS_OF_ONE_SUM))
        kernels.error_sums(kernels.LOSSES[op], x.reshape(-1), target.reshape(-1), sums, threads)
        with np.errstate(all="ignore"):
            y = reduced(float(sums.sum()), reduction, x.size, x.dtype)
    return y, Saved(x, target, order, reduction)


def _traffic(op: str, nbytes: int) -> int:
    return WORK * nbytes if op == "bce_with_logits" else nbytes


def backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    x, target, order, reduction, *_ = saved
    if reduction == "none":
        dy = ordered(op, dy, order)
    scale = 1 / x.size if reduction == "mean" and x.size else 1.0
    threads = threads_for(_traffic(op, 3 * x.nbytes))
    gradients: list[np.ndarray | None] = [None, None]
    for position in (0, 1):
        if position < len(needs) and needs[position]:
            gradient = allocate(op, x.shape, x.dtype)
            kernels.errors_backward(
                kernels.LOSSES[op], position == 1, dy.reshape(-1), x.reshape(-1), target.reshape(-1),
                gradient.reshape(-1), scale, threads,
            )  # fmt: skip
            gradients[position] = restored(gradient, order)
    return tuple(gradients)


def denominator_of(saved: Saved) -> float:
    """What "mean" divides by."""
    return float(saved.x.size)


for _name in ("mse_loss", "l1_loss"):
    add(
        _name,
        forward=partial(forward, _name),
        backward=partial(backward, _name),
        reference=partial(reference, _name),
        reference_backward=partial(reference_backward, _name),
        denominator=denominator_of,
    )
