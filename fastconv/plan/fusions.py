"""Which neighbouring steps become one, and what that is. Each gives the bits that its parts give apart.

batch_norm, relu        one pass; backward, relu's mask is computed again from batch_norm's input
batch_norm, add, relu   one pass; backward, the masked dy is also the gradient of what was added
batch_norm, relu, max_pool  of windows side by side, in a training step: one pass, which keeps where the maxima come
                        from in place of what they were chosen from; backward, dx takes the place of an x that nobody
                        else has
relu, max_pool          pooled first: relu sees the maxima only
conv, relu              relu in the kernel's store; backward, its mask is the output itself
linear, relu            in place; backward, likewise
conv, and the first two where there is no backward and batch_norm has its statistics, or batch_norm alone: in the
                        kernel's store
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv._ext import norm as kernels
from fastconv.arrays import FLOATS
from fastconv.errors import ShapeError
from fastconv.ops.activation import relu_backward
from fastconv.plan.steps import Add, LayerStep, Parts, Step, located

if TYPE_CHECKING:
    from typing import TypeGuard

    from fastconv.layers.base import Context, Gradients

__all__ = ["fused"]

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


class Fused(Step):
    """Steps that read each other's value, and nobody else does; the last one's is the value."""

    is_fused = True

    def __init__(self, *parts: Step) -> None:
        made = {part.output for part in parts}
        inputs = tuple(value for part in parts for value in part.inputs if value not in made)
        layers = tuple(layer for part in parts for layer in part.layers)
        super().__init__("+".join(part.name for part in parts), inputs, parts[-1].output, layers, ())
        self.parts = parts

    def steps(self) -> list[Step]:
        """The parts, and theirs."""
        return [step for part in self.parts for step in (part.steps() if isinstance(part, Fused) else [part])]

    def call(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        if self.serves(values, context):
            return super().call(values, context)
        return self.forward_apart(values, context)

    def serves(self, values: list[np.ndarray], context: Context) -> bool:
        """Whether it can be done in one; else the parts are, one by one."""
        raise NotImplementedError

    def forward_apart(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        known = dict(zip(self.inputs, values, strict=True))
        saved = []
        for part in self.parts:
            known[part.output], kept = part.call([known[value] for value in part.inputs], context)
            saved.append(kept)
        return known[self.output], Apart(saved)

    def backward(
        self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...], over: bool = False
    ) -> tuple[Parts, list[Gradients]]:
        """over: dy is nobody else's, and may be overwritten."""
        if not isinstance(saved, Apart):
            return self.backward_fused(dy, saved, needs, over)
        needed = dict(zip(self.inputs, needs, strict=True))
        for part in self.parts:
            needed[part.output] = part.is_trainable() or any(needed[value] for value in part.inputs)
        sent: dict[int, Any] = {self.output: dy}
        gradients: list[Gradients] = []
        for part, kept in zip(reversed(self.parts), reversed(saved), strict=True):
            wanted = tuple(needed[value] for value in part.inputs)
            parts, found = part.backward(sent[part.output], kept, wanted)
            sent.update(zip(part.inputs, parts, strict=True))
            gradients = found + gradients
        return tuple(sent.get(value) for value in self.inputs), gradients

    def backward_fused(
        self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...], over: bool
    ) -> tuple[Parts, list[Gradients]]:
        raise NotImplementedError

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


class Apart(list[Any]):
    """What the parts of a step saved, one by one."""


class NormRelu(Fused):
    """batch_norm, a sum perhaps, relu."""

    def __init__(self, *parts: Step) -> None:
        super().__init__(*parts)
        self.within = parts[0].within
        self.norm: Any = parts[0].layers[0]
        self.adds = len(parts) == 3

    def serves(self, values: list[np.ndarray], context: Context) -> bool:
        if self.adds and not (values[0].shape == values[1].shape and values[0].dtype == values[1].dtype):
            return False
        return not context.keep or (context.once and self.norm.options(context)["training"])

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        result: tuple[np.ndarray, Any] = self.norm.forward(values[0], context, True, *values[1:])
        return result

    def backward_fused(
        self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...], over: bool
    ) -> tuple[Parts, list[Gradients]]:
        dx, addend, gradients = self.norm.relu_backward(dy, saved, needs[0], over)
        return ((dx, addend) if self.adds else (dx,)), [gradients, {}]


