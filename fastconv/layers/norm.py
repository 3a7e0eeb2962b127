"""Layers that normalise: torch.nn's names, arguments, initialisation and state_dict keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fastconv._ext.capture import Kernel, refuse
from fastconv.arrays import empty_like
from fastconv.errors import ShapeError
from fastconv.layers.base import Context, Gradients, Layer, OpLayer
from fastconv.layers.common import need_default
from fastconv.machine.memory import require
from fastconv.ops.norm.channels import batch_relu_backward, batch_relu_forward, coefficients
from fastconv.ops.norm.layer import normalized
from fastconv.window import integers

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm2d",
    "LayerNorm",
    "LocalResponseNorm",
    "Normalize",
]


_add = Kernel(np.add)


class _BatchNorm(OpLayer):
    op = "batch_norm"
    positional = ("running_mean", "running_var", "weight", "bias")
    parameter_names = ("weight", "bias")
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    ranks: ClassVar[tuple[int, ...]]
    running_mean: np.ndarray | None
    running_var: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None
    num_batches_tracked: np.ndarray | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        layer = type(self).__name__
        need_default(layer, None, device=device, dtype=dtype)
        (c,) = integers(layer, "num_features", num_features, 1, 1)
        self.check(eps=eps, momentum=0.0 if momentum is None else momentum)
        self.eps, self.momentum = eps, momentum
        _make_arrays(self, c, affine, affine and bias, track_running_stats)

    def forward(
        self, x: np.ndarray, context: Context, relu: bool = False, addend: np.ndarray | None = None, pool: Any = None
    ) -> tuple[np.ndarray, Any]:
        """relu: what a ReLU makes of it, or of it and an addend, in one pass, or the maxima of that over a pool's
        windows; then `relu_backward` is the backward."""
        if x.ndim not in self.ranks:
            ranks = " or ".join(map(str, self.ranks))
            raise ShapeError(
                f"batch_norm: {type(self).__name__} takes {ranks} axes (N C …), got {x.ndim}: shape {x.shape}"
            )
        if relu:
            result = batch_relu_forward(x, *self.arrays(context), addend=addend, pool=pool, **self.options(context))
        else:
            result = super().forward(x, context)
        if self.num_batches_tracked is not None and context.is_training(self) and not context.repeated:
            self._count()  # last: not where the operation raises
        return result

    def _count(self) -> None:
        tracked: Any = self.num_batches_tracked
        if isinstance(tracked, np.ndarray):
            _add(tracked, 1, tracked)
        else:
            refuse()
            self.num_batches_tracked = tracked + 1

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """In inference y = x * factor + shift, one of each a channel, in float64."""
        assert self.running_mean is not None
        assert self.running_var is not None
        factor = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        if self.weight is not None:
            factor *= self.weight
        shift = -self.running_mean * factor
        return factor, shift if self.bias is None else shift + self.bias

    def coefficients(self, w: np.ndarray, context: Context) -> np.ndarray | None:
        """What the layer multiplies and adds (`ops.norm.channels.coefficients`); None in training, and where it is not
        for the filters w, in number and type."""
        options = self.options(context)
        if options["training"]:
            return None
        self.check(**options)
        mean, var, weight, bias = arrays = self.arrays(context)
        if mean is None or var is None:
            return None
        for array in arrays:
            if array is not None and (
                type(array) is not np.ndarray or array.shape != w.shape[:1] or array.dtype != w.dtype
            ):
                return None
        return coefficients(mean, var, weight, bias, self.eps)

    def relu_backward(
        self, dy: np.ndarray, saved: Any, need_dx: bool, over: bool
    ) -> tuple[np.ndarray | None, np.ndarray | None, Gradients]:
        """The gradients to x, the addend and the parameters; over: dy is overwritten, or x where there was a pool."""
        _, _, need_weight, need_bias = self.wanted()
        dx, weight, bias, addend = batch_relu_backward(dy, saved, (need_dx, need_weight, need_bias), over)
        found = ("weight", weight, need_weight), ("bias", bias, need_bias)
        return dx, addend, {name: gradient for name, gradient, want in found if want and gradient is not None}

    def options(self, context: Context) -> Mapping[str, Any]:
        momentum, training = self.momentum, context.is_training(self)
        if momentum is None:  # torch: a cumulative average, with this batch
            refuse()  # a value decides
            momentum = 0.0 if self.num_batches_tracked is None else 1 / float(self.num_batches_tracked + 1)
        return {"training": training or self.running_mean is None, "momentum": momentum, "eps": self.eps}


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L) (Ioffe and Szegedy, 2015)."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W) (Ioffe and Szegedy, 2015)."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (N, C, D, H, W) (Ioffe and Szegedy, 2015)."""

    ranks = (5,)


