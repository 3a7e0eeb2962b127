"""Scanning: is there a digit in the picture, which, and where? Or nothing: ∅.

A small convolutional net has one logistic neuron for each digit, and none for "nothing": ∅ is the answer where no
neuron says True. A net that has seen digits alone answers a digit to everything, to a blank picture too. What it is
shown beside the digits teaches it ∅, and each kind of negatives is needed for what it stands for:

    parts      digits that are a third of a window or more out of place, and gaps between two of them: without these
               the right window's neighbours answer as loudly, and the box is anywhere
    blank      windows of one grey level
    noise      uniform, normal and clipped, salt and pepper: sparse grains on black look like strokes to a net that has
               never seen them
    shuffled   a digit's own pixels in another order, single or in blocks, in and out of place: the same ink, the same
               grey levels, the same bits of strokes, no digit

Not quite half of what is trained on are digits, up to two pixels out of place (the windows of a scanner with stride 4
miss by no more), a quarter parts, the rest blank, noise and shuffled. `analysis.scan` then slides the net over pictures
that it has never seen: a digit counts as found where the best box has the right class and shares at least half of the
union with the digit's own window; a false alarm is any score above the threshold in a picture of nothing.

    python examples/scanning.py --data FOLDER_OF_MNIST [--out FOLDER]      (without --data: the bundled 8x8 digits)
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import Part, arguments, read_digits, save

import fastconv
from fastconv import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential, Sigmoid, analysis, datasets, plots
from fastconv import functional as F

Noise = Callable[
    [int, int, np.random.Generator, np.ndarray], np.ndarray
]  # (n, size, rng, digits) -> (n, 1, size, size)
THRESHOLDS = np.concatenate([np.linspace(0.02, 0.98, 49), 1 - np.logspace(-2, -6, 30)])


@dataclass(frozen=True)
class Setting:
    """A digit has `side` x `side` pixels; pictures are three times as wide."""

    side: int
    epochs: int
    untaught: int  # epochs of the net that sees digits and parts alone
    batch: int
    near: int  # pixels that a digit in a window may be out of place
    far: int  # from here on it is a part
    tested: int  # pictures with one digit
    empty: int  # blank pictures, and as many of noise


MNIST = Setting(side=28, epochs=6, untaught=2, batch=64, near=2, far=9, tested=1000, empty=500)
DIGITS = Setting(side=8, epochs=80, untaught=40, batch=16, near=1, far=4, tested=360, empty=500)
SMALL = Setting(side=8, epochs=24, untaught=12, batch=16, near=1, far=4, tested=60, empty=40)


# --- pictures of nothing ---------------------------------------------------------------------------------------------


def grey(n: int, size: int, rng: np.random.Generator, digits: np.ndarray) -> np.ndarray:
    """Blank: one grey level each."""
    return np.broadcast_to(rng.random((n, 1, 1, 1), np.float32), (n, 1, size, size))


def uniform(n: int, size: int, rng: np.random.Generator, digits: np.ndarray) -> np.ndarray:
    """Noise between two levels: 0 and 1 in every second picture."""
    low, high = np.sort(rng.random((2, n, 1, 1, 1), np.float32), axis=0)
    whole = rng.random((n, 1, 1, 1)) < 0.5
    low, high = np.where(whole, 0, low), np.where(whole, 1, high)
    return low + (high - low) * rng.random((n, 1, size, size), np.float32)


def normal(n: int, size: int, rng: np.random.Generator, digits: np.ndarray) -> np.ndarray:
    """Normal noise about any grey level, clipped to [0, 1]."""
    level, spread = rng.uniform(-0.5, 1.5, (n, 1, 1, 1)), rng.uniform(0.05, 1, (n, 1, 1, 1))
    return np.clip(level + spread * rng.standard_normal((n, 1, size, size), np.float32), 0, 1)


def salt_and_pepper(n: int, size: int, rng: np.random.Generator, digits: np.ndarray) -> np.ndarray:
    """1 to 50 % of the pixels white or black, on black, on white or on grey."""
    share, salt = rng.uniform(0.01, 0.5, (n, 1, 1, 1)), rng.choice((0.5, 0.5, 1.0), (n, 1, 1, 1))
    ground = np.where(rng.random((n, 1, 1, 1)) < 0.6, rng.integers(0, 2, (n, 1, 1, 1)), rng.random((n, 1, 1, 1)))
    grains = rng.random((n, 1, size, size), np.float32) < salt
    return np.where(rng.random((n, 1, size, size), np.float32) < share, grains, ground)


def shuffled(n: int, size: int, rng: np.random.Generator, digits: np.ndarray, block: int = 1) -> np.ndarray:
    """A digit's pixels in another order, or its blocks of block x block pixels; a larger picture is full of such
    digits, or has one, anywhere."""
    side = digits.shape[2]
    each, cut = -(-size // side), side // block
    tiles = digits[rng.integers(0, len(digits), (n, each, each)), 0]  # (n, each, each, side, side)
    blocks = tiles.reshape(-1, cut, block, cut, block).swapaxes(2, 3).reshape(-1, cut * cut, block * block)
    mixed = rng.permuted(np.arange(cut * cut)[None].repeat(len(blocks), 0), axis=1)
    blocks = np.take_along_axis(blocks, mixed[..., None], axis=1)
    tiles = blocks.reshape(-1, cut, cut, block, block).swapaxes(2, 3).reshape(n, each, each, side, side)
    full = tiles.transpose(0, 1, 3, 2, 4).reshape(n, 1, each * side, each * side)[..., :size, :size]
    if size == side:
        return full
    alone = datasets.place(tiles[:, 0, 0][:, None], size, rng=rng)
    return np.where(rng.random((n, 1, 1, 1)) < 0.5, full, alone)


NOISE: dict[str, Noise] = {
    "uniform": uniform, "clipped normal": normal, "salt and pepper": salt_and_pepper, "shuffled digits": shuffled,
}  # fmt: skip


# --- what is trained on ----------------------------------------------------------------------------------------------


def out_of_place(digits: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What a window sees of digits that lie that many pixels further down and to the right."""
    side = digits.shape[2]
    wide = datasets.place(digits, 3 * side, top=side + down, left=side + right)
    return wide[:, :, side : 2 * side, side : 2 * side]


