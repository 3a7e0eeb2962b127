/* A line of pooling windows over a run of lanes, in vectors: its maximum, its sum, and the gradient of its maximum.

   Compilers neither vectorise a maximum that also keeps a one-byte tap number nor keep it in registers, so these loops are
   written with GCC's and Clang's vector types, once (pooling_typed.h), and compiled for single elements and for vectors of
   16, 32 and 64 bytes. The widest that the CPU has and the lanes fill is taken; all give the same bits.

   A window is count[0] * count[1] * count[2] elements x[i0 * step[0] + i1 * step[1] + i2 * step[2]]; tap[a] is what a
   step along axis a adds to the tap number, `first` the first one's number. Lane j is the window from x[j * across] on and
   gives y[j * apart]; a last vector that the lanes do not fill overlaps the one before it. The same for `pixels` windows,
   each `right` elements of x after the one before; their results lie beside each other. */

#include "simd/cpu.h"
#include "simd/vectors.h"

typedef struct {
    ptrdiff_t count[3], step[3], tap[3], first;
} Box;

#define VECTORS 4 /* at a time, then 2, then 1 */
#define IS_TWO(box) ((box)->count[0] == 1 && (box)->count[1] == 2 && (box)->count[2] == 2) /* by far the usual one */
#define SHORT 128 /* terms that are summed one by one; so many such sums make one of the next of LEVELS levels */
#define LEVELS 4

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "pool/pooling_typed.h"

#define REAL float
#define INTEGER int
#define ONE 4
#include "simd/every_width.h"
#undef ONE
#undef REAL
#undef INTEGER

#define REAL double
#define INTEGER long long
#define ONE 8
#include "simd/every_width.h"
#undef ONE
#undef TYPED
#undef REAL
#undef INTEGER

/* The vectors for so many lanes of `size` bytes: at most `widest` bytes, and no wider than the lanes; 0 for none. */
static inline int vector_bytes(ptrdiff_t lanes, ptrdiff_t size, int widest)
{
    int bytes = simd_bytes();
    while (bytes >= 16 && (bytes > lanes * size || bytes > widest))
        bytes /= 2;
    return bytes < 16 ? 0 : bytes;
}

/* bytes: vector_bytes(…) for these lanes */
static inline void max_float(
    int bytes, const float *x, ptrdiff_t across, float *y, void *taps, int wide, ptrdiff_t apart, const Box *box,
    ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)
{
    CHOOSE_OR_ONE(max_float, 4, bytes, x, across, y, taps, wide, apart, box, lanes, pixels, right);
}

static inline void max_double(
    int bytes, const double *x, ptrdiff_t across, double *y, void *taps, int wide, ptrdiff_t apart, const Box *box,
    ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)
{
    CHOOSE_OR_ONE(max_double, 8, bytes, x, across, y, taps, wide, apart, box, lanes, pixels, right);
}

static inline void put_float(
    int bytes, const float *y, const unsigned char *taps, float *x, const Box *box, int apart, ptrdiff_t lanes,
    ptrdiff_t pixels, ptrdiff_t right)
{
    CHOOSE_OR_ONE(put_float, 4, bytes, y, taps, x, box, apart, lanes, pixels, right);
}

static inline void put_double(
    int bytes, const double *y, const unsigned char *taps, double *x, const Box *box, int apart, ptrdiff_t lanes,
    ptrdiff_t pixels, ptrdiff_t right)
{
    CHOOSE_OR_ONE(put_double, 8, bytes, y, taps, x, box, apart, lanes, pixels, right);
}

static inline void sum_float(
    int bytes, const float *x, ptrdiff_t across, float *y, ptrdiff_t apart, const Box *box, ptrdiff_t divisor,
    ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)
{
    CHOOSE_OR_ONE(sum_float, 4, bytes, x, across, y, apart, box, divisor, lanes, pixels, right);
}

static inline void sum_double(
    int bytes, const double *x, ptrdiff_t across, double *y, ptrdiff_t apart, const Box *box, ptrdiff_t divisor,
    ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)
{
    CHOOSE_OR_ONE(sum_double, 8, bytes, x, across, y, apart, box, divisor, lanes, pixels, right);
}

/* x at the taps that `taps` names += y, tap by its offset: for windows of many taps, and for those of which only the
   offsets begin .. end - 1 are to be written. */
#define SCATTER(real, small, name)                                                                                     \
    static __attribute__((noinline)) void name(                                                                        \
        const real *y, const small *taps, real *x, const ptrdiff_t *offsets, ptrdiff_t begin, ptrdiff_t end,           \
        ptrdiff_t lanes)                                                                                               \
    {                                                                                                                  \
        const size_t size = end - begin;                                                                               \
        for (ptrdiff_t j = 0; j < lanes; j++) {                                                                        \
            const ptrdiff_t at = offsets[taps[j]];                                                                     \
            if ((size_t)(at - begin) < size)                                                                           \
                x[at + j] += y[j];                                                                                     \
        }                                                                                                              \
    }

SCATTER(float, unsigned char, scatter_bytes_float)
SCATTER(float, int, scatter_ints_float)
SCATTER(double, unsigned char, scatter_bytes_double)
SCATTER(double, int, scatter_ints_double)
