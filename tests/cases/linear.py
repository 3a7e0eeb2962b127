"""Cases of linear."""

from typing import Any

import numpy as np

from cases.case import BadCase, Case, Draw, LayerCase
from fastconv import ShapeError


def linear(name: str, x: tuple[int, ...], filters: int, bias: bool = True) -> Case:
    def arrays(draw: Draw) -> tuple[Any, ...]:
        return draw(*x), draw(filters, x[-1]), draw(filters) if bias else None

    return Case("linear", name, arrays)


CASES = [
    linear("plain", (4, 6), 5),
    linear("no_bias", (4, 6), 5, bias=False),
    linear("one_of_everything", (1, 1), 1),
    linear("one_feature", (5, 1), 3),
    linear("one_filter", (5, 7), 1),
    linear("empty_batch", (0, 6), 5),
    linear("three_axes", (2, 3, 4), 5),
    linear("four_axes", (2, 3, 2, 4), 3, bias=False),
    linear("empty_inner_axis", (2, 0, 4), 5),
    linear("many_filters", (2, 3), 70),
    linear("many_items", (70, 3), 2),
    Case("linear", "arguments_left_out", lambda draw: (draw(3, 4), draw(2, 4))),
]

LARGE = [
    linear("many_items", (3000, 100), 50),
    linear("many_filters", (30, 200), 1500),
    linear("three_axes", (10, 60, 128), 200, bias=False),
    linear("one_item", (1, 2000), 900),
]


def bad(name: str, error: type[Exception], match: str, x: Any = (2, 6), w: Any = (5, 6), b: Any = None) -> BadCase:
    """A shape stands for an array of zeros; anything else is handed on as it is."""
    arguments = tuple(np.zeros(a, np.float32) if isinstance(a, tuple) else a for a in (x, w, b))
    return BadCase("linear", name, arguments, {}, error, match)


BAD_CASES = [
    bad("one_axis", ShapeError, r"x must have at least 2 axes \(N F\), got 1: shape \(6,\)", x=(6,)),
    bad("features", ShapeError, r"x must have as many features as w, got x \(2, 5\) and w \(5, 6\)", x=(2, 5)),
    bad("w_axes", ShapeError, r"w must have 2 axes \(K F\), got 3", w=(5, 6, 1)),
    bad("w_none", TypeError, "w must hold real numbers, got None", w=None),
    bad("no_features", ShapeError, "w must not be empty along F", x=(2, 0), w=(5, 0)),
    bad("no_filters", ShapeError, "w must not be empty along K", w=(0, 6)),
    bad("b_length", ShapeError, r"b must have one entry per row of w, shape \(5,\), got \(6,\)", b=(6,)),
    bad("b_axes", ShapeError, r"b must have one entry per row of w, shape \(5,\), got \(5, 1\)", b=(5, 1)),
    bad("mixed_floats", TypeError, "arrays must share one float type", w=np.zeros((5, 6))),
    bad("complex", TypeError, "x must hold real numbers", x=np.zeros((2, 6), complex)),
    bad(
        "huge_output", MemoryError, "needs .* bytes of memory",
        x=np.broadcast_to(np.float32(0), (2**30, 1)), w=np.broadcast_to(np.float32(0), (2**20, 1)),
    ),
]  # fmt: skip


def random_linear(rng: np.random.Generator) -> Case:
    axes = int(rng.integers(1, 4))
    leading = tuple(int(n) for n in rng.integers(1, 9 if axes > 1 else 30, axes))
    return linear("random", (*leading, int(rng.integers(1, 20))), int(rng.integers(1, 20)), bool(rng.random() < 0.7))


RANDOM = {"linear": random_linear}
TORCH = {"linear": lambda torch, x, w, b=None: torch.nn.functional.linear(x, w, b)}

LAYERS = [
    LayerCase("Linear", (5, 3), {}, (2, 5)),
    LayerCase("Linear", (5, 3), {"bias": False}, (2, 5)),
    LayerCase("Linear", (5, 3), {}, (2, 3, 4, 5)),
]
