"""Running cases, comparing what comes out, and arrays that are awkward to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from cases import CASES, Case
from tolerance import tolerance

from fastconv import functional, reference, vjp
from fastconv.ops import OPS

__all__ = [
    "AWKWARD", "DTYPES", "Run", "assert_close", "assert_same", "cases_of", "fast", "float_positions", "is_floats",
    "naive", "own_ops", "run", "small_integers",
]  # fmt: skip

DTYPES = (np.float32, np.float64)


def own_ops() -> list[str]:
    """The operations of fastconv's own: those with a reference."""
    return [name for name, op in OPS.items() if op.reference is not None]


def cases_of(op: str) -> list[Case]:
    return [case for case in CASES if case.op == op]


def fast(case: Case) -> Callable[..., Any]:
    return getattr(functional, case.op)


def naive(case: Case) -> Callable[..., Any]:
    return getattr(reference, case.op)


def is_floats(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f"


def float_positions(arrays: tuple[Any, ...]) -> list[int]:
    return [i for i, array in enumerate(arrays) if is_floats(array)]


class Run(NamedTuple):
    outputs: tuple[np.ndarray, ...]  # the values first
    dy: np.ndarray
    gradients: tuple[np.ndarray | None, ...]  # empty for a case without any
    written: tuple[np.ndarray, ...]  # what the call left in the arguments that it updates
    pullback: Callable[[np.ndarray], tuple[np.ndarray | None, ...]]

    def everything(self) -> list[np.ndarray | None]:
        return [*self.outputs, *self.gradients, *self.written]


def run(case: Case, function: Callable[..., Any], arrays: tuple[Any, ...], dy: np.ndarray | None = None) -> Run:
    """One call and one pullback, with dy of small integers unless it is given."""
    arrays = case.copies(arrays)
    output, pullback = vjp(function, *arrays, **case.keywords())
    outputs = tuple(np.asarray(part) for part in (output if isinstance(output, tuple) else (output,)))
    if dy is None:
        dy = small_integers(outputs[0])
    gradients = pullback(dy) if case.gradients else ()
    return Run(outputs, dy, gradients, tuple(arrays[i] for i in case.written), pullback)


def small_integers(like: np.ndarray, seed: int = 99) -> np.ndarray:
    """-4..4 in the shape and type of `like`."""
    return np.random.default_rng(seed).integers(-4, 5, like.shape).astype(like.dtype)


def assert_same(case: Case, actual: Run, expected: Run) -> None:
    """Bit for bit for exact cases, within tests/tolerance.py for the others."""
    assert len(actual.everything()) == len(expected.everything())
    for a, b in zip(actual.everything(), expected.everything(), strict=True):
        if b is None or a is None:
            assert a is None and b is None
        elif case.exact or b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b, strict=True)
        else:
            assert_close(a, b, tolerance(case.op, b.dtype))


def assert_close(actual: np.ndarray, expected: np.ndarray, relative: float, what: str = "result") -> None:
    """No further apart than `relative` of the largest value (1 at least); nan and infinities in the same places."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    scale = max(1.0, float(np.abs(expected[finite]).max(initial=0)))
    difference = float(np.abs(actual[finite] - expected[finite]).max(initial=0))
    assert difference <= relative * scale, f"{what} differs by {difference:g}, allowed {relative:g} of {scale:g}"


# --- awkward arrays: the same values in memory that is hard to read --------------------------------------------------


def _gaps(array: np.ndarray) -> np.ndarray:
    if array.ndim == 0:
        return array.copy()
    wide = np.full([2 * n + 1 for n in array.shape], 77, array.dtype)
    view = wide[tuple(slice(1, 2 * n, 2) for n in array.shape)]
    view[...] = array
    return view


def _negative_strides(array: np.ndarray) -> np.ndarray:
    everywhere = (slice(None, None, -1),) * array.ndim
    return array[everywhere].copy(order="C")[everywhere] if array.ndim else array.copy()


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def _unaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) if array.ndim > 1 else array.copy()


AWKWARD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gaps": _gaps,
    "negative_strides": _negative_strides,
    "fortran": lambda array: array.copy(order="F"),
    "channels_last": _channels_last,
    "read_only": _read_only,
    "byte_swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "unaligned": _unaligned,
}
