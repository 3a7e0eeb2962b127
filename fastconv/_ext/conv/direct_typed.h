/* The tiles of direct.h for vectors of BYTES bytes. */

#include "simd/floats_typed.h"

#if BYTES == 64
#define EACH_SIZE_OF_ONE(call) switch (rows) { OF_14(1, call) }
#define EACH_SIZE_OF_TWO(call) switch (rows) { OF_14(2, call) }
#else
#define EACH_SIZE_OF_ONE(call) switch (rows) { OF_13(1, call) }
#define EACH_SIZE_OF_TWO(call) switch (rows) { OF_6(2, call) }
#endif
#define JOINED (BYTES == 64 ? 4 : 2) /* taps at a time, for one vector of filters: as many as registers are left */
#define LOAD(x) (*(const Vector *)(x))

TARGET INLINE void NAME(outputs)(
    const int rows, const int vectors, const float *x, const ptrdiff_t *at, Runs taps, const float *w,
    const float *start, const Epilogue *after, float *y, const ptrdiff_t *to, ptrdiff_t filters, int far)
{
    const Vector least = (float)after->least - (Vector){0};
    Vector sums[14][2];
    const float *pixel[14];
    UNROLL for (int p = 0; p < rows; p++) {
        pixel[p] = x + at[p];
        UNROLL for (int v = 0; v < vectors; v++)
            sums[p][v] = LOAD(start + v * LANES);
    }
    if (!far) /* a store that misses would stall the next tile */
        UNROLL for (int p = 0; p < rows; p++)
            UNROLL for (int v = 0; v < vectors; v++)
                __builtin_prefetch(y + to[p] + v * LANES, 1);
    ptrdiff_t run = 0;
    if (vectors == 1 && taps.length == 1)
        for (; run + JOINED <= taps.count; run += JOINED) {
            Vector weights[JOINED];
            UNROLL for (int t = 0; t < JOINED; t++)
                weights[t] = LOAD(w + t * LANES);
            w += JOINED * LANES;
            UNROLL for (int p = 0; p < rows; p++)
                UNROLL for (int t = 0; t < JOINED; t++)
                    sums[p][0] += pixel[p][taps.at[run + t]] * weights[t];
        }
    for (; run < taps.count; run++) {
        const ptrdiff_t first = taps.at[run], last = first + taps.length;
        ptrdiff_t tap = first;
        if (vectors == 1) /* a pixel's address costs as much as a multiplication */
            for (; tap + JOINED <= last; tap += JOINED) {
                Vector weights[JOINED];
                if (taps.count == 1 && tap % LINE == 0) /* x is read once: fetch the next tile's pixels */
                    UNROLL for (int p = 0; p < rows; p++)
                        __builtin_prefetch(x + at[p + rows] + tap);
                UNROLL for (int t = 0; t < JOINED; t++)
                    weights[t] = LOAD(w + t * LANES);
                w += JOINED * LANES;
                UNROLL for (int p = 0; p < rows; p++)
                    UNROLL for (int t = 0; t < JOINED; t++)
                        sums[p][0] += pixel[p][tap + t] * weights[t];
            }
        for (; tap < last; tap++) {
            Vector weights[2];
            if (taps.count == 1 && tap % LINE < rows) /* x is read once: fetch the next tile's pixels */
                __builtin_prefetch(x + at[tap % LINE + rows] + tap / LINE * LINE);
            UNROLL for (int v = 0; v < vectors; v++)
                weights[v] = LOAD(w + v * LANES);
            w += vectors * LANES;
            UNROLL for (int p = 0; p < rows; p++) {
                const float value = pixel[p][tap];
                UNROLL for (int v = 0; v < vectors; v++)
                    sums[p][v] += value * weights[v];
            }
        }
    }
    if (after->norm) {
        const float *mean = after->norm, *scale = mean + after->apart, *shift = scale + after->apart;
        UNROLL for (int p = 0; p < rows; p++)
            UNROLL for (int v = 0; v < vectors; v++) {
                Vector product = (sums[p][v] - LOAD(mean + v * LANES)) * LOAD(scale + v * LANES);
                ROUNDED(product);
                sums[p][v] = product + LOAD(shift + v * LANES);
            }
    }
    if (after->addend)
        UNROLL for (int p = 0; p < rows; p++)
            UNROLL for (int v = 0; v < vectors; v++)
                sums[p][v] += NAME(load)(y + to[p] + v * LANES + after->addend, filters - v * LANES);
    UNROLL for (int p = 0; p < rows; p++)
        UNROLL for (int v = 0; v < vectors; v++)
            NAME(put)(AT_LEAST(sums[p][v], least), y + to[p] + v * LANES, filters - v * LANES, far);
}

