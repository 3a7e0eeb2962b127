"""Weights that do not change any more: what kernels make of them is kept (`Layer.for_inference`)."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

__all__ = ["hold", "made_of", "place_of"]

_held: dict[int, tuple[Any, dict[Any, np.ndarray]]] = {}  # by the identity of the array that owns the memory


def hold(array: np.ndarray) -> None:
    """From now on the array is read-only; as long as it lives, what is made of it is kept, too."""
    owner = _owner(array)
    array.flags.writeable = owner.flags.writeable = False
    key = id(owner)
    _held[key] = weakref.ref(owner, lambda _: _held.pop(key, None)), {}


def made_of(w: np.ndarray) -> dict[Any, np.ndarray] | None:
    """What was made of held weights and views of them, by `place_of`, who made it and how: by nothing that other inputs
    change. Of other weights None."""
    if not _held:
        return None
    owner = _owner(w)
    reference, made = _held.get(id(owner), (None, None))
    return made if reference is not None and reference() is owner else None


def place_of(w: np.ndarray) -> tuple[Any, ...]:
    """What tells views of one memory from each other: where it begins, and how it lies."""
    return w.__array_interface__["data"][0], w.shape, w.strides


def _owner(array: np.ndarray) -> np.ndarray:
    return array.base if isinstance(array.base, np.ndarray) else array
