"""How soon Python's threads take turns while one of them trains.

A kernel gives up the interpreter lock and wants it back when it is done: another thread that runs Python meanwhile
keeps it for Python's switch interval, 5 ms, which is longer than most kernels run. A step beside one such thread took
three to fifty times as long as alone; where the lock is given up after 50 us it takes one and a half to two and a half
(bench/fit.py).
"""

from __future__ import annotations

import os
import sys
import threading

__all__ = ["quick_switches"]

INTERVAL = 50e-6  # seconds; what is below the system's own slack, about the same, brings nothing


class _QuickSwitches:
    """A context in which the switch interval is INTERVAL at most; nested and concurrent holders are counted. What
    somebody else has set meanwhile stays."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holders = 0
        self._before = 0.0  # 0: it was short enough

    def __enter__(self) -> None:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                interval = sys.getswitchinterval()
                self._before = interval if interval > INTERVAL else 0.0
                if self._before:
                    sys.setswitchinterval(INTERVAL)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders and self._before and abs(sys.getswitchinterval() - INTERVAL) < 1e-6:
                sys.setswitchinterval(self._before)


_quick = _QuickSwitches()


def _after_fork() -> None:
    """Whoever held it in another thread is not in the child."""
    global _quick
    before, _quick = _quick, _QuickSwitches()
    if before._holders and before._before:
        sys.setswitchinterval(before._before)


os.register_at_fork(after_in_child=_after_fork)


def quick_switches() -> _QuickSwitches:
    """`with quick_switches():` Python's other threads give up the interpreter lock soon after it is wanted."""
    return _quick
