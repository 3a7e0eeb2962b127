# distutils: extra_compile_args = -ffp-contract=off
"""Resampling: keeping every so many positions, and its adjoint, zeros between.

Arrays are channels-last with three spatial axes: wide (n, i0, i1, i2, c), narrow (n, o0, o1, o2, c); position o of
narrow is position o * factor + phase of wide along every axis.
"""

from cython cimport floating
from libc.string cimport memcpy, memset

from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "resampling.h" nogil:
    const Py_ssize_t FAR
    ctypedef struct Writer:
        pass
    void fence()
    void writer_begin(Writer *, void *y)
    void writer_copy(Writer *, const void *x, size_t size)
    void writer_end(Writer *)
    void gather_float(
        Writer *, const float *x, Py_ssize_t x_step, float *y, Py_ssize_t run, Py_ssize_t count, const float *next)
    void gather_double(
        Writer *, const double *x, Py_ssize_t x_step, double *y, Py_ssize_t run, Py_ssize_t count, const double *next)
    void pick_float(
        Writer *, const float *x, Py_ssize_t length, const Py_ssize_t *columns, float *y, Py_ssize_t run,
        Py_ssize_t count, bint twice, const float *next)
    void pick_double(
        Writer *, const double *x, Py_ssize_t length, const Py_ssize_t *columns, double *y, Py_ssize_t run,
        Py_ssize_t count, bint twice, const double *next)
    void scatter_float(
        const float *x, float *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, bint far, const float *next)
    void scatter_double(
        const double *x, double *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, bint far, const double *next)
    void spread_float(
        Writer *, const float *x, float *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, Py_ssize_t room)
    void spread_double(
        Writer *, const double *x, double *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, Py_ssize_t room)
    void combine_float(
        Writer *, const float *x, const Py_ssize_t *begins, const Py_ssize_t *columns, const double *weights, float *y,
        Py_ssize_t width, Py_ssize_t count)
    void combine_double(
        Writer *, const double *x, const Py_ssize_t *begins, const Py_ssize_t *columns, const double *weights,
        double *y, Py_ssize_t width, Py_ssize_t count)


cdef enum:
    WRITTEN = 1 << 14  # bytes that a task writes, at least: as many lines as that takes;
    FAR_WRITTEN = 1 << 17  # past the caches, where its first and last lines cost most
    AHEAD = 1 << 13  # bytes in front of what is read, that are fetched where the hardware foresees nothing
    ROW = 1 << 12  # elements of a row that is kept to be written again


