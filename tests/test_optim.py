"""Optimisers against torch.optim, schedules against their formulas, and both as data."""

import concurrent.futures
import copy
import json
import math
import pickle
import signal

import numpy as np
import pytest

import fastconv
from fastconv import optim

SHAPES = {"0.weight": (6, 3, 3, 3), "0.bias": (6,), "3.weight": (4, 24), "scale": ()}
OPTIMIZERS = {
    "sgd": ("SGD", {}),
    "sgd decay": ("SGD", {"weight_decay": 0.1}),
    "momentum": ("SGD", {"momentum": 0.9, "weight_decay": 0.01}),
    "nesterov": ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {}),
    "adam decay": ("Adam", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": ("AdamW", {}),
    "adamw decay": ("AdamW", {"betas": (0.5, 0.9), "weight_decay": 0.3}),
    "rmsprop": ("RMSprop", {}),
    "rmsprop centred": ("RMSprop", {"alpha": 0.9, "centered": True, "weight_decay": 0.1}),
    "rmsprop momentum": ("RMSprop", {"eps": 1e-4, "momentum": 0.7}),
    "sgd l1": ("SGD", {"l1": 0.02, "momentum": 0.5}),
    "adamw l1": ("AdamW", {"l1": 0.02}),
    "rmsprop both": ("RMSprop", {"momentum": 0.7, "centered": True}),
    "dampening": ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02}),
    "dampening alone": ("SGD", {"dampening": 0.3, "weight_decay": 0.02}),
    "sgd up": ("SGD", {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.02, "maximize": True}),
    "nesterov up": ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01, "maximize": True}),
    "amsgrad": ("Adam", {"betas": (0.5, 0.6), "weight_decay": 0.1, "amsgrad": True}),
    "amsgrad up": ("AdamW", {"betas": (0.5, 0.6), "amsgrad": True, "maximize": True}),
    "adam up": ("Adam", {"weight_decay": 0.1, "maximize": True}),
    "rmsprop up": ("RMSprop", {"momentum": 0.7, "centered": True, "weight_decay": 0.1, "maximize": True}),
    "sgd up l1": ("SGD", {"momentum": 0.5, "maximize": True, "l1": 0.02}),
}
SCHEDULES = {
    "constant": optim.Constant(0.1, warmup=3),
    "step": optim.Step(0.1, (4, 0.5, 8), gamma=0.5),
    "linear": optim.Linear(0.1, final=0.01),
    "cosine": optim.Cosine(0.1, warmup=0.2),
    "exponential": optim.Exponential(0.1, final=0.001),
    "one cycle": optim.OneCycle(0.1),
}


def channels_last(array):
    """The same numbers, as the layers keep kernels: channels last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) if array.ndim == 4 else array


def draws(rng, dtype=np.float32):
    """Arrays of SHAPES."""
    return {name: channels_last(np.asarray(rng.standard_normal(shape), dtype)) for name, shape in SHAPES.items()}


def copies(arrays):
    return {name: array.copy(order="K") for name, array in arrays.items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def make(name, **more):
    kind, options = OPTIMIZERS[name]
    return getattr(optim, kind)(**{"lr": 0.01, **options, **more})


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_torch(name, dtype):
    """Step by step. torch has no L1: there its gradient is added after the clipping."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    ours = draws(rng, dtype)
    theirs = {key: torch.nn.Parameter(torch.tensor(array)) for key, array in ours.items()}
    optimizer = make(name, clip_norm=5.0)
    kind, options = OPTIMIZERS[name][0], dict(OPTIMIZERS[name][1])
    l1 = options.pop("l1", 0.0)
    twin = getattr(torch.optim, kind)(theirs.values(), lr=0.01, **options)
    for step in range(20):
        gradients = draws(rng, dtype)
        if step % 4 == 0:  # sometimes small enough not to be clipped
            gradients = {key: gradient * dtype(0.1) for key, gradient in gradients.items()}
        optimizer.step(ours, gradients)
        for key, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[key])
        torch.nn.utils.clip_grad_norm_(theirs.values(), 5.0)
        for parameter in theirs.values():  # l1 is a penalty, as the weight decay: of what is minimised
            parameter.grad += (-l1 if options.get("maximize") else l1) * parameter.detach().sign()
        twin.step()
        for key, parameter in theirs.items():
            tolerance = 1e-6 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(ours[key], parameter.detach().numpy(), rtol=0, atol=tolerance)


