"""What `Trainer.fit` costs beside its steps: batches that it shuffles and augments against ready ones.

    python bench/fit.py                     MNIST's and CIFAR-10's sizes: arrays, a folder, single files; nine minutes
    python bench/fit.py --threads 1 --only cifar10 --json fit.json

The nets, batch sizes and augmentations are those of `fastconv train`; the images are random. In every round each way
trains the same number of steps:

    ready      on a list of batches of the net's float type, nothing to be done to them
    augmented  `fit(X, y, augment=…)` on uint8 images: shuffled, gathered, augmented, cast beside the steps
    in line    the same with prefetch=0
    beside     the same as augmented, while a thread of the same process counts in pure Python

A figure is the median over the rounds of a way's time over that of `ready` (of `beside`: over `augmented`) in the same
round. `folder`: what `load_folder` makes of PNG files, float32 in memory; `files`: the same files, decoded whenever
their batch is made, which has no goal: decoding takes as long as it takes. Both need Pillow.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import Trainer, augment, datasets, get_num_threads, models, optim, set_num_threads
from fastconv.files import replace_text, replace_whole
from fastconv.training.recipes import RECIPES

SETS = {"mnist": ((1, 28, 28), 24), "cifar10": ((3, 32, 32), 6)}  # shape of an image, steps of a round
KINDS = ("arrays", "folder", "files")
WAYS = ("ready", "augmented", "in line", "beside")
GOALS = {"augmented": 1.05, "beside": 3.0}


class Files:
    """Images in the PNG files of a folder, decoded when they are asked for."""

    def __init__(self, folder: Path, channels: int) -> None:
        self.channels = channels
        self.paths = sorted(folder.rglob("*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([datasets.load_image(self.paths[i], channels=self.channels) for i in numbers])


def write(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A PNG file an image, in its class's folder."""
    from PIL import Image

    for label in np.unique(labels):
        (folder / str(label)).mkdir()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        picture = Image.fromarray(image.transpose(1, 2, 0).squeeze())
        replace_whole(folder / str(label) / f"{i}.png", functools.partial(picture.save, format="PNG"))


def ways(name: str, kind: str, folder: Path) -> dict[str, Callable[[], float]]:
    """Each way as a function that trains a round and returns its seconds."""
    shape, steps = SETS[name]
    recipe = RECIPES[name]
    rng = np.random.default_rng(0)
    images: Any = rng.integers(0, 256, (steps * recipe.batch_size, *shape), np.uint8)
    labels = np.sort(rng.integers(0, 10, len(images)))
    if kind != "arrays":
        write(folder, images, labels)
        images, labels = datasets.load_folder(folder)[0]
    net = models.build(recipe.net, shape, 10, rng=0)
    change = augment.from_config(recipe.augment)
    starts = range(0, len(images), recipe.batch_size)
    ready = [(images[i:][: recipe.batch_size].astype(np.float32), labels[i:][: recipe.batch_size]) for i in starts]
    source = Files(folder, shape[0]) if kind == "files" else images

    def train(*data: Any, **options: Any) -> float:
        trainer = Trainer(net, optim.SGD(1e-6, momentum=0.9))
        begun = time.perf_counter()
        trainer.fit(*data, epochs=1, batch_size=recipe.batch_size, progress=False, **options)
        return time.perf_counter() - begun

    def beside() -> float:
        with counting():
            return train(source, labels, augment=change)

    return {
        "ready": lambda: train(ready, prefetch=0),
        "augmented": lambda: train(source, labels, augment=change),
        "in line": lambda: train(source, labels, augment=change, prefetch=0),
        "beside": beside,
    }


@contextlib.contextmanager
def counting() -> Iterator[None]:
    """A thread that runs Python and nothing else."""
    stop = False

    def count() -> None:
        number = 0
        while not stop:
            number += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        stop = True
        thread.join()


def measure(name: str, kind: str, rounds: int) -> dict[str, Any]:
    """`compared`, of one set from one source."""
    with tempfile.TemporaryDirectory() as folder:
        return compared(name, kind, ways(name, kind, Path(folder)), rounds)


def compared(name: str, kind: str, calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Per way the milliseconds of a step, and its ratio to what it is held against."""
    calls["ready"]()
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(rounds):
        for way, call in calls.items():
            seconds[way].append(call())
    result: dict[str, Any] = {"set": name, "from": kind}
    for way in calls:
        other = seconds["augmented" if way == "beside" else "ready"]
        result[way] = {
            "milliseconds": statistics.median(seconds[way]) / SETS[name][1] * 1e3,
            "ratio": statistics.median(a / b for a, b in zip(seconds[way], other, strict=True)),
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="fit with augmentation against ready batches")
    parser.add_argument("--only", choices=SETS, help="one of the sets")
    parser.add_argument("--threads", type=int, default=get_num_threads(), metavar="N")
    parser.add_argument("--rounds", type=int, default=15, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    arguments = parser.parse_args()
    set_num_threads(arguments.threads)
    results = []
    print(f"threads: {arguments.threads}; milliseconds of a step, and over ready ones (beside: over augmented ones)")
    print(f"{'':16}" + "".join(f"{way:>20}" for way in WAYS))
    for name in [arguments.only] if arguments.only else SETS:
        for kind in KINDS if importlib.util.find_spec("PIL") else KINDS[:1]:
            result = measure(name, kind, arguments.rounds)
            results.append({"threads": arguments.threads, **result})
            cells = (f"{result[way]['milliseconds']:12.2f} {result[way]['ratio']:7.2f}" for way in WAYS)
            print(f"{name + ', ' + kind:16}" + "".join(cells), flush=True)
    print("goal            " + "".join(f"{GOALS.get(way, ''):>20}" for way in WAYS))
    if arguments.json is not None:
        replace_text(arguments.json, json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
