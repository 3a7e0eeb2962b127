"""Passes over memory as one run of elements: activations, dropout, losses of a difference.

A task is a run of `RUN` elements, whatever the number of threads. The functions themselves stand in activations.h,
where constants take the arrays' type.
"""

from cython cimport floating
from libc.stdint cimport uint32_t, uint64_t

from fastconv._ext.buffers cimport read_from, read_run, write_to
from fastconv._ext.team cimport Task, run


cdef extern from "activations.h" nogil:
    enum:
        RELU, LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SIGMOID, TANH, SOFTPLUS, HARDSWISH
        SQUARED, ABSOLUTE, CROSS_ENTROPY
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

ACTIVATIONS = {  # by their names in activations.h
    "RELU": RELU, "LEAKY_RELU": LEAKY_RELU, "ELU": ELU, "GELU": GELU, "GELU_TANH": GELU_TANH, "SILU": SILU,
    "SIGMOID": SIGMOID, "TANH": TANH, "SOFTPLUS": SOFTPLUS, "HARDSWISH": HARDSWISH,
}
LOSSES = {"mse_loss": SQUARED, "l1_loss": ABSOLUTE, "bce_with_logits": CROSS_ENTROPY}
ERRORS_OF_ONE_SUM = RUN


cdef inline Py_ssize_t tasks(Py_ssize_t size) noexcept nogil:
    return (size + RUN - 1) // RUN


cdef struct Activation:
    int kind
    const void *dy  # NULL forwards
    const void *x
    Py_ssize_t size
    double a, b


def activate(int kind, x, y, double a, double b, int num_threads):
    """y = f(x); kind: the function's place in activations.h, a and b its parameters. x, of y's type, fills a run of
    memory in some order of its axes, y that run in C order."""
    cdef Activation c = Activation(kind, NULL, read_run(x), y.size, a, b)
    cdef void *out = write_to(y)
    cdef bint single = y.itemsize == sizeof(float)
    if c.size == 0:
        return
    with nogil:
        if single:
            run(<Task> activate_task[float], out, &c, tasks(c.size), num_threads)
        else:
            run(<Task> activate_task[double], out, &c, tasks(c.size), num_threads)


cdef void activate_task(floating *y, const Activation *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at)
    cdef const floating *x = <const floating *> c.x + at
    if floating is float:
        activate_float(c.kind, x, y + at, count, <float> c.a, <float> c.b)
    else:
        activate_double(c.kind, x, y + at, count, c.a, c.b)


def activate_backward(int kind, dy, x, dx, double a, double b, int num_threads):
    """dx = dy * f'(x); dy lies as dx."""
    cdef Activation c = Activation(kind, read_from(dy), read_run(x), dx.size, a, b)
    cdef void *out = write_to(dx)
    cdef bint single = dx.itemsize == sizeof(float)
    if c.size == 0:
        return
    with nogil:
        if single:
            run(<Task> activate_backward_task[float], out, &c, tasks(c.size), num_threads)
        else:
            run(<Task> activate_backward_task[double], out, &c, tasks(c.size), num_threads)


cdef void activate_backward_task(floating *dx, const Activation *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at)
    cdef const floating *dy = <const floating *> c.dy + at
    cdef const floating *x = <const floating *> c.x + at
    if floating is float:
        activate_backward_float(c.kind, dy, x, dx + at, count, <float> c.a, <float> c.b)
    else:
        activate_backward_double(c.kind, dy, x, dx + at, count, c.a, c.b)


# --- dropout ---------------------------------------------------------------------------------------------------------


cdef inline uint32_t random_bits(uint64_t key, uint64_t index) noexcept nogil:
    """32 bits that depend on (key, index) only: SplitMix64's output function (Steele, Lea, Flood 2014), upper half."""
    cdef uint64_t z = key + index * <uint64_t> 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94D049BB133111EB
    return <uint32_t> ((z ^ (z >> 31)) >> 32)


cdef struct Dropout:
    const void *x
    Py_ssize_t pixels, channels, block, blocks  # of pixels: an image's in a task, and the tasks of an image
    uint64_t key, threshold
    double scale


def dropout(
    const floating[:, :, ::1] x, floating[:, :, ::1] y, uint64_t key, uint64_t threshold, double scale, int num_threads
):
    """y = x * scale where the element's 32 random bits are at least `threshold`, else x * 0.

    x is (images, pixels, channels) in memory; element (n, p, c) has the index (n * channels + c) * pixels + p.
    """
    cdef Py_ssize_t pixels = x.shape[1], channels = x.shape[2]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, RUN // channels)
    cdef Py_ssize_t blocks = (pixels + block - 1) // block
    cdef Dropout c = Dropout(&x[0, 0, 0], pixels, channels, block, blocks, key, threshold, scale)
    with nogil:
        run(<Task> dropout_task[floating], &y[0, 0, 0], &c, x.shape[0] * blocks, num_threads)


