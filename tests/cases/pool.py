"""Cases of pooling and unpooling (case.py says how)."""

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

import fastconv as fc
from cases.case import BadCase, Case, Draw, LayerCase
from fastconv import ShapeError


def pool(kind: str, name: str, *x: int, exact: bool = True, gradients: bool = True, **options: Any) -> Case:
    return Case(f"{kind}_pool{len(x) - 2}d", name, lambda draw: (draw(*x),), options, exact=exact, gradients=gradients)


def unpool(name: str, x: tuple[int, ...], output: tuple[int, ...], **options: Any) -> Case:
    """Indices that differ from each other within a plane."""

    def arrays(draw: Draw) -> tuple[Any, ...]:
        size, count = int(np.prod(output)), int(np.prod(x[2:]))
        indices = [draw.rng.permutation(size)[:count] for _ in range(x[0] * x[1])]
        return draw(*x), np.array(indices, np.int64).reshape(x)

    return Case(f"max_unpool{len(x) - 2}d", name, arrays, options)


def squares(windows: Any) -> Any:
    return (windows * windows).sum(-1)


def squares_vjp(windows: Any, dy: Any) -> Any:
    return 2 * windows * dy[..., None]


def small_net(taps: int) -> fc.Layer:
    """What NetworkPool2d takes."""
    return fc.Sequential(fc.Linear(taps, 3, rng=1), fc.Tanh(), fc.Linear(3, 1, rng=2))


def alternating(windows: Any) -> Any:
    return windows[..., ::2].sum(-1)


def alternating_vjp(windows: Any, dy: Any) -> Any:
    result = np.zeros_like(windows)
    result[..., ::2] = dy[..., None]
    return result


def function(name: str, *x: int, **options: Any) -> Case:
    options = {"function": squares, "vjp": squares_vjp, **options}
    return Case("function_pool2d", name, lambda draw: (draw(*x),), options)


