"""The transposed convolution with few channels, as that of a gradient to the input: planes (planar.h), whose lanes are
the columns of a row.

Arrays are channels-last with three spatial axes: y (n, o0, o1, o2, k) is read, x (n, i0, i1, i2, c) is written. The
columns of y are multiplied with all taps of a window's row: their sums run over the filters and the rows of the window,
and those that belong to a column of x are then added. Where the sums have few terms, each column of x is summed at once
instead, from columns of y that are shifted by its taps ("shifted").

A line is a row, or a part of one, of some images, one behind the other with zeros between, so that no window reaches
from image to image. A task has some images, and bands of the axes of x.
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memset

from fastconv._ext.geometry cimport Geometry, ceil_div, geometry_of
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "conv/planar.h" nogil:
    Py_ssize_t most_sums(int bytes)
    Py_ssize_t most_vectors(int bytes, Py_ssize_t sums)
    void tile_sums(
        int bytes, Py_ssize_t sums, Py_ssize_t vectors, const float *x, const Py_ssize_t *at, Py_ssize_t runs,
        Py_ssize_t length, Py_ssize_t pitch, const float *w, const Py_ssize_t *taps, Py_ssize_t step,
        const float *start, float *y, Py_ssize_t line, const float *next)
    void to_planes(
        int bytes, const float *x, const Py_ssize_t *at, const float *zeros, Py_ssize_t channels, Py_ssize_t count,
        float *planes)
    void clear_lines(int bytes, float *x, Py_ssize_t line, Py_ssize_t lines, Py_ssize_t count)
    void add_lines(
        int bytes, const float *x, const Py_ssize_t *at, Py_ssize_t terms, float start, Py_ssize_t count, float *y)
    void from_planes(
        int bytes, const float *planes, Py_ssize_t line, Py_ssize_t channels, Py_ssize_t count, float *pixels)

cdef enum:
    LINE = 16  # floats of a cache line


cdef struct Plan:
    Geometry g
    bint shifted
    Py_ssize_t images       # of a line
    Py_ssize_t bands[3]     # that each axis of x is cut into
    Py_ssize_t pitch        # columns from image to image of a line
    Py_ssize_t left, ahead  # columns of y that windows reach before and beyond those of x
    Py_ssize_t planes, rows     # of y that are kept at a time
    Py_ssize_t sums         # of a column
    Py_ssize_t tiles        # that they are cut into
    Py_ssize_t lanes        # of a vector
    Py_ssize_t vectors      # of columns in a tile, at most
    Py_ssize_t reach        # columns that a tile reads beyond its own
    Py_ssize_t band_rows    # at most
    Py_ssize_t lead         # columns of a line of sums before its first image
    Py_ssize_t line, target     # columns of a line of sums, and of x, room for whole vectors included
    Py_ssize_t *output[2]   # of an index of x and a tap of an axis: the index of y whose window it is there, or -1
    Py_ssize_t *place       # of a row of y: where it lies among those that are kept
    Py_ssize_t *shift       # of a tap of a row: it sends column q + shift of y to column stride * q + phase of x
    Py_ssize_t *phase


cdef inline Py_ssize_t whole(Py_ssize_t count, Py_ssize_t unit) noexcept nogil:
    return ceil_div(count, unit) * unit


cdef inline Py_ssize_t shift_of(const Plan *p, Py_ssize_t tap, Py_ssize_t *phase) noexcept nogil:
    """A tap's shift, and its phase."""
    cdef Py_ssize_t at = tap * p.g.dilation[2] - p.g.before[2]
    phase[0] = (at % p.g.stride[2] + p.g.stride[2]) % p.g.stride[2]
    return (phase[0] - at) // p.g.stride[2]


