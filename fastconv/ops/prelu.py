"""ReLU with a weight per channel, or one for all, on the negative side.

y = x where x > 0, else weight[c] * x

x        (N, C, ...), c the index along axis 1
weight   (C,) or (1,)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv._ext import activation as kernels
from fastconv.arrays import as_floats, channels_last, logical, memoised
from fastconv.errors import ShapeError
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import Rows
from fastconv.ops.registry import Gradients, add

# --- shape rule ------------------------------------------------------------------------------------------------------


def prepare(x: Any, weight: Any) -> tuple[np.ndarray, np.ndarray]:
    x, weight = as_floats("prelu", x=x, weight=weight)
    if weight is None:
        raise TypeError("prelu: weight must hold real numbers, got None")
    if x.ndim < 2:
        raise ShapeError(f"prelu: x must have at least 2 axes (N C), got {x.ndim}: shape {x.shape}")
    if weight.ndim > 1 or weight.size not in (1, x.shape[1]):
        raise ShapeError(
            f"prelu: weight must have one entry, or one per channel, shape ({x.shape[1]},), got {weight.shape}"
        )
    return x, weight


# --- reference -------------------------------------------------------------------------------------------------------


def reference(x: Any, weight: Any) -> tuple[np.ndarray, Any]:
    x, weight = prepare(x, weight)
    weights = _weight_of_each(x, weight)
    ys = [value if value > 0 else w * value for value, w in zip(x.ravel().tolist(), weights, strict=True)]
    return np.array(ys, x.dtype).reshape(x.shape), (x, weight)


def _weight_of_each(x: np.ndarray, weight: np.ndarray) -> list[float]:
    """The weight that belongs to every element of x, in C order."""
    pixels, channels = math.prod(x.shape[2:]), x.shape[1]
    weights = weight.ravel().tolist()
    return [weights[i // pixels % channels] if weight.size > 1 else weights[0] for i in range(x.size)]


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> Gradients:
    x, weight = saved
    pixels = math.prod(x.shape[2:])
    dxs, dweights = [], [0.0] * weight.size
    elements = zip(dy.ravel().tolist(), x.ravel().tolist(), _weight_of_each(x, weight), strict=True)
    for i, (d, value, w) in enumerate(elements):
        dxs.append(d if value > 0 else w * d)
        if not value > 0:
            dweights[i // pixels % weight.size] += d * value
    return np.array(dxs, dy.dtype).reshape(x.shape), np.array(dweights, dy.dtype).reshape(weight.shape)


# --- fast: rows of channels ------------------------------------------------------------------------------------------


Saved = tuple[np.ndarray, np.ndarray, Rows]  # x, channels last; weight; how rows are cut


@memoised("x", "weight")
def plan(op: str, x: np.ndarray, weight: np.ndarray) -> Rows:
    prepare(x, weight)
    return Rows.of(1, x.size // weight.size, weight.size)


def forward(x: Any, weight: Any) -> tuple[np.ndarray, Saved]:
    x, weight, cut = plan("prelu", x, weight)
    last = channels_last("prelu", x)
    y = allocate("prelu", last.shape, x.dtype)
    wide = cut.widen(weight.reshape(-1).copy(), x.dtype)
    kernels.prelu(cut.table(last), wide, cut.table(y), cut.block_rows, threads_for(2 * y.nbytes))
    return logical(y), (last, weight, cut)


def backward(dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> Gradients:
    last, weight, cut = saved
    dy_last = channels_last("prelu", dy)
    dx = allocate("prelu", last.shape, dy.dtype)
    sums = cut.sums("prelu", 1)
    kernels.prelu_backward(
        cut.table(dy_last), cut.table(last), cut.widen(weight.reshape(-1).copy(), dy.dtype), cut.table(dx), sums,
        cut.block_rows, threads_for(3 * dx.nbytes),
    )  # fmt: skip
    with np.errstate(all="ignore"):
        dweight = cut.add_up(sums)[0, 0].astype(dy.dtype).reshape(weight.shape)
    return logical(dx), dweight


add("prelu", forward, backward, reference, reference_backward)
