"""A small tape: values that note how they were made, so that what is composed of operations has a gradient.

    Value         an array inside of a loss; the operations that it goes through are recorded
    passes        forward and backward of a composed function, as an operation has them
    Recording     while it is on, calls of nets are recorded, too, and their parameters are values

Operators and NumPy's functions reach a value by NumPy's own protocols (`__array_ufunc__`, `__array_function__`);
fastconv.functional's and nets hand theirs over with `call` and `record`. Nothing is kept but by the values themselves.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from fastconv.errors import nearest

__all__ = [
    "Recording", "Value", "call", "detached", "gradients", "holds", "need_value", "passes", "record", "recording",
]  # fmt: skip

Pullback = Callable[[Any, tuple[bool, ...]], Iterable["np.ndarray | None"]]
Key = tuple[int, int]

_numbers = itertools.count()


class _Node:
    """A call: what it read, and how a gradient goes back through it. A leaf has read nothing."""

    __slots__ = ("count", "fresh", "inputs", "number", "pullback")

    def __init__(self, inputs: Sequence[Value] = (), pullback: Pullback | None = None, fresh: bool = False) -> None:
        self.number = next(_numbers)
        self.inputs = inputs
        self.pullback = pullback
        self.fresh = fresh  # whether its gradients are arrays of their own
        self.count: int | None = None  # of outputs, where the pullback takes a list of their gradients


class Value(NDArrayOperatorsMixin):
    """An array inside of a loss: + - * / ** @, comparisons, indexing, NumPy's functions and methods and
    fastconv.functional's give values again. It never changes: `x += y` makes another."""

    __slots__ = ("_array", "_node", "_place")

    def __init__(self, array: Any, node: _Node | None = None, place: int = 0) -> None:
        self._array: np.ndarray = np.asarray(array)
        self._node = _Node() if node is None else node
        self._place = place

    @property
    def _key(self) -> Key:
        return self._node.number, self._place

    # --- what an array has

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def size(self) -> int:
        return self._array.size

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def T(self) -> Any:
        return self.transpose()

    def detach(self) -> np.ndarray:
        """The array alone: a constant, through which no gradient goes."""
        return self._array.copy()

    def item(self) -> Any:
        """Its only number, a constant."""
        return self._array.item()

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        """Of another float type; of any other type an array, a constant."""
        array = self._array.astype(dtype)
        return record(array, [self], lambda dy, needs: (dy,)) if array.dtype.kind == "f" else array

    def copy(self) -> Any:
        return self.astype(self.dtype)

    def reshape(self, *shape: Any, order: str = "C") -> Any:
        if order != "C":
            raise TypeError(f"ndarray.reshape: on the tape order is 'C', got {order!r}; write x.T.reshape(…).T")
        array = self._array.reshape(*shape)
        return record(array, [self], lambda dy, needs: (dy.reshape(self.shape),))

    def transpose(self, *axes: Any) -> Any:
        return _move(np.transpose, self, axes[0] if len(axes) == 1 else axes or None)

    def flatten(self, order: str = "C") -> Any:
        return self.reshape(-1, order=order)

    def __getitem__(self, index: Any) -> Any:
        if holds(index):
            raise TypeError("a value on the tape cannot be an index; take its array, x.detach()")
        each = index if isinstance(index, tuple) else (index,)
        if not all(i is None or i is Ellipsis or isinstance(i, int | np.integer | slice) for i in each):
            return _gathered("an index", lambda array: array[index], self)

        def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> tuple[np.ndarray]:
            dx = np.zeros_like(self._array)
            dx[index] = dy
            return (dx,)

        return record(self._array[index], [self], pullback)

    def __pow__(self, exponent: Any) -> Any:
        squared = type(exponent) in (int, float) and exponent == 2
        return np.square(self) if squared else np.power(self, exponent)

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Value]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._array)

    def __repr__(self) -> str:
        return f"Value({np.array2string(self._array, prefix='Value(')})"

    def __format__(self, form: str) -> str:
        return format(self._array if self.ndim else self._array[()], form)

    # --- what it has not

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError(
            "a value on the tape is no array: made one, its gradient would be lost; go on with NumPy's and "
            "fastconv.functional's functions, or take x.detach(), a constant"
        )

    def _number(self) -> NoReturn:
        raise TypeError(
            "a value on the tape is no number: made one, its gradient would be lost; write numpy's function for "
            "math's, or take x.item(), a constant"
        )

    __float__ = __int__ = __complex__ = __index__ = __round__ = _number

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("x[…] = …: a value on the tape is not changed in place; write numpy.where(condition, new, x)")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(np.ndarray, name):
            instead = (
                f"write numpy.{name}(x)" if hasattr(np, name) else "functions take it, fastconv.functional.relu(x)"
            )
            raise AttributeError(f"a value on the tape has no {name!r}{nearest(name, _METHODS)}; {instead}")
        _refuse(f"ndarray.{name}")

    # --- NumPy's protocols

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        name = f"{'numpy.' if hasattr(np, ufunc.__name__) else ''}{ufunc.__name__}"
        name = name if method == "__call__" else f"{name}.{method}"
        if "out" in options or method == "at":
            raise TypeError(
                f"{name} in place: a value on the tape is not written into arrays, which keep no gradient; write "
                "x = x + y for x += y, and numpy.stack for arrays that are filled"
            )
        if ufunc in _CONSTANT and method == "__call__":
            return ufunc(*map(detached, inputs), **options)
        rules = _RULES.get(ufunc)
        if rules is None or method != "__call__":
            _refuse(name)
        if options:
            raise TypeError(f"{name}: on the tape it takes no {', '.join(options)}; use numpy.where or astype")
        arrays = _followed(name, inputs)
        y = ufunc(*arrays)
        taped = [(each, rule) for each, rule in zip(inputs, rules, strict=True) if isinstance(each, Value)]

        def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> Iterator[np.ndarray | None]:
            return (rule(dy, y, *arrays) if need else None for (_, rule), need in zip(taped, needs, strict=True))

        return record(y, [each for each, _ in taped], pullback)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = f"{function.__module__}.{function.__name__}"
        if function in _CONSTANT:
            return function(*_all_detached(args), **_all_detached(kwargs))
        if function in _MOVES:
            return _move(function, *args, **kwargs)
        if function in _JOINS:
            return _joined(function, *args, **kwargs)
        ours = _FUNCTIONS.get(function)
        if ours is None:
            _refuse(name)
        signature = inspect.signature(ours)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}; on the tape it takes {', '.join(signature.parameters)}") from None
        return ours(*args, **kwargs)


