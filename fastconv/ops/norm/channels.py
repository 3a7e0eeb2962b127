"""Norms whose mean and variance belong to channels.

    y = (x - mean) / sqrt(var + eps) * weight + bias        x (N, C, *spatial); weight, bias (C,) or None: 1 and 0

    batch_norm      mean and var of every channel, over N and the spatial axes
    instance_norm   of every channel of every item, over the spatial axes
    group_norm      of C / num_groups neighbouring channels of every item, and the spatial axes

    running_mean, running_var   (C,): used in place of x's where x's are not, and updated where they are:
                    running = (1 - momentum) * running + momentum * x's

var is the biased variance; the running variance takes the unbiased one (PyTorch's rule).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import norm as kernels
from fastconv.arrays import as_floats, channels_last, logical
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import Rows, need_channels, need_entries, number
from fastconv.ops.norm.common import (
    Arguments,
    Naive,
    in_places,
    naive,
    naive_backward,
    need_eps,
    reference_backward,
)
from fastconv.ops.registry import Gradients, add
from fastconv.window import integers

SAMPLE = 32  # rows whose mean is the pivot

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(
    op: str, x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, from_x: Any, momentum: Any, eps: Any
) -> Arguments:
    """For batch_norm and instance_norm; from_x: the statistics are x's, the running ones are updated."""
    if from_x:
        for name, running in (("running_mean", running_mean), ("running_var", running_var)):
            if running is not None and not (isinstance(running, np.ndarray) and running.dtype.kind == "f"):
                kind = running.dtype if isinstance(running, np.ndarray) else type(running).__name__
                raise TypeError(f"{op}: {name} is updated in place and must be an array of floats, got {kind}")
            if running is not None and not running.flags.writeable:
                raise ValueError(f"{op}: {name} is updated in place and must not be read-only")
    x, mean, var, weight, bias = as_floats(
        op, x=x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    if not from_x and (mean is None or var is None):
        raise ShapeError(f"{op}: running_mean and running_var must be given where x's own statistics are not used")
    channels = need_channels(op, x, 2 if op == "batch_norm" else 3)
    need_entries(op, "channel", (channels,), running_mean=mean, running_var=var, weight=weight, bias=bias)
    count = x.size // channels if op == "batch_norm" else math.prod(x.shape[2:])
    if from_x:
        need_several(op, count, x)
        mean, var = running_mean, running_var
    return Arguments(x, mean, var, weight, bias, number(op, "momentum", momentum), need_eps(op, eps))


def prepare_group(op: str, x: Any, num_groups: Any, weight: Any, bias: Any, eps: Any) -> tuple[Arguments, int]:
    x, weight, bias = as_floats(op, x=x, weight=weight, bias=bias)
    channels = need_channels(op, x)
    (groups,) = integers(op, "num_groups", num_groups, 1, 1)
    if channels % groups:
        raise ShapeError(f"{op}: num_groups must divide the channels of x, got {groups} for {channels}")
    need_entries(op, "channel", (channels,), weight=weight, bias=bias)
    need_several(op, x.size // groups, x)
    return Arguments(x, None, None, weight, bias, 0.0, need_eps(op, eps)), groups


def need_several(op: str, count: int, x: np.ndarray) -> None:
    if count == 1:
        raise ShapeError(f"{op}: x must have more than 1 value per mean, got shape {x.shape}")


def check(op: str, *, momentum: Any = 0.1, eps: Any = 1e-5, **others: Any) -> None:
    """For batch_norm and instance_norm."""
    number(op, "momentum", momentum)
    need_eps(op, eps)


def check_group(op: str, num_groups: Any, *, eps: Any = 1e-5) -> None:
    integers(op, "num_groups", num_groups, 1, 1)
    need_eps(op, eps)


# --- reference -------------------------------------------------------------------------------------------------------


def channel_entries(x: np.ndarray) -> list[int]:
    """The channel of every element."""
    pixels = math.prod(x.shape[2:])
    return [i // pixels % x.shape[1] for i in range(x.size)]


def plane(x: np.ndarray, n: int, c: int) -> list[int]:
    """The positions of channel c of item n."""
    pixels = math.prod(x.shape[2:])
    first = (n * x.shape[1] + c) * pixels
    return list(range(first, first + pixels))


def batch_sets(x: np.ndarray) -> list[list[int]]:
    return [[i for n in range(x.shape[0]) for i in plane(x, n, c)] for c in range(x.shape[1])]


def group_sets(x: np.ndarray, groups: int) -> list[list[int]]:
    each = x.shape[1] // groups
    return [
        [i for c in range(g * each, (g + 1) * each) for i in plane(x, n, c)]
        for n in range(x.shape[0])
        for g in range(groups)
    ]


def naive_running(a: Arguments) -> list[tuple[float, float]]:
    assert a.running_mean is not None
    assert a.running_var is not None
    return list(zip(a.running_mean.tolist(), a.running_var.tolist(), strict=True))


def naive_update(a: Arguments, moments: list[tuple[float, float]], count: int) -> None:
    """The running statistics from those of sets of `count` elements, whose channels go round and round."""
    channels = a.x.shape[1]
    for c in range(channels if a.x.size else 0):
        means = [mean for mean, _ in moments[c::channels]]
        variances = [var * count / (count - 1) for _, var in moments[c::channels]]
        for running, values in ((a.running_mean, means), (a.running_var, variances)):
            if running is not None:
                running[c] = (1 - a.momentum) * float(running[c]) + a.momentum * sum(values) / len(values)


def batch_reference(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, *, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare("batch_norm", x, running_mean, running_var, weight, bias, training, momentum, eps)
    y, saved, moments = naive(a, batch_sets(a.x), channel_entries(a.x), None if training else naive_running(a))
    if training:
        naive_update(a, moments, a.x.size // a.x.shape[1])
    return y, saved


def instance_reference(
    x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare("instance_norm", x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    if not use_input_stats:
        return naive(a, batch_sets(a.x), channel_entries(a.x), naive_running(a))[:2]
    y, saved, moments = naive(a, group_sets(a.x, a.x.shape[1]), channel_entries(a.x))
    naive_update(a, moments, math.prod(a.x.shape[2:]))
    return y, saved


def running_reference_backward(dy: np.ndarray, saved: Naive, needs: tuple[bool, ...]) -> Gradients:
    """For batch_norm and instance_norm."""
    dx, dweight, dbias = naive_backward(dy, saved)
    return dx, None, None, dweight, dbias, None, None, None


def group_reference(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[np.ndarray, Any]:
    a, groups = prepare_group("group_norm", x, num_groups, weight, bias, eps)
    return naive(a, group_sets(a.x, groups), channel_entries(a.x))[:2]


# --- fast: images of rows of channels --------------------------------------------------------------------------------
#
# One body for all of them: x is (I, P, C) in memory, the statistics are over P and the C / G neighbouring channels of a
# group, repeated to (I, C). batch_norm is I = 1, P = all pixels of the batch, G = C.


class Saved(NamedTuple):
    last: np.ndarray  # x, channels last
    cut: Rows
    statistics: np.ndarray  # (3, I, C) float64: mean, rstd = 1 / sqrt(var + eps), var
    eps: float
    weight: np.ndarray | None  # (C,)
    has_bias: bool
    groups: int
    from_x: bool  # mean and var are functions of x


def over_groups(values: np.ndarray, groups: int) -> np.ndarray:
    """The mean of (I, C) over the channels of every group, (I, C) again."""
    images, channels = values.shape
    if groups == channels:
        return values
    return np.repeat(values.reshape(images, groups, channels // groups).mean(axis=2), channels // groups, axis=1)


def normalise(
    op: str, last: np.ndarray, cut: Rows, statistics: np.ndarray, eps: float, weight: np.ndarray | None,
    bias: np.ndarray | None, coefficients: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """y = (x - mean) * rstd * weight + bias, channels last; rstd is written into the statistics."""
    y = allocate(op, last.shape, last.dtype)
    kernels.normalise(
        cut.table(last), cut.table(y), statistics, eps, weight, bias, coefficients, cut.block_rows,
        threads_for(2 * y.nbytes),
    )  # fmt: skip
    return y


def normalise_backward(
    op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, bool, bool]
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients to x, weight and bias; in one pass for the sums of dy and dy * (x - mean), one for dx."""
    last, cut, statistics, eps, own_weight, has_bias, groups, from_x = saved
    mean, rstd, _ = statistics
    weight = None if own_weight is None else own_weight.astype(np.float64)
    needs_x, needs_weight, needs_bias = needs[0], needs[1] and weight is not None, needs[2] and has_bias
    dy_last = channels_last(op, dy)
    rounded = mean.astype(last.dtype)
    dx = dweight = dbias = None
    if (needs_x and from_x) or needs_weight or needs_bias:
        sums = cut.sums(op, 2)
        kernels.products(
            cut.table(dy_last), cut.table(last), cut.widen(rounded, last.dtype), sums, cut.block_rows,
            threads_for(2 * dy_last.nbytes),
        )  # fmt: skip
        total, product = cut.add_up(sums)
        product = product + (rounded - mean) * total
        dweight = (product * rstd).sum(axis=0).astype(dy.dtype) if needs_weight else None
        dbias = total.sum(axis=0).astype(dy.dtype) if needs_bias else None
    if needs_x and not from_x:
        centred = statistics.copy()
        centred[0] = 0
        dx = logical(normalise(op, dy_last, cut, centred, eps, own_weight, None, cut.coefficients(3, last.dtype)))
    elif needs_x:
        scale = rstd if weight is None else rstd * weight
        if weight is not None:
            total, product = total * weight, product * weight
        level, along = (over_groups(s, groups) / cut.pixels for s in (total, product))
        slope = -along * rstd * rstd * rstd
        coefficients = np.empty((4, *mean.shape), last.dtype)
        coefficients[0], coefficients[1], coefficients[2] = rounded, scale, slope
        coefficients[3] = slope * (rounded - mean) - level * rstd
        dx_last = allocate(op, last.shape, last.dtype)
        kernels.scale_shift_backward(
            cut.table(dy_last), cut.table(last), cut.widen(coefficients, last.dtype), cut.table(dx_last),
            cut.block_rows, threads_for(3 * dx_last.nbytes),
        )  # fmt: skip
        dx = logical(dx_last)
    return dx, dweight, dbias


def channel_norm(op: str, a: Arguments, images: int, groups: int, from_x: bool) -> tuple[np.ndarray, Saved]:
    """y, and what the backward needs; from_x: the statistics are x's own, else the running ones."""
    channels = a.x.shape[1]
    last = channels_last(op, a.x)
    cut = Rows.of(images, a.x.size // channels // max(1, images), channels)
    statistics = np.zeros((3, images, channels))
    mean, _, var = statistics
    coefficients = cut.coefficients(3, last.dtype)
    if not from_x:
        mean[...], var[...] = a.running_mean, a.running_var
    elif last.size:
        kernels.moments(
            cut.table(last), coefficients[0], cut.sums(op, 2), mean, var, -(-cut.pixels // SAMPLE), cut.block_rows,
            threads_for(last.nbytes),
        )  # fmt: skip
        if groups != channels:
            with np.errstate(all="ignore"):
                whole = over_groups(mean, groups)
                var[...] = over_groups(var + (mean - whole) ** 2, groups)
                mean[...] = whole
    y = normalise(op, last, cut, statistics, a.eps, a.weight, a.bias, coefficients)
    weight = None if a.weight is None else a.weight.copy()
    return logical(y), Saved(last, cut, statistics, a.eps, weight, a.bias is not None, groups, from_x)


def update(a: Arguments, statistics: np.ndarray, count: int) -> None:
    """The running statistics from (3, I, C) ones of `count` elements each."""
    if not a.x.size:
        return
    for running, values, factor in (
        (a.running_mean, statistics[0], 1.0),
        (a.running_var, statistics[2], count / (count - 1)),
    ):
        if running is None:
            continue
        if running.dtype == a.x.dtype:
            kernels.update_running(running, values, factor, a.momentum)
        else:
            own = running.astype(a.x.dtype)
            kernels.update_running(own, values, factor, a.momentum)
            running[...] = own


# --- fast: the norms -------------------------------------------------------------------------------------------------


def batch_forward(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, *, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    a = prepare("batch_norm", x, running_mean, running_var, weight, bias, training, momentum, eps)
    y, saved = channel_norm("batch_norm", a, 1, a.x.shape[1], bool(training))
    if training:
        update(a, saved.statistics, a.x.size // a.x.shape[1])
    return y, saved


def instance_forward(
    x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    op = "instance_norm"
    a = prepare(op, x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    images = a.x.shape[0] if use_input_stats else 1
    y, saved = channel_norm(op, a, images, a.x.shape[1], bool(use_input_stats))
    if use_input_stats:
        update(a, saved.statistics, math.prod(a.x.shape[2:]))
    return y, saved


def group_forward(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[np.ndarray, Saved]:
    a, groups = prepare_group("group_norm", x, num_groups, weight, bias, eps)
    return channel_norm("group_norm", a, a.x.shape[0], groups, True)


def backward(op: str, positions: tuple[int, ...], dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    """positions: of x, weight and bias among the arguments."""
    wanted = [position < len(needs) and needs[position] for position in positions]
    with np.errstate(all="ignore"):
        found = normalise_backward(op, dy, saved, (wanted[0], wanted[1], wanted[2]))
    return in_places(positions, found, len(needs))


_RUNNING, _SHAPED = (0, 3, 4), (0, 2, 3)  # where x, weight and bias stand
add(
    "batch_norm",
    forward=batch_forward,
    backward=partial(backward, "batch_norm", _RUNNING),
    reference=batch_reference,
    reference_backward=running_reference_backward,
    check=partial(check, "batch_norm"),
)
add(
    "instance_norm",
    forward=instance_forward,
    backward=partial(backward, "instance_norm", _RUNNING),
    reference=instance_reference,
    reference_backward=running_reference_backward,
    check=partial(check, "instance_norm"),
)
add(
    "group_norm",
    forward=group_forward,
    backward=partial(backward, "group_norm", _SHAPED),
    reference=group_reference,
    reference_backward=reference_backward,
    check=partial(check_group, "group_norm"),
)
