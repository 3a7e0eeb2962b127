"""Layers and nets, the loss and its gradients: by definition, by finite differences, and against torch.nn."""

import copy
import functools
import json
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from gradient_check import check_gradients

import fastconv as fc
from fastconv.layers import LAYERS, from_config
from fastconv.layers.base import Context, Layer
from fastconv.layers.containers import Concat, Residual
from fastconv.layers.graph import Graph
from fastconv.training.checkpoint import load_net, save_net

RNG = np.random.default_rng(0)


def full_net(rng=0):
    """One of everything that has weights, on (N, 2, 8, 8)."""
    rng = np.random.default_rng(rng)
    return fc.Sequential(
        fc.Conv2d(2, 4, 3, padding=1, rng=rng),
        fc.BatchNorm2d(4),
        fc.ReLU(),
        fc.MaxPool2d(2),
        fc.Sequential({"conv": fc.Conv2d(4, 6, 3, groups=2, bias=False, rng=rng), "pool": fc.AvgPool2d(2)}),
        fc.Flatten(),
        fc.Linear(6, 5, rng=rng),
        fc.BatchNorm1d(5),
        fc.ReLU(),
        fc.Linear(5, 3, bias=False, rng=rng),
    )


def data(dtype=np.float64, n=6):
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 2, 8, 8)).astype(dtype), rng.integers(0, 3, n)


def torch_net(torch):
    nn = torch.nn
    inner = nn.Sequential()
    inner.add_module("conv", nn.Conv2d(4, 6, 3, groups=2, bias=False))
    inner.add_module("pool", nn.AvgPool2d(2))
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), inner, nn.Flatten(),
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3, bias=False),
    )  # fmt: skip


# --- one layer at a time ---------------------------------------------------------------------------------------------

TWINS = {  # layer: (class name, arguments, options, input shape)
    "conv1d": ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}, (3, 4, 11)),
    "conv2d": ("Conv2d", (3, 5, (3, 2)), {"stride": (2, 1), "padding": (1, 0)}, (2, 3, 9, 8)),
    "conv2d same": ("Conv2d", (3, 5, 3), {"padding": "same", "bias": False}, (2, 3, 9, 8)),
    "conv3d": ("Conv3d", (2, 3, 2), {"stride": 2}, (2, 2, 5, 6, 4)),
    "max_pool1d": ("MaxPool1d", (3, 2), {"padding": 1}, (2, 3, 9)),
    "max_pool2d": ("MaxPool2d", (3,), {"stride": 2, "ceil_mode": True}, (2, 3, 8, 9)),
    "max_pool3d": ("MaxPool3d", (2,), {"dilation": 2}, (2, 3, 6, 6, 6)),
    "avg_pool1d": ("AvgPool1d", (2,), {}, (2, 3, 9)),
    "avg_pool2d": ("AvgPool2d", (3, 2, 1), {"count_include_pad": False}, (2, 3, 8, 9)),
    "avg_pool3d": ("AvgPool3d", ((1, 2, 2),), {"ceil_mode": True}, (2, 3, 5, 5, 5)),
    "linear": ("Linear", (7, 4), {}, (5, 7)),
    "linear no bias": ("Linear", (7, 4), {"bias": False}, (5, 7)),
    "batch_norm1d": ("BatchNorm1d", (4,), {"momentum": 0.3, "eps": 1e-2}, (6, 4)),
    "batch_norm1d of signals": ("BatchNorm1d", (4,), {}, (3, 4, 5)),
    "batch_norm2d": ("BatchNorm2d", (4,), {}, (3, 4, 5, 2)),
    "batch_norm2d not affine": ("BatchNorm2d", (4,), {"affine": False}, (3, 4, 5, 2)),
    "batch_norm2d without statistics": ("BatchNorm2d", (4,), {"track_running_stats": False}, (3, 4, 5, 2)),
    "batch_norm2d cumulative": ("BatchNorm2d", (4,), {"momentum": None}, (3, 4, 5, 2)),
    "batch_norm3d": ("BatchNorm3d", (2,), {}, (3, 2, 3, 2, 2)),
    "flatten": ("Flatten", (), {}, (3, 4, 2, 5)),
    "relu": ("ReLU", (), {"inplace": False}, (3, 4)),
    "softmax": ("Softmax", (1,), {}, (3, 4, 5)),
    "dropout": ("Dropout", (0.0,), {}, (3, 4, 5)),
}


@pytest.mark.parametrize("name", TWINS)
def test_layer_equals_torch(name):
    """state_dict, three calls in training, gradients, running statistics, one call in inference."""
    torch = pytest.importorskip("torch")
    kind, arguments, options, shape = TWINS[name]
    ours = getattr(fc, kind)(*arguments, **options).astype(np.float64)
    theirs = getattr(torch.nn, kind)(*arguments, **options).double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, tensor in theirs.state_dict().items():
        assert ours.state_dict()[key].shape == tuple(tensor.shape)
        assert str(ours.state_dict()[key].dtype) == str(tensor.dtype).removeprefix("torch.")
    ours.load_state_dict({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    rng = np.random.default_rng(2)
    for _ in range(3):
        x = rng.standard_normal(shape)
        t = torch.tensor(x, requires_grad=True)
        expected = theirs(t)
        y, saved = ours.forward(x, Context())
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-9, atol=1e-12)
        dy = rng.standard_normal(y.shape)
        parameters = dict(theirs.named_parameters())
        gradients = torch.autograd.grad(expected, [t, *parameters.values()], torch.tensor(dy))
        dx, inside = ours.backward(dy, saved, True)
        np.testing.assert_allclose(dx, gradients[0].numpy(), rtol=1e-8, atol=1e-10)
        assert inside.keys() == parameters.keys() == ours.parameters().keys()
        for key, gradient in zip(parameters, gradients[1:], strict=True):
            np.testing.assert_allclose(inside[key], gradient.numpy(), rtol=1e-8, atol=1e-10)
        if parameters:
            assert ours.backward(dy, saved, False)[0] is None
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], tensor.numpy(), rtol=1e-9)
    np.testing.assert_allclose(ours.eval()(x), theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TWINS)
