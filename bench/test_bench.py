"""Every operation's calls of fastconv/plain.py, timed; `fastconv bench` shows them.

A pytest-benchmark group is one case in one direction, with its versions beside each other:

    naive          fastconv.reference, on the small cases only, one round
    numpy          fastconv.plain
    fastconv       on C-contiguous arrays, as they come from a user
    channels_last  fastconv on the memory order that its layers hand to each other (large cases with spatial axes)

`extra_info` of every benchmark: op, case, batch, direction, version, threads and, at the median, GB/s and (where
arithmetic bounds the operation) GFLOP/s. The versions are held against each other before the first of them is timed.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv.arrays import logical
from fastconv.compare import Versions, verify
from fastconv.plain import CASES
from fastconv.shapes import Case

SMOKE_BATCH = 1  # where benchmarks are disabled, every case runs once, on this many items
SECONDS, ROUNDS = 0.2, (3, 25)  # a benchmark takes about so long, in at least and at most so many rounds
ROUND = 1e-3  # seconds: shorter calls are repeated within a round


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
    rounds, iterations = (1, 1) if version == "naive" else _schedule(call)
    benchmark.pedantic(call, rounds=rounds, iterations=iterations, warmup_rounds=0 if version == "naive" else 1)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["GB/s"] = round(versions.bytes(direction) / seconds / 1e9, 3)
    if case.flops:
        benchmark.extra_info["GFLOP/s"] = round(versions.flops(direction) / seconds / 1e9, 3)


def _schedule(call: Callable[[], Any]) -> tuple[int, int]:
    """(rounds, iterations a round) that fill SECONDS."""
    start = time.perf_counter()
    call()
    seconds = max(time.perf_counter() - start, 1e-7)
    iterations = max(1, round(ROUND / seconds))
    low, high = ROUNDS
    return max(low, min(high, round(SECONDS / (seconds * iterations)))), iterations