TARGET INLINE void NAME(weights)(
    const int rows, const int vectors, const int one_run, const float *x, const ptrdiff_t *at, ptrdiff_t pixels,
    const ptrdiff_t *taps, const float *dy, const ptrdiff_t *from, const float *soon, const ptrdiff_t *soon_at, float *dw,
    ptrdiff_t row, int add)
{
    Vector sums[14][2];
    const float *tap[14];
    UNROLL for (int t = 0; t < rows; t++) {
        tap[t] = x + taps[t];
        UNROLL for (int v = 0; v < vectors; v++)
            sums[t][v] = (Vector){0};
    }
    UNROLL for (int t = 0; t < rows; t++)
        for (ptrdiff_t next = 0; next < vectors * LANES; next += LINE)
            __builtin_prefetch(dw + t * row + next, 1);
    for (ptrdiff_t p = 0; p < pixels; p++) {
        const ptrdiff_t pixel = at[p];
        Vector values[2];
        UNROLL for (int v = 0; v < vectors; v++)
            values[v] = LOAD(dy + from[p] + v * LANES);
        __builtin_prefetch(soon + soon_at[p], 0, 2);
        UNROLL for (int t = 0; t < rows; t++) {
            const float value = one_run ? tap[0][pixel + t] : tap[t][pixel];
            UNROLL for (int v = 0; v < vectors; v++)
                sums[t][v] += value * values[v];
        }
    }
    if (add)
        UNROLL for (int t = 0; t < rows; t++)
            UNROLL for (int v = 0; v < vectors; v++)
                sums[t][v] += LOAD(dw + t * row + v * LANES);
    UNROLL for (int t = 0; t < rows; t++)
        UNROLL for (int v = 0; v < vectors; v++)
            *(Vector *)(dw + t * row + v * LANES) = sums[t][v];
}

#define OUTPUTS(P, V) NAME(outputs)(P, V, x, at, taps, w, start, after, y, to, filters, far)
#define WEIGHTS(P, V) NAME(weights)(P, V, 0, x, at, pixels, taps, dy, from, soon, soon_at, dw, row, add)
#define RUN_WEIGHTS(P, V) NAME(weights)(P, V, 1, x, at, pixels, taps, dy, from, soon, soon_at, dw, row, add)

#define TILE_OUTPUTS(name, EACH)                                                                                       \
    TARGET NOINLINE void NAME(name)(                                                                                   \
        int vectors, ptrdiff_t rows, const float *x, const ptrdiff_t *at, Runs taps, const float *w,                   \
        const float *start, const Epilogue *after, float *y, const ptrdiff_t *to, ptrdiff_t filters, int far)                    \
    {                                                                                                                  \
        EACH(OUTPUTS)                                                                                                  \
    }
TILE_OUTPUTS(outputs_of_one, EACH_SIZE_OF_ONE)
TILE_OUTPUTS(outputs_of_two, EACH_SIZE_OF_TWO)

TARGET static void NAME(tile_outputs)(
    int vectors, ptrdiff_t rows, const float *x, const ptrdiff_t *at, Runs taps, const float *w, const float *start,
    const Epilogue *after, float *y, const ptrdiff_t *to, ptrdiff_t filters, int far)
{
    (vectors == 2 ? NAME(outputs_of_two) : NAME(outputs_of_one))(
        vectors, rows, x, at, taps, w, start, after, y, to, filters, far);
}

TARGET static void NAME(tile_weights)(
    int vectors, ptrdiff_t rows, const float *x, const ptrdiff_t *at, ptrdiff_t pixels, const ptrdiff_t *taps,
    const float *dy, const ptrdiff_t *from, const float *soon, const ptrdiff_t *soon_at, float *dw, ptrdiff_t row,
    int add)
{
    const int one_run = taps[rows - 1] - taps[0] == rows - 1;
    if (vectors == 2 && one_run)
        EACH_SIZE_OF_TWO(RUN_WEIGHTS)
    else if (vectors == 2)
        EACH_SIZE_OF_TWO(WEIGHTS)
    else if (one_run)
        EACH_SIZE_OF_ONE(RUN_WEIGHTS)
    else
        EACH_SIZE_OF_ONE(WEIGHTS)
}

TARGET static void NAME(copy_rows)(
    int vectors, ptrdiff_t rows, const float *from, const ptrdiff_t *at, ptrdiff_t count, float *to)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++, to += LANES)
            if (count >= (v + 1) * LANES)
                *(Vector *)to = LOAD(from + at[r] + v * LANES);
            else
                for (ptrdiff_t lane = 0; lane < LANES; lane++)
                    to[lane] = v * LANES + lane < count ? from[at[r] + v * LANES + lane] : 0;
}

#undef OUTPUTS
#undef WEIGHTS
#undef RUN_WEIGHTS
#undef TILE_OUTPUTS
#undef EACH_SIZE_OF_ONE
#undef EACH_SIZE_OF_TWO
#undef JOINED
#undef LOAD
