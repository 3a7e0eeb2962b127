"""Pooling over one, two or three spatial axes: maximum, average and p-norm of sliding windows.

    max   y[n, c, o] = max over the taps t inside of x[n, c, o * stride - before + t * dilation]
    avg   y[n, c, o] = sum over the taps inside of x[...] / divisor
    lp    y[n, c, o] = (sum over the taps inside of |x[...]| ** p) ** (1 / p)

    x   (N, C, *spatial)
    y   (N, C, *output)     output: window.Window.output; ceil_mode rounds it up

Taps outside the input never win a maximum and add nothing to a sum. avg's divisor is the number of taps inside the
padded input (count_include_pad) or inside the input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext.pool import pooling
from fastconv.arrays import channels_last, lift
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate, require, require_array
from fastconv.machine.threads import threads_for
from fastconv.ops.common import number
from fastconv.ops.naive import windows
from fastconv.ops.registry import add
from fastconv.ops.spatial import Ints, flag, gradient_to_x, planes, prepare_input, unlift
from fastconv.window import Window, fitting, remembered

BYTE, INT = np.dtype(np.uint8), np.dtype(np.int32)
TASK_ELEMENTS = 1 << 14  # that one task moves at least
KEPT_PLANE = 1 << 16  # elements of the largest planes whose plans are kept
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


@remembered
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


def prepare_lp(
    op: str, x: Any, norm_type: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any
) -> tuple[Arguments, float]:
    p = norm_order(op, norm_type)
    return prepare(op, x, kernel_size, stride, padding, 1, ceil_mode=ceil_mode), p


def norm_order(op: str, norm_type: Any) -> float:
    p = number(op, "norm_type", norm_type)
    if not 0 < p < math.inf:
        raise ShapeError(f"{op}: norm_type must be positive and finite, got {p:g}")
    return p


def check_lp(op: str, norm_type: Any, kernel_size: Any, **options: Any) -> None:
    norm_order(op, norm_type)
    check(op, kernel_size, **options)


# --- reference -------------------------------------------------------------------------------------------------------


def max_reference(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    a = prepare(op, x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=return_indices)
    return max_of_windows(a.x, windows(a.window, a.x.shape[2:], a.output), a.output, return_indices)


def max_of_windows(
    x: np.ndarray, taps: list[list[tuple[int, int]]], output: tuple[int, ...], return_indices: bool
) -> tuple[Any, Any]:
    ys, chosen = [], []
    for plane in planes(x):
        for inside in taps:
            best, where = -float("inf"), inside[0][0] if inside else -1
            for i, _ in inside:
                if plane[i] > best or (plane[i] != plane[i] and best == best):
                    best, where = plane[i], i
            ys.append(best)
            chosen.append(where)
    y = np.array(ys, x.dtype).reshape(*x.shape[:2], *output)
    indices = np.array(chosen, np.int64).reshape(y.shape)
    return (y, indices) if return_indices else y, (x, indices.copy())


def max_reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    x, indices = saved
    dxs = planes(np.zeros(x.shape))
    for dx, d, chosen in zip(dxs, planes(dy), planes(indices), strict=True):
        for value, i in zip(d, chosen, strict=True):
            if i >= 0:
                dx[int(i)] += value
    return np.array(dxs, x.dtype).reshape(x.shape)


def avg_reference(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare(op, x, kernel_size, stride, padding, 1, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    taps = windows(a.window, a.x.shape[2:], a.output)
    divisors = naive_sizes(a) if count_include_pad else [len(inside) for inside in taps]
    return mean_of_windows(a.x, taps, divisors, a.output)


def naive_sizes(a: Arguments) -> list[int]:
    """For every output in C order: how many taps of its window lie in the padded input."""
    per_axis = []
    for n, m, size, step, (before, after) in zip(
        a.x.shape[2:], a.output, a.window.kernel, a.window.stride, a.window.padding, strict=True
    ):
        per_axis.append([min(o * step + size, n + before + after) - o * step for o in range(m)])
    return [math.prod(sizes) for sizes in itertools.product(*per_axis)]


def mean_of_windows(
    x: np.ndarray, taps: list[list[tuple[int, int]]], divisors: list[int], output: tuple[int, ...]
) -> tuple[np.ndarray, Any]:
    ys = []
    for plane in planes(x):
        for inside, divisor in zip(taps, divisors, strict=True):
            ys.append(sum(plane[i] for i, _ in inside) / divisor)
    return np.array(ys, x.dtype).reshape(*x.shape[:2], *output), (x, taps, divisors)


def mean_reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    x, taps, divisors = saved
    dxs = planes(np.zeros(x.shape))
    for dx, d in zip(dxs, planes(dy), strict=True):
        for value, inside, divisor in zip(d, taps, divisors, strict=True):
            for i, _ in inside:
                dx[i] += value / divisor
    return np.array(dxs, x.dtype).reshape(x.shape)


def lp_reference(
    op: str, x: Any, norm_type: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False
) -> tuple[np.ndarray, Any]:
    a, p = prepare_lp(op, x, norm_type, kernel_size, stride, padding, ceil_mode)
    taps = windows(a.window, a.x.shape[2:], a.output)
    ys = []
    for plane in planes(a.x):
        for inside in taps:
            ys.append(power(sum(power(abs(plane[i]), p) for i, _ in inside), 1 / p))
    return np.array(ys, a.x.dtype).reshape(*a.x.shape[:2], *a.output), (a, p, taps, ys)


def lp_reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    a, p, taps, ys = saved
    dxs = planes(np.zeros(a.x.shape))
    norms = iter(ys)
    for plane, dx, d in zip(planes(a.x), dxs, planes(dy), strict=True):
        for value, inside in zip(d, taps, strict=True):
            norm = next(norms)
            for i, _ in inside:
                dx[i] += 0 if norm == 0 else value * power(norm, 1 - p)
        for i, value in enumerate(plane):
            dx[i] *= value if value == 0 or math.isnan(value) else math.copysign(power(abs(value), p - 1), value)
    return np.array(dxs, a.x.dtype).reshape(a.x.shape)


def power(base: float, exponent: float) -> float:
    """base ** exponent for base >= 0, infinite where it overflows."""
    try:
        return float(base**exponent)
    except (OverflowError, ZeroDivisionError):
        return math.inf


# --- fast ------------------------------------------------------------------------------------------------------------


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

    @cached_property
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

    @cached_property
    def offsets(self) -> np.ndarray:
        """(taps + 1,) positions of the taps from tap 0, in a plane; the last one, of no tap, is before every plane."""
        steps = np.zeros(1, np.intp)
        for axis in range(3):
            taps = np.arange(self.window.kernel[axis]) * self.window.dilation[axis]
            steps = (steps[:, None] * self.x_last[1 + axis] + taps).reshape(-1)
        return np.append(steps, -math.prod(self.x_last[1:4]))

    @cached_property
    def element_offsets(self) -> np.ndarray:
        return self.offsets * self.x_shape[1]

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


def planned(make: Callable[..., Plan]) -> Callable[..., Plan]:
    """`make(x_shape, …)`, kept for the next call with the same arguments where the planes are not large."""
    keep = lru_cache(maxsize=64)(make)

    def plan(x_shape: Ints, *arguments: Any) -> Plan:
        return (keep if math.prod(x_shape[2:]) <= KEPT_PLANE else make)(x_shape, *arguments)

    return plan


@planned
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


class MaxSaved(NamedTuple):
    taps: np.ndarray  # (N, o0, o1, o2, C): which tap won
    plan: Plan


def max_forward(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> tuple[Any, MaxSaved]:  # fmt: skip
    a = prepare(op, x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=return_indices)
    return max_by_plan(op, a.x, sliding(a.x.shape, a.window, a.output), return_indices)


def max_by_plan(op: str, x: np.ndarray, plan: Plan, return_indices: bool) -> tuple[Any, MaxSaved]:
    if plan.taps >= 1 << 31:
        raise ShapeError(f"{op}: a window must have less than 2**31 taps, got {plan.taps}")
    x_last = lift(channels_last(op, x))
    y_last = allocate(op, plan.y_last, x.dtype)
    taps = allocate(op, plan.y_last, BYTE if plan.taps < 256 else INT)
    if y_last.size:
        tasks = cut_pixels(plan, y_last.size // x.shape[1])
        threads = threads_for(plan.work * x.itemsize)
        pooling.max_forward(x_last, y_last, taps, plan.window, plan.adapts, tasks, threads)
    y = unlift(y_last, plan.output)
    saved = MaxSaved(taps, plan)
    return (y, indices_of(op, saved)) if return_indices else y, saved


def indices_of(op: str, saved: MaxSaved) -> np.ndarray:
    """(N, C, *output) int64: the winners' flat positions in the unpadded plane; -1 for a window without taps."""
    plan = saved.plan
    require(op, saved.taps.size * 16)
    first = np.zeros((1, 1, 1, 1), np.int64)
    for axis in range(3):
        starts = np.expand_dims(plan.starts(axis), tuple(other for other in range(4) if other != axis))
        first = first * plan.x_last[1 + axis] + starts
    indices = plan.offsets.astype(np.int64)[saved.taps]
    indices += first
    np.maximum(indices, -1, out=indices)
    return unlift(indices, plan.output)


