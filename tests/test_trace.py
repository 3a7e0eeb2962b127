"""What FASTCONV_TRACE and `explain` tell: each pass, its shapes, FLOPs and scratch memory; and that nothing changes."""

import json
import os
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import fastconv
from fastconv import functional, models, vjp
from fastconv.analysis import explain as explanation
from fastconv.engine import ALGORITHMS, trace
from fastconv.lab.shapes import ConvShape, conv_case
from fastconv.machine import memory

NAMES = set(ALGORITHMS) - {"auto"}
SHAPES = [
    ConvShape("1-D", 2, 3, (50,), 4, (3,), stride=2, padding=1),
    ConvShape("2-D", 2, 4, (9, 12), 6, (3, 2), padding=1, groups=2),
    ConvShape("3-D", 2, 2, (4, 5, 6), 3, (3, 2, 1)),
    ConvShape("1-D", 2, 4, (20,), 6, (4,), stride=2, transposed=True, groups=2),
    ConvShape("2-D", 2, 4, (5, 7), 6, (4, 4), stride=2, padding=1, transposed=True),
]


def heard(call):
    """The passes of call()."""
    found = []
    with trace.listening(found.append):
        call()
    return found


def step(shape, dtype=np.float32):
    """Both passes of a layer."""
    x, w = (array.astype(dtype) for array in conv_case(shape).arrays())

    def call():
        y, pullback = vjp(getattr(functional, shape.op), x, w, **shape.options)
        pullback(y)

    return call


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.op)
def test_every_pass_is_told(shape):
    passes = heard(step(shape, np.float64))
    assert [found.direction for found in passes] == ["forward", "dx", "dw"]
    for found in passes:
        assert found.op == shape.op
        assert found.algorithm in NAMES
        assert found.dtype == np.float64
        assert found.x_shape == shape.x_shape
        assert found.y_shape == shape.y_shape
        assert found.flops == shape.flops()
        assert found.seconds > 0
        assert (found.workspace > 0) == (found.algorithm != "depthwise" or found.direction == "dw")
        assert found.workspace < 1 << 20
    step(shape)()  # nobody listens any more
    assert len(passes) == 3


def test_the_result_is_no_workspace():
    shape = ConvShape("2-D", 1, 16, (200, 200), 16, (1, 1))
    result = 4 * 16 * 200 * 200
    for found in heard(step(shape)):
        assert found.workspace < result, found.direction


def test_allocations_are_counted():
    before = memory.borrowed()
    array = memory.allocate("op", (10, 10), np.dtype(np.float64))
    assert memory.borrowed() - before == array.nbytes


def test_a_rational_stride_is_told_by_its_phases():
    x, w = np.ones((1, 2, 6, 6), np.float32), np.ones((3, 2, 3, 3), np.float32)
    passes = heard(lambda: functional.conv2d(x, w, padding=1, stride=Fraction(3, 2)))
    assert len(passes) == 4
    assert {found.w_shape[2:] for found in passes} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    (one,) = heard(lambda: functional.conv2d(x, w, padding=1, stride=Fraction(1, 2)))  # of the convolution across
    assert one.direction == "dx"


def test_a_listener_that_fails_stops_listening():
    def failing(found):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), trace.listening(failing):
        step(SHAPES[0])()
    step(SHAPES[0])()


LINE = re.compile(
    r"fastconv: conv2d (forward|dx|dw) x 2x4x9x12 w 6x2x3x2 y 2x6x9x13 float32: \w+, workspace [\d,]+ bytes, "
    r"[\d.]+ ms, [\d.]+ GFLOP/s, \d+ % of GEMM"
)


@pytest.mark.parametrize(("value", "lines"), [("1", 3), ("0", 0), ("", 0)])
def test_the_environment_variable(value, lines):
    code = (
        "import numpy as np; from fastconv import functional, vjp\n"
        "y, pullback = vjp(functional.conv2d, np.ones((2, 4, 9, 12), 'f4'), np.ones((6, 2, 3, 2), 'f4'), padding=1,"
        " groups=2); pullback(y)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FASTCONV_TRACE": value}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == ""
    found = done.stderr.splitlines()
    assert len(found) == lines
    assert all(LINE.fullmatch(line) for line in found)


def test_the_machines_rate_is_measured_once():
    rate = trace.gemm_rate("float32")
    assert rate > 0
    assert trace.gemm_rate("float32") == rate
    found = heard(step(SHAPES[1]))[0]
    fastconv.set_num_threads(2)
    half = found.share
    fastconv.set_num_threads(1)
    assert found.share == pytest.approx(2 * half)
    assert found.share == pytest.approx(found.gflops / rate)


