/* Winograd's convolution: the transforms of tiles and filters, and the products between them, in vectors.

   Along an axis a tile is 6 inputs, and gives 4 outputs of a kernel of 3 or 2 of a kernel of 5. All three are polynomials
   through their values at the 6 points p = 0, a, -a, b, -b, infinity with a = sqrt(1/2), b = sqrt(2): the symmetric points
   whose rounding errors were smallest, and a * b = 1 saves products. With M(x) = x (x^2 - a^2) (x^2 - b^2)

       V = B' d    row i: the coefficients of M(x) / (x - p_i), the last one those of M(x)
       U = G g     row i: the powers of p_i, divided by the product of p_i - p_j over the other finite points
       y = A' (U * V)    column i: the powers of p_i
       dU = V * (A dy),  dg = G' dU

   the last rows and columns having a 1 for the highest power alone. A kernel of 2 takes 5 inputs for 4 outputs and does
   without the point 0: its M(x) has no factor x, and the rows of B' are multiplied by p_i, whereby G's scales stay. Over
   two axes each transform is applied to the one and then to the other; an axis without taps is left as it is (1 input, 1
   output). So the frequencies are 36, 25, 6 or 5; or 1, of a phase that has a single tap.

   A window with strides is a window over phases of x, each every so many-th pixel with every so many-th tap: their
   products are summed like those of the first axis' taps.

   Lanes are channels. Written once (winograd_typed.h) with GCC's and Clang's vector types, for 16, 32 and 64 bytes. */

#include "conv/epilogue.h"
#include "simd/vectors.h"

typedef struct {
    ptrdiff_t batch, in[3], out[3], before[3];
    ptrdiff_t kernel[3];         /* of a phase; the taps of the first axis, and the phases, are summed in the products */
    ptrdiff_t step[3];           /* dilation; 1 along the first axis */
    int taps_last;               /* in w, else channels */
    ptrdiff_t stride[3];         /* pixels of x from an output's window to the next's */
    ptrdiff_t phases[2];         /* of x along rows and columns: at most the stride */
    ptrdiff_t whole[2];          /* phases, the first ones, that have all taps; the others lack the last one */
    ptrdiff_t x_pixel;           /* floats from a pixel to the next */
    ptrdiff_t y_first, y_image, y_plane, y_row, y_column; /* floats to the first output, and from one to the next */
    ptrdiff_t channels, filters; /* of one group */
    ptrdiff_t tiles[2];          /* of an image */
    const ptrdiff_t *at[2];      /* the first output row, and column, of each */
    Epilogue after;
    int far;                     /* y is too large for the caches: its vectors, whole lines, go past them */
    const float *zeros;          /* as many as channels, and as filters, in whole vectors */
} Layer;

#define POINT_A 0.70710678118654752f
#define POINT_B 1.41421356237309505f
#define SCALE_A (-2.0f / 3) /* 1 / (2 a^2 (a^2 - b^2)) */
#define SCALE_B (1.0f / 6)
#define SQUARE 16 /* channels of w that are turned at a time */
#define MOST_TAPS 25
#define AHEAD 8  /* steps */
#define CLOSE 48 /* floats */

/* By the taps along an axis: outputs of a tile, points, and the number of the first of them: of 2 taps it is point 1. A
   loop ends at a constant that has their value: GCC does not unroll one whose end is a condition. */
#define OUTPUTS(taps) ((taps) == 1 ? 1 : (taps) == 2 ? 4 : 7 - (taps))
#define POINTS(taps) ((taps) == 1 ? 1 : (taps) == 2 ? 5 : 6)
#define FIRST(taps) ((taps) == 2 ? 1 : 0)

#define NAME(name) JOIN(name, BYTES)
#define TYPED "conv/winograd_typed.h"
#define OPAQUE(pointer) __asm__("" : "+r"(pointer)) /* else 36 addresses are computed beforehand, and spilled */

/* A tile's place: image, position along the first axis, row and column among the tiles. */
typedef struct {
    ptrdiff_t image, depth, tile[2];
} Place;

static inline Place place(const Layer *g, ptrdiff_t tile)
{
    Place p;
    p.tile[1] = tile % g->tiles[1];
    tile /= g->tiles[1];
    p.tile[0] = tile % g->tiles[0];
    tile /= g->tiles[0];
    p.depth = tile % g->out[0];
    p.image = tile / g->out[0];
    return p;
}

