"""Cases of convolution without weight sharing."""

from fractions import Fraction
from typing import Any

import numpy as np

from cases.case import BadCase, Case, Draw, LayerCase
from cases.pool import pairs_of
from fastconv import ShapeError

OP = "locally_connected2d"


def unshared(
    name: str, x: tuple[int, ...], w: tuple[int, ...], output: tuple[int, ...], bias: bool = True, **options: Any
) -> Case:
    """x (N, C, H, W), w (K, C, R, S), the output's (H', W')."""

    def arrays(draw: Draw) -> tuple[Any, ...]:
        return draw(*x), draw(*w, *output), draw(w[0], *output) if bias else None

    return Case(OP, name, arrays, options)


CASES = [
    unshared("plain", (2, 3, 5, 6), (4, 3, 3, 2), (3, 5)),
    unshared("no_bias", (2, 3, 5, 6), (4, 3, 3, 2), (3, 5), bias=False),
    Case(OP, "arguments_left_out", lambda draw: (draw(2, 1, 3, 3), draw(2, 1, 2, 2, 2, 2))),
    unshared("one_of_everything", (1, 1, 1, 1), (1, 1, 1, 1), (1, 1)),
    unshared("empty_batch", (0, 3, 5, 6), (4, 3, 3, 2), (3, 5)),
    unshared("one_position", (3, 2, 4, 5), (3, 2, 4, 5), (1, 1)),
    unshared("pointwise", (3, 4, 3, 2), (5, 4, 1, 1), (3, 2)),
    unshared("one_channel", (2, 1, 5, 5), (3, 1, 3, 3), (5, 5), padding=1),
    unshared("one_filter", (2, 3, 4, 4), (1, 3, 2, 2), (3, 3)),
    unshared("stride", (2, 2, 7, 8), (3, 2, 3, 3), (3, 2), stride=(2, 3)),
    unshared("stride_beyond_kernel", (2, 2, 7, 7), (3, 2, 2, 2), (2, 2), stride=4),
    unshared("last_row_unused", (2, 2, 6, 6), (2, 2, 3, 3), (2, 2), stride=2),
    unshared("dilation", (2, 2, 7, 8), (3, 2, 3, 3), (3, 2), dilation=(2, 3)),
    unshared("dilation_of_rows", (2, 2, 7, 5), (3, 2, 3, 3), (3, 3), dilation=(2, 1)),
    unshared("asymmetric", (2, 2, 4, 5), (3, 2, 3, 3), (4, 6), padding=((0, 2), (1, 2))),
    unshared("padding_beyond_kernel", (2, 2, 2, 2), (2, 2, 2, 2), (7, 7), padding=3),
    unshared("valid", (2, 2, 4, 4), (2, 2, 2, 2), (3, 3), padding="valid"),
    unshared("same", (2, 2, 5, 6), (3, 2, 3, 4), (3, 3), padding="same", stride=2),
    unshared("same_lower", (2, 2, 5, 6), (3, 2, 2, 4), (5, 6), padding="same_lower"),
    unshared("whole_fraction", (2, 2, 5, 5), (2, 2, 3, 3), (2, 2), stride=Fraction(4, 2)),
]  # fmt: skip

LARGE = [
    unshared("batch", (16, 8, 12, 12), (16, 8, 3, 3), (12, 12), padding=1),
    unshared("one_image", (1, 16, 30, 31), (16, 16, 3, 3), (15, 16), padding=1, stride=2),
    unshared("dilation", (6, 5, 20, 20), (7, 5, 3, 3), (9, 9), padding=1, stride=2, dilation=2, bias=False),
]


def bad(
    name: str, error: type[Exception], match: str, x: Any = (2, 3, 5, 5), w: Any = (4, 3, 3, 3, 3, 3), b: Any = None,
    **options: Any,
) -> BadCase:  # fmt: skip
    """A shape stands for an array of zeros; anything else is handed on as it is."""
    arguments = tuple(np.zeros(a, np.float32) if isinstance(a, tuple) else a for a in (x, w, b))
    return BadCase(OP, name, arguments, options, error, match)


