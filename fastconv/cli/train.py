"""Train a net on a data set and leave a run folder: weights, history, pictures.

The recipe of the data set (fastconv/training/recipes.py) says how, unless options say otherwise. All training images
are trained on, unless --validation is given, or there is neither a test nor a validation part; the test images are
looked at once, at the end. Under mpiexec every rank trains on its part of each batch, batch norm over all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import shlex
import statistics
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import plots
from fastconv.callbacks import Callback
from fastconv.cli import completion, finetune, rundir, settings
from fastconv.cli.common import Failure, UsageError, add_threads, count, launched, one_line, rate, set_threads, whole
from fastconv.cli.data import add_reading, reading, resolve, told_of_reading
from fastconv.cli.outcome import Outcome, finite
from fastconv.errors import FormatError, nearest, printable
from fastconv.training.recipes import AUGMENTATIONS, RECIPES, Recipe, augmentation_of

if TYPE_CHECKING:
    from fastconv.distributed import Ranks

__all__ = ["NAME", "add_arguments", "run"]

NAME = "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    name = parser.add_argument(
        "name", nargs="?", metavar="{" + ",".join(RECIPES) + "}",
        help="the data set; folder, or the path of a folder: images in one subfolder per class, or such subfolders in "
             "train, val and test. May be left out with --resume",
    )  # fmt: skip
    completion.offer(name, lambda: RECIPES, files=True)
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="the folder of the data set's files")
    parser.add_argument("-d", "--data", type=Path, metavar="DIR", help="the same")
    where = parser.add_argument_group("the run")
    where.add_argument("-o", "--out", type=Path, metavar="DIR", help="its folder (default: runs/<data set>-<number>)")
    where.add_argument(
        "-r", "--resume", type=Path, metavar="DIR", help="go on with the run in this folder, to the same bits"
    )
    where.add_argument(
        "--checkpoint-every", type=count, metavar="STEPS", help="write a checkpoint so often (default: each epoch)"
    )
    how = parser.add_argument_group("the recipe")
    settings.add_settings(how)
    net = how.add_argument("-n", "--net", metavar="NAME", help="a net of fastconv.models")
    completion.offer(net, completion.models)
    how.add_argument("-e", "--epochs", type=count, metavar="N", help="in all, also after --resume")
    how.add_argument("-b", "--batch-size", type=count, metavar="N", help="images a step")
    how.add_argument("--lr", type=rate, metavar="RATE", help="the learning rate, or the highest of its schedule")
    how.add_argument("-s", "--seed", type=whole, metavar="N", help="of weights, order and augmentation (default: 0)")
    how.add_argument("--no-augment", action="store_true", help="train on the images as they are")
    augment = how.add_argument(
        "--augment", type=augmentation, metavar="WORD,…",
        help=f"how training images are changed, in place of the recipe's way: {', '.join(AUGMENTATIONS)}",
    )  # fmt: skip
    completion.offer(augment, lambda: AUGMENTATIONS)
    how.add_argument(
        "--validation", type=_validation, metavar="N",
        help="training images kept apart, of every class alike, and evaluated after each epoch: a number, or a share "
             "below 1; a folder's own part (val, valid or validation beside train) needs no option",
    )  # fmt: skip
    how.add_argument("--class-weight", choices=("balanced",), help="weigh each class by the inverse of its count")
    how.add_argument(
        "--patience", type=count, metavar="N", help="end when no epoch was better on the validation images for N"
    )
    how.add_argument("--size", type=_size, metavar="N|HxW", help="folder: resize all images to this size")
    add_reading(how)
    tuning = parser.add_argument_group("fine-tuning")
    tuning.add_argument(
        "-w", "--weights", type=Path, metavar="FILE",
        help="begin with the weights of a .pt, .pth, .safetensors or .npz, or of a run's folder; a head of another "
             "size begins anew",
    )  # fmt: skip
    tuning.add_argument(
        "--freeze", action="append", metavar="PATTERN",
        help="do not train layers or parameters of this name, e.g. 'layer[12]*'; backbone: all but the head; again and "
             "again",
    )  # fmt: skip
    tuning.add_argument("--head-lr", type=rate, metavar="RATE", help="the learning rate of the head, the last layer")
    add_threads(parser)
    parser.add_argument(
        "--best", action="store_true",
        help="judge and draw by the weights of the best validated epoch, not of the last",
    )  # fmt: skip
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--report", action="store_true", help="first say what is suspicious in the data")
    shown.add_argument("--no-plots", action="store_true", help="draw no pictures")
    shown.add_argument("-j", "--json", action="store_true", help="print one JSON object, the rest on standard error")
    shown.add_argument("-q", "--quiet", action="store_true", help="no progress, only the result")


def augmentation(text: str) -> dict[str, Any]:
    """An argument that says how images are changed, as data."""
    try:
        return augmentation_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _validation(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value < 1 or (1 <= value < math.inf and value.is_integer())):
        raise argparse.ArgumentTypeError(f"must be a number of images or a share below 1, got {text!r}")
    return value


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        return count(height), count(width or height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be N or HEIGHTxWIDTH, e.g. 32 or 32x48, got {text!r}") from None


def run(args: argparse.Namespace) -> int:
    ranks = launched()
    leads = ranks is None or ranks.rank == 0
    set_threads(args, ranks)
    resolve(args)
    settings.of_call(args, _size)
    say = _Speaker(args, ranks)
    if args.resume is None:
        config, data = _begun(args, say)
        if ranks is not None:
            ranks.wait_for("to read the data")  # nobody creates a folder that another one still looks for
        folder = rundir.create(config.data, args.out) if leads else Path()
        if ranks is not None:
            folder = Path(ranks.share_data(str(folder), "the folder of the run"))
    else:
        config, data = _resumed(args, say)
        folder = args.resume
    with rundir.locked(folder) if leads else contextlib.nullcontext():
        try:
            _train_and_report(config, data, folder, args, say, ranks)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"; to go on: fastconv train --resume {shlex.quote(str(folder))}") from None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            if args.resume is None or isinstance(error, FormatError):
                raise
            raise Failure(f"{folder}: {one_line(error)}") from error  # its files do not go together
    return 0


class _Speaker:
    """Says things on standard output, or on standard error where that is kept for JSON; of several ranks one does."""

    def __init__(self, args: argparse.Namespace, ranks: Ranks | None) -> None:
        self.stream = sys.stderr if args.json else sys.stdout
        self.quiet = args.quiet
        self.ranks = 1 if ranks is None else ranks.size
        self.mute = ranks is not None and ranks.rank > 0

    def __call__(self, text: str, always: bool = False) -> None:
        if (always or not self.quiet) and not self.mute:
            print(_folded(text), file=self.stream, flush=True)


def _folded(text: str) -> str:
    """A line in lines that a terminal of 80 columns holds; what has lines of its own as it is."""
    if "\n" in text:
        return text
    return textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _can_plot() -> bool:
    try:
        plots.need_matplotlib("a picture")
    except ImportError:
        return False
    return True


# --- what is to be done ----------------------------------------------------------------------------------------------


def _begun(args: argparse.Namespace, say: _Speaker) -> tuple[rundir.Config, Any]:
    """A new run's configuration and its data; what cannot work is found before there is a folder."""
    from fastconv.cli.data import load

    if args.name is None:
        raise UsageError(f"which data set: {', '.join(RECIPES)}, or the path of a folder? (see {args.prog} --help)")
    if args.out is not None:
        rundir.check_unused(args.out)
    if args.augment is not None and args.no_augment:
        raise UsageError("--augment and --no-augment: which of them?")
    recipe = _recipe(args)
    if recipe.weights is not None:
        Path(recipe.weights).stat()  # before images are read
    path = None if args.data is None else args.data.absolute()
    data = load(args.name, path, args.size, prog=args.prog, **reading(args))
    if len(data.classes) == 1:
        raise Failure(
            f"{path}: one class alone, {data.classes[0]!r}: there is nothing to tell it from; the folder must hold a "
            "subfolder for each class"
        )
    validation, split = _validation_images(args.validation, recipe, data), "stratified"
    if data.validation is not None:
        validation, split = len(data.validation[1]), "folder"
    config = rundir.Config(
        data=args.name,
        path=None if path is None else str(path),
        size=(data.image_shape[1], data.image_shape[2]) if data.sizes else args.size,
        classes=data.classes,
        image_shape=data.image_shape,
        recipe=recipe,
        validation=validation,
        seed=args.seed or 0,
        split=split,
        skip_unreadable=args.skip_unreadable,
    )
    _need_validation(args, config)
    try:
        net = _net(config)
    except FormatError:
        raise
    except ValueError as error:
        raise UsageError(f"--net: {error}") from None
    _factors(config)
    _describe(config, data, net, args, say)
    return config, data


