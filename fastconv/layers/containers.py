"""Layers made of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastconv.errors import ShapeError
from fastconv.layers.base import Context, Gradients, Layer

__all__ = ["Sequential"]


class Sequential(Layer):
    """One layer after another: `Sequential(a, b, c)`, named "0", "1", … , or `Sequential({"name": a, …})`."""

    def __init__(self, *layers: Layer | Mapping[str, Layer]) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = {str(name): layer for name, layer in layers[0].items()}
        else:
            named = {str(index): layer for index, layer in enumerate(layers)}  # type: ignore[misc]
        for name, layer in named.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: {name!r} must be a layer, got {layer!r}")
            if not name or "." in name:
                raise ValueError(f"Sequential: a layer's name must not be empty or hold a dot, got {name!r}")
        self._layers: dict[str, Layer] = named

    def children(self) -> dict[str, Layer]:
        return self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    def __getitem__(self, index: int | str | slice) -> Layer:
        """The layer at a place or with a name; a slice is a Sequential that shares the layers."""
        if isinstance(index, str):
            return self._layers[index]
        layers = list(self._layers.values())[index]
        return Sequential(*layers) if isinstance(layers, list) else layers

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, list[Any]]:
        saved = []
        for name, layer in self._layers.items():
            try:
                x, kept = layer.forward(x, context)
            except (ShapeError, MemoryError) as error:
                raise type(error)(f"{error} (in layer {name}, {type(layer).__name__})") from None
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
        for (name, layer), kept, need in reversed(list(zip(self._layers.items(), saved, wanted, strict=True))):
            if not need and not layer.is_trainable():
                gradient = None
                break
            assert gradient is not None
            gradient, inside = layer.backward(gradient, kept, need)
            gradients.update({f"{name}.{key}": value for key, value in inside.items()})
        if not self._layers:
            return dy, gradients
        return gradient, gradients
