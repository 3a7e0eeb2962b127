"""Sums over many float32 elements: as if they were added in float64, or nearly so."""

import numpy as np
import pytest

from fastconv import functional, vjp
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
