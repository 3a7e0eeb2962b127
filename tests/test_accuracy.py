"""Digits of float32: long sums, elements that share an offset, tails of functions, signed zeros, denormal numbers."""

import numpy as np
import pytest

from fastconv import functional, reference, vjp
from fastconv.ops import OPS

MANY = 3_000_000  # added one by one in float32, that many tenths are some per cent off
TOLERANCE = 2e-6


def tenths(*shape):
    """About 0.1, and all of one sign: rounding errors of a plain sum add up."""
    return np.random.default_rng(0).uniform(0.09, 0.11, shape).astype(np.float32)


CALLS = {
    "conv2d": lambda: ((tenths(3, 1, 1000, 1000), tenths(1, 1, 3, 3), tenths(1)), {}),
    "conv_transpose2d": lambda: ((tenths(3, 1, 1000, 1000), tenths(1, 1, 3, 3), tenths(1)), {}),
    "linear": lambda: ((tenths(MANY, 1), tenths(1, 1), tenths(1)), {}),
    "mse_loss": lambda: ((tenths(MANY), 2 * tenths(MANY)), {}),
    "l1_loss": lambda: ((tenths(MANY), 2 * tenths(MANY)), {}),
    "bce_with_logits": lambda: ((tenths(MANY), tenths(MANY)), {}),
    "cross_entropy": lambda: ((tenths(MANY // 3, 3), np.zeros(MANY // 3, np.int64)), {}),
    "nll_loss": lambda: ((tenths(MANY // 3, 3), np.zeros(MANY // 3, np.int64)), {}),
    "softmax": lambda: ((tenths(1, MANY),), {}),
    "log_softmax": lambda: ((tenths(1, MANY),), {}),
    "batch_norm": lambda: ((tenths(3, 1, 1000, 1000), None, None, tenths(1), tenths(1)), {"training": True}),
    "layer_norm": lambda: ((tenths(1, 3, 1000, 1000), (3, 1000, 1000)), {}),
    "group_norm": lambda: ((tenths(1, 3, 1000, 1000), 1), {}),
    "instance_norm": lambda: ((tenths(1, 1, 1000, 1000),), {}),
    "avg_pool2d": lambda: ((tenths(1, 1, 1000, 1000), 1000), {}),
    "lp_pool2d": lambda: ((tenths(1, 1, 1000, 1000), 2, 1000), {}),
    "adaptive_avg_pool2d": lambda: ((tenths(1, 1, 1000, 1000), 1), {}),
    "prelu": lambda: ((-tenths(3, 1, 1000, 1000), tenths(1)), {}),
}


@pytest.mark.parametrize("op", [op for op in CALLS if op in OPS])
def test_float32_against_float64(op):
    arrays, options = CALLS[op]()
    wide = tuple(
        array.astype(np.float64) if isinstance(array, np.ndarray) and array.dtype.kind == "f" else array
        for array in arrays
    )
    results = []
    for these in (arrays, wide):
        y, pullback = vjp(getattr(functional, op), *these, **options)
        dy = y * y * y  # of one sign for the norms, too: the sums of their gradients do not cancel
        results.append([y, *pullback(dy)])
    for a, b in zip(*results, strict=True):
        if b is not None:
            terms = np.abs(dy).max() if np.size(b) > 1 else 0  # what large gradients are differences of
            assert np.abs(a - b).max() <= TOLERANCE * max(np.abs(b).max(), terms)


# --- what all elements share costs no digits -------------------------------------------------------------------------

RNG = np.random.default_rng(1)
CLASSES = RNG.integers(0, 10, 30)
WEIGHTS = RNG.uniform(0.5, 2, 10)
GOALS = RNG.dirichlet(np.ones(10), 30)
ROWS = RNG.normal(0, 3, (30, 10))  # logits of ten classes
MAPS = RNG.normal(0, 3, (4, 6, 7, 5))

SHIFTED = {  # name: (op, x, the other arguments, options)
    **{f"{op} dim {dim}": (op, MAPS, (), {"dim": dim}) for op in ("softmax", "log_softmax") for dim in range(4)},
    **{f"{op} long": (op, RNG.normal(0, 3, (3, 700)), (), {}) for op in ("softmax", "log_softmax")},
    **{
        f"cross_entropy {kind}{', smooth' * bool(smoothing)}": (
            "cross_entropy", ROWS, (target,), {"weight": weight, "label_smoothing": smoothing, "reduction": "none"},
        )
        for kind, target, weight in (
            ("classes", CLASSES, None),
            ("classes, weighted", CLASSES, WEIGHTS),
            ("probabilities", GOALS, None),
            ("probabilities, weighted", GOALS, WEIGHTS),
        )
        for smoothing in (0, 0.1)
    },
    "cross_entropy maps": ("cross_entropy", MAPS, (RNG.integers(0, 6, (4, 7, 5)),), {}),
    "batch_norm": ("batch_norm", MAPS, (None, None), {"training": True}),
    "instance_norm": ("instance_norm", MAPS, (), {}),
    "group_norm": ("group_norm", MAPS, (2,), {}),
    "layer_norm": ("layer_norm", MAPS, ((7, 5),), {}),
    "layer_norm long": ("layer_norm", RNG.normal(0, 3, (3, 700)), ((700,),), {}),
}  # fmt: skip


def cast(value, dtype):
    return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


@pytest.mark.parametrize("offset", [0, 1e3, 1e4, 1e6, -1e6])
@pytest.mark.parametrize("name", SHIFTED)
def test_an_offset_costs_no_digits(name, offset):
    """float32 against float64 on the same numbers, and the naive twin in float32; within a few roundings."""
    op, x, others, options = SHIFTED[name]
    x = (x + offset).astype(np.float32)
    results = []
    for module, dtype in ((functional, np.float32), (functional, np.float64), (reference, np.float32)):
        arguments = [cast(value, np.float32).astype(dtype) if cast(value, dtype) is not value else value
                     for value in (x, *others)]  # fmt: skip
        keywords = {key: cast(value, dtype) for key, value in options.items()}
        y, pullback = vjp(getattr(module, op), *arguments, **keywords)
        dy = np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32)
        results.append([y, *(gradient for gradient in pullback(dy.astype(dtype)) if gradient is not None)])
    for found, wide, naive in zip(*results, strict=True):
        scale = np.abs(wide).max()
        np.testing.assert_allclose(found, wide, rtol=0, atol=5e-7 * scale)
        np.testing.assert_allclose(found, naive, rtol=0, atol=5e-7 * scale)


def test_log_softmax_of_shifted_logits():
    x = np.arange(4, dtype=np.float32)[None] + np.float32(1e6)
    expected = np.float32([-3.4401896, -2.4401896, -1.4401897, -0.4401897])
    np.testing.assert_allclose(functional.log_softmax(x)[0], expected, rtol=0, atol=2.4e-7)
    np.testing.assert_allclose(functional.log_softmax(x.T, dim=0)[:, 0], expected, rtol=0, atol=2.4e-7)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_extreme_logits(op, dtype):
    """Masked (-inf), huge, all masked, with +inf or nan: as the naive twin has them, forward and backward."""
    inf, nan, huge = np.inf, np.nan, 0.9 * np.finfo(dtype).max
    x = np.array(
        [[0, -inf, 1, -inf], [huge] * 4, [-huge] * 4, [huge, -huge, 0, huge], [huge, -inf, huge, 0], [-inf] * 4,
         [-inf, 5, -inf, -inf], [inf, 0, 1, 2], [nan, 0, 1, 2], [3, 2, 1, nan]],
        dtype,
    )  # fmt: skip
    dy = np.arange(x.size, dtype=dtype).reshape(x.shape)
    results = []
    for module in (functional, reference):
        with np.errstate(over="ignore"):  # in the naive twin's casts
            y, pullback = vjp(getattr(module, op), x)
            results.append((y, *pullback(dy)))
    for found, naive in zip(*results, strict=True):
        np.testing.assert_allclose(found, naive, rtol=1e-6, atol=1e-5)


# --- tails, signed zeros, denormal numbers ---------------------------------------------------------------------------

ELEMENTWISE = {
    "relu": {}, "leaky_relu": {"negative_slope": 0.5}, "elu": {}, "selu": {}, "gelu": {}, "silu": {}, "sigmoid": {},
    "tanh": {}, "softplus": {}, "hardswish": {},
}  # fmt: skip
LENGTH = 37  # vectors of every width, and a rest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", [op for op in ELEMENTWISE if op not in ("sigmoid", "softplus")])
def test_minus_zero_stays(op, dtype):
    for module in (functional, reference):
        y = getattr(module, op)(np.full(LENGTH, -0.0, dtype), **ELEMENTWISE[op])
        assert (y == 0).all()
        assert np.signbit(y).all()


def test_minus_zero_stays_in_prelu():
    for module in (functional, reference):
        assert np.signbit(module.prelu(np.full((3, LENGTH), -0.0, np.float32), np.float32([0.25]))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_tails_and_denormal_numbers(op, dtype):
    """Relative to each element: from the smallest number to far beyond where exp overflows."""
    info = np.finfo(dtype)
    sizes = [info.smallest_subnormal * 4, info.tiny / 6, info.tiny, 1e-30, 1e-20, 1e-8, 1e-3, 0.5, 0.63, 1, 3, 5, 9, 17]
    x = np.array([*sizes, 30, 80, 86, 1e4, info.max / 2], dtype)
    x = np.concatenate([x, -x])
    y, pullback = vjp(getattr(functional, op), x, **ELEMENTWISE[op])
    expected, naive_pullback = vjp(getattr(reference, op), x, **ELEMENTWISE[op])
    loose = 1e-4 if op == "gelu" else 4e-6 if dtype == np.float32 else 1e-13  # x^2 in the exponent of gelu's tail
    for found, naive in ((y, expected), *zip(pullback(np.ones_like(x)), naive_pullback(np.ones_like(x)), strict=True)):
        np.testing.assert_allclose(found, naive, rtol=loose, atol=4 * info.smallest_subnormal)


@pytest.mark.parametrize("options", [{}, {"pos_weight": 3.0}], ids=["plain", "pos_weight"])
def test_losses_of_confident_logits(options):
    """Where the loss is small it is no difference of large numbers."""
    x = np.float32([-40, -20, -10, -5, 5, 10, 20, 40])
    target = (x > 0).astype(np.float32)
    wide = {key: np.array(value) for key, value in options.items()}
    narrow = {key: value.astype(np.float32) for key, value in wide.items()}
    y, pullback = vjp(functional.bce_with_logits, x, target, reduction="none", **narrow)
    factor = np.where(target == 1, options.get("pos_weight", 1), 1)
    e = np.exp(-np.abs(x.astype(np.float64)))
    np.testing.assert_allclose(y, factor * np.log1p(e), rtol=1e-6)
    dx = pullback(np.ones_like(x))[0]
    np.testing.assert_allclose(dx, factor * np.where(target == 1, -e, e) / (1 + e), rtol=1e-6)
    exact, exact_pullback = vjp(
        reference.bce_with_logits, x.astype(np.float64), target.astype(np.float64), reduction="none", **wide
    )
    np.testing.assert_allclose(y, exact, rtol=1e-6)
    np.testing.assert_allclose(dx, exact_pullback(np.ones(x.shape))[0], rtol=1e-6)