class NormReluPool(Fused):
    """batch_norm, relu, max_pool of windows side by side, in a training step; owns_x: nobody else reads x, nor keeps
    it."""

    def __init__(self, norm_relu: NormRelu, pool: Step, owns_x: bool) -> None:
        super().__init__(norm_relu, pool)
        self.owns_x = owns_x
        self.within = norm_relu.within
        self.norm: Any = norm_relu.norm
        self.pool: Any = pool.layers[0]

    def serves(self, values: list[np.ndarray], context: Context) -> bool:
        learns = context.keep and context.once and self.norm.options(context)["training"]
        return learns and self.fits(values[0])

    def fits(self, x: np.ndarray) -> bool:
        """Whether the kernel serves the windows on x."""
        if (
            not x.size
            or x.ndim not in self.norm.ranks
            or x.ndim != int(self.pool.op[-2]) + 2
            or x.shape[1] % kernels.widest
        ):
            return False
        try:
            windows = self.pool.windows(x)
        except (ShapeError, MemoryError):  # as the pool says itself
            return False
        fits: bool = windows.are_side_by_side and windows.taps <= kernels.most_taps
        return fits

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        x = values[0]
        result: tuple[np.ndarray, Any] = self.norm.forward(x, context, True, None, self.pool.windows(x))
        return result

    def backward_fused(
        self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...], over: bool
    ) -> tuple[Parts, list[Gradients]]:
        dx, _, gradients = self.norm.relu_backward(dy, saved, needs[0], self.owns_x)
        return (dx,), [gradients, {}, {}]


class PoolRelu(Fused):
    """relu and max_pool, the other way round."""

    def __init__(self, relu: Step, pool: Step) -> None:
        super().__init__(relu, pool)
        self.relu, self.pool = relu, pool

    def serves(self, values: list[np.ndarray], context: Context) -> bool:
        return self.fits(values[0])

    def fits(self, x: np.ndarray) -> bool:
        """Whether all windows see x: the maximum of one that sees nothing is -inf, which relu must not see."""
        layer: Any = self.pool.layers[0]
        try:
            sees: bool = layer.windows(x).all_see_x
        except (ShapeError, MemoryError):  # as the pool says itself
            return False
        return sees

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        pooled, places = self.pool.call(values, context)
        y, kept = self.relu.call([pooled], context)
        return y, (places, kept)

    def backward_fused(
        self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...], over: bool
    ) -> tuple[Parts, list[Gradients]]:
        places, kept = saved
        (dpooled,), _ = self.relu.backward(dy, kept, (True,))
        assert dpooled is not None
        parts, _ = self.pool.backward(dpooled, places, needs)
        return parts, [{}, {}]


