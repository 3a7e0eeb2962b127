"""fastconv against PyTorch on whole training steps, in two processes that take turns.

    python bench/peers.py                                   every shape and net, on 1 and on 2 threads
    python bench/peers.py --threads 2 --only "3x3 64-64 @32" mnist_cnn --json peers.json

A convolution's step is its forward pass and the gradients to x, w and b; a net's step is forward, loss, gradients and
one SGD step with momentum, from the same weights on the same batch. PyTorch runs every step on contiguous tensors and
on channels_last ones, and in every round the better of the two counts; fastconv gets its arrays in the memory order
that its layers hand to each other. Both must compute the same before anything is timed. While one process works the
other is blocked on its pipe. Times are medians over the rounds; the ratio is the median of the rounds' ratios,
PyTorch's time over fastconv's: above 1 where fastconv is faster.

Needs PyTorch: pip install 'fastconv[peers]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastconv import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential, models
from fastconv.arrays import logical
from fastconv.shapes import CONVOLUTIONS, conv_case

PAUSE = 0.05  # seconds between turns, in which the other's threads stop spinning
TOLERANCE = 1e-3  # relative, of the sums that tell whether two steps computed the same


class Work(NamedTuple):
    """A task in one of the libraries: numbers that tell what it computes, and its step in one or more layouts."""

    check: Callable[[], list[float]]
    steps: dict[str, Callable[[], Any]]


def mnist_32_64(rng: int) -> Sequential:
    """The MNIST CNN of many tutorials: 32, 64, pool, 128."""
    return Sequential(
        Conv2d(1, 32, 3, rng=rng), ReLU(), Conv2d(32, 64, 3, rng=rng + 1), ReLU(), MaxPool2d(2),
        Flatten(), Linear(9216, 128, rng=rng + 2), ReLU(), Linear(128, 10, rng=rng + 3),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], Any], int, tuple[int, ...]]] = {  # name -> net, batch, (C, H, W)
    "lenet5": (lambda: models.lenet5(rng=0), 64, (1, 28, 28)),
    "mnist_cnn": (lambda: models.mnist_cnn(rng=0), 128, (1, 28, 28)),
    "mnist 32 64 128": (lambda: mnist_32_64(0), 128, (1, 28, 28)),
    "vgg_cifar": (lambda: models.vgg_cifar(rng=0), 64, (3, 32, 32)),
}


# --- what is computed ------------------------------------------------------------------------------------------------


def conv_arrays(name: str) -> tuple[np.ndarray, ...]:
    """x, w, b and dy of a named convolution."""
    shape = CONVOLUTIONS[name]
    rng = np.random.default_rng(1)
    x, w = conv_case(shape).arrays()
    b = rng.standard_normal(shape.filters, dtype=np.float32)
    return x, w, b, rng.standard_normal(shape.y_shape, dtype=np.float32)


def net_arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A net's batch: images and classes."""
    _, batch, item = NETS[name]
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *item), dtype=np.float32), rng.integers(0, 10, batch)


def magnitudes(arrays: Sequence[Any]) -> list[float]:
    """The sum of every array's absolute values."""
    return [float(np.abs(np.asarray(array, np.float64)).sum()) for array in arrays]


def _in_fastconv(task: str, threads: int) -> Work:
    import fastconv
    from fastconv import functional, optim

    fastconv.set_num_threads(threads)
    if task in CONVOLUTIONS:
        shape = CONVOLUTIONS[task]
        x, w, b, dy = conv_arrays(task)
        x, dy = (logical(np.ascontiguousarray(a.transpose(0, *range(2, a.ndim), 1))) for a in (x, dy))

        def conv_step() -> Any:
            y, pullback = fastconv.vjp(getattr(functional, shape.op), x, w, b, **shape.options)
            return y, *pullback(dy)

        return Work(lambda: magnitudes(conv_step()), {"fastconv": conv_step})
    net = NETS[task][0]()
    x, target = net_arrays(task)
    optimizer = optim.SGD(0.01, momentum=0.9)

    def net_step() -> None:
        _, gradients = fastconv.value_and_grad(net, "cross_entropy", x, target)
        optimizer.step(net.parameters(), gradients)

    return Work(lambda: magnitudes([net.eval()(x)]), {"fastconv": net_step})


def _in_torch(task: str, threads: int) -> Work:
    import torch

    torch.set_num_threads(threads)
    formats = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
    if task in CONVOLUTIONS:
        shape = CONVOLUTIONS[task]
        ndim = len(shape.spatial)
        if ndim != 2:
            formats = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last_3d}
            formats = {name: f for name, f in formats.items() if name == "NCHW" or ndim == 3}
        arrays = [torch.from_numpy(a) for a in conv_arrays(task)]
        function = getattr(torch.nn.functional, shape.op)

        def conv_step(layout: torch.memory_format) -> Callable[[], Any]:
            x, w, b, dy = (a.contiguous(memory_format=layout) if a.ndim > 1 else a.clone() for a in arrays)
            inputs = [a.requires_grad_() for a in (x, w, b)]

            def step() -> Any:
                y = function(*inputs, **shape.options)
                return y, *torch.autograd.grad(y, inputs, dy)

            return step

        steps = {name: conv_step(layout) for name, layout in formats.items()}
        return Work(lambda: magnitudes([a.detach().numpy() for a in steps["NCHW"]()]), steps)
    ours = NETS[task][0]()
    x, target = (torch.from_numpy(a) for a in net_arrays(task))

    def net_step(layout: torch.memory_format) -> Callable[[], Any]:
        net = _torch_twin(ours.config())
        net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in ours.state_dict().items()})
        net = net.to(memory_format=layout)
        images = x.contiguous(memory_format=layout)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), target).backward()
            optimizer.step()

        def evaluate() -> list[float]:
            with torch.no_grad():
                y = net.eval()(images).numpy()
            net.train()
            return magnitudes([y])

        step.evaluate = evaluate  # type: ignore[attr-defined]
        return step

    steps = {name: net_step(layout) for name, layout in formats.items()}
    return Work(steps["NCHW"].evaluate, steps)  # type: ignore[attr-defined]


