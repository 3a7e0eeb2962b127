"""Layers that pool or resample: torch.nn's names and arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from fastconv.errors import ShapeError, nearest
from fastconv.functional import AdaptiveSizes, Padding, Scale, Sizes
from fastconv.layers.base import Context, Gradients, Layer, OpLayer
from fastconv.layers.common import need_default
from fastconv.machine.memory import require
from fastconv.ops import OPS
from fastconv.ops.pool.function import add_windows, all_windows
from fastconv.ops.pool.windows import check as check_window
from fastconv.ops.pool.windows import plan as plan_window
from fastconv.ops.pool.windows import prepare as prepare_window
from fastconv.ops.registry import FUNCTIONS
from fastconv.plan.steps import named_forward

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Downsample",
    "FunctionPool2d",
    "LpPool1d",
    "LpPool2d",
    "LpPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "NetworkPool2d",
    "Resize",
    "Upsample",
]


class _MaxPool(OpLayer):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Padding = 0,
        dilation: Sizes = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        need_default(type(self).__name__, False, return_indices=return_indices)
        self.configure(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)

    def windows(self, x: np.ndarray) -> Any:
        """The windows on x (`ops.pool.windows.Plan`); raises what `forward` raises."""
        options = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, **self._options}
        return plan_window(self.op, x, options.pop("kernel_size"), *options.values())[1]


class MaxPool1d(_MaxPool):
    """The largest of every window of (N, C, L). See `fastconv.functional.max_pool1d`."""

    op = "max_pool1d"


class MaxPool2d(_MaxPool):
    """The largest of every window of (N, C, H, W). See `fastconv.functional.max_pool2d`."""

    op = "max_pool2d"


class MaxPool3d(_MaxPool):
    """The largest of every window of (N, C, D, H, W). See `fastconv.functional.max_pool3d`."""

    op = "max_pool3d"


class _AvgPool(OpLayer):
    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: None = None,
    ) -> None:
        need_default(type(self).__name__, None, divisor_override=divisor_override)
        self.configure(
            kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )  # fmt: skip


class AvgPool1d(_AvgPool):
    """The mean of every window of (N, C, L). See `fastconv.functional.avg_pool1d`."""

    op = "avg_pool1d"


class AvgPool2d(_AvgPool):
    """The mean of every window of (N, C, H, W). See `fastconv.functional.avg_pool2d`."""

    op = "avg_pool2d"


class AvgPool3d(_AvgPool):
    """The mean of every window of (N, C, D, H, W). See `fastconv.functional.avg_pool3d`."""

    op = "avg_pool3d"


class _LpPool(OpLayer):
    def __init__(
        self,
        norm_type: float,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        ceil_mode: bool = False,
        *,
        padding: Padding = 0,
    ) -> None:
        self.configure(
            norm_type=norm_type, kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode
        )


class LpPool1d(_LpPool):
    """The p-norm of every window of (N, C, L). See `fastconv.functional.lp_pool1d`."""

    op = "lp_pool1d"


class LpPool2d(_LpPool):
    """The p-norm of every window of (N, C, H, W). See `fastconv.functional.lp_pool2d`."""

    op = "lp_pool2d"


class LpPool3d(_LpPool):
    """The p-norm of every window of (N, C, D, H, W). See `fastconv.functional.lp_pool3d`."""

    op = "lp_pool3d"


class _AdaptivePool(OpLayer):
    def __init__(self, output_size: AdaptiveSizes) -> None:
        self.configure(output_size=output_size)


class _AdaptiveMaxPool(OpLayer):
    def __init__(self, output_size: AdaptiveSizes, return_indices: bool = False) -> None:
        need_default(type(self).__name__, False, return_indices=return_indices)
        self.configure(output_size=output_size)


class AdaptiveAvgPool1d(_AdaptivePool):
    """The average of as many windows of (N, C, L) as are asked for: `functional.adaptive_avg_pool1d`."""

    op = "adaptive_avg_pool1d"


class AdaptiveAvgPool2d(_AdaptivePool):
    """The average of as many windows of (N, C, H, W) as are asked for: `functional.adaptive_avg_pool2d`."""

    op = "adaptive_avg_pool2d"


class AdaptiveAvgPool3d(_AdaptivePool):
    """The average of as many windows of (N, C, D, H, W) as are asked for: `functional.adaptive_avg_pool3d`."""

    op = "adaptive_avg_pool3d"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The maximum of as many windows of (N, C, L) as are asked for: `functional.adaptive_max_pool1d`."""

    op = "adaptive_max_pool1d"


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The maximum of as many windows of (N, C, H, W) as are asked for: `functional.adaptive_max_pool2d`."""

    op = "adaptive_max_pool2d"


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The maximum of as many windows of (N, C, D, H, W) as are asked for: `functional.adaptive_max_pool3d`."""

    op = "adaptive_max_pool3d"


