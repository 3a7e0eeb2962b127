"""The steps of an operation and of its gradients, one element of the result at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from fastconv.analysis.walkthrough.numbers import index, matrix, shown
from fastconv.analysis.walkthrough.reading import INSERTED, PADDING, Reading, outer
from fastconv.errors import position

__all__ = ["Step", "Walkthrough"]

Shape = tuple[int, ...]
Share = Callable[[int, int, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]], np.ndarray]

MOST_TERMS = 12  # of a sum that is written out
MOST_LINES = 40  # of a walkthrough that is printed
MOST_COLUMNS = 16  # of a result that is printed as a matrix
MOST_MAPS = 4


@dataclass(frozen=True)
class Step:
    """One step; prints as a line.

    at         the index of the element that is computed; of one that is scattered, its index in the gradient
    window     what is read, (channels, *kernel) of a convolution, (*kernel) of what takes every channel by itself:
               zeros stand where padding or inserted zeros lie (a maximum's padding: -inf); scattering: what the
               element is multiplied by, without what falls into the padding
    products   what is added up: their sum, and the bias, is `value`; of a maximum the winner and zeros, of a p-norm
               |x|^p, of a function the window
    value      the element's number; of one that is scattered, the gradient there
    target     where the numbers go in the result: `result[target] = value`; of one that is scattered,
               `numpy.add.at(result, target, products)`
    place      of a maximum its place in the window, 1, 2, … row by row, as the chapter counts; else None
    text       the line
    """

    at: Shape
    window: np.ndarray
    products: np.ndarray
    value: float
    target: tuple[Any, ...]
    place: int | None
    text: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


@dataclass(frozen=True)
class Names:
    made: str  # the result: "y", "dx", "dw"
    read: str  # what lies under the window
    factor: str  # what it is multiplied by; "" for nothing that has a name


@dataclass(frozen=True)
class Maxima:
    """What a max-pool's outputs are the maxima of."""

    windows: Reading  # x under the windows
    winners: np.ndarray  # of every output the flat position in its plane
    kernel: Shape | None  # None: each window as large as it is, of an adaptive pool

    def winner(self, at: Shape) -> int:
        """Where in the block under the window of output `at` its maximum stands; -1: nowhere, all of it is padding."""
        wanted = int(self.winners[at])
        if wanted < 0:
            return -1
        indices = self.windows.indices(self.windows.block(at)[0])
        spot = unravelled(wanted, self.windows.array.shape[2:])
        where = [int(np.flatnonzero(here == i)[0]) for here, i in zip(indices, spot, strict=True)]
        return int(np.ravel_multi_index(where, tuple(map(len, indices))))

    def place(self, at: Shape) -> int | None:
        """1, 2, … in the whole window; None where all of it is padding."""
        winner, (_, taps) = self.winner(at), self.windows.block(at)
        if winner < 0:
            return None
        where = unravelled(winner, tuple(map(len, taps)))
        whole = tuple(int(each[here]) for each, here in zip(taps, where, strict=True))
        return int(np.ravel_multi_index(whole, self.kernel or tuple(map(len, taps)))) + 1

    def text(self, at: Shape) -> str:
        """ "max(pad, 3, pad, 1) = 3, place 2"."""
        places, taps = self.windows.block(at)
        indices, values = self.windows.indices(places), self.windows.values(at)[0]
        window = np.full(self.kernel or values.shape, "pad", object)
        for spot in np.argwhere(math.prod(outer([each >= 0 for each in indices]))):
            window[tuple(each[k] for each, k in zip(taps, spot, strict=True))] = shown(values[tuple(spot)])
        winner, place = self.winner(at), self.place(at)
        value = values.reshape(-1)[winner] if winner >= 0 else -math.inf
        return f"max({_listed(window, str, ', ')}) = {shown(value)}" + (f", place {place}" if place else "")


class Walkthrough(Sequence[Step]):
    """What `fastconv.analysis.walkthrough` returns: a sequence of `Step`.

    function    the operation's name;  direction   "forward", "dx" or "dw"
    manner      "collect": every step is an element of the result, and reads; "scatter": every step is an element of
                the gradient, and is added to the result at several places
    result      what the function or its pullback gives
    bias        of a convolution, (K,) or None: a step has added it; scattering adds it at the end
    scattered   the same result by scattering, where it is a gradient to an input or a transposed convolution; else None
    head, said  the call, and what is done at every step, in a line each
    """

    def __init__(
        self,
        function: str,
        direction: str,
        manner: str,
        kind: str,
        names: Names,
        reading: Reading,
        result: np.ndarray,
        *,
        head: str,
        said: str,
        bias: np.ndarray | None = None,
        spread: np.ndarray | None = None,
        share: Share | None = None,
        maxima: Maxima | None = None,
        order: float = 1.0,
        scattered: Walkthrough | None = None,
    ) -> None:
        self.function, self.direction, self.manner, self._kind = function, direction, manner, kind
        self._names, self._reading, self.result, self.scattered = names, reading, result, scattered
        self.head, self.said = head, said
        self.bias, self._spread, self._share = bias, spread, share
        self._maxima, self._order = maxima, order
        self._by_itself = reading.filters is None  # every channel, not a sum over channels

    # --- a sequence

    @property
    def shape(self) -> Shape:
        """A step for each index of an array of this shape, in C order."""
        return self._reading.shape

    def __len__(self) -> int:
        return math.prod(self.shape)

    @overload
    def __getitem__(self, key: int) -> Step: ...
    @overload
    def __getitem__(self, key: slice) -> list[Step]: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self._step(i) for i in range(*key.indices(len(self)))]
        return self._step(position("walkthrough", "step", key, len(self)))

    def __iter__(self) -> Iterator[Step]:
        return map(self._step, range(len(self)))

    def _at(self, number: int) -> Shape:
        return unravelled(number, self.shape)

    def _step(self, number: int) -> Step:
        at = self._at(number)
        return self._scatter(at) if self.manner == "scatter" else self._collect(at)

    # --- one step

    def _factors(self, at: Shape) -> np.ndarray | None:
        """(channels, *places): what is read is multiplied by them; of what is scattered, the gradient; None: by 1."""
        factors = self._reading.factors(at)
        if factors is not None or self._share is None:
            return factors
        places, taps = self._reading.block(at)
        indices = self._reading.indices(places)
        met = outer([np.maximum(each, 0) for each in indices])
        here = tuple(np.array(o) for o in at[2:])
        o, i = (here, met) if self.manner == "scatter" else (met, here)
        shares = np.broadcast_to(self._share(at[0], at[1], o, i, outer(taps)), tuple(map(len, indices)))
        for each in outer([each >= 0 for each in indices]):
            shares = np.where(each, shares, 0.0)
        return shares[np.newaxis].astype(np.float64)

    @property
    def _factors_vary(self) -> bool:
        """Whether every step has factors of its own."""
        return self._by_itself and (
            self._share is not None or any(axis.weights is not None for axis in self._reading.axes)
        )

    def _divisor(self, at: Shape) -> float:
        """Of a mean."""
        factors = self._reading.factors(at)
        return 1 / float(factors.reshape(-1)[0]) if factors is not None and factors.size else 1.0

    def _about(self, at: Shape) -> tuple[list[Shape], Shape | None]:
        """Of a step of a max-pool: the outputs whose windows it is about, and the element of x that is their maximum,
        both in their plane."""
        maxima = self._maxima
        assert maxima is not None
        if self._reading is maxima.windows:
            found = int(maxima.winners[at])
            return [at[2:]], None if found < 0 else unravelled(found, maxima.windows.array.shape[2:])
        factors, indices = self._factors(at), self._reading.indices(self._reading.block(at)[0])
        assert factors is not None
        won = [tuple(int(each[k]) for each, k in zip(indices, spot, strict=True)) for spot in np.argwhere(factors[0])]
        return won, at[2:]

    def _collect(self, at: Shape) -> Step:
        values = self._reading.values(at)
        place, bias = None, None if self.bias is None else float(self.bias[at[1]])
        label = index(self._names.made, at)
        if self._kind == "max":
            assert self._maxima is not None
            winner, place = self._maxima.winner(at), self._maxima.place(at)
            products = np.zeros_like(values)
            value = -math.inf
            if winner >= 0:
                value = float(values.reshape(-1)[winner])
                products.reshape(-1)[winner] = value
            text = f"{label} = {self._maxima.text(at)}"
        elif self._kind == "norm":
            products = np.abs(values) ** self._order
            value = float(products.sum()) ** (1 / self._order)
            terms = _listed(values, lambda v: f"|{shown(v)}|^{shown(self._order)}", " + ")
            text = f"{label} = ({terms})^(1/{shown(self._order)}) = {shown(value)}"
        elif self._kind == "function":
            products, value = values, float(self.result[at])
            text = f"{label} = f({_listed(values, shown, ', ')}) = {shown(value)}"
        else:
            factors = self._factors(at)
            products = values if factors is None else values * factors
            value = float(products.sum()) + (bias or 0.0)
            terms, total = self._sum(at, values, factors, bias), shown(value, self._noise(products))
            text = f"{label} = {terms} = {total}" if terms not in ("", total) else f"{label} = {total}"
            if self._kind == "shares of a maximum":
                text += self._why(at)
            if self._kind == "copy" and (outside := self._outside(at)):
                text += f", {outside}"
        drop = 0 if self._by_itself else slice(None)
        return Step(at, values[drop], products[drop], value, at, place, text)

    def _why(self, at: Shape) -> str:
        """Which windows x has won there."""
        assert self._maxima is not None
        won = [index("", each) for each in self._about(at)[0]]
        windows = f"window{'s' * (len(won) > 1)} {_listed(np.array(won), str, ', ')}" if won else "no window"
        return f", where x is {shown(self._maxima.windows.array[at])}, the maximum of {windows}"

    def _outside(self, at: Shape) -> str:
        """What is read, or added to, that is no element."""
        indices = self._reading.indices(self._reading.block(at)[0])
        for what, said in ((PADDING, "padding"), (INSERTED, "inserted")):
            if any((each == what).any() for each in indices):
                return said
        return ""

    def _noise(self, products: np.ndarray) -> float:
        """What a sum of these may err by: its value is shown as 0 below it."""
        eps = max(np.finfo(a.dtype).eps for a in (self.result, self._reading.array) if a.dtype.kind == "f")
        finite = products[np.isfinite(products)]
        return float(16 * eps * np.abs(finite).sum())

    def _sum(self, at: Shape, values: np.ndarray, factors: np.ndarray | None, bias: float | None) -> str:
        if self._kind == "shares of a maximum":
            return _sum_of(values[factors != 0])
        if self._kind == "mean":
            return f"({_sum_of(values)}) / {shown(self._divisor(at))}"
        terms = _sum_of(values, factors) or "0"
        return terms if bias is None else f"{terms} + {_signed(bias)} (bias)"

    def _scatter(self, at: Shape) -> Step:
        assert self._spread is not None
        value = float(self._spread[at])
        places, _ = self._reading.block(at)
        indices = self._reading.indices(places)
        p, q = self._reading.channels(*at[:2])
        factors = self._factors(at)
        block = np.ones((len(p), *map(len, indices))) if factors is None else factors
        inside = [np.flatnonzero(each >= 0) for each in indices]
        block = block[np.ix_(np.arange(len(p)), *inside)] if inside else block
        there = [each[chosen] for each, chosen in zip(indices, inside, strict=True)]
        target: tuple[Any, ...]
        if self._by_itself:
            block, target = block[0], (int(p[0]), int(q[0]), *outer(there))
        else:
            axes = len(there)
            lead = [each.reshape(-1, *(1,) * axes) for each in (p, q)]
            target = (*lead, *outer(there))
        products = value * block
        place = None if self._maxima is None else self._maxima.place(at)
        text = self._scatter_text(at, value, products, block, there, p, q)
        return Step(at, block, products, value, target, place, text)

    def _scatter_text(
        self, at: Shape, value: float, products: np.ndarray, block: np.ndarray, there: list[np.ndarray],
        p: np.ndarray, q: np.ndarray,
    ) -> str:  # fmt: skip
        given = f"{index(self._names.read, at)} = {shown(value)} goes"
        if not products.size:
            return f"{given} nowhere: {self._outside(at)}"
        made = self._names.made
        if self._by_itself:
            channel = f"{int(p[0])}, {int(q[0])}"
        else:
            channel = f"{int(p[0])}, {int(q[0])}" + (f":{int(q[-1]) + 1}" if len(q) > 1 else "")
        whole = f"{made}[{channel}, {', '.join(map(_span, there))}]"
        if self._maxima is not None:
            chosen = np.argwhere(block == 1)
            if not len(chosen):
                return f"{given} nowhere, all of its window is padding"
            spot = [int(each[k]) for each, k in zip(there, chosen[0], strict=True)]
            to = index(made, (int(p[0]), int(q[0]), *spot))
            return f"{given} to {to}, where the maximum stood: {self._maxima.text(at)}"
        if not self._names.factor:
            return f"{given} to {whole}"
        if self._kind == "shares" and block.min() == block.max():
            return f"{given} to {whole}, shared: {shown(float(products.reshape(-1)[0]))} to each"
        return f"{given} to {whole}, times the {self._names.factor}: {_listed(products, shown, ', ')}"

    # --- as text

    def __str__(self) -> str:
        lines = [self.head, self.said, ""]
        lines += self._lines()
        lines += self._matrices()
        if self.scattered is not None:
            lines += ["", f"The same by scattering. {self.scattered.said}", "", *self.scattered._lines()]
        return "\n".join(lines)

    __repr__ = __str__

    def _lines(self) -> list[str]:
        width = len(str(len(self)))
        count = len(self)
        chosen = list(range(count)) if count <= MOST_LINES else [*range(MOST_LINES - 2), count - 1]
        lines = [f"{i + 1:>{width}}  {self._step(i).text}" for i in chosen]
        if count > MOST_LINES:
            lines.insert(-1, f"{'…':>{width}}  {count - MOST_LINES + 1} more steps; print(walk[i]) shows one")
        return lines

    def _matrices(self) -> list[str]:
        """The result, where it is small."""
        shape = self.result.shape
        if shape[-1] > MOST_COLUMNS or math.prod(shape[:-2]) > MOST_MAPS or not self.result.size:
            return []
        lines: list[str] = []
        for lead in np.ndindex(*shape[:-2]):
            lines += ["", f"{index(self._names.made, lead)[:-1]}, :, :] =" if len(shape) > 3 else
                      f"{self._names.made}[{lead[0]}, :, :] ="]  # fmt: skip
            noise = self._noise(np.asarray(self.result, np.float64)) / 16
            lines += [f"  {line}" for line in matrix(self.result[lead], noise)]
        return lines

    # --- as pictures

    def html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The page as text: one document with its pictures and its script, which asks for nothing from anywhere.
        Written to `path` where it is given, whole or not at all.

        A slider, buttons and the arrow keys (Home, End, space) step forward and back. Raises ValueError where there is
        more to draw than a page bears, OSError.
        """
        from fastconv.analysis.walkthrough.page import page
        from fastconv.files import replace_text

        text = page(self)
        if path is not None:
            replace_text(path, text)
        return text

    def plot(self, path: str | os.PathLike[str] | None = None, steps: Sequence[int] | None = None) -> Any:
        """A matplotlib figure of some steps, one below the other, written to `path` if it is given (.png, .svg or
        .pdf); `steps` are their numbers from 0 (default: six, from the first to the last).

        Raises ImportError without matplotlib (extra [plot]), IndexError for a step that is not there, TypeError for
        steps that are no numbers in a list, ValueError where there is more to draw than a picture bears, OSError.
        """
        from fastconv.analysis.walkthrough.picture import strip
        from fastconv.plots import saved

        return saved(strip(self, steps), path)

    def animate(
        self, path: str | os.PathLike[str], steps: Sequence[int] | None = None, *, seconds: float = 0.8
    ) -> None:  # fmt: skip
        """An animation, a .gif file that begins again at its end; `steps` are their numbers from 0 (default: all, of
        more than 300 as many, evenly spaced), `seconds` the time of each.

        Raises ImportError without Pillow or matplotlib (extra [plot]), IndexError for a step that is not there,
        TypeError for steps that are no numbers in a list, ValueError for another suffix, for no steps, for a time that
        is not positive and where there is more to draw than a picture bears, OSError.
        """
        from fastconv.analysis.walkthrough.picture import animation

        animation(self, path, steps, seconds)

    def _repr_html_(self) -> str:
        from fastconv.analysis.walkthrough.page import frame

        return frame(self)


def unravelled(flat: int, shape: Shape) -> Shape:
    return tuple(map(int, np.unravel_index(flat, shape)))


def _signed(value: float) -> str:
    """Behind a sign: in parentheses where it has one of its own."""
    return shown(value) if not value < 0 else f"({shown(value)})"


def _sum_of(values: np.ndarray, factors: np.ndarray | None = None) -> str:
    """ "a + b", or "a·f + b·g"."""
    terms = np.stack([values, values if factors is None else np.broadcast_to(factors, values.shape)], -1).reshape(-1, 2)

    def written(number: int) -> str:
        value, factor = terms[number]
        return (_signed if number else shown)(value) + ("" if factors is None else f"·{_signed(factor)}")

    return _listed(np.arange(len(terms)), written, " + ")


def _listed(values: np.ndarray, written: Callable[[Any], str], between: str) -> str:
    """All of them, or the first and last of many."""
    flat = values.reshape(-1)
    if flat.size <= MOST_TERMS:
        return between.join(map(written, flat))
    return between.join([*map(written, flat[: MOST_TERMS - 2]), f"… ({flat.size} in all) …", written(flat[-1])])


def _span(positions: np.ndarray) -> str:
    """Of an axis: "2", "1:3", "0:5:2", or the positions."""
    if len(positions) == 1:
        return str(int(positions[0]))
    steps = np.diff(positions)
    if (steps == steps[0]).all() and steps[0] > 0:
        step = "" if steps[0] == 1 else f":{int(steps[0])}"
        return f"{int(positions[0])}:{int(positions[-1]) + 1}{step}"
    return "(" + " ".join(str(int(i)) for i in positions) + ")"
