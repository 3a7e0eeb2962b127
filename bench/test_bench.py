"""Every operation's calls of fastconv/lab/numpy_baseline.py, timed; `fastconv bench` shows them.

A pytest-benchmark group is one case in one direction, with its versions beside each other:

    naive          fastconv.reference, on the small cases only, one round
    numpy          fastconv.lab.numpy_baseline
    fastconv       on C-contiguous arrays, as they come from a user
    channels_last  fastconv on the memory order that its layers hand to each other (large cases with spatial axes)

`extra_info` of every benchmark: op, case, batch, direction, version, threads; at the median GB/s and (where arithmetic
bounds the operation) GFLOP/s; and `waited`, the share of its time that its threads waited for a core. The versions are
held against each other before the first of them is timed.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv.arrays import logical
from fastconv.lab.compare import Versions, verify
from fastconv.lab.numpy_baseline import CASES
from fastconv.lab.shapes import Case

SMOKE_BATCH = 1  # where benchmarks are disabled, every case runs once, on this many items
SECONDS, ROUNDS = 0.25, (5, 50)  # a benchmark takes about so long, in at least and at most so many rounds
ROUND = 5e-3  # seconds: shorter calls are repeated within a round
PAUSE = 0.1  # seconds before a benchmark: a BLAS thread pool that has just worked spins for some 30 ms
WARM = 0.05  # seconds of calls that do not count: threads wake, memory is touched


def channels_last(array: np.ndarray) -> np.ndarray:
    """The same array with the channels innermost in memory."""
    if array.ndim < 3:
        return array
    return logical(np.ascontiguousarray(array.transpose(0, *range(2, array.ndim), 1)))


def parameters() -> Iterator[Any]:
    for case in itertools.chain.from_iterable(CASES.values()):
        versions = list(Versions(case.with_batch(1)).names)
        if case.naive:
            versions.insert(0, "naive")
        elif any(np.ndim(array) > 2 for array in case.with_batch(1).arrays()):
            versions.append("channels_last")
        for direction in ("forward", "backward"):
            for version in versions:
                yield pytest.param(case, direction, version, id=f"{case.label}-{direction}-{version}")


@functools.lru_cache(maxsize=2)  # a case's benchmarks follow each other
def verified(case: Case, in_channels_last: bool) -> Versions:
    versions = Versions(case, channels_last if in_channels_last else None)
    verify(versions)
    return versions


@pytest.mark.benchmark(disable_gc=True)
@pytest.mark.parametrize(("case", "direction", "version"), list(parameters()))
def test_operation(benchmark: Any, case: Case, direction: str, version: str) -> None:
    """Verify the case, then time one version of it in one direction."""
    if benchmark.disabled and not case.naive:
        case = case.with_batch(SMOKE_BATCH)
    versions = verified(case, version == "channels_last")
    name = "fastconv" if version == "channels_last" else version
    call = functools.partial(versions.forward if direction == "forward" else versions.backward, name)
    benchmark.group = f"{case.label}, {direction}"
    benchmark.extra_info.update(
        op=case.op, case=case.name, batch=case.batch, direction=direction, version=version,
        threads=fastconv.get_num_threads(),
    )  # fmt: skip
    if benchmark.disabled:
        benchmark.pedantic(call)
        return
    time.sleep(PAUSE)
    rounds, iterations = (1, 1) if version == "naive" else schedule(call)
    waited, start = waiting(), time.perf_counter()
    benchmark.pedantic(call, rounds=rounds, iterations=iterations)
    if waited is not None:
        seconds = (time.perf_counter() - start) * fastconv.get_num_threads()
        benchmark.extra_info["waited"] = round(((waiting() or waited) - waited) / seconds, 3)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["GB/s"] = round(versions.bytes(direction) / seconds / 1e9, 3)
    if case.flops:
        benchmark.extra_info["GFLOP/s"] = round(versions.flops(direction) / seconds / 1e9, 3)


def schedule(call: Callable[[], Any]) -> tuple[int, int]:
    """(rounds, iterations a round) that fill SECONDS, from the fastest call of WARM seconds, two calls at least."""
    found: list[float] = []
    while sum(found) < WARM or len(found) < 2:
        start = time.perf_counter()
        result = call()
        found.append(max(time.perf_counter() - start, 1e-7))
    del result  # held during the next call, as pytest-benchmark does: the memory of two results is touched
    iterations = max(1, round(ROUND / min(found)))
    low, high = ROUNDS
    return max(low, min(high, round(SECONDS / (min(found) * iterations)))), iterations


def waiting() -> float | None:
    """Seconds that this process's threads have been ready to run without a core, and a hypervisor has taken from the
    machine; None where Linux does not tell."""
    try:
        threads = sum(int(file.read_text().split()[1]) for file in Path("/proc/self/task").glob("*/schedstat")) / 1e9
        stolen = int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    return threads + stolen
