"""The algorithm "winograd": fewer multiplications for kernels of 3 and 5 taps with stride 1, in float32.

A tile of 6 x 6 inputs gives 4 x 4 outputs of a 3x3 kernel, or 2 x 2 of a 5x5 one, with 36 multiplications a channel
instead of 144 or 100; along one axis 6 inputs give 4 or 2 outputs with 6 instead of 12 or 10 (Winograd 1980; Lavin and
Gray 2016, "Fast Algorithms for Convolutional Neural Networks"). Arrays are lifted and channels-last as im2col's:
x (N, i0, i1, i2, C), y (N, o0, o1, o2, K), w (K, r0, r1, r2, C / groups). Tiles lie along the last two axes, the first
axis' taps are summed in the products; a dilated kernel sees every so many-th pixel, and tiles are cut from those.

    forward            V[f] = B' x B     U[f] = G w G'     y = A' (V[f] @ U[f]) A + bias, for the 36 frequencies f
    gradient_input     the same with dy for x, the taps reversed and the channels' roles exchanged
    gradient_weights   dw = G' (dM[f]' @ V[f]) G,  dM[f] = A dy A': the adjoint

Which is why a NaN or an infinity in x (or dy) reaches all outputs (or inputs) of its tiles, not its windows' alone; and
results are not exact on integers: errors are about 1e-6 of the largest value, 4e-6 for 512 channels.

With few channels a thread takes blocks of tiles through all stages within its own cache. With many, transformed
filters, or their gradients, are larger than a cache: tiles are transformed first, and filters, or their gradients, a
piece at a time, which leaves the cache as it came. All is cut by shape (and workspace limit), never by thread count.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import rows
from fastconv._ext import winograd as kernels
from fastconv.engine.phases import ONES
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

if TYPE_CHECKING:
    from fastconv.engine import Problem

__all__ = ["cost", "forward", "gradient_input", "gradient_weights", "serves"]

OUTPUTS = {1: 1, 3: 4, 5: 2}  # of a tile along an axis, by the kernel's taps
KERNELS = ((3, 3), (5, 5), (1, 3), (1, 5), (3, 1), (5, 1))
POINTS = 6  # inputs of a tile along an axis with taps
WIDEST = runtime.SIMD_BYTES  # of a vector
ALIGNED = 16  # floats: rows are whole vectors of any width
ALIASED = 128  # floats: rows a multiple of so many apart share few sets of the first-level cache
ROWS = 14  # of the products' register tile
FEW_ROWS = 8  # that still keep it busy
TRANSFORMS = 24  # channels
FEWEST = 12  # channels: fewer stay exact on integers, for little
FILTER_TILES = 6  # that cost as much as the transform of the filters
TASKS = 16  # pieces that a layer is cut into where its size allows
FEW_TILES = 32  # fewer of them are not worth a gradient of their own
BLOCK_BYTES = 1 << 19  # of a block of transformed tiles: half of a core's L2
SHARED_BYTES = 1 << 22  # of transformed filters that all blocks read
OWN_BYTES = 1 << 21  # of the transformed gradients that a thread adds up
SUMMED_BYTES = 4 << 20  # of the transformed tiles whose products are added up at a time
CHUNK = 256  # tiles that are transformed before their products are taken
PANEL_STEPS = 64  # channels, and
PANEL_FILTERS = 64  # filters that are transformed at a time: a quarter of a core's L2
PIECE_FILTERS = 56  # and
PIECE_CHANNELS = 64  # whose gradients are summed at a time
TILE_STEPS = 128  # tiles that are summed at a time: a panel of them fits the first-level cache


class Tiling(NamedTuple):
    """Where the tiles of an image lie."""

    size: tuple[int, ...]  # outputs of a tile, along rows and columns
    at: tuple[np.ndarray, ...]  # the first output row, and column, of each
    zeros: np.ndarray  # what lies outside the image: as many as a pixel's channels

    @property
    def frequencies(self) -> int:
        return math.prod(POINTS if size > 1 else 1 for size in self.size)


class Sizes(NamedTuple):
    """A layer in the products' terms; of one group."""

    frequencies: int
    tiles: int  # of the batch
    steps: int  # taps of the first axis times channels
    channels: int
    filters: int
    groups: int
    v_row: int  # floats that a tile's steps, or a filter's, take
    m_row: int  # floats that a tile's filters take

    @property
    def threads(self) -> int:
        """As many as the products are worth."""
        return runtime.threads_for(self.groups * self.frequencies * self.tiles * self.steps * self.filters // 4)


def serves(direction: str, problem: Problem) -> bool:
    """float32; kernels of 3x3 or 5x5, or 3 or 5 along one axis, without stride or dilation of the first axis."""
    window = problem.window
    return (
        problem.dtype == np.float32
        and window.kernel[1:] in KERNELS
        and window.stride == ONES
        and window.dilation[0] == 1
        and min(problem.channels, problem.filters) >= problem.groups
    )


def cost(direction: str, problem: Problem) -> float:
    """Multiplications over those of the definition, and the transforms: as much as of TRANSFORMS channels more."""
    channels = min(problem.channels, problem.filters) // problem.groups
    if channels < FEWEST:
        return math.inf
    outputs = problem.inputs if direction == "gradient_input" else problem.outputs
    tiling = _tiling(problem.window, (problem.batch, *outputs), 0)
    tiles = math.prod(map(len, tiling.at)) * outputs[0]
    multiplied = tiles * tiling.frequencies / (math.prod(problem.outputs) * math.prod(problem.window.kernel[1:]))
    return multiplied * (1 + TRANSFORMS / channels + FILTER_TILES / max(1, tiles * problem.batch))


def forward(
    op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window, groups: int
) -> None:
    """Fill y."""
    if y.size:
        _forward(op, x, w, bias, y, window, groups, False)


def gradient_input(
    op: str, dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], window: Window, groups: int
) -> np.ndarray:
    """dx (N, i0, i1, i2, C)."""
    dx = allocate(op, x_shape, dy.dtype)
    if dx.size:
        _forward(op, dy, w, None, dx, _reversed(window), groups, True)
    return dx


