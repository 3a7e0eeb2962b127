"""Change of physical layout: (n, rows, columns) to (n, columns, rows), in cache-sized squares."""

from cython cimport floating
from cython.parallel cimport prange

cdef enum:
    SQUARE = 32


def swap_axes(const floating[:, :, ::1] x, floating[:, :, ::1] out, int num_threads):
    """out[n, j, i] = x[n, i, j]; one task is one image and 32 rows of it."""
    cdef Py_ssize_t rows = x.shape[1], columns = x.shape[2]
    cdef Py_ssize_t bands = (rows + SQUARE - 1) // SQUARE
    cdef Py_ssize_t task
    if x.shape[0] * rows * columns == 0:
        return
    for task in prange(x.shape[0] * bands, nogil=True, num_threads=num_threads, schedule="static"):
        swap_band(&x[task // bands, 0, 0], &out[task // bands, 0, 0], rows, columns, task % bands * SQUARE)


cdef void swap_band(
    const floating *x, floating *out, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t first
) noexcept nogil:
    """By way of a square in L1, one column wider than it is read: both sides are then touched in whole lines."""
    cdef floating square[SQUARE][SQUARE + 1]
    cdef Py_ssize_t count = min(<Py_ssize_t> SQUARE, rows - first)
    cdef Py_ssize_t column = 0, i, j, width
    x += first * columns
    out += first
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
