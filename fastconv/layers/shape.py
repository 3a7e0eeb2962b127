"""Layers that change shapes alone, or nothing: torch.nn's names and arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.layers.base import Context, Gradients, Layer, OpLayer
from fastconv.layers.common import need_default
from fastconv.ops.reshape import lengths

__all__ = ["Flatten", "Identity", "PixelShuffle", "PixelUnshuffle", "Reshape", "Unflatten"]


class Identity(Layer):
    """x itself, not a copy: what takes the place of a layer that a net shall not have. Any arguments are accepted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._arguments = {}

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        return x, None

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        return dy if need_dx else None, {}


class Flatten(OpLayer):
    """(N, C, …) to (N, features), in logical order."""

    op = "flatten"

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        need_default("Flatten", 1, start_dim=start_dim)
        need_default("Flatten", -1, end_dim=end_dim)


class Reshape(OpLayer):
    """(N, …) to (N, *shape), in logical order. See `fastconv.functional.reshape`.

    shape   what stands behind the batch axis, `Reshape(16, 5, -1)` or `Reshape((16, 5, -1))`; -1, once, is what is left
    """

    op = "reshape"

    def __init__(self, shape: Any, *more: int) -> None:
        self._arguments = {"shape": lengths("reshape", "shape", (shape, *more) if more else shape)}
        self.configure(**self._arguments)


class Unflatten(OpLayer):
    """An axis as several. See `fastconv.functional.unflatten`.

    dim               the axis, not that of the batch; negative: from the end
    unflattened_size  its lengths, a tuple; -1, once, is what is left
    """

    op = "unflatten"

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        self.configure(dim=dim, sizes=unflattened_size)


class PixelShuffle(OpLayer):
    """(N, C * r * r, H, W) to (N, C, H * r, W * r). See `fastconv.functional.pixel_shuffle`.

    upscale_factor   r
    """

    op = "pixel_shuffle"

    def __init__(self, upscale_factor: int) -> None:
        self.configure(upscale_factor=upscale_factor)


class PixelUnshuffle(OpLayer):
    """(N, C, H, W) to (N, C * r * r, H / r, W / r). See `fastconv.functional.pixel_unshuffle`.

    downscale_factor   r
    """

    op = "pixel_unshuffle"

    def __init__(self, downscale_factor: int) -> None:
        self.configure(downscale_factor=downscale_factor)
