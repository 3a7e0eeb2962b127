# distutils: sources = fastconv/_ext/team/team.c
"""The process's thread team, see team/team.c: helpers beside a kernel's caller, that nobody waits for."""

cdef extern from "team/team.h" nogil:
    ctypedef int (*Interrupted "team_interrupted")() noexcept nogil
    int team_run(
        Task function, void *data, const void *context, Py_ssize_t count, int threads, Interrupted interrupted
    ) noexcept
    void team_resize(int size) noexcept
    int team_helpers() noexcept

cdef extern from *:
    """
    #include <pthread.h>

    static unsigned long fastconv_main; /* Python runs signal handlers in its main thread alone */

    static void fastconv_is_main(void) { fastconv_main = PyThread_get_thread_ident(); }

    /* -1 with Python's error set where a signal's handler raised. */
    static int fastconv_interrupted(void) {
        if (PyThread_get_thread_ident() != fastconv_main) return 0;
        PyGILState_STATE state = PyGILState_Ensure();
        int raised = PyErr_CheckSignals();
        PyGILState_Release(state);
        return raised;
    }
    """
    unsigned long fastconv_main
    void fastconv_is_main() noexcept nogil
    int pthread_atfork(void (*)() noexcept nogil, void (*)() noexcept nogil, void (*)() noexcept nogil)
    int fastconv_interrupted() noexcept nogil

import threading

fastconv_main = threading.main_thread().ident
pthread_atfork(NULL, NULL, fastconv_is_main)


cdef int run(Task function, const void *data, const void *context, Py_ssize_t count, int num_threads) except -1 nogil:
    """Do tasks 0 .. count - 1 on at most `num_threads` threads. Python's signal handlers run at least every 0.2 s
    between tasks; what they raise ends the region once all tasks that were begun are done."""
    return team_run(function, <void *> data, context, count, num_threads, fastconv_interrupted)


cdef int run_whole(
    Task function, const void *data, const void *context, Py_ssize_t count, int num_threads
) except -1 nogil:
    """`run` for what must not be left half done: signals wait."""
    return team_run(function, <void *> data, context, count, num_threads, NULL)


def resize(int size):
    """Have at most `size` - 1 helpers, from the next region on."""
    team_resize(size)


def helpers():
    """The helpers that there are: threads of this process, asleep or awake."""
    return team_helpers()
