"""Nets in files: `save`, and `load` of whatever of fastconv's holds a net."""

from __future__ import annotations

import os
from pathlib import Path

from fastconv.files import open_regular
from fastconv.layers.base import Layer
from fastconv.training import checkpoint
from fastconv.training.checkpoint import refuse

__all__ = ["load", "save"]

Pathlike = str | os.PathLike[str]
OTHERS = (".npz", ".onnx", ".pt", ".pth")  # names of other formats, which the file would not have


def save(net: Layer, path: Pathlike) -> None:
    """Write a net to one file, whole or not at all: its layers as data, its weights by PyTorch's names, its float type,
    modes, frozen parts, `classes` and `preparation`. The file is safetensors and may not be called by the suffix of
    another format, .onnx, .npz, .pt or .pth; `load` reads it.

    Raises ValueError for such a name, and where it names a layer that is no data, TypeError for what is no net, and
    OSError; an old file of that name then stays.
    """
    if not isinstance(net, Layer):
        instead = "; write save(net, path)" if isinstance(net, (str, os.PathLike)) else ""
        raise TypeError(f"save: net must be a layer, got {type(net).__name__}{instead}")
    suffix = Path(path).suffix.lower()
    if suffix in OTHERS:
        instead = "fastconv.onnx.save(net, path) writes ONNX" if suffix == ".onnx" else "write NAME.safetensors"
        raise ValueError(f"save: the file is safetensors, its name must not end in {suffix}; {instead}")
    checkpoint.save_net(path, net)


def load(path: Pathlike, *, best: bool = False) -> Layer:
    """The net in a file that `save` or a Trainer wrote, or in the folder of a run, in inference mode (`net.eval()`).

    best   the weights of the best validated epoch: of a checkpoint, or of a run

    `net.classes` (the names, in the order of the outputs) and `net.preparation` (how its images were read) are what the
    file knows of them, else None. A run that was not trained to the end gives the net of its checkpoint. Parts that
    were frozen are frozen. Nothing in a file is run: the net is built from data, out of fastconv's own layers.

    Raises FormatError for anything else, ValueError for `best` where there is none, MemoryError and OSError.
    """
    path = Path(path)
    if path.is_dir():
        return _from_run(path, best).eval()
    with open_regular(path) as file:
        safetensors = file.read(9)[8:] == b"{"
    tensors, metadata = checkpoint.read(path) if safetensors else ({}, {})
    kind = metadata.get("format")
    if kind not in (checkpoint.FORMAT, checkpoint.TRAINER):
        weights = "weights alone: net.load_state_dict(fastconv.load_weights(path))"
        other = "an ONNX file: fastconv.onnx.load(path)" if path.suffix.lower() == ".onnx" else weights
        refuse(path, f"holds no net of fastconv's; {other}")
    if best and kind == checkpoint.FORMAT:
        raise ValueError(f"load: {path} holds one set of weights: best=True is for checkpoints and for runs")
    if kind == checkpoint.FORMAT:
        return checkpoint.net_from_file(path, tensors, metadata).eval()
    return _from_checkpoint(path, tensors, metadata, best).eval()


def _from_checkpoint(path: Path, tensors: checkpoint.Tensors, metadata: dict[str, str], best: bool) -> Layer:
    """The net of a Trainer that wrote a checkpoint."""
    data = checkpoint.parse_json(path, "the checkpoint", metadata.get("trainer", ""))
    with checkpoint.as_format_error(path, "the checkpoint has no net"):
        described, best_epoch = data["net"], data["best_epoch"]
    if best and best_epoch is None:
        raise ValueError(f"load: {path} has no best epoch: nothing was validated")
    part = "best." if best else "net."
    named = {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
    return checkpoint.net_from_data(path, described, named)


def _from_run(folder: Path, best: bool) -> Layer:
    """The net of a run: trained to the end, or as its checkpoint has it."""
    from fastconv.cli import rundir

    if not os.path.lexists(folder / rundir.CONFIG):
        refuse(folder, f"is a folder, but none of a run: it has no {rundir.CONFIG}")
    config = rundir.Config.read(folder)
    path = folder / rundir.WEIGHTS
    if os.path.lexists(path):
        if best and not os.path.lexists(folder / rundir.BEST):
            raise ValueError(f"load: the run in {folder} has no best epoch: nothing was validated")
        path = folder / rundir.BEST if best else path
        net = checkpoint.load_net(path, follow_links=False)
    else:
        path = folder / rundir.CHECKPOINT
        if not os.path.lexists(path):
            refuse(folder, "is a run that has not begun: it has neither weights nor a checkpoint")
        net = _from_checkpoint(path, *checkpoint.read(path, follow_links=False), best)
    rundir.need_fit(path, net, config.image_shape, config.classes)
    config.describe(net)
    return net
