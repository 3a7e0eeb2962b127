/* Copies past the caches, for results that are too large to be found there again. */

#ifndef FASTCONV_STREAMS_H
#define FASTCONV_STREAMS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "simd/vectors.h"

#define FAR ((ptrdiff_t)8 << 20) /* bytes of a result from which that pays */
/* A vector to an address that it divides, past the caches: unlike STREAM one of 16 bytes too. `fence` follows the last. */
#define STREAM_WHOLE(y, value) JOIN(STREAM_WHOLE, BYTES)(y, value)
#if defined(__clang__) && defined(__x86_64__)
#define STREAM_WHOLE_16(y, value) __asm__ volatile("movntps %1, %0" : "=m"(*(__m128 *)(y)) : "x"(value))
#elif defined(__x86_64__)
#define STREAM_WHOLE_16(y, value) _mm_stream_ps((float *)(y), (__m128)(value))
#else
#define STREAM_WHOLE_16(y, value) memcpy(y, &(value), 16)
#endif
#define STREAM_WHOLE_32(y, value) STREAM_32((float *)(y), value)
#define STREAM_WHOLE_64(y, value) STREAM_64((float *)(y), value)

#define BUFFER 1024               /* elements that are put together in L1 before they go */

/* y = x: whole lines go past the caches, what is left at both ends takes the common way. `fence` follows the last. */
static inline void stream(const void *x, void *y, size_t bytes)
{
#if defined(__x86_64__)
    const size_t head = -(uintptr_t)y % CACHE_LINE;
    const char *from = x;
    char *to = y;
    if (bytes >= head + CACHE_LINE) {
        if (head)
            memcpy(to, from, head);
        from += head, to += head, bytes -= head;
        for (; bytes >= CACHE_LINE; from += CACHE_LINE, to += CACHE_LINE, bytes -= CACHE_LINE)
            for (int i = 0; i < CACHE_LINE; i += 16)
                _mm_stream_ps((float *)(to + i), _mm_loadu_ps((const float *)(from + i)));
    }
    if (bytes)
        memcpy(to, from, bytes);
#else
    memcpy(y, x, bytes);
#endif
}

#endif
