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

/* The cases of a switch over the rows of a register tile, 1 .. 6, 13, 14 or 28, with V vectors each. */
#define OF_6(V, call)                                                                                                  \
    case 1: call(1, V); break;                                                                                         \
    case 2: call(2, V); break;                                                                                         \
    case 3: call(3, V); break;                                                                                         \
    case 4: call(4, V); break;                                                                                         \
    case 5: call(5, V); break;                                                                                         \
    case 6: call(6, V); break;
#define OF_13(V, call)                                                                                                 \
    OF_6(V, call)                                                                                                      \
    case 7: call(7, V); break;                                                                                         \
    case 8: call(8, V); break;                                                                                         \
    case 9: call(9, V); break;                                                                                         \
    case 10: call(10, V); break;                                                                                       \
    case 11: call(11, V); break;                                                                                       \
    case 12: call(12, V); break;                                                                                       \
    case 13: call(13, V); break;
#define OF_14(V, call)                                                                                                 \
    OF_13(V, call)                                                                                                     \
    case 14: call(14, V); break;
#define OF_28(V, call)                                                                                                 \
    OF_14(V, call)                                                                                                     \
    case 15: call(15, V); break;                                                                                       \
    case 16: call(16, V); break;                                                                                       \
    case 17: call(17, V); break;                                                                                       \
    case 18: call(18, V); break;                                                                                       \
    case 19: call(19, V); break;                                                                                       \
    case 20: call(20, V); break;                                                                                       \
    case 21: call(21, V); break;                                                                                       \
    case 22: call(22, V); break;                                                                                       \
    case 23: call(23, V); break;                                                                                       \
    case 24: call(24, V); break;                                                                                       \
    case 25: call(25, V); break;                                                                                       \
    case 26: call(26, V); break;                                                                                       \
    case 27: call(27, V); break;                                                                                       \
    case 28: call(28, V); break;

/* Rows of a tile of one or two vectors a row, whose sums all stay in registers. */
static inline ptrdiff_t most_rows(int bytes, int vectors)
{
    if (bytes == 64)
        return 14;
    return vectors == 2 ? 6 : 13;
}

/* Four lanes of two vectors, and likewise of each four that follow, for __builtin_shufflevector. */
#define OF_FOURS JOIN(OF_FOURS, BYTES)
#define OF_FOURS_16(a, b, c, d) a, b, c, d
#define OF_FOURS_32(a, b, c, d) a, b, c, d, a + 4, b + 4, c + 4, d + 4
#define OF_FOURS_64(a, b, c, d)                                                                                        \
    a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12

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
#else
#define STREAM_32(y, value) memcpy(y, &(value), 32)
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

/* Vectors v where they are not below `least` (nan is not), else that. */
#define AT_LEAST(v, least)                                                                                             \
    ((__typeof__(v))((((v) < (least)) & (__typeof__((v) < (least)))(least)) |                                          \
                     (~((v) < (least)) & (__typeof__((v) < (least)))(v))))

/* The lines FETCHED_AHEAD of `bytes` bytes are fetched: wide vectors take lines faster than the hardware brings them of
   its own accord, and are slower than narrow ones from memory without this. With two arrays it does not pay. */
#define FETCHED_AHEAD 4096 /* bytes */
#define FETCH(x, bytes)                                                                                                \
    for (ptrdiff_t at = 0; BYTES > 16 && at < (ptrdiff_t)(bytes); at += CACHE_LINE)                                    \
    __builtin_prefetch((const char *)(x) + at + FETCHED_AHEAD)

#define LEAST(a, b) ((a) < (b) ? (a) : (b))

/* A word of each line of `bytes` bytes is read, in order: of rows that are read side by side the hardware brings nothing
   of its own accord, and of lines that are fetched one core has 24 on their way at most. */
#define TOUCH(x, bytes)                                                                                                \
    for (ptrdiff_t at = 0; at < (ptrdiff_t)(bytes); at += CACHE_LINE)                                                  \
    (void)*(const volatile char *)((const char *)(x) + at)

/* What went past the caches is seen by other threads. */
static inline void fence(void)
{
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

#endif
