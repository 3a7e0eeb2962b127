"""Nets that are ready to be trained: functions that return a net with fresh weights.

    net = models.mnist_cnn()
    net = models.build("folder_cnn", (3, 64, 64), num_classes=5, rng=0)

All take `num_classes`, `in_channels`, `size` (the images' height and width, or an int for both) and `rng` (a
numpy.random.Generator, an int, or None for the one that `manual_seed` seeds), and raise ShapeError for images that are
too small. Convolutions that batch norm follows have no bias: it would be subtracted again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fastconv.errors import ShapeError
from fastconv.layers import AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, ReLU, Sequential
from fastconv.random import as_generator
from fastconv.window import integers

__all__ = ["MODELS", "build", "digits_cnn", "folder_cnn", "lenet5", "mnist_cnn", "vgg_cifar"]

Size = int | tuple[int, int]
Rng = np.random.Generator | int | None


def lenet5(num_classes: int = 10, in_channels: int = 1, size: Size = 28, *, rng: Rng = None) -> Sequential:
    """LeNet-5 (LeCun et al., 1998) as it is taught today: ReLU, max-pooling and one linear output layer."""
    rng = as_generator(rng)
    height, width = _after("lenet5", size, (("pool", 2), ("conv", 5), ("pool", 2)))
    return Sequential(
        Conv2d(in_channels, 6, 5, padding=2, rng=rng), ReLU(), MaxPool2d(2),
        Conv2d(6, 16, 5, rng=rng), ReLU(), MaxPool2d(2),
        Flatten(),
        Linear(16 * height * width, 120, rng=rng), ReLU(),
        Linear(120, 84, rng=rng), ReLU(),
        Linear(84, num_classes, rng=rng),
    )  # fmt: skip


def digits_cnn(num_classes: int = 10, in_channels: int = 1, size: Size = 8, *, rng: Rng = None) -> Sequential:
    """For the 8x8 digits: 1.5 million multiply-adds an image, 68,000 weights."""
    rng = as_generator(rng)
    height, width = _after("digits_cnn", size, (("pool", 2), ("pool", 2)))
    return Sequential(
        *_conv(in_channels, 32, rng), *_conv(32, 32, rng), MaxPool2d(2),
        *_conv(32, 64, rng), *_conv(64, 64, rng), MaxPool2d(2),
        Flatten(), Linear(64 * height * width, num_classes, rng=rng),
    )  # fmt: skip


def mnist_cnn(num_classes: int = 10, in_channels: int = 1, size: Size = 28, *, rng: Rng = None) -> Sequential:
    """For MNIST and sets in its form: 2.3 million multiply-adds an image, 427,000 weights.

    Its last convolution covers what the pools leave of the image: the hidden fully-connected layer in another form, so
    that one kind of batch norm serves all.
    """
    rng = as_generator(rng)
    height, width = _after("mnist_cnn", size, (("pool", 2), ("pool", 2)))
    return Sequential(
        *_conv(in_channels, 16, rng), MaxPool2d(2),
        *_conv(16, 32, rng), MaxPool2d(2),
        *_conv(32, 64, rng),
        Conv2d(64, 128, (height, width), bias=False, rng=rng), BatchNorm2d(128), ReLU(),
        Flatten(), Linear(128, num_classes, rng=rng),
    )  # fmt: skip


def vgg_cifar(num_classes: int = 10, in_channels: int = 3, size: Size = 32, *, rng: Rng = None) -> Sequential:
    """A small VGG with batch norm (64 64 M 128 128 M 256 256 M): 153 million multiply-adds an image of 32x32."""
    rng = as_generator(rng)
    height, width = _after("vgg_cifar", size, (("pool", 2), ("pool", 2), ("pool", 2)))
    layers: list[Layer] = []
    inputs = in_channels
    for filters in (64, 128, 256):
        layers += [*_conv(inputs, filters, rng), *_conv(filters, filters, rng), MaxPool2d(2)]
        inputs = filters
    return Sequential(*layers, Flatten(), Dropout(0.3), Linear(256 * height * width, num_classes, rng=rng))


def folder_cnn(num_classes: int, in_channels: int = 3, size: Size = 32, *, rng: Rng = None) -> Sequential:
    """For pictures of any size from 8x8: 32, 64, 128 … 256 filters, each halving the picture, until 4 to 7 pixels are
    left, whose mean is classified."""
    rng = as_generator(rng)
    height, width = _after("folder_cnn", size, (("pool", 2),))
    layers: list[Layer] = [*_conv(in_channels, 32, rng), MaxPool2d(2)]
    filters = 32
    while min(height, width) >= 8:
        inputs, filters = filters, min(2 * filters, 256)
        layers += [*_conv(inputs, filters, rng), MaxPool2d(2)]
        height, width = height // 2, width // 2
    layers += [*_conv(filters, 2 * filters, rng), AvgPool2d((height, width)), Flatten(), Dropout(0.2)]
    return Sequential(*layers, Linear(2 * filters, num_classes, rng=rng))


MODELS: dict[str, Callable[..., Sequential]] = {
    function.__name__: function for function in (lenet5, digits_cnn, mnist_cnn, vgg_cifar, folder_cnn)
}


def build(name: str, image_shape: Sequence[int], num_classes: int, *, rng: Rng = None) -> Sequential:
    """The net called `name` for images (C, H, W). Raises ValueError for no such name, ShapeError for no such images."""
    if name not in MODELS:
        raise ValueError(f"no net is called {name!r}; there are {', '.join(MODELS)}")
    channels, height, width = image_shape
    return MODELS[name](num_classes, channels, (height, width), rng=rng)


def _conv(inputs: int, filters: int, rng: np.random.Generator) -> tuple[Layer, ...]:
    return Conv2d(inputs, filters, 3, padding=1, bias=False, rng=rng), BatchNorm2d(filters), ReLU()


def _after(net: str, size: Size, steps: Sequence[tuple[str, int]]) -> tuple[int, ...]:
    """Height and width behind pools, and convolutions without padding."""
    given = now = integers(net, "size", size, 2, 1)
    for kind, kernel in steps:
        now = tuple(n // kernel if kind == "pool" else n - kernel + 1 for n in now)
    if min(now) < 1:
        raise ShapeError(f"{net}: images of {given[0]} x {given[1]} are too small: a pixel at least must be left")
    return now
