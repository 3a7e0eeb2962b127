"""Pooling by a function of one's own over two spatial axes.

    y[n, c, o] = function(the R * S taps of window o of channel c, in C order)     zeros where a tap is in the padding

    x          (N, C, H, W)
    function   windows (..., R * S) -> (...)
    y          (N, C, H', W')

The gradient comes from the `vjp` that belongs to the function, or from central differences.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate, require_array
from fastconv.ops.naive import windows
from fastconv.ops.pool.windows import Arguments as Windows
from fastconv.ops.pool.windows import check as check_window
from fastconv.ops.pool.windows import prepare as prepare_window
from fastconv.ops.registry import add
from fastconv.ops.spatial import gradient_to_x, planes
from fastconv.window import Window

OP = "function_pool2d"
Function = Callable[[np.ndarray], Any]
Vjp = Callable[[np.ndarray, np.ndarray], Any]

STEP = np.finfo(np.float64).eps ** (1 / 3)  # of the differences: their error is least about here


# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    function: Function
    window: Window
    output: tuple[int, ...]
    vjp: Vjp | None


def prepare_call(x: Any, function: Any, kernel_size: Any, stride: Any, padding: Any, vjp: Any) -> Arguments:
    a = prepare_window(OP, x, kernel_size, stride, padding, 1, ceil_mode=False)
    need_functions(function, vjp)
    require_array(OP, (*a.x.shape[:2], *a.output, *a.window.kernel), a.x.itemsize)
    return Arguments(a.x, function, a.window, a.output, vjp)


def need_functions(function: Any, vjp: Any) -> None:
    if not callable(function):
        raise TypeError(f"{OP}: function must be callable, got {function!r}")
    if vjp is not None and not callable(vjp):
        raise TypeError(f"{OP}: vjp must be callable or None, got {vjp!r}")


def check(function: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, vjp: Any = None) -> None:
    need_functions(function, vjp)
    check_window(OP, kernel_size, stride=stride, padding=padding)


def apply(function: Function, values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """What the user's function makes of `values`, checked."""
    result = np.asarray(function(values))
    if result.dtype.kind not in "fbiu":
        raise TypeError(f"{OP}: {what} must return real numbers, got {result.dtype}")
    if result.shape != shape:
        instead = "; it must reduce the last axis alone, as windows.max(axis=-1)" if what == "function" else ""
        raise ShapeError(f"{OP}: {what} must return an array of shape {shape}, got {result.shape}{instead}")
    return result


def differences(function: Function, values: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dy times the derivative of `function` at windows (..., R * S), by central differences in float64."""
    values = values.astype(np.float64)
    result = np.empty_like(values)
    for tap in range(values.shape[-1]):
        step = STEP * np.maximum(1, np.abs(values[..., tap]))
        above, below = values.copy(), values.copy()
        above[..., tap] += step
        below[..., tap] -= step
        width = above[..., tap] - below[..., tap]
        upper = apply(function, above, dy.shape, "function")
        result[..., tap] = dy * ((upper - apply(function, below, dy.shape, "function")) / width)
    return result


def gradient(a: Arguments, values: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """(..., R * S): what the windows get of dy (...)."""
    if a.vjp is not None:
        return apply(lambda _: a.vjp(values, dy), values, values.shape, "vjp")  # type: ignore[misc]
    return differences(a.function, values, dy)


def warn_of_differences() -> None:
    warnings.warn(
        f"{OP}: no vjp was given: the gradient comes from central differences, two calls of the function per tap",
        RuntimeWarning,
        stacklevel=5,
    )


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    x: Any, function: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, vjp: Any = None
) -> tuple[np.ndarray, Any]:
    a = prepare_call(x, function, kernel_size, stride, padding, vjp)
    taps = windows(a.window, a.x.shape[2:], a.output)
    ys = []
    for plane in planes(a.x):
        for inside in taps:
            ys.append(apply(a.function, one_window(a, plane, inside), (1,), "function")[0])
    return np.array(ys, a.x.dtype).reshape(*a.x.shape[:2], *a.output), (a, taps)


def one_window(a: Arguments, plane: list[float], inside: list[tuple[int, int]]) -> np.ndarray:
    values = np.zeros((1, a.window.kernel[0] * a.window.kernel[1]), a.x.dtype)
    for i, tap in inside:
        values[0, tap] = plane[i]
    return values


def reference_backward(dy: np.ndarray, saved: Any) -> np.ndarray:
    a, taps = saved
    if a.vjp is None:
        warn_of_differences()
    dxs = planes(np.zeros(a.x.shape))
    for plane, dx, d in zip(planes(a.x), dxs, planes(dy), strict=True):
        for value, inside in zip(d, taps, strict=True):
            shares = gradient(a, one_window(a, plane, inside), np.array([value], dy.dtype))
            for i, tap in inside:
                dx[i] += float(shares[0, tap])
    return np.array(dxs, a.x.dtype).reshape(a.x.shape)


# --- fast ------------------------------------------------------------------------------------------------------------


def forward(
    x: Any, function: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, vjp: Any = None
) -> tuple[np.ndarray, Arguments]:
    a = prepare_call(x, function, kernel_size, stride, padding, vjp)
    y = allocate(OP, (*a.x.shape[:2], *a.output), a.x.dtype)
    y[...] = apply(a.function, all_windows(a), y.shape, "function")
    return y, a


def backward(dy: np.ndarray, a: Arguments) -> np.ndarray:
    if a.vjp is None:
        warn_of_differences()
    return add_windows(gradient(a, all_windows(a), dy), a)


def all_windows(a: Arguments | Windows) -> np.ndarray:
    """(N, C, H', W', R * S)"""
    (top, _), (left, _) = a.window.padding
    padded = a.x
    if any(map(any, a.window.padding)):
        padded = np.zeros(padded_shape(a), a.x.dtype)
        padded[:, :, top : top + a.x.shape[2], left : left + a.x.shape[3]] = a.x
    result = allocate(OP, (*a.x.shape[:2], *a.output, a.window.kernel[0] * a.window.kernel[1]), a.x.dtype)
    for tap, where in taps_of(a):
        result[..., tap] = padded[where]
    return result


def add_windows(shares: np.ndarray, a: Arguments | Windows) -> np.ndarray:
    """The adjoint of `all_windows`: shares (N, C, H', W', R * S) added up where the taps lie in x."""
    (top, _), (left, _) = a.window.padding
    dx = np.zeros(padded_shape(a), shares.dtype)
    for tap, where in taps_of(a):
        dx[where] += shares[..., tap]
    h, w = a.x.shape[2:]
    return np.ascontiguousarray(dx[:, :, top : top + h, left : left + w])


def padded_shape(a: Arguments | Windows) -> tuple[int, ...]:
    return (*a.x.shape[:2], *(n + sum(around) for n, around in zip(a.x.shape[2:], a.window.padding, strict=True)))


def taps_of(a: Arguments | Windows) -> list[tuple[int, tuple[Any, ...]]]:
    """Every tap with the slice of the padded input that the windows have under it."""
    (rows, columns), (down, right) = a.window.kernel, a.window.stride
    height, width = ((m - 1) * s + 1 for m, s in zip(a.output, a.window.stride, strict=True))
    return [
        (r * columns + c, (..., slice(r, r + height, down), slice(c, c + width, right)))
        for r in range(rows)
        for c in range(columns)
    ]


add(OP, forward, gradient_to_x(backward), reference, gradient_to_x(reference_backward), check=check)
