"""What `explain` tells of the steps of a net's plan: their times, the memory that they keep and move, their floor."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

import fastconv
from fastconv import functional, models
from fastconv.analysis import explain as explanation
from fastconv.analysis import floor, stopwatch
from fastconv.engine import ALGORITHMS
from fastconv.layers.base import Context
from fastconv.machine import memory
from fastconv.plan import plan_of
from fastconv.plan.names import name_of
from fastconv.plan.steps import Enter

NAMES = set(ALGORITHMS) - {"auto"}
CONVOLUTION = ["forward", "dx", "dw", "other"]
OTHERS = ["forward", "backward"]


@pytest.fixture(autouse=True)
def one_run(monkeypatch):
    monkeypatch.setattr(explanation, "RUNS", 1)


def small_net():
    return fastconv.Sequential(
        fastconv.Conv2d(2, 4, 3, padding=1, rng=0),
        fastconv.BatchNorm2d(4),
        fastconv.ReLU(),
        fastconv.Residual(fastconv.Conv2d(4, 4, 3, padding=1, rng=1)),
        fastconv.Dropout(0.5),
        fastconv.Flatten(),
        fastconv.Linear(4 * 6 * 5, 3, rng=2),
    )


def by_pass(told):
    found = {(row.layer, row.direction): row for row in told.rows}
    assert len(found) == len(told.rows)
    return found


def directions(told):
    found = {}
    for row in told.rows:
        found.setdefault(row.layer, []).append(row.direction)
    return found


# --- rows ------------------------------------------------------------------------------------------------------------


def names_of(net, keep=True):
    """What its plan computes; keep: for a backward."""
    return [name_of(step) for step in plan_of(net, keep=keep).steps if not isinstance(step, Enter)]


def test_a_row_for_every_pass_of_every_step():
    net = small_net()
    told = fastconv.explain(net, (2, 2, 6, 5))
    names = names_of(net)
    assert any("+" in name for name in names)  # something is fused
    convolutions = {name: CONVOLUTION for name in names if name.startswith("3.body")}
    convolutions |= {name: ["forward", "dw", "other"] for name in names if name.startswith("0")}
    expected = {name: convolutions.get(name, OTHERS) for name in names} | {"loss": ["loss"], "update": ["update"]}
    assert directions(told) == expected
    assert list(directions(told)) == list(expected)
    found = by_pass(told)
    row = found["3.body", "dx"]
    assert (row.kind, row.output_shape) == ("Conv2d", (2, 4, 6, 5))
    assert row.algorithm in NAMES
    assert row.workspace > 0
    assert row.gflops == pytest.approx(2 * 2 * 4 * 6 * 5 * 4 * 9 / row.milliseconds / 1e6)
    assert row.share == pytest.approx(row.gflops / told.gemm / told.threads)
    assert found["6", "forward"].algorithm is None
    assert found["3", "forward"].kind == "Add"
    assert found["loss", "loss"].kind == "cross_entropy"
    kinds = "+".join(dict.fromkeys(row.kind for row in told.rows)).split("+")
    assert kinds[:3] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert all(row.milliseconds > 0 for row in told.rows)
    assert told.training


def test_inference():
    net = small_net()
    told = fastconv.explain(net, (2, 2, 6, 5), training=False)
    names = names_of(net, keep=False)
    assert names[0] == "0+1+2"
    convolution = {name: ["forward", "other"] for name in names if name.startswith(("0", "3.body"))}
    assert directions(told) == {name: convolution.get(name, ["forward"]) for name in names}
    assert {row.kept for row in told.rows} == {0}
    assert {span.phase for span in told.spans} == {"forward"}
    assert not told.training
    assert "inference" in str(told)


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_plan_that_runs_is_told(value):
    code = (
        "import fastconv as fc\n"
        "net = fc.Sequential(fc.Conv2d(1, 2, 3), fc.BatchNorm2d(2), fc.ReLU())\n"
        "print(*dict.fromkeys(row.layer for row in fc.explain(net, (2, 1, 6, 6)).rows))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FASTCONV_PLAN": value}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    *layers, loss, update = done.stdout.split()
    assert (loss, update) == ("loss", "update")
    assert (layers == ["0", "1", "2"]) is (value == "0")
    assert "+".join(layers) == "+".join("012")


def test_it_leaves_the_net_alone():
    net = small_net().eval()
    before, draws = net.state_dict(), fastconv.random.default_generator().bit_generator.state
    for training in (True, False):
        fastconv.explain(net, (2, 2, 6, 5), training=training)
    assert not net.training
    assert fastconv.random.default_generator().bit_generator.state == draws
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert "forward" not in vars(net)
    assert not any({"call", "backward", "accumulate"} & vars(step).keys() for step in plan_of(net).steps)


def test_a_single_layer_and_a_shared_one():
    told = fastconv.explain(fastconv.ConvTranspose1d(3, 4, 4, stride=2).astype(np.float64), (2, 3, 10))
    assert told.dtype == "float64"
    assert [(row.layer, row.direction) for row in told.rows] == [("", "forward"), ("", "dw"), ("", "other")]
    shared = fastconv.Conv1d(3, 3, 3, padding=1)
    told = fastconv.explain(fastconv.Sequential(shared, fastconv.Sigmoid(), shared), (2, 3, 10))
    assert directions(told) == {
        "0": ["forward", "dw", "other"], "1": OTHERS, "2": CONVOLUTION, "loss": ["loss"], "update": ["update"],
    }  # fmt: skip
    work = {row.layer: row.gflops * row.milliseconds for row in told.rows if row.direction == "dw"}
    assert work["0"] == pytest.approx(work["2"])


class Doubled(fastconv.Sequential):
    """A container that computes as nobody else does."""

    def forward(self, x, context):
        y, saved = super().forward(x, context)
        return 2 * y, saved

    def backward(self, dy, saved, need_dx):
        return super().backward(2 * dy, saved, need_dx)


class Reversed(fastconv.Sequential):
    """A container with a flow of its own."""

    def flow(self, x, apply, join):
        for name, layer in reversed(self.children().items()):
            x = apply(name, layer, x)
        return x


def test_containers_of_ones_own():
    layers = [fastconv.Conv2d(2, 2, 3, padding=1), fastconv.Sigmoid()]
    told = fastconv.explain(Doubled(*layers), (1, 2, 6, 6))
    assert directions(told) == {"": ["forward", "dw", "other"], "loss": ["loss"], "update": ["update"]}
    told = fastconv.explain(fastconv.Sequential(Doubled(*layers), fastconv.Flatten()), (1, 2, 6, 6))
    assert [row.layer for row in told.rows if row.kind == "Doubled"] == ["0"] * 3
    told = fastconv.explain(Reversed(*layers), (1, 2, 6, 6))
    assert list(directions(told)) == ["1", "0", "loss", "update"]
    assert directions(told)["0"] == ["forward", "dw", "other"]


def test_nets_without_a_loss_or_anything_at_all():
    assert fastconv.explain(fastconv.Sequential(), (1, 2)).rows == ()
    frozen = fastconv.Sequential(fastconv.Linear(3, 4)).freeze()
    assert directions(fastconv.explain(frozen, (2, 3))) == {"0": ["forward"], "loss": ["loss"]}
    pictures = fastconv.Sequential(fastconv.Conv2d(1, 1, 3))
    assert [row.kind for row in fastconv.explain(pictures, (1, 1, 5, 5)).rows if row.layer == "loss"] == ["mse_loss"]


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_steps_cover_the_whole_time(monkeypatch, training):
    readings = []

    def clock():
        readings.append(time.perf_counter())
        return readings[-1]

    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=clock))
    told = fastconv.explain(small_net(), (2, 2, 6, 5), training=training)
    counted = readings[len(readings) // 2 :]  # of the second run: as many as in the first
    whole = 1e3 * (counted[-1] - counted[0])
    assert sum(span.milliseconds for span in told.spans) == pytest.approx(whole)
    assert sum(row.milliseconds for row in told.rows) == pytest.approx(whole)
    end = 0.0
    for span in told.spans:
        assert span.start == pytest.approx(end)
        end = span.start + span.milliseconds


def test_spans_are_in_the_order_of_time():
    net = small_net()
    spans, layers = fastconv.explain(net, (2, 2, 6, 5)).spans, names_of(net)
    count = len(layers)
    assert [span.layer for span in spans] == [*layers, "loss", *reversed(layers), "update"]
    assert [span.phase for span in spans] == ["forward"] * count + ["loss"] + ["backward"] * count + ["update"]


def test_the_run_of_middle_length_counts():
    piece = stopwatch.Piece("", "")
    piece.turns["forward"] = [stopwatch.Turn(seconds, []) for seconds in (9.0, 3.0, 1.0, 2.0)]
    assert piece.turn("forward").seconds == 2.0
    assert piece.turn("backward") is None


# --- memory ----------------------------------------------------------------------------------------------------------


def branches():
    return fastconv.Sequential(
        fastconv.Conv2d(3, 16, 3, padding=1),
        fastconv.Concat(fastconv.MaxPool2d(2), fastconv.Sequential(fastconv.AvgPool2d(2), fastconv.GELU())),
        fastconv.Residual(fastconv.Sequential(fastconv.Conv2d(32, 32, 3, padding=1), fastconv.BatchNorm2d(32))),
        fastconv.ReLU(),
        fastconv.Dropout(0.5),
        fastconv.Flatten(),
        fastconv.Linear(32 * 16 * 16, 5),
    )


@pytest.mark.parametrize("make", [branches, models.resnet20, models.vgg_cifar])
def test_kept_bytes_are_what_the_process_holds(monkeypatch, make):
    net, shape = make(), (16, 3, 32, 32)
    told = fastconv.explain(net, shape)
    monkeypatch.setattr(memory.allocate, "pooled", float("inf"))  # no blocks, which tracemalloc cannot see
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    net.forward(x, Context.of_step(net))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y, saved = net.forward(x, Context.of_step(net))
    held = tracemalloc.get_traced_memory()[0] - before - y.nbytes
    tracemalloc.stop()
    kept = sum(row.kept for row in told.rows)
    assert saved is not None
    assert kept > 1 << 20
    assert held == pytest.approx(kept, rel=0.02)
    assert max(span.kept for span in told.spans) == kept
    assert told.spans[-1].kept == 0


def test_shared_arrays_are_kept_once():
    branches = fastconv.Concat(fastconv.Conv2d(2, 2, 1), fastconv.Conv2d(2, 2, 1))
    told = by_pass(fastconv.explain(fastconv.Sequential(fastconv.Conv2d(2, 2, 1), branches), (4, 2, 16, 16)))
    one = 4 * 4 * 2 * 16 * 16
    assert told["0", "forward"].kept == one  # x in channels-last memory; the batch itself is the caller's
    assert told["1.0", "forward"].kept == one
    assert told["1.1", "forward"].kept == 0
    assert {row.kept for (_, direction), row in told.items() if direction != "forward"} == {0}


def test_moved_bytes():
    net = fastconv.Sequential(fastconv.Conv2d(2, 4, 3), fastconv.Sigmoid(), fastconv.Flatten(), fastconv.Linear(64, 3))
    told = by_pass(fastconv.explain(net, (5, 2, 6, 6)))
    x, y, w = 4 * 5 * 2 * 36, 4 * 5 * 4 * 16, 4 * (4 * 2 * 9 + 4)
    assert told["0", "forward"].moved == x + y + w
    assert told["0", "dw"].moved == y + x + w
    assert told["1", "forward"].moved == 2 * y
    assert told["1", "backward"].moved == 3 * y
    z, v = 4 * 5 * 3, 4 * (64 * 3 + 3)
    assert told["3", "forward"].moved == y + z + v
    assert told["3", "backward"].moved == 2 * y + z + 2 * v  # dy, x and w in, dx and dw out
    assert told["loss", "loss"].moved == 2 * z + 8 * 5
    assert told["update", "update"].moved == 5 * (w + v)
    told = by_pass(fastconv.explain(fastconv.Sequential(net[0], net[0].__class__(4, 2, 1)), (5, 2, 6, 6)))
    out, u = 4 * 5 * 2 * 16, 4 * (8 + 2)
    assert told["1", "dx"].moved == out + u + y
    assert told["1", "dw"].moved == y + u  # dy is read once for both


def test_what_is_written_over_is_written():
    layers = (
        fastconv.Conv2d(2, 4, 1),
        fastconv.Tanh(),
        fastconv.BatchNorm2d(4),
        fastconv.ReLU(),
        fastconv.Conv2d(4, 2, 1),
    )
    told = by_pass(fastconv.explain(fastconv.Sequential(*layers), (5, 2, 6, 6)))
    y, w = 4 * 5 * 4 * 36, 4 * 4 * 4 + 8  # weight, bias, running statistics and their count
    assert told["2+3", "forward"].moved == 2 * y + w
    assert told["2+3", "backward"].moved == 3 * y + w + 4 * 2 * 4  # x, dy, which dx takes the place of, dx


class Through(fastconv.layers.base.Layer):
    """Hands on what comes."""

    def forward(self, x, context):
        return x, None

    def backward(self, dy, saved, need_dx):
        return dy, {}


def test_what_is_handed_on_moves_nothing():
    net = fastconv.Sequential(fastconv.Linear(6, 6), fastconv.Residual(Through()), fastconv.Linear(6, 2))
    told = by_pass(fastconv.explain(net, (7, 6)))
    assert told["1.body", "forward"].moved == told["1.body", "backward"].moved == 0
    assert told["1", "forward"].moved == 2 * 4 * 7 * 6  # of one array twice
    assert told["1", "backward"].moved == 0


@pytest.mark.parametrize("net", ["lenet5", "mnist_cnn", "vgg_cifar"])
def test_workspace_stays_under_the_limit(net):
    image = (3, 32, 32) if net == "vgg_cifar" else (1, 28, 28)
    for limit in (64 << 20, 8 << 20):
        fastconv.set_workspace_limit(limit)
        told = fastconv.explain(models.build(net, image, 10, rng=0), (4, *image))
        assert told.workspace_limit == limit
        assert max(row.workspace for row in told.rows) <= limit


# --- the floor -------------------------------------------------------------------------------------------------------


def test_the_floor_is_the_longer_of_memory_and_arithmetic(monkeypatch):
    monkeypatch.setattr(floor, "gemm_rate", lambda dtype: 2.0)
    fastconv.set_num_threads(2)
    for bandwidth, longer in ((1e-3, "memory"), (1e6, "arithmetic")):
        monkeypatch.setattr(floor, "copy_rate", lambda bandwidth=bandwidth: bandwidth)
        told = by_pass(fastconv.explain(small_net(), (2, 2, 6, 5)))
        for key, flops in ((("3.body", "dx"), 2 * 2 * 4 * 30 * 4 * 9), (("6", "backward"), 2 * 2 * 2 * 120 * 3)):
            row = told[key]
            least = {"memory": row.moved / bandwidth / 1e6, "arithmetic": flops / 2.0 / 2 / 1e6}
            assert row.floor == pytest.approx(max(least.values())) == pytest.approx(least[longer])
            assert row.floor_share == pytest.approx(row.floor / row.milliseconds)
        assert told["3.body", "other"].floor is None


def test_the_floor_of_spans_is_that_of_their_rows():
    told = fastconv.explain(small_net(), (2, 2, 6, 5))
    assert sum(span.floor for span in told.spans) == pytest.approx(sum(row.floor or 0 for row in told.rows))


def test_the_rate_of_a_copy_is_measured_once():
    rate = floor.copy_rate()
    assert 0.1 < rate < 1e4  # GB/s
    assert floor.copy_rate() == rate


# --- the table -------------------------------------------------------------------------------------------------------


def test_it_prints_a_table():
    told = fastconv.explain(small_net(), (2, 2, 6, 5))
    head, rates, _, layer, names, rule, *lines = str(told).splitlines()
    assert head.startswith("input 2x2x6x5 float32, a training step on ")
    assert "workspace limit" in rates
    assert layer.split() == ["layer", "kind", "output"]
    assert names.split() == [*explanation.HEAD]
    assert set(rule) == {"-", " "}
    assert len(lines) == len(told.rows) + len(directions(told)) + 1
    first = told.rows[0]
    assert lines[0].split() == [first.layer, first.kind, "2x4x6x5"]
    assert lines[1].split()[0] == "forward"
    assert lines[-1].startswith("sum ")
    data = json.loads(json.dumps(told.as_dict()))
    assert data["rows"][0]["layer"] == first.layer
    assert data["rows"][0]["moved"] == told.rows[0].moved
    assert data["spans"][0]["phase"] == "forward"


@pytest.mark.parametrize(
    ("net", "shape"), [("lenet5", (64, 1, 28, 28)), ("resnet20", (8, 3, 32, 32)), ("mobilenet", (1, 3, 64, 64))]
)
def test_the_table_fits_a_page(net, shape):
    told = fastconv.explain(models.build(net, shape[1:], 10, rng=0), shape)
    assert max(map(len, str(told).splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((models.lenet5(), (1, 3, 28, 28)), fastconv.ShapeError, "as many channels as x has"),
        ((models.lenet5(), (1, 0, 28, 28)), fastconv.ShapeError, "input_shape must be at least 1, got 0"),
        ((models.lenet5(), (1, 1.5, 28, 28)), TypeError, "input_shape must be an integer"),
        ((functional.conv2d, (1, 3, 28, 28)), TypeError, "explain: net must be a layer or a net"),
    ],
)
def test_what_it_refuses(arguments, error, match):
    with pytest.raises(error, match=match):
        fastconv.explain(*arguments)