cdef void dropout_task(floating *y, const Dropout *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t pixels = c.pixels, channels = c.channels, image = task // c.blocks
    cdef Py_ssize_t begin = task % c.blocks * c.block, count = min(c.block, pixels - begin)
    cdef Py_ssize_t first = image * channels * pixels + begin, p, j
    cdef uint64_t key = c.key, threshold = c.threshold
    cdef const floating *x = <const floating *> c.x + (image * pixels + begin) * channels
    cdef floating factor[2]
    factor[0] = 0
    factor[1] = <floating> c.scale
    y += (image * pixels + begin) * channels
    for p in range(count):
        for j in range(channels):
            y[j] = x[j] * factor[random_bits(key, first + p + j * pixels) >= threshold]
        x += channels
        y += channels


# --- losses of a difference ------------------------------------------------------------------------------------------


cdef void errors_run(int kind, const floating *x, const floating *t, floating *y, Py_ssize_t count) noexcept nogil:
    if floating is float:
        errors_float(kind, x, t, y, count)
    else:
        errors_double(kind, x, t, y, count)


cdef struct Errors:
    int kind
    const void *target
    void *y
    double *sums  # in place of y
    Py_ssize_t size


def errors(int kind, const floating[::1] x, const floating[::1] target, floating[::1] y, int num_threads):
    """y = the loss of every element; kind: its place in activations.h."""
    cdef Errors c
    if x.shape[0] == 0:
        return
    c = Errors(kind, &target[0], &y[0], NULL, x.shape[0])
    with nogil:
        run(<Task> errors_task[floating], &x[0], &c, tasks(c.size), num_threads)


cdef void errors_task(const floating *x, const Errors *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN
    errors_run(
        c.kind, x + at, <const floating *> c.target + at, <floating *> c.y + at, min(<Py_ssize_t> RUN, c.size - at)
    )


def error_sums(int kind, const floating[::1] x, const floating[::1] target, double[::1] sums, int num_threads):
    """sums[run] = the sum of `errors` over a run of RUN elements."""
    cdef Errors c
    if x.shape[0] == 0:
        return
    c = Errors(kind, &target[0], NULL, &sums[0], x.shape[0])
    with nogil:
        run(<Task> error_sum_task[floating], &x[0], &c, tasks(c.size), num_threads)


cdef void error_sum_task(const floating *x, const Errors *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN
    c.sums[task] = error_sum(c.kind, x + at, <const floating *> c.target + at, min(<Py_ssize_t> RUN, c.size - at))


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


cdef struct ErrorsBackward:
    int kind
    bint to_target
    const void *dy
    const void *x
    const void *target
    Py_ssize_t size, step  # step: of dy, 0 where it has one element
    double scale


def errors_backward(
    int kind, bint to_target, const floating[::1] dy, const floating[::1] x, const floating[::1] target,
    floating[::1] dx, double scale, int num_threads,
):
    """dx = dy * scale * the derivative of `errors` to x, or to the target; dy has one element, or as many as x."""
    cdef ErrorsBackward c
    if x.shape[0] == 0:
        return
    c = ErrorsBackward(kind, to_target, &dy[0], &x[0], &target[0], x.shape[0], 0 if dy.shape[0] == 1 else 1, scale)
    with nogil:
        run(<Task> errors_backward_task[floating], &dx[0], &c, tasks(c.size), num_threads)


cdef void errors_backward_task(floating *dx, const ErrorsBackward *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t at = task * RUN, count = min(<Py_ssize_t> RUN, c.size - at), i
    cdef const floating *dy = <const floating *> c.dy + at * c.step
    cdef const floating *x = <const floating *> c.x + at
    cdef const floating *target = <const floating *> c.target + at
    cdef floating scale = <floating> c.scale
    dx += at
    if floating is float:
        if c.to_target:
            errors_target_backward_float(c.kind, x, target, dx, count)
        else:
            errors_backward_float(c.kind, x, target, dx, count)
    else:
        if c.to_target:
            errors_target_backward_double(c.kind, x, target, dx, count)
        else:
            errors_backward_double(c.kind, x, target, dx, count)
    if c.step == 0:
        scale *= dy[0]
        for i in range(count):
            dx[i] *= scale
    else:
        for i in range(count):
            dx[i] *= dy[i] * scale
