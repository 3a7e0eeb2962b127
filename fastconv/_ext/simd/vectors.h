/* What the kernels share that are written once, with GCC's and Clang's vector types, and compiled for vectors of BYTES
   bytes: how such a function is named, compiled and called. */

#ifndef FASTCONV_VECTORS_H
#define FASTCONV_VECTORS_H

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LINE 16       /* floats of a cache line */
#define CACHE_LINE 64 /* bytes */

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline)) /* GCC's time for a function grows faster than its length */
#if defined(__clang__) /* not "unroll": that unrolls by a factor before inlining has made the count a constant */
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 28")
#endif

/* Clang else compares the integer with all that it is compared with beforehand, and keeps the results in memory. */
#if defined(__clang__)
#define COMPARED_HERE(value) __asm__("" : "+r"(value))
#else
#define COMPARED_HERE(value) (void)0
#endif

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

#define TARGET JOIN(TARGET, BYTES)
#define TARGET_4
#define TARGET_8
#define TARGET_16
#if defined(__x86_64__)
#define TARGET_32 __attribute__((target("avx2,fma")))
#define TARGET_64 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#else
#define TARGET_32
#endif

/* A vector of floats to an address that it divides, past the caches; `fence` follows the last. One of 16 bytes, to
   anywhere, takes the common way. */
#define STREAM(y, value) JOIN(STREAM, BYTES)(y, value)
#define STREAM_16(y, value) (*(Four *)(y) = (value))
#if defined(__clang__) && defined(__x86_64__) /* merged, its own become plain stores */
#define STREAM_32(y, value) __asm__ volatile("vmovntps %1, %0" : "=m"(*(__m256 *)(y)) : "x"(value))
#define STREAM_64(y, value) __asm__ volatile("vmovntps %1, %0" : "=m"(*(__m512 *)(y)) : "v"(value))
#elif defined(__x86_64__)
#define STREAM_32(y, value) _mm256_stream_ps(y, (__m256)(value))
#define STREAM_64(y, value) _mm512_stream_ps(y, (__m512)(value))
#endif

/* name_BYTES(…) for vectors of `bytes` bytes. */
#if defined(__x86_64__)
#define CHOOSE(name, bytes, ...)                                                                                       \
    ((bytes) == 64 ? name##_64(__VA_ARGS__) : (bytes) == 32 ? name##_32(__VA_ARGS__) : name##_16(__VA_ARGS__))
#else
#define CHOOSE(name, bytes, ...) name##_16(__VA_ARGS__)
#endif

/* The same where a vector may be a single element, of `one` bytes. */
#define CHOOSE_OR_ONE(name, one, bytes, ...)                                                                           \
    ((bytes) < 16 ? name##_##one(__VA_ARGS__) : CHOOSE(name, bytes, __VA_ARGS__))

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

/* The lines FETCHED_AHEAD of `bytes` bytes are fetched: wide vectors take lines faster than the hardware brings them of
   its own accord, and are slower than narrow ones from memory without this. With two arrays it does not pay. */
#define FETCHED_AHEAD 4096 /* bytes */
#define FETCH(x, bytes)                                                                                                \
    for (ptrdiff_t at = 0; BYTES > 16 && at < (ptrdiff_t)(bytes); at += CACHE_LINE)                                    \
    __builtin_prefetch((const char *)(x) + at + FETCHED_AHEAD)

#define LEAST(a, b) ((a) < (b) ? (a) : (b))

/* What went past the caches is seen by other threads. */
static inline void fence(void)
{
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

#endif
