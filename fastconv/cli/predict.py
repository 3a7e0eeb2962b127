"""Read image files, or all under a folder, with a trained net: any size and mode, dark on light or light on dark.

What a net of the digits or of MNIST reads is looked for in the picture, cut out and brought to that set's form; for
other nets a picture is only resized.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastconv.cli.common import UsageError, add_threads, count, file_named, one_line, set_threads
from fastconv.errors import printable

if TYPE_CHECKING:
    from fastconv.cli.rundir import Trained

__all__ = ["NAME", "add_arguments", "run"]

NAME = "predict"

Answer = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN",
        help="a run folder that `fastconv train` left, or a net file that says how its net reads images",
    )  # fmt: skip
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image files (PNG, JPEG, TIFF, WEBP, GIF, BMP, PNM), and folders: all images under them, by their names",
    )  # fmt: skip
    parser.add_argument("--top", type=count, default=3, metavar="N", help="how many classes to name (default: 3)")
    parser.add_argument(
        "--as-is", action="store_true", help="only resize: the pictures are in the form that the net was trained on"
    )
    parser.add_argument("--best", action="store_true", help="the weights of the best validated epoch, not of the last")
    add_threads(parser)
    parser.add_argument(
        "--csv", type=file_named(".csv"), metavar="FILE",
        help="write a row an image: its class, the probability of it and of every class, and what went wrong",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object with all probabilities")


def run(args: argparse.Namespace) -> int:
    from fastconv.cli.rundir import Trained, need_other
    from fastconv.files import replace_whole

    set_threads(args)
    if args.csv is not None and args.json:
        raise UsageError("--csv and --json: which of them?")
    need_other(args.csv, args.run_folder)
    trained = Trained.of(args.run_folder, args.best)
    if not args.json and (told := trained.told()):
        print(f"{args.prog}: {told}", file=sys.stderr, flush=True)
    answers = _Answers(trained, args)
    if args.csv is not None:
        replace_whole(args.csv, lambda file: _write(file, answers, trained.classes))
        print(f"{args.csv}: {answers.read:,} images read{f', {answers.failed:,} not' if answers.failed else ''}")
    elif args.json:
        print(json.dumps({**trained.as_dict(), "images": list(answers)}))
    else:
        for answer in answers:
            if "label" in answer:
                print(_line(answer, args.top), flush=True)
    return 1 if answers.failed else 0


class _Answers:
    """What the net makes of the images, one after the other; those that cannot be read are told on standard error."""

    def __init__(self, trained: Trained, args: argparse.Namespace) -> None:
        self.trained = trained
        self.preparation = "picture" if args.as_is else trained.method
        self.images: list[str] = args.images
        self.prog = args.prog
        self.read = self.failed = 0

    def __iter__(self) -> Iterator[Answer]:
        waiting: list[Answer] = []
        images: list[np.ndarray] = []
        for name, image in self._images():
            waiting.append({"image": name})
            if isinstance(image, Exception):
                self.failed += 1
                message = "a folder without image files" if Path(name).is_dir() else one_line(image)
                waiting[-1]["error"] = message if name in message else f"{name}: {message}"
                print(f"{self.prog}: {printable(waiting[-1]['error'])}", file=sys.stderr, flush=True)
            else:
                self.read += 1
                images.append(image)
            if len(images) == self.trained.batch_size or len(waiting) >= 2 * self.trained.batch_size:
                yield from self._answered(waiting, images)
                waiting, images = [], []
        yield from self._answered(waiting, images)

    def _images(self) -> Iterator[tuple[str, np.ndarray | Exception]]:
        """Every image's name and its pixels, or what reading it raised; a batch of names at a time."""
        from fastconv.datasets.preparation import prepared

        every = self._names()
        while names := [*itertools.islice(every, self.trained.batch_size)]:
            images = prepared([*map(Path, names)], self.preparation, self.trained.image_shape)
            yield from zip(names, images, strict=True)

    def _names(self) -> Iterator[str]:
        from fastconv.datasets.folder import images_in

        for name in self.images:
            if Path(name).is_dir():
                files = map(str, images_in(Path(name)))
                yield from itertools.chain([next(files, name)], files)  # an empty folder stands for itself
            else:
                yield name

    def _answered(self, waiting: list[Answer], images: list[np.ndarray]) -> list[Answer]:
        """The answers to the images that wait."""
        from fastconv import functional

        if images:
            logits = self.trained.net.predict(np.stack(images), batch_size=self.trained.batch_size)
            rows = iter(functional.softmax(logits).tolist())
            for answer in waiting:
                if "error" not in answer:
                    answer.update(_answer(next(rows), self.trained.classes))
        return waiting


def _answer(probabilities: list[float], classes: tuple[str, ...]) -> Answer:
    """The classes from the likeliest on."""
    order = sorted(range(len(classes)), key=lambda k: -probabilities[k])
    return {
        "label": classes[order[0]],
        "probability": probabilities[order[0]],
        "probabilities": {classes[k]: probabilities[k] for k in order},
    }


def _write(file: IO[bytes], answers: _Answers, classes: tuple[str, ...]) -> None:
    """The answers as CSV."""
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text)
    writer.writerow(["image", "label", "probability", *(f"p({name})" for name in classes), "error"])
    for answer in answers:
        found = answer.get("probabilities", {})
        known = [answer.get(name, "") for name in ("image", "label", "probability")]
        writer.writerow([*known, *(found.get(name, "") for name in classes), answer.get("error", "")])
    text.flush()
    text.detach()


def _line(answer: Answer, top: int) -> str:
    (label, sure), *others = list(answer["probabilities"].items())[:top]
    rest = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in others)
    return printable(f"{answer['image']}: {label} {100 * sure:.1f} %" + (f" ({rest})" if rest else ""))
