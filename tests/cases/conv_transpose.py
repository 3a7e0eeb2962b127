"""Cases of transposed convolution."""

from typing import Any

import numpy as np

from cases.case import BadCase, Case, Draw, LayerCase
from fastconv import ShapeError


def transposed(name: str, x: tuple[int, ...], w: tuple[int, ...], bias: bool = True, **options: Any) -> Case:
    def arrays(draw: Draw) -> tuple[Any, ...]:
        return draw(*x), draw(*w), draw(w[1] * options.get("groups", 1)) if bias else None

    return Case(f"conv_transpose{len(x) - 2}d", name, arrays, options)


CASES = [
    transposed("plain", (2, 3, 5), (3, 4, 3)),
    transposed("stride_output_padding", (2, 3, 5), (3, 2, 3), stride=3, padding=1, output_padding=2),
    transposed("steps_that_nobody_takes", (2, 3, 1), (3, 4, 1), stride=2**70, dilation=2**70),
    transposed("empty_batch", (0, 3, 5), (3, 4, 3)),
    transposed("plain", (2, 3, 4, 5), (3, 4, 3, 2)),
    transposed("no_bias", (2, 3, 4, 5), (3, 4, 3, 2), bias=False),
    transposed("one_of_everything", (1, 1, 1, 1), (1, 1, 1, 1)),
    transposed("empty_batch", (0, 3, 4, 5), (3, 4, 3, 2), stride=2),
    transposed("one_filter", (2, 3, 4, 4), (3, 1, 3, 3), padding=1),
    transposed("pointwise", (2, 3, 4, 4), (3, 5, 1, 1)),
    transposed("double", (2, 2, 4, 3), (2, 3, 4, 4), stride=2, padding=1),
    transposed("output_padding", (2, 2, 4, 3), (2, 3, 3, 3), stride=2, padding=1, output_padding=1),
    transposed("output_padding_by_dilation", (1, 2, 3, 3), (2, 2, 2, 2), dilation=3, output_padding=2),
    transposed("pointwise_shifted", (3, 4, 14), (4, 3, 1), padding=1, dilation=3, output_padding=2, groups=2),
    transposed("pointwise_shifted", (3, 6, 5, 4), (6, 7, 1, 1), padding=1, dilation=3, output_padding=2),
    transposed("output_size", (2, 2, 4, 3), (2, 3, 3, 3), stride=(2, 3), padding=1, output_size=(8, 9)),
    transposed("asymmetric", (2, 2, 4, 5), (2, 2, 3, 3), stride=2, padding=((0, 2), (1, 0))),
    transposed("padding_beyond_kernel", (1, 2, 6, 6), (2, 2, 2, 2), padding=3),
    transposed("stride_beyond_kernel", (2, 2, 3, 3), (2, 2, 2, 1), stride=(3, 4)),
    transposed("dilation", (2, 2, 4, 4), (2, 2, 3, 2), dilation=(2, 3), stride=2),
    transposed("groups", (2, 4, 3, 4), (4, 3, 3, 3), groups=2, stride=2, padding=1),
    transposed("depthwise", (2, 3, 4, 4), (3, 1, 3, 3), groups=3, padding=1),
    transposed("many_images", (18, 2, 3, 3), (2, 2, 3, 3), stride=2),
    transposed("tall_image", (1, 2, 30, 2), (2, 2, 3, 3), padding=1),
    transposed("plain", (1, 2, 2, 3, 3), (2, 2, 2, 3, 2)),
    transposed("empty_batch", (0, 2, 2, 3, 3), (2, 2, 2, 3, 2)),
    transposed("all_options", (1, 4, 2, 3, 3), (4, 1, 2, 2, 3), stride=(1, 2, 2), padding=((1, 0), (2, 1), (0, 1)), output_padding=(0, 1, 1), dilation=(2, 1, 2), groups=2),
]  # fmt: skip


def bad(name: str, error: type[Exception], match: str, x: Any = (2, 4, 5, 5), w: Any = (4, 6, 3, 3), b: Any = None, **options: Any) -> BadCase:  # fmt: skip
    arguments = tuple(np.zeros(a, np.float32) if isinstance(a, tuple) else a for a in (x, w, b))
    return BadCase("conv_transpose2d", name, arguments, options, error, match)


BAD_CASES = [
    bad("no_batch_axis", ShapeError, r"x must have 4 axes \(N C H W\), got 3", x=(4, 5, 5)),
    bad("w_axes", ShapeError, r"w must have 4 axes \(C K/groups H W\), got 3", w=(4, 6, 3)),
    bad("w_channels", ShapeError, "w must have as many channels as x on its first axis", w=(3, 6, 3, 3)),
    bad("groups_channels", ShapeError, "groups must divide the channels of x, got 3 for 4", groups=3),
    bad("b_length", ShapeError, r"b must have one entry per filter, shape \(6,\), got \(5,\)", b=(5,)),
    bad("stride_zero", ShapeError, "stride must be at least 1, got 0", stride=0),
    bad("nothing_left", ShapeError, r"the output must have at least one element along each axis, got \(-1, -1\)", padding=4),
    bad("output_padding_large", ShapeError, r"output_padding must be smaller than stride or dilation, got \(2, 2\)", output_padding=2, stride=2),
    bad("output_size_small", ShapeError, r"output_size must lie between \[11, 11\] and \[12, 12\], got \[10, 11\]", output_size=(10, 11), stride=2),
    bad("output_size_large", ShapeError, r"output_size must lie between \[11, 11\] and \[12, 12\], got \[13, 13\]", output_size=13, stride=2),
    bad("huge_stride", MemoryError, "needs .* bytes of memory", stride=2**40),
    bad("complex", TypeError, "x must hold real numbers", x=np.zeros((2, 4, 5, 5), complex)),
    BadCase("conv_transpose1d", "axes", (np.zeros((2, 4, 5, 5)), np.zeros((4, 6, 3))), {}, ShapeError, r"x must have 3 axes \(N C L\), got 4"),
    BadCase("conv_transpose3d", "axes", (np.zeros((2, 4, 5, 5)), np.zeros((4, 6, 3, 3, 3))), {}, ShapeError, r"x must have 5 axes \(N C D H W\), got 4"),
]  # fmt: skip


