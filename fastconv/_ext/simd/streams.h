/* Copies past the caches, for results that are too large to be found there again. */

#ifndef FASTCONV_STREAMS_H
#define FASTCONV_STREAMS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "simd/vectors.h"

#define FAR ((ptrdiff_t)8 << 20) /* bytes of a result from which that pays */
#define HELD 4096                /* bytes that are put together in L1 before they go */

/* A vector to an address that it divides, past the caches: unlike STREAM, one of 16 bytes too. */
#define STREAM_WHOLE(y, value) JOIN(STREAM_WHOLE, BYTES)(y, value)
#if defined(__clang__) && defined(__x86_64__)
#define STREAM_WHOLE_16(y, value) __asm__ volatile("movntps %1, %0" : "=m"(*(__m128 *)(y)) : "x"(value))
#elif defined(__x86_64__)
#define STREAM_WHOLE_16(y, value) _mm_stream_ps((float *)(y), (__m128)(value))
#else
#define STREAM_WHOLE_16(y, value) (*(Four *)(y) = (Four)(value))
#endif
#define STREAM_WHOLE_32(y, value) STREAM_32((float *)(y), value)
#define STREAM_WHOLE_64(y, value) STREAM_64((float *)(y), value)

/* y = x for whole lines of y. */
static inline void stream_lines(const void *x, void *y, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 16)
        STREAM_WHOLE_16((char *)y + i, *(const Four *)((const char *)x + i));
}

/* y = x: whole lines go past the caches, what is left at both ends takes the common way. `fence` follows the last. */
static inline void stream(const void *x, void *y, size_t bytes)
{
    const size_t head = -(uintptr_t)y % CACHE_LINE;
    const char *from = x;
    char *to = y;
    if (bytes >= head + CACHE_LINE) {
        if (head)
            memcpy(to, from, head);
        from += head, to += head, bytes -= head;
        stream_lines(from, to, bytes / CACHE_LINE * CACHE_LINE);
        from += bytes / CACHE_LINE * CACHE_LINE, to += bytes / CACHE_LINE * CACHE_LINE, bytes %= CACHE_LINE;
    }
    if (bytes)
        memcpy(to, from, bytes);
}

/* What is written piece by piece, one behind the other and past the caches, to an address of any kind: in a buffer that
   lies to the lines of the cache as y does. Only the first and the last line take the common way. */
typedef struct {
    char *to;      /* of the line that begins the buffer */
    size_t held;   /* bytes in the buffer, */
    size_t others; /* and of these what stands in front of y */
    union {
        _Alignas(CACHE_LINE) char bytes[HELD + 2 * CACHE_LINE];
        float floats[1];
        double doubles[1];
    } buffer;
} Writer;

static inline void writer_begin(Writer *w, void *y)
{
    w->held = w->others = (uintptr_t)y % CACHE_LINE;
    w->to = (char *)y - w->held;
}

/* Where the next HELD bytes can be put. */
static inline void *writer_room(Writer *w)
{
    return w->buffer.bytes + w->held;
}

/* So many were put there. */
static inline void writer_take(Writer *w, size_t bytes)
{
    const size_t held = w->held + bytes, whole = held / CACHE_LINE * CACHE_LINE;
    w->held = held - whole;
    if (!whole)
        return;
    if (w->others)
        memcpy(w->to + w->others, w->buffer.bytes + w->others, CACHE_LINE - w->others);
    const size_t first = w->others ? CACHE_LINE : 0;
    stream_lines(w->buffer.bytes + first, w->to + first, whole - first);
    memcpy(w->buffer.bytes, w->buffer.bytes + whole, CACHE_LINE);
    w->to += whole;
    w->others = 0;
}

/* What lies at x, or zeros where it is NULL. */
static inline void writer_copy(Writer *w, const void *x, size_t bytes)
{
    static const char zeros[HELD];
    const char *from = x;
    if (bytes <= HELD) {
        memcpy(writer_room(w), from ? from : zeros, bytes);
        writer_take(w, bytes);
        return;
    }
    while (bytes) {
        size_t part = bytes < HELD ? bytes : HELD;
        if (w->held == 0 && bytes >= CACHE_LINE) { /* y's lines begin where x's part does */
            part = (from ? bytes : part) / CACHE_LINE * CACHE_LINE;
            stream_lines(from ? from : zeros, w->to, part);
            w->to += part;
        } else {
            if (w->held && part > CACHE_LINE - w->held)
                part = CACHE_LINE - w->held;
            memcpy(writer_room(w), from ? from : zeros, part);
            writer_take(w, part);
        }
        bytes -= part;
        from = from ? from + part : NULL;
    }
}

static inline void writer_end(Writer *w)
{
    memcpy(w->to + w->others, w->buffer.bytes + w->others, w->held - w->others);
    fence();
}

#endif
