"""Metrics of all samples together, never a mean of batches: by name, or functions (y_true, y_pred).

The values are scikit-learn's. Where targets are classes, y_true (n,) holds them, pixels in one row and without those
that the loss ignores, and y_pred (n,) the classes that the net chose; of bce_with_logits both hold 0 and 1, in the
target's shape. A function whose second argument is called y_score, y_proba or y_prob is given probabilities, (n, C), in
their place. Other targets and outputs come as they are.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastconv import functional
from fastconv.errors import nearest
from fastconv.training.history import plain
from fastconv.training.step import Loss, Losses

__all__ = ["NAMES", "Collected", "Metric", "are_classes", "confusion_of", "resolve_metrics"]

Function = Callable[[np.ndarray, np.ndarray], Any]

SCORES = ("y_score", "y_scores", "y_proba", "y_prob", "y_probas")  # a second argument that wants probabilities
TAKEN = ("epoch", "step", "lr", "loss", "seconds")


# --- of classes, from the counts of (true, predicted) ----------------------------------------------------------------


def confusion_of(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Counts of (true class, predicted class), with a row and a column for each class that is in either."""
    labels, places = np.unique(np.concatenate([y_true, y_pred]), return_inverse=True)
    true, found = places[: len(y_true)], places[len(y_true) :]
    counts = np.bincount(true * len(labels) + found, minlength=len(labels) ** 2)
    return counts.reshape(len(labels), len(labels))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, 0 where below is 0."""
    ratio: np.ndarray = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    return ratio


def _accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    right = y_true == y_pred
    return float(right.reshape(len(right), -1).all(axis=1).mean())


def _balanced_accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The mean recall of the classes that there are."""
    counts = confusion_of(y_true, y_pred)
    totals = counts.sum(axis=1)
    return float((counts.diagonal()[totals > 0] / totals[totals > 0]).mean())


def _of_classes(y_true: np.ndarray, y_pred: np.ndarray, *, what: str, average: str) -> float:
    counts = confusion_of(y_true, y_pred)
    right, true, found = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    if average == "micro":
        right, true, found = (np.array([each.sum()]) for each in (right, true, found))
    below = {"precision": found, "recall": true, "f1": (true + found) / 2}[what]
    return float(np.average(_ratio(right, below), weights=true if average == "weighted" else None))


