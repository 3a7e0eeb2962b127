"""The windows of a pool: their shape rule, and their plan for the kernels.

output o pools the taps t inside of x[n, c, o * stride - before + t * dilation]

x   (N, C, *spatial)
y   (N, C, *output)     output: window.Window.output; ceil_mode rounds it up
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext.pool import pooling
from fastconv.arrays import memoised
from fastconv.errors import ShapeError
from fastconv.machine.memory import require_array
from fastconv.ops.spatial import Ints, flag, prepare_input
from fastconv.window import Window, fitting

TASK_ELEMENTS = 1 << 14  # that one task moves at least
KEPT_PLANE = 1 << 16  # elements of the largest planes whose tables are kept
MOST_KEPT = 64  # plans of an operation
MOST_TAPS = 1 << 62  # they are counted in 64 bits
TASKS = 32  # pieces that a layer is cut into where its size allows
HALO = 4  # overlapping windows: a band has this many times the outputs that its neighbour visits too

PADDED_TAPS, INNER_TAPS = pooling.DIVISORS["padded"], pooling.DIVISORS["inner"]  # what a sum is divided by

# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    window: Window
    output: Ints


def prepare(
    op: str, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, **flags: Any
) -> Arguments:  # fmt: skip
    """Check everything that can be wrong with a call of a pool with a sliding window."""
    x = prepare_input(op, x, int(op[-2]))
    flags = {name: flag(op, name, value) for name, value in flags.items()}
    window, output = windows_of(
        op, x.shape[2:], kernel_size, kernel_size if stride is None else stride, padding, dilation, flags["ceil_mode"]
    )
    require_array(op, (*x.shape[:2], *output), x.itemsize)
    return Arguments(x, window, output)


def check(
    op: str, kernel_size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: Any = False,
    **flags: Any,
) -> None:  # fmt: skip
    """Raise what `prepare` raises for any x."""
    for name, value in flags.items():
        flag(op, name, value)
    stride = kernel_size if stride is None else stride
    spatial = fitting(op, int(op[-2]), kernel_size, stride, dilation, rational=False)
    windows_of(op, spatial, kernel_size, stride, padding, dilation, flag(op, "ceil_mode", ceil_mode))


def windows_of(
    op: str, spatial: Ints, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> tuple[Window, Ints]:
    """The window and the output's spatial shape."""
    window = Window.parse(op, spatial, kernel_size, stride, padding, dilation, ceil_mode, rational=False)
    for axis, (size, around) in enumerate(zip(window.kernel, window.padding, strict=True)):
        if max(around) > size // 2:
            raise ShapeError(
                f"{op}: padding must be at most half of the kernel: on spatial axis {axis} it is {max(around)}, "
                f"the kernel {size}"
            )
    sizes = [min(size, n + sum(around)) for size, n, around in zip(window.kernel, spatial, window.padding, strict=True)]
    if math.prod(sizes) >= MOST_TAPS:
        raise ShapeError(f"{op}: a window must have less than {MOST_TAPS} taps in the padded input, got {sizes}")
    return window, window.output(spatial)


# --- the plan --------------------------------------------------------------------------------------------------------


class kept(cached_property[Any]):
    """A cached_property that is worked out every time where planes are large, and so would be what is kept."""

    def __get__(self, plan: Any, owner: Any = None) -> Any:
        if plan is not None and math.prod(plan.x_shape[2:]) > KEPT_PLANE:
            return self.func(plan)
        return super().__get__(plan, owner)


