/* Included by activations.h once per float type: REAL is the type, NAME(f) the name of its f.
   Both branches of a choice are computed and one is kept, so that the loops at the end vectorise. */

/* --- functions of libm, in plain arithmetic --- */

#define SIZE(x) (sizeof(REAL) == sizeof(float) ? (REAL) fabsf((float) (x)) : (REAL) fabs(x))
#define SIGNED(y, x) (sizeof(REAL) == sizeof(float) ? (REAL) copysignf((float) (y), (float) (x)) : (REAL) copysign(y, x))

/* Within 2 ulp (Cephes' tanh). */
INLINE REAL NAME(tangent)(REAL x)
{
    REAL z = x * x;
    REAL size = SIZE(x);
    REAL e = NAME(exp)(-2 * size);
    REAL far = (1 - e) / (1 + e);
    REAL near, p, q;
    if (sizeof(REAL) == sizeof(float)) {
        p = (REAL) -5.70498872745e-3;
        p = p * z + (REAL) 2.06390887954e-2;
        p = p * z + (REAL) -5.37397155531e-2;
        p = p * z + (REAL) 1.33314422036e-1;
        p = p * z + (REAL) -3.33332819422e-1;
        q = 1;
    } else {
        p = (REAL) -9.64399179425052238628e-1;
        p = p * z + (REAL) -9.92877231001918586564e1;
        p = p * z + (REAL) -1.61468768441708447952e3;
        q = z + (REAL) 1.12811678491632931402e2;
        q = q * z + (REAL) 2.23548839060100448583e3;
        q = q * z + (REAL) 4.84406305325125486048e3;
    }
    near = size + size * (z * p / q);
    near = size < (REAL) 0.625 ? near : far;
    return SIGNED(near, x);
}

/* exp(x) - 1 for x <= 0, accurate near 0 too: x itself where halves of it might be lost. */
INLINE REAL NAME(exp_minus_one)(REAL x)
{
    REAL t = NAME(tangent)(x / 2);
    REAL y = 2 * t / (1 - t);
    return x > (sizeof(REAL) == sizeof(float) ? (REAL) -FLT_EPSILON / 4 : (REAL) -DBL_EPSILON / 4) ? x : y;
}

/* log(1 + x) for 0 <= x <= 1: 2 atanh(u) with u = x / (2 + x) <= 1/3, by its series. */
INLINE REAL NAME(log_one_plus)(REAL x)
{
    REAL half = 1 / (2 + x);
    REAL u = x * half;
    REAL z = u * u;
    REAL p;
    if (sizeof(REAL) == sizeof(float)) {
        p = (REAL) (1.0 / 15);
    } else {
        p = (REAL) (1.0 / 35);
        p = p * z + (REAL) (1.0 / 33);
        p = p * z + (REAL) (1.0 / 31);
        p = p * z + (REAL) (1.0 / 29);
        p = p * z + (REAL) (1.0 / 27);
        p = p * z + (REAL) (1.0 / 25);
        p = p * z + (REAL) (1.0 / 23);
        p = p * z + (REAL) (1.0 / 21);
        p = p * z + (REAL) (1.0 / 19);
        p = p * z + (REAL) (1.0 / 17);
        p = p * z + (REAL) (1.0 / 15);
    }
    p = p * z + (REAL) (1.0 / 13);
    p = p * z + (REAL) (1.0 / 11);
    p = p * z + (REAL) (1.0 / 9);
    p = p * z + (REAL) (1.0 / 7);
    p = p * z + (REAL) (1.0 / 5);
    p = p * z + (REAL) (1.0 / 3);
    p = p * z + 1;
    return x * (2 * half * p); /* x times 1 where it is tiny */
}

