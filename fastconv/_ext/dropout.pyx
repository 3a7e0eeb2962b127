"""Dropout: an element's own random bits decide whether it stays."""

from cython cimport floating
from libc.stdint cimport uint64_t

from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef enum:
    RUN = 16384  # elements of one task
    PIECE = 512  # of them, whose states are worked out before their bits

cdef uint64_t GAMMA = 0x9E3779B97F4A7C15  # from the state of an element to the next one's

cdef extern from "dropout.h" nogil:
    void dropout_float(
        const float *, float *, const uint64_t *states, uint64_t threshold, float scale, Py_ssize_t count)
    void dropout_double(
        const double *, double *, const uint64_t *states, uint64_t threshold, double scale, Py_ssize_t count)


cdef struct Dropout:
    const void *x
    Py_ssize_t pixels, channels, block, blocks  # of pixels: an image's in a task, and the tasks of an image
    uint64_t key, threshold
    double scale


@Kernel
def dropout(
    const floating[:, :, ::1] x, floating[:, :, ::1] y, const uint64_t[::1] key, uint64_t threshold, double scale,
    int num_threads
):
    """y = x * scale where the element's 32 random bits, by a key (1,), are at least `threshold`, else x * 0.

    x is (images, pixels, channels) in memory; element (n, p, c) has the index (n * channels + c) * pixels + p.
    """
    cdef Py_ssize_t pixels = x.shape[1], channels = x.shape[2]
    cdef Py_ssize_t block = max(<Py_ssize_t> 1, RUN // channels)
    cdef Py_ssize_t blocks = (pixels + block - 1) // block
    cdef Dropout c = Dropout(&x[0, 0, 0], pixels, channels, block, blocks, key[0], threshold, scale)
    run(<Task> dropout_task[floating], &y[0, 0, 0], &c, x.shape[0] * blocks, num_threads)


cdef void dropout_task(floating *y, const Dropout *c, Py_ssize_t task, int slot) noexcept nogil:
    cdef Py_ssize_t pixels = c.pixels, channels = c.channels, image = task // c.blocks
    cdef Py_ssize_t begin = task % c.blocks * c.block, count = min(c.block, pixels - begin)
    cdef Py_ssize_t first = image * channels * pixels + begin, p
    cdef uint64_t state = c.key + <uint64_t> first * GAMMA, step = <uint64_t> pixels * GAMMA
    cdef uint64_t states[PIECE]
    cdef Py_ssize_t at = (image * pixels + begin) * channels, end = at + count * channels, channel = 0, length
    while at < end:
        length = min(<Py_ssize_t> PIECE, end - at)
        if channels == 1:
            for p in range(length):
                states[p] = state + <uint64_t> p * GAMMA
            state += <uint64_t> length * GAMMA
        else:
            for p in range(length):
                states[p] = state + <uint64_t> channel * step
                channel += 1
                if channel == channels:
                    channel = 0
                    state += GAMMA
        if floating is float:
            dropout_float(<const float *> c.x + at, y + at, states, c.threshold, <float> c.scale, length)
        else:
            dropout_double(<const double *> c.x + at, y + at, states, c.threshold, c.scale, length)
        at += length
