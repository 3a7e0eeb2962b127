"""Which inputs an operation of a Graph reads: `reach.py`'s rules for those of `fastconv.functional`, and ONNX's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastconv import functional
from fastconv.analysis import reach
from fastconv.analysis.reach import POINT, Pairs, Repeated, Shape, Sliding, Taps, Whole
from fastconv.layers.graph import Operation
from fastconv.operators import TABLE, axes_of, resizing, windows

__all__ = ["operation_reach"]


@dataclass(frozen=True)
class Interpolated:
    """ONNX Resize along one axis: the taps that have a weight."""

    n: int
    m: int
    factor: float
    mode: str
    coordinates: str
    nearest: str
    antialias: int

    @property
    def step(self) -> tuple[int, int]:
        if self.coordinates == "align_corners":
            return Fraction(self.n - 1, self.m - 1).as_integer_ratio() if self.m > 1 else (0, 1)
        return (1 / Fraction(self.factor).limit_denominator(1 << 16)).as_integer_ratio()

    def read(self, o: np.ndarray) -> Pairs:
        at = resizing.positions(o, self.m, self.n, self.factor, self.coordinates)
        found, weights = resizing.taps(at, self.factor, self.mode, self.nearest, -0.75, self.antialias)
        rows, columns = np.nonzero(weights)
        return rows, found[rows, columns].astype(np.int64)


Rule = Callable[[Mapping[str, Any], Shape, Shape, tuple[Any, ...]], "tuple[Taps, ...] | None"]


def operation_reach(
    operation: Operation, x: Shape, y: Shape, arguments: tuple[Any, ...], ndim: int
) -> tuple[Taps, ...] | None:
    """The map per spatial axis, `ndim` of them, from x, the operation's first input that is no constant; None where
    nobody knows it. `arguments`: the operation's inputs, arrays those that are constants."""
    rule = reach.RULES.get(operation.name)
    if rule is not None and operation.name not in TABLE:
        arrays = [each for each in arguments if isinstance(each, np.ndarray)]
        signature = inspect.signature(getattr(functional, operation.name)).parameters.values()
        options = {p.name: p.default for p in signature if p.default is not p.empty} | operation.given
        shape = options.get("normalized_shape", ())
        twin = SimpleNamespace(
            padding_mode="zeros", op=operation.name, weight=arrays[0] if arrays else None, normalized_shape=shape
        )
        return rule(twin, options, x, y)
    if operation.name == "item":
        return (POINT,) * ndim
    name = next((each for each in TABLE if TABLE[each] is operation.operation), "")
    own = RULES.get(name)
    if own is not None and len(x) == ndim + 2:
        return own(operation.given, x, y, arguments)
    if x[2:] and y[-ndim:] == x[-ndim:] and len(y) > ndim and name in KEEPING:
        if name == "Transpose":
            perm = operation.given.get("perm", ())
            return (POINT,) * ndim if tuple(perm[-ndim:]) == tuple(range(len(x) - ndim, len(x))) else None
        return (POINT,) * ndim
    return tuple(Whole(n) for n in x[-ndim:]) if len(y) <= 2 and len(x) == ndim + 2 else None


KEEPING = ("Reshape", "Transpose", "Concat", "Split", "Slice", "Squeeze", "Unsqueeze", "Gather", "Expand", "Tile",
           "MatMul", "Pad")  # fmt: skip


def point(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...] | None:
    return (POINT,) * len(x[2:]) if len(y) == len(x) else None


def whole(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...]:
    return tuple(Whole(n) for n in x[2:])


def _over(axes: Any, x: Shape) -> tuple[Taps, ...]:
    over = axes_of(range(len(x)) if axes is None else axes, len(x))
    return tuple(Whole(n) if axis in over else POINT for axis, n in enumerate(x) if axis >= 2)


def reduced(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...] | None:
    return _over(given.get("axes"), x) if len(y) in (2, len(x)) else None


def along(default: int) -> Rule:
    def rule(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...]:
        return _over((given.get("axis", default),), x)

    return rule


def layer_norm(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...]:
    return _over(range(axes_of((given.get("axis", -1),), len(x))[0], len(x)), x)


def convolution(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...] | None:
    if not isinstance(arguments[1], np.ndarray):
        return None
    op = SimpleNamespace(op=f"conv{len(x) - 2}d", weight=arguments[1], padding_mode="zeros")
    return reach.convolution(op, windows.conv_options(len(x) - 2, **given), x, y)


