# distutils: extra_compile_args = -ffp-contract=off
"""Normalisation: by the statistics of channels (batch, group and instance norm), and of rows (layer norm).

Sums run in float64 over a block of rows at a time; the blocks' sums are added in order, whoever computed them.
"""

from cython cimport floating
from libc.math cimport isfinite, sqrt

from fastconv._ext.buffers cimport float_size, read_from, write_to
from fastconv._ext.rows cimport row_dot, row_dot_3, row_mean, row_square, rows_together, tasks
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "norm.h" nogil:
    const Py_ssize_t FAR
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
    enum: MOST_TAPS
    enum: WIDEST
    ctypedef struct Windows:
        Py_ssize_t *inputs
        Py_ssize_t *kernel
        Py_ssize_t *outputs
        Py_ssize_t *offsets
        Py_ssize_t taps, width
    void normalise_windows_float(
        const float *x, const Windows *w, const float *mean, const float *scale, const float *shift, float *y,
        signed char *chosen
    )
    void normalise_windows_double(
        const double *x, const Windows *w, const double *mean, const double *scale, const double *shift, double *y,
        signed char *chosen
    )
    void windows_products_float(
        const float *dy, const signed char *chosen, const float *x, const float *mean, const Windows *w, double *sums,
        double *products, Py_ssize_t first, Py_ssize_t count
    )
    void windows_products_double(
        const double *dy, const signed char *chosen, const double *x, const double *mean, const Windows *w,
        double *sums, double *products, Py_ssize_t first, Py_ssize_t count
    )
    void windows_backward_float(
        const float *dy, const signed char *chosen, const float *x, const Windows *w, const float *mean,
        const float *scale, const float *slope, const float *shift, float *dx, int far
    )
    void windows_backward_double(
        const double *dy, const signed char *chosen, const double *x, const Windows *w, const double *mean,
        const double *scale, const double *slope, const double *shift, double *dx, int far
    )

# --- statistics of channels ------------------------------------------------------------------------------------------
#
# x is (images, elements): an image's rows of channels one after another, seen as rows of `width` elements, a multiple
# of the channels (narrow rows are joined to fill the lanes); the last row may be cut short. Coefficients are (images,
# width).


cdef struct Moments:
    void *pivot
    double *sums
    Py_ssize_t size, width, block, blocks
    Py_ssize_t images, channels, step


@Kernel
def moments(x, coefficients, sums, statistics, Py_ssize_t step, Py_ssize_t block_rows, int num_threads):
    """Mean and biased variance of every image's channels, the first and the last of statistics (3, images, channels),
    in one pass over x.

    They come from the sums of x - pivot and of its square; the pivot, the mean of every `step`-th row of channels,
    keeps the squares small. sums (images, blocks, 2, width) and the first of coefficients (3, images, width) are
    scratch.
    """
    cdef Py_ssize_t images = statistics.shape[1], channels = statistics.shape[2], blocks = sums.shape[1]
    cdef Py_ssize_t count = x.size, itemsize = float_size(x), width = sums.shape[3]
    cdef double *mean = <double *> write_to(statistics, 3 * images * channels, sizeof(double))
    cdef double *var = mean + 2 * images * channels
    cdef const void *values = read_from(x, count, itemsize)
    cdef Moments c = Moments(
        write_to(coefficients, 3 * images * width, itemsize),
        <double *> write_to(sums, images * blocks * 2 * width, sizeof(double)), count // images, width,
        block_rows * width, blocks, images, channels, step,
    )
    if itemsize == sizeof(float):
        find_moments[float](<const float *> values, &c, mean, var, num_threads)
    else:
        find_moments[double](<const double *> values, &c, mean, var, num_threads)


cdef int find_moments(const floating *x, const Moments *c, double *mean, double *var, int num_threads) except -1:
    cdef Py_ssize_t image
    cdef floating *pivot = <floating *> c.pivot
    for image in range(c.images):
        find_pivot(x + image * c.size, pivot + image * c.width, c.size, c.channels, c.step, c.width)
    run(<Task> moments_task[floating], x, c, c.images * c.blocks, num_threads)
    for image in range(c.images):
        settle_moments(
            c.sums + 2 * image * c.blocks * c.width, pivot + image * c.width, mean + image * c.channels,
            var + image * c.channels, c.blocks, c.width, c.channels, c.size // c.channels,
        )
    return 0


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
    cdef Py_ssize_t j
    cdef double shift, variance
    add_blocks(sums, blocks, width, channels)
    for j in range(channels):
        shift = sums[j] / pixels
        variance = sums[width + j] / pixels - shift * shift
        mean[j] = pivot[j] + shift
        var[j] = 0 if variance < 0 else variance


