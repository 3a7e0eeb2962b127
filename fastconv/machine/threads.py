"""How many threads the kernels run on.

One team (_ext/team/team.c) does all of a step's work; BLAS is called from inside it (`machine.blas`).
"""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from typing import Any

from fastconv._ext import team as _team
from fastconv._ext.team import threads_for
from fastconv.errors import integer
from fastconv.machine import cgroup
from fastconv.version import __version__

__all__ = [
    "get_num_threads", "register_with_threadpoolctl", "set_num_threads", "team_size", "threadpool_controller",
    "threads_for", "usable_cpus",
]  # fmt: skip

MOST_THREADS = 1024  # that anyone may ask for: more are a slip


def usable_cpus() -> int:
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
        return _omp_threads() or usable_cpus()
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
    _team_size = min(n, usable_cpus())
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


def team_size() -> tuple[int, int]:
    """The threads that the team may have, and the helpers that there are now."""
    return _team_size, _team.helpers()


# --- threadpoolctl ---------------------------------------------------------------------------------------------------


class _Controller:
    """What threadpoolctl asks of a library, for the team: its LibController, without importing it."""

    user_api = internal_api = "fastconv"
    filename_prefixes = ("team.",)

    def __init__(self, *, filepath: str | None = None, prefix: str | None = None, parent: Any = None) -> None:
        if filepath is None or not Path(filepath).samefile(_team.__file__):
            raise OSError(f"{filepath} is not fastconv's team")  # threadpoolctl then looks further
        self.filepath, self.prefix, self.parent = filepath, prefix, parent
        self.version = self.get_version()

    @property
    def num_threads(self) -> int:
        return self.get_num_threads()

    def info(self, debugging_info: bool = False) -> dict[str, Any]:
        return {
            "user_api": self.user_api, "internal_api": self.internal_api, "num_threads": self.num_threads,
            "prefix": self.prefix, "filepath": self.filepath, "version": self.version,
        }  # fmt: skip

    def get_num_threads(self) -> int:
        return get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        set_num_threads(num_threads)

    def get_version(self) -> str:
        return __version__


def threadpool_controller() -> type:
    """The class for `threadpoolctl.register`: `threadpool_limits(1)` then holds our threads too, and restores them.

    Importing fastconv registers it by itself where threadpoolctl is already imported; threadpoolctl is never imported
    here.
    """
    return _Controller


def register_with_threadpoolctl() -> None:
    """Do so where threadpoolctl is imported and does not know us yet."""
    threadpoolctl = sys.modules.get("threadpoolctl")
    if hasattr(threadpoolctl, "register") and _Controller not in getattr(threadpoolctl, "_ALL_CONTROLLERS", []):
        threadpoolctl.register(_Controller)  # type: ignore[union-attr]


register_with_threadpoolctl()
