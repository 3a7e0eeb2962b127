"""The CPU, and which of its vectors the kernels use."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from fastconv._ext.simd import cpu as _kernels

__all__ = ["SIMD_BYTES", "cpu_info", "is_amd_with_avx512", "simd_level", "simd_levels"]


def cpu_info() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def is_amd_with_avx512() -> bool:
    cpu = cpu_info()
    flags = cpu.get("flags", "").split()
    return cpu.get("vendor_id") == "AuthenticAMD" and {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags)


_LEVELS = {"v2": 16, "v3": 32, "v4": 64}  # of x86-64, and the bytes of their vectors

if (os.environ.get("FASTCONV_SIMD") or "v4") not in _LEVELS:
    raise ValueError(f"FASTCONV_SIMD must be one of {', '.join(_LEVELS)}, got {os.environ['FASTCONV_SIMD']!r}")

SIMD_BYTES, _CPU_BYTES = _kernels.simd_bytes()  # of a vector: what FASTCONV_SIMD allows, and what the CPU has


def simd_levels() -> tuple[str, ...]:
    """The levels that FASTCONV_SIMD can ask for on this machine, lowest first."""
    return tuple(level for level, nbytes in _LEVELS.items() if nbytes <= _CPU_BYTES)


def simd_level() -> str:
    """The level in use, as a person reads it."""
    machine = platform.machine()
    if machine not in ("x86_64", "AMD64"):
        return machine
    return {64: "x86-64-v4 (AVX-512)", 32: "x86-64-v3 (AVX2)", 16: "x86-64-v2"}[SIMD_BYTES]
