/* The loops of optim.h for one REAL (with its SIZE, ROOT and SMALLEST) and vectors of BYTES bytes. */

/* x, or 0 in place of a denormal number. */
TARGET INLINE REAL NAME(normal)(REAL x)
{
    return SIZE(x) < SMALLEST ? 0 : x;
}

/* The sum of squares, in float64: of eight partial sums, whatever BYTES, that take every eighth element each. Unless
   the loop that sets them to 0 is unrolled, GCC keeps them in memory. */
TARGET static double NAME(squares)(const REAL *x, ptrdiff_t count)
{
    double sums[8];
    ptrdiff_t i;
    UNROLL for (int j = 0; j < 8; j++) sums[j] = 0;
    for (i = 0; i + 8 <= count; i += 8)
        UNROLL for (int j = 0; j < 8; j++) sums[j] += (double)x[i + j] * x[i + j];
    for (; i < count; i++)
        sums[0] += (double)x[i] * x[i];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

TARGET INLINE void NAME(sgd_loop)(
    const int summed, const int nesterov, REAL *p, const REAL *g, REAL *m, const Sgd *c, ptrdiff_t count)
{
    const REAL scale = (REAL)c->scale, decay = (REAL)c->decay, lr = (REAL)c->lr, momentum = (REAL)c->momentum;
    for (ptrdiff_t i = 0; i < count; i++) {
        REAL d = scale * g[i] + decay * p[i], u = d;
        if (summed) {
            u = NAME(normal)(momentum * m[i] + d);
            m[i] = u;
        }
        if (nesterov)
            u = d + momentum * u;
        p[i] -= NAME(normal)(lr * u);
    }
}

TARGET static void NAME(sgd)(REAL *p, const Sgd *c, ptrdiff_t at, ptrdiff_t count)
{
    const REAL *g = (const REAL *)c->g + at;
    if (!c->m)
        NAME(sgd_loop)(0, 0, p + at, g, NULL, c, count);
    else if (!c->nesterov)
        NAME(sgd_loop)(1, 0, p + at, g, (REAL *)c->m + at, c, count);
    else
        NAME(sgd_loop)(1, 1, p + at, g, (REAL *)c->m + at, c, count);
}

TARGET INLINE void NAME(adam_loop)(
    const int amsgrad, REAL *p, const REAL *g, REAL *mean, REAL *square, REAL *largest, const Adam *c, ptrdiff_t count)
{
    const REAL scale = (REAL)c->scale, decay = (REAL)c->decay, keep = (REAL)c->keep;
    const REAL rate1 = (REAL)(1 - c->beta1), beta2 = (REAL)c->beta2, rate2 = (REAL)(1 - c->beta2);
    const REAL step_size = (REAL)c->step_size, correction = (REAL)c->correction, eps = (REAL)c->eps;
    for (ptrdiff_t i = 0; i < count; i++) {
        REAL d = scale * g[i] + decay * p[i];
        REAL m = NAME(normal)(mean[i] + rate1 * (d - mean[i]));
        REAL v = NAME(normal)(beta2 * square[i] + rate2 * d * d);
        mean[i] = m;
        square[i] = v;
        if (amsgrad) {
            REAL top = largest[i];
            v = v < top ? top : v;
            largest[i] = v;
        }
        p[i] = keep * p[i] - NAME(normal)(step_size * (m / (ROOT(v) / correction + eps)));
    }
}

TARGET static void NAME(adam)(REAL *p, const Adam *c, ptrdiff_t at, ptrdiff_t count)
{
    const REAL *g = (const REAL *)c->g + at;
    REAL *mean = (REAL *)c->mean + at, *square = (REAL *)c->square + at;
    if (!c->largest)
        NAME(adam_loop)(0, p + at, g, mean, square, NULL, c, count);
    else
        NAME(adam_loop)(1, p + at, g, mean, square, (REAL *)c->largest + at, c, count);
}

TARGET INLINE void NAME(rmsprop_loop)(
    const int centred, const int summed, REAL *p, const REAL *g, REAL *square, REAL *average, REAL *m,
    const RmsProp *c, ptrdiff_t count)
{
    const REAL scale = (REAL)c->scale, decay = (REAL)c->decay, lr = (REAL)c->lr, alpha = (REAL)c->alpha;
    const REAL rate = (REAL)(1 - c->alpha), eps = (REAL)c->eps, momentum = (REAL)c->momentum;
    for (ptrdiff_t i = 0; i < count; i++) {
        REAL d = scale * g[i] + decay * p[i], u;
        REAL v = NAME(normal)(alpha * square[i] + rate * d * d);
        square[i] = v;
        if (centred) {
            REAL a = NAME(normal)(average[i] + rate * (d - average[i]));
            average[i] = a;
            v = v - a * a;
            v = v < 0 ? 0 : v;
        }
        u = d / (ROOT(v) + eps);
        if (summed) {
            u = NAME(normal)(u + momentum * m[i]);
            m[i] = u;
        }
        p[i] -= NAME(normal)(lr * u);
    }
}

TARGET static void NAME(rmsprop)(REAL *p, const RmsProp *c, ptrdiff_t at, ptrdiff_t count)
{
    const REAL *g = (const REAL *)c->g + at;
    REAL *square = (REAL *)c->square + at;
    REAL *average = c->average ? (REAL *)c->average + at : NULL, *m = c->m ? (REAL *)c->m + at : NULL;
    if (!average && !m)
        NAME(rmsprop_loop)(0, 0, p + at, g, square, NULL, NULL, c, count);
    else if (!average)
        NAME(rmsprop_loop)(0, 1, p + at, g, square, NULL, m, c, count);
    else if (!m)
        NAME(rmsprop_loop)(1, 0, p + at, g, square, average, NULL, c, count);
    else
        NAME(rmsprop_loop)(1, 1, p + at, g, square, average, m, c, count);
}
