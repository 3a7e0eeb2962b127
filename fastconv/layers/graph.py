"""Layers, operations and constants joined to any directed acyclic graph.

Graph        the container: nodes by name, any number of inputs and outputs
Operation    a node that is an operation of several values; a graph makes it of a node that names one
Values       arrays that no layer holds: constants, and parameters that operations read
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv import functional, plan, tape
from fastconv.arrays import FLOATS, as_array, as_floats
from fastconv.autograd import Pullback, as_gradient
from fastconv.errors import ShapeError, integer, nearest
from fastconv.layers.activation import Function
from fastconv.layers.base import CALL, Apply, Context, Gradients, Join, Layer
from fastconv.layers.containers import _Container
from fastconv.machine.memory import require, whole_call
from fastconv.ops.registry import OPS, Op
from fastconv.plan.steps import Held, located

__all__ = ["Graph", "Operation", "Values"]

INPUT = "input"  # the name of a graph's only input, where none is given
JOINS = ("add", "mul", "concat")
ALWAYS = ("add", "concat")  # joins whatever an earlier node is called
ITEM = "item"  # the operation that takes one of a node's several outputs
FLOAT = "float"  # an input of the net's float type, whatever is given
RANDOM = ("dropout",)
KINDS = (None, FLOAT, "float32", "float64", "bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))


class Graph(_Container):
    """Layers joined to any directed acyclic graph.

        Graph({
            "stem": (Conv2d(3, 16, 3, padding=1), "input"),
            "left": (Conv2d(16, 16, 3, padding=1), "stem"),
            "sum": ("add", "stem", "left"),
            "again": ("left", "sum"),               # the layer of node "left" once more, its weights shared
            "both": ("concat", "sum", "again"),     # along the channels
            "kernel": numpy.ones((1, 32, 3, 3)),    # a constant: a buffer
            "blur": ("conv2d", "both", "kernel", {"padding": 1}),
        })

    nodes     {name: node}. A node is a layer (or the name of an earlier node, to share its layer) and the node that it
              reads; or "add", "mul" or "concat" and the nodes that it joins; or an array, a constant; or the name of an
              operation of `fastconv.functional`, one from `fastconv.register` or an ONNX operator ("where", "MatMul"),
              the nodes that it reads (None: an argument that is left out) and, last, a dict of its options. Nodes stand
              in order: each reads inputs and earlier nodes. Names may hold dots and slashes
    output    the node whose value is the net's; default: the last
    inputs    names of several inputs (default: one, "input"), or a dict {name: type}: "float" follows the net's float
              type, "int64", "bool" … stay what they are, None: integers stay where operations alone read them. Or
              {name: (type, shape)}: what the input looks like, None for a length that is free, which `onnx.save` tells
    outputs   names of several outputs, or a dict {name: node}, in place of `output`: the net then gives a tuple, also
              of one

    `net(a, b)` takes as many arrays as there are inputs (or one dict by name). Operations are differentiable in each
    float value that they read; an integer input or output has no gradient. An array of a layer may be read by its name
    in `state_dict`: ("linear", "x", "left.weight") shares it. Where a node has several outputs ("Split"), a node
    ("item", it, {"index": 1}) is one of them.

    Raises ValueError for names that do not fit.
    """

    forks = True

    def __init__(
        self,
        nodes: Mapping[str, Any],
        output: str | None = None,
        *,
        inputs: Any = (INPUT,),
        outputs: Any = None,
    ) -> None:
        if isinstance(inputs, str) or isinstance(outputs, str):
            raise TypeError('Graph: inputs and outputs are tuples of names; one name is written ("a",)')
        kinds = dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(map(str, inputs))
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        for name, kind in kinds.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"Graph: an input cannot be called {name!r}")
            if isinstance(kind, tuple | list) and len(kind) == 2 and isinstance(kind[1], tuple | list):
                kind, shape = kind
                if not all(n is None or (type(n) is int and n >= 0) for n in shape):
                    raise ValueError(f"Graph: the shape of input {name!r} must be lengths and None, got {shape!r}")
                kinds[name], self._shapes[name] = kind, tuple(shape)
            if kind not in KINDS:
                raise ValueError(f"Graph: input {name!r} must be one of {', '.join(map(str, KINDS[1:]))}, got {kind!r}")
        if not isinstance(inputs, Mapping) and len(kinds) != len(tuple(inputs)):
            raise ValueError(f"Graph: each input has a name of its own, got {inputs!r}")
        self._inputs: dict[str, str | None] = kinds
        self._layers: dict[str, Layer] = {}  # by the node that brought it
        self._nodes: dict[str, tuple[str, tuple[str | None, ...]]] = {}  # name: (layer's node or join, nodes read)
        self._joins: set[str] = set()  # nodes that are joins
        self._arrays: dict[str, tuple[str, str]] = {}  # arrays of layers that nodes read: (layer's node, attribute)
        for name, node in nodes.items():
            self._add_node(name, node)
        if not self._nodes:
            raise ValueError("Graph: there must be at least one node")
        if output is not None and outputs is not None:
            raise TypeError("Graph: give output or outputs, not both")
        self._several = outputs is not None
        if outputs is None:
            outputs = (next(reversed(self._nodes)) if output is None else output,)
        given = dict(outputs) if isinstance(outputs, Mapping) else {each: each for each in outputs}
        for each in given.values():
            if each not in self._nodes and each not in self._inputs and not self._array_of(each):
                raise ValueError(f"Graph: output {each!r} is no node{nearest(each, self._nodes)}")
        if not given or len(given) != len(outputs):
            raise ValueError(f"Graph: outputs must be one name or more, each once, got {outputs!r}")
        self._outputs: dict[str, str] = given  # name: node
        self._arguments = {}  # `config` says what is there now

    def _add_node(self, name: Any, node: Any) -> None:
        if not isinstance(name, str) or not name or name in self._inputs:
            raise ValueError(f"Graph: a node cannot be called {name!r}")
        if isinstance(node, np.ndarray | np.generic):
            node = Values(buffers={"value": np.asarray(node)})
        if isinstance(node, Values):
            node = (node,)
        if isinstance(node, str | Layer):
            raise TypeError(f"Graph: node {name!r} must say what it reads: ({node!r}, {INPUT!r})")
        what, *sources = node
        options: Any = sources.pop() if sources and isinstance(sources[-1], Mapping) else {}
        if isinstance(what, Values):
            if sources:
                raise ValueError(f"Graph: node {name!r} holds arrays and reads no nodes")
            self._layers[name] = what
            return
        held: dict[str, Values] = {}  # arrays that stand in the node itself: the operation's own
        for place, source in enumerate(sources):
            if isinstance(source, np.ndarray | np.generic):
                source = Values(buffers={f"value_{len(held)}" if held else "value": np.asarray(source)})
            if isinstance(source, Values):
                if source.only is None or source.only in held:
                    raise ValueError(f"Graph: node {name!r} must have one array at a place, each of another name")
                held[source.only] = source
                sources[place] = f"{name}.{source.only}"
                self._arrays[f"{name}.{source.only}"] = (name, source.only)
        for source in sources:
            if source in self._arrays:
                continue
            if source is not None and source not in self._inputs and source not in self._nodes:
                found = isinstance(source, str) and self._array_of(source)
                if not found:
                    raise ValueError(f"Graph: node {name!r} reads {source!r}, which is no earlier node")
                self._arrays[source] = found
        shared = isinstance(what, str) and what in self._layers and what not in ALWAYS
        if isinstance(what, Layer):
            self._layers[name] = what
            what = name
        elif isinstance(what, str) and what in JOINS and not shared:
            self._joins.add(name)
        elif not shared:
            self._layers[name] = _operation(what, sources, held, options)
            what, options, held = name, {}, {}
        if options or held:
            raise TypeError(f"Graph: node {name!r} takes no options and no arrays; they are an operation's")
        joins, operation = name in self._joins, isinstance(self._layers.get(what), Operation)
        if not sources or (not joins and not operation and len(sources) != 1) or (joins and None in sources):
            raise ValueError(f"Graph: node {name!r} reads {len(sources)} nodes; a layer reads one, a join any number")
        self._nodes[name] = (what, tuple(sources))

    def _array_of(self, name: str) -> tuple[str, str] | None:
        """The layer's node and the attribute of an array that is called so; a constant by its node's name alone."""
        layer = self._layers.get(name)
        if isinstance(layer, Values) and layer.only is not None:
            return name, layer.only
        owner, _, attribute = name.rpartition(".")
        layer = self._layers.get(owner)
        if layer is not None and attribute in (*layer.parameter_names, *layer.buffer_names):
            return (owner, attribute) if getattr(layer, attribute) is not None else None
        return None

    def children(self) -> dict[str, Layer]:
        return self._layers

    @property
    def nodes(self) -> dict[str, tuple[str, tuple[str | None, ...]]]:
        """Per node: "add", "mul", "concat" or the node whose layer or operation it applies, and the nodes it reads."""
        return dict(self._nodes)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs' names, in the order in which a call takes them."""
        return tuple(self._inputs)

    @property
    def input_shapes(self) -> dict[str, tuple[int | None, ...] | None]:
        """What each input looks like, as far as `inputs` said it: None for a length that is free."""
        return {name: self._shapes.get(name) for name in self._inputs}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs' names."""
        return tuple(self._outputs)

    @property
    def output(self) -> str:
        """The node whose value is the net's first."""
        return next(iter(self._outputs.values()))

    @property
    def dtype(self) -> np.dtype | None:
        """The float type of the parameters, else of the constants."""
        found = super().dtype
        if found is None:
            arrays = (
                getattr(layer, name) for layer in self._layers.values() if isinstance(layer, Values | Operation)
                for name in layer.buffer_names
            )  # fmt: skip
            found = next((array.dtype for array in arrays if array.dtype in FLOATS), None)
        return found

    def replace(self, name: str, layer: Layer) -> Graph:
        """Put `layer` in the place of the node called `name`, which reads what the node read first; returns the net.

        `name` may lead into a Graph inside. Every node that shared the old layer applies the new one. Constants that
        nothing reads any longer go. Raises ValueError where no such node is.
        """
        if not isinstance(layer, Layer):
            raise TypeError(f"replace: layer must be a layer, got {layer!r}")
        if name not in self._nodes:
            for owner, inner in self._layers.items():
                if isinstance(inner, Graph) and name.startswith(f"{owner}."):
                    inner.replace(name[len(owner) + 1 :], layer)
                    return self
            raise ValueError(f"replace: no node is called {name!r}{nearest(name, self._nodes)}")
        what, sources = self._nodes[name]
        if name in self._joins:
            raise ValueError(f"replace: node {name!r} joins several nodes, a layer reads one")
        if isinstance(self._layers[what], Operation):
            self._nodes[name] = (name, sources[:1])
            what = name
        layer.train(self.training)
        self._layers = {key: layer if key == what else each for key, each in self._layers.items()}
        self._drop_unread()
        return self

    def _put(self, name: str, layer: Layer) -> None:
        self.replace(name, layer)

    def _drop_unread(self) -> None:
        """Remove constants that no node reads."""
        read = {source for _, sources in self._nodes.values() for source in sources} | {*self._outputs.values()}
        self._arrays = {source: place for source, place in self._arrays.items() if source in read}
        held = {owner for owner, _ in self._arrays.values()} | read
        self._layers = {
            name: each for name, each in self._layers.items() if not isinstance(each, Values) or name in held
        }

    def last(self) -> Layer | None:
        node = self._nodes.get(self.output) if len(self._outputs) == 1 else None
        return self._layers.get(node[0]) if node is not None and self.output not in self._joins else None

    # --- as data

    def config(self) -> dict[str, Any]:
        nodes: dict[str, Any] = {}
        for name, layer in self._layers.items():
            if isinstance(layer, Values):
                nodes[name] = [layer.config()]
        for name, (what, sources) in self._nodes.items():
            made = self._layers.get(what) if name not in self._joins else None
            if made is None or what != name:
                nodes[name] = [what, *sources]
            elif isinstance(made, Operation):
                own = [made.held_at(name, source) for source in sources]
                nodes[name] = [made.name, *own, *made.options_as_data()]
            else:
                nodes[name] = [made.config(), *sources]
        data: dict[str, Any] = {"layer": "Graph", "nodes": {"items": [list(entry) for entry in nodes.items()]}}
        if self._several:
            data["outputs"] = {"items": [list(entry) for entry in self._outputs.items()]}
        else:
            data["output"] = self.output
        if list(self._inputs.items()) != [(INPUT, None)] or self._shapes:
            data["inputs"] = {"items": [[name, self._input_as_data(name)] for name in self._inputs]}
        return data

    def _input_as_data(self, name: str) -> Any:
        kind, shape = self._inputs[name], self._shapes.get(name)
        return kind if shape is None else [kind, list(shape)]

    def __repr__(self) -> str:
        lines = []
        for name, (what, sources) in self._nodes.items():
            shown = what if name in self._joins or what != name else repr(self._layers[what]).replace("\n", "\n  ")
            lines.append(f"\n  ({name}): {shown} <- {', '.join(map(str, sources))}")
        return f"Graph({''.join(lines)}\n)"

    # --- calls

    def __call__(self, *x: Any) -> Any:
        """The output for one array per input, in the present mode; a tuple of arrays where `outputs` were named."""
        given = x[0] if len(x) == 1 else x
        recording = tape.recording()
        if recording is not None or tape.holds(given):
            return self._recorded(recording, self._each_input(given))
        with whole_call:
            return self.forward(self.cast(given), CALL)[0]

    def predict(self, *x: Any, batch_size: int = 256) -> Any:
        """The output in inference mode, whatever the present mode, `batch_size` samples at a time."""
        batch_size = integer("predict", "batch_size", batch_size)
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}")
        arrays = self._each_input(x[0] if len(x) == 1 else x)
        lengths = {name: len(array) for name, array in zip(self._inputs, arrays, strict=True) if np.ndim(array)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"predict: inputs must have as many samples, got {lengths}")
        n = next(iter(lengths.values()), 0)
        context, parts = Context(training=False, keep=False), []
        for start in range(0, max(n, 1), batch_size):
            part = [array[start : start + batch_size] if np.ndim(array) else array for array in arrays]
            with whole_call:
                result = self.forward(self.cast(tuple(part)), context)[0]
            if n <= batch_size:
                return result
            parts.append(result if self._several else (result,))
        whole = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
        return whole if self._several else whole[0]

    def _vjp(self, *x: Any) -> tuple[Any, Pullback]:
        y, saved = self.forward(self.cast(x[0] if len(x) == 1 else x), Context(snapshot=True))

        ys = y if self._several else (y,)
        floats = any(each.dtype.kind == "f" for each in ys)

        def pullback(dy: Any) -> tuple[np.ndarray | None, ...]:
            if self._several:
                if not isinstance(dy, tuple | list) or len(dy) != len(y):
                    raise ShapeError(f"Graph: dy must be a tuple of {len(y)}, one for each output (None: no gradient)")
                dy = tuple(
                    None if each is None or value.dtype.kind != "f" else as_gradient(name, each, value)
                    for name, each, value in zip(self._outputs, dy, y, strict=True)
                )
            else:
                dy = as_gradient("Graph", dy, y)
            if not floats or (self._several and all(each is None for each in dy)):
                return (None,) * len(self._inputs)
            dx = self.backward(dy, saved, True)[0]
            return dx if isinstance(dx, tuple) else (dx,)

        return y, pullback

    def _each_input(self, x: Any) -> tuple[Any, ...]:
        """What a call gives for each input."""
        names = tuple(self._inputs)
        if isinstance(x, Mapping):
            if x.keys() != self._inputs.keys():
                raise ValueError(f"Graph: the inputs are {', '.join(names)}, got {', '.join(map(str, x)) or 'none'}")
            return tuple(x[name] for name in names)
        if len(names) == 1:
            return tuple(x) if isinstance(x, tuple) and len(x) == 1 else (x,)
        if not isinstance(x, tuple | list) or len(x) != len(names):
            got = f"{len(x)}" if isinstance(x, tuple | list) else "one"
            raise ValueError(f"Graph: there are {len(names)} inputs, {', '.join(names)}; got {got}")
        return tuple(x)

    def cast(self, x: Any) -> Any:
        """One array per input, float ones in the net's float type; ValueError for too few or too many."""
        arrays = tuple(
            self._cast_input(name, kind, each)
            for (name, kind), each in zip(self._inputs.items(), self._each_input(x), strict=True)
        )
        return arrays[0] if len(arrays) == 1 else arrays

    def _cast_input(self, name: str, kind: str | None, x: Any) -> np.ndarray:
        if kind is None and len(self._inputs) == 1 and not self._only_operations(name):
            return super().cast(x)
        array = as_array("Graph", name, x)
        if array.dtype.kind not in "fbiu":
            raise TypeError(f"Graph: input {name} must hold real numbers, got {array.dtype}")
        if kind is None and array.dtype.kind != "f" and self._only_operations(name):
            return array
        if kind in (None, FLOAT):
            dtype = self.dtype
            return as_floats("Graph", x=array)[0] if dtype is None else array.astype(dtype, copy=False)
        if not np.can_cast(array.dtype, kind, "same_kind") and not (array.size == 0 or array.dtype.kind in "biu"):
            raise TypeError(f"Graph: input {name} must hold {kind}, got {array.dtype}")
        return array.astype(kind, copy=False)

    def input_types(self, dtype: np.dtype) -> tuple[np.dtype, ...]:
        """Each input's type where floats are `dtype`."""
        return tuple(dtype if kind in (None, FLOAT) else np.dtype(kind) for kind in self._inputs.values())

    def _only_operations(self, name: str) -> bool:
        readers = [each for each, (_, sources) in self._nodes.items() if name in sources]
        return all(
            each not in self._joins and isinstance(self._layers[self._nodes[each][0]], Operation) for each in readers
        )

    # --- passes

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        values: dict[str | None, Any] = dict(zip(self._inputs, x if len(self._inputs) != 1 else (x,), strict=True))
        values.update((source, self._held(source)) for source in self._arrays)
        values[None] = None
        for name, (what, sources) in self._nodes.items():
            inputs = [values[source] for source in sources]
            if name in self._joins:
                values[name] = join(name, what, inputs)
            else:
                layer = self._layers[what]
                values[name] = apply(name, layer, tuple(inputs) if isinstance(layer, Operation) else inputs[0])
        results = tuple(values[name] if name in values else self._held(name) for name in self._outputs.values())
        return results if self._several else results[0]

    def _held(self, source: str) -> Held:
        """An array of a layer that nodes read."""
        owner, attribute = self._arrays.get(source) or self._array_of(source)  # type: ignore[misc]
        return Held(owner, self._layers[owner], attribute)

    def forward(self, x: Any, context: Context) -> tuple[Any, Any]:
        y, saved = super().forward(x, context)
        given = x if len(self._inputs) != 1 else (x,)
        return y, (saved, [(each.shape, each.dtype) for each in given])

    def backward(self, dy: Any, saved: Any, need_dx: bool) -> tuple[Any, Gradients]:
        saved, given = saved
        if len(given) == 1:
            return super().backward(dy, saved, need_dx and given[0][1].kind == "f")
        found, gradients = plan.backward(self, dy, saved, tuple(need_dx and d.kind == "f" for _, d in given))
        if not need_dx:
            return None, gradients
        zeros = (np.zeros(*each) if each[1].kind == "f" else None for each in given)
        return tuple(zero if part is None else part for part, zero in zip(found, zeros, strict=True)), gradients


