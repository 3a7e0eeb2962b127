"""Layers that pool or resample: torch.nn's names and arguments."""

from __future__ import annotations

from typing import Any

from fastconv.layers.base import OpLayer
from fastconv.layers.common import only_defaults

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
    "LpPool1d",
    "LpPool2d",
    "LpPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Upsample",
]


class _MaxPool(OpLayer):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        only_defaults(type(self).__name__, {"return_indices": return_indices}, return_indices=False)
        self._options = {
            "kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation,
            "ceil_mode": ceil_mode,
        }  # fmt: skip


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
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        **torch_options: Any,
    ) -> None:
        only_defaults(type(self).__name__, torch_options, divisor_override=None)
        self._options = {
            "kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
        }  # fmt: skip


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
        self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False, *, padding: Any = 0
    ) -> None:
        self._options = {
            "norm_type": norm_type, "kernel_size": kernel_size, "stride": stride, "padding": padding,
            "ceil_mode": ceil_mode,
        }  # fmt: skip


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
    def __init__(self, output_size: Any, **torch_options: Any) -> None:
        only_defaults(type(self).__name__, torch_options, return_indices=False)
        self._options = {"output_size": output_size}


class AdaptiveAvgPool1d(_AdaptivePool):
    """The average of as many windows of (N, C, L) as are asked for: `functional.adaptive_avg_pool1d`."""

    op = "adaptive_avg_pool1d"


class AdaptiveAvgPool2d(_AdaptivePool):
    """The average of as many windows of (N, C, H, W) as are asked for: `functional.adaptive_avg_pool2d`."""

    op = "adaptive_avg_pool2d"


class AdaptiveAvgPool3d(_AdaptivePool):
    """The average of as many windows of (N, C, D, H, W) as are asked for: `functional.adaptive_avg_pool3d`."""

    op = "adaptive_avg_pool3d"


class AdaptiveMaxPool1d(_AdaptivePool):
    """The maximum of as many windows of (N, C, L) as are asked for: `functional.adaptive_max_pool1d`."""

    op = "adaptive_max_pool1d"


class AdaptiveMaxPool2d(_AdaptivePool):
    """The maximum of as many windows of (N, C, H, W) as are asked for: `functional.adaptive_max_pool2d`."""

    op = "adaptive_max_pool2d"


class AdaptiveMaxPool3d(_AdaptivePool):
    """The maximum of as many windows of (N, C, D, H, W) as are asked for: `functional.adaptive_max_pool3d`."""

    op = "adaptive_max_pool3d"


class Downsample(OpLayer):
    """The first of every `factor` along each spatial axis. See `fastconv.functional.downsample`."""

    op = "downsample"

    def __init__(self, factor: Any, phase: Any = 0) -> None:
        self._options = {"factor": factor, "phase": phase}


class Upsample(Downsample):
    """factor - 1 zeros between neighbours along each spatial axis. See `fastconv.functional.upsample`."""

    op = "upsample"

    def __init__(self, factor: Any, output_size: Any = None) -> None:
        self._options = {"factor": factor, "output_size": output_size}