def gradient_weights(
    op: str, x: np.ndarray, dy: np.ndarray, w_shape: tuple[int, ...], window: Window, groups: int
) -> np.ndarray:
    """dw (K, r0, r1, r2, C / groups). Chunks of tiles are summed apart, and the chunks' sums added in order."""
    dw = allocate(op, w_shape, dy.dtype)
    if not dy.size:
        dw[...] = 0
        return dw
    tiling, sizes = _geometry(x.shape, dy.shape, window, groups)
    plan = _plan_weights(sizes, dw.size, sizes.threads, get_workspace_limit())
    scratch = [allocate(op, shape, dw.dtype) for shape in plan.scratch]
    bytes_, threads = WIDEST, sizes.threads
    if plan.by_blocks:
        buffers = scratch[0]
        partial = scratch[1] if len(scratch) > 1 else dw.reshape(1, groups, -1)
        row, threads = max(sizes.v_row, sizes.m_row), min(threads, buffers.shape[0])
        planes = _plane(plan.tiles, row), _plane(sizes.filters, row)
        kernels.gradient_weights_blocks(
            x, dy, partial, window, groups, tiling, buffers, row, *planes, plan.tiles, bytes_, threads
        )
        if len(partial) > 1:
            rows.add_in_order(partial.reshape(len(partial), -1), dw.reshape(-1), runtime.threads_for(partial.nbytes))
    else:
        v, m, u = scratch
        kernels.gradient_weights_pieces(
            x, dy, dw, window, groups, tiling, v, m, u, sizes.v_row, sizes.m_row, plan.tiles, *plan.part, TILE_STEPS,
            bytes_, min(threads, u.shape[0]),
        )  # fmt: skip
    return dw


