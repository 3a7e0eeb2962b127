"""What the kernels run on, as one report."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from fastconv.machine import memory, simd
from fastconv.machine.blas import _blas
from fastconv.machine.threads import get_num_threads, team_size, usable_cpus
from fastconv.version import __version__

__all__ = ["SETTINGS", "show_config"]

SETTINGS: dict[str, Callable[[], Any]] = {}  # that rooms above this one have, by name


def show_config() -> dict[str, Any]:
    """Print and return what the kernels run on: BLAS and its kernels, SIMD level, threads, their team, workspace,
    precision."""
    import numpy
    import scipy

    config: dict[str, Any] = {
        "fastconv": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "cpu": simd.cpu_info().get("model name", platform.processor() or platform.machine()),
        "simd": simd.simd_level(),
        **_blas.describe(),
        "blas_threads_held": _blas.controlled,
        "threads": get_num_threads(),
        "team": "{} threads at most, {} helpers now".format(*team_size()),
        "usable_cpus": usable_cpus(),
        "workspace_limit": memory.get_workspace_limit(),
        **{name: get() for name, get in SETTINGS.items()},
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
