"""im2col and col2im are each other's adjoint, and im2col is the windows by definition."""

import numpy as np
import pytest

from fastconv._ext.conv import lowering
from fastconv.arrays import channels_last, lift
from fastconv.ops.naive import windows
from fastconv.window import Window

CASES = [
    ((2, 3, 7, 6), (3, 2), {}),
    ((1, 1, 5, 5), (3, 3), {"padding": 1}),
    ((2, 4, 8, 9), (2, 3), {"stride": (2, 3), "padding": ((0, 2), (1, 0))}),
    ((2, 3, 9, 9), (3, 2), {"dilation": (2, 3), "padding": 2}),
    ((3, 2, 4, 4), (1, 1), {"stride": 2}),
    ((2, 2, 3, 3), (2, 2), {"padding": 4, "stride": 3}),
    ((2, 2, 11), (4,), {"stride": 3, "dilation": 2, "padding": 3}),
    ((1, 2, 4, 5, 3), (2, 3, 2), {"padding": 1, "stride": (1, 2, 1)}),
]


def setting(shape, kernel, options):
    window = Window.parse("op", shape[2:], kernel, **options)
    output = window.output(shape[2:])
    rows = shape[0] * int(np.prod(output))
    col_shape = (rows, int(np.prod(kernel)) * shape[1])
    lifted_output = (shape[0], *(1,) * (3 - len(output)), *output, 1)
    return window, output, lifted_output, col_shape


@pytest.mark.parametrize(("shape", "kernel", "options"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_im2col_is_the_windows(shape, kernel, options, dtype):
    window, output, y_shape, col_shape = setting(shape, kernel, options)
    x = np.random.default_rng(0).integers(-9, 10, shape).astype(dtype)
    col = np.full(col_shape, np.nan, dtype)
    lowering.im2col(lift(channels_last("op", x)), y_shape, window.lift(), col)
    expected = np.zeros((shape[0], int(np.prod(output)), int(np.prod(kernel)), shape[1]), dtype)
    pixels = x.reshape(*shape[:2], -1)
    for o, inside in enumerate(windows(window, shape[2:], output)):
        for i, tap in inside:
            expected[:, o, tap] = pixels[:, :, i]
    np.testing.assert_array_equal(col, expected.reshape(col_shape))


@pytest.mark.parametrize(("shape", "kernel", "options"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_col2im_is_the_adjoint(shape, kernel, options, dtype):
    """<im2col x, c> = <x, col2im c>, exactly: all of it is small integers."""
    window, _, y_shape, col_shape = setting(shape, kernel, options)
    rng = np.random.default_rng(1)
    x = lift(channels_last("op", rng.integers(-9, 10, shape).astype(dtype)))
    c = rng.integers(-9, 10, col_shape).astype(dtype)
    col, dx = np.empty(col_shape, dtype), np.zeros(x.shape, dtype)
    lowering.im2col(x, y_shape, window.lift(), col)
    lowering.col2im(c, y_shape, window.lift(), dx)
    assert np.vdot(col, c) == np.vdot(x, dx)
