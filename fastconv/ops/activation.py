"""Activation functions: elementwise, with a weight per channel (prelu), and along an axis (softmax).

    relu          max(x, 0)
    leaky_relu    x where x > 0, else negative_slope * x
    prelu         x where x > 0, else weight[c] * x         weight (C,) or (1,), c the index along axis 1
    elu           x where x > 0, else alpha * (exp(x) - 1)
    selu          1.0507... * elu(x, 1.6732...)
    gelu          x * Phi(x), Phi the normal distribution function;
                  "tanh": x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
    silu          x * sigmoid(x)
    sigmoid       1 / (1 + exp(-x))
    tanh          tanh(x)
    softplus      log(1 + exp(beta * x)) / beta where beta * x <= threshold, else x
    hardswish     x * min(max(x + 3, 0), 6) / 6
    softmax       exp(x) / sum(exp(x))                      the sum over the axis `dim`
    log_softmax   x - log(sum(exp(x)))

All of them keep x's shape, the elementwise ones its order in memory too; NaN stays NaN. Gradients at kinks are
PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import activation as kernels
from fastconv._ext import softmax as softmax_kernels
from fastconv.arrays import as_floats, channels_last, logical
from fastconv.errors import ShapeError, integer, nearest
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import (
    Order,
    Rows,
    as_rows,
    axis_of,
    from_rows,
    in_memory_order,
    number,
    ordered,
    restored,
)
from fastconv.ops.registry import add

RELU, LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SIGMOID, TANH, SOFTPLUS, HARDSWISH = (
    kernels.ACTIVATIONS[name]
    for name in (
        "RELU", "LEAKY_RELU", "ELU", "GELU", "GELU_TANH", "SILU", "SIGMOID", "TANH", "SOFTPLUS", "HARDSWISH",
    )
)  # fmt: skip
CHEAP = (RELU, LEAKY_RELU, HARDSWISH)
WORK = 8  # what an element of the others costs, in elements of the cheap ones
SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)

Gradients = tuple["np.ndarray | None", ...]

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare_prelu(x: Any, weight: Any) -> tuple[np.ndarray, np.ndarray]:
    x, weight = as_floats("prelu", x=x, weight=weight)
    if weight is None:
        raise TypeError("prelu: weight must hold real numbers, got None")
    if x.ndim < 2:
        raise ShapeError(f"prelu: x must have at least 2 axes (N C), got {x.ndim}: shape {x.shape}")
    if weight.ndim > 1 or weight.size not in (1, x.shape[1]):
        raise ShapeError(
            f"prelu: weight must have one entry, or one per channel, shape ({x.shape[1]},), got {weight.shape}"
        )
    return x, weight


def prepare_rows(op: str, x: Any, dim: Any) -> tuple[np.ndarray, int]:
    """x and `dim`, counted from the front."""
    (x,) = as_floats(op, x=x)
    axis = axis_of(op, x, dim)
    if axis and x.shape[axis] == 0:
        raise ShapeError(f"{op}: x must not be empty along dim {axis}, got shape {x.shape}")
    return x, axis


def check_rows(op: str, *, dim: Any = 1) -> None:
    integer(op, "dim", dim)


# --- reference -------------------------------------------------------------------------------------------------------


def naive_sigmoid(x: float) -> float:
    e = math.exp(-abs(x))
    return (e if x < 0 else 1) / (1 + e)


def naive_softplus(x: float) -> float:
    return (0 if x < 0 else x) + math.log1p(math.exp(-abs(x)))


def naive_normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def naive_bell(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def naive_gelu_inner(x: float) -> float:
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


def naive_gelu_tanh_slope(x: float) -> float:
    u = 2 * naive_gelu_inner(x)
    s, rest = naive_sigmoid(u), naive_sigmoid(-u)
    return s + x * s * rest * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


def naive_silu_slope(x: float) -> float:
    return naive_sigmoid(x) * (1 + x * naive_sigmoid(-x))


def naive_tanh_slope(x: float) -> float:
    return 4 * naive_sigmoid(2 * x) * naive_sigmoid(-2 * x)


def naive_hardswish_slope(x: float) -> float:
    if x <= -3:
        return 0.0
    return 1.0 if x >= 3 else x / 3 + 0.5


Value = Callable[[float, float, float], float]  # (x, a, b) -> y
Slope = Callable[[float, float, float, float], float]  # (dy, x, a, b) -> dx

NAIVE: dict[int, tuple[Value, Slope]] = {
    RELU: (lambda x, a, b: 0.0 if x < 0 else x, lambda d, x, a, b: 0.0 if x <= 0 else d),
    LEAKY_RELU: (lambda x, a, b: x if x > 0 else a * x, lambda d, x, a, b: d if x > 0 else a * d),
    ELU: (
        lambda x, a, b: b * a * math.expm1(x) if x <= 0 else b * x,
        lambda d, x, a, b: d * (b * a * math.exp(x) if x <= 0 else b if x > 0 else x),
    ),
    GELU: (lambda x, a, b: x * naive_normal(x), lambda d, x, a, b: d * (naive_normal(x) + x * naive_bell(x))),
    GELU_TANH: (
        lambda x, a, b: x * naive_sigmoid(2 * naive_gelu_inner(x)),
        lambda d, x, a, b: d * naive_gelu_tanh_slope(x),
    ),
    SILU: (lambda x, a, b: x * naive_sigmoid(x), lambda d, x, a, b: d * naive_silu_slope(x)),
    SIGMOID: (lambda x, a, b: naive_sigmoid(x), lambda d, x, a, b: d * naive_sigmoid(x) * naive_sigmoid(-x)),
    TANH: (lambda x, a, b: math.tanh(x), lambda d, x, a, b: d * naive_tanh_slope(x)),
    SOFTPLUS: (
        lambda x, a, b: x if x * a > b else naive_softplus(x * a) / a,
        lambda d, x, a, b: d if x * a > b else d * naive_sigmoid(x * a),
    ),
    HARDSWISH: (lambda x, a, b: x if x > 3 else x * max(x + 3, 0) / 6, lambda d, x, a, b: d * naive_hardswish_slope(x)),
}


def naive(op: str, kind: int, x: Any, a: float = 0, b: float = 0) -> tuple[np.ndarray, Any]:
    (x,) = as_floats(op, x=x)
    value = NAIVE[kind][0]
    ys = [value(element, a, b) for element in x.ravel().tolist()]
    return np.array(ys, x.dtype).reshape(x.shape), (kind, x, a, b)


def naive_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    kind, x, a, b = saved
    slope = NAIVE[kind][1]
    dxs = [slope(d, element, a, b) for d, element in zip(dy.ravel().tolist(), x.ravel().tolist(), strict=True)]
    return np.array(dxs, dy.dtype).reshape(dy.shape), None, None


def prelu_reference(x: Any, weight: Any) -> tuple[np.ndarray, Any]:
    x, weight = prepare_prelu(x, weight)
    weights = _weight_of_each(x, weight)
    ys = [value if value > 0 else w * value for value, w in zip(x.ravel().tolist(), weights, strict=True)]
    return np.array(ys, x.dtype).reshape(x.shape), (x, weight)


def _weight_of_each(x: np.ndarray, weight: np.ndarray) -> list[float]:
    """The weight that belongs to every element of x, in C order."""
    pixels, channels = math.prod(x.shape[2:]), x.shape[1]
    weights = weight.ravel().tolist()
    return [weights[i // pixels % channels] if weight.size > 1 else weights[0] for i in range(x.size)]


def prelu_reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    x, weight = saved
    pixels = math.prod(x.shape[2:])
    dxs, dweights = [], [0.0] * weight.size
    elements = zip(dy.ravel().tolist(), x.ravel().tolist(), _weight_of_each(x, weight), strict=True)
    for i, (d, value, w) in enumerate(elements):
        dxs.append(d if value > 0 else w * d)
        if not value > 0:
            dweights[i // pixels % weight.size] += d * value
    return np.array(dxs, dy.dtype).reshape(x.shape), np.array(dweights, dy.dtype).reshape(weight.shape)


def softmax_reference(op: str, x: Any, *, dim: int = 1) -> tuple[np.ndarray, Any]:
    x, axis = prepare_rows(op, x, dim)
    logs = [naive_log_softmax(row) for row in as_rows(op, x, axis).tolist()] if x.size else []
    ys = logs if op == "log_softmax" else [[math.exp(value) for value in row] for row in logs]
    return from_rows(np.array(ys, x.dtype), x.shape, axis), (logs, axis)


def naive_log_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    if math.isnan(sum(row)) or math.isinf(top):
        return [math.nan] * len(row)
    log_sum = math.log(sum(math.exp(value - top) for value in row))
    return [(value - top) - log_sum for value in row]


def softmax_reference_backward(op: str, dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    logs, axis = saved
    dxs = []
    for row, ds in zip(logs, as_rows(op, dy, axis).tolist() if dy.size else [], strict=True):
        ps = [math.exp(value) for value in row]
        if op == "log_softmax":
            total = sum(ds)
            dxs.append([d - p * total for d, p in zip(ds, ps, strict=True)])
        else:
            total = sum(d * p for d, p in zip(ds, ps, strict=True))
            dxs.append([(d - total) * p for d, p in zip(ds, ps, strict=True)])
    return (from_rows(np.array(dxs, dy.dtype), dy.shape, axis),)


# --- fast: elementwise, over memory as it lies -----------------------------------------------------------------------


class Saved(NamedTuple):
    kind: int
    x: np.ndarray  # axes in memory order
    order: Order
    a: float
    b: float


def fast(op: str, kind: int, x: Any, a: float = 0, b: float = 0) -> tuple[np.ndarray, Saved]:
    (x,) = as_floats(op, x=x)
    x, order = in_memory_order(op, x)
    y = allocate(op, x.shape, x.dtype)
    threads = threads_for((2 if kind in CHEAP else 2 * WORK) * y.nbytes)
    kernels.activate(kind, x.reshape(-1), y.reshape(-1), a, b, threads)
    return restored(y, order), Saved(kind, x, order, a, b)


def fast_backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    kind, x, order, a, b = saved
    dy = ordered(op, dy, order)
    dx = allocate(op, x.shape, x.dtype)
    threads = threads_for((3 if kind in CHEAP else 3 * WORK) * dx.nbytes)
    kernels.activate_backward(kind, dy.reshape(-1), x.reshape(-1), dx.reshape(-1), a, b, threads)
    return restored(dx, order), None, None


# --- the elementwise functions: `run` is `fast` or `naive` -----------------------------------------------------------

Run = Callable[..., tuple[np.ndarray, Any]]


def check(face: Callable[..., Any], **options: Any) -> None:
    face(lambda *_: None, None, **options)


def relu(run: Run, x: Any) -> tuple[np.ndarray, Any]:
    return run("relu", RELU, x)


def leaky_relu(run: Run, x: Any, negative_slope: float = 0.01) -> tuple[np.ndarray, Any]:
    return run("leaky_relu", LEAKY_RELU, x, number("leaky_relu", "negative_slope", negative_slope))


def elu(run: Run, x: Any, alpha: float = 1.0) -> tuple[np.ndarray, Any]:
    return run("elu", ELU, x, number("elu", "alpha", alpha), 1.0)


def selu(run: Run, x: Any) -> tuple[np.ndarray, Any]:
    return run("selu", ELU, x, *SELU)


def gelu(run: Run, x: Any, *, approximate: str = "none") -> tuple[np.ndarray, Any]:
    if approximate not in ("none", "tanh"):
        meant = nearest(approximate, ("none", "tanh"))
        raise ValueError(f"gelu: approximate must be none or tanh, got {approximate!r}{meant}")
    return run("gelu", GELU if approximate == "none" else GELU_TANH, x)


def silu(run: Run, x: Any) -> tuple[np.ndarray, Any]:
    return run("silu", SILU, x)


def sigmoid(run: Run, x: Any) -> tuple[np.ndarray, Any]:
    return run("sigmoid", SIGMOID, x)


def tanh(run: Run, x: Any) -> tuple[np.ndarray, Any]:
    return run("tanh", TANH, x)


def softplus(run: Run, x: Any, beta: float = 1.0, threshold: float = 20.0) -> tuple[np.ndarray, Any]:
    beta, threshold = number("softplus", "beta", beta), number("softplus", "threshold", threshold)
    if beta == 0:
        raise ValueError("softplus: beta must not be 0")
    return run("softplus", SOFTPLUS, x, beta, threshold)


def hardswish(run: Run, x: Any) -> tuple[np.ndarray, Any]:
    return run("hardswish", HARDSWISH, x)


# --- fast: prelu, over rows of channels ------------------------------------------------------------------------------


class SavedPrelu(NamedTuple):
    last: np.ndarray  # x, channels last
    weight: np.ndarray
    cut: Rows


def prelu(x: Any, weight: Any) -> tuple[np.ndarray, SavedPrelu]:
    x, weight = prepare_prelu(x, weight)
    last = channels_last("prelu", x)
    cut = Rows.of(1, x.size // weight.size, weight.size)
    y = allocate("prelu", last.shape, x.dtype)
    wide = cut.widen(weight.reshape(-1).copy(), x.dtype)
    kernels.prelu(cut.table(last), wide, cut.table(y), cut.block_rows, threads_for(2 * y.nbytes))
    return logical(y), SavedPrelu(last, weight, cut)


def prelu_backward(dy: np.ndarray, saved: SavedPrelu, needs: tuple[bool, ...]) -> Gradients:
    last, weight, cut = saved
    dy_last = channels_last("prelu", dy)
    dx = allocate("prelu", last.shape, dy.dtype)
    sums = cut.sums("prelu", 1)
    kernels.prelu_backward(
        cut.table(dy_last), cut.table(last), cut.widen(weight.reshape(-1).copy(), dy.dtype), cut.table(dx), sums,
        cut.block_rows, threads_for(3 * dx.nbytes),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        dweight = cut.add_up(sums)[0, 0].astype(dy.dtype).reshape(weight.shape)
    return logical(dx), dweight


# --- fast: softmax, the axis last ------------------------------------------------------------------------------------


class SavedRows(NamedTuple):
    table: np.ndarray  # x (rows, length)
    log_sums: np.ndarray  # (rows, 2) float64: the largest x, log(sum(exp(x - largest)))
    shape: tuple[int, ...]
    axis: int


def softmax(op: str, x: Any, *, dim: int = 1) -> tuple[np.ndarray, SavedRows]:
    x, axis = prepare_rows(op, x, dim)
    table = as_rows(op, x, axis)
    if not x.size:
        return np.empty(x.shape, x.dtype), SavedRows(table, np.empty(0), x.shape, axis)
    y = allocate(op, table.shape, x.dtype)
    if op == "log_softmax":
        log_sums = row_log_sums(op, table)
        softmax_kernels.log_softmax(table, log_sums, y, threads_for(2 * y.nbytes))
    else:
        log_sums = allocate(op, (len(table), 2), np.dtype(np.float64))
        softmax_kernels.softmax(table, y, log_sums, threads_for(WORK * y.nbytes))
    return from_rows(y, x.shape, axis), SavedRows(table, log_sums, x.shape, axis)


def row_log_sums(op: str, table: np.ndarray) -> np.ndarray:
    """(rows, 2) float64: every row's largest element, and the log of the sum of exp(row - largest)."""
    log_sums = allocate(op, (len(table), 2), np.dtype(np.float64))
    softmax_kernels.log_sums(table, log_sums, threads_for(WORK * table.nbytes))
    return log_sums


def softmax_backward(op: str, dy: np.ndarray, saved: SavedRows, needs: tuple[bool, ...]) -> Gradients:
    table, log_sums, shape, axis = saved
    dy_rows = as_rows(op, dy, axis)
    dx = allocate(op, table.shape, table.dtype)
    if dx.size:
        softmax_kernels.softmax_backward(
            dy_rows, table, log_sums, dx, op == "log_softmax", threads_for(WORK * dx.nbytes)
        )  # fmt: skip
    return (from_rows(dx, shape, axis),)


for _face in (relu, leaky_relu, elu, selu, gelu, silu, sigmoid, tanh, softplus, hardswish):
    add(
        _face.__name__,
        forward=partial(_face, fast),
        backward=partial(fast_backward, _face.__name__),
        reference=partial(_face, naive),
        reference_backward=naive_backward,
        check=partial(check, _face),
    )
add("prelu", prelu, prelu_backward, prelu_reference, prelu_reference_backward)
for _name in ("softmax", "log_softmax"):
    add(
        _name,
        forward=partial(softmax, _name),
        backward=partial(softmax_backward, _name),
        reference=partial(softmax_reference, _name),
        reference_backward=partial(softmax_reference_backward, _name),
        check=partial(check_rows, _name),
    )