cdef void add_blocks(double *sums, Py_ssize_t blocks, Py_ssize_t width, Py_ssize_t channels) noexcept nogil:
    """Add up sums (blocks, 2, width), in order, then those of joined rows: both into the first."""
    cdef Py_ssize_t block, j
    for block in range(1, blocks):
        for j in range(2 * width):
            sums[j] += sums[block * 2 * width + j]
    for j in range(channels, width if blocks > 0 else 0):
        sums[j % channels] += sums[j]
        sums[width + j % channels] += sums[width + j]


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


@Kernel
def products(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[:, :, ::1] coefficients,
    double[:, :, :, ::1] sums, Py_ssize_t block_rows, int num_threads, bint relu=False, const floating[:, ::1] y=None,
    floating[:, ::1] gated=None,
):
    """sums[image, block] (2, width) = the sums of dy and of dy * (x - mean) over a block of rows.

    relu: with dy only where what `normalise` made of x with these coefficients (3, images, width) is above 0. y: with
    dy only where y is above 0, which is also written to `gated`, which may be dy.
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


@Kernel
def settle_products(sums, statistics, coefficients, weight, totals, dweight, dbias):
    """totals (2, images, channels) from the sums of `products`: those of dy and of dy * (x - mean), times the weight.

    The blocks' sums are added in order, then those of joined rows: into the first. statistics (3, images, channels) and
    coefficients (3, images, width) are those of `normalise`; dweight and dbias (channels,) are written; they and the
    weight may be None.
    """
    cdef Py_ssize_t images = statistics.shape[1], channels = statistics.shape[2], width = coefficients.shape[2]
    cdef Py_ssize_t blocks = sums.shape[1], itemsize = float_size(coefficients)
    need_room(statistics, coefficients)
    cdef double *found = <double *> write_to(sums, images * blocks * 2 * width, sizeof(double))
    cdef double *total = <double *> write_to(totals, 2 * images * channels, sizeof(double))
    cdef const double *exact = <const double *> read_from(statistics, 3 * images * channels, sizeof(double))
    cdef const void *w = read_from(weight, channels, itemsize)
    cdef void *dw = NULL if dweight is None else write_to(dweight, channels, itemsize)
    cdef void *db = NULL if dbias is None else write_to(dbias, channels, itemsize)
    cdef Py_ssize_t image
    for image in range(images):
        add_blocks(found + 2 * image * blocks * width, blocks, width, channels)
    if itemsize == sizeof(float):
        total_products[float](
            found, exact, <const float *> w, total, <float *> dw, <float *> db, images, blocks, width, channels
        )
    else:
        total_products[double](
            found, exact, <const double *> w, total, <double *> dw, <double *> db, images, blocks, width, channels
        )


cdef void total_products(
    const double *sums, const double *statistics, const floating *weight, double *totals, floating *dweight,
    floating *dbias, Py_ssize_t images, Py_ssize_t blocks, Py_ssize_t width, Py_ssize_t channels,
) noexcept nogil:
    cdef Py_ssize_t image, j, all = images * channels, at
    cdef double total, product, of_weight, of_bias
    for j in range(channels):
        of_weight = of_bias = 0
        for image in range(images):
            at = image * channels + j
            total = sums[2 * image * blocks * width + j] if blocks > 0 else 0
            product = sums[(2 * image * blocks + 1) * width + j] if blocks > 0 else 0
            product += (<floating> statistics[at] - statistics[at]) * total  # `products` took the rounded mean
            of_weight = product * statistics[all + at] if image == 0 else of_weight + product * statistics[all + at]
            of_bias = total if image == 0 else of_bias + total
            totals[at], totals[all + at] = total, product
            if weight != NULL:
                totals[at] *= weight[j]
                totals[all + at] *= weight[j]
        if dweight != NULL:
            dweight[j] = <floating> of_weight
        if dbias != NULL:
            dbias[j] = <floating> of_bias


@Kernel
def settle_backward(totals, statistics, weight, Py_ssize_t groups, Py_ssize_t pixels, coefficients):
    """`scale_shift_backward`'s coefficients (4, images, width), from the totals (2, images, channels), each of `pixels`
    elements; the neighbouring channels of a group share a mean."""
    cdef Py_ssize_t images = statistics.shape[1], channels = statistics.shape[2], width = coefficients.shape[2]
    cdef Py_ssize_t itemsize = float_size(coefficients)
    need_room(statistics, coefficients)
    if groups < 1 or channels % groups:
        raise ValueError(f"{groups} groups of {channels} channels")
    cdef const double *sums = <const double *> read_from(totals, 2 * images * channels, sizeof(double))
    cdef const double *exact = <const double *> read_from(statistics, 3 * images * channels, sizeof(double))
    cdef const void *w = read_from(weight, channels, itemsize)
    cdef void *out = write_to(coefficients, 4 * images * width, itemsize)
    if itemsize == sizeof(float):
        backward_coefficients[float](
            sums, exact, <const float *> w, <float *> out, images, channels, groups, pixels, width
        )
    else:
        backward_coefficients[double](
            sums, exact, <const double *> w, <double *> out, images, channels, groups, pixels, width
        )


cdef void backward_coefficients(
    const double *totals, const double *statistics, const floating *weight, floating *out, Py_ssize_t images,
    Py_ssize_t channels, Py_ssize_t groups, Py_ssize_t pixels, Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t image, j, k, all = images * channels, at, each = channels // groups
    cdef double total = 0, product = 0, rstd, slope
    cdef floating *row
    for image in range(images):
        for j in range(channels):
            at = image * channels + j
            row = out + image * width + j
            if j % each == 0:
                total, product = totals[at], totals[all + at]
                for k in range(at + 1, at + each):
                    total += totals[k]
                    product += totals[all + k]
                total, product = total / each / pixels, product / each / pixels
            rstd = statistics[all + at]
            slope = -product * rstd * rstd * rstd
            row[0] = <floating> statistics[at]
            row[images * width] = <floating> (rstd * weight[j] if weight != NULL else rstd)
            row[2 * images * width] = <floating> slope
            row[3 * images * width] = <floating> (slope * (row[0] - statistics[at]) - total * rstd)
        for k in range(4):
            row = out + (k * images + image) * width
            for j in range(channels, width):
                row[j] = row[j - channels]


@Kernel
def update_running(running, statistics, int which, double factor, double momentum):
    """running (channels,) = (1 - momentum) * running + momentum * the mean over the images of one of the statistics
    (3, images, channels) * factor."""
    cdef Py_ssize_t images = statistics.shape[1], channels = statistics.shape[2], itemsize = float_size(running)
    cdef const double *values = <const double *> read_from(statistics, 3 * images * channels, sizeof(double))
    cdef void *out = write_to(running, channels, itemsize)
    values += which * images * channels
    if itemsize == sizeof(float):
        add_to_running[float](<float *> out, values, images, channels, factor, momentum)
    else:
        add_to_running[double](<double *> out, values, images, channels, factor, momentum)


cdef void add_to_running(
    floating *running, const double *values, Py_ssize_t images, Py_ssize_t channels, double factor, double momentum
) noexcept nogil:
    cdef Py_ssize_t image, j
    cdef double total
    for j in range(channels):
        total = values[j] * factor
        for image in range(1, images):
            total += values[image * channels + j] * factor
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


@Kernel
def normalise(
    x, y, statistics, double eps, weight, bias, coefficients, Py_ssize_t block_rows, int num_threads, bint relu=False,
    addend=None,
):
    """y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps); relu of that, or of that and an addend.

    statistics (3, images, channels) are mean, rstd, which is written, and var; weight and bias (channels,) may be
    None; coefficients (3, images, width) are written: mean, scale and shift.
    """
    cdef Py_ssize_t images = statistics.shape[1], channels = statistics.shape[2], width = coefficients.shape[2]
    cdef Py_ssize_t count = y.size, itemsize = float_size(y), block = block_rows * width
    if count == 0:
        return
    need_room(statistics, coefficients)
    cdef Py_ssize_t size = count // images
    cdef void *out = write_to(y, count, itemsize)
    cdef void *room = write_to(coefficients, 3 * images * width, itemsize)
    cdef double *values = <double *> write_to(statistics, 3 * images * channels, sizeof(double))
    cdef const void *w = read_from(weight, channels, itemsize)
    cdef const void *b = read_from(bias, channels, itemsize)
    cdef ScaleShift c = ScaleShift(
        NULL, read_from(x, count, itemsize), room, read_from(addend, count, itemsize), NULL, size, width, block,
        tasks(size, block), images, count * itemsize >= FAR, relu,
    )
    if itemsize == sizeof(float):
        scale_shift[float](
            <float *> out, &c, values, eps, <const float *> w, <const float *> b, <float *> room, channels, num_threads
        )
    else:
        scale_shift[double](
            <double *> out, &c, values, eps, <const double *> w, <const double *> b, <double *> room, channels,
            num_threads,
        )


cdef int scale_shift(
    floating *y, const ScaleShift *c, double *statistics, double eps, const floating *weight, const floating *bias,
    floating *coefficients, Py_ssize_t channels, int num_threads,
) except -1:
    settle_coefficients(statistics, eps, weight, bias, coefficients, c.images, channels, c.width)
    run(<Task> scale_shift_task[floating], y, c, c.images * c.blocks, num_threads)
    return 0


cdef int need_room(statistics, coefficients) except -1:
    """ValueError where statistics (3, images, channels) are for more channels than coefficients (3, images, width)."""
    cdef Py_ssize_t images = statistics.shape[1], channels = statistics.shape[2]
    if coefficients.shape[1] != images or not 1 <= channels <= <Py_ssize_t> coefficients.shape[2]:
        raise ValueError(f"coefficients of shape {coefficients.shape} for statistics of {statistics.shape}")
    return 0


cdef void settle_coefficients(
    double *statistics, double eps, const floating *weight, const floating *bias, floating *coefficients,
    Py_ssize_t images, Py_ssize_t channels, Py_ssize_t width,
) noexcept nogil:
    cdef Py_ssize_t image, j, all = images * channels, at
    cdef floating *mean
    cdef floating *scale
    cdef floating *shift
    cdef double factor, exact
    for image in range(images):
        mean = coefficients + image * width
        scale = mean + images * width
        shift = scale + images * width
        for j in range(channels):
            at = image * channels + j
            exact = statistics[at]
            factor = statistics[all + at] = 1 / sqrt(statistics[2 * all + at] + eps)
            if weight != NULL:
                factor *= weight[j]
            mean[j] = <floating> exact  # what is subtracted; the shift makes up for the rounding
            scale[j] = <floating> factor
            exact = (mean[j] - exact) * factor
            if bias != NULL:
                exact += bias[j]
            shift[j] = <floating> exact
        for j in range(channels, width):
            mean[j] = mean[j - channels]
            scale[j] = scale[j - channels]
            shift[j] = shift[j - channels]


@Kernel
def settle(statistics, double eps, weight, bias, coefficients):
    """`normalise`'s coefficients alone."""
    cdef Py_ssize_t images = statistics.shape[1], channels = statistics.shape[2], width = coefficients.shape[2]
    cdef Py_ssize_t itemsize = float_size(coefficients)
    need_room(statistics, coefficients)
    cdef double *values = <double *> write_to(statistics, 3 * images * channels, sizeof(double))
    cdef void *room = write_to(coefficients, 3 * images * width, itemsize)
    cdef const void *w = read_from(weight, channels, itemsize)
    cdef const void *b = read_from(bias, channels, itemsize)
    if itemsize == sizeof(float):
        settle_coefficients[float](
            values, eps, <const float *> w, <const float *> b, <float *> room, images, channels, width
        )
    else:
        settle_coefficients[double](
            values, eps, <const double *> w, <const double *> b, <double *> room, images, channels, width
        )


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


