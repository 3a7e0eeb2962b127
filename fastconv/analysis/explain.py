"""`fastconv.explain`: the steps of a net's plan as they run, what served each, and how close it comes to the machine's
rates."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from fastconv import notebook
from fastconv.analysis.floor import Work, copy_rate
from fastconv.analysis.steps import parse_input_shapes
from fastconv.analysis.steps import trace as follow
from fastconv.analysis.stopwatch import Piece, Stopwatch
from fastconv.engine import trace
from fastconv.errors import ShapeError
from fastconv.layers.base import LAYERS, Context, Layer
from fastconv.layers.graph import Graph
from fastconv.machine import memory
from fastconv.machine.blas import blas_held
from fastconv.machine.threads import get_num_threads
from fastconv.optim import SGD
from fastconv.plan import plan_of
from fastconv.plan.steps import LayerStep, Step
from fastconv.training.step import Loss
from fastconv.window import integers

__all__ = ["Explanation", "Row", "Span", "explain"]

RUNS = 5  # timed; one before them is not
HEAD = ("pass", "algorithm", "workspace", "kept", "moved", "ms", "GFLOP/s", "GEMM", "floor", "share")


@dataclass(frozen=True)
class Row:
    """One pass of one step of the plan: of a layer, or of several that are computed as one."""

    layer: str  # its name in the net, of several joined by +; "loss" and "update" of what a training step ends with
    kind: str
    output_shape: tuple[int, ...]
    direction: (
        str  # "forward", "dx", "dw" and "other" (layouts, db, what is fused) of a convolution; else "forward" and
    )
    # "backward"; "loss", "update"
    milliseconds: float
    algorithm: str | None = None  # None where no convolution runs, which has no FLOPs either
    workspace: int = 0  # bytes, the most that one of its kernels borrowed besides its result
    gflops: float | None = None  # per second
    share: float | None = None  # of the GEMM rate of all threads
    kept: int = 0  # bytes that it holds for the backward pass, and no step before it; input and weights do not count
    moved: int = 0  # bytes that it must read and write: inputs, outputs, weights and gradients, each of them once
    floor: float | None = None  # milliseconds that it takes at least; see `fastconv.analysis.floor`
    floor_share: float | None = None  # of the milliseconds that it takes


@dataclass(frozen=True)
class Span:
    """What ran from when to when: a step of the plan, forward or backward, the loss or the update."""

    layer: str
    kind: str
    phase: str  # "forward", "loss", "backward", "update"
    start: float  # milliseconds
    milliseconds: float
    floor: float  # milliseconds
    kept: int  # bytes that are held for the backward pass when it ends


@dataclass(frozen=True)
class Explanation:
    """What `explain` found: `rows`, `as_dict()`, a table when it is printed, and `plot(path)`, the timeline.

    spans   what ran, in order; they and the rows add up to the same time
    """

    rows: tuple[Row, ...]
    input_shape: tuple[int, ...]
    dtype: str
    threads: int
    gemm: float  # GFLOP/s of one thread
    workspace_limit: int
    training: bool
    bandwidth: float  # GB/s, read and written by a copy
    spans: tuple[Span, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON."""
        return asdict(self)

    @property
    def head(self) -> str:
        what = "a training step" if self.training else "inference"
        count = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"input {'x'.join(map(str, self.input_shape))} {self.dtype}, {what} on {count}"

    def _repr_html_(self) -> str:
        cells = [[row.layer, row.kind, "x".join(map(str, row.output_shape)), *_cells(row)] for row in self.rows]
        return notebook.table([["layer", "kind", "output", *HEAD], *cells], left=5, above=self.head)

    def __str__(self) -> str:
        rows = list(map(_cells, self.rows))
        widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]

        def line_of(cells: Sequence[str]) -> str:
            texts = map(str.ljust, cells[:2], widths[:2]), map(str.rjust, cells[2:], widths[2:])
            return f" {'  '.join(chain(*texts))}".rstrip()

        lines = [
            self.head,
            f"GEMM {self.gemm:.0f} GFLOP/s a thread; copy {self.bandwidth:.1f} GB/s; workspace limit "
            f"{self.workspace_limit:,} bytes",
            "",
            "layer  kind  output",
            line_of(HEAD),
            line_of(["-" * width for width in widths]),
        ]
        before: tuple[str, str] | None = None
        for row, cells in zip(self.rows, rows, strict=True):
            if (row.layer, row.kind) != before:
                lines.append("  ".join(filter(None, (row.layer, row.kind, "x".join(map(str, row.output_shape))))))
            before = row.layer, row.kind
            lines.append(line_of(cells))
        total, floor = sum(row.milliseconds for row in self.rows), sum(row.floor or 0 for row in self.rows)
        lines.append(
            f"sum {total:.3f} ms, floor {floor:.3f} ms ({100 * floor / max(total, 1e-6):.0f} %); bytes: "
            f"{sum(row.kept for row in self.rows):,} kept, {sum(row.moved for row in self.rows):,} moved"
        )
        return "\n".join(lines)

    __repr__ = __str__

    # --- as a picture

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The timeline as a matplotlib figure, which shows in a notebook; written to `path` if it is given (.png, .svg
        or .pdf): a bar for each span, a line for each step of the plan, the floor within it; above, the bytes that are
        held for the backward pass.

        Raises ImportError without matplotlib (extra [plot]), ValueError for another suffix, OSError.
        """
        from fastconv.plots import saved

        return saved(self.figure(), path)

    def figure(self) -> Any:
        """The same as a matplotlib Figure."""
        from fastconv.plots import timeline

        spans = [(f"{span.layer} {span.kind}".strip(), span.phase, span.start, span.milliseconds, span.floor, span.kept)
                 for span in self.spans]  # fmt: skip
        return timeline(spans, title=self.head)


def explain(net: Layer, input_shape: Sequence[int], *, training: bool = True) -> Explanation:
    """Run `net` on random input of shape (N, C, …) and tell, per step of its plan and pass, what served it.

        print(explain(net, (32, 3, 32, 32)))
        explain(net, (32, 3, 32, 32), training=False).plot("inference.png")

    training   training steps: forward, loss (cross-entropy of an output (N, K), else the mean square), backward and
               update (SGD with momentum); of what is one layer, or has several outputs, without the loss, whose
               gradient is 1 then. False: inference

    A row's columns are the algorithm, the workspace in bytes, milliseconds (of the run of middle length), GFLOP/s
    (direct-convolution FLOPs) and their share of this machine's GEMM rate: one thread's product in the BLAS that the
    kernels call, times the threads; the bytes that the step keeps for its backward pass (an array that several keep
    counts for the first) and those that it must move, the floor in milliseconds and its share of the time: above 100 %
    where arrays lie in the caches, or an algorithm multiplies less than the direct convolution does. Layers that are
    computed as one are one row, "1+2"; FASTCONV_PLAN=0 in the environment leaves each of them its own.

    Passes are those of a training step: nobody asks for the gradient to the net's input. The net is left as it was: its
    weights, running statistics, mode and random generator. A layer that is applied more than once has rows for each.

    Raises ShapeError for a shape that the net cannot take, TypeError for what is no net.
    """
    if not isinstance(net, Layer):
        raise TypeError(f"explain: net must be a layer or a net, got {net!r}")
    if isinstance(net, Graph) and len(net.inputs) != 1:
        shapes = parse_input_shapes("explain", net, input_shape)
    else:
        shapes = (integers("explain", "input_shape", input_shape, len(tuple(input_shape)), 1),)
    arrays = [getattr(layer, name) for _, layer, name in net.named_arrays(buffers=False)]
    twin = copy.deepcopy(net, {} if training else {id(array): array for array in arrays})  # an update changes them
    rng = np.random.default_rng(0)
    dtype = np.dtype(twin.dtype or np.float32)
    kinds = twin.input_types(dtype) if isinstance(twin, Graph) else (dtype,)
    given = tuple(rng.standard_normal(shape).astype(kind) for shape, kind in zip(shapes, kinds, strict=True))
    run = _Run(twin, given, rng, training)
    with blas_held, trace.listening(run.watch.listen):
        try:
            for _ in range(1 + RUNS):
                run.step() if training else run.inference()
        except ShapeError:
            follow("explain", net, input_shape)  # says it where only the batch axis is missing
            raise
    rows, spans = run.found(dtype.name)
    return Explanation(
        rows, shapes[0], dtype.name, get_num_threads(), trace.gemm_rate(dtype.name), memory.get_workspace_limit(),
        training, copy_rate(), spans,
    )  # fmt: skip


class _Run:
    """A net of nobody else's that is computed under a stopwatch."""

    def __init__(self, net: Layer, given: tuple[np.ndarray, ...], rng: np.random.Generator, training: bool) -> None:
        self.net, self.rng = net, rng
        self.x: Any = given if len(given) != 1 else given[0]
        steps, self.forward, self.backward = _computed(net, training)
        self.watch = Stopwatch(net, steps, given)
        self.loss: Loss | None = None
        self.target: np.ndarray | None = None
        self.dy: Any = None
        self.optimizer = SGD(0.0, momentum=0.9)  # the same work at any rate
        self.ends: dict[str, Piece] = {}

    def inference(self) -> None:
        self.watch.begin()
        self.forward(self.x, Context(training=False, keep=False))
        self.watch.finish()

    def step(self) -> None:
        watch = self.watch
        watch.begin()
        y, saved = self.forward(self.x, Context.of_step(self.net, self.rng))
        if self.dy is None:
            self._learn(y)
        if self.loss is not None:
            watch.phase = "loss"
            self.dy = self.loss.with_gradient(y, self.target)[2]
            watch.mark(self.ends["loss"])
        watch.phase = "backward"
        gradients = self.backward(self.dy, saved, False)[1]
        if "update" in self.ends:
            watch.phase = "update"
            self.optimizer.step(self.net.parameters(), gradients)
            watch.mark(self.ends["update"])
        watch.finish()

    def _learn(self, y: Any) -> None:
        """What follows the net's output."""
        self.dy = tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y)
        if not self.net.children():
            return
        if isinstance(y, np.ndarray) and y.ndim:
            classes = y.ndim == 2 and y.shape[1] > 1
            self.loss = Loss("cross_entropy" if classes else "mse_loss")
            self.target = self.rng.integers(0, y.shape[1], len(y)) if classes else np.zeros_like(y)
            work = Work(2 * y.nbytes + self.target.nbytes)
            self.ends["loss"] = Piece("loss", self.loss.name, works={"loss": work})
        size = sum(parameter.nbytes for parameter in self.net.parameters().values())
        if size:  # parameters and momentum, read and written; gradients
            self.ends["update"] = Piece("update", type(self.optimizer).__name__, works={"update": Work(5 * size)})

    def found(self, dtype: str) -> tuple[tuple[Row, ...], tuple[Span, ...]]:
        """The rows, in the plan's order, and the spans, in time's."""
        threads = get_num_threads()
        rows: list[Row] = []
        floors: dict[tuple[Piece, str], float] = {}
        for piece in (*self.watch.pieces, *self.ends.values()):
            for phase, row, work in _rows(piece):
                if work is not None:
                    floor = work.floor(threads, dtype)
                    row = _against_floor(replace(row, moved=work.moved, floor=floor))
                    floors[piece, phase] = floors.get((piece, phase), 0.0) + floor
                rows.append(row)
        spans: list[Span] = []
        start, kept = 0.0, 0
        for piece, phase in self.watch.order:
            turn = piece.turn(phase)
            assert turn is not None
            kept += {"forward": piece.kept, "backward": -piece.kept}.get(phase, 0)
            span = Span(piece.name, piece.kind, phase, start, 1e3 * turn.seconds, floors[piece, phase], kept)
            spans.append(span)
            start += span.milliseconds
        return tuple(rows), tuple(spans)


