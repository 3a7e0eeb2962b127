"""`analysis.record`: every entry against vjp of that part, and the whole against value_and_grad."""

import copy
from functools import partial

import numpy as np
import pytest

import fastconv as fc
from fastconv import functional, vjp
from fastconv.analysis import record
from fastconv.layers.base import Context, OpLayer


def parts_of(net, prefix=""):
    """{name: layer} of every use, as a reader would say it: a graph's node that shares a layer counts by itself."""
    children = {**net.children()}
    if isinstance(net, fc.Graph):
        children = {name: net.children()[what] for name, (what, *_) in net.nodes.items() if what in net.children()}
    found = {}
    for name, child in children.items():
        full = f"{prefix}.{name}" if prefix else name
        inside = parts_of(child, full) if isinstance(child, fc.Sequential | fc.Graph | fc.Residual | fc.Concat) else {}
        found |= inside or {full: child}
    return found


def random_net(rng, depth=0):
    """Channels and size stay: so everything fits everywhere."""

    def one():
        kinds = [
            lambda: fc.Conv2d(3, 3, 3, padding="same", rng=rng), lambda: fc.Conv2d(3, 3, 2, padding="same", rng=rng),
            lambda: fc.Conv2d(3, 3, 3, padding=1, groups=3, bias=False, rng=rng), fc.ReLU, fc.Tanh, fc.GELU,
            lambda: fc.BatchNorm2d(3), lambda: fc.GroupNorm(1, 3), lambda: fc.PReLU(3),
            lambda: fc.MaxPool2d(3, 1, 1), lambda: fc.AvgPool2d(3, 1, 1), lambda: fc.LocalResponseNorm(3),
            lambda: fc.Sequential(fc.Upsample(2), fc.Downsample(2)), lambda: fc.Softmax(),
        ]  # fmt: skip
        if depth < 2:
            kinds += [
                lambda: random_net(rng, depth + 1), lambda: fc.Residual(random_net(rng, depth + 1)),
                lambda: fc.Residual(one(), one()),
                lambda: fc.Sequential(fc.Concat(one(), one()), fc.Conv2d(6, 3, 1, rng=rng)),
                lambda: fc.Graph({
                    "a": (one(), "input"), "b": (one(), "a"), "again": ("a", "b"),
                    "sum": ("add", "again", "b", "input"), "beside": (one(), "b"),
                    "both": ("concat", "sum", "beside"), "out": (fc.Conv2d(6, 3, 1, rng=rng), "both"),
                }),
            ]  # fmt: skip
        return kinds[rng.integers(len(kinds))]()

    return fc.Sequential(*(one() for _ in range(rng.integers(1, 5))))


def agree(actual, expected, scale=1.0):
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12 * scale)


def assert_agrees(net, x, target, loss):
    before = net.state_dict()
    rec = record(net, x, target, loss)
    for name, array in net.state_dict().items():  # not even a running mean
        np.testing.assert_array_equal(array, before[name])
    parts = parts_of(net)
    for name, part in parts.items():
        entry = rec[name]
        assert entry.kind == type(part).__name__
        y, pullback = vjp(copy.deepcopy(part), entry.x)  # a copy: batch norm in training moves its statistics
        agree(entry.y, y)
        agree(entry.dx, pullback(entry.dy)[0])
        if isinstance(part, OpLayer) and part.positional == ("weight", "bias") and part.bias is not None:
            options = {k: v for k, v in part.options(Context()).items() if v is not None}
            _, pullback = vjp(getattr(functional, part.op), entry.x, part.weight, part.bias, **options)
            _, dw, db = pullback(entry.dy)
            agree(entry.gradients["weight"], dw)
            agree(entry.gradients["bias"], db)
            np.testing.assert_array_equal(entry.parameters["weight"], part.weight)
    joins = [entry for entry in rec if entry.name not in parts]
    assert {entry.kind for entry in joins} <= {"Add", "Concat"}
    for entry in joins:
        made = sum(entry.x) if entry.kind == "Add" else np.concatenate(entry.x, axis=1)
        agree(entry.y, made)
        back = entry.dx if entry.kind == "Concat" else [entry.dx[0]]
        agree(np.concatenate(back, axis=1), entry.dy)
        assert all(np.shape(dx) == np.shape(x) for x, dx in zip(entry.x, entry.dx, strict=True))
    y, pullback = vjp(copy.deepcopy(net), x)
    agree(rec.y, y)
    agree(rec.dx, pullback(rec.dy)[0])
    twin = copy.deepcopy(net)
    value, gradients = fc.value_and_grad(twin, loss or "cross_entropy", x, target)
    assert rec.gradients.keys() == gradients.keys()
    assert rec.loss == pytest.approx(value, rel=1e-12)
    for name, gradient in gradients.items():
        agree(rec.gradients[name], gradient, max(1.0, np.abs(gradient).max()))
    assert str(rec)
    return rec


