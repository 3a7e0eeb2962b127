"""A model's graph, checked: names are held against each other, each node is brought to the form of the newest operator
set, and constants are followed without being made. `building` makes a Graph of it.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.errors import FormatError, ShapeError, nearest
from fastconv.machine.memory import require
from fastconv.onnx import package, tensors
from fastconv.operators import TABLE

__all__ = ["SUFFIXES", "Constant", "Node", "Reader", "line_of", "refusals", "small_array", "within"]

OLDEST = 6
MOST_NODES = 200_000
FOLDED = 1 << 16  # elements of a constant that is computed here
WEIGHTS = {  # inputs that are parameters where they are float constants
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "LayerNormalization": (1, 2), "PRelu": (1,),
}  # fmt: skip
SUFFIXES = ("weight", "bias", "running_mean", "running_var")
COUNTED = ("BatchNormalization", "LayerNormalization", "MaxPool", "Split", "SoftmaxCrossEntropyLoss", "Dropout")
VIEWS = ("Identity", "Reshape", "Unsqueeze", "Transpose", "Squeeze")  # through which a constant is still a parameter
CONTROL = ("If", "Loop", "Scan")


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """Whatever is wrong with a file is one line that begins with its name."""
    try:
        yield
    except FormatError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{name}: {line_of(error)}") from None
    except TypeError as error:
        if str(error).startswith("onnx.load:"):
            raise
        raise FormatError(f"{name}: {line_of(error)}") from None
    except (ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, UnicodeError) as error:
        raise FormatError(f"{name}: {line_of(error)}") from None


def line_of(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


# --- nodes ------------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A node in the form of the newest operator set."""

    name: str  # its own, or its first output's
    op: str
    inputs: list[str]  # "" where one is left out
    outputs: list[str]
    attributes: dict[str, Any]
    version: int

    def has(self, place: int) -> bool:
        """Whether there is an input at this place."""
        return place < len(self.inputs) and bool(self.inputs[place])

    @property
    def where(self) -> str:
        return f"node {self.name[:80]!r} ({self.op[:40]})"


@dataclass
class Constant:
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


def modern(node: Node) -> None:
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


