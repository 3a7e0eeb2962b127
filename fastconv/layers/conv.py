"""Layers with a weight per tap or per input: convolution, transposed and unshared convolution, linear.

torch.nn's names, arguments, initialisation and state_dict keys.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from fastconv.arrays import rectify
from fastconv.errors import ShapeError, nearest
from fastconv.functional import Padding, Sizes, Stride
from fastconv.layers.base import Context, Gradients, OpLayer
from fastconv.layers.common import need_default, uniform, uniform_array
from fastconv.ops import OPS, conv, conv_transpose, linear, locally_connected
from fastconv.random import as_generator
from fastconv.window import Window, integers, is_sequence

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Linear",
    "LocallyConnected2d",
]

BORDERS = ("zeros", "reflect", "replicate", "circular")  # torch's words for padding_mode


def channels_and_groups(layer: str, in_channels: Any, out_channels: Any, groups: Any) -> tuple[int, int, int]:
    """The three as ints; ShapeError where they do not fit."""
    (inputs,) = integers(layer, "in_channels", in_channels, 1, 1)
    (filters,) = integers(layer, "out_channels", out_channels, 1, 1)
    (groups,) = integers(layer, "groups", groups, 1, 1)
    if inputs % groups or filters % groups:
        raise ShapeError(
            f"{layer}: groups must divide in_channels and out_channels, got {groups} for {inputs} and {filters}"
        )
    return inputs, filters, groups


def need_border(layer: str, padding_mode: Any, stride: Any) -> str:
    """`padding_mode`, one of torch's four words."""
    if padding_mode not in BORDERS:
        names, meant = ", ".join(BORDERS), nearest(padding_mode, BORDERS)
        raise ValueError(f"{layer}: padding_mode must be one of {names}, got {padding_mode!r}{meant}")
    steps = stride if is_sequence(stride) else (stride,)
    if padding_mode != "zeros" and any(isinstance(step, Fraction) and step.denominator > 1 for step in steps):
        raise ValueError(f"{layer}: padding_mode {padding_mode!r} takes an integer stride, got {stride}")
    return str(padding_mode)


