# distutils: extra_compile_args = -ffp-contract=off
"""Copies: as they lie, and with a change of physical layout, (n, rows, columns) to (n, columns, rows), in tiles
(layout.h)."""

from cython cimport floating

from libc.string cimport memcpy

from fastconv._ext.buffers cimport float_size, read_from, write_to
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "layout.h" nogil:
    const Py_ssize_t FAR
    void fence()
    void stream(const void *x, void *y, size_t bytes)
    void transpose_float(
        const float *x, Py_ssize_t x_step, float *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns, bint far)
    void transpose_double(
        const double *x, Py_ssize_t x_step, double *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns, bint far)

cdef enum:
    TASK = 1 << 18  # bytes of a task
    LEAST = 64  # columns of one, and rows: at the ends of each row's part lines are written twice
    LEAST_ROWS = 2048
    LINE = 16  # elements: cuts keep the lines of what is cut whole


cdef struct Swap:
    const void *x
    Py_ssize_t images, together  # of a task, where one is small
    Py_ssize_t rows, columns, parts
    bint far


@Kernel
def swap_axes(x, out, Py_ssize_t rows, Py_ssize_t columns, int num_threads):
    """out[n, j, i] = x[n, i, j] for x (n, rows, columns) and out (n, columns, rows) in memory, elements of 4 or 8 bytes
    in C order, whatever their shapes; a task is some images, or a part of one, of the longer axis."""
    cdef Py_ssize_t size = x.size, itemsize = float_size(x)
    cdef const void *source = read_from(x, size, itemsize)
    cdef void *target = write_to(out, size, itemsize)
    if size == 0:
        return
    if itemsize == sizeof(float):
        swap[float](<const float *> source, <float *> target, size, rows, columns, num_threads)
    else:
        swap[double](<const double *> source, <double *> target, size, rows, columns, num_threads)


cdef int swap(
    const floating *x, floating *out, Py_ssize_t size, Py_ssize_t rows, Py_ssize_t columns, int num_threads
) except -1:
    cdef Swap c
    cdef Py_ssize_t line = min(rows, columns) * <Py_ssize_t> sizeof(floating)
    cdef Py_ssize_t n = size // (rows * columns)
    c.x, c.images, c.rows, c.columns = x, n, rows, columns
    c.parts = max(<Py_ssize_t> 1, max(rows, columns) // max(
        <Py_ssize_t> LEAST if rows <= columns else <Py_ssize_t> LEAST_ROWS, TASK // line
    ))
    c.together = max(<Py_ssize_t> 1, TASK // (line * max(rows, columns)))
    c.far = size * <Py_ssize_t> sizeof(floating) >= FAR
    run(<Task> swap_task[floating], out, &c, (n + c.together - 1) // c.together * c.parts, num_threads)
    return 0


cdef inline Py_ssize_t cut(Py_ssize_t size, Py_ssize_t pieces, Py_ssize_t piece) noexcept nogil:
    """Where a piece of `size` elements begins."""
    return size if piece == pieces else piece * size // pieces // LINE * LINE


cdef void swap_task(floating *out, const Swap *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task // c.parts * c.together, part = task % c.parts, image, offset
    cdef Py_ssize_t i = 0, j = 0, rows = c.rows, columns = c.columns
    cdef const floating *x = <const floating *> c.x
    if rows <= columns:
        j = cut(columns, c.parts, part)
        columns = cut(columns, c.parts, part + 1) - j
    else:
        i = cut(rows, c.parts, part)
        rows = cut(rows, c.parts, part + 1) - i
    for image in range(first, min(first + c.together, c.images)):
        offset = image * c.rows * c.columns
        if floating is float:
            transpose_float(
                x + offset + i * c.columns + j, c.columns, out + offset + j * c.rows + i, c.rows, rows, columns, c.far
            )
        else:
            transpose_double(
                x + offset + i * c.columns + j, c.columns, out + offset + j * c.rows + i, c.rows, rows, columns, c.far
            )
    if c.far:
        fence()


cdef struct Copy:
    const char *x
    Py_ssize_t bytes
    bint far


@Kernel
def copy(x, out, int num_threads):
    """out = x, of one type and size and in C order."""
    cdef Copy c
    c.x = <const char *> read_from(x, x.size, x.itemsize)
    c.bytes = x.size * x.itemsize
    c.far = c.bytes >= FAR
    run(<Task> copy_task, <char *> write_to(out, x.size, x.itemsize), &c, (c.bytes + TASK - 1) // TASK, num_threads)


cdef void copy_task(char *out, const Copy *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * TASK
    if c.far:
        stream(c.x + first, out + first, min(<Py_ssize_t> TASK, c.bytes - first))
        fence()
    else:
        memcpy(out + first, c.x + first, min(<Py_ssize_t> TASK, c.bytes - first))
