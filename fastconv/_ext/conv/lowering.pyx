"""Convolution lowered to matrix multiply: im2col, col2im and the loops that run BLAS on their tiles.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k), w (k, r0, r1, r2, c / g).
A tile is a run of output pixels, counted over the whole batch; its columns hold one window a row, taps in w's order:

    col (pixels, r0 * r1 * r2 * c / g)     y = col @ w.T     dw = dy.T @ col     dcol = dy @ w, dx = col2im(dcol)

With one channel the rows are turned into columns, `taps` (r0 * r1 * r2, pixels): whole runs of x are copied then.
Tiles, and the chunks of tiles whose partial dw are added in order, are cut by shape; threads only take them in turn.
"""

from cython cimport floating
from libc.string cimport memcpy, memset

from fastconv._ext.blas cimport gemm
from fastconv._ext.geometry cimport Geometry, geometry_of
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "conv/lowering.h" nogil:
    const Py_ssize_t PIECES
    const float *zeros_float
    const double *zeros_double

    ctypedef struct Rows:
        const void **pieces
        Py_ssize_t *steps
        Py_ssize_t count, first, span
        Py_ssize_t at, stride
        Py_ssize_t length, taps, dilation, channels
        bint whole

    void rows_float(const Rows *, float *y, Py_ssize_t pixels, const float *x_end, const float *y_end)
    void rows_double(const Rows *, double *y, Py_ssize_t pixels, const double *x_end, const double *y_end)
    void run_float(
        const float *x, Py_ssize_t step, float *y, Py_ssize_t head, Py_ssize_t stop, Py_ssize_t count)
    void run_double(
        const double *x, Py_ssize_t step, double *y, Py_ssize_t head, Py_ssize_t stop, Py_ssize_t count)
    void add_run_float(const float *x, float *y, Py_ssize_t count)
    void add_run_double(const double *x, double *y, Py_ssize_t count)

cdef extern from *:
    const int RELAXED "__ATOMIC_RELAXED"
    void atomic_store "__atomic_store_n"(int *at, int value, int order) noexcept nogil


cdef enum:
    LANES = 16


cdef struct Cursor:
    Py_ssize_t image
    Py_ssize_t out[3]   # an output pixel
    Py_ssize_t at[3]    # the input position of its first tap


cdef inline void seek(Cursor *cursor, const Geometry *g, Py_ssize_t pixel) noexcept nogil:
    """Put the cursor on an output pixel, counted over the batch."""
    cdef int axis
    for axis in range(2, -1, -1):
        cursor.out[axis] = pixel % g.out[axis]
        cursor.at[axis] = cursor.out[axis] * g.stride[axis] - g.before[axis]
        pixel //= g.out[axis]
    cursor.image = pixel


cdef inline void advance(Cursor *cursor, const Geometry *g, Py_ssize_t pixels) noexcept nogil:
    """Move on by `pixels`, at most to the start of the next output line."""
    cdef int axis = 2
    cursor.out[2] += pixels
    cursor.at[2] += pixels * g.stride[2]
    while cursor.out[axis] == g.out[axis]:
        cursor.out[axis] = 0
        cursor.at[axis] = -g.before[axis]
        if axis == 0:
            cursor.image += 1
            return
        axis -= 1
        cursor.out[axis] += 1
        cursor.at[axis] += g.stride[axis]


cdef inline void zero(floating *out, Py_ssize_t count) noexcept nogil:
    memset(out, 0, count * sizeof(floating))


cdef inline void copy(const floating *x, floating *out, Py_ssize_t count) noexcept nogil:
    memcpy(out, x, count * sizeof(floating))


