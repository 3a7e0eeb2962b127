"""Cases of pad (case.py says how)."""

from typing import Any

import numpy as np

from cases.case import BadCase, Case, LayerCase
from fastconv import ShapeError
from fastconv.ops.pad import MODES

BORDERS = MODES[1:]


def case(name: str, *x: int, **options: Any) -> Case:
    return Case("pad", name, lambda draw: (draw(*x),), options)


CASES = [
    case("line", 2, 3, 5, padding=1),
    case("plane", 2, 3, 4, 5, padding=2),
    case("volume", 1, 2, 2, 3, 2, padding=(1, 0, 2)),
    case("sides", 2, 3, 4, 5, padding=((1, 2), (0, 3))),
    case("value", 2, 3, 4, 5, padding=1, value=-1.5),
    Case("pad", "minus_infinity", lambda draw: (draw(1, 1, 2, 2),), {"padding": ((0, 1), (2, 0)), "value": -np.inf},
         gradients=False),
    case("nothing", 2, 3, 4, 5, padding=0),
    case("empty_batch", 0, 3, 4, 5, padding=1),
    Case("pad", "positional", lambda draw: (draw(2, 3, 4, 5), 1)),
    *(
        each
        for mode in BORDERS
        for each in (
            case(f"{mode}_line", 2, 3, 5, padding=((2, 1),), mode=mode),
            case(f"{mode}_plane", 2, 3, 4, 5, padding=((3, 1), (0, 4)), mode=mode),
            case(f"{mode}_volume", 1, 2, 3, 2, 4, padding=(2, 1, 3), mode=mode),
            case(f"{mode}_nothing", 1, 2, 3, 3, padding=0, mode=mode),
            case(f"{mode}_empty_batch", 0, 2, 3, 3, padding=1, mode=mode),
        )
    ),
    case("replicate_wide", 1, 2, 2, 1, padding=((5, 4), (3, 3)), mode="replicate"),
    case("circular_whole", 1, 2, 3, 2, padding=((3, 3), (2, 2)), mode="circular"),
]  # fmt: skip

LARGE = [case(mode, 8, 16, 40, 41, padding=((3, 2), (1, 4)), mode=mode) for mode in MODES]


def bad(name: str, error: type[Exception], match: str, x: Any = (2, 3, 6, 5), **options: Any) -> BadCase:
    """A shape stands for an array of zeros; anything else is handed on as it is."""
    x = np.zeros(x, np.float32) if isinstance(x, tuple) else x
    return BadCase("pad", name, (x,), {"padding": 1, **options}, error, match)


BAD_CASES = [
    bad("axes", ShapeError, r"x must have 3 to 5 axes .*, got 2: shape \(6, 6\)", (6, 6)),
    bad("six_axes", ShapeError, "x must have 3 to 5 axes .*, got 6", (1, 1, 2, 2, 2, 2)),
    bad("no_pixels", ShapeError, "x must not be empty along W", (2, 3, 6, 0)),
    bad("none", TypeError, "x must hold real numbers, got None", None),
    bad("negative", ShapeError, "padding must be at least 0, got -1", padding=-1),
    bad("float", TypeError, "padding must be an integer, got 1.5", padding=1.5),
    bad("same", TypeError, "padding must be an integer, got 'same'", padding="same"),
    bad("count", ShapeError, "padding must be one number or 2 of them, got 3", padding=(1, 2, 3)),
    bad("torchs_order", ShapeError, r"write \(\(3, 4\), \(1, 2\)\)", padding=(1, 2, 3, 4)),
    bad("mode", ValueError, "mode must be one of .*, got 'reflekt'; did you mean 'reflect'", mode="reflekt"),
    bad("value_text", TypeError, "value must be a number, got 'high'", value="high"),
    bad("value_of_a_border", ValueError, "value goes with mode='constant', got 2 with mode='reflect'", value=2,
        mode="reflect"),
    bad("reflect_all", ShapeError, "reflect padding must be less than the input's length, 5 on spatial axis 1, got 5",
        padding=5, mode="reflect", x=(1, 1, 6, 5)),
    bad("circular_more", ShapeError, "circular padding must be at most the input's length, 5 on spatial axis 1, got 6",
        padding=6, mode="circular"),
    bad("huge", MemoryError, "needs .* bytes of memory", padding=2**40),
]  # fmt: skip


def random_pad(rng: np.random.Generator) -> Case:
    spatial = tuple(int(n) for n in rng.integers(1, 8, int(rng.integers(1, 4))))
    mode = str(rng.choice(MODES))
    most = [{"reflect": n - 1, "circular": n}.get(mode, 5) for n in spatial]
    sides = tuple(tuple(int(side) for side in rng.integers(0, m + 1, 2)) for m in most)
    value = {"value": float(rng.integers(-3, 4))} if mode == "constant" else {}
    return case("random", int(rng.integers(1, 4)), int(rng.choice([1, 2, 17])), *spatial, padding=sides, mode=mode,
                **value)  # fmt: skip


def torch_pad(torch: Any, x: Any, padding: Any, mode: str = "constant", value: float = 0) -> Any:
    sides = padding if isinstance(padding, tuple) else (padding,) * (x.ndim - 2)
    sides = [side if isinstance(side, tuple) else (side, side) for side in sides]
    flat = [number for side in reversed(sides) for number in side]
    return torch.nn.functional.pad(x, flat, mode=mode, value=value if mode == "constant" else None)


RANDOM = {"pad": random_pad}
TORCH = {"pad": torch_pad}

SHAPES = ((2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5))
LAYERS = [
    layer
    for kind in ("ZeroPad", "ReflectionPad", "ReplicationPad", "CircularPad", "ConstantPad")
    for axes, shape in enumerate(SHAPES, 1)
    for more in [(1.5,) if kind == "ConstantPad" else ()]
    for layer in (
        LayerCase(f"{kind}{axes}d", (1, *more), {}, shape),
        LayerCase(f"{kind}{axes}d", ((2, 1, 1, 3, 0, 2)[: 2 * axes], *more), {}, shape),
    )
]
LAYERS.append(LayerCase("ZeroPad2d", (((1, 2), (0, 3)),), {}, (1, 2, 4, 5), twin=False))
