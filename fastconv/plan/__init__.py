"""How a net of layers is computed: its layers and joins as one list of steps, neighbours fused where that saves a pass.

    forward(net, x, context) -> (y, saved)
    backward(net, dy, saved, need_dx) -> (dx or None, {parameter name: gradient})

A container (Sequential, Residual, Concat, Graph) says by `flow` where values go; `plan_of` follows it once and keeps
the list of steps as long as the container's layers are the same ones. What a step does is the layers' own: options,
modes and weights are read at every call. `steps` has the kinds of steps, `fusions` which neighbours become one,
`limits` what is run again to stay below a memory limit, `capture` how small nets do without all of this from the third
pass on; FASTCONV_PLAN=0 in the environment leaves every layer a step of its own.

Values are numbered, the input is 0; a net of k inputs or outputs has tuples of them, and its steps' values begin at k.
Forward drops each after the last step that reads it; backward goes through the steps in reverse, and adds what several
steps send to one value in that order.
"""

from __future__ import annotations

import operator
import os
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv._ext.capture import refuse
from fastconv.errors import ShapeError
from fastconv.plan import limits
from fastconv.plan.capture import Captures, Lease, captured_forward, key_of
from fastconv.plan.fusions import fused
from fastconv.plan.steps import (
    Add,
    Array,
    Concat,
    Enter,
    Held,
    Item,
    LayerStep,
    Multiply,
    OperationStep,
    Step,
    add,
    located,
)  # fmt: skip

if TYPE_CHECKING:
    from fastconv.layers.base import Context, Gradients, Layer

__all__ = ["Plan", "backward", "forward", "need_memory", "plan_of"]

LARGE = 1 << 16  # bytes of a gradient that pays to be overwritten
FUSING = os.environ.get("FASTCONV_PLAN", "1") != "0"


class Plan:
    """The steps of a net; `print(plan_of(net))` lists them."""

    def __init__(self, net: Layer, fusing: bool, keep: bool = True) -> None:
        steps, output, self._inside = _follow(net)
        self.several = isinstance(output, tuple)
        self.outputs: tuple[int, ...] = output if isinstance(output, tuple) else (output,)
        self.inputs = tuple(range(len(net.inputs)))
        self._root = self._inside.pop(0)[1]
        self.steps = fused(steps, self.outputs, keep) if fusing else steps
        first: dict[int, str] = {}  # of each layer its first name, which is its parameters'
        aliases: dict[str, str] = {}  # and what a shared one's are called elsewhere
        for name, layer in net.walk():
            known = first.setdefault(id(layer), name)
            if known != name:
                aliases.update({_dotted(name, each): _dotted(known, each) for each in layer.parameter_names})
        self.prefixes = tuple(tuple(first[id(layer)] for layer in step.layers) for step in self.steps)
        self.aliases = aliases
        self._finals: list[list[str]] | None = None
        self._known: dict[tuple[str, str], str] = {}
        self.captures = Captures()
        last: dict[int, int] = {}
        for index, step in enumerate(self.steps):
            last[step.output] = index  # where nobody reads it
            last.update(dict.fromkeys(step.inputs, index))
        for value in self.outputs:
            last.pop(value, None)
        self.dead: list[list[int]] = [[] for _ in self.steps]  # after each step, the values that nobody reads again
        for value, index in last.items():
            self.dead[index].append(value)
        self.fused = {step.output for step in self.steps if step.is_fused}
        as_they_are = set(map(id, self.steps))  # the others are fused, or left out
        left = (layer for step in steps if id(step) not in as_they_are for layer in step.layers)
        self._changed = [(layer, getattr(layer, "op", "")) for layer in left]
        plain = [container for container, _ in self._inside] + [layer for layer, _ in self._changed]
        self._classes = {type(layer) for layer in plain}

    def holds(self, net: Layer) -> bool:
        """Whether the net is made of the same layers as when the plan was made, none with a method of its own since."""
        if not net.has_plain_flow() or not _are_same(net, self._root):
            return False
        for cls in self._classes:
            if not cls.is_plain_class():
                return False
        for container, children in self._inside:
            if not _are_same(container, children) or container.has_own_methods():
                return False
        return not any(layer.has_own_methods() or getattr(layer, "op", "") is not op for layer, op in self._changed)

    def known(self, prefix: str, name: str) -> str:
        """A parameter's name among the net's."""
        known = self._known.get((prefix, name))
        if known is None:
            full = _dotted(prefix, name)
            known = self._known[prefix, name] = self.aliases.get(full, full)
        return known

    def finals(self) -> list[list[str]]:
        """For each step the parameters whose gradients are final after its backward: of shared ones the last."""
        if self._finals is None:
            first: dict[str, int] = {}
            for index, (step, prefixes) in enumerate(zip(self.steps, self.prefixes, strict=True)):
                for layer, prefix in zip(step.layers, prefixes, strict=True):
                    for name, _, _ in layer.named_arrays(buffers=False):
                        first.setdefault(self.known(prefix, name), index)
            self._finals = [[] for _ in self.steps]
            for name, index in first.items():
                self._finals[index].append(name)
        return self._finals

    def __str__(self) -> str:
        return "\n".join(f"{step.inputs} -> {step.output}  {step}" for step in self.steps)


