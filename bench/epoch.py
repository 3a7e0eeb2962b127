"""An epoch of `fastconv train`'s default run beside PyTorch's: the same net, weights, images, changes and optimiser.

    python bench/epoch.py mnist --data DIR              or digits, cifar10
    python bench/epoch.py digits --threads 1 --json epoch.json

A process a side trains one epoch: fastconv's `Trainer.fit(augment=…)`, and PyTorch on contiguous tensors and on
channels_last ones, with its fused optimiser, each with the batches made in line, in a thread beside the steps, or in a
worker process of its DataLoader, two ahead. Who shuffles and who changes the images is the same code on all sides, and
draws the same.

The sides take turns of some steps, so that whatever else the machine does hits all of them. A turn's clock runs until
its last step is done; then the side stops itself, its threads and its workers with it (SIGSTOP to its process group),
until it is its turn again: nothing is prepared while others' clocks run. The learning rate is constant, SGD as in the
recipe. The mean losses, printed beside the times, tell that all trained the same: they drift apart by rounding only.

Needs PyTorch: pip install 'fastconv[peers]'.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import Trainer, augment, functional, get_num_threads, models, optim, set_num_threads
from fastconv.cli.data import SETS, load
from fastconv.files import replace_text
from fastconv.training.ahead import ahead
from fastconv.training.data import STEP, batches, generator
from fastconv.training.recipes import RECIPES

PAUSE = 0.02  # seconds between turns
AHEAD = 2  # batches
LR = 0.02
DRIFT = 0.05  # relative, of the mean losses
WAYS = ("in line", "thread", "worker")
TORCH = {f"torch{layout} {way}": (layout, way) for layout in ("", " channels_last") for way in WAYS}
SIDES = ("fastconv", *TORCH)

Batch = tuple[np.ndarray, np.ndarray]


class Epoch:
    """The first epoch of a recipe."""

    def __init__(self, name: str, folder: Path | None, steps: int | None) -> None:
        self.recipe = RECIPES[name]
        data = load(name, folder, None)
        x, y = data.train
        images = None if steps is None else steps * self.recipe.batch_size
        self.train = x[:images], y[:images]
        self.net = models.build(self.recipe.net, data.image_shape, len(data.classes), rng=0)
        self.source = batches("epoch", *self.train, self.recipe.batch_size, seed=0)
        self.change = augment.from_config(self.recipe.augment) if self.recipe.augment else None

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """What the Trainer's steps are made on, from a step on."""
        for step, (x, y) in enumerate(self.source.epoch(0, start), start):
            yield (x if self.change is None else self.change(x, generator(0, STEP, step))), y


class Turns:
    """The clock of a worker: it says how long each turn took, and stops until the next."""

    def __init__(self, steps: int, total: int | None) -> None:
        self.steps, self.total, self.done = steps, total, 0

    def begin(self) -> None:
        """Wait for the first turn."""
        self.stop(None)

    def step(self) -> None:
        """A step is done."""
        self.done += 1
        if self.done == self.total:
            say(time.perf_counter() - self.begun)
        elif self.done % self.steps == 0:
            self.stop(time.perf_counter() - self.begun)

    def stop(self, answer: float | None) -> None:
        say(answer)
        os.killpg(0, signal.SIGSTOP)
        self.begun = time.perf_counter()


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def train_fastconv(epoch: Epoch, turns: Turns) -> float:
    """The mean loss of an epoch of fastconv's Trainer."""
    recipe = epoch.recipe

    class Timed(Trainer):
        def _step(self, *arguments: Any) -> Any:
            answer = super()._step(*arguments)
            turns.step()
            return answer

    loss = functools.partial(functional.cross_entropy, label_smoothing=recipe.label_smoothing)
    trainer = Timed(epoch.net, optim.from_config({**sgd(recipe.optimizer), "lr": LR}), loss)
    turns.begin()
    history = trainer.fit(*epoch.train, epochs=1, batch_size=recipe.batch_size, augment=epoch.change, progress=False)
    return history["loss"][0]


def sgd(options: dict[str, Any]) -> dict[str, Any]:
    """The recipe's SGD, as far as PyTorch's has the same options by the same names."""
    names = ("optimizer", "momentum", "nesterov", "weight_decay")
    return {name: options[name] for name in names}