class Reader:
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
        self.constants: dict[str, Constant] = {}
        self.view_nodes: dict[str, Node] = {}  # by the constant that they give
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
        within(f"initialiser {name[:80]!r}", tensors.need_whole, tensor, self.external)
        dtype, shape = _as_float32(tensors.type_name(tensor.data_type)), tensors.shape_of(tensor)
        self.constants[name] = Constant(name, shape, dtype, lambda: tensors.to_array(tensor, self.external))

    def _input(self, value: Any) -> None:
        name = value.name
        if name in self.constants:
            return
        if not name or name in self.inputs:
            raise ValueError(f"input {name[:80]!r} has no name, or one that is there twice")
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"input {name[:80]!r} is no tensor")
        kind = value.type.tensor_type
        self.inputs[name] = _as_float32(within(f"input {name[:80]!r}", tensors.type_name, kind.elem_type))
        self.shapes[name] = (
            tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in kind.shape.dim)
            if kind.HasField("shape")
            else None
        )

    def _node(self, node: Any) -> Node:
        outputs = list(node.output)
        first = next((name for name in outputs if name), "")
        found = Node(node.name or first, node.op_type, list(node.input), outputs, {}, self.version)
        if node.op_type in CONTROL:
            raise ValueError(f"{found.where}: control flow is not served")
        if node.domain not in ("", "ai.onnx") or (node.op_type not in TABLE and node.op_type != "Constant"):
            domain = f" of domain {node.domain[:40]!r}" if node.domain else ""
            raise ValueError(f"{found.where}: is no operator{domain} that is served{nearest(node.op_type[:80], TABLE)}")
        if not first:
            raise ValueError(f"{found.where}: has no output")
        found.attributes = _attributes(node, found.where)
        within(found.where, modern, found)
        if found.op != "Constant":
            within(found.where, _need_attributes, found)
        return found

    def _sorted(self, nodes: list[Node]) -> list[Node]:
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
            constant = within(node.where, self._constant_of, node)
            if constant is None:
                kept.append(node)
            else:
                self.constants[node.outputs[0]] = constant
                self.view_nodes[node.outputs[0]] = node
        self.nodes = kept

    def _constant_of(self, node: Node) -> Constant | None:
        sources = [self.constants.get(name) for name in node.inputs if name]
        if node.op == "Constant":
            return self._written(node)
        if not sources or None in sources:
            return None
        given = [source for source in sources if source is not None]
        if node.op == "ConstantOfShape":
            shape = tuple(small_array(given[0]).reshape(-1).tolist())
            if any(n < 0 for n in shape) or len(shape) > tensors.MOST_AXES:
                raise ValueError(f"a shape has no negative lengths, got {shape}")
            value, dtype = node.attributes["value"], node.attributes["to"]
            require("ConstantOfShape", math.prod(shape) * np.dtype(dtype).itemsize)
            return Constant(node.outputs[0], shape, dtype, lambda: np.full(shape, value, dtype))
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
        return Constant(node.outputs[0], result.shape, result.dtype.name, lambda: result)

    def _written(self, node: Node) -> Constant:
        if len(node.attributes) != 1:
            raise ValueError("a Constant has one attribute")
        ((name, value),) = node.attributes.items()
        root = node.outputs[0]
        if name == "value":
            tensors.need_whole(value, self.external)
            dtype = _as_float32(tensors.type_name(value.data_type))
            return Constant(root, tensors.shape_of(value), dtype, lambda: tensors.to_array(value, self.external))
        types = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
        if name not in types:
            raise ValueError(f"a Constant with {name[:40]!r} is not served")
        array = np.array(value, types[name])
        return Constant(root, array.shape, array.dtype.name, lambda: array)

    def _view(self, node: Node, source: Constant, rest: list[Constant]) -> Constant:
        """The same numbers in another shape, found from a stand-in that has no memory."""
        stand_in = np.broadcast_to(np.zeros((), source.dtype), source.shape)
        options = dict(node.attributes)
        arguments = [small_array(each) for each in rest]
        forward = TABLE[node.op].forward
        if node.op == "Reshape":
            shape = _reshaped_shape(source.shape, arguments[0], options.get("allowzero", 0))
        else:
            shape = np.shape(forward(stand_in, *arguments, **options)[0])
        changed = node.op != "Identity"

        def make() -> np.ndarray:
            return np.asarray(forward(source.make(), *arguments, **options)[0])

        return Constant(source.root, tuple(shape), source.dtype, make, source.turned or changed)

    def _computed(self, node: Node, values: dict[str, np.ndarray]) -> np.ndarray:
        arrays = [None if not name else self.constants[name].make() for name in node.inputs]
        return np.asarray(TABLE[node.op].forward(*arrays, **node.attributes)[0])

    def settle(self) -> None:
        """Follow the constants, and count who reads what."""
        self._fold()
        self.readers = Counter(name for node in self.nodes for name in node.inputs)
        self.readers.update(self.outputs)
        self.uses = Counter(
            self.constants[name].root for node in self.nodes for name in node.inputs if name in self.constants
        )
        self.trained = self._trained()

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


def within(where: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result; what it refuses names the node."""
    try:
        return function(*arguments)
    except MemoryError as error:
        raise MemoryError(f"{where}: {error}") from None
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, UnicodeError) as error:
        text = line_of(error)
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None


def _need_attributes(node: Node) -> None:
    parameters = inspect.signature(TABLE[node.op].forward).parameters
    for name in node.attributes:
        if name not in parameters:
            raise ValueError(f"its attribute {name[:80]!r} is unknown")
    named = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.POSITIONAL_ONLY]
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters.values()) and len(node.inputs) > len(named):
        raise ValueError(f"has {len(node.inputs)} inputs, {len(named)} at most are served")
    missing = [
        p.name for place, p in enumerate(named)
        if p.default is p.empty and p.name not in node.attributes and not node.has(place)
    ]  # fmt: skip
    missing += [
        p.name for p in parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in node.attributes
    ]  # fmt: skip
    if missing or (not node.inputs and not missing and node.op != "Constant"):
        raise ValueError(f"{missing[0] if missing else 'an input'} is missing")


def small_array(constant: Constant) -> np.ndarray:
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