def test_two_hundred_random_nets():
    rng = np.random.default_rng(7)
    kinds = set()
    for _ in range(200):
        net = fc.Sequential(random_net(rng), fc.AdaptiveAvgPool2d(1), fc.Flatten()).astype(np.float64)
        rec = assert_agrees(net, rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 3, 2), None)
        kinds |= {entry.kind for entry in rec}
    assert {"Add", "Concat", "Conv2d", "BatchNorm2d", "MaxPool2d", "Upsample"} <= kinds


def mixed():
    return fc.Sequential(
        fc.Conv2d(1, 3, 3, rng=1), fc.BatchNorm2d(3), fc.ReLU(), fc.Dropout(0.5), fc.Residual(fc.ReLU()), fc.Flatten(),
        fc.Linear(48, 4, rng=2),
    ).astype(np.float64)  # fmt: skip


X, TARGET = np.random.default_rng(3).normal(size=(3, 1, 6, 6)), np.array([0, 3, 1])


def test_dropout_is_that_of_the_next_step():
    net = mixed()
    fc.manual_seed(5)
    rec = record(net, X, TARGET)
    again = record(net, X, TARGET)
    np.testing.assert_array_equal(rec.y, again.y)
    value, gradients = fc.value_and_grad(net, "cross_entropy", X, TARGET)
    assert rec.loss == value
    assert 0.2 < (rec["3"].y == 0).mean() - (rec["2"].y == 0).mean() / 2 < 0.8
    for name, gradient in gradients.items():
        agree(rec.gradients[name], gradient)


def test_the_modes_are_the_nets():
    net = mixed().eval()
    rec = record(net, X, TARGET)
    np.testing.assert_array_equal(rec.y, net(X))
    np.testing.assert_array_equal(rec["3"].y, rec["3"].x)
    net.train()[1].eval()
    part = record(net, X, TARGET)["1"]
    np.testing.assert_array_equal(part.y, vjp(net[1], part.x)[0])


def test_what_is_frozen_has_no_gradients():
    net = mixed()
    net.freeze("0")
    rec = record(net, X, TARGET)
    assert rec["0"].gradients == {} and rec["0"].parameters.keys() == {"weight", "bias"}
    assert rec["0"].dx is not None
    assert rec.gradients.keys() == fc.value_and_grad(net, "cross_entropy", X, TARGET)[1].keys()


def test_later_changes_are_not_seen():
    net = mixed()
    rec = record(net, X, TARGET)
    before = rec["0"].parameters["weight"].copy()
    net[0].weight[...] = 7
    np.testing.assert_array_equal(rec["0"].parameters["weight"], before)


