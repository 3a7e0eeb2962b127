"""The algorithm "im2col": windows become rows of a column tile, and one BLAS call multiplies the tile.

It serves every shape and dtype, and is the one to read first. Arrays are those of engine.contract.

    forward            y = im2col(x) @ w.T + bias
    gradient_input     dx = col2im(dy @ w)
    gradient_weights   dw = dy.T @ im2col(x)

Tiles are runs of output pixels over the whole batch, cut by shape (and workspace limit), never by thread count. Where
the one window of an image is all of it, x itself is the columns: each is a product of whole matrices, as in `linear`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fastconv._ext import reduce
from fastconv._ext.conv import lowering
from fastconv.arrays import contiguous
from fastconv.engine import tuning
from fastconv.engine.contract import Direction, Plan, Problem
from fastconv.engine.phases import ONES
from fastconv.machine import blas
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for
from fastconv.products import Cut, product

__all__ = ["cost", "plan"]


def cost(direction: Direction, problem: Problem) -> float:
    """The lowering, which a window that is all of x does not need, and BLAS's trouble with few filters: of a group, for
    each has a product of its own."""
    if _is_whole(problem):
        return 1.0
    filters = (problem.channels if direction == "gradient_input" else problem.filters) // problem.groups
    return 1.25 + 8 / filters


def plan(direction: Direction, problem: Problem) -> Plan:
    if _is_whole(problem):
        return _product(direction, problem)
    return {"forward": _forward, "gradient_input": _gradient_input, "gradient_weights": _gradient_weights}[direction](
        problem
    )


def _forward(p: Problem) -> Plan:
    filters, width, tile, column = _sizes(p)
    turned = _unpacked_pixels(width, filters // p.groups) > 0  # the unpacked kernels want w (width, k)

    def run(op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
        w = w.reshape(filters, width)
        if turned:
            w = contiguous(op, w.reshape(p.groups, -1, width).transpose(0, 2, 1)).reshape(w.shape)
        columns = allocate(op, (threads, column), p.dtype)
        with blas_held:
            lowering.forward(x, w, bias, y, p.window, p.groups, tile, columns, turned)

    return _plan(p, run, column, -(-p.pixels // tile))


def _gradient_input(p: Problem) -> Plan:
    """A task is some whole images, or a band of one image where the batch is small."""
    filters, width, tile, column = _sizes(p)
    images = max(1, min(tile * p.batch // p.pixels, p.batch // tuning.TASKS))
    axis = next((axis for axis in range(3) if p.outputs[axis] > 1), 2)
    halo = max(1, p.window.spans[axis] - 1)
    bands = max(1, min(-(-tuning.TASKS // p.batch), p.inputs[axis] // (tuning.HALO_RATIO * halo)))

    def run(op: str, threads: int, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, bias: None = None) -> None:
        columns = allocate(op, (threads, column), p.dtype)
        with blas_held:
            lowering.gradient_input(
                dy, w.reshape(filters, width), dx, p.window, p.groups, tile, images, bands, axis, columns
            )

    return _plan(p, run, column, -(-p.batch // images) * bands)


def _gradient_weights(p: Problem) -> Plan:
    """Chunks of tiles are summed apart, and the chunks' sums added in order."""
    filters, width, tile, column = _sizes(p)
    nbytes = filters * width * p.dtype.itemsize
    chunks = max(1, min(-(-p.pixels // tile), tuning.TASKS, get_workspace_limit() // 4 // nbytes))

    def run(op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: None = None) -> None:
        partial = dw.reshape(1, filters, width)
        if chunks > 1:
            partial = allocate(op, (chunks, filters, width), p.dtype)
        columns = allocate(op, (threads, column), p.dtype)
        with blas_held:
            lowering.gradient_weights(x, dy, partial, p.window, p.groups, tile, columns)
        if chunks > 1:
            reduce.add_in_order(partial.reshape(chunks, -1), dw.reshape(-1), threads_for(partial.nbytes))

    return _plan(p, run, column, chunks, chunks * nbytes if chunks > 1 else 0)


def _product(direction: Direction, p: Problem) -> Plan:
    """Images are rows."""
    width = math.prod(p.w_shape[1:])
    m, n, k = {
        "forward": (p.batch, p.filters, width),
        "gradient_input": (p.batch, width, p.filters),
        "gradient_weights": (p.filters, width, p.batch),
    }[direction]

    def forward(op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
        product(op, x.reshape(-1, width), w.reshape(-1, width).T, bias, y.reshape(m, n))

    def gradient_input(op: str, threads: int, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, bias: None = None) -> None:
        product(op, dy.reshape(m, k), w.reshape(k, n), None, dx.reshape(m, n))

    def gradient_weights(
        op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: None = None
    ) -> None:  # fmt: skip
        product(op, dy.reshape(k, m).T, x.reshape(k, n), None, dw.reshape(m, n))

    runs: dict[Direction, Callable[..., None]] = {
        "forward": forward, "gradient_input": gradient_input, "gradient_weights": gradient_weights,
    }  # fmt: skip
    itemsize = p.dtype.itemsize
    cut = Cut.of(m, n, k, itemsize, get_workspace_limit())
    return Plan("im2col", runs[direction], p.multiply_adds // 4, cut.tasks, 0, cut.scratch(itemsize))


def _plan(p: Problem, run: Callable[..., None], column: int, tasks: int, shared: int = 0) -> Plan:
    """The threads' column tiles get three quarters of the workspace limit; the last is for partial gradients."""
    own = column * p.dtype.itemsize
    most = max(1, min(tasks, get_workspace_limit() * 3 // 4 // own))
    return Plan("im2col", run, p.multiply_adds // 4, most, own, shared)


def _sizes(p: Problem) -> tuple[int, int, int, int]:
    """Filters, elements of a window (of one group), pixels of a tile, elements of a column tile."""
    filters, width = p.filters, p.w_shape[4] * math.prod(p.window.kernel)
    tile = _tile_pixels(p.pixels, width, filters // p.groups, p.dtype.itemsize)
    return filters, width, tile, 1 if _is_pointwise(p) else tile * width


def _is_pointwise(p: Problem) -> bool:
    """Whether x itself is the column tile (lowering.pyx asks the same)."""
    whole = p.window.kernel == p.window.stride == (1, 1, 1) and p.inputs == p.outputs and p.groups == 1
    return whole and all(before == 0 for before, _ in p.window.padding)


def _is_whole(p: Problem) -> bool:
    """Whether x itself is the one window of every image."""
    whole = p.window.kernel == p.inputs != ONES and p.outputs == ONES and p.groups == 1
    return whole and all(around == (0, 0) for around in p.window.padding)


def _unpacked_pixels(width: int, filters: int) -> int:
    """Output pixels a tile that BLAS multiplies without packing it first; 0 where too few fit to be worth while."""
    pixels = blas.UNPACKED_PRODUCT // (filters * width)
    return (
        pixels
        if pixels >= tuning.GEMM_PIXELS and filters >= tuning.GEMM_FILTERS and width > tuning.SHORT_ROW_ELEMENTS
        else 0
    )


def _tile_pixels(pixels: int, width: int, filters: int, itemsize: int) -> int:
    """Output pixels a tile, for windows of `width` elements.

    As many as BLAS multiplies unpacked, else as many as pack well, and where rows are short or filters few as many as
    fill TILE_BYTES; less where the layer is small or the workspace limit low.
    """
    row_bytes = width * itemsize
    unpacked = _unpacked_pixels(width, filters)
    if unpacked:
        best = min(unpacked if unpacked < 16 else unpacked // 8 * 8, 256)
    elif filters >= tuning.GEMM_FILTERS and width > tuning.SHORT_ROW_ELEMENTS:
        best = 512
    else:
        best = tuning.TILE_BYTES // row_bytes
    affordable = get_workspace_limit() // 8 // row_bytes
    return max(1, min(best, max(64, -(-pixels // tuning.TASKS)), affordable))