def test_layer_is_data(name):
    kind, arguments, options, _ = TWINS[name]
    layer = getattr(fc, kind)(*arguments, **options)
    again = from_config(json.loads(json.dumps(layer.config())))
    assert repr(again) == repr(layer) and type(again) is type(layer)
    assert again.config() == layer.config()
    assert [array.shape for array in again.state_dict().values()] == [a.shape for a in layer.state_dict().values()]


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda rng: fc.Conv2d(16, 32, 3, groups=2, rng=rng), 72),
        (lambda rng: fc.Conv1d(16, 64, 5, rng=rng), 80),
        (lambda rng: fc.Conv3d(8, 64, 2, rng=rng), 64),
        (lambda rng: fc.Linear(50, 100, rng=rng), 50),
    ],
)
def test_initialisation_is_torchs(make, fan_in):
    """Uniform in +-1 / sqrt(fan_in), weights and biases."""
    layer = make(3)
    bound = 1 / math.sqrt(fan_in)
    for array in (layer.weight, layer.bias):
        assert array.dtype == np.float32
        assert np.abs(array).max() <= bound < np.abs(array).max() * 1.2
        assert abs(array.mean()) < 4 * bound / math.sqrt(3 * array.size)
        assert np.mean(array.astype(float) ** 2) == pytest.approx(bound**2 / 3, rel=0.3)
    np.testing.assert_array_equal(make(3).weight, layer.weight)
    assert not np.array_equal(make(4).weight, layer.weight)
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(make(generator).weight, layer.weight)
    assert not np.array_equal(make(generator).weight, layer.weight)
    fc.manual_seed(5)
    first = make(None).weight
    assert not np.array_equal(make(None).weight, first)
    fc.manual_seed(5)
    np.testing.assert_array_equal(make(None).weight, first)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fc.Conv2d(3), TypeError, "Conv2d: missing a required argument: 'out_channels'"),
        (
            lambda: fc.ConvTranspose2d(3, 4, 3, padding_mode="reflect"),
            TypeError,
            "padding_mode is accepted at its default 'zeros'",
        ),
        (lambda: fc.Conv2d(3, 4, 3, colour=1), TypeError, "Conv2d: unexpected keyword argument 'colour'"),
        (lambda: fc.Conv2d(3, 4, 3, device="cpu"), TypeError, "device is accepted at its default None only"),
        (lambda: fc.Conv2d(3, 4, 3, groups=2), fc.ShapeError, "groups must divide in_channels and out_channels, got 2"),
        (lambda: fc.Conv2d(3, 4, 0), fc.ShapeError, "Conv2d: kernel_size must be at least 1, got 0"),
        (lambda: fc.Linear(0, 4), fc.ShapeError, "Linear: in_features must be at least 1, got 0"),
        (lambda: fc.Linear(2**40, 2**40), MemoryError, "Linear: needs .* bytes of memory"),
        (lambda: fc.BatchNorm2d(2**50), MemoryError, "BatchNorm2d: needs"),
        (lambda: fc.ReLU(inplace=True), TypeError, "ReLU: inplace is accepted at its default False only, got True"),
        (
            lambda: fc.MaxPool2d(2, return_indices=True),
            TypeError,
            "return_indices is accepted at its default False only",
        ),
        (
            lambda: fc.AvgPool2d(2, divisor_override=3),
            TypeError,
            "divisor_override is accepted at its default None only",
        ),
        (lambda: fc.Flatten(0), TypeError, "start_dim is accepted at its default 1 only"),
        (lambda: fc.Dropout(1.5), ValueError, r"Dropout: p must lie in \[0, 1\], got 1.5"),
        (lambda: fc.Function("nothing"), ValueError, "Function: no operation is called 'nothing'"),
        (lambda: fc.Sequential(3), TypeError, "Sequential: '0' must be a layer, got 3"),
        (lambda: fc.Sequential({"a.b": fc.ReLU()}), ValueError, "must not be empty or hold a dot, got 'a.b'"),
        (lambda: fc.Conv2d(1, 1, 1, rng="seed"), TypeError, "rng must be a numpy.random.Generator, an int or None"),
        (lambda: full_net()(np.zeros((2, 3, 8, 8))), fc.ShapeError, r"conv2d: w must have .* \(in layer 0, Conv2d\)"),
        (lambda: full_net()(np.zeros((2, 8, 8))), fc.ShapeError, "conv2d: x must have 4 axes"),
        (
            lambda: full_net()(np.zeros((2, 2, 8, 8), complex)),
            TypeError,
            "the input must hold real numbers, got complex128",
        ),
        (lambda: fc.BatchNorm1d(4)(np.zeros((2, 4, 3, 3))), fc.ShapeError, "BatchNorm1d takes 2 or 3 axes"),
        (lambda: fc.BatchNorm2d(4)(np.zeros((2, 4))), fc.ShapeError, "BatchNorm2d takes 4 axes"),
        (
            lambda: full_net().freeze("7.wait"),
            ValueError,
            "^freeze: no layer or parameter is called '7.wait'; layers are 0, 1, ",
        ),
        (lambda: full_net().freeze("1.running_mean"), ValueError, "no layer or parameter is called '1.running_mean'"),
        (lambda: full_net().freeze("9.bias"), ValueError, "no layer or parameter is called '9.bias'"),
        (lambda: full_net().unfreeze("10"), ValueError, "^unfreeze: no layer or parameter is called '10'"),
        (
            lambda: full_net().load_state_dict([1]),
            TypeError,
            r"a dict of arrays by name, got list; write .*dict\(zip\(",
        ),
        (lambda: full_net().load_state_dict(None), TypeError, "must be a dict of arrays by name, got NoneType"),
        (lambda: full_net().load_state_dict("w.npz"), TypeError, "got str; read the file first"),
        (lambda: full_net().load_state_dict(full_net()), TypeError, r"write load_state_dict\(other.state_dict\(\)\)"),
        (lambda: full_net().predict(data()[0], batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: full_net().astype(np.float16), TypeError, "a net is float32 or float64, got float16"),
    ],
)
def test_bad_calls(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


NEVER = {  # layers that no input fits, as they are made: the operation's message
    "fc.Conv2d(1, 1, 2, padding='sam')": ("conv2d: padding must be numbers, .*'sam'; did you mean 'same'", ValueError),
    "fc.Conv1d(1, 1, 2, padding=-1)": ("conv1d: padding must be at least 0, got -1", ValueError),
    "fc.Conv3d(1, 1, 2, padding=(0, 1))": ("conv3d: padding must be one number or 3 of them, got 2", ValueError),
    "fc.Conv2d(1, 1, 2, padding=(0, 0, 0, 1))": (r"padding must be .* write \(\(0, 1\), \(0, 0\)\)$", ValueError),
    "fc.Conv2d(1, 1, 2, stride=0)": ("conv2d: stride must be at least 1, got 0", ValueError),
    "fc.Conv2d(1, 1, 2, stride=0.5)": (r"stride must be an integer, got 0.5; write Fraction\(1, 2\)", TypeError),
    "fc.Conv2d(1, 1, 2, dilation=0)": ("conv2d: dilation must be at least 1, got 0", ValueError),
    "fc.Conv2d(1, 1, 2, algorithm='winogrd')": ("algorithm must be one of .*; did you mean 'winograd'", ValueError),
    "fc.Conv2d(1, 1, 2.0)": ("Conv2d: kernel_size must be an integer, got 2.0; write 2", TypeError),
    "fc.Conv2d(1, 1, 3, padding_mode='reflekt')": ("Conv2d: padding_mode must be one of .*'reflect'", ValueError),
    "fc.Conv1d(1, 1, 3, Fraction(1, 2), padding_mode='circular')": ("takes an integer stride, got 1/2", ValueError),
    "fc.ZeroPad2d((1, 2))": ("ZeroPad2d: padding must be one number, 4 of them .*, got 2", ValueError),
    "fc.ReflectionPad1d(-1)": ("ReflectionPad1d: padding must be at least 0, got -1", ValueError),
    "fc.ConstantPad1d(1, 'a')": ("ConstantPad1d: value must be a number, got 'a'", TypeError),
    "fc.ConvTranspose2d(1, 1, 3, 2, output_padding=2)": ("output_padding must be smaller than stride or", ValueError),
    "fc.ConvTranspose2d(1, 1, 3, padding='same')": ("padding must be an integer, got 'same'", TypeError),
    "fc.ConvTranspose1d(1, 1, 3, stride=Fraction(1, 2))": ("conv_transpose1d: stride must be an integer", TypeError),
    "fc.LocallyConnected2d(1, 1, 3, 3, padding='sam')": ("locally_connected2d: padding must be numbers", ValueError),
    "fc.LocallyConnected2d(1, 1, 3, 3, stride=Fraction(1, 2))": ("stride must be an integer, got Frac", TypeError),
    "fc.MaxPool2d(0)": ("max_pool2d: kernel_size must be at least 1, got 0", ValueError),
    "fc.MaxPool1d(2, 0)": ("max_pool1d: stride must be at least 1, got 0", ValueError),
    "fc.MaxPool2d(2, stride=0.5)": ("max_pool2d: stride must be an integer, got 0.5$", TypeError),
    "fc.MaxPool3d((2, 4, 4), padding=(1, 2, 3))": ("padding must be at most half of the kernel: .* axis 2", ValueError),
    "fc.AvgPool2d(2, padding=2)": ("avg_pool2d: padding must be at most half of the kernel", ValueError),
    "fc.AvgPool2d(2, ceil_mode='yes')": ("ceil_mode must be True or False, got 'yes'", TypeError),
    "fc.LpPool2d(0, 2)": ("lp_pool2d: norm_type must be positive and finite, got 0", ValueError),
    "fc.AdaptiveAvgPool2d(0)": ("adaptive_avg_pool2d: output_size must be at least 1, got 0", ValueError),
    "fc.AdaptiveMaxPool2d((1, 2, 3))": ("output_size must be one number or 2 of them, got 3", ValueError),
    "fc.Downsample(2, 2)": ("downsample: phase must be less than factor, got 2 and 2", ValueError),
    "fc.Downsample((2,) * 4)": ("downsample: factor must be one number or 3 of them, got 4", ValueError),
    "fc.Reshape(-1, -1)": (r"reshape: shape may hold one -1, got 2: \(-1, -1\)", ValueError),
    "fc.Reshape(2, 0)": (r"reshape: shape must hold lengths of at least 1, .* got 0: \(2, 0\)", ValueError),
    "fc.Reshape('all')": ("reshape: shape must be an integer, got 'all'", TypeError),
    "fc.Reshape()": ("Reshape: missing a required argument: 'shape'", TypeError),
    "fc.Unflatten(0, (2, 2))": ("unflatten: dim must not be the batch axis, got 0", ValueError),
    "fc.Unflatten('C', (('a', 2), ('b', 2)))": ("unflatten: dim must be an integer, got 'C'", TypeError),
    "fc.Unflatten(1, ())": ("unflatten: sizes must hold at least one length, got none", ValueError),
    "fc.PixelShuffle(0)": ("pixel_shuffle: upscale_factor must be at least 1, got 0", ValueError),
    "fc.PixelShuffle(2.0)": ("pixel_shuffle: upscale_factor must be an integer, got 2.0; write 2", TypeError),
    "fc.PixelUnshuffle(None)": ("pixel_unshuffle: downscale_factor must be an integer, got None", TypeError),
    "fc.Upsample(0)": ("upsample: factor must be at least 1, got 0", ValueError),
    "fc.Upsample(None, 2)": ("Upsample: factor must be an integer, got None; .* Resize", TypeError),
    "fc.Resize()": ("resize: exactly one of size and scale must be given", ValueError),
    "fc.Resize(0)": ("resize: size must be at least 1, got 0", ValueError),
    "fc.Resize(scale_factor=-1)": ("resize: scale must be positive and finite, got -1", ValueError),
    "fc.Resize((1, 2, 3), mode='bilinear')": ("resize: size must be one number or 2 of them, got 3", ValueError),
    "fc.Resize(3, mode='bilinar')": ("Resize: mode must be one of .*; did you mean 'bilinear'", ValueError),
    "fc.FunctionPool2d(3, 2)": ("function_pool2d: function must be callable, got 3", TypeError),
    "fc.FunctionPool2d(np.max, 0)": ("function_pool2d: kernel_size must be at least 1, got 0", ValueError),
    "fc.NetworkPool2d(fc.Linear(4, 1), 2, 0)": ("network_pool2d: stride must be at least 1, got 0", ValueError),
    "fc.LeakyReLU('a')": ("leaky_relu: negative_slope must be a number, got 'a'", TypeError),
    "fc.ELU(None)": ("elu: alpha must be a number, got None", TypeError),
    "fc.GELU('tan')": ("gelu: approximate must be none or tanh, got 'tan'; did you mean 'tanh'", ValueError),
    "fc.Softplus(0)": ("softplus: beta must not be 0", ValueError),
    "fc.Softmax('1')": ("softmax: dim must be an integer, got '1'", TypeError),
    "fc.PReLU(1, 'a')": ("PReLU: init must be a number, got 'a'", TypeError),
    "fc.Dropout('a')": ("Dropout: p must be a number, got 'a'", TypeError),
    "fc.BatchNorm2d(-1)": ("BatchNorm2d: num_features must be at least 1, got -1", ValueError),
    "fc.BatchNorm2d(3, eps=-1)": ("batch_norm: eps must be at least 0, got -1", ValueError),
    "fc.BatchNorm2d(3, momentum='a')": ("batch_norm: momentum must be a number, got 'a'", TypeError),
    "fc.InstanceNorm2d(3, eps='a')": ("instance_norm: eps must be a number, got 'a'", TypeError),
    "fc.GroupNorm(1, 3, eps=-1)": ("group_norm: eps must be at least 0", ValueError),
    "fc.LayerNorm(())": ("LayerNorm: normalized_shape must have at least one axis", ValueError),
    "fc.LayerNorm(3, eps=math.nan)": ("layer_norm: eps must be a number, got nan", ValueError),
    "fc.LocalResponseNorm(0)": ("local_response_norm: size must be at least 1, got 0", ValueError),
    "fc.LocalResponseNorm(3, alpha='a')": ("local_response_norm: alpha must be a number, got 'a'", TypeError),
    "fc.Function('max_pool2d', kernel_size=0)": ("max_pool2d: kernel_size must be at least 1, got 0", ValueError),
    "fc.Function('max_pool2d')": ("max_pool2d: missing a required argument: 'kernel_size'", TypeError),
    "fc.Function('rel')": ("Function: no operation is called 'rel'; did you mean 'relu'", ValueError),
    "fc.Conv2d(1, 1, kernal_size=3)": ("Conv2d: unexpected keyword .*'kernal_size'; .* 'kernel_size'", TypeError),
    "fc.Upsample(scale_factor=2)": (r"'scale_factor'; torch's Upsample .* Resize\(scale_factor=", TypeError),
    "fc.Upsample(size=4)": (r"'size'; torch's Upsample .* Resize\(size=", TypeError),
    "fc.Sequential([fc.ReLU()])": (r"must be a layer, got list; write Sequential\(\*layers\)", TypeError),
}  # fmt: skip


@pytest.mark.parametrize("made", NEVER)
def test_layers_that_cannot_run_are_not_made(made):
    message, error = NEVER[made]
    with pytest.raises(error, match=message) as caught:
        eval(made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: fc.Conv2d(1, 1, (2, 3), (2**50, 1), 0, 1), (0, 1, 2**10, 3)),
        (lambda: fc.Conv1d(1, 1, 2, dilation=7, padding="same"), (0, 1, 1)),
        (lambda: fc.Conv1d(1, 1, 3, stride=Fraction(5, 3), padding="same_lower"), (0, 1, 1)),
        (lambda: fc.ConvTranspose1d(1, 1, 2, stride=2, padding=5, output_padding=1), (0, 1, 6)),
        (lambda: fc.MaxPool1d(2, 5, "same", 5), (0, 1, 10)),
        (lambda: fc.MaxPool1d(3, 2, 1, 4, False, True), (0, 1, 7)),
        (lambda: fc.AvgPool1d(10**6, 10**9, ceil_mode=True), (0, 1, 10**6)),
        (lambda: fc.Downsample(10**12, 10**12 - 1), None),
        (lambda: fc.Resize(scale_factor=1e-9), None),
        (lambda: fc.AdaptiveAvgPool2d((None, 3)), (0, 1, 1, 1)),
    ],
)
def test_layers_that_some_input_fits_are_made(layer, shape):
    made = layer()
    if shape is not None:
        assert made(np.zeros(shape, np.float32)).shape[0] == 0


