"""What pytest-benchmark wrote, as text, data and picture: one run, or a run beside an earlier one."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastconv import plots
from fastconv.cli.common import Failure
from fastconv.training.checkpoint import as_format_error

__all__ = ["Changes", "Run"]

OURS = "fastconv"  # the version that the others are held against
CONTROLS = ("numpy", "naive")  # versions that are not ours: what changes there is the machine
BUSY = 0.05  # share of a benchmark's time that its threads waited for a core, from which on it is not believed
NOISY = 1.5  # median over minimum, likewise where nobody has counted the waiting
WIDTH = 80  # of the report
CASE = 26  # width of the column of cases
CALL = 45  # at most, that of a call: operation, case, batch, direction
PICTURED = 60  # changes that a picture shows


@dataclass(frozen=True)
class Row:
    """One version of one call; seconds."""

    group: str
    version: str
    op: str | None  # None, with case and direction, where the suite does not say what it times
    case: str | None
    batch: int | None
    direction: str | None
    min: float
    q1: float
    median: float
    q3: float
    rounds: int
    gflops: float | None
    gbytes: float | None
    threads: int | None
    waited: float | None

    @classmethod
    def read(cls, entry: Any) -> Row:
        """One of pytest-benchmark's benchmarks."""
        stats, extra = entry["stats"], entry.get("extra_info") or {}
        known = {"op", "case", "batch", "direction"} <= extra.keys()
        version = extra.get("version")
        return cls(
            group=str(entry["group"] or entry["fullname"]),
            version=str(version) if version else str(entry["name"]),
            op=str(extra["op"]) if known else None,
            case=str(extra["case"]) if known else None,
            batch=int(extra["batch"]) if known else None,
            direction=str(extra["direction"]) if known else None,
            rounds=int(stats["rounds"]),
            gflops=float(extra["GFLOP/s"]) if "GFLOP/s" in extra else None,
            gbytes=float(extra["GB/s"]) if "GB/s" in extra else None,
            threads=int(extra["threads"]) if extra.get("threads") is not None else None,
            waited=float(extra["waited"]) if "waited" in extra else None,
            **{name: float(stats[name]) for name in ("min", "q1", "median", "q3")},
        )

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.q3 - self.q1) / 2 / self.median if self.median else 0.0

    @property
    def noise(self) -> float:
        return self.median / self.min if self.min else 1.0

    @property
    def label(self) -> str:
        """Without the version."""
        return f"{self.op} {self.case} b{self.batch} {self.direction}" if self.op else self.group

    @property
    def unbelievable(self) -> bool:
        return self.waited > BUSY if self.waited is not None else self.noise > NOISY


