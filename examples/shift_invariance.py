"""Shift invariance: nets that learn digits in the top left corner of a large black image; what do they read elsewhere?

    fully connected             has weights of its own for every place: elsewhere they have learned nothing
    fully connected, shifted    the same net, trained with the digit at random places: needs far more training
    CNN, flatten + linear       shares its filters, but the last layer has weights of its own for every place
    CNN, global max-pool        the same filters; "is it anywhere?", the OR: the place is forgotten
    scanner                     a small fully-connected net that knows single digits and "nothing", slid over the image

Then the digits are moved by a few pixels only. Max-pooling forgives a little more than plain downsampling. The OR
forgives every shift by a multiple of the net's stride; in between it depends on what pooling forgives.

    python examples/shift_invariance.py --data FOLDER_OF_MNIST [--out FOLDER]      (without --data: the bundled digits)
"""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import Part, arguments, read_digits, save

import fastconv
from fastconv import (
    AdaptiveMaxPool2d,
    Conv2d,
    Downsample,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Softmax,
    analysis,
    datasets,
    plots,
)
from fastconv.files import replace_text

NOTHING = 10  # the scanner's eleventh class


@dataclass(frozen=True)
class Setting:
    """How much is trained and measured; `side` is a digit's, the background is three times as wide."""

    side: int
    images: int  # to train on
    epochs: int
    many: int  # epochs of the net that sees the digits at random places
    tested: int  # test images at every place
    step: int  # between places
    margin: int  # black pixels around the image, for the CNN that ends in the OR

    @property
    def canvas(self) -> int:
        return 3 * self.side

    @property
    def places(self) -> range:
        return range(0, self.canvas - self.side + 1, self.step)


MNIST = Setting(side=28, images=10_000, epochs=3, many=30, tested=250, step=14, margin=12)
DIGITS = Setting(side=8, images=1437, epochs=25, many=100, tested=360, step=4, margin=6)
SMALL = Setting(side=8, images=600, epochs=6, many=60, tested=60, step=8, margin=6)


# --- digits on a background ------------------------------------------------------------------------------------------


def place(x: np.ndarray, top: Any, left: Any, size: int) -> np.ndarray:
    return np.asarray(datasets.place(x, size, top=top, left=left))


def in_the_corner(setting: Setting) -> Callable[..., np.ndarray]:
    return lambda x, rng: place(x, 0, 0, setting.canvas)


