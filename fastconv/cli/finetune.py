"""Training that begins with the weights of a file: the head may be another one, parts may be frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastconv.cli.common import Failure, UsageError, one_line
from fastconv.cli.settings import with_rate
from fastconv.errors import listing, nearest
from fastconv.layers.base import Layer
from fastconv.training.recipes import Recipe

__all__ = ["freeze", "head_of", "optimizer_for", "take_weights", "weights_of"]

BACKBONE = "backbone"  # of --freeze: all but the head


def head_of(net: Layer) -> str:
    """The name of the last layer that has parameters."""
    *_, last = net.named_arrays(buffers=False)
    return last[0].rpartition(".")[0]


def weights_of(net: Layer) -> int:
    """How many weights a net has, frozen ones too."""
    return sum(getattr(layer, name).size for _, layer, name in net.named_arrays(buffers=False))


def take_weights(net: Layer, path: Path, tell: Callable[[str], None]) -> None:
    """Give the net a file's weights by their names; a head of another size stays as it is.

    Raises Failure where the file has none of the net's, or others than the head's of another size.
    """
    from fastconv.weights import load_weights

    state = load_weights(path)
    own = {name: getattr(layer, attribute).shape for name, layer, attribute in net.named_arrays()}
    head = head_of(net)
    odd = {name: array.shape for name, array in state.items() if name in own and array.shape != own[name]}
    for name, shape in odd.items():
        if not _is_in(name, head):
            raise Failure(
                f"--weights {path}: {name} has shape {shape}, the net's is {own[name]}: another net, or images of "
                "another size or number of channels"
            )
    keys = net.load_state_dict(state, strict=False, ignore_mismatched_sizes=True)
    taken = len(own) - len(keys.missing_keys) - len(odd)
    if not taken:
        raise Failure(
            f"--weights {path}: none of its names is the net's; it has {listing(state)}; the net has {listing(own)}; "
            "--net NAME chooses another"
        )
    tell(f"{path}: {taken} of the net's {len(own)} arrays are from there")
    if odd:
        before, now = odd[f"{head}.weight"][0], own[f"{head}.weight"][0]
        tell(f"the head, {head}, begins anew: it has {now:,} outputs, in the file {before:,}")
    counters = "num_batches_tracked"  # which files of older versions do not have
    missing = [name for name in keys.missing_keys if not name.endswith(counters)]
    for names, where in ((missing, "not in the file, so they begin anew"), (keys.unexpected_keys, "in the file alone")):
        if names:
            tell(f"{where}: {listing(names)}")


def freeze(net: Layer, patterns: tuple[str, ...], tell: Callable[[str], None]) -> None:
    """Freeze what the patterns name; UsageError where one names nothing, or nothing is left to train."""
    head = head_of(net)
    names = [name for name, _ in net.walk() if name]
    for pattern in patterns:
        if pattern == BACKBONE and pattern not in names:
            net.freeze().unfreeze(head)
            continue
        try:
            net.freeze(pattern)
        except ValueError as error:
            raise UsageError(f"{one_line(error)}{nearest(pattern, [*names, BACKBONE])}") from None
    if not net.is_trainable():
        raise UsageError(f"--freeze: nothing is left to train; --freeze {BACKBONE} leaves the head, {head}")
    if patterns:
        every = weights_of(net)
        trained = sum(array.size for array in net.parameters().values())
        tell(f"frozen: {every - trained:,} of {every:,} weights")


def optimizer_for(recipe: Recipe, net: Layer) -> dict[str, Any]:
    """The recipe's optimiser as data, the head's parameters in groups of their own where they have a rate of their
    own."""
    optimizer = recipe.optimizer
    if recipe.head_lr is None:
        return optimizer
    rate = with_rate(optimizer, recipe.head_lr)["lr"]
    head = head_of(net)
    match = f"{head}.*" if head else "*"
    arrays = {name: getattr(layer, attribute) for name, layer, attribute in net.named_arrays(buffers=False)}
    axes = {array.ndim for name, array in arrays.items() if _is_in(name, head)}
    groups = optimizer.get("groups", [])
    own = [
        {**group, "match": match, "lr": rate}
        for group in groups
        if group.get("match", "*") in ("*", ["*"]) and group.get("ndim") in axes
    ]
    return {**optimizer, "groups": [*own, {"match": match, "lr": rate}, *groups]}


def _is_in(name: str, head: str) -> bool:
    return not head or name.startswith(f"{head}.")
