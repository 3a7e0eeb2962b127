"""The direct algorithm with windows of one tap: exact however it is cut, wherever its arrays lie."""

from __future__ import annotations

import alone
import numpy as np
import pytest

import fastconv
from fastconv import functional
from fastconv._ext import team
from fastconv.engine import direct, im2col, tuning
from fastconv.engine.phases import ONES
from fastconv.machine import simd
from fastconv.window import Window

WIDTHS = {"v2": 16, "v3": 32, "v4": 64}
LEVELS = [WIDTHS[level] for level in simd.simd_levels()]

# batch, input, C, K, stride, padding, groups
SHAPES = [
    (1, (1, 9, 11), 70, 33, ONES, (0, 0, 0), 1),
    (2, (1, 13, 21), 64, 64, ONES, (0, 0, 0), 1),
    (3, (1, 1, 300), 20, 96, ONES, (0, 0, 0), 1),
    (1, (1, 5, 17), 1024, 40, ONES, (0, 0, 0), 1),  # pixels a page apart
    (1, (1, 6, 20), 512, 48, (1, 2, 2), (0, 0, 0), 1),
    (2, (1, 8, 9), 1024, 48, (1, 3, 1), (0, 1, 2), 1),
    (1, (2, 3, 10), 2048, 2, ONES, (0, 0, 0), 2),
    (3, (1, 9, 9), 80, 36, (1, 2, 2), (0, 0, 0), 2),
    (2, (2, 7, 8), 48, 48, ONES, (0, 0, 0), 2),  # 24 filters of a group: vectors across cache lines
    (2, (1, 7, 8), 96, 96, (1, 1, 2), (0, 0, 0), 3),
    (1, (3, 20, 25), 16, 160, ONES, (0, 0, 0), 1),
    (4, (1, 7, 7), 320, 144, ONES, (0, 0, 0), 1),  # gradients to the weights where they stay
    (2, (1, 15, 20), 24, 31, ONES, (0, 0, 0), 1),  # panels of one vector, and of half of one
    (2, (3, 15, 20), 40, 7, ONES, (0, 0, 0), 1),
]


