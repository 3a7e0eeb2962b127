"""ONNX both ways: `load` makes a Graph of a file, `save` a file of a net; `backend` runs ONNX's own conformance suite.

    wire, tensors, reading, building    a file as a Graph; what no layer computes stands in `fastconv.operators`
    writing                             a net as a file
    backend                             an onnx.backend.base.Backend

Reading and writing need the package onnx: the extra [onnx].
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastconv.layers import Graph, Layer

__all__ = ["load", "save"]


def package() -> Any:
    """The package onnx; ImportError that names the extra where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f'fastconv.onnx needs the package onnx: pip install "fastconv[onnx]" ({error})') from None
    return onnx


def load(
    source: str | os.PathLike[str] | bytes | Any, *, trainable: bool = True, outputs: Sequence[str] | None = None
) -> Graph:
    """The net of an ONNX file, as a Graph in inference mode, which trains like any other.

    source      a path, a file's bytes or an onnx.ModelProto; operator sets from 6 on
    trainable   False: nothing is to be trained; constants and batch norms are folded into what is before them
    outputs     names of values that the net shall give, in place of the file's outputs; what only others need goes

    A node whose weights are constants of the file is the layer (Conv2d, Linear, BatchNorm2d …), and so are Identity, a
    Reshape that keeps the first axis (0), DepthToSpace and SpaceToDepth of mode CRD (PixelShuffle, PixelUnshuffle); all
    else is an operation. Inputs are the file's that are no initialisers, in order. Parameters are the float constants
    that convolutions, products, norms and PRelu read as weights, and those of more than one element that Add and Mul
    read, also through Identity, Reshape, Unsqueeze and Transpose; every other constant is a buffer. A key of
    `state_dict` is the initialiser's own name where it ends in .weight, .bias, .running_mean or .running_var, as
    PyTorch's do, else that of its node (or of the node's first output) with ".weight", …. Nodes are called so too:
    `net.replace`. An initialiser that several nodes read is one parameter. float16 and bfloat16 are computed in
    float32. Running variances of batch norms are updated by PyTorch's unbiased ones, and momentum is ours: 1 - ONNX's.
    A constant shape that begins with the file's fixed batch takes any batch.

    Raises FormatError, one line with the file's name, for what is no such file or is not served: unknown operators,
    control flow, functions, cycles, names that are undefined or there twice, data outside the model's folder;
    MemoryError for what would not fit, OSError, and ImportError without the package onnx.
    """
    from fastconv.onnx.building import read

    return read(source, trainable=trainable, outputs=outputs)


def save(
    net: Layer,
    path: str | os.PathLike[str],
    input_shape: Any = None,
    *,
    opset: int = 17,
    training: bool = False,
) -> None:
    """Write a net as an ONNX file, whole or not at all; the package's own checker has passed it.

    input_shape   (N, C, …), or one for each input: needed by layers whose nodes depend on sizes (they say so). The
                  batch stays free; with None it is the shape that a Graph's `inputs` say, as those of `load` do, else
                  the spatial lengths are free too
    opset         the operator set, 13 or later; what it lacks is written in older operators, or refused with the number
                  of the one that has it
    training      write Dropout and BatchNormalization in training mode (training_mode=1)

    Dropout and BatchNormalization stay nodes, so that the net that `load` makes of the file trains as this one does.
    Initialisers have the names of `state_dict`. Raises ValueError for what ONNX has no operators for, with the layer's
    name, and for a name that ends as files of other formats do, OSError, and ImportError without the package onnx.
    """
    from fastconv.onnx.writing import write

    write(net, path, input_shape, opset=opset, training=training)


def __getattr__(name: str) -> Any:
    if name == "backend":
        import importlib

        return importlib.import_module("fastconv.onnx.backend")
    raise AttributeError(f"module 'fastconv.onnx' has no attribute {name!r}")
