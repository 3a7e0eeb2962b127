/* Activation functions and their derivatives, for both float types and vectors of 16, 32 and 64 bytes from one text,
   activation_typed.h. */

#include <stddef.h>

#include "simd/cpu.h"
#include "simd/functions.h"
#include "simd/vectors.h"

enum {
    RELU, LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SIGMOID, TANH, SOFTPLUS, HARDSWISH
};

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "activation_typed.h"

#define REAL float
#include "simd/every_width.h"
#undef REAL

#define REAL double
#include "simd/every_width.h"
#undef TYPED
#undef REAL

#define OF_REAL(real)                                                                                                  \
    static inline void activate_##real(int kind, const real *x, real *y, ptrdiff_t count, real a, real b)              \
    {                                                                                                                  \
        CHOOSE(activate_##real, simd_bytes(), kind, x, y, count, a, b);                                                \
    }                                                                                                                  \
    static inline void activate_backward_##real(                                                                       \
        int kind, const real *dy, const real *x, real *dx, ptrdiff_t count, real a, real b)                            \
    {                                                                                                                  \
        CHOOSE(activate_backward_##real, simd_bytes(), kind, dy, x, dx, count, a, b);                                  \
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

OF_REAL(float)
OF_REAL(double)
