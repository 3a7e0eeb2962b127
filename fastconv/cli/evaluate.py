"""What a trained net gets right, class by class: on its run's own test images, or on a folder of classes.

Precision, recall and F1 are scikit-learn's figures; without test images those for validation are looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.cli.common import Failure, UsageError, add_threads, file_named, picture, set_threads
from fastconv.cli.data import add_reading, load, reading, refused, tell_unreadable

if TYPE_CHECKING:
    from fastconv.cli.rundir import Trained

__all__ = ["NAME", "add_arguments", "run"]

NAME = "evaluate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN",
        help="a run folder that `fastconv train` left, or a net file that says how its net reads images",
    )  # fmt: skip
    parser.add_argument(
        "data", nargs="?", type=Path, metavar="DATA",
        help="a folder with a subfolder of images for each class, by the run's names (or such folders in its test "
             "part), or the files of the run's data set; by default what the run was tested on",
    )  # fmt: skip
    parser.add_argument("--best", action="store_true", help="the weights of the best validated epoch, not of the last")
    add_reading(parser)
    add_threads(parser)
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--csv", type=file_named(".csv"), metavar="FILE", help="write a row for each class")
    shown.add_argument("--plot", type=picture, metavar="FILE", help="draw the confusion matrix: .png, .svg or .pdf")
    shown.add_argument("--json", action="store_true", help="print one JSON object, the confusion matrix in it")


def run(args: argparse.Namespace) -> int:
    from fastconv import plots
    from fastconv.cli.outcome import Outcome
    from fastconv.cli.rundir import Trained, need_other

    set_threads(args)
    for target in (args.csv, args.plot):
        need_other(target, args.run_folder)
    if args.plot is not None:
        plots.need_matplotlib("--plot")
    trained = Trained.of(args.run_folder, args.best)
    part, (x, y) = _own(trained, args) if args.data is None else _given(trained, args)
    outcome = Outcome.of(trained.net, x, y, trained.classes, trained.batch_size)
    if args.csv is not None:
        report = outcome.report
        report.to_csv(args.csv)
    if args.plot is not None:
        answers = outcome.probabilities.argmax(axis=1)
        figure = plots.confusion_matrix(y, answers, trained.classes, title=f"{trained.place.name}, {part} images")
        plots.save(figure, args.plot)
    if args.json:
        data = None if args.data is None else str(args.data)
        print(json.dumps({**trained.as_dict(), "data": data, **outcome.as_dict(part)}, allow_nan=False))
        return 0
    if told := trained.told():
        print(f"{args.prog}: {told}", file=sys.stderr, flush=True)
    print(f"{outcome.told(part)}, cross-entropy {outcome.loss:.4f}\n\n{outcome.report}")
    return 0


def _own(trained: Trained, args: argparse.Namespace) -> tuple[str, tuple[Any, np.ndarray]]:
    """The part that a run was judged by, "test" or "validation", and its images."""
    config = trained.config
    if config is None:
        raise UsageError(f"{trained.place}: a net file has no images of its own: fastconv evaluate NET DATA")
    path = None if config.path is None else Path(config.path)
    args.skip_unreadable = args.skip_unreadable or config.skip_unreadable
    options = {**reading(args), "prog": args.prog, "validation": config.split == "folder"}
    size = None
    if config.data == "folder":
        channels, height, width = config.image_shape
        size = height, width
        options |= {"channels": channels, "only_judged": config.split == "folder" or not config.validation}
    data = load(config.data, path, size, **options)
    if (data.classes, data.image_shape) != (config.classes, config.image_shape):
        raise Failure(f"{config.path or config.data}: not the classes or the image size that {trained.place} has")
    if data.test is not None:
        return "test", data.test
    validation = config.parts(data)[1]
    if validation is None:
        raise UsageError(f"{trained.place}: the run has neither test nor validation images: fastconv evaluate RUN DATA")
    return "validation", validation


def _given(trained: Trained, args: argparse.Namespace) -> tuple[str, tuple[Any, np.ndarray]]:
    """The images of a folder, by the run's classes."""
    from fastconv.datasets.files import need_folder
    from fastconv.datasets.folder import class_folder, labelled_files, open_files
    from fastconv.datasets.lazy import Unreadable

    root = need_folder(args.data)
    config = trained.config
    if config is not None and config.data not in ("digits", "folder") and not any(e.is_dir() for e in root.iterdir()):
        data = load(config.data, root, None, prog=args.prog)
        if data.test is None:
            raise Failure(f"{root}: has no test part")
        return "test", data.test
    folder = class_folder(root, trained.classes)
    files = labelled_files(folder, {name: label for label, name in enumerate(trained.classes)})
    if not files:
        raise Failure(f"{folder}: the images must be in one subfolder per class, found none")
    options = reading(args)
    if trained.method == "picture":
        channels, *size = trained.image_shape
        with refused(args.prog, folder):
            parts, _, errors = open_files("evaluate", [files], size=(size[0], size[1]), channels=channels, **options)
        part = parts[0]
    else:
        with refused(args.prog, folder):
            part, errors = _prepared(trained, files, options["track"])
            if errors and not args.skip_unreadable:
                raise Unreadable(errors)
    tell_unreadable(args.prog, errors)
    if not len(part[1]):
        raise Failure(f"{folder}: no image can be read")
    return folder.name if folder != root else str(args.data), part


def _prepared(trained: Trained, files: list[tuple[Path, int]], track: Any) -> tuple[Any, tuple[Exception, ...]]:
    """Images of digits, each brought to the form of the net's own: (images, labels), and what could not be read."""
    from fastconv.datasets.preparation import prepared

    errors: list[Exception] = []
    images, labels = [], []
    found = prepared([file for file, _ in files], trained.method, trained.image_shape)
    read = track(found, len(files), "reading images")
    for image, (_, label) in zip(read, files, strict=True):
        if isinstance(image, Exception):
            errors.append(image)
        else:
            images.append(image)
            labels.append(label)
    return (np.array(images), np.array(labels, np.int64)), tuple(errors)
