/* The loops of winograd.h for vectors of BYTES bytes. */

#include "simd/floats_typed.h"

#define ROWS (BYTES == 64 ? 14 : 6) /* of a product's register tile, with two vectors a row */
#define Half NAME(Half)

typedef float Half __attribute__((vector_size(BYTES / 2), aligned(sizeof(float)), may_alias));

TARGET INLINE void NAME(store)(Vector value, float *y, ptrdiff_t lanes)
{
    if (lanes >= LANES) {
        *(Vector *)y = value;
        return;
    }
#if BYTES == 64
    _mm512_mask_storeu_ps(y, (__mmask16)((1u << lanes) - 1), (__m512)value);
#elif BYTES == 32
    _mm256_maskstore_ps(y, MASK(lanes), (__m256)value);
#else
    for (ptrdiff_t lane = 0; lane < LANES - 1; lane++)
        if (lane < lanes)
            y[lane] = value[lane];
#endif
}

/* --- one axis ----------------------------------------------------------------------------------------------------- */

/* B' d. The sums stand apart from the products: additions and multiplications run side by side. */
TARGET INLINE void NAME(interpolate)(const Vector *d, Vector *v)
{
    const Vector even_a = d[4] - 2.0f * d[2], odd_a = POINT_A * d[3] - (2.0f * POINT_A) * d[1];
    const Vector even_b = d[4] - 0.5f * d[2], odd_b = POINT_B * d[3] - (0.5f * POINT_B) * d[1];
    v[0] = (d[0] + d[4]) - 2.5f * d[2];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = (d[1] + d[5]) - 2.5f * d[3];
}

/* B' d for 2 taps, from v[1] on: 5 inputs, and no point 0. */
TARGET INLINE void NAME(interpolate_five)(const Vector *d, Vector *v)
{
    const Vector even_a = 0.5f * d[2] - d[0], odd_a = POINT_A * d[3] - (2.0f * POINT_A) * d[1];
    const Vector even_b = 2.0f * d[2] - d[0], odd_b = POINT_B * d[3] - (0.5f * POINT_B) * d[1];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = (d[0] + d[4]) - 2.5f * d[2];
}

/* The values at the points of a polynomial with 2 to 5 coefficients: A y */
TARGET INLINE void NAME(evaluate)(const Vector *c, Vector *v, const int count)
{
    Vector even_a = c[0], even_b = c[0], odd_a = POINT_A * c[1], odd_b = POINT_B * c[1];
    if (count > 2) {
        even_a += 0.5f * c[2];
        even_b += 2.0f * c[2];
    }
    if (count > 3) {
        odd_a += (0.5f * POINT_A) * c[3];
        odd_b += (2.0f * POINT_B) * c[3];
    }
    if (count > 4) {
        even_a += 0.25f * c[4];
        even_b += 4.0f * c[4];
    }
    v[0] = c[0];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = c[count - 1];
}

/* The transpose of `evaluate`, for the points from number `first` on: A' m */
TARGET INLINE void NAME(sum_powers)(const Vector *m, Vector *c, const int count, const int first)
{
    const Vector even_a = m[1] + m[2], even_b = m[3] + m[4];
    const Vector odd_a = POINT_A * (m[1] - m[2]), odd_b = POINT_B * (m[3] - m[4]);
    c[0] = first ? even_a + even_b : m[0] + (even_a + even_b);
    c[1] = odd_a + odd_b;
    if (count > 2)
        c[2] = 0.5f * even_a + 2.0f * even_b;
    if (count > 3)
        c[3] = 0.5f * odd_a + 2.0f * odd_b;
    if (count > 4)
        c[4] = 0.25f * even_a + 4.0f * even_b;
    c[count - 1] += m[5];
}

/* G g: `evaluate`, and the scales */
TARGET INLINE void NAME(evaluate_scaled)(const Vector *c, Vector *v, const int count)
{
    Vector even_a = SCALE_A * c[0], even_b = SCALE_B * c[0];
    Vector odd_a = (SCALE_A * POINT_A) * c[1], odd_b = (SCALE_B * POINT_B) * c[1];
    if (count > 2) {
        even_a += (SCALE_A * 0.5f) * c[2];
        even_b += (SCALE_B * 2.0f) * c[2];
    }
    if (count > 3) {
        odd_a += (SCALE_A * 0.5f * POINT_A) * c[3];
        odd_b += (SCALE_B * 2.0f * POINT_B) * c[3];
    }
    if (count > 4) {
        even_a += (SCALE_A * 0.25f) * c[4];
        even_b += (SCALE_B * 4.0f) * c[4];
    }
    v[0] = c[0];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = c[count - 1];
}

/* The transpose of `evaluate_scaled`, likewise, by sums and differences of what pairs of points have: number j of G' u. */
TARGET INLINE Vector NAME(sum_of_pairs)(
    Vector zero, Vector even_a, Vector odd_a, Vector even_b, Vector odd_b, Vector infinite, const int j, const int count)
{
    Vector c = j == 0 ? SCALE_A * even_a + SCALE_B * even_b
             : j == 1 ? (SCALE_A * POINT_A) * odd_a + (SCALE_B * POINT_B) * odd_b
             : j == 2 ? (SCALE_A * 0.5f) * even_a + (SCALE_B * 2.0f) * even_b
             : j == 3 ? (SCALE_A * 0.5f * POINT_A) * odd_a + (SCALE_B * 2.0f * POINT_B) * odd_b
                      : (SCALE_A * 0.25f) * even_a + (SCALE_B * 4.0f) * even_b;
    if (j == 0 && !FIRST(count))
        c += zero;
    if (j == count - 1)
        c += infinite;
    return c;
}

