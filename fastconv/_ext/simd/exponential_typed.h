/* The runs of exponential.h for one REAL, for compilers to vectorise with vectors of BYTES bytes. */

TARGET static void NAME(exponentials)(REAL *x, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        x[i] = JOIN(exp, REAL)(x[i]);
}

TARGET static void NAME(powers)(REAL *x, REAL exponent, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        x[i] = JOIN(exp, REAL)(exponent * JOIN(log, REAL)(x[i]));
}