def _torch_twin(config: dict[str, Any]) -> Any:
    """The torch.nn module of a fastconv net's configuration: names, arguments and state_dict keys are the same."""
    import torch

    arguments = {name: value for name, value in config.items() if name not in ("layer", "layers")}
    inside = [_torch_twin(layer) for layer in config.get("layers", ())]
    return getattr(torch.nn, config["layer"])(*inside, **arguments)


LIBRARIES = {"fastconv": _in_fastconv, "torch": _in_torch}


# --- two processes ---------------------------------------------------------------------------------------------------


def work(library: str, threads: int) -> None:
    """A worker: reads a command a line, answers a line; between them it is blocked."""
    current: Work | None = None
    for line in sys.stdin:
        command, argument = json.loads(line)
        if command == "prepare":
            current = None  # its memory goes first
            current = LIBRARIES[library](argument, threads)
            answer: Any = current.check()
        else:
            assert current is not None
            answer = {layout: _turn(step, argument) for layout, step in current.steps.items()}
        print(json.dumps(answer), flush=True)


def _turn(step: Callable[[], Any], seconds: float) -> float:
    """Median seconds of a step, over as many as fit into a turn (three at least), the first left out."""
    step()
    samples: list[float] = []
    while len(samples) < 3 or sum(samples) < seconds:
        start = time.perf_counter()
        step()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


class Worker:
    """A worker's process, seen from the outside."""

    def __init__(self, library: str, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "FASTCONV_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", library, "--threads", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.library = library

    def ask(self, command: str, argument: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, argument]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"peers: the {self.library} process ended with status {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()  # end of its input ends it


def compare_task(task: str, workers: Sequence[Worker], rounds: int, seconds: float) -> dict[str, Any]:
    """A row: medians in milliseconds and the ratio."""
    ours, theirs = workers
    expected, found = (worker.ask("prepare", task) for worker in (theirs, ours))
    for a, b in zip(found, expected, strict=True):
        if not math.isclose(a, b, rel_tol=TOLERANCE):
            raise SystemExit(f"peers: {task}: fastconv computes {found}, {theirs.library} {expected}")
    rows: list[dict[str, float]] = []
    for _ in range(rounds):
        row: dict[str, float] = {}
        for worker in workers:
            time.sleep(PAUSE)
            row.update(worker.ask("run", seconds))
        rows.append(row)
    layouts = [name for name in rows[0] if name != "fastconv"]
    milliseconds = {name: 1e3 * statistics.median(row[name] for row in rows) for name in rows[0]}
    ratios = [min(row[name] for name in layouts) / row["fastconv"] for row in rows]
    return {
        "task": task,
        "milliseconds": milliseconds,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "gflops": 3 * CONVOLUTIONS[task].flops() / milliseconds["fastconv"] / 1e6 if task in CONVOLUTIONS else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="fastconv against PyTorch on whole training steps")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="names of shapes and nets (default: all)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns that each library gets (7)")
    parser.add_argument("--turn", type=float, default=0.2, metavar="SECONDS", help="length of a turn and layout (0.2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--worker", choices=sorted(LIBRARIES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.threads[0])
        return 0
    if importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed: pip install 'fastconv[peers]'")
    known = [*CONVOLUTIONS, *NETS]
    tasks = arguments.only or known
    for task in tasks:
        if task not in known:
            parser.error(f"no task is called {task!r}; there are {', '.join(known)}")
    results: dict[str, list[dict[str, Any]]] = {}
    for threads in arguments.threads:
        print(f"\nthreads: {threads}; milliseconds a step; ratio: PyTorch's better over fastconv")
        print(f"{'':30} {'NCHW':>9} {'ch.last':>9} {'fastconv':>9} {'ratio':>6}  range        GFLOP/s")
        workers = [Worker("fastconv", threads), Worker("torch", threads)]
        rows = results[str(threads)] = []
        try:
            for task in tasks:
                row = compare_task(task, workers, arguments.rounds, arguments.turn)
                rows.append(row)
                cells = [row["milliseconds"].get(name) for name in ("NCHW", "channels_last", "fastconv")]
                times = " ".join(f"{cell:9.3f}" if cell is not None else f"{'-':>9}" for cell in cells)
                low, high = row["ratio_range"]
                rate = f"{row['gflops']:7.0f}" if row["gflops"] is not None else ""
                print(f"{task:30} {times} {row['ratio']:6.2f}  {low:.2f} - {high:.2f}  {rate}", flush=True)
        finally:
            for worker in workers:
                worker.close()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
