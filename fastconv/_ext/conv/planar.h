/* Register tiles of a convolution with few channels: sums times columns, with the columns in the lanes.

   Written with GCC's and Clang's vector types, once (planar_typed.h), and compiled for vectors of 16, 32 and 64 bytes.
   Pixels, a run of channels each, become planes, a run of columns for each channel, and back. */

#ifndef FASTCONV_PLANAR_H
#define FASTCONV_PLANAR_H

#include "simd/vectors.h"

#if defined(__x86_64__)
#define IN_REGISTER(vector) ({ Vector value_ = (vector); __asm__("" : "+v"(value_)); value_; }) /* loaded once */
#else
#define IN_REGISTER(vector) (vector)
#endif

#define NAME(name) JOIN(name, BYTES)
#define TYPED "conv/planar_typed.h"

#include "simd/every_width.h"
#undef TYPED

/* Sums that a tile holds at most. */
static inline ptrdiff_t most_sums(int bytes)
{
    return bytes == 64 ? 9 : 6;
}

/* Vectors of columns that a tile of so many sums holds in registers. */
static inline ptrdiff_t most_vectors(int bytes, ptrdiff_t sums)
{
    if (bytes == 64)
        return sums <= 6 ? 4 : 3;
    return sums <= 4 ? 3 : 2;
}

/* y[m * line + j] = start[m] + the sum over the runs t and their elements k, in order, of w[taps[t] + k * step + m] *
   x[at[t] + k * pitch + j], for m < sums and the columns j of `vectors` vectors. A line from `next` on
   is fetched in advance with every element. */
static inline void tile_sums(
    int bytes, ptrdiff_t sums, ptrdiff_t vectors, const float *x, const ptrdiff_t *at, ptrdiff_t runs, ptrdiff_t length,
    ptrdiff_t pitch, const float *w, const ptrdiff_t *taps, ptrdiff_t step, const float *start, float *y,
    ptrdiff_t line, const float *next)
{
    CHOOSE(tile_sums, bytes, sums, vectors, x, at, runs, length, pitch, w, taps, step, start, y, line, next);
}

/* planes[k * count + j] = x[at[j] + k] for k < channels, zeros[k] where at[j] < 0; count: of pixels, whole vectors. */
static inline void to_planes(
    int bytes, const float *x, const ptrdiff_t *at, const float *zeros, ptrdiff_t channels, ptrdiff_t count,
    float *planes)
{
    CHOOSE(to_planes, bytes, x, at, zeros, channels, count, planes);
}

/* x[i * line + j] = 0 for i < lines and j < count rounded up to whole vectors. */
static inline void clear_lines(int bytes, float *x, ptrdiff_t line, ptrdiff_t lines, ptrdiff_t count)
{
    CHOOSE(clear_lines, bytes, x, line, lines, count);
}

/* y[j] = start + the sum over t, in order, of x[at[t] + j], for j < count rounded up to whole vectors. */
static inline void add_lines(
    int bytes, const float *x, const ptrdiff_t *at, ptrdiff_t terms, float start, ptrdiff_t count, float *y)
{
    CHOOSE(add_lines, bytes, x, at, terms, start, count, y);
}

/* The first `count` elements of pixels[j * channels + k] = planes[k * line + j]. */
static inline void from_planes(
    int bytes, const float *planes, ptrdiff_t line, ptrdiff_t channels, ptrdiff_t count, float *pixels)
{
    CHOOSE(from_planes, bytes, planes, line, channels, count, pixels);
}

#endif
