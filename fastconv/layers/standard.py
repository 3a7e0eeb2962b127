"""The layers that are one operation: torch.nn's names, arguments, initialisation and state_dict keys.

Arguments of torch's that have no meaning here (`inplace`, `device`, …) are accepted at their default only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fastconv import random
from fastconv.errors import ShapeError
from fastconv.layers.base import Context, OpLayer
from fastconv.ops import OPS
from fastconv.window import integers
from fastconv.workspace import require

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Downsample",
    "Dropout",
    "Flatten",
    "Function",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "ReLU",
    "Softmax",
    "Upsample",
]


def only_defaults(layer: str, given: dict[str, Any], **allowed: Any) -> None:
    """TypeError unless every keyword in `given` is one of torch's for this layer, at its default."""
    for name, value in given.items():
        if name not in allowed:
            raise TypeError(f"{layer}: unexpected keyword argument {name!r}")
        if value != allowed[name]:
            raise TypeError(f"{layer}: {name} is accepted at its default {allowed[name]!r} only, got {value!r}")


def uniform(
    layer: str, shape: tuple[int, ...], fan_in: int, rng: np.random.Generator | int | None
) -> tuple[np.ndarray, np.random.Generator, float]:
    """A weight by torch's default, uniform in +-1 / sqrt(fan_in); kernels lie channels-last in memory."""
    require(layer, 8 * math.prod(shape))
    generator = random.as_generator(rng)
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    weight = generator.uniform(-bound, bound, shape).astype(np.float32)
    if len(shape) > 2:  # (K, C, *kernel) seen on (K, *kernel, C)
        weight = np.moveaxis(np.ascontiguousarray(np.moveaxis(weight, 1, -1)), -1, 1)
    return weight, generator, bound


