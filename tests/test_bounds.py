"""Arguments far larger than the data: what they ask for is clipped, or refused before the work.

Memory is taken for small, so that what grows with an argument is refused here, results and scratch alike.
"""

from fractions import Fraction

import numpy as np
import pytest

import fastconv
from fastconv import analysis, engine, functional, reference, vjp
from fastconv.engine.contract import Problem, fewest
from fastconv.engine.phases import phases
from fastconv.machine import memory
from fastconv.window import Window

HUGE = [2**20, 2**31, 10**12, 2**40, 2**63, 10**30]
MEMORY = 8 << 20  # bytes that this process may use; less than that is never refused
ERRORS = (fastconv.ShapeError, ValueError, MemoryError)
each_huge = pytest.mark.parametrize("huge", HUGE, ids="{:.0e}".format)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: MEMORY)
    monkeypatch.setattr(memory, "UNCHECKED", MEMORY)
    monkeypatch.setattr(memory.allocate, "unchecked", MEMORY)
    monkeypatch.setattr("fastconv._ext.memory.cached", lambda: 0)


def integers(*shape):
    return np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)


def calls(op, v):
    """(arguments, options) with one argument, or several that belong together, of size v."""
    axes = int(op[-2]) if op[-2:] in ("1d", "2d", "3d") else 2
    spatial = (5, 4, 3)[:axes]
    x, one = integers(1, 2, *spatial), integers(1, 2, *(1,) * axes)
    others = (v, (v, *(1,) * (axes - 1)), (*(1,) * (axes - 1), v))
    if op.startswith("conv_transpose"):
        w = integers(2, 2, *(3,) * axes)
        for array in (x, one):
            for value in others:
                for name in ("stride", "padding", "dilation", "output_padding", "output_size", "groups"):
                    yield (array, w), {name: value}
                yield (array, w), {"dilation": value, "padding": value}
                yield (array, w), {"stride": value, "padding": value}
    elif op.startswith("conv"):
        for taps in (1, 2, 3):
            w = integers(2, 2, *(taps,) * axes)
            for value in others:
                for name in ("stride", "padding", "dilation", "groups"):
                    yield (x, w), {name: value}
                yield (x, w), {"padding": value, "stride": value}
                yield (x, w), {"padding": value, "dilation": value}
                yield (x, w), {"padding": "same", "dilation": value}
                yield (x, w), {"padding": "same", "stride": value, "dilation": value}
            for stride in (Fraction(1, v), Fraction(3, v), Fraction(v, 3), Fraction(v, v + 1)):
                for array in (x, one):
                    yield (array, w), {"stride": stride, "padding": 1}
                    yield (array, w), {"stride": stride, "padding": "same", "dilation": v}
    elif "adaptive" in op:
        yield from (((x, value), {}) for value in others)
    elif "unpool" in op:
        indices = np.zeros(x.shape, np.int64)
        for value in others:
            yield (x, indices, value), {}
            yield (x, indices, 2), {"stride": value}
            yield (x, indices, 2), {"padding": value}
            yield (x, indices, 2), {"output_size": value}
            yield (x, indices, v), {"padding": v // 2, "stride": 1}
    elif "pool" in op:
        front = (2,) if op.startswith("lp") else (lambda windows: windows.sum(axis=-1),) if "function" in op else ()
        rounding = [{}] if "function" in op else [{}, {"ceil_mode": True}]
        for more in rounding:
            for value in others:
                yield (x, *front, value), more
                yield (x, *front, value), {**more, "stride": 1}
                yield (x, *front, 2), {**more, "stride": value}
                yield (x, *front, 2), {**more, "padding": value}
                half = tuple(n // 2 for n in value) if isinstance(value, tuple) else value // 2
                yield (x, *front, value), {**more, "padding": half}
                yield (x, *front, value), {**more, "padding": half, "stride": value}
                if op.startswith("max"):
                    yield (x, 2), {**more, "dilation": value}
                    yield (x, 2), {**more, "dilation": value, "padding": 1}
    elif op == "locally_connected2d":
        w = integers(2, 2, 1, 1, *spatial)
        yield from (((x, w), {name: value}) for value in others for name in ("stride", "padding", "dilation"))
        yield from (((integers(1, 2, 2, 2), integers(1, 2, 2, 2, 1, 1)), {"stride": value}) for value in others)
    elif op in ("downsample", "upsample"):
        for array in (x, one):
            for value in others:
                yield (array, value), {}
                yield (array, value), {"phase" if op == "downsample" else "output_size": value}
    elif op == "resize":
        for array in (x, one):
            for mode in ("nearest", "linear", "cubic"):
                yield from (((array,), {"size": value, "mode": mode}) for value in others)
                yield from (((array,), {"scale": scale, "mode": mode}) for scale in (float(v), 1 / v))
    else:
        assert op == "local_response_norm"
        yield (x, v), {}
        yield (x, v), {"alpha": float(v)}


OPERATIONS = [
    *(f"{name}{axes}d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool", "adaptive_avg_pool",
      "adaptive_max_pool", "max_unpool") for axes in (1, 2, 3)),
    "function_pool2d", "locally_connected2d", "downsample", "upsample", "resize", "local_response_norm",
]  # fmt: skip


def outcome(function, arguments, options):
    """y and the gradients, or the error."""
    try:
        y, pullback = vjp(function, *arguments, **options)
        dy = (np.arange(y.size) % 5 - 2).reshape(y.shape).astype(y.dtype)
        return [y, *(gradient for gradient in pullback(dy) if gradient is not None)]
    except ERRORS as error:
        assert "\n" not in str(error)
        return error


@each_huge
@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.filterwarnings("ignore:function_pool2d", "ignore:overflow")
def test_equals_the_reference_or_is_refused(op, huge):
    for arguments, options in calls(op, huge):
        found = outcome(getattr(functional, op), arguments, options)
        expected = outcome(getattr(reference, op), arguments, options)
        if isinstance(found, list) and isinstance(expected, list):
            for one, two in zip(found, expected, strict=True):
                scale = max(1, np.abs(two).max(initial=0))
                np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * scale, err_msg=f"{op} {options}")
        elif isinstance(expected, list):
            assert isinstance(found, MemoryError)  # the naive loops need no array for what they count
        elif isinstance(found, list):
            assert isinstance(expected, MemoryError)  # Python's lists


