"""What is called while a Trainer trains: `fit(…, callbacks=[…])`.

    from fastconv.callbacks import EarlyStopping, ReduceLROnPlateau, TensorBoard

    trainer.fit(X, y, epochs=100, validation_data=held_out, callbacks=[
        ReduceLROnPlateau("val_loss", factor=0.5, patience=3),
        EarlyStopping("val_loss", patience=8),
        TensorBoard("logs"),
    ])

A callback is a `Callback`, or a function (trainer, record) that is called after every epoch and ends the training where
it returns True. They are called in their order. What a `Callback` must not forget it gives as data: the checkpoint
holds it, and a run that is resumed with the same callbacks goes on to the bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastconv.errors import integer, listing, nearest
from fastconv.optim.schedules import number

if TYPE_CHECKING:
    from fastconv.training.trainer import Trainer

__all__ = ["Callback", "EarlyStopping", "ReduceLROnPlateau", "TensorBoard"]

Record = dict[str, Any]

FALLS = ("loss", "error", "mse", "mae", "rmse", "perplexity", "seconds")
RISES = (
    "accuracy", "f1", "precision", "recall", "r2", "corrcoef", "kappa", "auc", "iou", "dice", "score", "macro", "micro",
    "weighted",
)  # fmt: skip


class Callback:
    """The base class: every method does nothing, overwrite what is needed.

    record   of an epoch: what goes into the history; numbers that are added to it are kept. Of a step: epoch, step, lr
             and loss
    """

    def on_fit_begin(self, trainer: Trainer) -> Any:
        """Training begins, or goes on; `trainer.total_epochs` are to be behind it at its end. True: not at all."""

    def on_step_end(self, trainer: Trainer, record: Record) -> Any:
        """The weights have changed."""

    def on_epoch_end(self, trainer: Trainer, record: Record) -> Any:
        """An epoch is over and was validated; True ends the training."""

    def on_fit_end(self, trainer: Trainer) -> Any:
        """Training has ended as it should; the last checkpoint is yet to be written."""

    def on_exception(self, trainer: Trainer, error: BaseException) -> Any:
        """Training has ended by an exception, Ctrl-C included, which is raised afterwards."""

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint keeps: data for JSON, arrays, and dicts of arrays."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Take over what `state_dict` gave."""


