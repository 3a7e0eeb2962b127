"""ONNX's own test cases of single nodes, where a node is a call of one of our functions: what ONNX computes, we give.

`pytest -rP tests/test_onnx_nodes.py` prints how many of an operator's cases agree, how many are left out, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from oracles import Left, Tally, need

from fastconv import ShapeError, functional, reference

onnx = pytest.importorskip("onnx", reason="onnx, whose test cases these are, is not installed")
from onnx.backend.test.loader import load_model_tests  # noqa: E402

NO_BATCH = Left("no batch axis, or no channels", ShapeError, "x must have .*axes")
WIDE_PADDING = Left("a pool's padding over half the kernel", ShapeError, "padding must be at most half of the kernel")
DILATED = Left("dilations of a pool that is no max_pool")
COLUMNS = Left("storage_order: indices count along the rows")
ANY_SLOPE = Left("prelu's weight is one number a channel", ShapeError, "weight must have one entry")
RANDOM = Left("dropout with p between 0 and 1 in training is random")
FLATTENED = Left("flatten keeps the batch axis, and no other")
BATCH = Left("reshape keeps the batch axis, and no other of length 0")
DEPTH = Left("pixel_shuffle has the places of a block behind its channel, mode CRD")
MATRIX = Left("linear's b is one number a feature")
FACTOR = Left("silu has no factor in its sigmoid")
CONSTANTS = Left("selu has its own constants")
PLACES = Left("max_unpool of another size: indices count in the result's planes, ONNX's in those of the default size")
ANTIALIAS = Left("resize has no antialias")
CROPPED = Left("resize of a region")
COORDINATES = Left("resize has half-pixel positions, align_corners, and floor of asymmetric ones for nearest")
OUTSIDE = Left("resize of mode cubic repeats the border, with -0.75 as its coefficient")
RATIO = Left("resize changes the spatial axes, each by its own ratio")
BETWEEN = Left(
    "align_corners of a scale: the corners of the result coincide, ONNX's of its length before it is rounded"
)

Arguments = tuple[str, tuple[Any, ...], dict[str, Any]]  # an operation, its arrays and options


# --- attributes of windows -------------------------------------------------------------------------------------------


def spatial(op: str, x: np.ndarray) -> str:
    return f"{op}{x.ndim - 2}d"


def padding_of(a: dict[str, Any]) -> Any:
    named = {"VALID": "valid", "SAME_UPPER": "same", "SAME_LOWER": "same_lower"}
    if a.get("auto_pad", "NOTSET") != "NOTSET":
        return named[a["auto_pad"]]
    if "pads" not in a:
        return 0
    pads = a["pads"]
    half = len(pads) // 2
    return tuple(zip(pads[:half], pads[half:], strict=True))


def window(a: dict[str, Any], *more: str) -> dict[str, Any]:
    given = {"stride": tuple(a["strides"]) if "strides" in a else 1, "padding": padding_of(a)}
    if "dilations" in a and "dilation" in more:
        given["dilation"] = tuple(a["dilations"])
    if "ceil_mode" in a:
        given["ceil_mode"] = bool(a["ceil_mode"])
    return given


# --- operators -------------------------------------------------------------------------------------------------------


def conv(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Arguments:
    return spatial("conv", x), (x, w, b), {**window(a, "dilation"), "groups": a.get("group", 1)}


def conv_transpose(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Arguments:
    """auto_pad and output_shape by the padding that they stand for, or by what they add at the end."""
    axes = range(x.ndim - 2)
    strides, dilations = a.get("strides", [1] * len(axes)), a.get("dilations", [1] * len(axes))
    extra = a.get("output_padding", [0] * len(axes))
    padding = padding_of({"pads": a["pads"]} if "pads" in a else {})
    shape = a.get("output_shape")
    if a.get("auto_pad", "NOTSET").startswith("SAME"):
        shape = [x.shape[2 + i] * strides[i] for i in axes]
    if shape:
        full = [(x.shape[2 + i] - 1) * strides[i] + (w.shape[2 + i] - 1) * dilations[i] + 1 for i in axes]
        padding = tuple(
            (max(0, n - m) // 2, max(0, n - m) - max(0, n - m) // 2) for n, m in zip(full, shape, strict=True)
        )
        extra = [max(0, m - n) for n, m in zip(full, shape, strict=True)]
    options = {"stride": tuple(strides), "dilation": tuple(dilations), "groups": a.get("group", 1)}
    return spatial("conv_transpose", x), (x, w, b), {**options, "padding": padding, "output_padding": tuple(extra)}


def max_pool(a: dict[str, Any], x: Any) -> Arguments:
    need(not (a.get("storage_order") and a["outputs"] > 1), COLUMNS)
    options = {"kernel_size": tuple(a["kernel_shape"]), "return_indices": a["outputs"] > 1}
    return spatial("max_pool", x), (x,), {**window(a, "dilation"), **options}


def avg_pool(a: dict[str, Any], x: Any) -> Arguments:
    need(max(a.get("dilations", [1])) == 1, DILATED)
    options = {"kernel_size": tuple(a["kernel_shape"]), "count_include_pad": bool(a.get("count_include_pad", 0))}
    return spatial("avg_pool", x), (x,), {**window(a), **options}


def lp_pool(a: dict[str, Any], x: Any) -> Arguments:
    need(max(a.get("dilations", [1])) == 1, DILATED)
    return spatial("lp_pool", x), (x, a.get("p", 2), tuple(a["kernel_shape"])), window(a)


def max_unpool(a: dict[str, Any], x: Any, indices: Any, shape: Any = None) -> Arguments:
    need(shape is None, PLACES)
    return spatial("max_unpool", x), (x, indices), {**window(a), "kernel_size": tuple(a["kernel_shape"])}


def batch_norm(a: dict[str, Any], x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Arguments:
    options = {"training": bool(a.get("training_mode", 0)), "momentum": 1 - a.get("momentum", 0.9)}
    return "batch_norm", (x, mean.copy(), var.copy(), weight, bias), {**options, "eps": a.get("epsilon", 1e-5)}


def layer_norm(a: dict[str, Any], x: Any, weight: Any, bias: Any = None) -> Arguments:
    axis = a.get("axis", -1) % x.ndim
    return "layer_norm", (x, x.shape[axis:], weight, bias), {"eps": a.get("epsilon", 1e-5)}


def prelu(a: dict[str, Any], x: Any, slope: Any) -> Arguments:
    """ONNX broadcasts the slope from the last axis on."""
    need(slope.size == 1 or (slope.ndim == x.ndim - 1 and slope.size == slope.shape[0] == x.shape[1]), ANY_SLOPE)
    return "prelu", (x, slope.reshape(-1)), {}


def flatten(a: dict[str, Any], x: Any) -> Arguments:
    need(a.get("axis", 1) % x.ndim == 1, FLATTENED)
    return "flatten", (x,), {}


def reshape(a: dict[str, Any], x: Any, shape: Any) -> Arguments:
    wanted = [x.shape[axis] if n == 0 and not a.get("allowzero") else int(n) for axis, n in enumerate(shape)]
    need(x.shape[0] > 0 and wanted[:1] == [x.shape[0]], BATCH)
    return "reshape", (x, tuple(wanted[1:])), {}


def depth_to_space(a: dict[str, Any], x: Any) -> Arguments:
    need(a.get("mode", "DCR") == "CRD", DEPTH)
    return "pixel_shuffle", (x, a["blocksize"]), {}


def space_to_depth(a: dict[str, Any], x: Any) -> Arguments:
    need(a.get("mode", "DCR") == "CRD" or x.shape[1] == 1, DEPTH)
    return "pixel_unshuffle", (x, a["blocksize"]), {}


def gemm(a: dict[str, Any], x: Any, w: Any, c: Any = None) -> Arguments:
    x, w = np.float32(a.get("alpha", 1)) * (x.T if a.get("transA") else x), w if a.get("transB") else w.T
    if c is not None:
        need(c.ndim < 2 or len(c) == 1, MATRIX)
        c = np.broadcast_to(np.float32(a.get("beta", 1)) * c.reshape(-1), len(w))
    return "linear", (x, w, c), {}


def dropout(a: dict[str, Any], x: Any, ratio: Any = 0.5, training: Any = False) -> Arguments:
    need(not training or float(ratio) in (0, 1), RANDOM)
    return "dropout", (x, float(ratio)), {"training": bool(training), "rng": np.random.default_rng(0)}


def loss(name: str) -> Callable[..., Arguments]:
    def call(a: dict[str, Any], x: Any, target: Any, weight: Any = None) -> Arguments:
        options = {"ignore_index": a["ignore_index"]} if "ignore_index" in a else {}
        return name, (x, target), {"weight": weight, "reduction": a.get("reduction", "mean"), **options}

    return call


def resize(a: dict[str, Any], x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Arguments:
    mode, positions = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    need(not a.get("antialias"), ANTIALIAS)
    need(positions != "tf_crop_and_resize", CROPPED)
    need(a.get("keep_aspect_ratio_policy", "stretch") == "stretch", RATIO)
    need(not a.get("exclude_outside") and a.get("cubic_coeff_a", -0.75) == -0.75, OUTSIDE)
    if mode == "nearest":
        need(positions == "asymmetric" and a.get("nearest_mode") == "floor", COORDINATES)
    else:
        need(positions in ("half_pixel", "align_corners"), COORDINATES)
    axes = a.get("axes", list(range(x.ndim)))
    whole = dict(zip(axes, (scales if sizes is None else sizes).tolist(), strict=True))
    unchanged = [1 if sizes is None else n for n in x.shape]
    wanted = [whole.get(axis, unchanged[axis]) for axis in range(x.ndim)]
    need(wanted[:2] == unchanged[:2], RATIO)
    lengths = [n * ratio for n, ratio in zip(x.shape[2:], wanted[2:], strict=True)]
    need(sizes is not None or positions != "align_corners" or lengths == list(map(round, lengths)), BETWEEN)
    options = {"scale" if sizes is None else "size": tuple(wanted[2:])}
    return "resize", (x,), {"mode": mode, "align_corners": positions == "align_corners", **options}


def upsample(a: dict[str, Any], x: Any, scales: Any) -> Arguments:
    return "resize", (x,), {"mode": a["mode"], "scale": tuple(scales[2:].tolist())}


def swish(a: dict[str, Any], x: Any) -> Arguments:
    need(a.get("alpha", 1) == 1, FACTOR)
    return "silu", (x,), {}


def selu(a: dict[str, Any], x: Any) -> Arguments:
    need(math.isclose(a.get("alpha", 1.6732632), 1.6732632, rel_tol=1e-6) and "gamma" not in a, CONSTANTS)
    return "selu", (x,), {}


OPERATORS: dict[str, tuple[Callable[..., Arguments], tuple[Left, ...]]] = {
    "Conv": (conv, ()),
    "ConvTranspose": (conv_transpose, ()),
    "MaxPool": (max_pool, (WIDE_PADDING, COLUMNS)),
    "AveragePool": (avg_pool, (WIDE_PADDING, DILATED)),
    "LpPool": (lp_pool, (WIDE_PADDING, DILATED)),
    "GlobalAveragePool": (lambda a, x: (spatial("adaptive_avg_pool", x), (x, 1), {}), ()),
    "GlobalMaxPool": (lambda a, x: (spatial("adaptive_max_pool", x), (x, 1), {}), ()),
    "MaxUnpool": (max_unpool, (PLACES,)),
    "BatchNormalization": (batch_norm, ()),
    "InstanceNormalization": (
        lambda a, x, weight, bias: (
            "instance_norm", (x, None, None, weight, bias), {"eps": a.get("epsilon", 1e-5)}
        ), ()
    ),
    "GroupNormalization": (
        lambda a, x, weight, bias: ("group_norm", (x, a["num_groups"], weight, bias), {"eps": a.get("epsilon", 1e-5)}),
        (),
    ),
    "LayerNormalization": (layer_norm, ()),
    "LRN": (
        lambda a, x: (
            "local_response_norm", (x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)), {}
        ), ()
    ),
    "Relu": (lambda a, x: ("relu", (x,), {}), ()),
    "LeakyRelu": (lambda a, x: ("leaky_relu", (x, a.get("alpha", 0.01)), {}), ()),
    "PRelu": (prelu, (ANY_SLOPE,)),
    "Elu": (lambda a, x: ("elu", (x, a.get("alpha", 1.0)), {}), ()),
    "Selu": (selu, (CONSTANTS,)),
    "Gelu": (lambda a, x: ("gelu", (x,), {"approximate": a.get("approximate", "none")}), ()),
    "Sigmoid": (lambda a, x: ("sigmoid", (x,), {}), ()),
    "Tanh": (lambda a, x: ("tanh", (x,), {}), ()),
    "Softplus": (lambda a, x: ("softplus", (x,), {}), ()),
    "HardSwish": (lambda a, x: ("hardswish", (x,), {}), ()),
    "Swish": (swish, ()),
    "Softmax": (lambda a, x: ("softmax", (x,), {"dim": a.get("axis", -1)}), ()),
    "LogSoftmax": (lambda a, x: ("log_softmax", (x,), {"dim": a.get("axis", -1)}), ()),
    "Flatten": (flatten, (FLATTENED,)),
    "Reshape": (reshape, (BATCH,)),
    "DepthToSpace": (depth_to_space, (DEPTH,)),
    "SpaceToDepth": (space_to_depth, (DEPTH,)),
    "Gemm": (gemm, (MATRIX,)),
    "Dropout": (dropout, (RANDOM,)),
    "NegativeLogLikelihoodLoss": (loss("nll_loss"), ()),
    "SoftmaxCrossEntropyLoss": (loss("cross_entropy"), ()),
    "Resize": (resize, (ANTIALIAS, CROPPED, COORDINATES, OUTSIDE, RATIO, BETWEEN)),
    "Upsample": (upsample, ()),
}  # fmt: skip


@lru_cache(maxsize=1)
def cases() -> dict[str, list[Any]]:
    """The cases of one node, by its operator."""
    found: dict[str, list[Any]] = {}
    for case in load_model_tests(kind="node"):
        if len(case.model.graph.node) == 1:
            found.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return found


def runs(case: Any) -> Iterator[tuple[dict[str, Any], list[Any], list[Any]]]:
    """The node's attributes, with how many outputs it has; the inputs (None: absent) and outputs of every data set."""
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
    for inputs, outputs in case.data_sets:
        given = iter(inputs)
        yield (
            {**attributes, "outputs": len(node.output)},
            [next(given) if name else None for name in node.input],
            outputs,
        )


def agree(case: Any, adapt: Callable[..., Arguments], namespace: Any) -> None:
    for attributes, inputs, expected in runs(case):
        op, arrays, options = adapt(attributes, *inputs)
        output = getattr(namespace, op)(*arrays, **options)
        outputs = output if isinstance(output, tuple) else (output,)
        for ours, theirs in zip(outputs, expected, strict=False):
            assert ours.shape == theirs.shape, f"shape {ours.shape}, ONNX has {theirs.shape}"
            np.testing.assert_allclose(ours, theirs.astype(ours.dtype), rtol=case.rtol, atol=case.atol)
        if op == "batch_norm" and options["training"]:
            np.testing.assert_allclose(arrays[1], expected[1], rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning", "ignore::DeprecationWarning"
)  # NumPy's, where ONNX makes its cases
def test_cases_agree(operator):
    adapt, left = OPERATORS[operator]
    tally = Tally(left)
    if operator not in cases():
        pytest.skip(f"onnx {onnx.__version__} has no cases of {operator}")
    for case in cases()[operator]:
        for namespace in (functional, reference):
            tally.take(case.name, lambda c=case, n=namespace: agree(c, adapt, n))
    tally.close(operator)
