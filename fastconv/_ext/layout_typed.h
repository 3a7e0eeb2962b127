/* The transpose of layout.h for one REAL, of which 16 bytes hold PIECE, and vectors of BYTES bytes. */

#define LANES (BYTES / (ptrdiff_t)sizeof(REAL))
#define Vector NAME(Vector)
#if BYTES == 64 && PIECE == 4
#define SHUFFLED(a, b, i, j, k, l)                                                                                     \
    __builtin_shufflevector(                                                                                           \
        a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4, i + 8, j + 8, k + 8, l + 8, i + 12, j + 12, k + 12, l + 12)
#elif BYTES == 32 && PIECE == 4
#define SHUFFLED(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l, i + 4, j + 4, k + 4, l + 4)
#elif PIECE == 4
#define SHUFFLED(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#elif BYTES == 64
#define SHUFFLED(a, b, i, j) __builtin_shufflevector(a, b, i, j, i + 2, j + 2, i + 4, j + 4, i + 6, j + 6)
#elif BYTES == 32
#define SHUFFLED(a, b, i, j) __builtin_shufflevector(a, b, i, j, i + 2, j + 2)
#else
#define SHUFFLED(a, b, i, j) __builtin_shufflevector(a, b, i, j)
#endif

typedef REAL Vector __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

/* PIECE elements of every PIECE-th of LANES rows. */
TARGET INLINE Vector NAME(pieces)(const REAL *x, ptrdiff_t step)
{
#define PIECE_AT(i) _mm_loadu_ps((const float *)(x + (i) * PIECE * step))
#define TWO_PIECES(i) _mm256_insertf128_ps(_mm256_castps128_ps256(PIECE_AT(i)), PIECE_AT((i) + 1), 1)
#if BYTES == 16
    return *(const Vector *)x;
#elif BYTES == 32
    return (Vector)TWO_PIECES(0);
#else
    return (Vector)_mm512_insertf32x8(_mm512_castps256_ps512(TWO_PIECES(0)), TWO_PIECES(2), 1);
#endif
#undef PIECE_AT
#undef TWO_PIECES
}

/* PIECE columns of LANES rows. */
TARGET INLINE void NAME(columns)(const REAL *x, ptrdiff_t step, Vector columns[PIECE])
{
    Vector rows[PIECE];
    for (int i = 0; i < PIECE; i++)
        rows[i] = NAME(pieces)(x + i * step, step);
#if PIECE == 2
    columns[0] = SHUFFLED(rows[0], rows[1], 0, LANES);
    columns[1] = SHUFFLED(rows[0], rows[1], 1, LANES + 1);
#else
    const Vector low01 = SHUFFLED(rows[0], rows[1], 0, LANES, 1, LANES + 1);
    const Vector high01 = SHUFFLED(rows[0], rows[1], 2, LANES + 2, 3, LANES + 3);
    const Vector low23 = SHUFFLED(rows[2], rows[3], 0, LANES, 1, LANES + 1);
    const Vector high23 = SHUFFLED(rows[2], rows[3], 2, LANES + 2, 3, LANES + 3);
    columns[0] = SHUFFLED(low01, low23, 0, 1, LANES, LANES + 1);
    columns[1] = SHUFFLED(low01, low23, 2, 3, LANES + 2, LANES + 3);
    columns[2] = SHUFFLED(high01, high23, 0, 1, LANES, LANES + 1);
    columns[3] = SHUFFLED(high01, high23, 2, 3, LANES + 2, LANES + 3);
#endif
}

/* LANES rows, `columns` of them PIECE or more: the last ones overlap those before. What is read next, as many rows from
   `next` on, is fetched in advance, a line in a row at a time. */
TARGET INLINE void NAME(band)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t columns, const REAL *next)
{
    for (ptrdiff_t j = 0; j < columns; j += PIECE) {
        const ptrdiff_t at = j < columns - PIECE ? j : columns - PIECE;
        Vector values[PIECE];
        for (ptrdiff_t i = j / PIECE % 4; i < LANES; i += 4)
            __builtin_prefetch(next + i * x_step + j - j % (4 * PIECE));
        NAME(columns)(x + at, x_step, values);
        for (ptrdiff_t k = 0; k < PIECE; k++)
            *(Vector *)(y + (at + k) * y_step) = values[k];
    }
}

