# distutils: extra_compile_args = -ffp-contract=off
"""Passes over channels-last data seen as rows of channels: (rows, c) with c in the lanes.

Sums run in float64 over a block of rows at a time; the blocks' sums are added in order, whoever computed them.
"""

from cython cimport floating
from libc.math cimport isfinite, log, sqrt

from fastconv._ext.team cimport Task, run

cdef extern from "norm.h" nogil:
    void column_sums_float(const float *x, double *sums, Py_ssize_t rows, Py_ssize_t width)
    void column_sums_double(const double *x, double *sums, Py_ssize_t rows, Py_ssize_t width)
    void add_in_order_float(const float *partial, float *y, Py_ssize_t terms, Py_ssize_t size, Py_ssize_t count)
    void add_in_order_double(const double *partial, double *y, Py_ssize_t terms, Py_ssize_t size, Py_ssize_t count)
    void add_row_float(float *x, const float *row, Py_ssize_t rows, Py_ssize_t width)
    void add_row_double(double *x, const double *row, Py_ssize_t rows, Py_ssize_t width)
    void moments_float(
        const float *x, const float *pivot, double *sums, double *squares, Py_ssize_t count, Py_ssize_t width
    )
    void moments_double(
        const double *x, const double *pivot, double *sums, double *squares, Py_ssize_t count, Py_ssize_t width
    )
    void products_float(
        const float *dy, const float *x, const float *mean, double *sums, double *products, Py_ssize_t count,
        Py_ssize_t width
    )
    void products_double(
        const double *dy, const double *x, const double *mean, double *sums, double *products, Py_ssize_t count,
        Py_ssize_t width
    )
    void relu_products_float(
        const float *dy, const float *x, const float *mean, const float *scale, const float *shift, double *sums,
        double *products, Py_ssize_t count, Py_ssize_t width
    )
    void relu_products_double(
        const double *dy, const double *x, const double *mean, const double *scale, const double *shift, double *sums,
        double *products, Py_ssize_t count, Py_ssize_t width
    )
    void gated_products_float(
        const float *dy, const float *y, const float *x, const float *mean, float *gated, double *sums,
        double *products, Py_ssize_t count, Py_ssize_t width
    )
    void gated_products_double(
        const double *dy, const double *y, const double *x, const double *mean, double *gated, double *sums,
        double *products, Py_ssize_t count, Py_ssize_t width
    )
    void scale_shift_float(
        const float *x, const float *mean, const float *scale, const float *shift, const float *addend,
        int relu, float *y, Py_ssize_t count, Py_ssize_t width, int far
    )
    void scale_shift_double(
        const double *x, const double *mean, const double *scale, const double *shift, const double *addend,
        int relu, double *y, Py_ssize_t count, Py_ssize_t width, int far
    )
    void scale_shift_backward_float(
        const float *dy, const float *x, const float *mean, const float *scale, const float *slope,
        const float *shift, const float *before, float *dx, Py_ssize_t count, Py_ssize_t width, int far
    )
    void scale_shift_backward_double(
        const double *dy, const double *x, const double *mean, const double *scale, const double *slope,
        const double *shift, const double *before, double *dx, Py_ssize_t count, Py_ssize_t width, int far
    )
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
    RUN = 4096  # elements of one task, where rows are shorter
    FAR = 8 << 20  # bytes of y that no cache is asked to hold


