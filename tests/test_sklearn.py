"""The estimators for scikit-learn: its own checks, and what its tools do with them.

pytest tests/test_sklearn.py -rs -s        prints what scikit-learn's checks skip, and why
"""

import pickle

import numpy as np
import pytest

import fastconv as fc

pytest.importorskip("sklearn", reason="scikit-learn, the extra [sklearn], is not installed")
import joblib
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastconv.sklearn import CNNClassifier, CNNRegressor

ROWS, DIGITS = load_digits(return_X_y=True)
ROWS = ROWS.astype(np.float32) / 16
IMAGES = ROWS.reshape(-1, 1, 8, 8)
FEW, LABELS = ROWS[:300], DIGITS[:300]
rng = np.random.default_rng(0)


def small(input_shape, n_outputs):
    _, channels, *_ = input_shape
    return fc.Sequential(fc.Conv2d(channels, 4, 3), fc.ReLU(), fc.MaxPool2d(2), fc.Flatten(), fc.Linear(36, n_outputs))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("estimator", [CNNClassifier, CNNRegressor])
def test_scikit_learns_checks(estimator):
    results = check_estimator(estimator(), on_fail=None, on_skip=None)
    failed = [f"{result['check_name']}: {result['exception']!r}" for result in results if result["status"] == "failed"]
    assert failed == []
    assert len(results) > 50
    for result in results:
        if result["status"] == "skipped":
            print(f"skipped: {result['check_name']}: {result['exception']}")


@pytest.mark.parametrize(
    ("X", "options", "shape", "least"),
    [
        (ROWS, {}, (64,), 0.8),
        (ROWS, {"image_shape": (1, 8, 8)}, (1, 8, 8), 0.9),
        (ROWS, {"image_shape": [1, 8, 8], "net": small, "lr": 0.01}, (1, 8, 8), 0.75),
        (IMAGES, {}, (1, 8, 8), 0.9),
        (IMAGES[:, 0], {}, (8, 8), 0.8),
        (IMAGES[:, :, np.newaxis], {}, (1, 1, 8, 8), 0.85),
    ],
    ids=["rows", "rows as images", "a net", "images", "signals", "volumes"],
)
def test_digits(X, options, shape, least):
    model = CNNClassifier(epochs=8, random_state=0, **options).fit(X[:1437], DIGITS[:1437])
    assert model.score(X[1437:], DIGITS[1437:]) >= least
    assert model.input_shape_ == shape and model.net_.dtype == np.float32
    assert len(model.history_) == 8 and [record["epoch"] for record in model.history_] == [*range(1, 9)]
    probabilities = model.predict_proba(X[:50])
    assert probabilities.shape == (50, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), model.predict(X[:50]))
    with pytest.raises(ValueError, match=r"features|samples of shape|image_shape"):
        model.predict(X[:, ..., :-1])


def test_regression():
    X, y = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), CNNRegressor(random_state=0, epochs=50))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.4
    both = CNNRegressor(random_state=0, epochs=50).fit(X, np.stack([y, 1e4 - y], axis=1))
    found = both.predict(X)
    assert found.shape == (len(X), 2) and found.dtype == np.float64
    assert both.score(X, np.stack([y, 1e4 - y], axis=1)) > 0.4
    with pytest.raises(ValueError, match="y had 2 columns at first, now it has 1"):
        both.partial_fit(X, y)
    constant = CNNRegressor(epochs=2).fit(X, np.full(len(X), 7.5))
    assert abs(constant.predict(X) - 7.5).max() < 1.5


def test_types():
    X = FEW.astype(np.float64)
    assert CNNClassifier(epochs=1).fit(X, LABELS).net_.dtype == np.float64
    assert CNNClassifier(epochs=1, dtype=np.float32).fit(X, LABELS).net_.dtype == np.float32
    assert CNNClassifier(epochs=1, dtype="float64").fit(FEW, LABELS).net_.dtype == np.float64
    for other in (np.uint8(16 * FEW), FEW.astype(np.float16), FEW > 0.5):
        assert CNNClassifier(epochs=1).fit(other, LABELS).net_.dtype == np.float32
    with pytest.raises(TypeError, match="a net is float32 or float64"):
        CNNClassifier(epochs=1, dtype=np.int8).fit(FEW, LABELS)