def _recipe(args: argparse.Namespace) -> Recipe:
    """The data set's recipe with what the options change."""
    from fastconv.models import MODELS

    recipe = RECIPES[args.name]
    of_line = [pair for pair in args.settings if pair[0] == "--set"]
    for owner, given in args.settings:
        if owner != "--set":
            recipe = settings.changed(recipe, given, owner)
    net = recipe.net if args.net is None else args.net.replace("-", "_")
    if net not in MODELS:
        raise UsageError(f"no net is called {args.net!r}; there are {', '.join(MODELS)}")
    weights = None if args.weights is None else str(args.weights.absolute())
    recipe = dataclasses.replace(
        recipe,
        net=net,
        epochs=args.epochs or recipe.epochs,
        batch_size=args.batch_size or recipe.batch_size,
        optimizer=recipe.optimizer if args.lr is None else settings.with_rate(recipe.optimizer, args.lr),
        augment=None if args.no_augment else args.augment or recipe.augment,
        weights=weights or recipe.weights,
        freeze=recipe.freeze if args.freeze is None else tuple(args.freeze),
        head_lr=args.head_lr or recipe.head_lr,
        patience=args.patience or recipe.patience,
        class_weight=args.class_weight or recipe.class_weight,
    )
    for owner, given in of_line:
        recipe = settings.changed(recipe, given, owner)
    return recipe


