"""A net as an ONNX file.

The net is followed through its own containers (`Layer.flow`); each layer is written by the operation that it is, so
that a layer, a `Function` and a graph's node of one operation share a rule. What the operator set has not is written in
older operators; what nothing says is refused with the layer's name. The package's checker has the last word.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.arrays import FLOATS
from fastconv.errors import ShapeError, integer
from fastconv.files import replace_whole
from fastconv.layers import Graph, Layer
from fastconv.layers.base import Context, OpLayer
from fastconv.layers.graph import ITEM, Operation
from fastconv.machine.memory import require_array
from fastconv.onnx import package
from fastconv.operators import TABLE
from fastconv.ops.reshape import lengths
from fastconv.plan.steps import Held
from fastconv.version import __version__
from fastconv.window import integers, pairs

__all__ = ["write"]

OLDEST = 13
IR = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}  # the format's version when a set was released
END = np.iinfo(np.int64).max
SMALL = 64  # numbers of a constant that may say a shape
RESHAPING = ("flatten", "reshape", "unflatten", "pixel_shuffle", "pixel_unshuffle", "layer_norm")  # weights behind one
# tell nothing of the input
OTHERS = (".npz", ".pt", ".pth", ".safetensors")  # names of other formats, which the file would not have


def write(
    net: Layer, path: str | os.PathLike[str], input_shape: Any, *, opset: int = 17, training: bool = False
) -> None:
    """See `fastconv.onnx.save`."""
    if (suffix := Path(path).suffix.lower()) in OTHERS:
        raise ValueError(f"onnx.save: the file is ONNX, its name must not end in {suffix}; write NAME.onnx")
    model = _Writer(net, integer("onnx.save", "opset", opset), bool(training)).model(input_shape)
    onnx = package()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"onnx.save: the checker refuses the file: {' '.join(str(error).split())[:300]}") from None
    data = model.SerializeToString()
    replace_whole(path, lambda file: file.write(data))


@functools.cache
def _history(op: str) -> list[Any]:
    """An operator in every version, the oldest first."""
    schemas = package().defs.get_all_schemas_with_history()
    return sorted((s for s in schemas if s.name == op and s.domain == ""), key=lambda s: int(s.since_version))


@dataclass(frozen=True)
class _Value:
    """What flows: its name in the file, what it is for no images, its rank (None: not known) and its type."""

    name: str
    array: Any = None
    rank: int | None = None
    kind: str = "float"

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.array is None or isinstance(self.array, tuple) else self.array.shape


@dataclass
class _Layer:
    """The layer that is being written."""

    name: str
    kind: str
    outputs: int = 1

    @property
    def where(self) -> str:
        return f"onnx.save: layer {self.name!r} ({self.kind})" if self.name else f"onnx.save: {self.kind}"


class _Writer:
    """A net on its way into a file."""

    def __init__(self, net: Layer, opset: int, training: bool) -> None:
        self.onnx = package()
        newest = self.onnx.defs.onnx_opset_version()
        if not isinstance(net, Layer):
            raise TypeError(f"onnx.save: net must be a layer or a net, got {net!r}")
        if not OLDEST <= opset <= newest:
            raise ValueError(f"onnx.save: opset must lie between {OLDEST} and {newest}, got {opset}")
        self.net, self.opset, self.training = net, opset, training
        arrays = (getattr(layer, attribute) for _, layer, attribute in net.named_arrays())
        floats = (array.dtype for array in arrays if array.dtype in FLOATS)
        self.dtype = np.dtype(net.dtype or next(floats, np.float32))
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.names: set[str] = set()  # of values
        self.node_names: set[str] = set()
        self.arrays: dict[int, str] = {}  # by identity: the initialiser
        self.keys = {
            id(getattr(layer, attribute)): full for full, layer, attribute in net.named_arrays()
        }  # the names in state_dict
        self.here = _Layer("", type(net).__name__)
        self.context = Context(training=False)

    def model(self, input_shape: Any) -> Any:
        inputs = self._inputs(input_shape)
        values = [each for each, _ in inputs]
        several = isinstance(self.net, Graph) and self.net._several
        names = [self.unique(name) for name in (self.net.outputs if several else ("output",))]  # type: ignore[attr-defined]
        found = self.follow("", self.net, tuple(values) if len(values) != 1 else values[0])
        results = [self.as_value(each) for each in (found if several else (found,))]
        outputs = [self.info(name, value) for name, value in zip(names, results, strict=True)]
        self._name_outputs(dict(zip(names, results, strict=True)))
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, type(self.net).__name__, [info for _, info in inputs], outputs, list(self.initializers.values())
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = min(IR.get(self.opset, model.ir_version), model.ir_version)
        model.producer_name, model.producer_version = "fastconv", __version__
        self._need_shapes(model)
        return model

    def _need_shapes(self, model: Any) -> None:
        """Of outputs whose shape the nodes alone do not tell the shape that the whole model does."""
        unknown = [i for i, info in enumerate(model.graph.output) if not info.type.tensor_type.HasField("shape")]
        if not unknown:
            return
        told = self.onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
        for i in unknown:
            if not told[i].type.tensor_type.HasField("shape"):
                name = told[i].name
                raise ShapeError(f"onnx.save: the shape of output {name} is not known; give input_shape=(N, C, …)")
            model.graph.output[i].CopyFrom(told[i])

    def _name_outputs(self, outputs: Mapping[str, _Value]) -> None:
        """Have the nodes that make the net's outputs call them so; an Identity stands for what no node makes, or makes
        for two outputs."""
        made = {name for node in self.nodes for name in node.output}
        renamed: dict[str, str] = {}
        for called, value in outputs.items():
            if value.name in made and value.name not in renamed:
                renamed[value.name] = called
            else:
                node = self.unique(called, self.node_names)
                self.nodes.append(self.onnx.helper.make_node("Identity", [value.name], [called], name=node))
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]

    def info(self, name: str, value: _Value) -> Any:
        """What the file says of an input or an output: the first axis is the batch where it has no length."""
        shape: Sequence[Any] | None = value.shape
        if shape is None and value.rank is not None:
            shape = (0, *(f"{name}_{axis}" for axis in range(1, value.rank)))[: value.rank]
        if shape is not None:
            shape = ["N" if not axis and not n else n for axis, n in enumerate(shape)]
        return self.onnx.helper.make_tensor_value_info(name, self.type_of(value), shape)

    def kind_of(self, dtype: np.dtype) -> str:
        return "float" if dtype == self.dtype else dtype.name

    def type_of(self, value: _Value) -> int:
        dtype = self.dtype if value.kind == "float" else np.dtype(value.kind)
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(dtype))

    def _inputs(self, input_shape: Any) -> list[tuple[_Value, Any]]:
        from fastconv.analysis.steps import parse_input_shapes

        kinds: tuple[np.dtype, ...] = (self.dtype,)
        names: tuple[str, ...] = ("input",)
        shapes: list[Any] = [None]
        if isinstance(self.net, Graph):
            kinds, names = self.net.input_types(self.dtype), self.net.inputs
            shapes = list(self.net.input_shapes.values())
        if input_shape is not None:
            given = parse_input_shapes("onnx.save", self.net, input_shape)
            shapes = [(None, *shape[1:]) if shape else () for shape in given]  # the batch stays free
        elif shapes == [None]:
            shapes = [_expected(self.net)]
        found = []
        for name, shape, dtype in zip(names, shapes, kinds, strict=True):
            if shape is None:
                raise ShapeError(
                    "onnx.save: the net does not say what its input looks like; give input_shape=(N, C, …)"
                    + (f", one for each of {', '.join(names)}" if len(names) > 1 else "")
                )
            called = self.unique(name)
            array = None
            if None not in shape[1:]:
                lengths = [n or 0 for n in shape]
                require_array("onnx.save", lengths, dtype.itemsize)
                array = np.zeros(lengths, dtype)
            axes = ["N" if not axis and not n else f"{name}_{axis}" if n is None else n for axis, n in enumerate(shape)]
            tensor_type = int(self.onnx.helper.np_dtype_to_tensor_dtype(dtype))
            info = self.onnx.helper.make_tensor_value_info(called, tensor_type, axes)
            found.append((_Value(called, array, len(shape), self.kind_of(dtype)), info))
        return found

    def unique(self, name: str, among: set[str] | None = None) -> str:
        """The name, or one like it that no value has (or none `among` others)."""
        known = self.names if among is None else among
        found, count = name, 1
        while found in known:
            count += 1
            found = f"{name}_{count}"
        known.add(found)
        return found

    # --- following the net

    def follow(self, prefix: str, layer: Layer, value: Any) -> Any:
        def inside(name: str) -> str:
            return f"{prefix}.{name}" if prefix and name else prefix or name

        def apply(name: str, child: Layer, x: Any) -> Any:
            if isinstance(child, Operation):
                return self.operation(inside(name), child, x)
            if child is layer:
                return self.layer(prefix, layer, x)
            return self.follow(inside(name), child, x)

        def join(name: str, how: str, values: list[Any]) -> Any:
            outer, self.here = self.here, _Layer(inside(name), how)
            values = [self.as_value(each) for each in values]
            if how == "concat":
                y = self.emit("Concat", values, {"axis": 1})
            elif how == "add" and len(values) != 2:
                y = self.emit("Sum", values)
            else:
                y = values[0]
                for each in values[1:]:
                    y = self.emit({"add": "Add", "mul": "Mul"}[how], [y, each])
            shapes = [each.shape for each in values]
            if None not in shapes:
                from fastconv.analysis.steps import JOIN

                y = self.known(y, JOIN[how](how, [each.array for each in values]))
            self.here = outer
            return y

        return layer.flow(value, apply, join)

    def layer(self, name: str, layer: Layer, x: Any) -> _Value:
        outer, self.here = self.here, _Layer(name, type(layer).__name__)
        x = self.as_value(x)
        if isinstance(layer, OpLayer):
            arrays = [getattr(layer, attribute) for attribute in layer.positional]
            rule = RULES.get(layer.op)
            if rule is None:
                raise ValueError(f"{self.here.where} has no ONNX operators")
            if layer.op == "dropout" and type(layer).__name__ == "Dropout2d":
                y = _dropout2d(self, x, layer.options(self.context)["p"])
            else:
                y = rule(self, x, *arrays, **_of_layer(layer, self.context))
        else:
            special = SPECIAL.get(type(layer).__name__)
            if special is None:
                raise ValueError(f"{self.here.where} has no ONNX operators")
            y = special(self, x, layer)
        if x.array is not None:
            y = self.known(y, layer.forward(x.array, self.context)[0])
        self.here = outer
        return y

    def operation(self, name: str, operation: Operation, x: Any) -> Any:
        outer, self.here = self.here, _Layer(name, operation.name)
        arrays = [each.array if isinstance(each, Held) else each for each in x]
        if operation.name == ITEM:
            self.here = outer
            return arrays[0][operation.given["index"]]
        rule = RULES.get(operation.name)
        if operation.operation is not None and operation.name not in TABLE and rule is not None:
            y: Any = rule(self, self.as_value(arrays[0]), *arrays[1:], **_of_function(operation))
        else:
            y = self.direct(operation, arrays)
        known = [getattr(each, "array", each) for each in arrays]
        if all(each is not None or arrays[i] is None for i, each in enumerate(known)):
            try:
                result = operation.named_forward(name, known, self.context, self.dtype)[0]
            except ShapeError:  # what no images, or zeros for values, do not show: the checker has the last word
                pass
            else:
                several = isinstance(y, tuple)
                y = tuple(map(self.known, y, result)) if several else self.known(y, result)
        self.here = outer
        return y

    def known(self, value: _Value, array: Any) -> _Value:
        return _Value(value.name, array, array.ndim, self.kind_of(array.dtype))

    def as_value(self, x: Any) -> _Value:
        """A value, or an array of the net's as one."""
        if isinstance(x, _Value):
            return x
        x = x.array if isinstance(x, Held) else x
        array = np.asarray(x)
        return self.known(_Value(self.array(array)), array)

    # --- what is written

    def array(self, array: np.ndarray, name: str = "") -> str:
        """An initialiser: of an array of the net's by its name in state_dict, once."""
        found = self.arrays.get(id(array))
        if found is None:
            key = self.keys.get(id(array))
            called = self.unique(key or f"{self.here.name}.{name or 'constant'}".lstrip("."))
            plain = np.ascontiguousarray(array).reshape(np.shape(array))
            self.initializers[called] = self.onnx.numpy_helper.from_array(plain, called)
            found = called
            if key is not None:
                self.arrays[id(array)] = called
        return found

    def number(self, value: float, name: str = "constant") -> str:
        return self.array(np.array(value, self.dtype), name)

    def ints(self, values: Sequence[int], name: str = "constant") -> str:
        return self.array(np.array(values, np.int64), name)

    def emit(
        self, op: str, inputs: Sequence[Any], attributes: Mapping[str, Any] | None = None, rank: int | None = None
    ) -> _Value:
        """A node; its output as a value. ValueError where the operator set has it not."""
        return self.emit_several(op, inputs, attributes, 1, rank)[0]

    def emit_several(
        self, op: str, inputs: Sequence[Any], attributes: Mapping[str, Any] | None, outputs: int,
        rank: int | None = None,
    ) -> tuple[_Value, ...]:  # fmt: skip
        """A node of several outputs. Their types and ranks are what ONNX infers, `rank` where that tells more."""
        given = {key: value for key, value in (attributes or {}).items() if value is not None}
        schema = self._schema(op, given)
        names = [each.name if isinstance(each, _Value) else each or "" for each in inputs]
        while names and not names[-1]:
            names.pop()
        called = self.unique(self.here.name or op, self.node_names)
        made = [self.unique(f"{called}/{op}" + (f"_{i}" if i else "")) for i in range(outputs)]
        node = self.onnx.helper.make_node(op, names, made, name=called, **given)
        self.nodes.append(node)
        return self._inferred(schema, node, {each.name: each for each in inputs if isinstance(each, _Value)}, rank)

    def _inferred(self, schema: Any, node: Any, values: Mapping[str, _Value], rank: int | None) -> tuple[_Value, ...]:
        """A node's outputs."""
        make, types, small = self.onnx.helper.make_tensor_type_proto, {}, {}
        for name in filter(None, node.input):
            held = self.initializers.get(name)
            if held is None:
                value = values[name]
                types[name] = make(self.type_of(value), None if value.rank is None else [None] * value.rank)
            else:
                types[name] = make(held.data_type, held.dims)
                if math.prod(held.dims) <= SMALL:
                    small[name] = held
        sets = [self.onnx.helper.make_opsetid("", self.opset)]
        try:
            told = self.onnx.shape_inference.infer_node_outputs(schema, node, types, small, opset_imports=sets)
        except self.onnx.shape_inference.InferenceError:  # the checker will say what is wrong
            told = {}
        found = []
        for name in node.output:
            ranks, kind = rank, "float"
            if name in told:
                tensor = told[name].tensor_type
                ranks = len(tensor.shape.dim) if tensor.HasField("shape") else rank
                kind = self.kind_of(self.onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            found.append(_Value(name, None, ranks, kind))
        return tuple(found)

    def _schema(self, op: str, attributes: Mapping[str, Any]) -> Any:
        """An operator as the set has it, with these attributes."""
        schemas = _history(op)
        mine = [schema for schema in schemas if schema.since_version <= self.opset]
        for attribute in (None, *attributes):
            if mine and (attribute is None or attribute in mine[-1].attributes):
                continue
            later = [s.since_version for s in schemas if attribute is None or attribute in s.attributes]
            what = op if attribute is None else f"{op}'s {attribute}"
            raise ValueError(f"{self.here.where} needs {what} of operator set {min(later, default='?')}: write opset=…")
        return mine[-1]

    def refuse(self, why: str) -> ValueError:
        return ValueError(f"{self.here.where} {why}")

    def lengths(self, x: _Value, why: str) -> tuple[int, ...]:
        """x's spatial lengths; ShapeError where they are free."""
        if x.shape is None:
            raise ShapeError(f"{self.here.where} needs sizes ({why}); give input_shape=(N, C, …)")
        return x.shape[2:]

    def need_rank(self, x: _Value) -> int:
        if x.rank is None:
            raise ShapeError(f"{self.here.where} needs the number of axes of its input; give input_shape=(N, C, …)")
        return x.rank

    def view(self, array: np.ndarray, axes: Sequence[int]) -> Any:
        """A weight with axes of length 1 put in, in the file too: it stays the weight's own initialiser."""
        return self.emit("Unsqueeze", [self.array(array), self.ints(axes, "axes")]) if axes else self.array(array)

    # --- operators as they are

    def direct(self, operation: Operation, arrays: list[Any]) -> Any:
        """A node of an ONNX operator, in the form that the operator set has."""
        known = operation.operation
        if known is None or TABLE.get(known.name) is not known:
            raise self.refuse("has no ONNX operators")
        op = "Resize" if known.name == "Upsample" else known.name
        a = dict(operation.given)
        outputs = self.here.outputs = a.pop("outputs", 1)
        inputs: list[Any] = [None if each is None else self.as_value(each) for each in arrays]
        for place, name in INPUTS.get(op, {}).items():
            since = SINCE.get((op, name), 0)
            if name in a and self.opset >= since:
                value = a.pop(name)
                inputs += [None] * (place + 1 - len(inputs))
                dtype = np.float32 if name in ("scales", "roi") else self.dtype if name in FLOATING else np.int64
                inputs[place] = self.array(np.array(value, bool if name == "training_mode" else dtype), name)
        if a.pop("broadcast", 0) and a.get("axis") is not None:  # before version 7: where the second's axes begin
            behind = self.need_rank(inputs[0]) - inputs[1].rank - a.pop("axis") % inputs[0].rank
            inputs[1] = self.emit("Unsqueeze", [inputs[1], self.ints([-1 - i for i in range(behind)], "axes")])
        special = DIRECT.get(op)
        if special is not None:
            found = special(self, inputs, a)
            if found is not None:
                return found
        if op == "Cast":
            a["to"] = self.type_of(_Value("", kind=a["to"]))
        elif op == "ConstantOfShape":
            kind = a.pop("to", "float")
            dtype = self.dtype if kind == "float" else np.dtype(kind)
            a["value"] = self.onnx.numpy_helper.from_array(np.array([a.get("value", 0)], dtype))
        elif op == "MeanVarianceNormalization":
            a.setdefault("axes", (0, 2, 3))  # the checker does not know the default
        found = self.emit_several(op, inputs, a, outputs)
        return found if outputs > 1 else found[0]


INPUTS: dict[str, dict[int, str]] = {  # options that the newest operator sets take as inputs
    **{name: {1: "axes"} for name in TABLE if name.startswith("Reduce")},
    "Reshape": {1: "shape"},
    "Expand": {1: "shape"},
    "Tile": {1: "repeats"},
    "Squeeze": {1: "axes"},
    "Unsqueeze": {1: "axes"},
    "Split": {1: "split"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "Pad": {1: "pads", 2: "value", 3: "axes"},
    "Resize": {1: "roi", 2: "scales", 3: "sizes"},
    "MaxUnpool": {2: "output_shape"},
    "ConstantOfShape": {0: "shape"},
    "Clip": {1: "min", 2: "max"},
    "Dropout": {1: "ratio", 2: "training_mode"},
}
FLOATING = ("value", "min", "max", "ratio")
SINCE = {(name, "axes"): 18 for name in TABLE if name.startswith("Reduce") and name != "ReduceSum"}


def _of_layer(layer: OpLayer, context: Context) -> dict[str, Any]:
    options = dict(layer.options(context))
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        options["padding_mode"] = layer.padding_mode  # type: ignore[attr-defined]
    return {name: value for name, value in options.items() if name not in ("algorithm", "rng", "training")}


def _of_function(operation: Operation) -> dict[str, Any]:
    return {name: value for name, value in operation.given.items() if name not in ("algorithm", "rng", "training")}


def _expected(net: Layer) -> tuple[int | None, ...] | None:
    """What the net's first layer with weights says of the input: (N, C, …) with None where it is free."""

    class Found(Exception):
        shape: tuple[int | None, ...] | None = None

    def look(layer: Layer) -> None:
        found = Found()
        weight = getattr(layer, "weight", None)
        op = getattr(layer, "op", "")
        if op.startswith("conv_transpose"):
            found.shape = (None, weight.shape[0], *(None,) * (weight.ndim - 2))  # type: ignore[union-attr]
        elif op.startswith("conv"):
            channels = weight.shape[1] * layer._options["groups"]  # type: ignore[union-attr, attr-defined]
            found.shape = (None, channels, *(None,) * (weight.ndim - 2))  # type: ignore[union-attr]
        elif op == "linear":
            found.shape = (None, weight.shape[1])  # type: ignore[union-attr]
        elif type(layer).__name__ in ("BatchNorm2d", "BatchNorm3d") and layer.running_mean is not None:  # type: ignore[attr-defined]
            found.shape = (None, len(layer.running_mean), *(None,) * (layer.ranks[0] - 2))  # type: ignore[attr-defined]
        elif op in RESHAPING or (not op and type(layer).__name__ not in ("Identity", "Normalize")):
            raise found
        if found.shape is not None:
            raise found

    def follow(layer: Layer, x: Any) -> Any:
        def apply(name: str, child: Layer, value: Any) -> Any:
            if child is layer or isinstance(child, Operation):
                look(child)
                return value
            return follow(child, value)

        return layer.flow(x, apply, lambda name, how, values: values[0])

    try:
        follow(net, None)
    except Found as found:
        return found.shape
    return None


# --- rules by operation -----------------------------------------------------------------------------------------------


def _pads(
    w: _Writer, padding: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> dict[str, Any]:
    """auto_pad, or pads where the lengths of the input do not matter."""
    axes = len(kernel)
    if isinstance(padding, str):
        if padding == "valid":
            return {}
        if set(stride) == {1}:  # the same at any length
            totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
            less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
            return {"pads": [*less, *more] if padding == "same" else [*more, *less]}
        return {"auto_pad": "SAME_UPPER" if padding == "same" else "SAME_LOWER"}
    around = pairs("onnx.save", "padding", padding, axes)
    return {"pads": [before for before, _ in around] + [after for _, after in around]} if any(map(any, around)) else {}


def _conv(
    w: _Writer, x: _Value, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, padding_mode: str = "zeros",
) -> _Value:  # fmt: skip
    kernel = np.shape(weight)[2:] if not isinstance(weight, _Value) else (weight.shape or ())[2:]
    axes = len(kernel)
    if not axes:
        raise w.refuse("needs a weight whose shape is known")
    entries = stride if isinstance(stride, tuple | list) else (stride,) * axes
    ratios = [Fraction(entry) for entry in (entries if len(entries) == axes else tuple(entries) * axes)]
    if any(ratio.denominator > 1 for ratio in ratios):  # zeros between, then a step
        x = _zeros_between(w, x, [ratio.denominator for ratio in ratios], axes)
    steps = [ratio.numerator for ratio in ratios]
    dilations = integers("onnx.save", "dilation", dilation, axes, 1)
    attributes = {"strides": steps, "dilations": dilations, "group": groups, "kernel_shape": kernel}
    border = _pads(w, padding, kernel, steps, dilations)
    if padding_mode != "zeros":
        x, border = _bordered(w, x, _around(w, x, border, kernel, steps, dilations), padding_mode), {}
    attributes |= border
    return w.emit(
        "Conv", [x, w.as_value(weight), None if bias is None else w.as_value(bias)], attributes, rank=axes + 2
    )


def _around(
    w: _Writer, x: _Value, border: Mapping[str, Any], kernel: Sequence[int], steps: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:  # fmt: skip
    """What `_pads` gave as a pair for each axis."""
    axes = len(kernel)
    if "auto_pad" in border:
        spatial = w.lengths(x, "of padding by name they decide")
        totals = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(spatial, steps, kernel, dilations, strict=True)
        ]
        less = [t // 2 for t in totals]
        more = [t - t // 2 for t in totals]
        return list(
            zip(less, more, strict=True) if border["auto_pad"] == "SAME_UPPER" else zip(more, less, strict=True)
        )
    pads = border.get("pads", [0] * 2 * axes)
    return list(zip(pads[:axes], pads[axes:], strict=True))


def _bordered(w: _Writer, x: _Value, around: Sequence[tuple[int, int]], mode: str, value: float = 0.0) -> _Value:
    """x with its border filled."""
    axes = len(around)
    if mode == "circular" and w.opset < 19:  # the other end's lines, axis by axis
        for axis, (before, after) in enumerate(around, 2):
            ends = []
            for start, end, count in ((-before, END, before), (0, after, after)):
                numbers = ([start], [end], [axis])
                ends.append(w.emit("Slice", [x, *(w.ints(each) for each in numbers)]) if count else None)
            parts = [part for part in (ends[0], x, ends[1]) if part is not None]
            x = w.emit("Concat", parts, {"axis": axis}, rank=axes + 2) if len(parts) > 1 else x
        return x
    pads = [0, 0, *(before for before, _ in around), 0, 0, *(after for _, after in around)]
    names = {"constant": "constant", "zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    number = w.number(value, "value") if mode in ("constant", "zeros") else None
    return w.emit("Pad", [x, w.ints(pads, "pads"), number], {"mode": names[mode]})


def _pad(w: _Writer, x: _Value, padding: Any, *, mode: str = "constant", value: float = 0.0) -> _Value:
    return _bordered(w, x, pairs("onnx.save", "padding", padding, w.need_rank(x) - 2), mode, value)


def _step(w: _Writer, x: _Value) -> _Value:
    at_least = w.emit("Not", [w.emit("Less", [x, w.number(0.0)])])
    return w.emit("Cast", [at_least], {"to": w.type_of(x)})


def _conv_transpose(
    w: _Writer, x: _Value, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    output_size: Any = None, dilation: Any = 1, groups: int = 1,
) -> _Value:  # fmt: skip
    kernel = np.shape(weight)[2:] if not isinstance(weight, _Value) else (weight.shape or ())[2:]
    axes = len(kernel)
    if not axes or output_size is not None:
        raise w.refuse("has no ONNX operators with output_size" if axes else "needs a weight whose shape is known")
    attributes = {
        "strides": integers("onnx.save", "stride", stride, axes, 1),
        "dilations": integers("onnx.save", "dilation", dilation, axes, 1),
        "output_padding": integers("onnx.save", "output_padding", output_padding, axes, 0),
        "group": groups, "kernel_shape": kernel,
    }  # fmt: skip
    around = pairs("onnx.save", "padding", padding, axes)
    attributes["pads"] = [before for before, _ in around] + [after for _, after in around]
    inputs = [x, w.as_value(weight), None if bias is None else w.as_value(bias)]
    return w.emit("ConvTranspose", inputs, attributes, rank=axes + 2)


def _zeros_between(
    w: _Writer, x: _Value, factors: Sequence[int], axes: int, output_size: Sequence[int] | None = None
) -> _Value:
    """factor - 1 zeros between neighbours: axes of length 1 are put in and padded, and what is too much is cut off."""
    behind = [3 + 2 * i for i in range(axes)]
    apart = w.emit("Unsqueeze", [x, w.ints(behind, "axes")])
    pads = [0] * (2 + 2 * axes) + [0, 0, *(each for factor in factors for each in (0, factor - 1))]
    apart = w.emit("Pad", [apart, w.ints(pads, "pads"), w.number(0.0, "value")])
    shape = w.emit("Mul", [w.emit("Shape", [x]), w.ints([1, 1, *factors], "factors")])
    joined = w.emit("Reshape", [apart, shape])
    ends = [-(f - 1) if f > 1 else END for f in factors] if output_size is None else list(output_size)
    spatial = list(range(2, 2 + axes))
    return w.emit("Slice", [joined, w.ints([0] * axes), w.ints(ends), w.ints(spatial)], rank=axes + 2)


def _upsample(w: _Writer, x: _Value, *, factor: Any, output_size: Any = None) -> _Value:
    axes = w.need_rank(x) - 2
    factors = integers("onnx.save", "factor", factor, axes, 1)
    return _zeros_between(
        w, x, factors, axes, None if output_size is None else integers("onnx.save", "output_size", output_size, axes, 1)
    )


def _downsample(w: _Writer, x: _Value, *, factor: Any, phase: Any = 0) -> _Value:
    axes = w.need_rank(x) - 2
    starts = integers("onnx.save", "phase", phase, axes, 0)
    steps = integers("onnx.save", "factor", factor, axes, 1)
    numbers = (starts, [END] * axes, range(2, 2 + axes), steps)
    return w.emit("Slice", [x, *(w.ints(list(each)) for each in numbers)])


def _linear(w: _Writer, x: _Value, weight: Any, bias: Any = None) -> _Value:
    if w.need_rank(x) == 2:
        inputs = [x, w.as_value(weight), None if bias is None else w.as_value(bias)]
        return w.emit("Gemm", inputs, {"transB": 1})
    turned = w.emit("Transpose", [w.as_value(weight)], {"perm": [1, 0]})
    y = w.emit("MatMul", [x, turned])
    return y if bias is None else w.emit("Add", [y, w.as_value(bias)])


def _pool(op: str) -> Callable[..., _Value]:
    def rule(
        w: _Writer, x: _Value, *, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, count_include_pad: bool | None = None, norm_type: float | None = None,
        return_indices: bool = False,
    ) -> _Value:  # fmt: skip
        axes = w.need_rank(x) - 2
        kernel = integers("onnx.save", "kernel_size", kernel_size, axes, 1)
        steps = kernel if stride is None else integers("onnx.save", "stride", stride, axes, 1)
        dilations = integers("onnx.save", "dilation", dilation, axes, 1)
        a: dict[str, Any] = {"kernel_shape": kernel, "strides": steps, **_pads(w, padding, kernel, steps, dilations)}
        if return_indices:
            raise w.refuse("has no ONNX operators with return_indices")
        if ceil_mode:
            a["ceil_mode"] = 1
        if max(dilations) > 1:
            a["dilations"] = dilations
        if op == "AveragePool":
            a["count_include_pad"] = 1 if count_include_pad is None or count_include_pad else 0
        if norm_type is not None:
            if norm_type != int(norm_type):
                raise w.refuse(f"has no ONNX operators: LpPool's p is an integer, got {norm_type}")
            a["p"] = int(norm_type)
        return w.emit(op, [x], a)

    return rule


def _adaptive(kind: str) -> Callable[..., _Value]:
    def rule(w: _Writer, x: _Value, output_size: Any = None, *, return_indices: bool = False) -> _Value:
        axes = w.need_rank(x) - 2
        wanted = list(output_size) if isinstance(output_size, tuple | list) else [output_size] * axes
        wanted = wanted * axes if len(wanted) == 1 else wanted
        if return_indices:
            raise w.refuse("has no ONNX operators with return_indices")
        if all(m == 1 for m in wanted):
            return w.emit({"avg": "GlobalAveragePool", "max": "GlobalMaxPool"}[kind], [x])
        spatial = w.lengths(x, "adaptive windows depend on them")
        for axis, (n, m) in enumerate(zip(spatial, wanted, strict=True), 2):
            if m in (None, n):
                continue
            parts = []
            for o in range(m):
                numbers = ([o * n // m], [-(-(o + 1) * n // m)], [axis])
                part = w.emit("Slice", [x, *(w.ints(each) for each in numbers)])
                parts.append(_reduce(w, "ReduceMean" if kind == "avg" else "ReduceMax", part, [axis]))
            x = w.emit("Concat", parts, {"axis": axis}, rank=axes + 2) if len(parts) > 1 else parts[0]
        return x

    return rule


def _reduce(w: _Writer, op: str, x: Any, axes: Sequence[int]) -> _Value:
    """With the axes kept."""
    if w.opset >= 18 or op == "ReduceSum":
        return w.emit(op, [x, w.ints(axes, "axes")], {"keepdims": 1})
    return w.emit(op, [x], {"axes": list(axes), "keepdims": 1})


def _resize(
    w: _Writer, x: _Value, *, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: bool = False
) -> _Value:
    axes = w.need_rank(x) - 2
    coordinates = "asymmetric" if mode == "nearest" else "align_corners" if align_corners else "half_pixel"
    a: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        a["nearest_mode"] = "floor"
    elif mode == "cubic":
        a["cubic_coeff_a"] = -0.75
    if size is None:
        scales = scale if isinstance(scale, tuple | list) else (scale,) * axes
        scales = [float(each) for each in (scales if len(scales) == axes else tuple(scales) * axes)]
        spatial = (None,) * axes if x.shape is None else x.shape[2:]
        whole = all(each == int(each) for each in scales)
        exact = None not in spatial and all(
            math.isclose(math.floor(n * each), n * each, rel_tol=1e-12) for n, each in zip(spatial, scales, strict=True)
        )
        if whole or not (exact or coordinates == "align_corners"):
            found = [_in_single(each, n) for each, n in zip(scales, spatial, strict=True)]
            given = w.array(np.array([1, 1, *found], np.float32), "scales")
            return w.emit("Resize", [x, None, given], a)
        size = tuple(math.floor(n * each) for n, each in zip(w.lengths(x, "its corners do"), scales, strict=True))
    lengths = integers("onnx.save", "size", size, axes, 1)
    front = w.emit("Slice", [w.emit("Shape", [x]), w.ints([0]), w.ints([2])])
    sizes = w.emit("Concat", [front, w.ints(lengths, "sizes")], {"axis": 0})
    return w.emit("Resize", [x, None, None, sizes], a)


def _in_single(scale: float, n: int | None) -> np.float32:
    """The scale in float32, as ONNX has it; the next one where it would make n inputs fewer outputs."""
    single = np.float32(scale)
    short = float(single) < scale if n is None else math.floor(n * float(single)) < math.floor(n * scale)
    return np.nextafter(single, np.float32(np.inf)) if short else single


# --- elementwise ---


def _unary(op: str, **names: str) -> Callable[..., _Value]:
    """names: ONNX's attribute for an option."""

    def rule(w: _Writer, x: _Value, *arguments: Any, **options: Any) -> _Value:
        options |= dict(zip(names, arguments, strict=False))
        return w.emit(op, [x], {names[name]: value for name, value in options.items()})

    return rule


def _silu(w: _Writer, x: _Value) -> _Value:
    return w.emit("Mul", [x, w.emit("Sigmoid", [x])])


def _hardswish(w: _Writer, x: _Value) -> _Value:
    if w.opset >= 14:
        return w.emit("HardSwish", [x])
    inner = w.emit("Clip", [w.emit("Add", [x, w.number(3.0)]), w.number(0.0), w.number(6.0)])
    return w.emit("Div", [w.emit("Mul", [x, inner]), w.number(6.0)])


def _gelu(w: _Writer, x: _Value, approximate: str = "none") -> _Value:
    if w.opset >= 20:
        return w.emit("Gelu", [x], {"approximate": approximate})
    if approximate == "tanh":
        cube = w.emit("Mul", [w.emit("Mul", [w.emit("Mul", [x, x]), x]), w.number(0.044715)])
        inner = w.emit("Tanh", [w.emit("Mul", [w.emit("Add", [x, cube]), w.number(math.sqrt(2 / math.pi))])])
    else:
        inner = w.emit("Erf", [w.emit("Div", [x, w.number(math.sqrt(2.0))])])
    whole = w.emit("Mul", [x, w.emit("Add", [inner, w.number(1.0)])])
    return w.emit("Mul", [whole, w.number(0.5)])


def _softplus(w: _Writer, x: _Value, beta: float = 1.0, threshold: float = 20.0) -> _Value:
    if beta == 1:
        return w.emit("Softplus", [x])
    inner = w.emit("Softplus", [w.emit("Mul", [x, w.number(beta)])])
    return w.emit("Div", [inner, w.number(beta)])


def _prelu(w: _Writer, x: _Value, weight: Any) -> _Value:
    rank = w.need_rank(x) if np.size(getattr(weight, "array", weight)) > 1 else 2
    if isinstance(weight, _Value):
        return w.emit("PRelu", [x, w.emit("Unsqueeze", [weight, w.ints(range(1, rank - 1))])])
    return w.emit("PRelu", [x, w.view(weight, range(1, rank - 1))])


def _softmax(op: str) -> Callable[..., _Value]:
    return lambda w, x, dim=1: w.emit(op, [x], {"axis": dim})


def _dropout(w: _Writer, x: _Value, p: float) -> _Value:
    mode = w.array(np.array(True), "training_mode") if w.training else None
    return w.emit("Dropout", [x, w.number(p, "ratio"), mode])


def _dropout2d(w: _Writer, x: _Value, p: float) -> _Value:
    """A mask of ones that is dropped out, one number a channel."""
    rank = w.need_rank(x)
    front = w.emit("Slice", [w.emit("Shape", [x]), w.ints([0]), w.ints([2])])
    if rank > 2:
        front = w.emit("Concat", [front, w.ints([1] * (rank - 2))], {"axis": 0})
    ones = w.emit("ConstantOfShape", [front], {"value": w.onnx.numpy_helper.from_array(np.ones(1, w.dtype))})
    return w.emit("Mul", [x, _dropout(w, ones, p)])


def _flatten(w: _Writer, x: _Value) -> _Value:
    return w.emit("Flatten", [x], {"axis": 1}, rank=2)


def _reshape(w: _Writer, x: _Value, shape: Any) -> _Value:
    found = lengths("reshape", "shape", shape)
    return w.emit("Reshape", [x, w.ints([0, *found], "shape")], rank=1 + len(found))


def _unflatten(w: _Writer, x: _Value, dim: int, sizes: Any) -> _Value:
    """Axes in front of it are copied; of those behind it one may be what is left, else their lengths must be known."""
    rank, found = w.need_rank(x), lengths("unflatten", "sizes", sizes)
    axis = dim % rank
    behind: Sequence[int] = [-1] * (rank - 1 - axis)
    if [*found, *behind].count(-1) > 1:
        behind = (0, 0, *w.lengths(x, "the axes behind it keep theirs"))[axis + 1 :]
    return w.emit("Reshape", [x, w.ints([*[0] * axis, *found, *behind], "shape")], rank=rank - 1 + len(found))


def _pixel_shuffle(w: _Writer, x: _Value, upscale_factor: int) -> _Value:
    return w.emit("DepthToSpace", [x], {"blocksize": upscale_factor, "mode": "CRD"}, rank=4)


def _pixel_unshuffle(w: _Writer, x: _Value, downscale_factor: int) -> _Value:
    """Before version 28 the places of a block stand in front of the channels."""
    a = {"blocksize": downscale_factor}
    if w.opset >= 28:
        return w.emit("SpaceToDepth", [x], {**a, "mode": "CRD"}, rank=4)
    if x.shape is None:
        raise w.refuse("needs the number of its channels; give input_shape=(N, C, …)")
    channels, places = x.shape[1], downscale_factor**2
    order = [place * channels + channel for channel in range(channels) for place in range(places)]
    return w.emit("Gather", [w.emit("SpaceToDepth", [x], a, rank=4), w.ints(order, "channels")], {"axis": 1}, rank=4)


# --- norms ---


def _affine(w: _Writer, x: _Value, weight: Any, bias: Any, behind: int) -> _Value:
    """x * weight + bias, `behind` axes behind the weight's."""
    for op, each in (("Mul", weight), ("Add", bias)):
        if each is not None:
            x = w.emit(op, [x, w.view(each, list(range(np.ndim(each), np.ndim(each) + behind)))])
    return x


def _standardized(w: _Writer, x: _Value, axes: Sequence[int], eps: float) -> _Value:
    centred = w.emit("Sub", [x, _reduce(w, "ReduceMean", x, axes)])
    var = _reduce(w, "ReduceMean", w.emit("Mul", [centred, centred]), axes)
    return w.emit("Div", [centred, w.emit("Sqrt", [w.emit("Add", [var, w.number(eps, "eps")])])])


def _batch_norm(
    w: _Writer, x: _Value, mean: Any, var: Any, weight: Any = None, bias: Any = None, *, momentum: float = 0.1,
    eps: float = 1e-5, training: bool = False,
) -> _Value:  # fmt: skip
    if mean is None or var is None:  # a batch's own statistics, in every mode
        rank = w.need_rank(x)
        normal = _standardized(w, x, [0, *range(2, rank)], eps)
        return _affine(w, normal, weight, bias, rank - 2)
    c = np.shape(mean)[0]
    inputs = [
        x,
        w.array(np.ones(c, w.dtype), "scale") if weight is None else w.as_value(weight),
        w.array(np.zeros(c, w.dtype), "shift") if bias is None else w.as_value(bias),
        w.as_value(mean),
        w.as_value(var),
    ]
    a: dict[str, Any] = {"epsilon": float(eps), "momentum": 1 - momentum}
    if w.training:
        if w.opset < 14:
            raise w.refuse(
                "in training mode needs BatchNormalization's training_mode of operator set 14: write opset=…"
            )
        return w.emit_several("BatchNormalization", inputs, {**a, "training_mode": 1}, 3)[0]
    return w.emit("BatchNormalization", inputs, a)


def _instance_norm(
    w: _Writer, x: _Value, mean: Any = None, var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> _Value:  # fmt: skip
    rank = w.need_rank(x)
    if not use_input_stats:
        deviation = np.sqrt(np.asarray(var) + eps).astype(w.dtype).reshape(-1, *(1,) * (rank - 2))
        centred = w.emit("Sub", [x, w.array(np.asarray(mean).reshape(deviation.shape), "mean")])
        normal = w.emit("Div", [centred, w.array(deviation, "deviation")])
        return _affine(w, normal, weight, bias, rank - 2)
    if weight is not None and bias is not None:
        return w.emit(
            "InstanceNormalization", [x, w.as_value(weight), w.as_value(bias)], {"epsilon": float(eps)}, rank=rank
        )
    return _affine(w, _standardized(w, x, range(2, rank), eps), weight, bias, rank - 2)


def _group_norm(
    w: _Writer, x: _Value, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> _Value:
    rank = w.need_rank(x)
    if w.opset >= 21 and weight is not None and bias is not None:
        a = {"num_groups": num_groups, "epsilon": float(eps)}
        return w.emit("GroupNormalization", [x, w.as_value(weight), w.as_value(bias)], a)
    grouped = w.emit("Reshape", [x, w.ints([0, num_groups, -1], "groups")], rank=3)
    normal = _standardized(w, grouped, [2], eps)
    normal = w.emit("Reshape", [normal, w.emit("Shape", [x])])
    return _affine(w, normal, weight, bias, rank - 2)


def _layer_norm(
    w: _Writer, x: _Value, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> _Value:
    count = len(normalized_shape) if isinstance(normalized_shape, tuple | list) else 1
    if w.opset >= 17 and weight is not None:
        inputs = [x, w.as_value(weight), None if bias is None else w.as_value(bias)]
        return w.emit("LayerNormalization", inputs, {"axis": -count, "epsilon": float(eps)})
    return _affine(w, _standardized(w, x, range(-count, 0), eps), weight, bias, 0)


def _local_response_norm(
    w: _Writer, x: _Value, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> _Value:
    a = {"size": size, "alpha": alpha, "beta": beta, "bias": k}
    if size % 2:
        return w.emit("LRN", [x], a)
    turn = [w.ints([-1]), w.ints([-END]), w.ints([1]), w.ints([-1])]  # channels backwards: its longer half lies behind
    y = w.emit("LRN", [w.emit("Slice", [x, *turn])], a)
    return w.emit("Slice", [y, *turn])


# --- windows of one's own ---


def _windows(w: _Writer, x: _Value, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> list[_Value]:
    """For each tap of a window in C order what the outputs see there: (N, C, H', W')."""
    steps = integers("onnx.save", "stride", stride, 2, 1)
    dilations = integers("onnx.save", "dilation", dilation, 2, 1)
    around = _around(w, x, _pads(w, padding, kernel, steps, dilations), kernel, steps, dilations)
    if any(map(any, around)):
        x = _bordered(w, x, around, "zeros")
    taps = []
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            starts = [r * dilations[0], s * dilations[1]]
            left = [(k - 1) * d - start for k, d, start in zip(kernel, dilations, starts, strict=True)]
            numbers = (starts, [-n if n else END for n in left], [2, 3], steps)
            taps.append(w.emit("Slice", [x, *(w.ints(each) for each in numbers)], rank=4))
    return taps


def _locally_connected(
    w: _Writer, x: _Value, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> _Value:
    """At each position a product: (H'W', N, CRS) with (H'W', CRS, K)."""
    filters, channels, *kernel, height, width = np.shape(weight)
    taps = _windows(w, x, kernel, stride, padding, dilation)
    behind = w.ints([2], "axes")
    table = w.emit("Concat", [w.emit("Unsqueeze", [tap, behind]) for tap in taps], {"axis": 2})  # (N, C, RS, H', W')
    table = w.emit("Transpose", [table], {"perm": [3, 4, 0, 1, 2]})
    count = channels * math.prod(kernel)
    table = w.emit("Reshape", [table, w.ints([height * width, -1, count])])
    turned = w.emit("Transpose", [w.as_value(weight)], {"perm": [4, 5, 1, 2, 3, 0]})
    turned = w.emit("Reshape", [turned, w.ints([height * width, count, filters])])
    y = w.emit("Transpose", [w.emit("MatMul", [table, turned])], {"perm": [1, 2, 0]})  # (N, K, H'W')
    y = w.emit("Reshape", [y, w.ints([-1, filters, height, width])], rank=4)
    return y if bias is None else w.emit("Add", [y, w.as_value(bias)], rank=4)


def _network_pool(w: _Writer, x: _Value, layer: Any) -> _Value:
    kernel_size, stride, padding = layer._window
    kernel = integers("onnx.save", "kernel_size", kernel_size, 2, 1)
    taps = _windows(w, x, kernel, kernel if stride is None else stride, padding, 1)
    behind = w.ints([4], "axes")
    table = w.emit("Concat", [w.emit("Unsqueeze", [tap, behind]) for tap in taps], {"axis": 4})
    rows = w.emit("Reshape", [table, w.ints([-1, len(taps)])])
    if x.array is not None:
        rows = _Value(rows.name, np.zeros((0, len(taps)), w.dtype), 2)
    y = w.follow(f"{w.here.name}.network" if w.here.name else "network", layer.network, rows)
    return w.emit("Reshape", [y, w.emit("Shape", [taps[0]])], rank=4)


def _normalize(w: _Writer, x: _Value, layer: Any) -> _Value:
    behind = (1,) * (w.need_rank(x) - 2)
    for op, name in (("Sub", "mean"), ("Div", "std")):
        numbers = np.asarray(layer._arguments[name], w.dtype).reshape(-1, *behind)
        x = w.emit(op, [x, w.array(numbers, name)])
    return x


SPECIAL: dict[str, Callable[[_Writer, _Value, Any], _Value]] = {
    "Identity": lambda w, x, layer: w.emit("Identity", [x]),
    "NetworkPool2d": _network_pool,
    "Normalize": _normalize,
}
RULES: dict[str, Callable[..., _Value]] = {
    "locally_connected2d": _locally_connected,
    "linear": _linear,
    "flatten": _flatten,
    "reshape": _reshape,
    "unflatten": _unflatten,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "upsample": _upsample,
    "downsample": _downsample,
    "resize": _resize,
    "pad": _pad,
    "step": _step,
    "relu": _unary("Relu"),
    "leaky_relu": _unary("LeakyRelu", negative_slope="alpha"),
    "elu": _unary("Elu", alpha="alpha"),
    "selu": _unary("Selu"),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "silu": _silu,
    "hardswish": _hardswish,
    "gelu": _gelu,
    "softplus": _softplus,
    "prelu": _prelu,
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
    "dropout": _dropout,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
for _axes in ("1d", "2d", "3d"):
    RULES |= {
        f"conv{_axes}": _conv,
        f"conv_transpose{_axes}": _conv_transpose,
        f"max_pool{_axes}": _pool("MaxPool"),
        f"avg_pool{_axes}": _pool("AveragePool"),
        f"lp_pool{_axes}": _pool("LpPool"),
        f"adaptive_avg_pool{_axes}": _adaptive("avg"),
        f"adaptive_max_pool{_axes}": _adaptive("max"),
    }


# --- operators that the older sets have not ---


def _direct_gelu(w: _Writer, inputs: list[Any], a: dict[str, Any]) -> Any:
    return _gelu(w, inputs[0], a.get("approximate", "none"))


def _direct_swish(w: _Writer, inputs: list[Any], a: dict[str, Any]) -> Any:
    (x,), alpha = inputs, a.get("alpha", 1.0)
    scaled = x if alpha == 1 else w.emit("Mul", [x, w.number(alpha)])
    return w.emit("Mul", [x, w.emit("Sigmoid", [scaled])])


def _direct_mish(w: _Writer, inputs: list[Any], a: dict[str, Any]) -> Any:
    (x,) = inputs
    return w.emit("Mul", [x, w.emit("Tanh", [w.emit("Softplus", [x])])])


def _direct_hardswish(w: _Writer, inputs: list[Any], a: dict[str, Any]) -> Any:
    return _hardswish(w, inputs[0])


def _direct_softmax(op: str) -> Callable[[_Writer, list[Any], dict[str, Any]], Any]:
    def rule(w: _Writer, inputs: list[Any], a: dict[str, Any]) -> Any:
        """Before version 13 a matrix whose rows end before the axis."""
        if not a.pop("coerce", 0):
            return None
        (x,) = inputs
        rows = w.emit(op, [w.emit("Flatten", [x], {"axis": a.get("axis", 1)})], {"axis": 1})
        return w.emit("Reshape", [rows, w.emit("Shape", [x])])

    return rule


def _direct_split(w: _Writer, inputs: list[Any], a: dict[str, Any]) -> Any:
    """From version 18 on equal parts are counted."""
    count = a.pop("num_outputs", None)
    if w.opset >= 18 and len(inputs) < 2:
        a["num_outputs"] = count or w.here.outputs
    return None


DIRECT: dict[str, Callable[[_Writer, list[Any], dict[str, Any]], Any]] = {
    "Gelu": _direct_gelu,
    "Swish": _direct_swish,
    "Mish": _direct_mish,
    "HardSwish": _direct_hardswish,
    "Split": _direct_split,
    "Softmax": _direct_softmax("Softmax"),
    "LogSoftmax": _direct_softmax("LogSoftmax"),
}
