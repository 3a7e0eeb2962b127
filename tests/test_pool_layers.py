"""Pools with a function or a net of one's own, unshared convolution and Resize, as layers of nets that are trained."""

import copy
import json

import numpy as np
import pytest
from gradient_check import check_gradients

import fastconv as fc
from fastconv.layers import from_config
from fastconv.training.checkpoint import load_net, save_net

F = fc.functional


def mean_forward(windows):
    return windows.mean(-1), windows.shape


def mean_backward(dy, shape):
    return np.repeat((dy / shape[-1])[..., None], shape[-1], -1)


@pytest.fixture
def pool_mean():
    """An operation of one's own: the mean of the last axis."""
    function = fc.register("pool_mean", mean_forward, mean_backward)
    yield function
    del fc.ops.OPS["pool_mean"], fc.ops.registry.FUNCTIONS["pool_mean"]


def small_network(taps, rng):
    return fc.Sequential(fc.Linear(taps, 4, rng=rng), fc.Tanh(), fc.Linear(4, 1, rng=rng))


def learnable_net(seed=0):
    """On the 8x8 digits."""
    rng = np.random.default_rng(seed)
    return fc.Sequential(
        fc.Conv2d(1, 6, 3, padding=1, rng=rng), fc.ReLU(), fc.NetworkPool2d(small_network(4, rng), 2),
        fc.LocallyConnected2d(6, 8, 4, 3, padding="same", rng=rng), fc.ReLU(), fc.Resize(size=2, mode="bilinear"),
        fc.Flatten(), fc.Linear(32, 10, rng=rng),
    )  # fmt: skip


# --- a net as the pooling function -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), ((2, 3), (1, 2), ((0, 1), (1, 0)))])
def test_network_pool_by_definition(kernel, stride, padding):
    """The network's answer to every window of every channel, one at a time."""
    taps = int(np.prod(kernel)) if isinstance(kernel, tuple) else kernel**2
    layer = fc.NetworkPool2d(small_network(taps, np.random.default_rng(1)), kernel, stride, padding).astype(np.float64)
    x = np.random.default_rng(2).standard_normal((2, 3, 6, 7))
    one_at_a_time = F.function_pool2d(
        x, lambda windows: np.apply_along_axis(lambda w: layer.network(w[None])[0, 0], -1, windows),
        kernel, stride=stride, padding=padding,
    )  # fmt: skip
    np.testing.assert_allclose(layer(x), one_at_a_time, rtol=1e-12)


def test_a_linear_network_pools_as_average_pooling_does():
    layer = fc.NetworkPool2d(fc.Linear(4, 1, bias=False), 2)
    layer.network.weight[...] = 0.25
    x = np.random.default_rng(0).integers(-8, 9, (2, 3, 6, 8)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), F.avg_pool2d(x, 2))
    dy = np.random.default_rng(1).integers(-8, 9, (2, 3, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(fc.vjp(layer, x)[1](dy)[0], fc.vjp(F.avg_pool2d, x, kernel_size=2)[1](dy)[0])


def test_gradients_by_finite_differences():
    net = learnable_net().astype(np.float64)
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((3, 1, 8, 8)), rng.integers(0, 10, 3)
    names = list(net.parameters())
    assert names[2:6] == [f"2.network.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")]
    _, gradients = fc.value_and_grad(net, "cross_entropy", x, y)
    assert set(gradients) == set(names)

    def loss(*arrays):
        moved = copy.deepcopy(net)
        moved.load_state_dict(dict(zip(names, arrays, strict=True)))
        return np.asarray(fc.value_and_grad(moved, F.cross_entropy, x, y)[0])

    arrays = [net.parameters()[name].copy() for name in names]
    check_gradients(loss, arrays, np.ones(()), [gradients[name] for name in names], range(len(names)))


def test_frozen_network():
    """The gradient still goes through it."""
    net = learnable_net()
    x, y = np.random.default_rng(0).standard_normal((3, 1, 8, 8)), np.arange(3)
    expected = fc.value_and_grad(net, "cross_entropy", x, y)[1]
    net.freeze("2.network")
    gradients = fc.value_and_grad(net, "cross_entropy", x, y)[1]
    assert gradients.keys() == {name for name in expected if not name.startswith("2.")}
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, expected[name])
    net.freeze("0")
    assert fc.value_and_grad(net, "cross_entropy", x, y)[1].keys() == {"3.weight", "3.bias", "7.weight", "7.bias"}


