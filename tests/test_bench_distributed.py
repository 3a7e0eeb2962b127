"""bench/distributed.py: what it measures, what its model makes of that; bench/hosts.py: two hosts on one machine."""

import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("away from the source tree", allow_module_level=True)
MB = 1 << 20


@pytest.fixture
def bench(monkeypatch):
    """bench/distributed.py, by a name that is not dask's."""
    monkeypatch.syspath_prepend(BENCH)
    spec = importlib.util.spec_from_file_location("bench_distributed", BENCH / "distributed.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    for name in ("hosts", "nets", "peers"):
        sys.modules.pop(name, None)


# --- the model -------------------------------------------------------------------------------------------------------


def test_a_sum_takes_a_ring_or_doublings(bench):
    link = bench.Link(1e-3, 1e6)
    assert link.sum(1, MB) == 0
    assert link.sum(2, 1e6) == pytest.approx(1e-3 + 1)
    assert link.sum(4, 1e6) == pytest.approx(2 * 3 * (1e-3 + 0.25))  # a ring
    assert link.sum(64, 100) == pytest.approx(6 * (1e-3 + 1e-4))  # doublings: nearly all of it latency
    for nbytes in (100, 1e5, 1e8):
        seconds = [link.sum(ranks, nbytes) for ranks in (1, 2, 4, 8, 16, 32, 64)]
        assert seconds == sorted(seconds)


def test_a_link_is_found_again(bench):
    link = bench.Link(70e-6, 1.2e8)
    sums = {str(size): link.sum(2, size) for size in bench.SIZES}
    assert bench.fit_link(sums) == pytest.approx(link, rel=1e-3)
    sums[str(bench.SIZES[1])] *= 4  # a pause of the machine
    assert bench.fit_link(sums) == pytest.approx(link, rel=0.2)


def test_an_overlap_is_found_again(bench):
    for overlap in (bench.Overlap(0.4, 0.1), bench.Overlap(0.0, 0.0), bench.Overlap(1.0, 0.3)):
        rows = [(c, total, overlap.step(c, total)) for c in (0.05, 0.2) for total in (0.001, 0.03, 0.1, 0.4)]
        found = bench.fit_overlap(rows)
        for c, total, step in rows:
            assert found.step(c, total) == pytest.approx(step, rel=2e-3)
    assert found.least == pytest.approx(0.3, abs=1e-2)
    assert bench.Overlap(0.0, 0.0).step(1, 0.5) == 1.5
    assert bench.Overlap(0.5, 0.1).step(1, 0.4) == pytest.approx(1.04)


def measured(bench, delay=0.0):
    """What two nets would take on links of 100 and 1,000 Mbit/s, nothing hidden, and on the machine itself."""
    hosts = []
    for mbit in (100, 1000):
        link = bench.Link(1e-4, mbit * 1e6 / 8 * 0.9)
        for net, nbytes, seconds in (("vgg", 4 * MB, 0.2), ("resnet20", MB, 0.4)):
            total = link.sum(2, nbytes)
            hosts.append({
                "net": net, "ranks": 2, "batch": 64, "bytes": nbytes, "sum": total,
                "seconds": {"one": seconds, "apart": seconds, **dict.fromkeys(bench.SUMMED, seconds + total)},
                "link": {"mbit": mbit, "delay": delay, "delayed": False,
                         "sums": {str(size): link.sum(2, size) for size in bench.SIZES}},
            })  # fmt: skip
    return {
        "hosts": hosts,
        "ranks": [{**row, "sum": 0.0, "seconds": dict.fromkeys(row["seconds"], 0.3)} for row in hosts],
    }


def test_the_model_is_drawn_out(bench, capsys, tmp_path):
    found = json.loads(json.dumps(measured(bench)))
    made = bench.model(found)
    assert made["errors"]["ranks"] < 0.01
    assert made["latency"] == pytest.approx(1e-4, rel=0.01)
    assert made["share"] == pytest.approx(0.9, rel=0.01)
    vgg = made["efficiency"]["ranks"]["vgg"]
    assert vgg["1 Gbit/s"]["1"] == 1
    assert vgg["1 Gbit/s"]["2"] == pytest.approx(0.2 / (0.2 + 1e-4 + 4 * MB / (0.9e9 / 8)), rel=0.01)
    for slow, fast in ((vgg["1 Gbit/s"], vgg["10 Gbit/s"]), (vgg["10 Gbit/s"], vgg["100 Gbit/s"])):
        assert all(slow[ranks] <= fast[ranks] <= 1 for ranks in slow)
        assert list(slow.values()) == sorted(slow.values(), reverse=True)
    late = bench.model(measured(bench, delay=0.01))
    assert late["latency"] == pytest.approx(made["latency"] + 0.01)  # no netem: the model has it
    bench.print_model(made)
    assert f"| vgg, 1 Gbit/s | 1.00 | {vgg['1 Gbit/s']['2']:.2f} |" in capsys.readouterr().out
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    bench.plots.save(bench.figure(found, made), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


# --- the call --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], 'needs mpi4py: pip install "fastconv\\[mpi\\]"'),
        (["--plot", "a.png"], "fitted to links: --hosts MBIT"),
        (["--plot", "a.png", "--hosts", "100"], "--plot: hosts need root"),
    ],
)
def test_what_is_missing_is_one_line(bench, monkeypatch, capsys, options, said):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench.hosts.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["distributed.py", *options])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.slow
def test_ranks_are_timed(bench, tmp_path):
    """Two ranks and all that they are held against; on two hosts as well, where there can be some."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    if not shutil.which("mpiexec"):
        pytest.skip("no mpiexec")
    path = tmp_path / "a.json"
    command = [sys.executable, str(BENCH / "distributed.py"), "--quick", "--only", "lenet", "--ranks", "2", "--hosts",
               "1000", "--json", str(path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["hosts"] or "hosts: left out, they need" in done.stdout
    for result in found["ranks"] + found["hosts"]:
        assert result["bytes"] == bench.bytes_of("lenet")
        assert result["ratios"]["ranks over apart"] > 0
        assert all(0 < seconds < 60 for seconds in result["seconds"].values())
        assert all(map(math.isfinite, result["hidden"].values()))
    assert found["memory"]["lenet"]["one process"] > 0


# --- hosts -----------------------------------------------------------------------------------------------------------


def test_hosts_have_names_and_a_link_of_their_own(bench):
    hosts = bench.hosts
    if need := hosts.missing():
        pytest.skip(f"hosts need {need}")
    spaces = ["ip", "netns", "list"]
    before = subprocess.run(spaces, capture_output=True, text=True, check=True).stdout
    with hosts.hosts(mbit=100) as pair:
        command = pair.mpiexec(["sh", "-c", "hostname; tc qdisc show dev wire"])
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        assert all(said.stdout.count(f"{name}\n") == 1 for name in pair.names)
        assert said.stdout.count("tbf") == 2 and said.stdout.count("rate 100Mbit") == 2
        pair.cut()
        reach = ["ip", "netns", "exec", pair.names[0], "cat", "/sys/class/net/wire/carrier"]
        assert subprocess.run(reach, capture_output=True, text=True, check=False).stdout == "0\n"
    assert subprocess.run(spaces, capture_output=True, text=True, check=True).stdout == before