def placed(array, offset):
    """A copy whose first element lies `offset` floats behind a cache line's begin."""
    memory = np.full(array.size + 32, np.nan, np.float32)
    first = -(memory.ctypes.data // 4) % 16 + offset
    copy = memory[first : first + array.size].reshape(array.shape)
    copy[...] = array
    return copy


def case(shape, offset=0, integers=True):
    """x, w, bias, dy and the window."""
    batch, spatial, channels, filters, stride, padding, groups = shape
    window = Window.parse("test", spatial, ONES, stride, padding, 1)
    rng = np.random.default_rng(5)

    def array(*size):
        values = rng.integers(-3, 4, size) if integers else rng.standard_normal(size)
        return placed(values.astype(np.float32), offset)

    dy = array(batch, *window.output(spatial), filters)
    return array(batch, *spatial, channels), array(filters, 1, 1, 1, channels // groups), array(filters), dy, window


def results(algorithm, shape, offset=0, integers=True):
    """y into memory full of NaN, dx and dw."""
    x, w, bias, dy, window = case(shape, offset, integers)
    y = placed(np.full_like(dy, np.nan), offset)
    groups = shape[-1]
    alone.forward(algorithm, x, w, bias, y, window, groups)
    dx = alone.gradient_input(algorithm, dy, w, x.shape, window, groups)
    return y, dx, alone.gradient_weights(algorithm, x, dy, w.shape, window, groups)


@pytest.fixture(params=LEVELS, ids=lambda width: f"{width} bytes")
def width(request, monkeypatch):
    monkeypatch.setattr(simd, "SIMD_BYTES", request.param)


@pytest.fixture
def cut(monkeypatch):
    """Sets constants of engine.tuning, which direct's plans of a shape depend on."""

    def set_constants(**constants):
        for name, value in constants.items():
            monkeypatch.setattr(tuning, name, value)

    return set_constants


def check(shape, offset=0):
    for found, expected in zip(results(direct, shape, offset), results(im2col, shape), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("width")
def test_exact_on_small_integers(shape, offset):
    check(shape, offset)


@pytest.mark.parametrize("far", [0, 1 << 40], ids=["past the caches", "into the caches"])
@pytest.mark.parametrize("pixels", [5, 60])
@pytest.mark.usefixtures("width")
def test_exact_however_it_is_cut(cut, pixels, far):
    for tasks, chunk_pixels, chunk_cost in ((1, 1, 12), (7, 1, 0), (7, 40, 1000)):
        cut(NON_TEMPORAL_BYTES=far, BAND_PIXELS=pixels, TASKS=tasks, CHUNK_PIXELS=chunk_pixels,
            CHUNK_COST=chunk_cost)  # fmt: skip
        for shape in SHAPES:
            check(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_change_no_bit(shape, cut):
    team.set_bytes_per_thread(1)
    cut(NON_TEMPORAL_BYTES=0, CHUNK_PIXELS=16)
    before = fastconv.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            fastconv.set_num_threads(threads)
            found.append(results(direct, shape, integers=False))
    finally:
        fastconv.set_num_threads(before)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("channels", [512, 1024])
def test_long_sums_lose_few_digits(channels):
    shape = (2, (1, 20, 20), channels, 64, ONES, (0, 0, 0), 1)
    x, w, bias, dy, _ = case(shape, integers=False)
    x, w, dy = (a.reshape(-1, a.shape[-1]).astype(np.float64) for a in (x, w, dy))
    exact = (x @ w.T + bias, dy @ w, dy.T @ x)
    for found, expected in zip(results(direct, shape, integers=False), exact, strict=True):
        assert np.abs(found.reshape(expected.shape) - expected).max() < 3e-6 * np.abs(expected).max()


def test_a_gradient_is_cut_where_it_costs_least():
    """A large gradient into runs of panels, one of a long sum into chunks of bands, none into more than allowed."""
    pieces = direct._pieces
    assert pieces(3136, 7, 16, 512 * 512, 3136 * 512, 64 << 20)[0] <= 4
    assert pieces(25088, 56, 8, 64 * 256, 25088 * 64, 64 << 20) == (16, 1)
    assert pieces(25088, 56, 8, 64 * 256, 25088 * 64, 1) == (1, 8)
    assert pieces(1 << 21, 1 << 20, 1, 64, 1 << 21, 64 << 20)[0] == 32
    assert pieces(1, 1, 1, 64, 64, 64 << 20) == (1, 1)


@pytest.mark.parametrize(
    ("op", "x", "w", "options"),
    [
        ("conv1d", (1, 1024, 40), (32, 512, 2), {"groups": 2}),
        ("conv1d", (1, 256, 40), (32, 64, 4), {"groups": 4, "stride": 4}),
        ("conv1d", (1, 32, 40), (1024, 16, 2), {"groups": 2, "padding": 1}),
        ("conv2d", (2, 512, 9, 9), (64, 128, 2, 2), {"groups": 4, "stride": 2}),
        ("conv2d", (2, 256, 8, 8), (64, 64, 1, 4), {"groups": 4, "stride": (1, 4)}),
        ("conv2d", (1, 1024, 6, 6), (32, 512, 1, 1), {"groups": 2}),
        ("conv_transpose2d", (2, 64, 2, 11), (64, 128, 2, 2), {"groups": 4, "stride": 2}),
    ],
)
def test_as_many_groups_as_taps_are_not_one_tap(op, x, w, options):
    """Pixels a page apart are copied for windows of one tap alone."""
    function = getattr(functional, op)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-2, 3, shape).astype(np.float32) for shape in (x, w)]
    asked = {} if "transpose" in op else {"algorithm": "direct"}
    y, pullback = fastconv.vjp(function, *arrays, **options, **asked)
    exact, exact_pullback = fastconv.vjp(function, *(array.astype(np.float64) for array in arrays), **options)
    dy = rng.integers(-2, 3, y.shape)
    np.testing.assert_array_equal(y, exact)
    for found, expected in zip(pullback(dy), exact_pullback(dy), strict=True):
        np.testing.assert_array_equal(found, expected)
