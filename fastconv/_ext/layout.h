/* Transposes, out (columns, rows) of x (rows, columns): the loops of layout.pyx.

   Written once, with GCC's and Clang's vector types (layout_typed.h), and compiled for vectors of 16, 32 and 64
   bytes. What is written takes whole lines of the cache, from registers or by way of a buffer in L1: past the caches
   that is all there is, and y may begin anywhere. */

#include <stdint.h>

#include "simd/cpu.h"
#include "simd/streams.h"
#include "simd/vectors.h"

#define RECORDS (1 << 16) /* bytes of a line of records, at most */
#define ALIASED 1024      /* bytes: rows that such a number lies between share the sets of L1 */
#define ROWS_BUFFER (24 << 10) /* bytes of a few lines of every column */
#define RUN_LINES 8   /* of each, at most */
#define KEPT 128      /* columns at a time */
#define STREAMS 16  /* rows that the hardware reads ahead of its own accord */
#define FETCHED 256 /* lines in advance, of more */

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "layout_typed.h"

#define REAL float
#define PIECE 4 /* elements of 16 bytes */
#include "simd/every_width.h"
#undef REAL
#undef PIECE

#define REAL double
#define PIECE 2
#include "simd/every_width.h"
#undef TYPED
#undef REAL
#undef PIECE

#define OF_REAL(real)                                                                                                  \
    /* y[j * y_step + i] = x[i * x_step + j] for i < rows and j < columns: some of y_step rows, or some of x_step      \
       columns where these are more. far: y goes past the caches. */                                                   \
    static inline void transpose_##real(                                                                               \
        const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t rows, ptrdiff_t columns, int far)        \
    {                                                                                                                  \
        const ptrdiff_t least = (y_step < x_step ? y_step : x_step) * (ptrdiff_t)sizeof(real);                          \
        int bytes = simd_bytes();                                                                                      \
        while (bytes > 16 && bytes / 2 >= least && least > 16)                                                         \
            bytes /= 2;                                                                                                \
        CHOOSE(transpose_##real, bytes, x, x_step, y, y_step, rows, columns, far);                                     \
    }

OF_REAL(float)
OF_REAL(double)
