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

/* Vectors of twice so many bytes, where lanes fill more than one of `bytes` and pixels follow each other: 0 for none. A
   pixel then takes one vector; the last one of a run none, for nothing follows it. */
static inline int wider(int bytes, ptrdiff_t lanes, ptrdiff_t size, ptrdiff_t pixels)
{
    return pixels > 1 && bytes >= 16 && lanes * size > bytes && 2 * bytes <= simd_bytes() ? 2 * bytes : 0;
}

/* bytes: vector_bytes(…) for these lanes */
#define OF_REAL(real, one)                                                                                             \
    static inline void max_##real(                                                                                     \
        int bytes, const real *x, ptrdiff_t across, real *y, void *taps, int wide, ptrdiff_t apart, const Box *box,    \
        ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)                                                            \
    {                                                                                                                  \
        const int over = across == 1 && apart == 1 ? wider(bytes, lanes, sizeof(real), pixels) : 0;                    \
        if (over) {                                                                                                    \
            CHOOSE(max_over_##real, over, x, y, taps, wide, box, lanes, pixels - 1, right);                            \
            x += (pixels - 1) * right, y += (pixels - 1) * lanes;                                                      \
            taps = (char *)taps + (pixels - 1) * lanes * (wide ? (ptrdiff_t)sizeof(int) : 1), pixels = 1;              \
        }                                                                                                              \
        CHOOSE_OR_ONE(max_##real, one, bytes, x, across, y, taps, wide, apart, box, lanes, pixels, right);             \
    }                                                                                                                  \
                                                                                                                       \
    static inline void put_##real(                                                                                     \
        int bytes, const real *y, const unsigned char *taps, real *x, const Box *box, int apart, ptrdiff_t lanes,      \
        ptrdiff_t pixels, ptrdiff_t right)                                                                             \
    {                                                                                                                  \
        const int whole = apart && box->step[2] == lanes && right == box->count[2] * lanes;                            \
        const int over = whole ? wider(bytes, lanes, sizeof(real), pixels) : 0;                                        \
        if (over) {                                                                                                    \
            CHOOSE(put_over_##real, over, y, taps, x, box, lanes, pixels - 1, right);                                  \
            x += (pixels - 1) * right, y += (pixels - 1) * lanes, taps += (pixels - 1) * lanes, pixels = 1;            \
        }                                                                                                              \
        CHOOSE_OR_ONE(put_##real, one, bytes, y, taps, x, box, apart, lanes, pixels, right);                           \
    }                                                                                                                  \
                                                                                                                       \
    static inline void sum_##real(                                                                                     \
        int bytes, const real *x, ptrdiff_t across, real *y, ptrdiff_t apart, const Box *box, ptrdiff_t divisor,       \
        ptrdiff_t lanes, ptrdiff_t pixels, ptrdiff_t right)                                                            \
    {                                                                                                                  \
        const int over = across == 1 && apart == 1 ? wider(bytes, lanes, sizeof(real), pixels) : 0;                    \
        if (over) {                                                                                                    \
            CHOOSE(sum_over_##real, over, x, y, box, divisor, lanes, pixels - 1, right);                               \
            x += (pixels - 1) * right, y += (pixels - 1) * lanes, pixels = 1;                                          \
        }                                                                                                              \
        CHOOSE_OR_ONE(sum_##real, one, bytes, x, across, y, apart, box, divisor, lanes, pixels, right);                \
    }

OF_REAL(float, 4)
OF_REAL(double, 8)

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
