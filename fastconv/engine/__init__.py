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
the same bits whenever it runs. An algorithm asked for by name serves what it can; im2col does the rest. Under the
precision "strict" (engine.precision) "auto" passes over winograd, and where 0 * w or 0 * dy of the padding would not be
zero, engine.borders leaves the padding out.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from fastconv._ext import lowering
from fastconv.arrays import add_bias, channel_sums, channels_last
from fastconv.engine import borders, depthwise, direct, im2col, winograd
from fastconv.engine.phases import ONES
from fastconv.engine.precision import get_precision
from fastconv.runtime import threads_for
from fastconv.trace import watched
from fastconv.window import Window
from fastconv.workspace import get_workspace_limit

__all__ = [
    "ALGORITHMS", "Policy", "Problem", "choose", "forward", "gradient_input", "gradient_weights",
    "gradient_weights_and_bias",
]  # fmt: skip

Ints = tuple[int, ...]
Direction = Literal["forward", "gradient_input", "gradient_weights"]

_MODULES: dict[str, ModuleType] = {
    "im2col": im2col, "direct": direct, "winograd": winograd, "depthwise": depthwise,
}  # fmt: skip
ALGORITHMS = ("auto", *_MODULES)
BIASED = (direct, winograd)  # whose gradient to the input takes a bias along
SPREADING = (winograd,)  # in which an output's value depends on inputs outside its window


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


class Policy(NamedTuple):
    """What a call asks of the choice: an algorithm's name or "auto", and the precision."""

    algorithm: str
    strict: bool

    @property
    def exact(self) -> bool:
        """Whether the padding's taps must be left out of what `choose` names: not where another kernel is asked for."""
        return self.strict and self.algorithm in ("auto", "im2col")

    @classmethod
    def now(cls, algorithm: str = "auto") -> Policy:
        """With the precision that holds here."""
        return cls(algorithm, get_precision() == "strict")


def choose(direction: Direction, problem: Problem, policy: Policy | None = None) -> str:
    """The name of the algorithm that serves a direction of a problem: the cheapest, or the one that is asked for."""
    policy = policy or Policy.now()
    if policy.algorithm != "auto":
        return policy.algorithm if _MODULES[policy.algorithm].serves(direction, problem) else "im2col"
    return _cheapest(direction, problem, get_workspace_limit(), policy.strict)


@lru_cache(maxsize=1024)
def _cheapest(direction: Direction, problem: Problem, workspace_limit: int, strict: bool) -> str:
    """workspace_limit: what `serves` may ask for."""
    serving = [
        name for name, module in _MODULES.items()
        if not (strict and module in SPREADING) and module.serves(direction, problem)
    ]  # fmt: skip
    return min(serving, key=lambda name: _MODULES[name].cost(direction, problem))


def _is_finite(array: np.ndarray) -> bool:
    return lowering.all_finite(array.reshape(-1), threads_for(array.nbytes))


def _readable(op: str, name: str, w: np.ndarray, window: Window) -> np.ndarray:
    """w as an algorithm reads it."""
    if w.flags.c_contiguous:
        return w
    taps_last = w.transpose(0, 4, 1, 2, 3)
    as_it_lies = name == "winograd" and window.stride == ONES and taps_last.flags.c_contiguous
    return w if as_it_lies else channels_last(op, taps_last)


def forward(
    op: str, policy: Policy, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, window: Window,
    groups: int,
) -> np.ndarray:  # fmt: skip
    """Fill y; returns w as it was read: most likely as the gradient to the input will read it."""
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], y.shape[4], y.shape[1:4], window, groups, x.dtype)
    name = choose("forward", problem, policy)
    w = _readable(op, name, w, window)
    kernel = _MODULES[name].forward
    if policy.exact and not _is_finite(w):
        name, kernel = "im2col", borders.forward
    watched("forward", name, kernel, op, x, w, bias, y, window, groups)
    return w


def gradient_input(
    op: str, policy: Policy, dy: np.ndarray, w: np.ndarray, x_shape: Ints, window: Window, groups: int,
    bias: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """dx (N, i0, i1, i2, C); where that is an output, a bias (C,) is added."""
    problem = Problem(x_shape[0], x_shape[4], x_shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_input", problem, policy)
    w = _readable(op, name, w, window)
    if policy.exact and not _is_finite(w):
        name = "im2col"  # col2im adds no more than what lies inside
    module = _MODULES[name]
    if module in BIASED:
        return watched("gradient_input", name, module.gradient_input, op, dy, w, x_shape, window, groups, bias)
    dx = watched("gradient_input", name, module.gradient_input, op, dy, w, x_shape, window, groups)
    if bias is not None:
        add_bias(dx, bias)
    return dx


def gradient_weights(
    op: str, policy: Policy, x: np.ndarray, dy: np.ndarray, w_shape: Ints, window: Window, groups: int,
    db: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """dw (K, r0, r1, r2, C / groups); db is filled by the algorithm that takes it along."""
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_weights", problem, policy)
    arguments = (op, x, dy, w_shape, window, groups)
    sums = () if db is None else (db,)
    dw = watched("gradient_weights", name, _MODULES[name].gradient_weights, *arguments, *sums)
    if policy.exact and not _is_finite(dw) and not _is_finite(dy):
        return watched("gradient_weights", "im2col", borders.gradient_weights, *arguments)
    return dw


def gradient_weights_and_bias(
    op: str, policy: Policy, x: np.ndarray, dy: np.ndarray, w_shape: Ints, window: Window, groups: int,
    needs_weights: bool = True,
) -> tuple[np.ndarray | None, np.ndarray]:  # fmt: skip
    """dw (K, r0, r1, r2, C / groups) and db (K,), the sums of dy: from one pass over dy where that costs nothing.

    dw is None where nobody asks for it; db has the same bits.
    """
    problem = Problem(x.shape[0], x.shape[4], x.shape[1:4], dy.shape[4], dy.shape[1:4], window, groups, dy.dtype)
    name = choose("gradient_weights", problem, policy)
    arguments = (op, policy, x, dy, w_shape, window, groups)
    if name == "direct" and direct.sums_outputs(x.shape, dy.shape, window, groups):
        db = np.empty(dy.shape[4], dy.dtype)
        return gradient_weights(*arguments, db), db
    return gradient_weights(*arguments) if needs_weights else None, channel_sums(dy)
