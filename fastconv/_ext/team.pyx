# distutils: sources = fastconv/_ext/team/team.c
"""The process's thread team, see team/team.c: helpers beside a kernel's caller, that nobody waits for."""

from fastconv._ext cimport gil

cdef extern from "team/team.h" nogil:
    void team_resize(int size) noexcept
    int team_helpers() noexcept

cdef extern from "<pthread.h>":
    int pthread_atfork(void (*)() noexcept nogil, void (*)() noexcept nogil, void (*)() noexcept nogil)

cdef double bytes_per_thread = 1 << 17  # below this much memory traffic a second thread costs more than it brings
cdef Py_ssize_t most_threads = 1  # that the team may have

import threading

gil.main_thread = threading.main_thread().ident
pthread_atfork(NULL, NULL, gil.be_main)


cdef int run(Task function, const void *data, const void *context, Py_ssize_t count, int num_threads) except -1:
    """Do tasks 0 .. count - 1 on at most `num_threads` threads. Python's signal handlers run at least every 0.2 s
    between tasks; what they raise ends the region once all tasks that were begun are done."""
    return gil.run_region(function, <void *> data, context, count, num_threads, False)


cdef int run_whole(Task function, const void *data, const void *context, Py_ssize_t count, int num_threads) except -1:
    """`run` for what must not be left half done: signals wait."""
    return gil.run_region(function, <void *> data, context, count, num_threads, True)


def resize(int size):
    """Have at most `size` - 1 helpers, from the next region on."""
    global most_threads
    most_threads = size
    team_resize(size)


def threads_for(double nbytes, Py_ssize_t most=1 << 62):
    """Threads for a kernel that moves `nbytes` bytes, or does as much work: one for small ones, at most `most`."""
    if nbytes < 2 * bytes_per_thread:
        return 1
    cdef double allowed = min(most_threads, most)
    return <Py_ssize_t> max(<double> 1, min(allowed, nbytes / bytes_per_thread))


def set_bytes_per_thread(double nbytes):
    """Have a thread for every `nbytes` of `threads_for`; returns what held before (tests do this)."""
    global bytes_per_thread
    before = bytes_per_thread
    bytes_per_thread = nbytes
    return before


def helpers():
    """The helpers that there are: threads of this process, asleep or awake."""
    return team_helpers()


def releases():
    """How often this thread let go of the GIL for a region."""
    return gil.times_released
