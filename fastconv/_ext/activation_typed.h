/* The functions of activation.h for one REAL, for compilers to vectorise with vectors of BYTES bytes. */

#include "simd/functions_typed.h"

/* --- activations: y(x), and the derivative, times dy; a and b are the function's parameters --- */

TARGET INLINE REAL NAME(softplus)(REAL x)
{
    return (x < 0 ? 0 : x) + NAME(log_one_plus)(JOIN(exp, REAL)(-SIZE(x)));
}

TARGET INLINE REAL NAME(gelu_inner)(REAL x)
{
    return (REAL) 0.79788456080286535588 * (x + (REAL) 0.044715 * x * x * x);
}

TARGET INLINE REAL NAME(elu)(REAL x, REAL alpha, REAL scale)
{
    REAL below = scale * alpha * NAME(exp_minus_one)(x > 0 ? 0 : x);
    return x <= 0 ? below : scale * x;
}

TARGET INLINE REAL NAME(elu_slope)(REAL x, REAL alpha, REAL scale)
{
    REAL below = scale * alpha * JOIN(exp, REAL)(x);
    REAL slope = x <= 0 ? below : scale;
    return x == x ? slope : x;
}

TARGET INLINE REAL NAME(gelu)(REAL x)
{
    REAL bell;
    return x * NAME(normal)(x, &bell);
}

TARGET INLINE REAL NAME(gelu_slope)(REAL x)
{
    REAL bell;
    REAL phi = NAME(normal)(x, &bell);
    return phi + x * bell;
}

TARGET INLINE REAL NAME(gelu_tanh)(REAL x)
{
    return x * NAME(sigmoid)(2 * NAME(gelu_inner)(x)); /* (1 + tanh(u)) / 2 without its difference */
}

TARGET INLINE REAL NAME(gelu_tanh_slope)(REAL x)
{
    REAL rest, s = NAME(sigmoid_and_rest)(2 * NAME(gelu_inner)(x), &rest);
    REAL z = x * x > 10000 ? 10000 : x * x; /* where s * rest is 0 */
    REAL inner = (REAL) 0.79788456080286535588 * (1 + 3 * (REAL) 0.044715 * z);
    return s + x * s * rest * (2 * inner);
}

TARGET INLINE REAL NAME(silu_slope)(REAL x)
{
    REAL rest, s = NAME(sigmoid_and_rest)(x, &rest);
    return s * (1 + x * rest);
}

TARGET INLINE REAL NAME(sigmoid_slope)(REAL x)
{
    REAL e = JOIN(exp, REAL)(-SIZE(x));
    return e / ((1 + e) * (1 + e));
}

TARGET INLINE REAL NAME(tangent_slope)(REAL x)
{
    REAL e = JOIN(exp, REAL)(-2 * SIZE(x));
    return 4 * e / ((1 + e) * (1 + e));
}

TARGET INLINE REAL NAME(softplus_above)(REAL x, REAL beta, REAL threshold)
{
    REAL y = NAME(softplus)(x * beta) / beta;
    return x * beta > threshold ? x : y;
}

TARGET INLINE REAL NAME(softplus_slope)(REAL x, REAL beta, REAL threshold)
{
    REAL s = NAME(sigmoid)(x * beta);
    return x * beta > threshold ? 1 : s;
}

TARGET INLINE REAL NAME(hardswish)(REAL x)
{
    REAL gate = x + 3;
    gate = gate < 0 ? 0 : gate;
    return x > 3 ? x : x * gate / 6;
}

TARGET INLINE REAL NAME(hardswish_slope)(REAL x)
{
    REAL slope = x / 3 + (REAL) 0.5;
    slope = x >= 3 ? 1 : slope;
    return x <= -3 ? 0 : slope;
}

/* relu in place. */
TARGET static void NAME(rectify)(REAL *restrict y, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        y[i] = y[i] < 0 ? 0 : y[i];
}

