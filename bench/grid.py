"""What a pixel costs from batch 1 to 256 and from 8 to 512 pixels: no cliff.

    python bench/grid.py                            a table a layer, and every rise above 1.3x
    python bench/grid.py --plot docs/grid.png --threads 2

One step (forward and the gradients to x, w and b) of a layer at every batch and image size whose arrays fit --memory,
in nanoseconds a pixel of the batch's input. Going to a larger batch or image, that may fall; it should not rise: a
point's rise is its cost over the least of the points before it in its row or column.

The points take turns in rounds, in random order, and a point's time is its best round's: what else the machine does can
only add to it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import turn

import fastconv
from fastconv import functional, plots
from fastconv.arrays import logical
from fastconv.files import replace_text
from fastconv.lab.shapes import ConvShape

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIZES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
LAYERS = {  # name -> (channels, filters, kernel, options)
    "3x3 64-64": (64, 64, 3, {"padding": 1}),
    "3x3 16-16": (16, 16, 3, {"padding": 1}),
    "3x3/2 64-128": (64, 128, 3, {"padding": 1, "stride": 2}),
    "1x1 128-128": (128, 128, 1, {}),
    "3x3 3-64": (3, 64, 3, {"padding": 1}),
    "3x3 depthwise 64": (64, 64, 3, {"padding": 1, "groups": 64}),
}
LIMIT = 1.3

Point = tuple[int, int]  # batch, size


def shape_of(layer: str, point: Point) -> ConvShape:
    channels, filters, r, options = LAYERS[layer]
    batch, size = point
    return ConvShape(layer, batch, channels, (size, size), filters, (r, r), **options)


def nbytes(layer: str, point: Point) -> int:
    """x, y and their gradients."""
    shape = shape_of(layer, point)
    return 8 * (math.prod(shape.x_shape) + math.prod(shape.y_shape))


class Layer:
    """A layer's steps; arrays of every point are views of the same memory."""

    def __init__(self, layer: str, points: list[Point]) -> None:
        self.layer = layer
        rng = np.random.default_rng(0)
        shapes = [shape_of(layer, point) for point in points]
        self._x = rng.standard_normal(max(math.prod(shape.x_shape) for shape in shapes), dtype=np.float32)
        self._dy = rng.standard_normal(max(math.prod(shape.y_shape) for shape in shapes), dtype=np.float32)
        self._w = rng.standard_normal(shapes[0].w_shape, dtype=np.float32) / np.float32(8)
        self._b = rng.standard_normal(shapes[0].filters, dtype=np.float32)

    def seconds(self, point: Point, at_least: float, now: Any) -> float:
        shape = shape_of(self.layer, point)
        x, dy = (
            logical(memory[: math.prod(full)].reshape(full[0], *full[2:], full[1]))
            for memory, full in ((self._x, shape.x_shape), (self._dy, shape.y_shape))
        )

        def step() -> Any:
            y, pullback = fastconv.vjp(functional.conv2d, x, self._w, self._b, **shape.options)
            return y, pullback(dy)

        step()  # memory for the results
        return turn(step, at_least, now)


def rises(cost: dict[Point, float]) -> dict[Point, float]:
    """Of every point: its cost over the least before it in its row or column; 1 for the first one."""
    found = {}
    for (batch, size), value in cost.items():
        before = [c for (n, s), c in cost.items() if (n == batch and s < size) or (s == size and n < batch)]
        found[batch, size] = value / min(before, default=value)
    return found


def measure(layer: str, arguments: argparse.Namespace) -> dict[Point, float]:
    """Nanoseconds a pixel."""
    points = [(n, s) for n in BATCHES for s in SIZES if nbytes(layer, (n, s)) <= arguments.memory << 20]
    steps = Layer(layer, points)
    now = time.perf_counter if arguments.clock == "wall" else time.process_time
    best = dict.fromkeys(points, math.inf)
    order = random.Random(0)
    for _ in range(arguments.rounds):
        for n, s in order.sample(points, len(points)):
            best[n, s] = min(best[n, s], steps.seconds((n, s), arguments.turn, now))
    return {(n, s): 1e9 * seconds / (n * s * s) for (n, s), seconds in best.items()}


