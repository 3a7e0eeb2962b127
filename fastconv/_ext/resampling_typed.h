/* The loops of resampling.h for one REAL and vectors of BYTES bytes. */

#define LANES ((ptrdiff_t)(BYTES / sizeof(REAL)))
#define Reals NAME(Reals)
#define VECTORS 4 /* at a time, then 1 */
#define Piece NAME(Piece)
#define PIECE ((ptrdiff_t)(16 / sizeof(REAL)))

typedef REAL Reals __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

#if BYTES >= 16
typedef REAL Piece __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));

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
    else if (y_step == 1) { /* by 16 bytes: instructions that gather are slower */
        ptrdiff_t o = 0;
        for (; o + PIECE <= count; o += PIECE, x += PIECE * x_step) {
            Piece values;
            for (int i = 0; i < PIECE; i++)
                values[i] = x[i * x_step];
            *(Piece *)(y + o) = values;
        }
        for (; o < count; o++, x += x_step)
            y[o] = *x;
    } else
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

#if BYTES == 16
/* Runs of fewer elements than a vector, one behind the other: what is written beyond a run is the next one's. */
TARGET static void NAME(copy_short)(const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t run, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count - 1; o++)
        *(Reals *)(y + o * run) = *(const Reals *)(x + o * x_step);
    memcpy(y + (count - 1) * run, x + (count - 1) * x_step, run * sizeof(REAL));
}

/* Those of them that `columns` names; x has `length` elements. */
TARGET static void NAME(pick_short)(
    const REAL *x, ptrdiff_t length, const ptrdiff_t *columns, REAL *y, ptrdiff_t run, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count; o++) {
        const ptrdiff_t at = columns[o] * run;
        if (at + LANES <= length && o < count - 1)
            *(Reals *)(y + o * run) = *(const Reals *)(x + at);
        else
            memcpy(y + o * run, x + at, run * sizeof(REAL));
    }
}
#endif

#if BYTES >= 16
TARGET static void NAME(pick_singles)(const REAL *restrict x, const ptrdiff_t *restrict columns, REAL *restrict y,
    ptrdiff_t count)
{
    ptrdiff_t o = 0;
    for (; o + PIECE <= count; o += PIECE) {
        Piece values;
        for (int i = 0; i < PIECE; i++)
            values[i] = x[columns[o + i]];
        *(Piece *)(y + o) = values;
    }
    for (; o < count; o++)
        y[o] = x[columns[o]];
}

/* Each element twice. */
TARGET static void NAME(double_singles)(const REAL *restrict x, REAL *restrict y, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count; o++)
        y[2 * o] = y[2 * o + 1] = x[o];
}

TARGET INLINE void NAME(picked)(
    const REAL *x, const ptrdiff_t *columns, REAL *y, const ptrdiff_t run, ptrdiff_t count)
{
    for (ptrdiff_t o = 0; o < count; o++, y += run)
        NAME(runs)(x + columns[o] * run, 0, y, 0, run, 1);
}

/* Runs of LANES elements or more. */
TARGET static void NAME(pick_runs)(
    const REAL *x, const ptrdiff_t *columns, REAL *y, ptrdiff_t run, ptrdiff_t count)
{
    if (run == LANES)
        NAME(picked)(x, columns, y, LANES, count);
    else if (run == 2 * LANES)
        NAME(picked)(x, columns, y, 2 * LANES, count);
    else
        NAME(picked)(x, columns, y, run, count);
}
#endif

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
    Writer *writer, const REAL *x, const ptrdiff_t *begins, const ptrdiff_t *columns, const double *weights, REAL *y,
    ptrdiff_t width, ptrdiff_t count)
{
    const ptrdiff_t most = HELD / sizeof(REAL);
    if (!writer)
        NAME(combine_lines)(x, begins, columns, weights, width, y, width, count);
    else if (width <= most)
        for (ptrdiff_t o = 0, part; o < count; o += part) {
            part = count - o < most / width ? count - o : most / width;
            NAME(combine_lines)(x, begins + o, columns, weights, width, writer_room(writer), width, part);
            writer_take(writer, part * width * sizeof(REAL));
        }
    else
        for (ptrdiff_t o = 0; o < count; o++)
            for (ptrdiff_t j = 0, length; j < width; j += length) {
                const ptrdiff_t rest = width - j;
                length = rest <= most ? rest : rest < 2 * most ? most / 2 : most; /* vectors fit the last too */
                NAME(combine_lines)(x + j, begins + o, columns, weights, width, writer_room(writer), length, 1);
                writer_take(writer, length * sizeof(REAL));
            }
}

#undef Reals
#undef VECTORS
#undef Piece
#undef PIECE
