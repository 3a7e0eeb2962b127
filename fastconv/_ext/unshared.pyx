"""Products of locally-connected layers: every output position multiplies by weights of its own.

x (N, H, W, C), w (H', W', K, R, S, C) and y (N, H', W', K) lie in memory so; x has its padding around it. Under a
window lie R runs of S * C elements of each image (with dilation R * S runs of C), and BLAS steps from image to image.
"""

from cython cimport floating
from cython.parallel cimport prange

from fastconv._ext.blas cimport gemm


def forward(
    const floating[:, :, :, ::1] x, const floating[:, :, :, :, :, ::1] w, floating[:, :, :, ::1] y, tuple stride,
    tuple dilation, int num_threads,
):
    """y += x @ w, position by position."""
    cdef Py_ssize_t down = stride[0], right = stride[1], r_step = dilation[0], s_step = dilation[1]
    cdef Py_ssize_t batch = y.shape[0], width = y.shape[2], filters = y.shape[3]
    cdef Py_ssize_t rows = w.shape[3], columns = w.shape[4], channels = w.shape[5]
    cdef Py_ssize_t image = x.shape[1] * x.shape[2] * channels, result = y.shape[1] * width * filters
    cdef Py_ssize_t taps = columns if s_step == 1 else 1  # of a run
    cdef Py_ssize_t task, i, j, r, part
    for task in prange(y.shape[1] * width, nogil=True, num_threads=num_threads, schedule="static"):
        i = task // width
        j = task % width
        for r in range(rows):
            for part in range(columns // taps):
                gemm(
                    False, True, batch, filters, taps * channels,
                    &x[0, i * down + r * r_step, j * right + part * s_step, 0], image,
                    &w[i, j, 0, r, part, 0], rows * columns * channels,
                    <floating> 1, &y[0, i, j, 0], result,
                )


def gradient_weights(
    const floating[:, :, :, ::1] dy, const floating[:, :, :, ::1] x, floating[:, :, :, :, :, ::1] dw, tuple stride,
    tuple dilation, int num_threads,
):
    """dw = dy' @ x, position by position."""
    cdef Py_ssize_t down = stride[0], right = stride[1], r_step = dilation[0], s_step = dilation[1]
    cdef Py_ssize_t batch = dy.shape[0], width = dy.shape[2], filters = dy.shape[3]
    cdef Py_ssize_t rows = dw.shape[3], columns = dw.shape[4], channels = dw.shape[5]
    cdef Py_ssize_t image = x.shape[1] * x.shape[2] * channels, result = dy.shape[1] * width * filters
    cdef Py_ssize_t taps = columns if s_step == 1 else 1
    cdef Py_ssize_t task, i, j, r, part
    for task in prange(dy.shape[1] * width, nogil=True, num_threads=num_threads, schedule="static"):
        i = task // width
        j = task % width
        for r in range(rows):
            for part in range(columns // taps):
                gemm(
                    True, False, filters, taps * channels, batch,
                    &dy[0, i, j, 0], result,
                    &x[0, i * down + r * r_step, j * right + part * s_step, 0], image,
                    <floating> 0, &dw[i, j, 0, r, part, 0], rows * columns * channels,
                )


def gradient_input(
    const floating[:, :, :, ::1] dy, const floating[:, :, :, :, :, ::1] w, floating[:, :, :, ::1] dx, tuple stride,
    tuple dilation, int num_threads,
):
    """dx += dy @ w: a task is a row of dx, which takes from the windows above it, in order."""
    cdef Py_ssize_t down = stride[0], right = stride[1], r_step = dilation[0], s_step = dilation[1]
    cdef Py_ssize_t batch = dy.shape[0], height = dy.shape[1], width = dy.shape[2], filters = dy.shape[3]
    cdef Py_ssize_t rows = w.shape[3], columns = w.shape[4], channels = w.shape[5]
    cdef Py_ssize_t image = dx.shape[1] * dx.shape[2] * channels, result = height * width * filters
    cdef Py_ssize_t taps = columns if s_step == 1 else 1
    cdef Py_ssize_t task, at, i, j, r, part
    for task in prange(dx.shape[1], nogil=True, num_threads=num_threads, schedule="static"):
        for r in range(rows):
            at = task - r * r_step
            if at < 0 or at % down != 0 or at // down >= height:
                continue
            i = at // down
            for j in range(width):
                for part in range(columns // taps):
                    gemm(
                        False, False, batch, taps * channels, filters,
                        &dy[0, i, j, 0], result,
                        &w[i, j, 0, r, part, 0], rows * columns * channels,
                        <floating> 1, &dx[0, task, j * right + part * s_step, 0], image,
                    )
