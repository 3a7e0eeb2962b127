/* The loops of norm.h for one REAL, for compilers to vectorise with vectors of BYTES bytes. A column's terms are added
   in one order, whatever the vectors: same bits. */

#define Reals NAME(Reals)
#define LANES ((ptrdiff_t)(BYTES / sizeof(REAL)))
#define Floats NAME(Floats)
#define Wholes NAME(Wholes)
#define Half NAME(Half)
#define Doubles NAME(Doubles)
#define Taps NAME(Taps)
#define AT(x) (*(const Reals *)((x) + j))

typedef REAL Reals __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));
typedef float Floats __attribute__((vector_size(BYTES)));
typedef WHOLE Wholes __attribute__((vector_size(BYTES)));
typedef REAL Half __attribute__((vector_size(BYTES / 2), aligned(sizeof(REAL)), may_alias));
typedef double Doubles __attribute__((vector_size(LANES / 2 * sizeof(double)), aligned(sizeof(double)), may_alias));
typedef signed char Taps __attribute__((vector_size(LANES), aligned(1), may_alias));

/* --- statistics of channels: `count` elements in rows of `width`, the last of which may be cut short -------------- */

/* Eight rows' terms are added in REAL before they join the sums; two at a time, so that registers suffice. */
#define CENTRED(i) (x[(i) * width + j] - mean[j])
#define SQUARE(i) (CENTRED(i) * CENTRED(i))
#define NORMAL(i) (CENTRED(i) * scale[j] + shift[j])
#define GRADIENT(i) (dy[(i) * width + j])
#define PRODUCT(i) (GRADIENT(i) * CENTRED(i))

TARGET static void NAME(moments)(
    const REAL *restrict x, const REAL *restrict mean, double *restrict sums, double *restrict squares,
    ptrdiff_t count, ptrdiff_t width)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = squares[j] = 0;
    for (; count >= 8 * width; count -= 8 * width, x += 8 * width) {
        TOUCH(x, 8 * width * sizeof(REAL));
        for (ptrdiff_t j = 0; j < width; j++) {
            const REAL a = CENTRED(0) + CENTRED(1), a2 = SQUARE(0) + SQUARE(1);
            const REAL b = CENTRED(2) + CENTRED(3), b2 = SQUARE(2) + SQUARE(3);
            const REAL c = CENTRED(4) + CENTRED(5), c2 = SQUARE(4) + SQUARE(5);
            const REAL d = CENTRED(6) + CENTRED(7), d2 = SQUARE(6) + SQUARE(7);
            sums[j] += (a + b) + (c + d);
            squares[j] += (a2 + b2) + (c2 + d2);
        }
    }
    for (; count > 0; count -= width, x += width)
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {
            sums[j] += CENTRED(0);
            squares[j] += SQUARE(0);
        }
}

/* The sums of dy and dy * (x - mean), with dy as GRADIENT has it. */
#define EIGHT_PRODUCTS                                                                                                 \
    TOUCH(x, 8 * width * sizeof(REAL));                                                                                \
    for (ptrdiff_t j = 0; j < width; j++) {                                                                            \
        const REAL a = GRADIENT(0) + GRADIENT(1), ax = PRODUCT(0) + PRODUCT(1);                                        \
        const REAL b = GRADIENT(2) + GRADIENT(3), bx = PRODUCT(2) + PRODUCT(3);                                        \
        const REAL c = GRADIENT(4) + GRADIENT(5), cx = PRODUCT(4) + PRODUCT(5);                                        \
        const REAL d = GRADIENT(6) + GRADIENT(7), dx = PRODUCT(6) + PRODUCT(7);                                        \
        sums[j] += (a + b) + (c + d);                                                                                  \
        products[j] += (ax + bx) + (cx + dx);                                                                          \
    }
#define ONE_PRODUCT                                                                                                    \
    for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {                                                              \
        sums[j] += GRADIENT(0);                                                                                        \
        products[j] += PRODUCT(0);                                                                                     \
    }

TARGET static void NAME(products)(
    const REAL *restrict dy, const REAL *restrict x, const REAL *restrict mean, double *restrict sums,
    double *restrict products, ptrdiff_t count, ptrdiff_t width)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = products[j] = 0;
    for (; count >= 8 * width; count -= 8 * width, dy += 8 * width, x += 8 * width) {
        TOUCH(dy, 8 * width * sizeof(REAL));
        EIGHT_PRODUCTS
    }
    for (; count > 0; count -= width, dy += width, x += width)
        ONE_PRODUCT
}
#undef GRADIENT