def test_names_and_places():
    rec = record(mixed(), X, TARGET)
    assert rec.names == ["0", "1", "2", "3", "4.body", "4", "5", "6"]
    assert [entry.name for entry in rec] == rec.names and len(rec) == 8
    assert rec[-1] is rec["6"] and rec[1:3][0] is rec["1"]
    assert "4.body" in rec and "softmax" in rec and "7" not in rec
    with pytest.raises(KeyError, match=r"no layer is called '7'; there are 0, 1, 2"):
        rec["7"]
    with pytest.raises(IndexError, match=r"^record: entry 9 is out of range, there are 8, counted from 0$"):
        rec[9]
    single = record(fc.Conv2d(1, 2, 3, rng=1), X)
    assert single.names == ["Conv2d"] and single["Conv2d"].parameters.keys() == {"weight", "bias"}
    shared = fc.Conv2d(1, 1, 3, padding=1, rng=1).astype(np.float64)
    twice = record(fc.Sequential({"a": shared, "act": fc.Tanh(), "b": shared, "flat": fc.Flatten()}), X, TARGET)
    assert twice.names == ["a", "act", "b", "flat"]
    total = twice["a"].gradients["weight"] + twice["b"].gradients["weight"]
    agree(twice.gradients["a.weight"], total)
    top = record(fc.Residual(fc.Tanh()), X)
    assert top.names == ["body", "Residual"]


@pytest.mark.parametrize(
    "options",
    [
        {}, {"reduction": "sum"}, {"label_smoothing": 0.1}, {"weight": [1.0, 2.0, 0.5, 3.0]},
        {"weight": [1.0, 2.0, 0.5, 3.0], "label_smoothing": 0.2}, {"ignore_index": 3},
    ],
    ids=str,
)  # fmt: skip
def test_softmax_and_loss(options):
    """dy of softmax is the loss's gradient to the probabilities: its pullback makes it the gradient to the scores."""
    rec = record(mixed().eval(), X, TARGET, partial(functional.cross_entropy, **options))
    soft, loss = rec["softmax"], rec["loss"]
    np.testing.assert_array_equal(soft.x, rec.y)
    _, pullback = vjp(functional.softmax, soft.x)
    agree(pullback(soft.dy)[0], soft.dx)
    value, pullback = vjp(functional.cross_entropy, rec.y, TARGET, **options)
    agree(loss.y, value)
    agree(rec["6"].dy, pullback(np.ones(()))[0])
    if not options:
        one_hot = np.eye(4)[TARGET]
        agree(soft.dx, (soft.y - one_hot) / 3)  # the chapter's: p - t
        agree(soft.dy, -one_hot / soft.y / 3)


def several():
    return fc.Graph(
        {
            "fa": (fc.Linear(4, 8, rng=0), "a"), "fb": (fc.Linear(3, 8, rng=1), "b"), "sum": ("add", "fa", "fb"),
            "gated": ("mul", "sum", "fa"), "relu": (fc.ReLU(), "gated"), "p": (fc.Linear(8, 3, rng=2), "relu"),
            "q": (fc.Linear(8, 2, rng=3), "relu"),
        },
        inputs=("a", "b"), outputs=("p", "q"),
    ).astype(np.float64)  # fmt: skip


def test_several_inputs_and_outputs():
    net, rng = several(), np.random.default_rng(4)
    x = rng.normal(size=(3, 4)), rng.normal(size=(3, 3))
    target = {"p": np.array([0, 2, 1]), "q": rng.normal(size=(3, 2))}
    losses = {"p": "cross_entropy", "q": "mse_loss"}
    rec = record(net, x, target, losses)
    value, gradients = fc.value_and_grad(net, losses, x, target)
    assert rec.loss == pytest.approx(value)
    assert rec.gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        agree(rec.gradients[name], gradient)
    y, pullback = vjp(net, *x)
    for actual, expected in zip((*rec.y, *rec.dx), (*y, *pullback(rec.dy)), strict=True):
        agree(actual, expected)
    assert [entry.kind for entry in rec] == ["Linear", "Linear", "Add", "Multiply", "ReLU", "Linear", "Linear"]
    agree(rec["gated"].dx[1], rec["gated"].dy * rec["sum"].y)
    assert "3x4, 3x3" in str(rec) and len(rec.rows()) == len(rec) + 2
    pytest.importorskip("matplotlib")
    assert "<img" in rec._repr_html_()