class FunctionPool2d(OpLayer):
    """Pooling by a function of one's own. See `fastconv.functional.function_pool2d`.

    function   windows (..., R * S) -> (...), or what `fastconv.register` made of such a function, or its name: then
               its gradient is the registered backward, and the layer can be saved, by that name
    vjp        (windows, dy) -> dwindows: the gradient of a function that is not registered (default: central
               differences, with a warning)
    """

    op = "function_pool2d"

    def __init__(
        self,
        function: Callable[..., Any] | str,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Padding = 0,
        vjp: Callable[..., Any] | None = None,
    ) -> None:
        name = function if isinstance(function, str) else getattr(function, "__name__", None)
        if isinstance(function, str) and function not in OPS:
            raise ValueError(f"FunctionPool2d: no operation is called {function!r}; fastconv.register adds one")
        self._registered = name if isinstance(function, str) or FUNCTIONS.get(str(name)) is function else None
        if self._registered is not None:
            if vjp is not None:
                raise TypeError(f"FunctionPool2d: vjp must be None, {self._registered} was registered with its own")
            self._arguments["function"] = self._registered
            function = functools.partial(_registered_forward, self._registered)
            vjp = functools.partial(_registered_vjp, self._registered)
        self.configure(function=function, kernel_size=kernel_size, stride=stride, padding=padding, vjp=vjp)

    def config(self) -> dict[str, Any]:
        if self._registered is None:
            raise ValueError(
                f"FunctionPool2d: function {self._options['function']!r} has no registered name and cannot be saved; "
                "fastconv.register gives it one"
            )
        return super().config()


def _registered_forward(name: str, windows: np.ndarray) -> Any:
    return OPS[name].forward(windows)[0]


def _registered_vjp(name: str, windows: np.ndarray, dy: np.ndarray) -> Any:
    return OPS[name].backward(dy, OPS[name].forward(windows)[1], (True,))[0]


