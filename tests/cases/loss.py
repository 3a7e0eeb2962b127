"""Cases of losses."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cases.case import BadCase, Case, Draw
from fastconv import ShapeError

CLASSES = ("cross_entropy", "nll_loss")
ERRORS = ("mse_loss", "l1_loss", "bce_with_logits")


def hard(op: str, name: str, *x: int, **options: Any) -> Case:
    """With class indices; weights are written into the options as they are."""
    return Case(op, name, lambda draw: (draw(*x), draw.labels(x[1], x[0], *x[2:])), options, exact=False)


def ignoring(op: str, name: str, *x: int, ignored: int, every: int = 2, **options: Any) -> Case:
    """With every second (…) target ignored."""

    def arrays(draw: Draw) -> tuple[Any, ...]:
        target = draw.labels(x[1], x[0], *x[2:])
        target.reshape(-1)[::every] = ignored
        return draw(*x), target

    return Case(op, name, arrays, options if ignored == -100 else {"ignore_index": ignored, **options}, exact=False)


def soft(name: str, *x: int, **options: Any) -> Case:
    """With probabilities (any numbers serve)."""
    return Case("cross_entropy", name, lambda draw: (draw(*x), draw(*x)), options, exact=False)


def errors(op: str, name: str, *x: int, **options: Any) -> Case:
    """x and target are halves of one draw: they differ."""
    return Case(
        op, name, lambda draw: tuple(half.reshape(x) for half in np.split(draw(2, *x), 2)), options, exact=False
    )


WEIGHTS = np.array([1, 2, 0.5, 0.25, 3], np.float16)  # takes the logits' type

CASES = [
    *(hard(op, "mean", 6, 5) for op in CLASSES),
    *(hard(op, "sum", 6, 5, reduction="sum") for op in CLASSES),
    *(hard(op, "none", 6, 5, reduction="none") for op in CLASSES),
    *(hard(op, "one_class", 3, 1) for op in CLASSES),
    *(hard(op, "one_item", 1, 4) for op in CLASSES),
    *(hard(op, "image", 2, 3, 4, 2) for op in CLASSES),
    *(hard(op, "image_none", 2, 3, 4, 2, reduction="none") for op in CLASSES),
    *(hard(op, "line_weights", 2, 5, 4, weight=WEIGHTS) for op in CLASSES),
    *(hard(op, "weights", 6, 5, weight=WEIGHTS) for op in CLASSES),
    *(hard(op, "weights_none", 6, 5, weight=WEIGHTS, reduction="none") for op in CLASSES),
    *(hard(op, "empty_batch_sum", 0, 5, reduction="sum") for op in CLASSES),
    *(hard(op, "empty_batch_none", 0, 5, 3, reduction="none") for op in CLASSES),
    *(ignoring(op, "ignored", 6, 5, ignored=-100) for op in CLASSES),
    *(ignoring(op, "ignored_class", 7, 5, ignored=2, weight=WEIGHTS) for op in CLASSES),
    *(ignoring(op, "ignored_pixels", 2, 3, 3, 2, ignored=255, reduction="none") for op in CLASSES),
    *(ignoring(op, "ignored_sum", 6, 5, ignored=-1, reduction="sum") for op in CLASSES),
    hard("cross_entropy", "empty_batch", 0, 5, reduction="sum", label_smoothing=0.1),
    hard("cross_entropy", "empty_sum", 0, 5, reduction="sum"),
    hard("cross_entropy", "smoothing", 6, 5, label_smoothing=0.1),
    hard("cross_entropy", "smoothing_all", 6, 5, label_smoothing=1),
    hard("cross_entropy", "smoothing_weights", 6, 5, label_smoothing=0.3, weight=WEIGHTS),
    hard("cross_entropy", "smoothing_image", 2, 3, 2, 2, label_smoothing=0.3, reduction="none"),
    ignoring("cross_entropy", "smoothing_ignored", 6, 5, ignored=-100, label_smoothing=0.2, weight=WEIGHTS),
    hard("cross_entropy", "many_classes", 2, 600),
    soft("probabilities", 4, 5),
    soft("probabilities_sum", 4, 5, reduction="sum"),
    soft("probabilities_image", 2, 3, 2, 4, reduction="none"),
    soft("probabilities_smoothing", 4, 5, label_smoothing=0.2, weight=WEIGHTS),
    soft("probabilities_empty_batch", 0, 5, reduction="sum"),
    *(errors(op, "mean", 4, 5) for op in ERRORS),
    *(errors(op, "sum", 4, 5, reduction="sum") for op in ERRORS),
    *(errors(op, "none", 4, 5, reduction="none") for op in ERRORS),
    *(errors(op, "image", 2, 3, 4, 5) for op in ERRORS),
    *(errors(op, "image_none", 2, 3, 4, 5, reduction="none") for op in ERRORS),
    *(errors(op, "number") for op in ERRORS),
    *(errors(op, "one_element", 1, reduction="none") for op in ERRORS),
    *(errors(op, "empty_batch", 0, 4, reduction="sum") for op in ERRORS),
    errors("bce_with_logits", "weight", 4, 5, weight=WEIGHTS),
    errors("bce_with_logits", "pos_weight", 4, 5, pos_weight=WEIGHTS, reduction="sum"),
    errors("bce_with_logits", "both_weights", 3, 4, 5, weight=WEIGHTS[:4, None], pos_weight=WEIGHTS, reduction="none"),
    errors("bce_with_logits", "weights_empty_batch", 0, 5, weight=WEIGHTS, reduction="none"),
]  # fmt: skip

LARGE = [
    *(hard(op, "classes", 300, 500) for op in CLASSES),
    *(hard(op, "image", 3, 21, 40, 41) for op in CLASSES),
    hard("cross_entropy", "smoothing", 1000, 100, label_smoothing=0.1),
    soft("probabilities", 300, 200),
    *(errors(op, "image", 4, 16, 40, 41) for op in ERRORS),
    *(errors(op, "image_none", 4, 16, 40, 41, reduction="none") for op in ERRORS),
]


def bad(op: str, name: str, error: type[Exception], match: str, x: Any = (3, 4), target: Any = (0, 1, 2), **options: Any) -> BadCase:  # fmt: skip
    """A tuple stands for an array of zeros as x, for its elements as target."""
    x = np.zeros(x) if isinstance(x, tuple) else x
    target = np.array(target) if isinstance(target, tuple) else target
    return BadCase(op, name, (x, target), options, error, match)


X = np.zeros((3, 4))

BAD_CASES = [
    *(bad(op, "one_axis", ShapeError, r"x must have at least 2 axes \(N C\), got 1", x=(4,), target=3) for op in CLASSES),
    *(bad(op, "no_classes", ShapeError, "x must not be empty along any axis but N", x=(3, 0)) for op in CLASSES),
    *(bad(op, "target_length", ShapeError, r"target must have shape \(3,\) for x \(3, 4\), got \(2,\)", target=(0, 1)) for op in CLASSES),
    *(bad(op, "target_axes", ShapeError, r"target must have shape \(3, 5\) for x \(3, 4, 5\), got \(3,\)", x=(3, 4, 5)) for op in CLASSES),
    *(bad(op, "target_large", ValueError, r"target must hold class indices from 0 to 3 \(or ignore_index -100\), got 4", target=(0, 4, 1)) for op in CLASSES),
    *(bad(op, "target_negative", ValueError, "target must hold class indices .* got -1", target=(0, -1, 1)) for op in CLASSES),
    *(bad(op, "target_ignored_other", ValueError, "ignore_index 7.*, got -100", target=(0, -100, 7), ignore_index=7) for op in CLASSES),
    *(bad(op, "target_floats", TypeError, r"target must hold class indices \(integers\), got float64", target=(0.0, 1.0, 2.0)) for op in CLASSES),
    *(bad(op, "target_bools", TypeError, "target must hold class indices .* got bool", target=(True, False, True)) for op in CLASSES),
    *(bad(op, "target_column", ShapeError, r"target .* got \(3, 1\); write target.ravel\(\)$", target=[[0], [1], [2]]) for op in CLASSES),
    *(bad(op, "target_planes", ShapeError, r"got \(3, 1, 5\); write target.reshape\(-1, 5\)$", x=(3, 4, 5), target=np.zeros((3, 1, 5), int)) for op in CLASSES),
    *(bad(op, "target_floats_hint", TypeError, r"got float64; write target.astype\(int\)$", target=(0.0, 1.0, 2.0)) for op in CLASSES),
    *(bad(op, "target_text", TypeError, r"got <U1; write numpy.unique\(target, return_inverse=True\)\[1\]$", target=("a", "b", "a")) for op in CLASSES),
    bad("cross_entropy", "target_float_column", ShapeError, r"got \(3, 1\); write target.ravel\(\).astype\(int\)$", target=[[0.0], [1.0], [2.0]]),
    bad("nll_loss", "target_float_column", TypeError, r"got float64; write target.ravel\(\).astype\(int\)$", target=[[0.0], [1.0], [2.0]]),
    bad("nll_loss", "target_one_hot", ShapeError, r"got \(3, 4\); write target.argmax\(axis=1\)$", target=np.eye(3, 4, dtype=int)),
    *(bad(op, "target_none", TypeError, "target must hold class indices", target=None) for op in CLASSES),
    *(bad(op, "target_ragged", ShapeError, "target must be a rectangular array", target=[[1], [1, 2]]) for op in CLASSES),
    *(bad(op, "target_huge", MemoryError, "needs .* bytes of memory", target=np.broadcast_to(np.int8(0), 2**40)) for op in CLASSES),
    *(bad(op, "weight_length", ShapeError, r"weight must have one entry per class, shape \(4,\), got \(3,\)", weight=np.zeros(3)) for op in CLASSES),
    *(bad(op, "weight_float32", TypeError, "arrays must share one float type", weight=np.zeros(4, np.float32)) for op in CLASSES),
    *(bad(op, "ignore_index_float", TypeError, "ignore_index must be an integer, got 1.0", ignore_index=1.0) for op in CLASSES),
    *(bad(op, "reduction", ValueError, "reduction must be one of mean, sum, none, got 'average'", reduction="average") for op in CLASSES),
    bad("cross_entropy", "probabilities_shape", ShapeError, r"target probabilities must have x's shape \(3, 4\), got \(3, 5\)", target=np.zeros((3, 5))),
    bad("cross_entropy", "probabilities_float32", TypeError, "arrays must share one float type", target=np.zeros((3, 4), np.float32)),
    bad("cross_entropy", "smoothing_large", ValueError, "label_smoothing must be between 0 and 1, got 1.5", label_smoothing=1.5),
    bad("cross_entropy", "smoothing_text", TypeError, "label_smoothing must be a number, got 'some'", label_smoothing="some"),
    *(bad(op, "shape", ShapeError, r"target must have x's shape \(3, 4\), got \(4,\)", target=np.zeros(4)) for op in ERRORS),
    *(bad(op, "target_flat", ShapeError, r"x's shape \(3, 1\), got \(3,\); write target.reshape\(-1, 1\)$", x=(3, 1), target=np.zeros(3)) for op in ERRORS),
    *(bad(op, "x_flat", ShapeError, r"x's shape \(3,\), got \(3, 1\); write target.ravel\(\)$", x=(3,), target=np.zeros((3, 1))) for op in ERRORS),
    *(bad(op, "target_none", TypeError, "target must hold real numbers, got None", target=None) for op in ERRORS),
    *(bad(op, "target_text", TypeError, "target must hold real numbers", target="cat") for op in ERRORS),
    *(bad(op, "reduction", ValueError, "reduction must be one of mean, sum, none, got None", target=X, reduction=None) for op in ERRORS),
    bad("bce_with_logits", "weight_shape", ShapeError, r"weight must broadcast to x's shape \(3, 4\), got \(3,\)", target=X, weight=np.ones(3)),
    bad("bce_with_logits", "weight_axes", ShapeError, r"weight must broadcast to x's shape \(3, 4\), got \(1, 3, 4\)", target=X, weight=np.ones((1, 3, 4))),
    bad("bce_with_logits", "pos_weight_shape", ShapeError, r"pos_weight must broadcast to x's shape \(3, 4\), got \(5,\)", target=X, pos_weight=np.ones(5)),
]  # fmt: skip


def shape_of(rng: np.random.Generator, fewest: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(1, 7, int(rng.integers(fewest, 5))))


def options_of(rng: np.random.Generator, op: str, classes: int) -> dict[str, Any]:
    options: dict[str, Any] = {"reduction": str(rng.choice(["mean", "sum", "none"]))}
    if rng.random() < 0.4:
        options["weight"] = rng.integers(1, 9, classes).astype(np.float16) / 4
    if op == "cross_entropy" and rng.random() < 0.4:
        options["label_smoothing"] = float(rng.random())
    return options


def random_classes(op: str) -> Callable[[np.random.Generator], Case]:
    def make(rng: np.random.Generator) -> Case:
        items, classes, *spatial = shape_of(rng, 2)
        x = (items, classes + 1, *spatial)  # the sum over one class of all that was drawn would be 0
        options = options_of(rng, op, x[1])
        if op == "cross_entropy" and rng.random() < 0.3:
            return soft("random", *x, **options)
        if rng.random() < 0.4 and x[0] > 2:
            return ignoring(op, "random", *x, ignored=int(rng.choice([-100, -1, 300])), every=2, **options)
        return hard(op, "random", *x, **options)

    return make


def random_errors(op: str) -> Callable[[np.random.Generator], Case]:
    def make(rng: np.random.Generator) -> Case:
        x = shape_of(rng, 0)
        options: dict[str, Any] = {"reduction": str(rng.choice(["mean", "sum", "none"]))}
        for name in ("weight", "pos_weight") if op == "bce_with_logits" else ():
            if rng.random() < 0.4:
                options[name] = rng.integers(1, 9, x[int(rng.integers(0, len(x) + 1)) :]).astype(np.float16) / 4
        return errors(op, "random", *x, **options)

    return make


def torch_loss(name: str) -> Callable[..., Any]:
    def call(torch: Any, x: Any, target: Any, **options: Any) -> Any:
        for key in ("weight", "pos_weight"):
            if key in options:
                options[key] = torch.tensor(options[key], dtype=x.dtype)
        return getattr(torch.nn.functional, name)(x, target, **options)

    return call


RANDOM = {
    **{op: random_classes(op) for op in CLASSES},
    **{op: random_errors(op) for op in ERRORS},
}
TORCH = {
    **{op: torch_loss(op) for op in (*CLASSES, "mse_loss", "l1_loss")},
    "bce_with_logits": torch_loss("binary_cross_entropy_with_logits"),
}
