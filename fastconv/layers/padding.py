"""Layers that pad: torch.nn's names and arguments."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastconv.errors import ShapeError
from fastconv.layers.base import Context, OpLayer
from fastconv.ops.common import number
from fastconv.window import is_sequence, pairs

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _Pad(OpLayer):
    op = "pad"
    mode: ClassVar[str]
    ndim: ClassVar[int]

    def __init__(self, padding: Any) -> None:
        self._set(padding)

    def _set(self, padding: Any, value: float = 0) -> None:
        """padding: one number, torch's flat tuple (left, right, top, bottom, front, back), or a pair for each axis."""
        layer = type(self).__name__
        if is_sequence(padding) and len(padding) == 2 * self.ndim and not any(map(is_sequence, padding)):
            padding = tuple((padding[at], padding[at + 1]) for at in range(2 * self.ndim - 2, -1, -2))
        elif is_sequence(padding) and not any(map(is_sequence, padding)):
            raise ShapeError(
                f"{layer}: padding must be one number, {2 * self.ndim} of them (left, right, top, …) or a pair for "
                f"each axis, ((before, after), …), got {len(padding)}: {padding!r}"
            )
        self.configure(padding=pairs(layer, "padding", padding, self.ndim), mode=self.mode, value=value)

    def forward(self, x: np.ndarray, context: Context) -> tuple[np.ndarray, Any]:
        if x.ndim != self.ndim + 2:
            raise ShapeError(f"{type(self).__name__}: x must have {self.ndim + 2} axes, got {x.ndim}: shape {x.shape}")
        return super().forward(x, context)


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: Any, value: float) -> None:
        self._set(padding, number(type(self).__name__, "value", value))


class ZeroPad1d(_Pad):
    """Zeros around (N, C, L). See `fastconv.functional.pad`.

    padding   int, (left, right) or ((before, after),)
    """

    mode, ndim = "constant", 1


class ZeroPad2d(_Pad):
    """Zeros around (N, C, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom) or ((before, after), …)
    """

    mode, ndim = "constant", 2


class ZeroPad3d(_Pad):
    """Zeros around (N, C, D, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom, front, back) or ((before, after), …)
    """

    mode, ndim = "constant", 3


class ConstantPad1d(_ConstantPad):
    """One value around (N, C, L). See `fastconv.functional.pad`.

    padding   int, (left, right) or ((before, after),)
    value     what stands there
    """

    ndim = 1


class ConstantPad2d(_ConstantPad):
    """One value around (N, C, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom) or ((before, after), …)
    value     what stands there
    """

    ndim = 2


class ConstantPad3d(_ConstantPad):
    """One value around (N, C, D, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom, front, back) or ((before, after), …)
    value     what stands there
    """

    ndim = 3


class ReflectionPad1d(_Pad):
    """The mirror image around (N, C, L). See `fastconv.functional.pad`.

    padding   int, (left, right) or ((before, after),)
    """

    mode, ndim = "reflect", 1


class ReflectionPad2d(_Pad):
    """The mirror image around (N, C, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom) or ((before, after), …)
    """

    mode, ndim = "reflect", 2


class ReflectionPad3d(_Pad):
    """The mirror image around (N, C, D, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom, front, back) or ((before, after), …)
    """

    mode, ndim = "reflect", 3


class ReplicationPad1d(_Pad):
    """The border's elements again around (N, C, L). See `fastconv.functional.pad`.

    padding   int, (left, right) or ((before, after),)
    """

    mode, ndim = "replicate", 1


class ReplicationPad2d(_Pad):
    """The border's elements again around (N, C, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom) or ((before, after), …)
    """

    mode, ndim = "replicate", 2


class ReplicationPad3d(_Pad):
    """The border's elements again around (N, C, D, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom, front, back) or ((before, after), …)
    """

    mode, ndim = "replicate", 3


class CircularPad1d(_Pad):
    """The other end's elements around (N, C, L). See `fastconv.functional.pad`.

    padding   int, (left, right) or ((before, after),)
    """

    mode, ndim = "circular", 1


class CircularPad2d(_Pad):
    """The other end's elements around (N, C, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom) or ((before, after), …)
    """

    mode, ndim = "circular", 2


class CircularPad3d(_Pad):
    """The other end's elements around (N, C, D, H, W). See `fastconv.functional.pad`.

    padding   int, (left, right, top, bottom, front, back) or ((before, after), …)
    """

    mode, ndim = "circular", 3
