"""The nets of fastconv.models, and nets of every shape, beside PyTorch's: output, loss, every gradient, one step."""

import functools
import json

import numpy as np
import pytest

import fastconv as fc
from fastconv import models
from fastconv.layers import common, from_config

TOLERANCE = 1e-9  # of the largest value, in float64


def squares(windows):
    return (windows * windows).sum(-1)


def squares_vjp(windows, dy):
    return 2 * windows * dy[..., None]


def mixed_net():
    """What no model has. (Before a norm that takes the mean away a bias would have no gradient but rounding.)"""
    rng = np.random.default_rng(3)
    network = fc.Sequential(fc.Linear(4, 5, rng=rng), fc.Tanh(), fc.Linear(5, 1, bias=False, rng=rng))
    return fc.Sequential(
        fc.ConvTranspose2d(2, 6, 3, stride=2, padding=1, output_padding=1, groups=2, rng=rng), fc.GroupNorm(3, 6),
        fc.SiLU(), fc.NetworkPool2d(network, 2), fc.InstanceNorm2d(6, affine=True), fc.PReLU(6),
        fc.LocallyConnected2d(6, 4, (8, 7), 3, padding=1, rng=rng), fc.GELU(), fc.Dropout2d(0.3),
        fc.Concat(fc.AvgPool2d(3, 1), fc.LpPool2d(2, 3, 1), fc.MaxPool2d(3, 1)),
        fc.AdaptiveMaxPool2d(2), fc.Flatten(), fc.Linear(48, 5, rng=rng),
    )  # fmt: skip


def branching_net():
    """Residual, Concat and shared layers inside a Graph, whose input three nodes read."""
    rng = np.random.default_rng(4)

    def conv(inputs, filters, kernel=3):
        return fc.Conv2d(inputs, filters, kernel, padding=kernel // 2, rng=rng)

    shared = fc.Sequential(fc.Conv2d(4, 4, 3, padding=1, bias=False, rng=rng), fc.BatchNorm2d(4), fc.ELU())
    small = fc.NetworkPool2d(fc.Linear(9, 1, rng=rng), 3, 1, 1)
    return fc.Graph({
        "stem": (conv(3, 4), "input"),
        "left": (shared, "stem"),
        "right": (fc.Residual(fc.Sequential(conv(4, 6), fc.Softplus()), conv(4, 6, 1)), "stem"),
        "again": ("left", "left"),
        "pooled": (small, "input"),
        "sum": ("add", "again", "stem", "left"),
        "all": ("concat", "sum", "right", "pooled"),
        "both": (fc.Concat(fc.Sequential(conv(13, 3, 1), fc.LocalResponseNorm(3)), fc.Residual(fc.Hardswish())), "all"),
        "narrow": (fc.Downsample(2), "both"),
        "back": (fc.Resize(size=(7, 8), mode="bilinear", align_corners=True), "narrow"),
        "deep": (fc.FunctionPool2d(squares, 3, 2, 1, vjp=squares_vjp), "back"),
        "flat": (fc.Flatten(), "deep"),
        "out": (fc.Sequential(fc.LayerNorm(256), fc.Linear(256, 5, rng=rng)), "flat"),
    })  # fmt: skip


def twice_the_same():
    """A Sequential that applies one layer twice."""
    layer = fc.Linear(6, 6, rng=0)
    return fc.Sequential(fc.Flatten(), layer, fc.Sigmoid(), layer, fc.LeakyReLU(0.2), fc.Linear(6, 5, rng=1))


NETS = {  # (net, input's shape)
    "lenet5": (lambda: models.lenet5(5, rng=0), (3, 1, 28, 28)),
    "digits_cnn": (lambda: models.digits_cnn(5, rng=0), (3, 1, 8, 8)),
    "mnist_cnn": (lambda: models.mnist_cnn(5, size=12, rng=0), (6, 1, 12, 12)),
    "vgg_cifar": (lambda: models.vgg_cifar(5, size=16, rng=0), (3, 3, 16, 16)),
    "folder_cnn": (lambda: models.folder_cnn(5, size=(18, 20), rng=0), (3, 3, 18, 20)),
    "vgg16": (lambda: models.vgg16(5, size=32, hidden=40, rng=0), (2, 3, 32, 32)),
    "resnet18": (lambda: models.resnet18(5, size=40, rng=0), (3, 3, 40, 40)),
    "resnet20": (lambda: models.resnet20(5, size=16, rng=0), (3, 3, 16, 16)),
    "mobilenet": (lambda: models.mobilenet(5, size=64, width=0.5, rng=0), (4, 3, 64, 64)),
    "m5": (lambda: models.m5(5, size=4000, rng=0), (3, 1, 4000)),
    "voxnet": (lambda: models.voxnet(5, size=(15, 16, 17), rng=0), (3, 1, 15, 16, 17)),
    "mixed": (mixed_net, (3, 2, 8, 7)),
    "branching": (branching_net, (3, 3, 7, 8)),
    "twice the same": (twice_the_same, (4, 2, 3)),
}  # fmt: skip


def test_every_model_is_here():
    assert set(models.MODELS) <= set(NETS)
    assert set(models.MODELS) <= set(models.__all__)


def prepared(name):
    """The net in float64, its norms and biases away from their first values; a batch and its classes."""
    make, shape = NETS[name]
    net = make().astype(np.float64)
    rng = np.random.default_rng(1)
    for full, layer, attribute in net.named_arrays():
        array = getattr(layer, attribute)
        if full.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif array.ndim == 1:
            array += rng.uniform(-0.2, 0.2, array.shape)
    return net, rng.standard_normal(shape), rng.integers(0, 5, shape[0])


def assert_near(actual, expected, what):
    actual, expected = np.asarray(actual), expected.detach().numpy()
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    largest, difference = np.abs(expected).max(), np.abs(actual - expected).max()
    assert difference <= TOLERANCE * max(largest, 1e-12), f"{what}: differs by {difference:g} of {largest:g}"


@pytest.mark.parametrize("name", NETS)
def test_equals_torch(name):
    torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
    from torch_twin import Twin, dropout_from

    net, x, y = prepared(name)
    twin = Twin(net)

    twin.eval()
    t = torch.tensor(x, requires_grad=True)
    expected = twin(t)
    dy = np.random.default_rng(2).standard_normal(expected.shape)
    output, pullback = fc.vjp(net.eval(), x)
    assert_near(output, expected, "output")
    assert_near(pullback(dy)[0], torch.autograd.grad(expected, t, torch.tensor(dy))[0], "gradient to the input")

    twin.train()
    dropout_from(7)
    loss = torch.nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(y), label_smoothing=0.1)
    loss.backward()
    smoothed = functools.partial(fc.functional.cross_entropy, label_smoothing=0.1)
    value, gradients = fc.value_and_grad(net, smoothed, x, y, rng=np.random.default_rng(7))
    assert_near(value, loss, "loss")
    parameters = dict(twin.inner.named_parameters())
    assert gradients.keys() == parameters.keys() == net.parameters().keys()
    for key, parameter in parameters.items():
        assert_near(gradients[key], parameter.grad, f"gradient of {key}")

    torch.optim.SGD(parameters.values(), 0.1, momentum=0.9, weight_decay=0.01).step()
    fc.optim.SGD(0.1, momentum=0.9, weight_decay=0.01).step(net.parameters(), gradients)
    state = net.state_dict()
    for key, tensor in twin.arrays().items():
        assert_near(state[key], tensor, f"{key} after a step")


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_models_are_data(name):
    net = NETS[name][0]()
    again = from_config(json.loads(json.dumps(net.config())))
    assert repr(again) == repr(net)
    assert {key: array.shape for key, array in again.state_dict().items()} == {
        key: array.shape for key, array in net.state_dict().items()
    }


