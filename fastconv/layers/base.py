"""What a layer is: configuration and parameters, nothing per call.

    forward(x, context) -> (y, saved)
    backward(dy, saved, need_dx) -> (dx or None, {parameter name: gradient})

A container hands the same two calls on; names join with dots, as in torch's state_dict.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastconv import random
from fastconv.autograd import Pullback, as_gradient
from fastconv.errors import ShapeError
from fastconv.ops import OPS

if TYPE_CHECKING:
    from typing_extensions import Self

    from fastconv.analysis.table import Summary

__all__ = ["LAYERS", "Context", "Layer", "OpLayer", "from_config"]

Gradients = dict[str, np.ndarray]
Apply = Callable[[str, "Layer", Any], Any]
Join = Callable[[str, str, list[Any]], Any]

LAYERS: dict[str, type[Layer]] = {}  # what a file may name: fastconv's own layers, by class name


@dataclass(frozen=True, slots=True)
class Context:
    """What a call brings along: `training` None leaves it to each layer's own flag; `snapshot` has pullbacks keep the
    weights as they are now."""

    training: bool | None = None
    rng: np.random.Generator | None = None
    snapshot: bool = False

    def is_training(self, layer: Layer) -> bool:
        return layer.training if self.training is None else self.training

    @property
    def generator(self) -> np.random.Generator:
        return self.rng or random.default_generator()


class Layer:
    """Base of all layers and containers."""

    parameter_names: ClassVar[tuple[str, ...]] = ()
    buffer_names: ClassVar[tuple[str, ...]] = ()

    __signature__: ClassVar[inspect.Signature] = inspect.Signature()  # the constructor's

    training: bool
    _frozen: set[str]
    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the constructor's arguments: they are the layer's configuration."""
        layer = super().__new__(cls)
        layer.training = True
        layer._frozen = set()
        try:
            bound = cls.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}: {error}") from None
        arguments = {name: value for name, value in bound.arguments.items() if name != "rng"}
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
        layer._arguments = arguments
        return layer

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies are made without the constructor."""
        return object.__new__, (type(self),), self.__dict__

    def __init_subclass__(cls) -> None:
        constructor = inspect.signature(cls.__init__)
        cls.__signature__ = constructor.replace(parameters=list(constructor.parameters.values())[1:])
        if cls.__module__.startswith("fastconv.") and cls.__module__ != __name__ and not cls.__name__.startswith("_"):
            LAYERS[cls.__name__] = cls

    # --- to be written by each layer

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        """The output and what `backward` needs."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        """The gradient to x (None where `need_dx` is False) and to every trainable parameter, by name."""
        raise NotImplementedError

    def children(self) -> dict[str, Layer]:
        """The layers inside, by name."""
        return {}

    def flow(self, x: Any, apply: Apply, join: Join) -> Any:
        """How a value of any kind passes through, for whoever follows a net without computing it.

        A container hands values to the layers inside, `apply(name, layer, value)`, and puts branches together,
        `join(name, "add" or "concat", values)` with the name "" for the container's own output. Here: the layer is one
        piece.
        """
        return apply("", self, x)

    # --- calls

    def __call__(self, x: Any) -> np.ndarray:
        """The output for a batch x (N, C, …), in the present mode (`train` or `eval`)."""
        return self.forward(self.cast(x), Context())[0]

    def predict(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """The output in inference mode, whatever the present mode, `batch_size` samples at a time."""
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}")
        inference = Context(training=False)
        x = x if hasattr(x, "shape") else np.asarray(x)
        first = self.forward(self.cast(x[:batch_size]), inference)[0]
        if len(x) <= batch_size:
            return first
        out = np.empty((len(x), *first.shape[1:]), first.dtype)
        out[:batch_size] = first
        for start in range(batch_size, len(x), batch_size):
            out[start : start + batch_size] = self.forward(self.cast(x[start : start + batch_size]), inference)[0]
        return out

    def _vjp(self, x: Any) -> tuple[np.ndarray, Pullback]:
        """`fastconv.vjp(net, x)`."""
        y, saved = self.forward(self.cast(x), Context(snapshot=True))

        def pullback(dy: Any) -> tuple[np.ndarray | None, ...]:
            return (self.backward(as_gradient(type(self).__name__, dy, y), saved, True)[0],)

        return y, pullback

    def cast(self, x: Any) -> np.ndarray:
        """x as an array of the net's float type; TypeError for what holds no real numbers."""
        x = np.asarray(x)
        if x.dtype.kind not in "fbiu":
            raise TypeError(f"{type(self).__name__}: the input must hold real numbers, got {x.dtype}")
        dtype = self.dtype
        if dtype is None:
            dtype = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        cast: np.ndarray = x.astype(dtype, copy=False)
        return cast

    # --- mode

    def train(self, mode: bool = True) -> Self:
        """Training mode (batch statistics, dropout), here and in every layer inside; returns the net."""
        for _, layer in self.walk():
            layer.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Inference mode; returns the net."""
        return self.train(False)

    def freeze(self, name: str = "") -> Self:
        """Stop training the parameter or the layer called `name`, or everything; returns the net."""
        return self._set_frozen(name, True)

    def unfreeze(self, name: str = "") -> Self:
        """Undo `freeze`; returns the net."""
        return self._set_frozen(name, False)

    def _set_frozen(self, name: str, frozen: bool) -> Self:
        found = False
        for full, layer, parameter in self._named(trainable=False):
            if not name or full == name or full.startswith(f"{name}."):
                found = True
                (layer._frozen.add if frozen else layer._frozen.discard)(parameter)
        if name and not found:
            raise ValueError(f"freeze: no parameter or layer with parameters is called {name!r}")
        return self

    # --- parameters

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and every layer inside, with its name ("" for this one)."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.walk(f"{prefix}.{name}" if prefix else name)

    def named_arrays(self, buffers: bool = True) -> Iterator[tuple[str, Layer, str]]:
        """Per parameter (and buffer): its full name, its layer, the attribute; of a shared layer the first name."""
        seen: set[int] = set()
        for prefix, layer in self.walk():
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            for name in (*layer.parameter_names, *(layer.buffer_names if buffers else ())):
                if getattr(layer, name) is not None:
                    yield (f"{prefix}.{name}" if prefix else name), layer, name

    def _named(self, trainable: bool) -> Iterator[tuple[str, Layer, str]]:
        for full, layer, name in self.named_arrays(buffers=False):
            if not (trainable and name in layer._frozen):
                yield full, layer, name

    def parameters(self) -> Gradients:
        """The trainable parameters by name: the arrays themselves; change them in place."""
        return {full: getattr(layer, name) for full, layer, name in self._named(trainable=True)}

    def is_trainable(self) -> bool:
        """Whether any parameter is to be trained."""
        return next(self._named(trainable=True), None) is not None

    @property
    def dtype(self) -> np.dtype | None:
        """The parameters' float type; None for a net without parameters."""
        for _, layer, name in self._named(trainable=False):
            array: np.ndarray = getattr(layer, name)
            return array.dtype
        return None

    def state_dict(self) -> Gradients:
        """Copies of all parameters and buffers by torch's names, in C order."""
        return {full: np.array(getattr(layer, name), order="C") for full, layer, name in self.named_arrays()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy arrays into the parameters and buffers of the same names; nothing is changed unless all of them fit.

        Raises ValueError for names that are missing or unknown (`strict=False` passes over both) and ShapeError for
        shapes that differ.
        """
        own = {full: getattr(layer, name) for full, layer, name in self.named_arrays()}
        missing, unknown = sorted(own.keys() - state.keys()), sorted(map(str, state.keys() - own.keys()))
        if strict and (missing or unknown):
            raise ValueError(f"load_state_dict: missing {_listing(missing)}; unknown {_listing(unknown)}")
        arrays = {}
        for name in own.keys() & state.keys():
            array = np.asarray(state[name])
            if array.dtype.kind not in "fbiu":
                raise TypeError(f"load_state_dict: {name} must hold real numbers, got {array.dtype}")
            if array.shape != own[name].shape:
                raise ShapeError(f"load_state_dict: {name} must have shape {own[name].shape}, got {array.shape}")
            arrays[name] = array
        for name, array in arrays.items():
            own[name][...] = array

    def astype(self, dtype: Any) -> Self:
        """A copy of the net with parameters and float buffers in another float type (float32 or float64)."""
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"astype: a net is float32 or float64, got {dtype}")
        net = copy.deepcopy(self)
        for _, layer, name in net.named_arrays():
            array = getattr(layer, name)
            if array.dtype.kind == "f":
                setattr(layer, name, array.astype(dtype, order="K"))
        return net

    def summary(self, input_shape: Any) -> Summary:
        """What prints as a table of the layers for a batch of shape `input_shape` (N, C, …), and is one as data: see
        `fastconv.analysis.summary`."""
        from fastconv.analysis.table import summary

        return summary(self, input_shape)

    # --- configuration

    def config(self) -> dict[str, Any]:
        """The layer as data: its class name and constructor arguments, for JSON; `from_config` rebuilds it.

        Raises ValueError for a layer that is not fastconv's, or an argument that is no data.
        """
        if LAYERS.get(type(self).__name__) is not type(self):
            raise ValueError(f"{type(self).__name__}: only fastconv's own layers can be saved")
        return {"layer": type(self).__name__, **{k: _as_data(self, k, v) for k, v in self._arguments.items()}}

    def __repr__(self) -> str:
        inside = "".join(
            f"\n  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.children().items()
        )
        if inside:
            return f"{type(self).__name__}({inside}\n)"
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._arguments.items())})"


if TYPE_CHECKING:

    class SomeLayer(Layer):
        """A layer out of a container, whose class a type checker cannot know: any attribute may be there."""

        def __getattr__(self, name: str) -> Any: ...


class OpLayer(Layer):
    """A layer that is one operation: its parameters are the operation's further positional arguments."""

    op: str
    positional: ClassVar[tuple[str, ...]] = ()  # attributes behind x, parameters or buffers

    _options: Mapping[str, Any] = MappingProxyType({})

    def options(self, context: Context) -> Mapping[str, Any]:
        """The operation's keyword arguments."""
        return self._options

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        arrays = [getattr(self, name) for name in self.positional]
        if context.snapshot:
            arrays = [
                array.copy(order="K") if name in self.parameter_names and array is not None else array
                for name, array in zip(self.positional, arrays, strict=True)
            ]
        return OPS[self.op].forward(x, *arrays, **self.options(context))

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        wanted = [name in self.parameter_names and name not in self._frozen for name in self.positional]
        dx, *others = OPS[self.op].backward(dy, saved, (need_dx, *wanted))
        gradients = {
            name: gradient
            for name, gradient, want in zip(self.positional, others, wanted, strict=False)
            if want and gradient is not None
        }
        return dx, gradients


def from_config(config: Any) -> Layer:
    """Build a net from `Layer.config`'s data; ValueError for anything but fastconv's own layers."""
    if not isinstance(config, dict) or not isinstance(config.get("layer"), str):
        raise ValueError(f"a layer's configuration must be a dict with its class name, got {str(config)[:80]!r}")
    cls = LAYERS.get(config["layer"])
    if cls is None:
        raise ValueError(f"no layer of fastconv is called {config['layer'][:80]!r}")
    arguments = {name: _from_data(value) for name, value in config.items() if name != "layer"}
    try:
        return cls(*arguments.pop("layers", ()), **arguments)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{cls.__name__}: the configuration does not fit: {error}") from None


def _as_data(layer: Layer, name: str, value: Any) -> Any:
    if isinstance(value, Layer):
        return value.config()
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, Mapping):
        return {"items": [[str(key), _as_data(layer, name, entry)] for key, entry in value.items()]}
    if isinstance(value, (tuple, list)):
        return [_as_data(layer, name, entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{type(layer).__name__}: argument {name}={value!r} is no data and cannot be saved")


def _from_data(value: Any) -> Any:
    if isinstance(value, dict):
        if "layer" in value:
            return from_config(value)
        if "fraction" in value:
            return Fraction(*value["fraction"])
        if "items" in value:
            return {key: _from_data(entry) for key, entry in value["items"]}
        raise ValueError(f"unknown data in a layer's configuration: {str(value)[:80]!r}")
    if isinstance(value, list):
        return tuple(_from_data(entry) for entry in value)
    return value


def _listing(names: list[str], most: int = 6) -> str:
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
