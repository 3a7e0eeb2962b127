"""Image files as an array that is read when it is asked for: what fits a limit is kept in memory, as the files have it.

A folder of photographs may be larger than the memory. `LazyImages` is indexed like an array (N, C, H, W) of float32 in
[0, 1]; the first files of a set are held as uint8, as many as a limit leaves room for, and the others are decoded anew
whenever they are asked for, in threads (Pillow lets others run while it decodes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastconv.datasets.image_files import opened
from fastconv.errors import FormatError
from fastconv.machine.memory import require
from fastconv.machine.threads import get_num_threads

__all__ = ["Header", "LazyImages", "Shape", "Store", "Track", "Unreadable", "decoded", "headers", "untracked"]

Shape = tuple[int, int, int]  # (C, H, W)
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]  # (items, how many, what is done): the items, shown

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
    """The pixels (C, H, W) of every file, in order, or what reading it raised; read in threads, a block ahead.

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
    if threads < 2:
        yield from map(read, files)
        return
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), block):
            yield from pool.map(read, files[start : start + block])


class Store:
    """The files of a set and the pixels of those that are in memory: the first ones, `room` bytes of them at most."""

    def __init__(self, files: Sequence[Path], shape: Shape, dtype: Any, room: int) -> None:
        self.files = files
        self.shape = shape
        self.dtype = np.dtype(dtype)
        count = min(len(files), max(0, room) // (math.prod(shape) * self.dtype.itemsize))
        self.held = np.empty((count, *shape), self.dtype)

    def fill(self, track: Track = untracked) -> dict[int, Exception]:
        """Decode every file once, those beyond the limit to see that they can be; {place: error} where one cannot."""
        errors = {}
        raw = self.dtype == np.uint8
        read = track(decoded(self.files, self.shape, raw=raw), len(self.files), "reading images")
        for place, pixels in enumerate(read):
            if isinstance(pixels, Exception):
                errors[place] = pixels
            elif place < len(self.held):
                _put(pixels, self.held[place])
        return errors

    def read(self, places: np.ndarray) -> np.ndarray:
        """The images at `places` (n,) as float32 in [0, 1]; FormatError or OSError for a file that has changed."""
        pixels = self.held[places[places < len(self.held)]]
        if len(pixels) < len(places):
            kept, pixels = pixels, np.empty((len(places), *self.shape), self.dtype)
            inside = places < len(self.held)
            pixels[inside] = kept
            missing = np.flatnonzero(~inside)
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
