"""Cases of normalisation."""

from typing import Any

import numpy as np

from cases.case import BadCase, Case, Draw, LayerCase
from fastconv import ShapeError


def running(op: str, name: str, *x: int, given: bool = True, affine: bool = True, **options: Any) -> Case:
    """batch_norm and instance_norm; given: with running statistics."""
    updated = options.get("training", False) if op == "batch_norm" else options.get("use_input_stats", True)

    def arrays(draw: Draw) -> tuple[Any, ...]:
        statistics = (draw(x[1]), draw.positive(x[1])) if given else (None, None)
        return draw(*x), *statistics, *((draw(x[1]), draw(x[1])) if affine else (None, None))

    places = (1, 2) if given else ()
    return Case(
        op, name, arrays, options, exact=False, written=places if updated else (), constant=() if updated else places
    )


def batch(name: str, *x: int, **options: Any) -> Case:
    return running("batch_norm", name, *x, **options)


def instance(name: str, *x: int, **options: Any) -> Case:
    return running("instance_norm", name, *x, **options)


def group(name: str, *x: int, groups: int, affine: bool = True, **options: Any) -> Case:
    def arrays(draw: Draw) -> tuple[Any, ...]:
        return draw(*x), groups, *((draw(x[1]), draw(x[1])) if affine else (None, None))

    return Case("group_norm", name, arrays, options, exact=False)


def layer(name: str, *x: int, shape: Any, affine: bool = True, **options: Any) -> Case:
    sizes = shape if isinstance(shape, tuple) else (shape,)

    def arrays(draw: Draw) -> tuple[Any, ...]:
        return draw(*x), shape, *((draw(*sizes), draw(*sizes)) if affine else (None, None))

    return Case("layer_norm", name, arrays, options, exact=False)


def response(name: str, *x: int, **options: Any) -> Case:
    return Case("local_response_norm", name, lambda draw: (draw(*x),), options, exact=False)


CASES = [
    batch("training", 3, 4, 3, 2, training=True),
    batch("training_matrix", 7, 5, training=True),
    batch("training_line", 2, 3, 6, training=True),
    batch("training_volume", 2, 2, 3, 2, 2, training=True),
    batch("training_plain", 3, 4, 3, 2, training=True, affine=False),
    batch("training_forgetting", 3, 4, 3, 2, training=True, given=False),
    batch("training_one_channel", 3, 1, 3, 2, training=True),
    batch("training_many_channels", 3, 19, 5, training=True),
    batch("training_one_image", 1, 3, 4, 4, training=True),
    batch("training_options", 3, 4, 3, 2, training=True, momentum=0.3, eps=0.1),
    batch("training_momentum_one", 3, 4, 3, 2, training=True, momentum=1),
    batch("training_many_pixels", 2, 2, 17, 19, training=True),
    batch("training_empty_batch", 0, 3, 4, 4, training=True),
    batch("inference", 3, 4, 3, 2),
    batch("inference_matrix", 7, 5, eps=0.2),
    batch("inference_plain", 3, 4, 3, 2, affine=False),
    batch("inference_one_value", 1, 3),
    batch("inference_empty_batch", 0, 3, 4, 4),
    Case("batch_norm", "weight_only", lambda draw: (draw(4, 3), None, None, draw(3)), {"training": True}, exact=False),
    Case("batch_norm", "bias_only", lambda draw: (draw(4, 3), None, None, None, draw(3)), {"training": True}, exact=False),
    instance("plain", 2, 3, 3, 4, affine=False, given=False),
    instance("affine", 2, 3, 3, 4, given=False),
    instance("updating", 2, 3, 3, 4, momentum=0.4),
    instance("line", 2, 3, 5),
    instance("volume", 2, 2, 2, 3, 2),
    instance("one_channel", 3, 1, 4, 3),
    instance("many_channels", 2, 19, 5),
    instance("running", 2, 3, 3, 4, use_input_stats=False),
    instance("running_plain", 2, 3, 1, 1, use_input_stats=False, affine=False),
    instance("empty_batch", 0, 3, 3, 4),
    Case("instance_norm", "x_alone", lambda draw: (draw(2, 3, 5),), exact=False),
    group("plain", 2, 6, 3, 4, groups=3, affine=False),
    group("affine", 2, 6, 3, 4, groups=2),
    group("one_group", 2, 6, 3, 4, groups=1),
    group("channels", 2, 4, 3, 2, groups=4),
    group("matrix", 3, 6, groups=2),
    group("line", 2, 4, 7, groups=2, eps=0.1),
    group("many_channels", 2, 36, 3, groups=3),
    group("empty_batch", 0, 6, 3, 4, groups=3),
    Case("group_norm", "x_alone", lambda draw: (draw(2, 4, 5), 2), exact=False),
    layer("last", 3, 4, 5, shape=5),
    layer("last_tuple", 3, 4, 5, shape=(5,)),
    layer("two", 3, 4, 5, shape=(4, 5)),
    layer("image", 2, 3, 4, 5, shape=(3, 4, 5)),
    layer("plain", 3, 4, 5, shape=5, affine=False),
    layer("everything", 4, 5, shape=(4, 5), eps=0.1),
    layer("long", 2, 70, shape=70),
    layer("many", 60, 3, shape=3),
    layer("empty_batch", 0, 4, 5, shape=5),
    Case("layer_norm", "weight_only", lambda draw: (draw(3, 5), 5, draw(5)), exact=False),
    response("size_1", 2, 3, 4, 5, size=1),
    response("size_2", 2, 3, 4, 5, size=2),
    response("size_5", 2, 7, 3, 2, size=5),
    response("beyond_the_channels", 2, 3, 4, size=9),
    response("options", 2, 5, 4, size=3, alpha=0.5, beta=0.6, k=2),
    response("alexnet", 1, 6, 3, 3, size=5, alpha=1e-4, beta=0.75, k=2),
    response("volume", 1, 4, 2, 3, 2, size=3, alpha=1.0),
    response("one_channel", 2, 1, 3, 3, size=3, alpha=1.0),
    response("empty_batch", 0, 3, 4, size=3),
    Case("local_response_norm", "positional", lambda draw: (draw(2, 4, 3), 3, 0.1, 0.5, 2.0), exact=False),
]  # fmt: skip

