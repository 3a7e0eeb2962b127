"""Layers made of layers: one after another, and branches that meet again; `graph.py` has any other form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from fastconv.arrays import empty_like, logical
from fastconv.errors import ShapeError
from fastconv.layers.base import Apply, Context, Gradients, Join, Layer
from fastconv.machine.memory import allocate

if TYPE_CHECKING:
    from fastconv.layers.base import SomeLayer

__all__ = ["Concat", "Residual", "Sequential"]


def named_forward(name: str, layer: Layer, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
    """`layer.forward`, whose errors say in which layer."""
    try:
        return layer.forward(x, context)
    except (ShapeError, MemoryError) as error:
        raise type(error)(f"{error} (in layer {name}, {type(layer).__name__})") from None


def gather(gradients: Gradients, name: str, inside: Gradients) -> None:
    """Put the gradients of the layer called `name` to the others; a layer that was applied twice has their sum."""
    for key, value in inside.items():
        full = f"{name}.{key}"
        gradients[full] = gradients[full] + value if full in gradients else value


class Sequential(Layer):
    """One layer after another: `Sequential(a, b, c)`, named "0", "1", … , or `Sequential({"name": a, …})`."""

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = {str(name): layer for name, layer in layers[0].items()}
        else:
            named = {str(index): layer for index, layer in enumerate(layers)}  # type: ignore[misc]
        for name, layer in named.items():
            if not isinstance(layer, Layer):
                instead = "; write Sequential(*layers)" if isinstance(layer, list | tuple) else ""
                got = type(layer).__name__ if instead else repr(layer)
                raise TypeError(f"Sequential: {name!r} must be a layer, got {got}{instead}")
            if not name or "." in name:
                raise ValueError(f"Sequential: a layer's name must not be empty or hold a dot, got {name!r}")
        self._layers: dict[str, Any] = named

    def children(self) -> dict[str, Layer]:
        return self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[SomeLayer]:
        return iter(self._layers.values())

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> SomeLayer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: Any) -> Any:
        """The layer at a place or with a name; a slice is a Sequential that shares the layers."""
        if isinstance(index, str):
            return self._layers[index]
        layers = list(self._layers.values())[index]
        return Sequential(*layers) if isinstance(layers, list) else layers

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        for name, layer in self._layers.items():
            x = apply(name, layer, x)
        return x

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, list[Any]]:
        saved = []
        for name, layer in self._layers.items():
            x, kept = named_forward(name, layer, x, context)
            saved.append(kept)
        return x, saved

    def backward(self, dy: np.ndarray, saved: list[Any], need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        """Stops at the first layer that anything still needs."""
        wanted = []  # whether the gradient to each layer's input is needed
        need = need_dx
        for layer in self._layers.values():
            wanted.append(need)
            need = need or layer.is_trainable()
        gradients: Gradients = {}
        gradient: np.ndarray | None = dy
        names = {id(layer): name for name, layer in reversed(self._layers.items())}  # its first, where it is shared
        for layer, kept, need in reversed(list(zip(self._layers.values(), saved, wanted, strict=True))):
            if not need and not layer.is_trainable():
                gradient = None
                break
            assert gradient is not None
            gradient, inside = layer.backward(gradient, kept, need)
            gather(gradients, names[id(layer)], inside)
        if not self._layers:
            return dy, gradients
        return gradient, gradients


class Residual(Layer):
    """body(x) + shortcut(x), the shortcut x itself by default (He et al., 2015); no activation after the sum."""

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self._layers = {"body": body} if shortcut is None else {"body": body, "shortcut": shortcut}

    def children(self) -> dict[str, Layer]:
        return self._layers

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        results = [apply(name, layer, x) for name, layer in self._layers.items()]
        return join("", "add", results if len(results) > 1 else [*results, x])

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        saved, results = {}, []
        for name, layer in self._layers.items():
            result, saved[name] = named_forward(name, layer, x, context)
            results.append(result)
        if len(results) == 1:
            results.append(x)
        return add("Residual", results), saved

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        gradients: Gradients = {}
        parts = []
        for name, layer in self._layers.items():
            part, inside = layer.backward(dy, saved[name], need_dx)
            gather(gradients, name, inside)
            parts.append(part)
        if len(parts) == 1:
            parts.append(dy)
        return (add("Residual", parts) if need_dx else None), gradients  # type: ignore[arg-type]


class Concat(Layer):
    """The outputs of several branches on the same input, side by side along the channels."""

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("Concat: there must be at least one branch")
        self._layers = {str(index): layer for index, layer in enumerate(layers)}

    def children(self) -> dict[str, Layer]:
        return self._layers

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        return join("", "concat", [apply(name, layer, x) for name, layer in self._layers.items()])

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        results, saved = zip(
            *(named_forward(name, layer, x, context) for name, layer in self._layers.items()), strict=True
        )
        return concat("Concat", list(results)), (saved, [result.shape[1] for result in results])

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        gradients: Gradients = {}
        parts = []
        for (name, layer), kept, part in zip(self._layers.items(), saved[0], split(dy, saved[1]), strict=True):
            dx, inside = layer.backward(part, kept, need_dx)
            gather(gradients, name, inside)
            parts.append(dx)
        return (add("Concat", parts) if need_dx else None), gradients  # type: ignore[arg-type]


def add(op: str, values: list[np.ndarray]) -> np.ndarray:
    """The sum of arrays of one shape, in order, in memory of its own."""
    first = values[0]
    for value in values[1:]:
        if value.shape != first.shape:
            raise ShapeError(f"{op}: what is added must have one shape, got {first.shape} and {value.shape}")
    total = empty_like(op, first)
    np.copyto(total, first)
    for value in values[1:]:
        total += value
    return total


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
        joined[:, at : at + value.shape[1]] = value
        at += value.shape[1]
    return joined


def split(dy: np.ndarray, channels: list[int]) -> list[np.ndarray]:
    """The parts of dy that `concat` took from each array; views."""
    stops = np.cumsum(channels)
    return [dy[:, stop - count : stop] for stop, count in zip(stops, channels, strict=True)]
