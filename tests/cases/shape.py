"""Cases of the operations that change shapes alone: flatten, reshape, unflatten, pixel_shuffle, pixel_unshuffle."""

import math
from typing import Any

import numpy as np

from cases.case import BadCase, Case, LayerCase
from fastconv import ShapeError


def case(op: str, name: str, x: tuple[int, ...], *given: Any, **options: Any) -> Case:
    return Case(op, name, lambda draw: (draw(*x), *given), options)


def flatten(name: str, *x: int) -> Case:
    return case("flatten", name, x)


def reshape(name: str, x: tuple[int, ...], shape: Any) -> Case:
    return case("reshape", name, x, shape=shape)


def unflatten(name: str, x: tuple[int, ...], dim: int, sizes: Any) -> Case:
    return case("unflatten", name, x, dim=dim, sizes=sizes)


def shuffle(name: str, x: tuple[int, ...], factor: int) -> Case:
    return case("pixel_shuffle", name, x, upscale_factor=factor)


def unshuffle(name: str, x: tuple[int, ...], factor: int) -> Case:
    return case("pixel_unshuffle", name, x, downscale_factor=factor)


CASES = [
    flatten("matrix", 3, 4),
    flatten("image", 2, 3, 4, 5),
    flatten("volume", 2, 2, 3, 2, 4),
    flatten("line", 2, 3, 5),
    flatten("one_axis", 3),
    flatten("empty_batch", 0, 3, 4),
    flatten("one_channel", 2, 1, 4, 5),
    flatten("one_pixel", 2, 5, 1, 1),
    reshape("to_image", (2, 60), (3, 4, 5)),
    reshape("to_volume", (2, 48), [2, 3, 2, 4]),
    reshape("to_line", (2, 3, 4, 5), (6, -1)),
    reshape("to_other_image", (2, 3, 4, 6), (-1, 2, 9)),
    reshape("to_features", (2, 3, 4, 5), -1),
    reshape("to_numbers", (3, 1), ()),
    reshape("to_itself", (2, 3, 4, 5), (3, 4, 5)),
    reshape("to_six_axes", (2, 2, 4, 9), (2, 2, 2, 3, 3)),
    reshape("one_axis", (3,), (1, -1, 1)),
    reshape("empty_batch", (0, 3, 4), (-1, 6)),
    reshape("no_features", (2, 0), (-1, 3)),
    case("reshape", "positional", (2, 6), (2, 3)),
    unflatten("features", (2, 60), 1, (3, 4, 5)),
    unflatten("channels", (2, 6, 4, 5), 1, (2, -1)),
    unflatten("rows", (2, 3, 6, 5), 2, (3, 2)),
    unflatten("columns", (2, 3, 4, 6), -1, [2, -1]),
    unflatten("one_length", (2, 3, 4), 2, 4),
    unflatten("empty_batch", (0, 6, 4), 1, (3, 2)),
    case("unflatten", "positional", (2, 6), 1, (2, 3)),
    shuffle("two", (2, 8, 3, 4), 2),
    shuffle("three", (1, 18, 2, 3), 3),
    shuffle("one", (2, 3, 4, 5), 1),
    shuffle("one_channel", (2, 4, 3, 2), 2),
    shuffle("one_pixel", (2, 12, 1, 1), 2),
    shuffle("empty_batch", (0, 8, 3, 4), 2),
    case("pixel_shuffle", "positional", (2, 4, 3, 4), 2),
    unshuffle("two", (2, 2, 6, 4), 2),
    unshuffle("three", (1, 2, 6, 3), 3),
    unshuffle("one", (2, 3, 4, 5), 1),
    unshuffle("one_channel", (2, 1, 4, 6), 2),
    unshuffle("to_one_pixel", (2, 3, 2, 2), 2),
    unshuffle("empty_batch", (0, 2, 6, 4), 2),
    case("pixel_unshuffle", "positional", (2, 4, 4, 2), 2),
]

LARGE = [
    flatten("image", 8, 32, 30, 31),
    reshape("image", (8, 32, 30, 31), (64, 15, 31)),
    unflatten("channels", (8, 32, 30, 31), 1, (4, 8)),
    shuffle("image", (8, 64, 20, 21), 2),
    unshuffle("image", (8, 16, 40, 42), 2),
]

IMAGE = np.zeros((2, 3, 4, 6), np.float32)


def bad(op: str, name: str, error: type[Exception], match: str, *arguments: Any) -> BadCase:
    return BadCase(op, name, arguments, {}, error, match)


