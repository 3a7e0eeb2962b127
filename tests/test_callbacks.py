"""Callbacks: when they are called, what they do, and that a run with them is resumed to the bit."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from test_training import HELD_OUT, X, Y, assert_same_run, linear_net, make_net, without_times

import fastconv as fc
from fastconv import Trainer, optim
from fastconv.callbacks import Callback, EarlyStopping, ReduceLROnPlateau, TensorBoard
from fastconv.training import checkpoint


def trainer_of(values, column="val_loss", lr=0.1):
    """A stand-in for a Trainer and the records of its epochs."""

    class Stub:
        validates, best_epoch, best_state, epoch, total_epochs = True, None, None, 0, 100
        net = linear_net()
        optimizer = optim.SGD(lr, groups=[{"match": "1.bias", "lr": 2 * lr}])

        def validated_state(self):
            return {**self.net.state_dict(), "1.bias": np.full(4, self.epoch, np.float32)}

    return Stub(), [{"epoch": n, column: value, "loss": 1.0} for n, value in enumerate(values, 1)]


def ended(callback, values, column="val_loss"):
    """The epoch in which the training was ended, and the trainer."""
    trainer, records = trainer_of(values, column)
    callback.on_fit_begin(trainer)
    for record in records:
        trainer.epoch = record["epoch"]
        if callback.on_epoch_end(trainer, record):
            callback.on_fit_end(trainer)
            return record["epoch"], trainer
    return None, trainer


# --- when ------------------------------------------------------------------------------------------------------------


class Diary(Callback):
    def __init__(self):
        self.lines = []

    def on_fit_begin(self, trainer):
        self.lines.append(f"begin of {trainer.total_epochs}")

    def on_step_end(self, trainer, record):
        assert set(record) == {"epoch", "step", "lr", "loss"}
        assert record["step"] == trainer.step and math.isfinite(record["loss"])
        self.lines.append(f"step {record['epoch']}.{record['step']}")

    def on_epoch_end(self, trainer, record):
        record["own"] = len(self.lines)
        self.lines.append(f"epoch {record['epoch']}")

    def on_fit_end(self, trainer):
        self.lines.append("end")

    def on_exception(self, trainer, error):
        self.lines.append(type(error).__name__)


def test_when_they_are_called():
    diary, heard = Diary(), []
    trainer = Trainer(linear_net(), optim.SGD(0.01))
    history = trainer.fit(X, Y, 2, 50, callbacks=[diary, lambda *args: heard.append(args)])
    assert diary.lines == [
        "begin of 2", "step 1.1", "step 1.2", "epoch 1", "step 2.3", "step 2.4", "epoch 2", "end",
    ]  # fmt: skip
    assert history["own"] == [3, 6]
    assert heard == [(trainer, record) for record in history]
    with pytest.raises(ValueError, match="began with batch_size"):
        trainer.fit(X, Y, 3, 7, callbacks=[diary])
    assert diary.lines[-1] == "end"

    def fails(trainer, record):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        trainer.fit(X, Y, 3, 50, callbacks=[diary, fails])
    assert diary.lines[-1] == "RuntimeError"
    with pytest.raises(TypeError, match=r"a callback must be a function or a fastconv.callbacks.Callback, got 'x'"):
        trainer.fit(X, Y, 4, 50, callbacks=["x"])
    assert len(trainer.fit(X, Y, 3, 50, callbacks=None)) == 3


# --- early stopping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "values", "epoch", "best"),
    [
        ({"patience": 2}, [3, 2, 2.5, 2, 1], 4, 2),
        ({"patience": 3}, [3, 2, 2.5, 2, 1], None, 5),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.6, 1], 3, 1),
        ({"patience": 1}, [math.nan, 1], 1, None),
        ({"patience": 2}, [math.nan, 1, math.inf, math.nan], 4, 2),
        ({"patience": 0}, [2, 1, 1], 3, 2),
    ],
)
def test_early_stopping(options, values, epoch, best):
    stopping = EarlyStopping("val_loss", **options)
    found, trainer = ended(stopping, values)
    assert (found, stopping.best_epoch, stopping.stopped_epoch) == (epoch, best, epoch)
    if epoch is not None and best is not None:
        assert (trainer.net[1].bias == best).all()


@pytest.mark.parametrize(("wrong", "message"), [
    (EarlyStopping(), r"callbacks must be a list, got .*; write callbacks=\[…\]"),
    ([EarlyStopping], r"must be an object, got the class EarlyStopping; write EarlyStopping\(…\)"),
    (["early"], "a callback must be a function or a fastconv.callbacks.Callback, got 'early'"),
])  # fmt: skip
def test_what_is_no_list_of_callbacks(wrong, message):
    trainer = fc.Trainer(fc.Sequential(fc.Linear(2, 2, rng=0)), fc.optim.SGD(0.1))
    with pytest.raises(TypeError, match=message):
        trainer.fit(np.zeros((4, 2), "f4"), np.arange(4) % 2, epochs=1, callbacks=wrong, progress=False)


def test_columns_know_their_direction():
    for column in ("val_accuracy", "val_f1", "top_3_accuracy", "r2", "val_roc_auc", "f1_macro", "recall_weighted"):
        assert EarlyStopping(column).mode == "max"
        assert ended(EarlyStopping(column, 1), [0.5, 0.6, 0.4, 0.9], column)[0] == 3
    for column in ("val_loss", "loss", "mse", "val_mean_absolute_error"):
        assert EarlyStopping(column).mode == "min"
    with pytest.raises(ValueError, match="did you mean 'val_accuracy'"):
        EarlyStopping("val_acuracy")
    with pytest.raises(
        ValueError, match="'shoe_size' is better high or low its name does not say; write mode='min' or"
    ):
        EarlyStopping("shoe_size")
    assert EarlyStopping("shoe_size", mode="max").mode == "max"


def test_unknown_columns_are_named():
    trainer = Trainer(linear_net(), optim.SGD(0.01))
    with pytest.raises(
        ValueError, match=r"no column 'val_accurcy'; .*, val_loss, val_accuracy, .* mean 'val_accuracy'"
    ):
        trainer.fit(X, Y, 2, validation_data=HELD_OUT, callbacks=[EarlyStopping("val_accurcy", mode="max")])
    with pytest.raises(ValueError, match="EarlyStopping: val_loss needs validation_data; without it there is 'loss'"):
        Trainer(linear_net(), optim.SGD(0.01)).fit(X, Y, 2, callbacks=[EarlyStopping()])
    with pytest.raises(ValueError, match="patience must be 0 or more"):
        EarlyStopping(patience=-1)
    with pytest.raises(ValueError, match="mode must be 'min' or 'max', got 'up'"):
        EarlyStopping(mode="up")


def test_the_best_weights_come_back(tmp_path):
    path = tmp_path / "file"
    states = []
    trainer = Trainer(make_net(), optim.SGD(0.3, momentum=0.9), checkpoint=path)
    stopping = EarlyStopping("val_loss", 2)
    remember = lambda trainer, record: states.append(trainer.net.state_dict())  # noqa: E731
    history = trainer.fit(X, Y, 40, 16, validation_data=HELD_OUT, callbacks=[remember, stopping])
    best = int(np.argmin(history["val_loss"]))
    assert 1 < len(history) < 40 and best == len(history) - 3
    resumed = Trainer.resume(path)
    for net in (trainer.net, resumed.net):
        for name, array in net.state_dict().items():
            np.testing.assert_array_equal(array, states[best][name])
    assert trainer.evaluate(*HELD_OUT).loss == min(history["val_loss"])
    again = EarlyStopping("val_loss", 2)
    assert len(resumed.fit(X, Y, validation_data=HELD_OUT, callbacks=[again])) == len(history)  # it was stopped
    assert again.best_epoch == best + 1
    assert len(resumed.fit(X, Y, 41, validation_data=HELD_OUT, callbacks=[again])) > len(history)


# --- the learning rate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_plateaus_as_pytorch_has_them(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    values = np.round(rng.random(60) + np.linspace(1, 0, 60), 2)
    column, mode = ("val_loss", "min") if seed % 2 else ("val_accuracy", "max")
    options = {"factor": 0.5, "patience": seed % 3, "threshold": 0.05, "threshold_mode": ("rel", "abs")[seed // 3],
               "cooldown": seed % 4, "min_lr": 1e-3}  # fmt: skip
    theirs = torch.optim.SGD([
        {"params": [torch.nn.Parameter(torch.zeros(1))]}, {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.2}
    ], lr=0.1)  # fmt: skip
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, mode, **options)
    ours = ReduceLROnPlateau(column, **options)
    trainer, records = trainer_of(values, column)
    ours.on_fit_begin(trainer)
    for at, record in enumerate(records):
        if at == 30:  # as if resumed
            state, ours = ours.state_dict(), ReduceLROnPlateau(column, **options)
            ours.load_state_dict(json.loads(json.dumps(state)))
        schedule.step(record[column])
        ours.on_epoch_end(trainer, record)
        expected = [group["lr"] for group in theirs.param_groups]
        found = [trainer.optimizer.options_of(name, 1)["lr"] for name in ("1.weight", "1.bias")]
        assert found == pytest.approx(expected, rel=1e-12)
    assert expected[0] < 0.01


def test_schedules_have_no_plateaus():
    trainer = Trainer(linear_net(), optim.SGD(optim.Cosine(0.1)))
    with pytest.raises(ValueError, match="SGD: lr is a schedule, Cosine"):
        trainer.fit(X, Y, 2, validation_data=HELD_OUT, callbacks=[ReduceLROnPlateau()])
    with pytest.raises(ValueError, match="factor must be between 0 and 1"):
        ReduceLROnPlateau(factor=1)


# --- resume ----------------------------------------------------------------------------------------------------------


class Averages(Callback):
    """Keeps a number and arrays, changed in every step."""

    def __init__(self):
        self.total, self.arrays, self.one = 0.0, {}, np.zeros(3)

    def on_step_end(self, trainer, record):
        self.total += record["loss"]
        self.one += record["loss"]
        self.arrays = {"a.b": np.full((2, 2), self.total), "c": np.arange(trainer.step)}

    def on_epoch_end(self, trainer, record):
        record["total"] = self.total + float(self.one.sum())

    def state_dict(self):
        return {"total": self.total, "arrays": self.arrays, "one": self.one}

    def load_state_dict(self, state):
        self.total, self.one = state["total"], state["one"].copy()
        self.arrays = dict(state["arrays"])
        assert not self.arrays or len(self.arrays["c"]) > 0


def run(path):
    """Everything that `fit` can be asked for, at once; begins at the checkpoint where there is one."""
    if path is not None and path.exists():
        trainer = Trainer.resume(path)
    else:
        trainer = Trainer(make_net(), optim.SGD(0.2, momentum=0.9), seed=3, checkpoint=path, checkpoint_every=1)
    callbacks = [
        ReduceLROnPlateau("val_loss", 0.5, 0), Averages(), EarlyStopping("val_f1", 2),
        EarlyStopping("loss", 9, restore_best=False),
    ]  # fmt: skip
    trainer.fit(
        X, Y, epochs=9, batch_size=8, validation_data=HELD_OUT, callbacks=callbacks, accumulate=3, average=0.8,
        sample_weight=np.linspace(0, 2, 90), class_weight="balanced", metrics=("f1", "top_3_accuracy"),
        augment=fc.augment.Noise(0.05),
    )  # fmt: skip
    return trainer, callbacks


def test_resumed_in_every_step_with_all_of_it(tmp_path):
    path = tmp_path / "checkpoint"
    copies = []
    with pytest.MonkeyPatch.context() as patch:
        write = checkpoint.write

        def write_and_keep(target, *arguments, **options):
            write(target, *arguments, **options)
            copies.append(path.read_bytes())

        patch.setattr(checkpoint, "write", write_and_keep)
        straight, callbacks = run(path)
    assert 3 <= straight.epoch < 9 and straight.step == 4 * straight.epoch
    assert len(set(straight.history["lr"])) > 1
    for copy in copies:
        path.write_bytes(copy)
        resumed, others = run(path)
        assert_same_run(resumed, straight)
        assert without_times(resumed.history) == without_times(straight.history)
        for name, array in straight.average_state.items():
            assert array.tobytes() == resumed.average_state[name].tobytes()
        for a, b in zip(callbacks, others, strict=True):
            ours, theirs = a.state_dict(), b.state_dict()
            assert repr(ours) == repr(theirs)
    assert_same_run(run(None)[0], straight)


def test_states_that_are_no_data_are_named(tmp_path):
    class Odd(Callback):
        def state_dict(self):
            return {"set": {1, 2}}

    trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=tmp_path / "file")
    with pytest.raises(ValueError, match=r"save: Odd.state_dict must hold data and arrays: .*set"):
        trainer.fit(X, Y, 1, callbacks=[Odd()])


def test_hostile_states(tmp_path):
    path = tmp_path / "file"
    trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=path)
    trainer.fit(X, Y, 2, validation_data=HELD_OUT, callbacks=[EarlyStopping()])
    tensors, metadata = checkpoint.read(path)
    for change in (
        lambda data: data["callbacks"][0]["arrays"].update(more=["x"]),
        lambda data: data["callbacks"].append(3),
        lambda data: data["callbacks"][0].pop("state"),
        lambda data: data["settings"].update(accumulate=0),
        lambda data: data["settings"].update(average="x"),
        lambda data: data["settings"].update(class_weight=[-1]),
        lambda data: data["position"].update(batches=-1),
    ):
        data = json.loads(metadata["trainer"])
        change(data)
        checkpoint.write(path, tensors, {**metadata, "trainer": json.dumps(data)})
        with pytest.raises(fc.FormatError, match="cannot be resumed"):
            Trainer.resume(path)
    data = json.loads(metadata["trainer"])
    data["callbacks"][0]["state"]["last_epoch"] = "x"
    checkpoint.write(path, tensors, {**metadata, "trainer": json.dumps(data)})
    with pytest.raises(ValueError, match="EarlyStopping: last_epoch must be int, got 'x'"):
        Trainer.resume(path).fit(X, Y, 3, validation_data=HELD_OUT, callbacks=[EarlyStopping()])


def test_files_from_before_there_were_callbacks(tmp_path):
    path = tmp_path / "file"
    whole = Trainer(linear_net(), optim.SGD(0.01))
    whole.fit(X, Y, 3)
    Trainer(linear_net(), optim.SGD(0.01), checkpoint=path).fit(X, Y, 3, callbacks=[lambda *_: True])
    tensors, metadata = checkpoint.read(path)
    data = json.loads(metadata["trainer"])
    for name in ("class_weight", "metrics", "accumulate", "average"):
        del data["settings"][name]
    del data["callbacks"], data["position"]["batches"]
    checkpoint.write(path, tensors, {**metadata, "trainer": json.dumps(data)})
    resumed = Trainer.resume(path)
    resumed.fit(X, Y)
    assert_same_run(resumed, whole)


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = Trainer(linear_net(), optim.SGD(0.01))
    history = trainer.fit(X, Y, 3, 30, validation_data=HELD_OUT, callbacks=[TensorBoard(tmp_path / "logs", every=2)])
    read = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert set(read.Tags()["scalars"]) == {
        "loss/training", "loss/validation", "accuracy/training", "accuracy/validation", "lr", "seconds", "step",
        "step/loss", "step/lr",
    }  # fmt: skip
    events = read.Scalars("accuracy/validation")
    assert [event.step for event in events] == [1, 2, 3]
    assert [event.value for event in events] == pytest.approx(history["val_accuracy"], rel=1e-6)
    assert [event.step for event in read.Scalars("step/loss")] == [2, 4, 6, 8]


def test_without_tensorboard():
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "import numpy as np, fastconv as fc\n"
        "trainer = fc.Trainer(fc.Linear(2, 2), fc.optim.SGD(0.1))\n"
        "try: trainer.fit(np.zeros((4, 2)), np.zeros(4, int), 1, callbacks=[fc.callbacks.TensorBoard('x')])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'TensorBoard needs its writer: pip install "fastconv[tensorboard]"\n'
