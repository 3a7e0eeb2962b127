"""Data-parallel training over MPI: everything that knows of ranks.

    mpiexec -n 4 python -m fastconv train …
    Trainer(net, optimizer, communicator=MPI.COMM_WORLD, sync_batch_norm=True)

Each rank is a process with a team of threads of its own and takes its part of every batch (`part_of`); gradients are
added up over the ranks, in buckets, while the backward goes on (`Buckets`), and every rank makes the same update.
mpi4py (pip install "fastconv[mpi]") is imported by `launched` alone, where a launcher says that there are several.

MPI is called from the thread that trains and from no other. Neither MPI progresses by itself: every call is one that
returns at once, and is tested after each step of the backward; what is waited for is polled, with pauses that grow, and
not for longer than FASTCONV_MPI_TIMEOUT seconds (default 300; twelve times that where one rank is known to work alone).

A rank that fails says so to the others and ends all of them: one traceback, that of the lowest rank that failed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import socket
import sys
import threading
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.machine import launcher
from fastconv.machine.memory import allocate
from fastconv.machine.threads import usable_cpus
from fastconv.version import __version__

__all__ = [
    "Buckets",
    "Ranks",
    "code_checksum",
    "fail",
    "launched",
    "leads",
    "own_cpus",
    "part_of",
    "ranks_of",
    "speaks",
]

BUCKET = 4 << 20  # bytes of gradients that are sent together; a larger gradient is a bucket of its own
MOST = 1 << 30  # elements of one call: MPI counts in 32 bits
TIMEOUT = 300.0
ALONE = 12  # times the timeout, where one rank is known to work alone
SPIN = 50  # tests before the first pause
PAUSES = 2e-5, 1e-3  # seconds, the first and the longest
CLAIM = 1.0  # seconds that a rank which failed gives others to say that they did
ABORT = 2.0  # seconds that MPI_Abort has
FAILED = 7  # tag of a message: this rank has failed


# --- who is there ----------------------------------------------------------------------------------------------------


def speaks() -> bool:
    """Whether this process is the one to say what every rank would say alike: outside of MPI it is."""
    if _worlds:
        return _worlds[-1].rank == 0
    rank = launcher.number(launcher.RANKS)
    return rank is None or rank[1] == 0


def leads() -> bool:
    """Whether this process trains alone, or is the first of the ranks that do so together."""
    return not _worlds or _worlds[-1].rank == 0


def _need_all(communicator: Any) -> None:
    """RuntimeError where the launcher has begun more ranks than MPI knows of."""
    told = launcher.told_ranks()
    world = _module_of(communicator)
    if told is None or world is None or not hasattr(world, "COMM_WORLD"):
        return
    size = world.COMM_WORLD.Get_size()
    if size < told[1]:
        vendor = " ".join(map(str, [world.get_vendor()[0], ".".join(map(str, world.get_vendor()[1]))]))
        other = "Open MPI" if told[0].startswith("OMPI") else "MPICH's kind" if told[0] == "PMI_SIZE" else "PMIx"
        raise RuntimeError(
            f"the launcher is of {other} ({told[0]}: {told[1]} ranks at least) and mpi4py has loaded {vendor} "
            f"({size} rank{'s' * (size != 1)}): begin with the other mpiexec, or name its library by MPI4PY_MPIABI or "
            "MPI4PY_LIBMPI"
        )


def launched() -> Ranks | None:
    """The ranks that a launcher has begun; None where there is but one, and mpi4py is then not imported.

    Raises ImportError without mpi4py, RuntimeError where it has loaded another MPI than the launcher's.
    """
    told = launcher.told_ranks()
    if told is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another launcher, which `ranks_of` says in one line
            from mpi4py import MPI
    except ModuleNotFoundError:
        raise ImportError(
            f'{told[0]} says that there are several ranks, these need mpi4py: pip install "fastconv[mpi]"'
        ) from None
    except (ImportError, RuntimeError) as error:  # it is there, its MPI is not
        reason = " ".join(str(error).split())
        raise ImportError(
            f"mpi4py finds no MPI ({reason}): name it by MPI4PY_MPIABI, openmpi or mpich, or by MPI4PY_LIBMPI, its file"
        ) from None
    return ranks_of(MPI.COMM_WORLD)


def ranks_of(communicator: Any) -> Ranks | None:
    """The ranks of a communicator (mpi4py's, or what behaves like one); None for one rank. Collective."""
    if communicator is None:
        return None
    if isinstance(communicator, Ranks):
        return communicator
    if not all(hasattr(communicator, name) for name in ("Get_rank", "Iallreduce", "Iallgather", "Idup")):
        raise TypeError(f"Trainer: communicator must be one of mpi4py's, e.g. MPI.COMM_WORLD, got {communicator!r}")
    _need_all(communicator)
    return Ranks(communicator) if communicator.Get_size() > 1 else None


def _module_of(communicator: Any) -> Any:
    """mpi4py.MPI, or the module of what stands for it."""
    modules = (sys.modules.get(cls.__module__) for cls in type(communicator).__mro__)
    return next((module for module in modules if hasattr(module, "IN_PLACE")), None)


def own_cpus() -> list[int]:
    """The CPUs that this process is bound to, or all; [] where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def part_of(samples: int, rank: int, size: int) -> slice:
    """Which of a batch's samples are a rank's: neighbours, as many as others have or one more; the first ranks have
    the more."""
    return slice(-(-samples * rank // size), -(-samples * (rank + 1) // size))


def code_checksum() -> str:
    """Over the sources of this package and of the program that is run."""
    checksum = _package_checksum()
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        text = b"" if program is None else Path(program).read_bytes()
    except OSError:
        text = b""
    return f"{__version__} {zlib.crc32(text, checksum):08x}"


@functools.lru_cache(maxsize=1)
def _package_checksum() -> int:
    checksum = 0
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        checksum = zlib.crc32(path.read_bytes(), zlib.crc32(path.relative_to(package).as_posix().encode(), checksum))
    return checksum


def _timeout() -> float:
    text = os.environ.get("FASTCONV_MPI_TIMEOUT", "").strip()
    try:
        value = float(text) if text else TIMEOUT
    except ValueError:
        value = math.nan
    if not value > 0:
        raise ValueError(f"FASTCONV_MPI_TIMEOUT must be a number of seconds above 0, got {text[:80]!r}")
    return value


# --- the ranks -------------------------------------------------------------------------------------------------------


class Ranks:
    """The ranks of a communicator, of which this process is one.

    rank, size, host
    step      what this rank is at, for messages
    waited    seconds that it has waited for the others' gradients;  sent   bytes of gradients
    """

    def __init__(self, communicator: Any) -> None:
        self.timeout = _timeout()
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()
        self.host = socket.gethostname()
        self.step = 0
        self.waited, self.sent = 0.0, 0
        self.overlaps = os.environ.get("FASTCONV_MPI_OVERLAP", "1") != "0"
        module = _module_of(communicator)
        self._in_place = getattr(module, "IN_PLACE", None)
        self._world = getattr(module, "COMM_WORLD", communicator)  # MPICH ends no other ranks than a communicator's
        self._announced = ""  # what one rank is doing alone
        self._agreed: BaseException | None = None  # what all ranks raise
        self._told: BaseException | None = None  # what was printed
        # our messages meet nobody else's, and gradients nothing else
        self._words, self._gradients = self._copy(communicator), self._copy(communicator)
        if not _worlds:
            sys.excepthook = functools.partial(_unhandled, sys.excepthook)
        _worlds.append(self)

    def _copy(self, communicator: Any) -> Any:
        copy, request = communicator.Idup()
        self.wait([request], "the others to get here")
        return copy

    def __deepcopy__(self, memo: Any) -> Ranks:
        return self

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size} on {self.host}>"

    # --- waiting

    def wait(self, requests: Sequence[Any], what: str) -> None:
        """Until they are done; on no word for too long, a line and the end of all ranks."""
        alone, self._announced = self._announced, ""
        begun = time.monotonic()
        patience = self.timeout * (ALONE if alone else 1)
        left = list(requests)
        tests, pause = 0, PAUSES[0]
        while True:
            pending = [request for request in left if not request.Test()]
            if not pending:
                return
            now = time.monotonic()
            if len(pending) < len(left):
                left, begun = pending, now
            if now - begun > patience:
                also = f" (after: {alone})" if alone else ""
                self._end(
                    f"fastconv: rank {self.rank} on {self.host}, step {self.step}: nothing has arrived for "
                    f"{patience:g} s; waiting for {what}{also} (FASTCONV_MPI_TIMEOUT)",
                )
            tests += 1
            if tests < SPIN:
                os.sched_yield() if hasattr(os, "sched_yield") else time.sleep(0)
            else:
                time.sleep(pause)
                pause = min(2 * pause, PAUSES[1])

    def announce(self, what: str) -> None:
        """Every rank knows that rank 0 does this alone now: the next word may be late."""
        self._announced = f"rank 0 {what}"

    def alone(self, what: str, function: Callable[[], Any]) -> Any:
        """Have rank 0 do this while the others wait; its answer there, None elsewhere."""
        answer = function() if self.rank == 0 else None
        self.announce(what)
        self.wait_for("to end")
        return answer

    def describe(self, threads: int) -> list[dict[str, Any]]:
        """Every rank's host, threads and CPUs."""
        return self.gather_data({"host": self.host, "threads": threads, "cpus": own_cpus()}, "the others")

    def threads(self) -> int:
        """Threads that leave a CPU for each of the ranks here that may use the same ones."""
        here = self.gather_data([self.host, own_cpus()], "the others")
        sharing = len([each for each in here if each == here[self.rank]])
        return max(1, usable_cpus() // sharing)

    def wait_for(self, what: str) -> None:
        """Until every rank is here."""
        self.gather(np.zeros(1), f"the others {what}")

    # --- words

    def gather(self, values: Any, what: str) -> np.ndarray:
        """Everybody's numbers (n,), as float64 (ranks, n)."""
        own = np.ascontiguousarray(values, np.float64)
        every = np.empty((self.size, *own.shape))
        self.wait([self._words.Iallgather(own, every)], what)
        return every

    def gather_bytes(self, data: bytes, what: str) -> list[bytes]:
        """Everybody's bytes, of whatever lengths."""
        lengths = self.gather([len(data)], what)[:, 0].astype(int).tolist()
        longest = max(lengths)
        if not longest:
            return [b""] * self.size
        own = np.zeros(longest, np.uint8)
        own[: len(data)] = np.frombuffer(data, np.uint8)
        every = np.empty((self.size, longest), np.uint8)
        self.wait([self._words.Iallgather(own, every)], what)
        return [row[:length].tobytes() for row, length in zip(every, lengths, strict=True)]

    def gather_data(self, data: Any, what: str) -> list[Any]:
        """Everybody's data, of what JSON holds."""
        return [json.loads(text) for text in self.gather_bytes(json.dumps(data).encode(), what)]

    def gather_rows(self, array: np.ndarray, what: str) -> np.ndarray:
        """Everybody's rows of arrays that differ in their number alone, in the ranks' order."""
        parts = self.gather_bytes(np.ascontiguousarray(array).tobytes(), what)
        return np.concatenate(
            [np.frombuffer(part, array.dtype).reshape(-1, *array.shape[1:]) for part in parts if part] or [array]
        )

    def share(self, arrays: Iterable[np.ndarray], what: str) -> None:
        """Give every rank the values that rank 0 has."""
        for array in arrays:
            own = np.ascontiguousarray(array).reshape(-1)
            for begin in range(0, own.size, MOST):
                self.wait([self._words.Ibcast(own[begin : begin + MOST], 0)], what)
            if self.rank and own.size:
                array[...] = own.reshape(array.shape)

    def share_data(self, data: Any, what: str) -> Any:
        """Rank 0's data, of what JSON holds."""
        return self.gather_data(data if self.rank == 0 else None, what)[0]

    # --- what must be the same everywhere

    def need_same(self, owner: str, data: Mapping[str, Any]) -> None:
        """ValueError, on every rank, where one's data is not that of rank 0: which, and what it has."""
        every = self.gather_data({"host": self.host, **data}, "what the others train on")
        for rank, other in enumerate(every):
            for name in data:
                if other[name] != every[0][name]:
                    where, one, first = _difference(name, other[name], every[0][name])
                    raise self.agreed(
                        ValueError(
                            f"{owner}: rank {rank} on {other['host']} is not like rank 0 on {every[0]['host']}: "
                            f"{where} {_short(one)}, not {_short(first)}"
                        )
                    )

    def need_equal(self, arrays: Mapping[str, np.ndarray]) -> None:
        """RuntimeError, on every rank, where one's weights are not those of rank 0: the first that is another."""
        own = [_checksum(array) for array in arrays.values()]
        whole = zlib.crc32(np.array(own, np.uint32).tobytes())
        if (every := self.gather([whole], "the weights' checksum")[:, 0]).min() == every.max():
            return
        table = self.gather(own, "the weights' checksums")
        different = (table != table[0]).any(axis=0)
        names = list(arrays)
        first = int(different.argmax())
        rank = int((table[:, first] != table[0, first]).argmax())
        raise self.agreed(
            RuntimeError(
                f"fit: after step {self.step} the weights of rank {rank} are not those of rank 0: the first that "
                f"differs is {names[first]} ({int(different.sum())} of {len(names)} do)"
            )
        )

    # --- the end

    def agreed(self, error: BaseException) -> Any:
        """The error, which every rank raises now: nobody has to be ended."""
        self._agreed = error
        return error

    def ended(self, error: BaseException) -> None:
        """This rank raises: unless all do so for one reason, its traceback is printed and all end."""
        if error is not self._agreed:
            self.tell(error, self._traceback(error))

    def tell(self, error: BaseException, text: str, status: int = 1) -> None:
        """An error that nobody will handle: its text is printed once, and the ranks that go on end."""
        if error is not self._told:
            self._told = error
            self.fail(text, status)

    def _traceback(self, error: BaseException) -> str:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return f"fastconv: rank {self.rank} on {self.host}, step {self.step}:\n{text.rstrip()}"

    def fail(self, text: str, status: int = 1) -> None:
        """This rank has failed; returns where all have. The lowest one that has prints its text."""
        if self.rank == 0:
            _print(text)
        failed: set[int] = set()
        try:
            failed = self._others_failed()
        except Exception as error:  # MPI's own: the connection may be what has failed
            text = f"{text}\nfastconv: rank {self.rank} on {self.host} cannot reach the others: {error}"
        if self.rank and self.rank < min(failed, default=self.size):
            _print(text)
        if len(failed) < self.size - 1:
            self._end("", status)

    def _others_failed(self) -> set[int]:
        """Tell the others, and listen for a while which of them say the same."""
        others = set(range(self.size)) - {self.rank}
        requests = [self._words.Isend(np.zeros(1, np.int64), other, FAILED) for other in others]
        failed: set[int] = set()
        begun = time.monotonic()
        while failed != others and time.monotonic() - begun < CLAIM:
            for other in sorted(others - failed):
                if self._words.Iprobe(other, FAILED):
                    self._words.Recv(np.zeros(1, np.int64), other, FAILED)
                    failed.add(other)
            for request in requests:
                request.Test()
            time.sleep(PAUSES[1])
        return failed

    def _end(self, text: str, status: int = 1) -> None:
        """Print, and end all ranks; MPI_Abort may hang, this process does not."""
        if text:
            _print(text)
        _exit_after(ABORT, status)
        self._world.Abort(status)
        os._exit(status)


_worlds: list[Ranks] = []  # of this process


def fail(error: BaseException, text: str, status: int) -> bool:
    """Whether the text of a command's error was told, once, for all ranks of a launcher; else it is to be told here."""
    if _worlds:
        _worlds[-1].tell(error, text, status)
        return True
    return not speaks()


def _unhandled(before: Callable[..., Any], kind: Any, error: BaseException, trace: Any) -> None:
    """Python's last word on an error: once where every rank raises, else the others end with it."""
    ranks = _worlds[-1]
    if isinstance(error, KeyboardInterrupt | Exception):
        ranks.tell(error, ranks._traceback(error))
    else:
        before(kind, error, trace)


def _exit_after(seconds: float, status: int) -> None:
    late = threading.Timer(seconds, os._exit, (status,))
    late.daemon = True
    late.start()


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


def _difference(name: str, one: Any, other: Any) -> tuple[str, Any, Any]:
    """Where two things differ: of dicts the first entry."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            if one.get(key) != other.get(key):
                return _difference(f"{name}: {key}", one.get(key), other.get(key))
    return name, one, other


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


# --- gradients -------------------------------------------------------------------------------------------------------


class Buckets:
    """The sums of a net's gradients over the ranks, of a bucket as soon as all of its gradients are final.

    Buckets are filled in the order of the backward, and begun in their own order, which is the same on every rank. A
    gradient is copied beside the others of its bucket, and its own memory freed; what `finish` returns are views.
    """

    def __init__(self, ranks: Ranks, net: Any, parameters: Mapping[str, np.ndarray]) -> None:
        self.ranks, self.net = ranks, net
        self._buckets: list[list[str]] = []
        self._places: dict[str, tuple[int, int]] = {}  # bucket and first element
        self._parameters = dict(parameters)
        sizes: list[int] = []
        last: Any = None
        for name, array in reversed(list(self._parameters.items())):
            if not sizes or last != array.dtype or sizes[-1] * array.itemsize + array.nbytes > BUCKET:
                self._buckets.append([])
                sizes.append(0)
            last = array.dtype
            self._places[name] = len(sizes) - 1, sizes[-1]
            self._buckets[-1].append(name)
            sizes[-1] += array.size
        self._sizes = sizes
        self._begin()

    def _begin(self) -> None:
        self._memory: dict[int, np.ndarray] = {}
        self._missing = [len(names) for names in self._buckets]
        self._views: dict[str, np.ndarray] = {}
        self._requests: list[Any] = []
        self._next = 0  # the bucket that is to be sent next

    def final(self, net: Any, gradients: dict[str, np.ndarray], names: Iterable[str]) -> None:
        """The plan's word that these gradients are final: they become views of their bucket."""
        if net is not self.net:  # a container inside, which has names of its own
            return
        for name in names:
            self._put(name, gradients)
        if self.ranks.overlaps:
            self._send()
            self.progress()

    def progress(self) -> None:
        """Let MPI go on."""
        self._requests = [request for request in self._requests if not request.Test()]

    def finish(self, gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The gradients of all ranks, added up."""
        try:
            for name in self._places:
                if name not in self._views:
                    self._put(name, gradients)
            self._send()
            begun = time.perf_counter()
            what = f"the gradients' sum ({len(self._buckets)} buckets, {sum(self._sizes):,} numbers)"
            self.ranks.wait(self._requests, what)
            self.ranks.waited += time.perf_counter() - begun
            return {name: self._views[name] for name in gradients}
        finally:
            self._begin()

    def _put(self, name: str, gradients: dict[str, np.ndarray]) -> None:
        at, first = self._places[name]
        parameter, gradient = self._parameters[name], gradients[name]
        if at not in self._memory:
            self._memory[at] = allocate("fit", (self._sizes[at],), parameter.dtype)
        order = sorted(range(parameter.ndim), key=lambda axis: -parameter.strides[axis])
        part = self._memory[at][first : first + parameter.size]
        view = part.reshape([parameter.shape[axis] for axis in order]).transpose(np.argsort(order))
        np.copyto(view, gradient)
        self._views[name] = gradients[name] = view
        self._missing[at] -= 1

    def _send(self) -> None:
        """Begin with every bucket that is full, in order."""
        ranks = self.ranks
        while self._next < len(self._buckets) and not self._missing[self._next]:
            memory = self._memory[self._next]
            for begin in range(0, memory.size, MOST):
                part = memory[begin : begin + MOST]
                self._requests.append(ranks._gradients.Iallreduce(ranks._in_place, part))
            ranks.sent += memory.nbytes
            self._next += 1
