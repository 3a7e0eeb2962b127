"""MNIST, and the sets in its form: IDX files."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np

from fastconv.datasets.files import Source, find, need_folder
from fastconv.datasets.pixels import Bytes, Part, as_images, as_labels
from fastconv.machine.memory import require

__all__ = ["load_mnist"]

SHAPE = (1, 28, 28)
UBYTE = 0x08  # IDX's code for unsigned bytes
FLOAT = 4  # bytes of a float32


def load_mnist(folder: str | os.PathLike[str], *, raw: bool = False) -> tuple[Part, Part | None]:
    """MNIST, or a set in its form (Fashion-MNIST, KMNIST), from IDX files in `folder`.

    Returns `(X_train, y_train), (X_test, y_test)`, or `(X_train, y_train), None` without test files: X (N, 1, 28, 28)
    float32 in [0, 1], y (N,) int64, 0..9. `raw=True`: X uint8, 0..255.

    The files: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, and `t10k-...` for the test part; also spelt
    `train-images.idx3-ubyte`; each plain, .gz or .xz. The format: http://yann.lecun.com/exdb/mnist (its last section).

    Raises FileNotFoundError for missing training files or half a test part, FormatError for a file that is damaged or
    no IDX file of this shape, MemoryError for a set larger than the memory this process may use.
    """
    place = need_folder(folder)
    train = _part(place, "train", raw)
    if train is None:
        looked_for = ", ".join(_names("train", "images", 3) + _names("train", "labels", 1))
        raise FileNotFoundError(f"{place}: no MNIST training files; looked for {looked_for}, each plain, .gz or .xz")
    return train, _part(place, "t10k", raw)


def _names(part: str, kind: str, ndim: int) -> tuple[str, str]:
    return f"{part}-{kind}-idx{ndim}-ubyte", f"{part}-{kind}.idx{ndim}-ubyte"


def _part(folder: Path, part: str, raw: bool) -> Part | None:
    """The images and labels of one part; None when both files are missing."""
    names = _names(part, "images", 3), _names(part, "labels", 1)
    images, labels = (find(folder, *spellings) for spellings in names)
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        missing = " and ".join(names[0] if images is None else names[1])
        raise FileNotFoundError(f"{folder}: half of a part is missing; looked for {missing}, each plain, .gz or .xz")

    with Source(labels, "an IDX file") as source:
        y = as_labels(source, _read_idx(source, ()))
    with Source(images, "an IDX file") as source:
        pixels = _read_idx(source, SHAPE[1:])
        if len(pixels) != len(y):
            raise source.error(f"holds {len(pixels):,} images, but {labels.name} has {len(y):,} labels")
    return as_images("load_mnist", [pixels], len(pixels), SHAPE, raw=raw), y


def _read_idx(source: Source, shape: tuple[int, ...]) -> Bytes:
    """The array (N, *shape) of unsigned bytes in an IDX file: two zeros, the type, ndim, the lengths, the data."""
    ndim = 1 + len(shape)
    expected = bytes([0, 0, UBYTE, ndim])
    magic = source.take(4, "IDX's magic number")
    if magic != expected:
        rule = f"0x{expected.hex()} (unsigned bytes, {ndim} axes)"
        raise source.error(f"expected IDX's magic number {rule}, got 0x{magic.hex()}")
    lengths = struct.unpack(f">{ndim}I", source.take(4 * ndim, "IDX's lengths"))
    if lengths[1:] != shape or lengths[0] == 0:
        wanted = " x ".join(map(str, ("N", *shape)))
        raise source.error(f"expected {wanted} bytes with N > 0, the header declares {_product(lengths)}")

    what = f"an array of {_product(lengths)}"
    nbytes = math.prod(lengths)
    source.check(nbytes, what)
    require("load_mnist", nbytes * (1 + FLOAT))
    data = source.take(nbytes, what)
    source.end(what)
    return np.frombuffer(data, np.uint8).reshape(lengths)


def _product(lengths: tuple[int, ...]) -> str:
    return " x ".join(f"{length:,}" for length in lengths)
