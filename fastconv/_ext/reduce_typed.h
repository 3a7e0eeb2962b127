/* The loops of reduce.h for one REAL, for compilers to vectorise with vectors of BYTES bytes. A column's terms are added
   in one order, whatever the vectors: same bits. */

TARGET static void NAME(column_sums)(const REAL *restrict x, double *restrict sums, ptrdiff_t rows, ptrdiff_t width)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = 0;
    for (; rows >= 4 && width <= NARROW; rows -= 4, x += 4 * width) {
        FETCH(x, 4 * width * sizeof(REAL));
        for (ptrdiff_t j = 0; j < width; j++) /* one by one, but kept in a register meanwhile */
            sums[j] = sums[j] + x[j] + x[width + j] + x[2 * width + j] + x[3 * width + j];
    }
    for (; rows > 0; rows--, x += width) {
        FETCH(x, width * sizeof(REAL));
        for (ptrdiff_t j = 0; j < width; j++)
            sums[j] += x[j];
    }
}

TARGET static void NAME(add_in_order)(
    const REAL *restrict partial, REAL *restrict y, ptrdiff_t terms, ptrdiff_t size, ptrdiff_t count)
{
    memcpy(y, partial, count * sizeof(REAL));
    partial += size;
    for (terms -= 1; terms >= 4; terms -= 4, partial += 4 * size)
        for (ptrdiff_t j = 0; j < count; j++)
            y[j] = y[j] + partial[j] + partial[size + j] + partial[2 * size + j] + partial[3 * size + j];
    for (; terms > 0; terms--, partial += size)
        for (ptrdiff_t j = 0; j < count; j++)
            y[j] += partial[j];
}

TARGET static void NAME(add_row)(REAL *restrict x, const REAL *restrict row, ptrdiff_t rows, ptrdiff_t width)
{
    for (; rows > 0; rows--, x += width)
        for (ptrdiff_t j = 0; j < width; j++)
            x[j] += row[j];
}

TARGET static void NAME(add)(const REAL *restrict a, const REAL *restrict b, REAL *restrict y, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
}

TARGET static void NAME(add_to)(REAL *restrict y, const REAL *restrict x, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        y[i] += x[i];
}
