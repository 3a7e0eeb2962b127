"""`fastconv.explain`: which algorithm serves each layer of a net, and how close it comes to the machine's GEMM rate."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fastconv import notebook
from fastconv.analysis.steps import parse_input_shapes
from fastconv.analysis.steps import trace as follow
from fastconv.engine import trace
from fastconv.errors import ShapeError
from fastconv.layers.base import Context, Layer
from fastconv.layers.containers import Sequential
from fastconv.layers.graph import Graph
from fastconv.machine import memory
from fastconv.machine.blas import blas_held
from fastconv.machine.threads import get_num_threads
from fastconv.window import integers

__all__ = ["Explanation", "Row", "explain"]

RUNS = 5  # timed steps; one before them is not


@dataclass(frozen=True)
class Row:
    """One pass of one layer in a training step."""

    layer: str  # its name in the net
    kind: str
    output_shape: tuple[int, ...]
    direction: str  # "forward", "dx", "dw" and "other" (layouts, db) of a convolution; else "forward" and "backward"
    milliseconds: float
    algorithm: str | None = None  # None where no convolution runs, which has no FLOPs either
    workspace: int = 0  # bytes, the most that one of its kernels borrowed besides its result
    gflops: float | None = None  # per second
    share: float | None = None  # of the GEMM rate of all threads


@dataclass(frozen=True)
class Explanation:
    """What `explain` found: `rows`, `as_dict()`, and a table when it is printed."""

    rows: tuple[Row, ...]
    input_shape: tuple[int, ...]
    dtype: str
    threads: int
    gemm: float  # GFLOP/s of one thread
    workspace_limit: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON."""
        return asdict(self)

    def _cells(self) -> list[list[str]]:
        head = ["layer", "", "output", "pass", "algorithm", "workspace", "ms", "GFLOP/s", "of GEMM"]
        cells: list[list[str]] = [head]
        before = None
        for row in self.rows:
            convolution = row.algorithm is not None
            cells.append(
                [
                    *((row.layer, row.kind, "x".join(map(str, row.output_shape))) if row.layer != before else [""] * 3),
                    row.direction,
                    row.algorithm or "",
                    f"{row.workspace:,}" if convolution else "",
                    f"{row.milliseconds:.3f}",
                    f"{row.gflops:.1f}" if row.gflops is not None else "",
                    f"{100 * row.share:.0f} %" if row.share is not None else "",
                ]
            )
            before = row.layer
        total = sum(row.milliseconds for row in self.rows)
        cells.append(["sum", "", "", "", "", "", f"{total:.3f}", "", ""])
        return cells

    @property
    def _head(self) -> str:
        return (
            f"input {'x'.join(map(str, self.input_shape))} {self.dtype}, a training step on {self.threads} threads; "
            f"GEMM {self.gemm:.0f} GFLOP/s a thread; workspace limit {self.workspace_limit:,} bytes"
        )

    def __str__(self) -> str:
        head, *cells = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines = [self._head, ""]
        for line in (head, ["-" * width for width in widths], *cells):
            texts = [
                text.ljust(width) if column < 5 else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(texts).rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return notebook.table(self._cells(), left=5, above=self._head)


def explain(net: Layer, input_shape: Sequence[int]) -> Explanation:
    """Run training steps of `net` on random input of shape (N, C, …) and tell, per layer and pass, what served it.

    The algorithm, the workspace in bytes, milliseconds (medians), GFLOP/s (direct-convolution FLOPs) and their share of
    this machine's GEMM rate: one thread's product in the BLAS that the kernels call, times the threads. Passes are
    those of a training step: nobody asks for the gradient to the net's input. The net is left as it was: its weights,
    running statistics, mode and random generator. A layer that is applied more than once has the sum of its calls.

    Raises ShapeError for a shape that the net cannot take, TypeError for what is no net.
    """
    if not isinstance(net, Layer):
        raise TypeError(f"explain: net must be a layer or a net, got {net!r}")
    if isinstance(net, Graph) and len(net.inputs) != 1:
        shapes = parse_input_shapes("explain", net, input_shape)
    else:
        shapes = (integers("explain", "input_shape", input_shape, len(tuple(input_shape)), 1),)
    twin = _twin(net)
    rng = np.random.default_rng(0)
    dtype = np.dtype(twin.dtype or np.float32)
    kinds = twin.input_types(dtype) if isinstance(twin, Graph) else (dtype,)
    given = tuple(rng.standard_normal(shape).astype(kind) for shape, kind in zip(shapes, kinds, strict=True))
    x: Any = given if len(given) != 1 else given[0]
    recorder = _Recorder(twin)
    with blas_held(), trace.listening(recorder.listen):
        for _ in range(1 + RUNS):
            recorder.begin()
            try:
                y, saved = twin.forward(x, Context.of_step(twin, rng))
            except ShapeError:
                follow("explain", net, input_shape)  # says it where only the batch axis is missing
                raise
            twin.backward(tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y), saved, False)
    return Explanation(
        tuple(recorder.rows()), shapes[0], dtype.name, get_num_threads(), trace.gemm_rate(dtype.name),
        memory.get_workspace_limit(),
    )  # fmt: skip


