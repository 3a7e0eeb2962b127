"""Training below a memory limit: what each step of a plan holds at most, and which steps backward runs again.

    repeats_of(plan, values, context) -> Repeats        MemoryError, before anything is computed

A net's steps are cut into segments: of one that is run again, forward drops what its steps saved and holds what they
read from before; backward, when it comes to the segment's last step, runs its steps again in order (the last ones only
as far as saving is computing). A repeated step gives the same bits: dropout is given what it drew, batch norm's running
statistics stay as they are, weights do not change between the passes. What may give others (layers and operations of
one's own) is never run again; what it saved is kept.

How much memory that takes is counted beforehand, for every way to cut that a sweep over two prices finds; of those that
stay below the limit the one with the least work is taken. All of it follows from shapes, modes, the workspace limit and
the number of threads: never from a clock or from memory that is free.

A count is an upper bound: every array in whole blocks of the free list, each at the time when it is held. What a step
keeps is said by operation below; where nothing is said it is its values and as much again.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv import engine
from fastconv.arrays import CHANNELS_LAST
from fastconv.engine.phases import ONES, across, phases
from fastconv.errors import ShapeError
from fastconv.machine.memory import POOLED, RESERVE, SHARE, get_workspace_limit
from fastconv.machine.threads import get_num_threads
from fastconv.ops import conv, conv_transpose
from fastconv.ops.common import Rows
from fastconv.ops.registry import FUNCTIONS
from fastconv.plan.fusions import ConvRelu, Fused, NormRelu, NormReluPool, PoolRelu
from fastconv.plan.steps import Add, Array, Concat, Enter, Item, LayerStep, Multiply, OperationStep, Step
from fastconv.products import Cut
from fastconv.window import Window

if TYPE_CHECKING:
    from fastconv.layers.base import Context
    from fastconv.plan import Plan

__all__ = ["Repeats", "repeats_of"]

MOST_KEPT = 16  # schedules of a plan
SLACK = 1 << 14  # bytes of a step that no array accounts for: what Python and NumPy hold for a while
PRICES = 12  # of memory held between the passes, a factor of 2 apart
SIZES = 12  # that a segment may have while it is run again
LONGEST = 200  # steps of a segment
OPERATIONS_A_BYTE = 4  # multiply-adds in the time of moving a byte
STATISTICS = ("batch_norm", "instance_norm")  # given as operations, they write to arrays of the caller

KEEP_X = frozenset((
    *(f"{name}{n}d" for name in ("conv", "conv_transpose", "lp_pool") for n in (1, 2, 3)), "batch_norm",
    "instance_norm", "group_norm", "local_response_norm", "prelu", "locally_connected2d",
))  # fmt: skip  # channels last: of another order a copy
KEEP_AS_IT_IS = frozenset((
    "linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "tanh", "softplus", "hardswish",
    "layer_norm", "softmax", "log_softmax",
))  # fmt: skip
KEEP_NOTHING = frozenset((
    *(f"{name}{n}d" for name in ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool") for n in (1, 2, 3)),
    "dropout", "flatten", "pad", "resize", "upsample", "downsample", "step",
))  # fmt: skip  # or what `_own` says
CONVOLUTIONS = frozenset(f"conv{n}d" for n in (1, 2, 3))
TRANSPOSED = frozenset(f"conv_transpose{n}d" for n in (1, 2, 3))


class Repeats:
    """A call's: what segments hold until they are run again, and what was drawn in them."""

    def __init__(self, schedule: Schedule, context: Context) -> None:
        self.schedule, self.context = schedule, context
        self.held: dict[int, tuple[dict[int, Any], Draws]] = {}  # by a segment's last step
        self.inside = context

    def begin(self, index: int, values: Mapping[int, Any]) -> Context:
        """Before a step of the forward: the context that it gets."""
        segment = self.schedule.first.get(index)
        if segment is not None:
            draws = Draws(self.context)
            self.held[segment.end - 1] = {value: values[value] for value in segment.reads}, draws
            self.inside = replace(self.context, rng=draws)
        return self.inside if index in self.schedule.dropped else self.context

    def drops(self, index: int) -> bool:
        """Whether what a step saved is not kept."""
        return index in self.schedule.dropped or not self.schedule.needed[index]

    def restore(self, plan: Plan, index: int, kept: list[Any]) -> None:
        """Before a step of the backward: where it is a segment's last, what the segment's steps saved is there."""
        segment = self.schedule.last.get(index)
        if segment is None:
            return
        values, draws = self.held.pop(index)
        context = replace(self.context, rng=draws.again(), repeated=True)
        for at, last_read in zip(range(segment.begin, segment.end), segment.dead, strict=True):
            step, how = plan.steps[at], segment.how[at - segment.begin]
            x = [values[value] for value in step.inputs] if how else []
            if how == RUN:
                y, saved = step.call(x, context)
                values[step.output] = y
                del y
            elif how == SAVE:
                saved = step.layers[0].saved(x[0], context)  # type: ignore[attr-defined]
            if how and self.schedule.needed[at]:
                kept[at] = (saved, *kept[at][1:])
            x = saved = None  # type: ignore[assignment]
            for value in last_read:
                values.pop(value, None)