def print_table(layer: str, cost: dict[Point, float]) -> None:
    print(f"\n{layer}: nanoseconds a pixel (size across, batch down); !: rises above {LIMIT}x")
    print(f"{'':5}" + "".join(f"{size:9}" for size in SIZES))
    high = rises(cost)
    for batch in BATCHES:
        cells = [
            f"{cost[batch, s]:8.1f}{'!' if high[batch, s] > LIMIT else ' '}" if (batch, s) in cost else " " * 9
            for s in SIZES
        ]
        print(f"{batch:5}" + "".join(cells).rstrip())
    worst = max(high, key=lambda point: high[point])
    print(f"largest rise: {high[worst]:.2f}x at batch {worst[0]}, {worst[1]} pixels", flush=True)


def figure(found: dict[str, dict[Point, float]], title: str) -> Any:
    """A panel a layer: cost by image size, a line a batch; rises above the limit as crosses."""
    columns = min(3, len(found))
    lines = math.ceil(len(found) / columns)
    picture = plots.need_matplotlib("--plot")(figsize=(4 * columns, 3.2 * lines + 0.8), layout="constrained")
    picture.suptitle(title, fontsize=11, fontweight="bold")
    panels = np.atleast_1d(picture.subplots(lines, columns, sharex=True, squeeze=False)).ravel()
    for axes, (layer, cost) in zip(panels, found.items(), strict=False):
        high = rises(cost)
        for index, batch in enumerate(BATCHES):
            sizes = [s for s in SIZES if (batch, s) in cost]
            shade = 0.15 + 0.75 * index / (len(BATCHES) - 1)
            colour = (0.0, 0.45 * (1 - shade) + 0.25, 1 - 0.8 * shade)
            axes.plot(sizes, [cost[batch, s] for s in sizes], color=colour, marker=".", linewidth=1.3, label=f"{batch}")
        over = [point for point, rise in high.items() if rise > LIMIT]
        axes.scatter([s for _, s in over], [cost[p] for p in over], marker="x", s=60, color=plots.ORANGE, zorder=5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(f"{layer}: largest rise {max(high.values()):.2f}x", fontsize=10)
        axes.grid(color="#e3e3e3", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("ns a pixel, a step")
    picture.supxlabel("pixels along an image's side", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    picture.legend(handles, labels, title="batch", loc="outside right center", fontsize=8, frameon=False)
    return picture


def main() -> int:
    parser = argparse.ArgumentParser(description="a convolution step's cost a pixel over batch and image size")
    parser.add_argument("--layer", nargs="+", choices=LAYERS, default=list(LAYERS), metavar="NAME")
    parser.add_argument("--threads", type=int, metavar="N", help="default: fastconv's")
    parser.add_argument("--memory", type=int, default=512, metavar="MIB", help="of x, y and their gradients (512)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--turn", type=float, default=0.005, metavar="SECONDS", help="least time of a point in a round")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine and one thread"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw it: .png, .svg or .pdf")
    arguments = parser.parse_args()
    if arguments.plot is not None:
        plots.need_matplotlib("--plot")
    if arguments.threads is not None:
        fastconv.set_num_threads(arguments.threads)
    if arguments.clock == "cpu" and fastconv.get_num_threads() != 1:
        parser.error("--clock cpu goes with --threads 1")
    threads = fastconv.get_num_threads()
    found = {}
    for layer in arguments.layer:
        found[layer] = measure(layer, arguments)
        print_table(layer, found[layer])
    if arguments.json is not None:
        rows = [
            {"layer": layer, "batch": n, "size": s, "ns_per_pixel": value, "rise": rises(cost)[n, s]}
            for layer, cost in found.items()
            for (n, s), value in cost.items()
        ]
        replace_text(arguments.json, json.dumps({"threads": threads, "points": rows}, indent=1) + "\n")
    if arguments.plot is not None:
        title = f"Cost of a training step a pixel, {threads} thread{'s' * (threads > 1)}; x: rises above {LIMIT}x"
        plots.save(figure(found, title), arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
