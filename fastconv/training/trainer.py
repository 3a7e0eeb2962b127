"""The loop: batches, steps, validation, history, checkpoints.

Everything random is drawn from generators made of (seed, epoch) or (seed, step), and whatever else a step depends on is
in the checkpoint: a run that was killed and resumed ends with the bits of one that never was.

A checkpoint is a safetensors file (`training.checkpoint`):

    net.<name>                parameters and buffers          best.<name>   those of the best epoch, with validation
    optimizer.<slot>.<name>   the optimiser's memory          loss.<name>   options of the loss that are arrays
    __metadata__              "format": "fastconv.trainer/1", "trainer": JSON of everything else
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastconv import augment as augmentations
from fastconv import optim
from fastconv.engine import precision as precisions
from fastconv.errors import FormatError
from fastconv.interrupts import Interrupts
from fastconv.layers.base import Context, Layer
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import at_most
from fastconv.ops import OPS, register
from fastconv.ops.registry import FUNCTIONS
from fastconv.training import checkpoint as files
from fastconv.training.data import STEP, ArrayBatches, StreamBatches, are_arrays, batches, generator, named_arrays
from fastconv.training.history import History, Record, plain
from fastconv.training.progress import Progress
from fastconv.training.step import Loss, Losses, LossLike, need_limit, passes, resolve_loss, warn_of_softmax
from fastconv.version import __version__

__all__ = ["Evaluation", "Trainer"]

BATCH_SIZE = 128
SEED_BITS = 128
RECORD = {"epoch", "step", "lr", "loss", "seconds"}  # what every epoch's has

AugmentLike = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Callback = Callable[["Trainer", Record], Any]
Batches = ArrayBatches | StreamBatches


class Evaluation(NamedTuple):
    """The loss of all samples, and the share of right answers where the targets are class indices (else None)."""

    loss: float
    accuracy: float | None


@dataclass
class _Sums:
    """Over the batches of an epoch."""

    loss: float = 0.0  # `Loss.portion` of each batch
    weight: float = 0.0
    samples: int = 0
    correct: int = 0
    answers: int = 0  # how many predictions were right or wrong; 0 where targets are no classes

    def add(self, loss: Loss | Losses, value: float, weight: float, output: np.ndarray, target: np.ndarray) -> None:
        self.loss += loss.portion(value, weight)
        self.weight += weight
        self.samples += _samples(output)
        if isinstance(loss, Losses):  # none of the outputs is the net's only one
            return
        if target.dtype.kind in "iu" and output.ndim > 1 and target.shape == output.shape[:1] + output.shape[2:]:
            right = (output.argmax(axis=1) == target)[~np.isin(target, loss.ignore_index)]
            self.correct += int(np.count_nonzero(right))
            self.answers += right.size

    def result(self, loss: Loss | Losses) -> Evaluation:
        accuracy = self.correct / self.answers if self.answers else None
        return Evaluation(loss.whole(self.loss, self.weight), accuracy)


@dataclass
class _Position:
    """Where a run is: whole epochs behind it, steps in all, batches into the present epoch and what they summed to."""

    epoch: int = 0
    step: int = 0
    batch: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains `net` with `optimizer`.

    loss              a function of fastconv.functional, one from `fastconv.register`, or its name (default
                      "cross_entropy"); options by functools.partial. Of a net with several outputs a dict of them by
                      the outputs' names: their sum is trained, each times its factor in `loss_weights` (default: 1)
    seed              what shuffling, augmentation and dropout are derived from (default 0)
    checkpoint        a path: a checkpoint is written there before the first step, then every `checkpoint_every` steps
                      (default: after each epoch), and when `fit` ends. See `resume`
    functions         {name: function}: augmentations of one's own, by the names that files shall use for them
    precision         "fast" or "strict" (see `fastconv.set_precision`): of training and evaluation, whatever holds
                      outside, after `resume` too (default: what holds when `fit` is first called)
    memory_limit      bytes that a step may take beside the net, the optimiser and the batch: parts of the forward are
                      run again to stay below, with the same bits. What counts, and what it costs: see
                      `fastconv.value_and_grad`. Validation and evaluation are no steps (default: no limit)

    net, optimizer, history (a list of records, see `training.history`), best_epoch, best_state
    follow_links      whether the checkpoint's path may be a symbolic link; the file behind it is then written
    """

    follow_links = True

    def __init__(
        self,
        net: Layer,
        optimizer: optim.Optimizer,
        loss: LossLike = "cross_entropy",
        *,
        loss_weights: Mapping[str, float] | None = None,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        precision: str | None = None,
        memory_limit: int | None = None,
    ) -> None:
        if not isinstance(net, Layer):
            raise TypeError(f"Trainer: net must be a layer, got {net!r}")
        if not isinstance(optimizer, optim.Optimizer):
            raise TypeError(f"Trainer: optimizer must be one of fastconv.optim's, got {optimizer!r}")
        self.net = net
        self.optimizer = optimizer
        self.loss = resolve_loss(loss, net, loss_weights)
        warn_of_softmax(net, self.loss)
        self._several = len(net.inputs) != 1, isinstance(self.loss, Losses)
        self.seed = _integer("Trainer", "seed", seed, 0)
        if self.seed >> SEED_BITS:
            raise ValueError(f"Trainer: seed must have at most {SEED_BITS} bits, got {self.seed.bit_length()}")
        self.checkpoint = None if checkpoint is None else Path(checkpoint).absolute()
        self.checkpoint_every = (
            None if checkpoint_every is None else _integer("Trainer", "checkpoint_every", checkpoint_every, 1)
        )
        self.functions = dict(functions or {})
        self.precision = None if precision is None else precisions.need_precision("Trainer: precision", precision)
        self.memory_limit = need_limit("Trainer", memory_limit)
        self.history = History()
        self.best_epoch: int | None = None
        self.best_state: dict[str, np.ndarray] | None = None
        self._position = _Position()
        self._sums = _Sums()
        self._settings: dict[str, Any] | None = None  # of the run, as data
        self._augment: AugmentLike | None = None
        self._torn = False  # only some of what belongs together has been changed
        self._interrupts = Interrupts()

    @property
    def epoch(self) -> int:
        """Epochs behind us."""
        return self._position.epoch

    @property
    def step(self) -> int:
        """Steps behind us."""
        return self._position.step

    # --- training

    def fit(
        self,
        X: Any,
        y: Any = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        validation_data: Any = None,
        augment: AugmentLike | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool | None = None,
        *,
        drop_last: bool | None = None,
        steps_per_epoch: int | None = None,
    ) -> History:
        """Train until `epochs` epochs are behind the net, those of earlier calls and of a resumed file included.

        X, y              samples and targets: arrays, memory-mapped or integer ones too (a batch at a time becomes the
                          net's float type); of a net of several inputs or losses tuples of them, or dicts by their
                          names. Or X alone: an iterable of batches (x, y), or a function that returns an
                          iterator for every epoch; batches then come as they are
        epochs            the total; needed unless the run was resumed from a file, which has it
        batch_size        default 128, or as before. Samples are shuffled anew in every epoch. The last batch may be
                          short; a last batch of one sample is left out
        validation_data   (X, y), or an iterable of batches: evaluated after every epoch, and the weights of the best
                          epoch are kept (highest accuracy, then lowest loss)
        augment           augment(x, rng) -> changed x: see `fastconv.augment` (default: none, or as before)
        callbacks         each is called with (trainer, record) after an epoch; one that returns True ends the training.
                          Numbers that it adds to the record are kept
        progress          True: a tqdm bar on a terminal, else a line an epoch; False: nothing; None: a bar or nothing
        drop_last         leave out a short last batch (default False)
        steps_per_epoch   how many steps schedules shall count on, where X is an iterable that has no length

        Returns the history: a record an epoch with epoch, step, lr, loss, accuracy, val_loss, val_accuracy, seconds.
        The loss and the accuracy are those of the batches as they were trained on, while the weights still changed.
        Targets that the loss ignores count in neither; of a batch that has no others the loss is nothing and the
        gradient 0: a step like others, for momentum, weight decay, schedules and running statistics.

        Parts of the net that were put aside stay so: see `fastconv.value_and_grad`.

        Raises FloatingPointError where a loss or gradient is not finite: the weights are then those from before that
        step. MemoryError where no step fits in `memory_limit`, before it computes anything. ValueError where a group of
        the optimiser fits no parameter of the net, frozen or not, and where an interrupted run is continued with other
        data or settings; callbacks and progress are free. Schedules follow the total: with more epochs than before they
        continue as if that had been planned. Ctrl-C waits for the end of the step, writes a checkpoint where there is
        one, and is raised.
        """
        settings = self._settled(batch_size, drop_last)
        if steps_per_epoch is not None:
            settings["steps_per_epoch"] = _integer("fit", "steps_per_epoch", steps_per_epoch, 1)
        source = batches(
            "fit", X, y, settings["batch_size"], seed=self.seed, drop_last=settings["drop_last"], several=self._several
        )
        validation = self._batches_of("fit: validation_data", validation_data, settings["batch_size"])
        total = self._total_epochs(epochs)
        settings.update(
            epochs=total,
            data=source.fingerprint(),
            validation=None if validation is None else validation.fingerprint(),
        )
        given = self._augmentation(augment)
        self._need_the_same(settings, given)
        if self.epoch >= total:
            return self.history
        self._settings, self._augment = settings, given
        self.precision = self.precision or precisions.get_precision()
        for name, data in (("X", source), ("validation_data", validation)):
            if isinstance(data, StreamBatches) and data.once and total - self.epoch > 1:
                raise ValueError(
                    f"fit: {name} can be iterated once only, and {total - self.epoch} epochs are to come; give a list "
                    "of batches, or a function that returns an iterator"
                )
        if not self.net.is_trainable():
            raise ValueError("fit: the net has no trainable parameters")
        if not self.step:
            every = self.net.named_arrays(buffers=False)
            self.optimizer.check_groups({name: getattr(layer, attribute) for name, layer, attribute in every})
        steps = settings["steps_per_epoch"] or source.steps
        self.optimizer.total_steps = total * steps if steps else None
        self.optimizer.learning_rate()  # a schedule that lacks its total complains now
        self._write_checkpoint()
        shown = Progress(progress, total)
        callbacks = list(callbacks)
        try:
            with self._interrupts, precisions.precision(self.precision):
                while self.epoch < total:
                    shown.start(self.epoch + 1, steps, self._position.batch)
                    record = self._epoch(source, validation, shown)
                    shown.finish(record)
                    stop = [_is_true(callback(self, record)) for callback in callbacks]
                    if self.checkpoint_every is None or any(stop) or self.epoch == total:
                        self._write_checkpoint()
                    if any(stop):
                        break
        except KeyboardInterrupt:
            self._write_checkpoint()
            raise
        finally:
            shown.close()
        return self.history

    def _settled(self, batch_size: Any, drop_last: Any) -> dict[str, Any]:
        """What was given, or what the run had before, or the defaults."""
        before = self._settings or {"batch_size": BATCH_SIZE, "drop_last": False, "steps_per_epoch": None}
        return {
            "batch_size": before["batch_size"] if batch_size is None else _integer("fit", "batch_size", batch_size, 1),
            "drop_last": before["drop_last"] if drop_last is None else bool(drop_last),
            "steps_per_epoch": before["steps_per_epoch"],
        }

    def _total_epochs(self, epochs: Any) -> int:
        if epochs is not None:
            return _integer("fit", "epochs", epochs, 1)
        if self._settings is None:
            raise TypeError("fit: epochs must be given")
        return int(self._settings["epochs"])

    def _augmentation(self, given: Any) -> AugmentLike | None:
        """What was given, or what the run had before (`Compose()` does nothing)."""
        if given is not None and not callable(given):
            raise TypeError(f"fit: augment must be a function augment(x, rng), got {given!r}")
        return self._augment if given is None else given

    def _need_the_same(self, settings: dict[str, Any], given: AugmentLike | None) -> None:
        """ValueError where the run has begun with other settings."""
        if self._torn:
            raise RuntimeError("fit: an update was interrupted in its middle; go on from a file, by Trainer.resume")
        before = self._settings
        if before is not None and (self.step or self.epoch):
            for name in ("data", "batch_size", "drop_last"):
                if settings[name] != before[name]:
                    raise ValueError(
                        f"fit: this run began with {name} {before[name]}, now it is {settings[name]}; continue with "
                        "the same, or make a new Trainer for the net"
                    )
            if self.epoch < before["epochs"]:  # it was interrupted: what is to come must be what would have come
                if settings["validation"] != before["validation"]:
                    raise ValueError(
                        f"fit: this run was interrupted with validation_data {before['validation']}, now it is "
                        f"{settings['validation']}"
                    )
                if given != self._augment:
                    raise ValueError(
                        f"fit: this run was interrupted with augment {self._augment!r}, now it is {given!r}"
                    )

    def _epoch(self, source: Batches, validation: Batches | None, shown: Progress) -> Record:
        """The rest of an epoch and what follows it."""
        position, sums = self._position, self._sums
        parameters = self.net.parameters()
        buffers = [(array, array.copy()) for array in _buffers(self.net)]
        begun = time.perf_counter() - position.seconds
        for x, y in source.epoch(position.epoch, position.batch):
            rng = generator(self.seed, STEP, position.step)
            if self._augment is not None:
                x = self._augment(x, rng)
            self._step(x, y, rng, parameters, buffers)
            position.seconds = time.perf_counter() - begun
            shown.step(sums.result(self.loss).loss)
            if self.checkpoint_every and position.step % self.checkpoint_every == 0:
                self._write_checkpoint()
        if not position.batch:
            raise ValueError(f"fit: X yielded no batches for epoch {position.epoch + 1}")
        return self._finish_epoch(None if validation is None else self._evaluate(validation))

    def _step(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rng: np.random.Generator,
        parameters: dict[str, np.ndarray],
        buffers: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """One step; the net is as it was where the loss or a gradient is not finite, or anything is raised before."""
        self._interrupts.begin()
        for array, before in buffers:
            np.copyto(before, array)
        try:
            forward, backward = passes(self.net)
            with blas_held(), np.errstate(all="ignore"), at_most(self.memory_limit) as ceiling:
                output, saved = forward(self.net.cast(x), Context.of_step(self.net, rng, ceiling))
                if not _samples(output):
                    raise ValueError(f"fit: a batch has no samples (step {self.step + 1})")
                loss, weight, gradient = self.loss.with_gradient(output, y)
                if weight:
                    self._need_finite("loss", loss, x)
                else:  # all targets are ignored, or of classes without weight: nothing to learn
                    gradient = np.zeros_like(output)
                gradients = backward(gradient, saved, False)[1]
                norm = optim.global_norm(gradients)
                self._need_finite("gradient's norm", norm, x)
            self._torn = True
            self.optimizer.step(parameters, gradients, norm=norm)
            self._sums.add(self.loss, loss, weight, output, y)
            self._position.step += 1
            self._position.batch += 1
            self._torn = False
        except BaseException as error:
            if isinstance(error, (ValueError, TypeError)):  # the optimiser refuses before it changes anything
                self._torn = False
            if not self._torn:
                for array, before in buffers:
                    np.copyto(array, before)
            self._interrupts.end()
            raise
        self._interrupts.end()

    def _need_finite(self, what: str, value: float, x: np.ndarray) -> None:
        if math.isfinite(value):
            return
        arrays = named_arrays("X", x).values()
        if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
            advice = "the batch itself holds NaN or infinity: look at the data"
        else:
            advice = "try a lower learning rate, clip_norm=1, or inputs scaled to about [0, 1]"
        raise FloatingPointError(
            f"fit: the {what} is {value} in step {self.step + 1} (epoch {self.epoch + 1}, learning rate "
            f"{self.optimizer.learning_rate():g}); the weights are those from before this step; {advice}"
        )

    def _finish_epoch(self, validated: Evaluation | None) -> Record:
        """Write the record, keep the weights if they are the best, go on to the next epoch."""
        trained = self._sums.result(self.loss)
        record: Record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.optimizer.learning_rate(max(0, self.optimizer.steps - 1)),
            "loss": trained.loss,
        }
        if trained.accuracy is not None:
            record["accuracy"] = trained.accuracy
        if validated is not None:
            record["val_loss"] = validated.loss
            if validated.accuracy is not None:
                record["val_accuracy"] = validated.accuracy
        record["seconds"] = self._position.seconds
        better = validated is not None and self._is_best(record)
        state = self.net.state_dict() if better else None
        self._interrupts.begin()
        self._torn = True
        self.history.append(record)
        if better:
            self.best_epoch, self.best_state = record["epoch"], state
        self._position = _Position(self.epoch + 1, self.step)
        self._sums = _Sums()
        self._torn = False
        self._interrupts.end()
        return record

    def _is_best(self, record: Record) -> bool:
        if math.isnan(record["val_loss"]):
            return False
        if self.best_epoch is None:
            return True
        return _score(record) > _score(self._record_of(self.best_epoch))

    def _record_of(self, epoch: int) -> Record:
        return self.history[self.history["epoch"].index(epoch)]

    def restore_best(self) -> None:
        """Give the net the weights of the best epoch; ValueError where there is none: nothing was validated, or the
        loss was nan in every epoch."""
        if self.best_state is None:
            if any("val_loss" in record for record in self.history):
                raise ValueError(
                    "restore_best: val_loss was nan in every epoch; try a lower learning rate or clip_norm=1, and look "
                    "for NaN in the validation data"
                )
            raise ValueError("restore_best: no epoch was validated yet; write fit(…, validation_data=(X, y))")
        self.net.load_state_dict(self.best_state)

    # --- evaluation

    def evaluate(self, X: Any, y: Any = None, batch_size: int | None = None) -> Evaluation:
        """The loss and the accuracy on arrays (X, y), or on an iterable X of batches, in inference mode.

        The loss is that of all samples, whatever the batches: each counts with what its own mean divides by (samples,
        or their class weights; targets that the loss ignores count nowhere), and sums (reduction="sum") are added up.
        The accuracy is None where the targets are no class indices. batch_size: default as in training, or 128.
        """
        size = self._settled(batch_size, None)["batch_size"]
        with precisions.precision(self.precision or precisions.get_precision()):
            return self._evaluate(batches("evaluate", X, y, size, several=self._several))

    def _batches_of(self, owner: str, data: Any, batch_size: int) -> Batches | None:
        if data is None:
            return None
        if isinstance(data, tuple) and len(data) == 2:
            x, y = data
            arrays = not isinstance(x, tuple) or (self._several[0] and len(x) == len(self.net.inputs) and are_arrays(y))
            if arrays:
                return batches(owner, x, y, batch_size, several=self._several)
        return batches(owner, data, None, batch_size)

    def _evaluate(self, source: Batches) -> Evaluation:
        sums = _Sums()
        inference = Context(training=False, keep=False)
        for x, y in source.epoch(0):
            with blas_held(), np.errstate(all="ignore"):
                output = self.net.forward(self.net.cast(x), inference)[0]
                if _samples(output):
                    sums.add(self.loss, *self.loss(output, y), output, y)
        if not sums.samples:
            raise ValueError("evaluate: the data yielded no samples")
        return sums.result(self.loss)

    # --- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that `resume` needs, atomically: whoever reads the file finds the old or the new one, whole.

        Raises ValueError for a layer or an augmentation that is no data and has no registered name, and OSError.
        """
        self._write(path, automatic=False)

    def _write_checkpoint(self) -> None:
        if self.checkpoint is not None and not self._torn:
            self._write(self.checkpoint, automatic=True)

    def _write(self, path: str | os.PathLike[str], automatic: bool) -> None:
        tensors = {f"net.{name}": getattr(layer, attribute) for name, layer, attribute in self.net.named_arrays()}
        tensors.update((f"optimizer.{slot}.{name}", array) for slot, name, array in self.optimizer._state())
        tensors.update((f"best.{name}", array) for name, array in (self.best_state or {}).items())
        losses: dict[str, Any] = {}
        for output, loss in self.loss.losses.items() if isinstance(self.loss, Losses) else [("", self.loss)]:
            options = {}
            for name, value in loss.options.items():
                if isinstance(value, (np.ndarray, list, tuple)):
                    tensors[f"loss.{output}.{name}" if output else f"loss.{name}"] = np.asarray(value)
                else:
                    options[name] = _plain(f"save: the loss {loss.name} has an option {name}", value)
            losses[output] = {"name": loss.name, "options": options}
        data = {
            "fastconv": __version__,
            "net": files.net_data(self.net),
            "optimizer": {
                "config": self.optimizer.config(), "steps": self.optimizer.steps, "updates": self.optimizer.updates,
            },
            "loss": {"each": losses, "weights": self.loss.weights} if isinstance(self.loss, Losses) else losses[""],
            "seed": self.seed,
            "precision": self.precision,
            "memory_limit": self.memory_limit,
            "checkpoint_every": self.checkpoint_every,
            "automatic": automatic,
            "settings": self._settings,
            "augment": self._augment_data(),
            "position": asdict(self._position),
            "sums": asdict(self._sums),
            "history": [_record_data(record) for record in self.history],
            "best_epoch": self.best_epoch,
        }  # fmt: skip
        metadata = {"format": files.TRAINER, "trainer": json.dumps(data, allow_nan=False)}
        files.write(path, tensors, metadata, follow_links=self.follow_links or not automatic)

    def _augment_data(self) -> Any:
        if self._augment is None or isinstance(self._augment, augmentations.Augment):
            return self._augment and self._augment.config()
        for name, function in self.functions.items():
            if function is self._augment:
                return {"function": name}
        raise ValueError(
            f"save: augment {self._augment!r} has no name for a file; give it one: Trainer(…, functions={{name: …}})"
        )

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        functions: Mapping[str, Callable[..., Any] | tuple[Any, Any]] | None = None,
        *,
        follow_links: bool = True,
    ) -> Trainer:
        """The trainer that wrote the file: its net (`.net`), optimiser, history and position are rebuilt from it, and
        `fit` with the same data goes on to the bit (on the same machine, with the same versions and workspace limit; an
        iterable must yield the batches of an epoch as it did before).

        functions       {name: function} for what the file names and fastconv does not know: a pair (forward, backward)
                        is registered as an operation (see `fastconv.register`; it replaces one of that name), anything
                        else is an augmentation
        follow_links    whether `path` may be a symbolic link, now and when it goes on being the checkpoint

        A file that was written as a checkpoint goes on being the checkpoint. Nothing in a file is ever run: the net is
        rebuilt from data, out of fastconv's own layers. Raises FormatError for any other file, and OSError.
        """
        functions = dict(functions or {})
        for name, function in functions.items():
            if isinstance(function, tuple) and (name not in OPS or name in FUNCTIONS):
                register(name, *function, replace=True)
        tensors, metadata = files.read(path, follow_links=follow_links)
        if metadata.get("format") != files.TRAINER or "trainer" not in metadata:
            raise FormatError(f"{path}: is no checkpoint that a fastconv Trainer wrote")
        data = files.parse_json(path, "the checkpoint", metadata["trainer"])
        with files.as_format_error(path, "the checkpoint cannot be resumed"):
            parts: dict[str, dict[str, np.ndarray]] = {"net": {}, "optimizer": {}, "best": {}, "loss": {}}
            for full, tensor in tensors.items():
                part, _, name = full.partition(".")
                parts[part][name] = tensor
            net = files.net_from_data(path, data["net"], parts["net"])
            optimizer = _optimizer_from_data(data["optimizer"], parts["optimizer"], parts["net"])
            loss, factors = _loss_from_data(data["loss"], parts["loss"])
            if type(data["automatic"]) is not bool:
                raise ValueError(f"automatic must be true or false, got {data['automatic']!r}")
            trainer = cls(
                net, optimizer, loss, loss_weights=factors, seed=data["seed"],
                checkpoint=path if data["automatic"] else None, checkpoint_every=data["checkpoint_every"],
                functions={name: function for name, function in functions.items() if callable(function)},
                precision=data.get("precision"), memory_limit=data.get("memory_limit"),
            )  # fmt: skip
            trainer.follow_links = follow_links
            trainer._restore(data, parts["best"])
        return trainer

    def _restore(self, data: dict[str, Any], best: dict[str, np.ndarray]) -> None:
        self._position = _numbers_from_data(_Position(), data["position"])
        self._sums = _numbers_from_data(_Sums(), {"weight": data["sums"]["samples"], **data["sums"]})
        for record in data["history"]:
            self.history.append({str(name): _number_from_data(value) for name, value in record.items()})
        if len(self.history) != self.epoch:
            raise ValueError(f"it has {len(self.history)} records for {self.epoch} epochs")
        for epoch, record in enumerate(self.history, 1):
            if not record.keys() >= RECORD or record["epoch"] != epoch:
                raise ValueError(f"record {epoch} of its history is not that of an epoch")
        self.best_epoch = data["best_epoch"]
        if self.best_epoch is not None:
            _score(self._record_of(_integer("history", "best_epoch", self.best_epoch, 1)))
            own = self.net.state_dict()
            if own.keys() != best.keys() or any(best[name].shape != own[name].shape for name in own):
                raise ValueError("the best epoch's weights do not fit the net")
            self.best_state = best
        elif best:
            raise ValueError("it has the weights of a best epoch, but no such epoch")
        settings = data["settings"]
        if settings is not None:
            _integer("settings", "batch_size", settings["batch_size"], 1)
            _integer("settings", "epochs", settings["epochs"], 1)
            if settings["steps_per_epoch"] is not None:
                _integer("settings", "steps_per_epoch", settings["steps_per_epoch"], 1)
            if type(settings["drop_last"]) is not bool or settings.keys() != {
                "batch_size", "drop_last", "steps_per_epoch", "epochs", "data", "validation",
            }:  # fmt: skip
                raise ValueError("its settings are not those of a Trainer")
        self._settings = settings
        self._need_position()
        if data["augment"] is not None:
            name = data["augment"].get("function")
            if name is not None and name not in self.functions:
                raise ValueError(f"its augmentation is a function called {name!r}: give functions={{{name!r}: …}}")
            self._augment = self.functions[name] if name is not None else augmentations.from_config(data["augment"])

    def _need_position(self) -> None:
        """ValueError for a position that is none in the data that the settings describe."""
        position, settings = self._position, self._settings
        if bool(position.batch) != bool(self._sums.samples) or position.batch > position.step:
            raise ValueError(f"its position, batch {position.batch} of step {position.step}, is not that of its sums")
        if settings is None:
            if position.step or position.epoch:
                raise ValueError(f"it has {position.step} steps behind it, but no settings")
            return
        data = settings["data"]
        steps = data["batches"] if "batches" in data else -(-data["samples"] // settings["batch_size"])
        if steps is not None and position.batch > steps:
            raise ValueError(f"its position is batch {position.batch} of an epoch of {steps}")


def _samples(output: Any) -> int:
    """How many samples the net's output, or each of its outputs, is of."""
    return len(output[0] if isinstance(output, tuple) else output)


