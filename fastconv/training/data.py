"""Batches: cut from arrays in an order that (seed, epoch) decides, or taken from an iterable as they come."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastconv.arrays import as_array, empty_like
from fastconv.machine.memory import allocate

__all__ = [
    "ArrayBatches", "Batch", "Part", "PartBatch", "StreamBatches", "are_arrays", "as_weights", "batches", "copied",
    "generator", "named_arrays", "rows_of", "samples_of",
]  # fmt: skip

Batch = tuple[Any, ...]  # (x, y), or (x, y, weight)
Part = Callable[[int], slice]  # which of so many samples


class PartBatch(tuple[Any, ...]):
    """A batch that is some samples of a larger one of `whole`, from number `first` on."""

    first: int
    whole: int

    @classmethod
    def of(cls, parts: Batch, first: int, whole: int) -> PartBatch:
        batch = cls(parts)
        batch.first, batch.whole = first, whole
        return batch


NUMBERS = "biuf"  # kinds of types
PROBED = 64  # samples of an array that its fingerprint looks at
SHUFFLE, STEP = 0, 1  # what a generator is for


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """The generator for shuffling epoch `number`, or for what is random in step `number`; nothing else enters."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, purpose, number))))


def batches(
    owner: str, x: Any, y: Any, batch_size: int, *, seed: int | None = None, drop_last: bool = False,
    several: tuple[bool, bool] = (False, False), weight: Any = None,
) -> ArrayBatches | StreamBatches:  # fmt: skip
    """The batches of arrays (x, y), or of an iterable x of batches where y is None.

    A dict is several inputs or targets; so is a tuple where `several` says that the net has more inputs or losses than
    one, else it is rows. `seed` shuffles the samples for training (None: they come in order); see `ArrayBatches`.
    `weight`: the samples' weights, a third part of every batch.
    """
    if y is None:
        if are_arrays(x):
            raise TypeError(f"{owner}: y is missing; an X that yields (x, y) batches must be no array")
        if weight is not None:
            raise TypeError(f"{owner}: sample_weight goes with arrays; an iterable yields (x, y, weight)")
        return StreamBatches(owner, x)
    x, y = (
        as_array(owner, name, each) if isinstance(each, tuple) and not many else each
        for name, each, many in zip("Xy", (x, y), several, strict=True)
    )
    return ArrayBatches(owner, x, y, batch_size, seed, drop_last, weight)


