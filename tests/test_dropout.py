"""What dropout's masks are: as many zeros as asked for, nothing else to be seen in them, the generator's alone."""

import numpy as np
import pytest

import fastconv
from fastconv import functional as F
from fastconv import vjp
from fastconv.ops.registry import OPS


def mask(*shape, p=0.5, seed=0, dtype=np.float64):
    return F.dropout(np.ones(shape, dtype), p, training=True, rng=np.random.default_rng(seed)) > 0


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.77, 0.999])
def test_zeroes_as_many_as_asked_for(p):
    count = 1_000_000
    kept = mask(count, p=p).sum()
    assert abs(kept - count * (1 - p)) < 5 * np.sqrt(count * p * (1 - p))


@pytest.mark.parametrize("shift", [1, 2, 3, 7, 64, 1000])
def test_neighbours_are_independent(shift):
    signs = mask(1_000_000) * 2.0 - 1
    assert abs(np.mean(signs[shift:] * signs[:-shift])) < 5e-3


def test_channels_and_images_are_independent():
    signs = mask(20, 10, 40, 50) * 2.0 - 1
    assert abs(np.mean(signs[:, 0] * signs[:, 1])) < 5 / np.sqrt(20 * 2000)
    assert abs(np.mean(signs[0] * signs[1])) < 5 / np.sqrt(10 * 2000)


def test_two_masks_of_one_generator_are_independent():
    rng = np.random.default_rng(3)
    first, second = (F.dropout(np.ones(1_000_000), 0.5, training=True, rng=rng) - 1 for _ in range(2))
    assert abs(np.mean(first * second)) < 5e-3


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_depends_on_generator_and_shape_alone(threads):
    x = np.random.default_rng(1).standard_normal((3, 5, 40, 41))
    fastconv.set_num_threads(1)
    expected = F.dropout(x, 0.3, training=True, rng=np.random.default_rng(2))
    fastconv.set_num_threads(threads)
    for axes in ((0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2)):
        same = x.transpose(axes).copy().transpose(np.argsort(axes))
        np.testing.assert_array_equal(F.dropout(same, 0.3, training=True, rng=np.random.default_rng(2)), expected)
        narrow = F.dropout(same.astype(np.float32), 0.3, training=True, rng=np.random.default_rng(2))
        np.testing.assert_array_equal(narrow == 0, expected == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*range(1, 36), 16384, 16385])
def test_any_number_of_elements(size, dtype):
    """Whole vectors and what is left of one, exactly."""
    x = np.arange(1, size + 1, dtype=dtype)
    y = F.dropout(x, 0.5, training=True, rng=np.random.default_rng(6))
    expected, _ = OPS["dropout"].reference(x, 0.5, training=True, rng=np.random.default_rng(6))
    np.testing.assert_array_equal(y, expected)


def test_what_is_not_finite_stays_so():
    x = np.full((2, 3, 5, 7), np.inf, np.float32)
    y = F.dropout(x, 0.5, training=True, rng=np.random.default_rng(7))
    assert set(np.unique(y[~np.isnan(y)])) == {np.inf}
    assert np.isnan(y).any()
    assert np.isnan(F.dropout(x * np.nan, 0.5, training=True, rng=np.random.default_rng(7))).all()


def test_takes_one_number_from_the_generator():
    rng, other = np.random.default_rng(4), np.random.default_rng(4)
    F.dropout(np.ones(1000), 0.5, training=True, rng=rng)
    other.integers(0, 1 << 64, dtype=np.uint64)
    assert rng.bit_generator.state == other.bit_generator.state
    F.dropout(np.ones(1000), 0.5, training=False, rng=rng)
    assert rng.bit_generator.state == other.bit_generator.state


def test_the_gradient_has_the_same_mask():
    x = np.ones((4, 3, 20, 20))
    y, pullback = vjp(F.dropout, x, 0.4, training=True, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(pullback(x)[0], y)