LARGE = [
    batch("image", 6, 16, 40, 41, training=True),
    batch("few_channels", 6, 3, 70, 71, training=True),
    batch("matrix", 800, 120, training=True),
    batch("inference", 6, 16, 40, 41),
    instance("image", 6, 16, 40, 41),
    group("image", 6, 16, 40, 41, groups=4),
    layer("rows", 400, 300, shape=300),
    layer("image", 3, 8, 40, 41, shape=(8, 40, 41)),
    response("image", 4, 16, 40, 41, size=5, alpha=0.5),
]


def bad(op: str, name: str, error: type[Exception], match: str, *arguments: Any, **options: Any) -> BadCase:
    return BadCase(op, name, arguments, options, error, match)


X, ROWS, THREE, FOUR = np.zeros((2, 4, 3, 3)), np.zeros((2, 4)), np.zeros(3), np.zeros(4)
READ_ONLY = np.zeros(4)
READ_ONLY.flags.writeable = False
ONE_PER = r"must have one entry per channel, shape \(4,\), got"

BAD_CASES = [
    bad("batch_norm", "one_axis", ShapeError, r"x must have at least 2 axes \(N C\), got 1", FOUR, FOUR, FOUR),
    bad("batch_norm", "no_pixels", ShapeError, "x must not be empty along any axis but N", np.zeros((2, 4, 0)), FOUR, FOUR),
    bad("batch_norm", "one_value", ShapeError, r"x must have more than 1 value per mean, got shape \(1, 4\)", ROWS[:1], FOUR, FOUR, training=True),
    bad("batch_norm", "nothing_running", ShapeError, "running_mean and running_var must be given", X, None, None),
    bad("batch_norm", "no_variance", ShapeError, "running_mean and running_var must be given", X, FOUR, None),
    bad("batch_norm", "running_mean_length", ShapeError, f"running_mean {ONE_PER}", X, THREE, FOUR),
    bad("batch_norm", "running_var_length", ShapeError, f"running_var {ONE_PER}", X, FOUR, THREE, training=True),
    bad("batch_norm", "weight_length", ShapeError, f"weight {ONE_PER}", X, FOUR, FOUR, THREE),
    bad("batch_norm", "bias_axes", ShapeError, f"bias {ONE_PER}", X, FOUR, FOUR, FOUR, X[0, :, :1, 0]),
    bad("batch_norm", "running_list", TypeError, "running_mean is updated in place and must be an array of floats, got list", X, [0] * 4, FOUR, training=True),
    bad("batch_norm", "running_integers", TypeError, "running_var is updated in place .* got int64", X, FOUR, np.zeros(4, np.int64), training=True),
    bad("batch_norm", "running_read_only", ValueError, "running_mean is updated in place and must not be read-only", X, READ_ONLY, FOUR, training=True),
    bad("batch_norm", "running_float32", TypeError, "arrays must share one float type", X, FOUR.astype("f4"), FOUR, training=True),
    bad("batch_norm", "eps_negative", ValueError, "eps must be at least 0, got -1", X, FOUR, FOUR, eps=-1),
    bad("batch_norm", "eps_text", TypeError, "eps must be a number, got 'tiny'", X, FOUR, FOUR, eps="tiny"),
    bad("batch_norm", "momentum_none", TypeError, "momentum must be a number, got None", X, FOUR, FOUR, momentum=None),
    bad("instance_norm", "matrix", ShapeError, r"x must have at least 3 axes \(N C and spatial ones\), got 2", ROWS),
    bad("instance_norm", "one_value", ShapeError, "x must have more than 1 value per mean", X[:, :, :1, :1]),
    bad("instance_norm", "nothing_running", ShapeError, "running_mean and running_var must be given", X, use_input_stats=False),
    bad("instance_norm", "weight_length", ShapeError, f"weight {ONE_PER}", X, None, None, THREE),
    bad("instance_norm", "running_list", TypeError, "running_mean is updated in place", X, [0] * 4, FOUR),
    bad("group_norm", "one_axis", ShapeError, r"x must have at least 2 axes \(N C\), got 1", FOUR, 2),
    bad("group_norm", "groups", ShapeError, "num_groups must divide the channels of x, got 3 for 4", X, 3),
    bad("group_norm", "groups_zero", ShapeError, "num_groups must be at least 1, got 0", X, 0),
    bad("group_norm", "groups_float", TypeError, "num_groups must be an integer, got 2.0", X, 2.0),
    bad("group_norm", "one_value", ShapeError, "x must have more than 1 value per mean", ROWS[:1], 4),
    bad("group_norm", "bias_length", ShapeError, f"bias {ONE_PER}", X, 2, FOUR, THREE),
    bad("layer_norm", "shape", ShapeError, r"x must end in the axes of normalized_shape \(4,\), got shape \(2, 4, 3, 3\)", X, 4),
    bad("layer_norm", "shape_axes", ShapeError, r"x must end in the axes of normalized_shape \(1, 3\)", THREE, (1, 3)),
    bad("layer_norm", "shape_empty", ShapeError, r"normalized_shape must have at least one axis, got \(\)", X, ()),
    bad("layer_norm", "shape_zero", ShapeError, "normalized_shape must be at least 1, got 0", np.zeros((3, 0)), 0),
    bad("layer_norm", "shape_float", TypeError, "normalized_shape must be an integer, got 3.0", X, 3.0),
    bad("layer_norm", "weight_shape", ShapeError, r"weight must have one entry per element of normalized_shape, shape \(3, 3\), got \(3,\)", X, (3, 3), THREE),
    bad("local_response_norm", "matrix", ShapeError, r"x must have at least 3 axes", ROWS, 3),
    bad("local_response_norm", "size_zero", ShapeError, "size must be at least 1, got 0", X, 0),
    bad("local_response_norm", "size_float", TypeError, "size must be an integer, got 2.5", X, 2.5),
    bad("local_response_norm", "beta_text", TypeError, "beta must be a number, got 'steep'", X, 3, beta="steep"),
]  # fmt: skip


