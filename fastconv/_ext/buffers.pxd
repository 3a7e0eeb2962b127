"""An array's memory, for a kernel to which everything else about the array is known: what a call asks of its caller.

A typed memoryview asks again, and costs more than a small call's arithmetic.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer


cdef inline void *read_from(object array) except? NULL:
    """The first element of an array in C order, which the caller holds; NULL of None."""
    return NULL if array is None else first_of(array, PyBUF_SIMPLE)


cdef inline void *read_run(object array) except? NULL:
    """The first element of one that fills a run of memory in some order of its axes."""
    return first_of(array, PyBUF_STRIDES)


cdef inline void *write_to(object array) except? NULL:
    """The same of one that may be written."""
    return first_of(array, PyBUF_WRITABLE)


cdef inline void *first_of(object array, int flags) except? NULL:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, flags)
    PyBuffer_Release(&view)
    return view.buf
