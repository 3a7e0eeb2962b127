"""Files that hold arrays and data, never code: the safetensors format, and nets in it.

Source: https://huggingface.co/docs/safetensors, "Format". A file is

    8 bytes      n, the header's length, little-endian
    n bytes      JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …,
                 "__metadata__": {text: text}}; spaces may follow
    the rest     the arrays' bytes, little-endian, in C order; offsets count from here, without holes or overlaps

Files of ours have a checksum of every array and of every other text in `__metadata__`: the text "checksums" is JSON,
{"arrays": {name: checksum}, "metadata": {name: checksum}}, see `training.checksum`. A file that has them is read only
where all of them hold; files of others have none.

Whatever is wrong with a file is one FormatError that begins with its path. No byte is allocated because a header claims
it: the header is held against the file's size before it is read, and the arrays before they are.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from fastconv.errors import FormatError
from fastconv.files import open_regular, replace_whole
from fastconv.layers.base import LAYERS, Layer, from_config
from fastconv.machine import memory
from fastconv.machine.threads import threads_for
from fastconv.training import checksum

__all__ = [
    "FORMAT", "TRAINER", "Tensors", "as_format_error", "load_net", "net_data", "net_from_data", "net_from_file",
    "parse_json", "read", "read_json", "refuse", "save_net", "short", "write",
]  # fmt: skip

MAX_HEADER = 16 << 20  # bytes; Python objects take some 25 times the text they were parsed from
MAX_LAYERS = 10_000  # of a net that a file describes
MAX_DEPTH = 50  # of its layers inside layers: whoever walks a net calls itself for each
UNCOUNTED = 1024  # channels of a layer whose weights are not drawn
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
BFLOAT16 = {"BF16": "<u2"}  # which NumPy has not: read as float32
MOST_DIGITS = 39  # of an integer in JSON: 128 bits, as seeds have them
FORMAT, TRAINER = "fastconv.net/1", "fastconv.trainer/1"  # in "format" of our own files: a net, a Trainer's checkpoint
CHECKSUMS = "checksums"
READ = DTYPES | BFLOAT16
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}

Tensors = dict[str, np.ndarray]
Pathlike = str | os.PathLike[str]


# --- writing ---------------------------------------------------------------------------------------------------------


def write(
    path: Pathlike,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    follow_links: bool = True,
) -> None:
    """Write a safetensors file with checksums, whole or not at all: see `files.replace_whole`.

    Raises OSError where the system refuses, TypeError for dtypes that the format has not; the old file then stays.
    """
    plain = {name: _little_endian(name, tensor) for name, tensor in tensors.items()}
    names = sorted(plain, key=lambda name: (-plain[name].dtype.itemsize, name))  # each aligned to its own itemsize
    sums = dict.fromkeys(names, "0" * checksum.DIGITS)  # known when the data was written
    texts = dict(metadata or {})
    text_sums = {name: checksum.of_text(text) for name, text in texts.items()}
    entries: dict[str, Any] = {}
    end = 0
    for name in names:
        begin, end = end, end + plain[name].nbytes
        entries[name] = {"dtype": CODES[plain[name].dtype], "shape": plain[name].shape, "data_offsets": [begin, end]}

    def header() -> bytes:
        texts[CHECKSUMS] = _compact({"arrays": sums, "metadata": text_sums})
        text = _compact({"__metadata__": texts, **entries}).encode()
        return len(text + b" " * (-len(text) % 8)).to_bytes(8, "little") + text + b" " * (-len(text) % 8)

    if len(header()) - 8 > MAX_HEADER:
        raise ValueError(f"{path}: the header would have {len(header()) - 8:,} bytes, more than {MAX_HEADER:,}")

    def fill(file: IO[bytes]) -> None:
        file.write(header())
        data = {name: np.ascontiguousarray(plain[name]).reshape(-1).view(np.uint8) for name in names}
        shares = [(share, data[name].nbytes) for name in names for share in _cut(data[name], checksum.SHARE)]
        with _in_order(lambda share, nbytes: checksum.sums(_cut(share, checksum.PIECE), nbytes), shares, end) as found:
            for name in names:
                file.write(data[name].data)
            for name in names:
                its = itertools.islice(found, _shares(data[name].nbytes))
                sums[name] = checksum.of_array(entries[name]["dtype"], plain[name].shape, its)
        file.seek(0)
        file.write(header())

    replace_whole(path, fill, follow_links=follow_links)


def _cut(data: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The parts of an array, each of `size` elements; the last may have less."""
    return (data[start : start + size] for start in range(0, len(data), size))


