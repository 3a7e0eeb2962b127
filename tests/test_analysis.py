"""fastconv.analysis: receptive fields against gradients, the chapter's numbers, matrices, scanners, padding."""

import functools
import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import fastconv as fc
from fastconv import analysis
from fastconv import functional as F
from fastconv.analysis import reach

CONV = {1: fc.Conv1d, 2: fc.Conv2d, 3: fc.Conv3d}
TRANSPOSED = {1: fc.ConvTranspose1d, 2: fc.ConvTranspose2d, 3: fc.ConvTranspose3d}
AVG = {1: fc.AvgPool1d, 2: fc.AvgPool2d, 3: fc.AvgPool3d}
ADAPTIVE = {1: fc.AdaptiveAvgPool1d, 2: fc.AdaptiveAvgPool2d, 3: fc.AdaptiveAvgPool3d}


def vgg16(width=1):
    """VGG-16 with 64 // width … 512 // width filters."""
    layers, channels = [], 3
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [fc.Conv2d(channels, filters // width, 3, padding=1, rng=0), fc.ReLU()]
            channels = filters // width
        layers.append(fc.MaxPool2d(2))
    return fc.Sequential(*layers, fc.Flatten(), fc.Linear(channels * 49, 10, rng=0))


def positive(net, seed=0):
    """The net with positive weights that average, in float64 and inference mode: no gradient cancels or fades."""
    net = net.astype(np.float64).eval()
    rng = np.random.default_rng(seed)
    for array in net.parameters().values():
        array[...] = rng.uniform(0.5, 1.5, array.shape) / math.prod(array.shape[1:]) if array.ndim > 1 else 0
    return net


def answers(net, shape, neuron):
    """Which positions of the input have a gradient, by `vjp` of the whole net."""
    x = np.random.default_rng(1).uniform(0.1, 0.2, (1, *shape[1:]))
    y, pullback = fc.vjp(net, x)
    dy = np.zeros_like(y)
    dy[(0, slice(None), *neuron)] = np.random.default_rng(2).uniform(0.5, 1.5, y.shape[1])
    return (pullback(dy)[0][0] != 0).any(axis=0)


def box(mask):
    if not mask.any():
        return (slice(0, 0),) * mask.ndim
    inside = np.nonzero(mask)
    return tuple(slice(int(i.min()), int(i.max()) + 1) for i in inside)


def set_of(net, shape, neuron):
    """The set itself, which `input_region` bounds."""
    found = analysis.steps.trace("test", net, shape)
    region = analysis.receptive.Reader("test", found).follow(
        found.outputs[""], analysis.receptive.Region.at(neuron), clip=True
    )
    mask = np.zeros(shape[2:], bool)
    mask[tuple(slice(a, b) for a, b in zip(region.origin, region.stop, strict=True))] = region.mask
    return mask


# --- receptive fields by hand ----------------------------------------------------------------------------------------


def test_vgg16_as_everyone_knows_it():
    net = vgg16(width=16)
    shape = (1, 3, 224, 224)
    assert analysis.receptive_field(net, shape, 30) == ((212, 212), (32, 32), (-90, -90))
    assert analysis.receptive_field(net, shape, "30") == ((212, 212), (32, 32), (-90, -90))
    assert analysis.receptive_field(net, shape) == ((224, 224), (0, 0), (0, 0))  # behind the linear layer
    exact = analysis.input_region(net, shape, 30, (3, 3))
    assert exact == (slice(6, 218), slice(6, 218))
    strength = analysis.empirical_receptive_field(net, shape, 30, (3, 3), samples=1)
    assert strength.shape == (224, 224)
    assert strength.any()
    strength[exact] = 0
    assert not strength.any()


HALF = Fraction(1, 2)
BY_HAND = {  # net, input shape, (size, stride, offset)
    "one neuron": (lambda: fc.ReLU(), (1, 1, 7), ((1,), (1,), (0,))),
    "asymmetric": (
        lambda: fc.Conv2d(1, 1, (3, 5), padding=((2, 0), (0, 1)), rng=0),
        (1, 1, 9, 9),
        ((3, 5), (1, 1), (-2, 0)),
    ),
    "dilated": (lambda: fc.Conv1d(1, 1, 3, dilation=4, padding=4, rng=0), (1, 1, 20), ((9,), (1,), (-4,))),
    "same, even": (lambda: fc.Conv1d(1, 1, 4, padding="same", rng=0), (1, 1, 20), ((4,), (1,), (-1,))),
    "same_lower": (lambda: fc.Conv1d(1, 1, 4, padding="same_lower", rng=0), (1, 1, 20), ((4,), (1,), (-2,))),
    "same, strided": (lambda: fc.Conv1d(1, 1, 3, stride=2, padding="same", rng=0), (1, 1, 10), ((3,), (2,), (0,))),
    "half a step": (lambda: fc.Conv1d(1, 1, 3, stride=HALF, padding=1, rng=0), (1, 1, 9), ((2,), (HALF,), (0,))),
    "three halves": (
        lambda: fc.Conv1d(1, 1, 5, stride=Fraction(3, 2), rng=0),
        (1, 1, 9),
        ((3,), (Fraction(3, 2),), (0,)),
    ),
    "transposed": (lambda: fc.ConvTranspose1d(1, 1, 4, stride=2, padding=1, rng=0), (1, 1, 9), ((2,), (HALF,), (-1,))),
    "upsampled": (
        lambda: fc.Sequential(fc.Upsample(3), fc.Conv1d(1, 1, 7, rng=0)),
        (1, 1, 9),
        ((3,), (Fraction(1, 3),), (0,)),
    ),
    "every third from the second": (lambda: fc.Downsample(3, phase=1), (1, 1, 9), ((1,), (3,), (1,))),
    "ceil_mode": (lambda: fc.MaxPool1d(3, 2, ceil_mode=True), (1, 1, 8), ((3,), (2,), (0,))),
    "adaptive, even": (lambda: fc.AdaptiveAvgPool1d(4), (1, 1, 12), ((3,), (3,), (0,))),
    "adaptive": (lambda: fc.AdaptiveMaxPool1d(5), (1, 1, 12), ((4,), (Fraction(12, 5),), (0,))),
    "global": (
        lambda: fc.Sequential(fc.Conv1d(1, 1, 3, padding=1, rng=0), fc.AdaptiveAvgPool1d(1)),
        (1, 1, 8),
        ((10,), (8,), (-1,)),
    ),
    "flattened": (
        lambda: fc.Sequential(fc.Conv1d(1, 1, 3, padding=1, rng=0), fc.Flatten(), fc.ReLU()),
        (1, 1, 8),
        ((8,), (0,), (0,)),
    ),
    "a perceptron": (
        lambda: fc.Sequential(fc.Flatten(), fc.Linear(12, 2, rng=0)),
        (1, 1, 3, 4),
        ((3, 4), (0, 0), (0, 0)),
    ),
    "nothing spatial": (lambda: fc.Linear(4, 2, rng=0), (1, 4), ((), (), ())),
    "resized": (lambda: fc.Function("resize", scale=2, mode="linear"), (1, 1, 8), ((2,), (HALF,), (-1,))),
    "batch norm": (lambda: fc.BatchNorm1d(1), (1, 1, 8), ((1,), (1,), (0,))),
    "batch norm by the batch": (lambda: fc.BatchNorm1d(1, track_running_stats=False), (1, 1, 8), ((8,), (0,), (0,))),
    "group norm": (
        lambda: fc.Sequential(fc.Conv1d(1, 2, 3, padding=1, rng=0), fc.GroupNorm(1, 2)),
        (1, 1, 8),
        ((8,), (0,), (0,)),
    ),
    "instance norm": (lambda: fc.InstanceNorm2d(1), (1, 1, 8, 6), ((8, 6), (0, 0), (0, 0))),
    "instance norm, running": (
        lambda: fc.InstanceNorm2d(1, track_running_stats=True),
        (1, 1, 8, 6),
        ((1, 1), (1, 1), (0, 0)),
    ),
    "layer norm of lines": (lambda: fc.LayerNorm(6), (1, 1, 8, 6), ((1, 6), (1, 0), (0, 0))),
    "softmax along an axis": (lambda: fc.Softmax(dim=2), (1, 1, 8, 6), ((8, 1), (0, 1), (0, 0))),
    "linear along the last axis": (lambda: fc.Linear(6, 2, rng=0), (1, 1, 8, 6), ((1, 6), (1, 0), (0, 0))),
    "union": (
        lambda: fc.Concat(fc.Conv1d(1, 1, 3, padding=((0, 2),), rng=0), fc.Conv1d(1, 1, 3, padding=((2, 0),), rng=0)),
        (1, 1, 9),
        ((5,), (1,), (-2,)),
    ),
    "residual": (
        lambda: fc.Residual(fc.Conv1d(1, 1, 2, stride=2, rng=0), fc.AvgPool1d(1, 2)),
        (1, 1, 10),
        ((2,), (2,), (0,)),
    ),
    "a hole": (  # the second reads what the first has inserted: nothing of the input
        lambda: fc.Sequential(fc.Upsample(2), fc.Downsample(2, phase=1)),
        (1, 1, 9),
        ((0,), (1,), (0,)),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_receptive_field_by_hand(name):
    make, shape, expected = BY_HAND[name]
    assert analysis.receptive_field(make(), shape) == expected


def test_layers_by_name_and_place():
    shared = fc.Conv1d(2, 2, 3, padding=1, rng=0)
    net = fc.Graph(
        {
            "stem": (shared, "input"),
            "pool": (fc.AvgPool1d(2), "stem"),
            "block": (fc.Residual(fc.Sequential(fc.Conv1d(2, 2, 3, padding=1, rng=0), fc.ReLU())), "pool"),
            "again": ("stem", "block"),
            "both": ("concat", "again", "pool"),
        }
    )
    shape = (1, 2, 12)
    sizes = {name: analysis.receptive_field(net, shape, name).size[0] for name in ("stem", "pool", "block.body.0")}
    assert sizes == {"stem": 3, "pool": 4, "block.body.0": 8}
    assert analysis.receptive_field(net, shape, "again") == ((12,), (2,), (-5,))
    assert analysis.receptive_field(net, shape, 5) == analysis.receptive_field(net, shape, -2) == ((12,), (2,), (-5,))
    assert [row.name for row in net.summary(shape)][5] == "again"
    assert analysis.receptive_field(net, shape, "block") == analysis.receptive_field(net, shape, "block.body")
    for wrong, rule in (
        ("nope", "no layer is called 'nope'; there are stem, pool"),
        (7, "less than 7, the layers of the net"),
    ):
        with pytest.raises(ValueError, match=rule):
            analysis.receptive_field(net, shape, wrong)
    with pytest.raises(TypeError, match="layer must be an integer"):
        analysis.receptive_field(net, shape, 1.5)


class Shift(fc.Layer):
    """A layer of a user's: y[o] = x[o - 2]."""

    def forward(self, x, context):
        return np.roll(x, 2, axis=2), None


def test_a_layer_of_ones_own_says_what_it_reads():
    net = fc.Sequential(fc.Conv1d(1, 1, 3, rng=0), Shift())
    assert analysis.receptive_field(net, (1, 1, 9), 0) == ((3,), (1,), (0,))
    with pytest.raises(ValueError, match=r"receptive_field: layer '1' \(Shift\) must say what it reads.*\(1, 1, 7\)"):
        analysis.receptive_field(net, (1, 1, 9))
    Shift.reach = lambda self, x_shape, y_shape: (reach.Sliding(before=2),)
    try:
        assert analysis.receptive_field(net, (1, 1, 9)) == ((3,), (1,), (-2,))
    finally:
        del Shift.reach


# --- receptive fields against gradients ------------------------------------------------------------------------------


def random_layer(rng, ndim, channels):
    """Any layer with a window, with odd options, that takes small inputs."""

    def sizes(low, high):
        return tuple(int(rng.integers(low, high + 1)) for _ in range(ndim))

    def around(most):
        return tuple((int(rng.integers(0, most + 1)), int(rng.integers(0, most + 1))) for _ in range(ndim))

    kind = rng.integers(12)
    if kind <= 2:
        stride = tuple(Fraction(int(rng.integers(1, 4)), int(rng.integers(1, 4))) for _ in range(ndim))
        padding = "same_lower" if kind == 2 else around(2)
        stride = sizes(1, 3) if kind == 0 else stride
        return CONV[ndim](channels, 2, sizes(1, 3), stride, padding, sizes(1, 2), rng=0), 2
    if kind == 3:
        return TRANSPOSED[ndim](channels, 2, sizes(2, 4), sizes(1, 3), dilation=sizes(1, 2), rng=0), 2
    if kind == 4:
        return AVG[ndim](sizes(2, 3), sizes(1, 3), 1, ceil_mode=bool(rng.integers(2))), channels
    if kind == 5:
        return ADAPTIVE[ndim](sizes(1, 5)), channels
    if kind == 6:
        return fc.Upsample(sizes(1, 3)), channels
    if kind == 7:
        return fc.Downsample(sizes(1, 2)), channels
    if kind == 8:
        mode = ("nearest", "linear", "cubic" if ndim == 2 else "linear")[rng.integers(3)]
        corners = mode != "nearest" and bool(rng.integers(2))
        return fc.Function("resize", size=sizes(3, 11), mode=mode, align_corners=corners), channels
    if kind == 9:
        return fc.Residual(
            CONV[ndim](channels, channels, sizes(1, 4), padding="same", dilation=sizes(1, 2), rng=0)
        ), channels
    if kind == 10:
        left = CONV[ndim](channels, 1, sizes(2, 3), 2, padding="same", rng=0)
        right = fc.Sequential(fc.Sigmoid(), CONV[ndim](channels, 1, sizes(1, 3), 2, padding="same_lower", rng=0))
        return fc.Concat(left, right), 2
    shared = CONV[ndim](channels, channels, sizes(1, 3), padding="same", rng=0)
    nodes = {"a": (shared, "input"), "b": (fc.Sigmoid(), "a"), "c": ("a", "b"), "d": ("add", "c", "input")}
    return fc.Graph(nodes), channels


def random_net(seed):
    rng = np.random.default_rng(seed)
    ndim = int(rng.integers(1, 3))
    shape = (1, 2, *(int(n) for n in rng.integers(5, 10, ndim)))
    layers, channels = [], 2
    for _ in range(int(rng.integers(1, 5))):
        layer, outputs = random_layer(rng, ndim, channels)
        try:
            sizes = analysis.output_shape(fc.Sequential(*layers, layer), shape)[2:]
        except fc.ShapeError:  # larger than what is left
            continue
        if max(sizes) <= 40:
            layers.append(layer)
            channels = outputs
    return positive(fc.Sequential(*layers), seed), shape, rng


@pytest.mark.parametrize("seed", range(150))
def test_regions_of_random_nets_are_what_gradients_say(seed):
    net, shape, rng = random_net(seed)
    output = analysis.output_shape(net, shape)
    assert output == net(np.zeros(shape)).shape
    for _ in range(3):
        neuron = tuple(int(rng.integers(n)) for n in output[2:])
        mask = answers(net, shape, neuron)
        np.testing.assert_array_equal(set_of(net, shape, neuron), mask)
        assert analysis.input_region(net, shape, None, neuron) == box(mask)


def wide_net(seed):
    """A net that treats all positions alike, on a line that is long enough for neurons far from its ends."""
    rng = np.random.default_rng(seed)
    layers, channels = [], 2
    for _ in range(int(rng.integers(1, 4))):
        layer, channels = random_layer(rng, 1, channels)
        while isinstance(layer, fc.Function | fc.AdaptiveAvgPool1d):
            layer, channels = random_layer(rng, 1, channels)
        layers.append(layer)
    return positive(fc.Sequential(*layers), seed)


@pytest.mark.parametrize("seed", range(40))
def test_fields_of_random_nets_are_what_gradients_say(seed):
    net = wide_net(seed)
    shape = (1, 2, 150)
    (size,), (stride,), (offset,) = analysis.receptive_field(net, shape)
    outputs = analysis.output_shape(net, shape)[2]
    period = math.prod(step.denominator for step in _steps(net))
    middle = outputs // 2 // period * period
    regions = [box(answers(net, shape, (o,)))[0] for o in range(middle, middle + period)]
    assert max(region.stop - region.start for region in regions) == size
    seen = next(((at, region) for at, region in enumerate(regions) if region.stop), None)
    if seen is not None:
        at, region = seen
        assert region.start == offset + middle * stride
        unclipped = analysis.input_region(net, shape, None, (at,), clip=False)[0]
        assert unclipped.start == offset


def _steps(net):
    for _, layer in net.walk():
        options = getattr(layer, "_options", {})
        if isinstance(layer, fc.Upsample):
            yield Fraction(1, options["factor"][0])
        elif isinstance(layer, fc.ConvTranspose1d):
            yield Fraction(1, options["stride"][0])
        elif isinstance(layer, fc.Conv1d):
            stride = options["stride"]
            yield Fraction(stride[0] if isinstance(stride, tuple) else stride)


# --- one neuron ------------------------------------------------------------------------------------------------------


def test_input_region():
    net = fc.Sequential(fc.Conv2d(1, 3, 3, rng=0), fc.AvgPool2d(2), fc.Conv2d(3, 2, 3, padding=2, rng=0))
    shape = (1, 1, 12, 9)  # 10x7, 5x3, 7x5
    assert analysis.input_region(net, shape, None, (0, 0), clip=False) == (slice(-4, 4), slice(-4, 4))
    assert analysis.input_region(net, shape, None, (0, 0)) == (slice(0, 4), slice(0, 4))
    assert analysis.input_region(net, shape, None, (6, 4)) == (
        slice(8, 12),
        slice(4, 8),
    )  # the pool never reads column 8
    assert analysis.input_region(net, shape, None, (-1, -1), clip=False) == (slice(8, 16), slice(4, 12))
    assert analysis.input_region(net, shape) == analysis.input_region(net, shape, 2, (1, 3, 2))  # in the middle
    assert analysis.input_region(net, shape, 0, (1, 1)) == (slice(1, 4), slice(1, 4))
    dense = fc.Sequential(net, fc.Flatten(), fc.Linear(70, 2, rng=0))
    assert analysis.input_region(dense, shape, None, 1) == (slice(0, 12), slice(0, 8))
    wide = fc.Conv1d(1, 1, 1, padding=2, rng=0)
    assert analysis.input_region(wide, (1, 1, 3), None, 0) == (slice(0, 0),)
    for index, rule in (((0, 5), "inside the layer's"), (0, "one entry per axis"), ((0, -6), "at least -5, got -6")):
        with pytest.raises(fc.ShapeError, match=rf"input_region: index must .*{rule}"):
            analysis.input_region(net, shape, None, index)


def test_empirical_receptive_field_is_of_the_net_as_it_is():
    net = fc.Sequential(fc.Conv1d(1, 2, 3, padding=1, rng=0), fc.ReLU(), fc.Conv1d(2, 1, 3, padding=1, rng=1)).eval()
    net[0].weight[:, :, 2] = 0  # it does not look to the right
    before = net.state_dict()
    strength = analysis.empirical_receptive_field(net, (1, 1, 11), None, 5, samples=20)
    assert strength.dtype == np.float64
    assert np.flatnonzero(strength).tolist() == [3, 4, 5, 6]
    can = analysis.empirical_receptive_field(net, (1, 1, 11), None, 5, samples=1, positive=True)
    assert np.flatnonzero(can).tolist() == [3, 4, 5, 6, 7]
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert len(net.parameters()) == 4  # nothing is left frozen

    linear = fc.Conv1d(1, 1, 3, padding=1, bias=False, rng=0)  # its gradient is its kernel, times the mixture's one
    strength = analysis.empirical_receptive_field(linear, (1, 1, 9), None, 4, samples=1, rng=3)
    np.testing.assert_allclose(strength[3:6] / strength[4], np.abs(linear.weight[0, 0] / linear.weight[0, 0, 1]), 1e-5)

    x = np.ones((3, 1, 11))
    first = analysis.empirical_receptive_field(net, (1, 1, 11), 1, 5, x=x)
    assert np.flatnonzero(first).size in (0, 2)
    with pytest.raises(fc.ShapeError, match=r"x must be images of shape \(1, 11\), got \(3, 1, 12\)"):
        analysis.empirical_receptive_field(net, (1, 1, 11), x=np.ones((3, 1, 12)))


@pytest.mark.parametrize("seed", range(0, 60, 5))
def test_the_empirical_field_of_any_graph_is_the_vjps(seed):
    net, shape, _ = random_net(seed)
    output = analysis.output_shape(net, shape)
    neuron = tuple(n // 2 for n in output[2:])
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((1, *shape[1:])), np.zeros(output)
    dy[(0, slice(None), *neuron)] = np.random.default_rng(7).standard_normal(output[1])
    expected = np.abs(fc.vjp(net, x)[1](dy)[0][0]).sum(axis=0)
    actual = analysis.empirical_receptive_field(net, shape, None, neuron, x=x, rng=7)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(1, 9, 12), (3, 9, 12), (2, 40)])
def test_drawn_over_an_image(tmp_path, shape):
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    from fastconv import plots

    conv, axes = CONV[len(shape) - 1], len(shape) - 1
    net = fc.Sequential(
        conv(shape[0], 4, 3, padding=1, rng=0), fc.ReLU(), AVG[axes](2), conv(4, 2, 3, padding=1, rng=1)
    )
    image = np.random.default_rng(0).random(shape)
    before = image.copy()
    figure = analysis.draw_receptive_field(net, image, 3, (0,) * axes, samples=2)
    plots.save(figure, tmp_path / "field.png")
    assert (tmp_path / "field.png").stat().st_size > 5000
    np.testing.assert_array_equal(image, before)
    said = " ".join(text.get_text() for text in figure.findobj(Text))
    assert f"layer 3 sees: {' x '.join('8' * axes)}" in said
    if axes == 2:
        corners = [line.get_xydata() for line in figure.axes[0].get_lines()]
        assert corners[1].min(axis=0).tolist() == [-3.5, -3.5]
        assert corners[1].max(axis=0).tolist() == [4.5, 4.5]
    with pytest.raises(fc.ShapeError, match=r"image must be \(C, H, W\), or a signal \(C, L\), got shape \(4,\)"):
        analysis.draw_receptive_field(net, np.ones(4))


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_output_shape_computes_nothing():
    net = vgg16(width=32)
    assert analysis.output_shape(net, (10**6, 3, 224, 224)) == (10**6, 10)
    assert analysis.output_shape(net[:-2], (0, 3, 2**15, 2**15)) == (0, 16, 2**10, 2**10)
    norm = fc.Sequential(fc.BatchNorm1d(4), fc.Dropout(0.5))
    before = norm.state_dict()
    assert analysis.output_shape(norm, (2, 4)) == (2, 4)
    for name, array in norm.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


BAD_SHAPES = [
    ((1, 4, 8, 8), fc.ShapeError, r"conv2d: w must have as many channels.*\(in layer 0, Conv2d\)"),
    ((1, 3, 8), fc.ShapeError, r"conv2d: x must have 4 axes.*\(in layer 0, Conv2d\)"),
    ((3,), fc.ShapeError, r"output_shape: input_shape must be \(N, C, …\), got \(3,\)"),
    (7, fc.ShapeError, r"output_shape: input_shape must be \(N, C, …\), got 7"),
    ((1, 3, 0, 8), fc.ShapeError, "output_shape: input_shape must be at least 1, got 0"),
    ((-1, 3, 8, 8), fc.ShapeError, "output_shape: input_shape's N must be at least 0, got -1"),
    ((1, 3, 8.5, 8), TypeError, "output_shape: input_shape must be an integer, got 8.5"),
    (
        (1, 3, 4, 4),
        fc.ShapeError,
        r"Residual: what is added must have one shape, got \(0, 3, 1, 1\) and \(0, 3, 2, 2\)",
    ),
]


@pytest.mark.parametrize(("shape", "error", "message"), BAD_SHAPES)
def test_bad_input_shapes(shape, error, message):
    body = fc.Conv2d(3, 3, 2, rng=0)
    net = fc.Sequential(fc.Conv2d(3, 3, 3, rng=0), fc.Residual(body))
    with pytest.raises(error, match=message):
        analysis.output_shape(net, shape)
    with pytest.raises(TypeError, match="output_shape: net must be a layer or a net of layers, got 3"):
        analysis.output_shape(3, (1, 3))


# --- padding from sizes ----------------------------------------------------------------------------------------------


def outputs_of(n, kernel, stride, dilation, padding):
    """The length that the naive convolution has, or None."""
    try:
        w = np.ones((1, 1, kernel))
        return F.conv1d(np.ones((1, 1, n)), w, stride=stride, dilation=dilation, padding=(padding,)).shape[2]
    except fc.ShapeError:
        return None


@pytest.mark.parametrize("stride", [1, 2, 3, Fraction(1, 2), Fraction(3, 2)])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (2, 3)])
def test_infer_padding_by_trying_all(stride, kernel, dilation):
    pairs = sorted(
        itertools.product(range(12), repeat=2), key=lambda pair: (sum(pair), pair[1] - pair[0] not in (0, 1))
    )
    for n in (1, 4, 5):
        lengths = {pair: outputs_of(n, kernel, stride, dilation, pair) for pair in pairs}
        for m in range(1, 7):
            fitting = [(pair,) for pair in pairs if lengths[pair] == m]
            if not fitting:
                with pytest.raises(
                    fc.ShapeError, match=rf"infer_padding: padding must make {m} outputs on spatial axis 0"
                ):
                    analysis.infer_padding(n, m, kernel, stride, dilation)
                continue
            assert analysis.infer_padding(n, m, kernel, stride, dilation) == fitting[0]
            every = analysis.infer_padding(n, m, kernel, stride, dilation, all=True)
            assert every[0] == fitting[0]
            assert {answer for answer in every if max(answer[0]) < 12} == set(fitting)
            assert len(set(every)) == len(every)
            assert [sum(answer[0]) for answer in every] == sorted(sum(answer[0]) for answer in every)


def test_infer_padding_on_several_axes():
    assert analysis.infer_padding((28, 30), 28, 5) == ((2, 2), (1, 1))
    assert analysis.infer_padding(5, 3, (3, 2, 1), 2) == ((1, 1), (0, 1), (0, 0))
    every = analysis.infer_padding((4, 4), (4, 4), (2, 3), all=True)
    assert every[0] == ((0, 1), (1, 1))
    assert set(every) == {(a, b) for a in ((0, 1), (1, 0)) for b in ((1, 1), (0, 2), (2, 0))}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (9, 3, 3),
            fc.ShapeError,
            "make 3 outputs on spatial axis 0, but without any there are 7 already: input 9, kernel 3",
        ),
        (((9, 9), (9, 2), 3, 1), fc.ShapeError, "make 2 outputs on spatial axis 1"),
        ((9, 0, 3), fc.ShapeError, "output_size must be at least 1, got 0"),
        ((9, 3, 3, 0), fc.ShapeError, "stride must be at least 1, got 0"),
        (((9, 9), (9, 9, 9), 3), fc.ShapeError, "input_size must be one number or 3 of them, got 2"),
        ((9.5, 3, 3), TypeError, "input_size must be an integer, got 9.5"),
        ((9, 3, 3, -HALF), fc.ShapeError, "stride must be positive, got -1/2"),
    ],
)
def test_infer_padding_refuses(arguments, error, message):
    with pytest.raises(error, match=f"^infer_padding: .*{re.escape(message)}"):
        analysis.infer_padding(*arguments)


