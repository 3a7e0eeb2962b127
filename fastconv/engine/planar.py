"""The algorithm "planar": few channels are written: columns in the lanes, where channels would leave lanes empty.

    gradient_input     dy, turned into planes, times all taps of a window's row: a product that fills its lanes. What
                       belongs to one column of dx is then added, whatever the stride
    forward            the same with the reversed filters; stride 1

Rows of some images lie one behind the other in a line, so that small images fill vectors too. Lines, and bands of the
axes, are cut by shape, never by thread count. float32, one group.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastconv._ext.conv import direct as tiles
from fastconv._ext.conv import planar
from fastconv.arrays import contiguous
from fastconv.engine import tuning
from fastconv.engine.contract import Direction, Ints, Plan, Problem
from fastconv.engine.phases import ONES
from fastconv.machine import simd
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.window import Window

__all__ = ["cost", "plan"]


class Transposed(NamedTuple):
    """A transposed convolution: x (n, i0, i1, i2, c) is written, y (n, o0, o1, o2, k) is read."""

    y_shape: Ints
    x_shape: Ints
    window: Window

    @property
    def shifted(self) -> bool:
        """Whether the taps of a row are summed at once, out of shifted planes."""
        return (
            self.window.stride[2] == 1
            and self.x_shape[4] > 2
            and self.window.kernel[1] * self.y_shape[4] <= tuning.PLANAR_SHORT_SUM
        )

    @property
    def geometry(self) -> bytes:
        return planar.geometry(self.y_shape, self.x_shape, self.window, self.shifted, _cut(self), simd.SIMD_BYTES)


def cost(direction: Direction, problem: Problem) -> float:
    if problem.window.dilation != ONES and problem.window_elements(direction) > tuning.SCRATCH_ELEMENTS:
        return math.inf
    served = _transposed(direction, problem)
    return tuning.PLANAR_COST if served is not None and _pays(served) else math.inf


def _transposed(direction: Direction, p: Problem) -> Transposed | None:
    """What is to be computed, where it is a transposed convolution of one group."""
    if p.groups > 1 or p.dtype != np.float32:
        return None
    if direction == "gradient_input":
        return Transposed(p.y_shape, p.x_shape, p.window)
    if direction == "forward" and p.window.stride == ONES:  # of the reversed filters
        pairs = zip(p.window.spans, p.window.padding, strict=True)
        around = tuple((span - 1 - before, 0) for span, (before, _) in pairs)
        return Transposed(p.x_shape, p.y_shape, Window(p.window.kernel, ONES, around, p.window.dilation, ONES))
    return None


def _pays(t: Transposed) -> bool:
    channels, filters = t.x_shape[4], t.y_shape[4]
    if not (math.prod(t.x_shape) and math.prod(t.y_shape)):
        return False
    _, lanes = tiles.panels(channels, simd.SIMD_BYTES)
    filled = 8 * channels <= 7 * lanes and channels <= tuning.PLANAR_MOST_CHANNELS
    few = channels < tuning.PLANAR_CHANNELS or (filled and filters >= tuning.PLANAR_FILTERS)
    if 4 * lanes * filters * math.prod(t.window.kernel) > get_workspace_limit() // 2:  # as direct, which it relieves
        return False
    return few and planar.room(t.geometry)[1] <= tuning.SCRATCH_ELEMENTS


def plan(direction: Direction, problem: Problem) -> Plan:
    t = _transposed(direction, problem)
    assert t is not None
    shifted, geometry = t.shifted, t.geometry
    entries, elements, table = planar.room(geometry)
    places = np.empty(entries, np.intp)  # where rows and columns go
    planar.fill_index(geometry, places)
    order = (2, 3, 0, 1, 4) if shifted else (2, 0, 1, 3, 4)

    def run(op: str, threads: int, y: np.ndarray, w: np.ndarray, start: np.ndarray | None, x: np.ndarray) -> None:
        """x = start + the transposed convolution of y with w (k, r0, r1, r2, c)."""
        if start is None:
            start = np.zeros(x.shape[4], x.dtype)
        packed = contiguous(op, w.transpose(order)).reshape(-1)
        scratch = allocate(op, (threads, elements), x.dtype)
        planar.transposed(geometry, y, packed, start, x, places, scratch, np.empty((threads, table), np.intp))

    def forward(op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
        run(op, threads, x, w[:, ::-1, ::-1, ::-1].transpose(4, 1, 2, 3, 0), bias, y)

    def gradient_input(op: str, threads: int, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, bias: None) -> None:
        run(op, threads, dy, w, None, dx)

    images, *bands, _ = _cut(t)
    tasks = -(-t.x_shape[0] // images) * math.prod(bands)
    work = math.prod(t.y_shape) * math.prod(t.window.kernel) * t.x_shape[4]
    most = max(1, min(tasks, get_workspace_limit() // 2 // (4 * elements)))
    return Plan("planar", forward if direction == "forward" else gradient_input, work // 4, most, 4 * elements)


def _cut(t: Transposed) -> Ints:
    """Images of a line, bands of each axis, columns from image to image."""
    y_shape, x_shape, window, shifted = *t, t.shifted
    batch, planes, rows, columns, channels = x_shape
    width, read = -(-columns // window.stride[2]), y_shape[3]  # columns of a line that are written, and read
    lanes = simd.SIMD_BYTES // 4
    kept = (window.spans[0] - 1) // window.stride[0] + 1
    sums = kept * window.kernel[0] * (1 if shifted else window.kernel[2]) * channels  # of a column of a row
    shifts = [(window.padding[2][0] - tap * window.dilation[2]) for tap in range(window.kernel[2])]
    shifts = [-(-shift // window.stride[2]) for shift in shifts]
    left, ahead = max(0, -min(shifts)), max(0, *shifts)

    pitch = max(width, read + max(left, width + ahead - read))
    column_bands, most = 1, max(tuning.PLANAR_SUMS_ELEMENTS // sums, 4 * (left + ahead), 4 * lanes)
    if pitch > most:
        column_bands = -(-width // most)
    elif rows == planes == 1:
        column_bands = max(
            1, min(-(-tuning.TASKS // batch), width // max(tuning.PLANAR_LINE_COLUMNS, 16 * (left + ahead)))
        )
    if column_bands > 1:
        pitch = -(-width // column_bands) + ahead

    images = 1
    if column_bands == 1:
        used = width if shifted else read
        most = max(
            1,
            min(
                tuning.PLANAR_SUMS_ELEMENTS // (sums * pitch),
                tuning.PLANAR_LINE_ELEMENTS // (read * y_shape[4]),
                tuning.PLANAR_LINE_COLUMNS // pitch,
                batch // tuning.PLANAR_LINES,
            ),
        )
        images = max(range(most, 0, -1), key=lambda n: n * used / -(-((n - 1) * pitch + used) // lanes))
    row_bands = -(-rows // max(1, min(rows, tuning.PLANAR_SUMS_ELEMENTS // (sums * images * pitch))))
    lines = -(-batch // images) * column_bands
    while lines * row_bands < tuning.TASKS and rows // row_bands >= 8 * window.spans[1]:
        row_bands *= 2
    plane_bands = 1
    while lines * row_bands * plane_bands < tuning.TASKS and planes // plane_bands >= 8 * window.spans[0]:
        plane_bands *= 2
    return images, plane_bands, row_bands, column_bands, pitch