BAD_CASES = [
    bad("flatten", "number", ShapeError, r"x must have at least 1 axis \(N\)", np.float32(1)),
    bad("flatten", "complex", TypeError, "x must hold real numbers", np.zeros((2, 3), complex)),
    bad("reshape", "number", ShapeError, r"x must have at least 1 axis \(N\)", np.float32(1), 1),
    bad("reshape", "complex", TypeError, "x must hold real numbers", np.zeros((2, 3), complex), -1),
    bad("reshape", "elements", ShapeError,
        r"shape must hold the 72 elements of a sample, the batch axis apart: x has shape \(2, 3, 4, 6\), got \(3, 5\)",
        IMAGE, (3, 5)),
    bad("reshape", "with_the_batch", ShapeError, r"the batch axis apart: .*, got \(2, 72\)", IMAGE, (2, 72)),
    bad("reshape", "left", ShapeError, r"must hold the 72 elements .*, got \(5, -1\)", IMAGE, (5, -1)),
    bad("reshape", "two_left", ShapeError, r"shape may hold one -1, got 2: \(-1, -1\)", IMAGE, (-1, -1)),
    bad("reshape", "zero", ShapeError, r"lengths of at least 1, one of them -1 perhaps, got 0: \(0, 72\)", IMAGE, (0, 72)),
    bad("reshape", "negative", ShapeError, "lengths of at least 1, .*, got -2", IMAGE, -2),
    bad("reshape", "float", TypeError, "shape must be an integer, got 2.0; write 2", IMAGE, (2.0, -1)),
    bad("reshape", "text", TypeError, "shape must be an integer, got 'all'", IMAGE, "all"),
    bad("reshape", "nested", TypeError, r"shape must be an integer, got \(3, 4\)", IMAGE, ((3, 4), 6)),
    bad("reshape", "axes", ShapeError, "shape must lead to at most 64 axes, got 66", IMAGE, (*(1,) * 64, -1)),
    bad("unflatten", "batch", ShapeError, "dim must not be the batch axis, got 0", IMAGE, 0, (1, 2)),
    bad("unflatten", "batch_from_the_end", ShapeError, r"dim must not be the batch axis, got -4 for shape", IMAGE, -4, 2),
    bad("unflatten", "no_axis", ShapeError, r"dim must be an axis of x, got 4 for shape \(2, 3, 4, 6\)", IMAGE, 4, 2),
    bad("unflatten", "name", TypeError, "dim must be an integer, got 'C'", IMAGE, "C", 2),
    bad("unflatten", "elements", ShapeError, r"sizes must hold the 4 elements along axis 2: .*, got \(3, 2\)", IMAGE, 2,
        (3, 2)),
    bad("unflatten", "two_left", ShapeError, r"sizes may hold one -1, got 2", IMAGE, 2, (-1, -1)),
    bad("unflatten", "none", ShapeError, "sizes must hold at least one length, got none", IMAGE, 2, ()),
    bad("unflatten", "float", TypeError, "sizes must be an integer, got 2.5", IMAGE, 2, (2.5, 2)),
    bad("pixel_shuffle", "axes", ShapeError, r"x must have 4 axes \(N C H W\), got 3", IMAGE[0], 2),
    bad("pixel_shuffle", "channels", ShapeError,
        r"upscale_factor squared must divide x's channels, got 2 \* 2 = 4 for 3: shape \(2, 3, 4, 6\)", IMAGE, 2),
    bad("pixel_shuffle", "zero", ShapeError, "upscale_factor must be at least 1, got 0", IMAGE, 0),
    bad("pixel_shuffle", "float", TypeError, "upscale_factor must be an integer, got 2.0; write 2", IMAGE, 2.0),
    bad("pixel_shuffle", "two", ShapeError, "upscale_factor must be one number", IMAGE, (1, 2)),
    bad("pixel_shuffle", "huge", ShapeError, "upscale_factor squared must divide", IMAGE, 2**40),
    bad("pixel_shuffle", "no_pixels", ShapeError, "x must not be empty along W", IMAGE[..., :0], 1),
    bad("pixel_shuffle", "complex", TypeError, "x must hold real numbers", IMAGE.astype(complex), 1),
    bad("pixel_unshuffle", "axes", ShapeError, r"x must have 4 axes \(N C H W\), got 5", IMAGE[None], 2),
    bad("pixel_unshuffle", "height", ShapeError,
        r"downscale_factor must divide x's height and width, got 3 for shape \(2, 3, 4, 6\)", IMAGE, 3),
    bad("pixel_unshuffle", "width", ShapeError, "downscale_factor must divide x's height and width, got 4", IMAGE, 4),
    bad("pixel_unshuffle", "negative", ShapeError, "downscale_factor must be at least 1, got -2", IMAGE, -2),
    bad("pixel_unshuffle", "text", TypeError, "downscale_factor must be an integer, got '2'", IMAGE, "2"),
]  # fmt: skip