def test_trained_saved_and_resumed(tmp_path):
    """Everything learns, the pooling network too; the file rebuilds the net; a resumed run ends with the same bits."""
    (x, y), _ = fc.datasets.load_digits()
    x, y = x[:600], y[:600]

    def trainer():
        return fc.Trainer(learnable_net(), fc.optim.Adam(0.01), seed=3)

    first = trainer()
    before = first.net.state_dict()
    history = first.fit(x, y, epochs=3, batch_size=50)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert all(not np.array_equal(before[name], array) for name, array in first.net.state_dict().items())
    path = tmp_path / "run"
    second = trainer()
    second.fit(x, y, epochs=2, batch_size=50)
    second.save(path)
    resumed = fc.Trainer.resume(path)
    resumed.fit(x, y, epochs=3)
    for name, array in first.net.state_dict().items():
        np.testing.assert_array_equal(resumed.net.state_dict()[name], array)
    assert repr(resumed.net) == repr(first.net)
    save_net(path, first.net)
    np.testing.assert_array_equal(load_net(path).predict(x), first.net.predict(x))


# --- a function ------------------------------------------------------------------------------------------------------


def test_function_pool():
    x = np.random.default_rng(0).integers(-8, 9, (2, 3, 6, 8)).astype(np.float32)
    layer = fc.FunctionPool2d(lambda w: w.mean(-1), 2, vjp=lambda w, dy: mean_backward(dy, w.shape))
    y, pullback = fc.vjp(layer, x)
    np.testing.assert_array_equal(y, F.avg_pool2d(x, 2))
    np.testing.assert_array_equal(pullback(y)[0], fc.vjp(F.avg_pool2d, x, kernel_size=2)[1](y)[0])
    differences = fc.FunctionPool2d(lambda w: w.mean(-1), (3, 2), (2, 1), (1, 0))
    y, pullback = fc.vjp(differences, x)
    np.testing.assert_allclose(y, F.avg_pool2d(x, (3, 2), stride=(2, 1), padding=(1, 0)), rtol=1e-6)
    with pytest.warns(RuntimeWarning, match="no vjp was given"):
        dx = pullback(y)[0]
    expected = fc.vjp(F.avg_pool2d, x, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0))[1](y)[0]
    np.testing.assert_allclose(dx, expected, atol=1e-5)


@pytest.mark.parametrize("by_name", [False, True])
def test_registered_functions_are_data(pool_mean, by_name, tmp_path):
    layer = fc.FunctionPool2d("pool_mean" if by_name else pool_mean, 2)
    net = fc.Sequential(layer, fc.Flatten(), fc.Linear(16, 10, rng=0))
    assert json.loads(json.dumps(net.config()))["layers"][0]["function"] == "pool_mean"
    x = np.random.default_rng(0).integers(-8, 9, (2, 1, 8, 8)).astype(np.float32)
    save_net(tmp_path / "net", net)
    for other in (from_config(layer.config()), load_net(tmp_path / "net")[0], copy.deepcopy(layer)):
        y, pullback = fc.vjp(other, x)
        np.testing.assert_array_equal(y, F.avg_pool2d(x, 2))
        np.testing.assert_array_equal(pullback(y)[0], fc.vjp(F.avg_pool2d, x, kernel_size=2)[1](y)[0])


def test_resume_registers_the_function(tmp_path, pool_mean):
    x, y = np.random.default_rng(0).standard_normal((40, 1, 4, 4)), np.arange(40) % 2
    net = fc.Sequential(fc.FunctionPool2d(pool_mean, 2), fc.Flatten(), fc.Linear(4, 2, rng=0))
    trainer = fc.Trainer(net, fc.optim.SGD(0.1))
    trainer.fit(x, y, epochs=1, batch_size=10)
    trainer.save(tmp_path / "run")
    del fc.ops.OPS["pool_mean"], fc.ops.registry.FUNCTIONS["pool_mean"]
    with pytest.raises(fc.FormatError, match="FunctionPool2d: no operation is called 'pool_mean'"):
        fc.Trainer.resume(tmp_path / "run")
    again = fc.Trainer.resume(tmp_path / "run", functions={"pool_mean": (mean_forward, mean_backward)})
    np.testing.assert_array_equal(again.net.predict(x), net.predict(x))