def spatial(rng: np.random.Generator, fewest: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(2, 7, int(rng.integers(fewest, 4))))


def random_batch(rng: np.random.Generator) -> Case:
    training = bool(rng.random() < 0.6)
    return batch(
        "random",
        int(rng.integers(4, 9)),
        int(rng.integers(1, 20)),
        *spatial(rng, 0),
        given=not training or bool(rng.random() < 0.7),
        affine=bool(rng.random() < 0.7),
        training=training,
        momentum=float(rng.random()),
        eps=float(rng.choice([1e-5, 0.1])),
    )


def random_instance(rng: np.random.Generator) -> Case:
    own = bool(rng.random() < 0.6)
    return instance(
        "random",
        int(rng.integers(1, 5)),
        int(rng.integers(1, 20)),
        3,
        *spatial(rng, 1)[1:],
        given=not own or bool(rng.random() < 0.7),
        affine=bool(rng.random() < 0.7),
        use_input_stats=own,
        momentum=float(rng.random()),
        eps=float(rng.choice([1e-5, 0.02, 0.1])),
    )


def random_group(rng: np.random.Generator) -> Case:
    groups = int(rng.integers(1, 5))
    channels = groups * int(rng.integers(3, 7))
    x = (int(rng.integers(1, 5)), channels, *spatial(rng, 0))
    return group("random", *x, groups=groups, affine=bool(rng.random() < 0.7), eps=float(rng.choice([1e-5, 0.02, 0.1])))