@pytest.mark.parametrize("huge", [2**20, 2**31, 10**12, 2**40])
@pytest.mark.parametrize("direction", ["conv2d", "conv_transpose2d"])
def test_a_dilation_needs_no_memory(direction, huge):
    """The window spans far more than there is: only its middle tap meets the input."""
    x, w = integers(1, 2, 4, 4), integers(2, 2, 3, 3)
    found = outcome(getattr(functional, direction), (x, w), {"dilation": huge, "padding": huge})
    centre = outcome(getattr(functional, direction), (x, w[:, :, 1:2, 1:2]), {})
    np.testing.assert_array_equal(found[0], centre[0])
    np.testing.assert_array_equal(found[1], centre[1])
    np.testing.assert_array_equal(found[2][:, :, 1:2, 1:2], centre[2])


def test_phases_are_as_many_as_taps():
    huge = 10**12
    found = phases(Window((1, 1, 3), (1, 1, 1), ((0, 0), (0, 0), (1, 1)), (1, 1, 1), (1, 1, huge)), (1, 1, 4 * huge))
    assert len(found) == 3
    assert [part.first[2] for part in found] == [0, 1, huge - 1]


@pytest.mark.parametrize("size", [7, 100, 10**12])
def test_local_response_norm_counts_no_channel_twice(size):
    """A window past the channels is all of them; alpha is divided by its full size."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    expected = x / (1 + 5 * size / size * np.square(x).sum(axis=1, keepdims=True)) ** 0.75
    for module in (functional, reference):
        y = module.local_response_norm(x, size, alpha=5.0 * size)
        np.testing.assert_allclose(y, expected, rtol=1e-6 if size < 10**9 else 1e-5)


def test_average_pools_count_padding_in_64_bits():
    x = integers(1, 1, 3, 3, 3)
    for size in (2**15, 2**20):
        y = functional.avg_pool3d(x, size, padding=size // 2 - 1, ceil_mode=True)
        assert np.isfinite(y).all()
        np.testing.assert_allclose(y[0, 0, 0, 0, 0] * float(size) ** 3, x.sum(), rtol=1e-6)
    with pytest.raises(fastconv.ShapeError, match=r"^avg_pool3d: a window must have less than \d+ taps in the padded"):
        functional.avg_pool3d(x, 2**40, padding=2**39)


LAYERS = [
    *(
        lambda v, layer=layer, name=name: getattr(fastconv, layer)(1, 1, 3, **{name: v})
        for layer in ("Conv1d", "ConvTranspose1d")
        for name in ("stride", "padding", "dilation")
    ),
    lambda v: fastconv.Conv1d(1, 1, 3, stride=Fraction(1, v)), lambda v: fastconv.Conv1d(1, 1, v),
    lambda v: fastconv.Conv1d(1, v, 3), lambda v: fastconv.MaxPool1d(v), lambda v: fastconv.MaxPool1d(2, v),
    lambda v: fastconv.AvgPool1d(v, padding=v // 2), lambda v: fastconv.AdaptiveAvgPool1d(v),
    lambda v: fastconv.Downsample(v), lambda v: fastconv.Upsample(v), lambda v: fastconv.Resize(size=v),
    lambda v: fastconv.LocalResponseNorm(v),
]  # fmt: skip


@each_huge
@pytest.mark.parametrize("make", LAYERS)
def test_layers_and_what_is_said_of_them(make, huge):
    """Making, running and analysing end: with an answer, or one line of refusal."""
    x = integers(1, 1, 6)
    for look in (
        lambda net: net(x),
        lambda net: analysis.output_shape(net, x.shape),
        lambda net: analysis.receptive_field(net, x.shape),
        lambda net: str(net.summary(x.shape)),
    ):
        try:
            look(fastconv.Sequential(make(huge)))
        except ERRORS as error:
            assert "\n" not in str(error)


def test_receptive_fields_of_many_different_outputs():
    shape = (1, 1, 6)
    transposed = fastconv.Sequential(fastconv.ConvTranspose1d(1, 1, 3, stride=2**13, padding=1))
    assert analysis.receptive_field(transposed, shape) == ((1,), (Fraction(1, 2**13),), (0,))
    adaptive = fastconv.Sequential(fastconv.AdaptiveAvgPool1d(2**16 + 1))
    assert analysis.receptive_field(adaptive, shape) == ((2,), (Fraction(6, 2**16 + 1),), (0,))


def test_infer_padding_refuses_before_it_counts():
    with pytest.raises(MemoryError):
        analysis.infer_padding(10, 5, 3, stride=2**40, all=True)


def test_a_scanner_refuses_strides_beyond_what_it_tries():
    net = fastconv.Sequential(fastconv.Conv2d(1, 1, 1, stride=10**6), fastconv.Flatten(), fastconv.Linear(1, 2))
    with pytest.raises(ValueError, match=r"cannot slide: its stride must be at most 4096, got 1000000$"):
        analysis.to_scanner(net, (1, 5, 5))


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (16, 4), (3, 1)])
def test_planning_takes_no_step_an_output(channels, groups):
    """Of a line of 2**40 outputs, which nobody has memory for: every direction is planned at once."""
    window = Window.parse("conv1d", (5,), (2,), 1, 2**40, 2**38).lift()
    outputs = window.output((1, 1, 5))
    for direction in ("forward", "gradient_input", "gradient_weights"):
        problem = Problem(1, channels, (1, 1, 5), 16, outputs, window, groups, np.dtype(np.float32))
        for algorithm in (engine.narrow, engine.planar, engine.direct, engine.grouped, engine.winograd):
            assert algorithm.cost(direction, problem) > 0
        assert engine.plan(direction, problem).algorithm


def test_the_fewest_pieces_that_fit():
    for high in (1, 2, 7, 100):
        for least in range(1, high + 5):
            assert fewest(1, high, lambda count, least=least: count >= least) == min(least, high)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 30, "stride": 7},
        {"padding": ((30, 2), (0, 0)), "stride": (9, 1)},
        {"padding": 20, "dilation": 20, "stride": 5},  # two windows see one element, and nobody the gaps
        {"padding": (1, 20), "dilation": (1, 8), "stride": (2, 5)},
        {"stride": 4},
    ],
)
def test_locally_connected_layers_hold_what_windows_see(options):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 3, 6, 7)).astype(np.float32)
    window = Window.parse("locally_connected2d", (6, 7), (3, 2), **options)
    w = rng.integers(-3, 4, (2, 3, 3, 2, *window.output((6, 7)))).astype(np.float32)
    y, pullback = vjp(functional.locally_connected2d, x, w, **options)
    dy = rng.integers(-3, 4, y.shape).astype(np.float32)
    expected, naive = vjp(reference.locally_connected2d, x, w, **options)
    for one, two in zip([y, *pullback(dy)], [expected, *naive(dy)], strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_locally_connected_layer_of_vast_padding_takes_what_its_weights_take(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)
    layer = fastconv.LocallyConnected2d(1, 1, 3, 3, stride=10**6, padding=10**6, rng=0)
    assert layer(np.ones((64, 1, 4, 4), np.float32)).shape == (64, 1, 3, 3)