TARGET INLINE void NAME(sum_scaled)(const Vector *m, Vector *c, const int count, const int first)
{
    const Vector even_a = m[1] + m[2], even_b = m[3] + m[4], odd_a = m[1] - m[2], odd_b = m[3] - m[4];
    UNROLL for (int j = 0; j < count; j++)
        c[j] = NAME(sum_of_pairs)(first ? even_a : m[0], even_a, odd_a, even_b, odd_b, m[5], j, count);
}

/* --- two axes ----------------------------------------------------------------------------------------------------- */


/* A row of a tile, already transformed along the columns, to its frequencies' planes. */
TARGET INLINE void NAME(put_row)(const Vector *line, float *v, ptrdiff_t plane, const int n1)
{
    Vector values[6];
    OPAQUE(v);
    if (n1 == 6)
        NAME(interpolate)(line, values);
    else if (n1 == 5)
        NAME(interpolate_five)(line, values);
    else
        values[0] = line[0];
    UNROLL for (int j = 0; j < n1; j++)
        *(Vector *)(v + j * plane) = values[j + (n1 == 5)];
}

/* One vector of channels, `at` its offset: a tile's elements to the planes of v. A row of frequencies, or two that differ
   in a sign, at a time: what they need fits the registers. Of the even lines all that they give is kept, the odd ones are
   read again. */
TARGET INLINE void NAME(input_vector)(
    const Tile *tile, const float *next, ptrdiff_t at, float *v, ptrdiff_t plane, ptrdiff_t lanes, const int whole,
    const int r0, const int r1)
{
    const int n0 = POINTS(r0), n1 = POINTS(r1);
    const float *x = tile->x;
    const ptrdiff_t down = tile->down, right = tile->right;
    Vector line[6], even_a[6], even_b[6], odd[6];
    const float *rows[6];
    UNROLL for (int i = 0; i < n0; i++) {
        rows[i] = x + i * down + at;
        OPAQUE(rows[i]);
    }
    OPAQUE(tile);
#define X(i, j) NAME(load)(whole ? rows[i] + (j) * right : tile->at[i][j] + at, lanes)
    UNROLL for (int i = n0 - OUTPUTS(r0); i < n0; i++)
        UNROLL for (int j = n1 - OUTPUTS(r1); j < n1; j++)
            __builtin_prefetch(next + i * down + j * right + at);
    if (n0 == 1) {
        UNROLL for (int j = 0; j < n1; j++)
            line[j] = X(0, j);
        NAME(put_row)(line, v, plane, n1);
        return;
    }
    UNROLL for (int j = 0; j < n1; j++) {
        const Vector x0 = X(0, j), x2 = X(2, j);
        if (n0 == 6) {
            const Vector x4 = X(4, j);
            line[j] = (x0 + x4) - 2.5f * x2;
            even_a[j] = x4 - 2.0f * x2;
            even_b[j] = x4 - 0.5f * x2;
        } else {
            even_a[j] = 0.5f * x2 - x0;
            even_b[j] = 2.0f * x2 - x0;
        }
    }
    if (n0 == 6) {
        NAME(put_row)(line, v, plane, n1);
        v += n1 * plane;
    }
    UNROLL for (int j = 0; j < n1; j++) {
        odd[j] = POINT_A * X(3, j) - (2.0f * POINT_A) * X(1, j);
        line[j] = even_a[j] + odd[j];
        even_a[j] = even_a[j] - odd[j];
    }
    NAME(put_row)(line, v, plane, n1);
    NAME(put_row)(even_a, v + n1 * plane, plane, n1);
    UNROLL for (int j = 0; j < n1; j++) {
        odd[j] = POINT_B * X(3, j) - (0.5f * POINT_B) * X(1, j);
        line[j] = even_b[j] + odd[j];
        even_b[j] = even_b[j] - odd[j];
    }
    NAME(put_row)(line, v + 2 * n1 * plane, plane, n1);
    NAME(put_row)(even_b, v + 3 * n1 * plane, plane, n1);
    UNROLL for (int j = 0; j < n1; j++)
        line[j] = n0 == 6 ? (X(1, j) + X(5, j)) - 2.5f * X(3, j) : (X(0, j) + X(4, j)) - 2.5f * X(2, j);
    NAME(put_row)(line, v + 4 * n1 * plane, plane, n1);
#undef X
}

/* Tiles first .. last - 1 of x to the rows of v: row t, for tile first + t, holds the taps of the first axis one after
   the other, then zeros up to a whole vector. */
