"""Three training steps beside PyTorch's: how far losses, gradients and states are from each other.

    python bench/agreement.py                       the nets of bench/nets.py, float64 and float32
    python bench/agreement.py --only digits --precision strict

The same weights and batch, SGD of rate 1e-3 with momentum 0.9, no dropout. What is told is the largest difference of an
array over its largest value, of all arrays and steps; of an array that is nought but for rounding, such as the gradient
to a bias before batch norm, the difference itself.

"beside itself" is the same for PyTorch's two memory layouts, and for one of them with and without oneDNN, whichever is
further: what orders of the same sums come to. A sum near 0 has either sign then, and a ReLU or a maximum lets another
gradient through: no two programs agree by less, where a net is deep. Ends non-zero where ours is beyond 1e-10, 1e-4 in
float32, and ten times as far from PyTorch as that is from itself.

Needs PyTorch: pip install 'fastconv[peers]'.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import nets
import numpy as np
import peers

import fastconv
from fastconv import optim

STEPS, RATE, MOMENTUM = 3, 1e-3, 0.9
NOUGHT = 1e-6  # largest value of an array that is 0 but for rounding
GOALS = {"float64": 1e-10, "float32": 1e-4}


class Step(NamedTuple):
    """What a step came to, as long as the next has not begun."""

    loss: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    state: dict[str, np.ndarray]


def without_dropout(net: Any) -> Any:
    for _, layer in net.walk():
        if type(layer).__name__.startswith("Dropout"):
            layer.p = 0.0
    return net


def of_fastconv(net: Any, x: np.ndarray, target: np.ndarray, precision: str) -> Iterator[Step]:
    optimizer = optim.SGD(RATE, momentum=MOMENTUM)
    for _ in range(STEPS):
        with fastconv.precision(precision):
            value, gradients = fastconv.value_and_grad(net, "cross_entropy", x, target)
        optimizer.step(net.parameters(), gradients)
        yield Step({"loss": np.asarray(value)}, gradients, net.state_dict())


def of_torch(twin: Any, x: np.ndarray, target: np.ndarray, layout: Any, onednn: bool = True) -> Iterator[Step]:
    import torch

    twin = copy.deepcopy(twin).to(memory_format=layout)
    given = torch.from_numpy(x).contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(twin.parameters(), RATE, momentum=MOMENTUM)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.backends.mkldnn.flags(enabled=onednn):
            loss = torch.nn.functional.cross_entropy(twin(given), torch.from_numpy(target))
            loss.backward()
        gradients = {name: each.grad.numpy() for name, each in twin.named_parameters()}
        optimizer.step()
        state = {name: each.numpy() for name, each in twin.state_dict().items()}
        yield Step({"loss": loss.detach().numpy()}, gradients, state)


def apart(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    worst: Any = 0.0
    for name, array in expected.items():
        exact = np.asarray(array, np.float64)
        largest = np.abs(exact).max()
        difference = np.abs(np.asarray(found[name], np.float64) - exact).max()
        worst = np.maximum(worst, difference / largest if largest > NOUGHT else difference)  # nan, if there is one
    return float(worst)


def worst_of(ours: Iterator[Step], theirs: Iterator[Step]) -> list[float]:
    """Of losses, gradients and states."""
    rows = [[apart(*pair) for pair in zip(*both, strict=True)] for both in zip(ours, theirs, strict=True)]
    return [float(column) for column in np.max(rows, axis=0)]  # nan, if there is one


def compare(name: str, dtype: Any, precision: str) -> dict[str, list[float]]:
    import torch

    net, x, target = nets.built(name)
    net, x = without_dropout(net).astype(dtype), x.astype(dtype)
    side = peers.InTorch()
    twin = side.copied(net).to(torch.from_numpy(x).dtype)
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    twin.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in net.state_dict().items()})
    first, *others = side.layouts(x.ndim).values()
    found = {"PyTorch": worst_of(of_fastconv(net, x, target, precision), of_torch(twin, x, target, first))}
    variants = [{"layout": first, "onednn": False}, *({"layout": layout} for layout in others)]
    pairs = [worst_of(of_torch(twin, x, target, **each), of_torch(twin, x, target, first)) for each in variants]
    found["itself"] = [max(column) for column in zip(*pairs, strict=True)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="three training steps beside PyTorch's")
    parser.add_argument("--only", nargs="+", default=list(nets.NETS), metavar="NET", choices=list(nets.NETS))
    parser.add_argument("--precision", default="fast", choices=["fast", "strict"])
    arguments = parser.parse_args()
    print(f"{'':31} {'ours beside PyTorch':^26} {'PyTorch beside itself':^26}")
    print(f"{'net':17} {'batch':>5} {'':7} " + 2 * f" {'loss':>8}{'gradients':>10}{'states':>8}")
    beyond = []
    for name, dtype in itertools.product(arguments.only, GOALS):
        found = compare(name, np.dtype(dtype), arguments.precision)
        text = f"{name:17} {nets.NETS[name].batch:5} {dtype:7} "
        for figures in found.values():
            text += " {:8.0e}{:10.0e}{:8.0e}".format(*figures)
        print(text, flush=True)
        ours, itself = found["PyTorch"], found["itself"]
        if not all(each <= max(GOALS[dtype], 10 * other) for each, other in zip(ours, itself, strict=True)):
            beyond.append(f"{name}, {dtype}")
    if beyond:
        print(f"agreement: further from PyTorch than it is from itself: {'; '.join(beyond)}", file=sys.stderr)
    return bool(beyond)


if __name__ == "__main__":
    sys.exit(main())
