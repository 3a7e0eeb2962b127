"""Sums down the columns of rows, and rows added to rows: what a bias and its gradient need. Sums of two arrays.

Sums run in float64 over a block of rows at a time; the blocks' sums are added in order, whoever computed them.
"""

from cython cimport floating

from fastconv._ext.rows cimport RUN, rows_together, tasks
from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef extern from "reduce.h" nogil:
    void column_sums_float(const float *x, double *sums, Py_ssize_t rows, Py_ssize_t width)
    void column_sums_double(const double *x, double *sums, Py_ssize_t rows, Py_ssize_t width)
    void add_in_order_float(const float *partial, float *y, Py_ssize_t terms, Py_ssize_t size, Py_ssize_t count)
    void add_in_order_double(const double *partial, double *y, Py_ssize_t terms, Py_ssize_t size, Py_ssize_t count)
    void add_row_float(float *x, const float *row, Py_ssize_t rows, Py_ssize_t width)
    void add_row_double(double *x, const double *row, Py_ssize_t rows, Py_ssize_t width)
    void add_float(const float *a, const float *b, float *y, Py_ssize_t count)
    void add_double(const double *a, const double *b, double *y, Py_ssize_t count)
    void add_to_float(float *y, const float *x, Py_ssize_t count)
    void add_to_double(double *y, const double *x, Py_ssize_t count)


cdef struct ColumnSums:
    double *sums
    Py_ssize_t rows, width, block


@Kernel
def column_sums(const floating[:, ::1] x, double[:, ::1] sums, Py_ssize_t block_rows, int num_threads):
    """sums[block] (c,) = the sum of every column over a block of rows."""
    cdef ColumnSums c = ColumnSums(&sums[0, 0], x.shape[0], x.shape[1], block_rows)
    run(<Task> column_sums_task[floating], &x[0, 0], &c, sums.shape[0], num_threads)


cdef void column_sums_task(const floating *x, const ColumnSums *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, count = min(c.block, c.rows - first)
    cdef double *sums = c.sums + task * width
    x += first * width
    if floating is float:
        column_sums_float(x, sums, count, width)
    else:
        column_sums_double(x, sums, count, width)


cdef struct AddInOrder:
    const void *partial
    Py_ssize_t terms, size


@Kernel
def add_in_order(const floating[:, ::1] partial, floating[::1] out, int num_threads):
    """out = partial[0] + partial[1] + … , each element's terms in that order."""
    cdef AddInOrder c = AddInOrder(&partial[0, 0], partial.shape[0], out.shape[0])
    run(<Task> add_in_order_task[floating], &out[0], &c, tasks(c.size, RUN), num_threads)


cdef void add_in_order_task(floating *out, const AddInOrder *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * RUN, count = min(<Py_ssize_t> RUN, c.size - first)
    cdef const floating *partial = <const floating *> c.partial + first
    out += first
    if floating is float:
        add_in_order_float(partial, out, c.terms, c.size, count)
    else:
        add_in_order_double(partial, out, c.terms, c.size, count)


cdef struct AddRow:
    const void *row
    Py_ssize_t rows, width, block


@Kernel
def add_row(floating[:, ::1] x, const floating[::1] row, int num_threads):
    """x[i] += row, for every row of x."""
    if x.shape[0] == 0:
        return
    cdef AddRow c = AddRow(&row[0], x.shape[0], x.shape[1], rows_together(x.shape[1]))
    run(<Task> add_row_task[floating], &x[0, 0], &c, tasks(c.rows, c.block), num_threads)


cdef void add_row_task(floating *x, const AddRow *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * c.block, width = c.width, count = min(c.block, c.rows - first)
    cdef const floating *row = <const floating *> c.row
    x += first * width
    if floating is float:
        add_row_float(x, row, count, width)
    else:
        add_row_double(x, row, count, width)


cdef struct Add:
    const void *a
    const void *b  # NULL: what y holds
    Py_ssize_t size


@Kernel
def add(const floating[::1] a, const floating[::1] b, floating[::1] y, int num_threads):
    """y = a + b; b None: y += a. y shares no memory with the others."""
    if a.shape[0] == 0:
        return
    cdef Add c = Add(&a[0], NULL, a.shape[0])
    if b is not None:
        c.b = &b[0]
    run(<Task> add_task[floating], &y[0], &c, tasks(c.size, 4 * RUN), num_threads)


cdef void add_task(floating *y, const Add *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t first = task * 4 * RUN, count = min(<Py_ssize_t> 4 * RUN, c.size - first)
    cdef const floating *a = <const floating *> c.a + first
    cdef const floating *b = <const floating *> c.b
    y += first
    if floating is float:
        if b != NULL:
            add_float(a, b + first, y, count)
        else:
            add_to_float(y, a, count)
    elif b != NULL:
        add_double(a, b + first, y, count)
    else:
        add_to_double(y, a, count)
