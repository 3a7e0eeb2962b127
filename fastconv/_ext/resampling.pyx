"""Resampling: keeping every so many positions, and its adjoint, zeros between.

Arrays are channels-last with three spatial axes: wide (n, i0, i1, i2, c), narrow (n, o0, o1, o2, c); position o of
narrow is position o * factor + phase of wide along every axis.
"""

from cython cimport floating
from libc.string cimport memcpy, memset

from fastconv._ext.team cimport Task, run


cdef struct Resampling:
    const void *source  # narrow or wide, whichever is read
    Py_ssize_t channels
    Py_ssize_t wide[3]
    Py_ssize_t narrow[3]
    Py_ssize_t factor[3]
    Py_ssize_t phase[3]


cdef Resampling resampling(const void *source, tuple wide_shape, tuple narrow_shape, tuple factor, tuple phase):
    cdef Resampling c
    cdef int axis
    c.source, c.channels = source, wide_shape[4]
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


cdef inline void copy(const floating *x, floating *out, Py_ssize_t count) noexcept nogil:
    memcpy(out, x, count * sizeof(floating))


cdef inline void zero(floating *out, Py_ssize_t count) noexcept nogil:
    if count > 0:
        memset(out, 0, count * sizeof(floating))


def keep_every(
    const floating[:, :, :, :, ::1] wide, floating[:, :, :, :, ::1] narrow, tuple factor, tuple phase, int num_threads
):
    """narrow = every factor-th position of wide, from phase on."""
    cdef Py_ssize_t lines = narrow.shape[0] * narrow.shape[1] * narrow.shape[2]
    cdef Resampling c
    if lines == 0:
        return
    c = resampling(&wide[0, 0, 0, 0, 0], (<object> wide).shape, (<object> narrow).shape, factor, phase)
    with nogil:
        run(<Task> keep_task[floating], &narrow[0, 0, 0, 0, 0], &c, lines, num_threads)


cdef void keep_task(floating *narrow, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, count = c.narrow[2], step = c.factor[2] * channels, o
    cdef const floating *wide = <const floating *> c.source + in_wide(c, task)
    narrow += task * count * channels
    if channels == 1:
        for o in range(count):
            narrow[o] = wide[o * step]
        return
    for o in range(count):
        copy(wide + o * step, narrow + o * channels, channels)


def place_every(
    const floating[:, :, :, :, ::1] narrow, floating[:, :, :, :, ::1] wide, tuple factor, tuple phase, int num_threads
):
    """Every factor-th position of wide, from phase on, = narrow; the others stay as they are."""
    cdef Py_ssize_t lines = narrow.shape[0] * narrow.shape[1] * narrow.shape[2]
    cdef Resampling c
    if lines == 0:
        return
    c = resampling(&narrow[0, 0, 0, 0, 0], (<object> wide).shape, (<object> narrow).shape, factor, phase)
    with nogil:
        run(<Task> place_task[floating], &wide[0, 0, 0, 0, 0], &c, lines, num_threads)


cdef void place_task(floating *wide, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, count = c.narrow[2], step = c.factor[2] * channels, o
    cdef const floating *narrow = <const floating *> c.source + task * count * channels
    wide += in_wide(c, task)
    if channels == 1:
        for o in range(count):
            wide[o * step] = narrow[o]
        return
    for o in range(count):
        copy(narrow + o * channels, wide + o * step, channels)


def spread(
    const floating[:, :, :, :, ::1] narrow, floating[:, :, :, :, ::1] wide, tuple factor, tuple phase, int num_threads
):
    """wide = narrow with factor - 1 zeros between neighbours, phase zeros before and the rest after."""
    cdef Resampling c = resampling(
        &narrow[0, 0, 0, 0, 0], (<object> wide).shape, (<object> narrow).shape, factor, phase
    )
    with nogil:
        run(<Task> spread_task[floating], &wide[0, 0, 0, 0, 0], &c, wide.shape[0] * c.wide[0] * c.wide[1], num_threads)


cdef void spread_task(floating *wide, const Resampling *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t channels = c.channels, o0 = c.narrow[0], o1 = c.narrow[1], o2 = c.narrow[2]
    cdef Py_ssize_t f0 = c.factor[0], f1 = c.factor[1], step = c.factor[2] * channels, o
    cdef Py_ssize_t image = task // (c.wide[0] * c.wide[1])
    cdef Py_ssize_t a = task // c.wide[1] % c.wide[0] - c.phase[0], b = task % c.wide[1] - c.phase[1]
    cdef const floating *narrow
    wide += task * c.wide[2] * channels
    zero(wide, c.wide[2] * channels)
    if a >= 0 and b >= 0 and a % f0 == 0 and b % f1 == 0 and a // f0 < o0 and b // f1 < o1:
        narrow = <const floating *> c.source + ((image * o0 + a // f0) * o1 + b // f1) * o2 * channels
        wide += c.phase[2] * channels
        for o in range(o2):
            copy(narrow + o * channels, wide + o * step, channels)


cdef struct Combination:
    const void *x
    const Py_ssize_t *begins
    const Py_ssize_t *columns
    const double *weights
    Py_ssize_t inputs, outputs, width, pieces


def combine(
    const floating[:, :, ::1] x, floating[:, :, ::1] y, const Py_ssize_t[::1] begins, const Py_ssize_t[::1] columns,
    const double[::1] weights, Py_ssize_t pieces, int num_threads,
):
    """y[a, o, :] = the sum over the o-th run of weights[k] * x[a, columns[k], :], in that order; 0 for an empty run."""
    cdef Combination c = Combination(
        &x[0, 0, 0], &begins[0], &columns[0], &weights[0], x.shape[1], y.shape[1], y.shape[2], pieces
    )
    with nogil:
        run(<Task> combine_task[floating], &y[0, 0, 0], &c, y.shape[0] * pieces, num_threads)


cdef void combine_task(floating *y, const Combination *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef const Py_ssize_t *begins = c.begins
    cdef Py_ssize_t width = c.width, a = task // c.pieces, piece = task % c.pieces
    cdef Py_ssize_t first = piece * c.outputs // c.pieces, last = (piece + 1) * c.outputs // c.pieces, o, k, j
    cdef floating weight
    cdef const floating *x = <const floating *> c.x + a * c.inputs * width
    cdef const floating *line
    y += (a * c.outputs + first) * width
    for o in range(first, last):
        if begins[o] == begins[o + 1]:
            zero(y, width)
        for k in range(begins[o], begins[o + 1]):
            line = x + c.columns[k] * width
            weight = <floating> c.weights[k]
            if k == begins[o]:
                for j in range(width):
                    y[j] = weight * line[j]
            else:
                for j in range(width):
                    y[j] += weight * line[j]
        y += width