def _refuse(name: str) -> NoReturn:
    raise TypeError(
        f"{name}: a loss has no gradient through it; write it with + - * / ** @, indexing, fastconv.functional or "
        "NumPy's exp, log, sqrt, abs, sum, mean, max, where, reshape, concatenate, …; or give it x.detach(), a constant"
    )


def _method(name: str) -> Callable[..., Any]:
    def method(self: Value, *args: Any, **kwargs: Any) -> Any:
        return getattr(np, name)(self, *args, **kwargs)

    method.__name__ = name
    return method


_METHODS = ("all", "any", "argmax", "argmin", "argsort", "clip", "cumsum", "diagonal", "dot", "max", "mean", "min",
            "prod", "ravel", "repeat", "squeeze", "std", "sum", "swapaxes", "take", "trace", "var")  # fmt: skip
for _name in _METHODS:
    setattr(Value, _name, _method(_name))
for _name in ("add", "sub", "mul", "truediv", "pow", "matmul"):  # x += y is x = x + y
    setattr(Value, f"__i{_name}__", getattr(Value, f"__{_name}__"))


# --- recording -------------------------------------------------------------------------------------------------------


def record(y: Any, inputs: Sequence[Value], pullback: Pullback, *, fresh: bool = False) -> Any:
    """The value y of a call that read `inputs`; of a tuple y a tuple of values.

    pullback(dy, needs) gives a gradient for each input (None: none), `needs` says which are asked for. Of a tuple y dy
    is a list, None where no gradient came. A gradient may have the broadcast shape, and any float type.
    """
    node = _Node(tuple(inputs), pullback, fresh)
    if not isinstance(y, tuple):
        return Value(y, node)
    node.count = len(y)
    return tuple(Value(each, node, place) for place, each in enumerate(y))