class Run:
    """A run of the suite: rows in its order; `path` is for messages."""

    def __init__(self, data: Any, path: Path) -> None:
        with as_format_error(path, "this is not what pytest-benchmark writes"):
            self.cpu = str(data["machine_info"].get("cpu", {}).get("brand_raw", "unknown CPU"))
            self.rows = [Row.read(entry) for entry in data["benchmarks"]]
        if not self.rows:
            raise Failure("no benchmark was measured")
        self.groups: dict[str, list[Row]] = {}
        for row in self.rows:
            self.groups.setdefault(row.group, []).append(row)
        threads = sorted({row.threads for row in self.rows if row.threads is not None})
        self.head = f"{self.cpu}; {' or '.join(map(str, threads)) or 'unknown'} threads"

    def ratio(self, row: Row) -> float | None:
        """The row's median over that of our version in its group."""
        ours = next((other.median for other in self.groups[row.group] if other.version == OURS), None)
        return row.median / ours if ours else None

    def busy(self) -> str | None:
        """A line that says why the times are not to be believed; None where they are."""
        doubtful = [row for row in self.rows if row.unbelievable]
        if 10 * len(doubtful) <= len(self.rows):
            return None
        waited = [row.waited for row in doubtful if row.waited is not None]
        if waited:
            why = f"the threads waited for a core, {statistics.median(waited):.0%} of the time"
        else:
            why = f"the median is more than {NOISY} times the minimum"
        return f"BUSY MACHINE, do not believe these times: in {len(doubtful)} of {len(self.rows)} benchmarks {why}"

    def as_dict(self) -> dict[str, Any]:
        rows = [{**asdict(row), "times_as_long": self.ratio(row)} for row in self.rows]
        return {"machine": self.head, "busy": self.busy(), "benchmarks": rows}

    def table(self) -> str:
        lines = [*_prose(self.head), *_prose(self.busy())]
        if any(row.op for row in self.rows):
            lines += _prose(
                "ms: median, minimum; then the times of NumPy (np), of channels-last arrays (cl) and of naive "
                "loops (loop) over fastconv's"
            )
        operations: dict[str | None, list[Row]] = {}
        for row in self.rows:
            operations.setdefault(row.op, []).append(row)
        for op, rows in operations.items():
            lines += ["", *(self._block(op, rows) if op else self._flat(rows))]
        worst = max(self.rows, key=lambda row: row.noise)
        middle = statistics.median(row.noise for row in self.rows)
        at_most = f"at most {worst.noise:.2f} ({worst.label}, {worst.version})"
        lines += ["", *_prose(f"median over minimum: {middle:.2f}, {at_most}")]
        return "\n".join(lines)

    def _block(self, op: str, rows: list[Row]) -> Iterator[str]:
        """An operation's cases, a line each, both directions beside each other."""
        calls: dict[tuple[str | None, int | None], dict[tuple[str | None, str], Row]] = {}
        for row in rows:
            calls.setdefault((row.case, row.batch), {})[row.direction, row.version] = row
        small = {call: found for call, found in calls.items() if any(version == "naive" for _, version in found)}
        unit = "GF/s" if any(row.gflops for row in rows) else "GB/s"
        yield f"{op:<{CASE + 4}}{'forward':^26}{'backward':^25}".rstrip()
        large = {call: found for call, found in calls.items() if call not in small}
        for title, third, part in (("", "cl", large), ("beside naive loops", "loop", small)):
            if part:
                columns = "".join(f"{name:>5}" for name in ("med", "min", "np", third, unit))
                yield f"{title:<{CASE}}  b{columns} {columns}"
            for (case, batch), found in part.items():
                sides = (self._side(found, direction, third) for direction in ("forward", "backward"))
                yield f"{str(case)[:CASE]:<{CASE}}{batch:>3}{' '.join(sides)}".rstrip()

    def _side(self, found: Mapping[tuple[str | None, str], Row], direction: str, third: str) -> str:
        """Median, minimum, two ratios and the rate of one direction."""
        ours = found.get((direction, OURS))
        if ours is None:
            return " " * 25
        other = found.get((direction, "channels_last" if third == "cl" else "naive"))
        plain = found.get((direction, "numpy"))
        rate = ours.gflops or ours.gbytes
        cells = [
            _ms(ours.median),
            _ms(ours.min),
            *(_times(row.median / ours.median if row else None) for row in (plain, other)),
            "" if rate is None else _three(rate),
        ]
        return "".join(f"{cell:>5}" for cell in cells)

    def _flat(self, rows: list[Row]) -> Iterator[str]:
        """Rows of a suite that does not say what it times."""
        cells, last = [], None
        for row in rows:
            rates = [f"{rate:.3g} {unit}" for rate, unit in ((row.gflops, "GFLOP/s"), (row.gbytes, "GB/s")) if rate]
            ratio = None if row.version == OURS else self.ratio(row)
            name = row.group if row.group != last else ""
            cells.append([name, row.version, _ms(row.median), _ms(row.min), _times(ratio), ", ".join(rates)])
            last = row.group
        yield from _columns(["", "version", "median ms", "min", "x", "rate"], cells, left=(0, 1, 5))

    def figure(self) -> Any:
        """The groups that have a version of ours: how many times as long the others take; else the times themselves."""
        known = {name for name, group in self.groups.items() if any(row.version == OURS for row in group)}
        label = f"times as long as {OURS} (median)" if known else "seconds (median)"
        points: dict[str, dict[str, float]] = {
            name: {row.version: (self.ratio(row) or 1.0) if known else row.median for row in group}
            for name, group in self.groups.items()
            if not known or name in known
        }
        return plots.dots(points, title=self.head, label=label, reference=1.0 if known else None)


@dataclass(frozen=True)
class Change:
    """A benchmark in two runs."""

    then: Row
    now: Row

    @property
    def ratio(self) -> float:
        return self.now.median / self.then.median

    @property
    def least(self) -> float:
        """The same of the minima."""
        return self.now.min / self.then.min

    @property
    def bounds(self) -> tuple[float, float]:
        """The ratio, from the quartiles that lie closest to those that lie furthest apart."""
        return self.now.q1 / self.then.q3, self.now.q3 / self.then.q1

    @property
    def verdict(self) -> str:
        """ "slower" or "faster" where the quartiles of the two runs do not meet and the minima went the same way."""
        low, high = self.bounds
        return "slower" if low > 1 < self.least else "faster" if high < 1 > self.least else ""

    @property
    def call(self) -> str:
        """What was timed, in the width of the table's first column: a case that is too long ends early."""
        if self.now.op is None:
            return f"{self.now.group}, {self.now.version}"
        version = {OURS: "", "channels_last": " cl"}.get(str(self.now.version), f" {self.now.version}")
        after = f" b{self.now.batch} {self.now.direction}{version}"
        return f"{self.now.op} {self.now.case}"[: CALL - len(after)] + after

    def cells(self) -> str:
        """The numbers of the table's line."""
        then, now = self.then, self.now
        return (
            f"{_ms(then.median):>6}{100 * then.spread:>4.0f}{_ms(now.median):>7}{100 * now.spread:>4.0f}"
            f"{_times(self.ratio):>6}{_times(self.least):>6}"
        )


