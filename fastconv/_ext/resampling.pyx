"""Resampling: keeping every so many positions, and its adjoint, zeros between.

Arrays are channels-last with three spatial axes: wide (n, i0, i1, i2, c), narrow (n, o0, o1, o2, c); position o of
narrow is position o * factor + phase of wide along every axis.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.string cimport memcpy, memset


cdef inline void copy(const floating *x, floating *out, Py_ssize_t count) noexcept nogil:
    memcpy(out, x, count * sizeof(floating))


cdef inline void zero(floating *out, Py_ssize_t count) noexcept nogil:
    if count > 0:
        memset(out, 0, count * sizeof(floating))


cdef inline void keep_line(
    const floating *wide, floating *narrow, Py_ssize_t count, Py_ssize_t step, Py_ssize_t c
) noexcept nogil:
    cdef Py_ssize_t o
    if c == 1:
        for o in range(count):
            narrow[o] = wide[o * step]
        return
    for o in range(count):
        copy(wide + o * step, narrow + o * c, c)


def keep_every(
    const floating[:, :, :, :, ::1] wide, floating[:, :, :, :, ::1] narrow, tuple factor, tuple phase, int num_threads
):
    """narrow = every factor-th position of wide, from phase on."""
    cdef Py_ssize_t o0 = narrow.shape[1], o1 = narrow.shape[2], o2 = narrow.shape[3], c = narrow.shape[4]
    cdef Py_ssize_t f0 = factor[0], f1 = factor[1], f2 = factor[2], p0 = phase[0], p1 = phase[1], p2 = phase[2]
    cdef Py_ssize_t task
    for task in prange(narrow.shape[0] * o0 * o1, nogil=True, num_threads=num_threads, schedule="static"):
        keep_line(
            &wide[task // (o0 * o1), task // o1 % o0 * f0 + p0, task % o1 * f1 + p1, p2, 0],
            &narrow[task // (o0 * o1), task // o1 % o0, task % o1, 0, 0], o2, f2 * c, c,
        )


cdef inline void place_line(
    const floating *narrow, floating *wide, Py_ssize_t count, Py_ssize_t step, Py_ssize_t c
) noexcept nogil:
    cdef Py_ssize_t o
    if c == 1:
        for o in range(count):
            wide[o * step] = narrow[o]
        return
    for o in range(count):
        copy(narrow + o * c, wide + o * step, c)


def place_every(
    const floating[:, :, :, :, ::1] narrow, floating[:, :, :, :, ::1] wide, tuple factor, tuple phase, int num_threads
):
    """Every factor-th position of wide, from phase on, = narrow; the others stay as they are."""
    cdef Py_ssize_t o0 = narrow.shape[1], o1 = narrow.shape[2], o2 = narrow.shape[3], c = narrow.shape[4]
    cdef Py_ssize_t f0 = factor[0], f1 = factor[1], f2 = factor[2], p0 = phase[0], p1 = phase[1], p2 = phase[2]
    cdef Py_ssize_t task
    for task in prange(narrow.shape[0] * o0 * o1, nogil=True, num_threads=num_threads, schedule="static"):
        place_line(
            &narrow[task // (o0 * o1), task // o1 % o0, task % o1, 0, 0],
            &wide[task // (o0 * o1), task // o1 % o0 * f0 + p0, task % o1 * f1 + p1, p2, 0], o2, f2 * c, c,
        )


cdef inline void spread_line(
    const floating *narrow, floating *wide, Py_ssize_t length, Py_ssize_t count, Py_ssize_t factor, Py_ssize_t phase,
    Py_ssize_t c,
) noexcept nogil:
    cdef Py_ssize_t o
    zero(wide, length * c)
    for o in range(count):
        copy(narrow + o * c, wide + (o * factor + phase) * c, c)


def spread(
    const floating[:, :, :, :, ::1] narrow, floating[:, :, :, :, ::1] wide, tuple factor, tuple phase, int num_threads
):
    """wide = narrow with factor - 1 zeros between neighbours, phase zeros before and the rest after."""
    cdef Py_ssize_t i0 = wide.shape[1], i1 = wide.shape[2], i2 = wide.shape[3], c = wide.shape[4]
    cdef Py_ssize_t o0 = narrow.shape[1], o1 = narrow.shape[2], o2 = narrow.shape[3]
    cdef Py_ssize_t f0 = factor[0], f1 = factor[1], f2 = factor[2], p0 = phase[0], p1 = phase[1], p2 = phase[2]
    cdef Py_ssize_t task, a, b
    for task in prange(wide.shape[0] * i0 * i1, nogil=True, num_threads=num_threads, schedule="static"):
        a = task // i1 % i0 - p0
        b = task % i1 - p1
        if a >= 0 and b >= 0 and a % f0 == 0 and b % f1 == 0 and a // f0 < o0 and b // f1 < o1:
            spread_line(
                &narrow[task // (i0 * i1), a // f0, b // f1, 0, 0], &wide[task // (i0 * i1), a + p0, b + p1, 0, 0],
                i2, o2, f2, p2, c,
            )
        else:
            zero(&wide[task // (i0 * i1), a + p0, b + p1, 0, 0], i2 * c)


def combine(
    const floating[:, :, ::1] x, floating[:, :, ::1] y, const Py_ssize_t[::1] begins, const Py_ssize_t[::1] columns,
    const double[::1] weights, Py_ssize_t pieces, int num_threads,
):
    """y[a, o, :] = the sum over the o-th run of weights[k] * x[a, columns[k], :], in that order; 0 for an empty run."""
    cdef Py_ssize_t outputs = y.shape[1], width = y.shape[2]
    cdef Py_ssize_t task
    for task in prange(y.shape[0] * pieces, nogil=True, num_threads=num_threads, schedule="static"):
        combine_rows(
            &x[task // pieces, 0, 0], &y[task // pieces, 0, 0], &begins[0], &columns[0], &weights[0], width,
            task % pieces * outputs // pieces, (task % pieces + 1) * outputs // pieces,
        )


cdef void combine_rows(
    const floating *x, floating *y, const Py_ssize_t *begins, const Py_ssize_t *columns, const double *weights,
    Py_ssize_t width, Py_ssize_t first, Py_ssize_t last,
) noexcept nogil:
    cdef Py_ssize_t o, k, j
    cdef floating weight
    cdef const floating *line
    y += first * width
    for o in range(first, last):
        if begins[o] == begins[o + 1]:
            zero(y, width)
        for k in range(begins[o], begins[o + 1]):
            line = x + columns[k] * width
            weight = <floating> weights[k]
            if k == begins[o]:
                for j in range(width):
                    y[j] = weight * line[j]
            else:
                for j in range(width):
                    y[j] += weight * line[j]
        y += width
