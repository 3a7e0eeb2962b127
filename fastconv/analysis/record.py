"""`record`: every variable of a net on one batch, forward and backward, by layer."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from fastconv import notebook, plan, random
from fastconv.analysis.walkthrough.numbers import shown
from fastconv.errors import position
from fastconv.layers.base import Context, Layer
from fastconv.ops import OPS
from fastconv.plan.names import kind_of, name_of
from fastconv.plan.steps import Array, Enter, Item, LayerStep, Step
from fastconv.training.step import Loss, LossLike, resolve_loss

__all__ = ["Entry", "Record", "record"]

MOST_NUMBERS = 64  # of an array that is printed
MOST_ROWS = 30  # of a picture
MAPS = 6
HEADING = ("layer", "y", "mean |y|", "largest |y|", "mean |dy|", "parameters", "norm of their gradients")


@dataclass(frozen=True)
class Entry:
    """A layer as it is applied once, or a sum or concatenation of branches; prints as its arrays.

    x, y         what goes in and what comes out; of what reads several values x is a tuple, one for each of them
    dx, dy       the loss's gradients to them (None without a target); dx a tuple where x is one
    parameters   {name: array}, as they were; gradients   {name: array} of this use alone, of those that are trained
    """

    name: str
    kind: str  # the layer's class; what joins: "Add", "Concat", "Multiply"; an operation or an array of a graph
    x: Any
    y: Any
    dx: Any = None
    dy: np.ndarray | None = None
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.name} {self.kind}"]
        xs = self.x if isinstance(self.x, tuple) else (self.x,)
        dxs = self.dx if isinstance(self.dx, tuple) else (self.dx,) * len(xs)
        named: list[tuple[str, Any]] = []
        for number, (x, dx) in enumerate(zip(xs, dxs, strict=True)):
            which = f"[{number}]" if len(xs) > 1 else ""
            named += [(f"x{which}", x), (f"dx{which}", dx)]
        ys = self.y if isinstance(self.y, tuple) else (self.y,)
        named += [(f"y[{number}]" if len(ys) > 1 else "y", y) for number, y in enumerate(ys)]
        named += [("dy", self.dy), *self.parameters.items()]
        named += [(f"gradient of {name}", gradient) for name, gradient in self.gradients.items()]
        for name, array in named:
            if array is not None:
                lines.append(f"{name} {np.shape(array)}{_numbers(np.asarray(array))}")
        return "\n".join(lines)

    __repr__ = __str__


class Record:
    """What `fastconv.analysis.record` returns: prints as a table, shows in a notebook.

    rec[name]    the `Entry` of that layer, by its name or its place; "softmax" and "loss", where there is one, too
    names        of the net's layers, in the order in which they ran; a layer that is shared has one for each use
    x, y         the net's input and output, of several tuples;  dx, dy   the gradients to them, None without a target
    loss         its value, None without a target
    gradients    {name: array} of all trained parameters, the sum of all uses: what `value_and_grad` gives
    """

    def __init__(
        self, net: str, inputs: tuple[str, ...], entries: list[Entry], ends: list[Entry], x: Any, y: Any, dx: Any,
        gradients: dict[str, np.ndarray],
    ) -> None:  # fmt: skip
        self.net, self._inputs = net, inputs
        self._entries, self._ends = entries, ends
        self.names = [entry.name for entry in entries]
        self.x, self.y, self.dx = x, y, dx
        self.gradients = gradients
        self.loss = float(ends[-1].y) if ends else None

    @property
    def dy(self) -> Any:
        """The loss's gradient to the net's output."""
        return self._ends[-1].dx if self._ends else None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return any(entry.name == name for entry in [*self._entries, *self._ends])

    @overload
    def __getitem__(self, key: str | int) -> Entry: ...
    @overload
    def __getitem__(self, key: slice) -> list[Entry]: ...
    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self._entries[key if isinstance(key, slice) else position("record", "entry", key, len(self))]
        for entry in [*self._entries, *self._ends]:
            if entry.name == key:
                return entry
        raise KeyError(f"no layer is called {key!r}; there are {', '.join(self.names) or 'none'}")

    # --- as text

    def rows(self) -> list[tuple[str, ...]]:
        """The table: a heading, and a row for each entry."""
        rows: list[tuple[str, ...]] = [HEADING]
        for entry in [*self._entries, *self._ends]:
            count = sum(array.size for array in entry.parameters.values())
            norm = math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in entry.gradients.values()))
            rows.append(
                (
                    f"{entry.name} {entry.kind}".strip(),
                    _sizes(entry.y),
                    _mean(_first(entry.y)),
                    _largest(_first(entry.y)),
                    _mean(entry.dy),
                    f"{count:,}" if count else "",
                    shown(norm) if entry.gradients else "",
                )
            )
        return rows

    @property
    def head(self) -> str:
        loss = "" if self.loss is None else f"; loss {shown(self.loss)}"
        return f"{self.net}: x {_sizes(self.x)}{loss}"

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), *map(str.rjust, row[2:], widths[2:])])
                 for row in rows]  # fmt: skip
        rule = "-" * max(map(len, lines))
        return "\n".join(line.rstrip() for line in [lines[0], rule, *lines[1:], rule, self.head])

    __repr__ = __str__

    # --- as pictures

    def plot(self, path: str | os.PathLike[str] | None = None, image: int = 0, maps: int = MAPS) -> Any:
        """A matplotlib figure of one image of the batch, written to `path` if it is given (.png, .svg or .pdf): a row
        for each layer, its maps on the left and the loss's gradients to them on the right (blue below 0, orange above).

        `maps` of a layer's channels at most are drawn, of a volume the slice in the middle, of a vector all numbers.
        Raises ImportError without matplotlib (extra [plot]), IndexError for an image that is not there, OSError.
        """
        from fastconv.plots import saved

        return saved(self.figure(image, maps), path)

    def figure(self, image: int = 0, maps: int = MAPS) -> Any:
        """The same as a matplotlib Figure."""
        from fastconv.plots import record_of_maps

        image = position("record", "image", image, len(_first(self.x)))
        if maps < 1:
            raise ValueError(f"record: maps must be at least 1, got {maps}")
        xs = self.x if isinstance(self.x, tuple) else (self.x,)
        dxs = self.dx if isinstance(self.x, tuple) else (self.dx,)
        entries = [(name, "", x, dx) for name, x, dx in zip(self._inputs, xs, dxs, strict=True)]
        entries += [(e.name, e.kind, e.y, e.dy) for e in [*self._entries, *self._ends]]
        rows = [
            (f"{name} {kind}".strip(), y[image], None if dy is None else dy[image])
            for name, kind, y, dy in entries
            if isinstance(y, np.ndarray) and y.ndim > 1 and len(y) == len(xs[0])  # a batch, no array of a graph's
        ]
        return record_of_maps(rows[:MOST_ROWS], maps=maps, title=self.head, left_out=max(0, len(rows) - MOST_ROWS))

    def _repr_html_(self) -> str:
        return notebook.table(self.rows(), left=2, above=self.head) + self._picture()

    def _picture(self) -> str:
        """The picture as a part of an HTML page, where there is matplotlib and an image."""
        if not len(_first(self.x)):
            return ""
        from fastconv import plots

        try:
            figure = self.figure()
        except ImportError:
            return ""
        return notebook.image(plots.as_png(figure, plots.SCREEN), "maps and their gradients, by layer")


def record(net: Layer, x: Any, target: Any = None, loss: LossLike | None = None) -> Record:
    """Every forward and backward variable of `net` on the batch x: before and after each activation, flattened,
    softmax, loss, and the gradients of all of them.

        rec = record(net, x, y)
        print(rec)                          a table
        rec["2"].x, rec["2"].dy             what goes into layer "2", and the loss's gradient to its output
        rec["0"].gradients["weight"]        the gradient to a filter

    net      a layer or a net of layers; it computes in its own mode (`train` or `eval`, each part's own), as net(x)
    x        (N, C, …)
    target   what the loss takes; without it there are forward variables alone
    loss     as `value_and_grad` takes it; default: "cross_entropy"

    Nothing of the net is changed, and no later change of the net is seen: a net in training mode uses the batch's
    statistics, as it would, but its running statistics stay as they are, and so does the generator that dropout draws
    from (the next call draws the same zeros). `gradients` are those of `value_and_grad` for a net in training mode;
    each entry's dx and gradients are the pullback's of that part at its dy.

    Raises TypeError for what is no net, no array or no loss, and what the net and the loss raise.
    Source: the chapter's tables of variables, forward and backward.
    """
    if not isinstance(net, Layer):
        raise TypeError(f"record: net must be a layer or a net of layers, got {net!r}")
    if target is None and loss is not None:
        raise TypeError("record: a loss needs a target")
    resolved = None if target is None else resolve_loss("cross_entropy" if loss is None else loss, net)
    net = copy.deepcopy(net)
    way = plan.plan_of(net, fusing=False)
    given = net.cast(x)
    context = Context(rng=copy.deepcopy(random.default_generator()))
    values: dict[int, Any] = dict(zip(way.inputs, given if len(way.inputs) > 1 else (given,), strict=True))
    saved = []
    for step in way.steps:
        values[step.output], kept = step.call([values[value] for value in step.inputs], context)
        saved.append(kept)
    output = tuple(values[value] for value in way.outputs) if way.several else values[way.outputs[0]]
    ends: list[Entry] = []
    sent: dict[int, Any] = {}
    if resolved is not None:
        ends, dy = _ends(resolved, output, target)
        for value, part in zip(way.outputs, dy if way.several else (dy,), strict=True):
            if part is not None:
                sent[value] = sent[value] + part if value in sent else part
    found: dict[int, tuple[tuple[Any, ...], dict[str, np.ndarray]]] = {}
    gradients: dict[str, np.ndarray] = {}
    for index, step in reversed(list(enumerate(way.steps))):
        if step.output not in sent:
            continue
        here = sent[step.output]
        parts, of_layers = step.backward(here, saved[index], (True,) * len(step.inputs))
        of_layers = of_layers if not isinstance(step, Array) or step.is_trainable() else []
        found[index] = parts, {name: each for inside in of_layers for name, each in inside.items()}
        for value, part in zip(step.inputs, parts, strict=True):
            if part is not None:
                sent[value] = _added(step, sent[value], part, here) if value in sent else part
        for prefix, inside in zip(way.prefixes[index], of_layers, strict=False):
            for name, gradient in inside.items():
                full = way.known(prefix, name)
                gradients[full] = gradients[full] + gradient if full in gradients else gradient
    if resolved is not None:  # a branch that does not reach the output
        for name, parameter in net.parameters().items():
            gradients.setdefault(name, np.zeros_like(parameter))
    entries = [
        _entry(step, values, sent, *found.get(index, ((None,) * len(step.inputs), {})))
        for index, step in enumerate(way.steps)
        if not isinstance(step, Enter)
    ]
    back = tuple(sent.get(value) for value in way.inputs)
    names = tuple(getattr(net, "inputs", ("input",)))
    dx = back if len(back) > 1 else back[0]
    return Record(type(net).__name__, names, entries, ends, given, output, dx, gradients)


def _added(step: Step, one: Any, other: Any, dy: Any) -> Any:
    """What two steps send to one value: a new array, for both are kept."""
    return one + other if isinstance(one, np.ndarray) else step.accumulate(one, other, dy)


def _entry(
    step: Step, values: dict[int, Any], sent: dict[int, Any], parts: tuple[Any, ...], gradients: dict[str, np.ndarray]
) -> Entry:  # fmt: skip
    xs = tuple(values[value] for value in step.inputs)
    single = isinstance(step, LayerStep | Item)
    dy = sent.get(step.output)
    there = any(part is not None for part in parts)
    return Entry(
        name=name_of(step) or kind_of(step),  # a net that is one layer has no name
        kind=kind_of(step),
        x=xs[0] if single else xs,
        y=values[step.output],
        dx=(parts[0] if isinstance(parts[0], np.ndarray) else None) if single else parts if there else None,
        dy=dy if isinstance(dy, np.ndarray) else None,
        parameters=_parameters(step),
        gradients=gradients,
    )


def _parameters(step: Step) -> dict[str, np.ndarray]:
    return {
        full: getattr(layer, name) for each in step.layers for full, layer, name in each.named_arrays(buffers=False)
    }


def _ends(loss: Any, output: Any, target: Any) -> tuple[list[Entry], Any]:
    """What stands behind the net, softmax, where the loss has one inside, and the loss; the gradient to the output."""
    value, weight, gradient = loss.with_gradient(output, target)
    entries = []
    if isinstance(loss, Loss) and loss.name == "cross_entropy":
        probabilities = OPS["softmax"].forward(output, dim=1)[0]
        shares = _shares(loss, output, target)
        scale = 1.0 if loss.options.get("reduction") == "sum" else weight
        with np.errstate(all="ignore"):
            slope = np.where(shares == 0, 0.0, -shares / (probabilities.astype(np.float64) * scale))
        entries.append(Entry("softmax", "", output, probabilities, gradient, slope.astype(output.dtype)))
    dtype = _first(output).dtype
    kind = str(getattr(loss, "name", ""))
    entries.append(Entry("loss", kind, output, np.asarray(value, dtype), gradient, np.ones((), dtype)))
    return entries, gradient


def _shares(loss: Loss, output: np.ndarray, target: Any) -> np.ndarray:
    """What cross-entropy multiplies each -log(p) by, before it divides by the batch's weight."""
    target = np.asarray(target)
    classes = output.shape[1]
    shares: np.ndarray
    if target.shape == output.shape and target.dtype.kind == "f":
        shares = target.astype(np.float64)
    else:
        shares = np.moveaxis((target[..., np.newaxis] == np.arange(classes)).astype(np.float64), -1, 1)
    smoothing = float(loss.options.get("label_smoothing", 0))
    counted = np.ones_like(shares)
    if target.shape != output.shape:
        counted = np.expand_dims(target != loss.ignore_index, 1)
    shares = ((1 - smoothing) * shares + smoothing / classes) * counted
    weights = loss.options.get("weight")
    if weights is not None:
        shares = shares * np.asarray(weights, np.float64).reshape(1, -1, *(1,) * (output.ndim - 2))
    return shares


# --- numbers ---------------------------------------------------------------------------------------------------------


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def _sizes(value: Any) -> str:
    return ", ".join("x".join(map(str, np.shape(each))) for each in (value if isinstance(value, tuple) else (value,)))


def _mean(array: Any) -> str:
    return "" if array is None or not np.size(array) else shown(float(np.abs(array, dtype=np.float64).mean()))


def _largest(array: Any) -> str:
    return "" if not np.size(array) else shown(float(np.abs(array, dtype=np.float64).max()))


def _numbers(array: np.ndarray) -> str:
    """An array's numbers, where they are few."""
    if array.size > MOST_NUMBERS:
        return ""
    if array.ndim == 0:
        return f" = {shown(float(array))}"
    text = np.array2string(
        array.astype(np.float64), separator=", ", formatter={"float_kind": lambda v: shown(float(v))}
    )
    return "\n  " + text.replace("\n", "\n  ")
