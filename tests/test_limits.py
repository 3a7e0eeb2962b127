"""Below a memory limit: the same bits in less memory, or a MemoryError with the least limit before anything is done."""

from __future__ import annotations

import gc
import itertools
import re
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import cases
import numpy as np
import pytest
from test_plan import NETS, batch
from test_runtime import printed

import fastconv
from fastconv import functional, layers, value_and_grad
from fastconv._ext import memory
from fastconv.layers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Dropout2d,
    Flatten,
    Function,
    Graph,
    InstanceNorm2d,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from fastconv.layers.base import Context, Layer
from fastconv.ops.registry import FUNCTIONS, OPS
from fastconv.plan import limits, plan_of
from fastconv.training.trainer import Trainer

Net = Callable[[], Layer]


def least_of(call: Callable[[int], Any]) -> int:
    """The number that a MemoryError names."""
    with pytest.raises(MemoryError, match=r"^memory_limit: a step on this batch takes at least [\d,]+ bytes") as raised:
        call(1)
    found = re.search(r"at least ([\d,]+) bytes", str(raised.value))
    assert found
    return int(found[1].replace(",", ""))


def repeated(net: Layer) -> set[str]:
    """The steps that the last call ran again, by name."""
    schedule: Any = [*plan_of(net).schedules.values()][-1][1]
    return {plan_of(net).steps[at].name for at in schedule.dropped}


def dropping_net() -> Sequential:
    return Sequential(
        Conv2d(3, 16, 3, padding=1), InstanceNorm2d(16, affine=True, track_running_stats=True), Dropout2d(0.3), ReLU(),
        Dropout(0.5), Conv2d(16, 16, 3, padding=1), BatchNorm2d(16, momentum=None), ReLU(), Dropout(0.25),
        MaxPool2d(2), Flatten(), Dropout(0.5), Linear(16 * 16, 5),
    )  # fmt: skip


def unet() -> Graph:
    def block(inputs: int, outputs: int) -> Sequential:
        return Sequential(Conv2d(inputs, outputs, 3, padding=1, bias=False), BatchNorm2d(outputs), ReLU())

    nodes = {
        "down": (block(3, 8), "input"), "pool": (MaxPool2d(2), "down"), "middle": (block(8, 16), "pool"),
        "up": (ConvTranspose2d(16, 8, 2, stride=2), "middle"), "both": ("concat", "up", "down"),
        "end": (block(16, 8), "both"), "flat": (Flatten(), "end"), "out": (Linear(8 * 64, 5), "flat"),
    }  # fmt: skip
    return Graph(nodes)


ALL: dict[str, Net] = {**NETS, "dropping": dropping_net, "unet": unet}


def step(net: Layer, x: Any, y: Any, limit: int | None, loss: Any = "cross_entropy") -> list[np.ndarray]:
    """The loss, the gradients by name and the state after a step."""
    value, gradients = value_and_grad(net, loss, x, y, rng=np.random.default_rng(3), memory_limit=limit)
    return [np.array(value), *(gradients[name] for name in sorted(gradients)), *net.state_dict().values()]


