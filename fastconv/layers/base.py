"""What a layer is: configuration and parameters, nothing per call.

    forward(x, context) -> (y, saved)
    backward(dy, saved, need_dx) -> (dx or None, {parameter name: gradient})

A container hands the same two calls on; names join with dots, as in torch's state_dict.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from fastconv import random, tape
from fastconv._ext.capture import refuse
from fastconv.arrays import FLOATS, as_array, as_floats
from fastconv.autograd import Pullback, as_gradient
from fastconv.errors import ShapeError, integer, listing, nearest
from fastconv.machine.memory import allocate, whole_call
from fastconv.ops import OPS

if TYPE_CHECKING:
    from typing_extensions import Self

    from fastconv.analysis.table import Summary
    from fastconv.machine.memory import Ceiling

__all__ = ["LAYERS", "Context", "Layer", "LoadedKeys", "OpLayer", "from_config"]

Gradients = dict[str, np.ndarray]
Apply = Callable[[str, "Layer", Any], Any]
Join = Callable[[str, str, list[Any]], Any]

LAYERS: dict[str, type[Layer]] = {}  # what a file may name: fastconv's own layers, by class name
HANDED_IN: dict[str, Callable[..., Any]] = {}  # what layers offer and rooms above them do


@dataclass(frozen=True, slots=True)
class Context:
    """What a call brings along: `training` None leaves it to each layer's own mode; `snapshot` has pullbacks keep the
    weights as they are now; `keep`: whether there will be a backward, `once`: and only one; `limit`: what both may
    take; `repeated`: the forward ran before, running statistics have moved.

    final   called by the backward of a container after every step with (it, its gradients so far, the names of those
            that will not change any more); it may put equal arrays in their place
    """

    training: bool | None = None
    rng: np.random.Generator | None = None
    snapshot: bool = False
    keep: bool = True
    once: bool = False
    limit: Ceiling | None = None
    repeated: bool = False
    final: Callable[[Any, Gradients, list[str]], None] | None = None

    @classmethod
    def of_step(
        cls, net: Layer, rng: np.random.Generator | None = None, limit: Ceiling | None = None,
        final: Callable[[Any, Gradients, list[str]], None] | None = None,
    ) -> Context:  # fmt: skip
        """A training step's: every part trains, those apart that are in inference while the net itself is not."""
        return cls(training=None if net.training else True, rng=rng, once=True, limit=limit, final=final)

    def mode(self, layer: Layer) -> bool:
        """Whether the layer is in training mode (dropout asks this)."""
        return layer.training if self.training is None else self.training

    def is_training(self, layer: Layer) -> bool:
        """Whether the layer learns from this call: what is frozen as a whole does not, whatever its mode. Layers with
        running statistics ask this."""
        return self.mode(layer) and not layer._frozen_whole

    @property
    def generator(self) -> np.random.Generator:
        return self.rng or random.default_generator()


CALL = Context(keep=False)  # net(x)


