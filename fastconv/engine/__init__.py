"""The door to the convolution algorithms: which one serves which shape, and why.

| algorithm | serves | why |
|---|---|---|
| im2col    | everything, float64 too | windows become rows of a column tile that BLAS multiplies; read it first |
| narrow    | float32, up to 128 channels to read | neighbouring pixels: no table, no prologue |
| planar    | float32, few channels to write | columns in the lanes: none stand empty |
| direct    | float32 | register tiles read the input where it lies: no column is stored, nothing packed but w |
| winograd  | float32, 2, 3 and 5 taps a stride | up to 4 times fewer multiplications; channels pay the transforms |
| grouped   | float32, groups of 2 to 16 | lanes filled across groups, by a permutation |
| depthwise | groups of up to 8 channels, or one | nothing to multiply as matrices: a load and a product a tap |

Each is a module as engine.contract has it; where two cost the same, the first in the table runs. `plan` is the one
choice: everything about a call that its shapes decide is in the Plan that it returns, and stays in a Convolution. A
cost comes from measurements made beforehand, never a clock: a net computes the same bits whenever it runs. An algorithm
asked for by name serves what it can; im2col does the rest. Under the precision "strict" (engine.precision) "auto"
passes over winograd, and where 0 * w or 0 * dy of the padding would not be zero, engine.borders leaves the padding out.

w may also come as it lies in a net, taps last: it is transposed for plans that do not read it so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from fastconv._ext.capture import refuse
from fastconv._ext.conv import lowering
from fastconv.arrays import add_bias, channel_sums, channels_last, copy_into, rectify
from fastconv.engine import borders, depthwise, direct, grouped, im2col, narrow, planar, winograd
from fastconv.engine.contract import NOTHING, RELU, Algorithm, Direction, Epilogue, Plan, Problem
from fastconv.engine.precision import get_precision
from fastconv.engine.trace import watched
from fastconv.machine.memory import allocate, get_workspace_limit
from fastconv.machine.threads import threads_for

__all__ = [
    "ALGORITHMS", "NOTHING", "RELU", "Convolution", "Direction", "Epilogue", "Policy", "Problem", "get_precision",
    "plan",
]  # fmt: skip

_TABLE: dict[str, Algorithm] = {
    "im2col": im2col, "narrow": narrow, "planar": planar, "direct": direct, "winograd": winograd, "grouped": grouped,
    "depthwise": depthwise,
}  # fmt: skip
ALGORITHMS = ("auto", *_TABLE)
MOST_PLANS = 12  # of a convolution: workspace limits change rarely
SPREADING = ("winograd",)  # in which an output's value depends on inputs outside its window


class Policy(NamedTuple):
    """What a call asks of the choice: an algorithm's name or "auto", and the precision."""

    algorithm: str
    strict: bool

    @property
    def exact(self) -> bool:
        """Whether the padding's taps must be left out: not where another kernel than im2col is asked for."""
        return self.strict and self.algorithm in ("auto", "im2col")

    @staticmethod
    def now(algorithm: str = "auto") -> Policy:
        """With the precision that holds here."""
        return Policy(algorithm, get_precision() == "strict")


def plan(direction: Direction, problem: Problem, policy: Policy | None = None) -> Plan:
    """How a direction of a problem is computed: by the cheapest algorithm, or the one that is asked for."""
    policy = policy or Policy.now()
    name = policy.algorithm
    if name == "auto":
        allowed = [name for name in _TABLE if not (policy.strict and name in SPREADING)]
        name = min(allowed, key=lambda name: _TABLE[name].cost(direction, problem))
    elif math.isinf(_TABLE[name].cost(direction, problem)):
        name = "im2col"
    return _TABLE[name].plan(direction, problem)


def _readable(op: str, plan: Plan, w: np.ndarray) -> np.ndarray:
    """w, which is not C-contiguous, as a plan reads it."""
    taps_last = w.transpose(0, 4, 1, 2, 3)
    return w if plan.taps_last and taps_last.flags.c_contiguous else channels_last(op, taps_last)


def _is_finite(array: np.ndarray) -> bool:
    return lowering.all_finite(array.reshape(-1), threads_for(array.nbytes))


