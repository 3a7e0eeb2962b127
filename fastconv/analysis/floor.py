"""What a pass must do at least, and this machine's rates: `explain` and bench/nets.py hold times against it.

A pass reads what goes in once and writes what comes out once, at the rate of a copy that no cache holds; meanwhile it
multiplies, at the rate of a matrix product. The longer of the two is its floor. What lies in the caches may be faster,
and so may an algorithm that multiplies less than the direct convolution (Winograd).
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np

from fastconv.engine.trace import gemm_rate

__all__ = ["Work", "copy_rate", "passes"]

COPIED = 64 << 20  # bytes of the array whose copy is the measure of memory
COPIES = 7


@functools.cache
def copy_rate() -> float:
    """GB/s, read and written, of a copy too large for the caches: the best of a few, measured once a process."""
    source = np.ones(COPIED // 4, np.float32)
    target = np.ones_like(source)
    times = []
    for _ in range(COPIES):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return 2 * COPIED / min(times) / 1e9


@dataclass(frozen=True)
class Work:
    """Bytes through memory, and FLOPs, two per multiply-add."""

    moved: int = 0
    flops: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.moved + other.moved, self.flops + other.flops)

    def milliseconds(self, threads: int, dtype: str = "float32") -> tuple[float, float]:
        """Of the way through memory, and of the arithmetic on as many cores."""
        return 1e3 * self.moved / (1e9 * copy_rate()), 1e3 * self.flops / (1e9 * gemm_rate(dtype) * threads)

    def floor(self, threads: int, dtype: str = "float32") -> float:
        """The longer of the two."""
        return max(self.milliseconds(threads, dtype))


def passes(
    x: int, y: int, weights: int, *, flops: int = 0, read: int | None = None, dx: int | None = None,
    dw: int | None = None,
) -> dict[str, Work]:  # fmt: skip
    """The work of "forward", "dx" and "dw" of what reads x and writes y; all but flops in bytes.

    read     of what backward reads of the forward pass, to find dw (x)
    dx, dw   of the gradients to the inputs and to the weights; 0: nobody asks for them (x and weights)

    dy is read once for both.
    """
    dx, dw = x if dx is None else dx, weights if dw is None else dw
    found = {"forward": Work(x + y + weights, flops)}
    found["dx"] = Work(y + weights + dx, flops) if dx else Work()
    found["dw"] = Work((x if read is None else read) + dw + (0 if dx else y), flops if dw else 0)
    return found