TARGET INLINE void NAME(inputs)(
    const float *x, float *v, ptrdiff_t row, ptrdiff_t plane, const Layer *g, ptrdiff_t first, ptrdiff_t last,
    const int r0, const int r1)
{
    const ptrdiff_t c = g->channels, taps = g->kernel[0];
    Tile tiles[2];
    Place p = place(g, first);
    ptrdiff_t r = 0;
    input_tile(tiles, g, x, &p, 0, POINTS(r0), POINTS(r1));
    for (ptrdiff_t unit = 0; unit < (last - first) * taps; unit++) {
        const Tile *tile = tiles + (unit & 1);
        Tile *next = tiles + (~unit & 1);
        float *to = v + unit / taps * row + r * c;
        ptrdiff_t j = 0;
        if (++r == taps) {
            r = 0;
            advance(g, &p);
        }
        input_tile(next, g, x, &p, r, POINTS(r0), POINTS(r1));
        if (tile->whole)
            for (; j + LANES <= c; j += LANES)
                NAME(input_vector)(tile, next->x, j, to + j, plane, LANES, 1, r0, r1);
        else
            for (; j + LANES <= c; j += LANES)
                NAME(input_vector)(tile, next->x, j, to + j, plane, LANES, 0, r0, r1);
        if (j < c && tile->whole)
            NAME(input_vector)(tile, next->x, j, to + j, plane, c - j, 1, r0, r1);
        else if (j < c)
            NAME(input_vector)(tile, next->x, j, to + j, plane, c - j, 0, r0, r1);
    }
}

/* A row of frequencies, transformed along the columns. */
TARGET INLINE void NAME(get_row)(const float *m, ptrdiff_t plane, Vector *c, const int r1)
{
    const int n1 = POINTS(r1);
    Vector line[6];
    OPAQUE(m);
    UNROLL for (int j = 0; j < n1; j++)
        line[j + FIRST(r1)] = *(const Vector *)(m + j * plane);
    if (n1 > 1)
        NAME(sum_powers)(line, c, OUTPUTS(r1), FIRST(r1));
    else
        c[0] = line[0];
    if (OUTPUTS(r1) == 2)
        ROUNDED(c[1]); /* as below */
}

/* One vector of filters: the planes of m to the outputs of a tile, of which the first count[0] x count[1] exist. Rows of
   frequencies that differ in a sign are summed as they come: what is kept fits the registers. */
TARGET INLINE void NAME(output_vector)(
    const float *m, ptrdiff_t plane, Vector bias, const float *norm, const Epilogue *after, float *y, ptrdiff_t down,
    ptrdiff_t right, const ptrdiff_t *count, ptrdiff_t lanes, int far, const int plain, const int whole, const int r0,
    const int r1)
{
    const int n0 = POINTS(r0), o0 = OUTPUTS(r0), o1 = OUTPUTS(r1);
    const ptrdiff_t row = POINTS(r1) * plane;
    const Vector least = (float)after->least - (Vector){0};
    Vector even_a[4], odd_a[4], even_b[4], odd_b[4], c[4], t[4];
    if (n0 > 1) {
        const float *from = m + (1 - FIRST(r0)) * row;
        NAME(get_row)(from, plane, c, r1);
        NAME(get_row)(from + row, plane, t, r1);
        UNROLL for (int j = 0; j < o1; j++) {
            even_a[j] = c[j] + t[j];
            odd_a[j] = POINT_A * (c[j] - t[j]);
        }
        NAME(get_row)(from + 2 * row, plane, c, r1);
        NAME(get_row)(from + 3 * row, plane, t, r1);
        UNROLL for (int j = 0; j < o1; j++) {
            even_b[j] = c[j] + t[j];
            odd_b[j] = POINT_B * (c[j] - t[j]);
            if (o0 == 2) { /* products that are used once: summed here GCC fuses the same ones for every epilogue */
                odd_a[j] += odd_b[j];
                ROUNDED(odd_a[j]);
            }
        }
    }
    UNROLL for (int i = 0; i < o0; i++) {
        float *to = y + i * down;
        if (!whole && i >= count[0])
            break;
        if (i == 0 && !FIRST(r0))
            NAME(get_row)(m, plane, c, r1);
        if (n0 > 1 && i == o0 - 1)
            NAME(get_row)(m + (n0 - 1) * row, plane, t, r1);
        UNROLL for (int j = 0; j < o1; j++) {
            if (n0 > 1) {
                if (i == 0)
                    c[j] = FIRST(r0) ? even_a[j] + even_b[j] : c[j] + (even_a[j] + even_b[j]);
                if (i == 1)
                    c[j] = odd_a[j];
                if (i == 1 && o0 > 2)
                    c[j] += odd_b[j];
                if (i == 2)
                    c[j] = 0.5f * even_a[j] + 2.0f * even_b[j];
                if (i == 3)
                    c[j] = 0.5f * odd_a[j] + 2.0f * odd_b[j];
                if (i == o0 - 1)
                    c[j] += t[j];
            }
            if (!whole && j >= count[1])
                break;
            Vector v = c[j] + bias;
            if (!plain && norm) {
                v = (v - *(const Vector *)norm) * *(const Vector *)(norm + after->apart);
                ROUNDED(v);
                v += *(const Vector *)(norm + 2 * after->apart);
            }
            if (!plain && after->addend)
                v += NAME(load)(to + after->addend, lanes);
            if (far)
                STREAM(to, AT_LEAST(v, least));
            else
                NAME(store)(AT_LEAST(v, least), to, lanes);
            to += right;
            OPAQUE(to);
        }
    }
}