class Draws(np.random.Generator):
    """What dropout draws from: the context's generator, whose numbers are kept to be drawn `again`."""

    def __init__(self, context: Context | None, drawn: Iterable[Any] = ()) -> None:
        super().__init__(np.random.PCG64(0))
        self.context, self.drawn = context, list(drawn)

    def integers(self, *args: Any, **kwargs: Any) -> Any:
        if self.context is None:
            return self.drawn.pop(0)
        self.drawn.append(self.context.generator.integers(*args, **kwargs))
        return self.drawn[-1]

    def begin(self, context: Context) -> None:
        """Another pass."""
        self.context = context
        self.drawn.clear()

    def again(self) -> Draws:
        return Draws(None, self.drawn)


# --- how the plan of a call is cut -----------------------------------------------------------------------------------

SKIP, RUN, SAVE = 0, 1, 2  # how a step of a segment is repeated: not at all, its forward, its `saved` alone


class Segment(NamedTuple):
    """Steps begin … end - 1 of a plan, which backward runs again."""

    begin: int
    end: int
    reads: tuple[int, ...]  # values from before it
    how: tuple[int, ...]  # of each step
    dead: tuple[tuple[int, ...], ...]  # after each step, values that no later one of the segment reads


class Schedule:
    """How one plan is computed for values of some shapes, below a limit."""

    def __init__(self, segments: Iterable[Segment], counts: Counts) -> None:
        self.segments, self.needed, self.loss = tuple(segments), counts.needed, counts.loss
        self.first = {segment.begin: segment for segment in self.segments}
        self.last = {segment.end - 1: segment for segment in self.segments}
        self.dropped = {at for segment in self.segments for at in range(segment.begin, segment.end)}


def repeats_of(plan: Plan, values: Mapping[int, np.ndarray], context: Context) -> Repeats:
    """What a call below the context's limit repeats.

    Raises MemoryError, with the least limit that would do, where there is no way to stay below.
    """
    ceiling = context.limit
    assert ceiling is not None
    limit = ceiling.nbytes
    context = replace(context, limit=None)
    needed = _needed(plan)
    known: dict[Any, tuple[list[Any], Schedule | int]] = plan.__dict__.setdefault("schedules", {})
    layers = [layer for step in plan.steps for layer in step.layers]
    key = (
        limit, tuple((value.shape, value.dtype.char, _is_last(value)) for value in values.values()), needed,
        tuple((layer.is_plain(), context.is_training(layer)) for layer in layers), context.once, engine.get_precision(),
        get_workspace_limit(), get_num_threads(),
    )  # fmt: skip
    options = [getattr(layer, "_options", None) for layer in layers]
    found = known.pop(key, None)
    if found is None or any(one is not other for one, other in zip(found[0], options, strict=True)):
        while len(known) >= MOST_KEPT:
            del known[next(iter(known))]
        found = options, _chosen(Counts(plan, values, context, needed), limit)
    known[key] = found
    schedule = found[1]
    if isinstance(schedule, int):
        raise MemoryError(
            f"memory_limit: a step on this batch takes at least {schedule:,} bytes beside the net, the optimiser and "
            f"the batch, got {limit:,}"
        )
    ceiling.leave(schedule.loss)
    return Repeats(schedule, context)


def _needed(plan: Plan) -> tuple[bool, ...]:
    """Whether backward comes to each step: where anything is trained in it or before."""
    needed = dict.fromkeys(plan.inputs, False)
    for step in plan.steps:
        needed[step.output] = step.is_trainable() or any(needed[value] for value in step.inputs)
    return tuple(needed[step.output] for step in plan.steps)


def _chosen(counts: Counts, limit: int) -> Schedule | int:
    """The least work below the limit; where there is none, the least limit."""
    least = counts.peak(())
    if least <= limit:
        return Schedule((), counts)
    ways = sorted(counts.ways(), key=lambda way: (way[0], way[1]))
    for _, cuts in ways:
        segments = [counts.segment(*cut) for cut in cuts]
        peak = counts.peak(segments)
        if peak <= limit:
            return Schedule(_without_surplus(counts, segments, limit), counts)
        least = min(least, peak)
    return least


def _without_surplus(counts: Counts, segments: list[Segment], limit: int) -> list[Segment]:
    """Without the segments, the dearest first, that need not be repeated to stay below the limit."""
    for segment in sorted(segments, key=counts.work, reverse=True):
        fewer = [each for each in segments if each is not segment]
        if counts.peak(fewer) <= limit:
            segments = fewer
    return segments


