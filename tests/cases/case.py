"""What a case is: a small named call of an operation, whose arrays are drawn afresh for every test.

An operation gets its tests from the lists of its family's module, e.g. tests/cases/conv.py; test_ops.py, test_torch.py
and the fuzzers walk them. A family's module offers

    CASES      list[Case]      small (the naive reference runs each of them many times: some thousand multiply-adds)
    BAD_CASES  list[BadCase]   every rule of the shape rule, with the message that a user reads
    RANDOM     {op: function(rng) -> Case}            a random case, all options mixed, for fuzzing
    TORCH      {op: function(torch, *tensors, **options) -> tensor or (values, indices)}    PyTorch's version of a call
    LARGE      list[Case]      optional: real sizes, some 100,000 elements, that kernels cut into many pieces. They are
                               held against PyTorch and against themselves at other thread counts
    LAYERS     list[LayerCase] the family's layers, each in several configurations

    Case("relu", "plane", lambda draw: (draw(2, 3, 4, 5),))
    Case("dropout", "half", lambda draw: (draw(2, 3), 0.5), {"training": True}, fresh={"rng": lambda: default_rng(1)})
    Case("nll_loss", "mean", lambda draw: (draw(4, 3), draw.labels(3, 4)), exact=False)
    BadCase("relu", "complex", (np.zeros(3, complex),), {}, TypeError, "x must hold real numbers")
    LayerCase("LeakyReLU", (0.2,), {}, (2, 3, 4))
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BadCase", "Case", "Draw", "LayerCase"]


class Draw:
    """Draws a case's arrays: small integers, or floats that keep away from kinks and ties.

    kind "integers"  -4..4: ties and zeros occur, sums of products are exact in float32
         "floats"    distinct, evenly spaced in (-2, 2) in random order: no two closer than 4 / size, none closer to 0
                     than 2 / size, so that a small step crosses no kink of max-pooling or ReLU. Two arrays that must
                     differ from each other (l1_loss) are halves of one draw: x, target = draw(2, 3, 4)
    """

    def __init__(self, seed: int, dtype: Any = np.float64, kind: str = "integers") -> None:
        assert kind in ("integers", "floats")
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.kind = kind

    def __call__(self, *shape: int) -> np.ndarray:
        """An array of floats of this shape."""
        if self.kind == "integers":
            return self.rng.integers(-4, 5, shape).astype(self.dtype)
        size = max(1, int(np.prod(shape)))
        size += size % 2  # an even number of values, symmetric about 0: 0 itself is none of them
        values = (self.rng.permutation(size) + 0.5) * (4 / size) - 2
        return values[: int(np.prod(shape))].reshape(shape).astype(self.dtype)

    def positive(self, *shape: int) -> np.ndarray:
        """The same, above 0."""
        if self.kind == "integers":
            return self.rng.integers(1, 5, shape).astype(self.dtype)
        size = max(1, int(np.prod(shape)))
        values = (self.rng.permutation(size) + 0.5) * (2 / size)
        return values.reshape(shape).astype(self.dtype)

    def labels(self, classes: int, *shape: int) -> np.ndarray:
        """int64 in 0..classes - 1; no gradient is asked for."""
        return self.rng.integers(0, classes, shape)


@dataclass(frozen=True)
class Case:
    """A call of `op` that must work.

    op        name in OPS
    name      of the case, unique within the op
    arrays    draw -> the positional arguments: floats from `draw(*shape)`, and None, numbers and arrays of integers
    options   the keyword arguments
    fresh     keyword arguments that a call uses up: name -> function that makes a new one for every run (a seeded rng)
    exact     fast equals reference bit for bit on small integers, with gradients; False: within tests/tolerance.py
    gradients whether the operation has any; False skips the gradient tests of this case
    constant  positions of float arrays that have no gradient
    written   positions of arguments that the call updates in place (batch_norm's running statistics): no gradient is
              expected to them, and every run gets its own copies
    """

    op: str
    name: str
    arrays: Callable[[Draw], tuple[Any, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    fresh: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    exact: bool = True
    gradients: bool = True
    constant: tuple[int, ...] = ()
    written: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"

    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of one run."""
        return {**self.options, **{name: make() for name, make in self.fresh.items()}}

    def copies(self, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of one run: what the call writes is copied."""
        return tuple(copy.copy(array) if i in self.written else array for i, array in enumerate(arrays))

    def call(self, function: Callable[..., Any], arrays: tuple[Any, ...]) -> Any:
        """function(*arrays, **keywords)."""
        return function(*self.copies(arrays), **self.keywords())


@dataclass(frozen=True)
class BadCase:
    """A call of `op` that must raise `error`; its message is one line, begins with the op, and `match` finds it.

    reference   whether the naive version must refuse it with the same words (it ignores `algorithm`)
    """

    op: str
    name: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    error: type[Exception]
    match: str
    reference: bool = True

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


class LayerCase(NamedTuple):
    """A layer and an x that it takes: its receptive field is held against what it reads, the layer against PyTorch's.

    twin    whether PyTorch has a layer of this name that takes these arguments (some names differ: NAMES in
            test_layers_torch.py)
    """

    name: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    x_shape: tuple[int, ...]
    twin: bool = True