/* The normal distribution function, Phi(x) = erfc(-x / sqrt 2) / 2 (Cephes' ndtr); *bell is its derivative. */
INLINE REAL NAME(normal)(REAL x, REAL *bell)
{
    REAL a = SIZE(x) * (REAL) 0.70710678118654752440;
    REAL z = a * a;
    REAL gauss = NAME(exp)(-z);
    REAL t, u, p, q, near, tail;
    REAL b = a > 40 ? 40 : a; /* where p would overflow, gauss is 0 */
    *bell = gauss * (REAL) 0.39894228040143267794;
    t = (REAL) 9.60497373987051638749e0;
    t = t * z + (REAL) 9.00260197203842689217e1;
    t = t * z + (REAL) 2.23200534594684319226e3;
    t = t * z + (REAL) 7.00332514112805075473e3;
    t = t * z + (REAL) 5.55923013010394962768e4;
    u = z + (REAL) 3.35617141647503099647e1;
    u = u * z + (REAL) 5.21357949780152679795e2;
    u = u * z + (REAL) 4.59432382970980127987e3;
    u = u * z + (REAL) 2.26290000613890934246e4;
    u = u * z + (REAL) 4.92673942608635921086e4;
    near = (REAL) 0.5 - (REAL) 0.5 * a * t / u;
    p = (REAL) 2.46196981473530512524e-10;
    p = p * b + (REAL) 5.64189564831068821977e-1;
    p = p * b + (REAL) 7.46321056442269912687e0;
    p = p * b + (REAL) 4.86371970985681366614e1;
    p = p * b + (REAL) 1.96520832956077098242e2;
    p = p * b + (REAL) 5.26445194995477358631e2;
    p = p * b + (REAL) 9.34528527171957607540e2;
    p = p * b + (REAL) 1.02755188689515710272e3;
    p = p * b + (REAL) 5.57535335369399327526e2;
    q = b + (REAL) 1.32281951154744992508e1;
    q = q * b + (REAL) 8.67072140885989742329e1;
    q = q * b + (REAL) 3.54937778887819891062e2;
    q = q * b + (REAL) 9.75708501743205489753e2;
    q = q * b + (REAL) 1.82390916687909736289e3;
    q = q * b + (REAL) 2.24633760818710981792e3;
    q = q * b + (REAL) 1.65666309194161350182e3;
    q = q * b + (REAL) 5.57535340817727675546e2;
    tail = (REAL) 0.5 * gauss * p / q;
    tail = a < 1 ? near : tail; /* Phi(-|x|) */
    tail = a == a ? tail : a;
    return x < 0 ? tail : 1 - tail;
}

/* --- activations: y(x), and the derivative, times dy; a and b are the function's parameters --- */

/* sigmoid(x), and 1 - sigmoid(x) in *rest: by exp(-|x|), which does not overflow, so that both tails keep their digits. */
INLINE REAL NAME(sigmoid_and_rest)(REAL x, REAL *rest)
{
    REAL e = NAME(exp)(-SIZE(x));
    *rest = (x < 0 ? 1 : e) / (1 + e);
    return (x < 0 ? e : 1) / (1 + e);
}

INLINE REAL NAME(sigmoid)(REAL x)
{
    REAL rest;
    return NAME(sigmoid_and_rest)(x, &rest);
}

INLINE REAL NAME(softplus)(REAL x)
{
    return (x < 0 ? 0 : x) + NAME(log_one_plus)(NAME(exp)(-SIZE(x)));
}

INLINE REAL NAME(gelu_inner)(REAL x)
{
    return (REAL) 0.79788456080286535588 * (x + (REAL) 0.044715 * x * x * x);
}

INLINE REAL NAME(elu)(REAL x, REAL alpha, REAL scale)
{
    REAL below = scale * alpha * NAME(exp_minus_one)(x > 0 ? 0 : x);
    return x <= 0 ? below : scale * x;
}

INLINE REAL NAME(elu_slope)(REAL x, REAL alpha, REAL scale)
{
    REAL below = scale * alpha * NAME(exp)(x);
    REAL slope = x <= 0 ? below : scale;
    return x == x ? slope : x;
}

INLINE REAL NAME(gelu)(REAL x)
{
    REAL bell;
    return x * NAME(normal)(x, &bell);
}

INLINE REAL NAME(gelu_slope)(REAL x)
{
    REAL bell;
    REAL phi = NAME(normal)(x, &bell);
    return phi + x * bell;
}

INLINE REAL NAME(gelu_tanh)(REAL x)
{
    return x * NAME(sigmoid)(2 * NAME(gelu_inner)(x)); /* (1 + tanh(u)) / 2 without its difference */
}

INLINE REAL NAME(gelu_tanh_slope)(REAL x)
{
    REAL rest, s = NAME(sigmoid_and_rest)(2 * NAME(gelu_inner)(x), &rest);
    REAL z = x * x > 10000 ? 10000 : x * x; /* where s * rest is 0 */
    REAL inner = (REAL) 0.79788456080286535588 * (1 + 3 * (REAL) 0.044715 * z);
    return s + x * s * rest * (2 * inner);
}

