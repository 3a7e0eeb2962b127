"""The algorithm "direct": register tiles of pixels times filters that read the input where it lies; float32.

    forward            a tile's sums run over all taps of its pixels' windows; no column is ever stored
    gradient_input     a convolution of dy with the reversed filters; for strides, one per phase (engine.phases)
    gradient_weights   a tile of taps times filters; its sums run over the pixels of a band

Few channels to write would leave lanes empty: engine.planar has the columns in the lanes there. Where not many are
read, engine.narrow does without tables of pixels.

Bands whose windows see beyond the border are copied into a small padded scratch first. Weights are packed once a call.
Bands, and the chunks of bands whose gradients are added in order, are cut by shape, never by thread count.
"""

from __future__ import annotations

import math

import numpy as np

from fastconv._ext import reduce
from fastconv._ext.conv import direct
from fastconv.arrays import copy_into
from fastconv.engine import planar, tuning
from fastconv.engine.constants import made_of, place_of
from fastconv.engine.contract import NOTHING, Direction, Epilogue, Ints, Plan, Problem
from fastconv.engine.phases import ONES, phases
from fastconv.machine import simd
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for
from fastconv.window import Window

__all__ = ["cost", "plan"]

Slices = tuple[slice, ...]
Cut = tuple[int, int, int]  # images of a band, bands of rows, bands of columns

EVERYTHING: Slices = (slice(None),) * 3


