"""Show what the kernels run on: BLAS and its kernels, SIMD level, threads; under mpiexec every rank's host and CPUs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from typing import Any

from fastconv.cli.common import add_threads, launched, set_threads

__all__ = ["NAME", "add_arguments", "run"]

NAME = "info"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_threads(parser)
    parser.add_argument("-j", "--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    import fastconv

    ranks = launched()
    set_threads(args, ranks)
    with contextlib.redirect_stdout(io.StringIO()) as table:
        config = fastconv.show_config()
    lines = [table.getvalue().rstrip()]
    if ranks is not None:
        config["ranks"] = every = ranks.describe(fastconv.get_num_threads())
        lines += [
            f"rank {number} on {each['host']}: {each['threads']} thread{'s' * (each['threads'] != 1)}, "
            f"CPUs {_ranges(each['cpus'])}"
            for number, each in enumerate(every)
        ]
        lines += _crowded(every)
    if ranks is None or ranks.rank == 0:
        print(json.dumps(config) if args.json else "\n".join(lines))
    return 0


def _ranges(numbers: list[int]) -> str:
    """0-3,6 for 0, 1, 2, 3, 6."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs) or "?"


def _crowded(every: list[dict[str, Any]]) -> list[str]:
    """A note for each host whose ranks have more threads than CPUs."""
    notes = []
    for host in dict.fromkeys(each["host"] for each in every):
        here = [each for each in every if each["host"] == host]
        threads = sum(each["threads"] for each in here)
        cpus = len(set().union(*(each["cpus"] for each in here)))
        if cpus and threads > cpus:
            notes.append(f"note: {host} has {threads} threads on {cpus} CPUs; FASTCONV_NUM_THREADS, or --bind-to")
    return notes
