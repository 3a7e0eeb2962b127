"""Training on several ranks over MPI, against as many processes that do not talk, and one with as many threads.

    python bench/distributed.py                                 VGG and ResNet-20 on 1, 2 and 4 ranks, ten minutes
    python bench/distributed.py --quick --only vgg --ranks 2    fewer and shorter rounds
    python bench/distributed.py --hosts 100 1000 --json a.json  two hosts as well, joined by 100 and by 1,000 Mbit/s
    python bench/distributed.py --load a.json --plot a.png      the model of what was measured, to 64 ranks, drawn

Every process computes with one thread, one process's team apart. The ways take turns, and each is held against another
of the same round; the figures are medians over the rounds. Steps are timed from the end of one to the end of the last:
what a `fit` does once is not in them.

    one, apart    one process; as many as there are ranks side by side, each on its own batch: what could be had
    team          one process with as many threads, on the batch of all ranks
    ranks         `Trainer(communicator=…)`: gradients are summed while the backward pass goes on
    … no overlap  with FASTCONV_MPI_OVERLAP=0: when it has ended
    … the same    "team" and "ranks" on one rank's batch, cut in as many parts

hidden: of the time that the sum of the gradients takes by itself, the share that a step is not longer for. A step that
waits for all of it hides 0; one that also waits for the slower rank less than 0.

--hosts: a rank each on two hosts in network namespaces (hosts.py): needs root, and is left out with a line otherwise.
The model: a sum of n bytes over R ranks takes the less of a ring's 2 (R - 1) (a + n / (R w)) and doubling's
log2(R) (a + n / w), a seconds a message and w bytes a second, fitted to sums of several sizes; a step takes
C + max(T - h C, k T), C being its computation and T the sum: h says behind how much of the computation the sum can
go on, k what it costs in any case. --delay is the link's where the kernel has netem, or else added to the model's a.

Needs mpi4py and a launcher: pip install "fastconv[mpi]", and Open MPI or MPICH of the system's packages; of two, the
one that --mpiexec names, with MPI4PY_MPIABI and MPI4PY_LIBMPI as mpi4py needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NamedTuple

import hosts
import nets
import numpy as np
from scipy import optimize

import fastconv
from fastconv import callbacks, optim, plots
from fastconv.files import replace_text

SIZES = (8, 1 << 18, 1 << 20, 1 << 22)  # bytes that are summed to fit a and w
SUMMED = ("ranks", "ranks, no overlap")
LEAST = 0.01  # of a step: two medians differ by as much
COMPARED = (
    ("ranks", "apart"), ("ranks", "one"), ("ranks", "team"), ("ranks, the same", "team, the same"),
    ("ranks", "ranks, no overlap"),
)  # fmt: skip
GOALS = {
    "ranks over apart": 0.95,
    "ranks over one": 1.85,
    "ranks over team": 0.95,
    "ranks, the same over team, the same": 0.95,
}
DRAWN = (1, 2, 4, 8, 16, 32, 64)  # ranks of the model
LINKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "100 Gbit/s": 1e11}  # bits a second
SECONDS = 60  # of waiting for a process to come, or a turn to end

Times = dict[str, list[float]]  # by way: images a second, a number a round


# --- a process that trains -------------------------------------------------------------------------------------------


class Clock(callbacks.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, trainer: fastconv.Trainer, record: Any) -> None:
        self.ends.append(time.perf_counter())


class Process:
    """One of those that train. Every method is what the driver may ask for."""

    def __init__(self, communicator: Any) -> None:
        self.comm = communicator
        self.made: dict[tuple[str, int, int, bool], tuple[fastconv.Trainer, np.ndarray, np.ndarray]] = {}

    def train(self, name: str, batch: int, steps: int, threads: int, overlaps: bool) -> float:
        """Seconds of `steps` steps on batches of `batch` images, of which a rank takes its part."""
        fastconv.set_num_threads(threads)
        key = name, batch, steps, overlaps
        if key not in self.made:
            self.made[key] = self._make(*key)
        trainer, x, y = self.made[key]
        clock = Clock()
        trainer.fit(x, y, epochs=trainer.epoch + 1, batch_size=batch, progress=False, prefetch=0, callbacks=[clock])
        return clock.ends[-1] - clock.ends[0]

    def _make(
        self, name: str, batch: int, steps: int, overlaps: bool
    ) -> tuple[fastconv.Trainer, np.ndarray, np.ndarray]:
        net, x, _ = nets.built(name)
        rng = np.random.default_rng(0)
        x = rng.standard_normal(((steps + 1) * batch, *x.shape[1:]), dtype=np.float32)
        y = rng.integers(0, nets.NETS[name].classes, len(x))
        os.environ["FASTCONV_MPI_OVERLAP"] = str(int(overlaps))
        options = {} if self.comm is None else {"communicator": self.comm}
        return fastconv.Trainer(net, optim.SGD(nets.RATE, momentum=nets.MOMENTUM), **options), x, y

    def sums(self, sizes: Sequence[int], times: int) -> list[float]:
        """Seconds of summing so many bytes over the ranks, the least of `times`."""
        from mpi4py import MPI

        found = []
        for size in sizes:
            array, each = np.zeros(size // 4, np.float32), []
            for _ in range(times):
                self.comm.Barrier()
                begun = time.perf_counter()
                self.comm.Allreduce(MPI.IN_PLACE, array)
                each.append(time.perf_counter() - begun)
            found.append(min(each))
        return found

    def memory(self) -> int:
        """Bytes that the process held at its peak."""
        return nets.peak()


def work(address: str, with_mpi: bool) -> None:
    """Serve the driver until it hangs up. Waiting is a blocked read, not MPI's polling."""
    communicator = None
    if with_mpi:
        from mpi4py import MPI

        communicator = MPI.COMM_WORLD
    process = Process(communicator)
    rank = 0 if communicator is None else communicator.Get_rank()
    with Client(address, "AF_UNIX") as driver:
        driver.send_bytes(json.dumps(rank).encode())
        with contextlib.suppress(EOFError):
            while True:
                name, arguments = json.loads(driver.recv_bytes())
                driver.send_bytes(json.dumps(getattr(process, name)(*arguments)).encode())


