"""A net's pass as the kernel calls that it comes down to.

Where a pass takes a tenth of a millisecond, the Python that leads to its kernels takes most of that, and leads to the
same ones every time: what they are called with follows from layouts, options and modes. So the third pass in a row that
is like the two before it is captured, as CUDA graphs are: its kernel calls are noted (`_ext.capture`), and its memory
is kept (`_ext.memory.Pool`), where a block serves one array after the other as ever. In later passes x is copied to
where that one's lay, the calls are made again, and what comes out is copied to memory of its own. Weights and
statistics are read and written where they are. Where a layer was changed in any way, or the pass is another one in
number of threads, precision, mode, it is computed as ever, and in time captured.

What an operation does to elements other than by a kernel is a `Kernel` of its own; where elements decide what is done,
it asks to `refuse`. That holds for the layers in CAPTURED.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastconv._ext.capture import Capture, Snapshot, forget
from fastconv.arrays import FLOATS, copied_alike
from fastconv.engine.precision import get_precision
from fastconv.engine.trace import is_listening
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import POOLED, allocate_lasting, get_workspace_limit, on_shortage
from fastconv.machine.threads import get_num_threads
from fastconv.ops.norm.channels import is_synchronised
from fastconv.ops.registry import FUNCTIONS
from fastconv.plan.limits import Draws
from fastconv.plan.steps import Add, Concat, Enter, LayerStep, Step

if TYPE_CHECKING:
    from fastconv.layers.base import Context, Gradients, Layer
    from fastconv.plan import Plan

Forward = Callable[[np.ndarray], tuple[Any, Any]]  # of x: y and what was saved
Backward = Callable[[np.ndarray], tuple[Any, "Gradients"]]  # of dy: dx and gradients

__all__ = ["Captures", "Lease", "captured_forward", "key_of"]

CAPTURED = frozenset((
    "Conv1d", "Conv2d", "Conv3d", "Linear", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Dropout", "Dropout2d",
    "Flatten", "Reshape", "MaxPool1d", "MaxPool2d", "MaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d",
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "ReLU", "LeakyReLU", "ELU", "SELU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Hardswish",
))  # fmt: skip
ALIKE = 3  # passes in a row, of which the last is captured
PASS_BYTES = 15 << 24  # that a captured pass keeps at most, weights included, and
MOST_BYTES = 3 << 27  # all of them together
FEW_BYTES = 1 << 24  # up to which it is kept while the net does something else
LASTING = 16  # passes, for which a capture pays
ATTEMPTS = 3  # captures that did not
MOST_OPTIONS = 1 << 12  # lists and mappings in a layer's attribute: a mapping may make ever new ones


def key_of(x: Any, context: Context) -> Hashable:
    """What tells a pass from others, the net's layers apart; None for one that is not captured."""
    if (
        type(x) is not np.ndarray
        or x.dtype not in FLOATS
        or not x.flags.aligned
        or x.nbytes > PASS_BYTES
        or not (context.once or not context.keep)
        or context.snapshot
        or context.repeated
        or context.limit is not None
        or context.final is not None
        or not (context.rng is None or isinstance(context.rng, np.random.Generator))
        or is_listening()
        or is_synchronised()
    ):
        return None
    return x.shape, x.strides, x.dtype, context.training, get_num_threads(), get_precision(), get_workspace_limit()