def _are_same(container: Layer, children: dict[str, Layer]) -> bool:
    """Whether a container has these layers, by these names."""
    now = container.children()
    return tuple(now) == tuple(children) and all(map(operator.is_, now.values(), children.values()))


def plan_of(net: Layer, fusing: bool = FUSING, keep: bool = True) -> Plan:
    """The plan of a container as it is now; keep: for a forward that a backward follows. It is kept by the net, beside
    its attributes: copies have none."""
    known: dict[tuple[bool, bool], Plan] | None = getattr(net, "_plans", None)
    if known is None:
        known = net._plans = {}
    kept = known.get((fusing, keep))
    if kept is None or not kept.holds(net):
        kept = known[fusing, keep] = Plan(net, fusing, keep)
    return kept


def forward(net: Layer, x: Any, context: Context) -> tuple[Any, Any]:
    """The output of a container, and what the backward needs."""
    refuse()  # of a pass that is being captured: this is none of its kernels
    key = key_of(x, context) if FUSING else None
    plans = getattr(net, "_plans", {})
    if key is not None and (known := plans.get((FUSING, context.keep))) is not None:
        lease = known.captures.begin(net, known, key, context)
        if lease is not None:
            return lease.captured.forward(x, context), lease if context.keep else None
    for each in tuple(plans.values()):
        each.captures.make_room()
    plan = plan_of(net, keep=context.keep)
    if key is not None and not plan.several and plan.captures.want(key):
        return captured_forward(plan, net, key, x, context, _forward)
    return _forward(plan, x, context)


def _forward(plan: Plan, x: Any, context: Context) -> tuple[Any, Any]:
    """`forward`, step by step."""
    values: dict[int, Any] = {0: x} if len(plan.inputs) == 1 else dict(zip(plan.inputs, x, strict=True))
    del x
    final = context.final
    repeats = None if context.limit is None else limits.repeats_of(plan, values, context)
    saved: list[Any] = []
    for step, dead in zip(plan.steps, plan.dead):  # noqa: B905
        if repeats is not None:
            context = repeats.begin(len(saved), values)
        y, kept = step.call([values[value] for value in step.inputs], context)
        values[step.output] = y
        if repeats is not None and repeats.drops(len(saved)):
            kept = None
        if context.keep:
            saved.append((kept, y.shape, y.dtype) if isinstance(y, np.ndarray) else (kept, None, None))
        del y, kept
        for value in dead:
            del values[value]
    results = tuple(values[value] for value in plan.outputs)
    return (results if plan.several else results[0]), (plan, saved, context.once, repeats, final)


def need_memory(net: Layer, x: np.ndarray, context: Context) -> None:
    """MemoryError where a layer alone takes more than the context's limit; containers see to that in `forward`."""
    limits.repeats_of(plan_of(net), {0: x}, context)


def backward(net: Layer, dy: Any, saved: Any, need_dx: bool | tuple[bool, ...]) -> tuple[Any, Gradients]:
    """The gradient to a container's input, and to its trainable parameters by name. What was saved for one use is
    dropped step by step. Of several inputs the gradient is a tuple, None where none is needed or nothing came."""
    if isinstance(saved, Lease):
        return saved.backward(net, dy, need_dx, _forward, _backward)
    return _backward(net, dy, saved, need_dx)


