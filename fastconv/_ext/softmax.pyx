"""Softmax along rows, its logarithm, and the gradient of the cross entropy.

The log of a row's sum of exponentials is kept as two numbers, sums (rows, 2): the largest element, and the log of
the sum of exp(x - largest). log p = (x - largest) - log: an offset that all elements share costs no digits.
"""

from cython cimport floating
from libc.math cimport log

from fastconv._ext.rows cimport row_dot, row_sum, row_top, rows_together, tasks
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "simd/exponential.h" nogil:
    void exponentials_float(float *x, Py_ssize_t count)
    void exponentials_double(double *x, Py_ssize_t count)

cdef enum:
    PART = 512  # elements in hand at a time


cdef inline void exponentials(floating *x, Py_ssize_t count) noexcept nogil:
    """x = exp(x)."""
    if floating is float:
        exponentials_float(x, count)
    else:
        exponentials_double(x, count)


cdef struct Softmax:
    void *y  # NULL for log_sums
    double *sums
    Py_ssize_t rows, width, block


@Kernel
def log_sums(const floating[:, ::1] x, double[:, ::1] sums, int num_threads):
    """sums[i] = the two numbers of row i."""
    if x.shape[0] == 0:
        return
    cdef Softmax c = Softmax(NULL, &sums[0, 0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    run(<Task> log_sums_task[floating], &x[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void log_sums_task(const floating *x, const Softmax *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block
    log_sums_block(x + first * c.width, c.sums + 2 * first, min(c.block, c.rows - first), c.width)


@Kernel
def cross_entropy(
    const floating[:, ::1] x, const long long[::1] target, double[:, ::1] sums, double[::1] losses, int num_threads
):
    """The losses of class indices, and sums as of `log_sums`; False where an index is out of range."""
    cdef Py_ssize_t i, n = x.shape[0], width = x.shape[1]
    for i in range(n):
        if not 0 <= target[i] < width:
            return False
    log_sums(x, sums, num_threads)
    for i in range(n):
        losses[i] = (sums[i, 0] - x[i, <Py_ssize_t> target[i]]) + sums[i, 1]
    return True


cdef void log_sums_block(const floating *x, double *sums, Py_ssize_t count, Py_ssize_t c) noexcept nogil:
    """As many rows at a time as `part` holds; a longer row piece by piece."""
    cdef floating part[PART]
    cdef floating top
    cdef Py_ssize_t together = max(<Py_ssize_t> 1, PART // c)
    cdef Py_ssize_t first = 0, rows, size, i, j
    while first < count:
        rows = min(together, count - first)
        size = min(c, <Py_ssize_t> PART)
        for i in range(rows):
            top = row_top(x + i * c, c)
            sums[2 * (first + i)] = top
            for j in range(size):
                part[i * size + j] = x[i * c + j] - top
        exponentials(&part[0], rows * size)
        if c <= PART:
            for i in range(rows):
                sums[2 * (first + i) + 1] = log(row_sum(&part[i * c], c))
        else:
            sums[2 * first + 1] = log(
                row_sum(&part[0], PART) + rest_of_sum(x, <floating> sums[2 * first], &part[0], c)
            )
        x += rows * c
        first += rows


cdef double rest_of_sum(const floating *x, floating top, floating *part, Py_ssize_t c) noexcept nogil:
    """The sum of exp(x - top) over a row's elements from PART on."""
    cdef double total = 0
    cdef Py_ssize_t start = PART, size, j
    while start < c:
        size = min(<Py_ssize_t> PART, c - start)
        for j in range(size):
            part[j] = x[start + j] - top
        exponentials(part, size)
        total += row_sum(part, size)
        start += PART
    return total


@Kernel
def softmax(const floating[:, ::1] x, floating[:, ::1] y, double[:, ::1] sums, int num_threads):
    """y = p; sums as of `log_sums`."""
    cdef Softmax c = Softmax(&y[0, 0], &sums[0, 0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    run(<Task> softmax_task[floating], &x[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void softmax_task(const floating *x, const Softmax *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, count = min(c.block, c.rows - first), width = c.width, i, j
    cdef floating *y = <floating *> c.y + first * width
    cdef double *sums = c.sums + 2 * first
    cdef floating top
    cdef double total
    x += first * width
    for i in range(count):
        top = row_top(x + i * width, width)
        sums[2 * i] = top
        for j in range(width):
            y[i * width + j] = x[i * width + j] - top
    exponentials(y, count * width)
    for i in range(count):
        total = row_sum(y + i * width, width)
        sums[2 * i + 1] = log(total)
        top = <floating> (1 / total)
        for j in range(width):
            y[i * width + j] *= top


@Kernel
def log_softmax(const floating[:, ::1] x, const double[:, ::1] sums, floating[:, ::1] y, int num_threads):
    """y = log p, for the rows' log_sums."""
    cdef Softmax c = Softmax(&y[0, 0], <double *> &sums[0, 0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    run(<Task> log_softmax_task[floating], &x[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void log_softmax_task(const floating *x, const Softmax *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, at = first * c.width
    log_p_block(x + at, c.sums + 2 * first, <floating *> c.y + at, min(c.block, c.rows - first), c.width)


cdef void log_p_block(
    const floating *x, const double *sums, floating *y, Py_ssize_t count, Py_ssize_t c
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating top, rest
    for i in range(count):
        top = <floating> sums[2 * i]
        rest = <floating> sums[2 * i + 1]
        for j in range(c):
            y[i * c + j] = (x[i * c + j] - top) - rest


cdef struct SoftmaxBackward:
    const void *dy
    const void *x
    const double *sums
    Py_ssize_t rows, width, block
    bint as_logarithm


@Kernel
def softmax_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const double[:, ::1] sums, floating[:, ::1] dx,
    bint as_logarithm, int num_threads,
):
    """dx = dy - p * sum(dy) (as_logarithm), or (dy - sum(dy * p)) * p, along each row."""
    cdef Py_ssize_t n = dy.shape[0], width = dy.shape[1], block = rows_together(width)
    cdef SoftmaxBackward c = SoftmaxBackward(&dy[0, 0], &x[0, 0], &sums[0, 0], n, width, block, as_logarithm)
    run(<Task> softmax_backward_task[floating], &dx[0, 0], &c, tasks(n, block), num_threads)


cdef void softmax_backward_task(floating *dx, const SoftmaxBackward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, count = min(c.block, c.rows - first), width = c.width, _, j
    cdef const floating *dy = <const floating *> c.dy + first * width
    cdef floating total
    dx += first * width
    log_p_block(<const floating *> c.x + first * width, c.sums + 2 * first, dx, count, width)
    exponentials(dx, count * width)
    for _ in range(count):
        if c.as_logarithm:
            total = <floating> row_sum(dy, width)
            for j in range(width):
                dx[j] = dy[j] - dx[j] * total
        else:
            total = <floating> row_dot(dy, dx, width)
            for j in range(width):
                dx[j] = (dy[j] - total) * dx[j]
        dy += width
        dx += width


cdef struct CrossEntropy:
    const void *x
    const double *sums
    const long long *target
    const void *weight
    const void *direct
    const void *smooth
    double weight_sum
    Py_ssize_t rows, width, block, step  # step: of direct, 0 where all rows share one


@Kernel
def cross_entropy_backward(
    const floating[:, ::1] x, const double[:, ::1] sums, const long long[::1] target, const floating[::1] weight,
    const floating[::1] direct, const floating[::1] smooth, double weight_sum, floating[:, ::1] dx, int num_threads,
):
    """The gradient to logits x for class indices `target`, all in range.

    dx[i, j] = p[i, j] * (direct[i] + smooth[i] * weight_sum) - smooth[i] * weight[j] - (direct[i] if j == target[i])

    direct of length 1 is that of all rows; where smooth, and so weight, is None it is 0.
    """
    if x.shape[0] == 0:
        return
    cdef CrossEntropy c = CrossEntropy(
        &x[0, 0], &sums[0, 0], &target[0], NULL, &direct[0], NULL, weight_sum, x.shape[0], x.shape[1],
        rows_together(x.shape[1]), 1 if direct.shape[0] == x.shape[0] else 0,
    )
    if smooth is not None:
        c.weight, c.smooth = &weight[0], &smooth[0]
    run(<Task> cross_entropy_task[floating], &dx[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void cross_entropy_task(floating *dx, const CrossEntropy *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, count = min(c.block, c.rows - first), width = c.width, i, j
    cdef const long long *target = c.target + first
    cdef const floating *weight = <const floating *> c.weight
    cdef const floating *direct = <const floating *> c.direct + first * c.step
    cdef const floating *smooth = <const floating *> c.smooth
    cdef floating weight_sum = <floating> c.weight_sum, whole, share
    if smooth != NULL:
        smooth += first
    dx += first * width
    log_p_block(<const floating *> c.x + first * width, c.sums + 2 * first, dx, count, width)
    exponentials(dx, count * width)
    for i in range(count):
        share = 0 if smooth == NULL else smooth[i]
        whole = direct[i * c.step] + share * weight_sum
        if share == 0:
            for j in range(width):
                dx[j] *= whole
        else:
            for j in range(width):
                dx[j] = dx[j] * whole - share * weight[j]
        dx[target[i]] -= direct[i * c.step]
        dx += width
