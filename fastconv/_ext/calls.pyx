"""Calls seen before: what follows from the layout of an operation's arrays and from its options is worked out once."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_New, PyTuple_SET_ITEM
from libc.string cimport memcpy

from fractions import Fraction

from numpy import ndarray

cdef extern from *:
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef enum:
    LONGEST = 1024  # bytes of a description: longer ones are not kept


cdef struct Description:
    Py_ssize_t length
    char text[LONGEST]


cdef inline bint put(Description *d, char kind, const void *data, Py_ssize_t size) noexcept:
    if d.length + 1 + size > LONGEST:
        return False
    d.text[d.length] = kind
    if size:
        memcpy(d.text + d.length + 1, data, size)
    d.length += 1 + size
    return True


cdef bint describe(Description *d, object value) except -1:
    """Append what tells a value from all others; False where there is no telling: it is no plain data. Types count: 2.0
    is not 2."""
    cdef int overflow
    cdef long long number
    cdef double real
    cdef Py_ssize_t size
    cdef const char *text
    if value is None:
        return put(d, b"n", NULL, 0)
    kind = type(value)
    if kind is int:
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        return not overflow and put(d, b"i", &number, sizeof(number))
    if kind is bool:
        return put(d, b"t" if value else b"f", NULL, 0)
    if kind is str:
        try:
            text = PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:
            return False
        return put(d, b"s", &size, sizeof(size)) and put(d, b"s", text, size)
    if kind is float:
        real = value
        return put(d, b"r", &real, sizeof(real))
    if kind is tuple:
        size = len(<tuple> value)
        if not put(d, b"(", &size, sizeof(size)):
            return False
        for each in <tuple> value:
            if not describe(d, each):
                return False
        return True
    if kind is Fraction:
        return put(d, b"/", NULL, 0) and describe(d, value.numerator) and describe(d, value.denominator)
    return False


cdef bint describe_array(Description *d, object array) except -1:
    """The same of an array's layout: its type, whether it is aligned and writable, shape and strides; not its elements.

    All this says its buffer, whose format has more than one letter where it is not aligned or in another byte order.
    """
    cdef Py_buffer view
    cdef char about[3]
    cdef bint told
    try:
        PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (ValueError, BufferError):  # elements that have no format
        return False
    about[0], about[1], about[2] = view.format[0], <char> view.ndim, <char> view.readonly
    told = (
        view.format[0] != 0 and view.format[1] == 0
        and put(d, b"a", about, sizeof(about))
        and put(d, b"a", view.shape, view.ndim * sizeof(Py_ssize_t))
        and put(d, b"a", view.strides, view.ndim * sizeof(Py_ssize_t))
    )
    PyBuffer_Release(&view)
    return told


cdef bytes description(tuple call, Py_ssize_t arrays):
    """What tells a call (op, *arrays, *options) from all others, the arrays by their layout; None where there is no
    telling."""
    cdef Description d
    cdef Py_ssize_t i = 0
    d.length = 0
    for value in call:
        if not (describe_array(&d, value) if 0 < i <= arrays and type(value) is ndarray else describe(&d, value)):
            return None
        i += 1
    return PyBytes_FromStringAndSize(d.text, d.length)


cdef class Memoised:
    """`function(op, *arrays, *options)` with its answers kept, by the layout of the arrays and by the options.

    A call gives (*arrays, answer), the arrays as `door(op, **arrays)` makes them; `names` are theirs. No answer is
    None. What the function or the door raises, every such call raises. The latest `most` answers are kept.
    """

    cdef readonly object __wrapped__
    cdef readonly object __doc__
    cdef object door
    cdef tuple names
    cdef Py_ssize_t most
    cdef dict answers

    def __init__(self, function, tuple names, door, Py_ssize_t most):
        self.__wrapped__, self.__doc__, self.names, self.door = function, function.__doc__, names, door
        self.most = most
        self.answers = {}

    def __call__(self, *call):
        cdef Py_ssize_t count = len(self.names), i
        cdef bytes key = description(call, count)
        answer = None
        if key is not None:
            answer = self.answers.get(key)
        if answer is None:
            call, answer = self.work_out(call)
        cdef tuple found = PyTuple_New(count + 1)
        for i in range(count):
            array = <object> PyTuple_GET_ITEM(call, 1 + i)
            Py_INCREF(array)
            PyTuple_SET_ITEM(found, i, array)
        Py_INCREF(answer)
        PyTuple_SET_ITEM(found, count, answer)
        return found

    cdef tuple work_out(self, tuple call):
        """The call with its arrays made ready, which may have been seen before, and the answer."""
        cdef Py_ssize_t count = len(self.names)
        arrays = self.door(call[0], **dict(zip(self.names, call[1:1 + count], strict=True)))
        call = (call[0], *arrays, *call[1 + count:])
        cdef bytes key = description(call, count)
        answer = None
        if key is not None:
            answer = self.answers.get(key)
        if answer is None:
            answer = self.__wrapped__(*call)
            if key is not None:
                if len(self.answers) >= self.most:
                    self.answers.pop(next(iter(self.answers)))
                self.answers[key] = answer
        return call, answer

    def cache_clear(self):
        """Forget every answer."""
        self.answers.clear()