cdef inline void add(const floating *x, floating *y, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t j
    if count < LANES:  # no vectors that are worth a call
        for j in range(count):
            y[j] += x[j]
    elif floating is float:
        add_run_float(x, y, count)
    else:
        add_run_double(x, y, count)


# --- im2col ----------------------------------------------------------------------------------------------------------


cdef void im2col_rows(
    const floating *x, floating *col, const Geometry *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Rows of col for the output pixels first..last-1: a window's taps, each with its group's channels.

    Outputs of one line go together; where a window has more pieces than fit, one by one and some pieces at a time.
    """
    cdef const floating *x_end = x + g.batch * g.inp[0] * g.inp[1] * g.inp[2] * g.channels
    cdef floating *col_end = col + (last - first) * g.taps
    cdef Py_ssize_t count, pieces, begin
    cdef Cursor cursor
    cdef Rows rows
    rows.whole = g.groups == 1 and (g.dilation[2] == 1 or g.kernel[2] == 1)
    rows.taps, rows.dilation, rows.channels = g.kernel[2], g.dilation[2], g.channels // g.groups
    rows.span = rows.channels * (rows.taps if rows.whole else 1)
    rows.stride, rows.length = g.stride[2], g.inp[2]
    pieces = g.kernel[0] * g.kernel[1] * (1 if rows.whole else rows.taps)
    seek(&cursor, g, first)
    while first < last:
        count = min(g.out[2] - cursor.out[2], last - first) if pieces <= PIECES else 1
        begin = 0
        while begin < pieces:
            rows.first, rows.count = begin, min(pieces - begin, PIECES)
            lay_out_pieces(x, &rows, g, group, &cursor)
            if pieces > PIECES:
                col_end = col + rows.count * rows.span
            if floating is float:
                rows_float(&rows, col, count, x_end, col_end)
            else:
                rows_double(&rows, col, count, x_end, col_end)
            begin += rows.count
            col += count * rows.count * rows.span
        first += count
        advance(&cursor, g, count)


cdef inline void lay_out_pieces(
    const floating *x, Rows *rows, const Geometry *g, Py_ssize_t group, const Cursor *cursor
) noexcept nogil:
    """Where the pieces of the cursor's window lie in x, or would lie beyond a line's begin."""
    cdef Py_ssize_t taps = 1 if rows.whole else rows.taps, k, r0, r1, i0, i1, at
    rows.at = cursor.at[2]
    for k in range(rows.count):
        r1 = (rows.first + k) // taps % g.kernel[1]
        r0 = (rows.first + k) // taps // g.kernel[1]
        i0 = cursor.at[0] + r0 * g.dilation[0]
        i1 = cursor.at[1] + r1 * g.dilation[1]
        if i0 < 0 or i0 >= g.inp[0] or i1 < 0 or i1 >= g.inp[1]:
            rows.steps[k] = 0
            if floating is float:
                rows.pieces[k] = zeros_float
            else:
                rows.pieces[k] = zeros_double
        else:
            at = cursor.at[2] + (rows.first + k) % taps * g.dilation[2]
            rows.steps[k] = g.stride[2] * g.channels
            rows.pieces[k] = (
                x + (((cursor.image * g.inp[0] + i0) * g.inp[1] + i1) * g.inp[2] + at) * g.channels
                + group * rows.channels
            )


cdef void im2col_taps(
    const floating *x, floating *taps, const Geometry *g, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """The transpose of `im2col_rows` for one group: a row a tap, in runs of output pixels that share an output line."""
    cdef Py_ssize_t pixels = last - first
    cdef Py_ssize_t done = 0, count, r0, r1, r2, c, i0, i1, start, head, stop, _j
    cdef Py_ssize_t step = g.stride[2] * g.channels
    cdef const floating *line
    cdef floating *out
    cdef Cursor cursor
    cdef Py_ssize_t *at = cursor.at
    seek(&cursor, g, first)
    while done < pixels:
        count = min(g.out[2] - cursor.out[2], pixels - done)
        out = taps + done
        for r0 in range(g.kernel[0]):
            i0 = at[0] + r0 * g.dilation[0]
            for r1 in range(g.kernel[1]):
                i1 = at[1] + r1 * g.dilation[1]
                if i0 < 0 or i0 >= g.inp[0] or i1 < 0 or i1 >= g.inp[1]:
                    for _j in range(g.kernel[2] * g.channels):
                        zero(out, count)
                        out += pixels
                    continue
                line = x + ((cursor.image * g.inp[0] + i0) * g.inp[1] + i1) * g.inp[2] * g.channels
                for r2 in range(g.kernel[2]):
                    start = at[2] + r2 * g.dilation[2]  # of the run, in input positions
                    head = 0 if start >= 0 else min(count, (-start + g.stride[2] - 1) // g.stride[2])
                    stop = 0 if start >= g.inp[2] else min(count, (g.inp[2] - 1 - start) // g.stride[2] + 1)
                    stop = max(stop, head)
                    for c in range(g.channels):
                        if floating is float:
                            run_float(line + start * g.channels + c, step, out, head, stop, count)
                        else:
                            run_double(line + start * g.channels + c, step, out, head, stop, count)
                        out += pixels
        done += count
        advance(&cursor, g, count)


cdef void col2im_rows(
    const floating *col, floating *dx, const Geometry *g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t last,
    const Py_ssize_t *low, const Py_ssize_t *high,
) noexcept nogil:
    """The adjoint of `im2col_rows`: add each row to the taps it came from, those inside the box low..high-1 only."""
    cdef Py_ssize_t c = g.channels // g.groups
    cdef bint whole = g.groups == 1 and g.dilation[2] == 1
    cdef Py_ssize_t _pixel, r0, r1, r2, i0, i1, i2, head, stop
    cdef floating *line
    cdef Cursor cursor
    cdef Py_ssize_t *at = cursor.at
    seek(&cursor, g, first)
    for _pixel in range(first, last):
        for r0 in range(g.kernel[0]):
            i0 = at[0] + r0 * g.dilation[0]
            for r1 in range(g.kernel[1]):
                i1 = at[1] + r1 * g.dilation[1]
                if i0 < low[0] or i0 >= high[0] or i1 < low[1] or i1 >= high[1]:
                    col += g.kernel[2] * c
                    continue
                line = dx + ((cursor.image * g.inp[0] + i0) * g.inp[1] + i1) * g.inp[2] * g.channels + group * c
                if whole:
                    head = max(low[2] - at[2], 0)
                    stop = min(high[2] - at[2], g.kernel[2])
                    if stop > head:
                        add(col + head * c, line + (at[2] + head) * c, (stop - head) * c)
                    col += g.kernel[2] * c
                    continue
                for r2 in range(g.kernel[2]):
                    i2 = at[2] + r2 * g.dilation[2]
                    if low[2] <= i2 < high[2]:
                        add(col, line + i2 * g.channels, c)
                    col += c
        advance(&cursor, g, 1)


@Kernel
def im2col(const floating[:, :, :, :, ::1] x, tuple y_shape, object window, floating[:, ::1] col):
    """col (n * o0 * o1 * o2, r0 * r1 * r2 * c) = the windows of x; the whole batch at once (tests and readers)."""
    cdef Geometry g = geometry_of((<object> x).shape, y_shape, window, 1)
    if col.shape[0] and x.size:
        im2col_rows(&x[0, 0, 0, 0, 0], &col[0, 0], &g, 0, 0, g.batch * g.pixels)


@Kernel
def col2im(const floating[:, ::1] col, tuple y_shape, object window, floating[:, :, :, :, ::1] dx):
    """dx += the adjoint of `im2col`."""
    cdef Geometry g = geometry_of((<object> dx).shape, y_shape, window, 1)
    cdef Py_ssize_t low[3]
    low[0] = low[1] = low[2] = 0
    if col.shape[0] and dx.size:
        col2im_rows(&col[0, 0], &dx[0, 0, 0, 0, 0], &g, 0, 0, g.batch * g.pixels, low, g.inp)


# --- what 0 * x of the padding may be ---------------------------------------------------------------------------------


cdef enum:
    TESTED = 1 << 14  # elements that are tested at a time


cdef struct AllFinite:
    int *found  # whether some element is not
    Py_ssize_t size


def all_finite(const floating[::1] x, int num_threads):
    """Whether no element is an infinity or nan."""
    cdef int found = 0
    cdef AllFinite c = AllFinite(&found, x.shape[0])
    if c.size:
        run(<Task> all_finite_task[floating], &x[0], &c, (c.size + TESTED - 1) // TESTED, num_threads)
    return found == 0


cdef void all_finite_task(const floating *x, const AllFinite *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * TESTED
    if not block_is_finite(x + at, min(<Py_ssize_t> TESTED, c.size - at)):
        atomic_store(c.found, 1, RELAXED)


cdef bint block_is_finite(const floating *x, Py_ssize_t count) noexcept nogil:
    cdef floating lanes[LANES]  # sums of zeros, or nan
    cdef floating total = 0
    cdef Py_ssize_t whole = count // LANES
    cdef Py_ssize_t i, j
    for j in range(LANES):
        lanes[j] = 0
    for i in range(whole):
        for j in range(LANES):
            lanes[j] += 0 * x[i * LANES + j]
    for i in range(whole * LANES, count):
        total += 0 * x[i]
    for j in range(LANES):
        total += lanes[j]
    return total == 0


# --- convolution -----------------------------------------------------------------------------------------------------


cdef inline bint is_pointwise(const Geometry *g) noexcept nogil:
    """Whether x itself is col: one tap, no step, no padding, one group."""
    cdef int axis
    for axis in range(3):
        if g.kernel[axis] != 1 or g.stride[axis] != 1 or g.before[axis] != 0 or g.inp[axis] != g.out[axis]:
            return False
    return g.groups == 1


cdef struct Forward:
    const Geometry *g
    const void *w
    const void *bias  # may be NULL
    void *y
    void *scratch
    Py_ssize_t column, tile
    bint turned


@Kernel
def forward(
    const floating[:, :, :, :, ::1] x, const floating[:, ::1] w, const floating[::1] bias, floating[:, :, :, :, ::1] y,
    object window, Py_ssize_t groups, Py_ssize_t tile, floating[:, ::1] scratch, bint turned,
):
    """y = conv(x, w) + bias, `tile` output pixels at a time.

    w (k, r0 * r1 * r2 * c / g), or with `turned` each group's transposed; bias may be None; scratch has a row of
    tile * width a thread.
    """
    cdef Geometry g = geometry_of((<object> x).shape, (<object> y).shape, window, groups)
    cdef Py_ssize_t tiles = (g.batch * g.pixels + tile - 1) // tile
    cdef const floating *b = <const floating *> NULL if bias is None else &bias[0]
    cdef Forward c = Forward(&g, &w[0, 0], b, &y[0, 0, 0, 0, 0], &scratch[0, 0], scratch.shape[1], tile, turned)
    run(<Task> forward_task[floating], &x[0, 0, 0, 0, 0], &c, tiles, <int> scratch.shape[0])


cdef void forward_task(const floating *x, const Forward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Geometry *g = c.g
    cdef bint turned = c.turned
    cdef Py_ssize_t first = task * c.tile, last = min(first + c.tile, g.batch * g.pixels)
    cdef Py_ssize_t filters = g.filters // g.groups, pixels = last - first
    cdef Py_ssize_t group, pixel
    cdef Py_ssize_t ldw = filters if turned else g.taps
    cdef const floating *w = <const floating *> c.w
    cdef const floating *bias = <const floating *> c.bias
    cdef floating *y = <floating *> c.y + first * g.filters
    cdef floating *col = <floating *> c.scratch + slot * c.column
    cdef floating beta = 0
    if bias != NULL:
        beta = 1
        for pixel in range(pixels):
            copy(bias, y + pixel * g.filters, g.filters)
    if is_pointwise(g):
        gemm(False, not turned, pixels, filters, g.taps, x + first * g.taps, g.taps, w, ldw, beta, y, g.filters)
        return
    if g.channels == 1:
        im2col_taps(x, col, g, first, last)
        gemm(True, not turned, pixels, filters, g.taps, col, pixels, w, ldw, beta, y, g.filters)
        return
    for group in range(g.groups):
        im2col_rows(x, col, g, group, first, last)
        gemm(
            False, not turned, pixels, filters, g.taps, col, g.taps, w + group * filters * g.taps, ldw, beta,
            y + group * filters, g.filters,
        )


cdef struct GradientWeights:
    const Geometry *g
    const void *dy
    void *partial
    void *scratch
    Py_ssize_t column, tile, chunks


@Kernel
def gradient_weights(
    const floating[:, :, :, :, ::1] x, const floating[:, :, :, :, ::1] dy, floating[:, :, ::1] partial,
    object window, Py_ssize_t groups, Py_ssize_t tile, floating[:, ::1] scratch,
):
    """partial[j] (k, width) = dy.T @ im2col(x) over the j-th chunk of tiles; their sum, in order, is dw."""
    cdef Geometry g = geometry_of((<object> x).shape, (<object> dy).shape, window, groups)
    cdef GradientWeights c = GradientWeights(
        &g, &dy[0, 0, 0, 0, 0], &partial[0, 0, 0], &scratch[0, 0], scratch.shape[1], tile, partial.shape[0]
    )
    run(<Task> weights_task[floating], &x[0, 0, 0, 0, 0], &c, c.chunks, <int> scratch.shape[0])


cdef void weights_task(const floating *x, const GradientWeights *c, Py_ssize_t chunk, int slot) noexcept nogil:
    cdef const Geometry *g = c.g
    cdef Py_ssize_t filters = g.filters // g.groups
    cdef Py_ssize_t total = g.batch * g.pixels, tiles = (total + c.tile - 1) // c.tile
    cdef Py_ssize_t index, group, first, last
    cdef const floating *dy = <const floating *> c.dy
    cdef floating *dw = <floating *> c.partial + chunk * g.filters * g.taps
    cdef floating *col = <floating *> c.scratch + slot * c.column
    cdef floating beta = 0
    for index in range(chunk * tiles // c.chunks, (chunk + 1) * tiles // c.chunks):
        first = index * c.tile
        last = min(first + c.tile, total)
        for group in range(g.groups):
            if is_pointwise(g):
                gemm(
                    True, False, filters, g.taps, last - first, dy + first * g.filters, g.filters,
                    x + first * g.taps, g.taps, beta, dw, g.taps,
                )
            elif g.channels == 1:
                im2col_taps(x, col, g, first, last)
                gemm(
                    True, True, filters, g.taps, last - first, dy + first * g.filters, g.filters,
                    col, last - first, beta, dw, g.taps,
                )
            else:
                im2col_rows(x, col, g, group, first, last)
                gemm(
                    True, False, filters, g.taps, last - first, dy + first * g.filters + group * filters, g.filters,
                    col, g.taps, beta, dw + group * filters * g.taps, g.taps,
                )
        beta = 1


cdef struct GradientInput:
    const Geometry *g
    const void *w
    void *dx
    void *scratch
    Py_ssize_t column, tile, images, bands
    int axis


@Kernel
def gradient_input(
    const floating[:, :, :, :, ::1] dy, const floating[:, ::1] w, floating[:, :, :, :, ::1] dx,
    object window, Py_ssize_t groups, Py_ssize_t tile, Py_ssize_t images, Py_ssize_t bands, int axis,
    floating[:, ::1] scratch,
):
    """dx = col2im(dy @ w). A task owns what it writes: `images` whole images, or one of `bands` bands of one image.

    A band is a run of input lines along `axis`, the first axis along which there is more than one output; the outputs
    at its edges are multiplied by both neighbours.
    """
    cdef Geometry g = geometry_of((<object> dx).shape, (<object> dy).shape, window, groups)
    cdef Py_ssize_t tasks = (g.batch + images - 1) // images * bands
    cdef GradientInput c = GradientInput(
        &g, &w[0, 0], &dx[0, 0, 0, 0, 0], &scratch[0, 0], scratch.shape[1], tile, images, bands, axis
    )
    run(<Task> input_task[floating], &dy[0, 0, 0, 0, 0], &c, tasks, <int> scratch.shape[0])


cdef void input_task(const floating *dy, const GradientInput *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Geometry *g = c.g
    cdef const floating *w = <const floating *> c.w
    cdef floating *dx = <floating *> c.dx
    cdef floating *col = <floating *> c.scratch + slot * c.column
    cdef int axis = c.axis
    cdef Py_ssize_t image = task // c.bands * c.images, last_image = min(image + c.images, g.batch)
    cdef Py_ssize_t band = task % c.bands
    cdef Py_ssize_t filters = g.filters // g.groups
    cdef Py_ssize_t line = g.pixels // g.out[0] // (g.out[1] if axis > 0 else 1) // (g.out[2] if axis > 1 else 1)
    cdef Py_ssize_t low[3]
    cdef Py_ssize_t high[3]
    cdef Py_ssize_t outer = 1, inner = g.channels  # lines of an image in front of `axis`, elements behind it
    cdef Py_ssize_t begin, end, first, last, group, index
    begin = image * g.pixels
    end = last_image * g.pixels
    for index in range(3):
        low[index] = 0
        high[index] = g.inp[index]
    low[axis] = band * g.inp[axis] // c.bands
    high[axis] = (band + 1) * g.inp[axis] // c.bands
    if c.bands > 1:  # one image: only the output lines that reach into the band
        first = low[axis] + g.before[axis] - (g.kernel[axis] - 1) * g.dilation[axis]
        first = 0 if first <= 0 else (first + g.stride[axis] - 1) // g.stride[axis]
        last = min((high[axis] - 1 + g.before[axis]) // g.stride[axis] + 1, g.out[axis])
        end = begin + last * line
        begin += first * line
    if is_pointwise(g):
        gemm(
            False, False, end - begin, g.taps, filters, dy + begin * filters, filters, w, g.taps,
            <floating> 0, dx + begin * g.taps, g.taps,
        )
        return
    for index in range(axis):
        outer *= g.inp[index]
    for index in range(axis + 1, 3):
        inner *= g.inp[index]
    for index in range(image * outer, last_image * outer):
        zero(dx + (index * g.inp[axis] + low[axis]) * inner, (high[axis] - low[axis]) * inner)
    first = begin
    while first < end:
        last = min(first + c.tile, end)
        for group in range(g.groups):
            gemm(
                False, False, last - first, g.taps, filters, dy + first * g.filters + group * filters, g.filters,
                w + group * filters * g.taps, g.taps, <floating> 0, col, g.taps,
            )
            col2im_rows(col, dx, g, group, first, last, low, high)
        first = last