def _shares(nbytes: int) -> int:
    """How many shares an array has."""
    return -(-nbytes // checksum.SHARE)


@contextlib.contextmanager
def _in_order(
    function: Callable[..., checksum.Sums], tasks: Sequence[tuple[Any, ...]], nbytes: int
) -> Iterator[Iterator[checksum.Sums]]:
    """The results of `function` for all tasks, in their order; threads, as many as pay for the bytes, begin at once.

    Where none pays, or the system refuses one, a task runs when its result is asked for.
    """
    threads = threads_for(nbytes, len(tasks))
    if threads == 1:
        yield (function(*task) for task in tasks)
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(threads)
    try:
        results = (future.result() for future in [pool.submit(function, *task) for task in tasks])
    except RuntimeError:  # no thread to be had, or Python is about to end
        results = (function(*task) for task in tasks)
    try:
        yield results
    finally:
        pool.shutdown(cancel_futures=True)


def _compact(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _little_endian(name: str, tensor: np.ndarray) -> np.ndarray:
    tensor = np.asarray(tensor)
    tensor = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    if tensor.dtype not in CODES:
        raise TypeError(f"{name}: safetensors holds no arrays of {tensor.dtype}")
    return tensor


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: Pathlike, *, follow_links: bool = True) -> tuple[Tensors, dict[str, str]]:
    """The arrays and the metadata of a safetensors file; its checksums, where it has them, are held against both.

    bfloat16 becomes float32. Raises FormatError for anything that is no such file, or has other dtypes that NumPy has
    not, MemoryError for more than this process's memory, and OSError.
    """
    path = Path(path)
    with open_regular(path, follow_links=follow_links) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            refuse(path, f"is no safetensors file: it has {size} bytes")
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            refuse(path, f"is no safetensors file: its header would have {length:,} bytes, the file has {size:,}")
        if length > MAX_HEADER:
            refuse(path, f"has a header of {length:,} bytes, more than {MAX_HEADER:,}")
        header = parse_json(path, "the header", file.read(length))
        if not isinstance(header, dict):
            refuse(path, "is no safetensors file: its header is no JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            refuse(path, "its __metadata__ must map text to text")
        sums = _checksums(path, header, metadata)
        entries = sorted(_entry(path, name, fields) for name, fields in header.items())
        end = 0
        for begin, stop, name, _, _ in entries:
            if begin != end:
                refuse(path, f"the data of {short(name)} must begin where the array before ends, at {end}, not {begin}")
            end = stop
        if end != size - 8 - length:
            refuse(path, f"its arrays end at byte {end:,} of the data, but {size - 8 - length:,} bytes are there")
        memory.require(f"{path}: reading", end)
        tensors, shares = {}, []
        for begin, _, name, code, shape in entries:
            try:
                tensors[name] = np.empty(shape, READ[code])
            except ValueError:  # zero elements, but one axis too long for NumPy
                refuse(path, f"{short(name)} has a shape that NumPy cannot hold")
            data = tensors[name].reshape(-1).view(np.uint8)
            for number, share in enumerate(_cut(data, checksum.SHARE)):
                shares.append((name, share, 8 + length + begin + number * checksum.SHARE))

        def pieces(name: str, share: np.ndarray, at: int) -> Iterator[np.ndarray]:
            """The pieces of a share, each as soon as it was read."""
            for piece in _cut(share, checksum.PIECE):
                if not _read_into(file, piece, at):
                    refuse(path, f"ends within the data of {short(name)}")
                at += len(piece)
                yield piece

        def read_share(name: str, share: np.ndarray, at: int) -> checksum.Sums:
            return checksum.sums(pieces(name, share, at), tensors[name].nbytes)

        with _in_order(read_share, shares, end) as found:
            for _, _, name, code, shape in entries:
                tensor = tensors[name]
                its = itertools.islice(found, _shares(tensor.nbytes))
                total = checksum.of_array(code, shape, its)
                if sums and total != sums[name]:
                    refuse(path, f"is damaged: the data of {short(name)} is not what its checksum says")
                if code == "BOOL" and (tensor.view(np.uint8) > 1).any():
                    refuse(path, f"{short(name)} is BOOL but holds other bytes than 0 and 1")
                if code in BFLOAT16:
                    tensor = (tensor.astype(np.uint32) << 16).view(np.float32)
                tensors[name] = tensor.astype(tensor.dtype.newbyteorder("="), copy=False)
    return {name: tensors[name] for name in header}, metadata


def _read_into(file: IO[bytes], data: np.ndarray, at: int) -> bool:
    """Fill a uint8 array with a file's bytes from `at`, by any thread; False where the file ends before."""
    while len(data):
        count = os.preadv(file.fileno(), [data.data], at)
        if not count:
            return False
        data = data[count:]
        at += count
    return True


def _checksums(path: Path, header: dict[str, Any], metadata: dict[str, str]) -> dict[str, str] | None:
    """The arrays' checksums, taken out of the metadata, whose own must hold; None for a file that has none."""
    text = metadata.pop(CHECKSUMS, None)
    if text is None:
        return None
    sums = parse_json(path, "its checksums", text)
    with as_format_error(path, "its checksums are not those of its contents"):
        arrays: dict[str, str] = sums["arrays"]
        texts = sums["metadata"]
        if arrays.keys() != header.keys():
            raise ValueError(f"{len(arrays)} of arrays, which have other names")
        for name, expected in texts.items():
            if checksum.of_text(metadata[name]) != expected:
                refuse(path, f"is damaged: the metadata {short(name)} is not what its checksum says")
    return arrays


def _entry(path: Path, name: str, fields: Any) -> tuple[int, int, str, str, tuple[int, ...]]:
    """(begin, end, name, the dtype's code, shape) of one array, proven to agree with each other."""
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(path, f"{short(name)} must have exactly dtype, shape and data_offsets")
    code, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(code, str) or code not in READ:
        refuse(path, f"{short(name)} has dtype {short(code)}; read are {', '.join(READ)}")
    for role, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            refuse(path, f"the {role} of {short(name)} must be a list of integers from 0 to 2**63 - 1")
    if len(offsets) != 2 or len(shape) > 32:
        refuse(path, f"{short(name)} must have two data_offsets and at most 32 axes")
    nbytes = math.prod(shape) * np.dtype(READ[code]).itemsize
    if offsets[1] - offsets[0] != nbytes:
        refuse(path, f"{short(name)} needs {short(nbytes)} bytes, its data_offsets are {short(offsets)}")
    return offsets[0], offsets[1], name, code, tuple(shape)


def read_json(path: Pathlike, what: str, *, follow_links: bool = True) -> Any:
    """The contents of a JSON file, by the letter; see `parse_json`."""
    with open_regular(path, follow_links=follow_links) as file:
        text = file.read(MAX_HEADER + 1)
    if len(text) > MAX_HEADER:
        refuse(path, f"has more than {MAX_HEADER:,} bytes")
    return parse_json(path, what, text)


def parse_json(path: Pathlike, what: str, text: bytes | str) -> Any:
    """JSON by the letter: UTF-8, no name twice in an object, no number that is none here; FormatError for anything
    else."""
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        text.encode("utf-8")
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=_integer, parse_float=_finite
        )
    except RecursionError:
        refuse(path, f"{what} is nested too deeply")
    except (ValueError, MemoryError) as error:
        refuse(path, f"{what} is no valid JSON: {short(error)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{name[:80]!r} stands there twice")
        name.encode("utf-8")  # no half of a surrogate pair
        entries[name] = value
    return entries


def _integer(text: str) -> int:
    return int(text) if len(text) <= MOST_DIGITS else _no_number(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is no number that is read here")


def short(value: Any) -> str:
    """`value` for a message: one line, not for ever."""
    text = repr(value) if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:100]}…"


