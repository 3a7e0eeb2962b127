/* Which vectors this process uses: those of the CPU, or narrower ones where FASTCONV_SIMD asks for them. */
#ifndef FASTCONV_CPU_H
#define FASTCONV_CPU_H

#include <stdlib.h>
#include <string.h>

/* Bytes of the widest vector: 64 (x86-64-v4, AVX-512), 32 (v3, AVX2 and FMA), 16 (v2's SSE, AArch64's NEON). */
static inline int simd_cpu_bytes(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 64;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return 32;
#endif
    return 16;
}

/* The same, under FASTCONV_SIMD=v2, v3 or v4; read once. */
static inline int simd_bytes(void)
{
    static int bytes = 0;
    if (!bytes) {
        const char *level = getenv("FASTCONV_SIMD");
        int wanted = level && !strcmp(level, "v2") ? 16 : level && !strcmp(level, "v3") ? 32 : 64;
        int available = simd_cpu_bytes();
        bytes = wanted < available ? wanted : available;
    }
    return bytes;
}

#endif