def test_l1_makes_weights_vanish():
    """Of a linear fit to five of thirty features, the others' weights stay near 0; a group may be spared."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 30))
    y = x[:, :5] @ np.full((5, 1), 2.0)
    found = {}
    for l1 in (0.0, 0.3):
        net = fastconv.Linear(30, 1, rng=0).astype(np.float64)
        net.weight[:, 5:] = 1
        optimizer = optim.SGD(optim.Linear(0.05, total=400), l1=l1, groups=[{"match": "bias", "l1": 0}])
        for _ in range(400):
            _, gradients = fastconv.value_and_grad(net, "mse_loss", x, y + 3)
            optimizer.step(net.parameters(), gradients)
        found[l1] = net.weight[0].copy(), float(net.bias[0])
    np.testing.assert_allclose(found[0.0][0], [2.0] * 5 + [0.0] * 25, atol=1e-2)
    weight, bias = found[0.3]
    assert np.abs(weight[5:]).max() < 0.02
    assert np.all((weight[:5] > 1.75) & (weight[:5] < 1.95))  # drawn towards 0 by about l1 / 2
    assert bias == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_place_and_gradients_untouched(name):
    rng = np.random.default_rng(1)
    parameters, gradients = draws(rng), draws(rng)
    before, kept = copies(gradients), dict(parameters)
    optimizer = make(name, clip_norm=0.1)
    for _ in range(3):
        optimizer.step(parameters, gradients)
    assert same(gradients, before)
    assert all(parameters[key] is kept[key] for key in kept)
    assert optimizer.steps == 3 and optimizer.updates == dict.fromkeys(SHAPES, 3)


@pytest.mark.parametrize("name", ["nesterov", "adamw decay", "amsgrad", "rmsprop both"])
def test_memory_order_and_threads_do_not_matter(name):
    """Channels-last, C order, a strided view and read-only gradients; one thread and two: the same bits."""
    rng = np.random.default_rng(2)
    shape = (96, 64, 3, 3)
    start, gradients = rng.standard_normal(shape, np.float32), rng.standard_normal((4, *shape), np.float32)
    gradients.flags.writeable = False

    def run(parameter, order, threads):
        fastconv.set_num_threads(threads)
        parameter[...] = start
        optimizer = make(name, clip_norm=1.0)
        for gradient in gradients:
            optimizer.step({"w": parameter}, {"w": order(gradient)})
        return parameter.copy(), optimizer.state_dict()

    expected, state = run(np.empty(shape, np.float32), lambda g: g, 1)
    norms = {optim.global_norm({"w": order(gradients[0])}) for order in (np.asarray, channels_last)}
    assert max(norms) == pytest.approx(min(norms), rel=1e-14)
    strided = np.empty((96, 64, 3, 6), np.float32)[..., ::2]
    for parameter, order, threads in (
        (np.empty(shape, np.float32), lambda g: g, 2),
        (channels_last(np.empty(shape, np.float32)), lambda g: g, 2),
        (strided, lambda g: g, 1),
        (strided, lambda g: np.repeat(g, 2, axis=0)[::2], 1),
    ):
        actual, memory = run(parameter, order, threads)
        np.testing.assert_array_equal(actual, expected)
        for slot in optim.SGD.slots if name == "nesterov" else ("square",):
            np.testing.assert_array_equal(memory[slot]["w"], state[slot]["w"])


@pytest.mark.parametrize("step", [1, 2])
def test_one_array_by_two_names_takes_both_steps(step):
    """Weights that are shared by assignment; lying in one run of memory, or not."""
    rng = np.random.default_rng(0)
    start, one, other = rng.standard_normal((3, 200_000), np.float32)
    expected = start.copy()
    optim.SGD(0.1).step({"one": expected}, {"one": one})
    optim.SGD(0.1).step({"other": expected}, {"other": other})
    for threads in (1, 2, 3):
        fastconv.set_num_threads(threads)
        w = np.empty(step * start.size, np.float32)[::step]
        w[...] = start
        optim.SGD(0.1).step({"one": w, "other": w}, {"one": one, "other": other})
        np.testing.assert_array_equal(w, expected)


# --- denormal numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "l1" not in name])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_averages_of_zero_gradients_reach_zero(name, dtype):
    info = np.finfo(dtype)
    fast = {"betas": (0.8, 0.9)} if "adam" in name else {"alpha": 0.9} if "rmsprop" in name else {}
    optimizer = make(name, **fast, weight_decay=0)
    parameters = {"w": np.ones(37, dtype)}
    optimizer.step(parameters, {"w": np.zeros(37, dtype)})
    state = optimizer.state_dict()
    small = np.linspace(1, 1e5, 37, dtype=dtype) * info.tiny
    optimizer.load_state_dict({**state, **{slot: {"w": small} for slot in optimizer.slots if state[slot]}})
    for _ in range(1100):
        optimizer.step(parameters, {"w": np.zeros(37, dtype)})
    for slot in optimizer.slots:
        for memory in optimizer.state_dict()[slot].values():
            if slot == "largest":  # of all averages: it never falls
                np.testing.assert_array_equal(memory, small)
            else:
                np.testing.assert_array_equal(memory, 0)


def test_momentum_is_zero_after_1100_steps_without_gradients():
    optimizer = optim.SGD(0.1, momentum=0.9)
    parameters = {"w": np.ones(100, np.float32)}
    optimizer.step(parameters, {"w": np.ones(100, np.float32)})
    for _ in range(1100):
        optimizer.step(parameters, {"w": np.zeros(100, np.float32)})
    assert not optimizer.state_dict()["momentum"]["w"].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_step_makes_a_denormal_number(name, dtype):
    """Neither in the memory, nor in a parameter of 0: whatever the gradient, at any number of threads."""
    info = np.finfo(dtype)
    exponents = np.linspace(np.log2(info.smallest_subnormal) + 1, 8, 40_001)
    gradient = np.exp2(exponents).astype(dtype) * np.where(np.arange(40_001) % 2, 1, -1).astype(dtype)
    found = []
    for threads in (1, 3):
        fastconv.set_num_threads(threads)
        optimizer, parameters = make(name, l1=0.0), {"w": np.zeros_like(gradient)}
        for step in range(3):
            optimizer.step(parameters, {"w": gradient})
            state = optimizer.state_dict()
            arrays = [state[slot]["w"] for slot in optimizer.slots if "w" in state[slot]]
            for array in [parameters["w"], *arrays] if step == 0 else arrays:
                assert not ((array != 0) & (np.abs(array) < info.tiny)).any()
        assert (parameters["w"][-1000:] != 0).all()
        found.append([parameters["w"], *arrays])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_nothing_else_flushes_denormal_numbers():
    """Not the kernels of functions, on any thread of theirs, nor Python's own arithmetic afterwards."""
    fastconv.set_num_threads(3)
    tiny = np.full((8, 40_000), 1e-41, np.float32)
    parameters = {"w": tiny.reshape(-1).copy()}
    optim.Adam().step(parameters, {"w": np.zeros(tiny.size, np.float32)})
    np.testing.assert_array_equal(parameters["w"], tiny.reshape(-1))
    one = np.ones((1, 1), np.float32)
    for y in (
        fastconv.functional.relu(tiny),
        fastconv.functional.linear(tiny.reshape(-1, 1), one),
        fastconv.functional.max_pool1d(tiny[None], 1),
        fastconv.vjp(fastconv.functional.tanh, np.zeros_like(tiny))[1](tiny)[0],
    ):
        np.testing.assert_array_equal(y.reshape(-1), tiny.reshape(-1))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for product in pool.map(lambda factor: float(np.float32(1e-40) * np.float32(factor)), [0.5] * 9):
            assert product == float(np.float32(5e-41))
    assert 5e-324 * 1.0 != 0


