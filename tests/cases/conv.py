"""Cases of convolution: the worked example of a family's module (case.py says what it offers)."""

from fractions import Fraction
from typing import Any

import numpy as np

from cases.case import BadCase, Case, Draw, LayerCase
from fastconv import ShapeError


def conv(name: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = True, **options: Any) -> Case:
    def arrays(draw: Draw) -> tuple[Any, ...]:
        return draw(*x), draw(*w), draw(w[0]) if bias else None

    return Case(f"conv{len(x) - 2}d", name, arrays, options)


CASES = [
    conv("plain", (2, 3, 9), (4, 3, 3)),
    conv("no_bias", (2, 3, 9), (4, 3, 3), bias=False),
    conv("one_of_everything", (1, 1, 1), (1, 1, 1)),
    conv("empty_batch", (0, 3, 9), (4, 3, 3)),
    conv("one_channel", (3, 1, 17), (5, 1, 4), stride=2, padding=3),
    conv("padding_beyond_kernel", (2, 2, 5), (3, 2, 2), padding=4),
    conv("steps_that_nobody_takes", (2, 2, 5), (3, 2, 1), stride=2**70, dilation=2**70),
    conv("before_only", (2, 2, 7), (3, 2, 3), padding=((2, 0),)),
    conv("dilation_stride", (2, 2, 13), (3, 2, 3), dilation=3, stride=2, padding=2),
    conv("two_thirds", (2, 2, 7), (3, 2, 4), stride=Fraction(3, 2), padding=((1, 2),)),
    conv("half", (2, 2, 5), (3, 2, 3), stride=Fraction(1, 2), padding="same"),
    conv("plain", (2, 3, 6, 7), (4, 3, 3, 2)),
    conv("no_bias", (2, 3, 6, 7), (4, 3, 3, 2), bias=False),
    conv("one_of_everything", (1, 1, 1, 1), (1, 1, 1, 1)),
    conv("empty_batch", (0, 3, 6, 7), (4, 3, 3, 2), padding=1),
    conv("one_image", (1, 2, 5, 4), (3, 2, 3, 3), padding=1),
    conv("one_channel", (2, 1, 7, 6), (3, 1, 3, 3), padding=1),
    conv("one_channel_stride", (2, 1, 9, 8), (3, 1, 3, 2), stride=(2, 3), padding=(2, 1), dilation=(1, 2)),
    conv("one_filter", (2, 3, 5, 5), (1, 3, 3, 3)),
    conv("pointwise", (2, 5, 4, 3), (3, 5, 1, 1)),
    conv("pointwise_stride", (2, 3, 5, 5), (4, 3, 1, 1), stride=2),
    conv("pointwise_padding", (2, 3, 3, 4), (2, 3, 1, 1), padding=1),
    conv("pointwise_padding_after", (2, 3, 3, 4), (2, 3, 1, 1), padding=((0, 1), (0, 2))),
    conv("pointwise_groups", (2, 4, 3, 3), (6, 2, 1, 1), groups=2),
    conv("stride", (2, 2, 8, 9), (3, 2, 3, 3), stride=2),
    conv("stride_beyond_kernel", (2, 2, 8, 9), (3, 2, 2, 2), stride=(3, 4)),
    conv("last_column_unused", (2, 2, 6, 8), (3, 2, 3, 3), stride=(2, 3)),
    conv("dilation", (2, 2, 8, 9), (3, 2, 3, 3), dilation=(2, 3)),
    conv("asymmetric", (2, 2, 5, 6), (3, 2, 3, 3), padding=((0, 2), (1, 3))),
    conv("asymmetric_stride", (2, 2, 6, 5), (3, 2, 3, 2), padding=((2, 1), (0, 1)), stride=(2, 3)),
    conv("valid", (2, 2, 5, 6), (3, 2, 3, 3), padding="valid"),
    conv("same", (2, 2, 5, 6), (3, 2, 3, 4), padding="same"),
    conv("same_stride", (2, 2, 5, 7), (3, 2, 3, 4), padding="same", stride=(2, 3)),
    conv("same_dilation", (2, 2, 6, 7), (3, 2, 2, 3), padding="same", dilation=2),
    conv("same_lower", (2, 2, 5, 6), (3, 2, 2, 4), padding="same_lower"),
    conv("same_lower_stride", (2, 2, 5, 7), (3, 2, 3, 4), padding="same_lower", stride=(2, 3)),
    conv("groups", (2, 6, 5, 5), (4, 3, 3, 3), groups=2, padding=1),
    conv("groups_mixed", (2, 6, 9, 8), (3, 2, 3, 2), groups=3, stride=2, dilation=2, padding=((1, 2), (0, 3))),
    conv("depthwise", (2, 5, 6, 6), (5, 1, 3, 3), groups=5, padding=1),
    conv("depthwise_multiplier", (2, 3, 5, 5), (6, 1, 3, 3), groups=3, stride=2),
    conv("kernel_is_input", (3, 2, 5, 4), (3, 2, 5, 4)),
    conv("large_kernel", (1, 2, 9, 8), (2, 2, 7, 9), padding=4),
    conv("line_kernel", (2, 2, 6, 7), (3, 2, 1, 5), padding=(0, 2)),
    conv("tall_image", (1, 2, 40, 3), (2, 2, 3, 3), padding=1),
    conv("wide_image", (1, 2, 1, 60), (2, 2, 1, 3), padding=(0, 1)),
    conv("tall_image_mixed", (1, 2, 75, 3), (2, 2, 3, 2), stride=(2, 1), dilation=(2, 1), padding=((3, 1), (0, 1))),
    conv("tall_image_stride", (1, 3, 70, 2), (2, 3, 2, 1), stride=3, padding=1),
    conv("wide_image_stride", (1, 2, 1, 80), (2, 2, 1, 3), stride=2, padding=(0, 2)),
    conv("wide_groups", (2, 4, 1, 50), (4, 2, 1, 3), groups=2, dilation=(1, 2), padding=(0, 1)),
    conv("many_images", (18, 2, 4, 4), (2, 2, 3, 3), padding=1),
    conv("two_thirds", (2, 2, 4, 5), (3, 2, 3, 4), stride=Fraction(3, 2), padding=2),
    conv("fractions_mixed", (2, 2, 4, 6), (3, 2, 3, 3), stride=(Fraction(1, 3), 2), padding="same_lower"),
    conv("fraction_groups", (2, 4, 4, 3), (4, 2, 2, 3), stride=Fraction(2, 3), padding=1, groups=2, dilation=2),
    conv("fraction_same", (1, 2, 5, 4), (2, 2, 3, 2), stride=Fraction(2, 3), padding="same"),
    conv("fraction_one_channel", (2, 1, 4, 5), (3, 1, 3, 3), stride=Fraction(3, 2), padding=1),
    conv("whole_fraction", (2, 2, 5, 5), (3, 2, 3, 3), stride=Fraction(4, 2)),
    conv("im2col", (2, 2, 5, 5), (3, 2, 3, 3), algorithm="im2col"),
    conv("plain", (2, 2, 4, 5, 3), (3, 2, 2, 3, 2)),
    conv("empty_batch", (0, 2, 4, 5, 3), (3, 2, 2, 3, 2)),
    conv("mixed", (1, 4, 5, 6, 5), (2, 2, 2, 3, 2), stride=(1, 2, 2), padding=((1, 0), (2, 1), (0, 1)), groups=2),
    conv("mixed_dilation", (1, 2, 5, 6, 8), (2, 2, 2, 3, 2), padding=((1, 0), (0, 1), (0, 1)), dilation=(2, 1, 3)),
    conv("same", (1, 1, 4, 5, 3), (2, 1, 3, 2, 3), padding="same", stride=(2, 1, 2)),
    conv("pointwise", (2, 3, 2, 3, 2), (2, 3, 1, 1, 1)),
    conv("deep_volume", (1, 2, 36, 3, 2), (2, 2, 3, 2, 2), padding=1),
    conv("fraction", (1, 2, 3, 2, 3), (2, 2, 2, 2, 2), stride=(Fraction(1, 2), 1, Fraction(2, 3)), padding=1),
]  # fmt: skip

