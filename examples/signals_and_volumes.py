"""Convolution over signals and over volumes: one axis and three, the same layers.

    1-D   four kinds of waves in noise, of any frequency and phase: sine, square, triangle, sawtooth (64 samples)
    3-D   four kinds of bodies, anywhere: ball, cube, ring, rod (12 x 12 x 12 voxels with noise)

Each net is two convolutions with max-pooling between them and a global maximum behind them: the OR over time, or space.

    python examples/signals_and_volumes.py [--out FOLDER]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from common import Part, arguments, save

import fastconv
from fastconv import (
    AdaptiveMaxPool1d,
    AdaptiveMaxPool3d,
    Conv1d,
    Conv3d,
    Flatten,
    Linear,
    MaxPool1d,
    MaxPool3d,
    ReLU,
    Sequential,
    plots,
)

WAVES = ("sine", "square", "triangle", "sawtooth")
BODIES = ("ball", "cube", "ring", "rod")
LENGTH, SIDE = 64, 12


def waves(n: int, rng: np.random.Generator, noise: float = 0.25) -> Part:
    """(n, 1, LENGTH) and their kinds."""
    y = rng.integers(0, len(WAVES), n)
    t = rng.uniform(1.5, 5, (n, 1)) * np.arange(LENGTH) / LENGTH + rng.random((n, 1))  # in periods
    part = t % 1
    shapes = np.stack([np.sin(2 * np.pi * t), np.sign(0.5 - part), 4 * np.abs(part - 0.5) - 1, 2 * part - 1])
    x = shapes[y, np.arange(n)] + noise * rng.standard_normal((n, LENGTH))
    return x[:, None].astype(np.float32), y


def bodies(n: int, rng: np.random.Generator, noise: float = 0.2) -> Part:
    """(n, 1, SIDE, SIDE, SIDE) and their kinds."""
    y = rng.integers(0, len(BODIES), n)
    centre = rng.uniform(4, SIDE - 5, (3, n, 1, 1, 1))
    axes = np.array([rng.permutation(3) for _ in range(n)])  # which way it lies
    place = np.indices((SIDE,) * 3)[:, None] - centre  # (3, n, SIDE, SIDE, SIDE)
    a, b, c = (np.stack([place[axes[i, k], i] for i in range(n)]) for k in range(3))
    size = rng.uniform(2.4, 3.4, (n, 1, 1, 1))
    across = np.hypot(a, b)
    every = np.stack([
        np.sqrt(a * a + b * b + c * c) < size,
        np.maximum(np.maximum(abs(a), abs(b)), abs(c)) < 0.85 * size,
        np.hypot(across - size, c) < 1.1,
        (across < 1.3) & (abs(c) < 1.6 * size),
    ])  # fmt: skip
    x = every[y, np.arange(n)] + noise * rng.standard_normal((n, SIDE, SIDE, SIDE))
    return x[:, None].astype(np.float32), y


def of_signals() -> Sequential:
    return Sequential(
        Conv1d(1, 12, 7, rng=0), ReLU(), MaxPool1d(2), Conv1d(12, 24, 7, rng=1), ReLU(), AdaptiveMaxPool1d(1),
        Flatten(), Linear(24, len(WAVES), rng=2),
    )  # fmt: skip


def of_volumes() -> Sequential:
    return Sequential(
        Conv3d(1, 8, 3, rng=0), ReLU(), MaxPool3d(2), Conv3d(8, 16, 3, rng=1), ReLU(), AdaptiveMaxPool3d(1),
        Flatten(), Linear(16, len(BODIES), rng=2),
    )  # fmt: skip


def train(name: str, net: Sequential, train_set: Part, test_set: Part, epochs: int) -> list[float]:
    """Test accuracy after every epoch."""
    trainer = fastconv.Trainer(net, fastconv.optim.Adam(lr=fastconv.optim.Cosine(lr=4e-3)))
    trainer.fit(*train_set, epochs=epochs, batch_size=32, validation_data=test_set, progress=False)
    curve = [float(record["val_accuracy"]) for record in trainer.history]
    print(f"{name}: {curve[-1]:.1%} of {len(test_set[1]):,} told apart", flush=True)
    return curve


def draw(tests: dict[str, Part], nets: dict[str, Sequential], curves: dict[str, list[float]]) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(11, 8.4), layout="constrained")
    figure.suptitle("One axis and three: signals and volumes", fontweight="bold", fontsize=13)
    grid = figure.add_gridspec(4, 5, width_ratios=(1, 1, 1, 1, 1.5), height_ratios=(1, 1.15, 1.3, 1))
    (signals, kinds), (volumes, shapes) = tests.values()
    first = {name: nets[name][0].weight for name in nets}
    strongest = int(np.abs(nets["signals"][0](signals[:50])).mean(axis=(0, 2)).argmax())
    for k in range(4):
        sample = signals[np.flatnonzero(kinds == k)[0]]
        upper, lower = figure.add_subplot(grid[0, k]), figure.add_subplot(grid[1, k])
        upper.plot(sample[0], color=plots.GRAY, linewidth=1.2)
        upper.set_title(WAVES[k], fontsize=10)
        for answers in nets["signals"][:2](sample[None])[0]:
            lower.plot(answers, color="#c9d9e6", linewidth=0.8)
        lower.plot(nets["signals"][:2](sample[None])[0, strongest], color=plots.BLUE, linewidth=1.6)
        volume = volumes[np.flatnonzero(shapes == k)[0]]
        body, seen = figure.add_subplot(grid[2, k], projection="3d"), figure.add_subplot(grid[3, k])
        body.voxels(volume[0] > 0.6, facecolor="#56B4E9", edgecolor="#27536e", linewidth=0.3)
        body.set_title(BODIES[k], fontsize=10, y=0.97)
        body.set(xticks=[], yticks=[], zticks=[])
        maps = nets["volumes"][:2](volume[None])[0]
        best = maps.reshape(len(maps), -1).max(axis=1).argmax()
        seen.imshow(maps[best].max(axis=0), cmap="Blues")
        for axes in (upper, lower, seen):
            axes.set_xticks([])
            axes.set_yticks([])
    labels = ((0, "a signal\n(64 samples)"), (1, "its 12 maps\n(7 taps)"), (3, "a map of it,\nfrom above"))
    for row, label in labels:
        figure.axes[row].set_ylabel(label, fontsize=9)  # of the first column
    filters = figure.add_subplot(grid[0:2, 4])
    most = float(np.abs(first["signals"]).max())
    filters.imshow(first["signals"][:, 0], cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    filters.set_title("the 12 filters of 7 taps", fontsize=10)
    filters.set_xlabel("taps", fontsize=9)
    filters.set_yticks([])
    filters.set_xticks(range(7), range(1, 8), fontsize=8)
    axes = figure.add_subplot(grid[2:4, 4])
    for (name, curve), colour in zip(curves.items(), (plots.BLUE, plots.ORANGE), strict=True):
        axes.plot(range(1, len(curve) + 1), [100 * value for value in curve], color=colour, label=name)
    axes.set_title("told apart, % of the test", fontsize=10)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(20, 101)
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="lower right")
    return figure


def main(argv: list[str] | None = None) -> dict[str, float]:
    args = arguments(__doc__, "signals_and_volumes", argv)
    rng = np.random.default_rng(0)
    many, few, epochs = (400, 100, 5) if args.small else (2000, 500, 12)
    trained = {"signals": waves(many, rng), "volumes": bodies(many // 2, rng)}
    tests = {"signals": waves(few, rng), "volumes": bodies(few, rng)}
    nets = {"signals": of_signals(), "volumes": of_volumes()}
    curves = {name: train(name, nets[name], trained[name], tests[name], epochs) for name in nets}
    save(draw(tests, nets, curves), args.out, "signals_and_volumes")
    return {name: curve[-1] for name, curve in curves.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
