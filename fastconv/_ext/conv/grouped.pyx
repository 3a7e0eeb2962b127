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

from fastconv._ext.geometry cimport Band, Geometry, band_at, banded, bands_of, ceil_div, clip, first_pixel
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

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

# For fastconv.engine.grouped, which sizes scratch and aligns.
APART_FLOATS, STREAMED_BYTES, MOST_OUTPUTS = APART, STREAMED, most_outputs(64)


cdef struct Plan:
    Geometry g
    Py_ssize_t blocks, sources, each
    const Py_ssize_t *table
    const int *begin
    const int *order        # NULL: records lie as they are
    Py_ssize_t lanes        # of a vector
    int bytes, vectors      # of a vector; of a record
    bint prefetches         # x does not lie in the caches


cdef struct Part:           # of x that a band sees
    Band band
    Py_ssize_t first[2]     # taps of axis 0 that lie inside x: the first, and how many
    Py_ssize_t low, height  # rows of x that are copied: padding along the columns included, along the rows not


cdef Plan geometry(
    tuple x_shape, tuple y_shape, object window, object outputs, object lanes, tuple cut, bint prefetches, int bytes
):
    """Valid as long as `lanes` is; outputs: a slice of y per spatial axis; cut: bands of rows and of columns."""
    cdef Plan p
    cdef const Py_ssize_t[:, ::1] table = lanes.table
    cdef const int[:, ::1] begin = lanes.begin
    cdef const int[::1] order = lanes.order
    p.g = banded(x_shape, y_shape, window, 1, outputs, (1, *cut))
    p.blocks, p.sources, p.vectors = table.shape[0], lanes.sources, lanes.vectors
    p.each = (p.sources + p.vectors - 1) // p.vectors
    p.table, p.begin, p.order = &table[0, 0], &begin[0, 0], NULL if p.vectors == 1 else &order[0]
    p.bytes, p.lanes, p.prefetches = bytes, bytes // 4, prefetches
    return p


@Kernel
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


@Kernel
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


cdef inline Picks picks_of(const Plan *p, Py_ssize_t block) noexcept nogil:
    cdef Picks picks
    picks.sources, picks.each, picks.begin = p.sources, p.each, p.begin + block * p.lanes
    return picks


# --- bands -----------------------------------------------------------------------------------------------------------


cdef inline void taps_inside(const Plan *p, int axis, Py_ssize_t output, Py_ssize_t *taps) noexcept nogil:
    """The first tap of an output that lies inside x, and how many do."""
    cdef Py_ssize_t at = output * p.g.stride[axis] - p.g.before[axis]
    taps[0] = clip(ceil_div(-at, p.g.dilation[axis]), 0, p.g.kernel[axis])
    taps[1] = clip(ceil_div(p.g.inp[axis] - at, p.g.dilation[axis]), taps[0], p.g.kernel[axis]) - taps[0]


cdef Part part_at(const Plan *p, Py_ssize_t number) noexcept nogil:
    cdef Part part
    part.band = band_at(&p.g, number)
    taps_inside(p, 0, part.band.plane, part.first)
    part.low = clip(part.band.at[1], 0, p.g.inp[1])
    part.height = clip(part.band.at[1] + part.band.height, part.low, p.g.inp[1]) - part.low
    return part