cdef inline Py_ssize_t rows_together(Py_ssize_t width) noexcept nogil:
    """The rows of one task."""
    return max(<Py_ssize_t> 1, RUN // width)


cdef inline Py_ssize_t tasks(Py_ssize_t size, Py_ssize_t block) noexcept nogil:
    return (size + block - 1) // block


cdef struct ColumnSums:
    double *sums
    Py_ssize_t rows, width, block


def column_sums(const floating[:, ::1] x, double[:, ::1] sums, Py_ssize_t block_rows, int num_threads):
    """sums[block] (c,) = the sum of every column over a block of rows."""
    cdef ColumnSums c = ColumnSums(&sums[0, 0], x.shape[0], x.shape[1], block_rows)
    with nogil:
        run(<Task> column_sums_task[floating], &x[0, 0], &c, sums.shape[0], num_threads)


cdef void column_sums_task(const floating *x, const ColumnSums *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, count = min(c.block, c.rows - first)
    cdef double *sums = c.sums + task * width
    x += first * width
    if floating is float:
        column_sums_float(x, sums, count, width)
    else:
        column_sums_double(x, sums, count, width)


cdef struct AddInOrder:
    const void *partial
    Py_ssize_t terms, size


def add_in_order(const floating[:, ::1] partial, floating[::1] out, int num_threads):
    """out = partial[0] + partial[1] + … , each element's terms in that order."""
    cdef AddInOrder c = AddInOrder(&partial[0, 0], partial.shape[0], out.shape[0])
    with nogil:
        run(<Task> add_in_order_task[floating], &out[0], &c, tasks(c.size, RUN), num_threads)


cdef void add_in_order_task(floating *out, const AddInOrder *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * RUN, count = min(<Py_ssize_t> RUN, c.size - first)
    cdef const floating *partial = <const floating *> c.partial + first
    out += first
    if floating is float:
        add_in_order_float(partial, out, c.terms, c.size, count)
    else:
        add_in_order_double(partial, out, c.terms, c.size, count)


cdef struct AddRow:
    const void *row
    Py_ssize_t rows, width, block


def add_row(floating[:, ::1] x, const floating[::1] row, int num_threads):
    """x[i] += row, for every row of x."""
    if x.shape[0] == 0:
        return
    cdef AddRow c = AddRow(&row[0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    with nogil:
        run(<Task> add_row_task[floating], &x[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void add_row_task(floating *x, const AddRow *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, count = min(c.block, c.rows - first)
    cdef const floating *row = <const floating *> c.row
    x += first * width
    if floating is float:
        add_row_float(x, row, count, width)
    else:
        add_row_double(x, row, count, width)


# --- statistics of channels ------------------------------------------------------------------------------------------
#
# x is (images, elements): an image's rows of channels one after another, seen as rows of `width` elements, a multiple
# of the channels (narrow rows are joined to fill the lanes); the last row may be cut short. Coefficients are (images,
# width).


cdef struct Moments:
    const void *pivot
    double *sums
    Py_ssize_t size, width, block, blocks


def moments(
    const floating[:, ::1] x, floating[:, ::1] pivot, double[:, :, :, ::1] sums, double[:, ::1] mean,
    double[:, ::1] var, Py_ssize_t step, Py_ssize_t block_rows, int num_threads,
):
    """Mean and biased variance (images, channels) of every image's channels, in one pass.

    They come from the sums of x - pivot and of its square; the pivot (images, width), the mean of every `step`-th row
    of channels, keeps the squares small. sums (images, blocks, 2, width) is scratch, as pivot is.
    """
    cdef Py_ssize_t images = mean.shape[0], channels = mean.shape[1], size = x.shape[1], width = sums.shape[3]
    cdef Py_ssize_t image
    cdef Moments c = Moments(&pivot[0, 0], &sums[0, 0, 0, 0], size, width, block_rows * width, sums.shape[1])
    with nogil:
        for image in range(images):
            find_pivot(&x[image, 0], &pivot[image, 0], size, channels, step, width)
        run(<Task> moments_task[floating], &x[0, 0], &c, images * c.blocks, num_threads)
        for image in range(images):
            settle_moments(
                &sums[image, 0, 0, 0], &pivot[image, 0], &mean[image, 0], &var[image, 0], c.blocks, width, channels,
                size // channels,
            )


cdef void find_pivot(
    const floating *x, floating *pivot, Py_ssize_t size, Py_ssize_t channels, Py_ssize_t step, Py_ssize_t width
) noexcept nogil:
    cdef Py_ssize_t count = 0, at = 0, j
    for j in range(channels):
        pivot[j] = 0
    while at < size:
        for j in range(channels):
            pivot[j] += x[at + j]
        at += step * channels
        count += 1
    for j in range(channels):
        pivot[j] /= count
        if not isfinite(<double> pivot[j]):
            pivot[j] = 0
    for j in range(channels, width):
        pivot[j] = pivot[j - channels]


cdef void settle_moments(
    double *sums, const floating *pivot, double *mean, double *var, Py_ssize_t blocks, Py_ssize_t width,
    Py_ssize_t channels, Py_ssize_t pixels,
) noexcept nogil:
    """The blocks' sums are added in order, then those of joined rows: both into the first."""
    cdef Py_ssize_t block, j
    cdef double shift, variance
    for block in range(1, blocks):
        for j in range(2 * width):
            sums[j] += sums[block * 2 * width + j]
    for j in range(channels, width):
        sums[j % channels] += sums[j]
        sums[width + j % channels] += sums[width + j]
    for j in range(channels):
        shift = sums[j] / pixels
        variance = sums[width + j] / pixels - shift * shift
        mean[j] = pivot[j] + shift
        var[j] = 0 if variance < 0 else variance


cdef void moments_task(const floating *x, const Moments *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t image = task // c.blocks, first = task % c.blocks * c.block, width = c.width
    cdef Py_ssize_t count = min(c.block, c.size - first)
    cdef const floating *pivot = <const floating *> c.pivot + image * width
    cdef double *sums = c.sums + 2 * task * width
    x += image * c.size + first
    if floating is float:
        moments_float(x, pivot, sums, sums + width, count, width)
    else:
        moments_double(x, pivot, sums, sums + width, count, width)


cdef struct Products:
    const void *x
    const void *y  # NULL where dy is taken as it is
    void *gated
    const void *coefficients  # of `normalise`: mean, scale, shift
    double *sums
    Py_ssize_t size, width, block, blocks, images
    bint relu


def products(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[:, :, ::1] coefficients,
    double[:, :, :, ::1] sums, Py_ssize_t block_rows, int num_threads, bint relu=False, const floating[:, ::1] y=None,
    floating[:, ::1] gated=None,
):
    """sums[image, block] (2, width) = the sums of dy and of dy * (x - mean) over a block of rows.

    relu: with dy only where what `normalise` made of x with these coefficients (3, images, width) is above 0. y: with
    dy only where y is above 0, which is also written to `gated`.
    """
    cdef Py_ssize_t width = sums.shape[3], blocks = sums.shape[1], count = sums.shape[0] * blocks
    if count == 0:
        return
    cdef Products c = Products(
        &x[0, 0], NULL, NULL, &coefficients[0, 0, 0], &sums[0, 0, 0, 0], x.shape[1], width, block_rows * width, blocks,
        sums.shape[0], relu,
    )
    if y is not None:
        c.y, c.gated = &y[0, 0], &gated[0, 0]
    with nogil:
        run(<Task> products_task[floating], &dy[0, 0], &c, count, num_threads)


cdef void products_task(const floating *dy, const Products *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t image = task // c.blocks, first = task % c.blocks * c.block, at = image * c.size + first
    cdef Py_ssize_t width = c.width, count = min(c.block, c.size - first)
    cdef const floating *x = <const floating *> c.x + at
    cdef const floating *mean = <const floating *> c.coefficients + image * width
    cdef const floating *scale = mean + c.images * width
    cdef const floating *shift = scale + c.images * width
    cdef double *sums = c.sums + 2 * task * width
    cdef const floating *y
    cdef floating *gated
    dy += at
    if c.y != NULL:
        y, gated = <const floating *> c.y + at, <floating *> c.gated + at
        if floating is float:
            gated_products_float(dy, y, x, mean, gated, sums, sums + width, count, width)
        else:
            gated_products_double(dy, y, x, mean, gated, sums, sums + width, count, width)
    elif c.relu:
        if floating is float:
            relu_products_float(dy, x, mean, scale, shift, sums, sums + width, count, width)
        else:
            relu_products_double(dy, x, mean, scale, shift, sums, sums + width, count, width)
    elif floating is float:
        products_float(dy, x, mean, sums, sums + width, count, width)
    else:
        products_double(dy, x, mean, sums, sums + width, count, width)


def update_running(
    floating[:] running, const double[:, ::1] values, double factor, double momentum
):
    """running (channels,) = (1 - momentum) * running + momentum * the mean of values (images, channels) * factor."""
    cdef Py_ssize_t images = values.shape[0], image, j
    cdef double total
    with nogil:
        for j in range(running.shape[0]):
            total = values[0, j] * factor
            for image in range(1, images):
                total += values[image, j] * factor
            running[j] = <floating> (<floating> (1 - momentum) * running[j] + momentum * (total / images))


cdef struct ScaleShift:
    const void *dy  # NULL on the way forward
    const void *x
    const void *coefficients
    const void *addend  # NULL: none
    const void *before  # NULL: no relu came after
    Py_ssize_t size, width, block, blocks, images
    bint far  # what is written does not fit into a cache
    bint relu


def normalise(
    const floating[:, ::1] x, floating[:, ::1] y, double[:, :, ::1] statistics, double eps, const floating[:] weight,
    const floating[:] bias, floating[:, :, ::1] coefficients, Py_ssize_t block_rows, int num_threads,
    bint relu=False, const floating[:, ::1] addend=None,
):
    """y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps); relu of that, or of that and an addend.

    statistics (3, images, channels) are mean, rstd, which is written, and var; weight and bias (channels,) may be
    None; coefficients (3, images, width) are written: mean, scale and shift.
    """
    cdef Py_ssize_t images = x.shape[0], size = x.shape[1], width = coefficients.shape[2], block = block_rows * width
    cdef Py_ssize_t channels = statistics.shape[2], image, j
    cdef bint weighted = weight is not None, shifted = bias is not None
    cdef floating *mean
    cdef floating *scale
    cdef floating *shift
    cdef double factor, exact
    if images * size == 0:
        return
    cdef ScaleShift c = ScaleShift(
        NULL, &x[0, 0], &coefficients[0, 0, 0], NULL, NULL, size, width, block, tasks(size, block), images,
        images * size * <Py_ssize_t> sizeof(floating) > FAR, relu,
    )
    if addend is not None:
        c.addend = &addend[0, 0]
    with nogil:
        for image in range(images):
            mean = &coefficients[0, image, 0]
            scale = &coefficients[1, image, 0]
            shift = &coefficients[2, image, 0]
            for j in range(channels):
                exact = statistics[0, image, j]
                factor = statistics[1, image, j] = 1 / sqrt(statistics[2, image, j] + eps)
                if weighted:
                    factor *= weight[j]
                mean[j] = <floating> exact  # what is subtracted; the shift makes up for the rounding
                scale[j] = <floating> factor
                exact = (mean[j] - exact) * factor
                if shifted:
                    exact += bias[j]
                shift[j] = <floating> exact
            for j in range(channels, width):
                mean[j] = mean[j - channels]
                scale[j] = scale[j - channels]
                shift[j] = shift[j - channels]
        run(<Task> scale_shift_task[floating], &y[0, 0], &c, images * c.blocks, num_threads)


cdef void scale_shift_task(floating *y, const ScaleShift *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t image = task // c.blocks, first = task % c.blocks * c.block, at = image * c.size + first
    cdef Py_ssize_t width = c.width, count = min(c.block, c.size - first)
    cdef const floating *x = <const floating *> c.x + at
    cdef const floating *mean = <const floating *> c.coefficients + image * width
    cdef const floating *scale = mean + c.images * width
    cdef const floating *shift = scale + c.images * width
    cdef const floating *addend = NULL if c.addend == NULL else <const floating *> c.addend + at
    y += at
    if floating is float:
        scale_shift_float(x, mean, scale, shift, addend, c.relu, y, count, width, c.far)
    else:
        scale_shift_double(x, mean, scale, shift, addend, c.relu, y, count, width, c.far)


def scale_shift_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[:, :, ::1] coefficients, floating[:, ::1] dx,
    Py_ssize_t block_rows, int num_threads, const floating[:, ::1] before=None,
):
    """dx = dy * scale + (x - mean) * slope + shift; coefficients (4, images, width).

    before (images, width): with dy only where (x - mean) * scale + before is above 0.
    """
    cdef Py_ssize_t images = x.shape[0], size = x.shape[1], width = coefficients.shape[2], block = block_rows * width
    if images * size == 0:
        return
    cdef ScaleShift c = ScaleShift(
        &dy[0, 0], &x[0, 0], &coefficients[0, 0, 0], NULL, NULL, size, width, block, tasks(size, block), images,
        images * size * <Py_ssize_t> sizeof(floating) > FAR, False,
    )
    if before is not None:
        c.before = &before[0, 0]
    with nogil:
        run(<Task> scale_shift_backward_task[floating], &dx[0, 0], &c, images * c.blocks, num_threads)


cdef void scale_shift_backward_task(floating *dx, const ScaleShift *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t image = task // c.blocks, first = task % c.blocks * c.block, at = image * c.size + first
    cdef Py_ssize_t width = c.width, count = min(c.block, c.size - first)
    cdef const floating *dy = <const floating *> c.dy + at
    cdef const floating *x = <const floating *> c.x + at
    cdef const floating *mean = <const floating *> c.coefficients + image * width
    cdef const floating *scale = mean + c.images * width
    cdef const floating *slope = scale + c.images * width
    cdef const floating *shift = slope + c.images * width
    cdef const floating *before = NULL if c.before == NULL else <const floating *> c.before + image * width
    dx += at
    if floating is float:
        scale_shift_backward_float(dy, x, mean, scale, slope, shift, before, dx, count, width, c.far)
    else:
        scale_shift_backward_double(dy, x, mean, scale, slope, shift, before, dx, count, width, c.far)


# --- rows along which one function is taken --------------------------------------------------------------------------


cdef extern from *:
    """
    #if defined(__GNUC__) && !defined(__clang__)
    #pragma GCC push_options
    #pragma GCC optimize ("fp-contract=fast")  // norm.h needs it off, this header keeps it
    #endif
    #include "exponential.h"
    #if defined(__GNUC__) && !defined(__clang__)
    #pragma GCC pop_options
    #endif
    """


cdef extern from "exponential.h" nogil:
    void exp_run_float(float *x, Py_ssize_t count)
    void exp_run_double(double *x, Py_ssize_t count)
    void power_run_float(float *x, float exponent, Py_ssize_t count)
    void power_run_double(double *x, double exponent, Py_ssize_t count)


cdef enum:
    PART = 512  # elements in hand at a time
    LANES = 8  # sums side by side
    TOGETHER = 8  # rounds of them that are added in the array's own type before they join the float64 sums


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


cdef struct Softmax:
    void *y  # NULL for log_sums
    double *sums
    Py_ssize_t rows, width, block


def log_sums(const floating[:, ::1] x, double[:, ::1] sums, int num_threads):
    """sums[i] = the two numbers of row i."""
    if x.shape[0] == 0:
        return
    cdef Softmax c = Softmax(NULL, &sums[0, 0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    with nogil:
        run(<Task> log_sums_task[floating], &x[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void log_sums_task(const floating *x, const Softmax *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block
    log_sums_block(x + first * c.width, c.sums + 2 * first, min(c.block, c.rows - first), c.width)


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
    cdef Softmax c = Softmax(&y[0, 0], &sums[0, 0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    with nogil:
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


def log_softmax(const floating[:, ::1] x, const double[:, ::1] sums, floating[:, ::1] y, int num_threads):
    """y = log p, for the rows' log_sums."""
    cdef Softmax c = Softmax(&y[0, 0], <double *> &sums[0, 0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    with nogil:
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


def softmax_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const double[:, ::1] sums, floating[:, ::1] dx,
    bint as_logarithm, int num_threads,
):
    """dx = dy - p * sum(dy) (as_logarithm), or (dy - sum(dy * p)) * p, along each row."""
    cdef Py_ssize_t n = dy.shape[0], width = dy.shape[1], block = rows_together(width)
    cdef SoftmaxBackward c = SoftmaxBackward(&dy[0, 0], &x[0, 0], &sums[0, 0], n, width, block, as_logarithm)
    with nogil:
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
    Py_ssize_t rows, width, block


def cross_entropy_backward(
    const floating[:, ::1] x, const double[:, ::1] sums, const long long[::1] target, const floating[::1] weight,
    const floating[::1] direct, const floating[::1] smooth, double weight_sum, floating[:, ::1] dx, int num_threads,
):
    """The gradient to logits x for class indices `target`, all in range.

    dx[i, j] = p[i, j] * (direct[i] + smooth[i] * weight_sum) - smooth[i] * weight[j] - (direct[i] if j == target[i])
    """
    if x.shape[0] == 0:
        return
    cdef CrossEntropy c = CrossEntropy(
        &x[0, 0], &sums[0, 0], &target[0], &weight[0], &direct[0], &smooth[0], weight_sum, x.shape[0], x.shape[1],
        rows_together(x.shape[1]),
    )
    with nogil:
        run(<Task> cross_entropy_task[floating], &dx[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void cross_entropy_task(floating *dx, const CrossEntropy *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, count = min(c.block, c.rows - first), width = c.width, i, j
    cdef const long long *target = c.target + first
    cdef const floating *weight = <const floating *> c.weight
    cdef const floating *direct = <const floating *> c.direct + first
    cdef const floating *smooth = <const floating *> c.smooth + first
    cdef floating weight_sum = <floating> c.weight_sum, whole, share
    dx += first * width
    log_p_block(<const floating *> c.x + first * width, c.sums + 2 * first, dx, count, width)
    exponentials(dx, count * width)
    for i in range(count):
        share = smooth[i]
        whole = direct[i] + share * weight_sum
        if share == 0:
            for j in range(width):
                dx[j] *= whole
        else:
            for j in range(width):
                dx[j] = dx[j] * whole - share * weight[j]
        dx[target[i]] -= direct[i]
        dx += width


# --- layer norm ------------------------------------------------------------------------------------------------------


cdef struct LayerNorm:
    const void *x
    const void *weight
    const void *bias
    double *statistics
    double eps
    Py_ssize_t rows, width, block


def layer_norm(
    const floating[:, ::1] x, const floating[::1] weight, const floating[::1] bias, floating[:, ::1] y,
    double[:, ::1] statistics, double eps, int num_threads,
):
    """y = (x - mean) * rstd * weight + bias along each row; statistics (rows, 2) = mean, rstd."""
    if x.shape[0] == 0:
        return
    cdef LayerNorm c = LayerNorm(
        &x[0, 0], &weight[0], &bias[0], &statistics[0, 0], eps, x.shape[0], x.shape[1], rows_together(x.shape[1])
    )
    with nogil:
        run(<Task> layer_norm_task[floating], &y[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void layer_norm_task(floating *y, const LayerNorm *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, _, j
    cdef const floating *x = <const floating *> c.x + first * width
    cdef const floating *weight = <const floating *> c.weight
    cdef const floating *bias = <const floating *> c.bias
    cdef double *statistics = c.statistics + 2 * first
    cdef double mean, rstd
    cdef floating m, r, rest
    y += first * width
    for _ in range(min(c.block, c.rows - first)):
        mean = row_mean(x, width)
        m = <floating> mean
        rstd = mean - m  # what rounding the mean left over
        rstd = 1 / sqrt(max(row_square(x, m, width) / width - rstd * rstd, <double> 0) + c.eps)
        statistics[0] = mean
        statistics[1] = rstd
        r = <floating> rstd
        rest = <floating> ((m - mean) * rstd)
        for j in range(width):
            y[j] = ((x[j] - m) * r + rest) * weight[j] + bias[j]
        x += width
        y += width
        statistics += 2


cdef struct LayerNormBackward:
    const void *dy
    const void *x
    const void *weight
    const double *statistics
    double *sums
    Py_ssize_t rows, width, block


def layer_norm_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[::1] weight, const double[:, ::1] statistics,
    floating[:, ::1] dx, double[:, :, ::1] sums, Py_ssize_t block_rows, int num_threads,
):
    """dx of `layer_norm`; sums[block] (2, c) = dy * normalised x and dy, summed over a block of rows."""
    if x.shape[0] == 0:
        return
    cdef LayerNormBackward c = LayerNormBackward(
        &dy[0, 0], &x[0, 0], &weight[0], &statistics[0, 0], &sums[0, 0, 0], x.shape[0], x.shape[1], block_rows
    )
    with nogil:
        run(<Task> layer_norm_backward_task[floating], &dx[0, 0], &c, sums.shape[0], num_threads)


cdef void layer_norm_backward_task(floating *dx, const LayerNormBackward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, _, j
    cdef const floating *dy = <const floating *> c.dy + first * width
    cdef const floating *x = <const floating *> c.x + first * width
    cdef const floating *weight = <const floating *> c.weight
    cdef const double *statistics = c.statistics + 2 * first
    cdef double *dweight = c.sums + 2 * task * width
    cdef double *dbias = dweight + width
    cdef double rstd
    cdef floating m, r, rest, along, level
    dx += first * width
    for j in range(width):
        dweight[j] = dbias[j] = 0
    for _ in range(min(c.block, c.rows - first)):
        rstd = statistics[1]
        m = <floating> statistics[0]
        r = <floating> rstd
        rest = <floating> ((m - statistics[0]) * rstd)
        for j in range(width):  # normalised x, for now
            dx[j] = (x[j] - m) * r + rest
        for j in range(width):
            dweight[j] += dy[j] * dx[j]
            dbias[j] += dy[j]
        level = <floating> (row_dot(dy, weight, width) / width)
        along = <floating> (row_dot_3(dy, weight, dx, width) / width)
        for j in range(width):
            dx[j] = (dy[j] * weight[j] - level - dx[j] * along) * r
        dy += width
        x += width
        dx += width
        statistics += 2


# --- local response norm ---------------------------------------------------------------------------------------------


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
    with nogil:
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
    with nogil:
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


# --- prelu -----------------------------------------------------------------------------------------------------------


cdef struct Prelu:
    const void *dy  # NULL on the way forward, as sums
    const void *x
    const void *weight
    double *sums
    Py_ssize_t size, width, block


def prelu(
    const floating[:, ::1] x, const floating[::1] weight, floating[:, ::1] y, Py_ssize_t block_rows, int num_threads
):
    """y = x where x > 0, else weight * x; x (1, elements) in rows of `width` = len(weight), as for `moments`."""
    cdef Py_ssize_t width = weight.shape[0], size = x.shape[1]
    if size == 0:
        return
    cdef Prelu c = Prelu(NULL, &x[0, 0], &weight[0], NULL, size, width, block_rows * width)
    with nogil:
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


def prelu_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[::1] weight, floating[:, ::1] dx,
    double[:, :, :, ::1] sums, Py_ssize_t block_rows, int num_threads,
):
    """dx of `prelu`; sums[0, block, 0] (width,) = the sums of dy * x where x is not > 0."""
    cdef Py_ssize_t width = weight.shape[0], size = x.shape[1]
    if size == 0:
        return
    cdef Prelu c = Prelu(&dy[0, 0], &x[0, 0], &weight[0], &sums[0, 0, 0, 0], size, width, block_rows * width)
    with nogil:
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
