"""Every operation as one writes it in plain NumPy, and the calls that are timed: `fastconv compare`, the benchmarks.

No tricks, and none left out that every NumPy user knows: windows by `sliding_window_view`, one matrix multiply on them,
whole-array arithmetic, a Python loop over taps at most. Each function takes what its namesake in fastconv.functional
takes (the options that the benchmarks use) and returns (y, pullback); pullback(dy) gives a gradient per array, None
where there is none. Convolution keeps its columns for the backward pass, as such code does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fastconv.lab.shapes import (
    CONVOLUTIONS,
    TRANSPOSED,
    Case,
    ConvShape,
    class_case,
    conv_case,
    linear_case,
    map_case,
    norm_case,
    pair_case,
    prelu_case,
    scaled_case,
    unpool_case,
    unshared_case,
)

__all__ = ["CASES", "PLAIN"]

Pullback = Callable[[np.ndarray], tuple["np.ndarray | None", ...]]
Result = tuple[np.ndarray, Pullback]
Index = tuple[Any, ...]


def _pad(x: np.ndarray, padding: int, value: float = 0) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), *((padding, padding),) * (x.ndim - 2)), constant_values=value)


def _crop(x: np.ndarray, padding: int) -> np.ndarray:
    inside: Index = (..., *(slice(padding, n - padding) for n in x.shape[2:]))
    return x[inside]


def _windows(x: np.ndarray, kernel: tuple[int, ...], stride: int, dilation: int = 1) -> np.ndarray:
    """(N, C, *spatial) -> (N, C, *output, *kernel), a view."""
    spans = [(r - 1) * dilation + 1 for r in kernel]
    windows = sliding_window_view(x, spans, axis=tuple(range(2, x.ndim)))
    strides, dilations = [slice(None, None, stride)] * len(kernel), [slice(None, None, dilation)] * len(kernel)
    where: Index = (..., *strides, *dilations)
    return windows[where]


def _taps(
    kernel: tuple[int, ...], output: tuple[int, ...], stride: int, dilation: int = 1
) -> Iterator[tuple[Index, Index]]:
    """Every tap, as an index into the last axes, with the slice of the padded input that it meets."""
    for tap in itertools.product(*map(range, kernel)):
        starts = [t * dilation for t in tap]
        where = [slice(s, s + (m - 1) * stride + 1, stride) for s, m in zip(starts, output, strict=True)]
        yield (..., *tap), (..., *where)


def _columns(x: np.ndarray, kernel: tuple[int, ...], stride: int, dilation: int, groups: int) -> np.ndarray:
    """im2col of padded x: (groups, N * pixels, C / groups * taps), one window a row."""
    windows = _windows(x, kernel, stride, dilation)
    n, c, ndim = *x.shape[:2], len(kernel)
    split = windows.reshape(n, groups, c // groups, *windows.shape[2:]) if groups > 1 else windows[:, None]
    # (N, G, C / G, *output, *kernel) -> (G, N, *output, C / G, *kernel)
    rows = split.transpose(1, 0, *range(3, 3 + ndim), 2, *range(3 + ndim, 3 + 2 * ndim))
    return rows.reshape(groups, -1, c // groups * int(np.prod(kernel)))


def _add_columns(
    columns: np.ndarray, dx: np.ndarray, output: tuple[int, ...], kernel: tuple[int, ...], *step: int
) -> None:  # fmt: skip
    """col2im: add columns (groups, N * pixels, C / groups * taps) to padded dx (N, C, *spatial), tap by tap."""
    n, c = dx.shape[:2]
    groups, ndim = columns.shape[0], len(kernel)
    split = columns.reshape(groups, n, *output, c // groups, *kernel)
    # (G, N, *output, C / G, *kernel) -> (N, G, C / G, *output, *kernel)
    split = split.transpose(1, 0, 2 + ndim, *range(2, 2 + ndim), *range(3 + ndim, 3 + 2 * ndim))
    grouped = dx.reshape(n, groups, c // groups, *dx.shape[2:])
    for tap, where in _taps(kernel, output, *step):
        grouped[where] += split[tap]


def _to_rows(y: np.ndarray, groups: int) -> np.ndarray:
    """(N, K, *output) -> (groups, N * pixels, K / groups)."""
    split = y.reshape(y.shape[0], groups, y.shape[1] // groups, -1)
    return split.transpose(1, 0, 3, 2).reshape(groups, -1, y.shape[1] // groups)


def _from_rows(rows: np.ndarray, batch: int, output: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_to_rows`, C-contiguous."""
    groups, _, filters = rows.shape
    split = rows.reshape(groups, batch, -1, filters).transpose(1, 0, 3, 2)
    return split.reshape(batch, groups * filters, *output)


