"""The algorithm "narrow": not many channels are read: short sums, whose set-up must cost nothing; float32, one group.

    forward            tiles of neighbouring pixels times filters; y, the largest array by far, is written past the
                       caches where they cannot hold it
    gradient_weights   tiles of up to 28 taps times a vector of filters: dy is read once for most windows of a pixel,
                       and for db

The bands that work is cut into, and the chunks of bands whose gradients are added in order, are cut by shape, never by
thread count.
"""

from __future__ import annotations

import math

import numpy as np

from fastconv._ext.conv import narrow
from fastconv.engine import direct, tuning
from fastconv.engine.contract import Direction, Ints, Plan, Problem, fewest
from fastconv.engine.phases import ONES
from fastconv.machine import simd
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.window import Window

__all__ = ["cost", "plan"]

LINE = narrow.LINE_FLOATS


def cost(direction: Direction, problem: Problem) -> float:
    """As direct's, which it serves better: there is no table of pixels and no prologue."""
    return direct.cost(direction, problem) if _serves(direction, problem) else math.inf


def _serves(direction: Direction, p: Problem) -> bool:
    """Forward few enough channels are read and few lanes stay empty; for the gradient to the weights few channels are
    read, or there are few weights whose gradients are to be added and registers for 28 of them."""
    if p.groups > 1 or p.dtype != np.float32 or not p.multiply_adds * math.prod(p.inputs):
        return False
    if direction == "forward":
        few = (
            p.channels <= tuning.NARROW_MOST_CHANNELS
            and p.filters >= tuning.NARROW_WIDE_FILTERS
            and p.window.kernel != ONES
        )
        pays = p.filters >= tuning.NARROW_FILTERS if p.channels <= tuning.NARROW_CHANNELS else few
    elif direction == "gradient_weights":
        few = math.prod(p.w_shape) <= tuning.NARROW_WEIGHTS and p.window.kernel != ONES and simd.SIMD_BYTES == 64
        pays = p.channels <= tuning.NARROW_CHANNELS or few
    else:
        return False
    return pays and narrow.room(_geometry(p))[0] <= 2 * tuning.NARROW_BAND_ELEMENTS


def _geometry(p: Problem) -> bytes:
    cut = _cut(p.batch, p.channels, p.outputs, p.window)
    return narrow.geometry(p.x_shape, p.y_shape, p.window, cut, simd.SIMD_BYTES)


def plan(direction: Direction, problem: Problem) -> Plan:
    p, room = problem, get_workspace_limit() // 2
    geometry = _geometry(p)
    forward_elements, gradient_elements, packed, partial = narrow.room(geometry)
    at = np.empty(math.prod(p.window.kernel) * p.channels + 1, np.intp)
    narrow.offsets(geometry, at)
    far = 4 * p.pixels * p.filters >= tuning.NON_TEMPORAL_BYTES
    bands = p.batch * p.outputs[0] * math.prod(_cut(p.batch, p.channels, p.outputs, p.window))
    chunks = min(
        bands, max(tuning.TASKS, p.pixels // tuning.LONGEST_SUM_PIXELS), max(1, p.pixels // tuning.NARROW_CHUNK_PIXELS)
    )
    chunks = max(1, min(chunks, room // (4 * partial)))

    def forward(op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
        scratch = allocate(op, (LINE + packed + threads * forward_elements,), p.dtype)
        narrow.forward(geometry, at, x, w, bias, y, scratch, threads, far)

    def gradient_weights(
        op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: np.ndarray | None
    ) -> None:
        scratch = allocate(op, (LINE + chunks * partial + threads * gradient_elements,), p.dtype)
        narrow.gradient_weights(geometry, at, x, dy, dw, db, scratch, chunks, threads)

    work, most = p.multiply_adds // 4, room // (4 * gradient_elements)
    if direction == "forward":
        return Plan("narrow", forward, work, max(1, min(bands, most)), 4 * forward_elements, 4 * (LINE + packed))
    shared = 4 * (LINE + chunks * partial)
    return Plan(
        "narrow", gradient_weights, work, max(1, min(chunks, most)), 4 * gradient_elements, shared, frozenset({"sums"})
    )


def _cut(batch: int, channels: int, out: Ints, window: Window) -> tuple[int, int]:
    """Bands of rows, bands of columns: BAND_PIXELS and NARROW_BAND_ELEMENTS each at most, TASKS in all where that
    leaves long ones."""
    planes, rows, columns = out

    def fits(row_bands: int, column_bands: int) -> bool:
        lengths = -(-rows // row_bands), -(-columns // column_bands)
        seen = [(n - 1) * window.stride[i] + window.spans[i] for i, n in enumerate(lengths, 1)]
        return (
            math.prod(lengths) <= tuning.BAND_PIXELS
            and channels * window.kernel[0] * math.prod(seen) <= tuning.NARROW_BAND_ELEMENTS
        )

    column_bands = max(1, columns // tuning.BAND_PIXELS)
    row_bands = max(1, min(rows, rows * -(-columns // column_bands) // tuning.BAND_PIXELS))
    row_bands = fewest(row_bands, rows, lambda bands: fits(bands, column_bands))
    column_bands = fewest(column_bands, max(columns, column_bands), lambda bands: fits(row_bands, bands))
    whole = batch * planes
    while whole * row_bands * column_bands < tuning.TASKS and rows // row_bands >= 8 * window.spans[1]:
        row_bands *= 2
    while whole * row_bands * column_bands < tuning.TASKS and columns // column_bands >= 8 * max(14, window.spans[2]):
        column_bands *= 2
    return row_bands, column_bands
