"""ONNX's tensors as NumPy arrays: sizes are held against the file and against memory before anything is made."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.files import open_regular
from fastconv.machine.memory import require

__all__ = ["HALF", "TYPES", "External", "need_whole", "shape_of", "shortest", "to_array", "type_name"]

TYPES = {  # TensorProto.DataType: NumPy's name
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
HALF = ("float16", "bfloat16")  # computed in float32
MOST_AXES = 32


def type_name(number: int) -> str:
    """NumPy's name for a type of ONNX's; ValueError for one that is not served."""
    if number not in TYPES:
        raise ValueError(
            f"has type {number} of TensorProto, which is not served; served are {', '.join(TYPES.values())}"
        )
    return TYPES[number]


def shape_of(tensor: Any) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if len(shape) > MOST_AXES or any(n < 0 for n in shape):
        raise ValueError(f"tensor {tensor.name[:80]!r} has no shape: {str(shape)[:80]}")
    return shape


def need_whole(tensor: Any, external: External | None = None) -> None:
    """ValueError for a tensor whose data is not what its shape says; nothing is read or made."""
    name, shape = type_name(tensor.data_type), shape_of(tensor)
    count, what = math.prod(shape), f"tensor {tensor.name[:80]!r}"
    nbytes = count * _stored(name).itemsize
    if tensor.data_location == 1:
        if external is None:
            raise ValueError(f"{what} lies in another file; load the model by its path")
        external.place(tensor, nbytes)[0].close()
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != nbytes:
            raise ValueError(f"{what} of shape {shape} needs {nbytes:,} bytes, it has {len(tensor.raw_data):,}")
    else:
        values = getattr(tensor, _field(name))
        if len(values) != count:
            raise ValueError(f"{what} of shape {shape} needs {count:,} numbers, it has {len(values):,}")
    require(what, max(nbytes, count * 8 if tensor.data_location != 1 and not tensor.HasField("raw_data") else 0))


def _stored(name: str) -> np.dtype:
    return np.dtype({"bfloat16": "uint16"}.get(name, name)).newbyteorder("<")


def _field(name: str) -> str:
    """Where a tensor has its numbers, if not as bytes."""
    field = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}.get(name)
    return field or ("uint64_data" if name in ("uint32", "uint64") else "int32_data")


def to_array(tensor: Any, external: External | None = None) -> np.ndarray:
    """A TensorProto's array; halves as float32. `external` reads what lies in another file.

    Raises ValueError for one whose data is not what its shape says, MemoryError for more than there is.
    """
    need_whole(tensor, external)
    name, shape = type_name(tensor.data_type), shape_of(tensor)
    dtype = _stored(name)
    if tensor.data_location == 1:
        assert external is not None
        raw = external.read(tensor, math.prod(shape) * dtype.itemsize)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        field = _field(name)
        kinds = {"float_data": "f4", "double_data": "f8", "uint64_data": "u8"}
        wide = np.array(getattr(tensor, field), kinds.get(field, "i8"))
        if name in HALF:  # their bits
            return _halves(wide.astype(np.uint16).view(dtype), name, shape)
        return wide.astype(name).reshape(shape)
    array = np.frombuffer(raw, dtype)
    if name == "bool":
        array = np.frombuffer(raw, np.uint8) != 0
    if name in HALF:
        return _halves(array, name, shape)
    return array.astype(array.dtype.newbyteorder("=")).reshape(shape)


def _halves(array: np.ndarray, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name == "float16":
        return array.astype(np.float32).reshape(shape)
    return (array.astype(np.uint32) << 16).view(np.float32).reshape(shape)


def shortest(value: float) -> float:
    """The number that somebody wrote, of one that went through float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


class External:
    """Reads what tensors keep in other files: beside the model or below it, and through no link."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent

    def read(self, tensor: Any, nbytes: int) -> bytes:
        """The bytes of a tensor."""
        file, offset = self.place(tensor, nbytes)
        with file:
            file.seek(offset)
            return file.read(nbytes)

    def place(self, tensor: Any, nbytes: int) -> tuple[io.BufferedReader, int]:
        """The file, open, and where in it the tensor begins; ValueError unless all of it is there."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        what = f"tensor {tensor.name[:80]!r} lies in {location[:80]!r}"
        parts = Path(location).parts
        if not location or "\0" in location or Path(location).is_absolute() or ".." in parts or "\\" in location:
            raise ValueError(f"{what}, which is no path beside the model or below it")
        place = self.folder
        for part in parts:
            place = place / part
            if place.is_symlink():
                raise ValueError(f"{what}, which is a symbolic link")
        offset = self._number(what, entries, "offset", 0)
        length = self._number(what, entries, "length", nbytes)
        if length != nbytes:
            raise ValueError(f"{what} with {length:,} bytes, its shape needs {nbytes:,}")
        try:
            file = open_regular(place, follow_links=False)
            size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ValueError(f"{what}, which cannot be read: {error.strerror}") from None
        if offset + nbytes > size:
            file.close()
            raise ValueError(f"{what} up to byte {offset + nbytes:,}, of {size:,} that are there")
        return file, offset

    @staticmethod
    def _number(what: str, entries: dict[str, str], key: str, default: int) -> int:
        text = entries.get(key, str(default))
        if not text.isascii() or not text.isdecimal() or len(text) > 18:
            raise ValueError(f"{what} with {key} {text[:40]!r}")
        return int(text)
