"""The chapter's own words on plain matrices, for reading along: thin faces over `fastconv.functional`.

    Conv(X, W, S)           convolution of X by a filter or a bank of filters, with stride S (an integer or a fraction)
    Pool(X, L, S, kind)     L x L pooling with stride S: "max", "mean", "norm" (`p=`), or a function of the window
    places(X, L, S)         where in its window each maximum stands, 1 … L * L
    dSample(X, S)           downsampling: the first of every S rows and columns
    uSample(X, S)           upsampling: S - 1 zeros between neighbouring rows and columns
    flatten(X)              all maps as one vector

X is a matrix (N, M), or C maps (C, N, M), as the chapter writes its C x N x M; lists of numbers will do. Results are
float64 unless X is float32. There is no batch axis: that, and everything that is fast, is in `fastconv.functional`.

Where the chapter counts from 1, these functions do, too: `places` and `at`. Rows come first everywhere, as in its
formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv import functional
from fastconv.analysis.geometry import window_indices
from fastconv.arrays import as_array, as_floats
from fastconv.errors import ShapeError, nearest

__all__ = ["Conv", "Pool", "at", "dSample", "flatten", "places", "uSample"]

Array = np.ndarray
Step = int | Fraction | tuple[int | Fraction, int | Fraction]

KINDS = ("max", "mean", "norm")


def Conv(X: ArrayLike, W: ArrayLike, S: Step = 1, b: ArrayLike | None = None, *, padding: Any = 0) -> Array:
    """The convolution of X by W with stride S: z = sum of the window's elements times the filter's, plus b.

    X        (N, M), or (C, N, M)
    W        (L, L') for one filter over a matrix; (C, L, L') for one filter over C maps; (K, C, L, L') for K filters
    S        an integer, a `Fraction`, or a pair (rows, columns). S2/S1 is upsampling by S1, convolution, and
             downsampling by S2: `dSample(Conv(uSample(X, S1), W, padding=padding), S2)`
    b        a number for each filter (default: none)
    padding  zeros around X, with a fraction around the upsampled X: int, (rows, columns), or ((above, below), (left,
             right)); "same", "valid"

    Returns a matrix for one filter, (K, N', M') for K of them. The filter is not reversed. Raises ShapeError,
    TypeError.

    >>> X = [[1, 2, 0, 1], [0, 1, 1, 0], [2, 0, 1, 3]]
    >>> Conv(X, [[1, 0], [0, 1]])
    array([[2., 3., 0.],
           [0., 2., 4.]])
    >>> Conv(X, [[1, 0], [0, 1]], 2)
    array([[2., 0.]])

    A stride of 1/2 puts a zero between neighbours first:

    >>> Conv([[1, 2], [3, 4]], [[1, 1], [1, 1]], Fraction(1, 2))
    array([[1., 2.],
           [3., 4.]])
    """
    x, w, bias = _floats("Conv", X=X, W=W, b=b)
    maps, one = _maps("Conv", x)
    if w.ndim not in (2, 3, 4):
        raise ShapeError(f"Conv: W must be (L, L'), (C, L, L') or (K, C, L, L'), got shape {w.shape}")
    if w.ndim == 2 and not one:
        raise ShapeError(f"Conv: W must be (C, L, L') for X of {maps.shape[1]} maps, got shape {w.shape}")
    filters = w.reshape((1,) * (4 - w.ndim) + w.shape)
    if filters.shape[1] != maps.shape[1]:
        raise ShapeError(
            f"Conv: W must have as many maps as X, got W {w.shape} with {filters.shape[1]} and X {x.shape} with "
            f"{maps.shape[1]}"
        )
    if isinstance(S, str):
        raise TypeError(f"Conv: S must be an integer, a Fraction or a pair of them, got {S!r}; 1/2 is Fraction(1, 2)")
    bias = None if bias is None else np.atleast_1d(bias)
    return _plain(functional.conv2d(maps, filters, bias, stride=S, padding=padding), w.ndim < 4)


def Pool(
    X: ArrayLike, L: int | tuple[int, int], S: Any = None, kind: str | Callable[..., Any] = "max", *, p: float = 2
) -> Array:  # fmt: skip
    """L x L pooling of X with stride S.

    X     (N, M), or (C, N, M): each map by itself
    L     the window's side, or (rows, columns)
    S     an integer or (rows, columns); default: L, windows side by side
    kind  "max", "mean", "norm" (the p-norm), or a function of windows (…, L * L) -> (…)
    p     of the norm (default 2)

    Returns what X is, a matrix or maps. Raises ShapeError, TypeError, ValueError for another kind.

    >>> X = [[1, 2, 0], [4, 3, 1], [0, 1, 2]]
    >>> Pool(X, 2, 1, "max")
    array([[4., 3.],
           [4., 3.]])
    >>> Pool(X, 2, 1, "mean")
    array([[2.5 , 1.5 ],
           [2.  , 1.75]])
    >>> Pool([[3, 4], [0, 0]], 2, kind="norm")
    array([[5.]])
    >>> Pool(X, 2, 1, lambda windows: windows.min(axis=-1))
    array([[1., 0.],
           [0., 1.]])
    """
    maps, one = _maps("Pool", *_floats("Pool", X=X))
    if callable(kind):
        return _plain(functional.function_pool2d(maps, kind, L, stride=S), one)
    if kind not in KINDS:
        raise ValueError(
            f"Pool: kind must be {', '.join(KINDS)} or a function of windows (…, L * L) -> (…), got {kind!r}"
            f"{nearest(kind, KINDS)}"
        )
    if kind == "norm":
        return _plain(functional.lp_pool2d(maps, p, L, stride=S), one)
    pool = functional.max_pool2d if kind == "max" else functional.avg_pool2d
    return _plain(pool(maps, L, stride=S), one)


def places(X: ArrayLike, L: int | tuple[int, int], S: Any = None) -> Array:
    """Where in its window each maximum of `Pool(X, L, S, "max")` stands: 1 … L * L, row by row; of ties the first.

    The gradient of max-pooling goes to these places. Of X's shapes and errors as `Pool`; int64.

    >>> places([[1, 2, 0], [4, 3, 1], [0, 1, 2]], 2, 1)
    array([[3, 3],
           [1, 1]])
    """
    maps, one = _maps("places", *_floats("places", X=X))
    return _plain(window_indices(maps, L, stride=S), one)


def dSample(X: ArrayLike, S: int | tuple[int, int]) -> Array:
    """Downsampling by S: the first of every S rows and columns.

    X (N, M) or (C, N, M); S an integer or (rows, columns). The gradient goes back by `uSample`, and 0 to what was left
    out.

    >>> dSample([[1, 2, 3], [4, 5, 6], [7, 8, 9]], 2)
    array([[1., 3.],
           [7., 9.]])
    """
    maps, one = _maps("dSample", *_floats("dSample", X=X))
    return _plain(functional.downsample(maps, S), one)


def uSample(X: ArrayLike, S: int | tuple[int, int], *, trailing: bool = False) -> Array:
    """Upsampling by S: S - 1 zeros between neighbouring rows and columns.

    X         (N, M) or (C, N, M)
    S         an integer or (rows, columns)
    trailing  zeros after the last row and column, too: the chapter writes them "after every" row and column, its tables
              of back-propagation have none at the end, and the default has none (False)

    Returns ((N - 1) * S + 1, …), with trailing zeros (N * S, …). `dSample` undoes both.

    >>> uSample([[1, 2], [3, 4]], 2)
    array([[1., 0., 2.],
           [0., 0., 0.],
           [3., 0., 4.]])
    >>> uSample([[1, 2], [3, 4]], 2, trailing=True)
    array([[1., 0., 2., 0.],
           [0., 0., 0., 0.],
           [3., 0., 4., 0.],
           [0., 0., 0., 0.]])
    """
    maps, one = _maps("uSample", *_floats("uSample", X=X))
    wide = functional.upsample(maps, S)
    if trailing:
        steps = S if isinstance(S, tuple) else (S, S)
        size = tuple(n * int(step) for n, step in zip(maps.shape[2:], steps, strict=True))
        wide = functional.upsample(maps, S, output_size=size)
    return _plain(wide, one)


def flatten(X: ArrayLike) -> Array:
    """All elements of X (N, M) or (C, N, M) as one vector: map after map, row after row.

    >>> flatten([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    array([1., 2., 3., 4., 5., 6., 7., 8.])
    """
    maps, _ = _maps("flatten", *_floats("flatten", X=X))
    return np.array(functional.flatten(maps)[0])


def at(X: ArrayLike, *place: int) -> Any:
    """The element of X at a place counted from 1, as the chapter writes it: (row, column), or (map, row, column).

    Raises ShapeError for a place outside X, 0 and negative numbers included.

    >>> at([[1, 2, 3], [4, 5, 6]], 2, 1)
    4
    """
    array = as_array("at", "X", X)
    if not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in place):
        raise TypeError(f"at: the place must be integers, got {place}")
    if len(place) != array.ndim or not all(1 <= i <= n for i, n in zip(place, array.shape, strict=False)):
        raise ShapeError(f"at: the place must be one of 1 … n along each axis of {array.shape}, got {place}")
    return array[tuple(i - 1 for i in place)].item()


def _floats(op: str, **arrays: Any) -> list[Any]:
    """As floats: float64 for lists and integers, in which the chapter's numbers come out as it prints them."""
    for name, array in arrays.items():
        if array is None and name != "b":
            raise TypeError(f"{op}: {name} must be an array of numbers, got None")
    given = {name: None if value is None else as_array(op, name, value) for name, value in arrays.items()}
    for name, array in given.items():
        if array is not None and array.dtype.kind in "biu":
            given[name] = array.astype(np.float64)
    single = [array for array in given.values() if array is not None and array.dtype == np.float32]
    if single:  # X and W of one type: lists follow
        given = {
            name: array if array is None or hasattr(arrays[name], "dtype") else array.astype(np.float32)
            for name, array in given.items()
        }
    return as_floats(op, **given)


def _maps(op: str, x: Array) -> tuple[Array, bool]:
    """x as a batch of one, (1, C, N, M), and whether it is a matrix."""
    if x.ndim not in (2, 3):
        raise ShapeError(f"{op}: X must be a matrix (N, M) or maps (C, N, M), got shape {x.shape}")
    return x.reshape((1,) * (4 - x.ndim) + x.shape), x.ndim == 2


def _plain(y: Array, one: bool) -> Array:
    """(1, K, N, M) as maps, or as the one matrix that it is; in C order."""
    return np.ascontiguousarray(y[0, 0] if one else y[0])


_word: Callable[..., Any]
for _word, _operation in (
    (Conv, "conv2d"), (Pool, "max_pool2d, avg_pool2d, lp_pool2d or function_pool2d"), (dSample, "downsample"),
    (uSample, "upsample"), (flatten, "flatten"),
):  # fmt: skip
    setattr(_word, "stands_for", _operation)  # noqa: B010  what has gradients: `vjp` says so
