"""A planned net gives the bits of its layers one by one, sees what is changed, and is held by nobody."""

from __future__ import annotations

import copy
import fractions
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import plan as planning
from fastconv._ext import norm as kernels
from fastconv.layers import (
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Concat,
    Conv1d,
    Conv2d,
    Conv3d,
    Dropout,
    Flatten,
    Function,
    Graph,
    Linear,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    ReLU,
    Residual,
    Sequential,
    Softplus,
)
from fastconv.layers.base import Context, Layer
from fastconv.ops.registry import FUNCTIONS, OPS
from fastconv.plan import plan_of
from fastconv.plan.fusions import Fused, NormReluPool


def block(channels: int = 8) -> Sequential:
    return Sequential(Conv2d(channels, channels, 3, padding=1), BatchNorm2d(channels), ReLU())


def residual_net() -> Sequential:
    shortcut = Sequential(Conv2d(8, 8, 1), BatchNorm2d(8))
    return Sequential(
        Conv2d(3, 8, 3, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2),
        Residual(Sequential(*block(), Conv2d(8, 8, 3, padding=1), BatchNorm2d(8))), ReLU(),
        Residual(Sequential(*block(), Conv2d(8, 8, 3, padding=1), BatchNorm2d(8)), shortcut), ReLU(),
        Flatten(), Linear(8 * 16, 5),
    )  # fmt: skip


def graph_net() -> Sequential:
    relu = ReLU()
    nodes = {
        "conv": (Conv2d(8, 8, 3, padding=1), "input"), "bn": (BatchNorm2d(8), "conv"), "mid": (relu, "bn"),
        "around": (Conv2d(8, 8, 1), "input"), "again": ("around", "mid"), "sum": ("add", "again", "bn2"),
        "out": ("mid", "sum"), "both": ("concat", "out", "mid", "input"),
    }  # fmt: skip
    nodes = {**dict(list(nodes.items())[:3]), "bn2": (BatchNorm2d(8), "mid"), **dict(list(nodes.items())[3:])}
    return Sequential(Conv2d(3, 8, 3, padding=1), Graph(nodes), AvgPool2d(2), Flatten(), Linear(24 * 16, 5))


def branches_net() -> Sequential:
    shared = Conv2d(8, 8, 3, padding=1)
    return Sequential(
        Conv2d(3, 8, 3, padding=1), ReLU(), MaxPool2d(3, stride=2, padding=1), shared,
        Concat(block(), Residual(shared), Sequential(shared, Dropout(0.5), ReLU(), MaxPool2d(3, stride=1, padding=1))),
        Residual(BatchNorm2d(24)), ReLU(), Flatten(), Linear(24 * 16, 6), BatchNorm1d(6), ReLU(), Linear(6, 5),
    )  # fmt: skip


def plain_net() -> Sequential:
    return Sequential(
        Conv2d(3, 16, 3, padding=1), ReLU(), Conv2d(16, 16, 3, padding="same", bias=False), ReLU(),
        Conv2d(16, 16, 3, groups=16, stride=2), ReLU(), Conv2d(16, 8, 1, padding_mode="circular", padding=1), ReLU(),
        Conv2d(8, 8, 2, stride=fractions.Fraction(1, 2)), ReLU(), Flatten(), Linear(8 * 64, 5),
    )  # fmt: skip


def pooled_net() -> Sequential:
    """Pools of windows side by side behind batch norm and ReLU: all of an image, and but for the ends of lines."""
    return Sequential(
        BatchNorm2d(3), ReLU(), MaxPool2d(1), Conv2d(3, 16, (1, 2)), BatchNorm2d(16), ReLU(), MaxPool2d((2, 3)),
        Conv2d(16, 32, 3, padding=1, bias=False), BatchNorm2d(32), ReLU(), MaxPool2d(2), Flatten(), Linear(64, 5),
    )  # fmt: skip


NETS = {
    "plain": plain_net, "residual": residual_net, "graph": graph_net, "branches": branches_net, "pooled": pooled_net,
}  # fmt: skip


