"""Cases of downsample, upsample and resize (case.py says how)."""

from typing import Any

import numpy as np

from cases.case import BadCase, Case, LayerCase
from fastconv import ShapeError


def case(op: str, name: str, *x: int, exact: bool = True, **options: Any) -> Case:
    return Case(op, name, lambda draw: (draw(*x),), options, exact=exact)


CASES = [
    case("downsample", "line", 2, 3, 9, factor=2),
    case("downsample", "plane", 2, 3, 7, 8, factor=2),
    case("downsample", "volume", 2, 3, 4, 5, 6, factor=(1, 2, 3)),
    case("downsample", "phase", 2, 3, 7, 8, factor=3, phase=2),
    case("downsample", "phases", 2, 1, 7, 8, factor=(2, 4), phase=(0, 3)),
    case("downsample", "one_left", 1, 2, 3, 4, factor=10),
    case("downsample", "everything", 2, 3, 4, 5, factor=1),
    case("downsample", "empty_batch", 0, 3, 7, 8, factor=2),
    Case("downsample", "positional", lambda draw: (draw(2, 3, 4, 5), 2)),
    case("upsample", "line", 2, 3, 5, factor=2),
    case("upsample", "plane", 2, 3, 4, 3, factor=2),
    case("upsample", "volume", 2, 3, 2, 3, 2, factor=(1, 2, 3)),
    case("upsample", "output_size", 2, 3, 4, 3, factor=2, output_size=(8, 7)),
    case("upsample", "one_channel", 2, 1, 4, 3, factor=(3, 2), output_size=13),
    case("upsample", "one_position", 1, 2, 1, 1, factor=7),
    case("upsample", "everything", 2, 3, 4, 5, factor=1),
    case("upsample", "empty_batch", 0, 3, 4, 3, factor=2),
    Case("upsample", "positional", lambda draw: (draw(2, 3, 4, 5), 2)),
    case("resize", "nearest_line", 2, 3, 9, size=5),
    case("resize", "nearest_scale", 2, 3, 6, 5, scale=(2, 1.5)),
    case("resize", "nearest_down", 2, 3, 6, 7, scale=0.5),
    case("resize", "nearest_volume", 1, 2, 3, 4, 2, size=(5, 3, 4)),
    case("resize", "linear_line", 2, 3, 9, scale=2.0, mode="linear"),
    case("resize", "linear_double", 2, 3, 4, 5, scale=2, mode="linear"),
    case("resize", "linear_half", 2, 19, 6, 8, scale=0.5, mode="linear"),
    case("resize", "linear_size", 2, 3, 4, 5, size=(7, 3), mode="linear", exact=False),
    case("resize", "linear_one_axis", 2, 3, 4, 5, size=(4, 9), mode="linear", exact=False),
    case("resize", "linear_same_length", 2, 3, 4, 5, scale=1.1, mode="linear"),
    case("resize", "linear_corners", 2, 3, 3, 5, size=(5, 9), mode="linear", align_corners=True),
    case("resize", "linear_corners_uneven", 2, 3, 4, 5, size=(7, 3), mode="linear", align_corners=True, exact=False),
    case("resize", "linear_to_one", 2, 3, 4, 5, size=1, mode="linear", align_corners=True),
    case("resize", "linear_volume", 1, 2, 3, 4, 2, scale=2, mode="linear"),
    case("resize", "cubic", 2, 3, 4, 5, size=(7, 3), mode="cubic", exact=False),
    case("resize", "cubic_scale", 2, 17, 4, 5, scale=1.7, mode="cubic", exact=False),
    case("resize", "cubic_corners", 2, 3, 4, 5, size=(9, 6), mode="cubic", align_corners=True, exact=False),
    case("resize", "from_one", 2, 3, 1, 1, size=3, mode="linear", exact=False),
    case("resize", "empty_batch", 0, 3, 4, 5, size=3, mode="linear"),
    case("resize", "empty_batch_nearest", 0, 3, 4, 5, scale=2),
]

LARGE = [
    case("downsample", "batch", 16, 16, 40, 41, factor=2, phase=1),
    case("upsample", "batch", 16, 16, 20, 21, factor=2),
    case("resize", "nearest", 4, 16, 40, 41, scale=2),
    case("resize", "linear", 1, 3, 150, 160, size=(200, 210), mode="linear"),
    case("resize", "cubic", 4, 16, 30, 31, size=(40, 50), mode="cubic"),
    case("resize", "volume", 1, 8, 20, 20, 20, size=30, mode="linear"),
]


def bad(
    op: str, name: str, error: type[Exception], match: str, x: Any = (2, 3, 6, 6), *more: Any, **options: Any
) -> BadCase:
    """A shape stands for an array of zeros; anything else is handed on as it is."""
    x = np.zeros(x, np.float32) if isinstance(x, tuple) else x
    return BadCase(op, name, (x, *more), options, error, match)