def _forward(
    op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window, groups: int,
    reversed: bool,
) -> None:  # fmt: skip
    """forward; reversed: gradient_input, with dy for x and dx for y. w may lie taps last in memory."""
    taps_last = not w.flags.c_contiguous
    if taps_last:
        w = w.transpose(0, 4, 1, 2, 3)
    tiling, sizes = _geometry(x.shape, y.shape, window, groups)
    plan = _plan_forward(sizes, _lanes(), sizes.threads, get_workspace_limit())
    scratch = [allocate(op, shape, y.dtype) for shape in plan.scratch]
    threads, bytes_ = min(sizes.threads, scratch[1].shape[0]), WIDEST
    if plan.by_blocks:
        u, buffers = scratch
        row = max(sizes.v_row, sizes.m_row)
        kernels.forward_blocks(
            x, w, bias, y, window, groups, reversed, taps_last, tiling, u, buffers, row, _plane(plan.tiles, row),
            plan.tiles, bytes_, threads,
        )  # fmt: skip
    else:
        v, u, m = scratch
        kernels.forward_panels(
            x, w, bias, y, window, groups, reversed, taps_last, tiling, v, u, m, sizes.v_row, plan.tiles, *plan.part,
            bytes_, threads,
        )  # fmt: skip


# --- how a layer is cut ----------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    by_blocks: bool
    tiles: int  # of a block, or of what is transformed before the products
    part: tuple[int, int]  # steps and filters, or filters and channels, that are taken at a time
    scratch: tuple[tuple[int, ...], ...]  # the shapes of what is borrowed


