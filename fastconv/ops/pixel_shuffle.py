"""Pixels between channels and space (Shi et al., 2016), and back: each is the other's backward.

    pixel_shuffle     y[n, c, h * r + i, w * r + j] = x[n, (c * r + i) * r + j, h, w]
    pixel_unshuffle   the other way round

x (N, C * r * r, H, W), y (N, C, H * r, W * r); the result lies channels-last in memory where what is given does.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv.arrays import as_floats, logical, memoised, need_axes
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.ops.common import is_channels_last
from fastconv.ops.registry import add
from fastconv.ops.spatial import gradient_to_x
from fastconv.window import integers

# --- shape rule ------------------------------------------------------------------------------------------------------


class Factor(NamedTuple):
    """r, and whether what was given lies channels-last in memory."""

    r: int
    channels_last: bool


def factor_of(op: str, name: str, value: Any) -> int:
    return integers(op, name, value, 1, 1)[0]


def prepare_shuffle(op: str, x: Any, upscale_factor: Any) -> tuple[np.ndarray, Factor]:
    (x,) = as_floats(op, x=x)
    r = factor_of(op, "upscale_factor", upscale_factor)
    need_axes(op, "x", x, "N C H W")
    if x.shape[1] % r**2:
        raise ShapeError(
            f"{op}: upscale_factor squared must divide x's channels, got {r} * {r} = {r**2} for {x.shape[1]}: "
            f"shape {x.shape}"
        )
    return x, Factor(r, is_channels_last(x))


def prepare_unshuffle(op: str, x: Any, downscale_factor: Any) -> tuple[np.ndarray, Factor]:
    (x,) = as_floats(op, x=x)
    r = factor_of(op, "downscale_factor", downscale_factor)
    need_axes(op, "x", x, "N C H W")
    if any(n % r for n in x.shape[2:]):
        raise ShapeError(f"{op}: downscale_factor must divide x's height and width, got {r} for shape {x.shape}")
    return x, Factor(r, is_channels_last(x))


def check_shuffle(upscale_factor: Any) -> None:
    factor_of("pixel_shuffle", "upscale_factor", upscale_factor)


def check_unshuffle(downscale_factor: Any) -> None:
    factor_of("pixel_unshuffle", "downscale_factor", downscale_factor)


# --- reference -------------------------------------------------------------------------------------------------------


def shuffle_reference(x: Any, upscale_factor: int) -> tuple[np.ndarray, Factor]:
    x, factor = prepare_shuffle("pixel_shuffle", x, upscale_factor)
    r = factor.r
    n, channels, height, width = x.shape
    y = np.zeros((n, channels // r**2, height * r, width * r), x.dtype)
    for image, c, row, column in np.ndindex(y.shape):
        h, i = divmod(row, r)
        w, j = divmod(column, r)
        y[image, c, row, column] = x[image, (c * r + i) * r + j, h, w]
    return y, factor


def unshuffle_reference(x: Any, downscale_factor: int) -> tuple[np.ndarray, Factor]:
    x, factor = prepare_unshuffle("pixel_unshuffle", x, downscale_factor)
    r = factor.r
    n, channels, height, width = x.shape
    y = np.zeros((n, channels * r**2, height // r, width // r), x.dtype)
    for image, channel, h, w in np.ndindex(y.shape):
        c, place = divmod(channel, r**2)
        i, j = divmod(place, r)
        y[image, channel, h, w] = x[image, c, h * r + i, w * r + j]
    return y, factor


# --- fast: one copy, between two views of the same axes --------------------------------------------------------------

plan_shuffle = memoised("x")(lambda op, x, factor: prepare_shuffle(op, x, factor)[1])
plan_unshuffle = memoised("x")(lambda op, x, factor: prepare_unshuffle(op, x, factor)[1])


def shuffled(op: str, x: np.ndarray, factor: Factor) -> np.ndarray:
    r = factor.r
    n, channels, height, width = x.shape
    y = empty(op, (n, channels // r**2, height * r, width * r), x.dtype, factor)
    np.copyto(apart(y, r), x.reshape(n, channels // r**2, r, r, height, width))
    return y


def unshuffled(op: str, y: np.ndarray, factor: Factor) -> np.ndarray:
    r = factor.r
    n, channels, height, width = y.shape
    x = empty(op, (n, channels * r**2, height // r, width // r), y.dtype, factor)
    np.copyto(x.reshape(n, channels, r, r, height // r, width // r), apart(y, r))
    return x


def apart(y: np.ndarray, r: int) -> np.ndarray:
    """(N, C, H * r, W * r) seen as (N, C, r, r, H, W)."""
    n, channels, height, width = y.shape
    return y.reshape(n, channels, height // r, r, width // r, r).transpose(0, 1, 3, 5, 2, 4)


def empty(op: str, shape: tuple[int, ...], dtype: np.dtype, factor: Factor) -> np.ndarray:
    if not factor.channels_last:
        return allocate(op, shape, dtype)
    return logical(allocate(op, (shape[0], *shape[2:], shape[1]), dtype))


def shuffle(x: Any, upscale_factor: int) -> tuple[np.ndarray, Factor]:
    x, factor = plan_shuffle("pixel_shuffle", x, upscale_factor)
    return shuffled("pixel_shuffle", x, factor), factor


def unshuffle(x: Any, downscale_factor: int) -> tuple[np.ndarray, Factor]:
    x, factor = plan_unshuffle("pixel_unshuffle", x, downscale_factor)
    return unshuffled("pixel_unshuffle", x, factor), factor


add(
    "pixel_shuffle",
    forward=shuffle,
    backward=gradient_to_x(partial(unshuffled, "pixel_shuffle")),
    reference=shuffle_reference,
    reference_backward=gradient_to_x(lambda dy, factor: unshuffle_reference(dy, factor.r)[0]),
    check=check_shuffle,
)
add(
    "pixel_unshuffle",
    forward=unshuffle,
    backward=gradient_to_x(partial(shuffled, "pixel_unshuffle")),
    reference=unshuffle_reference,
    reference_backward=gradient_to_x(lambda dy, factor: shuffle_reference(dy, factor.r)[0]),
    check=check_unshuffle,
)