/* On to the next tile; the last one is followed by itself. */
static inline void advance(const Layer *g, Place *p)
{
    if (++p->tile[1] < g->tiles[1])
        return;
    p->tile[1] = 0;
    if (++p->tile[0] < g->tiles[0])
        return;
    p->tile[0] = 0;
    if (++p->depth < g->out[0])
        return;
    p->depth = 0;
    if (++p->image == g->batch)
        p->image--;
}

static inline ptrdiff_t output_offset(const Layer *g, const Place *p)
{
    return g->y_first + p->image * g->y_image + p->depth * g->y_plane + g->at[0][p->tile[0]] * g->y_row +
           g->at[1][p->tile[1]] * g->y_column;
}

/* The rows (axis 0) or columns of a tile's outputs that exist, at most `most`. */
static inline ptrdiff_t rows_left(const Layer *g, const Place *p, int axis, ptrdiff_t most)
{
    const ptrdiff_t left = g->out[1 + axis] - g->at[axis][p->tile[axis]], step = g->step[1 + axis];
    return left > (most - 1) * step ? most : (left + step - 1) / step;
}

/* A tile's elements, row i, column j at x + i * down + j * right; where some lie outside the image, at [i][j]: zeros. */
typedef struct {
    const float *x;
    ptrdiff_t down, right;
    int whole;
    const float *at[6][6];
} Tile;

/* `rows` by `columns` elements, the first of them the element `first` of `height` by `width` ones. */
INLINE void find_elements(
    Tile *tile, const ptrdiff_t *first, const ptrdiff_t *step, ptrdiff_t height, ptrdiff_t width, const float *zeros,
    const int rows, const int columns)
{
    tile->whole = first[0] >= 0 && first[1] >= 0 && first[0] + (rows - 1) * step[0] < height &&
                  first[1] + (columns - 1) * step[1] < width;
    if (tile->whole)
        return;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            const ptrdiff_t line = first[0] + i * step[0], column = first[1] + j * step[1];
            const int inside = (line >= 0) & (line < height) & (column >= 0) & (column < width);
            tile->at[i][j] = inside ? tile->x + i * tile->down + j * tile->right : zeros;
        }
}

/* A tile of x for one phase and tap of the first axis: number `tap` of them, the phases' numbers running slower. */
INLINE void input_tile(
    Tile *tile, const Layer *g, const float *x, const Place *p, ptrdiff_t tap, const int rows, const int columns)
{
    ptrdiff_t phase[2] = {0, 0};
    ptrdiff_t depth = g->kernel[0];
    if (g->phases[0] * g->phases[1] > 1) {
        depth /= g->phases[0] * g->phases[1];
        phase[0] = tap / depth / g->phases[1];
        phase[1] = tap / depth % g->phases[1];
        tap %= depth;
    }
    const ptrdiff_t i0 = p->depth * g->stride[0] + tap - g->before[0];
    const ptrdiff_t first[2] = {
        g->at[0][p->tile[0]] * g->stride[1] - g->before[1] + phase[0],
        g->at[1][p->tile[1]] * g->stride[2] - g->before[2] + phase[1]};
    const ptrdiff_t step[2] = {g->step[1] * g->stride[1], g->step[2] * g->stride[2]};
    tile->x = x + (((p->image * g->in[0] + i0) * g->in[1] + first[0]) * g->in[2] + first[1]) * g->x_pixel;
    tile->down = step[0] * g->in[2] * g->x_pixel;
    tile->right = step[1] * g->x_pixel;
    find_elements(tile, first, step, i0 >= 0 && i0 < g->in[0] ? g->in[1] : 0, g->in[2], g->zeros, rows, columns);
}

/* A tile of dy. */
INLINE void gradient_tile(
    Tile *tile, const Layer *g, const float *dy, const Place *p, const int rows, const int columns)
{
    const ptrdiff_t first[2] = {g->at[0][p->tile[0]], g->at[1][p->tile[1]]};
    tile->x = dy + output_offset(g, p);
    tile->down = g->step[1] * g->y_row;
    tile->right = g->step[2] * g->y_column;
    find_elements(tile, first, g->step + 1, g->out[1], g->out[2], g->zeros, rows, columns);
}

