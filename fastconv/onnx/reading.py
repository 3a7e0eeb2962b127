"""An ONNX file as a Graph.

In steps: the file is parsed and its names are held against each other; each node is brought to the form of the newest
operator set; constants are followed, without being made; then nodes become layers where their weights are constants,
and operations elsewhere. Arrays come last: what is refused has cost nothing.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import layers
from fastconv.errors import FormatError, ShapeError, nearest
from fastconv.files import open_regular
from fastconv.layers import Graph, Layer, Values
from fastconv.machine.memory import require
from fastconv.onnx import package, tensors, windows
from fastconv.onnx.operators import TABLE

__all__ = ["read"]

OLDEST = 6
MOST_NODES = 200_000
FOLDED = 1 << 16  # elements of a constant that is computed here
SETTINGS = {  # inputs that are no values of a net: where they are constants, they become options
    "Reshape": (1,), "Expand": (1,), "Tile": (1, 2), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,),
    "Slice": (1, 2, 3, 4), "Pad": (1, 3), "Resize": (1, 2, 3), "MaxUnpool": (2,), "ConstantOfShape": (0,),
    "Dropout": (1, 2), **{name: (1,) for name in TABLE if name.startswith("Reduce")},
}  # fmt: skip
WEIGHTS = {  # inputs that are parameters where they are float constants
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "LayerNormalization": (1, 2), "PRelu": (1,),
}  # fmt: skip
SUFFIXES = ("weight", "bias", "running_mean", "running_var")
COUNTED = ("BatchNormalization", "LayerNormalization", "MaxPool", "Split", "SoftmaxCrossEntropyLoss", "Dropout")
VIEWS = ("Identity", "Reshape", "Unsqueeze", "Transpose", "Squeeze")  # through which a constant is still a parameter
CONTROL = ("If", "Loop", "Scan")


def read(source: Any, *, trainable: bool, outputs: Any) -> Graph:
    onnx = package()
    name, path = "the model", None
    if isinstance(source, str | os.PathLike):
        name, path = os.fspath(source), Path(source)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            with _refusals(name):
                require("reading", 2 * size)
            source = file.read()
    with _refusals(name):
        if isinstance(source, bytes | bytearray | memoryview):
            model = onnx.ModelProto()
            try:
                model.ParseFromString(bytes(source))
            except Exception as error:  # protobuf's own kinds of errors, by implementation
                raise ValueError(f"is no ONNX file: {_line(error)}") from None
        elif isinstance(source, onnx.ModelProto):
            model = source
        else:
            raise TypeError(f"onnx.load: a model is a path, bytes or a ModelProto, got {type(source).__name__}")
        if isinstance(outputs, str):
            outputs = (outputs,)
        return _Reader(model, path, outputs).graph(trainable)


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Whatever is wrong with a file is one line that begins with its name."""
    try:
        yield
    except FormatError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{name}: {_line(error)}") from None
    except TypeError as error:
        if str(error).startswith("onnx.load:"):
            raise
        raise FormatError(f"{name}: {_line(error)}") from None
    except (ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, UnicodeError) as error:
        raise FormatError(f"{name}: {_line(error)}") from None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


# --- nodes ------------------------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """A node in the form of the newest operator set."""

    name: str  # its own, or its first output's
    op: str
    inputs: list[str]  # "" where one is left out
    outputs: list[str]
    attributes: dict[str, Any]
    version: int

    @property
    def where(self) -> str:
        return f"node {self.name[:80]!r} ({self.op[:40]})"


@dataclass
class _Constant:
    """A constant that is made when it is asked for. `root` is the initialiser or node that it comes from, `turned`
    says whether some node changed its shape on the way."""

    root: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], np.ndarray] = field(repr=False)
    turned: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in ("float32", "float64")


