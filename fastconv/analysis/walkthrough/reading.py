"""What every step of an operation reads: places on a grid, one list per axis, and what they are multiplied by.

An array (A, B, *spatial) is laid out on a grid: with its padding around it and, where it is upsampled, the inserted
zeros between. A step reads some grid places along each axis, of one or more channels; what it reads is the product of
these lists. So a whole operation is a table per axis, which is all that a page needs to show every step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastconv.machine.memory import require
from fastconv.ops import OPS, resize
from fastconv.window import Window, integers, pairs

__all__ = ["INSERTED", "PADDING", "Axis", "Leads", "Reading", "outer"]

Shape = tuple[int, ...]
Leads = tuple[np.ndarray, np.ndarray]  # the first two indices of every channel that a step reads

PADDING, INSERTED = -1, -2  # on a grid: what is no element of the array
NUMBER = 64  # bytes that a grid place or a tap takes here, at most


@dataclass(frozen=True)
class Axis:
    """One spatial axis: what lies on it, and what each step reads of it."""

    grid: np.ndarray  # per place: the array's index, PADDING or INSERTED
    places: tuple[np.ndarray, ...]  # per step: the places that it reads
    taps: tuple[np.ndarray, ...]  # which tap of the window each of them is
    weights: tuple[np.ndarray, ...] | None = None  # this axis's factor of what each is multiplied by

    def __len__(self) -> int:
        return len(self.places)

    def weighted(self, weights: Sequence[np.ndarray]) -> Axis:
        return replace(self, weights=tuple(weights))


@dataclass(frozen=True)
class Reading:
    """All steps: position `at` = (a, b, *spatial) of `shape` reads `array`."""

    shape: Shape  # of what is computed, a step an element
    array: np.ndarray  # that lies on the grid
    axes: tuple[Axis, ...]
    channels: Callable[[int, int], Leads]  # (a, b) -> the channels of `array` that are read
    filters: np.ndarray | None = None  # (U, V, *taps): what they are multiplied by, where that is the same everywhere
    filter_of: Callable[[int, int], Leads] | None = None  # (a, b) -> the first two indices of those filters
    fill: float = 0.0  # what lies in the padding

    def block(self, at: Shape) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Per axis: the grid places that step `at` reads, and their taps."""
        axes = list(zip(self.axes, at[2:], strict=True))
        return [axis.places[o] for axis, o in axes], [axis.taps[o] for axis, o in axes]

    def indices(self, places: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Per axis: the array's indices under these places."""
        return [axis.grid[chosen] for axis, chosen in zip(self.axes, places, strict=True)]

    def values(self, at: Shape) -> np.ndarray:
        """(channels, *places): what step `at` reads, with the zeros."""
        indices = self.indices(self.block(at)[0])
        p, q = self.channels(*at[:2])
        shape = (len(p), *map(len, indices))
        if 0 in shape:
            return np.zeros(shape)
        lead = [each.reshape(-1, *(1,) * len(indices)) for each in (p, q)]
        values: np.ndarray = self.array[(*lead, *outer([np.maximum(each, 0) for each in indices]))].astype(np.float64)
        for what, value in ((INSERTED, 0.0), (PADDING, self.fill)):
            for there in outer([index == what for index in indices]):
                values = np.where(there, value, values)
        return values

    def factors(self, at: Shape) -> np.ndarray | None:
        """(channels, *places): what these are multiplied by, where filters or weights say it."""
        if self.filters is not None and self.filter_of is not None:
            u, v = self.filter_of(*at[:2])
            taps = self.block(at)[1]
            lead = [each.reshape(-1, *(1,) * len(taps)) for each in (u, v)]
            chosen: np.ndarray = self.filters[(*lead, *outer(taps))].astype(np.float64)
            return chosen
        if all(axis.weights is None for axis in self.axes):
            return None
        steps = zip(self.axes, at[2:], strict=True)
        weights = [np.ones(len(axis.places[o])) if axis.weights is None else axis.weights[o] for axis, o in steps]
        return np.asarray(math.prod(outer(weights)))[np.newaxis]


def outer(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Index arrays that together mean the product of the lists."""
    return tuple(each.reshape((-1,) + (1,) * (len(lists) - 1 - axis)) for axis, each in enumerate(lists))


def _by_itself(a: int, b: int) -> Leads:
    return np.array([a]), np.array([b])


# --- windows that slide ----------------------------------------------------------------------------------------------


def _upsampled(n: int, up: int, before: int, after: int) -> np.ndarray:
    """A grid: n elements with up - 1 zeros between neighbours, padding around."""
    require("walkthrough", NUMBER * (n * up + before + after))
    grid = np.full(before + (n - 1) * up + 1 + after, PADDING)
    inside = grid[before : before + (n - 1) * up + 1]
    inside[...] = INSERTED
    inside[::up] = np.arange(n)
    return grid


def sliding(window: Window, axis: int, n: int, m: int) -> Axis:
    """The m outputs of a window over n inputs; taps beyond the padding (ceil_mode) are left out."""
    grid = _upsampled(n, window.up[axis], *window.padding[axis])
    tap = np.arange(window.kernel[axis])
    places = [o * window.stride[axis] + tap * window.dilation[axis] for o in range(m)]
    kept = [at < len(grid) for at in places]
    return Axis(
        grid, tuple(at[k] for at, k in zip(places, kept, strict=True)), tuple(tap[k] for k in kept)
    )  # fmt: skip


def returning(window: Window, axis: int, n: int, m: int) -> Axis:
    """The n inputs of that window, each reading the m outputs: they lie `stride` apart on a grid whose padding is
    span - 1 - before, and the taps come in reverse."""
    kernel, stride, dilation, up = window.kernel[axis], window.stride[axis], window.dilation[axis], window.up[axis]
    span = window.spans[axis]
    first = span - 1 - window.padding[axis][0]
    require("walkthrough", NUMBER * (n * up + span))
    grid = np.full((n - 1) * up + span, PADDING)
    spread = grid[max(0, first) : max(0, first + (m - 1) * stride + 1)]
    spread[...] = INSERTED
    at = first + np.arange(m) * stride
    inside = (at >= 0) & (at < len(grid))
    grid[at[inside]] = np.flatnonzero(inside)
    step = np.arange(kernel)
    return Axis(grid, tuple(i * up + step * dilation for i in range(n)), (step,) * n)


def correlated(window: Window, axis: int, n: int, m: int) -> Axis:
    """The taps of that window, each reading what it met: `stride` apart, as many as there are outputs."""
    grid = _upsampled(n, window.up[axis], *window.padding[axis])
    step = np.arange(m)
    taps = range(window.kernel[axis])
    return Axis(grid, tuple(t * window.dilation[axis] + step * window.stride[axis] for t in taps), (step,) * len(taps))


def adjoint(axis: Axis, n: int) -> Axis:
    """The n elements that lie on an axis, each reading the steps that read it."""
    m = len(axis)
    readers: list[list[tuple[int, int, float]]] = [[] for _ in range(n)]
    for o, (places, taps) in enumerate(zip(axis.places, axis.taps, strict=True)):
        weights = np.ones(len(places)) if axis.weights is None else axis.weights[o]
        for i, t, weight in zip(axis.grid[places], taps, weights, strict=True):
            if i >= 0:
                readers[i].append((o, int(t), float(weight)))
    columns = [list(zip(*each, strict=True)) or [(), (), ()] for each in readers]
    read, at_tap = (tuple(np.array(column[k], np.int64) for column in columns) for k in (0, 1))
    factors = None if axis.weights is None else tuple(np.array(column[2], np.float64) for column in columns)
    return Axis(np.arange(m), read, at_tap, factors)


# --- convolutions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convolution:
    """From (N, C, *small) by w (K, C / groups, *kernel) to (N, K, *large)."""

    window: Window
    groups: int
    x_shape: Shape
    w_shape: Shape
    y_shape: Shape

    def _axes(self, make: Callable[[Window, int, int, int], Axis]) -> tuple[Axis, ...]:
        sizes = enumerate(zip(self.x_shape[2:], self.y_shape[2:], strict=True))
        return tuple(make(self.window, axis, n, m) for axis, (n, m) in sizes)

    def forward(self, x: np.ndarray, w: np.ndarray) -> Reading:
        count, filters = self.w_shape[1], self.w_shape[0] // self.groups
        c = np.arange(count)
        return Reading(
            self.y_shape, x, self._axes(sliding), lambda n, k: (np.full(count, n), k // filters * count + c), w,
            lambda n, k: (np.full(count, k), c),
        )  # fmt: skip

    def to_input(self, dy: np.ndarray, w: np.ndarray) -> Reading:
        """The padded gradient under the reversed filters: channel c of all filters makes one filter."""
        count, filters = self.w_shape[1], self.w_shape[0] // self.groups
        spatial = self.w_shape[2:]
        turned = np.flip(w, tuple(range(2, w.ndim))).reshape(self.groups, filters, count, *spatial)
        turned = turned.swapaxes(1, 2).reshape(self.groups * count, filters, *spatial)
        k = np.arange(filters)
        return Reading(
            self.x_shape, dy, self._axes(returning), lambda n, c: (np.full(filters, n), c // count * filters + k),
            turned, lambda n, c: (np.full(filters, c), k),
        )  # fmt: skip

    def to_filters(self, x: np.ndarray, dy: np.ndarray) -> Reading:
        """The padded input under the gradient: samples take the part of channels."""
        count, filters, batch = self.w_shape[1], self.w_shape[0] // self.groups, self.x_shape[0]
        n = np.arange(batch)
        return Reading(
            self.w_shape, x, self._axes(correlated),
            lambda k, c: (n, np.full(batch, k // filters * count + c)), dy, lambda k, c: (n, np.full(batch, k)),
        )  # fmt: skip


def convolution(op: str, x: Shape, w: Shape, y: Shape, options: dict[str, Any]) -> Convolution:
    """Of a call of conv1d, conv2d or conv3d that fits."""
    window = Window.parse(op, x[2:], w[2:], options["stride"], options["padding"], options["dilation"])
    (groups,) = integers(op, "groups", options["groups"], 1, 1)
    return Convolution(window.tight(op, y[2:]), groups, x, w, y)


def transposed(op: str, x: Shape, w: Shape, y: Shape, options: dict[str, Any]) -> Convolution:
    """The convolution from y to x of a call of conv_transpose1d, 2d or 3d that fits."""
    ndim = len(x) - 2
    window = Window(
        w[2:], integers(op, "stride", options["stride"], ndim, 1), pairs(op, "padding", options["padding"], ndim),
        integers(op, "dilation", options["dilation"], ndim, 1), (1,) * ndim,
    )  # fmt: skip
    (groups,) = integers(op, "groups", options["groups"], 1, 1)
    return Convolution(window.tight(op, x[2:]), groups, y, w, x)


# --- one channel by itself -------------------------------------------------------------------------------------------


def alone(shape: Shape, array: np.ndarray, axes: Sequence[Axis], fill: float = 0.0) -> Reading:
    """Every channel by itself."""
    return Reading(shape, array, tuple(axes), _by_itself, fill=fill)


def pool_window(op: str, spatial: Shape, y: Shape, options: dict[str, Any]) -> Window:
    """Of a call of a pool with a sliding window that fits."""
    kernel, stride = options["kernel_size"], options.get("stride")
    window = Window.parse(
        op, spatial, kernel, kernel if stride is None else stride, options.get("padding", 0),
        options.get("dilation", 1), bool(options.get("ceil_mode", False)), rational=False,
    )  # fmt: skip
    return window.tight(op, y[2:])


def pooled(window: Window, x: Shape, y: Shape) -> list[Axis]:
    return [sliding(window, axis, n, m) for axis, (n, m) in enumerate(zip(x[2:], y[2:], strict=True))]


def unpooled(window: Window, x: Shape, y: Shape) -> list[Axis]:
    """Per axis the x that reads y; the taps as the window counts them, hence from the last to the first."""
    axes = [returning(window, axis, n, m) for axis, (n, m) in enumerate(zip(x[2:], y[2:], strict=True))]
    return [replace(axis, taps=tuple(taps[::-1] for taps in axis.taps)) for axis in axes]


def shares_of_mean(forward: Sequence[Axis], padded: bool) -> list[list[float]]:
    """Per axis and output: one over the taps in the padded input, or over those in the input."""
    return [
        [1 / max(1, len(at) if padded else int((axis.grid[at] >= 0).sum())) for at in axis.places] for axis in forward
    ]


def adaptive(x: Shape, y: Shape) -> list[Axis]:
    axes = []
    for n, m in zip(x[2:], y[2:], strict=True):
        places = tuple(np.arange(o * n // m, -(-(o + 1) * n // m)) for o in range(m))
        axes.append(Axis(np.arange(n), places, tuple(np.arange(len(each)) for each in places)))
    return axes


def keeping(op: str, wide: Shape, narrow: Shape, options: dict[str, Any]) -> list[Axis]:
    """Every position of `narrow` reads one of `wide`."""
    count = len(wide) - 2
    factors = integers(op, "factor", options["factor"], count, 1)
    phases = integers(op, "phase", options.get("phase", 0), count, 0)
    return [
        Axis(np.arange(n), tuple(np.array([o * f + p]) for o in range(m)), (np.zeros(1, np.int64),) * m)
        for n, m, f, p in zip(wide[2:], narrow[2:], factors, phases, strict=True)
    ]


def spreading(kept: Sequence[Axis]) -> list[Axis]:
    """Every position of the wide array reads itself on a grid that has the narrow one's elements and zeros between."""
    axes = []
    for axis in kept:
        grid = np.full(len(axis.grid), INSERTED)
        grid[np.concatenate(axis.places)] = np.arange(len(axis))
        places = tuple(np.array([i]) for i in range(len(grid)))
        axes.append(Axis(grid, places, (np.zeros(1, np.int64),) * len(grid)))
    return axes


def padded(x: Shape, options: dict[str, Any]) -> list[Axis]:
    """Where `pad` takes every position from: it is asked, on the numbers of the positions."""
    axes = []
    for n, around in zip(x[2:], pairs("pad", "padding", options["padding"], len(x) - 2), strict=True):
        numbers = np.arange(1.0, n + 1).reshape(1, 1, n)
        made = OPS["pad"].forward(numbers, (around,), mode=options["mode"])[0]
        grid = made[0, 0].astype(np.int64) - 1
        grid[grid < 0] = PADDING
        places = tuple(np.array([i]) for i in range(len(grid)))
        axes.append(Axis(grid, places, (np.zeros(1, np.int64),) * len(grid)))
    return axes


def resized(x: Shape, options: dict[str, Any]) -> list[Axis]:
    names = ("size", "scale", "mode", "align_corners")
    empty = np.empty((0, *x[1:]))
    axes = []
    for axis in resize.prepare(empty, *(options[name] for name in names))[1]:
        near = [resize.neighbours(axis, o) for o in range(axis.m)]
        merged = [_merged(each) for each in near]
        places = tuple(np.array(list(each)) for each in merged)
        taps = tuple(np.arange(len(each)) for each in merged)
        weights = None if axis.mode == "nearest" else tuple(np.array(list(each.values())) for each in merged)
        axes.append(Axis(np.arange(axis.n), places, taps, weights))
    return axes


def _merged(neighbours: list[tuple[int, float]]) -> dict[int, float]:
    """{position: weight}: the border's with those that it stands in for; what weighs nothing is left out."""
    merged: dict[int, float] = {}
    for position, weight in neighbours:
        merged[position] = merged.get(position, 0.0) + weight
    heavy = {position: weight for position, weight in merged.items() if weight}
    return heavy or dict(itertools.islice(merged.items(), 1))
