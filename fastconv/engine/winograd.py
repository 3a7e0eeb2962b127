"""The algorithm "winograd": fewer multiplications for kernels of 2, 3 and 5 taps a stride, in float32.

A tile of 6 x 6 inputs gives 4 x 4 outputs of a 3x3 kernel, or 2 x 2 of a 5x5 one, with 36 multiplications a channel
instead of 144 or 100; 5 x 5 inputs give 4 x 4 outputs of a 2x2 kernel with 25 instead of 64; along one axis 6 inputs
give 4 or 2 outputs with 6 instead of 12 or 10, 5 give 4 with 5 instead of 8 (Winograd 1980; Lavin and Gray 2016, "Fast
Algorithms for Convolutional Neural Networks"). Arrays are those of engine.contract; without a stride w is also read
as it lies in a net, taps last. Tiles lie along the last two axes, the first axis' taps are summed
in the products; a dilated kernel sees every so many-th pixel, and tiles are cut from those.

With a stride, a kernel is several smaller ones, each of every so many-th tap and over every so many-th pixel: 4x4/2 is
four of 2x2, and so is 3x3/2, with zeros for the taps that lack. Forward, and for the gradient to the weights, they are
summed in the products; the gradient to the input is one convolution for each of its phases (engine.phases).

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

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import reduce
from fastconv._ext.conv import winograd as kernels
from fastconv.arrays import contiguous, copy_into
from fastconv.engine import tuning
from fastconv.engine.constants import made_of, place_of
from fastconv.engine.contract import NOTHING, Direction, Epilogue, Ints, Plan, Problem
from fastconv.engine.phases import ONES, phases
from fastconv.machine import simd
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for
from fastconv.window import Window

__all__ = ["cost", "plan"]

OUTPUTS = {taps: outputs for taps, (outputs, _) in kernels.TILES.items()}  # of a tile along an axis, by the taps
POINTS = {taps: points for taps, (_, points) in kernels.TILES.items()}  # inputs of a tile
KERNELS = ((3, 3), (5, 5), (2, 2), (1, 3), (1, 5), (1, 2), (3, 1), (5, 1), (2, 1))
ONE_TAP = (1, 1)  # a phase may have no more
WIDEST = simd.SIMD_BYTES  # of a vector
ALIGNED = 16  # floats: rows are whole vectors of any width
BY_NAME = 1e9  # a cost that "auto" never takes


class Tiling(NamedTuple):
    """Where the tiles of an image lie."""

    out: Ints  # outputs along each axis
    first: Ints  # where the first one lies in y
    apart: Ints  # steps to the next one there
    phases: Ints  # of x, along rows and columns
    whole: Ints  # of them, the first ones, that have all taps
    at: tuple[np.ndarray, ...]  # the first output row, and column, of each tile
    zeros: np.ndarray  # what lies outside the image: as many as a pixel's channels
    frequencies: int


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
    def work(self) -> int:
        """As threads are worth it: about 50 microseconds of products each, for waking them is not free."""
        multiplied = self.groups * self.frequencies * self.tiles * self.steps * self.filters
        return multiplied // tuning.WINOGRAD_PRODUCTS_PER_BYTE


Layout = tuple[Tiling, Sizes]


def _serves(direction: Direction, problem: Problem) -> bool:
    """float32; kernels of 2x2, 3x3 or 5x5 taps a stride, or 2, 3 or 5 along one axis; dilation of rows and columns, but
    not with a stride, whose copy of the weights must fit half of the workspace limit."""
    window = problem.window
    if (
        problem.dtype != np.float32
        or window.dilation[0] != 1
        or any(stride > 1 and step > 1 for stride, step in zip(window.stride, window.dilation, strict=True))
        or min(problem.channels, problem.filters) < problem.groups
        or _copied(problem) > get_workspace_limit() // 2
    ):
        return False
    if direction == "gradient_input" and window.stride != ONES:
        kernels = [part.window.kernel[1:] for part in _parts(window, problem.inputs)]
        return any(kernel in KERNELS for kernel in kernels) and all(k in KERNELS or k == ONE_TAP for k in kernels)
    return _phased(window).kernel[1:] in KERNELS


def cost(direction: Direction, problem: Problem) -> float:
    """Multiplications over those of the definition, and the transforms: of a tile as much as of some channels (tuning)
    more that are written, or read and summed. Layers of many channels and few outputs are weighed with what weights
    cost the other algorithms."""
    if not _serves(direction, problem):
        return math.inf
    window = problem.window
    read, written = problem.channels // problem.groups, problem.filters // problem.groups
    parts = [(window, problem.outputs)]
    if direction == "gradient_input":
        read, written = written, read
        parts = [(part.window, part.out) for part in _parts(window, problem.inputs)]
    if min(read, written) < tuning.WINOGRAD_CHANNELS:
        return BY_NAME
    total = 0.0
    for part, out in parts:
        phased = _phased(part).kernel
        tiles, multiplied = out[0], part.kernel[0]
        for n, own, taps, step, stride in zip(
            out[1:], phased[1:], part.kernel[1:], part.dilation[1:], part.stride[1:], strict=True
        ):
            tiles *= sum(-(-len(range(first, n, step)) // OUTPUTS[own]) for first in range(min(step, n)))
            multiplied *= POINTS[own] * min(taps, stride) - (own * stride - taps if own > 1 else 0)
        transforms = tuning.WINOGRAD_TRANSFORM_CHANNELS / written + tuning.WINOGRAD_TRANSFORM_CHANNELS / (
            read * phased[0]
        )
        lanes = -(-written // tuning.WINOGRAD_PRODUCT_LANES) * tuning.WINOGRAD_PRODUCT_LANES / written
        total += (
            lanes * tiles * multiplied * (1 + transforms + tuning.WINOGRAD_FILTER_TILES / max(1, tiles * problem.batch))
        )
    outputs: float = math.prod(problem.outputs)
    if window.stride != ONES:
        total *= (
            tuning.WINOGRAD_PHASES_WRITTEN_COST if direction == "gradient_input" else tuning.WINOGRAD_PHASES_READ_COST
        )
    elif min(read, written) >= tuning.WINOGRAD_SMALL_LAYER_CHANNELS:
        outputs += tuning.WINOGRAD_WEIGHT_OUTPUTS / max(1, problem.batch)
    return total / (outputs * math.prod(window.kernel))


def plan(direction: Direction, problem: Problem) -> Plan:
    return {"forward": _forward, "gradient_input": _gradient_input, "gradient_weights": _gradient_weights}[direction](
        problem
    )


def _forward(p: Problem) -> Plan:
    layout = _layout(p.x_shape, p.y_shape, p.window, p.groups)
    convolve = _Convolution(p, layout, _phased(p.window), False)

    def run(
        op: str, threads: int, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
        epilogue: Epilogue = NOTHING,
    ) -> None:  # fmt: skip
        convolve(op, x, _split(op, w, p.window), bias, y, epilogue)

    return _plan(p, run, [convolve], "relu", "norm", "addend")


def _gradient_input(p: Problem) -> Plan:
    parts = _parts(p.window, p.inputs)
    whole = len(parts) == math.prod(map(min, p.window.stride, p.inputs))
    convolutions = [
        _Convolution(p, _layout(p.y_shape, p.x_shape, part.window, p.groups, *part[2:]), part.window, True)
        for part in parts
    ]

    def run(op: str, threads: int, dy: np.ndarray, w: np.ndarray, dx: np.ndarray, bias: np.ndarray | None) -> None:
        if not whole:
            copy_into(dx, 0 if bias is None else bias)  # inputs that no window sees
        for ((t0, t1, t2), *_), convolve in zip(parts, convolutions, strict=True):
            w_part = w if p.window.stride == ONES else contiguous(op, w[:, t0, t1, t2])
            convolve(op, dy, w_part, bias, dx)

    return _plan(p, run, convolutions)


def _plan(p: Problem, run: Callable[..., None], convolutions: list[_Convolution], *takes: str) -> Plan:
    return Plan(
        "winograd", run, max((each.work for each in convolutions), default=0),
        max((each.cut.most for each in convolutions), default=1),
        max((4 * max(each.cut.own, each.apart.own) for each in convolutions), default=0),
        max((4 * each.cut.shared for each in convolutions), default=0) + _copied(p), frozenset({"bias", *takes}),
        taps_last=p.window.stride == ONES,
    )  # fmt: skip


class _Convolution:
    """Fills the outputs of y that a layout says: forward; reversed: gradient_input, with dy for x and dx for y."""

    def __init__(self, p: Problem, layout: Layout, window: Window, reversed: bool) -> None:
        self.tiling, sizes = layout
        self.window, self.groups, self.reversed = window, p.groups, reversed
        self.work, self.vector = sizes.work, WIDEST
        self.cut, self.apart = _cut_forward(sizes, WIDEST // 4, _limit(p))
        self.row = max(sizes.v_row, sizes.m_row) if self.cut.by_blocks else sizes.v_row

    def __call__(
        self, op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
        epilogue: Epilogue = NOTHING,
    ) -> None:  # fmt: skip
        """w may lie taps last in memory."""
        taps_last = not w.flags.c_contiguous
        if taps_last:
            w = w.transpose(0, 4, 1, 2, 3)
        threads = threads_for(self.work, self.cut.most)
        kept = made_of(w) if self.cut.by_blocks and not self.reversed else None
        cut = self.cut if kept is not None else _fitting(threads, self.cut, self.apart)
        scratch, far = cut.scratch(op, threads, y.dtype), y.nbytes >= tuning.NON_TEMPORAL_BYTES
        if cut.by_blocks:
            u, buffers = scratch
            key = None if kept is None else ("winograd", u.shape, taps_last, place_of(w))
            ready = kept is not None and key in kept
            if kept is not None:
                u = kept.get(key, u)
            kernels.forward_blocks(
                x, w, bias, y, self.window, self.groups, self.reversed, taps_last, self.tiling, u, ready, buffers,
                self.row, _plane(cut.tiles, self.row), cut.tiles, self.vector, epilogue, far, threads,
            )  # fmt: skip
            if kept is not None:
                kept[key] = u
        else:
            v, u, m = scratch
            kernels.forward_panels(
                x, w, bias, y, self.window, self.groups, self.reversed, taps_last, self.tiling, v, u, m, self.row,
                cut.tiles, *cut.part, self.vector, epilogue, far, threads,
            )  # fmt: skip


def _gradient_weights(p: Problem) -> Plan:
    """Runs of tiles are summed apart, and the sums added in order."""
    phased, vector = _phased(p.window), WIDEST
    tiling, sizes = _layout(p.x_shape, p.y_shape, p.window, p.groups)
    split_shape = (p.filters, *phased.kernel, p.w_shape[4])
    size = math.prod(split_shape)
    cut, apart = _cut_weights(sizes, size, _limit(p))
    row = max(sizes.v_row, sizes.m_row)
    planes = _plane(cut.tiles, row), _plane(sizes.filters, row)

    def run(op: str, threads: int, x: np.ndarray, dy: np.ndarray, dw: np.ndarray, db: None) -> None:
        split = dw if phased.kernel == p.window.kernel else allocate(op, split_shape, dy.dtype)
        sums = split[None] if cut.runs == 1 else allocate(op, (cut.runs, *split_shape), dy.dtype)
        scratch = _fitting(threads, cut, apart).scratch(op, threads, dy.dtype)
        if cut.by_blocks:
            [buffers] = scratch
            kernels.gradient_weights_blocks(
                x, dy, sums.reshape(cut.runs, p.groups, -1), phased, p.groups, tiling, buffers, row, *planes,
                cut.tiles, vector, threads,
            )  # fmt: skip
        else:
            v, m, u = scratch
            kernels.gradient_weights_pieces(
                x, dy, sums, phased, p.groups, tiling, v, m, u, sizes.v_row, sizes.m_row, cut.tiles, *cut.part,
                tuning.WINOGRAD_PIECE_TILES, vector, threads,
            )  # fmt: skip
        if cut.runs > 1:
            reduce.add_in_order(sums.reshape(cut.runs, -1), split.reshape(-1), threads_for(sums.nbytes))
        if split is not dw:
            _join(split, dw, p.window)

    shared = cut.shared + (cut.runs * size if cut.runs > 1 else 0)
    return Plan("winograd", run, sizes.work, cut.most, 4 * max(cut.own, apart.own), 4 * shared + _copied(p))


# --- how a layer is cut ----------------------------------------------------------------------------------------------


class Cut(NamedTuple):
    by_blocks: bool
    tiles: int  # of a block, or of what is transformed before the products
    part: tuple[int, int]  # steps and filters, or filters and channels, that are taken at a time
    together: tuple[Ints, ...]  # the shapes of what all threads share, (1, …), and
    each: tuple[Ints, ...]  # of what each has for itself
    most: int  # threads that fit the workspace limit
    runs: int = 1  # of tiles that are summed, or may be transformed, apart

    @property
    def shared(self) -> int:
        """Elements."""
        return sum(map(math.prod, self.together))

    @property
    def own(self) -> int:
        return sum(map(math.prod, self.each))

    def scratch(self, op: str, threads: int, dtype: np.dtype) -> list[np.ndarray]:
        """What all share, then what each thread has."""
        return [allocate(op, shape, dtype) for shape in (*self.together, *((threads, *one) for one in self.each))]

    def apart(self, limit: int) -> Cut:
        """The same with nothing shared, where each thread takes runs of tiles from end to end; limit: in floats."""
        alone = self._replace(together=(), each=tuple(one[1:] for one in self.together) + self.each)
        return alone._replace(most=limit // alone.own)


def _fitting(threads: int, together: Cut, apart: Cut) -> Cut:
    """Whether all threads work on the same tiles, or each on runs of its own, if these keep them busy: what another
    core has written may lie in another cache, from where it takes long to come. The results are the same."""
    rounds = -(-apart.runs // threads)
    is_full = apart.runs >= tuning.WINOGRAD_FULL_ROUNDS * rounds * threads
    return apart if 1 < threads <= apart.most and is_full else together


def _cut_forward(s: Sizes, lanes: int, limit: int) -> tuple[Cut, Cut]:
    """Scratch: U and the threads' blocks (V, M); or V, the threads' panels of U and of M. Together; and apart, where
    each thread has a small U of its own, or its own V."""
    limit //= 4  # floats
    f, pair = s.frequencies, 2 * lanes
    u = f * (s.steps * -(-s.filters // lanes) * lanes + ALIGNED)
    row = max(s.v_row, s.m_row)
    if u * 4 <= tuning.WINOGRAD_SHARED_BYTES and s.groups * u <= limit // 2:
        affordable = (limit - s.groups * u) // ((f + 1) * row)
        best = max(
            tuning.WINOGRAD_ROWS,
            tuning.WINOGRAD_BLOCK_BYTES // 4 // ((f + 1) * row) // tuning.WINOGRAD_ROWS * tuning.WINOGRAD_ROWS,
        )
        tiles = _evenly(
            s.tiles, max(1, min(best, max(tuning.WINOGRAD_FEW_ROWS, -(-s.tiles // tuning.TASKS)), affordable - 1))
        )
        buffer = (f + 1) * _plane(tiles, row)
        most = max(1, (limit - s.groups * u) // buffer)
        cut = Cut(True, tiles, (s.steps, s.filters), ((1, s.groups, f, u // f),), ((buffer,),), most)
        if s.groups * u * 4 > tuning.WINOGRAD_OWN_FILTERS_BYTES:
            return cut, cut
        return cut, cut.apart(limit)._replace(runs=s.groups * -(-s.tiles // tiles))
    together = _cut_panels(s, pair, tuning.WINOGRAD_PANEL_TILES, limit)
    runs = -(-s.tiles // tuning.WINOGRAD_ALONE_TILES)
    runs = runs if runs < 3 else -(-runs // 4) * 4  # that two or four threads have as many each
    apart = _cut_panels(s, pair, -(-s.tiles // runs), limit).apart(limit)
    return together, apart._replace(runs=s.groups * -(-s.tiles // apart.tiles))


def _cut_panels(s: Sizes, pair: int, most_tiles: int, limit: int) -> Cut:
    """What `_cut_forward` says of V and panels; limit: in floats."""
    f = s.frequencies
    tiles = _evenly(s.tiles, max(1, min(most_tiles, limit // 2 // (f * (s.v_row + pair)))))
    v = _plane(tiles, s.v_row)
    room = (limit - f * v) // f
    wide = _evenly(-(-s.filters // pair), max(1, min(tuning.WINOGRAD_PANEL_FILTERS, room // 2 // tiles) // pair)) * pair
    steps = _evenly(s.steps, max(1, min(tuning.WINOGRAD_PANEL_STEPS, room // 2 // wide)))
    own_u, own_m = _plane(steps, wide), _plane(tiles, wide)
    most = max(1, room // (own_u + own_m))
    return Cut(False, tiles, (steps, wide), ((1, f, v),), ((f, own_u), (f, own_m)), most)


def _cut_weights(s: Sizes, weights: int, limit: int) -> tuple[Cut, Cut]:
    """Scratch: the threads' blocks (V, dM, dU); or V, dM and the threads' pieces of dU. Together, and apart."""
    limit //= 4  # floats
    f, row = s.frequencies, max(s.v_row, s.m_row)
    own = f * _plane(s.filters, row)
    if (
        own * 4 <= tuning.WINOGRAD_OWN_BYTES
        and own <= limit // 4
        and s.tiles * s.groups >= tuning.TASKS * tuning.WINOGRAD_CHUNK_TILES
    ):
        affordable = limit // 4 // (2 * f * row)
        best = max(
            tuning.WINOGRAD_ROWS,
            tuning.WINOGRAD_BLOCK_BYTES // 4 // (2 * f * row) // tuning.WINOGRAD_ROWS * tuning.WINOGRAD_ROWS,
        )
        tiles = max(1, min(best, affordable, -(-s.tiles // tuning.TASKS)))
        wanted = max(tuning.TASKS, s.tiles // tuning.WINOGRAD_LONGEST_SUM_TILES)
        chunks = max(
            1, min(wanted, s.tiles // tuning.WINOGRAD_CHUNK_TILES, -(-s.tiles // tiles), limit // 4 // weights)
        )
        buffer = own + 2 * f * _plane(tiles, row)
        most = max(1, (limit - (chunks > 1) * chunks * weights) // buffer)
        cut = Cut(True, tiles, (s.filters, s.channels), (), ((buffer,),), most, chunks)
        return cut, cut
    sums, most_sums = 1, min(tuning.TASKS, math.isqrt(s.tiles // tuning.WINOGRAD_SUM_TILES), limit // 4 // weights)
    while 2 * sums <= most_sums:
        sums *= 2
    both, each = f * (s.v_row + s.m_row), -(-s.tiles // sums)
    best = max(s.filters * s.steps // (s.filters + s.steps), tuning.WINOGRAD_SUMMED_BYTES // 4 // both)
    if sums > 1:
        best = max(int(best * tuning.WINOGRAD_SUMMED_SHARE), tuning.WINOGRAD_SUMMED_BYTES // 4 // both)
    elif each <= 2 * best:
        best = each
    tiles = _evenly(each, max(1, min(best, limit // 2 // both)))
    v, m = _plane(tiles, s.v_row), _plane(tiles, s.m_row)
    width = min(tuning.WINOGRAD_PIECE_CHANNELS, -(-s.channels // ALIGNED) * ALIGNED)
    height = _evenly(s.filters, max(1, min(tuning.WINOGRAD_PIECE_FILTERS, limit // 4 // (f * width))))
    own = _plane(height, width)
    left = limit - (sums > 1) * sums * weights
    most = max(1, (left - f * (v + m)) // (f * own))
    cut = Cut(False, tiles, (height, width), ((1, f, v), (1, f, m)), ((f, own),), most, sums)
    return cut, cut.apart(left)


def _evenly(total: int, most: int) -> int:
    """The size of pieces of `total` that are at most `most`, and nearly equal."""
    return -(-total // -(-total // most))


def _row(length: int) -> int:
    return length + ALIGNED if length % tuning.WINOGRAD_ALIASED_FLOATS == 0 else length


def _plane(count: int, row: int) -> int:
    """Floats from a frequency's rows to the next one's: an odd number of cache lines."""
    return count * row + (ALIGNED if count * row // ALIGNED % 2 == 0 else 2 * ALIGNED)


def _layout(
    x_shape: Ints, y_shape: Ints, window: Window, groups: int, out: Ints | None = None, first: Ints = (0, 0, 0),
    apart: Ints = ONES,
) -> Layout:  # fmt: skip
    """out, first, apart: the outputs that are computed, as Tiling has them; all of y where they are not said."""
    tiling = _tiling(window, out or y_shape[1:4], first, apart, max(x_shape[4], y_shape[4]))
    channels, filters, taps = x_shape[4] // groups, y_shape[4] // groups, _phased(window).kernel[0]
    tiles = y_shape[0] * tiling.out[0] * math.prod(map(len, tiling.at))
    whole, v_row = -(-filters // ALIGNED) * ALIGNED, (taps - 1) * channels + -(-channels // ALIGNED) * ALIGNED
    v_row = -(-v_row // ALIGNED) * ALIGNED
    sizes = Sizes(tiling.frequencies, tiles, taps * channels, channels, filters, groups, _row(v_row), _row(whole))
    return tiling, sizes


def _tiling(window: Window, out: Ints, first: Ints, apart: Ints, width: int) -> Tiling:
    """Tiles of so many outputs; along a dilated axis, of each of the classes of outputs that see the same inputs."""
    kernel = _phased(window).kernel[1:]
    at = []
    for n, taps, step in zip(out[1:], kernel, window.dilation[1:], strict=True):
        firsts = [np.arange(start, n, OUTPUTS[taps] * step) for start in range(min(step, n))]
        at.append(np.concatenate(firsts).astype(np.intp))
    phases = _phase_counts(window)
    whole = tuple(
        n - (taps - 1) * step for n, taps, step in zip(window.kernel[1:], kernel, window.stride[1:], strict=True)
    )
    frequencies = math.prod(POINTS[taps] for taps in kernel)
    return Tiling(out, first, apart, phases, whole, tuple(at), np.zeros(width + ALIGNED, np.float32), frequencies)


# --- strides ---------------------------------------------------------------------------------------------------------


def _phase_counts(window: Window) -> Ints:
    """Phases of rows and columns that have taps."""
    return tuple(map(min, window.kernel[1:], window.stride[1:]))


def _copied(p: Problem) -> int:
    """Bytes at most of the weights that are laid out anew for a stride, or of their gradient."""
    if p.window.stride == ONES:
        return 0
    return 4 * p.filters * p.channels // p.groups * math.prod(_phased(p.window).kernel)


def _limit(p: Problem) -> int:
    """What the copy of w leaves of the workspace limit."""
    return max(1, get_workspace_limit() - _copied(p))


def _phased(window: Window) -> Window:
    """The window over phases, which stand among the first axis' taps."""
    kernel = tuple(-(-taps // stride) for taps, stride in zip(window.kernel[1:], window.stride[1:], strict=True))
    return replace(window, kernel=(window.kernel[0] * math.prod(_phase_counts(window)), *kernel))


class Part(NamedTuple):
    """A phase of the gradient to the input: a convolution of dy."""

    taps: tuple[slice, ...]  # of w
    window: Window
    out: Ints  # as Tiling's
    first: Ints
    apart: Ints


def _parts(window: Window, inputs: Ints) -> tuple[Part, ...]:
    around = tuple((span - 1 - before, 0) for span, (before, _) in zip(window.spans, window.padding, strict=True))
    return tuple(
        Part(
            tuple(map(_mirrored, part.taps[1:], window.kernel)), part.window, _lengths(part.outputs[1:], inputs),
            part.first, part.apart,
        )
        for part in phases(Window(window.kernel, ONES, around, window.dilation, window.stride), inputs)
    )  # fmt: skip


def _mirrored(taps: slice, kernel: int) -> slice:
    """The same taps of a kernel that is not reversed, in its order."""
    count = len(range(*taps.indices(kernel)))
    last = kernel - 1 - taps.start
    return slice(last - (count - 1) * taps.step, last + 1, taps.step)


def _lengths(outputs: Sequence[slice], spatial: Ints) -> Ints:
    return tuple(len(range(*along.indices(n))) for along, n in zip(outputs, spatial, strict=True))


def _places(window: Window) -> list[tuple[Any, Any]]:
    """Of each phase of rows and columns: where its kernel lies in the split w, and where in w."""
    places = []
    for p1, p2 in itertools.product(*map(range, _phase_counts(window))):
        taps = slice(p1, None, window.stride[1]), slice(p2, None, window.stride[2])
        own = map(slice, _lengths(taps, window.kernel[1:]))
        places.append(((slice(None), p1, p2, slice(None), *own), (slice(None), slice(None), *taps)))
    return places


def _split(op: str, w: np.ndarray, window: Window) -> np.ndarray:
    """w (K, r0, r1, r2, C / groups) for the window over phases, zeros where one has fewer taps."""
    kernel = _phased(window).kernel
    if kernel == window.kernel:
        return w
    split = allocate(op, (w.shape[0], *_phase_counts(window), w.shape[1], *kernel[1:], w.shape[4]), w.dtype)
    copy_into(split, 0)
    for place, taps in _places(window):
        copy_into(split[place], w[taps])
    return split.reshape(w.shape[0], *kernel, w.shape[4])


def _join(split: np.ndarray, dw: np.ndarray, window: Window) -> None:
    """Fill dw: the adjoint of `_split`."""
    split = split.reshape(dw.shape[0], *_phase_counts(window), dw.shape[1], *_phased(window).kernel[1:], dw.shape[4])
    for place, taps in _places(window):
        copy_into(dw[taps], split[place])