TARGET INLINE void NAME(outputs)(
    const float *m, ptrdiff_t row, ptrdiff_t plane, const float *bias, float *y, ptrdiff_t filter, ptrdiff_t lanes,
    const Layer *g, ptrdiff_t first, ptrdiff_t last, const int r0, const int r1)
{
    const int o0 = OUTPUTS(r0), o1 = OUTPUTS(r1);
    const ptrdiff_t right = g->step[2] * g->y_column, down = g->step[1] * g->y_row;
    const Epilogue *after = &g->after;
    const int plain = !after->norm && !after->addend;
    Place p = place(g, first);
    bias += bias ? filter : 0;
    y += filter;
    for (ptrdiff_t tile = first; tile < last; tile++, m += row) {
        const ptrdiff_t count[2] = {rows_left(g, &p, 0, o0), rows_left(g, &p, 1, o1)};
        const int whole = count[0] == o0 && count[1] == o1;
        float *to = y + output_offset(g, &p);
        const float *next;
        ptrdiff_t j = 0;
        advance(g, &p);
        next = y + output_offset(g, &p);
        for (; j + LANES <= lanes; j += LANES) {
            const Vector b = bias ? *(const Vector *)(bias + j) : (Vector){0};
            const float *norm = after->norm ? (const float *)after->norm + filter + j : NULL;
            if (!g->far) {
                UNROLL for (int i = 0; i < o0 * o1; i++)
                    __builtin_prefetch(next + i / o1 * down + i % o1 * right + j, 1);
            }
            if (whole && plain && BYTES == 64 && g->far)
                NAME(output_vector)(m + j, plane, b, norm, after, to + j, down, right, count, LANES, 1, 1, 1, r0, r1);
            else if (whole && plain && !g->far)
                NAME(output_vector)(m + j, plane, b, norm, after, to + j, down, right, count, LANES, 0, 1, 1, r0, r1);
            else
                NAME(output_vector)(m + j, plane, b, norm, after, to + j, down, right, count, LANES, g->far, 0, 0, r0, r1);
        }
        if (j < lanes) {
            const Vector b = bias ? NAME(load)(bias + j, lanes - j) : (Vector){0};
            const float *norm = after->norm ? (const float *)after->norm + filter + j : NULL;
            NAME(output_vector)(m + j, plane, b, norm, after, to + j, down, right, count, lanes - j, 0, 0, 0, r0, r1);
        }
    }
}

/* A row of a tile of gradients, already transformed along the columns, to its frequencies' planes. */
TARGET INLINE void NAME(put_gradients)(const Vector *line, float *m, ptrdiff_t plane, const int r1)
{
    const int n1 = POINTS(r1);
    Vector values[6];
    OPAQUE(m);
    if (n1 > 1)
        NAME(evaluate)(line, values, OUTPUTS(r1));
    else
        values[0] = line[0];
    UNROLL for (int j = 0; j < n1; j++)
        *(Vector *)(m + j * plane) = values[j + FIRST(r1)];
}

/* One vector of filters: the gradients of a tile's outputs to the planes of m, the adjoint of `output_vector`. */
TARGET INLINE void NAME(gradient_vector)(
    const Tile *tile, const float *next, ptrdiff_t at, float *m, ptrdiff_t plane, ptrdiff_t lanes, const int whole,
    const int r0, const int r1)
{
    const int n0 = POINTS(r0), o0 = OUTPUTS(r0), o1 = OUTPUTS(r1);
    const float *x = tile->x;
    const ptrdiff_t down = tile->down, right = tile->right, row = POINTS(r1) * plane;
    Vector line[4], even[4], odd[4];
    const float *rows[4];
    UNROLL for (int i = 0; i < o0; i++) {
        rows[i] = x + i * down + at;
        OPAQUE(rows[i]);
        UNROLL for (int j = 0; j < o1; j++)
            __builtin_prefetch(next + i * down + j * right + at);
    }
    OPAQUE(tile);
#define X(i, j) NAME(load)(whole ? rows[i] + (j) * right : tile->at[i][j] + at, lanes)
    if (!FIRST(r0)) {
        UNROLL for (int j = 0; j < o1; j++)
            line[j] = X(0, j);
        NAME(put_gradients)(line, m, plane, r1);
        m += row;
    }
    if (n0 == 1)
        return;
    UNROLL for (int pair = 0; pair < 2; pair++) {
        const float point = pair ? POINT_B : POINT_A, square = pair ? 2.0f : 0.5f;
        UNROLL for (int j = 0; j < o1; j++) {
            even[j] = X(0, j);
            odd[j] = point * X(1, j);
            if (o0 > 2)
                even[j] += square * X(2, j);
            if (o0 > 3)
                odd[j] += (square * point) * X(3, j);
            line[j] = even[j] + odd[j];
        }
        NAME(put_gradients)(line, m, plane, r1);
        UNROLL for (int j = 0; j < o1; j++)
            line[j] = even[j] - odd[j];
        NAME(put_gradients)(line, m + row, plane, r1);
        m += 2 * row;
    }
    UNROLL for (int j = 0; j < o1; j++)
        line[j] = X(o0 - 1, j);
    NAME(put_gradients)(line, m, plane, r1);
#undef X
}

