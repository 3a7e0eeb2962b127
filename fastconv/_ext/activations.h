/* Activation functions, their derivatives and losses of a difference, for both float types from one text. */

#include <math.h>
#include <stddef.h>

#include "exponential.h"

enum {
    RELU, LEAKY_RELU, ELU, GELU, GELU_TANH, SILU, SIGMOID, TANH, SOFTPLUS, HARDSWISH
};

enum {
    SQUARED, ABSOLUTE, CROSS_ENTROPY
};

#define REAL float
#define NAME(name) name##_float
#include "activations_typed.h"
#undef REAL
#undef NAME

#define REAL double
#define NAME(name) name##_double
#include "activations_typed.h"
#undef REAL
#undef NAME
