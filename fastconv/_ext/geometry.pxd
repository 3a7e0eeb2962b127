"""The lifted geometry of a convolution or a pooling, which all algorithms share; the bands that outputs are cut into.

Arrays are channels-last with three spatial axes: x (n, i0, i1, i2, c), y (n, o0, o1, o2, k).
"""

from libc.string cimport memcpy, memset


cdef struct Geometry:
    Py_ssize_t batch, channels, filters, groups
    Py_ssize_t inp[3]
    Py_ssize_t out[3]       # outputs that are computed, along each axis
    Py_ssize_t kernel[3]
    Py_ssize_t stride[3]
    Py_ssize_t before[3]    # padding, or cropping where negative
    Py_ssize_t after[3]
    Py_ssize_t dilation[3]
    Py_ssize_t full[3]      # of y's memory
    Py_ssize_t origin[3]    # of the first output there
    Py_ssize_t step[3]      # between outputs there
    Py_ssize_t taps         # of a filter, its group's channels included
    Py_ssize_t pixels       # outputs of an image
    Py_ssize_t images, row_bands, column_bands  # images of a band; bands of an output plane


cdef inline Geometry geometry_of(tuple x_shape, tuple y_shape, object window, Py_ssize_t groups):
    """Of all outputs; window: a lifted fastconv.window.Window."""
    cdef Geometry g
    cdef int axis
    g.batch, g.channels, g.filters, g.groups = x_shape[0], x_shape[4], y_shape[4], groups
    g.images, g.row_bands, g.column_bands = 1, 1, 1
    g.taps, g.pixels = g.channels // groups, 1
    for axis in range(3):
        g.inp[axis] = x_shape[1 + axis]
        g.out[axis] = g.full[axis] = y_shape[1 + axis]
        g.origin[axis], g.step[axis] = 0, 1
        g.kernel[axis], g.stride[axis], g.dilation[axis] = (
            window.kernel[axis], window.stride[axis], window.dilation[axis]
        )
        g.before[axis], g.after[axis] = window.padding[axis]
        g.taps *= g.kernel[axis]
        g.pixels *= g.out[axis]
    return g


cdef inline Geometry banded(
    tuple x_shape, tuple y_shape, object window, Py_ssize_t groups, object outputs, tuple cut
):
    """outputs: those of y that are computed, a slice per spatial axis, or None; cut: images of a band, bands of rows,
    bands of columns."""
    cdef Geometry g = geometry_of(x_shape, y_shape, window, groups)
    cdef int axis
    g.images, g.row_bands, g.column_bands = cut
    if outputs is not None:
        g.pixels = 1
        for axis in range(3):
            g.origin[axis], _, g.step[axis] = outputs[axis].indices(g.full[axis])
            g.out[axis] = len(range(*outputs[axis].indices(g.full[axis])))
            g.pixels *= g.out[axis]
    return g


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    """For any a, and b > 0."""
    if b == 1:
        return a
    return -((-a) // b) if a < 0 else (a + b - 1) // b


cdef inline Py_ssize_t clip(Py_ssize_t a, Py_ssize_t low, Py_ssize_t high) noexcept nogil:
    return max(low, min(a, high))


# --- bands -----------------------------------------------------------------------------------------------------------


cdef struct Band:
    Py_ssize_t image, images, plane, row, rows, column, columns  # of the outputs
    Py_ssize_t at[3]            # of the first window's first tap in x
    Py_ssize_t height, width    # rows and columns that the windows see of a plane of x


cdef inline Py_ssize_t bands_of(const Geometry *g) noexcept nogil:
    return ceil_div(g.batch, g.images) * g.out[0] * g.row_bands * g.column_bands


cdef inline Band band_at(const Geometry *g, Py_ssize_t number) noexcept nogil:
    """Some images, one output plane, some rows and columns of it."""
    cdef Band band
    cdef Py_ssize_t column_band = number % g.column_bands
    cdef Py_ssize_t row_band = number // g.column_bands % g.row_bands
    number //= g.column_bands * g.row_bands
    band.plane = number % g.out[0]
    band.image = number // g.out[0] * g.images
    band.images = min(g.images, g.batch - band.image)
    band.row = row_band * g.out[1] // g.row_bands
    band.rows = (row_band + 1) * g.out[1] // g.row_bands - band.row
    band.column = column_band * g.out[2] // g.column_bands
    band.columns = (column_band + 1) * g.out[2] // g.column_bands - band.column
    band.at[0] = band.plane * g.stride[0] - g.before[0]
    band.at[1] = band.row * g.stride[1] - g.before[1]
    band.at[2] = band.column * g.stride[2] - g.before[2]
    band.height = (band.rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
    band.width = (band.columns - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
    return band


cdef inline Py_ssize_t first_pixel(const Geometry *g, const Band *band) noexcept nogil:
    """Of a band, in y; all outputs are computed."""
    return ((band.image * g.out[0] + band.plane) * g.out[1] + band.row) * g.out[2] + band.column


cdef inline void copy_plane(
    const float *x, const Geometry *g, const Band *band, Py_ssize_t image, Py_ssize_t tap, float *out,
    Py_ssize_t pitch,
) noexcept nogil:
    """out (height, width, channels), rows `pitch` apart = what the windows see of the plane of a tap of the first axis,
    zeros outside x."""
    cdef Py_ssize_t c = g.channels, i0 = band.at[0] + tap * g.dilation[0], i2 = band.at[2]
    cdef Py_ssize_t head = min(max(-i2, 0), band.width)
    cdef Py_ssize_t stop = max(min(g.inp[2] - i2, band.width), head)
    cdef Py_ssize_t row
    for row in range(band.at[1], band.at[1] + band.height):
        if 0 <= i0 < g.inp[0] and 0 <= row < g.inp[1] and stop > head:
            memset(out, 0, head * c * sizeof(float))
            memcpy(
                out + head * c, x + (((image * g.inp[0] + i0) * g.inp[1] + row) * g.inp[2] + i2 + head) * c,
                (stop - head) * c * sizeof(float),
            )
            memset(out + stop * c, 0, (band.width - stop) * c * sizeof(float))
        else:
            memset(out, 0, band.width * c * sizeof(float))
        out += pitch