LARGE = [
    conv("line", (4, 8, 5000), (16, 8, 5), padding=((2, 2),)),
    conv("batch", (32, 8, 28, 28), (16, 8, 3, 3), padding="same"),
    conv("one_image", (1, 3, 150, 140), (16, 3, 5, 5), stride=2, padding="same"),
    conv("one_channel", (16, 1, 50, 60), (8, 1, 5, 5), padding="valid"),
    conv("pointwise", (8, 32, 30, 30), (48, 32, 1, 1), padding="valid"),
    conv("one_image_pointwise", (1, 16, 130, 130), (16, 16, 1, 1), padding="valid"),
    conv("depthwise", (4, 32, 40, 40), (32, 1, 3, 3), padding="same", groups=32),
    conv("groups", (4, 32, 30, 30), (32, 8, 3, 3), stride=(1, 2), padding="same_lower", dilation=(2, 1), groups=4),
    conv("many_channels", (4, 128, 10, 10), (160, 128, 3, 3), padding="same"),
    conv("fraction", (4, 8, 40, 40), (8, 8, 5, 5), stride=Fraction(2, 3), padding="same"),
    conv("volume", (2, 6, 20, 22, 24), (8, 6, 3, 3, 3), stride=(1, 2, 1), padding="same"),
]


def bad(
    name: str, error: type[Exception], match: str, *,
    x: Any = (2, 4, 6, 6), w: Any = (6, 4, 3, 3), b: Any = None, reference: bool = True, op: str = "conv2d",
    **options: Any,
) -> BadCase:  # fmt: skip
    """A shape stands for an array of zeros; anything else is handed on as it is."""
    arguments = tuple(np.zeros(a, np.float32) if isinstance(a, tuple) else a for a in (x, w, b))
    return BadCase(op, name, arguments, options, error, match, reference)


