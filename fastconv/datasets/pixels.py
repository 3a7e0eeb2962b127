"""The form that all loaders share: images (N, C, H, W), float32 in [0, 1] or the stored uint8, and int64 labels."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fastconv.datasets.files import Source
from fastconv.workspace import require

__all__ = ["Bytes", "Images", "Labels", "Part", "as_images", "as_labels"]

Bytes = NDArray[np.uint8]
Images = NDArray[np.float32] | NDArray[np.uint8]
Labels = NDArray[np.int64]
Part = tuple[Images, Labels]


def as_images(
    op: str, pieces: Iterable[Bytes], count: int, shape: tuple[int, int, int], *, raw: bool, white: int = 255
) -> Images:
    """The `count` images of `shape` that `pieces` hold together; unless `raw`, 0..white becomes 0..1.

    The memory is checked, and allocated, before the first piece is asked for.
    """
    dtype = np.dtype(np.uint8 if raw else np.float32)
    require(op, count * math.prod(shape) * dtype.itemsize)
    images = np.empty((count, *shape), dtype)
    start = 0
    for piece in pieces:
        rows = images[start : start + len(piece)]
        pixels = piece.reshape(rows.shape)
        if raw:
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
