/* The losses of loss.h for one REAL, for compilers to vectorise with vectors of BYTES bytes. */

#include "simd/functions_typed.h"

TARGET INLINE REAL NAME(error)(int kind, REAL x, REAL target)
{
    REAL d = x - target;
    if (kind == SQUARED)
        return d * d;
    if (kind == ABSOLUTE)
        return SIZE(d);
    return (x < 0 ? -target * x : (1 - target) * x) + NAME(log_one_plus)(JOIN(exp, REAL)(-SIZE(x)));
}

TARGET INLINE REAL NAME(error_slope)(int kind, REAL x, REAL target)
{
    REAL d = x - target;
    if (kind == SQUARED)
        return 2 * d;
    if (kind == ABSOLUTE)
        return (REAL) (d > 0) - (REAL) (d < 0);
    REAL rest, s = NAME(sigmoid_and_rest)(x, &rest);
    return (1 - target) * s - target * rest;
}

TARGET INLINE REAL NAME(error_target_slope)(int kind, REAL x, REAL target)
{
    return kind == CROSS_ENTROPY ? -x : -NAME(error_slope)(kind, x, target);
}

/* Each kind its own loop, for the compiler to vectorise. */
#define EACH_KIND(expression)                                                                                          \
    switch (kind) {                                                                                                    \
    case SQUARED: { enum { K = SQUARED }; EACH(expression); }                                                          \
    case ABSOLUTE: { enum { K = ABSOLUTE }; EACH(expression); }                                                        \
    default: { enum { K = CROSS_ENTROPY }; EACH(expression); }                                                         \
    }

TARGET static void NAME(errors)(
    int kind, const REAL *restrict x, const REAL *restrict t, REAL *restrict y, ptrdiff_t count)
{
    EACH_KIND(y[i] = NAME(error)(K, x[i], t[i]))
}

TARGET static void NAME(errors_backward)(
    int kind, const REAL *restrict x, const REAL *restrict t, REAL *restrict dx, ptrdiff_t count)
{
    EACH_KIND(dx[i] = NAME(error_slope)(K, x[i], t[i]))
}

TARGET static void NAME(errors_target_backward)(
    int kind, const REAL *restrict x, const REAL *restrict t, REAL *restrict dt, ptrdiff_t count)
{
    EACH_KIND(dt[i] = NAME(error_target_slope)(K, x[i], t[i]))
}

#undef EACH_KIND
