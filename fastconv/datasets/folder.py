"""A folder of images, one subfolder per class."""

from __future__ import annotations

import math
import operator
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.datasets.files import need_folder
from fastconv.datasets.pixels import Bytes, Part, as_images
from fastconv.errors import FormatError
from fastconv.files import open_regular
from fastconv.workspace import require

__all__ = ["folder_classes", "load_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp")
DECODERS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # no other is tried, whatever the file says it is

Labelled = list[tuple[Path, int]]


def folder_classes(path: str | os.PathLike[str]) -> list[str]:
    """The class names of an image folder, sorted: `load_folder`'s label k is the k-th of them."""
    train, _ = _splits(need_folder(path))
    return [folder.name for folder in _class_folders(train)]


def load_folder(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    raw: bool = False,
) -> tuple[Part, Part | None]:
    """The images under `path`, in one subfolder per class; the sorted subfolders' names are the classes 0, 1, ...

    `path/train/CLASS` and `path/test/CLASS`, where `train` has subfolders, else `path/CLASS` without a test part.
    Images are the files named .png, .jpg, .bmp, .gif (its first frame), .pgm, .ppm, .tif or .webp; other files and
    names that begin with a dot are left out. Transparency is dropped.

    size      (height, width), or an int for both: every image is resized to it, its proportions apart; without it all
              images must have one size
    channels  1 (gray) or 3 (red, green, blue); by default 1 when every image is gray
    raw       uint8, 0..255, instead of float32

    Returns `(X_train, y_train), (X_test, y_test)`, or `(X_train, y_train), None`: X (N, channels, height, width)
    float32 in [0, 1], y (N,) int64, in the order of the classes and, in a class, of the names.

    Raises OSError for a missing or unreadable folder, FormatError for a damaged or foreign image, an image of more than
    8 bits per channel, differing sizes, a class without images or a decompression bomb, MemoryError for a set larger
    than the memory this process may use, ImportError without Pillow: pip install "fastconv[plot]".
    """
    train, test = _splits(need_folder(path))
    classes = {folder.name: label for label, folder in enumerate(_class_folders(train))}
    parts = [_labelled(folder, classes) for folder in (train, test) if folder]
    if empty := sorted(classes.keys() - {file.parent.name for file, _ in parts[0]}):
        raise FormatError(f"{train / empty[0]}: a class must have images, found none ({' '.join(SUFFIXES)})")

    files = [file for part in parts for file, _ in part]
    shape = _shape(files, _height_and_width(size), _channels(channels))
    require("load_folder", len(files) * math.prod(shape) * (1 if raw else 4))
    loaded = [_load(part, shape, raw) for part in parts if part]
    return loaded[0], loaded[1] if len(loaded) > 1 else None


def _splits(root: Path) -> tuple[Path, Path | None]:
    """The folders of the training part and, where there is one, of the test part."""
    train, test = root / "train", root / "test"
    if train.is_dir() and _subfolders(train):
        return train, test if test.is_dir() else None
    return root, None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(train: Path) -> list[Path]:
    folders = _subfolders(train)
    if not folders:
        raise FormatError(f"{train}: the images must be in one subfolder per class, found no subfolder")
    return folders


def _labelled(part: Path, classes: dict[str, int]) -> Labelled:
    """Every image file of a part with its label."""
    files = []
    for folder in _subfolders(part):
        if folder.name not in classes:
            raise FormatError(f"{folder}: is no class of the training part ({len(classes):,} classes)")
        if nested := _subfolders(folder):
            raise FormatError(f"{nested[0]}: a class folder must hold images only, found a folder in it")
        names = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
        files += [(file, classes[folder.name]) for file in sorted(names)]
    return files


def _height_and_width(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or min(map(operator.index, pair)) < 1:
        raise ValueError(f"load_folder: size must be (height, width), each 1 at least, got {size!r}")
    return pair


def _channels(channels: int | None) -> int | None:
    if channels not in (None, 1, 3):
        raise ValueError(f"load_folder: channels must be 1 or 3, got {channels!r}")
    return channels


def _shape(files: list[Path], size: tuple[int, int] | None, channels: int | None) -> tuple[int, int, int]:
    """(C, H, W) of the arrays; what is not given is read from the images' headers."""
    if size and channels:
        return channels, *size
    gray = True
    sizes: dict[tuple[int, int], Path] = {}  # and the first image of each
    for file in files:
        with _opened(file) as image:
            gray = gray and _is_gray(image)
            sizes.setdefault((image.height, image.width), file)
        if size is None and len(sizes) > 1:
            ((h1, w1), one), ((h2, w2), other) = sizes.items()
            rule = "all images must have one size; pass size=(height, width) to resize them"
            raise FormatError(f"{other}: is {h2} x {w2}, {one} is {h1} x {w1}: {rule}")
    return channels or (1 if gray else 3), *(size or next(iter(sizes)))


def _is_gray(image: Any) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.reshape(image.getpalette(), (-1, 3))
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA")


def _load(files: Labelled, shape: tuple[int, int, int], raw: bool) -> Part:
    pixels = (_pixels(file, shape) for file, _ in files)
    labels = np.array([label for _, label in files], np.int64)
    return as_images("load_folder", pixels, len(files), shape, raw=raw), labels


def _pixels(file: Path, shape: tuple[int, int, int]) -> Bytes:
    """One image as (1, C, H, W)."""
    channels, height, width = shape
    with _opened(file) as image:
        if "transparency" in image.info:
            image = image.convert("RGBA")  # says which colour hides behind a transparent palette entry
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), _pillow().Resampling.BILINEAR)
        pixels = np.asarray(image).reshape(height, width, channels)
    return pixels.transpose(2, 0, 1)[np.newaxis]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A Pillow image; whatever its header or, inside the `with`, its decoding raises becomes a FormatError."""
    pillow = _pillow()
    with open_regular(file) as stream, warnings.catch_warnings():
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        try:
            with pillow.open(stream, formats=DECODERS) as image:
                if image.mode[0] in "IF":
                    raise ValueError("more than 8 bits per channel; convert it to 8 bits first")
                yield image
        except MemoryError:
            raise
        except Exception as error:  # decoders raise almost anything on hostile bytes
            raise FormatError(f"{file}: no image that can be read: {error or type(error).__name__}") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('load_folder needs Pillow: pip install "fastconv[plot]"') from error
    return Image