def geometry(tuple y_shape, tuple x_shape, object window, bint shifted, tuple cut, int widest):
    """What the other functions take, for a y that is read, an x that is written and a window.

    shifted: columns of x are summed at once; cut: images of a line, bands of each axis, columns from image to image.
    """
    cdef Plan p
    cdef Py_ssize_t tap, phase
    p.g, p.shifted = geometry_of(x_shape, y_shape, window, 1), shifted
    p.images, p.bands[0], p.bands[1], p.bands[2], p.pitch = cut
    p.left, p.ahead = 0, 0
    for tap in range(p.g.kernel[2]):
        p.left = max(p.left, -shift_of(&p, tap, &phase))
        p.ahead = max(p.ahead, shift_of(&p, tap, &phase))
    p.planes = (p.g.kernel[0] - 1) * p.g.dilation[0] // p.g.stride[0] + 1
    p.rows = (p.g.kernel[1] - 1) * p.g.dilation[1] // p.g.stride[1] + 1
    p.sums = p.g.kernel[0] * (1 if shifted else p.g.kernel[2]) * p.g.channels
    p.tiles = (p.sums + most_sums(widest) - 1) // most_sums(widest)
    p.lanes = widest // 4
    p.vectors = most_vectors(widest, (p.sums + p.tiles - 1) // p.tiles)
    p.reach = whole(p.left + p.ahead, p.lanes) if shifted else 0
    p.band_rows = (p.g.inp[1] + p.bands[1] - 1) // p.bands[1]
    p.target = whole(p.images * p.pitch, p.lanes)
    p.lead = whole(p.left, p.lanes)
    p.line = p.lead + whole(p.target + p.ahead, p.lanes) + p.lanes
    return (<const char *> &p)[:sizeof(Plan)]


cdef inline Py_ssize_t zeros_of(const Plan *p) noexcept nogil:
    return whole(max(p.g.filters, p.sums), LINE)


cdef inline Py_ssize_t most_runs(const Plan *p) noexcept nogil:
    return max(p.g.kernel[0], p.g.kernel[1]) * p.g.kernel[2]


def room(bytes geometry):
    """(entries of the index, elements of a thread's scratch, entries of its tables)."""
    cdef const Plan *p = <const Plan *> <const char *> geometry
    return (
        p.g.inp[0] * p.g.kernel[0] + p.g.inp[1] * p.g.kernel[1] + p.g.out[1] + 2 * p.g.kernel[2],
        LINE + zeros_of(p) + p.rows * p.g.filters * (p.vectors * p.lanes + p.reach)
        + p.planes * p.band_rows * p.sums * p.line + p.g.stride[2] * p.g.channels * p.target,
        p.line + p.rows + p.planes + 2 * most_runs(p),
    )


cdef Plan opened(bytes geometry, Py_ssize_t *index) noexcept:
    """The geometry with its tables."""
    cdef Plan p = (<const Plan *> <const char *> geometry)[0]
    p.output[0] = index
    p.output[1] = p.output[0] + p.g.inp[0] * p.g.kernel[0]
    p.place = p.output[1] + p.g.inp[1] * p.g.kernel[1]
    p.shift = p.place + p.g.out[1]
    p.phase = p.shift + p.g.kernel[2]
    return p


def fill_index(bytes geometry, Py_ssize_t[::1] index):
    """The tables that all tasks read."""
    cdef Plan p = opened(geometry, &index[0])
    cdef Py_ssize_t i, tap, at
    cdef int axis
    for axis in range(2):
        for i in range(p.g.inp[axis]):
            for tap in range(p.g.kernel[axis]):
                at = i + p.g.before[axis] - tap * p.g.dilation[axis]
                if at < 0 or at % p.g.stride[axis] or at // p.g.stride[axis] >= p.g.out[axis]:
                    at = -p.g.stride[axis]
                p.output[axis][i * p.g.kernel[axis] + tap] = at // p.g.stride[axis]
    for i in range(p.g.out[1]):
        p.place[i] = i % p.rows
    for tap in range(p.g.kernel[2]):
        p.shift[tap] = shift_of(&p, tap, p.phase + tap)


cdef struct TaskState:
    Py_ssize_t image, images
    Py_ssize_t first[3]     # of x; along the last axis of those `stride` apart
    Py_ssize_t stop[3]
    Py_ssize_t begin, end   # columns of a line that sums are computed of
    const float *zeros      # a pixel of y outside, or as many sums
    float *rows             # of y, as planes: those of one tile's columns
    float *sums             # (planes, rows of x, sums, line)
    float *target           # (phases, channels, target)
    Py_ssize_t *pixels      # of the columns that are read: where they lie in a row of y, -1 for zeros
    Py_ssize_t *row         # of y, that lies in each place of `rows`
    Py_ssize_t *plane       # of y, whose sums lie in each place of `sums`
    Py_ssize_t *at
    Py_ssize_t *taps


cdef struct Transposed:
    const float *y
    const float *w
    const float *start
    const Plan *p
    float *scratch          # a row of `size` a slot
    Py_ssize_t *tables      # a row of `room` a slot
    Py_ssize_t size, room


@Kernel
def transposed(
    bytes geometry, const float[:, :, :, :, ::1] y, const float[::1] w, const float[::1] start,
    float[:, :, :, :, ::1] x, Py_ssize_t[::1] index, float[:, ::1] scratch, Py_ssize_t[:, ::1] tables,
):
    """x = start (c) + what y (k channels) sends to the taps of its windows on x.

    w: (r1, k, (r0, r2, c)), or (r1, r2, k, (r0, c)) if shifted, which needs stride 1 along the last axis.
    index: by `fill_index`; scratch and tables: as large as `room` says, with a row a thread.
    """
    cdef Plan p = opened(geometry, &index[0])
    cdef Py_ssize_t tasks = (p.g.batch + p.images - 1) // p.images * p.bands[0] * p.bands[1] * p.bands[2]
    cdef Transposed c = Transposed(
        &y[0, 0, 0, 0, 0], &w[0], &start[0], &p, &scratch[0, 0], &tables[0, 0], scratch.shape[1], tables.shape[1]
    )
    run(<Task> transposed_task, &x[0, 0, 0, 0, 0], &c, tasks, <int> scratch.shape[0])


cdef void transposed_task(float *x, const Transposed *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef TaskState t
    cdef const Plan *p = c.p
    cdef int widest = <int> p.lanes * 4
    cdef float *scratch = <float *> whole(<Py_ssize_t> <uintptr_t> (c.scratch + slot * c.size), LINE * sizeof(float))
    cdef const float *y
    cdef Py_ssize_t length, band, i0, i1, r0, o0
    cdef int axis
    for axis in range(2, -1, -1):
        band = task % p.bands[axis]
        task //= p.bands[axis]
        length = (p.g.inp[2] + p.g.stride[2] - 1) // p.g.stride[2] if axis == 2 else p.g.inp[axis]
        t.first[axis] = band * length // p.bands[axis]
        t.stop[axis] = (band + 1) * length // p.bands[axis]
    t.image = task * p.images
    t.images = min(p.images, p.g.batch - t.image)
    memset(scratch, 0, zeros_of(p) * sizeof(float))
    t.zeros = scratch
    t.rows = scratch + zeros_of(p)
    t.sums = t.rows + p.rows * p.g.filters * (p.vectors * p.lanes + p.reach)
    t.target = t.sums + p.planes * p.band_rows * p.sums * p.line
    t.pixels = c.tables + slot * c.room
    t.row = t.pixels + p.line
    t.plane = t.row + p.rows
    t.at = t.plane + p.planes
    t.taps = t.at + most_runs(p)
    open_line(p, &t)
    for o0 in range(p.planes):
        t.plane[o0] = -1
    y = c.y + t.image * p.g.out[0] * p.g.out[1] * p.g.out[2] * p.g.filters
    for i0 in range(t.first[0], t.stop[0]):
        for r0 in range(p.g.kernel[0]):
            o0 = p.output[0][i0 * p.g.kernel[0] + r0]
            if o0 >= 0 and t.plane[o0 % p.planes] != o0:
                t.plane[o0 % p.planes] = o0
                sum_plane(y, c.w, c.start if whole_sums(p) else t.zeros, p, &t, o0, widest)
        for i1 in range(t.first[1], t.stop[1]):
            finish_row(c.start, x, p, &t, i0, i1, widest)


cdef inline bint whole_sums(const Plan *p) noexcept nogil:
    """Whether a column of x is the sum of one plane of y, with nothing left to add but `start`."""
    return p.shifted and p.g.kernel[0] == 1


cdef void open_line(const Plan *p, TaskState *t) noexcept nogil:
    """The columns of a line that are computed, and the pixels that are read."""
    cdef Py_ssize_t first = max(-t.first[2], -p.left), stop = min(p.g.out[2] - t.first[2], p.pitch)
    cdef Py_ssize_t n, column, read
    t.begin = 0 if p.shifted else first
    t.end = max(t.begin, (t.images - 1) * p.pitch + (t.stop[2] - t.first[2] if p.shifted else stop))
    read = -p.left if p.shifted else t.begin
    for column in range(p.line):
        t.pixels[column] = -1
    for n in range(t.images):
        for column in range(first, stop):
            t.pixels[n * p.pitch + column - read] = (
                (n * p.g.out[0] * p.g.out[1] * p.g.out[2] + t.first[2] + column) * p.g.filters
            )


cdef void sum_plane(
    const float *y, const float *w, const float *start, const Plan *p, TaskState *t, Py_ssize_t o0, int widest
) noexcept nogil:
    """The sums of plane o0 of y, for the rows of the task, each from `start` on."""
    cdef Py_ssize_t vectors = (t.end - t.begin + p.lanes - 1) // p.lanes
    cdef Py_ssize_t blocks = (vectors + p.vectors - 1) // p.vectors
    cdef Py_ssize_t shifts = p.g.kernel[2] if p.shifted else 1
    cdef Py_ssize_t block, first, count, read, i1, r1, r2, o1, runs, part, m, place
    cdef const float *source
    cdef const float *next
    cdef float *sums = t.sums + (o0 % p.planes) * p.band_rows * p.sums * p.line + p.lead
    if not p.shifted:
        m = (t.stop[1] - t.first[1]) * p.sums
        first = t.begin + vectors * p.lanes
        clear_lines(widest, sums - p.left, p.line, m, t.begin + p.left)
        clear_lines(widest, sums + first, p.line, m, t.images * p.pitch + p.ahead - first)
    for block in range(blocks):
        first = block * vectors // blocks * p.lanes
        count = (block + 1) * vectors // blocks * p.lanes - first
        read = count + p.reach
        for place in range(p.rows):
            t.row[place] = -1
        next = y
        for i1 in range(t.first[1], t.stop[1]):
            runs = 0
            for r1 in range(p.g.kernel[1]):
                o1 = p.output[1][i1 * p.g.kernel[1] + r1]
                if o1 < 0:
                    continue
                place = p.place[o1]
                if t.row[place] != o1:
                    t.row[place] = o1
                    source = y + (o0 * p.g.out[1] + o1) * p.g.out[2] * p.g.filters
                    next = source + t.pixels[first] + (p.g.out[2] if p.g.out[1] > 1 else count) * p.g.filters
                    to_planes(
                        widest, source, t.pixels + first, t.zeros, p.g.filters, read,
                        t.rows + place * p.g.filters * read,
                    )
                for r2 in range(shifts):
                    t.at[runs] = place * p.g.filters * read
                    if p.shifted:
                        t.at[runs] += p.left + p.shift[r2]
                    t.taps[runs] = (r1 * shifts + r2) * p.g.filters * p.sums
                    runs += 1
            for part in range(p.tiles):
                m = part * p.sums // p.tiles
                tile_sums(
                    widest, (part + 1) * p.sums // p.tiles - m, count // p.lanes, t.rows, t.at, runs, p.g.filters, read,
                    w + m, t.taps, p.sums, start + m,
                    sums + ((i1 - t.first[1]) * p.sums + m) * p.line + t.begin + first, p.line, next,
                )
                next += runs * p.g.filters * LINE


cdef void finish_row(
    const float *start, float *x, const Plan *p, TaskState *t, Py_ssize_t i0, Py_ssize_t i1, int widest
) noexcept nogil:
    """Row i1 of plane i0 of x, from the sums."""
    cdef Py_ssize_t stride = p.g.stride[2], row = p.g.inp[2] * p.g.channels
    cdef Py_ssize_t shifts = 1 if p.shifted else p.g.kernel[2]
    cdef Py_ssize_t phase, r0, r2, o0, c, n, line, terms, pitch = p.target
    cdef const float *planes = t.target
    for phase in range(stride):
        terms = 0
        for r0 in range(p.g.kernel[0]):
            o0 = p.output[0][i0 * p.g.kernel[0] + r0]
            if o0 < 0:
                continue
            line = ((o0 % p.planes) * p.band_rows + i1 - t.first[1]) * p.sums + r0 * shifts * p.g.channels
            for r2 in range(shifts):
                if p.shifted or p.phase[r2] == phase:
                    t.at[terms] = (line + r2 * p.g.channels) * p.line + p.lead + (0 if p.shifted else p.shift[r2])
                    terms += 1
        if whole_sums(p) and terms == 1:
            planes = t.sums + t.at[0]
            pitch = p.line
            continue
        for c in range(p.g.channels):
            add_lines(
                widest, t.sums + c * p.line, t.at, terms, start[c], t.images * p.pitch,
                t.target + (phase * p.g.channels + c) * p.target,
            )
    for n in range(t.images):
        from_planes(
            widest, planes + n * p.pitch, pitch, stride * p.g.channels,
            (min(p.g.inp[2], t.stop[2] * stride) - t.first[2] * stride) * p.g.channels,
            x + (((t.image + n) * p.g.inp[0] + i0) * p.g.inp[1] + i1) * row + t.first[2] * stride * p.g.channels,
        )
