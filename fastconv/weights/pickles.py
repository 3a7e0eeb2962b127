"""Pickles as `torch.save` writes them, read by an interpreter that can make nothing but data: no class, no function of
any module is ever looked up, imported or called.

Source: Python's `pickletools`, which names the opcodes, and PyTorch's torch/serialization.py and torch/_utils.py. Read
are the opcodes of protocols 2 to 5 that numbers, texts, tuples, lists and dicts need, and

    GLOBAL, STACK_GLOBAL    of the names in CALLED, STORAGES and of torch's dtypes
    REDUCE                  of CALLED: OrderedDict, _rebuild_tensor, _rebuild_tensor_v2, _rebuild_parameter, Size
    BUILD                   on an OrderedDict, whose attributes (`_metadata`) are dropped
    BINPERSID               ("storage", its type, its key, a place, its elements)

Everything else is refused. A tensor becomes a `View`, proven to lie within its storage. What is built up is counted in
bytes and held against the file's size; no text is longer than MOST_TEXT.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from sys import getsizeof
from typing import IO, Any, NamedTuple, NoReturn

from fastconv.errors import FormatError
from fastconv.machine.memory import UNCHECKED
from fastconv.training.checkpoint import short

__all__ = ["Ordered", "Storage", "Unpickler", "View", "Window"]

MOST_TEXT = 1 << 20  # bytes of a text
MOST_LINE = 1 << 10  # of a global's name
MOST_OPCODES = 700_000  # some two seconds
MOST_AXES = 32
SPARE = 24 << 20  # bytes that a pickle may fill beyond its file's size
MOST_KEY = 1 << 60  # of an integer that is a key: larger ones could all have one hash

STORAGES = {  # NumPy's type codes; "bf16", which NumPy has not
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?", "ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16",
}  # fmt: skip
DTYPES = {
    "float64", "double", "float32", "float", "float16", "half", "bfloat16", "int64", "long", "int32", "int", "int16",
    "short", "int8", "uint8", "bool", "complex64", "complex128",
}  # fmt: skip
CALLED = {
    "collections OrderedDict", "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter", "torch Size",
}  # fmt: skip


class Storage(NamedTuple):
    """A storage, or a part of one: `elements` from `start` on."""

    key: str
    kind: str  # of STORAGES
    elements: int
    start: int = 0


class View(NamedTuple):
    """A tensor: what it shows of its storage, all in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Ordered(dict[Any, Any]):
    """An OrderedDict."""

    __slots__ = ()


class _Global(NamedTuple):
    """A name that a pickle may say: what a callable, a storage's type or a dtype is for the interpreter."""

    name: str


class Window:
    """The part of a file from `start` to `stop`, as `pickletools` asks for it."""

    def __init__(self, file: IO[bytes], start: int, stop: int) -> None:
        file.seek(start)
        self._file = file
        self._left = stop - start

    def read(self, count: int) -> bytes:
        if count > MOST_TEXT:
            raise ValueError(f"a text of {count:,} bytes, more than {MOST_TEXT:,}")
        data = self._file.read(count if count < self._left else self._left)
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(min(MOST_LINE, self._left))
        self._left -= len(data)
        if b"\\" in data:  # pickletools would undo escapes, and warn of some
            raise ValueError("a name with a backslash")
        return data