# --- the driver ------------------------------------------------------------------------------------------------------


class Group:
    """Processes that were started together."""

    def __init__(self, processes: list[subprocess.Popen], connections: list[Connection]) -> None:
        self.processes, self.connections = processes, connections

    def ask(self, name: str, *arguments: Any, only: int | None = None) -> list[Any]:
        """The answers of the first `only` processes, or of all, which work side by side."""
        asked = self.connections[:only]
        for connection in asked:
            connection.send_bytes(json.dumps([name, arguments]).encode())
        answers = []
        for connection in asked:
            if not connection.poll(10 * SECONDS):
                raise SystemExit(f"distributed: nothing came within {10 * SECONDS} s")
            try:
                answers.append(json.loads(connection.recv_bytes()))
            except EOFError:
                raise SystemExit(f"distributed: a process ended in `{name}`; what it said stands above") from None
        return answers


@contextlib.contextmanager
def started(commands: Sequence[Callable[[list[str]], list[str]]], ranks: int) -> Iterator[Group]:
    """Start `commands`, each given the call of this script as a process that trains; they bring `ranks` processes."""
    environment = {**os.environ, "FASTCONV_NUM_THREADS": ""}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        address = str(Path(folder) / "driver")  # a path is found from every network namespace
        listener = stack.enter_context(Listener(address, "AF_UNIX", backlog=ranks))
        listener._listener._socket.settimeout(SECONDS)  # type: ignore[attr-defined]
        call = [sys.executable, str(Path(__file__).resolve()), "--serve", address]
        processes = [subprocess.Popen(command(call), env=environment, stdin=subprocess.DEVNULL) for command in commands]
        stack.callback(stop, processes)
        found: dict[int, Connection] = {}
        try:
            for i in range(ranks):
                connection = stack.enter_context(listener.accept())
                number = json.loads(connection.recv_bytes())
                found[i if len(commands) > 1 else number] = connection
        except OSError:
            raise SystemExit(f"distributed: {len(found)} of {ranks} processes have come within {SECONDS} s") from None
        if sorted(found) != list(range(ranks)):
            raise SystemExit(
                f"distributed: each of {ranks} ranks says that it is alone: mpi4py loads another MPI than the "
                "launcher's; MPI4PY_MPIABI and MPI4PY_LIBMPI say which it takes"
            )
        yield Group(processes, [found[i] for i in sorted(found)])


