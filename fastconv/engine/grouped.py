"""The algorithm "grouped": groups of 2 to 16 channels: vectors of filters, filled across groups.

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
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv._ext.conv import grouped
from fastconv.arrays import copy_into, picked
from fastconv.engine import tuning
from fastconv.engine.contract import Direction, Ints, Plan, Problem, fewest
from fastconv.engine.phases import ONES, phases
from fastconv.machine import simd
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for
from fastconv.window import Window

__all__ = ["cost", "plan"]

WIDEST = simd.SIMD_BYTES  # bytes of a vector
EVERYTHING = (slice(None),) * 3


class Lanes(NamedTuple):
    """Blocks of channels of one array that are computed side by side, and the channels of the other that they need."""

    sources: int  # channels of the other array in a group
    vectors: int  # that hold the other array's channels of a block's groups: a record
    table: np.ndarray  # (blocks, 3): first channel, channels, first of the other array's
    begin: np.ndarray  # (blocks, vector): where each lane's group begins in a vector of a record
    order: np.ndarray  # (record,): which of the channels from the first on lies where


class Cut(NamedTuple):
    bands: tuple[int, int]  # of rows, of columns
    tasks: int  # bands of the batch
    splits: int  # runs of blocks
    elements: int  # of a thread's scratch


def cost(direction: Direction, problem: Problem) -> float:
    """The lanes that stay empty, against what the others lose on narrow groups. Groups of 2 channels and filters up to
    a vector of them, for of wider groups one fills vectors alone; windows that fit the scratch. Of a strided window's
    gradient to the input every phase is computed apart, which is depthwise's where groups are small."""
    p = problem
    inside, outside = p.channels // p.groups, p.filters // p.groups
    if p.groups == 1 or p.dtype != np.float32 or WIDEST < tuning.PERMUTING_VECTOR_BYTES:
        return math.inf
    if min(inside, outside) < 2 or max(inside, outside) > _vector():
        return math.inf
    if (
        direction == "gradient_input"
        and p.window.stride != ONES
        and max(inside, outside) <= tuning.DEPTHWISE_GROUP_CHANNELS
    ):
        return math.inf
    if 4 * _vector() * p.window.kernel[0] * p.window.spans[1] * p.window.spans[2] > tuning.SCRATCH_ELEMENTS:
        return math.inf
    lanes = _lanes_of(direction, p)
    filled = len(lanes.table) * _vector() / (p.filters if direction == "forward" else p.channels)
    return (
        (0.7 if direction == "gradient_weights" else 0.8)
        * filled
        * (tuning.GROUPED_PAIR_COST if lanes.vectors == 2 else 1.0)
    )


def plan(direction: Direction, problem: Problem) -> Plan:
    return {"forward": _forward, "gradient_input": _gradient_input, "gradient_weights": _gradient_weights}[direction](
        problem
    )


