"""The algorithm "depthwise": direct loops for groups of few channels, where a matrix product has nothing to multiply.

    forward            y[o, k] = bias[k] + sum over the taps t inside and j of w[k, t, j] * x[i(o, t), group(k), j]
    gradient_input     the same sum with x and y, and a group's channels, exchanged; a stride makes it fall into phases
    gradient_weights   dw[k, t, j] = sum over o of dy[o, k] * x[i(o, t), group(k), j]

Lanes of a vector are channels (`Lanes`), outputs lie along a line of the last axis (`Reach`), and nothing is copied but
the weights, packed by vectors. Taps in the padding are left out, not multiplied by zero. Groups of 2 channels and more
are engine.grouped's, in float32 and where vectors are wide. Tasks are runs of outputs, cut
by shape; partial gradients to the weights are sums along one line, added line by line, and task by task in order.

The floor is memory traffic for 3x3 (x and y once), and otherwise one load and one multiply-add a tap.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import depthwise, rows
from fastconv.engine import grouped
from fastconv.engine.phases import ONES
from fastconv.window import Window
from fastconv.workspace import allocate, get_workspace_limit

if TYPE_CHECKING:
    from fastconv.engine import Problem

__all__ = ["cost", "forward", "gradient_input", "gradient_weights", "serves"]

WIDEST = runtime.SIMD_BYTES  # bytes of a vector
MOST_PER_GROUP = 8  # channels and filters; wider groups have enough to do for a product of matrices
TASKS = 32  # pieces that a layer is cut into where its size allows
LINE = 256  # outputs of a line's segment
CACHED = 1 << 20  # bytes of x and y, beyond which x is prefetched
FAR = 2 << 20  # bytes of y, from which on it is written past the caches
SUM_LINE = 128  # of one whose products are summed up one by one: float32 loses 1e-6 there

PLAIN, PERMUTED, BROADCAST = range(3)  # depthwise.h's
STREAMED = 64  # bytes


def serves(direction: str, problem: Problem) -> bool:
    """Groups of at most MOST_PER_GROUP channels and filters, or of one channel; what else engine.grouped serves."""
    inside, outside = problem.channels // problem.groups, problem.filters // problem.groups
    if problem.groups > 1 and (inside == 1 or max(inside, outside) <= MOST_PER_GROUP):
        return True
    return problem.groups > 1 and _in_blocks(direction, inside, outside, problem.window, problem.dtype)


def cost(direction: str, problem: Problem) -> float:
    """The lanes that stay empty, against what the others lose on narrow groups; of single channels, they lose most."""
    inside, outside = problem.channels // problem.groups, problem.filters // problem.groups
    if not _in_blocks(direction, inside, outside, problem.window, problem.dtype):
        return 0.0
    if direction != "forward":
        inside, outside = outside, inside
    return (0.7 if direction == "gradient_weights" else 0.8) * grouped.filled(problem.groups, inside, outside)


def _in_blocks(direction: str, inside: int, outside: int, window: Window, dtype: np.dtype) -> bool:
    """Whether engine.grouped serves. Of a strided window's gradient to the input it computes every phase apart."""
    if direction == "gradient_input" and window.stride != ONES and max(inside, outside) <= MOST_PER_GROUP:
        return False
    return dtype == np.float32 and grouped.serves(inside, outside, window)


