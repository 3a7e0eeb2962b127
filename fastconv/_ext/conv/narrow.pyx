"""Convolution of few channels, and the gradient to its weights: register tiles (narrow.h) over rows of pixels.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k), w (k, r0, r1, r2, c). Work
is cut into bands: some rows and columns of one output plane. What a band's windows see is little beside its outputs: it
is always copied into scratch, zeros around it, so that every tap has one place there for all bands.

A geometry is worked out once (`geometry`) and handed over as it is.
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

from fastconv._ext.buffers cimport read_from, write_to
from fastconv._ext.geometry cimport (
    Band, Geometry, band_at, banded, bands_of, ceil_div, copy_plane, first_pixel
)
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

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
        const float *x, Py_ssize_t x_step, float *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns, bint far)

cdef enum:
    LINE = 16  # floats of a cache line

LINE_FLOATS = LINE  # for fastconv.engine.narrow, which leaves room for aligned scratch


cdef struct Plan:
    Geometry g
    Py_ssize_t run          # taps that lie one behind the other in x
    Py_ssize_t pitch, plane     # of a band's copy, in elements
    Py_ssize_t elements     # of scratch that it takes
    Py_ssize_t pixels       # of a band, at most
    int widest              # bytes of a vector


def geometry(tuple x_shape, tuple y_shape, object window, tuple cut, int widest):
    """What the other functions take for an x, a y and a window; cut: bands of rows, bands of columns."""
    cdef Plan p
    cdef Geometry g = banded(x_shape, y_shape, window, 1, None, (1, *cut))
    cdef Py_ssize_t rows = ceil_div(g.out[1], g.row_bands), columns = ceil_div(g.out[2], g.column_bands)
    p.g, p.widest = g, widest
    p.run = g.channels * (g.kernel[2] if g.dilation[2] == 1 else 1)
    p.pixels = rows * columns
    p.pitch = ((columns - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1) * g.channels
    p.plane = ((rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1) * p.pitch
    p.elements = g.kernel[0] * p.plane
    return (<const char *> &p)[:sizeof(Plan)]


def room(bytes geometry):
    """(elements of a thread's scratch: forward, gradient; elements of packed weights and start: forward, gradient)."""
    cdef const Plan *p = <const Plan *> <const char *> geometry
    cdef Py_ssize_t inside = lanes_of(p, True), beyond = lanes_of(p, False)
    cdef Py_ssize_t row = 0
    if panel_at(p, 0, True).lanes > p.g.filters:
        row = (p.g.out[2] + p.g.column_bands - 1) // p.g.column_bands * p.g.filters + p.widest // 4
    return (
        p.elements + row, p.elements + p.plane + p.pixels * p.g.filters + p.widest // 4,
        inside * (p.g.taps + 1), beyond * (p.g.taps + 1),
    )


def offsets(bytes geometry, Py_ssize_t[::1] at):
    """at[tap] = where a tap lies in a band's copy, from a pixel's first one on; the last entry: in ones behind it."""
    cdef const Plan *p = <const Plan *> <const char *> geometry
    cdef Py_ssize_t r0, r1, r2, c, tap = 0
    for r0 in range(p.g.kernel[0]):
        for r1 in range(p.g.kernel[1]):
            for r2 in range(p.g.kernel[2]):
                for c in range(p.g.channels):
                    at[tap] = r0 * p.plane + r1 * p.g.dilation[1] * p.pitch + r2 * p.g.dilation[2] * p.g.channels + c
                    tap += 1
    at[tap] = p.elements


# --- panels ----------------------------------------------------------------------------------------------------------


cdef struct Panel:
    Py_ssize_t first    # filter
    Py_ssize_t lanes
    int bytes           # of its vectors
    int vectors


cdef inline Panel panel_at(const Plan *p, Py_ssize_t first, bint inside) noexcept nogil:
    """The panel that begins with filter `first`. The last one may hold fewer filters than lanes; with `inside` it
    begins earlier instead, and some filters are in two panels, unless there are no filters before."""
    cdef Panel panel
    cdef Py_ssize_t left = p.g.filters - first
    panel.bytes = p.widest
    if p.widest == 64 and (left <= 8 or (inside and p.g.filters < 16)):
        panel.bytes = 32
    panel.lanes = panel.bytes // 4
    panel.vectors = 1
    if left >= 2 * panel.lanes and (inside or p.g.taps <= most_taps(panel.bytes, 2)):
        panel.vectors = 2
        panel.lanes *= 2
    panel.first = max(0, min(first, p.g.filters - panel.lanes)) if inside else first
    return panel


cdef inline Py_ssize_t lanes_of(const Plan *p, bint inside) noexcept nogil:
    """Lanes of all panels."""
    cdef Py_ssize_t lanes = 0, first = 0
    cdef Panel panel
    while first < p.g.filters:
        panel = panel_at(p, first, inside)
        first = panel.first + panel.lanes
        lanes += panel.lanes
    return lanes


# --- bands -----------------------------------------------------------------------------------------------------------


cdef inline Band open_band(const float *x, const Plan *p, Py_ssize_t number, float *scratch) noexcept nogil:
    """Band `number`, what its windows see in scratch."""
    cdef Band band = band_at(&p.g, number)
    cdef Py_ssize_t tap
    for tap in range(p.g.kernel[0]):
        copy_plane(x, &p.g, &band, band.image, tap, scratch + tap * p.plane, p.pitch)
    return band


cdef inline float *aligned(float *scratch) noexcept nogil:
    """The first whole line of scratch."""
    return <float *> ((<uintptr_t> scratch + LINE * sizeof(float) - 1) // (LINE * sizeof(float)) * LINE * sizeof(float))


# --- convolution -----------------------------------------------------------------------------------------------------


cdef struct Forward:
    const float *x
    const float *packed
    const Plan *p
    const Py_ssize_t *at
    float *scratch      # a row of `room` a slot
    Py_ssize_t room
    int far


@Kernel
def forward(
    bytes geometry, at, x, w, bias, y, scratch, int threads, bint far,
):
    """y = bias (zeros if None) + conv(x, w).

    All arrays are float32 and C-contiguous. at: the `offsets`; scratch: a line, what `room` says for packed weights,
    then that for each thread; far: y is too large for the caches.
    """
    cdef const Plan *p = <const Plan *> <const char *> geometry
    cdef const Geometry *g = &p.g
    cdef Py_ssize_t packed = lanes_of(p, True) * (g.taps + 1), elements = scratch.size
    cdef Py_ssize_t room = (elements - LINE - packed) // threads
    cdef float *memory = aligned(<float *> write_to(scratch, elements, sizeof(float)))
    cdef float *out = <float *> write_to(y, g.batch * g.pixels * g.filters, sizeof(float))
    cdef const void *values = read_from(x, g.batch * g.inp[0] * g.inp[1] * g.inp[2] * g.channels, sizeof(float))
    cdef int past = far and g.filters % LINE == 0 and <uintptr_t> out % (LINE * sizeof(float)) == 0
    pack(
        p, <const float *> read_from(w, g.filters * g.taps, sizeof(float)),
        <const float *> read_from(bias, g.filters, sizeof(float)), memory,
    )
    cdef Forward c = Forward(
        <const float *> values, memory, p, <const Py_ssize_t *> read_from(at, g.taps + 1, sizeof(Py_ssize_t)),
        memory + packed, room, past,
    )
    run(<Task> forward_task, out, &c, bands_of(g), threads)


cdef void pack(const Plan *p, const float *w, const float *bias, float *packed) noexcept nogil:
    """Panel by panel the bias, then the weights tap by tap."""
    cdef Py_ssize_t first = 0, used
    cdef Panel panel
    while first < p.g.filters:
        panel = panel_at(p, first, True)
        used = min(panel.lanes, p.g.filters)
        if used < panel.lanes or bias == NULL:
            memset(packed, 0, panel.lanes * (p.g.taps + 1) * sizeof(float))
        if bias != NULL:
            memcpy(packed, bias + panel.first, used * sizeof(float))
        packed += panel.lanes
        transpose_float(w + panel.first * p.g.taps, p.g.taps, packed, panel.lanes, used, p.g.taps, False)
        packed += panel.lanes * p.g.taps
        first = panel.first + panel.lanes


cdef void forward_task(float *y, const Forward *c, Py_ssize_t task, int slot) noexcept nogil:
    """A band."""
    cdef const Plan *p = c.p
    cdef float *scratch = c.scratch + slot * c.room
    cdef Py_ssize_t row, first
    cdef const float *start
    cdef Panel panel
    cdef Band band
    cdef float *out
    cdef bint apart = panel_at(p, 0, True).lanes > p.g.filters  # lanes without a filter would reach beyond the row
    band = open_band(c.x, p, task, scratch)
    y += first_pixel(&p.g, &band) * p.g.filters
    for row in range(band.rows):
        first = 0
        start = c.packed
        out = y + row * p.g.out[2] * p.g.filters
        if apart:
            out = scratch + p.elements
        while first < p.g.filters:
            panel = panel_at(p, first, True)
            row_outputs(
                panel.bytes, panel.vectors, band.columns, scratch + row * p.g.stride[1] * p.pitch,
                p.g.stride[2] * p.g.channels, c.at, p.g.taps // p.run, p.run, start + panel.lanes, start,
                out + panel.first, p.g.filters, c.far,
            )
            start += panel.lanes * (p.g.taps + 1)
            first = panel.first + panel.lanes
        if apart:
            memcpy(y + row * p.g.out[2] * p.g.filters, out, band.columns * p.g.filters * sizeof(float))
    if c.far:
        fence()


cdef struct Gradient:
    const float *x
    const float *dy
    const Plan *p
    const Py_ssize_t *at
    Py_ssize_t taps, size, chunks   # size: of a chunk's gradient
    float *scratch      # a row of `room` a slot
    Py_ssize_t room


@Kernel
def gradient_weights(
    bytes geometry, const Py_ssize_t[::1] at, const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy,
    float[:, :, :, :, ::1] dw, float[::1] db, float[::1] scratch, Py_ssize_t chunks, int threads,
):
    """dw = the gradient to w: that over each of `chunks` runs of bands, and then their sum in order; db (None: not
    wanted) that to the bias, as to the weights of one more tap, which sees ones.

    at: the `offsets`; scratch: a line, what `room` says for each chunk, then that for each thread.
    """
    cdef const Plan *p = <const Plan *> <const char *> geometry
    cdef Py_ssize_t taps = p.g.taps + (db is not None), size = lanes_of(p, False) * taps
    cdef Py_ssize_t room = (scratch.shape[0] - LINE - chunks * size) // threads
    cdef float *memory = aligned(&scratch[0])
    cdef Gradient c = Gradient(
        &x[0, 0, 0, 0, 0], &dy[0, 0, 0, 0, 0], p, &at[0], taps, size, chunks, memory + chunks * size, room
    )
    run(<Task> gradient_task, memory, &c, chunks, threads)
    cdef float *bias = NULL
    if db is not None:
        bias = &db[0]
    unpack(p, memory, size, chunks, taps, &dw[0, 0, 0, 0, 0], bias)


cdef void gradient_task(float *partial, const Gradient *c, Py_ssize_t task, int slot) noexcept nogil:
    """A chunk of bands."""
    cdef const Plan *p = c.p
    cdef float *scratch = c.scratch + slot * c.room
    cdef Py_ssize_t bands = bands_of(&p.g), taps = c.taps
    cdef Py_ssize_t total = bands // (p.g.row_bands * p.g.column_bands) * p.g.out[1] * p.g.out[2] * p.g.filters
    cdef Py_ssize_t number, row, first, pixel, tiles, tile, tap, last, dy_row
    cdef const float *values
    cdef const float *next
    cdef float *out
    cdef float *copy = scratch + p.elements + p.plane
    cdef Panel panel
    cdef Band band
    partial += task * c.size
    memset(partial, 0, c.size * sizeof(float))
    for row in range(p.plane):
        scratch[p.elements + row] = 1
    for number in range(task * bands // c.chunks, (task + 1) * bands // c.chunks):
        band = open_band(c.x, p, number, scratch)
        pixel = first_pixel(&p.g, &band)
        values = c.dy + pixel * p.g.filters
        next = values + band.rows * band.columns * p.g.filters
        dy_row = p.g.out[2] * p.g.filters
        last = (pixel + (band.rows - 1) * p.g.out[2] + band.columns) * p.g.filters
        if last + p.widest // 4 > total:  # a panel that is not full would read beyond dy
            for row in range(band.rows):
                memcpy(
                    copy + row * band.columns * p.g.filters, values + row * dy_row,
                    band.columns * p.g.filters * sizeof(float),
                )
            dy_row = band.columns * p.g.filters
            values = copy
            memset(copy + band.rows * dy_row, 0, p.widest)
        out = partial
        first = 0
        while first < p.g.filters:
            panel = panel_at(p, first, False)
            tiles = (taps - 1) // most_taps(panel.bytes, panel.vectors) + 1
            for tile in range(tiles):
                tap = tile * taps // tiles
                add_products(
                    panel.bytes, panel.vectors, (tile + 1) * taps // tiles - tap, scratch, c.at + tap, band.rows,
                    p.g.stride[1] * p.pitch, band.columns, p.g.stride[2] * p.g.channels, values + first, dy_row,
                    p.g.filters, next, out + tap * panel.lanes,
                )
            out += taps * panel.lanes
            next += band.rows * band.columns * panel.vectors * LINE
            first += panel.lanes


cdef void unpack(
    const Plan *p, float *partial, Py_ssize_t size, Py_ssize_t chunks, Py_ssize_t taps, float *dw, float *db
) noexcept nogil:
    """dw and db = the sum of the chunks, which panels hold tap by tap."""
    cdef Py_ssize_t chunk, j, first = 0, tap, lane
    cdef Panel panel
    for chunk in range(1, chunks):
        for j in range(size):
            partial[j] += partial[chunk * size + j]
    while first < p.g.filters:
        panel = panel_at(p, first, False)
        for lane in range(min(panel.lanes, p.g.filters - first)):
            for tap in range(p.g.taps):
                dw[(first + lane) * p.g.taps + tap] = partial[tap * panel.lanes + lane]
            if db != NULL:
                db[first + lane] = partial[p.g.taps * panel.lanes + lane]
        partial += taps * panel.lanes
        first += panel.lanes
