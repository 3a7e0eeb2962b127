/* Functions of libm for one REAL, in plain arithmetic, so that loops around them are vectorised: both branches of a
   choice are computed and one is kept. A typed header includes this, as it includes functions.h before. */

/* Within 2 ulp (Cephes' tanh). */
TARGET INLINE REAL NAME(tangent)(REAL x)
{
    REAL z = x * x;
    REAL size = SIZE(x);
    REAL e = JOIN(exp, REAL)(-2 * size);
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
TARGET INLINE REAL NAME(exp_minus_one)(REAL x)
{
    REAL t = NAME(tangent)(x / 2);
    REAL y = 2 * t / (1 - t);
    return x > (sizeof(REAL) == sizeof(float) ? (REAL) -FLT_EPSILON / 4 : (REAL) -DBL_EPSILON / 4) ? x : y;
}

/* log(1 + x) for 0 <= x <= 1: 2 atanh(u) with u = x / (2 + x) <= 1/3, by its series. */
TARGET INLINE REAL NAME(log_one_plus)(REAL x)
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
TARGET INLINE REAL NAME(normal)(REAL x, REAL *bell)
{
    REAL a = SIZE(x) * (REAL) 0.70710678118654752440;
    REAL z = a * a;
    REAL gauss = JOIN(exp, REAL)(-z);
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

/* sigmoid(x), and 1 - sigmoid(x) in *rest: by exp(-|x|), which does not overflow, so that both tails keep their digits. */
TARGET INLINE REAL NAME(sigmoid_and_rest)(REAL x, REAL *rest)
{
    REAL e = JOIN(exp, REAL)(-SIZE(x));
    *rest = (x < 0 ? 1 : e) / (1 + e);
    return (x < 0 ? e : 1) / (1 + e);
}

TARGET INLINE REAL NAME(sigmoid)(REAL x)
{
    REAL rest;
    return NAME(sigmoid_and_rest)(x, &rest);
}
