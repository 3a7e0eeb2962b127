"""Recognising X: a perceptron that sees 3x3 pixels, slid over 10x10 images.

A neuron learns to tell the X from the other 511 patterns of 3x3 pixels. Slid over an image its affine part, z = Wx + b,
is a convolution; the activation makes an answer of it at every place; the largest answer in every 3x3 neighbourhood is
a max-pool with stride 1, the chapter's; the largest anywhere is the OR: is there an X?

    python examples/recognising_x.py [--out FOLDER]
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from common import arguments, save

import fastconv
from fastconv import functional as F
from fastconv import plots

CROSS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.float32)


def all_patterns() -> np.ndarray:
    """The 512 patterns of 3x3 black or white pixels, (512, 9)."""
    return np.array([[number >> bit & 1 for bit in range(9)] for number in range(512)], np.float32)


def train_perceptron(steps: int) -> fastconv.Sequential:
    """One neuron, 9 inputs, trained on every pattern; on the X as often as on its 9 nearest neighbours together."""
    patterns = all_patterns()
    is_x = (patterns == CROSS.ravel()).all(axis=1)
    x = np.concatenate([patterns, np.repeat(patterns[is_x], 8, axis=0)])
    y = np.concatenate([is_x, np.ones(8)]).astype(np.float32)[:, None]
    neuron = fastconv.Sequential(fastconv.Linear(9, 1, rng=0))
    optimizer = fastconv.optim.SGD(lr=5.0, momentum=0.9)
    for _ in range(steps):
        _, gradients = fastconv.value_and_grad(neuron, F.bce_with_logits, x, y)
        optimizer.step(neuron.parameters(), gradients)
    right = int(((neuron(patterns) > 0)[:, 0] == is_x).sum())
    print(f"the neuron is right about {right} of the 512 patterns")
    return neuron


def images() -> dict[str, np.ndarray]:
    """10x10 images with and without an X, two of them with a third of the pixels black."""
    rng = np.random.default_rng(3)
    names = ("one X", "two X", "an X in noise", "noise, no X", "an X that lacks a pixel")
    result = {name: np.zeros((10, 10), np.float32) for name in names}
    for name in ("an X in noise", "noise, no X"):
        result[name][...] = rng.random((10, 10)) < 0.35
    for name, row, column in (("one X", 1, 5), ("two X", 0, 0), ("two X", 6, 4), ("an X in noise", 5, 2)):
        result[name][row : row + 3, column : column + 3] = CROSS
    result["an X that lacks a pixel"][4:7, 3:6] = CROSS
    result["an X that lacks a pixel"][4, 3] = 0
    return result


class Seen(NamedTuple):
    """What the neuron makes of an image (10x10)."""

    affine: np.ndarray  # z at every place, 8x8
    answers: np.ndarray  # the activation of each, 8x8
    pooled: np.ndarray  # the largest of every 3x3 of them, 6x6
    anywhere: float  # the largest of all


def look(neuron: fastconv.Sequential, image: np.ndarray) -> Seen:
    w, b = neuron.parameters().values()  # (1, 9) and (1,)
    affine = F.conv2d(image[None, None], w.reshape(1, 1, 3, 3), b)
    answers = F.sigmoid(affine)
    pooled = F.max_pool2d(answers, 3, stride=1)
    anywhere = F.adaptive_max_pool2d(answers, 1)
    return Seen(affine[0, 0], answers[0, 0], pooled[0, 0], float(anywhere[0, 0, 0, 0]))


def draw(neuron: fastconv.Sequential, found: dict[str, tuple[np.ndarray, Seen]]) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(11.2, 10.6), layout="constrained")
    figure.suptitle("A perceptron that knows the X, slid over images: convolution, activation, max-pool, OR",
                    fontweight="bold")  # fmt: skip
    grid = figure.subplots(len(found), 5, gridspec_kw={"width_ratios": (1, 1, 1, 1, 0.7)})
    titles = ("image, 10x10", "affine map: z = Wx + b\nat every place, 8x8", "activation: the neuron's\nanswers, 8x8",
              "max-pool 3x3, stride 1:\n6x6", "OR: the largest\nof all")  # fmt: skip
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    most = max(float(np.abs(seen.affine).max()) for _, seen in found.values())
    for row, (name, (image, seen)) in zip(grid, found.items(), strict=True):
        row[0].imshow(image, cmap="gray_r", vmin=0, vmax=1)
        row[0].set_ylabel(name, fontsize=11)
        row[1].imshow(seen.affine, cmap="RdBu", vmin=-most, vmax=most)
        for axes, values in ((row[2], seen.answers), (row[3], seen.pooled)):
            axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
        for top, left in np.argwhere(seen.answers > 0.5):
            row[0].add_patch(box(left, top, 3))
            row[1].add_patch(box(left, top, 1))
            row[2].add_patch(box(left, top, 1))
        for top, left in np.argwhere(seen.pooled > 0.5):
            row[3].add_patch(box(left, top, 1))
        for axes, size in zip(row[:4], (10, 8, 8, 6), strict=True):
            axes.set_xticks(np.arange(size + 1) - 0.5, [])
            axes.set_yticks(np.arange(size + 1) - 0.5, [])
            axes.grid(color="#d8d8d8", linewidth=0.6)
            axes.tick_params(length=0)
        colour = plots.GREEN if seen.anywhere > 0.5 else plots.GRAY
        text = f"{'there is an X' if seen.anywhere > 0.5 else 'no X'}\n{seen.anywhere:.2f}"
        row[4].text(0.5, 0.5, text, ha="center", va="center", fontsize=13, color=colour, fontweight="bold")
        row[4].set_axis_off()
    weights, bias = neuron.parameters().values()
    rows = "   /   ".join("  ".join(f"{v:+.1f}" for v in line) for line in weights.reshape(3, 3))
    figure.supxlabel(f"W: {rows};  b: {bias[0]:+.1f}    (z: red below 0, blue above; orange frame: answer above ½)",
                     fontsize=10)  # fmt: skip
    return figure


def box(left: int, top: int, size: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor=plots.ORANGE, linewidth=2.2, zorder=5)


def main(argv: list[str] | None = None) -> dict[str, bool]:
    args = arguments(__doc__, "recognising_x", argv)
    neuron = train_perceptron(steps=200 if args.small else 1000)
    seen = {name: (image, look(neuron, image)) for name, image in images().items()}
    found = {name: made.anywhere > 0.5 for name, (_, made) in seen.items()}
    for name, there in found.items():
        print(f"{name:24s} {'X' if there else '-'}")
    save(draw(neuron, seen), args.out, "recognising_x")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