class InstanceNorm2d(OpLayer):
    """Every channel of every image of (N, C, H, W) by its own mean and variance (Ulyanov et al., 2016)."""

    op = "instance_norm"
    positional = ("running_mean", "running_var", "weight", "bias")
    parameter_names = ("weight", "bias")
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    running_mean: np.ndarray | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        need_default("InstanceNorm2d", None, device=device, dtype=dtype)
        (c,) = integers("InstanceNorm2d", "num_features", num_features, 1, 1)
        self.check(eps=eps, momentum=momentum)
        self.momentum, self.eps = momentum, eps
        _make_arrays(self, c, affine, affine and bias, track_running_stats)

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        if x.ndim != 4:
            raise ShapeError(f"instance_norm: InstanceNorm2d takes 4 axes (N C H W), got {x.ndim}: shape {x.shape}")
        return super().forward(x, context)

    def options(self, context: Context) -> Mapping[str, Any]:
        own = context.is_training(self) or self.running_mean is None
        return {"use_input_stats": own, "momentum": self.momentum, "eps": self.eps}


class GroupNorm(OpLayer):
    """Every group of channels of every item of (N, C, …) by its own mean and variance (Wu and He, 2018)."""

    op = "group_norm"
    positional = ("num_groups", "weight", "bias")
    parameter_names = ("weight", "bias")

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        need_default("GroupNorm", None, device=device, dtype=dtype)
        (self.num_groups,) = integers("GroupNorm", "num_groups", num_groups, 1, 1)
        (c,) = integers("GroupNorm", "num_channels", num_channels, 1, 1)
        if c % self.num_groups:
            raise ShapeError(f"GroupNorm: num_groups must divide num_channels, got {self.num_groups} for {c}")
        self.check(num_groups=self.num_groups, eps=eps)
        _make_arrays(self, c, affine, affine and bias, False)
        self._options = {"eps": eps}


class LayerNorm(OpLayer):
    """Every item by its own mean and variance over its last axes (Ba et al., 2016)."""

    op = "layer_norm"
    positional = ("normalized_shape", "weight", "bias")
    parameter_names = ("weight", "bias")

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        need_default("LayerNorm", None, device=device, dtype=dtype)
        self.normalized_shape = normalized("LayerNorm", normalized_shape)
        self.check(normalized_shape=self.normalized_shape, eps=eps)
        require("LayerNorm", 8 * math.prod(self.normalized_shape))
        self.weight = np.ones(self.normalized_shape, np.float32) if elementwise_affine else None
        self.bias = np.zeros(self.normalized_shape, np.float32) if elementwise_affine and bias else None
        self._options = {"eps": eps}


class LocalResponseNorm(OpLayer):
    """x / (k + alpha / size * sum of x^2 over `size` neighbouring channels)^beta (Krizhevsky et al., 2012)."""

    op = "local_response_norm"

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.configure(size=size, alpha=alpha, beta=beta, k=k)


class Normalize(Layer):
    """(x - mean) / std with given numbers, one per channel of (N, C, …) or one for all: a net's first layer, so that
    pixels are normalised in the same way wherever the net goes. `fastconv.datasets.mean_and_std` finds the numbers.
    """

    def __init__(self, mean: Any, std: Any) -> None:
        for name, value in (("mean", mean), ("std", std)):
            numbers = np.asarray(value)
            if numbers.dtype.kind not in "fiu" or numbers.ndim > 1 or not np.isfinite(numbers).all():
                raise ValueError(f"Normalize: {name} must be a finite number or one per channel, got {value!r}")
            self._arguments[name] = tuple(numbers.tolist()) if numbers.ndim else numbers.item()
        if not np.all(np.asarray(std) > 0):
            raise ValueError(f"Normalize: std must be positive, got {std!r}")

    def _numbers(self, name: str, x: np.ndarray) -> np.ndarray:
        """The mean or the deviation so that it broadcasts to x."""
        numbers = np.asarray(self._arguments[name], x.dtype).reshape(-1)
        if x.ndim < 2 or len(numbers) not in (1, x.shape[1]):
            raise ShapeError(
                f"Normalize: {name} must be one number or one per channel, got {len(numbers)} for {x.shape}"
            )
        return numbers.reshape(-1, *(1,) * (x.ndim - 2))

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        mean, std = self._numbers("mean", x), self._numbers("std", x)
        y = np.subtract(x, mean, out=empty_like("Normalize", x))
        return np.divide(y, std, out=y), std

    def backward(self, dy: np.ndarray, saved: np.ndarray, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        return (np.divide(dy, saved, out=empty_like("Normalize", dy)) if need_dx else None), {}


def _make_arrays(layer: Any, channels: int, affine: bool, bias: bool, running: bool) -> None:
    """A normalisation's weight and bias, running mean and variance, as torch starts them."""
    require(type(layer).__name__, 16 * channels)
    layer.weight = np.ones(channels, np.float32) if affine else None
    layer.bias = np.zeros(channels, np.float32) if bias else None
    layer.running_mean = np.zeros(channels, np.float32) if running else None
    layer.running_var = np.ones(channels, np.float32) if running else None
    layer.num_batches_tracked = np.zeros((), np.int64) if running else None