class _Pair(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


class LoadedKeys(_Pair):
    """What `load_state_dict` found no array for, and what it found no place for: names, as torch's pair has them.

    mismatched_keys   beside the pair: (name, the array's shape, the net's) of what was left out for its shape
    """

    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __new__(cls, missing_keys: list[str], unexpected_keys: list[str], mismatched_keys: Any = ()) -> Self:
        keys = super().__new__(cls, missing_keys, unexpected_keys)
        keys.mismatched_keys = list(mismatched_keys)
        return keys

    def __repr__(self) -> str:
        lists = {**self._asdict(), "mismatched_keys": self.mismatched_keys}
        return f"LoadedKeys({', '.join(f'{name}={entries}' for name, entries in lists.items())})"


class Layer:
    """Base of all layers and containers."""

    __slots__ = ("__dict__", "__weakref__", "_plans")  # what is no part of a copy: a container's plans

    _plans: Any
    parameter_names: ClassVar[tuple[str, ...]] = ()
    buffer_names: ClassVar[tuple[str, ...]] = ()

    is_container: ClassVar[bool] = False
    forks: ClassVar[bool] = False  # whether a container reads its input more than once

    elsewhere: ClassVar[Mapping[str, str]] = {}  # arguments that others' layer of this name takes: what to write here

    __signature__: ClassVar[inspect.Signature] = inspect.Signature()  # the constructor's

    classes: tuple[str, ...] | None = None  # what the outputs are called: a net's own knowledge, kept in its files
    preparation: Mapping[str, Any] | None = None  # how its images are read: see `datasets.read_image`

    training: bool
    _frozen: set[str]  # parameters that are not trained
    _frozen_whole: bool = False  # and buffers that are kept
    _arguments: dict[str, Any]
    _computing: ClassVar[Callable[[Any], tuple[Any, ...]]]  # the methods of a class or a layer that compute
    _methods: ClassVar[tuple[Any, ...]]
    _computes_with: ClassVar = (
        "forward", "backward", "flow", "children", "options", "arrays", "wanted", "saved", "relu_forward",
        "relu_backward", "normed_forward", "coefficients", "windows",
    )  # fmt: skip

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the constructor's arguments: they are the layer's configuration."""
        layer = super().__new__(cls)
        layer.training = True
        layer._frozen = set()
        known = cls.__signature__.parameters
        unknown = [name for name in kwargs if name not in known]
        if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            instead = cls.elsewhere.get(unknown[0])
            meant = f"; {instead}" if instead else nearest(unknown[0], known)
            raise TypeError(f"{cls.__name__}: unexpected keyword argument {unknown[0]!r}{meant}")
        try:
            bound = cls.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{cls.__name__}: {error}") from None
        arguments = {name: _plain(value) for name, value in bound.arguments.items() if name != "rng"}
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update({key: _plain(value) for key, value in arguments.pop(name, {}).items()})
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
            names = [name for name in cls._computes_with if hasattr(cls, name)]
            cls._computing = staticmethod(operator.attrgetter(*names))
            cls._methods = cls._computing(cls)

    @classmethod
    def is_plain_class(cls) -> bool:
        """Whether the class is fastconv's own, and computes as it was written."""
        return LAYERS.get(cls.__name__) is cls and cls._methods == cls._computing(cls)

    def has_own_methods(self) -> bool:
        """Whether this very layer was given methods."""
        return not self.__dict__.keys().isdisjoint(self._computes_with)

    def is_plain(self) -> bool:
        """Whether the layer computes as fastconv's class of its name does: with nobody's methods."""
        return type(self).is_plain_class() and not self.has_own_methods()

    def has_plain_flow(self) -> bool:
        """Whether values go through a container as fastconv's class says, which it is or is made from."""
        cls = type(self)
        own = next(each for each in cls.__mro__ if LAYERS.get(each.__name__) is each)
        return (cls.flow, cls.children) == own._methods[2:4] and not self.has_own_methods()

    # --- to be written by each layer

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        """The output and what `backward` needs."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        """The gradient to x (None where `need_dx` is False) and to every trainable parameter, by name."""
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a call takes, by name."""
        return ("input",)

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
        """The output for a batch x (N, C, …), in the present mode (`train` or `eval`).

        Inside of a loss (see `fastconv.value_and_grad`) it is recorded, in the mode of a training step.
        """
        refuse()  # a pass that is being captured: a signal's handler, say, is none of it
        recording = tape.recording()
        if recording is not None or x.__class__ is tape.Value:
            value: np.ndarray = self._recorded(recording, (x,))
            return value
        with whole_call:
            return self.forward(self.cast(x), CALL)[0]

    def _recorded(self, recording: tape.Recording | None, given: tuple[Any, ...]) -> Any:
        """A call's value on the tape, one of `given` for each input; an array where nothing on it is asked for."""
        wanted = {}
        if recording is not None:
            for name, array in self._trained().items():
                if isinstance(leaf := recording.leaf(array), tape.Value):
                    wanted[name] = leaf
        inputs = [each for each in given if isinstance(each, tape.Value)]
        arrays = tuple(map(tape.detached, given))
        x = self.cast(arrays if len(arrays) > 1 else arrays[0])
        layers = (layer for _, layer in self.walk())
        context = Context(once=True) if recording is None else recording.context(layers)
        if not (wanted or inputs):
            return self.forward(x, replace(context, keep=False))[0]
        y, saved = self.forward(x, context)
        several, need_dx = isinstance(y, tuple), bool(inputs)
        places = [place for place, each in enumerate(given) if isinstance(each, tape.Value)]
        types = [each.dtype for each in (y if several else (y,))]

        def pullback(dy: Any, needs: tuple[bool, ...]) -> list[np.ndarray | None]:
            parts: Any = [
                None if part is None or dtype.kind != "f" else part.astype(dtype, copy=False)
                for part, dtype in zip(dy if several else (dy,), types, strict=True)
            ]
            parts = tuple(parts) if several else parts[0]
            dx, gradients = self.backward(parts, saved, need_dx)
            each: Any = dx if len(given) > 1 else (dx,)
            return [*(each[place] if need_dx else None for place in places), *(gradients.get(name) for name in wanted)]

        return tape.record(y, [*inputs, *wanted.values()], pullback, fresh=True)

    def predict(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """The output in inference mode, whatever the present mode, `batch_size` samples at a time."""
        batch_size = integer("predict", "batch_size", batch_size)
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}")
        inference = Context(training=False, keep=False)
        x = x if hasattr(x, "shape") else np.asarray(x)
        with whole_call:
            first = self.forward(self.cast(x[:batch_size]), inference)[0]
        if len(x) <= batch_size:
            return first
        out = np.empty((len(x), *first.shape[1:]), first.dtype)
        out[:batch_size] = first
        for start in range(batch_size, len(x), batch_size):
            with whole_call:
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
        dtype = self.dtype
        if type(x) is np.ndarray and (x.dtype is dtype or (dtype is None and x.dtype in FLOATS)):
            return x
        layer = type(self).__name__
        if dtype is None:
            floats: np.ndarray = as_floats(layer, x=x)[0]
            return floats
        x = as_array(layer, "x", x)
        if x.dtype.kind not in "fbiu":
            raise TypeError(f"{layer}: the input must hold real numbers, got {x.dtype}")
        if x.dtype != dtype and x.flags.c_contiguous:
            cast: np.ndarray = allocate(layer, x.shape, dtype)
            np.copyto(cast, x, casting="unsafe")
        else:
            cast = x.astype(dtype, copy=False)
        return cast

    # --- mode

    def train(self, mode: bool = True) -> Self:
        """Training mode (batch statistics, dropout), here and in every layer inside; returns the net."""
        for _, layer in self.walk():
            layer.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Inference mode; returns the net.

        For the calls net(x) and vjp(net, x). `value_and_grad` and a Trainer train a net in whichever mode, but a part
        whose own mode is inference while the net's is training (`net.train()`, then `net[0].eval()`) they leave there:
        its running statistics are used and kept, its dropout passes everything; its parameters are trained.
        """
        return self.train(False)

    def freeze(self, name: str | int = "") -> Self:
        """Stop training the parameter or the layer called `name`, or everything; returns the net.

        name   where nothing is called so, a pattern in fnmatch's sense of the names of layers and parameters:
               "layer[12].*", "*.bias"

        A layer, with those inside it, is frozen as a whole: its running statistics are used and kept as well, in every
        call. A parameter alone is just not trained. Dropout goes by `train` and `eval`, frozen or not. Raises
        ValueError where nothing is called so.
        """
        return self._set_frozen(name, True)

    def unfreeze(self, name: str | int = "") -> Self:
        """Undo `freeze`, also of a part of what was frozen: the rest of it stays frozen. A layer of which one parameter
        is trained again is no longer frozen as a whole. Returns the net."""
        return self._set_frozen(name, False)

    def _set_frozen(self, name: str | int, frozen: bool) -> Self:
        found, what = False, "freeze" if frozen else "unfreeze"
        if isinstance(name, (int, np.integer)) and not isinstance(name, bool):
            name = str(name)  # as in net[0]
        if not isinstance(name, str):
            raise TypeError(f"{what}: a layer or a parameter is given by its name, got {name!r}; everything: {what}()")
        names = [place for place, _ in self.walk() if place]
        names += [full for full, _, _ in self.named_arrays(buffers=False)]
        if name not in names and (meant := [each for each in names if fnmatchcase(each, name)]):
            for each in meant:
                self._set_frozen(each, frozen)
            return self
        for prefix, layer in self.walk():
            if not name or prefix == name or prefix.startswith(f"{name}."):
                found = True
                layer._frozen_whole = frozen
                layer._frozen = set(layer.parameter_names) if frozen else set()
                continue
            for parameter in layer.parameter_names:
                if name == (f"{prefix}.{parameter}" if prefix else parameter) and getattr(layer, parameter) is not None:
                    found = True
                    (layer._frozen.add if frozen else layer._frozen.discard)(parameter)
                    layer._frozen_whole = layer._frozen_whole and frozen
        if not found:
            known = listing([prefix for prefix, _ in self.walk() if prefix])
            raise ValueError(f"{what}: no layer or parameter is called {name!r}; layers are {known}")
        return self

    # --- parameters

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and every layer inside, with its name ("" for this one)."""
        yield prefix, self
        for name, child in self.children().items():
            full = f"{prefix}.{name}" if prefix else name
            if getattr(child.children, "__func__", None) is Layer.children:
                yield full, child
            else:
                yield from child.walk(full)

    def named_arrays(self, buffers: bool = True) -> Iterator[tuple[str, Layer, str]]:
        """Per parameter (and buffer): its full name, its layer, the attribute; of a shared layer the first name."""
        seen: set[int] = set()
        for prefix, layer in self.walk():
            names = layer.parameter_names + layer.buffer_names if buffers else layer.parameter_names
            if not names or id(layer) in seen:
                continue
            seen.add(id(layer))
            for name in names:
                if getattr(layer, name) is not None:
                    yield (f"{prefix}.{name}" if prefix else name), layer, name

    def parameters(self) -> Gradients:
        """The trainable parameters by name: the arrays themselves; change them in place. Inside of a loss (see
        `fastconv.value_and_grad`) they are values on its tape: what it makes of them has a gradient, too."""
        recording = tape.recording()
        if recording is None:
            return self._trained()
        return {name: recording.leaf(array) for name, array in self._trained().items()}

    def _trained(self) -> Gradients:
        found: Gradients = {}
        seen: set[int] = set()
        for prefix, layer in self.walk():
            if not layer.parameter_names or id(layer) in seen:
                continue
            seen.add(id(layer))
            for name in layer.parameter_names:
                if name not in layer._frozen and (array := getattr(layer, name)) is not None:
                    found[f"{prefix}.{name}" if prefix else name] = array
        return found

    def is_trainable(self) -> bool:
        """Whether any parameter is to be trained."""
        return bool(self._trained())

    @property
    def dtype(self) -> np.dtype | None:
        """The parameters' float type; None for a net without parameters."""
        for _, layer, name in self.named_arrays(buffers=False):
            array: np.ndarray = getattr(layer, name)
            return array.dtype
        return None

    def state_dict(self) -> Gradients:
        """Copies of all parameters and buffers by torch's names, in C order."""
        return {full: np.array(getattr(layer, name), order="C") for full, layer, name in self.named_arrays()}

    def load_state_dict(
        self,
        state: Mapping[str, Any],
        strict: bool = True,
        *,
        rename: Mapping[str, str] | Callable[[str], str | None] | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> LoadedKeys:
        """Copy arrays into the parameters and buffers of the same names; nothing is changed unless all of them fit.

            net.load_state_dict(fastconv.load_weights("resnet18.pth"), strict=False, ignore_mismatched_sizes=True)
            net.load_state_dict(state, rename={"backbone": "", "classifier": "head"})

        rename                    {part: part}: names that begin with a part, up to a dot, begin with the other one (the
                                  longest part that fits; "" stands before every name); or a function of a name that
                                  returns the new one, or None to leave the array out
        ignore_mismatched_sizes   leave out arrays whose shape is not the net's, a head for other classes

        Returns the names that are missing and those that are unknown, as `.missing_keys` and `.unexpected_keys`: two
        empty lists, unless `strict=False` passes over them; and what was left out for its shape, as `.mismatched_keys`.
        Raises ValueError for such names otherwise, or where two arrays get one name, ShapeError for shapes that differ
        and TypeError for what is no dict of arrays.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: state must be a dict of arrays by name, got {type(state).__name__}; "
                f"{_state_hint(state)}"
            )
        if rename is not None:
            state = _renamed(state, rename)
        own = {full: getattr(layer, name) for full, layer, name in self.named_arrays()}
        missing = [name for name in own if name not in state]
        unknown = [str(name) for name in state if name not in own]
        if strict and (missing or unknown):
            raise ValueError(f"load_state_dict: missing {listing(missing)}; unknown {listing(unknown)}")
        arrays = {}
        mismatched = []
        for name in own:
            if name not in state:
                continue
            array = np.asarray(state[name])
            if array.dtype.kind not in "fbiu":
                raise TypeError(f"load_state_dict: {name} must hold real numbers, got {array.dtype}")
            if array.shape == own[name].shape:
                arrays[name] = array
            elif ignore_mismatched_sizes:
                mismatched.append((name, array.shape, own[name].shape))
            else:
                raise ShapeError(
                    f"load_state_dict: {name} must have shape {own[name].shape}, got {array.shape}; to leave it out: "
                    "ignore_mismatched_sizes=True"
                )
        for name, array in arrays.items():
            own[name][...] = array
        return LoadedKeys(missing, unknown, mismatched)

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
        table: Summary = HANDED_IN["summary"](self, input_shape)
        return table

    def for_inference(self) -> Self:
        """A copy that only answers: in inference mode, its arrays read-only (writing to one raises ValueError), batch
        norms that follow a convolution or a linear layer folded into its weights (their place takes an `Identity`), and
        what the kernels make of weights made once, at the first call. Its answers are the net's, to the last bits.

        It does not follow later changes of the net. A copy of it, or what `load` makes of its file, can be written to
        and is trained as any net; what was folded stays so.
        """
        answering: Self = HANDED_IN["for_inference"](self)
        return answering

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
    _fetch: ClassVar[Any]  # (layer) -> the arrays behind x

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        get: Callable[[Any], Any] = operator.attrgetter(*(cls.positional or ("op",)))
        cls._fetch = staticmethod(get if len(cls.positional) > 1 else lambda layer: (get(layer),))

    def configure(self, **options: Any) -> None:
        """Set the operation's keyword arguments; raises what every call with them would raise."""
        self.check(**options)
        self._options = {name: _plain(value) for name, value in options.items()}

    def check(self, **options: Any) -> None:
        """Raise what every call of the operation with these options raises."""
        check = OPS[self.op].check
        if check is not None:
            check(**options)

    @property
    def dtype(self) -> np.dtype | None:
        for name in self.parameter_names:
            array: np.ndarray | None = getattr(self, name)
            if array is not None:
                return array.dtype
        return None

    def is_trainable(self) -> bool:
        names = self.parameter_names
        return bool(names) and any(name not in self._frozen and getattr(self, name) is not None for name in names)

    def options(self, context: Context) -> Mapping[str, Any]:
        """The operation's keyword arguments."""
        return self._options

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        if not self.positional:
            return OPS[self.op].forward(x, **self.options(context))
        return OPS[self.op].forward(x, *self.arrays(context), **self.options(context))

    def arrays(self, context: Context) -> tuple[np.ndarray | None, ...]:
        """What the operation takes behind x."""
        arrays: tuple[np.ndarray | None, ...] = self._fetch(self) if self.positional else ()
        if context.snapshot or context.repeated:  # what an operation updates is updated once
            copied = self.parameter_names if context.snapshot else self.buffer_names
            arrays = tuple(
                array.copy(order="K") if name in copied and array is not None else array
                for name, array in zip(self.positional, arrays, strict=True)
            )
        return arrays

    def wanted(self) -> list[bool]:
        """Which of them are trained."""
        return [name in self.parameter_names and name not in self._frozen for name in self.positional]

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        if not self.positional:
            return OPS[self.op].backward(dy, saved, (need_dx,))[0], {}
        wanted = self.wanted()
        dx, *others = OPS[self.op].backward(dy, saved, (need_dx, *wanted))
        gradients: Gradients = {}
        for name, gradient, want in zip(self.positional, others, wanted):  # noqa: B905  # options may be left out
            if want and gradient is not None:
                gradients[name] = gradient
        return dx, gradients


def from_config(config: Any) -> Layer:
    """Build a net from `Layer.config`'s data; ValueError for anything but fastconv's own layers."""
    if not isinstance(config, dict) or not isinstance(config.get("layer"), str):
        raise ValueError(f"a layer's configuration must be a dict with its class name, got {str(config)[:80]!r}")
    cls = LAYERS.get(config["layer"])
    if cls is None:
        name = config["layer"][:80]
        raise ValueError(f"no layer of fastconv is called {name!r}{nearest(name, LAYERS)}")
    arguments = {name: _from_data(value) for name, value in config.items() if name != "layer"}
    try:
        return cls(*arguments.pop("layers", ()), **arguments)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{cls.__name__}: the configuration does not fit: {error}") from None


def _plain(value: Any) -> Any:
    """NumPy's numbers, strings and arrays of numbers as Python's, in lists and tuples too."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
        value = value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _as_data(layer: Layer, name: str, value: Any) -> Any:
    if isinstance(value, Layer):
        return value.config()
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, Mapping):
        return {"items": [[str(key), _as_data(layer, name, entry)] for key, entry in value.items()]}
    if isinstance(value, (tuple, list)):
        return [_as_data(layer, name, entry) for entry in value]
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


def _state_hint(state: Any) -> str:
    """What to write instead of a state that is no dict."""
    if isinstance(state, Layer):
        return "write load_state_dict(other.state_dict())"
    if isinstance(state, (str, os.PathLike)):
        return "read the file first"
    return "write load_state_dict(dict(zip(net.state_dict(), arrays))) for arrays in the net's order"


def _renamed(state: Mapping[str, Any], rename: Mapping[str, str] | Callable[[str], str | None]) -> dict[str, Any]:
    """The state by its new names; see `Layer.load_state_dict`."""
    if isinstance(rename, Mapping):
        if not all(isinstance(each, str) for part in rename.items() for each in part):
            raise TypeError(
                f"load_state_dict: rename must have names for names, got {rename!r}; to leave arrays out: a function "
                "that returns None"
            )
        parts = [(old.rstrip("."), new.rstrip(".")) for old, new in rename.items()]
        rename = functools.partial(_renamed_part, sorted(parts, key=lambda part: len(part[0]), reverse=True))
    elif not callable(rename):
        raise TypeError(f"load_state_dict: rename must be a dict of names or a function, got {rename!r}")
    renamed: dict[str, Any] = {}
    for name, array in state.items():
        new = rename(str(name))
        if new in renamed:
            raise ValueError(f"load_state_dict: rename gives two arrays the name {new!r}, {name!r} the second time")
        if new is not None:
            renamed[new] = array
    return renamed


def _renamed_part(parts: list[tuple[str, str]], name: str) -> str:
    for old, new in parts:
        if not old or name == old or name.startswith(f"{old}."):
            return ".".join(filter(None, (new, name[len(old) :].lstrip("."))))
    return name