def _attributes(node: Any, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name, kind = attribute.name, attribute.type
        if name in found or attribute.ref_attr_name:
            raise ValueError(f"{where}: its attribute {name[:80]!r} stands there twice or refers to a function's")
        if kind == 1:
            found[name] = tensors.shortest(attribute.f)
        elif kind == 2:
            found[name] = attribute.i
        elif kind == 3:
            found[name] = attribute.s.decode("utf-8")
        elif kind == 4:
            found[name] = attribute.t
        elif kind == 6:
            found[name] = tuple(tensors.shortest(value) for value in attribute.floats)
        elif kind == 7:
            found[name] = tuple(attribute.ints)
        elif kind == 8:
            found[name] = tuple(value.decode("utf-8") for value in attribute.strings)
        else:
            raise ValueError(
                f"{where}: its attribute {name[:80]!r} is of a kind that is not served (a graph, a sequence)"
            )
    return found


def _modern(node: _Node) -> None:
    """Bring what older operator sets said to the form that `operators.TABLE` takes."""
    a, v = node.attributes, node.version
    for name in ("consumed_inputs", "output_dtype", "stash_type", "layout", "round_mode", "saturate"):
        a.pop(name, None)
    if node.op in ("Softmax", "LogSoftmax") and v < 13:
        a.setdefault("axis", 1)
        a["coerce"] = 1
    elif node.op in ("Upsample", "Resize"):
        if node.op == "Upsample" or v < 11:
            node.inputs = [node.inputs[0], "", *node.inputs[1:2]]
            a["coordinate_transformation_mode"] = "asymmetric"
            a["nearest_mode"] = "floor"
        node.op = "Resize"
    elif node.op == "Cast":
        a["to"] = _as_float32(tensors.type_name(a["to"])) if "to" in a else None
        if a["to"] is None:
            raise ValueError(f"{node.where}: its attribute 'to' is missing")
    elif node.op == "ConstantOfShape":
        value = a.pop("value", None)
        array = np.zeros(1, np.float32) if value is None else tensors.to_array(value)
        if array.size != 1:
            raise ValueError(f"{node.where}: its value must be one number, got shape {array.shape}")
        a["value"], a["to"] = array.reshape(()).item(), array.dtype.name
    elif node.op == "Pad" and "paddings" in a:
        a["pads"] = a.pop("paddings")
    elif node.op == "BatchNormalization" and v < 14:
        node.outputs = node.outputs[:1]
        a.pop("is_test", None)
    elif node.op == "Concat":
        a.setdefault("axis", 1)
    elif node.op == "Split" and "num_outputs" not in a and not a.get("split"):
        a.pop("split", None)
    if node.op in COUNTED:
        while node.outputs and not node.outputs[-1]:
            node.outputs.pop()
        if len(node.outputs) > 1 or node.op == "Split":
            a["outputs"] = len(node.outputs)
    elif len([name for name in node.outputs if name]) > 1:
        raise ValueError(f"{node.where}: has {len(node.outputs)} outputs, one is served")
    while node.inputs and not node.inputs[-1]:
        node.inputs.pop()


def _as_float32(name: str) -> str:
    return "float32" if name in tensors.HALF else name


# --- a graph ----------------------------------------------------------------------------------------------------------


class _Reader:
    """A model's graph on its way to a Graph."""

    def __init__(self, model: Any, path: Path | None, outputs: Any) -> None:
        self.external = tensors.External(path) if path is not None else None
        graph = model.graph
        self.version = self._version(model)
        if len(graph.node) > MOST_NODES:
            raise ValueError(f"has {len(graph.node):,} nodes, more than {MOST_NODES:,}")
        if not graph.node and not graph.output:
            raise ValueError("is no ONNX file: it has no graph")
        if model.functions:
            raise ValueError(f"has functions ({model.functions[0].name[:80]!r}), which are not served; inline them")
        if graph.sparse_initializer:
            raise ValueError("has sparse initialisers, which are not served")
        self.constants: dict[str, _Constant] = {}
        self.view_nodes: dict[str, _Node] = {}  # by the constant that they give
        for tensor in graph.initializer:
            self._initialise(tensor)
        self.inputs: dict[str, str] = {}
        self.shapes: dict[str, tuple[int | None, ...] | None] = {}
        for value in graph.input:
            self._input(value)
        self.nodes = self._sorted([self._node(node) for node in graph.node])
        wanted = list(outputs) if outputs is not None else [value.name for value in graph.output]
        self.outputs = self._outputs(wanted)
        self._need_defined()
        self._drop_unneeded()
        self.batch = self._fixed_batch()
        self.float_type = self._float_type()
        self.ranks: dict[str, int | None] = {
            name: None if shape is None else len(shape) for name, shape in self.shapes.items()
        }
        self.kinds: dict[str, str] = dict(self.inputs)

    def _version(self, model: Any) -> int:
        versions = {entry.domain: entry.version for entry in model.opset_import}
        version = versions.get("", versions.get("ai.onnx", 1 if not versions else 0))
        newest = package().defs.onnx_opset_version()
        if version < OLDEST:
            raise ValueError(
                f"has operator set {version}, served are {OLDEST} and later; onnx.version_converter.convert_version "
                "makes it a later one"
            )
        if version > newest:
            raise ValueError(f"has operator set {version}, the installed package onnx knows {newest} at most")
        return int(version)

    def _initialise(self, tensor: Any) -> None:
        name = tensor.name
        if not name or name in self.constants:
            raise ValueError(f"initialiser {name[:80]!r} has no name, or one that is there twice")
        _within(f"initialiser {name[:80]!r}", tensors.need_whole, tensor, self.external)
        dtype, shape = _as_float32(tensors.type_name(tensor.data_type)), tensors.shape_of(tensor)
        self.constants[name] = _Constant(name, shape, dtype, lambda: tensors.to_array(tensor, self.external))

    def _input(self, value: Any) -> None:
        name = value.name
        if name in self.constants:
            return
        if not name or name in self.inputs:
            raise ValueError(f"input {name[:80]!r} has no name, or one that is there twice")
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"input {name[:80]!r} is no tensor")
        kind = value.type.tensor_type
        self.inputs[name] = _as_float32(_within(f"input {name[:80]!r}", tensors.type_name, kind.elem_type))
        self.shapes[name] = (
            tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
            if kind.HasField("shape")
            else None
        )

    def _node(self, node: Any) -> _Node:
        outputs = list(node.output)
        first = next((name for name in outputs if name), "")
        found = _Node(node.name or first, node.op_type, list(node.input), outputs, {}, self.version)
        if node.op_type in CONTROL:
            raise ValueError(f"{found.where}: control flow is not served")
        if node.domain not in ("", "ai.onnx") or (node.op_type not in TABLE and node.op_type != "Constant"):
            domain = f" of domain {node.domain[:40]!r}" if node.domain else ""
            raise ValueError(f"{found.where}: is no operator{domain} that is served{nearest(node.op_type[:80], TABLE)}")
        if not first:
            raise ValueError(f"{found.where}: has no output")
        found.attributes = _attributes(node, found.where)
        _within(found.where, _modern, found)
        if found.op != "Constant":
            _within(found.where, _need_attributes, found)
        return found

    def _sorted(self, nodes: list[_Node]) -> list[_Node]:
        """In an order in which each reads what is there; ValueError for names twice and for cycles."""
        made: dict[str, int] = {}
        for place, node in enumerate(nodes):
            for name in node.outputs:
                if name and (name in made or name in self.inputs or name in self.constants):
                    raise ValueError(f"{node.where}: its output {name[:80]!r} is there twice")
                if name:
                    made[name] = place
        waits = [len({made[name] for name in node.inputs if name in made}) for node in nodes]
        readers: dict[int, list[int]] = defaultdict(list)
        for place, node in enumerate(nodes):
            for source in {made[name] for name in node.inputs if name in made}:
                readers[source].append(place)
        ready = [place for place, count in enumerate(waits) if not count]
        order: list[int] = []
        if all(made.get(name, -1) < place for place, node in enumerate(nodes) for name in node.inputs):
            return nodes  # as the format asks
        while ready:
            here = ready.pop()
            order.append(here)
            for place in readers[here]:
                waits[place] -= 1
                if not waits[place]:
                    ready.append(place)
        if len(order) < len(nodes):
            stuck = next(node for place, node in enumerate(nodes) if waits[place])
            raise ValueError(f"{stuck.where}: is part of a cycle, or reads one")
        return [nodes[place] for place in order]

    def _outputs(self, wanted: list[str]) -> list[str]:
        known = {*self.inputs, *self.constants, *(name for node in self.nodes for name in node.outputs if name)}
        by_node = {node.name: node.outputs[0] for node in self.nodes}
        found = []
        for name in wanted:
            if not isinstance(name, str) or (name not in known and name not in by_node):
                raise ValueError(f"output {str(name)[:80]!r} is no value of the graph{nearest(name, known)}")
            found.append(name if name in known else by_node[name])
        if not found or len(set(found)) != len(found):
            raise ValueError(f"has {len(found)} outputs, each must have a name of its own")
        return found

    def _need_defined(self) -> None:
        known = {"", *self.inputs, *self.constants, *(name for node in self.nodes for name in node.outputs)}
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise ValueError(f"{node.where}: reads {name[:80]!r}, which nothing defines")

    def _drop_unneeded(self) -> None:
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        self.nodes = kept[::-1]

    def _fixed_batch(self) -> int | None:
        """The first length of every input, where it is one number."""
        firsts = {shape[0] if shape else None for shape in self.shapes.values()}
        return firsts.pop() if len(firsts) == 1 else None

    def _float_type(self) -> str:
        """The file's own: of the first float input, else of the first float constant."""
        kinds = [*self.inputs.values(), *(constant.dtype for constant in self.constants.values())]
        return next((kind for kind in kinds if kind in ("float32", "float64")), "float32")

    # --- constants

    def _fold(self) -> None:
        """Take nodes of constants alone out of the graph, as far as no parameter goes into them."""
        kept = []
        for node in self.nodes:
            constant = _within(node.where, self._constant_of, node)
            if constant is None:
                kept.append(node)
            else:
                self.constants[node.outputs[0]] = constant
                self.view_nodes[node.outputs[0]] = node
        self.nodes = kept

    def _constant_of(self, node: _Node) -> _Constant | None:
        sources = [self.constants.get(name) for name in node.inputs if name]
        if node.op == "Constant":
            return self._written(node)
        if not sources or None in sources:
            return None
        given = [source for source in sources if source is not None]
        if node.op == "ConstantOfShape":
            shape = tuple(_small(given[0]).reshape(-1).tolist())
            if any(n < 0 for n in shape) or len(shape) > tensors.MOST_AXES:
                raise ValueError(f"a shape has no negative lengths, got {shape}")
            value, dtype = node.attributes["value"], node.attributes["to"]
            require("ConstantOfShape", math.prod(shape) * np.dtype(dtype).itemsize)
            return _Constant(node.outputs[0], shape, dtype, lambda: np.full(shape, value, dtype))
        if node.op in VIEWS:
            return self._view(node, given[0], given[1:])
        numbers = [source for source in given if source.is_float and source.size > 1]
        if numbers or len(node.outputs) > 1 or sum(source.size for source in given) > FOLDED:
            return None
        if node.op in ("Expand", "Tile", "Range", "Pad", "Resize"):  # may be long
            return None
        result = self._computed(node, {})
        if result.size > FOLDED:
            return None
        return _Constant(node.outputs[0], result.shape, result.dtype.name, lambda: result)

    def _written(self, node: _Node) -> _Constant:
        if len(node.attributes) != 1:
            raise ValueError("a Constant has one attribute")
        ((name, value),) = node.attributes.items()
        root = node.outputs[0]
        if name == "value":
            tensors.need_whole(value, self.external)
            dtype = _as_float32(tensors.type_name(value.data_type))
            return _Constant(root, tensors.shape_of(value), dtype, lambda: tensors.to_array(value, self.external))
        types = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
        if name not in types:
            raise ValueError(f"a Constant with {name[:40]!r} is not served")
        array = np.array(value, types[name])
        return _Constant(root, array.shape, array.dtype.name, lambda: array)

    def _view(self, node: _Node, source: _Constant, rest: list[_Constant]) -> _Constant:
        """The same numbers in another shape, found from a stand-in that has no memory."""
        stand_in = np.broadcast_to(np.zeros((), source.dtype), source.shape)
        options = dict(node.attributes)
        arguments = [_small(each) for each in rest]
        forward = TABLE[node.op].forward
        if node.op == "Reshape":
            shape = _reshaped_shape(source.shape, arguments[0], options.get("allowzero", 0))
        else:
            shape = np.shape(forward(stand_in, *arguments, **options)[0])
        changed = node.op != "Identity"

        def make() -> np.ndarray:
            return np.asarray(forward(source.make(), *arguments, **options)[0])

        return _Constant(source.root, tuple(shape), source.dtype, make, source.turned or changed)

    def _computed(self, node: _Node, values: dict[str, np.ndarray]) -> np.ndarray:
        arrays = [None if not name else self.constants[name].make() for name in node.inputs]
        return np.asarray(TABLE[node.op].forward(*arrays, **node.attributes)[0])

    # --- building

    def graph(self, trainable: bool) -> Graph:
        self._fold()
        self.readers = Counter(name for node in self.nodes for name in node.inputs)
        self.readers.update(self.outputs)
        self.uses = Counter(
            self.constants[name].root for node in self.nodes for name in node.inputs if name in self.constants
        )
        self.trained = self._trained()
        return _Builder(self, trainable).build()

    def _trained(self) -> set[str]:
        """The roots of all constants that are parameters."""
        found = set()
        for node in self.nodes:
            for place, name in enumerate(node.inputs):
                constant = self.constants.get(name)
                if constant is None or not constant.is_float:
                    continue
                if place in WEIGHTS.get(node.op, ()) or (node.op in ("Add", "Mul") and constant.size > 1):
                    found.add(constant.root)
        return found