BAD_CASES = [
    bad("no_batch_axis", ShapeError, r"x must have 4 axes \(N C H W\), got 3: shape \(4, 6, 6\)", x=(4, 6, 6)),
    bad("no_array", TypeError, "x must hold real numbers", x="image"),
    bad("x_is_none", TypeError, "x must hold real numbers.*, got None", x=None),
    bad("w_is_none", TypeError, "w must hold real numbers.*, got None", w=None),
    bad("w_axes", ShapeError, r"w must have 4 axes \(K C/groups H W\), got 3", w=(6, 4, 3)),
    bad("w_channels", ShapeError, r"w must have as many channels .* w \(6, 3, 3, 3\) and x \(2, 4", w=(6, 3, 3, 3)),
    bad("no_filters", ShapeError, "w must not be empty along K", w=(0, 4, 3, 3)),
    bad("no_channels", ShapeError, "x must not be empty along C", x=(2, 0, 6, 6)),
    bad("no_pixels", ShapeError, "x must not be empty along W", x=(2, 4, 6, 0)),
    bad("no_taps", ShapeError, "w must not be empty along H", w=(6, 4, 0, 3)),
    bad("b_length", ShapeError, r"b must have one entry per filter, shape \(6,\), got \(5,\)", b=(5,)),
    bad("b_axes", ShapeError, r"b must have one entry per filter, shape \(6,\), got \(6, 1\)", b=(6, 1)),
    bad("groups_zero", ShapeError, "groups must be at least 1, got 0", groups=0),
    bad("groups_channels", ShapeError, "groups must divide the channels of x .*, got 3 for 4 and 6", groups=3),
    bad("groups_filters", ShapeError, "groups must divide .* got 4 for 4 and 6", groups=4),
    bad("groups_float", TypeError, "groups must be an integer, got 2.0", groups=2.0),
    bad("kernel_too_large", ShapeError, r"the kernel must not be larger than the padded input: on", w=(6, 4, 3, 7)),
    bad("kernel_too_large_where", ShapeError, r"axis 1 it spans 7, the input is 6 \+ 0 \+ 0 = 6", w=(6, 4, 3, 7)),
    bad("dilated_too_large", ShapeError, r"it spans 9, the input is 6 \+ 1 \+ 1 = 8", dilation=(4, 1), padding=1),
    bad("stride_zero", ShapeError, "stride must be at least 1, got 0", stride=0),
    bad("stride_negative", ShapeError, "stride must be at least 1, got -1", stride=(1, -1)),
    bad("stride_fraction_negative", ShapeError, "stride must be positive, got -1/2", stride=Fraction(-1, 2)),
    bad("stride_float", TypeError, r"stride must be an integer, got 1.5; write Fraction\(3, 2\)$", stride=1.5),
    bad("stride_count", ShapeError, r"stride must be one number or 2 of them, got 3: \(1, 1, 1\)", stride=(1, 1, 1)),
    bad("stride_none", TypeError, "stride must be an integer, got None", stride=None),
    bad("dilation_zero", ShapeError, "dilation must be at least 1, got 0", dilation=0),
    bad("dilation_fraction", TypeError, "dilation must be an integer", dilation=Fraction(1, 2)),
    bad("dilation_count", ShapeError, "dilation must be one number or 2 of them, got 3", dilation=(1, 1, 1)),
    bad("padding_negative", ShapeError, "padding must be at least 0, got -1", padding=-1),
    bad("padding_float", TypeError, "padding must be an integer, got 0.5", padding=0.5),
    bad("padding_count", ShapeError, "padding must be one number or 2 of them, got 3", padding=(1, 1, 1)),
    bad("padding_triple", ShapeError, "padding must be one number or 2 of them, got 3", padding=((1, 1, 1), (1, 1, 1))),
    bad("padding_name", ShapeError, "padding must be numbers, \"valid\", .* got 'full'", padding="full"),
    bad("algorithm", ValueError, "algorithm must be one of auto, .*, got 'fft'", reference=False, algorithm="fft"),
    bad("mixed_floats", TypeError, "arrays must share one float type", w=np.zeros((6, 4, 3, 3))),
    bad("huge_padding", MemoryError, "needs .* bytes of memory", padding=2**40),
    bad("huge_padding_empty_batch", MemoryError, "needs .* bytes of memory", x=(0, 4, 6, 6), padding=2**40),
    bad("huge_padding_and_stride", ShapeError, "must be at most .*, got 1180591620717411303424", padding=2**70, stride=2**69),
    bad("huge_padding_one_axis", MemoryError, "needs .* bytes of memory", padding=(2**40, 0)),
    bad("huge_output", MemoryError, "needs 137,441,050,632,000 bytes", x=(50, 1, 1, 1), w=(40, 1, 1, 1), padding=2**16),
    bad("axes", ShapeError, r"x must have 3 axes \(N C L\), got 4", op="conv1d"),
    bad("axes", ShapeError, r"x must have 5 axes \(N C D H W\), got 4", op="conv3d", w=(6, 4, 3, 3, 3)),
]  # fmt: skip


