"""Winograd."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import rows
from fastconv._ext import winograd as kernels
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

OUTPUTS = {1: 1, 3: 4, 5: 2}  # of a tile, by the taps of an axis
SIZES = ((4, 4), (2, 2), (1, 4), (1, 2), (4, 1), (2, 1))
POINTS = 6
WIDEST = 64
BLOCK_BYTES = 1 << 19
ROWS = 14
TASKS = 16


class Tiling(NamedTuple):
    size: tuple[int, ...]
    at: tuple[np.ndarray, ...]
    zeros: np.ndarray

    @property
    def frequencies(self) -> int:
        return math.prod(POINTS if size > 1 else 1 for size in self.size)


def _tiling(window: Window, output: tuple[int, ...], width: int) -> Tiling:
    """Tiles of every phase of a dilated window's axis."""
    size = tuple(OUTPUTS[kernel] for kernel in window.kernel[1:])
    at = []
    for n, m, step in zip(output[1:], size, window.dilation[1:], strict=True):
        starts = [range(phase, n, m * step) for phase in range(min(step, n))]
        at.append(np.concatenate([np.asarray(s, np.intp) for s in starts]))
    return Tiling(size, tuple(at), np.zeros(width + 16, np.float32))


def _row(*lengths: int) -> int:
    row = max(-(-n // 16) * 16 for n in lengths)
    return row + 16 if row % 128 == 0 else row


def _plane(rows: int, row: int) -> int:
    return rows * row + (16 if rows * row // 16 % 2 == 0 else 32)


def forward(op, x, w, bias, y, window, groups):
    _forward(op, x, w, bias, y, window, groups, False)


BY = 'auto'
DEPTH = 256
CHUNK = 256
HEIGHT = 128
WDEPTH = 128


def _forward(op, x, w, bias, y, window, groups, reversed):
    if not y.size:
        return
    tiling = _tiling(window, y.shape[1:4], x.shape[4])
    bytes_ = kernels.vector_bytes(WIDEST)
    lanes = bytes_ // 4
    channels, filters = x.shape[4] // groups, y.shape[4] // groups
    steps = window.kernel[0] * channels
    f = tiling.frequencies
    tiles = x.shape[0] * y.shape[1] * math.prod(map(len, tiling.at))
    v_width = steps - channels + -(-channels // 16) * 16
    u_width = -(-filters // lanes) * lanes
    threads = runtime.get_num_threads()
    if BY == 'panels' or (BY == 'auto' and f * steps * u_width * 4 > 1 << 24):
        row = _row(v_width)
        chunk = min(tiles, CHUNK)
        depth = min(DEPTH, steps)
        v = allocate(op, (f, _plane(chunk, row)), x.dtype)
        u = allocate(op, (threads, f, _plane(depth, 2 * lanes)), x.dtype)
        m = allocate(op, (threads, f, _plane(chunk, 2 * lanes)), x.dtype)
        kernels.forward_panels(x, w, bias, y, window, groups, reversed, tiling, v, u, m, row, chunk, depth, bytes_, threads)
        return
    row = _row(v_width, filters)
    best = max(1, BLOCK_BYTES // (4 * row * (f + 1)) // ROWS) * ROWS
    block = max(1, min(best, max(ROWS, -(-tiles // TASKS))))
    plane = _plane(block, row)
    u = allocate(op, (groups, f, steps * u_width + 16), x.dtype)
    buffers = allocate(op, (threads, (f + 1) * plane), x.dtype)
    kernels.forward_blocks(x, w, bias, y, window, groups, reversed, tiling, u, buffers, row, plane, block, bytes_, threads)


def gradient_input(op, dy, w, x_shape, window, groups):
    dx = allocate(op, x_shape, dy.dtype)
    padding = tuple(((k - 1) * d - before, 0) for k, d, (before, _) in zip(window.kernel, window.dilation, window.padding))
    back = Window(window.kernel, window.stride, padding, window.dilation, window.up)
    _forward(op, dy, w, None, dx, back, groups, True)
    return dx


WBLOCK_BYTES = 1 << 19


def gradient_weights(op, x, dy, w_shape, window, groups):
    dw = allocate(op, w_shape, dy.dtype)
    tiling = _tiling(window, dy.shape[1:4], max(x.shape[4], dy.shape[4]))
    f = tiling.frequencies
    tiles = x.shape[0] * dy.shape[1] * math.prod(map(len, tiling.at))
    channels, filters = x.shape[4] // groups, dy.shape[4] // groups
    steps = window.kernel[0] * channels
    if BY == 'panels' or (BY == 'auto' and f * steps * filters * 4 > 1 << 21):
        threads = runtime.get_num_threads()
        row = _row(steps - channels + -(-channels // 16) * 16)
        m_row = _row(filters)
        chunk = min(tiles, CHUNK)
        v = allocate(op, (f, _plane(chunk, row)), x.dtype)
        m = allocate(op, (f, _plane(chunk, m_row)), x.dtype)
        height = min(HEIGHT, filters)
        u = allocate(op, (f, _plane(height, row)), x.dtype)
        kernels.gradient_weights_frequencies(
            x, dy, dw, window, groups, tiling, v, m, u, row, m_row, chunk, height, WDEPTH, kernels.vector_bytes(WIDEST), threads
        )
        return dw
    row = _row(steps - channels + -(-channels // 16) * 16, filters)
    best = max(1, WBLOCK_BYTES // (8 * row * f) // ROWS) * ROWS
    block = max(1, min(best, max(ROWS, -(-tiles // TASKS))))
    plane = _plane(block, row)
    u_plane = _plane(filters, row)
    chunks = max(1, min(-(-tiles // block), TASKS, get_workspace_limit() // 4 // dw.nbytes))
    partial = dw.reshape(1, groups, -1)
    if chunks > 1:
        partial = allocate(op, (chunks, groups, dw.size // groups), dw.dtype)
    threads = runtime.get_num_threads()
    buffers = allocate(op, (threads, f * (2 * plane + u_plane)), x.dtype)
    kernels.gradient_weights_blocks(
        x, dy, partial, window, groups, tiling, buffers, row, plane, u_plane, block, kernels.vector_bytes(WIDEST), threads
    )
    if chunks > 1:
        rows.add_in_order(partial.reshape(chunks, -1), dw.reshape(-1), runtime.threads_for(partial.nbytes))
    return dw
