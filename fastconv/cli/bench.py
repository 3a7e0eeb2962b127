"""Run the benchmark suite (pytest-benchmark, the folder bench/) and show it as a table and a picture."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import fastconv
from fastconv import plots
from fastconv.cli.common import Failure, UsageError, add_threads, picture
from fastconv.files import replace_text
from fastconv.training.checkpoint import as_format_error, read_json

__all__ = ["NAME", "add_arguments", "run"]

NAME = "bench"
OURS = "fastconv"  # the version that the others are held against
NO_TESTS = 5  # pytest's exit status
# pytest without the present folder on its path, which in a clone holds the sources; PYTHONPATH leads to this package
PYTEST = "import sys; sys.path = [p for p in sys.path if p]; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--path", type=Path, default=Path("bench"), metavar="DIR", help="the suite (default: bench)")
    parser.add_argument("-k", metavar="EXPRESSION", help="only benchmarks that match, as pytest takes it: -k conv2d")
    parser.add_argument("--load", type=Path, metavar="FILE", help="run nothing: show the JSON of an earlier run")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep pytest-benchmark's own JSON")
    parser.add_argument("--plot", type=picture, metavar="FILE", help="also draw it: .png, .svg or .pdf")
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--quiet", action="store_true", help="do not show pytest's progress")


def run(args: argparse.Namespace) -> int:
    if args.plot is not None:
        plots.need_matplotlib("--plot")
    failed = None
    if args.load is not None:
        for option, given in (("-k", args.k), ("--save", args.save), ("--threads", args.threads)):
            if given is not None:
                raise UsageError(f"--load runs nothing: {option} does not go with it")
        data = _read(args.load)
    else:
        data, failed = _measured(args)
    report = _Report(data, args.load or args.path)
    print(json.dumps(report.as_dict()) if args.json else report.table())
    if args.plot is not None:
        plots.save(report.figure(), args.plot)
        if not args.json:
            print(f"\npicture: {args.plot}")
    if failed is not None:
        raise Failure(failed)
    return 0


def _measured(args: argparse.Namespace) -> tuple[Any, str | None]:
    """pytest-benchmark's data, and what is to be said at the end where some benchmarks failed."""
    if not args.path.is_dir():
        raise Failure(
            f"{args.path}: no such folder: the benchmarks are in the source tree, not in the installed package"
        )
    for module in ("pytest", "pytest_benchmark"):
        if importlib.util.find_spec(module) is None:
            raise Failure(f'{module} is not installed: pip install "fastconv[test]"')
    if args.save is not None and not args.save.parent.is_dir():
        raise UsageError(f"--save: no such folder: {args.save.parent}")
    if args.save is not None and args.save.is_dir():
        raise UsageError(f"--save: is a folder: {args.save}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "benchmarks.json")
        command = [
            sys.executable, "-c", PYTEST, str(args.path), "-q", "-p", "no:cacheprovider", "-W", "ignore:Not saving",
            "--benchmark-enable", "--benchmark-only", "--benchmark-quiet", f"--benchmark-json={file}",
            *(["-k", args.k] if args.k else []),
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
        if args.save is not None:
            replace_text(args.save, file.read_text(encoding="utf-8"))
        return data, failed


def _read(path: Path) -> Any:
    return read_json(path, "the benchmarks' data")


class _Report:
    """pytest-benchmark's data: rows in the order of the run, grouped."""

    def __init__(self, data: Any, path: Path) -> None:
        with as_format_error(path, "this is not what pytest-benchmark writes"):
            cpu = data["machine_info"].get("cpu", {}).get("brand_raw", "unknown CPU")
            rows = [_row(entry) for entry in data["benchmarks"]]
        if not rows:
            raise Failure("no benchmark was measured")
        self.groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            self.groups.setdefault(row["group"], []).append(row)
        for group in self.groups.values():
            ours = next((row["median"] for row in group if row["version"] == OURS), None)
            for row in group:
                row["times_as_long"] = row["median"] / ours if ours else None
        threads = sorted({row.pop("threads") for row in rows} - {None})
        self.head = f"{cpu}; {' or '.join(map(str, threads)) or 'unknown'} threads"
        self.rows = rows

    def as_dict(self) -> dict[str, Any]:
        return {"machine": self.head, "benchmarks": self.rows}

    def table(self) -> str:
        lines = [f"{self.head}; milliseconds; x: times as long as {OURS}", ""]
        head = ["", "version", "min", "median", "x", "rate"]
        cells = []
        for name, group in self.groups.items():
            for at, row in enumerate(group):
                rates = [
                    f"{row[key]:.3g} {unit}" for key, unit in (("gflops", "GFLOP/s"), ("gbytes", "GB/s")) if row[key]
                ]
                ratio = row["times_as_long"]
                cells.append(
                    [
                        name if at == 0 else "", row["version"], _ms(row["min"]), _ms(row["median"]),
                        "" if ratio is None or row["version"] == OURS else _times(ratio), ", ".join(rates),
                    ]
                )  # fmt: skip
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        for line in [head, ["-" * width for width in widths], *cells]:
            texts = [
                text.rjust(width) if 2 <= at <= 4 else text.ljust(width)
                for at, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(texts).rstrip())
        return "\n".join(lines)

    def figure(self) -> Any:
        """The groups that have a version of ours: how many times as long the others take; else the times themselves."""
        ratios = {
            name: {row["version"]: row["times_as_long"] for row in group}
            for name, group in self.groups.items()
            if group[0]["times_as_long"] is not None
        }
        if ratios:
            return plots.dots(ratios, title=self.head, label=f"times as long as {OURS} (median)", reference=1.0)
        seconds = {name: {row["version"]: row["median"] for row in group} for name, group in self.groups.items()}
        return plots.dots(seconds, title=self.head, label="seconds (median)")


def _row(entry: Any) -> dict[str, Any]:
    stats, extra = entry["stats"], entry.get("extra_info") or {}
    version = extra.get("version")
    return {
        "group": str(entry["group"] or entry["fullname"]),
        "version": str(version) if version else str(entry["name"]),
        "min": float(stats["min"]),
        "median": float(stats["median"]),
        "rounds": int(stats["rounds"]),
        "gflops": float(extra["GFLOP/s"]) if "GFLOP/s" in extra else None,
        "gbytes": float(extra["GB/s"]) if "GB/s" in extra else None,
        "threads": extra.get("threads"),
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds >= 10 else f"{seconds * 1e3:.4g}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"
