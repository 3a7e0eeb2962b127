"""A run's folder: what is in it, and that no two processes write to it. In the folder there are

    config.json               what was asked for: the data, the recipe, the seed
    config.toml               the same as settings: `fastconv train --config RUN/config.toml` repeats the run
    checkpoint.safetensors    where the training is; `train --resume` goes on from it
    history.csv, history.json one record an epoch
    weights.safetensors       the net as it was trained to the end, with its configuration
    best.safetensors          the net of the best validated epoch, where there was validation
    result.json               what was measured, as `train --json` prints it
    report.json, report.txt   class by class, on the test images or else on those for validation; the confusion matrix
    curve.png, confusion.png, mistakes.png

and nothing else; whoever wants to predict needs config.json and weights.safetensors. All of them are regular files: no
symbolic link in a run's folder is followed, what stands in a file's place and is none is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.cli.common import Failure, UsageError
from fastconv.cli.data import SETS, Data, Part, split
from fastconv.cli.settings import as_toml
from fastconv.errors import FormatError
from fastconv.files import replace_text
from fastconv.layers.base import Layer
from fastconv.machine.memory import require_array
from fastconv.training.checkpoint import as_format_error, load_net, read_json
from fastconv.training.history import History
from fastconv.training.metrics import resolve_metrics
from fastconv.training.recipes import Recipe
from fastconv.version import __version__

__all__ = [
    "Config", "Trained", "check_regular", "check_unused", "create", "locked", "need_fit", "need_other", "net_file",
    "net_for", "write_history", "write_json",
]  # fmt: skip

CONFIG = "config.json"
SETTINGS = "config.toml"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
RESULT = "result.json"
REPORT, REPORT_TEXT = "report.json", "report.txt"
HISTORY_CSV, HISTORY_JSON = "history.csv", "history.json"
CURVE, CONFUSION, MISTAKES = "curve.png", "confusion.png", "mistakes.png"
FILES = (
    CONFIG, SETTINGS, CHECKPOINT, WEIGHTS, BEST, RESULT, REPORT, REPORT_TEXT, HISTORY_CSV, HISTORY_JSON, CURVE,
    CONFUSION, MISTAKES,
)  # fmt: skip
FORMAT = "fastconv.run/1"
BATCH_SIZE = 32  # images that a net file's net, of which no recipe is known, reads at a time
SPLITS = ("random", "stratified", "folder")


@dataclass(frozen=True)
class Config:
    """What decides a run's outcome.

    path         the data's folder
    validation   images that are evaluated after each epoch
    split        where they are from: "folder", the data's own validation part, or split off the training part, every
                 class alike ("stratified") or not ("random": runs begun when there was no other way)
    skip_unreadable   whether files that are no images are left out
    """

    data: str
    path: str | None
    size: tuple[int, int] | None
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    recipe: Recipe
    validation: int
    seed: int
    split: str = "random"
    skip_unreadable: bool = False

    def write(self, folder: Path) -> None:
        """Write config.json and config.toml, each whole or not at all."""
        write_json(folder / CONFIG, {"format": FORMAT, "fastconv": __version__, **dataclasses.asdict(self)})
        heading = f"fastconv {__version__}: `fastconv train --config {SETTINGS}` repeats this run"
        replace_text(folder / SETTINGS, as_toml(self.settings(), heading), follow_links=False)

    def settings(self) -> dict[str, Any]:
        """What `train --config` needs for the same run."""
        recipe = dataclasses.asdict(self.recipe)
        del recipe["validation"]
        if recipe["augment"] is None:
            recipe["augment"] = "none"
        call = {"data": self.data, "path": self.path, "size": self.size, "seed": self.seed}
        call.update({"skip_unreadable": True} if self.skip_unreadable else {})
        return {**call, **({} if self.split == "folder" else {"validation": self.validation}), **recipe}

    @classmethod
    def read(cls, folder: Path) -> Config:
        """The configuration in a run's folder; UsageError where it is none, FormatError where it is damaged."""
        path = folder / CONFIG
        if not os.path.lexists(folder):
            raise UsageError(f"{folder}: is no run folder: nothing is called so")
        if not os.path.lexists(path):
            raise UsageError(f"{folder}: is no run folder: it has no {CONFIG}")
        data = read_json(path, "the configuration", follow_links=False)
        with as_format_error(path, "is no configuration of a run"):
            if data.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            data.pop("fastconv")
            recipe = Recipe.from_data(data.pop("recipe"))
            lists = {name: value and tuple(value) for name, value in data.items() if name in _TUPLES}
            config = cls(**{**data, **lists}, recipe=recipe)
            config._check()
        return config

    def describe(self, net: Any) -> Any:
        """Tell the net what its outputs are called and how its images are read; returns it."""
        net.classes = self.classes
        net.preparation = {"method": SETS[self.data].preparation, "image_shape": self.image_shape}
        return net

    def parts(self, data: Data) -> tuple[Part, Part | None]:
        """The images that are trained on, and those that are evaluated after each epoch."""
        if data.validation is not None or not self.validation:
            return data.train, data.validation
        return split(data.train, self.validation, self.seed, stratified=self.split == "stratified")

    def _check(self) -> None:
        """ValueError or TypeError for what `train` does not write."""
        from fastconv import augment, models, optim

        recipe = self.recipe
        optim.from_config(recipe.optimizer)
        resolve_metrics(recipe.metrics)
        if recipe.augment is not None:
            augment.from_config(recipe.augment)
        for name, value, fits in (
            ("data", self.data, self.data in SETS),
            ("path", self.path, (_is_path(self.path) if SETS[self.data].needs_folder else self.path is None)),
            ("image_shape", self.image_shape, _are_sizes(self.image_shape, 3)),
            ("size", self.size, self.size is None or (_are_sizes(self.size, 2) and self.size == self.image_shape[1:])),
            ("classes", self.classes, self.classes and all(isinstance(name, str) for name in self.classes)),
            ("validation", self.validation, _is_whole(self.validation)),
            ("seed", self.seed, _is_whole(self.seed)),
            ("split", self.split, self.split in SPLITS),
            ("skip_unreadable", self.skip_unreadable, type(self.skip_unreadable) is bool),
            ("net", recipe.net, recipe.net in models.MODELS),
            ("epochs", recipe.epochs, _is_whole(recipe.epochs, 1)),
            ("batch_size", recipe.batch_size, _is_whole(recipe.batch_size, 1)),
            ("label_smoothing", recipe.label_smoothing, _is_number(recipe.label_smoothing, 1)),
            ("the recipe's validation", recipe.validation, _is_number(recipe.validation)),
            ("weights", recipe.weights, recipe.weights is None or _is_path(recipe.weights)),
            ("freeze", recipe.freeze, all(isinstance(name, str) for name in recipe.freeze)),
            ("head_lr", recipe.head_lr, recipe.head_lr is None or _is_number(recipe.head_lr)),
            ("patience", recipe.patience, recipe.patience is None or _is_whole(recipe.patience, 1)),
            ("class_weight", recipe.class_weight, _is_weights(recipe.class_weight)),
            ("accumulate", recipe.accumulate, _is_whole(recipe.accumulate, 1)),
            ("average", recipe.average, recipe.average is None or _is_number(recipe.average, 1)),
            ("metrics", recipe.metrics, all(isinstance(name, str) for name in recipe.metrics)),
        ):
            if not fits:
                raise ValueError(f"{name} cannot be {value!r}")


