"""A folder of images, one subfolder per class."""

from __future__ import annotations

import math
import os
import statistics
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from fastconv.datasets.files import need_folder
from fastconv.datasets.image_files import SUFFIXES, channels_of, height_and_width, opened
from fastconv.datasets.lazy import LazyImages, Shape, Store, Track, Unreadable, decoded, headers, untracked
from fastconv.datasets.pixels import Part, as_images
from fastconv.errors import FormatError, integer, listing
from fastconv.machine.memory import available_bytes, require

__all__ = [
    "Parts", "class_folder", "folder_classes", "images_in", "labelled_files", "load_folder", "load_parts", "open_files",
    "open_folder", "part_of",
]  # fmt: skip

TRAIN, TEST = ("train", "training"), ("test", "testing")  # of each the first that is there
VALIDATION = ("val", "valid", "validation")
JUDGED = (*TEST, *VALIDATION)
LITTER = ("__MACOSX",)  # what archives leave behind
LONGEST = 96  # pixels of the longer side that is chosen for images of several sizes, or of a larger one
KEPT = 256  # pixels up to which images that all have one size keep it
STRIDE = 16  # a chosen side is a multiple of it: what four poolings halve without a rest
SHARE = 4  # the part of the memory this process may use in which images are held

Labelled = list[tuple[Path, int]]
Size = tuple[int, int]


class Parts(NamedTuple):
    """A data set's parts.

    left_out    the folders that are in none of them
    sizes       the images' least and largest (height, width), by area, where a size was chosen for them; else None
    unreadable  what was raised for files that were left out
    """

    train: tuple[Any, np.ndarray]
    test: tuple[Any, np.ndarray] | None = None
    validation: tuple[Any, np.ndarray] | None = None
    left_out: tuple[str, ...] = ()
    sizes: tuple[Size, Size] | None = None
    unreadable: tuple[Exception, ...] = ()


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

    `path/train/CLASS`, `path/val/CLASS` (or valid, or validation) and `path/test/CLASS`, in small or capital letters
    (training and testing too), where `train` has subfolders, else `path/CLASS` without other parts; a folder that holds
    nothing but one folder of folders stands for that one, as archives unpack. Other folders are left out, with a
    warning that names them. A class's images are all under its folder, however deep: the files named .png, .jpg, .bmp,
    .gif (its first frame), .pgm, .ppm, .tif or .webp; other files and names that begin with a dot are passed over.
    Images are read upright, as EXIF has it, and at the depth that they have: see `load_image`. Transparency is dropped.

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
    files, left_out = _files(need_folder(path), validation)
    shape = _shape(
        [file for part in files for file, _ in part],
        height_and_width("load_folder", size),
        channels_of("load_folder", channels),
    )
    require("load_folder", sum(map(len, files)) * math.prod(shape) * (1 if raw else 4))
    test, val = (_load(part, shape, raw) if part else None for part in files[1:])
    return Parts(_load(files[0], shape, raw), test, val, left_out)


def open_folder(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    validation: bool = True,
    memory_limit: int | None = None,
    skip_unreadable: bool = False,
    track: Track = untracked,
    only_judged: bool = False,
) -> Parts:
    """The images under `path` for training, in any number and of any size: `load_folder`'s layouts, numbers and order,
    but X is read when it is indexed.

        parts = open_folder("photographs")
        trainer.fit(*parts.train, epochs=20, validation_data=parts.validation)

    size             (height, width), or an int for both: every image is resized to it, its proportions apart. By
                     default the size that all have, up to 256 pixels a side; else one is chosen: the training images'
                     median height and width, reduced to a longer side of 96 pixels, as multiples of 16
    channels         1 (gray) or 3 (red, green, blue); by default 1 when every image is gray
    validation       whether the validation part is read
    memory_limit     bytes of images that are held in memory, as uint8, the training part's first; those beyond are read
                     from temporary storage when they are asked for. Default: a quarter of the memory that this process
                     may use
    skip_unreadable  leave out files that cannot be read
    track            track(iterable, total, text) -> iterable, tqdm's way: shows what is going on (default: nothing)
    only_judged      read only the test part, or without one the validation part; train is then without images. Where
                     there is neither, train is read

    Returns `(train, test, validation, left_out, sizes, unreadable)`: parts (X, y), or None, as `load_folder` has them,
    X a `LazyImages`; the folders, and how many images, that are in no part; the least and the largest size where one
    was chosen (else None); the errors of files that were left out. Every file is decoded once, so that all that cannot
    be read are known.

    Raises OSError for a missing folder, FormatError for a class without images and, unless `skip_unreadable`, for files
    that cannot be read: its `errors` are all of them; ImportError without Pillow: pip install "fastconv[plot]".
    """
    files, left_out = _files(need_folder(path), validation, only_judged)
    if only_judged and (files[1] or files[2]):
        files = [[], files[1], [] if files[1] else files[2]]
    parts, sizes, unreadable = open_files(
        "open_folder", files, size=size, channels=channels, memory_limit=memory_limit, skip_unreadable=skip_unreadable,
        track=track,
    )  # fmt: skip
    for lost in sorted({label for _, label in files[0]} - set(parts[0][1].tolist())):
        file = next(file for file, label in files[0] if label == lost)
        raise FormatError(f"{file}: cannot be read, as all images of its class, which must have some")
    test, val = (part if len(part[1]) else None for part in parts[1:])
    return Parts(parts[0], test, val, (*left_out, *_beside(Path(path), files)), sizes, unreadable)


