"""Strides as resampling: four ways to a convolution with stride S2/S1, one answer, very different times.

    loops       the definition, in naive loops (`fastconv.reference`)
    resampled   upsample by S1, convolve densely, downsample by S2: most outputs are thrown away again
    strided     upsample by S1, convolve with stride S2: no output is wasted, but inserted zeros are multiplied
    phases      conv2d(stride=Fraction(S2, S1)): neither

On small integers all four agree to the last bit, outputs and gradients. The picture shows the steps for a stride of 3/2
on a line, those for a stride of 1/2 on a plane, with the way back, and what each way costs on a layer of real size.

    python examples/strides_as_resampling.py [--out FOLDER]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from common import arguments, save

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
    figure = plots.need_matplotlib("the picture")(figsize=(12.8, 11.6), layout="constrained")
    figure.suptitle(
        "Strides as resampling: 3/2 on a line, 1/2 on a plane and back, and what the ways to a stride cost",
        fontweight="bold", fontsize=13,
    )  # fmt: skip
    upper, plane = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    steps, costs = upper.subfigures(1, 2, width_ratios=(1.0, 1.05))
    draw_steps(steps)
    draw_plane(plane)
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
                drawn,
                fmt=lambda value: f"{value:.2g}" if value < 10 else f"{value:.0f}" if value < 1000 else f"{value:,.0f}",
                fontsize=8,
                padding=1,
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


def plane_by_half() -> dict[str, np.ndarray]:
    """4x4 convolved with a 2x2 filter and a stride of 1/2, and the gradient of the outputs' sum, weighted, on its way
    back; every step on a plane."""
    x = integers(1, 1, 4, 4, seed=3)
    w = np.array([[[[1.0, 2], [-1, 1]]]], np.float32)
    wide, back_up = vjp(F.upsample, x, factor=2)
    z, back_convolution = vjp(F.conv2d, wide, w)
    dz = integers(*z.shape, seed=5)
    dwide, dw = back_convolution(dz)
    (dx,) = back_up(dwide)
    y, pullback = vjp(F.conv2d, x, w, stride=Fraction(1, 2))
    assert np.array_equal(y, z)
    assert all(map(np.array_equal, pullback(dz), (dx, dw)))
    return {"X": x, "uSample(X, 2)": wide, "W": w, "Z": z, "dZ": dz, "dW": dw, "d uSample(X, 2)": dwide, "dX": dx}


def draw_plane(figure: Any) -> None:
    steps = {name: values[0, 0] for name, values in plane_by_half().items()}
    rows = (
        (("X", "X, 4x4"), ("uSample(X, 2)", "upsampled by 2: zeros\nbetween neighbours, 7x7"), ("W", "filter W, 2x2"),
         ("Z", "Z = Conv(X, W, 1/2), 6x6")),
        (("dX", "dX: the first of every 2,\n4x4"), ("d uSample(X, 2)", "the gradient of the upsampled,\n7x7: dZ with "
         "zeros around, by reversed W"), ("dW", "dW: the upsampled X\nby dZ"), ("dZ", "the gradient dZ, 6x6")),
    )  # fmt: skip
    figure.suptitle("a stride of 1/2: forward (to the right), and backward (to the left)", fontsize=10)
    for axes_row, row in zip(figure.subplots(2, 4, width_ratios=(4, 7, 2.6, 6)), rows, strict=True):
        for axes, (name, title) in zip(axes_row, row, strict=True):
            values = steps[name]
            most = 1.8 * max(1.0, float(np.abs(values).max()))
            axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most)
            inserted = name == "uSample(X, 2)"
            dropped = name == "d uSample(X, 2)"
            for (i, j), value in np.ndenumerate(values):
                between = i % 2 or j % 2
                colour = "#808080" if (inserted or dropped) and between else "black"
                axes.text(j, i, f"{value:g}", ha="center", va="center", fontsize=8, color=colour)
            axes.set_title(title, fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])


def main(argv: list[str] | None = None) -> dict[Fraction, bool]:
    args = arguments(__doc__, "strides_as_resampling", argv)
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
    save(draw(times, layer), args.out, "strides_as_resampling")
    return same


if __name__ == "__main__":
    main(sys.argv[1:])