def conv(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1,
) -> Result:  # fmt: skip
    kernel = w.shape[2:]
    padded = _pad(x, padding)
    output = _windows(padded, kernel, stride, dilation).shape[2 : x.ndim]
    columns = _columns(padded, kernel, stride, dilation, groups)
    matrix = w.reshape(groups, w.shape[0] // groups, -1)  # (G, K / G, C / G * taps)
    rows = columns @ matrix.transpose(0, 2, 1)
    if b is not None:
        rows += b.reshape(groups, 1, -1)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        drows = _to_rows(dy, groups)
        dw = (drows.transpose(0, 2, 1) @ columns).reshape(w.shape)
        dpadded = np.zeros_like(padded)
        _add_columns(drows @ matrix, dpadded, output, kernel, stride, dilation)
        dx = _crop(dpadded, padding)
        return (dx, dw) if b is None else (dx, dw, drows.sum(axis=1).ravel())

    return _from_rows(rows, x.shape[0], output), pullback


def conv_transpose(x: np.ndarray, w: np.ndarray, *, stride: int = 1, padding: int = 0) -> Result:
    """The adjoint of `conv`; w (C, K, *kernel), one group."""
    kernel, spatial = w.shape[2:], x.shape[2:]
    matrix = w.reshape(1, w.shape[0], -1)  # (1, C, K * taps)
    rows = _to_rows(x, 1)
    full = [(n - 1) * stride + r for n, r in zip(spatial, kernel, strict=True)]
    padded = np.zeros((x.shape[0], w.shape[1], *full), x.dtype)
    _add_columns(rows @ matrix, padded, spatial, kernel, stride)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        columns = _columns(_pad(dy, padding), kernel, stride, 1, 1)
        dx = _from_rows(columns @ matrix.transpose(0, 2, 1), x.shape[0], spatial)
        return dx, (rows.transpose(0, 2, 1) @ columns).reshape(w.shape)

    return np.ascontiguousarray(_crop(padded, padding)), pullback


def max_pool(x: np.ndarray, *, kernel_size: int, stride: int | None = None, padding: int = 0) -> Result:
    kernel, stride = (kernel_size,) * (x.ndim - 2), stride or kernel_size
    padded = _pad(x, padding, -np.inf)
    windows = _windows(padded, kernel, stride)
    output = windows.shape[2 : x.ndim]
    flat = windows.reshape(*windows.shape[: x.ndim], -1)
    winners = flat.argmax(axis=-1)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dpadded = np.zeros_like(padded)
        for index, (_, where) in enumerate(_taps(kernel, output, stride)):
            dpadded[where] += dy * (winners == index)
        return (_crop(dpadded, padding),)

    return np.take_along_axis(flat, winners[..., None], axis=-1)[..., 0], pullback


def avg_pool(x: np.ndarray, *, kernel_size: int, stride: int | None = None, padding: int = 0) -> Result:
    kernel, stride = (kernel_size,) * (x.ndim - 2), stride or kernel_size
    padded = _pad(x, padding)
    windows = _windows(padded, kernel, stride)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dpadded = np.zeros_like(padded)
        share = dy / np.float32(np.prod(kernel))
        for _, where in _taps(kernel, dy.shape[2:], stride):
            dpadded[where] += share
        return (_crop(dpadded, padding),)

    return windows.mean(axis=tuple(range(x.ndim, windows.ndim))), pullback


def lp_pool(x: np.ndarray, *, norm_type: float, kernel_size: int, stride: int | None = None) -> Result:
    kernel, stride = (kernel_size,) * (x.ndim - 2), stride or kernel_size
    windows = _windows(x, kernel, stride)
    y = (np.abs(windows) ** norm_type).sum(axis=tuple(range(x.ndim, windows.ndim))) ** (1 / norm_type)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx = np.zeros_like(x)
        share = np.divide(dy, y ** (norm_type - 1), where=y > 0, out=np.zeros_like(y))
        for _, where in _taps(kernel, dy.shape[2:], stride):
            dx[where] += share * np.sign(x[where]) * np.abs(x[where]) ** (norm_type - 1)
        return (dx,)

    return y, pullback


def _adaptive(pool: Callable[..., Result], x: np.ndarray, *, output_size: int) -> Result:
    """Where output_size divides the input, adaptive pooling is pooling."""
    return pool(x, kernel_size=x.shape[2] // output_size)


def locally_connected(x: np.ndarray, w: np.ndarray, *, padding: int) -> Result:
    filters, channels, *kernel, height, width = w.shape
    padded = _pad(x, padding)
    # (H', W', N, C * taps) and (H', W', C * taps, K)
    columns = _windows(padded, tuple(kernel), 1).transpose(2, 3, 0, 1, 4, 5).reshape(height, width, len(x), -1)
    matrix = w.transpose(4, 5, 1, 2, 3, 0).reshape(height, width, -1, filters)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        d = dy.transpose(2, 3, 0, 1)  # (H', W', N, K)
        dcolumns = (d @ matrix.swapaxes(2, 3)).reshape(height, width, len(x), channels, *kernel)
        dpadded = np.zeros_like(padded)
        for tap, where in _taps(tuple(kernel), (height, width), 1):
            dpadded[where] += dcolumns[tap].transpose(2, 3, 0, 1)
        dw = (d.swapaxes(2, 3) @ columns).reshape(height, width, filters, channels, *kernel)
        return _crop(dpadded, padding), dw.transpose(2, 3, 4, 5, 0, 1)

    return (columns @ matrix).transpose(2, 3, 0, 1), pullback


def function_pool(
    x: np.ndarray, *, function: Callable[[np.ndarray], np.ndarray], kernel_size: int,
    vjp: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Result:  # fmt: skip
    kernel = (kernel_size,) * 2
    windows = _windows(x, kernel, kernel_size)
    flat = windows.reshape(*windows.shape[:4], -1)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dwindows = vjp(flat, dy).reshape(windows.shape)
        dx = np.zeros_like(x)
        for tap, where in _taps(kernel, dy.shape[2:], kernel_size):
            dx[where] += dwindows[tap]
        return (dx,)

    return function(flat), pullback


def max_unpool(x: np.ndarray, indices: np.ndarray, *, kernel_size: int) -> Result:
    n, c, *spatial = x.shape
    flat = indices.reshape(n, c, -1)
    y = np.zeros((n, c, int(np.prod([kernel_size * m for m in spatial]))), x.dtype)
    np.put_along_axis(y, flat, x.reshape(n, c, -1), axis=2)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        return np.take_along_axis(dy.reshape(n, c, -1), flat, axis=2).reshape(x.shape), None

    return y.reshape(n, c, *(kernel_size * m for m in spatial)), pullback


def resize(x: np.ndarray, *, size: int | None = None, scale: int | None = None, mode: str) -> Result:
    """Images only: a matrix an axis, y = rows @ x @ columns.T."""
    rows, columns = (_interpolation(n, size or n * (scale or 1), mode).astype(x.dtype) for n in x.shape[2:])
    return rows @ x @ columns.T, lambda dy: (rows.T @ dy @ columns,)


def _interpolation(n: int, m: int, mode: str) -> np.ndarray:
    """(m, n): the weight of every input in every output, pixel centres aligned."""
    weights, outputs = np.zeros((m, n)), np.arange(m)
    if mode == "nearest":
        weights[outputs, outputs * n // m] = 1
        return weights
    at = np.maximum((outputs + 0.5) * n / m - 0.5, 0)
    low = np.minimum(at.astype(int), n - 1)
    weights[outputs, low] += 1 - (at - low)
    weights[outputs, np.minimum(low + 1, n - 1)] += at - low
    return weights


def pad(x: np.ndarray, *, padding: int) -> Result:
    return _pad(x, padding), lambda dy: (_crop(dy, padding).copy(),)


def downsample(x: np.ndarray, *, factor: int, phase: int = 0) -> Result:
    where: Index = (..., *(slice(phase, None, factor) for _ in x.shape[2:]))

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx = np.zeros_like(x)
        dx[where] = dy
        return (dx,)

    return x[where].copy(), pullback


def upsample(x: np.ndarray, *, factor: int) -> Result:
    where: Index = (..., *(slice(None, None, factor) for _ in x.shape[2:]))
    y = np.zeros((*x.shape[:2], *((n - 1) * factor + 1 for n in x.shape[2:])), x.dtype)
    y[where] = x
    return y, lambda dy: (dy[where].copy(),)


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> Result:
    return x @ w.T + b, lambda dy: (dy @ w, dy.T @ x, dy.sum(axis=0))


def flatten(x: np.ndarray) -> Result:
    return x.reshape(x.shape[0], -1).copy(), lambda dy: (dy.reshape(x.shape).copy(),)


def reshape(x: np.ndarray, *, shape: Index) -> Result:
    return x.reshape(len(x), *shape).copy(), lambda dy: (dy.reshape(x.shape).copy(),)


def unflatten(x: np.ndarray, *, dim: int, sizes: Index) -> Result:
    return reshape(x, shape=(*x.shape[1:dim], *sizes, *x.shape[dim + 1 :]))


def pixel_shuffle(x: np.ndarray, *, upscale_factor: int) -> Result:
    r = upscale_factor
    n, c, h, w = x.shape
    y = x.reshape(n, c // r**2, r, r, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // r**2, h * r, w * r)
    return y, lambda dy: (pixel_unshuffle(dy, downscale_factor=r)[0],)


def pixel_unshuffle(x: np.ndarray, *, downscale_factor: int) -> Result:
    r = downscale_factor
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // r, r, w // r, r).transpose(0, 1, 3, 5, 2, 4).reshape(n, c * r**2, h // r, w // r)
    return y, lambda dy: (pixel_shuffle(dy, upscale_factor=r)[0],)


def relu(x: np.ndarray) -> Result:
    return np.maximum(x, 0), lambda dy: (dy * (x > 0),)


def softmax(x: np.ndarray) -> Result:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    y = e / e.sum(axis=1, keepdims=True)
    return y, lambda dy: (y * (dy - (dy * y).sum(axis=1, keepdims=True)),)


def log_softmax(x: np.ndarray) -> Result:
    shifted = x - x.max(axis=1, keepdims=True)
    y = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return y, lambda dy: (dy - np.exp(y) * dy.sum(axis=1, keepdims=True),)


def _elementwise(
    function: Callable[[np.ndarray], np.ndarray], derivative: Callable[[np.ndarray], np.ndarray]
) -> Callable[..., Result]:
    return lambda x: (function(x), lambda dy: (dy * derivative(x),))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = 1 / (1 + np.exp(-x))
    return y


def _silu_derivative(x: np.ndarray) -> np.ndarray:
    s = _sigmoid(x)
    slope: np.ndarray = s * (1 + x * (1 - s))
    return slope


def _hardswish_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x <= -3, np.float32(0), np.where(x < 3, x / 3 + np.float32(0.5), np.float32(1)))


def leaky_relu(x: np.ndarray, *, negative_slope: float = 0.01) -> Result:
    slope = np.where(x > 0, np.float32(1), np.float32(negative_slope))
    return x * slope, lambda dy: (dy * slope,)


def elu(x: np.ndarray, *, alpha: float = 1.0, scale: float = 1.0) -> Result:
    y = scale * np.where(x > 0, x, alpha * np.expm1(x))
    return y, lambda dy: (dy * np.where(x > 0, np.float32(scale), y + scale * alpha),)


def gelu(x: np.ndarray, *, approximate: str) -> Result:
    """The tanh form only: NumPy has no error function."""
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        slope = c * (1 + 3 * 0.044715 * x**2)
        return (dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * slope),)

    return 0.5 * x * (1 + t), pullback


def prelu(x: np.ndarray, weight: np.ndarray) -> Result:
    per_channel = weight.reshape(1, -1, *(1,) * (x.ndim - 2))
    axes = (0, *range(2, x.ndim))

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        return np.where(x > 0, dy, per_channel * dy), (dy * np.minimum(x, 0)).sum(axis=axes)

    return np.where(x > 0, x, per_channel * x), pullback


def _standardise(x: np.ndarray, axes: tuple[int, ...], eps: float) -> Result:
    """x minus its mean over its standard deviation, both over `axes`."""
    rstd = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + np.float32(eps))
    normed = (x - x.mean(axis=axes, keepdims=True)) * rstd

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        along = (dy * normed).mean(axis=axes, keepdims=True)
        return (rstd * (dy - dy.mean(axis=axes, keepdims=True) - normed * along),)

    return normed, pullback


def _scaled(x: np.ndarray, standardised: Result, weight: np.ndarray, bias: np.ndarray, axes: tuple[int, ...]) -> Result:
    """weight * standardised + bias; both have x's shape but for `axes`, over which their gradients are summed."""
    normed, inner = standardised[0].reshape(x.shape), standardised[1]
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
    w, b = weight.reshape(shape), bias.reshape(shape)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        (dx,) = inner((dy * w).reshape(standardised[0].shape))
        assert dx is not None
        dweight, dbias = (dy * normed).sum(axis=axes), dy.sum(axis=axes)
        return dx.reshape(x.shape), dweight.reshape(weight.shape), dbias.reshape(bias.shape)

    return normed * w + b, pullback


def instance_norm(
    x: np.ndarray, running_mean: None, running_var: None, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5
) -> Result:
    y, pullback = _scaled(
        x, _standardise(x, tuple(range(2, x.ndim)), eps), weight, bias, (0, *range(2, x.ndim))
    )  # fmt: skip

    def whole_pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx, dweight, dbias = pullback(dy)
        return dx, None, None, dweight, dbias

    return y, whole_pullback


def group_norm(x: np.ndarray, num_groups: int, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5) -> Result:
    grouped = x.reshape(x.shape[0], num_groups, -1)
    y, pullback = _scaled(x, _standardise(grouped, (2,), eps), weight, bias, (0, *range(2, x.ndim)))

    def whole_pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx, dweight, dbias = pullback(dy)
        return dx, None, dweight, dbias

    return y, whole_pullback


def layer_norm(
    x: np.ndarray, normalized_shape: tuple[int, ...], weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5
) -> Result:
    front = x.ndim - len(normalized_shape)
    y, pullback = _scaled(
        x, _standardise(x, tuple(range(front, x.ndim)), eps), weight, bias, tuple(range(front))
    )  # fmt: skip

    def whole_pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx, dweight, dbias = pullback(dy)
        return dx, None, dweight, dbias

    return y, whole_pullback


def local_response_norm(
    x: np.ndarray, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Result:  # fmt: skip
    before, after = size // 2, (size - 1) // 2

    def channel_sums(a: np.ndarray, before: int, after: int) -> np.ndarray:
        padded = np.pad(a, ((0, 0), (before, after), *((0, 0),) * (a.ndim - 2)))
        sums: np.ndarray = sliding_window_view(padded, size, axis=1).sum(axis=-1)
        return sums

    base = k + alpha / size * channel_sums(x**2, before, after)
    scale = base**-beta

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        spread = channel_sums(dy * x * scale / base, after, before)
        return (dy * scale - 2 * alpha * beta / size * x * spread,)

    return x * scale, pullback


def batch_norm(
    x: np.ndarray, running_mean: np.ndarray, running_var: np.ndarray, weight: np.ndarray, bias: np.ndarray, *,
    training: bool, momentum: float = 0.1, eps: float = 1e-5,
) -> Result:  # fmt: skip
    axes = (0, *range(2, x.ndim))
    per_channel = (1, -1, *(1,) * (x.ndim - 2))
    if training:
        mean, var = x.mean(axis=axes), x.var(axis=axes)
        count = x.size // x.shape[1]
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var * (count / (count - 1)) - running_var)
    else:
        mean, var = running_mean.copy(), running_var.copy()
    rstd = 1 / np.sqrt(var + np.float32(eps))
    normed = (x - mean.reshape(per_channel)) * rstd.reshape(per_channel)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dbias, dweight = dy.sum(axis=axes), (dy * normed).sum(axis=axes)
        scale = (weight * rstd).reshape(per_channel)
        if not training:
            return dy * scale, None, None, dweight, dbias
        count = np.float32(x.size // x.shape[1])
        inner = dy - (dbias / count).reshape(per_channel) - normed * (dweight / count).reshape(per_channel)
        return scale * inner, None, None, dweight, dbias

    return normed * weight.reshape(per_channel) + bias.reshape(per_channel), pullback


def dropout(x: np.ndarray, *, p: float, training: bool, rng: np.random.Generator) -> Result:
    """Other zeros than fastconv's: the same law, not the same draws."""
    mask = (rng.random(x.shape, dtype=np.float32) >= p) / np.float32(1 - p)
    return x * mask, lambda dy: (dy * mask,)


def cross_entropy(x: np.ndarray, target: np.ndarray) -> Result:
    log_p, log_softmax_pullback = log_softmax(x)
    loss, nll_pullback = nll_loss(log_p, target)
    return loss, lambda dy: (log_softmax_pullback(nll_pullback(dy)[0])[0], None)  # type: ignore[arg-type]


def nll_loss(x: np.ndarray, target: np.ndarray) -> Result:
    where = (np.arange(x.shape[0]), target)

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx = np.zeros_like(x)
        dx[where] = -dy / x.shape[0]
        return dx, None

    return -x[where].mean(), pullback


def mse_loss(x: np.ndarray, target: np.ndarray) -> Result:
    error = x - target

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx = error * (2 * dy / error.size)
        return dx, -dx

    return np.square(error).mean(), pullback


def l1_loss(x: np.ndarray, target: np.ndarray) -> Result:
    error = x - target

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        dx = np.sign(error) * (dy / error.size)
        return dx, -dx

    return np.abs(error).mean(), pullback


def bce_with_logits(x: np.ndarray, target: np.ndarray) -> Result:
    losses = np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x)))

    def pullback(dy: np.ndarray) -> tuple[np.ndarray | None, ...]:
        share = dy / x.size
        return (_sigmoid(x) - target) * share, -x * share

    return losses.mean(), pullback