def _validation_images(wanted: float | None, recipe: Recipe, data: Any) -> int:
    """How many training images are kept apart, where there is no validation part: each class keeps one to train on."""
    total = len(data.train[1])
    if data.validation is not None:
        if wanted is not None:
            raise UsageError("--validation: the folder has a validation part of its own, which is used")
        return 0
    share = wanted if wanted is not None else recipe.validation if data.test is None else 0
    images = int(share) if share >= 1 else math.ceil(share * total)
    if images >= total:
        raise UsageError(f"--validation: {images:,} of {total:,} training images would leave none to train on")
    most = total - len(np.unique(data.train[1]))
    if images > most and wanted is not None:
        raise UsageError(f"--validation: {images:,} images would leave a class none to train on, {most:,} at most")
    return min(images, most)


def _need_validation(args: argparse.Namespace, config: rundir.Config) -> None:
    if config.recipe.patience is not None and not config.validation:
        raise UsageError(
            "--patience: there are no validation images, by which an epoch could be better: --validation N"
        )
    if args.best and not config.validation:
        raise UsageError("--best: there are no validation images, by which an epoch could be the best: --validation N")


def _resumed(args: argparse.Namespace, say: _Speaker) -> tuple[rundir.Config, Any]:
    """The configuration of the run in a folder, which options cannot change (the epochs apart), and its data."""
    from fastconv.cli.data import load

    folder = args.resume
    if args.settings:
        raise UsageError(
            f"{args.settings[0][0]}: a run that is resumed keeps its settings; only --epochs may be higher"
        )
    config = rundir.Config.read(folder)
    rundir.check_regular(folder)
    recipe = config.recipe
    lr = recipe.optimizer["lr"]
    for option, given, own in (
        ("the data set", args.name, config.data),
        ("--net", args.net and args.net.replace("-", "_"), recipe.net),
        ("--batch-size", args.batch_size, recipe.batch_size),
        ("--lr", args.lr, lr[settings.peak(lr)] if isinstance(lr, dict) else lr),
        ("--seed", args.seed, config.seed),
        ("--size", args.size, config.size),
        ("--no-augment", args.no_augment or None, recipe.augment is None),
        ("--augment", args.augment, recipe.augment),
        ("--out", args.out and args.out.resolve(), folder.resolve()),
        ("--weights", args.weights and str(args.weights.absolute()), recipe.weights),
        ("--freeze", args.freeze and tuple(args.freeze), recipe.freeze),
        ("--head-lr", args.head_lr, recipe.head_lr),
        ("--patience", args.patience, recipe.patience),
        ("--class-weight", args.class_weight, recipe.class_weight),
    ):
        if given is not None and given != own:
            raise UsageError(f"{option}: the run in {folder} has {own}, which cannot be changed to {given}")
    if args.epochs is not None:
        config = dataclasses.replace(config, recipe=dataclasses.replace(recipe, epochs=args.epochs))
    if args.data is not None:
        config = dataclasses.replace(config, path=str(args.data.absolute()))
    path = None if config.path is None else Path(config.path)
    args.skip_unreadable = args.skip_unreadable or config.skip_unreadable
    data = load(config.data, path, config.size, validation=config.split == "folder", prog=args.prog, **reading(args))
    if (data.classes, data.image_shape) != (config.classes, config.image_shape):
        where = config.path or config.data
        raise UsageError(f"{where}: not the classes or the image size that the run in {folder} began with")
    if config.split == "folder" and (data.validation is None or len(data.validation[1]) != config.validation):
        raise UsageError(f"{config.path}: not the {config.validation:,} validation images that the run began with")
    if args.validation is not None and _validation_images(args.validation, recipe, data) != config.validation:
        raise UsageError(f"--validation: the run in {folder} has {config.validation}, which cannot be changed")
    _need_validation(args, config)
    _describe(config, data, _net(config, weights=False), args, say)
    return config, data


