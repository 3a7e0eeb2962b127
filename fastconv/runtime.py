"""The machine: threads, BLAS and what `show_config` tells of them.

One team of threads (_ext/team/team.c) does all of a step's work. BLAS is called from inside it, so while a kernel runs
BLAS's own pool is held to one thread (its count is process-global: counted under a lock, and restored), for two pools
that take turns spin against each other.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastconv import cgroup
from fastconv.errors import integer

__all__ = ["blas_held", "get_num_threads", "set_num_threads", "show_config", "simd_levels", "threads_for"]

MOST_THREADS = 1024  # that anyone may ask for: more are a slip
BYTES_PER_THREAD = 1 << 17  # below this much memory traffic a second thread costs more than it brings


@contextmanager
def _loading_environment() -> Iterator[None]:
    """Variables that libraries read once, while they are loaded; taken away again, and never set against the user's.

    OPENBLAS_CORETYPE   on AMD CPUs with AVX-512, where OpenBLAS may choose AVX2's kernels: half the speed. Nothing is
                        done where SciPy's BLAS is already loaded
    """
    wanted = {}
    if "scipy.linalg" not in sys.modules and _is_amd_with_avx512():
        wanted["OPENBLAS_CORETYPE"] = "SkylakeX"
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _cpu_info() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _is_amd_with_avx512() -> bool:
    cpu = _cpu_info()
    flags = cpu.get("flags", "").split()
    return cpu.get("vendor_id") == "AuthenticAMD" and {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= set(flags)


with _loading_environment():
    import scipy.linalg.cython_blas

    from fastconv._ext import blas as _blas_kernels
    from fastconv._ext import team as _team


# --- threads ---------------------------------------------------------------------------------------------------------


def _usable_cpus() -> int:
    """CPUs that this process may use: its affinity, bounded by its cgroup's quota (rounded up)."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 1
    quota = cgroup.cpus()
    return max(1, cpus if quota == math.inf else min(cpus, math.ceil(quota)))


def _initial_threads() -> int:
    """By FASTCONV_NUM_THREADS, else by the first number of OMP_NUM_THREADS where it is one, else the CPUs."""
    text = os.environ.get("FASTCONV_NUM_THREADS", "").strip()
    if not text:
        return _omp_threads() or _usable_cpus()
    if not re.fullmatch("[0-9]+", text) or not text.strip("0"):
        raise ValueError(f"FASTCONV_NUM_THREADS must be a positive integer, got {text[:80]!r}")
    if len(text) > 9 or int(text) > MOST_THREADS:
        raise ValueError(f"FASTCONV_NUM_THREADS must be at most {MOST_THREADS}, got {text[:80]!r}")
    return int(text)


def _omp_threads() -> int | None:
    """What OMP_NUM_THREADS, a number or one per nested level, says of the outermost level; None where it says nothing
    sensible: others read that variable too, so it is never an error."""
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    number = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
    return number if 1 <= number <= MOST_THREADS else None


_num_threads = _team_size = 1  # that were asked for, and that the team may have


def _employ(n: int) -> None:
    """Let the team have `n` threads, but no more than there are CPUs for: others would only wait for one."""
    global _num_threads, _team_size
    _num_threads = n
    _team_size = min(n, _usable_cpus())
    _team.resize(_team_size)


_employ(_initial_threads())


def set_num_threads(n: int) -> None:
    """Run the kernels on `n` threads from now on, or on as many as this process has CPUs if these are fewer; results do
    not depend on it, to the last bit.

    A kernel that another thread has begun keeps what it has. Raises ValueError for n < 1 and n > 1024, TypeError for
    what is no integer.
    """
    n = integer("set_num_threads", "n", n)
    if n < 1:
        raise ValueError(f"set_num_threads: n must be at least 1, got {n}")
    if n > MOST_THREADS:
        raise ValueError(f"set_num_threads: n must be at most {MOST_THREADS}, got {n}")
    _employ(n)


def get_num_threads() -> int:
    """Threads that the kernels run on: `set_num_threads`, else FASTCONV_NUM_THREADS, else OMP_NUM_THREADS (of a list
    its first number), else the CPUs that this process may use."""
    return _num_threads


