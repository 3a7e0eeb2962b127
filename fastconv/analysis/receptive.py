"""What a neuron sees of the input: exactly, from the layers' geometry, and by its gradients.

A region is followed from the output back to the input, as the set of positions itself: strides with inserted zeros,
dilation and branches leave gaps, and later layers read what lies between. Branches join by union.

`receptive_field` speaks of endless lines: every layer goes on beyond its borders, so that all neurons see regions of
one size and an offset may be negative (VGG-16's last pool: 212 wide, in steps of 32, from -90). `input_region` cuts
off, at every layer, what is padding there.

A layer that reads all there is (flatten, a norm by a plane's own statistics) makes a region the whole input, without
padding, but for lines that a stride has left over: its step is 0. An adaptive pool to one output is a window like any
other. Batch norm reads one position: its statistics are the running ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from fastconv.analysis.operations import operation_reach
from fastconv.analysis.reach import POINT, Sliding, Taps, Whole, reach_of, steps_together
from fastconv.analysis.steps import INPUT, JOIN, Shape, Trace, trace
from fastconv.errors import ShapeError
from fastconv.layers.base import Context, Layer
from fastconv.layers.graph import ITEM, Operation
from fastconv.machine.memory import require
from fastconv.plan.steps import multiply_backward, split
from fastconv.random import as_generator
from fastconv.window import integers

__all__ = ["ReceptiveField", "Reader", "draw_receptive_field", "empirical_receptive_field", "input_region",
           "receptive_field"]  # fmt: skip

Ints = tuple[int, ...]


class ReceptiveField(NamedTuple):
    """Per spatial axis of the input; see `receptive_field`."""

    size: Ints
    stride: tuple[int | Fraction, ...]
    offset: Ints


# --- regions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """A set of positions: mask[i] says whether position origin + i belongs to it. `whole`: some layer read all it had,
    and what was padding before it does not count."""

    mask: np.ndarray  # bool, one axis per spatial axis
    origin: Ints
    whole: bool = False

    @classmethod
    def at(cls, position: Ints) -> Region:
        return cls(np.ones((1,) * len(position), bool), position)

    @property
    def stop(self) -> Ints:
        return tuple(first + n for first, n in zip(self.origin, self.mask.shape, strict=True))

    def clip(self, spatial: Shape) -> Region:
        """Without what lies outside 0 .. n - 1."""
        keep = tuple(slice(max(0, -first), max(0, n - first)) for first, n in zip(self.origin, spatial, strict=True))
        return Region(self.mask[keep], tuple(max(0, first) for first in self.origin), self.whole)

    def unite(self, other: Region) -> Region:
        if not other.mask.any():
            return self
        if not self.mask.any():
            return other
        origin = tuple(map(min, self.origin, other.origin))
        stop = tuple(map(max, self.stop, other.stop))
        mask = np.zeros([b - a for a, b in zip(origin, stop, strict=True)], bool)
        for part in (self, other):
            mask[tuple(slice(a - o, b - o) for a, b, o in zip(part.origin, part.stop, origin, strict=True))] |= (
                part.mask
            )
        return Region(mask, origin, self.whole or other.whole)

    def bounds(self) -> tuple[slice, ...]:
        """The smallest box around the set; empty slices at 0 for an empty one."""
        if not self.mask.any():
            return (slice(0, 0),) * self.mask.ndim
        result = []
        for axis, first in enumerate(self.origin):
            inside = np.flatnonzero(self.mask.any(axis=tuple(a for a in range(self.mask.ndim) if a != axis)))
            result.append(slice(first + int(inside[0]), first + int(inside[-1]) + 1))
        return tuple(result)

    def read(self, reach: Sequence[Taps], inside: bool = False) -> Region:
        """What the region's positions read through a layer: one axis after the other. `inside`: where a border repeats
        the input, the positions that it repeats."""
        from scipy.sparse import csr_array

        mask, origin = self.mask, list(self.origin)
        for axis, taps in enumerate(reach):
            if taps == POINT:
                continue
            rows, positions = taps.read(np.arange(origin[axis], origin[axis] + mask.shape[axis]))
            if inside and isinstance(taps, Sliding):
                positions = taps.inside(positions)
            first, stop = (int(positions.min()), int(positions.max()) + 1) if len(positions) else (0, 0)
            lines = np.moveaxis(mask, axis, 0)
            require("receptive_field", (stop - first) * math.prod(lines.shape[1:]) * 5)
            matrix = csr_array(
                (np.ones(len(rows), np.int32), (positions - first, rows)), shape=(stop - first, len(lines))
            )
            read = (matrix @ lines.reshape(len(lines), -1)) > 0
            mask = np.moveaxis(read.reshape(stop - first, *lines.shape[1:]), 0, axis)
            origin[axis] = first
        return Region(mask, tuple(origin), self.whole or any(isinstance(taps, Whole) for taps in reach))


class Reader:
    """A net's steps with what each reads; `axes` picks some of the input's spatial axes, each on its own: default all.

    Where a net has flattened its axes away, the one position that is left is 0 along each of them.
    """

    def __init__(self, op: str, found: Trace) -> None:
        self.op = op
        self.found = found
        self.ndim = len(found.input_shape) - 2
        self.reach = [self._reach(place) for place in range(len(found.steps))]
        self.strides: list[tuple[Fraction, ...] | None] = []
        self.periods: list[Ints | None] = []
        for place in range(len(found.steps)):
            stride, period = self._step(place)
            self.strides.append(stride)
            self.periods.append(period)

    def spatial(self, step: int) -> Shape:
        """The last axes; of what has fewer the one position that is left."""
        shape = self.found.shape(step)
        return shape[len(shape) - self.ndim :] if len(shape) > self.ndim + 1 else (1,) * self.ndim

    def _reach(self, place: int) -> tuple[Taps, ...] | None:
        step = self.found.steps[place]
        if step.join is not None:
            return (POINT,) * self.ndim
        if len(step.x_shape) == 2:  # no spatial axes: one position, which all of those that come read
            return (POINT if len(step.y_shape) == 2 else Whole(1),) * self.ndim
        if isinstance(step.layer, Operation):
            return operation_reach(step.layer, step.x_shape, step.y_shape, step.arguments, self.ndim)
        reach = reach_of(step.layer, step.x_shape, step.y_shape)
        fits = (len(step.y_shape) == 2 or len(step.y_shape) >= len(step.x_shape)) and len(step.x_shape) == self.ndim + 2
        return reach if fits else None

    def _step(self, place: int) -> tuple[tuple[Fraction, ...] | None, Ints | None]:
        """Stride and period per axis from the input to a step: of branches 0 where one sees all, else the largest."""
        reach, sources = self.reach[place], self.found.steps[place].sources
        strides = [(Fraction(1),) * self.ndim if s <= INPUT else self.strides[s] for s in sources]
        periods = [(1,) * self.ndim if s <= INPUT else self.periods[s] for s in sources]
        if reach is None or None in strides:
            return None, None
        together = []
        for axis, taps in enumerate(reach):
            here = [stride[axis] for stride in strides if stride is not None]
            stride = Fraction(0) if 0 in here else max(here)
            period = math.lcm(*(period[axis] for period in periods if period is not None))
            together.append(steps_together(taps, stride, period))
        return tuple(stride for stride, _ in together), tuple(period for _, period in together)

    def knows(self, step: int) -> bool:
        """Whether it is known what a step reads."""
        return step <= INPUT or self.strides[step] is not None

    def need(self, step: int) -> None:
        """ValueError where it is not known what a step reads, with the layer whose rule is missing."""
        if self.knows(step):
            return
        for place, here in enumerate(self.found.steps[: step + 1]):
            if self.reach[place] is None:
                kind = getattr(here.layer, "op", type(here.layer).__name__)
                raise ValueError(
                    f"{self.op}: layer {here.name!r} ({kind}) must say what it reads, in a method reach(x_shape, "
                    f"y_shape) or in analysis.reach.RULES; its shapes are {here.x_shape} and {here.y_shape}"
                )

    def follow(self, step: int, region: Region, clip: bool, axes: Sequence[int] | None = None) -> Region:
        """What `region` of a step's output reads of the net's input."""
        axes = range(self.ndim) if axes is None else axes
        nothing = Region(np.zeros((0,) * len(axes), bool), (0,) * len(axes))
        regions = {step: region}
        for place in range(step, -1, -1):
            here = regions.pop(place, None)
            if here is None or not here.mask.any():
                continue
            reach = self.reach[place]
            assert reach is not None
            read = here.read([reach[axis] for axis in axes], clip)
            for source in self.found.steps[place].sources:
                if source < INPUT:  # another input of the net
                    continue
                spatial = self.spatial(source)
                part = read.clip(tuple(spatial[axis] for axis in axes)) if clip or read.whole else read
                regions[source] = regions.get(source, nothing).unite(part)
        result = regions.get(INPUT, nothing)
        if result.whole or clip:
            result = result.clip(tuple(self.found.input_shape[2:][axis] for axis in axes))
        return result

    def field(self, step: int) -> ReceptiveField:
        """`receptive_field` of one step."""
        if step <= INPUT:
            return ReceptiveField((1,) * self.ndim, (1,) * self.ndim, (0,) * self.ndim)
        strides, periods = self.strides[step], self.periods[step]
        assert strides is not None
        assert periods is not None
        sizes, offsets = [], []
        for axis in range(self.ndim):
            count = min(periods[axis], self.spatial(step)[axis])  # then they repeat
            sizes.append(self._largest(step, axis, 0, count, 0))
            offsets.append(self._first(step, axis, 0, count))
        stride = tuple(int(s) if s.denominator == 1 else s for s in strides)
        return ReceptiveField(tuple(sizes), stride, tuple(offsets))

    def _box(self, step: int, axis: int, first: int, stop: int) -> slice:
        """The bounds of what a step's outputs first .. stop - 1 see together along one axis."""
        return self.follow(step, Region(np.ones(stop - first, bool), (first,)), False, (axis,)).bounds()[0]

    def _largest(self, step: int, axis: int, first: int, stop: int, least: int) -> int:
        """The largest region of those outputs, or `least`. Where together they see no more, none is asked."""
        box = self._box(step, axis, first, stop)
        size: int = box.stop - box.start
        if size <= least or stop - first == 1:
            return max(least, size)
        middle = (first + stop) // 2
        return self._largest(step, axis, middle, stop, self._largest(step, axis, first, middle, least))

    def _first(self, step: int, axis: int, first: int, stop: int) -> int:
        """Where the region of the first of those outputs that sees anything begins; 0 where none does."""
        while stop - first > 1:
            middle = (first + stop) // 2
            box = self._box(step, axis, first, middle)
            first, stop = (first, middle) if box.stop > box.start else (middle, stop)
        start: int = self._box(step, axis, first, stop).start
        return start


