"""What tests/test_distributed.py has mpiexec run: a small training, by name, its losses and weights to a file."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import fastconv
from fastconv import augment, functional
from fastconv.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Dropout2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)

CLASSES = 3


def data(samples=67):
    rng = np.random.default_rng(5)
    return rng.standard_normal((samples, 2, 8, 8)), rng.integers(0, CLASSES, samples)


def plain():
    return Sequential(
        Conv2d(2, 4, 3, padding=1, rng=1), ReLU(), Dropout2d(0.2), MaxPool2d(2), Flatten(), Dropout(0.3),
        Linear(64, CLASSES, rng=2),
    )  # fmt: skip


def normed():
    body = Sequential(Conv2d(4, 4, 3, padding=1, bias=False, rng=3), BatchNorm2d(4))
    return Sequential(
        Conv2d(2, 4, 3, padding=1, rng=1), BatchNorm2d(4), ReLU(), Residual(body), ReLU(), MaxPool2d(2), Flatten(),
        Dropout(0.3), Linear(64, 8, rng=2), BatchNorm1d(8), ReLU(), Linear(8, CLASSES, rng=4),
    )  # fmt: skip


def shared():
    """A layer that is used twice, whose gradient is final with its first use only."""
    conv = Conv2d(4, 4, 3, padding=1, rng=3)
    return Sequential(
        Conv2d(2, 4, 3, padding=1, rng=1), ReLU(), conv, ReLU(), conv, Flatten(), Linear(256, CLASSES, rng=2)
    )


NETS = {"plain": plain, "normed": normed, "shared": shared}


def composed(output, y):
    return functional.cross_entropy(output, y) + 0.01 * np.square(output).mean()


def trainer_of(name, dtype="float64", checkpoint=None, communicator=None, loss="cross_entropy", **options):
    net = NETS[name]().astype(np.dtype(dtype))
    optimizer = fastconv.optim.SGD(0.05, momentum=0.9, nesterov=True)
    loss = composed if loss == "composed" else loss
    return fastconv.Trainer(
        net, optimizer, loss, seed=3, checkpoint=checkpoint, communicator=communicator, sync_batch_norm=True, **options
    )


def train(trainer, epochs, batch_size=16, samples=67, weigh=False, **options):
    X, y = data(samples)
    if weigh:
        options["sample_weight"] = np.linspace(0, 2, samples)
    if options.pop("move", False):
        options["augment"] = augment.Compose(augment.Shift(1), augment.Noise(0.1))
    if options.pop("mix", False):
        options["augment"] = augment.MixUp(0.4)
    validation = data(31) if options.pop("validate", True) else None
    trainer.fit(X, y, epochs=epochs, batch_size=batch_size, validation_data=validation, progress=False, **options)
    return trainer


def result(trainer):
    columns = [name for name in trainer.history[0] if name != "seconds"]
    return {
        "history": [[record[name] for name in columns] for record in trainer.history],
        "weights": {name: array.ravel().tolist() for name, array in trainer.net.state_dict().items()},
    }


def killed_at(rank, step, seconds):
    """A callback that kills a rank during a step, as `kill -9` would."""

    def callback(trainer, record):
        if trainer.rank == rank and record["step"] == step:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

    return callback


class OnStep(fastconv.callbacks.Callback):
    def __init__(self, function):
        self.function = function

    def on_step_end(self, trainer, record):
        self.function(trainer, record)


def main(task, options, out):
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    options = json.loads(options)
    if task == "train":
        trainer = train(trainer_of(options.pop("net"), options.pop("dtype", "float64"), communicator=world,
                                   loss=options.pop("loss", "cross_entropy")), **options)  # fmt: skip
    elif task == "killed":
        moment = killed_at(options.pop("rank"), options.pop("step"), options.pop("seconds"))
        trainer = trainer_of("normed", checkpoint=options.pop("checkpoint"), communicator=world, checkpoint_every=3)
        train(trainer, callbacks=[OnStep(moment)], **options)
    elif task == "resume":
        trainer = fastconv.Trainer.resume(options.pop("checkpoint"), communicator=world, sync_batch_norm=True)
        train(trainer, **options)
    else:
        trainer = FAULTS[task](world, **options)
    if world.Get_rank() == 0 and trainer is not None:
        Path(out).write_text(json.dumps(result(trainer)))


# --- what goes wrong -------------------------------------------------------------------------------------------------


def other_data(world):
    trainer = trainer_of("plain", communicator=world)
    X, y = data()
    trainer.fit(X + world.Get_rank(), y, epochs=1, progress=False)


def other_net(world):
    train(trainer_of(["plain", "shared"][world.Get_rank() > 0], communicator=world), epochs=1)


def raises(world, everywhere=False, interrupt=False):
    def callback(trainer, record):
        if record["step"] == 3 and (everywhere or trainer.rank == 1):
            raise KeyboardInterrupt if interrupt else ZeroDivisionError("in a callback")

    train(trainer_of("plain", communicator=world), epochs=2, callbacks=[OnStep(callback)])


def stopped(world, checkpoint, after=None):
    """Rank 1 is interrupted while it is at step 3, with no `after` at the end of an epoch."""

    def callback(trainer, record):
        if trainer.rank == 1 and record.get("step") == (after or 5):
            trainer._interrupts.pending = True

    trainer = trainer_of("plain", checkpoint=checkpoint, communicator=world)
    stops = False
    try:
        train(trainer, epochs=2 if after else 1, callbacks=[OnStep(callback) if after else callback])
    except KeyboardInterrupt:
        stops = True
    assert stops
    return trainer.step


def leaves_early(world):
    if world.Get_rank():
        raise RuntimeError("before there is a Trainer")
    trainer_of("plain", communicator=world)


def drifts(world):
    def callback(trainer, record):
        if trainer.rank == 1 and record["step"] == 3:
            trainer.net.parameters()["6.bias"][1] += 1e-12

    train(trainer_of("plain", communicator=world), epochs=2, callbacks=[OnStep(callback)])


def nan(world):
    X, y = data()
    X[5] = np.nan  # which is one rank's at a time
    trainer = trainer_of("plain", communicator=world)
    try:
        trainer.fit(X, y, epochs=1, batch_size=64, progress=False)
    except FloatingPointError as error:
        if world.Get_rank() == 0:
            print(f"caught: {error}", flush=True)
    assert all(np.isfinite(array).all() for array in trainer.net.state_dict().values())


def hangs(world):
    def callback(trainer, record):
        if trainer.rank == 1 and record["step"] == 2:
            time.sleep(60)

    train(trainer_of("plain", communicator=world), epochs=1, callbacks=[OnStep(callback)])


FAULTS = {function.__name__: function for function in (other_data, other_net, raises, leaves_early, drifts, nan, hangs)}

if __name__ == "__main__":
    main(*sys.argv[1:])
