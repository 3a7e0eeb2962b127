/* Sums over rows of channels: channels last, with the channels in the lanes; and of arrays, element by element.

   Written once, as plain loops (reduce_typed.h), and compiled for both float types and vectors of 16, 32 and 64 bytes:
   all give the same bits. */

#include "simd/cpu.h"
#include "simd/vectors.h"

#define NARROW 64 /* columns */

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "reduce_typed.h"

#define REAL float
#include "simd/every_width.h"
#undef REAL

#define REAL double
#include "simd/every_width.h"
#undef TYPED
#undef REAL

#define OF_REAL(real)                                                                                                  \
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
    static inline void add_##real(const real *a, const real *b, real *y, ptrdiff_t count)                              \
    {                                                                                                                  \
        CHOOSE(add_##real, simd_bytes(), a, b, y, count);                                                              \
    }                                                                                                                  \
    static inline void add_to_##real(real *y, const real *x, ptrdiff_t count)                                          \
    {                                                                                                                  \
        CHOOSE(add_to_##real, simd_bytes(), y, x, count);                                                              \
    }

OF_REAL(float)
OF_REAL(double)
