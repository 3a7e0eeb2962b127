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

/* `count` runs that are read soon: to L2. */
static inline void fetch_runs(const char *x, ptrdiff_t step, ptrdiff_t run, ptrdiff_t count)
{
    if (step < run + CACHE_LINE)
        run = (count - 1) * step + run, count = 1;
    for (ptrdiff_t o = 0; o < count; o++)
        for (ptrdiff_t i = 0; i < run + CACHE_LINE - 1; i += CACHE_LINE)
            __builtin_prefetch(x + o * step + i, 0, 2);
}

#define OF_REAL(real, one)                                                                                             \
    /* y[o * y_step + c] = x[o * x_step + c] for o < count and c < run; bytes: run_bytes(run, …) */                    \
    static inline void copy_runs_##real(                                                                               \
        int bytes, const real *x, ptrdiff_t x_step, real *y, ptrdiff_t y_step, ptrdiff_t run, ptrdiff_t count)         \
    {                                                                                                                  \
        if (run == 1)                                                                                                  \
            CHOOSE(copy_singles_##real, simd_bytes(), x, x_step, y, y_step, count);                                    \
        else if (y_step == run && bytes < 16)                                                                          \
            copy_short_##real##_16(x, x_step, y, run, count);                                                          \
        else                                                                                                           \
            CHOOSE_OR_ONE(copy_runs_##real, one, bytes, x, x_step, y, y_step, run, count);                             \
    }                                                                                                                  \
                                                                                                                       \
    /* The same for y_step = run, to y or to the writer's, where there is one. next: what is read soon, or NULL. */    \
    static void gather_##real(                                                                                         \
        Writer *writer, const real *x, ptrdiff_t x_step, real *y, ptrdiff_t run, ptrdiff_t count, const real *next)    \
    {                                                                                                                  \
        const int bytes = run_bytes(run, sizeof(real));                                                                \
        const ptrdiff_t size = run * sizeof(real), most = HELD / size;                                                 \
        if (!writer)                                                                                                   \
            copy_runs_##real(bytes, x, x_step, y, run, run, count);                                                    \
        for (ptrdiff_t o = 0, part; writer && o < count; o += part) {                                                  \
            part = most == 0 ? 1 : count - o < most ? count - o : most;                                                \
            if (next)                                                                                                  \
                fetch_runs((const char *)(next + o * x_step), x_step * sizeof(real), size, part);                      \
            if (most == 0)                                                                                             \
                writer_copy(writer, x + o * x_step, size);                                                             \
            else {                                                                                                     \
                copy_runs_##real(bytes, x + o * x_step, x_step, writer_room(writer), run, run, part);                  \
                writer_take(writer, part * size);                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* y[o * run + c] = x[columns[o] * run + c]; x has `length` elements. twice: columns[o] = o / 2. */                \
    static inline void pick_runs_##real(                                                                               \
        const real *x, ptrdiff_t length, const ptrdiff_t *columns, real *y, ptrdiff_t run, ptrdiff_t count, int twice) \
    {                                                                                                                  \
        const int bytes = run_bytes(run, sizeof(real));                                                                \
        if (run == 1 && twice) {                                                                                       \
            CHOOSE(double_singles_##real, simd_bytes(), x + *columns, y, count / 2);                                   \
            if (count % 2)                                                                                             \
                y[count - 1] = x[columns[count - 1]];                                                                  \
        } else if (run == 1)                                                                                           \
            CHOOSE(pick_singles_##real, simd_bytes(), x, columns, y, count);                                           \
        else if (bytes < 16)                                                                                           \
            pick_short_##real##_16(x, length, columns, y, run, count);                                                 \
        else                                                                                                           \
            CHOOSE(pick_runs_##real, bytes, x, columns, y, run, count);                                                \
    }                                                                                                                  \
                                                                                                                       \
    static void pick_##real(                                                                                           \
        Writer *writer, const real *x, ptrdiff_t length, const ptrdiff_t *columns, real *y, ptrdiff_t run,             \
        ptrdiff_t count, int twice, const real *next)                                                                  \
    {                                                                                                                  \
        const ptrdiff_t size = run * sizeof(real), most = HELD / size < 2 ? 1 : HELD / size / 2 * 2;                   \
        if (!writer)                                                                                                   \
            pick_runs_##real(x, length, columns, y, run, count, twice);                                                \
        for (ptrdiff_t o = 0, part; writer && o < count; o += part) {                                                  \
            part = count - o < most ? count - o : most;                                                                \
            if (next)                                                                                                  \
                fetch_runs(                                                                                            \
                    (const char *)(next + columns[o] * run), 0, (columns[o + part - 1] + 1 - columns[o]) * size, 1);   \
            if (size > HELD)                                                                                           \
                writer_copy(writer, x + columns[o] * run, size);                                                       \
            else {                                                                                                     \
                pick_runs_##real(x, length, columns + o, writer_room(writer), run, part, twice);                       \
                writer_take(writer, part * size);                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* y[o * y_step + c] = x[o * run + c]. far: runs of whole lines go past the caches. next: y's that are written     \
       soon, or NULL. */                                                                                               \
    static void scatter_##real(                                                                                        \
        const real *x, real *y, ptrdiff_t y_step, ptrdiff_t run, ptrdiff_t count, int far, const real *next)           \
    {                                                                                                                  \
        if (far && (run * sizeof(real) | y_step * sizeof(real) | (uintptr_t)y) % CACHE_LINE == 0)                      \
            for (ptrdiff_t o = 0; o < count; o++)                                                                      \
                stream_lines(x + o * run, y + o * y_step, run * sizeof(real));                                         \
        else {                                                                                                         \
            if (next)                                                                                                  \
                fetch_runs((const char *)next, y_step * sizeof(real), run * sizeof(real), count);                      \
            copy_runs_##real(run_bytes(run, sizeof(real)), x, run, y, y_step, run, count);                             \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* The runs of x, y_step from one to the next, with zeros between and up to y[room]. */                            \
    static void spread_##real(                                                                                         \
        Writer *writer, const real *x, real *y, ptrdiff_t y_step, ptrdiff_t run, ptrdiff_t count, ptrdiff_t room)      \
    {                                                                                                                  \
        const int bytes = run_bytes(run, sizeof(real));                                                                \
        const ptrdiff_t size = sizeof(real), fits = HELD / size / y_step, most = fits < 1 ? 1 : fits;                  \
        for (ptrdiff_t o = 0, part; o < count; o += part) {                                                            \
            part = count - o < most ? count - o : most;                                                                \
            real *to = writer && fits ? writer_room(writer) : y + o * y_step;                                          \
            const ptrdiff_t last = o + part == count, length = last ? room - o * y_step : part * y_step;               \
            const ptrdiff_t whole = last ? (part - 1) * y_step + run : length;                                         \
            if (writer && !fits) {                                                                                     \
                writer_copy(writer, x + o * run, run * size);                                                          \
                writer_copy(writer, NULL, (length - run) * size);                                                      \
                continue;                                                                                              \
            }                                                                                                          \
            if (run == 1 && y_step == 2)                                                                               \
                CHOOSE(weave_##real, simd_bytes(), x + o, to, last ? part - 1 : part);                                 \
            else {                                                                                                     \
                if (run < y_step)                                                                                      \
                    memset(to, 0, whole * size);                                                                       \
                copy_runs_##real(bytes, x + o * run, run, to, y_step, run, part);                                      \
            }                                                                                                          \
            if (run == 1 && last)                                                                                      \
                to[whole - 1] = x[count - 1];                                                                          \
            if (writer) {                                                                                              \
                writer_take(writer, whole * size);                                                                     \
                writer_copy(writer, NULL, (length - whole) * size);                                                    \
            } else                                                                                                     \
                memset(to + whole, 0, (length - whole) * size);                                                        \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* y[o * width + j] = the sum over the o-th run, in order, of weights[k] * x[columns[k] * width + j]; o < count. */\
    static void combine_##real(                                                                                        \
        Writer *writer, const real *x, const ptrdiff_t *begins, const ptrdiff_t *columns, const double *weights,       \
        real *y, ptrdiff_t width, ptrdiff_t count)                                                                     \
    {                                                                                                                  \
        CHOOSE_OR_ONE(                                                                                                 \
            combine_##real, one, run_bytes(width, sizeof(real)), writer, x, begins, columns, weights, y, width, count);\
    }

OF_REAL(float, 4)
OF_REAL(double, 8)
