"""Small images on a larger background."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.arrays import as_array
from fastconv.errors import ShapeError
from fastconv.machine.memory import require_array
from fastconv.random import as_generator
from fastconv.window import integers

__all__ = ["place"]

OP = "place"


def place(
    X: Any,
    size: Any,
    *,
    top: Any = None,
    left: Any = None,
    rng: np.random.Generator | int | None = None,
    background: float = 0.0,
    return_places: bool = False,
) -> Any:
    """Each image of X on a background of its own that is larger, anywhere.

    X           (N, C, h, w), any type
    size        int or (H, W): of the background, at least the image's
    top, left   where the image's first row and column come to lie: an int for all of them, or (N,). Default: drawn
                uniformly from all places where the image is whole
    rng         a generator or a seed for what is drawn (default: the generator that `manual_seed` seeds)
    background  the value around the image (default 0, black)
    return_places   return (pictures, places) with places (N, 2) int64: top and left of each

    Returns (N, C, H, W) of X's type. Raises ShapeError for images that do not fit, or not at the place asked for,
    TypeError for places that are no integers, MemoryError.
    """
    X = as_array(OP, "X", X)
    if X.ndim != 4:
        raise ShapeError(f"{OP}: X must have 4 axes (N C H W), got {X.ndim}: shape {X.shape}")
    height, width = integers(OP, "size", size, 2, 1)
    room = height - X.shape[2], width - X.shape[3]
    if min(room) < 0:
        raise ShapeError(f"{OP}: size must be at least the image's, got {(height, width)} for {X.shape[2:]}")
    generator = as_generator(rng)
    places = np.empty((len(X), 2), np.int64)
    for axis, (name, given) in enumerate((("top", top), ("left", left))):
        if given is None:
            places[:, axis] = generator.integers(0, room[axis] + 1, len(X))
            continue
        at = np.asarray(given)
        if at.dtype.kind not in "iu":
            raise TypeError(f"{OP}: {name} must be an integer or one for each image, got {given!r}")
        if at.shape not in ((), (len(X),)):
            raise ShapeError(f"{OP}: {name} must be one integer or {len(X)} of them, got shape {at.shape}")
        if at.size and (at.min() < 0 or at.max() > room[axis]):
            raise ShapeError(f"{OP}: {name} must lie between 0 and {room[axis]}, got {at.min()} to {at.max()}")
        places[:, axis] = at
    require_array(OP, (*X.shape[:2], height, width), X.itemsize)
    pictures = np.full((*X.shape[:2], height, width), background, X.dtype)
    rows = places[:, 0, None] + np.arange(X.shape[2])
    columns = places[:, 1, None] + np.arange(X.shape[3])
    n = np.arange(len(X))[:, None, None]
    pictures[n, :, rows[:, :, None], columns[:, None, :]] = X.transpose(0, 2, 3, 1)
    return (pictures, places) if return_places else pictures
