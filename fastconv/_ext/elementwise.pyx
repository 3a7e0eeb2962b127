"""Passes over memory as one run of elements: activations, dropout, losses of a difference.

A task is a run of `RUN` elements, whatever the number of threads. The functions themselves stand in activations.h,
where constants take the arrays' type.
"""

from cython cimport floating
from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "activations.h" nogil:
    void activate_float(int kind, const float *x, float *y, Py_ssize_t count, float a, float b)
    void activate_double(int kind, const double *x, double *y, Py_ssize_t count, double a, double b)
    void activate_backward_float(
        int kind, const float *dy, const float *x, float *dx, Py_ssize_t count, float a, float b)
    void activate_backward_double(
        int kind, const double *dy, const double *x, double *dx, Py_ssize_t count, double a, double b)
    void errors_float(int kind, const float *x, const float *t, float *y, Py_ssize_t count)
    void errors_double(int kind, const double *x, const double *t, double *y, Py_ssize_t count)
    void errors_backward_float(int kind, const float *x, const float *t, float *dx, Py_ssize_t count)
    void errors_backward_double(int kind, const double *x, const double *t, double *dx, Py_ssize_t count)
    void errors_target_backward_float(int kind, const float *x, const float *t, float *dt, Py_ssize_t count)
    void errors_target_backward_double(int kind, const double *x, const double *t, double *dt, Py_ssize_t count)

cdef enum:
    RUN = 16384
    PART = 512  # elements of a run whose losses are in hand at a time


def activate(int kind, const floating[::1] x, floating[::1] y, double a, double b, int num_threads):
    """y = f(x); kind: the function's place in activations.h, a and b its parameters."""
    cdef Py_ssize_t size = x.shape[0]
    cdef Py_ssize_t task
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        activate_run(kind, &x[task * RUN], &y[task * RUN], min(<Py_ssize_t> RUN, size - task * RUN), a, b)


cdef void activate_run(
    int kind, const floating *x, floating *y, Py_ssize_t count, double a, double b
) noexcept nogil:
    if floating is float:
        activate_float(kind, x, y, count, <float> a, <float> b)
    else:
        activate_double(kind, x, y, count, a, b)


def activate_backward(
    int kind, const floating[::1] dy, const floating[::1] x, floating[::1] dx, double a, double b, int num_threads
):
    """dx = dy * f'(x)."""
    cdef Py_ssize_t size = x.shape[0]
    cdef Py_ssize_t task
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        activate_backward_run(
            kind, &dy[task * RUN], &x[task * RUN], &dx[task * RUN], min(<Py_ssize_t> RUN, size - task * RUN), a, b
        )


cdef void activate_backward_run(
    int kind, const floating *dy, const floating *x, floating *dx, Py_ssize_t count, double a, double b
) noexcept nogil:
    if floating is float:
        activate_backward_float(kind, dy, x, dx, count, <float> a, <float> b)
    else:
        activate_backward_double(kind, dy, x, dx, count, a, b)


# --- dropout ---------------------------------------------------------------------------------------------------------


cdef inline uint32_t random_bits(uint64_t key, uint64_t index) noexcept nogil:
    """32 bits that depend on (key, index) only: SplitMix64's output function (Steele, Lea, Flood 2014), upper half."""
    cdef uint64_t z = key + index * <uint64_t> 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94D049BB133111EB
    return <uint32_t> ((z ^ (z >> 31)) >> 32)


