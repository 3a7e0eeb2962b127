"""What analysis/reach.py says that a layer reads is what its outputs change with; a wrong rule is caught."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from cases import LAYERS as CASES
from cases import LayerCase

import fastconv as fc
from fastconv import analysis
from fastconv.analysis import reach
from fastconv.analysis.reach import RULES
from fastconv.analysis.receptive import Reader, Region
from fastconv.analysis.steps import trace
from fastconv.layers import LAYERS, Context
from fastconv.ops.pad import MODES

NUDGES = (10.0, -10.0, 1.0)  # what a position is changed by: a maximum's winner, either side of a kink


def conv(inputs, outputs, kernel, **options):
    return fc.Conv1d(inputs, outputs, kernel, rng=0, **options)


WEIGHT = np.random.default_rng(1).standard_normal((2, 2, 3))
NETS = {  # containers, and operations that no layer of their own has
    "Sequential": (fc.Sequential(conv(2, 2, 3, stride=2), fc.MaxPool1d(2, 1), fc.Tanh()), (1, 2, 15)),
    "Residual": (fc.Residual(conv(2, 2, 3, padding="same", dilation=2), conv(2, 2, 1)), (1, 2, 11)),
    "Concat": (fc.Concat(conv(2, 1, 3, stride=2), fc.AvgPool1d(3, 2)), (1, 2, 13)),
    "Graph": (
        fc.Graph(
            {
                "a": (conv(2, 2, 3, padding=1), "input"),
                "b": (fc.AvgPool1d(3, 1, 1), "a"),
                "c": ("add", "a", "b"),
                "d": ("a", "c"),
                "e": ("concat", "d", "input"),
            }
        ),
        (1, 2, 14),
    ),
    "Operation in a graph": (
        fc.Graph(
            {
                "a": ("conv1d", "input", WEIGHT, {"padding": 1}),
                "b": ("avg_pool1d", "a", {"kernel_size": 2}),
                "c": (fc.Tanh(), "b"),
            }
        ),
        (1, 2, 12),
    ),
    "Values in a graph": (
        fc.Graph(
            {
                "w": fc.Values(parameters={"weight": WEIGHT}),
                "a": ("conv1d", "input", "w", {"stride": 2}),
                "b": ("mul", "a", "a"),
            }
        ),
        (1, 2, 13),
    ),
    "Sequential with a vector inside": (
        fc.Sequential(
            fc.Flatten(),
            fc.Linear(12, 8, rng=0),
            fc.Tanh(),
            fc.Unflatten(1, (2, 4)),
            conv(2, 2, 3),
            fc.Identity(),
            fc.Reshape(2, 2),
        ),
        (1, 2, 6),
    ),
    "Sequential of pixels": (
        fc.Sequential(
            fc.Conv2d(1, 4, 3, padding=1, rng=0),
            fc.PixelShuffle(2),
            fc.Conv2d(1, 1, 3, rng=0),
            fc.PixelUnshuffle(1),
            fc.AvgPool2d(3, 1),
            fc.PixelUnshuffle(3),
        ),
        (1, 1, 8, 8),
    ),
    "Function": (fc.Function("resize", scale=1.5, mode="linear"), (1, 2, 12)),
    "Function of a scale": (fc.Function("resize", scale=0.7), (1, 2, 20)),
    "Function of windows": (fc.Function("max_pool1d", kernel_size=3, stride=2, padding=1), (1, 2, 12)),
}


def name_of(case):
    return f"{case.name}{case.arguments}{dict(case.options)}"


def made(case):
    return getattr(fc, case.name)(*case.arguments, **case.options)


def read_by_nudging(layer, x_shape):
    """Bool (*y's spatial, *x's spatial): whether an output changes with a position, in any channel; inference mode."""
    rng = np.random.default_rng(0)
    layer, inference = layer.astype(np.float64), Context(training=False)
    x = rng.standard_normal(x_shape)
    before = layer.forward(x, inference)[0]
    ndim = x.ndim - 2
    spatial = before.shape[-ndim:] if before.ndim > ndim + 1 else (1,) * ndim  # the last axes
    before = before.reshape(len(before), -1, *spatial)
    found = np.zeros((*spatial, *x_shape[2:]), bool)
    for position in itertools.product(*map(range, x_shape[2:])):
        for nudge in NUDGES:
            nudged = x.copy()
            nudged[(..., *position)] += nudge * rng.uniform(0.5, 1.5, x.shape[:2])
            change = np.abs(layer.forward(nudged, inference)[0].reshape(before.shape) - before).max(axis=(0, 1))
            found[(..., *position)] |= change > 1e-9
    return found


def read_by_rule(net, x_shape):
    """The same, from the layers' rules."""
    followed = trace("test", net, x_shape)
    reader, last = Reader("test", followed), followed.outputs[""]
    outputs = reader.spatial(last)
    found = np.zeros((*outputs, *x_shape[2:]), bool)
    for neuron in itertools.product(*map(range, outputs)):
        region = reader.follow(last, Region.at(neuron), clip=True)
        found[(*neuron, *(slice(a, b) for a, b in zip(region.origin, region.stop, strict=True)))] = region.mask
    return found


