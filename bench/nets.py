"""Whole nets against PyTorch, and Keras where it is installed: training steps, inference and memory, twelve nets.

    python bench/nets.py                                   all of it, about twenty minutes
    python bench/nets.py --quick --threads 1               fewer rounds
    python bench/nets.py --only vgg resnet20 --memory      these two, and the memory of their training
    python bench/nets.py --busy 2 --only digits            beside two processes that count for ever: mean times
    python bench/nets.py --bfloat16                        PyTorch's autocast to bfloat16 against our float32
    python bench/nets.py --compile                         torch.compile among PyTorch's variants (needs a C++ compiler)

A step is forward, cross-entropy, gradients and SGD with momentum 0.9; inference is `net(x)` of a net in `eval`, and
"copy" what `for_inference()` makes of it, against the same of PyTorch. The weights and the batch are the same on both
sides, and the outputs are compared before anything is timed. PyTorch runs in both of its memory layouts, with its plain
and its fused optimiser, and in every round the best of them counts. Two processes take turns as in peers.py, glibc told
to keep its memory in both.

floor: what the net's convolutions and linear layers must do (`fastconv.analysis.floor`): their multiplications at the
rate of this machine's matrix product, and each of their inputs, outputs, weights and gradients once a pass through
memory at the rate of a copy.

--memory: a process a library that has one net and trains it for 20 steps, with no settings of ours: the peak of its
resident memory less that after its imports; of PyTorch's layouts the leaner.

Keras on TensorFlow's CPU build is timed in turns with ours alone, and stands beside PyTorch, not among its variants
(bench/in_keras.py).

Needs PyTorch: pip install 'fastconv[peers]'. Keras: pip install tensorflow-cpu.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import importlib.util
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import in_keras
import numpy as np
import peers

import fastconv
from fastconv import (
    AdaptiveAvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv1d,
    Conv2d,
    Conv3d,
    Dropout,
    Flatten,
    Linear,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    ReLU,
    Sequential,
    models,
    optim,
    plots,
)
from fastconv.analysis import floor
from fastconv.files import replace_text

MOMENTUM, RATE = 0.9, 1e-4
STEPS = 20  # of --memory

Layers = list[Any]


# --- the nets --------------------------------------------------------------------------------------------------------


def lenet() -> Sequential:
    return Sequential(
        Conv2d(1, 6, 5), ReLU(), MaxPool2d(2), Conv2d(6, 16, 5), ReLU(), MaxPool2d(2),
        Flatten(), Linear(256, 120), ReLU(), Linear(120, 84), ReLU(), Linear(84, 10),
    )  # fmt: skip


def normed(inputs: int, filters: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Layers:
    convolution = Conv2d(inputs, filters, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, BatchNorm2d(filters), ReLU()]


def digits() -> Sequential:
    return Sequential(*normed(1, 32), *normed(32, 64), MaxPool2d(2), Flatten(), Linear(1024, 10))


def mnist() -> Sequential:
    return Sequential(
        Conv2d(1, 32, 3), ReLU(), Conv2d(32, 64, 3), ReLU(), MaxPool2d(2), Dropout(0.25), Flatten(),
        Linear(9216, 128), ReLU(), Dropout(0.5), Linear(128, 10),
    )  # fmt: skip


def vgg() -> Sequential:
    layers: Layers = []
    inputs = 3
    for filters in (64, 128, 256):
        layers += [*normed(inputs, filters), *normed(filters, filters), MaxPool2d(2)]
        inputs = filters
    return Sequential(*layers, Flatten(), Linear(4096, 10))


def depthwise() -> Sequential:
    layers, inputs = normed(3, 32), 32
    for filters, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        layers += [*normed(inputs, inputs, 3, stride, inputs), *normed(inputs, filters, 1)]
        inputs = filters
    return Sequential(*layers, AdaptiveAvgPool2d(1), Flatten(), Linear(256, 10))


def audio() -> Sequential:
    layers: Layers = []
    for inputs, filters, kernel, stride in ((1, 32, 80, 4), (32, 32, 3, 1), (32, 64, 3, 1), (64, 64, 3, 1)):
        layers += [Conv1d(inputs, filters, kernel, stride=stride, padding=1, bias=False), BatchNorm1d(filters)]
        layers += [ReLU(), MaxPool1d(4)]
    return Sequential(*layers, Flatten(), Linear(960, 35))


def volumes() -> Sequential:
    layers: Layers = []
    for inputs, filters in ((1, 16), (16, 32), (32, 64)):
        layers += [Conv3d(inputs, filters, 3, padding=1), ReLU(), MaxPool3d(2)]
    return Sequential(*layers, Flatten(), Linear(4096, 10))


class Net(NamedTuple):
    make: Callable[[], Sequential]
    batch: int
    item: tuple[int, ...]  # (C, *spatial)
    classes: int = 10


NETS = {
    "lenet": Net(lenet, 64, (1, 28, 28)),
    "lenet, one image": Net(lenet, 1, (1, 28, 28)),
    "digits": Net(digits, 64, (1, 8, 8)),
    "mnist": Net(mnist, 128, (1, 28, 28)),
    "vgg": Net(vgg, 64, (3, 32, 32)),
    "resnet20": Net(models.resnet20, 128, (3, 32, 32)),
    "resnet18": Net(models.resnet18, 8, (3, 224, 224), 1000),
    "depthwise": Net(depthwise, 64, (3, 32, 32)),
    "mobilenet": Net(models.mobilenet, 4, (3, 224, 224), 1000),
    "audio": Net(audio, 32, (1, 16000), 35),
    "volumes": Net(volumes, 8, (1, 32, 32, 32)),
    "vgg16": Net(models.vgg16, 4, (3, 224, 224), 1000),
}


def built(name: str) -> tuple[Sequential, np.ndarray, np.ndarray]:
    """A net, and a batch of images and classes; the same in every process."""
    net = NETS[name]
    fastconv.manual_seed(0)
    made = net.make()
    rng = np.random.default_rng(0)
    return (
        made, rng.standard_normal((net.batch, *net.item), dtype=np.float32),
        rng.integers(0, net.classes, net.batch),
    )  # fmt: skip


# --- the two libraries -----------------------------------------------------------------------------------------------


Variants = dict[str, peers.Calls]  # by name: "step" and "inference"


def in_fastconv(name: str, arguments: argparse.Namespace) -> tuple[np.ndarray, Variants]:
    net, x, target = built(name)
    still = copy.deepcopy(net).eval()
    answering = still.for_inference()
    step = step_in_fastconv(net, x, target)
    calls = {"step": step, "inference": lambda: still(x), "for_inference": lambda: answering(x)}
    return still(x), {"fastconv": calls}


def step_in_fastconv(net: Sequential, x: np.ndarray, target: np.ndarray) -> Callable[[], None]:
    optimizer = optim.SGD(RATE, momentum=MOMENTUM)

    def step() -> None:
        _, gradients = fastconv.value_and_grad(net, "cross_entropy", x, target)
        optimizer.step(net.parameters(), gradients)

    return step


def in_torch(name: str, arguments: argparse.Namespace) -> tuple[np.ndarray, Variants]:
    import torch

    ours, images, classes = built(name)
    x, target = torch.from_numpy(images), torch.from_numpy(classes)
    side = peers.InTorch()
    twin = side.copied(ours)
    with torch.no_grad():
        output = copy.deepcopy(twin).eval()(x).numpy()
    autocast: Callable[[], Any] = contextlib.nullcontext
    if arguments.bfloat16:
        autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)

    def calls(layout: Any, fused: bool, compiled: bool) -> peers.Calls:
        net = copy.deepcopy(twin).to(memory_format=layout)
        still = copy.deepcopy(net).eval()
        given = x.contiguous(memory_format=layout)
        train, infer = (torch.compile(net), torch.compile(still)) if compiled else (net, still)
        step = step_in_torch(train, given, target, fused, autocast)

        def inference() -> Any:
            with torch.no_grad(), autocast():
                return infer(given)

        return {"step": step, "inference": inference, "for_inference": inference}

    layouts = side.layouts(x.ndim)
    found = {
        f"{layout}{', fused SGD' * fused}": calls(form, fused, False)
        for layout, form in layouts.items()
        for fused in (False, True)
    }
    if arguments.compile:
        found |= {f"{layout}, compiled": calls(form, True, True) for layout, form in layouts.items()}
    return output, found


def step_in_torch(net: Any, x: Any, target: Any, fused: bool, autocast: Callable[[], Any]) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=MOMENTUM, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        with autocast():
            loss = torch.nn.functional.cross_entropy(net(x), target)
        loss.backward()
        optimizer.step()

    return step


def of_keras(name: str, arguments: argparse.Namespace) -> tuple[np.ndarray, Variants]:
    net, x, target = built(name)
    output, calls = in_keras.calls_of(net, x, target, RATE, MOMENTUM)
    return output, {variant: parts | {"for_inference": parts["inference"]} for variant, parts in calls.items()}


LIBRARIES = {"fastconv": in_fastconv, "torch": in_torch, "keras": of_keras}
PARTS = ("step", "inference")  # shown whole
TIMED = (*PARTS, "for_inference")


def work(arguments: argparse.Namespace) -> None:
    def prepare(name: str) -> tuple[Variants, list[float]]:
        output, calls = LIBRARIES[arguments.worker](name, arguments)
        return calls, [float(np.abs(output).max()), *map(float, output.ravel()[:64])]

    of = statistics.fmean if arguments.busy else statistics.median
    if arguments.worker == "keras":
        in_keras.set_threads(arguments.threads[0])
        peers.serve(prepare, in_keras.set_threads, of=of)
    else:
        peers.serve(prepare, peers.LIBRARIES[arguments.worker]().set_threads, of=of)


def peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("nets: this system does not tell a process's peak of memory")


def train(arguments: argparse.Namespace) -> None:
    """--memory's process: prints the bytes that training took at its peak."""
    if arguments.worker == "torch":
        import torch
    before = peak()
    net, images, classes = built(arguments.train)
    if arguments.worker == "torch":
        side = peers.InTorch()
        x, layout = torch.from_numpy(images), side.layouts(images.ndim)[arguments.layout]
        net = side.copied(net).to(memory_format=layout)
        x = x.contiguous(memory_format=layout)
        step = step_in_torch(net, x, torch.from_numpy(classes), False, contextlib.nullcontext)
    else:
        step = step_in_fastconv(net, images, classes)
    for _ in range(STEPS):
        step()
    print(peak() - before)


