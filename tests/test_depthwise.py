"""The algorithm "depthwise" against the naive reference: bit for bit on small integers, at every vector width."""

import alone
import numpy as np
import pytest

from fastconv import reference, set_num_threads, set_workspace_limit, vjp
from fastconv.arrays import channels_last, lift, logical
from fastconv.engine import depthwise, grouped, tuning
from fastconv.machine import memory, simd
from fastconv.machine.memory import allocate
from fastconv.window import Window

WIDTHS = [nbytes for nbytes in (8, 16, 32, 64) if nbytes <= simd.SIMD_BYTES]  # 8: no vectors
DTYPES = [np.float32, np.float64]
CASES = [  # x, filters, groups, kernel, options
    ((2, 16, 6, 9), 16, 16, (3, 3), {"padding": 1}),
    ((1, 20, 5, 7), 20, 20, (3, 3), {"padding": 1, "stride": 2}),
    ((1, 57, 4, 5), 57, 57, (3, 2), {"padding": ((0, 2), (1, 0))}),
    ((2, 3, 7, 9), 3, 3, (3, 3), {"padding": 1, "dilation": (2, 1)}),
    ((1, 2, 1, 1), 2, 2, (1, 1), {}),
    ((1, 5, 2, 2), 5, 5, (4, 5), {"padding": 3}),
    ((1, 8, 9, 12), 8, 8, (5, 5), {"padding": 2, "stride": (3, 1)}),
    ((1, 4, 13, 26), 4, 4, (7, 7), {"padding": 3, "stride": (1, 2)}),
    ((1, 33, 40), 33, 33, (9,), {"padding": 4}),
    ((1, 2, 300), 2, 2, (3,), {"padding": 1, "stride": 1}),
    ((2, 6, 31), 6, 6, (4,), {"stride": 3, "dilation": 2, "padding": ((3, 0),)}),
    ((1, 7, 23), 7, 7, (2,), {"stride": 5}),  # a stride beyond the kernel: inputs that nothing sees
    ((1, 9, 19), 9, 9, (3,), {"stride": 2, "dilation": 4, "padding": 5}),
    ((1, 16, 4, 5, 6), 16, 16, (3, 3, 3), {"padding": 1}),
    ((1, 5, 3, 4, 7), 5, 5, (1, 2, 3), {"stride": (2, 1, 2), "padding": (1, 0, 2)}),
    ((0, 16, 5, 5), 16, 16, (3, 3), {}),
    # a channel multiplier
    ((1, 16, 5, 6), 32, 16, (3, 3), {"padding": 1}),
    ((1, 7, 5, 6), 21, 7, (2, 3), {"stride": 2}),
    ((2, 2, 11), 64, 2, (3,), {"padding": 1}),
    ((1, 3, 4, 4), 51, 3, (3, 3), {"padding": 1}),
    # narrow groups
    ((1, 32, 5, 11), 32, 8, (3, 3), {"padding": 1}),
    ((1, 32, 6, 10), 32, 4, (3, 3), {"padding": 1, "stride": 2}),
    ((1, 24, 4, 9), 24, 8, (3, 3), {"padding": 1}),
    ((1, 36, 4, 9), 36, 6, (3, 3), {"padding": 1}),
    ((1, 35, 12), 35, 5, (3,), {"dilation": 3, "padding": 2}),
    ((1, 14, 3, 12), 14, 2, (1, 3), {"stride": (1, 2)}),
    ((2, 6, 3, 4), 6, 3, (2, 2), {}),
    ((1, 6, 9), 3, 3, (3,), {}),
    ((1, 48, 9), 24, 12, (3,), {"padding": 1}),
    ((1, 24, 9), 48, 12, (3,), {"padding": 1}),
    ((1, 32, 3, 3, 5), 16, 4, (2, 2, 2), {"padding": 1}),
    ((2, 20, 4, 4), 20, 5, (1, 1), {"stride": 2}),
    # wider ones, whose vectors cross groups
    ((1, 30, 5, 29), 30, 3, (3, 3), {"padding": 1}),
    ((2, 33, 4, 5), 33, 3, (3, 5), {"padding": ((0, 1), (3, 2))}),
    ((1, 30, 6, 7), 60, 6, (3, 3), {"padding": 1, "stride": 2}),
    ((1, 60, 6, 7), 30, 6, (3, 2), {"padding": 2, "stride": (1, 2), "dilation": (2, 1)}),
    ((1, 26, 3, 4, 9), 39, 13, (2, 2, 7), {"padding": (1, 0, 3)}),
    ((1, 22, 9), 22, 2, (5,), {"stride": 3, "padding": 2}),
    ((1, 32, 3, 5), 32, 2, (3, 3), {"padding": 1}),
    ((1, 18, 3, 3), 18, 2, (5, 6), {"padding": 4}),
]