@pytest.fixture
def weights_without_memory(monkeypatch):
    """Weights whose elements are all one number in memory: VGG-16's real ones are half a gigabyte."""

    def uniform_array(layer, shape, bound, generator):
        return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0,) * len(shape))

    monkeypatch.setattr(common, "uniform_array", uniform_array)


@pytest.mark.parametrize(
    ("make", "weights", "layers"),
    [
        (models.vgg16, 138_357_544, 16),  # the paper's, and torchvision's
        (models.resnet18, 11_689_512, 18 + 3),  # three projections
        (models.resnet20, 272_474, 20 + 2),
        (models.mobilenet, 4_231_976, 28),
        (models.voxnet, 921_736, 4),
        (models.lenet5, 61_706, 5),
        (models.m5, 570_915, 5),
    ],
)
def test_sizes(make, weights, layers, weights_without_memory):
    net = make()
    assert sum(array.size for array in net.parameters().values()) == weights
    assert sum(array.ndim > 1 for array in net.parameters().values()) == layers


def test_names_of_torchvision():
    names = list(models.resnet18(5, rng=0).state_dict())
    assert names[:7] == [
        "conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
        "layer1.0.conv1.weight",
    ]  # fmt: skip
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias"} <= {*names}
    assert names[-2:] == ["fc.weight", "fc.bias"]
    names = list(models.vgg16(5, size=32, hidden=2, rng=0).state_dict())
    assert names[:2] == ["features.0.weight", "features.0.bias"]
    assert names[24:] == [f"{place}.{name}" for place in ("features.28", *(f"classifier.{i}" for i in (0, 3, 6)))
                          for name in ("weight", "bias")]  # fmt: skip


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "m5", "voxnet"])
def test_first_weights_keep_the_signal(name):
    """Behind every layer of a fresh net the values are of the size of the input's: He's weights, not torch's."""
    make, shape = NETS[name]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for _, layer in make().train().walk():
        if isinstance(layer, fc.Conv1d | fc.Conv2d | fc.Conv3d):
            fan_in = layer.weight[0].size
            assert np.mean(np.square(layer.weight)) == pytest.approx(2 / fan_in, rel=0.15)
            assert layer.bias is None or not layer.bias.any()
    output = make().predict(x)
    assert 0.05 < output.std() < 50


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: models.vgg16(size=31), fc.ShapeError, "vgg16: inputs of 31 x 31 are too small: one element at least"),
        (lambda: models.m5(size=1000), fc.ShapeError, "m5: inputs of 1000 are too small"),
        (lambda: models.voxnet(size=(32, 32, 10)), fc.ShapeError, "voxnet: inputs of 32 x 32 x 10 are too small"),
        (lambda: models.voxnet(size=(32, 32)), fc.ShapeError, "voxnet: size must be one number or 3 of them, got 2"),
        (lambda: models.resnet18(size=0), fc.ShapeError, "resnet18: size must be at least 1, got 0"),
        (lambda: models.mobilenet(width=0), ValueError, "mobilenet: width must be positive, got 0"),
        (lambda: models.build("m5", (3, 32, 32), 10), fc.ShapeError,
         r"m5: inputs must have 2 axes, C and 1 in space, got \(3, 32, 32\)"),
        (lambda: models.build("resnet20", (1, 16000), 10), fc.ShapeError, "resnet20: inputs must have 3 axes"),
        (lambda: models.build("vgg", (3, 32, 32), 10), ValueError, "no net is called 'vgg'; there are lenet5"),
    ],
)  # fmt: skip
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
