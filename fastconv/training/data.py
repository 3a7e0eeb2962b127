"""Batches: cut from arrays in an order that (seed, epoch) decides, or taken from an iterable as they come."""

from __future__ import annotations

import inspect
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["ArrayBatches", "Batch", "StreamBatches", "batches", "generator"]

Batch = tuple[Any, Any]

PROBED = 64  # samples of an array that its fingerprint looks at
SHUFFLE, STEP = 0, 1  # what a generator is for


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """The generator for shuffling epoch `number`, or for what is random in step `number`; nothing else enters."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, purpose, number))))


def batches(
    owner: str, x: Any, y: Any, batch_size: int, *, seed: int | None = None, drop_last: bool = False
) -> ArrayBatches | StreamBatches:
    """The batches of arrays (x, y), or of an iterable x of batches where y is None.

    `seed` shuffles the samples for training (None: they come in order); see `ArrayBatches`.
    """
    if y is None:
        if hasattr(x, "shape"):
            raise TypeError(f"{owner}: y is missing; an X that yields (x, y) batches must be no array")
        return StreamBatches(owner, x)
    return ArrayBatches(owner, x, y, batch_size, seed, drop_last)


class ArrayBatches:
    """Batches of samples of x and y.

    The last batch may be short. In training it is left out with `drop_last`, or where it has a single sample (of which
    batch norm could learn nothing) unless batches have one anyway; another shuffle leaves out another sample.
    """

    def __init__(self, owner: str, x: Any, y: Any, batch_size: int, seed: int | None, drop_last: bool) -> None:
        self.x, self.y = _as_rows(x), _as_rows(y)
        for name, array in (("X", self.x), ("y", self.y)):
            if not len(array.shape):
                raise ValueError(f"{owner}: {name} must be an array of samples, got a single number")
        self.samples = len(self.x)
        if len(self.y) != self.samples:
            raise ValueError(f"{owner}: X and y must have as many samples, got {self.samples} and {len(self.y)}")
        if not self.samples:
            raise ValueError(f"{owner}: X has no samples")
        self.batch_size = batch_size
        self.seed = seed
        rest = self.samples % batch_size
        self.steps = -(-self.samples // batch_size)
        if seed is not None and self.steps > 1 and rest and (drop_last or rest == 1):
            self.steps -= 1

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from number `start` on."""
        order = None
        if self.seed is not None:
            order = generator(self.seed, SHUFFLE, number).permutation(self.samples)
        for step in range(start, self.steps):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            if order is None:
                yield np.asarray(self.x[part]), np.asarray(self.y[part])
            else:
                yield _rows(self.x, order[part]), _rows(self.y, order[part])

    def fingerprint(self) -> dict[str, Any]:
        """What tells these samples from others: their number, shape, type, and a checksum over some of them."""
        at = np.unique(np.linspace(0, self.samples - 1, min(self.samples, PROBED)).astype(np.intp))
        checksum = 0
        for array in (self.x, self.y):
            checksum = zlib.crc32(np.ascontiguousarray(_rows(array, at)).data, checksum)
        return {
            "samples": self.samples,
            "shape": [int(n) for n in self.x.shape[1:]],
            "dtype": str(self.x.dtype),
            "checksum": checksum,
        }


def _as_rows(array: Any) -> Any:
    """What is asked for rows by their numbers: arrays of any library, but pandas' tables have labels."""
    if hasattr(array, "shape") and hasattr(array, "__getitem__") and not hasattr(array, "iloc"):
        return array
    return np.asarray(array)


def _rows(array: Any, index: np.ndarray) -> np.ndarray:
    """array[index], in memory; what is no NumPy array is asked for ascending rows (HDF5 will have it so)."""
    if isinstance(array, np.ndarray):
        return np.asarray(array[index])
    order = np.argsort(index, kind="stable")
    ascending = np.asarray(array[index[order]])
    rows = np.empty_like(ascending)
    rows[order] = ascending
    return rows


class StreamBatches:
    """Batches (x, y) from a list, a loader or any iterable that can be iterated again, or from a function that returns
    an iterator for every epoch (it is given the epoch's number, from 0, if it takes an argument)."""

    def __init__(self, owner: str, source: Any) -> None:
        self.owner = owner
        self.source = source
        self.open: Callable[[int], Iterator[Any]]
        if callable(source):
            self.open = (lambda number: iter(source(number))) if _takes_one(source) else lambda number: iter(source())
        elif hasattr(source, "__iter__") or hasattr(source, "__getitem__"):
            self.open = lambda number: iter(source)
        else:
            raise TypeError(f"{owner}: X must be an array or yield (x, y) batches, got {type(source).__name__}")
        self.steps = len(source) if hasattr(source, "__len__") else None
        self.once = not callable(source) and isinstance(source, Iterator)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from number `start` on."""
        for batch in itertools.islice(self.open(number), start, None):
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(f"{self.owner}: X must yield pairs (x, y), got {type(batch).__name__}")
            yield np.asarray(batch[0]), np.asarray(batch[1])

    def fingerprint(self) -> dict[str, Any]:
        """What can be known beforehand: how many batches there are."""
        return {"batches": self.steps}


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(0)
    except (TypeError, ValueError):
        return False
    return True