def test_infer_padding_is_not_asked_for_more_than_memory():
    with pytest.raises(MemoryError, match="infer_padding"):
        analysis.infer_padding((1,) * 3, (10**4,) * 3, 3, all=True)


# --- convolution as a matrix -----------------------------------------------------------------------------------------

MATRICES = {
    "1-D": ((3, 2, 4), (2, 9), {"padding": ((2, 1),), "dilation": 2}),
    "2-D": ((2, 3, 3, 2), (3, 5, 6), {}),
    "groups": ((4, 2, 2, 3), (4, 6, 5), {"stride": (2, 1), "padding": (1, 0), "groups": 2}),
    "depthwise": ((6, 1, 3, 3), (3, 5, 5), {"padding": "same", "groups": 3}),
    "same_lower": ((2, 1, 2, 2), (1, 5, 5), {"padding": "same_lower", "stride": 2}),
    "rational": ((2, 2, 3, 3), (2, 5, 4), {"stride": (Fraction(3, 2), HALF), "padding": 1, "dilation": (1, 2)}),
    "3-D": ((2, 2, 2, 1, 3), (2, 4, 3, 5), {"stride": (1, 2, Fraction(2, 3)), "padding": "same"}),
}


@pytest.mark.parametrize("name", MATRICES)
def test_conv_matrix_is_the_convolution_and_its_transpose_the_backward_pass(name):
    w_shape, x_shape, options = MATRICES[name]
    rng = np.random.default_rng(0)
    w, x = (rng.integers(-4, 5, shape).astype(float) for shape in (w_shape, (1, *x_shape)))
    z, pullback = fc.vjp(getattr(fc.reference, f"conv{x.ndim - 2}d"), x, w, **options)
    dz = rng.integers(-4, 5, z.shape).astype(float)
    a = analysis.conv_matrix(w, x_shape, **options)
    assert a.format == "csr"
    assert a.shape == (z.size, x.size)
    np.testing.assert_array_equal(a @ x.reshape(-1), z.reshape(-1))
    np.testing.assert_array_equal(a.T @ dz.reshape(-1), pullback(dz)[0].reshape(-1))


