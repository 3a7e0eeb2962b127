"""An array's memory, for a kernel to which everything else about the array is known: what a call asks of its caller.

A typed memoryview asks again, and costs more than a small call's arithmetic. That the array has so many elements of so
many bytes is asked for all that: ValueError.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer


cdef inline Py_ssize_t float_size(object array) except -1:
    """The bytes of an element: a float's, or else a double's, which an array of any other type does not have."""
    return sizeof(float) if array.itemsize == sizeof(float) else sizeof(double)


cdef inline void *read_from(object array, Py_ssize_t size, Py_ssize_t itemsize) except? NULL:
    """The first element of an array in C order, which the caller holds; NULL of None."""
    return NULL if array is None else first_of(array, size, itemsize, PyBUF_SIMPLE)


cdef inline void *read_run(object array, Py_ssize_t size, Py_ssize_t itemsize) except? NULL:
    """The first element of one that fills a run of memory in some order of its axes."""
    return first_of(array, size, itemsize, PyBUF_STRIDES)


cdef inline void *write_to(object array, Py_ssize_t size, Py_ssize_t itemsize) except? NULL:
    """The same of one that may be written."""
    return first_of(array, size, itemsize, PyBUF_WRITABLE)


cdef inline void *first_of(object array, Py_ssize_t size, Py_ssize_t itemsize, int flags) except? NULL:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, flags)
    PyBuffer_Release(&view)
    if view.itemsize != itemsize or view.len != size * itemsize:
        raise ValueError(
            f"arrays must be of one type and size: {size * itemsize} bytes by {itemsize} expected, "
            f"got {view.len} by {view.itemsize}"
        )
    return view.buf
