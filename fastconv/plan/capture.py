"""A small net's pass as the kernel calls that it comes down to.

Where a pass takes a tenth of a millisecond, the Python that leads to its kernels takes most of that, and leads to the
same ones every time: what they are called with follows from layouts, options and modes. So the third pass in a row that
is like the two before it is captured, as CUDA graphs are: its kernel calls are noted (`_ext.capture`). In later ones x
is copied to where that one's lay, the calls are made again, and what comes out is copied to memory of its own. Weights
and statistics are read and written where they are. Where a layer was changed in any way, or the pass is another one in
number of threads, precision, mode, it is computed as ever, and in time captured.

What an operation does to elements other than by a kernel is a `Kernel` of its own; where elements decide what is done,
it asks to `refuse`. That holds for the layers in CAPTURED.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv._ext.capture import Capture, Snapshot
from fastconv.engine.precision import get_precision
from fastconv.engine.trace import is_listening
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import POOLED, allocate, get_workspace_limit
from fastconv.machine.threads import get_num_threads
from fastconv.ops.common import layout_of
from fastconv.ops.norm.channels import is_synchronised
from fastconv.ops.registry import FUNCTIONS
from fastconv.plan.steps import Add, Concat, Enter, LayerStep, Step

if TYPE_CHECKING:
    from fastconv.layers.base import Context, Gradients, Layer
    from fastconv.plan import Plan

Forward = Callable[[np.ndarray], tuple[Any, Any]]  # of x: y and what was saved
Backward = Callable[[np.ndarray, Any], tuple[Any, "Gradients"]]  # of dy and what was saved: dx and gradients

__all__ = ["Captures", "Lease", "captured_forward", "key_of"]

CAPTURED = frozenset((
    "Conv1d", "Conv2d", "Conv3d", "Linear", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout", "Dropout2d",
    "Flatten", "Reshape", "MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d",
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Hardswish",
))  # fmt: skip
ALIKE = 3  # passes in a row, of which the last is captured
MOST_BYTES = 1 << 26  # that a captured pass keeps, weights included
FEW_BYTES = 1 << 24  # up to which it is kept while the net does something else
LASTING = 16  # passes, for which a capture pays
ATTEMPTS = 3  # captures that did not


def key_of(x: Any, context: Context) -> Hashable:
    """What tells a pass from others, the net's layers apart; None for one that is not captured."""
    if (
        type(x) is not np.ndarray
        or x.nbytes > MOST_BYTES
        or not (context.once or not context.keep)
        or context.snapshot
        or context.repeated
        or context.limit is not None
        or context.final is not None
        or is_listening()
        or is_synchronised()
    ):
        return None
    return x.shape, x.strides, x.dtype, context.training, get_num_threads(), get_precision(), get_workspace_limit()


class Captures:
    """What a plan knows of its passes: how many in a row were alike, and the one that is captured."""

    def __init__(self) -> None:
        self.captured: Captured | None = None
        self._last: Hashable = None  # pass's key
        self._refused: Hashable = None  # pass's key that cannot be captured
        self._alike = self._attempts = 0
        self.took = [0, 0]  # bytes that forward and backward were handed, the last time that neither was captured

    def begin(self, plan: Plan, key: Hashable) -> Lease | None:
        """The captured pass, if it is this one, and nobody else's for now."""
        captured = self.captured
        if captured is None or captured.key != key:
            return None
        if not captured.snapshot.holds():
            self.drop()
            return None
        self._alike = 0
        return captured.lease(plan)

    def want(self, key: Hashable) -> bool:
        """Whether this pass, which has not begun, is to be captured."""
        if key != self._last:
            self._last, self._alike = key, 0
        self._alike += 1
        if self._alike < ALIKE or self._attempts >= ATTEMPTS or key == self._refused or sum(self.took) > MOST_BYTES:
            return False
        return self.captured is None or self.captured.key != key

    def make_room(self) -> None:
        """Drop a captured pass that keeps much: the net does something else."""
        if self.captured is not None and self.captured.nbytes > FEW_BYTES:
            self.drop()

    def drop(self) -> None:
        """Forget the captured pass, if there is one."""
        if self.captured is not None:
            self._attempts = self._attempts + 1 if self.captured.passes < LASTING else 0
        self.captured, self._alike = None, 0

    def refuse(self, key: Hashable) -> None:
        """Do not try to capture this pass again."""
        self.captured, self._refused = None, key


