"""CIFAR-10 towards 94 % on two cores: a small net, trained for less than twenty minutes from the first byte read.

The net: a convolution of 2x2 whose filters whiten the pixels they see and are not trained; three groups of 3x3
convolution, max-pool, batch norm, GELU, 3x3 convolution, batch norm, GELU; a linear layer. After Keller Jordan, "94% on
CIFAR-10 in 3.29 seconds on a single GPU" (2024), whose rates, initial weights, flips and test-time views these are.

    images      mirrored in every second epoch, half of them in the even ones; moved by up to two pixels, what comes in
                is reflected
    weights     SGD with Nesterov's momentum, one cycle of the rate, the shifts of batch norm at 64 times it; every
                fifth step the weights go part of the way to their own moving average (Lookahead), at the end all of it
    answers     the mean over an image, its mirror image and two of each that are moved by a pixel, all of it timed;
                the accuracy without these is printed beside

The last file's last 5,000 of 50,000 training images are held out, no test file is read: 45,000 train. --choose leaves
out 5,000 of those as well and is judged by them: other settings than the paper's are chosen so.

python examples/cifar10_speedrun.py --data FOLDER [--seeds 0 1 2] [--epochs N] [--choose] [--torch] [--out FOLDER]

--torch trains the same two epochs in PyTorch and here, in turns, and prints the ratio.
"""

from __future__ import annotations

import copy
import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import arguments, save

import fastconv
from fastconv import GELU, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Sequential, datasets, plots
from fastconv import functional as F

HELD_OUT = 5000
WIDTHS = (64, 256, 256)
BATCH = 1024
EPOCHS = 12.0
RATE = 11.5 / 7.67  # for a loss that is a mean
MOMENTUM = 0.85
DECAY = 0.00133
SHIFTS = 64.0  # the rate of batch norm's shifts over the others'
SCALE = 1 / 9  # of the last layer's outputs
SMOOTHING = 0.2
PIXELS = 2  # that an image is moved by, at most
LOOK = 5  # steps from one look ahead to the next
JUDGED = 2  # epochs from one point of the curve to the next
GOAL = 0.94

OPTIONS: dict[str, dict[str, Any]] = {
    "--data": {"type": Path, "help": "folder of CIFAR-10's binary files (with --small: the bundled digits)"},
    "--seeds": {"type": int, "nargs": "+", "default": [0, 1, 2], "metavar": "N"},
    "--epochs": {"type": float, "default": EPOCHS, "metavar": "N"},
    "--choose": {"action": "store_true", "help": "train on 40,000, judge by the other 5,000 of the 45,000"},
    "--torch": {"action": "store_true", "help": "two epochs of PyTorch and of fastconv, in turns"},
}

Part = tuple[np.ndarray, np.ndarray]


# --- images ----------------------------------------------------------------------------------------------------------


def read(args: Any) -> tuple[Part, Part]:
    """uint8 images and classes, to train on and held out."""
    if args.small:
        (X, y), _ = datasets.load_digits()
        X = np.repeat(np.pad(np.kron(X, np.ones((1, 1, 3, 3))), ((0, 0), (0, 0), (4, 4), (4, 4))), 3, axis=1)
        X, held_out = (255 * X).astype(np.uint8), 200
    else:
        if args.data is None:
            sys.exit("cifar10_speedrun.py: --data says where CIFAR-10's binary files are, data_batch_1.bin to _5.bin")
        try:
            (X, y), _ = datasets.load_cifar10(args.data, raw=True)
        except (OSError, ValueError) as error:
            sys.exit(f"cifar10_speedrun.py: {error}")
        held_out = HELD_OUT
    X, y, held = X[:-held_out], y[:-held_out], (X[-held_out:], y[-held_out:])
    return ((X[:-held_out], y[:-held_out]), (X[-held_out:], y[-held_out:])) if args.choose else ((X, y), held)


class Pixels:
    """What makes of bytes the numbers a net sees: of mean 0 and spread 1 over the training images, a channel each."""

    def __init__(self, X: np.ndarray) -> None:
        self.mean = X.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
        self.std = X.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.std


