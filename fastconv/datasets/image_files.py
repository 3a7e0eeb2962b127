"""Image files as arrays, read one way for training, prediction and users: upright, at the depth that the file has.

    with opened(path) as image:           an ImageFile: nothing but its header has been read
        image.size, image.is_gray, image.is_deep
        image.pixels(channels, size)      (C, H, W) uint8, or float32 in [0, 1] where the file holds more than 8 bits
        image.levels(longest)             gray levels and how opaque they are, for `fastconv predict`

A small file cannot take much memory: sides are bounded, and what an image needs, with the decoder's own buffers, is
held against the file's size and against the memory this process may use before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.datasets.pixels import as_images
from fastconv.errors import FormatError, integer
from fastconv.files import open_regular
from fastconv.machine.memory import require
from fastconv.window import is_sequence

__all__ = ["SUFFIXES", "ImageFile", "channels_of", "height_and_width", "load_image", "opened", "quiet"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp")
DECODERS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # no other is tried, whatever the file says it is

LONGEST_SIDE = 65_535  # pixels, as in JPEG and GIF: a row of Pillow's costs 16 bytes and more, however short it is
FREE, EXPANSION = 128 << 20, 4096  # bytes that any file may take, and more for each of its own; photographs: 50
BAND = 1 << 20  # pixels that are converted together where an image is reduced

ORIENTATION = 0x0112  # EXIF's and TIFF's tag
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
TIFF_WIDTH, TIFF_LENGTH, TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_PLANES = 256, 257, 258, 262, 284
TIFF_TILE_WIDTH, TIFF_TILE_LENGTH = 322, 323

WHITE = 65535  # of integers of more than 8 bits, but for TIFF's of 12 bits
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
DEEP = "more than 8 bits per channel"


def load_image(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    raw: bool = False,
) -> np.ndarray:
    """One image file as `load_folder` reads it: (C, H, W) float32 in [0, 1].

    Orientation is EXIF's, transparency is dropped, and 16 bits are not cut to 8: white is 65,535 in integers of more
    than 8 bits (4,095 in TIFF's of 12) and 1 in floats.

    size      (height, width), or an int for both: the image is resized to it, its proportions apart
    channels  1 (gray) or 3 (red, green, blue); by default what the file has
    raw       uint8, 0..255, instead of float32

    Raises OSError for a file that cannot be opened, FormatError for a damaged or foreign one, for a decompression bomb,
    for numbers beyond white and, with `raw`, for more than 8 bits per channel; MemoryError for an image larger than the
    memory this process may use, ImportError without Pillow: pip install "fastconv[plot]".
    """
    size, channels = height_and_width("load_image", size), channels_of("load_image", channels)
    if size is not None:
        require("load_image", 4 * math.prod(size))
        if max(size) > LONGEST_SIDE:
            raise ValueError(f"load_image: size must have sides of {LONGEST_SIDE:,} at most, got {size}")
    with opened(Path(path)) as image:
        pixels = image.pixels(channels or (1 if image.is_gray else 3), size, raw=raw)
    loaded: np.ndarray = as_images("load_image", [pixels[np.newaxis]], 1, pixels.shape, raw=raw)[0]
    return loaded


def height_and_width(op: str, size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """The option `size`: (height, width), an int for both, or None. ValueError for anything below 1."""
    if size is None:
        return None
    pair: Any = size if is_sequence(size) else (size, size)
    if len(pair) != 2 or min(integer(op, "size", side) for side in pair) < 1:
        raise ValueError(f"{op}: size must be (height, width), each 1 at least, got {size!r}")
    return int(pair[0]), int(pair[1])


def channels_of(op: str, channels: int | None) -> int | None:
    """The option `channels`: 1, 3, or None."""
    if channels is None:
        return None
    if (count := integer(op, "channels", channels)) not in (1, 3) or isinstance(channels, bool):
        raise ValueError(f"{op}: channels must be 1 or 3, got {channels!r}")
    return count


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """The file as an `ImageFile`; whatever its header or, inside the `with`, its decoding raises becomes a FormatError.

    Raises OSError for a file that cannot be opened, MemoryError that names it, ImportError without Pillow.
    """
    pillow = _pillow()
    with open_regular(path) as stream, quiet:
        try:
            with pillow.open(stream, formats=DECODERS) as image:
                yield ImageFile(path, stream, image)
        except FormatError:
            raise
        except MemoryError as error:
            raise MemoryError(str(error) or f"{path}: there is not enough memory to decode it") from None
        except Exception as error:  # decoders raise almost anything on hostile bytes
            said = str(error).partition(" <_io.")[0] or type(error).__name__  # Pillow names our open file so
            raise FormatError(f"{path}: no image that can be read: {said}") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "fastconv[plot]"') from error
    return Image


class _Warnings:
    """Inside, in any number of threads, Pillow warns of nothing, and its warning of a bomb is an error.

    The filters are the process's: the first thread that enters sets them and the last that leaves restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                warnings.filterwarnings("error", category=_pillow().DecompressionBombWarning)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


quiet = _Warnings()


class ImageFile:
    """An open image file: what its header says, and its pixels, which are decoded once, by one of the methods.

    size      (height, width), upright
    is_gray   whether red, green and blue are the same by the file's form or by its palette
    """

    def __init__(self, path: Path, stream: BufferedReader, image: Any) -> None:
        self.path = path
        self._stream = stream
        self._image = image
        if image.format == "TIFF":  # Pillow's own size is upright, or not yet: its versions differ
            width, height = image.tag_v2[TIFF_WIDTH], image.tag_v2[TIFF_LENGTH]
        else:
            width, height = image.size
        if min(width, height) < 1 or max(width, height) > LONGEST_SIDE:
            raise self._error(f"is {height:,} x {width:,} pixels; a side may have 1 to {LONGEST_SIDE:,}")
        orientation = _orientation(stream, image)
        self.size = (width, height) if orientation >= 5 else (height, width)
        self._turn = None if image.format == "TIFF" else UPRIGHT.get(orientation)  # Pillow turns a TIFF by itself

    def _error(self, text: str) -> FormatError:
        return FormatError(f"{self.path}: {text}")

    @property
    def is_gray(self) -> bool:
        if self._image.mode in ("P", "PA"):
            palette = np.reshape(self._image.getpalette(), (-1, 3))
            return bool((palette == palette[:, :1]).all())
        return self._image.mode in ("1", "L", "LA") or self._is_deep_gray or self._rawmode == "LA;16B"

    @property
    def _rawmode(self) -> str:
        """How the decoder unpacks the file's numbers: Pillow's name."""
        arguments = self._image.tile[0][3] if self._image.tile else ""
        rawmode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        return rawmode if isinstance(rawmode, str) else ""

    @property
    def is_deep(self) -> bool:
        """Whether the file holds more than 8 bits per channel."""
        return self._is_deep_gray or self._is_deep_colour

    @property
    def _is_deep_gray(self) -> bool:
        return self._image.mode[0] in "IF"

    @property
    def _is_deep_colour(self) -> bool:
        """Whether Pillow would cut the file's numbers to 8 bits."""
        if self._is_deep_gray:
            return False
        if self._image.format == "PPM" and self._image.mode == "RGB":
            codec, _, _, arguments = self._image.tile[0]
            return bool(codec != "raw" and arguments[1] > 255)
        if self._image.format == "TIFF":
            return bool(max(self._image.tag_v2.get(TIFF_BITS, (1,))) > 8)
        return ";16" in self._rawmode

    # --- pixels

    def pixels(self, channels: int, size: tuple[int, int] | None = None, *, raw: bool = False) -> np.ndarray:
        """(channels, H, W): uint8; or, where the file holds more than 8 bits, float32 in [0, 1], not with `raw`.

        channels   1 or 3; transparency is dropped
        size       (height, width) to resize to, bilinear; a JPEG four times as large is decoded at a fraction of its
                   own size
        """
        if self.is_deep:
            if raw:
                raise self._error(f"has {DEEP}, and raw=True holds 8: load it without, or convert the file")
            return self._deep_pixels(channels, size)
        image, mode = self._image, "L" if channels == 1 else "RGB"
        if size is not None:
            height, width = size if self.size == image.size[::-1] else size[::-1]  # as the file has it
            image.draft(None, (2 * width, 2 * height))
        steps = [] if image.mode == mode else [mode]
        if "transparency" in image.info and image.mode in ("P", "PA"):
            steps.insert(0, "RGBA")  # says which colour hides behind a transparent palette entry
        self._require(image.mode, *[image.mode] * bool(self._turn), *steps)
        image = self._upright(image)
        for step in steps:
            image = image.convert(step)
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], _pillow().Resampling.BILINEAR)
        return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)

    def _deep_pixels(self, channels: int, size: tuple[int, int] | None) -> np.ndarray:
        values, white, _ = self._deep()
        if len(values) > channels:
            planes = [_gray(values, white)]
        else:
            planes = [_levels(plane, white) for plane in values]
        if size is not None and planes[0].shape != size:
            pillow = _pillow()
            images = (pillow.fromarray(plane).resize(size[::-1], pillow.Resampling.BILINEAR) for plane in planes)
            planes = [np.asarray(image) for image in images]
        return np.broadcast_to(planes, (channels, *planes[0].shape))

    def levels(self, longest: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The gray levels (H, W), float64 in [0, 1], and how opaque they are (H, W), or None where all are.

        longest   pixels: an image with a longer side is reduced by a whole factor, transparent pixels not counted
        """
        if self.is_deep:
            values, white, alpha = self._deep()
            gray = _gray(values, white)
            if alpha is None:
                return _reduced_plane(gray, longest), None
            opaque = _levels(alpha, white)
            opacity = _reduced_plane(opaque, longest)
            return _reduced_plane(gray * opaque, longest) / np.maximum(opacity, 1e-6), opacity
        image = self._image
        image.draft(None, (longest, longest))  # a large JPEG is decoded at a fraction of its size
        self._require(image.mode, *[image.mode] * bool(self._turn))
        if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
            planes = _reduced(self._upright(image), longest, "RGBA") / 255
            return planes[..., :3] @ LUMINANCE, planes[..., 3]
        return _reduced(self._upright(image), longest, "L") / 255, None

    def _upright(self, image: Any) -> Any:
        image.load()
        return image if self._turn is None else image.transpose(_pillow().Transpose[self._turn])

    def _require(self, *modes: str) -> None:
        """Raise unless the image may be held in all of these modes at once, and what its decoder needs beside them."""
        pixels = self._image.width * self._image.height  # after `draft`
        sizes = (1 if mode in ("1", "L", "P") else 2 if mode.startswith("I;16") else 4 for mode in modes)
        needed = pixels * sum(sizes) + self._decoder_bytes()
        stored = os.fstat(self._stream.fileno()).st_size
        if needed > FREE + EXPANSION * stored:
            height, width = self.size
            what = f"{height:,} x {width:,} pixels of {stored:,} bytes, which would take {needed:,} bytes of memory"
            raise self._error(f"no image that can be read: {what}: a decompression bomb")
        require(f"{self.path}", needed)

    def _decoder_bytes(self) -> int:
        image: Any = self._image
        pixels: int = math.prod(self.size)
        if image.format == "WEBP":
            return 12 * pixels  # two canvases and a copy of one
        if image.info.get("progressive"):  # a JPEG's coefficients, all of them, 16 bits each
            return 2 * pixels * len(image.getbands())
        if image.format == "TIFF":  # a tile, or a strip, which may be the whole image
            tags = image.tag_v2
            tile = tags.get(TIFF_TILE_WIDTH, 0) * tags.get(TIFF_TILE_LENGTH, 0)
            return int(max(tile, pixels) * (sum(tags.get(TIFF_BITS, (1,))) + 7) // 8)
        return 0

    # --- more than 8 bits

    def _deep(self) -> tuple[np.ndarray, int, np.ndarray | None]:
        """Numbers (1 or 3, H, W), the number that is white, and how opaque the pixels are (H, W), where the file says
        it, by numbers up to white."""
        if self._is_deep_gray:
            values, white = self._deep_gray()[np.newaxis], self._white()
        else:
            values, white = self._deep_colour().transpose(2, 0, 1), WHITE
        if len(values) in (2, 4):
            return values[:-1], white, values[-1]
        transparent = self._image.info.get("transparency")
        if isinstance(transparent, (int, tuple)):  # the only colour that is
            return values, white, white * (values != np.reshape(transparent, (-1, 1, 1))).any(axis=0)
        return values, white, None

    def _deep_gray(self) -> np.ndarray:
        image = self._image
        self._require(*[image.mode] * (2 + bool(self._turn)), "F", "F")
        values, white = np.asarray(self._upright(image)), self._white()
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= white):
            held = "floats" if values.dtype.kind == "f" else "integers"
            raise self._error(f"holds {held} from {low:g} to {high:g}; from 0, black, to {white:,}, white, can be read")
        if image.format == "TIFF" and image.tag_v2.get(TIFF_PHOTOMETRIC) == 0:  # white is zero
            return white - values
        return values

    def _white(self) -> int:
        image = self._image
        if image.mode == "F":
            return 1
        bits = image.tag_v2.get(TIFF_BITS) if image.format == "TIFF" else None
        return 4095 if bits == (12,) else WHITE

    def _deep_colour(self) -> np.ndarray:
        """16 bits a channel (H, W, 2, 3 or 4). Pillow unpacks the upper bytes only, and, asked for the other byte
        order, the lower ones."""
        image, rawmode = self._image, self._rawmode
        family, _, order = rawmode.partition(";16")
        planar = image.format == "TIFF" and image.tag_v2.get(TIFF_PLANES, 1) != 1
        self._require(*["RGB"] * (7 + bool(self._turn)))
        if rawmode == "LA;16B":  # a PNG: four bytes a pixel, which are its two numbers
            values = np.asarray(self._upright(self._as(image, "RGBA")))
            return np.ascontiguousarray(values).view(">u2").astype(np.uint16)
        if image.tile[0][0] == "ppm":
            return self._deep_ppm()
        if family not in ("RGB", "RGBX", "RGBA") or order not in ("B", "L", "N") or planar:
            raise self._error(f"has {DEEP} in a form that Pillow cuts to 8 ({rawmode or image.format}); convert it")
        values = np.asarray(self._upright(image)).astype(np.uint16)
        values <<= 8
        other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[order]
        self._stream.seek(0)
        with _pillow().open(self._stream, formats=DECODERS) as again:
            values |= np.asarray(self._upright(self._as(again, f"{family};16{other}")))
        return values

    @staticmethod
    def _as(image: Any, rawmode: str) -> Any:
        """The image, not decoded yet, to be unpacked another way."""
        tiles = []
        for codec, extents, offset, arguments in image.tile:
            other = rawmode if isinstance(arguments, str) else (rawmode, *arguments[1:])
            tiles.append(_tile(image)(codec, extents, offset, other))
        image.tile = tiles
        return image

    def _deep_ppm(self) -> np.ndarray:
        width, height = self._image.size
        _, _, offset, (_, white) = self._image.tile[0]
        self._stream.seek(offset)
        data = self._stream.read(width * height * 6)
        if len(data) < width * height * 6:
            raise self._error("no image that can be read: image file is truncated")
        values = np.frombuffer(data, ">u2").reshape(height, width, 3)
        if values.max() > white:
            raise self._error(f"no image that can be read: its numbers reach {values.max():,}, its white is {white:,}")
        return np.rint(values * np.float32(WHITE / white)).astype(np.uint16)


def _levels(values: np.ndarray, white: int) -> np.ndarray:
    """Numbers as float32, white as 1."""
    shares: np.ndarray = np.divide(values, white, dtype=np.float32)
    return shares


def _gray(values: np.ndarray, white: int) -> np.ndarray:
    """The gray levels (H, W), float32 in [0, 1], of numbers (1 or 3, H, W)."""
    if len(values) == 1:
        return _levels(values[0], white)
    gray = np.zeros(values.shape[1:], np.float32)
    for share, plane in zip(LUMINANCE, values, strict=True):
        gray += np.float32(share) * _levels(plane, white)
    return np.minimum(gray, 1, out=gray)


def _reduced(image: Any, longest: int, mode: str) -> np.ndarray:
    """The Pillow image in `mode`, reduced by a whole factor to `longest` pixels a side; a band of rows at a time."""
    factor = -(-max(image.size) // longest)
    rows = factor * max(1, BAND // (image.width * factor))
    bands = []
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        for step in ("RGB", mode) if mode == "L" else (mode,):
            if band.mode not in (step, mode):
                band = band.convert(step)
        bands.append(np.asarray(band.reduce(factor)))
    return np.concatenate(bands)


def _reduced_plane(plane: np.ndarray, longest: int) -> np.ndarray:
    return _reduced(_pillow().fromarray(plane), longest, "F").astype(np.float64)


def _tile(image: Any) -> Callable[..., tuple[Any, ...]]:
    """What makes an entry of `image.tile`: Pillow's own named tuple from version 11 on."""
    kind = type(image.tile[0])
    return lambda *entries: entries if kind is tuple else kind(*entries)


def _orientation(stream: BufferedReader, image: Any) -> int:
    """EXIF's orientation, 1 (upright) to 8, without decoding a pixel; 1 where there is none, or none that makes sense.

    `PngImageFile.getexif` would decode the image to look for EXIF behind its pixels.
    """
    with contextlib.suppress(Exception):  # EXIF that is damaged says nothing
        if image.format == "TIFF":
            orientation = image.tag_v2.get(ORIENTATION)
        else:
            if image.format == "PNG" and "exif" not in image.info and (late := _late_exif(stream)):
                image.info["exif"] = late
            orientation = _pillow().Image.getexif(image).get(ORIENTATION)
        return orientation if orientation in UPRIGHT else 1
    return 1


def _late_exif(stream: BufferedReader) -> bytes | None:
    """A PNG's EXIF, wherever it stands."""
    position = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return stream.read(length)
            stream.seek(length + 4, os.SEEK_CUR)
    finally:
        stream.seek(position)
    return None
