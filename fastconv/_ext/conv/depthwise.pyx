"""Depthwise and narrow grouped convolution: walks over output lines; what happens along one stands in depthwise.h.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k). `reach` (a Reach of
fastconv.engine.depthwise) tells which taps an output sees and where, `lanes` (a Lanes of the same) which channels share
a vector; w is packed (blocks, taps, sources, vector), bias and the rows of a norm (blocks, vector). A gradient to the
input is a forward pass with a reach of its own.

A line is cut into segments of at most `length` outputs; a task is a run of segments, counted over the whole batch.
"""

from cython cimport floating
from libc.string cimport memset

from fastconv._ext.conv.epilogue cimport Epilogue, epilogue
from fastconv._ext.team cimport Task, run as run_tasks

from fastconv._ext.capture import Kernel

cdef extern from "conv/depthwise.h" nogil:
    ctypedef struct Run:
        Py_ssize_t count[2]
        Py_ssize_t x_step[2]
        Py_ssize_t w_step[2]
        Py_ssize_t taps, x_tap, w_tap
        const Py_ssize_t *inside
        Py_ssize_t inner_first, inner_last
        Py_ssize_t first, last
        Py_ssize_t x_pixel, y_pixel
        Py_ssize_t ahead, y_ahead, ahead_pixel
        const Epilogue *after
        int far

    ctypedef struct Lanes:
        int kind
        Py_ssize_t blocks, sources, lanes
        const Py_ssize_t *block
        const int *masks
        Py_ssize_t block_size

    enum:
        PLAIN
        PERMUTED
        BROADCAST
        STREAMED

    void fence()
    void outputs_float(
        int, const float *, Py_ssize_t, const float *, const float *, float *, const Run *, const Lanes *)
    void outputs_double(
        int, const double *, Py_ssize_t, const double *, const double *, double *, const Run *, const Lanes *)
    void products_float(
        int, const float *, Py_ssize_t, const float *, float *, const Run *, const Lanes *, int)
    void products_double(
        int, const double *, Py_ssize_t, const double *, double *, const Run *, const Lanes *, int)


cdef enum:
    SOON = 64  # outputs ahead on a line of its own

KINDS = {"plain": PLAIN, "permuted": PERMUTED, "broadcast": BROADCAST}  # of Lanes, for fastconv.engine.depthwise,
STREAMED_BYTES = STREAMED  # which aligns, too


cdef struct Places:  # of a lane's weights in w (k, taps, c / groups)
    Py_ssize_t filters, channels  # of a group
    bint exchanged  # a lane is a channel, its sources are the group's filters; else a filter, and these are channels


cdef inline Py_ssize_t first_weight(const Places *p, Py_ssize_t lane, Py_ssize_t taps) noexcept nogil:
    """Of source 0 and tap 0; the next source's is `next_source` further, the next tap's p.channels."""
    if p.exchanged:
        return lane // p.channels * p.filters * taps * p.channels + lane % p.channels
    return lane * taps * p.channels


cdef inline Py_ssize_t next_source(const Places *p, Py_ssize_t taps) noexcept nogil:
    return taps * p.channels if p.exchanged else 1


