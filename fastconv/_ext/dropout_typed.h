/* The loop of dropout.h for elements of type REAL and vectors of BYTES bytes. */

/* y = x * scale, or x * 0 where an element's 32 random bits are below `threshold`: the upper half of SplitMix64's output
   (Steele, Lea, Flood 2014) for its state. */
TARGET static void NAME(dropout)(
    const REAL *x, REAL *y, const uint64_t *states, uint64_t threshold, REAL scale, ptrdiff_t count)
{
    const REAL factor[2] = {0, scale};
    for (ptrdiff_t j = 0; j < count; j++) {
        uint64_t z = states[j];
#if BYTES == 16 /* one by one: SSE2 neither multiplies nor compares numbers of 64 bits */
        __asm__("" : "+r"(z));
#endif
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z = (z ^ (z >> 31)) >> 32;
#if BYTES == 16
        y[j] = x[j] * factor[z >= threshold]; /* a branch were mispredicted */
#else
        y[j] = x[j] * (z >= threshold ? factor[1] : factor[0]);
#endif
    }
}
