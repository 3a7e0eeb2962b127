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

from cython.parallel cimport parallel, prange, threadid

cdef extern from "winograd.h" nogil:
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
        const float *zeros

    void axis_matrices(float *interpolate, float *evaluate, float *scaled, float *five)
    void transform_inputs(
        int, const float *, float *, Py_ssize_t, Py_ssize_t, const Layer *, Py_ssize_t, Py_ssize_t)
    void transform_gradients(
        int, const float *, float *, Py_ssize_t, Py_ssize_t, const Layer *, Py_ssize_t, Py_ssize_t)
    void transform_filters(
        int, const float *, int, float *, Py_ssize_t, Py_ssize_t, const Layer *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void outputs_from(
        int, const float *, Py_ssize_t, Py_ssize_t, const float *, float *, Py_ssize_t, const Layer *, Py_ssize_t,
        Py_ssize_t)
    void filters_from(
        int, const float *, Py_ssize_t, Py_ssize_t, float *, Py_ssize_t, int, const Layer *, Py_ssize_t, Py_ssize_t)
    void product(
        int, const Layer *, Py_ssize_t, const float *, Py_ssize_t, const float *, float *, Py_ssize_t, Py_ssize_t,
        Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void product_transposed(
        int, const Layer *, Py_ssize_t, const float *, Py_ssize_t, const float *, Py_ssize_t, float *, Py_ssize_t,
        Py_ssize_t, Py_ssize_t, int)
    void product_transposed_of(
        int, const Layer *, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, const float *, Py_ssize_t, float *,
        Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, int)

cdef enum:
    FILTER_STEPS = 64  # of one task that transforms filters
    PIECE = 7  # tiles of one task that transforms nothing but them


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
    g.taps_last = False
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


def forward_blocks(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] w, const float[::1] bias, float[:, :, :, :, ::1] y,
    object window, Py_ssize_t groups, bint reversed, bint taps_last, object tiling, float[:, :, ::1] u,
    float[:, ::1] buffers, Py_ssize_t row, Py_ssize_t plane, Py_ssize_t block, int bytes, int num_threads,
):
    """Fill y; u (groups, frequencies, steps * whole vectors of filters or more), for a thread (frequencies + 1) planes.

    reversed: y is the gradient to the input, x that to the output, and w's filters are x's channels.
    """
    cdef Layer g = layer((<object> x).shape, (<object> y).shape, window, groups, tiling)
    cdef Py_ssize_t frequencies = u.shape[1], steps = g.kernel[0] * g.channels
    cdef Py_ssize_t tiles = x.shape[0] * g.out[0] * g.tiles[0] * g.tiles[1]
    cdef Py_ssize_t blocks = (tiles + block - 1) // block
    cdef Py_ssize_t lanes = bytes // sizeof(float), panel = 2 * lanes, panels = (g.filters + panel - 1) // panel
    cdef Py_ssize_t pieces = (steps + FILTER_STEPS - 1) // FILTER_STEPS, group_weights = w.size // groups
    cdef Py_ssize_t task, group, lane, width, first, last, f
    cdef float *m
    cdef float *v
    g.taps_last = taps_last
    with nogil, parallel(num_threads=num_threads):
        for task in prange(groups * panels * pieces, schedule="dynamic"):
            first = task % pieces * FILTER_STEPS
            lane = task // pieces % panels * panel
            group = task // pieces // panels
            width = panel if g.filters - lane > lanes else lanes
            transform_filters(
                bytes, &w[0, 0, 0, 0, 0] + group * group_weights, reversed, &u[group, 0, lane * steps + first * width],
                u.shape[2], width, &g, lane, first, min(first + FILTER_STEPS, steps),
            )
        for task in prange(groups * blocks, schedule="dynamic"):
            group = task // blocks
            first = task % blocks * block
            last = min(first + block, tiles)
            m = &buffers[threadid(), 0]
            v = m + plane
            transform_inputs(bytes, &x[0, 0, 0, 0, 0] + group * g.channels, v, row, plane, &g, first, last)
            for f in range(frequencies):
                product(
                    bytes, &g, f, v + f * plane, row, &u[group, f, 0], m + f * plane, row, last - first, g.filters, 0,
                    steps,
                )
            outputs_from(
                bytes, m, row, plane, NULL if bias is None else &bias[group * g.filters],
                &y[0, 0, 0, 0, 0] + group * g.filters, g.filters, &g, first, last,
            )


def gradient_weights_blocks(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy, float[:, :, ::1] partial, object window,
    Py_ssize_t groups, object tiling, float[:, ::1] buffers, Py_ssize_t row, Py_ssize_t plane, Py_ssize_t u_plane,
    Py_ssize_t block, int bytes, int num_threads,
):
    """partial (chunks, groups, weights of a group): the sums over each chunk of tiles; buffers (threads, V, dM, dU)."""
    cdef Layer g = layer((<object> x).shape, (<object> dy).shape, window, groups, tiling)
    cdef Py_ssize_t frequencies = tiling.frequencies, chunks = partial.shape[0]
    cdef Py_ssize_t weights = partial.shape[2] // g.filters
    cdef Py_ssize_t tiles = x.shape[0] * g.out[0] * g.tiles[0] * g.tiles[1]
    cdef Py_ssize_t blocks = (tiles + block - 1) // block
    cdef Py_ssize_t task, group, chunk, index, begin, first, last, f, tap
    cdef float *v
    cdef float *m
    cdef float *u
    for task in prange(groups * chunks, nogil=True, num_threads=num_threads, schedule="dynamic"):
        group = task // chunks
        chunk = task % chunks
        v = &buffers[threadid(), 0]
        m = v + frequencies * plane
        u = m + frequencies * plane
        begin = chunk * blocks // chunks
        for index in range(begin, (chunk + 1) * blocks // chunks):
            first = index * block
            last = min(first + block, tiles)
            transform_inputs(bytes, &x[0, 0, 0, 0, 0] + group * g.channels, v, row, plane, &g, first, last)
            transform_gradients(bytes, &dy[0, 0, 0, 0, 0] + group * g.filters, m, row, plane, &g, first, last)
            for f in range(frequencies):
                product_transposed(
                    bytes, &g, f, m + f * plane, row, v + f * plane, row, u + f * u_plane, row, g.filters, last - first,
                    index > begin,
                )
        for tap in range(g.kernel[0]):
            filters_from(
                bytes, u + tap * g.channels, row, u_plane, &partial[chunk, group, tap * (weights // g.kernel[0])],
                weights, False, &g, g.filters, g.channels,
            )


def forward_panels(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] w, const float[::1] bias, float[:, :, :, :, ::1] y,
    object window, Py_ssize_t groups, bint reversed, bint taps_last, object tiling, float[:, ::1] v,
    float[:, :, ::1] u, float[:, :, ::1] m, Py_ssize_t row, Py_ssize_t chunk, Py_ssize_t depth, Py_ssize_t wide,
    int bytes, int num_threads,
):
    """Fill y as `forward_blocks` does; v (frequencies, chunk * row), for a thread u (frequencies, depth * wide) and
    m (frequencies, chunk * wide): `wide` filters (whole pairs of vectors) and `depth` steps of U are made at a time."""
    cdef Layer g = layer((<object> x).shape, (<object> y).shape, window, groups, tiling)
    cdef Py_ssize_t frequencies = v.shape[0], plane = v.shape[1], lanes = bytes // sizeof(float)
    cdef Py_ssize_t u_plane = u.shape[2], m_plane = m.shape[2]
    cdef Py_ssize_t steps = g.kernel[0] * g.channels, group_weights = w.size // groups
    cdef Py_ssize_t tiles = x.shape[0] * g.out[0] * g.tiles[0] * g.tiles[1]
    cdef Py_ssize_t panels = (g.filters + wide - 1) // wide, chunks = (tiles + chunk - 1) // chunk
    cdef Py_ssize_t turn = 0, group = 0, start = 0, stop = 0, task, first, lane, filters, index, step, last, f
    cdef float *own_u
    cdef float *own_m
    g.taps_last = taps_last
    with nogil, parallel(num_threads=num_threads):
        for turn in range(groups * chunks):
            group = turn // chunks
            start = turn % chunks * chunk
            stop = min(start + chunk, tiles)
            for task in prange((stop - start + PIECE - 1) // PIECE, schedule="dynamic"):
                first = start + task * PIECE
                transform_inputs(
                    bytes, &x[0, 0, 0, 0, 0] + group * g.channels, &v[0, task * PIECE * row], row, plane, &g, first,
                    min(first + PIECE, stop),
                )
            for task in prange(panels, schedule="dynamic"):
                lane = task * wide
                filters = min(wide, g.filters - lane)
                own_u = &u[threadid(), 0, 0]
                own_m = &m[threadid(), 0, 0]
                for index in range((steps + depth - 1) // depth):
                    step = index * depth
                    last = min(step + depth, steps)
                    transform_filters(
                        bytes, &w[0, 0, 0, 0, 0] + group * group_weights, reversed, own_u, u_plane,
                        (filters + lanes - 1) // lanes * lanes, &g, lane, step, last,
                    )
                    for f in range(frequencies):
                        product(
                            bytes, &g, f, &v[f, step], row, own_u + f * u_plane, own_m + f * m_plane, wide,
                            stop - start, filters, step, last,
                        )
                outputs_from(
                    bytes, own_m, wide, m_plane, NULL if bias is None else &bias[group * g.filters + lane],
                    &y[0, 0, 0, 0, 0] + group * g.filters + lane, filters, &g, start, stop,
                )


def gradient_weights_pieces(
    const float[:, :, :, :, ::1] x, const float[:, :, :, :, ::1] dy, float[:, :, :, :, ::1] dw, object window,
    Py_ssize_t groups, object tiling, float[:, ::1] v, float[:, ::1] m, float[:, :, ::1] u, Py_ssize_t row,
    Py_ssize_t m_row, Py_ssize_t chunk, Py_ssize_t height, Py_ssize_t width, Py_ssize_t depth, int bytes,
    int num_threads,
):
    """Fill dw; v (frequencies, chunk * row), m (frequencies, chunk * m_row), for a thread u (frequencies, height *
    width): a thread sums the gradients of `height` filters and `width` channels over all tiles, `depth` at a time."""
    cdef Layer g = layer((<object> x).shape, (<object> dy).shape, window, groups, tiling)
    cdef Py_ssize_t frequencies = v.shape[0], plane = v.shape[1], m_plane = m.shape[1], u_plane = u.shape[2]
    cdef Py_ssize_t filter_weights = dw.size // dy.shape[4], tap_weights = filter_weights // g.kernel[0]
    cdef Py_ssize_t tiles = x.shape[0] * g.out[0] * g.tiles[0] * g.tiles[1]
    cdef Py_ssize_t chunks = (tiles + chunk - 1) // chunk
    cdef Py_ssize_t across = (g.channels + width - 1) // width, down = (g.filters + height - 1) // height
    cdef Py_ssize_t turn = 0, group = 0, start = 0, stop = 0, task, first, last, index, f
    cdef Py_ssize_t tap, channel, channels, filter, filters
    cdef float *own
    with nogil, parallel(num_threads=num_threads):
        for turn in range(groups * chunks):
            group = turn // chunks
            start = turn % chunks * chunk
            stop = min(start + chunk, tiles)
            for task in prange((stop - start + PIECE - 1) // PIECE, schedule="dynamic"):
                first = start + task * PIECE
                last = min(first + PIECE, stop)
                transform_inputs(
                    bytes, &x[0, 0, 0, 0, 0] + group * g.channels, &v[0, task * PIECE * row], row, plane, &g, first,
                    last,
                )
                transform_gradients(
                    bytes, &dy[0, 0, 0, 0, 0] + group * g.filters, &m[0, task * PIECE * m_row], m_row, m_plane, &g,
                    first, last,
                )
            for task in prange(down * g.kernel[0] * across, schedule="dynamic"):
                channel = task % across * width
                channels = min(width, g.channels - channel)
                tap = task // across % g.kernel[0]
                filter = task // across // g.kernel[0] * height
                filters = min(height, g.filters - filter)
                own = &u[threadid(), 0, 0]
                for f in range(frequencies):
                    for index in range((stop - start + depth - 1) // depth):
                        first = index * depth
                        product_transposed_of(
                            bytes, &g, f, tap, &m[f, first * m_row + filter], m_row,
                            &v[f, first * row + tap * g.channels + channel], row, own + f * u_plane, width, filters,
                            channels, min(depth, stop - start - first), first > 0,
                        )
                filters_from(
                    bytes, own, width, u_plane,
                    &dw[0, 0, 0, 0, 0] + (group * g.filters + filter) * filter_weights + tap * tap_weights + channel,
                    filter_weights, start > 0, &g, filters, channels,
                )