@Kernel
def scale_shift_backward(
    const floating[:, ::1] dy, const floating[:, ::1] x, const floating[:, :, ::1] coefficients, floating[:, ::1] dx,
    Py_ssize_t block_rows, int num_threads, const floating[:, ::1] before=None,
):
    """dx = dy * scale + (x - mean) * slope + shift; coefficients (4, images, width). dx may be dy.

    before (images, width): with dy only where (x - mean) * scale + before is above 0.
    """
    cdef Py_ssize_t images = x.shape[0], size = x.shape[1], width = coefficients.shape[2], block = block_rows * width
    if images * size == 0:
        return
    cdef ScaleShift c = ScaleShift(
        &dy[0, 0], &x[0, 0], &coefficients[0, 0, 0], NULL, NULL, size, width, block, tasks(size, block), images,
        images * size * <Py_ssize_t> sizeof(floating) >= FAR, False,
    )
    if before is not None:
        c.before = &before[0, 0]
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


# --- batch norm, relu, and the maximum of windows side by side --------------------------------------------------------
#
# x (N, i0, i1, i2, C); y, dy and chosen (N, o0, o1, o2, C); chosen (int8) says which tap of a window y comes from, or
# that relu made it 0; C a multiple of `widest`, kernel with at most `most_taps` taps. One task does some lines of
# windows, and all lines of inputs that they see.