# --- as data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_and_config_continue_the_run(name):
    """Rebuilt from JSON and arrays half-way, in C order: the same bits as the undisturbed optimiser."""
    rng = np.random.default_rng(3)
    start, gradients = draws(rng), [draws(rng) for _ in range(10)]
    lr = optim.Cosine(0.1, warmup=2, total=10)
    straight, first = make(name, lr=lr), make(name, lr=lr)
    a, b = copies(start), copies(start)
    for gradient in gradients:
        straight.step(a, gradient)
    for gradient in gradients[:5]:
        first.step(b, gradient)
    state = first.state_dict()
    assert not any(
        np.shares_memory(x, y) for slot in first.slots for x in state[slot].values() for _, _, y in first._state()
    )
    second = optim.from_config(json.loads(json.dumps(first.config())))
    second.load_state_dict(state)
    for gradient in gradients[5:]:
        second.step(b, gradient)
    assert same(a, b)
    assert second.config() == straight.config()


def test_groups():
    groups = [
        {"match": ["0.b*", "nothing"], "lr": 0.0},
        {"ndim": 0, "lr": optim.Constant(1.0), "weight_decay": 0},
        {"match": "3.*", "ndim": 2, "momentum": 0.0},
    ]
    optimizer = optim.SGD(0.1, momentum=0.9, weight_decay=0.5, groups=groups)
    assert optimizer.options_of("0.weight", 4)["momentum"] == 0.9
    assert optimizer.options_of("3.weight", 2)["momentum"] == 0
    rng = np.random.default_rng(4)
    parameters, gradients = draws(rng), draws(rng)
    before = copies(parameters)
    optimizer.step(parameters, gradients)
    np.testing.assert_array_equal(parameters["0.bias"], before["0.bias"])
    np.testing.assert_allclose(parameters["scale"], before["scale"] - gradients["scale"], rtol=1e-6)
    expected = before["3.weight"] - 0.1 * (gradients["3.weight"] + 0.5 * before["3.weight"])
    np.testing.assert_allclose(parameters["3.weight"], expected, rtol=1e-4, atol=1e-6)
    assert set(optimizer.state_dict()["momentum"]) == {"0.weight", "0.bias", "scale"}
    optimizer = optim.SGD(0.1, groups=[{"match": "3.*", "dampening": 0.5}, {"match": "0.*", "maximize": True}])
    assert optimizer.options_of("3.weight", 2)["dampening"] == 0.5 and optimizer.options_of("0.bias", 1)["maximize"]
    optimizer = optim.SGD(0.1, momentum=0.9, weight_decay=0.5, groups=groups)
    optimizer.step(parameters, gradients)
    again = optim.from_config(json.loads(json.dumps(optimizer.config())))
    assert again.config() == optimizer.config()
    optimizer.lr = 0.0
    before = copies(parameters)
    optimizer.step(parameters, gradients)
    np.testing.assert_array_equal(parameters["3.weight"], before["3.weight"])
    assert not np.array_equal(parameters["scale"], before["scale"])