# --- explain ---------------------------------------------------------------------------------------------------------


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


def test_explain_has_a_row_for_every_pass():
    told = fastconv.explain(small_net(), (2, 2, 6, 5))
    found = {(row.layer, row.direction): row for row in told.rows}
    assert len(found) == len(told.rows)
    convolution = ["forward", "dx", "dw", "other"]
    others = ["forward", "backward"]
    expected = {"0": ["forward", "dw", "other"], "1": others, "2": others, "3": others, "3.body": convolution}
    expected |= {"4": others, "5": others, "6": others}
    assert list(found) == [(name, direction) for name, directions in expected.items() for direction in directions]
    row = found["3.body", "dx"]
    assert (row.kind, row.output_shape) == ("Conv2d", (2, 4, 6, 5))
    assert row.algorithm in NAMES
    assert row.workspace > 0
    assert row.gflops == pytest.approx(2 * 2 * 4 * 6 * 5 * 4 * 9 / row.milliseconds / 1e6)
    assert row.share == pytest.approx(row.gflops / told.gemm / told.threads)
    assert found["6", "forward"].algorithm is None
    assert all(row.milliseconds > 0 for row in told.rows if row.direction != "other")


def test_explain_prints_a_table():
    told = fastconv.explain(small_net(), (2, 2, 6, 5))
    head, _, names, rule, *lines = str(told).splitlines()
    assert head.startswith("input 2x2x6x5 float32, a training step on ")
    assert names.split() == ["layer", "output", "pass", "algorithm", "workspace", "ms", "GFLOP/s", "of", "GEMM"]
    assert set(rule) == {"-", " "}
    assert len(lines) == len(told.rows) + 1
    assert lines[0].split()[:4] == ["0", "Conv2d", "2x4x6x5", "forward"]
    assert lines[-1].startswith("sum")
    assert json.loads(json.dumps(told.as_dict()))["rows"][0]["layer"] == "0"


def test_explain_leaves_the_net_alone():
    net = small_net().eval()
    before, draws = net.state_dict(), fastconv.random.default_generator().bit_generator.state
    fastconv.explain(net, (2, 2, 6, 5))
    assert not net.training
    assert fastconv.random.default_generator().bit_generator.state == draws
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert "forward" not in vars(net)
    assert "forward" not in vars(net[0])


def test_explain_a_single_layer_and_a_shared_one():
    told = fastconv.explain(fastconv.ConvTranspose1d(3, 4, 4, stride=2).astype(np.float64), (2, 3, 10))
    assert told.dtype == "float64"
    assert [(row.layer, row.direction) for row in told.rows] == [("", "forward"), ("", "dw"), ("", "other")]
    shared = fastconv.Conv1d(3, 3, 3, padding=1)
    once = fastconv.explain(fastconv.Sequential(shared, fastconv.ReLU()), (2, 3, 10))
    twice = fastconv.explain(fastconv.Sequential(shared, fastconv.ReLU(), shared), (2, 3, 10))
    assert [row.layer for row in twice.rows].count("0") == 4  # one dx, of its second call
    work = [sum(r.gflops * r.milliseconds for r in told.rows if r.direction == "dw") for told in (once, twice)]
    assert work[1] == pytest.approx(2 * work[0])


@pytest.mark.parametrize("net", ["lenet5", "mnist_cnn", "vgg_cifar"])
def test_workspace_stays_under_the_limit(net):
    image = (3, 32, 32) if net == "vgg_cifar" else (1, 28, 28)
    for limit in (64 << 20, 8 << 20):
        fastconv.set_workspace_limit(limit)
        told = fastconv.explain(models.build(net, image, 10, rng=0), (4, *image))
        assert told.workspace_limit == limit
        assert max(row.workspace for row in told.rows) <= limit


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((models.lenet5(), (1, 3, 28, 28)), fastconv.ShapeError, "as many channels as x has"),
        ((models.lenet5(), (1, 0, 28, 28)), fastconv.ShapeError, "input_shape must be at least 1, got 0"),
        ((models.lenet5(), (1, 1.5, 28, 28)), TypeError, "input_shape must be an integer"),
        ((functional.conv2d, (1, 3, 28, 28)), TypeError, "explain: net must be a layer or a net"),
    ],
)
def test_explain_refuses(arguments, error, match):
    with pytest.raises(error, match=match):
        fastconv.explain(*arguments)
