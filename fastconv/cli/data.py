"""The data sets that `fastconv train` knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import datasets
from fastconv.cli.common import UsageError
from fastconv.datasets.folder import Parts, load_parts

__all__ = ["SETS", "Data", "Set", "load", "split"]

Part = tuple[np.ndarray, np.ndarray]
Size = tuple[int, int]

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Set:
    """A data set: how it is loaded, what its classes are called, and how `predict` prepares images for its nets."""

    load: Callable[[Any, Size | None, bool], Parts]
    classes: Callable[[Any], tuple[str, ...]]
    preparation: str
    needs_folder: bool = True


SETS: dict[str, Set] = {
    "digits": Set(lambda *_: Parts(*datasets.load_digits()), lambda path: DIGITS, "digits", needs_folder=False),
    "mnist": Set(lambda path, *_: Parts(*datasets.load_mnist(path)), lambda path: DIGITS, "mnist"),
    "cifar10": Set(lambda path, *_: Parts(*datasets.load_cifar10(path)), lambda path: CIFAR10, "picture"),
    "folder": Set(
        lambda path, size, validation: load_parts(path, size=size, validation=validation),
        lambda path: tuple(datasets.folder_classes(path)),
        "picture",
    ),
}


@dataclass(frozen=True)
class Data:
    """A data set in memory, and the folders beside its parts that are not in it."""

    train: Part
    test: Part | None
    validation: Part | None
    left_out: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.train[0].shape[1:]


def load(name: str, path: Path | None, size: Size | None, *, validation: bool = True) -> Data:
    """The data set, with its own validation part if there is one and it is wanted; UsageError for options that it does
    not take."""
    chosen = SETS[name]
    if chosen.needs_folder and path is None:
        raise UsageError(f"{name} needs --data DIR, the folder that holds its files")
    if not chosen.needs_folder and path is not None:
        raise UsageError(f"{name} is part of fastconv: --data does not belong here")
    if size is not None and name != "folder":
        raise UsageError(f"--size belongs to folder: the images of {name} have one size")
    parts = chosen.load(path, size, validation)
    return Data(**parts._asdict(), classes=chosen.classes(path))


def split(part: Part, images: int, seed: int, *, stratified: bool = True) -> tuple[Part, Part]:
    """(the rest, `images` of them chosen by `seed`), each in the order they had.

    Each class has its share in both, to the nearest image: one at least where it has two, as long as there is room.
    Without `stratified` all images are of one class.
    """
    x, y = part
    order = np.random.default_rng((seed, 2)).permutation(len(y))
    classes = y[order] if stratified else np.zeros(len(y), int)
    _, classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    rank = np.empty(len(y))  # among the images of its class
    rank[np.argsort(classes, kind="stable")] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    count = counts[classes]
    place = (rank + 0.5) / count - (rank == 0) + 2 * (rank == count - 1)  # a class's first goes first, its last stays
    chosen = np.zeros(len(y), bool)
    chosen[order[np.argsort(place, kind="stable")[:images]]] = True
    return (x[~chosen], y[~chosen]), (x[chosen], y[chosen])
