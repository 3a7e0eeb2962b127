/* The transposes of layout.h for one REAL, of which 16 bytes hold PIECE, and vectors of BYTES bytes. */

#define LANES (BYTES / (ptrdiff_t)sizeof(REAL))
#define LINE_OF (CACHE_LINE / (ptrdiff_t)sizeof(REAL)) /* elements of a cache line */
#define Vector NAME(Vector)
#define Pairs NAME(Pairs)
#if PIECE == 4
#define SHUFFLED(a, b, i, j, k, l) __builtin_shufflevector(a, b, OF_FOURS(i, j, k, l))
#elif BYTES == 64
#define SHUFFLED(a, b, i, j) __builtin_shufflevector(a, b, i, j, i + 2, j + 2, i + 4, j + 4, i + 6, j + 6)
#elif BYTES == 32
#define SHUFFLED(a, b, i, j) __builtin_shufflevector(a, b, i, j, i + 2, j + 2)
#else
#define SHUFFLED(a, b, i, j) __builtin_shufflevector(a, b, i, j)
#endif
/* Two and four pieces of 16 bytes, of two vectors. */
#define TWO(a, b, i, j)                                                                                                \
    (Vector) __builtin_shufflevector((Pairs)(a), (Pairs)(b), 2 * i, 2 * i + 1, 2 * j, 2 * j + 1)
#define FOUR(a, b, i, j, k, l)                                                                                         \
    (Vector) __builtin_shufflevector(                                                                                  \
        (Pairs)(a), (Pairs)(b), 2 * i, 2 * i + 1, 2 * j, 2 * j + 1, 2 * k, 2 * k + 1, 2 * l, 2 * l + 1)

typedef REAL Vector __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef int64_t Pairs __attribute__((vector_size(BYTES)));

/* To where a vector's bytes divide the address. far: past the caches. */
TARGET INLINE void NAME(put)(REAL *y, Vector value, int far)
{
    if (far)
        STREAM_WHOLE(y, value);
    else
        *(Vector *)y = value;
}

/* The transposes of the PIECE by PIECE elements that lie in the same 16 bytes. */
TARGET INLINE void NAME(pieces)(const Vector rows[PIECE], Vector columns[PIECE])
{
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

/* LANES columns of `rows` rows, at most LANES; behind these anything. */
TARGET INLINE void NAME(square)(const REAL *x, ptrdiff_t step, const ptrdiff_t rows, Vector columns[])
{
    Vector row[LANES], turned[LANES];
    UNROLL for (int i = 0; i < LANES; i++) row[i] = *(const Vector *)(x + (i < rows ? i : 0) * step);
    UNROLL for (int i = 0; i < PIECE; i++)
    {
#if BYTES == 16
        turned[i] = row[i];
#elif BYTES == 32
        turned[i] = TWO(row[i], row[i + PIECE], 0, 2);
        turned[i + PIECE] = TWO(row[i], row[i + PIECE], 1, 3);
#else
        const Vector low01 = FOUR(row[i], row[i + PIECE], 0, 1, 4, 5);
        const Vector high01 = FOUR(row[i], row[i + PIECE], 2, 3, 6, 7);
        const Vector low23 = FOUR(row[i + 2 * PIECE], row[i + 3 * PIECE], 0, 1, 4, 5);
        const Vector high23 = FOUR(row[i + 2 * PIECE], row[i + 3 * PIECE], 2, 3, 6, 7);
        turned[i] = FOUR(low01, low23, 0, 2, 4, 6);
        turned[i + PIECE] = FOUR(low01, low23, 1, 3, 5, 7);
        turned[i + 2 * PIECE] = FOUR(high01, high23, 0, 2, 4, 6);
        turned[i + 3 * PIECE] = FOUR(high01, high23, 1, 3, 5, 7);
#endif
    }
    UNROLL for (int i = 0; i < LANES; i += PIECE) NAME(pieces)(turned + i, columns + i);
}

/* PIECE columns of LANES rows: of narrow ones, whose neighbours follow. */
TARGET INLINE void NAME(narrow)(const REAL *x, ptrdiff_t step, Vector columns[PIECE])
{
#define PIECE_AT(i) _mm_loadu_ps((const float *)(row + (i) * PIECE * step))
#define TWO_PIECES(i) _mm256_insertf128_ps(_mm256_castps128_ps256(PIECE_AT(i)), PIECE_AT((i) + 1), 1)
    Vector rows[PIECE];
    for (int i = 0; i < PIECE; i++) {
        const REAL *row = x + i * step;
#if BYTES == 16
        rows[i] = *(const Vector *)row;
#elif BYTES == 32
        rows[i] = (Vector)TWO_PIECES(0);
#else
        rows[i] = (Vector)_mm512_insertf32x8(_mm512_castps256_ps512(TWO_PIECES(0)), TWO_PIECES(2), 1);
#endif
    }
    NAME(pieces)(rows, columns);
#undef PIECE_AT
#undef TWO_PIECES
}

/* LINE_OF rows, and LANES columns from the `first` on, to whole lines of y. */
TARGET INLINE void NAME(block)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, const ptrdiff_t first, const int far)
{
    Vector values[LINE_OF];
    UNROLL for (int i = 0; i < LINE_OF; i += LANES) NAME(square)(x + i * x_step, x_step, LANES, values + i);
    for (ptrdiff_t k = first; k < LANES; k++)
        UNROLL for (int i = 0; i < LINE_OF; i += LANES) NAME(put)(y + k * y_step + i, values[i + k], far);
}

