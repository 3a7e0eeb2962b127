"""Read image files with a trained net: any size and mode, dark on light or light on dark.

What a net of the digits or of MNIST reads is looked for in the picture, cut out and brought to that set's form; for
other nets a picture is only resized.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.cli.common import Failure, add_threads, count, one_line, set_threads

__all__ = ["NAME", "add_arguments", "run"]

NAME = "predict"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN",
        help="a run folder that `fastconv train` left, or a net file that says how its net reads images",
    )  # fmt: skip
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files: PNG, JPEG, TIFF, WEBP, GIF, BMP, PNM")
    parser.add_argument("--top", type=count, default=3, metavar="N", help="how many classes to name (default: 3)")
    parser.add_argument(
        "--as-is", action="store_true", help="only resize: the pictures are in the form that the net was trained on"
    )
    parser.add_argument("--best", action="store_true", help="the weights of the best validated epoch, not of the last")
    add_threads(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object with all probabilities")


def run(args: argparse.Namespace) -> int:
    from fastconv import functional
    from fastconv.cli import rundir
    from fastconv.datasets.preparation import prepare
    from fastconv.training.checkpoint import load_net

    set_threads(args)
    folder = args.run_folder
    last_epoch, best_epoch = None, None
    if folder.is_file():
        weights, net = folder, rundir.net_file(folder, args.best)
        if net.preparation is None:
            raise Failure(
                f"{folder}: does not say how its net reads images; in Python: net = fastconv.load({str(folder)!r}); "
                'net.preparation = {"method": "picture", "image_shape": (C, H, W)}; '
                f"fastconv.save(net, {str(folder)!r})"
            )
    else:
        config = rundir.Config.read(folder)
        weights = rundir.weights_file(folder, args.best)
        net = config.describe(load_net(weights, follow_links=False))
        last_epoch, best_epoch = rundir.epochs(folder)
    assert net.preparation is not None
    shape = net.preparation["image_shape"]
    classes = rundir.need_fit(weights, net, shape, net.classes)
    if best_epoch is not None and not args.json:
        told = rundir.weights_told(args.best, last_epoch, best_epoch)
        print(f"{args.prog}: {told}", file=sys.stderr, flush=True)
    preparation = "picture" if args.as_is else net.preparation["method"]

    answers: list[dict[str, Any]] = []
    failed = False
    for name in args.images:
        try:
            image = prepare(Path(name), preparation, shape)
            probabilities = functional.softmax(net.predict(image[np.newaxis]))[0]
            answers.append(_answer(name, probabilities.tolist(), classes))
        except (OSError, ValueError, MemoryError) as error:
            failed = True
            message = one_line(error)
            message = message if name in message else f"{name}: {message}"
            answers.append({"image": name, "error": message})
            print(f"{args.prog}: {message}", file=sys.stderr, flush=True)
            continue
        if not args.json:
            print(_line(answers[-1], args.top), flush=True)
    if args.json:
        used = {
            "weights_from": "best" if args.best else "last",
            "weights_epoch": best_epoch if args.best else last_epoch,
        }
        print(json.dumps({"run": str(folder), **used, "best_epoch": best_epoch, "images": answers}))
    return 1 if failed else 0


def _answer(name: str, probabilities: list[float], classes: tuple[str, ...]) -> dict[str, Any]:
    """The classes from the likeliest on."""
    order = sorted(range(len(classes)), key=lambda k: -probabilities[k])
    return {
        "image": name,
        "label": classes[order[0]],
        "probability": probabilities[order[0]],
        "probabilities": {classes[k]: probabilities[k] for k in order},
    }


def _line(answer: dict[str, Any], top: int) -> str:
    (label, sure), *others = list(answer["probabilities"].items())[:top]
    rest = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in others)
    return f"{answer['image']}: {label} {100 * sure:.1f} %" + (f" ({rest})" if rest else "")
