/* The loops of lowering.pyx: windows copied into rows of a column tile, and added back.

   Written once, with GCC's and Clang's vector types (lowering_typed.h), and compiled for vectors of 16, 32 and 64
   bytes. */

#include "simd/cpu.h"
#include "simd/vectors.h"

#define PIECES 64  /* of a row, at most */
#define ZEROS 1024 /* elements of a piece of padding, at most */

/* The rows of a run of outputs of one line: `count` pieces of `span` elements each. */
typedef struct {
    const void *pieces[PIECES]; /* of the first output: a window's line, or a tap where not whole */
    ptrdiff_t steps[PIECES];    /* elements to the next output's; 0 for a piece in the padding: zeros */
    ptrdiff_t count, first, span; /* first: of a window's pieces */
    ptrdiff_t at, stride; /* where the first output's window begins along the line, and the next one's */
    ptrdiff_t length, taps, dilation, channels;
    int whole; /* whether a window's line is one piece */
} Rows;

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "conv/lowering_typed.h"

#define REAL float
#include "simd/every_width.h"
#undef REAL

#define REAL double
#include "simd/every_width.h"
#undef TYPED
#undef REAL

#define OF_REAL(real)                                                                                                  \
    static const real zeros_##real[ZEROS];                                                                             \
                                                                                                                       \
    /* The rows of `pixels` outputs to y, of which, and of x, the memory ends at y_end and x_end. */                   \
    static inline void rows_##real(                                                                                    \
        const Rows *rows, real *y, ptrdiff_t pixels, const real *x_end, const real *y_end)                             \
    {                                                                                                                  \
        int bytes = simd_bytes();                                                                                      \
        while (bytes > 16 && bytes / 2 >= rows->span * (ptrdiff_t)sizeof(real))                                        \
            bytes /= 2;                                                                                                \
        CHOOSE(rows_##real, bytes, rows, y, pixels, x_end, y_end);                                                     \
    }                                                                                                                  \
                                                                                                                       \
    /* y[j] = x[j * step] for head <= j < stop, and 0 for the others of `count`. */                                    \
    static inline void run_##real(                                                                                     \
        const real *x, ptrdiff_t step, real *y, ptrdiff_t head, ptrdiff_t stop, ptrdiff_t count)                       \
    {                                                                                                                  \
        if (head)                                                                                                      \
            memset(y, 0, head * sizeof(real));                                                                         \
        if (step > 1)                                                                                                  \
            CHOOSE(strided_##real, simd_bytes(), x + head * step, step, y + head, stop - head);                        \
        else if (stop > head)                                                                                          \
            memcpy(y + head, x + head, (stop - head) * sizeof(real));                                                  \
        if (stop < count)                                                                                              \
            memset(y + stop, 0, (count - stop) * sizeof(real));                                                        \
    }                                                                                                                  \
                                                                                                                       \
    static inline void add_run_##real(const real *x, real *y, ptrdiff_t count)                                         \
    {                                                                                                                  \
        CHOOSE(add_run_##real, simd_bytes(), x, y, count);                                                             \
    }

OF_REAL(float)
OF_REAL(double)
