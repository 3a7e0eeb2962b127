"""Which inputs every layer reads: its taps along each spatial axis, as a table by operation.

A tap map gives, for output positions o along one axis, the input positions that each of them reads. Positions are
those of an endless line: an output before the first one, or an input in the padding, has its number like any other, and
whoever wants to know what lies inside clips. A map repeats itself: `step` = p / q input positions an output, and what
output o + q reads is what o reads, p further on.

A layer of one's own says it in a method `reach(x_shape, y_shape)` that returns a map per spatial axis of x; an
operation of one's own in RULES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from fastconv.errors import ShapeError
from fastconv.layers.base import Context, Layer, OpLayer
from fastconv.machine.memory import require
from fastconv.ops import resize
from fastconv.ops.common import axis_of
from fastconv.window import Window, integers, pairs

__all__ = ["POINT", "POINTWISE", "RULES", "Adaptive", "Repeated", "Resized", "Sliding", "Taps", "Whole", "reach_of"]

FARTHEST = 1 << 60  # of a window's numbers: positions are counted in 64 bits

Shape = tuple[int, ...]
Pairs = tuple[np.ndarray, np.ndarray]


class Taps(Protocol):
    """Along one axis: what output positions read."""

    @property
    def step(self) -> tuple[int, int]:
        """(p, q): output o + q reads what o reads, p further on."""

    def read(self, o: np.ndarray) -> Pairs:
        """For output positions o: (rows, positions), position positions[i] being read by o[rows[i]]."""


@dataclass(frozen=True)
class Sliding:
    """Tap t of output o: position (o * stride - before + t * dilation) / up, where that divides.

    border: how `pad` fills what lies outside 0 .. n - 1 (its mode and n); None where nothing of the input stands there.
    """

    kernel: int = 1
    stride: int = 1
    before: int = 0
    dilation: int = 1
    up: int = 1
    border: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        largest = max(self.stride, abs(self.before), self.dilation, self.up)
        if largest > FARTHEST:
            raise ShapeError(f"receptive_field: no stride, padding or dilation may exceed {FARTHEST}, got {largest}")

    @property
    def step(self) -> tuple[int, int]:
        return self.stride, self.up

    def read(self, o: np.ndarray) -> Pairs:
        require("receptive_field", 32 * len(o) * self.kernel)
        at = o[:, None] * self.stride - self.before + np.arange(self.kernel) * self.dilation
        rows, taps = np.nonzero(at % self.up == 0)
        return rows, at[rows, taps] // self.up

    def inside(self, positions: np.ndarray) -> np.ndarray:
        """The positions of the input whose elements stand at `positions`."""
        if self.border is None:
            return positions
        mode, n = self.border
        if mode == "circular":
            positions = positions % n
        elif mode == "reflect":
            positions = np.abs(positions)
            positions = np.minimum(positions, 2 * (n - 1) - positions)
        else:
            positions = np.clip(positions, 0, n - 1)
        return positions


@dataclass(frozen=True)
class Adaptive:
    """Output o of m: positions floor(o * n / m) .. ceil((o + 1) * n / m) - 1 of n."""

    n: int
    m: int

    @property
    def step(self) -> tuple[int, int]:
        return Fraction(self.n, self.m).as_integer_ratio()

    def read(self, o: np.ndarray) -> Pairs:
        first, stop = o * self.n // self.m, -(-(o + 1) * self.n // self.m)
        require("receptive_field", 32 * int((stop - first).sum()))
        rows = np.repeat(np.arange(len(o)), stop - first)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(stop - first) - (stop - first), stop - first)
        return rows, first[rows] + within


@dataclass(frozen=True)
class Resized:
    """The neighbours of ops/resize.py. Those beyond the border, for which it stands in, have their own numbers."""

    axis: resize.Axis

    @property
    def ratio(self) -> Fraction:
        n, m = self.axis.n, self.axis.m
        if self.axis.align_corners:
            return Fraction(n - 1, m - 1) if m > 1 else Fraction(0)
        return Fraction(n, m) if self.axis.ratio == n / m else Fraction(self.axis.ratio).limit_denominator(1 << 16)

    @property
    def step(self) -> tuple[int, int]:
        return self.ratio.as_integer_ratio()

    def read(self, o: np.ndarray) -> Pairs:
        n, m, mode = self.axis.n, self.axis.m, self.axis.mode
        if mode == "nearest":
            at = np.floor(o.astype(np.float32) * np.float32(self.axis.ratio)).astype(np.int64)
            return np.arange(len(o)), np.where((o >= 0) & (o < m), np.minimum(at, n - 1), at)
        p, q = self.step
        source, unit = (o * p, q) if self.axis.align_corners else ((2 * o + 1) * p - q, 2 * q)
        steps = np.arange(2) if mode == "linear" else np.arange(-1, 3)
        between = source % unit != 0  # else one position has all the weight
        rows, columns = np.nonzero(between[:, None] | (steps == 0))
        return rows, (source // unit)[rows] + steps[columns]


@dataclass(frozen=True)
class Whole:
    """Every output reads all n positions."""

    n: int

    @property
    def step(self) -> tuple[int, int]:
        return 0, 1

    def read(self, o: np.ndarray) -> Pairs:
        require("receptive_field", 32 * len(o) * self.n)
        return np.repeat(np.arange(len(o)), self.n), np.tile(np.arange(self.n), len(o))


@dataclass(frozen=True)
class Repeated:
    """Output o reads position o // times."""

    times: int

    @property
    def step(self) -> tuple[int, int]:
        return 1, self.times

    def read(self, o: np.ndarray) -> Pairs:
        return np.arange(len(o)), o // self.times