most_taps, widest = MOST_TAPS, WIDEST

cdef enum:
    WINDOWS_RUN = 1 << 15  # elements of x that a task reads


cdef struct Pooled:
    Windows windows
    const void *x
    const void *dy
    const void *coefficients
    void *chosen
    double *sums
    Py_ssize_t lines, lines_together  # of windows, and of a task
    Py_ssize_t pixels, block  # of x, and of a block of sums
    bint far


cdef int place_windows(Pooled *c, x_shape, y_shape, kernel) except -1:
    cdef Windows *w = &c.windows
    cdef Py_ssize_t i, a, b, d
    cdef bint fits = len(x_shape) == len(y_shape) == 5 and len(kernel) == 3 and x_shape[0] == y_shape[0]
    for i in range(3 if fits else 0):
        w.inputs[i], w.kernel[i], w.outputs[i] = x_shape[1 + i], kernel[i], y_shape[1 + i]
        fits = fits and 1 <= w.kernel[i] <= MOST_TAPS and w.outputs[i] <= w.inputs[i]
    if not fits:
        raise ValueError(f"windows of {kernel} side by side: got {x_shape} for {y_shape}")
    w.width, w.taps = x_shape[4], w.kernel[0] * w.kernel[1] * w.kernel[2]
    if (
        w.taps > MOST_TAPS or w.width % WIDEST
        or y_shape[4] != w.width or w.outputs[0] * w.kernel[0] != w.inputs[0]
        or w.outputs[1] * w.kernel[1] != w.inputs[1] or w.outputs[2] * w.kernel[2] > w.inputs[2]
    ):
        raise ValueError(f"windows of {kernel} side by side: got {x_shape} for {y_shape}")
    c.lines = x_shape[0] * w.outputs[0] * w.outputs[1]
    c.pixels = x_shape[0] * w.inputs[0] * w.inputs[1] * w.inputs[2]
    c.lines_together = max(
        <Py_ssize_t> 1, WINDOWS_RUN // max(<Py_ssize_t> 1, w.kernel[0] * w.kernel[1] * w.inputs[2] * w.width)
    )
    i = 0
    for a in range(w.kernel[0]):
        for b in range(w.kernel[1]):
            for d in range(w.kernel[2]):
                w.offsets[i] = ((a * w.inputs[1] + b) * w.inputs[2] + d) * w.width
                i += 1
    return 0


