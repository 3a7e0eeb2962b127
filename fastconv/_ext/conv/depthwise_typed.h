/* The loops of depthwise.h for one REAL, with INTEGER of its size, and vectors of BYTES bytes. */

#define MANY_LOOPS (SINGLE && BYTES >= 16) /* float64 and single lanes do with fewer, to compile sooner */
#define LANES ((ptrdiff_t)(BYTES / sizeof(REAL)))
#define Reals NAME(Reals)
#define Integers NAME(Integers)
#define Ints NAME(Ints)

typedef REAL Reals __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER Integers __attribute__((vector_size(BYTES)));
typedef int Ints __attribute__((vector_size(BYTES / sizeof(REAL) * sizeof(int)), aligned(sizeof(int)), may_alias));

/* The lanes of x's vector that `mask` names, x's vector itself, or x[0] in every lane. */
TARGET INLINE Reals NAME(pick)(const REAL *x, const int *mask, const int kind)
{
    if (kind == PLAIN)
        return *(const Reals *)x;
    if (kind == BROADCAST)
        return *x - (Reals){0};
#if !defined(__clang__)
    return __builtin_shuffle(*(const Reals *)x, __builtin_convertvector(*(const Ints *)mask, Integers));
#elif defined(__x86_64__) && BYTES == 64 && SINGLE
    return (Reals)_mm512_permutexvar_ps(_mm512_loadu_si512(mask), _mm512_loadu_ps(x));
#elif defined(__x86_64__) && BYTES == 64
    const __m512i index = _mm512_cvtepi32_epi64(_mm256_loadu_si256((const __m256i *)mask));
    return (Reals)_mm512_permutexvar_pd(index, _mm512_loadu_pd(x));
#elif defined(__x86_64__) && BYTES == 32 && SINGLE
    return (Reals)_mm256_permutevar8x32_ps(_mm256_loadu_ps(x), _mm256_loadu_si256((const __m256i *)mask));
#else
    Reals value;
    UNROLL
    for (ptrdiff_t lane = 0; lane < LANES; lane++)
        value[lane] = x[mask[lane]];
    return value;
#endif
}

/* Lanes skip .. skip + lanes - 1 of a vector; y is where lane 0 would go. far: past the caches. */
TARGET INLINE void NAME(store)(Reals value, REAL *y, ptrdiff_t skip, ptrdiff_t lanes, int far)
{
    const REAL *from = (const REAL *)&value + skip;
#if BYTES == STREAMED
    if (far) {
        STREAM((float *)y, value);
        return;
    }
#endif
    if (lanes == LANES)
        *(Reals *)y = value;
    else if (2 * lanes >= LANES) { /* two halves that overlap */
        __builtin_memcpy(y + skip, from, BYTES / 2);
        __builtin_memcpy(y + skip + lanes - LANES / 2, from + lanes - LANES / 2, BYTES / 2);
    } else
        __builtin_memcpy(y + skip, from, lanes * sizeof(REAL));
}

/* --- y ------------------------------------------------------------------------------------------------------------ */

/* sum[p] += the products of `taps` neighbouring taps of a line: one vector of x, `pitch` from the next, serves them all.
   Those of x that lie inside are low .. high - 1; inner: all of them do. */
TARGET INLINE void NAME(slide)(
    Reals *sum, const REAL *x, ptrdiff_t at, ptrdiff_t pitch, const REAL *w, ptrdiff_t w_tap, const int *mask,
    ptrdiff_t low, ptrdiff_t high, const int taps, const int kind, const int inner)
{
    Reals weight[SLIDE];
    UNROLL
    for (int t = 0; t < taps; t++)
        weight[t] = *(const Reals *)(w + t * w_tap);
    UNROLL
    for (int i = 0; i < PIXELS + taps - 1; i++, at += pitch) {
        if (!inner) {
            COMPARED_HERE(low);
            COMPARED_HERE(high);
        }
        if (inner || (i >= low && i < high)) {
            const Reals value = NAME(pick)(x + at, mask, kind);
            UNROLL
            for (int t = 0; t < taps; t++)
                if (i - t >= 0 && i - t < PIXELS)
                    sum[i - t] += weight[t] * value;
        }
    }
}