def random_conv(rng: np.random.Generator, ndim: int) -> Case:
    """All options mixed, shapes that fit."""
    groups = int(rng.choice([1, 1, 2, 3]))
    wide = rng.random() < 0.15  # enough channels for the algorithms that want vectors of them
    per_group, filters = int(rng.integers(1, 40 if wide else 5)), groups * int(rng.integers(1, 40 if wide else 4))
    kernel = rng.integers(1, 5 if ndim < 3 else 4, ndim)
    dilation = rng.integers(1, 4, ndim)
    before, after = rng.integers(0, 4, (2, ndim))
    spans = (kernel - 1) * dilation + 1
    stride = [
        Fraction(int(rng.integers(1, 5)), int(rng.integers(2, 4))) if rng.random() < 0.2 else int(rng.integers(1, 4))
        for _ in range(ndim)
    ]
    smallest = np.maximum(1, spans - before - after)
    spatial = smallest + rng.integers(0, 2 if wide else {1: 20, 2: 8, 3: 4}[ndim], ndim)
    form = rng.integers(0, 5)
    if form == 0:
        padding: Any = str(rng.choice(["same", "same_lower"]))
    elif form == 1:
        padding = "valid"
        spatial = np.maximum(spatial, spans)
    elif form == 2:
        padding = tuple(int(p) for p in np.maximum(before, after))
    else:
        padding = tuple((int(p), int(q)) for p, q in zip(before, after, strict=True))
    return conv(
        "random",
        (int(rng.choice([1, 2, 3, 17], p=[0.4, 0.3, 0.2, 0.1])), groups * per_group, *map(int, spatial)),
        (filters, per_group, *map(int, kernel)),
        bias=bool(rng.random() < 0.7),
        stride=tuple(stride) if rng.random() < 0.8 else 1,
        padding=padding,
        dilation=tuple(int(d) for d in dilation),
        groups=groups,
    )


