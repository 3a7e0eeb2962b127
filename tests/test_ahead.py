"""Batches that are made ready beside the steps: the same bits, the errors at their steps, no thread left behind."""

import contextvars
import itertools
import operator
import os
import signal
import sys
import threading
import time
import traceback

import numpy as np
import pytest

import fastconv as fc
from fastconv import Trainer, augment, optim
from fastconv.training import ahead as ahead_module
from fastconv.training import data as data_module
from fastconv.training.ahead import MOST, ahead

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (90, 1, 8, 8)).astype(np.uint8)
Y = RNG.integers(0, 4, 90)
AUGMENT = augment.Compose(augment.Affine(10, 0.1, 1.0), augment.Flip(), augment.Noise(4.0))


def make_trainer(**options):
    rng = np.random.default_rng(1)
    net = fc.Sequential(
        fc.Conv2d(1, 3, 3, rng=rng), fc.BatchNorm2d(3), fc.ReLU(), fc.Flatten(), fc.Dropout(0.3),
        fc.Linear(108, 4, rng=rng),
    )  # fmt: skip
    return Trainer(net, optim.SGD(0.001, momentum=0.9), seed=3, **options)


def bits(trainer):
    return [array.tobytes() for array in trainer.net.state_dict().values()]


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "fastconv-ahead"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


def stream(epoch):
    """The batches in one buffer, written over and over."""
    buffer, labels = np.empty((15, 1, 8, 8), np.float32), np.empty(15, np.int64)
    for i in range(0, 90, 15):
        buffer[...], labels[...] = X[i : i + 15], Y[i : i + 15]
        yield buffer, labels


KEPT = np.empty((15, 1, 8, 8), np.float32)


def in_place(x, rng):
    """An augmentation that answers in the same array every time."""
    part = KEPT[: len(x)]
    np.add(x, rng.normal(size=x.shape), out=part)
    return part