def _twin(net: Layer) -> Layer:
    """A copy that shares the parameters, which a step does not change, and has buffers of its own."""
    shared = [getattr(layer, name) for _, layer, name in net.named_arrays(buffers=False)]
    return copy.deepcopy(net, {id(array): array for array in shared})


class _Step:
    """What one step spent: by (layer, pass) seconds, and by layer and pass the convolutions in it."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = {}
        self.passes: dict[tuple[str, str], list[trace.Pass]] = {}


class _Recorder:
    """Wraps the layers of a net, so that each notes its own time: that of the layers inside is theirs."""

    def __init__(self, net: Layer) -> None:
        self._steps: list[_Step] = []
        self._inside: list[list[Any]] = []  # of the calls under way: [layer's name, seconds of the layers inside]
        self._kinds: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        seen: set[int] = set()
        for name, layer in net.walk():
            if id(layer) not in seen:
                seen.add(id(layer))
                self._kinds[name] = getattr(layer, "kind", type(layer).__name__)
                for direction in ("forward", "backward"):
                    setattr(layer, direction, self._timed(name, direction, getattr(layer, direction)))

    def _timed(self, name: str, direction: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._inside.append([name, 0.0])
            start = time.perf_counter()
            result = method(*arguments)
            seconds = time.perf_counter() - start
            _, inside = self._inside.pop()
            spent = self._steps[-1].seconds
            spent[name, direction] = spent.get((name, direction), 0.0) + seconds - inside
            if self._inside:
                self._inside[-1][1] += seconds
            if direction == "forward":
                y = result[0]
                self._shapes[name] = (y[0] if isinstance(y, tuple) else y).shape
            return result

        return call

    def begin(self) -> None:
        self._steps.append(_Step())

    def listen(self, found: trace.Pass) -> None:
        if self._inside:  # else another thread's
            self._steps[-1].passes.setdefault((self._inside[-1][0], found.direction), []).append(found)

    def rows(self) -> Iterator[Row]:
        """In the net's order; the first step warmed up and does not count."""
        for name, kind in self._kinds.items():
            if kind == Sequential.__name__ or name not in self._shapes:
                continue
            base = Row(name, kind, self._shapes[name], "", 0.0)
            others = [
                sum(step.seconds.get((name, way), 0.0) for way in ("forward", "backward")) for step in self._steps
            ]
            convolution = False
            for direction in ("forward", "dx", "dw"):
                runs = [step.passes.get((name, direction), []) for step in self._steps]
                if runs[0]:
                    convolution = True
                    yield _convolution(base, direction, runs[1:])
                    others = [other - sum(p.seconds for p in run) for other, run in zip(others, runs, strict=True)]
            if convolution:
                yield replace(base, direction="other", milliseconds=1e3 * statistics.median(others[1:]))
                continue
            for direction in ("forward", "backward"):
                if (name, direction) in self._steps[0].seconds:
                    spent = statistics.median(step.seconds[name, direction] for step in self._steps[1:])
                    yield replace(base, direction=direction, milliseconds=1e3 * spent)


def _convolution(base: Row, direction: str, runs: list[list[trace.Pass]]) -> Row:
    """A row of all passes in one direction of one layer."""
    seconds = statistics.median(sum(found.seconds for found in run) for run in runs)
    whole = runs[0][0]._replace(seconds=seconds, flops=sum(found.flops for found in runs[0]))
    return replace(
        base,
        direction=direction,
        milliseconds=1e3 * seconds,
        algorithm="+".join(dict.fromkeys(found.algorithm for found in runs[0])),  # phases of a rational stride differ
        workspace=max(found.workspace for found in runs[0]),
        gflops=whole.gflops,
        share=whole.share,
    )