HUGE = np.broadcast_to(np.float32(0), (1, 1, 2**20, 2**20))

BAD_CASES = [
    *(
        case
        for op, options in {"downsample": {"factor": 2}, "upsample": {"factor": 2}, "resize": {"scale": 2}}.items()
        for case in (
            bad(op, "axes", ShapeError, r"x must have 3 to 5 axes .*, got 2: shape \(6, 6\)", (6, 6), **options),
            bad(op, "six_axes", ShapeError, "x must have 3 to 5 axes .*, got 6", (1, 1, 2, 2, 2, 2), **options),
            bad(op, "no_pixels", ShapeError, "x must not be empty along W", (2, 3, 6, 0), **options),
            bad(op, "none", TypeError, "x must hold real numbers, got None", None, **options),
            bad(op, "complex", TypeError, "x must hold real numbers", np.zeros((1, 1, 4), complex), **options),
            bad(op, "huge", MemoryError, "needs .* bytes of memory", HUGE, **options),
        )
    ),
    *(
        case
        for op in ("downsample", "upsample")
        for case in (
            bad(op, "factor_zero", ShapeError, "factor must be at least 1, got 0", factor=0),
            bad(op, "factor_float", TypeError, "factor must be an integer, got 1.5", factor=1.5),
            bad(op, "factor_count", ShapeError, "factor must be one number or 2 of them, got 3", factor=(1, 2, 3)),
        )
    ),
    bad("downsample", "phase", ShapeError, "phase must be less than factor, got 2 and 2 on", factor=2, phase=2),
    bad("downsample", "phase_negative", ShapeError, "phase must be at least 0, got -1", factor=2, phase=-1),
    bad(
        "downsample", "phase_outside", ShapeError, "phase must lie inside the input, got 6 for", factor=9, phase=(0, 6)
    ),
    bad("upsample", "output_size", ShapeError, r"at least \(n - 1\) \* factor \+ 1 = 11 on", factor=2, output_size=10),
    bad("upsample", "huge_factor", MemoryError, "needs .* bytes of memory", factor=2**40),
    bad("upsample", "huge_output", MemoryError, "needs .* bytes of memory", factor=2, output_size=2**40),
    bad("resize", "nothing", ShapeError, "exactly one of size and scale must be given"),
    bad("resize", "both", ShapeError, "exactly one of size and scale must be given", size=3, scale=2),
    bad("resize", "size_zero", ShapeError, "size must be at least 1, got 0", size=0),
    bad("resize", "size_count", ShapeError, "size must be one number or 2 of them, got 3", size=(1, 2, 3)),
    bad("resize", "size_float", TypeError, "size must be an integer, got 2.5", size=2.5),
    bad("resize", "scale_zero", ShapeError, "scale must be positive and finite, got 0", scale=0),
    bad("resize", "scale_infinite", ShapeError, "scale must be positive and finite, got inf", scale=float("inf")),
    bad("resize", "scale_text", TypeError, "scale must be a number, got 'two'", scale="two"),
    bad("resize", "scale_count", ShapeError, "scale must be one number or 2 of them, got 3", scale=(1, 2, 3)),
    bad("resize", "scale_small", ShapeError, "the output must not be empty: scale 0.1", scale=0.1),
    bad("resize", "mode", ShapeError, "mode must be one of nearest, linear, cubic, got 'area'", size=3, mode="area"),
    bad("resize", "cubic_line", ShapeError, "cubic must have 4 axes", (2, 3, 6), size=3, mode="cubic"),
    bad("resize", "nearest_corners", ShapeError, "align_corners must be False for nearest", size=3, align_corners=True),
    bad("resize", "corners", TypeError, "align_corners must be True or False, got 1", size=3, align_corners=1),
    bad("resize", "huge_size", MemoryError, "needs .* bytes of memory", size=2**40),
    bad("resize", "huge_scale", MemoryError, "needs .* bytes of memory", scale=2.0**40),
]


# --- random calls ----------------------------------------------------------------------------------------------------


def spatial_shape(rng: np.random.Generator) -> tuple[int, ...]:
    ndim = int(rng.integers(1, 4))
    return tuple(int(n) for n in rng.integers(1, {1: 25, 2: 10, 3: 6}[ndim], ndim))


def leading(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.choice([1, 2, 17])), int(rng.choice([1, 2, 3, 8, 17]))


def random_downsample(rng: np.random.Generator) -> Case:
    spatial = spatial_shape(rng)
    factor = tuple(int(f) for f in rng.integers(1, 5, len(spatial)))
    phase = tuple(int(rng.integers(0, min(f, n))) for f, n in zip(factor, spatial, strict=True))
    return case("downsample", "random", *leading(rng), *spatial, factor=factor, phase=phase)