def transposed(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...] | None:
    if not isinstance(arguments[1], np.ndarray):
        return None
    op = SimpleNamespace(op=f"conv_transpose{len(x) - 2}d", weight=arguments[1])
    options = windows.transposed_options(x[2:], arguments[1].shape[2:], **given)
    return reach.transposed(op, options or {}, x, y)


def pool(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...]:
    names = ("auto_pad", "ceil_mode", "dilations", "pads", "strides")
    auto_pad, ceil_mode, *others = (given.get(name) for name in names)
    found = windows.Windows.of(
        np.empty((0, *x[1:])), given["kernel_shape"], auto_pad or "NOTSET", ceil_mode or 0, *others
    )
    return tuple(
        Sliding(k, s, before, d)
        for k, s, d, (before, _) in zip(found.kernel, found.stride, found.dilation, found.pads, strict=True)
    )


def resized(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...] | None:
    coordinates = given.get("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize" or len(arguments) > 1:
        return None
    over = [axis % len(x) for axis in given.get("axes", range(len(x)))]
    empty = np.broadcast_to(np.zeros(()), x)
    factors, lengths = resizing.lengths_of(
        empty, over, given.get("scales"), given.get("sizes"), given.get("keep_aspect_ratio_policy", "stretch")
    )
    found = dict(zip(over, zip(factors, lengths, strict=True), strict=True))
    rules: list[Taps] = []
    for axis, n in enumerate(x):
        factor, m = found.get(axis, (1.0, n))
        if axis >= 2:
            nearest = given.get("nearest_mode", "round_prefer_floor")
            mode = given.get("mode", "nearest")
            rules.append(Interpolated(n, m, factor, mode, coordinates, nearest, given.get("antialias", 0)))
    return tuple(rules)


def padded(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...] | None:
    pads = given.get("pads")
    if pads is None or given.get("mode", "constant") != "constant":
        return None
    over = axes_of(given.get("axes", range(len(x))), len(x))
    before = dict(zip(over, pads, strict=False))
    return tuple(Sliding(before=before.get(axis, 0)) for axis in range(2, len(x)))


def sliced(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...] | None:
    if "starts" not in given:
        return (POINT,) * len(x[2:]) if y[2:] == x[2:] else None
    starts = given["starts"]
    over = axes_of(given.get("axes", range(len(starts))), len(x))
    steps = given.get("steps") or (1,) * len(starts)
    found = dict(zip(over, zip(starts, steps, strict=True), strict=True))
    rules = []
    for axis, n in enumerate(x):
        start, step = found.get(axis, (0, 1))
        if axis >= 2:
            if step < 1:
                return None
            rules.append(Sliding(stride=step, before=-max(0, min(start + n if start < 0 else start, n))))
    return tuple(rules)


def depth_to_space(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...]:
    return (Repeated(given["blocksize"]),) * 2


def space_to_depth(given: Mapping[str, Any], x: Shape, y: Shape, arguments: tuple[Any, ...]) -> tuple[Taps, ...]:
    return (Sliding(given["blocksize"], given["blocksize"]),) * 2


POINTWISE = (
    "Abs", "Neg", "Sign", "Sqrt", "Exp", "Log", "Reciprocal", "Erf", "Softsign", "Softplus", "Celu", "Selu",
    "ThresholdedRelu", "Shrink", "HardSigmoid", "Swish", "Mish", "Not", "Identity", "Cast", "Dropout", "Clip", "Add",
    "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "PRelu",
    "Sum", "Mean", "Max", "Min", "Where", "BatchNormalization", "LRN", "Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh",
    "HardSwish", "Gelu",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE, point),
    **dict.fromkeys([name for name in TABLE if name.startswith("Reduce")], reduced),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization",
                     "GroupNormalization"), whole),
    "Softmax": along(-1),
    "LogSoftmax": along(-1),
    "LpNormalization": along(-1),
    "LayerNormalization": layer_norm,
    "Conv": convolution,
    "ConvTranspose": transposed,
    "MaxPool": pool,
    "AveragePool": pool,
    "LpPool": pool,
    "Resize": resized,
    "Pad": padded,
    "Slice": sliced,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "MeanVarianceNormalization": lambda given, x, y, arguments: _over(given.get("axes", (0, 2, 3)), x),
}  # fmt: skip
