"""One step's work: the loss of a net on a batch, and its gradient to every trainable parameter."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, overload

import numpy as np

from fastconv import functional, plan, tape
from fastconv.errors import ShapeError, integer, nearest
from fastconv.layers.base import Context, Layer
from fastconv.layers.graph import Graph
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import Ceiling, at_most, whole_call
from fastconv.ops import OPS
from fastconv.ops.common import number
from fastconv.ops.registry import FUNCTIONS, Op, composed
from fastconv.training import data
from fastconv.training.mixing import Mixed

__all__ = ["Loss", "Losses", "gradients_of", "resolve_loss", "value_and_grad"]

LossLike = str | Callable[..., Any] | Mapping[str, Any]  # a name, a function, or a dict of them
Share = Callable[[list[float]], Sequence[float]]
IGNORED = -100  # torch's ignore_index


@dataclass(frozen=True)
class Loss:
    """An operation (output, target, **options) -> scalar, by its registered name, or a composed function that has none.

    Targets and options that are floats follow the output's float type. A call gives the loss of a batch and the batch's
    weight: what the loss's mean divides by, targets that are ignored left out; of a loss of one's own the samples.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    function: Callable[..., Any] | None = None

    @property
    def op(self) -> Op:
        """The operation; its registered name says which."""
        return OPS[self.name] if self.function is None else composed(self.name, self.function)

    @property
    def is_composed(self) -> bool:
        """Whether a tape differentiates it."""
        return self.function is not None or OPS[self.name].composed is not None

    def __call__(self, output: np.ndarray, target: Any, samples: np.ndarray | None = None) -> tuple[float, float]:
        """The loss and the batch's weight; nets that a composed loss calls are in inference. `samples`: weights of the
        samples, (N,), or of the single losses; the loss is then their weighted mean, and the batch's weight what it is
        divided by."""
        with tape.Recording({}, {}, Context(training=False, keep=False)):
            value, _, weight, _ = self._forward(output, target, samples)
        return float(value), weight

    def with_gradient(
        self, output: np.ndarray, target: Any, samples: np.ndarray | None = None
    ) -> tuple[float, float, np.ndarray]:
        """The loss, the batch's weight and the gradient to the net's output."""
        value, saved, weight, shares = self._forward(output, target, samples)
        gradient = self.op.backward(shares, saved, (True, False))[0]
        assert gradient is not None
        return float(value), weight, gradient

    def recorded(self, output: Any, target: Any, samples: np.ndarray | None = None) -> tuple[tape.Value, float]:
        """The same of an output on the tape."""
        if self.is_composed:
            if samples is not None:
                raise self._no_weights()
            options = {name: _following(output, value) for name, value in self.options.items()}
            if isinstance(target, Mixed):
                target = target.mixed_for(tape.detached(output))
            function = self.function or OPS[self.name].composed
            assert function is not None
            value = function(*_arguments(output, target), **options)
            return need_number(self.name, value), float(samples_of(output))
        number, weight, gradient = self.with_gradient(tape.detached(output), target, samples)
        return tape.record(np.asarray(number, output.dtype), [output], lambda dy, needs: (gradient * dy,)), weight

    def _forward(self, output: Any, target: Any, samples: np.ndarray | None) -> tuple[Any, Any, float, np.ndarray]:
        """The loss, what its backward needs, the batch's weight, and the gradient to what the operation gave."""
        op = self.op
        if isinstance(output, tuple) and op.composed is None:
            raise ValueError(
                f"{self.name}: the net's output is a tuple of {len(output)}; of a Graph write a dict of losses by the "
                "outputs' names"
            )
        target = target.mixed_for(output) if isinstance(target, Mixed) else target
        options = {name: _following(output, value) for name, value in self.options.items()}
        arguments = (output, _following(output, target)) if op.composed is None else _arguments(output, target)
        if samples is not None:
            return self._weighted(output, arguments[-1], samples, options)
        value, saved = op.forward(*arguments, **options)
        if np.ndim(value):
            raise _no_number(self.name, np.shape(value))
        weight = float(samples_of(output)) if op.denominator is None else op.denominator(saved)
        return value, saved, weight, np.ones((), _first(output).dtype)

    def _no_weights(self) -> ValueError:
        return ValueError(
            f"{self.name}: weights of samples need a loss of each sample, and a loss of one's own is one number; "
            "weigh in it, or take one of fastconv.functional's"
        )

    def _weighted(
        self, output: np.ndarray, target: Any, samples: np.ndarray, options: dict[str, Any]
    ) -> tuple[Any, Any, float, np.ndarray]:
        """`_forward` of weighted samples: sum(weight * loss) / sum(weight), or the sum alone."""
        op = self.op
        if op.denominator is None:
            raise self._no_weights()
        losses, saved = op.forward(output, target, **{**options, "reduction": "none"})
        if samples.shape != losses.shape:
            if samples.shape != losses.shape[:1]:
                raise ShapeError(
                    f"{self.name}: weights must be one a sample, {losses.shape[:1]}, or one a loss, {losses.shape}; "
                    f"got {samples.shape}"
                )
            samples = samples.reshape(-1, *(1,) * (losses.ndim - 1))
        counts = 1.0 if op.counts is None else op.counts(saved).reshape(losses.shape)
        total = float((counts * np.broadcast_to(samples, losses.shape)).sum(dtype=np.float64))
        shares = samples / (1.0 if self.is_sum else total) if total else np.zeros_like(samples)
        value = (losses * shares).sum(dtype=np.float64) if total else math.nan
        return value, saved, total, np.broadcast_to(shares, losses.shape).astype(output.dtype)

    def portion(self, value: float, weight: float) -> float:
        """What a batch's loss adds to those of other batches; a batch without weight nothing, its loss may be nan."""
        if not weight:
            return 0.0
        return value if self.is_sum else value * weight

    def whole(self, portions: float, weights: float) -> float:
        """The loss of all batches as if they were one, from the sums of their portions and weights."""
        if self.is_sum:
            return portions
        return portions / weights if weights else math.nan

    @property
    def is_sum(self) -> bool:
        """Whether batches' losses add up: no mean."""
        return self.op.denominator is not None and self.options.get("reduction") == "sum"

    @property
    def ignore_index(self) -> Any:
        """The target that is no class."""
        return self.options.get("ignore_index", IGNORED)


