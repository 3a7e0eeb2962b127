"""The loop: batches, steps, validation, history, checkpoints.

Everything random is drawn from generators made of (seed, epoch) or (seed, step), and whatever else a step depends on is
in the checkpoint: a run that was killed and resumed ends with the bits of one that never was.

A checkpoint is a safetensors file (`training.checkpoint`):

    net.<name>                parameters and buffers          best.<name>      those of the best epoch, with validation
    optimizer.<slot>.<name>   the optimiser's memory          loss.<name>      options of the loss that are arrays
    callbacks.<n>.<name>      what callbacks keep             average.<name>   the parameters' moving average
    collected.<name>          the epoch's predictions, where metrics are asked for
    __metadata__              "format": "fastconv.trainer/1", "trainer": JSON of everything else
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import json
import math
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastconv import augment as augmentations
from fastconv import distributed, notebook, optim
from fastconv.callbacks import Callback
from fastconv.engine import precision as precisions
from fastconv.errors import FormatError
from fastconv.interrupts import Interrupts, uninterrupted
from fastconv.layers.base import Context, Layer
from fastconv.machine.blas import blas_held
from fastconv.machine.memory import whole_call
from fastconv.machine.switching import quick_switches
from fastconv.ops import OPS, register
from fastconv.ops.norm.channels import synchronised
from fastconv.ops.registry import FUNCTIONS
from fastconv.random import drawing_part
from fastconv.training import checkpoint as files
from fastconv.training.ahead import prepared
from fastconv.training.data import ArrayBatches, StreamBatches, are_arrays, batches, named_arrays
from fastconv.training.data import samples_of as samples_in
from fastconv.training.history import History, Record, plain
from fastconv.training.hooks import Function, arrays_apart, callback_data, callback_from_data
from fastconv.training.metrics import Collected, Metric, are_classes, resolve_metrics
from fastconv.training.mixing import Mixed
from fastconv.training.progress import Progress
from fastconv.training.rates import Rates
from fastconv.training.step import (
    Loss,
    Losses,
    LossLike,
    gradients_of,
    need_limit,
    resolve_loss,
    samples_of,
    warn_of_softmax,
)
from fastconv.training.weighting import class_weights, need_classes, need_factors, of_targets
from fastconv.version import __version__

__all__ = ["Evaluation", "Trainer"]

BATCH_SIZE = 128
CHECKED = 100  # steps between two looks at whether all ranks have the same weights
SEED_BITS = 128
PARTS = ("net", "optimizer", "best", "loss", "average", "collected", "callbacks")  # of a checkpoint's arrays
RECORD = {"epoch", "step", "lr", "loss", "seconds"}  # what every epoch's has

SETTINGS: dict[str, Any] = {  # of a run, as long as nothing else is said
    "batch_size": BATCH_SIZE, "drop_last": False, "steps_per_epoch": None, "class_weight": None, "metrics": [],
    "accumulate": 1, "average": None,
}  # fmt: skip

AugmentLike = Callable[[np.ndarray, np.random.Generator], np.ndarray]
CallbackLike = Callback | Callable[["Trainer", Record], Any]
Batches = ArrayBatches | StreamBatches


class _Evaluation(NamedTuple):
    loss: float
    accuracy: float | None


class Evaluation(_Evaluation):
    """The loss of all samples, and the share of right answers where the targets are class indices (else None).

    metrics   beside the pair: the metrics that were asked for, by name
    """

    metrics: dict[str, float]

    def __new__(cls, loss: float, accuracy: float | None, metrics: Mapping[str, float] | None = None) -> Evaluation:
        found = super().__new__(cls, loss, accuracy)
        found.metrics = dict(metrics or {})
        return found

    def __repr__(self) -> str:
        entries = {**self._asdict(), **self.metrics}
        return f"Evaluation({', '.join(f'{name}={value!r}' for name, value in entries.items())})"

    def _repr_html_(self) -> str:
        entries = {**self._asdict(), **self.metrics}
        cells = [f"{value:.4g}" if value is not None else "" for value in entries.values()]
        return notebook.table([list(entries), cells], left=0)

    def record(self, prefix: str = "") -> Record:
        """The entries of a history's record."""
        accuracy = {} if self.accuracy is None else {"accuracy": self.accuracy}
        return {prefix + name: value for name, value in {"loss": self.loss, **accuracy, **self.metrics}.items()}


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
        self.samples += samples_of(output)
        if isinstance(loss, Losses) or isinstance(output, tuple) or not isinstance(target, np.ndarray):  # of several
            return
        if are_classes(output, target):
            right = (output.argmax(axis=1) == target)[~np.isin(target, loss.ignore_index)]
            self.correct += int(np.count_nonzero(right))
            self.answers += right.size

    def over(self, ranks: distributed.Ranks, stops: bool = False) -> tuple[_Sums, np.ndarray, bool]:
        """Those of all ranks, added in order, each rank's loss, and whether any of them `stops`."""
        every = ranks.gather([*asdict(self).values(), stops], "the losses of the others")
        total, weight, *counts, stopping = (sum(column) for column in every.T.tolist())
        return _Sums(total, weight, *map(int, counts)), every[:, 0], stopping > 0

    def join(self, others: _Sums) -> None:
        for name, value in asdict(others).items():
            setattr(self, name, getattr(self, name) + value)

    def result(self, loss: Loss | Losses, collected: Collected | None = None) -> Evaluation:
        accuracy = self.correct / self.answers if self.answers else None
        return Evaluation(
            loss.whole(self.loss, self.weight), accuracy, None if collected is None else collected.results()
        )


@dataclass
class _Position:
    """Where a run is: whole epochs behind it, steps in all, batches into the present epoch and their time, and batches
    in all."""

    epoch: int = 0
    step: int = 0
    batch: int = 0
    seconds: float = 0.0
    batches: int = 0