def _lanes_of(direction: Direction, p: Problem) -> Lanes:
    inside, outside = p.channels // p.groups, p.filters // p.groups
    if direction != "forward":
        inside, outside = outside, inside
    return lanes_of(p.groups, inside, outside, _vector())


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
        found.append(
            (len(table) * (tuning.GROUPED_PAIR_COST if vectors == 2 else 1.0), vectors, each, np.array(table, np.intp))
        )
    _, vectors, each, blocks = min(found, key=lambda one: one[0])
    lane = np.minimum(np.arange(vector), blocks[:, 1:2] - 1)
    begin = ((blocks[:, :1] + lane) // outside - blocks[:, :1] // outside) * each
    place = np.arange(vector)
    order = np.concatenate([place // each * inside + v * each + place % each for v in range(vectors)])
    order = np.minimum(order, 2 * vector - 1)  # where there is no such channel, any
    return Lanes(inside, vectors, blocks, begin.astype(np.int32), order.astype(np.int32))


def _forward(p: Problem) -> Plan:
    lanes = _lanes_of("forward", p)
    convolve = _Convolution(p.x_shape, p.y_shape, p.window, EVERYTHING, lanes)
    shape = (p.groups, p.filters // p.groups, *p.w_shape[1:])

    def run(op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray) -> None:
        convolve(op, x, _packed(w.reshape(shape), lanes), _start(bias, lanes), y)

    return _plan(run, [convolve])


def _gradient_input(p: Problem) -> Plan:
    """The same with dy and the reversed filters, phase by phase."""
    lanes, window = _lanes_of("gradient_input", p), p.window
    shape = (p.groups, p.filters // p.groups, *p.w_shape[1:])
    around = tuple((span - 1 - before, 0) for span, (before, _) in zip(window.spans, window.padding, strict=True))
    parts = phases(Window(window.kernel, ONES, around, window.dilation, window.stride), p.inputs)
    whole = len(parts) == math.prod(map(min, window.stride, p.inputs))
    convolutions = [_Convolution(p.y_shape, p.x_shape, part.window, part.outputs[1:], lanes) for part in parts]

    def run(op: str, threads: int, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, bias: None) -> None:
        turned = w.reshape(shape)[:, :, ::-1, ::-1, ::-1].transpose(0, 5, 2, 3, 4, 1)
        if not whole:
            copy_into(dx, 0)  # inputs that no window sees
        start = _start(None, lanes)
        for (_, (_, *taps), _), convolve in zip(parts, convolutions, strict=True):
            convolve(op, dy, _packed(turned[:, :, taps[0], taps[1], taps[2]], lanes), start, dx)

    return _plan(run, convolutions)


def _plan(run: Callable[..., None], convolutions: list[_Convolution]) -> Plan:
    work, most, own = (
        max((getattr(each, name) for each in convolutions), default=0) for name in ("work", "most", "own")
    )
    return Plan("grouped", run, work, most, own)


class _Convolution:
    """Fills the `outputs` of y, which are the window's outputs on x."""

    def __init__(self, x_shape: Ints, y_shape: Ints, window: Window, outputs: tuple[slice, ...], lanes: Lanes) -> None:
        self.window, self.outputs, self.lanes = window, outputs, lanes
        out = tuple(len(range(*along.indices(n))) for along, n in zip(outputs, y_shape[1:4], strict=True))
        self.cut = _cut(y_shape[0], out, x_shape[1:4], window, lanes, False)
        packed = lanes.begin.size * lanes.sources * math.prod(window.kernel)
        self.work = y_shape[0] * math.prod(out) * packed // 4
        self.own, self.most = 4 * self.cut.elements, _most(self.cut, self.cut.tasks * self.cut.splits)
        self.prefetches = 4 * math.prod(x_shape) > tuning.CACHED_BYTES
        self.far = 4 * math.prod(y_shape) >= tuning.DEPTHWISE_NON_TEMPORAL_BYTES and _fits_vectors(y_shape[4], lanes)

    def __call__(self, op: str, x: np.ndarray, packed: np.ndarray, start: np.ndarray, y: np.ndarray) -> None:
        threads = threads_for(self.work, self.most)
        scratch = allocate(op, (threads, self.cut.elements), y.dtype)
        far = self.far and y.ctypes.data % grouped.STREAMED_BYTES == 0
        grouped.forward(
            x, packed, start, y, self.window, self.outputs, self.lanes, self.cut.bands, self.cut.splits, scratch,
            self.prefetches, far, WIDEST,
        )  # fmt: skip


def _gradient_weights(p: Problem) -> Plan:
    """Lanes are channels, and what is picked is dy."""
    lanes, taps = _lanes_of("gradient_weights", p), math.prod(p.window.kernel)
    cut = _cut(p.batch, p.outputs, p.inputs, p.window, lanes, True)
    shape = len(lanes.table), taps, lanes.sources, _vector()
    nbytes = 4 * math.prod(shape)
    affordable = get_workspace_limit() // 2 // nbytes
    chunks = max(1, min(cut.tasks, tuning.TASKS, p.pixels // tuning.CHUNK_PIXELS, affordable))
    prefetches = 4 * (math.prod(p.x_shape) + math.prod(p.y_shape)) > tuning.CACHED_BYTES

    def run(op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: None) -> None:
        partial = allocate(op, (chunks, *shape), dw.dtype)
        scratch = allocate(op, (threads, cut.elements), dw.dtype)
        grouped.gradient_weights(x, dy, partial, p.window, lanes, cut.bands, cut.splits, scratch, prefetches, WIDEST)
        by_channel = dw.reshape(p.groups, p.filters // p.groups, taps, p.w_shape[4]).transpose(0, 3, 2, 1)
        grouped.unpack(partial, by_channel, lanes)

    most = _most(cut, chunks * cut.splits)
    return Plan("grouped", run, p.multiply_adds // 4, most, 4 * cut.elements, chunks * nbytes)


def _most(cut: Cut, tasks: int) -> int:
    """Threads whose scratch fits half of the workspace limit."""
    return max(1, min(tasks, get_workspace_limit() // 2 // (4 * cut.elements)))


def _fits_vectors(channels: int, lanes: Lanes) -> bool:
    """Whether every block is a whole vector of grouped.STREAMED_BYTES bytes in y."""
    whole = WIDEST == grouped.STREAMED_BYTES and (lanes.table[:, 1] == _vector()).all()
    return bool(whole) and 4 * channels % grouped.STREAMED_BYTES == 0


def _packed(w: np.ndarray, lanes: Lanes) -> np.ndarray:
    """w (groups, lanes of a group, r0, r1, r2, sources) as the tiles read it."""
    packed = np.empty((len(lanes.table), math.prod(w.shape[2:5]), lanes.sources, lanes.begin.shape[1]), np.float32)
    grouped.pack(w, packed, lanes)
    return packed


def _start(bias: np.ndarray | None, lanes: Lanes) -> np.ndarray:
    """A bias, or zeros, packed as weights are."""
    if bias is None:
        return np.zeros(lanes.begin.shape, np.float32)
    first = np.minimum(lanes.table[:, :1] + np.arange(lanes.begin.shape[1]), len(bias) - 1)
    return picked(bias, first)


def _cut(batch: int, out: Ints, inp: Ints, window: Window, lanes: Lanes, gradient: bool) -> Cut:
    blocks, vectors, vector = len(lanes.table), lanes.vectors, _vector()
    room = min(tuning.BAND_BYTES, get_workspace_limit() // 4)  # bytes of all blocks of a band, where one is no larger
    record = vector * (1 if gradient else vectors)

    def seen(rows: int, columns: int) -> int:
        """Elements of a block of a band of x, and of dy."""
        height = min((rows - 1) * window.stride[1] + window.spans[1], inp[1])
        width = (columns - 1) * window.stride[2] + window.spans[2]
        dy = rows * columns * vector * vectors + grouped.APART_FLOATS if gradient else 0
        return window.kernel[0] * height * width * record + grouped.APART_FLOATS + dy

    def fits(rows: int, columns: int) -> bool:
        return rows * columns <= tuning.BAND_PIXELS and 4 * seen(rows, columns) <= most

    most = max(tuning.GROUPED_BLOCK_BYTES, 4 * tuning.GROUPED_WINDOWS * seen(1, 1))
    column_bands = fewest(1, out[2], lambda bands: fits(1, -(-out[2] // bands)))
    columns = -(-out[2] // column_bands)
    row_bands = fewest(1, out[1], lambda bands: fits(-(-out[1] // bands), columns))
    while batch * out[0] * row_bands * column_bands < tuning.TASKS and out[1] // row_bands >= 8 * window.spans[1]:
        row_bands += 1
    bands = batch * out[0] * row_bands * column_bands
    each = seen(-(-out[1] // row_bands), columns)
    splits = max(-(-tuning.TASKS // bands), -(-4 * each * blocks // max(1, room)))
    splits = max(1, min(splits, blocks))
    beyond = 0 if gradient else grouped.MOST_OUTPUTS * window.stride[2] * record  # read behind a last tile's outputs
    return Cut((row_bands, column_bands), bands, splits, -(-blocks // splits) * each + beyond + grouped.APART_FLOATS)