def test_a_group_without_parameters():
    parameters, gradients = draws(np.random.default_rng(0)), draws(np.random.default_rng(1))
    before = copies(parameters)
    for group, message in (
        ({"match": "nobody"}, r"SGD: group 0 \(match \['nobody'\]\) fits no parameter; there are 0.weight, 0.bias, "),
        ({"ndim": np.int64(3)}, r"SGD: group 0 \(match \['\*'\], ndim 3\) fits no parameter"),
        ({"match": "*.bias", "ndim": 2}, r"match \['\*.bias'\], ndim 2\) fits no parameter"),
    ):
        optimizer = optim.SGD(0.1, groups=[group])
        with pytest.raises(ValueError, match=message):
            optimizer.step(parameters, gradients)
        assert same(parameters, before) and optimizer.steps == 0
    for groups in (
        [{"ndim": 4}, {"match": "0.weight"}],  # the second is never the one that counts, but fits
        [{"match": ["nobody", "scale"]}],
    ):
        optim.SGD(0.1, groups=groups).step(parameters, gradients)
    optimizer = optim.SGD(0.1, groups=[{"match": "0.*", "lr": 0.0}])
    optimizer.check_groups(parameters)  # of all parameters, some of which are frozen at first
    optimizer.step({"scale": parameters["scale"]}, {"scale": gradients["scale"]})
    before = copies(parameters)
    optimizer.step(parameters, gradients)
    assert np.array_equal(parameters["0.bias"], before["0.bias"])


