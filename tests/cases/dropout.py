"""Cases of dropout. PyTorch draws other masks; tests/test_dropout.py looks at what the masks are."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cases.case import BadCase, Case, LayerCase


def dropout(name: str, *x: int, p: float, training: bool = True) -> Case:
    return Case(
        "dropout",
        name,
        lambda draw: (draw(*x), p),
        {"training": training},
        fresh={"rng": lambda: np.random.default_rng(1)},
        exact=p in (0, 0.5, 1),
    )


CASES = [
    dropout("half", 2, 3, 4, 5, p=0.5),
    dropout("quarter", 2, 3, 4, 5, p=0.25),
    dropout("matrix", 5, 7, p=0.5),
    dropout("line", 2, 3, 9, p=0.7),
    dropout("one_axis", 11, p=0.5),
    dropout("number", p=0.5),
    dropout("all", 2, 3, 4, p=1),
    dropout("none", 2, 3, 4, p=0),
    dropout("inference", 2, 3, 4, 5, p=0.5, training=False),
    dropout("empty_batch", 0, 3, 4, p=0.5),
    Case("dropout", "inference_without_rng", lambda draw: (draw(2, 3), 0.5), {"training": False, "rng": None}),
]

LARGE = [dropout("image", 4, 16, 40, 41, p=0.3), dropout("matrix", 300, 400, p=0.5)]


def bad(name: str, error: type[Exception], match: str, x: Any = (2, 3), p: Any = 0.5, **options: Any) -> BadCase:
    x = np.zeros(x, np.float32) if isinstance(x, tuple) else x
    options = {"training": True, "rng": np.random.default_rng(0), **options}
    return BadCase("dropout", name, (x, p), options, error, match)


BAD_CASES = [
    bad("p_negative", ValueError, "p must be between 0 and 1, got -0.1", p=-0.1),
    bad("p_large", ValueError, "p must be between 0 and 1, got 1.5", p=1.5),
    bad("p_nan", ValueError, "p must be a number, got nan", p=float("nan")),
    bad("p_text", TypeError, "p must be a number, got 'half'", p="half"),
    bad("p_large_in_inference", ValueError, "p must be between 0 and 1", p=2, training=False),
    bad("rng_none", TypeError, "rng must be a numpy.random.Generator, got NoneType", rng=None),
    bad("rng_seed", TypeError, "rng must be a numpy.random.Generator, got int", rng=3),
    bad("rng_legacy", TypeError, "rng must be a numpy.random.Generator, got RandomState", rng=np.random.RandomState(0)),
    bad("complex", TypeError, "x must hold real numbers", x=np.zeros(3, complex)),
]  # fmt: skip

RANDOM: dict[str, Callable[..., Case]] = {}

TORCH: dict[str, Callable[..., Any]] = {}

LAYERS = [LayerCase(name, (), {}, (2, 3, 4, 5), twin=False) for name in ("Dropout", "Dropout2d")]  # other draws
