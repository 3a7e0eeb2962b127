"""Pooling and resampling: what the walk over the cases cannot say."""

import numpy as np
import pytest

import fastconv
from fastconv import ShapeError, functional, reference, vjp
from fastconv._ext import team
from fastconv.machine.memory import allocate

both = pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])
NAN, INF = np.nan, np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [4, 6, 16, 21])
@pytest.mark.parametrize(
    ("inputs", "kernel", "stride"), [(4, 2, 3), (6, 3, 4), (9, 3, 4), (4, 2, 2), (6, 2, 3), (6, 3, 2), (5, 5, 7)]
)
def test_gradients_of_maxima_are_zero_between_windows(dtype, channels, inputs, kernel, stride):
    """Whatever was in the memory that they get."""
    batch = 1 + (1 << 17) // (channels * inputs * inputs * dtype(0).itemsize)
    x = np.random.default_rng(0).integers(-3, 4, (batch, inputs, inputs, channels)).astype(dtype).transpose(0, 3, 1, 2)
    _, pullback = vjp(functional.max_pool2d, x, kernel_size=kernel, stride=stride, ceil_mode=True)
    expected, of_some = vjp(reference.max_pool2d, x[:2], kernel_size=kernel, stride=stride, ceil_mode=True)
    dy = np.ones((batch, *expected.shape[1:]), dtype)
    before = allocate("before", (batch, inputs, inputs, channels), np.dtype(dtype))
    before[...] = 7
    del before
    np.testing.assert_array_equal(pullback(dy)[0][:2], of_some(dy[:2])[0])


@both
@pytest.mark.parametrize("channels", [1, 3, 4, 16, 21])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("values", "index"),
    [
        ([1, 3, 3, 2], 1),  # the first of ties
        ([0.0, -0.0, 0.0, -0.0], 0),
        ([1, NAN, 5, NAN], 1),  # NaN wins, the first one
        ([NAN, INF, NAN, 2], 0),
        ([-INF, -INF, -INF, -INF], 0),
        ([-INF, -INF, 1, INF], 3),
    ],
)
def test_max_pool_of_special_values(module, channels, dtype, values, index):
    x = np.empty((1, channels, 2, 2), dtype)
    x[...] = np.reshape(values, (2, 2))
    for call in (
        lambda x: module.max_pool2d(x, 2, return_indices=True),
        lambda x: module.adaptive_max_pool2d(x, 1, return_indices=True),
    ):
        y, indices = call(x)
        np.testing.assert_array_equal(y, np.full((1, channels, 1, 1), values[index], dtype))
        np.testing.assert_array_equal(indices, np.full((1, channels, 1, 1), index))
        assert indices.dtype == np.int64
    _, pullback = vjp(module.max_pool2d, x, kernel_size=2)
    (dx,) = pullback(np.full((1, channels, 1, 1), 7))
    expected = np.zeros(4)
    expected[index] = 7
    np.testing.assert_array_equal(dx, np.broadcast_to(expected.reshape(2, 2), x.shape))


@both
def test_padding_never_wins(module):
    y, indices = module.max_pool1d(np.full((1, 1, 3), -INF), 3, padding=1, stride=2, return_indices=True)
    np.testing.assert_array_equal(y, np.full((1, 1, 2), -INF))
    np.testing.assert_array_equal(indices, [[[0, 1]]])
    assert module.max_pool1d(np.full((1, 1, 3), -5.0), 3, padding=1).max() == -5


@both
def test_a_window_without_a_tap_inside(module):
    """Dilation steps over the whole input: the maximum of nothing, and a gradient that goes nowhere."""
    (y, indices), pullback = vjp(
        module.max_pool1d, np.array([[[1.0, 2, 3]]]), kernel_size=2, dilation=4, padding=1, return_indices=True
    )
    np.testing.assert_array_equal(y, [[[-INF]]])
    np.testing.assert_array_equal(indices, [[[-1]]])
    np.testing.assert_array_equal(pullback([[[5.0]]])[0], np.zeros((1, 1, 3)))


@both
def test_geometry_beyond_any_input(module):
    """What no output reaches costs nothing: strides and dilations of any size."""
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    np.testing.assert_array_equal(module.max_pool2d(x, 2, stride=2**70), [[[[5]]]])
    np.testing.assert_array_equal(module.max_pool2d(x, 1, stride=1, dilation=2**70), x)
    np.testing.assert_array_equal(module.downsample(x, 2**70), [[[[0]]]])


def test_a_kernel_beyond_any_input_with_ceil_mode():
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    np.testing.assert_array_equal(functional.max_pool2d(x, 2**70, ceil_mode=True), [[[[11]]]])
    np.testing.assert_array_equal(functional.avg_pool2d(x, 2**70, ceil_mode=True), [[[[5.5]]]])