POINT = Sliding()

# --- the rules -------------------------------------------------------------------------------------------------------

Rule = Callable[[Any, Mapping[str, Any], Shape, Shape], "tuple[Taps, ...] | None"]  # (layer, options, x_shape, y_shape)


def point(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    return (POINT,) * len(x[2:])


def whole(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    return tuple(Whole(n) for n in x[2:])


def convolution(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    kernel = layer.weight.shape[2:]
    window = Window.parse(layer.op, x[2:], kernel, options["stride"], options["padding"], options["dilation"])
    mode = layer.padding_mode
    return sliding(window) if mode == "zeros" else bordered(sliding(window), window.padding, mode, x)


def padding(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    around, mode = pairs("pad", "padding", options["padding"], len(x[2:])), options.get("mode", "constant")
    taps = tuple(Sliding(before=before) for before, _ in around)
    return taps if mode == "constant" else bordered(taps, around, mode, x)


def bordered(taps: Any, around: Sequence[tuple[int, int]], mode: str, x: Shape) -> tuple[Taps, ...]:
    return tuple(
        replace(axis, border=(mode, n)) if before or after else axis
        for axis, (before, after), n in zip(taps, around, x[2:], strict=True)
    )


def unshared(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    kernel = layer.weight.shape[2:4]
    return sliding(Window.parse(layer.op, x[2:], kernel, options["stride"], options["padding"], options["dilation"]))


def pool(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    kernel, stride = options["kernel_size"], options.get("stride")
    window = Window.parse(
        layer.op, x[2:], kernel, kernel if stride is None else stride, options.get("padding", 0),
        options.get("dilation", 1), options.get("ceil_mode", False),
    )  # fmt: skip
    return sliding(window)


def network_pool(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    given = layer._arguments
    kernel, stride = given["kernel_size"], given.get("stride")
    return sliding(
        Window.parse("network_pool2d", x[2:], kernel, kernel if stride is None else stride, given.get("padding", 0))
    )


def sliding(window: Window) -> tuple[Taps, ...]:
    return tuple(
        Sliding(kernel, stride, before, dilation, up)
        for kernel, stride, (before, _), dilation, up in zip(
            window.kernel, window.stride, window.padding, window.dilation, window.up, strict=True
        )
    )


def transposed(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    """y[i] reads x[o] where o * stride - before + t * dilation = i: a window over the upsampled x, taps reversed."""
    kernel, ndim = layer.weight.shape[2:], len(x[2:])
    strides = integers(layer.op, "stride", options["stride"], ndim, 1)
    dilations = integers(layer.op, "dilation", options["dilation"], ndim, 1)
    around = pairs(layer.op, "padding", options["padding"], ndim)
    return tuple(
        Sliding(k, 1, (k - 1) * d - before, d, s)
        for k, s, d, (before, _) in zip(kernel, strides, dilations, around, strict=True)
    )


def adaptive(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    return tuple(Adaptive(n, m) for n, m in zip(x[2:], y[2:], strict=True))


def downsample(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    factors = integers("downsample", "factor", options["factor"], len(x[2:]), 1)
    phases = integers("downsample", "phase", options.get("phase", 0), len(x[2:]), 0)
    return tuple(Sliding(stride=factor, before=-phase) for factor, phase in zip(factors, phases, strict=True))


def upsample(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    return tuple(Sliding(up=factor) for factor in integers("upsample", "factor", options["factor"], len(x[2:]), 1))


def resized(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    empty = np.empty((0, *x[1:]), np.float32)
    given = {"size": None, "scale": None, "mode": "nearest", "align_corners": False, **options}
    return tuple(Resized(axis) for axis in resize.prepare(empty, **given)[1])


def shuffled(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    return (Repeated(options["upscale_factor"]),) * 2


def unshuffled(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    return (Sliding(options["downscale_factor"], options["downscale_factor"]),) * 2


def reshaped(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...] | None:
    """Last axes that stay are themselves. Of the planes before them, P and Q positions, an output reads every input
    where P and Q have no common factor: its channels are Q apart. Else what it reads is no product of axes: None."""
    ndim = len(x[2:])
    new = y[-ndim:] if len(y) >= len(x) else y[2:]
    kept = 0
    while kept < min(ndim, len(new)) and x[-1 - kept] == new[-1 - kept]:
        kept += 1
    before, after = x[2 : len(x) - kept], new[: len(new) - kept]
    if kept < ndim and (math.gcd(math.prod(before), math.prod(after)) > 1 or len(new) not in (0, ndim)):
        return None
    return (*map(Whole, before), *(POINT,) * kept)


def linear(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    """Along the last axis, which is the features' where there are no spatial ones."""
    return (*(POINT,) * len(x[2:-1]), *(Whole(n) for n in x[2:][-1:]))


def batch_statistics(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    """Running statistics make a norm pointwise; a plane's own make every output read all of it."""
    own = options.get("training", False) or options.get("use_input_stats", False)
    return (whole if own else point)(layer, options, x, y)


def layer_norm(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    first = len(x) - len(layer.normalized_shape)
    return tuple(Whole(n) if axis >= first else POINT for axis, n in enumerate(x) if axis >= 2)


def softmax(layer: Any, options: Mapping[str, Any], x: Shape, y: Shape) -> tuple[Taps, ...]:
    dim = axis_of(layer.op, np.empty((0, *x[1:])), options.get("dim", 1))
    return tuple(Whole(n) if axis == dim else POINT for axis, n in enumerate(x) if axis >= 2)


POINTWISE = (
    "relu", "leaky_relu", "prelu", "elu", "selu", "gelu", "silu", "sigmoid", "tanh", "softplus", "hardswish", "step",
    "dropout", "local_response_norm",
)  # fmt: skip

RULES: dict[str, Rule] = {  # by operation; by class name where a layer is none
    **dict.fromkeys(POINTWISE, point),
    "batch_norm": batch_statistics,
    "instance_norm": batch_statistics,
    "group_norm": whole,
    "layer_norm": layer_norm,
    "softmax": softmax,
    "log_softmax": softmax,
    "flatten": whole,
    "reshape": reshaped,
    "unflatten": reshaped,
    "pixel_shuffle": shuffled,
    "pixel_unshuffle": unshuffled,
    "Identity": point,
    "pad": padding,
    "linear": linear,
    "downsample": downsample,
    "upsample": upsample,
    "resize": resized,
    "function_pool2d": pool,
    "Normalize": point,
    "NetworkPool2d": network_pool,
    "locally_connected2d": unshared,
}
for _axes in ("1d", "2d", "3d"):
    RULES |= {
        f"conv{_axes}": convolution,
        f"conv_transpose{_axes}": transposed,
        f"max_pool{_axes}": pool,
        f"avg_pool{_axes}": pool,
        f"lp_pool{_axes}": pool,
        f"adaptive_avg_pool{_axes}": adaptive,
        f"adaptive_max_pool{_axes}": adaptive,
    }


def reach_of(layer: Layer, x_shape: Shape, y_shape: Shape) -> tuple[Taps, ...] | None:
    """The layer's map per spatial axis of x, in inference; None where nobody knows it."""
    own = getattr(layer, "reach", None)
    if own is not None:
        return tuple(own(x_shape, y_shape))
    if isinstance(layer, OpLayer):
        rule = RULES.get(layer.op)
        return rule(layer, layer.options(Context(training=False)), x_shape, y_shape) if rule else None
    rule = RULES.get(type(layer).__name__)
    return rule(layer, {}, x_shape, y_shape) if rule else None


def steps_together(taps: Taps, stride: Fraction, period: int) -> tuple[Fraction, int]:
    """The net's stride and period behind one more layer, from those before it."""
    p, q = taps.step
    return stride * Fraction(p, q), q * (period // math.gcd(period, p) if p else 1)