class _Ledger:
    """Who has a captured pass, of how many bytes, and how often it had been used when room was last looked for."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may come in between
        self._entries: dict[int, tuple[weakref.ref[Captures], int, int]] = {}
        self._total = 0

    def enter(self, captures: Captures, nbytes: int) -> bool:
        """Whether there is room: those that nobody used since it was last looked for give way."""
        key = id(captures)
        with self._lock:
            self.leave(key)
            for other in tuple(self._entries):
                if self._total + nbytes <= MOST_BYTES:
                    break
                self._drop_unused(other)
            if self._total + nbytes > MOST_BYTES:
                return False
            self._entries[key] = weakref.ref(captures, lambda _: self.leave(key)), nbytes, 0
            self._total += nbytes
        return True

    def leave(self, key: int) -> None:
        with self._lock:
            _, nbytes, _ = self._entries.pop(key, (None, 0, 0))
            self._total -= nbytes

    def _drop_unused(self, key: int) -> None:
        if key not in self._entries:  # the collector came in between
            return
        reference, nbytes, used = self._entries[key]
        captures = reference()
        passes = 0 if captures is None or captures.captured is None else captures.captured.passes
        if captures is not None and passes != used:
            self._entries[key] = reference, nbytes, passes
        else:
            self._drop(key)

    def _drop(self, key: int) -> None:
        entry = self._entries.get(key)
        captures = None if entry is None else entry[0]()
        self.leave(key)
        if captures is not None:
            captures.drop()

    def drop_all(self) -> None:
        for key in tuple(self._entries):
            with self._lock:
                self._drop(key)

    def after_fork(self) -> None:
        """In the child: nobody has the lock."""
        self._lock = threading.RLock()
        forget()


_ledger = _Ledger()
os.register_at_fork(after_in_child=_ledger.after_fork)
on_shortage(_ledger.drop_all)


class Captures:
    """What a plan knows of its passes: how many in a row were alike, and the one that is captured."""

    def __init__(self) -> None:
        self.captured: Captured | None = None
        self._last: Hashable = None  # pass's key
        self._refused: Hashable = None  # pass's key that cannot be captured
        self._alike = self._attempts = 0

    def begin(self, net: Layer, plan: Plan, key: Hashable, context: Context) -> Lease | None:
        """The captured pass, if it is this one, and nobody else's for now."""
        captured = self.captured
        if captured is None or captured.key != key or captured.is_taken():
            return None
        lease = Lease(plan, captured, context)
        if (
            type(net) is not captured.of
            or not captured.snapshot.holds()
            or (context.keep and not captured.has_backward())
        ):
            self.drop()
            return None
        self._alike = 0
        return lease

    def want(self, key: Hashable) -> bool:
        """Whether this pass, which has not begun, is to be captured."""
        if key != self._last:
            self._last, self._alike = key, 0
        self._alike += 1
        if self._alike < ALIKE or self._attempts >= ATTEMPTS or key == self._refused:
            return False
        return self.captured is None or self.captured.key != key

    def keep(self, captured: Captured) -> None:
        """Have this one, if there is room for it."""
        self.captured = captured
        if not _ledger.enter(self, captured.nbytes):
            self.drop()

    def make_room(self) -> None:
        """Drop a captured pass that keeps much: the net does something else."""
        if self.captured is not None and self.captured.nbytes > FEW_BYTES:
            self.drop()

    def drop(self) -> None:
        """Forget the captured pass, if there is one."""
        if self.captured is not None:
            self._attempts = self._attempts + 1 if self.captured.passes < LASTING else 0
        self.captured, self._alike = None, 0
        _ledger.leave(id(self))

    def refuse(self, key: Hashable) -> None:
        """Do not try to capture this pass again."""
        self.captured, self._refused = None, key
        _ledger.leave(id(self))


class Captured:
    """A pass: its forward and, once there was one, its backward."""

    def __init__(self, net: Layer, key: Hashable, x: np.ndarray) -> None:
        """x is kept."""
        layers = list({id(layer): layer for _, layer in net.walk()}.values())
        methods = [(cls, name) for cls in set(map(type, layers)) for name in net._computes_with if hasattr(cls, name)]
        classes = [(layer, "__class__") for layer in layers if layer is not net]  # which holds the plan that holds this
        self.snapshot, self.of = Snapshot(map(vars, layers), methods + classes), type(net)
        self.key, self.passes = key, 0
        self.free: list[bool] = []  # the right to its next pass, while nobody has it
        self.x = x
        self.draws = Draws(None)
        self._forward = Capture(PASS_BYTES)
        self._backward: Capture | None = None

    @property
    def nbytes(self) -> int:
        """What it keeps."""
        return self._forward.nbytes if self._backward is None else self._backward.nbytes

    def is_taken(self) -> bool:
        """Whether somebody has the right to its next pass; if not, the caller has it from now on."""
        try:
            self.free.pop()
        except IndexError:
            return True
        return False

    def has_backward(self) -> bool:
        return self._backward is not None

    def first_forward(self, forward: Forward) -> tuple[np.ndarray, Any, Capture]:
        """The output, what was saved, and how it was captured."""
        with self._forward:
            y, saved = forward(self.x)
        self._y = y
        return y, saved, self._forward

    def forward(self, x: np.ndarray, context: Context) -> np.ndarray:
        self.passes += 1
        np.copyto(self.x, x)
        self.draws.begin(context)
        with blas_held:
            self._forward.replay()
        return handed_out(self._y)

    def y(self) -> np.ndarray:
        return handed_out(self._y)

    def first_backward(self, backward: Backward, dy: np.ndarray, need_dx: Any) -> tuple[Any, Gradients, Capture]:
        """The gradients, and how they were captured; dy is kept."""
        self._dy, self._needs_dx = dy, need_dx
        capture = Capture(PASS_BYTES, self._forward)
        with capture:
            dx, gradients = backward(self._dy)
        self._dx, self._gradients, self._backward = dx, gradients, capture
        return dx, gradients, capture

    def backward(self, dy: np.ndarray) -> tuple[Any, Gradients]:
        assert self._backward is not None
        np.copyto(self._dy, dy)
        with blas_held:
            self._backward.replay()
        return self.gradients()

    def gradients(self) -> tuple[Any, Gradients]:
        dx = None if self._dx is None else handed_out(self._dx)
        return dx, {name: handed_out(gradient) for name, gradient in self._gradients.items()}

    def takes(self, dy: np.ndarray, need_dx: Any) -> bool:
        """Whether its backward is the one that is asked for."""
        like = self._dy
        same = dy.shape == like.shape and dy.strides == like.strides and dy.dtype == like.dtype
        return bool(same and need_dx == self._needs_dx)


