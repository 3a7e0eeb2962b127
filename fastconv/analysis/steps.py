"""A net as a list of steps with their shapes: what the other tools walk.

The shapes come from the layers themselves, which are run on a batch of no images: every shape rule is asked, and
nothing is computed. Where an operation of a graph cannot take such a batch, one image's is computed, or
the batch itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.errors import ShapeError, listing
from fastconv.layers.base import Context, Layer
from fastconv.layers.graph import Graph, Operation
from fastconv.plan.steps import Held, add, concat, multiply, named_forward
from fastconv.window import integers

__all__ = ["INPUT", "Shape", "Step", "Trace", "output_shape", "parse_input_shape", "trace"]

Shape = tuple[int, ...]
INPUT = -1  # the step that stands for the net's input


@dataclass(frozen=True)
class Step:
    """A layer or an operation applied once, or a join ("add", "mul", "concat") of several steps' outputs."""

    name: str  # as in state_dict; of a container's own join the container's
    layer: Layer  # of a join the container
    join: str | None
    sources: tuple[int, ...]  # steps, or INPUT; further inputs of a net count down from there. Constants are none
    x_shape: Shape  # of the first source
    y_shape: Shape  # of several outputs the first's
    arguments: tuple[Any, ...] = ()  # of an operation: steps, and arrays that are constants


@dataclass(frozen=True)
class Trace:
    input_shape: Shape  # of the first input
    steps: tuple[Step, ...]
    outputs: dict[str, int]  # the step that gives the output of what is called so; "" the net
    inputs: tuple[Shape, ...] = ()  # of all of them

    def shape(self, step: int) -> Shape:
        return self.inputs[INPUT - step] if step <= INPUT else self.steps[step].y_shape

    def find(self, op: str, layer: str | int | None) -> int:
        """The step that gives the output of `layer`: its name, its place among the steps, or None for the net's."""
        if layer is None:
            return self.outputs[""]
        if isinstance(layer, str):
            if layer not in self.outputs:
                known = listing(name for name in self.outputs if name)
                raise ValueError(f"{op}: no layer is called {layer!r}; there are {known}")
            return self.outputs[layer]
        (place,) = integers(op, "layer", layer, 1, -len(self.steps))
        if place >= len(self.steps):
            raise ValueError(f"{op}: layer must be less than {len(self.steps)}, the layers of the net, got {place}")
        return place % len(self.steps)


def parse_input_shape(op: str, input_shape: Any) -> Shape:
    """(N, C, …) as ints: N may be 0, the others not."""
    if not isinstance(input_shape, Sequence | np.ndarray) or isinstance(input_shape, str) or len(input_shape) < 2:
        raise ShapeError(f"{op}: input_shape must be (N, C, …), got {input_shape!r}")
    n, *others = input_shape
    (batch,) = integers(op, "input_shape's N", n, 1, 0)
    return (batch, *integers(op, "input_shape", others, len(others), 1))


def parse_input_shapes(op: str, net: Layer, input_shape: Any) -> tuple[Shape, ...]:
    """The shape of every input: of a net of several a tuple of shapes, or a dict of them by the inputs' names."""
    names = net.inputs if isinstance(net, Graph) else ("input",)
    if isinstance(input_shape, Mapping):
        if input_shape.keys() != set(names):
            raise ShapeError(f"{op}: input_shape must have a shape for {', '.join(names)}, got {list(input_shape)}")
        input_shape = tuple(input_shape[name] for name in names)
    elif len(names) == 1:
        input_shape = (input_shape,)
    if not isinstance(input_shape, Sequence) or len(input_shape) != len(names):
        raise ShapeError(f"{op}: input_shape must be {len(names)} shapes, of {', '.join(names)}, got {input_shape!r}")
    if len(names) == 1:
        return (parse_input_shape(op, input_shape[0]),)
    return tuple(tuple(integers(op, "input_shape", each, len(tuple(each)), 0)) for each in input_shape)


def trace(op: str, net: Layer, input_shape: Any) -> Trace:
    """Follow `net` for a batch of shape `input_shape` (N, C, …), in inference mode.

    Raises what the layers raise for shapes that do not fit, with the layer's name.
    """
    if not isinstance(net, Layer):
        raise TypeError(f"{op}: net must be a layer or a net of layers, got {net!r}")
    given = parse_input_shapes(op, net, input_shape)
    try:
        return follow_net(net, given)
    except ShapeError:
        if len(given) == 1 and _fits(net, ((1, *given[0]),)):
            raise ShapeError(
                f"{op}: input_shape must be (N, C, …), got {given[0]}; with the batch axis it is {(1, *given[0])}"
            ) from None
        raise


