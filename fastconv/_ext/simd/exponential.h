/* exp and log for both float types in plain arithmetic, so that compilers vectorise the loops around them; within 1 ulp
   and 2 ulp. NaN stays NaN. */

#ifndef FASTCONV_EXPONENTIAL_H
#define FASTCONV_EXPONENTIAL_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "simd/cpu.h"
#include "simd/vectors.h"

/* exp: x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) by a polynomial (Cephes' for float, Taylor's for double), times 2^n in
   two factors, so that overflow gives inf and underflow a denormal number or 0. */

INLINE float exp_float(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
    uint32_t bits, half, low, high;
    float t, n, r, p, a, b;
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    t = x * 1.44269504088896341f + shift;
    n = t - shift;
    r = x - n * 0.693359375f;
    r -= n * -2.12194440e-4f;
    p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    memcpy(&bits, &t, sizeof bits);
    bits -= 0x4B400000u - 256u; /* n + 256 */
    half = bits >> 1;
    high = (half - 1u) << 23;          /* 2^(half - 128) */
    low = (bits - half - 1u) << 23;
    memcpy(&a, &high, sizeof a);
    memcpy(&b, &low, sizeof b);
    return p * a * b;
}

INLINE double exp_double(double x)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52 */
    uint64_t bits, half, low, high;
    double t, n, r, p, a, b;
    x = x > 710.0 ? 710.0 : x;
    x = x < -746.0 ? -746.0 : x;
    t = x * 1.44269504088896341 + shift;
    n = t - shift;
    r = x - n * 6.93145751953125e-1;
    r -= n * 1.42860682030941723212e-6;
    p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    memcpy(&bits, &t, sizeof bits);
    bits -= 0x4338000000000000u - 4096u; /* n + 4096 */
    half = bits >> 1;
    high = (half - 1025u) << 52;       /* 2^(half - 2048) */
    low = (bits - half - 1025u) << 52;
    memcpy(&a, &high, sizeof a);
    memcpy(&b, &low, sizeof b);
    return p * a * b;
}

/* log: x = m 2^n with m in [sqrt 1/2, sqrt 2), log m = 2 atanh(u) by its series, u = (m - 1) / (m + 1). */

INLINE float log_float(float x)
{
    uint32_t bits, low;
    int32_t n;
    float tiny = x < FLT_MIN ? 16777216.0f : 1.0f, m, u, z, p, y;
    float scaled = x * tiny;
    memcpy(&bits, &scaled, sizeof bits);
    low = bits - 0x3F3504F3u; /* sqrt 1/2 */
    n = (int32_t) low >> 23;
    bits -= (uint32_t) n << 23;
    memcpy(&m, &bits, sizeof m);
    n = x < FLT_MIN ? n - 24 : n;
    u = (m - 1) / (m + 1);
    z = u * u;
    p = 1.0f / 9;
    p = p * z + 1.0f / 7;
    p = p * z + 1.0f / 5;
    p = p * z + 1.0f / 3;
    y = (float) n * 0.693359375f + (2 * u + (2 * u * z * p + (float) n * -2.12194440e-4f));
    y = x == INFINITY ? x : y;
    y = x == 0 ? -INFINITY : y;
    return x >= 0 ? y : NAN;
}

INLINE double log_double(double x)
{
    const double shift = 6755399441055744.0; /* 1.5 * 2^52: an integer below 2^51 in its low bits becomes a double */
    uint64_t bits, low;
    double tiny = x < DBL_MIN ? 18014398509481984.0 : 1.0, m, n, u, z, p, y;
    double scaled = x * tiny;
    memcpy(&bits, &scaled, sizeof bits);
    low = (bits - 0x3FE6A09E667F3BCDu + 0x4000000000000000u) >> 52; /* n + 1024 */
    bits -= (low - 1024u) << 52;
    memcpy(&m, &bits, sizeof m);
    low += 0x4338000000000000u;
    memcpy(&n, &low, sizeof n);
    n = n - shift - 1024 - (x < DBL_MIN ? 54.0 : 0.0);
    u = (m - 1) / (m + 1);
    z = u * u;
    p = 1.0 / 23;
    p = p * z + 1.0 / 21;
    p = p * z + 1.0 / 19;
    p = p * z + 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    y = n * 6.93145751953125e-1 + (2 * u + (2 * u * z * p + n * 1.42860682030941723212e-6));
    y = x == INFINITY ? x : y;
    y = x == 0 ? -INFINITY : y;
    return x >= 0 ? y : NAN;
}

/* x = exp(x), and x = x^exponent, over a run. */

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "simd/exponential_typed.h"

#define REAL float
#include "simd/every_width.h"
#undef REAL

#define REAL double
#include "simd/every_width.h"
#undef REAL
#undef TYPED
#undef NAME

#define OF_REAL(real)                                                                                                  \
    static inline void exponentials_##real(real *x, ptrdiff_t count)                                                   \
    {                                                                                                                  \
        CHOOSE(exponentials_##real, simd_bytes(), x, count);                                                           \
    }                                                                                                                  \
    static inline void powers_##real(real *x, real exponent, ptrdiff_t count)                                          \
    {                                                                                                                  \
        CHOOSE(powers_##real, simd_bytes(), x, exponent, count);                                                       \
    }

OF_REAL(float)
OF_REAL(double)
#undef OF_REAL

#endif