def _describe(config: rundir.Config, data: Any, net: Any, args: argparse.Namespace, say: _Speaker) -> None:
    from fastconv import get_num_threads

    recipe = config.recipe
    training = len(data.train[1]) - (0 if config.split == "folder" else config.validation)
    parts = [f"{training:,} training images"]
    if config.validation:
        parts.append(f"{config.validation:,} for validation")
    parts.append("no test part" if data.test is None else f"{len(data.test[1]):,} for the test")
    size = "x".join(map(str, config.image_shape))
    say(f"{config.data}: {', '.join(parts)}; {len(config.classes)} classes, {size}")
    for told in told_of_reading(data):
        say(told)
    if data.left_out:
        say(printable(f"left out: {', '.join(data.left_out)}"), always=True)
    weights = finetune.weights_of(net)
    threads = get_num_threads()
    say(
        f"{recipe.net}: {weights:,} weights; {_plural(recipe.epochs, 'epoch')} in batches of {recipe.batch_size}, "
        f"{recipe.optimizer['optimizer']}, {_plural(threads, 'thread')}"
        + (f" on each of {say.ranks} ranks" if say.ranks > 1 else "")
    )
    if args.report and not say.mute:
        from fastconv.datasets import report

        say(str(report(data.train[0], data.train[1], config.classes, test=data.test)), always=True)


# --- training --------------------------------------------------------------------------------------------------------