class Lease:
    """A captured pass under way, until its backward is done or this is dropped. saved: what the forward saved, where
    it was the captured one itself."""

    _lasts = True

    def __init__(self, plan: Plan, captured: Captured, context: Context, saved: Any = None) -> None:
        self.captured = captured
        self._plan, self._context, self._saved = plan, context, saved

    def backward(
        self, net: Layer, dy: np.ndarray, need_dx: Any, forward: Callable[..., Any], backward: Callable[..., Any]
    ) -> tuple[Any, Gradients]:
        """The gradients; otherwise than captured by forward(plan, x, context) and backward(net, dy, saved, need_dx)."""
        if not self._lasts:
            raise ValueError("a training step's gradients can be asked for once")
        try:
            return self._backward(net, dy, need_dx, forward, backward)
        finally:
            self.end()

    def _backward(
        self, net: Layer, dy: np.ndarray, need_dx: Any, forward: Callable[..., Any], backward: Callable[..., Any]
    ) -> tuple[Any, Gradients]:
        captured, captures = self.captured, self._plan.captures
        if self._saved is not None:
            saved, self._saved = self._saved, None
            own = twin(dy) if captures.captured is captured else None  # else there was no room for it
            found: tuple[Any, Gradients]
            if own is None:
                if captures.captured is captured:
                    captures.refuse(captured.key)
                found = backward(net, dy, saved, need_dx)
                return found
            way = partial(backward, net, saved=saved, need_dx=need_dx)
            dx, gradients, capture = captured.first_backward(way, own, need_dx)
            found = dx, gradients
            if capture.refused:
                captures.refuse(captured.key)
            elif not capture.noting:
                captures.drop()
            else:
                found = captured.gradients()
                if captures.captured is captured:
                    captures.keep(captured)
        elif captured.takes(dy, need_dx):
            found = captured.backward(dy)
        else:
            captures.drop()
            context = replace(self._context, repeated=True, rng=captured.draws.again())
            saved = forward(self._plan, captured.x, context)[1]
            found = backward(net, dy, saved, need_dx)
        return found

    def end(self) -> None:
        """Leave the captured pass to others."""
        if self._lasts:
            self._lasts = False
            self.captured.free.append(True)

    __del__ = end


def twin(array: np.ndarray) -> np.ndarray | None:
    """An array that lies in memory of its own as another one does, with its gaps and repeats, and holds the same; None
    where its gaps are too large, or there is no memory."""
    begin, end = byte_bounds(array)
    if end - begin > 4 * array.nbytes + POOLED:
        return None
    try:
        room = allocate_lasting("a captured pass", (end - begin,), np.dtype(np.uint8))
    except MemoryError:
        return None
    at = array.__array_interface__["data"][0] - begin
    same: np.ndarray = np.ndarray(array.shape, array.dtype, room, at, array.strides)
    np.copyto(same, array)
    return same


def handed_out(array: np.ndarray) -> np.ndarray:
    """A copy that lies alike."""
    return array.copy(order="K") if array.nbytes < POOLED else copied_alike("copy", array)


def captured_forward(
    plan: Plan, net: Layer, key: Hashable, x: np.ndarray, context: Context, forward: Callable[..., Any]
) -> tuple[np.ndarray, Any]:
    """forward(plan, x, context), which is captured, if it can be: then a lease is what it saved."""
    captures = plan.captures
    captures.drop()
    own = twin(x) if _are_served(plan.steps, x.dtype) else None
    if own is None:
        captures.refuse(key)
        computed: tuple[np.ndarray, Any] = forward(plan, x, context)
        return computed
    made = Captured(net, key, own)
    made.draws.begin(context)
    way = partial(forward, plan, context=replace(context, rng=made.draws))
    y, saved, capture = made.first_forward(way)
    if capture.refused:
        captures.refuse(key)
    if capture.refused or not capture.noting:
        return y, saved
    lease = Lease(plan, made, context, saved)
    y = made.y()
    captures.keep(made)
    return y, lease if context.keep else None


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
            own = {*layer.positional, *layer.buffer_names, "_arguments", "_frozen"}
            if not all(name in own or _is_plain(value) for name, value in vars(layer).items()):
                return False
        elif not isinstance(step, Add | Concat | Enter):
            return False
    return True


def _is_plain(option: Any) -> bool:
    """Whether it cannot become another value while it is the same object."""
    waiting, found = [option], {}
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping) or type(each) in (tuple, list):  # a list is the layer's own
            if id(each) not in found:  # it may hold itself
                found[id(each)] = each
                if len(found) > MOST_OPTIONS:
                    return False
                waiting.extend(each.values() if isinstance(each, Mapping) else each)
        elif each is not None and type(each) not in (bool, int, float, str, Fraction):
            return False
    return True


def _is_read_as_it_is(array: Any, dtype: np.dtype) -> bool:
    """Whether operations on x of a type make no other array of a layer's own first."""
    return array is None or (type(array) is np.ndarray and array.dtype == dtype and array.flags.aligned)
