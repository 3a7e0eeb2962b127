/* Register tiles of a convolution: pixels times filters, or taps times filters, with the filters in the lanes.

   Written with GCC's and Clang's vector types, once (direct_typed.h), and compiled for vectors of 16, 32 and 64 bytes. A
   panel is a run of filters, one or two vectors wide; its weights lie tap by tap, w[tap][lanes], zeros in the lanes that it
   does not fill. A pixel is the offset of its window's first element in x, a tap the offset of an element from there, so
   neither padding nor stride nor dilation is known here. */

#ifndef FASTCONV_DIRECT_H
#define FASTCONV_DIRECT_H

#include "conv/epilogue.h"
#include "simd/vectors.h"

typedef struct {
    const ptrdiff_t *at; /* of every run of taps: its first tap */
    ptrdiff_t count;     /* of runs */
    ptrdiff_t length;    /* of a run: taps that lie one behind the other */
} Runs;

#define NAME(name) JOIN(name, BYTES)
#define TYPED "conv/direct_typed.h"

#include "simd/every_width.h"
#undef TYPED

/* Fetches the lines at x[r * row] for these r: to the second cache, for rows that lie a power of two apart share few sets of
   the first. */
static inline void fetch_rows(const float *x, ptrdiff_t row, ptrdiff_t rows)
{
    for (ptrdiff_t r = 0; r < rows; r++)
        __builtin_prefetch(x + r * row, 0, 2);
}

/* to[c * to_row + r] = from[r * from_row + c]: all columns of four rows before the next four. */
static inline void transpose(
    const float *from, ptrdiff_t from_row, ptrdiff_t rows, ptrdiff_t columns, float *to, ptrdiff_t to_row)
{
    for (ptrdiff_t r = 0; r < rows; r += 4) {
        ptrdiff_t c = 0;
        if (r + 4 <= rows)
            for (; c + 4 <= columns; c += 4) {
                Four four[4];
                for (int i = 0; i < 4; i++)
                    four[i] = *(const Four *)(from + (r + i) * from_row + c);
                transpose_16(four, four);
                for (int i = 0; i < 4; i++)
                    *(Four *)(to + (c + i) * to_row + r) = four[i];
            }
        for (; c < columns; c++)
            for (ptrdiff_t i = r; i < rows && i < r + 4; i++)
                to[c * to_row + i] = from[i * from_row + c];
    }
}

/* y[to[p] + k] = start[k] + the sum over the taps t, in order, of x[at[p] + t] * w[t][k], or what comes of that `after`
   it, for `rows` pixels p and the first `filters` lanes k of a panel, that after->norm begins with. `at` goes on for one
   tile more, whose pixels are fetched in advance. far: whole vectors, which y is then aligned to, go past the caches;
   `fence` follows the last. */
static inline void tile_outputs(
    int bytes, int vectors, ptrdiff_t rows, const float *x, const ptrdiff_t *at, Runs taps, const float *w,
    const float *start, const Epilogue *after, float *y, const ptrdiff_t *to, ptrdiff_t filters, int far)
{
    CHOOSE(tile_outputs, bytes, vectors, rows, x, at, taps, w, start, after, y, to, filters, far);
}

/* dw[t * row + k] = the sum over the pixels p, in order, of x[at[p] + taps[t]] * dy[from[p] + k], for `rows` taps t and all
   lanes k of a panel; plus what is there, if `add`. A line at soon[soon_at[p]] is fetched for each p. */
static inline void tile_weights(
    int bytes, int vectors, ptrdiff_t rows, const float *x, const ptrdiff_t *at, ptrdiff_t pixels,
    const ptrdiff_t *taps, const float *dy, const ptrdiff_t *from, const float *soon, const ptrdiff_t *soon_at, float *dw,
    ptrdiff_t row, int add)
{
    CHOOSE(tile_weights, bytes, vectors, rows, x, at, pixels, taps, dy, from, soon, soon_at, dw, row, add);
}

/* to[r][lanes] = the `count` floats from from[at[r]] on, and zeros, for `rows` rows r of so many vectors. */
static inline void copy_rows(
    int bytes, int vectors, ptrdiff_t rows, const float *from, const ptrdiff_t *at, ptrdiff_t count, float *to)
{
    CHOOSE(copy_rows, bytes, vectors, rows, from, at, count, to);
}

#endif
