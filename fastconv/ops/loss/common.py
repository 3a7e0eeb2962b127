"""What the losses share: reductions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv.errors import nearest

REDUCTIONS = ("mean", "sum", "none")


def need_reduction(op: str, reduction: Any) -> None:
    if reduction not in REDUCTIONS:
        names, meant = ", ".join(REDUCTIONS), nearest(reduction, REDUCTIONS)
        raise ValueError(f"{op}: reduction must be one of {names}, got {reduction!r}{meant}")


def reshaped(target: np.ndarray, shape: tuple[int, ...]) -> str:
    """What brings target to `shape`, where only axes of length 1 differ; else nothing."""
    if [n for n in target.shape if n != 1] != [n for n in shape if n != 1]:
        return ""
    return "target.ravel()" if len(shape) == 1 else f"target.reshape({', '.join(map(str, (-1, *shape[1:])))})"


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


def reduced(total: float, reduction: str, denominator: float, dtype: np.dtype) -> np.ndarray:
    if reduction == "mean":
        total = total / denominator if denominator else math.nan
    return np.array(total, dtype)
