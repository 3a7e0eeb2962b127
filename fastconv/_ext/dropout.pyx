"""Dropout: an element's own random bits decide whether it stays."""

from cython cimport floating
from libc.stdint cimport uint32_t, uint64_t

from fastconv._ext.team cimport Task, run

from fastconv._ext.capture import Kernel

cdef enum:
    RUN = 16384  # elements of one task


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
