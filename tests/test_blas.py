"""Products that are cut into pieces: what BLAS cannot count, and what has few outputs and long sums."""

import itertools

import numpy as np
import pytest

from fastconv import functional, vjp
from fastconv._ext import blas
from fastconv.machine.memory import available_bytes, get_workspace_limit
from fastconv.products import Cut, product

BEYOND = 2**31 + 16  # 32 bits


@pytest.fixture(params=[1, 2, 5, 7])
def short_counts(request):
    """BLAS as if it counted to a few only."""
    before = blas.set_longest(request.param)
    yield
    blas.set_longest(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_product_in_pieces(short_counts, dtype):
    rng = np.random.default_rng(0)
    for m, n, k in itertools.product((1, 3, 6, 15), (1, 2, 5, 11), (0, 1, 5, 9)):
        a, b = rng.integers(-4, 5, (m, k)).astype(dtype), rng.integers(-4, 5, (k, n)).astype(dtype)
        for turn_a, turn_b in itertools.product((False, True), repeat=2):
            y = np.full((1, m, n), np.nan, dtype)
            left, right = (np.asfortranarray(a) if turn_a else a), (np.asfortranarray(b) if turn_b else b)
            blas.matmul(left, right, None, y, m, n, max(1, k), 1)
            np.testing.assert_array_equal(y[0], a.astype(int) @ b.astype(int))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows(dtype):
    """A matrix too large to be packed for them; nan and infinity where they belong."""
    rng = np.random.default_rng(0)
    n, k = 150, 1100
    b = rng.integers(-4, 5, (k, n)).astype(dtype)
    for m, turn_b in itertools.product((1, 2, 7, 8, 9), (False, True)):
        a = rng.integers(-4, 5, (m, k)).astype(dtype)
        right = np.asfortranarray(b) if turn_b else b
        for turn_a in (False, True):
            y = np.full((1, m, n), np.nan, dtype)
            blas.matmul(np.asfortranarray(a) if turn_a else a, right, None, y, m, n, k, 1)
            np.testing.assert_array_equal(y[0], a.astype(int) @ b.astype(int))
        a[0, 7], a[-1, 9], y = np.nan, np.inf, np.zeros((1, m, n), dtype)
        with np.errstate(all="ignore"):
            blas.matmul(a, right, np.ones(n, dtype), y, m, n, k, 1)
            np.testing.assert_array_equal(y[0], a @ b + 1)


def test_blocks_that_do_not_fit():
    a, y = np.ones((8, 8), np.float32), np.zeros((1, 8, 8), np.float32)
    for blocks in ((0, 8, 8), (8, 0, 8), (8, 8, 0), (-1, 8, 8), (8, 8, -2)):
        with pytest.raises(ValueError, match="matmul: got"):
            blas.matmul(a, a, None, y, *blocks, 1)
    blas.matmul(a, a, None, y, 2**63 - 1, 2**63 - 1, 2**63 - 1, 1)
    np.testing.assert_array_equal(y, 8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("m", "n", "k"), [(64, 10, 1700), (128, 128, 800), (2, 1, 600_000), (191, 3, 5000)])
def test_long_sums_of_few_outputs(dtype, m, n, k):
    """Terms of several sums, the last one short; integers are exact."""
    itemsize = np.dtype(dtype).itemsize
    assert Cut.of(m, n, k, itemsize, get_workspace_limit()).sums > 1
    assert Cut.of(m, n, k, itemsize, 3 * m * n * itemsize).sums == min(3, k // 256)
    assert Cut.of(m, n, k, itemsize, 1).scratch(itemsize) == 0
    rng = np.random.default_rng(0)
    a, b, bias = (rng.integers(-2, 3, shape).astype(dtype) for shape in ((m, k), (k, n), (n,)))
    expected = a.astype(np.int64) @ b.astype(np.int64)
    for turn_a, turn_b in itertools.product((False, True), repeat=2):
        left, right = (np.asfortranarray(a) if turn_a else a), (np.asfortranarray(b) if turn_b else b)
        np.testing.assert_array_equal(product("linear", left, right), expected)
        np.testing.assert_array_equal(product("linear", left, right, bias), expected + bias.astype(int))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("batch", "channels", "spatial", "filters"), [(3, 4, (2, 3), 5), (40, 64, (7, 7), 16), (1, 9, (5,), 300)]
)
def test_a_window_that_is_all_of_x(dtype, batch, channels, spatial, filters):
    """A product of whole matrices, whatever the strides of x, w and dy."""
    rng = np.random.default_rng(0)
    x, w, b = (
        rng.integers(-2, 3, shape).astype(dtype)
        for shape in ((batch, channels, *spatial), (filters, channels, *spatial), (filters,))
    )
    op = f"conv{len(spatial)}d"
    y, pullback = vjp(getattr(functional, op), x, w, b, stride=2)
    dy = rng.integers(-2, 3, y.shape).astype(dtype)
    rows, weights, out = (each.reshape(len(each), -1).astype(int) for each in (x, w, dy))
    np.testing.assert_array_equal(y.reshape(batch, filters), rows @ weights.T + b.astype(int))
    for found, expected in zip(pullback(dy), (out @ weights, out.T @ rows, out.sum(0)), strict=True):
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)


CALLS = [
    ("linear", (6, 11), (9, 11), {}),
    ("linear", (2, 3, 70), (20, 70), {}),
    ("conv2d", (2, 9, 6, 7), (8, 9, 1, 1), {"algorithm": "im2col"}),
    ("conv2d", (2, 9, 6, 7), (8, 9, 1, 1), {"algorithm": "im2col", "stride": 2}),
    ("conv2d", (2, 9, 6, 7), (8, 9, 3, 2), {"algorithm": "im2col", "padding": 1}),
    ("conv2d", (2, 8, 6, 7), (6, 4, 3, 3), {"algorithm": "im2col", "groups": 2}),
    ("conv2d", (2, 1, 6, 7), (20, 1, 3, 3), {"algorithm": "im2col"}),
    ("conv3d", (2, 3, 4, 5, 6), (8, 3, 2, 2, 2), {"algorithm": "im2col"}),
    ("locally_connected2d", (3, 4, 5, 6), (3, 4, 3, 3, 3, 4), {}),
    ("locally_connected2d", (3, 4, 6, 7), (3, 4, 3, 3, 4, 3), {"padding": 1, "dilation": (2, 3)}),
]


@pytest.mark.parametrize(("op", "x_shape", "w_shape", "options"), CALLS)
def test_operations_in_pieces(short_counts, op, x_shape, w_shape, options):
    rng = np.random.default_rng(1)
    x, w = (rng.integers(-3, 4, shape).astype(np.float32) for shape in (x_shape, w_shape))
    y, pullback = vjp(getattr(functional, op), x, w, **options)
    dy = rng.integers(-3, 4, y.shape).astype(np.float32)
    found = [y, *pullback(dy)]
    before = blas.set_longest(1 << 30)
    try:
        whole, pullback = vjp(getattr(functional, op), x, w, **options)
        expected = [whole, *pullback(dy)]
    finally:
        blas.set_longest(before)
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["linear", "conv2d"])
def test_more_features_than_32_bits_count(op):
    """Zeros that nobody writes take no memory; the address space they need must be free all the same."""
    if available_bytes() < 2 * 4 * BEYOND:
        pytest.skip(f"needs {2 * 4 * BEYOND / 1e9:.0f} GB of address space")
    shape = (1, BEYOND) if op == "linear" else (1, BEYOND, 1, 1)
    x, w = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    x[0, -1], w[0, -1] = 3, 5
    assert getattr(functional, op)(x, w).item() == 15
