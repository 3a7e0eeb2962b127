/* Statistics of channels, and what norms do by them: channels last, with the channels in the lanes.

   Written once, as plain loops (norm_typed.h), and compiled for both float types and vectors of 16, 32 and 64 bytes.
   What includes this is compiled with -ffp-contract=off: all give the same bits. */

#include <stdint.h>

#include "simd/cpu.h"
#include "simd/streams.h"
#include "simd/vectors.h"

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "norm_typed.h"

#define REAL float
#include "simd/every_width.h"
#undef REAL

#define REAL double
#include "simd/every_width.h"
#undef TYPED
#undef REAL

/* far: y, or dx, goes past the caches where it is aligned. */
#define OF_REAL(real)                                                                                                  \
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
    }

OF_REAL(float)
OF_REAL(double)