class Counts:
    """What the steps of a plan hold for values of some shapes: bytes, rounded up to blocks of the free list."""

    def __init__(
        self, plan: Plan, values: Mapping[int, np.ndarray], context: Context, needed: tuple[bool, ...]
    ) -> None:  # fmt: skip
        self.plan, self.needed = plan, needed
        self.seen = _seen(plan, values, context)
        awkward = _awkward(plan)
        self.needs = [_need(step, self.seen, awkward, context) for step in plan.steps]
        self.size = {value: 0 if value in plan.inputs else block(seen.nbytes) for value, seen in self.seen.items()}
        self.root: dict[int, int] = {value: value for value in plan.inputs}  # an alias's is what it is of
        for step in plan.steps:
            alias = isinstance(step, Enter | Item)
            self.root[step.output] = self.root[step.inputs[0]] if alias else step.output
            if alias or isinstance(step, Array):
                self.size[step.output] = 0
        self.made = {step.output: at for at, step in enumerate(plan.steps)}
        self.loss = sum(block(5 * self.seen[value].nbytes) for value in plan.outputs)

    # --- ways to cut

    def ways(self) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
        """Cuts into segments, each with its work: for prices of memory that is held and bounds of a segment's own, the
        cheapest ones (shortest paths from the first step to behind the last)."""
        n = len(self.needs)
        if n == 1:
            return []
        held, work, inside = (np.full((n + 1, n + 1), np.inf) for _ in range(3))  # [end, begin]
        for begin in range(n):
            for end, *numbers in self._from(begin):
                held[end, begin], work[end, begin], inside[end, begin] = numbers
        keepers = Counter(value for at, need in enumerate(self.needs) if self.needed[at] for value in self._kept(need))
        kept = [
            need.own + sum(self.size[value] / keepers[value] for value in self._kept(need)) if self.needed[at] else 0.0
            for at, need in enumerate(self.needs)
        ]
        finite = np.isfinite(work)
        if not finite.any():
            return []
        found: dict[tuple[tuple[int, int], ...], int] = {}
        price = max(sum(kept), 1) / max(sum(need.work for need in self.needs), 1)
        low, high = max(1.0, inside[finite].min()), inside[finite].max()
        for bound in np.geomspace(low, max(low, high), SIZES) * (1 + 1e-9):
            allowed = np.where(inside <= bound, held, np.inf)
            for power in range(PRICES):
                cuts = _cheapest(allowed, work, kept, price * 4.0 * 0.5**power)
                found[cuts] = int(sum(work[end, begin] for begin, end in cuts))
        return [(cost, cuts) for cuts, cost in found.items()]

    def _from(self, begin: int) -> Iterable[tuple[int, float, float, float]]:
        """For segments from a step on: the end, bytes held for it, its work, bytes that it keeps when it ran again."""
        reads: set[int] = set()
        inside: set[int] = set()
        waiting: set[int] = set()  # steps at whose end saving was enough so far
        held = work = own = 0.0
        for at in range(begin, min(len(self.needs), begin + LONGEST)):
            need, step = self.needs[at], self.plan.steps[at]
            if not need.can_repeat:
                return
            for value in step.inputs:
                made = self.made.get(value, -1)
                if made < begin and self.root[value] not in reads:
                    reads.add(self.root[value])
                    held += self.size[self.root[value]]
                elif made in waiting:
                    waiting.discard(made)
                    work += self.needs[made].work
            if need.is_light or not self.needed[at]:
                waiting.add(at)
            else:
                work += need.work
            if self.needed[at]:
                own += need.own
                for value in self._kept(need):
                    if value not in inside and value not in reads:
                        inside.add(value)
                        own += self.size[value]
            yield at + 1, held, work, own

    def _kept(self, need: Need) -> set[int]:
        return {self.root[value] for value in need.keeps}

    def segment(self, begin: int, end: int) -> Segment:
        steps = self.plan.steps[begin:end]
        how = [SKIP] * len(steps)
        wanted: set[int] = set()
        for at in range(len(steps) - 1, -1, -1):
            need, step = self.needs[begin + at], steps[at]
            if step.output in wanted:
                how[at] = RUN
            elif self.needed[begin + at]:
                how[at] = SAVE if need.is_light else RUN
            if how[at]:
                wanted.update(step.inputs)
        made = {step.output for step in steps}
        last: dict[int, int] = {}
        for at, step in enumerate(steps):
            last[step.output] = at
            if how[at]:
                last.update(dict.fromkeys(step.inputs, at))
        dead: list[list[int]] = [[] for _ in steps]
        for value, at in last.items():
            dead[at].append(value)
        reads = tuple(dict.fromkeys(
            value for at, step in enumerate(steps) if how[at] for value in step.inputs if value not in made
        ))  # fmt: skip
        return Segment(begin, end, reads, tuple(how), tuple(map(tuple, dead)))

    def work(self, segment: Segment) -> int:
        return sum(self.needs[segment.begin + at].work for at, how in enumerate(segment.how) if how == RUN)

    # --- what a way takes

    def peak(self, segments: Iterable[Segment]) -> int:
        """Bytes at most at a time, in both passes: what plan.forward and plan.backward do, with arrays' sizes."""
        plan, live = self.plan, _Live()
        schedule = Schedule(segments, self)
        for value in plan.inputs:
            live.hold((value, -1), 0)
        live.hold("loss", self.loss)  # NumPy's, which the heap may keep
        held: dict[int, list[Any]] = {}
        saved: dict[int, list[Any]] = {}
        present: set[int] = set(plan.inputs)

        def token(value: int, when: int = -1) -> Any:
            return (self.root[value], when)

        def keep(at: int, names: list[Any]) -> None:
            need = self.needs[at]
            saved[at] = names
            for name in names:
                live.hold(name, self.size[name[0]])
            live.hold(("own", at), need.own)

        def run(at: int) -> None:
            need, step = self.needs[at], plan.steps[at]
            extra = sum(self.size[self.root[value]] for value in need.keeps if self.root[value] == step.output)
            live.note(max(extra, self.size[step.output]) + need.own + need.forward)

        for at, (step, dead) in enumerate(zip(plan.steps, plan.dead, strict=True)):
            segment = schedule.first.get(at)
            if segment is not None:
                held[segment.end - 1] = [token(value) for value in segment.reads]
                for name in held[segment.end - 1]:
                    live.hold(name, self.size[name[0]])
            run(at)
            live.hold(token(step.output), self.size[self.root[step.output]])
            present.add(step.output)
            if self.needed[at] and at not in schedule.dropped:
                keep(at, [token(value) for value in self.needs[at].keeps])
            for value in dead:
                present.discard(value)
                live.drop(token(value))
        for value in plan.inputs:
            if value in present and value not in plan.outputs:
                live.drop(token(value))
        sent: dict[int, Any] = {}
        for value in plan.outputs:
            name = ("dy", "loss", value)
            live.hold(name, block(self.seen[value].nbytes))  # the caller's as well
            live.hold(name, 0)
            sent[value] = name
        gradients: set[Any] = set()
        for at in range(len(plan.steps) - 1, -1, -1):
            step, need = plan.steps[at], self.needs[at]
            segment = schedule.last.get(at)
            if segment is not None:
                self._repeat(segment, live, held.pop(at), keep, run)
            name = sent.pop(step.output, None)
            if name is None or not self.needed[at]:
                if name is not None:
                    live.drop(name)
                continue
            made = []
            total = need.backward
            for place, value in enumerate(step.inputs):
                before = self.made.get(value)
                if before is None or not self.needed[before]:
                    continue
                passes = isinstance(step, Add | Enter | Concat | Item)  # dy itself, or a view of it
                part = name if passes else ("dy", at, place)
                size = 0 if passes else block(self.seen[value].nbytes)
                made.append((value, part, size))
                total += size
                if value in sent:
                    total += block(self.seen[value].nbytes)
            fresh = 0
            for layer, attribute, nbytes in need.gradients:
                if (layer, attribute) in gradients:
                    total += 2 * block(nbytes)  # what is added up
                else:
                    gradients.add((layer, attribute))
                    fresh += block(nbytes)
            live.note(total + fresh)
            live.hold(("gradients", at), fresh)
            for value, part, size in made:
                if value in sent:
                    live.drop(sent[value])
                    part, size = ("dy", "sum", at, value), block(self.seen[value].nbytes)
                live.hold(part, size)
                sent[value] = part
            live.drop(name)
            for each in saved.pop(at, ()):
                live.drop(each)
            live.drop(("own", at))
        return beside(live.peak)

    def _repeat(self, segment: Segment, live: _Live, held: list[Any], keep: Any, run: Any) -> None:
        """The segment's forward again, in backward."""
        values = dict(zip(segment.reads, held, strict=True))
        for at, how, dead in zip(range(segment.begin, segment.end), segment.how, segment.dead, strict=True):
            step, need = self.plan.steps[at], self.needs[at]
            if how == RUN:
                run(at)
                alias = isinstance(step, Enter | Item)
                values[step.output] = values[step.inputs[0]] if alias else (step.output, at)
                live.hold(values[step.output], self.size[values[step.output][0]])
            if how and self.needed[at]:
                names = [values.get(value, (self.root[value], at)) for value in need.keeps]
                keep(at, names)
                live.note(0 if how == RUN else need.forward)
            for value in dead:
                if value in values:
                    live.drop(values.pop(value))


