"""Training techniques: what each of them changes, a curve with it and one without, on the bundled digits.

dropout               a large net on 200 digits: half of the hidden neurons are silent in each step
L1, L2                the same net: the sum of |w|, or of w²/2, joins the loss; L1 leaves few weights far from 0
normalisation         a deep net: batch, layer, group and instance normalisation against none
input normalisation   pixels with a mean of 40 and a spread of 10, as they come, or shifted and scaled to 0 and 1
class weights         three of the ten digits are rare in training (one in twenty is left); the loss weighs each
                      class by what it lacks, or does not
cleaning              one label in five is wrong; a net trained on four fifths of the set doubts those it disagrees
                      with, and they are left out

python examples/training_techniques.py [--out FOLDER]
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from common import Part, arguments, save

import fastconv
from fastconv import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    GroupNorm,
    InstanceNorm2d,
    Layer,
    LayerNorm,
    Linear,
    MaxPool2d,
    Normalize,
    ReLU,
    Sequential,
    plots,
)
from fastconv import functional as F

Curves = dict[str, list[float]]  # by what is tried: a value an epoch
RARE = (2, 5, 8)
NEAR_ZERO = 1e-3


def fit(
    net: Sequential, train_set: Part, test_set: Part, epochs: int, *, loss: Any = "cross_entropy",
    measure: Callable[[Sequential, Part], float] | None = None, **options: Any,
) -> list[float]:  # fmt: skip
    """Test accuracy in %, or `measure`, after every epoch of SGD with momentum."""
    optimizer = fastconv.optim.SGD(**{"lr": 0.03, "momentum": 0.9, **options})
    curve: list[float] = []

    def after_epoch(trainer: fastconv.Trainer, record: Any) -> None:
        curve.append((measure or accuracy)(net, test_set))

    trainer = fastconv.Trainer(net, optimizer, loss=loss)
    trainer.fit(*train_set, epochs=epochs, batch_size=20, callbacks=[after_epoch], progress=False)
    return curve


def accuracy(net: Sequential, test_set: Part) -> float:
    return 100 * float((net.predict(test_set[0]).argmax(axis=1) == test_set[1]).mean())


def mislabelled(y: np.ndarray) -> np.ndarray:
    """One label in five is another digit's."""
    rng = np.random.default_rng(0)
    wrong = rng.random(len(y)) < 0.2
    return np.where(wrong, (y + rng.integers(1, 10, len(y))) % 10, y)


def large(*between: Layer) -> Sequential:
    return Sequential(Flatten(), Linear(64, 256, rng=0), ReLU(), *between, Linear(256, 10, rng=1))


def small() -> Sequential:
    return Sequential(Conv2d(1, 8, 3, rng=0), ReLU(), MaxPool2d(2), Flatten(), Linear(72, 10, rng=1))


# --- the techniques --------------------------------------------------------------------------------------------------


def dropout(train_set: Part, test_set: Part, epochs: int) -> Curves:
    doubtful = train_set[0], mislabelled(train_set[1])
    return {
        "without": fit(large(), doubtful, test_set, epochs),
        "dropout, p = 0.5": fit(large(Dropout(0.5)), doubtful, test_set, epochs),
    }


def l1_and_l2(train_set: Part, test_set: Part, epochs: int) -> Curves:
    """Also says how many weights are nearly 0 at the end."""
    doubtful = train_set[0], mislabelled(train_set[1])
    curves = {}
    for name, options in (
        ("without", {}),
        ("L2: weight_decay=0.01", {"weight_decay": 0.01}),
        ("L1: l1=0.001", {"l1": 1e-3}),
    ):
        net = large()
        curve = fit(net, doubtful, test_set, epochs, **options)
        weights = np.concatenate([w.ravel() for w in net.parameters().values()])
        curves[f"{name} ({100 * (np.abs(weights) < NEAR_ZERO).mean():.0f} % near 0)"] = curve
    return curves


def normalisation(train_set: Part, test_set: Part, epochs: int) -> Curves:
    few = train_set[0][:400], train_set[1][:400]

    def deep(norm: Callable[[int], list[Layer]]) -> Sequential:
        layers: list[Layer] = []
        for depth in range(6):
            layers += [Conv2d(8 if depth else 1, 8, 3, padding=1, rng=depth), *norm(8), ReLU()]
        return Sequential(*layers, MaxPool2d(2), Flatten(), Linear(128, 10, rng=9))

    kinds: dict[str, Callable[[int], list[Layer]]] = {
        "none": lambda c: [],
        "batch": lambda c: [BatchNorm2d(c)],
        "layer": lambda c: [LayerNorm((c, 8, 8))],
        "group (4)": lambda c: [GroupNorm(4, c)],
        "instance": lambda c: [InstanceNorm2d(c, affine=True)],
    }
    return {name: fit(deep(norm), few, test_set, epochs) for name, norm in kinds.items()}