def epochs(X: np.ndarray, y: np.ndarray, pixels: Pixels, batch: int, seed: int) -> Iterator[Iterator[Part]]:
    """Epoch after epoch its batches; a last one that is short is left out."""
    around = np.pad(X, ((0, 0), (0, 0), (PIXELS, PIXELS), (PIXELS, PIXELS)), "reflect")
    places = np.lib.stride_tricks.sliding_window_view(around, X.shape[2:], axis=(2, 3))  # (N, C, 5, 5, H, W)
    rng = np.random.default_rng(seed)
    mirrored = rng.random(len(X)) < 0.5

    def batches(mirrored: np.ndarray) -> Iterator[Part]:
        order = rng.permutation(len(X))
        for start in range(0, len(X) - batch + 1, batch):
            chosen = order[start : start + batch]
            top, left = rng.integers(0, 2 * PIXELS + 1, (2, batch))
            x = pixels(places[chosen, :, top, left])
            yield np.where(mirrored[chosen, None, None, None], x[..., ::-1], x), y[chosen]

    while True:
        yield batches(mirrored)
        mirrored = ~mirrored


def made_ahead(batches: Iterator[Part]) -> Iterator[Part]:
    """The same, each made while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


# --- the net ---------------------------------------------------------------------------------------------------------


def net_for(x: np.ndarray, widths: tuple[int, ...], seed: int) -> Sequential:
    """Its first filters whiten windows of the images x."""
    rng = np.random.default_rng(seed)
    filters = whitening(x)
    first = Conv2d(3, len(filters), 2, rng=rng)
    first.weight[...], first.bias[...] = filters, 0
    layers: list[Any] = [first.freeze(), GELU()]
    channels = len(filters)
    for width in widths:
        layers += [convolution(channels, width, rng), MaxPool2d(2), norm(width), GELU()]
        layers += [convolution(width, width, rng), norm(width), GELU()]
        channels = width
    last = Linear(channels, 10, bias=False, rng=rng)
    last.weight[...] *= SCALE
    return Sequential(*layers, MaxPool2d(3), Flatten(), last)


def whitening(x: np.ndarray, size: int = 2, least: float = 5e-4) -> np.ndarray:
    """Filters (2 * 3 * size², 3, size, size) whose outputs over windows of x have spread 1 and go alone: the windows'
    principal axes over their spreads, and the same negative."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    flat = windows.reshape(-1, x.shape[1] * size * size).astype(np.float64)
    spread, axes = np.linalg.eigh(flat.T @ flat / len(flat))
    filters = (axes / np.sqrt(spread + least)).T.reshape(-1, x.shape[1], size, size)
    return np.concatenate([filters, -filters]).astype(np.float32)


def convolution(channels: int, filters: int, rng: np.random.Generator) -> Conv2d:
    """3x3, whose first filters hand their channel on."""
    layer = Conv2d(channels, filters, 3, padding=1, bias=False, rng=rng)
    layer.weight[...] = rng.uniform(-1, 1, layer.weight.shape) / np.sqrt(9 * channels)
    for i in range(min(channels, filters)):
        layer.weight[i] = 0
        layer.weight[i, i, 1, 1] = 1
    return layer


def norm(width: int) -> BatchNorm2d:
    layer = BatchNorm2d(width, momentum=0.4, eps=1e-5)
    layer.freeze("weight")
    return layer


def optimizer_for(steps: int) -> fastconv.optim.SGD:
    def cycle(peak: float) -> fastconv.optim.OneCycle:
        return fastconv.optim.OneCycle(peak, warmup=0.23, div=5, final_div=0.2 / 0.07, total=steps)

    shifts = {"ndim": 1, "lr": cycle(SHIFTS * RATE), "weight_decay": DECAY / SHIFTS}
    last = {"match": "*.weight", "ndim": 2, "lr": cycle(RATE * SCALE**2), "weight_decay": DECAY / SCALE**2}
    return fastconv.optim.SGD(cycle(RATE), momentum=MOMENTUM, nesterov=True, weight_decay=DECAY, groups=[shifts, last])