/* The same with dy where y = relu((x - mean) * scale + shift) is not 0. */
#define GRADIENT(i) (NORMAL(i) <= 0 ? 0 : dy[(i) * width + j])
TARGET static void NAME(relu_products)(
    const REAL *restrict dy, const REAL *restrict x, const REAL *restrict mean, const REAL *restrict scale,
    const REAL *restrict shift, double *restrict sums, double *restrict products, ptrdiff_t count, ptrdiff_t width)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = products[j] = 0;
    for (; count >= 8 * width; count -= 8 * width, dy += 8 * width, x += 8 * width) {
        TOUCH(dy, 8 * width * sizeof(REAL));
        EIGHT_PRODUCTS
    }
    for (; count > 0; count -= width, dy += width, x += width)
        ONE_PRODUCT
}
#undef GRADIENT

/* The same with dy where y is not 0, which is written to `gated`; over: that is where dy stands already. */
#define GRADIENT(i) (gated[(i) * width + j])
#define GATED (y[j] <= 0 ? 0 : over ? gated[j] : dy[j])
TARGET INLINE void NAME(gate_and_sum)(
    const REAL *restrict dy, const REAL *restrict y, const REAL *restrict x, const REAL *restrict mean,
    REAL *restrict gated, double *restrict sums, double *restrict products, ptrdiff_t count, ptrdiff_t width,
    const int over)
{
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = products[j] = 0;
    for (; count >= 8 * width; count -= 8 * width, dy += over ? 0 : 8 * width, y += 8 * width, x += 8 * width,
                               gated += 8 * width) {
        for (ptrdiff_t j = 0; j < 8 * width; j++)
            gated[j] = GATED;
        EIGHT_PRODUCTS
    }
    for (; count > 0; count -= width, dy += over ? 0 : width, y += width, x += width, gated += width) {
        for (ptrdiff_t j = 0; j < LEAST(count, width); j++)
            gated[j] = GATED;
        ONE_PRODUCT
    }
}

TARGET static void NAME(gated_products)(
    const REAL *dy, const REAL *y, const REAL *x, const REAL *mean, REAL *gated, double *sums, double *products,
    ptrdiff_t count, ptrdiff_t width)
{
    if (dy == gated)
        NAME(gate_and_sum)(y, y, x, mean, gated, sums, products, count, width, 1);
    else
        NAME(gate_and_sum)(dy, y, x, mean, gated, sums, products, count, width, 0);
}
#undef GATED
#undef GRADIENT

/* Whether y can go past the caches: rows of whole vectors, to addresses that these divide. */
TARGET INLINE int NAME(streams)(const REAL *y, ptrdiff_t width)
{
    return BYTES > 16 && ((uintptr_t)y | (width * sizeof(REAL))) % BYTES == 0;
}

/* Vectors v where they are not below 0, else 0. */
#define NOT_BELOW(v) ((Reals)(~((v) < 0) & (__typeof__((v) < 0))(v)))

/* y = (x - mean) * scale + shift; with an addend, if ADDS; relu of that, if RECTIFIES. */
#define SCALE_SHIFT(name, ADDS, RECTIFIES)                                                                             \
    TARGET NOINLINE void NAME(name)(                                                                                   \
        const REAL *restrict x, const REAL *restrict mean, const REAL *restrict scale, const REAL *restrict shift,     \
        const REAL *restrict addend, REAL *restrict y, ptrdiff_t count, ptrdiff_t width, int far)                      \
    {                                                                                                                  \
        if (far && NAME(streams)(y, width)) {                                                                          \
            for (; count >= width; count -= width, x += width, y += width, addend += ADDS ? width : 0)                 \
                for (ptrdiff_t j = 0; j < width; j += LANES) {                                                         \
                    Reals v = (AT(x) - AT(mean)) * AT(scale) + AT(shift);                                              \
                    if (ADDS)                                                                                          \
                        v += AT(addend);                                                                               \
                    if (RECTIFIES)                                                                                     \
                        v = NOT_BELOW(v);                                                                              \
                    STREAM((float *)(y + j), (Floats)v);                                                               \
                }                                                                                                      \
            fence();                                                                                                   \
        }                                                                                                              \
        for (; count > 0; count -= width, x += width, y += width, addend += ADDS ? width : 0)                          \
            for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {                                                      \
                REAL v = NORMAL(0);                                                                                    \
                if (ADDS)                                                                                              \
                    v += addend[j];                                                                                    \
                y[j] = RECTIFIES && v < 0 ? 0 : v;                                                                     \
            }                                                                                                          \
    }