@pytest.fixture(params=WIDTHS, ids=lambda nbytes: f"{nbytes} bytes")
def width(request, monkeypatch):
    monkeypatch.setattr(depthwise, "WIDEST", request.param)
    monkeypatch.setattr(grouped, "WIDEST", request.param)
    return request.param


def setting(shape, filters, groups, kernel, options, dtype):
    """x, w, b, dy of small integers, logical; the window, lifted."""
    rng = np.random.default_rng(0)
    window = Window.parse("op", shape[2:], kernel, **options)
    shapes = shape, (filters, shape[1] // groups, *kernel), (filters,), (shape[0], filters, *window.output(shape[2:]))
    return *(rng.integers(-4, 5, s).astype(dtype) for s in shapes), window.lift()


def last(array):
    return lift(channels_last("op", array))


def run(x, w, b, dy, window, groups):
    """y, dx, dw, logical, through the module's three directions."""
    x_last, w_last, dy_last = last(x), last(w), last(dy)
    y = allocate("op", dy_last.shape, x.dtype)
    y[...] = np.nan
    alone.forward(alone.of_groups, x_last, w_last, b, y, window, groups)
    dx = alone.gradient_input(alone.of_groups, dy_last, w_last, x_last.shape, window, groups)
    dw = alone.gradient_weights(alone.of_groups, x_last, dy_last, w_last.shape, window, groups)
    shapes = ((a.shape[0], *a.shape[2:], a.shape[1]) for a in (dy, x, w))
    return [logical(array.reshape(shape)) for array, shape in zip((y, dx, dw), shapes, strict=True)]


def naive(x, w, b, dy, options, groups):
    function = getattr(reference, f"conv{x.ndim - 2}d")
    y, pullback = vjp(function, x, w, b, groups=groups, **options)
    return [y, *pullback(dy)[:2]]


_expected = {}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case, dtype, width):
    _, _, groups, _, options = case
    x, w, b, dy, window = setting(*case, dtype)
    if str(case) not in _expected:  # of small integers: the same in both types
        _expected[str(case)] = naive(*(a.astype(np.float64) for a in (x, w, b, dy)), options, groups)
    for actual, expected in zip(run(x, w, b, dy, window, groups), _expected[str(case)], strict=True):
        np.testing.assert_array_equal(actual, expected.astype(dtype), strict=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_bias(case, width):
    x, w, b, dy, window = setting(*case, np.float32)
    with_bias = run(x, w, b, dy, window, case[2])[0]
    without = run(x, w, None, dy, window, case[2])[0]
    np.testing.assert_array_equal(without + b.reshape(-1, *(1,) * (x.ndim - 2)), with_bias)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_three_are_adjoint(case, width):
    """<y, dy> = <x, dx> = <w, dw>, exactly: all of it is small integers."""
    x, w, _, dy, window = setting(*case, np.float64)
    y, dx, dw = run(x, w, None, dy, window, case[2])
    assert np.vdot(y, dy) == np.vdot(x, dx) == np.vdot(w, dw)


@pytest.mark.parametrize(
    ("shape", "filters", "groups", "kernel"),
    [((3, 64, 24, 40), 64, 64, (3, 3)), ((2, 48, 31, 33), 96, 48, (3, 3)), ((2, 48, 31, 33), 48, 8, (3, 3)),
     ((2, 60, 31, 33), 60, 6, (3, 3)),
     ((1, 40, 2000), 40, 40, (9,))],
)  # fmt: skip
@pytest.mark.parametrize("stride", [1, 2])
def test_the_same_bits_at_any_number_of_threads(shape, filters, groups, kernel, stride):
    rng = np.random.default_rng(1)
    window = Window.parse("op", shape[2:], kernel, stride, 1)
    x = rng.standard_normal(shape).astype(np.float32)
    w = rng.standard_normal((filters, shape[1] // groups, *kernel)).astype(np.float32)
    dy = rng.standard_normal((shape[0], filters, *window.output(shape[2:]))).astype(np.float32)
    results = []
    for threads in (1, 2, 3):
        set_num_threads(threads)
        results.append(run(x, w, None, dy, window.lift(), groups))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("filters", "groups"), [(20, 20), (40, 20), (20, 5), (20, 4)])
@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("stride", [1, 2])
def test_nothing_spreads_beyond_its_window(filters, groups, special, stride, width, monkeypatch):
    """A NaN or infinity reaches what its window reaches, and padding multiplies nothing: inf * 0 would be NaN."""
    monkeypatch.setattr(grouped, "WIDEST", 16)  # which has zeros beside a row: below
    case = (1, 20, 11, 12), filters, groups, (3, 3), {"padding": 2, "stride": stride}
    x, w, b, dy, window = setting(*case, np.float32)
    x[0, 7, 4, 6] = x[0, 3, 0, 0] = special
    dy[0, 5, 3, 3] = dy[0, 2, 0, 0] = special
    w[3, 0, 0, 1] = special
    for actual, expected in zip(run(x, w, b, dy, window, groups), naive(x, w, b, dy, case[4], groups), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("channels", "groups"), [(20, 5), (20, 4), (30, 3)])
@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("stride", [1, 2])
def test_nothing_spreads_beyond_its_group(channels, groups, special, stride, width):
    """Vectors hold channels of several groups: a NaN or infinity stays in its own, and in its windows."""
    case = (1, channels, 11, 12), channels, groups, (3, 3), {"padding": 2, "stride": stride}
    x, w, b, dy, window = setting(*case, np.float32)
    x[0, 7, 4, 6] = special
    dy[0, 9, 3, 3] = special
    for actual, expected in zip(run(x, w, b, dy, window, groups), naive(x, w, b, dy, case[4], groups), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(("length", "kernel"), [(1000, 9), (4096, 3)])
def test_long_sums_are_accurate(length, kernel):
    rng = np.random.default_rng(2)
    shape = (8, 16, length)
    window = Window.parse("op", shape[2:], (kernel,), padding=kernel // 2).lift()
    x, dy = (rng.uniform(0, 1, shape) for _ in range(2))
    w = rng.standard_normal((16, 1, kernel))
    single = run(*(a.astype(np.float32) for a in (x, w)), None, dy.astype(np.float32), window, 16)
    for actual, expected in zip(single, run(x, w, None, dy, window, 16), strict=True):
        assert np.abs(actual - expected).max() <= 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("filters", "groups"), [(64, 64), (96, 32), (640, 32), (32, 8), (32, 4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_goes_past_the_caches(filters, groups, stride, dtype, monkeypatch):
    """Large arrays are prefetched, and written to memory directly where vectors fit: the same numbers."""
    shape = 2, max(32, groups), 20, 21
    x, w, b, dy, window = setting(shape, filters, groups, (3, 3), {"padding": 1, "stride": stride}, dtype)
    expected = run(x, w, b, dy, window, groups)
    monkeypatch.setattr(tuning, "CACHED_BYTES", 0)
    monkeypatch.setattr(tuning, "DEPTHWISE_NON_TEMPORAL_BYTES", 0)
    monkeypatch.setattr(tuning, "CACHED_BYTES", 0)
    monkeypatch.setattr(tuning, "DEPTHWISE_NON_TEMPORAL_BYTES", 0)
    for a, e in zip(run(x, w, b, dy, window, groups), expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize(("channels", "groups"), [(32, 2), (30, 3), (80, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_goes_past_the_caches_of_wide_groups(channels, groups, stride, monkeypatch):
    case = (2, channels, 20, 21), channels, groups, (3, 3), {"padding": 1, "stride": stride}
    x, w, b, dy, window = setting(*case, np.float32)
    expected = run(x, w, b, dy, window, groups)
    monkeypatch.setattr(tuning, "CACHED_BYTES", 0)
    monkeypatch.setattr(tuning, "DEPTHWISE_NON_TEMPORAL_BYTES", 0)
    for a, e in zip(run(x, w, b, dy, window, groups), expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize(("groups", "limit"), [(32, 1 << 12), (8, 1 << 14), (2, 1 << 15)])
def test_partial_gradients_stay_under_the_limit(groups, limit):
    case = (4, 32, 16, 16), 32, groups, (3, 3), {"padding": 1}
    x, w, _, dy, window = setting(*case, np.float32)
    x, w, dy = last(x), last(w), last(dy)

    def borrowed():
        before = memory.borrowed()
        dw = alone.gradient_weights(alone.of_groups, x, dy, w.shape, window, groups)
        return memory.borrowed() - before, dw

    most, whole = borrowed()
    assert most > 2 * limit
    set_workspace_limit(limit)
    most, dw = borrowed()
    assert most <= 2 * limit  # the parts, and their sum
    np.testing.assert_array_equal(dw, whole)


def test_which_problems_are_served(monkeypatch):
    def serves(channels, filters, groups):
        window = Window.parse("op", (8, 8), (3, 3)).lift()
        problem = alone.problem_of((1, 1, 8, 8, channels), (1, 1, 6, 6, filters), window, groups, np.float32)
        return any(alone.serves(algorithm, "forward", problem) for algorithm in (depthwise, grouped))

    assert serves(64, 64, 64)
    assert serves(4, 128, 4)
    assert serves(64, 64, 8)
    assert serves(12, 6, 3)
    assert not serves(1, 32, 1)
    monkeypatch.setattr(grouped, "WIDEST", 64)
    assert serves(64, 64, 4)
    assert serves(60, 32, 4)
    assert not serves(64, 128, 4)
    assert not serves(34, 34, 2)
    monkeypatch.setattr(grouped, "WIDEST", 16)
    assert not serves(64, 64, 4)
    assert serves(64, 64, 8)