def random_layer(rng: np.random.Generator) -> Case:
    leading, shape = spatial(rng, 0), spatial(rng, 1)
    return layer(
        "random", *leading, *shape, shape=shape, affine=bool(rng.random() < 0.7), eps=float(rng.choice([0.02, 0.1]))
    )


def random_response(rng: np.random.Generator) -> Case:
    return response(
        "random",
        int(rng.integers(1, 4)),
        int(rng.integers(1, 12)),
        *spatial(rng, 1),
        size=int(rng.integers(1, 8)),
        alpha=float(rng.random()),
        beta=float(rng.choice([0.5, 0.75, 1.0])),
        k=float(1 + rng.random()),
    )


RANDOM = {
    "batch_norm": random_batch,
    "instance_norm": random_instance,
    "group_norm": random_group,
    "layer_norm": random_layer,
    "local_response_norm": random_response,
}
TORCH = {
    "batch_norm": lambda torch, *tensors, **options: torch.nn.functional.batch_norm(*tensors, **options),
    "instance_norm": lambda torch, *tensors, **options: torch.nn.functional.instance_norm(*tensors, **options),
    "group_norm": lambda torch, *tensors, **options: torch.nn.functional.group_norm(*tensors, **options),
    "layer_norm": lambda torch, x, shape, *tensors, **options: torch.nn.functional.layer_norm(
        x, shape if isinstance(shape, tuple) else (shape,), *tensors, **options
    ),
    "local_response_norm": lambda torch, x, **options: torch.nn.functional.local_response_norm(x, **options),
}

LAYERS = [
    LayerCase("BatchNorm1d", (3,), {}, (4, 3)),
    LayerCase("BatchNorm1d", (3,), {"momentum": None}, (4, 3, 5)),
    LayerCase("BatchNorm1d", (3,), {"track_running_stats": False}, (4, 3, 5)),
    LayerCase("BatchNorm2d", (3,), {"affine": False}, (4, 3, 5, 2)),
    LayerCase("BatchNorm2d", (3,), {"track_running_stats": False}, (4, 3, 5, 2)),
    LayerCase("BatchNorm3d", (3,), {"eps": 1e-3}, (2, 3, 2, 3, 2)),
    LayerCase("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True}, (2, 3, 4, 5)),
    LayerCase("InstanceNorm2d", (3,), {}, (2, 3, 4, 5)),
    LayerCase("GroupNorm", (2, 6), {}, (2, 6, 4, 5)),
    LayerCase("LayerNorm", ((4, 5),), {}, (2, 3, 4, 5)),
    LayerCase("LayerNorm", (5,), {}, (2, 3, 4, 5)),
    LayerCase("LocalResponseNorm", (3,), {}, (2, 6, 4, 5)),
    LayerCase("Normalize", ((0.1, 0.2), (0.5, 2.0)), {}, (1, 2, 4, 5), twin=False),
]