SCALE_SHIFT(scale_shift_alone, 0, 0)
SCALE_SHIFT(scale_shift_relu, 0, 1)
SCALE_SHIFT(scale_shift_add_relu, 1, 1)

TARGET static void NAME(scale_shift)(
    const REAL *x, const REAL *mean, const REAL *scale, const REAL *shift, const REAL *addend, int relu, REAL *y,
    ptrdiff_t count, ptrdiff_t width, int far)
{
    if (addend)
        NAME(scale_shift_add_relu)(x, mean, scale, shift, addend, y, count, width, far);
    else if (relu)
        NAME(scale_shift_relu)(x, mean, scale, shift, addend, y, count, width, far);
    else
        NAME(scale_shift_alone)(x, mean, scale, shift, addend, y, count, width, far);
}

/* dx = dy * scale + (x - mean) * slope + shift; with dy where (x - mean) * scale + before, which relu was applied to, is
   above 0, if RECTIFIED; where dx stands, if OVER. */
#define SCALE_SHIFT_BACKWARD(name, RECTIFIED, OVER)                                                                    \
    TARGET NOINLINE void NAME(name)(                                                                                   \
        const REAL *restrict dy, const REAL *restrict x, const REAL *restrict mean, const REAL *restrict scale,        \
        const REAL *restrict slope, const REAL *restrict shift, const REAL *restrict before, REAL *restrict dx,        \
        ptrdiff_t count, ptrdiff_t width, int far)                                                                     \
    {                                                                                                                  \
        if (!OVER && far && NAME(streams)(dx, width)) {                                                                \
            for (; count >= width; count -= width, dy += width, x += width, dx += width)                               \
                for (ptrdiff_t j = 0; j < width; j += LANES) {                                                         \
                    const Reals centred = AT(x) - AT(mean);                                                            \
                    Reals d = AT(dy);                                                                                  \
                    if (RECTIFIED) {                                                                                   \
                        const Reals v = centred * AT(scale) + AT(before);                                              \
                        d = (Reals)(~(v <= 0) & (__typeof__(v <= 0))d);                                                \
                    }                                                                                                  \
                    STREAM((float *)(dx + j), (Floats)(d * AT(scale) + centred * AT(slope) + AT(shift)));              \
                }                                                                                                      \
            fence();                                                                                                   \
        }                                                                                                              \
        for (; count > 0; count -= width, dy += OVER ? 0 : width, x += width, dx += width)                             \
            for (ptrdiff_t j = 0; j < LEAST(count, width); j++) {                                                      \
                REAL d = OVER ? dx[j] : dy[j];                                                                         \
                if (RECTIFIED)                                                                                         \
                    d = CENTRED(0) * scale[j] + before[j] <= 0 ? 0 : d;                                                \
                dx[j] = d * scale[j] + CENTRED(0) * slope[j] + shift[j];                                               \
            }                                                                                                          \
    }

SCALE_SHIFT_BACKWARD(scale_shift_alone_backward, 0, 0)
SCALE_SHIFT_BACKWARD(scale_shift_relu_backward, 1, 0)
SCALE_SHIFT_BACKWARD(scale_shift_alone_backward_over, 0, 1)
SCALE_SHIFT_BACKWARD(scale_shift_relu_backward_over, 1, 1)

TARGET static void NAME(scale_shift_backward)(
    const REAL *dy, const REAL *x, const REAL *mean, const REAL *scale, const REAL *slope, const REAL *shift,
    const REAL *before, REAL *dx, ptrdiff_t count, ptrdiff_t width, int far)
{
    if (dy == dx && before)
        NAME(scale_shift_relu_backward_over)(x, x, mean, scale, slope, shift, before, dx, count, width, far);
    else if (dy == dx)
        NAME(scale_shift_alone_backward_over)(x, x, mean, scale, slope, shift, before, dx, count, width, far);
    else if (before)
        NAME(scale_shift_relu_backward)(dy, x, mean, scale, slope, shift, before, dx, count, width, far);
    else
        NAME(scale_shift_alone_backward)(dy, x, mean, scale, slope, shift, before, dx, count, width, far);
}

/* --- with a ReLU and the maximum of windows side by side (Windows in norm.h); width is a multiple of the lanes ------ */

#define CHOSEN(mask, a, b) (((mask) & (Wholes)(a)) | (~(mask) & (Wholes)(b)))
#define IS(tap) (__builtin_convertvector((Taps)(AT_TAP == (signed char)(tap)), Wholes))