def span(line):
    """The first position that is read, and the one behind the last."""
    return int(line.argmax()), len(line) - int(line[::-1].argmax())


def assert_field(field, read, repeated=False):
    """(size, stride, offset) say how far the regions reach, and where those begin that the border does not cut off.
    `repeated`: by a border that repeats the input they read other places than the field says, which counts on."""
    ndim = len(field.size)
    for axis, (size, stride, offset) in enumerate(zip(*field, strict=True)):
        others = tuple(a for a in range(2 * ndim) if a not in (axis, ndim + axis))
        lines = read.any(axis=others)  # (outputs, positions) along this axis
        n = lines.shape[1]
        if repeated:
            lines = [line for o, line in enumerate(lines) if 0 <= offset + o * stride <= n - size]
            offset += stride * -(offset // stride) if offset < 0 else 0
            assert len(lines)
        spans = [span(line) for line in lines if line.any()]
        assert max((stop - start for start, stop in spans), default=0) == size
        for o in range(0, len(lines), Fraction(stride).denominator):
            if not lines[o].any():
                continue
            first, (start, stop) = offset + o * stride, span(lines[o])
            assert first <= start and stop <= first + size
            assert start == first or first < 0 or first + size > n


def check(net, x_shape):
    read = read_by_nudging(net, x_shape)
    np.testing.assert_array_equal(read_by_rule(net, x_shape), read)
    repeated = getattr(net, "mode", "constant") in MODES[1:] or getattr(net, "padding_mode", "zeros") != "zeros"
    assert_field(analysis.receptive_field(net, x_shape), read, repeated)


SPATIAL = [case for case in CASES if len(case.x_shape) > 2]


def test_every_layer_is_among_the_cases():
    assert {case.name for case in SPATIAL} | {name.split()[0] for name in NETS} == set(LAYERS)


@pytest.mark.parametrize("case", SPATIAL, ids=name_of)
def test_a_layer_reads_what_its_rule_says(case: LayerCase):
    check(made(case), case.x_shape)


@pytest.mark.parametrize("name", NETS)
def test_a_net_reads_what_its_layers_rules_say(name):
    check(*NETS[name])


def test_a_window_that_is_larger_than_its_input():
    net, x_shape = fc.MaxPool1d(4, 3, ceil_mode=True), (1, 2, 2)
    np.testing.assert_array_equal(read_by_rule(net, x_shape), read_by_nudging(net, x_shape))
    assert analysis.receptive_field(net, x_shape) == ((4,), (3,), (0,))


# --- wrong rules are caught ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A map with a mistake in it."""

    taps: reach.Taps
    mistake: str

    @property
    def step(self):
        p, q = self.taps.step
        return (p + 1, q) if self.mistake == "step" else (p, q)

    def read(self, o):
        rows, positions = self.taps.read(o)
        if self.mistake == "later":
            return rows, positions + 1
        if self.mistake == "one too many":
            last = np.flatnonzero(np.diff(np.append(rows, -1)))
            return np.append(rows, rows[last]), np.append(positions, positions[last] + 1)
        if self.mistake == "one too few" and len(rows):
            return rows[1:], positions[1:]
        return rows, positions


MISTAKES = ("later", "one too many", "one too few", "step")


@pytest.mark.parametrize(
    ("op", "mistake"),
    [(op, mistake) for op in sorted(RULES) for mistake in MISTAKES if (op, mistake) != ("flatten", "step")],
)  # one output has no step
def test_a_wrong_rule_is_caught(op, mistake, monkeypatch):
    right = RULES[op]
    monkeypatch.setitem(RULES, op, lambda *arguments: tuple(Wrong(taps, mistake) for taps in right(*arguments)))
    for case in SPATIAL:
        if op in (case.name, getattr(getattr(fc, case.name), "op", None)):
            try:
                check(made(case), case.x_shape)
            except AssertionError:
                return
    pytest.fail(f"no case of {op} tells")
