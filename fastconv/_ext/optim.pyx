# distutils: extra_compile_args = -fno-math-errno -ffp-contract=off
"""Optimiser steps: one pass over the parameters, their gradients and the optimiser's memory, each a run of elements.

Every element goes its own way, so that neither the number of threads nor the width of vectors can show; the loops are
in optim_typed.h. `scale` multiplies the gradient (clipping), `decay` times the parameter is added to it (L2). The
rules are torch.optim's, but for numbers too small to matter: what is remembered and what is subtracted from a parameter
is 0 below the type's smallest normal number (`normal`), for arithmetic with denormal numbers is slow, and an average of
zeros would stay one for ever.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cython cimport floating

from fastconv._ext.buffers cimport float_size, read_run, write_to
from fastconv._ext.rows cimport tasks
from fastconv._ext.team cimport Task, run, run_whole

cdef enum:
    RUN = 16384  # elements of one task

cdef extern from "optim.h" nogil:
    ctypedef struct Sgd:
        const void *g
        void *m
        double scale, decay, lr, momentum
        int nesterov

    ctypedef struct Adam:
        const void *g
        void *mean
        void *square
        void *largest
        double scale, decay, keep, beta1, beta2, step_size, correction, eps

    ctypedef struct RmsProp:
        const void *g
        void *square
        void *average
        void *m
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
    run(<Task> squares_task[floating], &x[0], &c, sums.shape[0], num_threads)


cdef void squares_task(const floating *x, const Squares *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * c.block, count = min(c.block, c.size - at)
    if floating is float:
        c.sums[task] = squares_float(x + at, count)
    else:
        c.sums[task] = squares_double(x + at, count)


cdef struct Part:
    void *p
    Py_ssize_t size, first  # its tasks begin there
    bint single  # float32


cdef enum Kind:
    SGD
    ADAM
    RMSPROP


cdef struct Step:
    Kind kind
    const Part *parts
    const void *rules  # of each part an Sgd, Adam or RmsProp


cdef void *begin(list work, Kind kind, Py_ssize_t rule, Step *step) except NULL:
    """Memory for a rule of so many bytes for each part, and for the parts, which are filled."""
    cdef Py_ssize_t i, tasks_before = 0
    cdef char *memory = <char *> PyMem_Malloc((len(work) + 1) * (sizeof(Part) + rule))
    cdef Part *parts = <Part *> memory
    if memory == NULL:
        raise MemoryError()
    try:
        for i in range(len(work)):
            p = work[i][0]
            parts[i] = Part(
                write_to(p, p.size, float_size(p)), p.size, tasks_before, float_size(p) == sizeof(float)
            )
            tasks_before += tasks(parts[i].size, RUN)
    except BaseException:
        PyMem_Free(memory)
        raise
    parts[len(work)] = Part(NULL, 0, tasks_before, False)
    step.kind = kind
    step.parts, step.rules = parts, memory + (len(work) + 1) * sizeof(Part)
    return memory


cdef inline const Part *part_of(const Step *step, Py_ssize_t task) noexcept nogil:
    cdef const Part *part = step.parts
    while part[1].first <= task:
        part += 1
    return part


cdef void step_task(void *_, const Step *step, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Part *part = part_of(step, task)
    cdef Py_ssize_t index = part - step.parts
    cdef Py_ssize_t at = (task - part.first) * RUN, count = min(<Py_ssize_t> RUN, part.size - at)
    if step.kind == SGD:
        if part.single:
            sgd_float(<float *> part.p, <const Sgd *> step.rules + index, at, count)
        else:
            sgd_double(<double *> part.p, <const Sgd *> step.rules + index, at, count)
    elif step.kind == ADAM:
        if part.single:
            adam_float(<float *> part.p, <const Adam *> step.rules + index, at, count)
        else:
            adam_double(<double *> part.p, <const Adam *> step.rules + index, at, count)
    elif part.single:
        rmsprop_float(<float *> part.p, <const RmsProp *> step.rules + index, at, count)
    else:
        rmsprop_double(<double *> part.p, <const RmsProp *> step.rules + index, at, count)


def sgd(list work, int num_threads):
    """p -= lr * u; u is the gradient, or its running sum where there is momentum.

    work: of each parameter (p, g, running sum or None, scale, decay, lr, momentum, nesterov)
    """
    cdef Step step
    cdef Py_ssize_t i, size, itemsize
    cdef void *memory = begin(work, SGD, sizeof(Sgd), &step)
    cdef Sgd *rules = <Sgd *> step.rules
    try:
        for i, (_, g, m, scale, decay, lr, momentum, nesterov) in enumerate(work):
            size, itemsize = step.parts[i].size, sizeof(float) if step.parts[i].single else sizeof(double)
            rules[i] = Sgd(read_run(g, size, itemsize), NULL, scale, decay, lr, momentum, nesterov)
            if m is not None:
                rules[i].m = write_to(m, size, itemsize)
        run_whole(<Task> step_task, NULL, &step, step.parts[len(work)].first, num_threads)
    finally:
        PyMem_Free(memory)


def adam(list work, int num_threads):
    """p = keep * p - step_size * mean / (sqrt(square) / correction + eps), after both averages took the gradient in;
    with `largest` in place of square the largest that it was.

    work: of each parameter (p, g, mean, square, largest or None, scale, decay, keep, beta1, beta2, step_size,
    correction, eps)
    """
    cdef Step step
    cdef Py_ssize_t i, size, itemsize
    cdef void *memory = begin(work, ADAM, sizeof(Adam), &step)
    cdef Adam *rules = <Adam *> step.rules
    try:
        for i, (_, g, mean, square, top, scale, decay, keep, beta1, beta2, step_size, correction, eps) in enumerate(
            work
        ):
            size, itemsize = step.parts[i].size, sizeof(float) if step.parts[i].single else sizeof(double)
            rules[i] = Adam(
                read_run(g, size, itemsize), write_to(mean, size, itemsize), write_to(square, size, itemsize), NULL,
                scale, decay, keep, beta1, beta2, step_size, correction, eps,
            )
            if top is not None:
                rules[i].largest = write_to(top, size, itemsize)
        run_whole(<Task> step_task, NULL, &step, step.parts[len(work)].first, num_threads)
    finally:
        PyMem_Free(memory)


def rmsprop(list work, int num_threads):
    """p -= lr * d / (sqrt(square) + eps), or its running sum.

    work: of each parameter (p, g, square, average or None (not centred), running sum or None, scale, decay, lr, alpha,
    eps, momentum)
    """
    cdef Step step
    cdef Py_ssize_t i, size, itemsize
    cdef void *memory = begin(work, RMSPROP, sizeof(RmsProp), &step)
    cdef RmsProp *rules = <RmsProp *> step.rules
    try:
        for i, (_, g, square, average, m, scale, decay, lr, alpha, eps, momentum) in enumerate(work):
            size, itemsize = step.parts[i].size, sizeof(float) if step.parts[i].single else sizeof(double)
            rules[i] = RmsProp(
                read_run(g, size, itemsize), write_to(square, size, itemsize), NULL, NULL, scale, decay, lr, alpha, eps,
                momentum,
            )
            if average is not None:
                rules[i].average = write_to(average, size, itemsize)
            if m is not None:
                rules[i].m = write_to(m, size, itemsize)
        run_whole(<Task> step_task, NULL, &step, step.parts[len(work)].first, num_threads)
    finally:
        PyMem_Free(memory)
