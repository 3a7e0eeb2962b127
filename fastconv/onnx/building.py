"""The layers and operations of a checked ONNX graph: a Graph.

Nodes become layers where their weights are constants, and operations elsewhere. Arrays are made last: what is refused
has cost nothing.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import layers
from fastconv.errors import ShapeError
from fastconv.files import open_regular
from fastconv.layers import Graph, Layer, Values
from fastconv.machine.memory import require
from fastconv.onnx import package, tensors
from fastconv.onnx.reading import SUFFIXES, Constant, Node, Reader, line_of, refusals, small_array, within
from fastconv.onnx.wire import need_modest
from fastconv.operators import TABLE, windows

__all__ = ["read"]

SETTINGS = {  # inputs that are no values of a net: where they are constants, they become options
    "Reshape": (1,), "Expand": (1,), "Tile": (1, 2), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,),
    "Slice": (1, 2, 3, 4), "Pad": (1, 3), "Resize": (1, 2, 3), "MaxUnpool": (2,), "ConstantOfShape": (0,),
    "Dropout": (1, 2), **{name: (1,) for name in TABLE if name.startswith("Reduce")},
}  # fmt: skip

OTHERS = {  # who reads files that are called so
    **dict.fromkeys((".pt", ".pth", ".npz"), "weights: fastconv.load_weights(path)"),
    ".safetensors": "a net of fastconv's: fastconv.load(path), weights alone: fastconv.load_weights(path)",
}


def read(source: Any, *, trainable: bool, outputs: Any) -> Graph:
    onnx = package()
    name, path = "the model", None
    if isinstance(source, str | os.PathLike):
        name, path = os.fspath(source), Path(source)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            with refusals(name):
                require("reading", 2 * size)
            source = file.read()
    with refusals(name):
        if isinstance(source, bytes | bytearray | memoryview):
            model = onnx.ModelProto()
            source = bytes(source)
            need_modest(source)
            try:
                model.ParseFromString(source)
            except Exception as error:  # protobuf's own kinds of errors, by implementation
                hint = f"; {OTHERS[path.suffix.lower()]}" if path and path.suffix.lower() in OTHERS else ""
                raise ValueError(f"is no ONNX file: {line_of(error)}{hint}") from None
        elif isinstance(source, onnx.ModelProto):
            model = source
        else:
            raise TypeError(f"onnx.load: a model is a path, bytes or a ModelProto, got {type(source).__name__}")
        if isinstance(outputs, str):
            outputs = (outputs,)
        reader = Reader(model, path, outputs)
        reader.settle()
        return _Builder(reader, trainable).build()


class _Nothing(np.random.Generator):
    """Draws zeros: weights that a file has come in their place."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return np.broadcast_to(0.0, size or ())  # nobody waits for memory to be cleared that is not kept