def _within(where: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result; what it refuses names the node."""
    try:
        return function(*arguments)
    except MemoryError as error:
        raise MemoryError(f"{where}: {error}") from None
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, UnicodeError) as error:
        text = _line(error)
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None


def _need_attributes(node: _Node) -> None:
    parameters = inspect.signature(TABLE[node.op].forward).parameters
    for name in node.attributes:
        if name not in parameters:
            raise ValueError(f"its attribute {name[:80]!r} is unknown")
    named = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.POSITIONAL_ONLY]
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters.values()) and len(node.inputs) > len(named):
        raise ValueError(f"has {len(node.inputs)} inputs, {len(named)} at most are served")
    missing = [
        p.name for place, p in enumerate(named)
        if p.default is p.empty and p.name not in node.attributes and (place >= len(node.inputs) or not node.inputs[place])
    ]  # fmt: skip
    missing += [
        p.name for p in parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in node.attributes
    ]  # fmt: skip
    if missing or (not node.inputs and not missing and node.op != "Constant"):
        raise ValueError(f"{missing[0] if missing else 'an input'} is missing")


def _small(constant: _Constant) -> np.ndarray:
    """The array of a constant that says a shape or an axis."""
    if constant.size > FOLDED:
        raise ValueError(f"a shape of {constant.size:,} numbers")
    return constant.make()


def _reshaped_shape(shape: tuple[int, ...], wanted: np.ndarray, allowzero: int) -> tuple[int, ...]:
    lengths = [
        shape[place] if n == 0 and not allowzero and place < len(shape) else n
        for place, n in enumerate(wanted.reshape(-1).tolist())
    ]
    known = math.prod(n for n in lengths if n != -1)
    total = math.prod(shape)
    if lengths.count(-1) == 1 and known and not total % known:
        lengths[lengths.index(-1)] = total // known
    if math.prod(lengths) != total or min(lengths, default=0) < 0:
        raise ShapeError(f"{shape} does not become {tuple(lengths)}")
    return tuple(lengths)


class _Nothing(np.random.Generator):
    """Draws zeros: weights that a file has come in their place."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return np.zeros(size or ())


class _Builder:
    """The nodes of a Graph, made of a reader's."""

    def __init__(self, reader: _Reader, trainable: bool) -> None:
        self.reader = reader
        self.trainable = trainable
        self.nodes: dict[str, Any] = {}
        self.of_value: dict[str, str] = {}  # a value's name: the Graph's node, input or array
        self.leaves: dict[str, dict[str, dict[str, np.ndarray]]] = {}  # of arrays with names of their own
        self.made_by = {name: node for node in reader.nodes for name in node.outputs if name}
        self.done: set[int] = set()  # nodes that others took along
        self.taken = {*reader.inputs}
        self.leaf_of: dict[str, str] = {}  # by the node that reads its arrays first
        self.owned: dict[str, set[str]] = {}  # names of the arrays that stand in a node itself
        roots = (
            reader.constants[name].root for node in reader.nodes for name in node.inputs if name in reader.constants
        )
        parts = (root.rpartition(".") for root in roots)
        self.reserved = {prefix for prefix, _, last in parts if prefix and last in SUFFIXES}  # for names of their own

    def build(self) -> Graph:
        r = self.reader
        for name in r.inputs:
            self.of_value[name] = name
        for node in r.nodes:
            if id(node) not in self.done:
                _within(node.where, self._add, node)
        outputs = {}
        for name in r.outputs:
            if name in self.of_value and self.of_value[name] in self.nodes:
                outputs[name] = self.of_value[name]
                continue
            copy = self._unique(f"{name}/output" if name in self.taken else name)  # an input, or a constant
            source = self._array(name, copy, "value") if name in r.constants else self.of_value[name]
            self.nodes[copy] = ("Identity", source)
            outputs[name] = copy
        kinds = {name: "float" if kind == r.float_type else kind for name, kind in r.inputs.items()}
        ordered = {
            leaf: Values(parameters=arrays["parameters"], buffers=arrays["buffers"])
            for leaf, arrays in self.leaves.items()
        }
        ordered.update(self.nodes)
        if len(outputs) == 1:
            net = Graph(ordered, *outputs.values(), inputs=kinds)
        else:
            net = Graph(ordered, inputs=kinds, outputs=outputs)
        net.eval()
        return net if self.trainable else net.freeze()

    def _unique(self, name: str) -> str:
        found, count = name, 1
        while found in self.taken or found in self.nodes or found in self.leaves or found in self.reserved:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    # --- one node

    def _add(self, node: _Node) -> None:
        self._note_kinds(node)
        make = LAYERS.get(node.op)
        made = make(self, node) if make is not None else None
        if made is None:
            made = self._plain(node)
        if made is None:
            self._operation(node)

    def constants(self, node: _Node, *places: int) -> list[_Constant | None] | None:
        """The constants at these inputs (None: left out) if all are constants that this node alone reads."""
        found: list[_Constant | None] = []
        for place in places:
            name = node.inputs[place] if place < len(node.inputs) else ""
            constant = self.reader.constants.get(name)
            if name and (constant is None or self.reader.uses[constant.root] != 1 or not constant.is_float):
                return None
            found.append(constant if name else None)
        return found

    def place_layer(
        self, node: _Node, layer: Layer, arrays: dict[str, tuple[_Constant | None, Any]], *, name: str | None = None
    ) -> bool:
        """Make a node of a layer with these arrays {attribute: (constant, array)}, called after what PyTorch calls
        them; False where their names do not fit together."""
        prefix = self._prefix({attribute: constant for attribute, (constant, _) in arrays.items() if constant})
        if prefix is False:
            return False
        called = prefix or self._unique(name or node.name)
        self.taken.add(called)
        for attribute, (_, array) in arrays.items():
            if array is not None:
                setattr(layer, attribute, array)
        self.nodes[called] = (layer, self.of_value[node.inputs[0]])
        self.of_value[node.outputs[0]] = called
        return True

    def _prefix(self, constants: dict[str, _Constant]) -> Any:
        """The part before ".weight" that the names share; None where none has one; False where they differ."""
        found: set[str] = set()
        for attribute, constant in constants.items():
            prefix, _, last = constant.root.rpartition(".")
            if prefix and last in SUFFIXES:
                if last != attribute:
                    return False
                found.add(prefix)
        if len(found) > 1 or (found and (found & (self.taken | self.nodes.keys() | self.leaves.keys()))):
            return False
        return found.pop() if found else None

    def _operation(self, node: _Node) -> None:
        options = {name: value for name, value in node.attributes.items()}
        called = node.name
        if any(map(self._needs_leaf, node.inputs)):  # parameters that other nodes turn first are called after this one
            self.leaf_of[called] = self._unique(node.name)
            self.leaf_of[f"{called}/{node.op}"] = self.leaf_of[called]
            called = f"{called}/{node.op}"
        called = self._unique(called)
        parameters = [
            p.name for p in inspect.signature(TABLE[node.op].forward).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]  # fmt: skip
        sources: list[Any] = []
        for place, name in enumerate(node.inputs):
            constant = self.reader.constants.get(name)
            if constant is not None and place in SETTINGS.get(node.op, ()):
                options[parameters[place]] = self._setting(node, place, constant)
                sources.append(None)
            elif constant is not None and node.op == "Pad" and place == 2 and constant.size == 1:
                number = constant.make().reshape(-1)[0]
                options["value"] = tensors.shortest(number) if number.dtype == np.float32 else number.item()
                sources.append(None)
            else:
                sources.append(self._source(name, called, len(sources)))
        while sources and sources[-1] is None:
            sources.pop()
        options = {name: value for name, value in options.items() if value is not None}
        for key in ("to",):
            if options.get(key) == self.reader.float_type:
                options[key] = "float"
        named = {p for place, p in enumerate(parameters) if place < len(sources)}
        if named & options.keys():  # a setting in front of an input
            for place, parameter in enumerate(parameters[: len(sources)]):
                if parameter in options:
                    sources[place] = Values(buffers={parameter: np.asarray(options.pop(parameter))})
        entry = (node.op, *sources, options) if options else (node.op, *sources)
        self.nodes[called] = entry
        self._name_outputs(node, called)

    def _name_outputs(self, node: _Node, called: str) -> None:
        if "outputs" not in node.attributes:
            self.of_value[node.outputs[0]] = called
            return
        for index, name in enumerate(node.outputs):
            if name and self.reader.readers[name]:
                item = self._unique(name)
                self.nodes[item] = ("item", called, {"index": index})
                self.of_value[name] = item

    def _setting(self, node: _Node, place: int, constant: _Constant) -> Any:
        values = _small(constant)
        found = values.reshape(-1).tolist() if values.ndim else values.item()
        if values.dtype == np.float32:
            found = [tensors.shortest(v) for v in found] if values.ndim else tensors.shortest(found)
        if node.op == "Reshape" and place == 1:
            batch = self.reader.batch
            if found and batch is not None and found[0] == batch and node.inputs[0] not in self.reader.constants:
                found = [0 if -1 in found else -1, *found[1:]]
        if node.op == "Resize" and isinstance(found, list) and not found:
            return None
        return tuple(found) if isinstance(found, list) else found

    def _source(self, name: str, reader: str, place: int) -> Any:
        """What a node reads: a node or an input by its name, or an array."""
        if not name:
            return None
        if name in self.reader.constants:
            constant = self.reader.constants[name]
            trained = constant.root in self.reader.trained
            return self._array(name, reader, ("bias" if place == 2 else "weight") if trained else "value")
        return self.of_value[name]

    def _array(self, name: str, reader: str, attribute: str) -> Any:
        """A constant as an array of the Graph: in the node that reads it first, or under a name of its own."""
        constant = self.reader.constants[name]
        trained = constant.root in self.reader.trained
        kind = "parameters" if trained else "buffers"
        root = self.reader.constants.get(constant.root, constant) if trained else constant
        key = f"\0{constant.root if trained else name}"  # no name of a value's
        known = self.of_value.get(key)
        if known is None:
            array, prefix, last = root.make(), *self._own_name(constant)
            if prefix is not None and (trained or not constant.turned):
                leaf = self.leaves.setdefault(prefix, {"parameters": {}, "buffers": {}})
                self.taken.add(prefix)
                leaf[kind][last] = array
                known = f"{prefix}.{last}"
            elif root is constant and not constant.turned and attribute not in self._own(reader):
                self.of_value[key] = f"{reader}.{attribute}"
                self._own(reader).add(attribute)
                return Values(**{kind: {attribute: array}})
            else:
                leaf_name = self.leaf_of.get(reader, "")
                if not leaf_name or attribute in self.leaves.get(leaf_name, {}).get(kind, {}):
                    leaf_name = self._unique(f"{reader}.{attribute}")
                leaf = self.leaves.setdefault(leaf_name, {"parameters": {}, "buffers": {}})
                leaf[kind][attribute] = array
                known = f"{leaf_name}.{attribute}"
            self.of_value[key] = known
        return self._viewed(name, constant, known) if trained else known

    def _needs_leaf(self, name: str) -> bool:
        """Whether it is a parameter that comes through other nodes and has no name of its own."""
        constant = self.reader.constants.get(name)
        if constant is None or not constant.turned or constant.root not in self.reader.trained:
            return False
        return f"\0{constant.root}" not in self.of_value and self._own_name(constant)[0] is None

    def _own_name(self, constant: _Constant) -> tuple[str | None, str]:
        """Of an initialiser called as PyTorch calls it the parts of its name, where no node has them."""
        prefix, _, last = constant.root.rpartition(".")
        free = prefix in self.leaves or (prefix not in self.nodes and prefix not in self.taken)
        return (prefix if prefix and last in SUFFIXES and free else None), last

    def _own(self, reader: str) -> set[str]:
        return self.owned.setdefault(reader, set())

    def _viewed(self, name: str, constant: _Constant, root: str) -> str:
        """The node that gives a constant as it is read: of one that was turned on the way the views are nodes."""
        if not constant.turned:
            return root
        if name not in self.of_value:
            node = self.views[name]
            source = self._viewed(node.inputs[0], self.reader.constants[node.inputs[0]], root)
            rest = [_small(self.reader.constants[each]) for each in node.inputs[1:]]
            called = self._unique(node.name)
            self.nodes[called] = (
                (node.op, source, *rest, node.attributes) if node.attributes else (node.op, source, *rest)
            )
            self.of_value[name] = called
        return self.of_value[name]

    # --- what is known of values

    def rank(self, name: str) -> int | None:
        if name in self.reader.constants:
            return len(self.reader.constants[name].shape)
        return self.reader.ranks.get(name)

    def is_float(self, name: str) -> bool:
        if name in self.reader.constants:
            return self.reader.constants[name].is_float
        return self.reader.kinds.get(name, self.reader.float_type) in ("float32", "float64")

    def _note_kinds(self, node: _Node) -> None:
        """The rank and the type of a node's outputs, as far as they are plain."""
        kind = self.reader.kinds.get(node.inputs[0], self.reader.float_type) if node.inputs else self.reader.float_type
        if node.inputs and node.inputs[0] in self.reader.constants:
            kind = self.reader.constants[node.inputs[0]].dtype
        if node.op in ("Shape", "Size", "ArgMax"):
            kind = "int64"
        elif node.op in ("Cast", "ConstantOfShape"):
            kind = node.attributes["to"]
        elif node.op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not"):
            kind = "bool"
        elif node.op == "Where":
            kind = self.reader.kinds.get(node.inputs[1], self.reader.float_type)
        rank = RANKS.get(node.op, _first_rank)(self, node)
        for name in node.outputs:
            self.reader.ranks[name], self.reader.kinds[name] = rank, kind

    # --- operations that functional has

    def _plain(self, node: _Node) -> bool | None:
        """A node that reads one value and is an operation of `fastconv.functional`."""
        make = PLAIN.get(node.op)
        if make is None or not self.is_float(node.inputs[0]) or node.inputs[0] in self.reader.constants:
            return None
        if any(node.inputs[1:]):
            return None
        found = make(self, node)
        if found is None:
            return None
        op, options = found
        called = self._unique(node.name)
        source = self.of_value[node.inputs[0]]
        self.nodes[called] = (op, source, options) if options else (op, source)
        self.of_value[node.outputs[0]] = called
        return True

    @property
    def views(self) -> dict[str, _Node]:
        return self.reader.view_nodes


def _first_rank(b: _Builder, node: _Node) -> int | None:
    return b.rank(node.inputs[0]) if node.inputs and node.inputs[0] else None


def _widest_rank(b: _Builder, node: _Node) -> int | None:
    ranks = [b.rank(name) for name in node.inputs if name]
    return None if None in ranks else max(ranks)  # type: ignore[type-var]


def _unknown_rank(b: _Builder, node: _Node) -> int | None:
    return None


def _length_of(place: int) -> Callable[..., int | None]:
    def rank(b: _Builder, node: _Node) -> int | None:
        constant = b.reader.constants.get(node.inputs[place]) if place < len(node.inputs) else None
        return constant.size if constant is not None else None

    return rank


def _axes_count(b: _Builder, node: _Node) -> int | None:
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] in b.reader.constants:
        return b.reader.constants[node.inputs[1]].size
    return None if axes is None else len(axes)


