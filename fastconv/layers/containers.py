"""Layers made of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

from fastconv import plan
from fastconv.layers.base import Apply, Context, Gradients, Join, Layer

if TYPE_CHECKING:
    from fastconv.layers.base import SomeLayer

__all__ = ["Concat", "Graph", "Residual", "Sequential"]

INPUT = "input"  # the name of a graph's input
JOINS = ("add", "concat")


class _Container(Layer):
    """A layer that is made of others: what it computes is what its `flow` says, planned (fastconv.plan)."""

    is_container = True

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


class Graph(_Container):
    """Layers joined to any directed acyclic graph.

        Graph({
            "stem": (Conv2d(3, 16, 3, padding=1), "input"),
            "left": (Conv2d(16, 16, 3, padding=1), "stem"),
            "sum": ("add", "stem", "left"),
            "again": ("left", "sum"),               # the layer of node "left" once more, its weights shared
            "both": ("concat", "sum", "again"),     # along the channels
        })

    A node is a layer (or the name of an earlier node, to share its layer) and the node that it reads; or "add" or
    "concat" and the nodes that it joins. Nodes stand in order: each reads "input" or earlier ones. `output` names the
    node whose value is the net's; default: the last. Raises ValueError for names that do not fit.
    """

    forks = True

    def __init__(self, nodes: Mapping[str, Any], output: str | None = None) -> None:
        self._layers: dict[str, Layer] = {}  # by the node that brought it
        self._nodes: dict[str, tuple[str, tuple[str, ...]]] = {}  # name: (layer's node or join, nodes read)
        for name, (what, *sources) in nodes.items():
            if not isinstance(name, str) or not name or "." in name or name in (INPUT, *JOINS):
                raise ValueError(f"Graph: a node cannot be called {name!r}")
            for source in sources:
                if source != INPUT and source not in self._nodes:
                    raise ValueError(f"Graph: node {name!r} reads {source!r}, which is no earlier node")
            if isinstance(what, Layer):
                self._layers[name] = what
                what = name
            elif what not in JOINS and what not in self._layers:
                raise ValueError(f"Graph: node {name!r} must be a layer, an earlier layer's name, 'add' or 'concat'")
            if len(sources) < 1 or (what not in JOINS and len(sources) != 1):
                raise ValueError(
                    f"Graph: node {name!r} reads {len(sources)} nodes; a layer reads one, a join any number"
                )
            self._nodes[name] = (what, tuple(sources))
        if not self._nodes:
            raise ValueError("Graph: there must be at least one node")
        self._output = output if output is not None else next(reversed(self._nodes))
        if self._output not in self._nodes:
            raise ValueError(f"Graph: output {output!r} is no node")

    def children(self) -> dict[str, Layer]:
        return self._layers

    @property
    def nodes(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Per node: "add", "concat" or the node whose layer it applies, and the nodes that it reads."""
        return dict(self._nodes)

    @property
    def output(self) -> str:
        """The node whose value is the net's."""
        return self._output

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        values = {INPUT: x}
        for name, (what, sources) in self._nodes.items():
            inputs = [values[source] for source in sources]
            values[name] = join(name, what, inputs) if what in JOINS else apply(name, self._layers[what], inputs[0])
        return values[self._output]


class Residual(_Container):
    """body(x) + shortcut(x), the shortcut x itself by default (He et al., 2015); no activation after the sum."""

    forks = True

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self._layers = {"body": body} if shortcut is None else {"body": body, "shortcut": shortcut}

    def children(self) -> dict[str, Layer]:
        return self._layers

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

    def children(self) -> dict[str, Layer]:
        return self._layers

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        return join("", "concat", [apply(name, layer, x) for name, layer in self._layers.items()])
