"""The CPU's vectors."""

cdef extern from "simd/cpu.h" nogil:
    int c_simd_bytes "simd_bytes"() noexcept
    int simd_cpu_bytes() noexcept


def simd_bytes():
    """Bytes of the vectors that the kernels use, and of the CPU's widest: 64, 32 or 16."""
    return c_simd_bytes(), simd_cpu_bytes()