# --- exact -----------------------------------------------------------------------------------------------------------


def receptive_field(net: Layer, input_shape: Any, layer: str | int | None = None) -> ReceptiveField:
    """(size, stride, offset) of the regions of the input that the neurons of a layer see, a tuple per axis in each.

    input_shape  (N, C, *spatial)
    layer        its name ("0", "body.1", a graph's node), its place among the rows of `net.summary`, or None for the
                 net's output
    size         positions from the first that a neuron sees to the last, padding counted like input; where neurons
                 differ (rational strides, adaptive pools, resizing) the largest
    stride       from one neuron's region to the next one's: an int or a Fraction; 0 where all see the whole input
    offset       the position at which the first output's region begins; negative in the padding. (Where the first
                 output reads inserted zeros only, that of the first which sees anything.)

    Of branches the union; where their strides differ, the largest stride. Training's noise and batch statistics do not
    count. Raises ValueError for a layer that the net has not, or that does not say what it reads (analysis/reach.py).
    """
    op = "receptive_field"
    found = trace(op, net, input_shape)
    step = found.find(op, layer)
    reader = Reader(op, found)
    reader.need(step)
    return reader.field(step)


def input_region(
    net: Layer, input_shape: Any, layer: str | int | None = None, index: Any = None, *, clip: bool = True
) -> tuple[slice, ...]:
    """The smallest box of the input that holds all that one neuron sees, as a slice per spatial axis.

    index   the neuron's spatial position, or that with its channel (which makes no difference) in front; default: the
            one in the middle
    clip    only what is input, and reaches the neuron through no padding; else padding counts like input, and slices
            may begin below 0

    A neuron that sees nothing (inserted zeros, padding) has empty slices. Raises what `receptive_field` raises, and
    ShapeError for an index outside the layer.
    """
    op = "input_region"
    found = trace(op, net, input_shape)
    step = found.find(op, layer)
    reader = Reader(op, found)
    reader.need(step)
    position = _position(op, found, step, reader.spatial(step), index)
    return reader.follow(step, Region.at(position), clip).bounds()


