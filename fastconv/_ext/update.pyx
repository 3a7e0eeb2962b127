# distutils: extra_compile_args = -fno-math-errno
"""Optimiser steps: one pass over a parameter, its gradient and the optimiser's memory, each as one run of elements.

Every element goes its own way, so that the number of threads cannot show. `scale` multiplies the gradient (clipping),
`decay` times the parameter is added to it (L2). The rules are torch.optim's, but for numbers too small to matter:
what is remembered and what is subtracted from a parameter is 0 below the type's smallest normal number (`normal`),
for arithmetic with denormal numbers is slow, and an average of zeros would stay one for ever.
"""

from cython cimport floating
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport fabs, fabsf, sqrt, sqrtf

from fastconv._ext.team cimport Task, run, run_whole

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


cdef inline Py_ssize_t tasks(Py_ssize_t size) noexcept nogil:
    return (size + RUN - 1) // RUN


cdef struct Squares:
    double *sums
    Py_ssize_t size, block


def squares(const floating[::1] x, double[::1] sums, Py_ssize_t block, int num_threads):
    """sums[j] = the sum of squares over the j-th block of x, in float64."""
    cdef Squares c = Squares(&sums[0], x.shape[0], block)
    with nogil:
        run(<Task> squares_task[floating], &x[0], &c, sums.shape[0], num_threads)


cdef void squares_task(const floating *x, const Squares *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * c.block
    c.sums[task] = squares_run(x + at, min(c.block, c.size - at))


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


cdef struct Sgd:
    const void *g
    void *m  # NULL where there is no momentum
    Py_ssize_t size
    double scale, decay, lr, momentum
    bint nesterov


def sgd(
    floating[::1] p, const floating[::1] g, floating[::1] momentum_of, double scale, double decay, double lr,
    double momentum, bint nesterov, int num_threads,
):
    """p -= lr * u; u is the gradient, or its running sum where there is momentum; `momentum_of` may be None."""
    cdef floating *m = NULL if momentum_of is None else &momentum_of[0]
    cdef Sgd c = Sgd(&g[0], m, p.shape[0], scale, decay, lr, momentum, nesterov)
    with nogil:
        run_whole(<Task> sgd_task[floating], &p[0], &c, tasks(c.size), num_threads)


cdef void sgd_task(floating *p, const Sgd *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at)
    cdef const floating *g = <const floating *> c.g + at
    cdef floating *m = NULL if c.m == NULL else <floating *> c.m + at
    cdef floating scale = <floating> c.scale, decay = <floating> c.decay, lr = <floating> c.lr
    if m == NULL:
        sgd_run(p + at, g, count, scale, decay, lr)
    elif c.nesterov:
        nesterov_run(p + at, g, m, count, scale, decay, lr, <floating> c.momentum)
    else:
        momentum_run(p + at, g, m, count, scale, decay, lr, <floating> c.momentum)


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


cdef struct Adam:
    const void *g
    void *mean
    void *square
    void *largest  # NULL without AMSGrad
    Py_ssize_t size
    double scale, decay, keep, beta1, beta2, step_size, correction, eps


def adam(
    floating[::1] p, const floating[::1] g, floating[::1] mean, floating[::1] square, floating[::1] largest,
    double scale, double decay, double keep, double beta1, double beta2, double step_size, double correction,
    double eps, int num_threads,
):
    """p = keep * p - step_size * mean / (sqrt(square) / correction + eps), after both averages took the gradient in;
    with `largest`, which may be None, in place of square the largest that it was."""
    cdef floating *top = NULL if largest is None else &largest[0]
    cdef Adam c = Adam(
        &g[0], &mean[0], &square[0], top, p.shape[0], scale, decay, keep, beta1, beta2, step_size, correction, eps
    )
    with nogil:
        run_whole(<Task> adam_task[floating], &p[0], &c, tasks(c.size), num_threads)


cdef void adam_task(floating *p, const Adam *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN
    adam_run(
        p + at, <const floating *> c.g + at, <floating *> c.mean + at, <floating *> c.square + at,
        NULL if c.largest == NULL else <floating *> c.largest + at, min(<Py_ssize_t> RUN, c.size - at),
        <floating> c.scale, <floating> c.decay, <floating> c.keep, <floating> (1 - c.beta1), <floating> c.beta2,
        <floating> (1 - c.beta2), <floating> c.step_size, <floating> c.correction, <floating> c.eps,
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


cdef struct RmsProp:
    const void *g
    void *square
    void *average  # NULL where it is not centred
    void *m  # NULL where there is no momentum
    Py_ssize_t size
    double scale, decay, lr, alpha, eps, momentum


def rmsprop(
    floating[::1] p, const floating[::1] g, floating[::1] square, floating[::1] average, floating[::1] momentum_of,
    double scale, double decay, double lr, double alpha, double eps, double momentum, int num_threads,
):
    """p -= lr * d / (sqrt(square) + eps), or its running sum; `average` (centred) and `momentum_of` may be None."""
    cdef floating *a = NULL if average is None else &average[0]
    cdef floating *m = NULL if momentum_of is None else &momentum_of[0]
    cdef RmsProp c = RmsProp(&g[0], &square[0], a, m, p.shape[0], scale, decay, lr, alpha, eps, momentum)
    with nogil:
        run_whole(<Task> rmsprop_task[floating], &p[0], &c, tasks(c.size), num_threads)


cdef void rmsprop_task(floating *p, const RmsProp *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN
    rmsprop_run(
        p + at, <const floating *> c.g + at, <floating *> c.square + at,
        NULL if c.average == NULL else <floating *> c.average + at, NULL if c.m == NULL else <floating *> c.m + at,
        min(<Py_ssize_t> RUN, c.size - at), <floating> c.scale, <floating> c.decay, <floating> c.lr,
        <floating> c.alpha, <floating> (1 - c.alpha), <floating> c.eps, <floating> c.momentum,
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
