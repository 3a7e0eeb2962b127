"""The next batches, made by a thread of their own while the present one is trained on."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["ahead"]

PATIENCE = 5.0  # seconds that the thread has, when it is told to end, for the item that it is at
END = object()

T = TypeVar("T")
Make = Callable[[int], Generator[T, None, None]]


def ahead(make: Make[T], most: int) -> Generator[T, None, None]:
    """What the generator make(0) yields, up to `most` items of it made before they are asked for; 0: in the caller's
    thread.

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
            for _ in range(most):
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
