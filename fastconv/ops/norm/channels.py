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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv._ext import norm as kernels
from fastconv._ext.capture import refuse
from fastconv.arrays import as_floats, channels_last, contiguous, copied, copy_into, logical, memoised
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import LANES, Rows, need_channels, need_entries, number
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
from fastconv.ops.spatial import unlift
from fastconv.window import integers

if TYPE_CHECKING:
    from fastconv.ops.pool.windows import Plan as Pool

BYTE = np.dtype(np.int8)
SAMPLE = 32  # rows whose mean is the pivot

Gather = Callable[[np.ndarray], np.ndarray]  # everybody's (n,) float64, as (everybody, n)
_gather: ContextVar[Gather | None] = ContextVar("fastconv.batch_norm", default=None)
_inside: list[None] = []  # one for each `synchronised` that any thread has entered: else nobody need ask for the above


@contextmanager
def synchronised(gather: Gather | None) -> Iterator[None]:
    """Inside, and in this thread, the statistics of batch_norm in training, and what its backward adds up, are those of
    all batches that `gather` knows of, each of which calls it as often; None: of its own batch."""
    token = _gather.set(gather)
    _inside.append(None)
    try:
        yield
    finally:
        _inside.pop()
        _gather.reset(token)


def is_synchronised() -> bool:
    """Whether batches' statistics are those of others, too, in this thread and for now."""
    return bool(_inside) and _gather.get() is not None


def together(statistics: np.ndarray, count: int, gather: Gather) -> int:
    """Make mean and variance (3, 1, C) of `count` elements those of everybody's (Chan et al., 1979), added in order;
    returns everybody's count."""
    channels = statistics.shape[2]
    every = gather(np.concatenate([statistics[0, 0], statistics[2, 0], [count]]))
    counts = every[:, -1]
    total = counts.sum()
    here = counts > 0
    shares = counts[here, None] / max(total, 1)
    means, variances = every[here, :channels], every[here, channels:-1]
    mean = (shares * means).sum(axis=0)
    statistics[0, 0] = mean
    statistics[2, 0] = (shares * (variances + (means - mean) ** 2)).sum(axis=0)
    return int(total)


# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(
    op: str, x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, from_x: Any, momentum: Any, eps: Any
) -> Arguments:
    """For batch_norm and instance_norm; from_x: the statistics are x's, the running ones are updated."""
    if from_x:
        need_updatable(op, running_mean=running_mean, running_var=running_var)
    x, mean, var, weight, bias = as_floats(
        op, x=x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    rule(op, x, mean, var, weight, bias, from_x)
    if from_x:
        mean, var = running_mean, running_var
    return Arguments(x, mean, var, weight, bias, number(op, "momentum", momentum), need_eps(op, eps))


def need_updatable(op: str, **arrays: Any) -> None:
    for name, running in arrays.items():
        if running is not None and not (isinstance(running, np.ndarray) and running.dtype.kind == "f"):
            kind = running.dtype if isinstance(running, np.ndarray) else type(running).__name__
            raise TypeError(f"{op}: {name} is updated in place and must be an array of floats, got {kind}")
        if running is not None and not running.flags.writeable:
            raise ValueError(f"{op}: {name} is updated in place and must not be read-only")


def rule(
    op: str, x: np.ndarray, mean: np.ndarray | None, var: np.ndarray | None, weight: np.ndarray | None,
    bias: np.ndarray | None, from_x: Any, alone: bool = True,
) -> int:  # fmt: skip
    """The elements that share a mean; for batch_norm and instance_norm. alone: with no others of other batches."""
    if not from_x and (mean is None or var is None):
        raise ShapeError(f"{op}: running_mean and running_var must be given where x's own statistics are not used")
    channels = need_channels(op, x, 2 if op == "batch_norm" else 3)
    need_entries(op, "channel", (channels,), running_mean=mean, running_var=var, weight=weight, bias=bias)
    count = x.size // channels if op == "batch_norm" else math.prod(x.shape[2:])
    if from_x and alone:
        need_several(op, count, x)
    return count


def prepare_group(op: str, x: Any, num_groups: Any, weight: Any, bias: Any, eps: Any) -> tuple[Arguments, int]:
    x, weight, bias = as_floats(op, x=x, weight=weight, bias=bias)
    groups = rule_of_groups(op, x, weight, bias, num_groups)
    return Arguments(x, None, None, weight, bias, 0.0, need_eps(op, eps)), groups


def rule_of_groups(op: str, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, num_groups: Any) -> int:
    """The groups of group_norm."""
    channels = need_channels(op, x)
    (groups,) = integers(op, "num_groups", num_groups, 1, 1)
    if channels % groups:
        raise ShapeError(f"{op}: num_groups must divide the channels of x, got {groups} for {channels}")
    need_entries(op, "channel", (channels,), weight=weight, bias=bias)
    need_several(op, x.size // groups, x)
    return groups


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


class Call(NamedTuple):
    """What the layout of the arrays and the options decide."""

    cut: Rows
    groups: int
    averaged: int  # elements that share a mean
    eps: float
    from_x: bool  # mean and var are functions of x
    has_weight: bool
    has_bias: bool


@memoised("x", "running_mean", "running_var", "weight", "bias")
def plan(
    op: str, x: np.ndarray, mean: np.ndarray | None, var: np.ndarray | None, weight: np.ndarray | None,
    bias: np.ndarray | None, from_x: bool, eps: Any, alone: bool,
) -> Call:  # fmt: skip
    """For batch_norm and instance_norm."""
    if from_x:
        need_updatable(op, running_mean=mean, running_var=var)
    count, channels = rule(op, x, mean, var, weight, bias, from_x, alone), x.shape[1]
    images = x.shape[0] if op == "instance_norm" and from_x else 1
    return call_of(x, images, channels, count, need_eps(op, eps), from_x, weight, bias)


@memoised("x", "weight", "bias")
def plan_groups(
    op: str, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, num_groups: Any, eps: Any
) -> Call:
    groups = rule_of_groups(op, x, weight, bias, num_groups)
    return call_of(x, x.shape[0], groups, x.size // groups, need_eps(op, eps), True, weight, bias)


def call_of(
    x: np.ndarray, images: int, groups: int, count: int, eps: float, from_x: bool, weight: np.ndarray | None,
    bias: np.ndarray | None,
) -> Call:  # fmt: skip
    channels = x.shape[1]
    cut = Rows.of(images, x.size // channels // max(1, images), channels)
    return Call(cut, groups, count, eps, from_x, weight is not None, bias is not None)


class Saved(NamedTuple):
    last: np.ndarray  # x, channels last
    statistics: np.ndarray  # (3, I, C) float64: mean, rstd = 1 / sqrt(var + eps), var
    coefficients: np.ndarray  # (3, I, width): y = (x - [0]) * [1] + [2]
    weight: np.ndarray | None  # (C,)
    call: Call
    relu: bool = False  # of y; not for a mean and var that are given
    y: np.ndarray | None = None  # relu's, channels last, where an addend came before it
    gather: Gather | None = None  # the statistics are those of several batches
    pooled: tuple[Pool, np.ndarray] | None = None  # y has relu's maxima over windows, and which taps they come from


def over_groups(values: np.ndarray, groups: int) -> np.ndarray:
    """The mean of (I, C) over the channels of every group, (I, C) again."""
    images, channels = values.shape
    if groups == channels:
        return values
    return np.repeat(values.reshape(images, groups, channels // groups).mean(axis=2), channels // groups, axis=1)


def normalise(
    op: str, last: np.ndarray, call: Call, statistics: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None,
    coefficients: np.ndarray, relu: bool = False, addend: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """y = (x - mean) * rstd * weight + bias, channels last; rstd and the coefficients are written. relu: that of y, or
    of y + addend."""
    y = allocate(op, last.shape, last.dtype)
    kernels.normalise(
        last, y, statistics, call.eps, weight, bias, coefficients, call.cut.block_rows, threads_for(2 * y.nbytes),
        relu, addend,
    )  # fmt: skip
    return y


def normalise_backward(
    op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, bool, bool], over: bool = False
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Gradients to x, weight, bias and addend; in one pass for the sums of dy and dy * (x - mean), one for dx. over:
    what is written may take the place of dy, or of x where the maxima were taken, which is nobody else's."""
    last, statistics, before, own_weight, call, relu, y, gather, pooled = saved
    cut, from_x = call.cut, call.from_x
    needs_x, needs_weight, needs_bias = needs[0], needs[1] and call.has_weight, needs[2] and call.has_bias
    dy_last = channels_last(op, dy)
    dx = dweight = dbias = gated = coefficients = None
    if (needs_x and from_x) or needs_weight or needs_bias or y is not None:
        sums, threads = cut.sums(op, 2), threads_for(2 * last.nbytes)
        if y is not None:
            gated = dy_last if over else allocate(op, last.shape, last.dtype)
        if pooled is not None:
            pool, chosen = pooled
            kernels.windows_products(
                dy_last.reshape(pool.y_last), chosen, last.reshape(pool.x_last), pool.window.kernel, before, sums,
                cut.block_rows, threads,
            )  # fmt: skip
        else:
            kernels.products(
                cut.table(dy_last), cut.table(last), before, sums, cut.block_rows, threads, relu,
                None if y is None else cut.table(y), None if gated is None else cut.table(gated),
            )  # fmt: skip
        if gated is not None:
            dy_last, relu, over = gated, False, False
        dweight = np.empty(cut.channels, dy.dtype) if needs_weight else None
        dbias = np.empty(cut.channels, dy.dtype) if needs_bias else None
        totals = np.empty((2, cut.images, cut.channels))
        kernels.settle_products(sums, statistics, before, own_weight, totals, dweight, dbias)
        if needs_x and from_x:
            pixels = cut.pixels
            if gather is not None:
                pixels = call.averaged
                totals = gather(totals.reshape(-1)).sum(axis=0).reshape(totals.shape)
            width = cut.channels * (1 if pooled is not None else cut.join)
            coefficients = np.empty((4, cut.images, width), last.dtype)
            kernels.settle_backward(totals, statistics, own_weight, call.groups, pixels, coefficients)
    if needs_x and not from_x:
        centred = copied(op, statistics)
        copy_into(centred[0], 0)
        dx = logical(normalise(op, dy_last, call, centred, own_weight, None, cut.coefficients(3, last.dtype)))
    elif needs_x:
        assert coefficients is not None
        own = dy_last if pooled is None else last
        dx_last = own if over else allocate(op, last.shape, last.dtype)
        threads = threads_for(3 * dx_last.nbytes)
        if pooled is not None:
            pool, chosen = pooled
            kernels.windows_backward(
                dy_last.reshape(pool.y_last), chosen, last.reshape(pool.x_last), pool.window.kernel, coefficients,
                dx_last.reshape(pool.x_last), threads,
            )  # fmt: skip
        else:
            kernels.scale_shift_backward(
                cut.table(dy_last), cut.table(last), coefficients, cut.table(dx_last), cut.block_rows,
                threads, before[2] if relu else None,
            )  # fmt: skip
        dx = logical(dx_last)
    return dx, dweight, dbias, None if gated is None else logical(gated)


def channel_norm(
    op: str, call: Call, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None,
    given: tuple[np.ndarray, np.ndarray] | None = None, relu: bool = False, addend: np.ndarray | None = None,
    gather: Gather | None = None, pool: Pool | None = None,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    """y, and what the backward needs; given: mean and var, where the statistics are not x's own; gather: where they are
    those of other batches, too; pool: y is relu's maxima."""
    cut, groups = call.cut, call.groups
    last = channels_last(op, x)
    statistics = np.zeros((3, cut.images, cut.channels))
    coefficients = cut.coefficients(3, last.dtype)
    if given is not None:
        for row, values in zip(statistics[::2], given, strict=True):
            copy_into(row, values)
    elif last.size:
        kernels.moments(
            last, coefficients, cut.sums(op, 2), statistics, -(-cut.pixels // SAMPLE), cut.block_rows,
            threads_for(last.nbytes),
        )  # fmt: skip
        if groups != cut.channels:
            mean, _, var = statistics
            with np.errstate(all="ignore"):
                whole = over_groups(mean, groups)
                var[...] = over_groups(var + (mean - whole) ** 2, groups)
                mean[...] = whole
    if gather is not None:
        refuse()
        call = call._replace(averaged=together(statistics, call.averaged, gather))
        need_several(op, call.averaged, x)
    weight = None if weight is None else copied(op, weight)
    bias = bias if bias is None or bias.flags.c_contiguous else copied(op, bias)
    if addend is not None:
        addend = channels_last(op, addend)
    if pool is not None:
        y, chosen = allocate(op, pool.y_last, last.dtype), allocate(op, pool.y_last, BYTE)
        kernels.normalise_windows(
            last.reshape(pool.x_last), y, chosen, pool.window.kernel, statistics, call.eps, weight, bias, coefficients,
            threads_for(last.nbytes),
        )  # fmt: skip
        return unlift(y, pool.output), Saved(
            last, statistics, coefficients, weight, call, True, None, gather, (pool, chosen)
        )  # fmt: skip
    y = normalise(op, last, call, statistics, weight, bias, coefficients, relu, addend)
    gate = None if addend is None else y
    return logical(y), Saved(last, statistics, coefficients, weight, call, relu, gate, gather)


def coefficients(
    mean: np.ndarray, var: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> np.ndarray:
    """(3, C + LANES), by which batch_norm of this mean and var, arrays of one type, is (x - [0]) * [1] + [2]."""
    statistics = np.empty((3, 1, len(mean)))
    copy_into(statistics[0], mean)
    copy_into(statistics[2], var)
    found = np.empty((3, 1, len(mean) + LANES), mean.dtype)
    own_weight, own_bias = (each if each is None else contiguous("batch_norm", each) for each in (weight, bias))
    kernels.settle(statistics, eps, own_weight, own_bias, found)
    return found[:, 0]


def update(call: Call, dtype: np.dtype, statistics: np.ndarray, momentum: float, *running: np.ndarray | None) -> None:
    """The running mean and variance from (3, I, C) ones of so many elements each."""
    if not statistics.size or not call.averaged:
        return
    factors = 1.0, 0.0, call.averaged / (call.averaged - 1)
    for array, which in zip(running, (0, 2), strict=True):
        if array is None:
            continue
        if array.dtype == dtype and array.flags.c_contiguous:
            kernels.update_running(array, statistics, which, factors[which], momentum)
        else:
            refuse()
            own = array.astype(dtype, order="C")
            kernels.update_running(own, statistics, which, factors[which], momentum)
            array[...] = own


# --- fast: the norms -------------------------------------------------------------------------------------------------


def running_forward(
    op: str, x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, from_x: bool, momentum: Any, eps: Any,
    relu: bool = False, addend: np.ndarray | None = None, pool: Pool | None = None,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    """batch_norm and instance_norm."""
    gather = _gather.get() if _inside and from_x and op == "batch_norm" else None
    x, mean, var, weight, bias, call = plan(op, x, running_mean, running_var, weight, bias, from_x, eps, gather is None)
    if from_x and not (mean is running_mean and var is running_var):
        need_updatable(op, running_mean=running_mean, running_var=running_var)
    momentum = number(op, "momentum", momentum)
    y, saved = channel_norm(op, call, x, weight, bias, None if from_x else (mean, var), relu, addend, gather, pool)
    if from_x:
        update(saved.call, x.dtype, saved.statistics, momentum, running_mean, running_var)
    return y, saved


def batch_forward(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, *, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    return running_forward(
        "batch_norm", x, running_mean, running_var, weight, bias, bool(training), momentum, eps
    )  # fmt: skip


def batch_relu_forward(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, *, addend: np.ndarray | None,
    pool: Pool | None, training: bool, momentum: float, eps: float,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    """relu of what batch_norm gives, or of that and an addend, or, in training, the maxima of that, in the same pass
    (fastconv.plan)."""
    return running_forward(
        "batch_norm", x, running_mean, running_var, weight, bias, bool(training), momentum, eps, True, addend, pool
    )  # fmt: skip


def instance_forward(
    x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    return running_forward(
        "instance_norm", x, running_mean, running_var, weight, bias, bool(use_input_stats), momentum, eps
    )  # fmt: skip


def group_forward(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[np.ndarray, Saved]:
    x, weight, bias, call = plan_groups("group_norm", x, weight, bias, num_groups, eps)
    return channel_norm("group_norm", call, x, weight, bias)


def backward(op: str, positions: tuple[int, ...], dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    """positions: of x, weight and bias among the arguments."""
    wanted = [position < len(needs) and needs[position] for position in positions]
    found = normalise_backward(op, dy, saved, (wanted[0], wanted[1], wanted[2]))[:3]
    return in_places(positions, found, len(needs))


def batch_relu_backward(dy: np.ndarray, saved: Saved, needs: tuple[bool, bool, bool], over: bool = False) -> Gradients:
    """To x, weight, bias and addend; over: dy is overwritten, or x where the maxima were taken."""
    return normalise_backward("batch_norm", dy, saved, needs, over)


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