def _unsqueezed(b: _Builder, node: _Node) -> int | None:
    rank, count = _first_rank(b, node), _axes_count(b, node)
    return None if rank is None or count is None else rank + count


def _squeezed(b: _Builder, node: _Node) -> int | None:
    rank, count = _first_rank(b, node), _axes_count(b, node)
    return None if rank is None or count is None else rank - count


def _reduced(b: _Builder, node: _Node) -> int | None:
    return _first_rank(b, node) if node.attributes.get("keepdims", 1) else None


def _weighted_rank(b: _Builder, node: _Node) -> int | None:
    return b.rank(node.inputs[1]) or _first_rank(b, node)


def _expanded(b: _Builder, node: _Node) -> int | None:
    rank, wanted = _first_rank(b, node), _length_of(1)(b, node)
    return None if rank is None or wanted is None else max(rank, wanted)


RANKS: dict[str, Callable[..., int | None]] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Mean", "Max", "Min", "Where", "Equal", "Less", "Greater", "And",
         "Or", "LessOrEqual", "GreaterOrEqual", "MatMul"), _widest_rank,
    ),
    **dict.fromkeys(("Gather", "Range"), _unknown_rank),
    **dict.fromkeys(("Conv", "ConvTranspose"), _weighted_rank),
    **dict.fromkeys(("Flatten", "Gemm"), lambda b, node: 2),
    **dict.fromkeys([name for name in TABLE if name.startswith("Reduce")] + ["ArgMax"], _reduced),
    "Shape": lambda b, node: 1,
    "Size": lambda b, node: 0,
    "Reshape": _length_of(1),
    "Expand": _expanded,
    "ConstantOfShape": _length_of(0),
    "Unsqueeze": _unsqueezed,
    "Squeeze": _squeezed,
    "SoftmaxCrossEntropyLoss": _unknown_rank,
    "NegativeLogLikelihoodLoss": _unknown_rank,
}  # fmt: skip


