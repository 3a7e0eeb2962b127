# distutils: extra_compile_args = -fno-math-errno
"""Optimiser steps: one pass over a parameter, its gradient and the optimiser's memory, each as one run of elements.

Every element goes its own way, so that the number of threads cannot show. `scale` multiplies the gradient (clipping),
`decay` times the parameter is added to it (L2). The rules are torch.optim's, but for numbers too small to matter:
what is remembered and what is subtracted from a parameter is 0 below the type's smallest normal number (`normal`),
for arithmetic with denormal numbers is slow, and an average of zeros would stay one for ever.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport fabs, fabsf, sqrt, sqrtf

cdef enum:
    RUN = 16384  # elements of one task


cdef inline floating root(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline floating normal(floating x) noexcept nogil:
    """x, or 0 in place of a denormal number."""
    if floating is float:
        return 0 if fabsf(x) < FLT_MIN else x
    else:
        return 0 if fabs(x) < DBL_MIN else x


def squares(const floating[::1] x, double[::1] sums, Py_ssize_t block, int num_threads):
    """sums[j] = the sum of squares over the j-th block of x, in float64."""
    cdef Py_ssize_t size = x.shape[0]
    cdef Py_ssize_t task
    for task in prange(sums.shape[0], nogil=True, num_threads=num_threads, schedule="static"):
        sums[task] = squares_run(&x[task * block], min(block, size - task * block))


cdef double squares_run(const floating *x, Py_ssize_t count) noexcept nogil:
    cdef double lanes[8]
    cdef Py_ssize_t i = 0, j
    for j in range(8):
        lanes[j] = 0
    while i + 8 <= count:
        for j in range(8):
            lanes[j] += <double> x[i + j] * x[i + j]
        i += 8
    while i < count:
        lanes[0] += <double> x[i] * x[i]
        i += 1
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


def sgd(
    floating[::1] p, const floating[::1] g, floating[::1] momentum_of, double scale, double decay, double lr,
    double momentum, bint nesterov, int num_threads,
):
    """p -= lr * u; u is the gradient, or its running sum where there is momentum; `momentum_of` may be None."""
    cdef Py_ssize_t size = p.shape[0]
    cdef Py_ssize_t task, at
    cdef floating *m = NULL if momentum_of is None else &momentum_of[0]
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        at = task * RUN
        if m == NULL:
            sgd_run(&p[at], &g[at], min(<Py_ssize_t> RUN, size - at), <floating> scale, <floating> decay, <floating> lr)
        elif nesterov:
            nesterov_run(
                &p[at], &g[at], m + at, min(<Py_ssize_t> RUN, size - at), <floating> scale, <floating> decay,
                <floating> lr, <floating> momentum,
            )
        else:
            momentum_run(
                &p[at], &g[at], m + at, min(<Py_ssize_t> RUN, size - at), <floating> scale, <floating> decay,
                <floating> lr, <floating> momentum,
            )


cdef void sgd_run(
    floating *p, const floating *g, Py_ssize_t count, floating scale, floating decay, floating lr
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        p[i] -= normal(lr * (scale * g[i] + decay * p[i]))


cdef void momentum_run(
    floating *p, const floating *g, floating *m, Py_ssize_t count, floating scale, floating decay, floating lr,
    floating momentum,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating u
    for i in range(count):
        u = normal(momentum * m[i] + (scale * g[i] + decay * p[i]))
        m[i] = u
        p[i] -= normal(lr * u)


cdef void nesterov_run(
    floating *p, const floating *g, floating *m, Py_ssize_t count, floating scale, floating decay, floating lr,
    floating momentum,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating d, u
    for i in range(count):
        d = scale * g[i] + decay * p[i]
        u = normal(momentum * m[i] + d)
        m[i] = u
        p[i] -= normal(lr * (d + momentum * u))


def adam(
    floating[::1] p, const floating[::1] g, floating[::1] mean, floating[::1] square, floating[::1] largest,
    double scale, double decay, double keep, double beta1, double beta2, double step_size, double correction,
    double eps, int num_threads,
):
    """p = keep * p - step_size * mean / (sqrt(square) / correction + eps), after both averages took the gradient in;
    with `largest`, which may be None, in place of square the largest that it was."""
    cdef Py_ssize_t size = p.shape[0]
    cdef Py_ssize_t task, at
    cdef floating *top = NULL if largest is None else &largest[0]
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        at = task * RUN
        adam_run(
            &p[at], &g[at], &mean[at], &square[at], NULL if top == NULL else top + at,
            min(<Py_ssize_t> RUN, size - at), <floating> scale, <floating> decay, <floating> keep,
            <floating> (1 - beta1), <floating> beta2, <floating> (1 - beta2), <floating> step_size,
            <floating> correction, <floating> eps,
        )


cdef void adam_run(
    floating *p, const floating *g, floating *mean, floating *square, floating *largest, Py_ssize_t count,
    floating scale, floating decay, floating keep, floating rate1, floating beta2, floating rate2, floating step_size,
    floating correction, floating eps,
) noexcept nogil:
    """Each kind its own loop, for the compiler to vectorise."""
    if largest == NULL:
        adam_loop(
            False, p, g, mean, square, largest, count, scale, decay, keep, rate1, beta2, rate2, step_size, correction,
            eps,
        )
    else:
        adam_loop(
            True, p, g, mean, square, largest, count, scale, decay, keep, rate1, beta2, rate2, step_size, correction,
            eps,
        )


cdef inline void adam_loop(
    bint amsgrad, floating *p, const floating *g, floating *mean, floating *square, floating *largest,
    Py_ssize_t count, floating scale, floating decay, floating keep, floating rate1, floating beta2, floating rate2,
    floating step_size, floating correction, floating eps,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating d, m, v
    for i in range(count):
        d = scale * g[i] + decay * p[i]
        m = normal(mean[i] + rate1 * (d - mean[i]))
        v = normal(beta2 * square[i] + rate2 * d * d)
        mean[i] = m
        square[i] = v
        if amsgrad:
            if v < largest[i]:
                v = largest[i]
            largest[i] = v
        p[i] = keep * p[i] - normal(step_size * (m / (root(v) / correction + eps)))


def rmsprop(
    floating[::1] p, const floating[::1] g, floating[::1] square, floating[::1] average, floating[::1] momentum_of,
    double scale, double decay, double lr, double alpha, double eps, double momentum, int num_threads,
):
    """p -= lr * d / (sqrt(square) + eps), or its running sum; `average` (centred) and `momentum_of` may be None."""
    cdef Py_ssize_t size = p.shape[0]
    cdef Py_ssize_t task, at
    cdef floating *a = NULL if average is None else &average[0]
    cdef floating *m = NULL if momentum_of is None else &momentum_of[0]
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        at = task * RUN
        rmsprop_run(
            &p[at], &g[at], &square[at], NULL if a == NULL else a + at, NULL if m == NULL else m + at,
            min(<Py_ssize_t> RUN, size - at), <floating> scale, <floating> decay, <floating> lr, <floating> alpha,
            <floating> (1 - alpha), <floating> eps, <floating> momentum,
        )


cdef void rmsprop_run(
    floating *p, const floating *g, floating *square, floating *average, floating *m, Py_ssize_t count, floating scale,
    floating decay, floating lr, floating alpha, floating rate, floating eps, floating momentum,
) noexcept nogil:
    """Each kind its own loop, for the compiler to vectorise."""
    if average == NULL and m == NULL:
        rmsprop_loop(False, False, p, g, square, average, m, count, scale, decay, lr, alpha, rate, eps, momentum)
    elif average == NULL:
        rmsprop_loop(False, True, p, g, square, average, m, count, scale, decay, lr, alpha, rate, eps, momentum)
    elif m == NULL:
        rmsprop_loop(True, False, p, g, square, average, m, count, scale, decay, lr, alpha, rate, eps, momentum)
    else:
        rmsprop_loop(True, True, p, g, square, average, m, count, scale, decay, lr, alpha, rate, eps, momentum)


cdef inline void rmsprop_loop(
    bint centred, bint summed, floating *p, const floating *g, floating *square, floating *average, floating *m,
    Py_ssize_t count, floating scale, floating decay, floating lr, floating alpha, floating rate, floating eps,
    floating momentum,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating a, d, v, u
    for i in range(count):
        d = scale * g[i] + decay * p[i]
        v = normal(alpha * square[i] + rate * d * d)
        square[i] = v
        if centred:
            a = normal(average[i] + rate * (d - average[i]))
            average[i] = a
            v = max(v - a * a, 0)
        u = d / (root(v) + eps)
        if summed:
            u = normal(u + momentum * m[i])
            m[i] = u
        p[i] -= normal(lr * u)
