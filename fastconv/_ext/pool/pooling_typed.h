/* The loops of pooling.h for one REAL, with INTEGER of its size, and vectors of BYTES bytes. */

#define LANES ((ptrdiff_t)(BYTES / sizeof(REAL)))
#define LAST(j, lanes) ((j) < (lanes) - LANES ? (j) : (lanes) - LANES)
#define Reals NAME(Reals)
#define Integers NAME(Integers)
#define Bytes NAME(Bytes)
#define Ints NAME(Ints)

typedef REAL Reals __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER Integers __attribute__((vector_size(BYTES)));
typedef unsigned char Bytes __attribute__((vector_size(BYTES / sizeof(REAL)), aligned(1), may_alias));
typedef int Ints __attribute__((vector_size(BYTES / sizeof(REAL) * sizeof(int)), aligned(sizeof(int)), may_alias));

/* A vector of x[0], x[across], … */
TARGET INLINE Reals NAME(load)(const REAL *x, ptrdiff_t across)
{
    Reals value;
    if (across == 1)
        return *(const Reals *)x;
    for (ptrdiff_t lane = 0; lane < LANES; lane++)
        value[lane] = x[lane * across];
    return value;
}

TARGET INLINE void NAME(store)(Reals value, REAL *y, ptrdiff_t apart)
{
    if (apart == 1)
        *(Reals *)y = value;
    else
        for (ptrdiff_t lane = 0; lane < LANES; lane++)
            y[lane * apart] = value[lane];
}

TARGET INLINE void NAME(store_taps)(Integers where, void *taps, int wide, ptrdiff_t at, ptrdiff_t apart)
{
    if (apart == 1 && wide)
        *(Ints *)((int *)taps + at) = __builtin_convertvector(where, Ints);
    else if (apart == 1)
        *(Bytes *)((unsigned char *)taps + at) = __builtin_convertvector(where, Bytes);
    else
        for (ptrdiff_t lane = 0; lane < LANES; lane++)
            if (wide)
                ((int *)taps)[at + lane * apart] = (int)where[lane];
            else
                ((unsigned char *)taps)[at + lane * apart] = (unsigned char)where[lane];
}

/* --- maximum ------------------------------------------------------------------------------------------------------ */

TARGET INLINE void NAME(max_step)(
    const REAL *x, ptrdiff_t across, REAL *y, void *taps, int wide, ptrdiff_t at, ptrdiff_t apart, const Box *box,
    const int vectors, const int two)
{
    const Integers zero = {0};
    Reals best[VECTORS];
    Integers where[VECTORS];
    for (int v = 0; v < vectors; v++) {
        best[v] = NAME(load)(x + v * LANES * across, across);
        where[v] = zero + (INTEGER)box->first;
    }
    for (ptrdiff_t i0 = 0; i0 < (two ? 1 : box->count[0]); i0++)
        for (ptrdiff_t i1 = 0; i1 < (two ? 2 : box->count[1]); i1++) {
            const REAL *line = x + i0 * box->step[0] + i1 * box->step[1];
            Integers tap = zero + (INTEGER)(box->first + i0 * box->tap[0] + i1 * box->tap[1]);
            for (ptrdiff_t i2 = 0; i2 < (two ? 2 : box->count[2]); i2++) {
                for (int v = 0; v < vectors; v++) {
                    Reals value = NAME(load)(line + v * LANES * across, across);
                    Integers take = ~(value <= best[v]) & (best[v] == best[v]);
                    best[v] = (Reals)((take & (Integers)value) | (~take & (Integers)best[v]));
                    where[v] = (take & tap) | (~take & where[v]);
                }
                line += box->step[2];
                tap += 1;
            }
        }
    for (int v = 0; v < vectors; v++) {
        NAME(store)(best[v], y + (at + v * LANES) * apart, apart);
        NAME(store_taps)(where[v], taps, wide, (at + v * LANES) * apart, apart);
    }
}

TARGET INLINE void NAME(max_pixel)(
    const REAL *x, ptrdiff_t across, REAL *y, void *taps, int wide, ptrdiff_t apart, const Box *box, ptrdiff_t lanes,
    const int two)
{
    ptrdiff_t j = 0;
    if (across == 1 && apart == 1) {
        for (; j + VECTORS * LANES <= lanes; j += VECTORS * LANES)
            NAME(max_step)(x + j, 1, y, taps, wide, j, 1, box, VECTORS, two);
        for (; j + 2 * LANES <= lanes; j += 2 * LANES)
            NAME(max_step)(x + j, 1, y, taps, wide, j, 1, box, 2, two);
        for (; j < lanes; j += LANES) {
            const ptrdiff_t at = LAST(j, lanes);
            NAME(max_step)(x + at, 1, y, taps, wide, at, 1, box, 1, two);
        }
        return;
    }
    for (; j < lanes; j += LANES) {
        const ptrdiff_t at = LAST(j, lanes);
        NAME(max_step)(x + at * across, across, y, taps, wide, at, apart, box, 1, two);
    }
}

