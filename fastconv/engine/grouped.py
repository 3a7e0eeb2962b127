"""Groups of 2 to 16 channels: vectors of filters, filled across groups; a part of "depthwise".

    forward            lanes are filters. Of every lane's group the same channel is picked, by one permutation of the
                       groups' channels, for up to three taps and one multiply-add each
    gradient_input     the same with dy and the reversed filters; for strides, one per phase (engine.phases)
    gradient_weights   lanes are channels, and what is picked is dy

A band of x is copied to scratch first, block by block of lanes, zeros beside its rows: a border costs nothing, but an
infinite weight (or dy, in dw) makes NaN of them. Bands, and the chunks of bands whose gradients are added in order,
are cut by shape, never by thread count. float32.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import grouped
from fastconv.engine.phases import ONES, phases
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

__all__ = ["filled", "forward", "gradient_input", "gradient_weights", "serves"]

Ints = tuple[int, ...]

WIDEST = runtime.SIMD_BYTES  # bytes of a vector
NARROWEST = 32  # that permutes quickly
BLOCK_BYTES = 24 << 10  # of a band of one block: most of the first cache, for it is read tap by tap
WINDOWS = 6  # as large as so many windows at least, or a band is copied for a few outputs
BAND_BYTES = 256 << 10  # of all its blocks: a quarter of a core's L2
PIXELS = 448  # of a band: longer sums lose digits
TASKS = 16  # pieces that a layer is cut into where its size allows
CHUNK_PIXELS = 256  # at least, whose gradients are summed apart
SCRATCH = 1 << 20  # elements of a thread's, at most
APART = 16  # elements between blocks
CACHED = 1 << 20  # bytes of what is read, beyond which it is prefetched
FAR = 2 << 20  # bytes of y, from which on it is written past the caches
STREAMED = 64  # bytes
PAIR = 1.05  # cost of a record of two vectors
EVERYTHING = (slice(None),) * 3


class Lanes(NamedTuple):
    """Blocks of channels of one array that are computed side by side, and the channels of the other that they need."""

    sources: int  # channels of the other array in a group
    vectors: int  # that hold the other array's channels of a block's groups: a record
    table: np.ndarray  # (blocks, 3): first channel, channels, first of the other array's
    begin: np.ndarray  # (blocks, vector): where each lane's group begins in a vector of a record
    order: np.ndarray  # (record,): which of the channels from the first on lies where


class Plan(NamedTuple):
    cut: tuple[int, int]  # bands of rows, of columns
    bands: int
    splits: int  # runs of blocks
    elements: int  # of a thread's scratch


def serves(inside: int, outside: int, window: Window) -> bool:
    """Groups of 2 channels and filters up to a vector of them; windows that fit the scratch. Of wider groups one fills
    vectors alone, and there is nothing to permute."""
    if WIDEST < NARROWEST or min(inside, outside) < 2 or max(inside, outside) > _vector():
        return False
    return 4 * _vector() * window.kernel[0] * window.spans[1] * window.spans[2] <= SCRATCH


def filled(groups: int, inside: int, outside: int) -> float:
    """Lanes over channels, where each of them has a multiplication a tap."""
    lanes = lanes_of(groups, inside, outside, _vector())
    return len(lanes.table) * _vector() / (groups * outside) * (PAIR if lanes.vectors == 2 else 1.0)


def _vector() -> int:
    return WIDEST // 4


@lru_cache(maxsize=256)
def lanes_of(groups: int, inside: int, outside: int, vector: int) -> Lanes:
    """For lanes of `outside` channels a group, that need `inside` of the other array: records of one vector, unless two
    fill the lanes better."""
    found = []
    for vectors in (1, 2):
        each = -(-inside // vectors)  # channels of a group in a vector
        most = min(vector // each, 2 * vector // inside)  # groups of a block
        table, first = [], 0
        while first < groups * outside:
            group = first // outside
            last = min(first + vector, (group + most) * outside, groups * outside)
            table.append((first, last - first, group * inside))
            first = last
        found.append((len(table) * (PAIR if vectors == 2 else 1.0), vectors, each, np.array(table, np.intp)))
    _, vectors, each, blocks = min(found, key=lambda one: one[0])
    lane = np.minimum(np.arange(vector), blocks[:, 1:2] - 1)
    begin = ((blocks[:, :1] + lane) // outside - blocks[:, :1] // outside) * each
    place = np.arange(vector)
    order = np.concatenate([place // each * inside + v * each + place % each for v in range(vectors)])
    order = np.minimum(order, 2 * vector - 1)  # where there is no such channel, any
    return Lanes(inside, vectors, blocks, begin.astype(np.int32), order.astype(np.int32))


def forward(
    op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window, groups: int
) -> None:
    """Fill y, which is not empty."""
    filters, *kernel, depth = w.shape
    lanes = lanes_of(groups, depth, filters // groups, _vector())
    packed = _packed(w.reshape(groups, filters // groups, *kernel, depth), lanes)
    _convolve(op, x, packed, _start(bias, groups, lanes), y, window, EVERYTHING, lanes)


def gradient_input(op: str, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, window: Window, groups: int) -> None:
    """Fill dx, which is not empty."""
    filters, *kernel, depth = w.shape
    lanes = lanes_of(groups, filters // groups, depth, _vector())
    turned = w[:, ::-1, ::-1, ::-1, :].reshape(groups, filters // groups, *kernel, depth).transpose(0, 5, 2, 3, 4, 1)
    around = tuple((span - 1 - before, 0) for span, (before, _) in zip(window.spans, window.padding, strict=True))
    parts = phases(Window(window.kernel, ONES, around, window.dilation, window.stride), dx.shape[1:4])
    if len(parts) < math.prod(map(min, window.stride, dx.shape[1:4])):
        dx[...] = 0  # inputs that no window sees
    start = _start(None, groups, lanes)
    for (_, *outputs), (_, *taps), part in parts:
        packed = _packed(turned[:, :, taps[0], taps[1], taps[2]], lanes)
        _convolve(op, dy, packed, start, dx, part, tuple(outputs), lanes)


def gradient_weights(op: str, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, window: Window, groups: int) -> None:
    """Fill dw (K, r0, r1, r2, C / groups), whose sums are not empty."""
    filters, depth = dw.shape[0], dw.shape[4]
    lanes = lanes_of(groups, filters // groups, depth, _vector())
    taps = math.prod(window.kernel)
    room = min(BAND_BYTES, get_workspace_limit() // 4)
    plan = _plan(
        dy.shape[0], dy.shape[1:4], x.shape[1:4], window, len(lanes.table), lanes.vectors, _vector(), True, room
    )
    shape = len(lanes.table), taps, lanes.sources, _vector()
    affordable = get_workspace_limit() // 2 // (4 * math.prod(shape))
    chunks = max(1, min(plan.bands, TASKS, math.prod(dy.shape[:4]) // CHUNK_PIXELS, affordable))
    partial = allocate(op, (chunks, *shape), dw.dtype)
    scratch = _scratch(op, plan, chunks * plan.splits, dy.size * dw[0].size)
    prefetches = x.nbytes + dy.nbytes > CACHED
    grouped.gradient_weights(x, dy, partial, window, lanes, plan.cut, plan.splits, scratch, prefetches, WIDEST)
    grouped.unpack(partial, dw.reshape(groups, filters // groups, taps, depth).transpose(0, 3, 2, 1), lanes)


def _convolve(
    op: str, x: np.ndarray, packed: np.ndarray, start: np.ndarray, y: np.ndarray, window: Window,
    outputs: tuple[slice, ...], lanes: Lanes,
) -> None:  # fmt: skip
    """The `outputs` of y, which are the window's outputs on x."""
    out = tuple(len(range(*part.indices(n))) for part, n in zip(outputs, y.shape[1:4], strict=True))
    room = min(BAND_BYTES, get_workspace_limit() // 4)
    plan = _plan(y.shape[0], out, x.shape[1:4], window, len(lanes.table), lanes.vectors, _vector(), False, room)
    work = y.shape[0] * math.prod(out) * packed.size
    scratch = _scratch(op, plan, plan.bands * plan.splits, work)
    far = y.nbytes >= FAR and _fits_vectors(y, lanes)
    grouped.forward(
        x, packed, start, y, window, outputs, lanes, plan.cut, plan.splits, scratch, x.nbytes > CACHED, far, WIDEST
    )


def _fits_vectors(y: np.ndarray, lanes: Lanes) -> bool:
    """Whether every block is a whole vector of STREAMED bytes in y, aligned."""
    whole = WIDEST == STREAMED and (lanes.table[:, 1] == _vector()).all()
    return bool(whole) and y.shape[4] * y.itemsize % STREAMED == 0 and y.ctypes.data % STREAMED == 0


def _packed(w: np.ndarray, lanes: Lanes) -> np.ndarray:
    """w (groups, lanes of a group, r0, r1, r2, sources) as the tiles read it."""
    packed = np.empty((len(lanes.table), math.prod(w.shape[2:5]), lanes.sources, lanes.begin.shape[1]), np.float32)
    grouped.pack(w, packed, lanes)
    return packed


def _start(bias: np.ndarray | None, groups: int, lanes: Lanes) -> np.ndarray:
    """A bias, or zeros, packed as weights are."""
    if bias is None:
        return np.zeros(lanes.begin.shape, np.float32)
    first = np.minimum(lanes.table[:, :1] + np.arange(lanes.begin.shape[1]), len(bias) - 1)
    return np.ascontiguousarray(bias[first])


def _scratch(op: str, plan: Plan, tasks: int, multiply_adds: int) -> np.ndarray:
    """A row a thread."""
    affordable = max(1, get_workspace_limit() // 2 // (4 * plan.elements))
    threads = max(1, min(runtime.threads_for(multiply_adds // 4), tasks, affordable))
    return allocate(op, (threads, plan.elements), np.dtype(np.float32))


@lru_cache(maxsize=256)
def _plan(
    batch: int, out: Ints, inp: Ints, window: Window, blocks: int, vectors: int, vector: int, gradient: bool,
    room: int,
) -> Plan:  # fmt: skip
    """room: bytes of all blocks of a band, where one is no larger."""
    record = vector * (1 if gradient else vectors)

    def seen(rows: int, columns: int) -> int:
        """Elements of a block of a band of x, and of dy."""
        height = min((rows - 1) * window.stride[1] + window.spans[1], inp[1])
        width = (columns - 1) * window.stride[2] + window.spans[2]
        dy = rows * columns * vector * vectors + APART if gradient else 0
        return window.kernel[0] * height * width * record + APART + dy

    def fits(rows: int, columns: int) -> bool:
        return rows * columns <= PIXELS and 4 * seen(rows, columns) <= most

    most = max(BLOCK_BYTES, 4 * WINDOWS * seen(1, 1))
    row_bands = column_bands = 1
    while column_bands < out[2] and not fits(1, -(-out[2] // column_bands)):
        column_bands += 1
    columns = -(-out[2] // column_bands)
    while row_bands < out[1] and not fits(-(-out[1] // row_bands), columns):
        row_bands += 1
    while batch * out[0] * row_bands * column_bands < TASKS and out[1] // row_bands >= 8 * window.spans[1]:
        row_bands += 1
    bands = batch * out[0] * row_bands * column_bands
    each = seen(-(-out[1] // row_bands), columns)
    splits = max(-(-TASKS // bands), -(-4 * each * blocks // max(1, room)))
    splits = max(1, min(splits, blocks))
    beyond = 0 if gradient else 16 * window.stride[2] * record  # what a last tile reads behind its outputs
    return Plan((row_bands, column_bands), bands, splits, -(-blocks // splits) * each + beyond + APART)
