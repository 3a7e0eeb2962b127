"""Losses of a difference: of every element, their sums, and their derivatives.

The functions themselves stand in loss.h, where constants take the arrays' type.
"""

from cython cimport floating

from fastconv._ext.rows cimport tasks
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "loss.h" nogil:
    enum:
        SQUARED, ABSOLUTE, CROSS_ENTROPY
    void errors_float(int kind, const float *x, const float *t, float *y, Py_ssize_t count)
    void errors_double(int kind, const double *x, const double *t, double *y, Py_ssize_t count)
    void errors_backward_float(int kind, const float *x, const float *t, float *dx, Py_ssize_t count)
    void errors_backward_double(int kind, const double *x, const double *t, double *dx, Py_ssize_t count)
    void errors_target_backward_float(int kind, const float *x, const float *t, float *dt, Py_ssize_t count)
    void errors_target_backward_double(int kind, const double *x, const double *t, double *dt, Py_ssize_t count)

cdef enum:
    RUN = 16384  # elements of one task, whatever the number of threads
    PART = 512  # of them, whose losses are in hand at a time

LOSSES = {"mse_loss": SQUARED, "l1_loss": ABSOLUTE, "bce_with_logits": CROSS_ENTROPY}
ERRORS_OF_ONE_SUM = RUN


cdef void errors_run(int kind, const floating *x, const floating *t, floating *y, Py_ssize_t count) noexcept nogil:
    if floating is float:
        errors_float(kind, x, t, y, count)
    else:
        errors_double(kind, x, t, y, count)


cdef struct Errors:
    int kind
    const void *target
    void *y
    double *sums  # in place of y
    Py_ssize_t size


@Kernel
def errors(int kind, const floating[::1] x, const floating[::1] target, floating[::1] y, int num_threads):
    """y = the loss of every element; kind: its place in loss.h."""
    cdef Errors c
    if x.shape[0] == 0:
        return
    c = Errors(kind, &target[0], &y[0], NULL, x.shape[0])
    run(<Task> errors_task[floating], &x[0], &c, tasks(c.size, RUN), num_threads)


cdef void errors_task(const floating *x, const Errors *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN
    errors_run(
        c.kind, x + at, <const floating *> c.target + at, <floating *> c.y + at, min(<Py_ssize_t> RUN, c.size - at)
    )


@Kernel
def error_sums(int kind, const floating[::1] x, const floating[::1] target, double[::1] sums, int num_threads):
    """sums[run] = the sum of `errors` over a run of RUN elements."""
    cdef Errors c
    if x.shape[0] == 0:
        return
    c = Errors(kind, &target[0], NULL, &sums[0], x.shape[0])
    run(<Task> error_sum_task[floating], &x[0], &c, tasks(c.size, RUN), num_threads)


cdef void error_sum_task(const floating *x, const Errors *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN
    c.sums[task] = error_sum(c.kind, x + at, <const floating *> c.target + at, min(<Py_ssize_t> RUN, c.size - at))


cdef double error_sum(int kind, const floating *x, const floating *target, Py_ssize_t count) noexcept nogil:
    """Eight sums side by side, for the lanes."""
    cdef floating part[PART]
    cdef double lanes[8]
    cdef Py_ssize_t first = 0, size, i, j
    for j in range(8):
        lanes[j] = 0
    while first < count:
        size = min(<Py_ssize_t> PART, count - first)
        errors_run(kind, x + first, target + first, &part[0], size)
        for i in range(size, (size + 7) // 8 * 8):
            part[i] = 0
        i = 0
        while i < size:
            for j in range(8):
                lanes[j] += part[i + j]
            i += 8
        first += PART
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


cdef struct ErrorsBackward:
    int kind
    bint to_target
    const void *dy
    const void *x
    const void *target
    Py_ssize_t size, step  # step: of dy, 0 where it has one element
    double scale


@Kernel
def errors_backward(
    int kind, bint to_target, const floating[::1] dy, const floating[::1] x, const floating[::1] target,
    floating[::1] dx, double scale, int num_threads,
):
    """dx = dy * scale * the derivative of `errors` to x, or to the target; dy has one element, or as many as x."""
    cdef ErrorsBackward c
    if x.shape[0] == 0:
        return
    c = ErrorsBackward(kind, to_target, &dy[0], &x[0], &target[0], x.shape[0], 0 if dy.shape[0] == 1 else 1, scale)
    run(<Task> errors_backward_task[floating], &dx[0], &c, tasks(c.size, RUN), num_threads)


cdef void errors_backward_task(floating *dx, const ErrorsBackward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at), i
    cdef const floating *dy = <const floating *> c.dy + at * c.step
    cdef const floating *x = <const floating *> c.x + at
    cdef const floating *target = <const floating *> c.target + at
    cdef floating scale = <floating> c.scale
    dx += at
    if floating is float:
        if c.to_target:
            errors_target_backward_float(c.kind, x, target, dx, count)
        else:
            errors_backward_float(c.kind, x, target, dx, count)
    else:
        if c.to_target:
            errors_target_backward_double(c.kind, x, target, dx, count)
        else:
            errors_backward_double(c.kind, x, target, dx, count)
    if c.step == 0:
        scale *= dy[0]
        for i in range(count):
            dx[i] *= scale
    else:
        for i in range(count):
            dx[i] *= dy[i] * scale
