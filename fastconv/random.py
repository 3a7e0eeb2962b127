"""The one random state that is not passed by hand: `manual_seed` seeds it, layers without an `rng=` draw from it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from fastconv.errors import integer

__all__ = ["as_generator", "default_generator", "drawing_from", "drawing_part", "manual_seed", "part_drawn"]

_generator = np.random.default_rng()
_inside: ContextVar[np.random.Generator | None] = ContextVar("fastconv.random", default=None)
_part: ContextVar[tuple[int, int]] = ContextVar("fastconv.random.part", default=(0, 0))


def manual_seed(seed: int) -> None:
    """Seed what draws without an `rng` of its own: initial weights, and dropout outside a Trainer."""
    global _generator
    _generator = np.random.default_rng(integer("manual_seed", "seed", seed))


def default_generator() -> np.random.Generator:
    """The generator that `manual_seed` seeds, or the one of `drawing_from`."""
    return _inside.get() or _generator


@contextmanager
def drawing_from(rng: np.random.Generator) -> Iterator[None]:
    """Inside, and in this thread, what draws without an `rng` of its own draws from this one."""
    token = _inside.set(rng)
    try:
        yield
    finally:
        _inside.reset(token)


@contextmanager
def drawing_part(first: int, samples: int) -> Iterator[None]:
    """Inside, and in this thread, a batch is `samples` of a larger one, from number `first` on: dropout draws for them
    what it would draw for them in the larger one."""
    token = _part.set((first, samples))
    try:
        yield
    finally:
        _part.reset(token)


def part_drawn(elements: int) -> int:
    """How many elements of the larger batch come before these, which are of all samples of this one."""
    first, samples = _part.get()
    return first * (elements // samples) if first and samples else 0


def as_generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    """A Generator as it is, an int as a seed, None as the default generator."""
    if rng is None:
        return default_generator()
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(operator.index(rng))
    except TypeError:
        raise TypeError(f"rng must be a numpy.random.Generator, an int or None, got {rng!r}") from None
