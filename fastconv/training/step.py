"""One step's work: the loss of a net on a batch, and its gradient to every trainable parameter."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastconv import functional, plan
from fastconv.errors import integer
from fastconv.layers.base import Context, Layer
from fastconv.layers.graph import Graph
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import at_most
from fastconv.ops import OPS
from fastconv.ops.common import number
from fastconv.ops.registry import FUNCTIONS

__all__ = ["Loss", "Losses", "resolve_loss", "value_and_grad"]

LossLike = str | Callable[..., Any] | Mapping[str, Any]  # a name, a function, or a dict of them
IGNORED = -100  # torch's ignore_index


@dataclass(frozen=True)
class Loss:
    """An operation (output, target, **options) -> scalar, by its registered name.

    Targets and options that are floats follow the output's float type. A call gives the loss of a batch and the batch's
    weight: what the loss's mean divides by, targets that are ignored left out; of a loss of one's own the samples.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, output: np.ndarray, target: Any) -> tuple[float, float]:
        """The loss and the batch's weight."""
        value, _, weight = self._forward(output, target)
        return float(value), weight

    def with_gradient(self, output: np.ndarray, target: Any) -> tuple[float, float, np.ndarray]:
        """The loss, the batch's weight and the gradient to the net's output."""
        value, saved, weight = self._forward(output, target)
        gradient = OPS[self.name].backward(np.ones((), output.dtype), saved, (True, False))[0]
        assert gradient is not None
        return float(value), weight, gradient

    def _forward(self, output: np.ndarray, target: Any) -> tuple[Any, Any, float]:
        if isinstance(output, tuple):
            raise ValueError(
                f"{self.name}: the net's output is a tuple of {len(output)}; of a Graph write a dict of losses by the "
                "outputs' names"
            )
        op = OPS[self.name]
        options = {name: _following(output, value) for name, value in self.options.items()}
        value, saved = op.forward(output, _following(output, target), **options)
        if np.ndim(value):
            raise ValueError(f"{self.name}: a loss must be one number, got shape {np.shape(value)} (reduction?)")
        return value, saved, float(len(output)) if op.denominator is None else op.denominator(saved)

    def portion(self, value: float, weight: float) -> float:
        """What a batch's loss adds to those of other batches; a batch without weight nothing, its loss may be nan."""
        if not weight:
            return 0.0
        return value if self._is_sum else value * weight

    def whole(self, portions: float, weights: float) -> float:
        """The loss of all batches as if they were one, from the sums of their portions and weights."""
        if self._is_sum:
            return portions
        return portions / weights if weights else math.nan

    @property
    def _is_sum(self) -> bool:
        return OPS[self.name].denominator is not None and self.options.get("reduction") == "sum"

    @property
    def ignore_index(self) -> Any:
        """The target that is no class."""
        return self.options.get("ignore_index", IGNORED)


@dataclass(frozen=True)
class Losses:
    """A loss for each of several outputs of a net, and the factors with which they are added up.

    Targets are a dict by the outputs' names, or a tuple in the order of the net's outputs that have a loss. A batch's
    weight is its number of samples; a loss whose targets are all ignored adds nothing.
    """

    outputs: tuple[str, ...]  # all of the net's
    losses: dict[str, Loss]
    weights: dict[str, float]

    def __call__(self, output: Any, target: Any) -> tuple[float, float]:
        """The loss and the batch's weight."""
        total, samples = 0.0, 0
        for name, y, t in self._each(output, target):
            value, weight = self.losses[name](y, t)
            total += self.weights.get(name, 1.0) * value if weight else 0.0
            samples = len(y)
        return total, float(samples)

    def with_gradient(self, output: Any, target: Any) -> tuple[float, float, Any]:
        """The loss, the batch's weight and the gradient to each output."""
        total, samples, gradients = 0.0, 0, dict.fromkeys(self.outputs)
        for name, y, t in self._each(output, target):
            value, weight, gradient = self.losses[name].with_gradient(y, t)
            factor, samples = self.weights.get(name, 1.0), len(y)
            if weight:
                total += factor * value
                gradients[name] = gradient if factor == 1 else gradient * np.asarray(factor, gradient.dtype)
        found = tuple(gradients[name] for name in self.outputs)
        return total, float(samples), found if isinstance(output, tuple) else found[0]

    def _each(self, output: Any, target: Any) -> list[tuple[str, np.ndarray, Any]]:
        """Per loss the output's name, the output and its targets."""
        named = [name for name in self.outputs if name in self.losses]
        if isinstance(target, Mapping):
            if target.keys() != self.losses.keys():
                raise ValueError(
                    f"loss: targets must be given for {', '.join(named)}, got {', '.join(map(str, target))}"
                )
        elif isinstance(target, tuple) and len(target) == len(named):
            target = dict(zip(named, target, strict=True))
        elif len(named) == 1 and not isinstance(target, tuple):
            target = {named[0]: target}
        else:
            got = len(target) if isinstance(target, tuple) else "one array"
            raise ValueError(
                f"loss: targets must be a tuple or dict of {len(named)}, for {', '.join(named)}; got {got}"
            )
        values = dict(zip(self.outputs, output if isinstance(output, tuple) else (output,), strict=True))
        return [(name, values[name], target[name]) for name in named]

    def portion(self, value: float, weight: float) -> float:
        """See `Loss.portion`."""
        return value * weight if weight else 0.0

    def whole(self, portions: float, weights: float) -> float:
        """See `Loss.whole`."""
        return portions / weights if weights else math.nan


