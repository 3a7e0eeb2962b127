"""Passes over channels-last data seen as rows of channels: (rows, c) with c in the lanes.

Sums run in float64 over a block of rows at a time; the blocks' sums are added in order, whoever computed them.
"""

from cython cimport floating
from cython.parallel cimport prange, threadid
from libc.math cimport log, sqrt

cdef enum:
    ADDED = 4096  # elements of one task of add_in_order


cdef void block_sum(const floating *x, double *out, Py_ssize_t count, Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t i, j
    for j in range(c):
        out[j] = 0
    for i in range(count):
        for j in range(c):
            out[j] += x[i * c + j]


def column_sums(const floating[:, ::1] x, double[:, ::1] sums, Py_ssize_t block_rows, int num_threads):
    """sums[block] (c,) = the sum of every column over a block of rows."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block
    for block in prange(sums.shape[0], nogil=True, num_threads=num_threads, schedule="static"):
        block_sum(&x[block * block_rows, 0], &sums[block, 0], min(block_rows, n - block * block_rows), c)


def add_in_order(const floating[:, ::1] partial, floating[::1] out, int num_threads):
    """out = partial[0] + partial[1] + … , each element's terms in that order."""
    cdef Py_ssize_t size = out.shape[0], terms = partial.shape[0]
    cdef Py_ssize_t tasks = (size + ADDED - 1) // ADDED
    cdef Py_ssize_t task
    for task in prange(tasks, nogil=True, num_threads=num_threads, schedule="static"):
        add_block(
            &partial[0, task * ADDED], &out[task * ADDED], min(<Py_ssize_t> ADDED, size - task * ADDED), terms, size
        )


cdef void add_block(
    const floating *partial, floating *out, Py_ssize_t count, Py_ssize_t terms, Py_ssize_t size
) noexcept nogil:
    cdef Py_ssize_t term, j
    for j in range(count):
        out[j] = partial[j]
    for term in range(1, terms):
        for j in range(count):
            out[j] += partial[term * size + j]


def add_row(floating[:, ::1] x, const floating[::1] row, int num_threads):
    """x[i] += row, for every row of x."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, ADDED // c)
    cdef Py_ssize_t task
    for task in prange((n + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        add_row_block(&x[task * block, 0], &row[0], min(block, n - task * block), c)


cdef void add_row_block(floating *x, const floating *row, Py_ssize_t count, Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(count):
        for j in range(c):
            x[i * c + j] += row[j]


# --- statistics of channels ------------------------------------------------------------------------------------------
#
# x is (images, elements): an image's rows of channels one after another, seen as rows of `width` elements, a multiple
# of the channels (narrow rows are joined to fill the lanes); the last row may be cut short. Coefficients are (images,
# width).


cdef enum:
    TOGETHER = 8  # rows whose terms are added in the array's own type before they join the float64 sums


def moments(
    const floating[:, ::1] x, const floating[:, ::1] pivot, double[:, :, :, ::1] sums, Py_ssize_t block_rows,
    int num_threads,
):
    """sums[image, block] (2, width) = the sums of x - pivot and of (x - pivot)^2 over a block of rows."""
    cdef Py_ssize_t blocks = sums.shape[1], width = sums.shape[3], size = x.shape[1]
    cdef Py_ssize_t block = block_rows * width
    cdef Py_ssize_t task, first
    for task in prange(sums.shape[0] * blocks, nogil=True, num_threads=num_threads, schedule="static"):
        first = task % blocks * block
        moments_block(
            &x[task // blocks, first], &pivot[task // blocks, 0],
            &sums[task // blocks, task % blocks, 0, 0], &sums[task // blocks, task % blocks, 1, 0],
            min(block, size - first), width,
        )


cdef void moments_block(
    const floating *x, const floating *pivot, double *sums, double *squares, Py_ssize_t count, Py_ssize_t width
) noexcept nogil:
    cdef Py_ssize_t j, stop
    cdef floating m, a, b, c, d, e, f, g, h
    for j in range(width):
        sums[j] = squares[j] = 0
    while count >= TOGETHER * width:
        for j in range(width):
            m = pivot[j]
            a = x[j] - m
            b = x[width + j] - m
            c = x[2 * width + j] - m
            d = x[3 * width + j] - m
            e = x[4 * width + j] - m
            f = x[5 * width + j] - m
            g = x[6 * width + j] - m
            h = x[7 * width + j] - m
            sums[j] += ((a + b) + (c + d)) + ((e + f) + (g + h))
            squares[j] += ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))
        x += TOGETHER * width
        count -= TOGETHER * width
    while count > 0:
        stop = min(width, count)
        for j in range(stop):
            m = x[j] - pivot[j]
            sums[j] += m
            squares[j] += m * m
        x += width
        count -= width


def products(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[:, ::1] mean, double[:, :, :, ::1] sums,
    Py_ssize_t block_rows, int num_threads,
):
    """sums[image, block] (2, width) = the sums of dy and of dy * (x - mean) over a block of rows."""
    cdef Py_ssize_t blocks = sums.shape[1], width = sums.shape[3], size = x.shape[1]
    cdef Py_ssize_t block = block_rows * width
    cdef Py_ssize_t task, first
    for task in prange(sums.shape[0] * blocks, nogil=True, num_threads=num_threads, schedule="static"):
        first = task % blocks * block
        products_block(
            &dy[task // blocks, first], &x[task // blocks, first], &mean[task // blocks, 0],
            &sums[task // blocks, task % blocks, 0, 0], &sums[task // blocks, task % blocks, 1, 0],
            min(block, size - first), width,
        )


cdef void products_block(
    const floating *dy, const floating *x, const floating *mean, double *sums, double *products, Py_ssize_t count,
    Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t j, stop
    cdef floating m, a, b, c, d, e, f, g, h
    for j in range(width):
        sums[j] = products[j] = 0
    while count >= TOGETHER * width:
        for j in range(width):
            m = mean[j]
            a = dy[j]
            b = dy[width + j]
            c = dy[2 * width + j]
            d = dy[3 * width + j]
            e = dy[4 * width + j]
            f = dy[5 * width + j]
            g = dy[6 * width + j]
            h = dy[7 * width + j]
            sums[j] += ((a + b) + (c + d)) + ((e + f) + (g + h))
            a *= x[j] - m
            b *= x[width + j] - m
            c *= x[2 * width + j] - m
            d *= x[3 * width + j] - m
            e *= x[4 * width + j] - m
            f *= x[5 * width + j] - m
            g *= x[6 * width + j] - m
            h *= x[7 * width + j] - m
            products[j] += ((a + b) + (c + d)) + ((e + f) + (g + h))
        x += TOGETHER * width
        dy += TOGETHER * width
        count -= TOGETHER * width
    while count > 0:
        stop = min(width, count)
        for j in range(stop):
            sums[j] += dy[j]
            products[j] += dy[j] * (x[j] - mean[j])
        x += width
        dy += width
        count -= width


def scale_shift(
    const floating[:, ::1] x, const floating[:, :, ::1] coefficients, floating[:, ::1] y, Py_ssize_t block_rows,
    int num_threads,
):
    """y = (x - mean) * scale + shift; coefficients (3, images, width)."""
    cdef Py_ssize_t width = coefficients.shape[2], size = x.shape[1]
    cdef Py_ssize_t block = block_rows * width
    cdef Py_ssize_t blocks = (size + block - 1) // block
    cdef Py_ssize_t task, image, first
    for task in prange(x.shape[0] * blocks, nogil=True, num_threads=num_threads, schedule="static"):
        image = task // blocks
        first = task % blocks * block
        scale_shift_block(
            &x[image, first], &coefficients[0, image, 0], &coefficients[1, image, 0], &coefficients[2, image, 0],
            &y[image, first], min(block, size - first), width,
        )


cdef void scale_shift_block(
    const floating *x, const floating *mean, const floating *scale, const floating *shift, floating *y,
    Py_ssize_t count, Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t j, stop
    while count > 0:
        stop = min(width, count)
        for j in range(stop):
            y[j] = (x[j] - mean[j]) * scale[j] + shift[j]
        x += width
        y += width
        count -= width


def scale_shift_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[:, :, ::1] coefficients, floating[:, ::1] dx,
    Py_ssize_t block_rows, int num_threads,
):
    """dx = dy * scale + (x - mean) * slope + shift; coefficients (4, images, width)."""
    cdef Py_ssize_t width = coefficients.shape[2], size = x.shape[1]
    cdef Py_ssize_t block = block_rows * width
    cdef Py_ssize_t blocks = (size + block - 1) // block
    cdef Py_ssize_t task, image, first
    for task in prange(x.shape[0] * blocks, nogil=True, num_threads=num_threads, schedule="static"):
        image = task // blocks
        first = task % blocks * block
        scale_shift_backward_block(
            &dy[image, first], &x[image, first], &coefficients[0, image, 0], &coefficients[1, image, 0],
            &coefficients[2, image, 0], &coefficients[3, image, 0], &dx[image, first], min(block, size - first), width,
        )


cdef void scale_shift_backward_block(
    const floating *dy, const floating *x, const floating *mean, const floating *scale, const floating *slope,
    const floating *shift, floating *dx, Py_ssize_t count, Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t j, stop
    while count > 0:
        stop = min(width, count)
        for j in range(stop):
            dx[j] = dy[j] * scale[j] + (x[j] - mean[j]) * slope[j] + shift[j]
        dy += width
        x += width
        dx += width
        count -= width


# --- rows along which one function is taken --------------------------------------------------------------------------


cdef extern from "exponential.h" nogil:
    void exp_run_float(float *x, Py_ssize_t count)
    void exp_run_double(double *x, Py_ssize_t count)
    void power_run_float(float *x, float exponent, Py_ssize_t count)
    void power_run_double(double *x, double exponent, Py_ssize_t count)


cdef enum:
    TASK = 4096  # elements of one task, where rows are shorter
    PART = 512  # elements in hand at a time
    LANES = 8  # sums side by side


cdef inline void exponentials(floating *x, Py_ssize_t count) noexcept nogil:
    """x = exp(x)."""
    if floating is float:
        exp_run_float(x, count)
    else:
        exp_run_double(x, count)


cdef inline void powers(floating *x, floating exponent, Py_ssize_t count) noexcept nogil:
    """x = x^exponent."""
    if floating is float:
        power_run_float(x, exponent, count)
    else:
        power_run_double(x, exponent, count)


cdef inline floating row_top(const floating *x, Py_ssize_t c) noexcept nogil:
    """The largest element; any element where NaN is among them."""
    cdef floating lanes[LANES]
    cdef Py_ssize_t i, j
    cdef Py_ssize_t whole = c - c % LANES
    cdef floating top = x[0]
    if whole:
        for j in range(LANES):
            lanes[j] = x[j]
        i = LANES
        while i < whole:
            for j in range(LANES):
                lanes[j] = x[i + j] if x[i + j] > lanes[j] else lanes[j]
            i += LANES
        for j in range(LANES):
            top = lanes[j] if lanes[j] > top else top
    for i in range(whole, c):
        top = x[i] if x[i] > top else top
    return top


cdef enum:
    PLAIN = 0
    PRODUCT = 1
    TRIPLE = 2
    SHIFTED = 3
    DEVIATION = 4


cdef inline floating term(
    int kind, const floating *x, const floating *y, const floating *z, floating mean, Py_ssize_t i
) noexcept nogil:
    if kind == PLAIN:
        return x[i]
    if kind == PRODUCT:
        return x[i] * y[i]
    if kind == TRIPLE:
        return x[i] * y[i] * z[i]
    if kind == SHIFTED:
        return x[i] - mean
    return (x[i] - mean) * (x[i] - mean)


cdef inline double row_total(
    int kind, const floating *x, const floating *y, const floating *z, floating mean, Py_ssize_t c
) noexcept nogil:
    """The sum of a row's terms: eight rounds of lanes in the array's own type, those in float64."""
    cdef double lanes[LANES]
    cdef floating part[LANES]
    cdef Py_ssize_t i = 0, j, round
    for j in range(LANES):
        lanes[j] = 0
    while i + TOGETHER * LANES <= c:
        for j in range(LANES):
            part[j] = term(kind, x, y, z, mean, i + j)
        for round in range(1, TOGETHER):
            for j in range(LANES):
                part[j] += term(kind, x, y, z, mean, i + round * LANES + j)
        for j in range(LANES):
            lanes[j] += part[j]
        i += TOGETHER * LANES
    while i + LANES <= c:
        for j in range(LANES):
            lanes[j] += term(kind, x, y, z, mean, i + j)
        i += LANES
    for j in range(c - i):
        lanes[j] += term(kind, x, y, z, mean, i + j)
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


cdef double row_sum(const floating *x, Py_ssize_t c) noexcept nogil:
    return row_total(PLAIN, x, x, x, 0, c)


cdef double row_dot(const floating *x, const floating *y, Py_ssize_t c) noexcept nogil:
    return row_total(PRODUCT, x, y, x, 0, c)


cdef double row_dot_3(const floating *x, const floating *y, const floating *z, Py_ssize_t c) noexcept nogil:
    return row_total(TRIPLE, x, y, z, 0, c)


cdef double row_mean(const floating *x, Py_ssize_t c) noexcept nogil:
    """By the distances from the first element: what all elements share costs no digits."""
    return x[0] + row_total(SHIFTED, x, x, x, x[0], c) / c


cdef double row_square(const floating *x, floating mean, Py_ssize_t c) noexcept nogil:
    """The sum of (x - mean)^2."""
    return row_total(DEVIATION, x, x, x, mean, c)


# --- softmax ---------------------------------------------------------------------------------------------------------
#
# The log of a row's sum of exponentials is kept as two numbers, sums (rows, 2): the largest element, and the log of
# the sum of exp(x - largest). log p = (x - largest) - log: an offset that all elements share costs no digits.


def log_sums(const floating[:, ::1] x, double[:, ::1] sums, int num_threads):
    """sums[i] = the two numbers of row i."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange((n + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        log_sums_block(&x[task * block, 0], &sums[task * block, 0], min(block, n - task * block), c)


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


def softmax(const floating[:, ::1] x, floating[:, ::1] y, double[:, ::1] sums, int num_threads):
    """y = p; sums as of `log_sums`."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange((n + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        softmax_block(&x[task * block, 0], &y[task * block, 0], &sums[task * block, 0], min(block, n - task * block), c)


cdef void softmax_block(const floating *x, floating *y, double *sums, Py_ssize_t count, Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating top
    cdef double total
    for i in range(count):
        top = row_top(x + i * c, c)
        sums[2 * i] = top
        for j in range(c):
            y[i * c + j] = x[i * c + j] - top
    exponentials(y, count * c)
    for i in range(count):
        total = row_sum(y + i * c, c)
        sums[2 * i + 1] = log(total)
        top = <floating> (1 / total)
        for j in range(c):
            y[i * c + j] *= top


def log_softmax(const floating[:, ::1] x, const double[:, ::1] sums, floating[:, ::1] y, int num_threads):
    """y = log p, for the rows' log_sums."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange((n + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        log_p_block(
            &x[task * block, 0], &sums[task * block, 0], &y[task * block, 0], min(block, n - task * block), c
        )


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