def _computed(net: Layer, keep: bool) -> tuple[Sequence[Step], Callable[..., Any], Callable[..., Any]]:
    """The steps that a net is computed by, and its forward and backward; keep: that follows."""
    cls = type(net)
    own = next((each for each in cls.__mro__ if LAYERS.get(each.__name__) is each), None)
    if net.is_container and own is not None and (cls.forward, cls.backward) == (own.forward, own.backward):
        plan = plan_of(net, keep=keep)
        plan.holds = lambda net: True  # type: ignore[method-assign]  # a flow of one's own is followed at every call
        return plan.steps, net.forward, net.backward
    step = LayerStep("", (0,), 1, (net,), ())

    def backward(dy: Any, saved: Any, need_dx: bool) -> tuple[Any, Any]:
        (dx,), (gradients,) = step.backward(dy, saved, (need_dx,))
        return dx, gradients

    return [step], lambda x, context: step.call([x], context), backward


def _rows(piece: Piece) -> Iterator[tuple[str, Row, Work | None]]:
    """A row for each pass of a step: the phase that it is of, and what it must do."""
    base = Row(piece.name, piece.kind, piece.output_shape, "", 0.0, kept=piece.kept)
    turns = {phase: turn for phase in piece.turns if (turn := piece.turn(phase)) is not None}
    works = piece.works
    if not any(turn.passes for turn in turns.values()):
        for phase, turn in turns.items():
            work = works["dx"] + works["dw"] if phase == "backward" else works[phase]
            yield phase, replace(base, direction=phase, milliseconds=1e3 * turn.seconds), work
            base = replace(base, kept=0)
        return
    rest = sum(turn.seconds for turn in turns.values())
    for phase, turn in turns.items():
        for direction in dict.fromkeys(found.direction for found in turn.passes):
            run = [found for found in turn.passes if found.direction == direction]
            rest -= sum(found.seconds for found in run)
            work = Work(works.get(direction, Work()).moved, sum(found.flops for found in run))
            yield phase, _convolution(base, direction, run), work
            base = replace(base, kept=0)
    yield phase, replace(base, direction="other", milliseconds=1e3 * rest), None


