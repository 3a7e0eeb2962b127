"""fastconv as one of ONNX's backends: `onnx.backend.test.BackendTest(fastconv.onnx.backend, …)` runs its suite.

prepare(model)      a BackendRep: `run([array, …])` gives a tuple of arrays
run_model, run_node, supports_device("CPU")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastconv.errors import FormatError
from fastconv.layers import Graph
from fastconv.onnx import load, package

package()  # says which extra is missing

from onnx.backend.base import Backend, BackendRep  # noqa: E402

__all__ = ["FastconvBackend", "Prepared", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]


class Prepared(BackendRep):  # type: ignore[misc, unused-ignore]
    """A model as a net, in inference mode."""

    def __init__(self, net: Graph) -> None:
        self.net = net

    def run(self, inputs: Any, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """The outputs for inputs in the model's order (a list of arrays, or a dict by name)."""
        if not isinstance(inputs, Mapping):
            inputs = inputs if isinstance(inputs, Sequence) else (inputs,)
            inputs = dict(zip(self.net.inputs, inputs, strict=True))
        found = self.net(inputs)
        return found if isinstance(found, tuple) else (found,)


class FastconvBackend(Backend):  # type: ignore[misc, unused-ignore]
    """Models become Graphs of layers and operations; the device is the CPU."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether `prepare` takes the model."""
        if not cls.supports_device(device):
            return False
        try:
            load(model)
        except (FormatError, MemoryError):
            return False
        return True

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Prepared:
        """The model, ready to run. Raises FormatError for one that is not served."""
        super().prepare(model, device, **kwargs)
        if not cls.supports_device(device):
            raise ValueError(f"onnx backend: the device is CPU, got {device!r}")
        return Prepared(load(model))

    @classmethod
    def run_node(
        cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[np.ndarray, ...]:
        """The outputs of one node."""
        onnx = package()
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        names = [name for name in node.input if name]
        arrays = [np.asarray(array) for array in inputs]
        infos = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ]
        results = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        versions = [onnx.helper.make_opsetid("", kwargs.get("opset_version", onnx.defs.onnx_opset_version()))]
        graph = onnx.helper.make_graph([node], "node", infos, results)
        return Prepared(load(onnx.helper.make_model(graph, opset_imports=versions))).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"


is_compatible = FastconvBackend.is_compatible
prepare = FastconvBackend.prepare
run_model = FastconvBackend.run_model
run_node = FastconvBackend.run_node
supports_device = FastconvBackend.supports_device