class Lookahead:
    """A moving average of everything in a net, that the net goes over to (Zhang et al., 2019)."""

    def __init__(self, net: Sequential) -> None:
        self.net = net
        self.average = {name: array.copy() for name, array in net.state_dict().items() if array.dtype.kind == "f"}

    def look(self, decay: float) -> None:
        state = self.net.state_dict()
        for name, average in self.average.items():
            average *= decay
            average += (1 - decay) * state[name]
            state[name] = average
        self.net.load_state_dict(state)


# --- training and answers --------------------------------------------------------------------------------------------


class Run(NamedTuple):
    seed: int
    seconds: float  # from the first byte read to the last answer
    accuracy: float
    plain: float  # without test-time views
    curve: list[tuple[float, float]]  # seconds, and the accuracy then, without these views
    net: Sequential


def answers(net: Sequential, x: np.ndarray, views: bool = True) -> np.ndarray:
    """Scores of images (N, C, H, W), of all their views."""
    net = net.for_inference()

    def both(x: np.ndarray) -> np.ndarray:
        return net.predict(x) + net.predict(np.ascontiguousarray(x[..., ::-1]))

    if not views:
        return net.predict(x)
    around = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    return 0.5 * both(x) + 0.25 * both(around[:, :, :-2, :-2]) + 0.25 * both(around[:, :, 2:, 2:])


def run(args: Any, seed: int, widths: tuple[int, ...] = WIDTHS, batch: int = BATCH) -> Run:
    begun = time.perf_counter()
    (X, y), (X_held, y_held) = read(args)
    pixels = Pixels(X)
    held = pixels(X_held)
    net = net_for(pixels(X[:5000]), widths, seed)
    steps_per_epoch = len(X) // batch
    steps = round(args.epochs * steps_per_epoch)
    optimizer, lookahead = optimizer_for(steps), Lookahead(net)
    curve: list[tuple[float, float]] = []

    def accuracy(views: bool) -> float:
        return float((answers(net, held, views).argmax(axis=1) == y_held).mean())

    for number, epoch in enumerate(epochs(X, y, pixels, batch, seed), 1):
        for x, classes in made_ahead(epoch):
            step_of(net, optimizer, x, classes)
            done = optimizer.steps
            if done == steps:
                lookahead.look(1.0)
                break
            if done % LOOK == 0:
                lookahead.look(0.95**LOOK * (done / steps) ** 3)
        if number % JUDGED and optimizer.steps < steps:
            continue
        curve.append((time.perf_counter() - begun, accuracy(False)))
        print(f"  seed {seed}, {optimizer.steps} of {steps} steps: {100 * curve[-1][1]:.2f} %, {curve[-1][0]:.0f} s")
        if optimizer.steps == steps:
            break
    found = accuracy(True)
    return Run(seed, time.perf_counter() - begun, found, curve[-1][1], curve, net)


LOSS = functools.partial(F.cross_entropy, label_smoothing=SMOOTHING)


