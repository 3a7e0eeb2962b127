"""Kernel calls noted while a pass is computed, to be made again without what led to them; and whether that would lead
to the same ones still."""

from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

from numpy import ndarray

from fastconv._ext.memory import Pool

cdef extern from *:
    object PyObject_Call(object function, tuple args, PyObject *named)

cdef Capture under_way = None  # in one thread at a time


cdef class Kernel:
    """A function that writes into arrays which it is given, and does nothing else: decorates the kernels, and what of
    NumPy's or of Python's is to be done again with each of them. What it calls in turn is part of it."""

    cdef readonly object __wrapped__
    cdef readonly object __name__
    cdef readonly object __doc__

    def __init__(self, function):
        self.__wrapped__, self.__name__, self.__doc__ = function, function.__name__, function.__doc__

    def __call__(self, *args, **kwargs):
        cdef Capture capture = under_way
        if capture is None or capture.is_inside or capture.thread != PyThread_get_thread_ident():
            return PyObject_Call(self.__wrapped__, args, <PyObject *> kwargs if kwargs else NULL)
        capture.note(self.__wrapped__, args, kwargs)
        capture.is_inside = True
        try:
            return self.__wrapped__(*args, **kwargs)
        finally:
            capture.is_inside = False


cdef class Capture:
    """`with capture:` notes the kernel calls that this thread makes; `replay` makes them again, with the same arrays,
    whatever these hold by then. One at a time is `noting`, the others note nothing; `refused`: something was done that
    no kernel call does again, or the arrays are larger than `most` bytes with those that a capture before it has."""

    cdef list calls
    cdef dict roots  # the arrays that have the memory which is not the pool's, by their addresses
    cdef object pool  # of the blocks that were asked for: calls do not hold them, so that one serves many arrays
    cdef Py_ssize_t most, others  # bytes, and those of `roots`
    cdef unsigned long thread
    cdef bint is_inside  # a kernel, of its thread
    cdef readonly bint noting, refused

    def __init__(self, Py_ssize_t most, Capture before=None):
        self.calls, self.noting, self.refused, self.most = [], False, False, most
        self.roots, self.others, self.pool = {}, 0, Pool()
        if before is not None:
            self.roots, self.others, self.pool = dict(before.roots), before.others, before.pool

    def __enter__(self):
        global under_way
        self.thread = PyThread_get_thread_ident()
        if under_way is None:
            under_way = self
            self.noting = True
            self.pool.__enter__()

    def __exit__(self, *error):
        global under_way
        if under_way is self:
            under_way = None
            self.pool.__exit__()

    @property
    def nbytes(self):
        """What it keeps, with what the capture before it does."""
        return self.pool.nbytes + self.others

    def replay(self):
        cdef tuple call
        cdef dict named
        for call in self.calls:
            named = <dict> call[2]
            PyObject_Call(call[0], <tuple> call[1], <PyObject *> named if named else NULL)

    cdef int note(self, object function, tuple args, dict named) except -1:
        """A call, which keeps its arrays."""
        if self.refused:
            return 0
        placed = tuple([self.placed(each) for each in args])
        self.calls.append((function, placed, {name: self.placed(each) for name, each in named.items()}))
        if self.nbytes > self.most:
            self.give_up()
        return 0

    cdef object placed(self, object array):
        """What a call keeps of an argument."""
        if not isinstance(array, ndarray):
            return array
        placed = self.pool.place(array)
        if placed is array:
            while isinstance(array.base, ndarray):
                array = array.base
            if id(array) not in self.roots:
                self.roots[id(array)] = array
                self.others += array.nbytes
        return placed

    cdef int give_up(self) except -1:
        """Keep nothing, and note no more."""
        self.refused, self.calls, self.roots = True, [], {}
        self.pool.close()
        return 0


def forget():
    """In a forked child: no pass is under way that other threads captured, and none of this one is whole."""
    global under_way
    if under_way is not None:
        under_way.give_up()
    under_way = None


def refuse():
    """What this thread does is more than kernel calls, or others for other elements: it cannot be captured."""
    if under_way is not None and under_way.thread == PyThread_get_thread_ident():
        under_way.give_up()


cdef class Snapshot:
    """What some dicts held, and some objects' attributes were; `holds` tells whether this is so still. A dict or a set
    that a dict holds counts by what it holds itself, everything else by what it is."""

    cdef list dicts  # (dict, keys, values)
    cdef list sets  # (set, what it held)
    cdef list attributes  # (object, name, value)

    def __init__(self, dicts, attributes):
        self.dicts, self.sets = [], []
        self.attributes = [(owner, name, getattr(owner, name)) for owner, name in attributes]
        cdef dict found = {id(each): each for each in dicts}  # a dict may hold itself
        cdef list waiting = list(found.values())
        while waiting:
            each = waiting.pop()
            self.dicts.append((each, tuple(each), tuple(each.values())))
            for value in each.values():
                if type(value) is dict and id(value) not in found:
                    found[id(value)] = value
                    waiting.append(value)
                elif type(value) is set:
                    self.sets.append((value, frozenset(value)))

    def holds(self):
        cdef tuple entry, keys, values
        cdef PyObject *key
        cdef PyObject *value
        cdef Py_ssize_t at, place
        for entry in self.dicts:
            each, keys, values = entry
            if PyDict_Size(each) != PyTuple_GET_SIZE(keys):
                return False
            at = place = 0
            while PyDict_Next(each, &at, &key, &value):
                if <PyObject *> PyTuple_GET_ITEM(keys, place) != key:
                    return False
                if <PyObject *> PyTuple_GET_ITEM(values, place) != value:
                    return False
                place += 1
        for each, before in self.sets:
            if each != before:
                return False
        for owner, name, before in self.attributes:
            if getattr(owner, name, None) is not before:
                return False
        return True
