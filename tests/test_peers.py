"""bench/peers.py and bench/grid.py: their shapes, how they sum up, and one short run."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import functional
from fastconv.lab.shapes import CONVOLUTIONS, TRANSPOSED, conv_case

BENCH = Path(__file__).parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("away from the source tree", allow_module_level=True)


@pytest.fixture
def bench(monkeypatch):
    """Import a module of bench/."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def test_every_class_has_named_and_held_out_shapes(bench):
    classes = bench("classes")
    for name, each in classes.CLASSES.items():
        assert each.goal > 1, name
        assert each.named, name
        assert {shape.batch for shape in each.held_out} <= {1, 3}, name
        assert len(each.held_out) >= 2, name
    assert set(CONVOLUTIONS) | set(TRANSPOSED) <= set(classes.SHAPES)


def test_the_shapes_say_the_truth(bench):
    for shape in bench("classes").SHAPES.values():
        one = shape.with_batch(1)
        if one.flops() < 50e6:
            x, w = conv_case(one).arrays()
            assert getattr(functional, one.op)(x, w, **one.options).shape == one.y_shape, shape.name
            assert shape.flops() == shape.batch * one.flops()


def row(task, name, held_out, ratio):
    return {"task": task, "class": name, "held_out": held_out, "threads": {"1": {"step": {"ratio": ratio}}}}


def test_summaries(bench):
    rows = [row("a", "5x5", False, 4.0), row("b", "5x5", True, 1.0), row("c", "depthwise", True, 0.5)]
    rows.append(row("net", "nets", False, 100.0))
    found = {line["class"]: line for line in bench("peers").summaries(rows, [1])}
    assert list(found) == ["5x5", "depthwise", "nets", "all shapes", "all named", "all held-out"]
    assert found["5x5"]["threads"]["1"] == {
        "geometric_mean": pytest.approx(2.0), "worst": 1.0, "worst_task": "b",
    }  # fmt: skip
    assert found["all shapes"]["threads"]["1"]["geometric_mean"] == pytest.approx(2 ** (1 / 3))
    assert found["all shapes"]["threads"]["1"]["worst_task"] == "c"
    assert found["all held-out"]["shapes"] == 2


def test_different_results_are_noticed(bench):
    peers = bench("peers")
    rng = np.random.default_rng(0)
    array = rng.standard_normal((3, 4, 5))
    peers.check_same("task", peers.fingerprints([array]), peers.fingerprints([array.copy(order="F")]))
    for other in (array[::-1], -array, array + 1e-6, array.transpose(0, 2, 1)):
        with pytest.raises(SystemExit, match="task: fastconv computes"):
            peers.check_same("task", peers.fingerprints([other]), peers.fingerprints([array]))


def test_a_turn_lasts_long_enough_and_no_longer(bench):
    turn = bench("peers").turn
    clock, calls = [0.0], []

    def call(seconds):
        calls.append(seconds)
        clock[0] += seconds

    for seconds, expected in ((0.5, 1), (0.04, 1 + 3)):
        calls.clear()
        assert turn(lambda each=seconds: call(each), 0.1, lambda: clock[0]) == pytest.approx(seconds)
        assert len(calls) == expected


def test_rises_look_along_both_axes(bench):
    rises = bench("grid").rises
    cost = {(1, 8): 10.0, (1, 16): 5.0, (2, 8): 8.0, (2, 16): 6.0, (2, 32): 7.0}
    assert rises(cost) == {(1, 8): 1.0, (1, 16): 0.5, (2, 8): 0.8, (2, 16): 1.2, (2, 32): pytest.approx(7 / 6)}


def test_pytorch_gets_the_same_net(bench):
    """Containers too, which torch.nn has no twin of."""
    torch = pytest.importorskip("torch")
    block = {
        "a": (fastconv.Conv2d(4, 4, 3, padding=1), "input"),
        "b": (fastconv.ReLU(), "a"),
        "c": ("a", "b"),
        "sum": ("add", "c", "input"),
        "both": ("concat", "sum", "b"),
    }
    net = fastconv.Sequential(
        {
            "stem": fastconv.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
            "plain": fastconv.Residual(fastconv.Sequential(fastconv.Conv2d(4, 4, 1), fastconv.BatchNorm2d(4))),
            "wide": fastconv.Residual(fastconv.Conv2d(4, 4, 1), fastconv.Conv2d(4, 4, 3, padding=1)),
            "graph": fastconv.Graph(block),
            "head": fastconv.Sequential(fastconv.Flatten(), fastconv.Linear(8 * 16, 3)),
        }
    ).eval()
    twin = bench("peers").InTorch().twin(net.config()).eval()
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in net.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(twin(torch.from_numpy(x)).detach().numpy(), net(x), atol=1e-5)


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(BENCH / script), *arguments], capture_output=True, text=True, check=False
    )


def test_peers_runs(tmp_path):
    pytest.importorskip("torch")
    tasks = ("5x5 1-6 @27", "5 64-100 @333", "3x3/2 transposed 30-50 @13", "lenet5")
    done = run(
        "peers.py", "--rounds", "1", "--turn", "0.001", "--threads", "1", "--only", *tasks,
        "--json", str(tmp_path / "peers.json"), "--plot", str(tmp_path / "peers.svg"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "peers.json").read_text())
    assert [row["task"] for row in data["rows"]] == list(tasks)
    for row in data["rows"]:
        assert row["threads"]["1"]["step"]["ratio"] > 0
        assert set(row["threads"]["1"]["forward"]["milliseconds"]) == {"fastconv", "NCHW", "channels_last"}
        assert 0 < row["errors"]["fastconv"] < 3e-5
        assert row["task"] in done.stdout
    assert "<svg" in (tmp_path / "peers.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--only", "9x9"], "no task is called '9x9'"),
        (["--class", "9x9"], "no class is called '9x9'"),
        (["--threads", "0"], "--threads must be positive"),
        (["--clock", "cpu", "--threads", "1", "2"], "1 with --clock cpu"),
    ],
)
def test_peers_refuses(bench, monkeypatch, capsys, arguments, match):
    pytest.importorskip("torch")
    monkeypatch.setattr(sys, "argv", ["peers.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        bench("peers").parse()
    assert caught.value.code == 2
    assert match in capsys.readouterr().err


def test_grid_runs(tmp_path):
    done = run(
        "grid.py", "--layer", "3x3 16-16", "--memory", "1", "--rounds", "1", "--turn", "0.0001",
        "--json", str(tmp_path / "grid.json"), "--plot", str(tmp_path / "grid.svg"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "grid.json").read_text())["points"]
    assert {(1, 8), (2, 8), (1, 48)} <= {(point["batch"], point["size"]) for point in points}
    assert all(256 * point["batch"] * point["size"] ** 2 <= 1 << 20 for point in points)
    assert "largest rise" in done.stdout
    assert "<svg" in (tmp_path / "grid.svg").read_text()
