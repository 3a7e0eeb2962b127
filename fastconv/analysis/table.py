"""`net.summary(input_shape)`: a net as a table, and as data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from fastconv import engine, notebook
from fastconv.analysis.reach import Sliding, reach_of
from fastconv.analysis.receptive import Reader, ReceptiveField
from fastconv.analysis.steps import Shape, trace
from fastconv.engine.phases import across, phases
from fastconv.layers.base import Context, Layer, OpLayer
from fastconv.window import AXES, Window

__all__ = ["Row", "Summary", "flops_of", "summary"]


@dataclass(frozen=True)
class Row:
    """A layer as it is applied once, or the sum or concatenation at the end of branches."""

    name: str  # as in state_dict
    kind: str  # the layer's class, "add" or "concat"
    input_shape: Shape
    output_shape: Shape
    parameters: int  # 0 where an earlier row has counted them
    shared_with: str | None  # that row
    flops: int
    receptive_field: ReceptiveField | None  # None: nobody knows what a layer on the way reads
    algorithm: str  # of a convolution, in inference


@dataclass(frozen=True)
class Summary:
    """What `net.summary` returns: prints as a table; rows by place or name, totals, `as_dict()` for JSON."""

    net: str
    input_shape: Shape
    output_shape: Shape
    rows: tuple[Row, ...]
    parameters: int
    trainable: int  # parameters that are not frozen
    flops: int

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, key: int | str) -> Row:
        if isinstance(key, str):
            for row in self.rows:
                if row.name == key:
                    return row
            raise KeyError(key)
        return self.rows[key]

    def as_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists; a fractional stride as a text "1/2"."""
        return {
            "net": self.net,
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
            "parameters": self.parameters,
            "trainable": self.trainable,
            "flops": self.flops,
            "layers": [_as_data(row) for row in self.rows],
        }

    def _cells(self) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = [
            ("layer", "output shape", "parameters", "FLOPs", "receptive field", "algorithm")
        ]
        for row in self.rows:
            lines.append(
                (
                    f"{row.name} {row.kind}".strip() + (f" (as {row.shared_with})" if row.shared_with else ""),
                    _sizes(row.output_shape),
                    f"{row.parameters:,}" if row.parameters else "",
                    _engineering(row.flops) if row.flops else "",
                    _seen(row.receptive_field),
                    row.algorithm,
                )
            )
        return lines

    @property
    def _foot(self) -> str:
        frozen = f" ({self.parameters - self.trainable:,} frozen)" if self.trainable < self.parameters else ""
        return (
            f"{self.net}: {_sizes(self.input_shape)} to {_sizes(self.output_shape)}, {self.parameters:,} parameters"
            f"{frozen}, {_engineering(self.flops)}FLOPs forward"
        )

    def __str__(self) -> str:
        lines = self._cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = (False, False, True, True, False, False)
        text = [
            "  ".join(f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in zip(line, widths, right, strict=True))
            for line in lines
        ]
        text.insert(1, "-" * max(map(len, text)))
        text += [text[1], self._foot]
        return "\n".join(line.rstrip() for line in text)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return notebook.table(self._cells(), left=2, below=self._foot)


def summary(net: Layer, input_shape: Any) -> Summary:
    """A net as a table for a batch of shape `input_shape` (N, C, …); nothing is computed.

    A row per layer and per join of branches: output shape, parameters (buffers do not count; a shared layer's once),
    FLOPs of the forward pass over the batch, receptive field ("212x212 /32": size and stride; see
    `fastconv.analysis.receptive_field`) and a convolution's algorithm. FLOPs are two per multiply-add of convolutions
    and fully-connected layers, padding taps included and inserted zeros not; the others cost memory traffic, no
    products worth counting.

    Raises ShapeError where a layer's shape rule does, with that layer's name.
    """
    found = trace("summary", net, input_shape)
    reader = Reader("summary", found)
    rows: list[Row] = []
    counted: dict[int, str] = {}  # the row that has an array's elements
    for place, step in enumerate(found.steps):
        arrays = [] if step.join else [getattr(layer, name) for _, layer, name in step.layer.named_arrays(False)]
        new = [array for array in arrays if id(array) not in counted]
        shared = next((counted[id(array)] for array in arrays if id(array) in counted), None)
        counted |= {id(array): step.name for array in new}
        rows.append(
            Row(
                name=step.name,
                kind=step.join or str(getattr(step.layer, "kind", type(step.layer).__name__)),
                input_shape=step.x_shape,
                output_shape=step.y_shape,
                parameters=sum(array.size for array in new),
                shared_with=shared,
                flops=0 if step.join else flops_of(step.layer, step.x_shape, step.y_shape),
                receptive_field=reader.field(place) if reader.knows(place) else None,
                algorithm="" if step.join else algorithm_of(step.layer, step.x_shape, step.y_shape),
            )
        )
    return Summary(
        net=type(net).__name__,
        input_shape=found.input_shape,
        output_shape=found.shape(found.outputs[""]),
        rows=tuple(rows),
        parameters=sum(getattr(layer, name).size for _, layer, name in net.named_arrays(buffers=False)),
        trainable=sum(array.size for array in net.parameters().values()),
        flops=sum(row.flops for row in rows),
    )


