"""Dropout: every element is zeroed with probability p, the others are scaled by 1 / (1 - p).

    y = x * mask                    mask: 0 or 1 / (1 - p) for each element, in training; y = x otherwise

The mask comes from one 64-bit key, the generator's next: element i (counted in logical order, C order of x's axes) has
the upper 32 bits of SplitMix64(key + i * golden gamma) (Steele, Lea, Flood 2014) and is zeroed where they are below
round(p * 2^32). So the mask depends on the generator and on x's shape only, not on memory layout or threads, costs no
memory, and the backward makes it again. Of a batch that is a part of a larger one (`random.drawing_part`) the elements
are counted in the larger one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastconv._ext import dropout as kernels
from fastconv._ext.capture import Kernel
from fastconv.arrays import as_floats, contiguous, copy_into
from fastconv.machine.memory import allocate
from fastconv.machine.threads import threads_for
from fastconv.ops.common import Order, number, restored
from fastconv.ops.registry import add
from fastconv.random import part_drawn

GAMMA = 0x9E3779B97F4A7C15

# --- shape rule ------------------------------------------------------------------------------------------------------


class Mask(NamedTuple):
    """A mask as numbers: the key, the 32-bit threshold below which elements are zeroed, the factor of the others."""

    key: np.ndarray  # (1,) uint64
    threshold: int
    scale: float


def prepare(x: Any, p: Any, training: Any, rng: Any) -> tuple[np.ndarray, Mask | None]:
    """x and its mask: None outside training."""
    (x,) = as_floats("dropout", x=x)
    p = number("dropout", "p", p, 0, 1)
    if not training:
        return x, None
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"dropout: rng must be a numpy.random.Generator, got {type(rng).__name__}")
    key = np.empty(1, np.uint64)
    draw(rng, x.size, key)
    return x, Mask(key, round(p * (1 << 32)), 0.0 if p == 1 else 1 / (1 - p))


@Kernel
def draw(rng: np.random.Generator, elements: int, key: np.ndarray) -> None:
    key[0] = (int(rng.integers(0, 1 << 64, dtype=np.uint64)) + part_drawn(elements) * GAMMA) % (1 << 64)


# --- reference -------------------------------------------------------------------------------------------------------


def reference(x: Any, p: float, *, training: bool, rng: np.random.Generator | None) -> tuple[np.ndarray, Any]:
    x, mask = prepare(x, p, training, rng)
    ys = [value * factor for value, factor in zip(x.ravel().tolist(), naive_mask(mask, x.size), strict=True)]
    return np.array(ys, x.dtype).reshape(x.shape), mask


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    dxs = [d * factor for d, factor in zip(dy.ravel().tolist(), naive_mask(saved, dy.size), strict=True)]
    return np.array(dxs, dy.dtype).reshape(dy.shape), None


def naive_mask(mask: Mask | None, size: int) -> list[float]:
    if mask is None:
        return [1.0] * size
    key, word = int(mask.key[0]), (1 << 64) - 1
    factors = []
    for index in range(size):
        z = (key + index * GAMMA) & word
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
        bits = (z ^ (z >> 31)) >> 32
        factors.append(mask.scale if bits >= mask.threshold else 0.0)
    return factors


# --- fast ------------------------------------------------------------------------------------------------------------


def forward(x: Any, p: float, *, training: bool, rng: np.random.Generator | None) -> tuple[np.ndarray, Mask | None]:
    x, mask = prepare(x, p, training, rng)
    return multiply(x, mask), mask


def backward(dy: np.ndarray, saved: Mask | None, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    return multiply(dy, saved), None


def multiply(x: np.ndarray, mask: Mask | None) -> np.ndarray:
    """x times its mask, in x's order in memory where that is C order or channels-last."""
    order: Order = None
    pixels = 1
    if not x.flags.c_contiguous and x.ndim > 2:
        order = (0, *range(2, x.ndim), 1)
        pixels = math.prod(x.shape[2:])
    moved = contiguous("dropout", x if order is None else x.transpose(order))
    y = allocate("dropout", moved.shape, x.dtype)
    if mask is None:
        copy_into(y, moved)
    elif y.size:
        shape = (1, y.size, 1) if order is None else (x.shape[0], pixels, x.shape[1])
        kernels.dropout(moved.reshape(shape), y.reshape(shape), *mask, threads_for(4 * y.nbytes))
    return restored(y, order)


add("dropout", forward, backward, reference, reference_backward)