/* Of a line of windows y = relu(max((x - mean) * scale + shift)), and which tap it comes from: the first that is
   as large, or is not a number; NO_TAP where relu gave 0. */
TARGET NOINLINE void NAME(normalise_windows)(
    const REAL *restrict x, const Windows *w, const REAL *restrict mean, const REAL *restrict scale,
    const REAL *restrict shift, REAL *restrict y, signed char *restrict chosen)
{
    const ptrdiff_t width = w->width;
    for (ptrdiff_t i = 0; i < w->outputs[2]; i++, x += w->kernel[2] * width, y += width, chosen += width)
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            Reals most = NOT_BELOW((AT(x) - AT(mean)) * AT(scale) + AT(shift));
            Wholes tap = {0};
            for (ptrdiff_t t = 1; t < w->taps; t++) {
                const Reals v = (AT(x + w->offsets[t]) - AT(mean)) * AT(scale) + AT(shift); /* below 0 it does not win */
                const Wholes wins = ~(Wholes)(v <= most) & (Wholes)(most == most);
                most = (Reals)CHOSEN(wins, v, most);
                tap = CHOSEN(wins, (Wholes){0} + (WHOLE)t, tap);
            }
            *(Reals *)(y + j) = most;
            *(Taps *)(chosen + j) = __builtin_convertvector(tap | (Wholes)(most <= 0), Taps);
        }
}

/* The gradient to a pixel is that to the window that it was chosen for. */
#define AT_TAP (*(const Taps *)(at[i].chosen + j))
#define GRADIENT(i) ((Reals)(IS(at[i].tap) & (Wholes)AT(at[i].dy)))
#define CENTRED_AT(i) (AT(x + (i) * width) - AT(mean))
#define PAIR(i) (g[i] + g[i + 1])
#define PAIR_OF_PRODUCTS(i) (g[i] * CENTRED_AT(i) + g[i + 1] * CENTRED_AT(i + 1))

/* `products` of pixels first … first + count - 1 of the batch. */
TARGET static void NAME(windows_products)(
    const REAL *dy, const signed char *chosen, const REAL *x, const REAL *mean, const Windows *w, double *sums,
    double *products, ptrdiff_t first, ptrdiff_t count)
{
    const ptrdiff_t width = w->width;
    struct {
        const REAL *dy;
        const signed char *chosen;
        ptrdiff_t tap;
    } at[8];
    Line line = line_of(w, first / w->inputs[2]);
    ptrdiff_t column = first % w->inputs[2], window = column / w->kernel[2], tap = column % w->kernel[2];
    ptrdiff_t ahead[MOST_TAPS + 8], taps[MOST_TAPS + 8]; /* of columns from a window's first: of their window, and in it */
    for (ptrdiff_t i = 0; i < w->kernel[2] + 8; i++)
        ahead[i] = i / w->kernel[2] * width, taps[i] = i % w->kernel[2];
    for (ptrdiff_t j = 0; j < width; j++)
        sums[j] = products[j] = 0;
    for (ptrdiff_t some; count > 0; count -= some, x += some * width) {
        some = count >= 8 ? 8 : 1;
        if (some == 8 && column + 8 <= w->outputs[2] * w->kernel[2]) {
            const REAL *from_dy = dy + (line.window + window) * width;
            const signed char *from = chosen + (line.window + window) * width;
            for (ptrdiff_t i = 0; i < 8; i++) {
                at[i].dy = from_dy + ahead[tap + i], at[i].chosen = from + ahead[tap + i];
                at[i].tap = line.tap + taps[tap + i];
            }
            column += 8, window += ahead[tap + 8] / width, tap = taps[tap + 8];
            if (column == w->inputs[2])
                line = line_of(w, line.line + 1), column = window = tap = 0;
        } else {
            for (ptrdiff_t i = 0; i < some; i++) {
                const ptrdiff_t from = (line.window + LEAST(window, w->outputs[2] - 1)) * width;
                at[i].dy = dy + from, at[i].chosen = chosen + from;
                at[i].tap = window < w->outputs[2] ? line.tap + tap : UNSEEN;
                if (++tap == w->kernel[2])
                    tap = 0, window++;
                if (++column == w->inputs[2])
                    line = line_of(w, line.line + 1), column = window = tap = 0;
            }
        }
        for (ptrdiff_t j = 0; j < width; j += LANES) {
            Reals sum, product;
            REAL both[2][LANES];
            if (some == 8) {
                Reals g[8];
                for (int i = 0; i < 8; i++)
                    g[i] = GRADIENT(i);
                sum = (PAIR(0) + PAIR(2)) + (PAIR(4) + PAIR(6));
                product = (PAIR_OF_PRODUCTS(0) + PAIR_OF_PRODUCTS(2)) + (PAIR_OF_PRODUCTS(4) + PAIR_OF_PRODUCTS(6));
            } else {
                const int i = 0;
                sum = GRADIENT(i), product = sum * CENTRED_AT(0);
            }
            *(Reals *)both[0] = sum, *(Reals *)both[1] = product;
            for (ptrdiff_t k = 0; k < LANES; k += LANES / 2) { /* as wide as registers are */
                *(Doubles *)(sums + j + k) += __builtin_convertvector(*(const Half *)(both[0] + k), Doubles);
                *(Doubles *)(products + j + k) += __builtin_convertvector(*(const Half *)(both[1] + k), Doubles);
            }
        }
    }
}
#undef GRADIENT
#undef AT_TAP

