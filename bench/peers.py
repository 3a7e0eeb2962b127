"""fastconv against PyTorch: forward passes and whole training steps, in two processes that take turns.

    python bench/peers.py                                  every shape of classes.py and every net, about ten minutes
    python bench/peers.py --quick                          fewer rounds, two minutes
    python bench/peers.py --class depthwise --threads 1
    python bench/peers.py --only "3x3 64-64 @32" mnist_cnn --json peers.json --plot peers.png

A convolution's step is its forward pass and the gradients to x, w and b; a net's step is forward, loss, gradients and
one SGD step with momentum, from the same weights on the same batch; its forward pass is inference. PyTorch runs
everything on contiguous tensors and on channels_last ones, and in every round the better of the two counts; fastconv
gets its arrays in the memory order that its layers hand to each other.

Before anything is timed both compute the step in float64 and must agree on it; the errors in the table are those of
float32 against it, relative to the largest value, the worst of y, dx, dw and db (of a net: of its output).

While one process works the other is blocked on its pipe. A round is a turn of each; a turn runs a call once, or several
times until it has lasted long enough, and its time is the median. The ratio is the median of the rounds' ratios,
PyTorch's time over fastconv's: above 1 where fastconv is faster.

Output buffers are treated alike: results are dropped within the step that is timed, and both processes keep the memory
for the next. fastconv's free list does so by itself; glibc, from which PyTorch allocates, is told to (MALLOC), huge
pages included: left alone, it gives large results back to the system, and PyTorch pays for fresh pages in every step.

Needs PyTorch: pip install 'fastconv[peers]'.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib.metadata
import importlib.util
import io
import json
import math
import operator
import os
import statistics
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from classes import CLASSES, SHAPES

import fastconv
from fastconv import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential, functional, models, optim, plots
from fastconv.arrays import logical
from fastconv.files import replace_text
from fastconv.lab.shapes import ConvShape, conv_case

PAUSE = 0.03  # seconds between turns, in which the other's threads stop spinning
AGREEMENT = 1e-9  # relative, of what tells whether two float64 steps computed the same
ALL_GOAL, WORST_GOAL = 2.0, 1.0  # geometric mean over all shapes, and the worst of them
NET_CLASS = "nets"
MALLOC = {  # for both processes
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
PARTS = ("forward", "step")

Calls = dict[str, Callable[[], Any]]  # by part: "forward" and "step"


class Work(NamedTuple):
    """A task in one of the libraries."""

    outputs64: list[np.ndarray]  # what it computes in float64
    errors: list[float]  # of float32 against that, relative to the largest value, one an output
    calls: dict[str, Calls]  # by layout


# --- tasks -----------------------------------------------------------------------------------------------------------


def mnist_32_64() -> Sequential:
    """The MNIST CNN of many tutorials: 32, 64, pool, 128."""
    return Sequential(
        Conv2d(1, 32, 3, rng=0), ReLU(), Conv2d(32, 64, 3, rng=1), ReLU(), MaxPool2d(2),
        Flatten(), Linear(9216, 128, rng=2), ReLU(), Linear(128, 10, rng=3),
    )  # fmt: skip


NETS: dict[str, tuple[Callable[[], Any], int, tuple[int, ...]]] = {  # name -> net, batch, (C, *spatial)
    "mnist 32 64 128": (mnist_32_64, 128, (1, 28, 28)),
    **{
        name: (functools.partial(models.MODELS[name], rng=0), batch, item)
        for name, batch, item in (
            ("lenet5", 64, (1, 28, 28)),
            ("mnist_cnn", 128, (1, 28, 28)),
            ("vgg_cifar", 64, (3, 32, 32)),
            ("resnet20", 64, (3, 32, 32)),
            ("mobilenet", 4, (3, 224, 224)),
            ("m5", 16, (1, 16000)),
            ("voxnet", 8, (1, 32, 32, 32)),
            ("resnet18", 4, (3, 224, 224)),
        )
        if name in models.MODELS
    },
}


CLASS_OF = {  # task: class, in the order of the table
    **{shape.name: name for name, each in CLASSES.items() for shape in (*each.named, *each.held_out)},
    **dict.fromkeys(NETS, NET_CLASS),
}


def conv_arrays(shape: ConvShape) -> tuple[np.ndarray, ...]:
    """x, w, b and dy of a convolution."""
    rng = np.random.default_rng(1)
    x, w = conv_case(shape).arrays()
    b = rng.standard_normal(shape.filters, dtype=np.float32)
    return x, w, b, rng.standard_normal(shape.y_shape, dtype=np.float32)


def net_arrays(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A net's batch: images and classes."""
    _, batch, item = NETS[name]
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, *item), dtype=np.float32), rng.integers(0, 10, batch)