class _Builder:
    """The nodes of a Graph, made of a reader's."""

    def __init__(self, reader: Reader, trainable: bool) -> None:
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
                within(node.where, self._add, node)
        outputs = {}
        for name in r.outputs:
            if name in self.of_value and self.of_value[name] in self.nodes:
                outputs[name] = self.of_value[name]
                continue
            copy = self._unique(f"{name}/output" if name in self.taken else name)  # an input, or a constant
            source = self._array(name, copy, "value") if name in r.constants else self.of_value[name]
            self.nodes[copy] = ("Identity", source)
            outputs[name] = copy
        kinds: dict[str, Any] = {name: "float" if kind == r.float_type else kind for name, kind in r.inputs.items()}
        for name, shape in r.shapes.items():
            if shape is not None:
                kinds[name] = (kinds[name], (None, *shape[1:]) if r.batch is not None else shape)
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

    def _add(self, node: Node) -> None:
        self._note_kinds(node)
        make = LAYERS.get(node.op)
        made = make(self, node) if make is not None else None
        if made is None:
            made = self._plain(node)
        if made is None:
            self._operation(node)

    def constants(self, node: Node, *places: int) -> list[Constant | None] | None:
        """The constants at these inputs (None: left out) if all are constants that this node alone reads."""
        found: list[Constant | None] = []
        for place in places:
            name = node.inputs[place] if place < len(node.inputs) else ""
            constant = self.reader.constants.get(name)
            if name and (constant is None or self.reader.uses[constant.root] != 1 or not constant.is_float):
                return None
            found.append(constant if name else None)
        return found

    def weights(self, node: Node) -> tuple[Constant, Constant | None] | None:
        """A weight at input 1, and a bias at input 2 if there is one; None where one is no constant of its own."""
        found = self.constants(node, 1, 2)
        return None if found is None or found[0] is None else (found[0], found[1])

    def weight(self, node: Node) -> Constant | None:
        """A weight at input 1."""
        found = self.constants(node, 1)
        return None if found is None else found[0]

    def place_layer(
        self, node: Node, layer: Layer, arrays: dict[str, tuple[Constant | None, Any]], *, name: str | None = None
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

    def _prefix(self, constants: dict[str, Constant]) -> Any:
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

    def _operation(self, node: Node) -> None:
        options = dict(node.attributes)
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

    def _name_outputs(self, node: Node, called: str) -> None:
        if "outputs" not in node.attributes:
            self.of_value[node.outputs[0]] = called
            return
        for index, name in enumerate(node.outputs):
            if name and self.reader.readers[name]:
                item = self._unique(name)
                self.nodes[item] = ("item", called, {"index": index})
                self.of_value[name] = item

    def _setting(self, node: Node, place: int, constant: Constant) -> Any:
        values = small_array(constant)
        found: Any = values.reshape(-1).tolist() if values.ndim else values.item()
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

    def _own_name(self, constant: Constant) -> tuple[str | None, str]:
        """Of an initialiser called as PyTorch calls it the parts of its name, where no node has them."""
        prefix, _, last = constant.root.rpartition(".")
        free = prefix in self.leaves or (prefix not in self.nodes and prefix not in self.taken)
        return (prefix if prefix and last in SUFFIXES and free else None), last

    def _own(self, reader: str) -> set[str]:
        return self.owned.setdefault(reader, set())

    def _viewed(self, name: str, constant: Constant, root: str) -> str:
        """The node that gives a constant as it is read: of one that was turned on the way the views are nodes."""
        if not constant.turned:
            return root
        if name not in self.of_value:
            node = self.views[name]
            source = self._viewed(node.inputs[0], self.reader.constants[node.inputs[0]], root)
            parameters = list(inspect.signature(TABLE[node.op].forward).parameters)[1:]
            rest = (tuple(small_array(self.reader.constants[each]).reshape(-1).tolist()) for each in node.inputs[1:])
            options = node.attributes | dict(zip(parameters, rest, strict=False))
            called = self._unique(node.name)
            self.nodes[called] = (node.op, source, options) if options else (node.op, source)
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

    def _note_kinds(self, node: Node) -> None:
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

    def _plain(self, node: Node) -> bool | None:
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
    def views(self) -> dict[str, Node]:
        return self.reader.view_nodes


def _first_rank(b: _Builder, node: Node) -> int | None:
    return b.rank(node.inputs[0]) if node.inputs and node.inputs[0] else None


def _widest_rank(b: _Builder, node: Node) -> int | None:
    ranks = [b.rank(name) for name in node.inputs if name]
    return None if None in ranks else max(ranks)  # type: ignore[type-var]


def _unknown_rank(b: _Builder, node: Node) -> int | None:
    return None


def _length_of(place: int) -> Callable[..., int | None]:
    def rank(b: _Builder, node: Node) -> int | None:
        constant = b.reader.constants.get(node.inputs[place]) if place < len(node.inputs) else None
        return constant.size if constant is not None else None

    return rank


def _axes_count(b: _Builder, node: Node) -> int | None:
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1] in b.reader.constants:
        return b.reader.constants[node.inputs[1]].size
    return None if axes is None else len(axes)


def _unsqueezed(b: _Builder, node: Node) -> int | None:
    rank, count = _first_rank(b, node), _axes_count(b, node)
    return None if rank is None or count is None else rank + count


def _squeezed(b: _Builder, node: Node) -> int | None:
    rank, count = _first_rank(b, node), _axes_count(b, node)
    return None if rank is None or count is None else rank - count


def _reduced(b: _Builder, node: Node) -> int | None:
    return _first_rank(b, node) if node.attributes.get("keepdims", 1) else None


def _weighted_rank(b: _Builder, node: Node) -> int | None:
    return b.rank(node.inputs[1]) or _first_rank(b, node)


def _expanded(b: _Builder, node: Node) -> int | None:
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


def _conv(b: _Builder, node: Node) -> bool | None:
    found = b.weights(node)
    if found is None or node.inputs[0] in b.reader.constants:
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


def _norm_behind(b: _Builder, node: Node) -> Node | None:
    """The batch norm that alone reads a node, and whose arrays are constants."""
    (name,) = node.outputs[:1]
    if b.reader.readers[name] != 1 or name in b.reader.outputs:
        return None
    norm = next((each for each in b.reader.nodes if name in each.inputs), None)
    if norm is None or norm.op != "BatchNormalization" or norm.attributes.get("training_mode"):
        return None
    arrays = [b.reader.constants.get(each) for each in norm.inputs[1:5]]
    return norm if len(arrays) == 4 and None not in arrays else None


