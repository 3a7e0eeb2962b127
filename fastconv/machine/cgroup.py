"""What this process's control groups grant it, version 2 or 1: CPUs by quota, memory by limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpus", "memory"]

ROOT = Path("/sys/fs/cgroup")


def cpus(root: Path = ROOT) -> float:
    """The CPUs that the tightest quota grants; infinite without one."""
    granted = math.inf
    for folder in _folders():
        granted = min(granted, _quota_v2(root / folder), _quota_v1(root / "cpu" / folder))
    return granted


def memory(root: Path = ROOT) -> float:
    """The bytes that the tightest limit leaves, the cache of files counted as free; infinite without one."""
    left = math.inf
    for folder in _folders():
        left = min(left, _room(root / folder, "memory.max", "memory.current", ""))
        left = min(left, _room(root / "memory" / folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
    return left


def _folders() -> Iterator[Path]:
    """The groups that this process is in and the groups around them, relative to a hierarchy's root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    found = {Path()}
    for line in lines:
        path = Path(line.split(":", 2)[-1].lstrip("/"))
        found.update((path, *path.parents))
    yield from sorted(found)


def _quota_v2(folder: Path) -> float:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota_v1(folder: Path) -> float:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _room(folder: Path, limit: str, usage: str, prefix: str) -> float:
    try:
        bound, used = int((folder / limit).read_text()), int((folder / usage).read_text())
        cache = 0
        for line in (folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key in (f"{prefix}inactive_file", f"{prefix}active_file"):
                cache += int(value)
        return max(0, bound - used + cache)
    except (OSError, ValueError):
        return math.inf