/* One block of lanes for the outputs q .. q + pixels - 1 of a run; inner: PIXELS of them, and no tap lies outside. */
TARGET INLINE void NAME(tile)(
    const REAL *x, ptrdiff_t at, const REAL *w, const REAL *bias, const REAL *norm, REAL *y, const Run *run,
    const int *masks, ptrdiff_t sources, ptrdiff_t skip, ptrdiff_t lanes, ptrdiff_t q, ptrdiff_t pixels, const int kind,
    const int inner)
{
    const ptrdiff_t pitch = run->x_pixel, count0 = run->count[0], count1 = run->count[1], taps = run->taps;
    const ptrdiff_t w_tap = run->w_tap, channel = kind == BROADCAST;
    const ptrdiff_t most_taps = run->x_tap == pitch ? SLIDE : 1;
    const Reals smallest = (REAL)run->after->least - (Reals){0};
    Reals sum[PIXELS];
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        sum[p] = bias ? *(const Reals *)bias : (Reals){0};
    for (ptrdiff_t i0 = 0; i0 < count0; i0++)
        for (ptrdiff_t i1 = 0; i1 < count1; i1++) {
            const ptrdiff_t line = at + i0 * run->x_step[0] + i1 * run->x_step[1];
            const REAL *weights = w + i0 * run->w_step[0] + i1 * run->w_step[1];
            for (ptrdiff_t tap = 0, some; tap < taps; tap += some) {
                ptrdiff_t low = 0, high = 0;
                some = least(taps - tap, most_taps);
                if (!inner) {
                    low = run->inside[2 * tap] - q;
                    high = least(run->inside[2 * tap + 1] - q, pixels + some - 1);
                }
                for (ptrdiff_t j = 0; j < (kind == PLAIN ? 1 : sources); j++) {
                    const REAL *weight = weights + tap * w_tap + j * LANES;
                    const ptrdiff_t from = line + tap * run->x_tap + j * channel;
                    const int *mask = masks + j * LANES;
                    if (some == 3)
                        NAME(slide)(sum, x, from, pitch, weight, w_tap, mask, low, high, 3, kind, inner);
                    else if (some == 2)
                        NAME(slide)(sum, x, from, pitch, weight, w_tap, mask, low, high, 2, kind, inner);
                    else
                        NAME(slide)(sum, x, from, pitch, weight, w_tap, mask, low, high, 1, kind, inner);
                }
            }
        }
    if (norm) {
        const Reals mean = *(const Reals *)norm, scale = *(const Reals *)(norm + run->after->apart);
        const Reals shift = *(const Reals *)(norm + 2 * run->after->apart);
        UNROLL
        for (int p = 0; p < PIXELS; p++) {
            Reals product = (sum[p] - mean) * scale;
            ROUNDED(product);
            sum[p] = product + shift;
        }
    }
    UNROLL
    for (int p = 0; p < PIXELS; p++)
        if (inner || p < pixels)
            NAME(store)(AT_LEAST(sum[p], smallest), y + p * run->y_pixel, skip, kind == PERMUTED ? lanes : LANES, run->far);
}

TARGET INLINE void NAME(outputs_of)(
    const REAL *x, ptrdiff_t at, const REAL *w, const REAL *bias, REAL *y, const Run *run, const Lanes *lanes,
    const int kind)
{
    const ptrdiff_t share = PIXELS * run->ahead_pixel * sizeof(REAL) / lanes->blocks; /* of a block, to fetch */
    for (ptrdiff_t q = run->first; q < run->last; q += PIXELS) {
        const ptrdiff_t pixels = least(run->last - q, PIXELS);
        const int inner = pixels == PIXELS && q >= run->inner_first && q + PIXELS <= run->inner_last;
        const ptrdiff_t start = at + q * run->x_pixel;
        for (ptrdiff_t b = 0; b < lanes->blocks; b++) {
            const ptrdiff_t *block = lanes->block + 3 * b;
            const int *masks = lanes->masks + b * lanes->sources * LANES;
            const REAL *weights = w + b * lanes->block_size;
            const REAL *begin = bias ? bias + b * LANES : NULL;
            const REAL *norm = run->after->norm ? (const REAL *)run->after->norm + b * LANES : NULL;
            REAL *out = y + q * run->y_pixel + block[1];
            if (run->ahead)
                prefetch(x + (at + run->ahead + q * run->ahead_pixel), b * share, (b + 1) * share);
            if (inner)
                NAME(tile)(x, start + block[0], weights, begin, norm, out, run, masks, lanes->sources,
                           block[2], lanes->lanes, q, PIXELS, kind, 1);
            else
                NAME(tile)(x, start + block[0], weights, begin, norm, out, run, masks, lanes->sources,
                           block[2], lanes->lanes, q, pixels, kind, 0);
        }
    }
}

