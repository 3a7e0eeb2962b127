"""The Trainer: that it learns, that a killed run is resumed to the bit, its data, history, errors and files."""

import functools
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv import Trainer, augment, optim
from fastconv.ops import registry
from fastconv.training import checkpoint
from fastconv.training import trainer as trainer_module
from fastconv.training.data import ArrayBatches, generator
from fastconv.training.history import History
from fastconv.training.mixing import Mixed
from fastconv.training.step import Loss

RNG = np.random.default_rng(0)
X = RNG.random((90, 1, 8, 8)).astype(np.float32)
Y = RNG.integers(0, 4, 90)
X += 0.5 * Y[:, None, None, None]  # something to learn
HELD_OUT = (X[:24] + 0.01, Y[:24])


def make_net(dropout=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return fc.Sequential(
        fc.Conv2d(1, 4, 3, rng=rng),
        fc.BatchNorm2d(4),
        fc.ReLU(),
        fc.MaxPool2d(2),
        fc.Flatten(),
        fc.Dropout(dropout),
        fc.Linear(36, 4, rng=rng),
    )


def linear_net():
    return fc.Sequential(fc.Flatten(), fc.Linear(64, 4, rng=0))


OPTIMIZERS = {
    "sgd": lambda: optim.SGD(
        optim.OneCycle(0.1), momentum=0.9, nesterov=True, weight_decay=1e-3, clip_norm=1.0,
        groups=[{"ndim": 1, "weight_decay": 0}],
    ),
    "adam": lambda: optim.AdamW(optim.Cosine(0.01, warmup=3), clip_norm=0.5),
}  # fmt: skip


def run(path, optimizer="sgd", **options):
    """The run that is killed, resumed and compared: from its checkpoint where there is one."""
    if path is not None and Path(path).exists():
        trainer = Trainer.resume(path)
    else:
        loss = functools.partial(
            fc.functional.cross_entropy, label_smoothing=0.1, weight=np.array([1, 2, 1, 1.0], "f4")
        )
        trainer = Trainer(make_net(), OPTIMIZERS[optimizer](), loss, seed=5, checkpoint=path, checkpoint_every=2)
        trainer.net.freeze("0.bias")
    aug = augment.Compose(augment.Shift(1), augment.Noise(0.05))
    trainer.fit(X, Y, epochs=3, batch_size=16, validation_data=HELD_OUT, augment=aug, **options)
    return trainer


def without_times(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


def assert_same_run(a, b):
    """Weights, buffers, the optimiser's memory, the best weights and the history: the same bits."""
    assert without_times(a.history) == without_times(b.history)
    assert (a.epoch, a.step, a.best_epoch) == (b.epoch, b.step, b.best_epoch)
    pairs = [(a.net.state_dict(), b.net.state_dict()), (a.best_state or {}, b.best_state or {})]
    ours, theirs = a.optimizer.state_dict(), b.optimizer.state_dict()
    for slot in a.optimizer.slots:
        pairs.append((ours.pop(slot), theirs.pop(slot)))
    assert ours == theirs
    for mine, other in pairs:
        assert mine.keys() == other.keys()
        for name, array in mine.items():
            assert array.tobytes() == other[name].tobytes(), name
    assert a.net.parameters().keys() == b.net.parameters().keys()


@pytest.fixture(scope="module")
def undisturbed():
    return {name: run(None, name) for name in OPTIMIZERS}


# --- exact resume ----------------------------------------------------------------------------------------------------


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def before_call(owner, name, number, action=kill):
    """Have the `number`-th call of owner.name begin with `action`."""
    original, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(original)
    def wrapped(*args, **kwargs):
        if next(calls) == number:
            action(*args)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def half_written(descriptor):
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    kill()


MOMENTS = {
    "before the first step": lambda: before_call(Trainer, "_step", 1),
    "in the first checkpoint": lambda: before_call(os, "fsync", 1, half_written),
    "forward": lambda: before_call(fc.layers.base.OpLayer, "forward", 60),
    "backward": lambda: before_call(fc.layers.base.OpLayer, "backward", 33),
    "half-way through an update": lambda: before_call(optim.SGD, "_entry", 43),
    "half-written checkpoint": lambda: before_call(os, "fsync", 13, half_written),
    "before the rename": lambda: before_call(os, "replace", 5),
    "validation": lambda: before_call(Trainer, "_evaluate", 2),
    "end of an epoch": lambda: before_call(Trainer, "_finish_epoch", 2),
    "after the last epoch": lambda: before_call(Trainer, "_finish_epoch", 3),
}


def child(moment, path):
    """What the subprocess does."""
    if moment in MOMENTS:
        MOMENTS[moment]()
    else:
        before_call(Trainer, "_step", 1, lambda *_: print("ready", flush=True))
    run(path)


def start_child(moment, path):
    code = "import sys, test_training; test_training.child(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, moment, str(path)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed(moment, tmp_path, undisturbed):
    path = tmp_path / "checkpoint"
    with start_child(moment, path) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert path.exists() == (moment != "in the first checkpoint")
    if path.exists() and moment != "before the first step":
        assert 0 < Trainer.resume(path).step <= 18
    trainer = run(path)
    assert_same_run(trainer, undisturbed["sgd"])
    assert list(tmp_path.iterdir()) == [path]
    assert_same_run(Trainer.resume(path), undisturbed["sgd"])


def test_killed_again_and_again(tmp_path, undisturbed):
    path = tmp_path / "checkpoint"
    for delay in (0.0, 0.01, 0.02):
        with start_child("some time", path) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
    assert_same_run(run(path), undisturbed["sgd"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_resumed_in_every_step(optimizer, threads, tmp_path, undisturbed):
    """Every checkpoint of a run, each resumed in this process; the number of threads does not show."""
    fc.set_num_threads(threads)
    path = tmp_path / "checkpoint"
    copies = []
    with pytest.MonkeyPatch.context() as patch:
        write = checkpoint.write

        def write_and_keep(target, *arguments, **options):
            write(target, *arguments, **options)
            copies.append(Path(target).read_bytes())

        patch.setattr(checkpoint, "write", write_and_keep)
        run(path, optimizer)
    assert len(copies) == 11
    for copy in copies:
        path.write_bytes(copy)
        trainer = Trainer.resume(path)
        assert isinstance(trainer.optimizer, type(OPTIMIZERS[optimizer]()))
        trainer.fit(X, Y, validation_data=HELD_OUT)  # the rest is in the file
        assert_same_run(trainer, undisturbed[optimizer])


def test_saved_between_two_calls_of_fit(tmp_path):
    straight = Trainer(make_net(), optim.Adam(0.01))
    straight.fit(X, Y, epochs=4, batch_size=32)
    halves = Trainer(make_net(), optim.Adam(0.01))
    halves.fit(X, Y, epochs=2, batch_size=32)
    halves.save(tmp_path / "file")
    again = Trainer.resume(tmp_path / "file")
    assert again.checkpoint is None
    assert again.fit(X, Y) is again.history  # it is complete
    assert again.step == 6
    again.fit(X, Y, epochs=4)
    assert_same_run(again, straight)
    assert_same_run(halves, Trainer.resume(tmp_path / "file"))
    halves.fit(X, Y, epochs=4)
    assert_same_run(halves, straight)


def mixing_run(path, **options):
    if path is not None and Path(path).exists():
        trainer = Trainer.resume(path)
    else:
        loss = functools.partial(fc.functional.cross_entropy, label_smoothing=0.1)
        trainer = Trainer(make_net(), optim.SGD(0.05), loss, seed=5, checkpoint=path, checkpoint_every=1)
    aug = augment.Compose(augment.Flip(), augment.OneOf(augment.MixUp(0.5), augment.CutMix()))
    trainer.fit(X, Y, epochs=3, batch_size=16, validation_data=HELD_OUT, augment=aug, **options)
    return trainer


def test_mixed_images_resume_to_the_same_bits(tmp_path):
    straight = mixing_run(None)
    path = tmp_path / "run"

    def stop(trainer, record):
        return trainer.epoch == 2

    mixing_run(path, callbacks=[stop])
    assert Trainer.resume(path).epoch == 2
    assert_same_run(mixing_run(path), straight)
    assert all(0 < record["accuracy"] <= 1 for record in straight.history)


def test_a_step_on_mixed_images_is_that_on_their_mixed_targets():
    """A step with MixUp is one on the mixed batch with the mixed probabilities as targets, computed by hand."""
    mix = augment.MixUp(0.7)
    trainer = Trainer(make_net(), optim.SGD(0.1), seed=3)
    x, y = X[:20], Y[:20]
    before = deepcopy(trainer.net)
    trainer.fit(x, y, epochs=1, batch_size=20, augment=mix)
    order = generator(3, 0, 0).permutation(20)
    rng = generator(3, 1, 0)
    mixed, targets = mix(x[order], rng, targets=np.eye(4, dtype=np.float32)[y[order]])
    loss, gradients = fc.value_and_grad(before, "cross_entropy", mixed, targets, rng=rng)
    assert trainer.history[0]["loss"] == pytest.approx(loss, rel=1e-6)
    for name, parameter in trainer.net.parameters().items():
        expected = before.parameters()[name] - 0.1 * gradients[name]
        np.testing.assert_allclose(parameter, expected, rtol=1e-4, atol=1e-6)


def test_mixed_targets():
    shares = np.array([[0.75, 0.25, 0], [0, 1, 0], [0.5, 0, 0.5]])
    mixed = Mixed(np.array([2, 0, 2]), shares)
    expected = [[0.25, 0, 0.75, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(mixed.mixed_for(np.zeros((3, 4), np.float32)), np.array(expected, np.float32))
    np.testing.assert_array_equal(mixed.labels, [2, 0, 2])
    floats = Mixed(np.arange(6.0).reshape(3, 2), shares)
    np.testing.assert_array_equal(floats.mixed_for(np.zeros((3, 2))), shares @ floats.targets)
    for targets, message in (([2, 0, 4], "classes from 0 to 3, got 0 to 4"), ([-100, 0, 1], "got -100 to 1")):
        with pytest.raises(ValueError, match=message):
            Mixed(np.array(targets), shares).mixed_for(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"class indices \(N,\) for an output \(N, C\), or floats; got int64 \(3, 2\)"):
        Mixed(np.zeros((3, 2), int), shares).mixed_for(np.zeros((3, 4, 2)))
    net = fc.Sequential(fc.Flatten(), fc.Linear(X[0].size, 2, rng=0))
    trainer = Trainer(net, optim.SGD(0.01), "mse_loss")  # floats are mixed as they are
    trainer.fit(X, np.eye(2, dtype=np.float32)[Y % 2], epochs=1, batch_size=16, augment=augment.CutMix())
    assert "accuracy" not in trainer.history[0]


def test_float64_and_streams_resume(tmp_path):
    path = tmp_path / "checkpoint"
    calls = []

    def source(epoch):
        calls.append(epoch)
        order = np.random.default_rng(epoch).permutation(80)
        return ((X[part], Y[part]) for part in order.reshape(5, 16))

    def fresh(target):
        net = make_net().astype(np.float64)
        return Trainer(net, optim.SGD(optim.Cosine(0.1), momentum=0.5), checkpoint=target, checkpoint_every=3)

    straight = fresh(None)
    straight.fit(source, epochs=3, steps_per_epoch=5)
    stopped = fresh(path)
    before_step = Trainer._step

    def stop(self, *arguments):
        if self.step == 8:
            raise RuntimeError("the power is gone")
        before_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="the power is gone"):
        patch.setattr(Trainer, "_step", stop)
        stopped.fit(source, epochs=3, steps_per_epoch=5)
    calls.clear()
    resumed = Trainer.resume(path)
    assert resumed.net.dtype == np.float64 and resumed.step == 6
    resumed.fit(source)
    assert calls == [1, 2]
    assert_same_run(resumed, straight)


def test_resume_with_something_else_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=path)
    trainer.fit(X, Y, epochs=3, batch_size=20, validation_data=HELD_OUT, callbacks=[lambda *_: True])
    assert trainer.epoch == 1
    interrupted = path.read_bytes()
    other_values = X.copy()
    other_values[0, 0, 0, 0] += 1
    for message, arguments, options in (
        ("began with data .*'samples': 90.*, now it is .*'samples': 80", (X[:80], Y[:80]), {}),
        (r"'shape': \[1, 8, 8\].*'shape': \[1, 8, 7\]", (X[..., 1:], Y), {}),
        ("'dtype': 'float32'.*'dtype': 'float64'", (X.astype(float), Y), {}),
        ("'checksum': ", (other_values, Y), {}),
        ("'checksum': ", (X, Y[::-1]), {}),
        ("began with data .*, now it is {'batches': 1}", ([(X, Y)],), {}),
        ("began with batch_size 20, now it is 30", (X, Y), {"batch_size": 30}),
        ("began with drop_last False, now it is True", (X, Y), {"drop_last": True}),
        ("interrupted with validation_data .*, now it is None", (X, Y), {"validation_data": None}),
        ("interrupted with augment None, now it is Shift", (X, Y), {"augment": augment.Shift(1)}),
    ):
        path.write_bytes(interrupted)
        resumed = Trainer.resume(path)
        with pytest.raises(ValueError, match=message) as caught:
            resumed.fit(*arguments, **{"validation_data": HELD_OUT, **options})
        assert "\n" not in str(caught.value)
        assert len(resumed.fit(X, Y, validation_data=HELD_OUT)) == 3  # the right ones still work


# --- learning, evaluating --------------------------------------------------------------------------------------------


def test_learns_digits():
    (train, labels), (test, answers) = fc.datasets.load_digits()
    rng = np.random.default_rng(1)
    net = fc.Sequential(
        fc.Conv2d(1, 8, 3, padding=1, rng=rng), fc.ReLU(), fc.MaxPool2d(2), fc.Flatten(), fc.Linear(128, 10, rng=rng)
    )
    trainer = Trainer(net, optim.Adam(optim.OneCycle(0.02)))
    history = trainer.fit(train, labels, epochs=5, batch_size=32, validation_data=(test, answers))
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5]
    assert history[-1]["accuracy"] > 0.97 and history[-1]["val_accuracy"] > 0.9
    assert history["loss"] == sorted(history["loss"], reverse=True)
    result = trainer.evaluate(test, answers)
    assert result == (history[-1]["val_loss"], history[-1]["val_accuracy"])
    right = net.predict(test).argmax(axis=1) == answers
    assert result.accuracy == right.mean()
    torch_like = fc.functional.cross_entropy(net.predict(test).astype(float), answers)
    assert result.loss == pytest.approx(float(torch_like), rel=1e-6)


def test_a_step_is_value_and_grad_and_the_optimiser():
    by_hand, net = make_net(dropout=0), make_net(dropout=0)
    Trainer(net, optim.SGD(0.1, 0.9)).fit([(X[:30], Y[:30]), (X[30:], Y[30:])], epochs=2)
    optimizer = optim.SGD(0.1, 0.9)
    for _ in range(2):
        for part in (slice(30), slice(30, None)):
            _, gradients = fc.value_and_grad(by_hand, "cross_entropy", X[part], Y[part])
            optimizer.step(by_hand.parameters(), gradients)
    for name, array in by_hand.state_dict().items():
        np.testing.assert_array_equal(array, net.state_dict()[name])


def test_regression_has_no_accuracy():
    trainer = Trainer(fc.Sequential(fc.Flatten(), fc.Linear(64, 1, rng=0)), optim.Adam(0.01), "mse_loss")
    targets = X.mean(axis=(2, 3)).astype(np.float64)  # cast to the net's type
    history = trainer.fit(X, targets, epochs=20, batch_size=30, validation_data=(X, targets))
    assert set(history.columns()) == {"epoch", "step", "lr", "loss", "val_loss", "seconds"}
    assert history[-1]["loss"] < history[0]["loss"] / 3
    assert trainer.evaluate(X, targets).accuracy is None


def test_frozen_parameters_stay():
    net = make_net()
    before = net.state_dict()
    net.freeze("0").freeze("6.bias")
    Trainer(net, optim.SGD(0.1, momentum=0.9, weight_decay=0.1)).fit(X, Y, epochs=1)
    after = net.state_dict()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"1.weight", "1.bias", "6.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    with pytest.raises(ValueError, match="fit: the net has no trainable parameters"):
        Trainer(net.freeze(), optim.SGD(0.1)).fit(X, Y, epochs=1)


PUT_ASIDE = {
    "frozen": lambda net: net.freeze("1"),
    "in inference": lambda net: net[1].eval(),
    "frozen in a net in inference": lambda net: net.eval().freeze("1"),
    "dropout in inference": lambda net: net[5].eval(),
}


@pytest.mark.parametrize("way", PUT_ASIDE)
def test_parts_put_aside(way, tmp_path):
    """As a loop of one's own with value_and_grad; killed in every step and resumed, the same bits."""
    path = tmp_path / "checkpoint"
    aside = way != "dropout in inference"

    def fresh(**options):
        net = make_net(dropout=0 if aside else 0.5)
        net[1].running_mean[...] = 0.3
        PUT_ASIDE[way](net)
        return Trainer(net, optim.SGD(0.1, 0.9), checkpoint_every=1, **options)

    copies = []
    with pytest.MonkeyPatch.context() as patch:
        write = checkpoint.write

        def write_and_keep(target, *arguments, **options):
            write(target, *arguments, **options)
            copies.append(Path(target).read_bytes())

        patch.setattr(checkpoint, "write", write_and_keep)
        trainer = fresh(checkpoint=path)
        before = trainer.net.state_dict()
        parts = [(X[:30], Y[:30]), (X[30:], Y[30:])]
        trainer.fit(parts, epochs=2, validation_data=parts)
    after = trainer.net.state_dict()
    assert np.array_equal(after["1.running_mean"], before["1.running_mean"]) == aside
    assert (after["1.num_batches_tracked"] == 0) == aside
    by_hand, optimizer = fresh().net, optim.SGD(0.1, 0.9)
    for _ in range(2):
        for x, y in parts:
            optimizer.step(by_hand.parameters(), fc.value_and_grad(by_hand, "cross_entropy", x, y)[1])
    for name, array in by_hand.state_dict().items():
        np.testing.assert_array_equal(array, after[name])
    for copy in copies:
        path.write_bytes(copy)
        resumed = Trainer.resume(path)
        resumed.fit(parts, validation_data=parts)
        assert_same_run(resumed, trainer)


def test_groups_must_fit_the_net():
    groups = [{"match": "0.*", "lr": 0.01}, {"match": "6.*"}]
    net = make_net().freeze("0")
    Trainer(net, optim.SGD(0.1, groups=groups)).fit(X, Y, epochs=1)  # a frozen part's group has parameters too
    for group in ({"match": "head.*"}, {"ndim": 3}, {"match": "6.weight", "ndim": 1}):
        trainer = Trainer(make_net(), optim.SGD(0.1, groups=[*groups, group]))
        with pytest.raises(ValueError, match=r"SGD: group 2 \(.*\) fits no parameter; there are 0.weight, 0.bias, 1.w"):
            trainer.fit(X, Y, epochs=1)
        assert trainer.step == 0


def test_evaluating_changes_nothing():
    trainer = Trainer(make_net(), optim.SGD(0.1))
    before = trainer.net.state_dict()
    assert trainer.evaluate(X, Y) == trainer.evaluate(X, Y)
    for name, array in trainer.net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    parts = [(X[:50], Y[:50]), (X[50:], Y[50:])]
    assert trainer.evaluate(iter(parts)).loss == pytest.approx(trainer.evaluate(X, Y).loss, rel=1e-6)
    assert trainer.evaluate(X, Y, batch_size=7).accuracy == trainer.evaluate(X, Y).accuracy
    with pytest.raises(ValueError, match="evaluate: the data yielded no samples"):
        trainer.evaluate([])
    each = functools.partial(fc.functional.cross_entropy, reduction="none")
    with pytest.raises(ValueError, match=r"cross_entropy: a loss must be one number, got shape \(90,\)"):
        Trainer(trainer.net, optim.SGD(0.1), each).evaluate(X, Y)


def test_best_weights():
    net = linear_net()
    trainer = Trainer(net, optim.SGD(0.05))
    with pytest.raises(ValueError, match="no epoch was validated yet"):
        trainer.restore_best()
    states = []

    def worse_after_two(trainer, record):
        states.append(trainer.net.state_dict())
        if record["epoch"] == 2:
            trainer.optimizer.lr = 5.0

    history = trainer.fit(X, Y, epochs=5, validation_data=HELD_OUT, callbacks=[worse_after_two])
    scores = [(record["val_accuracy"], -record["val_loss"]) for record in history]
    assert trainer.best_epoch == 1 + scores.index(max(scores)) < 5
    trainer.restore_best()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, states[trainer.best_epoch - 1][name])
    assert trainer.evaluate(*HELD_OUT) == (-max(scores)[1], max(scores)[0])


def test_restore_best_where_every_loss_was_nan(tmp_path):
    wrong = X.copy()
    wrong[3, 0, 0, 0] = np.nan
    trainer = Trainer(linear_net(), optim.SGD(0.05))
    trainer.fit(X, Y, epochs=1)
    with pytest.raises(ValueError, match=r"no epoch was validated yet; write fit\(…, validation_data=\(X, y\)\)"):
        trainer.restore_best()
    trainer.fit(X, Y, epochs=2, validation_data=(wrong, Y))
    assert trainer.best_epoch is None
    trainer.save(tmp_path / "file")
    for each in (trainer, Trainer.resume(tmp_path / "file")):
        with pytest.raises(
            ValueError, match="restore_best: val_loss was nan in every epoch; try a lower learning rate"
        ):
            each.restore_best()
    trainer.fit(X, Y, epochs=3, validation_data=HELD_OUT)
    best = trainer.net.state_dict()
    trainer.fit(X, Y, epochs=4, validation_data=(wrong, Y))
    assert trainer.best_epoch == 3
    trainer.optimizer.lr = 1e38
    with pytest.raises(FloatingPointError):
        trainer.fit(X, Y, epochs=9, validation_data=HELD_OUT)
    trainer.restore_best()
    np.testing.assert_array_equal(trainer.net.state_dict()["1.weight"], best["1.weight"])


# --- what counts -----------------------------------------------------------------------------------------------------

COUNTED = np.random.default_rng(4).standard_normal((90, 4, 3, 2)).astype(np.float32)  # (N, C, H, W): outputs
PLACES = np.random.default_rng(5).integers(0, 4, (90, 3, 2))
PLACES[np.random.default_rng(6).random(PLACES.shape) < 0.3] = -100
PLACES[20:30] = -100
HALVES = np.where(PLACES == -100, 3, PLACES)
WEIGHTS = [0.5, 2.0, 1.0, 0.25]
LOSSES = {  # a loss, outputs, targets, which targets count for accuracy
    "cross_entropy": ("cross_entropy", {}, COUNTED[..., 0, 0], Y),
    "weights": ("cross_entropy", {"weight": WEIGHTS}, COUNTED[..., 0, 0], Y),
    "float64 weights": ("cross_entropy", {"weight": np.array(WEIGHTS)}, COUNTED[..., 0, 0], Y),
    "smooth": ("cross_entropy", {"weight": WEIGHTS, "label_smoothing": 0.1}, COUNTED[..., 0, 0], Y),
    "ignored": ("cross_entropy", {}, COUNTED, PLACES),
    "ignored by another number": ("cross_entropy", {"ignore_index": np.int64(3), "weight": WEIGHTS}, COUNTED, HALVES),
    "ignored and smooth": ("cross_entropy", {"label_smoothing": 0.2, "weight": WEIGHTS}, COUNTED, PLACES),
    "nll": ("nll_loss", {"weight": WEIGHTS}, COUNTED, PLACES),
    "probabilities": ("cross_entropy", {"weight": WEIGHTS}, COUNTED[..., 0], np.abs(COUNTED[..., 1]).astype(float)),
    "sum": ("cross_entropy", {"reduction": "sum", "weight": WEIGHTS}, COUNTED, PLACES),
    "mse": ("mse_loss", {}, COUNTED, COUNTED[::-1].astype(np.float64)),
    "l1 sum": ("l1_loss", {"reduction": "sum"}, COUNTED, COUNTED[::-1]),
    "bce": ("bce_with_logits", {"pos_weight": np.array(WEIGHTS).reshape(4, 1, 1)}, COUNTED, np.abs(COUNTED) % 1),
}


def identity_net():
    """What gives the outputs themselves, and can be trained."""
    return fc.Sequential(fc.PReLU(init=1.0), fc.Dropout(0.0))


def expected_accuracy(output, target, ignored):
    counts = target != ignored
    return float((output.argmax(axis=1) == target)[counts].mean())


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_accuracy_at_any_batch_size(name):
    """Those of all samples at once, of evaluate, in the history and in validation."""
    kind, options, output, target = LOSSES[name]
    loss = functools.partial(getattr(fc.functional, kind), **options)
    arrays = {key: np.asarray(value, float) if key.endswith("weight") else value for key, value in options.items()}
    as_floats = target.astype(float) if target.dtype.kind == "f" else target
    at_once = float(getattr(fc.functional, kind)(output.astype(float), as_floats, **arrays))
    accuracy = None
    if target.dtype.kind == "i":
        accuracy = expected_accuracy(output, target, options.get("ignore_index", -100))
    for size in (90, 10, 7, 1):
        trainer = Trainer(identity_net(), optim.SGD(0.0), loss)
        with np.errstate(all="raise"):
            found = trainer.evaluate(output, target, batch_size=size)
        assert found.loss == pytest.approx(at_once, rel=2e-6) and found.accuracy == accuracy
        if size > 1:
            history = trainer.fit(output, target, epochs=1, batch_size=size, validation_data=(output, target))
            assert history[0]["val_loss"] == found.loss and history[0].get("val_accuracy") == accuracy
            if 90 % size != 1:
                assert history[0]["loss"] == pytest.approx(at_once, rel=2e-6)
                assert history[0].get("accuracy") == accuracy


def test_class_weights_equal_torchs():
    """Batches of equal weight gave another loss at every batch size."""
    rng = np.random.default_rng(0)
    output, target = rng.standard_normal((30, 3)).astype(np.float32), rng.integers(0, 3, 30)
    weight = np.array([10.0, 1.0, 0.1])
    loss = functools.partial(fc.functional.cross_entropy, weight=weight)
    net = fc.Sequential(fc.PReLU(init=1.0))
    found = {
        round(Trainer(net, optim.SGD(0.1), loss).evaluate(output, target, size).loss, 5) for size in (30, 10, 3, 1)
    }
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(output), torch.tensor(target), torch.tensor(weight).float()
    )
    assert found == {round(float(expected), 5)}


@pytest.mark.parametrize("optimizer", [lambda: optim.SGD(0.1, 0.9, weight_decay=0.1), lambda: optim.Adam(0.01)])
def test_a_batch_whose_targets_are_all_ignored(optimizer, tmp_path):
    """Its loss is nan, as torch's, and its gradient 0: a step as in a loop of one's own; it counts for nothing."""
    parts = [(X[at : at + 30], Y[at : at + 30].copy()) for at in (0, 30, 60)]
    parts[1][1][:] = -100
    path = tmp_path / "checkpoint"
    net, by_hand = make_net(dropout=0), make_net(dropout=0)
    trainer = Trainer(net, optimizer(), checkpoint=path, checkpoint_every=1)
    history = trainer.fit(parts, epochs=2)
    own, losses = optimizer(), []
    for _ in range(2):
        for x, y in parts:
            value, gradients = fc.value_and_grad(by_hand, "cross_entropy", x, y)
            own.step(by_hand.parameters(), gradients)
            losses.append(value)
    assert math.isnan(losses[1]) and math.isnan(losses[4])
    for name, array in by_hand.state_dict().items():
        np.testing.assert_array_equal(array, net.state_dict()[name])
    assert history["loss"] == pytest.approx([np.mean([losses[0], losses[2]]), np.mean([losses[3], losses[5]])])
    assert trainer.step == trainer.optimizer.steps == 6
    stopped = Trainer(make_net(dropout=0), optimizer(), checkpoint=path, checkpoint_every=1)
    before_step = Trainer._step

    def stop(self, *arguments):
        if self.step == 2:
            raise RuntimeError("the power is gone")
        before_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="the power is gone"):
        patch.setattr(Trainer, "_step", stop)
        stopped.fit(parts, epochs=2)
    resumed = Trainer.resume(path)
    resumed.fit(parts)
    assert_same_run(resumed, trainer)