def _as_affine(b: _Builder, norm: Node, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    scale, bias, mean, var = (b.reader.constants[name].make().astype(np.float64) for name in norm.inputs[1:5])
    factor = scale / np.sqrt(var + norm.attributes.get("epsilon", 1e-5))
    return factor, bias - mean * factor


def _conv_transpose(b: _Builder, node: Node) -> bool | None:
    found = b.weights(node)
    if found is None or node.inputs[0] in b.reader.constants:
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
    b: _Builder, node: Node, weight: Constant, transposed: bool, bias: Constant | None, output: str | None = None
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


def _gemm(b: _Builder, node: Node) -> bool | None:
    a, found = node.attributes, b.weights(node)
    plain = a.get("alpha", 1) == 1 and (a.get("beta", 1) == 1 or len(node.inputs) < 3) and not a.get("transA")
    if found is None or not plain or len(found[0].shape) != 2:
        return None
    if node.inputs[0] in b.reader.constants or not b.is_float(node.inputs[0]):
        return None
    return _linear(b, node, found[0], bool(a.get("transB")), found[1])


def _matmul(b: _Builder, node: Node) -> bool | None:
    """With the Add behind it, where that adds a bias."""
    weight = b.weight(node)
    if weight is None or len(weight.shape) != 2 or node.inputs[0] in b.reader.constants:
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
            if constant is not None and constant.shape == weight.shape[1:] and b.reader.uses[constant.root] == 1:
                bias = constant if constant.is_float and constant.size > 1 else None
    done = _linear(b, node, weight, False, bias, behind.outputs[0] if bias is not None and behind is not None else None)
    if done and bias is not None and behind is not None:
        b._note_kinds(behind)
        b.done.add(id(behind))
    return done


def _batch_norm(b: _Builder, node: Node) -> bool | None:
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


def _norm(b: _Builder, node: Node, make: Callable[[int, Any], Layer | None]) -> bool | None:
    """Instance, group and layer norm: weight and bias are constants of one shape."""
    found = b.weights(node)
    if found is None or not b.is_float(node.inputs[0]):
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


def _instance_norm(b: _Builder, node: Node) -> bool | None:
    if b.rank(node.inputs[0]) != 4:
        return None
    eps = node.attributes.get("epsilon", 1e-5)
    return _norm(b, node, lambda c, shape: layers.InstanceNorm2d(c, eps=eps, affine=True) if len(shape) == 1 else None)


def _group_norm(b: _Builder, node: Node) -> bool | None:
    """Before version 21 scale and bias have an entry a group."""
    groups, eps = node.attributes.get("num_groups", 1), node.attributes.get("epsilon", 1e-5)
    rank = b.rank(node.inputs[0])
    if node.version < 21 or rank is None or rank < 3:
        return None
    return _norm(b, node, lambda c, shape: layers.GroupNorm(groups, c, eps=eps))


def _layer_norm(b: _Builder, node: Node) -> bool | None:
    axis, eps, rank = node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5), b.rank(node.inputs[0])
    if any(name and b.reader.readers[name] for name in node.outputs[1:]):
        return None
    last = -axis if axis < 0 else (rank or 0) - axis

    def make(size: int, shape: Any) -> Layer | None:
        if len(shape) != last or 0 in shape:
            return None
        return layers.LayerNorm(shape, eps=eps, bias=len(node.inputs) > 2)

    return _norm(b, node, make)


def _prelu(b: _Builder, node: Node) -> bool | None:
    """A slope a channel, or one for all."""
    slope, rank = b.weight(node), b.rank(node.inputs[0])
    old = node.version < 7
    if slope is None or not b.is_float(node.inputs[0]):
        return None
    channelwise = rank is not None and len(slope.shape) == rank - 1 and slope.size == slope.shape[0]
    if slope.size != 1 and not (channelwise or (old and len(slope.shape) == 1)):
        return None
    if not slope.size or (rank is None and slope.size == 1 and len(slope.shape) > 1):
        return None
    return b.place_layer(node, layers.PReLU(slope.size), {"weight": (slope, slope.make().reshape(-1))}) or None


def _concat(b: _Builder, node: Node) -> bool | None:
    """Along the channels it is a join."""
    ranks = [b.rank(name) or 0 for name in node.inputs]
    if min(ranks) < 2 or any(name in b.reader.constants for name in node.inputs) or len(node.inputs) < 2:
        return None
    if node.attributes["axis"] not in (1, 1 - ranks[0]):
        return None
    called = b._unique(node.name)
    b.nodes[called] = ("concat", *(b.of_value[name] for name in node.inputs))
    b.of_value[node.outputs[0]] = called
    return True


