"""Winograd's algorithm against float64 convolution: all passes, shapes, vector widths, threads and workspace limits."""

import itertools
import weakref

import alone
import numpy as np
import pytest

import fastconv
from fastconv import engine, functional, machine
from fastconv._ext.conv import winograd as kernels
from fastconv.engine import Problem, im2col, tuning, winograd
from fastconv.machine import simd
from fastconv.window import Window

TOLERANCE = 1e-5  # of the largest value
NONE = (0, 0)
ONES = (1, 1, 1)
SAME = (NONE, (1, 1), (1, 1))

# batch, input, channels, filters, kernel, padding, dilation, groups, and the stride where there is one
SHAPES = [
    (2, (1, 9, 11), 16, 16, (1, 3, 3), SAME, ONES, 1),
    (1, (1, 12, 12), 64, 64, (1, 3, 3), SAME, ONES, 1),
    (3, (1, 7, 5), 5, 7, (1, 3, 3), (NONE, (0, 1), (2, 1)), ONES, 1),
    (2, (1, 10, 13), 37, 70, (1, 3, 3), (NONE, (2, 2), NONE), ONES, 1),
    (1, (1, 2, 2), 24, 40, (1, 3, 3), SAME, ONES, 1),
    (1, (1, 1, 1), 3, 1, (1, 3, 3), (NONE, (5, 5), (4, 5)), ONES, 1),
    (2, (1, 8, 8), 130, 33, (1, 3, 3), SAME, ONES, 1),
    (1, (1, 7, 7), 512, 512, (1, 3, 3), SAME, ONES, 1),
    (2, (1, 9, 11), 37, 33, (1, 5, 5), (NONE, (2, 2), (0, 1)), ONES, 1),
    (3, (1, 5, 6), 6, 16, (1, 5, 5), NONE * 3, ONES, 1),
    (2, (1, 1, 31), 37, 33, (1, 1, 3), (NONE, NONE, (1, 1)), ONES, 1),
    (2, (1, 1, 30), 18, 33, (1, 1, 5), (NONE, NONE, (3, 5)), ONES, 1),
    (2, (1, 31, 3), 17, 33, (1, 3, 1), (NONE, (1, 1), NONE), ONES, 1),
    (2, (1, 12, 3), 17, 20, (1, 5, 1), (NONE, (1, 1), NONE), ONES, 1),
    (2, (5, 6, 7), 17, 20, (3, 3, 3), ((1, 1),) * 3, ONES, 1),
    (1, (4, 6, 7), 16, 32, (2, 3, 3), ((1, 0), (1, 1), (3, 4)), ONES, 1),
    (2, (1, 13, 17), 24, 40, (1, 3, 3), (NONE, (2, 2), (3, 1)), (1, 2, 3), 1),
    (2, (1, 13, 17), 24, 40, (1, 3, 3), SAME, ONES, 4),
    (0, (1, 4, 4), 3, 2, (1, 3, 3), SAME, ONES, 1),
    (2, (1, 9, 11), 37, 33, (1, 2, 2), (NONE, (1, 0), (0, 1)), ONES, 1),
    (2, (1, 1, 31), 18, 33, (1, 1, 2), NONE * 3, ONES, 1),
    (2, (1, 12, 3), 17, 20, (1, 2, 1), (NONE, (1, 1), NONE), ONES, 1),
    (1, (1, 13, 17), 24, 40, (1, 2, 2), (NONE, (2, 2), (3, 1)), (1, 2, 3), 4),
    (2, (1, 18, 21), 16, 48, (1, 3, 3), SAME, ONES, 1, (1, 2, 2)),
    (2, (1, 13, 14), 37, 70, (1, 3, 3), (NONE, (2, 0), (0, 1)), ONES, 1, (1, 2, 2)),
    (3, (1, 17, 12), 40, 21, (1, 4, 4), SAME, ONES, 1, (1, 2, 2)),
    (1, (1, 6, 9), 130, 35, (1, 4, 4), (NONE, (3, 2), (1, 5)), ONES, 1, (1, 2, 2)),
    (2, (1, 15, 16), 24, 32, (1, 4, 3), (NONE, (1, 1), (0, 2)), ONES, 4, (1, 2, 2)),
    (2, (1, 22, 19), 13, 18, (1, 5, 6), (NONE, (2, 1), (4, 0)), ONES, 1, (1, 3, 3)),
    (2, (1, 15, 16), 5, 7, (1, 4, 3), (NONE, (1, 1), (0, 2)), ONES, 1, (1, 2, 3)),
    (2, (1, 2, 3), 9, 17, (1, 4, 4), SAME, ONES, 1, (1, 2, 2)),
    (1, (1, 15, 16), 20, 17, (1, 5, 5), (NONE, (2, 2), (2, 1)), ONES, 1, (1, 2, 2)),
    (2, (1, 31, 22), 17, 16, (1, 10, 10), (NONE, (4, 4), (3, 4)), ONES, 1, (1, 2, 2)),
    (2, (1, 1, 61), 18, 33, (1, 1, 16), (NONE, NONE, (4, 3)), ONES, 1, (1, 1, 8)),
    (2, (1, 1, 41), 33, 18, (1, 1, 4), (NONE, NONE, (1, 2)), ONES, 1, (1, 1, 2)),
    (2, (1, 23, 3), 17, 20, (1, 3, 1), (NONE, (1, 1), NONE), ONES, 1, (1, 2, 1)),
    (2, (7, 8, 9), 17, 20, (3, 4, 4), ((1, 1),) * 3, ONES, 1, (1, 2, 2)),
    (2, (1, 9, 12), 17, 20, (1, 1, 4), (NONE, NONE, (1, 1)), ONES, 1, (1, 2, 2)),
    (1, (7, 8, 9), 16, 32, (3, 3, 3), ((1, 0), (1, 1), (2, 1)), ONES, 1, (2, 2, 2)),
]
SHAPES = [(*s[:5], s[5] if len(s[5]) == 3 else (NONE,) * 3, *s[6:], *(ONES,) * (9 - len(s))) for s in SHAPES]