class ConvRelu(Fused):
    """A convolution or a linear layer, relu."""

    def __init__(self, conv: Step, relu: Step) -> None:
        super().__init__(conv, relu)
        self.within = conv.within
        self.conv: Any = conv.layers[0]

    def serves(self, values: list[np.ndarray], context: Context) -> bool:
        return not (context.snapshot or self.is_wide())

    def is_wide(self) -> bool:
        """Whether the convolution adds a border first."""
        return getattr(self.conv, "padding_mode", "zeros") != "zeros"

    def forward(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        y, kept = self.conv.relu_forward(values[0], context)
        return y, (kept, y) if context.keep else None

    def backward_fused(
        self, dy: np.ndarray, saved: Any, needs: tuple[bool, ...], over: bool
    ) -> tuple[Parts, list[Gradients]]:
        kept, y = saved
        dx, gradients = self.conv.backward(relu_backward(dy, y, over), kept, needs[0])
        return (dx,), [gradients, {}]


class ConvNorm(Fused):
    """A convolution, batch_norm by the statistics that it has, a sum perhaps, relu perhaps; there is no backward."""

    def __init__(self, conv: Step, norm: Step) -> None:
        super().__init__(conv, norm)
        self.within = conv.within
        self.conv: Any = conv.layers[0]
        self.norm: Any = norm.layers[0]
        self.relu = isinstance(norm, NormRelu)

    def call(self, values: list[np.ndarray], context: Context) -> tuple[np.ndarray, Any]:
        y = None
        if self.serves(values, context):
            try:
                y = self.stored(values, context)
            except (ShapeError, MemoryError) as error:
                raise located(error, self.within) from None
        return self.forward_apart(values, context) if y is None else (y, None)

    def serves(self, values: list[np.ndarray], context: Context) -> bool:
        x, w = values[0], self.conv.weight
        if context.keep or self.conv.padding_mode != "zeros":
            return False
        if type(w) is not np.ndarray or w.dtype not in FLOATS or x.ndim not in self.norm.ranks:
            return False
        return all(value.dtype == w.dtype and value.ndim == w.ndim for value in values)

    def stored(self, values: list[np.ndarray], context: Context) -> np.ndarray | None:
        """The output; None where the norm does not fit, or the kernel does not do it."""
        x, *addends = values
        norm = self.norm.coefficients(self.conv.weight, context)
        if norm is None:
            return None
        y: np.ndarray | None = self.conv.normed_forward(x, norm, addends[0] if addends else None, self.relu, context)
        return y


def fused(steps: list[Step], outputs: tuple[int, ...], keep: bool) -> list[Step]:
    """The steps with neighbours as one, in order: a fused one stands where its last part did; without identities. keep:
    for a forward that a backward follows."""
    steps = _without_identities(steps, outputs)
    readers = Counter(value for step in steps for value in step.inputs)
    readers.update(outputs)
    uses = Counter(id(layer) for step in steps for layer in step.layers)
    found: dict[int, Step] = {}  # by the value that it makes
    place: dict[int, int] = {}
    for at, step in enumerate(steps):
        place[step.output] = at
        found[step.output] = step

    def only(value: int) -> Step | None:
        """The step that makes a value, if but one step reads it."""
        return found.get(value) if readers[value] == 1 else None

    def is_op(step: Step | None, *names: str) -> TypeGuard[LayerStep]:
        """Whether it is a layer of fastconv's own for one of these; what has statistics, applied but once."""
        if not isinstance(step, LayerStep):
            return False
        layer = step.layers[0]
        is_one = getattr(layer, "op", "") in names and layer.is_plain()
        return is_one and not (layer.buffer_names and uses[id(layer)] > 1)

    def is_norm(step: Step | None) -> TypeGuard[LayerStep]:
        """Whether it is a layer that does batch_norm and relu in one; `Function("batch_norm")` does not."""
        return is_op(step, "batch_norm") and hasattr(step.layers[0], "relu_backward")

    def replace(made: Fused) -> None:
        """Unless a step between the parts reads what they read: gradients would be added in another order."""
        between = steps[place[made.parts[0].output] : place[made.output]]
        own = made.steps()
        if any(step not in own and not set(made.inputs).isdisjoint(step.inputs) for step in between):
            return
        for part in made.parts:
            del found[part.output]
        found[made.output] = made

    for step in steps:
        if is_op(step, "relu"):
            before = only(step.inputs[0])
            if is_norm(before):
                replace(NormRelu(before, step))
            elif isinstance(before, Add) and len(before.inputs) == 2:
                norm = next((each for each in map(only, before.inputs) if is_norm(each)), None)
                if norm is not None and norm.inputs[0] not in before.inputs:
                    replace(NormRelu(norm, before, step))
        elif is_op(step, "max_pool1d", "max_pool2d", "max_pool3d"):
            before = only(step.inputs[0])
            if not hasattr(step.layers[0], "windows"):
                continue
            if is_op(before, "relu"):
                replace(PoolRelu(before, step))
            elif keep and isinstance(before, NormRelu) and not before.adds:
                replace(NormReluPool(before, step, is_op(only(before.inputs[0]), *CONVOLUTIONS)))
    for step in list(found.values()):
        before = only(step.inputs[0]) if len(step.inputs) == 1 else None
        if is_op(step, "relu") and is_op(before, *CONVOLUTIONS, "linear") and hasattr(before.layers[0], "relu_forward"):
            replace(ConvRelu(before, step))
    for step in [] if keep else list(found.values()):
        if isinstance(step, NormRelu) or is_norm(step):
            before = only(step.inputs[0])
            if is_op(before, *CONVOLUTIONS) and hasattr(before.layers[0], "normed_forward"):
                replace(ConvNorm(before, step))
    return sorted(found.values(), key=lambda step: place[step.output])


def _without_identities(steps: list[Step], outputs: tuple[int, ...]) -> list[Step]:
    """What read one's value reads what it read; one stays that gives an output, and one without which more than two
    gradients would be added in another order."""
    same: dict[int, int] = {}
    kept = []
    readers: dict[int, list[int]] = {}  # the places of the steps that read a value; of an output the end
    for at, step in enumerate(steps):
        for value in step.inputs:
            readers.setdefault(value, []).append(at)
    for value in outputs:
        readers.setdefault(value, []).append(len(steps))
    for at, step in enumerate(steps):
        step.inputs = tuple(same.get(value, value) for value in step.inputs)
        layer = step.layers[0] if isinstance(step, LayerStep) else None
        if type(layer).__name__ == "Identity" and layer.is_plain() and step.output not in outputs:  # type: ignore[union-attr]
            own = readers.get(step.output, [])
            others = [place for place in readers[step.inputs[0]] if place != at]
            follows = len(own) == 1 and not any(at < place <= own[0] for place in others)
            if follows or not others or len(own) + len(others) <= 2:
                same[step.output] = step.inputs[0]
                readers[step.inputs[0]] = own + others
                continue
        kept.append(step)
    return kept
