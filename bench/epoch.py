"""An epoch of `fastconv train`'s default run beside PyTorch's: the same net, weights, batches and optimiser.

    python bench/epoch.py mnist --data DIR              or digits, cifar10
    python bench/epoch.py digits --threads 1 --json epoch.json

Three processes train one epoch each: fastconv's Trainer, and PyTorch on contiguous tensors and on channels_last ones.
They take turns of some steps, so that whatever else the machine does hits all of them; who waits is blocked on a pipe.
A turn's time is the wall clock from its first batch to the end of its last step, with what the data set's recipe does
to the images (NumPy, the same code on all sides). The learning rate is constant, SGD as in the recipe. The mean losses,
printed beside the times, tell that all trained the same: they drift apart by rounding only.

Needs PyTorch: pip install 'fastconv[peers]'.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import os
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
from fastconv.training.data import STEP, batches, generator
from fastconv.training.recipes import RECIPES

PAUSE = 0.05  # seconds between turns, in which the other's threads stop spinning
LR = 0.02
DRIFT = 0.05  # relative, of the mean losses
SIDES = ("fastconv", "torch", "torch channels_last")


class Epoch:
    """The first epoch's batches of a recipe, handed out in turns that the parent process asks for."""

    def __init__(self, name: str, folder: Path | None, steps: int) -> None:
        self.recipe = RECIPES[name]
        data = load(name, folder, None)
        self.net = models.build(self.recipe.net, data.image_shape, len(data.classes), rng=0)
        self.source = batches("epoch", *data.train, self.recipe.batch_size, seed=0)
        self.steps = steps
        self.change = augment.from_config(self.recipe.augment) if self.recipe.augment else None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        begun = 0.0
        for step, (x, y) in enumerate(self.source.epoch(0)):
            if step % self.steps == 0:
                say(time.perf_counter() - begun if step else None)
                sys.stdin.readline()
                begun = time.perf_counter()
                x, y = next(self.source.epoch(0, step))  # cut again, now that the clock runs
            yield (x if self.change is None else self.change(x, generator(0, STEP, step))), y
        say(time.perf_counter() - begun)


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def train_fastconv(epoch: Epoch) -> float:
    """The mean loss of an epoch of fastconv's Trainer."""
    recipe = epoch.recipe
    loss = functools.partial(functional.cross_entropy, label_smoothing=recipe.label_smoothing)
    trainer = Trainer(epoch.net, optim.from_config({**sgd(recipe.optimizer), "lr": LR}), loss)
    return trainer.fit(lambda: iter(epoch), epochs=1, progress=False)["loss"][0]


def sgd(options: dict[str, Any]) -> dict[str, Any]:
    """The recipe's SGD, as far as PyTorch's has the same options by the same names."""
    names = ("optimizer", "momentum", "nesterov", "weight_decay")
    return {name: options[name] for name in names}


def train_torch(epoch: Epoch, layout: str) -> float:
    """The mean loss of an epoch in PyTorch."""
    import torch

    torch.set_num_threads(get_num_threads())
    memory = torch.channels_last if layout else torch.contiguous_format
    net = twin(epoch.net.config())
    net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in epoch.net.state_dict().items()})
    net = net.to(memory_format=memory)
    options = sgd(epoch.recipe.optimizer)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=LR, **{name: options[name] for name in options.keys() - {"optimizer"}}
    )
    total, samples = 0.0, 0
    for x, y in epoch:
        images = torch.from_numpy(np.ascontiguousarray(x)).contiguous(memory_format=memory)
        loss = torch.nn.functional.cross_entropy(
            net(images), torch.from_numpy(y), label_smoothing=epoch.recipe.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
        samples += len(y)
    return total / samples


def twin(config: dict[str, Any]) -> Any:
    """The torch.nn module of a fastconv net's configuration: names, arguments and state_dict keys are the same."""
    import torch

    arguments = {name: value for name, value in config.items() if name not in ("layer", "layers")}
    inside = [twin(layer) for layer in config.get("layers", ())]
    return getattr(torch.nn, config["layer"])(*inside, **arguments)


def work(side: str, epoch: Epoch) -> None:
    """A worker: trains the epoch, a line of answer a turn, and the mean loss at last."""
    if side == "fastconv":
        say(train_fastconv(epoch))
    else:
        say(train_torch(epoch, side.removeprefix("torch").strip()))


# --- the parent ------------------------------------------------------------------------------------------------------


class Worker:
    """A worker's process, seen from the outside."""

    def __init__(self, side: str, threads: int, arguments: list[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "FASTCONV_NUM_THREADS": str(threads)}
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *arguments, "--worker", side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.seconds: list[float] = []
        self.loss = math.nan

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"epoch: the process of {self.side} ended with status {self.process.wait()}")
        return json.loads(line)

    def turn(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(self.hear())


def measure(arguments: list[str], threads: int, turns: int) -> dict[str, Any]:
    """Seconds an epoch and mean loss of every side; the ratio of PyTorch's better to fastconv's."""
    workers = [Worker(side, threads, arguments) for side in SIDES]
    try:
        for worker in workers:
            worker.hear()  # it has its data and waits at the first step
        for _ in range(turns):
            for worker in workers:
                time.sleep(PAUSE)
                worker.turn()
        for worker in workers:
            worker.loss = worker.hear()
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.communicate()
    ours, *theirs = workers
    for worker in theirs:
        if not math.isclose(worker.loss, ours.loss, rel_tol=DRIFT):
            raise SystemExit(f"epoch: fastconv's mean loss is {ours.loss:.4f}, that of {worker.side} {worker.loss:.4f}")
    better = min(theirs, key=lambda worker: sum(worker.seconds))
    ratios = sorted(b / a for a, b in zip(ours.seconds, better.seconds, strict=True))
    return {
        "threads": threads,
        "seconds": {worker.side: sum(worker.seconds) for worker in workers},
        "loss": {worker.side: worker.loss for worker in workers},
        "ratio": sum(better.seconds) / sum(ours.seconds),
        "turns": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="an epoch of a default run beside PyTorch's")
    sets = sorted(name for name in SETS if RECIPES[name].optimizer["optimizer"] == "SGD")
    parser.add_argument("name", choices=sets, help="the data set")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of the data set's files")
    parser.add_argument("--threads", type=int, default=get_num_threads(), metavar="N")
    parser.add_argument("--turn", type=int, default=20, metavar="STEPS", help="steps that a side makes at a time (20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed: pip install 'fastconv[peers]'")
    epoch = Epoch(arguments.name, arguments.data, arguments.turn)
    set_num_threads(arguments.threads)
    if arguments.worker:
        work(arguments.worker, epoch)
        return 0
    own = [arguments.name, "--turn", str(arguments.turn), "--threads", str(arguments.threads)]
    own += ["--data", str(arguments.data)] if arguments.data else []
    assert epoch.source.steps is not None
    result = measure(own, arguments.threads, -(-epoch.source.steps // arguments.turn))
    print(f"{arguments.name}: an epoch of {epoch.recipe.net} in batches of {epoch.recipe.batch_size}, ", end="")
    print(f"{epoch.source.steps} steps, threads: {arguments.threads}")
    for side in SIDES:
        print(f"{side:20} {result['seconds'][side]:8.2f} s   mean loss {result['loss'][side]:.4f}")
    low, high = result["turns"]
    print(f"PyTorch's better over fastconv: {result['ratio']:.2f} (middle half of the turns: {low:.2f} to {high:.2f})")
    if arguments.json is not None:
        replace_text(arguments.json, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
