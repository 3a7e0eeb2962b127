"""ONNX's operators for values that no layer computes: one table of NumPy functions with their derivatives.

    TABLE[name]   forward(*inputs, **attributes) -> (output, saved); backward(dy, saved, needs) -> a gradient an input

Attributes are those of the newest version of an operator; what older ones said in attributes may stand there too. An
output has the first input's type where nothing else is said; integers have no gradients. Where a kernel of
`fastconv.functional` computes the same it is used. Nothing here needs the package onnx, and nothing here is public:
`fastconv.Graph` takes the names as operations of its nodes.

Source: https://onnx.ai/onnx/operators, and what its text leaves open from onnx.reference.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special

from fastconv.arrays import FLOATS
from fastconv.errors import ShapeError
from fastconv.machine.memory import require
from fastconv.operators import resizing, windows
from fastconv.ops.registry import OPS, Op

__all__ = ["TABLE", "operator_called"]

Pull = Callable[[Any, tuple[bool, ...]], Sequence[Any]]
Result = tuple[Any, "Pull | None"]

TABLE: dict[str, Op] = {}


def operator_called(name: str) -> Op | None:
    """The operator of that name, in ONNX's spelling or in lower case with underscores ("reduce_mean")."""
    return TABLE.get(name) or FOLDED.get(name.replace("_", "").casefold())


def operator(*names: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """List a function (*inputs, **attributes) -> (output, pull) under these names; pull(dy, needs) -> gradients."""

    def listed(function: Callable[..., Result]) -> Callable[..., Result]:
        for name in names:
            TABLE[name] = Op(name, function, _backward)
        return function

    return listed


def _backward(dy: Any, pull: Pull | None, needs: tuple[bool, ...]) -> tuple[Any, ...]:
    return (None,) * len(needs) if pull is None else tuple(pull(dy, needs))


def through(op: str, *arrays: Any, **options: Any) -> tuple[Any, Pull]:
    """One of fastconv's own operations."""
    op_ = OPS[op]
    y, saved = op_.forward(*arrays, **options)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        return op_.backward(np.asarray(dy), saved, needs + (False,) * (len(arrays) - len(needs)))

    return y, pull


def is_float(x: Any) -> bool:
    return x is not None and np.asarray(x).dtype in FLOATS


def ints(values: Any) -> tuple[int, ...]:
    """An attribute, or the value of an input, as Python's integers."""
    return tuple(int(value) for value in np.asarray(values).reshape(-1))


def scalar(name: str, value: Any) -> Any:
    """The number in an input that may hold one only."""
    array = np.asarray(value)
    if array.size != 1:
        raise ShapeError(f"{name} must be one number, got shape {array.shape}")
    return array.reshape(())[()]


def axes_of(axes: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from the front; ShapeError for one that is not there, or there twice."""
    found = tuple(axis + ndim if axis < 0 else axis for axis in ints(axes))
    if any(not 0 <= axis < ndim for axis in found) or len(set(found)) != len(found):
        raise ShapeError(f"axes must be of the {ndim} there are, each once, got {ints(axes)}")
    return found


def axis_in(axis: int, ndim: int) -> int:
    return axes_of((axis,), ndim)[0]


def unbroadcast(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The adjoint of broadcasting x to dy's shape."""
    x = np.asarray(x)
    if dy.shape == x.shape:
        return dy
    front = tuple(range(dy.ndim - x.ndim))
    total = dy.sum(axis=front) if front else dy
    stretched = tuple(axis for axis, n in enumerate(x.shape) if n == 1 and total.shape[axis] != 1)
    total = total.sum(axis=stretched, keepdims=True) if stretched else total
    return np.asarray(total, x.dtype)


def need_room(*arrays: Any) -> None:
    """MemoryError where what NumPy would broadcast the arrays to does not fit."""
    shape = np.broadcast_shapes(*(np.shape(array) for array in arrays))
    require("broadcasting", math.prod(shape) * max(np.asarray(array).itemsize for array in arrays))


# --- one input, element by element ------------------------------------------------------------------------------------


def elementwise(name: str, function: Callable[..., Any], slope: Callable[..., Any]) -> None:
    """function(x, **attributes) -> y; slope(x, y, **attributes) -> dy / dx."""

    def forward(x: Any, **attributes: Any) -> Result:
        with np.errstate(all="ignore"):
            y = np.asarray(function(x, **attributes)).astype(x.dtype, copy=False)

        def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
            with np.errstate(all="ignore"):
                return ((dy * slope(x, y, **attributes)).astype(x.dtype, copy=False),)

        return y, pull

    forward.__signature__ = _with_array(function)  # type: ignore[attr-defined]
    TABLE[name] = Op(name, forward, _backward)


def _with_array(function: Callable[..., Any]) -> Any:
    try:
        return inspect.signature(function)
    except ValueError:  # a ufunc
        return inspect.signature(lambda x: None)


def kernel(name: str, op: str, plain: Callable[..., Any] | None = None, **renamed: str) -> None:
    """An operation of fastconv's own; `renamed` = its name for an attribute. `plain` serves integers."""

    def forward(x: Any, **attributes: Any) -> Result:
        if plain is not None and not is_float(x):
            return plain(x).astype(x.dtype), None
        return through(op, x, **{renamed[key]: value for key, value in attributes.items()})

    names = [inspect.Parameter("x", inspect.Parameter.POSITIONAL_ONLY)]
    names += [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None) for key in renamed]
    forward.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    TABLE[name] = Op(name, forward, _backward)


kernel("Relu", "relu", lambda x: np.maximum(x, 0))
kernel("LeakyRelu", "leaky_relu", alpha="negative_slope")
kernel("Elu", "elu", alpha="alpha")
kernel("Sigmoid", "sigmoid")
kernel("Tanh", "tanh")
kernel("HardSwish", "hardswish")
kernel("Gelu", "gelu", approximate="approximate")

elementwise("Abs", np.abs, lambda x, y: np.sign(x))
elementwise("Neg", np.negative, lambda x, y: -1)
elementwise("Sign", np.sign, lambda x, y: 0)
elementwise("Sqrt", np.sqrt, lambda x, y: 0.5 / y)
elementwise("Exp", np.exp, lambda x, y: y)
elementwise("Log", np.log, lambda x, y: 1 / x)
elementwise("Reciprocal", np.reciprocal, lambda x, y: -y * y)
elementwise("Erf", special.erf, lambda x, y: 2 / math.sqrt(math.pi) * np.exp(-x * x))
elementwise("Softsign", lambda x: x / (1 + np.abs(x)), lambda x, y: (1 + np.abs(x)) ** -2)
elementwise("Softplus", lambda x: np.logaddexp(x, 0), lambda x, y: special.expit(x))
elementwise(
    "Celu",
    lambda x, alpha=1.0: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)),
    lambda x, y, alpha=1.0: np.where(x > 0, 1, np.exp(np.minimum(x / alpha, 0))),
)
elementwise(
    "Selu",
    lambda x, alpha=1.6732632423543772, gamma=1.0507009873554805: (
        gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))
    ),
    lambda x, y, alpha=1.6732632423543772, gamma=1.0507009873554805: (
        gamma * np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0)))
    ),
)
elementwise("ThresholdedRelu", lambda x, alpha=1.0: np.where(x > alpha, x, 0), lambda x, y, alpha=1.0: x > alpha)
elementwise(
    "Shrink",
    lambda x, bias=0.0, lambd=0.5: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0)),
    lambda x, y, bias=0.0, lambd=0.5: np.abs(x) > lambd,
)
elementwise(
    "HardSigmoid",
    lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    lambda x, y, alpha=0.2, beta=0.5: alpha * ((y > 0) & (y < 1)),
)
elementwise(
    "Swish",
    lambda x, alpha=1.0: x * special.expit(alpha * x),
    lambda x, y, alpha=1.0: _swish_slope(x, alpha),
)
elementwise("Mish", lambda x: x * np.tanh(np.logaddexp(x, 0)), lambda x, y: _mish_slope(x))


