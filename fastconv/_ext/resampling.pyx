# distutils: extra_compile_args = -ffp-contract=off
"""Resampling: keeping every so many positions, and its adjoint, zeros between.

Arrays are channels-last with three spatial axes: wide (n, i0, i1, i2, c), narrow (n, o0, o1, o2, c); position o of
narrow is position o * factor + phase of wide along every axis.
"""

from cython cimport floating

from fastconv._ext.team cimport Task, run

cdef extern from "resampling.h" nogil:
    const Py_ssize_t FAR
    void fence()
    void gather_float(
        const float *x, Py_ssize_t x_step, float *y, Py_ssize_t run, Py_ssize_t count, bint far)
    void gather_double(
        const double *x, Py_ssize_t x_step, double *y, Py_ssize_t run, Py_ssize_t count, bint far)
    void scatter_float(
        const float *x, float *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, bint far)
    void scatter_double(
        const double *x, double *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, bint far)
    void clear_float(float *y, Py_ssize_t count, bint far)
    void clear_double(double *y, Py_ssize_t count, bint far)
    void spread_float(
        const float *x, float *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, Py_ssize_t room, bint far)
    void spread_double(
        const double *x, double *y, Py_ssize_t y_step, Py_ssize_t run, Py_ssize_t count, Py_ssize_t room, bint far)
    void combine_float(
        const float *x, const Py_ssize_t *begins, const Py_ssize_t *columns, const double *weights, float *y,
        Py_ssize_t width, Py_ssize_t count, bint far)
    void combine_double(
        const double *x, const Py_ssize_t *begins, const Py_ssize_t *columns, const double *weights, double *y,
        Py_ssize_t width, Py_ssize_t count, bint far)


cdef enum:
    WRITTEN = 1 << 14  # bytes that a task writes, at least: as many lines as that takes


