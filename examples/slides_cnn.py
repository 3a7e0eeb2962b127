"""The slides' own CNN, trained by plain stochastic gradient descent, with the pooling swapped.

    X (1 x 8 x 8) -> conv 3x3 -> ReLU -> pool 3x3, stride 1 -> flatten -> fully connected -> softmax, cross-entropy

The pooling is the maximum, the mean, the 2-norm, a function of one's own (a smooth maximum, with its gradient), a small
network that is trained along, or nothing at all; everything else is the same: the first weights, the order of the
images, the learning rate. No momentum, no schedule: w <- w - lr * dL/dw.

    python examples/slides_cnn.py [--out FOLDER]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from common import arguments, save

import fastconv
from fastconv import (
    AvgPool2d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    LpPool2d,
    MaxPool2d,
    NetworkPool2d,
    ReLU,
    Sequential,
    plots,
)

FILTERS = 8


def smooth_maximum(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log(mean(exp(x))): between the mean and the maximum. (…, L * L) -> (…)."""
    most = windows.max(axis=-1, keepdims=True)
    e = np.exp(windows - most)
    return most[..., 0] + np.log(e.mean(axis=-1)), e / e.sum(axis=-1, keepdims=True)


def smooth_maximum_backward(dy: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Every element has its share of the softmax."""
    return dy[..., None] * shares


def poolings() -> dict[str, Layer | None]:
    """Each 3x3 with stride 1."""
    smooth = fastconv.register("smooth_maximum", smooth_maximum, smooth_maximum_backward, replace=True)
    network = Sequential(Linear(9, 4, rng=5), ReLU(), Linear(4, 1, rng=6))
    return {
        "maximum": MaxPool2d(3, 1),
        "mean": AvgPool2d(3, 1),
        "2-norm": LpPool2d(2, 3, 1),
        "smooth maximum": fastconv.FunctionPool2d(smooth, 3, 1),
        "network": NetworkPool2d(network, 3, 1),
        "none": None,
    }


def build(pool: Layer | None) -> Sequential:
    side = 6 if pool is None else 4  # 8 - 3 + 1, and again
    return Sequential(
        Conv2d(1, FILTERS, 3, rng=0), ReLU(), *([] if pool is None else [pool]),
        Flatten(), Linear(FILTERS * side * side, 10, rng=1),
    )  # fmt: skip


def train(net: Sequential, train_set: Any, test_set: Any, epochs: int, lr: float) -> list[tuple[float, float]]:
    """(loss in training, test accuracy) after every epoch, by steps written out."""
    (X, y), (X_test, y_test) = train_set, test_set
    rng = np.random.default_rng(0)
    curve = []
    for _ in range(epochs):
        losses = []
        for some in np.array_split(rng.permutation(len(X)), len(X) // 16):
            loss, gradients = fastconv.value_and_grad(net, "cross_entropy", X[some], y[some])
            for name, weights in net.parameters().items():
                weights -= lr * gradients[name]
            losses.append(loss)
        accuracy = float((net.predict(X_test).argmax(axis=1) == y_test).mean())
        curve.append((float(np.mean(losses)), accuracy))
    return curve


def draw(nets: dict[str, Sequential], curves: dict[str, list[tuple[float, float]]], image: np.ndarray) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(11, 6.5), layout="constrained")
    figure.suptitle("The slides' CNN by plain SGD: the pooling swapped", fontweight="bold", fontsize=13)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.55, 1))
    losses, accuracies = upper.subplots(1, 2)
    for (name, curve), colour in zip(curves.items(), (plots.BLUE, *plots.OTHERS[:4], plots.GRAY), strict=True):
        epochs = np.arange(1, len(curve) + 1)
        style = "--" if name == "none" else "-"
        losses.plot(epochs, [loss for loss, _ in curve], color=colour, linestyle=style, label=name)
        accuracies.plot(epochs, [100 * accuracy for _, accuracy in curve], color=colour, linestyle=style, label=name)
    losses.set_title("loss in training", fontsize=10)
    losses.set_yscale("log")
    accuracies.set_title("test digits read, %", fontsize=10)
    last = [100 * curve[-1][1] for curve in curves.values()]
    accuracies.set_ylim(max(0.0, min(last) - 12), 100)
    for axes in (losses, accuracies):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    accuracies.legend(fontsize=9, frameon=False, loc="lower right", ncols=2)
    panels = lower.subplots(1, len(nets) + 1)
    panels[0].imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
    panels[0].set_title("a test digit", fontsize=10)
    for axes, (name, net) in zip(panels[1:], nets.items(), strict=True):
        maps = net[: 2 if name == "none" else 3](image[None])[0]
        axes.imshow(maps[maps.max(axis=(1, 2)).argmax()], cmap="Blues", vmin=0)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(f"{100 * curves[name][-1][1]:.1f} %", fontsize=10)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
    lower.suptitle("the strongest map behind the pooling, and the accuracy at the end", fontsize=10)
    return figure


def main(argv: list[str] | None = None) -> dict[str, float]:
    args = arguments(__doc__, "slides_cnn", argv)
    train_set, test_set = fastconv.datasets.load_digits()
    if args.small:
        train_set = train_set[0][:480], train_set[1][:480]
    nets = {name: build(pool) for name, pool in poolings().items()}
    curves = {}
    for name, net in nets.items():
        curves[name] = train(net, train_set, test_set, epochs=8 if args.small else 30, lr=0.1)
        print(f"pooling: {name:16s} loss {curves[name][-1][0]:.3f}, {curves[name][-1][1]:.1%} of the test digits")
    save(draw(nets, curves, test_set[0][6]), args.out, "slides_cnn")
    return {name: curve[-1][1] for name, curve in curves.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