def _operation(name: Any, sources: list[Any], held: Mapping[str, Values], options: Mapping[str, Any]) -> Layer:
    """What computes a node that names an operation: of one value and `fastconv.functional`'s a layer like others."""
    if len(sources) == 1 and not held and isinstance(name, str) and name in OPS and name not in RANDOM:
        try:
            inspect.signature(getattr(functional, name)).bind(None, **options)
        except TypeError:
            pass
        else:
            return Function(name, **options)
    made = Operation(name, **options)
    made.hold(held)
    return made


class Operation(Layer):
    """A node of a Graph: an operation of several values.

    name      an operation of `fastconv.functional`, one from `fastconv.register`, or an ONNX operator
    options   its keyword arguments

    forward takes a tuple of arrays (None: left out), backward a bool for each of them.
    """

    def __init__(self, name: str, **options: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"Graph: a node must be a layer, an operation's name or an array, got {name!r}")
        self.name, self.given = name, options
        op = self.operation
        if op is None:
            if name != ITEM:
                raise ValueError(
                    f"Graph: a node must be a layer, an earlier layer's name, {', '.join(JOINS)} or an operation; none "
                    f"is called {name!r}{nearest(name, OPS)}"
                )
            return
        parameters = inspect.signature(op.forward).parameters
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for option in options:
            if option not in parameters and not free:
                raise TypeError(f"{name}: unexpected keyword argument {option!r}{nearest(option, parameters)}")
        self.follows_type = "float_type" in parameters
        self._by_mode = name == "dropout"

    follows_type = False

    def hold(self, arrays: Mapping[str, Values]) -> None:
        """Take arrays as the operation's own."""
        for name, values in arrays.items():
            setattr(self, name, getattr(values, name))
        self.parameter_names = tuple(name for name, values in arrays.items() if values.parameter_names)  # type: ignore[misc]
        self.buffer_names = tuple(name for name, values in arrays.items() if values.buffer_names)  # type: ignore[misc]

    def held_at(self, node: str, source: str | None) -> Any:
        """A source as a configuration has it: the operation's own arrays by their shapes."""
        for kind, names in (("parameters", self.parameter_names), ("buffers", self.buffer_names)):
            for name in names:
                if source == f"{node}.{name}":
                    return Values(**{kind: {name: getattr(self, name)}}).config()
        return source

    @property
    def kind(self) -> str:
        """What a table calls it."""
        return self.name

    @property
    def op(self) -> str:
        """The operation's name in lower case."""
        return self.name.casefold()

    @property
    def operation(self) -> Op | None:
        found = OPS.get(self.name)
        if found is None and self.name != ITEM:
            from fastconv.operators import operator_called

            found = operator_called(self.name)
        return found

    def config(self) -> dict[str, Any]:
        raise ValueError(f"Operation: {self.name} is a node of a Graph, which saves it")

    def options_as_data(self) -> list[Any]:
        """The options as a Graph's configuration has them, if there are any."""
        return [{"items": [[key, _option(self.name, key, value)] for key, value in self.given.items()]}] * bool(
            self.given
        )

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.given.items())})"

    def refusal(self, error: Exception) -> Exception:
        """What NumPy or an operator refused, as one of fastconv's errors that names the operation."""
        kind = next((kind for kind in (TypeError, MemoryError) if isinstance(error, kind)), ShapeError)
        text = " ".join(str(error).split())
        return kind(text if text.startswith(f"{self.name}:") else f"{self.name}: {text}")

    def named_forward(self, name: str, inputs: Any, context: Context, dtype: np.dtype | None = None) -> tuple[Any, Any]:
        """`forward`, whose errors say in which node."""
        try:
            return self.forward(tuple(inputs), context, dtype)
        except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
            raise located(self.refusal(error), ((name, self.name),)) from None

    def forward(self, x: Any, context: Context, dtype: np.dtype | None = None) -> tuple[Any, Any]:
        if self.name == ITEM:
            return x[0][self.given["index"]], None
        op = self.operation
        assert op is not None
        options = self.given
        if self.follows_type:
            options = {**options, "float_type": dtype}
        if self._by_mode:
            options = {"training": context.mode(self), "rng": context.generator, **options}
        with np.errstate(all="ignore"):  # as the kernels
            y, kept = op.forward(*x, **options)
        floats = [each is not None and each.dtype.kind == "f" for each in x]
        return y, (kept, floats, len(y) if isinstance(y, tuple) else 0, y[0] if isinstance(y, tuple) else None)

    def backward(self, dy: Any, saved: Any, needs: Any) -> tuple[Any, Gradients]:
        kept, floats, count, first = saved
        wanted = tuple(need and float_ for need, float_ in zip(needs, floats, strict=True))
        if not any(wanted):
            return (None,) * len(wanted), {}
        op = self.operation
        assert op is not None
        if count:
            dy = tuple(dy.get(i) for i in range(count)) if isinstance(dy, dict) else (dy, *(None,) * (count - 1))
            if self.name in OPS:  # there dy is the values'
                dy = np.zeros_like(first) if dy[0] is None else dy[0]
        with np.errstate(all="ignore"):
            found = op.backward(dy, kept, wanted)
        parts = itertools.zip_longest(found[: len(wanted)], wanted)
        return tuple(part if want else None for part, want in parts), {}


