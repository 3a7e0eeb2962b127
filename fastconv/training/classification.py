"""What a classifier gets right and wrong, class by class.

    precision   of the images that were read as a class, the share that is of it
    recall      of a class's images, the share that was read as it
    F1          their harmonic mean: 2 * precision * recall / (precision + recall)
    support     how many images of the class there are

A share of nothing is 0, as in scikit-learn, whose figures these are. "macro" is the mean of the classes that occur, in
the labels or in what they were read as, each alike; "weighted" the mean by support.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.errors import ShapeError, printable
from fastconv.files import replace_text

__all__ = ["ClassReport"]

WIDTH = 80  # columns of a terminal
LONGEST_NAME = 24
MOST_CONFUSIONS = 10  # that are listed where the matrix would be too wide
FIGURES = ("precision", "recall", "f1")


@dataclass(frozen=True, eq=False)
class ClassReport:
    """Made of the counts of (true class, class it was read as); prints as a table of 80 columns.

    classes     their names
    confusion   (classes, classes) int64: in row i the images of class i, by what they were read as
    """

    classes: tuple[str, ...]
    confusion: np.ndarray

    @classmethod
    def of(cls, labels: Any, predictions: Any, classes: Sequence[str]) -> ClassReport:
        """From each image's label and what it was read as, (N,) int. ShapeError where their numbers differ, ValueError
        for what is no class."""
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape or labels.ndim != 1:
            raise ShapeError(f"ClassReport: labels and predictions must be (N,), got {labels.shape, predictions.shape}")
        for what, values in (("labels", labels), ("predictions", predictions)):
            if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= len(classes)):
                raise ValueError(f"ClassReport: {what} must be integers from 0 to {len(classes) - 1}")
        pairs = labels.astype(np.int64) * len(classes) + predictions.astype(np.int64)
        counts = np.bincount(pairs, minlength=len(classes) ** 2).astype(np.int64)
        return cls(tuple(classes), counts.reshape(len(classes), len(classes)))

    @property
    def right(self) -> int:
        return int(np.trace(self.confusion))

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return self.right / self.images if self.images else 0.0

    @property
    def support(self) -> np.ndarray:
        support: np.ndarray = self.confusion.sum(axis=1)
        return support

    @property
    def precision(self) -> np.ndarray:
        return _shares(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        return _shares(np.diag(self.confusion), self.support)

    @property
    def f1(self) -> np.ndarray:
        return _shares(2 * np.diag(self.confusion), self.support + self.confusion.sum(axis=0))

    @property
    def macro(self) -> dict[str, float]:
        """The mean of each figure over the classes that occur."""
        occurs = (self.support > 0) | (self.confusion.sum(axis=0) > 0)
        return {name: _mean(getattr(self, name)[occurs]) for name in FIGURES}

    @property
    def weighted(self) -> dict[str, float]:
        """The mean of each figure by support."""
        total = max(self.images, 1)
        return {name: float(getattr(self, name) @ self.support / total) for name in FIGURES}

    def confusions(self) -> list[tuple[int, int, int]]:
        """(true class, class it was read as, how often), the most frequent first."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        pairs = np.argwhere(wrong)
        order = np.argsort(-wrong[tuple(pairs.T)], kind="stable")
        return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs[order]]

    def as_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists, for JSON."""
        columns = zip(self.classes, self.precision, self.recall, self.f1, self.support, strict=True)
        return {
            "images": self.images,
            "right": self.right,
            "accuracy": self.accuracy,
            "classes": [
                {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
                for name, p, r, f, n in columns
            ],
            "macro": self.macro,
            "weighted": self.weighted,
            "confusion": self.confusion.tolist(),
        }

    def to_csv(self, path: str | os.PathLike[str], *, follow_links: bool = True) -> None:
        """Write a row for each class: its figures, and how often it was read as every class."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["class", *FIGURES, "support", *(f"read as {name}" for name in self.classes)])
        columns = (self.classes, self.precision, self.recall, self.f1, self.support, self.confusion)
        for name, p, r, f, n, row in zip(*columns, strict=True):
            writer.writerow([name, float(p), float(r), float(f), int(n), *row.tolist()])
        replace_text(path, text.getvalue(), follow_links=follow_links)

    def __str__(self) -> str:
        return "\n".join([*self._figures(), "", *(self._matrix() or self._list())])

    __repr__ = __str__

    def _figures(self) -> list[str]:
        width = min(LONGEST_NAME, max(13, *(columns_of(name) for name in self.classes)))
        lines = [f"{'class':{width}}  precision  recall      F1   images  most often read as"]
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        rows = zip(self.classes, self.precision, self.recall, self.f1, self.support, wrong, strict=True)
        for name, p, r, f, n, row in rows:
            line = f"{fitted(name, width)}  {p:9.4f}  {r:.4f}  {f:.4f}  {n:7,}"
            if row.any():
                often = f" ({row.max():,})"
                room = WIDTH - columns_of(line) - 2 - len(often)
                line += f"  {fitted(self.classes[row.argmax()], room).rstrip()}{often}"
            lines.append(line)
        lines.append("-" * WIDTH)
        for name, mean in (("macro mean", self.macro), ("weighted mean", self.weighted)):
            p, r, f = mean.values()
            lines.append(f"{name:{width}}  {p:9.4f}  {r:.4f}  {f:.4f}  {self.images:7,}")
        return lines

    def _matrix(self) -> list[str]:
        """The confusion matrix; nothing where it is too wide."""
        cell = max(5, len(f"{self.confusion.max(initial=0):,}"))
        name = min(LONGEST_NAME, max(12, *(columns_of(name) for name in self.classes)))
        if name + (cell + 2) * len(self.classes) > WIDTH:
            name = WIDTH - (cell + 2) * len(self.classes)
        if name < 12:
            return []
        heads = "".join("  " + fitted(each, cell, right=True) for each in self.classes)
        lines = [fitted("is / read as", name) + heads]
        for each, row in zip(self.classes, self.confusion, strict=True):
            lines.append(fitted(each, name) + "".join(f"  {count or '.':>{cell}}" for count in row.tolist()))
        return lines

    def _list(self) -> list[str]:
        """The largest entries beside the diagonal."""
        found = self.confusions()
        if not found:
            return ["no image was read wrongly"]
        wrong = self.images - self.right
        lines = [f"{wrong:,} images were read wrongly, most often" if wrong > 1 else "1 image was read wrongly"]
        for true, read, count in found[:MOST_CONFUSIONS]:
            share = 100 * count / self.support[true]
            names = f"{fitted(self.classes[true], 25).rstrip()} as {fitted(self.classes[read], 25).rstrip()}"
            lines.append(f"  {count:5,}  {names} ({share:.0f} % of them)")
        if more := len(found) - MOST_CONFUSIONS:
            lines += [f"  and {more:,} other pairs of classes"] if more > 0 else []
        return lines


def _shares(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(parts, wholes, out=np.zeros(len(parts)), where=wholes > 0)
    return shares


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def columns_of(text: str) -> int:
    """How many columns a terminal gives to a text."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in so many columns, cut or filled up; what a terminal would not print is a question mark."""
    text = printable(text)
    if columns_of(text) > width:
        while text and columns_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    space = " " * max(0, width - columns_of(text))
    return space + text if right else text + space
