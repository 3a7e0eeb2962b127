"""Convolution in groups of a few channels: blocks of lanes (grouped.h), whose groups' channels are
copied into scratch first, a band at a time.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k). A band has some rows and
columns of one output plane. The outputs may be every `step`-th of y from `origin` on, as the phases of a gradient to
the input lie (fastconv.engine.phases).

A block's lanes are the channels of one array, `table` (blocks, 3) says from which one on, how many, and from which
channel of the other array on its records lie; `begin` and `order` how they lie there (grouped.h).
Weights are packed (blocks, taps, channels of a group in a record, vector), zeros in lanes without a channel.
"""

from libc.string cimport memset

from fastconv._ext.team cimport Task, run

cdef extern from "conv/grouped.h" nogil:
    ctypedef struct Picks:
        Py_ssize_t sources, each
        const int *begin

    ctypedef struct Line:
        Py_ssize_t count[2]
        Py_ssize_t x_step[2]
        Py_ssize_t w_step[2]
        Py_ssize_t taps, x_tap, w_tap, x_pixel, y_pixel
        int far

    ctypedef struct Lines:
        Py_ssize_t lines, x_line, dy_line, pixels, x_pixel, dy_pixel, x_tap, w_tap

    void fetch(const void *x, Py_ssize_t bytes)
    void fence()
    Py_ssize_t most_outputs(int bytes)
    void copy_records(
        int bytes, const float *x, const float *end, Py_ssize_t pitch, Py_ssize_t pixels, const Py_ssize_t *source,
        Py_ssize_t step, const int *order, Py_ssize_t blocks, int vectors, float *to, Py_ssize_t block)
    void outputs_of_line(
        int bytes, Py_ssize_t width, const float *x, const float *w, const Picks *picks, const float *start, float *y,
        Py_ssize_t pixels, Py_ssize_t lanes, const Line *line)
    void products_of_lines(
        int bytes, const float *x, const float *dy, const Picks *picks, float *dw, Py_ssize_t taps,
        const Lines *lines)

    enum:
        STREAMED

cdef enum:
    APART = 16  # floats between the blocks of a band: power-of-two steps would share few sets of the first cache

APART_FLOATS, STREAMED_BYTES = APART, STREAMED  # for fastconv.engine.grouped, which sizes scratch and aligns


cdef struct Geometry:
    Py_ssize_t channels, filters
    Py_ssize_t inp[3]
    Py_ssize_t out[3]       # outputs that are computed, along each axis
    Py_ssize_t kernel[3]
    Py_ssize_t stride[3]
    Py_ssize_t before[3]    # padding, or cropping where negative
    Py_ssize_t dilation[3]
    Py_ssize_t full[3]      # of y's memory
    Py_ssize_t origin[3]    # of the first output there
    Py_ssize_t step[3]      # between outputs there
    Py_ssize_t bands, row_bands, column_bands
    Py_ssize_t blocks, sources, each
    const Py_ssize_t *table
    const int *begin
    const int *order        # NULL: records lie as they are
    Py_ssize_t lanes        # of a vector
    int bytes, vectors      # of a vector; of a record
    bint prefetches         # x does not lie in the caches


cdef struct Band:
    Py_ssize_t image, plane, row, rows, column, columns  # of y
    Py_ssize_t first[2]     # taps of axis 0 that lie inside x: the first, and how many
    Py_ssize_t low          # row of x that is copied first
    Py_ssize_t height, width    # rows and columns of x that are copied, padding along the columns included


cdef Geometry geometry(
    tuple x_shape, tuple y_shape, object window, object outputs, object lanes, tuple cut, bint prefetches, int bytes
):
    """Valid as long as `lanes` is; outputs: a slice of y per spatial axis; cut: bands of rows and of columns."""
    cdef Geometry g
    cdef int axis
    cdef const Py_ssize_t[:, ::1] table = lanes.table
    cdef const int[:, ::1] begin = lanes.begin
    cdef const int[::1] order = lanes.order
    g.channels, g.filters = x_shape[4], y_shape[4]
    for axis in range(3):
        g.inp[axis] = x_shape[1 + axis]
        g.full[axis] = y_shape[1 + axis]
        g.origin[axis], _, g.step[axis] = outputs[axis].indices(y_shape[1 + axis])
        g.out[axis] = len(range(*outputs[axis].indices(y_shape[1 + axis])))
        g.kernel[axis] = window.kernel[axis]
        g.stride[axis] = window.stride[axis]
        g.before[axis] = window.padding[axis][0]
        g.dilation[axis] = window.dilation[axis]
    g.row_bands, g.column_bands = cut
    g.bands = y_shape[0] * g.out[0] * g.row_bands * g.column_bands
    g.blocks, g.sources, g.vectors = table.shape[0], lanes.sources, lanes.vectors
    g.each = (g.sources + g.vectors - 1) // g.vectors
    g.table, g.begin, g.order = &table[0, 0], &begin[0, 0], NULL if g.vectors == 1 else &order[0]
    g.bytes, g.lanes, g.prefetches = bytes, bytes // 4, prefetches
    return g