_TUPLES = ("size", "classes", "image_shape")


def _is_whole(value: Any, low: int = 0) -> bool:
    return type(value) is int and value >= low


def _is_number(value: Any, high: float = math.inf) -> bool:
    return type(value) in (int, float) and 0 <= value <= high


def _is_weights(value: Any) -> bool:
    return value in (None, "balanced") or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _are_sizes(value: Any, axes: int) -> bool:
    return isinstance(value, tuple) and len(value) == axes and all(_is_whole(n, 1) for n in value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def check_regular(folder: Path) -> None:
    """FormatError where one of a run's files is no regular one: found before the work, not after it."""
    for name in FILES:
        path = folder / name
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise FormatError(f"{path}: is no regular file; in a run's folder no link is followed")


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all."""
    replace_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n", follow_links=False)


def need_fit(path: Path, net: Layer, image_shape: tuple[int, ...], classes: tuple[str, ...] | None) -> tuple[str, ...]:
    """The classes (None: their numbers); FormatError unless the net that is in the file takes such images and tells so
    many classes apart."""
    size = "x".join(map(str, image_shape))
    with as_format_error(path, f"its net does not take images of {size}"):
        require_array("predict", image_shape, 4)
        scores = net.predict(np.zeros((1, *image_shape), np.float32)).shape
    classes = classes or tuple(map(str, range(scores[-1])))
    if scores != (1, len(classes)):
        raise FormatError(f"{path}: its net makes {scores[1:]} scores of an image, for {len(classes)} classes")
    return classes


def weights_file(folder: Path, best: bool) -> Path:
    """The file of a trained run's weights: of the last epoch, or of the best validated one."""
    if not (folder / WEIGHTS).exists():
        raise Failure(f"{folder}: is not trained to the end yet: fastconv train --resume {folder}")
    if best and not (folder / BEST).exists():
        raise UsageError(f"--best: the run in {folder} had no validation images")
    return folder / (BEST if best else WEIGHTS)


def net_file(path: Path, best: bool) -> Layer:
    """The net of a file that stands where a run might."""
    if best:
        raise UsageError(f"--best is for a run's folder; {path} holds one set of weights")
    return load_net(path)


@dataclass(frozen=True)
class Trained:
    """A trained net: of a run's folder, or of a net file that says how its net reads images (`config` is None).

    place        the folder or the file
    last_epoch, best_epoch   as far as they are known
    """

    place: Path
    best: bool
    net: Layer
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    method: str
    batch_size: int
    config: Config | None
    last_epoch: int | None = None
    best_epoch: int | None = None

    @classmethod
    def of(cls, place: Path, best: bool) -> Trained:
        """UsageError or Failure where there is none."""
        if place.is_file():
            config, weights, net = None, place, net_file(place, best)
            if net.preparation is None:
                raise Failure(
                    f"{place}: does not say how its net reads images; in Python: net = fastconv.load({str(place)!r}); "
                    'net.preparation = {"method": "picture", "image_shape": (C, H, W)}; '
                    f"fastconv.save(net, {str(place)!r})"
                )
            found: tuple[int | None, int | None] = (None, None)
        else:
            config = Config.read(place)
            weights = weights_file(place, best)
            net = config.describe(load_net(weights, follow_links=False))
            found = epochs(place)
        assert net.preparation is not None
        method, shape = net.preparation["method"], tuple(net.preparation["image_shape"])
        classes = need_fit(weights, net, shape, net.classes)
        size = BATCH_SIZE if config is None else config.recipe.batch_size
        return cls(place, best, net, classes, shape, method, size, config, *found)

    def told(self) -> str:
        """Which weights are used, in words; "" where nothing is known."""
        return "" if self.best_epoch is None else weights_told(self.best, self.last_epoch, self.best_epoch)

    def as_dict(self) -> dict[str, Any]:
        """Which run and which weights, for JSON."""
        return {
            "run": str(self.place),
            "weights_from": "best" if self.best else "last",
            "weights_epoch": self.best_epoch if self.best else self.last_epoch,
            "best_epoch": self.best_epoch,
        }


def net_for(target: Path, place: Path, best: bool) -> Layer:
    """The net of a trained run or of a net file, which `target`, to be written, does not replace."""
    if place.is_file():
        if target.resolve() == place.resolve():
            raise UsageError(f"{target}: is the net itself")
        return net_file(place, best)
    Config.read(place)  # says so where this is no run folder
    source = weights_file(place, best)
    need_other(target, place)
    return load_net(source, follow_links=False)


def need_other(target: Path | None, place: Path) -> None:
    """UsageError where what is to be written is one of a run's own files."""
    if target is not None and target.resolve().parent == place.resolve() and target.name in FILES:
        raise UsageError(f"{target}: belongs to the run itself")


def epochs(folder: Path) -> tuple[int | None, int | None]:
    """The last epoch and the best validated one of a trained run, as far as its result says it."""
    path = folder / RESULT
    if not path.exists():
        return None, None
    result = read_json(path, "the result", follow_links=False)
    with as_format_error(path, "is no result of a run"):
        found = result["epochs"], result["best_epoch"]
        if not all(epoch is None or type(epoch) is int for epoch in found):
            raise ValueError(f"epochs and best_epoch must be integers, got {found}")
    return found


def weights_told(best: bool, last_epoch: int | None, best_epoch: int | None) -> str:
    """Which weights are used, in words, where a best epoch is known."""
    if best or best_epoch == last_epoch:
        return f"weights of epoch {best_epoch}, the best{'' if best else ' and the last'}"
    return f"weights of epoch {last_epoch}, the last; the best was epoch {best_epoch}: --best"


def create(data: str, out: Path | None) -> Path:
    """A new folder: `out`, or the first of runs/<data>-1, -2 … that nobody has. Never one that holds something."""
    if out is None:
        number = 1
        while True:
            folder = Path("runs", f"{data}-{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1
    check_unused(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def check_unused(out: Path) -> None:
    """UsageError unless `out` may become a run's folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        hint = f"; to go on with this run: --resume {out}" if (out / CONFIG).is_file() else ""
        raise UsageError(f"--out {out}: exists already and is never overwritten{hint}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, until the end or the death of this process. Failure where another one holds it."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"{folder}: another process is training this run") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def write_history(folder: Path, history: History) -> None:
    """Write history.csv and history.json."""
    history.to_csv(folder / HISTORY_CSV, follow_links=False)
    history.to_json(folder / HISTORY_JSON, follow_links=False)