def refuse(path: Pathlike, text: str) -> NoReturn:
    raise FormatError(f"{path}: {text}")


@contextlib.contextmanager
def as_format_error(path: Pathlike, what: str) -> Iterator[None]:
    """Whatever a file's contents make our own constructors raise inside is the file's fault: one FormatError."""
    try:
        yield
    except FormatError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else error
        raise FormatError(f"{path}: {what}: {short(reason)}") from None


# --- nets ------------------------------------------------------------------------------------------------------------


def net_data(net: Layer) -> dict[str, Any]:
    """A net without its arrays: its configuration, float type, modes, frozen parameters and layers. ValueError names a
    layer that is no data, and layers inside layers beyond what is read again."""
    if _depth(net) > MAX_DEPTH:
        raise ValueError(f"{type(net).__name__}: its layers are nested more than {MAX_DEPTH} deep, which no file holds")
    arrays: dict[int, str] = {}
    for place, layer in net.walk():
        for attribute in (*layer.parameter_names, *layer.buffer_names):
            array, name = getattr(layer, attribute), f"{place}.{attribute}"
            if array is not None and arrays.setdefault(id(array), name) != name:
                kind = type(layer).__name__
                raise ValueError(f"{kind}: {arrays[id(array)]} and {name} are one array, which a file cannot say")
    trainable = net.parameters()
    known = {
        "classes": None if net.classes is None else list(map(str, net.classes)),
        "preparation": None if net.preparation is None else _preparation(net.preparation),
    }
    return {
        **{name: value for name, value in known.items() if value},
        "config": net.config(),
        "dtype": None if net.dtype is None else str(net.dtype),
        "frozen": [name for name, _, _ in net.named_arrays(buffers=False) if name not in trainable],
        "frozen_layers": [name for name, layer in net.walk() if layer._frozen_whole],
        "training": net.training,
        "other_mode": [name for name, layer in net.walk() if layer.training != net.training],
    }


