"""Every layer beside PyTorch's of the same name and arguments: state_dict keys, output, gradients, buffers; float64."""

import numpy as np
import pytest
from cases import LAYERS as CASES

import fastconv as fc
from fastconv.layers import LAYERS, Context

torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")

TWINS = [case[:4] for case in CASES if case.twin]
NAMES = {"Resize": "Upsample", **{f"LpPool{axes}d": f"LPPool{axes}d" for axes in (1, 2, 3)}}  # torch's
APART = {"Dropout", "Dropout2d", "Sequential", "Upsample"}  # other draws; no operation; of another meaning


def test_every_layer_that_torch_has_is_held_against_it():
    theirs = {name for name in LAYERS if hasattr(torch.nn, NAMES.get(name, name))}
    assert theirs - {name for name, *_ in TWINS} == APART


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "arguments", "options", "shape"), TWINS)
def test_layer_equals_torchs(name, arguments, options, shape, training):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    twin = getattr(torch.nn, NAMES.get(name, name))(*arguments, **options).double().train(training)
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
