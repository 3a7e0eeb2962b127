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

from fastconv._ext.team cimport Task, run

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


cdef struct Geometry:
    Py_ssize_t batch, channels, filters
    Py_ssize_t inp[3]
    Py_ssize_t out[3]
    Py_ssize_t kernel[3]
    Py_ssize_t stride[3]
    Py_ssize_t before[3]    # padding, or cropping where negative
    Py_ssize_t dilation[3]
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
    return (count + unit - 1) // unit * unit


cdef inline Py_ssize_t shift_of(const Geometry *g, Py_ssize_t tap, Py_ssize_t *phase) noexcept nogil:
    """A tap's shift, and its phase."""
    cdef Py_ssize_t at = tap * g.dilation[2] - g.before[2]
    phase[0] = (at % g.stride[2] + g.stride[2]) % g.stride[2]
    return (phase[0] - at) // g.stride[2]


def geometry(tuple y_shape, tuple x_shape, object window, bint shifted, tuple cut, int widest):
    """What the other functions take, for a y that is read, an x that is written and a window.

    shifted: columns of x are summed at once; cut: images of a line, bands of each axis, columns from image to image.
    """
    cdef Geometry g
    cdef int axis
    cdef Py_ssize_t tap, phase
    g.batch, g.channels, g.filters, g.shifted = x_shape[0], x_shape[4], y_shape[4], shifted
    for axis in range(3):
        g.inp[axis] = x_shape[1 + axis]
        g.out[axis] = y_shape[1 + axis]
        g.kernel[axis] = window.kernel[axis]
        g.stride[axis] = window.stride[axis]
        g.before[axis] = window.padding[axis][0]
        g.dilation[axis] = window.dilation[axis]
    g.images, g.bands[0], g.bands[1], g.bands[2], g.pitch = cut
    g.left, g.ahead = 0, 0
    for tap in range(g.kernel[2]):
        g.left = max(g.left, -shift_of(&g, tap, &phase))
        g.ahead = max(g.ahead, shift_of(&g, tap, &phase))
    g.planes = (g.kernel[0] - 1) * g.dilation[0] // g.stride[0] + 1
    g.rows = (g.kernel[1] - 1) * g.dilation[1] // g.stride[1] + 1
    g.sums = g.kernel[0] * (1 if shifted else g.kernel[2]) * g.channels
    g.tiles = (g.sums + most_sums(widest) - 1) // most_sums(widest)
    g.lanes = widest // 4
    g.vectors = most_vectors(widest, (g.sums + g.tiles - 1) // g.tiles)
    g.reach = whole(g.left + g.ahead, g.lanes) if shifted else 0
    g.band_rows = (g.inp[1] + g.bands[1] - 1) // g.bands[1]
    g.target = whole(g.images * g.pitch, g.lanes)
    g.lead = whole(g.left, g.lanes)
    g.line = g.lead + whole(g.target + g.ahead, g.lanes) + g.lanes
    return (<const char *> &g)[:sizeof(Geometry)]


cdef inline Py_ssize_t zeros_of(const Geometry *g) noexcept nogil:
    return whole(max(g.filters, g.sums), LINE)


cdef inline Py_ssize_t most_runs(const Geometry *g) noexcept nogil:
    return max(g.kernel[0], g.kernel[1]) * g.kernel[2]


def room(bytes geometry):
    """(entries of the index, elements of a thread's scratch, entries of its tables)."""
    cdef const Geometry *g = <const Geometry *> <const char *> geometry
    return (
        g.inp[0] * g.kernel[0] + g.inp[1] * g.kernel[1] + g.out[1] + 2 * g.kernel[2],
        LINE + zeros_of(g) + g.rows * g.filters * (g.vectors * g.lanes + g.reach)
        + g.planes * g.band_rows * g.sums * g.line + g.stride[2] * g.channels * g.target,
        g.line + g.rows + g.planes + 2 * most_runs(g),
    )


cdef Geometry opened(bytes geometry, Py_ssize_t *index) noexcept:
    """The geometry with its tables."""
    cdef Geometry g = (<const Geometry *> <const char *> geometry)[0]
    g.output[0] = index
    g.output[1] = g.output[0] + g.inp[0] * g.kernel[0]
    g.place = g.output[1] + g.inp[1] * g.kernel[1]
    g.shift = g.place + g.out[1]
    g.phase = g.shift + g.kernel[2]
    return g


def fill_index(bytes geometry, Py_ssize_t[::1] index):
    """The tables that all tasks read."""
    cdef Geometry g = opened(geometry, &index[0])
    cdef Py_ssize_t i, tap, at
    cdef int axis
    for axis in range(2):
        for i in range(g.inp[axis]):
            for tap in range(g.kernel[axis]):
                at = i + g.before[axis] - tap * g.dilation[axis]
                if at < 0 or at % g.stride[axis] or at // g.stride[axis] >= g.out[axis]:
                    at = -g.stride[axis]
                g.output[axis][i * g.kernel[axis] + tap] = at // g.stride[axis]
    for i in range(g.out[1]):
        g.place[i] = i % g.rows
    for tap in range(g.kernel[2]):
        g.shift[tap] = shift_of(&g, tap, g.phase + tap)


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
    const Geometry *g
    float *scratch          # a row of `size` a slot
    Py_ssize_t *tables      # a row of `room` a slot
    Py_ssize_t size, room


def transposed(
    bytes geometry, const float[:, :, :, :, ::1] y, const float[::1] w, const float[::1] start,
    float[:, :, :, :, ::1] x, Py_ssize_t[::1] index, float[:, ::1] scratch, Py_ssize_t[:, ::1] tables,
):
    """x = start (c) + what y (k channels) sends to the taps of its windows on x.

    w: (r1, k, (r0, r2, c)), or (r1, r2, k, (r0, c)) if shifted, which needs stride 1 along the last axis.
    index: by `fill_index`; scratch and tables: as large as `room` says, with a row a thread.
    """
    cdef Geometry g = opened(geometry, &index[0])
    cdef Py_ssize_t tasks = (g.batch + g.images - 1) // g.images * g.bands[0] * g.bands[1] * g.bands[2]
    cdef Transposed c = Transposed(
        &y[0, 0, 0, 0, 0], &w[0], &start[0], &g, &scratch[0, 0], &tables[0, 0], scratch.shape[1], tables.shape[1]
    )
    with nogil:
        run(<Task> transposed_task, &x[0, 0, 0, 0, 0], &c, tasks, <int> scratch.shape[0])


cdef void transposed_task(float *x, const Transposed *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef TaskState t
    cdef const Geometry *g = c.g
    cdef int widest = <int> g.lanes * 4
    cdef float *scratch = <float *> whole(<Py_ssize_t> <uintptr_t> (c.scratch + slot * c.size), LINE * sizeof(float))
    cdef const float *y
    cdef Py_ssize_t length, band, i0, i1, r0, o0
    cdef int axis
    for axis in range(2, -1, -1):
        band = task % g.bands[axis]
        task //= g.bands[axis]
        length = (g.inp[2] + g.stride[2] - 1) // g.stride[2] if axis == 2 else g.inp[axis]
        t.first[axis] = band * length // g.bands[axis]
        t.stop[axis] = (band + 1) * length // g.bands[axis]
    t.image = task * g.images
    t.images = min(g.images, g.batch - t.image)
    memset(scratch, 0, zeros_of(g) * sizeof(float))
    t.zeros = scratch
    t.rows = scratch + zeros_of(g)
    t.sums = t.rows + g.rows * g.filters * (g.vectors * g.lanes + g.reach)
    t.target = t.sums + g.planes * g.band_rows * g.sums * g.line
    t.pixels = c.tables + slot * c.room
    t.row = t.pixels + g.line
    t.plane = t.row + g.rows
    t.at = t.plane + g.planes
    t.taps = t.at + most_runs(g)
    open_line(g, &t)
    for o0 in range(g.planes):
        t.plane[o0] = -1
    y = c.y + t.image * g.out[0] * g.out[1] * g.out[2] * g.filters
    for i0 in range(t.first[0], t.stop[0]):
        for r0 in range(g.kernel[0]):
            o0 = g.output[0][i0 * g.kernel[0] + r0]
            if o0 >= 0 and t.plane[o0 % g.planes] != o0:
                t.plane[o0 % g.planes] = o0
                sum_plane(y, c.w, c.start if whole_sums(g) else t.zeros, g, &t, o0, widest)
        for i1 in range(t.first[1], t.stop[1]):
            finish_row(c.start, x, g, &t, i0, i1, widest)


cdef inline bint whole_sums(const Geometry *g) noexcept nogil:
    """Whether a column of x is the sum of one plane of y, with nothing left to add but `start`."""
    return g.shifted and g.kernel[0] == 1


cdef void open_line(const Geometry *g, TaskState *t) noexcept nogil:
    """The columns of a line that are computed, and the pixels that are read."""
    cdef Py_ssize_t first = max(-t.first[2], -g.left), stop = min(g.out[2] - t.first[2], g.pitch)
    cdef Py_ssize_t n, column, read
    t.begin = 0 if g.shifted else first
    t.end = max(t.begin, (t.images - 1) * g.pitch + (t.stop[2] - t.first[2] if g.shifted else stop))
    read = -g.left if g.shifted else t.begin
    for column in range(g.line):
        t.pixels[column] = -1
    for n in range(t.images):
        for column in range(first, stop):
            t.pixels[n * g.pitch + column - read] = (
                (n * g.out[0] * g.out[1] * g.out[2] + t.first[2] + column) * g.filters
            )


cdef void sum_plane(
    const float *y, const float *w, const float *start, const Geometry *g, TaskState *t, Py_ssize_t o0, int widest
) noexcept nogil:
    """The sums of plane o0 of y, for the rows of the task, each from `start` on."""
    cdef Py_ssize_t vectors = (t.end - t.begin + g.lanes - 1) // g.lanes
    cdef Py_ssize_t blocks = (vectors + g.vectors - 1) // g.vectors
    cdef Py_ssize_t shifts = g.kernel[2] if g.shifted else 1
    cdef Py_ssize_t block, first, count, read, i1, r1, r2, o1, runs, part, m, place
    cdef const float *source
    cdef const float *next
    cdef float *sums = t.sums + (o0 % g.planes) * g.band_rows * g.sums * g.line + g.lead
    if not g.shifted:
        m = (t.stop[1] - t.first[1]) * g.sums
        first = t.begin + vectors * g.lanes
        clear_lines(widest, sums - g.left, g.line, m, t.begin + g.left)
        clear_lines(widest, sums + first, g.line, m, t.images * g.pitch + g.ahead - first)
    for block in range(blocks):
        first = block * vectors // blocks * g.lanes
        count = (block + 1) * vectors // blocks * g.lanes - first
        read = count + g.reach
        for place in range(g.rows):
            t.row[place] = -1
        next = y
        for i1 in range(t.first[1], t.stop[1]):
            runs = 0
            for r1 in range(g.kernel[1]):
                o1 = g.output[1][i1 * g.kernel[1] + r1]
                if o1 < 0:
                    continue
                place = g.place[o1]
                if t.row[place] != o1:
                    t.row[place] = o1
                    source = y + (o0 * g.out[1] + o1) * g.out[2] * g.filters
                    next = source + t.pixels[first] + (g.out[2] if g.out[1] > 1 else count) * g.filters
                    to_planes(
                        widest, source, t.pixels + first, t.zeros, g.filters, read, t.rows + place * g.filters * read
                    )
                for r2 in range(shifts):
                    t.at[runs] = place * g.filters * read
                    if g.shifted:
                        t.at[runs] += g.left + g.shift[r2]
                    t.taps[runs] = (r1 * shifts + r2) * g.filters * g.sums
                    runs += 1
            for part in range(g.tiles):
                m = part * g.sums // g.tiles
                tile_sums(
                    widest, (part + 1) * g.sums // g.tiles - m, count // g.lanes, t.rows, t.at, runs, g.filters, read,
                    w + m, t.taps, g.sums, start + m,
                    sums + ((i1 - t.first[1]) * g.sums + m) * g.line + t.begin + first, g.line, next,
                )
                next += runs * g.filters * LINE


cdef void finish_row(
    const float *start, float *x, const Geometry *g, TaskState *t, Py_ssize_t i0, Py_ssize_t i1, int widest
) noexcept nogil:
    """Row i1 of plane i0 of x, from the sums."""
    cdef Py_ssize_t stride = g.stride[2], row = g.inp[2] * g.channels
    cdef Py_ssize_t shifts = 1 if g.shifted else g.kernel[2]
    cdef Py_ssize_t phase, r0, r2, o0, c, n, line, terms, pitch = g.target
    cdef const float *planes = t.target
    for phase in range(stride):
        terms = 0
        for r0 in range(g.kernel[0]):
            o0 = g.output[0][i0 * g.kernel[0] + r0]
            if o0 < 0:
                continue
            line = ((o0 % g.planes) * g.band_rows + i1 - t.first[1]) * g.sums + r0 * shifts * g.channels
            for r2 in range(shifts):
                if g.shifted or g.phase[r2] == phase:
                    t.at[terms] = (line + r2 * g.channels) * g.line + g.lead + (0 if g.shifted else g.shift[r2])
                    terms += 1
        if whole_sums(g) and terms == 1:
            planes = t.sums + t.at[0]
            pitch = g.line
            continue
        for c in range(g.channels):
            add_lines(
                widest, t.sums + c * g.line, t.at, terms, start[c], t.images * g.pitch,
                t.target + (phase * g.channels + c) * g.target,
            )
    for n in range(t.images):
        from_planes(
            widest, planes + n * g.pitch, pitch, stride * g.channels,
            (min(g.inp[2], t.stop[2] * stride) - t.first[2] * stride) * g.channels,
            x + (((t.image + n) * g.inp[0] + i0) * g.inp[1] + i1) * row + t.first[2] * stride * g.channels,
        )
