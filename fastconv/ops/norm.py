"""Normalisation: subtract a mean, divide by a standard deviation, scale and shift.

    y = (x - mean) / sqrt(var + eps) * weight + bias

    batch_norm      x (N, C, *spatial); mean and var of every channel, over N and the spatial axes
    instance_norm   x (N, C, *spatial); of every channel of every item, over the spatial axes
    group_norm      x (N, C, *spatial); of C / num_groups neighbouring channels of every item, and the spatial axes
    layer_norm      x (..., *normalized_shape); over the last axes

    weight, bias    (C,), layer_norm: normalized_shape; None: 1 and 0
    running_mean, running_var   (C,): used in place of x's where x's are not, and updated where they are:
                    running = (1 - momentum) * running + momentum * x's

var is the biased variance; the running variance takes the unbiased one (PyTorch's rule).

    local_response_norm   y = x / (k + alpha / size * the sum of x^2 over `size` neighbouring channels)^beta
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import norm as kernels
from fastconv._ext import response as response_kernels
from fastconv.arrays import as_floats, channels_last, logical
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for
from fastconv.ops.common import Rows, contiguous, need_channels, need_entries, number
from fastconv.ops.registry import add
from fastconv.window import LARGEST, integers, is_sequence

SAMPLE = 32  # rows whose mean is the pivot
BLOCK = 1 << 16  # elements of the rows that one partial sum of layer_norm's weight gradient covers
WORK = 8  # what an element of local_response_norm costs, in elements of the others

Gradients = tuple["np.ndarray | None", ...]

# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None
    momentum: float
    eps: float


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


def need_eps(op: str, eps: Any) -> float:
    return number(op, "eps", eps, 0)


def check(op: str, *, momentum: Any = 0.1, eps: Any = 1e-5, **others: Any) -> None:
    """For batch_norm and instance_norm."""
    number(op, "momentum", momentum)
    need_eps(op, eps)


def need_several(op: str, count: int, x: np.ndarray) -> None:
    if count == 1:
        raise ShapeError(f"{op}: x must have more than 1 value per mean, got shape {x.shape}")


def prepare_group(op: str, x: Any, num_groups: Any, weight: Any, bias: Any, eps: Any) -> tuple[Arguments, int]:
    x, weight, bias = as_floats(op, x=x, weight=weight, bias=bias)
    channels = need_channels(op, x)
    (groups,) = integers(op, "num_groups", num_groups, 1, 1)
    if channels % groups:
        raise ShapeError(f"{op}: num_groups must divide the channels of x, got {groups} for {channels}")
    need_entries(op, "channel", (channels,), weight=weight, bias=bias)
    need_several(op, x.size // groups, x)
    return Arguments(x, None, None, weight, bias, 0.0, need_eps(op, eps)), groups


def prepare_layer(
    op: str, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: Any
) -> tuple[Arguments, tuple[int, ...]]:
    x, weight, bias = as_floats(op, x=x, weight=weight, bias=bias)
    shape = normalized(op, normalized_shape)
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(f"{op}: x must end in the axes of normalized_shape {shape}, got shape {x.shape}")
    need_entries(op, "element of normalized_shape", shape, weight=weight, bias=bias)
    return Arguments(x, None, None, weight, bias, 0.0, need_eps(op, eps)), shape


def normalized(op: str, normalized_shape: Any) -> tuple[int, ...]:
    count = len(normalized_shape) if is_sequence(normalized_shape) else 1
    if not count:
        raise ShapeError(f"{op}: normalized_shape must have at least one axis, got {normalized_shape!r}")
    return integers(op, "normalized_shape", normalized_shape, count, 1)


def check_group(op: str, num_groups: Any, *, eps: Any = 1e-5) -> None:
    integers(op, "num_groups", num_groups, 1, 1)
    need_eps(op, eps)


def check_layer(op: str, normalized_shape: Any, *, eps: Any = 1e-5) -> None:
    normalized(op, normalized_shape)
    need_eps(op, eps)


def check_response(size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> None:
    prepare_response(np.empty((0, 1, 1), np.float32), size, alpha, beta, k)


class Response(NamedTuple):
    x: np.ndarray
    before: int  # neighbours in front of a channel, at most all of them
    after: int
    alpha: float  # divided by size
    beta: float
    k: float


def prepare_response(x: Any, size: Any, alpha: Any, beta: Any, k: Any) -> Response:
    op = "local_response_norm"
    (x,) = as_floats(op, x=x)
    others = need_channels(op, x, 3) - 1
    (size,) = integers(op, "size", size, 1, 1)
    if size > LARGEST:
        raise ShapeError(f"{op}: size must be at most {LARGEST}, got {size}")
    alpha, beta, k = number(op, "alpha", alpha), number(op, "beta", beta), number(op, "k", k)
    return Response(x, min(size // 2, others), min((size - 1) // 2, others), alpha / size, beta, k)


# --- reference -------------------------------------------------------------------------------------------------------
#
# A set is the positions (flat, in C order) of the elements that share a mean; entry[i] says which weight element i has.


class Naive(NamedTuple):
    xs: list[float]
    sets: list[list[int]]
    entry: list[int]
    moments: list[tuple[float, float]]  # mean and 1 / sqrt(var + eps) of every set
    weights: list[float]
    from_x: bool
    a: Arguments


def naive(
    a: Arguments, sets: list[list[int]], entry: list[int], given: list[tuple[float, float]] | None = None
) -> tuple[np.ndarray, Naive, list[tuple[float, float]]]:
    """y, what the backward needs, and mean and variance of every set (`given`, or the elements' own)."""
    xs = a.x.ravel().tolist()
    entries = max(entry, default=-1) + 1
    weights = [1.0] * entries if a.weight is None else a.weight.ravel().tolist()
    biases = [0.0] * entries if a.bias is None else a.bias.ravel().tolist()
    moments = [naive_moments([xs[i] for i in positions]) for positions in sets] if given is None else given
    scales = [(mean, naive_rstd(var, a.eps)) for mean, var in moments]
    ys = [0.0] * len(xs)
    for positions, (mean, rstd) in zip(sets, scales, strict=True):
        for i in positions:
            ys[i] = (xs[i] - mean) * rstd * weights[entry[i]] + biases[entry[i]]
    return (
        np.array(ys, a.x.dtype).reshape(a.x.shape),
        Naive(xs, sets, entry, scales, weights, given is None, a),
        moments,
    )


def naive_moments(values: list[float]) -> tuple[float, float]:
    """Mean and biased variance; nan of nothing."""
    if not values:
        return math.nan, math.nan
    mean = sum(values) / len(values)
    return mean, sum((value - mean) * (value - mean) for value in values) / len(values)


def naive_rstd(var: float, eps: float) -> float:
    if not var + eps >= 0:
        return math.nan
    return 1 / math.sqrt(var + eps) if var + eps > 0 else math.inf


def naive_backward(dy: np.ndarray, saved: Naive) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    xs, sets, entry, scales, weights, from_x, a = saved
    dys, dxs = dy.ravel().tolist(), [0.0] * dy.size
    dweights, dbiases = [0.0] * len(weights), [0.0] * len(weights)
    for positions, (mean, rstd) in zip(sets, scales, strict=True):
        along = level = 0.0
        for i in positions:
            normal = (xs[i] - mean) * rstd
            dweights[entry[i]] += dys[i] * normal
            dbiases[entry[i]] += dys[i]
            along += dys[i] * weights[entry[i]] * normal / len(positions)
            level += dys[i] * weights[entry[i]] / len(positions)
        for i in positions:
            d = dys[i] * weights[entry[i]]
            dxs[i] = (d - level - (xs[i] - mean) * rstd * along) * rstd if from_x else d * rstd
    dx = np.array(dxs, dy.dtype).reshape(dy.shape)
    dweight = None if a.weight is None else np.array(dweights or np.zeros(a.weight.size), dy.dtype)
    dbias = None if a.bias is None else np.array(dbiases or np.zeros(a.bias.size), dy.dtype)
    return (
        dx,
        None if dweight is None or a.weight is None else dweight.reshape(a.weight.shape),
        None if dbias is None or a.bias is None else dbias.reshape(a.bias.shape),
    )


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


def reference(
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


def layer_reference(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[np.ndarray, Any]:
    a, shape = prepare_layer("layer_norm", x, normalized_shape, weight, bias, eps)
    size = math.prod(shape)
    sets = [list(range(first, first + size)) for first in range(0, a.x.size, size)]
    return naive(a, sets, [i % size for i in range(a.x.size)])[:2]


def shaped_reference_backward(dy: np.ndarray, saved: Naive, needs: tuple[bool, ...]) -> Gradients:
    """For group_norm and layer_norm."""
    dx, dweight, dbias = naive_backward(dy, saved)
    return dx, None, dweight, dbias, None


def response_reference(
    x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[np.ndarray, Any]:
    a = prepare_response(x, size, alpha, beta, k)
    last = np.moveaxis(a.x, 1, -1)
    ys = []
    for row in last.reshape(-1, last.shape[-1]).tolist():
        ys.append([value * naive_power(level, -a.beta) for value, level in zip(row, naive_levels(row, a), strict=True)])
    return np.moveaxis(np.array(ys, a.x.dtype).reshape(last.shape), -1, 1), a


def naive_levels(row: list[float], a: Response) -> list[float]:
    levels = []
    for c in range(len(row)):
        near = row[max(0, c - a.before) : c + a.after + 1]
        levels.append(a.k + sum(a.alpha * value * value for value in near))
    return levels


def naive_power(base: float, exponent: float) -> float:
    """base^exponent; nan of a negative base, inf where it overflows."""
    if not base >= 0:
        return math.nan
    try:
        return math.pow(base, exponent)
    except (OverflowError, ValueError):
        return math.inf


def response_reference_backward(dy: np.ndarray, saved: Response, needs: tuple[bool, ...]) -> Gradients:
    a = saved
    last, dlast = np.moveaxis(a.x, 1, -1), np.moveaxis(dy, 1, -1)
    channels = last.shape[-1]
    dxs = []
    for row, ds in zip(last.reshape(-1, channels).tolist(), dlast.reshape(-1, channels).tolist(), strict=True):
        levels = naive_levels(row, a)
        powers = [naive_power(level, -a.beta) for level in levels]
        drow = [d * power for d, power in zip(ds, powers, strict=True)]
        for c in range(channels):
            share = -2 * a.alpha * a.beta * (ds[c] * row[c] * powers[c] / levels[c] if levels[c] else math.nan)
            for near in range(max(0, c - a.before), min(channels, c + a.after + 1)):
                drow[near] += share * row[near]
        dxs.append(drow)
    return np.moveaxis(np.array(dxs, dy.dtype).reshape(last.shape), -1, 1), None, None, None, None


# --- fast: images of rows of channels --------------------------------------------------------------------------------
#
# One body for every norm whose statistics belong to channels: x is (I, P, C) in memory, the statistics are over P
# and the C / G neighbouring channels of a group, repeated to (I, C). batch_norm is I = 1, P = all pixels of the batch,
# G = C.


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


def forward(
    x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, *, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    a = prepare("batch_norm", x, running_mean, running_var, weight, bias, training, momentum, eps)
    y, saved = channel_norm("batch_norm", a, 1, a.x.shape[1], bool(training))
    if training:
        update(a, saved.statistics, a.x.size // a.x.shape[1])
    return y, saved


def instance_norm(
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


def group_norm(
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


def in_places(positions: tuple[int, ...], found: tuple[np.ndarray | None, ...], count: int) -> Gradients:
    """A gradient per argument: those found, in their places, None elsewhere."""
    gradients: list[np.ndarray | None] = [None] * max(count, positions[-1] + 1)
    for position, gradient in zip(positions, found, strict=True):
        gradients[position] = gradient
    return tuple(gradients)


# --- fast: layer_norm, over rows in C order --------------------------------------------------------------------------


class SavedLayer(NamedTuple):
    table: np.ndarray  # x (rows, D)
    weight: np.ndarray  # (D,)
    statistics: np.ndarray  # (rows, 2) float64: mean, 1 / sqrt(var + eps)
    x_shape: tuple[int, ...]
    shape: tuple[int, ...]
    has_weight: bool
    has_bias: bool


def layer_norm(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple[np.ndarray, SavedLayer]:
    op = "layer_norm"
    a, shape = prepare_layer(op, x, normalized_shape, weight, bias, eps)
    size = math.prod(shape)
    table = contiguous(op, a.x).reshape(-1, size)
    w = np.ones(size, table.dtype) if a.weight is None else contiguous(op, a.weight).reshape(-1)
    b = np.zeros(size, table.dtype) if a.bias is None else contiguous(op, a.bias).reshape(-1)
    y = allocate(op, table.shape, table.dtype)
    statistics = allocate(op, (len(table), 2), np.dtype(np.float64))
    kernels.layer_norm(table, w, b, y, statistics, a.eps, threads_for(2 * y.nbytes))
    saved = SavedLayer(table, w, statistics, a.x.shape, shape, a.weight is not None, a.bias is not None)
    return y.reshape(a.x.shape), saved


def layer_backward(dy: np.ndarray, saved: SavedLayer, needs: tuple[bool, ...]) -> Gradients:
    op = "layer_norm"
    table, weight, statistics, x_shape, shape, has_weight, has_bias = saved
    dy_table = contiguous(op, dy).reshape(table.shape)
    dx = allocate(op, table.shape, table.dtype)
    block_rows = max(16, BLOCK // table.shape[1])
    sums = allocate(op, (-(-len(table) // block_rows), 2, table.shape[1]), np.dtype(np.float64))
    kernels.layer_norm_backward(
        dy_table, table, weight, statistics, dx, sums, block_rows, threads_for(3 * dx.nbytes)
    )  # fmt: skip
    with np.errstate(all="ignore"):
        dweight, dbias = (total.astype(dx.dtype).reshape(shape) for total in sums.sum(axis=0))
    found = dx.reshape(x_shape), dweight if has_weight else None, dbias if has_bias else None
    return in_places((0, 2, 3), found, len(needs))


# --- fast: local_response_norm, over rows of channels ----------------------------------------------------------------


def response_scratch(last: np.ndarray) -> np.ndarray:
    """A level and a power per channel for every thread."""
    bytes_each = 2 * last.shape[-1] * last.itemsize
    threads = max(1, min(threads_for(WORK * last.nbytes), get_workspace_limit() // bytes_each))
    return allocate("local_response_norm", (threads, 2 * last.shape[-1]), last.dtype)


def response(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> tuple[np.ndarray, Response]:
    a = prepare_response(x, size, alpha, beta, k)
    last = channels_last("local_response_norm", a.x)
    y = allocate("local_response_norm", last.shape, last.dtype)
    channels = last.shape[-1]
    response_kernels.local_response_norm(
        last.reshape(-1, channels), y.reshape(-1, channels), *a[1:], response_scratch(last)
    )
    return logical(y), a._replace(x=last)


def response_backward(dy: np.ndarray, saved: Response, needs: tuple[bool, ...]) -> Gradients:
    last = saved.x  # channels last
    dy_last = channels_last("local_response_norm", dy)
    dx = allocate("local_response_norm", last.shape, last.dtype)
    dy_rows, x_rows, dx_rows = (array.reshape(-1, last.shape[-1]) for array in (dy_last, last, dx))
    response_kernels.local_response_norm_backward(dy_rows, x_rows, dx_rows, *saved[1:], response_scratch(last))
    return logical(dx), None, None, None, None


_RUNNING, _SHAPED = (0, 3, 4), (0, 2, 3)  # where x, weight and bias stand
add(
    "batch_norm",
    forward=forward,
    backward=partial(backward, "batch_norm", _RUNNING),
    reference=reference,
    reference_backward=running_reference_backward,
    check=partial(check, "batch_norm"),
)
add(
    "instance_norm",
    forward=instance_norm,
    backward=partial(backward, "instance_norm", _RUNNING),
    reference=instance_reference,
    reference_backward=running_reference_backward,
    check=partial(check, "instance_norm"),
)
add(
    "group_norm",
    forward=group_norm,
    backward=partial(backward, "group_norm", _SHAPED),
    reference=group_reference,
    reference_backward=shaped_reference_backward,
    check=partial(check_group, "group_norm"),
)
add(
    "layer_norm",
    forward=layer_norm,
    backward=layer_backward,
    reference=layer_reference,
    reference_backward=shaped_reference_backward,
    check=partial(check_layer, "layer_norm"),
)
add(
    "local_response_norm",
    forward=response,
    backward=response_backward,
    reference=response_reference,
    reference_backward=response_reference_backward,
    check=check_response,
)