class Trainer:
    """Trains `net` with `optimizer`.

    loss              a function of fastconv.functional, one from `fastconv.register`, or its name (default
                      "cross_entropy"); options by functools.partial. Of a net with several outputs a dict of them by
                      the outputs' names: their sum is trained, each times its factor in `loss_weights` (default: 1).
                      Or a function (output, y) of one's own, composed of such (see `fastconv.value_and_grad`); one that
                      takes the mean of samples, for a batch counts with its number of them. Files keep its name, where
                      it has one: register("name", function)
    seed              what shuffling, augmentation and dropout are derived from (default 0)
    checkpoint        a path: a checkpoint is written there before the first step, then every `checkpoint_every` steps
                      (default: after each epoch), and when `fit` ends. See `resume`
    functions         {name: function}: augmentations of one's own, by the names that files shall use for them
    precision         "fast" or "strict" (see `fastconv.set_precision`): of training and evaluation, whatever holds
                      outside, after `resume` too (default: what holds when `fit` is first called)
    communicator      mpi4py's, e.g. MPI.COMM_WORLD, on which every rank makes such a Trainer and calls `fit` alike:
                      each takes its part of every batch, and all make the update of the whole batch, which `batch_size`
                      still is. Rank 0's weights are where it begins; it writes the files, as if it were alone. Needs
                      pip install "fastconv[mpi]" (default: None, this process alone)
    sync_batch_norm   whether batch norm takes mean and variance over all ranks: the training is then that of one
                      process. Default False: over each rank's part, unless one would have less than two samples;
                      rank 0's running statistics are kept
    memory_limit      bytes that a batch's work may take beside the net, the optimiser, the batches and, where several
                      make a step, their gradients' sum: parts of the forward are run again to stay below, with the same
                      bits. What counts, and what it costs: see `fastconv.value_and_grad`. Evaluation has no limit
                      (default: None)

    net, optimizer, history (a list of records, see `training.history`), best_epoch, best_state, average_state
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
        communicator: Any = None,
        sync_batch_norm: bool = False,
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
        self._several = len(net.inputs) != 1, isinstance(self.loss, Losses) or self.loss.is_composed
        self.seed = _integer("Trainer", "seed", seed, 0)
        if self.seed >> SEED_BITS:
            raise ValueError(f"Trainer: seed must have at most {SEED_BITS} bits, got {self.seed.bit_length()}")
        self.checkpoint = None if checkpoint is None else Path(checkpoint).absolute()
        self.checkpoint_every = (
            None if checkpoint_every is None else _integer("Trainer", "checkpoint_every", checkpoint_every, 1)
        )
        self.functions = dict(functions or {})
        self.precision = None if precision is None else precisions.need_precision("Trainer: precision", precision)
        self.ranks = distributed.ranks_of(communicator)
        self.sync_batch_norm = bool(sync_batch_norm)
        self._buckets: distributed.Buckets | None = None
        self.memory_limit = need_limit("Trainer", memory_limit)
        if self.ranks is not None and self.sync_batch_norm and self.memory_limit is not None:
            raise ValueError("Trainer: sync_batch_norm over several ranks goes without memory_limit; give one of them")
        self.history = History()
        self.best_epoch: int | None = None
        self.best_state: dict[str, np.ndarray] | None = None
        self._position = _Position()
        self._sums = _Sums()
        self._collected = Collected(())
        self._metrics: tuple[Metric, ...] = ()
        self._average: dict[str, np.ndarray] | None = None  # of the parameters
        self._callbacks: list[Callback] = []
        self._callback_states: list[dict[str, Any]] = []  # of a file, until callbacks take them
        self._settings: dict[str, Any] | None = None  # of the run, as data
        self._augment: AugmentLike | None = None
        self._telling = False  # callbacks, of an epoch
        self._torn = False  # only some of what belongs together has been changed
        self._interrupts = Interrupts()
        self._stopping = False  # a rank was interrupted: all end after this step

    @property
    def epoch(self) -> int:
        """Epochs behind us."""
        return self._position.epoch

    @property
    def step(self) -> int:
        """Steps behind us."""
        return self._position.step

    @property
    def rank(self) -> int:
        """Which of the communicator's ranks this is, for callbacks that only one may run; 0 without."""
        return 0 if self.ranks is None else self.ranks.rank

    @property
    def total_epochs(self) -> int | None:
        """Epochs that are to be behind us at the end of `fit`; None before it."""
        return None if self._settings is None else int(self._settings["epochs"])

    @property
    def validates(self) -> bool:
        """Whether `fit` has validation data."""
        return self._settings is not None and self._settings["validation"] is not None

    @property
    def average_state(self) -> dict[str, np.ndarray] | None:
        """The net's state_dict with the moving average of its weights, of `fit(average=…)`; None without."""
        return None if self._average is None else self.validated_state()

    def validated_state(self) -> dict[str, np.ndarray]:
        """The net's state_dict as validation sees it: with the average of the weights where there is one."""
        averages = {name: np.array(array, order="C") for name, array in (self._average or {}).items()}
        return {**self.net.state_dict(), **averages}

    # --- training

    def fit(
        self,
        X: Any,
        y: Any = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        validation_data: Any = None,
        augment: AugmentLike | None = None,
        callbacks: Iterable[CallbackLike] | None = (),
        progress: bool | None = None,
        *,
        drop_last: bool | None = None,
        steps_per_epoch: int | None = None,
        prefetch: int = 2,
        sample_weight: Any = None,
        class_weight: str | Mapping[int, float] | None = None,
        metrics: Any = (),
        accumulate: int = 1,
        average: float | None = None,
    ) -> History:
        """Train until `epochs` epochs are behind the net, those of earlier calls and of a resumed file included.

        X, y              samples and targets: arrays, memory-mapped or integer ones too (a batch at a time becomes the
                          net's float type); of a net of several inputs or losses tuples of them, or dicts by their
                          names. Or X alone: an iterable of batches (x, y) or (x, y, weight), or a function that
                          returns an iterator for every epoch; batches then come as they are
        epochs            the total; needed unless the run was resumed from a file, which has it
        batch_size        default 128, or as before. Samples are shuffled anew in every epoch. The last batch may be
                          short; a last batch of one sample is left out
        validation_data   (X, y), (X, y, sample_weight) or an iterable of batches: evaluated after every epoch, and the
                          weights of the best epoch are kept (highest accuracy, then lowest loss)
        augment           augment(x, rng) -> changed x: see `fastconv.augment` (default: none, or as before). Where it
                          mixes images, class indices become probabilities, which the loss must take (cross_entropy),
                          and floats are mixed; an answer is right that is the class of the larger share
        callbacks         of `fastconv.callbacks`, or functions: each is called with (trainer, record) after an epoch;
                          one that returns True ends the training. Numbers that it adds to the record are kept
        progress          True: a tqdm bar on a terminal, else a line an epoch; False: nothing; None: a bar or nothing.
                          In a notebook True and None show a bar, and the curve as it goes
        drop_last         leave out a short last batch (default False)
        steps_per_epoch   how many steps schedules shall count on, where X is an iterable that has no length
        prefetch          how many batches, 64 at most, are made ready beside the steps, by a thread of fit's own in
                          which X and `augment` then run (default 2); 0: in line. The results are the same to the bit,
                          unless one of the two looks at what steps change, the net or the trainer: that needs 0
        sample_weight     (N,), or the shape of the single losses: the loss of a batch is sum(weight * loss) /
                          sum(weight), as that of cross_entropy(weight=…)
        class_weight      {class: weight} (1 for those that it does not name), times the samples' own weights; or
                          "balanced", N / (classes * count of the class), as scikit-learn's. For training alone. The
                          classes of bce_with_logits are 0 and 1
        metrics           names, functions (y_true, y_pred) or {name: function}: of all samples of an epoch, as val_…
                          of the validation data. Names are "accuracy", "balanced_accuracy", "precision", "recall",
                          "f1" (the classes' mean; "f1_weighted", "f1_micro"), "matthews_corrcoef", "cohen_kappa",
                          "top_5_accuracy"; "mse", "mae", "rmse", "r2": scikit-learn's values. A function is given the
                          classes that the net chose, or probabilities (N, C) where its second argument is called
                          y_score or y_proba, or the outputs where targets are no classes
        accumulate        so many batches make a step: their gradients' mean, each batch counted as it would count in
                          one large batch (default: 1, or as before). The last step of an epoch may have fewer
        average           a decay: after every step average = decay * average + (1 - decay) * weights, begun with those
                          after the first step (torch's AveragedModel); validation uses it, with the net's own buffers,
                          and so does the best epoch. See `restore_average`

        Returns the history: a record an epoch with epoch, step, lr, loss, accuracy, val_loss, val_accuracy, seconds.
        The loss and the accuracy are those of the batches as they were trained on, while the weights still changed.
        Targets that the loss ignores count in neither; of a batch that has no others the loss is nothing and the
        gradient 0: a step like others, for momentum, weight decay, schedules and running statistics.

        Parts of the net that were put aside stay so: see `fastconv.value_and_grad`.

        With a communicator every rank gives the same data and settings (ValueError where one has others). An iterable
        is read on every rank, and so are images that `augment` changes; of other arrays each reads its own samples.
        Callbacks are called on every rank with the same records, rank 0's answers count; `trainer.rank` says which it
        is. What is raised on one rank alone ends all, with its traceback.

        Raises FloatingPointError where a loss or gradient is not finite: the weights are then those from before that
        step. MemoryError where no step fits in `memory_limit`, before it computes anything. ValueError where a group of
        the optimiser fits no parameter of the net, frozen or not, and where an interrupted run is continued with other
        data or settings; callbacks and progress are free. Schedules follow the total: with more epochs than before they
        continue as if that had been planned. Ctrl-C waits for the end of the step, writes a checkpoint where there is
        one, and is raised. Meanwhile Python's switch interval is 50 us, so that threads which run Python do not hold a
        step up (`sys.setswitchinterval`).
        """
        settings = self._settled(batch_size, drop_last)
        prefetch = _integer("fit", "prefetch", prefetch, 0)
        if accumulate != 1:
            settings["accumulate"] = _integer("fit", "accumulate", accumulate, 1)
        if average is not None:
            settings["average"] = _decay(average)
        if class_weight is not None:
            settings["class_weight"] = class_weights(class_weight, y, self.loss)
        measures = self._measures(metrics, settings)
        if steps_per_epoch is not None:
            settings["steps_per_epoch"] = _integer("fit", "steps_per_epoch", steps_per_epoch, 1)
        source = batches(
            "fit", X, y, settings["batch_size"], seed=self.seed, drop_last=settings["drop_last"], several=self._several,
            weight=sample_weight,
        )  # fmt: skip
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
        self._metrics, before = measures, self._collected
        self._collected = Collected(measures)
        if self._position.batch:
            self._collected.join(before)
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
        steps = settings["steps_per_epoch"] or (source.steps and -(-source.steps // settings["accumulate"]))
        self.optimizer.total_steps = total * steps if steps else None
        self.optimizer.learning_rate()  # a schedule that lacks its total complains now
        shown = Progress(progress if self.rank == 0 else False, total, self.history)
        self._begin_callbacks(callbacks)
        self._telling = False
        begun: list[Callback] = []
        try:
            self._interrupts.together = self.ranks is not None
            with self._interrupts, precisions.precision(self.precision), quick_switches():
                self._meet()
                stop = False
                for callback in self._callbacks:
                    begun.append(callback)
                    stop = _is_true(callback.on_fit_begin(self)) or stop
                stop = self._agreed(stop)
                self._write_checkpoint()
                while self.epoch < total and not stop:
                    shown.start(self.epoch + 1, steps, -(-self._position.batch // settings["accumulate"]))
                    record = self._epoch(source, validation, shown, prefetch)
                    shown.finish(record)
                    stop = self._agreed(self._call_back(record, total))
                    if self.checkpoint_every is None or stop or self.epoch == total:
                        self._write_checkpoint()
                if self.ranks is not None:
                    asked = self.ranks.gather([self._interrupts.pending], "the others to end")
                    self._stop_together(bool(asked.any()))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not self._telling:
                self._write_checkpoint()
            for callback in begun:
                callback.on_exception(self, error)
            if self.ranks is not None:
                self.ranks.ended(error)
            raise
        finally:
            shown.close()
        return self.history

    # --- the other ranks

    def _meet(self) -> None:
        """Begin with the others, with rank 0's weights; ValueError where one of them trains something else."""
        ranks = self.ranks
        if ranks is None:
            return
        ranks.step = self.step
        every = list(self.net.named_arrays())
        trained = self.net.parameters()
        augment, settings = self._augment, dict(self._settings or {})
        data, validation = settings.pop("data", None), settings.pop("validation", None)
        ranks.need_same("fit", {
            "code": distributed.code_checksum(),
            "net": {name: [list(np.shape(getattr(layer, each))), str(getattr(layer, each).dtype), name in trained]
                    for name, layer, each in every},
            "optimizer": self.optimizer.config(),
            "optimizer's memory": [f"{slot} of {name}" for slot, name, _ in self.optimizer._state()],
            "loss": repr(self.loss.losses if isinstance(self.loss, Losses) else self.loss.name),
            "settings": settings, "data": data, "validation_data": validation,
            "augment": augment.config() if isinstance(augment, augmentations.Augment) else augment is not None,
            "seed": self.seed, "precision": self.precision, "sync_batch_norm": self.sync_batch_norm,
            "position": [self.epoch, self.step, self._position.batch],
        })  # fmt: skip
        memory = [array for _, _, array in self.optimizer._state()]
        memory += (self._average or {}).values()
        ranks.share([*(getattr(layer, each) for _, layer, each in every), *memory], "rank 0's weights")
        self._buckets = distributed.Buckets(ranks, self.net, trained)

    def _agreed(self, stop: bool) -> bool:
        """What rank 0's callbacks answered."""
        return stop if self.ranks is None else bool(self.ranks.share_data(stop, "the callbacks of rank 0"))

    def _part(self, samples: int) -> slice:
        """Which of a batch's samples are this rank's."""
        assert self.ranks is not None
        return distributed.part_of(samples, self.ranks.rank, self.ranks.size)

    def _gathers(self, samples: int) -> Any:
        """How batch norm gets the statistics of all parts of a batch; None where each part has its own."""
        ranks = self.ranks
        few = self.memory_limit is None and ranks is not None and samples < 2 * ranks.size
        if ranks is None or not (self.sync_batch_norm or few):
            return None
        return functools.partial(ranks.gather, what="the statistics of batch norm")

    def _add_ranks(self, learnt: _Learnt, x: Any) -> None:
        """Make what came of this rank's parts of the batches what came of the batches, the last part's input is x."""
        assert self.ranks is not None
        assert self._buckets is not None
        learnt.gradients = self._buckets.finish(learnt.gradients)
        learnt.sums, losses, self._stopping = learnt.sums.over(self.ranks, self._interrupts.pending)
        if not np.isfinite(losses).all():
            bad = np.flatnonzero(self.ranks.gather([_holds_nan(x)], "the others")[:, 0]).tolist()
            whose = np.flatnonzero(~np.isfinite(losses)).tolist()
            raise self.ranks.agreed(
                self._not_finite("loss", math.nan, f"of rank {' and '.join(map(str, whose))}", bool(bad))
            )
        if self._metrics:
            self._gather_collected(learnt.collected)

    def _gather_collected(self, collected: Collected) -> None:
        """Everybody's targets and predictions."""
        ranks = self.ranks
        assert ranks is not None
        arrays = collected.arrays()
        whole = {}
        layouts = ranks.gather_data(
            {name: [str(array.dtype), list(array.shape[1:])] for name, array in arrays.items()}, "predictions"
        )
        for name, (dtype, shape) in next((each for each in layouts if each), {}).items():
            whole[name] = ranks.gather_rows(arrays.get(name, np.empty((0, *shape), dtype)), "predictions")
        collected.restore(whole)

    def _join_ranks(self) -> None:
        """At the end of an epoch: rank 0's running statistics and clock are everybody's, the weights are equal."""
        if self.ranks is None:
            return
        self.ranks.share(_buffers(self.net), "rank 0's running statistics")
        self._position.seconds = self.ranks.share_data(self._position.seconds, "rank 0's clock")
        self._need_equal()

    def _need_equal(self) -> None:
        """RuntimeError where a rank's weights are not those of rank 0."""
        assert self.ranks is not None
        self.ranks.need_equal(self.net.parameters())

    def _begin_callbacks(self, callbacks: Iterable[CallbackLike] | None) -> None:
        """Take callbacks in; those that a file tells of get what they knew, by their class and order."""
        callbacks = () if callbacks is None else callbacks
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"fit: callbacks must be a list, got {callbacks!r}; write callbacks=[…]")
        self._callbacks = [each if isinstance(each, Callback) else Function(each) for each in callbacks]
        for callback in self._callbacks:
            kind = type(callback).__name__
            found = next((state for state in self._callback_states if state["callback"] == kind), None)
            if found is not None:
                self._callback_states.remove(found)
                callback.load_state_dict(found["state"])

    def _call_back(self, record: Record, total: int) -> bool:
        """Tell callbacks of an epoch, and of the end; whether one of them ends the training. Ctrl-C waits; where a
        second one or an error breaks in no checkpoint is written, for some were told and others not."""
        self._interrupts.begin()
        self._telling = True
        try:
            answers = [_is_true(callback.on_epoch_end(self, record)) for callback in self._callbacks]
            if any(answers) or self.epoch == total:
                for callback in self._callbacks:
                    callback.on_fit_end(self)
            self._telling = False
        finally:
            self._interrupts.end()
        return any(answers)

    def _settled(self, batch_size: Any, drop_last: Any) -> dict[str, Any]:
        """What was given, or what the run had before, or the defaults."""
        before = {name: (self._settings or SETTINGS)[name] for name in SETTINGS}
        if batch_size is not None:
            before["batch_size"] = _integer("fit", "batch_size", batch_size, 1)
        if drop_last is not None:
            before["drop_last"] = bool(drop_last)
        return before

    def _measures(self, metrics: Any, settings: dict[str, Any]) -> tuple[Metric, ...]:
        """The metrics that were given, or that the run had before, by their names in its settings."""
        found = resolve_metrics(metrics)
        if found:
            settings["metrics"] = [metric.name for metric in found]
            return found
        known = {metric.name: metric for metric in self._metrics}
        names = [name for name in settings["metrics"] if name not in known]
        try:
            known.update({metric.name: metric for metric in resolve_metrics(names)})
        except ValueError:
            raise ValueError(
                f"fit: this run has metrics of your own among {', '.join(settings['metrics'])}; give metrics=(…) again"
            ) from None
        return tuple(known[name] for name in settings["metrics"])

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
                for name in ("accumulate", "average", "class_weight", "metrics"):
                    if settings[name] != before[name]:
                        raise ValueError(
                            f"fit: this run was interrupted with {name} {before[name]}, now it is {settings[name]}"
                        )
                if settings["validation"] != before["validation"]:
                    raise ValueError(
                        f"fit: this run was interrupted with validation_data {before['validation']}, now it is "
                        f"{settings['validation']}"
                    )
                if given != self._augment:
                    raise ValueError(
                        f"fit: this run was interrupted with augment {self._augment!r}, now it is {given!r}"
                    )

    def _epoch(self, source: Batches, validation: Batches | None, shown: Progress, prefetch: int) -> Record:
        """The rest of an epoch and what follows it."""
        position, sums = self._position, self._sums
        parameters = self.net.parameters()
        buffers = [(array, array.copy()) for array in _buffers(self.net)]
        begun = time.perf_counter() - position.seconds
        ready = prepared(
            self.net, source, position.epoch, position.batch, prefetch, self._augment, (self.seed, position.batches),
            part=None if self.ranks is None else self._part,
        )  # fmt: skip
        with contextlib.closing(ready):
            for first in ready:
                self._step(itertools.chain([first], itertools.islice(ready, self._accumulate - 1)), parameters, buffers)
                position.seconds = time.perf_counter() - begun
                shown.step(sums.result(self.loss).loss)
                if self.ranks is not None and position.step % CHECKED == 0:
                    self._need_equal()
                if self.checkpoint_every and position.step % self.checkpoint_every == 0:
                    self._write_checkpoint()
        if not position.batch:
            raise ValueError(f"fit: X yielded no batches for epoch {position.epoch + 1}")
        self._join_ranks()
        if validation is None:
            return self._finish_epoch(None)
        with self._averaged():
            validated = self._evaluate(validation, self._metrics, prefetch, self.ranks)
        return self._finish_epoch(validated)

    def _step(
        self, group: Iterable[Any], parameters: dict[str, np.ndarray], buffers: list[tuple[np.ndarray, np.ndarray]]
    ) -> float:
        """One step, on a group of batches; returns the loss."""
        self._interrupts.begin()
        try:
            loss = self._update(group, parameters, buffers)
            if self._callbacks:
                lr = self.optimizer.learning_rate(max(0, self.optimizer.steps - 1))
                record = {"epoch": self.epoch + 1, "step": self.step, "lr": lr, "loss": loss}
                for callback in self._callbacks:
                    callback.on_step_end(self, record)
        finally:
            self._interrupts.end()
        self._stop_together(self._stopping)
        return loss

    def _stop_together(self, stops: bool) -> None:
        """KeyboardInterrupt on every rank, at the same step, where one of them was interrupted."""
        self._stopping = False
        if stops and self.ranks is not None:
            raise self.ranks.agreed(KeyboardInterrupt())

    def _update(
        self, group: Iterable[Any], parameters: dict[str, np.ndarray], buffers: list[tuple[np.ndarray, np.ndarray]]
    ) -> float:
        """What a step does; the net is as it was where the loss or a gradient is not finite, or anything is raised
        before."""
        for array, before in buffers:
            np.copyto(before, array)
        learnt = _Learnt(_Sums(), Collected(self._metrics))
        try:
            for batch, rng in group:
                x, y, *weight = batch
                with drawing_part(batch.first, samples_in(x)), synchronised(self._gathers(batch.whole)):
                    self._learn(learnt, x, y, rng, self._samples_weights(y, *weight))
            if self.ranks is not None:
                self._add_ranks(learnt, x)
            with blas_held, np.errstate(all="ignore"):
                gradients = learnt.mean_gradients(self._is_weighed)
                norm = optim.global_norm(gradients)
                self._need_finite("gradient's norm", norm, x)
                self._torn = True
                self.optimizer.step(parameters, gradients, norm=norm)
                self._average_weights(parameters)
            self._sums.join(learnt.sums)
            self._collected.join(learnt.collected)
            self._position.step += 1
            self._position.batch += learnt.batches
            self._position.batches += learnt.batches
            self._torn = False
            if self.ranks is not None:
                self.ranks.step = self.step
        except BaseException as error:
            if isinstance(error, (ValueError, TypeError)):  # the optimiser refuses before it changes anything
                self._torn = False
            if not self._torn:
                for array, before in buffers:
                    np.copyto(array, before)
            raise
        return learnt.sums.result(self.loss).loss

    def _learn(self, learnt: _Learnt, x: Any, y: Any, rng: np.random.Generator, samples: np.ndarray | None) -> None:
        """Add a batch's gradients to those of its group; `samples`: their weights."""
        with blas_held, np.errstate(all="ignore"):
            others = self.ranks
            if others is None and any(np.shape(array)[:1] == (0,) for array in named_arrays("X", x).values()):
                raise ValueError(f"fit: a batch has no samples (step {self.step + 1})")
            final = None
            if self._buckets is not None and self._accumulate == 1 and self.memory_limit is None:
                final = self._buckets.final
            share = None if others is None else functools.partial(_shared, others)
            output, loss, weight, gradients = gradients_of(
                self.net, self.loss, x, y, rng, samples, self._is_weighed, self.memory_limit, final, share
            )  # fmt: skip
            factors = None if self._settings is None else self._settings["class_weight"]
            if factors is not None:
                need_classes(factors, output, self.loss)
            if weight and others is None:
                self._need_finite("loss", loss, x)
            learnt.add(gradients)
        labels = y.labels if isinstance(y, Mixed) else y
        learnt.sums.add(self.loss, loss, weight, output, labels)
        learnt.collected.add(self.loss, output, labels)

    @property
    def _is_weighed(self) -> bool:
        """Whether gradients are added up, each times its batch's weight."""
        return (self._accumulate > 1 or self.ranks is not None) and not self.loss.is_sum

    @property
    def _accumulate(self) -> int:
        return 1 if self._settings is None else int(self._settings["accumulate"])

    def _samples_weights(self, y: Any, weight: np.ndarray | None = None) -> np.ndarray | None:
        """The weights of a batch's samples, or of their single targets, where any were given."""
        if isinstance(y, Mixed):  # so are the weights
            weights = self._samples_weights(y.targets, weight)
            return None if weights is None else np.tensordot(y.shares, weights, axes=1)
        factors = None if self._settings is None else self._settings["class_weight"]
        if factors is None:
            return weight
        own = of_targets(np.asarray(factors), np.asarray(y), self.loss)
        return own if weight is None else own * weight.reshape(-1, *(1,) * (own.ndim - 1))

    def _average_weights(self, parameters: dict[str, np.ndarray]) -> None:
        """Move the average towards the weights."""
        decay = None if self._settings is None else self._settings["average"]
        if decay is None:
            return
        if self._average is None:
            self._average = {}
        for name, array in parameters.items():
            if name not in self._average:
                self._average[name] = array.copy(order="K")
                continue
            average = self._average[name]
            average += (array - average) * (1 - decay)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The net has the average of its weights inside, where there is one."""
        if self._average is None:
            yield
            return
        arrays = {name: getattr(layer, attribute) for name, layer, attribute in self.net.named_arrays(buffers=False)}
        own = {name: arrays[name].copy(order="K") for name in self._average}
        try:
            self._put(arrays, self._average)
            yield
        finally:
            self._put(arrays, own)

    def _put(self, arrays: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> None:
        with uninterrupted():
            for name, value in values.items():
                arrays[name][...] = value

    def _need_finite(self, what: str, value: float, x: np.ndarray) -> None:
        if math.isfinite(value):
            return
        error = self._not_finite(what, value, bad=_holds_nan(x))
        raise error if self.ranks is None else self.ranks.agreed(error)

    def _not_finite(self, what: str, value: float, whose: str = "", bad: bool = False) -> FloatingPointError:
        if bad:
            advice = "the batch itself holds NaN or infinity: look at the data"
        else:
            advice = "try a lower learning rate, clip_norm=1, or inputs scaled to about [0, 1]"
        return FloatingPointError(
            f"fit: the {what} {whose and whose + ' '}is {value} in step {self.step + 1} (epoch {self.epoch + 1}, "
            f"learning rate {self.optimizer.learning_rate():g}); the weights are those from before this step; {advice}"
        )

    def _finish_epoch(self, validated: Evaluation | None) -> Record:
        """Write the record, keep the weights if they are the best, go on to the next epoch."""
        record: Record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.optimizer.learning_rate(max(0, self.optimizer.steps - 1)),
            **self._sums.result(self.loss, self._collected).record(),
            **({} if validated is None else validated.record("val_")),
            "seconds": self._position.seconds,
        }
        better = validated is not None and self._is_best(record)
        state = self.validated_state() if better else None
        self._interrupts.begin()
        self._torn = True
        self.history.append(record)
        if better:
            self.best_epoch, self.best_state = record["epoch"], state
        self._position = _Position(self.epoch + 1, self.step, batches=self._position.batches)
        self._sums = _Sums()
        self._collected = Collected(self._metrics)
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

    def restore_average(self) -> None:
        """Give the net the moving average of its weights; ValueError where `fit` was not asked for one."""
        if self._average is None:
            raise ValueError("restore_average: there is no average; write fit(…, average=0.99)")
        self.net.load_state_dict(self.validated_state())

    def find_lr(
        self,
        X: Any,
        y: Any = None,
        batch_size: int | None = None,
        augment: AugmentLike | None = None,
        *,
        lowest: float = 1e-6,
        highest: float = 10.0,
        steps: int = 100,
        sample_weight: Any = None,
        class_weight: str | Mapping[int, float] | None = None,
        accumulate: int = 1,
    ) -> Rates:
        """Look for a learning rate: the loss of `steps` steps whose rate rises from `lowest` to `highest` by the same
        factor, on a copy of the net and the optimiser. Nothing here is changed.

            found = trainer.find_lr(X, y)
            print(found)
            found.plot("rates.png")
            trainer.optimizer.lr = found.suggestion

        The rest is as in `fit`. It ends early where the loss is four times its lowest, or no longer finite. Groups of
        the optimiser with a rate of their own keep it. The suggestion is for a number, or a schedule's highest rate.
        """
        low, high = (
            optim.schedules.number("find_lr", "lowest", lowest),
            optim.schedules.number("find_lr", "highest", highest),
        )
        if not 0 < low < high:
            raise ValueError(f"find_lr: 0 < lowest < highest, got {lowest} and {highest}")
        count = _integer("find_lr", "steps", steps, 3)
        probe = Trainer(copy.deepcopy(self.net), copy.deepcopy(self.optimizer), self.loss, seed=self.seed)
        settings = self._settled(batch_size, None)
        probe._settings = settings = {
            **settings,
            "average": None,
            "accumulate": _integer("find_lr", "accumulate", accumulate, 1),
        }
        if class_weight is not None:
            settings["class_weight"] = class_weights(class_weight, y, self.loss)
        probe._augment = self._augmentation(augment)
        source = batches(
            "find_lr", X, y, settings["batch_size"], seed=self.seed, several=self._several, weight=sample_weight
        )
        found = Rates()
        parameters = probe.net.parameters()
        buffers = [(array, array.copy()) for array in _buffers(probe.net)]
        with (
            precisions.precision(self.precision or precisions.get_precision()),
            contextlib.suppress(FloatingPointError),
        ):
            for group in itertools.islice(_groups(probe, source, accumulate), count):
                rate = low * (high / low) ** (len(found.rates) / (count - 1))
                probe.optimizer.lr = rate
                if not found.add(rate, probe._step(group, parameters, buffers)):
                    break
        return found

    # --- evaluation

    def evaluate(
        self, X: Any, y: Any = None, batch_size: int | None = None, *, sample_weight: Any = None, metrics: Any = None
    ) -> Evaluation:
        """The loss and the accuracy on arrays (X, y), or on an iterable X of batches, in inference mode.

        The loss is that of all samples, whatever the batches: each counts with what its own mean divides by (samples,
        or their class weights; targets that the loss ignores count nowhere), and sums (reduction="sum") are added up.
        The accuracy is None where the targets are no class indices. batch_size: default as in training, or 128.
        sample_weight, metrics: see `fit`; the metrics are those of the run where none are given, and stand in the
        answer's `.metrics`. The weights are the net's own: see `restore_best`, `restore_average`.
        """
        size = self._settled(batch_size, None)["batch_size"]
        measures = self._metrics if metrics is None else resolve_metrics(metrics)
        with precisions.precision(self.precision or precisions.get_precision()):
            source = batches("evaluate", X, y, size, several=self._several, weight=sample_weight)
            return self._evaluate(source, measures)

    def _batches_of(self, owner: str, data: Any, batch_size: int) -> Batches | None:
        if data is None:
            return None
        if isinstance(data, tuple) and len(data) in (2, 3):
            x, y, *weight = data
            arrays = not isinstance(x, tuple) or (self._several[0] and len(x) == len(self.net.inputs) and are_arrays(y))
            if arrays:
                return batches(owner, x, y, batch_size, several=self._several, weight=weight[0] if weight else None)
        return batches(owner, data, None, batch_size)

    def _evaluate(
        self, source: Batches, metrics: tuple[Metric, ...] = (), prefetch: int = 0,
        ranks: distributed.Ranks | None = None,
    ) -> Evaluation:  # fmt: skip
        """ranks: they share the batches out."""
        sums, collected = _Sums(), Collected(metrics)
        inference = Context(training=False, keep=False)
        first, every = (0, 1) if ranks is None else (ranks.rank, ranks.size)
        with contextlib.closing(prepared(self.net, source, 0, first, prefetch, every=every)) as ready:
            for (x, y, *weight), _ in ready:
                with whole_call, blas_held, np.errstate(all="ignore"):
                    output = self.net.forward(x, inference)[0]
                    if samples_of(output):
                        sums.add(self.loss, *self.loss(output, y, *weight), output, y)
                        collected.add(self.loss, output, y)
        if ranks is not None:
            sums, *_ = sums.over(ranks)
            if metrics:
                self._gather_collected(collected)
        if not sums.samples:
            raise ValueError("evaluate: the data yielded no samples")
        return sums.result(self.loss, collected)

    # --- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that `resume` needs, atomically: whoever reads the file finds the old or the new one, whole.
        Of several ranks rank 0 does.

        Raises ValueError for a layer or an augmentation that is no data and has no registered name, and OSError.
        """
        self._write(path, automatic=False)

    def _write_checkpoint(self) -> None:
        if self.checkpoint is not None and not self._torn:
            self._write(self.checkpoint, automatic=True)

    def _write(self, path: str | os.PathLike[str], automatic: bool) -> None:
        if self.ranks is not None:
            self.ranks.announce(f"wrote {path}")
        if self.rank:
            return
        tensors = {f"net.{name}": getattr(layer, attribute) for name, layer, attribute in self.net.named_arrays()}
        tensors.update((f"optimizer.{slot}.{name}", array) for slot, name, array in self.optimizer._state())
        for part, named in (
            ("best", self.best_state), ("average", self._average), ("collected", self._collected.arrays()),
        ):  # fmt: skip
            tensors.update((f"{part}.{name}", array) for name, array in (named or {}).items())
        callbacks = [callback_data(callback) for callback in self._callbacks] or self._callback_states
        states = []
        for place, each in enumerate(callbacks):
            state, arrays = arrays_apart(each["callback"], each["state"])
            tensors.update((f"callbacks.{place}.{name}", array) for name, array in arrays.items())
            states.append({"callback": each["callback"], **state})
        losses: dict[str, Any] = {}
        for output, loss in self.loss.losses.items() if isinstance(self.loss, Losses) else [("", self.loss)]:
            if loss.function is not None:
                raise ValueError(
                    f"save: the loss {loss.name} has no name for a file; register it, loss = "
                    'fastconv.register("name", function), and give the Trainer that'
                )
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
            "callbacks": states,
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
        communicator: Any = None,
        sync_batch_norm: bool = False,
    ) -> Trainer:
        """The trainer that wrote the file: its net (`.net`), optimiser, history and position are rebuilt from it, and
        `fit` with the same data goes on to the bit (on the same machine, with the same versions and workspace limit; an
        iterable must yield the batches of an epoch as it did before).

        functions       {name: function} for what the file names and fastconv does not know: a pair (forward, backward)
                        is registered as an operation (see `fastconv.register`; it replaces one of that name), so is the
                        function of a composed loss; anything else is an augmentation
        follow_links    whether `path` may be a symbolic link, now and when it goes on being the checkpoint
        communicator, sync_batch_norm   see `Trainer`: any number of ranks goes on with the file, which each reads

        A file that was written as a checkpoint goes on being the checkpoint. Nothing in a file is ever run: the net is
        rebuilt from data, out of fastconv's own layers. Raises FormatError for any other file, and OSError.
        """
        communicator = distributed.ranks_of(communicator)  # what is raised below is told once
        functions = dict(functions or {})
        for name, function in functions.items():
            if isinstance(function, tuple) and (name not in OPS or name in FUNCTIONS):
                register(name, *function, replace=True)
        tensors, metadata = files.read(path, follow_links=follow_links)
        if metadata.get("format") != files.TRAINER or "trainer" not in metadata:
            raise FormatError(f"{path}: is no checkpoint that a fastconv Trainer wrote")
        data = files.parse_json(path, "the checkpoint", metadata["trainer"])
        with files.as_format_error(path, "the checkpoint cannot be resumed"):
            parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
            for full, tensor in tensors.items():
                part, _, name = full.partition(".")
                parts[part][name] = tensor
            net = files.net_from_data(path, data["net"], parts["net"])
            optimizer = _optimizer_from_data(data["optimizer"], parts["optimizer"], parts["net"])
            for name in _loss_names(data["loss"]):
                composed = functions.get(name)
                if (name not in OPS or name in FUNCTIONS) and composed is not None and not isinstance(composed, tuple):
                    register(name, functions.pop(name), replace=True)  # type: ignore[arg-type]
            loss, factors = _loss_from_data(data["loss"], parts["loss"])
            if type(data["automatic"]) is not bool:
                raise ValueError(f"automatic must be true or false, got {data['automatic']!r}")
            trainer = cls(
                net, optimizer, loss, loss_weights=factors, seed=data["seed"],
                checkpoint=path if data["automatic"] else None, checkpoint_every=data["checkpoint_every"],
                functions={name: function for name, function in functions.items() if callable(function)},
                precision=data.get("precision"), memory_limit=data.get("memory_limit"), communicator=communicator,
                sync_batch_norm=sync_batch_norm,
            )  # fmt: skip
            trainer.follow_links = follow_links
            trainer._restore(data, parts)
        return trainer

    def _restore(self, data: dict[str, Any], parts: dict[str, dict[str, np.ndarray]]) -> None:
        best = parts["best"]
        self._position = _numbers_from_data(_Position(), {"batches": data["position"]["step"], **data["position"]})
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
            settings = {**SETTINGS, **settings}
            if type(settings["drop_last"]) is not bool or settings.keys() != {
                *SETTINGS,
                "epochs",
                "data",
                "validation",
            }:
                raise ValueError("its settings are not those of a Trainer")
            _integer("settings", "accumulate", settings["accumulate"], 1)
            if settings["average"] is not None:
                _decay(settings["average"])
            if settings["class_weight"] is not None:
                need_factors(settings["class_weight"])
            if not isinstance(settings["metrics"], list):
                raise ValueError(f"metrics must be a list of names, got {settings['metrics']!r}")
        self._settings = settings
        self._need_position()
        self._restore_average(parts["average"])
        self._collected.restore(parts["collected"])
        self._callback_states = [callback_from_data(n, each, parts) for n, each in enumerate(data.get("callbacks", []))]
        if data["augment"] is not None:
            name = data["augment"].get("function")
            if name is not None and name not in self.functions:
                raise ValueError(f"its augmentation is a function called {name!r}: give functions={{{name!r}: …}}")
            self._augment = self.functions[name] if name is not None else augmentations.from_config(data["augment"])

    def _restore_average(self, average: dict[str, np.ndarray]) -> None:
        own = {name: getattr(layer, attribute) for name, layer, attribute in self.net.named_arrays(buffers=False)}
        for name, array in average.items():
            if (array.shape, array.dtype) != (own[name].shape, own[name].dtype):
                raise ValueError(f"the average of {name} does not fit the net")
        self._average = average or None

    def _need_position(self) -> None:
        """ValueError for a position that is none in the data that the settings describe."""
        position, settings = self._position, self._settings
        if bool(position.batch) != bool(self._sums.samples) or position.batch > position.batches:
            raise ValueError(f"its position, batch {position.batch} of step {position.step}, is not that of its sums")
        if settings is None:
            if position.step or position.epoch:
                raise ValueError(f"it has {position.step} steps behind it, but no settings")
            return
        data = settings["data"]
        steps = data["batches"] if "batches" in data else -(-data["samples"] // settings["batch_size"])
        if steps is not None and position.batch > steps:
            raise ValueError(f"its position is batch {position.batch} of an epoch of {steps}")


def _holds_nan(x: Any) -> bool:
    """Whether an input, or one of several, holds what is no number."""
    arrays = named_arrays("X", x).values()
    return any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays)


def _shared(ranks: distributed.Ranks, weights: list[float]) -> list[float]:
    """The sums over the ranks."""
    sums: list[float] = ranks.gather(weights, "the weights of the losses").sum(axis=0).tolist()
    return sums


def _groups(trainer: Trainer, source: Batches, accumulate: int) -> Iterator[Iterable[Any]]:
    """The batches of one epoch after another in groups."""
    for number in itertools.count():
        draws = trainer.seed, trainer._position.batches
        batches = prepared(trainer.net, source, number, 0, 0, trainer._augment, draws)
        empty = True
        for first in batches:
            empty = False
            yield itertools.chain([first], itertools.islice(batches, accumulate - 1))
        if empty:
            return


@dataclass
class _Learnt:
    """What came of the batches of a step so far."""

    sums: _Sums
    collected: Collected
    batches: int = 0
    gradients: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, gradients: dict[str, np.ndarray]) -> None:
        if not self.batches:
            self.gradients = gradients
        else:
            for name, gradient in gradients.items():
                self.gradients[name] += gradient
        self.batches += 1

    def mean_gradients(self, is_weighed: bool) -> dict[str, np.ndarray]:
        """The gradients, where they were added up times their batches' weights over the sum of these."""
        if is_weighed and self.sums.weight:
            for gradient in self.gradients.values():
                gradient /= self.sums.weight
        return self.gradients


def _decay(value: Any) -> float:
    decay = optim.schedules.number("fit", "average", value, 0, 1)
    if decay == 1:
        raise ValueError("fit: average must be below 1, got 1: with it the weights would count nothing")
    return decay


def _loss_names(data: dict[str, Any]) -> list[str]:
    """The names of a file's losses."""
    return [each["name"] for each in data["each"].values()] if "each" in data else [data["name"]]


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