class _Conv(OpLayer):
    parameter_names = positional = ("weight", "bias")
    ndim: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        algorithm: str = "auto",
        rng: np.random.Generator | int | None = None,
        **torch_options: Any,
    ) -> None:
        layer = type(self).__name__
        only_defaults(layer, torch_options, padding_mode="zeros", device=None, dtype=None)
        (inputs,) = integers(layer, "in_channels", in_channels, 1, 1)
        (filters,) = integers(layer, "out_channels", out_channels, 1, 1)
        (groups,) = integers(layer, "groups", groups, 1, 1)
        if inputs % groups or filters % groups:
            raise ShapeError(
                f"{layer}: groups must divide in_channels and out_channels, got {groups} for {inputs} and {filters}"
            )
        kernel = integers(layer, "kernel_size", kernel_size, self.ndim, 1)
        fan_in = inputs // groups * math.prod(kernel)
        self.weight, generator, bound = uniform(layer, (filters, inputs // groups, *kernel), fan_in, rng)
        self.bias = generator.uniform(-bound, bound, filters).astype(np.float32) if bias else None
        self._options = {
            "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "algorithm": algorithm,
        }  # fmt: skip


class Conv1d(_Conv):
    """Convolution of (N, C, L); weight (K, C / groups, R), bias (K,). See `fastconv.functional.conv1d`."""

    op, ndim = "conv1d", 1


class Conv2d(_Conv):
    """Convolution of (N, C, H, W); weight (K, C / groups, R, S), bias (K,). See `fastconv.functional.conv2d`."""

    op, ndim = "conv2d", 2


class Conv3d(_Conv):
    """Convolution of (N, C, D, H, W); weight (K, C / groups, Q, R, S), bias (K,). See `fastconv.functional.conv3d`."""

    op, ndim = "conv3d", 3


class Linear(OpLayer):
    """y = x @ weight.T + bias; x (N, in_features), weight (out_features, in_features), bias (out_features,)."""

    op = "linear"
    parameter_names = positional = ("weight", "bias")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | int | None = None,
        **torch_options: Any,
    ) -> None:
        only_defaults("Linear", torch_options, device=None, dtype=None)
        (inputs,) = integers("Linear", "in_features", in_features, 1, 1)
        (outputs,) = integers("Linear", "out_features", out_features, 1, 1)
        self.weight, generator, bound = uniform("Linear", (outputs, inputs), inputs, rng)
        self.bias = generator.uniform(-bound, bound, outputs).astype(np.float32) if bias else None


class _BatchNorm(OpLayer):
    op = "batch_norm"
    positional = ("running_mean", "running_var", "weight", "bias")
    parameter_names = ("weight", "bias")
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    ranks: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        **torch_options: Any,
    ) -> None:
        layer = type(self).__name__
        only_defaults(layer, torch_options, device=None, dtype=None)
        (c,) = integers(layer, "num_features", num_features, 1, 1)
        require(layer, 16 * c)
        self.eps, self.momentum = eps, momentum
        self.weight = np.ones(c, np.float32) if affine else None
        self.bias = np.zeros(c, np.float32) if affine else None
        self.running_mean = np.zeros(c, np.float32) if track_running_stats else None
        self.running_var = np.ones(c, np.float32) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        if x.ndim not in self.ranks:
            ranks = " or ".join(map(str, self.ranks))
            raise ShapeError(
                f"batch_norm: {type(self).__name__} takes {ranks} axes (N C …), got {x.ndim}: shape {x.shape}"
            )
        if self.num_batches_tracked is not None and context.is_training(self):
            self.num_batches_tracked += 1
        return super().forward(x, context)

    def options(self, context: Context) -> Mapping[str, Any]:
        momentum = self.momentum
        if momentum is None:  # torch: a cumulative average
            momentum = 1 / float(self.num_batches_tracked) if self.num_batches_tracked else 0.0
        training = context.is_training(self) or self.running_mean is None
        return {"training": training, "momentum": momentum, "eps": self.eps}


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L) (Ioffe and Szegedy, 2015)."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W) (Ioffe and Szegedy, 2015)."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (N, C, D, H, W) (Ioffe and Szegedy, 2015)."""

    ranks = (5,)


class _MaxPool(OpLayer):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        only_defaults(type(self).__name__, {"return_indices": return_indices}, return_indices=False)
        self._options = {
            "kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation,
            "ceil_mode": ceil_mode,
        }  # fmt: skip


class MaxPool1d(_MaxPool):
    """The largest of every window of (N, C, L). See `fastconv.functional.max_pool1d`."""

    op = "max_pool1d"


class MaxPool2d(_MaxPool):
    """The largest of every window of (N, C, H, W). See `fastconv.functional.max_pool2d`."""

    op = "max_pool2d"


class MaxPool3d(_MaxPool):
    """The largest of every window of (N, C, D, H, W). See `fastconv.functional.max_pool3d`."""

    op = "max_pool3d"


class _AvgPool(OpLayer):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        **torch_options: Any,
    ) -> None:
        only_defaults(type(self).__name__, torch_options, divisor_override=None)
        self._options = {
            "kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
        }  # fmt: skip


class AvgPool1d(_AvgPool):
    """The mean of every window of (N, C, L). See `fastconv.functional.avg_pool1d`."""

    op = "avg_pool1d"


class AvgPool2d(_AvgPool):
    """The mean of every window of (N, C, H, W). See `fastconv.functional.avg_pool2d`."""

    op = "avg_pool2d"


class AvgPool3d(_AvgPool):
    """The mean of every window of (N, C, D, H, W). See `fastconv.functional.avg_pool3d`."""

    op = "avg_pool3d"


class Downsample(OpLayer):
    """The first of every `factor` along each spatial axis. See `fastconv.functional.downsample`."""

    op = "downsample"

    def __init__(self, factor: Any, phase: Any = 0) -> None:
        self._options = {"factor": factor, "phase": phase}


class Upsample(Downsample):
    """factor - 1 zeros between neighbours along each spatial axis. See `fastconv.functional.upsample`."""

    op = "upsample"

    def __init__(self, factor: Any, output_size: Any = None) -> None:
        self._options = {"factor": factor, "output_size": output_size}


class Flatten(OpLayer):
    """(N, C, …) to (N, features), in logical order."""

    op = "flatten"

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        only_defaults("Flatten", {"start_dim": start_dim, "end_dim": end_dim}, start_dim=1, end_dim=-1)


class ReLU(OpLayer):
    """max(x, 0)."""

    op = "relu"

    def __init__(self, **torch_options: Any) -> None:
        only_defaults("ReLU", torch_options, inplace=False)


class Softmax(OpLayer):
    """exp(x) / sum(exp(x)) along `dim`."""

    op = "softmax"

    def __init__(self, dim: int = 1) -> None:
        self._options = {"dim": dim}


class Dropout(OpLayer):
    """In training, zeros with probability p and 1 / (1 - p) times the rest (Srivastava et al., 2014); else x."""

    op = "dropout"

    def __init__(self, p: float = 0.5, **torch_options: Any) -> None:
        only_defaults("Dropout", torch_options, inplace=False)
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must lie in [0, 1], got {p}")
        self.p = p

    def options(self, context: Context) -> Mapping[str, Any]:
        return {"p": self.p, "training": context.is_training(self), "rng": context.generator}


class Function(OpLayer):
    """An operation of `fastconv.functional`, or one's own from `fastconv.register`, as a layer: Function("relu")."""

    def __init__(self, name: str, **options: Any) -> None:
        if name not in OPS:
            raise ValueError(f"Function: no operation is called {name!r}")
        self.op = name
        self._options = options