def max_backward(op: str, dy: np.ndarray, saved: MaxSaved) -> np.ndarray:
    taps, plan = saved
    dy_last = lift(channels_last(op, dy))
    dx_last = allocate(op, plan.x_last, dy.dtype)
    if dx_last.size:
        axis, cuts = plan.bands
        threads = threads_for(2 * dx_last.nbytes)
        offsets = plan.element_offsets
        pooling.max_backward(
            dy_last, taps, dx_last, offsets, plan.window, plan.adapts, plan.apart, axis, cuts, threads
        )  # fmt: skip
    return unlift(dx_last, plan.x_shape[2:])


def avg_forward(
    op: str, x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> tuple[np.ndarray, Plan]:  # fmt: skip
    a = prepare(op, x, kernel_size, stride, padding, 1, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    plan = sliding(a.x.shape, a.window, a.output, PADDED_TAPS if count_include_pad else INNER_TAPS)
    return unlift(pool_sums(op, lift(channels_last(op, a.x)), plan), plan.output), plan


def sum_backward(op: str, dy: np.ndarray, plan: Plan) -> np.ndarray:
    return unlift(spread_sums(op, lift(channels_last(op, dy)), plan), plan.x_shape[2:])


def pool_sums(op: str, x_last: np.ndarray, plan: Plan) -> np.ndarray:
    """(N, i0, i1, i2, C) -> (N, o0, o1, o2, C)"""
    y_last = allocate(op, plan.y_last, x_last.dtype)
    if y_last.size:
        tasks = cut_pixels(plan, y_last.size // y_last.shape[-1])
        threads = threads_for(plan.work * y_last.itemsize)
        pooling.sum_forward(x_last, y_last, plan.window, plan.adapts, False, plan.divisor, tasks, threads)
    return y_last


def spread_sums(op: str, dy_last: np.ndarray, plan: Plan) -> np.ndarray:
    """The adjoint of `pool_sums`: every input gets the sum over the windows that cover it."""
    dx_last = allocate(op, plan.x_last, dy_last.dtype)
    if dx_last.size:
        divisor = 1
        if plan.divisors.size == 1:
            divisor = plan.divisors.item()
        else:
            shares = allocate(op, plan.y_last, dy_last.dtype)
            dy_last = np.divide(dy_last, plan.divisors, out=shares, dtype=dy_last.dtype)
        tasks = cut_pixels(plan, dx_last.size // dx_last.shape[-1])
        threads = threads_for(plan.work * dx_last.itemsize)
        pooling.sum_forward(dy_last, dx_last, plan.window, plan.adapts, True, divisor, tasks, threads)
    return dx_last


class LpSaved(NamedTuple):
    x: np.ndarray  # (N, i0, i1, i2, C)
    sums: np.ndarray  # (N, o0, o1, o2, C), of |x| ** p
    p: float
    plan: Plan


def lp_forward(
    op: str, x: Any, norm_type: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, ceil_mode: bool = False
) -> tuple[np.ndarray, LpSaved]:
    a, p = prepare_lp(op, x, norm_type, kernel_size, stride, padding, ceil_mode)
    plan = sliding(a.x.shape, a.window, a.output)
    x_last = lift(channels_last(op, a.x))
    with np.errstate(all="ignore"):
        powers = np.abs(x_last, out=allocate(op, plan.x_last, x_last.dtype))
        sums = pool_sums(op, raised(powers, p), plan)
        y_last = allocate(op, plan.y_last, sums.dtype)
        np.copyto(y_last, sums)
        raised(y_last, 1 / p)
    return unlift(y_last, plan.output), LpSaved(x_last, sums, p, plan)


def lp_backward(op: str, dy: np.ndarray, saved: LpSaved) -> np.ndarray:
    """dx = sign(x) |x| ** (p - 1) * the adjoint of the sum at dy * y ** (1 - p), with y ** p the sum."""
    x_last, sums, p, plan = saved
    with np.errstate(all="ignore"):
        share = raised(sums.copy(), (p - 1) / p)
        np.divide(lift(channels_last(op, dy)), share, out=share)
        share[sums == 0] = 0
        slope = np.sign(x_last)
        if p != 1:
            slope *= raised(np.abs(x_last), p - 1)
            slope[x_last == 0] = 0
        dx_last = spread_sums(op, share, plan)
        dx_last *= slope
    return unlift(dx_last, plan.x_shape[2:])


def raised(base: np.ndarray, exponent: float) -> np.ndarray:
    """base ** exponent in place, for base >= 0."""
    if exponent == 2:
        np.multiply(base, base, out=base)
    elif exponent == 0.5:
        np.sqrt(base, out=base)
    elif exponent != 1:
        np.power(base, base.dtype.type(exponent), out=base)
    return base


for _axes in ("1d", "2d", "3d"):
    for _name, _forward, _backward, _reference, _reference_backward, _check in (
        (f"max_pool{_axes}", max_forward, max_backward, max_reference, max_reference_backward, check),
        (f"avg_pool{_axes}", avg_forward, sum_backward, avg_reference, mean_reference_backward, check),
        (f"lp_pool{_axes}", lp_forward, lp_backward, lp_reference, lp_reference_backward, check_lp),
    ):
        add(
            _name,
            forward=partial(_forward, _name),
            backward=gradient_to_x(partial(_backward, _name)),
            reference=partial(_reference, _name),
            reference_backward=gradient_to_x(_reference_backward),
            check=partial(_check, _name),
        )