def need_same_bits(net: Layer, x: Any, y: Any, loss: Any = "cross_entropy") -> int:
    """With limits from the least on; returns the least."""
    state = net.state_dict()
    expected = step(net, x, y, None, loss)
    net.load_state_dict(state)
    least = least_of(lambda limit: step(net, x, y, limit, loss))
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, state[name])
    for limit in (least, least * 5 // 4, least * 3 // 2, 1 << 40):
        net.load_state_dict(state)
        for one, other in zip(step(net, x, y, limit, loss), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert least_of(lambda _: step(net, x, y, least - 1, loss)) == least
    return least


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ALL)
def test_the_bits_are_those_without_a_limit(name: str, dtype: type) -> None:
    fastconv.manual_seed(1)
    net = ALL[name]().astype(dtype)
    x, y = batch(dtype)
    least = need_same_bits(net, np.concatenate([x] * 4), np.concatenate([y] * 4))
    step(net, np.concatenate([x] * 4), np.concatenate([y] * 4), least)
    assert repeated(net)


@pytest.mark.parametrize("put_aside", ["freeze 4.body.1", "eval 1", "freeze all but the last", "freeze 0"])
def test_what_is_put_aside_stays_so(put_aside: str) -> None:
    fastconv.manual_seed(1)
    net = NETS["residual"]()
    if put_aside == "freeze all but the last":
        net.freeze().unfreeze("9")
    elif put_aside == "eval 1":
        net[1].eval()  # type: ignore[index]
    else:
        net.freeze(put_aside.split()[1])
    need_same_bits(net, *batch())


def test_a_layer_alone_and_several_inputs_and_outputs() -> None:
    fastconv.manual_seed(1)
    x, _ = batch()
    need_same_bits(Conv2d(3, 4, 3), x, np.zeros((6, 4, 6, 6), np.float32), "mse_loss")
    shared = Conv2d(3, 8, 3, padding=1)
    nodes = {
        "a": (shared, "left"), "b": (shared, "right"), "an": (BatchNorm2d(8), "a"), "ar": (ReLU(), "an"),
        "sum": ("add", "ar", "b"), "prod": ("mul", "sum", "a"), "next": (Conv2d(8, 8, 3, padding=1), "prod"),
        "k": np.ones((8, 1, 1, 1), np.float32), "op": ("conv2d", "next", "k", {"groups": 8}), "n": (ReLU(), "op"),
        "flat": (Flatten(), "n"), "one": (Linear(8 * 64, 5), "flat"), "two": ("item", "parts", {"index": 1}),
    }  # fmt: skip
    nodes.pop("two")
    net = Graph(nodes, inputs=("left", "right"), outputs=("one", "n", "a"))
    targets = {"one": np.arange(6) % 5, "n": np.zeros((6, 8, 8, 8), np.float32)}
    need_same_bits(net, (x, x[::-1]), targets, {"one": "cross_entropy", "n": "mse_loss"})


def test_a_loss_of_ones_own() -> None:
    fastconv.manual_seed(1)
    x, y = batch()

    def loss(output: Any, y: Any) -> Any:
        return functional.cross_entropy(output, y) + 0.1 * np.abs(output).mean()

    need_same_bits(NETS["residual"](), x, y, loss)
    need_same_bits(Conv2d(3, 4, 3), x, np.zeros((6, 6, 6), np.int64), loss)
    net = NETS["residual"]()
    with pytest.raises(TypeError, match="memory_limit needs one net and x"):
        value_and_grad(net, lambda: functional.cross_entropy(net(x), y), memory_limit=1 << 40)


# --- layers of one's own


class Counting(Layer):
    """Draws, counts and keeps: what must not be done twice."""

    forwards = 0
    drawn: list[float]

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        self.forwards += 1
        factor = np.float32(context.generator.standard_normal()) if context.keep else np.float32(1)
        return x * factor, factor

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return dy * saved, {}


def test_layers_of_ones_own_run_once() -> None:
    fastconv.manual_seed(1)

    def block() -> list[Layer]:
        return [Conv2d(8, 8, 3, padding=1), BatchNorm2d(8), ReLU(), Dropout(0.5)]

    own = Counting()
    net = Sequential(Conv2d(3, 8, 1), *block(), *block(), own, *block(), *block(), Flatten(), Linear(8 * 64, 5))
    x, y = batch()
    least = need_same_bits(net, x, y)
    own.forwards = 0
    step(net, x, y, least)
    assert own.forwards == 1
    assert repeated(net)
    assert "9" not in repeated(net)


def test_a_registered_operation_and_statistics_of_a_graph_run_once() -> None:
    calls = []

    def forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(x) > 2:
            calls.append(x.shape)
        return x * x, x

    fastconv.register("limits_square", forward, lambda dy, x: (2 * x * dy,))
    try:
        fastconv.manual_seed(1)
        around = [Conv2d(4, 4, 3, padding=1), ReLU(), Conv2d(4, 4, 3, padding=1), ReLU()]
        square = Function("limits_square")
        net = Sequential(Conv2d(3, 4, 1), *around, square, *around, Flatten(), Linear(4 * 64, 5))
        x, y = batch()
        least = need_same_bits(net, x, y)
        calls.clear()
        step(net, x, y, least)
        assert len(calls) == 1
    finally:
        del OPS["limits_square"], FUNCTIONS["limits_square"]
    statistics = {"mean": np.zeros(8, np.float32), "var": np.ones(8, np.float32)}
    graph = Graph({
        **statistics, "c": (Conv2d(3, 8, 3, padding=1), "input"), "r": (ReLU(), "c"),
        "n": ("batch_norm", "r", "mean", "var", {"training": True}), "d": (Conv2d(8, 8, 3, padding=1), "n"),
        "e": (ReLU(), "d"), "f": (Flatten(), "e"), "l": (Linear(8 * 64, 5), "f"),
    })  # fmt: skip
    need_same_bits(graph, x, y)
    running = {"running_mean": np.zeros(8, np.float32), "running_var": np.ones(8, np.float32)}
    twins = []
    for limit in (None, 1 << 40):
        fastconv.manual_seed(1)
        function = Function("batch_norm", **{name: array.copy() for name, array in running.items()}, training=True)
        net = Sequential(Conv2d(3, 8, 3, padding=1), function, Flatten(), Linear(8 * 64, 5))
        twins.append([*step(net, x, y, limit), *function._options.values()])
    for one, other in zip(*twins, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_backward_that_fails_leaves_the_net_usable() -> None:
    fastconv.manual_seed(1)
    net = NETS["residual"]()
    x, y = batch()
    least = need_same_bits(net, x, y)
    state = net.state_dict()
    expected = step(net, x, y, least)
    net.load_state_dict(state)

    def fail(*_: Any) -> Any:
        raise RuntimeError("in the middle")

    net[4].children()["body"].children()["2"].forward, seen = fail, memory.held()  # type: ignore[index]
    with pytest.raises(RuntimeError, match="in the middle"):
        step(net, x, y, 1 << 40)
    del net[4].children()["body"].children()["2"].forward  # type: ignore[index]
    least = least_of(lambda limit: step(net, x, y, limit))
    gc.collect()
    assert memory.held() <= seen
    net.load_state_dict(state)
    for one, other in zip(step(net, x, y, least), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_with_limits_of_their_own() -> None:
    fastconv.manual_seed(1)
    nets = [NETS["residual"]() for _ in range(4)]
    x, y = batch()
    expected = [step(net.astype(np.float32), x, y, None) for net in nets]
    least = least_of(lambda limit: step(nets[0].astype(np.float32), x, y, limit))
    found: list[Any] = [None] * len(nets)

    def work(index: int) -> None:
        for factor in (1, 2, 3):
            found[index] = step(nets[index].astype(np.float32), x, y, least * factor)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_way_follows_from_shapes_and_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fastconv.manual_seed(1)
    net = NETS["residual"]()
    x, y = batch()
    least = least_of(lambda limit: step(net, x, y, limit))
    step(net, x, y, least)
    first = repeated(net)
    counted = limits.Counts
    monkeypatch.setattr(limits, "Counts", None)
    step(net, x + 1, y, least)
    assert repeated(net) == first
    monkeypatch.setattr(limits, "Counts", counted)
    with pytest.raises(MemoryError):
        step(net, np.concatenate([x, x]), np.concatenate([y, y]), least)
    for number in range(2 * limits.MOST_KEPT):
        step(net, x, y, (1 << 30) + number)
    assert len(plan_of(net).schedules) <= limits.MOST_KEPT


@pytest.mark.parametrize("limit", [0, -5])
def test_limits_that_are_none(limit: int, tmp_path: Any) -> None:
    x, y = batch()
    net = Sequential(Flatten(), Linear(192, 5))
    with pytest.raises(ValueError, match=rf"^value_and_grad: memory_limit must be at least 1 byte, got {limit}$"):
        value_and_grad(net, "cross_entropy", x, y, memory_limit=limit)
    with pytest.raises(ValueError, match=rf"^Trainer: memory_limit must be at least 1 byte, got {limit}$"):
        Trainer(net, fastconv.optim.SGD(0.1), memory_limit=limit)
    with pytest.raises(TypeError, match="memory_limit must be an integer"):
        Trainer(net, fastconv.optim.SGD(0.1), memory_limit=1e9)  # type: ignore[arg-type]


# --- the Trainer


def test_a_trainer_goes_on_with_its_limit(tmp_path: Any) -> None:
    x, y = batch()
    x, y = np.concatenate([x] * 5), np.concatenate([y] * 5)

    def trainer(limit: int | None) -> Trainer:
        fastconv.manual_seed(1)
        return Trainer(dropping_net(), fastconv.optim.Adam(1e-3), memory_limit=limit)

    free = trainer(None)
    free.fit(x, y, epochs=2, batch_size=10, progress=False)
    probe = trainer(1)
    before = probe.net.state_dict()
    with pytest.raises(MemoryError) as raised:
        probe.fit(x, y, epochs=2, batch_size=10, progress=False)
    assert probe.step == 0
    for name, array in probe.net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    least = int(str(raised.value).split("at least ")[1].split()[0].replace(",", ""))

    first = trainer(least)
    first.fit(x, y, epochs=1, batch_size=10, progress=False)
    first.save(tmp_path / "half")
    second = Trainer.resume(tmp_path / "half")
    assert second.memory_limit == least
    second.fit(x, y, epochs=2, progress=False)
    assert repeated(second.net)
    for name, array in free.net.state_dict().items():
        np.testing.assert_array_equal(second.net.state_dict()[name], array)


def test_without_a_limit_a_checkpoint_has_none(tmp_path: Any) -> None:
    Trainer(Sequential(Flatten(), Linear(4, 2)), fastconv.optim.SGD(0.1)).save(tmp_path / "file")
    assert Trainer.resume(tmp_path / "file").memory_limit is None


# --- what is counted is not less than what is held


def held(net: Layer, x: np.ndarray) -> int:
    """Bytes that both passes hold at most, blocks and small arrays."""
    gc.collect()
    memory.trim()
    tracemalloc.start()
    before = memory.held()
    memory.most_held()
    y, saved = net.forward(x, Context.of_step(net, np.random.default_rng(0)))
    net.backward(np.ones(y.shape, y.dtype), saved, False)
    most = memory.most_held() - before + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def counted(net: Layer, x: np.ndarray) -> int:
    context, made = Context.of_step(net), plan_of(net)
    return limits.Counts(made, {0: x}, context, limits._needed(made)).peak(())


@pytest.mark.parametrize("case", cases.LAYERS, ids=lambda case: f"{case.name}-{case.x_shape}")
@pytest.mark.filterwarnings("ignore:function_pool2d")
def test_counts_are_bounds(case: cases.LayerCase) -> None:
    """Of every layer, behind one that is trained; of arrays in either order."""
    layer = getattr(layers, case.name)(*case.arguments, **case.options)
    count = max(2, min(256, 200_000 // int(np.prod(case.x_shape[1:]))))
    x = np.random.default_rng(0).standard_normal((count, *case.x_shape[1:])).astype(np.float32)
    fronts: list[Layer] = [layers.PReLU()]
    if x.ndim == 4:
        fronts.append(Conv2d(x.shape[1], x.shape[1], 1))
    for front in fronts:
        net = Sequential(front, layer)
        held(net, x)
        assert held(net, x) <= counted(net, x)


@pytest.mark.parametrize("name", ALL)
def test_counts_of_nets_are_bounds_and_close(name: str) -> None:
    fastconv.manual_seed(1)
    net = ALL[name]()
    x = np.random.default_rng(0).standard_normal((200, 3, 8, 8)).astype(np.float32)
    held(net, x)
    assert held(net, x) <= counted(net, x) <= 1.6 * held(net, x)


@pytest.mark.parametrize(("dilation", "blind"), [(3, True), (2, False)])
def test_counts_of_relu_and_a_pool_whose_windows_may_see_nothing(dilation: int, blind: bool) -> None:
    """What they hold one by one where they are not done in one."""
    pool = MaxPool2d((2, 1), stride=1, padding=(1, 0), dilation=(dilation, 1))
    net = Sequential(
        Conv2d(4, 16, 1), layers.Tanh(), ReLU(), pool, Conv2d(16, 4, 1), ReLU(), layers.AdaptiveAvgPool2d(1)
    )
    x = np.random.default_rng(0).standard_normal((8, 4, 2, 3000)).astype(np.float32)
    assert pool.windows(net[:3](x)).all_see_x != blind
    held(net, x)
    assert held(net, x) <= counted(net, x)


RESIDENT = """
import json, re
import numpy as np
import fastconv
from fastconv.layers import *

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

fastconv.manual_seed(0)
block = lambda i, o: [Conv2d(i, o, 3, padding=1, bias=False), BatchNorm2d(o), ReLU()]
net = Sequential(*block(3, 32), *block(32, 32), MaxPool2d(2), *block(32, 64), *block(64, 64), MaxPool2d(2),
                 *block(64, 64), Flatten(), Linear(64 * 64, 10))
x, y = np.random.default_rng(0).standard_normal((48, 3, 32, 32)).astype(np.float32), np.arange(48) % 10
try:
    fastconv.value_and_grad(net, "cross_entropy", x, y, memory_limit=1)
except MemoryError as error:
    least = int(re.search(r"at least ([\\d,]+)", str(error))[1].replace(",", ""))
found = []
for limit in (least, least * 5 // 4, None):
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    for _ in range(3):
        fastconv.value_and_grad(net, "cross_entropy", x, y, memory_limit=limit)
    found.append((limit, status("VmHWM") - before if limit == least else status("VmHWM") - first))
    first = before if limit == least else first
print(json.dumps(found))
"""


def test_resident_memory_of_a_fresh_process_stays_below() -> None:
    (least, at_least), (more, at_more), (_, free) = printed(RESIDENT)
    assert at_least <= least
    assert at_more <= more
    assert free > least * 1.2


def test_blocks_of_the_arena_are_apart_and_join_again() -> None:
    """Blocks come and go at random below a ceiling; each keeps what was written, and free memory stays below."""
    rng = np.random.default_rng(0)
    memory.trim()
    base = memory.held()
    alive: dict[int, np.ndarray] = {}
    memory.set_ceiling(base + (8 << 20))
    try:
        for number in range(3000):
            if alive and (rng.random() < 0.5 or memory.held() - base > 6 << 20):
                key = int(rng.choice([*alive]))
                assert (alive.pop(key) == key % 251).all()
            else:
                made = np.frombuffer(memory.Block(int(rng.choice([4096, 70_000, 200_000, 1_500_000]))), np.uint8)
                made[...] = number % 251
                alive[number] = made
            assert memory.held() + memory.cached() - base <= (8 << 20) + 4096 * (1 + len(alive))
    finally:
        memory.set_ceiling(0)
    for key, array in alive.items():
        assert (array == key % 251).all()
    alive.clear()
    memory.trim()
    assert memory.cached() == 0


def test_a_residual_net_takes_half() -> None:
    fastconv.manual_seed(1)
    blocks = [
        Residual(Sequential(Conv2d(8, 8, 3, padding=1), BatchNorm2d(8), ReLU(), Conv2d(8, 8, 3, padding=1)))
        for _ in range(8)
    ]
    net = Sequential(Conv2d(3, 8, 3, padding=1), *blocks, Flatten(), Linear(8 * 64, 5))
    x, y = batch()
    x, y = np.concatenate([x] * 20), np.concatenate([y] * 20)
    least = need_same_bits(net, x, y)
    assert least < 0.5 * held(net, x)