/* What later tiles read, fetched a few lines with each register tile of the products: many at once are dropped. */
typedef struct {
    const float *at, *end;
    const float *then, *then_end; /* what follows that */
    ptrdiff_t lines;
} Ahead;

/* The next lines of it, if there is any. */
static inline void fetch(Ahead *ahead)
{
    if (!ahead)
        return;
    if (ahead->at >= ahead->end) {
        ahead->at = ahead->then;
        ahead->end = ahead->then_end;
        ahead->then = ahead->then_end;
    }
    for (ptrdiff_t line = 0; line < ahead->lines && ahead->at < ahead->end; line++, ahead->at += LINE)
        __builtin_prefetch(ahead->at);
}

/* On to one of equal parts of it. */
static inline void skip(Ahead *ahead, ptrdiff_t part, ptrdiff_t parts)
{
    const ptrdiff_t size = ahead->end - ahead->at, then = ahead->then_end - ahead->then;
    ptrdiff_t from = (size + then) / LINE * part / parts * LINE;
    const ptrdiff_t of_first = from < size ? from : size;
    ahead->at += of_first;
    ahead->then += from - of_first;
}

/* How far tiles up to `tile` read x, and dy, in floats. */
static inline ptrdiff_t read_until(const Layer *g, ptrdiff_t tile)
{
    const Place p = place(g, tile);
    const ptrdiff_t depth = p.depth * g->stride[0] + g->kernel[0] / (g->phases[0] * g->phases[1]) - 1 - g->before[0];
    const ptrdiff_t row = (g->at[0][p.tile[0]] + OUTPUTS(g->kernel[1])) * g->stride[1] + 1;
    const ptrdiff_t plane = p.image * g->in[0] + (depth < 0 ? 0 : LEAST(depth, g->in[0] - 1));
    return (plane * g->in[1] + LEAST(row, g->in[1])) * g->in[2] * g->x_pixel;
}

static inline ptrdiff_t read_until_of_gradients(const Layer *g, ptrdiff_t tile)
{
    const Place p = place(g, tile);
    const ptrdiff_t row = g->at[0][p.tile[0]] + OUTPUTS(g->kernel[1]);
    return p.image * g->y_image + p.depth * g->y_plane + LEAST(row, g->out[1]) * g->y_row;
}

/* What tiles first .. last - 1 are the first to read of x and, where there is one, of dy, for products of `tiles`
   register tiles; of groups, whose lines are not their own, nothing. */
static inline Ahead ahead_of(
    const Layer *g, const float *x, const float *dy, ptrdiff_t first, ptrdiff_t last, ptrdiff_t tiles)
{
    Ahead ahead = {x, x, x, x, 0};
    if (first >= last || g->x_pixel != g->channels)
        return ahead;
    ahead.at = x + read_until(g, first - 1);
    ahead.end = x + read_until(g, last - 1);
    if (dy) {
        ahead.then = dy + read_until_of_gradients(g, first - 1);
        ahead.then_end = dy + read_until_of_gradients(g, last - 1);
    }
    if (ahead.end < ahead.at || ahead.then_end < ahead.then) /* classes of a dilated layer's tiles follow each other */
        return (Ahead){x, x, x, x, 0};
    ahead.lines = (ahead.end - ahead.at + ahead.then_end - ahead.then) / LINE / tiles + 1;
    return ahead;
}

#include "simd/every_width.h"
#undef TYPED

/* The transforms along one axis as matrices: interpolate (6, 6), evaluate of 5 coefficients (6, 5), and with the scales;
   interpolate_five (5, 5). */
static inline void axis_matrices(float *interpolate, float *evaluate, float *scaled, float *five)
{
    Vector_16 unit[6], values[6];
    for (int j = 0; j < 6; j++) {
        for (int i = 0; i < 6; i++)
            unit[i] = (Vector_16){0} + (float)(i == j);
        interpolate_16(unit, values);
        for (int i = 0; i < 6; i++)
            interpolate[i * 6 + j] = values[i][0];
        if (j == 5)
            break;
        interpolate_five_16(unit, values);
        for (int i = 0; i < 5; i++)
            five[i * 5 + j] = values[i + 1][0];
        evaluate_16(unit, values, 5);
        for (int i = 0; i < 6; i++)
            evaluate[i * 5 + j] = values[i][0];
        evaluate_scaled_16(unit, values, 5);
        for (int i = 0; i < 6; i++)
            scaled[i * 5 + j] = values[i][0];
    }
}

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
    int bytes, const float *m, ptrdiff_t row, ptrdiff_t plane, const float *bias, float *y, ptrdiff_t filter,
    ptrdiff_t lanes, const Layer *g, ptrdiff_t first, ptrdiff_t last)
{
    CHOOSE(outputs_from, bytes, m, row, plane, bias, y, filter, lanes, g, first, last);
}