def by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, every layer is a step of its own."""
    found = planning.plan_of
    monkeypatch.setattr(planning, "plan_of", lambda net, keep=True: found(net, False))


def batch(dtype: type = np.float32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6, 3, 8, 8)).astype(dtype), rng.integers(0, 5, 6)


def trained(net: Layer, dtype: type = np.float32) -> list[np.ndarray]:
    """Three steps: losses, gradients, weights, statistics, and outputs in both modes and vjp's at last."""
    net, optimizer, found = net.astype(dtype), fastconv.optim.SGD(0.05, momentum=0.9), []
    for seed in range(3):
        x, y = batch(dtype, seed)
        value, gradients = fastconv.value_and_grad(net, "cross_entropy", x, y, rng=np.random.default_rng(seed))
        found += [np.array(value), *(gradients[name] for name in sorted(gradients))]
        optimizer.step(net.parameters(), gradients)
    found += net.state_dict().values()
    fastconv.manual_seed(5)
    for mode in (True, False):
        net.train(mode)
        y, pullback = fastconv.vjp(net, x)
        found += [net(x), y, pullback(np.ones_like(y))[0], net.predict(x, batch_size=4)]
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETS)
def test_a_plan_gives_the_bits_of_the_layers(name: str, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    fastconv.manual_seed(1)
    monkeypatch.setattr(planning, "LARGE", 0)
    net = NETS[name]()
    assert any(isinstance(step, Fused) for step in plan_of(net).steps)
    planned = trained(net, dtype)
    by_layer(monkeypatch)
    for one, other in zip(planned, trained(net, dtype), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nan_and_infinity_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    fastconv.manual_seed(1)
    norms = BatchNorm2d(3), ReLU(), Residual(BatchNorm2d(3)), ReLU()
    net = Sequential(*norms, ReLU(), MaxPool2d(2), Flatten(), Linear(48, 5))
    x, y = batch()
    x[0, 0, 0, 0], x[1, 1, 2, 3] = np.nan, np.inf
    with np.errstate(all="ignore"):
        _, planned = fastconv.value_and_grad(net.astype(np.float32), "cross_entropy", x, y)
        by_layer(monkeypatch)
        _, apart = fastconv.value_and_grad(net.astype(np.float32), "cross_entropy", x, y)
    for name, gradient in planned.items():
        np.testing.assert_array_equal(gradient, apart[name])


POOLS = [  # layers, spatial shape of the convolution's output, pool, whether one kernel does norm, relu and pool
    ((Conv1d, BatchNorm1d, MaxPool1d), (23,), {"kernel_size": 4}, True),
    ((Conv1d, BatchNorm1d, MaxPool1d), (64,), {"kernel_size": 64}, True),
    ((Conv1d, BatchNorm1d, MaxPool1d), (65,), {"kernel_size": 65}, False),  # more taps than it takes
    ((Conv2d, BatchNorm2d, MaxPool2d), (8, 10), {"kernel_size": 2}, True),
    ((Conv2d, BatchNorm2d, MaxPool2d), (6, 29), {"kernel_size": (2, 3)}, True),
    ((Conv2d, BatchNorm2d, MaxPool2d), (4, 9), {"kernel_size": (4, 1)}, True),
    ((Conv2d, BatchNorm2d, MaxPool2d), (4, 9), {"kernel_size": (1, 9), "stride": 1}, True),
    ((Conv2d, BatchNorm2d, MaxPool2d), (7, 8), {"kernel_size": 2}, False),  # lines that no window sees
    ((Conv2d, BatchNorm2d, MaxPool2d), (8, 8), {"kernel_size": 3, "stride": 2, "padding": 1}, False),
    ((Conv2d, BatchNorm2d, MaxPool2d), (8, 8), {"kernel_size": 2, "dilation": 2, "stride": 2}, False),
    ((Conv2d, BatchNorm2d, MaxPool2d), (8, 7), {"kernel_size": 2, "ceil_mode": True}, False),
    ((Conv3d, BatchNorm3d, MaxPool3d), (4, 6, 7), {"kernel_size": (2, 3, 2)}, True),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [16, 48, 24])
@pytest.mark.parametrize(("kinds", "spatial", "pool", "one"), POOLS)
def test_norm_relu_and_pool_in_one_give_their_bits(
    kinds: Any, spatial: Any, pool: Any, one: bool, channels: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ties, of which the first tap gets the gradient, and windows that ReLU makes 0 among them."""
    conv, norm, max_pool = kinds
    fastconv.manual_seed(0)
    net = Sequential(conv(2, channels, 1), norm(channels), ReLU(), max_pool(**pool), conv(channels, 3, 1), Flatten())
    net = net.astype(dtype)
    net[1].weight[:3], net[1].weight[3:] = (0, -1, 2), np.linspace(-1, 1, channels - 3)
    net[1].bias[...] = np.linspace(-2, 1, channels)
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (5, 2, *spatial)).astype(dtype)
    calls = []
    monkeypatch.setattr(kernels, "normalise_windows", watched(kernels.normalise_windows, calls))
    target = rng.standard_normal(net(x).shape).astype(dtype)
    runs = []
    for planned in (True, False):
        if not planned:
            by_layer(monkeypatch)
        own = copy.deepcopy(net)
        value, gradients = fastconv.value_and_grad(own, "mse_loss", x, target)
        runs.append([np.array(value), *gradients.values(), *own.state_dict().values()])
    for found, expected in zip(*runs, strict=True):
        assert found.tobytes() == expected.tobytes()
    assert bool(calls) == (one and channels % 16 == 0)


WINDOWS = [  # on (6, 1): some windows that see nothing but the padding; some that all see x
    ({"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 2}, True),
    ({"kernel_size": 2, "stride": 1, "padding": 1, "dilation": (1, 2)}, True),
    ({"kernel_size": (2, 3), "stride": 1, "padding": (1, 1), "dilation": (2, 1)}, False),
    ({"kernel_size": (3, 2), "stride": 1, "padding": (1, 1), "dilation": (2, 1), "ceil_mode": True}, False),
]


@pytest.mark.parametrize("middle", [[ReLU], [lambda: BatchNorm2d(4), ReLU]], ids=["relu", "norm and relu"])
@pytest.mark.parametrize(("pool", "blind"), WINDOWS)
def test_relu_before_windows_that_see_nothing(
    pool: Any, blind: bool, middle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their maximum is -inf, as without a plan: relu came before."""
    fastconv.manual_seed(0)
    net = Sequential(Conv2d(2, 4, 3, padding=1), *(make() for make in middle), MaxPool2d(**pool), Softplus())
    x = np.random.default_rng(0).standard_normal((5, 2, 6, 1)).astype(np.float32)
    assert bool(np.isinf(net[:-1](x)).any()) == blind
    target, runs = np.zeros_like(net(x)), []
    for planned in (True, False):
        if not planned:
            by_layer(monkeypatch)
        own = copy.deepcopy(net)
        value, gradients = fastconv.value_and_grad(own, "mse_loss", x, target)
        runs.append([value, net(x).tobytes(), *(gradient.tobytes() for gradient in gradients.values())])
    assert runs[0] == runs[1]


def kernel_arguments() -> dict[str, Any]:
    """What one line of two windows of 1x2 takes."""

    def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
        return np.ones(shape, dtype)

    return {
        "x": ones(2, 1, 2, 4, 16), "dx": ones(2, 1, 2, 4, 16), "y": ones(2, 1, 1, 2, 16), "dy": ones(2, 1, 1, 2, 16),
        "chosen": ones(2, 1, 1, 2, 16, dtype=np.int8), "kernel": (1, 2, 2), "statistics": ones(3, 1, 16, dtype=float),
        "eps": 1e-5, "weight": None, "bias": None, "num_threads": 1, "block_rows": 64,
        "sums": ones(1, 1, 2, 16, dtype=float),
    }  # fmt: skip


WRONG = {
    "kernel": [(1, 2, 3), (1, 1, 2), (2**32, 2**32, 1), (1, 2, 2**62 + 2**61), (1, 0, 2), (1, 2), (1, 2, 2, 1)],
    "x": [np.ones(shape, np.float32) for shape in ((2, 1, 2, 4, 8), (2, 1, 3, 4, 16), (2, 1, 2, 3, 16))],
    "chosen": [None, np.ones((2, 1, 1, 2, 8), np.int8)],
    "coefficients": [None, np.ones((3, 1, 8), np.float32)],
    "statistics": [np.ones((3, 1, 320_000)), np.ones((3, 2, 16)), np.ones((3, 1, 0))],
    "block_rows": [0, -1],
    "sums": [np.ones((1, 1, 2, 8))],
}


@pytest.mark.parametrize("name", ["normalise_windows", "windows_products", "windows_backward"])
def test_kernels_refuse_what_does_not_fit(name: str) -> None:
    function = getattr(kernels, name)
    rows = 4 if name == "windows_backward" else 3
    right = {**kernel_arguments(), "coefficients": np.ones((rows, 1, 16), np.float32)}
    taken = {key: value for key, value in right.items() if key in ARGUMENTS[name]}
    function(**taken)
    for key, values in WRONG.items():
        for value in values if key in taken else []:
            with pytest.raises((ValueError, TypeError, OverflowError, AttributeError)):
                function(**{**taken, key: value})


ARGUMENTS = {
    "normalise_windows": (
        "x", "y", "chosen", "kernel", "statistics", "eps", "weight", "bias", "coefficients", "num_threads",
    ),
    "windows_products": ("dy", "chosen", "x", "kernel", "coefficients", "sums", "block_rows", "num_threads"),
    "windows_backward": ("dy", "chosen", "x", "kernel", "coefficients", "dx", "num_threads"),
}  # fmt: skip


def test_an_empty_batch_goes_by_its_layers() -> None:
    net = Sequential(Conv2d(3, 16, 1), BatchNorm2d(16), ReLU(), MaxPool2d(2), Flatten(), Linear(64, 2))
    y, pullback = fastconv.vjp(net, np.zeros((0, 3, 4, 4), np.float32))
    assert y.shape == (0, 2)
    assert pullback(y)[0].shape == (0, 3, 4, 4)


def watched(function: Any, calls: list[Any]) -> Any:
    def call(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    return call


def test_what_a_norm_reads_is_overwritten_only_where_nobody_else_has_it() -> None:
    """A net's input, an activation's output that its backward needs, a value with other readers."""
    fastconv.manual_seed(0)
    norms = BatchNorm2d(16), ReLU(), MaxPool2d(2)
    for before in ([], [ReLU()], [Residual(Conv2d(16, 16, 1))]):
        net = Sequential(*before, *copy.deepcopy(norms), Flatten(), Linear(64, 2))
        x = np.random.default_rng(0).standard_normal((3, 16, 4, 4)).astype(np.float32)
        kept = x.copy()
        fastconv.value_and_grad(net, "cross_entropy", x, np.array([0, 1, 0]))
        assert x.tobytes() == kept.tobytes()
        step = next(step for step in plan_of(net).steps if isinstance(step, NormReluPool))
        assert not step.owns_x


@pytest.mark.parametrize("put_aside", ["freeze", "freeze weight", "eval", "freeze all but the last"])
def test_what_is_put_aside_is_so_in_a_plan(put_aside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fastconv.manual_seed(1)
    net = residual_net()
    if put_aside == "freeze":
        net.freeze("4.body.1")
    elif put_aside == "freeze weight":
        net.freeze("4.body.1.weight").freeze("1.bias")
    elif put_aside == "eval":
        net[1].eval()
    else:
        net.freeze().unfreeze("9")
    planned = trained(net)
    by_layer(monkeypatch)
    for one, other in zip(planned, trained(net), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shared_layers_have_the_sum_of_their_gradients_under_their_first_name() -> None:
    fastconv.manual_seed(1)
    net = branches_net().astype(np.float64)
    net[4].children()["2"][1].p = 0.0  # no dropout: differences of two calls
    x, y = batch(np.float64)
    _, gradients = fastconv.value_and_grad(net, "cross_entropy", x, y)
    assert gradients.keys() == net.parameters().keys()
    weight, direction = net[3].weight, np.random.default_rng(3).standard_normal(net[3].weight.shape)
    values = []
    for sign in (1, -1):
        weight += sign * 1e-6 * direction
        values.append(fastconv.value_and_grad(net, "cross_entropy", x, y)[0])
        weight -= sign * 1e-6 * direction
    assert np.vdot(gradients["3.weight"], direction) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_a_layer_put_in_the_place_of_another_is_seen() -> None:
    net = residual_net()
    x, _ = batch()
    net.eval()(x)
    net[4].children()["body"].children()["2"] = Layer.__new__(Halved)
    net.children()["5"] = Sequential()
    expected = x
    for layer in net:
        expected = layer(expected)
    np.testing.assert_array_equal(net(x), expected)


class Halved(Layer):
    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, None]:
        return x / 2, None

    def backward(self, dy: np.ndarray, saved: None, need_dx: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return dy / 2, {}


class Doubled(BatchNorm2d):
    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, object]:
        y, saved = super().forward(x, context)
        return 2 * y, saved


def test_methods_of_ones_own_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = batch()
    net = Sequential(BatchNorm2d(3), ReLU()).eval()
    y = net(x)
    assert isinstance(plan_of(net).steps[0], Fused)
    np.testing.assert_array_equal(Sequential(Doubled(3), ReLU()).eval()(x), 2 * y)

    net[1].forward = lambda x, context: (x + 1, None)  # the instance's, after the plan was made
    np.testing.assert_array_equal(net(x), net[0](x) + 1)
    del net[1].forward
    np.testing.assert_array_equal(net(x), y)

    inner = Sequential(Sequential(BatchNorm2d(3)), ReLU()).eval()
    inner(x)
    inner[0].forward = lambda x, context: (-x, None)  # a container's
    np.testing.assert_array_equal(inner(x), np.maximum(-x, 0))

    monkeypatch.setattr(ReLU, "forward", lambda self, x, context: (x - 1, None))  # the class's
    np.testing.assert_array_equal(net(x), net[0](x) - 1)


def test_options_weights_statistics_and_modes_are_read_at_every_call() -> None:
    fastconv.manual_seed(1)
    net = Sequential(BatchNorm2d(3), ReLU())
    x, _ = batch()
    net(x)
    assert net[0].num_batches_tracked == 1
    net.eval()
    for change in (
        lambda: net[0].weight.__imul__(2), lambda: net[0].bias.__iadd__(1), lambda: net[0].running_mean.__iadd__(0.5),
        lambda: setattr(net[0], "eps", 0.1), lambda: net.train(), lambda: net[0].freeze(),
    ):  # fmt: skip
        before = net(x)
        change()
        after = net(x)
        assert not np.array_equal(before, after)
        np.testing.assert_allclose(after, np.maximum(net[0](x), 0), rtol=2e-3, atol=2e-3 if net.training else 0)


def test_errors_say_in_which_layer() -> None:
    x, _ = batch()
    net = Sequential(Sequential({"norm": BatchNorm2d(4), "relu": ReLU()}))
    with pytest.raises(fastconv.ShapeError, match=r"\(in layer norm, BatchNorm2d\) \(in layer 0, Sequential\)$"):
        net(x)
    net = Sequential(Sequential(ReLU(), MaxPool2d(9)))
    with pytest.raises(fastconv.ShapeError, match=r"\(in layer 1, MaxPool2d\) \(in layer 0, Sequential\)$"):
        net(x)
    net = Sequential(Residual(Sequential(Conv2d(3, 4, 1), BatchNorm2d(4))), ReLU())
    with pytest.raises(fastconv.ShapeError, match=r"must have one shape.*\(in layer 0, Residual\)$"):
        net(x)


def test_a_plan_is_dropped_with_its_net_and_is_no_part_of_copies() -> None:
    x, _ = batch()
    net = residual_net()
    net(x)
    assert b"plan" not in pickle.dumps(net)
    twin = copy.deepcopy(net)
    twin[0].weight[...] = 0
    assert not np.array_equal(twin(x), net(x))
    gone = weakref.ref(net[4])
    del net
    gc.collect()
    assert gone() is None


def test_what_one_backward_needs_is_dropped_on_the_way() -> None:
    seen = []

    class Watching(Layer):
        def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, None]:
            return x.copy(), None

        def backward(self, dy: np.ndarray, saved: None, need_dx: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            gc.collect()
            seen.append(kept() is None)
            return dy, {}

    class Keeping(Watching):
        def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, object]:
            nonlocal kept
            mine = np.ones(3)
            kept = weakref.ref(mine)
            return x.copy(), mine

        def backward(self, dy: np.ndarray, saved: object, need_dx: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            return dy, {}

    kept: weakref.ref[np.ndarray]
    x, y = batch()
    net = Sequential(Conv2d(3, 5, 8), Watching(), Keeping(), Flatten())
    fastconv.value_and_grad(net, "cross_entropy", x, y)
    assert seen == [True]
    output, pullback = fastconv.vjp(net, x)
    assert np.array_equal(pullback(output)[0], pullback(output)[0])  # any number of times


def test_a_plan_prints_as_a_list() -> None:
    lines = str(plan_of(Sequential(Conv2d(3, 4, 1), BatchNorm2d(4), ReLU(), Flatten()))).splitlines()
    assert lines == ["(0,) -> 1  0, Conv2d", "(1,) -> 3  1, BatchNorm2d + 2, ReLU", "(3,) -> 4  3, Flatten"]


# --- what was found wrong once


def test_a_gradient_of_another_type_or_shape_is_made_to_fit_or_refused() -> None:
    class Doubling(Layer):
        shape: tuple[int, ...] | None = None

        def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, None]:
            return x * np.float32(2), None

        def backward(self, dy: np.ndarray, saved: None, need_dx: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
            return 2 * (dy.astype(np.float64) if self.shape is None else np.ones(self.shape)), {}

    x, _ = batch()
    for before in (ReLU(), BatchNorm2d(3), MaxPool2d(2), Conv2d(3, 3, 3)):
        net = Sequential(before, Doubling())
        y, pullback = fastconv.vjp(net, x)
        expected = fastconv.vjp(before, x)[1](2 * np.ones_like(y))[0]
        np.testing.assert_allclose(pullback(np.ones_like(y))[0], expected, rtol=1e-5, atol=1e-6)
        net[1].shape = (2, 1, 6, 6)
        with pytest.raises(fastconv.ShapeError, match=r"must have its shape \(6, 3.*\(in layer 0, "):
            pullback(np.ones_like(y))
    relu = ReLU()
    y, saved = relu.forward(x, Context())
    for dy in (np.ones((2, 1, 6, 6), np.float32), np.ones(x.shape)):
        with pytest.raises(ValueError, match="one type and size"):
            relu.backward(dy, saved, True)


def test_an_operation_by_its_name_is_no_layer_that_fuses() -> None:
    x, _ = batch()
    options = {"running_mean": None, "running_var": None, "training": True}
    net = Sequential(Function("batch_norm", **options), ReLU(), Function("relu"), MaxPool2d(2))
    expected = np.maximum(fastconv.functional.batch_norm(x, None, None, training=True), 0)
    np.testing.assert_array_equal(net(x), fastconv.functional.max_pool2d(expected, 2))


def test_a_net_that_its_layers_refer_to_is_freed() -> None:
    x, _ = batch()
    net = residual_net()
    net[2].parent = net
    net(x)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_another_flow_and_other_names_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sometimes(Sequential):
        skips = False

        def flow(self, x: Any, apply: Any, join: Any) -> Any:
            return x if self.skips else super().flow(x, apply, join)

    x, _ = batch()
    net = Sometimes(Flatten())
    for outer in (net, Sequential(net)):
        for net.skips in (False, True, False):
            assert outer(x).ndim == (4 if net.skips else 2)
    net = Sequential(BatchNorm2d(3), ReLU()).eval()
    assert net(x).min() == 0
    net.flow = lambda x, apply, join: apply("0", net[0], x)
    assert net(x).min() < 0
    del net.flow
    monkeypatch.setattr(Sequential, "flow", lambda self, x, apply, join: apply("0", self[0], x))
    assert net(x).min() < 0
    monkeypatch.undo()
    x, y = np.zeros((6, 3, 1, 1), np.float32), np.zeros(6, np.int64)
    named = Sequential({"a": Conv2d(3, 5, 1), "f": Flatten()})
    fastconv.value_and_grad(named, "cross_entropy", x, y)
    inside = named.children()
    layers = list(inside.values())
    inside.clear()
    inside.update(zip(("b", "f"), layers, strict=True))
    assert fastconv.value_and_grad(named, "cross_entropy", x, y)[1].keys() == {"b.weight", "b.bias"}


def test_layers_that_are_equal_are_not_the_same() -> None:
    class Factor(Layer):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Factor)

        def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, None]:
            return x * np.float32(self.factor), None

    x, _ = batch()
    net = Sequential(Factor(2))
    np.testing.assert_array_equal(net(x), 2 * x)
    net[0] = Factor(3)
    np.testing.assert_array_equal(net(x), 3 * x)


def test_what_an_operation_of_ones_own_keeps_is_not_added_to() -> None:
    constant = np.random.default_rng(0).standard_normal((6, 3, 8, 8))
    before = constant.copy()
    fastconv.register("kept_for_test", lambda x: (x + constant, None), lambda dy, saved: constant, replace=True)
    net = Concat(Function("kept_for_test"), Conv2d(3, 3, 1), Function("kept_for_test")).astype(np.float64)
    x, _ = batch(np.float64)
    y, pullback = fastconv.vjp(net, x)
    first = pullback(np.ones_like(y))[0]
    np.testing.assert_array_equal(first, pullback(np.ones_like(y))[0])
    np.testing.assert_array_equal(constant, before)
    for table in (OPS, FUNCTIONS):
        del table["kept_for_test"]


def test_layers_may_have_the_names_of_what_a_container_is_asked_for() -> None:
    x, y = batch()
    names = "inputs", "kind", "op", "name", "layers", "norm", "training_", "is_fused"
    net = Sequential({**{name: ReLU() for name in names}, "bn": BatchNorm2d(3), "relu": ReLU(), "flat": Flatten()})
    outer = Sequential({"kind": net, "fc": Linear(192, 5)})
    fastconv.value_and_grad(outer, "cross_entropy", x, y)
    assert outer.kind is net and net.inputs == ("input",)
    np.testing.assert_array_equal(copy.deepcopy(outer)(x), pickle.loads(pickle.dumps(outer))(x))


def test_a_container_of_ones_own_may_keep_layers_by_other_names() -> None:
    class Twice(Sequential):
        def __init__(self) -> None:
            self.before = ReLU()
            super().__init__(Conv2d(3, 3, 1), BatchNorm2d(3))
            self.convolution = self[0]

        def forward(self, x: np.ndarray, context: Context) -> Any:
            return super().forward(self.before.forward(x, context)[0], context)

    x, _ = batch()
    net = Twice()
    assert net.convolution is net[0] and net(x).shape == x.shape


def test_a_plan_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(planning, "fused", lambda steps, outputs, keep: made.append(keep) or steps)
    x, y = batch()
    net = residual_net()
    for _ in range(2):
        net(x)
        fastconv.value_and_grad(net, "cross_entropy", x, y)
    assert made == [False, True]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", fastconv.engine.ALGORITHMS)
def test_relu_in_the_store_gives_the_bits_of_relu_behind_it(algorithm: str, dtype: type) -> None:
    """By every algorithm, nan and infinity and both zeros among them, channels that fill no vector too."""
    rng = np.random.default_rng(0)
    groups, channels = (8, 8) if algorithm in ("depthwise", "grouped") else (1, 21)
    layer = Conv2d(channels, 24 if groups > 1 else 21, 3, padding=1, groups=groups, algorithm=algorithm).astype(dtype)
    x = rng.standard_normal((3, channels, 9, 10)).astype(dtype)
    x[0, 1, 2, 3], x[1, 0, 4, 4] = np.nan, np.inf
    layer.weight[-1], layer.bias[-1] = 0, -0.0
    context = Context.of_step(layer, None)
    with np.errstate(all="ignore"):
        y, _ = layer.relu_forward(x, context)
        expected = fastconv.functional.relu(layer.forward(x, context)[0])
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(expected))
    assert np.isnan(y).any()


NORMS = {
    "norm": lambda c: [BatchNorm2d(c)],
    "norm, relu": lambda c: [BatchNorm2d(c), ReLU()],
    "norm without weights, relu": lambda c: [BatchNorm2d(c, affine=False), ReLU()],
}


def settled(net: Layer, rng: np.random.Generator) -> Layer:
    """The net, in inference, with statistics, weights and biases of no special kind."""
    for _, layer, name in net.named_arrays():
        array = getattr(layer, name)
        if array.ndim == 1:
            array[...] = rng.uniform(0.5, 2, len(array)) if name.endswith("var") else rng.standard_normal(len(array))
    return net.eval()


def same_bits(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(np.signbit(one), np.signbit(other))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", [*NORMS, "norm, add, relu"])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2, "bias": False}])
@pytest.mark.parametrize("algorithm", fastconv.engine.ALGORITHMS)
def test_a_norm_in_the_store_gives_the_bits_of_one_behind_it(
    algorithm: str, options: dict[str, Any], norm: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every algorithm, nan and infinity and both zeros among them, filters that fill no vector too."""
    rng = np.random.default_rng(0)
    groups, channels, filters = (8, 8, 24) if algorithm in ("depthwise", "grouped") else (1, 21, 21)
    for kernel in (3, 1, 5):
        conv = Conv2d(channels, filters, kernel, groups=groups, algorithm=algorithm, rng=rng, **options)
        if norm == "norm, add, relu":
            shortcut = Conv2d(channels, filters, kernel, groups=groups, rng=rng, **options)
            inside = Sequential(conv, BatchNorm2d(filters))
            net: Layer = Sequential(Residual(inside, shortcut=shortcut), ReLU())
        else:
            net = Sequential(conv, *NORMS[norm](filters))
        net = settled(net.astype(dtype), rng)
        conv = next(layer for _, layer in net.walk() if isinstance(layer, Conv2d))
        conv.weight[-1] = 0
        x = rng.standard_normal((3, channels, 9, 11)).astype(dtype)
        x[0, 1, 3, 3], x[1, 0, 5, 5] = np.nan, np.inf
        with np.errstate(all="ignore"):
            found = net(x)
            with monkeypatch.context() as patch:
                by_layer(patch)
                same_bits(found, net(x))
    assert np.isnan(found).any()


@pytest.mark.parametrize("algorithm", ["direct", "winograd", "depthwise"])
def test_which_kernels_norm_as_they_store(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = 8 if algorithm == "depthwise" else 1
    net = Sequential(Conv2d(8, 8, 3, groups=groups, algorithm=algorithm), BatchNorm2d(8), ReLU()).eval()
    monkeypatch.setattr(Fused, "forward_apart", None)
    assert net(np.ones((1, 8, 5, 5), np.float32)).shape == (1, 8, 3, 3)
    inside = Sequential(Conv2d(8, 8, 3, padding=1, groups=groups, algorithm=algorithm), BatchNorm2d(8))
    net = Sequential(Residual(inside), ReLU()).eval()
    steps = [step for step in plan_of(net, keep=False).steps if isinstance(step, Fused)]
    assert [str(step).count("+") for step in steps] == [3]
    if algorithm != "depthwise":  # which adds nothing
        assert net(np.ones((1, 8, 5, 5), np.float32)).shape == (1, 8, 5, 5)


@pytest.mark.parametrize("algorithm", ["direct", "winograd", "depthwise"])
@pytest.mark.parametrize("dtype", [">f4", ">f8", "float16", "int32", "int64"])
def test_arrays_of_other_types_do_what_layers_do(algorithm: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = 8 if algorithm == "depthwise" else 1
    net = Sequential(Conv2d(8, 8, 3, groups=groups, algorithm=algorithm), BatchNorm2d(8), ReLU()).eval()
    for _, layer, name in net.named_arrays():
        array = getattr(layer, name)
        setattr(layer, name, (4 * array).astype(dtype) if array.dtype.kind == "f" else array)
    x = batch()[0][:, :1].repeat(8, 1)
    found = net(x)
    by_layer(monkeypatch)
    same_bits(found, net(x))


def test_a_norm_in_the_store_is_that_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, statistics, modes and types are those of now."""
    fastconv.manual_seed(0)
    rng = np.random.default_rng(1)
    conv, norm = Conv2d(3, 8, 3, padding=1), BatchNorm2d(8)
    net = settled(Sequential(conv, norm, ReLU()), rng)
    x, _ = batch()
    assert isinstance(plan_of(net, keep=False).steps[0], Fused)

    def changed_bias() -> None:
        conv.bias[...] += 1

    def changed_statistics() -> None:
        norm.running_mean[...] += 1
        norm.running_var[...] *= 2

    def trains() -> None:
        norm.train()

    def answers() -> None:
        norm.eval()

    def other_border() -> None:
        conv.padding_mode = "reflect"

    def no_statistics() -> None:
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None

    outputs = [net(x)]
    for change in (changed_bias, changed_statistics, trains, answers, other_border, no_statistics):
        change()
        before = copy.deepcopy(net)
        outputs.append(net(x))
        assert not np.array_equal(outputs[-1], outputs[-2])
        with monkeypatch.context() as patch:
            by_layer(patch)
            same_bits(outputs[-1], before(x))


def test_what_does_not_fit_is_told_as_the_layers_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = batch()

    def told(change: str) -> str:
        net: Any = Sequential(Conv2d(3, 8, 3), BatchNorm2d(8), ReLU()).eval()
        exec(change)
        with pytest.raises((ValueError, TypeError)) as caught:
            net(x)
        return f"{caught.type.__name__}: {caught.value}"

    changes = [
        "net[1] = BatchNorm2d(7).eval()", "net[1] = BatchNorm1d(8).eval()", "net[1].running_mean = net[1].weight[:7]",
        "net[1].running_var = None", "net[0].weight = net[0].weight[:7]", "net[0].weight = None", "net[1].eps = 'a'",
        "net[1].eps = -1", "net[1].momentum = 'a'", "net[1].weight = 'abc'", "net[0].bias = net[0].bias[:3]",
    ]  # fmt: skip
    found = [told(change) for change in changes]
    by_layer(monkeypatch)
    assert found == [told(change) for change in changes]


def test_statistics_that_are_no_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = batch()
    net: Any = Sequential(Conv2d(3, 8, 3), BatchNorm2d(8)).eval()
    net[1].running_mean = [1.0] * 8
    found = net(x)
    by_layer(monkeypatch)
    same_bits(found, net(x))


class Keeps(Layer):
    """Hands back the gradient that it was given, and keeps it."""

    given: np.ndarray

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        return x * 1, None

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        self.given = dy * 1
        self.copy = self.given.copy()
        return self.given, {}


@pytest.mark.parametrize("before", ["conv", "norm", "sum"])
def test_only_gradients_that_nobody_else_has_are_overwritten(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a layer of one's own, of a caller, and of a sum's other side stay as they are."""
    monkeypatch.setattr(planning, "LARGE", 0)
    fastconv.manual_seed(0)
    keeps = Keeps()
    first = {"conv": [], "norm": [BatchNorm2d(8)], "sum": [Residual(Sequential(Conv2d(8, 8, 1), BatchNorm2d(8)))]}[
        before
    ]
    net = Sequential(Conv2d(3, 8, 3, padding=1), *first, ReLU(), keeps, Conv2d(8, 8, 1), ReLU())
    assert any(isinstance(step, Fused) for step in plan_of(net).steps[:-1])
    x = batch()[0]
    for _ in range(2):
        y, pullback = fastconv.vjp(net, x)
        dy = np.ones_like(y)
        for _ in range(2):
            pullback(dy)
            np.testing.assert_array_equal(dy, 1)
            np.testing.assert_array_equal(keeps.given, keeps.copy)
    y, saved = net.forward(x, Context.of_step(net, None))
    net.backward(dy, saved, True)
    np.testing.assert_array_equal(dy, 1)
    np.testing.assert_array_equal(keeps.given, keeps.copy)


def test_identities_are_no_steps_but_where_they_have_methods_or_give_an_output():
    shared, ours = fastconv.Identity(), fastconv.Identity()
    net = Sequential(Conv2d(1, 4, 3, padding=1, rng=0), shared, ReLU(), Residual(ours), shared).eval()
    told = [str(step) for step in plan_of(net).steps]
    assert told[0] == "0, Conv2d + 2, ReLU"
    assert [step for step in told if "Identity" in step] == ["4, Identity"]
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 5)).astype(np.float32)
    y = net(x)
    ours.forward = lambda x, context: (3 * x, None)
    np.testing.assert_allclose(net(x), 2 * y, rtol=1e-6)
    del ours.forward
    np.testing.assert_array_equal(net(x), y)
    shared.forward = lambda x, context: (-x, None)
    assert not np.array_equal(net(x), y) and net(x).max() <= 0


IDENTITIES = {  # and whether they are steps of the plan
    "apart": ({"id": ("input",), "a": "id", "b": "input", "c": "id"}, True),
    "read twice": ({"id": ("input",), "a": "input", "b": "id", "c": "id"}, True),
    "between": ({"id": ("input",), "a": "input", "b": "input", "c": "id"}, True),
    "next": ({"a": "input", "id": ("input",), "b": "id", "c": "input"}, False),
    "alone": ({"id": ("input",), "a": "id", "b": "id", "c": "id"}, False),
    "two": ({"id": ("input",), "a": "input", "b": "id"}, False),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_identity_stays_where_gradients_would_be_added_in_another_order(name: str, monkeypatch) -> None:
    reads, stays = IDENTITIES[name]
    nodes = {
        node: (fastconv.Identity(), *read) if node == "id" else (Conv2d(4, 4, 1, rng=i), read)
        for i, (node, read) in enumerate(reads.items())
    }
    net = Graph({**nodes, "sum": ("add", *(node for node in nodes if node != "id"))})
    assert any("Identity" in str(step) for step in plan_of(net).steps) == stays
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 9)).astype(np.float32)
    planned = fastconv.vjp(net, x)[1](x)[0]
    by_layer(monkeypatch)
    np.testing.assert_array_equal(planned, fastconv.vjp(net, x)[1](x)[0])