#define OUTPUTS_OF(KIND)                                                                                               \
    TARGET NOINLINE void NAME(outputs_of_##KIND)(                                                                      \
        const REAL *x, ptrdiff_t at, const REAL *w, const REAL *bias, REAL *y, const Run *run, const Lanes *lanes)     \
    {                                                                                                                  \
        NAME(outputs_of)(x, at, w, bias, y, run, lanes, KIND);                                                         \
    }
OUTPUTS_OF(PLAIN)
OUTPUTS_OF(BROADCAST)
#if BYTES >= 16 /* a single lane's channels lie in no vector */
OUTPUTS_OF(PERMUTED)
#endif

/* y = bias + the sum over the taps inside of w * x for every output of a run. x + at, w and y belong to the first tap and
   output 0, which may lie outside. */
TARGET static void NAME(outputs)(
    const REAL *x, ptrdiff_t at, const REAL *w, const REAL *bias, REAL *y, const Run *run, const Lanes *lanes)
{
    if (lanes->kind == PLAIN)
        NAME(outputs_of_PLAIN)(x, at, w, bias, y, run, lanes);
    else if (lanes->kind == BROADCAST)
        NAME(outputs_of_BROADCAST)(x, at, w, bias, y, run, lanes);
#if BYTES >= 16
    else
        NAME(outputs_of_PERMUTED)(x, at, w, bias, y, run, lanes);
#endif
}

/* --- dw ----------------------------------------------------------------------------------------------------------- */

/* sum += dy * x for SUMMED outputs from q on, which share vectors of x. `inner`: all taps lie inside. */
TARGET INLINE void NAME(correlate_block)(
    Reals (*sum)[SLIDE], const REAL *x, const REAL *dy, const Strip *strip, const Run *run, const int *mask,
    ptrdiff_t q, const int strips, const int taps, const int x_kind, const int dy_kind, const int inner)
{
    Reals d[SUMMED];
    UNROLL
    for (int u = 0; u < SUMMED; u++)
        d[u] = NAME(pick)(dy + (q + u) * run->y_pixel, mask, dy_kind);
    UNROLL
    for (int s = 0; s < strips; s++) {
        ptrdiff_t at = strip[s].at + q * run->x_pixel;
        UNROLL
        for (int i = 0; i < SUMMED + taps - 1; i++, at += run->x_pixel)
            if (inner || (q + i >= strip[s].inside[0] && q + i < strip[s].inside[1])) {
                const Reals value = NAME(pick)(x + at, mask, x_kind);
                UNROLL
                for (int t = 0; t < taps; t++)
                    if (i - t >= 0 && i - t < SUMMED)
                        sum[s][t] += d[i - t] * value;
            }
    }
}

/* For `strips` strips of `taps` neighbouring taps, and one block of lanes: dw at a tap += the sum over a run of dy * x.
   `soon`, unless NULL, is fetched meanwhile. */