/* Whole lines of `held` elements of a buffer go to y, but for the first `others`, which are not this task's; what is
   left is moved to the buffer's begin. */
TARGET INLINE REAL *NAME(flush)(REAL *buffer, REAL *y, ptrdiff_t *held, ptrdiff_t *others, int far)
{
    ptrdiff_t at = 0;
    if (*others && *held >= LINE_OF) {
        memcpy(y + *others, buffer + *others, (LINE_OF - *others) * sizeof(REAL));
        *others = 0;
        at = LINE_OF;
    }
    for (; at + LINE_OF <= *held; at += LINE_OF)
        UNROLL for (int i = 0; i < LINE_OF; i += LANES)
            NAME(put)(y + at + i, *(const Vector *)(buffer + at + i), far);
    if (at)
        memcpy(buffer, buffer + at, CACHE_LINE);
    *held -= at;
    return y + at;
}

/* --- rows to records: y is one run ---------------------------------------------------------------------------------*/

/* A line's columns of LINE_OF rows. Where many rows lie in the same set of the cache, and vectors are shorter than a
   line, it is copied first. */
TARGET INLINE const REAL *NAME(line)(const REAL *x, ptrdiff_t *x_step, REAL *copy)
{
    if (BYTES == CACHE_LINE || *x_step * sizeof(REAL) % ALIASED)
        return x;
    for (ptrdiff_t i = 0; i < LINE_OF; i++)
        UNROLL for (ptrdiff_t j = 0; j < LINE_OF; j += LANES)
            *(Vector *)(copy + i * LINE_OF + j) = *(const Vector *)(x + i * *x_step + j);
    *x_step = LINE_OF;
    return copy;
}

/* Of many rows the hardware reads few ahead of its own accord: as many as make some hundred lines are fetched, in front
   of column j + LINE_OF. What comes behind a whole row is the next image's. */
TARGET INLINE void NAME(fetch)(const REAL *x, ptrdiff_t x_step, ptrdiff_t count, ptrdiff_t ahead)
{
    for (ptrdiff_t k = 0; ahead && k < count; k++)
        __builtin_prefetch(x + k * x_step + ahead, 0, 2);
}

TARGET INLINE ptrdiff_t NAME(ahead)(ptrdiff_t j, ptrdiff_t x_step, ptrdiff_t rows, ptrdiff_t columns)
{
    const ptrdiff_t ahead = (rows < FETCHED ? FETCHED / rows : 1) * LINE_OF;
    return rows <= STREAMS ? 0 : j + ahead < columns || columns < x_step ? ahead : ahead + (rows - 1) * x_step;
}

/* Up to PIECE rows: LANES records, behind the last of which anything. */
TARGET INLINE void NAME(short_records)(const REAL *x, ptrdiff_t x_step, REAL *y, const ptrdiff_t rows)
{
    Vector row[PIECE], record[PIECE];
    for (int i = 0; i < PIECE; i++)
        row[i] = *(const Vector *)(x + (i < rows ? i : 0) * x_step);
    NAME(pieces)(row, record);
    UNROLL for (int i = 0; i < LANES; i += PIECE)
        UNROLL for (int k = 0; k < PIECE; k++)
            memcpy(y + (i + k) * rows, (const char *)&record[k] + i * sizeof(REAL), 16);
}

/* LINE_OF records, of more rows. */
TARGET INLINE void NAME(long_records)(
    const REAL *x, ptrdiff_t x_step, REAL *y, const ptrdiff_t rows, const ptrdiff_t ahead)
{
    REAL copy[LINE_OF * LINE_OF];
    for (ptrdiff_t i = 0; i < rows; i += LINE_OF) {
        const ptrdiff_t at = rows < LINE_OF ? 0 : i < rows - LINE_OF ? i : rows - LINE_OF;
        ptrdiff_t step = x_step;
        NAME(fetch)(x + at * x_step, x_step, LINE_OF, ahead);
        const REAL *from = rows < LINE_OF ? x : NAME(line)(x + at * x_step, &step, copy);
        for (ptrdiff_t r = 0; r < LINE_OF && r < rows; r += LANES) {
            const ptrdiff_t some = rows < LANES ? 0 : r < rows - LANES ? r : rows - LANES;
            for (ptrdiff_t j = 0; j < LINE_OF; j += LANES) {
                Vector values[LANES];
                NAME(square)(from + some * step + j, step, rows < LANES ? rows : LANES, values);
                UNROLL for (ptrdiff_t k = 0; k < LANES; k++)
                    *(Vector *)(y + (j + k) * rows + at + some) = values[k];
            }
        }
    }
}

