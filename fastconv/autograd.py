"""Vector-Jacobian products: of every operation, of its naive twin, of one's own operations and of nets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from fastconv import functional, reference
from fastconv.arrays import as_array
from fastconv.errors import ShapeError
from fastconv.ops.registry import OPS, Backward, Forward

__all__ = ["vjp"]

Pullback = Callable[[Any], tuple["np.ndarray | None", ...]]


def vjp(function: Callable[..., Any], /, *arrays: Any, **options: Any) -> tuple[Any, Pullback]:
    """The output of `function(*arrays, **options)` and its pullback.

    `pullback(dy)` takes an array of the output's shape (of the values', where indices are returned beside them) and
    gives a tuple with the gradient of sum(output * dy) to each positional argument, None where an argument has none. It
    may be called any number of times; what it returns belongs to the caller. Arrays are not copied: change them in
    place before the pullback, and it sees the change.

    function   a name of fastconv.functional or fastconv.reference, what `fastconv.register` returned, or a net (the
               gradient is to its input, or inputs, with the weights that it had at this call, in its present mode; of
               several outputs dy is a tuple, None where an output has none)

    Raises TypeError for any other function, ShapeError for a dy that does not fit, and whatever the function raises.
    """
    layer_vjp: Callable[..., tuple[Any, Pullback]] | None = getattr(function, "_vjp", None)
    if layer_vjp is not None:
        several = getattr(function, "inputs", ("input",))
        if len(arrays) != len(several) or options:
            takes = "its input only" if len(several) == 1 else f"its inputs only, {', '.join(several)}"
            raise TypeError(f"vjp: a net takes {takes}, got {len(arrays)} arrays and options {sorted(options)}")
        return layer_vjp(*arrays)
    name, forward, backward = _pair(function)
    positional, named = arrays, options
    if not _fits(function, len(arrays), options):
        try:
            bound = inspect.signature(function).bind(*arrays, **options)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None
        positional, named = bound.args, bound.kwargs
    output, saved = forward(*positional, **named)
    values = output[0] if isinstance(output, tuple) else output
    needs = (True,) * len(arrays) + (False,) * (len(positional) - len(arrays))

    def pullback(dy: Any) -> tuple[np.ndarray | None, ...]:
        return backward(as_gradient(name, dy, values), saved, needs)[: len(arrays)]

    return output, pullback


def _fits(function: Callable[..., Any], count: int, options: dict[str, Any]) -> bool:
    """Whether `count` arrays by position and `options` are a call of `function` that needs no sorting."""
    least, most, names = _accepted(function)
    return least <= count <= most and options.keys() <= names


@lru_cache(maxsize=1024)
def _accepted(function: Callable[..., Any]) -> tuple[int, int, frozenset[str]]:
    """How many arguments by position a function needs and takes, and its keyword-only names."""
    parameters = inspect.signature(function).parameters.values()
    by_position = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    least = sum(each.default is each.empty for each in by_position)
    names = frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
    return least, len(by_position), names


def as_gradient(name: str, dy: Any, values: np.ndarray) -> np.ndarray:
    """dy as an array of the output's shape and type."""
    dy = as_array(name, "dy", dy)
    if dy.shape != np.shape(values):
        raise ShapeError(f"{name}: dy must have the output's shape {np.shape(values)}, got {dy.shape}")
    if dy.dtype.kind not in "fbiu":
        raise TypeError(f"{name}: dy must hold real numbers, got {dy.dtype}")
    gradient: np.ndarray = dy.astype(np.result_type(values), copy=not dy.flags.aligned)
    return gradient


def _pair(function: Callable[..., Any]) -> tuple[str, Forward, Backward]:
    """The forward and backward behind a public function."""
    name = getattr(function, "__name__", "")
    op = OPS.get(name)
    if op is not None:
        if function is getattr(functional, name, None):
            return name, op.forward, op.backward
        if function is getattr(reference, name, None) and op.reference and op.reference_backward:
            return name, op.reference, op.reference_backward
    raise TypeError(
        f"vjp: {function!r} is no function of fastconv.functional or fastconv.reference, none that fastconv.register "
        f"made, and no net{in_functional(function)}"
    )


def in_functional(function: Any) -> str:
    """The end of a message about one of the chapter's words: what to write instead."""
    name = getattr(function, "stands_for", "")
    return f"; its gradients are those of functional.{name}: write X[None, None] for a matrix X" if name else ""
