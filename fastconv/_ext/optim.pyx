# distutils: extra_compile_args = -fno-math-errno -ffp-contract=off
"""Optimiser steps: one pass over a parameter, its gradient and the optimiser's memory, each as one run of elements.

Every element goes its own way, so that neither the number of threads nor the width of vectors can show; the loops are
in optim_typed.h. `scale` multiplies the gradient (clipping), `decay` times the parameter is added to it (L2). The
rules are torch.optim's, but for numbers too small to matter: what is remembered and what is subtracted from a parameter
is 0 below the type's smallest normal number (`normal`), for arithmetic with denormal numbers is slow, and an average of
zeros would stay one for ever.
"""

from cython cimport floating

from fastconv._ext.rows cimport tasks
from fastconv._ext.team cimport Task, run, run_whole

cdef enum:
    RUN = 16384  # elements of one task

cdef extern from "optim.h" nogil:
    ctypedef struct Sgd:
        const void *g
        void *m
        Py_ssize_t size
        double scale, decay, lr, momentum
        int nesterov

    ctypedef struct Adam:
        const void *g
        void *mean
        void *square
        void *largest
        Py_ssize_t size
        double scale, decay, keep, beta1, beta2, step_size, correction, eps

    ctypedef struct RmsProp:
        const void *g
        void *square
        void *average
        void *m
        Py_ssize_t size
        double scale, decay, lr, alpha, eps, momentum

    double squares_float(const float *, Py_ssize_t count)
    double squares_double(const double *, Py_ssize_t count)
    void sgd_float(float *, const Sgd *, Py_ssize_t at, Py_ssize_t count)
    void sgd_double(double *, const Sgd *, Py_ssize_t at, Py_ssize_t count)
    void adam_float(float *, const Adam *, Py_ssize_t at, Py_ssize_t count)
    void adam_double(double *, const Adam *, Py_ssize_t at, Py_ssize_t count)
    void rmsprop_float(float *, const RmsProp *, Py_ssize_t at, Py_ssize_t count)
    void rmsprop_double(double *, const RmsProp *, Py_ssize_t at, Py_ssize_t count)


cdef struct Squares:
    double *sums
    Py_ssize_t size, block


def squares(const floating[::1] x, double[::1] sums, Py_ssize_t block, int num_threads):
    """sums[j] = the sum of squares over the j-th block of x, in float64."""
    cdef Squares c = Squares(&sums[0], x.shape[0], block)
    with nogil:
        run(<Task> squares_task[floating], &x[0], &c, sums.shape[0], num_threads)


cdef void squares_task(const floating *x, const Squares *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * c.block, count = min(c.block, c.size - at)
    if floating is float:
        c.sums[task] = squares_float(x + at, count)
    else:
        c.sums[task] = squares_double(x + at, count)


def sgd(
    floating[::1] p, const floating[::1] g, floating[::1] momentum_of, double scale, double decay, double lr,
    double momentum, bint nesterov, int num_threads,
):
    """p -= lr * u; u is the gradient, or its running sum where there is momentum; `momentum_of` may be None."""
    cdef floating *m = NULL if momentum_of is None else &momentum_of[0]
    cdef Sgd c = Sgd(&g[0], m, p.shape[0], scale, decay, lr, momentum, nesterov)
    with nogil:
        run_whole(<Task> sgd_task[floating], &p[0], &c, tasks(c.size, RUN), num_threads)


cdef void sgd_task(floating *p, const Sgd *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at)
    if floating is float:
        sgd_float(p, c, at, count)
    else:
        sgd_double(p, c, at, count)


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
        run_whole(<Task> adam_task[floating], &p[0], &c, tasks(c.size, RUN), num_threads)


cdef void adam_task(floating *p, const Adam *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at)
    if floating is float:
        adam_float(p, c, at, count)
    else:
        adam_double(p, c, at, count)


def rmsprop(
    floating[::1] p, const floating[::1] g, floating[::1] square, floating[::1] average, floating[::1] momentum_of,
    double scale, double decay, double lr, double alpha, double eps, double momentum, int num_threads,
):
    """p -= lr * d / (sqrt(square) + eps), or its running sum; `average` (centred) and `momentum_of` may be None."""
    cdef floating *a = NULL if average is None else &average[0]
    cdef floating *m = NULL if momentum_of is None else &momentum_of[0]
    cdef RmsProp c = RmsProp(&g[0], &square[0], a, m, p.shape[0], scale, decay, lr, alpha, eps, momentum)
    with nogil:
        run_whole(<Task> rmsprop_task[floating], &p[0], &c, tasks(c.size, RUN), num_threads)


cdef void rmsprop_task(floating *p, const RmsProp *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at)
    if floating is float:
        rmsprop_float(p, c, at, count)
    else:
        rmsprop_double(p, c, at, count)