def _option(name: str, key: str, value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_option(name, key, each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"Graph: {name}'s option {key}={value!r} is no data and cannot be saved")


class Values(Layer):
    """Arrays of a Graph that no layer holds, by name: parameters, which are trained, and buffers, which are constants.

    parameters, buffers   {name: array}; or, as a configuration has them, {name: shape} and {name: (type, *shape)}:
                          zeros, until `load_state_dict` fills them

    Names are Python identifiers ("weight", "value"); nodes read the arrays as "node.name", a single one as "node".
    """

    def __init__(self, parameters: Mapping[str, Any] | None = None, buffers: Mapping[str, Any] | None = None) -> None:
        self.parameter_names = tuple(parameters or {})  # type: ignore[misc]
        self.buffer_names = tuple(buffers or {})  # type: ignore[misc]
        names = (*self.parameter_names, *self.buffer_names)
        for name in names:
            if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
                raise ValueError(f"Values: an array cannot be called {name!r}")
        if len(set(names)) != len(names) or not names:
            raise ValueError("Values: there must be an array, and each has a name of its own")
        for name, value in (parameters or {}).items():
            setattr(self, name, self._zeros(name, FLOATS[0], value) if isinstance(value, tuple | list) else value)
            if getattr(self, name).dtype not in FLOATS:
                raise TypeError(f"Values: parameter {name} must be float32 or float64, got {getattr(self, name).dtype}")
        for name, value in (buffers or {}).items():
            if isinstance(value, tuple | list):
                if not value or value[0] not in KINDS[2:]:
                    raise ValueError(f"Values: {name} must be (type, *shape), got {value!r}")
                value = self._zeros(name, np.dtype(value[0]), value[1:])
            setattr(self, name, value)
        self._arguments = {}

    @staticmethod
    def _zeros(name: str, dtype: np.dtype, shape: Any) -> np.ndarray:
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"Values: {name} must have a shape of integers, got {shape!r}")
        count = 1
        for n in shape:
            count *= n
        require("Values", count * dtype.itemsize)
        return np.zeros(shape, dtype)

    @property
    def only(self) -> str | None:
        """The name of its array where there is one."""
        names = (*self.parameter_names, *self.buffer_names)
        return names[0] if len(names) == 1 else None

    def config(self) -> dict[str, Any]:
        return {
            "layer": "Values",
            "parameters": {"items": [[name, list(getattr(self, name).shape)] for name in self.parameter_names]},
            "buffers": {
                "items": [
                    [name, [getattr(self, name).dtype.name, *getattr(self, name).shape]] for name in self.buffer_names
                ]
            },
        }

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        raise TypeError("Values: arrays of a Graph are read by its nodes, not called")

    def __repr__(self) -> str:
        shapes = (f"{name}={getattr(self, name).shape}" for name in (*self.parameter_names, *self.buffer_names))
        return f"Values({', '.join(shapes)})"


RESERVED = {*dir(Values), *dir(Operation), "name", "given"} | {"training", "_frozen", "_frozen_whole", "_arguments"}