def forward(
    op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window, groups: int
) -> None:
    """Fill y."""
    if not y.size:
        return
    if _in_blocks("forward", w.shape[4], y.shape[4] // groups, window, x.dtype):
        grouped.forward(op, x, w, bias, y, window, groups)
        return
    lanes = _lanes(x.shape[4], y.shape[4], groups, x.itemsize, WIDEST, False)
    reach = _reach(window, x.shape[1:4], y.shape[1:4], False)
    _run(x, w.reshape(w.shape[0], -1, w.shape[4]), bias, y, reach, lanes)


def gradient_input(
    op: str, dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], window: Window, groups: int
) -> np.ndarray:
    """dx (N, i0, i1, i2, C)."""
    dx = allocate(op, x_shape, dy.dtype)
    filters, channels = dy.shape[4], x_shape[4]
    if not dx.size:
        return dx
    if _in_blocks("gradient_input", w.shape[4], filters // groups, window, dy.dtype):
        grouped.gradient_input(op, dy, w, dx, window, groups)
        return dx
    lanes = _lanes(filters, channels, groups, dy.itemsize, WIDEST, False)
    reach = _reach(window, dy.shape[1:4], x_shape[1:4], True)
    _run(dy, _exchange(w.reshape(filters, -1, w.shape[4]), groups), None, dx, reach, lanes)
    return dx


def gradient_weights(
    op: str, x: np.ndarray, dy: np.ndarray, w_shape: tuple[int, ...], window: Window, groups: int
) -> np.ndarray:
    """dw (K, r0, r1, r2, C / groups)."""
    outputs = math.prod(dy.shape[:4])
    if not outputs:
        dw = allocate(op, w_shape, dy.dtype)
        dw[...] = 0
        return dw
    if _in_blocks("gradient_weights", w_shape[4], w_shape[0] // groups, window, x.dtype):
        dw = allocate(op, w_shape, dy.dtype)
        grouped.gradient_weights(op, x, dy, dw, window, groups)
        return dw
    lanes, x_is_source = _gradient_lanes(x.shape[4], dy.shape[4], groups, x.dtype)
    shape = (len(lanes.filters), math.prod(w_shape[1:4]), lanes.masks.shape[1], lanes.filters.shape[1])
    tasks = _partials(math.prod(shape) * x.itemsize, outputs)
    partial = allocate(op, (tasks, *shape), x.dtype)
    reach = _reach(window, x.shape[1:4], dy.shape[1:4], False)
    prefetches, threads = x.nbytes + dy.nbytes > CACHED, _threads(x, dy, math.prod(w_shape[1:]))
    depthwise.gradient_weights(x, dy, partial, reach, lanes, x_is_source, SUM_LINE, prefetches, threads)
    total = allocate(op, shape, x.dtype)
    rows.add_in_order(partial.reshape(tasks, -1), total.reshape(-1), threads)
    dw = total.transpose(0, 3, 1, 2)[lanes.at]  # (lanes' side, taps, sources)
    if not x_is_source:
        dw = _exchange(dw, groups)
    return np.ascontiguousarray(dw.reshape(w_shape))


def _run(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, reach: Reach, lanes: Lanes) -> None:
    """Fill y; w is (filters, taps, channels of a group)."""
    if not y.size:
        return
    length = min(LINE, y.shape[3])
    tasks = min(TASKS, math.prod(y.shape[:3]) * -(-y.shape[3] // length))
    packed = np.ascontiguousarray(w[lanes.filters].transpose(0, 2, 3, 1))
    if bias is not None:
        bias = bias[lanes.filters]
    prefetches, far = x.nbytes + y.nbytes > CACHED, y.nbytes >= FAR and _fits_vectors(y, lanes)
    threads = _threads(x, y, math.prod(w.shape[1:]))
    depthwise.forward(x, packed, bias, y, reach, lanes, length, tasks, prefetches, far, threads)


def _fits_vectors(y: np.ndarray, lanes: Lanes) -> bool:
    """Whether every block of lanes is a whole vector of STREAMED bytes in y, aligned."""
    whole = lanes.useful * y.itemsize == lanes.nbytes == STREAMED and not (lanes.block[:, 1] % lanes.useful).any()
    return bool(whole) and y.shape[4] * y.itemsize % STREAMED == 0 and y.ctypes.data % STREAMED == 0


def _threads(x: np.ndarray, y: np.ndarray, multiply_adds: int) -> int:
    return runtime.threads_for(x.nbytes + y.nbytes + y.size * multiply_adds // 4)


def _exchange(w: np.ndarray, groups: int) -> np.ndarray:
    """w (K, taps, C / groups) as (C, taps, K / groups), and back."""
    grouped = w.reshape(groups, -1, *w.shape[1:])  # (groups, K / groups, taps, C / groups)
    return grouped.transpose(0, 3, 2, 1).reshape(-1, w.shape[1], grouped.shape[1])


def _partials(nbytes: int, outputs: int) -> int:
    """Tasks that each have a partial gradient of so many bytes."""
    return max(1, min(TASKS, get_workspace_limit() // 2 // nbytes, -(-outputs // SUM_LINE)))


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