def test_batches_without_weight():
    """Nothing counts at all; classes without weight, whose gradient is nan; sums."""
    nothing = np.full(90, -100)
    trainer = Trainer(linear_net(), optim.SGD(0.1))
    before = trainer.net.state_dict()
    record = trainer.fit(X, nothing, epochs=1, validation_data=(X, nothing))[0]
    assert math.isnan(record["loss"]) and math.isnan(record["val_loss"]) and "accuracy" not in record
    assert trainer.best_epoch is None
    evaluated = trainer.evaluate(X, nothing)
    assert math.isnan(evaluated.loss) and evaluated.accuracy is None
    for options in ({"weight": [0.0, 1.0, 1.0, 1.0]}, {"weight": [0.0, 1.0, 1.0, 1.0], "reduction": "sum"}):
        loss = functools.partial(fc.functional.cross_entropy, **options)
        net = linear_net()
        Trainer(net, optim.SGD(0.1), loss).fit([(X, np.zeros(90, int))], epochs=1)
        np.testing.assert_array_equal(net.state_dict()["1.weight"], before["1.weight"])
    poisoned = X.copy()
    poisoned[0, 0, 0, 0] = np.inf  # the gradient is 0 * inf
    with pytest.raises(FloatingPointError, match="fit: the gradient's norm is nan in step 1"):
        Trainer(linear_net(), optim.SGD(0.1)).fit(poisoned, nothing, epochs=1)


