"""Kernels that only move memory against memcpy: bytes a second, each input read once and each output written once.

    python bench/memory.py                      arrays of 64 MB, float32, one thread
    python bench/memory.py --threads 2 --clock wall   on an idle machine; else the threads' CPU time, a thread
    python bench/memory.py -k layout --dtype float64 --rounds 31

A round times memcpy (whole, which goes past the caches; in pieces of 256 KB, which does not; whichever is faster) and
then the kernel, in one process. The table has the rates of minima and medians, and memcpy's over the kernel's: 1.0 is
as fast, 1.3 the goal. Of an input of which parts are skipped, what shares a line of 64 bytes with what is not counts as
read; the last column counts all of it. A lowering is held against memcpy into a tile of its size, in the cache, as the
convolution uses it.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import fastconv
from fastconv import functional as F
from fastconv import optim
from fastconv._ext import resampling
from fastconv._ext.conv import lowering
from fastconv.arrays import channels_last, logical
from fastconv.machine.memory import allocate
from fastconv.ops.common import contiguous
from fastconv.window import Window

PIECE = 256 << 10
LINE = 64


class Case(NamedTuple):
    name: str
    call: Callable[[], object]
    nbytes: int  # read and written
    whole: int = 0  # the same with what is skipped
    tile: int = 0  # bytes that memcpy is to write, where not as many


def array(dtype: np.dtype, *shape: int) -> np.ndarray:
    made = allocate("memory", shape, dtype)
    made[...] = 0
    return made


def touched(dtype: np.dtype, channels: int, factor: int) -> float:
    """The share of a line of records that is read where every factor-th of them is kept."""
    record = channels * dtype.itemsize
    gap = record * (factor - 1)
    return 1.0 if gap < LINE else min(1.0, (record + LINE * (record % LINE > 0)) / (record * factor))


def layouts(dtype: np.dtype, nbytes: int) -> Iterator[Case]:
    shapes = [(c, side) for c in (3, 16, 64, 100) for side in (224, 56)] + [(512, 14), (100, 55), (2048, 7)]
    for c, side in shapes:
        n = max(1, nbytes // (c * side * side * dtype.itemsize))
        x = array(dtype, n, c, side, side)
        yield Case(f"layout: N C H W to N H W C, {c} at {side}", lambda x=x: channels_last("memory", x), 2 * x.nbytes)
        x = logical(array(dtype, n, side, side, c))
        yield Case(f"layout: N H W C to N C H W, {c} at {side}", lambda x=x: contiguous("memory", x), 2 * x.nbytes)


def samples(dtype: np.dtype, nbytes: int) -> Iterator[Case]:
    for c in (1, 3, 16, 64, 100):
        for factor, side in ((2, 224), (3, 222), (2, 56)):
            n = max(1, nbytes // (c * side * side * dtype.itemsize))
            x = logical(array(dtype, n, side, side, c))
            kept = int(x.nbytes / factor * touched(dtype, c, factor)), x.nbytes // factor**2
            yield Case(
                f"downsample by {factor}, {c} at {side}", lambda x=x, f=factor: F.downsample(x, f), sum(kept),
                x.nbytes + kept[1],
            )  # fmt: skip
            half = side // factor
            x = logical(array(dtype, n, half, half, c))
            out = n * c * ((half - 1) * factor + 1) ** 2 * dtype.itemsize
            yield Case(f"upsample by {factor}, {c} at {half}", lambda x=x, f=factor: F.upsample(x, f), x.nbytes + out)
    for c in (1, 3, 16, 64, 100):
        side = 224
        n = max(1, nbytes // (c * side * side * dtype.itemsize))
        for size in (112, 160, 448):
            x = logical(array(dtype, n if size <= side else max(1, n // 4), side, side, c))
            out = x.shape[0] * c * size * size * dtype.itemsize
            read = x.nbytes
            if size * 2 <= side:
                read = int(x.nbytes / 2 * touched(dtype, c, 2))
            elif size < side:
                read = x.nbytes * size // side
            yield Case(
                f"resize to nearest {side} to {size}, {c}", lambda x=x, s=size: F.resize(x, size=s), read + out,
                x.nbytes + out,
            )  # fmt: skip


def places(dtype: np.dtype, nbytes: int) -> Iterator[Case]:
    """A phase of a convolution to its places among the others: what lies between is read and written where it shares
    lines."""
    for c in (1, 3, 16, 64, 100):
        side = 224
        n = max(1, nbytes // (c * side * side * dtype.itemsize))
        wide, narrow = array(dtype, n, 1, side, side, c), array(dtype, n, 1, side // 2, side // 2, c)
        lines = int(wide.nbytes / 2 * touched(dtype, c, 2))
        whole = c * dtype.itemsize % LINE == 0
        yield Case(
            f"place every second, {c} at {side}",
            lambda wide=wide, narrow=narrow: resampling.place_every(
                narrow, wide, (1, 2, 2), (0, 1, 1), fastconv.get_num_threads()
            ),
            narrow.nbytes + (narrow.nbytes if whole else 2 * lines),
        )


def optimisers(dtype: np.dtype, nbytes: int) -> Iterator[Case]:
    p, g = {"p": array(dtype, nbytes // dtype.itemsize)}, {"p": array(dtype, nbytes // dtype.itemsize)}
    for name, optimizer, arrays in (
        ("SGD", optim.SGD(1e-3), 3),
        ("SGD with momentum", optim.SGD(1e-3, momentum=0.9), 5),
        ("Adam", optim.Adam(1e-3), 7),
        ("RMSprop", optim.RMSprop(1e-3), 5),
    ):
        yield Case(f"optimiser: {name}", lambda o=optimizer: o.step(p, g), arrays * nbytes)


def copies(dtype: np.dtype, nbytes: int) -> Iterator[Case]:
    x = array(dtype, 1, 1, 1, nbytes // dtype.itemsize, 1)
    y = array(dtype, *x.shape)
    threads = fastconv.get_num_threads
    yield Case("copy", lambda: resampling.keep_every(x, y, (1, 1, 1), (0, 0, 0), threads()), 2 * nbytes)


def lowerings(dtype: np.dtype, nbytes: int) -> Iterator[Case]:
    """Of one image each, of about half of a core's second cache."""
    for kernel, c, side, stride in (
        (3, 1, 96, 1), (3, 3, 56, 1), (3, 16, 24, 1), (3, 64, 14, 1), (3, 100, 10, 1), (3, 256, 7, 1), (5, 16, 20, 1),
        (7, 3, 112, 2), (3, 64, 28, 2), (1, 64, 56, 2), (2, 64, 32, 2),
    ):  # fmt: skip
        window = Window.parse("memory", (side, side), (kernel, kernel), stride, kernel // 2, 1).lift()
        out = window.output((1, side, side))
        x, col = array(dtype, 1, 1, side, side, c), array(dtype, out[1] * out[2], kernel * kernel * c)
        shape = (1, *out, 1)
        yield Case(
            f"lowering {kernel}x{kernel}/{stride}, {c} at {side}, {col.nbytes >> 10} KB",
            lambda x=x, shape=shape, window=window, col=col: lowering.im2col(x, shape, window, col),
            2 * col.nbytes,
            tile=col.nbytes,
        )


GROUPS = (copies, layouts, samples, places, optimisers, lowerings)


def memcpys(nbytes: int, tile: int, threads: int) -> list[Callable[[], object]]:
    """memcpy of half of `nbytes`, whole and in pieces; or of a tile, in the cache."""
    source, target = (array(np.dtype(np.uint8), tile or nbytes // 2) for _ in range(2))

    def move(first: int, last: int, piece: int) -> None:
        for at in range(first, last, piece):
            ctypes.memmove(target.ctypes.data + at, source.ctypes.data + at, min(piece, last - at))

    if threads == 1 or tile:
        return [lambda piece=piece: move(0, target.size, piece) for piece in ([tile] if tile else [target.size, PIECE])]
    pool = ThreadPoolExecutor(threads)
    cuts = [target.size * i // threads // LINE * LINE for i in range(threads)] + [target.size]
    return [
        lambda piece=piece: list(pool.map(move, cuts[:-1], cuts[1:], [piece] * threads))
        for piece in (target.size, PIECE)
    ]


def seconds(call: Callable[[], object], clock: Callable[[], float], times: int) -> float:
    start = clock()
    for _ in range(times):
        call()
    return (clock() - start) / times


def measure(case: Case, rounds: int, threads: int, wall: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """GB/s of memcpy and of the kernel: by the fastest and by the median round."""
    clock = time.perf_counter if wall else time.thread_time
    if threads > 1 and not wall and not case.tile:
        clock = lambda: time.process_time() / threads  # noqa: E731
    times = max(1, int(1e-3 / (case.nbytes / 20e9)))
    calls = [*memcpys(case.nbytes, case.tile, threads), case.call]
    for call in calls:
        call()
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, into in zip(calls, found, strict=True):
            into.append(seconds(call, clock, times))
    rates = [(case.nbytes / min(into) / 1e9, case.nbytes / statistics.median(into) / 1e9) for into in found]
    best = [max(rate[i] for rate in rates[:-1]) for i in range(2)]
    return (best[0], best[1]), rates[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", metavar="WORD", help="the cases whose names have it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="cpu", choices=["cpu", "wall"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--megabytes", type=int, default=64, help="of the larger array")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    fastconv.set_num_threads(args.threads)
    dtype, nbytes = np.dtype(args.dtype), args.megabytes << 20
    print(f"{'GB/s: minimum, median':52}{'memcpy':>14}{'kernel':>14}{'memcpy over kernel':>20}{'whole':>7}")
    for group in GROUPS:
        for case in group(dtype, nbytes):
            if args.k in case.name:
                other, own = measure(case, args.rounds, args.threads, args.clock == "wall")
                rates = "".join(f"{low:8.1f}{mid:6.1f}" for low, mid in (other, own))
                ratios = [other[0] / own[0], other[1] / own[1]]
                whole = ratios[1] * case.nbytes / (case.whole or case.nbytes)
                print(f"{case.name:52}{rates}{ratios[0]:14.2f}{ratios[1]:6.2f}{whole:7.2f}", flush=True)


if __name__ == "__main__":
    main()
