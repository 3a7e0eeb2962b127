"""Show a net's layers: output shapes, parameters, FLOPs, receptive fields, algorithms."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

from fastconv.cli import completion
from fastconv.cli.common import Failure, UsageError, count

__all__ = ["NAME", "add_arguments", "run"]

NAME = "summary"
CLASSES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    net = parser.add_argument(
        "net", metavar="NET", help="a net of fastconv.models, e.g. lenet5, a run's folder or a net file"
    )
    completion.offer(net, completion.models, files=True)
    parser.add_argument(
        "--input-shape", nargs="+", type=_sizes, metavar="N,C,H,W",
        help="the batch's shape, with commas or spaces (default: one image of the kind that the net is made for)",
    )  # fmt: skip
    parser.add_argument(
        "--classes", type=count, metavar="N", help=f"classes of a net of fastconv.models (default: {CLASSES})"
    )
    parser.add_argument("-j", "--json", action="store_true", help="print one JSON object instead of the table")


def run(args: argparse.Namespace) -> int:
    from fastconv import ShapeError, models

    shape = tuple(size for sizes in args.input_shape for size in sizes) if args.input_shape else None
    if shape is not None and len(shape) < 2:
        raise UsageError(f"--input-shape must be N,C and the spatial sizes, got {','.join(map(str, shape))}")
    try:
        if args.net in models.MODELS:
            net, shape = _model(models.MODELS[args.net], shape, args.classes or CLASSES)
        elif Path(args.net).exists():
            if args.classes is not None:
                raise UsageError("--classes is for a net of fastconv.models: a run has its own")
            net, shape = (_trained if Path(args.net).is_dir() else _of_file)(Path(args.net), shape)
        else:
            raise UsageError(f"no net or run folder is called {args.net!r}; nets: {', '.join(models.MODELS)}")
        summary = net.summary(shape)
    except ShapeError as error:  # only a shape that was asked for does not fit
        raise UsageError(error) from None
    print(json.dumps({"name": args.net, **summary.as_dict()}) if args.json else summary)
    return 0


def _sizes(text: str) -> list[int]:
    """An argument that is one size, or several with commas between."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"must be positive integers, got {text!r}")
    return [int(part) for part in parts]


def _model(make: Any, shape: tuple[int, ...] | None, classes: int) -> tuple[Any, tuple[int, ...]]:
    """A net of fastconv.models for images of that shape, and the shape: by default those that its arguments' defaults
    describe."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(make).parameters.items()}
    options: dict[str, Any] = {"num_classes": classes, "rng": 0}
    if shape is not None:
        options |= {"in_channels": shape[1], "size": shape[2:]}
    net = make(**{name: value for name, value in options.items() if name in defaults})
    if shape is None:
        size = defaults["size"]
        axes = next(layer.ndim for _, layer in net.walk() if hasattr(layer, "ndim"))
        shape = (1, defaults["in_channels"], *(size if isinstance(size, tuple) else (size,) * axes))
    return net, shape


def _trained(folder: Path, shape: tuple[int, ...] | None) -> tuple[Any, tuple[int, ...]]:
    """The net of a run's folder and its images' shape."""
    from fastconv.cli import rundir
    from fastconv.training.checkpoint import load_net

    config = rundir.Config.read(folder)
    weights = folder / rundir.WEIGHTS
    if not weights.exists():
        raise Failure(f"{folder}: is not trained to the end yet: fastconv train --resume {folder}")
    net = load_net(weights, follow_links=False)
    rundir.need_fit(weights, net, config.image_shape, config.classes)
    return net, shape or (1, *config.image_shape)


def _of_file(path: Path, shape: tuple[int, ...] | None) -> tuple[Any, tuple[int, ...]]:
    """The net of a net file, and the shape of what it reads, as far as the file knows it."""
    from fastconv import Graph
    from fastconv.training.checkpoint import load_net

    net = load_net(path)
    if shape is None and net.preparation is not None:
        shape = (1, *net.preparation["image_shape"])
    if shape is None and isinstance(net, Graph) and len(net.inputs) == 1:
        (known,) = net.input_shapes.values()
        if known is not None and None not in known[1:]:
            shape = (1, *known[1:])  # type: ignore[arg-type]
    if shape is None:
        raise UsageError(f"{path} does not say what its net reads: give --input-shape N,C,H,W")
    return net, shape