def threads_for(nbytes: int, most: int = sys.maxsize) -> int:
    """Threads for a kernel that moves `nbytes` bytes, or does as much work: one for small ones, at most `most`."""
    if nbytes < 2 * BYTES_PER_THREAD:
        return 1
    return max(1, min(_team_size, nbytes // BYTES_PER_THREAD, most))


def _after_fork() -> None:
    global _hold
    _hold = _BlasHold()


os.register_at_fork(after_in_child=_after_fork)


# --- BLAS ------------------------------------------------------------------------------------------------------------


class _Blas:
    """SciPy's BLAS as far as it can be asked: its name, its kernels, its thread count."""

    def __init__(self) -> None:
        # a symbol look-up on an extension's handle also searches the libraries that it was linked with
        self._library = ctypes.CDLL(scipy.linalg.cython_blas.__file__)
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


class _BlasHold:
    """A context in which BLAS runs on one thread; nested and concurrent holders are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before = 1

    def __enter__(self) -> None:
        if not _blas.controlled:
            return
        with self._lock:
            if self._holders == 0:
                self._before = _blas.get_threads()
                if self._before != 1:
                    _blas.set_threads(1)
            self._holders += 1

    def __exit__(self, *error: object) -> None:
        if not _blas.controlled:
            return
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._before != 1:
                _blas.set_threads(self._before)


_blas = _Blas()
_hold = _BlasHold()


# OpenBLAS's AVX-512 kernels multiply without packing where m * n * k is at most this; 0: this BLAS always packs
UNPACKED_PRODUCT = 1_000_000 if _blas.kernels in ("SkylakeX", "Cooperlake", "SapphireRapids") else 0


def blas_held() -> _BlasHold:
    """`with blas_held():` BLAS's own pool runs on one thread inside, and as before afterwards."""
    return _hold


# --- SIMD ------------------------------------------------------------------------------------------------------------

_LEVELS = {"v2": 16, "v3": 32, "v4": 64}  # of x86-64, and the bytes of their vectors

if (os.environ.get("FASTCONV_SIMD") or "v4") not in _LEVELS:
    raise ValueError(f"FASTCONV_SIMD must be one of {', '.join(_LEVELS)}, got {os.environ['FASTCONV_SIMD']!r}")

SIMD_BYTES, _CPU_BYTES = _blas_kernels.simd_bytes()  # of a vector: what FASTCONV_SIMD allows, and what the CPU has


def simd_levels() -> tuple[str, ...]:
    """The levels that FASTCONV_SIMD can ask for on this machine, lowest first."""
    return tuple(level for level, nbytes in _LEVELS.items() if nbytes <= _CPU_BYTES)


# --- report ----------------------------------------------------------------------------------------------------------


def _simd_level() -> str:
    machine = platform.machine()
    if machine not in ("x86_64", "AMD64"):
        return machine
    return {64: "x86-64-v4 (AVX-512)", 32: "x86-64-v3 (AVX2)", 16: "x86-64-v2"}[SIMD_BYTES]


def show_config() -> dict[str, Any]:
    """Print and return what the kernels run on: BLAS and its kernels, SIMD level, threads, their team, workspace,
    precision."""
    import numpy
    import scipy

    from fastconv import __version__, workspace
    from fastconv.engine.precision import get_precision

    config: dict[str, Any] = {
        "fastconv": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "cpu": _cpu_info().get("model name", platform.processor() or platform.machine()),
        "simd": _simd_level(),
        **_blas.describe(),
        "blas_threads_held": _blas.controlled,
        "threads": get_num_threads(),
        "team": f"{_team_size} threads at most, {_team.helpers()} helpers now",
        "usable_cpus": _usable_cpus(),
        "workspace_limit": workspace.get_workspace_limit(),
        "precision": get_precision(),
    }
    notes = []
    if not config["blas_threads_held"]:
        notes.append("this BLAS's thread count cannot be held: set its own environment variable to 1")
    if "AVX-512" in config["simd"] and config["blas_kernels"] in ("Haswell", "Zen"):
        notes.append("BLAS runs AVX2 kernels on an AVX-512 CPU: import fastconv before scipy.linalg")
    if notes:
        config["notes"] = notes
    width = max(map(len, config))
    for key, value in config.items():
        print(f"{key:<{width}}  {'; '.join(value) if isinstance(value, list) else value}")
    return config
