"""Losses of class targets.

    cross_entropy     -log softmax(x)[target], or -(sum over c of target[c] * log softmax(x)[c])
    nll_loss          -x[target]                                    x: log-probabilities

    x         (N, C) or (N, C, d1, ...)
    target    class indices (N,) or (N, d1, ...); for cross_entropy also probabilities of x's shape
    weight    (C,) or None: a factor for every class, constant (no gradient)

"mean" divides by the sum of the targets' weights, for probabilities by N * d1 * ...
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import softmax as kernels
from fastconv.arrays import FLOATS, as_array, as_floats
from fastconv.errors import ShapeError, integer
from fastconv.machine.memory import allocate, require
from fastconv.machine.threads import threads_for
from fastconv.ops.common import as_rows, from_rows, need_channels, need_entries, number
from fastconv.ops.loss.common import naive_reduce, naive_shares, need_reduction, reduced, reshaped
from fastconv.ops.registry import Forward, Gradients, add
from fastconv.ops.softmax import WORK, naive_log_softmax, row_log_sums

# --- shape rule ------------------------------------------------------------------------------------------------------


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
    write = reshaped(target, goal) if target.shape != goal else "target"
    if write and target.dtype.kind in "fb":
        write += ".astype(int)"
    return write and f"; write {write}"


# --- reference -------------------------------------------------------------------------------------------------------


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
            if spread:
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


# --- fast ------------------------------------------------------------------------------------------------------------


DOUBLE = np.dtype(np.float64)


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
    if op == "cross_entropy" and weight is None and _are_usual(ignore_index, label_smoothing, reduction):
        usual = _usual_forward(op, x, target)
        if usual is not None:
            return usual
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
            y = reduced(float(losses.sum()), reduction, denominator, table.dtype)
    return y, Saved(table, log_sums, a, reduction, denominator)


def _are_usual(ignore_index: Any, label_smoothing: Any, reduction: Any) -> bool:
    """A plain mean."""
    numbers = type(ignore_index) is int and type(label_smoothing) in (int, float)
    return numbers and ignore_index < 0 and not label_smoothing and isinstance(reduction, str) and reduction == "mean"


def _usual_forward(op: str, x: Any, target: Any) -> tuple[np.ndarray, Saved] | None:
    """The mean loss of rows of logits and their classes, all of which count; None for anything else. The same bits."""
    if not (type(x) is type(target) is np.ndarray and x.ndim == 2 and x.dtype in FLOATS and x.flags.c_contiguous):
        return None
    if not (target.dtype == np.int64 and target.shape == x.shape[:1] and x.size and x.flags.aligned):
        return None
    target = target.copy()
    log_sums, losses = allocate(op, (len(x), 2), DOUBLE), allocate(op, x.shape[:1], DOUBLE)
    if not kernels.cross_entropy(x, target, log_sums, losses, threads_for(WORK * x.nbytes)):
        return None
    a = Arguments(x, target, False, None, None, 0.0)
    return reduced(float(losses.sum()), "mean", len(x), x.dtype), Saved(x, log_sums, a, "mean", float(len(x)))


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
    if (
        log_sums is not None
        and a.valid is a.weight is None
        and not a.probabilities
        and not a.smoothing
        and dy.ndim == 0
        and len(table)
    ):
        share = np.array([float(dy) / denominator if reduction == "mean" else float(dy)]).astype(dx.dtype)
        kernels.cross_entropy_backward(
            table, log_sums, a.target, None, share, None, 0.0, dx, threads_for(WORK * dx.nbytes)
        )
        return from_rows(dx, a.x.shape, 1), None
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
    direct = shares
    if a.weight is not None:
        factors = a.weight[a.target] if a.valid is None else np.where(a.valid, a.weight[a.target], 0)
        direct = shares * factors
        if log_sums is None:  # a class of no weight has no gradient, even where the mean is of nothing
            direct = np.where(factors, direct, 0)
    if log_sums is None:
        dx[...] = 0
        dx[np.arange(len(dx)), a.target] = -direct
        return
    w = np.ones(dx.shape[1], dx.dtype) if a.weight is None else np.ascontiguousarray(a.weight)
    smooth = (shares * (a.smoothing / len(w))).astype(dx.dtype)
    direct = (direct * (1 - a.smoothing)).astype(dx.dtype)
    kernels.cross_entropy_backward(
        table, log_sums, a.target, w, direct, smooth, float(w.sum(dtype=np.float64)) if a.smoothing else 0.0, dx,
        threads_for(WORK * dx.nbytes),
    )  # fmt: skip


def nll(
    forward: Forward, x: Any, target: Any, *, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
) -> tuple[np.ndarray, Any]:
    """nll_loss; `forward`: the fast one or the reference."""
    return forward("nll_loss", x, target, weight=weight, ignore_index=ignore_index, reduction=reduction)


def denominator_of(saved: Saved) -> float:
    """What "mean" divides by."""
    return saved.denominator


def counts_of(saved: Saved) -> np.ndarray:
    """What every row's loss counts in it, (rows,) float64: its class's weight, 0 where the target is ignored."""
    a = saved.arguments
    counts = np.ones(len(saved.table))
    if not a.probabilities and a.weight is not None:
        counts = a.weight.astype(np.float64)[a.target]
    return counts if a.valid is None else np.where(a.valid, counts, 0)


add(
    "cross_entropy",
    forward=partial(forward, "cross_entropy"),
    backward=partial(backward, "cross_entropy"),
    reference=partial(reference, "cross_entropy"),
    reference_backward=reference_backward,
    denominator=denominator_of,
    counts=counts_of,
)
add(
    "nll_loss",
    forward=partial(nll, forward),
    backward=partial(backward, "nll_loss"),
    reference=partial(nll, reference),
    reference_backward=reference_backward,
    denominator=denominator_of,
    counts=counts_of,
)
