"""A folder of images, one subfolder per class."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np

from fastconv.datasets.files import need_folder
from fastconv.datasets.image_files import SUFFIXES, channels_of, height_and_width, opened
from fastconv.datasets.pixels import Part, as_images
from fastconv.errors import FormatError
from fastconv.machine.memory import require

__all__ = ["Parts", "folder_classes", "load_folder", "load_parts"]

VALIDATION = ("val", "valid", "validation")  # the first that is there

Labelled = list[tuple[Path, int]]


class Parts(NamedTuple):
    """A data set's parts, and the folders that are in none of them."""

    train: Part
    test: Part | None = None
    validation: Part | None = None
    left_out: tuple[str, ...] = ()


class Layout(NamedTuple):
    """The folders of the parts, and the other folders."""

    train: Path
    test: Path | None = None
    validation: Path | None = None
    others: tuple[Path, ...] = ()


def folder_classes(path: str | os.PathLike[str]) -> list[str]:
    """The class names of an image folder, sorted: `load_folder`'s label k is the k-th of them."""
    return [folder.name for folder in _class_folders(_layout(need_folder(path)).train)]


@overload
def load_folder(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = ...,
    channels: int | None = ...,
    raw: bool = ...,
    validation: Literal[False] = ...,
) -> tuple[Part, Part | None]: ...


@overload
def load_folder(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = ...,
    channels: int | None = ...,
    raw: bool = ...,
    validation: Literal[True],
) -> tuple[Part, Part | None, Part | None]: ...


def load_folder(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    raw: bool = False,
    validation: bool = False,
) -> tuple[Part, Part | None] | tuple[Part, Part | None, Part | None]:
    """The images under `path`, in one subfolder per class; the sorted subfolders' names are the classes 0, 1, ...

    `path/train/CLASS`, `path/val/CLASS` (or valid, or validation) and `path/test/CLASS`, in small or capital letters,
    where `train` has subfolders, else `path/CLASS` without other parts. Other folders are left out, with a warning that
    names them. Images are the files named .png, .jpg, .bmp, .gif (its first frame), .pgm, .ppm, .tif or .webp; other
    files and names that begin with a dot are passed over. Images are read upright, as EXIF has it, and at the depth
    that they have: see `load_image`. Transparency is dropped.

    size        (height, width), or an int for both: every image is resized to it, its proportions apart; without it all
                images must have one size
    channels    1 (gray) or 3 (red, green, blue); by default 1 when every image is gray
    raw         uint8, 0..255, instead of float32
    validation  return the validation part too

    Returns `(X_train, y_train), (X_test, y_test)`, or with `validation` `(X_train, y_train), (X_val, y_val), (X_test,
    y_test)`, None for a part that is not there: X (N, channels, height, width) float32 in [0, 1], y (N,) int64, in the
    order of the classes and, in a class, of the names.

    Raises OSError for a missing or unreadable folder, FormatError for a damaged or foreign image, differing sizes, a
    class without images, a decompression bomb or, with `raw`, more than 8 bits per channel, MemoryError for a set
    larger than the memory this process may use, ImportError without Pillow: pip install "fastconv[plot]".
    """
    parts = load_parts(path, size=size, channels=channels, raw=raw, validation=validation)
    if parts.left_out:
        warnings.warn(f"load_folder: {path}: left out: {', '.join(parts.left_out)}", stacklevel=2)
    return (parts.train, parts.validation, parts.test) if validation else (parts.train, parts.test)


def load_parts(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    raw: bool = False,
    validation: bool = True,
) -> Parts:
    """`load_folder`, which says what was left out instead of warning. `validation`: whether that part is read."""
    layout = _layout(need_folder(path))
    classes = {folder.name: label for label, folder in enumerate(_class_folders(layout.train))}
    folders = [layout.train, layout.test, layout.validation if validation else None]
    files = [_labelled(folder, classes) if folder else [] for folder in folders]
    if empty := sorted(classes.keys() - {file.parent.name for file, _ in files[0]}):
        rule = f"a class must have images, found none ({' '.join(SUFFIXES)})"
        raise FormatError(f"{layout.train / empty[0]}: {rule}")

    shape = _shape(
        [file for part in files for file, _ in part],
        height_and_width("load_folder", size),
        channels_of("load_folder", channels),
    )
    require("load_folder", sum(map(len, files)) * math.prod(shape) * (1 if raw else 4))
    test, val = (_load(part, shape, raw) if part else None for part in files[1:])
    left_out = [f"{folder.name}/" for folder in layout.others]
    if layout.validation and val is None:
        left_out.insert(0, f"{layout.validation.name}/ ({'no images' if validation else 'the validation part'})")
    return Parts(_load(files[0], shape, raw), test, val, tuple(left_out))


def _layout(root: Path) -> Layout:
    """Which folder is which part."""
    folders = _subfolders(root)
    named = {folder.name.lower(): folder for folder in reversed(folders)} | {folder.name: folder for folder in folders}
    train, test = named.get("train"), named.get("test")
    if train is None or not _subfolders(train):
        return Layout(root)
    validation = next((named[name] for name in VALIDATION if name in named), None)
    return Layout(train, test, validation, tuple(f for f in folders if f not in (train, test, validation)))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """The image files that lie in the folder itself, by their names."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in files if not file.is_dir())


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
        files += [(file, classes[folder.name]) for file in _images(folder)]
    return files


def _shape(files: list[Path], size: tuple[int, int] | None, channels: int | None) -> tuple[int, int, int]:
    """(C, H, W) of the arrays; what is not given is read from the images' headers."""
    if size and channels:
        return channels, *size
    gray = True
    sizes: dict[tuple[int, int], Path] = {}  # and the first image of each
    for file in files:
        with opened(file) as image:
            gray = gray and image.is_gray
            sizes.setdefault(image.size, file)
        if size is None and len(sizes) > 1:
            ((h1, w1), one), ((h2, w2), other) = sizes.items()
            rule = "all images must have one size; pass size=(height, width) to resize them"
            raise FormatError(f"{other}: is {h2} x {w2}, {one} is {h1} x {w1}: {rule}")
    return channels or (1 if gray else 3), *(size or next(iter(sizes)))


def _load(files: Labelled, shape: tuple[int, int, int], raw: bool) -> Part:
    pixels = (_pixels(file, shape, raw) for file, _ in files)
    labels = np.array([label for _, label in files], np.int64)
    return as_images("load_folder", pixels, len(files), shape, raw=raw), labels


def _pixels(file: Path, shape: tuple[int, int, int], raw: bool) -> np.ndarray:
    """One image as (1, C, H, W)."""
    channels, height, width = shape
    with opened(file) as image:
        return image.pixels(channels, (height, width), raw=raw)[np.newaxis]
