"""Rows of elements: how they are cut into tasks, and what is taken along one."""

from cython cimport floating

cdef enum:
    RUN = 4096  # elements of one task, where rows are shorter
    LANES = 8  # sums side by side
    TOGETHER = 8  # rounds of them that are added in the array's own type before they join the float64 sums


cdef inline Py_ssize_t rows_together(Py_ssize_t width) noexcept nogil:
    """The rows of one task."""
    return max(<Py_ssize_t> 1, RUN // width)


cdef inline Py_ssize_t tasks(Py_ssize_t size, Py_ssize_t block) noexcept nogil:
    return (size + block - 1) // block


cdef inline floating row_top(const floating *x, Py_ssize_t c) noexcept nogil:
    """The largest element; any element where NaN is among them."""
    cdef floating lanes[LANES]
    cdef Py_ssize_t i, j
    cdef Py_ssize_t whole = c - c % LANES
    cdef floating top = x[0]
    if whole:
        for j in range(LANES):
            lanes[j] = x[j]
        i = LANES
        while i < whole:
            for j in range(LANES):
                lanes[j] = x[i + j] if x[i + j] > lanes[j] else lanes[j]
            i += LANES
        for j in range(LANES):
            top = lanes[j] if lanes[j] > top else top
    for i in range(whole, c):
        top = x[i] if x[i] > top else top
    return top


cdef enum:
    PLAIN = 0
    PRODUCT = 1
    TRIPLE = 2
    SHIFTED = 3
    DEVIATION = 4


cdef inline floating term(
    int kind, const floating *x, const floating *y, const floating *z, floating mean, Py_ssize_t i
) noexcept nogil:
    if kind == PLAIN:
        return x[i]
    if kind == PRODUCT:
        return x[i] * y[i]
    if kind == TRIPLE:
        return x[i] * y[i] * z[i]
    if kind == SHIFTED:
        return x[i] - mean
    return (x[i] - mean) * (x[i] - mean)


cdef inline double row_total(
    int kind, const floating *x, const floating *y, const floating *z, floating mean, Py_ssize_t c
) noexcept nogil:
    """The sum of a row's terms: eight rounds of lanes in the array's own type, those in float64."""
    cdef double lanes[LANES]
    cdef floating part[LANES]
    cdef Py_ssize_t i = 0, j, round
    for j in range(LANES):
        lanes[j] = 0
    while i + TOGETHER * LANES <= c:
        for j in range(LANES):
            part[j] = term(kind, x, y, z, mean, i + j)
        for round in range(1, TOGETHER):
            for j in range(LANES):
                part[j] += term(kind, x, y, z, mean, i + round * LANES + j)
        for j in range(LANES):
            lanes[j] += part[j]
        i += TOGETHER * LANES
    while i + LANES <= c:
        for j in range(LANES):
            lanes[j] += term(kind, x, y, z, mean, i + j)
        i += LANES
    for j in range(c - i):
        lanes[j] += term(kind, x, y, z, mean, i + j)
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


cdef inline double row_sum(const floating *x, Py_ssize_t c) noexcept nogil:
    return row_total(PLAIN, x, x, x, 0, c)


cdef inline double row_dot(const floating *x, const floating *y, Py_ssize_t c) noexcept nogil:
    return row_total(PRODUCT, x, y, x, 0, c)


cdef inline double row_dot_3(const floating *x, const floating *y, const floating *z, Py_ssize_t c) noexcept nogil:
    return row_total(TRIPLE, x, y, z, 0, c)


cdef inline double row_mean(const floating *x, Py_ssize_t c) noexcept nogil:
    """By the distances from the first element: what all elements share costs no digits."""
    return x[0] + row_total(SHIFTED, x, x, x, x[0], c) / c


cdef inline double row_square(const floating *x, floating mean, Py_ssize_t c) noexcept nogil:
    """The sum of (x - mean)^2."""
    return row_total(DEVIATION, x, x, x, mean, c)