def relative_errors(found: Iterable[np.ndarray], exact: Iterable[np.ndarray]) -> list[float]:
    return [float(np.abs(a - e).max() / np.abs(e).max()) for a, e in zip(found, exact, strict=True)]


def fingerprints(arrays: Iterable[np.ndarray]) -> list[tuple[float, float]]:
    """Of every array the sum of absolute values and a random projection, which knows its elements' places."""
    found = []
    for array in arrays:
        flat = np.ascontiguousarray(array).ravel()
        weights = np.random.default_rng(2).uniform(-1, 1, flat.size)
        found.append((float(np.abs(flat).sum()), float(flat @ weights)))
    return found


# --- the two libraries -----------------------------------------------------------------------------------------------


class InFastconv:
    """fastconv's side: one layout, the one of its layers."""

    def set_threads(self, n: int) -> None:
        fastconv.set_num_threads(n)

    def convolution(self, shape: ConvShape) -> Work:
        function = getattr(functional, shape.op)
        arrays = [
            a if a.ndim < 3 or i == 1 else logical(np.ascontiguousarray(a.transpose(0, *range(2, a.ndim), 1)))
            for i, a in enumerate(conv_arrays(shape))
        ]

        def forward() -> Any:
            return function(*arrays[:3], **shape.options)

        def step(x: Any, w: Any, b: Any, dy: Any) -> list[np.ndarray]:
            y, pullback = fastconv.vjp(function, x, w, b, **shape.options)
            return [y, *pullback(dy)]

        exact = step(*(a.astype(np.float64, order="K") for a in arrays))
        calls: Calls = {"forward": forward, "step": lambda: step(*arrays)}
        return Work(exact, relative_errors(calls["step"](), exact), {"fastconv": calls})

    def net(self, name: str) -> Work:
        net = NETS[name][0]()
        x, target = net_arrays(name)
        optimizer = optim.SGD(0.01, momentum=0.9)

        def forward() -> Any:
            return net.predict(x, batch_size=len(x))

        def step() -> None:
            _, gradients = fastconv.value_and_grad(net, "cross_entropy", x, target)
            optimizer.step(net.parameters(), gradients)

        exact = [net.astype(np.float64).predict(x, batch_size=len(x))]
        errors = relative_errors([forward()], exact)
        return Work(exact, errors, {"fastconv": {"forward": forward, "step": step}})


