/* The tiles of grouped.h for vectors of BYTES bytes. */

#if BYTES == 64
#define WIDE 4 /* sources of a tile of a gradient to the weights */
#else
#define WIDE 2
#endif
#include "simd/floats_typed.h"

#define Ints NAME(Ints)

typedef int Ints __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* Of the vector at x the element index[lane] in every lane. */
TARGET INLINE Vector NAME(pick)(const float *x, Ints index)
{
#if !defined(__clang__)
    return __builtin_shuffle(*(const Vector *)x, index);
#elif defined(__x86_64__) && BYTES == 64
    return (Vector)_mm512_permutexvar_ps((__m512i)index, _mm512_loadu_ps(x));
#elif defined(__x86_64__)
    return (Vector)_mm256_permutevar8x32_ps(_mm256_loadu_ps(x), (__m256i)index);
#else
    Vector picked;
    UNROLL
    for (ptrdiff_t lane = 0; lane < LANES; lane++)
        picked[lane] = x[index[lane] & (LANES - 1)];
    return picked;
#endif
}

/* Of the two vectors at x the element index[lane] in every lane. */
TARGET INLINE Vector NAME(pick_of_two)(const float *x, Ints index)
{
#if !defined(__clang__)
    return __builtin_shuffle(*(const Vector *)x, *(const Vector *)(x + LANES), index);
#elif defined(__x86_64__) && BYTES == 64
    return (Vector)_mm512_permutex2var_ps(_mm512_loadu_ps(x), (__m512i)index, _mm512_loadu_ps(x + LANES));
#elif defined(__x86_64__)
    const __m256 second = (__m256)_mm256_slli_epi32((__m256i)index, 28); /* signs: of the lanes that are the second's */
    return (Vector)_mm256_blendv_ps((__m256)NAME(pick)(x, index), (__m256)NAME(pick)(x + LANES, index), second);
#else
    Vector picked;
    UNROLL
    for (ptrdiff_t lane = 0; lane < LANES; lane++)
        picked[lane] = x[index[lane] & (2 * LANES - 1)];
    return picked;
#endif
}

TARGET static void NAME(copy_records)(
    const float *x, const float *end, ptrdiff_t pitch, ptrdiff_t pixels, const ptrdiff_t *source, ptrdiff_t step,
    const int *order, ptrdiff_t blocks, int vectors, float *to, ptrdiff_t block)
{
    const ptrdiff_t record = vectors * LANES, read = order ? 2 * LANES : record;
    for (ptrdiff_t p = 0; p < pixels; p++, x += pitch, to += record)
        for (ptrdiff_t b = 0; b < blocks; b++) {
            const float *from = x + source[b * step];
            float *out = to + b * block;
            float last[2 * LANES];
            if (from + read > end) {
                memcpy(last, from, (end - from) * sizeof(float));
                memset(last + (end - from), 0, (read - (end - from)) * sizeof(float));
                from = last;
            }
            for (ptrdiff_t v = 0; v < record; v += LANES)
                *(Vector *)(out + v) = order ? NAME(pick_of_two)(from, *(const Ints *)(order + v))
                                            : *(const Vector *)(from + v);
        }
}

/* --- y ------------------------------------------------------------------------------------------------------------ */

/* sums[p] += what `taps` neighbouring taps, records `pitch` apart, give: each record is picked from once. */
TARGET INLINE void NAME(slide)(
    Vector *sums, const float *x, ptrdiff_t pitch, const float *w, ptrdiff_t w_tap, const Picks *picks,
    const int outputs, const int taps)
{
    for (ptrdiff_t first = 0; first < picks->sources; first += picks->each, x += LANES) {
        const ptrdiff_t rest = picks->sources - first;
        Ints index = *(const Ints *)picks->begin;
        for (ptrdiff_t j = rest < picks->each ? rest : picks->each; j > 0; j--, index += 1, w += LANES) {
            Vector weight[SLIDE];
            UNROLL
            for (int t = 0; t < taps; t++)
                weight[t] = *(const Vector *)(w + t * w_tap);
            const float *pixel = AGAIN(x);
            UNROLL
            for (int i = 0; i < outputs + taps - 1; i++) {
                const Vector value = NAME(pick)(pixel + i * pitch, index);
                UNROLL
                for (int t = 0; t < taps; t++)
                    if (i - t >= 0 && i - t < outputs)
                        sums[i - t] += weight[t] * value;
            }
        }
    }
}

TARGET INLINE void NAME(tile)(
    const float *x, const float *w, const Picks *picks, Vector start, float *y, ptrdiff_t pixels, ptrdiff_t lanes,
    const Line *line, const int outputs, const int vectors)
{
    const ptrdiff_t taps = line->taps, record = vectors * LANES;
    const ptrdiff_t most = line->x_tap == record && line->x_pixel == record ? SLIDE : 1;
    Vector sums[16];
    UNROLL
    for (int p = 0; p < outputs; p++) {
        sums[p] = start;
        if (!line->far)
            __builtin_prefetch(y + p * line->y_pixel, 1);
    }
    for (ptrdiff_t i0 = 0; i0 < line->count[0]; i0++)
        for (ptrdiff_t i1 = 0; i1 < line->count[1]; i1++) {
            const float *from = x + i0 * line->x_step[0] + i1 * line->x_step[1];
            const float *weights = w + i0 * line->w_step[0] + i1 * line->w_step[1];
            for (ptrdiff_t tap = 0, some; tap < taps; tap += some) {
                some = taps - tap < most ? taps - tap : most;
                if (some == 3)
                    NAME(slide)(sums, from, record, weights, line->w_tap, picks, outputs, 3);
                else if (some == 2)
                    NAME(slide)(sums, from, record, weights, line->w_tap, picks, outputs, 2);
                else
                    NAME(slide)(sums, from, line->x_pixel, weights, line->w_tap, picks, outputs, 1);
                from += some * line->x_tap;
                weights += some * line->w_tap;
            }
        }
    UNROLL
    for (int p = 0; p < outputs; p++)
        if (p < pixels)
            NAME(put)(sums[p], y + p * line->y_pixel, lanes, line->far);
}