TARGET static void NAME(max)(
    const REAL *x, ptrdiff_t across, REAL *y, void *taps, int wide, ptrdiff_t apart, const Box *box, ptrdiff_t lanes,
    ptrdiff_t pixels, ptrdiff_t right)
{
    if (!wide && IS_TWO(box)) {
        for (ptrdiff_t pixel = 0; pixel < pixels; pixel++, x += right, y += lanes, taps = (char *)taps + lanes)
            NAME(max_pixel)(x, across, y, taps, 0, apart, box, lanes, 1);
        return;
    }
    for (ptrdiff_t pixel = 0; pixel < pixels; pixel++, x += right, y += lanes) {
        NAME(max_pixel)(x, across, y, taps, wide, apart, box, lanes, 0);
        taps = (char *)taps + lanes * (wide ? sizeof(int) : 1);
    }
}

/* Of lanes that fill less than a vector: what it writes beyond them is the next pixel's, and that pixel's turn comes. */
TARGET static void NAME(max_over)(
    const REAL *x, REAL *y, void *taps, int wide, const Box *box, ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)
{
    if (!wide && IS_TWO(box)) {
        for (ptrdiff_t pixel = 0; pixel < pixels; pixel++)
            NAME(max_step)(x + pixel * right, 1, y, taps, 0, pixel * lanes, 1, box, 1, 1);
        return;
    }
    for (ptrdiff_t pixel = 0; pixel < pixels; pixel++)
        NAME(max_step)(x + pixel * right, 1, y, taps, wide, pixel * lanes, 1, box, 1, 0);
}

/* x at the tap that `taps` names += y: the gradient of a maximum. `apart`: no window overlaps another, and what stands in
   x need not be read. The first `done` lanes are left as they are. */
TARGET INLINE void NAME(put_step)(
    const REAL *y, const unsigned char *taps, REAL *x, const Box *box, ptrdiff_t done, const int apart,
    const int vectors, const int two)
{
    const Integers zero = {0};
    Integers gradient[VECTORS], where[VECTORS];
    for (int v = 0; v < vectors; v++) {
        gradient[v] = (Integers) * (const Reals *)(y + v * LANES);
        where[v] = __builtin_convertvector(*(const Bytes *)(taps + v * LANES), Integers);
        for (ptrdiff_t lane = 0; lane < done; lane++)
            where[v][lane] = -1;
    }
    for (ptrdiff_t i0 = 0; i0 < (two ? 1 : box->count[0]); i0++)
        for (ptrdiff_t i1 = 0; i1 < (two ? 2 : box->count[1]); i1++) {
            REAL *line = x + i0 * box->step[0] + i1 * box->step[1];
            Integers tap = zero + (INTEGER)(box->first + i0 * box->tap[0] + i1 * box->tap[1]);
            for (ptrdiff_t i2 = 0; i2 < (two ? 2 : box->count[2]); i2++) {
                for (int v = 0; v < vectors; v++) {
                    Reals value = (Reals)((where[v] == tap) & gradient[v]);
                    if (!apart)
                        value += *(const Reals *)(line + v * LANES);
                    *(Reals *)(line + v * LANES) = value;
                }
                line += box->step[2];
                tap += 1;
            }
        }
}

TARGET INLINE void NAME(put_pixel)(
    const REAL *y, const unsigned char *taps, REAL *x, const Box *box, const int apart, ptrdiff_t lanes, const int two)
{
    ptrdiff_t j = 0;
    for (; j + VECTORS * LANES <= lanes; j += VECTORS * LANES)
        NAME(put_step)(y + j, taps + j, x + j, box, 0, apart, VECTORS, two);
    for (; j + 2 * LANES <= lanes; j += 2 * LANES)
        NAME(put_step)(y + j, taps + j, x + j, box, 0, apart, 2, two);
    for (; j < lanes; j += LANES) {
        const ptrdiff_t at = LAST(j, lanes);
        NAME(put_step)(y + at, taps + at, x + at, box, apart ? 0 : j - at, apart, 1, two);
    }
}

TARGET static void NAME(put)(
    const REAL *y, const unsigned char *taps, REAL *x, const Box *box, int apart, ptrdiff_t lanes, ptrdiff_t pixels,
    ptrdiff_t right)
{
    for (ptrdiff_t pixel = 0; pixel < pixels; pixel++, x += right, y += lanes, taps += lanes)
        if (apart && IS_TWO(box))
            NAME(put_pixel)(y, taps, x, box, 1, lanes, 1);
        else if (apart)
            NAME(put_pixel)(y, taps, x, box, 1, lanes, 0);
        else
            NAME(put_pixel)(y, taps, x, box, 0, lanes, 0);
}

/* As `max_over`, where the windows' columns are all of x's, which are written one after the other. */
TARGET static void NAME(put_over)(
    const REAL *y, const unsigned char *taps, REAL *x, const Box *box, ptrdiff_t lanes, ptrdiff_t pixels,
    ptrdiff_t right)
{
    if (IS_TWO(box)) {
        for (ptrdiff_t pixel = 0; pixel < pixels; pixel++, x += right, y += lanes, taps += lanes)
            NAME(put_step)(y, taps, x, box, 0, 1, 1, 1);
        return;
    }
    for (ptrdiff_t pixel = 0; pixel < pixels; pixel++, x += right, y += lanes, taps += lanes)
        NAME(put_step)(y, taps, x, box, 0, 1, 1, 0);
}

