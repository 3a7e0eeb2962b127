"""The algorithm "depthwise": direct loops for groups of few channels, where a matrix product has nothing to multiply.

    forward            y[o, k] = bias[k] + sum over the taps t inside and j of w[k, t, j] * x[i(o, t), group(k), j]
    gradient_input     the same sum with x and y, and a group's channels, exchanged; a stride makes it fall into phases
    gradient_weights   dw[k, t, j] = sum over o of dy[o, k] * x[i(o, t), group(k), j]

Lanes of a vector are channels (`Lanes`), outputs lie along a line of the last axis (`Reach`), and nothing is copied but
the weights, packed by vectors. Taps in the padding are left out, not multiplied by zero. Where vectors are wide,
groups of 2 channels and more are engine.grouped's, in float32. Tasks are runs of outputs, cut by shape; partial
gradients to the weights are sums along one line, added line by line, and task by task in order.

The floor is memory traffic for 3x3 (x and y once), and otherwise one load and one multiply-add a tap.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastconv._ext import reduce
from fastconv._ext.conv import depthwise
from fastconv.arrays import picked
from fastconv.engine import grouped, tuning
from fastconv.engine.contract import NOTHING, Direction, Epilogue, Ints, Plan, Problem
from fastconv.machine import simd
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.window import Window

__all__ = ["cost", "plan"]

WIDEST = simd.SIMD_BYTES  # bytes of a vector

PLAIN, PERMUTED, BROADCAST = (depthwise.KINDS[kind] for kind in ("plain", "permuted", "broadcast"))


def cost(direction: Direction, problem: Problem) -> float:
    """Groups of at most DEPTHWISE_GROUP_CHANNELS channels and filters, or of one channel: the others lose most there.
    Where grouped serves, it goes first."""
    inside, outside = problem.channels // problem.groups, problem.filters // problem.groups
    if problem.groups == 1 or (inside != 1 and max(inside, outside) > tuning.DEPTHWISE_GROUP_CHANNELS):
        return math.inf
    in_blocks = grouped.cost(direction, problem)
    return in_blocks if in_blocks < math.inf else 0.0


def plan(direction: Direction, problem: Problem) -> Plan:
    return {"forward": _forward, "gradient_input": _gradient_input, "gradient_weights": _gradient_weights}[direction](
        problem
    )


def _forward(p: Problem) -> Plan:
    lanes = _lanes(p.channels, p.filters, p.groups, p.dtype.itemsize, WIDEST, False)
    convolve = _Convolution(p, p.y_shape, _reach(p.window, p.inputs, p.outputs, False), lanes, p.w_shape[4])

    def run(
        op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
        epilogue: Epilogue = NOTHING,
    ) -> None:  # fmt: skip
        convolve(threads, x, w.reshape(p.filters, -1, w.shape[4]), bias, y, epilogue)

    return Plan("depthwise", run, convolve.work, tuning.DEPTHWISE_TASKS, takes=frozenset({"relu", "norm"}))


def _gradient_input(p: Problem) -> Plan:
    lanes = _lanes(p.filters, p.channels, p.groups, p.dtype.itemsize, WIDEST, False)
    reach = _reach(p.window, p.outputs, p.inputs, True)
    convolve = _Convolution(p, p.x_shape, reach, lanes, p.filters // p.groups, True)

    def run(op: str, threads: int, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, bias: None) -> None:
        convolve(threads, dy, w.reshape(p.filters, -1, w.shape[4]), None, dx)

    return Plan("depthwise", run, convolve.work, tuning.DEPTHWISE_TASKS)


def _gradient_weights(p: Problem) -> Plan:
    lanes, x_is_source = _gradient_lanes(p.channels, p.filters, p.groups, p.dtype)
    taps = math.prod(p.window.kernel)
    shape = (len(lanes.filters), taps, lanes.masks.shape[1], lanes.filters.shape[1])
    nbytes = math.prod(shape) * p.dtype.itemsize
    tasks = max(
        1,
        min(tuning.DEPTHWISE_TASKS, get_workspace_limit() // 2 // nbytes, -(-p.pixels // tuning.DEPTHWISE_SUM_PIXELS)),
    )
    reach = _reach(p.window, p.inputs, p.outputs, False)
    work, prefetches = _work(p, p.y_shape, taps * p.w_shape[4]), _bytes(p) > tuning.CACHED_BYTES

    def run(op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: None) -> None:
        partial = allocate(op, (tasks, *shape), x.dtype)
        depthwise.gradient_weights(
            x, dy, partial, reach, lanes, x_is_source, tuning.DEPTHWISE_SUM_PIXELS, prefetches, threads
        )
        total = allocate(op, shape, x.dtype)
        reduce.add_in_order(partial.reshape(tasks, -1), total.reshape(-1), threads)
        depthwise.unpack(total, p.groups, not x_is_source, *lanes.at, dw.reshape(p.filters, taps, -1))

    return Plan("depthwise", run, work, tuning.DEPTHWISE_TASKS, shared=(tasks + 1) * nbytes)


class _Convolution:
    """Fills y of x."""

    def __init__(
        self, p: Problem, y_shape: Ints, reach: Reach, lanes: Lanes, sources: int, exchanged: bool = False
    ) -> None:  # fmt: skip
        """exchanged: of dx, whose filters are the channels of w."""
        self.sources, self.groups, self.exchanged = sources, p.groups, exchanged
        self.reach, self.lanes = reach, lanes
        self.length = min(tuning.DEPTHWISE_SEGMENT_PIXELS, y_shape[3])
        self.tasks = min(tuning.DEPTHWISE_TASKS, math.prod(y_shape[:3]) * -(-y_shape[3] // self.length))
        self.prefetches = _bytes(p) > tuning.CACHED_BYTES
        far = math.prod(y_shape) * p.dtype.itemsize >= tuning.DEPTHWISE_NON_TEMPORAL_BYTES
        self.far = far and _fits_vectors(y_shape[4], p.dtype.itemsize, lanes)
        self.work = _work(p, y_shape, math.prod(p.window.kernel) * sources)

    def __call__(
        self, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
        epilogue: Epilogue = NOTHING,
    ) -> None:  # fmt: skip
        """w (filters, taps, channels of a group)."""
        filters = self.lanes.filters
        packed = np.empty((len(filters), w.shape[1], self.sources, filters.shape[1]), w.dtype)
        depthwise.pack(w, self.groups, self.exchanged, filters, packed)
        if bias is not None:
            bias = picked(bias, filters)
        if epilogue.norm is not None:
            epilogue = epilogue._replace(norm=picked(epilogue.norm, filters, 1))
        far = self.far and y.ctypes.data % depthwise.STREAMED_BYTES == 0
        depthwise.forward(
            x, packed, bias, y, self.reach, self.lanes, self.length, self.tasks, self.prefetches, far, epilogue,
            threads,
        )  # fmt: skip


def _fits_vectors(channels: int, itemsize: int, lanes: Lanes) -> bool:
    """Whether every block of lanes is a whole vector in y, of as many bytes as go past the caches at once."""
    whole = lanes.useful * itemsize == lanes.nbytes == depthwise.STREAMED_BYTES
    aligned = channels * itemsize % depthwise.STREAMED_BYTES == 0
    return whole and aligned and not (lanes.block[:, 1] % lanes.useful).any()


def _bytes(p: Problem) -> int:
    """Of x and y."""
    return (math.prod(p.x_shape) + math.prod(p.y_shape)) * p.dtype.itemsize


def _work(p: Problem, y_shape: Ints, multiply_adds: int) -> int:
    return _bytes(p) + math.prod(y_shape) * multiply_adds // 4


# --- which channels share a vector -----------------------------------------------------------------------------------


class Lanes(NamedTuple):
    """Blocks of filters that are computed side by side, and the channels that they take from their source.

    A block takes the source's channels from `block[b, 0]` on, and its lanes are the filters from `block[b, 1]` on, of
    which `useful` from `block[b, 2]` on count. A last block that the filters do not fill overlaps the one before it.
    """

    nbytes: int  # of a vector
    kind: int
    useful: int
    block: np.ndarray  # (blocks, 3)
    masks: np.ndarray  # (blocks, sources, vector): the lane of the source's vector that each lane takes
    filters: np.ndarray  # (blocks, vector): the filter of each lane, any where none counts
    at: tuple[np.ndarray, np.ndarray]  # of each filter the block and the lane


@lru_cache(maxsize=256)
def _lanes(channels: int, filters: int, groups: int, itemsize: int, widest: int, loaded: bool) -> Lanes:
    """`channels` are the source's, `filters` the lanes' side; loaded: a vector of filters must lie inside the array."""
    inside, outside = channels // groups, filters // groups
    nbytes = widest
    while nbytes >= 16:
        vector = nbytes // itemsize
        if outside >= vector or inside == outside == 1 <= vector <= channels:
            break
        if max(inside, outside) <= vector <= channels and (filters >= vector or not loaded):
            break
        nbytes //= 2
    else:
        nbytes, vector = itemsize, 1
    if inside == outside == 1 and channels >= vector:
        kind, useful = PLAIN, vector
        first = np.minimum(np.arange(0, filters, vector), filters - vector)
        source = first
    elif outside >= vector:
        kind, useful = BROADCAST, vector
        group = np.arange(groups)[:, None]
        first = group * outside + np.minimum(np.arange(0, outside, vector), outside - vector)
        source = np.broadcast_to(group * inside, first.shape).reshape(-1)
        first = first.reshape(-1)
    else:
        kind = PERMUTED
        whole = min(vector // max(inside, outside), groups)  # groups of a block
        group = np.minimum(np.arange(0, groups, whole), groups - whole)
        useful, first = whole * outside, group * outside
        source = np.minimum(group * inside, channels - vector)
    begin = np.minimum(first, filters - vector) if loaded else first
    skip = first - begin
    lane = np.arange(vector)
    which = np.minimum(begin[:, None] + lane, filters - 1)
    wanted = (which // outside * inside - source[:, None])[:, None] + np.arange(inside)[:, None]
    block_of, lane_of = np.empty(filters, np.intp), np.empty(filters, np.intp)
    counts = (lane >= skip[:, None]) & (lane < skip[:, None] + useful)
    block_of[which[counts]], lane_of[which[counts]] = np.nonzero(counts)
    masks = np.clip(wanted, 0, vector - 1).astype(np.int32)
    block = np.stack([source, begin, skip], axis=1).astype(np.intp)
    return Lanes(nbytes, kind, useful, block, masks, which, (block_of, lane_of))


def _gradient_lanes(channels: int, filters: int, groups: int, dtype: np.dtype) -> tuple[Lanes, bool]:
    """For a gradient to the weights: the lanes, and whether they are filters, that take from x; else the reverse."""
    x_is_source = channels == groups
    source, side = (channels, filters) if x_is_source else (filters, channels)
    return _lanes(source, side, groups, dtype.itemsize, WIDEST, True), x_is_source


# --- which taps an output sees ---------------------------------------------------------------------------------------


class Reach(NamedTuple):
    """Where every output finds its taps; per axis first. Output `phase + phases * q` of an axis sees, in steps of
    `dilation`, the input from `position + q * stride` on, with every `turn`-th tap. In Py_ssize_t all tables."""

    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    turn: tuple[int, ...]
    stride: int  # along the last axis
    planes: np.ndarray  # (o0, 3): position and number of the first tap inside, taps inside
    rows: np.ndarray  # (o1, 3)
    phase: np.ndarray  # (phases, 5): position and number of tap 0 for q = 0, taps, the q with all taps inside
    inside: np.ndarray  # (phases, taps, 2): of each tap the q for which it lies inside


class _Axis(NamedTuple):
    """One axis of a Reach: `phases` holds position and number of tap 0 for q = 0, and the number of taps."""

    stride: int
    dilation: int
    turn: int
    phases: list[tuple[int, int, int]]


@lru_cache(maxsize=256)
def _reach(window: Window, inputs: tuple[int, ...], outputs: tuple[int, ...], transposed: bool) -> Reach:
    """transposed: the adjoint, whose inputs are the window's outputs and whose outputs are its inputs."""
    axes = []
    for axis in range(3):
        stride, dilation = window.stride[axis], window.dilation[axis]
        stride = 1 if (inputs if transposed else outputs)[axis] == 1 else stride  # of any size
        dilation = 1 if window.kernel[axis] == 1 else dilation
        before = window.padding[axis][0]
        if transposed:
            axes.append(_transposed_axis(window.kernel[axis], stride, before, dilation, outputs[axis]))
        else:
            axes.append(_Axis(stride, dilation, 1, [(-before, 0, window.kernel[axis])]))
    last = axes[2]
    taps = max(1, *(taps for _, _, taps in last.phases))
    phase = np.zeros((len(last.phases), 5), np.intp)
    inside = np.zeros((len(last.phases), taps, 2), np.intp)
    for number, (position, tap, taps) in enumerate(last.phases):
        at = position + np.arange(taps) * last.dilation
        count = len(range(number, outputs[2], len(last.phases)))
        low, high = (-((at - n) // last.stride) for n in (0, inputs[2]))
        inside[number, :taps, 0], inside[number, :taps, 1] = low, high
        phase[number] = position, tap, taps, low.max(initial=0), high.min(initial=count)
    planes, rows = (_lines(axes[axis], inputs[axis], outputs[axis]) for axis in range(2))
    dilations, turns = tuple(axis.dilation for axis in axes), tuple(axis.turn for axis in axes)
    return Reach(window.kernel, dilations, turns, last.stride, planes, rows, phase, inside)


def _transposed_axis(kernel: int, stride: int, before: int, dilation: int, outputs: int) -> _Axis:
    """Input i is reached from output (i + before - t * dilation) / stride where that is whole: every `step`-th tap."""
    common = math.gcd(stride, dilation)
    step = stride // common
    found = []
    for first in range(min(stride, outputs)):
        origin = first + before
        tap = next((t for t in range(min(step, kernel)) if (origin - t * dilation) % stride == 0), None)
        taps = 0 if tap is None else len(range(tap, kernel, step))
        last = 0 if tap is None else tap + (taps - 1) * step
        found.append(((origin - last * dilation) // stride, last, taps))
    return _Axis(1, dilation // common, -step, found)


def _lines(axis: _Axis, inputs: int, outputs: int) -> np.ndarray:
    table = np.empty((outputs, 3), np.intp)
    for number, (position, tap, taps) in enumerate(axis.phases):
        part = table[number :: len(axis.phases)]
        at = position + np.arange(len(part)) * axis.stride
        low, high = (np.clip(-((at - n) // axis.dilation), 0, taps) for n in (0, inputs))
        part[:, 0] = at + low * axis.dilation
        part[:, 1] = tap + low * axis.turn
        part[:, 2] = np.maximum(high - low, 0)
    return table