@dataclass(frozen=True)
class Losses:
    """A loss for each of several outputs of a net, and the factors with which they are added up.

    Targets are a dict by the outputs' names, or a tuple in the order of the net's outputs that have a loss. A batch's
    weight is its number of samples, or the sum of their weights; a loss whose targets are all ignored adds nothing.
    """

    outputs: tuple[str, ...]  # all of the net's
    losses: dict[str, Loss]
    weights: dict[str, float]

    def __call__(self, output: Any, target: Any, samples: np.ndarray | None = None) -> tuple[float, float]:
        """The loss and the batch's weight; see `Loss`."""
        total, whole = 0.0, 0.0
        for name, y, t in self._each(output, target):
            value, weight = self.losses[name](y, t, samples)
            total += self.weights.get(name, 1.0) * value if weight else 0.0
            whole = float(len(y) if samples is None else samples.sum())
        return total, whole

    def with_gradient(
        self, output: Any, target: Any, samples: np.ndarray | None = None, share: Share | None = None
    ) -> tuple[float, float, Any]:
        """The loss, the batch's weight and the gradient to each output.

        share   of a batch that is a part of a larger one: gives the sums over all parts of a part's weights. Each loss
                then counts for what its own mean divides by in the larger one
        """
        own = float(samples_of(output) if samples is None else samples.sum())
        parts = self._each(output, target) if share is None or samples_of(output) else []
        found = {name: self.losses[name].with_gradient(y, t, samples) for name, y, t in parts}
        scales = dict.fromkeys(found, 1.0)
        if share is not None:
            weights = [found[name][1] if name in found else 0.0 for name in self.losses]
            *wholes, whole = share([*weights, own])
            for name, weight, all_weights in zip(self.losses, weights, wholes, strict=True):
                if own and weight:
                    scales[name] = weight / all_weights * (whole / own)
        total, gradients = 0.0, dict.fromkeys(self.outputs)
        for name, (value, weight, gradient) in found.items():
            factor = self.weights.get(name, 1.0) * scales[name]
            if weight:
                total += factor * value
                gradients[name] = gradient if factor == 1 else gradient * np.asarray(factor, gradient.dtype)
        each = tuple(gradients[name] for name in self.outputs)
        return total, own, each if isinstance(output, tuple) else each[0]

    @property
    def is_composed(self) -> bool:
        """See `Loss.is_composed`: any of them."""
        return any(loss.is_composed for loss in self.losses.values())

    def recorded(self, output: Any, target: Any, samples: np.ndarray | None = None) -> tuple[tape.Value, float]:
        """See `Loss.recorded`."""
        total, whole = tape.Value(np.zeros((), _first(output).dtype)), 0.0
        for name, y, t in self._each(output, target):
            value, weight = self.losses[name].recorded(y, t, samples)
            total = total + self.weights.get(name, 1.0) * value if weight else total
            whole = float(len(y) if samples is None else samples.sum())
        return total, whole

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

    is_sum: ClassVar[bool] = False

    def portion(self, value: float, weight: float) -> float:
        """See `Loss.portion`."""
        return value * weight if weight else 0.0

    def whole(self, portions: float, weights: float) -> float:
        """See `Loss.whole`."""
        return portions / weights if weights else math.nan


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def samples_of(output: Any) -> int:
    """How many samples the net's output, or each of its outputs, is of."""
    return len(_first(output))


