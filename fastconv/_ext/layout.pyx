# distutils: extra_compile_args = -ffp-contract=off
"""Change of physical layout: (n, rows, columns) to (n, columns, rows), in tiles (layout.h)."""

from cython cimport floating

from fastconv._ext.buffers cimport read_from, write_to
from fastconv._ext.team cimport Task, run

cdef extern from "layout.h" nogil:
    const Py_ssize_t FAR
    const Py_ssize_t TILE
    void fence()
    void transpose_float(
        const float *x, Py_ssize_t x_step, float *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns)
    void transpose_double(
        const double *x, Py_ssize_t x_step, double *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns)
    void stream_transpose_float(
        const float *x, Py_ssize_t x_step, float *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns)
    void stream_transpose_double(
        const double *x, Py_ssize_t x_step, double *y, Py_ssize_t y_step, Py_ssize_t rows, Py_ssize_t columns)

cdef enum:
    SIDE = 128  # of a task's tile, at least: of both sides whole cache lines, and several
    LINE = 16  # elements: cuts keep the lines of one side whole


cdef struct Swap:
    const void *x
    Py_ssize_t rows, columns, bands, parts
    bint far


def swap_axes(x, out, Py_ssize_t rows, Py_ssize_t columns, int num_threads):
    """out[n, j, i] = x[n, i, j] for x (n, rows, columns) and out (n, columns, rows) in memory, float32 or float64 in C
    order, whatever their shapes; one task is a tile of one image."""
    cdef Py_ssize_t nbytes = x.nbytes
    if nbytes == 0:
        return
    if x.itemsize == sizeof(float):
        swap[float](<const float *> read_from(x), <float *> write_to(out), nbytes, rows, columns, num_threads)
    else:
        swap[double](<const double *> read_from(x), <double *> write_to(out), nbytes, rows, columns, num_threads)


cdef int swap(
    const floating *x, floating *out, Py_ssize_t nbytes, Py_ssize_t rows, Py_ssize_t columns, int num_threads
) except -1:
    cdef Swap c
    cdef Py_ssize_t half = TILE // 2 // <Py_ssize_t> sizeof(floating)
    cdef Py_ssize_t images = nbytes // (rows * columns * <Py_ssize_t> sizeof(floating))
    c.x, c.rows, c.columns = x, rows, columns
    c.bands = max(<Py_ssize_t> 1, rows // max(<Py_ssize_t> SIDE, half // columns))
    c.parts = max(<Py_ssize_t> 1, columns // max(<Py_ssize_t> SIDE, half // rows))
    c.far = nbytes >= FAR
    with nogil:
        run(<Task> swap_task[floating], out, &c, images * c.bands * c.parts, num_threads)
    return 0


cdef inline Py_ssize_t cut(Py_ssize_t size, Py_ssize_t pieces, Py_ssize_t piece) noexcept nogil:
    """Where a piece of `size` elements begins."""
    return size if piece == pieces else piece * size // pieces // LINE * LINE


cdef void swap_task(floating *out, const Swap *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t image = task // (c.bands * c.parts), band = task // c.parts % c.bands, part = task % c.parts
    cdef Py_ssize_t i = cut(c.rows, c.bands, band), rows = cut(c.rows, c.bands, band + 1) - i
    cdef Py_ssize_t j = cut(c.columns, c.parts, part), columns = cut(c.columns, c.parts, part + 1) - j
    cdef const floating *x = <const floating *> c.x + image * c.rows * c.columns + i * c.columns + j
    out += image * c.rows * c.columns + j * c.rows + i
    if floating is float:
        if c.far:
            stream_transpose_float(x, c.columns, out, c.rows, rows, columns)
        else:
            transpose_float(x, c.columns, out, c.rows, rows, columns)
    else:
        if c.far:
            stream_transpose_double(x, c.columns, out, c.rows, rows, columns)
        else:
            transpose_double(x, c.columns, out, c.rows, rows, columns)
    if c.far:
        fence()
