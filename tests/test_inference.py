"""`net.for_inference()`: the net's answers, arrays that are read-only, norms that are folded, weights made once."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest

import fastconv
from fastconv.engine import constants
from fastconv.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Graph,
    Identity,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)


def sequential() -> Sequential:
    return Sequential(
        Conv2d(3, 16, 3, padding=1, bias=False), BatchNorm2d(16), ReLU(), Conv2d(16, 16, 3, padding=1), BatchNorm2d(16),
        MaxPool2d(2), Dropout(0.5), BatchNorm2d(16), Flatten(), Linear(256, 8), BatchNorm1d(8), ReLU(), Linear(8, 4),
    )  # fmt: skip


def residual() -> Sequential:
    body = Sequential(Conv2d(3, 16, 1, bias=False), BatchNorm2d(16), ReLU(), Conv2d(16, 16, 3, groups=16, padding=1))
    return Sequential(Residual(body, Sequential(Conv2d(3, 16, 1), BatchNorm2d(16))), ReLU(), Flatten(), Linear(1024, 4))


def graph() -> Graph:
    shared = BatchNorm2d(8)
    nodes = {
        "conv": (Conv2d(3, 8, 3, padding=1), "input"), "bn": (BatchNorm2d(8), "conv"), "relu": (ReLU(), "bn"),
        "two": (Conv2d(8, 8, 1), "relu"), "norm": (shared, "two"), "again": ("norm", "relu"),
        "read": (Conv2d(8, 8, 1), "relu"), "after": (BatchNorm2d(8), "read"),
        "sum": ("add", "norm", "again", "after"), "out": ("concat", "sum", "read"),
    }  # fmt: skip
    return Graph(nodes)


NETS = {"sequential": (sequential, 3), "residual": (residual, 2), "graph": (graph, 1)}  # and the norms that are folded


def trained(name: str, dtype: type = np.float32) -> tuple[fastconv.Layer, np.ndarray]:
    fastconv.manual_seed(0)
    net = NETS[name][0]()
    rng = np.random.default_rng(0)
    for _, layer, attribute in net.named_arrays():
        array = getattr(layer, attribute)
        if attribute in ("running_mean", "weight", "bias", "running_var") and array.ndim == 1:
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    return net.astype(dtype), rng.standard_normal((5, 3, 8, 8)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETS)
def test_the_same_answers(name: str, dtype: type) -> None:
    net, x = trained(name, dtype)
    before = net.state_dict()
    still = net.for_inference()
    expected = copy.deepcopy(net).eval()(x)
    scale = np.abs(expected).max()
    for _ in range(2):  # the second time with what was kept of the first
        np.testing.assert_allclose(still(x), expected, rtol=0, atol=scale * (2e-6 if dtype is np.float32 else 1e-14))
    np.testing.assert_array_equal(still(x), still(x))
    np.testing.assert_array_equal(
        still.predict(x, batch_size=2), np.concatenate([still(x[i : i + 2]) for i in (0, 2, 4)])
    )
    assert sum(isinstance(layer, Identity) for _, layer in still.walk()) == NETS[name][1]
    assert net.training
    for key, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[key])
    net.parameters()[next(iter(net.parameters()))][...] = 0  # the net itself may be written to


@pytest.mark.parametrize("name", NETS)
def test_nothing_in_it_can_be_written_to(name: str) -> None:
    net, x = trained(name)
    still = net.for_inference()
    for array in still.parameters().values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(ValueError, match="read-only"):
        still.load_state_dict(still.state_dict())
    with pytest.raises(ValueError, match="read-only"):  # a norm that is left has its statistics
        _, gradients = fastconv.value_and_grad(still, "mse_loss", x, np.zeros_like(still(x)))
        fastconv.optim.SGD(0.1).step(still.parameters(), gradients)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), "file"])
def test_copies_are_nets_like_any(copied, tmp_path) -> None:
    net, x = trained("sequential")
    still = net.for_inference()
    expected = still(x)
    if copied == "file":
        fastconv.save(still, tmp_path / "net")
        twin = fastconv.load(tmp_path / "net")
    else:
        twin = copied(still)
    np.testing.assert_array_equal(twin(x), expected)
    twin.parameters()["0.weight"][...] *= 2
    assert np.abs(twin(x) - expected).max() > 1e-3
    np.testing.assert_array_equal(still(x), expected)


@pytest.mark.parametrize("algorithm", ["winograd", "direct", "auto", "im2col"])
def test_what_kernels_make_of_weights_is_kept_and_goes_with_them(algorithm: str) -> None:
    net = Sequential(Conv2d(16, 32, 3, padding=1, algorithm=algorithm), ReLU(), Conv2d(32, 8, 3, stride=2))
    gc.collect()
    known = len(constants._held)
    still = net.for_inference()
    rng = np.random.default_rng(0)
    for shape in ((1, 16, 9, 9), (3, 16, 20, 12), (1, 16, 9, 9)):  # one copy serves every shape
        x = rng.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(still(x), net.eval()(x), rtol=0, atol=1e-5)
        np.testing.assert_array_equal(still(x), still(x))
    made = constants.made_of(still[0].weight)
    assert len(made) == {"winograd": 1, "direct": 1, "im2col": 0}.get(algorithm, len(made))
    assert constants.made_of(net[0].weight) is None
    del still, made
    gc.collect()
    assert len(constants._held) == known


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
def test_views_of_held_weights_are_weights_of_their_own(algorithm: str) -> None:
    held = Sequential(Conv2d(16, 64, 3, padding=1, algorithm=algorithm, rng=0)).for_inference()[0].weight
    x = np.random.default_rng(0).standard_normal((1, 16, 9, 9)).astype(np.float32)
    for w in (held, held[:32], held[32:], held[:, :, ::-1], held[..., ::-1], held.transpose(0, 1, 3, 2), held[:32]):
        y, expected = (
            fastconv.functional.conv2d(x, each, padding=1, algorithm=algorithm) for each in (w, w.copy(order="K"))
        )
        np.testing.assert_array_equal(y, expected)
