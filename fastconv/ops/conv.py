"""Convolution over one, two or three spatial axes (cross-correlation, as in every CNN library).

    y[n, k, o] = b[k] + sum over c, t of x[n, c, o * stride - before + t * dilation] * w[k, c, t]

    x   (N, C, *spatial)
    w   (K, C / groups, *kernel)     filter k sees the channels of its group k // (K / groups)
    b   (K,) or None
    y   (N, K, *output)              output: window.Window.output

A rational stride S2/S1 upsamples x by S1 (S1 - 1 zeros between neighbours) before the convolution with stride S2.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastconv import runtime
from fastconv._ext import lowering, rows
from fastconv.arrays import as_floats, channel_sums, channels_last, lift, logical, need_axes
from fastconv.errors import ShapeError
from fastconv.ops.naive import windows
from fastconv.ops.registry import add
from fastconv.window import Window, integers
from fastconv.workspace import allocate, get_workspace_limit, require

TILE_BYTES = 1 << 20  # of a column tile: half of a core's L2
TASKS = 16  # pieces that a layer is cut into where its size allows: enough for the threads of one socket
HALO = 8  # an image is cut into bands only where a band is this many times as long as what neighbours compute twice

ALGORITHMS = ("auto", "im2col")
AXES = ("L", "H W", "D H W")


# --- shape rule ------------------------------------------------------------------------------------------------------


class Arguments(NamedTuple):
    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    window: Window
    groups: int
    output: tuple[int, ...]


def prepare(
    op: str, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any, algorithm: Any
) -> Arguments:
    """Check everything that can be wrong with a call; what comes back is proven to fit."""
    ndim = int(op[-2])
    x, w, b = as_floats(op, x=x, w=w, b=b)
    need_axes(op, "x", x, f"N C {AXES[ndim - 1]}")
    need_axes(op, "w", w, f"K C/groups {AXES[ndim - 1]}")
    (groups,) = integers(op, "groups", groups, 1, 1)
    channels, filters = x.shape[1], w.shape[0]
    if channels % groups or filters % groups:
        raise ShapeError(
            f"{op}: groups must divide the channels of x and the filters, got {groups} for {channels} and {filters}"
        )
    if w.shape[1] * groups != channels:
        raise ShapeError(
            f"{op}: w must have as many channels as x has per group, got w {w.shape} and x {x.shape}, groups={groups}"
        )
    if b is not None and b.shape != (filters,):
        raise ShapeError(f"{op}: b must have one entry per filter, shape ({filters},), got {b.shape}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"{op}: algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    window = Window.parse(op, x.shape[2:], w.shape[2:], stride, padding, dilation)
    output = window.output(x.shape[2:])
    require(op, x.dtype.itemsize * x.shape[0] * filters * int(np.prod(output, dtype=object)))
    return Arguments(x, w, b, window, groups, output)


# --- reference -------------------------------------------------------------------------------------------------------


def reference(
    op: str, x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    algorithm: str = "auto",
) -> tuple[np.ndarray, Any]:  # fmt: skip
    a = prepare(op, x, w, b, stride, padding, dilation, groups, "auto")
    taps = windows(a.window, a.x.shape[2:], a.output)
    batch, filters, per_group = a.x.shape[0], a.w.shape[0], a.w.shape[1]
    xs, ws = _planes(a.x), _planes(a.w)
    ys = []
    for n in range(batch):
        for k in range(filters):
            first = k // (filters // a.groups) * per_group
            for inside in taps:
                total = 0.0 if a.b is None else float(a.b[k])
                for c in range(per_group):
                    plane, weights = xs[n][first + c], ws[k][c]
                    for i, t in inside:
                        total += plane[i] * weights[t]
                ys.append(total)
    return np.array(ys, a.x.dtype).reshape(batch, filters, *a.output), (a, taps)


def reference_backward(dy: np.ndarray, saved: Any, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    a, taps = saved
    batch, filters, per_group = a.x.shape[0], a.w.shape[0], a.w.shape[1]
    xs, ws, dys = _planes(a.x), _planes(a.w), _planes(dy)
    dxs, dws, dbs = _planes(np.zeros(a.x.shape)), _planes(np.zeros(a.w.shape)), [0.0] * filters
    for n in range(batch):
        for k in range(filters):
            first = k // (filters // a.groups) * per_group
            for d, inside in zip(dys[n][k], taps, strict=True):
                dbs[k] += d
                for c in range(per_group):
                    plane, weights = xs[n][first + c], ws[k][c]
                    dplane, dweights = dxs[n][first + c], dws[k][c]
                    for i, t in inside:
                        dplane[i] += d * weights[t]
                        dweights[t] += d * plane[i]
    dx = np.array(dxs, a.x.dtype).reshape(a.x.shape)
    dw = np.array(dws, a.x.dtype).reshape(a.w.shape)
    return dx, dw, None if a.b is None else np.array(dbs, a.x.dtype)


def _planes(array: np.ndarray) -> list[list[list[float]]]:
    """(A, B, *spatial) as nested lists with the spatial axes as one."""
    return array.reshape(*array.shape[:2], int(np.prod(array.shape[2:]))).tolist()


# --- fast: tiles of im2col, one matrix multiply each -----------------------------------------------------------------


class Saved(NamedTuple):
    x: np.ndarray  # (N, i0, i1, i2, C), upsampled
    w: np.ndarray  # (K, width)
    window: Window  # lifted, integer stride
    up: tuple[int, ...]
    groups: int
    x_shape: tuple[int, ...]  # (N, C, *spatial)
    w_shape: tuple[int, ...]
    y_shape: tuple[int, ...]  # (N, K, *output)
    has_bias: bool


def forward(
    op: str, x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    algorithm: str = "auto",
) -> tuple[np.ndarray, Saved]:  # fmt: skip
    x, w, b, window, groups, output = prepare(op, x, w, b, stride, padding, dilation, groups, algorithm)
    lifted = window.lift()
    x_last = insert_zeros(op, lift(channels_last(op, x)), lifted.up)
    filters = w.shape[0]
    w_last = channels_last(op, w).reshape(filters, -1)  # (K, r0 * r1 * r2 * C / groups)
    y_last = allocate(op, (x.shape[0], *output, filters), x.dtype)
    pixels = x.shape[0] * int(np.prod(output))
    if pixels:
        bias = None if b is None else np.ascontiguousarray(b)
        tile = tile_pixels(pixels, w_last.shape[1] * x.itemsize)
        buffers = thread_buffers(op, tile * w_last.shape[1], -(-pixels // tile), pixels * w_last.size, x.dtype)
        with runtime.blas_held():
            lowering.forward(x_last, w_last, bias, lift(y_last), lifted, groups, tile, buffers)
    y = logical(y_last)
    return y, Saved(x_last, w_last, lifted, lifted.up, groups, x.shape, w.shape, y.shape, b is not None)


def backward(op: str, dy: np.ndarray, saved: Saved, needs: tuple[bool, ...]) -> tuple[np.ndarray | None, ...]:
    dy_last = lift(channels_last(op, dy))  # (N, o0, o1, o2, K)
    dx = backward_input(op, dy_last, saved) if needs[0] else None
    dw = backward_weights(op, dy_last, saved) if needs[1] else None
    db = None
    if saved.has_bias and needs[2]:
        db = channel_sums(dy_last).astype(dy.dtype)
    return dx, dw, db


def backward_input(op: str, dy_last: np.ndarray, saved: Saved) -> np.ndarray:
    """dx = col2im(dy @ w)."""
    dx_last = allocate(op, saved.x.shape, dy_last.dtype)  # (N, i0, i1, i2, C), upsampled
    batch, window = dy_last.shape[0], saved.window
    if dx_last.size:
        width = saved.w.shape[1]
        pixels = int(np.prod(dy_last.shape[1:4]))
        tile = tile_pixels(batch * pixels, width * dx_last.itemsize)
        axis = next((axis for axis in range(3) if dy_last.shape[1 + axis] > 1), 2)
        images = max(1, min(tile // pixels, batch // TASKS))
        lines = saved.x.shape[1 + axis] // (HALO * max(1, window.spans[axis] - 1))
        bands = max(1, min(-(-TASKS // batch), lines))
        tasks = -(-batch // images) * bands
        buffers = thread_buffers(op, tile * width, tasks, batch * pixels * saved.w.size, dx_last.dtype)
        with runtime.blas_held():
            lowering.backward_input(
                dy_last, saved.w, dx_last, window, saved.groups, tile, images, bands, axis, buffers
            )  # fmt: skip
    n, c, *spatial = saved.x_shape
    return logical(keep_every(op, dx_last, saved.up).reshape(n, *spatial, c))


def backward_weights(op: str, dy_last: np.ndarray, saved: Saved) -> np.ndarray:
    """dw = dy.T @ im2col(x), chunk by chunk of tiles; the chunks' sums are added in order."""
    filters, width = saved.w.shape
    pixels = dy_last.size // filters
    dw = allocate(op, saved.w.shape, dy_last.dtype)
    if not pixels:
        dw[...] = 0
    else:
        tile = tile_pixels(pixels, width * dw.itemsize)
        tiles = -(-pixels // tile)
        chunks = max(1, min(tiles, TASKS, get_workspace_limit() // 4 // dw.nbytes))
        partial = dw[None] if chunks == 1 else allocate(op, (chunks, *dw.shape), dw.dtype)
        buffers = thread_buffers(op, tile * width, chunks, pixels * saved.w.size, dw.dtype)
        with runtime.blas_held():
            lowering.backward_weights(saved.x, dy_last, partial, saved.window, saved.groups, tile, buffers)
        if chunks > 1:
            rows.add_in_order(partial.reshape(chunks, -1), dw.reshape(-1), runtime.threads_for(partial.nbytes))
    return logical(dw.reshape(filters, *saved.w_shape[2:], saved.w_shape[1]))


def tile_pixels(pixels: int, row_bytes: int) -> int:
    """Output pixels a tile: its columns fill TILE_BYTES, less where the layer is small or the workspace limit low."""
    by_memory = min(TILE_BYTES, get_workspace_limit() // 8) // row_bytes
    return max(1, min(by_memory, max(64, -(-pixels // TASKS))))


def thread_buffers(op: str, elements: int, tasks: int, multiply_adds: int, dtype: np.dtype) -> np.ndarray:
    """Scratch of shape (threads, elements): as many rows as threads are worth their while under the workspace limit."""
    affordable = get_workspace_limit() // (elements * dtype.itemsize)
    threads = max(1, min(runtime.threads_for(multiply_adds // 4), tasks, affordable))
    return allocate(op, (threads, elements), dtype)


def insert_zeros(op: str, last: np.ndarray, up: tuple[int, ...]) -> np.ndarray:
    """(N, i0, i1, i2, C) with up - 1 zeros between neighbours."""
    if up == (1, 1, 1):
        return last
    spatial = [(n - 1) * u + 1 if n else 0 for n, u in zip(last.shape[1:4], up, strict=True)]
    out = allocate(op, (last.shape[0], *spatial, last.shape[4]), last.dtype)
    out[...] = 0
    out[:, :: up[0], :: up[1], :: up[2]] = last
    return out


def keep_every(op: str, last: np.ndarray, up: tuple[int, ...]) -> np.ndarray:
    """The adjoint of `insert_zeros`."""
    if up == (1, 1, 1):
        return last
    return np.ascontiguousarray(last[:, :: up[0], :: up[1], :: up[2]])


for _name in ("conv1d", "conv2d", "conv3d"):
    add(
        _name,
        forward=partial(forward, _name),
        backward=partial(backward, _name),
        reference=partial(reference, _name),
        reference_backward=reference_backward,
    )