/* --- sum ---------------------------------------------------------------------------------------------------------- */

TARGET INLINE void NAME(sum_step)(
    const REAL *x, ptrdiff_t across, REAL *y, ptrdiff_t apart, const Box *box, ptrdiff_t divisor, const int vectors,
    const int many)
{
    Reals sum[VECTORS], upper[LEVELS][VECTORS];
    ptrdiff_t terms = 0;
    for (int v = 0; v < vectors; v++) {
        sum[v] = (Reals){0};
        for (int level = 0; many && level < LEVELS; level++)
            upper[level][v] = (Reals){0};
    }
    for (ptrdiff_t i0 = 0; i0 < box->count[0]; i0++)
        for (ptrdiff_t i1 = 0; i1 < box->count[1]; i1++) {
            const REAL *line = x + i0 * box->step[0] + i1 * box->step[1];
            for (ptrdiff_t i2 = 0; i2 < box->count[2]; i2++) {
                for (int v = 0; v < vectors; v++)
                    sum[v] += NAME(load)(line + v * LANES * across, across);
                line += box->step[2];
                if (many && ++terms % SHORT == 0) {
                    int level = 0;
                    for (int v = 0; v < vectors; v++) {
                        upper[0][v] += sum[v];
                        sum[v] = (Reals){0};
                    }
                    for (ptrdiff_t n = terms / SHORT; n % SHORT == 0 && level < LEVELS - 1; n /= SHORT, level++)
                        for (int v = 0; v < vectors; v++) {
                            upper[level + 1][v] += upper[level][v];
                            upper[level][v] = (Reals){0};
                        }
                }
            }
        }
    for (int v = 0; v < vectors; v++) {
        for (int level = 0; many && level < LEVELS; level++)
            sum[v] += upper[level][v];
        if ((divisor & (divisor - 1)) == 0) /* a power of two: the product is exact too */
            sum[v] *= 1 / (REAL)divisor;
        else
            sum[v] /= (REAL)divisor;
        NAME(store)(sum[v], y + v * LANES * apart, apart);
    }
}

TARGET INLINE void NAME(sum_pixel)(
    const REAL *x, ptrdiff_t across, REAL *y, ptrdiff_t apart, const Box *box, ptrdiff_t divisor, ptrdiff_t lanes)
{
    const int many = box->count[0] * box->count[1] * box->count[2] > SHORT;
    ptrdiff_t j = 0;
    if (across == 1 && apart == 1 && many) {
        for (; j + VECTORS * LANES <= lanes; j += VECTORS * LANES)
            NAME(sum_step)(x + j, 1, y + j, 1, box, divisor, VECTORS, 1);
    } else if (across == 1 && apart == 1) {
        for (; j + VECTORS * LANES <= lanes; j += VECTORS * LANES)
            NAME(sum_step)(x + j, 1, y + j, 1, box, divisor, VECTORS, 0);
        for (; j + 2 * LANES <= lanes; j += 2 * LANES)
            NAME(sum_step)(x + j, 1, y + j, 1, box, divisor, 2, 0);
        for (; j < lanes; j += LANES) {
            const ptrdiff_t at = LAST(j, lanes);
            NAME(sum_step)(x + at, 1, y + at, 1, box, divisor, 1, 0);
        }
        return;
    }
    for (; j < lanes; j += LANES) {
        const ptrdiff_t at = LAST(j, lanes);
        if (many)
            NAME(sum_step)(x + at * across, across, y + at * apart, apart, box, divisor, 1, 1);
        else
            NAME(sum_step)(x + at * across, across, y + at * apart, apart, box, divisor, 1, 0);
    }
}

/* As `max_over`. */
TARGET static void NAME(sum_over)(
    const REAL *x, REAL *y, const Box *box, ptrdiff_t divisor, ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)
{
    if (box->count[0] * box->count[1] * box->count[2] > SHORT) {
        for (ptrdiff_t pixel = 0; pixel < pixels; pixel++)
            NAME(sum_step)(x + pixel * right, 1, y + pixel * lanes, 1, box, divisor, 1, 1);
        return;
    }
    for (ptrdiff_t pixel = 0; pixel < pixels; pixel++)
        NAME(sum_step)(x + pixel * right, 1, y + pixel * lanes, 1, box, divisor, 1, 0);
}

TARGET static void NAME(sum)(
    const REAL *x, ptrdiff_t across, REAL *y, ptrdiff_t apart, const Box *box, ptrdiff_t divisor, ptrdiff_t lanes,
    ptrdiff_t pixels, ptrdiff_t right)
{
    for (ptrdiff_t pixel = 0; pixel < pixels; pixel++, x += right, y += lanes)
        NAME(sum_pixel)(x, across, y, apart, box, divisor, lanes);
}

#undef LAST
#undef Reals
#undef Integers
#undef Bytes
#undef Ints