def _fits(net: Layer, shapes: tuple[Shape, ...]) -> bool:
    try:
        follow_net(net, shapes)
    except (ValueError, TypeError, MemoryError):
        return False
    return True


def follow_net(net: Layer, given: tuple[Shape, ...]) -> Trace:
    """The steps of `net` for inputs of these shapes."""
    try:
        return _follow(net, given, 0)
    except ShapeError:
        if not any(isinstance(layer, Operation) for _, layer in net.walk()):
            raise
    try:
        return _follow(net, given, 1)
    except ShapeError:
        return _follow(net, given, given[0][0])


def _follow(net: Layer, given: tuple[Shape, ...], batch: int) -> Trace:
    """What is followed are the outputs of steps: (the step, what it gives for `batch` images)."""
    dtype = net.dtype or np.dtype(np.float32)
    kinds = net.input_types(dtype) if isinstance(net, Graph) else (dtype,)
    context = Context(training=False)
    steps: list[Step] = []
    outputs: dict[str, int] = {}

    def shape_of(y: Any) -> Shape:
        y = y[0] if isinstance(y, tuple) else y
        return (given[0][0], *y.shape[1:]) if len(y.shape) and y.shape[0] == batch else y.shape

    def record(name: str, layer: Layer, join: str | None, values: list[Any], y: Any, arguments: Any = ()) -> Any:
        read = [value for value in values if isinstance(value, _Value)]
        if not read:  # of constants alone
            return y
        sources = tuple(value.step for value in read)
        steps.append(Step(name, layer, join, sources, shape_of(read[0].array), shape_of(y), arguments))
        return _Value(len(steps) - 1, y)

    def follow(prefix: str, layer: Layer, value: Any) -> Any:
        def inside(name: str) -> str:
            return f"{prefix}.{name}" if prefix and name else prefix or name

        def note(name: str, value: Any) -> Any:
            first = value[0] if isinstance(value, tuple) else value
            if isinstance(first, _Value):
                outputs[name] = first.step
            return value

        def apply(name: str, child: Layer, x: Any) -> Any:
            if isinstance(child, Operation):
                x = [each.array if isinstance(each, Held) else each for each in x]
                arrays = [each.array if isinstance(each, _Value) else each for each in x]
                y = child.named_forward(inside(name), arrays, context, dtype)[0]
                arguments = tuple(each.step if isinstance(each, _Value) else each for each in x)
                return note(inside(name), record(inside(name), child, None, list(x), y, arguments))
            x = x.array if isinstance(x, Held) else x
            if child is layer:
                x_array = x.array if isinstance(x, _Value) else x
                y = named_forward(prefix, layer, x_array, context) if prefix else layer.forward(x_array, context)
                return record(prefix, layer, None, [x], y[0])
            return follow(inside(name), child, x)

        def join(name: str, how: str, values: list[Any]) -> Any:
            arrays = [each.array if isinstance(each, _Value | Held) else each for each in values]
            y = JOIN[how](inside(name) if name else type(layer).__name__, arrays)
            return note(inside(name), record(inside(name), layer, how, values, y))

        return note(prefix, layer.flow(value, apply, join))

    values = [
        _Value(INPUT - place, np.zeros((batch, *shape[1:]) if shape[:1] == given[0][:1] else shape, kind))
        for place, (shape, kind) in enumerate(zip(given, kinds, strict=True))
    ]
    follow("", net, tuple(values) if len(values) > 1 else values[0])
    return Trace(given[0], tuple(steps), outputs, given)


@dataclass(frozen=True)
class _Value:
    step: int
    array: Any  # or a tuple of arrays, of a step with several outputs


JOIN = {"add": add, "mul": multiply, "concat": concat}


def output_shape(net: Layer, input_shape: Any) -> Shape:
    """The shape of the net's output for a batch of shape `input_shape` (N, C, …); nothing is computed.

    Raises ShapeError where a layer's shape rule does, with that layer's name.
    """
    found = trace("output_shape", net, input_shape)
    return found.shape(found.outputs[""])