def arrays(shape, seed=0):
    """x, w, bias, dy and the lifted window of a shape."""
    batch, spatial, channels, filters, kernel, padding, dilation, groups, *stride = shape
    rng = np.random.default_rng(seed)
    window = Window.parse("test", spatial, kernel, *stride or [1], padding, dilation)
    x = rng.standard_normal((batch, *spatial, channels), np.float32)
    w = rng.standard_normal((filters, *kernel, channels // groups), np.float32)
    dy = rng.standard_normal((batch, *window.output(spatial), filters), np.float32)
    return x, w, rng.standard_normal(filters, np.float32), dy, window


def passes(x, w, bias, dy, window, groups):
    """y, dx and dw."""
    y = np.full(dy.shape, np.nan, np.float32)
    alone.forward(winograd, x, w, bias, y, window, groups)
    dx = alone.gradient_input(or_im2col, dy, w, x.shape, window, groups)
    return y, dx, alone.gradient_weights(winograd, x, dy, w.shape, window, groups)


def or_im2col(direction, problem):
    """Where it does not serve."""
    return winograd if alone.serves(winograd, direction, problem) else im2col


def exact(x, w, bias, dy, window, groups):
    def first(a):
        return np.moveaxis(a, -1, 1).astype(float)

    y, pullback = fastconv.vjp(
        functional.conv3d, first(x), first(w), bias.astype(float), stride=window.stride, padding=window.padding,
        dilation=window.dilation, groups=groups, algorithm="im2col",
    )  # fmt: skip
    dx, dw, _ = pullback(first(dy))
    return [np.moveaxis(a, 1, -1) for a in (y, dx, dw)]


def check(shape, seed=0):
    *operands, window = arrays(shape, seed)
    for name, ours, right in zip(
        ("y", "dx", "dw"), passes(*operands, window, shape[7]), exact(*operands, window, shape[7]), strict=True
    ):
        assert ours.shape == right.shape and ours.dtype == np.float32
        if ours.size:
            assert abs(ours - right).max() <= TOLERANCE * max(abs(right).max(), 1e-30), name


@pytest.fixture(params=["as planned", "by panels", "by panels, apart", "by blocks"])
def cut(request, monkeypatch):
    """Every way in which a layer may be cut."""
    if request.param.startswith("by panels"):
        monkeypatch.setattr(tuning, "WINOGRAD_SHARED_BYTES", 0)
        monkeypatch.setattr(tuning, "WINOGRAD_OWN_BYTES", 0)
        monkeypatch.setattr(tuning, "WINOGRAD_PANEL_TILES", 20)
        monkeypatch.setattr(tuning, "WINOGRAD_PANEL_STEPS", 24)
        monkeypatch.setattr(tuning, "WINOGRAD_PIECE_FILTERS", 20)
        monkeypatch.setattr(tuning, "WINOGRAD_PIECE_CHANNELS", 32)
    if request.param == "by panels, apart":
        monkeypatch.setattr(tuning, "WINOGRAD_ALONE_TILES", 7)
        monkeypatch.setattr(tuning, "WINOGRAD_SUM_TILES", 2)
        monkeypatch.setattr(tuning, "WINOGRAD_SUMMED_BYTES", 1 << 16)
    if request.param == "by blocks":
        monkeypatch.setattr(tuning, "WINOGRAD_CHUNK_TILES", 1)
        monkeypatch.setattr(tuning, "TASKS", 3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(shape, cut):
    check(shape)


@pytest.mark.parametrize("widest", [16, 32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_vector_width(shape, widest, monkeypatch):
    monkeypatch.setattr(winograd, "WIDEST", widest)
    if widest > simd.SIMD_BYTES:
        pytest.skip("this machine's vectors are narrower")
    check(shape)


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_as_they_lie_in_a_net(shape, width, monkeypatch):
    """Taps last in memory."""
    if width > simd.SIMD_BYTES:
        pytest.skip("this machine's vectors are narrower")
    monkeypatch.setattr(winograd, "WIDEST", width)
    x, w, bias, dy, window = arrays(shape)
    taps_last = np.ascontiguousarray(w.transpose(0, 4, 1, 2, 3)).transpose(0, 2, 3, 4, 1)
    first, second = (passes(x, weights, bias, dy, window, shape[7]) for weights in (w, taps_last))
    for ours, same in zip(first, second, strict=True):
        if ours.size:
            assert abs(ours - same).max() <= 2e-6 * abs(same).max()


@pytest.mark.parametrize("offset", [0, 4])
@pytest.mark.parametrize(
    "shape",
    [
        (3, (1, 13, 18), 32, 48, (1, 3, 3), SAME, ONES, 1),
        (3, (1, 13, 18), 48, 32, (1, 5, 5), ((0, 0), (2, 2), (2, 1)), ONES, 1),
        (2, (1, 14, 11), 64, 96, (1, 3, 3), SAME, ONES, 2),
        (2, (1, 14, 11), 32, 40, (1, 3, 3), SAME, ONES, 1),
        (2, (1, 14, 11), 32, 48, (1, 4, 4), SAME, ONES, 1, (1, 2, 2)),
        (2, (4, 9, 10), 16, 16, (3, 3, 3), ((1, 1),) * 3, ONES, 1),
    ],
    ids=str,
)
def test_what_goes_past_the_caches(shape, offset, cut, monkeypatch):
    """Into memory that lines begin at, and other; the same numbers."""
    operands = arrays(shape)
    groups = shape[7]

    def found():
        x, w, bias, dy, window = operands
        y, dx = (aligned(like.shape, offset) for like in (dy, x))
        y[...] = dx[...] = np.nan
        problem = alone.problem_of(x.shape, dy.shape, window, groups, np.float32)
        engine.plan("forward", problem, engine.Policy.now("winograd")).run("conv2d", 1, x, w, bias, y)
        engine.plan("gradient_input", problem, engine.Policy.now("winograd")).run("conv2d", 1, dy, w, dx, None)
        return y.copy(), dx.copy()

    expected = found()
    monkeypatch.setattr(tuning, "NON_TEMPORAL_BYTES", 0)
    for ours, same in zip(found(), expected, strict=True):
        np.testing.assert_array_equal(ours, same)


def aligned(shape, offset):
    """An array that begins so many floats behind the beginning of a cache line."""
    room = np.empty(np.prod(shape) + 32, np.float32)
    first = -(room.ctypes.data // 4) % 16 + offset
    return room[first : first + np.prod(shape)].reshape(shape)


@pytest.mark.parametrize("channels", range(1, 71, 3))
def test_any_number_of_channels(channels):
    for filters in (1, 71 - channels):
        check((1, (1, 6, 9), channels, filters, (1, 3, 3), SAME, ONES, 1), channels)


def test_every_padding():
    for seed, (size, pads) in enumerate(itertools.product((3, 6), itertools.product(range(3), repeat=4))):
        check((1, (1, size, 5), 4, 5, (1, 3, 3), (NONE, pads[:2], pads[2:]), ONES, 1), seed)


@pytest.mark.parametrize("kernel", [3, 5])
def test_many_channels_stay_accurate(kernel):
    check((1, (1, 8, 8), 512, 48, (1, kernel, kernel), (NONE, (1, 1), (1, 1)), ONES, 1))
    check((1, (1, 8, 8), 48, 512, (1, kernel, kernel), (NONE, (1, 1), (1, 1)), ONES, 1))


@pytest.mark.parametrize("algorithm", [name for name in engine.ALGORITHMS if name != "auto"])
@pytest.mark.parametrize("channels", [3, 17])
def test_a_gradient_that_is_an_output_gets_a_bias(algorithm, channels):
    """A transposed convolution's; of inputs that no window sees too."""
    for kernel, stride in (((1, 1, 4), (1, 2, 2)), ((1, 3, 3), ONES), ((1, 2, 3), (1, 3, 2))):
        x, w, _, dy, window = arrays((2, (1, 9, 12), channels, 20, kernel, (NONE,) * 3, ONES, 1, stride))
        bias = np.arange(channels, dtype=np.float32)
        problem = alone.problem_of(x.shape, dy.shape, window, 1, np.float32)
        convolution = engine.Convolution(problem, engine.Policy.now(algorithm))
        dx = convolution.gradient_input("conv2d", dy, w)
        with_bias = convolution.gradient_input("conv2d", dy, w, bias)
        np.testing.assert_allclose(with_bias, dx + bias, rtol=0, atol=1e-5 * abs(with_bias).max())


def test_gradients_are_adjoint():
    x, w, _, dy, window = arrays((2, (2, 9, 10), 20, 24, (2, 3, 3), ((1, 0), (1, 1), (0, 2)), ONES, 2))
    y, dx, dw = (a.astype(float) for a in passes(x, w, np.zeros(24, np.float32), dy, window, 2))
    product = (y * dy).sum()
    assert (x * dx).sum() == pytest.approx(product, rel=1e-5)
    assert (w * dw).sum() == pytest.approx(product, rel=1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        (9, (1, 30, 30), 32, 40, (1, 3, 3), SAME, ONES, 1),
        (5, (1, 30, 31), 32, 40, (1, 3, 3), SAME, ONES, 1, (1, 2, 2)),
        SHAPES[7],
        SHAPES[14],
    ],
    ids=str,
)
def test_same_bits_at_any_number_of_threads(shape, cut, monkeypatch):
    monkeypatch.setattr(tuning, "WINOGRAD_PRODUCTS_PER_BYTE", 1)
    monkeypatch.setattr(machine.threads, "usable_cpus", lambda: 16)
    operands = arrays(shape)
    results = []
    for threads in (1, 2, 3, 7, 16):
        fastconv.set_num_threads(threads)
        results.append([a.tobytes() for a in passes(*operands, shape[7])])
    assert all(result == results[0] for result in results)


def test_threads_take_runs_of_tiles_where_these_keep_them_busy():
    """What one core writes no other one reads."""
    x, w, _, dy, window = arrays((16, (1, 16, 16), 128, 256, (1, 3, 3), SAME, ONES, 1))
    problem = alone.problem_of(x.shape, dy.shape, window, 1, np.float32)
    layout = winograd._layout(problem.x_shape, problem.y_shape, window, 1)
    forward = winograd._cut_forward(layout[1], 16, fastconv.get_workspace_limit())
    weights = winograd._cut_weights(layout[1], w.size, fastconv.get_workspace_limit())
    for together, apart in (forward, weights):
        assert not together.by_blocks
        assert apart.runs == 2
        assert winograd._fitting(1, together, apart) is together
        assert winograd._fitting(2, together, apart) is apart
        assert winograd._fitting(3, together, apart) is together


@pytest.mark.parametrize("limit", [1 << 21, 1 << 23, 1 << 26])
@pytest.mark.parametrize(
    "shape",
    [
        (4, (1, 40, 40), 48, 64, (1, 3, 3), SAME, ONES, 1),
        (4, (1, 40, 40), 40, 48, (1, 4, 4), SAME, ONES, 1, (1, 2, 2)),
        (16, (1, 16, 16), 128, 256, (1, 3, 3), SAME, ONES, 1),
        SHAPES[6],
        SHAPES[7],
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", [2, 3])
def test_scratch_stays_under_the_workspace_limit(shape, limit, threads, monkeypatch):
    *operands, window = arrays(shape)
    alive = most = 0

    def allocate(op, shape, dtype):
        nonlocal alive, most
        array = np.empty(shape, dtype)
        alive += array.nbytes
        most = max(most, alive)
        weakref.finalize(array, returned, array.nbytes)
        return array

    def returned(nbytes):
        nonlocal alive
        alive -= nbytes

    monkeypatch.setattr(winograd, "allocate", allocate)
    monkeypatch.setattr(tuning, "WINOGRAD_PRODUCTS_PER_BYTE", 1)
    monkeypatch.setattr(machine.threads, "usable_cpus", lambda: 16)
    fastconv.set_num_threads(threads)
    fastconv.set_workspace_limit(limit)
    x, w, bias, dy = operands
    calls = (
        lambda: alone.forward(winograd, x, w, bias, np.empty_like(dy), window),
        lambda: alone.gradient_input(winograd, dy, w, x.shape, window),
        lambda: alone.gradient_weights(winograd, x, dy, w.shape, window),
    )
    for call, right in zip(calls, exact(*operands, window, 1), strict=True):
        most = alive
        ours = call()
        assert alive < most <= limit
        assert abs(ours - right).max() <= TOLERANCE * abs(right).max()


def test_the_smallest_workspace_computes_too():
    fastconv.set_workspace_limit(1)
    check(SHAPES[3])
    check(SHAPES[14])
    check(next(shape for shape in SHAPES if shape[4] == (3, 4, 4)))


def test_nan_stays_in_its_tiles():
    x, w, bias, dy, window = arrays((1, (1, 12, 12), 4, 4, (1, 3, 3), (NONE,) * 3, ONES, 1))
    x[0, 0, 0, 0, 1] = np.nan
    y, _, dw = passes(x, w, bias, dy, window, 1)
    assert np.isnan(y[0, 0, 0, 0]).all() and np.isnan(dw[:, 0, 0, 0, 1]).all()
    assert np.isfinite(y[0, 0, 4:]).all() and np.isfinite(y[0, 0, :, 4:]).all()


def test_what_it_serves():
    def serves(kernel, stride=1, dilation=1, spatial=(9, 9, 9), dtype=np.float32, channels=8, groups=1, dx=False):
        window = Window.parse("test", spatial, kernel, stride, 2, dilation).lift()
        sizes = (1,) * (3 - len(spatial)) + spatial
        problem = Problem(1, channels, sizes, 8, window.output(sizes), window, groups, np.dtype(dtype))
        return alone.serves(winograd, "gradient_input" if dx else "forward", problem)

    assert serves(3) and serves(5) and serves((1, 3, 3), dilation=(1, 2, 2)) and serves((2, 5, 5)) and serves(2)
    assert serves(3, spatial=(9,)) and serves((3, 1), spatial=(9, 9)) and serves(3, groups=8)
    assert not serves(3, dtype=np.float64) and not serves(3, dilation=2)
    assert not serves(1) and not serves(7) and not serves((3, 5), spatial=(9, 9)) and not serves(3, channels=0)
    flat = (9, 9)
    for dx in (False, True):
        assert serves(3, stride=2, spatial=flat, dx=dx) and serves((4, 3), stride=2, spatial=flat, dx=dx)
        assert serves(6, stride=3, spatial=flat, dx=dx) and serves(4, stride=2, spatial=(9,), dx=dx)
        assert serves(3, stride=2, dx=dx) and serves(10, stride=2, spatial=(11, 11), dx=dx)
        assert not serves(2, stride=2, spatial=flat, dx=dx) and not serves(7, stride=2, spatial=flat, dx=dx)
        assert not serves(3, stride=2, dilation=2, spatial=flat, dx=dx) and not serves(
            3, stride=(1, 2), spatial=flat, dx=dx
        )
    assert serves(5, stride=2, spatial=flat) and not serves(5, stride=2, spatial=flat, dx=True)


@pytest.mark.parametrize("channels, size, chosen", [(64, 4, True), (16, 4, False), (16, 32, True)])
def test_chosen_for_many_channels_or_many_tiles(channels, size, chosen):
    window = Window.parse("test", (1, size, size), (1, 3, 3), 1, SAME)
    sizes = (1, size, size)
    for direction in ("forward", "gradient_input", "gradient_weights"):
        problem = Problem(1, channels, sizes, channels, sizes, window, 1, np.dtype(np.float32))
        assert (engine.plan(direction, problem).algorithm == "winograd") == chosen


def test_transforms_follow_from_the_points():
    """Toom and Cook: B' from the polynomials through the points, G from their powers and derivatives."""
    interpolate, powers, scaled, _ = kernels.axis_transforms()
    points = [0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)]
    for i, p in enumerate(points):
        others = [q for q in points if q != p]
        np.testing.assert_allclose(interpolate[i], [*np.poly(others)[::-1], 0], atol=1e-6)
        np.testing.assert_allclose(powers[i], [p**k for k in range(5)], atol=1e-6)
        np.testing.assert_allclose(scaled[i], np.divide(powers[i], np.prod([p - q for q in others])), atol=1e-6)
    np.testing.assert_allclose(interpolate[5], np.poly(points)[::-1], atol=1e-6)
    assert powers[5] == scaled[5] == [0, 0, 0, 0, 1]


def test_the_transform_of_two_taps_has_no_point_0():
    """Interpolation through four points and infinity, each row times its point: G's scales are those of five points."""
    five = kernels.axis_transforms()[3]
    points = [0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)]
    for i, p in enumerate(points):
        np.testing.assert_allclose(five[i], p * np.array([*np.poly([q for q in points if q != p])[::-1], 0]), atol=1e-6)
    np.testing.assert_allclose(five[4], np.poly(points)[::-1], atol=1e-6)


def test_long_sums_of_one_sign_lose_few_digits():
    """The gradient to the weights of a million equal products."""
    x, dy = (np.full(shape, 0.1, np.float32) for shape in ((1, 16, 1, 10**6), (1, 16, 1, 10**6 - 2)))
    _, pullback = fastconv.vjp(functional.conv2d, x, np.zeros((16, 16, 1, 3), np.float32), algorithm="winograd")
    (_, dw) = pullback(dy)
    assert abs(dw / (1e-2 * (10**6 - 2)) - 1).max() < 3e-5