def test_operations_and_arrays_of_a_graph():
    net = fc.Graph(
        {
            "stem": (fc.Conv2d(3, 4, 3, padding=1, rng=0), "input"), "k": np.full((4, 4, 1, 1), 0.25, np.float32),
            "blur": ("conv2d", "stem", "k", {"padding": 0}), "zero": np.zeros((), np.float32),
            "positive": ("Greater", "blur", "zero"), "part": ("where", "positive", "stem", "blur"),
            "scaled": ("Mul", "part", np.float32(3)), "pool": ("max_pool2d", "scaled", {"kernel_size": 2}),
            "flat": (fc.Flatten(), "pool"),
        }
    ).astype(np.float64)  # fmt: skip
    x, target = np.random.default_rng(5).normal(size=(2, 3, 4, 4)), np.array([0, 5])
    rec = record(net, x, target)
    _, gradients = fc.value_and_grad(net, "cross_entropy", x, target)
    assert rec.gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        agree(rec.gradients[name], gradient)
    agree(rec.dx, vjp(net, x)[1](rec.dy)[0])
    assert rec["blur"].kind == "conv2d"
    agree(rec["blur"].dx[0], vjp(functional.conv2d, *rec["blur"].x)[1](rec["blur"].dy)[0])
    assert str(rec) and rec._repr_html_()


def test_other_losses_have_no_softmax():
    rec = record(mixed().eval(), X, np.zeros((3, 4)), "mse_loss")
    assert "softmax" not in rec
    agree(rec["6"].dy, rec.y * 2 / 12)


def test_without_a_target_there_is_no_way_back():
    rec = record(mixed().eval(), X)
    assert rec.loss is None and rec.dx is None and rec.dy is None and rec.gradients == {}
    assert all(entry.dx is None and entry.dy is None and not entry.gradients for entry in rec)
    assert "loss" not in str(rec).splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "net must be a layer", (np.exp, X)),
        (TypeError, "a loss needs a target", (fc.ReLU(), X, None, "mse_loss")),
        (TypeError, "loss must be the name", (fc.ReLU(), X, X, 3)),
        (fc.ShapeError, r"conv2d: .*\(in layer 0, Conv2d\)", (mixed(), X[:, [0, 0]], TARGET)),
        (TypeError, "must hold real numbers", (mixed(), X.astype(complex), TARGET)),
    ],
)
def test_what_is_refused(error, match, arguments):
    with pytest.raises(error, match=match) as raised:
        record(*arguments)
    assert "\n" not in str(raised.value)


def test_it_prints_as_a_table():
    text = str(record(mixed(), X, TARGET)).splitlines()
    assert text[0].split("  ")[0] == "layer"
    assert text[2].startswith("0 Conv2d") and "3x3x4x4" in text[2]
    assert text[-3].startswith("loss cross_entropy")
    assert text[-1].startswith("Sequential: x 3x1x6x6; loss ")
    entry = str(record(fc.Linear(2, 1, rng=1), np.ones((1, 2)), np.zeros((1, 1)), "mse_loss")[0]).splitlines()
    assert entry[0] == "Linear Linear"
    assert {"y (1, 1)", "dx (1, 2)", "gradient of weight (1, 2)"} <= set(entry)


def test_in_a_notebook_and_as_a_picture(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    rec = record(mixed(), X, TARGET)
    shown = rec._repr_html_()
    assert shown.count("<tr>") == len(rec) + 3 and "data:image/png;base64," in shown
    rec.plot(tmp_path / "record.png", image=2, maps=2)
    image = np.asarray(pillow.open(tmp_path / "record.png").convert("RGB"))
    assert min(image.shape[:2]) > 500 and 0.05 < (image < 250).any(axis=2).mean() < 0.9
    record(mixed(), X).plot(tmp_path / "forward.svg")
    assert "data:image/png;base64," in record(fc.Sequential({"卷积": fc.ReLU()}), X)._repr_html_()  # no such glyph
    with pytest.raises(IndexError, match="record: image 3 is out of range, there are 3"):
        rec.plot(tmp_path / "record.png", image=3)
    with pytest.raises(ValueError, match="maps must be at least 1"):
        rec.plot(tmp_path / "record.png", maps=0)


def test_an_empty_batch_is_recorded():
    rec = record(mixed().eval(), X[:0])
    assert rec.y.shape == (0, 4) and "0x4" in str(rec)
    assert "<img" not in rec._repr_html_()