class Captured:
    """A pass: its forward and, once there was one, its backward."""

    def __init__(self, net: Layer, key: Hashable, x: np.ndarray) -> None:
        layers = list({id(layer): layer for _, layer in net.walk()}.values())
        methods = [(cls, name) for cls in set(map(type, layers)) for name in net._computes_with if hasattr(cls, name)]
        self.snapshot = Snapshot(map(vars, layers), methods)
        self.key, self.passes = key, 0
        self._free = [True]
        self._x = x.copy(order="K")
        self._forward = Capture(MOST_BYTES)
        self._form: Hashable = None  # of the gradient to y that the captured backward takes

    @property
    def nbytes(self) -> int:
        """What it keeps."""
        return (self._forward if self._form is None else self._backward).nbytes

    def lease(self, plan: Plan) -> Lease | None:
        """The right to one pass, where nobody has it."""
        try:
            self._free.pop()
        except IndexError:
            return None
        return Lease(plan, self, self._free)

    def first_forward(self, forward: Forward) -> tuple[np.ndarray, Any, Capture]:
        """The output, what was saved, and how it was captured."""
        with self._forward:
            y, saved = forward(self._x)
        _, self._kept, *self._others = saved  # not the plan, which has the captured pass
        self._y = Result(y)
        return y, saved, self._forward

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.passes += 1
        np.copyto(self._x, x)
        with blas_held:
            self._forward.replay()
        return self._y.copy()

    def y(self) -> np.ndarray:
        return self._y.copy()

    def backward(self, plan: Plan, backward: Backward, dy: np.ndarray, need_dx: Any) -> tuple[Any, Gradients, bool]:
        """The gradients; False where they cannot be captured."""
        saved = plan, list(self._kept), *self._others
        form = dy.shape, dy.strides, dy.dtype, need_dx
        if self._form is None:
            first, capture = dy.copy(order="K"), Capture(MOST_BYTES, self._forward)
            with capture:
                dx, gradients = backward(first, saved)
            if capture.refused or not capture.noting:
                return dx, gradients, not capture.refused
            self._form, self._dy, self._backward = form, first, capture
            self._dx = None if dx is None else Result(dx)
            self._gradients = {name: Result(gradient) for name, gradient in gradients.items()}
        elif form == self._form:
            np.copyto(self._dy, dy)
            with blas_held:
                self._backward.replay()
        else:
            return *backward(dy, saved), True
        dx = None if self._dx is None else self._dx.copy()
        return dx, {name: gradient.copy() for name, gradient in self._gradients.items()}, True


class Lease:
    """A captured pass under way, until its backward is done or this is dropped."""

    def __init__(self, plan: Plan, captured: Captured, free: list[bool]) -> None:
        self.captured = captured
        self._plan, self._free = plan, free

    def backward(self, backward: Backward, dy: np.ndarray, need_dx: Any) -> tuple[Any, Gradients]:
        if not self._lasts:
            raise ValueError("a training step's gradients can be asked for once")
        dx, gradients, lasts = self.captured.backward(self._plan, backward, dy, need_dx)
        if not lasts:
            self._plan.captures.refuse(self.captured.key)
        self.end()
        return dx, gradients

    def end(self) -> None:
        """Leave the captured pass to others."""
        if self._lasts:
            self._lasts = False
            self._free.append(True)

    _lasts = True
    __del__ = end


class Result:
    """An array that a captured pass fills, of which everybody gets a copy that lies alike."""

    def __init__(self, array: np.ndarray) -> None:
        _, lies = layout_of("copy", array)
        self._array, self._back = array, lies.back
        self._moved: np.ndarray | None = None  # what is larger comes from the free list
        if array.nbytes >= POOLED and lies.is_dense:
            self._moved = array if lies.order is None else array.transpose(lies.order)

    def copy(self) -> np.ndarray:
        if self._moved is None:
            return self._array.copy(order="K")
        copy = allocate("copy", self._moved.shape, self._moved.dtype)
        np.copyto(copy, self._moved)
        return copy if self._back is None else copy.transpose(self._back)


def captured_forward(plan: Plan, net: Layer, key: Hashable, x: np.ndarray, forward: Forward) -> tuple[np.ndarray, Any]:
    """forward(x), which is captured, if it can be: then a lease is what it saved."""
    captures = plan.captures
    captures.drop()
    if not _are_served(plan.steps, x.dtype):
        captures.refuse(key)
        return forward(x)
    made = Captured(net, key, x)
    y, saved, capture = made.first_forward(forward)
    if capture.refused:
        captures.refuse(key)
    if capture.refused or not capture.noting:
        return y, saved
    captures.captured = made
    return made.y(), made.lease(plan)


def _are_served(steps: list[Step], dtype: np.dtype) -> bool:
    """Whether all that the steps do can be captured."""
    for step in steps:
        if step.is_fused:
            if not _are_served(step.parts, dtype):  # type: ignore[attr-defined]
                return False
        elif isinstance(step, LayerStep):
            layer: Any = step.layers[0]
            if type(layer).__name__ not in CAPTURED or not layer.is_plain() or layer.op in FUNCTIONS:
                return False
            if not all(_is_read_as_it_is(getattr(layer, name), dtype) for name in layer.positional):
                return False
        elif not isinstance(step, Add | Concat | Enter):
            return False
    return True


def _is_read_as_it_is(array: Any, dtype: np.dtype) -> bool:
    """Whether operations on x of a type make no other array of a layer's own first."""
    return array is None or (type(array) is np.ndarray and array.dtype == dtype and array.flags.aligned)