class NetworkPool2d(Layer):
    """Pooling by a small net that is trained along with everything else (the chapter's learnable pooling).

    network       windows (M, R * S) -> (M, 1), one net for all windows of all channels; a window's taps in C order,
                  zeros where they lie in the padding
    kernel_size   int or (R, S)
    stride        int or tuple; default: kernel_size
    padding       every form that Conv2d takes, at most kernel_size // 2 on each side

    (N, C, H, W) -> (N, C, H', W'), as AvgPool2d; parameters and state_dict have the network's names behind "network.".
    """

    def __init__(self, network: Layer, kernel_size: Sizes, stride: Sizes | None = None, padding: Padding = 0) -> None:
        if not isinstance(network, Layer):
            raise TypeError(f"NetworkPool2d: network must be a layer, got {network!r}")
        self.network = network
        self._window = (kernel_size, stride, padding)
        check_window("network_pool2d", kernel_size, stride=stride, padding=padding)

    def children(self) -> dict[str, Layer]:
        return {"network": self.network}

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        a = prepare_window("network_pool2d", x, *self._window, 1, ceil_mode=False)
        taps = a.window.kernel[0] * a.window.kernel[1]
        count = x.shape[0] * x.shape[1] * a.output[0] * a.output[1]
        require("network_pool2d", x.itemsize * count * taps)
        windows = all_windows(a).reshape(count, taps)
        y, saved = named_forward("network", self.network, windows, context)
        if y.shape != (count, 1):
            raise ShapeError(
                f"network_pool2d: network must make ({count}, 1) of windows ({count}, {taps}), got {y.shape}"
            )
        return y.reshape(*x.shape[:2], *a.output), (a, saved)

    def backward(self, dy: np.ndarray, saved: Any, need_dx: bool) -> tuple[np.ndarray | None, Gradients]:
        a, kept = saved
        shares, inside = self.network.backward(np.ascontiguousarray(dy).reshape(-1, 1), kept, need_dx)
        gradients = {f"network.{name}": gradient for name, gradient in inside.items()}
        if shares is None:
            return None, gradients
        return add_windows(shares.reshape(*dy.shape, shares.shape[1]), a), gradients


class Resize(OpLayer):
    """Interpolation to another size: torch.nn.Upsample's arguments. See `fastconv.functional.resize`.

    size            int or tuple: the new lengths; or
    scale_factor    float or tuple: floor(n * scale_factor) outputs
    mode            "nearest"; "linear" (any axes), "bilinear" (4 axes), "trilinear" (5); "bicubic" or "cubic" (4)
    align_corners   the first and the last positions of input and output coincide (default None: they do not)
    """

    op = "resize"

    def __init__(
        self,
        size: Sizes | None = None,
        scale_factor: Scale | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: Any = None,
    ) -> None:
        need_default("Resize", None, recompute_scale_factor=recompute_scale_factor)
        if not isinstance(mode, str) or mode not in MODES:
            raise ShapeError(f"Resize: mode must be one of {', '.join(MODES)}, got {mode!r}{nearest(mode, MODES)}")
        self.mode = mode
        self._options = {
            "size": size, "scale": scale_factor, "mode": MODES[mode][0],
            "align_corners": False if align_corners is None else align_corners,
        }  # fmt: skip
        axes = MODES[mode][1]
        self.check(**self._options, count=None if axes is None else axes - 2)

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        axes = MODES[self.mode][1]
        if axes is not None and x.ndim != axes:
            raise ShapeError(f"resize: {self.mode} takes {axes} axes, got {x.ndim}: shape {x.shape}")
        return super().forward(x, context)


MODES: Mapping[str, tuple[str, int | None]] = {  # of Resize: functional.resize's name and the axes that torch wants
    "nearest": ("nearest", None),
    "linear": ("linear", None),
    "bilinear": ("linear", 4),
    "trilinear": ("linear", 5),
    "cubic": ("cubic", 4),
    "bicubic": ("cubic", 4),
}


class Downsample(OpLayer):
    """The first of every `factor` along each spatial axis. See `fastconv.functional.downsample`."""

    op = "downsample"

    def __init__(self, factor: Sizes, phase: Sizes = 0) -> None:
        self.configure(factor=factor, phase=phase)


class Upsample(Downsample):
    """factor - 1 zeros between neighbours along each spatial axis. See `fastconv.functional.upsample`.

    torch.nn's Upsample, which interpolates, is `Resize`.
    """

    op = "upsample"
    elsewhere: ClassVar[Mapping[str, str]] = {
        name: f"torch's Upsample is Resize here, write Resize({name}=…); Upsample puts zeros between neighbours"
        for name in ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
    }

    def __init__(self, factor: Sizes, output_size: Sizes | None = None) -> None:
        if factor is None:
            raise TypeError(f"Upsample: factor must be an integer, got None; {self.elsewhere['scale_factor']}")
        self.configure(factor=factor, output_size=output_size)
