"""Metrics: scikit-learn's values, of all samples whatever the batches, in the history and in evaluate."""

import functools

import numpy as np
import pytest
from test_training import HELD_OUT, X, Y, linear_net, make_net

import fastconv as fc
from fastconv import Trainer, optim
from fastconv.training.metrics import NAMES, resolve_metrics

THEIRS = {  # by name: scikit-learn's function and its options
    "accuracy": ("accuracy_score", {}),
    "balanced_accuracy": ("balanced_accuracy_score", {}),
    **{
        f"{what}{suffix}": (f"{what}_score", {"average": average, "zero_division": 0})
        for what in ("precision", "recall", "f1")
        for suffix, average in (("", "macro"), ("_macro", "macro"), ("_weighted", "weighted"), ("_micro", "micro"))
    },
    "matthews_corrcoef": ("matthews_corrcoef", {}),
    "cohen_kappa": ("cohen_kappa_score", {}),
    "mse": ("mean_squared_error", {}),
    "mae": ("mean_absolute_error", {}),
    "rmse": ("root_mean_squared_error", {}),
    "r2": ("r2_score", {}),
}


def of(name):
    return resolve_metrics(name)[0].function


def theirs(name):
    metrics = pytest.importorskip("sklearn.metrics")
    function, options = THEIRS[name]
    return functools.partial(getattr(metrics, function), **options)


@pytest.mark.filterwarnings("ignore")  # of classes that are not there
@pytest.mark.parametrize("name", THEIRS)
def test_as_scikit_learn(name):
    rng = np.random.default_rng(0)
    if name in ("mse", "mae", "rmse", "r2"):
        pairs = [(rng.normal(size=shape), rng.normal(size=shape)) for shape in ((30,), (30, 1), (30, 4))]
        pairs += [(np.ones(5), np.ones(5)), (np.ones(5), np.arange(5.0))]
    else:
        pairs = [(rng.integers(0, n, 60), rng.integers(0, m, 60)) for n, m in ((2, 2), (5, 5), (3, 6), (6, 3), (1, 4))]
        pairs += [(y, np.where(rng.random(60) < 0.8, y, (y + 1) % 5)) for y in [rng.integers(0, 5, 60)]]
        pairs += [(np.zeros(4, int), np.array([7, 7, 9, 9]))]
    for y_true, y_pred in pairs:
        assert of(name)(y_true, y_pred) == pytest.approx(
            theirs(name)(y_true, y_pred), rel=1e-12, abs=1e-15, nan_ok=True
        )


def test_top_k_as_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    y, scores = rng.integers(0, 9, 80), np.round(rng.random((80, 9)), 1)  # with ties
    for k in (1, 3, 5):
        assert of(f"top_{k}_accuracy")(y, scores) == metrics.top_k_accuracy_score(y, scores, k=k)
    assert {*THEIRS, "top_3_accuracy", "top_5_accuracy"} == set(NAMES)


def test_of_all_samples_whatever_the_batches():
    """Also of training, as it went; a function is called once an epoch, with all of them."""
    net = make_net()
    seen = []

    def own(y_true, y_pred):
        seen.append((y_true, y_pred))
        return np.float32((y_true == y_pred).mean())

    def sure(y_true, y_proba):
        np.testing.assert_allclose(y_proba.sum(axis=1), 1, rtol=1e-5)
        return y_proba.max()

    metrics = ("f1", "top_3_accuracy", own, sure)
    trainer = Trainer(net, optim.SGD(0.1))
    history = trainer.fit(X, Y, 2, 7, validation_data=HELD_OUT, metrics=metrics)
    assert [len(y_true) for y_true, _ in seen] == [24, 90, 24, 90]
    np.testing.assert_array_equal(np.sort(seen[1][0]), np.sort(Y))
    np.testing.assert_array_equal(seen[2][0], HELD_OUT[1])
    answers = net.predict(HELD_OUT[0]).argmax(axis=1)
    np.testing.assert_array_equal(seen[2][1], answers)
    record = history[-1]
    assert record["val_f1"] == of("f1")(HELD_OUT[1], answers)
    assert (record["own"], record["val_own"]) == pytest.approx((record["accuracy"], record["val_accuracy"]))
    assert 0 < record["sure"] <= 1
    for size in (5, 24):
        found = trainer.evaluate(*HELD_OUT, batch_size=size)
        assert found.metrics["f1"] == record["val_f1"]
        assert set(found.metrics) == {"f1", "top_3_accuracy", "own", "sure"}
    assert trainer.evaluate(*HELD_OUT, metrics="recall").metrics.keys() == {"recall"}
    assert trainer.evaluate(*HELD_OUT, metrics=()) == (record["val_loss"], record["val_accuracy"])
    assert "f1=" in repr(trainer.evaluate(*HELD_OUT))


def test_what_a_loss_ignores_does_not_count():
    labels = np.where(np.arange(90) < 60, Y, -1)
    loss = functools.partial(fc.functional.cross_entropy, ignore_index=-1)
    net = linear_net()
    found = Trainer(net, optim.SGD(0.1), loss).evaluate(X, labels, 16, metrics=("f1", "accuracy"))
    assert found.metrics["f1"] == of("f1")(Y[:60], net.predict(X[:60]).argmax(axis=1))
    assert found.metrics["accuracy"] == found.accuracy