# --- layers -----------------------------------------------------------------------------------------------------------


def _in_memory(weight: np.ndarray) -> np.ndarray:
    """(K, C, *kernel) with the channels last in memory, as the layers have it."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(weight, 1, -1)), -1, 1)


def _conv(b: _Builder, node: _Node) -> bool | None:
    found = b.constants(node, 1, 2)
    if found is None or found[0] is None or node.inputs[0] in b.reader.constants:
        return None
    weight, bias = found
    axes = len(weight.shape) - 2
    if not 1 <= axes <= 3 or 0 in weight.shape or not b.is_float(node.inputs[0]):
        return None
    options = windows.conv_options(axes, **node.attributes)
    if options["padding"] not in windows.PADDING.values() and min(map(min, options["padding"])) < 0:
        return None
    filters, inputs = weight.shape[0], weight.shape[1] * options["groups"]
    if bias is not None and bias.shape != (filters,):
        raise ShapeError(f"B must have one entry per filter, got {bias.shape} for {filters}")
    cls = getattr(layers, f"Conv{axes}d")
    layer = cls(inputs, filters, weight.shape[2:], bias=bias is not None, rng=_Nothing(), **options)
    w = weight.make()
    shift = None if bias is None else bias.make()
    norm = None if b.trainable else _norm_behind(b, node)
    if norm is not None:
        factor, offset = _as_affine(b, norm, w.dtype)
        w = (w * factor.reshape(-1, *(1,) * (w.ndim - 1))).astype(w.dtype)
        shift = (offset if shift is None else shift * factor + offset).astype(w.dtype)
    placed = b.place_layer(node, layer, {"weight": (weight, _in_memory(w)), "bias": (bias, shift)})
    if placed and norm is not None:
        b.done.add(id(norm))
        b._note_kinds(norm)
        b.of_value[norm.outputs[0]] = b.of_value[node.outputs[0]]
    return placed or None


def _norm_behind(b: _Builder, node: _Node) -> _Node | None:
    """The batch norm that alone reads a node, and whose arrays are constants."""
    (name,) = node.outputs[:1]
    if b.reader.readers[name] != 1 or name in b.reader.outputs:
        return None
    norm = next((each for each in b.reader.nodes if name in each.inputs), None)
    if norm is None or norm.op != "BatchNormalization" or norm.attributes.get("training_mode"):
        return None
    arrays = [b.reader.constants.get(each) for each in norm.inputs[1:5]]
    return norm if len(arrays) == 4 and None not in arrays else None


def _as_affine(b: _Builder, norm: _Node, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    scale, bias, mean, var = (b.reader.constants[name].make().astype(np.float64) for name in norm.inputs[1:5])
    factor = scale / np.sqrt(var + norm.attributes.get("epsilon", 1e-5))
    return factor, bias - mean * factor


def _conv_transpose(b: _Builder, node: _Node) -> bool | None:
    found = b.constants(node, 1, 2)
    if found is None or found[0] is None or node.inputs[0] in b.reader.constants:
        return None
    weight, bias = found
    axes = len(weight.shape) - 2
    if not 1 <= axes <= 3 or 0 in weight.shape or not b.is_float(node.inputs[0]):
        return None
    options = windows.transposed_options(None, weight.shape[2:], **node.attributes)
    if options is None or min(map(min, options["padding"])) < 0:
        return None
    if any(
        e >= max(s, d)
        for e, s, d in zip(options["output_padding"], options["stride"], options["dilation"], strict=True)
    ):
        return None
    filters = weight.shape[1] * options["groups"]
    if bias is not None and bias.shape != (filters,):
        raise ShapeError(f"B must have one entry per filter, got {bias.shape} for {filters}")
    cls = getattr(layers, f"ConvTranspose{axes}d")
    layer = cls(weight.shape[0], filters, weight.shape[2:], bias=bias is not None, rng=_Nothing(), **options)
    arrays = {"weight": (weight, _in_memory(weight.make())), "bias": (bias, bias.make() if bias else None)}
    return b.place_layer(node, layer, arrays) or None


def _linear(
    b: _Builder, node: _Node, weight: _Constant, transposed: bool, bias: _Constant | None, output: str | None = None
) -> bool | None:
    outputs, inputs = weight.shape if transposed else weight.shape[::-1]
    if 0 in weight.shape or (bias is not None and bias.shape not in ((outputs,), (1, outputs))):
        return None
    layer = layers.Linear(inputs, outputs, bias is not None, rng=_Nothing())
    w = weight.make()
    arrays = {
        "weight": (weight, np.ascontiguousarray(w if transposed else w.T)),
        "bias": (bias, bias.make().reshape(-1) if bias else None),
    }
    if not b.place_layer(node, layer, arrays):
        return None
    if output is not None:
        b.of_value[output] = b.of_value[node.outputs[0]]
    return True


def _gemm(b: _Builder, node: _Node) -> bool | None:
    a, found = node.attributes, b.constants(node, 1, 2)
    plain = a.get("alpha", 1) == 1 and (a.get("beta", 1) == 1 or len(node.inputs) < 3) and not a.get("transA")
    if found is None or found[0] is None or not plain or len(found[0].shape) != 2:
        return None
    if node.inputs[0] in b.reader.constants or not b.is_float(node.inputs[0]):
        return None
    return _linear(b, node, found[0], bool(a.get("transB")), found[1])


def _matmul(b: _Builder, node: _Node) -> bool | None:
    """With the Add behind it, where that adds a bias."""
    found = b.constants(node, 1)
    if found is None or found[0] is None or len(found[0].shape) != 2 or node.inputs[0] in b.reader.constants:
        return None
    rank = b.rank(node.inputs[0])
    if rank is None or rank < 2 or not b.is_float(node.inputs[0]):
        return None
    name, bias, behind = node.outputs[0], None, None
    if b.reader.readers[name] == 1 and name not in b.reader.outputs:
        behind = next((each for each in b.reader.nodes if name in each.inputs), None)
        if behind is not None and behind.op == "Add":
            other = behind.inputs[1 - behind.inputs.index(name)]
            constant = b.reader.constants.get(other)
            if constant is not None and constant.shape == found[0].shape[1:] and b.reader.uses[constant.root] == 1:
                bias = constant if constant.is_float and constant.size > 1 else None
    done = _linear(
        b, node, found[0], False, bias, behind.outputs[0] if bias is not None and behind is not None else None
    )
    if done and bias is not None and behind is not None:
        b._note_kinds(behind)
        b.done.add(id(behind))
    return done


def _batch_norm(b: _Builder, node: _Node) -> bool | None:
    a, rank, found = node.attributes, b.rank(node.inputs[0]), b.constants(node, 1, 2, 3, 4)
    if found is None or None in found or rank not in (2, 3, 4, 5) or a.get("spatial", 1) != 1:
        return None
    if a.get("outputs", 1) > 1 and any(b.reader.readers[name] for name in node.outputs[1:]):
        return None
    arrays = [constant for constant in found if constant is not None]
    (channels,) = arrays[0].shape if len(arrays[0].shape) == 1 else (0,)
    if not channels or any(constant.shape != (channels,) for constant in arrays):
        raise ShapeError(f"scale, B, mean and var must be as long, got {[constant.shape for constant in arrays]}")
    cls = getattr(layers, f"BatchNorm{max(1, rank - 2)}d")
    momentum = float(1 - Decimal(repr(a.get("momentum", 0.9))))
    layer = cls(channels, eps=a.get("epsilon", 1e-5), momentum=momentum)
    names = ("weight", "bias", "running_mean", "running_var")
    return b.place_layer(node, layer, {n: (c, c.make()) for n, c in zip(names, arrays, strict=True)}) or None


def _norm(b: _Builder, node: _Node, make: Callable[[int, Any], Layer | None]) -> bool | None:
    """Instance, group and layer norm: weight and bias are constants of one shape."""
    found = b.constants(node, 1, 2)
    if found is None or found[0] is None or not b.is_float(node.inputs[0]):
        return None
    weight, bias = found
    if bias is not None and bias.shape != weight.shape:
        return None
    layer = make(weight.size, weight.shape)
    if layer is None:
        return None
    return (
        b.place_layer(node, layer, {"weight": (weight, weight.make()), "bias": (bias, bias.make() if bias else None)})
        or None
    )


def _instance_norm(b: _Builder, node: _Node) -> bool | None:
    if b.rank(node.inputs[0]) != 4:
        return None
    eps = node.attributes.get("epsilon", 1e-5)
    return _norm(b, node, lambda c, shape: layers.InstanceNorm2d(c, eps=eps, affine=True) if len(shape) == 1 else None)


def _group_norm(b: _Builder, node: _Node) -> bool | None:
    """Before version 21 scale and bias have an entry a group."""
    groups, eps = node.attributes.get("num_groups", 1), node.attributes.get("epsilon", 1e-5)
    rank = b.rank(node.inputs[0])
    if node.version < 21 or rank is None or rank < 3:
        return None
    return _norm(b, node, lambda c, shape: layers.GroupNorm(groups, c, eps=eps))


def _layer_norm(b: _Builder, node: _Node) -> bool | None:
    axis, eps, rank = node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5), b.rank(node.inputs[0])
    if any(name and b.reader.readers[name] for name in node.outputs[1:]):
        return None
    last = -axis if axis < 0 else (rank or 0) - axis

    def make(size: int, shape: Any) -> Layer | None:
        if len(shape) != last or 0 in shape:
            return None
        return layers.LayerNorm(shape, eps=eps, bias=len(node.inputs) > 2)

    return _norm(b, node, make)


def _prelu(b: _Builder, node: _Node) -> bool | None:
    """A slope a channel, or one for all."""
    found, rank = b.constants(node, 1), b.rank(node.inputs[0])
    old = node.version < 7
    if found is None or found[0] is None or not b.is_float(node.inputs[0]):
        return None
    slope = found[0]
    channelwise = rank is not None and len(slope.shape) == rank - 1 and slope.size == slope.shape[0]
    if slope.size != 1 and not (channelwise or (old and len(slope.shape) == 1)):
        return None
    if not slope.size or (rank is None and slope.size == 1 and len(slope.shape) > 1):
        return None
    return b.place_layer(node, layers.PReLU(slope.size), {"weight": (slope, slope.make().reshape(-1))}) or None


def _concat(b: _Builder, node: _Node) -> bool | None:
    """Along the channels it is a join."""
    ranks = [b.rank(name) for name in node.inputs]
    if None in ranks or any(name in b.reader.constants for name in node.inputs) or len(node.inputs) < 2:
        return None
    if node.attributes["axis"] not in (1, 1 - (ranks[0] or 0)) or min(ranks) < 2:  # type: ignore[type-var]
        return None
    called = b._unique(node.name)
    b.nodes[called] = ("concat", *(b.of_value[name] for name in node.inputs))
    b.of_value[node.outputs[0]] = called
    return True


def _dropout(b: _Builder, node: _Node) -> bool | None:
    """In training random, whatever the file says of its mode."""
    if any(name and b.reader.readers[name] for name in node.outputs[1:]):
        return None
    ratio: Any = node.attributes.get("ratio", 0.5)
    if len(node.inputs) > 1 and node.inputs[1]:
        constant = b.reader.constants.get(node.inputs[1])
        if constant is None:
            return None
        value = _small(constant)
        ratio = value.reshape(-1)[0].item() if value.size == 1 else 2
        ratio = tensors.shortest(ratio) if value.dtype == np.float32 else ratio
    if len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in b.reader.constants:
        return None
    if not 0 <= ratio <= 1:
        raise ValueError(f"its ratio must lie between 0 and 1, got {ratio}")
    return b.place_layer(node, layers.Dropout(ratio), {}) or None


LAYERS: dict[str, Callable[[_Builder, _Node], bool | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Dropout": _dropout,
    "Concat": _concat,
}

# --- operations -------------------------------------------------------------------------------------------------------

Plain = tuple[str, dict[str, Any]] | None


def _pool(kind: str) -> Callable[[_Builder, _Node], Plain]:
    def plain(b: _Builder, node: _Node) -> Plain:
        a = node.attributes
        kernel = tuple(a["kernel_shape"])
        axes = len(kernel)
        if not 1 <= axes <= 3 or a.get("outputs", 1) > 1 or a.get("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
            return None
        pads = windows._pads(None if a.get("auto_pad") == "VALID" else a.get("pads"), axes)
        dilation = tuple(a.get("dilations", (1,) * axes))
        if any(not 0 <= min(pair) or max(pair) > k // 2 for pair, k in zip(pads, kernel, strict=True)):
            return None
        if max(dilation) > 1 and (kind != "max" or a.get("ceil_mode")):
            return None
        options: dict[str, Any] = {
            "kernel_size": kernel, "stride": tuple(a.get("strides", (1,) * axes)), "padding": pads,
            "ceil_mode": bool(a.get("ceil_mode", 0)),
        }  # fmt: skip
        if kind == "max":
            options["dilation"] = dilation
        elif kind == "avg":
            options["count_include_pad"] = bool(a.get("count_include_pad", 0))
        else:
            options["norm_type"] = a.get("p", 2)
        return f"{kind}_pool{axes}d", options

    return plain


def _global(kind: str) -> Callable[[_Builder, _Node], Plain]:
    def plain(b: _Builder, node: _Node) -> Plain:
        rank = b.rank(node.inputs[0])
        return (f"adaptive_{kind}_pool{rank - 2}d", {"output_size": 1}) if rank in (3, 4, 5) else None

    return plain


def _softmax(op: str) -> Callable[[_Builder, _Node], Plain]:
    def plain(b: _Builder, node: _Node) -> Plain:
        rank, axis = b.rank(node.inputs[0]), node.attributes.get("axis", -1)
        if rank is None or not -rank <= axis < rank:
            return None
        if node.attributes.get("coerce") and axis % rank != rank - 1:
            return None
        return op, {"dim": axis % rank}

    return plain


def _flatten(b: _Builder, node: _Node) -> Plain:
    rank = b.rank(node.inputs[0])
    return (
        ("flatten", {}) if rank is not None and rank >= 2 and node.attributes.get("axis", 1) in (1, 1 - rank) else None
    )


def _as(op: str, **renamed: tuple[str, Any]) -> Callable[[_Builder, _Node], Plain]:
    def plain(b: _Builder, node: _Node) -> Plain:
        rank = b.rank(node.inputs[0])
        if rank is not None and not rank:
            return None
        return op, {ours: node.attributes.get(theirs, default) for theirs, (ours, default) in renamed.items()}

    return plain


PLAIN: dict[str, Callable[[_Builder, _Node], Plain]] = {
    "Relu": _as("relu"),
    "LeakyRelu": _as("leaky_relu", alpha=("negative_slope", 0.01)),
    "Elu": _as("elu", alpha=("alpha", 1.0)),
    "Sigmoid": _as("sigmoid"),
    "Tanh": _as("tanh"),
    "HardSwish": _as("hardswish"),
    "Gelu": _as("gelu", approximate=("approximate", "none")),
    "MaxPool": _pool("max"),
    "AveragePool": _pool("avg"),
    "LpPool": _pool("lp"),
    "GlobalAveragePool": _global("avg"),
    "GlobalMaxPool": _global("max"),
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "Flatten": _flatten,
}