def _swish_slope(x: Any, alpha: float) -> Any:
    s = special.expit(alpha * x)
    return s * (1 + alpha * x * (1 - s))


def _mish_slope(x: Any) -> Any:
    t = np.tanh(np.logaddexp(x, 0))
    return t + x * (1 - t * t) * special.expit(x)


@operator("Not")
def logical_not(x: Any) -> Result:
    return np.logical_not(x), None


@operator("Identity")
def identity(x: Any) -> Result:
    return x, lambda dy, needs: (dy,)


@operator("Cast")
def cast(x: Any, to: str, float_type: Any = None, saturate: Any = None, round_mode: Any = None) -> Result:
    """to: NumPy's name of a type, or "float", the net's own."""
    dtype = (float_type or FLOATS[0]) if to == "float" else np.dtype(to)
    with np.errstate(all="ignore"):
        y = np.asarray(x).astype(dtype, copy=False)
    return y, lambda dy, needs: (dy.astype(x.dtype, copy=False),)


@operator("Dropout")
def dropout(
    x: Any, ratio: Any = 0.5, training_mode: Any = None, seed: Any = None, is_test: Any = None, outputs: int = 1
) -> Result:
    """In inference: x, and a mask that is true. A net's own dropout is a layer."""
    if training_mode is not None and bool(scalar("training_mode", training_mode)) and float(scalar("ratio", ratio)):
        raise ValueError("a Dropout node that is random in every mode is not served; make training_mode a constant")
    if outputs > 1:
        return (x, np.ones(x.shape, bool)), lambda dy, needs: (dy[0],)
    return x, lambda dy, needs: (dy,)


@operator("Clip")
def clip(x: Any, min: Any = None, max: Any = None) -> Result:
    low, high = (None if bound is None else scalar("a bound", bound) for bound in (min, max))
    y = x if low is None else np.maximum(x, np.asarray(low, x.dtype))
    y = y if high is None else np.minimum(y, np.asarray(high, x.dtype))

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        above = np.zeros(x.shape, bool) if high is None else (x > high) | (low is not None and low > high)
        below = np.zeros(x.shape, bool) if low is None else ~above & (x < low)
        parts: list[Any] = [np.where(above | below, 0, dy).astype(x.dtype)]
        for bound, mask in ((min, below), (max, above)):
            parts.append(None if bound is None else np.sum(np.where(mask, dy, 0)).reshape(np.shape(bound)))
        return parts

    return np.asarray(y, x.dtype), pull


# --- several inputs, broadcast ----------------------------------------------------------------------------------------


def binary(name: str, function: Callable[..., Any], slopes: Callable[..., tuple[Any, Any]]) -> None:
    """slopes(a, b, y) -> (dy / da, dy / db), of which each is asked for where it is needed only."""

    def forward(a: Any, b: Any, axis: Any = None, broadcast: Any = None) -> Result:
        a, b = (np.asarray(each) for each in (a, b))
        if broadcast and axis is not None and b.ndim < a.ndim:  # before version 7
            b_shape = b.shape
            b = b.reshape(*b_shape, *(1,) * (a.ndim - b.ndim - axis_in(axis, a.ndim)))
        need_room(a, b)
        with np.errstate(all="ignore"):
            y = np.asarray(function(a, b))

        def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
            with np.errstate(all="ignore"):
                to_a, to_b = slopes(a, b, y)
                return [
                    unbroadcast(np.asarray(dy * slope()), each).astype(each.dtype, copy=False) if need else None
                    for need, each, slope in zip(needs, (a, b), (to_a, to_b), strict=True)
                ]

        return y, pull

    TABLE[name] = Op(name, forward, _backward)


