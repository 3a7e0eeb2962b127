/* The tiles of planar.h for vectors of BYTES bytes. */

#include "simd/floats_typed.h"

#if BYTES == 64
#define EACH_SIZE(call)                                                                                                \
    switch (sums * 8 + vectors) {                                                                                      \
        EACH_OF_4(1, call) EACH_OF_4(2, call) EACH_OF_4(3, call) EACH_OF_4(4, call) EACH_OF_4(5, call)                 \
        EACH_OF_4(6, call) EACH_OF_3(7, call) EACH_OF_3(8, call) EACH_OF_3(9, call)                                    \
    }
#else
#define EACH_SIZE(call)                                                                                                \
    switch (sums * 8 + vectors) {                                                                                      \
        EACH_OF_3(1, call) EACH_OF_3(2, call) EACH_OF_3(3, call) EACH_OF_3(4, call) EACH_OF_2(5, call)                 \
        EACH_OF_2(6, call)                                                                                             \
    }
#endif
#define EACH_OF_2(M, call)                                                                                             \
    case M * 8 + 1: call(M, 1); break;                                                                                 \
    case M * 8 + 2: call(M, 2); break;
#define EACH_OF_3(M, call)                                                                                             \
    EACH_OF_2(M, call)                                                                                                 \
    case M * 8 + 3: call(M, 3); break;
#define EACH_OF_4(M, call)                                                                                             \
    EACH_OF_3(M, call)                                                                                                 \
    case M * 8 + 4: call(M, 4); break;