@pytest.mark.parametrize("name", ["dampening", "nesterov", "amsgrad", "adamw decay", "rmsprop both"])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_no_gradient_leaves_a_parameter_alone(name, clip_norm):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    ours = draws(rng, np.float64)
    theirs = {key: torch.nn.Parameter(torch.tensor(array)) for key, array in ours.items()}
    optimizer = make(name, clip_norm=clip_norm)
    kind, options = OPTIMIZERS[name]
    twin = getattr(torch.optim, kind)(theirs.values(), lr=0.01, **options)
    for step in range(8):
        gradients = draws(rng, np.float64)
        gone = {"0.weight", "scale"} if step % 3 == 0 else set(SHAPES) if step == 4 else set()
        kept = {key: array.copy() for slot, key, array in optimizer._state() if key in gone}
        optimizer.step(ours, {key: None if key in gone else gradient for key, gradient in gradients.items()})
        for slot, key, array in optimizer._state():
            if key in kept and slot == optimizer.slots[-1]:
                np.testing.assert_array_equal(array, kept[key])
        for key, parameter in theirs.items():
            parameter.grad = None if key in gone else torch.tensor(gradients[key])
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        twin.step()
        for key, parameter in theirs.items():
            np.testing.assert_allclose(ours[key], parameter.detach().numpy(), rtol=0, atol=1e-12)
    assert optimizer.steps == 8 and optimizer.updates["scale"] == 4 and optimizer.updates["0.bias"] == 7


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_torchs_arguments(kind):
    """All of torch's are known by name: ours, or accepted at their default."""
    torch = pytest.importorskip("torch")
    import inspect

    ours = inspect.signature(getattr(optim, kind)).parameters
    for name, parameter in list(inspect.signature(getattr(torch.optim, kind)).parameters.items())[1:]:
        getattr(optim, kind)(**{"lr": 0.1, name: parameter.default})
        if name not in ours:
            with pytest.raises(TypeError, match=f"{kind}: {name} is accepted at its default"):
                getattr(optim, kind)(0.1, **{name: True})
    with pytest.raises(TypeError, match=f"{kind}: .*'colour'"):
        getattr(optim, kind)(0.1, colour=1)


def test_amsgrads_memory_as_data():
    optimizer = optim.Adam(0.1, amsgrad=True)
    parameters, gradients = draws(np.random.default_rng(0)), draws(np.random.default_rng(1))
    optimizer.step(parameters, gradients)
    state = optimizer.state_dict()
    assert state["largest"].keys() == SHAPES.keys()
    plain = optim.Adam(0.1)
    plain.load_state_dict({name: part for name, part in state.items() if name != "largest"})  # as it was before
    del state["largest"]
    with pytest.raises(ValueError, match="the entries must be steps, updates, mean, square, largest"):
        optim.Adam(0.1, amsgrad=True).load_state_dict(state)


def test_numpy_scalars_are_numbers():
    f, zero_d = np.float32, np.array(0.25)
    for optimizer in (
        optim.SGD(f(0.1), np.float64(0.5), np.True_, np.array(0.01), clip_norm=f(2), groups=[{"ndim": np.int64(1)}]),
        optim.Adam(zero_d, np.array([0.5, 0.75]), f(1e-3), amsgrad=np.array(True)),
        optim.SGD(optim.Step(f(0.1), np.array([3, 5]), zero_d, warmup=np.int32(2), total=np.array(9))),
        optim.SGD(optim.OneCycle(f(0.1), zero_d, np.int64(5))),
    ):
        again = optim.from_config(json.loads(json.dumps(optimizer.config())))
        assert again.config() == optimizer.config()
    with pytest.raises(TypeError, match="lr must be a number, got"):
        optim.SGD(np.True_)