cdef const void *given(array, Py_ssize_t size, Py_ssize_t itemsize) except NULL:
    """`read_from` for an array that has to be there."""
    if array is None:
        raise ValueError(f"an array of {size} elements is missing")
    return read_from(array, size, itemsize)


cdef inline Py_ssize_t first_input(const Windows *w, Py_ssize_t line) noexcept nogil:
    """Where in x a line of windows begins."""
    cdef Py_ssize_t row = line % w.outputs[1], plane = line // w.outputs[1] % w.outputs[0]
    cdef Py_ssize_t image = line // w.outputs[1] // w.outputs[0]
    plane = image * w.inputs[0] + plane * w.kernel[0]
    return (plane * w.inputs[1] + row * w.kernel[1]) * w.inputs[2] * w.width


@Kernel
def normalise_windows(x, y, chosen, kernel, statistics, double eps, weight, bias, coefficients, int num_threads):
    """y = the largest of every window of relu of what `normalise` gives, by its statistics and coefficients."""
    cdef Pooled c
    cdef Py_ssize_t count = y.size, itemsize = float_size(y)
    place_windows(&c, x.shape, y.shape, kernel)
    settle(statistics, eps, weight, bias, coefficients)
    if count == 0:
        return
    c.x, c.chosen = given(x, x.size, itemsize), write_to(chosen, count, 1)
    c.coefficients = given(coefficients, 3 * c.windows.width, itemsize)
    run(
        <Task> windows_task[float] if itemsize == sizeof(float) else <Task> windows_task[double],
        write_to(y, count, itemsize), &c, tasks(c.lines, c.lines_together), num_threads,
    )


