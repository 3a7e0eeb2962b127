"""The algorithm "direct": register tiles of pixels times filters that read the input where it lies; float32.

    forward            a tile's sums run over all taps of its pixels' windows; no column is ever stored
    gradient_input     a convolution of dy with the reversed filters; for strides, one per phase (engine.phases)
    gradient_weights   a tile of taps times filters; its sums run over the pixels of a band

Few channels to write would leave lanes empty: engine.planar then has the columns in the lanes. Where not many are read,
engine.narrow does without tables of pixels.

Bands whose windows see beyond the border are copied into a small padded scratch first. Weights are packed once a call.
Bands, and the chunks of bands whose gradients are added in order, are cut by shape, never by thread count.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import direct
from fastconv.arrays import add_bias
from fastconv.engine import narrow, planar
from fastconv.engine.phases import ONES, phases
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

if TYPE_CHECKING:
    from fastconv.engine import Problem

__all__ = ["cost", "forward", "gradient_input", "gradient_weights", "serves", "sums_outputs"]

Ints = tuple[int, ...]
Cut = tuple[int, int, int]  # images of a band, bands of rows, bands of columns

BAND_BYTES = 256 << 10  # of what a band's windows see: a quarter of a core's L2
FORWARD_PIXELS = 448  # of a band
GRADIENT_PIXELS = 448
IMAGE_PIXELS = 112  # small images are joined until a band has so many
TASKS = 16  # pieces that a layer is cut into where its size allows: enough for the threads of one socket
LONG_CHUNK = 1 << 16  # pixels: longer sums lose digits
CHUNK_PIXELS = 256  # at least, whose gradients are summed apart
CHUNK_COST = 12  # of an element of their sum, in elements of x that are read once more
MOST_LANES = 32  # of a panel
COLUMNS_COST = 1.25  # engine.planar's, which also turns what it reads
FEW = 8  # taps of a run that are taken one by one
FAR = 4 << 20  # bytes of y, from which on it is written past the caches
LINE = 16  # floats of a cache line
AHEAD = 16  # pixels behind a band's last in its tables
EVERYTHING = (slice(None),) * 3


def serves(direction: str, problem: Problem) -> bool:
    """float32, as long as the packed weights take half of the workspace limit at most, and what one window spans, the
    gaps of its dilation included, a band's share: where it reaches beyond the border that is copied."""
    if problem.dtype != np.float32 or _packed_bytes(direction, problem) > get_workspace_limit() // 2:
        return False
    window = problem.window
    channels, spans = problem.channels, _seen((1, 1, 1), window)
    if direction == "gradient_input":
        channels = problem.filters
        spans = tuple(-(-span // stride) for span, stride in zip(spans, window.stride, strict=True))
    return window.dilation == ONES or 4 * channels * math.prod(spans) <= BAND_BYTES


def cost(direction: str, problem: Problem) -> float:
    """Multiplications over those of the definition: lanes without a filter, and the gradient to the input meets every
    tap once an input, also where no output lies. With the columns in the lanes neither is lost."""
    if _in_columns(direction, problem):
        return COLUMNS_COST
    filters = (problem.channels if direction == "gradient_input" else problem.filters) // problem.groups
    lanes = direct.panels(filters, runtime.SIMD_BYTES)[1] / filters
    if direction != "gradient_input":
        return lanes
    inputs = math.prod(-(-n // stride) for n, stride in zip(problem.inputs, problem.window.stride, strict=True))
    return lanes * max(1.0, inputs / max(1, math.prod(problem.outputs)))


def _in_columns(direction: str, problem: Problem) -> tuple[Ints, Ints, Window] | None:
    """The shapes that are read and written, and the window, where engine.planar serves."""
    x = (problem.batch, *problem.inputs, problem.channels)
    y = (problem.batch, *problem.outputs, problem.filters)
    served = None
    if direction == "gradient_input":
        served = y, x, problem.window
    elif direction == "forward" and problem.window.stride == ONES:
        served = x, y, planar.forward_window(problem.window)
    return served if served and problem.groups == 1 and planar.serves(*served) else None


def _packed_bytes(direction: str, problem: Problem) -> int:
    filters, channels = problem.filters, problem.channels
    if direction == "gradient_input":
        filters, channels = channels, filters
    return 4 * packed_size(problem.groups, filters, channels, problem.window.kernel)


def _affordable_threads(nbytes: int) -> int:
    """Threads with so many bytes each in the half of the workspace limit that weights leave."""
    return max(1, get_workspace_limit() // 2 // nbytes)


def packed_size(groups: int, filters: int, channels: int, kernel: Ints) -> int:
    """Elements of packed weights, zeros included."""
    _, lanes = direct.panels(filters // groups, runtime.SIMD_BYTES)
    return groups * lanes * (channels // groups) * math.prod(kernel)


def forward(
    op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window, groups: int
) -> None:
    """Fill y."""
    if not y.size:
        return
    if groups == 1 and narrow.serves_forward(x.shape, y.shape, window):
        narrow.forward(op, x, w, bias, y, window)
        return
    if groups == 1 and window.stride == ONES and planar.serves(x.shape, y.shape, planar.forward_window(window)):
        planar.forward(op, x, w, bias, y, window)
        return
    filters, *kernel, depth = w.shape
    if _pixelwise(window, x, y):  # one long row
        x, y = x.reshape(1, 1, 1, -1, x.shape[4]), y.reshape(1, 1, 1, -1, y.shape[4])
    plan = _plan(x.shape, y.shape, window, groups, False, runtime.SIMD_BYTES)
    _convolve(op, x, w.reshape(groups, filters // groups, *kernel, depth), _start(bias, filters, groups), y, plan)


def gradient_input(
    op: str, dy: np.ndarray, w: np.ndarray, x_shape: Ints, window: Window, groups: int, bias: np.ndarray | None = None
) -> np.ndarray:
    """dx (N, i0, i1, i2, C), and a bias (C,)."""
    dx = allocate(op, x_shape, dy.dtype)
    if not dx.size:
        return dx
    if groups == 1 and planar.serves(dy.shape, x_shape, window):
        planar.gradient_input(op, dy, w, dx, window)
        if bias is not None:
            add_bias(dx, bias)
        return dx
    filters, *kernel, depth = w.shape
    turned = w[:, ::-1, ::-1, ::-1, :].reshape(groups, filters // groups, *kernel, depth).transpose(0, 5, 2, 3, 4, 1)
    x = dx
    if _pixelwise(window, dy, dx):
        dy, x = dy.reshape(1, 1, 1, -1, dy.shape[4]), dx.reshape(1, 1, 1, -1, x_shape[4])
    plan = _plan(dy.shape, x.shape, window, groups, True, runtime.SIMD_BYTES)
    if plan.outputs < x.size // x_shape[4]:
        x[...] = 0 if bias is None else bias  # inputs that no window sees
    _convolve(op, dy, turned, _start(bias, x_shape[4], groups), x, plan)
    return dx


def sums_outputs(x_shape: Ints, y_shape: Ints, window: Window, groups: int) -> bool:
    """Whether `gradient_weights` fills db as well."""
    return groups == 1 and narrow.serves_weights(x_shape, y_shape, window)


def gradient_weights(
    op: str, x: np.ndarray, dy: np.ndarray, w_shape: Ints, window: Window, groups: int, db: np.ndarray | None = None
) -> np.ndarray:
    """dw (K, r0, r1, r2, C / groups); db (K,), which only may be given where `sums_outputs` says so, is filled."""
    dw = allocate(op, w_shape, dy.dtype)
    if not dy.size:
        dw[...] = 0
        return dw
    if groups == 1 and narrow.serves_weights(x.shape, dy.shape, window):
        narrow.gradient_weights(op, x, dy, dw, window, db)
        return dw
    if _pixelwise(window, x, dy):
        x, dy = x.reshape(1, 1, 1, -1, x.shape[4]), dy.reshape(1, 1, 1, -1, dy.shape[4])
    filters = w_shape[0]
    size = packed_size(groups, filters, x.shape[4], window.kernel)
    panels = groups * direct.panels(filters // groups, runtime.SIMD_BYTES)[0]
    depth = x.shape[4] if math.prod(window.kernel) > 1 else 0  # one tap: what a band sees is read once a panel
    cut = _cut(dy.shape[0], depth, dy.shape[1:4], window, GRADIENT_PIXELS, 1)
    bands, pixels = _bands(dy.shape, cut), math.prod(dy.shape[:4])
    chunks, splits = _pieces(pixels, bands, panels, size, x.size, get_workspace_limit())
    partial = allocate(op, (chunks, size), dy.dtype)
    elements, entries = _room(x.shape[4], dy.shape[1:4], window, cut)
    scratch, tables = _buffers(op, elements, entries, chunks * splits, dy.size * dw[0].size)
    direct.gradient_weights(x, dy, partial, window, groups, cut, splits, scratch, tables, runtime.SIMD_BYTES)
    threads = runtime.threads_for(partial.nbytes)
    direct.unpack(partial, dw.reshape(groups, filters // groups, -1), runtime.SIMD_BYTES, threads)
    return dw


def _pixelwise(window: Window, x: np.ndarray, y: np.ndarray) -> bool:
    """Whether every output has one input, at its own place (a transposed convolution's padding may shift them)."""
    same = x.shape[:4] == y.shape[:4] and not any(map(any, window.padding))
    return window.kernel == window.stride == ONES and same


class Plan(NamedTuple):
    """Convolutions of one x to outputs of their own, and what they take."""

    parts: direct.Parts
    outputs: int  # pixels that they fill
    tasks: int
    multiply_adds: int
    scratch: int  # elements a thread
    tables: int


@lru_cache(maxsize=1024)
def _plan(x_shape: Ints, y_shape: Ints, window: Window, groups: int, reversed: bool, widest: int) -> Plan:
    """The window's convolution from x to y; reversed: the gradient to its input, with dy for x, phase by phase."""
    if reversed:
        around = tuple((span - 1 - before, 0) for span, (before, _) in zip(window.spans, window.padding, strict=True))
        phased = phases(Window(window.kernel, ONES, around, window.dilation, window.stride), y_shape[1:4])
        each = [(part.outputs[1:], part.taps[1:], part.window) for part in phased]
    else:
        each = [(EVERYTHING, EVERYTHING, window)]
    panels, lanes = direct.panels(y_shape[4] // groups, widest)
    parts, total, tasks, multiply_adds, scratch, tables = [], 0, 0, 0, 0, 0
    for outputs, taps, part in each:
        out = tuple(len(range(*along.indices(n))) for along, n in zip(outputs, y_shape[1:4], strict=True))
        cut = _cut(y_shape[0], x_shape[4], out, part, FORWARD_PIXELS, -(-TASKS // len(each)))
        bands = _bands((y_shape[0], *out), cut)
        splits = max(1, min(groups * panels, TASKS // len(each) // bands))
        parts.append((part, outputs, taps, cut, splits))
        tasks += bands * splits
        pixels = y_shape[0] * math.prod(out)
        total += pixels
        multiply_adds += pixels * lanes * x_shape[4] * math.prod(part.kernel)
        floats, entries = _room(x_shape[4], out, part, cut)
        scratch, tables = max(scratch, floats), max(tables, entries)
    made = direct.Parts(x_shape, y_shape, groups, tuple(parts), window.kernel, widest)
    return Plan(made, total, tasks, multiply_adds, scratch, tables)


def _convolve(op: str, x: np.ndarray, w: np.ndarray, start: np.ndarray, y: np.ndarray, plan: Plan) -> None:
    """Fill the plan's outputs of y; w (groups, filters, r0, r1, r2, channels), any strides."""
    if not plan.tasks:
        return
    packed = allocate(op, (plan.parts.size,), w.dtype)
    direct.pack_parts(w, packed, plan.parts, runtime.SIMD_BYTES, runtime.threads_for(packed.nbytes))
    scratch, tables = _buffers(op, plan.scratch, plan.tables, plan.tasks, plan.multiply_adds)
    direct.forward(x, packed, start, y, plan.parts, scratch, tables, y.nbytes >= FAR, runtime.SIMD_BYTES)


def _start(bias: np.ndarray | None, filters: int, groups: int) -> np.ndarray:
    """A bias, or zeros, packed as weights are."""
    if bias is None:
        return np.zeros(packed_size(groups, filters, groups, ONES), np.float32)
    start = np.empty(packed_size(groups, filters, groups, ONES), np.float32)
    direct.pack(bias.reshape(groups, -1, 1, 1, 1, 1), start, runtime.SIMD_BYTES, 1)
    return start


def _seen(lengths: Ints, window: Window) -> Ints:
    """Input elements that so many outputs along each axis see; of planes, one output's."""
    _, rows, columns = lengths
    spans = window.spans
    return (
        window.kernel[0],
        (rows - 1) * window.stride[1] + spans[1],
        (columns - 1) * window.stride[2] + spans[2],
    )


@lru_cache(maxsize=1024)
def _cut(batch: int, channels: int, out: Ints, window: Window, pixels: int, tasks: int) -> Cut:
    """Images of a band, bands of rows, bands of columns: at most `pixels` and about BAND_BYTES each, `tasks` in all."""

    def fits(rows: int, columns: int) -> bool:
        seen = 4 * channels * math.prod(_seen((1, rows, columns), window))
        return rows * columns <= pixels and seen <= BAND_BYTES

    rows = out[1]
    while rows > 1 and not fits(rows, out[2]):
        rows = -(-rows // 2)
    columns = out[2]
    while columns > 1 and not fits(rows, columns):
        columns = -(-columns // 2)
    row_bands, column_bands = -(-out[1] // rows), -(-out[2] // columns)
    whole = batch * out[0]
    while whole * row_bands * column_bands < tasks and out[1] // row_bands >= 8 * window.spans[1]:
        row_bands *= 2
    while whole * row_bands * column_bands < tasks and out[2] // column_bands >= 8 * max(14, window.spans[2]):
        column_bands *= 2
    images = 1
    if row_bands == column_bands == 1:
        seen = 4 * channels * math.prod(_seen((1, *out[1:]), window))
        images = max(1, min(batch, IMAGE_PIXELS // (out[1] * out[2]), BAND_BYTES // max(1, seen)))
    return images, row_bands, column_bands


def _bands(shape: Ints, cut: Cut) -> int:
    images, row_bands, column_bands = cut
    return -(-shape[0] // images) * shape[1] * row_bands * column_bands


@lru_cache(maxsize=1024)
def _pieces(pixels: int, bands: int, panels: int, size: int, x_size: int, limit: int) -> tuple[int, int]:
    """(chunks of bands, runs of panels) whose tasks compute a gradient of `size` elements: TASKS where possible, at the
    least cost. A chunk has a gradient of its own, a run of panels reads x again."""
    most = max(1, min(bands, max(TASKS, pixels // LONG_CHUNK), pixels // CHUNK_PIXELS, limit // 2 // (4 * size)))
    least = max(1, min(most, pixels // LONG_CHUNK))

    def cost(chunks: int) -> tuple[int, int]:
        splits = min(panels, -(-TASKS // chunks))
        return -min(TASKS, chunks * splits), CHUNK_COST * chunks * size + splits * x_size

    chunks = min(range(least, most + 1), key=cost)
    return chunks, min(panels, -(-TASKS // chunks))


def _room(channels: int, out: Ints, window: Window, cut: Cut) -> tuple[int, int]:
    """Elements of scratch and of tables that a thread needs."""
    images, row_bands, column_bands = cut
    rows, columns = -(-out[1] // row_bands), -(-out[2] // column_bands)
    pixels = images * rows * columns
    seen = max(images * channels * math.prod(_seen((1, rows, columns), window)), pixels * (channels + LINE))
    elements = -(-seen // MOST_LANES) * MOST_LANES + pixels * MOST_LANES
    return elements, 4 * max(pixels + AHEAD, FEW * math.prod(window.kernel))


def _buffers(op: str, elements: int, entries: int, tasks: int, multiply_adds: int) -> tuple[np.ndarray, np.ndarray]:
    """Scratch and tables, a row a thread."""
    threads = max(1, min(runtime.threads_for(multiply_adds // 4), tasks, _affordable_threads(4 * elements)))
    return allocate(op, (threads, elements), np.dtype(np.float32)), np.empty((threads, entries), np.intp)