TARGET INLINE void NAME(correlate)(
    const REAL *x, const REAL *dy, REAL *dw, const Strip *strip, const Run *run, const int *mask, const Soon *soon,
    const int strips, const int taps, const int x_kind, const int dy_kind)
{
    ptrdiff_t q = run->first;
    Reals sum[STRIPS][SLIDE];
    UNROLL
    for (int s = 0; s < strips; s++)
        UNROLL
        for (int t = 0; t < taps; t++)
            sum[s][t] = (Reals){0};
    for (; q + SUMMED <= run->last; q += SUMMED) {
        if (soon) {
            prefetch(soon->x, (q - run->first) * soon->x_share, (q + SUMMED - run->first) * soon->x_share);
            prefetch(soon->dy, (q - run->first) * soon->dy_share, (q + SUMMED - run->first) * soon->dy_share);
        }
        if (q >= run->inner_first && q + SUMMED <= run->inner_last)
            NAME(correlate_block)(sum, x, dy, strip, run, mask, q, strips, taps, x_kind, dy_kind, 1);
        else
            NAME(correlate_block)(sum, x, dy, strip, run, mask, q, strips, taps, x_kind, dy_kind, 0);
    }
    for (; q < run->last; q++) {
        const Reals d = NAME(pick)(dy + q * run->y_pixel, mask, dy_kind);
        UNROLL
        for (int s = 0; s < strips; s++)
            UNROLL
            for (int t = 0; t < taps; t++)
                if (q + t >= strip[s].inside[0] && q + t < strip[s].inside[1])
                    sum[s][t] += d * NAME(pick)(x + (strip[s].at + (q + t) * run->x_pixel), mask, x_kind);
    }
    UNROLL
    for (int s = 0; s < strips; s++)
        UNROLL
        for (int t = 0; t < taps; t++)
            *(Reals *)(dw + strip[s].to + t * run->w_tap) += sum[s][t];
}

#define CORRELATE(strips, taps)                                                                                        \
    {                                                                                                                  \
        NAME(correlate)(x, dy, dw, strip, run, mask, soon, strips, taps, x_kind, dy_kind);                             \
        return strips;                                                                                                 \
    }

/* As many of n strips as there is a loop for; their number. */
TARGET INLINE int NAME(correlate_some)(
    const REAL *x, const REAL *dy, REAL *dw, const Strip *strip, const Run *run, const int *mask, const Soon *soon,
    int n, int taps, const int x_kind, const int dy_kind)
{
#if MANY_LOOPS
    if (x_kind == PLAIN && taps == 3) {
        if (n >= 3)
            CORRELATE(3, 3)
        CORRELATE(1, 3)
    }
    if (x_kind == PLAIN && taps == 2) {
        if (n >= 3)
            CORRELATE(3, 2)
        CORRELATE(1, 2)
    }
    if (x_kind == PLAIN && n >= 9)
        CORRELATE(9, 1)
#endif
    if (n >= 3)
        CORRELATE(3, 1)
    CORRELATE(1, 1)
}
#undef CORRELATE

