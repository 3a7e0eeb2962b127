"""The chapter's worked numbers and its identities, for the fast operations and for their naive twins.

The identities are of small integers and of binary fractions: they hold bit for bit, roots apart. docs/chapter.md says
which definition each belongs to.
"""

import doctest
import functools
import inspect
import itertools
import re
from fractions import Fraction

import numpy as np
import pytest

import fastconv as fc
from fastconv import ShapeError, chapter, functional, reference, vjp
from fastconv.analysis import window_indices

both = pytest.mark.parametrize("module", [functional, reference], ids=["fast", "naive"])

X = [[1, 0.9, 1.6, 0.3, 0.4], [0.9, 0.2, 0, 0.5, 3], [0.4, 0.2, 0.8, 0.6, 0.3], [0.5, 0.8, 1, 0.7, 2.1]]
W = [[1, 0], [1, 1]]
Y = [[0.4, 2.3, 0, 1.3, 0], [1.9, 3.2, 2.1, 1.5, 0], [2.3, 0, 3.8, 0, 4.3], [1.5, 2.3, 1.5, 0.7, 2.1]]

CONVOLVED = [[2.1, 1.1, 2.1, 3.8], [1.5, 1.2, 1.4, 1.4], [1.7, 2, 2.5, 3.4]]
CONVOLVED_2 = [[2.1, 2.1], [1.7, 2.5]]
CONVOLVED_2_PADDED = [[2.1, 2.1, 3.4], [1.7, 2.5, 2.4]]
MAXIMA = [[3.2, 3.2, 2.1, 1.5], [3.2, 3.8, 3.8, 4.3], [2.3, 3.8, 3.8, 4.3]]
PLACES = [[4, 3, 3, 3], [2, 4, 3, 4], [1, 2, 1, 2]]
MEANS = [[1.95, 1.9, 1.225, 0.7], [1.85, 2.275, 1.85, 1.45], [1.525, 1.9, 1.5, 1.775]]


def plane(values, scale=1):
    """A matrix of decimals as one image with one channel; scaled by 10 or 1000 it is exact."""
    return np.array([[[[float(Fraction(str(v)) * scale) for v in row] for row in values]]])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float64)


def gradients(operation, /, *arrays, **options):
    """The output, a dy of small integers, and what the pullback makes of it."""
    y, pullback = vjp(operation, *arrays, **options)
    dy = draw(*y.shape, seed=99)
    return y, dy, pullback(dy)


def same(actual, expected):
    np.testing.assert_array_equal(actual, expected, strict=True)


def reversed_filters(w):
    """(K, C, *kernel) -> (C, K, *kernel), taps in reverse: channel c of all K filters makes one filter."""
    return np.flip(w.swapaxes(0, 1), axis=tuple(range(2, w.ndim)))


# --- the worked numbers ----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, CONVOLVED),
        ({"stride": 2}, CONVOLVED_2),
        ({"stride": 2, "padding": ((0, 0), (0, 1))}, CONVOLVED_2_PADDED),
    ],
    ids=["stride_1", "stride_2", "one_zero_column"],
)
def test_the_worked_convolution(module, options, expected):
    same(module.conv2d(plane(X, 10), plane(W), **options), plane(expected, 10))
    for dtype, error in ((np.float64, 1e-14), (np.float32, 1e-6)):
        y = module.conv2d(plane(X).astype(dtype), plane(W).astype(dtype), **options)
        np.testing.assert_allclose(y, plane(expected), rtol=error)


@both
def test_the_worked_maxima_and_their_places(module):
    """The chapter counts the places of a window from 1, along its rows; ours are flat indices of the plane."""
    values, indices = module.max_pool2d(plane(Y), 2, stride=1, return_indices=True)
    same(values, plane(MAXIMA))
    row, column = np.divmod(indices[0, 0], len(Y[0]))
    top, left = np.mgrid[:3, :4]
    same(2 * (row - top) + (column - left) + 1, np.array(PLACES))