def _convolution(base: Row, direction: str, run: list[trace.Pass]) -> Row:
    """A row of all passes in one direction of one step."""
    seconds = sum(found.seconds for found in run)
    whole = run[0]._replace(seconds=seconds, flops=sum(found.flops for found in run))
    return replace(
        base,
        direction=direction,
        milliseconds=1e3 * seconds,
        algorithm="+".join(dict.fromkeys(found.algorithm for found in run)),  # phases of a rational stride differ
        workspace=max(found.workspace for found in run),
        gflops=whole.gflops,
        share=whole.share,
    )


def _against_floor(row: Row) -> Row:
    assert row.floor is not None
    return replace(row, floor_share=row.floor / max(row.milliseconds, 1e-6))


def _cells(row: Row) -> tuple[str, ...]:
    """A row's line of the table, by `HEAD`."""
    convolution = row.algorithm is not None
    return (
        row.direction,
        row.algorithm or "",
        f"{row.workspace:,}" if convolution else "",
        f"{row.kept:,}" if row.kept else "",
        f"{row.moved:,}" if row.moved else "",
        f"{row.milliseconds:.3f}",
        f"{row.gflops:.1f}" if row.gflops is not None else "",
        f"{100 * row.share:.0f} %" if row.share is not None else "",
        f"{row.floor:.3f}" if row.floor is not None else "",
        f"{100 * row.floor_share:.0f} %" if row.floor_share is not None else "",
    )