def test_accuracy_without_ignored_targets():
    target = np.where(np.arange(90) < 45, Y, -100)
    trainer = Trainer(linear_net(), optim.SGD(0.05))
    trainer.fit(X, target, epochs=4, validation_data=(X, target))
    accuracies = trainer.history["val_accuracy"]
    assert trainer.evaluate(X[:45], Y[:45]).accuracy == accuracies[-1] > 0
    assert trainer.evaluate(X, target).accuracy == accuracies[-1]
    own = fc.ops.OPS["cross_entropy"]
    if "own_entropy" not in fc.ops.OPS:
        fc.register("own_entropy", own.forward, lambda dy, saved: own.backward(dy, saved, (True, False)))
    loss = functools.partial(fc.functional.own_entropy, ignore_index=2)  # of a loss of one's own, by the same name
    kept = target != 2
    found = Trainer(trainer.net, optim.SGD(0.1), loss).evaluate(X[:45], Y[:45], batch_size=45)
    right = trainer.net.predict(X[:45]).argmax(axis=1) == Y[:45]
    assert found.accuracy == right[kept[:45]].mean()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options_and_targets_follow_the_net(dtype, tmp_path):
    path = tmp_path / "file"
    results = []
    for weight in (np.array(WEIGHTS), np.array(WEIGHTS, np.float32), WEIGHTS, tuple(WEIGHTS)):
        loss = functools.partial(fc.functional.cross_entropy, weight=weight, label_smoothing=np.float64(0.1))
        trainer = Trainer(linear_net().astype(dtype), optim.SGD(0.01), loss)
        trainer.fit(X, Y, epochs=1)
        results.append((fc.value_and_grad(trainer.net, loss, X, Y)[0], trainer.evaluate(X, Y)))
        trainer.save(path)
        again = Trainer.resume(path)
        again.fit(X, Y, epochs=2)
        trainer.fit(X, Y, epochs=2)
        assert_same_run(again, trainer)
    assert all(result == results[0] for result in results)
    for target in (np.zeros((90, 4)), np.zeros((90, 4), np.float32), np.zeros((90, 4)).tolist()):
        assert fc.value_and_grad(trainer.net, "mse_loss", X, target)[0] > 0


