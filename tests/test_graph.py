"""Graph: several inputs and outputs, joins, operations and constants as nodes, and what takes such a net."""

import copy
import pickle

import numpy as np
import pytest

import fastconv as fc
from fastconv.analysis import receptive_field
from fastconv.layers import from_config
from fastconv.training import checkpoint


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def two_in_two_out():
    """(N, 4) and (N, 3) to (N, 3) and (N, 2)."""
    return fc.Graph(
        {
            "fa": (fc.Linear(4, 8, rng=0), "a"),
            "fb": (fc.Linear(3, 8, rng=1), "b"),
            "sum": ("add", "fa", "fb"),
            "gated": ("mul", "sum", "fa"),
            "relu": (fc.ReLU(), "gated"),
            "x": (fc.Linear(8, 3, rng=2), "relu"),
            "y": (fc.Linear(8, 2, rng=3), "relu"),
        },
        inputs=("a", "b"),
        outputs=("x", "y"),
    )


def with_operations():
    """(N, 3, 8, 8) through a layer, a convolution by a constant, a choice and a product."""
    return fc.Graph(
        {
            "stem": (fc.Conv2d(3, 4, 3, padding=1, rng=0), "input"),
            "k/1.x": np.full((4, 4, 1, 1), 0.25, np.float32),
            "blur": ("conv2d", "stem", "k/1.x", {"padding": 0}),
            "zero": np.zeros((), np.float32),
            "positive": ("Greater", "blur", "zero"),
            "part": ("where", "positive", "stem", "blur"),
            "scaled": ("Mul", "part", np.float32(3)),
            "pool.out": ("max_pool2d", "scaled", {"kernel_size": 2}),
        }
    )


def loss_of(net, arrays, dys):
    results = net(*arrays)
    results = results if isinstance(results, tuple) else (results,)
    return sum(float((y * dy).sum()) for y, dy in zip(results, dys, strict=True))


