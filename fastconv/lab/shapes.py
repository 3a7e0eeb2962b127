"""Named shapes of real nets, shared by the tests, the benchmarks and `fastconv.lab.compare`.

CONVOLUTIONS   ConvShape by name: the convolutional layers of LeNet, VGG, ResNet and others
TRANSPOSED     ConvShape by name: transposed ones
Case           one call of an operation on such a shape; numpy_baseline.py lists them, the functions here make them
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastconv.window import Window

__all__ = [
    "CONVOLUTIONS",
    "Case",
    "ConvShape",
    "TRANSPOSED",
    "class_case",
    "conv_case",
    "linear_case",
    "map_case",
    "norm_case",
    "pair_case",
    "prelu_case",
    "scaled_case",
    "unpool_case",
    "unshared_case",
]

Ints = tuple[int, ...]
SMALL = 1  # batch of the cases that the naive loops can run too


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A convolutional layer and its input: x (batch, channels, *spatial), w (filters, channels / groups, *kernel).

    Of a transposed one w is (channels, filters / groups, *kernel).
    """

    name: str
    batch: int
    channels: int
    spatial: Ints
    filters: int
    kernel: Ints
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    output_padding: int = 0  # of a transposed one

    @property
    def op(self) -> str:
        return f"conv_transpose{len(self.spatial)}d" if self.transposed else f"conv{len(self.spatial)}d"

    @property
    def options(self) -> dict[str, int]:
        """The keyword arguments of fastconv.functional's function and of torch's, those at their default left out."""
        given = {
            "stride": (self.stride, 1), "padding": (self.padding, 0), "output_padding": (self.output_padding, 0),
            "dilation": (self.dilation, 1), "groups": (self.groups, 1),
        }  # fmt: skip
        return {name: value for name, (value, default) in given.items() if value != default}

    @property
    def x_shape(self) -> Ints:
        return (self.batch, self.channels, *self.spatial)

    @property
    def w_shape(self) -> Ints:
        if self.transposed:
            return (self.channels, self.filters // self.groups, *self.kernel)
        return (self.filters, self.channels // self.groups, *self.kernel)

    @property
    def y_shape(self) -> Ints:
        if self.transposed:
            grown = (
                (n - 1) * self.stride - 2 * self.padding + self.dilation * (r - 1) + 1 + self.output_padding
                for n, r in zip(self.spatial, self.kernel, strict=True)
            )
            return (self.batch, self.filters, *grown)
        window = Window.parse(self.op, self.spatial, self.kernel, self.stride, self.padding, self.dilation)
        return (self.batch, self.filters, *window.output(self.spatial))

    def flops(self) -> int:
        """Of the forward pass done directly, padding taps included; either gradient costs as much again."""
        return 2 * math.prod(self.x_shape if self.transposed else self.y_shape) * math.prod(self.w_shape[1:])

    def with_batch(self, batch: int) -> ConvShape:
        return replace(self, batch=batch)


def _named(*shapes: ConvShape) -> dict[str, ConvShape]:
    return {shape.name: shape for shape in shapes}


CONVOLUTIONS = _named(
    ConvShape("3x3 64-64 @32", 64, 64, (32, 32), 64, (3, 3), padding=1),  # VGG on CIFAR: the one that all quote
    ConvShape("3x3 3-64 @32", 64, 3, (32, 32), 64, (3, 3), padding=1),
    ConvShape("3x3 128-128 @16", 64, 128, (16, 16), 128, (3, 3), padding=1),
    ConvShape("3x3 256-256 @8", 64, 256, (8, 8), 256, (3, 3), padding=1),
    ConvShape("5x5 1-6 @28", 64, 1, (28, 28), 6, (5, 5), padding=2),  # LeNet-5
    ConvShape("5x5 6-16 @14", 64, 6, (14, 14), 16, (5, 5)),
    ConvShape("3x3 1-32 @28", 128, 1, (28, 28), 32, (3, 3), padding=1),  # the MNIST CNN
    ConvShape("3x3 32-64 @28", 128, 32, (28, 28), 64, (3, 3), padding=1),
    ConvShape("5x5 32-64 @14", 64, 32, (14, 14), 64, (5, 5), padding=2),
    ConvShape("3x3 16-16 @32", 128, 16, (32, 32), 16, (3, 3), padding=1),  # ResNet-20
    ConvShape("3x3 32-32 @16", 128, 32, (16, 16), 32, (3, 3), padding=1),
    ConvShape("3x3/2 16-32 @32", 128, 16, (32, 32), 32, (3, 3), stride=2, padding=1),
    ConvShape("7x7/2 3-64 @224", 8, 3, (224, 224), 64, (7, 7), stride=2, padding=3),  # ResNet-18 and -50
    ConvShape("3x3 64-64 @56", 8, 64, (56, 56), 64, (3, 3), padding=1),
    ConvShape("3x3/2 64-128 @56", 8, 64, (56, 56), 128, (3, 3), stride=2, padding=1),
    ConvShape("1x1/2 64-128 @56", 8, 64, (56, 56), 128, (1, 1), stride=2),
    ConvShape("3x3 512-512 @7", 16, 512, (7, 7), 512, (3, 3), padding=1),
    ConvShape("1x1 256-64 @56", 8, 256, (56, 56), 64, (1, 1)),
    ConvShape("1x1 512-512 @14", 16, 512, (14, 14), 512, (1, 1)),
    ConvShape("3x3/2 64-128 @32", 64, 64, (32, 32), 128, (3, 3), stride=2, padding=1),
    ConvShape("3x3 depthwise 64 @32", 64, 64, (32, 32), 64, (3, 3), padding=1, groups=64),  # MobileNet
    ConvShape("3x3 grouped 128-128/32 @28", 8, 128, (28, 28), 128, (3, 3), padding=1, groups=32),  # ResNeXt
    ConvShape("3x3 dilated 64-64 @28", 8, 64, (28, 28), 64, (3, 3), padding=2, dilation=2),  # segmentation
    ConvShape("80/4 1-32 @16000", 32, 1, (16000,), 32, (80,), stride=4, padding=38),  # a 1-D audio CNN (M5)
    ConvShape("3 32-64 @1000", 32, 32, (1000,), 64, (3,), padding=1),
    ConvShape("3x3x3 1-16 @32", 8, 1, (32, 32, 32), 16, (3, 3, 3), padding=1),  # a 3-D CNN
    ConvShape("3x3x3 16-32 @16", 8, 16, (16, 16, 16), 32, (3, 3, 3), padding=1),
)

TRANSPOSED = _named(
    ConvShape("16/8 64-32 @250", 16, 64, (250,), 32, (16,), stride=8, padding=4, transposed=True),  # a vocoder
    ConvShape("4x4/2 64-32 @16", 64, 64, (16, 16), 32, (4, 4), stride=2, padding=1, transposed=True),  # DCGAN
    ConvShape("2x2x2/2 32-16 @8", 8, 32, (8, 8, 8), 16, (2, 2, 2), stride=2, transposed=True),  # a 3-D U-Net
)


@dataclass(frozen=True)
class Case:
    """One call of an operation.

    op        its name in OPS
    name      what a table calls it
    batch     items in it
    build     build(rng, batch) -> the positional arguments; arrays of floats are float32 and C-contiguous
    options   the keyword arguments; `rng` is a seed, of which every call gets a generator of its own
    flops     of the forward pass of one item, where arithmetic and not memory bounds the operation; else 0
    naive     whether it is small enough for the naive loops
    """

    op: str
    name: str
    batch: int
    build: Callable[[np.random.Generator, int], tuple[Any, ...]] = field(repr=False, compare=False)
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)
    flops: int = 0
    naive: bool = False

    @property
    def label(self) -> str:
        return f"{self.op} {self.name}, batch {self.batch}"

    def arrays(self, seed: int = 0) -> tuple[Any, ...]:
        return self.build(np.random.default_rng(seed), self.batch)

    def keywords(self) -> dict[str, Any]:
        rng = {"rng": np.random.default_rng(self.options["rng"])} if "rng" in self.options else {}
        return {**self.options, **rng}

    def with_batch(self, batch: int) -> Case:
        """The same on a batch that is not for the naive loops."""
        return replace(self, batch=batch, naive=False)

    def small(self, batch: int = SMALL) -> Case:
        """The same on so few items that the naive loops can run it."""
        return replace(self, batch=batch, naive=True)


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def conv_case(shape: ConvShape) -> Case:
    """The convolution of a ConvShape, without bias."""

    def build(rng: np.random.Generator, batch: int) -> tuple[Any, ...]:
        fan_in = shape.channels // shape.groups * math.prod(shape.kernel)
        w = _normal(rng, *shape.w_shape) / np.float32(math.sqrt(fan_in))
        return _normal(rng, batch, *shape.x_shape[1:]), w

    return Case(shape.op, shape.name, shape.batch, build, shape.options, shape.with_batch(1).flops())


def unshared_case(name: str, batch: int, channels: int, size: int, filters: int, kernel: int) -> Case:
    """A locally-connected layer on square images, whose outputs have the images' size."""

    def build(rng: np.random.Generator, n: int) -> tuple[Any, ...]:
        w = _normal(rng, filters, channels, kernel, kernel, size, size) / np.float32(kernel * math.sqrt(channels))
        return _normal(rng, n, channels, size, size), w

    flops = 2 * size * size * filters * channels * kernel * kernel
    return Case("locally_connected2d", name, batch, build, {"padding": kernel // 2}, flops)


def map_case(op: str, name: str, batch: int, *item: int, **options: Any) -> Case:
    """An operation on one array (batch, *item)."""
    return Case(op, name, batch, lambda rng, n: (_normal(rng, n, *item),), options)


def linear_case(batch: int, features: int, outputs: int) -> Case:
    def build(rng: np.random.Generator, n: int) -> tuple[Any, ...]:
        w = _normal(rng, outputs, features) / np.float32(math.sqrt(features))
        return _normal(rng, n, features), w, _normal(rng, outputs)

    return Case("linear", f"{features}-{outputs}", batch, build, {}, 2 * features * outputs)


def norm_case(name: str, batch: int, channels: int, *spatial: int, training: bool = True) -> Case:
    def build(rng: np.random.Generator, n: int) -> tuple[Any, ...]:
        mean, var = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        return _normal(rng, n, channels, *spatial), mean, var, _normal(rng, channels), _normal(rng, channels)

    return Case("batch_norm", name, batch, build, {"training": training})


def scaled_case(op: str, name: str, batch: int, item: Ints, scale: Ints, *between: Any, **options: Any) -> Case:
    """An operation on x (batch, *item), what stands between, and weight and bias of shape `scale`."""

    def build(rng: np.random.Generator, n: int) -> tuple[Any, ...]:
        return (_normal(rng, n, *item), *between, _normal(rng, *scale), _normal(rng, *scale))

    return Case(op, name, batch, build, options)


def prelu_case(batch: int, channels: int, *spatial: int) -> Case:
    def build(rng: np.random.Generator, n: int) -> tuple[Any, ...]:
        return _normal(rng, n, channels, *spatial), _normal(rng, channels)

    return Case("prelu", f"{channels} @{spatial[-1]}", batch, build)


def class_case(op: str, batch: int, classes: int) -> Case:
    """A classifier's loss: x (batch, classes) and the right classes."""

    def build(rng: np.random.Generator, n: int) -> tuple[Any, ...]:
        return _normal(rng, n, classes), rng.integers(0, classes, n)

    return Case(op, f"{classes} classes", batch, build)


def pair_case(op: str, batch: int, *item: int) -> Case:
    """A loss of two arrays of one shape."""
    return Case(op, "x".join(map(str, item)), batch, lambda rng, n: (_normal(rng, n, *item), _normal(rng, n, *item)))


def unpool_case(op: str, name: str, batch: int, channels: int, *spatial: int) -> Case:
    """Maxima x (batch, channels, *spatial), each at a random place of its window of 2 along every axis."""

    def build(rng: np.random.Generator, n: int) -> tuple[Any, ...]:
        indices = np.zeros((n, channels, *spatial), np.int64)
        for axis, length in enumerate(spatial):
            at = 2 * np.arange(length).reshape(-1, *(1,) * (len(spatial) - axis - 1))
            indices = indices * (2 * length) + at + rng.integers(0, 2, indices.shape)
        return _normal(rng, n, channels, *spatial), indices

    return Case(op, name, batch, build, {"kernel_size": 2})