@dataclass(frozen=True)
class Plan:
    """Windows as the kernels take them, for one shape of x."""

    x_shape: Ints  # (N, C, *spatial)
    output: Ints
    window: Window  # lifted
    adapts: bool = False  # windows are adaptive pooling's; window.kernel is the largest
    divisor: int = 1  # of a sum: a number, PADDED_TAPS or INNER_TAPS

    @cached_property
    def x_last(self) -> Ints:
        """(N, i0, i1, i2, C)"""
        return (self.x_shape[0], *(1,) * (5 - len(self.x_shape)), *self.x_shape[2:], self.x_shape[1])

    @cached_property
    def y_last(self) -> Ints:
        """(N, o0, o1, o2, C)"""
        return (self.x_shape[0], *(1,) * (3 - len(self.output)), *self.output, self.x_shape[1])

    @cached_property
    def taps(self) -> int:
        return math.prod(self.window.kernel)

    @cached_property
    def apart(self) -> bool:
        """Whether no two windows overlap."""
        pairs = zip(self.window.spans, self.window.stride, self.y_last[1:4], strict=True)
        return not self.adapts and all(span <= stride or m == 1 for span, stride, m in pairs)

    @cached_property
    def are_side_by_side(self) -> bool:
        """Whether every input is seen once, but for ends of lines that no window sees."""
        if self.adapts or any(map(any, self.window.padding)) or self.window.dilation != (1, 1, 1):
            return False
        n, m, kernel = self.x_last[1:4], self.y_last[1:4], self.window.kernel
        seen = [size * count for size, count in zip(kernel, m, strict=True)]
        whole = seen[:2] == list(n[:2]) and seen[2] <= n[2]
        steps = zip(self.window.stride, kernel, m, strict=True)
        return whole and all(step == size or count == 1 for step, size, count in steps)

    @cached_property
    def all_see_x(self) -> bool:
        """Whether every window does: one whose taps lie far apart may see nothing but the padding."""
        if self.adapts or not any(map(any, self.window.padding)):
            return True
        for axis, (size, step) in enumerate(zip(self.window.kernel, self.window.dilation, strict=True)):
            starts = self.starts(axis)
            first = np.where(starts < 0, starts % step, starts)  # of the taps that are not before x
            if (first >= self.x_last[1 + axis]).any() or (first > starts + (size - 1) * step).any():
                return False
        return True

    @cached_property
    def work(self) -> int:
        """What is moved and done, in elements moved."""
        return math.prod(self.x_last) + math.prod(self.y_last) * (1 + self.taps // 4)

    def starts(self, axis: int) -> np.ndarray:
        """The input position of every output's tap 0 along a lifted axis."""
        o = np.arange(self.y_last[1 + axis])
        if self.adapts:
            return o * self.x_last[1 + axis] // self.y_last[1 + axis]
        return o * self.window.stride[axis] - self.window.padding[axis][0]

    def ends(self, axis: int) -> np.ndarray:
        """One more than the position of every output's last tap, without dilation."""
        if self.adapts:
            n, m = self.x_last[1 + axis], self.y_last[1 + axis]
            return -(-(np.arange(m) + 1) * n // m)
        return self.starts(axis) + self.window.kernel[axis]

    @kept
    def divisors(self) -> np.ndarray:
        """What the sums are divided by: one number, or (o0, o1, o2, 1)."""
        product = np.ones((1, 1, 1, 1), np.int64)
        if self.divisor > 0:
            return product * self.divisor
        for axis in range(3):
            n, starts, ends = self.x_last[1 + axis], self.starts(axis), self.ends(axis)
            if self.divisor == INNER_TAPS:
                counts = np.minimum(ends, n) - np.maximum(starts, 0)
            else:
                counts = np.minimum(ends, n + self.window.padding[axis][1]) - starts
            if (counts == counts[0]).all():
                counts = counts[:1]
            product = product * np.expand_dims(counts, tuple(other for other in range(4) if other != axis))
        return product

    @kept
    def offsets(self) -> np.ndarray:
        """(taps + 1,) positions of the taps from tap 0, in a plane; the last one, of no tap, is before every plane."""
        steps = np.zeros(1, np.intp)
        for axis in range(3):
            taps = np.arange(self.window.kernel[axis]) * self.window.dilation[axis]
            steps = (steps[:, None] * self.x_last[1 + axis] + taps).reshape(-1)
        return np.append(steps, -math.prod(self.x_last[1:4]))

    @kept
    def element_offsets(self) -> np.ndarray:
        offsets: np.ndarray = self.offsets
        return offsets * self.x_shape[1]

    @cached_property
    def bands(self) -> tuple[int, np.ndarray]:
        """(axis, cuts) of a backward pass: runs of input lines along the first axis that has more than one."""
        axis = next((axis for axis in range(3) if self.x_last[1 + axis] > 1), 2)
        n, m = self.x_last[1 + axis], self.y_last[1 + axis]
        lines = m  # bands of one output line at least, of several where windows overlap
        if self.adapts:
            lines = m // HALO
        elif not self.apart:
            lines = m // (HALO * -(-self.window.spans[axis] // self.window.stride[axis]))
        most = min(-(-TASKS // self.x_shape[0]), math.prod(self.x_last[1:]) // TASK_ELEMENTS, lines)
        bands = max(1, most)
        cuts = np.clip(np.append(self.starts(axis)[np.arange(bands) * m // bands], n), 0, n).astype(np.intp)
        cuts[0] = 0
        return axis, cuts


@memoised("x", most=MOST_KEPT)
def plan(
    op: str, x: np.ndarray, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any,
    option: str = "", value: Any = False,
) -> Plan:  # fmt: skip
    """Of a sliding window. option: a flag that only this operation has; "count_include_pad" says what sums are divided
    by."""
    own = {option: value} if option else {}
    a = prepare(op, x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, **own)
    divisor = (PADDED_TAPS if value else INNER_TAPS) if option == "count_include_pad" else 1
    return sliding(x.shape, a.window, a.output, divisor)


def sliding(x_shape: Ints, window: Window, output: Ints, divisor: int = 1) -> Plan:
    """The plan of a sliding window, without the taps that no output has inside and the steps that nobody takes.

    Both can be arbitrarily large with padding, ceil_mode or a single output.
    """
    kernel, stride, padding, dilation = [], [], [], []
    for axis, (n, m) in enumerate(zip(x_shape[2:], output, strict=True)):
        step, (before, after) = window.dilation[axis], window.padding[axis]
        taps = min(window.kernel[axis], -(-(n + before + after) // step))
        stride.append(window.stride[axis] if m > 1 else 1)
        if divisor != PADDED_TAPS:  # which counts them
            outside = min(max(0, (before - (m - 1) * stride[-1]) // step), taps - 1)
            taps, before = taps - outside, before - outside * step
            taps = min(taps, -(-(n + before) // step))
        kernel.append(taps)
        padding.append((before, after))
        dilation.append(step if taps > 1 else 1)
    tight = replace(
        window, kernel=tuple(kernel), stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation)
    )
    return Plan(x_shape, output, tight.lift(), False, divisor)


def cut_pixels(plan: Plan, pixels: int) -> int:
    """The number of tasks, which are runs of pixels of a result."""
    return max(1, min(TASKS, pixels, plan.work // TASK_ELEMENTS))