# --- a layer's columns -----------------------------------------------------------------------------------------------


def algorithm_of(layer: Layer, x_shape: Shape, y_shape: Shape) -> str:
    """What computes a convolution in inference: the engine's answer; there may be several for a rational stride."""
    algorithm = layer.options(Context(training=False)).get("algorithm", "auto") if isinstance(layer, OpLayer) else ""
    policy = engine.Policy.now(algorithm)
    chosen = [engine.plan(way, problem, policy).algorithm for way, problem in problems_of(layer, x_shape, y_shape)]
    return "+".join(dict.fromkeys(chosen))


def problems_of(layer: Layer, x_shape: Shape, y_shape: Shape) -> list[tuple[engine.Direction, engine.Problem]]:
    """What a convolution's forward pass asks the engine for; nothing for other layers."""
    if not isinstance(layer, OpLayer) or not layer.op.startswith("conv"):
        return []
    options, weight = layer.options(Context(training=False)), layer.weight  # type: ignore[attr-defined]
    front = (1,) * (AXES - len(x_shape[2:]))
    (n, c, *small), (_, k, *large) = x_shape, y_shape
    groups = options["groups"]
    given = options["stride"], options["padding"], options["dilation"]
    if layer.op.startswith("conv_transpose"):  # the gradient to the input of the convolution from y to x
        window = Window.parse(layer.op, large, weight.shape[2:], *given).lift()
        problem = engine.Problem(n, k, (*front, *large), c, (*front, *small), window, groups, weight.dtype)
        return [("gradient_input", problem)]
    window = Window.parse(layer.op, small, weight.shape[2:], *given).lift()
    output = (*front, *large)
    upwards = across(window, output)
    if upwards is not None:
        return [("gradient_input", engine.Problem(n, k, output, c, (*front, *small), upwards, groups, weight.dtype))]
    return [
        ("forward", engine.Problem(n, c, (*front, *small), k, part, phase.window, groups, weight.dtype))
        for phase in phases(window, output)
        for part in [tuple(len(range(m)[s]) for m, s in zip(output, phase.outputs[1:], strict=True))]
    ]


def flops_of(layer: Layer, x_shape: Shape, y_shape: Shape) -> int:
    """Two per multiply-add of a convolution or a fully-connected layer, also inside a pooling net; of others 0."""
    op = layer.op if isinstance(layer, OpLayer) else ""
    if op == "linear":
        return 2 * math.prod(y_shape) * layer.weight.shape[1]  # type: ignore[attr-defined,no-any-return]
    if op.startswith("conv_transpose"):
        return 2 * math.prod(x_shape) * math.prod(layer.weight.shape[1:])  # type: ignore[attr-defined]
    if op.startswith("conv"):
        products: int = 2 * math.prod(y_shape[:2]) * layer.weight.shape[1]  # type: ignore[attr-defined]
        for taps, m in zip(reach_of(layer, x_shape, y_shape) or (), y_shape[2:], strict=True):
            assert isinstance(taps, Sliding)
            products *= m * taps.kernel if taps.up == 1 else len(taps.read(np.arange(m))[0])
        return products
    if op == "locally_connected2d":
        return 2 * math.prod(y_shape) * math.prod(layer.weight.shape[1:4])  # type: ignore[attr-defined]
    if type(layer).__name__ == "NetworkPool2d":
        count = math.prod(taps.kernel for taps in reach_of(layer, x_shape, y_shape) or () if isinstance(taps, Sliding))
        return summary(layer.children()["network"], (math.prod(y_shape), count)).flops
    return 0


# --- as text ---------------------------------------------------------------------------------------------------------


def _sizes(values: Sequence[Any]) -> str:
    return "x".join(map(str, values))


def _engineering(value: int) -> str:
    """Three digits and a prefix: 15.5 G."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:
            return f"{float(f'{value / limit:.3g}'):g} {prefix}"
    return f"{value} "


def _seen(field: ReceptiveField | None) -> str:
    """Size and stride: "3x3 /1", "2x3 /(1/2, 1)"; without a stride where every neuron sees the whole input."""
    if field is None:
        return "?"
    if set(field.stride) <= {0}:
        return _sizes(field.size)
    strides = field.stride if len(set(field.stride)) > 1 else field.stride[:1]
    listed = ", ".join(map(str, strides))
    return f"{_sizes(field.size)} /" + (listed if listed.isdecimal() else f"({listed})")


def _as_data(row: Row) -> dict[str, Any]:
    data = asdict(row)
    field = row.receptive_field
    data["receptive_field"] = field and {
        "size": list(field.size),
        "stride": [str(s) if isinstance(s, Fraction) else s for s in field.stride],
        "offset": list(field.offset),
    }
    return data | {"input_shape": list(row.input_shape), "output_shape": list(row.output_shape)}
