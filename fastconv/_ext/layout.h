/* Transposes, out (columns, rows) of x (rows, columns): the loops of layout.pyx.

   Written once, with GCC's and Clang's vector types (layout_typed.h), and compiled for vectors of 16, 32 and 64
   bytes. */

#include "simd/cpu.h"
#include "simd/streams.h"
#include "simd/vectors.h"

#define TILE (1 << 16) /* bytes: of L2, and of a thread's stack */

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
    /* y[j * y_step + i] = x[i * x_step + j] for i < rows and j < columns; y_step = rows where those are few. */       \
    static inline void transpose_##real(                                                                               \
        const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t rows, ptrdiff_t columns)                 \
    {                                                                                                                  \
        int bytes = simd_bytes();                                                                                      \
        while (bytes > 16 && bytes > rows * (ptrdiff_t)sizeof(real))                                                   \
            bytes /= 2;                                                                                                \
        CHOOSE(transpose_##real, bytes, x, x_step, y, y_step, rows, columns);                                          \
    }                                                                                                                  \
                                                                                                                       \
    /* The same past the caches, by way of a tile in L2. */                                                            \
    static void stream_transpose_##real(                                                                               \
        const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t rows, ptrdiff_t columns)                 \
    {                                                                                                                  \
        real tile[TILE / sizeof(real)];                                                                                \
        const ptrdiff_t most = TILE / (ptrdiff_t)sizeof(real) / rows;                                                  \
        for (ptrdiff_t j = 0, part; j < columns; j += part) {                                                          \
            part = columns - j < most ? columns - j : most;                                                            \
            transpose_##real(x + j, x_step, tile, rows, rows, part);                                                   \
            if (y_step == rows)                                                                                        \
                stream(tile, y + j * y_step, part * rows * sizeof(real));                                              \
            else                                                                                                       \
                for (ptrdiff_t k = 0; k < part; k++)                                                                   \
                    stream(tile + k * rows, y + (j + k) * y_step, rows * sizeof(real));                                \
        }                                                                                                              \
    }

OF_REAL(float)
OF_REAL(double)
