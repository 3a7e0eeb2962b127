"""The door to the convolution algorithms: which one serves which shape, and why.

| algorithm | serves | why |
|---|---|---|
| im2col    | everything, float64 too | windows become rows of a column tile that BLAS multiplies; read it first |
| direct    | float32 | register tiles read the input where it lies: no column is stored, nothing packed but w |
|           | float32, few channels to write (engine.planar) | columns in the lanes: none stand empty |
|           | float32, up to 128 channels to read (engine.narrow) | neighbouring pixels: no table, no prologue |
| winograd  | float32, 2, 3 and 5 taps a stride | up to 4 times fewer multiplications; channels pay the transforms |
| depthwise | groups of up to 8 channels, or one | nothing to multiply as matrices: a load and a product a tap |
|           | float32, groups of 2 to 16 (engine.grouped) | lanes filled across groups, by a permutation |

Each algorithm is a module with `serves(direction, problem)`, `cost(direction, problem)` and the three directions
`forward`, `gradient_input` and `gradient_weights`. Their arrays are lifted (three spatial axes) and channels-last,
x (N, i0, i1, i2, C), y (N, o0, o1, o2, K), w (K, r0, r1, r2, C / groups), C-contiguous all of them; strides are whole.
Only w may come as it lies in a net, taps last: winograd without a stride reads it so, for the others it is turned.

`choose` takes the cheapest. A cost is the time over that of the definition's multiplications at the machine's full
rate, as a small model of the shape, from measurements made beforehand (bench/NOTES.md), never a clock: a net computes
the same bits whenever it runs. An algorithm asked for by name serves what it can; im2col does the rest.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from fastconv.arrays import add_bias, channel_sums, channels_last
from fastconv.engine import depthwise, direct, im2col, winograd
from fastconv.engine.phases import ONES
from fastconv.trace import watched
from fastconv.window import Window
from fastconv.workspace import get_workspace_limit

__all__ = [
    "ALGORITHMS", "Problem", "choose", "forward", "gradient_input", "gradient_weights", "gradient_weights_and_bias",
]  # fmt: skip

Ints = tuple[int, ...]
Direction = Literal["forward", "gradient_input", "gradient_weights"]

_MODULES: dict[str, ModuleType] = {
    "im2col": im2col, "direct": direct, "winograd": winograd, "depthwise": depthwise,
}  # fmt: skip
ALGORITHMS = ("auto", *_MODULES)
BIASED = (direct, winograd)  # whose gradient to the input takes a bias along


class Problem(NamedTuple):
    """A convolution's geometry, lifted: all that the choice depends on."""

    batch: int
    channels: int
    inputs: Ints  # spatial
    filters: int
    outputs: Ints  # spatial
    window: Window
    groups: int
    dtype: np.dtype


def choose(direction: Direction, problem: Problem, algorithm: str = "auto") -> str:
    """The name of the algorithm that serves a direction of a problem: the cheapest, or the one that is asked for."""
    if algorithm != "auto":
        return algorithm if _MODULES[algorithm].serves(direction, problem) else "im2col"
    return _cheapest(direction, problem, get_workspace_limit())


@lru_cache(maxsize=1024)
def _cheapest(direction: Direction, problem: Problem, workspace_limit: int) -> str:
    """workspace_limit: what `serves` may ask for."""
    serving = [name for name, module in _MODULES.items() if module.serves(direction, problem)]
    return min(serving, key=lambda name: _MODULES[name].cost(direction, problem))


def _readable(op: str, name: str, w: np.ndarray, window: Window) -> np.ndarray:
    """w as an algorithm reads it."""
    if w.flags.c_contiguous:
        return w
    taps_last = w.transpose(0, 4, 1, 2, 3)
    as_it_lies = name == "winograd" and window.stride == ONES and taps_last.flags.c_contiguous
    return w if as_it_lies else channels_last(op, taps_last)


def forward(
    op: str, algorithm: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window,
    groups: int,
) -> np.ndarray:  # fmt: skip
    """Fill y; returns w as it was read: most likely as the gradient to the input will read it."""
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], y.shape[4], y.shape[1:4], window, groups, x.dtype)
    name = choose("forward", problem, algorithm)
    w = _readable(op, name, w, window)
    watched("forward", name, _MODULES[name].forward, op, x, w, bias, y, window, groups)
    return w


def gradient_input(
    op: str, algorithm: str, dy: np.ndarray, w: np.ndarray, x_shape: Ints, window: Window, groups: int,
    bias: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """dx (N, i0, i1, i2, C); where that is an output, a bias (C,) is added."""
    problem = Problem(x_shape[0], x_shape[4], x_shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_input", problem, algorithm)
    w = _readable(op, name, w, window)
    module = _MODULES[name]
    told = (bias,) if module in BIASED else ()
    dx: np.ndarray = watched("gradient_input", name, module.gradient_input, op, dy, w, x_shape, window, groups, *told)
    if bias is not None and not told:
        add_bias(dx, bias)
    return dx


def gradient_weights(
    op: str, algorithm: str, x: np.ndarray, dy: np.ndarray, w_shape: Ints, window: Window, groups: int
) -> np.ndarray:
    """dw (K, r0, r1, r2, C / groups)."""
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_weights", problem, algorithm)
    kernel = _MODULES[name].gradient_weights
    dw: np.ndarray = watched("gradient_weights", name, kernel, op, x, dy, w_shape, window, groups)
    return dw


def gradient_weights_and_bias(
    op: str, algorithm: str, x: np.ndarray, dy: np.ndarray, w_shape: Ints, window: Window, groups: int,
    needs_weights: bool = True,
) -> tuple[np.ndarray | None, np.ndarray]:  # fmt: skip
    """dw (K, r0, r1, r2, C / groups) and db (K,), the sums of dy: from one pass over dy where that costs nothing.

    dw is None where nobody asks for it; db has the same bits.
    """
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_weights", problem, algorithm)
    arguments = (op, x, dy, w_shape, window, groups)
    if name == "direct" and direct.sums_outputs(x.shape, dy.shape, window, groups):
        db = np.empty(dy.shape[4], dy.dtype)
        return watched("gradient_weights", name, direct.gradient_weights, *arguments, db), db
    dw = watched("gradient_weights", name, _MODULES[name].gradient_weights, *arguments) if needs_weights else None
    return dw, channel_sums(dy)
