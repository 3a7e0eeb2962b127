"""What several kinds of layers share: torch's arguments that have no meaning here, and torch's initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastconv import random
from fastconv.errors import nearest
from fastconv.machine.memory import require

__all__ = ["need_default", "only_defaults", "uniform", "uniform_array"]

CHUNK = 1 << 16  # weights drawn at a time: NumPy draws float64, of which no second array shall be as large


def need_default(layer: str, default: Any, **given: Any) -> None:
    """TypeError unless torch's arguments that have no meaning here are at their default."""
    for name, value in given.items():
        if value is not default and (default is None or np.ndim(value) or value != default):
            raise TypeError(f"{layer}: {name} is accepted at its default {default!r} only, got {value!r}")


def only_defaults(owner: str, given: Mapping[str, Any], **allowed: Any) -> None:
    """The same for keywords by any name: TypeError for one that is none of `allowed`, or not at its default there."""
    for name, value in given.items():
        if name not in allowed:
            raise TypeError(f"{owner}: unexpected keyword argument {name!r}{nearest(name, allowed)}")
        need_default(owner, allowed[name], **{name: value})


def uniform_array(layer: str, shape: tuple[int, ...], bound: float, generator: np.random.Generator) -> np.ndarray:
    """float32 in C order, uniform in +-bound: the numbers of one `generator.uniform` call."""
    require(layer, 4 * math.prod(shape))
    array = np.empty(shape, np.float32)
    flat = array.reshape(-1)
    for at in range(0, flat.size, CHUNK):
        part = flat[at : at + CHUNK]
        part[...] = generator.uniform(-bound, bound, part.size)
    return array


def uniform(
    layer: str, shape: tuple[int, ...], fan_in: int, rng: np.random.Generator | int | None
) -> tuple[np.ndarray, np.random.Generator, float]:
    """A weight by torch's default, uniform in +-1 / sqrt(fan_in); kernels lie channels-last in memory."""
    generator = random.as_generator(rng)
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    weight = uniform_array(layer, shape, bound, generator)
    if len(shape) > 2:  # (K, C, *kernel) seen on (K, *kernel, C)
        weight = np.moveaxis(np.ascontiguousarray(np.moveaxis(weight, 1, -1)), -1, 1)
    return weight, generator, bound
