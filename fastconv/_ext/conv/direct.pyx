"""Direct convolution: register tiles (direct.h) that read the input itself, or a padded copy of a small part of it.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k). Work is cut into bands:
some images, one output plane, some rows and columns of it. Where a band's windows reach into the padding, what they see
is copied into scratch first, zeros around it; otherwise they read x. The outputs may be every `step`-th of y from
`origin` on: the phases of a gradient to the input (fastconv.engine.phases) lie so.

Weights are packed: panels of at most two vectors of filters, each tap by tap (`pack`, and `unpack` for gradients).
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastconv._ext.conv.epilogue cimport Epilogue, epilogue
from fastconv._ext.geometry cimport Band, Geometry, band_at, banded, bands_of, copy_plane
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "conv/direct.h" nogil:
    ctypedef struct Runs:
        const Py_ssize_t *at
        Py_ssize_t count
        Py_ssize_t length

    void fetch_rows(const float *x, Py_ssize_t row, Py_ssize_t rows)
    void transpose(
        const float *source, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t columns, float *out, Py_ssize_t out_row)
    Py_ssize_t most_rows(int bytes, int vectors)
    void tile_outputs(
        int bytes, int vectors, Py_ssize_t rows, const float *x, const Py_ssize_t *at, Runs taps, const float *w,
        const float *start, const Epilogue *after, float *y, const Py_ssize_t *to, Py_ssize_t filters, int far)
    void fence()
    void tile_weights(
        int bytes, int vectors, Py_ssize_t rows, const float *x, const Py_ssize_t *at, Py_ssize_t pixels,
        const Py_ssize_t *taps, const float *dy, const Py_ssize_t *start, const float *soon,
        const Py_ssize_t *soon_at, float *dw, Py_ssize_t row, int add)
    void copy_rows(
        int bytes, int vectors, Py_ssize_t rows, const float *source, const Py_ssize_t *at, Py_ssize_t count,
        float *out)

cdef enum:
    MOST = 32  # lanes of a panel
    FEW = 8  # taps of a run
    REREAD = 64  # taps up to which dy is read where it lies
    PAGE = 1024  # floats
    CACHED = 1 << 16  # floats of weights
    LINE = 16  # floats of a cache line, which lie between the rows of a copy of dy, at least
    PACKED_AHEAD = 16  # rows of weights that are fetched ahead
    AHEAD = 16  # entries that `at` has behind its last: at least a tile


cdef struct Part:
    Geometry g
    Py_ssize_t first_tap[3]     # of the whole kernel's
    Py_ssize_t tap_step[3]
    Py_ssize_t packed           # where its weights begin
    Py_ssize_t panels           # of all groups
    Py_ssize_t splits           # runs of panels that tasks of their own take


# --- panels ----------------------------------------------------------------------------------------------------------


cdef struct Panel:
    Py_ssize_t first    # filter
    Py_ssize_t count    # of filters
    Py_ssize_t lanes
    int bytes           # of its vectors
    int vectors


cdef inline Panel panel_at(Py_ssize_t first, Py_ssize_t stop, int widest) noexcept nogil:
    """The panel that begins with filter `first` of a group that ends before `stop`: as wide as the filters fill."""
    cdef Panel panel
    cdef Py_ssize_t left = stop - first, lanes = widest // 4
    panel.first = first
    panel.bytes = widest
    panel.vectors = 2
    if left <= lanes or (widest == 64 and left <= lanes + 8):
        panel.vectors = 1
        if widest == 64 and left <= 8:
            panel.bytes = 32
    panel.lanes = panel.vectors * panel.bytes // 4
    panel.count = min(panel.lanes, left)
    return panel


cdef inline Py_ssize_t panels_of(Py_ssize_t filters, int widest, Py_ssize_t *lanes) noexcept nogil:
    """How many panels hold a group's filters, and how many lanes they have together."""
    cdef Py_ssize_t count = 0, first = 0
    cdef Panel panel
    lanes[0] = 0
    while first < filters:
        panel = panel_at(first, filters, widest)
        first += panel.count
        lanes[0] += panel.lanes
        count += 1
    return count


