/* The loops of resampling.h for one REAL and vectors of BYTES bytes. */

#define LANES ((ptrdiff_t)(BYTES / sizeof(REAL)))
#define Reals NAME(Reals)
#define VECTORS 4 /* at a time, then 1 */

typedef REAL Reals __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

#if BYTES >= 16
TARGET INLINE void NAME(singles)(
    const REAL *restrict x, const ptrdiff_t x_step, REAL *restrict y, const ptrdiff_t y_step, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count; o++)
        y[o * y_step] = x[o * x_step];
}

/* Runs of one element. */
TARGET static void NAME(copy_singles)(const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t count)
{
    if (x_step == 2 && y_step == 1)
        NAME(singles)(x, 2, y, 1, count);
    else
        NAME(singles)(x, x_step, y, y_step, count);
}

/* The same with a zero after each. */
TARGET static void NAME(weave)(const REAL *restrict x, REAL *restrict y, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count; o++) {
        y[2 * o] = x[o];
        y[2 * o + 1] = 0;
    }
}
#endif

TARGET INLINE void NAME(runs)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, const ptrdiff_t run, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count; o++, x += x_step, y += y_step) {
        ptrdiff_t c = 0;
        for (; c + LANES <= run; c += LANES)
            *(Reals *)(y + c) = *(const Reals *)(x + c);
        if (c < run)
            *(Reals *)(y + run - LANES) = *(const Reals *)(x + run - LANES);
    }
}

/* Runs of LANES elements or more. */
TARGET static void NAME(copy_runs)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t run, ptrdiff_t count)
{
#if BYTES < 16
    if (run == 2)
        NAME(runs)(x, x_step, y, y_step, 2, count);
    else if (run == 3)
        NAME(runs)(x, x_step, y, y_step, 3, count);
    else
#endif
        if (run == LANES)
            NAME(runs)(x, x_step, y, y_step, LANES, count);
    else if (run == 2 * LANES)
        NAME(runs)(x, x_step, y, y_step, 2 * LANES, count);
    else if (run <= 8 * LANES)
        NAME(runs)(x, x_step, y, y_step, run, count);
    else
        for (ptrdiff_t o = 0; o < count; o++)
            memcpy(y + o * y_step, x + o * x_step, run * sizeof(REAL));
}

TARGET INLINE void NAME(sums)(
    const REAL *x, const ptrdiff_t *columns, const double *weights, ptrdiff_t terms, ptrdiff_t width, REAL *y,
    const int vectors)
{
    Reals sum[VECTORS];
    for (int v = 0; v < vectors; v++)
        sum[v] = (REAL)weights[0] * *(const Reals *)(x + columns[0] * width + v * LANES);
    for (ptrdiff_t k = 1; k < terms; k++) {
        const REAL *line = x + columns[k] * width, weight = (REAL)weights[k];
        for (int v = 0; v < vectors; v++)
            sum[v] += weight * *(const Reals *)(line + v * LANES);
    }
    for (int v = 0; v < vectors; v++)
        *(Reals *)(y + v * LANES) = sum[v];
}

/* One line of sums, `length` elements, at least LANES. */
TARGET INLINE void NAME(line)(
    const REAL *x, const ptrdiff_t *columns, const double *weights, const ptrdiff_t terms, ptrdiff_t width, REAL *y,
    const ptrdiff_t length)
{
    ptrdiff_t j = 0;
    for (; j + VECTORS * LANES <= length; j += VECTORS * LANES)
        NAME(sums)(x + j, columns, weights, terms, width, y + j, VECTORS);
    for (; j + LANES <= length; j += LANES)
        NAME(sums)(x + j, columns, weights, terms, width, y + j, 1);
    if (j < length)
        NAME(sums)(x + length - LANES, columns, weights, terms, width, y + length - LANES, 1);
}

/* `count` lines, each but a part of `length` elements. */
TARGET INLINE void NAME(lines)(
    const REAL *x, const ptrdiff_t *begins, const ptrdiff_t *columns, const double *weights, ptrdiff_t width, REAL *y,
    const ptrdiff_t length, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count; o++, y += length) {
        const ptrdiff_t first = begins[o], terms = begins[o + 1] - first;
        if (terms == 1)
            NAME(line)(x, columns + first, weights + first, 1, width, y, length);
        else if (terms == 2)
            NAME(line)(x, columns + first, weights + first, 2, width, y, length);
        else if (terms > 2)
            NAME(line)(x, columns + first, weights + first, terms, width, y, length);
        else
            memset(y, 0, length * sizeof(REAL));
    }
}

TARGET NOINLINE void NAME(combine_lines)(
    const REAL *x, const ptrdiff_t *begins, const ptrdiff_t *columns, const double *weights, ptrdiff_t width, REAL *y,
    ptrdiff_t length, ptrdiff_t count)
{
    if (length == LANES && width == LANES)
        NAME(lines)(x, begins, columns, weights, LANES, y, LANES, count);
#if BYTES < 16
    else if (length == 3 && width == 3)
        NAME(lines)(x, begins, columns, weights, 3, y, 3, count);
#endif
    else
        NAME(lines)(x, begins, columns, weights, width, y, length, count);
}

TARGET static void NAME(combine)(
    const REAL *x, const ptrdiff_t *begins, const ptrdiff_t *columns, const double *weights, REAL *y, ptrdiff_t width,
    ptrdiff_t count, int far)
{
    REAL buffer[BUFFER];
    if (!far)
        NAME(combine_lines)(x, begins, columns, weights, width, y, width, count);
    else if (width <= BUFFER)
        for (ptrdiff_t o = 0, part; o < count; o += part) {
            part = count - o < BUFFER / width ? count - o : BUFFER / width;
            NAME(combine_lines)(x, begins + o, columns, weights, width, buffer, width, part);
            stream(buffer, y + o * width, part * width * sizeof(REAL));
        }
    else
        for (ptrdiff_t o = 0; o < count; o++)
            for (ptrdiff_t j = 0, length; j < width; j += length) {
                const ptrdiff_t rest = width - j;
                length = rest <= BUFFER ? rest : rest < 2 * BUFFER ? BUFFER / 2 : BUFFER; /* vectors fit the last too */
                NAME(combine_lines)(x + j, begins + o, columns, weights, width, buffer, length, 1);
                stream(buffer, y + o * width + j, length * sizeof(REAL));
            }
}

#undef Reals
#undef VECTORS
