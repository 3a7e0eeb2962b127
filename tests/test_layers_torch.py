"""Every layer beside PyTorch's of the same name and arguments: state_dict keys, output, gradients, buffers; float64."""

import numpy as np
import pytest

import fastconv as fc
from fastconv.layers import LAYERS, Context

torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")

TWINS = [
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1}, (2, 4, 9)),
    ("Conv2d", (4, 6, 3), {"groups": 2, "stride": 2, "padding": 1, "dilation": 2}, (2, 4, 9, 9)),
    ("Conv2d", (3, 5, (3, 1)), {"bias": False, "padding": "same"}, (2, 3, 6, 7)),
    ("Conv3d", (2, 3, 2), {"padding": 1}, (2, 2, 3, 4, 3)),
    ("ConvTranspose1d", (4, 6, 3), {}, (2, 4, 5)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (2, 4, 5, 5)),
    ("ConvTranspose3d", (2, 3, 2), {"dilation": 2}, (2, 2, 3, 3, 3)),
    ("Linear", (5, 3), {}, (2, 5)),
    ("Linear", (5, 3), {"bias": False}, (2, 5)),
    ("MaxPool1d", (3, 2, 1), {}, (2, 3, 9)),
    ("MaxPool2d", (3, 2, 1), {"ceil_mode": True}, (2, 3, 8, 8)),
    ("MaxPool3d", (2,), {}, (2, 3, 4, 5, 4)),
    ("AvgPool1d", (3, 2, 1), {}, (2, 3, 9)),
    ("AvgPool2d", (3, 2, 1, True, False), {}, (2, 3, 8, 8)),
    ("AvgPool3d", (2,), {}, (2, 3, 4, 5, 4)),
    ("LpPool1d", (4, 2), {}, (2, 3, 8)),
    ("LpPool2d", (2, 2), {}, (2, 3, 6, 6)),
    ("LpPool3d", (2, 2), {}, (2, 3, 4, 4, 4)),
    *((f"Adaptive{kind}Pool1d", (3,), {}, (2, 3, 8)) for kind in ("Avg", "Max")),
    *((f"Adaptive{kind}Pool2d", ((3, 2),), {}, (2, 3, 7, 8)) for kind in ("Avg", "Max")),
    *((f"Adaptive{kind}Pool3d", (2,), {}, (2, 3, 5, 4, 3)) for kind in ("Avg", "Max")),
    *((name, (), {}, (2, 3, 4)) for name in ("ReLU", "GELU", "SiLU", "SELU")),
    *((name, (), {}, (2, 3, 4)) for name in ("Sigmoid", "Tanh", "Hardswish", "Softplus")),
    ("GELU", ("tanh",), {}, (2, 3, 4)),
    ("LeakyReLU", (0.2,), {}, (2, 3)),
    ("ELU", (0.7,), {}, (2, 3)),
    ("PReLU", (3,), {}, (2, 3, 4)),
    ("PReLU", (), {}, (2, 3, 4)),
    ("Softmax", (1,), {}, (2, 3, 4)),
    ("LogSoftmax", (-1,), {}, (2, 3, 4)),
    ("Flatten", (), {}, (2, 3, 4, 5)),
    ("BatchNorm1d", (3,), {}, (4, 3)),
    ("BatchNorm1d", (3,), {"momentum": None}, (4, 3, 5)),
    ("BatchNorm2d", (3,), {"affine": False}, (4, 3, 5, 2)),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 5, 2)),
    ("BatchNorm3d", (3,), {"eps": 1e-3}, (2, 3, 2, 3, 2)),
    ("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True}, (2, 3, 4, 5)),
    ("GroupNorm", (2, 6), {}, (2, 6, 4, 5)),
    ("LayerNorm", ((4, 5),), {}, (2, 3, 4, 5)),
    ("LocalResponseNorm", (3,), {}, (2, 6, 4, 5)),
    ("Resize", (5,), {}, (2, 3, 4)),
    ("Resize", (None, 2), {"mode": "linear", "align_corners": True}, (2, 3, 4)),
    ("Resize", ((5, 3),), {"mode": "bilinear"}, (2, 3, 4, 5)),
    ("Resize", (), {"scale_factor": (1.5, 0.7), "mode": "bicubic", "align_corners": False}, (2, 3, 4, 5)),
    ("Resize", (None, 1.5, "trilinear"), {}, (2, 3, 4, 5, 2)),
]  # fmt: skip
OURS_ALONE = {
    "Concat", "Downsample", "Function", "FunctionPool2d", "Graph", "LocallyConnected2d", "NetworkPool2d", "Normalize",
    "Residual", "Sequential", "Upsample",
}  # fmt: skip
RANDOM = {"Dropout", "Dropout2d"}
NAMES = {"Resize": "Upsample", **{f"LpPool{axes}d": f"LPPool{axes}d" for axes in (1, 2, 3)}}  # torch's


def test_every_layer_has_a_twin():
    assert set(LAYERS) - OURS_ALONE - RANDOM - {name for name, *_ in TWINS} == set()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "arguments", "options", "shape"), TWINS)
def test_layer_equals_torchs(name, arguments, options, shape, training):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    twin = (
        getattr(torch.nn, name.replace("LpPool", "LPPool").replace("Resize", "Upsample"))(*arguments, **options)
        .double()
        .train(training)
    )
    layer = getattr(fc, name)(*arguments, **options).astype(np.float64)
    layer.load_state_dict({key: value.numpy() for key, value in twin.state_dict().items()})
    assert list(layer.state_dict()) == list(twin.state_dict())

    x = torch.tensor(rng.standard_normal(shape), requires_grad=True)
    expected = twin(x)
    dy = rng.standard_normal(expected.shape)
    expected.backward(torch.tensor(dy))

    y, saved = layer.forward(x.detach().numpy(), Context(training))
    dx, gradients = layer.backward(dy, saved, True)
    np.testing.assert_allclose(y, expected.detach().numpy(), atol=1e-11)
    np.testing.assert_allclose(dx, x.grad.numpy(), atol=1e-11)
    for key, parameter in twin.named_parameters():
        np.testing.assert_allclose(gradients[key], parameter.grad.numpy(), atol=1e-11, err_msg=key)
    for key, value in twin.state_dict().items():
        np.testing.assert_allclose(layer.state_dict()[key], value.numpy(), atol=1e-11, err_msg=key)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d", "Linear"])
def test_first_weights_are_torchs_in_distribution(name):
    arguments = (40, 60) if name == "Linear" else (40, 60, 3)
    torch.manual_seed(0)
    twin = getattr(torch.nn, name)(*arguments)
    layer = getattr(fc, name)(*arguments, rng=0)
    for key, value in twin.state_dict().items():
        ours, theirs = layer.state_dict()[key], value.numpy()
        assert ours.shape == theirs.shape
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.1)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.15)
