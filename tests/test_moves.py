"""Kernels that only move memory equal NumPy's indexing, wherever arrays begin, and touch nothing else.

test_simd.py runs this at every SIMD level. Results of 8 MB and more go past the caches by other paths.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastconv import functional
from fastconv._ext import layout, resampling
from fastconv._ext.conv import lowering
from fastconv.window import Window

LARGE = 9 << 20  # bytes of a result that goes past the caches
each_type = pytest.mark.parametrize("dtype", [np.float32, np.float64])
each_size = pytest.mark.parametrize("large", [False, True], ids=["small", "large"])


class Placed:
    """An array of NaN that begins `offset` elements behind a cache line's begin, and its surroundings."""

    def __init__(self, shape: tuple[int, ...], dtype: type, offset: int) -> None:
        size = int(np.prod(shape))
        self.memory = np.full(size + 48, np.nan, dtype)
        line = 64 // self.memory.itemsize
        self.first = -(self.memory.ctypes.data // self.memory.itemsize) % line + offset
        self.last = self.first + size
        self.array = self.memory[self.first : self.last].reshape(shape)

    def check(self, expected: np.ndarray) -> None:
        np.testing.assert_array_equal(self.array, expected)
        assert np.isnan(self.memory[: self.first]).all()
        assert np.isnan(self.memory[self.last :]).all()


def numbered(shape: tuple[int, ...], dtype: type, offset: int = 0) -> np.ndarray:
    x = Placed(shape, dtype, offset).array
    x[...] = np.arange(x.size, dtype=dtype).reshape(shape)
    return x


def images(shape: tuple[int, ...], dtype: type, large: bool, least: int) -> int:
    """How many of this shape make a large array, or `least`."""
    return -(-LARGE // (int(np.prod(shape)) * np.dtype(dtype).itemsize)) if large else least


SIDES = [1, 2, 3, 5, 8, 16, 17, 33, 64, 100, 130, 1030]


@each_type
@each_size
def test_swapped_axes(dtype, large):
    rng = np.random.default_rng(0)
    pairs = list(itertools.product(SIDES, SIDES))
    for rows, columns in pairs if not large else [pairs[i] for i in rng.permutation(len(pairs))[:8]]:
        if rows * columns > 150_000 and not large:
            continue
        for offset in (0, 3) if not large else (rows % 4,):
            x = numbered((images((rows, columns), dtype, large, 2), rows, columns), dtype, offset)
            y = Placed((x.shape[0], columns, rows), dtype, offset)
            layout.swap_axes(x, y.array, rows, columns, 2)
            y.check(x.transpose(0, 2, 1))


FACTORS = [(1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 3, 3), (1, 1, 5), (1, 1, 1100)]


@each_type
@each_size
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 16, 33, 64, 100, 300])
def test_kept_placed_and_spread(channels, large, dtype):
    for index, (factor, phase, width) in enumerate(itertools.product(FACTORS, (0, 1), (1, 5, 21))):
        if large and (width < 21 or not phase or factor not in FACTORS[:3] or channels not in (1, 3, 16, 33)):
            continue
        if factor[2] > 5 and (width != 5 or channels > 16):
            continue
        narrow, offset = (2, 3, width), index % 4
        phases = tuple(min(phase, f - 1) for f in factor)
        wide = tuple((n - 1) * f + 1 + p + phase for n, f, p in zip(narrow, factor, phases, strict=True))
        n = images((*narrow, channels), dtype, large, 2)
        x = numbered((n, *wide, channels), dtype, offset)
        at = tuple(slice(p, p + (m - 1) * f + 1, f) for p, m, f in zip(phases, narrow, factor, strict=True))
        kept = Placed((n, *narrow, channels), dtype, (2 * offset) % 5)
        resampling.keep_every(x, kept.array, factor, phases, 2)
        kept.check(x[(slice(None), *at)])
        spread = Placed(x.shape, dtype, offset)
        resampling.spread(kept.array, spread.array, factor, phases, 2)
        expected = np.zeros_like(x)
        expected[(slice(None), *at)] = kept.array
        spread.check(expected)
        placed = Placed(x.shape, dtype, offset)
        placed.array[...] = x
        resampling.place_every(-kept.array, placed.array, factor, phases, 2)
        x[(slice(None), *at)] *= -1
        placed.check(x)


@each_type
@each_size
@pytest.mark.parametrize("channels", [1, 2, 3, 16, 33])
def test_picked(channels, large, dtype):
    for (a, b, d), (p, q, r) in itertools.product([(1, 5, 23), (2, 3, 40)], [(1, 2, 2), (2, 1, 1.7), (1, 0.5, 0.4)]):
        outputs = tuple(max(1, int(n * f)) for n, f in ((a, p), (b, q), (d, r)))
        n = images((*outputs, channels), dtype, large, 2)
        x = numbered((n, a, b, d, channels), dtype, channels % 3)
        at = [np.arange(m, dtype=np.intp) * k // m for m, k in zip(outputs, (a, b, d), strict=True)]
        y = Placed((n, *outputs, channels), dtype, channels % 5)
        resampling.pick(x, y.array, *at, r == 2, 2)
        y.check(x[:, at[0]][:, :, at[1]][:, :, :, at[2]])


@pytest.mark.parametrize("scale", [2.1, 2.0])
def test_twice_as_many_are_not_always_each_twice(scale):
    """With one axis a scale of 2.1 makes 6 of 3 from other elements than 2.0 does."""
    x = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    expected = np.minimum(np.floor(np.arange(6, dtype=np.float32) * np.float32(1 / scale)), 2)
    np.testing.assert_array_equal(functional.resize(x, scale=scale).reshape(-1), expected)


def lowered(x: np.ndarray, outputs: tuple[int, ...], window: Window) -> np.ndarray:
    front = [before for before, _ in window.padding]
    padded = np.pad(x, [(0, 0), *((n, n + 20) for n in front), (0, 0)])
    taps = []
    for tap in itertools.product(*map(range, window.kernel)):
        begins = [t * d for t, d in zip(tap, window.dilation, strict=True)]
        along = (slice(b, b + (m - 1) * s + 1, s) for b, m, s in zip(begins, outputs, window.stride, strict=True))
        taps.append(padded[(slice(None), *along)])
    return np.stack(taps, axis=-2).reshape(-1, len(taps) * x.shape[4])


@each_type
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 16, 33, 100, 400])
def test_lowered(channels, dtype):
    rng = np.random.default_rng(channels)
    for _ in range(12):
        kernel = tuple(int(n) for n in rng.choice([1, 2, 3, 5], 3)) if rng.random() < 0.9 else (1, 9, 10)
        if int(np.prod(kernel)) * channels > 5000:
            kernel = (1, 3, 3)
        stride, dilation, before = (
            tuple(int(n) for n in rng.integers(*range_, 3)) for range_ in ((1, 4), (1, 3), (0, 4))
        )
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        inputs = tuple(max(1, s - 2 * p) + int(rng.integers(0, 6)) for s, p in zip(spans, before, strict=True))
        window = Window(kernel, stride, tuple((p, p) for p in before), dilation, (1, 1, 1))
        outputs = window.output(inputs)
        x = numbered((2, *inputs, channels), dtype, 1)
        expected = lowered(x, outputs, window)
        col = Placed(expected.shape, dtype, int(rng.integers(0, 5)))
        lowering.im2col(x, (2, *outputs, 1), window, col.array)
        col.check(expected)
