"""Memory: what this process may use, and arrays on blocks that are reused, for results and for scratch alike."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from fastconv._ext import memory
from fastconv.errors import integer
from fastconv.machine import cgroup

__all__ = [
    "UNCHECKED", "Ceiling", "allocate", "allocate_lasting", "at_most", "available_bytes", "borrowed",
    "get_workspace_limit", "require", "require_array", "set_workspace_limit", "whole_call",
]  # fmt: skip

DEFAULT_WORKSPACE_LIMIT = 64 << 20
UNCHECKED = 16 << 20  # requests below this many bytes are not held against the system's memory: asking costs more
RESERVE, SHARE = 4 << 20, 12  # of a limit, a share but at most so many bytes are left to what is no block
POOLED = 1 << 16  # results of at least this many bytes come from the free list

_limit = DEFAULT_WORKSPACE_LIMIT


def set_workspace_limit(nbytes: int) -> None:
    """Bound the scratch memory that one operation borrows (column tiles, partial gradients) to `nbytes` bytes.

    Default: 64 MiB. An operation takes at least what one output row and one copy of its weights' gradient need,
    whatever the limit. The limit is part of how work is cut: another limit may change the last bits of a gradient to
    the weights (one below some 100 kB also more of them: it leaves no room for the partial sums that keep long float32
    sums exact), one below 5 MB also those of a product with few outputs; the number of threads never does. Raises
    ValueError for a limit below 1.
    """
    global _limit
    nbytes = integer("set_workspace_limit", "nbytes", nbytes)
    if nbytes < 1:
        raise ValueError(f"set_workspace_limit: the limit must be at least 1 byte, got {nbytes}")
    _limit = nbytes


def get_workspace_limit() -> int:
    """The bound that `set_workspace_limit` set, in bytes."""
    return _limit


_givers: list[Callable[[], None]] = []


def on_shortage(give_back: Callable[[], None]) -> None:
    """Have this called before memory is refused: it gives back what can be had again."""
    _givers.append(give_back)


def _give_back() -> None:
    """All that can be had again, and addresses that have become scarce."""
    for give_back in _givers:
        give_back()
    _take_addresses()


def require(op: str, nbytes: int) -> None:
    """Raise MemoryError when `nbytes` bytes are more than this process may still use; its cached blocks it may."""
    if nbytes <= max(UNCHECKED, memory.cached()):
        return
    available = available_bytes()
    if nbytes > available:
        _give_back()
        available = available_bytes()
    if nbytes > available:
        raise MemoryError(f"{op}: needs {nbytes:,} bytes of memory, this process may use {available:,}")


def require_array(op: str, shape: Sequence[int], itemsize: int) -> None:
    """`require` for an array of this shape. An empty axis counts as one: an empty batch's planes are walked too."""
    require(op, itemsize * math.prod(shape if 0 not in shape else [n or 1 for n in shape]))


# An uninitialised C-contiguous array (op, shape, dtype) on a block of the free list; it belongs to the caller. Raises
# MemoryError, before anything is allocated, when it is larger than what this process may still use.
allocate = memory.Allocator(require_array, UNCHECKED, POOLED)

# The same for what stays from step to step.
allocate_lasting = memory.Allocator(require_array, UNCHECKED, POOLED, True)


# `with whole_call:` around all that a training step or an answer computes: how long blocks wait is counted in these.
whole_call = memory.call


def borrowed() -> int:
    """Bytes that `allocate` has handed out so far, results and scratch, in all threads."""
    return allocate.borrowed


class Ceiling:
    """What a call may take in all; blocks in use and free ones together stay below, as far as freeing those can do it.

    Of several calls under way the ceilings add up, on what was in use when the first of them began.
    """

    _lock: ClassVar = threading.Lock()
    _under_way: ClassVar[list[Ceiling]] = []
    _base: ClassVar = 0

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._blocks = nbytes - min(RESERVE, nbytes // SHARE)  # the rest is for what is no block

    def leave(self, nbytes: int) -> None:
        """Leave so many bytes more to what is no block."""
        with Ceiling._lock:
            self._blocks -= nbytes
            self._set()

    def __enter__(self) -> Ceiling:
        with Ceiling._lock:
            if not Ceiling._under_way:
                Ceiling._base = memory.held()
            Ceiling._under_way.append(self)
            self._set()
        return self

    def __exit__(self, *raised: object) -> None:
        with Ceiling._lock:
            Ceiling._under_way.remove(self)
            self._set()

    @staticmethod
    def _set() -> None:
        blocks = Ceiling._base + sum(each._blocks for each in Ceiling._under_way)
        memory.set_ceiling(max(1, blocks) if Ceiling._under_way else 0)


def at_most(nbytes: int | None) -> AbstractContextManager[Ceiling | None]:
    """A context in which this process takes so many bytes at most beyond what is in use now, as far as freeing what
    waits on the free list can do it; None: what waits stays."""
    return contextlib.nullcontext() if nbytes is None else Ceiling(nbytes)


def available_bytes() -> int:
    """Bytes that this process may still use: the system's, the cgroup's and the address-space limit's least."""
    bounds = [_system_available()]
    group = cgroup.memory()
    if group != math.inf:
        bounds.append(int(group))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        bounds.append(soft - _pages_in_use(0))
    return max(0, min(bounds)) + memory.cached()


def _system_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _pages_in_use(field: int) -> int:
    """A field of /proc/self/statm in bytes: 0 the address space, 1 the resident set."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[field]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _take_addresses() -> None:
    """Let large blocks have a range as large as the system's memory, if addresses are free of charge."""
    is_free = resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    memory.set_span(_PHYSICAL if is_free else 0)


_PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
memory.set_limit(_PHYSICAL // 4)
memory.set_last_resort(_give_back)
_take_addresses()