def _cheapest(
    held: np.ndarray, work: np.ndarray, kept: list[float], price: float
) -> tuple[tuple[int, int], ...]:  # fmt: skip
    """The segments of a path from the first step to behind the last, over steps that are kept and segments, which has
    the least of bytes and work at its price in bytes."""
    cost = held + price * work
    best, before = np.zeros(len(held)), [0] * len(held)
    for end in range(1, len(held)):
        through = best[:end] + cost[end, :end]
        begin = int(np.argmin(through))
        alone = best[end - 1] + kept[end - 1]
        if through[begin] < alone:
            best[end], before[end] = through[begin], begin
        else:
            best[end], before[end] = alone, -1
    cuts, end = [], len(held) - 1
    while end:
        if before[end] >= 0:
            cuts.append((before[end], end))
            end = before[end]
        else:
            end -= 1
    return tuple(reversed(cuts))


class _Live:
    """Bytes that are held, each thing once however many hold it, and the most that there were."""

    def __init__(self) -> None:
        self.total = self.peak = 0
        self.count: Counter[Any] = Counter()
        self.bytes: dict[Any, int] = {}

    def hold(self, name: Any, nbytes: int) -> None:
        if not self.count[name]:
            self.bytes[name] = nbytes
            self.total += nbytes
            self.peak = max(self.peak, self.total)
        self.count[name] += 1

    def drop(self, name: Any) -> None:
        if self.count[name] == 1:
            self.total -= self.bytes.pop(name)
        self.count[name] -= 1

    def note(self, extra: int) -> None:
        self.peak = max(self.peak, self.total + extra)


