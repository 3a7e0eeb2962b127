"""Run the benchmark suite (pytest-benchmark, the folder bench/); show it, or how it differs from an earlier run.

Runs are kept in pytest-benchmark's own storage, .benchmarks in the present folder or where PYTEST_BENCHMARK_STORAGE
says.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import fastconv
from fastconv import plots
from fastconv.cli.benchreport import Changes, Run
from fastconv.cli.common import Failure, UsageError, add_threads, picture
from fastconv.files import replace_text
from fastconv.training.checkpoint import read_json

__all__ = ["NAME", "add_arguments", "run"]

NAME = "bench"
STORAGE = ".benchmarks"
RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
NO_TESTS = 5  # pytest's exit status
# pytest without the present folder on its path, which in a clone holds the sources; PYTHONPATH leads to this package
PYTEST = "import sys; sys.path = [p for p in sys.path if p]; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", type=Path, default=Path("bench"), metavar="DIR", help="the suite (default: bench)")
    parser.add_argument("-k", metavar="EXPRESSION", help="only benchmarks that match, as pytest takes it: -k conv2d")
    parser.add_argument("--load", type=_run_name, metavar="NAME", help="run nothing: show an earlier run")
    parser.add_argument(
        "--save", type=_run_name, metavar="NAME", help="keep the run under a name, or in a file NAME.json"
    )
    parser.add_argument("--compare", type=_run_name, metavar="NAME", help="show what differs from an earlier run")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="also draw it: .png, .svg or .pdf")
    add_threads(parser)
    parser.add_argument("-j", "--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show pytest's progress")


def run(args: argparse.Namespace) -> int:
    if args.plot is not None:
        plots.need_matplotlib("--plot")
    earlier = None if args.compare is None else _stored("--compare", args.compare)
    failed = None
    if args.load is not None:
        for option, given in (("-k", args.k), ("--save", args.save), ("--threads", args.threads)):
            if given is not None:
                raise UsageError(f"--load runs nothing: {option} does not go with it")
        file = _stored("--load", args.load)
        data = _read(file)
    else:
        file = args.path
        data, failed = _measured(args)
    measured = Run(data, file)
    report = measured if earlier is None else Changes(measured, Run(_read(earlier), earlier), earlier.stem)
    print(json.dumps(report.as_dict()) if args.json else report.table())
    if args.plot is not None:
        plots.save(report.figure(), args.plot)
        if not args.json:
            print(f"\npicture: {args.plot}")
    if failed is not None:
        raise Failure(failed)
    return 0


def _run_name(text: str) -> str:
    """An argument that names a run: in the storage, or a file that ends in .json."""
    if text.endswith(".json") or RUN_NAME.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"must be letters, digits and _ . + -, or a file's name in .json, got {text!r}")


def _stored(option: str, name: str) -> Path:
    """The file of an earlier run: of several of one name the last; a number or "number_name" names one of them."""
    if name.endswith(".json"):
        return Path(name)
    storage = Path(os.environ.get("PYTEST_BENCHMARK_STORAGE", STORAGE).removeprefix("file://"))
    found = [
        file for file in storage.glob("*/[0-9][0-9][0-9][0-9]_*.json") if name in (file.stem, *file.stem.split("_", 1))
    ]
    if not found:
        raise Failure(f"{option}: no run called {name!r} in {storage}; fastconv bench --save {name} makes one")
    return max(found, key=lambda file: file.stat().st_mtime_ns)


def _measured(args: argparse.Namespace) -> tuple[Any, str | None]:
    """pytest-benchmark's data, and what is to be said at the end where some benchmarks failed."""
    if not args.path.is_dir():
        raise Failure(
            f"{args.path}: no such folder: the benchmarks are in the source tree, not in the installed package"
        )
    for module in ("pytest", "pytest_benchmark"):
        if importlib.util.find_spec(module) is None:
            raise Failure(f'{module} is not installed: pip install "fastconv[test]"')
    kept = Path(args.save) if args.save and args.save.endswith(".json") else None
    if kept is not None and not kept.parent.is_dir():
        raise UsageError(f"--save: no such folder: {kept.parent}")
    if kept is not None and kept.is_dir():
        raise UsageError(f"--save: is a folder: {kept}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "benchmarks.json")
        command = [
            sys.executable, "-c", PYTEST, str(args.path), "-q", "-p", "no:cacheprovider", "-W", "ignore:Not saving",
            "--benchmark-enable", "--benchmark-only", "--benchmark-quiet", f"--benchmark-json={file}",
            *(["-k", args.k] if args.k else []),
            *([f"--benchmark-save={args.save}"] if args.save and kept is None else []),
        ]  # fmt: skip
        places = [str(Path(fastconv.__file__).parent.parent), os.environ.get("PYTHONPATH")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        if args.threads is not None:
            environment["FASTCONV_NUM_THREADS"] = str(args.threads)
        output = subprocess.PIPE if args.quiet else sys.stderr.fileno()
        done = subprocess.run(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False, encoding="utf-8",
            errors="replace",
        )  # fmt: skip
        if done.returncode == NO_TESTS:
            raise Failure(f"{args.path}: no benchmark" + (f" matches -k {args.k!r}" if args.k else "s there"))
        failed = None
        if done.returncode:
            last = (done.stdout or "").strip().rpartition("\n")[2]
            failed = f"{args.path}: pytest ended with status {done.returncode}" + (f": {last}" if last else "")
        if failed and not (file.is_file() and file.stat().st_size):
            raise Failure(failed)
        data = _read(file)
        if kept is not None:
            replace_text(kept, file.read_text(encoding="utf-8"))
        return data, failed


def _read(path: Path) -> Any:
    return read_json(path, "the benchmarks' data")