def step_of(net: Sequential, optimizer: fastconv.optim.SGD, x: np.ndarray, classes: np.ndarray) -> None:
    _, gradients = fastconv.value_and_grad(net, LOSS, x, classes)
    optimizer.step(net.parameters(), gradients)


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def ratio_to_torch(args: Any, turns: int = 2) -> float:
    """PyTorch's time over fastconv's, for `turns` epochs of each, in turns."""
    try:
        import torch
    except ImportError:
        sys.exit('cifar10_speedrun.py: --torch needs PyTorch: pip install "fastconv[peers]"')
    sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))
    from peers import InTorch

    (X, y), _ = read(args)
    pixels = Pixels(X)
    batch = 100 if args.small else BATCH
    net = net_for(pixels(X[:5000]), (8, 16, 16) if args.small else WIDTHS, 0)
    steps = turns * (len(X) // batch)
    optimizer = optimizer_for(steps)
    torch.set_num_threads(fastconv.get_num_threads())
    twin = InTorch().copied(copy.deepcopy(net)).train().to(memory_format=torch.channels_last)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(name in net.parameters())
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    theirs = torch.optim.SGD(
        [
            {"params": [p for p in trained if p.ndim == 1], "lr": SHIFTS * RATE, "weight_decay": DECAY / SHIFTS},
            {"params": [p for p in trained if p.ndim == 2], "lr": RATE * SCALE**2, "weight_decay": DECAY / SCALE**2},
            {"params": [p for p in trained if p.ndim == 4]},
        ],
        RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY, fused=True,
    )  # fmt: skip

    def torch_step(x: np.ndarray, classes: np.ndarray) -> None:
        theirs.zero_grad()
        images = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        scores = twin(images)
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(classes), label_smoothing=SMOOTHING).backward()
        theirs.step()

    def seconds(step: Callable[[np.ndarray, np.ndarray], None], epoch: Iterator[Part]) -> float:
        begun = time.perf_counter()
        for x, classes in epoch:
            step(x, classes)
        return time.perf_counter() - begun

    ours, others = (epochs(X, y, pixels, batch, 0) for _ in range(2))
    spent = np.zeros(2)
    for turn in range(turns):
        found = seconds(lambda x, y: step_of(net, optimizer, x, y), next(ours)), seconds(torch_step, next(others))
        print(f"  epoch {turn + 1}: fastconv {found[0]:.0f} s, PyTorch {found[1]:.0f} s")
        spent += found
    return float(spent[1] / spent[0])


# --- the picture -----------------------------------------------------------------------------------------------------


def draw(runs: list[Run]) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for colour, each in zip(itertools.cycle((plots.BLUE, *plots.OTHERS)), runs, strict=False):
        minutes, accuracies = np.array([(seconds / 60, 100 * found) for seconds, found in each.curve]).T
        axes.plot(minutes, accuracies, color=colour, marker=".", label=f"seed {each.seed}")
        axes.plot(each.seconds / 60, 100 * each.accuracy, color=colour, marker="*", markersize=11, linestyle="")
    axes.axhline(100 * GOAL, color=plots.GRAY, linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="minutes from the first byte read", ylabel="held-out images named right, %",
        title="CIFAR-10; stars: the answers of six views",
    )  # fmt: skip
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = arguments(__doc__, "cifar10_speedrun", argv, more=OPTIONS)
    if args.torch:
        ratio = ratio_to_torch(args)
        print(f"PyTorch's time over fastconv's: {ratio:.2f}")
        return {"ratio": ratio}
    if args.small:
        args.seeds, args.epochs = args.seeds[:1], min(args.epochs, 3.0)
    if not 0.1 <= args.epochs <= 1000 or min(args.seeds) < 0:
        sys.exit("cifar10_speedrun.py: --epochs must be from 0.1 to 1000, --seeds 0 or more")
    args.out.mkdir(parents=True, exist_ok=True)  # what cannot be written is better known now
    runs = []
    for seed in args.seeds:
        each = run(args, seed, *(((8, 16, 16), 100) if args.small else ()))
        runs.append(each)
        fastconv.save(each.net, args.out / f"seed_{seed}.safetensors")
        print(
            f"seed {seed}: {100 * each.accuracy:.2f} % ({100 * each.plain:.2f} % without views) "
            f"after {each.seconds / 60:.1f} minutes"
        )
    mean, plain = (100 * float(np.mean([getattr(each, name) for each in runs])) for name in ("accuracy", "plain"))
    longest = max(each.seconds for each in runs)
    print(f"mean: {mean:.2f} % ({plain:.2f} % without views), at most {longest / 60:.1f} minutes a seed")
    save(draw(runs), args.out, "cifar10_speedrun")
    return {"accuracy": mean / 100, "plain": plain / 100, "seconds": longest}


if __name__ == "__main__":
    main(sys.argv[1:])