def _arguments(output: Any, target: Any) -> tuple[Any, ...]:
    """What a composed loss is called with: the output, and the target or targets where there are any."""
    if target is None:
        return (output,)
    if isinstance(target, Mapping):
        return output, {name: _following(output, each) for name, each in target.items()}
    if isinstance(target, tuple):
        return output, tuple(_following(output, each) for each in target)
    return output, _following(output, target)


def need_number(name: str, value: Any) -> tape.Value:
    """What a composed loss returned; TypeError and ValueError where it is no number on the tape."""
    tape.need_value(name, value)
    if value.ndim:
        raise _no_number(name, value.shape)
    found: tape.Value = value
    return found


def _no_number(name: str, shape: tuple[int, ...]) -> ValueError:
    return ValueError(f"{name}: a loss must be one number, got shape {shape} (reduction? or .mean())")


def _following(output: Any, value: Any) -> Any:
    """Floats, in an array or a list, in the output's float type; anything else as it is."""
    output = _first(output)
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
    resolved = loss if isinstance(loss, Losses) else _one(loss)
    if len(outputs) > 1 and not isinstance(resolved, Losses) and not resolved.is_composed:
        raise ValueError(
            f"loss: missing for the outputs {', '.join(outputs)}; of a net of several outputs write a dict of losses "
            f"by their names, {{{outputs[0]!r}: 'cross_entropy', …}}"
        )
    if weights is not None:
        raise ValueError("loss_weights: only where loss is a dict by the outputs' names")
    return resolved


def _one(loss: Any) -> Loss:
    """A name, a function of fastconv.functional (functools.partial gives it options), a registered or a composed one,
    as a Loss."""
    if isinstance(loss, Loss):
        return loss
    options: dict[str, Any] = {}
    function: Any = loss
    if isinstance(function, functools.partial) and not function.args:
        function, options = function.func, dict(function.keywords)
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    public = FUNCTIONS.get(name) or getattr(functional, name, None) if name in OPS else None
    if public is not None and (function is public or isinstance(function, str)):
        return Loss(name, options)
    if not callable(function) or isinstance(function, type | Layer):
        known = nearest(function, OPS) if isinstance(function, str) else ""
        raise TypeError(
            "loss must be the name of an operation, a function of fastconv.functional, what fastconv.register returned "
            f"or a function (output, y) composed of such, got {loss!r}{known}"
        )
    registered = next((each for each in FUNCTIONS if OPS[each].composed is function), None)
    return Loss(name, options, function) if registered is None else Loss(registered, options)


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


Gradients = dict[str, np.ndarray]