def stop(processes: list[subprocess.Popen]) -> None:
    """End them, once the connections are closed."""
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()


def alone(call: list[str]) -> list[str]:
    return call


def launched(launcher: str, ranks: int) -> Callable[[list[str]], list[str]]:
    return lambda call: [*shlex.split(launcher), "-n", str(ranks), *call, "--with-mpi"]


def default_launcher() -> str:
    said = subprocess.run(["mpiexec", "--version"], capture_output=True, text=True, check=False).stdout
    if "Open" in said:  # it refuses root, and more ranks than cores, unless told
        return "mpiexec --bind-to none --oversubscribe" + " --allow-run-as-root" * (os.geteuid() == 0)
    return "mpiexec"


# --- measuring -------------------------------------------------------------------------------------------------------


def in_rounds(name: str, ranks: int, groups: dict[str, Group], steps: int, args: argparse.Namespace) -> dict[str, Any]:
    """One net on so many ranks, every way of it."""
    batch = nets.NETS[name].batch
    together = ranks * batch
    # way: who, how many of them, the images of a step, threads, whether sums overlap
    ways: dict[str, tuple[str, int, int, int, bool]] = {
        "one": ("apart", 1, batch, 1, True),
        "apart": ("apart", ranks, batch, 1, True),
        "team": ("team", 1, together, ranks, True),
        "ranks": ("ranks", ranks, together, 1, True),
        "ranks, no overlap": ("ranks", ranks, together, 1, False),
        "team, the same": ("team", 1, batch, ranks, True),
        "ranks, the same": ("ranks", ranks, batch, 1, True),
    }
    ways = {way: of for way, of in ways.items() if of[0] in groups}
    nbytes = bytes_of(name)
    times: Times = {way: [] for way in ways}
    sums: list[float] = []
    for turn in range(args.rounds + 1):  # one to warm up
        for way, (who, count, images, threads, overlaps) in ways.items():
            seconds = groups[who].ask("train", name, images, steps, threads, overlaps, only=count)
            if turn:
                rates = (
                    [steps / max(seconds) * images] if who == "ranks" else [steps / each * images for each in seconds]
                )
                times[way].append(sum(rates))
        if turn:
            sums.append(max(groups["ranks"].ask("sums", [nbytes], 5))[0])
    sizes = {way: count * images if who == "apart" else images for way, (who, count, images, *_) in ways.items()}
    seconds = {way: statistics.median(sizes[way] / rate for rate in found) for way, found in times.items()}
    total = statistics.median(sums)
    return {
        "net": name, "ranks": ranks, "batch": batch, "bytes": nbytes, "sum": total, "seconds": seconds,
        "images a second": {way: statistics.median(found) for way, found in times.items()},
        "ratios": {
            f"{way} over {other}": statistics.median(a / b for a, b in zip(times[way], times[other], strict=True))
            for way, other in COMPARED
            if other in times
        },
        "hidden": {way: 1 - (seconds[way] - seconds["apart"]) / total for way in SUMMED},
    }  # fmt: skip


def bytes_of(name: str) -> int:
    """Of a net's gradients."""
    return 4 * sum(w.size for w in nets.NETS[name].make().parameters().values())


def steps_of(name: str, group: Group, seconds: float) -> int:
    """How many steps of one process fill a turn."""
    for _ in range(2):
        [three] = group.ask("train", name, nets.NETS[name].batch, 3, 1, True, only=1)
    return max(3, round(seconds / (three / 3)))