def train_torch(epoch: Epoch, turns: Turns, layout: str, way: str) -> float:
    """The mean loss of an epoch in PyTorch."""
    import torch

    torch.set_num_threads(get_num_threads())
    memory = torch.channels_last if layout else torch.contiguous_format
    net = twin(epoch.net.config())
    net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in epoch.net.state_dict().items()})
    net = net.to(memory_format=memory)
    options = {name: value for name, value in sgd(epoch.recipe.optimizer).items() if name != "optimizer"}
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, fused=True, **options)
    total, samples = 0.0, 0
    turns.begin()
    for x, y in tensors(epoch, way):
        images = x.contiguous(memory_format=memory)
        loss = torch.nn.functional.cross_entropy(net(images), y, label_smoothing=epoch.recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
        samples += len(y)
        turns.step()
    return total / samples


def tensors(epoch: Epoch, way: str) -> Iterator[Any]:
    """The batches as PyTorch's tensors, made in one of the WAYS."""
    import torch

    def make(done: int = 0) -> Iterator[Any]:
        for x, y in epoch.batches(done):
            yield torch.from_numpy(x), torch.from_numpy(y)

    class Batches(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            return make()

    if way == "worker":
        return iter(torch.utils.data.DataLoader(Batches(), batch_size=None, num_workers=1, prefetch_factor=AHEAD))
    return ahead(make, AHEAD if way == "thread" else 0)  # type: ignore[arg-type]


def twin(config: dict[str, Any]) -> Any:
    """The torch.nn module of a fastconv net's configuration: names, arguments and state_dict keys are the same."""
    import torch

    arguments = {name: value for name, value in config.items() if name not in ("layer", "layers")}
    inside = [twin(layer) for layer in config.get("layers", ())]
    return getattr(torch.nn, config["layer"])(*inside, **arguments)


def work(side: str, epoch: Epoch, turns: Turns) -> None:
    """A worker: trains the epoch, a line of answer a turn, and the mean loss at last."""
    if side == "fastconv":
        say(train_fastconv(epoch, turns))
    else:
        say(train_torch(epoch, turns, *TORCH[side]))


# --- the parent ------------------------------------------------------------------------------------------------------


class Worker:
    """A worker's process group, seen from the outside: it runs in its turns only."""

    def __init__(self, side: str, threads: int, arguments: list[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "FASTCONV_NUM_THREADS": str(threads)}
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *arguments, "--worker", side],
            stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        self.seconds: list[float] = []
        self.loss = math.nan

    def hear(self, *, stops: bool = True) -> Any:
        """Its answer; where it `stops` after that, once it has."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"epoch: the process of {self.side} ended with status {self.process.wait()}")
        if stops:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        return json.loads(line)

    def turn(self, *, last: bool) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)
        self.seconds.append(self.hear(stops=not last))
        if last:
            self.loss = self.hear(stops=False)
            self.process.wait()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def measure(arguments: list[str], threads: int, turns: int) -> dict[str, Any]:
    """Seconds an epoch and mean loss of every side; the ratio of PyTorch's best to fastconv's."""
    workers: list[Worker] = []
    try:
        for side in SIDES:
            workers.append(Worker(side, threads, arguments))
            workers[-1].hear()  # it has its data and waits for its turn
        for turn in range(turns):
            for worker in workers:
                time.sleep(PAUSE)
                worker.turn(last=turn == turns - 1)
    finally:
        for worker in workers:
            worker.end()
    ours, *theirs = workers
    for worker in theirs:
        if not math.isclose(worker.loss, ours.loss, rel_tol=DRIFT):
            raise SystemExit(f"epoch: fastconv's mean loss is {ours.loss:.4f}, that of {worker.side} {worker.loss:.4f}")
    best = min(theirs, key=lambda worker: sum(worker.seconds))
    ratios = sorted(b / a for a, b in zip(ours.seconds, best.seconds, strict=True))
    return {
        "threads": threads,
        "seconds": {worker.side: sum(worker.seconds) for worker in workers},
        "loss": {worker.side: worker.loss for worker in workers},
        "best": best.side,
        "ratio": sum(best.seconds) / sum(ours.seconds),
        "turns": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="an epoch of a default run beside PyTorch's")
    sets = sorted(name for name in SETS if RECIPES[name].optimizer["optimizer"] == "SGD")
    parser.add_argument("name", choices=sets, help="the data set")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of the data set's files")
    parser.add_argument("--threads", type=int, default=get_num_threads(), metavar="N")
    parser.add_argument("--turn", type=int, default=20, metavar="STEPS", help="steps that a side makes at a time (20)")
    parser.add_argument("--steps", type=int, metavar="N", help="an epoch of the first N batches' images alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed: pip install 'fastconv[peers]'")
    epoch = Epoch(arguments.name, arguments.data, arguments.steps)
    set_num_threads(arguments.threads)
    if arguments.worker:
        work(arguments.worker, epoch, Turns(arguments.turn, epoch.source.steps))
        return 0
    own = [arguments.name, "--turn", str(arguments.turn), "--threads", str(arguments.threads)]
    own += ["--data", str(arguments.data)] if arguments.data else []
    own += ["--steps", str(arguments.steps)] if arguments.steps else []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # no worker is left behind
    assert epoch.source.steps is not None
    result = measure(own, arguments.threads, -(-epoch.source.steps // arguments.turn))
    print(f"{arguments.name}: an epoch of {epoch.recipe.net} in batches of {epoch.recipe.batch_size}, ", end="")
    print(f"{epoch.source.steps} steps, threads: {arguments.threads}")
    for side in SIDES:
        print(f"{side:28} {result['seconds'][side]:8.2f} s   mean loss {result['loss'][side]:.4f}")
    low, high = result["turns"]
    print(f"PyTorch's best over fastconv: {result['ratio']:.2f} (middle half of the turns: {low:.2f} to {high:.2f})")
    if arguments.json is not None:
        replace_text(arguments.json, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
