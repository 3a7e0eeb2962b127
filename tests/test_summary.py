"""`net.summary` and `fastconv summary`: names as in state_dict, totals, what is printed, every container."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import fastconv as fc
from fastconv import engine, models
from fastconv.analysis import table
from fastconv.cli import main
from fastconv.ops import conv, conv_transpose


def every_container():
    shared = fc.Conv2d(4, 4, 3, padding=1, bias=False, rng=0)
    return fc.Sequential(
        {
            "stem": fc.Conv2d(3, 4, 3, padding=1, rng=0),
            "block": fc.Residual(
                fc.Sequential(fc.BatchNorm2d(4), fc.ReLU(), shared), fc.Conv2d(4, 4, 1, bias=False, rng=0)
            ),
            "wide": fc.Concat(fc.AvgPool2d(2), fc.Sequential(fc.Conv2d(4, 2, 2, stride=2, rng=0))),
            "graph": fc.Graph({"a": (fc.Conv2d(6, 6, 1, rng=0), "input"), "b": ("a", "a"), "sum": ("add", "a", "b")}),
            "head": fc.Sequential(fc.AdaptiveAvgPool2d(1), fc.Flatten(), fc.Linear(6, 10, rng=0)),
        }
    )


def test_rows_of_every_container():
    net = every_container()
    summary = net.summary((2, 3, 8, 8))
    assert [(row.name, row.kind, row.output_shape[1:], row.parameters) for row in summary] == [
        ("stem", "Conv2d", (4, 8, 8), 112),
        ("block.body.0", "BatchNorm2d", (4, 8, 8), 8),
        ("block.body.1", "ReLU", (4, 8, 8), 0),
        ("block.body.2", "Conv2d", (4, 8, 8), 144),
        ("block.shortcut", "Conv2d", (4, 8, 8), 16),
        ("block", "add", (4, 8, 8), 0),
        ("wide.0", "AvgPool2d", (4, 4, 4), 0),
        ("wide.1.0", "Conv2d", (2, 4, 4), 34),
        ("wide", "concat", (6, 4, 4), 0),
        ("graph.a", "Conv2d", (6, 4, 4), 42),
        ("graph.b", "Conv2d", (6, 4, 4), 0),
        ("graph.sum", "add", (6, 4, 4), 0),
        ("head.0", "AdaptiveAvgPool2d", (6, 1, 1), 0),
        ("head.1", "Flatten", (6,), 0),
        ("head.2", "Linear", (10,), 70),
    ]
    assert summary["graph.b"].shared_with == "graph.a"
    assert summary.output_shape == net(np.zeros((2, 3, 8, 8))).shape == (2, 10)
    assert summary.parameters == sum(array.size for array in net.parameters().values()) == 426
    assert summary.flops == sum(row.flops for row in summary)
    holders = {name.rpartition(".")[0] for name in net.state_dict()}
    assert holders == {row.name for row in summary if row.parameters}
    assert {row.name for row in summary if row.algorithm} == {
        "stem", "block.body.2", "block.shortcut", "wide.1.0", "graph.a", "graph.b",
    }  # fmt: skip
    for row in summary:
        assert row.receptive_field == fc.analysis.receptive_field(net, (2, 3, 8, 8), row.name)
    assert (summary[0], summary[-1], len(summary)) == (summary["stem"], summary["head.2"], 15)
    with pytest.raises(KeyError, match="body"):
        summary["body"]


def test_printed():
    net = fc.Sequential(
        fc.Conv2d(1, 2, 3, padding=1, rng=0), fc.MaxPool2d(2), fc.Conv2d(2, 2, 3, stride=(1, Fraction(1, 2)), rng=0),
        fc.Flatten(), fc.Linear(20, 1000, rng=0),
    )  # fmt: skip
    net.freeze("0")
    summary = net.summary((1, 1, 8, 8))
    assert repr(summary) == str(summary)
    lines = str(summary).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[2:-2]]
    assert cells == [
        ["0 Conv2d", "1x2x8x8", "20", "2.3 k", "3x3 /1", summary[0].algorithm],
        ["1 MaxPool2d", "1x2x4x4", "4x4 /2"],
        ["2 Conv2d", "1x2x2x5", "38", "384", "8x6 /(2, 1)", summary[2].algorithm],
        ["3 Flatten", "1x20", "8x8"],
        ["4 Linear", "1x1000", "21,000", "40 k", "8x8"],
    ]
    assert lines[-1] == "Sequential: 1x1x8x8 to 1x1000, 21,058 parameters (20 frozen), 42.7 kFLOPs forward"
    assert len({len(line) for line in (lines[1], lines[-2])}) == 1
    assert not any(line.endswith(" ") for line in lines)
    data = json.loads(json.dumps(summary.as_dict()))
    assert data["layers"][2]["receptive_field"] == {"size": [8, 6], "stride": [2, 1], "offset": [-1, -1]}
    assert (data["parameters"], data["trainable"], data["input_shape"]) == (21058, 21038, [1, 1, 8, 8])


class Unknown(fc.Layer):
    def forward(self, x, context):
        return x[:, :, 1:], None


def test_a_layer_that_does_not_say_what_it_reads():
    net = fc.Sequential(fc.Conv1d(1, 1, 3, stride=Fraction(1, 2), rng=0), Unknown(), fc.ReLU())
    summary = net.summary((1, 1, 9))
    assert [row.receptive_field for row in summary[1:]] == [None, None]
    assert "  2 /(1/2)  " in str(summary)
    assert str(summary).splitlines()[3].split() == ["1", "Unknown", "1x1x14", "?"]
    assert summary.as_dict()["layers"][0]["receptive_field"]["stride"] == ["1/2"]
    assert summary.as_dict()["layers"][1]["receptive_field"] is None


def test_one_layer_is_a_net():
    (row,) = fc.Linear(3, 4, rng=0).summary((5, 3))
    assert (row.name, row.kind, row.flops, row.receptive_field) == ("", "Linear", 120, ((), (), ()))
    with pytest.raises(fc.ShapeError, match=r"^linear: x must have as many features as w, got x \(0, 4\)"):
        fc.Linear(3, 4, rng=0).summary((5, 4))
    with pytest.raises(fc.ShapeError, match=r"^summary: input_shape must be \(N, C, …\)"):
        fc.Linear(3, 4, rng=0).summary(5)


def test_flops_are_torchs():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    nn = torch.nn
    pairs = [
        (fc.Conv2d(4, 6, 3, 2, 1, groups=2, rng=0), nn.Conv2d(4, 6, 3, 2, 1, groups=2), (2, 4, 9, 7)),
        (fc.Conv1d(2, 3, 5, dilation=2, rng=0), nn.Conv1d(2, 3, 5, dilation=2), (3, 2, 20)),
        (fc.ConvTranspose3d(2, 3, 2, 2, rng=0), nn.ConvTranspose3d(2, 3, 2, 2), (1, 2, 3, 4, 5)),
        (fc.Linear(7, 5, rng=0), nn.Linear(7, 5), (4, 7)),
    ]
    for ours, theirs, shape in pairs:
        with FlopCounterMode(display=False) as counter:
            theirs(torch.zeros(shape))
        assert ours.summary(shape).flops == counter.get_total_flops() > 0


CONVOLUTIONS = {
    "2-D": (fc.Conv2d(4, 6, 3, 2, ((1, 0), (0, 2)), groups=2, rng=0), (2, 4, 9, 7)),
    "1-D": (fc.Conv1d(2, 3, 5, dilation=2, padding="same", rng=0), (3, 2, 20)),
    "by name": (fc.Conv2d(16, 16, 3, algorithm="direct", rng=0), (1, 16, 9, 9)),
    "fractions": (fc.Conv2d(2, 3, 3, stride=(Fraction(2, 3), Fraction(1, 2)), padding=2, rng=0), (1, 2, 7, 6)),
    "upwards": (fc.Conv2d(4, 6, 3, stride=(Fraction(1, 3), 1), padding=1, groups=2, rng=0), (2, 4, 5, 6)),
    "transposed": (fc.ConvTranspose2d(2, 4, 3, 2, 1, 1, 2, rng=0), (2, 2, 5, 6)),
    "transposed 3-D": (fc.ConvTranspose3d(2, 3, 2, 2, dilation=(1, 2, 1), rng=0), (1, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_algorithm_is_the_one_that_runs(name, monkeypatch):
    layer, shape = CONVOLUTIONS[name]
    asked, answered = [], []

    def listen(direction, problem, policy=None):
        found = plan(direction, problem, policy)
        asked.append((direction, problem))
        answered.append(found.algorithm)
        return found

    (row,) = layer.summary(shape)
    plan = engine.plan
    monkeypatch.setattr(engine, "plan", listen)
    conv.plan.cache_clear()
    conv_transpose.plan.cache_clear()
    layer(np.zeros(shape, np.float32))
    assert asked == table.problems_of(layer, shape, row.output_shape)
    assert set(row.algorithm.split("+")) == set(answered)


def test_no_inserted_zero_is_counted():
    net = fc.Conv1d(1, 1, 4, stride=Fraction(1, 2), rng=0)  # two taps meet an input, at each of 2 * 9 - 1 - 3 places
    assert net.summary((1, 1, 9)).flops == 2 * 14 * 2
    net = fc.Conv1d(1, 1, 3, stride=Fraction(1, 2), rng=0)  # two and one in turns, at 15
    assert net.summary((1, 1, 9)).flops == 2 * (8 * 2 + 7)


def test_a_large_net_needs_no_memory_for_its_input():
    net = fc.Sequential(fc.Conv2d(3, 8, 3, padding=1, rng=0), fc.BatchNorm2d(8), fc.ReLU(), fc.MaxPool2d(2))
    assert net.summary((4096, 3, 8192, 8192)).flops == 2 * 4096 * 8192**2 * 8 * 27


# --- fastconv summary ------------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    capsys.readouterr()
    status = main(["summary", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_the_command_knows_every_model(capsys, name):
    status, out, err = call(capsys, name, "--json")
    assert (status, err) == (0, "")
    data = json.loads(out)
    assert data["name"] == name
    assert data["output_shape"] == [1, 10]
    assert data["parameters"] == sum(row["parameters"] for row in data["layers"])


@pytest.mark.parametrize(
    "call",
    [
        lambda net, shape: net.summary(shape),
        fc.explain,
        fc.analysis.output_shape,
        fc.analysis.receptive_field,
    ],
)
def test_a_missing_batch_axis_is_named(call):
    net = fc.Sequential(fc.Conv2d(1, 2, 3, rng=0), fc.ReLU())
    message = r": input_shape must be \(N, C, …\), got \(1, 8, 8\); with the batch axis it is \(1, 1, 8, 8\)$"
    with pytest.raises(fc.ShapeError, match=message):
        call(net, (1, 8, 8))
    with pytest.raises(fc.ShapeError, match=r"conv2d: w must have as many channels as x has per group"):
        call(net, (1, 3, 8, 8))  # a batch axis more does not help


def test_the_command_prints_the_table(capsys):
    status, out, _ = call(capsys, "lenet5", "--input-shape", "2,3,32,40", "--classes", 7)
    assert status == 0
    assert out.rstrip("\n") == str(models.lenet5(7, 3, (32, 40)).summary((2, 3, 32, 40)))
    assert call(capsys, "lenet5", "--input-shape", 2, 3, 32, 40, "--classes", 7)[1] == out


def test_the_command_reads_a_runs_folder(capsys, tmp_path):
    run = tmp_path / "run"
    assert (
        main(["train", "digits", "--epochs", "1", "--out", str(run), "--batch-size", "512", "--quiet", "--no-plots"])
        == 0
    )
    status, out, _ = call(capsys, run)
    assert status == 0
    assert out.rstrip("\n") == str(models.digits_cnn().summary((1, 1, 8, 8)))
    status, _, err = call(capsys, run, "--classes", 3)
    assert (status, err.count("\n")) == (2, 1)
    (run / "weights.safetensors").unlink()
    status, _, err = call(capsys, run)
    assert (status, err) == (
        1,
        f"fastconv summary: {run}: is not trained to the end yet: fastconv train --resume {run}\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "no net or run folder is called 'nope'; nets: lenet5"),
        (("lenet5", "--input-shape", "1,1,3,3"), "lenet5: inputs of 3 x 3 are too small"),
        (("lenet5", "--input-shape", "1,1,28"), "conv2d: x must have 4 axes (N C H W), got 3"),
        (("lenet5", "--input-shape", "1"), "--input-shape must be N,C and the spatial sizes, got 1"),
        (("lenet5", "--input-shape", "1,1,0,28"), "argument --input-shape: must be positive integers, got '1,1,0,28'"),
        (("lenet5", "--classes", "0"), "argument --classes: must be a positive integer"),
        ((), "the following arguments are required: NET"),
        ((".",), ".: is no run folder: it has no config.json"),
    ],
)
def test_a_wrong_call_is_one_line(capsys, arguments, message):
    status, out, err = call(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"fastconv summary: {message}")


def test_analysis_is_imported_when_it_is_used():
    code = (
        "import sys, fastconv\n"
        "assert not any(name.startswith(('fastconv.analysis', 'scipy.sparse')) for name in sys.modules)\n"
        "fastconv.analysis.receptive_field\n"
        "assert 'matplotlib' not in sys.modules\n"
        "assert 'scipy.sparse' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
