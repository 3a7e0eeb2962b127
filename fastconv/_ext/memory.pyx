"""Blocks of memory that go back to a free list when the last array on them is collected.

Fresh pages cost more than the arithmetic of a ReLU: a training step asks for the same sizes again and again, so a freed
block is kept for the next request of its size class. A block belongs to whoever holds an array on it; nobody else sees
it. Shapes that come and go would leave blocks of all their sizes behind: before a new block is made, those that whole
calls (`call`) have not touched lately go, unless little more is held than the largest call touches.

Large blocks that wait for a request of their size would be too many: they are cut from one arena, whose free parts
join, and which gives pages back before it touches new ones where it would have a sixteenth more than was ever in use.
Below a ceiling all blocks are.

A pass that is to be made again in the same memory has free lists and parts of its own, a Pool.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pythread cimport PyThread_get_thread_ident

from numpy import empty, ndarray

cdef extern from *:
    """
    static _Thread_local int depth; /* of calls inside calls */
    """
    int depth

cdef extern from "memory.h" nogil:
    const size_t FASTCONV_HUGE_PAGE
    void *pages_allocate(size_t bytes)
    void pages_free(void *block, size_t bytes)
    void *range_reserve(size_t bytes)
    void range_release(void *range, size_t bytes)
    void range_drop(void *begin, size_t bytes)
    void ask_for_huge_pages(void *begin, size_t bytes, void *range, size_t span)

cdef dict _free_lists = {}  # size class in bytes -> list of addresses, the last freed last
cdef size_t _held = 0  # bytes of the blocks in use
cdef size_t _listed = 0  # of those that go to a free list
cdef size_t _most = 0  # of them since `most_held` was asked
cdef size_t _cached = 0
cdef size_t _limit = 0
cdef size_t _calls = 0  # that have begun; a free block begins with the number of the last one that it served
cdef size_t _open = 0, _most_open = 1  # of them in all threads at a time
cdef size_t _before = 0  # bytes of the blocks in use that go to a free list, when the present one began
cdef size_t _touched = 0  # of those of them that serve it
cdef size_t _widest = 0  # the most that served one

cdef object _last_resort = None  # what gives memory back that can be had again
cdef size_t _ceiling = 0  # of blocks in use and free ones together, as far as freeing those can do it; 0: none


cdef size_t size_class(size_t nbytes) noexcept:
    """`nbytes` rounded up to one of eight steps per power of two (at most an eighth wasted), 4096 at least."""
    cdef size_t step = 512
    while step * 16 < nbytes:
        step *= 2
    return max(<size_t> 4096, (nbytes + step - 1) // step * step)


cdef enum:
    PAGE = 4096
    LARGE = 1 << 20  # bytes of a block that is cut from the arena


@cython.no_gc  # it clears what it takes for garbage before blocks on it are given back; none of these is in a cycle
cdef class Parts:
    """Free parts of an arena, in pages. What was freed waits for a request of its size, whose halves lie in the caches
    of the same cores, and is joined with its neighbours when there is none left but in the last part, which may be new.
    """

    cdef list starts, sizes  # by address, no two of them neighbours
    cdef dict waiting  # pages -> where parts of so many begin that are not among those, the last freed last

    def __cinit__(self):
        self.starts, self.sizes, self.waiting = [], [], {}

    cdef Py_ssize_t take(self, size_t pages) except -2:
        """Where so many pages begin: those freed last, or in the smallest part that has them; -1 where none has."""
        cdef list alike = self.waiting.get(pages)
        cdef size_t size, start
        cdef Py_ssize_t found
        if alike:
            return alike.pop()
        found = self.smallest(pages)
        if self.waiting and (found < 0 or found == len(self.sizes) - 1):
            self.join()
            found = self.smallest(pages)
        if found < 0:
            return -1
        start, size = self.starts[found], self.sizes[found]
        if size == pages:
            del self.starts[found], self.sizes[found]
        else:
            self.starts[found], self.sizes[found] = start + pages, size - pages
        return start

    cdef Py_ssize_t smallest(self, size_t pages) except -2:
        """The smallest part that has so many pages; -1 where none has."""
        cdef size_t size, least = 0
        cdef Py_ssize_t index, found = -1
        for index in range(len(self.sizes)):
            size = self.sizes[index]
            if pages <= size and (found < 0 or size < least):
                found, least = index, size
        return found

    cdef int give(self, size_t start, size_t pages) except -1:
        """Take pages back."""
        self.waiting.setdefault(pages, []).append(start)
        return 0

    cdef int join(self) except -1:
        """Put what waits among the parts."""
        cdef list alike
        for pages, alike in self.waiting.items():
            while alike:
                self.put(alike.pop(), pages)
        self.waiting.clear()
        return 0

    cdef int put(self, size_t start, size_t pages) except -1:
        cdef Py_ssize_t index = 0, end = len(self.starts), middle
        while index < end:  # no Python function: at the interpreter's end there are none
            middle = (index + end) // 2
            if <size_t> self.starts[middle] < start:
                index = middle + 1
            else:
                end = middle
        if index < len(self.starts) and <size_t> self.starts[index] == start + pages:
            pages += <size_t> self.sizes[index]
            del self.starts[index], self.sizes[index]
        if index and <size_t> self.starts[index - 1] + <size_t> self.sizes[index - 1] == start:
            self.sizes[index - 1] += pages
        else:
            self.starts.insert(index, start)
            self.sizes.insert(index, pages)
        return 0


@cython.no_gc
cdef class Arena:
    """A range of addresses from which blocks are cut; it knows which of its pages were touched."""

    cdef char *base
    cdef size_t pages  # of the range
    cdef size_t in_use  # pages of blocks
    cdef size_t most  # of them so far
    cdef size_t resident  # pages that were touched and not given back since
    cdef unsigned char *is_resident  # of each page that there is, or was
    cdef size_t known
    cdef Parts parts

    def __cinit__(self, size_t span):
        self.pages = span // PAGE
        self.parts = Parts()
        self.known = self.pages
        self.is_resident = <unsigned char *> range_reserve(self.known)  # zeros, of which few are touched
        self.base = <char *> range_reserve(self.pages * PAGE)
        if self.base == NULL or self.is_resident == NULL:  # it serves nothing
            self.release()
        else:
            self.parts.put(0, self.pages)

    def __dealloc__(self):
        self.release()

    cdef void release(self) noexcept:
        if self.base != NULL:
            range_release(self.base, self.pages * PAGE)
        if self.is_resident != NULL:
            range_release(self.is_resident, self.known)
        self.base, self.is_resident = NULL, NULL

    cdef void *take(self, size_t pages) except? NULL:
        """A block; NULL where no part is large enough."""
        cdef Py_ssize_t start = self.parts.take(pages)
        cdef size_t page
        if start < 0:
            return NULL
        for page in range(start, start + pages):
            self.resident += not self.is_resident[page]
            self.is_resident[page] = 1
        self.in_use += pages
        self.most = max(self.most, self.in_use)
        return self.base + start * PAGE

    cdef int give(self, void *block, size_t pages) except -1:
        """Take a block back."""
        self.in_use -= pages
        return self.parts.give(self.page_of(block), pages)

    cdef int shrink(self) except -1:
        """Give the addresses back that lie behind all blocks."""
        cdef size_t start, page
        cdef Py_ssize_t last
        self.parts.join()
        last = len(self.parts.starts) - 1
        if self.base == NULL or last < 0:
            return 0
        start = self.parts.starts[last]
        if start + <size_t> self.parts.sizes[last] < self.pages:
            return 0
        self.parts.starts.pop()
        self.parts.sizes.pop()
        for page in range(start, self.pages):
            self.resident -= self.is_resident[page]
        if start == 0:
            self.release()
            self.pages = 0
            return 0
        range_release(self.base + start * PAGE, (self.pages - start) * PAGE)
        self.pages = start
        return 0

    cdef inline size_t page_of(self, void *address) noexcept:
        return (<char *> address - self.base) // PAGE

    cdef size_t waiting(self):
        """Bytes of pages that were touched and are free."""
        return (self.resident - self.in_use) * PAGE

    cdef int drop(self, size_t nbytes, size_t unit=1) except -1:
        """Give free pages back, those with the highest addresses first, until so many bytes are gone; only `unit` of
        them together, where addresses have that many: a huge page's, so that what is touched again is one again."""
        cdef size_t wanted = (nbytes + PAGE - 1) // PAGE, first, page, end
        cdef size_t before = -(<size_t> self.base // PAGE) % unit  # where the first whole unit begins
        self.parts.join()
        for index in range(len(self.parts.starts) - 1, -1, -1):
            first = self.parts.starts[index]
            page = first + <size_t> self.parts.sizes[index]
            first += (before - first) % unit
            if page <= first:
                continue
            page -= (page - before) % unit
            while page > first and wanted:
                end = page
                while page > first and (wanted or (page - before) % unit) and self.is_resident[page - 1]:
                    page -= 1
                    self.is_resident[page] = 0
                    self.resident -= 1
                    wanted -= wanted > 0
                if end > page:
                    range_drop(self.base + page * PAGE, (end - page) * PAGE)
                while page > first and not self.is_resident[page - 1]:
                    page -= 1
            if not wanted:
                break
        return 0


cdef size_t MOST_BYTES = <size_t> 1 << 46  # that a process can have
cdef Arena _arena = None  # the one that new blocks are cut from
cdef size_t _span = 0  # bytes of its addresses where there is no ceiling; 0: large blocks are apart


cdef void hold(size_t capacity, size_t listed) noexcept:
    global _held, _listed, _most
    _held += capacity
    _listed += listed
    _most = max(_most, _held)


cdef int give_back(void *address, size_t capacity, Arena arena) except -1:
    """A block that nobody uses any more, to its arena or to the free list."""
    global _cached, _held, _listed
    _held -= capacity
    if arena is not None:
        arena.give(address, capacity // PAGE)
        if arena is not _arena:  # nobody will cut from it any more
            return arena.drop(arena.waiting())
        return keep_within_limit()
    _listed -= capacity
    if capacity > _limit:
        pages_free(address, capacity)
        return 0
    if _cached + capacity > _limit:
        trim()
    (<size_t *> address)[0] = _calls
    _free_lists.setdefault(capacity, []).append(<size_t> address)
    _cached += capacity
    return 0


@cython.no_gc
cdef class Pool:
    """The blocks that one thread asks for inside of `with pool:`. One that is free again serves the pool alone, until
    the pool is closed, or is dropped as all its blocks are: so what the pass left in it can be found where it was."""

    cdef dict addresses  # of free blocks, by their size classes
    cdef Arena arena  # that its large blocks are cut from
    cdef Parts parts  # of it that are free and the pool's
    cdef readonly Py_ssize_t nbytes  # of its blocks, free ones too
    cdef unsigned long thread
    cdef bint is_closed

    def __cinit__(self):
        self.addresses, self.parts, self.nbytes = {}, Parts(), 0

    def __enter__(self):
        global _pool
        self.thread = PyThread_get_thread_ident()
        _pool = self

    def __exit__(self, *error):
        global _pool
        if _pool is self:
            _pool = None

    def close(self):
        """Make its blocks, and those that it will get back, everybody's."""
        global _pool
        if _pool is self:
            _pool = None
        self.is_closed = True
        for capacity, addresses in self.addresses.items():
            while addresses:
                give_back(<void *> <size_t> addresses.pop(), capacity, None)
        self.parts.join()
        while self.parts.starts:
            start, pages = self.parts.starts.pop(), self.parts.sizes.pop()
            give_back(self.arena.base + <size_t> start * PAGE, <size_t> pages * PAGE, self.arena)
        self.nbytes = 0

    cdef void *take(self, size_t capacity, bint is_cut) except? NULL:
        """A free block of the pool's; NULL where it has none."""
        cdef Py_ssize_t start
        cdef list addresses
        if is_cut:
            start = self.parts.take(capacity // PAGE)
            return NULL if start < 0 else self.arena.base + start * PAGE
        addresses = self.addresses.get(capacity)
        return <void *> <size_t> addresses.pop() if addresses else NULL

    cdef int give(self, void *address, size_t capacity, bint is_cut) except -1:
        if is_cut:
            return self.parts.give(self.arena.page_of(address), capacity // PAGE)
        self.addresses.setdefault(capacity, []).append(<size_t> address)
        return 0

    def __dealloc__(self):
        self.close()

    def place(self, array):
        """An array of the pool's, again, but without holding its block: it is to be used no longer than the pool. Any
        other array as it is."""
        cdef Block block
        root = array
        while isinstance(root.base, ndarray):
            root = root.base
        if type(root.base) is not Block:
            return array
        block = root.base
        if block.pool is not self:
            return array
        place = Place(<size_t> block.address, block.nbytes)
        at = array.__array_interface__["data"][0] - <size_t> block.address
        return ndarray(array.shape, array.dtype, place, at, array.strides)


cdef Pool _pool = None  # of the pass that is under way in one thread


cdef class Place:
    """Memory that is somebody else's."""

    cdef void *address
    cdef Py_ssize_t nbytes

    def __cinit__(self, size_t address, Py_ssize_t nbytes):
        self.address, self.nbytes = <void *> address, nbytes

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.address, self.nbytes, 0, flags)


@cython.no_gc
cdef class Block:
    """Writable memory of at least `nbytes` bytes, aligned to a cache line, through the buffer protocol.

    lasts: it stays for long, and would stand between the arena's free parts
    """

    cdef void *address
    cdef size_t capacity
    cdef Py_ssize_t nbytes
    cdef Arena arena
    cdef Pool pool

    def __cinit__(self, Py_ssize_t nbytes, bint lasts=False):
        global _cached, _touched
        cdef list addresses
        cdef bint is_cut = (_ceiling or (_span and nbytes >= LARGE)) and not lasts and has_arena()
        self.nbytes = nbytes
        self.capacity = (nbytes + PAGE - 1) // PAGE * PAGE if is_cut else size_class(nbytes)
        if (
            _pool is not None and not _ceiling and _pool.thread == PyThread_get_thread_ident()
            and not (is_cut and _pool.arena is not None and _pool.arena is not _arena)
        ):
            self.pool = _pool
            self.address = self.pool.take(self.capacity, is_cut)
            if self.address != NULL:
                self.arena = self.pool.arena if is_cut else None
                return
            self.pool.nbytes += self.capacity
        if is_cut and self.cut():
            if self.pool is not None:
                self.pool.arena = _arena
            return
        addresses = _free_lists.get(self.capacity)
        if addresses:
            self.address = <void *> <size_t> addresses.pop()
            if (<size_t *> self.address)[0] != _calls:
                _touched += self.capacity
            _cached -= self.capacity
            hold(self.capacity, self.capacity)
            return
        if _ceiling:
            shed(self.capacity)
        else:
            drop_stale(self.capacity)
        _touched += self.capacity
        self.address = pages_allocate(self.capacity)
        if self.address == NULL:
            if _last_resort is not None:
                _last_resort()
            trim()
            self.address = pages_allocate(self.capacity)
        if self.address == NULL:
            raise MemoryError(f"could not allocate {nbytes:,} bytes")
        hold(self.capacity, self.capacity)

    cdef bint cut(self) except -1:
        """Take a part of the arena; whether there was one."""
        cdef size_t resident = _arena.resident, allowed
        self.address = _arena.take(self.capacity // PAGE)
        if self.address == NULL:
            self.capacity = size_class(self.nbytes)
            return False
        self.arena = _arena
        hold(self.capacity, 0)
        if _ceiling:
            shed(0)
        elif _arena.resident > resident:  # it has fresh pages; of what was free before, some goes
            ask_for_huge_pages(self.address, self.capacity, _arena.base, _arena.pages * PAGE)
            allowed = _arena.most + _arena.most // 16
            if _arena.resident > allowed:
                _arena.drop((_arena.resident - allowed) * PAGE, FASTCONV_HUGE_PAGE // PAGE)
            if _arena.resident > allowed:  # between blocks in use that lie close
                _arena.drop((_arena.resident - allowed) * PAGE)
        return True

    def __dealloc__(self):
        if self.address == NULL:
            return
        if self.pool is not None and not self.pool.is_closed:
            self.pool.give(self.address, self.capacity, self.arena is not None)
        else:
            give_back(self.address, self.capacity, self.arena)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.address, self.nbytes, 0, flags)


cdef class Allocator:
    """allocate(op, shape, dtype): an uninitialised C-contiguous array, on a block from `pooled` bytes on.

    `require(op, shape, itemsize)` is asked first where the array has more than `unchecked` bytes, or none; `borrowed`
    counts the bytes that were handed out. lasts: see `Block`.
    """

    cdef object require
    cdef public double unchecked, pooled
    cdef readonly Py_ssize_t borrowed
    cdef bint lasts

    def __init__(self, require, double unchecked, double pooled, bint lasts=False):
        self.require, self.unchecked, self.pooled, self.borrowed = require, unchecked, pooled, 0
        self.lasts = lasts

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
        return ndarray(shape, dtype, Block(<Py_ssize_t> nbytes, self.lasts))


def set_last_resort(function):
    """Call this before an allocation fails."""
    global _last_resort
    _last_resort = function


def trim():
    """Give every cached block back to the system, and forget what calls touched."""
    global _cached, _touched, _widest
    _touched = _widest = 0
    cdef list addresses
    for capacity, addresses in list(_free_lists.items()):
        while addresses:
            pages_free(<void *> <size_t> addresses.pop(), capacity)
    _free_lists.clear()
    _cached = 0
    if _arena is not None:
        _arena.drop(_arena.waiting())
        _arena.most = _arena.in_use


cdef int keep_within_limit() except -1:
    if _arena is not None and _arena.waiting() > _limit:
        _arena.drop(_arena.waiting() - _limit)
    return 0


cdef bint has_arena() except -1:
    global _arena
    if _arena is None and _span:
        _arena = Arena(_span)
    return _arena is not None and _arena.base != NULL


cdef int drop_stale(size_t coming) except -1:
    """Give blocks of the free lists back before another one is made, the largest first, until what is in use, free and
    coming is little more than the largest call touched: a quarter more by those that neither this call nor the one
    before it touched (of several under way: the last few), two fifths by all that this one did not."""
    cdef size_t touched = max(_widest, _touched + coming)
    drop_idle(4 * _most_open - 2, coming, _before + touched + touched // 4)
    drop_idle(1, coming, _before + touched + touched // 5 * 2)
    return 0


cdef int drop_idle(size_t calls, size_t coming, size_t allowed) except -1:
    """Give blocks of the free lists back that the last `calls` calls did not touch, the largest first, until no more
    than what is allowed is in use, free and coming."""
    global _cached
    cdef list addresses
    cdef size_t capacity
    if _listed + _cached + coming <= allowed:
        return 0
    for key in sorted(_free_lists, reverse=True):
        capacity, addresses = key, _free_lists[key]
        while addresses and _calls - (<size_t *> <size_t> addresses[0])[0] >= calls:
            pages_free(<void *> <size_t> addresses.pop(0), capacity)
            _cached -= capacity
            if _listed + _cached + coming <= allowed:
                return 0
    return 0


cdef int shed(size_t coming) except -1:
    """Give free memory back, of the free list the largest blocks first, until what is in use, free and coming is below
    the ceiling."""
    global _cached
    cdef list addresses
    cdef size_t capacity, waiting = 0 if _arena is None else _arena.waiting()
    if _held + _cached + waiting + coming <= _ceiling:
        return 0
    for key in sorted(_free_lists, reverse=True):
        capacity, addresses = key, _free_lists[key]
        while addresses:
            pages_free(<void *> <size_t> addresses.pop(), capacity)
            _cached -= capacity
            if _held + _cached + waiting + coming <= _ceiling:
                return 0
    if waiting:
        _arena.drop(_held + _cached + waiting + coming - _ceiling)
    return 0


def set_ceiling(size_t nbytes):
    """Keep no memory free where with that in use it would be more than `nbytes` bytes, and cut new blocks from an
    arena; 0: there is no ceiling."""
    global _ceiling, _arena
    _ceiling = nbytes
    if not _ceiling:
        return
    if not _span and (_arena is None or _arena.pages * PAGE < 2 * _ceiling):
        if _arena is not None:
            _arena.drop(_arena.waiting())
        _arena = Arena(3 * min(_ceiling, MOST_BYTES))  # what was cut from the one before holds it
    shed(0)


def held():
    """Bytes of the blocks in use."""
    return _held


def most_held():
    """The most bytes of blocks in use at a time, since this was asked last."""
    global _most
    most = _most
    _most = _held
    return most


def set_limit(size_t nbytes):
    """Keep at most `nbytes` bytes on the free lists, and as many free in the arena."""
    global _limit
    _limit = nbytes
    if _cached > _limit:
        trim()
    keep_within_limit()


def set_span(size_t nbytes):
    """Cut large blocks from an arena of so many bytes of addresses; 0: from none, unless there is a ceiling, and the
    addresses behind all blocks of the one that there is are given back."""
    global _span
    _span = nbytes
    if not _span and _arena is not None:
        _arena.shrink()


def cached():
    """Bytes that are free for later blocks now."""
    return _cached + (0 if _arena is None else _arena.waiting())


cdef class Call:
    """`with call:` around all that a training step or an answer computes; inside another one it does nothing."""

    def __enter__(self):
        global depth, _calls, _open, _most_open, _before, _touched, _widest
        depth += 1
        if depth == 1:
            _widest, _touched, _before = max(_widest, _touched), 0, _listed
            _calls += 1
            _open += 1
            _most_open = max(_most_open, _open)

    def __exit__(self, *error):
        global depth, _open
        depth -= 1
        if depth == 0:
            _open -= 1


call = Call()