class _Conv(OpLayer):
    parameter_names = positional = ("weight", "bias")
    ndim: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Stride = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        algorithm: str = "auto",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        layer = type(self).__name__
        need_default(layer, None, device=device, dtype=dtype)
        inputs, filters, groups = channels_and_groups(layer, in_channels, out_channels, groups)
        kernel = integers(layer, "kernel_size", kernel_size, self.ndim, 1)
        shape = (filters, inputs // groups, *kernel)
        conv.check(self.op, shape, stride, padding, dilation, groups, algorithm)
        self.padding_mode = need_border(layer, padding_mode, stride)
        self.weight, generator, bound = uniform(layer, shape, math.prod(shape[1:]), rng)
        self.bias = generator.uniform(-bound, bound, filters).astype(np.float32) if bias else None
        self.configure(
            stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm,
        )  # fmt: skip

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        """With a padding_mode the border is filled first, and the convolution has none."""
        if self.padding_mode == "zeros":
            return OpLayer.forward(self, x, context)
        given = {**self.options(context)}
        window = self.weight.shape[2:], given["stride"], given.pop("padding"), given["dilation"]
        around = Window.parse(self.op, x.shape[2:], *window).padding
        wide, kept = OPS["pad"].forward(x, around, mode=self.padding_mode)
        y, saved = OPS[self.op].forward(wide, *self.arrays(context), **given)
        return y, (kept, saved)

    def saved(self, x: np.ndarray, context: Context) -> Any:
        """What `forward` saves for zeros around x, without the outputs."""
        return conv.saved(self.op, x, *self.arrays(context), **self.options(context))

    def relu_forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        """What a ReLU makes of y, for zeros around x; `backward` takes the gradient to y."""
        return conv.relu_forward(self.op, x, *self.arrays(context), **self.options(context))

    def normed_forward(
        self, x: np.ndarray, norm: np.ndarray, addend: np.ndarray | None, relu: bool, context: Context
    ) -> np.ndarray | None:
        """What a batch norm by its coefficients, a sum perhaps and a ReLU make of y, for zeros around x; there is no
        backward. None where the convolution's kernel does not do that."""
        weight, bias = self.arrays(context)
        return conv.normed_forward(self.op, x, weight, bias, norm, addend, relu, **self.options(context))

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        if self.padding_mode == "zeros":
            return OpLayer.backward(self, dy, saved, need_dx)
        kept, saved = saved
        dx, gradients = OpLayer.backward(self, dy, saved, need_dx)
        return None if dx is None else OPS["pad"].backward(dx, kept, (True,))[0], gradients


class Conv1d(_Conv):
    """Convolution of (N, C, L); weight (K, C / groups, R), bias (K,). See `fastconv.functional.conv1d`."""

    op, ndim = "conv1d", 1


class Conv2d(_Conv):
    """Convolution of (N, C, H, W); weight (K, C / groups, R, S), bias (K,). See `fastconv.functional.conv2d`.

    padding_mode   what stands around the input: "zeros", or what `fastconv.functional.pad` puts there: "reflect",
                   "replicate", "circular" (integer strides only)
    """

    op, ndim = "conv2d", 2


class Conv3d(_Conv):
    """Convolution of (N, C, D, H, W); weight (K, C / groups, Q, R, S), bias (K,). See `fastconv.functional.conv3d`."""

    op, ndim = "conv3d", 3


class _ConvTranspose(OpLayer):
    parameter_names = positional = ("weight", "bias")
    ndim: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        layer = type(self).__name__
        need_default(layer, "zeros", padding_mode=padding_mode)
        need_default(layer, None, device=device, dtype=dtype)
        inputs, filters, groups = channels_and_groups(layer, in_channels, out_channels, groups)
        kernel = integers(layer, "kernel_size", kernel_size, self.ndim, 1)
        shape = (inputs, filters // groups, *kernel)
        conv_transpose.check(self.op, shape, stride, padding, output_padding, dilation, groups)
        fan_in = math.prod(shape[1:])  # torch's, for a weight of this shape
        self.weight, generator, bound = uniform(layer, shape, fan_in, rng)
        self.bias = generator.uniform(-bound, bound, filters).astype(np.float32) if bias else None
        self.configure(
            stride=stride, padding=padding, output_padding=output_padding, groups=groups,
            dilation=dilation,
        )  # fmt: skip


class ConvTranspose1d(_ConvTranspose):
    """Transposed convolution of (N, C, L); weight (C, K / groups, R). See `fastconv.functional.conv_transpose1d`."""

    op, ndim = "conv_transpose1d", 1


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution of (N, C, H, W); weight (C, K / groups, R, S). See `functional.conv_transpose2d`."""

    op, ndim = "conv_transpose2d", 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution of (N, C, D, H, W). See `fastconv.functional.conv_transpose3d`."""

    op, ndim = "conv_transpose3d", 3


class LocallyConnected2d(OpLayer):
    """Convolution without weight sharing: every output position has filters of its own.

    Conv2d's arguments, with `output_size`, an int or (H', W'), in front of `kernel_size`: the positions of the output,
    which the input's size must lead to (`functional.locally_connected2d` says how). Weight (K, C, R, S, H', W'), bias
    (K, H', W'), initialised as Conv2d's.
    """

    op = "locally_connected2d"
    parameter_names = positional = ("weight", "bias")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        output_size: Sizes,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        bias: bool = True,
        *,
        groups: int = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        layer = "LocallyConnected2d"
        need_default(layer, 1, groups=groups)
        need_default(layer, "zeros", padding_mode=padding_mode)
        need_default(layer, None, device=device, dtype=dtype)
        inputs, filters, _ = channels_and_groups(layer, in_channels, out_channels, 1)
        output = integers(layer, "output_size", output_size, 2, 1)
        kernel = integers(layer, "kernel_size", kernel_size, 2, 1)
        locally_connected.check(kernel, stride, padding, dilation)
        generator, bound = as_generator(rng), 1 / math.sqrt(inputs * math.prod(kernel))
        weight = uniform_array(layer, (*output, filters, *kernel, inputs), bound, generator)
        self.weight = weight.transpose(2, 5, 3, 4, 0, 1)
        self.bias = uniform_array(layer, (filters, *output), bound, generator) if bias else None
        self.configure(stride=stride, padding=padding, dilation=dilation)


class Linear(OpLayer):
    """y = x @ weight.T + bias; x (N, in_features), weight (out_features, in_features), bias (out_features,)."""

    op = "linear"
    parameter_names = positional = ("weight", "bias")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        need_default("Linear", None, device=device, dtype=dtype)
        (inputs,) = integers("Linear", "in_features", in_features, 1, 1)
        (outputs,) = integers("Linear", "out_features", out_features, 1, 1)
        self.weight, generator, bound = uniform("Linear", (outputs, inputs), inputs, rng)
        self.bias = generator.uniform(-bound, bound, outputs).astype(np.float32) if bias else None

    def saved(self, x: np.ndarray, context: Context) -> Any:
        """What `forward` saves, without the outputs."""
        return linear.saved(x, *self.arrays(context))

    def relu_forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        """What a ReLU makes of y; `backward` takes the gradient to y."""
        y, saved = linear.forward(x, *self.arrays(context))
        if y.size:
            rectify(y)
        return y, saved