def test_labels():
    names = np.array(["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"])
    model = CNNClassifier(epochs=5, random_state=0).fit(FEW, names[LABELS])
    assert model.classes_.tolist() == sorted(names)
    assert (model.predict(FEW) == names[LABELS]).mean() > 0.7
    model.fit(FEW, LABELS == 3)
    assert model.classes_.tolist() == [False, True] and model.predict_proba(FEW).shape == (300, 2)
    one = CNNClassifier(epochs=2).fit(FEW[:5], ["x"] * 5)
    assert one.predict(FEW[:2]).tolist() == ["x", "x"] and (one.predict_proba(FEW[:2]) == 1).all()
    assert CNNClassifier(epochs=2).fit(FEW[:1], [4]).predict(FEW[:2]).tolist() == [4, 4]
    with pytest.raises(ValueError, match="Unknown label type"):
        CNNClassifier().fit(FEW, FEW[:, 20])


def test_nets_are_copied():
    net = small((1, 1, 8, 8), 10)
    before = net.state_dict()
    model = CNNClassifier(net, (1, 8, 8), epochs=2, random_state=0)
    assert clone(model).net is not net and list(clone(model).net.state_dict()) == list(before)
    model.fit(FEW, LABELS)
    assert model.net is net and model.net_ is not net
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(
        ValueError, match=r"the net must make 3 outputs of a sample, here it makes \(10,\) of \(1, 8, 8\)"
    ):
        model.fit(FEW, LABELS % 3)
    with pytest.raises(TypeError, match="CNNClassifier: net must be a net, a function that makes one, or None, got 3"):
        CNNClassifier(net=3).fit(FEW, LABELS)
    with pytest.raises(TypeError, match="CNNClassifier: net must be a net"):
        CNNClassifier(net=lambda input_shape, n_outputs: None).fit(FEW, LABELS)


def test_random_state():
    """Decides everything, a function's first weights and dropout included; another one something else."""

    def make(input_shape, n_outputs):
        return fc.Sequential(fc.Linear(64, 32), fc.ReLU(), fc.Dropout(0.3), fc.Linear(32, n_outputs))

    def fitted(seed):
        return CNNClassifier(make, epochs=2, random_state=seed).fit(FEW, LABELS).predict_proba(FEW)

    fc.manual_seed(1)
    one, two, other = fitted(0), fitted(0), fitted(1)
    np.testing.assert_array_equal(one, two)
    assert abs(one - other).max() > 1e-3
    np.testing.assert_array_equal(fitted(np.random.RandomState(5)), fitted(np.random.RandomState(5)))
    state = np.random.RandomState(5)
    assert abs(fitted(state) - fitted(state)).max() > 1e-3


def test_pickling_and_cloning():
    model = CNNClassifier(image_shape=(1, 8, 8), epochs=3, random_state=0, early_stopping=True).fit(FEW, LABELS)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(FEW), model.predict_proba(FEW))
    model.partial_fit(FEW, LABELS)
    again.partial_fit(FEW, LABELS)  # the optimiser's memory comes along
    np.testing.assert_array_equal(again.predict_proba(FEW), model.predict_proba(FEW))
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        clone(model).predict(FEW)


def test_partial_fit_is_fit():
    """Epoch by epoch the same net, though another order of the samples."""
    at_once = CNNClassifier(epochs=6, batch_size=300, random_state=0).fit(FEW, LABELS)
    parts = CNNClassifier(batch_size=300, random_state=0)
    for _ in range(6):
        parts.partial_fit(FEW, LABELS, classes=np.arange(10))
    np.testing.assert_allclose(parts.predict_proba(FEW), at_once.predict_proba(FEW), atol=1e-4)
    assert [record["epoch"] for record in parts.history_] == [1, 2, 3, 4, 5, 6]
    parts.partial_fit(FEW[:5], LABELS[:5])  # not all classes
    with pytest.raises(ValueError, match=r"y has labels that are none of the classes .*: \[11\]"):
        parts.partial_fit(FEW[:2], [1, 11])
    with pytest.raises(ValueError, match="classes must be those of the first call"):
        parts.partial_fit(FEW, LABELS, classes=np.arange(11))
    with pytest.raises(ValueError, match="the first call of partial_fit needs classes"):
        CNNClassifier().partial_fit(FEW, LABELS)
    with pytest.raises(ValueError, match=r"write class_weight=\{label: weight\}"):
        CNNClassifier(class_weight="balanced").partial_fit(FEW, LABELS, classes=np.arange(10))
    numbers = CNNRegressor(random_state=0)
    for _ in range(20):
        numbers.partial_fit(FEW, LABELS)
    assert numbers.score(FEW, LABELS) > 0.5