def test_pixels_are_samples():
    net = fc.Conv2d(1, 3, 1, rng=0)
    labels = (X[:, 0] * 2.9).astype(int) % 3
    found = Trainer(net, optim.SGD(0.1)).evaluate(X, labels, 16, metrics=("balanced_accuracy", "top_2_accuracy"))
    answers = net.predict(X).argmax(axis=1)
    assert found.metrics["balanced_accuracy"] == of("balanced_accuracy")(labels.ravel(), answers.ravel())
    assert found.accuracy <= found.metrics["top_2_accuracy"] < 1


def test_of_logits():
    net = fc.Sequential(fc.Flatten(), fc.Linear(64, 1, rng=0))
    labels = (Y[:, None] > 1).astype(np.float32)
    found = Trainer(net, optim.SGD(0.1), "bce_with_logits").evaluate(X, labels, metrics=("accuracy", "f1"))
    right = (net.predict(X)[:, 0] > 0).astype(int)
    assert found.accuracy is None
    assert found.metrics == {"accuracy": (right == (Y > 1)).mean(), "f1": of("f1")((Y > 1).astype(int), right)}
    several = Trainer(fc.Sequential(fc.Flatten(), fc.Linear(64, 3, rng=0)), optim.SGD(0.1), "bce_with_logits")
    goals = np.eye(4)[Y][:, :3]
    assert several.evaluate(X, goals, metrics="accuracy").metrics["accuracy"] < 1
    assert several.evaluate(X, goals, metrics=lambda y_true, y_pred: y_true.shape == (90, 3) and y_pred.sum()).metrics
    with pytest.raises(ValueError, match=r"metrics: f1 is of one class a sample, here are \(3,\); write a function"):
        several.evaluate(X, goals, metrics="f1")


def test_of_numbers():
    net = fc.Sequential(fc.Flatten(), fc.Linear(64, 2, rng=0))
    goals = np.stack([X.mean(axis=(1, 2, 3)), X.max(axis=(1, 2, 3))], 1)
    trainer = Trainer(net, optim.SGD(0.01), "mse_loss")
    record = trainer.fit(X, goals, 1, 16, validation_data=(X, goals), metrics=("r2", "mae", "mse"))[-1]
    assert record["val_mse"] == pytest.approx(record["val_loss"], rel=1e-5)
    assert np.isnan(trainer.evaluate(X[:1], goals[:1], metrics="r2").metrics["r2"])  # as scikit-learn's
    assert record["val_mae"] == pytest.approx(np.abs(net.predict(X) - goals).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="metrics: f1 needs targets that are classes, here they are numbers"):
        trainer.evaluate(X, goals, metrics="f1")
    classifier = Trainer(linear_net(), optim.SGD(0.1))
    with pytest.raises(ValueError, match="metrics: r2 needs targets that are numbers, here they are classes"):
        classifier.fit(X, Y, 1, 16, metrics="r2")
    assert classifier.step == 0  # said in the first step
    with pytest.raises(ValueError, match="metrics: mae needs targets that are numbers, here they are classes"):
        Trainer(linear_net(), optim.SGD(0.1)).evaluate(X, Y, metrics="mae")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("balanced", r"none is called 'balanced'; there are accuracy, .*; did you mean 'balanced_accuracy'\?"),
        (("f1", "f1"), "two are called 'f1'; write {name: function}"),
        ({"loss": max}, "'loss' is a column of its own in the history"),
        (lambda y_true, y_pred: "many", "<lambda> must give a number, got 'many'"),
        (lambda y_true, y_pred: y_true, "<lambda> must give a number, got array"),
    ],
)
def test_errors(metrics, message):
    with pytest.raises(ValueError, match=f"metrics: {message}"):
        Trainer(linear_net(), optim.SGD(0.1)).evaluate(X, Y, metrics=metrics)


def test_more_errors():
    trainer = Trainer(linear_net(), optim.SGD(0.1))
    for wrong in (3, [3], {"x": "f1"}):
        with pytest.raises(TypeError, match="metrics: must be names or functions"):
            trainer.evaluate(X, Y, metrics=wrong)


def test_own_metrics_are_given_again(tmp_path):
    path = tmp_path / "file"

    def own(y_true, y_pred):
        return 1.0

    trainer = Trainer(linear_net(), optim.SGD(0.1), checkpoint=path)
    trainer.fit(X, Y, 3, metrics=("f1", own), callbacks=[lambda *_: True])
    with pytest.raises(ValueError, match=r"metrics of your own among f1, own; give metrics=\(…\) again"):
        Trainer.resume(path).fit(X, Y)
    with pytest.raises(ValueError, match=r"interrupted with metrics \['f1', 'own'\], now it is \['f1'\]"):
        Trainer.resume(path).fit(X, Y, metrics="f1")
    assert Trainer.resume(path).fit(X, Y, metrics=("f1", own))["own"] == [1.0, 1.0, 1.0]
