"""A captured pass gives the bits of one step by step, sees what is changed, and keeps nothing of its callers'."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import os
import pkgutil
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastconv
from fastconv import _ext, functional, optim
from fastconv import plan as planning
from fastconv._ext import memory
from fastconv._ext.capture import Capture, Kernel, refuse
from fastconv.engine.trace import listening
from fastconv.layers import (
    ELU,
    GELU,
    SELU,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Concat,
    Conv1d,
    Conv2d,
    Conv3d,
    Dropout,
    Dropout2d,
    Flatten,
    Function,
    Hardswish,
    LeakyReLU,
    Linear,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from fastconv.layers.base import Context, Layer
from fastconv.machine.memory import allocate
from fastconv.ops.norm.channels import synchronised
from fastconv.ops.pool import maximum
from fastconv.plan import capture as capturing
from fastconv.plan.capture import ALIKE, CAPTURED, Lease


def lenet() -> Sequential:
    return Sequential(
        Conv2d(1, 6, 5), ReLU(), MaxPool2d(2), Conv2d(6, 16, 5), ReLU(), MaxPool2d(2), Flatten(), Linear(256, 32),
        ReLU(), Linear(32, 5),
    )  # fmt: skip


def normed() -> Sequential:
    body = Sequential(
        Conv2d(16, 16, 3, padding=1), BatchNorm2d(16), ReLU(), Conv2d(16, 16, 3, padding=1, bias=False), BatchNorm2d(16)
    )
    return Sequential(
        Conv2d(3, 16, 3, padding=1, stride=2), BatchNorm2d(16), ReLU(), MaxPool2d(2), Residual(body), ReLU(),
        AdaptiveAvgPool2d(1), Flatten(), Linear(16, 5),
    )  # fmt: skip


def separable() -> Sequential:
    return Sequential(
        Conv2d(8, 8, 3, padding=1, groups=8), BatchNorm2d(8), ReLU(), Conv2d(8, 24, 1), BatchNorm2d(24), LeakyReLU(),
        Conv2d(24, 24, 3, stride=2, padding=1, groups=6), Tanh(), AvgPool2d(3, stride=2, padding=1), Flatten(),
        Linear(96, 5),
    )  # fmt: skip


def line() -> Sequential:
    return Sequential(
        Conv1d(2, 8, 9, stride=2), BatchNorm1d(8), ReLU(), MaxPool1d(4), Conv1d(8, 3, 3, dilation=2), Sigmoid(),
        AdaptiveAvgPool1d(3), Flatten(), Linear(9, 5),
    )  # fmt: skip


def volume() -> Sequential:
    return Sequential(
        Conv3d(1, 4, 3, padding=1), BatchNorm3d(4), ReLU(), MaxPool3d(2), Conv3d(4, 8, 2), ReLU(), Flatten(),
        Linear(8 * 27, 5),
    )  # fmt: skip


def branches() -> Sequential:
    norm = BatchNorm2d(4).eval()
    return Sequential(
        Concat(Conv2d(2, 4, 1), Sequential(Conv2d(2, 4, 3, padding=1), norm, ReLU())), Dropout(0.5).eval(), Flatten(),
        Linear(8 * 36, 5),
    )  # fmt: skip


def winograd() -> Sequential:
    return Sequential(
        Conv2d(16, 32, 3, padding=1, algorithm="winograd"), ReLU(), Conv2d(32, 16, 3, padding=1, algorithm="winograd"),
        Conv2d(16, 8, 5, stride=2, algorithm="winograd"), AdaptiveAvgPool2d(1), Flatten(), Linear(8, 5),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], Sequential], tuple[int, ...]]] = {
    "lenet": (lenet, (2, 1, 28, 28)),
    "normed": (normed, (4, 3, 16, 16)),
    "separable": (separable, (3, 8, 8, 8)),
    "line": (line, (2, 2, 80)),
    "volume": (volume, (2, 1, 8, 8, 8)),
    "branches": (branches, (2, 2, 6, 6)),
    "winograd": (winograd, (2, 16, 18, 18)),
}


def images(shape: tuple[int, ...], seed: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def labels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, count)


def bytes_of(found: Any) -> Any:
    loss, gradients = found
    return loss, {name: gradient.tobytes() for name, gradient in gradients.items()}


def of(net: Layer, keep: bool = True) -> Any:
    """The captured pass of a net."""
    return planning.plan_of(net, keep=keep).captures.captured


class Twins:
    """A net and a copy whose passes are never captured."""

    def __init__(self, net: Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
        self.net, self.other = net, copy.deepcopy(net)
        self.monkeypatch = monkeypatch

    def __iter__(self) -> Any:
        return iter((self.net, self.other))

    def agree(self, work: Callable[[Any], Any]) -> None:
        """Whether some work gives both the same bits, statistics included."""
        found = work(self.net)
        with self.monkeypatch.context() as patch:
            patch.setattr(planning, "key_of", lambda *_: None)
            expected = work(self.other)
        assert found == expected
        for one, other in zip(self.net.state_dict().values(), self.other.state_dict().values(), strict=True):
            np.testing.assert_array_equal(one, other)

    def step(self, x: np.ndarray, seed: int = 0) -> None:
        t = labels(len(x), seed)
        self.agree(lambda net: bytes_of(fastconv.value_and_grad(net, "cross_entropy", x, t)))

    def answer(self, x: np.ndarray) -> None:
        self.agree(lambda net: net(x).tobytes())


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequential], Twins]:
    return lambda net: Twins(net, monkeypatch)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NETS)
def test_a_captured_step_has_the_bits_of_one_step_by_step(twins, name, dtype, threads):
    make, shape = NETS[name]
    both = twins(make().astype(dtype))
    before = fastconv.get_num_threads()
    fastconv.set_num_threads(threads)
    try:
        for seed in range(ALIKE + 3):
            if seed == ALIKE + 1:  # in place, between two passes
                for net in both:
                    for parameter in net.parameters().values():
                        parameter *= 1.5
            both.step(images(shape, seed, dtype), seed)
        assert of(both.net).passes == 3
        for net in both:
            net.eval()
        for seed in range(ALIKE + 2):
            both.answer(images(shape, seed, dtype))
        assert of(both.net, keep=False).passes == 2
    finally:
        fastconv.set_num_threads(before)


@pytest.mark.parametrize("layout", ["channels last", "strided"])
def test_wherever_x_lies(twins, layout):
    both = twins(normed())
    for seed in range(ALIKE + 2):
        x = images((4, 3, 16, 16), seed)
        if layout == "strided":
            x = np.repeat(x, 2, axis=3)[..., ::2]
        else:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        both.step(x, seed)
    assert of(both.net).passes == 2


LAYERS: list[Callable[[], Layer]] = [
    lambda: Conv1d(2, 3, 2), lambda: Conv2d(2, 3, 2), lambda: Conv3d(2, 3, 2), lambda: Linear(4, 3),
    lambda: BatchNorm1d(2), lambda: BatchNorm2d(2), lambda: BatchNorm3d(2), lambda: Dropout(0.5).eval(),
    lambda: Dropout2d(0.5).eval(), Flatten, lambda: Reshape(4, 8), lambda: MaxPool1d(2), lambda: MaxPool2d(3, 1, 1),
    lambda: MaxPool3d(2), lambda: AvgPool1d(2), lambda: AvgPool2d(3, padding=1, count_include_pad=False),
    lambda: AvgPool3d(2), lambda: AdaptiveAvgPool1d(3), lambda: AdaptiveAvgPool2d(3), lambda: AdaptiveAvgPool3d(3),
    lambda: AdaptiveMaxPool1d(3), lambda: AdaptiveMaxPool2d(3), lambda: AdaptiveMaxPool3d(3), ReLU, LeakyReLU, ELU,
    SELU, GELU, SiLU, Sigmoid, Tanh, Softplus, Hardswish,
]  # fmt: skip


@pytest.mark.parametrize("make", LAYERS, ids=lambda make: type(make()).__name__)
def test_every_layer_that_is_said_to_be_captured(twins, make):
    layer = make()
    name = type(layer).__name__
    axes = int(name[-2]) if name[-2:] in ("1d", "3d") else 2
    shape = (3, 4) if name == "Linear" else (3, 2, *(4,) * axes)
    flat = Sequential(layer, Flatten())
    both = twins(Sequential(layer, Flatten(), Linear(flat(images(shape, 0)).shape[1], 5)))
    for seed in range(ALIKE + 2):
        for net in both:
            net[2].weight *= 1.1
        both.step(images(shape, seed), seed)
    assert of(both.net).passes == 2
    for net in both:
        net.eval()
    for seed in range(ALIKE + 2):
        both.answer(images(shape, seed))
    assert of(both.net, keep=False).passes == 2


def test_all_of_them_are_tried():
    assert {type(make()).__name__ for make in LAYERS} == CAPTURED


def forgetful() -> Sequential:
    return Sequential(
        Conv2d(1, 8, 3), ReLU(), Dropout2d(0.3), MaxPool2d(2), Dropout(0.25), Flatten(), Linear(8 * 169, 16), ReLU(),
        Dropout(0.5), Linear(16, 5),
    )  # fmt: skip


@pytest.mark.parametrize("given", [True, False], ids=["a generator", "the default one"])
def test_dropout_draws_what_it_would(twins, given):
    both = twins(forgetful())

    def step(net: Sequential) -> Any:
        fastconv.manual_seed(seed)
        rng = np.random.default_rng(seed) if given else None
        found = bytes_of(fastconv.value_and_grad(net, "cross_entropy", x, labels(2, seed), rng=rng))
        return found, (rng or fastconv.random.default_generator()).integers(1 << 30)

    for seed in range(ALIKE + 4):
        x = images((2, 1, 28, 28), seed)
        both.agree(step)
    assert of(both.net).passes == 4


def test_dropout_draws_again_what_another_backward_needs():
    net = forgetful()
    twin = copy.deepcopy(net)
    for seed in range(3 * ALIKE):
        found = []
        for each, final in ((net, None), (twin, lambda *_: None)):
            context = replace(Context.of_step(each, np.random.default_rng(seed)), final=final)
            y, saved = each.forward(images((2, 1, 28, 28), seed), context)
            dx, gradients = each.backward(np.ones_like(y), saved, seed % 4 == 3)
            found.append((y.tobytes(), None if dx is None else dx.tobytes(), bytes_of((0, gradients))))
        assert found[0] == found[1]


def test_what_is_no_generator():
    net = work(forgetful())
    x, t = images((2, 1, 28, 28), 0), labels(2, 0)
    with pytest.raises(TypeError, match="rng must be a numpy"):
        fastconv.value_and_grad(net, "cross_entropy", x, t, rng=5)  # type: ignore[call-overload]


def work(net: Sequential, passes: int = ALIKE + 1) -> Sequential:
    """A net with a captured pass."""
    for seed in range(passes):
        fastconv.value_and_grad(net, "cross_entropy", images((2, 1, 28, 28), seed), labels(2, seed))
    assert of(net) is not None
    return net


CHANGES: dict[str, Callable[[Any], Any]] = {
    "another array": lambda net: setattr(net[0], "weight", net[0].weight * 2),
    "another bias": lambda net: setattr(net[7], "bias", None),
    "another layer": lambda net: net.__setitem__(1, Tanh()),
    "options": lambda net: net[2].configure(kernel_size=2, stride=2, padding=0, ceil_mode=True),
    "frozen": lambda net: net.freeze("0.weight"),
    "inference": lambda net: net.eval(),
    "a method of the layer's own": lambda net: setattr(net[1], "forward", net[9].forward),
    "an attribute": lambda net: setattr(net[3], "padding_mode", "replicate"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_is_seen(twins, change):
    both = twins(lenet())
    for seed in range(ALIKE + 1):
        both.step(images((2, 1, 28, 28), seed), seed)
    for net in both:
        if change == "a method of the layer's own":
            net[1].forward = lambda x, context: (np.maximum(x, 0.5), x > 0.5)
            net[1].backward = lambda dy, saved, need_dx: (dy * saved, {})
        else:
            CHANGES[change](net)
    for seed in range(ALIKE + 2):
        both.step(images((2, 1, 28, 28), 9 + seed), seed)


def test_a_class_that_is_changed_is_seen(twins, monkeypatch):
    both = twins(lenet())
    for seed in range(ALIKE + 1):
        both.step(images((2, 1, 28, 28), seed), seed)
    monkeypatch.setattr(MaxPool2d, "forward", AvgPool2d(2).forward.__func__)
    calls = []
    pool = MaxPool2d.forward

    def watched(layer: Any, x: np.ndarray, context: Context) -> Any:
        calls.append(layer)
        return pool(layer, x, context)

    monkeypatch.setattr(MaxPool2d, "forward", watched)
    both.step(images((2, 1, 28, 28), 9))
    assert len(calls) == 4


@pytest.mark.parametrize("what", ["threads", "precision", "limit", "mode", "batch"])
def test_other_passes_are_computed_as_ever(twins, what):
    both = twins(lenet())
    for seed in range(ALIKE + 1):
        both.step(images((2, 1, 28, 28), seed), seed)
    before = fastconv.get_num_threads(), fastconv.get_precision(), fastconv.get_workspace_limit()
    count = 3 if what == "batch" else 2
    try:
        if what == "threads":
            fastconv.set_num_threads(3 - min(2, before[0]))
        elif what == "precision":
            fastconv.set_precision("strict")
        elif what == "limit":
            fastconv.set_workspace_limit(1 << 16)
        elif what == "mode":
            for net in both:
                net.eval()
        passes = of(both.net).passes
        both.step(images((count, 1, 28, 28), 9))
        assert of(both.net).passes == passes
    finally:
        fastconv.set_num_threads(before[0])
        fastconv.set_precision(before[1])
        fastconv.set_workspace_limit(before[2])
    for net in both:
        net.train()
    both.step(images((2, 1, 28, 28), 10))
    assert of(both.net).passes == passes + 1


REFUSED: dict[str, Callable[[], Sequential]] = {
    "a fractional stride": lambda: Sequential(
        Conv2d(1, 2, 3, stride=Fraction(1, 2)), Flatten(), Linear(2 * 53 * 53, 5)
    ),
    "a border": lambda: Sequential(Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), Flatten(), Linear(1568, 5)),
    "a cumulative average": lambda: Sequential(
        Conv2d(1, 2, 5), BatchNorm2d(2, momentum=None), Flatten(), Linear(1152, 5)
    ),
    "an operation as a layer": lambda: Sequential(Function("relu"), Flatten(), Linear(784, 5)),
    "an operation that is not served": lambda: Sequential(
        Conv2d(1, 4, 3), fastconv.GroupNorm(2, 4), Flatten(), Linear(2704, 5)
    ),
    "strict": lenet,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_captured(name):
    net = REFUSED[name]()
    precision = fastconv.get_precision()
    try:
        if name == "strict":
            fastconv.set_precision("strict")
        for seed in range(ALIKE + 2):
            fastconv.value_and_grad(net, "cross_entropy", images((2, 1, 28, 28), seed), labels(2, seed))
        assert of(net) is None
    finally:
        fastconv.set_precision(precision)


def test_nor_what_is_large_or_watched_or_shared(monkeypatch):
    net, x, t = lenet(), images((2, 1, 28, 28), 0), labels(2, 0)
    for _ in range(ALIKE + 1):
        with listening(lambda found: None):
            fastconv.value_and_grad(net, "cross_entropy", x, t)
        with synchronised(lambda values: values[None]):
            fastconv.value_and_grad(net, "cross_entropy", x, t)
        fastconv.value_and_grad(net, "cross_entropy", x, t, memory_limit=1 << 30)
        fastconv.vjp(net, x)
    assert of(net) is None
    monkeypatch.setattr(capturing, "PASS_BYTES", 1 << 17)
    for _ in range(ALIKE + 1):
        fastconv.value_and_grad(net, "cross_entropy", x, t)
    assert of(net) is None


def test_what_is_handed_out_stays():
    net = work(lenet())
    x, t = images((2, 1, 28, 28), 0), labels(2, 0)
    outputs = []
    held = []
    for _ in range(5):
        held.append(
            fastconv.value_and_grad(net, lambda y, t: outputs.append(y) or functional.cross_entropy(y, t), x, t)
        )
    before = [bytes_of(each) for each in held]
    answers = [net(x + seed) for seed in range(5)]
    of_answers = [answer.tobytes() for answer in answers]
    for seed in range(20):
        fastconv.value_and_grad(net, "cross_entropy", images((2, 1, 28, 28), seed), t)
        net(images((2, 1, 28, 28), seed))
    assert [bytes_of(each) for each in held] == before
    assert [answer.tobytes() for answer in answers] == of_answers


def test_a_net_that_its_own_loss_calls_again(twins):
    both = twins(lenet())
    x, t = images((2, 1, 28, 28), 0), labels(2, 0)

    def step(net: Sequential) -> Any:
        inside = []

        def loss(y: Any, t: np.ndarray) -> Any:
            inside.append(bytes_of(fastconv.value_and_grad(net, "cross_entropy", x + 1, t)))
            return functional.cross_entropy(y, t)

        return bytes_of(fastconv.value_and_grad(net, loss, x, t)), inside

    for _ in range(ALIKE + 3):
        both.agree(step)
    assert of(both.net) is not None


def test_in_many_threads_at_once():
    net = work(lenet())
    batches = [(images((2, 1, 28, 28), seed), labels(2, seed)) for seed in range(8)]
    expected = [bytes_of(fastconv.value_and_grad(net, "cross_entropy", *batch)) for batch in batches]
    found: list[list[Any]] = [[] for _ in batches]

    def run(place: int) -> None:
        for _ in range(50):
            found[place].append(bytes_of(fastconv.value_and_grad(net, "cross_entropy", *batches[place])))

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == one for one, many in zip(expected, found, strict=True) for each in many)


def test_nets_that_are_captured_in_many_threads_at_once():
    x, t = images((2, 1, 28, 28), 0), labels(2, 0)
    nets = [lenet() for _ in range(8)]
    found: dict[int, list[Any]] = {}

    def run(place: int) -> None:
        found[place] = [
            bytes_of(fastconv.value_and_grad(nets[place], "cross_entropy", x + seed, t)) for seed in range(10)
        ]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, net in enumerate(nets):
        twin = copy.deepcopy(net)
        again = [bytes_of(fastconv.value_and_grad(twin, "cross_entropy", x + seed, t)) for seed in range(2)]
        assert found[place][:2] == again
        assert found[place][8:] == [
            bytes_of(fastconv.value_and_grad(copy.deepcopy(net), "cross_entropy", x + seed, t)) for seed in (8, 9)
        ]


def test_a_step_that_fails_leaves_the_pass_to_the_next():
    net = work(lenet())
    x, t = images((2, 1, 28, 28), 0), labels(2, 0)
    expected = bytes_of(fastconv.value_and_grad(net, "cross_entropy", x, t))
    passes = of(net).passes

    def loss(y: Any, t: np.ndarray) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastconv.value_and_grad(net, loss, x, t)
    assert bytes_of(fastconv.value_and_grad(net, "cross_entropy", x, t)) == expected
    assert of(net).passes == passes + 2


def test_gradients_are_asked_for_once():
    net = work(lenet())
    context = Context.of_step(net)
    y, saved = net.forward(images((2, 1, 28, 28), 0), context)
    assert isinstance(saved, Lease)
    net.backward(np.ones_like(y), saved, False)
    with pytest.raises(ValueError, match="once"):
        net.backward(np.ones_like(y), saved, False)


@pytest.mark.parametrize("name", ["lenet", "normed"])
def test_another_gradient_than_the_captured_one(name):
    make, shape = NETS[name]
    net = make()
    twin = copy.deepcopy(net)
    kinds = []
    for seed in range(4 * ALIKE):
        x, need_dx = images(shape, seed), seed > ALIKE + 1
        y, saved = net.forward(x, Context.of_step(net))
        kinds.append(type(saved))
        dx, gradients = net.backward(np.ones_like(y), saved, need_dx)
        y, saved = twin.forward(x, replace(Context.of_step(twin), final=lambda *_: None))
        expected_dx, expected = twin.backward(np.ones_like(y), saved, need_dx)
        assert need_dx == (dx is not None)
        assert dx is None or dx.tobytes() == expected_dx.tobytes()
        assert bytes_of((0, gradients)) == bytes_of((0, expected))
        for one, other in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert kinds[ALIKE + 1 :] == [Lease, Lease, *[tuple] * (ALIKE - 1), *[Lease] * (2 * ALIKE - 2)]


def test_a_gradient_of_another_shape():
    net = work(lenet())
    _, saved = net.forward(images((2, 1, 28, 28), 0), Context.of_step(net))
    assert isinstance(saved, Lease)
    with pytest.raises(fastconv.ShapeError, match="gradient to the output"):
        net.backward(np.ones((1, 5), np.float32), saved, False)


def test_a_gradient_of_another_type(twins):
    both = twins(lenet())

    def step(net: Sequential) -> Any:
        _, saved = net.forward(x, Context.of_step(net))
        return bytes_of((0, net.backward(dy, saved, False)[1]))

    for seed in range(ALIKE + 3):
        x, dy = images((2, 1, 28, 28), seed), images((2, 5), seed, np.float64)
        both.agree(step)


def test_a_backward_that_fails_while_it_is_captured():
    net = lenet()
    x = images((2, 1, 28, 28), 0)
    for _ in range(ALIKE):
        y, saved = net.forward(x, Context.of_step(net))

    def fail(*_: Any, **__: Any) -> Any:
        functional.relu(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        saved.backward(net, np.ones_like(y), False, None, fail)
    del saved
    found = []
    for _ in range(ALIKE + 3):
        y, saved = net.forward(x, Context.of_step(net))
        found.append(bytes_of((0, net.backward(np.ones_like(y), saved, False)[1])))
    assert isinstance(saved, Lease)
    assert found == found[:1] * len(found)


def test_one_whose_backward_never_comes_is_captured_again():
    net = lenet()
    x = images((2, 1, 28, 28), 0)
    for _ in range(ALIKE):
        net.forward(x, Context.of_step(net))
    assert not of(net).has_backward()
    work(net, 2 * ALIKE)
    assert of(net).has_backward()


def test_weights_that_are_copied_first_are_read_where_they_are(twins):
    both = twins(lenet())
    for net in both:
        room = np.zeros(6 * 25 * 4 + 1, np.int8)[1:]
        odd = room.view(np.float32).reshape(6, 1, 5, 5)
        odd[...] = both.net[0].weight
        net[0].weight = odd
    for seed in range(ALIKE + 2):
        for net in both:
            net[0].weight[...] *= 2
        both.step(images((2, 1, 28, 28), seed), seed)
    assert of(both.net) is None


def test_a_net_that_is_dropped_takes_its_captured_pass_along():
    gc.collect()
    gc.disable()
    try:
        net = work(lenet())
        net(images((2, 1, 28, 28), 0))
        kept = weakref.ref(of(net).x)
        del net
        assert kept() is None
    finally:
        gc.enable()


def test_shapes_that_come_and_go_do_not_pile_up():
    net, t = lenet(), labels(2, 0)
    seen = []
    for size in (28, 27, 26):
        net[7] = Linear(16 * ((size - 4) // 2 // 2 - 2) ** 2, 32, rng=0)
        for seed in range(ALIKE):
            fastconv.value_and_grad(net, "cross_entropy", images((2, 1, size, size), seed), t)
        seen.append(weakref.ref(of(net).x))
    assert [each() is not None for each in seen] == [False, False, True]


def test_a_large_one_makes_room_for_what_else_the_net_does(monkeypatch):
    net = work(lenet())
    x, t = images((2, 1, 28, 28), 0), labels(2, 0)
    net(x)
    fastconv.value_and_grad(net, "cross_entropy", x[:1], t[:1])
    assert of(net) is not None
    monkeypatch.setattr(capturing, "FEW_BYTES", 1 << 12)
    kept = weakref.ref(of(net).x)
    net(x)
    assert kept() is None
    work(net)
    fastconv.value_and_grad(net, "cross_entropy", x[:1], t[:1])
    assert of(net) is None


@pytest.mark.parametrize("where", ["net", "layer", "list"])
@pytest.mark.parametrize("how", ["itself", "deep"])
def test_attributes_that_hold_themselves_or_more_than_a_stack_does(twins, where, how):
    both, notes = twins(lenet()), {}
    if how == "itself":
        notes["notes"] = notes
    else:
        for _ in range(200_000):
            notes = {"notes": notes}
    for net in both:
        (net if where == "net" else net[0]).notes = [notes] if where == "list" else notes
    for seed in range(ALIKE + 2):
        both.step(images((4, 1, 28, 28), seed), seed)
    for net in both:
        del (net if where == "net" else net[0]).notes
    while notes:  # one by one, for Python's own collector has a stack, too
        notes = notes.popitem()[1]


class Endless(Mapping):
    """Its values are new ones each time."""

    def __getitem__(self, key):
        return Endless()

    def __iter__(self):
        return iter("a")

    def __len__(self):
        return 1


def test_a_mapping_without_an_end(twins):
    both = twins(lenet())
    for net in both:
        net[0].notes = Endless()
    for seed in range(ALIKE + 2):
        both.step(images((4, 1, 28, 28), seed), seed)


def test_what_a_captured_pass_keeps_of_its_input_is_a_block():
    """Made anew each time that a batch of another size came in between, it is found on the free list."""
    own = capturing.twin(images((64, 1, 28, 28), 0))
    while isinstance(own.base, np.ndarray):
        own = own.base
    assert type(own.base) is memory.Block


def test_nets_share_what_captured_passes_may_keep(monkeypatch):
    """Those in use keep it, those that nobody uses give way."""
    capturing._ledger.drop_all()  # of other tests' nets
    first = work(lenet())
    monkeypatch.setattr(capturing, "MOST_BYTES", 2 * of(first).nbytes + 1)
    second, third, x, t = work(lenet()), lenet(), images((2, 1, 28, 28), 0), labels(2, 0)
    for _ in range(ALIKE):
        fastconv.value_and_grad(third, "cross_entropy", x, t)
    assert [of(net) is not None for net in (first, second, third)] == [True, True, False]
    fastconv.value_and_grad(second, "cross_entropy", x, t)
    expected = bytes_of(fastconv.value_and_grad(copy.deepcopy(third), "cross_entropy", x, t))
    for _ in range(ALIKE + 1):
        assert bytes_of(fastconv.value_and_grad(third, "cross_entropy", x, t)) == expected
    assert [of(net) is not None for net in (first, second, third)] == [False, True, True]
    capturing._ledger.drop_all()
    assert [of(net) is not None for net in (first, second, third)] == [False] * 3
    assert capturing._ledger._total == 0


def test_nets_that_come_and_go_in_threads_and_handlers():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            kept = []
            for _ in range(40):
                kept.append(Sequential(Linear(4, 3)))
                for _ in range(4):
                    kept[-1](np.ones((2, 4), np.float32))
                capturing._ledger.drop_all()
        except BaseException as error:
            raised.append(error)

    try:
        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not raised


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["after", "before", "between"])
def test_linear_of_more_axes_behind_and_before_convolutions(twins, name, dtype):
    nets = {
        "after": lambda: Sequential(Conv1d(3, 4, 3), Linear(8, 6), Flatten(), Linear(24, 5)),
        "before": lambda: Sequential(Linear(10, 6), Conv1d(3, 4, 3), Flatten(), Linear(16, 5)),
        "between": lambda: Sequential(
            Conv1d(3, 4, 3), BatchNorm1d(4), Linear(8, 6), BatchNorm1d(4), ReLU(), Flatten(), Linear(24, 5)
        ),
    }
    both = twins(nets[name]().astype(dtype))
    for seed in range(ALIKE + 3):
        for net in both:
            for parameter in net.parameters().values():
                parameter *= 1.1
        both.step(images((4, 3, 10), seed, dtype), seed)
    assert of(both.net).passes == 3
    for net in both:
        net.eval()
    for seed in range(ALIKE + 2):
        both.answer(images((4, 3, 10), seed, dtype))


@pytest.mark.parametrize("loss", ["mean", "sum", "of a part", "of the transposed"])
def test_gradients_to_y_that_lie_otherwise(twins, loss):
    losses: dict[str, Callable[[Any], Any]] = {
        "mean": lambda y: y.mean(),
        "sum": lambda y: (y.sum(axis=1) * 0.5).sum(),
        "of a part": lambda y: (y[:, ::2] * y[:, ::2]).sum(),
        "of the transposed": lambda y: (y.T * np.arange(33, dtype=np.float32)).sum(),
    }
    both = twins(Sequential(Linear(300, 200)))
    x = images((33, 300), 0)
    found = []
    for _ in range(ALIKE + 3):
        both.agree(lambda net: bytes_of(fastconv.value_and_grad(net, losses[loss], x)))
        found.append(bytes_of(fastconv.value_and_grad(both.net, losses[loss], x)))
    assert found == found[:1] * len(found)


def test_an_empty_batch(twins):
    make = Sequential(Conv2d(32, 128, 3, padding=1), AdaptiveAvgPool2d(1), Flatten(), Linear(128, 288))
    make[3].weight = np.asfortranarray(make[3].weight)
    make.freeze("3.weight")
    both = twins(make)
    dy = np.ones((0, 288), np.float32)

    def step(net: Sequential) -> Any:
        y, saved = net.forward(np.ones((0, 32, 6, 6), np.float32), Context.of_step(net))
        return y.shape, bytes_of((0, net.backward(dy, saved, False)[1]))

    for _ in range(ALIKE + 3):
        both.agree(step)


@pytest.mark.parametrize("dtype", ["f2", "i4", ">f4", "?"])
def test_a_net_without_parameters_is_given_other_types(twins, dtype):
    both = twins(Sequential(MaxPool2d(2), Residual(ReLU()), Concat(ReLU(), Tanh())))

    def step(net: Sequential) -> Any:
        y, saved = net.forward(x, Context.of_step(net))
        return y.tobytes(), net.backward(np.ones_like(y), saved, True)[0].tobytes()

    for seed in range(ALIKE + 3):
        x = (images((2, 3, 8, 8), seed) * 3).astype(dtype)
        both.agree(step)


def test_a_pass_that_threads_capture_at_once_is_each_ones_own():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(10):
            net = Sequential(Conv2d(3, 16, 3), ReLU()).eval()
            inputs = [images((4, 3, 24, 24), seed) for seed in range(5)]
            expected = [copy.deepcopy(net)(x).tobytes() for x in inputs]
            wrong: list[int] = []

            def run(place: int, net: Any, x: np.ndarray, right: bytes, wrong: list[int]) -> None:
                wrong += [place for _ in range(6) if net(x).tobytes() != right]

            threads = [
                threading.Thread(target=run, args=(place, net, x, right, wrong))
                for place, (x, right) in enumerate(zip(inputs, expected, strict=True))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong
    finally:
        sys.setswitchinterval(before)


def test_what_a_signals_handler_computes_is_no_part_of_the_pass(monkeypatch):
    """Nor what `__del__` does: Python runs both between two lines of the pass."""
    net, other = lenet(), images((2, 3, 64, 64), 5)
    kept: list[np.ndarray] = []
    cut = maximum.cut_pixels

    def interrupted(*given: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return cut(*given)

    before = signal.signal(signal.SIGUSR1, lambda *_: kept.append(functional.silu(other)))
    monkeypatch.setattr(maximum, "cut_pixels", interrupted)
    try:
        for seed in range(2 * ALIKE):
            fastconv.value_and_grad(net, "cross_entropy", images((2, 1, 28, 28), seed), labels(2, seed))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(kept) >= 2 * ALIKE
    assert all(each.tobytes() == kept[0].tobytes() for each in kept)
    assert of(net) is None


def test_options_that_can_be_written_to(twins):
    both = twins(Sequential(Conv2d(1, 4, 3), BatchNorm2d(4, momentum=np.array(0.1)), Flatten(), Linear(2704, 5)))
    for seed in range(ALIKE + 3):
        if seed == ALIKE + 1:
            for net in both:
                net[1].momentum[...] = 0.9
        both.step(images((2, 1, 28, 28), seed), seed)


@pytest.mark.parametrize("when", [1, ALIKE + 1])
@pytest.mark.parametrize("method", ["arrays", "wanted", "relu_forward"])
def test_other_methods_that_are_put_in_place(twins, monkeypatch, method, when):
    both = twins(Sequential(Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(2704, 5)))
    own = getattr(Conv2d, method)

    def other(layer: Any, *given: Any) -> Any:
        found = own(layer, *given)
        if method == "arrays":
            return found[0] * 2, found[1]
        return [False, True] if method == "wanted" else (np.tanh(found[0]), found[1])

    for seed in range(ALIKE + 4):
        if seed == when:
            monkeypatch.setattr(Conv2d, method, other)
        both.step(images((2, 1, 28, 28), seed), seed)


def test_options_that_are_numbers_of_ones_own(twins):
    class Number:
        def __init__(self, value: float) -> None:
            self.value = value

        def __float__(self) -> float:
            return self.value

    slopes = []

    def made() -> Sequential:
        slopes.append(Number(0.1))
        return Sequential(Linear(4, 5, rng=0), LeakyReLU(slopes[-1]))  # type: ignore[arg-type]

    net, other = made(), made()
    for seed in range(ALIKE + 3):
        for slope in slopes:
            slope.value = 0.1 + seed // 4
        x = images((3, 4), seed)
        assert net(x).tobytes() == copy.copy(other).forward(x, Context(snapshot=True))[0].tobytes()


def test_a_net_that_becomes_another():
    class Back(Sequential):
        def flow(self, x: Any, apply: Any, join: Any) -> Any:
            for name, layer in reversed(self._layers.items()):
                x = apply(name, layer, x)
            return x

    net = Sequential(Linear(4, 4), Tanh(), Linear(4, 4))
    x = images((3, 4), 0)
    for _ in range(ALIKE + 1):
        first = net(x)
    net.__class__ = Back
    assert net(x).tobytes() != first.tobytes()
    assert net(x).tobytes() == net[0](net[1](net[2](x))).tobytes()


def test_a_layer_that_becomes_another():
    net = work(lenet())
    twin = copy.deepcopy(net)
    x = images((2, 1, 28, 28), 0)
    net(x), net(x), net(x), net(x)
    for each in (net, twin):
        each[1].__class__ = Tanh
        each[1]._options = Tanh()._options
    assert net(x).tobytes() == twin(x).tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_captures_passes_of_its_own():
    capture = Capture(1 << 20)
    note = Kernel(np.copyto)
    y = np.zeros(3)
    with capture:
        note(y, 1)
        pid = os.fork()
        if not pid:
            inside = Capture(1 << 20)
            with inside:
                note(y, 2)
            os._exit(0 if inside.noting and not inside.refused and capture.refused else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not capture.refused


def test_training_is_what_it_is_without(twins):
    both = twins(normed())

    def fit(net: Sequential) -> Any:
        trainer = fastconv.Trainer(net, optim.SGD(0.05, momentum=0.9), seed=3)
        x, t = images((22, 3, 16, 16), 0), labels(22, 0)
        return trainer.fit(x, t, epochs=4, batch_size=4, validation_data=(x, t), progress=False)["loss"]

    both.agree(fit)
    assert of(both.net).passes >= 10


# --- what notes and makes the calls -----------------------------------------------------------------------------------


def kernels() -> dict[str, Any]:
    """Every function of the kernels' modules, by its name with the module's."""
    found = {}
    for module in pkgutil.walk_packages(_ext.__path__, f"{_ext.__name__}."):
        if not module.ispkg:
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, Kernel) or type(value).__name__.endswith("cython_function"):
                    found[f"{module.name.removeprefix(_ext.__name__ + '.')}.{name}"] = value
    return found


def test_what_writes_into_arrays_is_a_kernel():
    asked = {  # what is looked up, or belongs to no pass of a net
        "activation.", "augment.", "capture.", "memory.", "optim.", "simd.", "team.",
    }  # fmt: skip
    plain = {name for name, value in kernels().items() if not isinstance(value, Kernel)}
    plain = {name for name in plain if not any(map(name.startswith, asked))}
    assert plain <= {
        "blas.scipy_function", "blas.set_longest", "conv.direct.panels", "conv.direct.room", "conv.lowering.all_finite",
        "conv.narrow.geometry", "conv.narrow.offsets", "conv.narrow.room", "conv.planar.fill_index",
        "conv.planar.geometry", "conv.planar.room", "conv.winograd.axis_transforms",
    }  # fmt: skip


def test_a_capture_makes_the_calls_again_with_what_the_arrays_hold_then():
    double = Kernel(lambda x, *, out: np.multiply(x, 2, out=out))
    x, y = np.arange(3.0), np.empty(3)
    capture = Capture(1 << 20)
    with capture:
        double(x, out=y)
    assert capture.noting
    assert not capture.refused
    x[...] = 5
    capture.replay()
    np.testing.assert_array_equal(y, 10)
    assert capture.nbytes == x.nbytes + y.nbytes


def test_a_block_that_the_pass_gives_back_serves_it_again():
    fill = Kernel(np.copyto)
    shape = (1 << 17,)

    def work() -> tuple[np.ndarray, int]:
        first = allocate("test", shape, np.dtype(np.float32))
        fill(first, 1)
        total = np.zeros(shape, np.float32)
        add(total, first, total)
        place = first.ctypes.data
        del first
        second = allocate("test", shape, np.dtype(np.float32))
        fill(second, 2)
        add(total, second, total)
        fill(second, total)
        return second, place

    add = Kernel(np.add)
    capture = Capture(1 << 30)
    with capture:
        kept, place = work()
    assert kept.ctypes.data == place
    assert capture.nbytes == 2 * kept.nbytes
    held = memory.held()
    others = [allocate("test", shape, np.dtype(np.float32)) for _ in range(5)]
    assert all(other.ctypes.data != place for other in others)
    kept[...] = 9
    capture.replay()  # what NumPy did to `total` first is not done again
    np.testing.assert_array_equal(kept, 6)
    del others, capture
    assert memory.held() == held
    kept[...] = 1
    before = memory.cached()
    del kept
    assert memory.held() == held - shape[0] * 4
    assert memory.cached() == before + shape[0] * 4


def test_views_of_blocks_are_placed_as_they_lie():
    fill = Kernel(np.copyto)
    block = None
    capture = Capture(1 << 30)
    with capture:
        block = allocate("test", (64, 1024), np.dtype(np.float64))
        fill(block, 0)
        fill(block[::-2, 3::5], 7)
        fill(block.T[5], 8)
    expected = block.copy()
    block[...] = 1
    capture.replay()
    np.testing.assert_array_equal(block, expected)


def test_a_capture_is_not_larger_than_it_may_be():
    room = np.zeros(100)
    fill = Kernel(np.copyto)
    first = Capture(1000)
    with first:
        fill(room[:50], 1)
        fill(room[50:], 2)
    assert first.nbytes == room.nbytes
    assert not first.refused
    more = np.zeros(30)
    for second in (Capture(1000, first), Capture(200)):
        with second:
            fill(room, 3)
            fill(more, 4)
            kept = weakref.ref(more)
            more = np.zeros(30)
        assert second.refused
        assert kept() is None
        room[...] = 0
        second.replay()
        assert not room.any()


def test_a_kernel_within_a_kernel_is_not_called_twice():
    calls = []
    inner = Kernel(lambda: calls.append("inner"))
    outer = Kernel(lambda: (calls.append("outer"), inner()))
    capture = Capture(1 << 20)
    with capture:
        outer()
        inner()
    calls.clear()
    capture.replay()
    assert calls == ["outer", "inner", "inner"]


def test_a_kernel_that_raises_is_noted_no_further():
    def fail() -> None:
        raise ValueError("no")

    capture = Capture(1 << 20)
    with pytest.raises(ValueError, match="no"), capture:
        Kernel(fail)()
    with Capture(1 << 20) as _:
        refuse()
    assert not capture.refused


def test_one_capture_at_a_time_and_of_one_thread():
    calls = []
    note = Kernel(calls.append)
    first, second = Capture(1 << 20), Capture(1 << 20)
    with first:
        with second:
            note(1)
        thread = threading.Thread(target=lambda: (note(2), refuse()))
        thread.start()
        thread.join()
    assert first.noting
    assert not second.noting
    assert not first.refused
    calls.clear()
    first.replay()
    second.replay()
    assert calls == [1]


def test_a_kernel_says_what_it_is():
    kernel: Any = _ext.blas.matmul
    assert kernel.__name__ == "matmul"
    assert "BLAS" in kernel.__doc__
    assert "inner_block" in inspect.signature(kernel.__wrapped__).parameters