cdef void copy_inputs(
    const float *x, const float *end, const Plan *p, const Part *part, const Py_ssize_t *source, const int *order,
    Py_ssize_t blocks, int vectors, float *out, Py_ssize_t block,
) noexcept nogil:
    """Records of x that a band sees, zeros beside them: (taps of axis 0, rows, columns), `block` apart for a block."""
    cdef Py_ssize_t record = vectors * p.lanes
    cdef Py_ssize_t head = clip(-part.band.at[2], 0, part.band.width)
    cdef Py_ssize_t stop = clip(p.g.inp[2] - part.band.at[2], head, part.band.width)
    cdef Py_ssize_t plane = part.band.at[0] + part.first[0] * p.g.dilation[0]
    cdef Py_ssize_t tap, row, b
    for tap in range(part.first[1]):
        for row in range(part.low, part.low + part.height):
            for b in range(blocks):
                memset(out + b * block, 0, head * record * sizeof(float))
                memset(out + b * block + stop * record, 0, (part.band.width - stop) * record * sizeof(float))
            if stop > head:
                copy_records(
                    p.bytes,
                    x + (
                        ((part.band.image * p.g.inp[0] + plane + tap * p.g.dilation[0]) * p.g.inp[1] + row)
                        * p.g.inp[2] + part.band.at[2] + head
                    ) * p.g.channels,
                    end, p.g.channels, stop - head, source, 3, order, blocks, vectors, out + head * record, block,
                )
            out += part.band.width * record


cdef inline const float *next_inputs(
    const float *x, const float *end, const Plan *p, const Part *part, Py_ssize_t *elements
) noexcept nogil:
    """The rows of x that follow those of a band, as many as the next band adds, if x does not lie in the caches."""
    cdef Py_ssize_t plane = part.band.at[0] + (part.first[0] + part.first[1] - 1) * p.g.dilation[0]
    cdef Py_ssize_t size = p.g.inp[2] * p.g.channels
    cdef const float *soon = x + ((part.band.image * p.g.inp[0] + plane) * p.g.inp[1] + part.low + part.height) * size
    elements[0] = 0
    if p.prefetches and part.first[1]:
        elements[0] = min(part.band.rows * p.g.stride[1] * size, end - soon)
    return soon


# --- y ---------------------------------------------------------------------------------------------------------------


cdef struct Forward:
    const Plan *p
    const float *end        # of x
    const float *packed
    const float *start
    float *y
    float *scratch
    Py_ssize_t pitch        # of scratch
    Py_ssize_t splits
    bint far


@Kernel
def forward(
    const float[:, :, :, :, ::1] x, const float[:, :, :, ::1] packed, const float[:, ::1] start,
    float[:, :, :, :, ::1] y, object window, object outputs, object lanes, tuple cut, Py_ssize_t splits,
    float[:, ::1] scratch, bint prefetches, bint far, int bytes,
):
    """The `outputs` of y = start + conv(x, w).

    packed, start: w and a bias by `pack`; splits: runs of blocks that tasks of their own take; scratch: a row a thread;
    prefetches: x does not lie in the caches; far: y does not fit there, and its memory is whole vectors.
    """
    cdef Plan p = geometry((<object> x).shape, (<object> y).shape, window, outputs, lanes, cut, prefetches, bytes)
    cdef const float *end = &x[0, 0, 0, 0, 0] + x.shape[0] * p.g.inp[0] * p.g.inp[1] * p.g.inp[2] * p.g.channels
    cdef Forward c = Forward(
        &p, end, &packed[0, 0, 0, 0], &start[0, 0], &y[0, 0, 0, 0, 0], &scratch[0, 0], scratch.shape[1], splits, far
    )
    run(<Task> forward_task, &x[0, 0, 0, 0, 0], &c, bands_of(&p.g) * splits, <int> scratch.shape[0])