static inline void filters_from(
    int bytes, const float *u, ptrdiff_t row, ptrdiff_t plane, float *dw, ptrdiff_t dw_row, int add, const Layer *g,
    ptrdiff_t count, ptrdiff_t lanes)
{
    CHOOSE(filters_from, bytes, u, row, plane, dw, dw_row, add, g, count, lanes);
}

/* Where the last of two or more taps lacks, the filters' transform is 0 at the last point, infinity. Frequency f needs
   these steps of the products, run after run of phases; 0: there is no such run. */
static inline int needed_steps(const Layer *g, ptrdiff_t f, ptrdiff_t run, ptrdiff_t *first, ptrdiff_t *last)
{
    const ptrdiff_t height = POINTS(g->kernel[1]), width = POINTS(g->kernel[2]);
    const ptrdiff_t rows = f / width == height - 1 ? g->whole[0] : g->phases[0];
    const ptrdiff_t columns = f % width == width - 1 ? g->whole[1] : g->phases[1];
    const ptrdiff_t line = g->kernel[0] / g->phases[0] * g->channels; /* steps of a row of phases */
    const int all = columns == g->phases[1];
    *first = run * line;
    *last = all ? rows * line : *first + line / g->phases[1] * columns;
    return run < (all ? 1 : rows);
}

/* The product for frequency f and steps first .. last - 1, with which a and b begin. */
static inline void product(
    int bytes, const Layer *g, ptrdiff_t f, const float *a, ptrdiff_t a_row, const float *b, float *y, ptrdiff_t y_row,
    ptrdiff_t rows, ptrdiff_t lanes, ptrdiff_t first, ptrdiff_t last, Ahead *ahead)
{
    ptrdiff_t from, to;
    int add = first > 0;
    for (ptrdiff_t run = 0; needed_steps(g, f, run, &from, &to); run++) {
        from = from > first ? from : first;
        to = to < last ? to : last;
        if (from >= to)
            continue;
        CHOOSE(product, bytes, a, a_row, b, y, y_row, rows, lanes, last - first, from - first, to - from, add, ahead);
        add = 1;
    }
}

/* The transposed product for frequency f and all steps, the lanes of b and y. What lies between the needed ones in y is
   undefined: it is no tap's gradient. */
static inline void product_transposed(
    int bytes, const Layer *g, ptrdiff_t f, const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step,
    float *y, ptrdiff_t y_row, ptrdiff_t rows, ptrdiff_t steps, int add, Ahead *ahead)
{
    ptrdiff_t from, to;
    for (ptrdiff_t run = 0; needed_steps(g, f, run, &from, &to); run++) {
        if (g->channels * (ptrdiff_t)sizeof(float) < bytes) { /* a run's last vector would reach into the next run */
            from = 0;
            to = g->kernel[0] * g->channels;
        }
        CHOOSE(product_transposed, bytes, a, a_step, b + from, b_step, y + from, y_row, rows, to - from, steps, add, ahead);
        if (to == g->kernel[0] * g->channels)
            break;
    }
}

/* The same for a piece of one tap of the first axis, or phase. */
static inline void product_transposed_of(
    int bytes, const Layer *g, ptrdiff_t f, ptrdiff_t tap, const float *a, ptrdiff_t a_step, const float *b,
    ptrdiff_t b_step, float *y, ptrdiff_t y_row, ptrdiff_t rows, ptrdiff_t lanes, ptrdiff_t steps, int add, Ahead *ahead)
{
    ptrdiff_t from, to;
    for (ptrdiff_t run = 0; needed_steps(g, f, run, &from, &to); run++)
        if (tap * g->channels >= from && tap * g->channels < to)
            CHOOSE(product_transposed, bytes, a, a_step, b, b_step, y, y_row, rows, lanes, steps, add, ahead);
}
