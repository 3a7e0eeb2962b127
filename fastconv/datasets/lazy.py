"""Image files as an array that is read when it is asked for.

A folder of photographs may be larger than the memory. `LazyImages` is indexed like an array (N, C, H, W) of float32 in
[0, 1]. Every file is decoded once, in threads (Pillow lets others run while it decodes), to the size that is wanted;
the first pixels are held in memory as uint8, as many as a limit leaves room for, the others in a temporary file without
a name, which the system removes whatever happens. What half of the disk's free space does not hold either is decoded
anew whenever it is asked for.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastconv.datasets.image_files import opened, quiet
from fastconv.errors import FormatError
from fastconv.machine.memory import require
from fastconv.machine.threads import get_num_threads

__all__ = ["Header", "LazyImages", "Shape", "Store", "Track", "Unreadable", "decoded", "headers", "untracked"]

Shape = tuple[int, int, int]  # (C, H, W)
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, what is done): the items, shown

LARGE, LOOKED_AT = 1 << 14, 8  # bytes of a file that takes longer to decode than to open; files whose size is asked
BLOCK, BLOCK_BYTES = 128, 16 << 20  # images that are decoded before the first of them is looked at


class Unreadable(FormatError):
    """Image files that cannot be read. `errors`: what each of them raised."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        more = f"; {len(errors) - 1:,} more cannot be read, the next: {errors[1]}" if len(errors) > 1 else ""
        super().__init__(f"{errors[0]}{more}")
        self.errors = tuple(errors)


class Header(NamedTuple):
    """What a file says before it is decoded."""

    size: tuple[int, int]
    is_gray: bool
    is_deep: bool