@both
def test_the_worked_means(module):
    same(module.avg_pool2d(plane(Y, 10), 2, stride=1), plane(MEANS, 10))
    np.testing.assert_allclose(module.avg_pool2d(plane(Y), 2, stride=1), plane(MEANS), rtol=1e-14)


def test_no_window_has_the_mean_that_the_chapter_prints():
    """2.05 stands at (1, 1), where it is 1.95: it would need a sum of 8.2, and nothing between 7.8 and 9.1 occurs."""
    cells = [[Fraction(str(v)) for v in row] for row in Y]
    sums = {
        (r, c): cells[r][c] + cells[r][c + 1] + cells[r + 1][c] + cells[r + 1][c + 1]
        for r in range(3) for c in range(4)
    }  # fmt: skip
    assert sums[0, 0] / 4 == Fraction("1.95")
    assert [at for at, total in sums.items() if total / 4 == Fraction("1.9")] == [(0, 1), (2, 1)]
    assert not [total for total in sums.values() if Fraction("7.8") < total < Fraction("9.1")]


# --- convolution's gradients are convolutions ------------------------------------------------------------------------

PLAIN = [
    ("conv1d", (2, 3, 9), (4, 3, 3), {}),
    ("conv2d", (2, 1, 5, 6), (1, 1, 2, 3), {}),
    ("conv2d", (2, 3, 5, 6), (4, 3, 3, 2), {}),
    ("conv2d", (2, 3, 5, 4), (4, 3, 3, 3), {"padding": ((2, 1), (0, 2))}),
    ("conv2d", (1, 2, 7, 8), (3, 2, 3, 2), {"dilation": (2, 3), "padding": 1}),
    ("conv3d", (1, 2, 3, 4, 3), (2, 2, 2, 2, 2), {"padding": 1}),
]
plain = pytest.mark.parametrize(("name", "x_shape", "w_shape", "options"), PLAIN)


def settings(w_shape, options):
    """Per axis: dilation, (before, after), and the window's last step."""
    axes = len(w_shape) - 2
    dilation = np.broadcast_to(options.get("dilation", 1), axes)
    around = np.broadcast_to(options.get("padding", 0), (axes, 2))
    return tuple(map(int, dilation)), around, [(k - 1) * d for k, d in zip(w_shape[2:], dilation, strict=True)]


@both
@plain
def test_the_gradient_to_the_input_is_a_convolution(module, name, x_shape, w_shape, options):
    """The zero-padded gradient, convolved with the reversed filters."""
    convolve = getattr(module, name)
    w = draw(*w_shape, seed=1)
    _, dy, (dx, _) = gradients(convolve, draw(*x_shape), w, **options)
    dilation, around, last = settings(w_shape, options)
    padding = tuple((int(s - before), int(s - after)) for s, (before, after) in zip(last, around, strict=True))
    same(convolve(dy, reversed_filters(w), padding=padding, dilation=dilation), dx)


@both
@plain
def test_the_gradient_to_the_filters_is_a_convolution(module, name, x_shape, w_shape, options):
    """The input, convolved with the gradient: samples take the part of channels."""
    convolve = getattr(module, name)
    x = draw(*x_shape)
    _, dy, (_, dw) = gradients(convolve, x, draw(*w_shape, seed=1), **options)
    dilation, around, _ = settings(w_shape, options)
    padding = tuple((int(before), int(after)) for before, after in around)
    found = convolve(x.swapaxes(0, 1), dy.swapaxes(0, 1), stride=dilation, padding=padding)  # (C, K, *kernel)
    same(found.swapaxes(0, 1), dw)


