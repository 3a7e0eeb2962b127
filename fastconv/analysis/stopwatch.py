"""What a training step or an inference spends where: the steps of a net's plan, watched while they run.

The clock is read at the end of each step, forward and backward; what passed since the last reading is that step's. So
all of them together are the whole time.
"""

from __future__ import annotations

import gc
import threading
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fastconv.analysis.floor import Work, passes
from fastconv.analysis.table import flops_of
from fastconv.engine import Convolution, trace
from fastconv.layers.base import Context, Layer
from fastconv.plan import Plan
from fastconv.plan.names import kind_of, name_of
from fastconv.plan.steps import Array, Enter, Item, Step

__all__ = ["Memory", "Piece", "Stopwatch", "Turn", "memories"]

LEADS_AWAY = (type, types.ModuleType, Layer, Plan, Step, Convolution)  # no memory of a step's own


class Memory(NamedTuple):
    """A block that arrays lie on."""

    address: int
    nbytes: int


class Turn(NamedTuple):
    """One run of a piece in one phase."""

    seconds: float
    passes: list[trace.Pass]  # its convolutions'


@dataclass(eq=False)
class Piece:
    """A step of the plan, the loss or the update: what it must do, and how long it took."""

    name: str
    kind: str
    output_shape: tuple[int, ...] = ()
    kept: int = 0  # bytes that the forward pass holds for the backward, and no step before it
    works: dict[str, Work] = field(default_factory=dict)  # by pass, as `floor.passes` has them
    turns: dict[str, list[Turn]] = field(default_factory=dict)  # by phase: "forward", "backward", "loss", "update"

    def turn(self, phase: str) -> Turn | None:
        """The run of middle length; the first warmed up and does not count."""
        counted = sorted(self.turns.get(phase, [])[1:], key=lambda turn: turn.seconds)
        return counted[len(counted) // 2] if counted else None


class Stopwatch:
    """Watches `steps` of `net`, which nobody else runs, on the inputs `given`.

    pieces   one for each step that computes
    order    (piece, phase) as they ran
    phase    what runs; the caller sets it
    """

    def __init__(self, net: Layer, steps: Sequence[Step], given: Sequence[np.ndarray]) -> None:
        self.phase = "forward"
        self.order: list[tuple[Piece, str]] = []
        self._thread = threading.get_ident()
        self._log: list[tuple[Piece | None, str, float, list[trace.Pass]]] = []
        self._heard: list[trace.Pass] = []
        self._weights = {_memory_of(getattr(layer, name)) for _, layer, name in net.named_arrays()}
        self._held = self._weights | set(map(_memory_of, given))
        # what hands on a value that is there has no piece: its time is the next one's
        self.pieces = [self._watch(step) for step in steps if not isinstance(step, Enter | Array | Item)]

    def begin(self) -> None:
        """A run begins, in its first phase."""
        self.phase, self._heard, self._log = "forward", [], [(None, "", time.perf_counter(), [])]

    def mark(self, piece: Piece | None) -> None:
        """What passed since the last mark was this piece's."""
        self._log.append((piece, self.phase, time.perf_counter(), self._heard))
        self._heard = []

    def listen(self, found: trace.Pass) -> None:
        if threading.get_ident() == self._thread:
            self._heard.append(found)

    def finish(self) -> None:
        """A run ends; what came after its last mark is of the same piece and phase."""
        piece, self.phase, *_ = self._log[-1]
        self.mark(piece)
        spent: dict[tuple[Piece, str], Turn] = {}
        for (_, _, before, _), (piece, phase, now, heard) in zip(self._log, self._log[1:], strict=False):
            if piece is not None:
                seconds, known = spent.get((piece, phase), (0.0, []))
                spent[piece, phase] = Turn(seconds + now - before, known + heard)
        self.order = list(spent)
        for (piece, phase), turn in spent.items():
            piece.turns.setdefault(phase, []).append(turn)

    def _watch(self, step: Step) -> Piece:
        """Have the step's methods read the clock; the first time they tell of their arrays, too."""
        piece = Piece(name_of(step), kind_of(step))
        call, backward, accumulate = step.call, step.backward, step.accumulate
        weights = sum(getattr(layer, name).nbytes for each in step.layers for _, layer, name in each.named_arrays())
        x: dict[Memory, int] = {}
        flops = 0

        def timed_call(values: list[Any], context: Context) -> tuple[Any, Any]:
            nonlocal flops
            y, kept = call(values, context)
            self.mark(piece)
            if not piece.works:
                x.update(memories(values))
                flops = _flops(step, values, y)
                written = _new(memories(y), x.keys() | self._weights)
                found = passes(sum(x.values()), written, weights, flops=flops)["forward"]
                piece.works["forward"] = found if written else Work()  # a view
                piece.output_shape = (y[0] if isinstance(y, tuple) else y).shape
                held = memories(kept).keys() if context.keep else set()
                piece.kept = sum(memory.nbytes for memory in held - self._held)
                self._held |= held
            return y, kept

        def timed_backward(dy: Any, saved: Any, needs: tuple[bool, ...], *over: bool) -> Any:
            known = "dx" in piece.works
            read = 0 if known else min(_new(memories(saved), self._weights), sum(x.values()))
            parts, gradients = backward(dy, saved, needs, *over)
            self.mark(piece)
            if not known:
                sent = memories(dy)
                same = {} if any(over) else sent  # else dx in dy's memory is dy
                dx, dw = _new(memories(parts), same.keys()), _new(memories(gradients), same.keys())
                found = passes(
                    sum(x.values()), sum(sent.values()), weights, flops=flops, read=read, dx=dx, dw=dw
                )  # fmt: skip
                for way in ("dx", "dw"):
                    piece.works[way] = found[way] if dx or dw else Work()
            return parts, gradients

        def timed_accumulate(*arrays: Any) -> Any:
            total = accumulate(*arrays)
            self.mark(piece)
            return total

        step.call, step.backward = timed_call, timed_backward  # type: ignore[method-assign]
        step.accumulate = timed_accumulate  # type: ignore[method-assign,assignment]
        return piece


def _flops(step: Step, values: list[Any], y: Any) -> int:
    """Of the forward pass, but for convolutions, which the engine tells."""
    shapes = [value.shape for value in (*values[:1], y) if isinstance(value, np.ndarray)]
    others = [layer for layer in step.layers if not getattr(layer, "op", "").startswith("conv")]
    return sum(flops_of(layer, *shapes) for layer in others) if len(shapes) == 2 else 0


def _memory_of(array: np.ndarray) -> Memory:
    """What an array is a view of, all of which it holds."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return Memory(array.__array_interface__["data"][0], array.nbytes)


def memories(value: Any) -> dict[Memory, int]:
    """The memory that a value's arrays lie on, wherever in it they are, and how much of it they read."""
    found: dict[Memory, int] = {}
    for array in _arrays(value):
        memory = _memory_of(array)
        found[memory] = max(found.get(memory, 0), array.nbytes)
    return found


def _arrays(value: Any) -> Iterator[np.ndarray]:
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, np.ndarray):
            yield each
        elif id(each) not in seen and not isinstance(each, LEADS_AWAY):
            seen.add(id(each))
            if isinstance(each, types.FunctionType):  # not its module's names
                waiting += [cell.cell_contents for cell in each.__closure__ or ()] + [each.__defaults__]
            else:
                waiting += gc.get_referents(each)


def _new(found: dict[Memory, int], known: Any) -> int:
    """Bytes of what lies on other memory."""
    return sum(nbytes for memory, nbytes in found.items() if memory not in known)
