"""What becomes of outputs before they are stored: conv/epilogue.h."""

from libc.math cimport INFINITY

from fastconv._ext.buffers cimport read_from

cdef extern from "conv/epilogue.h" nogil:
    ctypedef struct Epilogue:
        const void *norm
        Py_ssize_t apart, addend
        double least


cdef inline Epilogue epilogue(object given, const void *y, Py_ssize_t size, Py_ssize_t itemsize) except *:
    """Of an engine.contract.Epilogue for the `size` outputs at y; valid as long as its arrays are."""
    cdef Epilogue after
    cdef const void *addend = read_from(given.addend, size, itemsize)
    after.apart = 0 if given.norm is None else given.norm.size // 3
    after.norm = read_from(given.norm, 3 * after.apart, itemsize)
    after.addend = 0 if addend == NULL else (<const char *> addend - <const char *> y) // itemsize
    after.least = 0 if given.relu else -INFINITY
    return after