def _backward(net: Layer, dy: Any, saved: Any, need_dx: bool | tuple[bool, ...]) -> tuple[Any, Gradients]:
    """`backward`, step by step."""
    plan, kept, once, repeats, final = saved
    needs = need_dx if isinstance(need_dx, tuple) else (need_dx,)
    needed = dict(zip(plan.inputs, needs, strict=True))  # whether anything before a value, or its own step, needs it
    for step in plan.steps:
        needed[step.output] = True in map(needed.__getitem__, step.inputs) or step.is_trainable()
    sent: dict[int, Any] = {}
    own: set[int] = set()  # the values whose gradients nobody else has
    for value, part in zip(plan.outputs, dy if plan.several else (dy,), strict=True):
        if part is not None:
            sent[value] = add("gradient", [sent[value], part]) if value in sent else part
    gradients: Gradients = {}
    finals = None if final is None else plan.finals()
    for index in range(len(plan.steps) - 1, -1, -1):
        step, prefixes = plan.steps[index], plan.prefixes[index]
        if repeats is not None:
            repeats.restore(plan, index, kept)
        here = sent.pop(step.output, None)
        if not needed[step.output]:
            continue
        if here is None:  # of a branch that does not reach the output
            for layer, prefix in zip(step.layers, prefixes, strict=True):
                for name, parameter in layer._trained().items():
                    gradients.setdefault(plan.known(prefix, name), np.zeros_like(parameter))
            if finals is not None:
                final(net, gradients, [name for name in finals[index] if name in gradients])
            continue
        of_step, shape, dtype = kept[index]
        if shape is not None and (here.shape != shape or here.dtype != dtype):  # a layer of somebody's own sent it
            here = _fitting(step, here, shape, dtype)
        wanted = tuple(map(needed.__getitem__, step.inputs))
        if step.is_fused:
            parts, found = step.backward(here, of_step, wanted, step.output in own and here.flags.writeable)
        else:
            parts, found = step.backward(here, of_step, wanted)
        del of_step
        if once:
            kept[index] = None
        for value, part in zip(step.inputs, parts):  # noqa: B905  # strict costs as much as the rest of this line
            if part is not None and needed[value]:
                if value in sent:
                    sent[value] = step.accumulate(sent[value], part, here)
                    own.add(value)
                    continue
                sent[value] = part
                is_asked = value in plan.fused and part.nbytes >= LARGE
                if is_asked and step.makes_its_own() and not np.may_share_memory(part, here):
                    own.add(value)
        del here, parts
        for prefix, inside in zip(prefixes, found):  # noqa: B905
            for name, gradient in inside.items():
                full = plan.known(prefix, name)
                gradients[full] = add("gradient", [gradients[full], gradient]) if full in gradients else gradient
        del found
        if finals is not None:
            final(net, gradients, [name for name in finals[index] if name in gradients])
    if isinstance(need_dx, tuple):
        return tuple(sent.get(value) for value in plan.inputs), gradients
    if not need_dx:
        return None, gradients
    if 0 not in sent:
        raise ValueError(f"{type(net).__name__}: the output does not depend on the input")
    return sent[0], gradients


def _fitting(step: Step, dy: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A gradient of the value's type; ShapeError for one of another shape."""
    refuse()
    if np.shape(dy) != shape:
        raise located(
            ShapeError(f"the gradient to the output must have its shape {shape}, got {np.shape(dy)}"), step.within
        )
    return np.asarray(dy).astype(dtype, copy=False)


def _follow(net: Layer) -> tuple[list[Step], Any, list[tuple[Layer, dict[str, Layer]]]]:
    """The steps of a container, the value that is its output (of several a tuple), and what it and the containers
    inside hold."""
    steps: list[Step] = []
    containers = []
    first = len(net.inputs)

    def number() -> int:
        return first + len(steps)

    def emit(step: Step) -> int:
        steps.append(step)
        return step.output

    def enter(container: Layer, prefix: str, within: tuple[tuple[str, str], ...], value: Any) -> Any:
        containers.append((container, dict(container.children())))
        if container.forks and not isinstance(value, tuple):  # what its layers send back is added up apart
            value = emit(Enter(prefix, (value,), number(), (), within))
        graph = weakref.ref(container)
        arrays: dict[Any, int] = {}

        def known(value: Any) -> Any:
            """The number of a value; an array that a layer holds becomes one where it is first read."""
            if not isinstance(value, Held):
                return value
            key = (id(value.layer), value.attribute)
            if key not in arrays:
                arrays[key] = emit(Array(value, number(), within))
            return arrays[key]

        def apply(name: str, layer: Layer, value: Any) -> int:
            full, inside = _dotted(prefix, name), ((name, getattr(layer, "kind", type(layer).__name__)), *within)
            if isinstance(value, tuple):  # an operation
                values = tuple(map(known, value))
                if layer.name == "item":  # type: ignore[attr-defined]
                    return emit(Item(full, values[0], number(), layer.given["index"], within))  # type: ignore[attr-defined]
                return emit(OperationStep(full, values, number(), layer, graph, inside))
            if layer.is_plain() and layer.is_container:
                return int(enter(layer, full, inside, known(value)))
            return emit(LayerStep(full, (known(value),), number(), (layer,), inside))

        def join(name: str, what: str, values: list[Any]) -> int:
            kind = {"add": Add, "mul": Multiply, "concat": Concat}[what]
            title = name or type(container).__name__
            return emit(kind(title, tuple(map(known, values)), number(), (), within))

        result = container.flow(value, apply, join)
        return tuple(map(known, result)) if isinstance(result, tuple) else known(result)

    output = enter(net, "", (), 0 if first == 1 else tuple(range(first)))
    return steps, output, containers


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