def dropout(
    const floating[:, :, ::1] x, floating[:, :, ::1] y, uint64_t key, uint64_t threshold, double scale, int num_threads
):
    """y = x * scale where the element's 32 random bits are at least `threshold`, else x * 0.

    x is (images, pixels, channels) in memory; element (n, p, c) has the index (n * channels + c) * pixels + p.
    """
    cdef Py_ssize_t pixels = x.shape[1], channels = x.shape[2]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, RUN // channels)
    cdef Py_ssize_t blocks = (pixels + block - 1) // block
    cdef Py_ssize_t task
    for task in prange(x.shape[0] * blocks, nogil=True, num_threads=num_threads, schedule="static"):
        dropout_block(
            &x[task // blocks, task % blocks * block, 0], &y[task // blocks, task % blocks * block, 0], key,
            task // blocks * channels * pixels + task % blocks * block, pixels, channels,
            min(block, pixels - task % blocks * block), threshold, <floating> scale,
        )


cdef void dropout_block(
    const floating *x, floating *y, uint64_t key, Py_ssize_t first, Py_ssize_t pixels, Py_ssize_t channels,
    Py_ssize_t count, uint64_t threshold, floating scale,
) noexcept nogil:
    cdef floating factor[2]
    cdef Py_ssize_t p, c
    factor[0] = 0
    factor[1] = scale
    for p in range(count):
        for c in range(channels):
            y[c] = x[c] * factor[random_bits(key, first + p + c * pixels) >= threshold]
        x += channels
        y += channels


# --- losses of a difference ------------------------------------------------------------------------------------------


cdef void errors_run(int kind, const floating *x, const floating *t, floating *y, Py_ssize_t count) noexcept nogil:
    if floating is float:
        errors_float(kind, x, t, y, count)
    else:
        errors_double(kind, x, t, y, count)


def errors(int kind, const floating[::1] x, const floating[::1] target, floating[::1] y, int num_threads):
    """y = the loss of every element; kind: its place in activations.h."""
    cdef Py_ssize_t size = x.shape[0]
    cdef Py_ssize_t task
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        errors_run(
            kind, &x[task * RUN], &target[task * RUN], &y[task * RUN], min(<Py_ssize_t> RUN, size - task * RUN)
        )


def error_sums(int kind, const floating[::1] x, const floating[::1] target, double[::1] sums, int num_threads):
    """sums[run] = the sum of `errors` over a run of RUN elements."""
    cdef Py_ssize_t size = x.shape[0]
    cdef Py_ssize_t task
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        sums[task] = error_sum(kind, &x[task * RUN], &target[task * RUN], min(<Py_ssize_t> RUN, size - task * RUN))


cdef double error_sum(int kind, const floating *x, const floating *target, Py_ssize_t count) noexcept nogil:
    """Eight sums side by side, for the lanes."""
    cdef floating part[PART]
    cdef double lanes[8]
    cdef Py_ssize_t first = 0, size, i, j
    for j in range(8):
        lanes[j] = 0
    while first < count:
        size = min(<Py_ssize_t> PART, count - first)
        errors_run(kind, x + first, target + first, &part[0], size)
        for i in range(size, (size + 7) // 8 * 8):
            part[i] = 0
        i = 0
        while i < size:
            for j in range(8):
                lanes[j] += part[i + j]
            i += 8
        first += PART
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


def errors_backward(
    int kind, bint to_target, const floating[::1] dy, const floating[::1] x, const floating[::1] target,
    floating[::1] dx, double scale, int num_threads,
):
    """dx = dy * scale * the derivative of `errors` to x, or to the target; dy has one element, or as many as x."""
    cdef Py_ssize_t size = x.shape[0]
    cdef Py_ssize_t step = 0 if dy.shape[0] == 1 else 1
    cdef Py_ssize_t task
    for task in prange((size + RUN - 1) // RUN, nogil=True, num_threads=num_threads, schedule="static"):
        errors_backward_run(
            kind, to_target, &dy[task * RUN * step], step, &x[task * RUN], &target[task * RUN], &dx[task * RUN],
            <floating> scale, min(<Py_ssize_t> RUN, size - task * RUN),
        )


cdef void errors_backward_run(
    int kind, bint to_target, const floating *dy, Py_ssize_t step, const floating *x, const floating *target,
    floating *dx, floating scale, Py_ssize_t count,
) noexcept nogil:
    cdef Py_ssize_t i
    if floating is float:
        if to_target:
            errors_target_backward_float(kind, x, target, dx, count)
        else:
            errors_backward_float(kind, x, target, dx, count)
    else:
        if to_target:
            errors_target_backward_double(kind, x, target, dx, count)
        else:
            errors_backward_double(kind, x, target, dx, count)
    if step == 0:
        scale *= dy[0]
        for i in range(count):
            dx[i] *= scale
    else:
        for i in range(count):
            dx[i] *= dy[i] * scale
