"""bench/peers.py, nets.py, grid.py and memory.py: their shapes and nets, how they sum up, and one short run."""

import argparse
import functools
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


# --- whole nets ------------------------------------------------------------------------------------------------------

EAGER = argparse.Namespace(bfloat16=False, compile=False, layout=None)


@pytest.fixture
def nets(bench, monkeypatch):
    """bench/nets.py, its nets on two small inputs each, VGG-16 with a narrow classifier."""
    module = bench("nets")
    for name, net in module.NETS.items():
        item = (3, 64, 64) if net.item == (3, 224, 224) else net.item
        make = functools.partial(net.make, hidden=16) if name == "vgg16" else net.make
        monkeypatch.setitem(module.NETS, name, net._replace(make=make, batch=2, item=item))
    monkeypatch.setattr(module, "RATE", 0.1)  # a step that float32 sees
    return module


def test_every_net_takes_a_step(nets, monkeypatch):
    assert len(nets.NETS) == 12
    build = nets.built
    for name, net in nets.NETS.items():
        built = build(name)
        monkeypatch.setattr(nets, "built", lambda _, built=built: built)
        parameters = built[0].parameters()
        before = {key: array.copy() for key, array in parameters.items()}
        output, variants = nets.in_fastconv(name, EAGER)
        assert output.shape == (2, net.classes), name
        assert list(variants) == ["fastconv"]
        variants["fastconv"]["step"]()
        assert not [key for key in before if np.array_equal(before[key], parameters[key])], name
        np.testing.assert_array_equal(variants["fastconv"]["inference"](), output, err_msg=name)  # of a copy


def test_pytorch_computes_the_same_nets(nets):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("lenet", "digits", "mnist", "vgg", "resnet20", "depthwise", "audio", "volumes"):
        net = nets.NETS[name]
        expected, _ = nets.in_fastconv(name, EAGER)
        output, variants = nets.in_torch(name, EAGER)
        np.testing.assert_allclose(output, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)
        layouts = ["NCHW", "channels_last"][: len(net.item) - 1]
        assert set(variants) == {f"{layout}{fused}" for layout in layouts for fused in ("", ", fused SGD")}
        variants[layouts[-1]]["step"]()
    torch.set_num_threads(threads)


def test_the_floor_of_a_net(bench, monkeypatch):
    nets = bench("nets")
    monkeypatch.setattr(nets.floor, "copy_rate", lambda: 4e-6)  # an element a millisecond
    monkeypatch.setattr(nets.floor, "gemm_rate", lambda dtype: 1e-6)
    flops = [172_800, 307_200, 61_440, 20_160, 1_680]  # two a multiply-add, padding left out: LeNet has none
    weights = (25 + 1) * 6 + (150 + 1) * 16 + (256 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10
    x, y = 784 + 864 + 256 + 120 + 84, 3456 + 1024 + 120 + 84 + 10
    one, two = nets.floors("lenet, one image", [1, 2]).values()
    backward = 2 * x - 784 + y + 2 * weights - (25 + 1) * 6  # x, dx, dy, w and dw; of the first no w and no dx
    assert one == pytest.approx(
        {
            "step, arithmetic": 3 * sum(flops) - flops[0], "step, memory": x + y + weights + backward,
            "inference, arithmetic": sum(flops), "inference, memory": x + y + weights,
        }
    )  # fmt: skip
    assert two["step, arithmetic"] == pytest.approx(one["step, arithmetic"] / 2)
    assert two["step, memory"] == one["step, memory"]


def test_the_means_of_nets(bench, capsys):
    parts = ("step", "inference", "for_inference")
    rows = [
        {"net": name, "memory_ratio": memory, "threads": {"1": {part: {"ratio": ratio} for part in parts}}}
        for name, ratio, memory in (("a", 4.0, 0.5), ("b", 1.0, 2.0))
    ]
    bench("nets").print_means(rows, argparse.Namespace(threads=[1], memory=True))
    _, head, step, inference, copied, memory = capsys.readouterr().out.splitlines()
    assert head == "PyTorch's time over ours: geometric mean, worst"
    assert step == "  step, 1 thread: 2.00, 1.00 (b)"
    assert inference == "  inference, 1 thread: 2.00, 1.00 (b)"
    assert copied == "  for_inference, 1 thread: 2.00, 1.00 (b)"
    assert memory == "  memory, ours over PyTorch's: 1.00, 2.00 (b)"


def test_nets_runs(tmp_path):
    pytest.importorskip("torch")
    name = "lenet, one image"
    done = run(
        "nets.py", "--rounds", "1", "--turn", "0.001", "--threads", "1", "--only", name,
        "--json", str(tmp_path / "nets.json"), "--plot", str(tmp_path / "nets.svg"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [row] = json.loads((tmp_path / "nets.json").read_text())["rows"]
    assert (row["net"], row["batch"]) == (name, 1)
    for part in ("step", "inference", "for_inference"):
        assert row["threads"]["1"][part]["ratio"] > 0
        assert len(row["threads"]["1"][part]["milliseconds"]) == 5
    assert f"\n{name} " in done.stdout
    assert "<svg" in (tmp_path / "nets.svg").read_text()


def test_the_memory_of_training():
    done = run("nets.py", "--worker", "fastconv", "--train", "digits")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 64 * 64 * 8 * 8 * 4  # the second layer's output alone


@pytest.mark.parametrize("script", ["nets", "memory"])
def test_help(bench, monkeypatch, capsys, script):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    module = bench(script)
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert not caught.value.code
    assert "--rounds" in capsys.readouterr().out


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_only_moved(bench, dtype):
    """Every case runs, has a name of its own, and counts at least what it returns."""
    memory = bench("memory")
    names = []
    for group in memory.GROUPS:
        for case in group(np.dtype(dtype), 1 << 16):
            result = case.call()
            if isinstance(result, np.ndarray):
                assert result.nbytes < case.nbytes, case.name
            if case.name.startswith("layout"):
                assert case.nbytes == 2 * result.nbytes
            if case.whole:
                assert case.nbytes <= case.whole, case.name
            names.append(case.name)
    assert len(set(names)) == len(names)


def test_lines_that_are_read_between_those_that_are_kept(bench):
    touched, float32 = bench("memory").touched, np.dtype(np.float32)
    assert touched(float32, 1, 2) == 1  # all lines
    assert touched(float32, 16, 2) == 1 / 2  # every other line
    assert touched(float32, 64, 3) == 1 / 3
    assert touched(float32, 100, 2) == (400 + 64) / 800  # and those that are shared at the ends


def test_memory_runs():
    done = run("memory.py", "-k", "copy", "--megabytes", "1", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    head, line = done.stdout.splitlines()
    assert "memcpy over kernel" in head
    name, *figures = line.split()
    assert name == "copy"
    assert len(figures) == 7
    assert all(float(figure) > 0 for figure in figures)


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