/* dx = d * scale + (x - mean) * slope + shift of a line's windows; d is dy for the tap that was chosen, else 0. dx may
   be x. */
#define AT_TAP (*(const Taps *)(chosen + j))
#define WINDOWS_BACKWARD(name, PUT)                                                                                    \
    TARGET NOINLINE void NAME(name)(                                                                                   \
        const REAL *restrict dy, const signed char *restrict chosen, const REAL *x, const Windows *w,                  \
        const REAL *restrict mean, const REAL *restrict scale, const REAL *restrict slope, const REAL *restrict shift, \
        REAL *dx)                                                                                                      \
    {                                                                                                                  \
        const ptrdiff_t width = w->width, step = w->kernel[2] * width;                                                 \
        for (ptrdiff_t i = 0; i < w->outputs[2]; i++, x += step, dx += step, dy += width, chosen += width)             \
            for (ptrdiff_t j = 0; j < width; j += LANES)                                                               \
                for (ptrdiff_t t = 0; t < w->taps; t++) {                                                              \
                    const Reals d = (Reals)(IS(t) & (Wholes)AT(dy));                                                   \
                    PUT(dx + w->offsets[t] + j,                                                                        \
                        d * AT(scale) + (AT(x + w->offsets[t]) - AT(mean)) * AT(slope) + AT(shift));                   \
                }                                                                                                      \
    }

#define PUT_HERE(to, value) (*(Reals *)(to) = (value))
#define PUT_FAR(to, value) STREAM((float *)(to), (Floats)(value))
WINDOWS_BACKWARD(windows_backward_here, PUT_HERE)
WINDOWS_BACKWARD(windows_backward_far, PUT_FAR)

TARGET static void NAME(windows_backward)(
    const REAL *dy, const signed char *chosen, const REAL *x, const Windows *w, const REAL *mean, const REAL *scale,
    const REAL *slope, const REAL *shift, REAL *dx, int far)
{
    const ptrdiff_t width = w->width, seen = w->outputs[2] * w->kernel[2] * width, length = w->inputs[2] * width;
    if (far && x != dx && NAME(streams)(dx, width)) {
        NAME(windows_backward_far)(dy, chosen, x, w, mean, scale, slope, shift, dx);
        fence();
    } else {
        NAME(windows_backward_here)(dy, chosen, x, w, mean, scale, slope, shift, dx);
    }
    for (ptrdiff_t t = 0; t < w->taps; t += w->kernel[2]) /* what no window sees: ends of lines */
        for (ptrdiff_t k = w->offsets[t] + seen; k < w->offsets[t] + length; k += width)
            for (ptrdiff_t j = 0; j < width; j += LANES)
                *(Reals *)(dx + k + j) = 0 * AT(scale) + (AT(x + k) - AT(mean)) * AT(slope) + AT(shift);
}

#undef CHOSEN
#undef IS
#undef AT_TAP
#undef CENTRED_AT
#undef PAIR
#undef PAIR_OF_PRODUCTS
#undef WINDOWS_BACKWARD
#undef PUT_HERE
#undef PUT_FAR
#undef Wholes
#undef Half
#undef Doubles
#undef Taps
#undef Reals
#undef Floats
#undef AT
#undef CENTRED
#undef SQUARE
#undef NORMAL
#undef PRODUCT
#undef EIGHT_PRODUCTS
#undef ONE_PRODUCT
#undef NOT_BELOW
#undef SCALE_SHIFT
#undef SCALE_SHIFT_BACKWARD
