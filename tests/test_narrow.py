"""The algorithm "narrow": exact, at every width of vectors and any cut."""

from __future__ import annotations

import alone
import numpy as np
import pytest

import fastconv
from fastconv import ShapeError
from fastconv._ext import team
from fastconv.engine import im2col, narrow, plan, tuning
from fastconv.engine.phases import ONES
from fastconv.machine import simd
from fastconv.window import Window

WIDTHS = {"v2": 16, "v3": 32, "v4": 64}
LEVELS = [WIDTHS[level] for level in simd.simd_levels()]

# batch, input, C, K, kernel, stride, padding (before; one less after along the last axis), dilation
SHAPES = [
    (2, (1, 1, 40), 1, 9, (1, 1, 7), ONES, (0, 0, 3), ONES),
    (1, (1, 1, 2100), 1, 32, (1, 1, 80), (1, 1, 4), (0, 0, 38), ONES),
    (3, (1, 1, 31), 6, 17, (1, 1, 4), (1, 1, 3), (0, 0, 2), (1, 1, 2)),
    (3, (1, 28, 28), 1, 32, (1, 3, 3), ONES, (0, 1, 1), ONES),
    (17, (1, 7, 9), 1, 16, (1, 5, 5), ONES, (0, 2, 2), ONES),
    (2, (1, 33, 35), 3, 50, (1, 3, 3), ONES, (0, 1, 1), ONES),
    (2, (1, 41, 40), 3, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), ONES),
    (2, (1, 12, 11), 4, 12, (1, 3, 2), (1, 1, 3), (0, 2, 0), (1, 2, 1)),
    (1, (1, 10, 70), 5, 20, (1, 2, 5), (1, 3, 1), (0, 0, 1), (1, 1, 3)),
    (3, (1, 14, 14), 6, 16, (1, 5, 5), ONES, (0, 0, 0), ONES),
    (2, (1, 6, 6), 8, 40, (1, 1, 1), (1, 3, 2), (0, 0, 0), ONES),
    (3, (1, 1, 1), 2, 24, (1, 3, 3), ONES, (0, 4, 5), ONES),
    (2, (5, 6, 7), 1, 16, (3, 3, 3), ONES, (1, 1, 1), ONES),
    (1, (9, 5, 20), 3, 33, (3, 2, 3), (2, 1, 2), (2, 0, 1), (1, 2, 1)),
    (1, (1, 60, 60), 2, 70, (1, 2, 2), ONES, (0, 0, 0), (1, 7, 9)),
    (3, (1, 11, 13), 20, 20, (1, 3, 3), ONES, (0, 1, 1), ONES),
    (1, (1, 40, 40), 100, 17, (1, 3, 3), (1, 2, 2), (0, 1, 1), ONES),
    (2, (3, 6, 7), 12, 48, (2, 2, 3), ONES, (0, 1, 1), ONES),
]


def case(shape, integers=True):
    """x, w, bias, dy and the window."""
    batch, spatial, channels, filters, kernel, stride, padding, dilation = shape
    around = tuple((p, p - (axis == 2 and p > 0)) for axis, p in enumerate(padding))
    window = Window.parse("test", spatial, kernel, stride, around, dilation)
    rng = np.random.default_rng(5)

    def array(*size):
        return (rng.integers(-3, 4, size) if integers else rng.standard_normal(size)).astype(np.float32)

    dy = array(batch, *window.output(spatial), filters)
    return array(batch, *spatial, channels), array(filters, *kernel, channels), array(filters), dy, window


def within(array):
    """An uninitialised array like `array` in the middle of memory that must stay as it is, and that memory."""
    around = np.full(array.size + 128, 77, np.float32)
    inner = around[64 : 64 + array.size].reshape(array.shape)
    inner[...] = np.nan
    return inner, around