def somewhere(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a window sees of it, if not all."""
    side = x.shape[2]
    return out_of_place(x, *rng.integers(2 - side, side - 1, (2, len(x))))


def crop(pictures: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A window of each picture, anywhere in it."""
    top, left = rng.integers(0, pictures.shape[2] - side + 1, (2, len(pictures)))
    windows = np.lib.stride_tricks.sliding_window_view(pictures[:, 0], (side, side), axis=(1, 2))
    return windows[np.arange(len(pictures)), top, left][:, None]


def parts(n: int, rng: np.random.Generator, digits: np.ndarray, far: int) -> np.ndarray:
    """Digits that are far out of place; every third with another beside it."""
    side = digits.shape[2]

    def some(least: int) -> np.ndarray:
        shift = rng.integers(-side, side + 1, (2, n))
        axis = rng.integers(0, 2, n)
        shift[axis, np.arange(n)] = rng.choice((-1, 1), n) * rng.integers(least, side + 1, n)
        return out_of_place(digits[rng.integers(0, len(digits), n)], *shift)

    return np.maximum(some(far), some(side // 2) * (rng.random((n, 1, 1, 1)) < 1 / 3))


def batches(setting: Setting, X: np.ndarray, y: np.ndarray, taught: bool) -> Callable[[int], Iterator[Part]]:
    """Half digits, about in place; a quarter parts; if it is to be taught, a quarter blank, noise, shuffled digits."""
    side, near = setting.side, setting.near
    blocks = [block for block in (1, 2, 4, 7) if side % block == 0 and block <= side // 4]

    def epoch(number: int) -> Iterator[Part]:
        rng = np.random.default_rng((1, number))
        for some in np.array_split(rng.permutation(len(X)), len(X) // setting.batch):
            n = len(some)
            windows = [out_of_place(X[some], *rng.integers(-near, near + 1, (2, n)))]
            windows += [parts(n // 2, rng, X, setting.far)]
            if taught:
                k = max(1, n // 32)
                windows += [kind(k, side, rng, X) for kind in (grey, uniform, normal)]
                windows += [salt_and_pepper(4 * k, side, rng, X)]
                windows += [somewhere(salt_and_pepper(k, side, rng, X), rng)]
                for block in blocks:
                    windows.append(crop(shuffled(12 * k // len(blocks), 2 * side, rng, X, block), side, rng))
            x = np.concatenate(windows).astype(np.float32)
            targets = np.zeros((len(x), 10), np.float32)
            targets[np.arange(n), y[some]] = 1
            yield x, targets

    return epoch


def build(side: int) -> Sequential:
    """A net for one window; without padding, so that it slides."""
    if side == 28:
        return Sequential(
            Conv2d(1, 16, 5, rng=0), ReLU(), MaxPool2d(2),
            Conv2d(16, 32, 5, rng=1), ReLU(), MaxPool2d(2),
            Flatten(), Linear(512, 64, rng=2), ReLU(), Linear(64, 10, rng=3),
        )  # fmt: skip
    return Sequential(
        Conv2d(1, 24, 3, rng=0), ReLU(), Conv2d(24, 32, 3, rng=1), ReLU(), MaxPool2d(2),
        Flatten(), Linear(128, 64, rng=2), ReLU(), Linear(64, 10, rng=3),
    )  # fmt: skip


def train(setting: Setting, X: np.ndarray, y: np.ndarray, taught: bool = True) -> Sequential:
    """A neuron for each digit: ten questions answered yes or no, and ∅ is ten times no."""
    net, begun, used = build(setting.side), time.perf_counter(), time.process_time()
    optimizer = fastconv.optim.Adam(lr=fastconv.optim.Cosine(lr=3e-3, warmup=0.05))
    loss = functools.partial(F.bce_with_logits, pos_weight=0.5)  # a false alarm is worse than a digit that is not found
    trainer = fastconv.Trainer(net, optimizer, loss=loss)
    epochs = setting.epochs if taught else setting.untaught
    steps = len(X) // setting.batch
    trainer.fit(batches(setting, X, y, taught), epochs=epochs, steps_per_epoch=steps, progress=False)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    what = "digits, parts, blank, noise and shuffled digits" if taught else "digits and parts alone"
    print(f"trained on {what}: {seconds:.0f} s, {cpu:.0f} s of processor time", flush=True)
    return Sequential(*net, Sigmoid()).eval()


# --- what is found ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Scores of pictures: of nothing the largest anywhere; of one digit the right class's, if its box is right."""

    alarms: dict[str, np.ndarray]  # by kind of picture
    hits: np.ndarray  # 0 where another class scored more or the box lies elsewhere
    three: tuple[int, int, int]  # in pictures with three digits: digits, found, boxes too many

    def at(self, threshold: float) -> tuple[float, float]:
        """The shares of pictures of nothing in which something is found, and of digits that are."""
        empty = np.concatenate(list(self.alarms.values()))
        return float((empty > threshold).mean()), float((self.hits > threshold).mean())

    def __str__(self) -> str:
        alarms, hits = self.at(0.5)
        kinds = ", ".join(f"{name} {int((them > 0.5).sum())} of {len(them)}" for name, them in self.alarms.items())
        digits, found, extra = self.three
        return (
            f"threshold 0.5: found {hits:.1%} of {len(self.hits):,} digits; false alarms {alarms:.1%} ({kinds}); "
            f"of three digits in a picture {found / digits:.1%}, {extra} boxes too many beside {found:,}"
        )


def overlap(box: Any, top: int, left: int, side: int) -> float:
    """What a box and a digit's own window share, of their union."""
    shared = max(0, side - abs(box.top - top)) * max(0, side - abs(box.left - left))
    return shared / (2 * side * side - shared)


def measure(net: Sequential, setting: Setting, test: Part, rng: np.random.Generator) -> Measured:
    """Of pictures whose kinds it may have seen, made from other digits and with other seeds."""
    side, size = setting.side, 3 * setting.side
    X, y = test
    scanner = analysis.to_scanner(net, (1, side, side))
    levels = np.linspace(0, 1, setting.empty, dtype=np.float32)
    pictures = {"blank": np.broadcast_to(levels[:, None, None, None], (setting.empty, 1, size, size))}
    for name, noise in NOISE.items():
        pictures[name] = np.concatenate([noise(1, size, rng, X) for _ in range(setting.empty // len(NOISE))])
    alarms = {name: scanner.predict(them, batch_size=25).max(axis=(1, 2, 3)) for name, them in pictures.items()}
    X, y = X[: setting.tested], y[: setting.tested]
    hits = np.zeros(len(X))
    wide, places = datasets.place(X, size, rng=rng, return_places=True)
    for n, (picture, place) in enumerate(zip(wide, places, strict=True)):
        best = analysis.scan(scanner, picture, threshold=0).boxes[0]
        if best.label == y[n] and overlap(best, *place, side) >= 0.5:
            hits[n] = best.score
    found = extra = 0
    trios = len(X) // 3
    for n in range(trios):
        picture, corners = three(X[3 * n : 3 * n + 3], size, rng)
        boxes = analysis.scan(scanner, picture).boxes
        right = [
            any(box.label == label and overlap(box, *corner, side) >= 0.5 for box in boxes)
            for label, corner in zip(y[3 * n : 3 * n + 3], corners, strict=True)
        ]
        found += sum(right)
        extra += len(boxes) - sum(right)
    return Measured(alarms, hits, (3 * trios, found, extra))


def three(digits: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture with three digits that do not touch, and where they are."""
    side = digits.shape[2]
    while True:
        corners = rng.integers(0, size - side + 1, (3, 2))
        apart = np.abs(corners[:, None] - corners).max(axis=2) >= side
        if apart[np.triu_indices(3, 1)].all():
            placed = datasets.place(digits, size, top=corners[:, 0], left=corners[:, 1])
            return placed.max(axis=0), corners


# --- the picture -----------------------------------------------------------------------------------------------------


def draw(net: Sequential, naive: Measured, taught: Measured, setting: Setting, test: Part) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(11, 7.6), layout="constrained")
    figure.suptitle("Scanning: a digit, several, or nothing (∅)", fontweight="bold", fontsize=13)
    shown, curves = figure.subfigures(2, 1, height_ratios=(1, 1.6))
    side, size, rng = setting.side, 3 * setting.side, np.random.default_rng(11)
    pictures = {
        "one digit": datasets.place(test[0][4:5], size, rng=rng)[0],
        "three digits": three(test[0][[0, 1, 2]], size, rng)[0],
        "blank": np.full((1, size, size), 0.5, np.float32),
        "salt and pepper": salt_and_pepper(1, size, np.random.default_rng(5), test[0])[0],
        "shuffled digits": shuffled(1, size, np.random.default_rng(2), test[0])[0],
    }
    for axes, (name, picture) in zip(shown.subplots(1, len(pictures)), pictures.items(), strict=True):
        seen = analysis.scan(net, picture, image_shape=(1, side, side))
        plots.draw_boxes(axes, seen.image, [(str(box.label), *box[2:]) for box in seen.boxes])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(
            f"found: {', '.join(str(box.label) for box in seen.boxes) or '∅'}", fontsize=12, fontweight="bold"
        )
    axes, by_kind = curves.subplots(1, 2, width_ratios=(1.25, 1))
    for found, colour, label in ((naive, plots.GRAY, "trained on digits and parts alone"),
                                 (taught, plots.BLUE, "trained on blank, noise and shuffled digits, too")):  # fmt: skip
        alarms, hits = (100 * value for value in found.at(0.5))
        label = f"{label}\n(threshold 0.5: {alarms:.1f} % false alarms, {hits:.1f} % found)"
        axes.plot(*(100 * np.array([found.at(t) for t in THRESHOLDS])).T, color=colour, linewidth=2, label=label)
        axes.plot(alarms, hits, marker="o", markersize=8, color=colour, clip_on=False, zorder=5)
    axes.set_xlabel(f"false alarms, % of {2 * setting.empty:,} pictures of nothing")
    axes.set_ylabel(f"found, % of {len(taught.hits):,} digits (right class, right place)")
    axes.set_xlim(-2, 102)
    axes.set_ylim(0, 102)
    axes.legend(fontsize=9, frameon=False, loc="lower right", labelspacing=0.9)
    names = list(taught.alarms)
    for offset, found, colour in ((-0.2, naive, plots.GRAY), (0.2, taught, plots.BLUE)):
        values = [100 * (found.alarms[name] > 0.5).mean() for name in names]
        bars = by_kind.barh(np.arange(len(names)) + offset, values, height=0.36, color=colour)
        by_kind.bar_label(bars, fmt=lambda value: f"{value:.0f} %", fontsize=9, padding=2)
    by_kind.set_yticks(range(len(names)), names)
    by_kind.invert_yaxis()
    by_kind.set_xlim(0, 115)
    by_kind.set_xlabel("false alarms at threshold 0.5, %")
    for each in (axes, by_kind):
        each.grid(color="#e3e3e3", linewidth=0.8, axis="both" if each is axes else "x")
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(__doc__, "scanning", argv, data=True)
    (X, y), test = read_digits(args.data)
    setting = MNIST if args.data is not None else SMALL if args.small else DIGITS
    net, untaught = train(setting, X, y), train(setting, X, y, taught=False)
    found = measure(net, setting, test, np.random.default_rng(2026))
    naive = measure(untaught, setting, test, np.random.default_rng(2026))
    print(f"taught what nothing is, {found}")
    print(f"not taught, {naive}")
    print(analysis.scan(net, np.full((3 * setting.side,) * 2, 0.5), image_shape=(1, setting.side, setting.side)))
    save(draw(net, naive, found, setting, test), args.out, "scanning")
    return {"taught": found.at(0.5), "untaught": naive.at(0.5), "three": found.three}


if __name__ == "__main__":
    main(sys.argv[1:])
