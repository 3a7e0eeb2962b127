/* Runs of elements at other distances, and weighted sums of lines: the loops of resampling.pyx.

   Written once, with GCC's and Clang's vector types (resampling_typed.h), and compiled for single elements and for
   vectors of 16, 32 and 64 bytes: the widest that the CPU has and a run fills. All give
   the same bits. */

#include "simd/cpu.h"
#include "simd/streams.h"
#include "simd/vectors.h"

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "resampling_typed.h"

#define REAL float
#define ONE 4
#include "simd/every_width.h"
#undef ONE
#undef REAL

#define REAL double
#define ONE 8
#include "simd/every_width.h"
#undef ONE
#undef TYPED
#undef REAL

/* The widest vectors that a run of `length` elements of `size` bytes fills; single elements, whose loops the compiler
   vectorises, are a matter of the CPU alone and named by `size`. */
static inline int run_bytes(ptrdiff_t length, ptrdiff_t size)
{
    int bytes = simd_bytes();
    while (bytes >= 16 && bytes > length * size)
        bytes /= 2;
    return bytes < 16 ? (int)size : bytes;
}

#define OF_REAL(real, one)                                                                                             \
    /* y[o * y_step + c] = x[o * x_step + c] for o < count and c < run; bytes: run_bytes(run, …) */                    \
    static inline void copy_runs_##real(                                                                               \
        int bytes, const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t run, ptrdiff_t count)         \
    {                                                                                                                  \
        if (run == 1)                                                                                                  \
            CHOOSE(copy_singles_##real, simd_bytes(), x, x_step, y, y_step, count);                                    \
        else                                                                                                           \
            CHOOSE_OR_ONE(copy_runs_##real, one, bytes, x, x_step, y, y_step, run, count);                             \
    }                                                                                                                  \
                                                                                                                       \
    /* The same for y_step = run. far: y goes past the caches. */                                                      \
    static void gather_##real(                                                                                         \
        const real *x, ptrdiff_t x_step, real *y, ptrdiff_t run, ptrdiff_t count, int far)                             \
    {                                                                                                                  \
        const int bytes = run_bytes(run, sizeof(real));                                                                \
        real buffer[BUFFER];                                                                                           \
        if (!far)                                                                                                      \
            copy_runs_##real(bytes, x, x_step, y, run, run, count);                                                    \
        else if (run > BUFFER)                                                                                         \
            for (ptrdiff_t o = 0; o < count; o++)                                                                      \
                stream(x + o * x_step, y + o * run, run * sizeof(real));                                               \
        else                                                                                                           \
            for (ptrdiff_t o = 0, part; o < count; o += part) {                                                        \
                part = count - o < BUFFER / run ? count - o : BUFFER / run;                                            \
                copy_runs_##real(bytes, x + o * x_step, x_step, buffer, run, run, part);                               \
                stream(buffer, y + o * run, part * run * sizeof(real));                                                \
            }                                                                                                          \
    }                                                                                                                  \
                                                                                                                       \
    /* The same for x_step = run. */                                                                                   \
    static void scatter_##real(                                                                                        \
        const real *x, real *y, ptrdiff_t y_step, ptrdiff_t run, ptrdiff_t count, int far)                             \
    {                                                                                                                  \
        if (far && run * sizeof(real) % CACHE_LINE == 0 && (uintptr_t)y % CACHE_LINE == 0)                             \
            for (ptrdiff_t o = 0; o < count; o++)                                                                      \
                stream(x + o * run, y + o * y_step, run * sizeof(real));                                               \
        else                                                                                                           \
            copy_runs_##real(run_bytes(run, sizeof(real)), x, run, y, y_step, run, count);                             \
    }                                                                                                                  \
                                                                                                                       \
    static void clear_##real(real *y, ptrdiff_t count, int far)                                                        \
    {                                                                                                                  \
        static const real zeros[BUFFER];                                                                               \
        if (!far && count > 0)                                                                                         \
            memset(y, 0, count * sizeof(real));                                                                        \
        for (ptrdiff_t j = 0; far && j < count; j += BUFFER)                                                           \
            stream(zeros, y + j, (count - j < BUFFER ? count - j : BUFFER) * sizeof(real));                            \
    }                                                                                                                  \
                                                                                                                       \
    /* y = the runs of x, y_step from one to the next, with zeros between and up to y[room]. */                        \
    static void spread_##real(                                                                                         \
        const real *x, real *y, ptrdiff_t y_step, ptrdiff_t run, ptrdiff_t count, ptrdiff_t room, int far)             \
    {                                                                                                                  \
        const int bytes = run_bytes(run, sizeof(real));                                                                \
        const ptrdiff_t most = BUFFER / y_step;                                                                        \
        real buffer[BUFFER];                                                                                           \
        ptrdiff_t o = 0;                                                                                               \
        for (; most == 0 && o < count - 1; o++) {                                                                      \
            if (far)                                                                                                   \
                stream(x + o * run, y + o * y_step, run * sizeof(real));                                               \
            else                                                                                                       \
                memcpy(y + o * y_step, x + o * run, run * sizeof(real));                                               \
            clear_##real(y + o * y_step + run, y_step - run, far);                                                     \
        }                                                                                                              \
        if (far && count > 1)                                                                                          \
            memset(buffer, 0, (count - 1 < most ? count - 1 : most) * y_step * sizeof(real));                          \
        for (ptrdiff_t part; o < count - 1; o += part) {                                                               \
            part = count - 1 - o < most ? count - 1 - o : most;                                                        \
            real *to = far ? buffer : y + o * y_step;                                                                  \
            if (run == 1 && y_step == 2)                                                                               \
                CHOOSE(weave_##real, simd_bytes(), x + o, to, part);                                                   \
            else {                                                                                                     \
                if (!far && run < y_step)                                                                              \
                    memset(to, 0, part * y_step * sizeof(real));                                                       \
                copy_runs_##real(bytes, x + o * run, run, to, y_step, run, part);                                      \
            }                                                                                                          \
            if (far)                                                                                                   \
                stream(buffer, y + o * y_step, part * y_step * sizeof(real));                                          \
        }                                                                                                              \
        memcpy(y + o * y_step, x + o * run, run * sizeof(real));                                                       \
        clear_##real(y + o * y_step + run, room - o * y_step - run, far);                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* y[o * width + j] = the sum over the o-th run, in order, of weights[k] * x[columns[k] * width + j]; o < count. */\
    static void combine_##real(                                                                                        \
        const real *x, const ptrdiff_t *begins, const ptrdiff_t *columns, const double *weights, real *y,              \
        ptrdiff_t width, ptrdiff_t count, int far)                                                                     \
    {                                                                                                                  \
        CHOOSE_OR_ONE(                                                                                                 \
            combine_##real, one, run_bytes(width, sizeof(real)), x, begins, columns, weights, y, width, count, far);   \
    }

OF_REAL(float, 4)
OF_REAL(double, 8)
