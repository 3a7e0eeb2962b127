"""Not many channels are read: short sums, whose set-up must cost nothing; a part of "direct".

    forward            tiles of neighbouring pixels times filters; y, the largest array by far, is written past the
                       caches where they cannot hold it
    gradient_weights   tiles of up to 28 taps times a vector of filters: dy is read once for most windows of a pixel

The bands that work is cut into, and the chunks of bands whose gradients are added in order, are cut by shape, never by
thread count.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import narrow
from fastconv.engine.phases import ONES
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

__all__ = ["forward", "gradient_weights", "serves_forward", "serves_weights"]

Ints = tuple[int, ...]

FEW = 8  # channels: tables of pixels would take as long as the sums
FILTERS = 5  # at least, for vectors of 8
MOST = 128  # channels that are read
WIDE = 16  # filters that more than FEW channels pay for: fewer are engine.planar's
WEIGHTS = 1 << 15  # whose gradients are added by one thread
SCRATCH = 1 << 16  # elements of what a band's windows see, about: a quarter of a core's L2
PIXELS = 448  # of a band
TASKS = 16  # pieces that a layer is cut into where its size allows
CHUNK_PIXELS = 1 << 10  # at least, whose gradients are summed apart
LONG_CHUNK = 1 << 16  # pixels: longer sums lose digits
LINE = 16  # elements of a cache line
FAR = 4 << 20  # bytes of y that no cache is asked to hold


class Plan(NamedTuple):
    """How a convolution is cut, and the room that it needs (`_ext.narrow.room`)."""

    geometry: bytes
    at: np.ndarray
    work: int  # multiplications
    tasks: int
    chunks: int  # of the gradient
    far: bool
    forward_elements: int
    gradient_elements: int
    packed: int
    partial: int


def serves_forward(x_shape: Ints, y_shape: Ints, window: Window) -> bool:
    """Whether x (n, i0, i1, i2, c) has few enough channels, and y (n, o0, o1, o2, k) leaves few lanes empty."""
    channels, filters = x_shape[4], y_shape[4]
    pays = filters >= FILTERS if channels <= FEW else channels <= MOST and filters >= WIDE and window.kernel != ONES
    return pays and _fits(x_shape, y_shape, window)


def serves_weights(x_shape: Ints, y_shape: Ints, window: Window) -> bool:
    """Whether x has few channels, or there are few weights whose gradients are to be added and registers for 28."""
    weights = y_shape[4] * math.prod(window.kernel) * x_shape[4]
    pays = x_shape[4] <= FEW or (weights <= WEIGHTS and window.kernel != ONES and runtime.SIMD_BYTES == 64)
    return pays and _fits(x_shape, y_shape, window)


def _fits(x_shape: Ints, y_shape: Ints, window: Window) -> bool:
    if 0 in x_shape or 0 in y_shape:
        return False
    return _plan(x_shape, y_shape, window, runtime.SIMD_BYTES).forward_elements <= 2 * SCRATCH


def forward(op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window) -> None:
    """Fill y (N, o0, o1, o2, K)."""
    plan = _plan(x.shape, y.shape, window, runtime.SIMD_BYTES)
    threads = _threads(plan, plan.tasks)
    scratch = allocate(op, (LINE + plan.packed + threads * plan.forward_elements,), x.dtype)
    narrow.forward(plan.geometry, plan.at, x, w, bias, y, scratch, threads, plan.far)


def gradient_weights(
    op: str, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, db: np.ndarray | None = None
) -> None:
    """Fill dw (K, r0, r1, r2, C), and db (K,) if it is wanted: dy is read once for both."""
    plan = _plan(x.shape, dy.shape, window, runtime.SIMD_BYTES)
    chunks = max(1, min(plan.chunks, get_workspace_limit() // 2 // (4 * plan.partial)))
    threads = _threads(plan, chunks)
    scratch = allocate(op, (LINE + chunks * plan.partial + threads * plan.gradient_elements,), x.dtype)
    narrow.gradient_weights(plan.geometry, plan.at, x, dy, dw, db, scratch, chunks, threads)


def _threads(plan: Plan, tasks: int) -> int:
    affordable = get_workspace_limit() // 2 // (4 * plan.gradient_elements)
    return max(1, min(runtime.threads_for(plan.work // 4), tasks, affordable))


@lru_cache(maxsize=256)
def _plan(x_shape: Ints, y_shape: Ints, window: Window, widest: int) -> Plan:
    batch, *out, filters = y_shape
    cut = _cut(batch, x_shape[4], tuple(out), window)
    geometry = narrow.geometry(x_shape, y_shape, window, cut, widest)
    taps = math.prod(window.kernel) * x_shape[4]
    at = np.empty(taps + 1, np.intp)
    narrow.offsets(geometry, at)
    bands, pixels = batch * out[0] * math.prod(cut), batch * math.prod(out)
    chunks = min(bands, max(TASKS, pixels // LONG_CHUNK), max(1, pixels // CHUNK_PIXELS))
    far = 4 * pixels * filters >= FAR
    return Plan(geometry, at, pixels * filters * taps, bands, chunks, far, *narrow.room(geometry))


def _cut(batch: int, channels: int, out: Ints, window: Window) -> tuple[int, int]:
    """Bands of rows, bands of columns: PIXELS and SCRATCH each at most, TASKS in all where that leaves long ones."""
    planes, rows, columns = out

    def fits(row_bands: int, column_bands: int) -> bool:
        lengths = -(-rows // row_bands), -(-columns // column_bands)
        seen = [(n - 1) * window.stride[i] + window.spans[i] for i, n in enumerate(lengths, 1)]
        return math.prod(lengths) <= PIXELS and channels * window.kernel[0] * math.prod(seen) <= SCRATCH

    column_bands = max(1, columns // PIXELS)
    row_bands = max(1, min(rows, rows * -(-columns // column_bands) // PIXELS))
    while row_bands < rows and not fits(row_bands, column_bands):
        row_bands += 1
    while column_bands < columns and not fits(row_bands, column_bands):
        column_bands += 1
    whole = batch * planes
    while whole * row_bands * column_bands < TASKS and rows // row_bands >= 8 * window.spans[1]:
        row_bands *= 2
    while whole * row_bands * column_bands < TASKS and columns // column_bands >= 8 * max(14, window.spans[2]):
        column_bands *= 2
    return row_bands, column_bands