def _dropout(b: _Builder, node: Node) -> bool | None:
    """In training random, whatever the file says of its mode."""
    if any(name and b.reader.readers[name] for name in node.outputs[1:]):
        return None
    ratio: Any = node.attributes.get("ratio", 0.5)
    if len(node.inputs) > 1 and node.inputs[1]:
        constant = b.reader.constants.get(node.inputs[1])
        if constant is None:
            return None
        value = small_array(constant)
        ratio = value.reshape(-1)[0].item() if value.size == 1 else 2
        ratio = tensors.shortest(ratio) if value.dtype == np.float32 else ratio
    if len(node.inputs) > 2 and node.inputs[2] and node.inputs[2] not in b.reader.constants:
        return None
    if not 0 <= ratio <= 1:
        raise ValueError(f"its ratio must lie between 0 and 1, got {ratio}")
    return b.place_layer(node, layers.Dropout(ratio), {}) or None


def _identity(b: _Builder, node: Node) -> bool | None:
    if node.inputs[0] in b.reader.constants or not b.is_float(node.inputs[0]):
        return None
    return b.place_layer(node, layers.Identity(), {}) or None


def _blocks(cls: type[Layer]) -> Callable[[_Builder, Node], bool | None]:
    """Where the places of a block stand behind their channel, as PyTorch has it."""

    def place(b: _Builder, node: Node) -> bool | None:
        if node.attributes.get("mode") != "CRD" or node.inputs[0] in b.reader.constants:
            return None
        return (b.is_float(node.inputs[0]) and b.place_layer(node, cls(node.attributes["blocksize"]), {})) or None

    return place


def _reshape(b: _Builder, node: Node) -> bool | None:
    """A layer where the first axis is the first again, and the others' lengths are said."""
    shape = b.reader.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if shape is None or node.inputs[0] in b.reader.constants or not b.is_float(node.inputs[0]):
        return None
    lengths: tuple[int, ...] = b._setting(node, 1, shape) or (-1,)
    first, others = lengths[0], lengths[1:]
    if first or node.attributes.get("allowzero") or any(n < 1 and n != -1 for n in others) or others.count(-1) > 1:
        return None
    return b.place_layer(node, layers.Reshape(others), {}) or None


LAYERS: dict[str, Callable[[_Builder, Node], bool | None]] = {
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
    "Identity": _identity,
    "Reshape": _reshape,
    "DepthToSpace": _blocks(layers.PixelShuffle),
    "SpaceToDepth": _blocks(layers.PixelUnshuffle),
}

# --- operations -------------------------------------------------------------------------------------------------------

Plain = tuple[str, dict[str, Any]] | None


def _pool(kind: str) -> Callable[[_Builder, Node], Plain]:
    def plain(b: _Builder, node: Node) -> Plain:
        a = node.attributes
        kernel = tuple(a["kernel_shape"])
        axes = len(kernel)
        if not 1 <= axes <= 3 or a.get("outputs", 1) > 1 or a.get("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
            return None
        pads = windows._pads(None if a.get("auto_pad") == "VALID" else a.get("pads"), axes)
        dilation = tuple(a.get("dilations", (1,) * axes))
        if any(not min(pair) >= 0 or max(pair) > k // 2 for pair, k in zip(pads, kernel, strict=True)):
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


def _global(kind: str) -> Callable[[_Builder, Node], Plain]:
    def plain(b: _Builder, node: Node) -> Plain:
        rank = b.rank(node.inputs[0])
        return (f"adaptive_{kind}_pool{rank - 2}d", {"output_size": 1}) if rank in (3, 4, 5) else None

    return plain


def _softmax(op: str) -> Callable[[_Builder, Node], Plain]:
    def plain(b: _Builder, node: Node) -> Plain:
        rank, axis = b.rank(node.inputs[0]), node.attributes.get("axis", -1)
        if rank is None or not -rank <= axis < rank:
            return None
        if node.attributes.get("coerce") and axis % rank != rank - 1:
            return None
        return op, {"dim": axis % rank}

    return plain


def _flatten(b: _Builder, node: Node) -> Plain:
    rank = b.rank(node.inputs[0])
    return (
        ("flatten", {}) if rank is not None and rank >= 2 and node.attributes.get("axis", 1) in (1, 1 - rank) else None
    )


def _as(op: str, **renamed: tuple[str, Any]) -> Callable[[_Builder, Node], Plain]:
    def plain(b: _Builder, node: Node) -> Plain:
        rank = b.rank(node.inputs[0])
        if rank is not None and not rank:
            return None
        return op, {ours: node.attributes.get(theirs, default) for theirs, (ours, default) in renamed.items()}

    return plain


PLAIN: dict[str, Callable[[_Builder, Node], Plain]] = {
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