@pytest.mark.parametrize(
    ("target", "error", "write"),
    [
        (Y.reshape(-1, 1), ValueError, r"target.ravel\(\)$"),
        (Y.reshape(-1, 1).astype(float), ValueError, r"target.ravel\(\).astype\(int\)$"),
        (Y.astype(float), TypeError, r"target.astype\(int\)$"),
        (Y.astype(bool), TypeError, r"target.astype\(int\)$"),
        (Y.astype(str), TypeError, r"numpy.unique\(target, return_inverse=True\)\[1\]$"),
    ],
)
def test_labels_in_another_form(target, error, write):
    with pytest.raises(error, match=f"^cross_entropy: .*; write {write}"):
        Trainer(linear_net(), optim.SGD(0.1)).fit(X, target, epochs=1)


def test_schedule_spans_the_run():
    rates = []

    class Watch(optim.SGD):
        def step(self, *arguments, **options):
            rates.append(self.learning_rate())
            super().step(*arguments, **options)

    trainer = Trainer(linear_net(), Watch(optim.Linear(1e-3)))
    history = trainer.fit(X, Y, epochs=2, batch_size=30)
    np.testing.assert_allclose(rates, 1e-3 * (1 - np.arange(6) / 6))
    assert history["lr"] == [rates[2], rates[5]]
    trainer.fit(X, Y, epochs=4)  # as if twelve steps had been planned
    np.testing.assert_allclose(rates[6:], 1e-3 * (1 - np.arange(6, 12) / 12))
    trainer = Trainer(linear_net(), optim.SGD(optim.Cosine(0.1)))
    with pytest.raises(ValueError, match="Cosine: the total number of steps is not known"):
        trainer.fit(lambda: iter([(X, Y)]), epochs=2)
    trainer.fit(lambda: iter([(X, Y)]), epochs=2, steps_per_epoch=1)


# --- data ------------------------------------------------------------------------------------------------------------


def orders(samples, batch_size, epoch, seed=0, drop_last=False):
    source = ArrayBatches("fit", np.arange(samples), np.arange(samples), batch_size, seed, drop_last)
    return [x for x, _ in source.epoch(epoch)]


def test_shuffling():
    first = orders(10, 4, 0)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(np.concatenate(first)) == list(range(10))
    assert not np.array_equal(np.concatenate(first), np.arange(10))
    for other in (orders(10, 4, 1), orders(10, 4, 0, seed=1)):
        assert not np.array_equal(np.concatenate(first), np.concatenate(other))
    source = ArrayBatches("fit", np.arange(10), np.arange(10), 4, 0, False)
    np.testing.assert_array_equal(next(iter(source.epoch(0, start=2)))[0], first[2])
    assert [len(batch) for batch in orders(10, 4, 0, drop_last=True)] == [4, 4]
    assert [len(batch) for batch in orders(9, 4, 0)] == [4, 4]  # no last batch of one sample …
    assert [len(batch) for batch in orders(3, 1, 0)] == [1, 1, 1]  # … unless that is what was asked for
    assert [len(batch) for batch in orders(1, 4, 0)] == [1]
    assert [len(batch) for batch in orders(3, 4, 0, drop_last=True)] == [3]
    assert [len(batch) for batch in orders(9, 4, 0, seed=None)] == [4, 4, 1]


def test_a_last_batch_of_one_sample():
    net = fc.Sequential(fc.Flatten(), fc.Linear(64, 4, rng=0), fc.BatchNorm1d(4))
    trainer = Trainer(net, optim.SGD(0.1))
    trainer.fit(X[:65], Y[:65], epochs=2, batch_size=16, validation_data=(X[:17], Y[:17]))
    assert trainer.step == 8


