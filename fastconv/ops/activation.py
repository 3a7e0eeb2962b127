"""Activation functions of every element by itself.

    relu          max(x, 0)
    leaky_relu    x where x > 0, else negative_slope * x
    elu           x where x > 0, else alpha * (exp(x) - 1)
    selu          1.0507... * elu(x, 1.6732...)
    gelu          x * Phi(x), Phi the normal distribution function;
                  "tanh": x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
    silu          x * sigmoid(x)
    sigmoid       1 / (1 + exp(-x))
    tanh          tanh(x)
    softplus      log(1 + exp(beta * x)) / beta where beta * x <= threshold, else x
    hardswish     x * min(max(x + 3, 0), 6) / 6

All of them keep x's shape and order in memory; NaN stays NaN. Gradients at kinks are
PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastconv._ext import activation as kernels
from fastconv.arrays import as_floats, copied
from fastconv.errors import nearest
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import Layout, layout_of, number, ordered
from fastconv.ops.registry import Gradients, add

RELU, LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SIGMOID, TANH, SOFTPLUS, HARDSWISH = (
    kernels.ACTIVATIONS[name]
    for name in (
        "RELU", "LEAKY_RELU", "ELU", "GELU", "GELU_TANH", "SILU", "SIGMOID", "TANH", "SOFTPLUS", "HARDSWISH",
    )
)  # fmt: skip
CHEAP = (RELU, LEAKY_RELU, HARDSWISH)
WORK = 8  # what an element of the others costs, in elements of the cheap ones
SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


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


# --- fast: elementwise, over memory as it lies -----------------------------------------------------------------------


Saved = tuple[np.ndarray, tuple[int, Layout, float, float]]  # x; the kind, how x lies, a and b


def fast(op: str, kind: int, x: Any, a: float = 0, b: float = 0) -> tuple[np.ndarray, Saved]:
    x, lies = layout_of(op, x)
    if not lies.is_dense:
        x = copied(op, x)
    y = allocate(op, lies.shape, x.dtype)
    kernels.activate(kind, x, y, a, b, threads_for((2 if kind in CHEAP else 2 * WORK) * y.nbytes))
    return y if lies.back is None else y.transpose(lies.back), (x, (kind, lies, a, b))


def relu_backward(dy: np.ndarray, y: np.ndarray, over: bool) -> np.ndarray:
    """dy where relu's output y is above 0; over: in dy's place."""
    _, lies = layout_of("relu", y)
    y, moved = ordered("relu", y, lies.order), ordered("relu", dy, lies.order)
    dx = moved if over else allocate("relu", lies.shape, y.dtype)
    kernels.activate_backward(RELU, moved, y, dx, 0.0, 0.0, threads_for(3 * dx.nbytes))
    return dx if lies.back is None else dx.transpose(lies.back)


def fast_backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    x, (kind, lies, a, b) = saved
    dy = ordered(op, dy, lies.order)
    dx = allocate(op, lies.shape, x.dtype)
    kernels.activate_backward(kind, dy, x, dx, a, b, threads_for((3 if kind in CHEAP else 3 * WORK) * dx.nbytes))
    return dx if lies.back is None else dx.transpose(lies.back), None, None


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


for _face in (relu, leaky_relu, elu, selu, gelu, silu, sigmoid, tanh, softplus, hardswish):
    add(
        _face.__name__,
        forward=partial(_face, fast),
        backward=partial(fast_backward, _face.__name__),
        reference=partial(_face, naive),
        reference_backward=naive_backward,
        check=partial(check, _face),
    )
