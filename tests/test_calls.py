"""A call like one seen before: what it costs in Python, what is kept of it, and that what has changed is seen."""

from __future__ import annotations

import sys
import threading
from fractions import Fraction

import numpy as np
import pytest

import fastconv as fc
from fastconv import engine, functional
from fastconv._ext import activation, calls, layout, norm
from fastconv._ext.conv import narrow
from fastconv.arrays import as_floats, memoised
from fastconv.engine.precision import precision
from fastconv.engine.trace import listening
from fastconv.layers.base import Context
from fastconv.ops import conv
from fastconv.ops.common import copied
from fastconv.window import Window

# --- Python's share ---------------------------------------------------------------------------------------------------


def counted(call):
    """Frames and C calls of `call`, its own frame among them."""
    events = {"call": 0, "c_call": 0}

    def count(frame, event, argument):
        if event in events:
            events[event] += 1

    for _ in range(3):
        call()
    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return events["call"], events["c_call"] - 1  # the last is setprofile's


IMAGE, LINE, VOLUME = (1, 16, 8, 8), (1, 16, 8), (1, 8, 4, 4, 4)
LAYERS = {  # layer, the input's shape; frames and C calls at most, of a call in training and of its backward pass
    "Conv2d": (fc.Conv2d(16, 16, 3, padding=1, rng=0), IMAGE, (20, 12), (30, 16)),
    "Conv2d, strided": (fc.Conv2d(16, 16, 3, stride=2, rng=0), IMAGE, (20, 12), (32, 16)),
    "Conv1d": (fc.Conv1d(16, 16, 3, rng=0), LINE, (20, 12), (30, 16)),
    "Conv3d": (fc.Conv3d(8, 8, 3, padding=1, rng=0), VOLUME, (20, 12), (30, 16)),
    "ConvTranspose2d": (fc.ConvTranspose2d(16, 16, 2, stride=2, rng=0), IMAGE, (24, 18), (24, 12)),
    "Linear": (fc.Linear(64, 16, rng=0), (4, 64), (20, 10), (28, 24)),
    "ReLU": (fc.ReLU(), IMAGE, (12, 2), (10, 2)),
    "GELU": (fc.GELU(), IMAGE, (11, 2), (10, 2)),
    "PReLU": (fc.PReLU(16), IMAGE, (18, 10), (20, 18)),
    "Softmax": (fc.Softmax(), (4, 10), (14, 8), (11, 6)),
    "BatchNorm2d": (fc.BatchNorm2d(16), IMAGE, (26, 8), (36, 32)),
    "GroupNorm": (fc.GroupNorm(4, 16), IMAGE, (36, 36), (48, 56)),
    "LayerNorm": (fc.LayerNorm((16, 8, 8)), IMAGE, (14, 10), (19, 19)),
    "MaxPool2d": (fc.MaxPool2d(2), IMAGE, (17, 9), (12, 7)),
    "AvgPool2d": (fc.AvgPool2d(2), IMAGE, (17, 8), (14, 10)),
    "AdaptiveAvgPool2d": (fc.AdaptiveAvgPool2d(1), IMAGE, (17, 8), (14, 10)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_python_does_little_of_a_call_seen_before(name):
    layer, shape, forward, backward = LAYERS[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y, saved = layer.forward(x, Context(training=True))
    dy = np.ones_like(y)
    for most, found in (
        (forward, counted(lambda: layer(x))),
        (backward, counted(lambda: layer.backward(dy, saved, True))),
    ):
        assert found[0] <= most[0], found
        assert found[1] <= most[1], found


# --- what is kept -----------------------------------------------------------------------------------------------------


def echo(most=4):
    """A memoised function, and the calls that it worked out."""
    seen = []

    @memoised("x", most=most)
    def function(op, x, *options):
        if "wrong" in options:
            raise fc.ShapeError(f"{op}: wrong")
        seen.append((x.shape, x.strides, x.dtype, options))
        return len(seen)

    return function, seen


def test_the_layout_counts_and_no_element_does():
    function, seen = echo()
    x = np.zeros((2, 3, 4), np.float32)
    assert function("op", x) == (x, 1)
    assert function("op", x + 1)[1] == 1
    for other in (x[:1], x.astype(np.float64), x.transpose(0, 2, 1), x[:, :, ::2], x[::-1]):
        assert function("op", other)[1] == len(seen)
        assert function("op", other.copy(order="K"))[1] <= len(seen)
    read_only = x.copy()
    read_only.flags.writeable = False
    before = len(seen)
    assert function("op", read_only)[1] == before + 1
    assert function("other", x)[1] == before + 2


@pytest.mark.parametrize(
    "one, other",
    [(1, 1.0), (1, True), (1, Fraction(1, 1)), ((1, 2), (1, 2.0)), ("1", 1), (None, 0), ((1, (2,)), ((1, 2),)),
     (0.0, -0.0), ("ab", ("a", "b")), (2**70, 2**71), ("é", "e")],
)  # fmt: skip
def test_types_count(one, other):
    function, _ = echo()
    x = np.zeros(2, np.float32)
    first, second = function("op", x, one)[1], function("op", x, other)[1]
    assert first != second
    if one != 2**70:  # beyond 64 bits nothing is kept
        assert function("op", x, one)[1] == first
        assert function("op", x, other)[1] == second


def test_what_has_no_name_is_worked_out_anew():
    function, _ = echo()
    x = np.zeros(2, np.float32)
    for option in ([1], np.int64(1), object(), np.zeros(1), (1, np.zeros(1)), "\ud800", (1, [2]), "long" * 1000):
        assert function("op", x, option)[1] != function("op", x, option)[1]


def test_the_door_stands_before():
    """Whatever as_floats changes comes out changed, and the answer is that for the changed array."""
    function, _ = echo()
    raw = np.zeros(17, np.uint8)
    misaligned, swapped = raw[1:].view(np.float32), np.zeros(4, ">f4")
    for given in ([0.0] * 4, np.zeros(4, np.int8), np.zeros(4, np.float16), misaligned, swapped):
        x, answer = function("op", given)
        assert type(x) is np.ndarray
        assert x.dtype == np.float32 and x.dtype.isnative and x.flags.aligned
        assert answer == 1
    with pytest.raises(TypeError, match="op: x must hold real numbers"):
        function("op", np.zeros(4, complex))
    for _ in range(2):
        with pytest.raises(fc.ShapeError, match="op: wrong"):
            function("op", np.zeros(4, np.float32), "wrong")


def test_the_latest_answers_are_kept():
    function, _ = echo(most=4)
    arrays = [np.zeros(n, np.float32) for n in range(1, 7)]
    answers = [function("op", x)[1] for x in arrays]
    assert [function("op", x)[1] for x in arrays[2:]] == answers[2:]
    assert function("op", arrays[0])[1] == 7
    function.cache_clear()
    assert function("op", arrays[5])[1] == 8


def test_many_threads_ask_at_once():
    function, _ = echo(most=3)
    failures = []

    def ask(seed):
        rng = np.random.default_rng(seed)
        for n in rng.integers(1, 9, 2000).tolist():
            x, answer = function("op", np.zeros(n, np.float32), n)
            if len(x) != n or not isinstance(answer, int):
                failures.append(n)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_no_reference_is_kept_or_lost():
    function = calls.Memoised(lambda op, x: "answer", ("x",), as_floats, 4)
    x = np.zeros(3, np.float32)
    before = sys.getrefcount(x)
    for _ in range(10):
        function("op", x)
    assert sys.getrefcount(x) == before


# --- what has changed is seen -----------------------------------------------------------------------------------------


def test_weights_that_change_are_seen():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    layer = fc.Conv2d(3, 4, 3, padding=1, rng=0)
    first = layer(x)
    layer.weight[...] *= 2
    layer.bias[...] *= 2
    np.testing.assert_allclose(layer(x), 2 * first, rtol=1e-6, atol=1e-6)
    layer.weight, layer.bias = np.ascontiguousarray(layer.weight[:2]), None
    expected = functional.conv2d(x, layer.weight, padding=1)
    np.testing.assert_array_equal(layer(x), expected)
    assert layer.astype(np.float64)(x).dtype == np.float64
    layer.weight = layer.weight[:, :2]
    with pytest.raises(fc.ShapeError, match="conv2d: w must have as many channels as x has per group"):
        layer(x)


def test_attributes_that_change_are_seen():
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    dropout = fc.Dropout(0.5)
    dropout(x)
    dropout.p = 0.0
    np.testing.assert_array_equal(dropout(x), x)
    norm = fc.BatchNorm2d(3)
    norm(x)
    norm.momentum = 1.0
    norm(x)
    np.testing.assert_allclose(norm.running_mean, x.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    norm.eps = 1e6
    assert np.abs(norm(x)).max() < 0.01
    norm.running_mean.flags.writeable = False
    with pytest.raises(ValueError, match="batch_norm: running_mean is updated in place and must not be read-only"):
        norm(x)
    norm.running_mean = norm.running_mean.tolist()
    with pytest.raises(TypeError, match="batch_norm: running_mean is updated in place and must be an array of floats"):
        norm(x)
    norm.eval()
    norm.running_mean = np.zeros(3, np.float32)
    norm.running_var, norm.eps = np.ones(3, np.float32), 0.0
    np.testing.assert_allclose(norm(x), x, rtol=1e-6)

    class Doubling(fc.Conv2d):
        def options(self, context):
            return {**super().options(context), "stride": self.steps}

    layer = Doubling(3, 2, 1, rng=0)
    for layer.steps in (1, 2, 3):
        assert layer(x).shape[2] == -(-5 // layer.steps)


def test_the_precision_is_seen():
    x, w, heard = np.zeros((1, 16, 16, 16), np.float32), np.ones((16, 16, 3, 3), np.float32), []
    with listening(heard.append):
        functional.conv2d(x, w)
        with precision("strict"):
            functional.conv2d(x, w)
        functional.conv2d(x, w)
    fast, strict, again = (found.algorithm for found in heard)
    assert (fast, again) == ("winograd", "winograd")
    assert strict != "winograd"


def test_the_workspace_limit_is_seen():
    """By a backward pass too: each is planned for the limit that holds."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((8, 16, 20, 20)), rng.standard_normal((16, 16, 3, 3))
    y, pullback = fc.vjp(functional.conv2d, x, w, algorithm="im2col")
    dy = rng.standard_normal(y.shape)

    def workspace():
        heard = []
        with listening(heard.append):
            functional.conv2d(x, w, algorithm="im2col")
            pullback(dy)
        return [found.workspace for found in heard]

    usual = workspace()
    fc.set_workspace_limit(1 << 16)
    assert all(small < large for small, large in zip(workspace(), usual, strict=True))
    fc.set_workspace_limit(64 << 20)
    assert workspace() == usual
    for limit in range(1 << 20, 3 << 20, 1 << 16):
        fc.set_workspace_limit(limit)
        pullback(dy)
    *_, call = conv.plan("conv2d", x, w, None, 1, 0, 1, 1, "im2col", "fast")
    assert len(call.whole._plans) <= engine.MOST_PLANS


# --- kernels that take bare memory ------------------------------------------------------------------------------------


def bare_calls():
    """Calls of each kernel: (function, arguments, the places of arrays that do not say the size themselves)."""
    x, c = np.ones((6, 4), np.float32), np.ones(4, np.float32)
    statistics, coefficients, sums = np.ones((3, 1, 4)), np.ones((3, 1, 16), np.float32), np.ones((1, 1, 2, 16))
    window = Window((1, 1, 3), (1, 1, 1), ((0, 0), (0, 0), (0, 0)), (1, 1, 1), (1, 1, 1))
    geometry = narrow.geometry((1, 1, 1, 6, 2), (1, 1, 1, 4, 8), window, (1, 1), 16)
    at = np.empty(7, np.intp)
    narrow.offsets(geometry, at)
    room, _, packed, _ = narrow.room(geometry)
    scratch = np.ones(narrow.LINE_FLOATS + packed + room, np.float32)
    image, w, y = (np.ones(shape, np.float32) for shape in ((1, 1, 1, 6, 2), (8, 1, 1, 3, 2), (1, 1, 1, 4, 8)))
    return {
        "activate": (activation.activate, (0, x, x.copy(), 0.0, 0.0, 1), (1, 2)),
        "activate_backward": (activation.activate_backward, (0, x, x, x.copy(), 0.0, 0.0, 1), (1, 2, 3)),
        "swap_axes": (layout.swap_axes, (x, x.copy(), 6, 4, 1), (0, 1)),
        "moments": (norm.moments, (x, coefficients, sums, statistics, 1, 64, 1), ()),
        "normalise": (
            norm.normalise,
            (x, x.copy(), statistics, 1e-5, c, c, coefficients, 64, 1, True, x),
            (0, 1, 4, 5, 10),
        ),
        "update_running": (norm.update_running, (c, statistics, 0, 1.0, 0.1), (0,)),
        "narrow.forward": (
            narrow.forward,
            (geometry, at, image, w, c.repeat(2), y, scratch, 1, False),
            (1, 2, 3, 4, 5),
        ),
    }


@pytest.mark.parametrize("name", bare_calls())
def test_memory_that_does_not_fit_is_refused(name):
    function, given, sized = bare_calls()[name]
    function(*given)
    for place, array in enumerate(given):
        if not isinstance(array, np.ndarray):
            continue
        types = [np.float16, np.longdouble]
        if name != "update_running":  # running statistics may be either type
            types += [np.float32, np.float64]
        wrong = [array.astype(dtype) for dtype in types if np.dtype(dtype).itemsize != array.itemsize]
        wrong += [array.reshape(-1)[1:].copy(), np.append(array, array)] if place in sized else []
        for misfit in wrong:
            with pytest.raises(ValueError, match="one type and size"):
                function(*given[:place], misfit, *given[place + 1 :])


def test_a_gradient_of_another_type_is_refused_where_no_plan_makes_it_fit():
    """What a layer of one's own may send to a layer that it holds."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 6, 6)).astype(np.float32)
    for layer in (fc.BatchNorm2d(8), fc.ConvTranspose2d(8, 3, 3, rng=0), fc.GELU()):
        if layer.parameters():
            layer.freeze()  # only the gradient to x is computed
        y, saved = layer.forward(x, Context(training=False))
        for dtype in (np.float16, np.float64):
            with pytest.raises(ValueError, match="one type and size"):
                layer.backward(np.ones(y.shape, dtype), saved, True)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16, np.int32, np.float64, np.complex128])
def test_copies_of_any_type(dtype):
    x = np.random.default_rng(0).integers(0, 2, (4, 32, 32, 8)).astype(dtype).transpose(0, 3, 1, 2)
    copy = copied("copy", x)
    assert copy.flags.c_contiguous
    np.testing.assert_array_equal(copy, x)