def test_save_refuses_a_function_without_a_name(tmp_path):
    net = fc.Sequential(fc.FunctionPool2d(np.ptp, 2), fc.Flatten(), fc.Linear(4, 2, rng=0))
    trainer = fc.Trainer(net, fc.optim.SGD(0.1))
    with pytest.raises(ValueError, match=r"FunctionPool2d: function <function ptp.*> has no registered name") as error:
        trainer.save(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


# --- unshared convolution --------------------------------------------------------------------------------------------


def test_with_the_same_filters_everywhere_it_is_convolution():
    """And the shared filters' gradient is the sum over the positions."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((2, 3, 7, 8), (4, 3, 3, 3)))
    y, pullback = fc.vjp(F.conv2d, x, w, stride=2, padding=1)
    unshared = np.broadcast_to(w[..., None, None], (*w.shape, *y.shape[2:]))
    other, other_pullback = fc.vjp(F.locally_connected2d, x, unshared, stride=2, padding=1)
    np.testing.assert_array_equal(other, y)
    dx, dw = pullback(y)
    other_dx, other_dw = other_pullback(y)
    np.testing.assert_array_equal(other_dx, dx)
    np.testing.assert_array_equal(other_dw.sum(axis=(4, 5)), dw)


def test_unshared_layer():
    layer = fc.LocallyConnected2d(3, 4, (5, 6), (3, 2), padding=((1, 1), (0, 1)), rng=0)
    assert layer.weight.shape == (4, 3, 3, 2, 5, 6)
    assert layer.bias.shape == (4, 5, 6)
    bound = 1 / np.sqrt(18)
    for array in (layer.weight, layer.bias):
        assert 0.9 * bound < np.abs(array).max() <= bound
    assert fc.LocallyConnected2d(3, 4, 5, 1, bias=False).bias is None
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 6)).astype(np.float32)
    expected = F.locally_connected2d(x, layer.weight, layer.bias, padding=((1, 1), (0, 1)))
    np.testing.assert_array_equal(layer(x), expected)
    rebuilt = from_config(json.loads(json.dumps(layer.config())))
    rebuilt.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(rebuilt(x), expected)


# --- refusals --------------------------------------------------------------------------------------------------------

X = np.zeros((2, 3, 6, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fc.NetworkPool2d(np.mean, 2), TypeError, "NetworkPool2d: network must be a layer, got <function mean"),
        (lambda: fc.NetworkPool2d(fc.Linear(4, 2), 2)(X), fc.ShapeError,
         r"network_pool2d: network must make \(54, 1\) of windows \(54, 4\), got \(54, 2\)"),
        (lambda: fc.NetworkPool2d(fc.Linear(9, 1), 2)(X), fc.ShapeError,
         r"linear: x must have as many features as w, .* \(in layer network, Linear\)"),
        (lambda: fc.NetworkPool2d(fc.Linear(4, 1), 2)(X[0]), fc.ShapeError, "network_pool2d: x must have 4 axes"),
        (lambda: fc.NetworkPool2d(fc.Linear(49, 1), 7)(X), fc.ShapeError,
         "network_pool2d: the kernel must not be larger than the padded input: .* it spans 7, the input is 6"),
        (lambda: fc.NetworkPool2d(fc.Linear(4, 1), 2, 0)(X), fc.ShapeError, "stride must be at least 1, got 0"),
        (lambda: fc.NetworkPool2d(fc.Linear(4, 1), 2, padding=2)(X), fc.ShapeError, "padding must be at most half"),
        (lambda: fc.FunctionPool2d("no such", 2), ValueError, "FunctionPool2d: no operation is called 'no such'"),
        (lambda: fc.FunctionPool2d("relu", 2, vjp=np.add), TypeError, "FunctionPool2d: vjp must be None, relu was"),
        (lambda: fc.FunctionPool2d(3, 2)(X), TypeError, "function_pool2d: function must be callable, got 3"),
        (lambda: fc.LocallyConnected2d(3, 0, 5, 2), fc.ShapeError, "LocallyConnected2d: out_channels must be at least"),
        (lambda: fc.LocallyConnected2d(3, 4, (5, 5, 5), 2), fc.ShapeError, "output_size must be one number or 2 of"),
        (lambda: fc.LocallyConnected2d(3, 4, 6, 2)(X), fc.ShapeError,
         r"locally_connected2d: w must have filters for every output position, \(5, 5\) with x .*, got \(6, 6\)"),
        (lambda: fc.LocallyConnected2d(3, 4, 2**20, 2), MemoryError, "LocallyConnected2d: needs .* bytes of memory"),
        (lambda: fc.LocallyConnected2d(3, 4, 5, 2, groups=3), TypeError, "groups is accepted at its default 1 only"),
        (lambda: fc.Resize(mode="area", size=3), fc.ShapeError, "Resize: mode must be one of nearest, .*, got 'area'"),
        (lambda: fc.Resize(size=3, mode="bilinear")(X[0]), fc.ShapeError, "resize: bilinear takes 4 axes, got 3"),
        (lambda: fc.Resize()(X), fc.ShapeError, "resize: exactly one of size and scale must be given"),
        (lambda: fc.Resize(size=0)(X), fc.ShapeError, "resize: size must be at least 1, got 0"),
        (lambda: fc.Resize(3, align_corners=True)(X), fc.ShapeError, "align_corners must be False for nearest"),
        (lambda: fc.Resize(3, recompute_scale_factor=True), TypeError, "recompute_scale_factor is accepted at its def"),
    ],
)  # fmt: skip
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