def _divide(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return a / b
    if b.size and not np.all(b):
        raise ValueError("division of integers by zero")
    quotient = np.abs(a) // np.abs(b) if a.dtype.kind == "i" else a // b
    return (quotient * (np.sign(a) * np.sign(b)) if a.dtype.kind == "i" else quotient).astype(a.dtype)


def _power(a: Any, b: Any) -> Any:
    if a.dtype.kind in "iu" and b.dtype.kind in "iu" and b.size and np.min(b) < 0:
        return np.power(a.astype(float), b).astype(a.dtype)
    return np.power(a, b).astype(a.dtype, copy=False)


binary("Add", np.add, lambda a, b, y: (lambda: 1, lambda: 1))
binary("Sub", np.subtract, lambda a, b, y: (lambda: 1, lambda: -1))
binary("Mul", np.multiply, lambda a, b, y: (lambda: b, lambda: a))
binary("Div", _divide, lambda a, b, y: (lambda: 1 / b, lambda: -y / b))
binary(
    "Pow",
    _power,
    lambda a, b, y: (
        lambda: np.where(b == 0, 0, b * np.power(a, np.where(b == 0, 1, b) - 1)),
        lambda: np.where((a == 0) & (b >= 0), 0, y * np.log(np.where(a == 0, 1, a))),
    ),
)
for _name, _function in {
    "Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or,
}.items():  # fmt: skip
    binary(_name, _function, lambda a, b, y: (lambda: 0, lambda: 0))


@operator("PRelu")
def prelu(x: Any, slope: Any) -> Result:
    """slope broadcasts to x, from the last axis on."""
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise ShapeError(f"slope must broadcast to x, got {slope.shape} for {x.shape}")
    y = np.where(x < 0, slope * x, x).astype(x.dtype)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        dx = np.where(x < 0, slope * dy, dy).astype(x.dtype) if needs[0] else None
        return dx, unbroadcast(np.where(x < 0, x * dy, 0).astype(x.dtype), slope) if needs[1] else None

    return y, pull


@operator("Sum")
def total(*arrays: Any) -> Result:
    need_room(*arrays)
    y = np.array(arrays[0])
    for array in arrays[1:]:
        y = y + array
    return np.asarray(y), lambda dy, needs: [unbroadcast(dy, array) for array in arrays]


@operator("Mean")
def mean(*arrays: Any) -> Result:
    y, _ = total(*arrays)
    y = (y / np.asarray(len(arrays), y.dtype)).astype(y.dtype)
    return y, lambda dy, needs: [unbroadcast((dy / len(arrays)).astype(dy.dtype), array) for array in arrays]


def extreme(name: str, function: Any) -> None:
    def forward(*arrays: Any) -> Result:
        need_room(*arrays)
        y = np.array(arrays[0])
        for array in arrays[1:]:
            y = function(y, array)

        def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
            """The first of equals has the gradient."""
            taken, parts = np.zeros(y.shape, bool), []
            for array in arrays:
                here = (np.broadcast_to(array, y.shape) == y) & ~taken
                taken |= here
                parts.append(unbroadcast(np.where(here, dy, 0).astype(y.dtype), array))
            return parts

        return np.asarray(y), pull

    TABLE[name] = Op(name, forward, _backward)


extreme("Max", np.maximum)
extreme("Min", np.minimum)


@operator("Where")
def where(condition: Any, a: Any, b: Any) -> Result:
    need_room(condition, a, b)
    condition = np.asarray(condition, bool)
    y = np.where(condition, a, b)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        zero = np.zeros((), dy.dtype)
        return (
            None,
            unbroadcast(np.where(condition, dy, zero), a) if needs[1] else None,
            unbroadcast(np.where(condition, zero, dy), b) if needs[2] else None,
        )

    return y, pull


# --- products ---------------------------------------------------------------------------------------------------------


@operator("MatMul")
def matmul(a: Any, b: Any) -> Result:
    if a.ndim and b.ndim > 1:
        front = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        require("MatMul", math.prod((*front, a.shape[-2] if a.ndim > 1 else 1, b.shape[-1])) * a.itemsize)
    y = np.asarray(np.matmul(a, b))

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        a2 = a[None] if a.ndim == 1 else a
        b2 = b[:, None] if b.ndim == 1 else b
        d = np.asarray(dy)
        d = np.expand_dims(d, -1) if b.ndim == 1 else d
        d = np.expand_dims(d, -2) if a.ndim == 1 else d
        da = unbroadcast(np.matmul(d, np.swapaxes(b2, -1, -2)), a2).reshape(a.shape) if needs[0] else None
        db = unbroadcast(np.matmul(np.swapaxes(a2, -1, -2), d), b2).reshape(b.shape) if needs[1] else None
        return da, db

    return y, pull


@operator("Gemm")
def gemm(
    a: Any, b: Any, c: Any = None, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,
    broadcast: Any = None,
) -> Result:  # fmt: skip
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(f"A and B must be matrices, got {a.shape} and {b.shape}")
    left, right = a.T if transA else a, b.T if transB else b
    require("Gemm", left.shape[0] * right.shape[1] * a.itemsize)
    y = left @ right
    y = y if alpha == 1 else (y * np.asarray(alpha, y.dtype)).astype(y.dtype)
    if c is not None:
        if np.broadcast_shapes(np.shape(c), y.shape) != y.shape:
            raise ShapeError(f"C must broadcast to {y.shape}, got {np.shape(c)}")
        y = y + (c if beta == 1 else np.asarray(c * np.asarray(beta, y.dtype), y.dtype))

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        d = (dy * np.asarray(alpha, dy.dtype)).astype(dy.dtype)
        da = d @ right.T if needs[0] else None
        db = left.T @ d if needs[1] else None
        parts = [da.T if transA and da is not None else da, db.T if transB and db is not None else db]
        if c is not None:
            parts.append(unbroadcast((dy * np.asarray(beta, dy.dtype)).astype(dy.dtype), c) if needs[2] else None)
        return parts

    return y, pull


# --- windows ----------------------------------------------------------------------------------------------------------

for _name, _windows in {
    "Conv": windows.conv, "ConvTranspose": windows.conv_transpose, "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool, "LpPool": windows.lp_pool, "MaxUnpool": windows.max_unpool,
}.items():  # fmt: skip
    TABLE[_name] = Op(_name, _windows, _backward)  # type: ignore[arg-type]


@operator("GlobalAveragePool")
def global_average_pool(x: Any) -> Result:
    if not 3 <= x.ndim <= 5:
        return reduce_mean(x, axes=tuple(range(2, x.ndim)))
    return through(f"adaptive_avg_pool{x.ndim - 2}d", x, 1)


@operator("GlobalMaxPool")
def global_max_pool(x: Any) -> Result:
    if not 3 <= x.ndim <= 5:
        return reduce_max(x, axes=tuple(range(2, x.ndim)))
    return through(f"adaptive_max_pool{x.ndim - 2}d", x, 1)


@operator("GlobalLpPool")
def global_lp_pool(x: Any, p: int = 2) -> Result:
    axes = tuple(range(2, x.ndim))
    powers = np.abs(x) ** p
    y = powers.sum(axis=axes, keepdims=True) ** (1 / p)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        with np.errstate(all="ignore"):
            scale = np.where(y == 0, 0, y ** (1 - p))
        return ((dy * scale * np.sign(x) * np.abs(x) ** (p - 1)).astype(x.dtype),)

    return y.astype(x.dtype), pull


def resize(x: Any, roi: Any = None, scales: Any = None, sizes: Any = None, **attributes: Any) -> Result:
    """Upsample's second input is `scales`; the importer puts it where Resize has it."""
    y, pull = resizing.resize(x, roi, scales, sizes, **attributes)
    return y, lambda dy, needs: (pull(dy),)


resize.__signature__ = inspect.signature(resizing.resize)  # type: ignore[attr-defined]
operator("Resize", "Upsample")(resize)


# --- norms ------------------------------------------------------------------------------------------------------------


def mean_over(x: Any, axes: tuple[int, ...]) -> Any:
    """The mean with the axes kept, as NumPy's, which warns of no images."""
    return x.sum(axis=axes, keepdims=True) / _count(x, axes)


def standardized(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any, Callable[..., Any]]:
    """(x - mean) / sqrt(var + eps) over `axes`, the mean, 1 / sqrt(var + eps), and the pull of all three."""
    count = _count(x, axes)
    average = mean_over(x, axes)
    centred = x - average
    inverse = 1 / np.sqrt(mean_over(centred * centred, axes) + np.asarray(eps, x.dtype))
    normal = centred * inverse

    def pull(dnormal: Any, daverage: Any = None, dinverse: Any = None) -> Any:
        dx = inverse * (dnormal - mean_over(dnormal, axes) - normal * mean_over(dnormal * normal, axes))
        if daverage is not None:
            dx = dx + daverage / count
        if dinverse is not None:
            dx = dx - dinverse * inverse**3 * centred / count
        return dx.astype(x.dtype)

    return normal, average, inverse, pull


def channelwise(values: Any, ndim: int) -> Any:
    """(C,) so that it broadcasts to (N, C, …)."""
    return np.asarray(values).reshape(-1, *(1,) * (ndim - 2))


def others(ndim: int) -> tuple[int, ...]:
    """All axes but the channels'."""
    return (0, *range(2, ndim))


@operator("BatchNormalization")
def batch_normalization(
    x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float = 1e-5, momentum: float = 0.9,
    training_mode: int = 0, spatial: int = 1, outputs: int = 1, is_test: Any = None,
) -> Result:  # fmt: skip
    """outputs: how many the node names; with training_mode the running statistics follow the first."""
    if not spatial:
        raise ValueError("spatial=0, statistics of every position, is not served")
    for name, each in (("scale", scale), ("B", bias), ("mean", mean), ("var", var)):
        if x.ndim < 2 or np.shape(each) != (x.shape[1],):
            raise ShapeError(f"{name} must have one entry per channel of x {x.shape}, got {np.shape(each)}")
    axes = others(x.ndim)
    if training_mode:
        normal, average, inverse, pull_normal = standardized(x, axes, epsilon)
        spread, m = mean_over(np.square(x - average), axes).reshape(-1), np.asarray(momentum, x.dtype)
        average = average.reshape(-1)
        running = (mean * m + average * (1 - m), var * m + spread * (1 - m))
    else:
        inverse = channelwise(1 / np.sqrt(np.asarray(var) + np.asarray(epsilon, x.dtype)), x.ndim)
        normal = (x - channelwise(mean, x.ndim)) * inverse
    y = (normal * channelwise(scale, x.ndim) + channelwise(bias, x.ndim)).astype(x.dtype)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        dys = (*dy, None, None) if isinstance(dy, tuple) else (dy, None, None)
        dy = np.zeros_like(x) if dys[0] is None else dys[0]
        dnormal = dy * channelwise(scale, x.ndim)
        parts: list[Any] = [None, (dy * normal).sum(axis=axes), dy.sum(axis=axes), None, None]
        if training_mode:
            parts[0] = pull_normal(dnormal)
            each = (1 - m) / np.asarray(x.size / x.shape[1], x.dtype)
            if dys[1] is not None:  # of the running mean
                parts[0], parts[3] = parts[0] + channelwise(dys[1], x.ndim) * each, m * dys[1]
            if dys[2] is not None:  # of the running variance
                centred = x - channelwise(average, x.ndim)
                parts[0], parts[4] = parts[0] + channelwise(dys[2], x.ndim) * 2 * centred * each, m * dys[2]
        else:
            parts[0] = (dnormal * inverse).astype(x.dtype)
            parts[3] = -(dnormal * inverse).sum(axis=axes) if needs[3] else None
            parts[4] = -0.5 * (dnormal * normal * inverse * inverse).sum(axis=axes) if needs[4] else None
        return [None if part is None else part.astype(x.dtype) for part in parts]

    if outputs > 1:
        if not training_mode:
            raise ValueError("running statistics are outputs with training_mode=1 only")
        return (y, *(each.astype(x.dtype) for each in running))[:outputs], pull
    return y, pull


@operator("InstanceNormalization")
def instance_normalization(x: Any, scale: Any, bias: Any, epsilon: float = 1e-5) -> Result:
    normal, _, _, pull_normal = standardized(x, tuple(range(2, x.ndim)), epsilon)
    return _affine(x, normal, pull_normal, channelwise(scale, x.ndim), channelwise(bias, x.ndim), scale, bias)


def _affine(x: Any, normal: Any, pull_normal: Any, factor: Any, shift: Any, scale: Any, bias: Any) -> Result:
    """normal * factor + shift, the two being scale and bias in a shape that broadcasts."""
    y = (normal * factor + shift).astype(x.dtype)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        return (
            pull_normal(dy * factor).reshape(x.shape) if needs[0] else None,
            unbroadcast(dy * normal, factor).reshape(scale.shape) if needs[1] else None,
            unbroadcast(dy, shift).reshape(bias.shape) if needs[2] else None,
        )

    return y, pull


@operator("GroupNormalization")
def group_normalization(
    x: Any, scale: Any, bias: Any, num_groups: int = 1, epsilon: float = 1e-5, stash_type: Any = None
) -> Result:
    """scale and bias: one entry a channel, or (before version 21) a group."""
    c = x.shape[1]
    if num_groups < 1 or c % num_groups:
        raise ShapeError(f"num_groups must divide the channels, got {num_groups} for {c}")
    grouped = x.reshape(x.shape[0], num_groups, -1)
    normal, _, _, pull_normal = standardized(grouped, (2,), epsilon)
    if scale.size == c:
        factor, shift = channelwise(scale, x.ndim), channelwise(bias, x.ndim)
        return _affine(
            x, normal.reshape(x.shape), lambda d: pull_normal(d.reshape(grouped.shape)), factor, shift, scale, bias
        )
    y, pull = _affine(grouped, normal, pull_normal, scale.reshape(-1, 1), bias.reshape(-1, 1), scale, bias)

    def pull_groups(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        assert pull is not None
        dx, *rest = pull(dy.reshape(grouped.shape), needs)
        return (None if dx is None else dx.reshape(x.shape), *rest)

    return y.reshape(x.shape), pull_groups


@operator("LayerNormalization")
def layer_normalization(
    x: Any, scale: Any, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, stash_type: Any = None,
    outputs: int = 1,
) -> Result:  # fmt: skip
    axes = tuple(range(axis_in(axis, x.ndim), x.ndim))
    normal, average, inverse, pull_normal = standardized(x, axes, epsilon)
    y = normal * scale if bias is None else normal * scale + bias

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        dys = dy if isinstance(dy, tuple) else (dy,)
        d = np.zeros_like(x) if dys[0] is None else dys[0]
        return (
            pull_normal(d * scale, *dys[1:]),
            unbroadcast(d * normal, scale),
            None if bias is None else unbroadcast(d, bias),
        )

    found = (y.astype(x.dtype), average, inverse)
    return (found[:outputs] if outputs > 1 else found[0]), pull


@operator("LpNormalization")
def lp_normalization(x: Any, axis: int = -1, p: int = 2) -> Result:
    axis = axis_in(axis, x.ndim)
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p}")
    norm = np.abs(x).sum(axis, keepdims=True) if p == 1 else np.sqrt((x * x).sum(axis, keepdims=True))
    safe = np.where(norm == 0, 1, norm)
    y = x / safe

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        inner = (dy * y).sum(axis, keepdims=True)
        return (np.where(norm == 0, 0, (dy - inner * (np.sign(x) if p == 1 else y)) / safe).astype(x.dtype),)

    return y.astype(x.dtype), pull


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x: Any, axes: Any = (0, 2, 3)) -> Result:
    normal, _, inverse, pull_normal = standardized(x, axes_of(axes, x.ndim), 0.0)
    deviation = 1 / inverse
    factor = deviation / (deviation + np.asarray(1e-9, x.dtype))  # the operator's own epsilon

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        return (pull_normal(dy * factor),)

    return (normal * factor).astype(x.dtype), pull


