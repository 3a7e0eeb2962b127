"""The data sets that `fastconv train` knows by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import datasets
from fastconv.cli.common import UsageError

__all__ = ["SETS", "Data", "Set", "load", "split"]

Part = tuple[np.ndarray, np.ndarray]
Size = tuple[int, int]

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Set:
    """A data set: how it is loaded, what its classes are called, and how `predict` prepares images for its nets."""

    load: Callable[[Any, Size | None], tuple[Part, Part | None]]
    classes: Callable[[Any], tuple[str, ...]]
    preparation: str
    needs_folder: bool = True


SETS: dict[str, Set] = {
    "digits": Set(lambda path, size: datasets.load_digits(), lambda path: DIGITS, "digits", needs_folder=False),
    "mnist": Set(lambda path, size: datasets.load_mnist(path), lambda path: DIGITS, "mnist"),
    "cifar10": Set(lambda path, size: datasets.load_cifar10(path), lambda path: CIFAR10, "picture"),
    "folder": Set(
        lambda path, size: datasets.load_folder(path, size=size),
        lambda path: tuple(datasets.folder_classes(path)),
        "picture",
    ),
}


@dataclass(frozen=True)
class Data:
    """A data set in memory."""

    train: Part
    test: Part | None
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.train[0].shape[1:]


def load(name: str, path: Path | None, size: Size | None) -> Data:
    """The data set; UsageError for options that it does not take."""
    chosen = SETS[name]
    if chosen.needs_folder and path is None:
        raise UsageError(f"{name} needs --data DIR, the folder that holds its files")
    if not chosen.needs_folder and path is not None:
        raise UsageError(f"{name} is part of fastconv: --data does not belong here")
    if size is not None and name != "folder":
        raise UsageError(f"--size belongs to folder: the images of {name} have one size")
    train, test = chosen.load(path, size)
    return Data(train, test, chosen.classes(path))


def split(part: Part, images: int, seed: int) -> tuple[Part, Part]:
    """(the rest, `images` of them chosen by `seed`), each in the order they had."""
    x, y = part
    chosen = np.zeros(len(y), bool)
    chosen[np.random.default_rng((seed, 2)).permutation(len(y))[:images]] = True
    return (x[~chosen], y[~chosen]), (x[chosen], y[chosen])
