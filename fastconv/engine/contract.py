"""What the door and the algorithms agree on: a problem, and a plan that solves one direction of it.

An algorithm is a module with

    cost(direction, problem)   its time over that of the definition's multiplications at the machine's full rate: a
                               small model, from measurements made beforehand (bench/NOTES.md); infinite where it
                               does not serve
    plan(direction, problem)   the Plan; only where the cost is finite

Arrays are lifted (three spatial axes), channels-last and C-contiguous: x (N, i0, i1, i2, C), y (N, o0, o1, o2, K),
w (K, r0, r1, r2, C / groups); strides are whole. A plan's `run` gets, behind the operation's name and the threads,

    forward            x, w, bias (K,) or None, y, epilogue     fills y; only epilogues whose parts the plan takes
    gradient_input     dy, w, dx, and a bias (C,) or None       fills dx; the bias only where the plan takes "bias"
    gradient_weights   x, dy, dw, and db (K,) or None           fills dw; db only where the plan takes "sums"

x, y and w hold something: the door answers for empty arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import numpy as np

from fastconv.engine.phases import ONES
from fastconv.machine.threads import threads_for
from fastconv.window import Window

__all__ = ["NOTHING", "RELU", "Algorithm", "Direction", "Epilogue", "Ints", "Plan", "Problem", "fewest"]

Ints = tuple[int, ...]
Direction = Literal["forward", "gradient_input", "gradient_weights"]


class Problem(NamedTuple):
    """A convolution's geometry, lifted: all that choice and plan depend on, beside the workspace limit."""

    batch: int
    channels: int
    inputs: Ints  # spatial
    filters: int
    outputs: Ints  # spatial
    window: Window
    groups: int
    dtype: np.dtype

    @property
    def x_shape(self) -> Ints:
        return (self.batch, *self.inputs, self.channels)

    @property
    def y_shape(self) -> Ints:
        return (self.batch, *self.outputs, self.filters)

    @property
    def w_shape(self) -> Ints:
        return (self.filters, *self.window.kernel, self.channels // self.groups)

    @property
    def pixels(self) -> int:
        """Of the batch's outputs."""
        return self.batch * math.prod(self.outputs)

    def window_elements(self, direction: Direction) -> int:
        """Of what one window spans, the gaps of its dilation included: in x, or in dy for a gradient to the input."""
        _, rows, columns = self.window.spans
        channels: int = self.channels
        strides: Ints = ONES
        if direction == "gradient_input":
            channels, strides = self.filters, self.window.stride
        planes = -(-self.window.kernel[0] // strides[0])
        return channels * planes * -(-rows // strides[1]) * -(-columns // strides[2])

    @property
    def multiply_adds(self) -> int:
        """Of the definition, padding included."""
        return self.pixels * math.prod(self.w_shape)


class Epilogue(NamedTuple):
    """What becomes of outputs before they are stored: relu((v - mean) * scale + shift + addend), or parts of that, in
    the bits of passes of their own."""

    relu: bool = False
    norm: np.ndarray | None = None  # (3, K and more): mean, scale, shift; behind the last filter a vector's room
    addend: np.ndarray | None = None  # of y's shape and C-contiguous, as y is

    @property
    def parts(self) -> frozenset[str]:
        """The names of those that it has, as in `Plan.takes`."""
        given = ("relu", self.relu), ("norm", self.norm is not None), ("addend", self.addend is not None)
        return frozenset(name for name, there in given if there)


NOTHING, RELU = Epilogue(), Epilogue(relu=True)


class Plan(NamedTuple):
    """How an algorithm solves one direction of a problem: everything that need not be done again for every call."""

    algorithm: str
    run: Callable[..., None]
    work: int  # bytes moved, or as much work: what `threads_for` goes by
    most: int  # threads that there are tasks for, and room for in the workspace limit
    own: int = 0  # bytes of a thread's scratch
    shared: int = 0  # bytes of scratch beside
    takes: frozenset[str] = frozenset()  # "bias", "sums"; forward: parts of an Epilogue
    taps_last: bool = False  # w may also lie as in a net, (K, C / groups, r0, r1, r2) in memory

    @property
    def threads(self) -> int:
        return threads_for(self.work, self.most)

    @property
    def scratch(self) -> int:
        """Bytes that a run borrows."""
        return self.shared + self.threads * self.own


def fewest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The smallest count from `low` on that fits, `high` where none below does: more pieces fit wherever fewer do."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


class Algorithm(Protocol):
    """What a module of the door's table has."""

    def cost(self, direction: Direction, problem: Problem) -> float: ...

    def plan(self, direction: Direction, problem: Problem) -> Plan: ...
