"""Winograd's convolution: the loops over tiles, frequencies and panels of channels; the arithmetic is winograd.h's.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k), w (k, r0, r1, r2, c / g);
where `taps_last` w is (k, c / g, r0, r1, r2). Tiles are counted over batch, first axis, rows and columns. For each
frequency f, over the steps s = (phase, first axis' tap, channel):

    V[f] (tiles, s) = transformed x     U[f] (s, k) = transformed w     M[f] = V[f] @ U[f]     y = transformed M
    dM[f] (tiles, k) = transformed dy   dU[f] (k, s) = dM[f].T @ V[f]   dw = transformed dU

Rows of V, M, dM and dU are `row` floats apart, planes (frequencies) `plane`. By blocks, a thread takes a block of tiles
through all three stages in its own scratch, where M[f] takes the place of V[f - 1]. By panels, V of many tiles is made
first, and a thread takes some filters through the rest.
"""

from libc.stdint cimport uintptr_t

from fastconv._ext.conv.epilogue cimport Epilogue, epilogue
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "conv/winograd.h" nogil:
    ctypedef struct Layer:
        Py_ssize_t batch
        Py_ssize_t inp "in"[3]
        Py_ssize_t out[3]
        Py_ssize_t before[3]
        Py_ssize_t kernel[3]
        Py_ssize_t step[3]
        int taps_last
        Py_ssize_t stride[3]
        Py_ssize_t phases[2]
        Py_ssize_t whole[2]
        Py_ssize_t x_pixel, y_first, y_image, y_plane, y_row, y_column, channels, filters
        Py_ssize_t tiles[2]
        const Py_ssize_t *at[2]
        Epilogue after
        int far
        const float *zeros

    ctypedef struct Ahead:
        pass

    int CACHE_LINE
    void fence()
    Py_ssize_t most_rows(int bytes, int vectors)
    void skip(Ahead *, Py_ssize_t part, Py_ssize_t parts)
    Ahead ahead_of(const Layer *, const float *x, const float *dy, Py_ssize_t first, Py_ssize_t last, Py_ssize_t tiles)
    int OUTPUTS(int taps)
    int POINTS(int taps)
    void axis_matrices(float *interpolate, float *evaluate, float *scaled, float *five)
    void transform_inputs(
        int, const float *, float *, Py_ssize_t, Py_ssize_t, const Layer *, Py_ssize_t, Py_ssize_t)
    void transform_gradients(
        int, const float *, float *, Py_ssize_t, Py_ssize_t, const Layer *, Py_ssize_t, Py_ssize_t)
    void transform_filters(
        int, const float *, int, float *, Py_ssize_t, Py_ssize_t, const Layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void outputs_from(
        int, const float *, Py_ssize_t, Py_ssize_t, const float *, float *, Py_ssize_t, Py_ssize_t, const Layer *,
        Py_ssize_t, Py_ssize_t)
    void filters_from(
        int, const float *, Py_ssize_t, Py_ssize_t, float *, Py_ssize_t, int, const Layer *, Py_ssize_t, Py_ssize_t)
    void product(
        int, const Layer *, Py_ssize_t, const float *, Py_ssize_t, const float *, float *, Py_ssize_t, Py_ssize_t,
        Py_ssize_t, Py_ssize_t, Py_ssize_t, Ahead *)
    void product_transposed(
        int, const Layer *, Py_ssize_t, const float *, Py_ssize_t, const float *, Py_ssize_t, float *, Py_ssize_t,
        Py_ssize_t, Py_ssize_t, int, Ahead *)
    void product_transposed_of(
        int, const Layer *, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, const float *, Py_ssize_t, float *,
        Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, int, Ahead *)

cdef enum:
    FILTER_STEPS = 64  # of one task that transforms filters
    PIECE = 7  # tiles of one task that transforms nothing but them


TILES = {taps: (OUTPUTS(taps), POINTS(taps)) for taps in (1, 2, 3, 5)}  # along an axis: outputs, and inputs


cdef Layer layer(
    tuple x_shape, tuple y_shape, object window, Py_ssize_t groups, object tiling
):
    """Unpack a lifted fastconv.window.Window and a fastconv.engine.winograd.Tiling."""
    cdef Layer g
    cdef const Py_ssize_t[::1] at
    cdef const float[::1] zeros = tiling.zeros  # tiling outlives the call
    cdef int axis
    cdef Py_ssize_t first[3]
    cdef Py_ssize_t apart[3]
    g.batch = x_shape[0]
    g.zeros = &zeros[0]
    g.x_pixel = x_shape[4]
    g.channels, g.filters = x_shape[4] // groups, y_shape[4] // groups
    for axis in range(3):
        g.inp[axis] = x_shape[1 + axis]
        first[axis] = tiling.first[axis]
        apart[axis] = tiling.apart[axis]
        g.out[axis] = tiling.out[axis]
        g.before[axis] = window.padding[axis][0]
        g.kernel[axis] = window.kernel[axis]
        g.step[axis] = window.dilation[axis]
        g.stride[axis] = window.stride[axis]
    g.taps_last = g.far = False
    g.y_column = apart[2] * y_shape[4]
    g.y_row = apart[1] * y_shape[3] * y_shape[4]
    g.y_plane = apart[0] * y_shape[2] * y_shape[3] * y_shape[4]
    g.y_image = y_shape[1] * y_shape[2] * y_shape[3] * y_shape[4]
    g.y_first = ((first[0] * y_shape[2] + first[1]) * y_shape[3] + first[2]) * y_shape[4]
    for axis in range(2):
        at = tiling.at[axis]
        g.phases[axis], g.whole[axis] = tiling.phases[axis], tiling.whole[axis]
        g.tiles[axis] = at.shape[0]
        g.at[axis] = &at[0]
    return g


cdef inline bint whole_lines(const Layer *g, const float *y) noexcept nogil:
    """Whether the filters of a pixel of y are cache lines."""
    return <uintptr_t> y % CACHE_LINE == 0 and g.filters * <int> sizeof(float) % CACHE_LINE == 0


cdef inline Py_ssize_t tile_count(const Layer *g) noexcept nogil:
    return g.batch * g.out[0] * g.tiles[0] * g.tiles[1]


cdef inline Py_ssize_t parts(Py_ssize_t count, Py_ssize_t size) noexcept nogil:
    """Those of `size` that `count` is cut into, the last may be shorter."""
    return (count + size - 1) // size


def axis_transforms():
    """winograd.h's transforms along one axis: B' (6, 6), the powers of the points (6, 5), G: these scaled (6, 5), and
    B' for 2 taps (5, 5)."""
    cdef float interpolate[36]
    cdef float evaluate[30]
    cdef float scaled[30]
    cdef float five[25]
    axis_matrices(interpolate, evaluate, scaled, five)
    return (
        [[interpolate[i * 6 + j] for j in range(6)] for i in range(6)],
        [[evaluate[i * 5 + j] for j in range(5)] for i in range(6)],
        [[scaled[i * 5 + j] for j in range(5)] for i in range(6)],
        [[five[i * 5 + j] for j in range(5)] for i in range(5)],
    )


cdef inline Py_ssize_t register_tiles(int bytes, Py_ssize_t rows, Py_ssize_t lanes) noexcept nogil:
    """Of a product."""
    return parts(rows, most_rows(bytes, 2)) * parts(lanes, 2 * bytes // <int> sizeof(float))


cdef struct ForwardBlocks:
    const Layer *g
    const float *w
    const float *bias  # may be NULL
    float *y
    float *u
    float *buffers
    Py_ssize_t copy  # floats to the next slot's U, the last of which says whether it is made; 0: all have one
    Py_ssize_t filter_tasks, frequencies, u_plane, group_weights, row, plane, buffer, block
    int bytes
    bint reversed


@Kernel
def forward_blocks(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] w, const float[::1] bias, float[:, :, :, :, ::1] y,
    object window, Py_ssize_t groups, bint reversed, bint taps_last, object tiling, float[:, :, :, ::1] u,
    bint ready, float[:, ::1] buffers, Py_ssize_t row, Py_ssize_t plane, Py_ssize_t block, int bytes, object after,
    bint far, int num_threads,
):
    """Fill y; u (1, groups, frequencies, steps * whole vectors of filters or more), for a thread (frequencies + 1)
    planes. u (threads, …): each makes its own. ready: u holds the transformed weights.

    reversed: y is the gradient to the input, x that to the output, and w's filters are x's channels; after: an
    Epilogue, of the outputs with their bias; far: y is to be written past the caches, where its vectors are lines.
    """
    cdef Layer g = layer((<object> x).shape, (<object> y).shape, window, groups, tiling)
    cdef Py_ssize_t steps = g.kernel[0] * g.channels, panel = 2 * (bytes // sizeof(float))
    cdef const float *b = <const float *> NULL if bias is None else &bias[0]
    cdef Py_ssize_t slot
    cdef ForwardBlocks c = ForwardBlocks(
        g=&g, w=&w[0, 0, 0, 0, 0], bias=b, y=&y[0, 0, 0, 0, 0], u=&u[0, 0, 0, 0], buffers=&buffers[0, 0], copy=0,
        filter_tasks=groups * parts(g.filters, panel) * parts(steps, FILTER_STEPS), frequencies=u.shape[2],
        u_plane=u.shape[3], group_weights=w.size // groups, row=row, plane=plane, buffer=buffers.shape[1], block=block,
        bytes=bytes, reversed=reversed,
    )
    g.taps_last = taps_last
    g.after = epilogue(after, &y[0, 0, 0, 0, 0], y.size, sizeof(float))
    g.far = far and bytes == CACHE_LINE and whole_lines(&g, &y[0, 0, 0, 0, 0])
    if u.shape[0] > 1:
        c.copy = u.size // u.shape[0]
        for slot in range(u.shape[0]):
            c.u[(slot + 1) * c.copy - 1] = 0
    elif not ready:
        run(<Task> filters_task, <float *> c.w, &c, c.filter_tasks, num_threads)
    run(<Task> block_task, &x[0, 0, 0, 0, 0], &c, groups * parts(tile_count(&g), block), num_threads)


cdef void filters_task(const float *w, const ForwardBlocks *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Layer *g = c.g
    cdef Py_ssize_t lanes = c.bytes // sizeof(float), panel = 2 * lanes, panels = parts(g.filters, panel)
    cdef Py_ssize_t steps = g.kernel[0] * g.channels, pieces = parts(steps, FILTER_STEPS)
    cdef Py_ssize_t first = task % pieces * FILTER_STEPS
    cdef Py_ssize_t lane = task // pieces % panels * panel
    cdef Py_ssize_t group = task // pieces // panels
    cdef Py_ssize_t width = panel if g.filters - lane > lanes else lanes
    transform_filters(
        c.bytes, w + group * c.group_weights, c.reversed,
        c.u + slot * c.copy + group * c.frequencies * c.u_plane + lane * steps + first * width, c.u_plane, width, g,
        lane, first, min(first + FILTER_STEPS, steps),
    )


cdef void block_task(const float *x, const ForwardBlocks *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Layer *g = c.g
    cdef Py_ssize_t tiles = tile_count(g), blocks = parts(tiles, c.block)
    cdef Py_ssize_t group = task // blocks, first = task % blocks * c.block, last = min(first + c.block, tiles), f
    cdef float *m = c.buffers + slot * c.buffer
    cdef float *v = m + c.plane
    cdef const float *u = c.u + slot * c.copy + group * c.frequencies * c.u_plane
    if c.copy and not c.u[(slot + 1) * c.copy - 1]:
        for f in range(c.filter_tasks):
            filters_task(c.w, c, f, slot)
        c.u[(slot + 1) * c.copy - 1] = 1
    transform_inputs(c.bytes, x + group * g.channels, v, c.row, c.plane, g, first, last)
    cdef Ahead ahead = ahead_of(  # the next task is most often this thread's, too
        g, x, NULL, last, min(last + c.block, tiles), c.frequencies * register_tiles(c.bytes, last - first, g.filters),
    )
    for f in range(c.frequencies):
        product(
            c.bytes, g, f, v + f * c.plane, c.row, u + f * c.u_plane, m + f * c.plane, c.row, last - first, g.filters,
            0, g.kernel[0] * g.channels, &ahead,
        )
    outputs_from(c.bytes, m, c.row, c.plane, c.bias, c.y, group * g.filters, g.filters, g, first, last)
    if g.far:
        fence()


cdef struct GradientWeightsBlocks:
    const Layer *g
    const float *dy
    float *partial
    float *buffers
    Py_ssize_t frequencies, chunks, groups, group_weights, row, plane, u_plane, buffer, block
    int bytes


@Kernel
def gradient_weights_blocks(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy, float[:, :, ::1] partial, object window,
    Py_ssize_t groups, object tiling, float[:, ::1] buffers, Py_ssize_t row, Py_ssize_t plane, Py_ssize_t u_plane,
    Py_ssize_t block, int bytes, int num_threads,
):
    """partial (chunks, groups, weights of a group): the sums over each chunk of tiles; buffers (threads, V, dM, dU)."""
    cdef Layer g = layer((<object> x).shape, (<object> dy).shape, window, groups, tiling)
    cdef GradientWeightsBlocks c = GradientWeightsBlocks(
        g=&g, dy=&dy[0, 0, 0, 0, 0], partial=&partial[0, 0, 0], buffers=&buffers[0, 0],
        frequencies=tiling.frequencies, chunks=partial.shape[0], groups=groups, group_weights=partial.shape[2],
        row=row, plane=plane, u_plane=u_plane, buffer=buffers.shape[1], block=block, bytes=bytes,
    )
    run(<Task> chunk_task, &x[0, 0, 0, 0, 0], &c, groups * c.chunks, num_threads)


cdef void chunk_task(const float *x, const GradientWeightsBlocks *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Layer *g = c.g
    cdef Py_ssize_t group = task // c.chunks, chunk = task % c.chunks
    cdef Py_ssize_t tiles = tile_count(g), blocks = parts(tiles, c.block), begin = chunk * blocks // c.chunks
    cdef Py_ssize_t filter_weights = c.group_weights // g.filters, index, first, last, f, tap
    cdef float *dw = c.partial + (chunk * c.groups + group) * c.group_weights
    cdef float *v = c.buffers + slot * c.buffer
    cdef float *m = v + c.frequencies * c.plane
    cdef float *u = m + c.frequencies * c.plane
    cdef Ahead ahead
    for index in range(begin, (chunk + 1) * blocks // c.chunks):
        first = index * c.block
        last = min(first + c.block, tiles)
        ahead = ahead_of(
            g, x, c.dy, last, min(last + c.block, tiles),
            c.frequencies * register_tiles(c.bytes, g.filters, g.kernel[0] * g.channels),
        )
        transform_inputs(c.bytes, x + group * g.channels, v, c.row, c.plane, g, first, last)
        transform_gradients(c.bytes, c.dy + group * g.filters, m, c.row, c.plane, g, first, last)
        for f in range(c.frequencies):
            product_transposed(
                c.bytes, g, f, m + f * c.plane, c.row, v + f * c.plane, c.row, u + f * c.u_plane, c.row, g.filters,
                last - first, index > begin, &ahead,
            )
    for tap in range(g.kernel[0]):
        filters_from(
            c.bytes, u + tap * g.channels, c.row, c.u_plane, dw + tap * (filter_weights // g.kernel[0]),
            filter_weights, False, g, g.filters, g.channels,
        )


cdef struct ForwardPanels:
    const Layer *g
    const float *bias  # may be NULL
    float *y
    float *v
    float *u
    float *m
    const float *w
    Py_ssize_t group, start, stop  # what tiles there is V of
    Py_ssize_t frequencies, group_weights, row, plane, u_plane, m_plane, chunk, depth, wide
    int bytes
    bint reversed


@Kernel
def forward_panels(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] w, const float[::1] bias, float[:, :, :, :, ::1] y,
    object window, Py_ssize_t groups, bint reversed, bint taps_last, object tiling, float[:, :, ::1] v,
    float[:, :, ::1] u, float[:, :, ::1] m, Py_ssize_t row, Py_ssize_t chunk, Py_ssize_t depth, Py_ssize_t wide,
    int bytes, object after, bint far, int num_threads,
):
    """Fill y as `forward_blocks` does; for a thread u (frequencies, depth * wide) and m (frequencies, chunk * wide):
    `wide` filters (whole pairs of vectors) and `depth` steps of U are made at a time. v (1, frequencies, chunk * row):
    all threads make a chunk's and take panels then; v (threads, …): each takes chunks of its own from end to end.
    """
    cdef Layer g = layer((<object> x).shape, (<object> y).shape, window, groups, tiling)
    cdef Py_ssize_t tiles = tile_count(&g), chunks = parts(tiles, chunk), turn
    cdef const float *b = <const float *> NULL if bias is None else &bias[0]
    cdef ForwardPanels c = ForwardPanels(
        g=&g, bias=b, y=&y[0, 0, 0, 0, 0], v=&v[0, 0, 0], u=&u[0, 0, 0], m=&m[0, 0, 0], w=&w[0, 0, 0, 0, 0], group=0,
        start=0, stop=0, frequencies=v.shape[1], group_weights=w.size // groups, row=row, plane=v.shape[2],
        u_plane=u.shape[2], m_plane=m.shape[2], chunk=chunk, depth=depth, wide=wide, bytes=bytes, reversed=reversed,
    )
    g.taps_last = taps_last
    g.after = epilogue(after, &y[0, 0, 0, 0, 0], y.size, sizeof(float))
    g.far = far and bytes == CACHE_LINE and whole_lines(&g, &y[0, 0, 0, 0, 0])
    if v.shape[0] > 1:
        run(<Task> run_task, &x[0, 0, 0, 0, 0], &c, groups * chunks, num_threads)
        return
    for turn in range(groups * chunks):
        c.group, c.start = turn // chunks, turn % chunks * chunk
        c.stop = min(c.start + chunk, tiles)
        run(<Task> inputs_task, &x[0, 0, 0, 0, 0], &c, parts(c.stop - c.start, PIECE), num_threads)
        run(<Task> panel_task, &w[0, 0, 0, 0, 0], &c, parts(g.filters, wide), num_threads)


cdef void run_task(const float *x, const ForwardPanels *c, Py_ssize_t task, int slot) noexcept nogil:
    """A chunk from end to end."""
    cdef ForwardPanels own = c[0]
    cdef Py_ssize_t tiles = tile_count(c.g), chunks = parts(tiles, c.chunk), panel
    own.group, own.start = task // chunks, task % chunks * c.chunk
    own.stop = min(own.start + c.chunk, tiles)
    own.v += slot * c.frequencies * c.plane
    transform_inputs(c.bytes, x + own.group * c.g.channels, own.v, c.row, c.plane, c.g, own.start, own.stop)
    for panel in range(parts(c.g.filters, c.wide)):
        panel_task(c.w, &own, panel, slot)


cdef void inputs_task(const float *x, const ForwardPanels *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = c.start + task * PIECE
    transform_inputs(
        c.bytes, x + c.group * c.g.channels, c.v + task * PIECE * c.row, c.row, c.plane, c.g, first,
        min(first + PIECE, c.stop),
    )


cdef void panel_task(const float *w, const ForwardPanels *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Layer *g = c.g
    cdef Py_ssize_t lane = task * c.wide, filters = min(c.wide, g.filters - lane), lanes = c.bytes // sizeof(float)
    cdef Py_ssize_t steps = g.kernel[0] * g.channels, index, step, last, f
    cdef float *u = c.u + slot * c.frequencies * c.u_plane
    cdef float *m = c.m + slot * c.frequencies * c.m_plane
    for index in range(parts(steps, c.depth)):
        step = index * c.depth
        last = min(step + c.depth, steps)
        transform_filters(
            c.bytes, w + c.group * c.group_weights, c.reversed, u, c.u_plane, parts(filters, lanes) * lanes, g, lane,
            step, last,
        )
        for f in range(c.frequencies):
            product(
                c.bytes, g, f, c.v + f * c.plane + step, c.row, u + f * c.u_plane, m + f * c.m_plane, c.wide,
                c.stop - c.start, filters, step, last, NULL,
            )
    outputs_from(
        c.bytes, m, c.wide, c.m_plane, c.bias, c.y, c.group * g.filters + lane, filters, g, c.start, c.stop,
    )
    if g.far:
        fence()


cdef struct GradientWeightsPieces:
    const Layer *g
    const float *x
    const float *dy
    float *v
    float *m
    float *u
    Py_ssize_t group, start, stop  # what tiles there are V and dM of
    Py_ssize_t next  # the end of the next ones, if this thread makes them, too
    bint add  # to the gradients of a chunk before
    Py_ssize_t frequencies, filter_weights, row, m_row, plane, m_plane, u_plane, height, width, depth
    Py_ssize_t chunk, sums, size, pieces
    int bytes


@Kernel
def gradient_weights_pieces(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy, float[:, :, :, :, :, ::1] sums, object window,
    Py_ssize_t groups, object tiling, float[:, :, ::1] v, float[:, :, ::1] m, float[:, :, ::1] u, Py_ssize_t row,
    Py_ssize_t m_row, Py_ssize_t chunk, Py_ssize_t height, Py_ssize_t width, Py_ssize_t depth, int bytes,
    int num_threads,
):
    """sums (runs, *w's shape): the gradients of `height` filters and `width` channels are summed over each run of
    tiles, chunk by chunk, `depth` tiles at a time; for a thread u (frequencies, height * width).

    v (1, frequencies, chunk * row) and m (1, frequencies, chunk * m_row): all threads make V and dM of a chunk and take
    its pieces then. v and m (threads, …): each takes runs of its own from end to end.
    """
    cdef Layer g = layer((<object> x).shape, (<object> dy).shape, window, groups, tiling)
    cdef Py_ssize_t tiles = tile_count(&g), turn, end
    cdef float *dw = &sums[0, 0, 0, 0, 0, 0]
    cdef GradientWeightsPieces c = GradientWeightsPieces(
        g=&g, x=&x[0, 0, 0, 0, 0], dy=&dy[0, 0, 0, 0, 0], v=&v[0, 0, 0], m=&m[0, 0, 0], u=&u[0, 0, 0], group=0, start=0,
        stop=0, next=0, add=False, frequencies=v.shape[1], filter_weights=sums.size // sums.shape[0] // dy.shape[4],
        row=row, m_row=m_row, plane=v.shape[2], m_plane=m.shape[2], u_plane=u.shape[2], height=height, width=width,
        depth=depth, chunk=chunk, sums=sums.shape[0], size=sums.size // sums.shape[0],
        pieces=parts(g.filters, height) * g.kernel[0] * parts(g.channels, width), bytes=bytes,
    )
    if v.shape[0] > 1:
        run(<Task> sum_task, dw, &c, groups * c.sums, num_threads)
        return
    for turn in range(groups * c.sums):
        c.group, c.start = turn // c.sums, turn % c.sums * tiles // c.sums
        c.add, end = False, (turn % c.sums + 1) * tiles // c.sums
        while c.start < end:
            c.stop = min(c.start + chunk, end)
            c.next = min(c.stop + chunk, end) if num_threads == 1 else c.stop
            run(<Task> transforms_task, dw, &c, parts(c.stop - c.start, PIECE), num_threads)
            run(<Task> piece_task, dw + turn % c.sums * c.size, &c, c.pieces, num_threads)
            c.start, c.add = c.stop, True


cdef void sum_task(float *dw, const GradientWeightsPieces *c, Py_ssize_t task, int slot) noexcept nogil:
    """A run of tiles from end to end."""
    cdef GradientWeightsPieces own = c[0]
    cdef Py_ssize_t number = task % c.sums, tiles = tile_count(c.g), end = (number + 1) * tiles // c.sums, piece
    own.group, own.start = task // c.sums, number * tiles // c.sums
    own.v += slot * c.frequencies * c.plane
    own.m += slot * c.frequencies * c.m_plane
    while own.start < end:
        own.stop = min(own.start + c.chunk, end)
        own.next = min(own.stop + c.chunk, end)
        transform_both(&own, own.start, own.stop)
        for piece in range(c.pieces):
            piece_task(dw + number * c.size, &own, piece, slot)
        own.start, own.add = own.stop, True


cdef void transforms_task(float *dw, const GradientWeightsPieces *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = c.start + task * PIECE
    transform_both(c, first, min(first + PIECE, c.stop))


cdef void transform_both(const GradientWeightsPieces *c, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """V and dM of some tiles of the chunk."""
    cdef const Layer *g = c.g
    cdef Py_ssize_t at = first - c.start
    transform_inputs(c.bytes, c.x + c.group * g.channels, c.v + at * c.row, c.row, c.plane, g, first, last)
    transform_gradients(c.bytes, c.dy + c.group * g.filters, c.m + at * c.m_row, c.m_row, c.m_plane, g, first, last)


cdef void piece_task(float *dw, const GradientWeightsPieces *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Layer *g = c.g
    cdef Py_ssize_t across = parts(g.channels, c.width)
    cdef Py_ssize_t channel = task % across * c.width, channels = min(c.width, g.channels - channel)
    cdef Py_ssize_t tap = task // across % g.kernel[0], tap_weights = c.filter_weights // g.kernel[0]
    cdef Py_ssize_t filter = task // across // g.kernel[0] * c.height, filters = min(c.height, g.filters - filter)
    cdef Py_ssize_t tiles = c.stop - c.start, index, first, f
    cdef float *u = c.u + slot * c.frequencies * c.u_plane
    cdef Ahead ahead = ahead_of(
        g, c.x, c.dy, c.stop, c.next,
        c.pieces * c.frequencies * parts(tiles, c.depth) * register_tiles(c.bytes, filters, channels),
    )
    skip(&ahead, task, c.pieces)
    for f in range(c.frequencies):
        for index in range(parts(tiles, c.depth)):
            first = index * c.depth
            product_transposed_of(
                c.bytes, g, f, tap, c.m + f * c.m_plane + first * c.m_row + filter, c.m_row,
                c.v + f * c.plane + first * c.row + tap * g.channels + channel, c.row, u + f * c.u_plane, c.width,
                filters, channels, min(c.depth, tiles - first), first > 0, &ahead,
            )
    filters_from(
        c.bytes, u, c.width, c.u_plane,
        dw + (c.group * g.filters + filter) * c.filter_weights + tap * tap_weights + channel, c.filter_weights,
        c.add, g, filters, channels,
    )
