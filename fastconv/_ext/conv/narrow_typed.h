/* The tiles of narrow.h for vectors of BYTES bytes. Loops that are never empty end in `while`: otherwise the compiler
   keeps the sums in memory, around them. */

#include "simd/floats_typed.h"

#if BYTES == 64
#define OF_ONE OF_28
#define OF_TWO OF_14
#else
#define OF_ONE OF_13
#define OF_TWO OF_6
#endif

TARGET INLINE void NAME(outputs)(
    const int pixels, const int vectors, const int far, const float *x, ptrdiff_t step, const ptrdiff_t *at,
    ptrdiff_t runs, ptrdiff_t length, const float *w, const float *start, float *y, ptrdiff_t filters)
{
    Vector sums[14][2];
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++) {
            sums[p][v] = *(const Vector *)(start + v * LANES);
            if (!far)
                __builtin_prefetch(y + p * filters + v * LANES, 1); /* a store that misses would stall the next tile */
        }
    const ptrdiff_t *const end = at + runs * length;
    do {
        const float *values = x + *at;
        const float *const last = values + length;
        do {
            Vector weights[2];
            __asm__("" : "+r"(values)); /* or values of one tap are kept for the next ones, in memory */
            UNROLL for (int v = 0; v < vectors; v++)
                weights[v] = *(const Vector *)(w + v * LANES);
            UNROLL for (int p = 0; p < pixels; p++) {
                const float value = values[p * step];
                UNROLL for (int v = 0; v < vectors; v++)
                    sums[p][v] += value * weights[v];
            }
            w += vectors * LANES;
        } while (++values < last);
        at += length;
    } while (at < end);
    UNROLL for (int p = 0; p < pixels; p++)
        UNROLL for (int v = 0; v < vectors; v++) {
            float *to = y + p * filters + v * LANES;
            if (far)
                STREAM(to, sums[p][v]);
            else
                *(Vector *)to = sums[p][v];
        }
}

TARGET INLINE void NAME(products)(
    const int taps, const int vectors, const float *x, const ptrdiff_t *at, ptrdiff_t rows, ptrdiff_t x_row,
    ptrdiff_t pixels, ptrdiff_t step, const float *dy, ptrdiff_t dy_row, ptrdiff_t filters, const float *next,
    float *dw)
{
    Vector sums[28][2];
    const float *tap[28];
    UNROLL for (int t = 0; t < taps; t++) {
        tap[t] = x + at[t];
        UNROLL for (int v = 0; v < vectors; v++)
            sums[t][v] = (Vector){0};
    }
    ptrdiff_t row = 0;
    do {
        const float *values = dy;
        const float *const last = dy + pixels * filters;
        ptrdiff_t pixel = row;
        do {
            Vector vector[2];
            UNROLL for (int v = 0; v < vectors; v++) {
                vector[v] = *(const Vector *)(values + v * LANES);
                __builtin_prefetch(next + v * LINE, 0, 2);
            }
            UNROLL for (int t = 0; t < taps; t++) {
                const float value = tap[t][pixel];
                UNROLL for (int v = 0; v < vectors; v++)
                    sums[t][v] += value * vector[v];
            }
            next += vectors * LINE;
            pixel += step;
            values += filters;
        } while (values < last);
        row += x_row;
        dy += dy_row;
    } while (--rows);
    UNROLL for (int t = 0; t < taps; t++)
        UNROLL for (int v = 0; v < vectors; v++)
            *(Vector *)(dw + (t * vectors + v) * LANES) += sums[t][v];
}

#define OUTPUTS(P, V) NAME(outputs)(P, V, 0, x, step, at, runs, length, w, start, y, filters)
#define FAR_OUTPUTS(P, V) NAME(outputs)(P, V, 1, x, step, at, runs, length, w, start, y, filters)
#define PRODUCTS(T, V) NAME(products)(T, V, x, at, rows, x_row, pixels, step, dy, dy_row, filters, next, dw)

TARGET static void NAME(tile_outputs)(
    int vectors, ptrdiff_t pixels, const float *x, ptrdiff_t step, const ptrdiff_t *at, ptrdiff_t runs,
    ptrdiff_t length, const float *w, const float *start, float *y, ptrdiff_t filters, int far)
{
#if BYTES == 64
    if (far && vectors == 1)
        switch (pixels) { OF_14(1, FAR_OUTPUTS) }
    else if (far)
        switch (pixels) { OF_14(2, FAR_OUTPUTS) }
    else if (vectors == 1)
        switch (pixels) { OF_14(1, OUTPUTS) }
    else
        switch (pixels) { OF_14(2, OUTPUTS) }
#else
#if BYTES == 32
    if (far)
        switch (pixels) { OF_6(2, FAR_OUTPUTS) }
    else
#endif
    if (vectors == 1)
        switch (pixels) { OF_13(1, OUTPUTS) }
    else
        switch (pixels) { OF_6(2, OUTPUTS) }
#endif
}

TARGET static void NAME(row_outputs)(
    int vectors, ptrdiff_t pixels, const float *x, ptrdiff_t step, const ptrdiff_t *at, ptrdiff_t runs,
    ptrdiff_t length, const float *w, const float *start, float *y, ptrdiff_t filters, int far)
{
    const ptrdiff_t most = most_rows(BYTES, vectors);
    const ptrdiff_t tiles = (pixels + most - 1) / most;
    for (ptrdiff_t tile = 0, first = 0; tile < tiles; tile++) {
        const ptrdiff_t next = (tile + 1) * pixels / tiles;
        NAME(tile_outputs)(
            vectors, next - first, x + first * step, step, at, runs, length, w, start, y + first * filters, filters,
            far);
        first = next;
    }
}

TARGET static void NAME(add_products)(
    int vectors, ptrdiff_t taps, const float *x, const ptrdiff_t *at, ptrdiff_t rows, ptrdiff_t x_row,
    ptrdiff_t pixels, ptrdiff_t step, const float *dy, ptrdiff_t dy_row, ptrdiff_t filters, const float *next,
    float *dw)
{
    if (vectors == 2)
        switch (taps) { OF_TWO(2, PRODUCTS) }
    else
        switch (taps) { OF_ONE(1, PRODUCTS) }
}

#undef OUTPUTS
#undef FAR_OUTPUTS
#undef PRODUCTS
#undef OF_ONE
#undef OF_TWO
