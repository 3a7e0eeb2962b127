"""The algorithm "planar": exact, at every width of vectors and any cut."""

from __future__ import annotations

import alone
import numpy as np
import pytest

import fastconv
from fastconv import ShapeError
from fastconv._ext import team
from fastconv.engine import im2col, plan, planar, tuning
from fastconv.engine.phases import ONES
from fastconv.machine import simd
from fastconv.window import Window

WIDTHS = {"v2": 16, "v3": 32, "v4": 64}
LEVELS = [WIDTHS[level] for level in simd.simd_levels()]

# batch, input, C, K, kernel, stride, padding, dilation
SHAPES = [
    (2, (1, 1, 40), 1, 5, (1, 1, 7), ONES, (0, 0, 3), ONES),
    (1, (1, 1, 700), 1, 4, (1, 1, 80), (1, 1, 4), (0, 0, 38), ONES),
    (3, (1, 1, 31), 6, 17, (1, 1, 4), (1, 1, 3), (0, 0, 2), (1, 1, 2)),
    (17, (1, 7, 9), 1, 6, (1, 5, 5), ONES, (0, 2, 2), ONES),
    (9, (1, 14, 5), 2, 3, (1, 3, 3), ONES, (0, 1, 1), ONES),
    (4, (1, 33, 34), 3, 20, (1, 3, 3), ONES, (0, 1, 1), ONES),
    (2, (1, 40, 41), 3, 8, (1, 7, 7), (1, 2, 2), (0, 3, 3), ONES),
    (2, (1, 12, 11), 4, 9, (1, 3, 2), (1, 1, 3), (0, 2, 0), (1, 2, 1)),
    (1, (1, 10, 70), 5, 16, (1, 2, 5), (1, 3, 1), (0, 0, 1), (1, 1, 3)),
    (2, (1, 9, 17), 7, 2, (1, 3, 3), (1, 2, 1), (0, 2, 2), ONES),
    (2, (1, 8, 20), 13, 18, (1, 1, 3), ONES, (0, 0, 1), ONES),
    (2, (1, 6, 6), 3, 5, (1, 1, 1), (1, 3, 2), (0, 0, 0), ONES),
    (3, (1, 1, 1), 2, 7, (1, 3, 3), ONES, (0, 4, 5), ONES),
    (2, (5, 6, 7), 1, 6, (3, 3, 3), ONES, (1, 1, 1), ONES),
    (1, (9, 5, 20), 3, 4, (3, 2, 3), (2, 1, 2), (2, 0, 1), (1, 2, 1)),
    (2, (4, 4, 4), 4, 3, (2, 3, 1), (3, 2, 1), (1, 0, 0), (2, 1, 1)),
]


def case(shape, integers=True):
    """x, w, bias, dy and the window; padding along the last axis is one more before than after."""
    batch, spatial, channels, filters, kernel, stride, padding, dilation = shape
    around = tuple((p, p - (axis == 2 and p > 0)) for axis, p in enumerate(padding))
    window = Window.parse("test", spatial, kernel, stride, around, dilation)
    rng = np.random.default_rng(5)

    def array(*size):
        return (rng.integers(-3, 4, size) if integers else rng.standard_normal(size)).astype(np.float32)

    dy = array(batch, *window.output(spatial), filters)
    return array(batch, *spatial, channels), array(filters, *kernel, channels), array(filters), dy, window


def check(shape):
    """Both directions, into memory full of NaN; the forward pass with channels and filters exchanged."""
    x, w, _, dy, window = case(shape)
    dx = alone.gradient_input(planar, dy, w, x.shape, window)
    np.testing.assert_array_equal(dx, alone.gradient_input(im2col, dy, w, x.shape, window))
    batch, spatial, channels, filters, kernel, _, padding, dilation = shape
    x, w, bias, y, window = case((batch, spatial, filters, channels, kernel, ONES, padding, dilation))
    for b in (bias, None):
        expected = alone.forward(im2col, x, w, b, np.empty_like(y), window)
        y[...] = np.nan
        alone.forward(planar, x, w, b, y, window)
        np.testing.assert_array_equal(y, expected)


@pytest.fixture(params=LEVELS, ids=lambda width: f"{width} bytes")
def width(request, monkeypatch):
    monkeypatch.setattr(simd, "SIMD_BYTES", request.param)
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("width")
def test_exact_on_small_integers(shape):
    check(shape)


@pytest.mark.parametrize("short", [0, 1000], ids=["sums of columns", "shifted columns"])
@pytest.mark.parametrize("sums", [1, 2000], ids=["small bands", "bands"])
@pytest.mark.usefixtures("width")
def test_exact_however_it_is_cut(monkeypatch, sums, short):
    monkeypatch.setattr(tuning, "PLANAR_SUMS_ELEMENTS", sums)
    monkeypatch.setattr(tuning, "PLANAR_SHORT_SUM", short)
    for shape in SHAPES:
        check(shape)


@pytest.mark.usefixtures("width")
def test_random_shapes():
    rng = np.random.default_rng(6)
    tried = 0
    while tried < 60:
        axes = int(rng.integers(1, 4))

        def lifted(low, high, axes=axes):
            return (1,) * (3 - axes) + tuple(map(int, rng.integers(low, high, axes)))

        shape = (
            int(rng.integers(1, 20)), lifted(1, [90, 30, 9][axes - 1]), int(rng.integers(1, 9)),
            int(rng.integers(1, 40)), lifted(1, 6), lifted(1, 4), tuple(n - 1 for n in lifted(1, 5)), lifted(1, 3),
        )  # fmt: skip
        try:
            case(shape)
            case((*shape[:5], ONES, *shape[6:]))
        except ShapeError:
            continue
        check(shape)
        tried += 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_change_no_bit(shape):
    team.set_bytes_per_thread(1)
    x, w, _, dy, window = case(shape, integers=False)
    before = fastconv.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            fastconv.set_num_threads(threads)
            found.append(alone.gradient_input(planar, dy, w, x.shape, window))
    finally:
        fastconv.set_num_threads(before)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_an_image_is_not_summed_with_its_neighbours():
    """NaN and infinity stay in the image, and the window, that has them."""
    dy = np.ones((16, 1, 5, 6, 3), np.float32)
    dy[3, 0, 2, 5] = np.nan
    w = np.ones((3, 1, 3, 3, 1), np.float32)
    window = Window.parse("test", (1, 5, 6), (1, 3, 3), 1, (0, 1, 1))
    dx = alone.gradient_input(planar, dy, w, (16, 1, 5, 6, 1), window)
    expected = np.zeros(dx.shape, bool)
    expected[3, 0, 1:4, 4:] = True
    np.testing.assert_array_equal(np.isnan(dx), expected)


def test_taken_where_lanes_would_be_empty():
    taken = []
    for channels in (1, 3, 7, 16):
        x, _, _, dy, window = case((2, (1, 8, 8), channels, 32, (1, 3, 3), ONES, (0, 1, 1), ONES))
        back = alone.problem_of(x.shape, dy.shape, window, 1, np.float32)
        forth = alone.problem_of(dy.shape, x.shape, window, 1, np.float32)  # channels and filters exchanged
        if plan("gradient_input", back).algorithm == "planar":
            taken.append(channels)
        if plan("forward", forth).algorithm == "planar":
            taken.append(channels)
    assert taken == [1, 1, 3, 3, 7, 7]
