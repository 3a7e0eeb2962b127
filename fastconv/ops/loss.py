"""Losses: PyTorch's, with a reduction over all elements ("mean", "sum") or none.

    cross_entropy     -log softmax(x)[target], or -(sum over c of target[c] * log softmax(x)[c])
    nll_loss          -x[target]                                    x: log-probabilities
    mse_loss          (x - target)^2
    l1_loss           |x - target|
    bce_with_logits   -(pos_weight * target * log s + (1 - target) * log(1 - s)) * weight,     s = sigmoid(x)

cross_entropy and nll_loss:
    x         (N, C) or (N, C, d1, ...)
    target    class indices (N,) or (N, d1, ...); for cross_entropy also probabilities of x's shape
    weight    (C,) or None: a factor for every class, constant (no gradient)
    "mean" divides by the sum of the targets' weights, for probabilities by N * d1 * ...
the others:
    x, target any shape, the same
    "mean" divides by x.size
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import loss as kernels
from fastconv._ext import softmax
from fastconv.arrays import as_array, as_floats
from fastconv.errors import ShapeError, integer, nearest
from fastconv.machine.memory import allocate, require
from fastconv.machine.threads import threads_for
from fastconv.ops.activation import WORK, naive_log_softmax, naive_sigmoid, naive_softplus, row_log_sums
from fastconv.ops.common import (
    Order,
    as_rows,
    from_rows,
    in_memory_order,
    need_channels,
    need_entries,
    number,
    ordered,
    restored,
)
from fastconv.ops.registry import Forward, add

REDUCTIONS = ("mean", "sum", "none")

Gradients = tuple["np.ndarray | None", ...]

# --- shape rule ------------------------------------------------------------------------------------------------------


def need_reduction(op: str, reduction: Any) -> None:
    if reduction not in REDUCTIONS:
        names, meant = ", ".join(REDUCTIONS), nearest(reduction, REDUCTIONS)
        raise ValueError(f"{op}: reduction must be one of {names}, got {reduction!r}{meant}")


class Arguments(NamedTuple):
    x: np.ndarray  # (N, C, ...)
    target: np.ndarray  # class indices (rows,), 0 where ignored; or probabilities of x's shape
    probabilities: bool
    valid: np.ndarray | None  # (rows,): False where ignored; None: all of them count
    weight: np.ndarray | None  # (C,)
    smoothing: float


def prepare(
    op: str, x: Any, target: Any, weight: Any, ignore_index: Any, label_smoothing: Any, reduction: Any
) -> Arguments:
    need_reduction(op, reduction)
    smoothing = number(op, "label_smoothing", label_smoothing, 0, 1)
    indices = as_array(op, "target", target)
    if op == "cross_entropy" and indices.ndim == as_array(op, "x", x).ndim:
        given = indices
        x, target, weight = as_floats(op, x=x, target=target, weight=weight)
        classes = need_channels(op, x)
        if target.shape != x.shape:
            raise ShapeError(
                f"{op}: target probabilities must have x's shape {x.shape}, got {target.shape}"
                f"{_target_hint(given, x.shape)}"
            )
        need_entries(op, "class", (classes,), weight=weight)
        return Arguments(x, target, True, None, weight, smoothing)
    x, weight = as_floats(op, x=x, weight=weight)
    need_entries(op, "class", (need_channels(op, x),), weight=weight)
    return Arguments(x, *_indices(op, indices, x.shape, ignore_index), weight, smoothing)


def _indices(
    op: str, target: np.ndarray, shape: tuple[int, ...], ignore_index: Any
) -> tuple[np.ndarray, bool, np.ndarray | None]:
    """Class indices in one row, proven in range, and which of them count."""
    require(op, target.size * 8)
    if target.dtype.kind not in "iu" and target.size:
        raise TypeError(
            f"{op}: target must hold class indices (integers), got {target.dtype}{_target_hint(target, shape)}"
        )
    if target.shape != (shape[0], *shape[2:]):
        raise ShapeError(
            f"{op}: target must have shape {(shape[0], *shape[2:])} for x {shape}, got {target.shape}"
            f"{_target_hint(target, shape)}"
        )
    ignored = integer(op, "ignore_index", ignore_index)
    classes = shape[1]
    indices = np.array(target, np.int64, order="C").reshape(-1)
    if not indices.size:
        return indices, False, None
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest >= 0 and highest < classes and not 0 <= ignored < classes:
        return indices, False, None
    valid = indices != ignored
    wrong = valid & ((indices < 0) | (indices >= classes))
    if wrong.any():
        raise ValueError(
            f"{op}: target must hold class indices from 0 to {classes - 1} (or ignore_index {ignored}), "
            f"got {target.reshape(-1)[wrong][0]}"
        )
    return np.where(valid, indices, 0), False, valid


def _target_hint(target: np.ndarray, shape: tuple[int, ...]) -> str:
    """What to write where a target for an x of `shape` holds its classes in another form."""
    goal = (shape[0], *shape[2:])
    if target.dtype.kind not in "fbiu":
        return "; write numpy.unique(target, return_inverse=True)[1]" if target.shape == goal else ""
    if target.shape == shape:
        return "; write target.argmax(axis=1)"
    write = _reshaped(target, goal) if target.shape != goal else "target"
    if write and target.dtype.kind in "fb":
        write += ".astype(int)"
    return write and f"; write {write}"


def _reshaped(target: np.ndarray, shape: tuple[int, ...]) -> str:
    """What brings target to `shape`, where only axes of length 1 differ; else nothing."""
    if [n for n in target.shape if n != 1] != [n for n in shape if n != 1]:
        return ""
    return "target.ravel()" if len(shape) == 1 else f"target.reshape({', '.join(map(str, (-1, *shape[1:])))})"


def prepare_errors(op: str, x: Any, target: Any, reduction: Any) -> tuple[np.ndarray, np.ndarray]:
    need_reduction(op, reduction)
    x, target = as_floats(op, x=x, target=target)
    if target is None:
        raise TypeError(f"{op}: target must hold real numbers, got None")
    if x.shape != target.shape:
        write = _reshaped(target, x.shape)
        hint = write and f"; write {write}"
        raise ShapeError(f"{op}: target must have x's shape {x.shape}, got {target.shape}{hint}")
    return x, target


def prepare_bce(
    x: Any, target: Any, weight: Any, pos_weight: Any, reduction: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """x, target, and weight and pos_weight in x's shape."""
    op = "bce_with_logits"
    x, target, weight, pos_weight = as_floats(op, x=x, target=target, weight=weight, pos_weight=pos_weight)
    x, target = prepare_errors(op, x, target, reduction)
    weights = []
    for name, factor in (("weight", weight), ("pos_weight", pos_weight)):
        try:
            weights.append(None if factor is None else np.broadcast_to(factor, x.shape))
        except ValueError:
            raise ShapeError(f"{op}: {name} must broadcast to x's shape {x.shape}, got {factor.shape}") from None
    return x, target, *weights