/* Rows of fewer columns than PIECE, one behind the other: what is read beyond a row is the next one's. */
TARGET INLINE void NAME(narrow)(const REAL *x, REAL *y, ptrdiff_t y_step, ptrdiff_t rows, const ptrdiff_t columns)
{
    ptrdiff_t i = 0;
    for (; i < rows - LANES - PIECE; i += LANES) {
        Vector values[PIECE];
        NAME(columns)(x + i * columns, columns, values);
        for (ptrdiff_t k = 0; k < columns; k++)
            *(Vector *)(y + k * y_step + i) = values[k];
    }
    for (; i < rows; i++)
        for (ptrdiff_t k = 0; k < columns; k++)
            y[k * y_step + i] = x[i * columns + k];
}

/* Fewer rows than PIECE, to pixels one behind the other: what is written beyond a pixel is written over by the next. */
TARGET INLINE void NAME(flat)(const REAL *x, ptrdiff_t x_step, REAL *y, const ptrdiff_t rows, ptrdiff_t columns)
{
    ptrdiff_t j = 0;
#if BYTES == 16 && PIECE == 4
    for (; j < columns - 2 * PIECE; j += PIECE) {
        const Vector first = *(const Vector *)(x + j), last = *(const Vector *)(x + (rows - 1) * x_step + j);
        const Vector middle = *(const Vector *)(x + x_step + j);
        const Vector low01 = SHUFFLED(first, middle, 0, LANES, 1, LANES + 1);
        const Vector high01 = SHUFFLED(first, middle, 2, LANES + 2, 3, LANES + 3);
        const Vector low2 = SHUFFLED(last, last, 0, 0, 1, 1), high2 = SHUFFLED(last, last, 2, 2, 3, 3);
        *(Vector *)(y + j * rows) = SHUFFLED(low01, low2, 0, 1, LANES, LANES);
        *(Vector *)(y + (j + 1) * rows) = SHUFFLED(low01, low2, 2, 3, LANES + 2, LANES + 2);
        *(Vector *)(y + (j + 2) * rows) = SHUFFLED(high01, high2, 0, 1, LANES, LANES);
        *(Vector *)(y + (j + 3) * rows) = SHUFFLED(high01, high2, 2, 3, LANES + 2, LANES + 2);
    }
#endif
    for (; j < columns; j++)
        for (ptrdiff_t i = 0; i < rows; i++)
            y[j * rows + i] = x[i * x_step + j];
}

/* LANES rows or more, or, of 16 bytes, any. */
TARGET static void NAME(transpose)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t rows, ptrdiff_t columns)
{
    if (columns == 1 && x_step == 1)
        memcpy(y, x, rows * sizeof(REAL));
    else if (columns == 2 && x_step == 2 && PIECE > 2)
        NAME(narrow)(x, y, y_step, rows, 2);
    else if (columns == 3 && x_step == 3 && PIECE > 2)
        NAME(narrow)(x, y, y_step, rows, 3);
    else if (rows == 1 && y_step == 1)
        memcpy(y, x, columns * sizeof(REAL));
    else if (rows == 2 && y_step == 2 && PIECE > 2)
        NAME(flat)(x, x_step, y, 2, columns);
    else if (rows == 3 && y_step == 3 && PIECE > 2)
        NAME(flat)(x, x_step, y, 3, columns);
    else if (rows < PIECE || columns < PIECE)
        for (ptrdiff_t j = 0; j < columns; j++)
            for (ptrdiff_t i = 0; i < rows; i++)
                y[j * y_step + i] = x[i * x_step + j];
    else
        for (ptrdiff_t i = 0; i < rows; i += LANES) {
            const ptrdiff_t at = i < rows - LANES ? i : rows - LANES;
            const REAL *next = i + LANES < rows || columns == x_step ? x + (at + LANES) * x_step : x + columns;
            NAME(band)(x + at * x_step, x_step, y + at, y_step, columns, next);
        }
}

#undef SHUFFLED