@pytest.mark.parametrize("config", [
    {"layer": "Conv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 2, "padding": "sam"},
    {"layer": "MaxPool2d", "kernel_size": 0},
    {"layer": "Resize", "size": 3, "mode": ["nearest"]},
    {"layer": "Softplus", "beta": 0},
    {"layer": "Function", "name": "max_pool2d", "kernel_size": [2, 2, 2]},
    {"layer": "Conv2d", "kernel_size": 3, "in_channels": 1, "out_channels": 1, "padding": [0, 0, 0, 1]},
])  # fmt: skip
def test_what_cannot_run_is_no_configuration(config):
    with pytest.raises(ValueError, match=r".+") as caught:
        from_config(config)
    assert "\n" not in str(caught.value)


SCALARS = {  # layers made of NumPy's numbers, and of Python's
    "conv": (
        lambda n, f, b, s: fc.Conv2d(n(2), n(4), n(3), n(1), n(1), n(1), n(2), b(False), s("zeros"), rng=n(3)),
        (2, 2, 6, 6),
    ),
    "same": (lambda n, f, b, s: fc.Conv1d(2, 4, (n(3),), [n(1)], s("same"), algorithm=s("im2col"), rng=1), (2, 2, 6)),
    "transposed": (lambda n, f, b, s: fc.ConvTranspose2d(2, 4, (n(3),), n(2), (n(1),), (n(1),), rng=2), (2, 2, 4, 4)),
    "max": (lambda n, f, b, s: fc.MaxPool2d(n(2), n(2), n(1), n(1), b(False), b(True)), (2, 2, 5, 5)),
    "avg": (lambda n, f, b, s: fc.AvgPool2d(n(2), None, n(1), b(True), b(False)), (2, 2, 5, 5)),
    "lp": (lambda n, f, b, s: fc.LpPool2d(f(2), n(2), (n(2),), b(True)), (2, 2, 5, 5)),
    "adaptive": (lambda n, f, b, s: fc.AdaptiveAvgPool2d((n(2), None)), (2, 2, 5, 5)),
    "resampled": (
        lambda n, f, b, s: fc.Sequential(fc.Downsample((n(2),), n(1)), fc.Upsample(n(2), (n(9),))), (2, 2, 5, 5),
    ),
    "resized": (lambda n, f, b, s: fc.Resize(None, f(2.5), s("bilinear"), b(True)), (2, 2, 5, 5)),
    "linear": (lambda n, f, b, s: fc.Linear(n(5), n(3), b(True), rng=3), (2, 5)),
    "activations": (
        lambda n, f, b, s: fc.Sequential(
            fc.LeakyReLU(f(0.25), b(False)), fc.ELU(f(2)), fc.GELU(s("tanh")), fc.Softplus(f(1), f(20)),
            fc.PReLU(n(5), f(0.25)), fc.Softmax(n(1)), fc.Dropout(f(0.5)),
        ),
        (2, 5),
    ),
    "norms": (
        lambda n, f, b, s: fc.Sequential(
            fc.BatchNorm2d(n(2), f(0.5), f(0.25), b(True), b(True)), fc.InstanceNorm2d(n(2), f(0.5), f(0.25), b(True)),
            fc.GroupNorm(n(1), n(2), f(0.5), b(True)), fc.LayerNorm((n(5),), f(0.5), b(True), b(False)),
            fc.LocalResponseNorm(n(3), f(0.5), f(0.75), f(1)),
        ),
        (2, 2, 5, 5),
    ),
    "functions": (
        lambda n, f, b, s: fc.Sequential(
            fc.Function(s("max_pool2d"), kernel_size=n(2), ceil_mode=b(True)),
            fc.Function(s("leaky_relu"), negative_slope=f(0.25)),
        ),
        (2, 2, 5, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALARS)
def test_layers_of_numpys_numbers(name):
    """They are the layers of Python's numbers, and so are their configurations."""
    make, shape = SCALARS[name]
    expected = make(int, float, bool, str).eval()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    kinds = [(np.int64, np.float32, np.bool_, np.str_), (np.uint8, np.float64, np.bool_, np.str_)]
    kinds.append((lambda n: np.array(n), lambda f: np.array(float(f)), lambda b: np.array(b), str))
    for kind in kinds:
        layer = make(*kind).eval()
        assert json.loads(json.dumps(layer.config())) == json.loads(json.dumps(expected.config()))
        assert repr(layer) == repr(expected)
        np.testing.assert_array_equal(layer(x), expected(x), strict=True)
        assert layer.predict(x[:0]).shape == (0, *expected(x).shape[1:])
        y, pullback = fc.vjp(layer, x[:0])
        assert pullback(y)[0].shape == x[:0].shape
    again = from_config(json.loads(json.dumps(layer.config())))
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again.eval()(x), expected(x))


def test_arrays_as_sizes_are_data():
    layer = fc.MaxPool2d(np.array([3, 2]), padding=np.array([[0, 1], [1, 0]]))
    assert layer.config() == {"layer": "MaxPool2d", "kernel_size": [3, 2], "padding": [[0, 1], [1, 0]]}


def test_inputs_that_are_lists():
    net = fc.Sequential(fc.Linear(2, 2, rng=0))
    assert net([[1.5, 2.5]]).dtype == np.float32
    assert net.astype(np.float64)([[1.5, 2.5]]).dtype == np.float64
    assert fc.ReLU()([[1.5, 2.5]]).dtype == np.float32
    assert fc.ReLU()(np.ones((2, 2))).dtype == np.float64
    with pytest.raises(fc.ShapeError, match="Sequential: x must be a rectangular array"):
        net([[1.5, 2.5], [3.5]])


def test_dropout():
    x = np.ones((50, 40), np.float32)
    layer = fc.Dropout(0.3)
    fc.manual_seed(1)
    y = layer(x)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.7)} and abs((y == 0).mean() - 0.3) < 0.05
    assert not np.array_equal(layer(x), y)
    fc.manual_seed(1)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer.eval()(x), x)
    rng = np.random.default_rng(3)
    first = layer.forward(x, Context(training=True, rng=rng))[0]
    again = layer.forward(x, Context(training=True, rng=np.random.default_rng(3)))[0]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: fc.BatchNorm2d(4, **options),
        lambda **options: fc.InstanceNorm2d(4, affine=True, **options),
        lambda **options: fc.GroupNorm(2, 4, **options),
    ],
)
def test_norms_without_a_bias(make):
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 5))
    layer = make(bias=False)
    assert list(layer.parameters()) == ["weight"]
    layer.weight[...] = (1, 2, 3, 4)
    layer = layer.astype(np.float64)
    y, saved = layer.forward(x, Context(training=True))
    _, gradients = layer.backward(y, saved, True)
    full = make().astype(np.float64)
    full.weight[...] = layer.weight
    expected, saved = full.forward(x, Context(training=True))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(gradients["weight"], full.backward(y, saved, True)[1]["weight"])
    assert gradients.keys() == {"weight"}


