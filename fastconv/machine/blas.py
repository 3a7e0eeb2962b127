"""SciPy's BLAS: how it is loaded, what it is, and how its own threads are held.

BLAS is called from inside our team of threads, so while a kernel runs BLAS's own pool is held to one thread (its count
is process-global: counted under a lock, and restored), for two pools that take turns spin against each other.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastconv.machine import simd

__all__ = ["UNPACKED_PRODUCT", "blas_held"]


@contextmanager
def _loading_environment() -> Iterator[None]:
    """Variables that libraries read once, while they are loaded; taken away again, and never set against the user's.

    OPENBLAS_CORETYPE   on AMD CPUs with AVX-512, where OpenBLAS may choose AVX2's kernels: half the speed. Nothing is
                        done where SciPy's BLAS is already loaded
    """
    wanted = {}
    if "scipy.linalg" not in sys.modules and simd.is_amd_with_avx512():
        wanted["OPENBLAS_CORETYPE"] = "SkylakeX"
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


with _loading_environment():
    import scipy.linalg.cython_blas

    from fastconv._ext.blas import Hold


class _Blas:
    """SciPy's BLAS as far as it can be asked: its name, its kernels, its thread count."""

    def __init__(self) -> None:
        # a symbol look-up on an extension's handle also searches the libraries that it was linked with
        self._library = ctypes.PyDLL(scipy.linalg.cython_blas.__file__)
        self.get_threads = self._find("openblas_get_num_threads", ctypes.c_int)
        self.set_threads = self._find("openblas_set_num_threads", None, ctypes.c_int)
        self._config = self._find("openblas_get_config", ctypes.c_char_p)
        self._core = self._find("openblas_get_corename", ctypes.c_char_p)

    def _find(self, name: str, result: Any, *arguments: Any) -> Any:
        for symbol in (f"scipy_{name}", name, f"scipy_{name}64_", f"{name}64_"):
            try:
                function = getattr(self._library, symbol)
            except AttributeError:
                continue
            function.restype, function.argtypes = result, arguments
            return function
        return None

    @property
    def controlled(self) -> bool:
        return self.get_threads is not None and self.set_threads is not None

    @property
    def kernels(self) -> str:
        """OpenBLAS's name of the CPU whose kernels it runs, e.g. "SkylakeX"."""
        return self._core().decode() if self._core else "unknown"

    def describe(self) -> dict[str, str]:
        name = " ".join(self._config().decode().split()[:2]) if self._config else "unknown (not OpenBLAS)"
        return {"blas": name, "blas_kernels": self.kernels}


def _address(function: Any) -> int:
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


_blas = _Blas()

# `with blas_held:` BLAS's own pool runs on one thread inside, and as before afterwards
blas_held = Hold(*map(_address, (_blas.get_threads, _blas.set_threads) if _blas.controlled else (None, None)))
os.register_at_fork(after_in_child=blas_held.forget)

# OpenBLAS's AVX-512 kernels multiply without packing where m * n * k is at most this; 0: this BLAS always packs
UNPACKED_PRODUCT = 1_000_000 if _blas.kernels in ("SkylakeX", "Cooperlake", "SapphireRapids") else 0