def call(name: str, forward: Any, backward: Any, arrays: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """A call of an operation, recorded: `forward(*arrays, **options) -> (output, saved)`."""
    given = next((key for key, each in options.items() if isinstance(each, Value)), None)
    if given is not None:
        raise TypeError(f"{name}: {given} is an option and has no gradient; give {given}=x.detach()")
    dtype = np.result_type(*(each.dtype for each in arrays if isinstance(each, Value)))
    output, saved = forward(*(_following(each, dtype) for each in arrays), **_each_following(options, dtype))
    places = [place for place, each in enumerate(arrays) if isinstance(each, Value)]

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> list[np.ndarray | None]:
        asked = [False] * len(arrays)
        for place, need in zip(places, needs, strict=True):
            asked[place] = need
        found = backward(dy, saved, tuple(asked))
        return [found[place] for place in places]

    inputs = [arrays[place] for place in places]
    if isinstance(output, tuple):  # the values, and indices beside them
        return (record(output[0], inputs, pullback), *output[1:])
    return record(output, inputs, pullback)


def _following(value: Any, dtype: np.dtype) -> Any:
    """A value's array; an array of floats beside it in its float type."""
    if isinstance(value, Value):
        return value._array
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
        return value.astype(dtype, copy=False)
    return value


def _each_following(options: Mapping[str, Any], dtype: np.dtype) -> dict[str, Any]:
    return {name: _following(value, dtype) for name, value in options.items()}


def _followed(name: str, inputs: Sequence[Any]) -> list[Any]:
    """The arrays of values; constants beside them in their float type, Python's numbers as they are."""
    dtype = np.result_type(*(each.dtype for each in inputs if isinstance(each, Value)))
    arrays: list[Any] = []
    for each in inputs:
        if isinstance(each, Value):
            arrays.append(each._array)
        elif isinstance(each, bool | int | float) and not isinstance(each, np.generic):
            arrays.append(each)
        else:
            array = np.asarray(each)
            if array.dtype.kind not in "biuf":
                raise TypeError(f"{name}: beside a value on the tape there must be real numbers, got {array.dtype}")
            arrays.append(array.astype(dtype, copy=False))
    return arrays


def detached(value: Any) -> Any:
    """A value's array; anything else as it is."""
    return value._array if isinstance(value, Value) else value


def _all_detached(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(_all_detached, value))
    if isinstance(value, dict):
        return {name: _all_detached(each) for name, each in value.items()}
    return detached(value)


def holds(value: Any) -> bool:
    """Whether it, or anything in a tuple, list or dict, is on the tape."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return isinstance(value, Value) or (isinstance(value, tuple | list) and any(map(holds, value)))


# --- backward --------------------------------------------------------------------------------------------------------


def gradients(output: Value, dy: np.ndarray, leaves: Sequence[Value]) -> list[np.ndarray]:
    """The gradient of sum(output * dy) to each leaf: new arrays, zeros where the output does not depend on it."""
    nodes = {output._node.number: output._node}
    todo = [output._node]
    while todo:
        for value in todo.pop().inputs:
            if value._node.number not in nodes:
                nodes[value._node.number] = value._node
                todo.append(value._node)
    calls = [nodes[number] for number in sorted(nodes) if nodes[number].inputs]
    needed: set[Key] = {leaf._key for leaf in leaves}
    for node in calls:
        if any(value._key in needed for value in node.inputs):
            needed.update((node.number, place) for place in range(node.count or 1))
    sent: dict[Key, np.ndarray] = {}
    if output._key in needed:
        sent[output._key] = _fitting(dy, output, copy=True)
    with np.errstate(all="ignore"):
        for node in reversed(calls):
            here = [sent.pop((node.number, place), None) for place in range(node.count or 1)]
            if all(each is None for each in here):
                continue
            assert node.pullback is not None
            needs = tuple(value._key in needed for value in node.inputs)
            parts = node.pullback(here[0] if node.count is None else here, needs)
            for value, need, part in zip(node.inputs, needs, parts, strict=True):
                if not need or part is None:
                    continue
                key = value._key
                part = _fitting(part, value, copy=not (value._node.inputs or node.fresh or key in sent))
                sent[key] = sent[key] + part if key in sent else part
    return [sent[leaf._key] if leaf._key in sent else np.zeros_like(leaf._array) for leaf in leaves]


def _fitting(part: Any, value: Value, copy: bool) -> np.ndarray:
    """A gradient of the value's shape, summed over what was broadcast, and type."""
    part = np.asarray(part)
    if part.shape != value.shape:
        added = part.ndim - value.ndim
        axes = (*range(added), *(added + axis for axis, n in enumerate(value.shape) if n != part.shape[added + axis]))
        part = part.sum(axis=axes).reshape(value.shape)
    fitting: np.ndarray = part.astype(value.dtype, copy=copy)
    return fitting


def passes(name: str, function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """forward(*arrays, **options) -> (output, saved) and backward(dy, saved, needs) of a composed function.

    Floats of its positional arguments are on the tape; an argument may be a tuple of arrays, its gradient is a tuple.
    """

    def forward(*arrays: Any, **options: Any) -> tuple[np.ndarray, Any]:
        given = tuple(_taped(each) for each in arrays)
        if not holds(given) and given:  # integers: floats, as elsewhere, where none are beside them
            given = (Value(np.asarray(arrays[0], np.float32)), *given[1:])
        dtypes = [each.dtype for value in given for each in _each(value) if isinstance(each, Value)]
        dtype = dtypes[0] if dtypes else np.dtype(np.float32)
        output = function(*given, **_each_following(options, dtype))
        need_value(name, output)
        return output._array, (output, given)

    def backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        output, given = saved
        leaves = [
            each for value, need in zip(given, needs, strict=False) if need for each in _each(value)
            if isinstance(each, Value)
        ]  # fmt: skip
        found = {leaf._key: part for leaf, part in zip(leaves, gradients(output, dy, leaves), strict=True)}
        return tuple(
            tuple(found.get(each._key) if isinstance(each, Value) else None for each in value)
            if isinstance(value, tuple)
            else found.get(value._key) if isinstance(value, Value) else None
            for value in given[: len(needs)]
        )  # fmt: skip

    return forward, backward


def need_value(name: str, output: Any) -> None:
    """TypeError where a composed function's result is not on the tape."""
    if not isinstance(output, Value):
        got = f"an array of shape {output.shape}" if isinstance(output, np.ndarray) else f"{output!r:.60}"
        raise TypeError(
            f"{name}: what it returns must be made of its arguments by functions that have gradients; it returned "
            f"{got} (float(), .item() and .detach() cut gradients off)"
        )


def _taped(value: Any) -> Any:
    """Arrays of floats as values; lists and numbers, too."""
    if isinstance(value, tuple):
        return tuple(map(_taped, value))
    if isinstance(value, list | float):
        value = np.asarray(value)
    return Value(value) if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f" else value


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


class Recording:
    """What `value_and_grad` has asked for: while it is on, calls of nets are recorded, and `net.parameters()` are
    values, so that a loss may call several nets, or one several times, and weigh their weights.

    parameters   {id of an array: array}, those that gradients are asked for
    contexts     {id of a layer: what its forward is given}, of all layers in the nets that were asked for
    default      what that of other layers is given
    """

    def __init__(self, parameters: Mapping[int, np.ndarray], contexts: Mapping[int, Any], default: Any) -> None:
        self._leaves = {key: Value(array) for key, array in parameters.items()}
        self._contexts, self._default = contexts, default
        self._tokens: list[Token[Recording | None]] = []

    def __enter__(self) -> Recording:
        self._tokens.append(_on.set(self))
        return self

    def __exit__(self, *exception: object) -> None:
        _on.reset(self._tokens.pop())

    def leaf(self, array: np.ndarray) -> Any:
        """The value that stands for a parameter; the array itself where nobody asks for its gradient."""
        return self._leaves.get(id(array), array)

    def context(self, layers: Iterable[Any]) -> Any:
        """That of the first of these layers that has one."""
        return next((self._contexts[id(each)] for each in layers if id(each) in self._contexts), self._default)

    def gradients(self, output: Value) -> dict[int, np.ndarray]:
        """The gradient of `output` to every parameter, by the array's id."""
        dy = np.ones(output.shape, output.dtype)
        return dict(zip(self._leaves, gradients(output, dy, list(self._leaves.values())), strict=True))


_on: ContextVar[Recording | None] = ContextVar("fastconv.tape", default=None)
recording = _on.get


# --- NumPy's functions -----------------------------------------------------------------------------------------------


def _power_to_base(dy: Any, y: Any, a: Any, b: Any) -> Any:
    return dy * np.where(np.equal(b, 0), 0, b * np.power(a, np.where(np.equal(b, 0), 1, b) - 1))


def _share(dy: Any, y: Any, mine: Any, other: Any) -> Any:
    """Of the largest, or smallest, of two: all to the one, half of it where they are equal; nan counts as larger."""
    picked = np.where((mine == y) | (np.isnan(mine) & np.isnan(y)), 1.0, 0.0)
    return dy * np.where(mine == other, 0.5, picked).astype(dy.dtype)


def _matrices(a: Any, b: Any, dy: Any) -> tuple[Any, Any, Any]:
    """Vectors as the matrices that `matmul` takes them for."""
    if np.ndim(b) == 1:
        b, dy = b[:, np.newaxis], dy[..., np.newaxis]
    if np.ndim(a) == 1:
        a, dy = a[np.newaxis], dy[..., np.newaxis, :] if dy.ndim < max(2, b.ndim) else dy
    return a, b, dy


def _matmul_left(dy: Any, y: Any, a: Any, b: Any) -> Any:
    _, matrix, sent = _matrices(a, b, dy)
    da = sent @ np.swapaxes(matrix, -1, -2)
    return da.reshape(-1, len(a)).sum(axis=0) if np.ndim(a) == 1 else da


def _matmul_right(dy: Any, y: Any, a: Any, b: Any) -> Any:
    matrix, _, sent = _matrices(a, b, dy)
    db = np.swapaxes(matrix, -1, -2) @ sent
    return db.reshape(-1, len(b)).sum(axis=0) if np.ndim(b) == 1 else db


_RULES: dict[Any, tuple[Callable[..., Any], ...]] = {  # of each input: (dy, y, *inputs) -> its gradient
    np.add: (lambda dy, y, a, b: dy, lambda dy, y, a, b: dy),
    np.subtract: (lambda dy, y, a, b: dy, lambda dy, y, a, b: -dy),
    np.multiply: (lambda dy, y, a, b: dy * b, lambda dy, y, a, b: dy * a),
    np.true_divide: (lambda dy, y, a, b: dy / b, lambda dy, y, a, b: -dy * y / b),
    np.power: (_power_to_base, lambda dy, y, a, b: dy * y * np.log(np.where(np.greater(a, 0), a, 1))),
    np.matmul: (_matmul_left, _matmul_right),
    np.maximum: (_share, lambda dy, y, a, b: _share(dy, y, b, a)),
    np.minimum: (_share, lambda dy, y, a, b: _share(dy, y, b, a)),
    np.logaddexp: (lambda dy, y, a, b: dy * np.exp(a - y), lambda dy, y, a, b: dy * np.exp(b - y)),
    np.arctan2: (
        lambda dy, y, a, b: dy * b / (a * a + b * b),
        lambda dy, y, a, b: -dy * a / (a * a + b * b),
    ),
    np.remainder: (lambda dy, y, a, b: dy, lambda dy, y, a, b: -dy * np.floor_divide(a, b)),
    np.hypot: (lambda dy, y, a, b: dy * a / y, lambda dy, y, a, b: dy * b / y),
    np.negative: (lambda dy, y, x: -dy,),
    np.positive: (lambda dy, y, x: dy,),
    np.absolute: (lambda dy, y, x: dy * np.sign(x),),
    np.fabs: (lambda dy, y, x: dy * np.sign(x),),
    np.square: (lambda dy, y, x: dy * 2 * x,),
    np.sqrt: (lambda dy, y, x: dy / (2 * y),),
    np.cbrt: (lambda dy, y, x: dy / (3 * y * y),),
    np.reciprocal: (lambda dy, y, x: -dy * y * y,),
    np.exp: (lambda dy, y, x: dy * y,),
    np.exp2: (lambda dy, y, x: dy * y * math.log(2),),
    np.expm1: (lambda dy, y, x: dy * (y + 1),),
    np.log: (lambda dy, y, x: dy / x,),
    np.log2: (lambda dy, y, x: dy / (x * math.log(2)),),
    np.log10: (lambda dy, y, x: dy / (x * math.log(10)),),
    np.log1p: (lambda dy, y, x: dy / (1 + x),),
    np.sin: (lambda dy, y, x: dy * np.cos(x),),
    np.cos: (lambda dy, y, x: -dy * np.sin(x),),
    np.tan: (lambda dy, y, x: dy * (1 + y * y),),
    np.arcsin: (lambda dy, y, x: dy / np.sqrt(1 - x * x),),
    np.arccos: (lambda dy, y, x: -dy / np.sqrt(1 - x * x),),
    np.arctan: (lambda dy, y, x: dy / (1 + x * x),),
    np.sinh: (lambda dy, y, x: dy * np.cosh(x),),
    np.cosh: (lambda dy, y, x: dy * np.sinh(x),),
    np.tanh: (lambda dy, y, x: dy * (1 - y * y),),
    np.arctanh: (lambda dy, y, x: dy / (1 - x * x),),
}

_CONSTANT = {  # what has no slope: it is the arrays'
    np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal, np.isnan, np.isinf, np.isfinite,
    np.sign, np.signbit, np.floor, np.ceil, np.rint, np.trunc, np.floor_divide, np.logical_and, np.logical_or,
    np.logical_not, np.logical_xor, np.argmax, np.argmin, np.argsort, np.nonzero, np.count_nonzero, np.all, np.any,
    np.isclose, np.allclose, np.array_equal, np.shape, np.ndim, np.size, np.zeros_like, np.ones_like, np.full_like,
    np.empty_like, np.round, np.searchsorted, np.unique, np.result_type, np.array2string, np.array_repr, np.array_str,
    np.can_cast,
}  # fmt: skip

_MOVES = {  # what takes elements to other places
    np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.rollaxis, np.squeeze, np.expand_dims, np.flip, np.fliplr,
    np.flipud, np.rot90, np.roll, np.repeat, np.tile, np.take, np.take_along_axis, np.broadcast_to, np.diagonal,
    np.atleast_1d, np.atleast_2d, np.atleast_3d, np.delete,
}  # fmt: skip

_JOINS = {np.concatenate, np.stack, np.vstack, np.hstack, np.dstack, np.column_stack}


def _move(function: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    return _gathered(f"numpy.{function.__name__}", lambda array: function(array, *args, **kwargs), x)


def _gathered(name: str, move: Callable[[np.ndarray], Any], x: Any) -> Value:
    """What `move` takes of x; the gradient of each goes back to the place that it came from."""
    if not isinstance(x, Value):
        raise TypeError(f"{name}: a value on the tape must be its first argument; others are x.detach(), constants")

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> tuple[np.ndarray]:
        at = move(np.arange(x.size).reshape(x.shape))
        return (np.bincount(np.ravel(at), np.ravel(dy), x.size).reshape(x.shape),)

    value: Value = record(np.array(move(x._array)), [x], pullback)
    return value


def _joined(function: Any, arrays: Any, *args: Any, **options: Any) -> Value:
    """Arrays side by side; the gradient is cut where they meet."""
    each = _followed(function.__name__, list(arrays))
    taped = [(place, array) for place, array in enumerate(arrays) if isinstance(array, Value)]
    starts = np.cumsum([0, *map(np.size, each)])

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> list[np.ndarray]:
        numbered = [np.arange(a, b).reshape(np.shape(x)) for x, a, b in zip(each, starts, starts[1:], strict=False)]
        found = np.bincount(np.ravel(function(numbered, *args, **options)), np.ravel(dy), starts[-1])
        return [found[starts[place] : starts[place + 1]].reshape(array.shape) for place, array in taped]

    value: Value = record(function(each, *args, **options), [array for _, array in taped], pullback)
    return value


def _spread(part: Any, x: Value, axis: Any, keepdims: bool) -> np.ndarray:
    """What was reduced along `axis`, seen in x's shape."""
    if axis is not None and not keepdims:
        part = np.expand_dims(part, axis)
    return np.broadcast_to(part, x.shape)


def _sum(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    y = a._array.sum(axis=axis, keepdims=keepdims)
    return record(y, [a], lambda dy, needs: (_spread(dy, a, axis, keepdims),))


def _mean(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    y = a._array.mean(axis=axis, keepdims=keepdims)
    return record(y, [a], lambda dy, needs: (_spread(dy * (np.size(y) / max(1, a.size)), a, axis, keepdims),))


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    """The largest, or smallest; equal ones share the gradient."""

    def extreme(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
        y = function(a._array, axis=axis, keepdims=keepdims)

        def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> tuple[np.ndarray]:
            chosen = (a._array == _spread(y, a, axis, keepdims)).astype(a.dtype)
            return (chosen * _spread(dy / chosen.sum(axis=axis, keepdims=keepdims), a, axis, keepdims),)

        return record(y, [a], pullback)

    return extreme


def _var(a: Any, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    away = np.square(a - np.mean(a, axis=axis, keepdims=True))
    total = np.sum(away, axis=axis, keepdims=keepdims)
    return total / (a.size / max(1, total.size) - ddof)


def _std(a: Any, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> Any:
    """Of what is all alike the gradient is 0."""
    var = np.var(a, axis=axis, ddof=ddof, keepdims=keepdims)
    y = np.sqrt(var._array)
    return record(y, [var], lambda dy, needs: (np.where(y == 0, 0, dy / (2 * y)),))


def _prod(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """The gradient is the product of the others, 0 among them or not."""
    if axis is None:
        return np.prod(a.reshape(-1), axis=0).reshape((1,) * a.ndim if keepdims else ())
    if isinstance(axis, tuple):
        kept = a
        for each in axis:
            kept = np.prod(kept, axis=each, keepdims=True)
        return kept if keepdims else np.squeeze(kept, axis)

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> tuple[np.ndarray]:
        x = np.moveaxis(a._array, axis, 0)
        others = np.ones_like(x)
        others[1:] = np.cumprod(x[:-1], axis=0)
        others[:-1] *= np.cumprod(x[:0:-1], axis=0)[::-1]
        return (np.moveaxis(others, 0, axis) * _spread(dy, a, axis, keepdims),)

    return record(np.prod(a._array, axis=axis, keepdims=keepdims), [a], pullback)


def _average(a: Any, axis: Any = None, weights: Any = None, *, keepdims: bool = False) -> Any:
    if weights is None:
        return np.mean(a, axis=axis, keepdims=keepdims)
    if np.shape(weights) != np.shape(a):
        raise TypeError("numpy.average: on the tape weights have the shape of what they weigh")
    total = np.sum(weights, axis=axis, keepdims=keepdims)
    return np.sum(a * weights, axis=axis, keepdims=keepdims) / total


def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    n = ary.shape[axis]
    at = indices_or_sections
    if isinstance(at, int | np.integer):
        at = np.split(np.arange(n), at)  # says what does not divide
        ends = np.cumsum([len(part) for part in at])
    else:
        ends = np.array([*at, n])
    moved = np.moveaxis(ary, axis, 0)
    return [np.moveaxis(moved[a:b], 0, axis) for a, b in itertools.pairwise([0, *ends.tolist()])]


def _cumsum(a: Any, axis: Any = None) -> Any:
    if axis is None:
        return np.cumsum(a.reshape(-1), axis=0)

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> tuple[np.ndarray]:
        return (np.flip(np.cumsum(np.flip(dy, axis), axis), axis),)

    return record(np.cumsum(a._array, axis), [a], pullback)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    """The gradient passes inside of the bounds, which it counts as inside."""
    low, high = (new if old is None else old for old, new in ((a_min, min), (a_max, max)))
    if holds((low, high)) or not isinstance(a, Value):
        raise TypeError("numpy.clip: on the tape bounds are constants; write numpy.maximum and numpy.minimum")
    x = a._array
    inside = (True if low is None else x >= low) & (True if high is None else x <= high)
    return record(np.clip(x, low, high).astype(x.dtype), [a], lambda dy, needs: (dy * inside,))


def _where(condition: Any, x: Any, y: Any) -> Any:
    chosen = np.asarray(detached(condition), bool)
    if not (isinstance(x, Value) or isinstance(y, Value)):
        return np.where(chosen, x, y)
    arrays = _followed("numpy.where", (x, y))
    taped = [(each, which) for each, which in ((x, chosen), (y, ~chosen)) if isinstance(each, Value)]

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> list[np.ndarray]:
        return [np.where(which, dy, 0) for _, which in taped]

    return record(np.where(chosen, *arrays), [each for each, _ in taped], pullback)


def _reshape(a: Any, shape: Any) -> Any:
    return a.reshape(shape)


def _dot(a: Any, b: Any) -> Any:
    if np.ndim(a) > 2 or np.ndim(b) > 2:
        raise TypeError("numpy.dot: on the tape it takes vectors and matrices; write @ or numpy.einsum")
    return a @ b if np.ndim(a) and np.ndim(b) else a * b


def _norm(x: Any, ord: Any = None, axis: Any = None, *, keepdims: bool = False) -> Any:
    """The Euclidean norm; of zeros the gradient is 0."""
    over = x.ndim if axis is None else np.size(axis)
    if not (ord is None or (ord == 2 and over == 1) or (ord == "fro" and over == 2)):
        raise TypeError("numpy.linalg.norm: on the tape it is the Euclidean one; write others with numpy.abs and sum")
    y = np.linalg.norm(x._array, axis=axis, keepdims=keepdims)

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> tuple[np.ndarray]:
        return (x._array * _spread(np.where(y == 0, 0, dy / y), x, axis, keepdims),)

    return record(y, [x], pullback)


def _trace(a: Any, offset: int = 0) -> Any:
    return np.diagonal(a, offset).sum(axis=-1)


def _triangle(function: Callable[..., Any]) -> Callable[..., Any]:
    def triangle(m: Any, k: int = 0) -> Any:
        return m * function(np.ones(m.shape, m.dtype), k)

    return triangle


def _diff(a: Any, n: int = 1, axis: int = -1) -> Any:
    for _ in range(n):
        moved = np.moveaxis(a, axis, 0)
        a = np.moveaxis(moved[1:] - moved[:-1], 0, axis)
    return a


def _sort(a: Any, axis: int = -1) -> Any:
    return np.take_along_axis(a, np.argsort(a._array, axis=axis, kind="stable"), axis)


def _einsum(subscripts: str, *operands: Any) -> Any:
    """The sum as it is written, "ij,jk->ik": a letter once in an operand, each there or elsewhere in the sum."""
    reads, arrow, gives = subscripts.replace(" ", "").partition("->")
    each = reads.split(",")
    once = all(len(set(letters)) == len(letters) for letters in each)
    if not arrow or "." in subscripts or len(each) != len(operands) or not once:
        raise TypeError(f"numpy.einsum: on the tape write letters, each once in an operand, and ->; got {subscripts!r}")
    arrays = _followed("numpy.einsum", operands)
    taped = [place for place, operand in enumerate(operands) if isinstance(operand, Value)]

    def gradient(place: int, dy: np.ndarray) -> np.ndarray:
        others = [(letters, x) for i, (letters, x) in enumerate(zip(each, arrays, strict=True)) if i != place]
        there = "".join(dict.fromkeys(gives + "".join(letters for letters, _ in others)))
        kept = "".join(letter for letter in each[place] if letter in there)
        terms = ",".join([gives, *(letters for letters, _ in others)])
        part = np.einsum(f"{terms}->{kept}", dy, *(x for _, x in others))
        shape = [n if letter in kept else 1 for letter, n in zip(each[place], arrays[place].shape, strict=True)]
        return np.broadcast_to(part.reshape(shape), arrays[place].shape)

    def pullback(dy: np.ndarray, needs: tuple[bool, ...]) -> list[np.ndarray | None]:
        return [gradient(place, dy) if need else None for place, need in zip(taped, needs, strict=True)]

    return record(np.einsum(subscripts, *arrays), [operands[place] for place in taped], pullback)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.sum: _sum,
    np.mean: _mean,
    np.max: _extreme(np.max),
    np.min: _extreme(np.min),
    np.var: _var,
    np.std: _std,
    np.prod: _prod,
    np.average: _average,
    np.split: _split,
    np.cumsum: _cumsum,
    np.clip: _clip,
    np.where: _where,
    np.reshape: _reshape,
    np.dot: _dot,
    np.linalg.norm: _norm,
    np.trace: _trace,
    np.tril: _triangle(np.tril),
    np.triu: _triangle(np.triu),
    np.diff: _diff,
    np.sort: _sort,
    np.einsum: _einsum,
}
