"""The kinds of steps that a plan is made of.

call(values, context) -> (y, saved)
backward(dy, saved, needs) -> (a gradient per value or None, {parameter: gradient} per layer)
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv._ext import reduce
from fastconv._ext.capture import Kernel
from fastconv.arrays import FLOATS, copy_into, empty_like, logical
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import in_memory_order, ordered, restored
from fastconv.ops.registry import FUNCTIONS

if TYPE_CHECKING:
    from fastconv.layers.base import Context, Gradients, Layer

__all__ = [
    "Add", "Array", "Concat", "Enter", "Held", "Item", "LayerStep", "Multiply", "OperationStep", "Parts", "Step", "add",
    "concat", "multiply", "multiply_backward", "named_forward", "split",
]  # fmt: skip

IS_TRAINABLE = operator.methodcaller("is_trainable")

Parts = tuple["np.ndarray | None", ...]


class Step:
    """One piece of work: values in, one value out."""

    is_fused = False

    def __init__(
        self, name: str, inputs: tuple[int, ...], output: int, layers: tuple[Layer, ...],
        within: tuple[tuple[str, str], ...],
    ) -> None:  # fmt: skip
        self.name, self.inputs, self.output, self.layers = name, inputs, output, layers
        self.within = within  # (name, class) of the layer and of the containers around it, the innermost first

    def call(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        """`forward`, whose errors say in which layer."""
        try:
            return self.forward(values, context)
        except (ShapeError, MemoryError) as error:
            raise located(error, self.within) from None

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        raise NotImplementedError

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        raise NotImplementedError

    def is_trainable(self) -> bool:
        """Whether any parameter is to be trained."""
        return any(map(IS_TRAINABLE, self.layers))

    def makes_its_own(self) -> bool:
        """Whether nobody else has what `backward` returns, but for dy; what `register` made may keep it."""
        return all(layer.is_plain() and getattr(layer, "op", "") not in FUNCTIONS for layer in self.layers)

    def accumulate(self, one: np.ndarray, other: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """one + other, a gradient that this step made of dy: into `other` where that is memory of its own."""
        if self.makes_its_own() and not np.may_share_memory(other, dy):
            return add_to(self.name, other, one)
        return add(self.name, [one, other])

    def __str__(self) -> str:
        return f"{self.name}, {type(self).__name__}"


class LayerStep(Step):
    """A layer, or a container that is one piece."""

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        return self.layers[0].forward(values[0], context)

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        dx, gradients = self.layers[0].backward(dy, saved, needs[0])
        return (dx,), [gradients]

    def __str__(self) -> str:
        return f"{self.name}, {type(self.layers[0]).__name__}"


class Enter(Step):
    """A value at the door of a container that reads it more than once."""

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        return values[0], None

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        return (dy,), []


class Add(Step):
    """The sum of values."""

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        return add(self.name, values), None

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        return (dy,) * len(self.inputs), []


class Concat(Step):
    """Values side by side along the channels."""

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        return concat(self.name, values), [value.shape[1] for value in values]

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        return tuple(split(dy, saved)), []


class Multiply(Step):
    """The product of values, element by element."""

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        return multiply(self.name, values), values

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        return tuple(multiply_backward(dy, saved)), []


class Held(NamedTuple):
    """An array of a layer that a graph's nodes read as a value."""

    name: str
    layer: Layer
    attribute: str

    @property
    def array(self) -> np.ndarray:
        array: np.ndarray = getattr(self.layer, self.attribute)
        return array


class Array(Step):
    """An array that a layer holds, as a value."""

    def __init__(self, held: Held, output: int, within: tuple[tuple[str, str], ...]) -> None:
        super().__init__(held.name, (), output, (held.layer,), within)
        self.attribute = held.attribute

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        array: np.ndarray = getattr(self.layers[0], self.attribute)
        return array.copy(order="K") if context.snapshot else array, None

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        return (), [{self.attribute: dy}]

    def is_trainable(self) -> bool:
        layer = self.layers[0]
        return self.attribute in layer.parameter_names and self.attribute not in layer._frozen


