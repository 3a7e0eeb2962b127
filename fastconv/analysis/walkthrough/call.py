"""`walkthrough`: which operations can be walked through, and how each is read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastconv import functional, reference
from fastconv.analysis.walkthrough import reading
from fastconv.analysis.walkthrough.reading import Axis, Reading
from fastconv.analysis.walkthrough.steps import Maxima, Names, Share, Walkthrough
from fastconv.autograd import as_gradient, in_functional, vjp
from fastconv.errors import nearest
from fastconv.layers.base import Context, Layer, OpLayer
from fastconv.layers.pool import NetworkPool2d
from fastconv.ops import OPS

__all__ = ["MOST_STEPS", "walkthrough"]

Shape = tuple[int, ...]

MOST_STEPS = 2000
DIRECTIONS = ("forward", "dx", "dw")

AXES = ("1d", "2d", "3d")
CONVOLUTIONS = [f"conv{axes}" for axes in AXES]
TRANSPOSED = [f"conv_transpose{axes}" for axes in AXES]
SLIDING = [f"{kind}_pool{axes}" for kind in ("max", "avg", "lp") for axes in AXES]
WINDOWS = [*SLIDING, "function_pool2d", "NetworkPool2d"]
ADAPTIVE = [f"adaptive_{kind}_pool{axes}" for kind in ("avg", "max") for axes in AXES]
RESAMPLING = ["downsample", "upsample", "pad", "resize"]
WALKED = [*CONVOLUTIONS, *TRANSPOSED, *WINDOWS, *ADAPTIVE, *RESAMPLING]


def walkthrough(
    function: Any, /, *arrays: Any, direction: str = "forward", dy: Any = None, **options: Any
) -> Walkthrough:
    """An operation, or a gradient of it, one element at a time.

        walk = walkthrough("conv2d", x, w, stride=2)
        print(walk)                 every step as a line;  walk[3] one of them, with .window .products .value
        walk.html("conv.html")      a page with a slider
        walk.plot("conv.png")       a strip of some steps; walk.animate("conv.gif") all of them (extra [plot])

    function    a function of fastconv.functional or fastconv.reference, its name, or a layer (its weights follow the
                input): convolution and transposed convolution, every pooling (maximum, mean, p-norm, function, network,
                adaptive), downsample, upsample, pad and resize
    arrays      what the function takes by position; options what it takes by keyword
    direction   "forward"; "dx", the gradient to the input: every element of dx collects, a convolution's the padded
                gradient under the reversed filters, and `.scattered` is the same by scattering every element of dy;
                "dw", the gradient to a convolution's filters: the input under the gradient
    dy          the gradient to the function's output, of its shape (default: ones)

    Returns a `Walkthrough`, a sequence of steps; `.result` is what the function, or its pullback, gives. (`.scattered`
    is None where it alone would have more than 2,000 steps.)

    Raises ValueError for more than 2,000 steps (before anything is computed) and for a direction that is not there,
    TypeError for an operation that cannot be shown, and what the function raises.
    Source: the chapter's figures of convolution, pooling and back-propagation through both.
    """
    if direction not in DIRECTIONS:
        raise ValueError(
            f"walkthrough: direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}"
            f"{nearest(direction, DIRECTIONS)}"
        )
    if direction == "forward" and dy is not None:
        raise ValueError('walkthrough: dy is the gradient that "dx" and "dw" begin with; forward takes none')
    call = Call(function, arrays, options)
    if direction == "dw" and call.name not in (*CONVOLUTIONS, *TRANSPOSED):
        raise ValueError(f'walkthrough: {call.name} has no filters, hence no direction "dw"; there are forward and dx')
    call.need_few(direction)
    return call.walk(direction, dy)


class Call:
    """A call of an operation, with its arguments by name."""

    def __init__(self, function: Any, arrays: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.network: NetworkPool2d | None = None
        self.positional = arrays
        if isinstance(function, NetworkPool2d):
            if len(arrays) != 1 or options:
                raise TypeError("walkthrough: a layer takes its input only")
            self.network, self.name, self.function = function, "NetworkPool2d", function
            kernel_size, stride, padding = function._window
            self.arguments = {"x": arrays[0], "kernel_size": kernel_size, "stride": stride, "padding": padding}
        else:
            self.function, self.positional, options = _function_of(function, arrays, options)
            self.name = str(getattr(self.function, "__name__", ""))
            try:
                bound = inspect.signature(self.function).bind(*self.positional, **options)
            except TypeError as error:
                raise TypeError(f"{self.name}: {error}") from None
            bound.apply_defaults()
            self.arguments = dict(bound.arguments)
        self.options = options
        if self.name not in WALKED:
            known = ", ".join(WALKED)
            raise TypeError(
                f"walkthrough: {self.name} cannot be shown, no window slides there{nearest(self.name, WALKED)}; "
                f"what can: {known}"
            )
        self.x_shape: Shape = np.shape(self.arguments["x"])
        self.y_shape: Shape = self._output_shape()

    def _output_shape(self) -> Shape:
        """Of a call on no images: the shape rule is asked, nothing is computed."""
        x = self.arguments["x"]
        x = x if isinstance(x, np.ndarray) else np.asarray(x)
        if x.ndim == 0:
            return np.shape(self._call(x))
        found = self._call(x[:0])
        return (len(x), *np.shape(found[0] if isinstance(found, tuple) else found)[1:])

    def _call(self, x: Any) -> Any:
        if self.network is not None:
            return self.network.forward(self.network.cast(x), Context())[0]
        return self.function(x, *self.positional[1:], **self.options)

    def need_few(self, direction: str) -> None:
        """ValueError where there would be more steps than anyone looks at."""
        shape = self.y_shape if direction == "forward" else self.x_shape
        if direction == "dw":
            shape = np.shape(self.arguments["w"])
        count = math.prod(shape)
        if count > MOST_STEPS:
            made = {"forward": "y", "dx": "dx", "dw": "dw"}[direction]
            raise ValueError(
                f"walkthrough: {self.name} would take {count:,} steps, one for each element of {made} {shape}; more "
                f"than {MOST_STEPS:,} are not shown: crop x (its images, its channels, its size), or take fewer filters"
            )

    # --- walks

    def walk(self, direction: str, dy: Any) -> Walkthrough:
        if direction == "forward":
            output = self._call(self.arguments["x"])
            output = output[0] if isinstance(output, tuple) else output
            return self._walk(direction, output, output, None)
        if self.network is not None:
            output, pullback = vjp(self.network, self.arguments["x"])
        else:
            output, pullback = vjp(self.function, *self.positional, **self.options)
        output = output[0] if isinstance(output, tuple) else output
        dy = as_gradient(self.name, np.ones(output.shape, output.dtype) if dy is None else dy, output)
        result = pullback(dy)[0 if direction == "dx" else 1]
        assert result is not None
        return self._walk(direction, output, result, dy)

    def _walk(self, direction: str, output: np.ndarray, result: np.ndarray, dy: np.ndarray | None) -> Walkthrough:
        convolved = self.name in (*CONVOLUTIONS, *TRANSPOSED)
        return (self._convolved if convolved else self._alone)(direction, output, result, dy)

    def _floats(self, name: str, dtype: np.dtype) -> np.ndarray:
        array: np.ndarray = np.asarray(self.arguments[name]).astype(dtype)  # a copy: the steps are those of this call
        return array

    def _head(self, direction: str) -> str:
        """The call in a line."""
        named = {} if self.network is not None else inspect.signature(self.function).parameters
        defaults = {name: each.default for name, each in named.items() if each.default is not each.empty}
        said = []
        for name, value in self.arguments.items():
            if name in ("x", "w", "b", "algorithm", "return_indices", "vjp"):
                continue
            if value is not None and (name not in defaults or value != defaults[name]):
                said.append(f"{name}={getattr(value, '__name__', value)}")
        w = f", w {np.shape(self.arguments['w'])}" if "w" in self.arguments else ""
        listed = f", {', '.join(said)}" if said else ""
        way = {"forward": "forward", "dx": "the gradient to the input", "dw": "the gradient to the filters"}[direction]
        return f"{self.name}, {way}: x {self.x_shape}{w}{listed}; y {self.y_shape}"

    def _convolved(self, direction: str, output: np.ndarray, result: np.ndarray, dy: np.ndarray | None) -> Walkthrough:
        """What adds channels up: convolutions."""
        a, dtype = self.arguments, output.dtype
        x, w = self._floats("x", dtype), self._floats("w", dtype)
        bias = None if a["b"] is None else self._floats("b", dtype)
        transposed = self.name in TRANSPOSED
        make = reading.transposed if transposed else reading.convolution
        way = make(self.name, x.shape, w.shape, output.shape, a)

        def made(direction: str, manner: str, names: Names, read: Reading, said: str, **more: Any) -> Walkthrough:
            return Walkthrough(
                self.name, direction, manner, "products", names, read, result, head=self._head(direction), said=said,
                **more,
            )  # fmt: skip

        def slides(what: str, over: str, steps: tuple[int, ...]) -> str:
            return (
                f"{what} slides over {over}{_pace(steps)}: at every place it is multiplied by what lies under it; the "
                "products are added up."
            )

        if direction == "dw":
            assert dy is not None
            read = way.to_filters(dy, x) if transposed else way.to_filters(x, dy)
            names = Names("dw", "dy", "x") if transposed else Names("dw", "x", "dy")
            said = slides(names.factor, f"{names.read} as a filter would", way.window.dilation)
            return made("dw", "collect", names, read, said)
        forward = direction == "forward"
        if forward:
            dy = x
            names = Names("y", "x", "w reversed" if transposed else "w")
        else:
            assert dy is not None
            names = Names("dx", "dy", "w" if transposed else "w reversed")
        if forward != transposed:  # an ordinary convolution of x, or of a transposed one's gradient
            read = way.forward(x if forward else dy, w)
            said = slides("The filter", names.read, way.window.stride)
        else:
            read = way.to_input(dy, w)
            said = slides("The reversed filter", f"{names.read}, spread and padded", way.window.up)
        scattered = None
        if (not forward or transposed) and dy.size <= MOST_STEPS:
            layout = way.to_input(x, w) if not forward and transposed else way.forward(np.zeros(result.shape, dtype), w)
            factor = "filter" if forward or not transposed else "reversed filter"
            scattered = made(
                direction, "scatter", Names(names.made, names.read, factor), layout,
                f"Every element of {names.read} is multiplied by the {factor} and added to {names.made} where the "
                "filter stood.", spread=dy, bias=bias if forward else None,
            )  # fmt: skip
            if forward and bias is not None:
                scattered.said += " The bias is added at the end."
        return made(direction, "collect", names, read, said, bias=bias if forward else None, scattered=scattered)

    def _alone(self, direction: str, output: np.ndarray, result: np.ndarray, dy: np.ndarray | None) -> Walkthrough:
        """What takes every channel by itself: pools and resampling."""
        x = self._floats("x", output.dtype)
        forward, back, kind = self._axes(output)
        more: dict[str, Any] = {}
        share: Share | None = None
        fill = 0.0
        if kind == "max":
            fill = -math.inf
        elif kind == "norm":
            p = float(self.arguments["norm_type"])
            share, more["order"] = _share_of_norm(x, output, p), p
        elif kind == "function" and dy is not None:
            share = self._share_of_function(x, output, dy)
        elif self.name == "pad":
            fill = float(self.arguments["value"]) if self.arguments["mode"] == "constant" else 0.0
        windows = reading.alone(output.shape, x, forward, fill)
        if kind == "max":
            winners = self._winners(x)
            share = _share_of_maximum(winners, x.shape[2:])
            more["maxima"] = Maxima(windows, winners, None if self.name in ADAPTIVE else self._kernel(output))
        head, said = self._head(direction), SAID[kind]
        if dy is None:
            pads = kind == "max" and (self.arguments.get("ceil_mode") or np.any(self.arguments.get("padding", 0)))
            return Walkthrough(
                self.name, direction, "collect", kind, Names("y", "x", ""), windows, result, head=head,
                said=said[0] + " What lies outside of x (pad) never is." * bool(pads), **more,
            )  # fmt: skip
        pieces = {"max": "shares of a maximum", "mean": "shares"}.get(kind, "products" if kind == "copy" else "slopes")
        names = Names("dx", "dy", SAID_FACTOR[kind])
        scattered = Walkthrough(
            self.name, direction, "scatter", pieces, names, windows, result, head=head, said=said[2], share=share,
            spread=dy, **more,
        )  # fmt: skip
        read = reading.alone(x.shape, dy, back)
        return Walkthrough(
            self.name, direction, "collect", pieces, names, read, result, head=head, said=said[1], share=share,
            scattered=scattered if len(scattered) <= MOST_STEPS else None, **more,
        )  # fmt: skip

    def _axes(self, output: np.ndarray) -> tuple[list[Axis], list[Axis], str]:
        """Forward, backward, and what is made of a window."""
        x_shape, y_shape, a = self.x_shape, output.shape, self.arguments
        if self.name in WINDOWS:
            window = reading.pool_window(_rule(self.name), x_shape[2:], y_shape, a)
            forward, back = reading.pooled(window, x_shape, y_shape), reading.unpooled(window, x_shape, y_shape)
            kind = {"max": "max", "avg": "mean", "lp_": "norm"}.get(self.name[:3], "function")
            if kind == "mean":
                shares = reading.shares_of_mean(forward, bool(a["count_include_pad"]))
                forward = [
                    axis.weighted([np.full(len(at), share) for at, share in zip(axis.places, mine, strict=True)])
                    for axis, mine in zip(forward, shares, strict=True)
                ]
                back = [
                    axis.weighted([_shares_at(mine, axis.grid[at]) for at in axis.places])
                    for axis, mine in zip(back, shares, strict=True)
                ]
            return forward, back, kind
        kind = "copy"
        if self.name in ADAPTIVE:
            forward = reading.adaptive(x_shape, y_shape)
            kind = "max" if "max" in self.name else "mean"
            if kind == "mean":
                forward = [axis.weighted([np.full(len(at), 1 / len(at)) for at in axis.places]) for axis in forward]
        elif self.name == "downsample":
            forward = reading.keeping(self.name, x_shape, y_shape, a)
            return forward, reading.spreading(forward), kind
        elif self.name == "upsample":
            back = reading.keeping(self.name, y_shape, x_shape, a)
            return reading.spreading(back), back, kind
        elif self.name == "pad":
            forward = reading.padded(x_shape, a)
        else:
            forward = reading.resized(x_shape, a)
            kind = "copy" if a["mode"] == "nearest" else "weights"
        return forward, [reading.adjoint(axis, n) for axis, n in zip(forward, x_shape[2:], strict=True)], kind

    def _kernel(self, output: np.ndarray) -> Shape:
        return reading.pool_window(_rule(self.name), self.x_shape[2:], output.shape, self.arguments).kernel

    def _winners(self, x: np.ndarray) -> np.ndarray:
        """(N, C, *output): the flat position of every maximum in its plane."""
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "output_size")
        options = {name: self.arguments[name] for name in names if name in self.arguments}
        found: np.ndarray = OPS[self.name].forward(x, **options, return_indices=True)[0][1]
        return found

    def _share_of_function(self, x: np.ndarray, output: np.ndarray, dy: np.ndarray) -> Share:
        """What a function of a window gives to each of its taps: its gradient, of the call itself, window by window."""
        kernel = self._kernel(output)
        forward = self._axes(output)[0]
        windows = np.zeros((*output.shape, *kernel), x.dtype)
        read = reading.alone(output.shape, x, forward)
        for at in np.ndindex(*output.shape):
            windows[at] = read.values(at)[0]
        flat = windows.reshape(-1, math.prod(kernel))
        ones = np.ones(len(flat), output.dtype)
        if self.network is not None:
            shares = vjp(self.network.network, flat)[1](ones[:, None])[0]
        else:
            planes = flat.reshape(-1, 1, *kernel)
            function, backward = self.arguments["function"], self.arguments["vjp"]
            _, pullback = vjp(functional.function_pool2d, planes, function, kernel, vjp=backward)
            shares = pullback(ones.reshape(-1, 1, 1, 1))[0]
        assert shares is not None
        table = np.asarray(shares, np.float64).reshape(*output.shape, *kernel)
        return lambda n, c, o, i, tap: table[n, c][(*o, *tap)]


def _pace(steps: tuple[int, ...]) -> str:
    """How far a window moves at a time, where that is not 1 along every axis."""
    if max(steps) == 1:
        return ""
    return f", {' x '.join(map(str, steps if len(set(steps)) > 1 else steps[:1]))} places at a time"


def _shares_at(shares: list[float], o: np.ndarray) -> np.ndarray:
    """The share of every output o; where there is none, what all have, or 0."""
    common = shares[0] if len(set(shares)) == 1 else 0.0
    return np.array([shares[i] if i >= 0 else common for i in o])


def _rule(name: str) -> str:
    return "network_pool2d" if name == "NetworkPool2d" else name


def _share_of_maximum(winners: np.ndarray, spatial: Shape) -> Share:
    def share(n: int, c: int, o: tuple[Any, ...], i: tuple[Any, ...], tap: tuple[Any, ...]) -> np.ndarray:
        flat = i[0]
        for position, length in zip(i[1:], spatial[1:], strict=True):
            flat = flat * length + position
        found: np.ndarray = (winners[n, c][o] == flat).astype(np.float64)
        return found

    return share


def _share_of_norm(x: np.ndarray, y: np.ndarray, p: float) -> Share:
    """The derivative of (sum |x|^p)^(1/p): sign(x) |x|^(p - 1) y^(1 - p); 0 where all of the window is."""

    def share(n: int, c: int, o: tuple[Any, ...], i: tuple[Any, ...], tap: tuple[Any, ...]) -> np.ndarray:
        value, norm = x[n, c][i].astype(np.float64), y[n, c][o].astype(np.float64)
        with np.errstate(all="ignore"):
            slope = np.sign(value) * np.abs(value) ** (p - 1) * norm ** (1 - p)
        return np.where((norm == 0) | (value == 0), 0.0, slope)

    return share


def _function_of(function: Any, arrays: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, tuple[Any, ...], Any]:
    """The public function that is called, with its arguments: a name and a layer stand for one."""
    if isinstance(function, Layer):
        if len(arrays) != 1 or options:
            raise TypeError("walkthrough: a layer takes its input only")
        if not isinstance(function, OpLayer):
            raise TypeError(f"walkthrough: {type(function).__name__} cannot be shown, it is no single operation")
        mode = function._arguments.get("padding_mode", "zeros")
        if mode != "zeros":
            raise TypeError(
                f"walkthrough: {type(function).__name__} with padding_mode={mode!r} cannot be shown, it is two "
                "operations: walk through pad, and through the convolution of what it gives"
            )
        x = function.cast(arrays[0])
        own = tuple(getattr(function, name) for name in function.positional)
        return getattr(functional, function.op), (x, *own), dict(function.options(Context(training=False)))
    if isinstance(function, str):
        found: Callable[..., Any] | None = getattr(functional, function, None) if function in OPS else None
        if found is None:
            raise ValueError(f"walkthrough: no operation is called {function!r}{nearest(function, OPS)}")
        return found, arrays, options
    name = str(getattr(function, "__name__", ""))
    if name not in OPS or function not in (getattr(functional, name, None), getattr(reference, name, None)):
        raise TypeError(
            f"walkthrough: {function!r} is no function of fastconv.functional or fastconv.reference, nor its name, nor "
            f"a layer{in_functional(function)}"
        )
    return function, arrays, options


SAID = {  # of every kind: forward; dx collecting; dx scattering
    "max": (
        "The window slides over x: its largest value is the output; of equals the first.",
        "Every element of dx collects the gradients of the windows in which it was the maximum.",
        "Every element of dy goes to the place where its window's maximum stood.",
    ),
    "mean": (
        "The window slides over x: its mean is the output.",
        "Every element of dx collects its share of every window that it lies in.",
        "Every element of dy is shared equally among its window.",
    ),
    "norm": (
        "The window slides over x: its p-norm is the output.",
        "Every element of dx collects the gradients of its windows, times the norm's derivative.",
        "Every element of dy goes to all of its window, times the norm's derivative there.",
    ),
    "function": (
        "The window slides over x: the function of what lies under it is the output.",
        "Every element of dx collects the gradients of its windows, times the function's derivative.",
        "Every element of dy goes to all of its window, times the function's derivative there.",
    ),
    "copy": (
        "Every output is one element of x, or what lies between or around them.",
        "Every element of dx collects the gradients of the outputs that it was copied to.",
        "Every element of dy goes back to where the output came from.",
    ),
    "weights": (
        "Every output is a weighted mean of its neighbours in x.",
        "Every element of dx collects the gradients of its outputs, times its weights there.",
        "Every element of dy goes back to its output's neighbours, times their weights.",
    ),
}
SAID_FACTOR = {
    "max": "1 at the maximum", "mean": "shares", "norm": "derivative", "function": "derivative", "copy": "",
    "weights": "weights",
}  # fmt: skip
