"""Weights of classes, which are weights of their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastconv.errors import integer
from fastconv.optim.schedules import number
from fastconv.training.step import Loss, Losses

__all__ = ["class_weights", "need_classes", "need_factors", "of_targets"]

MOST_CLASSES = 1 << 20


def _class(key: Any) -> int:
    found = integer("fit: class_weight", "a class", key)
    if found < 0:
        raise ValueError(f"fit: class_weight: a class must be at least 0, got {found}")
    return found


def class_weights(given: Any, y: Any, loss: Loss | Losses) -> list[float]:
    """The weight of every class in order, from {class: weight} or "balanced"."""
    if isinstance(loss, Losses):
        raise ValueError("fit: class_weight is for one loss; of several write cross_entropy(weight=…) for each")
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(f"fit: class_weight must be 'balanced' or {{class: weight}}, got {given!r}")
        if y is None or isinstance(y, (Mapping, tuple)):
            raise ValueError("fit: class_weight='balanced' needs y as one array; write {class: weight}")
        labels = _labels(np.asarray(y), loss)
        labels = labels[~np.isin(labels, loss.ignore_index)]
        if labels.size and not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
            raise ValueError(
                f"fit: class_weight needs targets that are class indices from 0, got {labels.min()} to {labels.max()}"
            )
        counts = np.bincount(labels.astype(np.int64), minlength=1)
        there = counts > 0
        weights = np.divide(counts.sum() / max(1, there.sum()), counts, out=np.ones(len(counts)), where=there)
        return [float(weight) for weight in weights]
    if not isinstance(given, Mapping):
        raise TypeError(f"fit: class_weight must be 'balanced' or {{class: weight}}, got {given!r}")
    named = {0: 1.0, **{_class(key): weight for key, weight in given.items()}}
    if max(named) >= MOST_CLASSES:
        raise ValueError(f"fit: class_weight has a class {max(named)}, beyond {MOST_CLASSES - 1}")
    weights = [number("fit: class_weight", f"of {k}", named.get(k, 1.0)) for k in range(max(named) + 1)]
    if y is not None and not isinstance(y, (Mapping, tuple)):
        _need_use(weights, np.asarray(y), loss)
    return weights


def _need_use(weights: list[float], y: np.ndarray, loss: Loss) -> None:
    """ValueError where no target has any weight."""
    if _are_probabilities(y, loss):
        there = np.arange(y.shape[1])
    else:
        labels = _labels(y, loss)
        there = np.unique(labels[~np.isin(labels, loss.ignore_index)])
    if there.size and not any(weights[k] if 0 <= k < len(weights) else 1.0 for k in there.tolist()):
        raise ValueError("fit: class_weight is 0 for every class that occurs: there is nothing to train on")


def need_classes(factors: Sequence[float], output: Any, loss: Loss | Losses) -> None:
    """ValueError where weights are given for classes that the net does not tell apart."""
    if not isinstance(loss, Loss) or not isinstance(output, np.ndarray) or output.ndim < 2:
        return
    classes = 2 if loss.name == "bce_with_logits" else output.shape[1]
    if len(factors) > classes and loss.name in ("bce_with_logits", "cross_entropy", "nll_loss"):
        raise ValueError(f"fit: class_weight names class {len(factors) - 1}, but there are {classes}, from 0 on")


def need_factors(factors: Any) -> None:
    if not isinstance(factors, list):
        raise ValueError(f"class_weight must be a list of numbers, got {factors!r}")
    for factor in factors:
        number("settings", "class_weight", factor)


def of_targets(factors: np.ndarray, y: np.ndarray, loss: Loss | Losses) -> np.ndarray:
    """The weight of every target, 1 for classes beyond; of cross_entropy's probabilities (N, C, …) their mean."""
    if _are_probabilities(y, loss):
        known = np.ones(y.shape[1])
        known[: len(factors)] = factors[: len(known)]
        return np.tensordot(y, known, (1, 0))
    y = _labels(y, loss)
    inside = (y >= 0) & (y < len(factors))
    return np.where(inside, factors[np.where(inside, y, 0)], 1.0)


def _are_probabilities(y: np.ndarray, loss: Loss | Losses) -> bool:
    """Whether targets are cross_entropy's probabilities (N, C, …)."""
    return y.dtype.kind == "f" and y.ndim > 1 and isinstance(loss, Loss) and loss.name == "cross_entropy"


def _labels(y: np.ndarray, loss: Loss | Losses) -> np.ndarray:
    """Targets that are class indices; those of bce_with_logits are 0 and 1, whatever their type."""
    if y.dtype.kind in "bf" and isinstance(loss, Loss) and loss.name == "bce_with_logits":
        return (y > 0.5).astype(np.int64)
    if y.dtype.kind not in "iu":
        raise TypeError(f"fit: class_weight needs targets that are class indices, got {y.dtype}")
    return y
