"""A net as a list of steps with their shapes: what the other tools walk.

The shapes come from the layers themselves, which are run on a batch of no images: every shape rule is asked, and
nothing is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.errors import ShapeError
from fastconv.layers.base import Context, Layer
from fastconv.layers.containers import add, concat, named_forward
from fastconv.window import integers

__all__ = ["INPUT", "Shape", "Step", "Trace", "output_shape", "parse_input_shape", "trace"]

Shape = tuple[int, ...]
INPUT = -1  # the step that stands for the net's input


@dataclass(frozen=True)
class Step:
    """A layer applied once, or a join ("add", "concat") of several steps' outputs."""

    name: str  # as in state_dict; of a container's own join the container's
    layer: Layer  # of a join the container
    join: str | None
    sources: tuple[int, ...]  # steps, or INPUT
    x_shape: Shape  # of the first source
    y_shape: Shape


@dataclass(frozen=True)
class Trace:
    input_shape: Shape
    steps: tuple[Step, ...]
    outputs: dict[str, int]  # the step that gives the output of what is called so; "" the net

    def shape(self, step: int) -> Shape:
        return self.input_shape if step == INPUT else self.steps[step].y_shape

    def find(self, op: str, layer: str | int | None) -> int:
        """The step that gives the output of `layer`: its name, its place among the steps, or None for the net's."""
        if layer is None:
            return self.outputs[""]
        if isinstance(layer, str):
            if layer not in self.outputs:
                known = [name for name in self.outputs if name]
                listed = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
                raise ValueError(f"{op}: no layer is called {layer!r}; there are {listed or 'none'}")
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


def trace(op: str, net: Layer, input_shape: Any) -> Trace:
    """Follow `net` for a batch of shape `input_shape` (N, C, …), in inference mode.

    Raises what the layers raise for shapes that do not fit, with the layer's name.
    """
    if not isinstance(net, Layer):
        raise TypeError(f"{op}: net must be a layer or a net of layers, got {net!r}")
    given = parse_input_shape(op, input_shape)
    try:
        return follow_net(net, given)
    except ShapeError:
        if _fits(net, (1, *given)):
            raise ShapeError(
                f"{op}: input_shape must be (N, C, …), got {given}; with the batch axis it is {(1, *given)}"
            ) from None
        raise


def _fits(net: Layer, shape: Shape) -> bool:
    try:
        follow_net(net, shape)
    except (ValueError, TypeError, MemoryError):
        return False
    return True


def follow_net(net: Layer, given: Shape) -> Trace:
    dtype = net.dtype or np.dtype(np.float32)
    context = Context(training=False)
    steps: list[Step] = []
    outputs: dict[str, int] = {}

    def shape(step: int) -> Shape:
        return given if step == INPUT else steps[step].y_shape

    def empty(step: int) -> np.ndarray:
        return np.empty((0, *shape(step)[1:]), dtype)

    def record(name: str, layer: Layer, join: str | None, sources: list[int], y: np.ndarray) -> int:
        steps.append(Step(name, layer, join, tuple(sources), shape(sources[0]), (given[0], *y.shape[1:])))
        return len(steps) - 1

    def follow(prefix: str, layer: Layer, value: int) -> int:
        def inside(name: str) -> str:
            return f"{prefix}.{name}" if prefix and name else prefix or name

        def apply(name: str, child: Layer, x: int) -> int:
            if child is layer:
                y = named_forward(prefix, layer, empty(x), context) if prefix else layer.forward(empty(x), context)
                return record(prefix, layer, None, [x], y[0])
            return follow(inside(name), child, x)

        def join(name: str, how: str, values: list[int]) -> int:
            inputs = [empty(value) for value in values]
            y = (add if how == "add" else concat)(inside(name) if name else type(layer).__name__, inputs)
            outputs[inside(name)] = record(inside(name), layer, how, values, y)
            return outputs[inside(name)]

        outputs[prefix] = layer.flow(value, apply, join)
        return outputs[prefix]

    follow("", net, INPUT)
    return Trace(given, tuple(steps), outputs)


def output_shape(net: Layer, input_shape: Any) -> Shape:
    """The shape of the net's output for a batch of shape `input_shape` (N, C, …); nothing is computed.

    Raises ShapeError where a layer's shape rule does, with that layer's name.
    """
    found = trace("output_shape", net, input_shape)
    return found.shape(found.outputs[""])