def anywhere(setting: Setting) -> Callable[..., np.ndarray]:
    def augment(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        top, left = rng.integers(0, setting.canvas - setting.side + 1, (2, len(x)))
        return place(x, top, left, setting.canvas)

    return augment


# --- the nets --------------------------------------------------------------------------------------------------------


def fully_connected(setting: Setting) -> Sequential:
    return Sequential(Flatten(), Linear(setting.canvas**2, 128, rng=0), ReLU(), Linear(128, 10, rng=1))


def filters(setting: Setting, shrink: type[Layer] = MaxPool2d, padding: int = 0) -> list[Layer]:
    """Convolutions whose last outputs, of 32 filters, see a window as large as a digit."""
    if setting.side == 28:
        return [
            Conv2d(1, 8, 5, padding=padding, rng=0), ReLU(), shrink(2),
            Conv2d(8, 16, 5, rng=1), ReLU(), shrink(2),
            Conv2d(16, 32, 4, rng=2), ReLU(),
        ]  # fmt: skip
    return [Conv2d(1, 16, 3, padding=padding, rng=0), ReLU(), shrink(2), Conv2d(16, 32, 3, rng=1), ReLU()]


def cnn_flatten(setting: Setting, shrink: type[Layer] = MaxPool2d) -> Sequential:
    body = filters(setting, shrink)
    features = Sequential(*body)(np.zeros((1, 1, setting.canvas, setting.canvas), np.float32)).size
    return Sequential(*body, Flatten(), Linear(features, 10, rng=3))


def cnn_global_max(setting: Setting) -> Sequential:
    """The black margin lets windows with a part of a digit occur in training, as they will elsewhere."""
    body = filters(setting, padding=setting.margin)
    return Sequential(*body, Conv2d(32, 10, 1, rng=3), AdaptiveMaxPool2d(1), Flatten())


def scanner_batches(setting: Setting, X: np.ndarray, y: np.ndarray) -> Callable[[], Iterator[Part]]:
    """Images of a digit's size: a digit about in the middle, or "nothing", one that is far from it."""
    side, rng = setting.side, np.random.default_rng(0)
    near, far = side // 14, max(2, side // 6)

    def crop(x: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
        return place(x, side + down, side + right, 3 * side)[:, :, side : 2 * side, side : 2 * side]

    def epoch() -> Iterator[Part]:
        for some in np.array_split(rng.permutation(len(X)), len(X) // 25):
            in_place = rng.integers(-near, near + 1, (2, len(some)))
            away = rng.integers(-side, side + 1, (2, len(some)))
            axis = rng.integers(0, 2, len(some))
            away[axis, np.arange(len(some))] = rng.choice((-1, 1), len(some)) * rng.integers(far, side + 1, len(some))
            yield (
                np.concatenate([crop(X[some], *in_place), crop(X[some], *away)]),
                np.concatenate([y[some], np.full(len(some), NOTHING)]),
            )

    return epoch


def train(
    name: str, net: Sequential, X: Any, y: Any, epochs: int, augment: Any = None, *, batch: int = 25, steps: Any = None
) -> None:
    begun = time.perf_counter()
    optimizer = fastconv.optim.Adam(lr=fastconv.optim.Cosine(lr=4e-3, warmup=0.1))
    history = fastconv.Trainer(net, optimizer).fit(
        X, y, epochs=epochs, batch_size=batch, augment=augment, steps_per_epoch=steps, progress=False
    )
    seconds = time.perf_counter() - begun
    print(f"  {name}: {epochs} epochs, {seconds:.0f} s, {history[-1]['accuracy']:.1%} in training", flush=True)


def scanner(setting: Setting, X: np.ndarray, y: np.ndarray) -> Sequential:
    """Trained on single digits, then slid over the image and asked of every class: is it anywhere?"""
    net = Sequential(Flatten(), Linear(setting.side**2, 64, rng=0), ReLU(), Linear(64, 11, rng=1))
    train("scanner", net, scanner_batches(setting, X, y), None, 2 * setting.epochs, steps=len(X) // 25)
    slid = analysis.to_scanner(net, (1, setting.side, setting.side))
    return Sequential(slid, Softmax(dim=1), AdaptiveMaxPool2d(1), Flatten())


# --- what they read where --------------------------------------------------------------------------------------------


def accuracy(net: Sequential, test: Part, setting: Setting, top: int, left: int) -> float:
    x, y = test
    answers = net.predict(place(x, top, left, setting.canvas), batch_size=25)[:, :10]  # "nothing" is no answer
    return float((answers.argmax(axis=1) == y).mean())


def by_place(net: Sequential, test: Part, setting: Setting) -> np.ndarray:
    return np.array([[accuracy(net, test, setting, top, left) for left in setting.places] for top in setting.places])


def by_small_shift(net: Sequential, test: Part, setting: Setting) -> list[float]:
    """Mean of a shift to the right and one down, by 0, 1, … pixels."""
    shifts = range(setting.side // 3 + 3)
    return [(accuracy(net, test, setting, 0, s) + accuracy(net, test, setting, s, 0)) / 2 for s in shifts]


def table(places: dict[str, np.ndarray]) -> str:
    lines = [f"{'accuracy':42s} corner  elsewhere: mean, worst"]
    for name, values in places.items():
        elsewhere = values.ravel()[1:]
        lines.append(f"{name:42s} {values[0, 0]:6.1%}  {elsewhere.mean():15.1%} {elsewhere.min():6.1%}")
    return "\n".join(lines)


def write_csv(path: os.PathLike[str], places: dict[str, np.ndarray], setting: Setting) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["net", "top", "left", "accuracy"])
    for name, values in places.items():
        for (row, column), value in np.ndenumerate(values):
            writer.writerow([name, setting.places[row], setting.places[column], f"{value:.4f}"])
    replace_text(path, text.getvalue())


def draw(places: dict[str, np.ndarray], shifts: dict[str, list[float]], test: Part, setting: Setting) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(14, 7.4), layout="constrained")
    size = setting.canvas
    figure.suptitle(
        f"Trained on digits in the top left corner of {size}x{size} pixels: what is read where, % of "
        f"{setting.tested} test images", fontweight="bold", fontsize=13,
    )  # fmt: skip
    grid = figure.add_gridspec(2, 4)
    corner = figure.add_subplot(grid[0, 0])
    corner.imshow(place(test[0][:1], 0, 0, size)[0, 0], cmap="gray", vmin=0, vmax=1)
    for at in setting.places:
        for other in setting.places:
            corner.plot(other - 0.5, at - 0.5, marker="s", markersize=4, color=plots.ORANGE, clip_on=False, zorder=5)
    corner.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    corner.set_title("a training image; orange:\nwhere the digit's corner is put in the test", fontsize=10)
    corner.set_xticks([])
    corner.set_yticks([])
    cells = [grid[0, 1], grid[0, 2], grid[0, 3], grid[1, 0], grid[1, 1]]
    for cell, (name, values) in zip(cells, places.items(), strict=True):
        axes = figure.add_subplot(cell)
        axes.imshow(values, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=11,
                      color="white" if value > 0.6 else "black")  # fmt: skip
        axes.set_title(name.replace(": ", ":\n"), fontsize=10)
        axes.set_xticks(range(len(setting.places)), list(setting.places), fontsize=8)
        axes.set_yticks(range(len(setting.places)), list(setting.places), fontsize=8)
        axes.set_xlabel("pixels to the right", fontsize=8)
        axes.set_ylabel("pixels down", fontsize=8)
        axes.tick_params(length=0)
    axes = figure.add_subplot(grid[1, 2:])
    colours = (plots.GRAY, plots.ORANGE, plots.BLUE, plots.GREEN)
    for colour, (name, values) in zip(colours, shifts.items(), strict=True):
        axes.plot(range(len(values)), 100 * np.array(values), marker="o", markersize=4, color=colour, label=name)
    axes.set_title("small shifts from the corner, right and down: what pooling forgives", fontsize=10)
    axes.set_xlabel("pixels")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 102)
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


def main(argv: list[str] | None = None) -> dict[str, np.ndarray]:
    args = arguments(__doc__, "shift_invariance", argv, data=True)
    (X, y), held_out = read_digits(args.data)
    setting = MNIST if args.data is not None else SMALL if args.small else DIGITS
    X, y = X[: setting.images], y[: setting.images]
    test = held_out[0][: setting.tested], held_out[1][: setting.tested]

    corner, random_place = in_the_corner(setting), anywhere(setting)
    connected, shifted, flat = fully_connected(setting), fully_connected(setting), cnn_flatten(setting)
    unpooled, at_any_place = cnn_flatten(setting, Downsample), cnn_global_max(setting)
    print(f"training on {len(X):,} images")
    train("fully connected", connected, X, y, setting.epochs, corner)
    train("fully connected, shifted", shifted, X, y, setting.many, random_place, batch=100)
    train("CNN, flatten + linear", flat, X, y, setting.epochs, corner)
    train("CNN without pooling, flatten + linear", unpooled, X, y, setting.epochs, corner)
    train("CNN, global max-pool", at_any_place, X, y, setting.epochs, corner)
    nets = {
        "fully connected": connected,
        "fully connected: trained at random places": shifted,
        "CNN: flatten + linear at its end": flat,
        "CNN: global max-pool (OR) at its end": at_any_place,
        "scanner: a net for one digit, slid, OR": scanner(setting, X, y),
    }
    places = {name: by_place(net, test, setting) for name, net in nets.items()}
    small = {
        "fully connected": connected,
        "CNN, every second kept (no pooling), flatten + linear": unpooled,
        "CNN, max-pooling, flatten + linear": flat,
        "CNN, max-pooling, global max-pool": at_any_place,
    }
    shifts = {name: by_small_shift(net, test, setting) for name, net in small.items()}

    print(table(places))
    print("accuracy after a small shift by 0, 1, … pixels")
    for name, values in shifts.items():
        print(f"{name:54s} {' '.join(f'{value:4.0%}' for value in values)}")
    save(draw(places, shifts, test, setting), args.out, "shift_invariance")
    write_csv(args.out / "shift_invariance.csv", places, setting)
    print(f"table: {args.out / 'shift_invariance.csv'}")
    return places


if __name__ == "__main__":
    main(sys.argv[1:])