TARGET INLINE void NAME(gradients)(
    const float *dy, float *m, ptrdiff_t row, ptrdiff_t plane, const Layer *g, ptrdiff_t first, ptrdiff_t last,
    const int r0, const int r1)
{
    const ptrdiff_t k = g->filters;
    Tile tiles[2];
    Place p = place(g, first);
    gradient_tile(tiles, g, dy, &p, OUTPUTS(r0), OUTPUTS(r1));
    for (ptrdiff_t unit = 0; unit < last - first; unit++, m += row) {
        const Tile *tile = tiles + (unit & 1);
        Tile *next = tiles + (~unit & 1);
        ptrdiff_t j = 0;
        advance(g, &p);
        gradient_tile(next, g, dy, &p, OUTPUTS(r0), OUTPUTS(r1));
        if (tile->whole)
            for (; j + LANES <= k; j += LANES)
                NAME(gradient_vector)(tile, next->x, j, m + j, plane, LANES, 1, r0, r1);
        else
            for (; j + LANES <= k; j += LANES)
                NAME(gradient_vector)(tile, next->x, j, m + j, plane, LANES, 0, r0, r1);
        if (j < k && tile->whole)
            NAME(gradient_vector)(tile, next->x, j, m + j, plane, k - j, 1, r0, r1);
        else if (j < k)
            NAME(gradient_vector)(tile, next->x, j, m + j, plane, k - j, 0, r0, r1);
    }
}

/* The taps of one vector of lanes, the tap after w[0] at w[right], to the planes of u. */
TARGET INLINE void NAME(filter_vector)(
    const float *w, ptrdiff_t right, ptrdiff_t lanes, float *u, ptrdiff_t plane, const int r0, const int r1)
{
    const int n0 = POINTS(r0), n1 = POINTS(r1);
    Vector t[5][6], line[6], values[6];
    UNROLL for (int j = 0; j < r1; j++) {
        UNROLL for (int i = 0; i < r0; i++)
            line[i] = NAME(load)(w + (i * r1 + j) * right, lanes);
        if (n0 > 1)
            NAME(evaluate_scaled)(line, t[j], r0);
        else
            t[j][0] = line[0];
    }
    UNROLL for (int i = 0; i < n0; i++) {
        UNROLL for (int j = 0; j < r1; j++)
            line[j] = t[j][i + FIRST(r0)];
        if (n1 > 1)
            NAME(evaluate_scaled)(line, values, r1);
        else
            values[0] = line[0];
        UNROLL for (int j = 0; j < n1; j++)
            *(Vector *)(u + j * plane) = values[j + FIRST(r1)];
        u += n1 * plane;
        OPAQUE(u);
    }
}

/* `filters` for one vector of lanes, of w (k, c, taps): LANES runs of taps are turned. Steps of u are `across` floats
   apart; lanes that are too many repeat the last one. */
TARGET INLINE void NAME(turned_filters)(
    const float *w, int reversed, float *u, ptrdiff_t plane, ptrdiff_t across, const Layer *g, ptrdiff_t lane,
    ptrdiff_t first, ptrdiff_t last, const int r0, const int r1)
{
    const int taps = r0 * r1;
    const ptrdiff_t c = g->channels, k = g->filters, depth = g->kernel[0];
    const ptrdiff_t lane_apart = (reversed ? 1 : c) * depth * taps, step_apart = (reversed ? k : 1) * depth * taps;
    const float *rows[BYTES / sizeof(float)];
    for (ptrdiff_t l = 0; l < LANES; l++)
        rows[l] = w + (lane + l < k ? lane + l : k - 1) * lane_apart;
    for (ptrdiff_t step = first; step < last; step++, u += across) {
        const ptrdiff_t r = reversed ? depth - 1 - step / c : step / c, at = step % c * step_apart + r * taps;
        float turned[MOST_TAPS][BYTES / sizeof(float)];
        if (reversed)
            UNROLL for (ptrdiff_t l = 0; l < LANES; l++)
                __builtin_prefetch(rows[l] + at + AHEAD * step_apart);
        else
            for (ptrdiff_t l = step & 1; l < LANES; l += 2)
                __builtin_prefetch(rows[l] + at + CLOSE);
        if (taps < 4)
            for (int tap = 0; tap < taps; tap++)
                for (ptrdiff_t l = 0; l < LANES; l++)
                    turned[tap][l] = rows[l][at + tap];
        else {
            UNROLL for (int tap = 0; tap + 4 <= taps; tap += 4)
                NAME(transpose_rows)(rows, at + tap, (Vector *)turned[tap]);
            if (taps % 4)
                NAME(transpose_rows)(rows, at + taps - 4, (Vector *)turned[taps - 4]);
        }
        NAME(filter_vector)(turned[reversed ? taps - 1 : 0], reversed ? -LANES : LANES, LANES, u, plane, r0, r1);
    }
}

/* `width` lanes of u, whole vectors, for the products' steps first .. last - 1: packed as `product` reads them; from
   w (k, taps, c), or (k, c, taps) where g->taps_last.

   Forward lanes are filters, from `lane` on, and steps are (tap of the first axis, channel). Reversed, for the gradient
   to an input, lanes are w's channels and steps (tap, w's filter), the taps in the opposite order; g is the gradient's
   layer, whose channels are w's filters. */