@both
@pytest.mark.parametrize(("size", "kernel", "stride"), [((7, 6), (3, 2), (2, 3)), ((8, 5), (2, 3), (3, 2))])
def test_with_a_stride_the_gradient_is_upsampled_first(module, size, kernel, stride):
    """A strided convolution is a dense one and a downsampling: back through that, then as above."""
    x, w = draw(2, 3, *size), draw(4, 3, *kernel, seed=1)
    _, dy, (dx, dw) = gradients(module.conv2d, x, w, stride=stride)
    dense = tuple(n - k + 1 for n, k in zip(size, kernel, strict=True))
    dz = module.upsample(dy, stride, output_size=dense)
    padding = tuple(k - 1 for k in kernel)
    same(module.conv2d(dz, reversed_filters(w), padding=padding), dx)
    same(module.conv2d(x.swapaxes(0, 1), dz.swapaxes(0, 1)).swapaxes(0, 1), dw)
    used = tuple((m - 1) * s + k for m, s, k in zip(dy.shape[2:], stride, kernel, strict=True))
    x_used = x[:, :, : used[0], : used[1]]  # without what no window reaches
    same(module.conv2d(x_used.swapaxes(0, 1), dy.swapaxes(0, 1), dilation=stride).swapaxes(0, 1), dw)


@both
def test_transposed_convolution_is_the_gradient_to_the_input(module):
    w = draw(4, 3, 3, 2, seed=1)
    _, dy, (dx, _) = gradients(module.conv2d, draw(2, 3, 7, 8), w, stride=2, padding=1)
    same(module.conv_transpose2d(dy, w, stride=2, padding=1, output_size=(7, 8)), dx)
    same(module.conv2d(module.upsample(dy, 2), reversed_filters(w), padding=((1, 1), (0, 0))), dx[:, :, :7, :8])


@both
def test_groups_are_convolutions_beside_each_other(module):
    x, w = draw(2, 4, 5, 5), draw(6, 2, 3, 3, seed=1)
    halves = [module.conv2d(x[:, :2], w[:3]), module.conv2d(x[:, 2:], w[3:])]
    same(module.conv2d(x, w, groups=2), np.concatenate(halves, axis=1))


# --- layers of neurons -----------------------------------------------------------------------------------------------


@both
def test_a_fully_connected_layer_is_a_convolution_as_large_as_its_input(module):
    x, w, b = draw(3, 2, 4, 5), draw(6, 40, seed=1), draw(6, seed=2)
    y, dy, (_, dw, db) = gradients(module.linear, module.flatten(x), w, b)
    z, pullback = vjp(module.conv2d, x, w.reshape(6, 2, 4, 5), b)
    same(z[:, :, 0, 0], y)
    _, dw_conv, db_conv = pullback(dy[:, :, None, None])
    same(dw_conv.reshape(6, 40), dw)
    same(db_conv, db)


@both
def test_a_perceptron_that_slides_is_a_convolution(module):
    """One neuron's answers on every crop, its weights shared."""
    x, w, b = draw(2, 3, 5, 6), draw(4, 3, 3, 2, seed=1), draw(4, seed=2)
    y = module.conv2d(x, w, b)
    for row in range(3):
        for column in range(5):
            crop = module.flatten(x[:, :, row : row + 3, column : column + 2])
            same(y[:, :, row, column], module.linear(crop, w.reshape(4, -1), b))


@both
def test_a_1x1_convolution_is_a_fully_connected_layer_of_each_pixel(module):
    x, w = draw(2, 3, 4, 5), draw(6, 3, seed=1)
    pixels = np.moveaxis(x, 1, -1).reshape(-1, 3)
    y = module.linear(pixels, w).reshape(2, 4, 5, 6)
    same(module.conv2d(x, w[:, :, None, None]), np.moveaxis(y, -1, 1))