def random_transposed(rng: np.random.Generator, ndim: int) -> Case:
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, per_group = groups * int(rng.integers(1, 4)), int(rng.integers(1, 4))
    kernel = rng.integers(1, 5 if ndim < 3 else 3, ndim)
    stride, dilation = rng.integers(1, 4, ndim), rng.integers(1, 4, ndim)
    spatial = rng.integers(1, {1: 15, 2: 7, 3: 4}[ndim], ndim)
    extra = [int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)]
    full = (spatial - 1) * stride + dilation * (kernel - 1) + 1
    around = np.array([rng.integers(0, min(3, (f - 1) // 2) + 1, 2) for f in full])
    padding: Any = tuple((int(before), int(after)) for before, after in around)
    if rng.random() < 0.7:
        around[:, 1] = around[:, 0]
        padding = tuple(int(before) for before in around[:, 0])
    ending: dict[str, Any] = {"output_padding": tuple(extra)}
    if rng.random() < 0.4:
        ending = {"output_size": tuple(int(n) for n in full - around.sum(axis=1) + np.minimum(extra, stride - 1))}
    return transposed(
        "random",
        (int(rng.choice([1, 2, 3, 17])), channels, *map(int, spatial)),
        (channels, per_group, *map(int, kernel)),
        bias=bool(rng.random() < 0.7),
        stride=tuple(map(int, stride)),
        padding=padding,
        dilation=tuple(map(int, dilation)),
        groups=groups,
        **ending,
    )


def torch_transposed(
    torch: Any, x: Any, w: Any, b: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    output_padding: Any = 0, output_size: Any = None,
) -> Any:  # fmt: skip
    """The full result cut at both ends where padding is uneven, or the output's size is given."""
    ndim = x.ndim - 2
    function = getattr(torch.nn.functional, f"conv_transpose{ndim}d")
    sides = [
        p if isinstance(p, tuple) else (p, p) for p in (padding if isinstance(padding, tuple) else (padding,) * ndim)
    ]
    if output_size is None and all(before == after for before, after in sides):
        before = tuple(before for before, _ in sides)
        return function(x, w, b, stride, before, output_padding, groups, dilation)
    steps = tuple(
        max(s, d) - 1
        for s, d in zip(*((v if isinstance(v, tuple) else (v,) * ndim) for v in (stride, dilation)), strict=True)
    )
    full = function(x, w, b, stride, 0, steps, groups, dilation)  # as much output_padding as there may be
    if output_size is None:
        more = output_padding if isinstance(output_padding, tuple) else (output_padding,) * ndim
        lengths = zip(full.shape[2:], steps, sides, more, strict=True)
        output_size = tuple(n - step - sum(side) + extra for n, step, side, extra in lengths)
    elif not isinstance(output_size, tuple):
        output_size = (output_size,) * ndim
    return full[(..., *(slice(before, before + m) for (before, _), m in zip(sides, output_size, strict=True)))]


NAMES = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
RANDOM = {name: (lambda rng, ndim=ndim: random_transposed(rng, ndim)) for ndim, name in enumerate(NAMES, 1)}
TORCH = dict.fromkeys(NAMES, torch_transposed)

LAYERS = [
    LayerCase("ConvTranspose1d", (4, 6, 3), {}, (2, 4, 5)),
    LayerCase("ConvTranspose1d", (2, 2, 5), {"stride": 3, "padding": 2, "output_padding": 1}, (2, 2, 9)),
    LayerCase("ConvTranspose1d", (2, 2, 2), {"stride": 3}, (2, 2, 6)),  # some outputs read nothing
    LayerCase(
        "ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (2, 4, 5, 5)
    ),
    LayerCase("ConvTranspose2d", (2, 2, (2, 3)), {"stride": (1, 2), "dilation": (2, 1)}, (1, 2, 5, 6)),
    LayerCase("ConvTranspose2d", (2, 2, 4), {"stride": 2, "padding": ((1, 2), (0, 1))}, (1, 2, 5, 6), twin=False),
    LayerCase("ConvTranspose3d", (2, 3, 2), {"dilation": 2}, (2, 2, 3, 3, 3)),
    LayerCase("ConvTranspose3d", (1, 1, 3), {"stride": (1, 2, 1), "padding": 1}, (1, 1, 4, 3, 4)),
]