def torch_conv(
    torch: Any, x: Any, w: Any, b: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """The same by padding and upsampling beforehand, by API.md's words."""
    ndim = x.ndim - 2
    stride, dilation = (v if isinstance(v, tuple) else (v,) * ndim for v in (stride, dilation))
    up = [Fraction(s).denominator for s in stride]
    stride = tuple(Fraction(s).numerator for s in stride)
    if max(up) > 1:
        wide = x.new_zeros(*x.shape[:2], *((n - 1) * u + 1 for n, u in zip(x.shape[2:], up, strict=True)))
        wide[(..., *(slice(None, None, u) for u in up))] = x
        x = wide
    pairs = []
    for axis in range(ndim):
        n, s, span = x.shape[2 + axis], stride[axis], (w.shape[2 + axis] - 1) * dilation[axis] + 1
        if padding == "valid":
            pairs.append((0, 0))
        elif isinstance(padding, str):
            total = max(0, (-(-n // s) - 1) * s + span - n)
            pairs.append((total // 2, total - total // 2) if padding == "same" else (total - total // 2, total // 2))
        else:
            p = padding[axis] if isinstance(padding, tuple) else padding
            pairs.append(p if isinstance(p, tuple) else (p, p))
    x = torch.nn.functional.pad(x, [amount for pair in reversed(pairs) for amount in pair])
    function = getattr(torch.nn.functional, f"conv{ndim}d")
    return function(x, w, b, stride=stride, dilation=dilation, groups=groups)


RANDOM = {
    "conv1d": lambda rng: random_conv(rng, 1),
    "conv2d": lambda rng: random_conv(rng, 2),
    "conv3d": lambda rng: random_conv(rng, 3),
}
TORCH = {"conv1d": torch_conv, "conv2d": torch_conv, "conv3d": torch_conv}

LAYERS = [
    LayerCase("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1}, (2, 4, 9)),
    LayerCase("Conv1d", (2, 2, 4), {"padding": "same", "dilation": 2}, (2, 2, 16)),
    LayerCase("Conv1d", (2, 2, 4), {"padding": "same_lower"}, (2, 2, 12), twin=False),
    LayerCase("Conv1d", (2, 2, 5), {"stride": Fraction(3, 2), "padding": ((1, 2),)}, (2, 2, 14), twin=False),
    LayerCase("Conv1d", (2, 2, 3), {"stride": Fraction(1, 3)}, (2, 2, 9), twin=False),
    LayerCase("Conv2d", (4, 6, 3), {"groups": 2, "stride": 2, "padding": 1, "dilation": 2}, (2, 4, 11, 9)),
    LayerCase("Conv2d", (3, 5, (3, 1)), {"bias": False, "padding": "same"}, (2, 3, 6, 7)),
    LayerCase("Conv2d", (2, 2, (2, 3)), {"stride": (3, 1), "padding": ((0, 2), (2, 0))}, (1, 2, 9, 7), twin=False),
    LayerCase("Conv2d", (2, 2, 2), {"stride": (Fraction(1, 2), 2)}, (1, 2, 5, 6), twin=False),
    LayerCase("Conv2d", (4, 4, 3), {"groups": 4}, (1, 4, 6, 7)),
    *(
        LayerCase(
            f"Conv{axes}d", (2, 3, 3), {"padding": 2, "stride": 2, "padding_mode": mode}, (2, 2, 5, 6, 4)[: axes + 2]
        )
        for axes in (1, 2, 3)
        for mode in ("reflect", "replicate", "circular")
    ),
    LayerCase("Conv2d", (2, 2, (4, 3)), {"padding": "same", "padding_mode": "reflect"}, (1, 2, 6, 7)),
    LayerCase("Conv2d", (2, 2, 2), {"padding": ((0, 2), (1, 0)), "padding_mode": "circular"}, (1, 2, 4, 5), twin=False),
    LayerCase("Conv3d", (2, 3, 2), {"padding": 1}, (2, 2, 3, 4, 3)),
    LayerCase("Conv3d", (1, 2, (1, 2, 3)), {"stride": (1, 2, 1), "dilation": (1, 1, 2)}, (1, 1, 3, 5, 7)),
]
