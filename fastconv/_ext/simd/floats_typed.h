/* What the typed headers of float kernels begin with: a vector of BYTES bytes, loads and stores of a part of it, and transposes
   of four rows. */

#define LANES ((ptrdiff_t)(BYTES / sizeof(float)))
#define Vector NAME(Vector)

typedef float Vector __attribute__((vector_size(BYTES), aligned(4), may_alias));

#if defined(__x86_64__) && BYTES == 32
#define MASK(lanes) _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(lanes)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#endif

/* The first `lanes` floats at x, then zeros. */
TARGET INLINE Vector NAME(load)(const float *x, ptrdiff_t lanes)
{
    if (lanes >= LANES)
        return *(const Vector *)x;
#if defined(__x86_64__) && BYTES == 64
    return (Vector)_mm512_maskz_loadu_ps((__mmask16)((1u << lanes) - 1), x);
#elif defined(__x86_64__) && BYTES == 32
    return (Vector)_mm256_maskload_ps(x, MASK(lanes));
#else
    Vector value = {0};
    for (ptrdiff_t lane = 0; lane < LANES - 1; lane++)
        if (lane < lanes)
            value[lane] = x[lane];
    return value;
#endif
}

/* The first `count` lanes of a vector. far: whole ones go past the caches. */
TARGET INLINE void NAME(put)(Vector value, float *y, ptrdiff_t count, int far)
{
    if (count >= LANES) {
        if (far)
            STREAM(y, value);
        else
            *(Vector *)y = value;
        return;
    }
    float lanes[LANES] __attribute__((aligned(BYTES)));
    ptrdiff_t lane = 0;
    *(Vector *)lanes = value;
    for (ptrdiff_t part = LANES / 2; part > 0; part /= 2)
        if (count & part) {
            memcpy(y + lane, lanes + lane, part * sizeof(float));
            lane += part;
        }
}

/* Each four lanes of four vectors, transposed. */
TARGET INLINE void NAME(transpose)(const Vector rows[4], Vector columns[4])
{
    const Vector low01 = __builtin_shufflevector(rows[0], rows[1], OF_FOURS(0, LANES, 1, LANES + 1));
    const Vector high01 = __builtin_shufflevector(rows[0], rows[1], OF_FOURS(2, LANES + 2, 3, LANES + 3));
    const Vector low23 = __builtin_shufflevector(rows[2], rows[3], OF_FOURS(0, LANES, 1, LANES + 1));
    const Vector high23 = __builtin_shufflevector(rows[2], rows[3], OF_FOURS(2, LANES + 2, 3, LANES + 3));
    columns[0] = __builtin_shufflevector(low01, low23, OF_FOURS(0, 1, LANES, LANES + 1));
    columns[1] = __builtin_shufflevector(low01, low23, OF_FOURS(2, 3, LANES + 2, LANES + 3));
    columns[2] = __builtin_shufflevector(high01, high23, OF_FOURS(0, 1, LANES, LANES + 1));
    columns[3] = __builtin_shufflevector(high01, high23, OF_FOURS(2, 3, LANES + 2, LANES + 3));
}

/* Four floats, from rows[i] + at on, of every fourth of LANES rows. */
TARGET INLINE Vector NAME(fours)(const float *const *rows, ptrdiff_t at)
{
#if defined(__x86_64__) && BYTES > 16
#define TWO_FOURS(i)                                                                                                   \
    _mm256_insertf128_ps(                                                                                              \
        _mm256_castps128_ps256(_mm_loadu_ps(rows[i] + at)), _mm_loadu_ps(rows[(i) + 4] + at), 1)
#endif
#if defined(__x86_64__) && BYTES == 64
    return (Vector)_mm512_insertf32x8(_mm512_castps256_ps512(TWO_FOURS(0)), TWO_FOURS(8), 1);
#elif defined(__x86_64__) && BYTES == 32
    return (Vector)TWO_FOURS(0);
#else
    Vector fours;
    for (ptrdiff_t row = 0; row < LANES; row += 4)
        memcpy((float *)&fours + row, rows[row] + at, 4 * sizeof(float));
    return fours;
#endif
#undef TWO_FOURS
}

/* Four floats of LANES rows, to four vectors. */
TARGET INLINE void NAME(transpose_rows)(const float *const *rows, ptrdiff_t at, Vector columns[4])
{
    Vector fours[4];
    for (int i = 0; i < 4; i++)
        fours[i] = NAME(fours)(rows + i, at);
    NAME(transpose)(fours, columns);
}