TARGET INLINE void NAME(filters)(
    const float *w, int reversed, float *u, ptrdiff_t plane, ptrdiff_t width, const Layer *g, ptrdiff_t lane,
    ptrdiff_t first, ptrdiff_t last, const int r0, const int r1)
{
    const int taps = r0 * r1;
    const ptrdiff_t c = g->channels, k = g->filters, depth = g->kernel[0], steps = last - first;
#define PANEL(j) ((j) / (2 * LANES) * (2 * LANES)) /* its first lane */
#define ACROSS(j) (width - PANEL(j) < 2 * LANES ? LANES : 2 * LANES)
    if (g->taps_last) {
        for (ptrdiff_t j = 0; j < width; j += LANES)
            NAME(turned_filters)(
                w, reversed, u + PANEL(j) * steps + j - PANEL(j), plane, ACROSS(j), g, lane + j, first, last, r0, r1);
        return;
    }
    if (reversed) {
        for (ptrdiff_t s = 0; s < steps; s++) {
            const ptrdiff_t step = first + s;
            const float *from = w + ((step % c * depth + depth - step / c) * taps - 1) * k + lane;
            for (ptrdiff_t j = 0; j < width; j += LANES) {
                float *to = u + PANEL(j) * steps + s * ACROSS(j) + j - PANEL(j);
                UNROLL for (int tap = 0; tap < taps; tap++)
                    __builtin_prefetch(from + (AHEAD * depth * taps - tap) * k + j);
                if (k - lane - j >= LANES)
                    NAME(filter_vector)(from + j, -k, LANES, to, plane, r0, r1);
                else
                    NAME(filter_vector)(from + j, -k, k - lane - j, to, plane, r0, r1);
            }
        }
        return;
    }
    for (ptrdiff_t j = 0; j < width; j += LANES) {
        float *to = u + PANEL(j) * steps + j - PANEL(j);
        for (ptrdiff_t step = first, count; step < last; step += count) {
            const ptrdiff_t r = step / c, from = step % c, left = c - from < last - step ? c - from : last - step;
            float square[MOST_TAPS][SQUARE][BYTES / sizeof(float)];
            count = left < SQUARE ? left : SQUARE;
            for (int tap = 0; tap < taps; tap++) {
                const float *rows[BYTES / sizeof(float)];
                ptrdiff_t s = 0;
                for (ptrdiff_t l = 0; l < LANES; l++) {
                    const ptrdiff_t filter = lane + j + l;
                    rows[l] = filter < k ? w + ((filter * depth + r) * taps + tap) * c + from : g->zeros;
                    __builtin_prefetch(rows[l] + 2 * SQUARE - 1); /* the last line of the next square */
                }
                for (; s + 4 <= count; s += 4)
                    NAME(transpose_rows)(rows, s, (Vector *)square[tap][s]);
                for (; s < count; s++)
                    for (ptrdiff_t l = 0; l < LANES; l++)
                        square[tap][s][l] = rows[l][s];
            }
            for (ptrdiff_t s = 0; s < count; s++, to += ACROSS(j))
                NAME(filter_vector)(square[0][s], SQUARE * LANES, LANES, to, plane, r0, r1);
        }
    }
#undef PANEL
#undef ACROSS
}

/* A column of the planes of u, transformed along the rows. */
TARGET INLINE void NAME(get_column)(const float *u, ptrdiff_t plane, Vector *c, const int r0, const int n1)
{
    const int n0 = POINTS(r0);
    Vector line[6];
    OPAQUE(u);
    UNROLL for (int i = 0; i < n0; i++) {
        __builtin_prefetch(u + LANES);
        line[i + FIRST(r0)] = *(const Vector *)u;
        u += n1 * plane;
    }
    if (n0 > 1)
        NAME(sum_scaled)(line, c, r0, FIRST(r0));
    else
        c[0] = line[0];
}

/* One vector of channels: the planes of u to dw[(i * r1 + j) * apart]; the next one is fetched. Columns that differ in a
   sign are summed as they come. */
TARGET INLINE void NAME(taps_vector)(
    const float *u, ptrdiff_t plane, float *dw, ptrdiff_t apart, ptrdiff_t lanes, int add, const int r0, const int r1)
{
    const int n1 = POINTS(r1);
    Vector even_a[5], odd_a[5], even_b[5], odd_b[5], first[5], last[5];
    if (n1 > 1) {
        const float *from = u + (1 - FIRST(r1)) * plane;
        NAME(get_column)(from, plane, first, r0, n1);
        NAME(get_column)(from + plane, plane, last, r0, n1);
        UNROLL for (int i = 0; i < r0; i++) {
            even_a[i] = first[i] + last[i];
            odd_a[i] = first[i] - last[i];
        }
        NAME(get_column)(from + 2 * plane, plane, first, r0, n1);
        NAME(get_column)(from + 3 * plane, plane, last, r0, n1);
        UNROLL for (int i = 0; i < r0; i++) {
            even_b[i] = first[i] + last[i];
            odd_b[i] = first[i] - last[i];
        }
        NAME(get_column)(u + (n1 - 1) * plane, plane, last, r0, n1);
    }
    if (!FIRST(r1))
        NAME(get_column)(u, plane, first, r0, n1);
    UNROLL for (int i = 0; i < r0; i++)
        UNROLL for (int j = 0; j < r1; j++) {
            float *to = dw + (i * r1 + j) * apart;
            Vector value = n1 > 1 ? NAME(sum_of_pairs)(first[i], even_a[i], odd_a[i], even_b[i], odd_b[i], last[i], j, r1) : first[i];
            if (add)
                value += NAME(load)(to, lanes);
            NAME(store)(value, to, lanes);
        }
}

/* `lanes` channels of `count` filters: dw[k * dw_row + tap * c] = or += the gradients whose transforms are the rows of
   u's planes. */