def memory_of(name: str, args: argparse.Namespace) -> dict[str, int]:
    """Bytes that training takes at its peak beside its images, of one process and of the rank that takes most."""
    found = {}
    batch = nets.NETS[name].batch
    for who, count, command in (("one process", 1, alone), ("a rank of 2", 2, launched(args.mpiexec, 2))):
        with started([command], count) as group:
            if count > 1:
                group.ask("sums", [SIZES[0]], 1)  # what MPI takes for itself
            before = group.ask("memory")
            group.ask("train", name, count * batch, 4, 1, True)
            found[who] = max(a - b for a, b in zip(group.ask("memory"), before, strict=True))
        found[who] -= 4 * math.prod(nets.NETS[name].item) * 5 * batch * count
    return {**found, "gradients": bytes_of(name)}


def on_hosts(mbit: float, args: argparse.Namespace, apart: Group, steps: dict[str, int]) -> list[dict[str, Any]]:
    """Two ranks on two hosts with a link of so many Mbit/s between them."""
    with hosts.hosts(mbit, args.delay / 1e3) as pair:
        command = lambda call: pair.mpiexec([*call, "--with-mpi"], "-x", "PYTHONPATH")  # noqa: E731
        with started([command], 2) as ranks:
            sums = np.max(ranks.ask("sums", SIZES, 10), axis=0)
            sums_by_size = dict(zip(map(str, SIZES), map(float, sums), strict=True))
            link = {"mbit": mbit, "delay": args.delay / 1e3, "delayed": pair.delayed, "sums": sums_by_size}
            groups = {"apart": apart, "ranks": ranks}
            return [{**in_rounds(name, 2, groups, steps[name], args), "link": link} for name in args.only]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"cpus": fastconv.get_num_threads(), "ranks": [], "hosts": [], "memory": {}}
    most = max(args.ranks)
    with started([alone] * max(2, most), max(2, most)) as apart, started([alone], 1) as team:
        steps = {name: steps_of(name, apart, args.turn) for name in args.only}
        for ranks in args.ranks:
            with started([launched(args.mpiexec, ranks)], ranks) as group:
                for name in args.only:
                    groups = {"apart": apart, "team": team, "ranks": group}
                    found["ranks"].append(in_rounds(name, ranks, groups, steps[name], args))
                    print_result(found["ranks"][-1])
        for mbit in args.hosts:
            if need := hosts.missing():
                print(f"\nhosts: left out, they need {need}")
                break
            for result in on_hosts(mbit, args, apart, steps):
                found["hosts"].append(result)
                print_result(result)
    for name in args.only if most > 1 else ():
        found["memory"][name] = memory_of(name, args)
        print(
            f"\n{name}, memory: " + ", ".join(f"{what} {n / 2**20:.1f} MB" for what, n in found["memory"][name].items())
        )
    return found


def print_result(result: dict[str, Any]) -> None:
    link = result.get("link")
    where = "this machine"
    if link:
        where = f"two hosts, {link['mbit']:g} Mbit/s"
        if link["delay"]:
            where += f", {1e3 * link['delay']:g} ms" + " in the model alone: no netem here" * (not link["delayed"])
    print(f"\n{result['net']}, batch {result['batch']} a rank, {result['ranks']} ranks, {where}")
    for way, images in result["images a second"].items():
        print(f"    {way:18} {images:9.1f} images/s {1e3 * result['seconds'][way]:9.1f} ms a step")
    for name, value in result["ratios"].items():
        goal = f"   goal {GOALS[name]}" if name in GOALS and (name != "ranks over one" or result["ranks"] == 2) else ""
        print(f"    {name:38} {value:5.2f}{goal}")
    shares = ", ".join(f"{way} {share:.2f}" for way, share in result["hidden"].items())
    if result["sum"] < LEAST * result["seconds"]["apart"]:
        shares = "too short beside a step to tell"
    print(f"    sum of {result['bytes'] / 2**20:.1f} MB {1e3 * result['sum']:.1f} ms; hidden: {shares}", flush=True)


