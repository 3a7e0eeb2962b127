"""Strides as resampling: four ways to a convolution with stride S2/S1, one answer, very different times.

    loops       the definition, in naive loops (`fastconv.reference`)
    resampled   upsample by S1, convolve densely, downsample by S2: most outputs are thrown away again
    strided     upsample by S1, convolve with stride S2: no output is wasted, but inserted zeros are multiplied
    phases      conv2d(stride=Fraction(S2, S1)): neither

On small integers all four agree to the last bit, outputs and gradients. The picture shows the steps for a stride of 3/2
and what each way costs, forward and backward, on a layer of real size.

    python examples/strides_as_resampling.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv import plots, reference, vjp

STRIDES = (Fraction(2), Fraction(1, 2), Fraction(3, 2), Fraction(2, 3))
Pullback = Callable[[np.ndarray], tuple[Any, ...]]
Way = Callable[[np.ndarray, np.ndarray, Fraction, int], tuple[np.ndarray, Pullback]]

# --- the four ways: (x, w, stride, padding) -> (y, pullback) ---------------------------------------------------------


def loops(x: np.ndarray, w: np.ndarray, stride: Fraction, padding: int) -> tuple[np.ndarray, Pullback]:
    return vjp(reference.conv2d, x, w, stride=stride, padding=padding)


def resampled(x: np.ndarray, w: np.ndarray, stride: Fraction, padding: int) -> tuple[np.ndarray, Pullback]:
    wide, back_up = vjp(F.upsample, x, factor=stride.denominator)
    dense, back_convolution = vjp(F.conv2d, wide, w, padding=padding)
    y, back_down = vjp(F.downsample, dense, factor=stride.numerator)

    def pullback(dy: np.ndarray) -> tuple[Any, ...]:
        dwide, dw = back_convolution(*back_down(dy))
        return (*back_up(dwide), dw)

    return y, pullback


def strided(x: np.ndarray, w: np.ndarray, stride: Fraction, padding: int) -> tuple[np.ndarray, Pullback]:
    wide, back_up = vjp(F.upsample, x, factor=stride.denominator)
    y, back_convolution = vjp(F.conv2d, wide, w, stride=stride.numerator, padding=padding)

    def pullback(dy: np.ndarray) -> tuple[Any, ...]:
        dwide, dw = back_convolution(dy)
        return (*back_up(dwide), dw)

    return y, pullback


def phases(x: np.ndarray, w: np.ndarray, stride: Fraction, padding: int) -> tuple[np.ndarray, Pullback]:
    return vjp(F.conv2d, x, w, stride=stride, padding=padding)


WAYS: dict[str, Way] = {"loops": loops, "resampled": resampled, "strided": strided, "phases": phases}
FAST = ("resampled", "strided", "phases")


# --- do they agree, and what do they cost ----------------------------------------------------------------------------


def integers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def agree(stride: Fraction) -> bool:
    """Outputs and both gradients, bit for bit; in float64, which every algorithm of `conv2d` adds up exactly."""
    x, w = integers(2, 3, 9, 8).astype(np.float64), integers(4, 3, 3, 3, seed=1).astype(np.float64)
    results = []
    for way in WAYS.values():
        y, pullback = way(x, w, stride, 1)
        results.append((y, *pullback(integers(*y.shape, seed=2))))
    return all(np.array_equal(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True))


def seconds(stride: Fraction, batch: int, channels: int, size: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each fast way, forward and backward, in turns."""
    x, w = channels_last(integers(batch, channels, size, size)), integers(channels, channels, 3, 3, seed=1)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in FAST}
    for _ in range(rounds + 1):
        for name in FAST:
            begun = time.perf_counter()
            y, pullback = WAYS[name](x, w, stride, 1)
            forward = time.perf_counter() - begun
            dy = channels_last(integers(*y.shape, seed=2))
            begun = time.perf_counter()
            pullback(dy)
            times[name][0].append(forward)
            times[name][1].append(time.perf_counter() - begun)
    return {name: (statistics.median(f[1:]), statistics.median(b[1:])) for name, (f, b) in times.items()}