TARGET INLINE void NAME(sums)(
    const int sums, const int vectors, const float *x, const ptrdiff_t *at, ptrdiff_t runs, ptrdiff_t length,
    ptrdiff_t pitch, const float *w, const ptrdiff_t *taps, ptrdiff_t step, const float *start, float *y,
    ptrdiff_t line, const float *next)
{
    Vector sum[9][4];
    UNROLL for (int m = 0; m < sums; m++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[m][v] = (Vector){0} + start[m];
    const ptrdiff_t *const end = at + runs;
    if (runs > 0)
        do {
            const float *columns = x + *at++, *weights = w + *taps++;
            const float *const last = columns + length * pitch;
            do {
                Vector values[4];
                __builtin_prefetch(next, 0, 2);
                next += LINE;
                UNROLL for (int v = 0; v < vectors; v++)
                    values[v] = IN_REGISTER(*(const Vector *)(columns + v * LANES));
                UNROLL for (int m = 0; m < sums; m++)
                    UNROLL for (int v = 0; v < vectors; v++)
                        sum[m][v] += weights[m] * values[v];
                columns += pitch;
                weights += step;
            } while (columns < last);
        } while (at < end);
    UNROLL for (int m = 0; m < sums; m++)
        UNROLL for (int v = 0; v < vectors; v++)
            *(Vector *)(y + m * line + v * LANES) = sum[m][v];
}

TARGET INLINE void NAME(four_planes)(const float *const *pixels, ptrdiff_t channel, ptrdiff_t count, float *planes)
{
    Vector columns[4];
    NAME(transpose_rows)(pixels, channel, columns);
    for (int k = 0; k < 4; k++)
        *(Vector *)(planes + (channel + k) * count) = columns[k];
}

TARGET static void NAME(to_planes)(
    const float *x, const ptrdiff_t *at, const float *zeros, ptrdiff_t channels, ptrdiff_t count, float *planes)
{
    for (ptrdiff_t j = 0; j < count; j += LANES, planes += LANES) {
        const float *pixels[LANES];
        ptrdiff_t k = 0, elsewhere = 0;
        if (channels == 1) {
            for (int i = 0; i < LANES; i++)
                elsewhere |= at[j + i] - at[j] - i;
            if (at[j] >= 0 && !elsewhere) {
                *(Vector *)planes = *(const Vector *)(x + at[j]);
                continue;
            }
        }
        for (int i = 0; i < LANES; i++)
            pixels[i] = at[j + i] < 0 ? zeros : x + at[j + i];
        if (channels < 4)
            for (; k < channels; k++)
                for (int i = 0; i < LANES; i++)
                    planes[k * count + i] = pixels[i][k];
        for (; k + 4 <= channels; k += 4)
            NAME(four_planes)(pixels, k, count, planes);
        if (k < channels)
            NAME(four_planes)(pixels, channels - 4, count, planes);
    }
}

TARGET static void NAME(clear_lines)(float *x, ptrdiff_t line, ptrdiff_t lines, ptrdiff_t count)
{
    const Vector zeros = IN_REGISTER((Vector){0}); /* a few stores, no call of memset */
    for (ptrdiff_t i = 0; i < lines; i++)
        for (ptrdiff_t j = 0; j < count; j += LANES)
            *(Vector *)(x + i * line + j) = zeros;
}

TARGET INLINE void NAME(lines)(
    const int vectors, const float *x, const ptrdiff_t *at, ptrdiff_t terms, float start, float *y)
{
    Vector sum[4];
    for (int v = 0; v < vectors; v++)
        sum[v] = (Vector){0} + start;
    for (ptrdiff_t t = 0; t < terms; t++)
        for (int v = 0; v < vectors; v++)
            sum[v] += *(const Vector *)(x + at[t] + v * LANES);
    for (int v = 0; v < vectors; v++)
        *(Vector *)(y + v * LANES) = sum[v];
}

TARGET static void NAME(add_lines)(
    const float *x, const ptrdiff_t *at, ptrdiff_t terms, float start, ptrdiff_t count, float *y)
{
    ptrdiff_t j = 0;
    for (; j + 4 * LANES <= count; j += 4 * LANES)
        NAME(lines)(4, x + j, at, terms, start, y + j);
    for (; j < count; j += LANES)
        NAME(lines)(1, x + j, at, terms, start, y + j);
}

/* Four planes from `first` on of the columns j ... j + 3. */
TARGET INLINE void NAME(four_pixels)(
    const float *planes, ptrdiff_t line, ptrdiff_t channels, ptrdiff_t first, ptrdiff_t j, float *pixels)
{
    Four rows[4], columns[4];
    for (int k = 0; k < 4; k++)
        rows[k] = *(const Four *)(planes + (first + k < channels ? first + k : first) * line + j);
    transpose_16(rows, columns);
    for (int i = 0; i < 4; i++)
        *(Four *)(pixels + (j + i) * channels + first) = columns[i];
}

#if BYTES > 16
#define FOUR(vector, i) __builtin_shufflevector(vector, vector, i, (i) + 1, (i) + 2, (i) + 3)
/* The same of LANES columns. Pixels are written in order: what reaches into the next one is written over. */
TARGET INLINE void NAME(pixels)(
    const float *planes, ptrdiff_t line, ptrdiff_t channels, ptrdiff_t first, ptrdiff_t j, float *pixels)
{
    Vector rows[4], columns[4];
    for (int k = 0; k < 4; k++)
        rows[k] = *(const Vector *)(planes + (first + k < channels ? first + k : first) * line + j);
    NAME(transpose)(rows, columns);
    pixels += j * channels + first;
#define FOUR_PIXELS(i)                                                                                                 \
    for (int n = 0; n < 4; n++, pixels += channels)                                                                    \
        *(Four *)pixels = FOUR(columns[n], i);
    FOUR_PIXELS(0)
    FOUR_PIXELS(4)
#if BYTES == 64
    FOUR_PIXELS(8)
    FOUR_PIXELS(12)
#endif
#undef FOUR_PIXELS
}
#undef FOUR
#endif

TARGET static void NAME(from_planes)(
    const float *planes, ptrdiff_t line, ptrdiff_t channels, ptrdiff_t count, float *pixels)
{
    ptrdiff_t j = 0;
    if (channels == 1) {
        memcpy(pixels, planes, count * sizeof(float));
        return;
    }
    if (channels < 4) { /* a pixel's fourth lane is written over by the next */
#if BYTES > 16
        for (; (j + LANES - 1) * channels + 4 <= count; j += LANES)
            NAME(pixels)(planes, line, channels, 0, j, pixels);
#endif
        for (; (j + 3) * channels + 4 <= count; j += 4)
            NAME(four_pixels)(planes, line, channels, 0, j, pixels);
    } else {
#if BYTES > 16
        for (; (j + LANES) * channels <= count; j += LANES) {
            for (ptrdiff_t k = 0; k + 4 < channels; k += 4)
                NAME(pixels)(planes, line, channels, k, j, pixels);
            NAME(pixels)(planes, line, channels, channels - 4, j, pixels);
        }
#endif
        for (; (j + 4) * channels <= count; j += 4) {
            for (ptrdiff_t k = 0; k + 4 < channels; k += 4)
                NAME(four_pixels)(planes, line, channels, k, j, pixels);
            NAME(four_pixels)(planes, line, channels, channels - 4, j, pixels);
        }
    }
    for (ptrdiff_t done = j * channels; done < count; j++)
        for (ptrdiff_t k = 0; k < channels && done < count; k++)
            pixels[done++] = planes[k * line + j];
}

#define SUMS(M, V) NAME(sums)(M, V, x, at, runs, length, pitch, w, taps, step, start, y, line, next)

TARGET static void NAME(tile_sums)(
    ptrdiff_t sums, ptrdiff_t vectors, const float *x, const ptrdiff_t *at, ptrdiff_t runs, ptrdiff_t length,
    ptrdiff_t pitch, const float *w, const ptrdiff_t *taps, ptrdiff_t step, const float *start, float *y,
    ptrdiff_t line, const float *next)
{
    EACH_SIZE(SUMS)
}

#undef SUMS
#undef EACH_SIZE
#undef EACH_OF_2
#undef EACH_OF_3
#undef EACH_OF_4