# --- reference -------------------------------------------------------------------------------------------------------


def naive_reduce(losses: list[float], reduction: str, denominator: float, like: np.ndarray, shape: Any) -> np.ndarray:
    if reduction == "none":
        return np.array(losses, like.dtype).reshape(shape)
    total = sum(losses)
    if reduction == "mean":
        total = total / denominator if denominator else math.nan
    return np.array(total, like.dtype)


def naive_shares(dy: np.ndarray, reduction: str, denominator: float, count: int) -> list[float]:
    """The gradient to every single loss."""
    if reduction == "none":
        return dy.ravel().tolist()
    if reduction == "sum":
        return [float(dy)] * count
    return [float(dy) / denominator if denominator else math.nan] * count


def reference(
    op: str, x: Any, target: Any, *, weight: Any = None, ignore_index: int = -100, label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare(op, x, target, weight, ignore_index, label_smoothing, reduction)
    weights = [1.0] * a.x.shape[1] if a.weight is None else a.weight.tolist()
    xs = as_rows(op, a.x, 1).tolist()
    logs = [naive_log_softmax(row) for row in xs] if op == "cross_entropy" else xs
    goals, denominator = naive_goals(op, a, weights)
    losses = []
    for i, (row, goal) in enumerate(zip(logs, goals, strict=True)):
        if a.probabilities:
            losses.append(-sum(g * value for g, value in zip(goal, row, strict=True)))
        elif a.valid is not None and not a.valid[i]:
            losses.append(0.0)
        else:
            loss = -weights[a.target[i]] * row[a.target[i]]
            if a.smoothing:
                spread = -sum(w * value for w, value in zip(weights, row, strict=True)) / len(row)
                loss = (1 - a.smoothing) * loss + a.smoothing * spread
            losses.append(loss)
    y = naive_reduce(losses, reduction, denominator, a.x, (a.x.shape[0], *a.x.shape[2:]))
    return y, (op, a, weights, logs, goals, denominator, reduction)


def naive_goals(op: str, a: Arguments, weights: list[float]) -> tuple[list[list[float]], float]:
    """For every row the factors g of its loss -sum(g * log p), and the mean's denominator."""
    spread = a.smoothing / len(weights)
    goals = []
    if a.probabilities:
        for row in as_rows(op, a.target, 1).tolist():
            goals.append([w * (t * (1 - a.smoothing) + spread) for w, t in zip(weights, row, strict=True)])
        return goals, len(goals)
    denominator = 0.0
    for i, t in enumerate(a.target.tolist()):
        goal = [0.0] * len(weights)
        if a.valid is None or a.valid[i]:
            denominator += weights[t]
            goal = [w * spread for w in weights]
            goal[t] += weights[t] * (1 - a.smoothing)
        goals.append(goal)
    return goals, denominator


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    op, a, weights, logs, goals, denominator, reduction = saved
    dxs, dtargets = [], []
    shares = naive_shares(dy, reduction, denominator, len(goals))
    for i, (row, goal, share) in enumerate(zip(logs, goals, shares, strict=True)):
        whole = sum(goal)
        if a.valid is not None and not a.valid[i]:
            share = 0.0
        if op == "cross_entropy":
            dxs.append([share * (math.exp(value) * whole - g) for value, g in zip(row, goal, strict=True)])
        else:
            dxs.append([-share * g if g else 0.0 for g in goal])
        dtargets.append([-share * w * (1 - a.smoothing) * value for w, value in zip(weights, row, strict=True)])
    dx, dtarget = (from_rows(np.array(d, dy.dtype), a.x.shape, 1) for d in (dxs, dtargets))
    return dx, dtarget if a.probabilities else None


def errors_reference(op: str, x: Any, target: Any, *, reduction: str = "mean") -> tuple[np.ndarray, Any]:
    x, target = prepare_errors(op, x, target, reduction)
    differences = [a - b for a, b in zip(x.ravel().tolist(), target.ravel().tolist(), strict=True)]
    losses = [d * d if op == "mse_loss" else abs(d) for d in differences]
    return naive_reduce(losses, reduction, x.size, x, x.shape), (differences, x.shape, reduction)


def errors_reference_backward(op: str, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    differences, shape, reduction = saved
    dxs = []
    for d, share in zip(differences, naive_shares(dy, reduction, len(differences), len(differences)), strict=True):
        dxs.append(share * (2 * d if op == "mse_loss" else (d > 0) - (d < 0)))
    dx, dtarget = (np.array(ds, dy.dtype).reshape(shape) for ds in (dxs, [-d for d in dxs]))
    return dx, dtarget


def bce_reference(
    x: Any, target: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
) -> tuple[np.ndarray, Any]:
    x, target, weight, pos_weight = prepare_bce(x, target, weight, pos_weight, reduction)
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


def bce_reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    elements, shape, reduction = saved
    dxs, dtargets = [], []
    for (v, t, w, p), share in zip(
        elements, naive_shares(dy, reduction, len(elements), len(elements)), strict=True
    ):  # fmt: skip
        dxs.append(share * w * ((1 - t) * naive_sigmoid(v) - p * t * naive_sigmoid(-v)))
        dtargets.append(share * w * (p * naive_softplus(-v) - naive_softplus(v) if p != 1 else -v))
    dx, dtarget = (np.array(ds, dy.dtype).reshape(shape) for ds in (dxs, dtargets))
    return dx, dtarget


# --- fast: class targets ---------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    table: np.ndarray  # x (rows, C)
    log_sums: np.ndarray | None  # (rows, 2) as of `row_log_sums`; None: x holds log-probabilities
    arguments: Arguments
    reduction: str
    denominator: float


def forward(
    op: str, x: Any, target: Any, *, weight: Any = None, ignore_index: int = -100, label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    a = prepare(op, x, target, weight, ignore_index, label_smoothing, reduction)
    table = as_rows(op, a.x, 1)
    log_sums = row_log_sums(op, table) if op == "cross_entropy" else None
    with np.errstate(all="ignore"):
        if a.probabilities:
            goals = _goals(op, a)
            losses, denominator = (goals * _minus_log_p(table, log_sums)).sum(axis=1), float(len(table))
        else:
            losses, denominator = _hard_losses(a, table, log_sums)
        if reduction == "none":
            y = losses.astype(table.dtype).reshape(a.x.shape[0], *a.x.shape[2:])
        else:
            y = _total(float(losses.sum()), reduction, denominator, table.dtype)
    return y, Saved(table, log_sums, a, reduction, denominator)


def _total(total: float, reduction: str, denominator: float, dtype: np.dtype) -> np.ndarray:
    if reduction == "mean":
        total = total / denominator if denominator else math.nan
    return np.array(total, dtype)


def _hard_losses(a: Arguments, table: np.ndarray, log_sums: np.ndarray | None) -> tuple[np.ndarray, float]:
    """The loss of every row, float64, and the mean's denominator."""
    losses = -table[np.arange(len(table)), a.target].astype(np.float64)
    if log_sums is not None:
        top, rest = log_sums.T
        losses = (top + losses) + rest
    factors = None if a.weight is None else a.weight.astype(np.float64)[a.target]
    if factors is not None:
        losses *= factors
    if a.smoothing and log_sums is not None:
        w = np.ones(table.shape[1]) if a.weight is None else a.weight.astype(np.float64)
        losses = (1 - a.smoothing) * losses + a.smoothing / len(w) * (rest * w.sum() + (top[:, None] - table) @ w)
    if a.valid is None:
        return losses, float(len(table) if factors is None else factors.sum())
    counted = a.valid if factors is None else factors[a.valid]
    return np.where(a.valid, losses, 0), float(counted.sum())


def _minus_log_p(table: np.ndarray, log_sums: np.ndarray | None) -> np.ndarray:
    assert log_sums is not None
    losses: np.ndarray = (log_sums[:, :1] - table) + log_sums[:, 1:]
    return losses


def _goals(op: str, a: Arguments) -> np.ndarray:
    """weight * (target * (1 - smoothing) + smoothing / C), (rows, C) in float64: the factors of -log p."""
    goals = as_rows(op, a.target, 1).astype(np.float64)
    if a.smoothing:
        goals = goals * (1 - a.smoothing) + a.smoothing / goals.shape[1]
    return goals if a.weight is None else goals * a.weight


def backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    table, log_sums, a, reduction, denominator = saved
    dx = allocate(op, table.shape, table.dtype)
    dtarget = None
    with np.errstate(all="ignore"):
        shares = dy.reshape(-1).astype(np.float64)
        if reduction == "mean":
            shares = shares / denominator
        if reduction != "none":
            shares = np.full(len(table), shares[0])
        if a.probabilities:
            goals = _goals(op, a)
            minus_log_p = _minus_log_p(table, log_sums)
            dx[...] = (np.exp(-minus_log_p) * goals.sum(axis=1)[:, None] - goals) * shares[:, None]
            if len(needs) > 1 and needs[1]:
                dgoals = minus_log_p * (shares * (1 - a.smoothing))[:, None]
                dtarget = from_rows((dgoals if a.weight is None else dgoals * a.weight).astype(dx.dtype), a.x.shape, 1)
        else:
            _hard_backward(a, table, log_sums, shares, dx)
    return from_rows(dx, a.x.shape, 1), dtarget


def _hard_backward(
    a: Arguments, table: np.ndarray, log_sums: np.ndarray | None, shares: np.ndarray, dx: np.ndarray
) -> None:
    """Into dx (rows, C); shares: the gradient to every row's loss."""
    if a.valid is not None:
        shares = np.where(a.valid, shares, 0)
    direct = shares if a.weight is None else shares * a.weight[a.target]
    if log_sums is None:
        dx[...] = 0
        dx[np.arange(len(dx)), a.target] = -direct
        return
    w = np.ones(dx.shape[1], dx.dtype) if a.weight is None else np.ascontiguousarray(a.weight)
    smooth = (shares * (a.smoothing / len(w))).astype(dx.dtype)
    direct = (direct * (1 - a.smoothing)).astype(dx.dtype)
    softmax.cross_entropy_backward(
        table, log_sums, a.target, w, direct, smooth, float(w.sum(dtype=np.float64)), dx,
        threads_for(WORK * dx.nbytes),
    )  # fmt: skip


def nll(
    forward: Forward, x: Any, target: Any, *, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[np.ndarray, Any]:
    """nll_loss; `forward`: the fast one or the reference."""
    return forward("nll_loss", x, target, weight=weight, ignore_index=ignore_index, reduction=reduction)


# --- fast: errors, over memory as it lies ----------------------------------------------------------------------------


class SavedErrors(NamedTuple):
    x: np.ndarray  # axes in memory order, as in the others
    target: np.ndarray
    order: Order
    reduction: str
    weight: np.ndarray | None = None
    pos_weight: np.ndarray | None = None


def errors(op: str, x: Any, target: Any, *, reduction: str = "mean") -> tuple[np.ndarray, SavedErrors]:
    x, target = prepare_errors(op, x, target, reduction)
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
            y = _total(float(sums.sum()), reduction, x.size, x.dtype)
    return y, SavedErrors(x, target, order, reduction)


def _traffic(op: str, nbytes: int) -> int:
    return WORK * nbytes if op == "bce_with_logits" else nbytes


def errors_backward(op: str, dy: np.ndarray, saved: SavedErrors, needs: tuple[bool, ...]) -> Gradients:
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


def bce(
    x: Any, target: Any, *, weight: Any = None, pos_weight: Any = None, reduction: str = "mean"
) -> tuple[np.ndarray, SavedErrors]:
    if weight is None and pos_weight is None:
        return errors("bce_with_logits", x, target, reduction=reduction)
    x, target, weight, pos_weight = prepare_bce(x, target, weight, pos_weight, reduction)
    with np.errstate(all="ignore"):
        positive = target if pos_weight is None else pos_weight * target
        negative = 1 - target
        losses = np.where(x < 0, -positive, negative) * x + (positive + negative) * _softplus(-np.abs(x))
        if weight is not None:
            losses *= weight
        if reduction != "none":
            losses = _total(float(losses.sum(dtype=np.float64)), reduction, x.size, x.dtype)
    return np.asarray(losses), SavedErrors(x, target, None, reduction, weight, pos_weight)


def _softplus(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = np.logaddexp(x, 0)
    return y


def bce_backward(dy: np.ndarray, saved: SavedErrors, needs: tuple[bool, ...]) -> Gradients:
    x, target, _, reduction, weight, pos_weight = saved
    if weight is None and pos_weight is None:
        return errors_backward("bce_with_logits", dy, saved, needs)
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


def denominator_of(saved: Saved | SavedErrors) -> float:
    """What "mean" divides by."""
    return saved.denominator if isinstance(saved, Saved) else float(saved.x.size)


add(
    "cross_entropy",
    forward=partial(forward, "cross_entropy"),
    backward=partial(backward, "cross_entropy"),
    reference=partial(reference, "cross_entropy"),
    reference_backward=reference_backward,
    denominator=denominator_of,
)
add(
    "nll_loss",
    forward=partial(nll, forward),
    backward=partial(backward, "nll_loss"),
    reference=partial(nll, reference),
    reference_backward=reference_backward,
    denominator=denominator_of,
)
for _name in ("mse_loss", "l1_loss"):
    add(
        _name,
        forward=partial(errors, _name),
        backward=partial(errors_backward, _name),
        reference=partial(errors_reference, _name),
        reference_backward=partial(errors_reference_backward, _name),
        denominator=denominator_of,
    )
add("bce_with_logits", bce, bce_backward, bce_reference, bce_reference_backward, denominator=denominator_of)