def test_function_layers():
    x = data()[0]
    net = fc.Sequential(fc.Function("relu"), fc.Function("max_pool2d", kernel_size=2, stride=Fraction(2)))
    np.testing.assert_array_equal(net(x), fc.functional.max_pool2d(fc.functional.relu(x), 2))
    again = from_config(json.loads(json.dumps(net.config())))
    np.testing.assert_array_equal(again(x), net(x))
    assert again[1]._arguments["stride"] == Fraction(2)


# --- nets ------------------------------------------------------------------------------------------------------------


def test_net_equals_torch_through_three_steps():
    torch = pytest.importorskip("torch")
    theirs, ours = torch_net(torch).double(), full_net().astype(np.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert list(ours.parameters()) == [name for name, _ in theirs.named_parameters()]
    ours.load_state_dict({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    x, y = data()
    optimizer, twin = fc.optim.SGD(0.1, 0.9), torch.optim.SGD(theirs.parameters(), 0.1, 0.9)
    for _ in range(3):
        twin.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y), label_smoothing=0.1)
        loss.backward()
        twin.step()
        smooth = functools.partial(fc.functional.cross_entropy, label_smoothing=0.1)
        value, gradients = fc.value_and_grad(ours, smooth, x, y)
        assert value == pytest.approx(float(loss.detach()), rel=1e-10)
        for name, parameter in theirs.named_parameters():
            np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-7, atol=1e-10)
        optimizer.step(ours.parameters(), gradients)
    theirs.load_state_dict({key: torch.tensor(array) for key, array in ours.state_dict().items()})  # and back
    np.testing.assert_allclose(ours.predict(x), theirs.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-9)


