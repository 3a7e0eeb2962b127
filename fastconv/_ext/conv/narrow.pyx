"""Convolution of few channels, and the gradient to its weights: register tiles (narrow.h) over rows of pixels.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k), w (k, r0, r1, r2, c). Work
is cut into bands: some rows and columns of one output plane. What a band's windows see is little beside its outputs: it
is always copied into scratch, zeros around it, so that every tap has one place there for all bands.

A geometry is worked out once (`geometry`) and handed over as it is.
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

from fastconv._ext.buffers cimport read_from, write_to
from fastconv._ext.team cimport Task, run

cdef extern from "conv/narrow.h" nogil:
    Py_ssize_t most_taps(int bytes, int vectors)
    void row_outputs(
        int bytes, int vectors, Py_ssize_t pixels, const float *x, Py_ssize_t step, const Py_ssize_t *at,
        Py_ssize_t runs, Py_ssize_t length, const float *w, const float *start, float *y, Py_ssize_t filters, int far)
    void add_products(
        int bytes, int vectors, Py_ssize_t taps, const float *x, const Py_ssize_t *at, Py_ssize_t rows,
        Py_ssize_t x_row, Py_ssize_t pixels, Py_ssize_t step, const float *dy, Py_ssize_t dy_row, Py_ssize_t filters,
        const float *next, float *dw)
    void fence()

cdef extern from "layout.h" nogil:
    void transpose_float(
        const float *x, Py_ssize_t x_step, float *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns)

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
    Py_ssize_t taps         # of a filter
    Py_ssize_t run          # taps that lie one behind the other in x
    Py_ssize_t row_bands, column_bands
    Py_ssize_t pitch, plane     # of a band's copy, in elements
    Py_ssize_t elements     # of scratch that it takes
    Py_ssize_t pixels       # of a band, at most
    int widest              # bytes of a vector


def geometry(tuple x_shape, tuple y_shape, object window, tuple cut, int widest):
    """What the other functions take for an x, a y and a window; cut: bands of rows, bands of columns."""
    cdef Geometry g
    cdef int axis
    cdef Py_ssize_t rows, columns
    g.batch, g.channels, g.filters, g.widest = x_shape[0], x_shape[4], y_shape[4], widest
    g.taps = g.channels
    for axis in range(3):
        g.inp[axis] = x_shape[1 + axis]
        g.out[axis] = y_shape[1 + axis]
        g.kernel[axis] = window.kernel[axis]
        g.stride[axis] = window.stride[axis]
        g.before[axis] = window.padding[axis][0]
        g.dilation[axis] = window.dilation[axis]
        g.taps *= g.kernel[axis]
    g.run = g.channels * (g.kernel[2] if g.dilation[2] == 1 else 1)
    g.row_bands, g.column_bands = cut
    rows = (g.out[1] + g.row_bands - 1) // g.row_bands
    columns = (g.out[2] + g.column_bands - 1) // g.column_bands
    g.pixels = rows * columns
    g.pitch = ((columns - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1) * g.channels
    g.plane = ((rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1) * g.pitch
    g.elements = g.kernel[0] * g.plane
    return (<const char *> &g)[:sizeof(Geometry)]


def room(bytes geometry):
    """(elements of a thread's scratch: forward, gradient; elements of packed weights and start: forward, gradient)."""
    cdef const Geometry *g = <const Geometry *> <const char *> geometry
    cdef Py_ssize_t inside = lanes_of(g, True), beyond = lanes_of(g, False)
    cdef Py_ssize_t row = 0
    if panel_at(g, 0, True).lanes > g.filters:
        row = (g.out[2] + g.column_bands - 1) // g.column_bands * g.filters + g.widest // 4
    return (
        g.elements + row, g.elements + g.plane + g.pixels * g.filters + g.widest // 4,
        inside * (g.taps + 1), beyond * (g.taps + 1),
    )


def offsets(bytes geometry, Py_ssize_t[::1] at):
    """at[tap] = where a tap lies in a band's copy, from a pixel's first one on; the last entry: in ones behind it."""
    cdef const Geometry *g = <const Geometry *> <const char *> geometry
    cdef Py_ssize_t r0, r1, r2, c, tap = 0
    for r0 in range(g.kernel[0]):
        for r1 in range(g.kernel[1]):
            for r2 in range(g.kernel[2]):
                for c in range(g.channels):
                    at[tap] = r0 * g.plane + r1 * g.dilation[1] * g.pitch + r2 * g.dilation[2] * g.channels + c
                    tap += 1
    at[tap] = g.elements


# --- panels ----------------------------------------------------------------------------------------------------------


cdef struct Panel:
    Py_ssize_t first    # filter
    Py_ssize_t lanes
    int bytes           # of its vectors
    int vectors


cdef inline Panel panel_at(const Geometry *g, Py_ssize_t first, bint inside) noexcept nogil:
    """The panel that begins with filter `first`. The last one may hold fewer filters than lanes; with `inside` it
    begins earlier instead, and some filters are in two panels, unless there are no filters before."""
    cdef Panel panel
    cdef Py_ssize_t left = g.filters - first
    panel.bytes = g.widest
    if g.widest == 64 and (left <= 8 or (inside and g.filters < 16)):
        panel.bytes = 32
    panel.lanes = panel.bytes // 4
    panel.vectors = 1
    if left >= 2 * panel.lanes and (inside or g.taps <= most_taps(panel.bytes, 2)):
        panel.vectors = 2
        panel.lanes *= 2
    panel.first = max(0, min(first, g.filters - panel.lanes)) if inside else first
    return panel


cdef inline Py_ssize_t lanes_of(const Geometry *g, bint inside) noexcept nogil:
    """Lanes of all panels."""
    cdef Py_ssize_t lanes = 0, first = 0
    cdef Panel panel
    while first < g.filters:
        panel = panel_at(g, first, inside)
        first = panel.first + panel.lanes
        lanes += panel.lanes
    return lanes


# --- bands -----------------------------------------------------------------------------------------------------------


cdef struct Band:
    Py_ssize_t rows, columns
    Py_ssize_t first    # pixel, in y


cdef void open_band(const float *x, const Geometry *g, Py_ssize_t number, float *scratch, Band *band) noexcept nogil:
    """Band `number`, what its windows see in scratch."""
    cdef Py_ssize_t column_band = number % g.column_bands
    cdef Py_ssize_t row_band = number // g.column_bands % g.row_bands
    cdef Py_ssize_t plane = number // (g.column_bands * g.row_bands) % g.out[0]
    cdef Py_ssize_t image = number // (g.column_bands * g.row_bands * g.out[0])
    cdef Py_ssize_t row = row_band * g.out[1] // g.row_bands
    cdef Py_ssize_t column = column_band * g.out[2] // g.column_bands
    cdef Py_ssize_t i1 = row * g.stride[1] - g.before[1]
    cdef Py_ssize_t i2 = column * g.stride[2] - g.before[2]
    cdef Py_ssize_t height, width, head, stop, r0, i0, r, c = g.channels
    cdef float *out
    band.rows = (row_band + 1) * g.out[1] // g.row_bands - row
    band.columns = (column_band + 1) * g.out[2] // g.column_bands - column
    band.first = ((image * g.out[0] + plane) * g.out[1] + row) * g.out[2] + column
    height = (band.rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
    width = (band.columns - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
    head = min(max(-i2, 0), width)
    stop = max(min(g.inp[2] - i2, width), head)
    for r0 in range(g.kernel[0]):
        i0 = plane * g.stride[0] - g.before[0] + r0 * g.dilation[0]
        for r in range(height):
            out = scratch + r0 * g.plane + r * g.pitch
            if 0 <= i0 < g.inp[0] and 0 <= i1 + r < g.inp[1] and stop > head:
                memset(out, 0, head * c * sizeof(float))
                memcpy(
                    out + head * c, x + (((image * g.inp[0] + i0) * g.inp[1] + i1 + r) * g.inp[2] + i2 + head) * c,
                    (stop - head) * c * sizeof(float),
                )
                memset(out + stop * c, 0, (width - stop) * c * sizeof(float))
            else:
                memset(out, 0, width * c * sizeof(float))


cdef inline float *aligned(float *scratch) noexcept nogil:
    """The first whole line of scratch."""
    return <float *> ((<uintptr_t> scratch + LINE * sizeof(float) - 1) // (LINE * sizeof(float)) * LINE * sizeof(float))


cdef inline Py_ssize_t bands_of(const Geometry *g) noexcept nogil:
    return g.batch * g.out[0] * g.row_bands * g.column_bands


# --- convolution -----------------------------------------------------------------------------------------------------


cdef struct Forward:
    const float *x
    const float *packed
    const Geometry *g
    const Py_ssize_t *at
    float *scratch      # a row of `room` a slot
    Py_ssize_t room
    int far


def forward(
    bytes geometry, at, x, w, bias, y, scratch, int threads, bint far,
):
    """y = bias (zeros if None) + conv(x, w).

    All arrays are float32 and C-contiguous. at: the `offsets`; scratch: a line, what `room` says for packed weights,
    then that for each thread; far: y is too large for the caches.
    """
    cdef const Geometry *g = <const Geometry *> <const char *> geometry
    cdef Py_ssize_t packed = lanes_of(g, True) * (g.taps + 1)
    cdef Py_ssize_t room = (<Py_ssize_t> scratch.size - LINE - packed) // threads
    cdef float *memory = aligned(<float *> write_to(scratch))
    cdef float *out = <float *> write_to(y)
    cdef int past = far and g.filters % LINE == 0 and <uintptr_t> out % (LINE * sizeof(float)) == 0
    pack(g, <const float *> read_from(w), <const float *> read_from(bias), memory)
    cdef Forward c = Forward(
        <const float *> read_from(x), memory, g, <const Py_ssize_t *> read_from(at), memory + packed, room, past
    )
    with nogil:
        run(<Task> forward_task, out, &c, bands_of(g), threads)


cdef void pack(const Geometry *g, const float *w, const float *bias, float *packed) noexcept nogil:
    """Panel by panel the bias, then the weights tap by tap."""
    cdef Py_ssize_t first = 0, used
    cdef Panel panel
    while first < g.filters:
        panel = panel_at(g, first, True)
        used = min(panel.lanes, g.filters)
        if used < panel.lanes or bias == NULL:
            memset(packed, 0, panel.lanes * (g.taps + 1) * sizeof(float))
        if bias != NULL:
            memcpy(packed, bias + panel.first, used * sizeof(float))
        packed += panel.lanes
        transpose_float(w + panel.first * g.taps, g.taps, packed, panel.lanes, used, g.taps)
        packed += panel.lanes * g.taps
        first = panel.first + panel.lanes


cdef void forward_task(float *y, const Forward *c, Py_ssize_t task, int slot) noexcept nogil:
    """A band."""
    cdef const Geometry *g = c.g
    cdef float *scratch = c.scratch + slot * c.room
    cdef Py_ssize_t row, first
    cdef const float *start
    cdef Panel panel
    cdef Band band
    cdef float *out
    cdef bint apart = panel_at(g, 0, True).lanes > g.filters  # lanes without a filter would reach beyond the row
    open_band(c.x, g, task, scratch, &band)
    for row in range(band.rows):
        first = 0
        start = c.packed
        out = y + (band.first + row * g.out[2]) * g.filters
        if apart:
            out = scratch + g.elements
        while first < g.filters:
            panel = panel_at(g, first, True)
            row_outputs(
                panel.bytes, panel.vectors, band.columns, scratch + row * g.stride[1] * g.pitch,
                g.stride[2] * g.channels, c.at, g.taps // g.run, g.run, start + panel.lanes, start,
                out + panel.first, g.filters, c.far,
            )
            start += panel.lanes * (g.taps + 1)
            first = panel.first + panel.lanes
        if apart:
            memcpy(y + (band.first + row * g.out[2]) * g.filters, out, band.columns * g.filters * sizeof(float))
    if c.far:
        fence()


cdef struct Gradient:
    const float *x
    const float *dy
    const Geometry *g
    const Py_ssize_t *at
    Py_ssize_t taps, size, chunks   # size: of a chunk's gradient
    float *scratch      # a row of `room` a slot
    Py_ssize_t room


def gradient_weights(
    bytes geometry, const Py_ssize_t[::1] at, const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy,
    float[:, :, :, :, ::1] dw, float[::1] db, float[::1] scratch, Py_ssize_t chunks, int threads,
):
    """dw = the gradient to w: that over each of `chunks` runs of bands, and then their sum in order; db (None: not
    wanted) that to the bias, as to the weights of one more tap, which sees ones.

    at: the `offsets`; scratch: a line, what `room` says for each chunk, then that for each thread.
    """
    cdef const Geometry *g = <const Geometry *> <const char *> geometry
    cdef Py_ssize_t taps = g.taps + (db is not None), size = lanes_of(g, False) * taps
    cdef Py_ssize_t room = (scratch.shape[0] - LINE - chunks * size) // threads
    cdef float *memory = aligned(&scratch[0])
    cdef Gradient c = Gradient(
        &x[0, 0, 0, 0, 0], &dy[0, 0, 0, 0, 0], g, &at[0], taps, size, chunks, memory + chunks * size, room
    )
    with nogil:
        run(<Task> gradient_task, memory, &c, chunks, threads)
    cdef float *bias = NULL
    if db is not None:
        bias = &db[0]
    unpack(g, memory, size, chunks, taps, &dw[0, 0, 0, 0, 0], bias)


cdef void gradient_task(float *partial, const Gradient *c, Py_ssize_t task, int slot) noexcept nogil:
    """A chunk of bands."""
    cdef const Geometry *g = c.g
    cdef float *scratch = c.scratch + slot * c.room
    cdef Py_ssize_t bands = bands_of(g), taps = c.taps
    cdef Py_ssize_t total = bands // (g.row_bands * g.column_bands) * g.out[1] * g.out[2] * g.filters
    cdef Py_ssize_t number, row, first, tiles, tile, tap, last, dy_row
    cdef const float *values
    cdef const float *next
    cdef float *out
    cdef float *copy = scratch + g.elements + g.plane
    cdef Panel panel
    cdef Band band
    partial += task * c.size
    memset(partial, 0, c.size * sizeof(float))
    for row in range(g.plane):
        scratch[g.elements + row] = 1
    for number in range(task * bands // c.chunks, (task + 1) * bands // c.chunks):
        open_band(c.x, g, number, scratch, &band)
        values = c.dy + band.first * g.filters
        next = values + band.rows * band.columns * g.filters
        dy_row = g.out[2] * g.filters
        last = (band.first + (band.rows - 1) * g.out[2] + band.columns) * g.filters
        if last + g.widest // 4 > total:  # a panel that is not full would read beyond dy
            for row in range(band.rows):
                memcpy(
                    copy + row * band.columns * g.filters, values + row * dy_row,
                    band.columns * g.filters * sizeof(float),
                )
            dy_row = band.columns * g.filters
            values = copy
            memset(copy + band.rows * dy_row, 0, g.widest)
        out = partial
        first = 0
        while first < g.filters:
            panel = panel_at(g, first, False)
            tiles = (taps - 1) // most_taps(panel.bytes, panel.vectors) + 1
            for tile in range(tiles):
                tap = tile * taps // tiles
                add_products(
                    panel.bytes, panel.vectors, (tile + 1) * taps // tiles - tap, scratch, c.at + tap, band.rows,
                    g.stride[1] * g.pitch, band.columns, g.stride[2] * g.channels, values + first, dy_row, g.filters,
                    next, out + tap * panel.lanes,
                )
            out += taps * panel.lanes
            next += band.rows * band.columns * panel.vectors * LINE
            first += panel.lanes


cdef void unpack(
    const Geometry *g, float *partial, Py_ssize_t size, Py_ssize_t chunks, Py_ssize_t taps, float *dw, float *db
) noexcept nogil:
    """dw and db = the sum of the chunks, which panels hold tap by tap."""
    cdef Py_ssize_t chunk, j, first = 0, tap, lane
    cdef Panel panel
    for chunk in range(1, chunks):
        for j in range(size):
            partial[j] += partial[chunk * size + j]
    while first < g.filters:
        panel = panel_at(g, first, False)
        for lane in range(min(panel.lanes, g.filters - first)):
            for tap in range(g.taps):
                dw[(first + lane) * g.taps + tap] = partial[tap * panel.lanes + lane]
            if db != NULL:
                db[first + lane] = partial[g.taps * panel.lanes + lane]
        partial += taps * panel.lanes
        first += panel.lanes