@overload
def value_and_grad(
    net: Layer,
    loss: LossLike,
    x: Any = None,
    y: Any = None,
    *,
    rng: np.random.Generator | None = None,
    memory_limit: int | None = None,
) -> tuple[float, Gradients]: ...
@overload
def value_and_grad(
    net: Mapping[str, Layer],
    loss: LossLike,
    x: Any = None,
    y: Any = None,
    *,
    rng: np.random.Generator | None = None,
    memory_limit: int | None = None,
) -> tuple[float, dict[str, Gradients]]: ...
@overload
def value_and_grad(
    net: Sequence[Layer],
    loss: LossLike,
    x: Any = None,
    y: Any = None,
    *,
    rng: np.random.Generator | None = None,
    memory_limit: int | None = None,
) -> tuple[float, list[Gradients]]: ...
def value_and_grad(
    net: Any,
    loss: LossLike,
    x: Any = None,
    y: Any = None,
    *,
    rng: np.random.Generator | None = None,
    memory_limit: int | None = None,
) -> tuple[float, Any]:
    """The loss of `net` on the batch (x, y) in training mode, and its gradient to every trainable parameter by name.

        value_and_grad(net, "cross_entropy", x, y)
        value_and_grad(net, lambda output, y: F.mse_loss(output, y) + 0.1 * np.abs(output).mean(), x, y)
        value_and_grad(net, lambda: contrast(net(a), net(b), same))                 # one net, called twice
        value_and_grad([encoder, decoder], lambda: F.mse_loss(decoder(encoder(x)), x))

    net    a net, or a list or dict of nets: the gradients are then a list or a dict of what one net gives
    loss   a function of fastconv.functional, one from `fastconv.register`, or its name; options by functools.partial.
           Of a net with several outputs a dict of them by the outputs' names: their sum counts, and y is a dict, or a
           tuple in the outputs' order.
           Or a function of one's own, (output, y) -> one number, composed of fastconv.functional, + - * / ** @,
           comparisons, indexing and NumPy's functions and methods (exp, log, sqrt, abs, sum, mean, max, var, where,
           clip, reshape, concatenate, einsum …): a tape records them. Of several outputs it is given a tuple. Without y
           it is called with the output alone; without x with nothing, and of several nets with x and y as they are: it
           calls the nets itself
    x      the input; of several a tuple, or a dict by their names
    rng    what dropout draws from (default: the generator that `manual_seed` seeds)
    memory_limit   bytes that the call may take beside the net and its arguments: activations, gradients (those of the
           parameters too), the operations' workspace and the freed memory that waits for reuse. Parts of the forward
           are run again in the backward to stay below: the same bits (dropout draws what it drew, running statistics
           move once), in up to a third more time. Layers and operations of one's own are never run again, and each
           counts as its input, its output and their gradients, as if it held nothing else; what a loss of one's own
           computes counts as five times the net's outputs. A twelfth of the limit, at most 4 MiB, is left to what is
           no array (default: no limit)

    Every part of the net is in training, in whichever mode the net is, but those that were put aside: frozen as a whole
    (`Layer.freeze`), or in inference while the net itself is in training (`Layer.eval`). Batch norm there uses and
    keeps its running statistics. Floats in y and in the loss's options (class weights) follow the net's float type.

    Inside of a function of one's own, arrays of floats beside what is recorded follow its float type. `x.detach()` is
    the array alone, a constant; comparisons give constants. `net.parameters()` are recorded, too, for penalties. Nets
    that were not asked for are in their own mode, and gradients go through them to what they read.

    Raises TypeError for a loss that is none of these, or that does what has no gradient (the message names it),
    ValueError for one that is not a single number and for a net of several outputs without a dict of losses;
    MemoryError before anything is computed, with the least limit that would do, where there is no way to stay below
    `memory_limit`, and TypeError for one where the loss calls the nets itself.
    """
    limit = need_limit("value_and_grad", memory_limit)
    if isinstance(net, Layer) and x is not None:
        loss = resolve_loss(loss, net)
        warn_of_softmax(net, loss)
        if y is None and not loss.is_composed:
            raise TypeError("value_and_grad: y is missing; without it, loss is a function (output) of one's own")
        with blas_held:
            _, value, _, gradients = gradients_of(net, loss, x, y, rng, limit=limit)
        return value, gradients
    if limit is not None:
        raise TypeError("value_and_grad: memory_limit needs one net and x; a loss that calls nets itself has no limit")
    nets = list(net.values()) if isinstance(net, Mapping) else [net] if isinstance(net, Layer) else list(net)
    for each in nets:
        if not isinstance(each, Layer):
            raise TypeError(f"value_and_grad: net must be a layer, or a list or dict of layers, got {each!r}")
    if not callable(loss):
        takes = "of several nets" if not isinstance(net, Layer) else "without x"
        raise TypeError(f"value_and_grad: {takes} loss must be a function that calls them itself, got {loss!r}")
    name = getattr(loss, "__name__", type(loss).__name__)
    with blas_held, whole_call:
        with _recording(nets, rng) as recorded:
            total = need_number(name, loss(*(each for each in (x, y) if each is not None)))
        by_array = recorded.gradients(total)
    found = [_named(each, by_array) for each in nets]
    if isinstance(net, Mapping):
        return float(total.item()), dict(zip(net, found, strict=True))
    return float(total.item()), found[0] if isinstance(net, Layer) else found