PLAIN: dict[str, Callable[..., Result]] = {
    **{f"conv{ndim}d": conv for ndim in (1, 2, 3)},
    **{f"conv_transpose{ndim}d": conv_transpose for ndim in (1, 2, 3)},
    **{f"max_pool{ndim}d": max_pool for ndim in (1, 2, 3)},
    **{f"avg_pool{ndim}d": avg_pool for ndim in (1, 2, 3)},
    **{f"lp_pool{ndim}d": lp_pool for ndim in (1, 2, 3)},
    **{f"adaptive_avg_pool{ndim}d": partial(_adaptive, avg_pool) for ndim in (1, 2, 3)},
    **{f"adaptive_max_pool{ndim}d": partial(_adaptive, max_pool) for ndim in (1, 2, 3)},
    **{f"max_unpool{ndim}d": max_unpool for ndim in (1, 2, 3)},
    "locally_connected2d": locally_connected,
    "function_pool2d": function_pool,
    "resize": resize,
    "pad": pad,
    "downsample": downsample,
    "upsample": upsample,
    "linear": linear,
    "flatten": flatten,
    "reshape": reshape,
    "unflatten": unflatten,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    "elu": elu,
    "selu": partial(elu, alpha=1.6732632423543772, scale=1.0507009873554805),
    "gelu": gelu,
    "silu": _elementwise(lambda x: x * _sigmoid(x), _silu_derivative),
    "sigmoid": _elementwise(_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    "tanh": _elementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "softplus": _elementwise(lambda x: np.log1p(np.exp(x)), _sigmoid),
    "hardswish": _elementwise(lambda x: x * np.clip(x + 3, 0, 6) / 6, _hardswish_derivative),
    "step": _elementwise(lambda x: np.heaviside(x, np.float32(1)), np.zeros_like),
    "softmax": softmax,
    "log_softmax": log_softmax,
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
    "local_response_norm": local_response_norm,
    "dropout": dropout,
    "cross_entropy": cross_entropy,
    "nll_loss": nll_loss,
    "mse_loss": mse_loss,
    "l1_loss": l1_loss,
    "bce_with_logits": bce_with_logits,
}


# --- the calls that are timed ----------------------------------------------------------------------------------------


def mean_square(windows: np.ndarray) -> np.ndarray:
    """A pooling function: (..., L * L) -> (...)."""
    y: np.ndarray = np.square(windows).mean(axis=-1)
    return y


def mean_square_vjp(windows: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Its gradient to the windows."""
    dwindows: np.ndarray = windows * (2 / windows.shape[-1] * dy)[..., None]
    return dwindows


# The first case of an operation is the one that `compare` shows.
_ALL = [
    *(conv_case(shape) for shape in list(CONVOLUTIONS.values())[:1]),
    *(conv_case(shape).with_batch(min(shape.batch, 16)) for shape in list(CONVOLUTIONS.values())[1:]),
    *(conv_case(CONVOLUTIONS[name]).small() for name in ("3x3 16-16 @32", "5x5 6-16 @14", "3x3 depthwise 64 @32")),
    conv_case(ConvShape("3 8-8 @100", 1, 8, (100,), 8, (3,), padding=1)).small(),
    conv_case(ConvShape("3x3x3 4-4 @8", 1, 4, (8, 8, 8), 4, (3, 3, 3), padding=1)).small(),
    *(conv_case(shape).with_batch(min(shape.batch, 16)) for shape in TRANSPOSED.values()),
    conv_case(ConvShape("4/2 4-4 @100", 1, 4, (100,), 4, (4,), stride=2, padding=1, transposed=True)).small(),
    conv_case(ConvShape("4x4/2 8-8 @8", 1, 8, (8, 8), 8, (4, 4), stride=2, padding=1, transposed=True)).small(),
    conv_case(ConvShape("2x2x2/2 4-4 @4", 1, 4, (4, 4, 4), 4, (2, 2, 2), stride=2, transposed=True)).small(),
    unshared_case("3x3 16-32 @16", 64, 16, 16, 32, 3),
    unshared_case("3x3 2-3 @6", 2, 2, 6, 3, 3).small(2),
    map_case("max_pool1d", "4 64 @4000", 32, 64, 4000, kernel_size=4),
    map_case("max_pool2d", "2x2 64 @32", 64, 64, 32, 32, kernel_size=2),
    map_case("max_pool2d", "3x3/2 64 @112", 8, 64, 112, 112, kernel_size=3, stride=2, padding=1),
    map_case("max_pool3d", "2x2x2 16 @32", 8, 16, 32, 32, 32, kernel_size=2),
    map_case("avg_pool1d", "4 64 @4000", 32, 64, 4000, kernel_size=4),
    map_case("avg_pool2d", "2x2 64 @32", 64, 64, 32, 32, kernel_size=2),
    map_case("avg_pool2d", "8x8 64 @8", 128, 64, 8, 8, kernel_size=8),
    map_case("avg_pool3d", "2x2x2 16 @32", 8, 16, 32, 32, 32, kernel_size=2),
    *(
        map_case(f"{kind}_pool{ndim}d", name, batch, *item, **options)
        for kind, options in (
            ("lp", {"norm_type": 2, "kernel_size": 2}),
            ("adaptive_avg", {"output_size": 8}),
            ("adaptive_max", {"output_size": 8}),
        )
        for ndim, name, batch, item in (
            (1, "64 @4000", 16, (64, 4000)),
            (2, "64 @32", 16, (64, 32, 32)),
            (3, "16 @32", 4, (16, 32, 32, 32)),
        )
    ),
    map_case(
        "function_pool2d",
        "2x2 64 @32, mean square",
        16,
        64,
        32,
        32,
        function=mean_square,
        kernel_size=2,
        vjp=mean_square_vjp,
    ),
    unpool_case("max_unpool1d", "2 64 @2000", 16, 64, 2000),
    unpool_case("max_unpool2d", "2x2 64 @16", 16, 64, 16, 16),
    unpool_case("max_unpool3d", "2x2x2 16 @16", 4, 16, 16, 16, 16),
    map_case("resize", "nearest 64 @16 to 32", 16, 64, 16, 16, scale=2, mode="nearest"),
    map_case("resize", "linear 64 @16 to 40", 16, 64, 16, 16, size=40, mode="linear"),
    map_case("pad", "1 64 @32", 64, 64, 32, 32, padding=1),
    map_case("downsample", "2 64 @32", 64, 64, 32, 32, factor=2),
    map_case("upsample", "2 64 @32", 64, 64, 32, 32, factor=2),
    linear_case(128, 12544, 128),  # the MNIST CNN
    linear_case(64, 512, 10),
    linear_case(64, 512, 10).small(4),
    map_case("flatten", "64 @14", 128, 64, 14, 14),
    map_case("reshape", "64 @14", 128, 64, 14, 14, shape=(256, 7, 7)),
    map_case("unflatten", "3136 to 64 @7", 128, 3136, dim=1, sizes=(64, 7, 7)),
    map_case("pixel_shuffle", "2 64 @32", 16, 64, 32, 32, upscale_factor=2),
    map_case("pixel_unshuffle", "2 16 @64", 16, 16, 64, 64, downscale_factor=2),
    map_case("relu", "64 @32", 64, 64, 32, 32),
    prelu_case(64, 64, 32, 32),
    *(
        map_case(op, "64 @32", 16, 64, 32, 32)
        for op in ("leaky_relu", "elu", "selu", "silu", "sigmoid", "tanh", "softplus", "hardswish", "step")
    ),
    map_case("gelu", "64 @32, tanh", 16, 64, 32, 32, approximate="tanh"),
    map_case("softmax", "1000 classes", 128, 1000),
    map_case("log_softmax", "1000 classes", 128, 1000),
    norm_case("64 @32", 64, 64, 32, 32),
    norm_case("512 @7", 16, 512, 7, 7),
    norm_case("64 @32, inference", 64, 64, 32, 32, training=False),
    scaled_case("instance_norm", "64 @32", 16, (64, 32, 32), (64,), None, None),
    scaled_case("group_norm", "64 @32", 16, (64, 32, 32), (64,), 8),
    scaled_case("layer_norm", "512", 1024, (512,), (512,), (512,)),
    map_case("local_response_norm", "64 @27", 16, 64, 27, 27, size=5),
    map_case("dropout", "64 @32", 64, 64, 32, 32, p=0.5, training=True, rng=0),
    class_case("cross_entropy", 128, 10),
    class_case("cross_entropy", 128, 1000),
    class_case("nll_loss", 128, 1000),
    pair_case("mse_loss", 64, 3, 32, 32),
    pair_case("l1_loss", 64, 3, 32, 32),
    pair_case("bce_with_logits", 128, 1000),
]


def _by_operation() -> dict[str, list[Case]]:
    """The cases of every operation; where none is small, the first one's small version is added."""
    cases: dict[str, list[Case]] = {}
    for case in _ALL:
        cases.setdefault(case.op, []).append(case)
    for found in cases.values():
        if not any(case.naive for case in found):
            found.append(found[0].small(max(1, found[0].batch // 64)))
    return cases


CASES = _by_operation()
