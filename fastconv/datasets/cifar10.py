"""CIFAR-10, the binary version: records of a label byte, then 32 x 32 red, green and blue bytes."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from fastconv.datasets.files import Source, find, need_folder, read_tar
from fastconv.datasets.pixels import Bytes, Labels, Part, as_images, as_labels
from fastconv.errors import FormatError

__all__ = ["load_cifar10"]

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
MOST = 20_000 * RECORD  # bytes per file; the original files have 10,000 records
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"
SUBFOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar"
WANTED = f"the binary version of CIFAR-10 ({ARCHIVE}.gz)"
PYTHON_VERSION = ("data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar", "cifar-10-python.tar.gz")

Batch = tuple[Bytes, Labels]  # images (N, 3072)


def load_cifar10(folder: str | os.PathLike[str], *, raw: bool = False) -> tuple[Part, Part | None]:
    """CIFAR-10 from the binary version's files in `folder`.

    Returns `(X_train, y_train), (X_test, y_test)`, or `(X_train, y_train), None` without a test batch: X (N, 3, 32, 32)
    float32 in [0, 1], y (N,) int64, 0..9. `raw=True`: X uint8, 0..255 (154 MB instead of 614 MB for 50,000 images).

    The files: `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, each plain, .gz or .xz, in `folder` or its
    subfolder `cifar-10-batches-bin`; or the archive `cifar-10-binary.tar`, .tar.gz or .tar.xz, which is read where it
    lies. Any number of records up to 20,000 per file. The format: https://www.cs.toronto.edu/~kriz/cifar.html

    Raises FileNotFoundError for missing training files, FormatError for a damaged or foreign file and for the Python
    version of CIFAR-10 (pickles, which are never read), MemoryError for a set larger than the memory this process may
    use.
    """
    place = need_folder(folder)
    batches = _from_files(place) or _from_files(place / SUBFOLDER) or _from_archive(place)
    if batches is None:
        raise _nothing_found(place)
    test = batches.pop(TEST, None)
    return _part(batches.values(), raw), None if test is None else _part([test], raw)


def _from_files(folder: Path) -> dict[str, Batch] | None:
    """The batches in a folder; None when it has no training batch."""
    from concurrent.futures import ThreadPoolExecutor

    paths = {name: path for name in (*TRAIN, TEST) if (path := find(folder, name))}
    missing = [name for name in TRAIN if name not in paths]
    if len(missing) == len(TRAIN):
        return None
    if missing:
        raise FileNotFoundError(f"{folder}: lacks {', '.join(missing)}, plain, .gz or .xz")
    with ThreadPoolExecutor() as pool:  # decompression runs outside the GIL
        return dict(zip(paths, pool.map(_read, paths.values()), strict=True))


def _read(path: Path) -> Batch:
    with Source(path, WANTED) as source:
        return _records(source, source.take_rest(MOST, "a batch"), "a batch")


def _from_archive(folder: Path) -> dict[str, Batch] | None:
    """The batches in the tar archive; None when there is none."""
    path = find(folder, ARCHIVE)
    if path is None:
        return None
    with Source(path, WANTED) as source:
        files = read_tar(source, (*TRAIN, TEST), limit=len((*TRAIN, TEST)) * MOST)
        missing = [name for name in TRAIN if name not in files]
        if missing:
            raise source.error(f"lacks {', '.join(missing)}; expected {WANTED}")
        return {name: _records(source, files[name], name) for name in (*TRAIN, TEST) if name in files}


def _records(source: Source, data: bytearray, name: str) -> Batch:
    """A batch's images (N, 3072) and labels (N,)."""
    if not data or len(data) % RECORD or len(data) > MOST:
        rule = f"{name} must have 1 to {MOST // RECORD:,} records of {RECORD:,} bytes"
        raise source.error(f"{rule}, got {len(data):,} bytes; expected {WANTED}")
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], as_labels(source, records[:, 0])


def _part(batches: Collection[Batch], raw: bool) -> Part:
    labels = np.concatenate([labels for _, labels in batches])
    return as_images("load_cifar10", [images for images, _ in batches], len(labels), SHAPE, raw=raw), labels


def _nothing_found(folder: Path) -> Exception:
    """The error that says what is there instead, or what was looked for."""
    for name in PYTHON_VERSION:
        if (path := folder / name).exists():
            return FormatError(f"{path}: the Python version of CIFAR-10 is pickles, never read; download {WANTED}")
    batches = f"{TRAIN[0]} to {TRAIN[-1]} (plain, .gz or .xz) there or in {SUBFOLDER}"
    looked_for = f"{batches}, and for {ARCHIVE}, .gz or .xz"
    return FileNotFoundError(f"{folder}: no CIFAR-10 training files; looked for {looked_for}")
