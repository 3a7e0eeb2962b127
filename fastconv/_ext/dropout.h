/* Dropout of a run of elements. Written once, as a plain loop (dropout_typed.h), and compiled for both float types and vectors
   of 16, 32 and 64 bytes: all give the same bits. */

#include <stdint.h>

#include "simd/cpu.h"
#include "simd/vectors.h"

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "dropout_typed.h"

#define REAL float
#include "simd/every_width.h"
#undef REAL

#define REAL double
#include "simd/every_width.h"
#undef TYPED
#undef REAL

#define OF_REAL(real)                                                                                                  \
    static inline void dropout_##real(                                                                                 \
        const real *x, real *y, const uint64_t *states, uint64_t threshold, real scale, ptrdiff_t count)               \
    {                                                                                                                  \
        CHOOSE(dropout_##real, simd_bytes(), x, y, states, threshold, scale, count);                                   \
    }

OF_REAL(float)
OF_REAL(double)
