"""Local response normalisation: along rows of channels, by the squares of a channel's neighbours."""

from cython cimport floating

from fastconv._ext.rows cimport rows_together, tasks
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "simd/exponential.h" nogil:
    void powers_float(float *x, float exponent, Py_ssize_t count)
    void powers_double(double *x, double exponent, Py_ssize_t count)


cdef inline void powers(floating *x, floating exponent, Py_ssize_t count) noexcept nogil:
    """x = x^exponent."""
    if floating is float:
        powers_float(x, exponent, count)
    else:
        powers_double(x, exponent, count)


cdef struct LocalResponse:
    const void *dy  # NULL on the way forward
    const void *x
    void *scratch
    Py_ssize_t rows, width, block, before, after
    double alpha, beta, k


cdef void responses(const floating *x, floating *level, floating *power, const LocalResponse *c) noexcept nogil:
    """level = k + alpha * the sum of x^2 over channels j - before .. j + after, power = level^-beta."""
    cdef Py_ssize_t width = c.width, j, offset
    cdef floating factor = <floating> c.alpha, k = <floating> c.k
    for j in range(width):
        power[j] = factor * x[j] * x[j]
        level[j] = k
    for offset in range(-c.before, c.after + 1):
        for j in range(max(-offset, <Py_ssize_t> 0), min(width - offset, width)):
            level[j] += power[j + offset]
    for j in range(width):
        power[j] = level[j]
    powers(power, <floating> -c.beta, width)


@Kernel
def local_response_norm(
    const floating[:, ::1] x, floating[:, ::1] y, Py_ssize_t before, Py_ssize_t after, double alpha, double beta,
    double k, floating[:, ::1] scratch,
):
    """y = x * (k + alpha * the sum of x^2 over neighbouring channels)^-beta; scratch has a row of 2 * c a thread."""
    cdef Py_ssize_t n = x.shape[0], width = x.shape[1], block = rows_together(width)
    if n == 0:
        return
    cdef LocalResponse c = LocalResponse(
        NULL, &x[0, 0], &scratch[0, 0], n, width, block, before, after, alpha, beta, k
    )
    run(<Task> local_response_task[floating], &y[0, 0], &c, tasks(n, block), <int> scratch.shape[0])


cdef void local_response_task(floating *y, const LocalResponse *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, _, j
    cdef const floating *x = <const floating *> c.x + first * width
    cdef floating *level = <floating *> c.scratch + 2 * slot * width
    cdef floating *power = level + width
    y += first * width
    for _ in range(min(c.block, c.rows - first)):
        responses(x, level, power, c)
        for j in range(width):
            y[j] = x[j] * power[j]
        x += width
        y += width


@Kernel
def local_response_norm_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, floating[:, ::1] dx, Py_ssize_t before, Py_ssize_t after,
    double alpha, double beta, double k, floating[:, ::1] scratch,
):
    """dx of `local_response_norm`."""
    cdef Py_ssize_t n = x.shape[0], width = x.shape[1], block = rows_together(width)
    if n == 0:
        return
    cdef LocalResponse c = LocalResponse(
        &dy[0, 0], &x[0, 0], &scratch[0, 0], n, width, block, before, after, alpha, beta, k
    )
    run(<Task> local_response_backward_task[floating], &dx[0, 0], &c, tasks(n, block), <int> scratch.shape[0])


cdef void local_response_backward_task(floating *dx, const LocalResponse *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, _, j, offset
    cdef const floating *dy = <const floating *> c.dy + first * width
    cdef const floating *x = <const floating *> c.x + first * width
    cdef floating *level = <floating *> c.scratch + 2 * slot * width
    cdef floating *power = level + width
    cdef floating factor = <floating> (-2 * c.alpha * c.beta)
    dx += first * width
    for _ in range(min(c.block, c.rows - first)):
        responses(x, level, power, c)
        for j in range(width):
            level[j] = dy[j] * x[j] * power[j] / level[j]
            dx[j] = 0
        for offset in range(-c.after, c.before + 1):
            for j in range(max(-offset, <Py_ssize_t> 0), min(width - offset, width)):
                dx[j] += level[j + offset]
        for j in range(width):
            dx[j] = dy[j] * power[j] + factor * x[j] * dx[j]
        dy += width
        x += width
        dx += width