class InTorch:
    """PyTorch's side, in both of its layouts."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def set_threads(self, n: int) -> None:
        self._torch.set_num_threads(n)

    def convolution(self, shape: ConvShape) -> Work:
        torch = self._torch
        function = getattr(torch.nn.functional, shape.op)
        tensors = [torch.from_numpy(a) for a in conv_arrays(shape)]

        def calls(arrange: Callable[[Any], Any], dtype: Any) -> Calls:
            x, w, b, dy = (arrange(a.to(dtype)) if a.ndim > 2 else a.to(dtype, copy=True) for a in tensors)
            inputs = [a.requires_grad_() for a in (x, w, b)]

            def forward() -> Any:
                with torch.no_grad():
                    return function(*inputs, **shape.options)

            def step() -> Any:
                y = function(*inputs, **shape.options)
                return y.detach(), *torch.autograd.grad(y, inputs, dy)

            return {"forward": forward, "step": step}

        exact = [a.numpy() for a in calls(lambda a: a.clone(), torch.float64)["step"]()]
        found = {
            "NCHW": calls(lambda a: a.clone(), torch.float32),
            "channels_last": calls(self._channels_last, torch.float32),
        }
        errors = [relative_errors([a.numpy() for a in layout["step"]()], exact) for layout in found.values()]
        return Work(exact, [max(pair) for pair in zip(*errors, strict=True)], found)

    def _channels_last(self, a: Any) -> Any:
        """A copy (N, C, *spatial) with the channels innermost; of three axes too, which PyTorch has no name for."""
        formats = {4: self._torch.channels_last, 5: self._torch.channels_last_3d}
        if a.ndim in formats:
            return a.clone(memory_format=formats[a.ndim])
        return a.transpose(1, 2).contiguous().transpose(1, 2)

    def net(self, name: str) -> Work:
        torch = self._torch
        ours = NETS[name][0]()
        x, target = (torch.from_numpy(a) for a in net_arrays(name))
        twin = self.copied(ours)
        with torch.no_grad():
            exact = [copy.deepcopy(twin).double().eval()(x.double()).numpy()]

        def calls(layout: Any) -> Calls:
            net = copy.deepcopy(twin).to(memory_format=layout)
            images = x.contiguous(memory_format=layout)
            optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

            def forward() -> Any:
                net.eval()
                with torch.no_grad():
                    return net(images)

            def step() -> None:
                net.train()
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(images), target).backward()
                optimizer.step()

            return {"forward": forward, "step": step}

        found = {name: calls(layout) for name, layout in self.layouts(x.ndim).items()}
        errors = [relative_errors([layout["forward"]().numpy()], exact) for layout in found.values()]
        return Work(exact, [max(pair) for pair in zip(*errors, strict=True)], found)

    def layouts(self, ndim: int) -> dict[str, Any]:
        """The memory formats of a net's inputs; PyTorch has one for a 1-D net."""
        torch = self._torch
        other = {4: torch.channels_last, 5: torch.channels_last_3d}.get(ndim)
        return {"NCHW": torch.contiguous_format} | ({} if other is None else {"channels_last": other})

    def copied(self, net: Any) -> Any:
        """A fastconv net with its weights and statistics as a torch.nn module."""
        twin = self.twin(net.config())
        twin.load_state_dict(
            {name: self._torch.from_numpy(np.array(array)) for name, array in net.state_dict().items()}
        )
        return twin

    def twin(self, config: Any) -> Any:
        """The torch.nn module of a fastconv net's configuration: names, arguments and state_dict keys are the same."""
        nn = self._torch.nn
        kind = config["layer"]
        if kind == "Residual":
            body, shortcut = self.twin(config["body"]), config.get("shortcut")
            layers = {"body": body} if shortcut is None else {"body": body, "shortcut": self.twin(shortcut)}
            return self._module(layers, lambda net, x: net.body(x) + (x if shortcut is None else net.shortcut(x)))
        if kind == "Graph":
            nodes = dict(config["nodes"]["items"])
            return self._module(
                {name: self.twin(what) for name, (what, *_) in nodes.items() if isinstance(what, dict)},
                lambda net, x: self._run(net, nodes, config.get("output"), x),
            )
        layers = config.get("layers", ())
        if layers and "items" in layers[0]:  # Sequential({"name": layer, …})
            return nn.Sequential(OrderedDict((name, self.twin(layer)) for name, layer in layers[0]["items"]))
        arguments = {k: v for k, v in config.items() if k not in ("layer", "layers", "algorithm")}
        return getattr(nn, kind)(*map(self.twin, layers), **arguments)

    def _run(self, net: Any, nodes: dict[str, Any], output: str | None, x: Any) -> Any:
        """A Graph's nodes in order (fastconv.Graph)."""
        values = {"input": x}
        for name, (what, *sources) in nodes.items():
            inputs = [values[source] for source in sources]
            if what == "add":
                values[name] = functools.reduce(operator.add, inputs)
            elif what == "concat":
                values[name] = self._torch.cat(inputs, 1)
            else:
                values[name] = getattr(net, name if isinstance(what, dict) else what)(*inputs)
        return values[output or next(reversed(nodes))]

    def _module(self, layers: dict[str, Any], function: Callable[[Any, Any], Any]) -> Any:
        """A module with these children whose forward is function(module, x)."""
        module = type("Joined", (self._torch.nn.Module,), {"forward": function})()
        for name, layer in layers.items():
            module.add_module(name, layer)
        return module


LIBRARIES: dict[str, Callable[[], Any]] = {"fastconv": InFastconv, "torch": InTorch}


# --- two processes ---------------------------------------------------------------------------------------------------


