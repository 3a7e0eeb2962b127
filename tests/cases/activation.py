"""Cases of activation functions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cases.case import BadCase, Case, LayerCase
from fastconv import ShapeError

ELEMENTWISE: dict[str, dict[str, dict[str, Any]]] = {  # op -> {name of a case: options}
    "relu": {},
    "leaky_relu": {"slope": {"negative_slope": 0.25}, "falling": {"negative_slope": -1.5}, "zero": {"negative_slope": 0}},
    "elu": {"alpha": {"alpha": 1.7}, "falling": {"alpha": -0.5}},
    "selu": {},
    "gelu": {"none": {"approximate": "none"}, "tanh": {"approximate": "tanh"}},
    "silu": {},
    "sigmoid": {},
    "tanh": {},
    "softplus": {"beta": {"beta": 2.5}, "threshold": {"threshold": 1.05}, "both": {"beta": 0.5, "threshold": 0.54}},
    "hardswish": {},
    "step": {},
}  # fmt: skip
EXACT = {"relu", "step"}
ROWS = ("softmax", "log_softmax")


def elementwise(op: str, name: str, *x: int, **options: Any) -> Case:
    return Case(op, name, lambda draw: (draw(*x),), options, exact=op in EXACT)


def prelu(name: str, *x: int, weights: int) -> Case:
    return Case("prelu", name, lambda draw: (draw(*x), draw(weights)))


def rows(op: str, name: str, *x: int, **options: Any) -> Case:
    return Case(op, name, lambda draw: (draw(*x),), options, exact=False)


CASES = [
    *(elementwise(op, "image", 2, 3, 4, 5) for op in ELEMENTWISE),
    *(elementwise(op, "matrix", 5, 7) for op in ELEMENTWISE),
    *(elementwise(op, "number") for op in ELEMENTWISE),
    *(elementwise(op, "empty_batch", 0, 3, 4) for op in ELEMENTWISE),
    *(elementwise(op, f"option_{name}", 3, 4, 5, **options) for op, cases in ELEMENTWISE.items() for name, options in cases.items()),
    Case("leaky_relu", "positional", lambda draw: (draw(3, 4), 0.5), exact=False),
    Case("elu", "positional", lambda draw: (draw(3, 4), 0.5), exact=False),
    Case("softplus", "positional", lambda draw: (draw(3, 4), 2.0, 7.0), exact=False),
    prelu("channels", 2, 3, 4, 5, weights=3),
    prelu("one_weight", 2, 3, 4, 5, weights=1),
    prelu("one_channel", 2, 1, 4, 5, weights=1),
    prelu("matrix", 4, 5, weights=5),
    prelu("many_channels", 2, 19, 3, weights=19),
    prelu("volume", 1, 3, 2, 3, 2, weights=3),
    prelu("empty_batch", 0, 3, 4, weights=3),
    Case("prelu", "number", lambda draw: (draw(2, 3), draw())),
    *(rows(op, "classes", 4, 5) for op in ROWS),
    *(rows(op, "one_class", 3, 1) for op in ROWS),
    *(rows(op, "image", 2, 3, 4, 5) for op in ROWS),
    *(rows(op, "last", 2, 3, 4, dim=-1) for op in ROWS),
    *(rows(op, "first", 3, 4, 2, dim=0) for op in ROWS),
    *(rows(op, "spatial", 2, 3, 4, 2, dim=2) for op in ROWS),
    *(rows(op, "empty_batch", 0, 5) for op in ROWS),
    *(rows(op, "empty_along_first", 0, 3, 4, dim=0) for op in ROWS),
    *(rows(op, "long", 2, 700) for op in ROWS),
]  # fmt: skip

LARGE = [
    *(elementwise(op, "image", 4, 16, 40, 41) for op in ELEMENTWISE),
    prelu("image", 4, 16, 40, 41, weights=16),
    prelu("one_weight", 4, 3, 70, 71, weights=1),
    *(rows(op, "image", 3, 21, 40, 41) for op in ROWS),
    *(rows(op, "classes", 60, 1500) for op in ROWS),
]


def bad(op: str, name: str, error: type[Exception], match: str, *arguments: Any, **options: Any) -> BadCase:
    return BadCase(op, name, arguments or (np.zeros((2, 3, 4)),), options, error, match)


X = np.zeros((2, 3, 4))

BAD_CASES = [
    *(bad(op, "text", TypeError, "x must hold real numbers", "image") for op in ELEMENTWISE),
    bad("leaky_relu", "slope_text", TypeError, "negative_slope must be a number, got 'steep'", negative_slope="steep"),
    bad("leaky_relu", "slope_nan", ValueError, "negative_slope must be a number, got nan", negative_slope=np.nan),
    bad("elu", "alpha_none", TypeError, "alpha must be a number, got None", alpha=None),
    bad("gelu", "approximate", ValueError, "approximate must be none or tanh, got 'erf'", approximate="erf"),
    bad("softplus", "beta_zero", ValueError, "beta must not be 0", beta=0),
    bad("softplus", "threshold_text", TypeError, "threshold must be a number, got 'high'", threshold="high"),
    bad("prelu", "one_axis", ShapeError, r"x must have at least 2 axes \(N C\), got 1", np.zeros(3), np.zeros(3)),
    bad("prelu", "weights", ShapeError, r"weight must have one entry, or one per channel, shape \(3,\), got \(4,\)", X, np.zeros(4)),
    bad("prelu", "weight_axes", ShapeError, r"one per channel, shape \(3,\), got \(3, 1\)", X, np.zeros((3, 1))),
    bad("prelu", "weight_none", TypeError, "weight must hold real numbers, got None", X, None),
    bad("prelu", "mixed_floats", TypeError, "arrays must share one float type", X, np.zeros(3, np.float32)),
    *(bad(op, "dim", ShapeError, r"dim must be an axis of x, got 3 for shape \(2, 3, 4\)", X, dim=3) for op in ROWS),
    *(bad(op, "dim_negative", ShapeError, "dim must be an axis of x, got -4", X, dim=-4) for op in ROWS),
    *(bad(op, "dim_float", TypeError, "dim must be an integer, got 1.0", X, dim=1.0) for op in ROWS),
    *(bad(op, "dim_none", TypeError, "dim must be an integer, got None", X, dim=None) for op in ROWS),
    *(bad(op, "one_axis", ShapeError, "dim must be an axis of x, got 1 for shape", np.zeros(3)) for op in ROWS),
    *(bad(op, "no_classes", ShapeError, "x must not be empty along dim 1", np.zeros((3, 0))) for op in ROWS),
]  # fmt: skip


def any_shape(rng: np.random.Generator, fewest: int = 0) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(1, 8, int(rng.integers(fewest, 6))))


OPTIONS: dict[str, list[Callable[[np.random.Generator], dict[str, Any]]]] = {
    "leaky_relu": [lambda rng: {"negative_slope": float(rng.uniform(-1, 2))}],
    "elu": [lambda rng: {"alpha": float(rng.uniform(-1, 3))}],
    "softplus": [lambda rng: {"beta": float(rng.uniform(0.1, 4)), "threshold": 20.0 + float(rng.uniform(0, 9))}],
}


def random_elementwise(op: str) -> Callable[[np.random.Generator], Case]:
    def make(rng: np.random.Generator) -> Case:
        choices = [{}, *ELEMENTWISE[op].values(), *(make_random(rng) for make_random in OPTIONS.get(op, ()))]
        return elementwise(op, "random", *any_shape(rng), **choices[int(rng.integers(len(choices)))])

    return make


def random_prelu(rng: np.random.Generator) -> Case:
    x = any_shape(rng, 2)
    return prelu("random", *x, weights=int(rng.choice([1, x[1]])))


def random_rows(op: str) -> Callable[[np.random.Generator], Case]:
    def make(rng: np.random.Generator) -> Case:
        x = any_shape(rng, 2)
        return rows(op, "random", *x, dim=int(rng.integers(-len(x), len(x))))

    return make


def torch_function(op: str) -> Callable[..., Any]:
    return lambda torch, *tensors, **options: getattr(torch.nn.functional, op)(*tensors, **options)


def torch_step(torch: Any, x: Any) -> Any:
    return (x >= 0).to(x.dtype) + 0 * x.detach() + 0 * x


def torch_rows(op: str) -> Callable[..., Any]:
    return lambda torch, x, dim=1: getattr(torch.nn.functional, op)(x, dim=dim)


RANDOM = {
    **{op: random_elementwise(op) for op in ELEMENTWISE},
    "prelu": random_prelu,
    **{op: random_rows(op) for op in ROWS},
}
TORCH = {
    **{op: torch_function(op) for op in (*ELEMENTWISE, "prelu")},
    **{op: torch_rows(op) for op in ROWS},
    "step": torch_step,
}

LAYERS = [
    *(LayerCase(name, (), {}, (2, 3, 4)) for name in ("ReLU", "GELU", "SiLU", "SELU")),
    *(LayerCase(name, (), {}, (2, 3, 4)) for name in ("Sigmoid", "Tanh", "Hardswish", "Softplus")),
    LayerCase("Step", (), {}, (2, 3, 4), twin=False),
    LayerCase("GELU", ("tanh",), {}, (2, 3, 4)),
    LayerCase("LeakyReLU", (0.2,), {}, (2, 3)),
    LayerCase("LeakyReLU", (0.2,), {}, (2, 3, 4, 5)),
    LayerCase("ELU", (0.7,), {}, (2, 3)),
    LayerCase("ELU", (0.7,), {}, (2, 3, 4)),
    LayerCase("PReLU", (3,), {}, (2, 3, 4)),
    LayerCase("PReLU", (), {}, (2, 3, 4)),
    *(LayerCase(name, (dim,), {}, (2, 3, 4, 5)) for name in ("Softmax", "LogSoftmax") for dim in (1, 2, -1)),
]
