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
    cdef Py_ssize_t last = min(first + SQUARE, rows)
    cdef Py_ssize_t column = 0, i, j
    while column < columns:
        for j in range(column, min(column + SQUARE, columns)):
            for i in range(first, last):
                out[j * rows + i] = x[i * columns + j]
        column += SQUARE