# --- measuring -------------------------------------------------------------------------------------------------------


def floors(name: str, threads: Sequence[int]) -> dict[str, dict[str, float]]:
    """By thread count, milliseconds of a step and of inference: of the multiplications, of the way through memory."""
    net = NETS[name]
    inference = step = floor.Work()
    for row in net.make().summary((net.batch, *net.item)):
        if row.flops:
            x, y = 4 * math.prod(row.input_shape), 4 * math.prod(row.output_shape)
            first = not inference.flops  # nobody asks for the gradient to its input
            found = floor.passes(x, y, 4 * row.parameters, flops=row.flops, dx=0 if first else x)
            inference += found["forward"]
            step += sum(found.values(), floor.Work())
    return {
        str(count): {
            f"{part}, {what}": milliseconds
            for part, work in (("step", step), ("inference", inference))
            for what, milliseconds in zip(("memory", "arithmetic"), work.milliseconds(count), strict=True)
        }
        for count in threads
    }


def compare(
    name: str, workers: Sequence[peers.Worker], keras: in_keras.Workers | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """A row: per thread count and part the ratio, its range, and milliseconds; the same of Keras."""

    def timed(ours: Any, other: Any, library: str) -> dict[str, dict[str, Any]]:
        outputs = np.array(other.ask("prepare", name))
        if not np.abs(expected - outputs).max() <= 1e-3 * expected[0]:
            raise SystemExit(f"nets: {name}: fastconv computes {expected[:4]}, {library} {outputs[:4]}")
        return peers.in_turns([ours, other], arguments.threads, arguments.rounds, arguments.turn, TIMED)

    ours, torch = workers
    expected = np.array(ours.ask("prepare", name))
    row = {"net": name, "batch": NETS[name].batch, "threads": timed(ours, torch, "PyTorch")}
    return row if keras is None else row | {"keras": timed(ours, keras, "Keras")}


def memory_of(name: str) -> dict[str, int]:
    """Bytes at the peak of training, by variant."""
    found = {}
    layouts = ("NCHW", "channels_last") if len(NETS[name].item) > 2 else ("NCHW",)
    for library, layout in (("fastconv", ""), *(("torch", layout) for layout in layouts)):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", library, "--train", name]
        command += ["--layout", layout] if layout else []
        found[layout or library] = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return found


# --- the report ------------------------------------------------------------------------------------------------------


def theirs(figures: dict[str, float]) -> float:
    """The least of PyTorch's variants."""
    return min(value for variant, value in figures.items() if variant != "fastconv")


def print_row(row: dict[str, Any]) -> None:
    text = f"{row['net']:17} {row['batch']:4}"
    for count, found in row["threads"].items():
        for part in PARTS:
            ms = found[part]["milliseconds"]
            least = max(row["floor"][count][f"{part}, {what}"] for what in ("arithmetic", "memory"))
            text += f"  {theirs(ms):8.2f} {ms['fastconv']:8.2f} {found[part]['ratio']:5.2f} {least:7.2f}"
        text += f" {found['for_inference']['ratio']:5.2f}"
        if "keras" in row:
            text += f" {row['keras'][count]['step']['ratio']:5.2f}"
    if "memory" in row:
        memory = row["memory"]
        text += f"  {theirs(memory) / 1e6:5.0f} {memory['fastconv'] / 1e6:5.0f} {row['memory_ratio']:5.2f}"
    print(text, flush=True)


def print_head(arguments: argparse.Namespace, keras: bool) -> None:
    line, names = f"{'':22}", f"{'net':17} {'batch':>4}"
    for count in arguments.threads:
        for part in PARTS:
            line += f"  {f'{part}, {count} thread' + 's' * (count > 1):^31}"
            names += f"  {'PyTorch':>8} {'ours':>8} {'x':>5} {'floor':>7}"
        line, names = f"{line}{'':6}", f"{names}  copy"
        if keras:
            line, names = f"{line}{'':6}", f"{names} Keras"
    if arguments.memory:
        line, names = line + f"  {'memory, MB':^17}", names + "   theirs  ours ratio"
    print(f"{line.rstrip()}\n{names}")


def print_means(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    print("\nPyTorch's time over ours: geometric mean, worst")
    for count in map(str, arguments.threads):
        for part in TIMED:
            ratios = {row["net"]: row["threads"][count][part]["ratio"] for row in rows}
            worst = min(ratios, key=lambda name: ratios[name])
            print(
                f"  {part}, {count} thread{'s' * (count != '1')}: "
                f"{statistics.geometric_mean(ratios.values()):.2f}, {ratios[worst]:.2f} ({worst})"
            )
        if "keras" in rows[0]:
            ratios = {row["net"]: row["keras"][count]["step"]["ratio"] for row in rows}
            worst = min(ratios, key=lambda name: ratios[name])
            mean = statistics.geometric_mean(ratios.values())
            print(f"  Keras's over ours, step, {count}: {mean:.2f}, {ratios[worst]:.2f} ({worst})")
    if arguments.memory:
        ratios = {row["net"]: row["memory_ratio"] for row in rows}
        worst = max(ratios, key=lambda name: ratios[name])
        mean = statistics.geometric_mean(ratios.values())
        print(f"  memory, ours over PyTorch's: {mean:.2f}, {ratios[worst]:.2f} ({worst})")


def figure(rows: Sequence[dict[str, Any]], title: str) -> Any:
    """A dot a net and thread count, steps and inference beside each other."""
    picture = plots.need_matplotlib("--plot")(figsize=(9.6, 1.6 + 0.3 * len(rows)), layout="constrained")
    for axes, part in zip(picture.subplots(1, 2, sharey=True), PARTS, strict=True):
        for index, count in enumerate(rows[0]["threads"]):
            ratios = [row["threads"][count][part]["ratio"] for row in rows]
            colour = (plots.BLUE, *plots.OTHERS)[index % 6]
            axes.scatter(
                ratios, range(len(rows)), s=26, color=colour, zorder=3,
                label=f"{count} thread{'s' * (count != '1')}" if part == "step" else None,
            )  # fmt: skip
        axes.axvline(1, color=plots.GRAY, linewidth=1)
        axes.set_yticks(range(len(rows)), [f"{row['net']}, {row['batch']}" for row in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(part, fontsize=10)
        axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
    picture.suptitle(title, fontsize=11, fontweight="bold")
    picture.supxlabel("PyTorch's time over fastconv's", fontsize=10)
    picture.legend(loc="outside lower right", ncols=2, fontsize=9, frameon=False)
    return picture


def shown(row: dict[str, Any]) -> dict[str, float]:
    """A row's ratios: "step 1", a part and its threads, and "memory"."""
    ratios = {f"{part} {count}": found[part]["ratio"] for count, found in row["threads"].items() for part in TIMED}
    return ratios | ({"memory": row["memory_ratio"]} if "memory_ratio" in row else {})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="whole nets against PyTorch: steps, inference, memory")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--only", nargs="+", default=[], metavar="NET", help="default: all")
    parser.add_argument("--quick", action="store_true", help="3 short rounds")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns that each library gets (7; quick: 3)")
    parser.add_argument("--turn", type=float, metavar="SECONDS", help="of every call and variant (0.1; quick: 0.02)")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes beside that count for ever")
    parser.add_argument("--memory", action="store_true", help="also the peak of a process that trains")
    parser.add_argument("--bfloat16", action="store_true", help="PyTorch under autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw them: .png, .svg or .pdf")
    parser.add_argument("--worker", choices=sorted(LIBRARIES), help=argparse.SUPPRESS)
    parser.add_argument("--train", metavar="NET", help=argparse.SUPPRESS)
    parser.add_argument("--layout", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return arguments
    if importlib.util.find_spec("torch") is None:
        parser.error("PyTorch is not installed: pip install 'fastconv[peers]'")
    for name in arguments.only:
        if name not in NETS:
            parser.error(f"no net is called {name!r}; there are {', '.join(NETS)}")
    arguments.threads = sorted(set(arguments.threads))
    if arguments.threads[0] < 1:
        parser.error("--threads must be positive")
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 7)
    arguments.turn = arguments.turn or (0.02 if arguments.quick else 0.1)
    if arguments.plot is not None:
        plots.need_matplotlib("--plot")
    return arguments


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows, printed as they come."""
    rows = []
    floor.Work().floor(1)  # the rates are measured before the workers run
    options = [name for name in ("--bfloat16", "--compile") if getattr(arguments, name.strip("-"))]
    script = [str(Path(__file__).resolve()), *options, "--busy", str(arguments.busy)]
    with contextlib.ExitStack() as stack:
        workers = [peers.Worker(library, arguments.threads[-1], script) for library in peers.LIBRARIES]
        keras = None
        if in_keras.is_installed() and not arguments.bfloat16:
            keras = in_keras.Workers(arguments.threads, script)
        for worker in (*workers, *([] if keras is None else [keras])):
            stack.callback(worker.close)
        for _ in range(arguments.busy):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(other.wait)
            stack.callback(other.kill)
        print_head(arguments, keras is not None)
        for name in arguments.only or NETS:
            row = compare(name, workers, keras, arguments)
            row["floor"] = floors(name, arguments.threads)
            if arguments.memory:
                row["memory"] = memory_of(name)
                row["memory_ratio"] = row["memory"]["fastconv"] / theirs(row["memory"])
            rows.append(row)
            print_row(row)
    return rows


def main() -> int:
    arguments = parse()
    if arguments.train:
        train(arguments)
        return 0
    if arguments.worker:
        work(arguments)
        return 0
    info = peers.machine()
    title = f"{info['cpu']}, {info['simd']}; fastconv {info['fastconv']} against PyTorch {info['torch']}"
    beside = f", beside {arguments.busy} busy processes" if arguments.busy else ""
    print(f"{title}{', bfloat16' * arguments.bfloat16}; {arguments.rounds} rounds{beside}; milliseconds")
    rows = measure(arguments)
    print_means(rows, arguments)
    if arguments.json is not None:
        data = {"machine": info, "rounds": arguments.rounds, "busy": arguments.busy, "rows": rows}
        replace_text(arguments.json, json.dumps(data, indent=1) + "\n")
    if arguments.plot is not None:
        plots.save(figure(rows, title), arguments.plot, numbers={row["net"]: shown(row) for row in rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
