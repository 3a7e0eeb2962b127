"""ONNX's tensors as NumPy arrays, their sizes held against the file and against memory before anything is made of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.files import open_regular
from fastconv.machine.memory import require

__all__ = ["External", "TYPES", "shape_of", "shortest", "to_array", "type_name"]

TYPES = {  # TensorProto.DataType: NumPy's name
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
HALF = ("float16", "bfloat16")  # computed in float32
MOST_AXES = 32


def type_name(number: int) -> str:
    """NumPy's name for a type of ONNX's; ValueError for one that is not served."""
    if number not in TYPES:
        raise ValueError(f"has type {number} of TensorProto, which is not served; served are {', '.join(TYPES.values())}")
    return TYPES[number]


def shape_of(tensor: Any) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if len(shape) > MOST_AXES or any(n < 0 for n in shape):
        raise ValueError(f"tensor {tensor.name[:80]!r} has no shape: {str(shape)[:80]}")
    return shape


def to_array(tensor: Any, external: Callable[[Any, int], bytes] | None = None) -> np.ndarray:
    """A TensorProto's array; halves as float32. `external` reads what lies in another file.

    Raises ValueError for one whose data is not what its shape says, MemoryError for more than there is.
    """
    name, shape = type_name(tensor.data_type), shape_of(tensor)
    count = math.prod(shape)
    stored = {"bfloat16": "uint16"}.get(name, name)
    dtype = np.dtype(stored).newbyteorder("<")
    what = f"tensor {tensor.name[:80]!r}"
    if tensor.data_location == 1:
        if external is None:
            raise ValueError(f"{what} lies in another file; load the model by its path")
        require(what, count * dtype.itemsize)
        raw = external(tensor, count * dtype.itemsize)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        field = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}.get(name)
        field = field or ("uint64_data" if name in ("uint32", "uint64") else "int32_data")
        values = getattr(tensor, field)
        if len(values) != count:
            raise ValueError(f"{what} of shape {shape} needs {count:,} numbers, it has {len(values):,}")
        require(what, count * 8)
        wide = np.array(values, {"float_data": "f4", "double_data": "f8", "uint64_data": "u8"}.get(field, "i8"))
        if name in HALF:  # their bits
            return _halves(wide.astype(np.uint16).view(stored), name, shape)
        return wide.astype(stored).reshape(shape)
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"{what} of shape {shape} needs {count * dtype.itemsize:,} bytes, it has {len(raw):,}")
    require(what, count * dtype.itemsize)
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

    def __call__(self, tensor: Any, nbytes: int) -> bytes:
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
        offset, length = (self._number(what, entries, key, default) for key, default in (("offset", 0), ("length", nbytes)))
        if length != nbytes:
            raise ValueError(f"{what} with {length:,} bytes, its shape needs {nbytes:,}")
        try:
            with open_regular(place, follow_links=False) as file:
                size = os.fstat(file.fileno()).st_size
                if offset + nbytes > size:
                    raise ValueError(f"{what} up to byte {offset + nbytes:,}, of {size:,} that are there")
                file.seek(offset)
                return file.read(nbytes)
        except OSError as error:
            raise ValueError(f"{what}, which cannot be read: {error.strerror}") from None

    @staticmethod
    def _number(what: str, entries: dict[str, str], key: str, default: int) -> int:
        text = entries.get(key, str(default))
        if not text.isascii() or not text.isdecimal() or len(text) > 18:
            raise ValueError(f"{what} with {key} {text[:40]!r}")
        return int(text)