class Rows:
    """An array that, as HDF5's, is read in ascending rows only."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        assert isinstance(index, slice) or (np.diff(index) > 0).all()
        return self.array[index]


def test_kinds_of_arrays(tmp_path):
    pixels = (X * 60).astype(np.uint8)
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=pixels.shape)
    mapped[...] = pixels
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "r", shape=pixels.shape)
    states = []
    for data, targets in (
        (pixels, Y),
        (mapped, Y.astype(np.uint8)),
        (pixels.tolist(), Y.tolist()),
        (Rows(pixels), Rows(Y)),
        (np.asfortranarray(pixels), Y),
        (pixels.astype(np.float64), Y),
    ):
        net = make_net()
        Trainer(net, optim.SGD(1e-3)).fit(data, targets, epochs=2, batch_size=32, validation_data=(data, targets))
        states.append(net.state_dict())
    for state in states[1:]:
        for name, array in state.items():
            np.testing.assert_array_equal(array, states[0][name])


def test_kinds_of_iterables():
    parts = [(X[i : i + 30], Y[i : i + 30]) for i in range(0, 90, 30)]

    class Loader:
        def __iter__(self):
            return iter(parts)

        def __len__(self):
            return 3

    states = []
    for source in (
        parts,
        tuple(parts),
        Loader(),
        lambda: iter(parts),
        lambda epoch: iter(parts),
        lambda *_: iter(parts),
    ):
        net = linear_net()
        trainer = Trainer(net, optim.SGD(0.01, 0.9))
        trainer.fit(source, epochs=2, validation_data=source)
        assert trainer.step == 6
        states.append(net.state_dict())
    for state in states[1:]:
        np.testing.assert_array_equal(state["1.weight"], states[0]["1.weight"])
    once = Trainer(linear_net(), optim.SGD(0.01))
    assert len(once.fit(iter(parts), epochs=1)) == 1
    with pytest.raises(ValueError, match="fit: X can be iterated once only, and 2 epochs are to come"):
        once.fit(iter(parts), epochs=3)
    with pytest.raises(ValueError, match="fit: validation_data can be iterated once only"):
        Trainer(linear_net(), optim.SGD(0.01)).fit(X, Y, epochs=2, validation_data=iter(parts))


def test_torch_loader():
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=32, shuffle=True
    )
    trainer = Trainer(make_net(), optim.SGD(0.01))
    trainer.fit(loader, epochs=2, validation_data=loader)
    trainer.fit(loader, epochs=3, validation_data=(torch.tensor(X), torch.tensor(Y)))
    assert trainer.step == 9


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X,), {}, TypeError, "fit: y is missing"),
        ((X, Y[:5]), {}, ValueError, "fit: X and y must have as many samples, got 90 and 5"),
        ((X[:0], Y[:0]), {}, ValueError, "fit: X has no samples"),
        ((3, Y), {}, ValueError, "fit: X must be an array of samples, got a single number"),
        ((3,), {}, TypeError, r"fit: X must be an array or yield \(x, y\) batches, got int"),
        (([],), {}, ValueError, "fit: X yielded no batches for epoch 1"),
        (([X],), {}, TypeError, r"fit: X must yield pairs \(x, y\), got ndarray"),
        (([(X[:0], Y[:0])],), {}, ValueError, "fit: a batch has no samples"),
        ((X, Y), {"epochs": 0}, ValueError, "fit: epochs must be at least 1, got 0"),
        ((X, Y), {"epochs": 1.5}, TypeError, "fit: epochs must be an integer, got 1.5"),
        ((X, Y), {"epochs": None}, TypeError, "fit: epochs must be given"),
        ((X, Y), {"batch_size": 0}, ValueError, "fit: batch_size must be at least 1"),
        ((X, Y), {"augment": "flip"}, TypeError, "fit: augment must be a function"),
        ((X, Y), {"validation_data": (X, Y[:3])}, ValueError, "fit: validation_data: X and y must have as many"),
        ((X.astype(complex), Y), {}, TypeError, "the input must hold real numbers, got complex128"),
        ((X, Y + 9), {}, ValueError, "cross_entropy"),
    ],
)
def test_bad_calls(arguments, options, error, message):
    net = make_net()
    before = net.state_dict()
    with pytest.raises(error, match=message) as caught:
        Trainer(net, optim.SGD(0.1)).fit(*arguments, **{"epochs": 2, **options})
    assert "\n" not in str(caught.value)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Trainer("net", optim.SGD(0.1)), "Trainer: net must be a layer"),
        (lambda: Trainer(make_net(), 0.1), "Trainer: optimizer must be one of fastconv.optim's"),
        (lambda: Trainer(make_net(), optim.SGD(0.1), 3), "loss must be the name of an operation"),
        (lambda: Trainer(make_net(), optim.SGD(0.1), "cross"), "loss must be the name of an operation"),
        (lambda: Trainer(make_net(), optim.SGD(0.1), seed=-1), "Trainer: seed must be at least 0"),
        (lambda: Trainer(make_net(), optim.SGD(0.1), checkpoint_every=0), "checkpoint_every must be at least 1"),
    ],
)
def test_bad_trainers(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def anonymous_memory():
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    pytest.skip("the kernel does not tell")


def test_memory_does_not_grow_with_the_data(tmp_path):
    """A memory-mapped uint8 set of 120 MB: a step holds a batch of it and those that are ready, no more."""
    peaks = []
    for samples in (4_000, 40_000):
        path = tmp_path / str(samples)
        with path.open("wb") as file:
            file.truncate(samples * 3072)  # a hole: it takes no room on the disk
        data = np.memmap(path, np.uint8, "r", shape=(samples, 3, 32, 32))
        seen = []

        def watch(x, rng, seen=seen):
            seen.append(anonymous_memory())
            return x

        net = fc.Sequential(fc.MaxPool2d(8), fc.Flatten(), fc.Linear(48, 2, rng=0))
        trainer = Trainer(net, optim.SGD(0.1))
        trainer.fit(data, np.zeros(samples, np.int64), epochs=1, batch_size=1000, augment=watch)
        trainer.evaluate(data, np.zeros(samples, np.int64))
        peaks.append(max([*seen, anonymous_memory()]))
    assert peaks[1] - peaks[0] < 16 << 20


# --- what can happen on the way --------------------------------------------------------------------------------------


def test_stops_when_the_loss_is_not_finite():
    net = make_net()
    trainer = Trainer(net, optim.SGD(0.1))
    poisoned = X.copy()
    parts = [(X[:30], Y[:30]), (X[30:60], Y[30:60]), (poisoned[60:], Y[60:])]
    trainer.fit(parts, epochs=1)
    expected = trainer.net.state_dict()
    poisoned[70, 0, 3, 3] = np.nan
    with pytest.raises(FloatingPointError) as caught:
        trainer.fit(parts, epochs=2)
    text = str(caught.value)
    assert text.startswith(
        "fit: the loss is nan in step 6 (epoch 2, learning rate 0.1); the weights are those from before"
    )
    assert "the batch itself holds NaN" in text and "\n" not in text
    assert trainer.step == 5 and trainer.optimizer.steps == 5
    after = trainer.net.state_dict()
    assert all(np.isfinite(array).all() for array in after.values())
    assert after["1.num_batches_tracked"] == expected["1.num_batches_tracked"] + 2
    poisoned[70, 0, 3, 3] = 1
    trainer.fit(parts, epochs=2)  # goes on with the step that failed
    assert trainer.step == 6


def test_stops_when_training_diverges():
    net = fc.Sequential(fc.Flatten(), fc.Linear(64, 1, rng=0))
    trainer = Trainer(net, optim.SGD(1e9), "mse_loss")
    with pytest.raises(FloatingPointError, match="try a lower learning rate, clip_norm=1, or inputs scaled"):
        trainer.fit(X, np.zeros((90, 1), np.float32), epochs=50)
    assert all(np.isfinite(array).all() for array in net.state_dict().values())


def own_square(x, t):
    d = np.asarray(x) - t
    with np.errstate(all="ignore"):
        return np.float32((d * d).sum()), d


def own_square_backward(dy, d):
    return 2 * dy * d * np.float32(np.inf), None


def registered(name, backward):
    if name not in fc.ops.OPS:
        fc.register(name, own_square, backward)
    return getattr(fc.functional, name)


def test_stops_when_a_gradient_is_not_finite():
    trainer = Trainer(
        fc.Sequential(fc.Flatten(), fc.Linear(64, 1)), optim.SGD(0.1), registered("inf_gradient", own_square_backward)
    )
    before = trainer.net.state_dict()
    with pytest.raises(FloatingPointError, match=r"fit: the gradient's norm is (inf|nan) in step 1"):
        trainer.fit(X, np.ones((90, 1), np.float32), epochs=1)
    np.testing.assert_array_equal(trainer.net.state_dict()["1.weight"], before["1.weight"])


def test_interrupt_waits_for_the_step_and_saves(tmp_path, undisturbed):
    path = tmp_path / "checkpoint"
    for moment in (
        (optim.SGD, "_entry", 30),
        (fc.layers.base.OpLayer, "forward", 50),
        (augment.Shift, "_apply", 4),
        (Trainer, "_finish_epoch", 1),
        (Trainer, "_evaluate", 2),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*moment[:2], getattr(*moment[:2]))  # put back afterwards
            before_call(*moment, lambda *_: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                run(path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        resumed = Trainer.resume(path)
        assert resumed.step > 0
        assert_same_run(run(path), undisturbed["sgd"])
        path.unlink()


def test_interrupted_twice_in_an_update(tmp_path):
    """The second Ctrl-C ends the step in its middle: the last whole checkpoint stays."""
    path = tmp_path / "checkpoint"

    def twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim.SGD, "_entry", optim.SGD._entry)
        before_call(optim.SGD, "_entry", 32, twice)
        with pytest.raises(KeyboardInterrupt):
            run(path)
        trainer = Trainer(make_net(), optim.SGD(0.1))
        before_call(optim.SGD, "_entry", 3, twice)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(X, Y, epochs=1)
    assert Trainer.resume(path).step == 6
    with pytest.raises(RuntimeError, match="an update was interrupted in its middle; go on from a file"):
        trainer.fit(X, Y, epochs=1)


def test_an_optimiser_that_refuses_changes_nothing():
    trainer = Trainer(make_net(), optim.SGD(0.1, momentum=0.9))
    before = trainer.net.state_dict()

    class Short(fc.Linear):
        def backward(self, dy, saved, need_dx):
            dx, gradients = super().backward(dy, saved, need_dx)
            return dx, {"weight": gradients["weight"]}

    trainer.net._layers["6"].__class__ = Short
    with pytest.raises(ValueError, match=r"same keys, but only one of them has 6\.bias"):
        trainer.fit(X, Y, epochs=1)
    for name, array in trainer.net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    trainer.net._layers["6"].__class__ = fc.Linear
    assert len(trainer.fit(X, Y, epochs=1)) == 1


def test_callbacks(tmp_path):
    seen = []

    def callback(trainer, record):
        seen.append((trainer.epoch, record["epoch"], trainer.history[-1] is record))
        return record["epoch"] == 2

    path = tmp_path / "checkpoint"
    trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=path)
    trainer.fit(X, Y, epochs=5, callbacks=[callback])
    assert seen == [(1, 1, True), (2, 2, True)]
    assert Trainer.resume(path).epoch == 2
    trainer.fit(X, Y, epochs=3)
    assert trainer.epoch == 3

    def fail(trainer, record):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        trainer.fit(X, Y, epochs=5, callbacks=[fail])
    assert trainer.epoch == 4 and Trainer.resume(path).epoch == 3


def test_what_callbacks_return_and_add(tmp_path):
    for answer, stops in ((True, True), (np.True_, True), (np.array(True), True), (False, False), (np.False_, False),
                          (None, False), (1, False), ([1], False), (np.ones(2, bool), False)):  # fmt: skip
        trainer = Trainer(linear_net(), optim.SGD(0.01))
        trainer.fit(X, Y, epochs=2, callbacks=[lambda *_, answer=answer: answer])
        assert trainer.epoch == (1 if stops else 2), answer
    added = {
        "half": np.float16(0.5), "single": np.float32(0.25), "double": np.float64(0.125), "long": np.longdouble(2),
        "count": np.int64(3), "small": np.uint8(4), "flag": np.True_, "no axes": np.array(5, np.float32),
        "nan": np.float32(np.nan), "inf": np.array(-np.inf), "plain": 6, "own": True,
    }  # fmt: skip
    path = tmp_path / "checkpoint"
    trainer = Trainer(linear_net(), optim.SGD(np.float32(0.01)), checkpoint=path, checkpoint_every=np.int64(1))
    trainer.fit(X, Y, epochs=np.int64(2), batch_size=np.int32(90), callbacks=[lambda _, record: record.update(added)])
    again = Trainer.resume(path)
    for record in again.history:
        assert all(type(value) in (int, float, bool) for value in record.values())
    np.testing.assert_equal({name: again.history[0][name] for name in added}, {k: v.item() for k, v in added.items()
                            if isinstance(v, (np.generic, np.ndarray))} | {"plain": 6, "own": True})  # fmt: skip
    trainer.history.to_json(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text())[1]["single"] == 0.25
    for value in ("text", None, [1.0], np.zeros(2), 1j, np.complex64(1), np.datetime64("2020-01-01")):
        trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=path)
        with pytest.raises(ValueError, match=r"^save: column 'mine' of the history must hold numbers, got ") as caught:
            trainer.fit(X, Y, epochs=1, callbacks=[lambda _, record, value=value: record.update(mine=value)])
        assert "\n" not in str(caught.value)
    settings = augment.Compose(
        augment.Flip(np.float32(0.5), np.True_, vertical=np.False_), augment.Noise(np.array(0.1))
    )
    trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=path, seed=np.uint8(3))
    trainer.fit(X, Y, epochs=1, augment=settings, drop_last=np.True_)
    assert Trainer.resume(path)._augment == settings


def test_checkpoint_rhythm(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(Trainer, "_write", lambda self, path, automatic: steps.append(self.step))
    for every, expected in ((None, [0, 3, 6]), (2, [0, 2, 4, 6, 6]), (100, [0, 6])):
        steps.clear()
        trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=tmp_path / "x", checkpoint_every=every)
        trainer.fit(X, Y, epochs=2, batch_size=30)
        assert steps == expected
    steps.clear()
    Trainer(linear_net(), optim.SGD(0.01)).fit(X, Y, epochs=2)
    assert steps == []


def test_progress(capsys, monkeypatch):
    def fit(progress):
        Trainer(linear_net(), optim.SGD(0.01)).fit(X, Y, epochs=2, validation_data=HELD_OUT, progress=progress)
        out, err = capsys.readouterr()
        assert out == ""
        return err

    assert fit(False) == fit(None) == ""
    lines = fit(True).splitlines()
    assert len(lines) == 2 and lines[1].startswith("epoch 2/2  loss ") and "val_accuracy" in lines[1]

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    pytest.importorskip("tqdm")
    for progress in (True, None):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        fit(progress)
        shown = terminal.getvalue()
        assert "epoch 1/2:   0%" in shown and "\repoch 2/2  loss " in shown and shown.rstrip("\r").endswith("\n")
    monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fit(True)
    assert terminal.getvalue().startswith("epoch 1/2  loss ")


def test_no_figure_is_cut_off_on_a_narrow_terminal():
    pytest.importorskip("tqdm")
    import fcntl
    import struct
    import termios

    terminal, standard_error = os.openpty()
    fcntl.ioctl(standard_error, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    code = (
        "from fastconv.training.history import History; from fastconv.training.progress import Progress; "
        "p = Progress(True, 200, History()); p.start(100, 5, 0); p.step(1.0); "
        "p.finish(dict(epoch=100, loss=11.5, accuracy=0.5, val_loss=12.5, val_accuracy=0.25, val_f1=0.125)); p.close()"
    )
    subprocess.run([sys.executable, "-c", code], stderr=standard_error, check=True)
    os.close(standard_error)
    shown = os.read(terminal, 4096).decode()
    os.close(terminal)
    figures = "loss 11.5000  accuracy 0.5000  val_loss 12.5000  val_accuracy 0.2500  val_f1 0.1250"
    assert shown.endswith(f"\repoch 100/200  {figures}\r\n")


@pytest.mark.parametrize("columns", [0, 70])
def test_a_bar_on_terminals_of_known_and_unknown_width(columns):
    pytest.importorskip("tqdm")
    import fcntl
    import struct
    import termios

    terminal, standard_error = os.openpty()
    fcntl.ioctl(standard_error, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    code = (
        "from fastconv.training.history import History; from fastconv.training.progress import Progress; "
        "p = Progress(True, 1, History()); p.start(1, 5, 2); p.close()"
    )
    subprocess.run([sys.executable, "-c", code], stderr=standard_error, check=True)
    os.close(standard_error)
    shown = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert "epoch 1/1:  40%" in shown
    assert "2/5" in shown


def test_history(tmp_path):
    history = History([{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": math.inf, "val_loss": math.nan}])
    assert history["epoch"] == [1, 2] and history["val_loss"][0] is None
    assert history[0]["epoch"] == 1 and history[-1:] == [history[1]]
    with pytest.raises(KeyError, match="accuracy"):
        history["accuracy"]
    history.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text().splitlines() == ["epoch,loss,val_loss", f"1,{0.1 + 0.2!r},", "2,inf,nan"]
    history.to_json(tmp_path / "h.json")
    rows = json.loads((tmp_path / "h.json").read_text())
    assert rows == [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": None, "val_loss": None}]


# --- files -----------------------------------------------------------------------------------------------------------


def test_what_a_checkpoint_holds(tmp_path, undisturbed):
    path = tmp_path / "file"
    undisturbed["sgd"].save(path)
    tensors, metadata = checkpoint.read(path)
    assert metadata["format"] == "fastconv.trainer/1"
    kinds = {name.split(".")[0] for name in tensors}
    assert kinds == {"net", "optimizer", "best", "loss"}
    np.testing.assert_array_equal(tensors["loss.weight"], [1, 2, 1, 1])
    resumed = Trainer.resume(path)
    assert resumed.loss.name == "cross_entropy" and resumed.loss.options["label_smoothing"] == 0.1
    assert resumed.seed == 5 and resumed.checkpoint_every == 2 and resumed.checkpoint is None
    assert resumed.optimizer.config() == undisturbed["sgd"].optimizer.config()
    assert resumed.net.parameters().keys() == undisturbed["sgd"].net.parameters().keys()
    for name, parameter in resumed.net.parameters().items():
        assert parameter.flags.writeable
        assert parameter.strides == undisturbed["sgd"].net.parameters()[name].strides


def test_saved_before_any_training(tmp_path):
    trainer = Trainer(make_net(), optim.Adam(), seed=3)
    trainer.save(tmp_path / "file")
    again = Trainer.resume(tmp_path / "file")
    again.fit(X, Y, epochs=1)
    trainer.fit(X, Y, epochs=1)
    assert_same_run(again, trainer)


def test_history_that_is_not_finite_is_kept(tmp_path):
    trainer = Trainer(linear_net(), optim.SGD(0.1))
    wrong = X.copy()
    wrong[:] = np.inf
    trainer.fit(X, Y, epochs=1, validation_data=(wrong, Y))
    assert not math.isfinite(trainer.history[0]["val_loss"])
    trainer.save(tmp_path / "file")
    again = Trainer.resume(tmp_path / "file")
    np.testing.assert_equal(again.history, trainer.history)


def double(x, rng):
    return 2 * x


def test_functions_of_ones_own(tmp_path):
    path = tmp_path / "file"
    trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=path)
    with pytest.raises(ValueError, match=r"save: augment <function double at .* has no name for a file"):
        trainer.fit(X, Y, epochs=1, augment=double)
    assert trainer.step == 0 and not path.exists()
    trainer = Trainer(linear_net(), optim.SGD(0.01), checkpoint=path, functions={"twice": double})
    trainer.fit(X, Y, epochs=1, augment=double)
    with pytest.raises(fc.FormatError, match="its augmentation is a function called 'twice': give functions="):
        Trainer.resume(path)
    resumed = Trainer.resume(path, functions={"twice": double})
    assert resumed.fit(X, Y, epochs=2)[1]["loss"] == trainer.fit(X, Y, epochs=2)[1]["loss"]

    loss = registered("own_square", lambda dy, d: (2 * dy * d, None))
    net = fc.Sequential(fc.Flatten(), fc.Linear(64, 1, rng=0), fc.Function("relu"))
    trainer = Trainer(net, optim.SGD(1e-5), loss)
    trainer.fit(X, np.ones((90, 1), np.float32), epochs=1)
    trainer.save(path)
    with pytest.MonkeyPatch.context() as patch:
        op = fc.ops.OPS["own_square"]
        for names in (fc.ops.OPS, registry.FUNCTIONS):  # as in a process that has never heard of it
            patch.delitem(names, "own_square")
        with pytest.raises(fc.FormatError, match="its loss 'own_square' is not registered"):
            Trainer.resume(path)
        again = Trainer.resume(path, functions={"own_square": (op.forward, lambda dy, d: (2 * dy * d, None))})
        again.fit(X, np.ones((90, 1), np.float32), epochs=2)
        for names in (fc.ops.OPS, registry.FUNCTIONS):
            names.pop("own_square")
    trainer.fit(X, np.ones((90, 1), np.float32), epochs=2)
    assert_same_run(again, trainer)


def test_layers_that_are_no_data_are_refused(tmp_path):
    class Own(fc.Flatten):
        pass

    trainer = Trainer(fc.Sequential(Own(), fc.Linear(64, 4)), optim.SGD(0.1), checkpoint=tmp_path / "x")
    with pytest.raises(ValueError, match="Own: only fastconv's own layers can be saved"):
        trainer.fit(X, Y, epochs=1)
    assert trainer.step == 0 and not list(tmp_path.iterdir())
    trainer = Trainer(linear_net(), optim.SGD(0.1), Loss("cross_entropy", {"reduction": object()}))
    with pytest.raises(ValueError, match="the loss cross_entropy has an option reduction that is no data"):
        trainer.save(tmp_path / "x")


def edits():
    """What a hostile file could say, each as a change of (data, tensors)."""

    def setting(*keys, value):
        def change(data, tensors):
            for key in keys[:-1]:
                data = data[key]
            data[keys[-1]] = value

        return change

    for key in (
        "net", "optimizer", "loss", "seed", "checkpoint_every", "automatic", "settings", "augment", "position", "sums",
        "history", "best_epoch",
    ):  # fmt: skip
        yield lambda data, tensors, key=key: data.pop(key)
        for value in ({}, [], "x", -1, 1.5, [[[]]], {"x": {}}):
            yield setting(key, value=value)
    for value in (-1, 2.5, True, None, "3", 1e400):
        yield setting("position", "batch", value=value)
        yield setting("position", "seconds", value="x" if value is None else [value])
        yield setting("sums", "samples", value=value)
        yield setting("optimizer", "steps", value=value)
        yield setting("optimizer", "updates", value=value)
        yield setting("settings", "batch_size", value=0 if value is True else value)
    for value in (None, "3", True, 1e400):
        yield setting("sums", "weight", value=value)
    yield setting("net", "frozen_layers", value=["x"])
    yield setting("net", "training", value=0)
    yield setting("net", "other_mode", value=[0])
    yield lambda data, tensors: tensors.update({"optimizer.largest.6.bias": np.zeros(4, np.float32)})
    yield setting("position", "epoch", value=2)
    yield setting("history", value=[{"loss": "x"}] * 3)
    yield setting("history", value=[[]] * 3)
    yield setting("history", value=[{}] * 3)
    yield lambda data, tensors: data["history"][1].pop("seconds")
    yield lambda data, tensors: data["history"].reverse()
    yield setting("loss", "name", value="__import__")
    yield setting("loss", "options", value=[1])
    yield setting("loss", "options", value={"weigth": 1})
    yield setting("optimizer", "config", "lr", value={"schedule": "eval"})
    yield setting("optimizer", "config", "lr", value={"schedule": "Cosine", "x": 1})
    yield setting("optimizer", "config", "groups", value=[{"ndim": []}])
    yield setting("augment", value={"augment": "Shift", "pixels": "x"})
    yield setting("augment", value={"augment": "Compose", "parts": [{"augment": "Compose"}]})
    yield setting("augment", value={"function": []})
    yield lambda data, tensors: tensors.pop("net.6.bias")
    yield lambda data, tensors: tensors.pop("best.6.bias")
    yield lambda data, tensors: tensors.update({"best.6.bias": np.zeros(9, np.float32)})
    yield lambda data, tensors: tensors.update({"optimizer.momentum.6.bias": np.zeros(9, np.float32)})
    yield lambda data, tensors: tensors.update({"optimizer.momentum.6.bias": np.zeros(4, np.float64)})
    yield lambda data, tensors: tensors.update({"optimizer.momentum.x": np.zeros(4, np.float32)})
    yield lambda data, tensors: tensors.update({"optimizer.speed.6.bias": np.zeros(4, np.float32)})
    yield lambda data, tensors: tensors.update({"other.x": np.zeros(4, np.float32)})
    yield lambda data, tensors: tensors.update({"x": np.zeros(4, np.float32)})


def test_hostile_checkpoints(tmp_path, undisturbed):
    path = tmp_path / "file"
    undisturbed["sgd"].save(path)
    tensors, metadata = checkpoint.read(path)
    count = 0
    for edit in edits():
        data, arrays = json.loads(metadata["trainer"]), dict(tensors)
        edit(data, arrays)
        checkpoint.write(path, arrays, {**metadata, "trainer": json.dumps(data).replace("Infinity", "1e400")})
        harmless = data.get("augment", 0) is None or data.get("checkpoint_every", 0) is None
        if harmless:
            Trainer.resume(path)
        else:
            with pytest.raises(fc.FormatError) as caught:
                Trainer.resume(path)
            assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
            count += 1
    assert count > 120
    for change in (
        {"format": "fastconv.trainer/2"},
        {"trainer": "{"},
        {"trainer": '{"a": NaN}'},
        {"trainer": "[" * 10**5},
    ):
        checkpoint.write(path, tensors, {**metadata, **change})
        with pytest.raises(fc.FormatError, match="file: "):
            Trainer.resume(path)
    checkpoint.write(path, tensors)
    with pytest.raises(fc.FormatError, match="is no checkpoint that a fastconv Trainer wrote"):
        Trainer.resume(path)
    with pytest.raises(FileNotFoundError):
        Trainer.resume(tmp_path / "none")


def test_checkpoints_of_before(tmp_path, undisturbed):
    """Without what is kept since: the modes, the batches' weights, the newer options of optimisers."""
    path = tmp_path / "file"
    copies = []
    with pytest.MonkeyPatch.context() as patch:
        write = checkpoint.write

        def write_and_keep(target, *arguments, **options):
            write(target, *arguments, **options)
            copies.append(Path(target).read_bytes())

        patch.setattr(checkpoint, "write", write_and_keep)
        run(path)
    for copy in copies[1::4]:
        path.write_bytes(copy)
        tensors, metadata = checkpoint.read(path)
        data = json.loads(metadata["trainer"])
        for name in ("training", "other_mode", "frozen_layers"):
            del data["net"][name]
        del data["optimizer"]["config"]["dampening"], data["optimizer"]["config"]["maximize"]
        if data["position"]["batch"] == 0:
            del data["sums"]["weight"]
        checkpoint.write(path, tensors, {**metadata, "trainer": json.dumps(data)})
        assert_same_run(run(path), undisturbed["sgd"])


