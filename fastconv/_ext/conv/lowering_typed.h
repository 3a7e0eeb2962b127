/* The loops of lowering.h for one REAL and vectors of BYTES bytes. */

#define LANES ((ptrdiff_t)(BYTES / sizeof(REAL)))
#define Reals NAME(Reals)
#define Piece NAME(Piece)
#define PIECE ((ptrdiff_t)(16 / sizeof(REAL)))

typedef REAL Reals __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef REAL Piece __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));

/* Whole vectors, the last of which may overlap those before; fewer elements than 16 bytes one by one. */
TARGET INLINE void NAME(copy)(const REAL *x, REAL *y, ptrdiff_t count)
{
    ptrdiff_t j = 0;
    for (; j + LANES <= count; j += LANES)
        *(Reals *)(y + j) = *(const Reals *)(x + j);
    if (j < count && count >= LANES)
        *(Reals *)(y + count - LANES) = *(const Reals *)(x + count - LANES);
    else if (count >= PIECE) {
        for (; j + PIECE <= count; j += PIECE)
            *(Piece *)(y + j) = *(const Piece *)(x + j);
        *(Piece *)(y + count - PIECE) = *(const Piece *)(x + count - PIECE);
    } else
        for (; j < count; j++)
            y[j] = x[j];
}

TARGET INLINE void NAME(zero)(REAL *y, ptrdiff_t count)
{
    const Reals none = {0};
    ptrdiff_t j = 0;
    for (; j + LANES <= count; j += LANES)
        *(Reals *)(y + j) = none;
    for (; j < count; j++)
        y[j] = 0;
}

/* Rows one by one, to the element: for windows that reach over the border, and where nothing may be touched beyond. */
TARGET NOINLINE void NAME(rows_exactly)(const Rows *rows, REAL *y, ptrdiff_t pixel, ptrdiff_t end)
{
    const ptrdiff_t c = rows->channels;
    for (; pixel < end; pixel++) {
        const ptrdiff_t at = rows->at + pixel * rows->stride;
        for (ptrdiff_t k = 0; k < rows->count; k++, y += rows->span) {
            const REAL *x = (const REAL *)rows->pieces[k] + pixel * rows->steps[k];
            ptrdiff_t head = 0, stop = rows->taps;
            if (rows->whole) {
                head = at >= 0 ? 0 : -at < rows->taps ? -at : rows->taps;
                stop = rows->length - at < rows->taps ? rows->length - at : rows->taps;
            } else {
                const ptrdiff_t tap = at + (rows->first + k) % rows->taps * rows->dilation;
                stop = tap >= 0 && tap < rows->length;
            }
            if (rows->steps[k] == 0 || stop <= head)
                NAME(zero)(y, rows->span);
            else {
                NAME(zero)(y, head * c);
                NAME(copy)(x + head * c, y + head * c, rows->whole ? (stop - head) * c : c);
                if (rows->whole)
                    NAME(zero)(y + stop * c, (rows->taps - stop) * c);
            }
        }
    }
}

/* Of `vectors` vectors a piece: what is written beyond one is written over by the next. */
TARGET INLINE void NAME(rows_of)(
    const Rows *rows, REAL *y, ptrdiff_t pixel, ptrdiff_t end, const ptrdiff_t vectors, ptrdiff_t count)
{
    const ptrdiff_t span = rows->span;
    for (; pixel < end; pixel++)
        for (ptrdiff_t k = 0; k < count; k++, y += span) {
            const REAL *x = (const REAL *)rows->pieces[k] + pixel * rows->steps[k];
            for (ptrdiff_t v = 0; v < vectors; v++)
                *(Reals *)(y + v * LANES) = *(const Reals *)(x + v * LANES);
        }
}

/* The same for three pieces of one vector: with its addresses in registers. */
TARGET INLINE void NAME(rows_of_three)(const Rows *rows, REAL *y, ptrdiff_t pixel, ptrdiff_t end)
{
    const ptrdiff_t span = rows->span, *steps = rows->steps, step0 = steps[0], step1 = steps[1], step2 = steps[2];
    const REAL *x0 = (const REAL *)rows->pieces[0] + pixel * step0;
    const REAL *x1 = (const REAL *)rows->pieces[1] + pixel * step1;
    const REAL *x2 = (const REAL *)rows->pieces[2] + pixel * step2;
    for (; pixel < end; pixel++, y += 3 * span, x0 += step0, x1 += step1, x2 += step2) {
        *(Reals *)y = *(const Reals *)x0;
        *(Reals *)(y + span) = *(const Reals *)x1;
        *(Reals *)(y + 2 * span) = *(const Reals *)x2;
    }
}

/* The rows of `pixels` outputs of one line; y's and x's memory ends at y_end and x_end. */
TARGET static void NAME(rows)(const Rows *rows, REAL *y, ptrdiff_t pixels, const REAL *x_end, const REAL *y_end)
{
    const ptrdiff_t vectors = (rows->span + LANES - 1) / LANES, width = rows->count * rows->span;
    const ptrdiff_t reach = rows->whole ? rows->taps - 1 : (rows->taps - 1) * rows->dilation;
    ptrdiff_t first = rows->at >= 0 ? 0 : (-rows->at + rows->stride - 1) / rows->stride;
    ptrdiff_t last = rows->length - 1 - reach - rows->at, most;
    last = last < 0 ? 0 : last / rows->stride + 1;
    if (last > pixels)
        last = pixels;
    for (ptrdiff_t k = 0; k < rows->count; k++) { /* vectors must end in x */
        const ptrdiff_t room = x_end - (const REAL *)rows->pieces[k] - vectors * LANES;
        if (rows->steps[k] == 0 && vectors * LANES > ZEROS)
            last = 0;
        most = room < 0 ? 0 : rows->steps[k] ? room / rows->steps[k] + 1 : last;
        if (rows->steps[k] && most < last)
            last = most;
    }
    most = (y_end - y + rows->span - vectors * LANES) / width; /* and in y */
    if (most < last)
        last = most;
    if (first >= last)
        first = last = pixels;
    NAME(rows_exactly)(rows, y, 0, first);
    if (vectors == 1 && rows->count == 3)
        NAME(rows_of_three)(rows, y + first * width, first, last);
    else if (vectors == 1)
        NAME(rows_of)(rows, y + first * width, first, last, 1, rows->count);
    else if (vectors == 2)
        NAME(rows_of)(rows, y + first * width, first, last, 2, rows->count);
    else if (vectors == 3)
        NAME(rows_of)(rows, y + first * width, first, last, 3, rows->count);
    else if (vectors == 4)
        NAME(rows_of)(rows, y + first * width, first, last, 4, rows->count);
    else
        NAME(rows_of)(rows, y + first * width, first, last, vectors, rows->count);
    NAME(rows_exactly)(rows, y + last * width, last, pixels);
}

/* By 16 bytes: instructions that gather are slower. */
TARGET static void NAME(strided)(const REAL *x, ptrdiff_t step, REAL *y, ptrdiff_t count)
{
    ptrdiff_t j = 0;
    for (; j + PIECE <= count; j += PIECE) {
        Piece values;
        for (int i = 0; i < PIECE; i++)
            values[i] = x[(j + i) * step];
        *(Piece *)(y + j) = values;
    }
    for (; j < count; j++)
        y[j] = x[j * step];
}

TARGET static void NAME(add_run)(const REAL *restrict x, REAL *restrict y, ptrdiff_t count)
{
    for (ptrdiff_t j = 0; j < count; j++)
        y[j] += x[j];
}

#undef Reals
#undef Piece
#undef PIECE
