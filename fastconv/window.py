"""The geometry of a sliding window, parsed once.

`Window` is the only place that reads "int or tuple", knows every form of padding and computes output sizes. It raises
`ShapeError` with the operation's name, the rule and the numbers; what it hands on is proven: kernels need not ask.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from fastconv.errors import ShapeError, integer, nearest

__all__ = ["Window", "count_axes", "fitting", "integers", "is_sequence", "pairs", "per_axis"]

Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]

LARGEST = 1 << 40  # of a convolution's numbers: times channels and taps they stay within 64 bits
AXES = 3  # kernels see three spatial axes; fewer are lifted by axes of length 1 in front


def integers(op: str, name: str, value: Any, ndim: int, minimum: int) -> Ints:
    """`value` (an int, or a sequence of one or `ndim` of them) as a tuple of `ndim` ints, none below `minimum`."""
    entries = per_axis(op, name, value, ndim)
    return tuple(_integer(op, name, entry, minimum) for entry in entries)


def pairs(op: str, name: str, value: Any, ndim: int) -> Pairs:
    """`value` (int, tuple of ints, or tuple of (before, after)) as `ndim` pairs of ints >= 0."""
    if is_sequence(value) and len(value) == 2 * ndim and not any(map(is_sequence, value)):
        flat = tuple(value)  # as torch.nn.functional.pad takes it, the last axis first
        written = tuple((flat[at], flat[at + 1]) for at in range(2 * ndim - 2, -1, -2))
        raise ShapeError(
            f"{op}: {name} must be one number, {ndim} of them or a pair for each, ((before, after), …), got "
            f"{len(value)}: {value!r}; if they are in torch.nn.functional.pad's order, write {written}"
        )
    result = []
    for entry in per_axis(op, name, value, ndim):
        before, after = per_axis(op, name, entry, 2)
        result.append((_integer(op, name, before, 0), _integer(op, name, after, 0)))
    return tuple(result)


def is_sequence(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str) and getattr(value, "ndim", 1) != 0


def per_axis(op: str, name: str, value: Any, count: int) -> tuple[Any, ...]:
    """`value` as one entry for each of `count` axes: a sequence of them, or what holds for all of them, bare or not."""
    entries = tuple(value) if is_sequence(value) else (value,)
    if len(entries) == 1:
        return entries * count
    if len(entries) != count:
        raise ShapeError(f"{op}: {name} must be one number or {count} of them, got {len(entries)}: {value!r}")
    return entries


def _integer(op: str, name: str, value: Any, minimum: int) -> int:
    number = integer(op, name, value)
    if number < minimum:
        raise ShapeError(f"{op}: {name} must be at least {minimum}, got {number}")
    return number


def _ratios(op: str, stride: Any, ndim: int, rational: bool) -> list[Fraction]:
    result = []
    for entry in per_axis(op, "stride", stride, ndim):
        if rational and isinstance(entry, float | np.floating) and 0 < entry < LARGEST and entry % 1:
            ratio = Fraction(float(entry)).limit_denominator(1000)
            instead = f"; write {ratio!r}" if ratio else ""
            raise TypeError(f"{op}: stride must be an integer, got {entry!r}{instead}")
        if not isinstance(entry, Fraction) or (entry.denominator > 1 and not rational):
            entry = Fraction(_integer(op, "stride", entry, 1))
        if entry <= 0:
            raise ShapeError(f"{op}: stride must be positive, got {entry}")
        result.append(entry)
    return result


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over the spatial axes; every field has one entry per axis.

    kernel    taps
    stride    steps between outputs, on the upsampled input
    padding   (before, after): zeros around the upsampled input
    dilation  steps between taps
    up        upsampling factor: up - 1 zeros between neighbours before anything else (rational stride = stride / up)
    ceil_mode round output lengths up: a last window may reach beyond the padding, but must start before the input's end

    Output length, for an input of n: floor((m + before + after - dilation * (kernel - 1) - 1) / stride) + 1 with
    m = (n - 1) * up + 1 (chapter, "strides as resampling"; torch.nn.functional.conv2d for up = 1).
    """

    kernel: Ints
    stride: Ints
    padding: Pairs
    dilation: Ints
    up: Ints
    ceil_mode: bool = False
    spans: Ints = field(init=False, repr=False, compare=False)  # input steps from first to last tap, both included
    _hash: int = field(init=False, repr=False, compare=False)  # windows are keys of every cache

    def __post_init__(self) -> None:
        fields = self.kernel, self.stride, self.padding, self.dilation, self.up, self.ceil_mode
        object.__setattr__(self, "spans", tuple([(k - 1) * d + 1 for k, d in zip(fields[0], fields[3], strict=True)]))
        object.__setattr__(self, "_hash", hash(fields))

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def parse(
        cls,
        op: str,
        spatial: Sequence[int],
        kernel: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *,
        rational: bool = True,
    ) -> Window:
        """Parse what a user may write, for an input whose spatial shape is `spatial` ("same" depends on it).

        rational: whether a stride may be a Fraction. Raises ShapeError for values out of range and for a window larger
        than the padded input, TypeError for what is no number.
        """
        ndim = len(spatial)
        sizes = integers(op, "kernel_size", kernel, ndim, 1)
        steps = integers(op, "dilation", dilation, ndim, 1)
        ratios = _ratios(op, stride, ndim, rational)
        strides = tuple(ratio.numerator for ratio in ratios)
        ups = tuple(ratio.denominator for ratio in ratios)
        lengths = [(n - 1) * up + 1 if n else 0 for n, up in zip(spatial, ups, strict=True)]
        spans = [(k - 1) * d + 1 for k, d in zip(sizes, steps, strict=True)]
        if isinstance(padding, str):
            around = _named_padding(op, padding, lengths, spans, strides)
        else:
            around = pairs(op, "padding", padding, ndim)
        for axis, (n, span, (before, after)) in enumerate(zip(lengths, spans, around, strict=True)):
            beyond = strides[axis] - 1 if ceil_mode else 0
            if span > n + before + after + beyond:
                raise ShapeError(
                    f"{op}: the kernel must not be larger than the padded input: on spatial axis {axis} it spans "
                    f"{span}, the input is {n} + {before} + {after} = {n + before + after}"
                )
        return cls(sizes, strides, around, steps, ups, ceil_mode)

    @property
    def ndim(self) -> int:
        return len(self.kernel)

    def output(self, spatial: Sequence[int]) -> Ints:
        """The output's spatial shape for an input of shape `spatial`."""
        result = []
        for n, up, (before, after), span, stride in zip(
            spatial, self.up, self.padding, self.spans, self.stride, strict=True
        ):
            length = (n - 1) * up + 1 if n else 0
            room = length + before + after - span
            m = (-(-room // stride) if self.ceil_mode else room // stride) + 1
            if self.ceil_mode and (m - 1) * stride >= length + before:
                m -= 1
            result.append(m)
        return tuple(result)

    def tight(self, op: str, output: Sequence[int]) -> Window:
        """The same window for that output, without the steps that nobody takes, which may be of any size.

        Raises ShapeError where a number that counts is too large for 64 bits.
        """
        stride = tuple(step if m > 1 else 1 for step, m in zip(self.stride, output, strict=True))
        dilation = tuple(step if k > 1 else 1 for step, k in zip(self.dilation, self.kernel, strict=True))
        largest = max(*stride, *dilation, *self.up, *itertools.chain(*self.padding))
        if largest > LARGEST:
            raise ShapeError(f"{op}: stride, padding and dilation must be at most {LARGEST}, got {largest}")
        return replace(self, stride=stride, dilation=dilation)

    def lift(self) -> Window:
        """The same window on three spatial axes."""
        front = AXES - self.ndim
        ones = (1,) * front
        return Window(
            ones + self.kernel,
            ones + self.stride,
            ((0, 0),) * front + self.padding,
            ones + self.dilation,
            ones + self.up,
            self.ceil_mode,
        )


def fitting(op: str, ndim: int, kernel: Any, stride: Any = 1, dilation: Any = 1, *, rational: bool = True) -> Ints:
    """The spatial shape of an input that such a window fits in, whatever its padding: a whole number of strides.

    What is refused for this input is refused for every one; so a layer is checked when it is made.
    """
    sizes, steps = integers(op, "kernel_size", kernel, ndim, 1), integers(op, "dilation", dilation, ndim, 1)
    ratios = _ratios(op, stride, ndim, rational)
    return tuple(
        -(-((k - 1) * d + 1) // ratio.numerator) * ratio.numerator
        for k, d, ratio in zip(sizes, steps, ratios, strict=True)
    )


def count_axes(*values: Any) -> int:
    """How many spatial axes options speak of that need not say: the longest's entries, of plain numbers 1."""
    return min(AXES, max(len(value) if is_sequence(value) else 1 for value in values))


def _named_padding(op: str, name: str, lengths: Sequence[int], spans: Sequence[int], strides: Ints) -> Pairs:
    """ONNX's VALID, SAME_UPPER ("same") and SAME_LOWER: ceil(n / stride) outputs, the odd zero after or before."""
    if name == "valid":
        return ((0, 0),) * len(lengths)
    if name not in ("same", "same_lower"):
        meant = nearest(name, ("valid", "same", "same_lower"))
        raise ShapeError(f'{op}: padding must be numbers, "valid", "same" or "same_lower", got {name!r}{meant}')
    around = []
    for n, span, stride in zip(lengths, spans, strides, strict=True):
        total = max(0, (-(-n // stride) - 1) * stride + span - n)
        small, large = total // 2, total - total // 2
        around.append((small, large) if name == "same" else (large, small))
    return tuple(around)
