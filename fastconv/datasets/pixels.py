"""The form that all loaders share: images (N, C, H, W), float32 in [0, 1] or the stored uint8, and int64 labels."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv.datasets.files import Source
from fastconv.errors import ShapeError
from fastconv.machine.memory import require

__all__ = ["Bytes", "Images", "Labels", "Part", "as_images", "as_labels", "mean_and_std"]

CHUNK = 8 << 20  # bytes of X that are summed together, so that a memory-mapped X is never read as a whole

Bytes = NDArray[np.uint8]
Images = NDArray[np.float32] | NDArray[np.uint8]
Labels = NDArray[np.int64]
Part = tuple[Images, Labels]


def as_images(
    op: str, pieces: Iterable[Images], count: int, shape: tuple[int, ...], *, raw: bool, white: int = 255
) -> Images:
    """The `count` images of `shape` that `pieces` hold together; unless `raw`, 0..white becomes 0..1 (floats are so).

    The memory is checked, and allocated, before the first piece is asked for.
    """
    dtype = np.dtype(np.uint8 if raw else np.float32)
    require(op, count * math.prod(shape) * dtype.itemsize)
    images = np.empty((count, *shape), dtype)
    start = 0
    for piece in pieces:
        rows = images[start : start + len(piece)]
        pixels = piece.reshape(rows.shape)
        if raw or pixels.dtype == np.float32:
            rows[...] = pixels
        else:
            np.divide(pixels, white, out=rows, dtype=dtype)
        start += len(piece)
    return images


def as_labels(source: Source, labels: Bytes) -> Labels:
    """Label bytes as int64; a FormatError for one that is no digit 0..9."""
    if labels.size and labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise source.error(f"labels must be 0 to 9, number {first:,} is {labels[first]}")
    return labels.astype(np.int64)


def mean_and_std(X: ArrayLike) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of X (N, C, …), for `fastconv.Normalize`; 1 where there is none.

    X   floats or integers, a memory-mapped array and images in files too: it is read once, a part at a time

    Raises ShapeError for an X without samples or channels, TypeError for no real numbers.
    """
    from fastconv.datasets.lazy import LazyImages

    X = X if isinstance(X, (np.ndarray, LazyImages)) else np.asarray(X)
    if X.dtype.kind not in "fiu":
        raise TypeError(f"mean_and_std: X must hold floats or integers, got {X.dtype}")
    if X.ndim < 2 or not X.size:
        raise ShapeError(f"mean_and_std: X must be (N, C, …) with samples in it, got shape {X.shape}")
    axes = (0, *range(2, X.ndim))
    count, total, squares = 0, np.zeros(X.shape[1]), np.zeros(X.shape[1])
    rows = max(1, CHUNK // max(1, X[0].nbytes))
    for start in range(0, len(X), rows):  # Chan et al. (1979): the parts' means and squares put together
        part = X[start : start + rows].astype(np.float64)
        more, mean = part[:, 0].size, part.mean(axis=axes)
        before = total / count if count else mean
        squares += np.square(part - mean.reshape(1, -1, *(1,) * (X.ndim - 2))).sum(axis=axes)
        squares += (mean - before) ** 2 * (count * more / (count + more))
        total, count = total + mean * more, count + more
    std = np.sqrt(squares / count)
    return tuple((total / count).tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