CASES = [
    pool("max", "plain", 2, 3, 9, kernel_size=2),
    pool("max", "indices", 2, 3, 9, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("max", "one_channel", 3, 1, 23, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("max", "one_of_everything", 1, 1, 1, kernel_size=1, return_indices=True),
    pool("max", "ceil", 2, 2, 8, kernel_size=3, ceil_mode=True, return_indices=True),
    pool("max", "ceil_beyond", 2, 2, 2, kernel_size=3, ceil_mode=True),
    pool("max", "ceil_not_in_the_padding", 2, 2, 4, kernel_size=2, stride=3, padding=1, ceil_mode=True),
    pool("max", "dilation", 2, 2, 12, kernel_size=3, dilation=3, padding=1, stride=2, return_indices=True),
    pool("max", "no_tap_inside", 2, 2, 3, kernel_size=2, dilation=4, padding=1, return_indices=True, gradients=False),
    pool("max", "empty_batch", 0, 3, 9, kernel_size=2),
    pool("max", "plain", 2, 3, 6, 7, kernel_size=2),
    Case("max_pool2d", "positional", lambda draw: (draw(2, 3, 6, 7), 2)),
    pool("max", "overlapping", 2, 5, 7, 8, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("max", "stride_1", 2, 19, 5, 6, kernel_size=3, stride=1, padding=1, return_indices=True),
    pool("max", "stride_beyond_kernel", 2, 17, 7, 8, kernel_size=2, stride=3, return_indices=True),
    pool("max", "channels_16", 2, 16, 6, 7, kernel_size=2, return_indices=True),
    pool("max", "channels_35", 1, 35, 4, 6, kernel_size=(2, 3), return_indices=True),
    pool("max", "channels_70", 1, 70, 4, 4, kernel_size=3, stride=1, return_indices=True),
    pool("max", "one_channel", 2, 1, 9, 13, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("max", "two_channels", 2, 2, 6, 15, kernel_size=(2, 3), stride=(1, 2), return_indices=True),
    pool("max", "sixteen_taps", 1, 9, 6, 6, kernel_size=4, stride=1, padding=2),
    pool("max", "many_taps", 1, 18, 6, 6, kernel_size=5, stride=1, padding=2, return_indices=True),
    pool("max", "taps_beyond_a_byte", 1, 2, 17, 18, kernel_size=(17, 16), stride=1, return_indices=True),
    pool("max", "asymmetric", 2, 3, 5, 6, kernel_size=3, stride=2, padding=((0, 1), (1, 0)), return_indices=True),
    pool("max", "same", 2, 3, 5, 6, kernel_size=(3, 2), stride=2, padding="same", return_indices=True),
    pool("max", "same_lower", 2, 3, 5, 6, kernel_size=(2, 4), stride=(2, 3), padding="same_lower"),
    pool("max", "valid", 2, 3, 5, 6, kernel_size=2, padding="valid"),
    pool("max", "ceil", 2, 3, 6, 7, kernel_size=(2, 3), stride=(3, 2), padding=(1, 0), ceil_mode=True),
    pool("max", "dilation", 1, 18, 8, 9, kernel_size=2, dilation=(2, 3), padding=1, stride=(1, 2)),
    pool("max", "whole_fraction", 2, 3, 6, 7, kernel_size=2, stride=Fraction(4, 2)),
    pool("max", "tall_image", 1, 16, 70, 2, kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    pool("max", "tall_image_many_taps", 1, 3, 80, 6, kernel_size=(5, 4), stride=(2, 1), padding=(1, 2)),
    pool("max", "empty_batch", 0, 3, 6, 7, kernel_size=2, return_indices=True),
    pool("max", "plain", 2, 3, 4, 5, 4, kernel_size=2),
    pool("max", "mixed", 1, 5, 5, 6, 7, kernel_size=(2, 3, 2), stride=(2, 1, 3), padding=(1, 1, 0), return_indices=True),
    pool("max", "dilation_ceil", 1, 2, 6, 5, 7, kernel_size=2, stride=3, dilation=(1, 2, 3), ceil_mode=True),
    pool("max", "empty_batch", 0, 3, 4, 5, 4, kernel_size=2),
    pool("avg", "plain", 2, 3, 9, kernel_size=2),
    pool("avg", "one_channel", 3, 1, 23, kernel_size=4, stride=2, padding=1),
    pool("avg", "stride_3", 2, 2, 20, kernel_size=5, stride=3, padding=2, exact=False),
    pool("avg", "ceil", 2, 2, 8, kernel_size=3, padding=1, ceil_mode=True, exact=False),
    pool("avg", "empty_batch", 0, 3, 9, kernel_size=2),
    pool("avg", "plain", 2, 3, 6, 7, kernel_size=2),
    Case("avg_pool2d", "positional", lambda draw: (draw(2, 3, 6, 7), 2)),
    pool("avg", "overlapping", 2, 5, 7, 8, kernel_size=(2, 4), stride=1, padding=1),
    pool("avg", "thirds", 2, 5, 7, 8, kernel_size=3, stride=2, padding=1, exact=False),
    pool("avg", "without_padding", 2, 5, 7, 8, kernel_size=3, stride=2, padding=1, count_include_pad=False, exact=False),
    pool("avg", "channels_35", 1, 35, 5, 6, kernel_size=(4, 2), stride=1),
    pool("avg", "channels_70", 1, 70, 4, 4, kernel_size=2),
    pool("avg", "one_channel", 2, 1, 9, 13, kernel_size=4, stride=(2, 3), padding=2),
    pool("avg", "one_channel_stride_1", 2, 1, 5, 13, kernel_size=2, stride=1, padding=1),
    pool("avg", "many_taps", 1, 18, 16, 15, kernel_size=(16, 8), stride=1, padding=(2, 4)),
    pool("avg", "more_taps", 1, 6, 18, 17, kernel_size=16, stride=1),
    pool("avg", "asymmetric", 2, 3, 5, 6, kernel_size=2, padding=((0, 1), (1, 0))),
    pool("avg", "asymmetric_ceil", 2, 3, 6, 6, kernel_size=3, padding=((0, 1), (1, 0)), ceil_mode=True, exact=False),
    pool("avg", "same", 2, 3, 5, 6, kernel_size=(4, 2), stride=2, padding="same"),
    pool("avg", "ceil", 2, 3, 6, 7, kernel_size=(2, 3), stride=(3, 2), padding=1, ceil_mode=True, exact=False),
    pool("avg", "ceil_without_padding", 2, 3, 6, 7, kernel_size=(2, 3), stride=(3, 2), padding=1, ceil_mode=True,
         count_include_pad=False, exact=False),
    pool("avg", "tall_image", 1, 16, 70, 2, kernel_size=(4, 2), stride=(2, 1), padding=(1, 0)),
    pool("avg", "empty_batch", 0, 3, 6, 7, kernel_size=2),
    pool("avg", "plain", 2, 3, 4, 5, 4, kernel_size=2),
    pool("avg", "mixed", 1, 5, 5, 6, 7, kernel_size=(2, 3, 2), stride=(2, 1, 3), padding=(1, 1, 0), exact=False),
    pool("avg", "empty_batch", 0, 3, 4, 5, 4, kernel_size=2),
    pool("lp", "sum", 2, 3, 9, norm_type=1, kernel_size=3, stride=2, padding=1),
    pool("lp", "norm", 2, 3, 9, norm_type=2, kernel_size=3, exact=False),
    pool("lp", "empty_batch", 0, 3, 9, norm_type=2, kernel_size=2),
    pool("lp", "norm", 2, 3, 6, 7, norm_type=2, kernel_size=2, exact=False),
    pool("lp", "sum_same", 2, 3, 6, 7, norm_type=1.0, kernel_size=2, padding="same"),
    pool("lp", "cubes", 2, 17, 6, 7, norm_type=3, kernel_size=(2, 3), stride=1, padding=(1, 0), exact=False),
    pool("lp", "one_and_a_half", 2, 3, 6, 7, norm_type=1.5, kernel_size=2, ceil_mode=True, exact=False),
    pool("lp", "empty_batch", 0, 3, 6, 7, norm_type=3, kernel_size=2),
    pool("lp", "norm", 2, 3, 4, 5, 4, norm_type=2, kernel_size=2, exact=False),
    pool("lp", "empty_batch", 0, 3, 4, 5, 4, norm_type=1, kernel_size=2),
    pool("adaptive_avg", "plain", 2, 3, 8, output_size=4),
    pool("adaptive_avg", "uneven", 2, 3, 9, output_size=4, exact=False),
    pool("adaptive_avg", "empty_batch", 0, 3, 9, output_size=4),
    pool("adaptive_avg", "global", 2, 17, 4, 8, output_size=1),
    pool("adaptive_avg", "uneven", 2, 3, 7, 8, output_size=(3, 5), exact=False),
    pool("adaptive_avg", "larger", 2, 17, 3, 4, output_size=(5, 4), exact=False),
    pool("adaptive_avg", "one_channel", 2, 1, 7, 8, output_size=(2, 3), exact=False),
    pool("adaptive_avg", "one_axis", 2, 3, 6, 8, output_size=(None, 4)),
    Case("adaptive_avg_pool2d", "positional", lambda draw: (draw(2, 3, 4, 4), 2)),
    pool("adaptive_avg", "empty_batch", 0, 3, 7, 8, output_size=3),
    pool("adaptive_avg", "global", 2, 3, 4, 2, 4, output_size=1),
    pool("adaptive_avg", "uneven", 1, 3, 5, 4, 7, output_size=(2, 3, 4), exact=False),
    pool("adaptive_avg", "empty_batch", 0, 3, 4, 5, 4, output_size=2),
    pool("adaptive_max", "plain", 2, 3, 8, output_size=4, return_indices=True),
    pool("adaptive_max", "uneven", 2, 3, 9, output_size=4, return_indices=True),
    pool("adaptive_max", "empty_batch", 0, 3, 9, output_size=4),
    pool("adaptive_max", "global", 2, 17, 4, 8, output_size=1, return_indices=True),
    pool("adaptive_max", "global_beyond_a_byte", 1, 3, 17, 18, output_size=1, return_indices=True),
    pool("adaptive_max", "uneven", 2, 3, 7, 8, output_size=(3, 5), return_indices=True),
    pool("adaptive_max", "uneven_many_taps", 1, 18, 14, 15, output_size=(2, 4), return_indices=True),
    pool("adaptive_max", "larger", 2, 17, 3, 4, output_size=(5, 4), return_indices=True),
    pool("adaptive_max", "tall_image", 1, 18, 70, 3, output_size=(40, 2), return_indices=True),
    pool("adaptive_max", "same_size", 2, 3, 4, 5, output_size=None),
    pool("adaptive_max", "empty_batch", 0, 3, 7, 8, output_size=3, return_indices=True),
    pool("adaptive_max", "uneven", 1, 3, 5, 4, 7, output_size=(2, 3, 4), return_indices=True),
    pool("adaptive_max", "empty_batch", 0, 3, 4, 5, 4, output_size=2),
    unpool("plain", (2, 3, 4), (8,), kernel_size=2),
    unpool("padding", (2, 3, 4), (7,), kernel_size=3, stride=2, padding=1),
    unpool("empty_batch", (0, 3, 4), (8,), kernel_size=2),
    unpool("plain", (2, 3, 3, 4), (6, 8), kernel_size=2),
    unpool("one_channel", (2, 1, 3, 4), (6, 8), kernel_size=2),
    unpool("asymmetric", (2, 3, 3, 4), (5, 6), kernel_size=2, padding=((1, 0), (1, 1))),
    unpool("output_size", (2, 3, 3, 4), (7, 7), kernel_size=2, output_size=(7, 7)),
    Case("max_unpool2d", "positional", lambda draw: (draw(1, 1, 1, 2), np.array([[[[5, 0]]]]), 2)),
    unpool("empty_batch", (0, 3, 3, 4), (6, 8), kernel_size=2),
    unpool("plain", (2, 3, 2, 2, 3), (4, 4, 6), kernel_size=2),
    unpool("empty_batch", (0, 3, 2, 2, 3), (4, 4, 6), kernel_size=2),
    function("plain", 2, 3, 6, 7, kernel_size=2),
    function("overlapping", 2, 3, 6, 7, kernel_size=3, stride=2, padding=1),
    function("asymmetric", 2, 3, 6, 7, kernel_size=(2, 3), stride=(1, 2), padding=((0, 1), (1, 0))),
    function("alternating", 2, 3, 6, 7, kernel_size=(3, 2), function=alternating, vjp=alternating_vjp),
    function("empty_batch", 0, 3, 6, 7, kernel_size=2),
]  # fmt: skip

LARGE = [
    pool("max", "line", 4, 8, 5000, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("max", "batch", 32, 32, 14, 14, kernel_size=2, return_indices=True),
    pool("max", "one_image", 1, 24, 90, 80, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("max", "one_image_stride_1", 1, 40, 60, 50, kernel_size=3, stride=1, padding=1),
    pool("max", "one_channel", 16, 1, 90, 90, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("max", "many_taps", 1, 16, 70, 70, kernel_size=7, stride=2, padding=3, return_indices=True),
    pool("max", "volume", 1, 16, 20, 22, 24, kernel_size=3, stride=2, padding=1, return_indices=True),
    pool("avg", "line", 4, 8, 5000, kernel_size=3, stride=2, padding=1),
    pool("avg", "batch", 32, 32, 14, 14, kernel_size=2),
    pool("avg", "one_image", 1, 24, 90, 80, kernel_size=3, stride=2, padding=1, count_include_pad=False),
    pool("avg", "one_channel", 16, 1, 90, 90, kernel_size=3, stride=2, padding=1),
    pool("avg", "volume", 1, 16, 20, 22, 24, kernel_size=3, stride=2, padding=1),
    pool("adaptive_avg", "global", 2, 16, 70, 80, output_size=1),
    pool("adaptive_avg", "uneven", 2, 16, 70, 80, output_size=(9, 31)),
    pool("adaptive_max", "global", 2, 16, 70, 80, output_size=1, return_indices=True),
    pool("adaptive_max", "uneven", 1, 16, 90, 80, output_size=(40, 31), return_indices=True),
    unpool("batch", (8, 16, 14, 14), (28, 28), kernel_size=2),
]


def bad(
    op: str, name: str, error: type[Exception], match: str, x: Any = (2, 3, 6, 6), *more: Any, **options: Any
) -> BadCase:
    """A shape stands for an array of zeros; anything else is handed on as it is."""
    x = np.zeros(x, np.float32) if isinstance(x, tuple) else x
    return BadCase(op, name, (x, *more), options, error, match)


def mean(windows: np.ndarray) -> np.ndarray:
    return windows.mean(-1)


WINDOW_RULES: list[tuple[str, type[Exception], str, dict[str, Any]]] = [
    ("kernel_too_large", ShapeError, r"the kernel must not be larger .* axis 1 it spans 7", {"kernel_size": (2, 7)}),
    ("kernel_zero", ShapeError, "kernel_size must be at least 1, got 0", {"kernel_size": 0}),
    ("kernel_float", TypeError, "kernel_size must be an integer, got 2.0", {"kernel_size": 2.0}),
    ("kernel_count", ShapeError, "kernel_size must be one number or 2 of them, got 3", {"kernel_size": (2, 2, 2)}),
    ("stride_zero", ShapeError, "stride must be at least 1, got 0", {"kernel_size": 2, "stride": 0}),
    ("stride_fraction", TypeError, r"stride must be an integer, got .*3, 2", {"kernel_size": 2, "stride": Fraction(3, 2)}),
    ("padding_over_half", ShapeError, "padding must be at most half of the kernel: .* 2, the kernel 3",
     {"kernel_size": 3, "padding": 2}),
    ("padding_over_half_after", ShapeError, "padding must be at most half .* axis 1 it is 2, the kernel 2",
     {"kernel_size": 2, "padding": ((1, 1), (0, 2))}),
    ("padding_negative", ShapeError, "padding must be at least 0, got -1", {"kernel_size": 2, "padding": -1}),
    ("padding_name", ShapeError, "padding must be numbers, .* got 'full'", {"kernel_size": 2, "padding": "full"}),
]  # fmt: skip

BAD_CASES = [
    *(bad("max_pool2d", name, error, match, **options) for name, error, match, options in WINDOW_RULES),
    *(bad("avg_pool2d", name, error, match, **options) for name, error, match, options in WINDOW_RULES),
    *(bad("lp_pool2d", name, error, match, norm_type=2, **options) for name, error, match, options in WINDOW_RULES),
    *(
        bad("function_pool2d", name, error, match, function=mean, **options)
        for name, error, match, options in WINDOW_RULES
    ),
    *(
        bad(f"{kind}_pool{axes}d", "axes", ShapeError, f"x must have {axes + 2} axes .*, got 2", (2, 3), **options)
        for kind, options in {
            "max": {"kernel_size": 2},
            "avg": {"kernel_size": 2},
            "lp": {"kernel_size": 2, "norm_type": 2},
            "adaptive_avg": {"output_size": 2},
            "adaptive_max": {"output_size": 2},
        }.items()
        for axes in (1, 2, 3)
    ),
    bad("max_pool2d", "none", TypeError, "x must hold real numbers, got None", None, kernel_size=2),
    bad("max_pool2d", "complex", TypeError, "x must hold real numbers", np.zeros((1, 1, 4, 4), complex), kernel_size=2),
    bad("max_pool2d", "objects", TypeError, "x must hold real numbers", np.zeros((1, 1, 4, 4), object), kernel_size=2),
    bad("max_pool2d", "no_pixels", ShapeError, "x must not be empty along H", (1, 2, 0, 4), kernel_size=2),
    bad("max_pool2d", "dilated_too_large", ShapeError, "it spans 7, the input is 6", kernel_size=2, dilation=6),
    bad("max_pool2d", "dilation_zero", ShapeError, "dilation must be at least 1, got 0", kernel_size=2, dilation=0),
    bad("max_pool2d", "ceil_too_large", ShapeError, "it spans 8, the", kernel_size=8, stride=2, ceil_mode=True),
    bad("max_pool2d", "ceil_mode", TypeError, "ceil_mode must be True or False, got 1", kernel_size=2, ceil_mode=1),
    bad("max_pool2d", "return_indices", TypeError, "return_indices must be True or", kernel_size=2, return_indices=None),
    bad("avg_pool2d", "count", TypeError, "count_include_pad must be True or", kernel_size=2, count_include_pad=0),
    bad("max_pool2d", "huge", MemoryError, "needs .* bytes",
        np.broadcast_to(np.float32(0), (1, 1, 2**20, 2**20)), kernel_size=2),
    bad("lp_pool2d", "norm_zero", ShapeError, "norm_type must be positive and finite, got 0", norm_type=0, kernel_size=2),
    bad("lp_pool2d", "norm_text", TypeError, "norm_type must be a number, got 'two'", norm_type="two", kernel_size=2),
    bad("adaptive_avg_pool2d", "zero", ShapeError, "output_size must be at least 1, got 0", output_size=0),
    bad("adaptive_avg_pool2d", "count", ShapeError, "output_size must be one number or 2", output_size=(1, 2, 3)),
    bad("adaptive_max_pool2d", "float", TypeError, "output_size must be an integer, got 1.5", output_size=1.5),
    bad("adaptive_max_pool2d", "huge", MemoryError, "needs .* bytes of memory", output_size=2**40),
    bad("adaptive_max_pool2d", "flag", TypeError, "return_indices must be True", output_size=1, return_indices=1),
    bad("max_unpool1d", "axes", ShapeError, "x must have 3 axes", (2, 3), np.zeros((2, 3), int), kernel_size=2),
    bad("max_unpool3d", "axes", ShapeError, "x must have 5 axes", (2, 3), np.zeros((2, 3), int), kernel_size=2),
    bad("max_unpool2d", "float_indices", TypeError, "indices must be integers", (1, 1, 2, 2), np.zeros((1, 1, 2, 2)), 2),
    bad("max_unpool2d", "index_shape", ShapeError, "indices must have the shape of x", (1, 1, 2, 2), [[[[1]]]], 2),
    bad("max_unpool2d", "index_too_large", ShapeError, "of 4 elements, got 4 to 4", (1, 1, 1, 1), [[[[4]]]], 2),
    bad("max_unpool2d", "index_negative", ShapeError, "of 4 elements, got -1 to", (1, 1, 1, 1), [[[[-1]]]], 2),
    bad("max_unpool2d", "stride", ShapeError, "stride must be", (1, 1, 1, 1), [[[[0]]]], kernel_size=2, stride=0),
    bad("max_unpool2d", "no_output", ShapeError, "output would be empty", (1, 1, 1, 1), [[[[0]]]], 2, padding=1),
    bad("max_unpool2d", "output_size", ShapeError, "axis 0 between 1 and 3, got 4", (1, 1, 1, 1), [[[[0]]]], 2,
        output_size=4),
    bad("max_unpool2d", "huge", MemoryError, "needs .* bytes", (1, 1, 2, 2), np.zeros((1, 1, 2, 2), int), 2**40),
    bad("function_pool2d", "axes", ShapeError, "x must have 4 axes", (2, 3), function=mean, kernel_size=2),
    bad("function_pool2d", "function", TypeError, "function must be callable, got 3", function=3, kernel_size=2),
    bad("function_pool2d", "vjp", TypeError, "vjp must be callable or None, got 3", function=mean, kernel_size=2, vjp=3),
    bad("function_pool2d", "returns_windows", ShapeError, r"function must return an array of shape \(.*as windows.max\(axis=-1\)$", kernel_size=2,
        function=lambda windows: windows),
    bad("function_pool2d", "returns_complex", TypeError, "function must return real numbers, got complex", kernel_size=2,
        function=lambda windows: windows.sum(-1) * 1j),
]  # fmt: skip


# --- random calls ----------------------------------------------------------------------------------------------------


def per_axis(rng: np.random.Generator, values: np.ndarray) -> Any:
    """A tuple of ints, or one where they are equal, now and then."""
    entries = tuple(int(value) for value in values)
    return entries[0] if len(set(entries)) == 1 and rng.random() < 0.5 else entries


def random_windows(rng: np.random.Generator, kind: str, ndim: int) -> Case:
    kernel = rng.integers(1, 6 if ndim < 3 else 4, ndim)
    dilation = rng.integers(1, 4, ndim) if kind == "max" and rng.random() < 0.4 else np.ones(ndim, int)
    around = rng.integers(0, kernel[:, None] // 2 + 1, (ndim, 2))
    stride = rng.integers(1, 5, ndim)
    ceil_mode = bool(rng.random() < 0.4)
    options: dict[str, Any] = {"kernel_size": per_axis(rng, kernel)}
    spans = (kernel - 1) * dilation + 1
    form = 0 if ceil_mode else rng.integers(0, 4)
    if form == 3 and dilation.max() == 1:
        options["padding"] = str(rng.choice(["same", "same_lower"]))
        around = np.zeros((ndim, 2), int)
    elif form == 2:
        options["padding"] = tuple((int(a), int(b)) for a, b in around)
    else:
        around[:, 1] = around[:, 0]
        options["padding"] = per_axis(rng, around[:, 0])
    if rng.random() < 0.7:
        options["stride"] = per_axis(rng, stride)
    if ceil_mode:
        options["ceil_mode"] = True
    spatial = np.maximum(spans - around.sum(axis=1), dilation)  # PyTorch fails where no tap of a window is inside
    if ndim == 3 and kind != "max":
        spatial = np.maximum(spatial, kernel)  # avg_pool3d insists
    spatial = np.maximum(1, spatial) + rng.integers(0, {1: 20, 2: 8, 3: 4}[ndim], ndim)
    if kind == "max":
        options["dilation"] = per_axis(rng, dilation)
        options["return_indices"] = bool(rng.random() < 0.5)
    elif kind == "avg":
        options["count_include_pad"] = bool(rng.random() < 0.5)
    else:
        options["norm_type"] = float(rng.choice([1, 2, 3, 1.5]))
    return pool(kind, "random", *batch(rng), *map(int, spatial), exact=kind == "max", **options)


def batch(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.choice([1, 2, 3, 17], p=[0.4, 0.3, 0.2, 0.1])), int(rng.choice([1, 2, 3, 5, 8, 17, 36, 70]))


def random_adaptive(rng: np.random.Generator, kind: str, ndim: int) -> Case:
    spatial = rng.integers(1, {1: 30, 2: 12, 3: 6}[ndim], ndim)
    sizes = [int(m) for m in rng.integers(1, {1: 20, 2: 8, 3: 5}[ndim], ndim)]
    output = sizes[0] if ndim == 1 else tuple(None if rng.random() < 0.1 else m for m in sizes)
    options = {"return_indices": bool(rng.random() < 0.5)} if kind == "adaptive_max" else {}
    exact = kind == "adaptive_max"
    return pool(kind, "random", *batch(rng), *map(int, spatial), exact=exact, output_size=output, **options)


def random_unpool(rng: np.random.Generator, ndim: int) -> Case:
    kernel, stride = rng.integers(1, 4, (2, ndim))
    stride = np.minimum(kernel, stride)
    padding = rng.integers(0, kernel // 2 + 1)
    spatial = rng.integers(2, {1: 9, 2: 5, 3: 4}[ndim], ndim)
    output = (spatial - 1) * stride - 2 * padding + kernel
    grow = rng.integers(0, stride)
    count, size = int(np.prod(spatial)), int(np.prod(output + grow))
    if min(output) < 1 or size < count:
        return random_unpool(rng, ndim)
    options: dict[str, Any] = {"kernel_size": per_axis(rng, kernel), "stride": per_axis(rng, stride)}
    options["padding"] = per_axis(rng, padding)
    if rng.random() < 0.5 or np.prod(output) < count:
        output = output + grow
        options["output_size"] = tuple(int(m) for m in output)
    n, c = batch(rng)
    return unpool("random", (n, c, *map(int, spatial)), tuple(int(m) for m in output), **options)


def random_function(rng: np.random.Generator) -> Case:
    case = random_windows(rng, "avg", 2)
    options = {key: case.options[key] for key in ("kernel_size", "stride", "padding") if key in case.options}
    spatial = rng.integers(5, 10, 2)
    return function("random", 2, 3, *map(int, spatial), **options)


def pairs_of(x: Any, options: dict[str, Any]) -> list[tuple[int, int]]:
    """(before, after) an axis, by API.md's words."""
    ndim = x.ndim - 2
    kernel = options["kernel_size"]
    stride, padding = options.get("stride", kernel), options.get("padding", 0)
    sizes, steps, around = (v if isinstance(v, tuple) else (v,) * ndim for v in (kernel, stride, padding))
    result = []
    for n, k, s, p in zip(x.shape[2:], sizes, steps, around, strict=True):
        if isinstance(p, str):
            total = max(0, (-(-n // s) - 1) * s + k - n)
            result.append((total // 2, total - total // 2) if p == "same" else (total - total // 2, total // 2))
        else:
            result.append(p if isinstance(p, tuple) else (p, p))
    return result


def padded(torch: Any, x: Any, options: dict[str, Any], value: float = 0) -> tuple[Any, dict[str, Any]]:
    """x and options with padding as PyTorch's pools take it, where that is possible, else padded beforehand."""
    pairs = pairs_of(x, options)
    if all(before == after for before, after in pairs):
        return x, {**options, "padding": tuple(before for before, _ in pairs)}
    x = torch.nn.functional.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=value)
    return x, {**options, "padding": 0}


def torch_max(torch: Any, x: Any, **options: Any) -> Any:
    pairs, shape = pairs_of(x, options), x.shape[2:]
    indices = options.pop("return_indices", False)
    x, options = padded(torch, x, options, -float("inf"))
    y, where = getattr(torch.nn.functional, f"max_pool{x.ndim - 2}d")(x, return_indices=True, **options)
    if x.shape[2:] != shape:  # padded beforehand: the indices are the padded plane's
        coordinates = torch.unravel_index(where, x.shape[2:])
        where = torch.zeros_like(where)
        for coordinate, n, (before, _) in zip(coordinates, shape, pairs, strict=True):
            where = where * n + coordinate - before
    return (y, where) if indices else y


def torch_avg(torch: Any, x: Any, count_include_pad: bool = True, **options: Any) -> Any:
    average = getattr(torch.nn.functional, f"avg_pool{x.ndim - 2}d")
    wide, inside = padded(torch, x, options)
    if wide is x or count_include_pad:
        return average(wide, count_include_pad=count_include_pad, **inside)
    ones, _ = padded(torch, torch.ones_like(x), options)
    return average(wide, **inside) / average(ones, **inside)


def torch_lp(torch: Any, x: Any, norm_type: float, **options: Any) -> Any:
    wide, options = padded(torch, x.abs() ** norm_type, options)
    one = wide.ndim == 3  # avg_pool1d has no divisor_override
    sums = {
        key: (1, *(value if isinstance(value, tuple) else (value,)))
        if one and key in ("kernel_size", "stride")
        else value
        for key, value in options.items()
    }
    if one:
        sums["padding"] = (0, *(sums["padding"] if isinstance(sums["padding"], tuple) else (sums["padding"],)))
        wide = wide[:, :, None]
    average = getattr(torch.nn.functional, f"avg_pool{wide.ndim - 2}d")
    y = average(wide, divisor_override=1, **sums) ** (1 / norm_type)
    return y[:, :, 0] if one else y


def torch_adaptive(kind: str, torch: Any, x: Any, output_size: Any, **options: Any) -> Any:
    return getattr(torch.nn.functional, f"adaptive_{kind}_pool{x.ndim - 2}d")(x, output_size, **options)


def torch_unpool(torch: Any, x: Any, indices: Any, **options: Any) -> Any:
    return getattr(torch.nn.functional, f"max_unpool{x.ndim - 2}d")(x, indices, **options)


def torch_function(torch: Any, x: Any, function: Any, vjp: Any, **options: Any) -> Any:
    kernel = options["kernel_size"]
    stride = options.get("stride", kernel)
    (r, s), (down, right) = (v if isinstance(v, tuple) else (v, v) for v in (kernel, stride))
    x = torch.nn.functional.pad(x, [amount for pair in reversed(pairs_of(x, options)) for amount in pair])
    return function(x.unfold(2, r, down).unfold(3, s, right).flatten(-2))


RANDOM: dict[str, Any] = {"function_pool2d": random_function}
TORCH: dict[str, Any] = {"function_pool2d": torch_function}
for _axes in (1, 2, 3):
    for _kind, _torch in {"max": torch_max, "avg": torch_avg, "lp": torch_lp}.items():
        RANDOM[f"{_kind}_pool{_axes}d"] = partial(random_windows, kind=_kind, ndim=_axes)
        TORCH[f"{_kind}_pool{_axes}d"] = _torch
    for _kind in ("avg", "max"):
        RANDOM[f"adaptive_{_kind}_pool{_axes}d"] = partial(random_adaptive, kind=f"adaptive_{_kind}", ndim=_axes)
        TORCH[f"adaptive_{_kind}_pool{_axes}d"] = partial(torch_adaptive, _kind)
    RANDOM[f"max_unpool{_axes}d"] = partial(random_unpool, ndim=_axes)
    TORCH[f"max_unpool{_axes}d"] = torch_unpool

LAYERS = [
    LayerCase("MaxPool1d", (3, 2, 1), {}, (2, 3, 9)),
    LayerCase("MaxPool1d", (3, 1, 1, 2), {}, (2, 3, 9)),
    LayerCase("MaxPool2d", (3, 2, 1), {"ceil_mode": True}, (2, 3, 8, 8)),
    LayerCase("MaxPool2d", ((2, 3), (1, 2)), {"dilation": (2, 1)}, (1, 2, 6, 9)),
    LayerCase("MaxPool2d", (3,), {"padding": ((1, 0), (0, 1))}, (1, 2, 8, 9), twin=False),
    LayerCase("MaxPool3d", (2,), {}, (2, 3, 4, 5, 4)),
    LayerCase("AvgPool1d", (3, 2, 1), {}, (2, 3, 9)),
    LayerCase("AvgPool2d", (3, 2, 1, True, False), {}, (2, 3, 8, 8)),
    LayerCase("AvgPool2d", ((2, 3), 1), {"padding": ((1, 0), (0, 1))}, (1, 2, 5, 6), twin=False),
    LayerCase("AvgPool3d", (2,), {}, (2, 3, 4, 5, 4)),
    LayerCase("LpPool1d", (4, 2), {}, (2, 3, 8)),
    LayerCase("LpPool1d", (2, 3, 2), {"padding": 1}, (2, 3, 9), twin=False),
    LayerCase("LpPool2d", (2, 2), {}, (2, 3, 6, 6)),
    LayerCase("LpPool2d", (2, (3, 2), (2, 3)), {"ceil_mode": True}, (1, 2, 8, 8), twin=False),
    LayerCase("LpPool3d", (2, 2), {}, (2, 3, 4, 4, 4)),
    *(LayerCase(f"Adaptive{kind}Pool1d", (3,), {}, (2, 3, 8)) for kind in ("Avg", "Max")),
    *(LayerCase(f"Adaptive{kind}Pool1d", (5,), {}, (1, 2, 12)) for kind in ("Avg", "Max")),
    *(LayerCase(f"Adaptive{kind}Pool2d", ((3, 2),), {}, (2, 3, 7, 8)) for kind in ("Avg", "Max")),
    *(LayerCase(f"Adaptive{kind}Pool2d", (1,), {}, (1, 2, 4, 5)) for kind in ("Avg", "Max")),
    *(LayerCase(f"Adaptive{kind}Pool3d", (2,), {}, (2, 3, 5, 4, 3)) for kind in ("Avg", "Max")),
    LayerCase("FunctionPool2d", (squares, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "vjp": squares_vjp}, (1, 2, 9, 5),
              twin=False),
    LayerCase("NetworkPool2d", (small_net(6), (3, 2)), {}, (1, 2, 9, 6), twin=False),
    LayerCase("NetworkPool2d", (small_net(9), 3, 2, 1), {}, (1, 1, 7, 8), twin=False),
]  # fmt: skip