def work(library: str, clock: str) -> None:
    side = LIBRARIES[library]()

    def prepare(task: str) -> tuple[dict[str, Calls], Any]:
        found = side.convolution(SHAPES[task]) if task in SHAPES else side.net(task)
        return found.calls, {"fingerprints": fingerprints(found.outputs64), "errors": found.errors}

    serve(prepare, side.set_threads, time.perf_counter if clock == "wall" else time.process_time)


def serve(
    prepare: Callable[[str], tuple[dict[str, Calls], Any]],
    set_threads: Callable[[int], None],
    now: Callable[[], float] = time.perf_counter,
    of: Callable[[list[float]], float] = statistics.median,
) -> None:
    """A worker: reads a command a line, answers a line; between them it is blocked.

    prepare: of a task its calls by layout, and the answer;  of: what is told of a turn's samples
    """
    calls: dict[str, Calls] = {}
    for line in sys.stdin:
        command, argument = json.loads(line)
        answer: Any = None
        if command == "prepare":
            calls = {}  # its memory goes first
            calls, answer = prepare(argument)
        elif command == "threads":
            set_threads(argument)
        else:
            answer = {
                layout: {part: turn(call, argument, now, of) for part, call in parts.items()}
                for layout, parts in calls.items()
            }
        print(json.dumps(answer), flush=True)


def turn(
    call: Callable[[], Any], seconds: float, now: Callable[[], float] = time.perf_counter,
    of: Callable[[list[float]], float] = statistics.median,
) -> float:  # fmt: skip
    """Seconds of a call: the first one's where that fills the turn, else `of` as many more as fill it."""
    start = now()
    call()
    first = now() - start
    if first >= seconds:
        return first
    samples: list[float] = []
    while sum(samples) < seconds:
        start = now()
        call()
        samples.append(now() - start)
    return of(samples)


