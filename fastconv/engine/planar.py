"""Few channels are written: columns in the lanes, where channels would leave lanes empty; a part of "direct".

    gradient_input     dy, turned into planes, times all taps of a window's row: a product that fills its lanes. What
                       belongs to one column of dx is then added, whatever the stride
    forward            the same with the reversed filters; stride 1

Rows of some images lie one behind the other in a line, so that small images fill vectors too. Lines, and bands of the
axes, are cut by shape, never by thread count.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import direct, planar
from fastconv.engine.phases import ONES
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

__all__ = ["forward", "forward_window", "gradient_input", "serves"]

Ints = tuple[int, ...]

FEW = 8  # channels: fewer pay for planes even if only few are read
WIDE = 16  # channels that are read pay for planes if at least an eighth of the lanes stays empty otherwise
MOST = 24  # channels that are written
SCRATCH = 1 << 20  # elements of a thread's, at most
SUMS = 40 << 10  # elements: of the sums of a task, most of its scratch
SHORT = 24  # terms of a sum over the filters and the rows of a window: up to so many, all taps are summed at once
TASKS = 16  # pieces that a layer is cut into where its size allows
LINES = 8  # of a batch, at least
LINE = 1536  # elements of y in a line of several images: the next row of one image alone is better fetched ahead
COLUMNS = 256  # of a line of several images


class Plan(NamedTuple):
    """A transposed convolution's geometry, its tables and the room that it needs (`_ext.planar`)."""

    geometry: bytes
    shifted: bool
    places: np.ndarray  # where rows and columns go
    work: int  # multiplications
    tasks: int
    elements: int
    entries: int


def serves(y_shape: Ints, x_shape: Ints, window: Window) -> bool:
    """Whether planes pay: x (n, i0, i1, i2, c) of one group is written, y (n, o0, o1, o2, k) is read."""
    channels, filters = x_shape[4], y_shape[4]
    if not (math.prod(x_shape) and math.prod(y_shape)):
        return False
    _, lanes = direct.panels(channels, runtime.SIMD_BYTES)
    filled = 8 * channels <= 7 * lanes and channels <= MOST
    return (channels < FEW or (filled and filters >= WIDE)) and _plan(y_shape, x_shape, window).elements <= SCRATCH


@lru_cache(maxsize=256)
def forward_window(window: Window) -> Window:
    """The window whose transposed convolution, with reversed filters, is the convolution; stride 1."""
    around = tuple((span - 1 - before, 0) for span, (before, _) in zip(window.spans, window.padding, strict=True))
    return Window(window.kernel, ONES, around, window.dilation, ONES)


def forward(op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window) -> None:
    """Fill y (N, o0, o1, o2, K)."""
    start = np.zeros(w.shape[0], w.dtype) if bias is None else np.ascontiguousarray(bias)
    _transposed(op, x, w[:, ::-1, ::-1, ::-1].transpose(4, 1, 2, 3, 0), start, y, forward_window(window))


def gradient_input(op: str, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, window: Window) -> None:
    """Fill dx (N, i0, i1, i2, C)."""
    _transposed(op, dy, w, np.zeros(w.shape[4], w.dtype), dx, window)


def _transposed(op: str, y: np.ndarray, w: np.ndarray, start: np.ndarray, x: np.ndarray, window: Window) -> None:
    """x = start + the transposed convolution of y (n, o0, o1, o2, k) with w (k, r0, r1, r2, c)."""
    plan = _plan(y.shape, x.shape, window)
    packed = np.ascontiguousarray(w.transpose((2, 3, 0, 1, 4) if plan.shifted else (2, 0, 1, 3, 4))).reshape(-1)
    affordable = get_workspace_limit() // 2 // (4 * plan.elements)
    threads = max(1, min(runtime.threads_for(plan.work // 4), plan.tasks, affordable))
    scratch = allocate(op, (threads, plan.elements), x.dtype)
    tables = np.empty((threads, plan.entries), np.intp)
    planar.transposed(plan.geometry, y, packed, start, x, plan.places, scratch, tables)


@lru_cache(maxsize=256)
def _plan(y_shape: Ints, x_shape: Ints, window: Window) -> Plan:
    shifted = window.stride[2] == 1 and x_shape[4] > 2 and window.kernel[1] * y_shape[4] <= SHORT
    cut = _cut(y_shape, x_shape, window, shifted)
    geometry = planar.geometry(y_shape, x_shape, window, shifted, cut, runtime.SIMD_BYTES)
    entries, *rest = planar.room(geometry)
    places = np.empty(entries, np.intp)
    planar.fill_index(geometry, places)
    images, *bands, _ = cut
    tasks = -(-x_shape[0] // images) * math.prod(bands)
    work = math.prod(y_shape) * math.prod(window.kernel) * x_shape[4]
    return Plan(geometry, shifted, places, work, tasks, *rest)


def _cut(y_shape: Ints, x_shape: Ints, window: Window, shifted: bool) -> Ints:
    """Images of a line, bands of each axis, columns from image to image."""
    batch, planes, rows, columns, channels = x_shape
    width, read = -(-columns // window.stride[2]), y_shape[3]  # columns of a line that are written, and read
    lanes = runtime.SIMD_BYTES // 4
    kept = (window.spans[0] - 1) // window.stride[0] + 1
    sums = kept * window.kernel[0] * (1 if shifted else window.kernel[2]) * channels  # of a column of a row
    shifts = [(window.padding[2][0] - tap * window.dilation[2]) for tap in range(window.kernel[2])]
    shifts = [-(-shift // window.stride[2]) for shift in shifts]
    left, ahead = max(0, -min(shifts)), max(0, *shifts)

    pitch = max(width, read + max(left, width + ahead - read))
    column_bands, most = 1, max(SUMS // sums, 4 * (left + ahead), 4 * lanes)
    if pitch > most:
        column_bands = -(-width // most)
    elif rows == planes == 1:
        column_bands = max(1, min(-(-TASKS // batch), width // max(COLUMNS, 16 * (left + ahead))))
    if column_bands > 1:
        pitch = -(-width // column_bands) + ahead

    images = 1
    if column_bands == 1:
        used = width if shifted else read
        most = max(1, min(SUMS // (sums * pitch), LINE // (read * y_shape[4]), COLUMNS // pitch, batch // LINES))
        images = max(range(most, 0, -1), key=lambda n: n * used / -(-((n - 1) * pitch + used) // lanes))
    row_bands = -(-rows // max(1, min(rows, SUMS // (sums * images * pitch))))
    lines = -(-batch // images) * column_bands
    while lines * row_bands < TASKS and rows // row_bands >= 8 * window.spans[1]:
        row_bands *= 2
    plane_bands = 1
    while lines * row_bands * plane_bands < TASKS and planes // plane_bands >= 8 * window.spans[0]:
        plane_bands *= 2
    return images, plane_bands, row_bands, column_bands, pitch