class Changes:
    """A run beside an earlier one; what got slower first."""

    def __init__(self, now: Run, then: Run, name: str) -> None:
        earlier = {(row.group, row.version): row for row in then.rows if row.min > 0}
        pairs = [(earlier.get((row.group, row.version)), row) for row in now.rows if row.min > 0]
        self.rows = [Change(before, row) for before, row in pairs if before is not None]
        if not self.rows:
            raise Failure(f"{name}: it has no benchmark of this run")
        self.rows.sort(key=lambda change: -change.ratio)
        self.ours = [change for change in self.rows if change.now.version not in CONTROLS] or self.rows
        self.now, self.then, self.name = now, then, name

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.now.head,
            "busy": self.now.busy(),
            "earlier": {"name": self.name, "machine": self.then.head, "busy": self.then.busy()},
            "benchmarks": [
                {
                    "group": change.now.group, "version": change.now.version, "ratio": change.ratio,
                    "ratio_of_minima": change.least, "verdict": change.verdict,
                    "then": asdict(change.then), "now": asdict(change.now),
                }
                for change in self.rows
            ],
        }  # fmt: skip

    def table(self) -> str:
        lines = [*_prose(self.now.head), *_prose(self.now.busy())]
        if self.then.head != self.now.head:
            lines += _prose(f"{self.name} ran elsewhere: {self.then.head}")
        if self.then.busy():
            lines += _prose(f"{self.name}: {self.then.busy()}")
        lines += _prose(
            f"ms: medians of {self.name} and of this run, with half the distance of their quartiles; x: the medians' "
            "ratio, the minima's; cl: channels-last arrays"
        )
        words = {"slower": "slower beyond both spreads", "": "within the spreads", "faster": "faster beyond both"}
        calls = [f"{change.call}  " for change in self.ours]
        width = max(map(len, [*calls, *words.values()]))
        for verdict, title in words.items():
            found = [(call, change) for call, change in zip(calls, self.ours, strict=True) if change.verdict == verdict]
            if found:
                lines += ["", f"{title:<{width}}{'then':>6}{'+-%':>4}{'now':>7}{'+-%':>4}{'x':>6}{'min':>6}"]
                lines += [f"{call:<{width}}{change.cells()}" for call, change in found]
        return "\n".join([*lines, "", *self._summary()])

    def _summary(self) -> Iterator[str]:
        counts = {word: sum(change.verdict == word for change in self.ours) for word in ("slower", "faster")}
        yield from _prose(
            f"{counts['slower']} slower and {counts['faster']} faster beyond both spreads, "
            f"{len(self.ours) - sum(counts.values())} within; geometric mean {_mean(self.ours):.3f}"
        )
        operations: dict[str | None, list[Change]] = {}
        for change in self.ours:
            operations.setdefault(change.now.op, []).append(change)
        if len(operations) > 1:
            means = sorted(((_mean(changes), op) for op, changes in operations.items() if op), reverse=True)
            yield from _prose("by operation: " + ", ".join(f"{op} {mean:.3f}" for mean, op in means))
        controls = [change for change in self.rows if change.now.version in CONTROLS]
        if controls:
            mean = f"{_mean(controls):.3f}"
            yield from _prose(f"NumPy and the loops, the same code in both runs: {mean}: that is the machine")

    def figure(self) -> Any:
        """The largest changes either way."""
        half = PICTURED // 2
        shown = self.ours if len(self.ours) <= PICTURED else self.ours[:half] + self.ours[-half:]
        left_out = len(self.ours) - len(shown)
        title = f"{self.now.head}: time over {self.name}'s" + (f" ({left_out} between not shown)" if left_out else "")
        return plots.changes(
            [(f"{c.now.label}, {c.now.version}", c.ratio, *c.bounds, c.verdict) for c in shown], title=title
        )


def _mean(changes: Sequence[Change]) -> float:
    """The geometric mean of the ratios."""
    return statistics.geometric_mean(change.ratio for change in changes)


def _columns(head: Sequence[str], cells: Sequence[Sequence[str]], left: tuple[int, ...]) -> Iterator[str]:
    """A table; the columns in `left` are aligned there."""
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for line in [head, ["-" * width for width in widths], *cells]:
        aligned = zip(line, widths, strict=True)
        texts = [text.ljust(w) if at in left else text.rjust(w) for at, (text, w) in enumerate(aligned)]
        yield "  ".join(texts).rstrip()


def _three(value: float) -> str:
    """At most four characters, up to a million."""
    if value >= 99.95:
        return f"{value:.0f}" if value < 9999.5 else f"{value / 1000:.0f}e3"
    text = f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.9995 else f"{value:.3f}"
    return text.removeprefix("0")


def _ms(seconds: float) -> str:
    return _three(seconds * 1e3)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else _three(ratio) if ratio >= 1 else f"{ratio:.2f}"


def _prose(text: str | None) -> list[str]:
    """A sentence as lines of the report."""
    return textwrap.wrap(text, WIDTH) if text else []
