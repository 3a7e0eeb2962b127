"""Every operation as a stateless function: torch.nn.functional's names and argument order, NumPy arrays in and out.

Logical order is N, C, then the spatial axes. float32 and float64 are kept; float16, integers and bools become the other
array's float type, or float32. So do Python's numbers and lists of them: `cross_entropy(x, y, weight=[1.0, 2.0])` keeps
x's type; NumPy's scalars give way to arrays. Any strides are accepted and inputs are never modified. What is given per
spatial axis is one number, or a sequence of one or of as many as there are axes. Each function has a naive twin of the
same name and signature in `fastconv.reference`, and `fastconv.vjp` gives its gradients.

What stands here is what callers see of the operations: `face` binds each to its own in `fastconv/ops/`.

All of them raise ShapeError (a ValueError) for shapes and window parameters that do not fit, TypeError for arrays that
hold no real numbers or for float32 beside float64, and MemoryError for what this process's memory could not hold.
"""

# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastconv.errors import nearest
from fastconv.ops import OPS
from fastconv.ops.registry import FUNCTIONS, face, reserve

TORCHS = {"interpolate": "resize", "binary_cross_entropy_with_logits": "bce_with_logits"}  # torch's names that differ

Array = np.ndarray
Sizes = int | Sequence[int]  # what layers take, too
Stride = int | Fraction | Sequence[int | Fraction]
AdaptiveSizes = int | Sequence[int | None] | None
Padding = int | str | Sequence[Any]
Scale = float | Sequence[float]


@face
def conv1d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Stride = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Array:
    """Convolution along one axis: x (N, C, L), w (K, C / groups, R), b (K,) -> (N, K, L'). See `conv2d`."""


@face
def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Stride = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Array:
    """Convolution in the sense of CNNs (cross-correlation: the filters are not reversed).

    x          (N, C, H, W)
    w          (K, C / groups, R, S)
    b          (K,) or None
    stride     int, Fraction or a tuple of them. Fraction(S2, S1): upsample by S1 (zeros between), convolve, keep every
               S2-th output
    padding    zeros around the (upsampled) input: int, tuple of ints, tuple of (before, after), "valid", "same"
               (ceil(n / stride) outputs, an odd zero at the end: ONNX SAME_UPPER) or "same_lower" (at the start)
    dilation   input steps between neighbouring taps
    groups     filter k sees the C / groups channels of group k // (K / groups)
    algorithm  "auto" (the cheapest for the shape, type and CPU), "im2col", "direct", "winograd" or "depthwise"; where
               the one asked for cannot serve, im2col does. "winograd", which "auto" takes for 2, 3 and 5 taps from 12
               channels on, errs by some 1e-6 of the largest value, and spreads nan and infinities over its tiles

    Returns (N, K, H', W') with H' = floor((H + before + after - dilation * (R - 1) - 1) / stride) + 1; for a stride of
    S2/S1 with (H - 1) * S1 + 1, the upsampled length, in place of H and S2 in place of the stride.
    Source: the chapter's convolutional layer; torch.nn.functional.conv2d; ONNX Conv.
    """


@face
def conv3d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Stride = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> Array:
    """Convolution over volumes: x (N, C, D, H, W), w (K, C / groups, Q, R, S) -> (N, K, D', H', W'). See `conv2d`."""


@face
def conv_transpose1d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    output_size: Sizes | None = None,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Array:
    """Transposed convolution: x (N, C, L), w (C, K / groups, R) -> (N, K, L'). See `conv_transpose2d`."""


@face
def conv_transpose2d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    output_size: Sizes | None = None,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Array:
    """Transposed convolution: the gradient of `conv2d` to its input, as an operation.

    x               (N, C, H, W)
    w               (C, K / groups, R, S)
    b               (K,) or None
    stride          zeros + 1 between the elements of x
    padding         rows and columns taken off the full result: int, tuple of ints, tuple of (before, after)
    output_padding  rows and columns added at the end, fewer than stride or dilation
    output_size     the output's (H', W') instead of output_padding

    Returns (N, K, H', W') with H' = (H - 1) * stride - before - after + dilation * (R - 1) + 1 + output_padding.
    Source: the chapter's upsampling layers; torch.nn.functional.conv_transpose2d; ONNX ConvTranspose.
    """


