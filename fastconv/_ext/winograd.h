/* Winograd's convolution: the transforms of tiles and filters, and the products between them, in vectors.

   Along an axis a tile is 6 inputs, and gives 4 outputs of a kernel of 3 or 2 of a kernel of 5. All three are polynomials
   through their values at the 6 points p = 0, a, -a, b, -b, infinity with a = sqrt(1/2), b = sqrt(2): the symmetric points
   whose rounding errors were smallest, and a * b = 1 saves products. With M(x) = x (x^2 - a^2) (x^2 - b^2)

       V = B' d    row i: the coefficients of M(x) / (x - p_i), the last one those of M(x)
       U = G g     row i: the powers of p_i, divided by the product of p_i - p_j over the other finite points
       y = A' (U * V)    column i: the powers of p_i
       dU = V * (A dy),  dg = G' dU

   the last rows and columns having a 1 for the highest power alone. Over two axes each transform is applied to the one and
   then to the other; an axis without taps is left as it is (1 input, 1 output). So the frequencies are 36 or 6.

   Lanes are channels. Written once (winograd_typed.h) with GCC's and Clang's vector types, for 16, 32 and 64 bytes. */

#include <stddef.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef struct {
    ptrdiff_t in[3], out[3], before[3];
    ptrdiff_t kernel[3];         /* the taps of the first axis are summed in the products */
    ptrdiff_t step[3];           /* dilation; 1 along the first axis */
    ptrdiff_t x_pixel, y_pixel;  /* floats from a pixel to the next */
    ptrdiff_t channels, filters; /* of one group */
    ptrdiff_t size[2];           /* outputs of a tile along rows and columns: 4, 2, or 1 without taps */
    ptrdiff_t tiles[2];          /* of an image */
    const ptrdiff_t *at[2];      /* the first output row, and column, of each */
} Layer;

#define POINT_A 0.70710678118654752f
#define POINT_B 1.41421356237309505f
#define SCALE_A (-2.0f / 3) /* 1 / (2 a^2 (a^2 - b^2)) */
#define SCALE_B (1.0f / 6)
#define SQUARE 16 /* channels of w that are turned at a time */
#define MOST_TAPS 25

#define INLINE static inline __attribute__((always_inline))
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(name) JOIN(name, BYTES)
#define UNROLL _Pragma("GCC unroll 16")

/* The inputs first .. first + 5 * step of a tile that lie in 0 .. n - 1 are those numbered low .. high - 1. */
typedef struct {
    ptrdiff_t low, high;
} Range;

static inline Range inside(ptrdiff_t first, ptrdiff_t step, ptrdiff_t count, ptrdiff_t n)
{
    Range r = {0, 0};
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t at = first + i * step;
        r.low += at < 0;
        r.high += at < n;
    }
    return r;
}

/* A tile's place: image, position along the first axis, first output row and column. */
typedef struct {
    ptrdiff_t image, depth, at[2];
} Place;

static inline Place place(const Layer *g, ptrdiff_t tile)
{
    Place p;
    p.at[1] = g->at[1][tile % g->tiles[1]];
    tile /= g->tiles[1];
    p.at[0] = g->at[0][tile % g->tiles[0]];
    tile /= g->tiles[0];
    p.depth = tile % g->out[0];
    p.image = tile / g->out[0];
    return p;
}

#define BYTES 16
#include "winograd_typed.h"
#if defined(__x86_64__)
#define BYTES 32
#include "winograd_typed.h"
#define BYTES 64
#include "winograd_typed.h"
#endif

/* The widest vectors of this CPU, at most `widest` bytes. */
static inline int widest_vector(int widest)
{
#if defined(__x86_64__)
    if (widest >= 64 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 64;
    if (widest >= 32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 32;
#endif
    return 16;
}

#if defined(__x86_64__)
#define CHOOSE(name, bytes, ...)                                                                                       \
    ((bytes) == 64 ? name##_64(__VA_ARGS__) : (bytes) == 32 ? name##_32(__VA_ARGS__) : name##_16(__VA_ARGS__))
#else
#define CHOOSE(name, bytes, ...) name##_16(__VA_ARGS__)
#endif

static inline void transform_inputs(
    int bytes, const float *x, float *v, ptrdiff_t row, ptrdiff_t plane, const Layer *g, ptrdiff_t first, ptrdiff_t last)
{
    CHOOSE(transform_inputs, bytes, x, v, row, plane, g, first, last);
}

static inline void transform_gradients(
    int bytes, const float *dy, float *m, ptrdiff_t row, ptrdiff_t plane, const Layer *g, ptrdiff_t first,
    ptrdiff_t last)
{
    CHOOSE(transform_gradients, bytes, dy, m, row, plane, g, first, last);
}

static inline void transform_filters(
    int bytes, const float *w, int reversed, float *u, ptrdiff_t plane, ptrdiff_t width, const Layer *g, ptrdiff_t lane,
    ptrdiff_t first, ptrdiff_t last)
{
    CHOOSE(transform_filters, bytes, w, reversed, u, plane, width, g, lane, first, last);
}

static inline void outputs_from(
    int bytes, const float *m, ptrdiff_t row, ptrdiff_t plane, const float *bias, float *y, ptrdiff_t lanes,
    const Layer *g, ptrdiff_t first, ptrdiff_t last)
{
    CHOOSE(outputs_from, bytes, m, row, plane, bias, y, lanes, g, first, last);
}

static inline void filters_from(
    int bytes, const float *u, ptrdiff_t row, ptrdiff_t plane, float *dw, int add, const Layer *g, ptrdiff_t count)
{
    CHOOSE(filters_from, bytes, u, row, plane, dw, add, g, count);
}

static inline void product(
    int bytes, const float *a, ptrdiff_t a_row, const float *b, float *y, ptrdiff_t y_row, ptrdiff_t rows,
    ptrdiff_t lanes, ptrdiff_t steps, int add)
{
    CHOOSE(product, bytes, a, a_row, b, y, y_row, rows, lanes, steps, add);
}

static inline void product_transposed(
    int bytes, const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_row,
    ptrdiff_t rows, ptrdiff_t lanes, ptrdiff_t steps, int add)
{
    CHOOSE(product_transposed, bytes, a, a_step, b, b_step, y, y_row, rows, lanes, steps, add);
}
