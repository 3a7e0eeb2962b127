"""Files as `torch.save` writes them, made without PyTorch: a few opcodes of the pickle format, put together by hand."""

import io
import struct
import zipfile
from typing import NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    "f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "i4": "IntStorage",
    "i2": "ShortStorage", "i1": "CharStorage", "u1": "ByteStorage", "b1": "BoolStorage", "c8": "ComplexFloatStorage",
    "c16": "ComplexDoubleStorage",
}  # fmt: skip


class Tensor(NamedTuple):
    """A view of a storage (an array of one axis), all in elements; size and stride None: the whole storage."""

    storage: np.ndarray
    offset: int = 0
    size: tuple | None = None
    stride: tuple | None = None
    kind: str | None = None  # the storage's type, where it is not the array's
    parameter: bool = False
    part: tuple | None = None  # older files: a part of the storage (offset, length), which the rest is about


class Raw(bytes):
    """Opcodes that stand for a value as they are."""


def name(module, attribute):
    return Raw(f"c{module}\n{attribute}\n".encode())


class Writer:
    """Pickles of values with tensors in them; `storages` are their arrays by key."""

    def __init__(self):
        self.storages = {}

    def dump(self, value):
        return b"\x80\x02" + self.pickled(value) + b"."

    def pickled(self, value):
        if isinstance(value, Raw):
            return value
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, bool) or value is None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        if isinstance(value, int):
            return (
                b"\x8a"
                + bytes([len(data := value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))])
                + data
            )
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(data := value.encode())) + data
        inside = b"".join(map(self.pickled, value if not isinstance(value, dict) else sum(value.items(), ())))
        if isinstance(value, tuple):
            return b"(" + inside + b"t"
        if isinstance(value, list):
            return b"](" + inside + b"e"
        return self.ordered() + b"(" + inside + b"u"

    @staticmethod
    def ordered():
        return name("collections", "OrderedDict") + b")R"

    def storage(self, tensor):
        key = next((k for k, array in self.storages.items() if array is tensor.storage), str(len(self.storages)))
        self.storages[key] = tensor.storage
        kind = tensor.kind or KINDS[tensor.storage.dtype.newbyteorder("=").str[1:]]
        identity = ("storage", name("torch", kind), key, "cpu", len(tensor.storage))
        if tensor.part is not None:
            identity += ((f"{key}.{tensor.part[0]}", *tensor.part),)
        return self.pickled(identity) + b"Q"

    def tensor(self, tensor):
        size = (len(tensor.storage),) if tensor.size is None else tensor.size
        stride = (1,) if tensor.stride is None else tensor.stride
        made = name("torch._utils", "_rebuild_tensor_v2") + b"(" + self.storage(tensor)
        made += (
            self.pickled(tensor.offset) + self.pickled(size) + self.pickled(stride) + b"\x89" + self.ordered() + b"tR"
        )
        if tensor.parameter:
            made = name("torch._utils", "_rebuild_parameter") + b"(" + made + b"\x88" + self.ordered() + b"tR"
        return made


def as_zip(value, *, order="little", compression=zipfile.ZIP_STORED, folder="net", **entries):
    """The bytes of an archive; `entries` replace or add some by their names, None takes one away."""
    writer = Writer()
    contents = {"data.pkl": writer.dump(value), "byteorder": order.encode()}
    byte = "<" if order == "little" else ">"
    for key, array in writer.storages.items():
        contents[f"data/{key}"] = array.astype(array.dtype.newbyteorder(byte)).tobytes()
    contents.update({"version": b"3\n"})
    contents.update(entries)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, data in contents.items():
            if data is not None:
                archive.writestr(f"{folder}/{entry}", data)
    return file.getvalue()


def as_older(value, *, keys=None, magic=MAGIC, version=1001):
    """The bytes of a file from before PyTorch 1.6."""
    writer = Writer()
    data = writer.dump(value)
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    listed = list(writer.storages) if keys is None else keys
    parts = [writer.dump(magic), writer.dump(version), writer.dump(facts), data, writer.dump(listed)]
    for key in listed:
        array = writer.storages.get(key, np.zeros(1, np.float32))
        parts += [struct.pack("<q", len(array)), array.astype(array.dtype.newbyteorder("<")).tobytes()]
    return b"".join(parts)