def _matthews_corrcoef(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    counts = confusion_of(y_true, y_pred).astype(np.float64)
    n, true, found = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
    below = math.sqrt((n * n - true @ true) * (n * n - found @ found))
    return float((n * counts.trace() - true @ found) / below) if below else 0.0


def _kappa(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    counts = confusion_of(y_true, y_pred).astype(np.float64)
    n = counts.sum()
    by_chance = counts.sum(axis=1) @ counts.sum(axis=0) / n
    return float((counts.trace() - by_chance) / (n - by_chance)) if n != by_chance else math.nan


def _top(y_true: np.ndarray, y_proba: np.ndarray, *, k: int) -> float:
    best = np.argsort(y_proba, axis=1, kind="stable")[:, ::-1][:, :k]
    return float((best == y_true[:, None]).any(axis=1).mean())


# --- of numbers ------------------------------------------------------------------------------------------------------


def _mean_squared_error(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    return float(np.square(y_true - y_pred).mean())


def _mean_absolute_error(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    return float(np.abs(y_true - y_pred).mean())


def _root_mean_squared_error(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The mean over the columns of each one's root."""
    return float(np.sqrt(np.square(y_true - y_pred).reshape(len(y_true), -1).mean(axis=0)).mean())


def _r2(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The mean over the columns of each one's share of the variance that is explained; of one sample nan."""
    if len(y_true) < 2:
        return math.nan
    true, found = (each.reshape(len(each), -1) for each in (y_true, y_pred))
    wrong, spread = np.square(true - found).sum(axis=0), np.square(true - true.mean(axis=0)).sum(axis=0)
    shares = np.where(wrong == 0, 1.0, 0.0)
    np.divide(spread - wrong, spread, out=shares, where=spread > 0)
    return float(shares.mean())


_KINDS = {"": "macro", "_macro": "macro", "_weighted": "weighted", "_micro": "micro"}
_CLASSES: dict[str, Function] = {
    "balanced_accuracy": _balanced_accuracy,
    **{
        f"{what}{suffix}": partial(_of_classes, what=what, average=average)
        for what in ("precision", "recall", "f1")
        for suffix, average in _KINDS.items()
    },
    "matthews_corrcoef": _matthews_corrcoef,
    "cohen_kappa": _kappa,
}
_NUMBERS: dict[str, Function] = {
    "mse": _mean_squared_error, "mae": _mean_absolute_error, "rmse": _root_mean_squared_error, "r2": _r2,
}  # fmt: skip
NAMES = ("accuracy", *_CLASSES, "top_3_accuracy", "top_5_accuracy", *_NUMBERS)


# --- what is asked for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """wants: "classes", "scores" or "numbers"; "": whatever the targets are."""

    name: str
    function: Function
    wants: str = ""
    own: bool = False


def resolve_metrics(given: Any) -> tuple[Metric, ...]:
    """Names, functions, an iterable of them, or {name: function}; TypeError or ValueError for anything else."""
    if isinstance(given, str) or callable(given):
        given = (given,)
    if isinstance(given, Mapping):
        found = [_own(name, function) for name, function in given.items()]
    elif isinstance(given, Iterable):
        found = [_named(each) if isinstance(each, str) else _own(None, each) for each in given]
    else:
        raise TypeError(f"metrics: must be names or functions (y_true, y_pred), got {given!r}")
    names = [metric.name for metric in found]
    for name in names:
        if name in TAKEN or name.startswith("val_"):
            raise ValueError(f"metrics: {name!r} is a column of its own in the history; write {{name: function}}")
        if names.count(name) > 1:
            raise ValueError(f"metrics: two are called {name!r}; write {{name: function}}")
    return tuple(found)


def _named(name: str) -> Metric:
    if name == "accuracy":
        return Metric(name, _accuracy)
    if name in _NUMBERS:
        return Metric(name, _NUMBERS[name], "numbers")
    if name in _CLASSES:
        return Metric(name, _CLASSES[name], "classes")
    if top := re.fullmatch(r"top_([1-9]\d{0,5})_accuracy", name):
        return Metric(name, partial(_top, k=int(top[1])), "scores")
    raise ValueError(f"metrics: none is called {name!r}; there are {', '.join(NAMES)}{nearest(name, NAMES)}")


def _own(name: Any, function: Any) -> Metric:
    if not callable(function):
        raise TypeError(f"metrics: must be names or functions (y_true, y_pred), got {function!r}")
    inner = function.func if isinstance(function, partial) else function
    name = str(name if name is not None else getattr(inner, "__name__", type(inner).__name__))
    try:
        second = list(inspect.signature(function).parameters)[1]
    except (TypeError, ValueError, IndexError):
        second = ""
    return Metric(name, function, "scores" if second in SCORES else "", own=True)


# --- what they are made of -------------------------------------------------------------------------------------------


def are_classes(output: np.ndarray, target: np.ndarray) -> bool:
    """Whether the targets are class indices of these outputs."""
    return target.dtype.kind in "iu" and output.ndim > 1 and target.shape == output.shape[:1] + output.shape[2:]


class Collected:
    """Targets and predictions of all batches so far, for metrics that are found at the end."""

    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self.metrics = metrics
        self._scores = any(metric.wants == "scores" for metric in metrics)
        self._classes = any(metric.wants != "scores" for metric in metrics)
        self._pieces: dict[str, list[np.ndarray]] = {}

    def add(self, loss: Loss | Losses, output: Any, target: Any) -> None:
        """The net's outputs of a batch, and its targets."""
        if not self.metrics:
            return
        if isinstance(loss, Losses) or isinstance(output, tuple):
            raise ValueError("metrics: of a net of one output and one loss; of several: evaluate net.predict's outputs")
        found = self._of(loss, output, np.asarray(target))
        if not self._pieces:
            for metric in self.metrics:
                _pair(metric, found)  # complains now, not at the end of an epoch
        for name, array in found.items():
            self._pieces.setdefault(name, []).append(array)

    def _of(self, loss: Loss, output: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        if are_classes(output, target) or (loss.name == "cross_entropy" and target.shape == output.shape):
            y_true = (target if target.ndim < output.ndim else target.argmax(axis=1)).reshape(-1)
            counted = ~np.isin(y_true, loss.ignore_index)
            found = {"y_true": y_true[counted].astype(np.int64)}
            rows = np.moveaxis(output, 1, -1).reshape(-1, output.shape[1])[counted]
            if self._classes:
                found["classes"] = rows.argmax(axis=1)
            if self._scores:
                found["scores"] = functional.softmax(rows) if loss.name == "cross_entropy" else rows.copy()
            return found
        if loss.name == "bce_with_logits":
            output, target = (each[:, 0] if each.shape[1:] == (1,) else each for each in (output, target))
            found = {"y_true": (target > 0.5).astype(np.int64)}
            if self._classes:
                found["classes"] = (output > 0).astype(np.int64)
            if self._scores:
                found["scores"] = functional.sigmoid(output)
            return found
        return {"y_true": target.astype(np.float64) if target.dtype.kind == "f" else np.array(target),
                "numbers": output.astype(np.float64)}  # fmt: skip

    def join(self, others: Collected) -> None:
        """Take over what others have collected, too."""
        for name, pieces in others._pieces.items():
            self._pieces.setdefault(name, []).extend(pieces)

    def results(self) -> dict[str, float]:
        """Every metric by its name; ValueError for one that these targets have not, or that is no number."""
        arrays = self.arrays()
        return {metric.name: _result(metric, arrays) for metric in self.metrics} if arrays else {}

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was collected, as data."""
        for name, pieces in self._pieces.items():
            if len(pieces) > 1:
                self._pieces[name] = [np.concatenate(pieces)]
        return {name: pieces[0] for name, pieces in self._pieces.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `arrays` gave; ValueError for what does not belong together."""
        if arrays and (
            not arrays.keys() <= {"y_true", "classes", "scores", "numbers"}
            or len({len(array) for array in arrays.values()}) > 1
        ):
            raise ValueError(f"what was collected for metrics does not fit together: {', '.join(arrays)}")
        self._pieces = {name: [array] for name, array in arrays.items()}


def _pair(metric: Metric, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(y_true, y_pred) as the metric wants them; ValueError where these targets have no such."""
    kind = metric.wants or ("classes" if "classes" in arrays else "numbers")
    if kind not in arrays:
        needs, has = ("numbers", "classes") if kind == "numbers" else ("classes", "numbers")
        raise ValueError(f"metrics: {metric.name} needs targets that are {needs}, here they are {has}")
    y_true, y_pred = arrays["y_true"], arrays[kind]
    if kind == "classes" and y_true.ndim > 1 and not metric.own and metric.name != "accuracy":
        raise ValueError(
            f"metrics: {metric.name} is of one class a sample, here are {y_true.shape[1:]}; write a function"
        )
    return y_true, y_pred


def _result(metric: Metric, arrays: Mapping[str, np.ndarray]) -> float:
    y_true, y_pred = _pair(metric, arrays)
    if not len(y_true):
        return math.nan
    value = plain(metric.function(y_true, y_pred))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"metrics: {metric.name} must give a number, got {value!r}")
    return float(value)