class _Monitor(Callback):
    """A callback that follows a column of the history. `mode`: "min" or "max", which way is better."""

    def __init__(self, monitor: str, patience: int, mode: str | None) -> None:
        name = type(self).__name__
        if not isinstance(monitor, str):
            raise TypeError(f"{name}: monitor must be the name of a column, got {monitor!r}")
        if mode not in (None, "min", "max"):
            raise ValueError(f"{name}: mode must be 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.patience = _count(name, "patience", patience)
        self.mode = mode or _direction(name, monitor)

    def on_fit_begin(self, trainer: Trainer) -> Any:
        if self.monitor in ("val_loss", "val_accuracy") and not trainer.validates:
            raise ValueError(
                f"{type(self).__name__}: {self.monitor} needs validation_data; without it there is "
                f"{self.monitor.removeprefix('val_')!r}"
            )

    def _value(self, record: Record) -> float:
        if self.monitor not in record:
            raise ValueError(
                f"{type(self).__name__}: the history has no column {self.monitor!r}; there are "
                f"{listing(record, 20)}{nearest(self.monitor, record)}"
            )
        return float(record[self.monitor])

    def _need(self, state: Mapping[str, Any], **kinds: type) -> list[Any]:
        """The entries of a state that are called so, proven to be of these types."""
        for name, kind in kinds.items():
            if type(state.get(name)) is not kind:
                raise ValueError(f"{type(self).__name__}: {name} must be {kind.__name__}, got {state.get(name)!r}")
        return [state[name] for name in kinds]


class EarlyStopping(_Monitor):
    """End the training when a column was not better than its best for `patience` epochs.

    monitor        a column of the history: "val_loss", "val_accuracy", a metric of one's own; "loss", "accuracy"
    patience       epochs
    restore_best   at the end of the training, early or not, the net has the weights of the best epoch (those that were
                   validated: with `fit(average=…)` the averaged ones). Training on begins there, with the optimiser's
                   memory of the last epoch
    min_delta      what is better by no more than this is not better
    mode           "min" or "max": which way is better; known for loss, accuracy and named metrics

    best, best_epoch, stopped_epoch (None: not stopped). What is not finite is never better. A run that was stopped is
    not trained on by `fit` with the same total. Raises ValueError for a column that is not there, and for one of which
    the better way is not known.
    """

    def __init__(
        self, monitor: str = "val_loss", patience: int = 10, restore_best: bool = True, *, min_delta: float = 0.0,
        mode: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(monitor, patience, mode)
        self.restore_best = bool(restore_best)
        self.min_delta = number("EarlyStopping", "min_delta", min_delta)
        self.best = math.nan
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._last_epoch = 0
        self._total_epochs: int | None = None  # where it was stopped
        self._weights: Mapping[str, Any] | None = None

    def on_fit_begin(self, trainer: Trainer) -> bool:
        super().on_fit_begin(trainer)
        if self._weights is not None:
            own = {name: array.shape for name, array in trainer.net.state_dict().items()}
            if own != {name: array.shape for name, array in self._weights.items()}:
                raise ValueError("EarlyStopping: the best weights that it has are those of another net")
        return self.stopped_epoch == trainer.epoch and self._total_epochs == trainer.total_epochs

    def on_epoch_end(self, trainer: Trainer, record: Record) -> bool:
        value = self._value(record)
        self._last_epoch = int(record["epoch"])
        sign = 1 if self.mode == "max" else -1
        better = self.best_epoch is None or sign * (value - self.best) > self.min_delta
        if better and math.isfinite(value):
            self.best, self.best_epoch = value, self._last_epoch
            if self.restore_best:
                own = trainer.best_epoch == self._last_epoch
                self._weights = trainer.best_state if own else trainer.validated_state()
            return False
        if self._last_epoch - (self.best_epoch or 0) < self.patience:
            return False
        self.stopped_epoch, self._total_epochs = self._last_epoch, trainer.total_epochs
        return True

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._weights is not None:
            trainer.net.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": None if self.best_epoch is None else self.best,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
            "total_epochs": self._total_epochs,
            "last_epoch": self._last_epoch,
            **({} if self._weights is None else {"weights": self._weights}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        (self._last_epoch,) = self._need(state, last_epoch=int)
        if state.get("best_epoch") is not None:
            self.best, self.best_epoch = self._need(state, best=float, best_epoch=int)
        if state.get("stopped_epoch") is not None:
            self.stopped_epoch, self._total_epochs = self._need(state, stopped_epoch=int, total_epochs=int)
        self._weights = state.get("weights")


class ReduceLROnPlateau(_Monitor):
    """Multiply the learning rate by `factor` when a column was not better for more than `patience` epochs.

    monitor        a column of the history (default "val_loss")
    threshold      what counts as better: by this part of the best value (threshold_mode "rel"), or by this ("abs")
    cooldown       epochs after a change in which none is counted
    min_lr         the rate does not fall below it
    eps            changes of no more than this are not made
    mode           see `EarlyStopping`

    The rule and the other arguments are those of torch.optim.lr_scheduler.ReduceLROnPlateau. All rates of the optimiser
    change, those of its groups too. Raises ValueError where a rate is a schedule, which says itself what it is.
    """

    def __init__(
        self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0, eps: float = 1e-8, *,
        mode: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(monitor, patience, mode)
        name = type(self).__name__
        self.factor = number(name, "factor", factor)
        if not 0 < self.factor < 1:
            raise ValueError(f"{name}: factor must be between 0 and 1, got {factor!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"{name}: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        self.threshold = number(name, "threshold", threshold)
        self.threshold_mode = threshold_mode
        self.cooldown = _count(name, "cooldown", cooldown)
        self.min_lr = number(name, "min_lr", min_lr)
        self.eps = number(name, "eps", eps)
        self.best = math.inf if self.mode == "min" else -math.inf
        self.bad_epochs = self.cooling = 0

    def on_fit_begin(self, trainer: Trainer) -> Any:
        super().on_fit_begin(trainer)
        trainer.optimizer.scale_lr(1.0)  # complains of schedules

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        value = self._value(record)
        if self._is_better(value):
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            trainer.optimizer.scale_lr(self.factor, self.min_lr, self.eps)
            self.cooling, self.bad_epochs = self.cooldown, 0

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        relative = self.threshold_mode == "rel"
        goal = self.best * (1 + sign * self.threshold) if relative else self.best + sign * self.threshold
        return sign * value > sign * goal

    def state_dict(self) -> dict[str, Any]:
        best = self.best if math.isfinite(self.best) else None
        return {"best": best, "bad_epochs": self.bad_epochs, "cooling": self.cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.bad_epochs, self.cooling = self._need(state, bad_epochs=int, cooling=int)
        if state.get("best") is not None:
            (self.best,) = self._need(state, best=float)


class TensorBoard(Callback):
    """Write every number of the history, and what the steps were, for TensorBoard: `tensorboard --logdir FOLDER`.

    folder   where event files are added: one for each call of `fit`
    every    write a step's loss and learning rate every so many steps (default: none)

    Of several ranks the first one writes. Needs TensorBoard's own writer: pip install "fastconv[tensorboard]".
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int | None = None) -> None:
        self.folder = os.fspath(folder)
        self.every = None if every is None else max(1, _count("TensorBoard", "every", every))
        self._writer: Any = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        if trainer.rank:
            return
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError('TensorBoard needs its writer: pip install "fastconv[tensorboard]"') from error
        self._writer = EventFileWriter(self.folder)

    def on_step_end(self, trainer: Trainer, record: Record) -> None:
        if self.every is not None and record["step"] % self.every == 0:
            self._add({f"step/{name}": record[name] for name in ("loss", "lr")}, record["step"])

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None:
        values = {}
        for name, value in record.items():
            if name != "epoch":
                part = "validation" if name.startswith("val_") else "training"
                values[f"{name.removeprefix('val_')}/{part}" if name not in ("step", "lr", "seconds") else name] = value
        self._add(values, record["epoch"])
        if self._writer is not None:
            self._writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self._close()

    def _add(self, values: Mapping[str, Any], step: int) -> None:
        if self._writer is None:
            return
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        entries = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=entries)))

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _direction(owner: str, monitor: str) -> str:
    """Which way a column is better, by the last word of its name that says it."""
    for word in reversed(monitor.lower().split("_")):
        if word in FALLS:
            return "min"
        if word in RISES:
            return "max"
    known = [prefix + word for prefix in ("", "val_") for word in (*FALLS, *RISES)]
    raise ValueError(
        f"{owner}: whether {monitor!r} is better high or low its name does not say; write mode='min' or 'max'"
        f"{nearest(monitor, known)}"
    )


def _count(owner: str, name: str, value: Any) -> int:
    count = integer(owner, name, value)
    if count < 0 or isinstance(value, bool):
        raise ValueError(f"{owner}: {name} must be 0 or more, got {value!r}")
    return count