# --- the model -------------------------------------------------------------------------------------------------------


class Link(NamedTuple):
    """What a message takes: seconds, and bytes a second."""

    latency: float
    rate: float

    def sum(self, ranks: int, nbytes: float) -> float:
        """Seconds of summing so many bytes over the ranks."""
        if ranks == 1:
            return 0.0
        ring = 2 * (ranks - 1) * (self.latency + nbytes / ranks / self.rate)
        doubling = math.ceil(math.log2(ranks)) * (self.latency + nbytes / self.rate)
        return min(ring, doubling)


class Overlap(NamedTuple):
    """Behind how much of the computation a sum can go on, and what of it a step pays for in any case."""

    behind: float
    least: float

    def step(self, computation: float, total: float) -> float:
        return computation + max(total - self.behind * computation, self.least * total)


def fit_link(sums: dict[str, float]) -> Link:
    """From seconds by bytes, of two ranks; least squares of the logarithms, an odd one counting less."""

    def errors(logs: np.ndarray) -> list[float]:
        return [math.log(Link(*np.exp(logs)).sum(2, int(size)) / seconds) for size, seconds in sums.items()]

    least, most = min(sums, key=int), max(sums, key=int)
    begun = np.log([sums[least] / 2, int(most) / sums[most]])
    found = optimize.least_squares(errors, begun, loss="soft_l1", f_scale=0.1)
    return Link(*map(float, np.exp(found.x)))


def fit_overlap(measured: Sequence[tuple[float, float, float]]) -> Overlap:
    """From (computation, sum, step), in seconds; least squares of the logarithms."""

    def errors(given: np.ndarray) -> list[float]:
        found = [math.log(Overlap(*given).step(c, total) / step) for c, total, step in measured]
        return [*found, 1e-4 * given[1]]  # 0, where nothing tells k

    starts = ((0.0, 0.5), (0.3, 0.1), (0.6, 0.3))  # the maximum has kinks
    found = [optimize.least_squares(errors, start, bounds=(0, 1)) for start in starts]
    return Overlap(*map(float, min(found, key=lambda each: each.cost).x))


def model(found: dict[str, Any]) -> dict[str, Any]:
    """Fit it, and draw it out: efficiency (one rank's step over that of so many, each with its own batch) by way, net,
    link and ranks."""
    on_links = found["hosts"]
    fitted = {result["link"]["mbit"]: fit_link(result["link"]["sums"]) for result in on_links}
    latency = statistics.median(link.latency for link in fitted.values())
    latency += max(result["link"]["delay"] * (not result["link"]["delayed"]) for result in on_links)
    share = statistics.median(8 * link.rate / (1e6 * mbit) for mbit, link in fitted.items() if mbit)
    links = {name: Link(latency, min(share, 1) * bits / 8) for name, bits in LINKS.items()}
    result: dict[str, Any] = {
        "links": {str(mbit): link._asdict() for mbit, link in fitted.items()}, "latency": latency, "share": share,
        "overlap": {}, "errors": {}, "efficiency": {},
    }  # fmt: skip
    for way in SUMMED:
        rows = [
            (each["seconds"]["apart"], each["sum"], each["seconds"][way])
            for each in on_links + [each for each in found["ranks"] if each["ranks"] == 2]
        ]
        overlap = fit_overlap(rows)
        result["overlap"][way] = overlap._asdict()
        result["errors"][way] = max(abs(overlap.step(c, total) / step - 1) for c, total, step in rows)
        result["efficiency"][way] = {
            each["net"]: {
                name: {
                    str(ranks): each["seconds"]["one"]
                    / overlap.step(each["seconds"]["one"], link.sum(ranks, each["bytes"]))
                    for ranks in DRAWN
                }
                for name, link in links.items()
            }
            for each in on_links[: len({each["net"] for each in on_links})]
        }
    return result