TARGET INLINE void NAME(weights)(
    const float *u, ptrdiff_t row, ptrdiff_t plane, float *dw, ptrdiff_t dw_row, int add, const Layer *g,
    ptrdiff_t count, ptrdiff_t lanes, const int r0, const int r1)
{
    const ptrdiff_t c = g->channels;
    for (ptrdiff_t k = 0; k < count; k++, u += row, dw += dw_row) {
        ptrdiff_t j = 0;
        for (; j + LANES <= lanes; j += LANES)
            NAME(taps_vector)(u + j, plane, dw + j, c, LANES, add, r0, r1);
        if (j < lanes)
            NAME(taps_vector)(u + j, plane, dw + j, c, lanes - j, add, r0, r1);
    }
}

/* --- the sizes of tiles ------------------------------------------------------------------------------------------- */

#define EACH_SIZE(X, ...)                                                                                              \
    X(3, 3, __VA_ARGS__) X(5, 5, __VA_ARGS__) X(2, 2, __VA_ARGS__) X(1, 3, __VA_ARGS__) X(1, 5, __VA_ARGS__)           \
    X(1, 2, __VA_ARGS__) X(3, 1, __VA_ARGS__) X(5, 1, __VA_ARGS__) X(2, 1, __VA_ARGS__) X(1, 1, __VA_ARGS__)
#define OF_SIZE(r0, r1, name, parameters, ...)                                                                         \
    TARGET NOINLINE void NAME(name##_##r0##_##r1) parameters                                                           \
    {                                                                                                                  \
        NAME(name)(__VA_ARGS__, r0, r1);                                                                               \
    }
#define CASE_OF_SIZE(r0, r1, name, parameters, ...)                                                                    \
    case r0 * 8 + r1: NAME(name##_##r0##_##r1)(__VA_ARGS__); break;

/* `function`: `name` for the layer's taps along rows and columns. */
#define BY_SIZE(function, name, parameters, ...)                                                                       \
    EACH_SIZE(OF_SIZE, name, parameters, __VA_ARGS__)                                                                  \
    TARGET static void NAME(function) parameters                                                                       \
    {                                                                                                                  \
        switch (g->kernel[1] * 8 + g->kernel[2]) {                                                                     \
            EACH_SIZE(CASE_OF_SIZE, name, parameters, __VA_ARGS__)                                                     \
        }                                                                                                              \
    }

BY_SIZE(
    transform_inputs, inputs,
    (const float *x, float *v, ptrdiff_t row, ptrdiff_t plane, const Layer *g, ptrdiff_t first, ptrdiff_t last),
    x, v, row, plane, g, first, last)

BY_SIZE(
    transform_gradients, gradients,
    (const float *dy, float *m, ptrdiff_t row, ptrdiff_t plane, const Layer *g, ptrdiff_t first, ptrdiff_t last),
    dy, m, row, plane, g, first, last)

BY_SIZE(
    transform_filters, filters,
    (const float *w, int reversed, float *u, ptrdiff_t plane, ptrdiff_t width, const Layer *g, ptrdiff_t lane,
     ptrdiff_t first, ptrdiff_t last),
    w, reversed, u, plane, width, g, lane, first, last)

BY_SIZE(
    outputs_from, outputs,
    (const float *m, ptrdiff_t row, ptrdiff_t plane, const float *bias, float *y, ptrdiff_t filter, ptrdiff_t lanes,
     const Layer *g, ptrdiff_t first, ptrdiff_t last),
    m, row, plane, bias, y, filter, lanes, g, first, last)

BY_SIZE(
    filters_from, weights,
    (const float *u, ptrdiff_t row, ptrdiff_t plane, float *dw, ptrdiff_t dw_row, int add, const Layer *g,
     ptrdiff_t count, ptrdiff_t lanes),
    u, row, plane, dw, dw_row, add, g, count, lanes)

/* --- products ----------------------------------------------------------------------------------------------------- */

/* y[p][lanes] = or += the sum over s of a[p * a_row + s * a_step] * b[s * b_step + lanes], in registers: of `vectors` and,
   behind them, half a one where `half`. */
TARGET INLINE void NAME(register_tile)(
    const float *a, ptrdiff_t a_row, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_row,
    ptrdiff_t steps, int add, const int across, const int rows, const int vectors, const int half)
{
    Vector sum[ROWS][2];
    Half half_sum[ROWS];
    UNROLL for (int p = 0; p < rows; p++) {
        UNROLL for (int v = 0; v < vectors; v++)
            sum[p][v] = add ? *(const Vector *)(y + p * y_row + v * LANES) : (Vector){0};
        if (half)
            half_sum[p] = add ? *(const Half *)(y + p * y_row + vectors * LANES) : (Half){0};
    }
    for (ptrdiff_t s = 0; s < steps; s++) {
        Vector right[2];
        Half half_right;
        if (across)
            __builtin_prefetch(a + (rows + (s & 15)) * a_row);
        else {
            __builtin_prefetch(a + AHEAD * a_step);
            UNROLL for (int v = 0; v < vectors + half; v++)
                __builtin_prefetch(b + AHEAD * b_step + v * LANES);
        }
        UNROLL for (int v = 0; v < vectors; v++)
            right[v] = *(const Vector *)(b + v * LANES);
        if (half)
            half_right = *(const Half *)(b + vectors * LANES);
        UNROLL for (int p = 0; p < rows; p++) {
            UNROLL for (int v = 0; v < vectors; v++)
                sum[p][v] += a[p * a_row] * right[v];
            if (half)
                half_sum[p] += a[p * a_row] * half_right;
        }
        a += a_step;
        b += b_step;
    }
    UNROLL for (int p = 0; p < rows; p++) {
        UNROLL for (int v = 0; v < vectors; v++)
            *(Vector *)(y + p * y_row + v * LANES) = sum[p][v];
        if (half)
            *(Half *)(y + p * y_row + vectors * LANES) = half_sum[p];
    }
}

#define TILE(rows)                                                                                                     \
    case rows:                                                                                                         \
        NAME(register_tile)(a, a_row, a_step, b, b_step, y, y_row, steps, add, across, rows, vectors, half);           \
        break;
#if BYTES == 64
#define EACH_TILE                                                                                                      \
    TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6) TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)