@face
def conv_transpose3d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    output_padding: Sizes = 0,
    output_size: Sizes | None = None,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Array:
    """Transposed convolution: x (N, C, D, H, W), w (C, K / groups, Q, R, S). See `conv_transpose2d`."""


@face
def locally_connected2d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
) -> Array:
    """Convolution without weight sharing: every output position has filters of its own.

    x         (N, C, H, W)
    w         (K, C, R, S, H', W'): w[..., i, j] are the filters of output position (i, j)
    b         (K, H', W') or None
    stride    int or tuple
    padding   every form that `conv2d` takes
    dilation  input steps between neighbouring taps

    Returns (N, K, H', W'), as `conv2d` with groups=1; where all positions have the same filters it is `conv2d`. Raises
    ShapeError where w has filters for other positions than the window makes of x. Source: the chapter, with which it
    explains weight sharing; Keras's LocallyConnected2D.
    """


@face
def max_pool1d(
    x: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of every window along one axis: x (N, C, L) -> (N, C, L'). See `max_pool2d`."""


@face
def max_pool2d(
    x: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of every window.

    x               (N, C, H, W)
    kernel_size     int or tuple
    stride          int or tuple; default: kernel_size
    padding         every form that `conv2d` takes, at most kernel_size // 2 on each side; padding never wins
    dilation        input steps between neighbouring taps
    ceil_mode       round output lengths up; the last window must start inside the input or the padding before it
    return_indices  return (y, indices): int64, each maximum's flat position in its (H, W) plane, the first of equals

    Returns (N, C, H', W') with H' = floor((H + before + after - dilation * (R - 1) - 1) / stride) + 1. A NaN wins, the
    first one; the gradient goes to the winner. A window without any tap inside the input (dilation and padding only)
    gives -inf and index -1. Source: torch.nn.functional.max_pool2d.
    """


@face
def max_pool3d(
    x: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of every window of volumes: x (N, C, D, H, W) -> (N, C, D', H', W'). See `max_pool2d`."""


@face
def avg_pool1d(
    x: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The average of every window along one axis: x (N, C, L) -> (N, C, L'). See `avg_pool2d`."""


@face
def avg_pool2d(
    x: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The average of every window.

    x                  (N, C, H, W)
    kernel_size        int or tuple
    stride             int or tuple; default: kernel_size
    padding            every form that `conv2d` takes, at most kernel_size // 2 on each side
    ceil_mode          round output lengths up; the last window must start inside the input or the padding before it
    count_include_pad  divide by the number of taps inside the padded input, not by those inside the input

    Returns (N, C, H', W') with H' = floor((H + before + after - R) / stride) + 1.
    Source: torch.nn.functional.avg_pool2d.
    """


@face
def avg_pool3d(
    x: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The average of every window of volumes: x (N, C, D, H, W) -> (N, C, D', H', W'). See `avg_pool2d`."""


@face
def pad(x: ArrayLike, padding: Padding, *, mode: str = "constant", value: float = 0) -> Array:
    """Elements around x, along every spatial axis.

    x        (N, C, *spatial), one to three spatial axes
    padding  how many: int, tuple of ints, or tuple of (before, after), as `conv2d` takes them
    mode     "constant": `value`; "reflect": mirrored at the first and the last element, which are not repeated (less
             than the axis is long); "replicate": the first and the last element again; "circular": the other end (at
             most as long as the axis)
    value    of the constant

    Returns (N, C, *spatial) with H' = H + before + after. The gradient of an element is the sum of its copies'. Source:
    the chapter's zero-padding; torch.nn.functional.pad (whose padding is in another order); ONNX Pad.
    """


@face
def downsample(x: ArrayLike, factor: Sizes, *, phase: Sizes = 0) -> Array:
    """Keep the first of every `factor` positions along each spatial axis.

    x       (N, C, *spatial), one to three spatial axes
    factor  int or tuple
    phase   the first position that is kept, int or tuple, 0 <= phase < factor

    Returns (N, C, *output) with ceil((n - phase) / factor) positions an axis.
    Source: the chapter, strides as resampling.
    """


@face
def upsample(x: ArrayLike, factor: Sizes, *, output_size: Sizes | None = None) -> Array:
    """Put factor - 1 zeros between neighbours along each spatial axis; the adjoint of `downsample`.

    x            (N, C, *spatial), one to three spatial axes
    factor       int or tuple
    output_size  int or tuple, at least (n - 1) * factor + 1, the default: what is beyond it are trailing zeros

    Returns (N, C, *output). Source: the chapter, strides as resampling. (`resize` interpolates.)
    """


@face
def pixel_shuffle(x: ArrayLike, upscale_factor: int) -> Array:
    """Channels to pixels: each pixel becomes upscale_factor x upscale_factor, r x r, of a channel in r * r.

    x  (N, C * r * r, H, W)

    Returns (N, C, H * r, W * r), y[n, c, h * r + i, w * r + j] = x[n, (c * r + i) * r + j, h, w], channels-last in
    memory where x is. Source: Shi et al. (2016); torch.nn.functional.pixel_shuffle; ONNX DepthToSpace of mode CRD.
    """


@face
def pixel_unshuffle(x: ArrayLike, downscale_factor: int) -> Array:
    """Pixels to channels, the inverse of `pixel_shuffle`: r = downscale_factor must divide height and width.

    x  (N, C, H, W)

    Returns (N, C * r * r, H / r, W / r), channels-last in memory where x is. Source: ONNX SpaceToDepth of mode CRD;
    torch.nn.functional.pixel_unshuffle.
    """


@face
def linear(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None) -> Array:
    """The fully-connected layer: x @ w.T + b.

    x  (N, F), or any (..., F)
    w  (K, F)
    b  (K,) or None

    Returns (..., K). Source: torch.nn.functional.linear; ONNX Gemm.
    """


@face
def flatten(x: ArrayLike) -> Array:
    """(N, ...) -> (N, F): every item's elements in logical order (C, then the spatial axes); always a copy."""


@face
def reshape(x: ArrayLike, shape: Sizes) -> Array:
    """Every item's elements, in logical order (C, then the spatial axes), in another shape; always a copy.

    x      (N, ...)
    shape  what stands behind the batch axis: a length or several, one of which may be -1, what is left

    Returns (N, *shape), channels-last in memory where x is and there are spatial axes. Source: torch.reshape; ONNX
    Reshape.
    """


@face
def unflatten(x: ArrayLike, dim: int, sizes: Sizes) -> Array:
    """An axis as several; always a copy.

    x      (N, ...)
    dim    the axis, not that of the batch; negative: from the end
    sizes  its lengths, which multiply to that of the axis; one may be -1, what is left

    Returns x's shape with `sizes` in the place of axis `dim`. Source: torch.unflatten.
    """


@face
def relu(x: ArrayLike) -> Array:
    """max(x, 0) elementwise; NaN stays NaN. The gradient at 0 is 0. Source: torch.nn.functional.relu."""


@face
def softmax(x: ArrayLike, *, dim: int = 1) -> Array:
    """exp(x) / sum(exp(x)), the sum over the axis `dim` (1: the classes). Source: torch.nn.functional.softmax."""


@face
def log_softmax(x: ArrayLike, *, dim: int = 1) -> Array:
    """x - log(sum(exp(x))), the sum over the axis `dim`. Source: torch.nn.functional.log_softmax."""


@face
def batch_norm(
    x: ArrayLike,
    running_mean: Array | None,
    running_var: Array | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias, every channel by its own mean and variance.

    x             (N, C, *spatial) or (N, C)
    running_mean, running_var   (C,), or None in training
    weight, bias  (C,) or None: 1 and 0
    training      True: mean and (biased) variance of this batch, and the running statistics are updated in place, the
                  only arguments that any function here changes: running = (1 - momentum) * running + momentum * batch's
                  (variance: unbiased). They must be float arrays then, and x must have more than one value per channel.
                  False: the running statistics

    Returns an array of x's shape. Source: torch.nn.functional.batch_norm.
    """


@face
def dropout(x: ArrayLike, p: float, *, training: bool, rng: np.random.Generator | None) -> Array:
    """In training every element is zeroed with probability p, the others are scaled by 1 / (1 - p); else a copy of x.

    p    0 to 1 (ValueError otherwise); 1 gives zeros
    rng  numpy.random.Generator; takes one 64-bit number from it. The mask depends on that number and on x's shape only.
         May be None outside training

    Source: torch.nn.functional.dropout (there, training defaults to True and the generator is global).
    """


@face
def cross_entropy(
    x: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """-log(softmax(x)[target]): the loss of a classifier whose outputs are x, without a softmax.

    x                logits (N, C) or (N, C, d1, ...)
    target           class indices (N,) or (N, d1, ...), integers; or probabilities, floats of x's shape
    weight           (C,): a factor for every class; no gradient
    ignore_index     rows with this target do not count (class indices only)
    label_smoothing  s in [0, 1]: the target is (1 - s) * target + s / C
    reduction        "mean" (over the rows, by their targets' weights), "sum" or "none"

    Returns a 0-d array, or (N, d1, ...) for "none". Raises ValueError for an index out of range. The mean of no rows is
    NaN. Source: torch.nn.functional.cross_entropy.
    """


@face
def nll_loss(
    x: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    """-x[target] for log-probabilities x (N, C, ...) and class indices (N, ...); see `cross_entropy`.

    Source: torch.nn.functional.nll_loss.
    """


@face
def mse_loss(x: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Array:
    """(x - target)^2 for arrays of one shape; reduction "mean" (over all elements), "sum" or "none".

    Returns a 0-d array, or x's shape for "none". Source: torch.nn.functional.mse_loss.
    """


@face
def l1_loss(x: ArrayLike, target: ArrayLike, *, reduction: str = "mean") -> Array:
    """|x - target|; the gradient is 0 where they are equal. Otherwise as `mse_loss`.

    Source: torch.nn.functional.l1_loss.
    """


@face
def step(x: ArrayLike) -> Array:
    """0 where x < 0, else 1; its gradient is 0. Source: the chapter's first activation function, the perceptron's."""


@face
def leaky_relu(x: ArrayLike, negative_slope: float = 0.01) -> Array:
    """x where x > 0, else negative_slope * x. Source: torch.nn.functional.leaky_relu."""


@face
def prelu(x: ArrayLike, weight: ArrayLike) -> Array:
    """x where x > 0, else weight[c] * x: x (N, C, *spatial), weight (C,), or (1,) for all channels.

    Source: torch.nn.functional.prelu.
    """


@face
def elu(x: ArrayLike, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1). Source: torch.nn.functional.elu."""


@face
def selu(x: ArrayLike) -> Array:
    """scale * elu(x, alpha) with the constants of self-normalising nets. Source: torch.nn.functional.selu."""


@face
def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """x * Phi(x), Phi the normal distribution function.

    approximate  "none", or "tanh": x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2

    Source: torch.nn.functional.gelu.
    """


@face
def silu(x: ArrayLike) -> Array:
    """x * sigmoid(x), also called swish. Source: torch.nn.functional.silu."""


@face
def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x)). Source: torch.nn.functional.sigmoid."""


@face
def tanh(x: ArrayLike) -> Array:
    """The hyperbolic tangent, elementwise. Source: torch.nn.functional.tanh."""


@face
def softplus(x: ArrayLike, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + exp(beta * x)) / beta where beta * x <= threshold, else x. Source: torch.nn.functional.softplus."""


@face
def hardswish(x: ArrayLike) -> Array:
    """x * min(max(x + 3, 0), 6) / 6. Source: torch.nn.functional.hardswish."""


@face
def instance_norm(
    x: ArrayLike,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias, every channel of every item by its own mean and variance.

    x                (N, C, *spatial), more than one position in space
    running_mean, running_var   (C,) or None: updated in place by the mean of the items' statistics (see `batch_norm`)
    weight, bias     (C,) or None: 1 and 0
    use_input_stats  False: the running statistics are used, and not updated

    Returns an array of x's shape. Source: torch.nn.functional.instance_norm.
    """


@face
def group_norm(
    x: ArrayLike, num_groups: int, weight: ArrayLike | None = None, bias: ArrayLike | None = None, eps: float = 1e-5
) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias, every group of channels of every item by its own mean and variance.

    x             (N, C, *spatial)
    num_groups    divides C; a group is C / num_groups neighbouring channels
    weight, bias  (C,) or None: 1 and 0

    Returns an array of x's shape. Source: torch.nn.functional.group_norm.
    """


@face
def layer_norm(
    x: ArrayLike,
    normalized_shape: Sizes,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias, the mean and the variance over the last axes.

    x                 (..., *normalized_shape)
    normalized_shape  int or tuple: the lengths of these axes
    weight, bias      of shape normalized_shape, or None: 1 and 0

    Returns an array of x's shape. Source: torch.nn.functional.layer_norm.
    """


@face
def local_response_norm(x: ArrayLike, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """x / (k + alpha / size * s)^beta, s the sum of x^2 over `size` neighbouring channels at the same position.

    x  (N, C, *spatial); channel c sees c - size // 2 to c + (size - 1) // 2, those that there are

    Returns an array of x's shape. Source: torch.nn.functional.local_response_norm (alpha is divided by size).
    """


@face
def bce_with_logits(
    x: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Array:
    """-(pos_weight * target * log(s) + (1 - target) * log(1 - s)) * weight, s = sigmoid(x), computed without overflow.

    x, target   of one shape; targets are probabilities
    weight      a factor for every element, pos_weight for the positive part: anything that broadcasts to x's shape; no
                gradient
    reduction   "mean" (over all elements), "sum" or "none"

    Returns a 0-d array, or x's shape for "none". Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """


@face
def lp_pool1d(
    x: ArrayLike,
    norm_type: float,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Array:
    """The p-norm of every window along one axis: x (N, C, L) -> (N, C, L'). See `lp_pool2d`."""


@face
def lp_pool2d(
    x: ArrayLike,
    norm_type: float,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Array:
    """The p-norm of every window: (sum of |x| ** p) ** (1 / p), p = norm_type.

    x            (N, C, H, W)
    norm_type    p, positive
    kernel_size  int or tuple
    stride       int or tuple; default: kernel_size
    padding      every form that `conv2d` takes, at most kernel_size // 2 on each side
    ceil_mode    round output lengths up; the last window must start inside the input or the padding before it

    Returns (N, C, H', W'), as `avg_pool2d`. The gradient of a window of zeros is 0. Source: ONNX LpPool (PyTorch sums
    x ** p without the absolute value and rescales windows that ceil_mode cuts off).
    """


@face
def lp_pool3d(
    x: ArrayLike,
    norm_type: float,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Array:
    """The p-norm of every window of volumes: x (N, C, D, H, W) -> (N, C, D', H', W'). See `lp_pool2d`."""


@face
def adaptive_avg_pool1d(x: ArrayLike, output_size: AdaptiveSizes) -> Array:
    """Average pooling along one axis: x (N, C, L) -> (N, C, output_size). See `adaptive_avg_pool2d`."""


@face
def adaptive_avg_pool2d(x: ArrayLike, output_size: AdaptiveSizes) -> Array:
    """The average of as many windows as are asked for: window o of m covers floor(o n / m) .. ceil((o + 1) n / m) - 1.

    x            (N, C, H, W)
    output_size  int or tuple; None keeps a length; 1 is global average pooling

    Returns (N, C, *output_size). Source: torch.nn.functional.adaptive_avg_pool2d.
    """


@face
def adaptive_avg_pool3d(x: ArrayLike, output_size: AdaptiveSizes) -> Array:
    """Average pooling of volumes: x (N, C, D, H, W) -> (N, C, *output_size). See `adaptive_avg_pool2d`."""


@face
def adaptive_max_pool1d(x: ArrayLike, output_size: AdaptiveSizes, *, return_indices: bool = False) -> Any:
    """Max pooling along one axis: x (N, C, L) -> (N, C, output_size). See `adaptive_max_pool2d`."""


@face
def adaptive_max_pool2d(x: ArrayLike, output_size: AdaptiveSizes, *, return_indices: bool = False) -> Any:
    """The maximum of as many windows as are asked for, the windows of `adaptive_avg_pool2d`.

    x               (N, C, H, W)
    output_size     int or tuple; None keeps a length; 1 is global max pooling
    return_indices  return (y, indices), as `max_pool2d`

    Returns (N, C, *output_size). Source: torch.nn.functional.adaptive_max_pool2d.
    """


@face
def adaptive_max_pool3d(x: ArrayLike, output_size: AdaptiveSizes, *, return_indices: bool = False) -> Any:
    """Max pooling of volumes: x (N, C, D, H, W) -> (N, C, *output_size). See `adaptive_max_pool2d`."""


@face
def max_unpool1d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    output_size: Sizes | None = None,
) -> Array:
    """Unpooling along one axis: x (N, C, L) -> (N, C, L'). See `max_unpool2d`."""


@face
def max_unpool2d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    output_size: Sizes | None = None,
) -> Array:
    """Every value back to where `max_pool2d` found it, zeros elsewhere.

    x, indices   (N, C, H', W'): values, and their flat positions in the planes of the result
    kernel_size, stride, padding   those of the pooling
    output_size  (H, W) where the default is not the shape that was pooled; less than a stride away from the default

    Returns (N, C, H, W), by default H = (H' - 1) * stride - before - after + R. Where an index occurs more than once,
    the last value stays; the gradient is dy at the indices. Source: torch.nn.functional.max_unpool2d.
    """


@face
def max_unpool3d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    output_size: Sizes | None = None,
) -> Array:
    """Unpooling of volumes: x (N, C, D, H, W) -> (N, C, D', H', W'). See `max_unpool2d`."""


@face
def function_pool2d(
    x: ArrayLike,
    function: Callable[[Array], ArrayLike],
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Padding = 0,
    vjp: Callable[[Array, Array], ArrayLike] | None = None,
) -> Array:
    """Pooling by a function of one's own.

    x            (N, C, H, W)
    function     windows (..., R * S) -> (...): a window's taps in C order, zeros where they lie in the padding; it is
                 called with any number of windows at once
    kernel_size  int or tuple
    stride       int or tuple; default: kernel_size
    padding      every form that `conv2d` takes, at most kernel_size // 2 on each side
    vjp          (windows, dy) -> dwindows, the function's own gradient. Without it gradients are central differences in
                 float64, with a RuntimeWarning

    Returns (N, C, H', W'), as `avg_pool2d`. Raises ShapeError and TypeError for what `function` and `vjp` return, too.
    Source: the chapter, pooling by a learnable function.
    """


@face
def resize(
    x: ArrayLike,
    *,
    size: Sizes | None = None,
    scale: Scale | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Array:
    """Interpolate to another size.

    x              (N, C, *spatial), one to three spatial axes
    size           int or tuple: the new lengths; or
    scale          float or tuple: floor(n * scale) outputs, 1 / scale inputs apart
    mode           "nearest", "linear" (bilinear and trilinear by the number of axes) or "cubic" (two spatial axes)
    align_corners  linear and cubic: the first and the last positions of x and of the result coincide

    Returns (N, C, *size). Source: torch.nn.functional.interpolate with antialias=False and recompute_scale_factor=None.
    """


reserve(globals())


def __getattr__(name: str) -> Callable[..., Any]:
    try:
        return FUNCTIONS[name]
    except KeyError:
        meant = f"; it is {TORCHS[name]!r} here" if name in TORCHS else nearest(name, OPS)
        raise AttributeError(f"module 'fastconv.functional' has no attribute {name!r}{meant}") from None