def random_upsample(rng: np.random.Generator) -> Case:
    spatial = spatial_shape(rng)
    factor = tuple(int(f) for f in rng.integers(1, 5, len(spatial)))
    size = tuple((n - 1) * f + 1 + int(rng.integers(0, 4)) for n, f in zip(spatial, factor, strict=True))
    options: dict[str, Any] = {"output_size": size} if rng.random() < 0.5 else {}
    return case("upsample", "random", *leading(rng), *spatial, factor=factor, **options)


def random_resize(rng: np.random.Generator) -> Case:
    spatial = spatial_shape(rng)
    mode = str(rng.choice(["nearest", "linear", "cubic"] if len(spatial) == 2 else ["nearest", "linear"]))
    options: dict[str, Any] = {"mode": mode}
    if mode == "nearest" and len(spatial) != 2:
        # else PyTorch rounds its own way in float64, and its backward another way than its forward
        options["size"] = tuple(int(n * rng.integers(1, 4)) for n in spatial)
    elif rng.random() < 0.5:
        options["size"] = tuple(int(m) for m in rng.integers(1, {1: 40, 2: 16, 3: 9}[len(spatial)], len(spatial)))
    else:
        options["scale"] = tuple(max(round(float(rng.uniform(0.3, 2.6)), 2), 1 / n) for n in spatial)
        if mode == "cubic" and all(int(n * f) == n for n, f in zip(spatial, options["scale"], strict=True)):
            options["scale"] = (2.0, 2.0)  # PyTorch's backward copies where its forward interpolates
    if mode != "nearest":
        options["align_corners"] = bool(rng.random() < 0.5)
    exact = mode == "nearest" and "size" in options
    return case("resize", "random", *leading(rng), *spatial, exact=exact, **options)


def each(value: Any, x: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,) * (x.ndim - 2)


def torch_downsample(torch: Any, x: Any, factor: Any, phase: Any) -> Any:
    return x[(..., *(slice(p, None, f) for p, f in zip(each(phase, x), each(factor, x), strict=True)))]


def torch_upsample(torch: Any, x: Any, factor: Any, output_size: Any = None) -> Any:
    factor = each(factor, x)
    least = [(n - 1) * f + 1 for n, f in zip(x.shape[2:], factor, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *(output_size or least))
    wide[(..., *(slice(0, m, f) for m, f in zip(least, factor, strict=True)))] = x
    return wide


def torch_resize(
    torch: Any, x: Any, size: Any = None, scale: Any = None, mode: str = "nearest", align_corners: bool = False
) -> Any:
    linear = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    options = {} if mode == "nearest" else {"align_corners": align_corners}
    names = {"nearest": "nearest", "linear": linear, "cubic": "bicubic"}
    return torch.nn.functional.interpolate(x, size=size, scale_factor=scale, mode=names[mode], **options)


RANDOM = {"downsample": random_downsample, "upsample": random_upsample, "resize": random_resize}
TORCH = {"downsample": torch_downsample, "upsample": torch_upsample, "resize": torch_resize}

LAYERS = [
    LayerCase("Downsample", (3,), {"phase": 1}, (1, 2, 11), twin=False),
    LayerCase("Downsample", ((2, 3),), {"phase": (1, 0)}, (1, 2, 7, 8), twin=False),
    LayerCase("Downsample", (2,), {}, (1, 2, 5, 4, 3), twin=False),
    LayerCase("Upsample", (3,), {}, (1, 2, 7), twin=False),
    LayerCase("Upsample", ((2, 1),), {"output_size": (10, 6)}, (1, 2, 5, 6), twin=False),
    LayerCase("Resize", (5,), {}, (2, 3, 4)),
    LayerCase("Resize", (5,), {}, (1, 2, 12)),
    LayerCase("Resize", (), {"scale_factor": 2}, (1, 2, 8)),
    LayerCase("Resize", (None, 2), {"mode": "linear", "align_corners": True}, (2, 3, 4)),
    LayerCase("Resize", (None, 3), {"mode": "linear"}, (1, 2, 8)),
    LayerCase("Resize", (5,), {"mode": "linear", "align_corners": True}, (1, 2, 9)),
    LayerCase("Resize", ((5, 3),), {"mode": "bilinear"}, (2, 3, 4, 5)),
    LayerCase("Resize", (), {"scale_factor": (1.5, 0.7), "mode": "bicubic", "align_corners": False}, (2, 3, 8, 10)),
    LayerCase("Resize", ((9, 13),), {"mode": "bicubic", "align_corners": True}, (1, 2, 9, 7)),
    LayerCase("Resize", (None, 1.5, "trilinear"), {}, (2, 3, 4, 5, 2)),
]