def _plural(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _net(config: rundir.Config, tell: Callable[[str], None] = lambda text: None, *, weights: bool = True) -> Any:
    """The net with its first weights; without `weights` those of no file."""
    from fastconv import models

    recipe = config.recipe
    net = config.describe(models.build(recipe.net, config.image_shape, len(config.classes), rng=config.seed))
    if weights and recipe.weights is not None:
        path = Path(recipe.weights)
        finetune.take_weights(net, path / rundir.WEIGHTS if path.is_dir() else path, tell)
    finetune.freeze(net, recipe.freeze, tell)
    return net


def _factors(config: rundir.Config) -> Any:
    """`class_weight` of `Trainer.fit`; UsageError for a class that is not there."""
    given = config.recipe.class_weight
    if not isinstance(given, dict):
        return given
    for name in given:
        if name not in config.classes:
            raise UsageError(f"class_weight: no class is called {name!r}{nearest(name, config.classes)}")
    return {config.classes.index(name): weight for name, weight in given.items()}


class _Patience(Callback):
    """Ends the training, or does not begin it, where the best epoch is so many behind."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_fit_begin(self, trainer: Any) -> bool:
        return bool(trainer.epoch - (trainer.best_epoch or 0) >= self.epochs)

    def on_epoch_end(self, trainer: Any, record: Any) -> bool:
        return self.on_fit_begin(trainer)


def _trainer(config: rundir.Config, folder: Path, say: _Speaker, ranks: Ranks | None) -> Any:
    """The trainer as its checkpoint has it; a new one where the run was stopped before its first checkpoint."""
    from fastconv import Trainer, functional, optim

    path = folder / rundir.CHECKPOINT
    there = path.exists()
    if ranks.share_data(there, "whether there is a checkpoint") if ranks is not None else there:
        trainer = Trainer.resume(path, follow_links=False, communicator=ranks, sync_batch_norm=True)
        rundir.need_fit(path, trainer.net, config.image_shape, config.classes)
        config.describe(trainer.net)  # which checkpoints of earlier versions do not
        return trainer
    loss = functools.partial(functional.cross_entropy, label_smoothing=config.recipe.label_smoothing)
    net = _net(config, say)
    optimizer = optim.from_config(finetune.optimizer_for(config.recipe, net))
    trainer = Trainer(net, optimizer, loss, seed=config.seed, checkpoint=path, communicator=ranks, sync_batch_norm=True)
    trainer.follow_links = False
    return trainer


def _train_and_report(
    config: rundir.Config, data: Any, folder: Path, args: argparse.Namespace, say: _Speaker, ranks: Ranks | None
) -> None:
    from fastconv import augment

    recipe = config.recipe
    trainer = _trainer(config, folder, say, ranks)
    if recipe.epochs < trainer.epoch:
        raise UsageError(f"--epochs: the run in {folder} has {trainer.epoch} epochs behind it already")
    if args.checkpoint_every is not None:
        trainer.checkpoint_every = args.checkpoint_every
    if not trainer.rank:
        config.write(folder)
    if not args.no_plots and not _can_plot():
        say('no matplotlib here: pictures need pip install "fastconv[plot]"', always=True)
    if trainer.step:
        say(f"{folder}: goes on after {_plural(trainer.epoch, 'epoch')} ({trainer.step:,} steps)")
    training, validation = config.parts(data)
    if validation is not None and (told := _rare(config.classes, training[1], validation[1])):
        say(told, always=True)
    trainer.fit(
        *training,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        validation_data=validation,
        augment=recipe.augment and augment.from_config(recipe.augment),
        callbacks=[
            *([] if trainer.rank else [lambda trainer, record: rundir.write_history(folder, trainer.history)]),
            *([] if recipe.patience is None else [_Patience(recipe.patience)]),
        ],
        progress=not args.quiet,
        class_weight=_factors(config),
        metrics=recipe.metrics,
        accumulate=recipe.accumulate,
        average=recipe.average,
    )
    if trainer.epoch < recipe.epochs:
        say(f"ended after {_plural(trainer.epoch, 'epoch')}: none was better for {recipe.patience}")
    report = functools.partial(_report, config, data, folder, args, say, trainer, validation)
    if ranks is None:
        report()
    else:
        ranks.alone("judged the net and drew the pictures", report)


def _report(
    config: rundir.Config, data: Any, folder: Path, args: argparse.Namespace, say: _Speaker, trainer: Any,
    validation: Any,
) -> None:  # fmt: skip
    """Write what came of the training, and say it."""
    from fastconv.training.checkpoint import save_net

    recipe = config.recipe
    rundir.write_history(folder, trainer.history)
    save_net(folder / rundir.WEIGHTS, trainer.net, follow_links=False)
    if trainer.best_state is not None:
        last = trainer.net.state_dict()
        trainer.net.load_state_dict(trainer.best_state)
        save_net(folder / rundir.BEST, trainer.net, follow_links=False)
        if not args.best:
            trainer.net.load_state_dict(last)
    if data.test is not None:
        judged, part = data.test, "test"
    else:
        judged, part = validation, "validation"
    outcome = judged and Outcome.of(trainer.net, judged[0], judged[1], config.classes, recipe.batch_size)
    result = _result(config, trainer, folder, outcome, part, args.best)
    result["training_images"] = len(config.parts(data)[0][1])
    result["ranks"] = say.ranks
    rundir.write_json(folder / rundir.RESULT, result)
    if outcome is not None:
        outcome.write(folder, part)
    if not args.no_plots and _can_plot():
        _draw(config, trainer.history, judged, outcome, part, result)
    _tell(result, outcome, part, say)
    if args.json:
        print(json.dumps(result, allow_nan=False), flush=True)


# --- what came of it -------------------------------------------------------------------------------------------------


def _rare(classes: tuple[str, ...], *parts: np.ndarray) -> str:
    """The classes that are not in both parts, in words."""
    counts = [np.bincount(labels, minlength=len(classes)) for labels in parts]
    missing = [
        f"{printable(name)} ({_plural(int(trained), 'training image')})"
        for name, trained, validated in zip(classes, *counts, strict=True)
        if not validated
    ]
    return f"not among the validation images: {', '.join(missing)}" if missing else ""


def _result(
    config: rundir.Config, trainer: Any, folder: Path, outcome: Outcome | None, part: str, best: bool
) -> dict[str, Any]:
    """What was measured, as data."""
    import fastconv

    last = trainer.history[-1]
    seconds = trainer.history["seconds"]
    tested = outcome if part == "test" else None
    return {
        "run": str(folder),
        "data": config.data,
        "net": config.recipe.net,
        "weights": finetune.weights_of(trainer.net),
        "epochs": trainer.epoch,
        "test_accuracy": tested and tested.accuracy,
        "test_loss": tested and finite(tested.loss),
        "test_images": len(tested.probabilities) if tested else 0,
        "test_mistakes": tested.report.images - tested.report.right if tested else None,
        "test_f1": tested and tested.report.macro["f1"],
        "validation_accuracy": last.get("val_accuracy"),
        "validation_images": config.validation,
        "best_epoch": trainer.best_epoch,
        "weights_from": "best" if best else "last",
        "weights_epoch": trainer.best_epoch if best else trainer.epoch,
        "training_accuracy": last.get("accuracy"),
        "training_loss": finite(last["loss"]),
        "seconds_per_epoch": statistics.median(seconds),
        "seconds": sum(seconds),
        "threads": fastconv.get_num_threads(),
        "seed": config.seed,
        "fastconv": fastconv.__version__,
    }


def _draw(
    config: rundir.Config, history: Any, judged: Any, outcome: Outcome | None, part: str, result: dict[str, Any]
) -> None:
    folder, title = Path(result["run"]), f"{config.data}, {part} images"
    if result["best_epoch"] is not None:
        title += f", epoch {result['weights_epoch']} ({result['weights_from']})"
    tested = outcome.accuracy if outcome and part == "test" else None
    curve = plots.training_curve(history, title=f"{config.data}: {config.recipe.net}", test_accuracy=tested)
    plots.save(curve, folder / rundir.CURVE, follow_links=False)
    if outcome is not None:
        images, labels = judged
        answers = outcome.probabilities.argmax(axis=1)
        matrix = plots.confusion_matrix(labels, answers, config.classes, title=title)
        plots.save(matrix, folder / rundir.CONFUSION, follow_links=False)
        sheet = plots.mistakes(images, labels, outcome.probabilities, config.classes, title=title)
        plots.save(sheet, folder / rundir.MISTAKES, follow_links=False)


def _tell(result: dict[str, Any], outcome: Outcome | None, part: str, say: _Speaker) -> None:
    parts = []
    if outcome is not None:
        parts.append(outcome.told(part))
    parts.append(f"{result['seconds_per_epoch']:.3g} s an epoch, {result['seconds']:.3g} s in all")
    say("; ".join(parts), always=True)
    if result["best_epoch"] is not None:
        say(rundir.weights_told(result["weights_from"] == "best", result["epochs"], result["best_epoch"]), always=True)
    folder = Path(result["run"])
    files = sorted(entry.name for entry in folder.iterdir() if entry.suffix != ".tmp")
    say(f"{folder}/: {' '.join(files)}", always=True)