cdef inline Panel panel_number(Py_ssize_t number, Py_ssize_t filters, int widest, Py_ssize_t *lanes) noexcept nogil:
    """A group's panel by its number, and the lanes of those before it."""
    cdef Panel panel = panel_at(0, filters, widest)
    lanes[0] = 0
    while number > 0:
        lanes[0] += panel.lanes
        panel = panel_at(panel.first + panel.count, filters, widest)
        number -= 1
    return panel


def panels(Py_ssize_t filters, int widest):
    """(panels, lanes) of a group of so many filters, for vectors of `widest` bytes."""
    cdef Py_ssize_t lanes
    return panels_of(filters, widest, &lanes), lanes


def room(Py_ssize_t seen, Py_ssize_t pixels, Py_ssize_t channels, Py_ssize_t taps):
    """Floats of scratch and entries of tables that a thread needs for bands of at most so many pixels, whose windows
    have `taps` taps and see `seen` floats."""
    cdef Py_ssize_t floats = max(seen, pixels * (channels + LINE))
    return (floats + MOST - 1) // MOST * MOST + pixels * MOST, 4 * max(pixels + AHEAD, FEW * taps)


cdef struct Packing:
    const float *w              # (groups, filters, r0, r1, r2, channels)
    Py_ssize_t shape[6]
    Py_ssize_t strides[6]       # in elements
    const Part *parts
    int widest


@Kernel
def pack(const float[:, :, :, :, :, :] w, float[::1] packed, int widest, int num_threads):
    """packed = w (groups, filters, r0, r1, r2, channels), any strides: group by group, panel by panel, tap by tap."""
    cdef Py_ssize_t lanes
    cdef Part whole
    cdef int axis
    for axis in range(3):
        whole.first_tap[axis], whole.tap_step[axis], whole.g.kernel[axis] = 0, 1, w.shape[2 + axis]
    whole.packed, whole.panels = 0, w.shape[0] * panels_of(w.shape[1], widest, &lanes)
    pack_taps(w, packed, &whole, 1, widest, num_threads)


@Kernel
def pack_parts(const float[:, :, :, :, :, :] w, float[::1] packed, Parts parts, int widest, int num_threads):
    """Each part's taps of w (groups, filters, r0, r1, r2, channels), any strides, as `pack` does."""
    pack_taps(w, packed, parts.parts, parts.count, widest, num_threads)


cdef int pack_taps(
    const float[:, :, :, :, :, :] w, float[::1] packed, const Part *parts, Py_ssize_t count, int widest,
    int num_threads,
) except -1:
    cdef Packing c
    cdef int axis
    c.w, c.parts, c.widest = &w[0, 0, 0, 0, 0, 0], parts, widest
    for axis in range(6):
        c.shape[axis], c.strides[axis] = w.shape[axis], w.strides[axis] // <Py_ssize_t> sizeof(float)
    run(<Task> pack_task, &packed[0], &c, count * parts.panels, num_threads)