@operator("LRN")
def lrn(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Result:
    """Of an even size the longer half of the neighbours lies behind, ours before: channels are turned round."""
    turned = x[:, ::-1] if size % 2 == 0 else x
    y, pull = through("local_response_norm", turned, size, alpha, beta, bias)
    if size % 2:
        return y, lambda dy, needs: pull(dy, (*needs, False, False, False, False))[:1]
    return y[:, ::-1], lambda dy, needs: (pull(dy[:, ::-1], (*needs, False, False, False, False))[0][:, ::-1],)


def _softmax(name: str, op: str) -> None:
    def forward(x: Any, axis: int = -1, coerce: int = 0) -> Result:
        """coerce: before version 13, x is a matrix whose rows end before `axis`."""
        axis = axis_in(axis, x.ndim)
        if not coerce:
            return through(op, x, dim=axis)
        rows = x.reshape(math.prod(x.shape[:axis]), -1) if x.size else x.reshape(0, math.prod(x.shape[axis:]))
        y, pull = through(op, rows, dim=1)
        return y.reshape(x.shape), lambda dy, needs: (pull(dy.reshape(rows.shape), needs)[0].reshape(x.shape),)

    TABLE[name] = Op(name, forward, _backward)


_softmax("Softmax", "softmax")
_softmax("LogSoftmax", "log_softmax")

# --- reductions -------------------------------------------------------------------------------------------------------


def reduction(name: str, function: Callable[..., Any], slope: Callable[..., Any]) -> Callable[..., Result]:
    """function(x, axes) -> y with the axes kept; slope(x, y, axes) -> dy / dx."""

    def forward(x: Any, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Result:
        if axes is None or not np.size(axes):
            if noop_with_empty_axes:
                over: tuple[int, ...] = ()
            else:
                over = tuple(range(x.ndim))
        else:
            over = axes_of(axes, x.ndim)
        with np.errstate(all="ignore"):
            kept = np.asarray(function(x, over)).astype(x.dtype, copy=False)
        y = kept if keepdims else kept.reshape([n for axis, n in enumerate(x.shape) if axis not in over])

        def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
            with np.errstate(all="ignore"):
                dx = dy.reshape(kept.shape) * slope(x, kept, over)
            return (np.broadcast_to(dx, x.shape).astype(x.dtype),)

        return np.asarray(y), pull

    TABLE[name] = Op(name, forward, _backward)
    return forward


def _extreme(largest: bool) -> Callable[..., Any]:
    def function(x: Any, axes: tuple[int, ...]) -> Any:
        if x.dtype.kind == "b":
            least: Any = not largest
        elif x.dtype.kind == "f":
            least = -math.inf if largest else math.inf
        else:
            least = np.iinfo(x.dtype).min if largest else np.iinfo(x.dtype).max
        return (np.max if largest else np.min)(x, axis=axes, keepdims=True, initial=least)

    return function


def _count(x: Any, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def _average(x: Any, axes: tuple[int, ...]) -> Any:
    total = x.sum(axis=axes, keepdims=True, dtype=x.dtype)
    return total / np.asarray(_count(x, axes), x.dtype) if x.dtype.kind == "f" else total // _count(x, axes)


def _without(x: Any, axes: tuple[int, ...]) -> Any:
    """The product of all the others, along axes, also where there are zeros."""
    zeros = (x == 0).sum(axis=axes, keepdims=True)
    rest = np.where(x == 0, 1, x).prod(axis=axes, keepdims=True)
    return np.where(zeros == 0, rest / np.where(x == 0, 1, x), np.where((zeros == 1) & (x == 0), rest, 0))


def _log_sum_exp(x: Any, axes: tuple[int, ...]) -> Any:
    return special.logsumexp(x, axis=axes, keepdims=True) if x.size else np.full(
        [1 if axis in axes else n for axis, n in enumerate(x.shape)], -math.inf
    )  # fmt: skip


reduction("ReduceSum", lambda x, a: x.sum(axis=a, keepdims=True, dtype=x.dtype), lambda x, y, a: 1)
reduce_mean = reduction("ReduceMean", _average, lambda x, y, a: 1 / _count(x, a))
reduce_max = reduction(
    "ReduceMax", _extreme(True), lambda x, y, a: (x == y) / (x == y).sum(axis=a, keepdims=True)
)  # equals share it
reduction("ReduceMin", _extreme(False), lambda x, y, a: (x == y) / (x == y).sum(axis=a, keepdims=True))
reduction("ReduceProd", lambda x, a: x.prod(axis=a, keepdims=True, dtype=x.dtype), lambda x, y, a: _without(x, a))
reduction("ReduceL1", lambda x, a: np.abs(x).sum(axis=a, keepdims=True), lambda x, y, a: np.sign(x))
reduction(
    "ReduceL2",
    lambda x, a: np.sqrt((x * x).sum(axis=a, keepdims=True)),
    lambda x, y, a: np.where(y == 0, 0, x / np.where(y == 0, 1, y)),
)
reduction("ReduceLogSum", lambda x, a: np.log(x.sum(axis=a, keepdims=True)), lambda x, y, a: np.exp(-y))
reduction("ReduceLogSumExp", _log_sum_exp, lambda x, y, a: np.exp(x - y))
reduction("ReduceSumSquare", lambda x, a: (x * x).sum(axis=a, keepdims=True), lambda x, y, a: 2 * x)


@operator("ArgMax")
def argmax(x: Any, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Result:
    axis = axis_in(axis, x.ndim)
    if not x.shape[axis]:
        raise ShapeError(f"axis {axis} must not be empty, got shape {x.shape}")
    if select_last_index:
        place = x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis)
    else:
        place = np.argmax(x, axis)
    place = np.asarray(place, np.int64)
    return (np.expand_dims(place, axis) if keepdims else place), None


# --- shapes -----------------------------------------------------------------------------------------------------------


def reshaped(x: Any, shape: Sequence[int]) -> Result:
    return x.reshape(shape), lambda dy, needs: (dy.reshape(x.shape),)


@operator("Flatten")
def flatten(x: Any, axis: int = 1) -> Result:
    if not -x.ndim <= axis <= x.ndim:
        raise ShapeError(f"axis must lie between {-x.ndim} and {x.ndim}, got {axis}")
    axis = axis + x.ndim if axis < 0 else axis
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Reshape")
def reshape(x: Any, shape: Any, allowzero: int = 0) -> Result:
    """Of no images the shape of one image counts, so that -1 can be found."""
    wanted = [
        x.shape[place] if n == 0 and not allowzero and place < x.ndim else n for place, n in enumerate(ints(shape))
    ]
    if not x.size and x.ndim and not x.shape[0] and -1 in wanted:
        one = math.prod(x.shape[1:])
        images = wanted[0] == 0
        known = math.prod(n for n in wanted[1 if images else 0 :] if n != -1)
        if known and not one % known:
            wanted[wanted.index(-1)] = one // known if images else 0
    return reshaped(x, wanted)


@operator("Transpose")
def transpose(x: Any, perm: Any = None) -> Result:
    order = tuple(reversed(range(x.ndim))) if perm is None else ints(perm)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"perm must name each of the {x.ndim} axes once, got {order}")
    return x.transpose(order), lambda dy, needs: (dy.transpose(np.argsort(order)),)


@operator("Squeeze")
def squeeze(x: Any, axes: Any = None) -> Result:
    over = [axis for axis, n in enumerate(x.shape) if n == 1] if axes is None else axes_of(axes, x.ndim)
    if any(x.shape[axis] != 1 for axis in over):
        raise ShapeError(f"axes {ints(over)} must have length 1, got shape {x.shape}")
    return reshaped(x, [n for axis, n in enumerate(x.shape) if axis not in over])


@operator("Unsqueeze")
def unsqueeze(x: Any, axes: Any) -> Result:
    found = axes_of(axes, np.ndim(x) + len(ints(axes)))
    rest = iter(np.shape(x))
    return reshaped(np.asarray(x), [1 if i in found else next(rest) for i in range(np.ndim(x) + len(found))])


@operator("Concat")
def concat(*arrays: Any, axis: int = 1) -> Result:
    axis = axis_in(axis, arrays[0].ndim)
    require("Concat", sum(array.nbytes for array in arrays))
    y = np.concatenate(arrays, axis)
    stops = np.cumsum([array.shape[axis] for array in arrays])[:-1]
    return y, lambda dy, needs: np.split(dy, stops, axis)


@operator("Split")
def split(x: Any, split: Any = None, axis: int = 0, num_outputs: Any = None, outputs: int = 1) -> Result:
    """outputs: how many the node names."""
    axis = axis_in(axis, x.ndim)
    n, count = x.shape[axis], num_outputs or outputs
    if split is None or not np.size(split):
        each = -(-n // count)
        lengths = [max(0, min(each, n - i * each)) for i in range(count)]
        if num_outputs is None and n % count:
            raise ShapeError(f"axis {axis} of shape {x.shape} does not divide into {count} equal parts")
    else:
        lengths = list(ints(split))
    if sum(lengths) != n or min(lengths, default=0) < 0 or len(lengths) != outputs:
        raise ShapeError(f"{lengths} are not {outputs} parts of {n}")
    parts = tuple(np.split(x, np.cumsum(lengths)[:-1], axis))

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        return (
            np.concatenate([np.zeros_like(part) if d is None else d for part, d in zip(parts, dy, strict=True)], axis),
        )

    return parts, pull


@operator("Slice")
def slice_(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Result:
    starts, ends = ints(starts), ints(ends)
    over = axes_of(range(len(starts)) if axes is None else axes, x.ndim)
    by = (1,) * len(starts) if steps is None else ints(steps)
    if not len(starts) == len(ends) == len(over) == len(by) or 0 in by:
        raise ShapeError(
            f"starts, ends, axes and steps must be as many, and no step 0; got {starts} {ends} {over} {by}"
        )
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, over, by, strict=True):
        n = x.shape[axis]
        low, high = (0, n) if step > 0 else (-1, n - 1)
        first = max(0, min(start + n if start < 0 else start, n if step > 0 else n - 1))
        last = max(low, min(end + n if end < 0 else end, n if step > 0 else high))
        index[axis] = slice(first, None if last < 0 else last, step)
    place = tuple(index)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        dx = np.zeros_like(x)
        dx[place] = dy
        return (dx,)

    return x[place], pull


@operator("Pad")
def pad(
    x: Any, pads: Any, constant_value: Any = None, axes: Any = None, mode: str = "constant", value: float = 0.0
) -> Result:
    """Negative pads cut off."""
    over = axes_of(range(x.ndim) if axes is None else axes, x.ndim)
    pads = ints(pads)
    if len(pads) != 2 * len(over):
        raise ShapeError(f"pads must be {2 * len(over)} numbers, got {len(pads)}")
    around = [(0, 0)] * x.ndim
    for i, axis in enumerate(over):
        around[axis] = (pads[i], pads[i + len(over)])
    output = [n + before + after for n, (before, after) in zip(x.shape, around, strict=True)]
    if min(output, default=0) < 0:
        raise ShapeError(f"pads {pads} take away more than there is of {x.shape}")
    require("Pad", math.prod(output) * x.itemsize)
    if mode == "constant":
        number = value if constant_value is None else scalar("constant_value", constant_value)
        y = np.full(output, number, x.dtype)
        inside = tuple(slice(max(0, b), max(0, b) + n + min(0, b) + min(0, a)) for n, (b, a) in zip(x.shape, around))  # noqa: B905
        kept = tuple(slice(max(0, -b), n - max(0, -a)) for n, (b, a) in zip(x.shape, around))  # noqa: B905
        y[inside] = x[kept]

        def pull_constant(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
            dx = np.zeros_like(x)
            dx[kept] = dy[inside]
            outside = None
            if len(needs) > 2 and needs[2]:
                outside = np.asarray(dy.sum() - dy[inside].sum(), dy.dtype).reshape(np.shape(constant_value))
            return dx, None, outside

        return y, pull_constant
    if mode not in ("reflect", "edge", "wrap"):
        raise ValueError(f"mode must be constant, reflect, edge or wrap, got {mode!r}")
    y = x
    places = []
    for axis, (n, (before, after)) in enumerate(zip(x.shape, around, strict=True)):
        at = np.arange(-before, n + after)
        if mode == "edge":
            at = np.clip(at, 0, n - 1)
        elif mode == "wrap":
            at = at % n
        elif n > 1:
            at = np.abs((at + n - 1) % (2 * (n - 1)) - (n - 1))
        else:
            at = np.zeros_like(at)
        places.append(at)
        y = y.take(at, axis) if before or after else y

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        for axis, at in enumerate(places):
            if around[axis] != (0, 0):
                dx = np.zeros((*dy.shape[:axis], x.shape[axis], *dy.shape[axis + 1 :]), dy.dtype)
                np.add.at(np.moveaxis(dx, axis, 0), at, np.moveaxis(dy, axis, 0))
                dy = dx
        return (dy,)

    return y, pull


@operator("DepthToSpace")
def depth_to_space(x: Any, blocksize: int, mode: str = "DCR") -> Result:
    n, c, h, w = x.shape
    b = blocksize
    if b < 1 or c % (b * b):
        raise ShapeError(f"blocksize {b} squared must divide the {c} channels")
    parts, order = (
        ((n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2))
        if mode == "DCR"
        else ((n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3))
    )
    return _permuted(x, parts, order, (n, c // b**2, h * b, w * b))


@operator("SpaceToDepth")
def space_to_depth(x: Any, blocksize: int, mode: str = "DCR") -> Result:
    n, c, h, w = x.shape
    b = blocksize
    if b < 1 or h % b or w % b:
        raise ShapeError(f"blocksize {b} must divide height and width, got {x.shape}")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return _permuted(x, (n, c, h // b, b, w // b, b), order, (n, c * b * b, h // b, w // b))


def _permuted(x: Any, parts: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]) -> Result:
    y = x.reshape(parts).transpose(order).reshape(shape)
    turned = tuple(parts[axis] for axis in order)
    return y, lambda dy, needs: (dy.reshape(turned).transpose(np.argsort(order)).reshape(x.shape),)


@operator("Tile")
def tile(x: Any, repeats: Any, tiles: Any = None, axis: Any = None) -> Result:
    if tiles is not None:  # version 1
        by = [1] * x.ndim
        by[axis_in(int(scalar("axis", axis)), x.ndim)] = int(scalar("tiles", tiles))
        repeats = by
    times = ints(repeats)
    if len(times) != x.ndim or min(times, default=0) < 0:
        raise ShapeError(f"repeats must be one number of at least 0 for each of {x.ndim} axes, got {times}")
    require("Tile", math.prod(n * t for n, t in zip(x.shape, times, strict=True)) * x.itemsize)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        parts = [each for pair in zip(times, x.shape, strict=True) for each in pair]
        return (dy.reshape(parts).sum(axis=tuple(range(0, 2 * x.ndim, 2))),)

    return np.tile(x, times), pull


@operator("Expand")
def expand(x: Any, shape: Any) -> Result:
    wanted = np.broadcast_shapes(np.shape(x), ints(shape))
    require("Expand", math.prod(wanted) * x.itemsize)
    return np.array(np.broadcast_to(x, wanted)), lambda dy, needs: (unbroadcast(dy, x),)


@operator("Gather")
def gather(x: Any, indices: Any, axis: int = 0) -> Result:
    axis = axis_in(axis, x.ndim)
    indices = np.asarray(indices)
    n = x.shape[axis]
    if indices.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    if indices.size and (indices.min() < -n or indices.max() >= n):
        raise ShapeError(f"indices must lie between {-n} and {n - 1}, got {indices.min()} to {indices.max()}")
    require("Gather", indices.size * math.prod(x.shape[:axis] + x.shape[axis + 1 :]) * x.itemsize)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        dx = np.zeros_like(x)
        rows = np.moveaxis(dy, tuple(range(axis, axis + indices.ndim)), tuple(range(indices.ndim)))
        np.add.at(np.moveaxis(dx, axis, 0), indices, rows)
        return (dx,)

    return np.take(x, indices, axis), pull


@operator("Shape")
def shape(x: Any, start: int = 0, end: int | None = None) -> Result:
    return np.array(np.shape(x)[slice(start, end)], np.int64), None


@operator("Size")
def size(x: Any) -> Result:
    return np.array(np.size(x), np.int64), None


@operator("ConstantOfShape")
def constant_of_shape(shape: Any, value: float = 0.0, to: str = "float", float_type: Any = None) -> Result:
    """to: NumPy's name of the value's type, or "float", the net's own."""
    dtype = (float_type or FLOATS[0]) if to == "float" else np.dtype(to)
    lengths = ints(shape)
    if min(lengths, default=0) < 0:
        raise ShapeError(f"a shape has no negative lengths, got {lengths}")
    require("ConstantOfShape", math.prod(lengths) * dtype.itemsize)
    return np.full(lengths, value, dtype), None


@operator("Range")
def range_(start: Any, limit: Any, delta: Any) -> Result:
    start, limit, delta = (scalar(name, each) for name, each in zip(["start", "limit", "delta"], (start, limit, delta)))  # noqa: B905
    if delta == 0:
        raise ValueError("delta must not be 0")
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
    require("Range", count * 8)
    y = (start + np.arange(count) * delta).astype(np.asarray(start).dtype)

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        return np.asarray(dy.sum()), np.zeros((), dy.dtype), np.asarray((dy * np.arange(count)).sum(), dy.dtype)

    return y, pull


# --- losses -----------------------------------------------------------------------------------------------------------


@operator("NegativeLogLikelihoodLoss")
def nll_loss(x: Any, target: Any, weight: Any = None, reduction: str = "mean", ignore_index: Any = None) -> Result:
    c = x.shape[1]
    if target.dtype.kind not in "iu" or target.shape != x.shape[:1] + x.shape[2:]:
        raise ShapeError(f"target must be integers of shape {x.shape[:1] + x.shape[2:]}, got {target.shape}")
    ignored = np.zeros(target.shape, bool) if ignore_index is None else target == ignore_index
    at = np.where(ignored, 0, target)
    if at.size and (at.min() < 0 or at.max() >= c):
        raise ShapeError(f"target must lie between 0 and {c - 1}, got {at.min()} to {at.max()}")
    if weight is not None and weight.shape != (c,):
        raise ShapeError(f"weight must have one entry per class, got {weight.shape} for {c}")
    factor = np.where(ignored, 0, 1 if weight is None else weight[at]).astype(x.dtype)
    picked = np.take_along_axis(x, at[:, None], 1)[:, 0]
    each = -picked * factor
    with np.errstate(all="ignore"):
        divisor = factor.sum()
        y = {"none": lambda: each, "sum": each.sum, "mean": lambda: each.sum() / divisor}[reduction]()

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        d = dy / divisor if reduction == "mean" else dy
        dx, dweight = None, None
        if needs[0]:
            dx = np.zeros_like(x)
            np.put_along_axis(dx, at[:, None], (-d * factor)[:, None].astype(x.dtype), 1)
        if len(needs) > 2 and needs[2]:
            share = -picked * d - (d * y if reduction == "mean" else 0)
            dweight = np.bincount(at[~ignored], np.broadcast_to(share, at.shape)[~ignored], c).astype(x.dtype)
        return dx, None, dweight

    return np.asarray(y, x.dtype), pull


@operator("SoftmaxCrossEntropyLoss")
def cross_entropy(
    x: Any, target: Any, weight: Any = None, reduction: str = "mean", ignore_index: Any = None, outputs: int = 1
) -> Result:
    logs, pull_logs = through("log_softmax", x, dim=1)
    y, pull_loss = nll_loss(logs, target, weight, reduction, ignore_index)
    assert pull_loss is not None

    def pull(dy: Any, needs: tuple[bool, ...]) -> Sequence[Any]:
        loss, prob = dy if isinstance(dy, tuple) else (dy, None)
        dlogs, _, dweight = (None, None, None) if loss is None else pull_loss(loss, needs)
        dlogs = prob if dlogs is None else dlogs if prob is None else dlogs + prob
        return (pull_logs(dlogs, (True,))[0] if dlogs is not None else None), None, dweight

    return ((y, logs) if outputs > 1 else y), pull


FOLDED = {name.casefold(): op for name, op in TABLE.items()}
