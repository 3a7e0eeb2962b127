"""The geometry of one convolution or pool: padding from sizes, convolution as a matrix, window indices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import functional
from fastconv.arrays import as_floats
from fastconv.errors import ShapeError
from fastconv.machine.memory import require
from fastconv.ops.pool.windows import prepare
from fastconv.window import Window, integers

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["conv_matrix", "infer_padding", "window_indices"]

Pairs = tuple[tuple[int, int], ...]

# --- padding from sizes ----------------------------------------------------------------------------------------------


def infer_padding(
    input_size: Any, output_size: Any, kernel_size: Any, stride: Any = 1, dilation: Any = 1, *, all: bool = False
) -> Any:
    """The padding ((before, after), …) that makes `output_size` of `input_size`: the smallest, the extra zero after.

    Every argument is a number or one per axis; there are as many axes as the longest has. stride may be a Fraction, as
    a convolution's. The output has floor((m + before + after - span) / stride) + 1 elements, m the (upsampled) input's
    length and span = dilation * (kernel - 1) + 1.

    all   every answer instead, in a list, the smallest first; per total the most even split first

    Raises ShapeError where there is none.
    """
    op = "infer_padding"
    given = {"input_size": input_size, "output_size": output_size, "kernel_size": kernel_size, "stride": stride,
             "dilation": dilation}  # fmt: skip
    ndim = max((len(value) for value in given.values() if hasattr(value, "__len__")), default=1)
    inputs = integers(op, "input_size", input_size, ndim, 1)
    outputs = integers(op, "output_size", output_size, ndim, 1)
    kernels = integers(op, "kernel_size", kernel_size, ndim, 1)
    dilations = integers(op, "dilation", dilation, ndim, 1)
    around = [(d * (k - 1) + 1,) * 2 for k, d in zip(kernels, dilations, strict=True)]  # so that every window fits
    window = Window.parse(op, inputs, kernels, stride, around, dilations)
    per_axis = []
    for axis, (n, m, up, s, span) in enumerate(
        zip(inputs, outputs, window.up, window.stride, window.spans, strict=True)
    ):
        length = (n - 1) * up + 1
        least = (m - 1) * s + span - length  # zeros in all; s - 1 more leave the output as it is
        if least + s - 1 < 0:
            without = (length - span) // s + 1
            raise ShapeError(
                f"{op}: padding must make {m} outputs on spatial axis {axis}, but without any there are {without} "
                f"already: input {n}, kernel {kernels[axis]}, dilation {dilations[axis]}, stride {s}"
                + (f"/{up}" if up > 1 else "")
            )
        per_axis.append((max(0, least), least + s - 1))
    if not all:
        return tuple((total // 2, total - total // 2) for total, _ in per_axis)
    require(op, 200 * math.prod((low + high + 2) * (high - low + 1) // 2 for low, high in per_axis))
    splits = [[pair for total in range(low, high + 1) for pair in _splits(total)] for low, high in per_axis]
    return sorted(itertools.product(*splits), key=lambda answer: [sum(map(sum, answer))])


def _splits(total: int) -> list[tuple[int, int]]:
    """Every (before, after) with that sum, the most even one first, with the extra zero after."""
    pairs = [(before, total - before) for before in range(total + 1)]
    return sorted(pairs, key=lambda pair: (abs(pair[1] - pair[0]), pair[0]))


# --- a layer of neurons as a matrix ----------------------------------------------------------------------------------


def conv_matrix(
    w: Any, input_shape: Sequence[int], *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> csr_array:
    """The matrix A of a convolution without bias, vec(z) = A vec(x): a row per neuron, a column per input element.

    w            (K, C / groups, *kernel)
    input_shape  (C, *spatial) of one x; one to three spatial axes
    A            scipy.sparse CSR, (elements of z, elements of x); vec is an array's C order, z.reshape(-1)

    The transpose is the backward pass: vec(dx) = A.T vec(dz). Options as in `fastconv.functional.conv2d`, rational
    strides included. An entry is stored for every tap that meets an input element, zeros in w too. Raises ShapeError
    for shapes that do not fit, MemoryError before anything is built.
    """
    from scipy.sparse import csr_array

    op = "conv_matrix"
    (w,) = as_floats(op, w=w)
    if not isinstance(input_shape, Sequence | np.ndarray) or not 2 <= len(input_shape) <= 4:
        raise ShapeError(f"{op}: input_shape must be (C, *spatial) with one to three spatial axes, got {input_shape!r}")
    channels, *spatial = integers(op, "input_shape", input_shape, len(input_shape), 1)
    if w.ndim != len(input_shape) + 1:
        raise ShapeError(
            f"{op}: w must have {len(input_shape) + 1} axes (K C/groups and the kernel's), got {w.ndim}: "
            f"shape {w.shape}"
        )
    (groups,) = integers(op, "groups", groups, 1, 1)
    filters, per_group = w.shape[:2]
    if channels % groups or filters % groups:
        raise ShapeError(
            f"{op}: groups must divide the channels of x and the filters, got {groups} for {channels} and {filters}"
        )
    if per_group * groups != channels:
        raise ShapeError(
            f"{op}: w must have as many channels as x has per group, got w {w.shape} and x {tuple(input_shape)}, "
            f"groups={groups}"
        )
    window = Window.parse(op, spatial, w.shape[2:], stride, padding, dilation)
    output = window.output(spatial)
    window = window.tight(op, output)
    entries = filters * per_group * math.prod(m * k for m, k in zip(output, window.kernel, strict=True))
    require(op, entries * (w.itemsize + 8 * 6))
    o, i, t = _pairs(window, spatial, output)  # flat: output position, input position, tap
    k, c = np.divmod(np.arange(filters * per_group), per_group)
    pixels, plane = math.prod(output), math.prod(spatial)
    rows = k[:, None] * pixels + o
    columns = (k // (filters // groups) * per_group + c)[:, None] * plane + i
    values = w.reshape(filters * per_group, -1)[:, t]
    return csr_array(
        (values.reshape(-1), (rows.reshape(-1), columns.reshape(-1))), shape=(filters * pixels, channels * plane)
    )


def _pairs(window: Window, spatial: Sequence[int], output: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (output, input, tap) that belong together, each as a flat position."""
    flat = [np.zeros(1, np.int64)] * 3
    for axis, (n, m) in enumerate(zip(spatial, output, strict=True)):
        k, up = window.kernel[axis], window.up[axis]
        at = np.arange(m)[:, None] * window.stride[axis] - window.padding[axis][0]
        at = at + np.arange(k) * window.dilation[axis]
        o, t = np.nonzero((at >= 0) & (at % up == 0) & (at < n * up))
        here = (o, at[o, t] // up, t)
        flat = [
            (before[:, None] * size + now).reshape(-1) for before, size, now in zip(flat, (m, n, k), here, strict=True)
        ]
    return flat[0], flat[1], flat[2]


# --- which element of its window a maximum is ------------------------------------------------------------------------


def window_indices(
    x: Any, kernel_size: Any, *, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> np.ndarray:
    """Which element of its window every output of a max-pool is: 1 … L * L, row by row, as the chapter counts them.

    x (N, C, *spatial), one to three spatial axes; the result (N, C, *output), int64. Of ties the first; options and
    errors as in `fastconv.functional.max_pool2d`. Elements in the padding are counted but never chosen; 0: a window
    without any element of x.
    """
    op = "window_indices"
    (x,) = as_floats(op, x=x)
    if not 3 <= x.ndim <= 5:
        raise ShapeError(f"{op}: x must have 3 to 5 axes (N C and one to three spatial axes), got {x.ndim}: {x.shape}")
    ndim = x.ndim - 2
    pool = getattr(functional, f"max_pool{ndim}d")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    _, chosen = pool(x, kernel_size, return_indices=True, **options)
    window = prepare(f"max_pool{ndim}d", x, kernel_size, **options).window
    number = np.zeros(chosen.shape, np.int64)
    rest = chosen
    size = 1
    for axis in reversed(range(ndim)):
        rest, position = np.divmod(rest, x.shape[2 + axis])
        o = np.arange(chosen.shape[2 + axis]).reshape((-1,) + (1,) * (ndim - 1 - axis))
        tap = (position - o * window.stride[axis] + window.padding[axis][0]) // window.dilation[axis]
        number += size * tap
        size *= window.kernel[axis]
    return np.where(chosen < 0, 0, number + 1)