def test_conv_matrix_shares_its_weights():
    w = np.array([[[1.0, 2.0]]], np.float32)
    a = analysis.conv_matrix(w, (1, 3), padding=1)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a.toarray(), [[2, 0, 0], [1, 2, 0], [0, 1, 2], [0, 0, 1]])


@pytest.mark.parametrize(
    ("w", "shape", "options", "error", "message"),
    [
        (
            (2, 3, 3, 3),
            (2, 5, 5),
            {},
            fc.ShapeError,
            r"as many channels as x has per group, got w (2, 3, 3, 3) and x (2, 5, 5)",
        ),
        ((2, 3, 3), (3, 5, 5), {}, fc.ShapeError, "w must have 4 axes (K C/groups and the kernel's), got 3"),
        ((2, 3), (3,), {}, fc.ShapeError, "input_shape must be (C, *spatial) with one to three spatial axes, got (3,)"),
        (
            (2, 1, 3),
            (1, 5),
            {"groups": 3},
            fc.ShapeError,
            "groups must divide the channels of x and the filters, got 3",
        ),
        ((2, 1, 6), (1, 5), {}, fc.ShapeError, "the kernel must not be larger than the padded input"),
        ((2, 1, 3), (1, 5), {"stride": 0}, fc.ShapeError, "stride must be at least 1, got 0"),
        ((2, 1, 3, 3), (1, 10**6, 10**6), {}, MemoryError, ""),
    ],
)
def test_conv_matrix_refuses(w, shape, options, error, message):
    with pytest.raises(error, match=f"^conv_matrix: .*{re.escape(message)}"):
        analysis.conv_matrix(np.ones(w), shape, **options)