def open_files(
    op: str,
    files: Sequence[Labelled],
    *,
    size: int | Size | None = None,
    channels: int | None = None,
    memory_limit: int | None = None,
    skip_unreadable: bool = False,
    track: Track = untracked,
) -> tuple[list[tuple[LazyImages, np.ndarray]], tuple[Size, Size] | None, tuple[Exception, ...]]:
    """Parts of labelled files, of which the first decides what is chosen, in `open_folder`'s way: the parts (X, y), the
    least and the largest size where one was chosen, and the errors of what was left out."""
    paths = [file for part in files for file, _ in part]
    found = list(track(headers(paths), len(paths), "looking at images"))
    errors = {place: header for place, header in enumerate(found) if isinstance(header, Exception)}
    known = {place: header for place, header in enumerate(found) if not isinstance(header, Exception)}
    if not known:
        raise Unreadable(list(errors.values()))
    chosen, sizes = height_and_width(op, size), None
    if chosen is None:
        first = [header.size for place, header in known.items() if place < len(files[0])]
        chosen = _chosen_size(first or [header.size for header in known.values()])
        all_sizes = sorted({header.size for header in known.values()}, key=lambda size: (math.prod(size), size))
        sizes = (all_sizes[0], all_sizes[-1]) if all_sizes != [chosen] else None
    gray, deep = all(h.is_gray for h in known.values()), any(h.is_deep for h in known.values())
    shape = (channels_of(op, channels) or (1 if gray else 3), *chosen)
    require(op, math.prod(shape) * (4 if deep else 1))
    room = available_bytes() // SHARE if memory_limit is None else integer(op, "memory_limit", memory_limit)
    readable = list(known)
    store = Store([paths[place] for place in readable], shape, np.float32 if deep else np.uint8, room)
    errors |= {readable[at]: error for at, error in store.fill(track).items()}
    unreadable = tuple(errors[place] for place in sorted(errors))
    if unreadable and not skip_unreadable:
        raise Unreadable(unreadable)
    in_store = {place: at for at, place in enumerate(readable) if place not in errors}
    parts = []
    first_place = 0
    for part in files:
        kept = [at for at in range(len(part)) if first_place + at in in_store]
        places = np.array([in_store[first_place + at] for at in kept], np.intp)
        labels = np.array([part[at][1] for at in kept], np.int64)
        parts.append((LazyImages(store, places), labels))
        first_place += len(part)
    return parts, sizes, unreadable


def _chosen_size(sizes: Sequence[Size]) -> Size:
    """See `open_folder`."""
    if len(set(sizes)) == 1 and max(sizes[0]) <= KEPT:
        return sizes[0]
    sides = [statistics.median(lengths) for lengths in zip(*sizes, strict=True)]
    shrink = min(1, LONGEST / max(sides))
    height, width = (max(STRIDE, STRIDE * math.floor(side * shrink / STRIDE + 0.5)) for side in sides)
    return height, width


# --- where the files are ---------------------------------------------------------------------------------------------


def _files(root: Path, validation: bool, judged: bool = False) -> tuple[list[Labelled], tuple[str, ...]]:
    """The files of the training, test and validation part with their labels, and what is left out."""
    layout = _layout(root, judged)
    folders = _class_folders(layout.train)
    classes = {folder.name: label for label, folder in enumerate(folders)}
    files = [labelled_files(folder, classes) if folder else [] for folder in (layout.train, layout.test)]
    files.append(labelled_files(layout.validation, classes) if layout.validation and validation else [])
    if empty := sorted(set(range(len(folders))) - {label for _, label in files[0]}):
        rule = f"a class must have images, found none ({' '.join(SUFFIXES)})"
        raise FormatError(f"{folders[empty[0]]}: {rule}")
    left_out = [f"{folder.name}/" for folder in layout.others]
    if layout.validation and not files[2]:
        why = "no images" if validation else "the validation part: validation=True reads it"
        left_out.insert(0, f"{layout.validation.name}/ ({why})")
    if layout.test and not files[1] and any(True for _ in images_in(layout.test)):
        left_out.insert(0, f"{layout.test.name}/ (its images are in no class's folder)")
    return files, tuple(left_out)


def _beside(root: Path, files: list[Labelled]) -> list[str]:
    """The images that lie beside the folders of a part's classes, in words."""
    layout, told = _layout(root, judged=True), []
    for folder, labelled in zip((layout.train, layout.test, layout.validation), files, strict=True):
        if folder and labelled and (loose := _images(folder)):
            images = "1 image" if len(loose) == 1 else f"{len(loose):,} images"
            told.append(f"{images} beside the classes of {folder.name}/")
    return told


