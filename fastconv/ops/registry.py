"""What an operation is: a forward that returns what its backward needs, each with a naive twin."""

from __future__ import annotations

import functools
import inspect
import keyword
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from fastconv import tape
from fastconv._ext.capture import refuse

__all__ = ["FUNCTIONS", "OPS", "Backward", "Forward", "Gradients", "Op", "add", "bound", "face", "register", "reserve"]

Function = TypeVar("Function", bound=Callable[..., Any])

Forward = Callable[..., tuple[np.ndarray, Any]]
Gradients = tuple["np.ndarray | None", ...]  # one per positional argument
Backward = Callable[[np.ndarray, Any, tuple[bool, ...]], Gradients]


@dataclass(frozen=True)
class Op:
    """An operation.

    forward(*arrays, **options) -> (output, saved): the public signature of `name`; nothing is kept between calls, and
    `saved` is read by `backward` only, any number of times.
    backward(dy, saved, needs) -> a gradient per positional argument of `forward`, None where there is none or where
    `needs` (a bool per positional argument) says that nobody asks for it.
    reference, reference_backward: the same, in naive loops.
    denominator(saved) -> of a loss, what its mean is divided by: how much a batch counts beside others.
    counts(saved) -> of a loss with reduction="none", what each of its elements counts in that; None: 1.
    check(**options): raises what a call with these options raises whatever the arrays; layers ask when they are made.
    composed: the function of which a tape made both passes.
    """

    name: str
    forward: Forward
    backward: Backward
    reference: Forward | None = None
    reference_backward: Backward | None = None
    denominator: Callable[[Any], float] | None = None
    check: Callable[..., Any] | None = None
    counts: Callable[[Any], np.ndarray] | None = None
    composed: Callable[..., Any] | None = None


OPS: dict[str, Op] = {}
FUNCTIONS: dict[str, Callable[..., Any]] = {}  # what `register` made, by name
RESERVED: set[str] = set()  # that `register` refuses


def add(
    name: str,
    forward: Forward,
    backward: Backward,
    reference: Forward,
    reference_backward: Backward,
    *,
    denominator: Callable[[Any], float] | None = None,
    check: Callable[..., Any] | None = None,
    counts: Callable[[Any], np.ndarray] | None = None,
) -> None:
    """List one of fastconv's own operations."""
    OPS[name] = Op(name, forward, backward, reference, reference_backward, denominator, check, counts)


def face(declared: Function) -> Function:
    """A public function's signature and docstring, bound to the operation of its name."""
    op = OPS[declared.__name__]
    return bound(declared, op.forward, op.backward)


def bound(declared: Function, forward: Forward, backward: Backward) -> Function:
    """A function of `declared`'s name and signature that returns the output of `forward`, which has the same one; of
    values on a tape, which every forward refuses for arrays, a value."""

    @functools.wraps(declared)
    def function(*arrays: Any, **options: Any) -> Any:
        refuse()  # a pass that is being captured: a signal's handler, say, is none of it
        try:
            return forward(*arrays, **options)[0]
        except TypeError:
            try:
                given = inspect.signature(declared).bind(*arrays, **options)
            except TypeError as error:
                raise TypeError(f"{declared.__name__}() {error}") from None
            if not tape.holds((arrays, options)):
                raise
        return tape.call(declared.__name__, forward, backward, given.args, given.kwargs)

    return cast(Function, function)


def reserve(names: Iterable[str]) -> None:
    """Have `register` refuse these names, which mean something else beside the operations."""
    RESERVED.update(names)


def register(
    name: str,
    forward: Callable[..., Any],
    backward: Callable[[np.ndarray, Any], Any] | None = None,
    *,
    replace: bool = False,
) -> Callable[..., Any]:
    """Add an operation of one's own; returns it as a function that `vjp`, nets and losses take like any other.

    name      a Python identifier that no operation has yet; files that use the operation name it so
    forward   forward(*arrays, **options) -> (output, saved); without backward -> the output alone, composed of what has
              gradients: fastconv.functional, + - * / ** @, indexing, NumPy's functions (see `value_and_grad`)
    backward  backward(dy, saved) -> the gradient to the first array, or a tuple with one per positional array, None
              where there is none
    replace   the name may be that of an operation registered before: this one takes its place, in nets, trainers and
              whatever else holds its function too

    The operation is then `fastconv.functional.<name>`, `fastconv.vjp` works through it, `Function(name)` is its layer
    and a Trainer takes it as a loss. Raises ValueError for a name that is taken (fastconv's own operations cannot be
    replaced) or is no identifier, TypeError for what cannot be called.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise ValueError(f"register: name must be a public Python identifier, got {name!r}")
    if name in FUNCTIONS:
        if not replace:
            raise ValueError(
                f"register: an operation is already named {name!r}; to replace it, as by running a cell again, write "
                f"register({name!r}, forward, backward, replace=True)"
            )
    elif name in OPS:
        raise ValueError(f"register: an operation of fastconv's own is already named {name!r} and cannot be replaced")
    elif name in RESERVED:
        raise ValueError(f"register: fastconv.functional has a {name!r} already")
    for role, function in (("forward", forward), ("backward", backward)):
        if not callable(function) and (function is not None or role == "forward"):
            raise TypeError(f"register: {role} must be callable, got {function!r}")
    if backward is None:
        OPS[name] = composed(name, forward)
        return _public(name, forward)
    written = backward

    def backward_with_needs(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
        gradients = written(dy, saved)
        if not isinstance(gradients, tuple):
            gradients = (gradients, *(None,) * (len(needs) - 1))
        asked, beyond = gradients[: len(needs)], gradients[len(needs) :]  # beyond: arguments that were left out
        if len(asked) < len(needs) or any(gradient is not None for gradient in beyond):
            raise ValueError(
                f"{name}: backward must give one gradient per positional argument, got {len(gradients)} "
                f"for {len(needs)}"
            )
        return asked

    def checked_forward(*arrays: Any, **options: Any) -> tuple[Any, Any]:
        result = forward(*arrays, **options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"{name}: forward must return (output, saved), got {type(result).__name__}")
        return result

    OPS[name] = Op(name, checked_forward, backward_with_needs)
    return _public(name, forward)


def composed(name: str, function: Callable[..., Any]) -> Op:
    """An operation, in no list, of a function that is composed of operations."""
    return Op(name, *tape.passes(name, function), composed=function)


def _public(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a registered operation."""

    def call(*arrays: Any, **options: Any) -> Any:
        op = OPS[name]
        if tape.holds((arrays, options)):
            if op.composed is not None:
                return op.composed(*arrays, **options)
            return tape.call(name, op.forward, op.backward, arrays, options)
        return op.forward(*arrays, **options)[0]

    function = FUNCTIONS.setdefault(name, call)  # of a name that was replaced the same: who holds it has the new one
    function.__name__ = function.__qualname__ = name
    function.__module__ = "fastconv.functional"
    function.__doc__ = forward.__doc__
    return function
