/* The optimisers' loops and the sum of squares, written once as plain C that compilers vectorise (optim_typed.h), and
   compiled for both float types and for vectors of 16, 32 and 64 bytes; the widest that the CPU has are taken. No
   product is fused with a sum (optim.pyx asks for -ffp-contract=off), and no sum takes another order, so that all give
   the same bits.

   Each step does elements at .. at + count - 1. What a struct points at has the type of p. */

#include <float.h>
#include <math.h>

#include "simd/cpu.h"
#include "simd/vectors.h"

typedef struct {
    const void *g;
    void *m; /* NULL where there is no momentum */
    double scale, decay, lr, momentum;
    int nesterov;
} Sgd;

typedef struct {
    const void *g;
    void *mean, *square;
    void *largest; /* NULL without AMSGrad */
    double scale, decay, keep, beta1, beta2, step_size, correction, eps;
} Adam;

typedef struct {
    const void *g;
    void *square;
    void *average; /* NULL where it is not centred */
    void *m;       /* NULL where there is no momentum */
    double scale, decay, lr, alpha, eps, momentum;
} RmsProp;

#define NAME(name) JOIN(JOIN(name, REAL), BYTES)
#define TYPED "optim_typed.h"

#define REAL float
#define SIZE fabsf
#define ROOT sqrtf
#define SMALLEST FLT_MIN
#include "simd/every_width.h"
#undef REAL
#undef SIZE
#undef ROOT
#undef SMALLEST

#define REAL double
#define SIZE fabs
#define ROOT sqrt
#define SMALLEST DBL_MIN
#include "simd/every_width.h"
#undef TYPED
#undef REAL
#undef SIZE
#undef ROOT
#undef SMALLEST

#define FOR_TYPE(real)                                                                                                 \
    static inline double squares_##real(const real *x, ptrdiff_t count)                                                \
    {                                                                                                                  \
        return CHOOSE(squares_##real, simd_bytes(), x, count);                                                         \
    }                                                                                                                  \
    static inline void sgd_##real(real *p, const Sgd *c, ptrdiff_t at, ptrdiff_t count)                                \
    {                                                                                                                  \
        CHOOSE(sgd_##real, simd_bytes(), p, c, at, count);                                                             \
    }                                                                                                                  \
    static inline void adam_##real(real *p, const Adam *c, ptrdiff_t at, ptrdiff_t count)                              \
    {                                                                                                                  \
        CHOOSE(adam_##real, simd_bytes(), p, c, at, count);                                                            \
    }                                                                                                                  \
    static inline void rmsprop_##real(real *p, const RmsProp *c, ptrdiff_t at, ptrdiff_t count)                        \
    {                                                                                                                  \
        CHOOSE(rmsprop_##real, simd_bytes(), p, c, at, count);                                                         \
    }

FOR_TYPE(float)
FOR_TYPE(double)