class Convolution:
    """A problem under a policy: its three directions, each planned when it is first asked for. Ops keep one for every
    call that they have seen (`arrays.memoised`)."""

    def __init__(self, problem: Problem, policy: Policy) -> None:
        self.problem, self.exact = problem, policy.exact
        self._plans = _Plans(problem, policy)

    def takes(self, epilogue: Epilogue) -> bool:
        """Whether the kernel does it; RELU can be given to `forward` all the same."""
        chosen = self._plans["forward", get_workspace_limit()]
        return not self.exact and epilogue.parts <= chosen.takes

    def forward(
        self, op: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, y: np.ndarray,
        epilogue: Epilogue = NOTHING,
    ) -> np.ndarray:  # fmt: skip
        """Fill y; returns w as it was read: most likely as the gradient to the input will read it."""
        if not y.size:
            return w
        chosen = self._plans["forward", get_workspace_limit()]
        w = self.as_read(op, w)
        if self.exact:
            _run_exactly(chosen, borders, "forward", self.problem, op, (x, w, bias, y), w, y)
        elif epilogue is NOTHING or (epilogue is RELU and "relu" not in chosen.takes):
            watched(chosen, "forward", self.problem, op, x, w, bias, y)
        else:
            watched(chosen, "forward", self.problem, op, x, w, bias, y, epilogue)
            return w
        if epilogue is RELU:
            rectify(y)
        return w

    def as_read(self, op: str, w: np.ndarray) -> np.ndarray:
        """w as `forward` reads it."""
        return w if w.flags.c_contiguous else _readable(op, self._plans["forward", get_workspace_limit()], w)

    def gradient_input(self, op: str, dy: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """dx (N, i0, i1, i2, C); where that is an output, a bias (C,) is added."""
        dx = allocate(op, self.problem.x_shape, dy.dtype)
        if not dx.size or not dy.size:
            copy_into(dx, 0 if bias is None else bias)
            return dx
        chosen = self._plans["gradient_input", get_workspace_limit()]
        if not w.flags.c_contiguous:
            w = _readable(op, chosen, w)
        taken = bias if "bias" in chosen.takes and not self.exact else None
        if self.exact:  # col2im adds no more than what lies inside
            _run_exactly(chosen, im2col, "gradient_input", self.problem, op, (dy, w, dx, None), w, dx)
        else:
            watched(chosen, "gradient_input", self.problem, op, dy, w, dx, taken)
        if bias is not None and taken is None:
            add_bias(dx, bias)
        return dx

    def gradient_weights(
        self, op: str, x: np.ndarray, dy: np.ndarray, db: np.ndarray | None = None
    ) -> np.ndarray:  # fmt: skip
        """dw (K, r0, r1, r2, C / groups); db (K,), which only may be given where the plan takes "sums", is filled."""
        dw = allocate(op, self.problem.w_shape, dy.dtype)
        if not x.size or not dy.size:
            copy_into(dw, 0)
            return dw
        chosen = self._plans["gradient_weights", get_workspace_limit()]
        if self.exact:
            _run_exactly(chosen, borders, "gradient_weights", self.problem, op, (x, dy, dw, db), dy, dw)
        else:
            watched(chosen, "gradient_weights", self.problem, op, x, dy, dw, db)
        return dw

    def gradient_weights_and_bias(
        self, op: str, x: np.ndarray, dy: np.ndarray, needs_weights: bool = True
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """dw (K, r0, r1, r2, C / groups) and db (K,), the sums of dy: from one pass over dy where that costs nothing.

        dw is None where nobody asks for it; db has the same bits.
        """
        if x.size and dy.size and not self.exact:
            chosen = self._plans["gradient_weights", get_workspace_limit()]
            if "sums" in chosen.takes:
                db = np.empty(dy.shape[4], dy.dtype)
                return self.gradient_weights(op, x, dy, db), db
        return self.gradient_weights(op, x, dy) if needs_weights else None, channel_sums(dy)


class _Plans(dict[tuple[Direction, int], Plan]):
    """A convolution's, by direction and workspace limit, made when they are looked up."""

    def __init__(self, problem: Problem, policy: Policy) -> None:
        self.problem, self.policy = problem, policy

    def __missing__(self, key: tuple[Direction, int]) -> Plan:
        if len(self) >= MOST_PLANS:
            self.clear()
        made = self[key] = plan(key[0], self.problem, self.policy)
        return made


def _run_exactly(
    usual: Plan, exact: ModuleType, direction: Direction, problem: Problem, op: str,
    arrays: Sequence[np.ndarray | None], factor: np.ndarray, result: np.ndarray,
) -> None:  # fmt: skip
    """Run the plan; or that of `exact`, which leaves the padding out, where a factor that the usual one multiplies by
    the padding's zeros is not finite. The smaller is asked first: the factor, or the result, which would have a nan."""
    refuse()  # values decide
    if factor.size <= result.size:
        finite = _is_finite(factor)
        if finite:
            watched(usual, direction, problem, op, *arrays)
    else:
        watched(usual, direction, problem, op, *arrays)
        finite = _is_finite(result) or _is_finite(factor)
    if not finite:
        watched(exact.plan(direction, problem), direction, problem, op, *arrays)