def _depth(layer: Layer) -> int:
    return 1 + max(map(_depth, layer.children().values()), default=0)


def net_from_data(path: Pathlike, data: Any, tensors: Mapping[str, np.ndarray]) -> Layer:
    """The net that `net_data` described, with the arrays `tensors` (by `state_dict`'s names).

    The configuration may not ask for more memory than `tensors` fill, and only fastconv's own layers are ever named.
    Raises FormatError for everything that does not fit.
    """
    with as_format_error(path, "the net cannot be rebuilt"):
        config, dtype, frozen = data["config"], data["dtype"], data["frozen"]
        if dtype not in (None, "float32", "float64"):
            raise ValueError("its dtype must be float32 or float64")
        granted = _Granted(2 * sum(tensor.size for tensor in tensors.values()))
        net = from_config(granted.within(config))
        if dtype == "float64":
            net = net.astype(np.float64)
        for name, layer, attribute in net.named_arrays():
            own = getattr(layer, attribute).dtype
            if name in tensors and tensors[name].dtype != own:
                raise ValueError(f"{name} must be {own}, got {tensors[name].dtype}")
        net.load_state_dict(tensors)
        parameters = {name: (layer, attribute) for name, layer, attribute in net.named_arrays(buffers=False)}
        for layer, attribute in _called("frozen", parameters, frozen):
            layer._frozen.add(attribute)
        _set_modes(net, data)
        _set_knowledge(net, data)
    return net


def _set_modes(net: Layer, data: dict[str, Any]) -> None:
    """What a file says of layers (older ones do not): which are frozen as a whole, and which are in training mode."""
    layers = dict(net.walk())
    for layer in _called("frozen_layers", layers, data.get("frozen_layers", [])):
        layer._frozen_whole = True
        layer._frozen.update(layer.parameter_names)
    training = data.get("training", True)
    if type(training) is not bool:
        raise ValueError(f"training must be true or false, got {training!r}")
    net.train(training)
    for layer in _called("other_mode", layers, data.get("other_mode", [])):
        layer.training = not training


def _set_knowledge(net: Layer, data: dict[str, Any]) -> None:
    """What a file says of a net's outputs and inputs (most say nothing)."""
    classes, preparation = data.get("classes"), data.get("preparation")
    if classes is not None:
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"classes must be a list of texts, got {classes!r}")
        net.classes = tuple(classes)
    if preparation is not None:
        net.preparation = _preparation(preparation)