cdef void windows_task(floating *y, const Pooled *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Windows *w = &c.windows
    cdef Py_ssize_t line, at
    cdef const floating *mean = <const floating *> c.coefficients
    cdef const floating *scale = mean + w.width
    cdef const floating *shift = scale + w.width
    cdef const floating *x
    for line in range(task * c.lines_together, min((task + 1) * c.lines_together, c.lines)):
        x = <const floating *> c.x + first_input(w, line)
        at = line * w.outputs[2] * w.width
        if floating is float:
            normalise_windows_float(x, w, mean, scale, shift, y + at, <signed char *> c.chosen + at)
        else:
            normalise_windows_double(x, w, mean, scale, shift, y + at, <signed char *> c.chosen + at)


@Kernel
def windows_products(dy, chosen, x, kernel, coefficients, sums, Py_ssize_t block_rows, int num_threads):
    """`products` for the gradient dy of what `normalise_windows` gave: sums (1, blocks, 2, C) in the same order."""
    cdef Pooled c
    cdef Py_ssize_t itemsize = float_size(dy), count = dy.size
    place_windows(&c, x.shape, dy.shape, kernel)
    if count == 0 or block_rows < 1:
        raise ValueError(f"windows of {kernel} side by side: got {dy.shape} in blocks of {block_rows}")
    cdef Py_ssize_t blocks = tasks(c.pixels, min(block_rows, c.pixels))
    c.x, c.chosen = given(x, x.size, itemsize), <void *> given(chosen, count, 1)
    c.coefficients = given(coefficients, 3 * c.windows.width, itemsize)
    c.sums, c.block = <double *> write_to(sums, blocks * 2 * c.windows.width, sizeof(double)), min(block_rows, c.pixels)
    run(
        <Task> windows_products_task[float] if itemsize == sizeof(float) else <Task> windows_products_task[double],
        given(dy, count, itemsize), &c, blocks, num_threads,
    )


cdef void windows_products_task(const floating *dy, const Pooled *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Windows *w = &c.windows
    cdef Py_ssize_t first = task * c.block, count = min(c.block, c.pixels - first)
    cdef const floating *x = <const floating *> c.x + first * w.width
    cdef const floating *mean = <const floating *> c.coefficients
    cdef double *sums = c.sums + 2 * task * w.width
    if floating is float:
        windows_products_float(dy, <const signed char *> c.chosen, x, mean, w, sums, sums + w.width, first, count)
    else:
        windows_products_double(dy, <const signed char *> c.chosen, x, mean, w, sums, sums + w.width, first, count)


@Kernel
def windows_backward(dy, chosen, x, kernel, coefficients, dx, int num_threads):
    """dx, which may be x, as `scale_shift_backward` has it with coefficients (4, 1, C), for the gradient dy of what
    `normalise_windows` gave."""
    cdef Pooled c
    cdef Py_ssize_t count = dx.size, itemsize = float_size(dx)
    place_windows(&c, x.shape, dy.shape, kernel)
    if count == 0:
        return
    c.x, c.dy = given(x, count, itemsize), given(dy, dy.size, itemsize)
    c.chosen = <void *> given(chosen, dy.size, 1)
    c.coefficients, c.far = given(coefficients, 4 * c.windows.width, itemsize), count * itemsize >= FAR
    run(
        <Task> windows_backward_task[float] if itemsize == sizeof(float) else <Task> windows_backward_task[double],
        write_to(dx, count, itemsize), &c, tasks(c.lines, c.lines_together), num_threads,
    )


cdef void windows_backward_task(floating *dx, const Pooled *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Windows *w = &c.windows
    cdef Py_ssize_t line, first, at
    cdef const floating *mean = <const floating *> c.coefficients
    cdef const floating *scale = mean + w.width
    cdef const floating *slope = scale + w.width
    cdef const floating *shift = slope + w.width
    cdef const floating *dy = <const floating *> c.dy
    cdef const floating *x = <const floating *> c.x
    cdef const signed char *chosen = <const signed char *> c.chosen
    for line in range(task * c.lines_together, min((task + 1) * c.lines_together, c.lines)):
        first, at = first_input(w, line), line * w.outputs[2] * w.width
        if floating is float:
            windows_backward_float(dy + at, chosen + at, x + first, w, mean, scale, slope, shift, dx + first, c.far)
        else:
            windows_backward_double(dy + at, chosen + at, x + first, w, mean, scale, slope, shift, dx + first, c.far)


# --- layer norm ------------------------------------------------------------------------------------------------------


cdef struct LayerNorm:
    const void *x
    const void *weight
    const void *bias
    double *statistics
    double eps
    Py_ssize_t rows, width, block


@Kernel
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


@Kernel
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