def test_warm_start():
    model = CNNClassifier(epochs=2, random_state=0, warm_start=True).fit(FEW, LABELS)
    net, first = model.net_, model.history_[-1]["loss"]
    model.fit(FEW, LABELS)
    assert model.net_ is net and len(model.history_) == 4 and model.history_[-1]["loss"] < first
    with pytest.raises(ValueError, match="y has labels that are none of the classes"):
        model.fit(FEW, LABELS + 1)
    with pytest.raises(ValueError, match=r"was fitted with samples of shape \(64,\), got \(32,\)"):
        model.fit(FEW[:, :32], LABELS)
    model.set_params(warm_start=False).fit(FEW, LABELS + 1)
    assert model.classes_.tolist() == [*range(1, 11)] and len(model.history_) == 2


def test_early_stopping():
    model = CNNClassifier(epochs=200, early_stopping=True, patience=3, lr=0.01, random_state=0).fit(FEW, LABELS)
    accuracies = model.history_["val_accuracy"]
    best = max(range(len(accuracies)), key=lambda epoch: (accuracies[epoch], -model.history_["val_loss"][epoch]))
    assert len(accuracies) == best + 1 + 3 < 200
    weighted = CNNClassifier(epochs=50, early_stopping=True, patience=3, lr=0.01, random_state=0)
    weighted.fit(FEW, LABELS, sample_weight=rng.random(300))
    losses = weighted.history_["val_loss"]
    assert len(losses) == min(50, int(np.argmin(losses)) + 4)
    assert CNNRegressor(epochs=100, early_stopping=True, patience=2).fit(FEW, LABELS).history_["val_loss"]
    CNNClassifier(epochs=1, early_stopping=True).fit(FEW[:30], np.arange(30) // 2)  # more classes than are set aside
    with pytest.raises(ValueError, match="train set will be empty"):
        CNNClassifier(early_stopping=True).fit(FEW[:1], [1])


def test_weights():
    """Integers are repetitions, zeros leave out; class weights are the samples'."""
    X, y = FEW[:40].astype(np.float64), LABELS[:40]
    weight = rng.integers(0, 4, 40)

    def found(estimator, *arguments, **options):
        model = estimator(epochs=5, batch_size=200, random_state=0, **options).fit(*arguments)
        return model.predict_proba(X) if estimator is CNNClassifier else model.predict(X)

    for estimator in (CNNClassifier, CNNRegressor):
        repeated = found(estimator, X.repeat(weight, axis=0), y.repeat(weight))
        np.testing.assert_allclose(found(estimator, X, y, weight), repeated, rtol=1e-9)
        np.testing.assert_allclose(found(estimator, X, y, 0.3 * weight), repeated, rtol=1e-9)
        np.testing.assert_array_equal(found(estimator, X, y, np.full(40, 2)), found(estimator, X, y, np.ones(40)))
        with pytest.raises(ValueError, match=r"[Ww]eight"):
            found(estimator, X, y, np.zeros(40))
        with pytest.raises(ValueError, match=r"[Nn]egative"):
            found(estimator, X, y, -np.ones(40))
    factors = {label: label + 1.0 for label in range(10)}
    expected = found(CNNClassifier, X, y, weight * (y + 1.0))
    np.testing.assert_allclose(found(CNNClassifier, X, y, weight, class_weight=factors), expected, rtol=1e-12)
    balanced = found(CNNClassifier, X, y, class_weight="balanced")
    np.testing.assert_allclose(balanced, found(CNNClassifier, X, y, 1 / np.bincount(y)[y]), rtol=1e-9)
    with pytest.raises(ValueError, match="class_weight"):
        found(CNNClassifier, X, y, class_weight="even")


def test_rare_classes_are_found_by_their_weights():
    noise = rng.standard_normal((400, 4))
    labels = (noise[:, 0] + 0.7 * rng.standard_normal(400) > 1.8).astype(int)
    plain = CNNClassifier(epochs=30, random_state=0).fit(noise, labels).predict(noise)
    weighted = CNNClassifier(epochs=30, random_state=0, class_weight="balanced").fit(noise, labels).predict(noise)
    assert (weighted[labels == 1] == 1).mean() > (plain[labels == 1] == 1).mean() + 0.2


@pytest.mark.parametrize("optimizer", ["adam", "AdamW", "rmsprop", "sgd", fc.optim.SGD(0.1)])
def test_optimizers(optimizer):
    model = CNNClassifier(epochs=4, lr=fc.optim.OneCycle(0.01), weight_decay=1e-4, optimizer=optimizer, random_state=0)
    assert model.fit(FEW, LABELS).score(FEW, LABELS) > 0.4
    if isinstance(optimizer, fc.optim.Optimizer):
        assert optimizer.steps == 0


def test_augmentation():
    model = CNNClassifier(image_shape=(1, 8, 8), epochs=3, augment=fc.augment.Shift(1), random_state=0)
    assert model.fit(FEW, LABELS).score(FEW, LABELS) > 0.5


@pytest.mark.parametrize(
    ("options", "X", "error", "message"),
    [
        ({"image_shape": (1, 8, 7)}, FEW, ValueError, r"image_shape \(1, 8, 7\) needs rows of 56, got X of shape"),
        ({"image_shape": 8}, FEW, ValueError, r"image_shape \(8,\) needs rows of 8"),
        ({"image_shape": (1, 8, "8")}, FEW, TypeError, "CNNClassifier: image_shape must"),
        ({"optimizer": "adamm"}, FEW, ValueError, "optimizer must be one of adam, adamw, rmsprop, sgd or of"),
        ({"epochs": 0}, FEW, ValueError, "epochs must be at least 1"),
        ({"batch_size": 0}, FEW, ValueError, "batch_size must be at least 1"),
        ({}, FEW.reshape(-1, 1, 1, 1, 8, 8), ValueError, "without net= X has 2 to 5 axes"),
        ({}, FEW[:, 0], ValueError, "Expected 2D array, got 1D array"),
        ({}, FEW + np.nan, ValueError, "Input X contains NaN"),
        ({}, FEW + 1j, ValueError, "Complex data not supported"),
        ({"epochs": 3, "lr": 1e12, "optimizer": "sgd"}, FEW, FloatingPointError, "try a lower learning rate"),
    ],
)
def test_bad_calls(options, X, error, message):
    with pytest.raises(error, match=message):
        CNNClassifier(**options).fit(X, LABELS)


def test_sparse():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="Sparse data was passed"):
        CNNClassifier().fit(sparse.csr_array(FEW), LABELS)