def _layout(root: Path, judged: bool = False) -> Layout:
    """Which folder is which part; `judged`: where there is only one to judge by, it is read in place of the training
    part's."""
    root = _unwrapped(root)
    train, folders = part_of(root, TRAIN), _subfolders(root)
    test, validation = part_of(root, TEST), part_of(root, VALIDATION)
    judging = bool(folders) and all(folder.name.lower() in JUDGED for folder in folders)
    if train is None and judging and any(map(_subfolders, folders)):
        if judged:
            return Layout(test or validation or root)
        there = " and ".join(f"{folder.name}/" for folder in folders)
        raise FormatError(f"{root}: has {there}, but no train/ to learn from; give a folder of classes itself")
    if train is None or not _subfolders(train):
        return Layout(root)
    return Layout(train, test, validation, tuple(f for f in folders if f not in (train, test, validation)))


def _unwrapped(root: Path) -> Path:
    """The folder itself, or the one of folders that is all that it holds."""
    while len(folders := _subfolders(root)) == 1 and _subfolders(folders[0]) and not _images(folders[0]):
        name = folders[0].name.lower()
        if name in TRAIN or _images(root) or (name in JUDGED and part_of(folders[0], TRAIN) is None):
            break
        root = folders[0]
    return root


def part_of(root: Path, names: Collection[str]) -> Path | None:
    """The first of `names` that is a folder in `root`, in small letters rather than in capitals."""
    folders = _subfolders(root)
    named = {folder.name.lower(): folder for folder in reversed(folders)} | {folder.name: folder for folder in folders}
    return next((named[name] for name in names if name in named), None)


def class_folder(path: Path, classes: Collection[str]) -> Path:
    """Where the folders of these classes are in a folder that is to be judged: in itself, else in its test part."""
    test = part_of(path, TEST)
    if test is None or any(folder.name in classes for folder in _subfolders(path)):
        return path
    return test


def _subfolders(folder: Path) -> list[Path]:
    names = (entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name not in LITTER)
    return sorted(entry for entry in names if entry.is_dir() and not _holds_runs(entry))


def _holds_runs(folder: Path) -> bool:
    """Whether `fastconv train` has left its runs, with their pictures, in this folder beside the classes."""
    return folder.name == "runs" and any(folder.glob("*/checkpoint.safetensors"))


def _images(folder: Path) -> list[Path]:
    """The image files that lie in the folder itself, by their names."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in files if not file.is_dir())


def images_in(folder: Path) -> Iterator[Path]:
    """The image files under a folder: its own by their names, then those of its subfolders by theirs. A folder that
    symbolic links lead to again is read once."""
    seen: set[tuple[int, int]] = set()
    todo = [folder]
    while todo:
        here = todo.pop()
        status = here.stat()
        own = status.st_dev, status.st_ino
        if own not in seen:
            seen.add(own)
            yield from _images(here)
            todo += reversed(_subfolders(here))


def _class_folders(train: Path) -> list[Path]:
    folders = _subfolders(train)
    if not folders:
        raise FormatError(f"{train}: the images must be in one subfolder per class, found no subfolder")
    return folders


def labelled_files(part: Path, classes: dict[str, int]) -> Labelled:
    """Every image file of a part with its label; FormatError for a folder that is no class."""
    files = []
    for folder in _subfolders(part):
        if folder.name not in classes:
            there = f"{len(classes):,} classes: {listing(classes)}"
            raise FormatError(f"{folder}: is no class of the training part ({there})")
        files += [(file, classes[folder.name]) for file in images_in(folder)]
    return files


# --- load_folder -----------------------------------------------------------------------------------------------------


def _shape(files: list[Path], size: Size | None, channels: int | None) -> Shape:
    """(C, H, W) of the arrays; what is not given is read from the images' headers."""
    if size and channels:
        return channels, *size
    gray = True
    sizes: dict[Size, Path] = {}  # and the first image of each
    for file in files:
        with opened(file) as image:
            gray = gray and image.is_gray
            sizes.setdefault(image.size, file)
        if size is None and len(sizes) > 1:
            ((h1, w1), one), ((h2, w2), other) = sizes.items()
            rule = "all images must have one size; pass size=(height, width) to resize them"
            raise FormatError(f"{other}: is {h2} x {w2}, {one} is {h1} x {w1}: {rule}")
    return channels or (1 if gray else 3), *(size or next(iter(sizes)))


def _load(files: Labelled, shape: Shape, raw: bool) -> Part:
    labels = np.array([label for _, label in files], np.int64)
    pixels = _pixels([file for file, _ in files], shape, raw)
    return as_images("load_folder", pixels, len(files), shape, raw=raw), labels


def _pixels(files: Sequence[Path], shape: Shape, raw: bool) -> Iterator[Any]:
    """The images, each (1, C, H, W)."""
    for pixels in decoded(files, shape, raw=raw):
        if isinstance(pixels, Exception):
            raise pixels
        yield pixels[np.newaxis]
