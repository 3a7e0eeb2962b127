"""Zip archives, opened with what they claim held against what they are; and NumPy's .npz."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib import format as npy

from fastconv.errors import FormatError
from fastconv.machine import memory
from fastconv.training.checkpoint import Tensors, refuse, short

__all__ = ["Place", "opened", "read_npz", "stored"]

MOST_DIRECTORY = 3 << 20  # bytes of an archive's list of entries; Python's takes some ten times as many
TAIL = (1 << 16) + 128  # bytes at an archive's end in which its list's length stands
MOST_HEADER = 1 << 16  # bytes of an array's header

FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, TypeError,
    LookupError, OverflowError, SyntaxError, AttributeError,
)  # fmt: skip

Place = tuple[int, int, int]  # of an entry's bytes: the first one's offset in the file, how many, their CRC-32 or 0


@contextlib.contextmanager
def opened(path: Any, file: io.BufferedReader) -> Iterator[zipfile.ZipFile]:
    """The archive in an open file. Whatever its contents raise inside is one FormatError."""
    size = os.fstat(file.fileno()).st_size
    start = max(0, size - TAIL)
    file.seek(start)
    tail = file.read(TAIL)
    directory = 0
    if (at := tail.rfind(b"PK\5\6")) >= 0:
        directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    if directory == 0xFFFFFFFF and (at := tail.rfind(b"PK\6\6")) >= 0:
        directory = int.from_bytes(tail[at + 40 : at + 48], "little")
    if directory > MOST_DIRECTORY:
        refuse(path, f"its list of entries would have {directory:,} bytes, more than {MOST_DIRECTORY:,}")
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except FormatError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning, or beyond what a file can have
            raise
        refuse(path, "is a damaged archive: it names a place that no file has")
    except FAULTS as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else error
        refuse(path, f"is a damaged archive: {short(reason)}")


def stored(path: Any, file: io.BufferedReader, size: int, info: zipfile.ZipInfo) -> Place:
    """Where the bytes of an entry lie, which must be neither compressed nor encrypted."""
    what = short(info.filename)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        refuse(path, f"its entry {what} is compressed or encrypted, which torch.save's entries are not")
    header = os.pread(file.fileno(), 30, info.header_offset) if 0 <= info.header_offset < size else b""
    if len(header) < 30 or header[:4] != b"PK\3\4":
        refuse(path, f"its entry {what} has no header")
    begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
    if begin + info.file_size > size:
        refuse(path, f"its entry {what} would end at byte {begin + info.file_size:,} of {size:,}")
    return begin, info.file_size, info.CRC


def read_npz(path: Any, archive: zipfile.ZipFile) -> Tensors:
    """The arrays of an archive that `numpy.savez` or `savez_compressed` wrote; none of them holds objects.

    All headers are held against memory before any array is read. Raises FormatError, MemoryError.
    """
    found: list[tuple[str, zipfile.ZipInfo]] = []
    total = 0
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name == info.filename or any(name == other for other, _ in found):
            refuse(path, f"its entry {short(info.filename)} is no array, or stands there twice")
        with archive.open(info) as stream:
            shape, dtype = _header(path, name, stream)
            nbytes = math.prod(shape) * dtype.itemsize
            if nbytes != info.file_size - stream.tell():
                refuse(path, f"{short(name)} needs {nbytes:,} bytes, its entry has {info.file_size - stream.tell():,}")
        total += nbytes
        found.append((name, info))
    memory.require(f"{path}: reading", total)
    tensors = {}
    for name, info in found:
        with archive.open(info) as stream:
            array = npy.read_array(stream, allow_pickle=False)
        tensors[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return tensors


def _header(path: Any, name: str, stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    """An array's shape and type, as its header says them."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        refuse(path, f"{short(name)} has version {version} of the format, which is not read")
    length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if length > MOST_HEADER:
        refuse(path, f"{short(name)} has a header of {length:,} bytes")
    text = stream.read(length)
    if version == (3, 0):  # as (2, 0), but in UTF-8: names of fields, which no array here has
        text.decode("ascii")
    shape, _, dtype = npy.read_array_header_2_0(io.BytesIO(length.to_bytes(4, "little") + text))
    if dtype.kind not in "fbiuc":
        refuse(path, f"{short(name)} holds {short(dtype)}; only numbers are read")
    if len(shape) > 32 or any(n < 0 for n in shape):
        refuse(path, f"{short(name)} has shape {short(shape)}")
    return shape, dtype
