"""When a region's caller lets go of Python's lock, and that it does its tasks: gil.h."""

cdef extern from "gil.h":
    """
    static void be_main(void) { main_thread = PyThread_get_thread_ident(); }
    """
    ctypedef void (*team_task)(void *data, const void *context, Py_ssize_t task, int slot) noexcept nogil

    unsigned long main_thread
    long long times_released  # of this thread
    void be_main() noexcept nogil  # in a forked child
    int run_region(
        team_task function, void *data, const void *context, Py_ssize_t count, int threads, bint whole
    ) noexcept  # -1 with an error set