INLINE REAL NAME(silu_slope)(REAL x)
{
    REAL rest, s = NAME(sigmoid_and_rest)(x, &rest);
    return s * (1 + x * rest);
}

INLINE REAL NAME(sigmoid_slope)(REAL x)
{
    REAL e = NAME(exp)(-SIZE(x));
    return e / ((1 + e) * (1 + e));
}

INLINE REAL NAME(tangent_slope)(REAL x)
{
    REAL e = NAME(exp)(-2 * SIZE(x));
    return 4 * e / ((1 + e) * (1 + e));
}

INLINE REAL NAME(softplus_above)(REAL x, REAL beta, REAL threshold)
{
    REAL y = NAME(softplus)(x * beta) / beta;
    return x * beta > threshold ? x : y;
}

INLINE REAL NAME(softplus_slope)(REAL x, REAL beta, REAL threshold)
{
    REAL s = NAME(sigmoid)(x * beta);
    return x * beta > threshold ? 1 : s;
}

INLINE REAL NAME(hardswish)(REAL x)
{
    REAL gate = x + 3;
    gate = gate < 0 ? 0 : gate;
    return x > 3 ? x : x * gate / 6;
}

INLINE REAL NAME(hardswish_slope)(REAL x)
{
    REAL slope = x / 3 + (REAL) 0.5;
    slope = x >= 3 ? 1 : slope;
    return x <= -3 ? 0 : slope;
}

#define EACH(expression) for (i = 0; i < count; i++) { expression; } break

CLONES static void NAME(activate)(int kind, const REAL *restrict x, REAL *restrict y, ptrdiff_t count, REAL a, REAL b)
{
    ptrdiff_t i;
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

CLONES static void NAME(activate_backward)(
    int kind, const REAL *restrict dy, const REAL *restrict x, REAL *restrict dx, ptrdiff_t count, REAL a, REAL b
)
{
    ptrdiff_t i;
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

/* --- losses of x against a target: the value, and the derivatives to x and to the target --- */

INLINE REAL NAME(error)(int kind, REAL x, REAL target)
{
    REAL d = x - target;
    if (kind == SQUARED)
        return d * d;
    if (kind == ABSOLUTE)
        return SIZE(d);
    return (x < 0 ? -target * x : (1 - target) * x) + NAME(log_one_plus)(NAME(exp)(-SIZE(x)));
}

INLINE REAL NAME(error_slope)(int kind, REAL x, REAL target)
{
    REAL d = x - target;
    if (kind == SQUARED)
        return 2 * d;
    if (kind == ABSOLUTE)
        return (REAL) (d > 0) - (REAL) (d < 0);
    REAL rest, s = NAME(sigmoid_and_rest)(x, &rest);
    return (1 - target) * s - target * rest;
}

INLINE REAL NAME(error_target_slope)(int kind, REAL x, REAL target)
{
    return kind == CROSS_ENTROPY ? -x : -NAME(error_slope)(kind, x, target);
}

/* Each kind its own loop, for the compiler to vectorise. */
#define EACH_KIND(expression) \
    switch (kind) { \
    case SQUARED: { enum { K = SQUARED }; EACH(expression); } \
    case ABSOLUTE: { enum { K = ABSOLUTE }; EACH(expression); } \
    default: { enum { K = CROSS_ENTROPY }; EACH(expression); } \
    }

CLONES static void NAME(errors)(int kind, const REAL *restrict x, const REAL *restrict t, REAL *restrict y, ptrdiff_t count)
{
    ptrdiff_t i;
    EACH_KIND(y[i] = NAME(error)(K, x[i], t[i]))
}

CLONES static void NAME(errors_backward)(
    int kind, const REAL *restrict x, const REAL *restrict t, REAL *restrict dx, ptrdiff_t count
)
{
    ptrdiff_t i;
    EACH_KIND(dx[i] = NAME(error_slope)(K, x[i], t[i]))
}

CLONES static void NAME(errors_target_backward)(
    int kind, const REAL *restrict x, const REAL *restrict t, REAL *restrict dt, ptrdiff_t count
)
{
    ptrdiff_t i;
    EACH_KIND(dt[i] = NAME(error_target_slope)(K, x[i], t[i]))
}

#undef SIZE
#undef SIGNED
#undef EACH
#undef EACH_KIND
