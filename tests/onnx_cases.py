"""ONNX's own test cases, which of them are ours, and what is left out and why. Import it where onnx is there.

node_cases()        (TestCase, …) of single operators that fastconv.onnx serves
stored_cases(kind)  folders with model.onnx and its data sets
LEFT                {reason: function(TestCase) -> whether it is left out for that}
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import TensorProto
from onnx.backend.test.loader import load_model_tests

FOLDER = Path(onnx.backend.test.__file__).parent / "data"
OPERATORS = {
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
    "GlobalLpPool", "MaxUnpool", "BatchNormalization", "InstanceNormalization", "GroupNormalization",
    "LayerNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN", "Gemm", "MatMul", "Add", "Sub",
    "Mul", "Div", "Pow", "Sqrt", "Neg", "Abs", "Sign", "Exp", "Log", "Clip", "Min", "Max", "Sum", "Mean",
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu",
    "ThresholdedRelu", "Shrink", "HardSigmoid", "HardSwish", "Swish", "Mish", "Softsign", "Softplus", "Sigmoid",
    "Tanh", "Softmax", "LogSoftmax", "Dropout", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    "Concat", "Split", "Slice", "Pad", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "Identity",
    "Constant", "ConstantOfShape", "Shape", "Tile", "Range", "Cast", "Expand", "Gather", "ArgMax", "Where",
    "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss",
}  # fmt: skip
TYPES = {
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.BOOL,
}


def _values(case: Any) -> list[Any]:
    return [*case.model.graph.input, *case.model.graph.output]


LEFT = {
    "several operators, or one that is not served": lambda case: (
        len(case.model.graph.node) != 1
        or case.model.graph.node[0].op_type not in OPERATORS
        or case.model.graph.node[0].domain
    ),
    "_expanded: the operator written in others, of which some are not served": lambda case: "_expanded" in case.name,
    "values that are no tensors (sequences, optionals)": lambda case: any(
        not value.type.HasField("tensor_type") for value in _values(case)
    ),
    "other types than float32, float64, int32, int64, uint8 and bool (strings among them)": lambda case: any(
        value.type.tensor_type.elem_type not in TYPES for value in _values(case)
    ),
    "training mode: dropout that is random in every mode, whose masks another generator draws": lambda case: (
        case.model.graph.node[0].op_type == "Dropout"
        and re.match("test_training_dropout(_default)?(_mask)?$", case.name)
    ),
}
STORED_LEFT = re.compile("sequence|strnorm|gradient")  # sequences, strings and ai.onnx.preview.training.Gradient
KINKS = {  # cases without finite differences, and why
    "test_cast_FLOAT_to_DOUBLE": "the data hold nan",
    "test_cast_DOUBLE_to_FLOAT": "the data hold nan",
    "test_pow": "0 to a power that is no integer",
    "test_range_float_type_positive_delta": "the length jumps",
}


@lru_cache(maxsize=1)
def all_node_cases() -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX's own, of the NaN in its cases
        return tuple(load_model_tests(kind="node"))


def node_cases() -> list[Any]:
    return [case for case in all_node_cases() if not any(left(case) for left in LEFT.values())]


def stored_cases(kind: str) -> list[Path]:
    return [path for path in sorted((FOLDER / kind).iterdir()) if not STORED_LEFT.search(path.name)]


def as_array(value: Any) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def stored_sets(folder: Path) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    def read(path: Path, what: str) -> list[np.ndarray]:
        count = len(list(path.glob(f"{what}_*.pb")))
        return [as_array(onnx.load_tensor(path / f"{what}_{i}.pb")) for i in range(count)]

    return [(read(path, "input"), read(path, "output")) for path in sorted(folder.glob("test_data_set_*"))]


def in_double(model: Any) -> Any:
    """The model with float64 for float32 at its inputs and outputs."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for value in [*twin.graph.input, *twin.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return twin
