"""The data sets that `fastconv train` knows by name."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import datasets, distributed
from fastconv.cli.common import UsageError, one_line
from fastconv.datasets.folder import Parts
from fastconv.datasets.lazy import LazyImages, Unreadable
from fastconv.errors import FormatError, nearest

__all__ = [
    "SETS", "Data", "Set", "add_reading", "load", "reading", "refused", "resolve", "split",
    "tell_unreadable", "told_of_reading",
]  # fmt: skip

Part = tuple[Any, np.ndarray]  # images, an array or read when asked for, and labels
Size = tuple[int, int]

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Set:
    """A data set: how it is loaded, what its classes are called, and how `predict` prepares images for its nets."""

    load: Callable[..., Parts]
    classes: Callable[[Any], tuple[str, ...]]
    preparation: str
    needs_folder: bool = True


SETS: dict[str, Set] = {
    "digits": Set(lambda path, **_: Parts(*datasets.load_digits()), lambda path: DIGITS, "digits", needs_folder=False),
    "mnist": Set(lambda path, **_: Parts(*datasets.load_mnist(path)), lambda path: DIGITS, "mnist"),
    "cifar10": Set(lambda path, **_: Parts(*datasets.load_cifar10(path)), lambda path: CIFAR10, "picture"),
    "folder": Set(datasets.open_folder, lambda path: tuple(datasets.folder_classes(path)), "picture"),
}


def resolve(args: argparse.Namespace) -> None:
    """Say `args.name` and `args.data` of what was written: NAME, NAME DIR, NAME --data DIR or DIR alone."""
    if args.name is not None and args.name not in SETS:
        if not Path(args.name).is_dir():
            there = f"data sets are {', '.join(SETS)}"
            raise UsageError(f"no data set and no folder is called {args.name!r}; {there}{nearest(args.name, SETS)}")
        if args.directory is not None:
            raise UsageError(f"one folder is trained on, got {args.name} and {args.directory}")
        args.name, args.directory = "folder", Path(args.name)
    if args.directory is not None:
        if args.data is not None:
            raise UsageError(f"the folder is given twice: {args.directory} and --data {args.data}")
        args.data = args.directory


@dataclass(frozen=True)
class Data:
    """A data set; what else there is: see `datasets.folder.Parts`."""

    train: Part
    test: Part | None
    validation: Part | None
    left_out: tuple[str, ...]
    sizes: tuple[Size, Size] | None
    unreadable: tuple[Exception, ...]
    classes: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.train[0].shape[1:])


def add_reading(parser: Any) -> None:
    """The options --skip-unreadable and --memory-limit."""
    parser.add_argument("--skip-unreadable", action="store_true", help="folder: go on without files that are no images")
    parser.add_argument(
        "--memory-limit", type=_memory, metavar="SIZE",
        help="folder: hold images in memory up to this size, e.g. 500M or 2G, and the others in temporary storage "
             "(default: a quarter of what this process may use)",
    )  # fmt: skip


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """How a folder is read: these options for `load`."""
    from fastconv.training.progress import track

    return {
        "memory_limit": args.memory_limit,
        "skip_unreadable": args.skip_unreadable,
        "track": _untracked if getattr(args, "quiet", False) else track,
    }


def _untracked(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return items


UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _memory(text: str) -> int:
    """A number of bytes: 500M, 2G, 1.5GiB."""
    plain = text.upper().removesuffix("B").removesuffix("I")
    digits = plain.rstrip("KMGT")
    unit = plain[len(digits) :]
    if unit not in UNITS or not digits.replace(".", "", 1).isdecimal() or len(digits) > 20:
        raise argparse.ArgumentTypeError(f"must be a number of bytes, e.g. 500M or 2G, got {text!r}")
    return int(float(digits) * UNITS[unit])


def told_of_reading(data: Data) -> list[str]:
    """What was decided while a folder was read, in words."""
    told = []
    if data.sizes is not None:
        least, most, size = ("x".join(map(str, pair)) for pair in (*data.sizes, data.image_shape[1:]))
        seen = f"images of {least} pixels" if least == most else f"images of {least} to {most} pixels (height x width)"
        told.append(f"{seen}, read as {size}; --size HxW chooses another size")
    parts = [part[0] for part in (data.train, data.validation, data.test) if part is not None]
    total, held = sum(map(len, parts)), sum(getattr(x, "held", len(x)) for x in parts)
    if held < total:
        told.append(f"{held:,} of {total:,} images are in memory, the others in temporary storage (--memory-limit)")
    return told


def tell_unreadable(prog: str, errors: Iterable[Exception]) -> None:
    """A line on standard error for each; of ranks that train together the first one tells."""
    for error in errors if distributed.leads() else ():
        print(f"{prog}: {one_line(error)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def refused(prog: str, path: Any) -> Iterator[None]:
    """Have files that cannot be read be told one a line, before the error that counts them."""
    try:
        yield
    except Unreadable as error:
        tell_unreadable(prog, error.errors)
        files = "1 file" if len(error.errors) == 1 else f"{len(error.errors):,} files"
        raise FormatError(f"{path}: {files} cannot be read; --skip-unreadable goes on without") from None


def load(name: str, path: Path | None, size: Size | None, *, prog: str = "", **reading: Any) -> Data:
    """The data set, with its own validation part if there is one and it is wanted (`validation`); UsageError for
    options that it does not take. Files that cannot be read are told, by `prog`, one a line, whether they are left out
    or the reason to stop; reading: see `reading`."""
    chosen = SETS[name]
    if chosen.needs_folder and path is None:
        raise UsageError(f"{name} needs the folder that holds its files: {name} DIR, or --data DIR")
    if not chosen.needs_folder and path is not None:
        raise UsageError(f"{name} is part of fastconv: --data does not belong here")
    for option, given in (
        ("--size", size is not None),
        ("--skip-unreadable", reading.get("skip_unreadable")),
        ("--memory-limit", reading.get("memory_limit") is not None),
    ):
        if given and name != "folder":
            raise UsageError(f"{option} belongs to folder: the images of {name} are in one file, and have one size")
    with refused(prog, path):
        parts = chosen.load(path, size=size, **reading)
    tell_unreadable(prog, parts.unreadable)
    return Data(**parts._asdict(), classes=chosen.classes(path))


def split(part: Part, images: int, seed: int, *, stratified: bool = True) -> tuple[Part, Part]:
    """(the rest, `images` of them chosen by `seed`), each in the order they had.

    Each class has its share in both, to the nearest image: one at least where it has two, as long as there is room.
    Without `stratified` all images are of one class.
    """
    x, y = part
    order = np.random.default_rng((seed, 2)).permutation(len(y))
    classes = y[order] if stratified else np.zeros(len(y), int)
    _, classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    rank = np.empty(len(y))  # among the images of its class
    rank[np.argsort(classes, kind="stable")] = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    count = counts[classes]
    place = (rank + 0.5) / count - (rank == 0) + 2 * (rank == count - 1)  # a class's first goes first, its last stays
    chosen = np.zeros(len(y), bool)
    chosen[order[np.argsort(place, kind="stable")[:images]]] = True
    return (_only(x, ~chosen), y[~chosen]), (_only(x, chosen), y[chosen])


def _only(x: Any, chosen: np.ndarray) -> Any:
    return x.only(chosen) if isinstance(x, LazyImages) else x[chosen]