def test_amsgrads_memory_is_kept(tmp_path):
    path = tmp_path / "file"
    trainer = Trainer(linear_net(), optim.Adam(0.05, (0.5, 0.6), amsgrad=True))
    trainer.fit(X, Y, epochs=2)
    trainer.save(path)
    again = Trainer.resume(path)
    again.fit(X, Y, epochs=4)
    trainer.fit(X, Y, epochs=4)
    assert_same_run(again, trainer)
    tensors, metadata = checkpoint.read(path)
    tensors["optimizer.largest.1.bias"] = np.zeros(9, np.float32)
    checkpoint.write(path, tensors, metadata)
    with pytest.raises(fc.FormatError, match=r"the optimiser's largest of 1\.bias does not fit the parameter"):
        Trainer.resume(path)


def test_lazy_name():
    assert fc.Trainer is trainer_module.Trainer


# --- weights of samples and classes, large steps, averages, the learning rate ----------------------------------------


def double_net(outputs=4):
    return fc.Sequential(fc.Flatten(), fc.Linear(64, 5, rng=0), fc.Tanh(), fc.Linear(5, outputs, rng=1)).astype(float)


def after_fit(X, y, batch_size=90, loss="cross_entropy", outputs=4, epochs=2, **options):
    """The weights, and the last record."""
    trainer = Trainer(double_net(outputs), optim.SGD(0.3, momentum=0.5), loss, seed=2)
    return trainer.net.state_dict, trainer.fit(X, y, epochs, batch_size, **options)[-1]


