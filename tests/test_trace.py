"""What FASTCONV_TRACE tells: each pass, its shapes, FLOPs and scratch memory; and that nothing changes."""

import os
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import fastconv
from fastconv import functional, vjp
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