def _following(output: np.ndarray, value: Any) -> Any:
    """Floats, in an array or a list, in the output's float type; anything else as it is."""
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, (list, tuple)):
        try:
            array = np.asarray(value)
        except ValueError:  # of different lengths, which the operation has words for
            return value
        return array.astype(output.dtype) if array.dtype.kind == "f" else value
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(output.dtype, copy=False)
    return value


def resolve_loss(loss: LossLike, net: Layer | None = None, weights: Mapping[str, float] | None = None) -> Loss | Losses:
    """What `_one` takes as a Loss; a dict of that by the names of the net's outputs as Losses, with their factors."""
    outputs = net.outputs if isinstance(net, Graph) else ()
    if weights is not None and not isinstance(weights, Mapping):
        raise TypeError(f"loss_weights must be a dict of factors by the outputs' names, got {weights!r}")
    if isinstance(loss, Mapping):
        for what, given, known in (("loss", loss, outputs), ("loss_weights", weights or {}, tuple(loss))):
            for name in given:
                if name not in known:
                    there = ", ".join(known) or "none with names"
                    raise ValueError(f"{what}: no output is called {str(name)!r}; there are {there}")
        if not loss:
            raise ValueError("loss: a dict of losses must name an output at least")
        return Losses(
            outputs, {name: _one(each) for name, each in loss.items()},
            {name: number("loss_weights", repr(name), factor) for name, factor in (weights or {}).items()},
        )  # fmt: skip
    if len(outputs) > 1 and not isinstance(loss, Losses):
        raise ValueError(
            f"loss: missing for the outputs {', '.join(outputs)}; of a net of several outputs write a dict of losses "
            f"by their names, {{{outputs[0]!r}: 'cross_entropy', …}}"
        )
    if weights is not None:
        raise ValueError("loss_weights: only where loss is a dict by the outputs' names")
    return loss if isinstance(loss, Losses) else _one(loss)


def _one(loss: Any) -> Loss:
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


def warn_of_softmax(net: Layer, loss: Any) -> None:
    """RuntimeWarning where cross_entropy, which takes logits, meets a net that ends in softmax."""
    if getattr(loss, "name", "") != "cross_entropy":
        return
    last: Any = net
    while last.is_container and (end := last.last()) is not None:
        last = end
    if getattr(last, "op", "") == "softmax":
        warnings.warn(
            "the net ends in softmax, and cross_entropy takes what is before it (logits): cut it off, of an ONNX file "
            "by load(…, outputs=(name,)) with the name of what softmax reads",
            RuntimeWarning,
            stacklevel=3,
        )


def need_limit(owner: str, memory_limit: Any) -> int | None:
    """`memory_limit` as bytes; TypeError and ValueError for what is none."""
    if memory_limit is None:
        return None
    nbytes = integer(owner, "memory_limit", memory_limit)
    if nbytes < 1:
        raise ValueError(f"{owner}: memory_limit must be at least 1 byte, got {nbytes}")
    return nbytes


def passes(net: Layer) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The net's forward and backward, planned where it is a single layer too."""
    if net.is_container:
        return net.forward, net.backward
    return functools.partial(plan.forward, net), functools.partial(plan.backward, net)


def value_and_grad(
    net: Layer,
    loss: LossLike,
    x: Any,
    y: Any,
    *,
    rng: np.random.Generator | None = None,
    memory_limit: int | None = None,
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of `net` on the batch (x, y) in training mode, and its gradient to every trainable parameter by name.

    loss   a function of fastconv.functional, one from `fastconv.register`, or its name; options by functools.partial.
           Of a net with several outputs a dict of them by the outputs' names: their sum counts, and y is a dict, or a
           tuple in the outputs' order
    x      the input; of several a tuple, or a dict by their names
    rng    what dropout draws from (default: the generator that `manual_seed` seeds)
    memory_limit   bytes that the call may take beside the net, its arguments and the imports: activations, gradients
           (those of the parameters too) and the operations' workspace, with the freed blocks that are kept for reuse.
           To stay below, parts of the forward are run again in the backward: the same bits (dropout draws what it drew,
           running statistics move once) in up to a third more time. Layers and operations of one's own are never run
           again; each counts as its input, its output and their gradients, as if it held nothing else. What a BLAS and
           threads take for themselves at their first use is not counted (default: no limit, nothing is run again)

    Every part of the net is in training, in whichever mode the net is, but those that were put aside: frozen as a whole
    (`Layer.freeze`), or in inference while the net itself is in training (`Layer.eval`). Batch norm there uses and
    keeps its running statistics. Floats in y and in the loss's options (class weights) follow the net's float type.

    Raises TypeError for a loss that is none of these, ValueError for one that is not a single number and for a net of
    several outputs without a dict of losses; MemoryError before anything is computed, with the least limit that would
    do, where there is no way to stay below `memory_limit`.
    """
    loss = resolve_loss(loss, net)
    warn_of_softmax(net, loss)
    limit = need_limit("value_and_grad", memory_limit)
    forward, backward = passes(net)
    with blas_held(), at_most(limit) as ceiling:
        output, saved = forward(net.cast(x), Context.of_step(net, rng, ceiling))
        value, _, gradient = loss.with_gradient(output, y)
        return value, backward(gradient, saved, False)[1]