def test_parameters_that_come_and_go():
    """Adam counts each parameter's own updates, as torch does."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    ours = {"a": rng.standard_normal(5, np.float32), "b": rng.standard_normal(5, np.float32)}
    theirs = {key: torch.nn.Parameter(torch.tensor(array)) for key, array in ours.items()}
    optimizer, twin = optim.Adam(0.1), torch.optim.Adam(theirs.values(), 0.1)
    for step in range(6):
        gradients = {key: rng.standard_normal(5, np.float32) for key in ("ab" if step > 2 else "a")}
        optimizer.step({key: ours[key] for key in gradients}, gradients)
        for key, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[key]) if key in gradients else None
        twin.step()
    for key, parameter in theirs.items():
        np.testing.assert_allclose(ours[key], parameter.detach().numpy(), rtol=0, atol=1e-6)


def test_global_norm():
    rng = np.random.default_rng(6)
    gradients = {**draws(rng), "large": rng.standard_normal((100, 1000)), "empty": np.zeros((0, 3), np.float32)}
    exact = math.sqrt(math.fsum(float(x) ** 2 for g in gradients.values() for x in g.flat))
    assert optim.global_norm(gradients) == pytest.approx(exact, rel=1e-13)
    assert optim.global_norm({}) == 0
    assert optim.global_norm({"a": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30)
    assert math.isnan(optim.global_norm({"a": np.array([1, np.nan], np.float32)}))
    fastconv.set_num_threads(1)
    one = optim.global_norm(gradients)
    fastconv.set_num_threads(2)
    assert optim.global_norm(gradients) == one


def test_step_takes_dicts():
    net = fastconv.Linear(2, 1, rng=0)
    gradients = {"weight": np.zeros((1, 2)), "bias": np.zeros(1)}
    with pytest.raises(TypeError, match=r"SGD\.step takes two dicts of arrays, got a Linear: SGD\.step\(net"):
        optim.SGD(0.1).step(net, gradients)
    with pytest.raises(TypeError, match="got a float"):
        optim.SGD(0.1).step(net.parameters(), 1.0)


def test_mismatches_change_nothing():
    rng = np.random.default_rng(7)
    parameters, gradients = draws(rng), draws(rng)
    before = copies(parameters)
    optimizer = optim.SGD(0.1, momentum=0.9)
    wrong = {key: gradient for key, gradient in gradients.items() if key != "0.bias"}
    with pytest.raises(ValueError, match=r"SGD\.step: .* same keys, but only one of them has 0\.bias$"):
        optimizer.step(parameters, wrong)
    with pytest.raises(ValueError, match=r"scale has shape \(\), its gradient \(2,\)"):
        optimizer.step(parameters, {**gradients, "scale": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="scale must be a float32 or float64 array, got int64"):
        optimizer.step({**parameters, "scale": np.zeros((), np.int64)}, gradients)
    fixed = parameters["scale"].copy()
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="scale is read-only"):
        optimizer.step({**parameters, "scale": fixed}, gradients)
    assert same(parameters, before) and optimizer.steps == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.SGD(-1), "SGD: lr must be finite and at least 0, got -1"),
        (lambda: optim.SGD(math.nan), "lr must be finite"),
        (lambda: optim.SGD("0.1"), "lr must be a number, got '0.1'"),
        (lambda: optim.SGD(0.1, nesterov=True), "nesterov needs a momentum"),
        (
            lambda: optim.SGD(0.1, 0.9, True, dampening=0.1),
            "nesterov needs a momentum above 0 and no dampening, got 0.9",
        ),
        (
            lambda: optim.SGD(0.1, 0.9, 5e-4),
            "SGD: nesterov must be True or False, got 0.0005; in the third position .* write weight_decay=0.0005 or",
        ),
        (lambda: optim.SGD(0.1, 0.9, 0), "in the third position stands nesterov, write weight_decay=0 or dampening=0"),
        (lambda: optim.SGD(0.1, maximize=1), "SGD: maximize must be True or False, got 1$"),
        (lambda: optim.Adam(amsgrad="yes"), "Adam: amsgrad must be True or False, got 'yes'"),
        (lambda: optim.SGD(0.1, 0.9, True, groups=[{"match": "a", "momentum": 0}]), "nesterov needs a momentum"),
        (lambda: optim.SGD(0.1, nesterov="yes"), "nesterov must be True or False"),
        (lambda: optim.Adam(betas=(0.9, 1)), "betas must be below 1"),
        (lambda: optim.Adam(betas=0.9), "betas must be two numbers"),
        (lambda: optim.RMSprop(alpha=2), r"alpha must be finite and in \[0, 1\], got 2"),
        (lambda: optim.Adam(l1=-1), "Adam: l1 must be finite and at least 0, got -1"),
        (lambda: optim.SGD(0.1, clip_norm=-2), "clip_norm must be finite and at least 0"),
        (lambda: optim.SGD(0.1, groups=[{"match": "a", "betas": 1}]), "a group has no option 'betas'"),
        (lambda: optim.SGD(0.1, groups=[{"match": 3}]), "match must be a name pattern"),
        (lambda: optim.SGD(0.1, groups=["a"]), "a group must be a dict"),
        (lambda: optim.Cosine(0.1, warmup=-1), "warmup must be a number of steps or a part"),
        (lambda: optim.Cosine(0.1, warmup=1.5), r"warmup must be finite and in \[0, 1\]"),
        (lambda: optim.Cosine(0.1, total=0), "total must be at least 1"),
        (lambda: optim.Exponential(0.1, final=0), "lr and final must be positive"),
        (lambda: optim.from_config({"optimizer": "os.system"}), "no optimiser is configured by"),
        (lambda: optim.from_config({"optimizer": "SGD", "lr": {"schedule": "x"}}), "no learning-rate schedule"),
        (lambda: optim.SGD(0.1).load_state_dict({"steps": 0}), "the entries must be steps, updates, momentum"),
        (
            lambda: optim.SGD(0.1).load_state_dict({"steps": -1, "updates": {}, "momentum": {}}),
            "steps must be a count, got -1",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_is_a_pure_function_and_data(name):
    schedule = SCHEDULES[name]
    rates = [schedule(step, 20) for step in range(20)]
    assert rates == [schedule(step, 20) for step in range(20)]
    assert all(0 < rate <= 0.1 for rate in rates)
    optimizer = optim.SGD(schedule)
    assert optim.from_config(json.loads(json.dumps(optimizer.config()))).lr == schedule
    optimizer.total_steps = 20
    assert [optimizer.learning_rate(step) for step in range(20)] == rates
    if name != "constant":
        with pytest.raises(ValueError, match="the total number of steps is not known"):
            optim.SGD(schedule).learning_rate(15)
    schedule(1000, 20)  # beyond the end: the last rate, or a smaller one
    assert 0 <= schedule(1000, 20) <= 0.1


def test_schedule_values():
    assert [optim.Constant(1.0, warmup=4)(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [optim.Step(1.0, (0.5, 3), 0.1)(step, 4) for step in range(4)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [optim.Linear(1.0, total=4)(step) for step in range(6)] == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    assert [optim.Exponential(1.0, 0.01, total=2)(step) for step in range(3)] == pytest.approx([1, 0.1, 0.01])
    warm = optim.Cosine(1.0, final=0.2, warmup=0.5)
    assert [warm(step, 4) for step in range(5)] == pytest.approx([0.5, 1, 1, 0.6, 0.2])


def test_schedules_equal_torch():
    torch = pytest.importorskip("torch")

    def rates(make):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
        scheduler = make(optimizer)
        for _ in range(40):
            yield optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()

    schedulers = torch.optim.lr_scheduler
    for schedule, twin in (
        (optim.OneCycle(0.3), lambda o: schedulers.OneCycleLR(o, 0.3, total_steps=41, cycle_momentum=False)),
        (optim.Cosine(0.3, 0.01), lambda o: schedulers.CosineAnnealingLR(o, 41, 0.01)),
        (optim.Step(0.3, (10, 30)), lambda o: schedulers.MultiStepLR(o, [10, 30])),
        (optim.Linear(0.3, 0.03), lambda o: schedulers.LinearLR(o, 1.0, 0.1, 41)),
    ):
        np.testing.assert_allclose([schedule(step, 41) for step in range(40)], list(rates(twin)), rtol=1e-9)


def test_ctrl_c_waits_for_the_end_of_a_step():
    """All parameters take the step, or none."""
    optimizer = fastconv.optim.SGD(1.0)
    taken = []
    update = optimizer._update

    def interrupted(*arguments):
        if not taken:
            signal.raise_signal(signal.SIGINT)
        taken.append(True)
        update(*arguments)

    optimizer._update = interrupted
    parameters = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(parameters, {name: np.ones_like(p) for name, p in parameters.items()})
    assert all((p == -1).all() for p in parameters.values()) and optimizer.steps == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("key", ["momentum", "adam", "rmsprop centred"])
def test_copies_go_on_with_the_copied_net(key, again):
    name, options = OPTIMIZERS[key]
    rng = np.random.default_rng(0)
    parameters = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    gradients = [{name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(4)]
    optimizer = getattr(optim, name)(lr=0.01, **options)
    for each in gradients[:2]:
        optimizer.step(parameters, each)
    copied, its = again((parameters, optimizer))
    for each in gradients[2:]:
        optimizer.step(parameters, each)
        its.step(copied, each)
    for name, array in parameters.items():
        np.testing.assert_array_equal(copied[name], array)
