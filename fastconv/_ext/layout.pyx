"""Change of physical layout: (n, rows, columns) to (n, columns, rows), in cache-sized squares."""

from cython cimport floating

from fastconv._ext.team cimport Task, run

cdef enum:
    SQUARE = 32


cdef struct Swap:
    const void *x
    Py_ssize_t rows, columns, bands


def swap_axes(const floating[:, :, ::1] x, floating[:, :, ::1] out, int num_threads):
    """out[n, j, i] = x[n, i, j]; one task is one image and 32 rows of it."""
    cdef Swap c
    if x.shape[0] * x.shape[1] * x.shape[2] == 0:
        return
    c = Swap(&x[0, 0, 0], x.shape[1], x.shape[2], (x.shape[1] + SQUARE - 1) // SQUARE)
    with nogil:
        run(<Task> swap_task[floating], &out[0, 0, 0], &c, x.shape[0] * c.bands, num_threads)


cdef void swap_task(floating *out, const Swap *c, Py_ssize_t task, int slot) noexcept nogil:
    """By way of a square in L1, one column wider than it is read: both sides are then touched in whole lines."""
    cdef floating square[SQUARE][SQUARE + 1]
    cdef Py_ssize_t rows = c.rows, columns = c.columns, first = task % c.bands * SQUARE
    cdef Py_ssize_t image = task // c.bands * rows * columns, count = min(<Py_ssize_t> SQUARE, rows - first)
    cdef Py_ssize_t column = 0, i, j, width
    cdef const floating *x = <const floating *> c.x + image + first * columns
    out += image + first
    while column < columns:
        width = min(<Py_ssize_t> SQUARE, columns - column)
        if count == SQUARE and width == SQUARE:
            for i in range(SQUARE):
                for j in range(SQUARE):
                    square[i][j] = x[i * columns + column + j]
            for j in range(SQUARE):
                for i in range(SQUARE):
                    out[(column + j) * rows + i] = square[i][j]
        else:
            for j in range(width):
                for i in range(count):
                    out[(column + j) * rows + i] = x[i * columns + column + j]
        column += width
