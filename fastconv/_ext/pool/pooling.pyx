"""Pooling: the maximum or the sum of every window, and their adjoints.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y and taps (n, o0, o1, o2, c). Only taps inside
the input are visited: padding never wins a maximum and adds nothing to a sum. One window of all channels: pooling.h.

The adjoint of a sum is a sum again: an input's gradient is the sum over the windows that cover it.

`taps` holds, for every maximum, the number of the tap that it came from, counted over the whole kernel in C order; the
number of taps where a window has none inside. `adapts` says what a window is:
    False   fastconv.window.Window's (lifted): tap r of output o lies at o * stride - before + r * dilation
    True    floor(o * n / m) .. ceil((o + 1) * n / m) - 1, torch's and ONNX's adaptive pooling
"""

from cython cimport floating
from libc.math cimport INFINITY
from libc.string cimport memset

from fastconv._ext.geometry cimport Geometry, ceil_div, geometry_of
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

ctypedef unsigned char uchar

ctypedef fused tap_t:
    uchar
    int

cdef extern from "pool/pooling.h" nogil:
    ctypedef struct Box:
        Py_ssize_t count[3]
        Py_ssize_t step[3]
        Py_ssize_t tap[3]
        Py_ssize_t first

    int vector_bytes(Py_ssize_t lanes, Py_ssize_t size, int widest)
    void max_float(
        int, const float *, Py_ssize_t, float *, void *, int, Py_ssize_t, const Box *, Py_ssize_t, Py_ssize_t,
        Py_ssize_t)
    void max_double(
        int, const double *, Py_ssize_t, double *, void *, int, Py_ssize_t, const Box *, Py_ssize_t, Py_ssize_t,
        Py_ssize_t)
    void put_float(
        int, const float *, const uchar *, float *, const Box *, int, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void put_double(
        int, const double *, const uchar *, double *, const Box *, int, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void scatter_bytes_float(
        const float *, const uchar *, float *, const Py_ssize_t *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void scatter_bytes_double(
        const double *, const uchar *, double *, const Py_ssize_t *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void scatter_ints_float(
        const float *, const int *, float *, const Py_ssize_t *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void scatter_ints_double(
        const double *, const int *, double *, const Py_ssize_t *, Py_ssize_t, Py_ssize_t, Py_ssize_t)
    void sum_float(
        int, const float *, Py_ssize_t, float *, Py_ssize_t, const Box *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
        Py_ssize_t)
    void sum_double(
        int, const double *, Py_ssize_t, double *, Py_ssize_t, const Box *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
        Py_ssize_t)

cdef enum:
    WIDEST = 64  # bytes of a vector
    GATHERED = 16  # of one whose lanes lie apart
    PUT = 16  # windows of at most so many taps compare the taps' numbers, larger ones look their offsets up
    PADDED_TAPS = 0
    INNER_TAPS = -1

DIVISORS = {"padded": PADDED_TAPS, "inner": INNER_TAPS}  # of a sum that are no number


cdef struct Plan:
    Geometry g
    Py_ssize_t taps
    bint adapts
    bint transposed  # a window is the outputs, here `inp`, whose windows cover an input, here `out`
    Py_ssize_t divisor  # of a sum: PADDED_TAPS in the padded input, INNER_TAPS in the input, or the number itself


cdef struct Span:  # of a window along one axis: the taps inside
    Py_ssize_t at     # input index of the first
    Py_ssize_t tap    # its number
    Py_ssize_t count


cdef Plan geometry(tuple x_shape, tuple y_shape, object window, bint adapts, Py_ssize_t divisor=1):
    cdef Plan p
    p.g = geometry_of(x_shape, y_shape, window, 1)
    p.adapts, p.transposed, p.divisor = adapts, False, divisor
    p.taps = p.g.kernel[0] * p.g.kernel[1] * p.g.kernel[2]
    return p


cdef inline Span span(const Plan *p, int axis, Py_ssize_t o, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    """The taps of output `o` inside low..high-1."""
    cdef Span s
    cdef Py_ssize_t start, last, kernel = p.g.kernel[axis], step = p.g.dilation[axis]
    if p.adapts:  # transposed too: the same rule with the lengths exchanged
        start = o * p.g.inp[axis] // p.g.out[axis]
        kernel = ceil_div((o + 1) * p.g.inp[axis], p.g.out[axis]) - start
    elif p.transposed:
        o += p.g.before[axis]
        start = 0 if o < kernel else ceil_div(o - kernel + 1, p.g.stride[axis])
        kernel = o // p.g.stride[axis] + 1 - start
    else:
        start = o * p.g.stride[axis] - p.g.before[axis]
    s.tap = 0 if start >= low else ceil_div(low - start, step)
    last = min(kernel, ceil_div(high - start, step)) if high > start else 0
    s.count = max(last - s.tap, 0)
    s.at = start + s.tap * step
    return s


cdef inline Py_ssize_t divided_by(const Plan *p, int axis, Py_ssize_t o) noexcept nogil:
    """The factor of one axis in the divisor of output `o`."""
    cdef Py_ssize_t start = o * p.g.stride[axis] - p.g.before[axis]
    if p.divisor == INNER_TAPS:
        return span(p, axis, o, 0, p.g.inp[axis]).count
    if p.divisor == PADDED_TAPS:
        return min(p.g.kernel[axis], p.g.inp[axis] + p.g.after[axis] - start)
    return 1


cdef inline Py_ssize_t position(const Plan *p, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t i2) noexcept nogil:
    """The offset in one image of an input element's channels."""
    return ((i0 * p.g.inp[1] + i1) * p.g.inp[2] + i2) * p.g.channels


cdef inline void set_steps(Box *box, const Plan *p) noexcept nogil:
    box.step[0] = position(p, p.g.dilation[0], 0, 0)
    box.step[1] = position(p, 0, p.g.dilation[1], 0)
    box.step[2] = position(p, 0, 0, p.g.dilation[2])
    box.tap[0] = p.g.kernel[1] * p.g.kernel[2]
    box.tap[1] = p.g.kernel[2]
    box.tap[2] = 1


# --- maxima and sums -------------------------------------------------------------------------------------------------


cdef inline void windows(
    int bytes, const floating *x, Py_ssize_t across, floating *y, tap_t *taps, Py_ssize_t at, Py_ssize_t apart,
    const Box *box, Py_ssize_t divisor, Py_ssize_t none, Py_ssize_t lanes, Py_ssize_t pixels, Py_ssize_t right,
) noexcept nogil:
    """Lane j from x[j * across] to y[at + j * apart]: a maximum where taps is given, else a sum; and so `pixels` times,
    x by `right` further.

    `none` is the tap of an empty window.
    """
    cdef Py_ssize_t j
    y += at
    if taps == NULL:
        if floating is float:
            sum_float(bytes, x, across, y, apart, box, divisor, lanes, pixels, right)
        else:
            sum_double(bytes, x, across, y, apart, box, divisor, lanes, pixels, right)
        return
    taps += at
    if box.count[0] == 0 or box.count[1] == 0 or box.count[2] == 0:
        for j in range(lanes * pixels):  # of several windows, lanes lie beside each other
            y[j * apart] = -INFINITY
            taps[j * apart] = <tap_t> none
    elif floating is float:
        max_float(bytes, x, across, y, taps, tap_t is int, apart, box, lanes, pixels, right)
    else:
        max_double(bytes, x, across, y, taps, tap_t is int, apart, box, lanes, pixels, right)


cdef inline void inner_columns(const Plan *p, Py_ssize_t *low, Py_ssize_t *high) noexcept nogil:
    """Keep of the output columns low..high-1 those whose windows lie inside."""
    cdef Py_ssize_t before = p.g.before[2], size = (p.g.kernel[2] - 1) * p.g.dilation[2] + 1, stride = p.g.stride[2]
    cdef Py_ssize_t first, last
    if p.adapts:
        first, last = 0, 0
    elif p.transposed:
        first, last = size - 1 - before, p.g.inp[2] * stride - before
    else:
        first = ceil_div(before, stride)
        last = (p.g.inp[2] + before - size) // stride + 1 if p.g.inp[2] + before >= size else 0
    low[0] = min(max(low[0], first), high[0])
    high[0] = max(min(high[0], last), low[0])


cdef void pool_run(
    const floating *x, floating *y, tap_t *taps, const Plan *p, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """The output pixels first..last-1, counted over the whole batch: maxima where taps is given, else sums.

    Channels are the lanes, and the columns inside, all of the same window, are taken together. Where channels fill no
    vector, the columns inside are the lanes: every one, or, transposed, in as many classes as the stride every one that
    a new window begins to cover.
    """
    cdef Py_ssize_t c = p.g.channels
    cdef Py_ssize_t image_size = position(p, p.g.inp[0], 0, 0)
    cdef Py_ssize_t rest, o0, o1, o2, stop, low, high, line, source, divisor, tap, begin, at, lanes, j
    cdef Py_ssize_t classes = p.g.stride[2] if p.transposed else 1
    cdef Py_ssize_t across = c if p.transposed else p.g.stride[2] * c
    cdef int bytes = vector_bytes(c, sizeof(floating), WIDEST)
    cdef Span s
    cdef Box box
    set_steps(&box, p)
    while first < last:
        rest = first
        o2 = rest % p.g.out[2]
        rest //= p.g.out[2]
        o1 = rest % p.g.out[1]
        rest //= p.g.out[1]
        o0 = rest % p.g.out[0]
        stop = min(p.g.out[2], o2 + last - first)
        begin = first - o2  # the line's first pixel
        first += stop - o2
        s = span(p, 0, o0, 0, p.g.inp[0])
        line, tap, box.count[0] = s.at, s.tap, s.count
        s = span(p, 1, o1, 0, p.g.inp[1])
        line, tap, box.count[1] = line * p.g.inp[1] + s.at, (tap * p.g.kernel[1] + s.tap) * p.g.kernel[2], s.count
        line = rest // p.g.out[0] * image_size + line * p.g.inp[2] * c
        divisor = divided_by(p, 0, o0) * divided_by(p, 1, o1) * max(p.divisor, <Py_ssize_t> 1)
        low, high = stop, stop
        if bytes == 0 or not p.transposed:
            low = o2
            inner_columns(p, &low, &high)
        while o2 < stop:
            s = span(p, 2, o2, 0, p.g.inp[2])
            box.count[2] = s.count
            box.first = tap + s.tap
            source = line + s.at * c
            at = (begin + o2) * c
            if low <= o2 < high and bytes:
                windows(
                    bytes, x + source, 1, y, taps, at, 1, &box, divisor * divided_by(p, 2, o2), p.taps, c, high - o2,
                    across,
                )
                o2 = high
            elif low <= o2 < high:
                lanes = ceil_div(high - o2, classes)
                for j in range(c):
                    windows(
                        vector_bytes(lanes, sizeof(floating), GATHERED), x + source + j, across, y, taps, at + j,
                        classes * c, &box, divisor * divided_by(p, 2, o2), p.taps, lanes, 1, 0,
                    )
                o2 = o2 + 1 if o2 + 1 < low + classes else high
            else:
                windows(
                    bytes, x + source, 1, y, taps, at, 1, &box, divisor * divided_by(p, 2, o2), p.taps, c, 1, 0
                )
                o2 += 1


cdef struct Pooling:
    const Plan *p
    const void *x
    void *taps  # NULL: sums
    bint int_taps
    Py_ssize_t total, tasks


@Kernel
def max_forward(
    const floating[:, :, :, :, ::1] x, floating[:, :, :, :, ::1] y, tap_t[:, :, :, :, ::1] taps, object window,
    bint adapts, Py_ssize_t tasks, int num_threads,
):
    """y, taps = the maximum of every window and the tap it came from; `tasks` runs of output pixels."""
    cdef Plan p = geometry((<object> x).shape, (<object> y).shape, window, adapts)
    cdef Py_ssize_t total = y.shape[0] * y.shape[1] * y.shape[2] * y.shape[3]
    cdef Pooling c = Pooling(&p, &x[0, 0, 0, 0, 0], &taps[0, 0, 0, 0, 0], tap_t is int, total, tasks)
    run(<Task> pool_task[floating], &y[0, 0, 0, 0, 0], &c, tasks, num_threads)


@Kernel
def sum_forward(
    const floating[:, :, :, :, ::1] x, floating[:, :, :, :, ::1] y, object window, bint adapts, bint transposed,
    Py_ssize_t divisor, Py_ssize_t tasks, int num_threads,
):
    """y = the sum of every window / divisor (see Plan); transposed: x is dy and y is dx, the adjoint."""
    cdef Plan p = geometry((<object> x).shape, (<object> y).shape, window, adapts, divisor)
    cdef Py_ssize_t total = y.shape[0] * y.shape[1] * y.shape[2] * y.shape[3]
    cdef Pooling c = Pooling(&p, &x[0, 0, 0, 0, 0], NULL, False, total, tasks)
    p.transposed = transposed
    run(<Task> pool_task[floating], &y[0, 0, 0, 0, 0], &c, tasks, num_threads)


cdef void pool_task(floating *y, const Pooling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const floating *x = <const floating *> c.x
    cdef Py_ssize_t first = task * c.total // c.tasks, last = (task + 1) * c.total // c.tasks
    if c.int_taps:
        pool_run(x, y, <int *> c.taps, c.p, first, last)
    else:
        pool_run(x, y, <uchar *> c.taps, c.p, first, last)


# --- the adjoint of maxima -------------------------------------------------------------------------------------------


cdef inline void put(
    int bytes, const floating *dy, const tap_t *taps, floating *dx, const Box *box, bint apart, Py_ssize_t c,
    Py_ssize_t pixels, Py_ssize_t right,
) noexcept nogil:
    if floating is float and tap_t is uchar:
        put_float(bytes, dy, taps, dx, box, apart, c, pixels, right)
    elif floating is double and tap_t is uchar:
        put_double(bytes, dy, taps, dx, box, apart, c, pixels, right)


cdef inline void scatter(
    const floating *dy, const tap_t *taps, floating *dx, const Py_ssize_t *offsets, Py_ssize_t begin, Py_ssize_t end,
    Py_ssize_t c,
) noexcept nogil:
    if floating is float and tap_t is uchar:
        scatter_bytes_float(dy, taps, dx, offsets, begin, end, c)
    elif floating is double and tap_t is uchar:
        scatter_bytes_double(dy, taps, dx, offsets, begin, end, c)
    elif floating is float and tap_t is int:
        scatter_ints_float(dy, taps, dx, offsets, begin, end, c)
    elif floating is double and tap_t is int:
        scatter_ints_double(dy, taps, dx, offsets, begin, end, c)


cdef void scatter_band(
    const floating *dy, const tap_t *taps, floating *dx, const Plan *p, const Py_ssize_t *offsets, bint apart,
    int axis, Py_ssize_t low, Py_ssize_t high,
) noexcept nogil:
    """One image's lines low..high-1 of dx along `axis`, before which every axis has length 1: zeroed, then added to.

    Lines are zeroed shortly before a window first reaches them, while they are written from the cache.
    """
    cdef Py_ssize_t c = p.g.channels
    cdef Py_ssize_t line_size = c, zeroed = low, pixel = 0, first = 0, last = 0, o0, o1, o2, origin, needed, pixels
    cdef Py_ssize_t lows[3]
    cdef Py_ssize_t highs[3]
    cdef int index, bytes = vector_bytes(c, sizeof(floating), WIDEST)
    cdef bint compares = tap_t is uchar and bytes > 0 and p.taps <= PUT
    cdef bint covers = compares and apart and not p.adapts
    cdef Span s[3]
    cdef Box box
    set_steps(&box, p)
    for index in range(3):
        if p.g.before[index] or p.g.dilation[index] > 1 or p.g.kernel[index] * p.g.out[index] != p.g.inp[index]:
            covers = False
        if p.g.stride[index] != p.g.kernel[index] and p.g.out[index] > 1:
            covers = False
    if axis < 2:  # the columns inside are taken together
        last = p.g.out[2]
        inner_columns(p, &first, &last)
    for index in range(3):
        lows[index] = low if index == axis else 0
        highs[index] = high if index == axis else p.g.inp[index]
        if index > axis:
            line_size *= p.g.inp[index]
    for o0 in range(p.g.out[0]):
        s[0] = span(p, 0, o0, lows[0], highs[0])
        for o1 in range(p.g.out[1]):
            s[1] = span(p, 1, o1, lows[1], highs[1])
            if s[0].count == 0 or s[1].count == 0:
                pixel += p.g.out[2] * c
                continue
            o2 = 0
            while o2 < p.g.out[2]:
                s[2] = span(p, 2, o2, lows[2], highs[2])
                pixels = last - o2 if compares and first <= o2 < last else 1
                if s[2].count == 0:
                    o2 += 1
                    pixel += c
                    continue
                needed = s[axis].at + (s[axis].count - 1) * p.g.dilation[axis] + 1
                if needed > zeroed and covers:  # every element is written
                    zeroed = needed
                if needed > zeroed:
                    memset(dx + zeroed * line_size, 0, (needed - zeroed) * line_size * sizeof(floating))
                    zeroed = needed
                if compares:
                    box.first = (s[0].tap * p.g.kernel[1] + s[1].tap) * p.g.kernel[2] + s[2].tap
                    for index in range(3):
                        box.count[index] = s[index].count
                    origin = position(p, s[0].at, s[1].at, s[2].at)
                    put(
                        bytes, dy + pixel, taps + pixel, dx + origin, &box, apart, c, pixels, p.g.stride[2] * c
                    )
                else:
                    origin = position(
                        p, s[0].at - s[0].tap * p.g.dilation[0], s[1].at - s[1].tap * p.g.dilation[1],
                        s[2].at - s[2].tap * p.g.dilation[2],
                    )
                    scatter(
                        dy + pixel, taps + pixel, dx + origin, offsets, low * line_size - origin,
                        high * line_size - origin, c,
                    )
                o2 += pixels
                pixel += pixels * c
    if zeroed < high:
        memset(dx + zeroed * line_size, 0, (high - zeroed) * line_size * sizeof(floating))


cdef struct MaxBackward:
    const Plan *p
    const void *dy
    const void *taps
    bint int_taps, apart
    int axis
    const Py_ssize_t *offsets
    const Py_ssize_t *cuts
    Py_ssize_t bands, x_size, y_size  # sizes of an image


@Kernel
def max_backward(
    const floating[:, :, :, :, ::1] dy, const tap_t[:, :, :, :, ::1] taps, floating[:, :, :, :, ::1] dx,
    const Py_ssize_t[::1] offsets, object window, bint adapts, bint apart, int axis, const Py_ssize_t[::1] cuts,
    int num_threads,
):
    """dx = the adjoint of `max_forward` at the taps it chose.

    offsets   of every tap from tap 0, in elements of an image
    apart     no two windows overlap
    axis      before it, every spatial axis of x has length 1; a task is an image's lines cuts[k]..cuts[k + 1]-1 on it
    """
    cdef Plan p = geometry((<object> dx).shape, (<object> dy).shape, window, adapts)
    cdef MaxBackward c = MaxBackward(
        &p, &dy[0, 0, 0, 0, 0], &taps[0, 0, 0, 0, 0], tap_t is int, apart, axis, &offsets[0], &cuts[0],
        cuts.shape[0] - 1, position(&p, p.g.inp[0], 0, 0), dy.shape[1] * dy.shape[2] * dy.shape[3] * dy.shape[4],
    )
    run(<Task> max_backward_task[floating], &dx[0, 0, 0, 0, 0], &c, dy.shape[0] * c.bands, num_threads)


cdef void max_backward_task(floating *dx, const MaxBackward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t image = task // c.bands, low = c.cuts[task % c.bands], high = c.cuts[task % c.bands + 1]
    cdef const floating *dy = <const floating *> c.dy + image * c.y_size
    dx += image * c.x_size
    if c.int_taps:
        scatter_band(dy, <const int *> c.taps + image * c.y_size, dx, c.p, c.offsets, c.apart, c.axis, low, high)
    else:
        scatter_band(dy, <const uchar *> c.taps + image * c.y_size, dx, c.p, c.offsets, c.apart, c.axis, low, high)


# --- unpooling -------------------------------------------------------------------------------------------------------


cdef struct Unpooling:
    const void *source
    const long long *indices
    Py_ssize_t pixels, plane, channels


@Kernel
def unpool(
    const floating[:, :, ::1] x, const long long[:, :, ::1] indices, floating[:, :, ::1] y, int num_threads
):
    """y (n, plane, c) = 0 but for y[n, indices[n, o, c], c] = x[n, o, c], later o over earlier ones."""
    cdef Unpooling c = Unpooling(&x[0, 0, 0], &indices[0, 0, 0], x.shape[1], y.shape[1], x.shape[2])
    run(<Task> unpool_task[floating], &y[0, 0, 0], &c, x.shape[0], num_threads)


cdef void unpool_task(floating *y, const Unpooling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, first = task * c.pixels * channels, o, j
    cdef const floating *x = <const floating *> c.source + first
    cdef const long long *indices = c.indices + first
    y += task * c.plane * channels
    memset(y, 0, c.plane * channels * sizeof(floating))
    for o in range(c.pixels):
        for j in range(channels):
            y[indices[o * channels + j] * channels + j] = x[o * channels + j]


@Kernel
def unpool_backward(
    const floating[:, :, ::1] dy, const long long[:, :, ::1] indices, floating[:, :, ::1] dx, int num_threads
):
    """dx[n, o, c] = dy[n, indices[n, o, c], c]."""
    cdef Unpooling c = Unpooling(&dy[0, 0, 0], &indices[0, 0, 0], dx.shape[1], dy.shape[1], dx.shape[2])
    run(<Task> unpool_backward_task[floating], &dx[0, 0, 0], &c, dx.shape[0], num_threads)


cdef void unpool_backward_task(floating *dx, const Unpooling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, first = task * c.pixels * channels, o, j
    cdef const floating *dy = <const floating *> c.source + task * c.plane * channels
    cdef const long long *indices = c.indices + first
    dx += first
    for o in range(c.pixels):
        for j in range(channels):
            dx[o * channels + j] = dy[indices[o * channels + j] * channels + j]