cdef void forward_task(const float *x, const Forward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Plan *p = c.p
    cdef Part part = part_at(p, task // c.splits)
    cdef Py_ssize_t first = task % c.splits * p.blocks // c.splits
    cdef Py_ssize_t last = (task % c.splits + 1) * p.blocks // c.splits
    cdef float *scratch = c.scratch + slot * c.pitch
    cdef Py_ssize_t record = p.vectors * p.lanes
    cdef Py_ssize_t row = part.band.width * record
    cdef Py_ssize_t block = part.first[1] * part.height * row + APART
    cdef Py_ssize_t tap_size = p.sources * p.lanes
    cdef Py_ssize_t w_size = p.g.kernel[0] * p.g.kernel[1] * p.g.kernel[2] * tap_size
    cdef Py_ssize_t tiles = (part.band.columns - 1) // most_outputs(p.bytes) + 1
    cdef Py_ssize_t width = (part.band.columns - 1) // tiles + 1
    cdef Py_ssize_t b, r, from_y, at, share = 0
    cdef Py_ssize_t taps[2]
    cdef const float *soon
    cdef Picks picks
    cdef Line line
    line.count[0] = part.first[1]
    line.x_step[0], line.x_step[1] = part.height * row, p.g.dilation[1] * row
    line.w_step[0], line.w_step[1] = p.g.kernel[1] * p.g.kernel[2] * tap_size, p.g.kernel[2] * tap_size
    line.taps, line.x_tap, line.w_tap = p.g.kernel[2], p.g.dilation[2] * record, tap_size
    line.far = c.far
    line.x_pixel, line.y_pixel = p.g.stride[2] * record, p.g.step[2] * p.g.filters
    copy_inputs(x, c.end, p, &part, p.table + 3 * first + 2, p.order, last - first, p.vectors, scratch, block)
    soon = next_inputs(x, c.end, p, &part, &share)
    share //= part.band.rows * p.blocks
    soon += first * part.band.rows * share
    for b in range(first, last):
        picks = picks_of(p, b)
        for r in range(part.band.row, part.band.row + part.band.rows):
            taps_inside(p, 1, r, taps)
            fetch(soon, share * sizeof(float))
            soon += share
            line.count[1] = taps[1]
            at = r * p.g.stride[1] - p.g.before[1] + taps[0] * p.g.dilation[1] - part.low if taps[1] else 0
            from_y = (
                ((part.band.image * p.g.full[0] + p.g.origin[0] + part.band.plane * p.g.step[0]) * p.g.full[1]
                 + p.g.origin[1] + r * p.g.step[1]) * p.g.full[2] + p.g.origin[2] + part.band.column * p.g.step[2]
            ) * p.g.filters
            outputs_of_line(
                p.bytes, width, scratch + (b - first) * block + at * row,
                c.packed + b * w_size + part.first[0] * line.w_step[0] + taps[0] * line.w_step[1],
                &picks, c.start + b * p.lanes, c.y + from_y + p.table[3 * b], part.band.columns,
                p.table[3 * b + 1], &line,
            )
    if c.far:
        fence()


# --- dw --------------------------------------------------------------------------------------------------------------


cdef struct GradientWeights:
    const Plan *p
    const float *x_end
    const float *dy
    const float *dy_end
    float *partial
    float *scratch
    Py_ssize_t pitch        # of scratch
    Py_ssize_t chunks, splits


@Kernel
def gradient_weights(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy, float[:, :, :, :, ::1] partial, object window,
    object lanes, tuple cut, Py_ssize_t splits, float[:, ::1] scratch, bint prefetches, int bytes,
):
    """partial[j] = the gradient to the packed weights over the j-th run of bands (`unpack`); the lanes are x's."""
    cdef Plan p = geometry((<object> x).shape, (<object> dy).shape, window, None, lanes, cut, prefetches, bytes)
    cdef const float *x_end = &x[0, 0, 0, 0, 0] + x.shape[0] * p.g.inp[0] * p.g.inp[1] * p.g.inp[2] * p.g.channels
    cdef const float *dy_end = &dy[0, 0, 0, 0, 0] + dy.shape[0] * p.g.out[0] * p.g.out[1] * p.g.out[2] * p.g.filters
    cdef GradientWeights c = GradientWeights(
        &p, x_end, &dy[0, 0, 0, 0, 0], dy_end, &partial[0, 0, 0, 0, 0], &scratch[0, 0], scratch.shape[1],
        partial.shape[0], splits,
    )
    run(<Task> gradient_weights_task, &x[0, 0, 0, 0, 0], &c, c.chunks * splits, <int> scratch.shape[0])


cdef void gradient_weights_task(const float *x, const GradientWeights *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Plan *p = c.p
    cdef Py_ssize_t chunk = task // c.splits
    cdef Py_ssize_t first = task % c.splits * p.blocks // c.splits
    cdef Py_ssize_t last = (task % c.splits + 1) * p.blocks // c.splits
    cdef float *scratch = c.scratch + slot * c.pitch
    cdef Py_ssize_t record = p.vectors * p.lanes
    cdef Py_ssize_t tap_size = p.sources * p.lanes
    cdef Py_ssize_t w_size = p.g.kernel[0] * p.g.kernel[1] * p.g.kernel[2] * tap_size
    cdef float *partial = c.partial + chunk * p.blocks * w_size
    cdef Py_ssize_t number, b, r, r0, r1, low, high, row, block, dy_row, dy_block, at, share, dy_share
    cdef float *values
    cdef const float *soon
    cdef const float *dy_soon
    cdef Part part
    cdef Picks picks
    cdef Lines lines
    memset(partial + first * w_size, 0, (last - first) * w_size * sizeof(float))
    for number in range(chunk * bands_of(&p.g) // c.chunks, (chunk + 1) * bands_of(&p.g) // c.chunks):
        part = part_at(p, number)
        row = part.band.width * p.lanes
        block = part.first[1] * part.height * row + APART
        dy_row = part.band.columns * record
        dy_block = part.band.rows * dy_row + APART
        values = scratch + (last - first) * block
        copy_inputs(x, c.x_end, p, &part, p.table + 3 * first, NULL, last - first, 1, scratch, block)
        at = first_pixel(&p.g, &part.band)
        dy_soon = c.dy + at * p.g.filters
        for r in range(part.band.rows):
            copy_records(
                p.bytes, dy_soon + r * p.g.out[2] * p.g.filters, c.dy_end, p.g.filters, part.band.columns,
                p.table + 3 * first + 2, 3, p.order, last - first, p.vectors, values + r * dy_row, dy_block,
            )
        soon = next_inputs(x, c.x_end, p, &part, &share)
        dy_soon += part.band.rows * p.g.out[2] * p.g.filters
        dy_share = min(part.band.rows * p.g.out[2] * p.g.filters, c.dy_end - dy_soon) if p.prefetches else 0
        share //= p.blocks * p.g.kernel[1]
        dy_share //= p.blocks * p.g.kernel[1]
        soon += first * p.g.kernel[1] * share
        dy_soon += first * p.g.kernel[1] * dy_share
        lines.x_line, lines.dy_line = p.g.stride[1] * row, dy_row
        lines.pixels, lines.x_pixel, lines.dy_pixel = part.band.columns, p.g.stride[2] * p.lanes, record
        lines.x_tap, lines.w_tap = p.g.dilation[2] * p.lanes, tap_size
        for b in range(last - first):
            picks = picks_of(p, first + b)
            for r0 in range(part.first[1]):
                for r1 in range(p.g.kernel[1]):
                    if r0 == 0:
                        fetch(soon, share * sizeof(float))
                        fetch(dy_soon, dy_share * sizeof(float))
                        soon += share
                        dy_soon += dy_share
                    at = r1 * p.g.dilation[1] - p.g.before[1]  # of output 0's row
                    low = clip(ceil_div(-at, p.g.stride[1]), part.band.row, part.band.row + part.band.rows)
                    high = clip(ceil_div(p.g.inp[1] - at, p.g.stride[1]), low, part.band.row + part.band.rows)
                    lines.lines = high - low
                    if low < high:
                        products_of_lines(
                            p.bytes,
                            scratch + b * block + (r0 * part.height + at + low * p.g.stride[1] - part.low) * row,
                            values + b * dy_block + (low - part.band.row) * dy_row, &picks,
                            partial + (first + b) * w_size
                            + ((part.first[0] + r0) * p.g.kernel[1] + r1) * p.g.kernel[2] * tap_size,
                            p.g.kernel[2], &lines,
                        )
