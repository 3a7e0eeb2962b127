"""Padding along every spatial axis, as an operation of its own.

    y[n, c, o] = x[n, c, i(o - before)]     n + before + after outputs along an axis of length n

    constant    i(p) = p; `value` where p lies outside 0 .. n - 1
    reflect     i(p) = -p and 2 * (n - 1) - p: mirrored at the first and at the last element
    replicate   i(p) = 0 and n - 1: the first and the last element again
    circular    i(p) = p + n and p - n: the other end

    x   (N, C, *spatial), one to three spatial axes

The gradient of an element is the sum of those of all its copies.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext.capture import refuse
from fastconv.arrays import channels_last, logical
from fastconv.errors import ShapeError, nearest
from fastconv.machine.memory import allocate, require_array
from fastconv.ops.common import number
from fastconv.ops.registry import add
from fastconv.ops.spatial import Ints, gradient_to_x, planes, prepare_input
from fastconv.window import count_axes, pairs

MODES = ("constant", "reflect", "replicate", "circular")

# --- shape rule ------------------------------------------------------------------------------------------------------


class Around(NamedTuple):
    """What stands around x."""

    spatial: Ints  # of x
    padding: tuple[tuple[int, int], ...]  # (before, after) along every axis
    mode: str
    value: float

    @property
    def output(self) -> Ints:
        return tuple(before + n + after for n, (before, after) in zip(self.spatial, self.padding, strict=True))


def prepare(op: str, x: Any, padding: Any, mode: Any, value: Any) -> tuple[np.ndarray, Around]:
    x = prepare_input(op, x)
    around = rule(op, x.shape[2:], padding, mode, value)
    require_array(op, (*x.shape[:2], *around.output), x.itemsize)
    return x, around


def rule(op: str, spatial: Ints, padding: Any, mode: Any, value: Any) -> Around:
    if mode not in MODES:
        raise ValueError(f"{op}: mode must be one of {', '.join(MODES)}, got {mode!r}{nearest(mode, MODES)}")
    value = number(op, "value", value)
    if value and mode != "constant":
        raise ValueError(f"{op}: value goes with mode='constant', got {value:g} with mode={mode!r}")
    around = pairs(op, "padding", padding, len(spatial))
    most = {"reflect": "less than the input's length", "circular": "at most the input's length"}.get(mode)
    for axis, (n, sides) in enumerate(zip(spatial, around, strict=True)):
        if most and max(sides) > n - (mode == "reflect"):
            raise ShapeError(f"{op}: {mode} padding must be {most}, {n} on spatial axis {axis}, got {max(sides)}")
    return Around(spatial, around, mode, value)


def check(padding: Any, *, mode: Any = "constant", value: Any = 0) -> None:
    axes = count_axes(padding)
    longest = max((1, *(side + 1 for both in pairs("pad", "padding", padding, axes) for side in both)))
    rule("pad", (longest,) * axes, padding, mode, value)


# --- reference -------------------------------------------------------------------------------------------------------


def source(p: int, n: int, mode: str) -> int | None:
    """The element that stands at position p of an axis of length n; None for the constant."""
    if 0 <= p < n:
        return p
    if mode == "reflect":
        return -p if p < 0 else 2 * (n - 1) - p
    if mode == "replicate":
        return 0 if p < 0 else n - 1
    return p % n if mode == "circular" else None


def sources(around: Around) -> list[int | None]:
    """For every output in C order the flat index of its element; None for the constant."""
    per_axis = [
        [source(o - before, n, around.mode) for o in range(before + n + after)]
        for n, (before, after) in zip(around.spatial, around.padding, strict=True)
    ]
    result: list[int | None] = []
    for position in itertools.product(*per_axis):
        index: int | None = 0
        for i, n in zip(position, around.spatial, strict=True):
            index = None if i is None or index is None else index * n + i
        result.append(index)
    return result


def reference(x: Any, padding: Any, *, mode: str = "constant", value: float = 0) -> tuple[np.ndarray, Around]:
    x, around = prepare("pad", x, padding, mode, value)
    indices = sources(around)
    y = [[around.value if i is None else plane[i] for i in indices] for plane in planes(x)]
    return np.array(y, x.dtype).reshape(*x.shape[:2], *around.output), around


def reference_backward(dy: np.ndarray, around: Around) -> np.ndarray:
    indices = sources(around)
    dxs = []
    for dplane in planes(dy):
        dx = [0.0] * math.prod(around.spatial)
        for i, d in zip(indices, dplane, strict=True):
            if i is not None:
                dx[i] += d
        dxs.append(dx)
    return np.array(dxs, dy.dtype).reshape(*dy.shape[:2], *around.spatial)


# --- fast: channels last, one axis after the other -------------------------------------------------------------------


def forward(x: Any, padding: Any, *, mode: str = "constant", value: float = 0) -> tuple[np.ndarray, Around]:
    refuse()
    x, around = prepare("pad", x, padding, mode, value)
    last = channels_last("pad", x)
    y = allocate("pad", (x.shape[0], *around.output, x.shape[1]), x.dtype)
    inner = [slice(None), *(slice(b, b + n) for n, (b, _) in zip(around.spatial, around.padding, strict=True))]
    y[tuple(inner)] = last
    for axis, n, before, after in sides(around):
        lines = np.moveaxis(y[(*inner[:axis], *(slice(None),) * (y.ndim - axis))], axis, 0)
        inner[axis] = slice(None)
        within = lines[before : before + n]
        if mode == "constant":
            lines[:before], lines[before + n :] = around.value, around.value
        else:
            lines[:before], lines[before + n :] = ends(within, before, after, mode)
    return logical(y), around


def backward(dy: np.ndarray, around: Around) -> np.ndarray:
    """The last axis that was padded comes first: what stands in a corner was copied twice."""
    last = channels_last("pad", dy)
    for axis, n, before, after in sides(around, reverse=True):
        lines = np.moveaxis(last, axis, 0)
        within = lines[before : before + n]
        if around.mode != "constant":
            within = within.copy()
            first, other = ends(within, before, after, around.mode)
            if around.mode == "replicate":
                within[0] += lines[:before].sum(axis=0)
                within[-1] += lines[before + n :].sum(axis=0)
            else:
                first += lines[:before]
                other += lines[before + n :]
        last = np.moveaxis(within, 0, axis)
    dx = allocate("pad", last.shape, dy.dtype)
    np.copyto(dx, last)
    return logical(dx)


def sides(around: Around, reverse: bool = False) -> list[tuple[int, int, int, int]]:
    """(axis channels last, length, before, after) of the axes that are padded."""
    found = [
        (axis + 1, n, before, after)
        for axis, (n, (before, after)) in enumerate(zip(around.spatial, around.padding, strict=True))
        if before or after
    ]
    return found[::-1] if reverse else found


def ends(lines: np.ndarray, before: int, after: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Views of the lines that stand before the first one and behind the last one, in their order there."""
    n = len(lines)
    if mode == "reflect":
        return lines[1 : before + 1][::-1], lines[n - 1 - after : n - 1][::-1]
    if mode == "circular":
        return lines[n - before :], lines[:after]
    return lines[:1], lines[n - 1 :]


add(
    "pad",
    forward=forward,
    backward=gradient_to_x(backward),
    reference=reference,
    reference_backward=gradient_to_x(reference_backward),
    check=check,
)