#else
#define EACH_TILE TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#endif

/* `rows` rows in register tiles of nearly equal heights. */
TARGET INLINE void NAME(rows_of)(
    const float *a, ptrdiff_t a_row, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_row,
    ptrdiff_t rows, ptrdiff_t steps, int add, Ahead *ahead, const int across, const int vectors, const int half)
{
    for (ptrdiff_t left = (rows + ROWS - 1) / ROWS; left > 0; left--) {
        const ptrdiff_t height = (rows + left - 1) / left;
        fetch(ahead);
        switch (height) {
            EACH_TILE
        }
        rows -= height;
        a += height * a_row;
        y += height * y_row;
    }
}

/* Lanes are `vectors` and, behind them, half a one where `half`. */
#define ROWS_OF(vectors, half)                                                                                         \
    TARGET NOINLINE void NAME(rows_of_##vectors##_##half)(                                                             \
        const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_row, ptrdiff_t rows,  \
        ptrdiff_t steps, int add, Ahead *ahead)                                                                        \
    {                                                                                                                  \
        NAME(rows_of)(a, a_row, 1, b, b_step, y, y_row, rows, steps, add, ahead, 1, vectors, half);                    \
    }                                                                                                                  \
    TARGET NOINLINE void NAME(rows_of_transposed_##vectors##_##half)(                                                  \
        const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_row, ptrdiff_t rows, \
        ptrdiff_t steps, int add, Ahead *ahead)                                                                        \
    {                                                                                                                  \
        NAME(rows_of)(a, 1, a_step, b, b_step, y, y_row, rows, steps, add, ahead, 0, vectors, half);                   \
    }
ROWS_OF(2, 0)
ROWS_OF(1, 0)
#if BYTES == 64 /* half a vector is half the work; of narrower ones it is not */
ROWS_OF(1, 1)
ROWS_OF(0, 1)
#define BY_WIDTH(name, lanes, ...)                                                                                     \
    if ((lanes) > LANES + LANES / 2)                                                                                   \
        NAME(name##_2_0)(__VA_ARGS__);                                                                                 \
    else if ((lanes) > LANES)                                                                                          \
        NAME(name##_1_1)(__VA_ARGS__);                                                                                 \
    else if ((lanes) > LANES / 2)                                                                                      \
        NAME(name##_1_0)(__VA_ARGS__);                                                                                 \
    else                                                                                                               \
        NAME(name##_0_1)(__VA_ARGS__);
#else
#define BY_WIDTH(name, lanes, ...)                                                                                     \
    if ((lanes) > LANES)                                                                                               \
        NAME(name##_2_0)(__VA_ARGS__);                                                                                 \
    else                                                                                                               \
        NAME(name##_1_0)(__VA_ARGS__);
#endif

/* y (rows, lanes) = or += a (rows, steps) @ b, which is packed: panels of two vectors of lanes, the last of one or two.
   Of a's and b's steps `count` are taken, from `first` on. */
TARGET static void NAME(product)(
    const float *a, ptrdiff_t a_row, const float *b, float *y, ptrdiff_t y_row, ptrdiff_t rows, ptrdiff_t lanes,
    ptrdiff_t steps, ptrdiff_t first, ptrdiff_t count, int add, Ahead *ahead)
{
    for (ptrdiff_t j = 0; j < lanes; j += 2 * LANES) {
        const ptrdiff_t width = lanes - j > LANES ? 2 * LANES : LANES;
        BY_WIDTH(rows_of, lanes - j, a + first, a_row, b + first * width, width, y + j, y_row, rows, count, add, ahead)
        b += 2 * LANES * steps;
    }
}

/* y (rows, lanes) = or += a (steps, rows)' @ b (steps, lanes) */
TARGET static void NAME(product_transposed)(
    const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *y, ptrdiff_t y_row, ptrdiff_t rows,
    ptrdiff_t lanes, ptrdiff_t steps, int add, Ahead *ahead)
{
    for (ptrdiff_t j = 0; j < lanes; j += 2 * LANES)
        BY_WIDTH(rows_of_transposed, lanes - j, a, a_step, b + j, b_step, y + j, y_row, rows, steps, add, ahead)
}

#undef ROWS
#undef MASK
#undef Half
#undef EACH_SIZE
#undef OF_SIZE
#undef CASE_OF_SIZE
#undef BY_SIZE
#undef ROWS_OF
#undef BY_WIDTH
#undef TILE
#undef EACH_TILE
