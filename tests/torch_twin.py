"""A net's twin in PyTorch: every layer by torch's module of the same name and arguments, joined as ours are.

Names of parameters and buffers come out as ours, so that `load` copies a state_dict. Import it where torch is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cases.locally_connected import torch_unshared
from cases.pool import pairs_of
from torch import nn

import fastconv as fc
from fastconv.layers import Layer

__all__ = ["Twin", "dropout_from"]

_draws = np.random.default_rng(0)  # what the twins' dropout draws from


def dropout_from(seed: int) -> None:
    """Have dropout in all twins draw as ours does from default_rng(seed)."""
    global _draws
    _draws = np.random.default_rng(seed)


class Twin(nn.Module):
    """PyTorch's version of `net`, float64, with its weights, in its mode."""

    def __init__(self, net: Layer) -> None:
        super().__init__()
        self.inner = convert(net, {}).double().train(net.training)
        self.load(net.state_dict())

    def forward(self, x: Any) -> Any:
        return self.inner(x)

    def arrays(self) -> dict[str, Any]:
        """Parameters and buffers by name; of a shared layer the first name."""
        return {**dict(self.inner.named_parameters()), **dict(self.inner.named_buffers())}

    def load(self, state: dict[str, np.ndarray]) -> None:
        own = self.arrays()
        assert own.keys() == state.keys()
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(torch.tensor(state[name]))


def convert(layer: Layer, made: dict[int, nn.Module]) -> nn.Module:
    """A layer that occurs twice is one module."""
    if id(layer) not in made:
        arguments = {name: value for name, value in layer._arguments.items() if name != "algorithm"}
        children = {name: convert(child, made) for name, child in layer.children().items()}
        kind = type(layer).__name__
        if kind in OWN:
            module = OWN[kind](layer, arguments)
        else:
            module = getattr(nn, kind.replace("LpPool", "LPPool").replace("Resize", "Upsample"))(**arguments)
        for name, child in children.items():
            module.add_module(name, child)
        made[id(layer)] = module
    return made[id(layer)]


class Own(nn.Module):
    def __init__(self, layer: Layer, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.layer, self.arguments = layer, arguments


class Sequential(Own):
    def forward(self, x: Any) -> Any:
        for name in self.layer.children():  # a shared layer is there under each of its names
            x = self.get_submodule(name)(x)
        return x


class Graph(Own):
    def forward(self, x: Any) -> Any:
        values = {"input": x}
        for name, (what, sources) in self.layer.nodes.items():
            inputs = [values[source] for source in sources]
            if what == "add":
                values[name] = sum(inputs[1:], inputs[0])
            elif what == "concat":
                values[name] = torch.cat(inputs, 1)
            else:
                values[name] = self.get_submodule(what)(inputs[0])
        return values[self.layer.output]


class Residual(Own):
    def forward(self, x: Any) -> Any:
        return self.body(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class Concat(Own):
    def forward(self, x: Any) -> Any:
        return torch.cat([self.get_submodule(name)(x) for name in self.layer.children()], 1)


class Downsample(Own):
    def forward(self, x: Any) -> Any:
        factor = self.arguments["factor"]
        return x[(..., *(slice(None, None, factor),) * (x.ndim - 2))]


class Upsample(Own):
    def forward(self, x: Any) -> Any:
        factor = self.arguments["factor"]
        y = x.new_zeros(*x.shape[:2], *((n - 1) * factor + 1 for n in x.shape[2:]))
        y[(..., *(slice(None, None, factor),) * (x.ndim - 2))] = x
        return y


class Dropout(Own):
    def forward(self, x: Any) -> Any:
        if not self.training:
            return x
        shape = x.shape[:2] + (1,) * (x.ndim - 2) if isinstance(self.layer, fc.Dropout2d) else x.shape
        return x * torch.tensor(fc.functional.dropout(np.ones(shape), self.layer.p, training=True, rng=_draws))


class WindowPool(Own):
    """function_pool2d and NetworkPool2d."""

    def forward(self, x: Any) -> Any:
        kernel, stride = self.arguments["kernel_size"], self.arguments.get("stride") or self.arguments["kernel_size"]
        options = {**self.arguments, "stride": stride}
        x = nn.functional.pad(x, [amount for pair in reversed(pairs_of(x, options)) for amount in pair])
        (r, s), (down, right) = (v if isinstance(v, tuple) else (v, v) for v in (kernel, stride))
        windows = x.unfold(2, r, down).unfold(3, s, right).flatten(-2)
        if "function" in self.arguments:
            return self.arguments["function"](windows)
        return self.network(windows.reshape(-1, windows.shape[-1])).reshape(windows.shape[:-1])


class LocallyConnected2d(Own):
    def __init__(self, layer: Layer, arguments: dict[str, Any]) -> None:
        super().__init__(layer, arguments)
        for name in layer.parameter_names:
            array = getattr(layer, name)
            self.register_parameter(name, None if array is None else nn.Parameter(torch.tensor(array)))

    def forward(self, x: Any) -> Any:
        options = {key: self.arguments[key] for key in ("stride", "padding", "dilation") if key in self.arguments}
        return torch_unshared(torch, x, self.weight, self.bias, **{"stride": 1, **options})


OWN = {
    "Sequential": Sequential, "Graph": Graph, "Residual": Residual, "Concat": Concat, "Downsample": Downsample,
    "Upsample": Upsample, "Dropout": Dropout, "Dropout2d": Dropout, "FunctionPool2d": WindowPool,
    "NetworkPool2d": WindowPool, "LocallyConnected2d": LocallyConnected2d,
}  # fmt: skip
