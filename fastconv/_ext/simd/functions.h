/* What functions_typed.h and the loops around its functions need. */

#ifndef FASTCONV_FUNCTIONS_H
#define FASTCONV_FUNCTIONS_H

#include <math.h>

#include "simd/exponential.h"

#define SIZE(x) (sizeof(REAL) == sizeof(float) ? (REAL) fabsf((float) (x)) : (REAL) fabs(x))
#define SIGNED(y, x)                                                                                                   \
    (sizeof(REAL) == sizeof(float) ? (REAL) copysignf((float) (y), (float) (x)) : (REAL) copysign(y, x))

/* A case of a switch: a loop of its own, for the compiler to vectorise. */
#define EACH(expression)                                                                                               \
    for (ptrdiff_t i = 0; i < count; i++) {                                                                            \
        expression;                                                                                                    \
    }                                                                                                                  \
    break

#endif