TARGET INLINE void NAME(some_records)(
    const REAL *x, ptrdiff_t x_step, REAL *y, const ptrdiff_t rows, ptrdiff_t columns, int far)
{
    _Alignas(CACHE_LINE) REAL buffer[RECORDS / sizeof(REAL) + 4 * LINE_OF];
    const ptrdiff_t run = (rows < LINE_OF ? LINE_OF / rows : 1) * (rows < 4 * LINE_OF ? 4 : 1) * LINE_OF;
    ptrdiff_t others = (uintptr_t)y % CACHE_LINE / sizeof(REAL), held = others, j = 0;
    y -= others;
    while (j < columns) {
        const ptrdiff_t end = columns - j < run ? columns : j + run;
        const ptrdiff_t step = rows <= PIECE ? LANES : LINE_OF;
        for (; j + step <= end; j += step, held += step * rows)
            if (rows <= PIECE)
                NAME(short_records)(x + j, x_step, buffer + held, rows);
            else
                NAME(long_records)(x + j, x_step, buffer + held, rows, NAME(ahead)(j, x_step, rows, columns));
        for (; j < end; j++, held += rows)
            for (ptrdiff_t i = 0; i < rows; i++)
                buffer[held + i] = x[i * x_step + j];
        y = NAME(flush)(buffer, y, &held, &others, far);
    }
    memcpy(y + others, buffer + others, (held - others) * sizeof(REAL));
}

TARGET static void NAME(whole_records)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t rows, ptrdiff_t columns, int far)
{
    REAL copy[LINE_OF * LINE_OF];
    ptrdiff_t j = 0;
    for (; j + LINE_OF <= columns; j += LINE_OF) {
        const ptrdiff_t ahead = NAME(ahead)(j, x_step, rows, columns);
        for (ptrdiff_t i = 0; i < rows; i += LINE_OF) {
            ptrdiff_t step = x_step;
            NAME(fetch)(x + i * x_step + j, x_step, LINE_OF, ahead);
            const REAL *from = NAME(line)(x + i * x_step + j, &step, copy);
            for (ptrdiff_t k = 0; k < LINE_OF; k += LANES)
                NAME(block)(from + k, step, y + (j + k) * rows + i, rows, 0, far);
        }
    }
    for (; j < columns; j++)
        for (ptrdiff_t i = 0; i < rows; i++)
            y[j * rows + i] = x[i * x_step + j];
}

TARGET static void NAME(records)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t rows, ptrdiff_t columns, int far)
{
    if (((uintptr_t)y | rows * sizeof(REAL)) % CACHE_LINE == 0)
        NAME(whole_records)(x, x_step, y, rows, columns, far);
    else if (rows == 2)
        NAME(some_records)(x, x_step, y, 2, columns, far);
    else if (rows == 3)
        NAME(some_records)(x, x_step, y, 3, columns, far);
    else if (rows == 4)
        NAME(some_records)(x, x_step, y, 4, columns, far);
    else
        NAME(some_records)(x, x_step, y, rows, columns, far);
}

/* --- records to rows -----------------------------------------------------------------------------------------------*/

/* Reads of x, LINE_OF records ahead, one behind the other: what `block` reads of it is too disordered for the hardware
   to foresee. */
TARGET INLINE const REAL *NAME(foresee)(const REAL *next, const REAL *end)
{
    for (int i = 0; i < LANES && next < end; i++, next += LINE_OF)
        (void)*(const volatile REAL *)next;
    return next;
}

TARGET static void NAME(whole_rows)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t rows, ptrdiff_t columns, int far)
{
    const REAL *end = x_step == columns ? x + rows * columns : x, *next = x + LINE_OF * columns;
    ptrdiff_t i = 0;
    for (; i + LINE_OF <= rows; i += LINE_OF)
        for (ptrdiff_t j = 0; j < columns; j += LANES) {
            const ptrdiff_t at = j < columns - LANES ? j : columns - LANES;
            next = NAME(foresee)(next, end);
            if (at == j)
                NAME(block)(x + i * x_step + at, x_step, y + at * y_step + i, y_step, 0, far);
            else
                NAME(block)(x + i * x_step + at, x_step, y + at * y_step + i, y_step, j - at, far);
        }
    for (; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++)
            y[j * y_step + i] = x[i * x_step + j];
}

