"""What the norms share: their numbers, the naive loops over sets of elements that share a mean."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastconv.ops.common import number
from fastconv.ops.registry import Gradients


class Arguments(NamedTuple):
    x: np.ndarray
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None
    momentum: float
    eps: float


def need_eps(op: str, eps: Any) -> float:
    return number(op, "eps", eps, 0)


# --- reference -------------------------------------------------------------------------------------------------------
#
# A set is the positions (flat, in C order) of the elements that share a mean; entry[i] says which weight element i has.


class Naive(NamedTuple):
    xs: list[float]
    sets: list[list[int]]
    entry: list[int]
    moments: list[tuple[float, float]]  # mean and 1 / sqrt(var + eps) of every set
    weights: list[float]
    from_x: bool
    a: Arguments


def naive(
    a: Arguments, sets: list[list[int]], entry: list[int], given: list[tuple[float, float]] | None = None
) -> tuple[np.ndarray, Naive, list[tuple[float, float]]]:
    """y, what the backward needs, and mean and variance of every set (`given`, or the elements' own)."""
    xs = a.x.ravel().tolist()
    entries = max(entry, default=-1) + 1
    weights = [1.0] * entries if a.weight is None else a.weight.ravel().tolist()
    biases = [0.0] * entries if a.bias is None else a.bias.ravel().tolist()
    moments = [naive_moments([xs[i] for i in positions]) for positions in sets] if given is None else given
    scales = [(mean, naive_rstd(var, a.eps)) for mean, var in moments]
    ys = [0.0] * len(xs)
    for positions, (mean, rstd) in zip(sets, scales, strict=True):
        for i in positions:
            ys[i] = (xs[i] - mean) * rstd * weights[entry[i]] + biases[entry[i]]
    return (
        np.array(ys, a.x.dtype).reshape(a.x.shape),
        Naive(xs, sets, entry, scales, weights, given is None, a),
        moments,
    )


def naive_moments(values: list[float]) -> tuple[float, float]:
    """Mean and biased variance; nan of nothing."""
    if not values:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    return mean, sum((value - mean) * (value - mean) for value in values) / len(values)


def naive_rstd(var: float, eps: float) -> float:
    if not var + eps >= 0:
        return math.nan
    return 1 / math.sqrt(var + eps) if var + eps > 0 else math.inf


def naive_backward(dy: np.ndarray, saved: Naive) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    xs, sets, entry, scales, weights, from_x, a = saved
    dys, dxs = dy.ravel().tolist(), [0.0] * dy.size
    dweights, dbiases = [0.0] * len(weights), [0.0] * len(weights)
    for positions, (mean, rstd) in zip(sets, scales, strict=True):
        along = level = 0.0
        for i in positions:
            normal = (xs[i] - mean) * rstd
            dweights[entry[i]] += dys[i] * normal
            dbiases[entry[i]] += dys[i]
            along += dys[i] * weights[entry[i]] * normal / len(positions)
            level += dys[i] * weights[entry[i]] / len(positions)
        for i in positions:
            d = dys[i] * weights[entry[i]]
            dxs[i] = (d - level - (xs[i] - mean) * rstd * along) * rstd if from_x else d * rstd
    dx = np.array(dxs, dy.dtype).reshape(dy.shape)
    return dx, _summed(dweights, a.weight, dy.dtype), _summed(dbiases, a.bias, dy.dtype)


def _summed(sums: list[float], like: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    """The gradient to a weight or bias; no sums: no elements."""
    return None if like is None else np.array(sums or np.zeros(like.size), dtype).reshape(like.shape)


def reference_backward(dy: np.ndarray, saved: Naive, needs: tuple[bool, ...]) -> Gradients:
    """For group_norm and layer_norm."""
    dx, dweight, dbias = naive_backward(dy, saved)
    return dx, None, dweight, dbias, None


# --- gradients -------------------------------------------------------------------------------------------------------


def in_places(positions: tuple[int, ...], found: tuple[np.ndarray | None, ...], count: int) -> Gradients:
    """A gradient per argument: those found, in their places, None elsewhere."""
    gradients: list[np.ndarray | None] = [None] * max(count, positions[-1] + 1)
    for position, gradient in zip(positions, found, strict=True):
        gradients[position] = gradient
    return tuple(gradients)