# --- which element of its window -------------------------------------------------------------------------------------


def test_window_indices_of_the_chapter():
    y = [[0.4, 2.3, 0, 1.3, 0], [1.9, 3.2, 2.1, 1.5, 0], [2.3, 0, 3.8, 0, 4.3], [1.5, 2.3, 1.5, 0.7, 2.1]]
    indices = analysis.window_indices(np.array([[y]]), 2, stride=1)
    np.testing.assert_array_equal(indices[0, 0], [[4, 3, 3, 3], [2, 4, 3, 4], [1, 2, 1, 2]])
    assert indices.dtype == np.int64


WINDOWS = [
    ((2, 3, 11), 3, {}),
    ((1, 2, 9, 8), (3, 2), {"stride": (2, 1), "padding": (1, 1)}),
    ((1, 2, 9, 8), 2, {"stride": 2, "dilation": (3, 2), "ceil_mode": True}),
    ((1, 1, 5, 4, 6), (2, 2, 3), {"padding": (1, 0, 1), "stride": 2}),
]


@pytest.mark.parametrize(("shape", "kernel", "options"), WINDOWS)
def test_window_indices_point_at_the_maximum(shape, kernel, options):
    x = np.random.default_rng(0).integers(0, 6, shape).astype(np.float32)  # with ties
    ndim = x.ndim - 2
    indices = analysis.window_indices(x, kernel, **options)
    values = getattr(F, f"max_pool{ndim}d")(x, kernel, **options)
    each = [(options.get(key, default),) * ndim if not isinstance(options.get(key, default), tuple) else options[key]
            for key, default in (("padding", 0), ("dilation", 1))]  # fmt: skip
    sizes = (kernel,) * ndim if isinstance(kernel, int) else kernel
    stride = options.get("stride", sizes)
    stride = (stride,) * ndim if isinstance(stride, int) else stride
    padded = np.pad(x, [(0, 0)] * 2 + [(p, p + 99) for p in each[0]], constant_values=-1)
    for position in np.ndindex(values.shape):
        start = [o * s for o, s in zip(position[2:], stride, strict=True)]
        window = padded[
            (*position[:2], *(slice(a, a + (k - 1) * d + 1, d) for a, k, d in zip(start, sizes, each[1], strict=True)))
        ]
        assert indices[position] == window.reshape(-1).argmax() + 1
        assert window.max() == values[position]


