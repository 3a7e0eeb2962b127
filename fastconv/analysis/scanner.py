"""A trained classifier as a convolutional net that slides over larger images: the same scores as for every crop.

A fully-connected layer on a (C, H, W) image is a convolution whose kernel covers it; on the features of one position
it is a 1x1 convolution. What stands before it slides along unchanged if it treats all positions alike.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastconv.analysis.reach import POINTWISE, Adaptive, Sliding, reach_of
from fastconv.analysis.steps import Shape
from fastconv.errors import ShapeError
from fastconv.layers import conv, norm, pool
from fastconv.layers.base import Context, Layer, OpLayer
from fastconv.layers.containers import Concat, Residual, Sequential
from fastconv.layers.shape import Identity
from fastconv.plan.steps import named_forward
from fastconv.window import integers

__all__ = ["to_scanner"]

OP = "to_scanner"
CONVOLUTIONS = (conv.Conv1d, conv.Conv2d, conv.Conv3d)
BATCH_NORMS = (norm.BatchNorm1d, norm.BatchNorm2d, norm.BatchNorm3d)
UNSHARED = ("locally_connected2d",)  # weights of their own at every position
LONGEST = 4096  # stride: a layer is tried on as many larger images
Ints = tuple[int, ...]
Named = list[tuple[str, Layer]]


def to_scanner(mlp: Layer, image_shape: Sequence[int], *, stride: Any = None) -> Sequential:
    """A net that gives, at each position of a larger image, the scores that `mlp` gives for the crop there.

    mlp          a Sequential: layers on images, if any; Flatten (not needed where nothing stands before the first
                 Linear); Linear, activations, dropout, batch norm, softmax; Residual and Concat of those
    image_shape  (C, *spatial) of what it was trained on; one to three spatial axes
    stride       steps between crops; default: the smallest that is exact, 1 without pooling, else the product of the
                 strides before the first Linear, of which it must be a multiple

    The scanner takes (N, C, *larger) and gives (N, outputs, *positions): its position p is the crop that begins at
    p * stride. (Where the net never reads an image's last lines, a last crop may reach beyond the larger image by
    those.) It is in inference mode, has copies of the weights, and agrees with the crops to rounding: in float32 to
    some 5e-7 of the largest score.

    Layers before the first Linear must slide exactly: convolutions and pools without padding (a crop's zeros would be
    the larger image's pixels), pointwise ones, batch norm; adaptive pools to one output become plain pools. Raises
    ValueError, with the layer and the reason, for all others; ShapeError for shapes that do not fit.
    """
    if not isinstance(mlp, Sequential):
        raise TypeError(f"{OP}: the net must be a Sequential, got {type(mlp).__name__}")
    if not isinstance(image_shape, Sequence | np.ndarray) or not 2 <= len(image_shape) <= 4:
        raise ShapeError(f"{OP}: image_shape must be (C, *spatial) with one to three spatial axes, got {image_shape!r}")
    shape = integers(OP, "image_shape", image_shape, len(image_shape), 1)
    layers = list(_flat(mlp))
    end = next((at for at, (_, layer) in enumerate(layers) if layer_op(layer) in ("flatten", "linear")), len(layers))
    first = next((at for at, (_, layer) in enumerate(layers) if layer_op(layer) == "linear"), None)
    if first is None:
        raise ValueError(f"{OP}: the net must have a Linear layer, which becomes a convolution")
    if end == first and end > 0:
        raise ValueError(f"{OP}: layer {layers[end][0]} (Linear) must stand behind a Flatten, or first in the net")
    front, kernel, step = _front(layers[:end], shape)
    steps = step if stride is None else integers(OP, "stride", stride, len(step), 1)
    if any(s % least for s, least in zip(steps, step, strict=True)):
        raise ShapeError(f"{OP}: stride must be a multiple of the net's own, {step}, got {steps}")
    result = list(front)
    dense: Layer
    for name, dense in layers[end:]:
        if dense is layers[first][1] and len(result) == len(front):
            own = tuple(s // least for s, least in zip(steps, step, strict=True))
            result.append(_convolution(name, dense, kernel, own))
        elif layer_op(dense) != "flatten":
            if len(result) == len(front):
                raise ValueError(f"{OP}: layer {name} ({_kind(dense)}) must not stand between Flatten and Linear")
            result.append(_slid(name, dense, len(step)))
    scanner = Sequential(*result)
    scanner.eval()
    return scanner


def layer_op(layer: Layer) -> str:
    return layer.op if isinstance(layer, OpLayer) else ""


def _kind(layer: Layer) -> str:
    return f"Function {layer_op(layer)}" if type(layer).__name__ == "Function" else type(layer).__name__


def _flat(net: Sequential, prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """The layers of a Sequential and of those inside it, with their full names; none that change nothing."""
    for name, layer in net.children().items():
        full = f"{prefix}{name}"
        if isinstance(layer, Sequential):
            yield from _flat(layer, f"{full}.")
        elif not isinstance(layer, Identity):
            yield full, layer


# --- before the first Linear -----------------------------------------------------------------------------------------


def _front(layers: Named, shape: Shape) -> tuple[list[Layer], Shape, Ints]:
    """The layers on images as they slide, the shape of what they make of one crop, and their strides together."""
    result = []
    step = (1,) * (len(shape) - 1)
    for name, layer in layers:
        where = f"{OP}: layer {name} ({_kind(layer)})"
        if type(layer).flow is not Layer.flow or layer_op(layer) in UNSHARED:
            raise ValueError(f"{where} cannot slide: before the first Linear stand plain layers of shared weights")
        after = _output(name, layer, shape)
        reach = reach_of(layer, (1, *shape), (1, *after))
        if reach is not None and all(isinstance(taps, Adaptive) for taps in reach):
            new = _plain_pool(where, layer, shape, after)
            if new is not None:
                result.append(new)
            shape = after
            continue
        if reach is None or not all(isinstance(taps, Sliding) and taps.up == 1 for taps in reach):
            raise ValueError(f"{where} cannot slide exactly: it does not treat all positions of an image alike")
        strides = tuple(taps.stride for taps in reach if isinstance(taps, Sliding))
        if max(strides) > LONGEST:
            raise ValueError(f"{where} cannot slide: its stride must be at most {LONGEST}, got {max(strides)}")
        for more in range(1 + 2 * max(strides)):  # on larger images too: padding may depend on the size
            larger = (shape[0], *(n + more for n in shape[1:]))
            try:
                outputs = _output(name, layer, larger)
            except ShapeError:
                raise ValueError(f"{where} cannot slide: it takes a crop, {shape}, but not {larger}") from None
            if reach_of(layer, (1, *larger), (1, *outputs)) != reach or any(
                taps.before > 0 or (m - 1) * taps.stride - taps.before + (taps.kernel - 1) * taps.dilation >= n
                for taps, n, m in zip(reach, larger[1:], outputs[1:], strict=True)
                if isinstance(taps, Sliding)
            ):
                raise ValueError(
                    f"{where} cannot slide exactly: it pads its input {larger}, and a crop's border would be the "
                    "larger image's pixels; only valid padding slides"
                )
        result.append(copy.deepcopy(layer))
        step = tuple(a * b for a, b in zip(step, strides, strict=True))
        shape = after
    return result, shape, step


def _output(name: str, layer: Layer, shape: Shape) -> Shape:
    dtype = layer.dtype or np.dtype(np.float32)
    return named_forward(name, layer, np.empty((0, *shape), dtype), Context(training=False))[0].shape[1:]


def _plain_pool(where: str, layer: Layer, shape: Shape, after: Shape) -> Layer | None:
    """An adaptive pool over a whole crop as a pool with stride 1; None where it changes nothing."""
    if after == shape:
        return None
    if max(after[1:]) > 1:
        raise ValueError(
            f"{where} cannot slide exactly: it makes {after[1:]} of {shape[1:]}; an adaptive pool must make one output"
        )
    kind = "AvgPool" if "avg" in layer_op(layer) else "MaxPool"
    made: Layer = getattr(pool, f"{kind}{len(shape) - 1}d")(shape[1:], stride=1)
    return made


# --- from the first Linear on ----------------------------------------------------------------------------------------


def _convolution(name: str, layer: Layer, shape: Shape, stride: Ints) -> Layer:
    """A Linear on (C, *spatial) as a convolution whose kernel is as large."""
    weight, bias = layer.weight, layer.bias  # type: ignore[attr-defined]
    inputs = int(np.prod(shape))
    if weight.shape[1] != inputs:
        raise ShapeError(
            f"{OP}: layer {name} (Linear) must take {' * '.join(map(str, shape))} = {inputs} features of a crop, "
            f"takes {weight.shape[1]}"
        )
    cls = CONVOLUTIONS[len(shape) - 2]
    result = cls(shape[0], len(weight), shape[1:], stride, bias=bias is not None, rng=0).astype(weight.dtype)
    result.load_state_dict(
        {"weight": weight.reshape(len(weight), *shape)} | ({} if bias is None else {"bias": bias})
    )  # fmt: skip
    return result


def _slid(name: str, layer: Layer, ndim: int) -> Layer:
    """A layer on features (N, F) as one on (N, F, *positions)."""
    op = layer_op(layer)
    if op == "linear":
        features = layer.weight.shape[1]  # type: ignore[attr-defined]
        return _convolution(name, layer, (features, *(1,) * ndim), (1,) * ndim)
    if isinstance(layer, norm.BatchNorm1d):
        if layer.running_mean is None:
            raise ValueError(f"{OP}: layer {name} (BatchNorm1d) must have running statistics")
        result = BATCH_NORMS[ndim - 1](**layer._arguments).astype(layer.running_mean.dtype)
        result.load_state_dict(layer.state_dict())
        return result
    if isinstance(layer, Sequential):
        return Sequential(*(_slid(f"{name}.{key}", child, ndim) for key, child in layer.children().items()))
    if isinstance(layer, Residual):
        return Residual(**{key: _slid(f"{name}.{key}", child, ndim) for key, child in layer.children().items()})
    if isinstance(layer, Concat):
        return Concat(*(_slid(f"{name}.{key}", child, ndim) for key, child in layer.children().items()))
    if op in ("softmax", "log_softmax"):
        if layer._arguments.get("dim", 1) not in (1, -1):
            raise ValueError(f"{OP}: layer {name} ({_kind(layer)}) must work along the features, dim=1")
        return type(layer)(dim=1)
    if op not in POINTWISE and not isinstance(layer, Identity):
        raise ValueError(
            f"{OP}: layer {name} ({_kind(layer)}) cannot slide: behind the first Linear stand Linear, activations, "
            "dropout, batch norm and softmax"
        )
    return copy.deepcopy(layer)
