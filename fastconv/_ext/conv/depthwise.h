/* Depthwise and narrow grouped convolution on channels-last arrays: a vector holds channels that lie side by side, and a
   run of outputs along a line is computed in registers.

   Three kinds of lanes, `source` being the operand that the lanes pick from:
       PLAIN       lane i takes channel i of the source: depthwise
       PERMUTED    lanes of several whole groups; each takes channel j of its group, by a permutation of one vector
       BROADCAST   all lanes lie in one group and take the same channel

   Written with GCC's and Clang's vector types, once (depthwise_typed.h), and compiled for single elements and for vectors
   of 16, 32 and 64 bytes; fastconv/engine/depthwise.py decides which. */

#include "conv/epilogue.h"
#include "simd/vectors.h"

enum { PLAIN, PERMUTED, BROADCAST };

#define PIXELS 8 /* outputs at a time */
#define STRIPS 9  /* of taps of a gradient to the weights at a time */
#define SUMMED 4  /* outputs that share vectors of x there */
#define SLIDE 3  /* neighbouring taps for which a vector of x is read once */

typedef struct {                              /* outputs along a line, and the taps that they see */
    ptrdiff_t count[2], x_step[2], w_step[2]; /* axes 0 and 1: taps inside; elements of x and of w from one to the next */
    ptrdiff_t taps, x_tap, w_tap;             /* along the line */
    const ptrdiff_t *inside;                  /* (taps, 2): the outputs first .. last - 1 for which a tap lies inside, any number */
    ptrdiff_t inner_first, inner_last;        /* for which all taps do */
    ptrdiff_t first, last;                    /* the run itself */
    ptrdiff_t x_pixel, y_pixel;               /* elements from output to output */
    ptrdiff_t ahead, y_ahead, ahead_pixel;    /* elements to what is read next of x, of dy, and of x for an output; 0: none */
    const Epilogue *after;                    /* without addend; its norm in the lanes, as the bias */
    int far;                                  /* y is too large for the caches: vectors of STREAMED bytes go past them */
} Run;

typedef struct { /* neighbouring taps along a line: of the first the offset in x, in dw, and Run's `inside` */
    ptrdiff_t at, to;
    const ptrdiff_t *inside;
} Strip;

typedef struct { /* x and dy of the next line, and how many bytes of them to fetch for every output of this one */
    const char *x, *dy;
    ptrdiff_t x_share, dy_share;
} Soon;

typedef struct {
    int kind;
    ptrdiff_t blocks, sources, lanes; /* of one block, from its `skip` on, lanes are of use */
    const ptrdiff_t *block;           /* (blocks, 3): first channel of the source, of the lanes' side, skip */
    const int *masks;                 /* (blocks, sources, vector): PERMUTED's */
    ptrdiff_t block_size;             /* elements of a block's weights, packed (taps, sources, vector) */
} Lanes;

#define STREAMED 64

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "conv/depthwise_typed.h"

static inline ptrdiff_t least(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

static inline ptrdiff_t most(ptrdiff_t a, ptrdiff_t b)
{
    return a > b ? a : b;
}

/* Bytes begin .. end - 1 from x on, into the second cache: the first takes too few misses at a time. In the order of
   memory, which the CPU's own prefetching then continues. */
static inline void prefetch(const void *x, ptrdiff_t begin, ptrdiff_t end)
{
    for (; begin < end; begin += CACHE_LINE)
        __builtin_prefetch((const char *)x + begin, 0, 2);
}

#define REAL float
#define SINGLE 1
#define INTEGER int
#define ONE 4
#include "simd/every_width.h"
#undef ONE
#undef REAL
#undef SINGLE
#undef INTEGER

#define REAL double
#define SINGLE 0
#define INTEGER long long
#define ONE 8
#include "simd/every_width.h"
#undef ONE
#undef TYPED
#undef REAL
#undef SINGLE
#undef INTEGER

static inline void outputs_float(
    int bytes, const float *x, ptrdiff_t at, const float *w, const float *bias, float *y, const Run *run,
    const Lanes *lanes)
{
    CHOOSE_OR_ONE(outputs_float, 4, bytes, x, at, w, bias, y, run, lanes);
}

static inline void outputs_double(
    int bytes, const double *x, ptrdiff_t at, const double *w, const double *bias, double *y, const Run *run,
    const Lanes *lanes)
{
    CHOOSE_OR_ONE(outputs_double, 8, bytes, x, at, w, bias, y, run, lanes);
}

static inline void products_float(
    int bytes, const float *x, ptrdiff_t at, const float *dy, float *dw, const Run *run, const Lanes *lanes,
    int x_is_source)
{
    CHOOSE_OR_ONE(products_float, 4, bytes, x, at, dy, dw, run, lanes, x_is_source);
}

static inline void products_double(
    int bytes, const double *x, ptrdiff_t at, const double *dy, double *dw, const Run *run, const Lanes *lanes,
    int x_is_source)
{
    CHOOSE_OR_ONE(products_double, 8, bytes, x, at, dy, dw, run, lanes, x_is_source);
}
