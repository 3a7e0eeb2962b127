/* The loops of norm.h for one REAL, for compilers to vectorise with vectors of BYTES bytes. A column's terms are added
   in one order, whatever the vectors: same bits. */

#define Reals NAME(Reals)
#define LANES ((ptrdiff_t)(BYTES / sizeof(REAL)))
#define Floats NAME(Floats)
#define AT(x) (*(const Reals *)((x) + j))

typedef REAL Reals __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef float Floats __attribute__((vector_size(BYTES)));

/* --- statistics of channels: `count` elements in rows of `width`, the last of which may be cut short -------------- */

/* Eight rows' terms are added in REAL before they join the sums; two at a time, so that registers suffice. */
#define CENTRED(i) (x[(i) * width + j] - mean[j])
#define SQUARE(i) (CENTRED(i) * CENTRED(i))
#define GRADIENT(i) (dy[(i) * width + j])
#define PRODUCT(i) (GRADIENT(i) * CENTRED(i))

TARGET static void NAME(moments)(
    const REAL *restrict x, const REAL *restrict mean, double *restrict sums, double *restrict squares,
    ptrdiff_t count, ptrdiff_t width)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = squares[j] = 0;
    for (; count >= 8 * width; count -= 8 * width, x += 8 * width) {
        FETCH(x, 8 * width * sizeof(REAL));
        for (ptrdiff_t j = 0; j < width; j++) {
            const REAL a = CENTRED(0) + CENTRED(1), a2 = SQUARE(0) + SQUARE(1);
            const REAL b = CENTRED(2) + CENTRED(3), b2 = SQUARE(2) + SQUARE(3);
            const REAL c = CENTRED(4) + CENTRED(5), c2 = SQUARE(4) + SQUARE(5);
            const REAL d = CENTRED(6) + CENTRED(7), d2 = SQUARE(6) + SQUARE(7);
            sums[j] += (a + b) + (c + d);
            squares[j] += (a2 + b2) + (c2 + d2);
        }
    }
    for (; count > 0; count -= width, x += width)
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {
            sums[j] += CENTRED(0);
            squares[j] += SQUARE(0);
        }
}

TARGET static void NAME(products)(
    const REAL *restrict dy, const REAL *restrict x, const REAL *restrict mean, double *restrict sums,
    double *restrict products, ptrdiff_t count, ptrdiff_t width)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = products[j] = 0;
    for (; count >= 8 * width; count -= 8 * width, dy += 8 * width, x += 8 * width)
        for (ptrdiff_t j = 0; j < width; j++) {
            const REAL a = GRADIENT(0) + GRADIENT(1), ax = PRODUCT(0) + PRODUCT(1);
            const REAL b = GRADIENT(2) + GRADIENT(3), bx = PRODUCT(2) + PRODUCT(3);
            const REAL c = GRADIENT(4) + GRADIENT(5), cx = PRODUCT(4) + PRODUCT(5);
            const REAL d = GRADIENT(6) + GRADIENT(7), dx = PRODUCT(6) + PRODUCT(7);
            sums[j] += (a + b) + (c + d);
            products[j] += (ax + bx) + (cx + dx);
        }
    for (; count > 0; count -= width, dy += width, x += width)
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {
            sums[j] += GRADIENT(0);
            products[j] += PRODUCT(0);
        }
}

/* Whether y can go past the caches: rows of whole vectors, to addresses that these divide. */
TARGET INLINE int NAME(streams)(const REAL *y, ptrdiff_t width)
{
    return BYTES > 16 && ((uintptr_t)y | (width * sizeof(REAL))) % BYTES == 0;
}

TARGET static void NAME(scale_shift)(
    const REAL *restrict x, const REAL *restrict mean, const REAL *restrict scale, const REAL *restrict shift,
    REAL *restrict y, ptrdiff_t count, ptrdiff_t width, int far)
{
    if (far && NAME(streams)(y, width)) {
        for (; count >= width; count -= width, x += width, y += width)
            for (ptrdiff_t j = 0; j < width; j += LANES)
                STREAM((float *)(y + j), (Floats)((AT(x) - AT(mean)) * AT(scale) + AT(shift)));
        fence();
    }
    for (; count > 0; count -= width, x += width, y += width)
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++)
            y[j] = CENTRED(0) * scale[j] + shift[j];
}

TARGET static void NAME(scale_shift_backward)(
    const REAL *restrict dy, const REAL *restrict x, const REAL *restrict mean, const REAL *restrict scale,
    const REAL *restrict slope, const REAL *restrict shift, REAL *restrict dx, ptrdiff_t count, ptrdiff_t width,
    int far)
{
    if (far && NAME(streams)(dx, width)) {
        for (; count >= width; count -= width, dy += width, x += width, dx += width)
            for (ptrdiff_t j = 0; j < width; j += LANES) {
                const Reals value = AT(dy) * AT(scale) + (AT(x) - AT(mean)) * AT(slope) + AT(shift);
                STREAM((float *)(dx + j), (Floats)value);
            }
        fence();
    }
    for (; count > 0; count -= width, dy += width, x += width, dx += width)
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++)
            dx[j] = dy[j] * scale[j] + CENTRED(0) * slope[j] + shift[j];
}

#undef Reals
#undef LANES
#undef Floats
#undef AT
#undef CENTRED
#undef SQUARE
#undef GRADIENT
#undef PRODUCT
#undef BYTES