def assert_same_outcome(one, other, loss=True):
    (state, record), (others, other_record) = one, other
    for name, array in state().items():
        np.testing.assert_allclose(array, others()[name], rtol=1e-10, atol=1e-13, err_msg=name)
    if loss:
        assert record["loss"] == pytest.approx(other_record["loss"], rel=1e-10)


WEIGHED = {
    "cross_entropy": ("cross_entropy", Y),
    "smoothed": (functools.partial(fc.functional.cross_entropy, label_smoothing=0.2), Y),
    "weighted": (functools.partial(fc.functional.cross_entropy, weight=[1, 2, 0.5, 3]), Y),
    "ignoring": (functools.partial(fc.functional.cross_entropy, ignore_index=2), Y),
    "probabilities": ("cross_entropy", np.random.default_rng(3).dirichlet(np.ones(4), 90)),
    "nll": (functools.partial(fc.functional.nll_loss, ignore_index=1), Y),
    "mse": ("mse_loss", np.random.default_rng(4).normal(size=(90, 4))),
    "bce": (functools.partial(fc.functional.bce_with_logits, pos_weight=[1, 2, 3, 4.0]), np.eye(4)[Y]),
    "sum": (functools.partial(fc.functional.mse_loss, reduction="sum"), 0.1 * np.eye(4)[Y]),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_a_weight_is_a_number_of_copies(name):
    loss, y = WEIGHED[name]
    copies = np.random.default_rng(0).integers(0, 4, 90)
    weighted = after_fit(X, y, loss=loss, sample_weight=copies)
    repeated = after_fit(np.repeat(X, copies, axis=0), np.repeat(y, copies, axis=0), 500, loss)
    assert_same_outcome(weighted, repeated)
    if name != "sum":
        assert_same_outcome(weighted, after_fit(X, y, loss=loss, sample_weight=0.1 * copies))
    trainer = Trainer(double_net(), optim.SGD(0.1), loss)
    of_all = trainer.evaluate(np.repeat(X, copies, axis=0), np.repeat(y, copies, axis=0)).loss
    for size in (7, 90):
        assert trainer.evaluate(X, y, size, sample_weight=copies).loss == pytest.approx(of_all, rel=1e-10)
    history = trainer.fit(X, y, 1, validation_data=(X, y, copies))
    assert history[-1]["val_loss"] == trainer.evaluate(X, y, sample_weight=copies).loss


def test_weights_of_classes():
    factors = {0: 1, 1: 5.0, 3: np.float32(0.25)}
    listed = functools.partial(fc.functional.cross_entropy, weight=[1, 5, 1, 0.25])
    assert_same_outcome(after_fit(X, Y, 16, class_weight=factors), after_fit(X, Y, 16, listed))
    some, of_some = X[:77], Y[:77]
    balanced = {c: 77 / (4 * (of_some == c).sum()) for c in range(4)}
    expected = after_fit(some, of_some, 16, class_weight=balanced)
    assert_same_outcome(after_fit(some, of_some, 16, class_weight="balanced"), expected)
    both = after_fit(X, Y, 16, class_weight=factors, sample_weight=np.arange(90))
    product = np.arange(90) * np.array([1, 5, 1, 0.25])[Y]
    assert_same_outcome(both, after_fit(X, Y, 16, sample_weight=product))
    probabilities = after_fit(X, np.eye(4)[Y], 16, class_weight=factors)
    assert_same_outcome(probabilities, after_fit(X, Y, 16, class_weight=factors))
    assert_same_outcome(after_fit(X, Y, 16, class_weight={}), after_fit(X, Y, 16))
    nothing = after_fit(X, np.full(90, -100), 16, class_weight="balanced")
    assert_same_outcome(nothing, after_fit(X, np.full(90, -100), 16), loss=False)


def test_class_weights_that_do_nothing_are_named():
    for y in (Y, np.eye(4)[Y]):
        with pytest.raises(ValueError, match=r"class_weight names class 11, but there are 4, from 0 on$"):
            after_fit(X, y, 16, class_weight={11: 2})
        with pytest.raises(ValueError, match="class_weight is 0 for every class that occurs"):
            after_fit(X, y, 16, class_weight={0: 0, 1: 0, 2: 0, 3: 0})
    with pytest.raises(ValueError, match="class_weight is 0 for every class that occurs"):
        after_fit(X, np.where(Y == 1, -100, 2), 16, class_weight={2: 0})
    with pytest.raises(ValueError, match="class_weight names class 2, but there are 2"):
        after_fit(X, np.eye(4)[Y], 16, "bce_with_logits", class_weight={2: 3})
    after_fit(X, np.minimum(Y, 2), 16, class_weight={3: 2})  # a class that this part lacks
    after_fit(X, np.full(90, -100), 16, class_weight={0: 2})


@pytest.mark.parametrize("dtype", [float, int, bool])
def test_weights_of_two_classes(dtype):
    """Targets of bce_with_logits are 0 and 1, floats or not: none is the share of a class."""
    y = np.random.default_rng(1).integers(0, 2, (90, 4)).astype(dtype)
    by_hand = np.where(y, 3.0, 0.5)
    given = after_fit(X, y, 16, "bce_with_logits", class_weight={0: 0.5, 1: 3})
    assert_same_outcome(given, after_fit(X, y, 16, "bce_with_logits", sample_weight=by_hand))
    even = np.where(y, 360 / 2 / np.count_nonzero(y), 360 / 2 / np.count_nonzero(y == 0))
    balanced = after_fit(X, y, 16, "bce_with_logits", class_weight="balanced")
    assert_same_outcome(balanced, after_fit(X, y, 16, "bce_with_logits", sample_weight=even))


@pytest.mark.parametrize("given", ["balanced", {1: 2.0}])
def test_numbers_have_no_classes(given):
    with pytest.raises(TypeError, match="fit: class_weight needs targets that are class indices, got float64"):
        after_fit(X, np.random.default_rng(1).random((90, 4)), 16, "mse_loss", class_weight=given)


def test_weights_of_pixels():
    labels = (X[:, 0] * 2.9).astype(int) % 3
    labels[:, 0] = -100
    nets = [fc.Conv2d(1, 3, 3, padding=1, rng=0).astype(float) for _ in range(3)]
    weight = np.random.default_rng(0).random((90, 8, 8))
    listed = functools.partial(fc.functional.cross_entropy, weight=[1, 2, 3.0])
    Trainer(nets[0], optim.SGD(0.1)).fit(X, labels, 1, 30, class_weight={1: 2, 2: 3})
    Trainer(nets[1], optim.SGD(0.1), listed).fit(X, labels, 1, 30)
    np.testing.assert_allclose(nets[0].weight, nets[1].weight, rtol=1e-12)
    Trainer(nets[2], optim.SGD(0.1)).fit(X, labels, 1, 30, sample_weight=weight)
    assert not np.allclose(nets[2].weight, nets[1].weight)
    with pytest.raises(
        fc.ShapeError, match=r"weights must be one a sample, \(30,\), or one a loss, \(30, 8, 8\); got \(30, 8\)"
    ):
        Trainer(nets[2], optim.SGD(0.1)).fit(X, labels, 1, 30, sample_weight=weight[..., 0])


def test_weights_come_with_batches():
    weight = np.linspace(0.5, 2, 90)
    batches = [(X[part], Y[part], weight[part]) for part in (slice(40), slice(40, 90))]
    trainer = Trainer(double_net(), optim.SGD(0.1))
    trainer.fit(batches, epochs=1, validation_data=batches)
    by_hand = double_net()
    parameters = by_hand.parameters()
    for x, y, w in batches:
        single = [fc.value_and_grad(by_hand, "cross_entropy", x[i : i + 1], y[i : i + 1])[1] for i in range(len(x))]
        mean = {name: np.average([g[name] for g in single], axis=0, weights=w) for name in parameters}
        optim.SGD(0.1).step(parameters, mean)
    for name, array in by_hand.state_dict().items():
        np.testing.assert_allclose(array, trainer.net.state_dict()[name], rtol=1e-10, atol=1e-14)
    assert trainer.history[-1]["val_loss"] == pytest.approx(trainer.evaluate(X, Y, sample_weight=weight).loss)


def test_weights_are_mixed_with_their_images():
    mixing = augment.MixUp()
    whole = after_fit(X, Y, 30, augment=mixing, class_weight={1: 3})
    factors = np.array([1, 3, 1, 1.0])[Y]
    assert_same_outcome(whole, after_fit(X, Y, 30, augment=mixing, sample_weight=factors))
    alike = after_fit(X, Y, 30, augment=mixing, sample_weight=np.full(90, 0.3))
    assert_same_outcome(alike, after_fit(X, Y, 30, augment=mixing))
    assert 0 < after_fit(X, Y, 30, augment=mixing, metrics="f1")[1]["f1"] < 1


def test_wrong_weights():
    trainer = Trainer(linear_net(), optim.SGD(0.1))
    for options, error, message in (
        (
            {"sample_weight": np.ones(3)},
            ValueError,
            r"sample_weight must have one entry a sample, 90, got shape \(3,\)",
        ),
        ({"sample_weight": np.full(90, -1)}, ValueError, "sample_weight must be finite and not negative, got -1"),
        ({"sample_weight": np.full(90, np.nan)}, ValueError, "sample_weight must be finite"),
        ({"sample_weight": np.zeros(90)}, ValueError, "sample_weight is zero for all samples"),
        ({"sample_weight": ["x"] * 90}, TypeError, "sample_weight must hold real numbers"),
        ({"class_weight": "equal"}, ValueError, "class_weight must be 'balanced' or {class: weight}, got 'equal'"),
        ({"class_weight": [1, 2]}, TypeError, r"class_weight must be 'balanced' or {class: weight}, got \[1, 2\]"),
        ({"class_weight": {0: -1}}, ValueError, "class_weight: of 0 must be finite and at least 0, got -1"),
        ({"class_weight": {"a": 1}}, TypeError, "class_weight: a class must be an integer, got 'a'"),
        ({"class_weight": {10**9: 1}}, ValueError, "class_weight has a class 1000000000, beyond"),
        ({"accumulate": 0}, ValueError, "accumulate must be at least 1, got 0"),
        ({"average": 1.0}, ValueError, "average must be below 1"),
        ({"average": "x"}, TypeError, "average must be a number"),
    ):
        with pytest.raises(error, match=f"fit: {message}"):
            trainer.fit(X, Y, 1, **options)
    with pytest.raises(TypeError, match="fit: sample_weight goes with arrays"):
        trainer.fit([(X, Y)], epochs=1, sample_weight=np.ones(90))
    with pytest.raises(ValueError, match="class_weight='balanced' needs y as one array"):
        trainer.fit([(X, Y)], epochs=1, class_weight="balanced")
    for labels in (Y - 1, Y + 10**7):
        with pytest.raises(ValueError, match="class_weight needs targets that are class indices from 0, got"):
            trainer.fit(X, labels, 1, class_weight="balanced")
    assert trainer.step == 0
    fc.register("own_loss", lambda x, y: (np.square(x).mean(), x), lambda dy, x: dy * 2 * x / x.size, replace=True)
    with pytest.raises(ValueError, match="own_loss: weights of samples need a loss of each sample"):
        Trainer(linear_net(), optim.SGD(0.1), "own_loss").fit(X, Y, 1, sample_weight=np.ones(90))


@pytest.mark.parametrize("name", WEIGHED)
def test_small_batches_make_a_large_step(name):
    loss, y = WEIGHED[name]
    options = {} if name == "sum" else {"sample_weight": np.random.default_rng(5).random(90)}
    large = after_fit(X, y, 36, loss, **options)
    small = after_fit(X, y, 6, loss, accumulate=6, **options)
    assert_same_outcome(small, large)
    assert large[1]["step"] == small[1]["step"] == 6
    with_validation = after_fit(X, y, 6, loss, accumulate=6, validation_data=(X, y), **options)
    assert_same_outcome(with_validation, large)


def test_steps_of_several_batches_are_counted(tmp_path):
    """By the schedule, the checkpoint and the bar; the last of an epoch may be short."""
    seen = []
    optimizer = optim.SGD(optim.Linear(0.1))
    trainer = Trainer(make_net(), optimizer, checkpoint=tmp_path / "file", checkpoint_every=2)
    trainer.fit(X, Y, 2, 10, accumulate=4, callbacks=[lambda trainer, record: seen.append(record["lr"])])
    assert (trainer.step, optimizer.total_steps) == (6, 6)
    assert seen == pytest.approx([0.1 * 4 / 6, 0.1 / 6])
    assert trainer.net[1].num_batches_tracked == 18
    assert Trainer.resume(tmp_path / "file").step == 6


def test_a_step_that_fails_in_its_second_batch_changes_nothing():
    net = make_net(dropout=0)
    trainer = Trainer(net, optim.SGD(0.1))
    before = net.state_dict()
    bad = X[:30].copy()
    bad[3] = np.nan
    with pytest.raises(FloatingPointError, match="the batch itself holds NaN"):
        trainer.fit([(X[:30], Y[:30]), (bad, Y[:30])], epochs=1, accumulate=2)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert trainer.step == 0


def test_the_average_of_the_weights(tmp_path):
    path = tmp_path / "file"
    trainer = Trainer(make_net(), optim.SGD(0.2), checkpoint=path, checkpoint_every=1)
    states = []

    class Follow(fc.callbacks.Callback):
        def on_step_end(self, trainer, record):
            states.append({name: array.astype(float) for name, array in trainer.net.parameters().items()})

    history = trainer.fit(X, Y, 3, 30, validation_data=HELD_OUT, average=0.8, callbacks=[Follow()])
    expected = states[0]
    for state in states[1:]:
        expected = {name: 0.8 * expected[name] + 0.2 * array for name, array in state.items()}
    average, own = trainer.average_state, trainer.net.state_dict()
    assert average.keys() == own.keys()
    for name, array in average.items():
        np.testing.assert_allclose(array, expected.get(name, own[name]), rtol=1e-5, atol=1e-6)
    assert trainer.evaluate(*HELD_OUT).loss != history[-1]["val_loss"]
    for name, array in fc.load_weights(path, key="average").items():
        np.testing.assert_array_equal(array, average[name])
    trainer.restore_average()
    assert trainer.evaluate(*HELD_OUT).loss == history[-1]["val_loss"]
    best = fc.load(path, best=True)
    score = fc.functional.cross_entropy(best.predict(HELD_OUT[0]), HELD_OUT[1])
    chosen = history[trainer.best_epoch - 1]
    assert float(score) == pytest.approx(chosen["val_loss"], rel=1e-5)
    with pytest.raises(ValueError, match="restore_average: there is no average"):
        Trainer(make_net(), optim.SGD(0.1)).restore_average()


def test_validation_that_fails_leaves_the_weights(tmp_path):
    trainer = Trainer(linear_net(), optim.SGD(0.2))
    trainer.fit(X, Y, 1, 30, average=0.5)
    before = trainer.net.state_dict()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_evaluate", stop)
        patch.setattr(optim.SGD, "_update", lambda *_: None)
        trainer.fit(X, Y, 2, 30, average=0.5, validation_data=HELD_OUT)
    for name, array in trainer.net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_learning_rate_finder_changes_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    trainer = Trainer(make_net(), optim.Adam(optim.Cosine(0.1)), checkpoint=tmp_path / "file")
    trainer.fit(X, Y, 2, 30, callbacks=[lambda *_: True])
    before = trainer.net.state_dict(), repr(trainer.optimizer), trainer.optimizer.state_dict()["updates"]
    found = trainer.find_lr(X, Y, 30, steps=40, highest=100)
    assert (repr(trainer.optimizer), trainer.optimizer.state_dict()["updates"]) == before[1:]
    for name, array in trainer.net.state_dict().items():
        np.testing.assert_array_equal(array, before[0][name])
    assert (trainer.step, trainer.epoch, len(trainer.history)) == (3, 1, 1)
    assert found.rates[0] == 1e-6 and 3 < len(found.rates) <= 40
    assert found.rates == sorted(found.rates) and len(found.losses) == len(found.rates)
    assert found.rates[0] < found.suggestion < found.rates[int(np.argmin(found.smoothed))]
    assert f"{found.suggestion:.3g}, which is suggested" in str(found)
    found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert trainer.find_lr(X, Y, 30, steps=40, highest=100) == found
    for wrong in ({"lowest": 0}, {"lowest": 2, "highest": 1}, {"steps": 1}):
        with pytest.raises(ValueError, match="find_lr: "):
            trainer.find_lr(X, Y, **wrong)


def test_a_rate_that_was_found_trains():
    (train, labels), _ = fc.datasets.load_digits()
    trainer = Trainer(fc.models.digits_cnn(rng=0), optim.SGD(0.1, momentum=0.9))
    trainer.optimizer.lr = trainer.find_lr(train, labels, 64).suggestion
    assert 1e-3 < trainer.optimizer.lr < 0.3
    assert trainer.fit(train, labels, 2, 64)[-1]["accuracy"] > 0.9