def check(shape):
    x, w, bias, dy, window = case(shape)
    problem = alone.problem_of(x.shape, dy.shape, window, 1, np.float32)
    if alone.serves(narrow, "forward", problem):
        for b in (bias, None):
            expected = alone.forward(im2col, x, w, b, np.empty_like(dy), window)
            y, around = within(dy)
            alone.forward(narrow, x, w, b, y, window)
            np.testing.assert_array_equal(y, expected)
            assert (around[:64] == 77).all()
            assert (around[-64:] == 77).all()
    assert x.shape[4] > 8 or alone.serves(narrow, "gradient_weights", problem)
    expected = alone.gradient_weights(im2col, x, dy, w.shape, window)
    for db in (None, np.full(dy.shape[4], np.nan, np.float32)):
        dw, around = within(w)
        alone.gradient_weights(narrow, x, dy, w.shape, window, out=dw, db=db)
        np.testing.assert_array_equal(dw, expected)
        assert (around[:64] == 77).all()
        assert (around[-64:] == 77).all()
    np.testing.assert_array_equal(db, dy.sum(axis=(0, 1, 2, 3), dtype=np.float64))


@pytest.fixture(params=LEVELS, ids=lambda width: f"{width} bytes")
def width(request, monkeypatch):
    monkeypatch.setattr(simd, "SIMD_BYTES", request.param)
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("width")
def test_exact_on_small_integers(shape):
    check(shape)


@pytest.mark.usefixtures("width")
def test_every_count_of_channels_and_filters():
    for filters in (*range(1, 10), *range(16, 71)):
        check((2, (1, 3, 19), 1 + filters % 8, filters, (1, 2, 3), ONES, (0, 1, 1), ONES))
    for channels in range(1, 9):
        check((2, (1, 4, 17), channels, 24, (1, 3, 3), ONES, (0, 1, 1), ONES))


@pytest.mark.usefixtures("width")
def test_every_length_of_a_row_and_every_count_of_taps():
    for columns in range(1, 33):
        check((2, (1, 2, columns), 3, 34, (1, 1, 3), ONES, (0, 0, 2), ONES))
    for taps in range(1, 45):
        check((1, (1, 2, 60), 1, 40, (1, 1, taps), ONES, (0, 0, 0), ONES))


@pytest.mark.parametrize("pixels", [1, 20, 5000])
@pytest.mark.parametrize("far", [0, 1 << 40], ids=["past the caches", "into the caches"])
@pytest.mark.usefixtures("width")
def test_exact_however_it_is_cut(monkeypatch, pixels, far):
    monkeypatch.setattr(tuning, "BAND_PIXELS", pixels)
    monkeypatch.setattr(tuning, "NARROW_CHUNK_PIXELS", pixels)
    monkeypatch.setattr(tuning, "NON_TEMPORAL_BYTES", far)
    for shape in SHAPES:
        check(shape)


