"""Weight sharing: a convolution as a matrix, beside a locally connected and a fully connected layer.

All three are layers of neurons, y = A x. In the convolution's matrix the same 9 numbers stand in every row, shifted,
and everything else is 0; without sharing every place has 9 numbers of its own; fully connected, each output has a
number for every input. Here each of the numbers that is learned has a colour of its own, and nets of the three kinds,
with as many outputs, read digits that may be anywhere on a 10x10 background, after training on more and more of them.

    python examples/weight_sharing.py [--out FOLDER]
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from common import arguments, save

import fastconv
from fastconv import Conv2d, Flatten, Linear, LocallyConnected2d, ReLU, Sequential, analysis, datasets, plots

SIDE, KERNEL, FILTERS = 10, 3, 8
OUT = SIDE - KERNEL + 1
SHOWN = 6  # side of the image whose matrices are drawn


def layers() -> dict[str, list[fastconv.Layer]]:
    """From an image to FILTERS maps of 8x8 outputs, in three ways."""
    outputs = FILTERS * OUT * OUT
    return {
        "convolution": [Conv2d(1, FILTERS, KERNEL, rng=0), ReLU(), Flatten()],
        "locally connected": [LocallyConnected2d(1, FILTERS, OUT, KERNEL, rng=0), ReLU(), Flatten()],
        "fully connected": [Flatten(), Linear(SIDE * SIDE, outputs, rng=0), ReLU()],
    }


def parameters(layer: list[fastconv.Layer]) -> int:
    return sum(array.size for array in Sequential(*layer).state_dict().values())


def matrices() -> dict[str, np.ndarray]:
    """Which number stands where in A of one filter over 6x6 pixels: (16, 36), counted from 1; 0 where none is."""
    numbers = np.arange(1, KERNEL * KERNEL + 1, dtype=np.float64).reshape(1, 1, KERNEL, KERNEL)
    shared = analysis.conv_matrix(numbers, (1, SHOWN, SHOWN)).toarray()
    local = np.where(shared > 0, shared + KERNEL * KERNEL * np.arange(len(shared))[:, None], 0)
    full = np.arange(1, shared.size + 1).reshape(shared.shape)
    return {"convolution": shared, "locally connected": local, "fully connected": full}


def accuracies(counts: list[int], epochs: int) -> dict[str, list[float]]:
    """Of each kind of net, after training on the first so many digits."""
    (X, y), (X_test, y_test) = datasets.load_digits()
    X, test = datasets.place(X, SIDE, rng=0), (datasets.place(X_test, SIDE, rng=1), y_test)
    found: dict[str, list[float]] = {}
    for name in layers():
        for count in counts:
            net = Sequential(*layers()[name], Linear(FILTERS * OUT * OUT, 10, rng=1))
            rounds = max(epochs, epochs * 200 // count)
            trainer = fastconv.Trainer(net, fastconv.optim.SGD(lr=0.02, momentum=0.9))
            trainer.fit(X[:count], y[:count], epochs=rounds, batch_size=20, progress=False)
            accuracy = trainer.evaluate(*test).accuracy
            assert accuracy is not None
            found.setdefault(name, []).append(accuracy)
        shown = ", ".join(f"{count}: {value:.1%}" for count, value in zip(counts, found[name], strict=True))
        print(f"{name:18s} {parameters(layers()[name]):6,} parameters; read after training on {shown}")
    return found


def draw(counts: list[int], found: dict[str, list[float]]) -> Any:
    from matplotlib import colormaps

    figure = plots.need_matplotlib("the picture")(figsize=(11, 6.6), layout="constrained")
    figure.suptitle("Weight sharing: the matrix of a layer, each learned number in a colour of its own",
                    fontweight="bold", fontsize=13)  # fmt: skip
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    random = np.random.default_rng(4)
    for axes, (name, matrix) in zip(upper.subplots(1, 3), matrices().items(), strict=True):
        count = int(matrix.max())
        colours = (
            colormaps["tab10"](np.arange(count)) if count <= 10 else colormaps["gist_rainbow"](random.random(count))
        )
        table = np.concatenate([[[0.93, 0.93, 0.93, 1.0]], colours])
        axes.imshow(table[matrix.astype(int)], interpolation="nearest")
        axes.set_title(f"{name}: {count} numbers", fontsize=10)
        axes.set_xlabel(f"{matrix.shape[1]} inputs ({SHOWN}x{SHOWN})", fontsize=9)
        axes.set_ylabel(f"{matrix.shape[0]} outputs (4x4)", fontsize=9)
        axes.set_xticks(np.arange(-0.5, matrix.shape[1]), [])
        axes.set_yticks(np.arange(-0.5, matrix.shape[0]), [])
        axes.grid(color="white", linewidth=0.4)
        axes.tick_params(length=0)
    curves, bars = lower.subplots(1, 2, width_ratios=(1.3, 1))
    kinds = dict(zip(found, (plots.BLUE, plots.ORANGE, plots.GRAY), strict=True))
    for name, colour in kinds.items():
        curves.plot(counts, [100 * value for value in found[name]], color=colour, marker="o", label=name)
    curves.set_xscale("log")
    curves.set_xticks(counts, [f"{count:,}" for count in counts])
    curves.set_xticks([], minor=True)
    curves.set_xlabel("digits to learn from")
    curves.set_title("test digits read, %", fontsize=10)
    curves.legend(fontsize=9, frameon=False, loc="lower right")
    sizes = [parameters(layers()[name]) for name in kinds]
    drawn = bars.barh(range(len(kinds)), sizes, color=list(kinds.values()))
    bars.bar_label(drawn, fmt=lambda value: f"{value:,.0f}", fontsize=9, padding=3)
    bars.set_yticks(range(len(kinds)), list(kinds))
    bars.invert_yaxis()
    bars.set_xscale("log")
    bars.set_xlim(20, 20 * max(sizes))
    bars.set_title(f"numbers that the layer learns ({FILTERS} maps of {OUT}x{OUT} outputs)", fontsize=10)
    for axes in (curves, bars):
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(__doc__, "weight_sharing", argv)
    counts = [100, 800] if args.small else [50, 100, 200, 400, 800, 1437]
    found = accuracies(counts, epochs=12 if args.small else 20)
    save(draw(counts, found), args.out, "weight_sharing")
    return {"accuracies": found, "parameters": {name: parameters(layer) for name, layer in layers().items()}}


if __name__ == "__main__":
    main(sys.argv[1:])