@lru_cache(maxsize=1024)
def _plan_forward(s: Sizes, lanes: int, threads: int, limit: int) -> Plan:
    """scratch: U and the threads' blocks (V, M); or V, the threads' panels of U and of M."""
    limit //= 4  # floats
    f, pair = s.frequencies, 2 * lanes
    u = f * (s.steps * -(-s.filters // lanes) * lanes + ALIGNED)
    row = max(s.v_row, s.m_row)
    if u * 4 <= SHARED_BYTES and s.groups * u <= limit // 2:
        affordable = (limit - s.groups * u) // ((f + 1) * row)
        best = max(ROWS, BLOCK_BYTES // 4 // ((f + 1) * row) // ROWS * ROWS)
        tiles = _evenly(s.tiles, max(1, min(best, max(FEW_ROWS, -(-s.tiles // TASKS)), affordable - 1)))
        buffer = (f + 1) * _plane(tiles, row)
        threads = _affordable(threads, limit - s.groups * u, buffer)
        return Plan(True, tiles, (s.steps, s.filters), ((s.groups, f, u // f), (threads, buffer)))
    tiles = _evenly(s.tiles, max(1, min(CHUNK, limit // 2 // (f * (s.v_row + pair)))))
    v = _plane(tiles, s.v_row)
    room = (limit - f * v) // f
    wide = _evenly(-(-s.filters // pair), max(1, min(PANEL_FILTERS, room // 2 // tiles) // pair)) * pair
    steps = _evenly(s.steps, max(1, min(PANEL_STEPS, room // 2 // wide)))
    own_u, own_m = _plane(steps, wide), _plane(tiles, wide)
    threads = _affordable(threads, room, own_u + own_m)
    return Plan(False, tiles, (steps, wide), ((f, v), (threads, f, own_u), (threads, f, own_m)))


@lru_cache(maxsize=1024)
def _plan_weights(s: Sizes, weights: int, threads: int, limit: int) -> Plan:
    """scratch: the threads' blocks (V, dM, dU), and the chunks' gradients where there are several; or V, dM and the
    threads' pieces of dU."""
    limit //= 4  # floats
    f, row = s.frequencies, max(s.v_row, s.m_row)
    own = f * _plane(s.filters, row)
    if own * 4 <= OWN_BYTES and own <= limit // 4 and s.tiles * s.groups >= TASKS * FEW_TILES:
        affordable = limit // 4 // (2 * f * row)
        best = max(ROWS, BLOCK_BYTES // 4 // (2 * f * row) // ROWS * ROWS)
        tiles = max(1, min(best, affordable, -(-s.tiles // TASKS)))
        chunks = max(1, min(TASKS, s.tiles // FEW_TILES, -(-s.tiles // tiles), limit // 4 // weights))
        partial = ((chunks, s.groups, weights // s.groups),) if chunks > 1 else ()
        buffer = own + 2 * f * _plane(tiles, row)
        threads = _affordable(threads, limit - len(partial) * chunks * weights, buffer)
        return Plan(True, tiles, (s.filters, s.channels), ((threads, buffer), *partial))
    both = f * (s.v_row + s.m_row)
    best = max(s.filters * s.steps // (s.filters + s.steps), SUMMED_BYTES // 4 // both)
    tiles = _evenly(s.tiles, max(1, min(s.tiles if s.tiles <= 2 * best else best, limit // 2 // both)))
    v, m = _plane(tiles, s.v_row), _plane(tiles, s.m_row)
    width = min(PIECE_CHANNELS, -(-s.channels // ALIGNED) * ALIGNED)
    height = _evenly(s.filters, max(1, min(PIECE_FILTERS, limit // 4 // (f * width))))
    own = _plane(height, width)
    threads = _affordable(threads, limit - f * (v + m), f * own)
    return Plan(False, tiles, (height, width), ((f, v), (f, m), (threads, f, own)))


def _evenly(total: int, most: int) -> int:
    """The size of pieces of `total` that are at most `most`, and nearly equal."""
    return -(-total // -(-total // most))


def _affordable(threads: int, room: int, each: int) -> int:
    return max(1, min(threads, room // each))


def _lanes() -> int:
    return WIDEST // 4


def _row(length: int) -> int:
    return length + ALIGNED if length % ALIASED == 0 else length


def _plane(count: int, row: int) -> int:
    """Floats from a frequency's rows to the next one's: an odd number of cache lines."""
    return count * row + (ALIGNED if count * row // ALIGNED % 2 == 0 else 2 * ALIGNED)


@lru_cache(maxsize=1024)
def _geometry(x_shape: tuple[int, ...], y_shape: tuple[int, ...], window: Window, groups: int) -> tuple[Tiling, Sizes]:
    tiling = _tiling(window, y_shape, max(x_shape[4], y_shape[4]))
    channels, filters, taps = x_shape[4] // groups, y_shape[4] // groups, window.kernel[0]
    tiles = y_shape[0] * y_shape[1] * math.prod(map(len, tiling.at))
    whole, v_row = -(-filters // ALIGNED) * ALIGNED, (taps - 1) * channels + -(-channels // ALIGNED) * ALIGNED
    v_row = -(-v_row // ALIGNED) * ALIGNED
    sizes = Sizes(tiling.frequencies, tiles, taps * channels, channels, filters, groups, _row(v_row), _row(whole))
    return tiling, sizes


def _tiling(window: Window, y_shape: tuple[int, ...], width: int) -> Tiling:
    """Tiles of y; along a dilated axis, of each of the classes of outputs that see the same inputs."""
    size = tuple(OUTPUTS[taps] for taps in window.kernel[1:])
    at = []
    for n, outputs, step in zip(y_shape[2:4], size, window.dilation[1:], strict=True):
        firsts = [np.arange(first, n, outputs * step) for first in range(min(step, n))]
        at.append(np.concatenate(firsts).astype(np.intp))
    return Tiling(size, tuple(at), np.zeros(width + ALIGNED, np.float32))


@lru_cache(maxsize=1024)
def _reversed(window: Window) -> Window:
    """The window that slides over dy and gives dx; its padding may be negative."""
    padding = tuple(
        ((taps - 1) * step - before, (taps - 1) * step - after)
        for taps, step, (before, after) in zip(window.kernel, window.dilation, window.padding, strict=True)
    )
    return Window(window.kernel, window.stride, padding, window.dilation, window.up)
