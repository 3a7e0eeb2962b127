/* Register tiles of a convolution that reads few channels: pixels, or taps, times filters, with the filters in the
   lanes.

   Written with GCC's and Clang's vector types, once (narrow_typed.h), and compiled for vectors of 16, 32 and 64 bytes.
   The pixels of a row lie `step` elements apart, a tap is the offset of an element from there: few taps a tile leave no
   time for a table of pixels. */

#ifndef FASTCONV_NARROW_H
#define FASTCONV_NARROW_H

#include "simd/vectors.h"

#define NAME(name) JOIN(name, BYTES)
#define TYPED "conv/narrow_typed.h"

#include "simd/every_width.h"
#undef TYPED

/* Taps that a tile of so many vectors holds in registers. */
static inline ptrdiff_t most_taps(int bytes, int vectors)
{
    return bytes == 64 && vectors == 1 ? 28 : most_rows(bytes, vectors);
}

/* y[p * filters + k] = start[k] + the sum over the runs t of `length` taps and their taps j, in order, of
   x[p * step + at[t * length] + j] * w[t * length + j][k], for `pixels` pixels p and all lanes k of one or two vectors.
   far: y is too large for the caches, and its vectors, lines of their own, go past them. */
static inline void row_outputs(
    int bytes, int vectors, ptrdiff_t pixels, const float *x, ptrdiff_t step, const ptrdiff_t *at, ptrdiff_t runs,
    ptrdiff_t length, const float *w, const float *start, float *y, ptrdiff_t filters, int far)
{
    CHOOSE(row_outputs, bytes, vectors, pixels, x, step, at, runs, length, w, start, y, filters, far);
}

/* dw[t][k] += the sum over the pixels (i, j), in order, of x[i * x_row + j * step + at[t]] *
   dy[i * dy_row + j * filters + k], for `taps` taps t and all lanes k of one or two vectors. With every pixel a line a
   vector is fetched from `next` on. */
static inline void add_products(
    int bytes, int vectors, ptrdiff_t taps, const float *x, const ptrdiff_t *at, ptrdiff_t rows, ptrdiff_t x_row,
    ptrdiff_t pixels, ptrdiff_t step, const float *dy, ptrdiff_t dy_row, ptrdiff_t filters, const float *next,
    float *dw)
{
    CHOOSE(add_products, bytes, vectors, taps, x, at, rows, x_row, pixels, step, dy, dy_row, filters, next, dw);
}

#undef NAME

#endif