cdef void pack_task(float *packed, const Packing *c, Py_ssize_t task, int slot) noexcept nogil:
    """A panel of one part."""
    cdef const Part *part = &c.parts[task // c.parts.panels]
    cdef Py_ssize_t before, lanes, r0, r1, r2, channel, lane, row, rows
    cdef Py_ssize_t depth = c.shape[5], next_filter = c.strides[1], next_channel = c.strides[5]
    cdef Py_ssize_t per_group = panels_of(c.shape[1], c.widest, &lanes), group = task % part.panels // per_group
    cdef Panel panel = panel_number(task % per_group, c.shape[1], c.widest, &before)
    cdef const float *first = c.w + group * c.strides[0] + panel.first * next_filter
    cdef const float *source
    packed += part.packed + (group * lanes + before) * part.g.kernel[0] * part.g.kernel[1] * part.g.kernel[2] * depth
    for r0 in range(part.g.kernel[0]):
        for r1 in range(part.g.kernel[1]):
            for r2 in range(part.g.kernel[2]):
                for channel in range(0, depth, 16):  # a line of each filter, which may lie a power of two apart
                    source = (
                        first + (part.first_tap[0] + r0 * part.tap_step[0]) * c.strides[2]
                        + (part.first_tap[1] + r1 * part.tap_step[1]) * c.strides[3]
                        + (part.first_tap[2] + r2 * part.tap_step[2]) * c.strides[4] + channel * next_channel
                    )
                    rows = min(<Py_ssize_t> 16, depth - channel)
                    if next_channel == 1:
                        fetch_rows(source + 2 * LINE, next_filter, panel.count)
                        transpose(source, next_filter, panel.count, rows, packed, panel.lanes)
                    for row in range(rows):
                        if next_filter == 1 and panel.count == MOST:  # as registers copy
                            fetch_rows(source + (row + PACKED_AHEAD) * next_channel, LINE, MOST // LINE)
                            memcpy(packed, source + row * next_channel, MOST * sizeof(float))
                        elif next_filter == 1:
                            memcpy(packed, source + row * next_channel, panel.count * sizeof(float))
                        elif next_channel != 1:
                            for lane in range(panel.count):
                                packed[lane] = source[row * next_channel + lane * next_filter]
                        for lane in range(panel.count, panel.lanes):
                            packed[lane] = 0
                        packed += panel.lanes


cdef struct Unpacking:
    const float *partial        # (parts, size)
    Py_ssize_t parts, size, filters, taps
    int widest


@Kernel
def unpack(const float[:, ::1] partial, float[:, :, ::1] dw, int widest, int num_threads):
    """dw (groups, filters, taps) = the sum of the rows of `partial`, each packed as `pack` does, in order."""
    cdef Py_ssize_t lanes
    cdef Py_ssize_t count = panels_of(dw.shape[1], widest, &lanes)
    cdef Unpacking c = Unpacking(&partial[0, 0], partial.shape[0], partial.shape[1], dw.shape[1], dw.shape[2], widest)
    run(<Task> unpack_task, &dw[0, 0, 0], &c, dw.shape[0] * count, num_threads)


cdef void unpack_task(float *dw, const Unpacking *c, Py_ssize_t task, int slot) noexcept nogil:
    """A panel."""
    cdef Py_ssize_t before, lanes, tap, lane, part, rows, row
    cdef Py_ssize_t per_group = panels_of(c.filters, c.widest, &lanes), group = task // per_group, taps = c.taps
    cdef Panel panel = panel_number(task % per_group, c.filters, c.widest, &before)
    cdef float sums[16][MOST]
    cdef const float *first = c.partial + (group * lanes + before) * taps
    cdef const float *source
    dw += (group * c.filters + panel.first) * taps
    for tap in range(0, taps, 16):
        rows = min(<Py_ssize_t> 16, taps - tap)
        for part in range(c.parts):
            source = first + part * c.size + tap * panel.lanes
            for row in range(rows):
                for lane in range(panel.lanes):
                    sums[row][lane] = source[row * panel.lanes + lane] + (sums[row][lane] if part else 0)
        for lane in range(0, panel.count, 4):
            transpose(
                &sums[0][lane], MOST, rows, min(<Py_ssize_t> 4, panel.count - lane), dw + lane * taps + tap, taps
            )


# --- bands -----------------------------------------------------------------------------------------------------------


cdef inline bint is_flat(const Geometry *g) noexcept nogil:
    """Whether an output sees one pixel, its neighbour the next one."""
    return g.taps == g.channels and g.stride[0] * g.stride[1] * g.stride[2] == 1


cdef struct View:           # how a band's windows are read
    const float *x          # the first tap of its first window
    Py_ssize_t image, plane, row    # steps in x; a column's is `channels`
    Py_ssize_t pixels
    Runs runs


cdef inline Py_ssize_t run_length(const Geometry *g, int widest) noexcept nogil:
    """Taps that lie one behind the other: those of a window's row, or of one of its pixels. Few of them are taken one
    by one where a panel has one vector."""
    cdef Py_ssize_t length = g.channels // g.groups
    if g.groups == 1 and g.dilation[2] == 1:
        length *= g.kernel[2]
    if length < FEW and g.filters // g.groups <= widest // 4:
        length = 1
    return length


cdef void open_band(
    const float *x, const Geometry *g, Py_ssize_t number, float *scratch, Py_ssize_t *at, Py_ssize_t *to,
    Py_ssize_t *runs, View *view, int widest,
) noexcept nogil:
    """Band `number`: where its windows are read, its pixels `at` there and `to` in y, its runs of taps."""
    cdef Band band = band_at(g, number)
    cdef Py_ssize_t depth = (g.kernel[0] - 1) * g.dilation[0] + 1
    cdef Py_ssize_t n, r, c, r0, r1, r2, e, from_x, from_y, length, index = 0
    view.pixels = band.images * band.rows * band.columns
    if (
        min(band.at[0], band.at[1], band.at[2]) >= 0 and band.at[0] + depth <= g.inp[0]
        and band.at[1] + band.height <= g.inp[1] and band.at[2] + band.width <= g.inp[2]
    ):
        view.row = g.inp[2] * g.channels
        view.plane = g.inp[1] * view.row * g.dilation[0]
        view.image = g.inp[0] * g.inp[1] * view.row
        view.x = x + (
            band.image * view.image + ((band.at[0] * g.inp[1] + band.at[1]) * g.inp[2] + band.at[2]) * g.channels
        )
    else:
        view.row = band.width * g.channels
        view.plane = band.height * view.row
        view.image = g.kernel[0] * view.plane
        view.x = scratch
        for n in range(band.images):
            for r0 in range(g.kernel[0]):
                copy_plane(x, g, &band, band.image + n, r0, scratch, view.row)
                scratch += view.plane
    for n in range(band.images):
        for r in range(band.rows):
            from_x = n * view.image + r * g.stride[1] * view.row
            from_y = (
                (((band.image + n) * g.full[0] + g.origin[0] + band.plane * g.step[0]) * g.full[1]
                 + g.origin[1] + (band.row + r) * g.step[1]) * g.full[2] + g.origin[2] + band.column * g.step[2]
            ) * g.filters
            for c in range(band.columns):
                at[index + c] = from_x + c * g.stride[2] * g.channels
                to[index + c] = from_y + c * g.step[2] * g.filters
            index += band.columns
    for n in range(AHEAD):
        at[index + n] = at[index - 1]
    index = 0
    length = run_length(g, widest)
    for r0 in range(g.kernel[0]):
        for r1 in range(g.kernel[1]):
            for e in range(0, g.kernel[2] * (g.channels // g.groups) // length):
                r2 = e * length // (g.channels // g.groups)
                runs[index] = (
                    r0 * view.plane + r1 * g.dilation[1] * view.row + r2 * g.dilation[2] * g.channels
                    + e * length % (g.channels // g.groups)
                )
                index += 1
    view.runs.at = runs
    view.runs.count = index
    view.runs.length = length


cdef inline bint misaligned(const float *pixels, Py_ssize_t filters, int size) noexcept nogil:
    """Whether vectors of `size` bytes of a group's filters may lie across cache lines."""
    return <size_t> pixels % size != 0 or filters * sizeof(float) % size != 0


# --- convolution -----------------------------------------------------------------------------------------------------


cdef class Parts:
    """Convolutions of one x, each with some of a kernel's taps, to outputs of their own in one y; planned once.

    parts: (window, outputs, taps, cut, splits) of each: `outputs` and `taps` a slice per spatial axis of y and w, `cut`
    as for `banded`.
    """

    cdef Part *parts
    cdef readonly Py_ssize_t count, size  # size: elements of all packed weights

    def __cinit__(self, tuple x_shape, tuple y_shape, Py_ssize_t groups, tuple parts, tuple kernel, int widest):
        cdef Py_ssize_t lanes
        cdef Part *part
        self.parts = <Part *> calloc(max(1, len(parts)), sizeof(Part))
        if self.parts == NULL:
            raise MemoryError
        for window, outputs, taps, cut, splits in parts:
            part = &self.parts[self.count]
            part.g = banded(x_shape, y_shape, window, groups, outputs, cut)
            for axis in range(3):
                part.first_tap[axis], _, part.tap_step[axis] = taps[axis].indices(kernel[axis])
            part.panels = groups * panels_of(part.g.filters // groups, widest, &lanes)
            part.packed = self.size
            part.splits = splits
            self.size += groups * lanes * part.g.taps
            self.count += 1

    def __dealloc__(self):
        free(self.parts)


cdef inline Py_ssize_t tasks_of(const Part *part) noexcept nogil:
    return bands_of(&part.g) * part.splits


cdef struct Forward:
    const float *x
    const float *packed
    const float *start
    const Part *parts
    float *scratch              # a row of `size` a slot
    Py_ssize_t *tables          # a row of `room` a slot
    Py_ssize_t size, room
    Epilogue after              # its norm packed like start
    bint far
    int widest


@Kernel
def forward(
    const float[:, :, :, :, ::1] x, const float[::1] packed, const float[::1] start, float[:, :, :, :, ::1] y,
    Parts parts, float[:, ::1] scratch, Py_ssize_t[:, ::1] tables, bint far, int widest, object after,
):
    """The outputs of the parts, y = start + conv(x, w), or what comes of that after it (an Epilogue).

    packed: w by `pack_parts`; start: a bias, packed likewise, as after.norm's rows are; scratch and tables: a row a
    thread, with room for a band's copy, and four times for its pixels and AHEAD, or its runs; far: y is to be written
    past the caches, which is done where its vectors are aligned.
    """
    cdef Py_ssize_t tasks = 0, number
    for number in range(parts.count):
        tasks += tasks_of(&parts.parts[number])
    cdef bint aligned = not misaligned(&y[0, 0, 0, 0, 0], parts.parts.g.filters // parts.parts.g.groups, 64)
    cdef Forward c = Forward(
        &x[0, 0, 0, 0, 0], &packed[0], &start[0], parts.parts, &scratch[0, 0], &tables[0, 0], scratch.shape[1],
        tables.shape[1], epilogue(after, &y[0, 0, 0, 0, 0], y.size, sizeof(float)), far and aligned, widest,
    )
    run(<Task> forward_task, &y[0, 0, 0, 0, 0], &c, tasks, <int> scratch.shape[0])


cdef void forward_task(float *y, const Forward *c, Py_ssize_t task, int slot) noexcept nogil:
    """A run of panels over a view."""
    cdef const Part *part = c.parts
    while task >= tasks_of(part):
        task -= tasks_of(part)
        part += 1
    cdef const Geometry *g = &part.g
    cdef const float *packed = c.packed + part.packed
    cdef int widest = c.widest
    cdef Py_ssize_t filters = g.filters // g.groups, depth = g.channels // g.groups
    cdef Py_ssize_t lanes, before, index, group, tiles, tile, first, block, block_first, pixels
    cdef Py_ssize_t per_group = panels_of(filters, widest, &lanes)
    cdef Py_ssize_t count = per_group * g.groups, split = task % part.splits
    cdef Py_ssize_t first_panel = split * count // part.splits, last_panel = (split + 1) * count // part.splits
    cdef float *scratch = c.scratch + slot * c.size
    cdef Py_ssize_t *at = c.tables + slot * c.room
    cdef Py_ssize_t *to = at + c.room // 4
    cdef Epilogue after = c.after
    cdef Panel panel
    cdef View view
    open_band(c.x, g, task // part.splits, scratch, at, to, at + 2 * (c.room // 4), &view, widest)
    cdef bint pointwise = g.groups == 1 and g.kernel[0] * g.kernel[1] * g.kernel[2] == 1
    if pointwise and g.stride[2] * g.channels % PAGE == 0 and view.x != scratch:
        spread(g.channels, scratch, at, &view)
    # all filters of a few pixels where the weights stay in the second cache: x is read once, y written in its order
    cdef Py_ssize_t blocks = 1
    if last_panel - first_panel > 1 and (last_panel - first_panel) * MOST * g.taps <= CACHED:
        blocks = (view.pixels - 1) // (14 if widest == 64 else 12) + 1  # tiles of every width fit
    for block in range(blocks):
        block_first = block * view.pixels // blocks
        pixels = (block + 1) * view.pixels // blocks - block_first
        for index in range(first_panel, last_panel):
            group = index // per_group
            panel = panel_number(index % per_group, filters, widest, &before)
            tiles = (pixels - 1) // most_rows(panel.bytes, panel.vectors) + 1
            before += group * lanes
            if c.after.norm != NULL:
                after.norm = <const float *> c.after.norm + before
            for tile in range(tiles):
                first = block_first + tile * pixels // tiles
                tile_outputs(
                    panel.bytes, panel.vectors, block_first + (tile + 1) * pixels // tiles - first,
                    view.x + group * depth, at + first, view.runs, packed + before * g.taps, c.start + before,
                    &after, y + group * filters + panel.first, to + first, panel.count, c.far,
                )
    if c.far:
        fence()


cdef void spread(Py_ssize_t channels, float *scratch, Py_ssize_t *at, View *view) noexcept nogil:
    """Copies the pixels of a band, of one tap, next to each other: pages apart they would share the first cache's
    sets."""
    cdef Py_ssize_t pixel
    for pixel in range(view.pixels):
        memcpy(scratch + pixel * (channels + 16), view.x + at[pixel], channels * sizeof(float))
        at[pixel] = pixel * (channels + 16)
    for pixel in range(AHEAD):
        at[view.pixels + pixel] = at[view.pixels - 1]
    view.x = scratch


cdef struct Gradient:
    const float *x
    const float *dy
    const Geometry *g
    Py_ssize_t elements, chunks, splits     # elements: of the packed weights
    float *scratch              # a row of `size` a slot
    Py_ssize_t *tables          # a row of `room` a slot
    Py_ssize_t size, room
    int widest
    bint transposed


@Kernel
def gradient_weights(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy, float[:, ::1] partial, object window,
    Py_ssize_t groups, tuple cut, Py_ssize_t splits, float[:, ::1] scratch, Py_ssize_t[:, ::1] tables, int widest,
    bint transposed,
):
    """partial[j] = the gradient to the packed weights over the j-th run of bands; their sum in order is dw (`unpack`).
    transposed: in place of packed (taps, filters), of one group whose panels have no lane without a filter.

    splits: runs of panels that tasks of their own take; scratch: a row a thread, with room for a band's copy and its dy
    of a panel.
    """
    cdef Geometry g = banded((<object> x).shape, (<object> dy).shape, window, groups, None, cut)
    cdef Gradient c = Gradient(
        &x[0, 0, 0, 0, 0], &dy[0, 0, 0, 0, 0], &g, partial.shape[1], partial.shape[0], splits, &scratch[0, 0],
        &tables[0, 0], scratch.shape[1], tables.shape[1], widest, transposed,
    )
    run(<Task> weights_task, &partial[0, 0], &c, c.chunks * splits, <int> scratch.shape[0])


cdef void weights_task(float *partial, const Gradient *c, Py_ssize_t task, int slot) noexcept nogil:
    """A run of panels over a chunk of bands."""
    cdef const Geometry *g = c.g
    cdef const float *dy = c.dy
    cdef int widest = c.widest
    cdef Py_ssize_t filters = g.filters // g.groups, depth = g.channels // g.groups
    cdef Py_ssize_t lanes, before, index, group, number, tiles, tile, first, rows, row, tap, pixel
    cdef Py_ssize_t per_group = panels_of(filters, widest, &lanes)
    cdef Py_ssize_t count = per_group * g.groups, split = task % c.splits, chunk = task // c.splits
    cdef Py_ssize_t first_panel = split * count // c.splits, last_panel = (split + 1) * count // c.splits
    cdef Py_ssize_t bands = bands_of(g), first_band = chunk * bands // c.chunks
    cdef Py_ssize_t last = (chunk + 1) * bands // c.chunks - 1
    cdef float *scratch = c.scratch + slot * c.size
    cdef Py_ssize_t *at = c.tables + slot * c.room
    cdef Py_ssize_t *to = at + c.room // 4
    cdef Py_ssize_t *runs = to + c.room // 4
    cdef Py_ssize_t *values_at = runs + c.room // 4
    cdef const Py_ssize_t *dy_at
    cdef Py_ssize_t taps[16]
    cdef bint unaligned = misaligned(dy, filters, widest)
    cdef float *values
    cdef const float *source
    cdef const float *soon
    cdef const float *ahead
    cdef const Py_ssize_t *ahead_at
    cdef Py_ssize_t line  # of a pixel of the next band
    cdef Py_ssize_t into, row_into
    cdef Panel panel
    cdef View view
    partial += chunk * c.elements
    for number in range(first_band, last + 1):
        open_band(c.x, g, number, scratch, at, to, runs, &view, widest)
        values = scratch + c.size - view.pixels * MOST
        line = g.channels
        if number < last and is_flat(g) and view.x != scratch:
            line = 0
        for index in range(first_panel, last_panel):
            group = index // per_group
            panel = panel_number(index % per_group, filters, widest, &before)
            into, row_into = (before + group * lanes) * g.taps, panel.lanes
            if c.transposed:
                into, row_into = panel.first, filters
            source = dy + group * filters + panel.first
            soon = source + panel.count
            if index + 1 == last_panel:
                soon = dy + first_panel * MOST + view.pixels * g.filters
            dy_at = to
            if panel.count < panel.lanes or g.taps > REREAD or unaligned:
                for pixel in range(view.pixels):
                    values_at[pixel] = pixel * panel.lanes
                copy_rows(panel.bytes, panel.vectors, view.pixels, source, to, panel.count, values)
                source = values
                dy_at = values_at
            tiles = (g.taps - 1) // most_rows(panel.bytes, panel.vectors) + 1
            for tile in range(tiles):
                first = tile * g.taps // tiles
                rows = (tile + 1) * g.taps // tiles - first
                for row in range(rows):
                    tap = first + row
                    taps[row] = group * depth + view.runs.at[tap // view.runs.length] + tap % view.runs.length
                # fetched: a line of each pixel of the next panel, or of the next band's first one; then of the next
                # band's x where that follows this one's, else the next tile's taps
                ahead, ahead_at = soon + tile * LINE, to
                if tile >= panel.vectors + unaligned:
                    ahead, ahead_at = view.x + taps[rows - 1] + LINE, at
                    if line < g.channels:
                        ahead = view.x + view.pixels * g.channels + line
                        line += LINE
                tile_weights(
                    panel.bytes, panel.vectors, rows, view.x, at, view.pixels, taps, source, dy_at, ahead, ahead_at,
                    partial + into + first * row_into, row_into, number > first_band,
                )
