/* Statistics of channels, and what norms do by them: channels last, with the channels in the lanes.

   Written once, as plain loops (norm_typed.h), and compiled for both float types and vectors of 16, 32 and 64 bytes.
   What includes this is compiled with -ffp-contract=off: all give the same bits. */

#include <stdint.h>

#include "simd/cpu.h"
#include "simd/streams.h"
#include "simd/vectors.h"

/* Windows side by side on x (N, i0, i1, i2, C), which see every input once, but for ends of lines. */
#define MOST_TAPS 64 /* of a window */
#define WIDEST 16    /* elements of a vector */
#define NO_TAP (-1)  /* of a window that relu made 0, */
#define UNSEEN (-2)  /* and of an input that is in no window */

typedef struct {
    ptrdiff_t inputs[3], kernel[3], outputs[3], taps, width; /* width: channels */
    ptrdiff_t offsets[MOST_TAPS];                            /* of the taps, in elements from the first */
} Windows;

/* A line of inputs: its number in the batch, its first window's, and the tap that it begins with there. */
typedef struct {
    ptrdiff_t line, window, tap;
} Line;

static inline Line line_of(const Windows *w, ptrdiff_t line)
{
    const ptrdiff_t row = line % w->inputs[1], plane = line / w->inputs[1] % w->inputs[0];
    const ptrdiff_t image = line / w->inputs[1] / w->inputs[0];
    const ptrdiff_t window = (image * w->outputs[0] + plane / w->kernel[0]) * w->outputs[1] + row / w->kernel[1];
    const ptrdiff_t tap = (plane % w->kernel[0] * w->kernel[1] + row % w->kernel[1]) * w->kernel[2];
    return (Line){line, window * w->outputs[2], tap};
}

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "norm_typed.h"

#define REAL float
#define WHOLE int32_t
#include "simd/every_width.h"
#undef REAL
#undef WHOLE

#define REAL double
#define WHOLE int64_t
#include "simd/every_width.h"
#undef TYPED
#undef REAL
#undef WHOLE

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
    }                                                                                                                  \
    static inline void normalise_windows_##real(                                                                       \
        const real *x, const Windows *w, const real *mean, const real *scale, const real *shift, real *y,              \
        signed char *chosen)                                                                                           \
    {                                                                                                                  \
        CHOOSE(normalise_windows_##real, simd_bytes(), x, w, mean, scale, shift, y, chosen);                           \
    }                                                                                                                  \
    static inline void windows_products_##real(                                                                        \
        const real *dy, const signed char *chosen, const real *x, const real *mean, const Windows *w, double *sums,    \
        double *products, ptrdiff_t first, ptrdiff_t count)                                                            \
    {                                                                                                                  \
        CHOOSE(windows_products_##real, simd_bytes(), dy, chosen, x, mean, w, sums, products, first, count);           \
    }                                                                                                                  \
    static inline void windows_backward_##real(                                                                        \
        const real *dy, const signed char *chosen, const real *x, const Windows *w, const real *mean,                  \
        const real *scale, const real *slope, const real *shift, real *dx, int far)                                    \
    {                                                                                                                  \
        CHOOSE(windows_backward_##real, simd_bytes(), dy, chosen, x, w, mean, scale, slope, shift, dx, far);           \
    }

OF_REAL(float)
OF_REAL(double)
