"""The thread team for kernels: `run` does a region's tasks, `run_whole` those of one that no signal may end.

A kernel with a loop over tasks puts what all of them need into a struct, and one task into a function:

    cdef struct Scaling:
        Py_ssize_t size
        double factor

    def scale(floating[::1] x, double factor, int num_threads):
        cdef Scaling c = Scaling(x.shape[0], factor)
        run(<Task> scale_task[floating], &x[0], &c, (c.size + RUN - 1) // RUN, num_threads)

    cdef void scale_task(floating *x, const Scaling *c, Py_ssize_t task, int slot) noexcept nogil:
        ...

The caller holds the GIL; when it is let go of meanwhile stands in gil.h. `data` is what has the type that the function
is for; `slot`, below num_threads, owns scratch. Regions of one task, inside a region, or while another thread's is
running, are done by the caller alone.
"""

ctypedef void (*Task)(void *data, const void *context, Py_ssize_t task, int slot) noexcept nogil

cdef int run(Task function, const void *data, const void *context, Py_ssize_t count, int num_threads) except -1
cdef int run_whole(Task function, const void *data, const void *context, Py_ssize_t count, int num_threads) except -1