cdef Places places(Py_ssize_t filters, Py_ssize_t channels, Py_ssize_t groups, bint exchanged, Py_ssize_t sources):
    cdef Places p = Places(filters // groups, channels, exchanged)
    if sources != (p.filters if exchanged else p.channels):
        raise ValueError(f"{sources} sources of {filters} filters, {channels} channels, {groups} groups")
    return p


@Kernel
def pack(
    const floating[:, :, ::1] w, Py_ssize_t groups, bint exchanged, const Py_ssize_t[:, ::1] lanes,
    floating[:, :, :, ::1] packed,
):
    """packed (blocks, taps, sources, vector) of w (k, taps, c / groups), by the filter of each lane (blocks, vector);
    exchanged: by its channel, with the taps as they are."""
    cdef Places p = places(w.shape[0], w.shape[2], groups, exchanged, packed.shape[2])
    cdef Py_ssize_t taps = w.shape[1], step = next_source(&p, taps), block, lane, tap, source, first
    cdef const floating *weights = &w[0, 0, 0]
    for block in range(packed.shape[0]):
        for lane in range(packed.shape[3]):
            first = first_weight(&p, lanes[block, lane], taps)
            for tap in range(taps):
                for source in range(packed.shape[2]):
                    packed[block, tap, source, lane] = weights[first + source * step]
                first += p.channels


@Kernel
def unpack(
    const floating[:, :, :, ::1] packed, Py_ssize_t groups, bint exchanged, const Py_ssize_t[::1] blocks,
    const Py_ssize_t[::1] lanes, floating[:, :, ::1] w,
):
    """w from packed: what lane `lanes[f]` of block `blocks[f]` has is filter f's, or channel f's."""
    cdef Places p = places(w.shape[0], w.shape[2], groups, exchanged, packed.shape[2])
    cdef Py_ssize_t taps = w.shape[1], step = next_source(&p, taps), f, tap, source, first
    cdef floating *weights = &w[0, 0, 0]
    for f in range(blocks.shape[0]):
        first = first_weight(&p, f, taps)
        for tap in range(taps):
            for source in range(packed.shape[2]):
                weights[first + source * step] = packed[blocks[f], tap, source, lanes[f]]
            first += p.channels


cdef struct Geometry:
    Py_ssize_t channels, filters
    Py_ssize_t inp[3]
    Py_ssize_t out[3]
    Py_ssize_t dilation[3]  # input steps from tap to tap
    Py_ssize_t turn[3]      # what that adds to the tap's number in w
    Py_ssize_t kernel[3]
    Py_ssize_t stride       # along a line: input steps from output to output of one phase
    Py_ssize_t phases       # output o is number o // phases of phase o % phases
    Py_ssize_t length, segments
    Py_ssize_t tap_size     # elements of a tap's weights in one block
    const Py_ssize_t *planes  # (out[0], 3): of an output's first tap inside the position and the number, taps inside
    const Py_ssize_t *rows    # (out[1], 3): the same for axis 1
    const Py_ssize_t *phase   # (phases, 5): of output 0 the position and the number of tap 0; taps; inner outputs
    const Py_ssize_t *inside  # (phases, taps of the largest, 2): Run's
    Py_ssize_t widest       # taps of the largest phase
    bint prefetches, far    # x does not lie in the cache; y does not fit there


cdef Geometry geometry(
    tuple x_shape, tuple y_shape, object reach, Py_ssize_t tap_size, Py_ssize_t length, bint prefetches, bint far
):
    """Valid as long as `reach` is."""
    cdef Geometry g
    cdef int axis
    cdef const Py_ssize_t[:, ::1] planes = reach.planes
    cdef const Py_ssize_t[:, ::1] rows = reach.rows
    cdef const Py_ssize_t[:, ::1] phase = reach.phase
    cdef const Py_ssize_t[:, :, ::1] inside = reach.inside
    for axis in range(3):
        g.inp[axis] = x_shape[1 + axis]
        g.out[axis] = y_shape[1 + axis]
        g.dilation[axis] = reach.dilation[axis]
        g.turn[axis] = reach.turn[axis]
        g.kernel[axis] = reach.kernel[axis]
    g.channels, g.filters = x_shape[4], y_shape[4]
    g.stride, g.phases = reach.stride, phase.shape[0]
    g.length, g.segments = length, (g.out[2] + length - 1) // length
    g.tap_size, g.prefetches, g.far = tap_size, prefetches, far
    g.planes, g.rows, g.phase, g.inside = &planes[0, 0], &rows[0, 0], &phase[0, 0], &inside[0, 0, 0]
    g.widest = inside.shape[1]
    return g


cdef Lanes lanes_of(object lanes, Py_ssize_t block_size):
    """Valid as long as `lanes` is."""
    cdef Lanes result
    cdef const Py_ssize_t[:, ::1] block = lanes.block
    cdef const int[:, :, ::1] masks = lanes.masks
    result.kind, result.blocks, result.lanes = lanes.kind, block.shape[0], lanes.useful
    result.sources = masks.shape[1]
    result.block, result.masks = &block[0, 0], &masks[0, 0, 0]
    result.block_size = block_size
    return result


cdef inline Py_ssize_t set_lines(Run *run, const Geometry *g, Py_ssize_t line, Py_ssize_t *tap) noexcept nogil:
    """The taps along axes 0 and 1 of an output line, counted over the batch; the offset of its first line in x.

    `tap` receives the number of its first tap.
    """
    cdef const Py_ssize_t *plane = g.planes + line // g.out[1] % g.out[0] * 3
    cdef const Py_ssize_t *row = g.rows + line % g.out[1] * 3
    cdef Py_ssize_t image = line // (g.out[0] * g.out[1])
    cdef Py_ssize_t size = g.inp[2] * g.channels, added
    run.count[0], run.count[1] = plane[2], row[2]
    run.x_step[0], run.x_step[1] = g.dilation[0] * g.inp[1] * size, g.dilation[1] * size
    run.w_step[0] = g.turn[0] * g.kernel[1] * g.kernel[2] * g.tap_size
    run.w_step[1] = g.turn[1] * g.kernel[2] * g.tap_size
    run.x_tap, run.w_tap = g.dilation[2] * g.channels, g.turn[2] * g.tap_size
    run.x_pixel, run.y_pixel = g.stride * g.channels, g.phases * g.filters
    run.ahead, run.y_ahead, run.ahead_pixel, run.far = 0, g.out[2] * g.filters, run.x_pixel, g.far
    if g.prefetches and line % g.out[1] + 1 < g.out[1]:  # the lines of x that the next output line, row[3:6], adds
        added = row[3] - row[0] + (row[5] - row[2]) * g.dilation[1]
        if added > 0:
            run.ahead = ((row[2] - 1) * g.dilation[1] + 1) * size
            run.ahead_pixel = added * run.x_pixel
    elif g.prefetches and g.out[1] > 1 and g.inp[0] == g.out[0] == 1:  # those of the next image's first one
        added = (g.rows[2] - 1) * g.dilation[1] + 1
        run.ahead = (g.inp[1] - row[0] + g.rows[0]) * size
        run.ahead_pixel = added * run.x_pixel
    elif g.prefetches and g.out[1] == 1:
        run.ahead, run.y_ahead = SOON * run.x_pixel, SOON * run.y_pixel
    tap[0] = (plane[1] * g.kernel[1] + row[1]) * g.kernel[2]
    return ((image * g.inp[0] + plane[0]) * g.inp[1] + row[0]) * size


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """For a > -b."""
    return a if b == 1 else (a + b - 1) // b


cdef inline bint set_phase(Run *run, const Geometry *g, Py_ssize_t number, Py_ssize_t segment) noexcept nogil:
    """The outputs of one phase in one segment of a line; whether there are any."""
    cdef const Py_ssize_t *phase = g.phase + number * 5
    run.taps, run.inner_first, run.inner_last = phase[2], phase[3], phase[4]
    run.inside = g.inside + number * g.widest * 2
    run.first = max(ceil_div(segment * g.length - number, g.phases) if segment else 0, <Py_ssize_t> 0)
    run.last = min((segment + 1) * g.length, g.out[2])
    run.last = ceil_div(run.last - number, g.phases) if run.last > number else 0
    return run.first < run.last


cdef struct Forward:
    const Geometry *g
    const Lanes *lanes
    const void *w
    const void *bias  # or NULL
    void *y
    Py_ssize_t segments, tasks  # of the whole batch
    int bytes
    Epilogue after


@Kernel
def forward(
    const floating[:, :, :, :, ::1] x, const floating[:, :, :, ::1] w, const floating[:, ::1] bias,
    floating[:, :, :, :, ::1] y, object reach, object lanes, Py_ssize_t length, Py_ssize_t tasks, bint prefetches,
    bint far, object after, int num_threads,
):
    """y = bias (may be None) + the sum over the taps of w * x, or what comes of that after it (an Epilogue without
    addend).

    prefetches   x lies beyond the cache
    far          y too, for which its memory must be aligned to lanes.nbytes
    """
    cdef Py_ssize_t tap_size = w.shape[2] * w.shape[3]
    cdef Geometry g = geometry((<object> x).shape, (<object> y).shape, reach, tap_size, length, prefetches, far)
    cdef Lanes c_lanes = lanes_of(lanes, w.shape[1] * tap_size)
    cdef const floating *c_bias = NULL if bias is None else &bias[0, 0]
    cdef Forward c = Forward(
        &g, &c_lanes, &w[0, 0, 0, 0], c_bias, &y[0, 0, 0, 0, 0], y.shape[0] * g.out[0] * g.out[1] * g.segments, tasks,
        lanes.nbytes, epilogue(after, &y[0, 0, 0, 0, 0], y.size, sizeof(floating)),
    )
    run_tasks(<Task> forward_task[floating], &x[0, 0, 0, 0, 0], &c, tasks, num_threads)


cdef void forward_task(const floating *x, const Forward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Geometry *g = c.g
    cdef const floating *bias = <const floating *> c.bias
    cdef Py_ssize_t number, line, segment, number_of_phase, at, tap, x_at
    cdef const floating *weights
    cdef floating *out
    cdef Run run
    run.after = &c.after
    for number in range(task * c.segments // c.tasks, (task + 1) * c.segments // c.tasks):
        line, segment = number // g.segments, number % g.segments
        at = set_lines(&run, g, line, &tap)
        for number_of_phase in range(g.phases):
            if not set_phase(&run, g, number_of_phase, segment):
                continue
            if number_of_phase > 0:
                run.ahead = 0
            x_at = at + g.phase[number_of_phase * 5] * g.channels
            weights = <const floating *> c.w + (tap + g.phase[number_of_phase * 5 + 1]) * g.tap_size
            out = <floating *> c.y + (line * g.out[2] + number_of_phase) * g.filters
            if floating is float:
                outputs_float(c.bytes, x, x_at, weights, bias, out, &run, c.lanes)
            else:
                outputs_double(c.bytes, x, x_at, weights, bias, out, &run, c.lanes)
    if g.far:
        fence()


cdef struct GradientWeights:
    const Geometry *g
    const Lanes *lanes
    const void *dy
    void *partial
    Py_ssize_t size  # of a task's part
    Py_ssize_t segments, tasks  # of the whole batch
    int bytes
    bint x_is_source


@Kernel
def gradient_weights(
    const floating[:, :, :, :, ::1] x, const floating[:, :, :, :, ::1] dy, floating[:, :, :, :, ::1] partial,
    object reach, object lanes, bint x_is_source, Py_ssize_t length, bint prefetches, int num_threads,
):
    """partial[task] = the part of dw, packed as w is, that a task's outputs give; the lanes' source is x or dy."""
    cdef Py_ssize_t tap_size = partial.shape[3] * partial.shape[4]
    cdef Py_ssize_t block_size = partial.shape[2] * tap_size
    cdef Geometry g = geometry((<object> x).shape, (<object> dy).shape, reach, tap_size, length, prefetches, False)
    cdef Lanes c_lanes = lanes_of(lanes, block_size)
    cdef GradientWeights c = GradientWeights(
        &g, &c_lanes, &dy[0, 0, 0, 0, 0], &partial[0, 0, 0, 0, 0], partial.shape[1] * block_size,
        dy.shape[0] * g.out[0] * g.out[1] * g.segments, partial.shape[0], lanes.nbytes, x_is_source,
    )
    run_tasks(<Task> gradient_weights_task[floating], &x[0, 0, 0, 0, 0], &c, c.tasks, num_threads)


cdef void gradient_weights_task(const floating *x, const GradientWeights *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Geometry *g = c.g
    cdef floating *dw = <floating *> c.partial + task * c.size
    cdef const floating *dy
    cdef Py_ssize_t number, line, at, tap
    cdef Run run
    memset(dw, 0, c.size * sizeof(floating))
    for number in range(task * c.segments // c.tasks, (task + 1) * c.segments // c.tasks):
        line = number // g.segments
        at = set_lines(&run, g, line, &tap) + g.phase[0] * g.channels
        set_phase(&run, g, 0, number % g.segments)
        dy = <const floating *> c.dy + line * g.out[2] * g.filters
        if floating is float:
            products_float(c.bytes, x, at, dy, dw + tap * g.tap_size, &run, c.lanes, c.x_is_source)
        else:
            products_double(c.bytes, x, at, dy, dw + tap * g.tap_size, &run, c.lanes, c.x_is_source)
