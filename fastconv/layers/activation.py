"""Layers without a window: activations, softmax, dropout, and any operation by its name.

torch.nn's names and arguments; those of torch's that have no meaning here (`inplace`, …) are accepted at their default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv import functional
from fastconv._ext.capture import Kernel
from fastconv.arrays import empty_like
from fastconv.errors import nearest
from fastconv.layers.base import Context, Gradients, OpLayer
from fastconv.layers.common import need_default
from fastconv.machine.memory import require
from fastconv.ops import OPS
from fastconv.ops.common import number
from fastconv.window import integers

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Dropout",
    "Dropout2d",
    "Function",
    "Hardswish",
    "LeakyReLU",
    "LogSoftmax",
    "PReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Step",
    "Tanh",
]


class ReLU(OpLayer):
    """max(x, 0)."""

    op = "relu"

    def __init__(self, inplace: bool = False) -> None:
        need_default("ReLU", False, inplace=inplace)

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        """In a training step y is kept in place of x: it is positive where x is, and the next layer keeps it too. What
        `vjp` hands out may be changed before its pullback is called, so x is kept there."""
        y, (x, how) = super().forward(x, context)
        return y, (x if context.snapshot else y, how)


class GELU(OpLayer):
    """x * Phi(x), Phi the normal distribution function."""

    op = "gelu"

    def __init__(self, approximate: str = "none") -> None:
        self.configure(approximate=approximate)


class SiLU(OpLayer):
    """x * sigmoid(x)."""

    op = "silu"

    def __init__(self, inplace: bool = False) -> None:
        need_default("SiLU", False, inplace=inplace)


class SELU(OpLayer):
    """A scaled ELU with the constants of self-normalising nets."""

    op = "selu"

    def __init__(self, inplace: bool = False) -> None:
        need_default("SELU", False, inplace=inplace)


class Sigmoid(OpLayer):
    """1 / (1 + exp(-x))."""

    op = "sigmoid"

    def __init__(self, *, inplace: bool = False) -> None:
        need_default("Sigmoid", False, inplace=inplace)


class Tanh(OpLayer):
    """The hyperbolic tangent."""

    op = "tanh"

    def __init__(self, *, inplace: bool = False) -> None:
        need_default("Tanh", False, inplace=inplace)


class Hardswish(OpLayer):
    """x * min(max(x + 3, 0), 6) / 6."""

    op = "hardswish"

    def __init__(self, inplace: bool = False) -> None:
        need_default("Hardswish", False, inplace=inplace)


class Step(OpLayer):
    """0 where x < 0, else 1: the chapter's first activation. Its gradient is 0."""

    op = "step"

    def __init__(self) -> None:
        pass


class LeakyReLU(OpLayer):
    """x where x > 0, else negative_slope * x."""

    op = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        need_default("LeakyReLU", False, inplace=inplace)
        self.configure(negative_slope=negative_slope)


class PReLU(OpLayer):
    """x where x > 0, else weight[c] * x, the weight learnt (He et al., 2015)."""

    op = "prelu"
    parameter_names = positional = ("weight",)

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        need_default("PReLU", None, device=device, dtype=dtype)
        (c,) = integers("PReLU", "num_parameters", num_parameters, 1, 1)
        require("PReLU", 4 * c)
        self.weight = np.full(c, number("PReLU", "init", init), np.float32)


class ELU(OpLayer):
    """x where x > 0, else alpha * (exp(x) - 1)."""

    op = "elu"

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        need_default("ELU", False, inplace=inplace)
        self.configure(alpha=alpha)


class Softplus(OpLayer):
    """log(1 + exp(beta * x)) / beta."""

    op = "softplus"

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.configure(beta=beta, threshold=threshold)


class Softmax(OpLayer):
    """exp(x) / sum(exp(x)) along `dim`."""

    op = "softmax"

    def __init__(self, dim: int = 1) -> None:
        self.configure(dim=dim)


class LogSoftmax(Softmax):
    """log(softmax(x)) along `dim`."""

    op = "log_softmax"


class Dropout(OpLayer):
    """In training, zeros with probability p and 1 / (1 - p) times the rest (Srivastava et al., 2014); else x."""

    op = "dropout"

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        need_default(type(self).__name__, False, inplace=inplace)
        self.p = number(type(self).__name__, "p", p)
        if not 0 <= self.p <= 1:
            raise ValueError(f"{type(self).__name__}: p must lie in [0, 1], got {p}")

    def options(self, context: Context) -> Mapping[str, Any]:
        return {"p": self.p, "training": context.mode(self), "rng": context.generator}


class Dropout2d(Dropout):
    """Dropout of whole channels of (N, C, …) (Tompson et al., 2015)."""

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        ones = np.ones(x.shape[:2] + (1,) * (x.ndim - 2), x.dtype)
        mask = OPS["dropout"].forward(ones, **self.options(context))[0]
        return _times(x, mask), mask

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        return _times(dy, saved), {}


def _times(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    y = empty_like("dropout", x)
    _multiply(x, mask, out=y)
    return y


_multiply = Kernel(np.multiply)


class Function(OpLayer):
    """An operation of `fastconv.functional`, or one's own from `fastconv.register`, as a layer: Function("relu")."""

    def __init__(self, name: str, **options: Any) -> None:
        if name not in OPS:
            raise ValueError(f"Function: no operation is called {name!r}{nearest(name, OPS)}")
        try:
            inspect.signature(getattr(functional, name)).bind(None, **options)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        self.op = name
        self.check(**options)
        self._options = options