def _loss_from_data(data: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """The loss that a file describes, or a dict of several and their factors; `arrays`: its options that are arrays."""
    if "each" in data:
        found = {}
        for output, each in data["each"].items():
            own = {name[len(output) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{output}.")}
            found[output] = _loss_from_data(each, own)[0]
        return found, data["weights"]
    name, options = data["name"], data["options"]
    if name not in OPS:
        raise ValueError(f"its loss {name!r} is not registered: fastconv.register it, or give functions=")
    inspect.signature(OPS[name].forward).bind_partial(**options, **arrays)
    return Loss(name, {**options, **arrays}), None


def _optimizer_from_data(
    data: dict[str, Any], tensors: dict[str, np.ndarray], parameters: dict[str, np.ndarray]
) -> optim.Optimizer:
    """The optimiser and its memory, which must fit the parameters of the same names."""
    optimizer = optim.from_config(data["config"])
    state: dict[str, Any] = {"steps": data["steps"], "updates": data["updates"]}
    state.update((slot, {}) for slot in optimizer.slots)
    for full, tensor in tensors.items():
        slot, _, name = full.partition(".")
        fits = tensor.shape == parameters[name].shape and tensor.dtype == parameters[name].dtype
        if not fits:
            raise ValueError(f"the optimiser's {slot} of {name} does not fit the parameter")
        state[slot][name] = tensor
    optimizer.load_state_dict(state)
    return optimizer


def _buffers(net: Layer) -> list[np.ndarray]:
    """What the layers change by themselves in training: batch norm's running statistics."""
    return [getattr(layer, name) for _, layer, name in net.named_arrays() if name in layer.buffer_names]


def _is_true(answer: Any) -> bool:
    """Python's True, or NumPy's."""
    return plain(answer) is True


def _score(record: Record) -> tuple[float, float]:
    return record.get("val_accuracy", 0.0), -record["val_loss"]


def _integer(owner: str, name: str, value: Any, low: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}") from None
    if number < low:
        raise ValueError(f"{owner}: {name} must be at least {low}, got {number}")
    return number


def _plain(owner: str, value: Any) -> Any:
    value = plain(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{owner} that is no data: {value!r}")


def _numbers_from_data(fresh: Any, data: Any) -> Any:
    """A dataclass of numbers, as fresh, with those of `data`."""
    numbers = asdict(fresh)
    if data.keys() != numbers.keys():
        raise ValueError(f"it must hold {', '.join(numbers)}, got {list(data)}")
    for name, value in data.items():
        kinds = (int, float) if isinstance(numbers[name], float) else (int,)
        if type(value) not in kinds or not math.isfinite(value) or (value < 0 and kinds == (int,)):
            raise ValueError(f"{name} must be a number or count, got {value!r}")
    return type(fresh)(**data)


def _record_data(record: Record) -> dict[str, Any]:
    """A record for JSON, which has no NaN and no infinity: those as text."""
    data = {}
    for name, value in record.items():
        number = plain(value)
        if not isinstance(number, (bool, int, float)):
            raise ValueError(f"save: column {name!r} of the history must hold numbers, got {value!r}")
        data[str(name)] = number if not isinstance(number, float) or math.isfinite(number) else str(number)
    return data


def _number_from_data(value: Any) -> Any:
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if type(value) not in (bool, int, float):
        raise ValueError(f"a history holds numbers, got {value!r}")
    return value