def test_window_indices_refuse():
    with pytest.raises(fc.ShapeError, match="window_indices: x must have 3 to 5 axes"):
        analysis.window_indices(np.ones((3, 3)), 2)
    with pytest.raises(fc.ShapeError, match="max_pool2d: padding must be at most half of the kernel"):
        analysis.window_indices(np.ones((1, 1, 3, 3)), 2, padding=2)


# --- scanners --------------------------------------------------------------------------------------------------------


def crops_of(images, size, stride):
    """(N, *positions, C, *size)"""
    axes = tuple(range(2, images.ndim))
    windows = sliding_window_view(images, size, axis=axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
    return np.moveaxis(windows, 1, len(size) + 1)


def assert_scans(net, shape, images, steps, tolerance, **options):
    scanner = analysis.to_scanner(net, shape, **options)
    crops = crops_of(images, shape[1:], steps)
    flat = crops.reshape(-1, *(shape if not isinstance(net[0], fc.Linear) else (math.prod(shape),)))
    scores = net.predict(flat).reshape(*crops.shape[: len(steps) + 1], -1)
    slid = scanner(images)
    np.testing.assert_allclose(np.moveaxis(slid, 1, -1), scores, rtol=0, atol=tolerance)
    assert slid.dtype == net.dtype


@functools.cache
def trained(kind):
    (x, y), _ = fc.datasets.load_digits()
    if kind == "mlp":
        net = fc.Sequential(
            fc.Flatten(), fc.Linear(64, 48, rng=0), fc.BatchNorm1d(48), fc.ReLU(), fc.Dropout(0.2),
            fc.Linear(48, 10, rng=1),
        )  # fmt: skip
    else:
        net = fc.Sequential(
            fc.Conv2d(1, 8, 3, rng=0),
            fc.BatchNorm2d(8),
            fc.ReLU(),
            fc.MaxPool2d(2),
            fc.Flatten(),
            fc.Linear(72, 10, rng=1),
        )
    lr = 0.1 if kind == "mlp" else 0.03  # scores of 20 and more would differ by float32's roundings alone
    fc.Trainer(net, fc.optim.SGD(lr=lr, momentum=0.9), seed=0).fit(x, y, epochs=2, batch_size=64, progress=False)
    assert (net.predict(x).argmax(axis=1) == y).mean() > 0.85
    return net


@pytest.mark.parametrize(("kind", "step"), [("mlp", 1), ("cnn", 2)])
def test_scanner_of_a_trained_net_scores_like_crops(kind, step):
    rng = np.random.default_rng(0)
    for _ in range(100):
        image = rng.random((1, 1, *rng.integers(8, 40, 2)), dtype=np.float32)
        assert_scans(trained(kind), (1, 8, 8), image, (step, step), 1e-5)


TAIL = (
    fc.Tanh(),
    fc.Residual(fc.Sequential(fc.Linear(6, 6, rng=3), fc.ReLU())),
    fc.Linear(6, 3, bias=False, rng=4),
    fc.Softmax(),
)
SCANNED = {  # net, image shape, larger, stride of the crops, options
    "no flatten": (lambda: fc.Sequential(fc.Linear(12, 3, rng=0)), (1, 3, 4), (6, 9), (1, 1), {}),
    "two channels, stride": (
        lambda: fc.Sequential(fc.Flatten(), fc.Linear(24, 6, rng=0), *TAIL),
        (2, 3, 4),
        (9, 12),
        (2, 3),
        {"stride": (2, 3)},
    ),
    "1-D": (lambda: fc.Sequential(fc.Flatten(), fc.Linear(14, 6, rng=0), *TAIL), (2, 7), (20,), (1,), {}),
    "3-D": (
        lambda: fc.Sequential(fc.Flatten(), fc.Linear(12, 6, rng=0), fc.PReLU(6), *TAIL),
        (1, 2, 3, 2),
        (4, 5, 3),
        (1, 1, 1),
        {},
    ),
    "strided convolutions": (
        lambda: fc.Sequential(
            fc.Sequential(fc.Conv2d(1, 2, 3, stride=2, rng=0), fc.ReLU()),
            fc.Conv2d(2, 2, 2, stride=(1, 2), rng=1),
            fc.Dropout2d(0.5),
            fc.Flatten(),
            fc.Linear(12, 6, rng=0),
            *TAIL,
        ),
        (1, 9, 9),
        (19, 18),
        (2, 4),
        {},
    ),
    "and every other": (
        lambda: fc.Sequential(
            fc.Conv2d(1, 2, 3, dilation=2, rng=0), fc.LpPool2d(2, 2), fc.Flatten(), fc.Linear(8, 3, rng=0)
        ),
        (1, 8, 8),
        (20, 17),
        (4, 2),
        {"stride": (4, 2)},
    ),
    "global pool": (
        lambda: fc.Sequential(
            fc.Conv2d(1, 4, 3, rng=0), fc.MaxPool2d(2), fc.AdaptiveAvgPool2d(1), fc.Flatten(), fc.Linear(4, 3, rng=0)
        ),
        (1, 8, 10),
        (13, 16),
        (2, 2),
        {},
    ),
    "layers that change nothing": (
        lambda: fc.Sequential(
            fc.Conv2d(1, 2, 3, rng=0),
            fc.Identity(),
            fc.Flatten(),
            fc.Sequential(fc.Identity(), fc.Linear(40, 3, rng=0)),
            fc.Identity(),
            fc.Residual(fc.Tanh(), fc.Identity()),
        ),
        (1, 6, 7),
        (9, 9),
        (1, 1),
        {},
    ),
    "an adaptive pool that pools nothing": (
        lambda: fc.Sequential(
            fc.Conv2d(1, 4, 3, rng=0), fc.AdaptiveMaxPool2d((4, 5)), fc.Flatten(), fc.Linear(80, 3, rng=0)
        ),
        (1, 6, 7),
        (9, 9),
        (1, 1),
        {},
    ),
}


@pytest.mark.parametrize("name", SCANNED)
def test_scanners(name):
    make, shape, larger, stride, options = SCANNED[name]
    net = make().astype(np.float64)
    images = np.random.default_rng(0).random((2, shape[0], *larger))
    assert_scans(net, shape, images, stride, 1e-12, **options)


def test_a_scanner_stands_alone():
    net = fc.Sequential(fc.Flatten(), fc.Linear(4, 3, rng=0), fc.Dropout(0.5), fc.BatchNorm1d(3))
    scanner = analysis.to_scanner(net, (1, 2, 2))
    image = np.random.default_rng(0).random((1, 1, 5, 5), dtype=np.float32)
    before = scanner(image)
    net[1].weight[...] = 0
    net[3].running_mean[...] = 7
    np.testing.assert_array_equal(scanner(image), before)
    assert net.training
    assert [type(layer).__name__ for layer in scanner] == ["Conv2d", "Dropout", "BatchNorm2d"]


def dense(*front, inputs=9, tail=()):
    return fc.Sequential(*front, fc.Flatten(), fc.Linear(inputs, 2, rng=0), *tail)


SCANNERS_REFUSED = [
    (lambda: dense(fc.Conv2d(1, 1, 3, padding=((2, 0),) * 2, rng=0)), ValueError, r"layer 0 \(Conv2d\) .* it pads"),
    (lambda: dense(fc.Conv2d(1, 1, 3, padding=((0, 2),) * 2, rng=0)), ValueError, r"layer 0 \(Conv2d\) .* it pads"),
    (
        lambda: dense(fc.Conv2d(1, 1, 3, padding=1, rng=0)),
        ValueError,
        r"layer 0 \(Conv2d\) cannot slide exactly: it pads",
    ),
    (
        lambda: dense(fc.Conv2d(1, 1, 3, padding="same", rng=0)),
        ValueError,
        r"layer 0 \(Conv2d\) cannot slide exactly: it pads",
    ),
    (
        lambda: dense(fc.Conv2d(1, 1, 2, stride=2, padding="same", rng=0), inputs=4),
        ValueError,
        r"it pads its input \(1, 3, 3\)",
    ),
    (
        lambda: dense(fc.MaxPool2d(2, ceil_mode=True), inputs=4),
        ValueError,
        r"layer 0 \(MaxPool2d\) cannot slide exactly: it pads",
    ),
    (
        lambda: dense(fc.Conv2d(1, 1, 2, stride=HALF, rng=0), inputs=16),
        ValueError,
        "does not treat all positions of an image alike",
    ),
    (lambda: dense(fc.InstanceNorm2d(1)), ValueError, r"layer 0 \(InstanceNorm2d\) cannot slide exactly"),
    (
        lambda: dense(fc.AdaptiveAvgPool2d(2), inputs=4),
        ValueError,
        r"makes \(2, 2\) of \(3, 3\); an adaptive pool must make one",
    ),
    (
        lambda: dense(fc.PixelUnshuffle(3)),
        ValueError,
        r"layer 0 \(PixelUnshuffle\) cannot slide: it takes a crop, \(1, 3, 3\), but not \(1, 4, 4\)",
    ),
    (lambda: dense(fc.Reshape(1, 3, 3)), ValueError, r"layer 0 \(Reshape\) cannot slide: it takes a crop"),
    (lambda: dense(fc.PixelShuffle(1)), ValueError, r"layer 0 \(PixelShuffle\) cannot slide exactly: it does not"),
    (lambda: dense(fc.Residual(fc.ReLU())), ValueError, r"layer 0 \(Residual\) cannot slide: before the first Linear"),
    (
        lambda: dense(tail=(fc.GroupNorm(1, 2),)),
        ValueError,
        r"layer 2 \(GroupNorm\) cannot slide: behind the first Linear",
    ),
    (lambda: dense(tail=(fc.Softmax(dim=0),)), ValueError, r"layer 2 \(Softmax\) must work along the features"),
    (lambda: dense(tail=(fc.BatchNorm1d(2, track_running_stats=False),)), ValueError, "must have running statistics"),
    (
        lambda: dense(inputs=8),
        fc.ShapeError,
        r"layer 1 \(Linear\) must take 1 \* 3 \* 3 = 9 features of a crop, takes 8",
    ),
    (lambda: fc.Sequential(fc.Conv2d(1, 2, 3, rng=0), fc.Flatten()), ValueError, "must have a Linear layer"),
    (
        lambda: fc.Sequential(fc.ReLU(), fc.Linear(3, 2, rng=0)),
        ValueError,
        r"layer 1 \(Linear\) must stand behind a Flatten",
    ),
    (
        lambda: fc.Sequential(fc.Flatten(), fc.BatchNorm1d(9), fc.Linear(9, 2, rng=0)),
        ValueError,
        r"layer 1 \(BatchNorm1d\) must not stand between",
    ),
    (lambda: fc.Linear(9, 2, rng=0), TypeError, "the net must be a Sequential, got Linear"),
]


@pytest.mark.parametrize(("make", "error", "message"), SCANNERS_REFUSED)
def test_what_cannot_slide_is_refused(make, error, message):
    with pytest.raises(error, match=f"^to_scanner: .*{message}"):
        analysis.to_scanner(make(), (1, 3, 3))


def test_a_scanners_arguments():
    net = dense(fc.AvgPool2d(2), inputs=4)
    with pytest.raises(
        fc.ShapeError, match=r"to_scanner: stride must be a multiple of the net's own, \(2, 2\), got \(2, 3\)"
    ):
        analysis.to_scanner(net, (1, 4, 4), stride=(2, 3))
    with pytest.raises(fc.ShapeError, match=r"to_scanner: image_shape must be \(C, \*spatial\)"):
        analysis.to_scanner(net, (4,))
    with pytest.raises(fc.ShapeError, match=r"avg_pool2d: .*\(in layer 0, AvgPool2d\)"):
        analysis.to_scanner(net, (1, 1, 4))
