"""Passes over channels-last data seen as rows of channels: (rows, c) with c in the lanes.

Sums run in float64 over a block of rows at a time; the blocks' sums are added in order, whoever computed them.
"""

from cython cimport floating
from cython.parallel cimport prange

cdef enum:
    ADDED = 4096  # elements of one task of add_in_order


cdef void block_sum(const floating *x, double *out, Py_ssize_t count, Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t i, j
    for j in range(c):
        out[j] = 0
    for i in range(count):
        for j in range(c):
            out[j] += x[i * c + j]


def column_sums(const floating[:, ::1] x, double[:, ::1] sums, Py_ssize_t block_rows, int num_threads):
    """sums[block] (c,) = the sum of every column over a block of rows."""
    cdef Py_ssize_t n = x.shape[0], c = x.shape[1]
    cdef Py_ssize_t block
    for block in prange(sums.shape[0], nogil=True, num_threads=num_threads, schedule="static"):
        block_sum(&x[block * block_rows, 0], &sums[block, 0], min(block_rows, n - block * block_rows), c)


def add_in_order(const floating[:, ::1] partial, floating[::1] out, int num_threads):
    """out = partial[0] + partial[1] + … , each element's terms in that order."""
    cdef Py_ssize_t size = out.shape[0], terms = partial.shape[0]
    cdef Py_ssize_t tasks = (size + ADDED - 1) // ADDED
    cdef Py_ssize_t task
    for task in prange(tasks, nogil=True, num_threads=num_threads, schedule="static"):
        add_block(&partial[0, task * ADDED], &out[task * ADDED], min(<Py_ssize_t> ADDED, size - task * ADDED), terms, size)


cdef void add_block(
    const floating *partial, floating *out, Py_ssize_t count, Py_ssize_t terms, Py_ssize_t size
) noexcept nogil:
    cdef Py_ssize_t term, j
    for j in range(count):
        out[j] = partial[j]
    for term in range(1, terms):
        for j in range(count):
            out[j] += partial[term * size + j]