def pack(const float[:, :, :, :, :, :] w, float[:, :, :, ::1] packed, object lanes):
    """packed (blocks, taps, sources, vector) = w (groups, lanes of a group, r0, r1, r2, sources), any strides."""
    cdef const Py_ssize_t[:, ::1] table = lanes.table
    cdef Py_ssize_t step = w.strides[5] // <Py_ssize_t> sizeof(float), vector = packed.shape[3]
    cdef Py_ssize_t block, lane, number, r0, r1, r2, source
    cdef const float *values
    cdef float *out
    with nogil:
        for block in range(packed.shape[0]):
            for lane in range(vector):
                number = table[block, 0] + min(lane, table[block, 1] - 1)  # what empty lanes hold is not looked at
                out = &packed[block, 0, 0, lane]
                for r0 in range(w.shape[2]):
                    for r1 in range(w.shape[3]):
                        for r2 in range(w.shape[4]):
                            values = &w[number // w.shape[1], number % w.shape[1], r0, r1, r2, 0]
                            for source in range(w.shape[5]):
                                out[0] = values[source * step]
                                out += vector


def unpack(const float[:, :, :, :, ::1] partial, float[:, :, :, :] dw, object lanes):
    """dw (groups, lanes of a group, taps, sources), any strides = the sum over the chunks of `partial`, in order."""
    cdef const Py_ssize_t[:, ::1] table = lanes.table
    cdef Py_ssize_t vector = partial.shape[4], size = partial.shape[1] * partial.shape[2] * partial.shape[3] * vector
    cdef Py_ssize_t next_lane = dw.strides[1] // <Py_ssize_t> sizeof(float)
    cdef Py_ssize_t _, block, lane, count, group, place, tap, source
    cdef float sums[16]
    cdef const float *values
    cdef float *out
    with nogil:
        for block in range(partial.shape[1]):
            for tap in range(partial.shape[2]):
                for source in range(partial.shape[3]):
                    values = &partial[0, block, tap, source, 0]
                    for lane in range(vector):
                        sums[lane] = values[lane]
                    for _ in range(1, partial.shape[0]):
                        values += size
                        for lane in range(vector):
                            sums[lane] += values[lane]
                    lane, count = 0, table[block, 1]
                    while lane < count:  # group by group
                        group, place = (table[block, 0] + lane) // dw.shape[1], (table[block, 0] + lane) % dw.shape[1]
                        out = &dw[group, place, tap, source]
                        for lane in range(lane, min(count, lane + dw.shape[1] - place)):
                            out[0] = sums[lane]
                            out += next_lane
                        lane += 1


cdef inline Picks picks_of(const Geometry *g, Py_ssize_t block) noexcept nogil:
    cdef Picks picks
    picks.sources, picks.each, picks.begin = g.sources, g.each, g.begin + block * g.lanes
    return picks


# --- bands -----------------------------------------------------------------------------------------------------------


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return -((-a) // b) if a < 0 else (a + b - 1) // b


cdef inline Py_ssize_t clip(Py_ssize_t a, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    return max(low, min(a, high))


cdef inline void taps_inside(const Geometry *g, int axis, Py_ssize_t output, Py_ssize_t *taps) noexcept nogil:
    """The first tap of an output that lies inside x, and how many do."""
    cdef Py_ssize_t at = output * g.stride[axis] - g.before[axis]
    taps[0] = clip(ceil_div(-at, g.dilation[axis]), 0, g.kernel[axis])
    taps[1] = clip(ceil_div(g.inp[axis] - at, g.dilation[axis]), taps[0], g.kernel[axis]) - taps[0]


cdef Band band_at(const Geometry *g, Py_ssize_t number) noexcept nogil:
    cdef Band band
    cdef Py_ssize_t column_band = number % g.column_bands
    cdef Py_ssize_t row_band = number // g.column_bands % g.row_bands
    band.plane = number // (g.column_bands * g.row_bands) % g.out[0]
    band.image = number // (g.column_bands * g.row_bands * g.out[0])
    band.row = row_band * g.out[1] // g.row_bands
    band.rows = (row_band + 1) * g.out[1] // g.row_bands - band.row
    band.column = column_band * g.out[2] // g.column_bands
    band.columns = (column_band + 1) * g.out[2] // g.column_bands - band.column
    taps_inside(g, 0, band.plane, band.first)
    band.low = clip(band.row * g.stride[1] - g.before[1], 0, g.inp[1])
    band.height = clip(
        (band.row + band.rows - 1) * g.stride[1] - g.before[1] + (g.kernel[1] - 1) * g.dilation[1] + 1, band.low,
        g.inp[1],
    ) - band.low
    band.width = (band.columns - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
    return band


cdef void copy_inputs(
    const float *x, const float *end, const Geometry *g, const Band *band, const Py_ssize_t *source, const int *order,
    Py_ssize_t blocks, int vectors, float *out, Py_ssize_t block,
) noexcept nogil:
    """Records of x that a band sees, zeros beside them: (taps of axis 0, rows, columns), `block` apart for a block."""
    cdef Py_ssize_t record = vectors * g.lanes
    cdef Py_ssize_t left = band.column * g.stride[2] - g.before[2]  # of x
    cdef Py_ssize_t head = clip(-left, 0, band.width)
    cdef Py_ssize_t stop = clip(g.inp[2] - left, head, band.width)
    cdef Py_ssize_t plane = band.plane * g.stride[0] - g.before[0] + band.first[0] * g.dilation[0]
    cdef Py_ssize_t tap, row, b
    for tap in range(band.first[1]):
        for row in range(band.low, band.low + band.height):
            for b in range(blocks):
                memset(out + b * block, 0, head * record * sizeof(float))
                memset(out + b * block + stop * record, 0, (band.width - stop) * record * sizeof(float))
            if stop > head:
                copy_records(
                    g.bytes,
                    x + (((band.image * g.inp[0] + plane + tap * g.dilation[0]) * g.inp[1] + row) * g.inp[2]
                         + left + head) * g.channels,
                    end, g.channels, stop - head, source, 3, order, blocks, vectors, out + head * record, block,
                )
            out += band.width * record


cdef inline const float *next_inputs(
    const float *x, const float *end, const Geometry *g, const Band *band, Py_ssize_t *elements
) noexcept nogil:
    """The rows of x that follow those of a band, as many as the next band adds, if x does not lie in the caches."""
    cdef Py_ssize_t tap = band.first[0] + band.first[1] - 1
    cdef Py_ssize_t plane = band.plane * g.stride[0] - g.before[0] + tap * g.dilation[0]
    cdef Py_ssize_t size = g.inp[2] * g.channels
    cdef const float *soon = x + ((band.image * g.inp[0] + plane) * g.inp[1] + band.low + band.height) * size
    elements[0] = 0
    if g.prefetches and band.first[1]:
        elements[0] = min(band.rows * g.stride[1] * size, end - soon)
    return soon


# --- y ---------------------------------------------------------------------------------------------------------------


cdef struct Forward:
    const Geometry *g
    const float *end        # of x
    const float *packed
    const float *start
    float *y
    float *scratch
    Py_ssize_t pitch        # of scratch
    Py_ssize_t splits
    bint far


def forward(
    const float[:, :, :, :, ::1] x, const float[:, :, :, ::1] packed, const float[:, ::1] start,
    float[:, :, :, :, ::1] y, object window, object outputs, object lanes, tuple cut, Py_ssize_t splits,
    float[:, ::1] scratch, bint prefetches, bint far, int bytes,
):
    """The `outputs` of y = start + conv(x, w).

    packed, start: w and a bias by `pack`; splits: runs of blocks that tasks of their own take; scratch: a row a thread;
    prefetches: x does not lie in the caches; far: y does not fit there, and its memory is whole vectors.
    """
    cdef Geometry g = geometry((<object> x).shape, (<object> y).shape, window, outputs, lanes, cut, prefetches, bytes)
    cdef const float *end = &x[0, 0, 0, 0, 0] + x.shape[0] * g.inp[0] * g.inp[1] * g.inp[2] * g.channels
    cdef Forward c = Forward(
        &g, end, &packed[0, 0, 0, 0], &start[0, 0], &y[0, 0, 0, 0, 0], &scratch[0, 0], scratch.shape[1], splits, far
    )
    with nogil:
        run(<Task> forward_task, &x[0, 0, 0, 0, 0], &c, g.bands * splits, <int> scratch.shape[0])


cdef void forward_task(const float *x, const Forward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Geometry *g = c.g
    cdef Band band = band_at(g, task // c.splits)
    cdef Py_ssize_t first = task % c.splits * g.blocks // c.splits
    cdef Py_ssize_t last = (task % c.splits + 1) * g.blocks // c.splits
    cdef float *scratch = c.scratch + slot * c.pitch
    cdef Py_ssize_t record = g.vectors * g.lanes
    cdef Py_ssize_t row = band.width * record
    cdef Py_ssize_t block = band.first[1] * band.height * row + APART
    cdef Py_ssize_t tap_size = g.sources * g.lanes
    cdef Py_ssize_t w_size = g.kernel[0] * g.kernel[1] * g.kernel[2] * tap_size
    cdef Py_ssize_t tiles = (band.columns - 1) // most_outputs(g.bytes) + 1
    cdef Py_ssize_t width = (band.columns - 1) // tiles + 1
    cdef Py_ssize_t b, r, from_y, at, share = 0
    cdef Py_ssize_t taps[2]
    cdef const float *soon
    cdef Picks picks
    cdef Line line
    line.count[0] = band.first[1]
    line.x_step[0], line.x_step[1] = band.height * row, g.dilation[1] * row
    line.w_step[0], line.w_step[1] = g.kernel[1] * g.kernel[2] * tap_size, g.kernel[2] * tap_size
    line.taps, line.x_tap, line.w_tap = g.kernel[2], g.dilation[2] * record, tap_size
    line.far = c.far
    line.x_pixel, line.y_pixel = g.stride[2] * record, g.step[2] * g.filters
    copy_inputs(x, c.end, g, &band, g.table + 3 * first + 2, g.order, last - first, g.vectors, scratch, block)
    soon = next_inputs(x, c.end, g, &band, &share)
    share //= band.rows * g.blocks
    soon += first * band.rows * share
    for b in range(first, last):
        picks = picks_of(g, b)
        for r in range(band.row, band.row + band.rows):
            taps_inside(g, 1, r, taps)
            fetch(soon, share * sizeof(float))
            soon += share
            line.count[1] = taps[1]
            at = r * g.stride[1] - g.before[1] + taps[0] * g.dilation[1] - band.low if taps[1] else 0
            from_y = (
                ((band.image * g.full[0] + g.origin[0] + band.plane * g.step[0]) * g.full[1] + g.origin[1]
                 + r * g.step[1]) * g.full[2] + g.origin[2] + band.column * g.step[2]
            ) * g.filters
            outputs_of_line(
                g.bytes, width, scratch + (b - first) * block + at * row,
                c.packed + b * w_size + band.first[0] * line.w_step[0] + taps[0] * line.w_step[1],
                &picks, c.start + b * g.lanes, c.y + from_y + g.table[3 * b], band.columns,
                g.table[3 * b + 1], &line,
            )
    if c.far:
        fence()


# --- dw --------------------------------------------------------------------------------------------------------------


cdef struct GradientWeights:
    const Geometry *g
    const float *x_end
    const float *dy
    const float *dy_end
    float *partial
    float *scratch
    Py_ssize_t pitch        # of scratch
    Py_ssize_t chunks, splits


def gradient_weights(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy, float[:, :, :, :, ::1] partial, object window,
    object lanes, tuple cut, Py_ssize_t splits, float[:, ::1] scratch, bint prefetches, int bytes,
):
    """partial[j] = the gradient to the packed weights over the j-th run of bands (`unpack`); the lanes are x's."""
    cdef tuple everything = (slice(None),) * 3
    cdef Geometry g = geometry(
        (<object> x).shape, (<object> dy).shape, window, everything, lanes, cut, prefetches, bytes)
    cdef const float *x_end = &x[0, 0, 0, 0, 0] + x.shape[0] * g.inp[0] * g.inp[1] * g.inp[2] * g.channels
    cdef const float *dy_end = &dy[0, 0, 0, 0, 0] + dy.shape[0] * g.out[0] * g.out[1] * g.out[2] * g.filters
    cdef GradientWeights c = GradientWeights(
        &g, x_end, &dy[0, 0, 0, 0, 0], dy_end, &partial[0, 0, 0, 0, 0], &scratch[0, 0], scratch.shape[1],
        partial.shape[0], splits,
    )
    with nogil:
        run(<Task> gradient_weights_task, &x[0, 0, 0, 0, 0], &c, c.chunks * splits, <int> scratch.shape[0])


cdef void gradient_weights_task(const float *x, const GradientWeights *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Geometry *g = c.g
    cdef Py_ssize_t chunk = task // c.splits
    cdef Py_ssize_t first = task % c.splits * g.blocks // c.splits
    cdef Py_ssize_t last = (task % c.splits + 1) * g.blocks // c.splits
    cdef float *scratch = c.scratch + slot * c.pitch
    cdef Py_ssize_t record = g.vectors * g.lanes
    cdef Py_ssize_t tap_size = g.sources * g.lanes
    cdef Py_ssize_t w_size = g.kernel[0] * g.kernel[1] * g.kernel[2] * tap_size
    cdef float *partial = c.partial + chunk * g.blocks * w_size
    cdef Py_ssize_t number, b, r, r0, r1, low, high, row, block, dy_row, dy_block, at, share, dy_share
    cdef float *values
    cdef const float *soon
    cdef const float *dy_soon
    cdef Band band
    cdef Picks picks
    cdef Lines lines
    memset(partial + first * w_size, 0, (last - first) * w_size * sizeof(float))
    for number in range(chunk * g.bands // c.chunks, (chunk + 1) * g.bands // c.chunks):
        band = band_at(g, number)
        row = band.width * g.lanes
        block = band.first[1] * band.height * row + APART
        dy_row = band.columns * record
        dy_block = band.rows * dy_row + APART
        values = scratch + (last - first) * block
        copy_inputs(x, c.x_end, g, &band, g.table + 3 * first, NULL, last - first, 1, scratch, block)
        at = ((band.image * g.out[0] + band.plane) * g.out[1] + band.row) * g.out[2] + band.column
        dy_soon = c.dy + at * g.filters
        for r in range(band.rows):
            copy_records(
                g.bytes, dy_soon + r * g.out[2] * g.filters, c.dy_end, g.filters, band.columns,
                g.table + 3 * first + 2, 3, g.order, last - first, g.vectors, values + r * dy_row, dy_block,
            )
        soon = next_inputs(x, c.x_end, g, &band, &share)
        dy_soon += band.rows * g.out[2] * g.filters
        dy_share = min(band.rows * g.out[2] * g.filters, c.dy_end - dy_soon) if g.prefetches else 0
        share //= g.blocks * g.kernel[1]
        dy_share //= g.blocks * g.kernel[1]
        soon += first * g.kernel[1] * share
        dy_soon += first * g.kernel[1] * dy_share
        lines.x_line, lines.dy_line = g.stride[1] * row, dy_row
        lines.pixels, lines.x_pixel, lines.dy_pixel = band.columns, g.stride[2] * g.lanes, record
        lines.x_tap, lines.w_tap = g.dilation[2] * g.lanes, tap_size
        for b in range(last - first):
            picks = picks_of(g, first + b)
            for r0 in range(band.first[1]):
                for r1 in range(g.kernel[1]):
                    if r0 == 0:
                        fetch(soon, share * sizeof(float))
                        fetch(dy_soon, dy_share * sizeof(float))
                        soon += share
                        dy_soon += dy_share
                    at = r1 * g.dilation[1] - g.before[1]  # of output 0's row
                    low = clip(ceil_div(-at, g.stride[1]), band.row, band.row + band.rows)
                    high = clip(ceil_div(g.inp[1] - at, g.stride[1]), low, band.row + band.rows)
                    lines.lines = high - low
                    if low < high:
                        products_of_lines(
                            g.bytes,
                            scratch + b * block + (r0 * band.height + at + low * g.stride[1] - band.low) * row,
                            values + b * dy_block + (low - band.row) * dy_row, &picks,
                            partial + (first + b) * w_size
                            + ((band.first[0] + r0) * g.kernel[1] + r1) * g.kernel[2] * tap_size,
                            g.kernel[2], &lines,
                        )