@pytest.mark.usefixtures("width")
def test_outputs_past_the_caches(monkeypatch):
    """Only what lies on whole lines goes there; y's memory is aligned here, unlike in `check`."""
    monkeypatch.setattr(tuning, "NON_TEMPORAL_BYTES", 0)
    for filters in (16, 20, 32, 64):
        x, w, bias, dy, window = case((2, (1, 9, 35), 3, filters, (1, 3, 3), ONES, (0, 1, 1), ONES))
        memory = np.full(dy.size + 32, np.nan, np.float32)
        y = memory[(-memory.ctypes.data % 64) // 4 :][: dy.size].reshape(dy.shape)
        alone.forward(narrow, x, w, bias, y, window)
        expected = alone.forward(im2col, x, w, bias, np.empty_like(y), window)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.usefixtures("width")
def test_random_shapes():
    rng = np.random.default_rng(6)
    tried = 0
    while tried < 60:
        axes = int(rng.integers(1, 4))

        def lifted(low, high, axes=axes):
            return (1,) * (3 - axes) + tuple(map(int, rng.integers(low, high, axes)))

        shape = (
            int(rng.integers(1, 6)), lifted(1, [90, 30, 9][axes - 1]), int(rng.integers(1, 9)),
            int(rng.integers(1, 71)), lifted(1, 6), lifted(1, 4), tuple(n - 1 for n in lifted(1, 5)), lifted(1, 3),
        )  # fmt: skip
        try:
            case(shape)
        except ShapeError:
            continue
        check(shape)
        tried += 1


@pytest.mark.usefixtures("width")
def test_accuracy():
    """float32 against float64; sums of one chunk are long enough to lose digits if they were summed carelessly."""
    for shape in ((4, (1, 64, 64), 3, 32, (1, 3, 3), ONES, (0, 1, 1), ONES), SHAPES[1], SHAPES[6]):
        x, w, bias, dy, window = case(shape, integers=False)
        exact = alone.forward(im2col, *(a.astype(float) for a in (x, w, bias)), np.empty(dy.shape), window)
        y = alone.forward(narrow, x, w, bias, np.empty_like(dy), window)
        assert np.abs(y - exact).max() <= 3e-6 * np.abs(exact).max()
        exact = alone.gradient_weights(im2col, x.astype(float), dy.astype(float), w.shape, window)
        db = np.empty_like(bias)
        dw = alone.gradient_weights(narrow, x, dy, w.shape, window, db=db)
        assert np.abs(dw - exact).max() <= 3e-6 * np.abs(exact).max()
        exact = dy.sum(axis=(0, 1, 2, 3), dtype=np.float64)
        assert np.abs(db - exact).max() <= 3e-6 * np.abs(exact).max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_threads_change_no_bit(shape):
    team.set_bytes_per_thread(1)
    x, w, bias, dy, window = case(shape, integers=False)
    before = fastconv.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            fastconv.set_num_threads(threads)
            y, db = alone.forward(narrow, x, w, bias, np.empty_like(dy), window), np.empty_like(bias)
            found.append((y, alone.gradient_weights(narrow, x, dy, w.shape, window, db=db), db))
    finally:
        fastconv.set_num_threads(before)
    for others in found[1:]:
        for a, b in zip(others, found[0], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.usefixtures("width")
def test_nan_and_infinity_stay_where_they_belong(bad):
    """In the windows that see them; of dy, in their filter, though vectors read over into the next pixel's."""
    x = np.ones((3, 1, 5, 6, 2), np.float32)
    x[1, 0, 2, 5, 0] = bad
    for filters in (6, 12, 21, 37):
        w = np.ones((filters, 1, 3, 3, 2), np.float32)
        window = Window.parse("test", (1, 5, 6), (1, 3, 3), 1, (0, 1, 1))
        y = np.empty((3, 1, 5, 6, filters), np.float32)
        if filters >= 8:
            alone.forward(narrow, x, w, None, y, window)
            expected = np.zeros(y.shape, bool)
            expected[1, 0, 1:4, 4:] = True
            np.testing.assert_array_equal(~np.isfinite(y), expected)
        for filter in (0, filters // 2, filters - 1):
            dy = np.ones(y.shape, np.float32)
            dy[2, 0, 4, 5, filter] = bad
            dy[0, 0, 2, 2, filter] = bad
            dw = alone.gradient_weights(narrow, np.ones_like(x), dy, w.shape, window)
            expected = np.zeros(dw.shape, bool)
            expected[filter] = True
            np.testing.assert_array_equal(~np.isfinite(dw), expected)


def test_taken_where_not_many_channels_are_read():
    taken = []
    tried = ((1, 32, 3), (3, 32, 3), (8, 32, 1), (9, 32, 1), (64, 40, 3), (140, 10, 3), (140, 40, 3))
    for channels, filters, r in tried:
        x, _, _, dy, window = case((2, (1, 8, 8), channels, filters, (1, r, r), ONES, (0, r // 2, r // 2), ONES))
        problem = alone.problem_of(x.shape, dy.shape, window, 1, np.float32)
        for direction in ("forward", "gradient_weights"):
            if alone.serves(narrow, direction, problem):
                taken.append((direction, channels))
    few = [(direction, channels) for channels in (1, 3, 8) for direction in ("forward", "gradient_weights")]
    many = [("gradient_weights", 64), ("gradient_weights", 140)] if simd.SIMD_BYTES == 64 else []
    assert taken == [*few, ("forward", 64), *many]
    x, _, _, dy, window = case((2, (1, 8, 8), 3, 32, (1, 3, 3), ONES, (0, 1, 1), ONES))
    assert plan("forward", alone.problem_of(x.shape, dy.shape, window, 1, np.float32)).algorithm == "narrow"