/* Up to KEPT columns: their runs of some lines are put together in L1, each as it lies to the lines of y. */
TARGET INLINE void NAME(some_rows)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t rows, const ptrdiff_t columns, int far)
{
    _Alignas(CACHE_LINE) REAL kept[ROWS_BUFFER / sizeof(REAL)];
    const ptrdiff_t fits = ROWS_BUFFER / CACHE_LINE / columns - 1, run = (fits < RUN_LINES ? fits : RUN_LINES) * LINE_OF;
    const ptrdiff_t pitch = run + LINE_OF;
    const REAL *end = x_step == columns ? x + rows * columns : x, *next = x + LINE_OF * columns;
    ptrdiff_t others[KEPT], i = 0, part;
    for (ptrdiff_t j = 0; j < columns; j++) {
        others[j] = (uintptr_t)(y + j * y_step) % CACHE_LINE / sizeof(REAL);
        __builtin_prefetch(y + j * y_step, 1);
        __builtin_prefetch(y + j * y_step + rows - 1, 1);
    }
    for (; i < rows; i += part) {
        ptrdiff_t s = 0;
        part = rows - i < run ? rows - i : run;
        for (; s + LANES <= part && (rows - i - s - LANES) * x_step + columns >= LANES; s += LANES)
            for (ptrdiff_t j = 0; j < columns; j += LANES) {
                const ptrdiff_t at = columns < LANES ? 0 : j < columns - LANES ? j : columns - LANES;
                const ptrdiff_t count = columns < PIECE ? columns : columns < LANES ? columns : LANES;
                Vector values[LANES];
                next = NAME(foresee)(next, end);
                if (columns <= PIECE)
                    NAME(narrow)(x + (i + s) * x_step + at, x_step, values);
                else
                    NAME(square)(x + (i + s) * x_step + at, x_step, LANES, values);
                for (ptrdiff_t k = j - at; k < count; k++)
                    *(Vector *)(kept + (at + k) * pitch + LINE_OF + s) = values[k];
            }
        for (; s < part; s++)
            for (ptrdiff_t j = 0; j < columns; j++)
                kept[j * pitch + LINE_OF + s] = x[(i + s) * x_step + j];
        for (ptrdiff_t j = 0; j < columns; j++) {
            REAL *line = kept + j * pitch + LINE_OF - others[j], *to = y + j * y_step + i - others[j];
            const ptrdiff_t filled = others[j] + part;
            ptrdiff_t at = 0;
            if (i == 0 && others[j]) {
                at = filled < LINE_OF ? filled : LINE_OF;
                memcpy(to + others[j], line + others[j], (at - others[j]) * sizeof(REAL));
            }
            for (; at + LINE_OF <= filled; at += LINE_OF)
                UNROLL for (int k = 0; k < LINE_OF; k += LANES)
                    NAME(put)(to + at + k, *(const Vector *)(line + at + k), far);
            if (i + part < rows)
                memcpy(kept + j * pitch, kept + j * pitch + run, CACHE_LINE);
            else if (at < filled)
                memcpy(to + at, line + at, (filled - at) * sizeof(REAL));
        }
    }
}

TARGET static void NAME(rows)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t rows, ptrdiff_t columns, int far)
{
    if (columns >= LANES && ((uintptr_t)y | y_step * sizeof(REAL)) % CACHE_LINE == 0)
        NAME(whole_rows)(x, x_step, y, y_step, rows, columns, far);
    else if (columns == 2)
        NAME(some_rows)(x, x_step, y, y_step, rows, 2, far);
    else if (columns == 3 && PIECE > 2)
        NAME(some_rows)(x, x_step, y, y_step, rows, 3, far);
    else if (columns == 4 && PIECE > 2)
        NAME(some_rows)(x, x_step, y, y_step, rows, 4, far);
    else
        for (ptrdiff_t j = 0; j < columns; j += KEPT)
            NAME(some_rows)(x + j, x_step, y + j * y_step, y_step, rows, columns - j < KEPT ? columns - j : KEPT, far);
}

TARGET static void NAME(transpose)(
    const REAL *x, ptrdiff_t x_step, REAL *y, ptrdiff_t y_step, ptrdiff_t rows, ptrdiff_t columns, int far)
{
    if (x_step == 1 || y_step == 1) {
        if (far)
            stream(x, y, rows * columns * sizeof(REAL));
        else
            memcpy(y, x, rows * columns * sizeof(REAL));
    } else if (y_step <= x_step && y_step == rows && rows * CACHE_LINE <= RECORDS)
        NAME(records)(x, x_step, y, rows, columns, far);
    else
        NAME(rows)(x, x_step, y, y_step, rows, columns, far);
}

#undef LINE_OF
#undef Pairs
#undef SHUFFLED
#undef TWO
#undef FOUR
