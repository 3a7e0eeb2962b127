# distutils: extra_compile_args = -ffp-contract=off
"""Loops of `fastconv.augment`, image by image, on the calling thread alone: it is one that works beside a step."""

from cython cimport floating
from libc.math cimport floor
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

ctypedef fused element:  # of so many bytes: what they mean is of no concern
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    double complex


def windows(
    const element[:, :, :, ::1] x, element[:, :, :, ::1] out, const Py_ssize_t[::1] top, const Py_ssize_t[::1] left
):
    """out[n, c, i, j] = x[n, c, top[n] + i, left[n] + j], 0 outside of x."""
    cdef Py_ssize_t h = x.shape[2], w = x.shape[3], width = out.shape[3], n, c, i, row, first, last
    with nogil:
        for n in range(x.shape[0]):
            first = min(max(-left[n], 0), width)  # of the columns that lie in x
            last = max(min(w - left[n], width), first)
            for c in range(x.shape[1]):
                for i in range(out.shape[2]):
                    row = top[n] + i
                    if row < 0 or row >= h or first == last:
                        memset(&out[n, c, i, 0], 0, width * sizeof(element))
                        continue
                    memset(&out[n, c, i, 0], 0, first * sizeof(element))
                    memcpy(&out[n, c, i, first], &x[n, c, row, left[n] + first], (last - first) * sizeof(element))
                    memset(&out[n, c, i, 0] + last, 0, (width - last) * sizeof(element))


def flip(const element[:, :, :, ::1] x, element[:, :, :, ::1] out, const uint8_t[::1] across, const uint8_t[::1] down):
    """Each image mirrored left to right where `across` says so, and top to bottom where `down` does."""
    cdef Py_ssize_t h = x.shape[2], w = x.shape[3], n, c, i, j
    cdef const element *source
    cdef element *target
    with nogil:
        for n in range(x.shape[0]):
            for c in range(x.shape[1]):
                for i in range(h):
                    source, target = &x[n, c, h - 1 - i if down[n] else i, 0], &out[n, c, i, 0]
                    if not across[n]:
                        memcpy(target, source, w * sizeof(element))
                        continue
                    for j in range(w):
                        target[j] = source[w - 1 - j]


def cut(element[:, :, :, ::1] out, const Py_ssize_t[::1] top, const Py_ssize_t[::1] left, Py_ssize_t size):
    """Each image becomes 0 in the square whose corner is at (top, left), as far as it lies inside."""
    cdef Py_ssize_t h = out.shape[2], w = out.shape[3], n, c, i, first, width
    with nogil:
        for n in range(out.shape[0]):
            first = max(left[n], 0)
            width = min(w - left[n], size) - (first - left[n])
            for c in range(out.shape[1] if width > 0 else 0):
                for i in range(max(top[n], 0), min(size + top[n], h)):
                    memset(&out[n, c, i, first], 0, width * sizeof(element))


def bilinear(
    const floating[:, :, :, ::1] x, floating[:, :, :, ::1] out, const double[:, ::1] y_rows,
    const double[:, ::1] y_columns, const double[:, ::1] x_rows, const double[:, ::1] x_columns
):
    """out's pixel (i, j) is x's at (y_rows[i] + y_columns[j], x_rows[i] + x_columns[j]), in tables of each image,
    counted in the image with one zero around it: between the four pixels about that place, 0 outside of x."""
    cdef Py_ssize_t channels = x.shape[1], h = x.shape[2], w = x.shape[3], n, c, i, j, top, left
    cdef Py_ssize_t height = out.shape[2], width = out.shape[3], plane = h * w
    cdef double bottom = <double> (h + 1), right = <double> (w + 1), y_row, x_row
    cdef floating below, beside, upper, lower
    cdef const floating *image
    cdef const floating *at
    cdef const double *y_column
    cdef const double *x_column
    cdef floating *target
    with nogil:
        for n in range(x.shape[0]):
            image, y_column, x_column = &x[n, 0, 0, 0], &y_columns[n, 0], &x_columns[n, 0]
            for i in range(height):
                target, y_row, x_row = &out[n, 0, i, 0], y_rows[n, i], x_rows[n, i]
                for j in range(width):
                    below = <floating> min(max(y_row + y_column[j], 0.0), bottom)
                    beside = <floating> min(max(x_row + x_column[j], 0.0), right)
                    top, left = <Py_ssize_t> below, <Py_ssize_t> beside
                    below, beside = below - top, beside - left
                    if 0 < top < h and 0 < left < w:
                        at = image + (top - 1) * w + left - 1
                        for c in range(channels):
                            upper = at[0] + (at[1] - at[0]) * beside
                            lower = at[w] + (at[w + 1] - at[w]) * beside
                            target[c * height * width + j] = upper + (lower - upper) * below
                            at += plane
                        continue
                    for c in range(channels):
                        at = image + c * plane
                        upper = between(at, h, w, top - 1, left - 1, beside)
                        lower = between(at, h, w, top, left - 1, beside)
                        target[c * height * width + j] = upper + (lower - upper) * below


def nearest(
    const element[:, :, :, ::1] x, element[:, :, :, ::1] out, const double[:, ::1] y_rows,
    const double[:, ::1] y_columns, const double[:, ::1] x_rows, const double[:, ::1] x_columns
):
    """`bilinear`'s places: the pixel that is nearest, 0 outside of x."""
    cdef Py_ssize_t h = x.shape[2], w = x.shape[3], n, c, i, j, row, column
    cdef double bottom = <double> (h + 1), right = <double> (w + 1)
    cdef element outside = 0
    with nogil:
        for n in range(x.shape[0]):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    row = <Py_ssize_t> min(max(floor(y_rows[n, i] + y_columns[n, j] + 0.5), 0.0), bottom) - 1
                    column = <Py_ssize_t> min(max(floor(x_rows[n, i] + x_columns[n, j] + 0.5), 0.0), right) - 1
                    for c in range(x.shape[1]):
                        if 0 <= row < h and 0 <= column < w:
                            out[n, c, i, j] = x[n, c, row, column]
                        else:
                            out[n, c, i, j] = outside


cdef inline floating between(
    const floating *image, Py_ssize_t h, Py_ssize_t w, Py_ssize_t row, Py_ssize_t column, floating beside
) noexcept nogil:
    """In a row, `beside` of the way from one column to the next; 0 outside of the image."""
    cdef floating first = 0, second = 0
    if 0 <= row < h:
        if 0 <= column < w:
            first = image[row * w + column]
        if -1 <= column < w - 1:
            second = image[row * w + column + 1]
    return first + (second - first) * beside