def channels_last(array: np.ndarray) -> np.ndarray:
    """The same array in the memory order in which layers hand it on."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


# --- the picture -----------------------------------------------------------------------------------------------------


def draw(times: dict[Fraction, dict[str, tuple[float, float]]], layer: str) -> Any:
    figure = plots.need_matplotlib("the picture")(figsize=(12.8, 6.6), layout="constrained")
    figure.suptitle(
        "Strides as resampling: a stride of 3/2 step by step, and what the ways to a stride cost",
        fontweight="bold", fontsize=13,
    )  # fmt: skip
    steps, costs = figure.subfigures(1, 2, width_ratios=(1.0, 1.05))
    draw_steps(steps)
    bars = costs.subplots(2, 1, sharex=True)
    colours = {"resampled": plots.GRAY, "strided": plots.ORANGE, "phases": plots.BLUE}
    labels = {"resampled": "upsample, convolve, downsample", "strided": "upsample, strided convolution",
              "phases": "conv2d with this stride"}  # fmt: skip
    for direction, (axes, title) in enumerate(zip(bars, ("forward", "backward"), strict=True)):
        for offset, name in enumerate(FAST):
            milliseconds = [1e3 * times[stride][name][direction] for stride in times]
            at = np.arange(len(times)) + 0.27 * (offset - 1)
            drawn = axes.bar(at, milliseconds, width=0.25, color=colours[name], label=labels[name])
            axes.bar_label(
                drawn, fmt=lambda value: f"{value:.3g}" if value < 100 else f"{value:,.0f}", fontsize=8, padding=1
            )
        axes.set_title(f"{title}, milliseconds ({layer})", fontsize=10)
        axes.set_yscale("log")
        axes.margins(y=0.16)
        axes.set_xticks(range(len(times)), [f"stride {stride}" for stride in times])
        axes.tick_params(axis="x", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    costs.legend(*bars[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5,
                 columnspacing=1.2, handlelength=1.2, frameon=False)  # fmt: skip
    return figure


def draw_steps(figure: Any) -> None:
    """One line through the three steps."""
    x = np.array([[[2.0, 4, 3, 1, 2, 4, 5, 3]]])
    w = np.array([[[0.5, 1, 0.5]]])  # it interpolates
    wide = F.upsample(x, 2)
    dense = F.conv1d(wide, w, padding=1)
    y = F.downsample(dense, 3)
    kept = np.arange(wide.shape[2]) % 3 == 0
    inserted = np.arange(wide.shape[2]) % 2 == 1
    rows = (
        ("the input: 8 elements", x, np.ones(8, bool), plots.BLUE),
        ("upsampled by 2: zeros between neighbours, 15 elements", wide, ~inserted, plots.BLUE),
        ("convolved with (½, 1, ½): 15 outputs, of which the filled ones stay", dense, kept, plots.ORANGE),
        ("downsampled by 3: the 5 outputs of stride 3/2", y, np.ones(5, bool), plots.ORANGE),
    )
    for axes, (title, values, filled, colour) in zip(figure.subplots(4, 1), rows, strict=True):
        at, heights = np.arange(values.shape[2]), values[0, 0]
        axes.vlines(at, 0, heights, color=colour, linewidth=1.6)
        axes.scatter(at[filled], heights[filled], s=42, color=colour, zorder=3)
        axes.scatter(at[~filled], heights[~filled], s=42, facecolor="white", edgecolor=colour, zorder=3)
        axes.axhline(0, color="#bdbdbd", linewidth=0.8, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(-0.6, max(len(at) - 1, 7) + 0.6)
        axes.set_ylim(-0.7, 6)
        axes.set_xticks(at)
        axes.set_yticks([])
        axes.tick_params(labelsize=8, length=0)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def main(argv: list[str] | None = None) -> dict[Fraction, bool]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/strides_as_resampling"), help="folder for the picture")
    parser.add_argument("--small", action="store_true", help="a form that takes a second, for the tests")
    args = parser.parse_args(argv)
    batch, channels, size, rounds = (1, 8, 12, 1) if args.small else (16, 64, 32, 15)
    same = {stride: agree(stride) for stride in STRIDES}
    for stride, equal in same.items():
        print(f"stride {stride!s:3s}  the four ways {'agree to the last bit' if equal else 'DIFFER'}")
    layer = f"{batch} x {channels} channels, {size}x{size}, 3x3"
    times = {stride: seconds(stride, batch, channels, size, rounds) for stride in STRIDES}
    print(f"{layer}: times slower than conv2d with this stride, forward and backward")
    for stride, ways in times.items():
        ratios = {name: [a / b for a, b in zip(ways[name], ways["phases"], strict=True)] for name in FAST[:2]}
        shown = "   ".join(f"{name} {forward:5.1f} {backward:5.1f}" for name, (forward, backward) in ratios.items())
        print(f"stride {stride!s:3s}  {shown}")
    args.out.mkdir(parents=True, exist_ok=True)
    plots.save(draw(times, layer), args.out / "strides_as_resampling.png")
    print(f"picture: {args.out / 'strides_as_resampling.png'}")
    return same


if __name__ == "__main__":
    main(sys.argv[1:])