class Worker:
    """A worker's process, seen from the outside."""

    def __init__(self, library: str, threads: int, script: Sequence[str]) -> None:
        """script: what runs it, with its options."""
        environment = {**MALLOC, **os.environ, "OMP_NUM_THREADS": str(threads), "FASTCONV_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, *script, "--worker", library],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.library = library

    def ask(self, command: str, argument: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([command, argument]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"peers: the {self.library} process ended with status {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # end of its input ends it


def check_same(task: str, found: Any, expected: Any) -> None:
    """Both libraries' float64 results have the same fingerprints."""
    if len(found) != len(expected) or not all(
        math.isclose(a[0], b[0], rel_tol=AGREEMENT) and abs(a[1] - b[1]) <= AGREEMENT * b[0]
        for a, b in zip(found, expected, strict=True)
    ):
        raise SystemExit(f"peers: {task}: fastconv computes {found}, PyTorch {expected}")


def compare_task(task: str, workers: Sequence[Worker], threads: Sequence[int], rounds: int, seconds: float) -> Any:
    """A row: errors and, per thread count and part, the ratio, its range and milliseconds."""
    ours, theirs = (worker.ask("prepare", task) for worker in workers)
    check_same(task, ours["fingerprints"], theirs["fingerprints"])
    return {
        "task": task,
        "errors": {"fastconv": max(ours["errors"]), "torch": max(theirs["errors"])},
        "threads": in_turns(workers, threads, rounds, seconds, PARTS),
    }


def in_turns(
    workers: Sequence[Worker], threads: Sequence[int], rounds: int, seconds: float, parts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What the workers have prepared, timed: per thread count and part the ratio, its range and milliseconds."""
    found = {}
    for count in threads:
        turns = []
        for worker in workers:
            worker.ask("threads", count)
            worker.ask("run", 0)  # what a library prepares for this thread count
        for _ in range(rounds):
            times: dict[str, dict[str, float]] = {}
            for worker in workers:
                time.sleep(PAUSE)
                times |= worker.ask("run", seconds)
            turns.append(times)
        found[str(count)] = {part: summary_of([{k: v[part] for k, v in t.items()} for t in turns]) for part in parts}
    return found


def summary_of(rounds: list[dict[str, float]]) -> dict[str, Any]:
    ratios = [min(t for name, t in times.items() if name != "fastconv") / times["fastconv"] for times in rounds]
    return {
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "milliseconds": {name: 1e3 * statistics.median(times[name] for times in rounds) for name in rounds[0]},
    }


# --- the report ------------------------------------------------------------------------------------------------------


def summaries(rows: Sequence[dict[str, Any]], threads: Sequence[int]) -> list[dict[str, Any]]:
    """Per class, then over all shapes, over the named and the held-out ones: geometric mean and worst of the steps."""
    convolutions = [row for row in rows if row["class"] != NET_CLASS]
    groups = [
        (name, CLASSES[name].goal if name in CLASSES else None, [row for row in rows if row["class"] == name])
        for name in (*CLASSES, NET_CLASS)
    ]
    groups.append(("all shapes", ALL_GOAL, convolutions))
    groups += [
        (f"all {what}", None, [row for row in convolutions if row["held_out"] == flag])
        for what, flag in (("named", False), ("held-out", True))
    ]
    result = []
    for name, goal, members in groups:
        if not members:
            continue
        found: dict[str, Any] = {"class": name, "goal": goal, "shapes": len(members), "threads": {}}
        for count in map(str, threads):
            ratios = {row["task"]: row["threads"][count]["step"]["ratio"] for row in members}
            worst = min(ratios, key=lambda task: ratios[task])
            found["threads"][count] = {
                "geometric_mean": statistics.geometric_mean(ratios.values()),
                "worst": ratios[worst],
                "worst_task": worst,
            }
        result.append(found)
    return result


def print_head(threads: Sequence[int]) -> None:
    line = f"{'':38} {'error to float64':17}"
    names = f"{'':38} {'fastconv':>8} {'PyTorch':>8}"
    for count in threads:
        line += f"  {f'{count} thread' + 's' * (count > 1):^32}"
        names += f"  {'PyTorch':>9} {'fastconv':>9} {'fwd x':>6} {'step x':>6}"
    print(line.rstrip())
    print(names)


def print_row(row: dict[str, Any]) -> None:
    name = f"{row['task']}, {row['batch']}" + (" *" if row["held_out"] else "")
    text = f"{name:38} {row['errors']['fastconv']:8.1e} {row['errors']['torch']:8.1e}"
    for found in row["threads"].values():
        ms = found["step"]["milliseconds"]
        theirs = min(value for layout, value in ms.items() if layout != "fastconv")
        text += f"  {theirs:9.3f} {ms['fastconv']:9.3f} {found['forward']['ratio']:6.2f} {found['step']['ratio']:6.2f}"
    print(text, flush=True)


def print_summaries(found: Sequence[dict[str, Any]], threads: Sequence[int]) -> None:
    print("\nsteps, PyTorch's time over fastconv's: geometric mean (goal), worst")
    print(f"{'':24} {'shapes':>6} {'goal':>5}" + "".join(f"  {f'{n}: mean':>8} {'worst':>6}" for n in threads))
    for line in found:
        goal = f"{line['goal']:5.2f}" if line["goal"] else f"{'':5}"
        text = f"{line['class']:24} {line['shapes']:6} {goal}"
        for each in line["threads"].values():
            mark = " " if not line["goal"] or each["geometric_mean"] >= line["goal"] else "-"  # falls short
            text += f"  {each['geometric_mean']:7.2f}{mark} {each['worst']:6.2f}"
        print(text)
    for line in found:
        if line["class"] == "all shapes":
            for count, each in line["threads"].items():
                worst = f"{each['worst_task']}, {each['worst']:.2f} (goal {WORST_GOAL})"
                print(f"worst single shape, {count} thread{'s' * (count != '1')}: {worst}")


def figure(rows: Sequence[dict[str, Any]], title: str) -> Any:
    """A line a shape, a dot a thread count; goals as bars across their class."""
    size = (9.6, 1.6 + 0.19 * len(rows))
    picture = plots.need_matplotlib("--plot")(figsize=size, layout="constrained")
    axes = picture.subplots()
    for index, count in enumerate(rows[0]["threads"]):
        ratios = [row["threads"][count]["step"]["ratio"] for row in rows]
        colour = (plots.BLUE, *plots.OTHERS)[index % 6]
        axes.scatter(
            ratios, range(len(rows)), s=22, color=colour, label=f"{count} thread{'s' * (count != '1')}", zorder=3
        )
    labelled = False
    for name, (goal, *_) in CLASSES.items():
        at = [index for index, row in enumerate(rows) if row["class"] == name]
        if at:
            label = None if labelled else "goal of the class"
            axes.vlines(goal, at[0] - 0.45, at[-1] + 0.45, color=plots.GREEN, linewidth=2, label=label)
            axes.axhline(at[-1] + 0.5, color="#e3e3e3", linewidth=0.8)
            labelled = True
    axes.axvline(1, color=plots.GRAY, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    names = [f"{row['task']}, {row['batch']}{' *' * row['held_out']}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=6.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("PyTorch's time over fastconv's, a step (forward and all gradients); * held out")
    axes.set_title(title, fontsize=11, fontweight="bold")
    axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    picture.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return picture


def machine() -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        config = fastconv.show_config()
    return {**config, "torch": importlib.metadata.version("torch")}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="fastconv against PyTorch: forward passes and whole training steps")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", nargs="+", default=[], metavar="TASK", help="names of shapes and nets (default: all)")
    parser.add_argument(
        "--class", dest="classes", nargs="+", default=[], metavar="NAME", help=f"of classes.py, or {NET_CLASS!r}"
    )
    parser.add_argument("--quick", action="store_true", help="3 short rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns that each library gets (7; quick: 3)")
    parser.add_argument("--turn", type=float, metavar="SECONDS", help="of every call and layout (0.03; quick: 0.01)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: CPU time, for a busy machine and one thread"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw them: .png, .svg or .pdf")
    parser.add_argument("--worker", choices=sorted(LIBRARIES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return arguments
    if importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed: pip install 'fastconv[peers]'")
    arguments.threads = sorted(set(arguments.threads))
    if arguments.threads[0] < 1 or (arguments.clock == "cpu" and arguments.threads != [1]):
        parser.error("--threads must be positive, and 1 with --clock cpu")
    for given, known, what in (
        (arguments.only, CLASS_OF, "task"),
        (arguments.classes, (*CLASSES, NET_CLASS), "class"),
    ):
        for name in given:
            if name not in known:
                parser.error(f"no {what} is called {name!r}; there are {', '.join(known)}")
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 7)
    arguments.turn = arguments.turn or (0.01 if arguments.quick else 0.03)
    if arguments.plot is not None:
        plots.need_matplotlib("--plot")
    return arguments


def measure(tasks: Sequence[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the tasks, printed as they come."""
    rows: list[dict[str, Any]] = []
    held_out = {shape.name for each in CLASSES.values() for shape in each.held_out}
    script = [str(Path(__file__).resolve()), "--clock", arguments.clock]
    workers = [Worker(library, arguments.threads[-1], script) for library in ("fastconv", "torch")]
    try:
        for task in tasks:
            name = CLASS_OF[task]
            if not rows or rows[-1]["class"] != name:
                print(f"\n{name}" + (f", goal {CLASSES[name].goal}" if name in CLASSES else ""))
                print_head(arguments.threads)
            row = compare_task(task, workers, arguments.threads, arguments.rounds, arguments.turn)
            batch = SHAPES[task].batch if task in SHAPES else NETS[task][1]
            row |= {"class": name, "batch": batch, "held_out": task in held_out}
            if task in SHAPES:
                row["step_gflop"] = 3 * SHAPES[task].flops() / 1e9
            rows.append(row)
            print_row(row)
    finally:
        for worker in workers:
            worker.close()
    return rows


def main() -> int:
    arguments = parse()
    if arguments.worker:
        work(arguments.worker, arguments.clock)
        return 0
    info = machine()
    title = f"{info['cpu']}, {info['simd']}; fastconv {info['fastconv']} against PyTorch {info['torch']}"
    print(f"{title}; {arguments.rounds} rounds, {arguments.clock} clock")
    print("milliseconds a step; x: times faster than PyTorch; *: held out")
    chosen = bool(arguments.only or arguments.classes)
    tasks = [
        task for task, name in CLASS_OF.items() if not chosen or task in arguments.only or name in arguments.classes
    ]
    rows = measure(tasks, arguments)
    found = summaries(rows, arguments.threads)
    print_summaries(found, arguments.threads)
    if arguments.json is not None:
        data = {"machine": info, "rounds": arguments.rounds, "clock": arguments.clock, "rows": rows, "classes": found}
        replace_text(arguments.json, json.dumps(data, indent=1) + "\n")
    if arguments.plot is not None:
        ratios = {row["task"]: {n: found["step"]["ratio"] for n, found in row["threads"].items()} for row in rows}
        plots.save(figure(rows, title), arguments.plot, numbers=ratios)
    return 0


if __name__ == "__main__":
    sys.exit(main())