def check(net, *arrays):
    """Gradients to every input and parameter in float64, along one direction each."""
    net = net.astype(np.float64)
    arrays = [array.astype(np.float64) for array in arrays]
    y, pull = fc.vjp(net, *arrays)
    dys = tuple(draw(*each.shape, seed=7).astype(np.float64) for each in (y if isinstance(y, tuple) else (y,)))
    found = pull(dys if isinstance(y, tuple) else dys[0])
    step = 1e-6
    for place, array in enumerate(arrays):
        direction = draw(*array.shape, seed=place)
        ahead = [a + step * direction if i == place else a for i, a in enumerate(arrays)]
        behind = [a - step * direction if i == place else a for i, a in enumerate(arrays)]
        expected = (loss_of(net, ahead, dys) - loss_of(net, behind, dys)) / (2 * step)
        assert float((found[place] * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    x = arrays[0] if len(arrays) == 1 else tuple(arrays)
    y, saved = net.forward(net.cast(x), fc.layers.Context())
    gradients = net.backward(dys if isinstance(y, tuple) else dys[0], saved, False)[1]
    assert gradients.keys() == net.parameters().keys()
    for name, parameter in net.parameters().items():
        direction = draw(*parameter.shape, seed=3).astype(np.float64)
        before = parameter.copy()
        sides = []
        for sign in (1, -1):
            parameter[...] = before + sign * step * direction
            sides.append(loss_of(net, arrays, dys))
        parameter[...] = before
        expected = (sides[0] - sides[1]) / (2 * step)
        assert float((gradients[name] * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_several_inputs_and_outputs():
    net, a, b = two_in_two_out(), draw(5, 4), draw(5, 3, seed=1)
    x, y = net(a, b)
    hidden = np.maximum((net.children()["fa"](a) + net.children()["fb"](b)) * net.children()["fa"](a), 0)
    np.testing.assert_allclose(x, net.children()["x"](hidden), rtol=1e-5, atol=1e-6)
    assert y.shape == (5, 2)
    for given in ({"b": b, "a": a}, (a, b), [a, b]):
        np.testing.assert_array_equal(net(given)[0], x)
    for part, whole in zip(net.predict(a, b, batch_size=2), (x, y), strict=True):
        np.testing.assert_allclose(part, whole, rtol=1e-6)
    assert (net.inputs, net.outputs) == (("a", "b"), ("x", "y"))
    check(net, a, b)


def test_operations_and_constants():
    net, x = with_operations(), draw(2, 3, 8, 8)
    stem = net.children()["stem"](x)
    blur = fc.functional.conv2d(stem, np.full((4, 4, 1, 1), 0.25, np.float32))
    expected = fc.functional.max_pool2d(3 * np.where(blur > 0, stem, blur), 2)
    np.testing.assert_allclose(net(x), expected, rtol=1e-6)
    assert list(net.parameters()) == ["stem.weight", "stem.bias"]
    assert set(net.state_dict()) == {"stem.weight", "stem.bias", "k/1.x.value", "zero.value", "scaled.value"}
    check(net, x)


def test_an_integer_input_has_no_gradient():
    net = fc.Graph(
        {"table": fc.layers.Values(parameters={"weight": draw(7, 3)}), "rows": ("Gather", "table", "ids")},
        inputs={"ids": "int64"},
    )
    ids = np.array([[1, 2], [1, 6]])
    y, pull = fc.vjp(net, ids)
    assert pull(np.ones_like(y)) == (None,)
    _, gradients = fc.value_and_grad(net, "mse_loss", ids, np.zeros((2, 2, 3)))
    np.testing.assert_array_equal(np.flatnonzero(gradients["table.weight"].any(axis=1)), [1, 2, 6])


def test_a_parameter_that_nodes_read_is_shared():
    layer = fc.Linear(3, 3, bias=False, rng=0)
    net = fc.Graph({"once": (layer, "input"), "again": ("linear", "once", "once.weight")})
    x = draw(4, 3)
    np.testing.assert_allclose(net(x), x @ layer.weight.T @ layer.weight.T, rtol=1e-5)
    check(net, x)


@pytest.mark.parametrize("make", [two_in_two_out, with_operations])
def test_saved_loaded_pickled_copied(make, tmp_path):
    net = make()
    arrays = (draw(3, 4), draw(3, 3)) if make is two_in_two_out else (draw(3, 3, 8, 8),)
    net.freeze(next(iter(net.children())))
    checkpoint.save_net(tmp_path / "net", net)
    rebuilt = from_config(net.config())
    rebuilt.load_state_dict(net.state_dict())
    for twin in (checkpoint.load_net(tmp_path / "net"), rebuilt, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for ours, theirs in zip(net(*arrays), twin(*arrays), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert checkpoint.load_net(tmp_path / "net").parameters().keys() == net.parameters().keys()


def test_files_from_before_mul_was_a_join_still_load():
    data = {
        "layer": "Graph",
        "nodes": {"items": [["mul", [fc.Linear(3, 3, rng=0).config(), "input"]], ["twice", ["mul", "mul"]]]},
        "output": None,
    }
    net = from_config(data)
    x, layer = draw(2, 3), net.children()["mul"]
    np.testing.assert_array_equal(net(x), layer(layer(x)))


def test_replace_and_freeze():
    net, x = with_operations(), draw(2, 3, 8, 8)
    net.replace("pool.out", fc.Sequential(fc.Flatten(), fc.Linear(4 * 64, 10, rng=0)))
    assert net(x).shape == (2, 10)
    net.freeze().unfreeze("pool.out")
    assert list(net.parameters()) == ["pool.out.1.weight", "pool.out.1.bias"]
    before = net.state_dict()
    fc.Trainer(net, fc.optim.SGD(0.1)).fit(x, np.array([1, 2]), epochs=1, batch_size=2, progress=False)
    changed = [name for name, array in net.state_dict().items() if not np.array_equal(array, before[name])]
    assert changed == ["pool.out.1.weight", "pool.out.1.bias"]
    again = from_config(net.config())
    again.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(again(x), net(x))
    outer = fc.Graph({"inner": (fc.Graph({"a": (fc.ReLU(), "input")}), "input")})
    assert outer.replace("inner.a", fc.Tanh())(np.float32([[-1.0]]))[0, 0] < 0
    with pytest.raises(ValueError, match=r"no node is called 'stam'; did you mean 'stem'\?"):
        net.replace("stam", fc.ReLU())


def test_what_replace_leaves_unread_goes():
    net = with_operations().replace("blur", fc.Conv2d(4, 4, 1, rng=0))
    assert "k/1.x.value" not in net.state_dict()


def test_summary_receptive_field_explain():
    net = with_operations()
    table = net.summary((2, 3, 8, 8))
    assert [(row.name, row.kind) for row in table][:2] == [("stem", "Conv2d"), ("blur", "conv2d")]
    assert all(row.receptive_field is not None for row in table)
    assert receptive_field(net, (1, 3, 8, 8)) == ((4, 4), (2, 2), (-1, -1))
    assert "blur" in str(fc.explain(net, (1, 3, 8, 8)))
    both = two_in_two_out()
    assert both.summary({"b": (2, 3), "a": (2, 4)}).output_shape == (2, 3)
    assert "relu" in str(fc.explain(both, ((2, 4), (2, 3))))


def trained(seed=1, epochs=3, path=None):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((50, 4)).astype(np.float32), rng.standard_normal((50, 3)).astype(np.float32)
    targets = {"x": (a[:, 0] > 0).astype(int) + (b[:, 0] > 0), "y": np.stack([a[:, 1] * b[:, 1], a.sum(1)], 1)}
    losses = {"x": "cross_entropy", "y": "mse_loss"}
    trainer = fc.Trainer(two_in_two_out(), fc.optim.Adam(0.01), loss=losses, loss_weights={"y": 0.1}, seed=seed)
    data = {"validation_data": ((a, b), (targets["x"], targets["y"])), "batch_size": 16, "progress": False}
    if path is not None:
        trainer.fit({"a": a, "b": b}, targets, epochs=epochs - 1, **data)
        trainer.save(path)
        trainer = fc.Trainer.resume(path)
    history = trainer.fit({"a": a, "b": b}, targets, epochs=epochs, **data)
    return trainer, history, ((a, b), targets)


def test_trainer_with_several_inputs_and_losses(tmp_path):
    trainer, history, (x, targets) = trained(epochs=8)
    assert history[-1]["loss"] < history[0]["loss"]
    found = trainer.evaluate(x, targets).loss
    outputs = trainer.net.predict(x)
    expected = fc.functional.cross_entropy(outputs[0], targets["x"])
    expected = float(expected) + 0.1 * float(np.mean((outputs[1] - targets["y"]) ** 2))
    assert found == pytest.approx(expected, rel=1e-5)
    whole, _, _ = trained()
    resumed, _, _ = trained(path=tmp_path / "run")
    for ours, theirs in zip(whole.net.state_dict().values(), resumed.net.state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_validation_of_several_by_lists():
    (a, b), net = (draw(8, 4), draw(8, 3)), two_in_two_out()
    trainer = fc.Trainer(net, fc.optim.SGD(0.1), loss={"x": "cross_entropy"})
    targets = {"x": [0, 1, 2, 0, 1, 2, 0, 1]}
    history = trainer.fit((a, b), targets, epochs=1, validation_data=((a, b), targets), progress=False)
    assert history[-1]["val_loss"] == trainer.evaluate((a, b), targets).loss


def test_batches_of_several():
    (a, b), net = (draw(8, 4), draw(8, 3)), two_in_two_out()
    batches = [((a[:4], b[:4]), {"x": np.zeros(4, int)}), ((a[4:], b[4:]), {"x": np.zeros(4, int)})]
    trainer = fc.Trainer(net, fc.optim.SGD(0.1), loss={"x": "cross_entropy"})
    history = trainer.fit(batches, epochs=3, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]


def tuple_of_one():
    return fc.Graph({"x": (fc.Linear(3, 2, rng=0), "input")}, outputs=("x",))


Y = "cross_entropy"
A_AND_B, Z = (draw(2, 4), draw(2, 3)), np.zeros(2, int)
MISSING = r"loss: missing for the outputs x, y; .* write a dict of losses by their names, \{'x': 'cross_entropy', …\}"
BAD = {
    "too few": (lambda net: net(draw(2, 4)), ValueError, "there are 2 inputs, a, b; got one"),
    "unknown": (lambda net: net({"a": draw(2, 4), "c": draw(2, 3)}), ValueError, "the inputs are a, b, got a, c"),
    "lengths": (
        lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"x": Y}).fit(
            {"a": draw(4, 4), "b": draw(3, 3)}, np.zeros(4, int), epochs=1
        ),
        ValueError,
        r"X\['a'\] and X\['b'\] must have as many samples, got 4 and 3",
    ),
    "loss": (lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"z": Y}), ValueError, "no output is called 'z'; .* x, y"),
    "weight": (
        lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"x": Y}, loss_weights={"y": 1}), ValueError,
        "loss_weights: no output is called 'y'",
    ),
    "weights": (
        lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"x": Y}, loss_weights=[1, 2]), TypeError,
        r"loss_weights must be a dict of factors by the outputs' names, got \[1, 2\]",
    ),
    "no weight": (
        lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"x": Y}, loss_weights={"x": "1"}), TypeError,
        "loss_weights: 'x' must be a number, got '1'",
    ),
    "no losses": (lambda net: fc.Trainer(net, fc.optim.SGD(0.1)), ValueError, MISSING),
    "no losses of a step": (lambda net: fc.value_and_grad(net, "mse_loss", A_AND_B, Z), ValueError, MISSING),
    "no losses of a record": (lambda net: fc.analysis.record(net, A_AND_B, Z), ValueError, MISSING),
    "no loss by its name": (
        lambda net: fc.value_and_grad(tuple_of_one(), Y, draw(2, 3), Z), ValueError,
        "cross_entropy: the net's output is a tuple of 1; of a Graph write a dict of losses by the outputs' names",
    ),
    "no y": (lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"x": Y}).evaluate(A_AND_B), TypeError,
             "evaluate: y is missing"),
    "no y, by names": (
        lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"x": Y}).fit({"a": draw(2, 4), "b": draw(2, 3)}, epochs=1),
        TypeError, "fit: y is missing",
    ),
    "no y, a list": (lambda net: fc.Trainer(net, fc.optim.SGD(0.1), {"x": Y}).evaluate([*A_AND_B]), TypeError,
                     r"evaluate: X must yield pairs \(x, y\), got ndarray; is y missing\?"),
    "one input": (lambda net: fc.Trainer(fc.Linear(4, 3), fc.optim.SGD(0.1)).evaluate(A_AND_B, Z), fc.ShapeError,
                  "evaluate: X must be a rectangular array, got rows of different lengths"),
    "vjp": (lambda net: fc.vjp(net, draw(2, 4)), TypeError, "takes its inputs only, a, b"),
    "dy": (lambda net: fc.vjp(net, draw(2, 4), draw(2, 3))[1](draw(2, 3)), fc.ShapeError, "a tuple of 2"),
    "operation": (lambda net: fc.Graph({"a": ("nosuch", "input", "input")}), ValueError, "none is called 'nosuch'"),
    "source": (lambda net: fc.Graph({"a": ("Add", "input", "b")}), ValueError, "reads 'b', which is no earlier node"),
    "option": (lambda net: fc.Graph({"a": ("conv2d", "input", "input", {"pad": 1})}), TypeError, "did you mean 'pad"),
    "name": (lambda net: fc.Graph({"input": (fc.ReLU(), "input")}), ValueError, "a node cannot be called 'input'"),
    "output": (lambda net: fc.Graph({"a": (fc.ReLU(), "input")}, outputs=("b",)), ValueError, "output 'b' is no node"),
    "shapes": (
        lambda net: fc.Graph({"a": ("MatMul", "input", "input")})(draw(2, 3)), fc.ShapeError, r"MatMul: .*in layer a"
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_refused_in_one_line(bad):
    call, error, match = BAD[bad]
    with pytest.raises(error, match=match) as caught:
        call(two_in_two_out())
    assert "\n" not in str(caught.value)


def test_cross_entropy_on_a_softmax_warns():
    net = fc.Graph({"fc": (fc.Linear(3, 3, rng=0), "input"), "p": ("softmax", "fc")})
    with pytest.warns(RuntimeWarning, match="ends in softmax"):
        fc.value_and_grad(net, "cross_entropy", draw(2, 3), np.array([0, 1]))
    with pytest.warns(RuntimeWarning, match="ends in softmax"):
        fc.Trainer(net, fc.optim.SGD(0.1))
