"""Activations: functions of one element, over memory as one run; and prelu, over rows of channels.

The functions themselves stand in activation.h, where constants take the arrays' type.
"""

from cython cimport floating

from fastconv._ext.buffers cimport float_size, read_from, read_run, write_to
from fastconv._ext.rows cimport tasks
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "activation.h" nogil:
    enum:
        RELU, LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SIGMOID, TANH, SOFTPLUS, HARDSWISH
    void activate_float(int kind, const float *x, float *y, Py_ssize_t count, float a, float b)
    void activate_double(int kind, const double *x, double *y, Py_ssize_t count, double a, double b)
    void activate_backward_float(
        int kind, const float *dy, const float *x, float *dx, Py_ssize_t count, float a, float b)
    void activate_backward_double(
        int kind, const double *dy, const double *x, double *dx, Py_ssize_t count, double a, double b)
    void prelu_float(const float *x, const float *weight, float *y, Py_ssize_t count, Py_ssize_t width)
    void prelu_double(const double *x, const double *weight, double *y, Py_ssize_t count, Py_ssize_t width)
    void prelu_backward_float(
        const float *dy, const float *x, const float *weight, float *dx, double *sums, Py_ssize_t count,
        Py_ssize_t width
    )
    void prelu_backward_double(
        const double *dy, const double *x, const double *weight, double *dx, double *sums, Py_ssize_t count,
        Py_ssize_t width
    )

cdef enum:
    RUN = 16384  # elements of one task, whatever the number of threads

ACTIVATIONS = {  # by their names in activation.h
    "RELU": RELU, "LEAKY_RELU": LEAKY_RELU, "ELU": ELU, "GELU": GELU, "GELU_TANH": GELU_TANH, "SILU": SILU,
    "SIGMOID": SIGMOID, "TANH": TANH, "SOFTPLUS": SOFTPLUS, "HARDSWISH": HARDSWISH,
}


cdef struct Activation:
    int kind
    const void *dy  # NULL forwards
    const void *x
    Py_ssize_t size
    double a, b


@Kernel
def activate(int kind, x, y, double a, double b, int num_threads):
    """y = f(x); kind: the function's place in activation.h, a and b its parameters. x, of y's type, fills a run of
    memory in some order of its axes, y that run in C order; relu's y may be x."""
    over_run(kind, None, x, y, a, b, num_threads)


@Kernel
def activate_backward(int kind, dy, x, dx, double a, double b, int num_threads):
    """dx = dy * f'(x); dy lies as dx, and may be relu's. Raises ValueError for arrays of several types or sizes."""
    over_run(kind, dy, x, dx, a, b, num_threads)


cdef int over_run(int kind, dy, x, y, double a, double b, int num_threads) except -1:
    cdef Py_ssize_t size = y.size, itemsize = float_size(y)
    cdef Activation c = Activation(kind, read_from(dy, size, itemsize), read_run(x, size, itemsize), size, a, b)
    cdef void *out = write_to(y, size, itemsize)
    if itemsize == sizeof(float):
        run(<Task> activate_task[float], out, &c, tasks(size, RUN), num_threads)
    else:
        run(<Task> activate_task[double], out, &c, tasks(size, RUN), num_threads)
    return 0


cdef void activate_task(floating *y, const Activation *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at)
    cdef const floating *x = <const floating *> c.x + at
    cdef const floating *dy = NULL if c.dy == NULL else <const floating *> c.dy + at
    y += at
    if floating is float:
        if dy == NULL:
            activate_float(c.kind, x, y, count, <float> c.a, <float> c.b)
        else:
            activate_backward_float(c.kind, dy, x, y, count, <float> c.a, <float> c.b)
    elif dy == NULL:
        activate_double(c.kind, x, y, count, c.a, c.b)
    else:
        activate_backward_double(c.kind, dy, x, y, count, c.a, c.b)


# --- prelu -----------------------------------------------------------------------------------------------------------


cdef struct Prelu:
    const void *dy  # NULL on the way forward, as sums
    const void *x
    const void *weight
    double *sums
    Py_ssize_t size, width, block


@Kernel
def prelu(
    const floating[:, ::1] x, const floating[::1] weight, floating[:, ::1] y, Py_ssize_t block_rows, int num_threads
):
    """y = x where x > 0, else weight * x; x (1, elements) in rows of `width` = len(weight), as in norm.pyx."""
    cdef Py_ssize_t width = weight.shape[0], size = x.shape[1]
    if size == 0:
        return
    cdef Prelu c = Prelu(NULL, &x[0, 0], &weight[0], NULL, size, width, block_rows * width)
    run(<Task> prelu_task[floating], &y[0, 0], &c, tasks(size, c.block), num_threads)


cdef void prelu_task(floating *y, const Prelu *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, count = min(c.block, c.size - first)
    cdef const floating *x = <const floating *> c.x + first
    cdef const floating *weight = <const floating *> c.weight
    y += first
    if floating is float:
        prelu_float(x, weight, y, count, c.width)
    else:
        prelu_double(x, weight, y, count, c.width)


@Kernel
def prelu_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[::1] weight, floating[:, ::1] dx,
    double[:, :, :, ::1] sums, Py_ssize_t block_rows, int num_threads,
):
    """dx of `prelu`; sums[0, block, 0] (width,) = the sums of dy * x where x is not > 0."""
    cdef Py_ssize_t width = weight.shape[0], size = x.shape[1]
    if size == 0:
        return
    cdef Prelu c = Prelu(&dy[0, 0], &x[0, 0], &weight[0], &sums[0, 0, 0, 0], size, width, block_rows * width)
    run(<Task> prelu_backward_task[floating], &dx[0, 0], &c, tasks(size, c.block), num_threads)


cdef void prelu_backward_task(floating *dx, const Prelu *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, count = min(c.block, c.size - first)
    cdef const floating *dy = <const floating *> c.dy + first
    cdef const floating *x = <const floating *> c.x + first
    cdef const floating *weight = <const floating *> c.weight
    cdef double *sums = c.sums + task * c.width
    dx += first
    if floating is float:
        prelu_backward_float(dy, x, weight, dx, sums, count, c.width)
    else:
        prelu_backward_double(dy, x, weight, dx, sums, count, c.width)
