"""What runs where: every convolution pass that the kernels do, told to whoever listens.

`FASTCONV_TRACE=1` prints a line a pass to standard error; `fastconv.explain` listens for one net. Nothing is measured
while nobody listens. The passes of an operation are "forward", "dx" and "dw"; FLOPs are those of the direct
convolution, padding taps included, so that algorithms that do fewer can exceed the machine's GEMM rate.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import blas
from fastconv.engine.contract import Direction, Plan, Problem
from fastconv.machine import memory
from fastconv.machine.blas import blas_held
from fastconv.machine.threads import get_num_threads, threads_for

__all__ = ["Pass", "gemm_rate", "is_listening", "listening", "watched"]

GEMM = 1024  # rows, columns and depth of the product that measures the machine
GEMM_RUNS = 10


class Pass(NamedTuple):
    """One pass of one convolution; shapes in logical order, with as many spatial axes as the operation has."""

    op: str
    direction: str  # "forward", "dx" or "dw": of the operation, a transposed one too
    algorithm: str
    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    dtype: np.dtype
    workspace: int  # bytes borrowed besides the result
    seconds: float
    flops: int

    @property
    def gflops(self) -> float:
        """Per second."""
        return self.flops / max(self.seconds, 1e-9) / 1e9

    @property
    def share(self) -> float:
        """Of the GEMM rate of as many cores as threads are set."""
        return self.gflops / (gemm_rate(self.dtype.name) * get_num_threads())

    def line(self) -> str:
        """As FASTCONV_TRACE prints it."""
        x, w, y = ("x".join(map(str, shape)) for shape in (self.x_shape, self.w_shape, self.y_shape))
        return (
            f"fastconv: {self.op} {self.direction} x {x} w {w} y {y} {self.dtype}: {self.algorithm}, "
            f"workspace {self.workspace:,} bytes, {1e3 * self.seconds:.3f} ms, {self.gflops:.1f} GFLOP/s, "
            f"{100 * self.share:.0f} % of GEMM"
        )


Listener = Callable[[Pass], Any]

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """`with listening(f):` f gets every Pass that is run inside."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def is_listening() -> bool:
    """Whether anybody gets passes."""
    return bool(_listeners)


def watched(plan: Plan, direction: Direction, problem: Problem, op: str, *arrays: Any) -> None:
    """Run a plan of the engine's, and tell it to the listeners."""
    if not _listeners:
        plan.run(op, threads_for(plan.work, plan.most), *arrays)
        return
    borrowed = memory.borrowed()
    start = time.perf_counter()
    plan.run(op, plan.threads, *arrays)
    seconds = time.perf_counter() - start
    borrowed = memory.borrowed() - borrowed
    shapes = problem.x_shape, problem.w_shape, problem.y_shape
    x_shape, w_shape, y_shape = (_logical(shape, int(op[-2])) for shape in shapes)
    name = {"forward": "forward", "gradient_input": "dx", "gradient_weights": "dw"}[direction]
    if op.startswith("conv_transpose"):  # it runs a convolution backwards, and its gradient to x is one forwards
        x_shape, y_shape = y_shape, x_shape
        name = {"forward": "dx", "dx": "forward"}.get(name, name)
    flops = 2 * problem.multiply_adds
    found = Pass(op, name, plan.algorithm, x_shape, w_shape, y_shape, problem.dtype, borrowed, seconds, flops)
    for listener in tuple(_listeners):
        listener(found)


def _logical(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """(N, i0, i1, i2, C) as (N, C, *spatial)."""
    return (shape[0], shape[4], *shape[4 - ndim : 4])


@functools.cache
def gemm_rate(dtype: str = "float32") -> float:
    """GFLOP/s of one core in the BLAS that the kernels call: the best of a few products, measured once a process."""
    a = np.full((GEMM, GEMM), 0.5, dtype)
    out = np.empty_like(a)
    seconds = math.inf
    with blas_held:
        for _ in range(GEMM_RUNS):
            start = time.perf_counter()
            blas.matmul(a, a, None, out, GEMM, GEMM, GEMM, 1)
            seconds = min(seconds, time.perf_counter() - start)
    return 2 * GEMM**3 / seconds / 1e9


if os.environ.get("FASTCONV_TRACE", "") not in ("", "0"):
    _listeners.append(lambda found: print(found.line(), file=sys.stderr, flush=True))
