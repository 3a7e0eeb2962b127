"""Nets that are ready to be trained: functions that return a net with fresh weights.

    net = models.mnist_cnn()
    net = models.build("folder_cnn", (3, 64, 64), num_classes=5, rng=0)

    lenet5 digits_cnn mnist_cnn              small images
    vgg_cifar resnet20 folder_cnn            photographs of some ten pixels
    vgg16 resnet18 mobilenet                 ImageNet's: 224 x 224
    m5                                       sound: (N, 1, 16000)
    voxnet                                   volumes: (N, 1, 32, 32, 32)

All take `num_classes`, `in_channels`, `size` (the input's spatial lengths, or an int for all of them) and `rng` (a
numpy.random.Generator, an int, or None for the one that `manual_seed` seeds), and raise ShapeError for inputs that are
too small. Convolutions that batch norm follows have no bias: it would be subtracted again. `vgg16` and `resnet18` have
torchvision's state_dict keys: its weights fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv.errors import ShapeError
from fastconv.layers import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv1d,
    Conv2d,
    Conv3d,
    Dropout,
    Flatten,
    Graph,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    ReLU,
    Residual,
    Sequential,
)
from fastconv.random import as_generator
from fastconv.window import integers

__all__ = [
    "MODELS",
    "build",
    "digits_cnn",
    "folder_cnn",
    "lenet5",
    "m5",
    "mnist_cnn",
    "mobilenet",
    "resnet18",
    "resnet20",
    "vgg16",
    "vgg_cifar",
    "voxnet",
]

Size = int | tuple[int, ...]
Rng = np.random.Generator | int | None

POOL = (2, 2)  # kernel and stride


def lenet5(num_classes: int = 10, in_channels: int = 1, size: Size = 28, *, rng: Rng = None) -> Sequential:
    """LeNet-5 (LeCun et al., 1998) as it is taught today: ReLU, max-pooling and one linear output layer."""
    rng = as_generator(rng)
    height, width = _after("lenet5", size, (POOL, (5, 1), POOL))
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
    height, width = _after("digits_cnn", size, (POOL,) * 2)
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
    height, width = _after("mnist_cnn", size, (POOL,) * 2)
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
    height, width = _after("vgg_cifar", size, (POOL,) * 3)
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
    height, width = _after("folder_cnn", size, (POOL,))
    layers: list[Layer] = [*_conv(in_channels, 32, rng), MaxPool2d(2)]
    filters = 32
    while min(height, width) >= 8:
        inputs, filters = filters, min(2 * filters, 256)
        layers += [*_conv(inputs, filters, rng), MaxPool2d(2)]
        height, width = height // 2, width // 2
    layers += [*_conv(filters, 2 * filters, rng), AvgPool2d((height, width)), Flatten(), Dropout(0.2)]
    return Sequential(*layers, Linear(2 * filters, num_classes, rng=rng))


def vgg16(
    num_classes: int = 1000, in_channels: int = 3, size: Size = 224, *, hidden: int = 4096, rng: Rng = None
) -> Sequential:
    """VGG-16 (Simonyan and Zisserman, 2015), 16 layers with weights: for 1,000 classes 138,357,544 of them.

    hidden   outputs of the two hidden fully-connected layers. He's first weights (2015): without batch norm, torch's
             default ones let the signal fade away in so many layers. Keys as torchvision's vgg16, and as there images
             of other sizes are brought to the classifier's (7x7 pixels of features for 224) by their mean
    """
    rng = as_generator(rng)
    height, width = _after("vgg16", size, (POOL,) * 5)
    features: list[Layer] = []
    inputs = in_channels
    for filters, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            features += [Conv2d(inputs, filters, 3, padding=1, rng=rng), ReLU()]
            inputs = filters
        features.append(MaxPool2d(2))
    classifier: list[Layer] = [
        Linear(512 * height * width, hidden, rng=rng), ReLU(), Dropout(),
        Linear(hidden, hidden, rng=rng), ReLU(), Dropout(),
    ]  # fmt: skip
    he(*features, *classifier)
    classifier.append(Linear(hidden, num_classes, rng=rng))
    head = {"avgpool": AdaptiveAvgPool2d((height, width)), "flatten": Flatten(), "classifier": Sequential(*classifier)}
    return Sequential({"features": Sequential(*features), **head})


def resnet18(num_classes: int = 1000, in_channels: int = 3, size: Size = 224, *, rng: Rng = None) -> Sequential:
    """ResNet-18 (He et al., 2015): 11.7 million weights; its mean over all pixels takes images of any size.

    Keys as torchvision's resnet18: each block is a Graph whose nodes have torchvision's names.
    """
    rng = as_generator(rng)
    integers("resnet18", "size", size, 2, 1)
    layers: dict[str, Layer] = {
        "conv1": Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False, rng=rng),
        "bn1": BatchNorm2d(64),
        "relu": ReLU(),
        "maxpool": MaxPool2d(3, stride=2, padding=1),
    }
    inputs = 64
    for stage, filters in enumerate((64, 128, 256, 512), 1):
        first = _basic_block(inputs, filters, 1 if stage == 1 else 2, rng)
        layers[f"layer{stage}"] = Sequential(first, _basic_block(filters, filters, 1, rng))
        inputs = filters
    he(*layers.values())
    head = {"avgpool": AdaptiveAvgPool2d(1), "flatten": Flatten(), "fc": Linear(512, num_classes, rng=rng)}
    return Sequential({**layers, **head})


def _basic_block(inputs: int, filters: int, stride: int, rng: np.random.Generator) -> Graph:
    """Two convolutions, and what goes around them: x, or a 1x1 convolution of x where the shape changes."""
    nodes: dict[str, Any] = {
        "conv1": (Conv2d(inputs, filters, 3, stride=stride, padding=1, bias=False, rng=rng), "input"),
        "bn1": (BatchNorm2d(filters), "conv1"),
        "relu": (ReLU(), "bn1"),
        "conv2": (Conv2d(filters, filters, 3, padding=1, bias=False, rng=rng), "relu"),
        "bn2": (BatchNorm2d(filters), "conv2"),
    }
    around = "input"
    if stride != 1 or inputs != filters:
        projection = Conv2d(inputs, filters, 1, stride=stride, bias=False, rng=rng)
        nodes["downsample"] = (Sequential(projection, BatchNorm2d(filters)), "input")
        around = "downsample"
    return Graph({**nodes, "sum": ("add", "bn2", around), "out": ("relu", "sum")})


def resnet20(num_classes: int = 10, in_channels: int = 3, size: Size = 32, *, rng: Rng = None) -> Sequential:
    """ResNet-20 for CIFAR (He et al., 2015): 272,000 weights, 41 million multiply-adds an image of 32x32.

    Where a block halves the image, a 1x1 convolution goes around it (the paper's option B). Blocks are Residuals.
    """
    rng = as_generator(rng)
    integers("resnet20", "size", size, 2, 1)
    layers: dict[str, Layer] = {
        "conv1": Conv2d(in_channels, 16, 3, padding=1, bias=False, rng=rng), "bn1": BatchNorm2d(16), "relu": ReLU(),
    }  # fmt: skip
    inputs = 16
    for stage, filters in enumerate((16, 32, 64), 1):
        blocks: list[Layer] = []
        for block in range(3):
            stride = 2 if stage > 1 and block == 0 else 1
            body = Sequential(
                Conv2d(inputs, filters, 3, stride=stride, padding=1, bias=False, rng=rng), BatchNorm2d(filters), ReLU(),
                Conv2d(filters, filters, 3, padding=1, bias=False, rng=rng), BatchNorm2d(filters),
            )  # fmt: skip
            shortcut = None
            if inputs != filters:
                projection = Conv2d(inputs, filters, 1, stride=stride, bias=False, rng=rng)
                shortcut = Sequential(projection, BatchNorm2d(filters))
            blocks += [Residual(body, shortcut), ReLU()]
            inputs = filters
        layers[f"layer{stage}"] = Sequential(*blocks)
    he(*layers.values())
    head = {"avgpool": AdaptiveAvgPool2d(1), "flatten": Flatten(), "fc": Linear(64, num_classes, rng=rng)}
    return Sequential({**layers, **head})


def mobilenet(
    num_classes: int = 1000, in_channels: int = 3, size: Size = 224, *, width: float = 1.0, rng: Rng = None
) -> Sequential:
    """MobileNet (Howard et al., 2017): depthwise 3x3 and 1x1 convolutions in turn; 4,231,976 weights at width 1.

    width   a factor for all numbers of filters. The image is halved five times; it may have any size
    """
    rng = as_generator(rng)
    integers("mobilenet", "size", size, 2, 1)
    if not width > 0:
        raise ValueError(f"mobilenet: width must be positive, got {width!r}")

    def scaled(filters: int) -> int:
        return max(1, round(filters * width))

    inputs = scaled(32)
    layers: list[Layer] = [
        Conv2d(in_channels, inputs, 3, stride=2, padding=1, bias=False, rng=rng), BatchNorm2d(inputs), ReLU(),
    ]  # fmt: skip
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for filters, stride in blocks:
        outputs = scaled(filters)
        layers += [
            Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False, rng=rng),
            BatchNorm2d(inputs), ReLU(),
            Conv2d(inputs, outputs, 1, bias=False, rng=rng), BatchNorm2d(outputs), ReLU(),
        ]  # fmt: skip
        inputs = outputs
    he(*layers)
    return Sequential(*layers, AdaptiveAvgPool2d(1), Flatten(), Linear(inputs, num_classes, rng=rng))


def m5(num_classes: int = 35, in_channels: int = 1, size: Size = 16000, *, rng: Rng = None) -> Sequential:
    """M5, a net that hears waveforms (Dai et al., 2017): (N, 1, 16000), a second of speech; half a million weights."""
    rng = as_generator(rng)
    _after("m5", size, ((4, 4),) * 5, axes=1)
    layers: list[Layer] = []
    inputs = in_channels
    for filters, kernel, stride, padding in ((128, 80, 4, 38), (128, 3, 1, 1), (256, 3, 1, 1), (512, 3, 1, 1)):
        layers += [
            Conv1d(inputs, filters, kernel, stride=stride, padding=padding, bias=False, rng=rng),
            BatchNorm1d(filters), ReLU(), MaxPool1d(4),
        ]  # fmt: skip
        inputs = filters
    he(*layers)
    return Sequential(*layers, AdaptiveAvgPool1d(1), Flatten(), Linear(inputs, num_classes, rng=rng))


def voxnet(num_classes: int = 40, in_channels: int = 1, size: Size = 32, *, rng: Rng = None) -> Sequential:
    """VoxNet (Maturana and Scherer, 2015) for volumes, (N, 1, 32, 32, 32): 921,736 weights for 40 classes."""
    rng = as_generator(rng)
    left = _after("voxnet", size, ((5, 2), (3, 1), POOL), axes=3)
    layers = (
        Conv3d(in_channels, 32, 5, stride=2, rng=rng), LeakyReLU(0.1), Dropout(0.2),
        Conv3d(32, 32, 3, rng=rng), LeakyReLU(0.1), MaxPool3d(2), Dropout(0.3),
        Flatten(), Linear(32 * math.prod(left), 128, rng=rng), ReLU(), Dropout(0.4),
    )  # fmt: skip
    he(*layers)
    return Sequential(*layers, Linear(128, num_classes, rng=rng))


MODELS: dict[str, Callable[..., Layer]] = {
    function.__name__: function
    for function in (
        lenet5, digits_cnn, mnist_cnn, vgg_cifar, folder_cnn, vgg16, resnet18, resnet20, mobilenet, m5, voxnet,
    )
}  # fmt: skip

AXES = {"m5": 1, "voxnet": 3}  # spatial axes of an input; two where nothing is said


def build(name: str, image_shape: Sequence[int], num_classes: int, *, rng: Rng = None, **options: Any) -> Layer:
    """The net called `name` for inputs of shape (C, *spatial); `options` go to the net's function.

    Raises ValueError for no such name, ShapeError for inputs that it does not take.
    """
    if name not in MODELS:
        raise ValueError(f"no net is called {name!r}; there are {', '.join(MODELS)}")
    channels, *size = image_shape
    axes = AXES.get(name, 2)
    if len(size) != axes:
        raise ShapeError(f"{name}: inputs must have {axes + 1} axes, C and {axes} in space, got {tuple(image_shape)}")
    return MODELS[name](num_classes, channels, tuple(size), rng=rng, **options)


def _conv(inputs: int, filters: int, rng: np.random.Generator) -> tuple[Layer, ...]:
    return Conv2d(inputs, filters, 3, padding=1, bias=False, rng=rng), BatchNorm2d(filters), ReLU()


def he(*layers: Layer) -> None:
    """He's first weights in place of torch's: uniform in +-sqrt(6 / fan_in), biases 0 (He et al., 2015)."""
    for outer in layers:
        for _, layer in outer.walk():
            if isinstance(layer, Conv1d | Conv2d | Conv3d | Linear):
                layer.weight *= np.float32(math.sqrt(6))  # torch's are uniform in +-1 / sqrt(fan_in)
                if layer.bias is not None:
                    layer.bias[...] = 0


def _after(net: str, size: Size, steps: Sequence[tuple[int, int]], axes: int = 2) -> tuple[int, ...]:
    """The spatial lengths behind windows without padding, each (kernel, stride)."""
    given = now = integers(net, "size", size, axes, 1)
    for kernel, stride in steps:
        now = tuple((n - kernel) // stride + 1 for n in now)
    if min(now) < 1:
        inputs = " x ".join(map(str, given))
        raise ShapeError(f"{net}: inputs of {inputs} are too small: one element at least must be left")
    return now