def _position(op: str, found: Trace, step: int, spatial: Shape, index: Any) -> Ints:
    """A neuron's spatial position."""
    if index is None:
        return tuple(n // 2 for n in spatial)
    shape = found.shape(step)
    entries = tuple(index) if isinstance(index, Sequence | np.ndarray) else (index,)
    axes = shape[1:] if len(entries) == len(shape) - 1 else shape[2:]
    if len(entries) != len(axes):
        raise ShapeError(f"{op}: index must have one entry per axis of the layer's {shape[2:]}, got {index!r}")
    numbers = [integers(op, "index", entry, 1, -n)[0] for entry, n in zip(entries, axes, strict=True)]
    if any(number >= n for number, n in zip(numbers, axes, strict=True)):
        raise ShapeError(f"{op}: index must lie inside the layer's {axes}, got {index!r}")
    places = tuple(number % n for number, n in zip(numbers, axes, strict=True))
    return places[len(axes) - len(shape[2:]) :] if len(shape) > 2 else (0,) * len(spatial)


# --- by gradients ----------------------------------------------------------------------------------------------------


def empirical_receptive_field(
    net: Layer,
    input_shape: Any,
    layer: str | int | None = None,
    index: Any = None,
    *,
    x: Any = None,
    samples: int = 8,
    positive: bool = False,
    rng: np.random.Generator | int | None = 0,
) -> np.ndarray:
    """How strongly a neuron answers to every position of the input: (*spatial), the mean |gradient| in inference mode.

    index     as in `input_region`; the gradient is that of a random mixture of the channels there
    x         images (N, C, *spatial) to take it at; default: `samples` random ones
    positive  random positive weights in place of the net's own, so that no sum cancels and no ReLU is off: the result
              is 0 exactly where the neuron cannot look, but for maximum pools, which pass on one tap a sample

    The effective receptive field of Luo et al. (2016), where `positive` is False. The net is not changed.
    """
    op = "empirical_receptive_field"
    found = trace(op, net, input_shape)
    step = found.find(op, layer)
    (samples,) = integers(op, "samples", samples, 1, 1)
    generator = as_generator(rng)
    spatial = found.shape(step)[2:]
    position = _position(op, found, step, spatial or (1,) * (len(found.input_shape) - 2), index)
    dtype = np.dtype(np.float64)  # whose convolutions are exact zeros where no tap reaches: Winograd's are not
    if x is not None:
        x = net.cast(x).astype(dtype)
        if x.shape[1:] != found.input_shape[1:] or not len(x):
            raise ShapeError(f"{op}: x must be images of shape {found.input_shape[1:]}, got {x.shape}")
        samples = len(x)
    place: tuple[Any, ...] = (0, slice(None), *position) if spatial else (0,)
    layers = _frozen_layers(found, step, generator if positive else None)
    total = np.zeros(found.input_shape[2:], np.float64)
    for sample in range(samples):
        if x is not None:
            image = x[sample : sample + 1]
        elif positive:
            image = generator.uniform(0.5, 1.5, (1, *found.input_shape[1:])).astype(dtype)
        else:
            image = generator.standard_normal((1, *found.input_shape[1:])).astype(dtype)
        dy = np.zeros((1, *found.shape(step)[1:]), dtype)
        channels = dy.shape[1]
        mixture = generator.uniform(0.5, 1.5, channels) if positive else generator.standard_normal(channels)
        dy[place] = mixture
        total += np.abs(_gradient(found, step, layers, image, dy)[0]).sum(axis=0, dtype=np.float64)
    return total / samples


def _frozen_layers(found: Trace, step: int, generator: np.random.Generator | None) -> dict[int, Layer]:
    """Copies of the layers in float64 that train none; with a generator, of random positive weights."""
    layers: dict[int, Layer] = {}
    for here in found.steps[: step + 1]:
        if here.join is not None or isinstance(here.layer, Operation) or id(here.layer) in layers:
            continue
        twin = here.layer.astype(np.float64)
        layers[id(here.layer)] = twin
        for _, inner in twin.walk():
            inner._frozen = set(inner.parameter_names)
            if generator is not None:
                for name in (*inner.parameter_names, *inner.buffer_names):
                    array = getattr(inner, name)
                    if array is not None and array.dtype.kind == "f":
                        setattr(inner, name, _positive(name, array, generator))
    return layers


def _positive(name: str, array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Weights that average positively, norms that leave what they get, no biases."""
    if array.ndim > 1:
        values = generator.uniform(0.5, 1.5, array.shape) / math.prod(array.shape[1:])
        return values.astype(array.dtype)
    return np.full_like(array, 0.0 if name in ("bias", "running_mean") else 1.0)


def _gradient(found: Trace, step: int, layers: dict[int, Layer], x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The gradient of sum(output of a step * dy) to x, in inference mode."""
    context = Context(training=False)
    values: dict[int, Any] = {INPUT: x}
    saved: dict[int, Any] = {}
    for place, here in enumerate(found.steps[: step + 1]):
        inputs = [values[source] for source in here.sources]
        if isinstance(here.layer, Operation):
            arguments = [values[each] if isinstance(each, int) else _in_double(each) for each in here.arguments]
            values[place], saved[place] = here.layer.named_forward(here.name, arguments, context, x.dtype)
        elif here.join is None:
            values[place], saved[place] = layers[id(here.layer)].forward(inputs[0], context)
        else:
            values[place] = JOIN[here.join](here.name, inputs)
    sent: dict[int, Any] = {step: dy}
    for place in range(step, -1, -1):
        gradient = sent.pop(place, None)
        if gradient is None:
            continue
        here = found.steps[place]
        sources: list[int] = list(here.sources)
        parts: list[Any]
        if isinstance(here.layer, Operation):
            if here.layer.name == ITEM:
                sent.setdefault(sources[0], {})[here.layer.given["index"]] = gradient
                continue
            needs = tuple(isinstance(each, int) for each in here.arguments)
            found_parts = here.layer.backward(gradient, saved[place], needs)[0]
            parts = [part for part, need in zip(found_parts, needs, strict=True) if need]
        elif here.join == "add":
            parts = [gradient] * len(here.sources)
        elif here.join == "mul":
            parts = [*multiply_backward(gradient, [values[source] for source in here.sources])]
        elif here.join == "concat":
            parts = split(gradient, [values[source].shape[1] for source in here.sources])
        else:
            parts = [layers[id(here.layer)].backward(gradient, saved[place], True)[0]]
        for source, part in zip(sources, parts, strict=True):
            if part is not None:
                sent[source] = sent[source] + part if source in sent else part
    return np.asarray(sent.get(INPUT, np.zeros_like(x)))


def _in_double(array: Any) -> Any:
    """A constant beside float64 values."""
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else array


# --- drawn -----------------------------------------------------------------------------------------------------------


def draw_receptive_field(
    net: Layer,
    image: Any,
    layer: str | int | None = None,
    index: Any = None,
    *,
    samples: int = 8,
    rng: np.random.Generator | int | None = 0,
) -> Any:
    """A matplotlib figure: an image (C, H, W) in [0, 1] or a signal (C, L), the region that a neuron sees, and how
    strongly it answers to every position of it, by its gradients at the image and `samples` - 1 noisy copies.

    index as in `input_region`. Write the figure with `fastconv.plots.save`. Needs matplotlib: the extra [plot].
    """
    from fastconv.plots import receptive_field as picture

    op = "draw_receptive_field"
    x = net.cast(image)
    if x.ndim not in (2, 3):
        raise ShapeError(f"{op}: image must be (C, H, W), or a signal (C, L), got shape {x.shape}")
    (samples,) = integers(op, "samples", samples, 1, 1)
    generator = as_generator(rng)
    copies = np.repeat(x[np.newaxis], samples, axis=0)
    copies[1:] += 0.1 * (x.std() or 1) * generator.standard_normal(copies[1:].shape)
    shape = (1, *x.shape)
    box = input_region(net, shape, layer, index, clip=False)
    gradient = empirical_receptive_field(net, shape, layer, index, x=copies, rng=generator)
    name = "the output" if layer is None else f"layer {layer}"
    size = " x ".join(str(part.stop - part.start) for part in box)
    return picture(x, box, gradient, title=f"What one neuron of {name} sees: {size}")