cdef inline Py_ssize_t lines_of_task(Py_ssize_t line) noexcept nogil:
    """For lines of so many bytes."""
    return max(<Py_ssize_t> 1, WRITTEN // max(<Py_ssize_t> 1, line))


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


cdef inline Py_ssize_t in_wide(const Resampling *c, Py_ssize_t line) noexcept nogil:
    """The offset of the first position of a line of narrow."""
    cdef Py_ssize_t image = line // (c.narrow[0] * c.narrow[1])
    cdef Py_ssize_t i0 = line // c.narrow[1] % c.narrow[0] * c.factor[0] + c.phase[0]
    cdef Py_ssize_t i1 = line % c.narrow[1] * c.factor[1] + c.phase[1]
    return (((image * c.wide[0] + i0) * c.wide[1] + i1) * c.wide[2] + c.phase[2]) * c.channels


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
    with nogil:
        c.lines, c.group = lines, lines_of_task(c.narrow[2] * c.channels * sizeof(floating))
        run(<Task> keep_task[floating], &narrow[0, 0, 0, 0, 0], &c, (lines + c.group - 1) // c.group, num_threads)


cdef void keep_task(floating *narrow, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, count = c.narrow[2], step = c.factor[2] * channels, line
    cdef const floating *wide
    for line in range(task * c.group, min((task + 1) * c.group, c.lines)):
        wide = <const floating *> c.source + in_wide(c, line)
        if floating is float:
            gather_float(wide, step, narrow + line * count * channels, channels, count, c.far)
        else:
            gather_double(wide, step, narrow + line * count * channels, channels, count, c.far)
    if c.far:
        fence()


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
    with nogil:
        c.lines, c.group = lines, lines_of_task(c.narrow[2] * c.channels * sizeof(floating))
        run(<Task> place_task[floating], &wide[0, 0, 0, 0, 0], &c, (lines + c.group - 1) // c.group, num_threads)


cdef void place_task(floating *wide, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, count = c.narrow[2], step = c.factor[2] * channels, line
    cdef const floating *narrow
    for line in range(task * c.group, min((task + 1) * c.group, c.lines)):
        narrow = <const floating *> c.source + line * count * channels
        if floating is float:
            scatter_float(narrow, wide + in_wide(c, line), step, channels, count, c.far)
        else:
            scatter_double(narrow, wide + in_wide(c, line), step, channels, count, c.far)
    if c.far:
        fence()


def spread(
    const floating[:, :, :, :, ::1] narrow, floating[:, :, :, :, ::1] wide, tuple factor, tuple phase, int num_threads
):
    """wide = narrow with factor - 1 zeros between neighbours, phase zeros before and the rest after."""
    cdef Resampling c = resampling(
        &narrow[0, 0, 0, 0, 0], (<object> wide).shape, (<object> narrow).shape, factor, phase,
        is_far(wide.shape, 5, sizeof(floating)),
    )
    with nogil:
        c.lines = wide.shape[0] * c.wide[0] * c.wide[1]
        c.group = lines_of_task(c.wide[2] * c.channels * sizeof(floating))
        run(<Task> spread_task[floating], &wide[0, 0, 0, 0, 0], &c, (c.lines + c.group - 1) // c.group, num_threads)


cdef void spread_task(floating *wide, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t line
    for line in range(task * c.group, min((task + 1) * c.group, c.lines)):
        spread_line(wide, c, line)
    if c.far:
        fence()


cdef inline void spread_line(floating *wide, const Resampling *c, Py_ssize_t line) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, o0 = c.narrow[0], o1 = c.narrow[1], o2 = c.narrow[2]
    cdef Py_ssize_t f0 = c.factor[0], f1 = c.factor[1], step = c.factor[2] * channels
    cdef Py_ssize_t length = c.wide[2] * channels, before = c.phase[2] * channels
    cdef Py_ssize_t image = line // (c.wide[0] * c.wide[1])
    cdef Py_ssize_t a = line // c.wide[1] % c.wide[0] - c.phase[0], b = line % c.wide[1] - c.phase[1]
    cdef bint filled = a >= 0 and b >= 0 and a % f0 == 0 and b % f1 == 0 and a // f0 < o0 and b // f1 < o1
    cdef const floating *narrow = <const floating *> c.source
    wide += line * length
    if filled:
        narrow += ((image * o0 + a // f0) * o1 + b // f1) * o2 * channels
    if floating is float:
        clear_float(wide, before if filled else length, c.far)
        if filled:
            spread_float(narrow, wide + before, step, channels, o2, length - before, c.far)
    else:
        clear_double(wide, before if filled else length, c.far)
        if filled:
            spread_double(narrow, wide + before, step, channels, o2, length - before, c.far)


cdef struct Combination:
    const void *x
    const Py_ssize_t *begins
    const Py_ssize_t *columns
    const double *weights
    Py_ssize_t inputs, outputs, width, pieces
    Py_ssize_t count, group  # pieces of all, and of a task
    bint far


def combine(
    const floating[:, :, ::1] x, floating[:, :, ::1] y, const Py_ssize_t[::1] begins, const Py_ssize_t[::1] columns,
    const double[::1] weights, Py_ssize_t pieces, int num_threads,
):
    """y[a, o, :] = the sum over the o-th run of weights[k] * x[a, columns[k], :], in that order; 0 for an empty run."""
    cdef Combination c = Combination(
        &x[0, 0, 0], &begins[0], &columns[0], &weights[0], x.shape[1], y.shape[1], y.shape[2], pieces,
        y.shape[0] * pieces, lines_of_task(y.shape[1] * y.shape[2] * sizeof(floating) // pieces),
        is_far(y.shape, 3, sizeof(floating)),
    )
    with nogil:
        run(<Task> combine_task[floating], &y[0, 0, 0], &c, (c.count + c.group - 1) // c.group, num_threads)


cdef void combine_task(floating *y, const Combination *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t number, a, piece, first, count
    cdef const floating *x
    cdef floating *to
    for number in range(task * c.group, min((task + 1) * c.group, c.count)):
        a, piece = number // c.pieces, number % c.pieces
        first = piece * c.outputs // c.pieces
        count = (piece + 1) * c.outputs // c.pieces - first
        x = <const floating *> c.x + a * c.inputs * c.width
        to = y + (a * c.outputs + first) * c.width
        if floating is float:
            combine_float(x, c.begins + first, c.columns, c.weights, to, c.width, count, c.far)
        else:
            combine_double(x, c.begins + first, c.columns, c.weights, to, c.width, count, c.far)
    if c.far:
        fence()