TARGET INLINE void NAME(products_of)(
    const REAL *x, ptrdiff_t at, const REAL *dy, REAL *dw, const Run *run, const Lanes *lanes, const int x_kind,
    const int dy_kind)
{
    const int kind = x_kind != PLAIN ? x_kind : dy_kind;
    const int x_side = x_kind != PLAIN ? 0 : 1;
    const int slides = MANY_LOOPS && x_kind == PLAIN && run->x_tap == run->x_pixel;
    const ptrdiff_t lines = run->count[0] * run->count[1], rest = slides ? run->taps % SLIDE : run->taps;
    const ptrdiff_t x_share = run->ahead_pixel * sizeof(REAL) / lanes->blocks;
    const ptrdiff_t dy_share = run->y_pixel * sizeof(REAL) / lanes->blocks;
    int fetched = !run->ahead;
    for (int taps = SLIDE; taps > 0; taps--) {
        ptrdiff_t of_line = taps == SLIDE ? run->taps / SLIDE : rest == taps, first = run->taps - taps;
        if (!slides)
            of_line = taps == 1 ? run->taps : 0;
        if (!slides || taps == SLIDE)
            first = 0;
        const ptrdiff_t total = lines * of_line;
        const int together = taps == 1 ? STRIPS : 3;
        for (ptrdiff_t done = 0; done < total;) {
            Strip strip[STRIPS]; /* more than one tap each only where x_tap == x_pixel */
            int count = 0;
            for (; count < together && done < total; count++, done++) {
                const ptrdiff_t line = done / of_line, tap = first + done % of_line * taps;
                const ptrdiff_t i0 = line / run->count[1], i1 = line % run->count[1];
                strip[count].at = at + i0 * run->x_step[0] + i1 * run->x_step[1] + tap * run->x_tap;
                strip[count].to = i0 * run->w_step[0] + i1 * run->w_step[1] + tap * run->w_tap;
                strip[count].inside = run->inside + 2 * tap;
            }
            for (ptrdiff_t b = 0; b < lanes->blocks; b++) {
                const ptrdiff_t *block = lanes->block + 3 * b;
                const ptrdiff_t x_begin = at + run->ahead + run->first * run->ahead_pixel;
                const ptrdiff_t dy_begin = run->y_ahead + run->first * run->y_pixel;
                const ptrdiff_t pixels = run->last - run->first;
                const Soon soon = {
                    (const char *)(x + x_begin) + b * pixels * x_share,
                    (const char *)(dy + dy_begin) + b * pixels * dy_share, x_share, dy_share};
                for (ptrdiff_t j = 0; j < (kind == PLAIN ? 1 : lanes->sources); j++) {
                    const int *mask = lanes->masks + (b * lanes->sources + j) * LANES;
                    const ptrdiff_t channel = kind == BROADCAST ? j : 0;
                    const REAL *x_block = x + block[x_side] + (x_side ? 0 : channel);
                    const REAL *dy_block = dy + block[1 - x_side] + (x_side ? channel : 0);
                    REAL *sums = dw + b * lanes->block_size + j * LANES;
                    const Soon *fetch = fetched || j ? NULL : &soon;
                    for (int n = 0; n < count;)
                        n += NAME(correlate_some)(x_block, dy_block, sums, strip + n, run, mask, n ? NULL : fetch,
                                                  count - n, taps, x_kind, dy_kind);
                }
            }
            fetched = 1;
        }
    }
}

#define PRODUCTS_OF(X_KIND, DY_KIND)                                                                                   \
    TARGET NOINLINE void NAME(products_of_##X_KIND##_##DY_KIND)(                                                       \
        const REAL *x, ptrdiff_t at, const REAL *dy, REAL *dw, const Run *run, const Lanes *lanes)                     \
    {                                                                                                                  \
        NAME(products_of)(x, at, dy, dw, run, lanes, X_KIND, DY_KIND);                                                 \
    }
PRODUCTS_OF(PLAIN, PLAIN)
PRODUCTS_OF(BROADCAST, PLAIN)
PRODUCTS_OF(PLAIN, BROADCAST)
#if BYTES >= 16
PRODUCTS_OF(PERMUTED, PLAIN)
PRODUCTS_OF(PLAIN, PERMUTED)
#endif

/* dw, packed as the weights are, += the sum over a run of dy * x; x + at, dw and dy belong to the first tap and output 0.
   The source is dy, or x. */
TARGET static void NAME(products)(
    const REAL *x, ptrdiff_t at, const REAL *dy, REAL *dw, const Run *run, const Lanes *lanes, int x_is_source)
{
    if (lanes->kind == PLAIN)
        NAME(products_of_PLAIN_PLAIN)(x, at, dy, dw, run, lanes);
    else if (lanes->kind == BROADCAST && x_is_source)
        NAME(products_of_BROADCAST_PLAIN)(x, at, dy, dw, run, lanes);
    else if (lanes->kind == BROADCAST)
        NAME(products_of_PLAIN_BROADCAST)(x, at, dy, dw, run, lanes);
#if BYTES >= 16
    else if (x_is_source)
        NAME(products_of_PERMUTED_PLAIN)(x, at, dy, dw, run, lanes);
    else
        NAME(products_of_PLAIN_PERMUTED)(x, at, dy, dw, run, lanes);
#endif
}

#undef OUTPUTS_OF
#undef PRODUCTS_OF
#undef MANY_LOOPS
#undef Reals
#undef Integers
#undef Ints