NETS = {
    "sequential": full_net,
    "residual": lambda: fc.Sequential(
        Residual(
            fc.Sequential(fc.Conv2d(2, 3, 3, padding=1, rng=1), fc.BatchNorm2d(3)),
            fc.Conv2d(2, 3, 1, rng=2),
        ),
        Residual(fc.Conv2d(3, 3, 3, padding="same", rng=3)),
        fc.Flatten(),
        fc.Linear(192, 3, rng=4),
    ),
    "concat": lambda: fc.Sequential(
        Concat(fc.Conv2d(2, 3, 1, rng=1), fc.Conv2d(2, 2, 3, padding=1, rng=2)), fc.Flatten(), fc.Linear(320, 3, rng=4)
    ),
    "shapes": lambda: fc.Sequential(
        fc.Identity(), fc.Conv2d(2, 8, 3, padding=1, rng=1), Residual(fc.Identity()), fc.PixelShuffle(2), fc.Tanh(),
        fc.Conv2d(2, 1, 1, rng=2), Residual(fc.Sequential(fc.PixelUnshuffle(2), fc.Reshape(1, 16, 16)), fc.Identity()),
        fc.Reshape(-1), fc.Linear(256, 12, rng=3), fc.Unflatten(1, (3, 2, -1)), fc.Conv2d(3, 3, 2, rng=4), fc.Flatten(),
    ),
    "graph": lambda: Graph({
        "stem": (fc.Conv2d(2, 3, 3, padding=1, rng=1), "input"),
        "left": (fc.Conv2d(3, 3, 3, padding=1, rng=2), "stem"),
        "sum": ("add", "stem", "left"),
        "again": ("left", "sum"),
        "both": ("concat", "sum", "again"),
        "flat": (fc.Flatten(), "both"),
        "out": (fc.Linear(384, 3, rng=3), "flat"),
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_value_and_grad_by_finite_differences(name):
    net = NETS[name]().astype(np.float64)
    x, y = data()
    names = list(net.parameters())
    value, gradients = fc.value_and_grad(net, "cross_entropy", x, y)
    assert list(gradients) == names or gradients.keys() == set(names)
    buffers = {key: array for key, array in net.state_dict().items() if key not in names}

    def loss(*arrays):
        moved = copy.deepcopy(net)
        moved.load_state_dict({**dict(zip(names, arrays, strict=True)), **buffers})
        return np.asarray(fc.value_and_grad(moved, fc.functional.cross_entropy, x, y)[0])

    arrays = [net.parameters()[key].copy() for key in names]
    assert loss(*arrays) == value
    check_gradients(loss, arrays, np.ones(()), [gradients[key] for key in names], range(len(names)))


@pytest.mark.parametrize("name", NETS)
def test_vjp_of_a_net(name):
    """The gradient to the input, with the weights and in the mode of the call, however often and late it is wanted."""
    net = NETS[name]().astype(np.float64)
    x, _ = data()
    net(x)  # some running statistics
    for training in (False, True):
        net.train(training)
        y, pullback = fc.vjp(net, x)
        dy = RNG.standard_normal(y.shape)
        (dx,) = pullback(dy)
        check_gradients(lambda x: net(x), [x], dy, [dx], [0])
        for parameter in net.parameters().values():
            parameter *= 1.5
        (again,) = pullback(dy)
        np.testing.assert_array_equal(again, dx)
        again[...] = 0
        y[...] = 0
        np.testing.assert_array_equal(pullback(dy)[0], dx)
        with pytest.raises(fc.ShapeError, match="dy must have the output's shape"):
            pullback(dy[:1])
        for parameter in net.parameters().values():
            parameter /= 1.5


def test_frozen_parameters():
    """What is not frozen has the same gradient to the bit, what is frozen has none."""
    x, y = data(np.float32)
    expected_loss, expected = fc.value_and_grad(full_net(), "cross_entropy", x, y)
    norms = ["1.weight", "1.bias", "7.weight", "7.bias"]  # as wholes they would keep their statistics too
    for frozen in (["0"], ["9"], ["0.weight", "6.bias"], ["0", *norms, "4"], ["4.conv", "7.weight"], list(expected)):
        net = full_net()
        for name in frozen:
            assert net.freeze(name) is net
        left = [
            key
            for key in full_net().parameters()
            if not any(key == name or key.startswith(f"{name}.") for name in frozen)
        ]
        assert net.state_dict()["1.num_batches_tracked"] == 0
        assert list(net.parameters()) == left and net.is_trainable() == bool(left)
        loss, gradients = fc.value_and_grad(net, "cross_entropy", x, y)
        assert loss == expected_loss and gradients.keys() == set(left)
        assert net.state_dict()["1.num_batches_tracked"] == 1
        for name in left:
            np.testing.assert_array_equal(gradients[name], expected[name])
        assert net.state_dict().keys() == full_net().state_dict().keys()
        (dx,) = fc.vjp(net, x)[1](np.ones((6, 3), np.float32))
        np.testing.assert_array_equal(dx, fc.vjp(full_net(), x)[1](np.ones((6, 3), np.float32))[0])
        net.unfreeze()
        assert net.parameters().keys() == expected.keys()


def test_load_state_dict_is_all_or_nothing():
    net = full_net()
    before, kept = net.state_dict(), net.parameters()
    other = {name: array + 1 for name, array in full_net(7).state_dict().items()}
    for change, error, message in (
        ({"9.weight": other["9.weight"][:2]}, fc.ShapeError, r"9.weight must have shape \(3, 5\), got \(2, 5\)"),
        ({"9.weight": other["9.weight"] + 0j}, TypeError, "9.weight must hold real numbers, got complex64"),
        ({"x": 1}, ValueError, "missing none; unknown x"),
    ):
        with pytest.raises(error, match=message):
            net.load_state_dict({**other, **change})
    with pytest.raises(ValueError, match=r"missing 9\.weight; unknown none"):
        net.load_state_dict({name: array for name, array in other.items() if name != "9.weight"})
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    found = net.load_state_dict({"9.weight": other["9.weight"], "x": 1, "a": 2}, strict=False)
    assert found.missing_keys == [name for name in before if name != "9.weight"]
    assert found.unexpected_keys == ["x", "a"] and found == (found.missing_keys, found.unexpected_keys)
    np.testing.assert_array_equal(net.state_dict()["9.weight"], other["9.weight"])
    np.testing.assert_array_equal(net.state_dict()["0.weight"], before["0.weight"])
    assert net.load_state_dict({name: array.astype(np.float64).tolist() for name, array in other.items()}) == ([], [])
    for name, parameter in net.parameters().items():
        assert parameter is kept[name]  # in place
        np.testing.assert_array_equal(parameter, other[name])
    assert not any(np.shares_memory(a, b) for a in net.state_dict().values() for b in kept.values())
    assert all(array.flags.c_contiguous for array in net.state_dict().values())


def test_load_state_dict_by_other_names():
    net, other = full_net(), full_net()
    state = {f"module.{name}": array + 1 for name, array in other.state_dict().items()}
    assert net.load_state_dict(state, rename={"module": ""}) == ([], [])
    assert all((net.state_dict()[name] == array).all() for name, array in ((k[7:], v) for k, v in state.items()))
    assert net.load_state_dict(other.state_dict(), rename=lambda name: name) == ([], [])
    head = fc.Sequential({"body": fc.Linear(2, 3), "head": fc.Linear(3, 2)})
    given = {"m.encoder.weight": np.ones((3, 2)), "m.encoder.bias": np.ones(3), "m.fc.weight": np.ones((5, 3)),
             "m.fc.bias": np.ones(5), "m.extra": 1.0}  # fmt: skip
    before = head.state_dict()
    keys = head.load_state_dict(
        given, strict=False, rename={"m.": "", "m.encoder": "body", "m.fc": "head"}, ignore_mismatched_sizes=True
    )
    missing, unexpected = keys
    assert (missing, unexpected) == (keys.missing_keys, keys.unexpected_keys) == ([], ["extra"])
    assert keys.mismatched_keys == [("head.weight", (5, 3), (2, 3)), ("head.bias", (5,), (2,))]
    assert repr(keys).startswith(
        "LoadedKeys(missing_keys=[], unexpected_keys=['extra'], mismatched_keys=[('head.weight'"
    )
    assert (head["body"].weight == 1).all() and (head["head"].weight == before["head.weight"]).all()
    assert pickle.loads(pickle.dumps(keys)).mismatched_keys == keys.mismatched_keys
    assert head.load_state_dict(given, False, rename=lambda name: None) == (list(before), [])
    assert fc.Sequential(head).load_state_dict(before, rename={"": "0"}) == ([], [])
    with pytest.raises(
        fc.ShapeError, match=r"head.weight must have shape \(2, 3\), got \(5, 3\); to leave it out: ignore"
    ):
        head.load_state_dict(given, False, rename={"m.fc": "head"})
    with pytest.raises(ValueError, match=r"rename gives two arrays the name 'x', 'm\.encoder\.bias' the second time"):
        head.load_state_dict(given, rename=lambda name: "x")
    with pytest.raises(TypeError, match="rename must be a dict of names or a function, got 3"):
        head.load_state_dict(given, rename=3)
    with pytest.raises(TypeError, match=r"rename must have names for names, got .*; to leave arrays out: a function"):
        head.load_state_dict(given, rename={"m.extra": None})


# --- what does not train ---------------------------------------------------------------------------------------------


class Twice(Layer):
    """A layer of one's own with layers inside, one of them used twice."""

    def __init__(self, inner, norm):
        self.inner, self.norm = inner, norm

    def children(self):
        return {"inner": self.inner, "norm": self.norm}

    def forward(self, x, context):
        a, saved_a = self.norm.forward(x, context)
        b, saved_b = self.inner.forward(a, context)
        c, saved_c = self.norm.forward(b, context)
        return c, (saved_a, saved_b, saved_c)

    def backward(self, dy, saved, need_dx):
        gradients = {}
        for name, layer, kept in reversed(list(zip(("norm", "inner", "norm"), self._order(), saved, strict=True))):
            dy, inside = layer.backward(dy, kept, True)
            for key, value in inside.items():
                full = f"{name}.{key}"
                gradients[full] = gradients[full] + value if full in gradients else value
        return dy, gradients

    def _order(self):
        return self.norm, self.inner, self.norm


def bn(n=2):
    layer = fc.BatchNorm2d(n)
    layer.running_mean[...] = RNG.standard_normal(n) * 0.1
    layer.running_var[...] = RNG.uniform(0.5, 2, n)
    return layer


def conv(*arguments):
    return fc.Conv2d(*arguments, padding="same", rng=1)


def tracking_instance_norm():
    layer = fc.InstanceNorm2d(2, affine=True, track_running_stats=True)
    layer.running_var[...] = 1.5
    return layer


ASIDE = {  # a net on (N, 2, 8, 8), the name of its norm, and names of what it is part of
    "alone": (lambda: bn(), "", []),
    "sequential": (lambda: fc.Sequential(conv(2, 2, 3), bn(), conv(2, 2, 1)), "1", []),
    "nested": (lambda: fc.Sequential(fc.Sequential({"a": fc.Sequential(conv(2, 2, 3), bn())}), fc.ReLU()), "0.a.1",
               ["0", "0.a"]),
    "residual": (lambda: Residual(fc.Sequential(conv(2, 2, 3), bn()), conv(2, 2, 1)), "body.1", ["body"]),
    "shortcut": (lambda: Residual(conv(2, 2, 3), fc.Sequential(bn())), "shortcut.0", ["shortcut"]),
    "concat": (lambda: Concat(conv(2, 3, 3), fc.Sequential(conv(2, 2, 1), bn())), "1.1", ["1"]),
    "graph": (lambda: Graph({"a": (conv(2, 2, 3), "input"), "norm": (bn(), "a"), "b": (conv(2, 2, 1), "norm"),
                             "again": ("norm", "b"), "sum": ("add", "again", "a")}), "norm", []),
    "shared": (lambda: (lambda norm: fc.Sequential(norm, conv(2, 2, 3), norm))(bn()), "0", ["2"]),
    "pooling net": (lambda: fc.Sequential(fc.NetworkPool2d(fc.Sequential(fc.Linear(4, 3, rng=0), fc.BatchNorm1d(3),
                                                                         fc.Linear(3, 1, rng=1)), 2)),
                    "0.network.1", ["0", "0.network"]),
    "of one's own": (lambda: fc.Sequential(Twice(conv(2, 2, 3), bn())), "0.norm", ["0"]),
    "instance norm": (lambda: fc.Sequential(conv(2, 2, 3), tracking_instance_norm()), "1", []),
}  # fmt: skip


def norm_of(net, name):
    return dict(net.walk())[name]


def statistics(layer):
    return [getattr(layer, name).copy() for name in layer.buffer_names]


def same_arrays(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ASIDE)
def test_parts_put_aside_keep_their_statistics(name):
    """Frozen as a whole by each of its names, or in inference within a net in training: the running statistics are
    used, with their gradient, and kept, by value_and_grad, a Trainer and vjp; else they move."""
    make, norm_name, above = ASIDE[name]
    x = RNG.standard_normal((5, 2, 8, 8))
    target = np.zeros(make()(x).shape)

    def moves(net):
        layer = norm_of(net, norm_name)
        before = statistics(layer)
        value, gradients = fc.value_and_grad(net, "mse_loss", x, target)
        moved = not same_arrays(before, statistics(layer))
        before = statistics(layer)
        if net.is_trainable():
            trained = copy.deepcopy(net)
            fc.Trainer(trained, fc.optim.SGD(0.0), "mse_loss").fit(x, target, epochs=1)
            assert moved == (not same_arrays(before, statistics(norm_of(trained, norm_name))))
        return moved, value, gradients

    net = make().astype(np.float64)
    moved, training_value, _ = moves(net)
    assert moved
    assert moves(make().astype(np.float64).eval())[0]  # a whole net in inference trains all the same
    ways = [lambda net, each=each: net.freeze(each) for each in (norm_name, *above)]
    if norm_name:
        ways.append(lambda net: norm_of(net, norm_name).eval())
        ways.append(lambda net: norm_of(net, norm_name.rpartition(".")[0]).eval() and net.__setattr__("training", True))
    ways += [lambda net: net.eval().freeze(norm_name)]
    for put_aside in ways:
        net = make().astype(np.float64)
        put_aside(net)
        layer = norm_of(net, norm_name)
        moved, value, gradients = moves(net)
        assert not moved and value != training_value
        assert gradients.keys() == set(net.parameters())
        if gradients:
            names = list(gradients)

            def loss(*arrays, net=net, names=names):
                twin = copy.deepcopy(net)
                for key, array in zip(names, arrays, strict=True):
                    twin.parameters()[key][...] = array
                return np.asarray(fc.value_and_grad(twin, "mse_loss", x, target)[0])

            arrays = [net.parameters()[key].copy() for key in names]
            check_gradients(loss, arrays, np.ones(()), [gradients[key] for key in names], range(len(names)))
        before = statistics(layer)
        y, pullback = fc.vjp(net, x)
        dy = RNG.standard_normal(y.shape)
        assert same_arrays(before, statistics(layer))
        check_gradients(lambda x, net=net: net(x), [x], dy, [pullback(dy)[0]], [0])
        assert same_arrays(before, statistics(layer))
        net.train().unfreeze()
        assert moves(net)[0]
    net = make().astype(np.float64)
    for parameter in net.parameters():
        net.freeze(parameter)  # one by one: nothing is frozen as a whole
    assert moves(net)[0] and not net.is_trainable()


def test_norms_put_aside_equal_torchs():
    torch = pytest.importorskip("torch")
    x, y = data()
    for put_aside in (
        lambda net: net.freeze("1"),
        lambda net: net[1].eval(),
        lambda net: net.eval().freeze("1"),
    ):
        theirs, ours = torch_net(torch).double(), full_net().astype(np.float64)
        ours.load_state_dict({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
        put_aside(ours)
        theirs[1].eval()
        for parameter in theirs[1].parameters():
            parameter.requires_grad = "1.weight" in ours.parameters()
        optimizer = fc.optim.SGD(0.1, 0.9)
        twin = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], 0.1, 0.9)
        for _ in range(3):
            twin.zero_grad()
            loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
            loss.backward()
            twin.step()
            value, gradients = fc.value_and_grad(ours, "cross_entropy", x, y)
            assert value == pytest.approx(float(loss.detach()), rel=1e-10)
            optimizer.step(ours.parameters(), gradients)
        for name, tensor in theirs.state_dict().items():
            np.testing.assert_allclose(ours.state_dict()[name], tensor.numpy(), rtol=1e-7, atol=1e-10)


def test_dropout_goes_by_the_mode():
    x, y = np.ones((4, 6), np.float32), np.zeros((4, 6), np.float32)
    for make in (lambda: fc.Dropout(0.5), lambda: fc.Dropout2d(0.5)):
        net = fc.Sequential(fc.Linear(6, 6, rng=0), make())

        def varies(net=net):
            values = {fc.value_and_grad(net, "mse_loss", x, y, rng=np.random.default_rng(n))[0] for n in range(5)}
            return len(values) > 1

        assert varies()
        net.freeze("1")
        assert varies() and set(np.unique(net[1](x))) <= {0, 2}
        net.unfreeze()[1].eval()
        assert not varies()
        net.eval()
        assert varies()  # the whole net's mode does not matter


def test_freezing_and_unfreezing():
    net = fc.Sequential({"a": fc.Sequential(fc.Linear(3, 3, rng=0), fc.BatchNorm1d(3)), "b": fc.BatchNorm1d(3),
                         "drop": fc.Dropout(0.5), "relu": fc.ReLU()})  # fmt: skip
    x = RNG.standard_normal((4, 3))

    def state():
        before = net.state_dict()
        fc.value_and_grad(net, "mse_loss", x, np.zeros((4, 3)))
        moving = {name for name in ("a.1", "b") if net.state_dict()[f"{name}.num_batches_tracked"] !=
                  before[f"{name}.num_batches_tracked"]}  # fmt: skip
        return sorted(net.parameters()), moving

    everything = sorted(net.parameters())
    for name in ("drop", "relu"):
        assert net.freeze(name) is net and state() == (everything, {"a.1", "b"})
    net.freeze("a")
    assert state() == (["b.bias", "b.weight"], {"b"})
    net.unfreeze("a.0")  # a part of what was frozen
    assert state() == (["a.0.bias", "a.0.weight", "b.bias", "b.weight"], {"b"})
    net.unfreeze("a.1.bias")  # one parameter: the layer is no longer frozen as a whole
    assert state() == (["a.0.bias", "a.0.weight", "a.1.bias", "b.bias", "b.weight"], {"a.1", "b"})
    net.freeze("a.1")
    net.unfreeze("a")
    assert state() == (everything, {"a.1", "b"})
    net.freeze()
    assert state() == ([], set())
    net.unfreeze("b")
    assert state() == (["b.bias", "b.weight"], {"b"})
    net.unfreeze()
    net.freeze("b.weight").freeze("b.bias")
    assert state() == (["a.0.bias", "a.0.weight", "a.1.bias", "a.1.weight"], {"a.1", "b"})


def flags(net):
    return [(name, layer.training, layer._frozen_whole, sorted(layer._frozen)) for name, layer in net.walk()]


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "astype", "file"])
@pytest.mark.parametrize("name", [name for name in ASIDE if name not in ("of one's own", "shared")])
def test_copies_and_files_keep_modes_and_what_is_frozen(name, how, tmp_path):
    make, norm_name, _ = ASIDE[name]
    x = RNG.standard_normal((5, 2, 8, 8))
    target = np.zeros(make()(x).shape)
    layers = [layer for layer, _ in make().walk()]
    for change in (
        lambda net: net.eval(),
        lambda net: net.freeze(norm_name),
        lambda net: net.freeze().unfreeze(norm_name),
        lambda net: norm_of(net, layers[-1]).eval(),
        lambda net: net.eval() and norm_of(net, norm_name).train(),
        lambda net: net.freeze(next(iter(net.parameters()))),
    ):
        net = make().astype(np.float64)
        change(net)
        if how == "file":
            save_net(tmp_path / "net", net)
            again = load_net(tmp_path / "net")
        else:
            again = {
                "deepcopy": copy.deepcopy,
                "pickle": lambda net: pickle.loads(pickle.dumps(net)),
                "astype": lambda net: net.astype(np.float64),
            }[how](net)
        assert flags(again) == flags(net)
        ours, theirs = (fc.value_and_grad(each, "mse_loss", x, target) for each in (net, again))
        assert ours[0] == theirs[0] and ours[1].keys() == theirs[1].keys()
        for key, array in net.state_dict().items():
            np.testing.assert_array_equal(again.state_dict()[key], array)


def test_weights_changed_in_place_are_seen():
    net = fc.Sequential(fc.Flatten(), fc.Linear(4, 2, rng=0))
    x = np.ones((1, 4), np.float32)
    net.parameters()["1.weight"][...] = 0
    net.parameters()["1.bias"][...] = (1, 2)
    np.testing.assert_array_equal(net(x), [[1, 2]])


def test_dtypes():
    x, y = data(np.float32)
    net = full_net().eval()
    expected = net(x)
    assert net.dtype == expected.dtype == np.float32
    for other in (
        x.astype(np.float64),
        x.astype(">f4"),
        x.tolist(),
    ):
        np.testing.assert_array_equal(net(other), expected)
    pixels = (x * 20).astype(np.uint8)
    np.testing.assert_array_equal(net(pixels), net(pixels.astype(np.float32)))
    double = net.astype(np.float64)
    assert double.dtype == double(x).dtype == double(pixels).dtype == np.float64
    assert net.dtype == np.float32 and not any(layer.training for _, layer in double.walk())
    assert double.state_dict()["1.num_batches_tracked"].dtype == np.int64
    np.testing.assert_allclose(double(x), expected, rtol=1e-3, atol=1e-5)
    for name, parameter in net.parameters().items():
        assert double.parameters()[name].strides == tuple(2 * n for n in parameter.strides)
        assert not np.shares_memory(double.parameters()[name], parameter)
    for gradient in fc.value_and_grad(double, "cross_entropy", pixels, y)[1].values():
        assert gradient.dtype == np.float64
    no_weights = fc.Sequential(fc.MaxPool2d(2), fc.ReLU())
    assert no_weights.dtype is None
    assert no_weights(x.astype(np.float64)).dtype == np.float64
    assert no_weights(pixels).dtype == no_weights(x.astype(np.float16)).dtype == np.float32


def test_modes_and_predict():
    net = full_net()
    x, _ = data(np.float32, n=11)
    assert net.train() is net and all(layer.training for _, layer in net.walk())
    before = net.state_dict()
    y = net.predict(x)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert net.training
    np.testing.assert_array_equal(net.eval()(x), y)
    assert not any(layer.training for _, layer in net.walk())
    for size in (1, 4, 11, 100):
        np.testing.assert_allclose(net.predict(x, batch_size=size), y, rtol=1e-5, atol=1e-6)
    assert net.predict(x[:0]).shape == (0, 3)
    net.train()
    net(x)
    assert net.state_dict()["1.num_batches_tracked"] == 1


def test_containers():
    inner = [fc.Linear(4, 3, rng=0), fc.ReLU(), fc.Linear(3, 2, rng=1)]
    net = fc.Sequential(*inner)
    assert len(net) == 3 and list(net) == inner and net[0] is inner[0] and net[-1] is inner[2] and net["1"] is inner[1]
    assert list(net[:2]) == inner[:2] and net[:2][0].weight is inner[0].weight
    assert [name for name, _ in net.walk()] == ["", "0", "1", "2"]
    assert repr(net) == (
        "Sequential(\n  (0): Linear(in_features=4, out_features=3)\n  (1): ReLU()\n"
        "  (2): Linear(in_features=3, out_features=2)\n)"
    )
    named = fc.Sequential({"first": inner[0], "second": inner[2]})
    assert list(named.parameters()) == ["first.weight", "first.bias", "second.weight", "second.bias"]
    x = np.ones((2, 4))
    np.testing.assert_array_equal(fc.Sequential()(x), x.astype(np.float64))
    assert list(NETS["residual"]().parameters())[:4] == [
        "0.body.0.weight", "0.body.0.bias", "0.body.1.weight", "0.body.1.bias",
    ]  # fmt: skip
    assert "left.weight" in NETS["graph"]().parameters() and "again.weight" not in NETS["graph"]().parameters()


@pytest.mark.parametrize("name", NETS)
def test_nets_are_data_and_can_be_copied(name):
    net = NETS[name]()
    x = data(np.float32)[0]
    rebuilt = from_config(json.loads(json.dumps(net.config())))
    rebuilt.load_state_dict(net.state_dict())
    for other in (rebuilt, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(other) == repr(net)
        np.testing.assert_array_equal(other.predict(x), net.predict(x))
        assert not any(a is b for a in other.parameters().values() for b in net.parameters().values())


def test_what_files_may_name():
    assert "Conv2d" in LAYERS and "Layer" not in LAYERS and "_Conv" not in LAYERS

    class Mine(Layer):
        pass

    assert "Mine" not in LAYERS
    with pytest.raises(ValueError, match="Mine: only fastconv's own layers can be saved"):
        Mine().config()
    layer = fc.ReLU()
    layer._arguments["inplace"] = object()
    with pytest.raises(ValueError, match=r"argument inplace=<object .* is no data and cannot be saved"):
        layer.config()


# --- the loss --------------------------------------------------------------------------------------------------------


def test_losses():
    net = full_net().astype(np.float64)
    x, y = data()
    weight = np.array([1.0, 2.0, 0.5])
    by_name = fc.value_and_grad(net, "cross_entropy", x, y)
    by_function = fc.value_and_grad(net, fc.functional.cross_entropy, x, y)
    assert by_name[0] == by_function[0] and isinstance(by_name[0], float)
    weighted = functools.partial(fc.functional.cross_entropy, weight=weight, reduction="sum")
    output = net(x)
    assert fc.value_and_grad(net, weighted, x, y)[0] == fc.functional.cross_entropy(
        output, y, weight=weight, reduction="sum"
    )
    target = np.zeros((6, 3))
    assert fc.value_and_grad(net, "mse_loss", x, target)[0] == pytest.approx(float((output**2).mean()))
    for loss in ("no such", 3, net, fc.ReLU):
        with pytest.raises(TypeError, match="loss must be the name of an operation"):
            fc.value_and_grad(net, loss, x, y)
    with pytest.raises(ValueError, match=r"mse_loss: a loss must be one number, got shape \(6, 3\)"):
        fc.value_and_grad(net, functools.partial(fc.functional.mse_loss, reduction="none"), x, target)


def test_value_and_grad_is_training_mode_and_pure():
    net = fc.Sequential(fc.Flatten(), fc.Dropout(0.5), fc.Linear(128, 3, rng=0), fc.BatchNorm1d(3)).eval()
    x, y = data(np.float32)
    kept = x.copy()
    first = fc.value_and_grad(net, "cross_entropy", x, y, rng=np.random.default_rng(1))
    again = fc.value_and_grad(net, "cross_entropy", x, y, rng=np.random.default_rng(1))
    other = fc.value_and_grad(net, "cross_entropy", x, y, rng=np.random.default_rng(2))
    assert first[0] == again[0] != other[0]
    assert net.state_dict()["3.num_batches_tracked"] == 3
    np.testing.assert_array_equal(x, kept)
    for name, gradient in first[1].items():
        np.testing.assert_array_equal(gradient, again[1][name])
        gradient[...] = 0  # it belongs to the caller
    assert not any(np.shares_memory(a, b) for a in first[1].values() for b in net.state_dict().values())


def test_freeze_takes_a_name_or_a_place_and_nothing_that_is_only_empty():
    net = fc.Sequential(fc.Linear(3, 4, rng=0), fc.Linear(4, 2, rng=0))
    net.freeze(0)
    assert list(net.parameters()) == ["1.weight", "1.bias"]
    net.unfreeze(0)
    for nothing in (None, False, []):
        for change in (net.freeze, net.unfreeze):
            with pytest.raises(TypeError, match="is given by its name"):
                change(nothing)
    assert len(net.parameters()) == 4


def test_relu_keeps_what_the_next_layer_keeps_too():
    """In a training step its output in place of its input; what vjp hands out may be changed, so not there."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    x[0, 0, 0, :3] = np.nan, -0.0, 0.0
    layer = fc.ReLU()
    for given in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1), x[:, :, ::2]):
        dy = rng.standard_normal(given.shape).astype(np.float32)
        y, saved = layer.forward(given, Context())
        kept = layer.forward(given, Context(snapshot=True))[1]
        assert np.shares_memory(saved[0], y) and not np.shares_memory(kept[0], y)
        np.testing.assert_array_equal(layer.backward(dy, saved, True)[0], layer.backward(dy, kept, True)[0])
    y, pullback = fc.vjp(layer, x)
    expected = pullback(np.ones_like(y))[0].copy()
    y *= -1
    np.testing.assert_array_equal(pullback(np.ones_like(y))[0], expected)


def test_parts_of_a_net_are_exchanged_by_place_and_by_name():
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    net = fc.models.resnet18(10, rng=0).eval()
    assert net(x).shape == (2, 10)
    head = fc.Linear(512, 5, rng=0)
    net.fc = head
    assert net.fc is head and net["fc"] is head and net(x).shape == (2, 5)
    assert net.parameters()["fc.weight"] is head.weight
    twin = fc.layers.from_config(net.config())
    twin.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(twin.eval()(x), net(x))

    small = fc.Sequential(fc.Conv2d(3, 2, 3), fc.ReLU())
    small[-1] = fc.Tanh()
    small["0"] = fc.Conv2d(3, 4, 3)
    assert repr(fc.layers.from_config(small.config())) == repr(small) and small(x).shape == (2, 4, 62, 62)
    residual = fc.Residual(fc.Conv2d(3, 3, 1))
    residual.body = fc.Conv2d(3, 3, 3, padding=1)
    assert residual.config()["body"]["kernel_size"] == 3
    graph = fc.Graph({"a": (fc.ReLU(), "input"), "b": (fc.Tanh(), "a")})
    graph.b = fc.Sigmoid()
    np.testing.assert_array_equal(graph(x), fc.Sigmoid()(fc.ReLU()(x)))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda net: setattr(net, "fcc", fc.Tanh()), AttributeError, "no part of the net.*did you mean 'fc'"),
        (lambda net: net.fcc, AttributeError, "no layer 'fcc'; did you mean 'fc'"),
        (lambda net: net.__setitem__("fcc", fc.Tanh()), KeyError, "did you mean 'fc'"),
        (lambda net: net.__setitem__(2, fc.Tanh()), IndexError, "there are 2 layers, got index 2"),
        (lambda net: net.__setitem__(0, 5), TypeError, "must be a layer, got 5"),
    ],
)
def test_what_is_no_part_of_a_net_is_not_put_there(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong(fc.Sequential({"conv": fc.Conv2d(1, 1, 1), "fc": fc.ReLU()}))
