/* Tiles of a convolution in groups of a few channels: pixels along a line times one vector of lanes.

   The lanes of a vector are filters that lie side by side, of as many groups as fill it. What they multiply is a record of
   their groups' channels, one vector or two that lie in scratch, pixel by pixel: of every lane's group the same channel is
   picked by one permutation. Of two vectors the first has the first half of each group's channels, the second the others.
   For a gradient to the weights the lanes are channels, and records are of dy.

   Written with GCC's and Clang's vector types, once (grouped_typed.h), and compiled for vectors of 32 and 64 bytes:
   narrower ones have no fast permutation. */

#ifndef FASTCONV_GROUPED_H
#define FASTCONV_GROUPED_H

#include "simd/vectors.h"

typedef struct {       /* of a block of lanes */
    ptrdiff_t sources; /* channels of a group in a record */
    ptrdiff_t each;    /* of them in a vector */
    const int *begin;  /* of each lane's group, in a vector */
} Picks;

typedef struct { /* what the outputs of a line see, in elements */
    ptrdiff_t count[2], x_step[2], w_step[2]; /* axes 0 and 1: taps, steps of x and of w from one to the next */
    ptrdiff_t taps, x_tap, w_tap;             /* along the line */
    ptrdiff_t x_pixel, y_pixel;               /* from output to output */
    int far;                                  /* y is too large for the caches: vectors of STREAMED bytes go past them */
} Line;

typedef struct { /* the outputs of some lines, and neighbouring taps that see them, in elements */
    ptrdiff_t lines, x_line, dy_line;
    ptrdiff_t pixels, x_pixel, dy_pixel;
    ptrdiff_t x_tap, w_tap;
} Lines;

#define STREAMED 64
#define SLIDE 3 /* neighbouring taps for which a record is picked from once */
#define AGAIN(pointer) ({ const float *p_ = (pointer); __asm__("" : "+r"(p_)); p_; }) /* read from it in every turn */
#define NAME(name) JOIN(name, BYTES)

#define BYTES 32
#include "conv/grouped_typed.h"
#undef BYTES
#undef LANES
#undef Vector
#if defined(__x86_64__)
#define BYTES 64
#include "conv/grouped_typed.h"
#undef BYTES
#undef LANES
#undef Vector
#define CHOOSE_WIDE(name, bytes, ...) ((bytes) == 64 ? name##_64(__VA_ARGS__) : name##_32(__VA_ARGS__))
#else
#define CHOOSE_WIDE(name, bytes, ...) name##_32(__VA_ARGS__)
#endif

/* Into the second cache, in the order of memory. */
static inline void fetch(const void *x, ptrdiff_t bytes)
{
    for (ptrdiff_t at = 0; at < bytes; at += CACHE_LINE)
        __builtin_prefetch((const char *)x + at, 0, 2);
}

/* Outputs of a tile, at most. */
static inline ptrdiff_t most_outputs(int bytes)
{
    return bytes == 64 ? 16 : 8;
}

/* Records of the blocks b and the pixels p, at to + b * block + p * record: x[p * pitch + source[b * step]] and what
   follows, in the order that `order` (record) gives of two vectors; NULL: as they lie. Of x, elements before
   `end` only. */
static inline void copy_records(
    int bytes, const float *x, const float *end, ptrdiff_t pitch, ptrdiff_t pixels, const ptrdiff_t *source,
    ptrdiff_t step, const int *order, ptrdiff_t blocks, int vectors, float *to, ptrdiff_t block)
{
    CHOOSE_WIDE(copy_records, bytes, x, end, pitch, pixels, source, step, order, blocks, vectors, to, block);
}

/* y[p * y_pixel + lane] = start[lane] + the sum over the line's taps and sources of w * x, for `pixels` outputs and the
   first `lanes` lanes; in tiles of up to `width` outputs, and x is read for whole tiles. */
static inline void outputs_of_line(
    int bytes, ptrdiff_t width, const float *x, const float *w, const Picks *picks, const float *start, float *y,
    ptrdiff_t pixels, ptrdiff_t lanes, const Line *line)
{
    CHOOSE_WIDE(outputs_of_line, bytes, width, x, w, picks, start, y, pixels, lanes, line);
}

/* dw[t * w_tap + j * vector + lane] += the sum over the outputs of x * dy, for `taps` taps t and all sources j. */
static inline void products_of_lines(
    int bytes, const float *x, const float *dy, const Picks *picks, float *dw, ptrdiff_t taps, const Lines *lines)
{
    CHOOSE_WIDE(products_of_lines, bytes, x, dy, picks, dw, taps, lines);
}

#endif