BAD_CASES = [
    bad("x_axes", ShapeError, r"x must have 4 axes \(N C H W\), got 3: shape \(3, 5, 5\)", x=(3, 5, 5)),
    bad("w_axes", ShapeError, r"w must have 6 axes \(K C R S H' W'\), got 4", w=(4, 3, 3, 3)),
    bad("w_none", TypeError, "w must hold real numbers, got None", w=None),
    bad("channels", ShapeError, r"as many channels as x, got w \(4, 2, 3, 3, 3, 3\) and x \(2, 3, 5, 5\)", w=(4, 2, 3, 3, 3, 3)),
    bad("positions", ShapeError, r"every output position, \(3, 3\) with x \(2, 3, 5, 5\), got \(3, 2\)", w=(4, 3, 3, 3, 3, 2)),
    bad("positions_of_the_stride", ShapeError, r"every output position, \(2, 2\) with", stride=2),
    bad("kernel_too_large", ShapeError, "kernel must not be larger than the padded input: on spatial axis 0 it spans 6",
        w=(4, 3, 6, 3, 1, 3)),
    bad("b_shape", ShapeError, r"one entry per filter and position, shape \(4, 3, 3\), got \(4,\)", b=(4,)),
    bad("stride_zero", ShapeError, "stride must be at least 1, got 0", stride=0),
    bad("stride_fraction", TypeError, r"stride must be an integer, got .*3, 2", stride=Fraction(3, 2)),
    bad("dilation_zero", ShapeError, "dilation must be at least 1, got 0", dilation=0),
    bad("padding_negative", ShapeError, "padding must be at least 0, got -1", padding=-1),
    bad("no_pixels", ShapeError, "x must not be empty along H", x=(2, 3, 0, 5)),
    bad("mixed_floats", TypeError, "arrays must share one float type", w=np.zeros((4, 3, 3, 3, 3, 3))),
    bad("huge_padding", ShapeError, r"every output position, \(2199023255", padding=2**40),
]  # fmt: skip


def random_unshared(rng: np.random.Generator) -> Case:
    channels, filters = (int(n) for n in rng.integers(1, 6, 2))
    kernel, stride, dilation = rng.integers(1, 4, (3, 2))
    around = rng.integers(0, 3, (2, 2))
    spans = (kernel - 1) * dilation + 1
    spatial = np.maximum(1, spans - around.sum(axis=1)) + rng.integers(0, 5, 2)
    padding: Any = tuple((int(a), int(b)) for a, b in around)
    output = (spatial + around.sum(axis=1) - spans) // stride + 1
    if dilation.max() == 1 and rng.random() < 0.3:
        padding, output = str(rng.choice(["same", "same_lower"])), -(-spatial // stride)
    return unshared(
        "random",
        (int(rng.choice([1, 2, 3, 9])), channels, *map(int, spatial)),
        (filters, channels, *map(int, kernel)),
        tuple(map(int, output)),
        bias=bool(rng.random() < 0.7),
        stride=tuple(map(int, stride)),
        padding=padding,
        dilation=tuple(map(int, dilation)),
    )


def torch_unshared(torch: Any, x: Any, w: Any, b: Any = None, **options: Any) -> Any:
    """By unfold: the columns of every position times its filters."""
    channels, *kernel, height, width = w.shape[1:]
    pairs = pairs_of(x, {**options, "kernel_size": tuple(kernel)})
    x = torch.nn.functional.pad(x, [amount for pair in reversed(pairs) for amount in pair])
    columns = torch.nn.functional.unfold(x, kernel, options.get("dilation", 1), 0, options.get("stride", 1))
    columns = columns.reshape(len(x), channels, kernel[0] * kernel[1], height, width)
    y = torch.einsum("nctij,kctij->nkij", columns, w.flatten(2, 3))
    return y if b is None else y + b


RANDOM = {OP: random_unshared}
TORCH = {OP: torch_unshared}

LAYERS = [
    LayerCase("LocallyConnected2d", (2, 3, (6, 5), 3), {"padding": 1}, (1, 2, 6, 5), twin=False),
    LayerCase(
        "LocallyConnected2d", (2, 2, (3, 4), (2, 3)), {"stride": (2, 1), "dilation": (1, 2)}, (1, 2, 6, 8), False
    ),
]