def beside(nbytes: int) -> int:
    """The limit that so many bytes of arrays need: `memory.at_most` leaves some of it to the rest of the process."""
    return nbytes + min(RESERVE, -(-nbytes // (SHARE - 1)))


def block(nbytes: float) -> int:
    """Bytes that an array takes: those of its block (_ext/memory.pyx), or of a small piece of the heap."""
    nbytes = math.ceil(nbytes)
    if nbytes < POOLED:
        return nbytes + 128 if nbytes else 0
    step = 512
    while step * 16 < nbytes:
        step *= 2
    return -(-nbytes // step) * step + 128


# --- the shapes of a plan's values -----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A value as far as memory goes."""

    shape: tuple[int, ...]  # of several outputs of one step: ()
    itemsize: int
    nbytes: int
    last: bool  # channels last in memory, or an array of which that is no other order


def _is_last(x: np.ndarray) -> bool:
    return x.ndim <= 2 or x.transpose(CHANNELS_LAST[x.ndim]).flags.c_contiguous


def _seen(plan: Plan, values: Mapping[int, np.ndarray], context: Context) -> dict[int, Seen]:
    """Every value of the plan, those between the parts of fused steps too.

    The steps are asked for the shapes: they run on no images, and where an operation refuses that, on one and on two,
    or on the batch's own number. Layers of one's own are asked as copies.
    """
    asking = replace(context, training=False, keep=False, repeated=True)
    several = {len(value) for value in values.values() if value.ndim}
    count = several.pop() if len(several) == 1 else 0
    steps = [part for step in plan.steps for part in leaves(step)]
    batches: list[tuple[int, ...]] = [(0,), (1, 2), (count,)] if count > 2 else [(count,)]
    if any(isinstance(step, OperationStep) for step in steps):  # whose axes may be any
        batches = [batch for batch in batches if batch != (0,)]
    for batch in batches:
        try:
            shapes = [_shapes(steps, values, asking, count, images) for images in batch]
        except (ShapeError, ValueError, IndexError, ZeroDivisionError):
            if batch == batches[-1]:
                raise
            continue
        break
    found = {value: Seen(each.shape, each.itemsize, each.nbytes, _is_last(each)) for value, each in values.items()}
    for step in steps:
        given = [shapes_of[step.output] for shapes_of in shapes]
        last = _keeps_order(step, found) and len(given[0]) == 1
        found[step.output] = _scaled(given, batch, count, last)
    return found


def _scaled(given: list[Any], batch: tuple[int, ...], count: int, last: bool) -> Seen:
    """The value for `count` images, of what it is for each of `batch`: per output its shape and the bytes of one
    element."""
    if batch == (0,):
        given = [[((count, *shape[1:]) if shape[:1] == (0,) else shape, item) for shape, item in given[0]]]
    nbytes = [sum(math.prod(shape) * item for shape, item in each) for each in given]
    total = nbytes[0] if len(given) == 1 else nbytes[0] + (count - 1) * max(0, nbytes[1] - nbytes[0])
    if len(given[0]) > 1:
        return Seen((), 8, total, False)
    shape, item = given[0][0]
    if len(given) == 2:
        grown = given[1][0][0]
        shape = tuple(one + (count - 1) * (two - one) for one, two in zip(shape, grown, strict=False))
    return Seen(tuple(shape), item, total, last)


def _shapes(
    steps: list[Step], values: Mapping[int, np.ndarray], context: Context, count: int, images: int
) -> dict[int, list[tuple[tuple[int, ...], int]]]:
    """Per value the shapes of what a step gives for so many images, and the bytes of an element."""
    last = {value: at for at, step in enumerate(steps) for value in step.inputs}
    known: dict[int, Any] = {}
    for value, each in values.items():
        shape = (images, *each.shape[1:]) if each.ndim and len(each) == count else each.shape
        known[value] = np.zeros(shape, each.dtype)
    found = {}
    for at, step in enumerate(steps):
        asked = step
        if isinstance(step, LayerStep) and not (step.layers[0].is_plain() and _is_pure(step.layers[0])):
            asked = copy.copy(step)
            asked.layers = (_twin(step.layers[0]),)
        y = asked.call([known[value] for value in step.inputs], context)[0]
        y = y.copy() if isinstance(step, Array) else y  # an operation may write to it
        known[step.output] = y
        found[step.output] = [(each.shape, each.itemsize) for each in (y if isinstance(y, tuple) else (y,))]
        for value in (*step.inputs, step.output):
            if last.get(value, -1) <= at:
                known.pop(value, None)
    return found


def _twin(layer: Any) -> Any:
    """A layer of one's own that may be asked without a trace; itself where it cannot be copied."""
    try:
        return copy.deepcopy(layer)
    except Exception:  # whatever a class of one's own does
        return layer


def _keeps_order(step: Step, found: Mapping[int, Seen]) -> bool:
    """Whether a step surely gives its value channels last."""
    if isinstance(step, Add | Multiply | Enter):
        return all(found[value].last for value in step.inputs)
    if isinstance(step, Concat):
        return True
    if not isinstance(step, LayerStep) or not step.layers[0].is_plain():
        return False
    op = getattr(step.layers[0], "op", "")
    if op in FUNCTIONS or op in ("layer_norm", "flatten", "function_pool2d", ""):
        return False
    return op in KEEP_X or op in KEEP_NOTHING - {"dropout", "step"} or found[step.inputs[0]].last


def _awkward(plan: Plan) -> set[int]:
    """Values whose gradient may come in another order than their own, or with gaps."""
    found = set(plan.outputs)
    for step in reversed(plan.steps):
        handed_on = isinstance(step, Add | Enter) and step.output in found
        own = all(layer.is_plain() and getattr(layer, "op", "") not in FUNCTIONS for layer in step.layers)
        if handed_on or not own or not isinstance(step, LayerStep | Fused | Add | Enter | Multiply):
            found.update(step.inputs)
    return found


# --- what a step needs -----------------------------------------------------------------------------------------------


class Need(NamedTuple):
    """Bytes beside a step's values: what it keeps for backward, what it borrows in either pass."""

    keeps: tuple[int, ...]  # values, as they are
    own: int  # and what it made itself
    forward: int
    backward: int
    work: int  # of its forward, in bytes moved
    gradients: tuple[tuple[int, str, int], ...]  # (the layer's id, the parameter, bytes)
    can_repeat: bool
    is_light: bool  # what it saves is known without computing


def leaves(step: Step) -> list[Step]:
    """The steps that a fused one is made of; itself."""
    return step.steps() if isinstance(step, Fused) else [step]


def _need(step: Step, seen: Mapping[int, Seen], awkward: set[int], context: Context) -> Need:
    parts = leaves(step)
    each = [_own_need(part, seen, awkward, context) for part in parts]
    gradients = tuple(
        (id(owner), name, getattr(owner, name).nbytes)
        for layer in step.layers for owner, name in _trained(layer)
        if not isinstance(step, Array | OperationStep) or name == getattr(step, "attribute", None)
    )  # fmt: skip
    within = [part.output for part in parts[:-1]]
    outside = (*step.inputs, step.output)
    between = sum(block(seen[value].nbytes) for value in within)
    keeps = tuple(dict.fromkeys(value for need in each for value in need.keeps if value in outside))
    made = {value for need in each for value in need.keeps if value in within}
    own = sum(need.own for need in each) + sum(block(seen[value].nbytes) for value in made)
    forward, backward = max(need.forward for need in each), max(need.backward for need in each)
    if isinstance(step, NormRelu) and context.once and step.norm.options(context)["training"]:
        x = step.inputs[0]
        keeps = tuple(value for value in (x, step.output) if value != x or x in each[0].keeps)
        keeps = keeps if step.adds else keeps[:-1]
        own = each[0].own
        if step.adds:
            forward += block(seen[step.inputs[1]].nbytes) * (not seen[step.inputs[1]].last)
    elif isinstance(step, NormReluPool):
        given, learns = seen[step.inputs[0]], context.once and step.norm.options(context)["training"]
        if learns and step.fits(_like(given)):
            keeps, own = each[0].keeps, each[0].own + block(seen[step.output].nbytes // given.itemsize)
        else:
            forward, backward = forward + between, backward + between
    elif isinstance(step, ConvRelu) and not step.is_wide():
        keeps, own = (*each[0].keeps, step.output), each[0].own
        backward += between
    elif isinstance(step, PoolRelu) and step.fits(_like(seen[step.inputs[0]])):
        keeps, own = (), each[1].own + block(seen[step.output].nbytes)
        forward, backward = forward + block(seen[step.output].nbytes), backward + block(seen[step.output].nbytes)
    else:
        forward, backward = forward + between, backward + between
    return Need(
        keeps, own, forward + SLACK, backward + SLACK, sum(need.work for need in each), gradients,
        all(need.can_repeat for need in each), len(each) == 1 and each[0].is_light,
    )  # fmt: skip


def _like(value: Seen) -> np.ndarray:
    return np.empty(value.shape, f"f{value.itemsize}")


def _trained(layer: Any) -> list[tuple[Any, str]]:
    """The arrays that get a gradient: of layers that hold others all of theirs."""
    return [(owner, name) for _, owner, name in layer.named_arrays(buffers=False) if name not in owner._frozen]


def _own_need(step: Step, seen: Mapping[int, Seen], awkward: set[int], context: Context) -> Need:
    """Of a step that is no fused one."""
    xs = [seen[value] for value in step.inputs]
    y = seen[step.output]
    ins, out = sum(block(x.nbytes) for x in xs), block(y.nbytes)
    moved = sum(x.nbytes for x in xs) + y.nbytes
    if isinstance(step, Enter | Item | Array):
        return Need((), 0, 0, 0, 0, (), not isinstance(step, Array), False)
    if isinstance(step, Add | Concat | Multiply):
        keeps = step.inputs if isinstance(step, Multiply) else ()
        copies = 0 if all(x.last for x in xs) else ins
        return Need(keeps, 0, copies, copies + out, moved, (), True, False)
    layer: Any = step.layers[0]
    if isinstance(step, OperationStep):
        can_repeat = layer.name not in FUNCTIONS and layer.name not in STATISTICS
        room = 2 * (ins + out)
        if "conv" in layer.op:
            room += min(get_workspace_limit(), 16 * (ins + out))
        return Need((*step.inputs, step.output), ins + out, room, room, moved, (), can_repeat, False)
    x, op = xs[0], getattr(layer, "op", "")
    is_plain = layer.is_plain() and op not in FUNCTIONS
    if not is_plain or layer.children():
        inside = [each for _, each in layer.walk()]
        can_repeat = is_plain and all(each.is_plain() and _is_pure(each) for each in inside)
        parameters = sum(block(getattr(each, name).nbytes) for _, each, name in layer.named_arrays(buffers=False))
        keeps = (*step.inputs, step.output)
        own = 0
        if is_plain:  # NetworkPool2d: every window apart, through a net
            own = _inside(layer, x, y)
        return Need(keeps, own, own, own + parameters, moved + own, (), can_repeat, False)
    return _of_layer(step, layer, op, x, y, step.output in awkward, moved, context)


def _inside(layer: Any, x: Seen, y: Seen) -> int:
    """What the net in a NetworkPool2d makes of all windows."""
    taps = math.prod(n if isinstance(n := layer._window[0], tuple) else (n, n))
    widest = sum(max(getattr(each, name).shape) for _, each, name in layer.named_arrays(buffers=False))
    return block(math.prod(y.shape) * (2 * taps + widest) * x.itemsize)


def _is_pure(layer: Any) -> bool:
    """Whether a plain layer gives the same bits again, and changes nothing."""
    op = getattr(layer, "op", "")
    by_name = type(layer).__name__ == "Function" and op in STATISTICS
    return op not in FUNCTIONS and op != "function_pool2d" and not by_name


def _of_layer(
    step: Step, layer: Any, op: str, x: Seen, y: Seen, awkward: bool, moved: int, context: Context
) -> Need:  # fmt: skip
    ins, out = block(x.nbytes), block(y.nbytes)
    copied = 0 if x.last else ins
    turned = out if awkward else 0  # dy, in the order that is read
    keeps: tuple[int, ...] = ()
    own, forward, backward, work = 0, copied, turned, moved
    if op in KEEP_AS_IT_IS or (op in KEEP_X and x.last):
        keeps = step.inputs
    elif op in KEEP_X:
        own = ins
    elif op not in KEEP_NOTHING:
        keeps, own, forward, backward = (*step.inputs, step.output), ins + out, 2 * (ins + out), 2 * (ins + out)
    if op in CONVOLUTIONS or op in TRANSPOSED:
        in_place = op in TRANSPOSED or layer.padding_mode == "zeros"
        found = _convolution(layer, op, x, y, context)
        own, forward, backward = own + found.own, forward + found.forward, backward + found.backward
        work += found.work
        if not in_place:  # the wide x is kept
            keeps, own, backward = (), found.own + found.wide, backward + 3 * found.wide
        return Need(keeps, own, forward, backward, work, (), True, op in CONVOLUTIONS and in_place)
    elements = math.prod(x.shape)
    if op == "linear":
        weight = layer.weight.nbytes
        rows, (filters, features) = math.prod(x.shape[:-1]), layer.weight.shape
        work += rows * layer.weight.size // OPERATIONS_A_BYTE
        products = (rows, filters, features), (rows, features, filters), (filters, features, rows)
        once, *gradients = (
            block(Cut.of(*each, x.itemsize, get_workspace_limit()).scratch(x.itemsize)) for each in products
        )
        forward = ins * (not x.last) + once
        backward += block(y.nbytes) + block(weight) * (not layer.weight.flags.forc) + ins * (not x.last)
        backward += max(gradients)
        return Need(keeps, 0, forward, backward, work, (), True, True)
    if op in ("batch_norm", "instance_norm", "group_norm"):
        channels = x.shape[1]
        images = 1 if op == "batch_norm" else x.shape[0]
        cut = Rows.of(images, max(1, elements // channels // max(1, images)), channels)
        sums = block(8 * 2 * images * cut.blocks * cut.join * channels)
        statistic, coefficient = block(8 * images * channels), block(x.itemsize * images * cut.join * channels)
        own += 4 * statistic + 3 * coefficient
        forward += sums + 8 * statistic
        backward += sums + 6 * statistic + 4 * coefficient
    elif op == "layer_norm":
        size = math.prod(layer.normalized_shape)
        rows = elements // size
        own = copied + block(16 * rows) + 2 * block(size * x.itemsize)
        backward += copied + block(16 * size * (rows // 16 + 1))
    elif op in ("softmax", "log_softmax"):
        rows = elements // max(1, x.shape[layer._options["dim"] if -len(x.shape) <= layer._options["dim"] else -1])
        own = ins + block(16 * rows)
        backward += ins + out + block(16 * rows)
    elif op.startswith(("max_pool", "adaptive_max_pool")):
        own = block(math.prod(y.shape) * (1 if _taps(op, layer, x, y) < 256 else 4))
    elif op.startswith(("avg_pool", "adaptive_avg_pool")):
        backward += out
    elif op.startswith("lp_pool"):
        own += out
        forward, backward = forward + ins + out, backward + 2 * (ins + out)
    elif op == "function_pool2d":
        windows = block(y.nbytes * math.prod(np.broadcast_to(layer._options["kernel_size"], 2).tolist()))
        return Need((*step.inputs, step.output), 0, ins + 4 * windows, ins + 8 * windows, moved, (), False, False)
    elif op == "local_response_norm":
        levels = block(2 * x.shape[1] * x.itemsize * get_num_threads())
        forward, backward = forward + levels, backward + levels
    elif op == "locally_connected2d":
        wide = block(math.prod(y.shape[2:]) * math.prod(layer.weight.shape[1:4]) * x.shape[0] * x.itemsize)
        weight = block(layer.weight.nbytes)
        own += weight + ins
        forward, backward = forward + wide + weight, backward + wide + 2 * weight + ins + out
        work += x.shape[0] * layer.weight.size // OPERATIONS_A_BYTE
    elif op in ("resize", "pad", "prelu", "dropout", "step"):
        forward, backward = forward + ins + out, backward + ins + 2 * out
        if type(layer).__name__ == "Dropout2d":
            own = 2 * block(math.prod(x.shape[:2]) * x.itemsize)
    if op == "flatten":
        backward += out
    return Need(keeps, own, forward, backward, work, (), _is_pure(layer), False)


def _taps(op: str, layer: Any, x: Seen, y: Seen) -> int:
    if op.startswith("adaptive"):
        return math.prod(-(-n // max(1, m)) + 1 for n, m in zip(x.shape[2:], y.shape[2:], strict=True))
    kernel = layer._options["kernel_size"]
    return math.prod(kernel) if isinstance(kernel, tuple | list) else int(kernel) ** (len(x.shape) - 2)


class _Convolution(NamedTuple):
    own: int
    forward: int
    backward: int
    work: int
    wide: int  # bytes of x with the border of a padding_mode


def _convolution(layer: Any, op: str, x: Seen, y: Seen, context: Context) -> _Convolution:
    """What a convolution's plans borrow, and its weights in another order."""
    given, batch, dtype = layer.options(context), x.shape[0], layer.weight.dtype
    weights, bias = layer.weight.shape, None if layer.bias is None else layer.bias.shape
    outputs, wide, inputs = y.shape[2:], 0, x.shape[2:]
    ones = (1,) * (3 - len(inputs))
    forward: list[tuple[engine.Problem, tuple[engine.Direction, ...]]] = []
    backward: list[tuple[engine.Problem, tuple[engine.Direction, ...]]] = []
    work, apart = layer.weight.size * batch * math.prod(outputs), 0
    if op in TRANSPOSED:  # the convolution from y to x, the other way
        stride, padding, extra = given["stride"], given["padding"], given["output_padding"]
        dilation, groups = given["dilation"], given["groups"]
        window, groups, _ = conv_transpose.rule(
            op, x.shape, weights, bias, stride, padding, extra, None, dilation, groups
        )  # fmt: skip
        policy, work = engine.Policy.now(), layer.weight.size * batch * math.prod(inputs)
        one = engine.Problem(
            batch, weights[1] * groups, (*ones, *outputs), weights[0], (*ones, *inputs), window.lift(), groups, dtype
        )  # fmt: skip
        forward, backward = [(one, ("gradient_input",))], [(one, ("forward", "gradient_weights"))]
    else:
        padding, policy = given["padding"], engine.Policy.now(given["algorithm"])
        if layer.padding_mode != "zeros":
            around = Window.parse(op, inputs, weights[2:], given["stride"], padding, given["dilation"]).padding
            inputs, padding = tuple(n + sum(each) for n, each in zip(inputs, around, strict=True)), 0
            wide = block(batch * x.shape[1] * math.prod(inputs) * x.itemsize)
        stride, dilation, groups, algorithm = (given[name] for name in ("stride", "dilation", "groups", "algorithm"))
        window, groups, _ = conv.rule(
            op, (*x.shape[:2], *inputs), weights, bias, stride, padding, dilation, groups, algorithm
        )  # fmt: skip
        channels, window, lengths = x.shape[1], window.lift(), (*ones, *outputs)
        for phase in phases(window, lengths):
            one = engine.Problem(
                batch, channels, (*ones, *inputs), weights[0], phase.lengths(lengths), phase.window, groups, dtype
            )  # fmt: skip
            forward.append((one, ("forward",)))
            backward.append((one, ("gradient_input", "gradient_weights")))
        upwards = across(window, lengths)
        if upwards is not None:
            one = engine.Problem(batch, weights[0], lengths, channels, (*ones, *inputs), upwards, groups, dtype)
            forward.append((one, ("gradient_input",)))
            backward.append((one, ("forward",)))
        if window.up != ONES:
            apart = 2 * (block(y.nbytes) + block(layer.weight.nbytes)) + block(x.nbytes)
    weight = block(layer.weight.nbytes) if math.prod(weights[2:]) > 1 else 0  # where it is read in another order
    once, again = (_scratch(each, policy) for each in (forward, backward))
    if op not in TRANSPOSED and window.up == ONES and engine.plan("forward", forward[0][0], policy).taps_last:
        return _Convolution(0, wide + once, again + weight, work // OPERATIONS_A_BYTE, wide)
    return _Convolution(weight, wide + apart + once, apart + again, work // OPERATIONS_A_BYTE, wide)


def _scratch(
    problems: list[tuple[engine.Problem, tuple[engine.Direction, ...]]], policy: engine.Policy
) -> int:  # fmt: skip
    """The most that a plan for one of the problems, in one of its directions, borrows."""
    return max((
        block(engine.plan(direction, problem, policy).scratch)
        for problem, directions in problems if problem.pixels and problem.batch for direction in directions
    ), default=0)  # fmt: skip
