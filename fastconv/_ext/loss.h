/* Losses of a difference and their derivatives, for both float types and vectors of 16, 32 and 64 bytes from one text,
   loss_typed.h. */

#include <stddef.h>

#include "simd/cpu.h"
#include "simd/functions.h"
#include "simd/vectors.h"

enum {
    SQUARED, ABSOLUTE, CROSS_ENTROPY
};

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "loss_typed.h"

#define REAL float
#include "simd/every_width.h"
#undef REAL

#define REAL double
#include "simd/every_width.h"
#undef TYPED
#undef REAL

/* y = the loss of every x against its t; dx and dt = the derivatives to x and to t. */
#define OF_REAL(real)                                                                                                  \
    static inline void errors_##real(int kind, const real *x, const real *t, real *y, ptrdiff_t count)                 \
    {                                                                                                                  \
        CHOOSE(errors_##real, simd_bytes(), kind, x, t, y, count);                                                     \
    }                                                                                                                  \
    static inline void errors_backward_##real(int kind, const real *x, const real *t, real *dx, ptrdiff_t count)       \
    {                                                                                                                  \
        CHOOSE(errors_backward_##real, simd_bytes(), kind, x, t, dx, count);                                           \
    }                                                                                                                  \
    static inline void errors_target_backward_##real(int kind, const real *x, const real *t, real *dt, ptrdiff_t count)\
    {                                                                                                                  \
        CHOOSE(errors_target_backward_##real, simd_bytes(), kind, x, t, dt, count);                                    \
    }

OF_REAL(float)
OF_REAL(double)