def softmax_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const double[:, ::1] sums, floating[:, ::1] dx,
    bint as_logarithm, int num_threads,
):
    """dx = dy - p * sum(dy) (as_logarithm), or (dy - sum(dy * p)) * p, along each row."""
    cdef Py_ssize_t n = dy.shape[0], c = dy.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange((n + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        softmax_backward_block(
            &dy[task * block, 0], &x[task * block, 0], &sums[task * block, 0], &dx[task * block, 0],
            min(block, n - task * block), c, as_logarithm,
        )


cdef void softmax_backward_block(
    const floating *dy, const floating *x, const double *sums, floating *dx, Py_ssize_t count, Py_ssize_t c,
    bint as_logarithm,
) noexcept nogil:
    cdef Py_ssize_t _, j
    cdef floating total
    log_p_block(x, sums, dx, count, c)
    exponentials(dx, count * c)
    for _ in range(count):
        if as_logarithm:
            total = <floating> row_sum(dy, c)
            for j in range(c):
                dx[j] = dy[j] - dx[j] * total
        else:
            total = <floating> row_dot(dy, dx, c)
            for j in range(c):
                dx[j] = (dy[j] - total) * dx[j]
        dy += c
        dx += c


def cross_entropy_backward(
    const floating[:, ::1] x, const double[:, ::1] sums, const long long[::1] target, const floating[::1] weight,
    const floating[::1] direct, const floating[::1] smooth, double weight_sum, floating[:, ::1] dx, int num_threads,
):
    """The gradient to logits x for class indices `target`, all in range.

    dx[i, j] = p[i, j] * (direct[i] + smooth[i] * weight_sum) - smooth[i] * weight[j] - (direct[i] if j == target[i])
    """
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange((n + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        cross_entropy_block(
            &x[task * block, 0], &sums[task * block, 0], &target[task * block], &weight[0], &direct[task * block],
            &smooth[task * block], <floating> weight_sum, &dx[task * block, 0], min(block, n - task * block), c,
        )


cdef void cross_entropy_block(
    const floating *x, const double *sums, const long long *target, const floating *weight, const floating *direct,
    const floating *smooth, floating weight_sum, floating *dx, Py_ssize_t count, Py_ssize_t c,
) noexcept nogil:
    cdef Py_ssize_t i, j
    cdef floating whole, share
    log_p_block(x, sums, dx, count, c)
    exponentials(dx, count * c)
    for i in range(count):
        share = smooth[i]
        whole = direct[i] + share * weight_sum
        if share == 0:
            for j in range(c):
                dx[j] *= whole
        else:
            for j in range(c):
                dx[j] = dx[j] * whole - share * weight[j]
        dx[target[i]] -= direct[i]
        dx += c


# --- layer norm ------------------------------------------------------------------------------------------------------


def layer_norm(
    const floating[:, ::1] x, const floating[::1] weight, const floating[::1] bias, floating[:, ::1] y,
    double[:, ::1] statistics, double eps, int num_threads,
):
    """y = (x - mean) * rstd * weight + bias along each row; statistics (rows, 2) = mean, rstd."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange((n + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        layer_norm_block(
            &x[task * block, 0], &weight[0], &bias[0], &y[task * block, 0], &statistics[task * block, 0], eps,
            min(block, n - task * block), c,
        )


cdef void layer_norm_block(
    const floating *x, const floating *weight, const floating *bias, floating *y, double *statistics, double eps,
    Py_ssize_t count, Py_ssize_t c,
) noexcept nogil:
    cdef Py_ssize_t _, j
    cdef double mean, rstd
    cdef floating m, r, rest
    for _ in range(count):
        mean = row_mean(x, c)
        m = <floating> mean
        rstd = mean - m  # what rounding the mean left over
        rstd = 1 / sqrt(max(row_square(x, m, c) / c - rstd * rstd, <double> 0) + eps)
        statistics[0] = mean
        statistics[1] = rstd
        r = <floating> rstd
        rest = <floating> ((m - mean) * rstd)
        for j in range(c):
            y[j] = ((x[j] - m) * r + rest) * weight[j] + bias[j]
        x += c
        y += c
        statistics += 2


def layer_norm_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[::1] weight, const double[:, ::1] statistics,
    floating[:, ::1] dx, double[:, :, ::1] sums, Py_ssize_t block_rows, int num_threads,
):
    """dx of `layer_norm`; sums[block] (2, c) = dy * normalised x and dy, summed over a block of rows."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t task
    for task in prange(sums.shape[0], nogil=True, num_threads=num_threads, schedule="static"):
        layer_norm_backward_block(
            &dy[task * block_rows, 0], &x[task * block_rows, 0], &weight[0], &statistics[task * block_rows, 0],
            &dx[task * block_rows, 0], &sums[task, 0, 0], &sums[task, 1, 0], min(block_rows, n - task * block_rows), c,
        )


cdef void layer_norm_backward_block(
    const floating *dy, const floating *x, const floating *weight, const double *statistics, floating *dx,
    double *dweight, double *dbias, Py_ssize_t count, Py_ssize_t c,
) noexcept nogil:
    cdef Py_ssize_t _, j
    cdef double rstd
    cdef floating m, r, rest, along, level
    for j in range(c):
        dweight[j] = dbias[j] = 0
    for _ in range(count):
        rstd = statistics[1]
        m = <floating> statistics[0]
        r = <floating> rstd
        rest = <floating> ((m - statistics[0]) * rstd)
        for j in range(c):  # normalised x, for now
            dx[j] = (x[j] - m) * r + rest
        for j in range(c):
            dweight[j] += dy[j] * dx[j]
            dbias[j] += dy[j]
        level = <floating> (row_dot(dy, weight, c) / c)
        along = <floating> (row_dot_3(dy, weight, dx, c) / c)
        for j in range(c):
            dx[j] = (dy[j] * weight[j] - level - dx[j] * along) * r
        dy += c
        x += c
        dx += c
        statistics += 2


# --- local response norm ---------------------------------------------------------------------------------------------


cdef void responses(
    const floating *x, floating *level, floating *power, Py_ssize_t c, Py_ssize_t before, Py_ssize_t after,
    double alpha, double beta, double k,
) noexcept nogil:
    """level = k + alpha * the sum of x^2 over channels j - before .. j + after, power = level^-beta."""
    cdef Py_ssize_t j, offset
    cdef floating factor = <floating> alpha
    for j in range(c):
        power[j] = factor * x[j] * x[j]
        level[j] = <floating> k
    for offset in range(-before, after + 1):
        for j in range(max(-offset, <Py_ssize_t> 0), min(c - offset, c)):
            level[j] += power[j + offset]
    for j in range(c):
        power[j] = level[j]
    powers(power, <floating> -beta, c)


def local_response_norm(
    const floating[:, ::1] x, floating[:, ::1] y, Py_ssize_t before, Py_ssize_t after, double alpha, double beta,
    double k, floating[:, ::1] scratch,
):
    """y = x * (k + alpha * the sum of x^2 over neighbouring channels)^-beta; scratch has a row of 2 * c a thread."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange(
        (n + block - 1) // block, nogil=True, num_threads=<int> scratch.shape[0], schedule="static"
    ):
        response_block(
            &x[task * block, 0], &y[task * block, 0], &scratch[threadid(), 0], min(block, n - task * block), c, before,
            after, alpha, beta, k,
        )


cdef void response_block(
    const floating *x, floating *y, floating *scratch, Py_ssize_t count, Py_ssize_t c, Py_ssize_t before,
    Py_ssize_t after, double alpha, double beta, double k,
) noexcept nogil:
    cdef Py_ssize_t _, j
    cdef floating *power = scratch + c
    for _ in range(count):
        responses(x, scratch, power, c, before, after, alpha, beta, k)
        for j in range(c):
            y[j] = x[j] * power[j]
        x += c
        y += c


def local_response_norm_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, floating[:, ::1] dx, Py_ssize_t before, Py_ssize_t after,
    double alpha, double beta, double k, floating[:, ::1] scratch,
):
    """dx of `local_response_norm`."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, TASK // c)
    cdef Py_ssize_t task
    for task in prange(
        (n + block - 1) // block, nogil=True, num_threads=<int> scratch.shape[0], schedule="static"
    ):
        response_backward_block(
            &dy[task * block, 0], &x[task * block, 0], &dx[task * block, 0], &scratch[threadid(), 0],
            min(block, n - task * block), c, before, after, alpha, beta, k,
        )


cdef void response_backward_block(
    const floating *dy, const floating *x, floating *dx, floating *scratch, Py_ssize_t count, Py_ssize_t c,
    Py_ssize_t before, Py_ssize_t after, double alpha, double beta, double k,
) noexcept nogil:
    cdef Py_ssize_t _, j, offset
    cdef floating *level = scratch
    cdef floating *power = scratch + c
    cdef floating factor = <floating> (-2 * alpha * beta)
    for _ in range(count):
        responses(x, level, power, c, before, after, alpha, beta, k)
        for j in range(c):
            level[j] = dy[j] * x[j] * power[j] / level[j]
            dx[j] = 0
        for offset in range(-after, before + 1):
            for j in range(max(-offset, <Py_ssize_t> 0), min(c - offset, c)):
                dx[j] += level[j + offset]
        for j in range(c):
            dx[j] = dy[j] * power[j] + factor * x[j] * dx[j]
        dy += c
        x += c
        dx += c


# --- prelu -----------------------------------------------------------------------------------------------------------


def prelu(
    const floating[:, ::1] x, const floating[::1] weight, floating[:, ::1] y, Py_ssize_t block_rows, int num_threads
):
    """y = x where x > 0, else weight * x; x (1, elements) in rows of `width` = len(weight), as for `moments`."""
    cdef Py_ssize_t width = weight.shape[0], size = x.shape[1]
    cdef Py_ssize_t block = block_rows * width
    cdef Py_ssize_t task
    for task in prange((size + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        prelu_block(&x[0, task * block], &weight[0], &y[0, task * block], min(block, size - task * block), width)


cdef void prelu_block(
    const floating *x, const floating *weight, floating *y, Py_ssize_t count, Py_ssize_t width
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating below
    while count > 0:
        for j in range(min(width, count)):
            below = x[j] * weight[j]
            y[j] = x[j] if x[j] > 0 else below
        x += width
        y += width
        count -= width


def prelu_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[::1] weight, floating[:, ::1] dx,
    double[:, :, :, ::1] sums, Py_ssize_t block_rows, int num_threads,
):
    """dx of `prelu`; sums[0, block, 0] (width,) = the sums of dy * x where x is not > 0."""
    cdef Py_ssize_t width = weight.shape[0], size = x.shape[1]
    cdef Py_ssize_t block = block_rows * width
    cdef Py_ssize_t task
    for task in prange((size + block - 1) // block, nogil=True, num_threads=num_threads, schedule="static"):
        prelu_backward_block(
            &dy[0, task * block], &x[0, task * block], &weight[0], &dx[0, task * block], &sums[0, task, 0, 0],
            min(block, size - task * block), width,
        )


cdef void prelu_backward_block(
    const floating *dy, const floating *x, const floating *weight, floating *dx, double *sums, Py_ssize_t count,
    Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating below, product, d
    for j in range(width):
        sums[j] = 0
    while count > 0:
        for j in range(min(width, count)):
            d = dy[j]
            below = d * weight[j]
            product = d * x[j]
            dx[j] = d if x[j] > 0 else below
            sums[j] += 0 if x[j] > 0 else product
        dy += width
        x += width
        dx += width
        count -= width