# --- with scikit-learn's tools ---------------------------------------------------------------------------------------


def test_pipeline_and_calibration():
    X, y = 16 * FEW, LABELS
    model = make_pipeline(MinMaxScaler(), CNNClassifier(image_shape=(1, 8, 8), epochs=5, random_state=0))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.8
    calibrated = CalibratedClassifierCV(model, cv=2).fit(X, y)
    assert calibrated.predict_proba(X).shape == (300, 10) and calibrated.score(X, y) > 0.9


def threads(_):
    import os

    import fastconv

    return fastconv.get_num_threads(), os.getpid()


@pytest.fixture
def no_thread_variables(monkeypatch):
    for name in ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_workers_share_the_cores(no_thread_variables):
    """joblib's processes have cores / n_jobs threads each, and a grid search in them finds what one process finds."""
    grid = GridSearchCV(CNNClassifier(epochs=2, random_state=0), {"lr": [1e-4, 3e-3]}, cv=2)
    alone = clone(grid).fit(FEW, LABELS)
    try:
        together = clone(grid).set_params(n_jobs=2).fit(FEW, LABELS)
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(threads)(i) for i in range(8))
    finally:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
    for key in ("mean_test_score", "split0_test_score"):
        np.testing.assert_allclose(together.cv_results_[key], alone.cv_results_[key])
    assert together.best_params_ == {"lr": 3e-3}
    assert {count for count, _ in found} == {max(1, joblib.cpu_count() // 2)}
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert clone(grid).fit(FEW, LABELS).best_params_ == {"lr": 3e-3}


def test_threadpoolctl_holds_our_threads():
    import threadpoolctl

    fc.set_num_threads(2)
    with threadpoolctl.threadpool_limits(1):
        assert fc.get_num_threads() == 1
    assert fc.get_num_threads() == 2
