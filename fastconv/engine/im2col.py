"""The algorithm "im2col": windows become rows of a column tile, and one BLAS call multiplies the tile.

It serves every shape and dtype, and is the one to read first. All arrays are lifted (three spatial axes) and
channels-last: x (N, i0, i1, i2, C), y (N, o0, o1, o2, K), w (K, r0, r1, r2, C / groups), C-contiguous all of them.

    forward            y = im2col(x) @ w.T + bias
    gradient_input     dx = col2im(dy @ w)
    gradient_weights   dw = dy.T @ im2col(x)

Tiles are runs of output pixels over the whole batch, cut by shape (and workspace limit), never by thread count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fastconv import runtime
from fastconv._ext import lowering, rows
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

if TYPE_CHECKING:
    from fastconv.engine import Problem

__all__ = ["cost", "forward", "gradient_input", "gradient_weights", "serves"]

TILE_BYTES = 1 << 20  # of a column tile with short rows: half of a core's L2
SHORT_ROW = 16  # elements
MIN_FILTERS = 16  # below, BLAS is slow however it is called
MIN_UNPACKED = 12  # pixels
TASKS = 16  # pieces that a layer is cut into where its size allows: enough for the threads of one socket
HALO = 8  # an image is cut into bands only where a band is this many times as long as what neighbours compute twice


def serves(direction: str, problem: Problem) -> bool:
    """Every shape and float type."""
    return True


def cost(direction: str, problem: Problem) -> float:
    """The lowering, and BLAS's trouble with few filters: of a group, for each has a product of its own."""
    filters = (problem.channels if direction == "gradient_input" else problem.filters) // problem.groups
    return 1.25 + 8 / filters


def forward(
    op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window, groups: int
) -> None:
    """Fill y."""
    pixels = math.prod(y.shape[:4])
    if not pixels:
        return
    w = w.reshape(w.shape[0], -1)
    tile = _tile_pixels(pixels, w.shape[1], w.shape[0] // groups, x.itemsize)
    column = 1 if _is_pointwise(window, x.shape, y.shape, groups) else w.shape[1]
    buffers = _thread_buffers(op, tile * column, -(-pixels // tile), pixels * w.size, x.dtype)
    turned = _unpacked_pixels(w.shape[1], w.shape[0] // groups) > 0  # the unpacked kernels want w (width, k)
    if turned:
        w = np.ascontiguousarray(w.reshape(groups, -1, w.shape[1]).transpose(0, 2, 1)).reshape(w.shape)
    with runtime.blas_held():
        lowering.forward(x, w, bias, y, window, groups, tile, buffers, turned)


def gradient_input(
    op: str, dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], window: Window, groups: int
) -> np.ndarray:
    """dx (N, i0, i1, i2, C). A task is some whole images, or a band of one image where the batch is small."""
    dx = allocate(op, x_shape, dy.dtype)
    batch, pixels = dy.shape[0], math.prod(dy.shape[1:4])
    if not dx.size:
        return dx
    w = w.reshape(w.shape[0], -1)
    tile = _tile_pixels(batch * pixels, w.shape[1], w.shape[0] // groups, dx.itemsize)
    images = max(1, min(tile // pixels, batch // TASKS))
    axis = next((axis for axis in range(3) if dy.shape[1 + axis] > 1), 2)
    halo = max(1, window.spans[axis] - 1)
    bands = max(1, min(-(-TASKS // batch), x_shape[1 + axis] // (HALO * halo)))
    column = 1 if _is_pointwise(window, x_shape, dy.shape, groups) else w.shape[1]
    buffers = _thread_buffers(op, tile * column, -(-batch // images) * bands, batch * pixels * w.size, dx.dtype)
    with runtime.blas_held():
        lowering.gradient_input(dy, w, dx, window, groups, tile, images, bands, axis, buffers)
    return dx


def gradient_weights(
    op: str, x: np.ndarray, dy: np.ndarray, w_shape: tuple[int, ...], window: Window, groups: int
) -> np.ndarray:
    """dw (K, r0, r1, r2, C / groups). Chunks of tiles are summed apart, and the chunks' sums added in order."""
    dw = allocate(op, w_shape, dy.dtype)
    pixels = math.prod(dy.shape[:4])
    if not pixels:
        dw[...] = 0
        return dw
    width = math.prod(w_shape[1:])
    tile = _tile_pixels(pixels, width, w_shape[0] // groups, dw.itemsize)
    chunks = max(1, min(-(-pixels // tile), TASKS, get_workspace_limit() // 4 // dw.nbytes))
    partial = dw.reshape(1, -1, width)
    if chunks > 1:
        partial = allocate(op, (chunks, w_shape[0], width), dw.dtype)
    column = 1 if _is_pointwise(window, x.shape, dy.shape, groups) else width
    buffers = _thread_buffers(op, tile * column, chunks, pixels * dw.size, dw.dtype)
    with runtime.blas_held():
        lowering.gradient_weights(x, dy, partial, window, groups, tile, buffers)
    if chunks > 1:
        rows.add_in_order(partial.reshape(chunks, -1), dw.reshape(-1), runtime.threads_for(partial.nbytes))
    return dw


def _is_pointwise(window: Window, x_shape: tuple[int, ...], y_shape: tuple[int, ...], groups: int) -> bool:
    """Whether x itself is the column tile, so that no thread needs one (lowering.pyx asks the same)."""
    whole = window.kernel == window.stride == (1, 1, 1) and x_shape[1:4] == y_shape[1:4] and groups == 1
    return whole and all(before == 0 for before, _ in window.padding)


def _unpacked_pixels(width: int, filters: int) -> int:
    """Output pixels a tile that BLAS multiplies without packing it first; 0 where too few fit to be worth while."""
    pixels = runtime.UNPACKED_PRODUCT // (filters * width)
    return pixels if pixels >= MIN_UNPACKED and filters >= MIN_FILTERS and width > SHORT_ROW else 0


def _tile_pixels(pixels: int, width: int, filters: int, itemsize: int) -> int:
    """Output pixels a tile, for windows of `width` elements.

    As many as BLAS multiplies unpacked, else as many as pack well, and where rows are short or filters few as many as
    fill TILE_BYTES; less where the layer is small or the workspace limit low.
    """
    row_bytes = width * itemsize
    unpacked = _unpacked_pixels(width, filters)
    if unpacked:
        best = min(unpacked if unpacked < 16 else unpacked // 8 * 8, 256)
    elif filters >= MIN_FILTERS and width > SHORT_ROW:
        best = 512
    else:
        best = TILE_BYTES // row_bytes
    affordable = get_workspace_limit() // 8 // row_bytes
    return max(1, min(best, max(64, -(-pixels // TASKS)), affordable))


def _thread_buffers(op: str, elements: int, tasks: int, multiply_adds: int, dtype: np.dtype) -> np.ndarray:
    """Scratch (threads, elements): as many rows as threads are worth their while in three quarters of the workspace
    limit; the last is for partial gradients."""
    affordable = get_workspace_limit() * 3 // 4 // (elements * dtype.itemsize)
    threads = max(1, min(runtime.threads_for(multiply_adds // 4), tasks, affordable))
    return allocate(op, (threads, elements), dtype)