class ArrayBatches:
    """Batches of samples of x and y.

    The last batch may be short. In training it is left out with `drop_last`, or where it has a single sample (of which
    batch norm could learn nothing) unless batches have one anyway; another shuffle leaves out another sample.
    """

    def __init__(
        self, owner: str, x: Any, y: Any, batch_size: int, seed: int | None, drop_last: bool, weight: Any = None
    ) -> None:
        self.x = _each(lambda array: _as_rows(owner, "X", array), x)
        self.y = _each(lambda array: _as_rows(owner, "y", array), y)
        named = {**named_arrays("X", self.x), **named_arrays("y", self.y)}
        for name, array in named.items():
            if not len(array.shape):
                raise ValueError(f"{owner}: {name} must be an array of samples, got a single number")
        if not named:
            raise ValueError(f"{owner}: X has no samples")
        self.samples = len(next(iter(named.values())))
        other = next((name for name, array in named.items() if len(array) != self.samples), None)
        if other is not None:
            first = next(iter(named))
            raise ValueError(
                f"{owner}: {first} and {other} must have as many samples, got {self.samples} and {len(named[other])}"
            )
        if not self.samples:
            raise ValueError(f"{owner}: X has no samples")
        self.weight = None if weight is None else as_weights(owner, weight, self.samples)
        if self.weight is not None and not self.weight.any():
            raise ValueError(f"{owner}: sample_weight is zero for all samples")
        self.batch_size = batch_size
        self.seed = seed
        rest = self.samples % batch_size
        self.steps = -(-self.samples // batch_size)
        if seed is not None and self.steps > 1 and rest and (drop_last or rest == 1):
            self.steps -= 1
        self.is_in_memory = all(type(array) is np.ndarray for array in named.values())

    def epoch(self, number: int, start: int = 0, every: int = 1, part: Part | None = None) -> Iterator[Batch]:
        """The batches of one epoch, from number `start` on: each, or one of `every` so many; of each the samples that
        `part` of their number says."""
        order = None
        if self.seed is not None:
            order = _permutation(generator(self.seed, SHUFFLE, number), self.samples)
        for step in range(start, self.steps, every):
            rows = slice(step * self.batch_size, min((step + 1) * self.batch_size, self.samples))
            first, whole = 0, rows.stop - rows.start
            if part is not None:
                own = part(whole)
                first, rows = own.start, slice(rows.start + own.start, rows.start + own.stop)
            take = functools.partial(_rows, index=rows if order is None else order[rows])
            found: Batch = (_each(take, self.x), _each(take, self.y))
            if self.weight is not None:
                found = *found, take(self.weight)
            yield found if part is None else PartBatch.of(found, first, whole)

    def fingerprint(self) -> dict[str, Any]:
        """What tells these samples from others: their number, shape, type, and a checksum over some of them."""
        at = np.unique(np.linspace(0, self.samples - 1, min(self.samples, PROBED)).astype(np.intp))
        checksum = 0
        inputs = list(named_arrays("X", self.x).values())
        for array in (*inputs, *named_arrays("y", self.y).values()):
            checksum = zlib.crc32(np.ascontiguousarray(_rows(array, at)).data, checksum)
        shapes = [[int(n) for n in array.shape[1:]] for array in inputs]
        if self.weight is not None:
            checksum = zlib.crc32(np.ascontiguousarray(self.weight).data, checksum)
        return {
            "samples": self.samples,
            "shape": shapes if len(shapes) > 1 else shapes[0],
            "dtype": ", ".join(str(array.dtype) for array in inputs),
            "checksum": checksum,
        }


def as_weights(owner: str, value: Any, samples: int) -> np.ndarray:
    """Weights of samples, (N,) or (N, …) for single losses, as float64; ValueError or TypeError for what is none."""
    weights = as_array(owner, "sample_weight", value)
    if weights.dtype.kind not in "fbiu":
        raise TypeError(f"{owner}: sample_weight must hold real numbers, got {weights.dtype}")
    if weights.shape[:1] != (samples,):
        raise ValueError(f"{owner}: sample_weight must have one entry a sample, {samples}, got shape {weights.shape}")
    weights = weights.astype(np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"{owner}: sample_weight must be finite and not negative, got {weights.min():g}")
    return weights


def samples_of(x: Any) -> int:
    """The number of samples of an input, or of each of several."""
    return len(next(iter(named_arrays("X", x).values())))


def rows_of(batch: Batch, rows: slice) -> PartBatch:
    """Some samples of a batch."""
    return PartBatch.of(
        tuple(_each(lambda array: array[rows], each) for each in batch), rows.start, samples_of(batch[0])
    )


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of an array, or of each in a tuple or dict of them."""
    if isinstance(value, Mapping):
        return {name: function(each) for name, each in value.items()}
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def copied(value: Any) -> Any:
    """A copy of an array, or of each in a tuple or dict of them, on memory that is reused."""
    return _each(_copy, value)


def _copy(array: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in NUMBERS:
        return np.array(array)
    copy: np.ndarray = empty_like("fit", array)
    np.copyto(copy, array)
    return copy


def are_arrays(value: Any) -> bool:
    """Whether it is an array, a tuple of arrays or a dict: no batch, and no iterable of batches."""
    if isinstance(value, tuple):
        return all(hasattr(each, "shape") for each in value)
    return isinstance(value, Mapping) or hasattr(value, "shape")


def named_arrays(name: str, value: Any) -> dict[str, Any]:
    """An array, or each of a tuple or dict, with what a message calls it."""
    if isinstance(value, Mapping):
        return {f"{name}[{key!r}]": each for key, each in value.items()}
    return {f"{name}[{i}]": each for i, each in enumerate(value)} if isinstance(value, tuple) else {name: value}


def _as_rows(owner: str, name: str, array: Any) -> Any:
    """What is asked for rows by their numbers: arrays of any library, but pandas' tables have labels; and whatever has
    a length and gives the rows of an array of numbers."""
    if hasattr(array, "__getitem__") and not hasattr(array, "iloc"):
        if hasattr(array, "shape"):
            return array
        if hasattr(array, "__len__") and not isinstance(array, (list, tuple, Mapping)) and len(array):
            with contextlib.suppress(TypeError, IndexError):  # one that knows no such numbers is read whole
                return _Rows(owner, name, array)
    return as_array(owner, name, array)


class _Rows:
    """Rows that are read when they are asked for: what an array would say of itself, its first row says."""

    def __init__(self, owner: str, name: str, source: Any) -> None:
        first = np.asarray(source[np.arange(1)])
        if first.shape[:1] != (1,):
            raise ValueError(f"{owner}: {name}[numpy.array([0])] must be an array of one row, got shape {first.shape}")
        self.source, self.dtype = source, first.dtype
        self.shape: tuple[int, ...] = (len(source), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        numbers = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        return np.asarray(self.source[numbers])


def _permutation(rng: np.random.Generator, samples: int) -> np.ndarray:
    """rng.permutation(samples), in memory that the next epoch finds again."""
    order: np.ndarray = allocate("fit", (samples,), np.dtype(np.int64))
    order[...] = 1
    order[:1] = 0
    np.cumsum(order, out=order)
    rng.shuffle(order)
    return order


def _rows(array: Any, index: np.ndarray | slice) -> np.ndarray:
    """array[index], in memory; what is no NumPy array is asked for ascending rows (HDF5 will have it so)."""
    if isinstance(array, np.ndarray) and not isinstance(index, slice):
        whole = array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative  # else take copies it
        if whole and array.dtype.kind in NUMBERS:
            out: np.ndarray = allocate("fit", (len(index), *array.shape[1:]), array.dtype)
            array.take(index, axis=0, out=out, mode="clip")
            return out
    if isinstance(array, np.ndarray) or isinstance(index, slice):
        return np.asarray(array[index])
    order = np.argsort(index, kind="stable")
    ascending = np.asarray(array[index[order]])
    rows = np.empty_like(ascending)
    rows[order] = ascending
    return rows


class StreamBatches:
    """Batches (x, y), or (x, y, weight), from a list, a loader or any iterable that can be iterated again, or from a
    function that returns an iterator for every epoch (it is given the epoch's number, from 0, if it takes an argument).
    """

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
        self.is_in_memory = False

    def epoch(self, number: int, start: int = 0, every: int = 1, part: Part | None = None) -> Iterator[Batch]:
        """See `ArrayBatches.epoch`; batches that are asked for in part are read whole."""
        for batch in itertools.islice(self.open(number), start, None, every):
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                instead = "; is y missing?" if hasattr(batch, "shape") else ""
                raise TypeError(f"{self.owner}: X must yield pairs (x, y), got {type(batch).__name__}{instead}")
            x, y = (_each(np.asarray, each) for each in batch[:2])
            found: Batch = (x, y)
            if len(batch) == 3:
                first = next(iter(named_arrays("y", y).values()))
                found = x, y, as_weights(self.owner, batch[2], len(first))
            yield found if part is None else rows_of(found, part(samples_of(x)))

    def fingerprint(self) -> dict[str, Any]:
        """What can be known beforehand: how many batches there are."""
        return {"batches": self.steps}


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(0)
    except (TypeError, ValueError):
        return False
    return True
