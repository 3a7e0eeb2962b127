"""Blocks of memory that go back to a free list when the last array on them is collected.

Fresh pages cost more than the arithmetic of a ReLU: a training step asks for the same sizes again and again, so a freed
block is kept for the next request of its size class. A block belongs to whoever holds an array on it; nobody else sees
it.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free

from numpy import empty, ndarray

cdef extern from "memory.h" nogil:
    void *pages_allocate(size_t bytes)

cdef dict _free_lists = {}  # size class in bytes -> list of addresses
cdef size_t _cached = 0
cdef size_t _limit = 0


cdef size_t size_class(size_t nbytes) noexcept:
    """`nbytes` rounded up to one of eight steps per power of two (at most an eighth wasted), 4096 at least."""
    cdef size_t step = 512
    while step * 16 < nbytes:
        step *= 2
    return max(<size_t> 4096, (nbytes + step - 1) // step * step)


cdef class Block:
    """Writable memory of at least `nbytes` bytes, aligned to a cache line, through the buffer protocol."""

    cdef void *address
    cdef size_t capacity
    cdef Py_ssize_t nbytes

    def __cinit__(self, Py_ssize_t nbytes):
        global _cached
        self.nbytes = nbytes
        self.capacity = size_class(nbytes)
        cdef list addresses = _free_lists.get(self.capacity)
        if addresses:
            self.address = <void *> <size_t> addresses.pop()
            _cached -= self.capacity
            return
        self.address = pages_allocate(self.capacity)
        if self.address == NULL:
            trim()
            self.address = pages_allocate(self.capacity)
        if self.address == NULL:
            raise MemoryError(f"could not allocate {nbytes:,} bytes")

    def __dealloc__(self):
        global _cached
        if self.address == NULL:
            return
        if self.capacity > _limit:
            free(self.address)
            return
        if _cached + self.capacity > _limit:
            trim()
        _free_lists.setdefault(self.capacity, []).append(<size_t> self.address)
        _cached += self.capacity

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.address, self.nbytes, 0, flags)


cdef class Allocator:
    """allocate(op, shape, dtype): an uninitialised C-contiguous array, on a block from `pooled` bytes on.

    `require(op, shape, itemsize)` is asked first where the array has more than `unchecked` bytes, or none; `borrowed`
    counts the bytes that were handed out.
    """

    cdef object require
    cdef public double unchecked, pooled
    cdef readonly Py_ssize_t borrowed

    def __init__(self, require, double unchecked, double pooled):
        self.require, self.unchecked, self.pooled, self.borrowed = require, unchecked, pooled, 0

    def __call__(self, op, shape, dtype):
        cdef Py_ssize_t itemsize = dtype.itemsize
        cdef double nbytes = itemsize
        for length in shape:
            nbytes *= length
        if nbytes > self.unchecked or nbytes == 0:
            self.require(op, shape, itemsize)
        self.borrowed += <Py_ssize_t> nbytes
        if nbytes < self.pooled:
            return empty(shape, dtype)
        return ndarray(shape, dtype, Block(<Py_ssize_t> nbytes))


def trim():
    """Give every cached block back to the system."""
    global _cached
    cdef list addresses
    for addresses in list(_free_lists.values()):
        while addresses:
            free(<void *> <size_t> addresses.pop())
    _free_lists.clear()
    _cached = 0


def set_limit(size_t nbytes):
    """Keep at most `nbytes` bytes on the free list."""
    global _limit
    _limit = nbytes
    if _cached > _limit:
        trim()


def cached():
    """Bytes on the free list now."""
    return _cached