def untracked(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """Shows nothing."""
    return items


def headers(files: Sequence[Path]) -> Iterator[Header | Exception]:
    """The header of every file, or what reading it raised."""
    for file in files:
        try:
            with opened(file) as image:
                yield Header(image.size, image.is_gray, image.is_deep)
        except (FormatError, OSError) as error:
            yield error


def decoded(files: Sequence[Path], shape: Shape, *, raw: bool) -> Iterator[np.ndarray | Exception]:
    """The pixels (C, H, W) of every file, in order, or what reading it raised; a block is read at a time, in threads
    where files are large: of small ones most is Python's work, for which threads only wait for each other.

    uint8, or float32 where the file holds more than 8 bits (with `raw` an error).
    """
    channels, *size = shape

    def read(file: Path) -> np.ndarray | Exception:
        try:
            with opened(file) as image:
                return image.pixels(channels, (size[0], size[1]), raw=raw)
        except (FormatError, OSError) as error:
            return error

    threads = min(get_num_threads(), len(files))
    block = max(threads, min(BLOCK, BLOCK_BYTES // math.prod(shape)), 1)
    with contextlib.ExitStack() as stack:
        pool = None
        for start in range(0, len(files), block):
            part = files[start : start + block]
            if pool is None and threads > 1 and _are_large(part):
                pool = stack.enter_context(ThreadPoolExecutor(threads))
            with quiet:
                found = list((pool.map if pool else map)(read, part))
            yield from found


def _are_large(files: Sequence[Path]) -> bool:
    """Whether some of the files, evenly spread, are worth threads."""
    sizes = []
    for file in files[:: max(1, len(files) // LOOKED_AT)]:
        with contextlib.suppress(OSError):
            sizes.append(file.stat().st_size)
    return sum(sizes) > LARGE * len(sizes)


class Store:
    """The files of a set and their pixels: of the first ones in memory, `room` bytes at most, of those up to `stored`
    in a temporary file."""

    def __init__(self, files: Sequence[Path], shape: Shape, dtype: Any, room: int) -> None:
        self.files = files
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.nbytes = math.prod(shape) * self.dtype.itemsize  # of an image
        self.held = np.empty((min(len(files), max(0, room) // self.nbytes), *shape), self.dtype)
        self.stored = len(self.held)
        self._file: Any = None

    def fill(self, track: Track = untracked) -> dict[int, Exception]:
        """Decode every file once; {place: error} of those that cannot be."""
        errors = {}
        self._open()
        one = np.empty(self.shape, self.dtype)
        raw = self.dtype == np.uint8
        read = track(decoded(self.files, self.shape, raw=raw), len(self.files), "reading images")
        for place, pixels in enumerate(read):
            if isinstance(pixels, Exception):
                errors[place] = pixels
            elif place < len(self.held):
                _put(pixels, self.held[place])
            elif place < self.stored:
                _put(pixels, one)
                try:
                    written = os.pwrite(self._file.fileno(), one.data, self._at(place))
                except OSError:
                    written = 0
                if written < self.nbytes:  # the disk is full
                    self.stored = place
        return errors

    def _open(self) -> None:
        """A temporary file for what memory does not hold, and how much of that goes into it."""
        if len(self.held) == len(self.files):
            return
        large = Path("/var/tmp")  # which is on a disk where /tmp may be in memory
        folder = large if "TMPDIR" not in os.environ and os.access(large, os.W_OK | os.X_OK) else None
        with contextlib.suppress(OSError):
            self._file = tempfile.TemporaryFile(buffering=0, prefix="fastconv-", dir=folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            status = os.fstatvfs(self._file.fileno())
            room = status.f_bavail * status.f_frsize // 2
            self.stored = min(len(self.files), len(self.held) + int(room // self.nbytes))

    def _at(self, place: int) -> int:
        """Where an image's pixels begin in the temporary file."""
        at: int = (place - len(self.held)) * self.nbytes
        return at

    def read(self, places: np.ndarray) -> np.ndarray:
        """The images at `places` (n,) as float32 in [0, 1]; FormatError or OSError for a file that has changed."""
        inside = places < len(self.held)
        if inside.all():
            pixels = self.held[places]
        else:
            pixels = np.empty((len(places), *self.shape), self.dtype)
            pixels[inside] = self.held[places[inside]]
            for at in np.flatnonzero(~inside & (places < self.stored)):
                if os.preadv(self._file.fileno(), [pixels[at].data], self._at(int(places[at]))) < self.nbytes:
                    raise OSError(f"{self.files[places[at]]}: its pixels in temporary storage cannot be read")
            missing = np.flatnonzero(places >= self.stored)
            files = [self.files[places[at]] for at in missing]
            for at, image in zip(missing, decoded(files, self.shape, raw=self.dtype == np.uint8), strict=True):
                if isinstance(image, Exception):
                    raise image
                _put(image, pixels[at])
        images: np.ndarray = pixels if self.dtype == np.float32 else np.divide(pixels, 255, dtype=np.float32)
        return images


def _put(pixels: np.ndarray, out: np.ndarray) -> None:
    """Into an array of the store's own type."""
    if pixels.dtype == out.dtype:
        out[...] = pixels
    else:  # a file of 8 bits among deeper ones
        np.divide(pixels, 255, out=out, dtype=out.dtype)


class LazyImages:
    """Images in files, seen as an array (N, C, H, W) of float32 in [0, 1]: `images[index]` is read when asked for.

    shape, dtype, ndim, size, itemsize, nbytes   the array's, were it in memory
    held                                         how many of the images are in memory
    paths                                        the images' files
    """

    dtype = np.dtype(np.float32)
    itemsize = dtype.itemsize
    ndim = 4

    def __init__(self, store: Store, places: np.ndarray) -> None:
        self._store = store
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._store.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def held(self) -> int:
        return int(np.count_nonzero(self._places < len(self._store.held)))

    @property
    def paths(self) -> list[Path]:
        return [self._store.files[place] for place in self._places]

    def __getitem__(self, index: Any) -> np.ndarray:
        """The images at `index`, an int, a slice or an array of indices or bools, along the first axis."""
        places = self._places[index]
        if np.ndim(places) > 1:
            raise IndexError(f"LazyImages: an index must choose images, along one axis; got {index!r}")
        return self._store.read(np.atleast_1d(places)).reshape(*np.shape(places), *self._store.shape)

    def only(self, chosen: Any) -> LazyImages:
        """Those of the images, not read yet."""
        return LazyImages(self._store, self._places[chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("LazyImages: the images must be read, which makes an array of their own")
        require("LazyImages", self.nbytes)
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"LazyImages(shape={self.shape}, held={self.held})"