@both
def test_what_the_input_shifts_the_output_shifts(module):
    """Whole strides only: a shift by less meets other windows."""
    x, w = np.zeros((1, 1, 12, 12)), draw(2, 1, 3, 3, seed=1)
    x[:, :, 2:6, 2:6] = draw(1, 1, 4, 4)
    moved = np.roll(x, (2, 4), axis=(2, 3))
    for stride in (1, 2):
        shift = (2 // stride, 4 // stride)
        y = module.conv2d(x, w, stride=stride, padding=1)
        same(module.conv2d(moved, w, stride=stride, padding=1), np.roll(y, shift, axis=(2, 3)))
    by_one = module.conv2d(np.roll(x, 1, axis=3), w, stride=2, padding=1)
    assert not any(np.array_equal(by_one, np.roll(y, shift, axis=3)) for shift in range(6))


# --- strides as resampling -------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("shape", [(2, 3, 7), (1, 2, 6, 7), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_downsample_and_upsample_are_each_others_gradient(module, shape, factor):
    size = shape[2:]
    _, dy, (dx,) = gradients(module.downsample, draw(*shape), factor=factor)
    same(module.upsample(dy, factor, output_size=size), dx)
    _, dy, (dx,) = gradients(module.upsample, draw(*shape), factor=factor)
    same(module.downsample(dy, factor), dx)
    wide = tuple(n * factor for n in size)
    _, dy, (dx,) = gradients(module.upsample, draw(*shape), factor=factor, output_size=wide)
    same(module.downsample(dy, factor), dx)


@both
def test_upsampling_ends_with_an_element(module):
    """(n - 1) * factor + 1 outputs; the trailing zeros of the chapter's figure are to be asked for."""
    x = np.array([[[1.0, 2, 3]]])
    same(module.upsample(x, 3), np.array([[[1.0, 0, 0, 2, 0, 0, 3]]]))
    same(module.upsample(x, 3, output_size=9), np.array([[[1.0, 0, 0, 2, 0, 0, 3, 0, 0]]]))
    same(module.downsample(module.upsample(x, 3), 3), x)
    same(module.downsample(module.upsample(x, 3, output_size=9), 3), x)


@both
@pytest.mark.parametrize("ratio", [2, 3, Fraction(1, 2), Fraction(3, 2), Fraction(2, 3), Fraction(5, 3)], ids=str)
@pytest.mark.parametrize(
    ("name", "x_shape", "w_shape", "padding"),
    [
        ("conv1d", (2, 3, 9), (4, 3, 4), 1),
        ("conv2d", (2, 2, 5, 6), (3, 2, 3, 3), 1),
        ("conv2d", (1, 2, 5, 4), (3, 2, 2, 4), ((0, 2), (3, 1))),
        ("conv3d", (1, 1, 3, 4, 3), (2, 1, 2, 3, 2), 0),
    ],
)
def test_a_stride_is_upsampling_convolution_downsampling(module, ratio, name, x_shape, w_shape, padding):
    """Forward, and backward step by step in reverse."""
    convolve = getattr(module, name)
    x, w, b = draw(*x_shape), draw(*w_shape, seed=1), draw(w_shape[0], seed=2)
    y, dy, (dx, dw, db) = gradients(convolve, x, w, b, stride=ratio, padding=padding)
    up, down = ratio.denominator, ratio.numerator
    u, back_u = vjp(module.upsample, x, factor=up)
    z, back_z = vjp(convolve, u, w, b, padding=padding)
    v, back_v = vjp(module.downsample, z, factor=down)
    same(y, v)
    du, dw_steps, db_steps = back_z(*back_v(dy))
    same(dx, *back_u(du))
    same(dw, dw_steps)
    same(db, db_steps)


@both
def test_a_pair_that_is_not_reduced_is_upsampling_and_an_integer_stride(module):
    """Fraction(2, 4) is 1/2: twice as many zeros and a stride of 2 meet other inputs."""
    x, w = draw(1, 1, 6), draw(1, 1, 3, seed=1)
    same(
        module.conv1d(module.upsample(x, 4), w, stride=2),
        module.downsample(module.conv1d(module.upsample(x, 4), w), 2),
    )
    assert module.conv1d(x, w, stride=Fraction(2, 4)).shape != module.conv1d(module.upsample(x, 4), w, stride=2).shape


# --- pooling ---------------------------------------------------------------------------------------------------------

POOLS = [
    ("max_pool2d", {"kernel_size": 2}),
    ("max_pool2d", {"kernel_size": (3, 2), "padding": 1}),
    ("max_pool2d", {"kernel_size": 2, "dilation": 2}),
    ("avg_pool2d", {"kernel_size": 2}),
    ("avg_pool2d", {"kernel_size": (2, 4), "padding": 1}),
    ("lp_pool2d", {"norm_type": 1, "kernel_size": (2, 3)}),
    ("lp_pool2d", {"norm_type": 2, "kernel_size": 3, "padding": 1}),
    ("function_pool2d", {"function": lambda windows: windows.sum(-1), "kernel_size": 3,
                         "vjp": lambda windows, dy: np.broadcast_to(dy[..., None], windows.shape)}),
]  # fmt: skip


@both
@pytest.mark.parametrize("stride", [2, 3, (3, 2)], ids=str)
@pytest.mark.parametrize(("name", "options"), POOLS)
def test_pooling_with_a_stride_is_unit_stride_pooling_and_downsampling(module, name, options, stride):
    pool, x = getattr(module, name), draw(2, 3, 8, 7)
    y, dy, (dx,) = gradients(pool, x, stride=stride, **options)
    z, back_z = vjp(pool, x, stride=1, **options)
    v, back_v = vjp(module.downsample, z, factor=stride)
    (dx_steps,) = back_z(*back_v(dy))
    if name == "lp_pool2d":  # roots
        np.testing.assert_allclose(y, v, rtol=1e-14)
        np.testing.assert_allclose(dx, dx_steps, rtol=1e-13, atol=1e-13)
    else:
        same(y, v)
        same(dx, dx_steps)


@both
@pytest.mark.parametrize("kernel", [(2, 2), (1, 4), (4, 2)], ids=str)
@pytest.mark.parametrize("padding", [0, 1])
def test_mean_pooling_and_its_gradient_are_convolutions_with_the_uniform_kernel(module, kernel, padding):
    padding = min(padding, min(kernel) // 2)
    x = draw(2, 3, 6, 7)
    uniform = np.full((3, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    y, dy, (dx,) = gradients(module.avg_pool2d, x, kernel_size=kernel, stride=1, padding=padding)
    same(module.conv2d(x, uniform, padding=padding, groups=3), y)
    around = tuple(k - 1 - padding for k in kernel)
    same(module.conv2d(dy, uniform, padding=around, groups=3), dx)


@both
def test_the_gradient_of_a_maximum_goes_to_its_place(module):
    """Where windows overlap, an input that won twice has the sum."""
    x = np.random.default_rng(3).permutation(2 * 3 * 7 * 6).reshape(2, 3, 7, 6).astype(np.float64)
    (_, indices), pullback = vjp(module.max_pool2d, x, kernel_size=3, stride=2, return_indices=True)
    dy = draw(*indices.shape, seed=99)
    expected = np.zeros((2, 3, 42))
    n, c = np.ogrid[:2, :3]
    np.add.at(expected, (n[..., None], c[..., None], indices.reshape(2, 3, -1)), dy.reshape(2, 3, -1))
    same(pullback(dy)[0], expected.reshape(x.shape))
    (_, indices), pullback = vjp(module.max_pool2d, x, kernel_size=2, return_indices=True)
    dy = draw(*indices.shape, seed=99)
    same(module.max_unpool2d(dy, indices, 2, output_size=(7, 6)), pullback(dy)[0])


@both
def test_p_norms_lie_between_the_sum_and_the_maximum(module):
    x = np.abs(draw(2, 3, 6, 6)) + 1
    norms = [module.lp_pool2d(x, p, 2) for p in (1, 2, 4, 64)]
    same(norms[0], 4 * module.avg_pool2d(x, 2))
    assert all((a >= b).all() for a, b in itertools.pairwise(norms))
    np.testing.assert_allclose(norms[-1], module.max_pool2d(x, 2), rtol=0.03)


@both
def test_a_maximum_is_the_or_of_a_detector_and_the_least_its_and(module):
    """Of answers 0 and 1, over all of the map."""
    y = np.random.default_rng(4).integers(0, 2, (40, 2, 2, 2)).astype(np.float64)
    same(module.adaptive_max_pool2d(y, 1)[..., 0, 0], y.any(axis=(2, 3)).astype(np.float64))
    same(-module.adaptive_max_pool2d(-y, 1)[..., 0, 0], y.all(axis=(2, 3)).astype(np.float64))


# --- the chapter's own words -----------------------------------------------------------------------------------------


def decimals(values):
    return np.array([[float(v) for v in row] for row in values])


def test_the_chapters_words_give_the_chapters_numbers():
    """`fastconv.chapter` on plain lists."""
    near = functools.partial(np.testing.assert_allclose, rtol=1e-14, strict=True)
    near(chapter.Conv(X, W), decimals(CONVOLVED))
    near(chapter.Conv(X, W, 2), decimals(CONVOLVED_2))
    near(chapter.Conv(X, W, 2, padding=((0, 0), (0, 1))), decimals(CONVOLVED_2_PADDED))
    near(chapter.Pool(Y, 2, 1, "max"), decimals(MAXIMA))
    near(chapter.Pool(Y, 2, 1, "mean"), decimals(MEANS))
    same(chapter.places(Y, 2, 1), np.array(PLACES))
    assert chapter.at(chapter.Pool(Y, 2, 1, "mean"), 1, 1) == pytest.approx(1.95)


def test_the_chapters_words_on_maps():
    """C x N x M, filters (K, C, L, L'): what the functions give for a batch of one."""
    x, w, b = draw(3, 5, 6), draw(4, 3, 2, 3, seed=1), draw(4, seed=2)
    for stride in (1, (2, 1), Fraction(1, 2), (Fraction(3, 2), 2)):
        expected = functional.conv2d(x[None], w, b, stride=stride, padding=1)[0]
        same(chapter.Conv(x, w, stride, b, padding=1), expected)
        same(chapter.Conv(x, w[0], stride, b[:1], padding=1), expected[0])
    ratio = Fraction(3, 2)
    same(chapter.Conv(x, w, ratio), chapter.dSample(chapter.Conv(chapter.uSample(x, 2), w), 3))
    same(chapter.dSample(x, (2, 3)), x[:, ::2, ::3])
    same(chapter.uSample(x, 2), functional.upsample(x[None], 2)[0])
    same(
        chapter.uSample(x[0], (1, 3), trailing=True),
        functional.upsample(x[None, :1], (1, 3), output_size=(5, 18))[0, 0],
    )
    same(chapter.flatten(x), x.ravel())
    same(chapter.Pool(x, 3, 1), functional.max_pool2d(x[None], 3, stride=1)[0])
    same(chapter.Pool(x, (1, 2)), functional.max_pool2d(x[None], (1, 2))[0])
    same(chapter.Pool(x, 2, 1, "norm", p=1), functional.lp_pool2d(x[None], 1, 2, stride=1)[0])
    same(chapter.Pool(x, 2, 1, lambda windows: windows.min(axis=-1)), -chapter.Pool(-x, 2, 1))
    same(chapter.places(x, 2, 1), window_indices(x[None], 2, stride=1)[0])
    single = x.astype(np.float32)
    assert chapter.Conv(single, w.tolist()).dtype == chapter.Pool(single, 2).dtype == np.float32
    assert chapter.Conv(x.astype(int), w.astype(np.int8)).dtype == np.float64
    for result in (chapter.Conv(x, w), chapter.uSample(x, 2), chapter.Pool(x, 2)):
        assert result.flags.c_contiguous


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: chapter.Conv([1, 2], [[1]]), ShapeError, r"Conv: X must be a matrix .* shape \(2,\)"),
        (lambda: chapter.Conv(X, [1, 2]), ShapeError, r"Conv: W must be \(L, L'\), .* got shape \(2,\)"),
        (lambda: chapter.Conv([X, X], W), ShapeError, r"W must be \(C, L, L'\) for X of 2 maps, got shape \(2, 2\)"),
        (lambda: chapter.Conv(X, [[1, 2], [3]]), ShapeError, "W must be a rectangular array"),
        (lambda: chapter.Conv(X, W, 0.5), TypeError, r"stride must be an integer, got 0.5; write Fraction\(1, 2\)"),
        (lambda: chapter.Pool(X, 2, 1, "maximum"), ValueError, "Pool: kind must be .*; did you mean 'max'"),
        (lambda: chapter.Pool(X, 9), ShapeError, "max_pool2d: "),
        (lambda: chapter.uSample(X, 0), ShapeError, "upsample: factor must be at least 1, got 0"),
        (lambda: chapter.at(X, 0, 1), ShapeError, r"one of 1 … n along each axis of \(4, 5\), got \(0, 1\)"),
        (lambda: chapter.at(X, 1), ShapeError, r"one of 1 … n along each axis of \(4, 5\), got \(1,\)"),
    ],
)
def test_the_chapters_words_refuse(call, error, match):
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(chapter)
    assert result.attempted >= 15
    assert result.failed == 0


def test_the_source_of_the_reference_is_its_loops():
    """What `inspect.getsource`, and IPython's ??, show of the public name: ten lines of loops."""
    source = inspect.getsource(reference.conv2d)
    lines = [line.strip() for line in source.splitlines()]
    loops = lines[lines.index("ys = []") : lines.index("ys.append(total)") + 1]
    assert len(loops) == 10
    assert "total += plane[i] * weights[t]" in loops
    assert not {"functional", "forward", "engine"} & set(re.findall(r"\w+", source))
    assert str(inspect.signature(reference.conv2d)) == str(inspect.signature(functional.conv2d))
    for name in reference.__all__:  # each shows code of fastconv/ops
        assert "/ops/" in inspect.getsourcefile(inspect.unwrap(getattr(reference, name))).replace("\\", "/")


def test_a_step_is_the_perceptrons_answer():
    x = np.array([[-2.0, -0.0, 0.0, 1e-300, np.nan, np.inf, -np.inf]])
    for module in (functional, reference):
        y, pullback = vjp(module.step, x)
        same(y, np.array([[0.0, 1.0, 1.0, 1.0, np.nan, 1.0, 0.0]]))
        same(*pullback(np.ones_like(x)), np.zeros_like(x))


def test_padding_with_zeros_and_then_convolving_is_convolving_with_padding():
    x, w = draw(2, 3, 5, 6), draw(4, 3, 3, 3, seed=1)
    around = ((2, 1), (0, 3))
    same(functional.conv2d(functional.pad(x, around), w), functional.conv2d(x, w, padding=around))


# --- forward and backward, step by step ------------------------------------------------------------------------------


@both
def test_several_channels_are_a_sum_of_convolutions(module):
    """The chapter's "3D convolution" of C x N x M: each filter's output is the sum over the channels, plus its bias."""
    x, w, b = draw(2, 3, 5, 6), draw(4, 3, 2, 3, seed=1), draw(4, seed=2)
    for k in range(4):
        maps = sum(module.conv2d(x[:, [c]], w[k : k + 1, [c]]) for c in range(3))
        same(module.conv2d(x, w, b)[:, [k]], maps + b[k])
    volume = module.conv3d(x[:, None], w[:, None])  # a volume of depth 3 has one position along it
    same(volume[:, :, 0], module.conv2d(x, w))


@both
def test_a_stride_of_a_half_with_and_without_trailing_zeros(module):
    x, w = draw(1, 1, 4, 4), draw(1, 1, 2, 2, seed=1)
    y = module.conv2d(x, w, stride=Fraction(1, 2))
    assert y.shape == (1, 1, 6, 6)
    trailing = module.conv2d(module.upsample(x, 2, output_size=8), w)
    assert trailing.shape == (1, 1, 7, 7)
    same(trailing[..., :6, :6], y)
    same(chapter.Conv(chapter.uSample(x[0, 0], 2, trailing=True), w[0, 0]), trailing[0, 0])
    same(chapter.Conv(x[0, 0], w[0, 0], Fraction(1, 2)), y[0, 0])


SLOPES = {
    "relu": lambda z: (z > 0).astype(float),
    "sigmoid": lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2,
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "softplus": lambda z: 1 / (1 + np.exp(-z)),
    "step": np.zeros_like,
}


@both
@pytest.mark.parametrize("name", SLOPES)
def test_activations_and_their_derivatives(module, name):
    z = np.random.default_rng(0).uniform(-4, 4, (2, 3, 4, 5))
    _, dy, (dz,) = gradients(getattr(module, name), z)
    np.testing.assert_allclose(dz, dy * SLOPES[name](z), rtol=1e-12, atol=1e-14)


@both
def test_flattening_and_its_gradient(module):
    x = draw(2, 3, 4, 5)
    y, dy, (dx,) = gradients(module.flatten, x)
    same(y, np.array([[x[n, c, i, j] for c in range(3) for i in range(4) for j in range(5)] for n in range(2)]))
    same(dx, dy.reshape(x.shape))


@both
def test_a_fully_connected_layer_and_its_gradients(module):
    x, v, c = draw(1, 6), draw(4, 6, seed=1), draw(4, seed=2)
    s, ds, (dx, dv, dc) = gradients(module.linear, x, v, c)
    same(s[0], v @ x[0] + c)
    same(dx[0], v.T @ ds[0])
    same(dv, np.outer(ds[0], x[0]))
    same(dc, ds[0])


@both
def test_softmax_and_cross_entropy_have_one_gradient(module):
    s, target = draw(5, 3), np.array([0, 1, 2, 1, 0])
    p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    loss, pullback = vjp(module.cross_entropy, s, target, reduction="sum")
    assert loss == pytest.approx(-np.log(p[np.arange(5), target]).sum())
    np.testing.assert_allclose(pullback(np.float64(1))[0], p - np.eye(3)[target], rtol=1e-12, atol=1e-15)


def test_the_simple_cnn():
    """Its layers in a row are its operations in a row, and its gradients those of their pullbacks."""
    net = fc.Sequential(
        fc.Conv2d(1, 4, 3, rng=0), fc.ReLU(), fc.MaxPool2d(3, 1), fc.Flatten(), fc.Linear(64, 10, rng=1)
    ).astype(np.float64)  # fmt: skip
    x, target = np.random.default_rng(0).random((5, 1, 8, 8)), np.arange(5)
    w, b, v, c = net.parameters().values()
    z, back_conv = vjp(functional.conv2d, x, w, b)
    y, back_relu = vjp(functional.relu, z)
    p, back_pool = vjp(functional.max_pool2d, y, kernel_size=3, stride=1)
    flat, back_flat = vjp(functional.flatten, p)
    s, back_linear = vjp(functional.linear, flat, v, c)
    loss, back_loss = vjp(functional.cross_entropy, s, target)
    dflat, dv, dc = back_linear(back_loss(1.0)[0])
    _, dw, db = back_conv(*back_relu(*back_pool(*back_flat(dflat))))
    np.testing.assert_array_equal(net(x), s)
    value, found = fc.value_and_grad(net, "cross_entropy", x, target)
    assert value == pytest.approx(float(loss), rel=1e-14)
    for name, expected in zip(net.parameters(), (dw, db, dv, dc), strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: chapter.Conv([[1, 2]], None), TypeError, "Conv: W must be an array of numbers, got None"),
        (lambda: chapter.Pool(None, 2), TypeError, "Pool: X must be an array of numbers, got None"),
        (lambda: chapter.Conv([[1, 2]], [[1]], "1/2"), TypeError, r"1/2 is Fraction\(1, 2\)"),
        (lambda: chapter.Conv([[1, 2]], [[[1]], [[2]]]), ShapeError, "W must have as many maps as X"),
        (lambda: chapter.at([[1, 2]], 1.0, 1), TypeError, "the place must be integers"),
        (lambda: chapter.at([[1, 2]], 0, 1), ShapeError, "one of 1 … n"),
        (lambda: vjp(chapter.Conv, [[1, 2]], [[1]]), TypeError, r"those of functional\.conv2d: write X\[None, None\]"),
        (lambda: fc.analysis.walkthrough(chapter.uSample, [[1, 2]], 2), TypeError, r"those of functional\.upsample"),
    ],
)
def test_what_the_chapters_words_refuse(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
