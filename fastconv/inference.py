"""A net that only answers: `Layer.for_inference`."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, TypeVar

import numpy as np

from fastconv.engine import constants
from fastconv.layers import Identity, Layer
from fastconv.plan import Plan
from fastconv.plan.steps import LayerStep

__all__ = ["for_inference"]

Net = TypeVar("Net", bound=Layer)

FOLDS = ("conv1d", "conv2d", "conv3d", "linear")  # operations whose filters are the first axis of their weights


def for_inference(net: Net) -> Net:
    """See `Layer.for_inference`."""
    twin = copy.deepcopy(net).eval()
    if twin.is_container:
        _fold(twin)
    for _, layer, name in twin.named_arrays():
        constants.hold(getattr(layer, name))
    return twin


def _fold(net: Layer) -> None:
    """Every batch norm that alone reads a convolution or a linear layer goes into its weights."""
    plan = Plan(net, False)
    readers = Counter([value for step in plan.steps for value in step.inputs] + list(plan.outputs))
    uses = Counter(id(layer) for step in plan.steps for layer in step.layers)
    made = {step.output: step for step in plan.steps}
    for step in plan.steps:
        norm = _layer(step, uses)
        before = made.get(step.inputs[0]) if len(step.inputs) == 1 else None
        if norm is None or norm.op != "batch_norm" or norm.running_mean is None or before is None:
            continue
        layer = _layer(before, uses)
        if layer is None or layer.op not in FOLDS or readers[before.output] != 1:
            continue
        if norm.running_mean.shape != layer.weight.shape[:1] or norm.running_mean.dtype != layer.weight.dtype:
            continue
        factor, shift = norm.affine()
        if np.isfinite(factor).all():
            along = factor.reshape(-1, *(1,) * (layer.weight.ndim - 1)).astype(layer.weight.dtype)
            offset = shift if layer.bias is None else layer.bias * factor + shift
            layer.weight, layer.bias = layer.weight * along, offset.astype(layer.weight.dtype)
            if "bias" in layer._arguments:
                layer._arguments = {**layer._arguments, "bias": True}
            _exchange(net, norm)


def _layer(step: Any, uses: Counter[int]) -> Any:
    """The layer of fastconv's own that a step applies, where nothing else reads it."""
    if not isinstance(step, LayerStep) or not step.layers[0].is_plain() or not hasattr(step.layers[0], "op"):
        return None
    return step.layers[0] if uses[id(step.layers[0])] == 1 else None


def _exchange(net: Layer, norm: Layer) -> None:
    for _, container in net.walk():
        for name, child in container.children().items():
            if child is norm:
                container._put(name, Identity().eval())  # type: ignore[attr-defined]
