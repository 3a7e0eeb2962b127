"""scikit-learn's estimators on fastconv's nets: `CNNClassifier` and `CNNRegressor`.

    from fastconv.sklearn import CNNClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    model = make_pipeline(MinMaxScaler(), CNNClassifier(image_shape=(1, 8, 8), epochs=20))
    model.fit(X_train, y_train).score(X_test, y_test)

They pass scikit-learn's own `check_estimator`, and work in Pipeline, GridSearchCV, CalibratedClassifierCV and the like.
In the processes that joblib starts, each has the threads that joblib leaves it. Needs scikit-learn 1.6 or newer:
pip install "fastconv[sklearn]".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import functional, layers, optim
from fastconv.analysis import output_shape
from fastconv.layers.base import Layer
from fastconv.machine.threads import register_with_threadpoolctl
from fastconv.models import he
from fastconv.random import drawing_from
from fastconv.training.history import History
from fastconv.training.trainer import Trainer
from fastconv.window import integers

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('fastconv.sklearn needs scikit-learn, 1.6 or newer: pip install "fastconv[sklearn]"') from error

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CNNClassifier", "CNNRegressor"]

register_with_threadpoolctl()  # which scikit-learn has imported

HIDDEN = 128  # outputs of the hidden layers of the nets that are made where none is given
OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
    "sgd": lambda lr, weight_decay: optim.SGD(lr, momentum=0.9, nesterov=True, weight_decay=weight_decay),
}

_ARGUMENTS = """
    net                  a net, which is copied and never changed, or a function (input_shape, n_outputs) -> net that is
                         given (1, C, H, W), as `net.summary` is; the net makes {outputs}. None: for rows a
                         fully-connected net with a hidden layer of 128, for X (N, C, …) of one to three axes in space
                         a small CNN; neither has batch norm or dropout
    image_shape          (C, H, W): what a row of X (N, C * H * W) holds; None: X is as the net takes it
    epochs               how often all samples are seen by a call of `fit`
    batch_size           samples a step
    optimizer            "adam", "adamw", "rmsprop", "sgd" (with Nesterov's momentum of 0.9); or an optimiser of
                         `fastconv.optim`, which is copied and has a learning rate of its own
    lr, weight_decay     of an optimiser by name; lr may be a schedule of `fastconv.optim`
    augment              a change of the training images: see `fastconv.augment`
    early_stopping       set validation_fraction of the samples aside, end when they were not read better for `patience`
                         epochs, and keep the weights of the best epoch (`partial_fit` does nothing of it)
    validation_fraction  used with early_stopping only; of every class alike, where it has enough samples
    patience             epochs
    dtype                numpy.float32 or float64; None: float64 for X of float64, else float32
    random_state         an int, a numpy.random.RandomState or None: first weights, order, dropout, augmentation
    warm_start           `fit` goes on with the weights that it finds
    verbose              a line an epoch
"""


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What both have."""

    loss: str

    def __init__(
        self, net: Any = None, image_shape: Sequence[int] | None = None, *, epochs: int = 100, batch_size: int = 64,
        optimizer: Any = "adam", lr: Any = 1e-3, weight_decay: float = 0.0, augment: Any = None,
        validation_fraction: float = 0.1, early_stopping: bool = False, patience: int = 10, dtype: Any = None,
        random_state: Any = None, warm_start: bool = False, verbose: bool = False,
    ) -> None:  # fmt: skip
        self.net = net
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.augment = augment
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.patience = patience
        self.dtype = dtype
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    # --- what the two differ in

    def _targets(
        self, y: np.ndarray, weight: np.ndarray | None, anew: bool, classes: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """y as the loss takes it, and the samples' weights; `anew`: what is known of y, this y says."""
        raise NotImplementedError

    def _outputs(self) -> int:
        """Of the net."""
        raise NotImplementedError

    # --- fitting

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, partial: bool = False, classes: Any = None) -> Self:
        """`fit`, or with `partial` `partial_fit`: one epoch from what is there, the optimiser's memory included."""
        there = hasattr(self, "net_")
        X, y = self._validated(X, y, reset=not (partial and there))
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            if not sample_weight.any():
                raise ValueError(f"{type(self).__name__}: sample_weight is zero for all samples")
        X = self._as_images(X)
        anew = not (there and (partial or self.warm_start))
        targets, weight = self._targets(y, sample_weight, anew, classes)
        if anew:
            self._begin(X)
        self._need_shape(X)
        if anew or not partial:
            self._optimizer = self._new_optimizer()
        if weight is not None:
            X, targets, weight = X[weight > 0], targets[weight > 0], weight[weight > 0]
            weight = weight * (len(weight) / weight.sum())
        self._train(X, targets, weight, 1 if partial else self.epochs, self.early_stopping and not partial)
        return self

    def _begin(self, X: np.ndarray) -> None:
        """A new net."""
        self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self._calls = 0
        self.input_shape_ = X.shape[1:]
        dtype = X.dtype if self.dtype is None else np.dtype(self.dtype)
        self.net_ = self._net(np.random.default_rng(self._seed)).astype(dtype).train()
        self.history_ = History()

    def _net(self, rng: np.random.Generator) -> Layer:
        """A new net, whose outputs fit."""
        name, shape, outputs = type(self).__name__, (1, *self.input_shape_), self._outputs()
        if self.net is None:
            return _default_net(name, self.input_shape_, outputs, rng)
        net = self.net
        if isinstance(net, Layer):
            net = copy.deepcopy(net)
        elif callable(net):
            with drawing_from(rng):
                net = net(shape, outputs)
        if not isinstance(net, Layer):
            raise TypeError(f"{name}: net must be a net, a function that makes one, or None, got {net!r}")
        made = output_shape(net, shape)
        if made != (1, outputs):
            raise ValueError(
                f"{name}: the net must make {outputs} outputs of a sample, here it makes {made[1:]} of {shape[1:]}"
            )
        return net

    def _new_optimizer(self) -> optim.Optimizer:
        if isinstance(self.optimizer, optim.Optimizer):
            return copy.deepcopy(self.optimizer)
        if not isinstance(self.optimizer, str) or self.optimizer.lower() not in OPTIMIZERS:
            raise ValueError(
                f"{type(self).__name__}: optimizer must be one of {', '.join(OPTIMIZERS)} or of fastconv.optim's, got "
                f"{self.optimizer!r}"
            )
        return OPTIMIZERS[self.optimizer.lower()](self.lr, weight_decay=self.weight_decay)

    def _train(
        self, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None, epochs: int, early_stopping: bool
    ) -> None:
        self._calls += 1
        trainer = Trainer(self.net_, self._optimizer, self.loss, seed=self._seed + (self._calls << 32))
        options: dict[str, Any] = {"sample_weight": weight}
        if early_stopping:
            (X, y, options["sample_weight"]), options["validation_data"] = self._split(X, y, weight)
            options["callbacks"] = [self._is_over]
        trainer.fit(X, y, epochs, self.batch_size, augment=self.augment, progress=bool(self.verbose), **options)
        if early_stopping:
            trainer.restore_best()
        behind = len(self.history_)
        self.history_ += [{**record, "epoch": behind + record["epoch"]} for record in trainer.history]

    def _split(self, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> tuple[Any, Any]:
        """(the training part, the validation part), each (X, y, weight)."""
        options = {"test_size": self.validation_fraction, "random_state": self._seed}
        arrays = (X, y) if weight is None else (X, y, weight)
        try:
            parts = train_test_split(*arrays, stratify=y if y.dtype.kind == "i" else None, **options)
        except ValueError:  # a class with too few samples, or too few altogether, which is said again
            parts = train_test_split(*arrays, **options)
        training, validation = parts[::2], parts[1::2]
        return (*training, None)[:3], tuple(validation)

    def _is_over(self, trainer: Trainer, record: Any) -> bool:
        return bool(trainer.epoch - (trainer.best_epoch or 0) >= self.patience)

    # --- X

    def _validated(self, X: Any, *y: Any, reset: bool) -> Any:
        """X, or X and y, as scikit-learn checks them: float64 stays so, everything else becomes float32."""
        return validate_data(self, X, *y, reset=reset, dtype=[np.float32, np.float64], allow_nd=True, **self._rules(y))

    def _rules(self, y: tuple[Any, ...]) -> dict[str, Any]:
        return {}

    def _as_images(self, X: np.ndarray) -> np.ndarray:
        """Rows as images, where `image_shape` says what they are."""
        if self.image_shape is None:
            return X
        axes = len(self.image_shape) if isinstance(self.image_shape, (tuple, list)) else 1
        shape = integers(type(self).__name__, "image_shape", self.image_shape, axes, 1)
        if X.shape[1:] not in (shape, (math.prod(shape),)):
            raise ValueError(
                f"{type(self).__name__}: image_shape {shape} needs rows of {math.prod(shape)}, got X of shape {X.shape}"
            )
        return X.reshape(-1, *shape)

    def _need_shape(self, X: np.ndarray) -> None:
        if X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"{type(self).__name__}: was fitted with samples of shape {self.input_shape_}, got {X.shape[1:]}"
            )

    def _raw(self, X: Any) -> np.ndarray:
        """The net's outputs."""
        check_is_fitted(self, "net_")
        X = self._as_images(self._validated(X, reset=False))
        self._need_shape(X)
        return self.net_.predict(X)


class CNNClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    __doc__ = f"""A net that tells classes apart, by cross-entropy.
{_ARGUMENTS.format(outputs="a score for every class, no probabilities")}
    class_weight         None, "balanced", or {{label: weight}}; times the samples' own weights

    classes_, n_features_in_, input_shape_ (of a sample, as the net takes it), net_, history_ (a record an epoch: see
    `Trainer.fit`)

    Labels are whatever scikit-learn takes as classes. `fit` raises ValueError and TypeError in scikit-learn's own words
    for what it does not take, FloatingPointError where the loss is no longer finite.
    """  # fmt: skip

    loss = "cross_entropy"
    classes_: np.ndarray

    def __init__(
        self, net: Any = None, image_shape: Sequence[int] | None = None, *, epochs: int = 100, batch_size: int = 64,
        optimizer: Any = "adam", lr: Any = 1e-3, weight_decay: float = 0.0, augment: Any = None,
        validation_fraction: float = 0.1, early_stopping: bool = False, patience: int = 10, class_weight: Any = None,
        dtype: Any = None, random_state: Any = None, warm_start: bool = False, verbose: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            net, image_shape, epochs=epochs, batch_size=batch_size, optimizer=optimizer, lr=lr,
            weight_decay=weight_decay, augment=augment, validation_fraction=validation_fraction,
            early_stopping=early_stopping, patience=patience, dtype=dtype, random_state=random_state,
            warm_start=warm_start, verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for `epochs` on X (N, …) and labels y (N,); the samples' weights count relative to their mean."""
        return self._fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on these samples, from the weights that are there.

        classes   all labels that there will be; needed by the first call, and the same later. class_weight="balanced"
                  is a ValueError: a part does not say how often each label comes
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "CNNClassifier: partial_fit cannot know how often each class comes; write class_weight={label: weight}"
            )
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError(
                "CNNClassifier: the first call of partial_fit needs classes, all labels that there will be"
            )
        return self._fit(X, y, sample_weight, partial=True, classes=classes)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each sample."""
        raw = self._raw(X)
        labels: np.ndarray = self.classes_[raw.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of every class, in the order of `classes_`: (N, classes)."""
        return functional.softmax(self._raw(X))

    def _outputs(self) -> int:
        return len(self.classes_)

    def _targets(
        self, y: np.ndarray, weight: np.ndarray | None, anew: bool, classes: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        check_classification_targets(y)
        if classes is not None and not anew and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"CNNClassifier: classes must be those of the first call, {self.classes_}, got {classes}")
        known = self.classes_ if not anew else np.unique(y if classes is None else classes)
        if unknown := sorted({*np.unique(y).tolist()} - {*known.tolist()}):
            raise ValueError(f"CNNClassifier: y has labels that are none of the classes {known.tolist()}: {unknown}")
        self.classes_ = known
        encoded = np.searchsorted(known, y)
        if self.class_weight is None:
            return encoded, weight
        weight = np.ones(len(y)) if weight is None else weight
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            counts = np.bincount(encoded, weight, len(known))
            factors = np.divide(counts.sum() / len(known), counts, out=np.zeros(len(known)), where=counts > 0)
        else:
            factors = compute_class_weight(self.class_weight, classes=known, y=known)
        return encoded, weight * factors[encoded]


class CNNRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    __doc__ = f"""A net that finds numbers, one or several of each sample, by squared errors.
{_ARGUMENTS.format(outputs="a number for every column of y")}
    n_features_in_, input_shape_ (of a sample, as the net takes it), net_, history_ (a record an epoch: see
    `Trainer.fit`)

    y (N,) or (N, columns) is brought to mean 0 and variance 1 for the net, and predictions back: losses in `history_`
    are of what the net sees. `fit` raises ValueError and TypeError in scikit-learn's own words for what it does not
    take, FloatingPointError where the loss is no longer finite.
    """  # fmt: skip

    loss = "mse_loss"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for `epochs` on X (N, …) and y (N,) or (N, columns); weights count relative to their mean."""
        return self._fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on these samples, from the weights that are there. What brings y to mean 0 and variance
        1 is found by the first call."""
        return self._fit(X, y, sample_weight, partial=True)

    def predict(self, X: Any) -> np.ndarray:
        """The numbers of each sample, in y's shape."""
        found: np.ndarray = self._raw(X) * self._scale + self._centre
        return found if self._columns else found[:, 0]

    def _outputs(self) -> int:
        return len(self._scale)

    def _rules(self, y: tuple[Any, ...]) -> dict[str, Any]:
        return {"multi_output": True, "y_numeric": True} if y else {}

    def _targets(
        self, y: np.ndarray, weight: np.ndarray | None, anew: bool, classes: Any
    ) -> tuple[np.ndarray, np.ndarray | None]:
        table = y.reshape(len(y), -1).astype(np.float64)
        if anew:
            self._columns = y.ndim > 1
            self._centre = np.average(table, axis=0, weights=weight)
            spread = np.sqrt(np.average(np.square(table - self._centre), axis=0, weights=weight))
            self._scale = np.where(spread > 1e-12 * np.abs(self._centre), spread, 1.0)
        if table.shape[1] != len(self._scale):
            raise ValueError(f"CNNRegressor: y had {len(self._scale)} columns at first, now it has {table.shape[1]}")
        return (table - self._centre) / self._scale, weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


# --- nets where none is given ----------------------------------------------------------------------------------------


def _default_net(name: str, input_shape: tuple[int, ...], outputs: int, rng: np.random.Generator) -> Layer:
    """A hidden layer for rows. For images convolutions of 32, 64 and 128 filters, each but the last of them followed by
    a pooling that halves the image, down to 2 or 3 pixels; then a hidden layer."""
    channels, *size = input_shape
    if len(size) > 3:
        raise ValueError(f"{name}: without net= X has 2 to 5 axes, got samples of shape {input_shape}; give a net")
    parts: list[Layer] = []
    filters = 32
    while size:
        convolution = getattr(layers, f"Conv{len(size)}d")
        parts += [convolution(channels, filters, 3, padding=1, rng=rng), layers.ReLU()]
        channels, filters = filters, min(2 * filters, HIDDEN)
        if min(size) < 4:
            parts.append(layers.Flatten())
            break
        parts.append(getattr(layers, f"MaxPool{len(size)}d")(2))
        size = [n // 2 for n in size]
    parts += [layers.Linear(channels * math.prod(size), HIDDEN, rng=rng), layers.ReLU()]
    he(*parts)
    return layers.Sequential(*parts, layers.Linear(HIDDEN, outputs, rng=rng))