def lengths(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(1, 5, count))


def random_flatten(rng: np.random.Generator) -> Case:
    return flatten("random", *(int(n) for n in rng.integers(1, 7, int(rng.integers(2, 6)))))


def random_reshape(rng: np.random.Generator) -> Case:
    """The lengths of some axes in another order, the last ones as one."""
    axes = lengths(rng, int(rng.integers(1, 5)))
    turned = [int(n) for n in rng.permutation(axes)]
    kept = int(rng.integers(0, len(axes)))
    return reshape("random", (int(rng.integers(1, 4)), *axes), (*turned[:kept], -1 if kept else math.prod(axes)))


def random_unflatten(rng: np.random.Generator) -> Case:
    axes, sizes = [*lengths(rng, int(rng.integers(1, 4)))], lengths(rng, int(rng.integers(1, 4)))
    at = int(rng.integers(len(axes)))
    axes[at] = math.prod(sizes)
    dim = 1 + at if rng.random() < 0.5 else at - len(axes)
    return unflatten("random", (int(rng.integers(1, 4)), *axes), dim, sizes)


def random_shuffle(rng: np.random.Generator) -> Case:
    n, c, h, w = lengths(rng, 4)
    r = int(rng.integers(1, 4))
    return shuffle("random", (n, c * r * r, h, w), r)


def random_unshuffle(rng: np.random.Generator) -> Case:
    n, c, h, w = lengths(rng, 4)
    r = int(rng.integers(1, 4))
    return unshuffle("random", (n, c, h * r, w * r), r)


def torch_reshape(torch: Any, x: Any, shape: Any) -> Any:
    return torch.reshape(x, (len(x), *(shape if isinstance(shape, tuple | list) else (shape,))))


def torch_unflatten(torch: Any, x: Any, dim: int, sizes: Any) -> Any:
    return torch.unflatten(x, dim, sizes if isinstance(sizes, tuple | list) else (sizes,))


RANDOM = {
    "flatten": random_flatten,
    "reshape": random_reshape,
    "unflatten": random_unflatten,
    "pixel_shuffle": random_shuffle,
    "pixel_unshuffle": random_unshuffle,
}
TORCH = {
    "flatten": lambda torch, x: torch.flatten(x, 1),
    "reshape": torch_reshape,
    "unflatten": torch_unflatten,
    "pixel_shuffle": lambda torch, x, upscale_factor: torch.pixel_shuffle(x, upscale_factor),
    "pixel_unshuffle": lambda torch, x, downscale_factor: torch.pixel_unshuffle(x, downscale_factor),
}

LAYERS = [
    LayerCase("Flatten", (), {}, (2, 3, 4, 5)),
    LayerCase("Identity", (), {}, (2, 3, 4)),
    LayerCase("Identity", (54, "x"), {"unused": True}, (2, 3, 4, 5)),
    LayerCase("Reshape", (6, 2), {}, (1, 4, 3), twin=False),
    LayerCase("Reshape", ((4, -1),), {}, (1, 4, 3), twin=False),
    LayerCase("Reshape", (-1,), {}, (1, 2, 3, 4), twin=False),
    LayerCase("Reshape", (3, 2, 4), {}, (1, 2, 3, 4), twin=False),
    LayerCase("Unflatten", (1, (2, 3)), {}, (1, 6, 3)),
    LayerCase("Unflatten", (1, (2, -1)), {}, (1, 4, 3, 2)),
    LayerCase("Unflatten", (-1, (4,)), {}, (1, 2, 3, 4)),
    LayerCase("PixelShuffle", (2,), {}, (1, 8, 3, 2)),
    LayerCase("PixelShuffle", (3,), {}, (1, 9, 2, 2)),
    LayerCase("PixelUnshuffle", (2,), {}, (1, 2, 6, 4)),
    LayerCase("PixelUnshuffle", (3,), {}, (1, 1, 3, 6)),
]