TARGET INLINE void NAME(tiles)(
    const float *x, const float *w, const Picks *picks, const float *start, float *y, ptrdiff_t pixels,
    ptrdiff_t lanes, const Line *line, const int outputs, const int vectors)
{
    for (ptrdiff_t p = 0; p < pixels; p += outputs)
        NAME(tile)(x + p * line->x_pixel, w, picks, *(const Vector *)start, y + p * line->y_pixel, pixels - p,
                   lanes, line, outputs, vectors);
}

#define TILES(outputs)                                                                                                 \
    {                                                                                                                  \
        if (picks->each == picks->sources)                                                                             \
            NAME(tiles)(x, w, picks, start, y, pixels, lanes, line, outputs, 1);                                       \
        else                                                                                                           \
            NAME(tiles)(x, w, picks, start, y, pixels, lanes, line, outputs, 2);                                       \
        return;                                                                                                        \
    }

TARGET static void NAME(outputs_of_line)(
    ptrdiff_t width, const float *x, const float *w, const Picks *picks, const float *start, float *y,
    ptrdiff_t pixels, ptrdiff_t lanes, const Line *line)
{
#if BYTES == 64
    if (width > 14)
        TILES(16)
    if (width > 12)
        TILES(14)
    if (width > 10)
        TILES(12)
    if (width > 8)
        TILES(10)
#endif
    if (width > 7)
        TILES(8)
    if (width > 6)
        TILES(7)
    if (width > 4)
        TILES(6)
    TILES(4)
}
#undef TILES

/* --- dw ----------------------------------------------------------------------------------------------------------- */

TARGET INLINE void NAME(products)(
    const float *x, const float *dy, const Picks *picks, ptrdiff_t first, float *dw, const Lines *lines,
    const int taps, const int sources)
{
    Vector sums[SLIDE][8];
    ptrdiff_t from[8];
    Ints index[8];
    UNROLL
    for (int j = 0; j < sources; j++) {
        const ptrdiff_t vector = (first + j) / picks->each;
        index[j] = *(const Ints *)picks->begin + (int)(first + j - vector * picks->each);
        from[j] = vector * LANES;
        UNROLL
        for (int t = 0; t < taps; t++)
            sums[t][j] = (Vector){0};
    }
    for (ptrdiff_t q = 0; q < lines->lines; q++) {
        const float *value = x + q * lines->x_line, *d = dy + q * lines->dy_line;
        for (ptrdiff_t p = 0; p < lines->pixels; p++, value += lines->x_pixel, d += lines->dy_pixel) {
            Vector values[SLIDE];
            UNROLL
            for (int t = 0; t < taps; t++)
                values[t] = *(const Vector *)(value + t * lines->x_tap);
            UNROLL
            for (int j = 0; j < sources; j++) {
                const Vector picked = NAME(pick)(d + from[j], index[j]);
                UNROLL
                for (int t = 0; t < taps; t++)
                    sums[t][j] += values[t] * picked;
            }
        }
    }
    UNROLL
    for (int t = 0; t < taps; t++)
        UNROLL
        for (int j = 0; j < sources; j++)
            *(Vector *)(dw + t * lines->w_tap + j * LANES) += sums[t][j];
}

TARGET INLINE void NAME(products_of)(
    const float *x, const float *dy, const Picks *picks, float *dw, const Lines *lines, const int taps)
{
    const int most = taps == 1 ? 2 * WIDE : WIDE;
    ptrdiff_t j = 0;
    for (; j + most <= picks->sources; j += most)
        NAME(products)(x, dy, picks, j, dw + j * LANES, lines, taps, most);
    for (; j + 2 <= picks->sources; j += 2)
        NAME(products)(x, dy, picks, j, dw + j * LANES, lines, taps, 2);
    if (j < picks->sources)
        NAME(products)(x, dy, picks, j, dw + j * LANES, lines, taps, 1);
}

TARGET static void NAME(products_of_lines)(
    const float *x, const float *dy, const Picks *picks, float *dw, ptrdiff_t taps, const Lines *lines)
{
    for (; taps >= SLIDE; taps -= SLIDE, x += SLIDE * lines->x_tap, dw += SLIDE * lines->w_tap)
        NAME(products_of)(x, dy, picks, dw, lines, SLIDE);
    if (taps == 2)
        NAME(products_of)(x, dy, picks, dw, lines, 2);
    else if (taps == 1)
        NAME(products_of)(x, dy, picks, dw, lines, 1);
}

#undef WIDE
#undef Ints
