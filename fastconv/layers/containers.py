"""Layers made of layers: one after another, and branches that meet again; `graph.py` has any other form."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from fastconv import plan
from fastconv.errors import nearest
from fastconv.layers.base import Apply, Context, Gradients, Join, Layer

if TYPE_CHECKING:
    from fastconv.layers.base import SomeLayer

__all__ = ["Concat", "Residual", "Sequential"]


class _Container(Layer):
    """A layer that is made of others: what it computes is what its `flow` says, planned (fastconv.plan)."""

    is_container = True

    _layers: dict[str, Any]

    def children(self) -> dict[str, Layer]:
        return self._layers

    def last(self) -> Layer | None:
        """The layer that gives the output, where one does."""
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        """`net.fc = layer` puts a layer in the place of the one of that name. A container of one's own may keep layers
        by other names as well."""
        inside = self.__dict__.get("_layers", {}) if isinstance(value, Layer) else {}
        if name in inside:
            self._put(name, value)
        elif inside and type(self).is_plain_class():
            raise AttributeError(
                f"{type(self).__name__}: a layer set as an attribute would be no part of the net, and none inside is "
                f"called {name!r}{nearest(name, inside)}"
            )
        else:
            super().__setattr__(name, value)

    if not TYPE_CHECKING:  # a type checker would take any name

        def __getattr__(self, name: str) -> Layer:
            """`net.fc`: the layer of that name."""
            inside = self.__dict__.get("_layers", {})
            if name in inside:
                return inside[name]
            if name.startswith("_"):  # what Python asks for by itself
                raise AttributeError(name)
            raise AttributeError(f"{type(self).__name__} has no attribute and no layer {name!r}{nearest(name, inside)}")

    def _put(self, name: str, layer: Layer) -> None:
        """Exchange the layer of that name; the configuration says so, too."""
        self._layers = {each: layer if each == name else old for each, old in self._layers.items()}
        if "layers" in self._arguments:
            positional = list(self._layers) == [str(index) for index in range(len(self._layers))]
            self._arguments["layers"] = tuple(self._layers.values()) if positional else (self._layers,)
        else:
            self._arguments[name] = layer

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        return plan.forward(self, x, context)

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        return plan.backward(self, dy, saved, need_dx)


class Sequential(_Container):
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
        self._layers = named

    def last(self) -> Layer | None:
        return next(reversed(self._layers.values()), None)

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

    def __setitem__(self, index: SupportsIndex | str, layer: Layer) -> None:
        """Put a layer in the place of another: `net[-1] = Linear(512, 5)`."""
        if not isinstance(layer, Layer):
            raise TypeError(f"Sequential: what stands in it must be a layer, got {layer!r}")
        names = list(self._layers)
        if isinstance(index, str) and index not in names:
            raise KeyError(f"Sequential: no layer inside is called {index!r}{nearest(index, names)}")
        if not isinstance(index, str) and not -len(names) <= operator.index(index) < len(names):
            raise IndexError(f"Sequential: there are {len(names)} layers, got index {index}")
        self._put(index if isinstance(index, str) else names[index], layer)

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        for name, layer in self._layers.items():
            x = apply(name, layer, x)
        return x


class Residual(_Container):
    """body(x) + shortcut(x), the shortcut x itself by default (He et al., 2015); no activation after the sum."""

    forks = True

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self._layers = {"body": body} if shortcut is None else {"body": body, "shortcut": shortcut}

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        results = [apply(name, layer, x) for name, layer in self._layers.items()]
        return join("", "add", results if len(results) > 1 else [*results, x])


class Concat(_Container):
    """The outputs of several branches on the same input, side by side along the channels."""

    forks = True

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("Concat: there must be at least one branch")
        self._layers = {str(index): layer for index, layer in enumerate(layers)}

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        return join("", "concat", [apply(name, layer, x) for name, layer in self._layers.items()])
