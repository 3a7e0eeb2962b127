"""The next batches, made ready by a thread of their own while the present one is trained on."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from fastconv.augment import Augment
from fastconv.layers.base import Layer
from fastconv.machine.memory import allocate
from fastconv.machine.threads import usable_cpus
from fastconv.training.data import (
    STEP,
    ArrayBatches,
    Batch,
    Part,
    PartBatch,
    StreamBatches,
    copied,
    generator,
    rows_of,
    samples_of,
)
from fastconv.training.mixing import Mixed, augmented

__all__ = ["ahead", "prepared"]

MOST = 64  # items that are made before they are asked for, however many one wishes
FEW = 2  # of them, for which there is memory from the first one on
PATIENCE = 5.0  # seconds that the thread has, when it is told to end, for the item that it is at
END = object()

T = TypeVar("T")
Make = Callable[[int], Generator[T, None, None]]
Prepared = Generator[tuple[Batch, Any], None, None]


def prepared(
    net: Layer,
    source: ArrayBatches | StreamBatches,
    epoch: int,
    start: int,
    prefetch: int,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    draws: tuple[int, int] | None = None,
    every: int = 1,
    part: Part | None = None,
) -> Prepared:
    """The batches of an epoch from number `start` on, changed by `augment` and of the net's float type, each with the
    generator that `augment` has drawn from and the step goes on with: of `draws`, which is (seed, number of the first).

    `prefetch` batches are made before they are asked for, where that can bring anything. They stay as they are while
    others are made: what an iterable or somebody's augmentation may write over is copied.

    every   one of so many batches;  part   the samples of each batch that are wanted; what `augment` changes is read
    whole, for it draws for all of a batch
    """
    if (source.steps is not None and source.steps - start < 2) or (source.is_in_memory and usable_cpus() == 1):
        prefetch = 0  # there is nothing that could be made meanwhile, or nothing that could make it
    others_batch = prefetch and isinstance(source, StreamBatches)
    others_change = prefetch and not isinstance(augment, Augment)

    def make(done: int) -> Prepared:
        read = part if augment is None else None
        for number, batch in enumerate(source.epoch(epoch, start + done * every, every, read), done):
            x, *others = map(copied, batch) if others_batch else batch
            place = (batch.first, batch.whole) if isinstance(batch, PartBatch) else (0, samples_of(x))
            rng = None if draws is None else generator(draws[0], STEP, draws[1] + number)
            if augment is not None and rng is not None:
                x, others[0] = augmented(augment, x, others[0], rng)
                if part is not None:
                    x, *others = own = _part(part(samples_of(x)), x, *others)
                    place = own.first, own.whole
                x = copied(x) if others_change else x
            with np.errstate(all="ignore"):
                x = net.cast(x)
            if prefetch and number == done and isinstance(x, np.ndarray):
                _make_room(x, min(prefetch, FEW))
            yield PartBatch.of((x, *others), *place), rng

    return ahead(make, prefetch)


def _make_room(x: np.ndarray, count: int) -> None:
    """Have memory for so many batches more, like this one: as many as are held once the thread is ahead."""
    with contextlib.suppress(MemoryError):  # they may never be held together
        [allocate("fit", x.shape, x.dtype) for _ in range(count)]


def _part(rows: slice, x: Any, y: Any, *weight: Any) -> PartBatch:
    """Some samples of a batch; where images were mixed, all targets and weights are still needed."""
    if isinstance(y, Mixed):
        return PartBatch.of((x[rows], y[rows], *weight), rows.start, samples_of(x))
    return rows_of((x, y, *weight), rows)


def ahead(make: Make[T], most: int) -> Generator[T, None, None]:
    """What the generator make(0) yields, up to `most` items of it made before they are asked for (MOST at most); 0: in
    the caller's thread.

    make(n) leaves out the first n items: a forked child, which has no such thread, goes on with it by itself, and so
    does a process that gets no thread. What is raised in the thread is raised here, at its item. The thread has the
    caller's context variables. It ends with the items, or when this generator is closed; one that hangs in foreign code
    for longer than PATIENCE is left behind, and ends when that returns.
    """
    wanted: SimpleQueue[bool] = SimpleQueue()
    ready: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    stopped = threading.Event()
    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(_work, make, wanted, ready, stopped), name="fastconv-ahead", daemon=True
    )
    process, done = os.getpid(), 0
    try:
        if most and _is_started(thread):
            for _ in range(min(most, MOST)):
                wanted.put(True)
            while os.getpid() == process:
                item, error = ready.get()
                if error is not None:
                    raise error
                if item is END:
                    return
                wanted.put(True)
                done += 1
                yield item
        yield from make(done)
    finally:
        if os.getpid() == process:  # else there is none, and the queues may be locked for ever
            stopped.set()
            wanted.put(False)
            if thread.is_alive():
                thread.join(PATIENCE)


def _is_started(thread: threading.Thread) -> bool:
    """Whether there was a thread for it."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _work(
    make: Make[Any],
    wanted: SimpleQueue[bool],
    ready: SimpleQueue[tuple[Any, BaseException | None]],
    stopped: threading.Event,
) -> None:
    """The thread: an item for each True that is wanted."""
    items = make(0)
    try:
        while wanted.get() and not stopped.is_set():
            ready.put((next(items, END), None))
        items.close()
    except BaseException as error:
        ready.put((None, error))