def cost(direction: Direction, problem: Problem) -> float:
    """Multiplications over those of the definition: lanes without a filter, and the gradient to the input meets every
    tap once an input, also where no output lies. float32, as long as the packed weights take half of the workspace
    limit at most, and what one window spans, the gaps of its dilation included, a band's share: where it reaches beyond
    the border that is copied. Where planar serves neither is lost: it goes first."""
    read, written = problem.channels, problem.filters
    if direction == "gradient_input":
        read, written = written, read
    if problem.dtype != np.float32:
        return math.inf
    if 4 * _packed_size(problem.groups, written, read, problem.window.kernel) > get_workspace_limit() // 2:
        return math.inf
    if problem.window.dilation != ONES and 4 * problem.window_elements(direction) > tuning.BAND_BYTES:
        return math.inf
    in_columns = planar.cost(direction, problem)
    if in_columns < math.inf:
        return in_columns
    filters = written // problem.groups
    lanes = direct.panels(filters, simd.SIMD_BYTES)[1] / filters
    if direction != "gradient_input":
        return lanes
    inputs = math.prod(-(-n // stride) for n, stride in zip(problem.inputs, problem.window.stride, strict=True))
    return lanes * max(1.0, inputs / max(1, math.prod(problem.outputs)))


def _packed_size(groups: int, filters: int, channels: int, kernel: Ints) -> int:
    """Elements of packed weights, zeros included."""
    _, lanes = direct.panels(filters // groups, simd.SIMD_BYTES)
    return groups * lanes * (channels // groups) * math.prod(kernel)


def plan(direction: Direction, problem: Problem) -> Plan:
    return _gradient_weights(problem) if direction == "gradient_weights" else _convolution(direction, problem)


def _convolution(direction: Direction, p: Problem) -> Plan:
    """Forward; or the gradient to the input: of dy by the reversed filters, each phase to inputs of its own."""
    vector, reversed = simd.SIMD_BYTES, direction == "gradient_input"
    x_shape, y_shape, window = p.x_shape, p.y_shape, p.window
    each: list[tuple[Slices, Slices, Window]] = [(EVERYTHING, EVERYTHING, window)]
    if _is_pixelwise(p):  # one long row
        x_shape, y_shape = _as_row(x_shape), _as_row(y_shape)
    if reversed:
        x_shape, y_shape = y_shape, x_shape
        around = tuple((span - 1 - before, 0) for span, (before, _) in zip(window.spans, window.padding, strict=True))
        phased = phases(Window(window.kernel, ONES, around, window.dilation, window.stride), y_shape[1:4])
        each = [(part.outputs[1:], part.taps[1:], part.window) for part in phased]
    panels, lanes = direct.panels(y_shape[4] // p.groups, vector)
    parts, filled, tasks, multiply_adds, elements, entries = [], 0, 0, 0, 0, 0
    for outputs, taps, part in each:
        out = tuple(len(range(*along.indices(n))) for along, n in zip(outputs, y_shape[1:4], strict=True))
        cut = _cut(y_shape[0], x_shape[4], out, part, tuning.BAND_PIXELS, -(-tuning.TASKS // len(each)))
        bands = _bands((y_shape[0], *out), cut)
        splits = max(1, min(p.groups * panels, tuning.TASKS // len(each) // bands))
        parts.append((part, outputs, taps, cut, splits))
        tasks += bands * splits
        pixels = y_shape[0] * math.prod(out)
        filled += pixels
        multiply_adds += pixels * lanes * x_shape[4] * math.prod(part.kernel)
        floats, numbers = _room(x_shape[4], out, part, cut)
        elements, entries = max(elements, floats), max(entries, numbers)
    made = direct.Parts(x_shape, y_shape, p.groups, tuple(parts), window.kernel, vector)
    whole, far = filled == math.prod(y_shape[:4]), 4 * math.prod(y_shape) >= tuning.NON_TEMPORAL_BYTES
    grouped = (p.groups, p.filters // p.groups, *window.kernel, p.w_shape[4])
    how = "direct", p.groups, window.kernel, made.size
    start_size = _packed_size(p.groups, y_shape[4], p.groups, ONES)

    def run(
        op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
        epilogue: Epilogue = NOTHING,
    ) -> None:  # fmt: skip
        w, x, y = w.reshape(grouped), x.reshape(x_shape), y.reshape(y_shape)
        if reversed:
            w = w[:, :, ::-1, ::-1, ::-1].transpose(0, 5, 2, 3, 4, 1)
        start = np.zeros(start_size, np.float32)
        if bias is not None:
            direct.pack(bias.reshape(p.groups, -1, 1, 1, 1, 1), start, vector, 1)
        if epilogue.norm is not None:
            norm = np.zeros((3, start_size), np.float32)
            for row, of_filters in zip(norm, epilogue.norm[:, : p.filters], strict=True):
                direct.pack(of_filters.reshape(p.groups, -1, 1, 1, 1, 1), row, vector, 1)
            epilogue = epilogue._replace(norm=norm)
        if not whole:
            copy_into(y, 0 if bias is None else bias)  # inputs that no window sees
        if tasks:
            kept = None if reversed else made_of(w)
            key = None if kept is None else (how, place_of(w))
            packed = None if kept is None else kept.get(key)
            if packed is None:
                packed = allocate(op, (made.size,), w.dtype)
                direct.pack_parts(w, packed, made, vector, threads_for(packed.nbytes))
                if kept is not None:
                    kept[key] = packed
            scratch, tables = _buffers(op, threads, elements, entries)
            direct.forward(x, packed, start, y, made, scratch, tables, far, vector, epilogue)

    def gradient_input(
        op: str, threads: int, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, bias: np.ndarray | None
    ) -> None:
        run(op, threads, dy, w, bias, dx)

    return Plan(
        "direct", gradient_input if reversed else run, multiply_adds // 4, _most(tasks, elements), 4 * elements,
        4 * made.size, frozenset({"bias"} if reversed else {"bias", "relu", "norm", "addend"}),
    )  # fmt: skip


def _gradient_weights(p: Problem) -> Plan:
    vector, x_shape, y_shape = simd.SIMD_BYTES, p.x_shape, p.y_shape
    transposed = False
    if _is_pixelwise(p):
        x_shape, y_shape = _as_row(x_shape), _as_row(y_shape)
        transposed = p.groups == 1 and direct.panels(p.channels, vector)[1] == p.channels
    if transposed:  # products of two pixels either way; with the channels of x in the lanes dw needs no packing
        x_shape, y_shape = y_shape, x_shape
    channels, filters = x_shape[4], y_shape[4] // p.groups
    size = _packed_size(p.groups, y_shape[4], channels, p.window.kernel)
    panels = p.groups * direct.panels(filters, vector)[0]
    depth = channels if math.prod(p.window.kernel) > 1 else 0  # one tap: what a band sees is read once a panel
    cut = _cut(y_shape[0], depth, y_shape[1:4], p.window, tuning.BAND_PIXELS, 1)
    chunks, splits = _pieces(p.pixels, _bands(y_shape, cut), panels, size, math.prod(x_shape), get_workspace_limit())
    elements, entries = _room(channels, y_shape[1:4], p.window, cut)
    at_once = transposed and chunks == 1  # where dw stays

    def run(op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: None) -> None:
        partial = dw.reshape(1, size) if at_once else allocate(op, (chunks, size), dy.dtype)
        scratch, tables = _buffers(op, threads, elements, entries)
        x, dy = (dy, x) if transposed else (x, dy)
        direct.gradient_weights(
            x.reshape(x_shape), dy.reshape(y_shape), partial, p.window, p.groups, cut, splits, scratch, tables, vector,
            transposed,
        )  # fmt: skip
        if transposed and not at_once:
            reduce.add_in_order(partial, dw.reshape(size), threads_for(partial.nbytes))
        elif not transposed:
            direct.unpack(partial, dw.reshape(p.groups, filters, -1), vector, threads_for(partial.nbytes))

    most, partial_bytes = _most(chunks * splits, elements), 0 if at_once else 4 * chunks * size
    return Plan("direct", run, p.multiply_adds // 4, most, 4 * elements, partial_bytes)


def _most(tasks: int, elements: int) -> int:
    """Threads whose scratch fits the half of the workspace limit that weights leave."""
    return max(1, min(tasks, get_workspace_limit() // 2 // (4 * max(1, elements))))  # none where no window sees x


def _buffers(op: str, threads: int, elements: int, entries: int) -> tuple[np.ndarray, np.ndarray]:
    """Scratch and tables, a row a thread."""
    return allocate(op, (threads, elements), np.dtype(np.float32)), np.empty((threads, entries), np.intp)


def _is_pixelwise(p: Problem) -> bool:
    """Whether every output has one input, at its own place (a transposed convolution's padding may shift them)."""
    return p.window.kernel == p.window.stride == ONES and p.inputs == p.outputs and not any(map(any, p.window.padding))


def _as_row(shape: Ints) -> Ints:
    return (1, 1, 1, math.prod(shape[:4]), shape[4])


def _seen(lengths: Ints, window: Window) -> Ints:
    """Input elements that so many outputs along each axis see; of planes, one output's."""
    _, rows, columns = lengths
    spans = window.spans
    return (
        window.kernel[0],
        (rows - 1) * window.stride[1] + spans[1],
        (columns - 1) * window.stride[2] + spans[2],
    )


def _cut(batch: int, channels: int, out: Ints, window: Window, pixels: int, tasks: int) -> Cut:
    """Images of a band, bands of rows, bands of columns: at most `pixels` and about BAND_BYTES each, `tasks` in all."""

    def fits(rows: int, columns: int) -> bool:
        seen = 4 * channels * math.prod(_seen((1, rows, columns), window))
        return rows * columns <= pixels and seen <= tuning.BAND_BYTES

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
        images = max(1, min(batch, tuning.JOINED_PIXELS // (out[1] * out[2]), tuning.BAND_BYTES // max(1, seen)))
    return images, row_bands, column_bands


def _bands(shape: Ints, cut: Cut) -> int:
    images, row_bands, column_bands = cut
    return -(-shape[0] // images) * shape[1] * row_bands * column_bands


def _pieces(pixels: int, bands: int, panels: int, size: int, x_size: int, limit: int) -> tuple[int, int]:
    """(chunks of bands, runs of panels) whose tasks compute a gradient of `size` elements: TASKS where possible, at the
    least cost. A chunk has a gradient of its own, a run of panels reads x again."""
    most = max(
        1,
        min(
            bands,
            max(tuning.TASKS, pixels // tuning.LONGEST_SUM_PIXELS),
            pixels // tuning.CHUNK_PIXELS,
            limit // 2 // (4 * size),
        ),
    )
    least = max(1, min(most, pixels // tuning.LONGEST_SUM_PIXELS))

    def cost(chunks: int) -> tuple[int, int]:
        splits = min(panels, -(-tuning.TASKS // chunks))
        return -min(tuning.TASKS, chunks * splits), tuning.CHUNK_COST * chunks * size + splits * x_size

    chunks = min(range(least, most + 1), key=cost)
    return chunks, min(panels, -(-tuning.TASKS // chunks))


def _room(channels: int, out: Ints, window: Window, cut: Cut) -> tuple[int, int]:
    """Elements of scratch and of tables that a thread needs."""
    images, row_bands, column_bands = cut
    rows, columns = -(-out[1] // row_bands), -(-out[2] // column_bands)
    seen = images * channels * math.prod(_seen((1, rows, columns), window))
    return direct.room(seen, images * rows * columns, channels, math.prod(window.kernel))