class OperationStep(Step):
    """An operation of several values of a graph; None for an argument that is left out."""

    def __init__(
        self, name: str, arguments: tuple[int | None, ...], output: int, operation: Any, graph: Any,
        within: tuple[tuple[str, str], ...],
    ) -> None:  # fmt: skip
        inputs = tuple(value for value in arguments if value is not None)
        super().__init__(name, inputs, output, (operation,), within)
        self.given = tuple(value is not None for value in arguments)
        self.graph = graph  # a weak reference

    def call(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        try:
            return self.forward(values, context)
        except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError) as error:
            raise located(self.layers[0].refusal(error), self.within) from None  # type: ignore[attr-defined]

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        operation: Any = self.layers[0]
        source = iter(values)
        x = tuple(next(source) if given else None for given in self.given)
        dtype = self.graph().dtype if operation.follows_type else None
        result: tuple[np.ndarray, Any] = operation.forward(x, context, dtype)
        return result

    def backward(self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        need = iter(needs)
        wanted = tuple(next(need) if given else False for given in self.given)
        parts, _ = self.layers[0].backward(dy, saved, wanted)  # type: ignore[arg-type]
        assert parts is not None
        return tuple(part for part, given in zip(parts, self.given, strict=True) if given), [{}]

    def is_trainable(self) -> bool:
        return False  # arrays of its own are steps of their own

    def accumulate(self, one: np.ndarray, other: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return add(self.name, [one, other])


class Item(Step):
    """One of the outputs of a step that has several."""

    def __init__(self, name: str, value: int, output: int, index: int, within: tuple[tuple[str, str], ...]) -> None:
        super().__init__(name, (value,), output, (), within)
        self.index = index

    def forward(self, values: list[Any], context: Context) -> tuple[np.ndarray, Any]:
        return values[0][self.index], None

    def backward(self, dy: Any, saved: Any, needs: tuple[bool, ...]) -> tuple[Parts, list[Gradients]]:
        return ({self.index: dy},), []  # type: ignore[return-value]

    def accumulate(self, one: Any, other: Any, dy: Any) -> Any:
        merged = dict(one)
        for index, part in other.items():
            merged[index] = merged[index] + part if index in merged else part
        return merged


def located(error: Exception, within: tuple[tuple[str, str], ...]) -> Exception:
    """The error, saying in which layer: (name, class), and those around it."""
    return type(error)(f"{error}{''.join(f' (in layer {name}, {kind})' for name, kind in within)}")


def named_forward(name: str, layer: Layer, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
    """`layer.forward`, whose errors say in which layer."""
    try:
        return layer.forward(x, context)
    except (ShapeError, MemoryError) as error:
        raise located(error, ((name, type(layer).__name__),)) from None


def add(op: str, values: list[np.ndarray]) -> np.ndarray:
    """The sum of arrays of one shape, in order, in memory of its own."""
    first = values[0]
    for value in values[1:]:
        if value.shape != first.shape:
            raise ShapeError(f"{op}: what is added must have one shape, got {first.shape} and {value.shape}")
    moved, order = in_memory_order(op, first)
    total = allocate(op, moved.shape, np.result_type(*values))
    one, *others = (ordered(op, value, order).astype(total.dtype, copy=False).reshape(-1) for value in values)
    y, threads = total.reshape(-1), threads_for(3 * total.nbytes)
    if not others or total.dtype not in FLOATS:
        y[...] = sum(others, start=one)
    else:
        reduce.add(one, others[0], y, threads)
        for other in others[1:]:
            reduce.add(other, None, y, threads)
    return restored(total, order)


def multiply(op: str, values: list[np.ndarray]) -> np.ndarray:
    """The product of arrays of one shape, in order, in memory of its own."""
    first = values[0]
    for value in values[1:]:
        if value.shape != first.shape:
            raise ShapeError(f"{op}: what is multiplied must have one shape, got {first.shape} and {value.shape}")
    product = empty_like(op, first)
    np.copyto(product, first)
    for value in values[1:]:
        product *= value
    return product


def multiply_backward(dy: np.ndarray, values: list[np.ndarray]) -> list[np.ndarray]:
    """The gradient of `multiply` to each of the arrays: dy times all the others."""
    return [multiply("mul", [dy, *values[:i], *values[i + 1 :]]) for i in range(len(values))]


def add_to(op: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y, with x added to it in place."""
    moved, order = in_memory_order(op, y)
    if x.dtype != y.dtype or not np.may_share_memory(moved, y):
        _sum(y, x, out=y)
    else:
        reduce.add(ordered(op, x, order).reshape(-1), None, moved.reshape(-1), threads_for(3 * y.nbytes))
    return y


_sum = Kernel(np.add)


def concat(op: str, values: list[np.ndarray]) -> np.ndarray:
    """Arrays (N, C, …) side by side along C, channels-last in memory."""
    first = values[0]
    for value in values:
        if value.ndim < 2 or value.shape[:1] + value.shape[2:] != first.shape[:1] + first.shape[2:]:
            raise ShapeError(f"{op}: branches must agree in all axes but the channels, got {[v.shape for v in values]}")
    channels = sum(value.shape[1] for value in values)
    last = allocate(op, (first.shape[0], *first.shape[2:], channels), first.dtype)
    joined = logical(last)
    at = 0
    for value in values:
        copy_into(joined[:, at : at + value.shape[1]], value)
        at += value.shape[1]
    return joined


def split(dy: np.ndarray, channels: list[int]) -> list[np.ndarray]:
    """The parts of dy that `concat` took from each array; views."""
    stops = np.cumsum(channels)
    return [dy[:, stop - count : stop] for stop, count in zip(stops, channels, strict=True)]
