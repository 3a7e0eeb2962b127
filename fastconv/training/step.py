"""One step's work: the loss of a net on a batch, and its gradient to every trainable parameter."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastconv import functional, runtime
from fastconv.layers.base import Context, Layer
from fastconv.ops import OPS
from fastconv.ops.registry import FUNCTIONS

__all__ = ["Loss", "resolve_loss", "value_and_grad"]

LossLike = str | Callable[..., Any]


@dataclass(frozen=True)
class Loss:
    """An operation (output, target, **options) -> scalar, by its registered name."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, output: np.ndarray, target: Any) -> Any:
        return OPS[self.name].forward(output, target, **self.options)[0]

    def with_gradient(self, output: np.ndarray, target: Any) -> tuple[np.ndarray, np.ndarray]:
        """The loss and its gradient to the net's output."""
        op = OPS[self.name]
        value, saved = op.forward(output, target, **self.options)
        if np.ndim(value):
            raise ValueError(f"{self.name}: a loss must be one number, got shape {np.shape(value)} (reduction?)")
        gradient = op.backward(np.ones((), output.dtype), saved, (True, False))[0]
        assert gradient is not None
        return value, gradient


def resolve_loss(loss: LossLike | Loss) -> Loss:
    """A name, a function of fastconv.functional (functools.partial gives it options) or a registered one, as a Loss."""
    if isinstance(loss, Loss):
        return loss
    options: dict[str, Any] = {}
    function: Any = loss
    if isinstance(function, functools.partial) and not function.args:
        function, options = function.func, dict(function.keywords)
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    public = FUNCTIONS.get(name) or getattr(functional, name, None) if name in OPS else None
    if public is None or (function is not public and not isinstance(function, str)):
        raise TypeError(
            "loss must be the name of an operation, a function of fastconv.functional or what fastconv.register "
            f"returned, got {loss!r}"
        )
    return Loss(name, options)


def value_and_grad(
    net: Layer, loss: LossLike | Loss, x: Any, y: Any, *, rng: np.random.Generator | None = None
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of `net` on the batch (x, y) in training mode, and its gradient to every trainable parameter by name.

    loss   a function of fastconv.functional, one from `fastconv.register`, or its name; options by functools.partial
    rng    what dropout draws from (default: the generator that `manual_seed` seeds)

    Raises TypeError for a loss that is none of these, ValueError for one that is not a single number.
    """
    loss = resolve_loss(loss)
    with runtime.blas_held():
        output, saved = net.forward(net.cast(x), Context.of_step(net, rng))
        value, gradient = loss.with_gradient(output, y)
        return float(value), net.backward(gradient, saved, False)[1]