def input_normalisation(train_set: Part, test_set: Part, epochs: int) -> Curves:
    def as_it_comes(part: Part) -> Part:
        return 40 + 10 * (part[0] - 0.3) / 0.37, part[1]

    raw, raw_test = as_it_comes(train_set), as_it_comes(test_set)
    mean, std = fastconv.datasets.mean_and_std(raw[0])
    return {
        "as it comes, lr 0.03": fit(small(), raw, raw_test, epochs),
        "as it comes, lr 0.0001": fit(small(), raw, raw_test, epochs, lr=1e-4),
        "Normalize(mean, std), lr 0.03": fit(Sequential(Normalize(mean, std), *small()), raw, raw_test, epochs),
    }


def class_weights(train_set: Part, test_set: Part, epochs: int) -> Curves:
    """The rare digits' share that is read."""
    X, y = train_set
    keep = ~np.isin(y, RARE)
    for k in RARE:
        keep[np.flatnonzero(y == k)[::20]] = True
    few = X[keep], y[keep]
    counts = np.bincount(few[1], minlength=10)
    weight = (len(few[1]) / (10 * counts)).astype(np.float32)

    def read(net: Sequential, part: Part) -> float:
        rare = np.isin(part[1], RARE)
        return accuracy(net, (part[0][rare], part[1][rare]))

    weighted = functools.partial(F.cross_entropy, weight=weight)
    return {
        "all alike": fit(small(), few, test_set, epochs, measure=read),
        "weight = N / (10 N of the class)": fit(small(), few, test_set, epochs, loss=weighted, measure=read),
    }


def cleaning(train_set: Part, test_set: Part, epochs: int) -> Curves:
    X, y = train_set
    labels = mislabelled(y)
    wrong = labels != y
    doubtful = np.zeros(len(y), bool)
    fold = np.random.default_rng(1).integers(0, 5, len(y))
    for k in range(5):  # each fifth is judged by a net that has not seen it
        judge = small()
        fit(judge, (X[fold != k], labels[fold != k]), test_set, max(6, epochs // 5))
        doubtful[fold == k] = judge.predict(X[fold == k]).argmax(axis=1) != labels[fold == k]
    found = f"{(doubtful & wrong).sum()} of {wrong.sum()} wrong, {(doubtful & ~wrong).sum()} right ones"
    return {
        "one label in five is wrong": fit(large(), (X, labels), test_set, epochs),
        f"doubtful ones left out: {found}": fit(large(), (X[~doubtful], labels[~doubtful]), test_set, epochs),
        "all labels right": fit(large(), (X, y), test_set, epochs),
    }


TECHNIQUES = {  # title -> (technique, what the curve is)
    "Dropout": (dropout, "test digits read, %"),
    "L1 and L2": (l1_and_l2, "test digits read, %"),
    "Normalisation, six convolutions deep": (normalisation, "test digits read, %"),
    "Input normalisation": (input_normalisation, "test digits read, %"),
    "Class weights": (class_weights, "rare test digits (2, 5, 8) read, %"),
    "Cleaning": (cleaning, "test digits read, %"),
}


def draw(found: dict[str, Curves]) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(11, 11.5), layout="constrained")
    figure.suptitle("Training techniques: with and without", fontweight="bold", fontsize=13)
    colours: Sequence[str] = (plots.GRAY, plots.BLUE, *plots.OTHERS)
    for axes, (title, curves) in zip(figure.subplots(3, 2).flat, found.items(), strict=True):
        for colour, (name, curve) in zip(colours, curves.items(), strict=False):
            axes.plot(range(1, len(curve) + 1), curve, color=colour, label=name, linewidth=1.7)
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.set_xlabel("epoch", fontsize=9)
        axes.set_ylabel(TECHNIQUES[title][1], fontsize=9)
        values = np.concatenate(list(curves.values()))
        low = float(np.quantile(values, 0.08))
        axes.set_ylim(max(-1.0, low - 0.15 * (100 - low)), min(101.0, values.max() + 0.08 * (100 - low)))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16),
                    ncols=1 if max(map(len, curves)) > 20 else 3)  # fmt: skip
    return figure


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    args = arguments(__doc__, "training_techniques", argv)
    train_set, test_set = fastconv.datasets.load_digits()
    if args.small:
        train_set, test_set = ((X[:n], y[:n]) for (X, y), n in ((train_set, 400), (test_set, 120)))
    found = {}
    for title, (technique, what) in TECHNIQUES.items():
        found[title] = technique(train_set, test_set, 4 if args.small else 40)
        print(f"{title}: {what}")
        for name, curve in found[title].items():
            print(f"  {name:58s} {curve[-1]:5.1f}", flush=True)
    save(draw(found), args.out, "training_techniques")
    return {title: {name: curve[-1] for name, curve in curves.items()} for title, curves in found.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
