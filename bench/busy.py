"""Threads on a normal day: steps on several threads over one thread's, on an idle machine, a busy one, after a pause.

    python bench/busy.py                                   all of it, about three minutes
    python bench/busy.py --net vgg_cifar --busy 2          one net beside two processes that count for ever
    python bench/busy.py --net conv2d --pause 0.005        a single convolution, 5 ms of sleep before every call
    python bench/busy.py --tree ../before --threads 2      another tree beside this one, each compiled in place

Processes take turns, a quarter of a second each; the ratios are of medians and of means to the first line's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CHILD = """
import gc, json, sys, time
import numpy as np
import fastconv
from fastconv import functional, models
name, threads, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
fastconv.set_num_threads(threads)
gc.disable()
rng = np.random.default_rng(0)
if name == "conv2d":
    x, w = rng.standard_normal((4, 32, 32, 32), np.float32), rng.standard_normal((32, 32, 3, 3), np.float32)
    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    def step():
        functional.conv2d(x, w, padding=1)
else:
    net, size = getattr(models, name)(rng=0), 8 if name == "digits_cnn" else 32
    x = rng.standard_normal((64, 1 if name == "digits_cnn" else 3, size, size), np.float32)
    target, optimizer = rng.integers(0, 10, 64), fastconv.optim.SGD(0.01, 0.9)
    def step():
        gradients = fastconv.value_and_grad(net, functional.cross_entropy, x, target)[1]
        optimizer.step(net.parameters(), gradients)
for _ in range(3):
    step()
print("ready", flush=True)
for _ in sys.stdin:
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < 0.25 or len(times) < 2:
        time.sleep(pause) if pause else None
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(json.dumps(times), flush=True)
"""


def measure(net: str, busy: int, pause: float, variants: list[tuple[Path, int]], rounds: int) -> None:
    """Print a line for each (tree, threads)."""
    children = []
    for tree, threads in variants:
        command = [sys.executable, "-c", CHILD, net, str(threads), str(pause)]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        pipe = subprocess.PIPE
        children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd="/"))
    others = []
    try:
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise SystemExit("busy: a process ended")
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        times: list[list[float]] = [[] for _ in children]
        for _, (child, found) in itertools.product(range(rounds), zip(children, times, strict=True)):
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            found += json.loads(child.stdout.readline())
    finally:
        for process in (*others, *children):
            process.kill()
    print(f"{net}, {busy} busy processes, pause {1000 * pause:g} ms")
    median, mean = statistics.median(times[0]), statistics.mean(times[0])
    for (tree, threads), found in zip(variants, times, strict=True):
        ratios = f"median {statistics.median(found) / median:5.2f}   mean {statistics.mean(found) / mean:5.2f}"
        print(f"    {tree.name:16} {threads:3} threads   {ratios}   {len(found)} steps", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=["conv2d", "digits_cnn", "vgg_cifar", "resnet20"])
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes beside (0)")
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="before every step (0)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another tree, measured too")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    trees = [HERE, *(tree.resolve() for tree in options.tree)]
    variants = [(tree, threads) for threads in options.threads for tree in trees]
    days = [(options.net, options.busy, options.pause)]
    if options.net is None:
        days = [
            *itertools.product(("digits_cnn", "vgg_cifar"), (0, 2), (0.0,)),
            *itertools.product(("conv2d",), (0, 2), (0.005,)),
        ]
    for net, busy, pause in days:
        measure(net, busy, pause, variants, options.rounds)


if __name__ == "__main__":
    main()