def gradients_of(
    net: Layer,
    loss: Loss | Losses,
    x: Any,
    y: Any,
    rng: np.random.Generator | None = None,
    samples: np.ndarray | None = None,
    weighed: bool = False,
    limit: int | None = None,
    final: Callable[[Any, Gradients, list[str]], None] | None = None,
    share: Share | None = None,
) -> tuple[Any, float, float, Gradients]:
    """A training step's work: the output, the loss, the batch's weight, and the gradients to the parameters.

    samples   weights of the samples;  weighed   the gradients times the batch's weight, to be added to other batches'
    limit     bytes that all of it may take: see `value_and_grad`'s memory_limit
    final     see `Context`;  share   of a batch that is a part of a larger one, and may be empty: see `Losses`
    """  # fmt: skip
    is_empty = share is not None and not data.samples_of(x)
    with whole_call, at_most(limit) as ceiling:
        context = Context.of_step(net, rng, ceiling, final)
        if ceiling is not None and not net.is_container:
            plan.need_memory(net, net.cast(x), context)
        if not loss.is_composed or is_empty:
            output, saved = net.forward(net.cast(x), context)
            if isinstance(loss, Losses) and not loss.is_composed:
                value, weight, gradient = loss.with_gradient(output, y, samples, share)
            elif is_empty:
                value, weight, gradient = math.nan, 0.0, None
            else:
                value, weight, gradient = loss.with_gradient(output, y, samples)
            if not weight:  # all targets are ignored, or of classes without weight: nothing to learn
                gradient = tuple(map(np.zeros_like, output)) if isinstance(output, tuple) else np.zeros_like(output)
            gradient = _times(gradient, weight) if weighed else gradient
            return output, value, weight, net.backward(gradient, saved, False)[1]
        with _recording([net], rng, ceiling) as recorded:
            output = net(x)
            total, weight = loss.recorded(output, y, samples)
        arrays = tuple(map(tape.detached, output)) if isinstance(output, tuple) else tape.detached(output)
        found = _named(net, recorded.gradients(total * weight if weighed else total))
        return arrays, float(total.item()), weight, found


def _times(gradient: Any, weight: float) -> Any:
    """The gradient to the output, or to each, times a batch's weight."""
    if isinstance(gradient, tuple):
        return tuple(None if each is None else _times(each, weight) for each in gradient)
    return gradient * np.asarray(weight, gradient.dtype)


def _recording(
    nets: Iterable[Layer], rng: np.random.Generator | None, ceiling: Ceiling | None = None
) -> tape.Recording:
    """A tape for the parameters of these nets, which are in a training step."""
    parameters: dict[int, np.ndarray] = {}
    contexts: dict[int, Context] = {}
    for net in nets:
        context = Context.of_step(net, rng, ceiling)
        parameters.update((id(array), array) for array in net.parameters().values())
        contexts.update((id(layer), context) for _, layer in net.walk() if id(layer) not in contexts)
    return tape.Recording(parameters, contexts, Context(rng=rng, once=True))


def _named(net: Layer, gradients: Mapping[int, np.ndarray]) -> Gradients:
    return {name: gradients[id(array)] for name, array in net.parameters().items()}