TARGET static void NAME(activate)(int kind, const REAL *restrict x, REAL *restrict y, ptrdiff_t count, REAL a, REAL b)
{
    if (kind == RELU && x == y) {
        NAME(rectify)(y, count);
        return;
    }
    switch (kind) {
    case RELU: EACH(y[i] = x[i] < 0 ? 0 : x[i]);
    case LEAKY_RELU: EACH(REAL below = x[i] * a; y[i] = x[i] > 0 ? x[i] : below);
    case ELU: EACH(y[i] = NAME(elu)(x[i], a, b));
    case GELU: EACH(y[i] = NAME(gelu)(x[i]));
    case GELU_TANH: EACH(y[i] = NAME(gelu_tanh)(x[i]));
    case SILU: EACH(y[i] = x[i] * NAME(sigmoid)(x[i]));
    case SIGMOID: EACH(y[i] = NAME(sigmoid)(x[i]));
    case TANH: EACH(y[i] = NAME(tangent)(x[i]));
    case SOFTPLUS: EACH(y[i] = NAME(softplus_above)(x[i], a, b));
    case HARDSWISH: EACH(y[i] = NAME(hardswish)(x[i]));
    }
}

/* relu's, over dy. */
TARGET static void NAME(gate)(const REAL *restrict x, REAL *restrict dx, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        dx[i] = x[i] <= 0 ? 0 : dx[i];
}

TARGET static void NAME(activate_backward)(
    int kind, const REAL *restrict dy, const REAL *restrict x, REAL *restrict dx, ptrdiff_t count, REAL a, REAL b)
{
    if (kind == RELU && dy == dx) {
        NAME(gate)(x, dx, count);
        return;
    }
    switch (kind) {
    case RELU: EACH(REAL d = dy[i]; dx[i] = x[i] <= 0 ? 0 : d);
    case LEAKY_RELU: EACH(REAL d = dy[i]; REAL below = d * a; dx[i] = x[i] > 0 ? d : below);
    case ELU: EACH(dx[i] = dy[i] * NAME(elu_slope)(x[i], a, b));
    case GELU: EACH(dx[i] = dy[i] * NAME(gelu_slope)(x[i]));
    case GELU_TANH: EACH(dx[i] = dy[i] * NAME(gelu_tanh_slope)(x[i]));
    case SILU: EACH(dx[i] = dy[i] * NAME(silu_slope)(x[i]));
    case SIGMOID: EACH(dx[i] = dy[i] * NAME(sigmoid_slope)(x[i]));
    case TANH: EACH(dx[i] = dy[i] * NAME(tangent_slope)(x[i]));
    case SOFTPLUS: EACH(dx[i] = dy[i] * NAME(softplus_slope)(x[i], a, b));
    case HARDSWISH: EACH(dx[i] = dy[i] * NAME(hardswish_slope)(x[i]));
    }
}

/* --- prelu: `count` elements in rows of `width`, the last of which may be cut short ------------------------------ */

TARGET static void NAME(prelu)(
    const REAL *restrict x, const REAL *restrict weight, REAL *restrict y, ptrdiff_t count, ptrdiff_t width)
{
    for (; count > 0; count -= width, x += width, y += width)
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {
            const REAL below = x[j] * weight[j];
            y[j] = x[j] > 0 ? x[j] : below;
        }
}

TARGET static void NAME(prelu_backward)(
    const REAL *restrict dy, const REAL *restrict x, const REAL *restrict weight, REAL *restrict dx,
    double *restrict sums, ptrdiff_t count, ptrdiff_t width)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = 0;
    for (; count > 0; count -= width, dy += width, x += width, dx += width) {
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {
            const REAL below = dy[j] * weight[j];
            dx[j] = x[j] > 0 ? dy[j] : below;
        }
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++) { /* apart: both choices at once would not be vectorised */
            const REAL product = dy[j] * x[j];
            sums[j] += x[j] > 0 ? 0 : product;
        }
    }
}
