"""Random convolutions through every algorithm of the engine: against float64 in plain NumPy, and against im2col.

`pytest --engine-fuzz 2000 tests/test_engine_fuzz.py` tries more of them. The list of algorithms is the engine's own: a
new one is tried without a change here. Asked for by name, an algorithm serves what it can and im2col the rest.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastconv
from fastconv import ShapeError, functional, vjp
from fastconv.engine import ALGORITHMS, trace
from fastconv.lab.numpy_baseline import PLAIN
from fastconv.lab.shapes import ConvShape
from fastconv.machine import simd

TOLERANCE = 3e-5  # of the largest value, float32: what "auto" may choose
TOLERANCE64 = 1e-12
ROUNDED = ("auto", "winograd")  # their beginnings: not exact on small integers
MULTIPLY_ADDS = 3_000_000  # of a case, at most


def random_shape(rng: np.random.Generator) -> ConvShape:
    """Real layers' forms in odd sizes: 3x3 and others, wide and narrow, grouped and depthwise, 1-D to 3-D."""
    while True:
        ndim = int(rng.choice([1, 2, 3], p=[0.2, 0.65, 0.15]))
        r = int(rng.choice([1, 2, 3, 4, 5, 7], p=[0.15, 0.05, 0.5, 0.05, 0.15, 0.1]))
        kernel = (r,) * ndim if rng.random() < 0.8 else tuple(map(int, rng.integers(1, 6, ndim)))
        channels = [1, 2, 3, 4, 6, 7, 8, 13, 15, 16, 17, 20, 24, 31, 32, 33, 48, 50, 64, 70]
        c, k = (int(rng.choice(channels)) for _ in range(2))
        groups = 1
        form = rng.random()
        if form < 0.15:  # depthwise
            groups, k = c, c * int(rng.choice([1, 1, 2]))
        elif form < 0.3:
            groups = int(rng.choice([2, 3, 4]))
            c, k = groups * -(-c // groups), groups * -(-k // groups)
        shape = ConvShape(
            "random",
            batch=int(rng.choice([1, 2, 3, 5, 16])),
            channels=c,
            spatial=tuple(int(n) for n in rng.integers(1, {1: 150, 2: 30, 3: 11}[ndim], ndim)),
            filters=k,
            kernel=kernel,
            stride=int(rng.choice([1, 2, 3], p=[0.7, 0.25, 0.05])),
            padding=int(rng.integers(0, max(kernel) + 1)) if rng.random() < 0.5 else r // 2,
            dilation=int(rng.choice([1, 2, 3], p=[0.8, 0.15, 0.05])),
            groups=groups,
        )
        try:
            output = shape.y_shape
        except ShapeError:
            continue
        if min(output) > 0 and shape.flops() <= 2 * MULTIPLY_ADDS:
            return shape


def arrays_of(shape: ConvShape, rng: np.random.Generator, small_integers: bool) -> list[np.ndarray]:
    """x, w, b and dy."""
    shapes = (shape.x_shape, shape.w_shape, (shape.filters,), shape.y_shape)
    if small_integers:
        return [rng.integers(-3, 4, s).astype(np.float32) for s in shapes]
    return [rng.standard_normal(s, dtype=np.float32) for s in shapes]


def computed(shape: ConvShape, arrays: list[np.ndarray], algorithm: str) -> list[np.ndarray]:
    x, w, b, dy = arrays
    y, pullback = vjp(getattr(functional, shape.op), x, w, b, **shape.options, algorithm=algorithm)
    return [y, *pullback(dy)]


def exact(shape: ConvShape, arrays: list[np.ndarray]) -> list[np.ndarray]:
    x, w, b, dy = (array.astype(np.float64) for array in arrays)
    y, pullback = PLAIN[shape.op](x, w, b, **shape.options)
    return [y, *pullback(dy)]


def largest_error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Relative to the largest value of each array; of a sum of small integers that cancels, to 1."""
    for a, e in zip(found, expected, strict=True):
        assert a.shape == e.shape
        assert np.isfinite(a).all()
    return max(float(np.abs(a - e).max() / max(1.0, np.abs(e).max())) for a, e in zip(found, expected, strict=True))


def test_algorithms_agree_on_random_shapes(request):
    served: dict[str, set[str]] = {name: set() for name in ALGORITHMS if name != "auto"}
    count = request.config.getoption("--engine-fuzz")
    rng = np.random.default_rng(77)
    for trial in range(count):
        shape = random_shape(rng)
        small_integers = trial % 2 == 0
        arrays = arrays_of(shape, rng, small_integers)
        expected = exact(shape, arrays)
        fastconv.set_num_threads(1)
        base = computed(shape, arrays, "im2col")
        for algorithm in ALGORITHMS:
            what = f"trial {trial}: {shape}, {algorithm}"
            with trace.listening(lambda ran: served[ran.algorithm].add(ran.direction)):
                found = computed(shape, arrays, algorithm)
            if small_integers and not algorithm.startswith(ROUNDED):
                for a, b, e in zip(found, base, expected, strict=True):
                    np.testing.assert_array_equal(a, b, err_msg=what)
                    np.testing.assert_array_equal(a, e, err_msg=what)
            assert largest_error(found, expected) <= TOLERANCE, what
            assert largest_error(found, base) <= TOLERANCE, what
            fastconv.set_num_threads(3)
            for a, b in zip(computed(shape, arrays, algorithm), found, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{what}: other bits with three threads")
            fastconv.set_num_threads(1)
    if simd.SIMD_BYTES < 32:
        del served["grouped"]  # its permutations are wider
    if count >= 60:
        assert all(served.values()), f"an algorithm served none of the shapes, im2col all that it was asked: {served}"


def test_float64_through_every_algorithm(request):
    rng = np.random.default_rng(78)
    for _ in range(request.config.getoption("--engine-fuzz") // 4):
        shape = random_shape(rng)
        arrays = [array.astype(np.float64) for array in arrays_of(shape, rng, small_integers=False)]
        for algorithm in ALGORITHMS:
            assert largest_error(computed(shape, arrays, algorithm), exact(shape, arrays)) <= TOLERANCE64, shape


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("groups", [1, 4])
def test_inputs_that_no_window_sees(algorithm, groups):
    x, w = np.ones((2, 8, 1, 1), np.float32), np.ones((8, 8 // groups, 1, 1), np.float32)
    y, pullback = vjp(functional.conv2d, x, w, stride=2, padding=1, groups=groups, algorithm=algorithm)
    dx, dw = pullback(np.ones_like(y))
    assert y.shape == (2, 8, 2, 2)
    assert not y.any() and not dx.any() and not dw.any()


def test_the_fuzz_draws_every_form():
    rng = np.random.default_rng(77)
    shapes = [random_shape(rng) for _ in range(300)]
    assert {shape.op for shape in shapes} == {"conv1d", "conv2d", "conv3d"}
    for what in (
        lambda s: s.kernel == (3, 3) and s.stride == s.dilation == s.groups == 1 and min(s.channels, s.filters) >= 16,
        lambda s: s.groups == s.channels > 1,
        lambda s: 1 < s.groups < s.channels,
        lambda s: s.kernel == (1, 1) and s.stride == 1,
        lambda s: s.kernel == (5, 5),
        lambda s: s.channels in (1, 3) and s.filters >= 16,
        lambda s: s.stride > 1,
        lambda s: s.dilation > 1,
        lambda s: s.batch == 1,
        lambda s: len(set(s.kernel)) > 1,
    ):
        assert any(map(what, shapes))


def test_a_wrong_algorithm_is_noticed():
    rng = np.random.default_rng(5)
    shape = random_shape(rng)
    arrays = arrays_of(shape, rng, small_integers=False)
    expected = exact(shape, arrays)
    found = computed(shape, arrays, "im2col")
    assert largest_error(found, expected) <= TOLERANCE
    found[1] = found[1] + np.float32(1e-4) * np.abs(expected[1]).max()
    assert largest_error(found, expected) > TOLERANCE
