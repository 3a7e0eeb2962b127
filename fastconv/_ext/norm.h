/* Sums over rows of channels, and what norms and prelu do to them: channels last, with the channels in the lanes.

   Written once, as plain loops (norm_typed.h), and compiled for both float types and vectors of 16, 32 and 64 bytes.
   What includes this is compiled with -ffp-contract=off: all give the same bits. */

#ifndef FASTCONV_NORM_H
#define FASTCONV_NORM_H

#include <stdint.h>

#include "simd.h"
#include "vectors.h"

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "norm_typed.h"
#define AHEAD 4096 /* bytes */
#define NARROW 64 /* columns */
#define LEAST(a, b) ((a) < (b) ? (a) : (b))

#define REAL float
#include "every_width.h"
#undef REAL

#define REAL double
#include "every_width.h"
#undef TYPED
#undef REAL

/* name_float and name_double for this process's vectors. far: y, or dx, goes past the caches where it is aligned. */
#define LEVELS(real)                                                                                                   \
    static inline void column_sums_##real(const real *x, double *sums, ptrdiff_t rows, ptrdiff_t width)                \
    {                                                                                                                  \
        CHOOSE(column_sums_##real, simd_bytes(), x, sums, rows, width);                                                \
    }                                                                                                                  \
    static inline void add_in_order_##real(                                                                            \
        const real *partial, real *y, ptrdiff_t terms, ptrdiff_t size, ptrdiff_t count)                                \
    {                                                                                                                  \
        CHOOSE(add_in_order_##real, simd_bytes(), partial, y, terms, size, count);                                     \
    }                                                                                                                  \
    static inline void add_row_##real(real *x, const real *row, ptrdiff_t rows, ptrdiff_t width)                       \
    {                                                                                                                  \
        CHOOSE(add_row_##real, simd_bytes(), x, row, rows, width);                                                     \
    }                                                                                                                  \
    static inline void moments_##real(                                                                                 \
        const real *x, const real *pivot, double *sums, double *squares, ptrdiff_t count, ptrdiff_t width)             \
    {                                                                                                                  \
        CHOOSE(moments_##real, simd_bytes(), x, pivot, sums, squares, count, width);                                   \
    }                                                                                                                  \
    static inline void products_##real(                                                                                \
        const real *dy, const real *x, const real *mean, double *sums, double *products, ptrdiff_t count,              \
        ptrdiff_t width)                                                                                               \
    {                                                                                                                  \
        CHOOSE(products_##real, simd_bytes(), dy, x, mean, sums, products, count, width);                              \
    }                                                                                                                  \
    static inline void relu_products_##real(                                                                           \
        const real *dy, const real *x, const real *mean, const real *scale, const real *shift, double *sums,           \
        double *products, ptrdiff_t count, ptrdiff_t width)                                                            \
    {                                                                                                                  \
        CHOOSE(relu_products_##real, simd_bytes(), dy, x, mean, scale, shift, sums, products, count, width);           \
    }                                                                                                                  \
    static inline void gated_products_##real(                                                                          \
        const real *dy, const real *y, const real *x, const real *mean, real *gated, double *sums, double              \
        *products, ptrdiff_t count, ptrdiff_t width)                                                                   \
    {                                                                                                                  \
        CHOOSE(gated_products_##real, simd_bytes(), dy, y, x, mean, gated, sums, products, count, width);              \
    }                                                                                                                  \
    static inline void scale_shift_##real(                                                                             \
        const real *x, const real *mean, const real *scale, const real *shift, const real *addend, int relu,           \
        real *y, ptrdiff_t count, ptrdiff_t width, int far)                                                            \
    {                                                                                                                  \
        CHOOSE(scale_shift_##real, simd_bytes(), x, mean, scale, shift, addend, relu, y, count, width, far);           \
    }                                                                                                                  \
    static inline void scale_shift_backward_##real(                                                                    \
        const real *dy, const real *x, const real *mean, const real *scale, const real *slope, const real              \
        *shift, const real *before, real *dx, ptrdiff_t count, ptrdiff_t width, int far)                               \
    {                                                                                                                  \
        CHOOSE(scale_shift_backward_##real, simd_bytes(), dy, x, mean, scale, slope, shift, before, dx, count,         \
        width, far);                                                                                                   \
    }                                                                                                                  \
    static inline void prelu_##real(                                                                                   \
        const real *x, const real *weight, real *y, ptrdiff_t count, ptrdiff_t width)                                  \
    {                                                                                                                  \
        CHOOSE(prelu_##real, simd_bytes(), x, weight, y, count, width);                                                \
    }                                                                                                                  \
    static inline void prelu_backward_##real(                                                                          \
        const real *dy, const real *x, const real *weight, real *dx, double *sums, ptrdiff_t count, ptrdiff_t width)   \
    {                                                                                                                  \
        CHOOSE(prelu_backward_##real, simd_bytes(), dy, x, weight, dx, sums, count, width);                            \
    }

LEVELS(float)
LEVELS(double)
#undef LEVELS

#endif
