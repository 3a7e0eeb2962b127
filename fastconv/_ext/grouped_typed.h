/* The tiles of grouped.h for vectors of BYTES bytes. */

#if BYTES == 64
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define WIDE 4 /* sources of a tile of a gradient to the weights */
#else
#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2,fma")))
#else
#define TARGET
#endif
#define WIDE 2
#endif
#define LANES ((ptrdiff_t)(BYTES / sizeof(float)))
#define Reals NAME(Reals)
#define Ints NAME(Ints)

typedef float Reals __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* Of the record at x the element index[lane] in every lane. Of two vectors, `second` says which elements are taken from
   the second one: no two that are picked at a time have the same place. */
TARGET INLINE Reals NAME(pick)(const float *x, Ints index, Ints second, const int vectors)
{
    Reals value = *(const Reals *)x;
#if BYTES == 64
    if (vectors == 2) /* a masked load, which leaves the multipliers' ports alone */
        value = (Reals)_mm512_mask_loadu_ps((__m512)value, _mm512_movepi32_mask((__m512i)second), x + LANES);
#else
    if (vectors == 2)
        value = (Reals)(((Ints)value & ~second) | (*(const Ints *)(x + LANES) & second));
#endif
#if defined(__clang__)
    Reals picked;
    for (ptrdiff_t lane = 0; lane < LANES; lane++)
        picked[lane] = value[index[lane] % LANES];
    return picked;
#else
    return __builtin_shuffle(value, index);
#endif
}

/* The first `count` lanes of a vector. far: all of them, past the caches. */
TARGET INLINE void NAME(store)(Reals value, float *y, ptrdiff_t count, int far)
{
#if BYTES == STREAMED
    if (far) {
        _mm512_stream_ps(y, (__m512)value);
        return;
    }
#endif
    if (count >= LANES) {
        *(Reals *)y = value;
        return;
    }
    float lanes[LANES] __attribute__((aligned(BYTES)));
    ptrdiff_t lane = 0;
    *(Reals *)lanes = value;
    for (ptrdiff_t part = LANES / 2; part > 0; part /= 2)
        if (count & part) {
            memcpy(y + lane, lanes + lane, part * sizeof(float));
            lane += part;
        }
}

TARGET static void NAME(copy_records)(
    const float *x, const float *end, ptrdiff_t pitch, ptrdiff_t pixels, const ptrdiff_t *source, ptrdiff_t step,
    ptrdiff_t blocks, int vectors, float *to, ptrdiff_t block)
{
    const ptrdiff_t record = vectors * LANES;
    for (ptrdiff_t p = 0; p < pixels; p++, x += pitch, to += record)
        for (ptrdiff_t b = 0; b < blocks; b++) {
            const float *from = x + source[b * step];
            float *out = to + b * block;
            if (from + record > end)
                memcpy(out, from, (end - from) * sizeof(float));
            else
                for (ptrdiff_t v = 0; v < vectors; v++)
                    *(Reals *)(out + v * LANES) = *(const Reals *)(from + v * LANES);
        }
}

/* --- y ------------------------------------------------------------------------------------------------------------ */

/* sums[p] += what `taps` neighbouring taps, records `pitch` apart, give: each record is picked from once. */
TARGET INLINE void NAME(slide)(
    Reals *sums, const float *x, ptrdiff_t pitch, const float *w, ptrdiff_t w_tap, const Picks *picks,
    const int outputs, const int taps, const int vectors)
{
    Ints index = *(const Ints *)picks->index;
    const int *seconds = picks->seconds;
    for (ptrdiff_t j = 0; j < picks->sources; j++, index += 1, seconds += LANES, w += LANES) {
        const Ints second = *(const Ints *)seconds;
        Reals weight[SLIDE];
        UNROLL
        for (int t = 0; t < taps; t++)
            weight[t] = *(const Reals *)(w + t * w_tap);
        const float *pixel = AGAIN(x);
#pragma GCC unroll 18
        for (int i = 0; i < outputs + taps - 1; i++) {
            const Reals value = NAME(pick)(pixel + i * pitch, index, second, vectors);
            UNROLL
            for (int t = 0; t < taps; t++)
                if (i - t >= 0 && i - t < outputs)
                    sums[i - t] += weight[t] * value;
        }
    }
}

