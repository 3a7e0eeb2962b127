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

#define OF_6(V, call)                                                                                                  \
    case 1: call(1, V); break;                                                                                         \
    case 2: call(2, V); break;                                                                                         \
    case 3: call(3, V); break;                                                                                         \
    case 4: call(4, V); break;                                                                                         \
    case 5: call(5, V); break;                                                                                         \
    case 6: call(6, V); break;
#define OF_13(V, call)                                                                                                 \
    OF_6(V, call)                                                                                                      \
    case 7: call(7, V); break;                                                                                         \
    case 8: call(8, V); break;                                                                                         \
    case 9: call(9, V); break;                                                                                         \
    case 10: call(10, V); break;                                                                                       \
    case 11: call(11, V); break;                                                                                       \
    case 12: call(12, V); break;                                                                                       \
    case 13: call(13, V); break;
#define OF_14(V, call)                                                                                                 \
    OF_13(V, call)                                                                                                     \
    case 14: call(14, V); break;
#define OF_28(V, call)                                                                                                 \
    OF_14(V, call)                                                                                                     \
    case 15: call(15, V); break;                                                                                       \
    case 16: call(16, V); break;                                                                                       \
    case 17: call(17, V); break;                                                                                       \
    case 18: call(18, V); break;                                                                                       \
    case 19: call(19, V); break;                                                                                       \
    case 20: call(20, V); break;                                                                                       \
    case 21: call(21, V); break;                                                                                       \
    case 22: call(22, V); break;                                                                                       \
    case 23: call(23, V); break;                                                                                       \
    case 24: call(24, V); break;                                                                                       \
    case 25: call(25, V); break;                                                                                       \
    case 26: call(26, V); break;                                                                                       \
    case 27: call(27, V); break;                                                                                       \
    case 28: call(28, V); break;

#include "simd/every_width.h"
#undef TYPED

/* Pixels that a tile of so many vectors holds in registers. */
static inline ptrdiff_t most_pixels(int bytes, int vectors)
{
    if (bytes == 64)
        return 14;
    return vectors == 2 ? 6 : 13;
}

/* Taps that a tile of so many vectors holds in registers. */
static inline ptrdiff_t most_taps(int bytes, int vectors)
{
    if (bytes == 64)
        return vectors == 2 ? 14 : 28;
    return vectors == 2 ? 6 : 13;
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
