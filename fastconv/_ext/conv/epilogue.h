/* What becomes of outputs before they are stored: relu((v - mean) * scale + shift + addend), or parts of that. */

#ifndef FASTCONV_EPILOGUE_H
#define FASTCONV_EPILOGUE_H

#include <stddef.h>

typedef struct {
    const void *norm; /* means of the filters; NULL: nothing is normalised */
    ptrdiff_t apart;  /* elements from a mean to its scale, and on to its shift: whole vectors can be read of each */
    ptrdiff_t addend; /* elements from an output to what is added to it; 0: nothing is */
    double least;     /* outputs that are below it become it */
} Epilogue;

/* A product that is added to something is rounded before, as in norm.h: the bits are those of a pass of its own. */
#define ROUNDED(v) JOIN(ROUNDED, BYTES)(v)
#if defined(__x86_64__)
#define ROUNDED_16(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define ROUNDED_16(v) __asm__("" : "+w"(v))
#else
#define ROUNDED_16(v) __asm__("" : "+m"(v))
#endif
#define ROUNDED_4(v) __asm__("" : "+m"(v))
#define ROUNDED_8(v) ROUNDED_4(v)
#define ROUNDED_32(v) ROUNDED_16(v)
#define ROUNDED_64(v) ROUNDED_16(v)

#endif