_NOTHING = object()  # an entry of the memo that was not written
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict,
}  # fmt: skip
_ARGUMENTS = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING",
    "SHORT_BINSTRING", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Unpickler:
    """Reads the pickles that stand one after another in a window. `storages` are those that they named."""

    def __init__(self, path: Any, source: Window, size: int) -> None:
        self._path = path
        self._source: Any = source
        self._opcodes = 0
        self._room = size + SPARE
        self.storages: dict[str, Storage] = {}

    def _refuse(self, text: str) -> NoReturn:
        raise FormatError(f"{self._path}: {text}")

    def _take(self, nbytes: int) -> None:
        self._room -= nbytes
        if self._room < 0:
            self._refuse("its pickle would fill more memory than a file of its size may")

    def load(self) -> Any:
        """The next pickle's value. Raises FormatError for anything that is not read."""
        try:
            return self._run(pickletools.genops(self._source))
        except FormatError:
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            self._refuse(f"its pickle is damaged: {short(error)}")

    def _run(self, opcodes: Iterator[tuple[Any, Any, Any]]) -> Any:
        stack: list[Any] = []
        marks: list[int] = []
        memo: list[Any] = []
        for opcode, argument, _ in opcodes:
            name = opcode.name
            self._opcodes += 1
            if self._opcodes > MOST_OPCODES:
                self._refuse(f"its pickle has more than {MOST_OPCODES:,} opcodes")
            if name in _PUTS:
                self._memoize(memo, argument, stack[-1])
            elif name in _GETS:
                value = memo[argument]
                if value is _NOTHING:
                    raise ValueError(f"it reads entry {argument} of its memo, which it never wrote")
                stack.append(value)
            elif name in _ARGUMENTS:
                self._take(getsizeof(argument))
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name]())
                self._take(getsizeof(stack[-1]))
            elif name == "MARK":
                marks.append(len(stack))
            elif name in _TUPLES:
                self._pushed_tuple(stack, self._below(stack, marks, len(stack) - _TUPLES[name]))
            elif name == "TUPLE":
                self._pushed_tuple(stack, marks.pop())
            elif name == "SETITEM":
                self._set_items(stack, self._below(stack, marks, len(stack) - 2))
            elif name == "SETITEMS":
                self._set_items(stack, marks.pop())
            elif name == "APPEND":
                self._append(stack, self._below(stack, marks, len(stack) - 1))
            elif name == "APPENDS":
                self._append(stack, marks.pop())
            elif name == "GLOBAL":
                stack.append(self._global(argument))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if type(module) is not str or type(attribute) is not str:
                    raise ValueError("a global's name is no text")
                stack.append(self._global(f"{module} {attribute}"))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            elif name == "BINPERSID":
                stack.append(self._storage(stack.pop()))
            elif name == "BUILD":
                state = stack.pop()
                if type(stack[-1]) is not Ordered or type(state) not in (dict, Ordered):
                    self._refuse("its pickle sets attributes of something else than an OrderedDict; " + ADVICE)
            elif name == "STOP":
                (value,) = stack
                return value
            elif name not in ("PROTO", "FRAME"):
                self._refuse(f"its pickle makes objects of other classes (opcode {name}); {ADVICE}")
        raise ValueError("it has no end")

    def _memoize(self, memo: list[Any], index: int | None, value: Any) -> None:
        """memo[index] = value, or as its next entry; picklers number their entries without large gaps."""
        index = len(memo) if index is None else index
        if index > self._opcodes:
            raise ValueError(f"entry {index} of its memo is out of order")
        while len(memo) <= index:
            self._take(8)
            memo.append(_NOTHING)
        memo[index] = value

    @staticmethod
    def _below(stack: list[Any], marks: list[int], at: int) -> int:
        """`at`, proven to be in the stack and above the last mark."""
        if at < (marks[-1] if marks else 0):
            raise ValueError("it takes more values than there are")
        return at

    def _pushed_tuple(self, stack: list[Any], at: int) -> None:
        self._take(56 + 8 * (len(stack) - at))
        stack[at:] = [tuple(stack[at:])]

    def _set_items(self, stack: list[Any], at: int) -> None:
        entries = stack[at:]
        del stack[at:]
        target = stack[-1]
        if type(target) not in (dict, Ordered) or len(entries) % 2:
            raise ValueError("items are set in what is no dict")
        self._fill(target, zip(entries[::2], entries[1::2], strict=True))

    def _fill(self, target: dict[Any, Any], pairs: Any) -> None:
        for key, value in pairs:
            self._take(240)
            if type(key) not in (str, int, bool, type(None)) or (type(key) is int and abs(key) > MOST_KEY):
                raise ValueError(f"a dict has a key of type {type(key).__name__}")
            target[key] = value

    def _append(self, stack: list[Any], at: int) -> None:
        entries = stack[at:]
        del stack[at:]
        if type(stack[-1]) is not list:
            raise ValueError("values are appended to what is no list")
        self._take(16 * len(entries))
        stack[-1].extend(entries)

    def _global(self, name: str) -> _Global:
        module, _, attribute = name.partition(" ")
        if not (name in CALLED or (module == "torch" and (attribute in STORAGES or attribute in DTYPES))):
            self._refuse(f"its pickle asks for {short('.'.join((module, attribute)))}; {ADVICE}")
        self._take(100)
        return _Global(name)

    def _call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not _Global or function.name not in CALLED or type(arguments) is not tuple:
            self._refuse(f"its pickle calls what is no function that is known here; {ADVICE}")
        self._take(160)
        name = function.name.split()[-1]
        if name == "OrderedDict":
            result = Ordered()
            for pairs in arguments:
                self._fill(result, pairs)
            return result
        if name == "Size":
            (size,) = arguments
            return self._numbers("size", size)
        if name == "_rebuild_parameter":
            if type(arguments[0]) is not View:
                raise ValueError("a parameter is made of what is no tensor")
            return arguments[0]
        if len(arguments) not in ((4,) if name == "_rebuild_tensor" else (6, 7)):
            raise ValueError(f"{name} is called with {len(arguments)} arguments")
        return self._view(*arguments[:4])

    @staticmethod
    def _numbers(what: str, numbers: Any) -> tuple[int, ...]:
        if type(numbers) is not tuple or len(numbers) > MOST_AXES or any(type(number) is not int for number in numbers):
            raise ValueError(f"a {what} must be a tuple of at most {MOST_AXES} integers")
        if not all(0 <= number < 2**62 for number in numbers):
            raise ValueError(f"a {what} must hold integers from 0 to 2**62 - 1")
        return numbers

    def _view(self, storage: Any, offset: Any, size: Any, stride: Any) -> View:
        if type(storage) is not Storage:
            raise ValueError("a tensor is made of what is no storage")
        (offset,), size = self._numbers("offset", (offset,)), self._numbers("size", size)
        stride = self._numbers("stride", stride)
        if len(size) != len(stride):
            raise ValueError(f"a tensor's size {size} and stride {stride} must have as many entries")
        elements, last = 1, offset
        for count, step in zip(size, stride, strict=True):
            elements *= count
            last += (count - 1) * step
        if elements and last >= storage.elements:
            self._refuse(
                f"a tensor of size {short(size)}, stride {short(stride)} and offset {offset} reaches beyond its "
                f"storage of {storage.elements:,} elements"
            )
        if elements > max(storage.elements, UNCHECKED // 16):
            raise ValueError(f"a tensor of size {short(size)} shows the {storage.elements:,} elements of its storage")
        return View(storage, offset, size, stride)

    def _storage(self, identity: Any) -> Storage:
        """What a persistent identity names: (zip) five entries, (older files) a sixth, None or the part's place."""
        self._take(200)
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[:1] != ("storage",):
            if type(identity) is tuple and identity[:1] == ("module",):
                self._refuse(f"its pickle holds a whole net as an object; {ADVICE}")
            raise ValueError("it names what is no storage")
        _, kind, key, _, elements = identity[:5]
        if type(kind) is not _Global or kind.name.partition(" ")[2] not in STORAGES or type(key) is not str:
            raise ValueError("a storage's type or key is none")
        (elements,) = self._numbers("storage", (elements,))
        storage = Storage(key, STORAGES[kind.name.partition(" ")[2]], elements)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {short(key)} is said to be of two types or lengths")
        part = identity[5] if len(identity) == 6 else None
        if part is None:
            return storage
        if type(part) is not tuple or len(part) != 3:
            raise ValueError("a part of a storage must have a key, an offset and a length")
        start, count = self._numbers("part", part[1:])
        if start + count > elements:
            raise ValueError(f"a part of a storage ends at {start + count:,}, the storage at {elements:,}")
        return storage._replace(start=start, elements=count)


ADVICE = "nothing in a file is run here: write torch.save(net.state_dict(), path), and read that"
