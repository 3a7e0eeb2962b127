"""The files of `torch.save`, read without PyTorch: its zip archives, and the files from before PyTorch 1.6.

Source: PyTorch's torch/serialization.py (`_save`, `_legacy_save`) and caffe2/serialize/inline_container.cc.

    zip     NAME/data.pkl      the object, whose tensors name their storages by keys
            NAME/data/KEY      a storage's bytes, as they are
            NAME/byteorder     "little" or "big"; little where there is none
    older   pickles of MAGIC, of the version, of facts about the machine, of the object and of the storages' keys; then
            for each key the number of elements (8 bytes) and the elements, little-endian on every machine

Only the storages that are asked for are read, a piece at a time.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from fastconv.machine import memory
from fastconv.training.checkpoint import Tensors, refuse, short
from fastconv.weights.archives import Place, stored
from fastconv.weights.pickles import ADVICE, Storage, Unpickler, View, Window

__all__ = ["File", "from_older", "from_zip"]

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
PIECE = 4 << 20  # bytes that are read and converted together


class File:
    """What a file holds: `value`, with `View`s for its tensors, and where each storage's bytes lie."""

    def __init__(self, path: Any, file: io.BufferedReader, value: Any, order: str, places: dict[str, Place]) -> None:
        self.value = value
        self._path, self._file, self._order, self._places = path, file, order, places

    def arrays(self, views: dict[str, View]) -> Tensors:
        """The tensors as arrays. Those that share a storage share memory, as they did when they were saved; half and
        bfloat16 become float32. Raises FormatError, and MemoryError before anything is allocated."""
        storages = {view.storage.key: view.storage for view in views.values()}
        size = os.fstat(self._file.fileno()).st_size
        if sum(self._places[key][1] for key in storages) > size:
            refuse(self._path, "its storages overlap")
        total = sum(self._places[key][1] * _result(s.kind).itemsize // _itemsize(s.kind) for key, s in storages.items())
        memory.require(f"{self._path}: reading", total)
        read = {key: self._read(key, storage.kind) for key, storage in storages.items()}
        return {name: self._array(name, read[view.storage.key], view) for name, view in views.items()}

    def _array(self, name: str, elements: np.ndarray, view: View) -> np.ndarray:
        item = elements.dtype.itemsize
        try:
            if not elements.size or 0 in view.size:
                return np.empty(view.size, elements.dtype)
            strides = [step * item for step in view.stride]
            return np.ndarray(
                view.size, elements.dtype, elements.data, (view.storage.start + view.offset) * item, strides
            )
        except (ValueError, OverflowError):
            refuse(self._path, f"{short(name)} has a shape that NumPy cannot hold")

    def _read(self, key: str, kind: str) -> np.ndarray:
        """A storage's elements, all of them."""
        begin, nbytes, crc = self._places[key]
        stored_as = np.dtype("u2" if kind == "bf16" else kind).newbyteorder(self._order)  # type: ignore[arg-type]
        elements = np.empty(nbytes // stored_as.itemsize, _result(kind))
        as_it_is = stored_as == elements.dtype
        piece = elements.view(np.uint8) if as_it_is else np.empty(min(nbytes, PIECE), np.uint8)
        found = 0
        for start in range(0, nbytes, PIECE):
            part = piece[start : start + PIECE] if as_it_is else piece[: nbytes - start]
            if os.preadv(self._file.fileno(), [part.data], begin + start) != len(part):
                refuse(self._path, f"ends within storage {short(key)}")
            found = zlib.crc32(part.data, found)
            if kind == "?" and part.max() > 1:
                refuse(self._path, f"storage {short(key)} is of bools but holds other bytes than 0 and 1")
            if as_it_is:
                continue
            at = start // stored_as.itemsize
            target = elements[at : at + len(part) // stored_as.itemsize]
            if kind == "bf16":
                np.left_shift(part.view(stored_as), 16, out=target.view(np.uint32), dtype=np.uint32)
            else:
                target[...] = part.view(stored_as)
        if crc and found != crc:
            refuse(self._path, f"is damaged: storage {short(key)} is not what its checksum says")
        return elements


def _itemsize(kind: str) -> int:
    return 2 if kind == "bf16" else np.dtype(kind).itemsize


def _result(kind: str) -> np.dtype:
    """The type of the array that a storage becomes."""
    return np.dtype("f4" if kind in ("bf16", "f2") else kind)


def _place(path: Any, storage: Storage, place: Place) -> Place:
    """The place, which must have the bytes of the storage."""
    expected = storage.elements * _itemsize(storage.kind)
    if place[1] != expected:
        refuse(path, f"storage {short(storage.key)} has {place[1]:,} bytes, its elements need {expected:,}")
    return place


def from_zip(path: Any, file: io.BufferedReader, archive: zipfile.ZipFile) -> File:
    """The contents of an archive; see `archives.opened`."""
    size = os.fstat(file.fileno()).st_size
    names = archive.namelist()
    pickle = [name for name in names if name.partition("/")[2] == "data.pkl"]
    prefix = pickle[0].removesuffix("data.pkl") if pickle else ""
    if len(pickle) != 1 or f"{prefix}constants.pkl" in names or any(n.startswith(f"{prefix}code/") for n in names):
        refuse(path, f"is no archive of torch.save, but of torch.jit.save or of others; {ADVICE}")
    order = b"little"
    if f"{prefix}byteorder" in names:
        begin, count, _ = stored(path, file, size, archive.getinfo(f"{prefix}byteorder"))
        order = os.pread(file.fileno(), min(count, 16), begin)
    if order not in (b"little", b"big"):
        refuse(path, f"its byte order is {short(str(order))}, neither little nor big")
    begin, count, crc = stored(path, file, size, archive.getinfo(pickle[0]))
    if crc and _crc(file, begin, count) != crc:
        refuse(path, "is damaged: its pickle is not what its checksum says")
    reader = Unpickler(path, Window(file, begin, begin + count), size)
    value = reader.load()
    places = {}
    for key, storage in reader.storages.items():
        if f"{prefix}data/{key}" not in archive.NameToInfo:
            refuse(path, f"it lacks storage {short(key)}")
        place = stored(path, file, size, archive.getinfo(f"{prefix}data/{key}"))
        places[key] = _place(path, storage, place)
    return File(path, file, value, "<" if order == b"little" else ">", places)


def _crc(file: io.BufferedReader, begin: int, count: int) -> int:
    file.seek(begin)
    found = 0
    while count and (piece := file.read(min(count, PIECE))):
        found, count = zlib.crc32(piece, found), count - len(piece)
    return found


def from_older(path: Any, file: io.BufferedReader) -> File:
    """The contents of a file from before PyTorch 1.6 (`_use_new_zipfile_serialization=False`)."""
    size = os.fstat(file.fileno()).st_size
    reader = Unpickler(path, Window(file, 0, size), size)
    if reader.load() != MAGIC:
        refuse(path, f"is a pickle, but none that torch.save wrote; {ADVICE}")
    if reader.load() != PROTOCOL:
        refuse(path, f"its version is not {PROTOCOL}")
    reader.load()  # facts about the machine, which change nothing
    value, keys = reader.load(), reader.load()
    if type(keys) is not list or any(type(key) is not str for key in keys):
        refuse(path, "its list of storages is none")
    places: dict[str, Place] = {}
    at = file.tell()
    for key in keys:
        if key not in reader.storages or key in places:
            refuse(path, f"it lists storage {short(key)}, which no tensor names, or lists it twice")
        storage = reader.storages[key]
        if at + 8 + storage.elements * _itemsize(storage.kind) > size:
            refuse(path, f"ends within storage {short(key)}")
        elements = int.from_bytes(os.pread(file.fileno(), 8, at), "little")
        places[key] = _place(path, storage, (at + 8, elements * _itemsize(storage.kind), 0))
        at += 8 + places[key][1]
    if missing := sorted(reader.storages.keys() - places.keys()):
        refuse(path, f"it lacks storage {short(missing[0])}")
    return File(path, file, value, "<", places)