@pytest.mark.parametrize("length", [127, 128, 129, 16384, 40000])
def test_long_averages_are_accurate(length):
    """Sums are pairwise in blocks: float32 windows of any length keep their digits."""
    x = np.random.default_rng(1).uniform(1, 2, (1, 5, length)).astype(np.float32)
    expected = x.astype(np.float64).mean(axis=2)
    np.testing.assert_allclose(functional.adaptive_avg_pool1d(x, 1)[..., 0], expected, rtol=1e-6)
    np.testing.assert_allclose(functional.avg_pool1d(x, length)[..., 0], expected, rtol=1e-6)
    assert np.isinf(functional.avg_pool1d(np.where(x > 1.9, np.float32(INF), x), length)).all()


@both
def test_lp_pool_of_zeros_has_no_gradient(module):
    for p in (0.5, 1, 1.5, 2, 3):
        y, pullback = vjp(module.lp_pool1d, np.array([[[0.0, 0, 3, 0]]]), norm_type=p, kernel_size=2)
        np.testing.assert_allclose(y, [[[0, 3]]])
        np.testing.assert_allclose(pullback(np.ones_like(y))[0], [[[0, 0, 1, 0]]])


@both
def test_function_pool_by_differences_warns(module):
    x = np.random.default_rng(2).standard_normal((2, 3, 4, 6))
    _, pullback = vjp(module.function_pool2d, x, function=lambda windows: (windows**3).sum(-1), kernel_size=2)
    with pytest.warns(RuntimeWarning, match="function_pool2d: no vjp was given"):
        (dx,) = pullback(np.ones((2, 3, 2, 3)))
    np.testing.assert_allclose(dx, 3 * x**2, rtol=1e-7, atol=1e-9)


@both
def test_function_pool_may_spoil_its_windows(module):
    def spoil(windows):
        result = windows.sum(-1)
        windows[...] = 99
        return result

    def spoil_vjp(windows, dy):
        windows[...] = dy[..., None]
        return windows

    x = np.arange(16.0).reshape(1, 1, 4, 4)
    y, pullback = vjp(module.function_pool2d, x, function=spoil, kernel_size=2, vjp=spoil_vjp)
    np.testing.assert_array_equal(y, [[[[10, 18], [42, 50]]]])
    for _ in range(2):
        np.testing.assert_array_equal(pullback(np.ones_like(y))[0], np.ones_like(x))
    np.testing.assert_array_equal(x, np.arange(16.0).reshape(1, 1, 4, 4))


@both
def test_what_a_vjp_returns_is_checked(module):
    x = np.ones((1, 1, 4, 4))
    _, pullback = vjp(
        module.function_pool2d, x, function=lambda w: w.sum(-1), kernel_size=2, vjp=lambda windows, dy: dy
    )
    with pytest.raises(ShapeError, match="function_pool2d: vjp must return an array of shape"):
        pullback(np.ones((1, 1, 2, 2)))


@both
def test_of_equal_indices_the_last_value_stays(module):
    y, pullback = vjp(module.max_unpool1d, np.array([[[1.0, 2, 3]]]), np.array([[[4, 4, 0]]]), kernel_size=2)
    np.testing.assert_array_equal(y, [[[3, 0, 0, 0, 2, 0]]])
    np.testing.assert_array_equal(pullback(np.arange(6.0).reshape(1, 1, 6))[0], [[[4, 4, 0]]])


def test_unpool_inverts_max_pool():
    x = np.random.default_rng(3).standard_normal((3, 5, 7, 9))
    y, indices = functional.max_pool2d(x, 3, stride=2, return_indices=True)
    back = functional.max_unpool2d(y, indices, 3, stride=2)
    again, found = functional.max_pool2d(np.where(back == 0, -INF, back), 3, stride=2, return_indices=True)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(found, indices)


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_downsample_and_upsample_are_adjoint(channels):
    rng = np.random.default_rng(4)
    wide, narrow = rng.integers(-9, 9, (2, channels, 7, 8)), rng.integers(-9, 9, (2, channels, 4, 3))
    up = functional.upsample(narrow, (2, 3), output_size=(7, 8))
    assert (functional.downsample(wide, (2, 3)) * narrow).sum() == (wide * up).sum()


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("channels", [1, 2, 5, 16, 33])
def test_the_cut_into_tasks_changes_nothing(name, channels, monkeypatch):
    """Bands of one image, overlapping or not, give what one task gives."""
    from fastconv.ops.pool import windows

    x = np.random.default_rng(5).standard_normal((1, channels, 61, 7)).astype(np.float32)
    function = getattr(functional, name)
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 5, "stride": 1}):
        y, pullback = vjp(function, x, **options)
        dy = np.random.default_rng(6).integers(-4, 5, y.shape)
        dx = pullback(dy)[0]
        with monkeypatch.context() as patch:
            patch.setattr(windows, "TASK_ELEMENTS", 1)
            patch.setattr(windows, "HALO", 1)
            windows.plan.cache_clear()
            fastconv.set_num_threads(2)
            least = team.set_bytes_per_thread(1)
            again, pull = vjp(function, x, **options)
            np.testing.assert_array_equal(again, y)
            np.testing.assert_array_equal(pull(dy)[0], dx)
            team.set_bytes_per_thread(least)