cdef inline Py_ssize_t lines_of_task(Py_ssize_t line, bint far) noexcept nogil:
    """For lines of so many bytes."""
    return max(<Py_ssize_t> 1, (<Py_ssize_t> FAR_WRITTEN if far else <Py_ssize_t> WRITTEN) // max(<Py_ssize_t> 1, line))


cdef inline bint is_far(const Py_ssize_t *shape, int axes, Py_ssize_t size) noexcept nogil:
    """Whether an array of elements of `size` bytes is too large for the caches."""
    cdef int axis
    for axis in range(axes):
        size *= shape[axis]
    return size >= FAR


cdef struct Resampling:
    const void *source  # narrow or wide, whichever is read
    Py_ssize_t channels
    Py_ssize_t wide[3]
    Py_ssize_t narrow[3]
    Py_ssize_t factor[3]
    Py_ssize_t phase[3]
    Py_ssize_t lines, group  # all, and those of a task
    Py_ssize_t ahead  # lines between the one that is read and the one that is fetched, 0 where none is
    bint far  # what is written is too large for the caches


cdef Resampling resampling(
    const void *source, tuple wide_shape, tuple narrow_shape, tuple factor, tuple phase, bint far
):
    cdef Resampling c
    cdef int axis
    c.source, c.channels, c.far = source, wide_shape[4], far
    for axis in range(3):
        c.wide[axis], c.narrow[axis] = wide_shape[1 + axis], narrow_shape[1 + axis]
        c.factor[axis], c.phase[axis] = factor[axis], phase[axis]
    return c


cdef struct Line:
    Py_ssize_t image, a, b


cdef inline Line line_at(Py_ssize_t line, const Py_ssize_t *shape) noexcept nogil:
    """The line-th of arrays with such spatial axes."""
    cdef Line at
    at.image, at.a, at.b = line // (shape[0] * shape[1]), line // shape[1] % shape[0], line % shape[1]
    return at


cdef inline void advance(Line *at, const Py_ssize_t *shape) noexcept nogil:
    """To the next; at once, for divisions take longer than short lines."""
    at.b += 1
    if at.b == shape[1]:
        at.b = 0
        at.a += 1
        if at.a == shape[0]:
            at.a = 0
            at.image += 1


cdef inline Py_ssize_t in_wide(const Resampling *c, const Line *at) noexcept nogil:
    """The offset of the first position of a line of narrow."""
    cdef Py_ssize_t i0 = at.a * c.factor[0] + c.phase[0], i1 = at.b * c.factor[1] + c.phase[1]
    return (((at.image * c.wide[0] + i0) * c.wide[1] + i1) * c.wide[2] + c.phase[2]) * c.channels


@Kernel
def keep_every(
    const floating[:, :, :, :, ::1] wide, floating[:, :, :, :, ::1] narrow, tuple factor, tuple phase, int num_threads
):
    """narrow = every factor-th position of wide, from phase on."""
    cdef Py_ssize_t lines = narrow.shape[0] * narrow.shape[1] * narrow.shape[2]
    cdef Resampling c
    if lines == 0:
        return
    c = resampling(
        &wide[0, 0, 0, 0, 0], (<object> wide).shape, (<object> narrow).shape, factor, phase,
        is_far(narrow.shape, 5, sizeof(floating)),
    )
    lay_out(&c, lines, sizeof(floating))
    run(<Task> keep_task[floating], &narrow[0, 0, 0, 0, 0], &c, (lines + c.group - 1) // c.group, num_threads)


cdef inline void lay_out(Resampling *c, Py_ssize_t lines, Py_ssize_t size) noexcept nogil:
    """Tasks are runs of lines of narrow; what is skipped of wide the hardware does not foresee."""
    cdef Py_ssize_t line = c.narrow[2] * c.channels * size
    c.lines, c.group, c.ahead = lines, lines_of_task(line, c.far), 0
    if c.far and (c.factor[0] * c.factor[1] > 1 or (c.factor[2] - 1) * c.channels * size >= 64):
        c.ahead = 1 + AHEAD // (line * c.factor[2])


cdef void keep_task(floating *narrow, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, count = c.narrow[2], step = c.factor[2] * channels, line
    cdef const floating *wide = <const floating *> c.source
    cdef const floating *next = NULL
    cdef floating *y = narrow + task * c.group * count * channels
    cdef Line at = line_at(task * c.group, c.narrow), soon = line_at(task * c.group + c.ahead, c.narrow)
    cdef Writer memory
    cdef Writer *writer = &memory if c.far else NULL
    if c.far:
        writer_begin(writer, y)
    for line in range(task * c.group, min((task + 1) * c.group, c.lines)):
        if c.ahead:
            next = wide + in_wide(c, &soon) if line + c.ahead < c.lines else NULL
            advance(&soon, c.narrow)
        if floating is float:
            gather_float(writer, wide + in_wide(c, &at), step, y, channels, count, next)
        else:
            gather_double(writer, wide + in_wide(c, &at), step, y, channels, count, next)
        y += count * channels
        advance(&at, c.narrow)
    if c.far:
        writer_end(writer)


@Kernel
def place_every(
    const floating[:, :, :, :, ::1] narrow, floating[:, :, :, :, ::1] wide, tuple factor, tuple phase, int num_threads
):
    """Every factor-th position of wide, from phase on, = narrow; the others stay as they are."""
    cdef Py_ssize_t lines = narrow.shape[0] * narrow.shape[1] * narrow.shape[2]
    cdef Resampling c
    if lines == 0:
        return
    c = resampling(
        &narrow[0, 0, 0, 0, 0], (<object> wide).shape, (<object> narrow).shape, factor, phase,
        is_far(narrow.shape, 5, sizeof(floating)),
    )
    lay_out(&c, lines, sizeof(floating))
    run(<Task> place_task[floating], &wide[0, 0, 0, 0, 0], &c, (lines + c.group - 1) // c.group, num_threads)


cdef void place_task(floating *wide, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, count = c.narrow[2], step = c.factor[2] * channels, line
    cdef const floating *narrow = <const floating *> c.source + task * c.group * count * channels
    cdef const floating *next = NULL
    cdef Line at = line_at(task * c.group, c.narrow), soon = line_at(task * c.group + c.ahead, c.narrow)
    for line in range(task * c.group, min((task + 1) * c.group, c.lines)):
        if c.ahead:
            next = wide + in_wide(c, &soon) if line + c.ahead < c.lines else NULL
            advance(&soon, c.narrow)
        if floating is float:
            scatter_float(narrow, wide + in_wide(c, &at), step, channels, count, c.far, next)
        else:
            scatter_double(narrow, wide + in_wide(c, &at), step, channels, count, c.far, next)
        narrow += count * channels
        advance(&at, c.narrow)
    if c.far:
        fence()


@Kernel
def spread(
    const floating[:, :, :, :, ::1] narrow, floating[:, :, :, :, ::1] wide, tuple factor, tuple phase, int num_threads
):
    """wide = narrow with factor - 1 zeros between neighbours, phase zeros before and the rest after."""
    cdef Resampling c = resampling(
        &narrow[0, 0, 0, 0, 0], (<object> wide).shape, (<object> narrow).shape, factor, phase,
        is_far(wide.shape, 5, sizeof(floating)),
    )
    c.lines = wide.shape[0] * c.wide[0] * c.wide[1]
    c.group = lines_of_task(c.wide[2] * c.channels * sizeof(floating), c.far)
    run(<Task> spread_task[floating], &wide[0, 0, 0, 0, 0], &c, (c.lines + c.group - 1) // c.group, num_threads)


cdef void spread_task(floating *wide, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t length = c.wide[2] * c.channels
    cdef Line at = line_at(task * c.group, c.wide)
    cdef Writer memory
    cdef Writer *writer = &memory if c.far else NULL
    wide += task * c.group * length
    if c.far:
        writer_begin(writer, wide)
    for _line in range(task * c.group, min((task + 1) * c.group, c.lines)):
        spread_line(wide, c, &at, writer)
        wide += length
        advance(&at, c.wide)
    if c.far:
        writer_end(writer)


cdef inline void spread_line(floating *wide, const Resampling *c, const Line *at, Writer *writer) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, o0 = c.narrow[0], o1 = c.narrow[1], o2 = c.narrow[2]
    cdef Py_ssize_t f0 = c.factor[0], f1 = c.factor[1], step = c.factor[2] * channels
    cdef Py_ssize_t length = c.wide[2] * channels, before = c.phase[2] * channels
    cdef Py_ssize_t a = at.a - c.phase[0], b = at.b - c.phase[1]
    cdef bint filled = a >= 0 and b >= 0 and a % f0 == 0 and b % f1 == 0 and a // f0 < o0 and b // f1 < o1
    cdef const floating *narrow = <const floating *> c.source
    cdef Py_ssize_t zeros = (before if filled else length) * <Py_ssize_t> sizeof(floating)
    if writer != NULL:
        writer_copy(writer, NULL, zeros)
    else:
        memset(wide, 0, zeros)
    if filled:
        narrow += ((at.image * o0 + a // f0) * o1 + b // f1) * o2 * channels
        if floating is float:
            spread_float(writer, narrow, wide + before, step, channels, o2, length - before)
        else:
            spread_double(writer, narrow, wide + before, step, channels, o2, length - before)


cdef struct Picking:
    const void *x
    const Py_ssize_t *picked[3]  # positions of x, for each of y
    Py_ssize_t inp[3]
    Py_ssize_t out[3]
    Py_ssize_t channels
    Py_ssize_t lines, group, ahead
    bint far, twice, repeats  # repeats: y has more lines than x


@Kernel
def pick(
    const floating[:, :, :, :, ::1] x, floating[:, :, :, :, ::1] y, const Py_ssize_t[::1] picked0,
    const Py_ssize_t[::1] picked1, const Py_ssize_t[::1] picked2, bint twice, int num_threads,
):
    """y[n, a, b, d] = x[n, picked0[a], picked1[b], picked2[d]], all of them ascending; twice: picked2[d] = d // 2."""
    cdef Picking c
    cdef int axis
    cdef Py_ssize_t line = y.shape[3] * y.shape[4] * <Py_ssize_t> sizeof(floating)
    c.x, c.channels, c.twice = &x[0, 0, 0, 0, 0], x.shape[4], twice
    c.picked[0], c.picked[1], c.picked[2] = &picked0[0], &picked1[0], &picked2[0]
    for axis in range(3):
        c.inp[axis], c.out[axis] = x.shape[1 + axis], y.shape[1 + axis]
    c.far = is_far(y.shape, 5, sizeof(floating))
    c.lines, c.group = y.shape[0] * c.out[0] * c.out[1], lines_of_task(line, c.far)
    c.ahead, c.repeats = 0, c.out[1] > c.inp[1]
    if c.far and c.inp[1] > c.out[1]:
        c.ahead = 1 + AHEAD // (c.inp[2] * c.channels * <Py_ssize_t> sizeof(floating))
    run(<Task> pick_task[floating], &y[0, 0, 0, 0, 0], &c, (c.lines + c.group - 1) // c.group, num_threads)


cdef inline Py_ssize_t picked_row(const Picking *c, const Line *at) noexcept nogil:
    """The row of x that a line of y is picked from."""
    return (at.image * c.inp[0] + c.picked[0][at.a]) * c.inp[1] + c.picked[1][at.b]


cdef void pick_task(floating *y, const Picking *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t width = c.out[2] * c.channels, length = c.inp[2] * c.channels, last = -1, row, line
    cdef Py_ssize_t size = width * <Py_ssize_t> sizeof(floating), stop = min((task + 1) * c.group, c.lines)
    cdef floating kept[ROW]
    cdef floating *to = y + task * c.group * width
    cdef const floating *x = <const floating *> c.x
    cdef const floating *next = NULL
    cdef Line at = line_at(task * c.group, c.out), soon = line_at(task * c.group + c.ahead, c.out)
    cdef bint keeps = c.far and c.repeats and width <= ROW
    cdef Writer memory
    cdef Writer *writer = &memory if c.far else NULL
    if c.far:
        writer_begin(writer, to)
    for line in range(task * c.group, stop):
        row = picked_row(c, &at)
        if c.ahead:
            next = x + picked_row(c, &soon) * length if line + c.ahead < c.lines else NULL
            advance(&soon, c.out)
        if keeps:
            if row != last:
                pick_row(NULL, x + row * length, length, c, kept, <const floating *> NULL)
            writer_copy(writer, kept, size)
        elif row == last and not c.far:
            memcpy(to, to - width, size)
        else:
            pick_row(writer, x + row * length, length, c, to, next)
        last = row
        to += width
        advance(&at, c.out)
    if c.far:
        writer_end(writer)


cdef inline void pick_row(
    Writer *writer, const floating *x, Py_ssize_t length, const Picking *c, floating *y, const floating *next
) noexcept nogil:
    if floating is float:
        pick_float(writer, x, length, c.picked[2], y, c.channels, c.out[2], c.twice, next)
    else:
        pick_double(writer, x, length, c.picked[2], y, c.channels, c.out[2], c.twice, next)


cdef struct Combination:
    const void *x
    const Py_ssize_t *begins
    const Py_ssize_t *columns
    const double *weights
    Py_ssize_t inputs, outputs, width, pieces
    Py_ssize_t count, group  # pieces of all, and of a task
    bint far


@Kernel
def combine(
    const floating[:, :, ::1] x, floating[:, :, ::1] y, const Py_ssize_t[::1] begins, const Py_ssize_t[::1] columns,
    const double[::1] weights, Py_ssize_t pieces, int num_threads,
):
    """y[a, o, :] = the sum over the o-th run of weights[k] * x[a, columns[k], :], in that order; 0 for an empty run."""
    cdef bint far = is_far(y.shape, 3, sizeof(floating))
    cdef Combination c = Combination(
        &x[0, 0, 0], &begins[0], &columns[0], &weights[0], x.shape[1], y.shape[1], y.shape[2], pieces,
        y.shape[0] * pieces, lines_of_task(y.shape[1] * y.shape[2] * sizeof(floating) // pieces, far), far,
    )
    run(<Task> combine_task[floating], &y[0, 0, 0], &c, (c.count + c.group - 1) // c.group, num_threads)


cdef void combine_task(floating *y, const Combination *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t number = task * c.group, a, piece, first, count
    cdef const floating *x
    cdef floating *to = y + (
        number // c.pieces * c.outputs + number % c.pieces * c.outputs // c.pieces
    ) * c.width
    cdef Writer memory
    cdef Writer *writer = &memory if c.far else NULL
    if c.far:
        writer_begin(writer, to)
    for number in range(number, min(number + c.group, c.count)):
        a, piece = number // c.pieces, number % c.pieces
        first = piece * c.outputs // c.pieces
        count = (piece + 1) * c.outputs // c.pieces - first
        x = <const floating *> c.x + a * c.inputs * c.width
        if floating is float:
            combine_float(writer, x, c.begins + first, c.columns, c.weights, to, c.width, count)
        else:
            combine_double(writer, x, c.begins + first, c.columns, c.weights, to, c.width, count)
        to += count * c.width
    if c.far:
        writer_end(writer)