TARGET INLINE void NAME(tile)(
    const float *x, const float *w, const Picks *picks, Reals start, float *y, ptrdiff_t pixels, ptrdiff_t lanes,
    const Line *line, const int outputs, const int vectors)
{
    const ptrdiff_t taps = line->taps, record = vectors * LANES;
    const ptrdiff_t most = line->x_tap == record && line->x_pixel == record ? SLIDE : 1;
    Reals sums[16];
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
                    NAME(slide)(sums, from, record, weights, line->w_tap, picks, outputs, 3, vectors);
                else if (some == 2)
                    NAME(slide)(sums, from, record, weights, line->w_tap, picks, outputs, 2, vectors);
                else
                    NAME(slide)(sums, from, line->x_pixel, weights, line->w_tap, picks, outputs, 1, vectors);
                from += some * line->x_tap;
                weights += some * line->w_tap;
            }
        }
    UNROLL
    for (int p = 0; p < outputs; p++)
        if (p < pixels)
            NAME(store)(sums[p], y + p * line->y_pixel, lanes, line->far);
}

TARGET INLINE void NAME(tiles)(
    const float *x, const float *w, const Picks *picks, const float *start, float *y, ptrdiff_t pixels,
    ptrdiff_t lanes, const Line *line, const int outputs, const int vectors)
{
    for (ptrdiff_t p = 0; p < pixels; p += outputs)
        NAME(tile)(x + p * line->x_pixel, w, picks, *(const Reals *)start, y + p * line->y_pixel, pixels - p,
                   lanes, line, outputs, vectors);
}

#define TILES(outputs)                                                                                                 \
    {                                                                                                                  \
        if (picks->vectors == 1)                                                                                       \
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
    const int taps, const int sources, const int vectors)
{
    Reals sums[SLIDE][8];
    Ints index[8], second[8];
    UNROLL
    for (int j = 0; j < sources; j++) {
        index[j] = *(const Ints *)picks->index + (int)first + j;
        second[j] = *(const Ints *)(picks->seconds + (first + j) * LANES);
        UNROLL
        for (int t = 0; t < taps; t++)
            sums[t][j] = (Reals){0};
    }
    for (ptrdiff_t q = 0; q < lines->lines; q++) {
        const float *value = x + q * lines->x_line, *d = dy + q * lines->dy_line;
        for (ptrdiff_t p = 0; p < lines->pixels; p++, value += lines->x_pixel, d += lines->dy_pixel) {
            Reals values[SLIDE];
            UNROLL
            for (int t = 0; t < taps; t++)
                values[t] = *(const Reals *)(value + t * lines->x_tap);
            UNROLL
            for (int j = 0; j < sources; j++) {
                const Reals picked = NAME(pick)(d, index[j], second[j], vectors);
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
            *(Reals *)(dw + t * lines->w_tap + j * LANES) += sums[t][j];
}

TARGET INLINE void NAME(products_of)(
    const float *x, const float *dy, const Picks *picks, float *dw, const Lines *lines, const int taps,
    const int vectors)
{
    const int most = taps == 1 ? 2 * WIDE : WIDE;
    ptrdiff_t j = 0;
    for (; j + most <= picks->sources; j += most)
        NAME(products)(x, dy, picks, j, dw + j * LANES, lines, taps, most, vectors);
    for (; j + 2 <= picks->sources; j += 2)
        NAME(products)(x, dy, picks, j, dw + j * LANES, lines, taps, 2, vectors);
    if (j < picks->sources)
        NAME(products)(x, dy, picks, j, dw + j * LANES, lines, taps, 1, vectors);
}

TARGET INLINE void NAME(products_of_taps)(
    const float *x, const float *dy, const Picks *picks, float *dw, ptrdiff_t taps, const Lines *lines,
    const int vectors)
{
    for (; taps >= SLIDE; taps -= SLIDE, x += SLIDE * lines->x_tap, dw += SLIDE * lines->w_tap)
        NAME(products_of)(x, dy, picks, dw, lines, SLIDE, vectors);
    if (taps == 2)
        NAME(products_of)(x, dy, picks, dw, lines, 2, vectors);
    else if (taps == 1)
        NAME(products_of)(x, dy, picks, dw, lines, 1, vectors);
}

TARGET static void NAME(products_of_lines)(
    const float *x, const float *dy, const Picks *picks, float *dw, ptrdiff_t taps, const Lines *lines)
{
    if (picks->vectors == 1)
        NAME(products_of_taps)(x, dy, picks, dw, taps, lines, 1);
    else
        NAME(products_of_taps)(x, dy, picks, dw, taps, lines, 2);
}

#undef TARGET
#undef WIDE
#undef LANES
#undef Reals
#undef Ints
#undef BYTES