class Lazy:
    """Rows that are read when they are asked for: a length, and rows by an array of their numbers."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, numbers):
        assert isinstance(numbers, np.ndarray)
        self.asked.append((len(numbers), threading.current_thread().name))
        return self.array[numbers]


@pytest.mark.parametrize("data", ["arrays", "lazy", "stream"])
@pytest.mark.parametrize("change", [None, AUGMENT, in_place], ids=["as they are", "fastconv's", "one's own"])
def test_the_same_bits_in_line_and_ahead(data, change):
    given = {"arrays": (X, Y), "lazy": (Lazy(X), Y), "stream": (stream,)}[data]
    validation = (X[:20], Y[:20]) if data == "arrays" else stream
    results = []
    for prefetch, count in ((0, 1), (1, 2), (2, 1), (5, 2)):
        before = fc.get_num_threads()
        fc.set_num_threads(count)
        trainer = make_trainer()
        trainer.fit(*given, epochs=2, batch_size=15, augment=change, validation_data=validation, prefetch=prefetch)
        fc.set_num_threads(before)
        results.append((bits(trainer), [record["val_loss"] for record in trainer.history]))
    assert all(result == results[0] for result in results[1:])


@pytest.mark.parametrize("samples", [0, 1, 2, 1000])
def test_samples_come_in_numpys_order(samples):
    found = data_module._permutation(np.random.default_rng(5), samples)
    expected = np.random.default_rng(5).permutation(samples)
    assert found.dtype == expected.dtype and found.tolist() == expected.tolist()


def test_no_room_for_batches_that_may_never_be_held_together(monkeypatch):
    def refuse(*what):
        raise MemoryError

    monkeypatch.setattr(ahead_module, "allocate", refuse)
    trainer = make_trainer()
    trainer.fit(X, Y, epochs=1, batch_size=15, augment=AUGMENT, prefetch=2)
    assert trainer.epoch == 1


def test_at_most_so_many_are_made_before_they_are_asked_for():
    made, done = [0], [0]
    seen = []

    def count(x, rng):
        made[0] += 1
        seen.append(made[0] - done[0])
        return x

    class Slow(fc.Layer):
        def forward(self, x, context):
            time.sleep(0.02)
            return x, None

        def backward(self, dy, saved, need_dx):
            done[0] += 1
            return dy, {}

    trainer = make_trainer()
    trainer.net = fc.Sequential(trainer.net, Slow())
    trainer.fit(Lazy(X), Y, epochs=1, batch_size=9, augment=count)
    assert max(seen) == 3 and made[0] == 10  # the step's own, and two


def test_what_is_read_lazily_is_read_a_batch_at_a_time_and_beside_the_steps():
    lazy = Lazy(X)
    make_trainer().fit(lazy, Y, epochs=1, batch_size=15)
    assert [size for size, _ in lazy.asked] == [1, 64, *[15] * 6]  # what it is, its fingerprint, the steps
    assert {name for _, name in lazy.asked[2:]} == {"fastconv-ahead"}
    assert make_trainer().evaluate(Lazy(X), Y) == make_trainer().evaluate(X, Y)


def test_rows_that_are_none():
    class OneForAll(Lazy):
        def __getitem__(self, numbers):
            return self.array[0]

    with pytest.raises(ValueError, match=r"X\[numpy.array\(\[0\]\)\] must be an array of one row, got shape \(2, 8, "):
        make_trainer().fit(OneForAll(np.zeros((90, 2, 8, 8))), Y, epochs=1)
    assert make_trainer().fit(Numbered(X), Y, epochs=1)["step"] == [1]


class Numbered(Lazy):
    """Has rows by single numbers only: it is read whole."""

    def __getitem__(self, number):
        return self.array[operator.index(number)]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("where", ["iterable", "augment", "type", "nothing", "step"])
def test_what_is_raised_comes_out_at_its_step(prefetch, where, tmp_path):
    closed = []

    def broken():
        try:
            for i in range(0, 90, 15):
                if where == "iterable" and i == 45:
                    raise OSError("the disk is gone")
                yield X[i : i + 15] if (where, i) != ("type", 45) else np.array(["no"]), Y[i : i + 15]
        finally:
            closed.append(threading.current_thread().name)

    calls = []

    def change(x, rng):
        calls.append(1)
        if where == "augment" and len(calls) == 4:
            raise StopIteration("of all things")
        if where == "step" and len(calls) == 4:
            x = np.full(x.shape, np.nan, np.float32)
        return x

    trainer = make_trainer(checkpoint=tmp_path / "checkpoint", functions={"change": change})
    expected, message = {
        "iterable": (OSError, "the disk is gone"),
        "augment": (RuntimeError, "StopIteration"),
        "type": (TypeError, "must hold real numbers"),
        "nothing": (None, ""),
        "step": (FloatingPointError, "in step 4"),
    }[where]
    if expected is None:
        trainer.fit(broken, epochs=1, augment=change, prefetch=prefetch)
        assert trainer.step == 6
    else:
        with pytest.raises(expected, match=message) as caught:
            trainer.fit(broken, epochs=1, augment=change, prefetch=prefetch)
        assert trainer.step == 3
        if where in ("iterable", "augment"):
            frames = [
                frame.name for frame in traceback.extract_tb((caught.value.__cause__ or caught.value).__traceback__)
            ]
            assert frames[-1] == {"iterable": "broken", "augment": "change"}[where]
    assert closed == ["fastconv-ahead" if prefetch else threading.current_thread().name]


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_resumed_with_batches_under_way(stop, tmp_path):
    """Whatever was made ahead of the step in which a run ended leaves no trace."""
    whole = make_trainer()
    whole.fit(X, Y, epochs=2, batch_size=15, augment=AUGMENT, prefetch=0)
    path = tmp_path / "checkpoint"
    trainer = make_trainer(checkpoint=path, checkpoint_every=1)
    step = trainer._step

    def interrupted(*arguments):
        if trainer.step == stop:
            raise KeyboardInterrupt
        step(*arguments)

    trainer._step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, Y, epochs=2, batch_size=15, augment=AUGMENT, prefetch=4)
    assert trainer.step == stop
    resumed = Trainer.resume(path)
    resumed.fit(X, Y, prefetch=3)
    assert bits(resumed) == bits(whole)
    del trainer._step
    trainer.fit(X, Y)  # and so does the same trainer
    assert bits(trainer) == bits(whole)


def test_interrupted_while_a_batch_is_awaited():
    begun = time.monotonic()

    def slow():
        yield X[:15], Y[:15]
        while not trainer.step:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        yield X[:15], Y[:15]

    trainer = make_trainer()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(slow, epochs=1)
    assert trainer.step == 1 and time.monotonic() - begun < ahead_module.PATIENCE


def test_a_thread_that_hangs_is_left_behind(monkeypatch):
    monkeypatch.setattr(ahead_module, "PATIENCE", 0.05)
    go_on = threading.Event()

    def hanging():
        yield X[:15], np.full(15, 9)  # not a class: the step raises
        go_on.wait()
        yield X[:15], Y[:15]

    with pytest.raises(ValueError, match="cross_entropy"):
        make_trainer().fit(hanging, epochs=1)
    left = threads()
    go_on.set()
    for thread in left:
        thread.join()


def test_fit_inside_fit():
    inner = []

    def train_another(*_):
        trainer = make_trainer()
        trainer.fit(X, Y, epochs=1, batch_size=45, augment=AUGMENT)
        inner.append(bits(trainer))
        return _[0] if isinstance(_[0], np.ndarray) else None

    trainer, plain = make_trainer(), make_trainer()
    trainer.fit(X, Y, epochs=1, batch_size=30, augment=train_another, callbacks=[train_another])
    plain.fit(X, Y, epochs=1, batch_size=30)
    assert len(inner) == 4 and all(each == inner[0] for each in inner)
    assert bits(trainer) == bits(plain)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_goes_on_by_itself():
    """Where the parent had batches ahead: the child ends the same epoch with the same bits, and so does the parent."""
    whole = make_trainer()
    whole.fit(X, Y, epochs=1, batch_size=15, augment=AUGMENT, prefetch=0)
    trainer, children = make_trainer(), []
    step = trainer._step

    def forking(*arguments):
        step(*arguments)
        if trainer.step == 2:
            children.append(os.fork())

    trainer._step = forking
    try:
        trainer.fit(X, Y, epochs=1, batch_size=15, augment=AUGMENT)
        same = bits(trainer) == bits(whole)
    finally:
        if children == [0]:
            os._exit(0 if same else 1)
    assert same
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(children[0], os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(children[0], signal.SIGKILL)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_in_line_where_a_thread_brings_nothing(monkeypatch):
    """A single batch; arrays in memory, and one CPU."""
    names = []

    def look(x, rng):
        names.append(threading.current_thread().name == "fastconv-ahead")
        return x

    def fit(data, batch_size):
        names.clear()
        make_trainer().fit(data, Y, epochs=1, batch_size=batch_size, augment=look)
        return names

    for cpus, ahead_of_arrays in ((2, True), (1, False)):
        monkeypatch.setattr(ahead_module, "usable_cpus", lambda cpus=cpus: cpus)
        assert fit(X, 45) == [ahead_of_arrays] * 2
        assert fit(Lazy(X), 45) == [True] * 2
        assert fit(Lazy(X), 90) == [False]


def test_without_a_thread(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert list(ahead(lambda n: (i for i in range(n, 5)), 2)) == [0, 1, 2, 3, 4]


def test_context_variables_are_the_callers():
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    with np.errstate(divide="raise"):
        assert list(ahead(lambda _: ((variable.get(), np.geterr()["divide"]) for _ in range(1)), 1)) == [(7, "raise")]


def test_closed_before_it_began():
    items = ahead(lambda n: (i for i in range(n, 5)), 2)
    items.close()
    items = ahead(lambda n: (i for i in range(n, 5)), 2)
    assert next(items) == 0
    items.close()
    assert list(items) == []


def test_bad_prefetch():
    for value, error in ((-1, ValueError), (1.5, TypeError), ("two", TypeError)):
        with pytest.raises(error, match="fit: prefetch must be"):
            make_trainer().fit(X, Y, epochs=1, prefetch=value)


def test_more_than_anybody_has():
    found, expected = make_trainer(), make_trainer()
    found.fit(X, Y, epochs=1, batch_size=9, prefetch=10**12)
    expected.fit(X, Y, epochs=1, batch_size=9)
    assert bits(found) == bits(expected)
    made = []
    items = ahead(lambda done: (made.append(n) or n for n in itertools.count()), 10**12)
    assert next(items) == 0
    items.close()
    assert len(made) <= MOST + 1


def test_beside_a_thread_that_never_waits():
    """A step goes on beside pure Python, to the same bits."""
    stop = threading.Event()

    def count():
        n = 0
        while not stop.is_set():
            n += 1

    other = threading.Thread(target=count)
    other.start()
    try:
        trainer, plain = make_trainer(), make_trainer()
        trainer.fit(X, Y, epochs=2, batch_size=15, augment=AUGMENT)
    finally:
        stop.set()
        other.join()
    plain.fit(X, Y, epochs=2, batch_size=15, augment=AUGMENT, prefetch=0)
    assert bits(trainer) == bits(plain)


def test_threads_take_turns_sooner_while_one_trains():
    before = sys.getswitchinterval()
    seen = []

    def look(*_):
        seen.append(sys.getswitchinterval())

    def train(*_):
        make_trainer().fit(X, Y, epochs=1, callbacks=[look])

    make_trainer().fit(X, Y, epochs=1, callbacks=[look, train, look])
    assert seen == [pytest.approx(50e-6)] * 3
    assert sys.getswitchinterval() == before
    try:
        make_trainer().fit(X, Y, epochs=1, callbacks=[lambda *_: sys.setswitchinterval(2e-3)])
        assert sys.getswitchinterval() == pytest.approx(2e-3)  # set meanwhile
        sys.setswitchinterval(20e-6)
        make_trainer().fit(X, Y, epochs=1, callbacks=[look])
        assert sys.getswitchinterval() == seen[-1] == pytest.approx(20e-6)  # shorter than ours
    finally:
        sys.setswitchinterval(before)
