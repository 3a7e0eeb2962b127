"""Products of locally-connected layers: every output position multiplies by weights of its own.

x (N, H, W, C), w (H', W', K, R, S, C) and y (N, H', W', K) lie in memory so; x has its padding around it. Under a
window lie R runs of S * C elements of each image (with dilation R * S runs of C), and BLAS steps from image to image.
"""

from cython cimport floating

from fastconv._ext.blas cimport gemm
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel


cdef struct Product:
    const void *a
    const void *b
    Py_ssize_t batch, height, width, filters  # of y
    Py_ssize_t rows, columns, channels  # of w
    Py_ssize_t x_width, image, result  # image and result: the steps from image to image of x and y
    Py_ssize_t down, right, r_step, s_step
    Py_ssize_t taps  # of a run


cdef Product product(
    const void *a, const void *b, tuple x_shape, tuple w_shape, tuple y_shape, tuple stride, tuple dilation
):
    cdef Product c
    c.a, c.b = a, b
    c.batch, c.height, c.width, c.filters = y_shape
    c.rows, c.columns, c.channels = w_shape[3:]
    c.x_width = x_shape[2]
    c.image, c.result = x_shape[1] * c.x_width * c.channels, c.height * c.width * c.filters
    c.down, c.right = stride
    c.r_step, c.s_step = dilation
    c.taps = c.columns if c.s_step == 1 else 1
    return c


cdef inline Py_ssize_t in_x(const Product *c, Py_ssize_t at, Py_ssize_t r, Py_ssize_t part) noexcept nogil:
    """The offset of a run under the window of output position `at`."""
    return ((at // c.width * c.down + r * c.r_step) * c.x_width + at % c.width * c.right + part * c.s_step) * c.channels


cdef inline Py_ssize_t in_w(const Product *c, Py_ssize_t at, Py_ssize_t r, Py_ssize_t part) noexcept nogil:
    return ((at * c.filters * c.rows + r) * c.columns + part) * c.channels


@Kernel
def forward(
    const floating[:, :, :, ::1] x, const floating[:, :, :, :, :, ::1] w, floating[:, :, :, ::1] y, tuple stride,
    tuple dilation, int num_threads,
):
    """y += x @ w, position by position."""
    cdef Product c = product(
        &x[0, 0, 0, 0], &w[0, 0, 0, 0, 0, 0], (<object> x).shape, (<object> w).shape, (<object> y).shape, stride,
        dilation,
    )
    run(<Task> forward_task[floating], &y[0, 0, 0, 0], &c, c.height * c.width, num_threads)


cdef void forward_task(floating *y, const Product *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t r, part
    for r in range(c.rows):
        for part in range(c.columns // c.taps):
            gemm(
                False, True, c.batch, c.filters, c.taps * c.channels,
                <const floating *> c.a + in_x(c, task, r, part), c.image,
                <const floating *> c.b + in_w(c, task, r, part), c.rows * c.columns * c.channels,
                <floating> 1, y + task * c.filters, c.result,
            )


@Kernel
def gradient_weights(
    const floating[:, :, :, ::1] dy, const floating[:, :, :, ::1] x, floating[:, :, :, :, :, ::1] dw, tuple stride,
    tuple dilation, int num_threads,
):
    """dw = dy' @ x, position by position."""
    cdef Product c = product(
        &dy[0, 0, 0, 0], &x[0, 0, 0, 0], (<object> x).shape, (<object> dw).shape, (<object> dy).shape, stride,
        dilation,
    )
    run(<Task> weights_task[floating], &dw[0, 0, 0, 0, 0, 0], &c, c.height * c.width, num_threads)


cdef void weights_task(floating *dw, const Product *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t r, part
    for r in range(c.rows):
        for part in range(c.columns // c.taps):
            gemm(
                True, False, c.filters, c.taps * c.channels, c.batch,
                <const floating *> c.a + task * c.filters, c.result,
                <const floating *> c.b + in_x(c, task, r, part), c.image,
                <floating> 0, dw + in_w(c, task, r, part), c.rows * c.columns * c.channels,
            )


@Kernel
def gradient_input(
    const floating[:, :, :, ::1] dy, const floating[:, :, :, :, :, ::1] w, floating[:, :, :, ::1] dx, tuple stride,
    tuple dilation, int num_threads,
):
    """dx += dy @ w: a task is a row of dx, which takes from the windows above it, in order."""
    cdef Product c = product(
        &dy[0, 0, 0, 0], &w[0, 0, 0, 0, 0, 0], (<object> dx).shape, (<object> w).shape, (<object> dy).shape, stride,
        dilation,
    )
    run(<Task> input_task[floating], &dx[0, 0, 0, 0], &c, dx.shape[1], num_threads)


cdef void input_task(floating *dx, const Product *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t row, at, r, part
    for r in range(c.rows):
        row = task - r * c.r_step
        if row < 0 or row % c.down != 0 or row // c.down >= c.height:
            continue
        row = row // c.down * c.width
        for at in range(row, row + c.width):
            for part in range(c.columns // c.taps):
                gemm(
                    False, False, c.batch, c.taps * c.channels, c.filters,
                    <const floating *> c.a + at * c.filters, c.result,
                    <const floating *> c.b + in_w(c, at, r, part), c.rows * c.columns * c.channels,
                    <floating> 1, dx + in_x(c, at, r, part), c.image,
                )