def print_model(made: dict[str, Any]) -> None:
    for mbit, link in made["links"].items():
        print(f"\nlink of {mbit} Mbit/s: {1e6 * link['latency']:.0f} µs a message, {8e-6 * link['rate']:.0f} Mbit/s")
    for way, overlap in made["overlap"].items():
        print(
            f"\n{way}: h = {overlap['behind']:.2f}, k = {overlap['least']:.2f}; the largest error of a step is "
            f"{100 * made['errors'][way]:.0f} %\n"
        )
        print(f"| efficiency, {way} |" + "".join(f" {ranks} |" for ranks in DRAWN))
        print("|---|" + "---|" * len(DRAWN))
        for net, by_link in made["efficiency"][way].items():
            for name, by_ranks in by_link.items():
                print(f"| {net}, {name} |" + "".join(f" {value:.2f} |" for value in by_ranks.values()))


def figure(found: dict[str, Any], made: dict[str, Any]) -> Any:
    drawn = plots.need_matplotlib("the picture")(figsize=(11, 4.6), layout="constrained")
    by_net = made["efficiency"]["ranks"]
    drawn.suptitle("Efficiency: images a second over ranks times one rank's", fontweight="bold")
    for axes, (net, by_link) in zip(drawn.subplots(1, len(by_net), squeeze=False).flat, by_net.items(), strict=True):
        for colour, (name, by_ranks) in zip((plots.BLUE, *plots.OTHERS), by_link.items(), strict=False):
            axes.plot([int(ranks) for ranks in by_ranks], list(by_ranks.values()), color=colour, label=name, marker="o")
        for result in found["hosts"]:
            if result["net"] == net:
                value = result["seconds"]["apart"] / result["seconds"]["ranks"]
                axes.plot(2, value, "x", color=plots.GRAY)
                axes.annotate(
                    f"measured,\n{result['link']['mbit']:g} Mbit/s", (2, value), (-4, -8), fontsize=8, va="top",
                    textcoords="offset points", color=plots.GRAY,
                )  # fmt: skip
        batch = next(result["batch"] for result in found["hosts"] if result["net"] == net)
        axes.set(xscale="log", ylim=(0, 1.05), xlabel="ranks, one thread each", title=f"{net}, batch {batch} a rank")
        axes.set_xticks(DRAWN, DRAWN)
        axes.minorticks_off()
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, title="link, by the model", loc="lower left")
    return drawn


# --- the call --------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description="training on several ranks over MPI, and a model of it")
    parser.add_argument("--only", nargs="+", choices=nets.NETS, default=["vgg", "resnet20"], metavar="NET")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4], metavar="N")
    parser.add_argument("--hosts", nargs="*", type=float, default=[], metavar="MBIT", help="links between two hosts")
    parser.add_argument("--delay", type=float, default=0, metavar="MS", help="of these links, one way (0)")
    parser.add_argument("--mpiexec", metavar="COMMAND", help="the launcher and its options (FASTCONV_MPIEXEC, mpiexec)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--turn", type=float, default=2, metavar="SECONDS", help="of one process (2)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of half a second")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was measured")
    parser.add_argument("--load", type=Path, metavar="FILE", help="what was kept, instead of measuring")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the model; wants --hosts")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--with-mpi", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        work(args.serve, args.with_mpi)
        return 0
    if args.plot and not (args.hosts or args.load):
        parser.error("--plot draws the model, which is fitted to links: --hosts MBIT…")
    if args.plot and not args.load and (need := hosts.missing()):
        parser.error(f"--plot: hosts need {need}")
    if args.quick:
        args.rounds, args.turn = 3, 0.5
    if args.load:
        found = json.loads(args.load.read_text(encoding="utf-8"))
    else:
        if importlib.util.find_spec("mpi4py") is None:
            parser.error('needs mpi4py: pip install "fastconv[mpi]"')
        args.mpiexec = args.mpiexec or os.environ.get("FASTCONV_MPIEXEC") or default_launcher()
        found = measure(args)
        if args.json:
            replace_text(args.json, json.dumps(found, indent=1))
    if found["hosts"]:
        made = model(found)
        print_model(made)
        if args.plot:
            plots.save(figure(found, made), args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