def _preparation(given: Any) -> dict[str, Any]:
    """How a net's images are read, proven to say it; ValueError where it does not."""
    named = isinstance(given, Mapping) and given.keys() == {"method", "image_shape"}
    if not named or not isinstance(given["method"], str):
        raise ValueError(f"preparation must have a method and an image_shape, got {given!r}")
    shape = given["image_shape"]
    if not isinstance(shape, (list, tuple)) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"the preparation's image_shape must be three positive integers, got {shape!r}")
    return {"method": given["method"], "image_shape": tuple(shape)}


def _called(entry: str, named: Mapping[str, Any], names: Any) -> list[Any]:
    """What is called so, for the names that a file lists under `entry`."""
    if not isinstance(names, list):
        raise ValueError(f"{entry} must be a list of names, got {names!r}")
    for name in names:
        if not isinstance(name, str) or name not in named:
            raise ValueError(f"{entry} lists {name!r}, which the net has not")
    return [named[name] for name in names]


class _Granted:
    """The elements that the layers of a configuration may ask for, all together, and what counts them."""

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.layers = MAX_LAYERS
        self.rng = _Zeros(self)

    def take(self, elements: int) -> None:
        self.elements -= elements
        if self.elements < 0:
            raise ValueError("its layers ask for more weights than the file holds")

    def within(self, data: Any, depth: int = 0) -> Any:
        """The configuration, each layer that draws weights with an `rng` that counts them and draws nothing.

        Other layers with parameters or buffers have one number for each channel: their integers are counted.
        """
        if isinstance(data, list):
            return [self.within(entry, depth) for entry in data]
        if not isinstance(data, dict):
            return data
        cls = LAYERS.get(data["layer"]) if isinstance(data.get("layer"), str) else None
        if depth + (cls is not None) > MAX_DEPTH:
            raise ValueError(f"its layers are nested more than {MAX_DEPTH} deep")
        entries = {name: self.within(value, depth + (cls is not None)) for name, value in data.items()}
        if cls is not None:
            self.layers -= 1
            if self.layers < 0:
                raise ValueError(f"it has more than {MAX_LAYERS:,} layers")
            if "rng" in inspect.signature(cls.__init__).parameters:
                entries["rng"] = self.rng
            elif cls.parameter_names or cls.buffer_names:
                most = max(map(_product, data.values()))
                self.take(most if most > UNCOUNTED else 0)
        return entries


def _product(value: Any) -> int:
    """An integer, or the product of a list of them; 0 for anything else."""
    entries = value if isinstance(value, list) else [value]
    return abs(math.prod(entries)) if all(isinstance(entry, int) for entry in entries) else 0


class _Zeros(np.random.Generator):
    """Draws zeros, and no more of them than granted: the weights that a file brings along take their place."""

    granted: _Granted

    def __init__(self, granted: _Granted) -> None:
        super().__init__(np.random.PCG64(0))
        self.granted = granted

    def _zeros(self, size: Any) -> np.ndarray:
        self.granted.take(math.prod(size) if isinstance(size, tuple) else int(size or 1))
        return np.zeros(size or ())

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return self._zeros(size)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        return self._zeros(size)

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return self._zeros(size)


def save_net(path: Pathlike, net: Layer, *, follow_links: bool = True) -> None:
    """Write a net, its configuration and its weights by torch's names, as one safetensors file. See `write`."""
    metadata = {"format": FORMAT, "net": json.dumps(net_data(net), allow_nan=False)}
    tensors = {name: getattr(layer, attribute) for name, layer, attribute in net.named_arrays()}
    write(path, tensors, metadata, follow_links=follow_links)


def load_net(path: Pathlike, *, follow_links: bool = True) -> Layer:
    """The net that `save_net` wrote. Raises FormatError for anything else."""
    tensors, metadata = read(path, follow_links=follow_links)
    if metadata.get("format") != FORMAT:
        refuse(path, "holds no net that fastconv wrote")
    return net_from_file(path, tensors, metadata)


def net_from_file(path: Pathlike, tensors: Tensors, metadata: Mapping[str, str]) -> Layer:
    """`load_net` of a file that was read. Raises FormatError where it does not say what it must."""
    if "net" not in metadata:
        refuse(path, "holds no net that fastconv wrote")
    return net_from_data(path, parse_json(path, "the net", metadata["net"]), tensors)
