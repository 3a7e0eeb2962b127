"""The thread team, from Python: same bits whoever computes, nobody waits, signals and forks at any moment.

tests/team_stress.c runs it in C; `make sanitize` does so under ThreadSanitizer.
"""

import concurrent.futures
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import functional, machine, vjp
from fastconv._ext import team
from fastconv.interrupts import uninterrupted

KERNELS = Path(fastconv.__file__).parent / "_ext"
TIMEOUT = 60


@pytest.fixture
def crowd(monkeypatch):
    """Has the team use more threads than there are CPUs."""
    monkeypatch.setattr(machine.threads, "usable_cpus", lambda: 64)
    yield fastconv.set_num_threads
    monkeypatch.undo()
    fastconv.set_num_threads(machine.threads.usable_cpus())


def small_net():
    return fastconv.Sequential(
        fastconv.Conv2d(3, 16, 3, padding=1, rng=0), fastconv.BatchNorm2d(16), fastconv.ReLU(),
        fastconv.Conv2d(16, 32, 3, padding=1, rng=1), fastconv.MaxPool2d(2),
        fastconv.Conv2d(32, 32, 3, groups=32, padding=1, rng=2), fastconv.GELU(), fastconv.Flatten(),
        fastconv.Linear(32 * 144, 10, rng=3),
    )  # fmt: skip


def trained(steps=3):
    """The parameters of a net after some steps."""
    rng = np.random.default_rng(0)
    net, optimizer = small_net(), fastconv.optim.Adam(1e-3)
    x = rng.standard_normal((32, 3, 24, 24), np.float32)
    target = rng.integers(0, 10, 32)
    for _ in range(steps):
        _, gradients = fastconv.value_and_grad(net, functional.cross_entropy, x, target)
        optimizer.step(net.parameters(), gradients)
    return net.state_dict()


def test_same_bits_at_any_number_of_threads(crowd):
    crowd(1)
    expected = trained()
    for threads in (2, 3, 7, 16):
        crowd(threads)
        found = trained()
        assert all(np.array_equal(found[name], expected[name]) for name in expected), threads
        assert 1 <= team.helpers() <= threads - 1


def test_helpers_leave(crowd):
    crowd(7)
    trained(1)
    assert team.helpers() > 1
    crowd(2)
    assert team.helpers() <= 1
    crowd(1)
    assert team.helpers() == 0
    deadline = time.monotonic() + 10
    while any(name.startswith("fastconv-") for name in names()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(name.startswith("fastconv-") for name in names())


def names():
    """The names of this process's threads."""
    found = []
    for path in Path("/proc/self/task").glob("*/comm"):
        try:
            found.append(path.read_text().strip())
        except OSError:  # it ended
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
def test_helpers_are_named_and_take_no_signals(crowd):
    crowd(3)
    trained(1)
    ours = [path.parent for path in Path("/proc/self/task").glob("*/comm") if path.read_text().startswith("fastconv-")]
    assert ours
    for path in ours:
        status = dict(line.split(":\t", 1) for line in (path / "status").read_text().splitlines() if ":\t" in line)
        blocked = int(status["SigBlk"], 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGPROF):
            assert blocked >> (number - 1) & 1, number


def test_more_threads_than_cpus_are_no_more_helpers():
    fastconv.set_num_threads(64)
    assert fastconv.get_num_threads() == 64
    trained(1)
    assert team.helpers() < machine.threads.usable_cpus()


def test_resizing_while_others_compute(crowd):
    crowd(1)
    expected = trained(1)
    stop = threading.Event()

    def resize():
        rng = np.random.default_rng(0)
        while not stop.is_set():
            crowd(int(rng.integers(1, 9)))
            time.sleep(0.001)

    thread = threading.Thread(target=resize)
    thread.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for future in [pool.submit(trained, 1) for _ in range(12)]:
                found = future.result(timeout=TIMEOUT)
                assert all(np.array_equal(found[name], expected[name]) for name in expected)
    finally:
        stop.set()
        thread.join()


# --- signals ---------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, threading, time
import numpy as np
import fastconv
from fastconv import functional as F
fastconv.set_num_threads({threads})
{setup}
began = time.monotonic()
def interrupt():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    while True:
        {call}
except KeyboardInterrupt:
    print(time.monotonic() - began)
{call} if {again} else None
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("setup", "call"),
    [
        ("x = np.ones((64, 64, 128, 128), np.float32); w = np.ones((128, 64, 5, 5), np.float32)", "F.conv2d(x, w)"),
        ("x = np.ones((64, 64, 96, 96), np.float32); w = np.ones((256, 64, 3, 3), np.float32)", "F.conv2d(x, w)"),
        ("x = np.ones((9000, 6000), np.float32)", "F.linear(x, x)"),
    ],
    ids=["direct", "winograd", "linear"],
)
def test_interrupts_end_a_long_kernel(setup, call, threads):
    """Ctrl-C 0.3 s after the start of a kernel that takes seconds."""
    code = INTERRUPTED.format(threads=threads, setup=setup, call=call, again=False)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 0.3 <= float(done.stdout) < 20  # these kernels take seconds; loose, for a busy machine


def test_a_handler_runs_inside_a_kernel_and_what_it_raises_comes_out():
    """A handler that computes, and then one that raises: the team is usable afterwards."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 32, 96, 96), np.float32)
    w = rng.standard_normal((64, 32, 5, 5), np.float32)
    small = rng.standard_normal((2, 32, 9, 9), np.float32)
    expected, inside = functional.conv2d(x, w), functional.conv2d(small, w)
    seen = []

    def compute(number, frame):
        seen.append(functional.conv2d(small, w))

    def refuse(number, frame):
        signal.setitimer(signal.ITIMER_REAL, 0)  # once
        raise RuntimeError("from the handler")

    before = signal.signal(signal.SIGALRM, compute)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        while not seen:
            assert np.array_equal(functional.conv2d(x, w), expected)
        assert all(np.array_equal(y, inside) for y in seen)
        with pytest.raises(RuntimeError, match="from the handler"):
            signal.signal(signal.SIGALRM, refuse)
            while True:
                functional.conv2d(x, w)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(functional.conv2d(x, w), expected)


# --- many callers ----------------------------------------------------------------------------------------------------


def test_a_caller_that_finds_the_team_busy_computes_alone(crowd):
    crowd(3)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 16, 32, 32), np.float32)
    w = rng.standard_normal((16, 16, 3, 3), np.float32)

    def layer(_):
        y, pullback = vjp(functional.conv2d, x, w, padding=1)
        return [y, *pullback(y)]

    expected = layer(0)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for result in pool.map(layer, range(64)):
            assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))


def test_daemon_threads_at_exit():
    """Python ends while threads compute: with status 0, and at once."""
    code = """
    import threading, time
    import numpy as np
    from fastconv import functional
    x, w = np.ones((32, 32, 32, 32), np.float32), np.ones((32, 32, 3, 3), np.float32)
    def work():
        while True:
            functional.conv2d(x, w)
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.3)
    """
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=TIMEOUT, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


# --- Python's lock ---------------------------------------------------------------------------------------------------


def released(calls=100):
    """How often a new thread lets go of the GIL in so many calls of one region each."""
    x = np.ones(1 << 18, np.float32)

    def work():
        before = team.releases()
        for _ in range(calls):
            functional.relu(x)
        return team.releases() - before

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_region_lets_go_of_the_gil():
    assert released() > 50


@contextlib.contextmanager
def pure_python():
    """A thread beside that does not let go of the GIL by itself."""
    ended = threading.Event()

    def count():
        while not ended.is_set():
            for _ in range(1000):
                pass

    other, interval = threading.Thread(target=count), sys.getswitchinterval()
    sys.setswitchinterval(0.02)
    other.start()
    try:
        yield
    finally:
        ended.set()
        other.join()
        sys.setswitchinterval(interval)


def test_beside_a_thread_of_pure_python_it_is_kept_for_turns():
    with pure_python():
        assert 1 <= min(released() for _ in range(10)) < 100  # on a busy machine the other thread may not run at first


def test_a_signal_ends_regions_that_keep_the_gil():
    x = np.ones((1, 8, 300, 300), np.float32)
    w = np.ones((8, 8, 9, 9), np.float32)

    def refuse(number, frame):
        raise RuntimeError("from the handler")

    before = signal.signal(signal.SIGALRM, refuse)
    try:
        for after in (0.001, 0.02, 0.1):
            with pure_python(), pytest.raises(RuntimeError, match="from the handler"):
                functional.relu(x)
                signal.setitimer(signal.ITIMER_REAL, after)
                while True:
                    functional.relu(x[0, 0])
                    functional.conv2d(x, w)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    functional.conv2d(x, w)


# --- in C ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_stress(tmp_path):
    source = KERNELS / "team" / "team.c"
    program = tmp_path / "stress"
    subprocess.run(
        ["cc", "-O1", "-g", "-pthread", f"-I{source.parent}", str(Path(__file__).with_name("team_stress.c")),
         str(source), "-o", str(program)],
        check=True,
    )  # fmt: skip
    done = subprocess.run([str(program), "3"], capture_output=True, text=True, timeout=2 * TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# --- threadpoolctl ---------------------------------------------------------------------------------------------------

LIMITED = """
import json
{first}
import fastconv
import threadpoolctl
{register}
from fastconv._ext import team
fastconv.set_num_threads(2)
with threadpoolctl.threadpool_limits(1):
    inside = fastconv.get_num_threads()
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    beside = fastconv.get_num_threads()
ours = [entry for entry in threadpoolctl.threadpool_info() if entry["user_api"] == "fastconv"]
print(json.dumps([inside, beside, fastconv.get_num_threads(), len(ours), ours[0]["num_threads"]]))
"""


@pytest.mark.parametrize(
    ("first", "register"),
    [
        ("import threadpoolctl", ""),
        ("", "threadpoolctl.register(fastconv.machine.threadpool_controller())"),
        ("import threadpoolctl", "threadpoolctl.register(fastconv.machine.threadpool_controller())"),
    ],
)
def test_threadpoolctl_limits_the_team(first, register):
    pytest.importorskip("threadpoolctl")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(first=first, register=register)], capture_output=True, text=True,
        timeout=TIMEOUT, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1, 2, 2, 1, 2]


def test_fastconv_never_imports_threadpoolctl():
    code = "import sys, fastconv; fastconv.machine.threadpool_controller(); assert 'threadpoolctl' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# --- whoever hires a helper ------------------------------------------------------------------------------------------

ROUNDED = """
import ctypes, ctypes.util, platform
import numpy as np
import fastconv
from fastconv import functional
fenv = ctypes.CDLL(ctypes.util.find_library("m"))
DOWNWARD = {"x86_64": 0x400, "aarch64": 0x800000}[platform.machine()]
rng = np.random.default_rng(0)
x = rng.standard_normal((16, 32, 48, 48)).astype(np.float32)
w = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
def bits(threads):
    fastconv.set_num_threads(threads)
    return [functional.conv2d(x, w, algorithm="direct").tobytes() for _ in range(5)]
def same():
    return len({*bits(1), *bits(2), *bits(2)}) == 1
assert same()  # a helper is hired
assert fenv.fesetround(DOWNWARD) == 0
assert same()
fastconv.set_num_threads(1)  # it leaves, and another is hired
assert same()
assert fenv.fesetround(0) == 0
assert same()
"""

FORKED = """
import os, signal
import numpy as np
import fastconv
from fastconv import functional
fastconv.set_num_threads(2)
rng = np.random.default_rng(0)
x = rng.standard_normal((16384, 512)).astype(np.float32)
w, b = rng.standard_normal((512, 512)).astype(np.float32), rng.standard_normal(512).astype(np.float32)
expected = functional.linear(x, w, b)
children = []
inside = False
def fork(number, frame):
    global inside
    child = os.fork()
    if child == 0:
        inside = True
    else:
        children.append(child)
        signal.setitimer(signal.ITIMER_REAL, 0.06)
signal.signal(signal.SIGALRM, fork)
signal.setitimer(signal.ITIMER_REAL, 0.06)
while len(children) < 12:
    right = np.array_equal(functional.linear(x, w, b), expected)
    if inside or not right:
        os._exit(0 if right else 3)
signal.setitimer(signal.ITIMER_REAL, 0)
statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert not any(statuses), statuses
"""

CRASHED = """
import faulthandler, mmap, os, sys
import numpy as np
import fastconv
from fastconv import functional
faulthandler.enable()
fastconv.set_num_threads(2)
functional.relu(np.ones(1 << 20, np.float32))
with open(sys.argv[1], "wb") as file:
    file.truncate(64 << 20)
x = np.memmap(sys.argv[1], np.float32, "r")
os.truncate(sys.argv[1], (64 << 20) - mmap.PAGESIZE)
functional.relu(x)
"""


@pytest.mark.parametrize("code", [ROUNDED, FORKED], ids=["rounding", "fork in a handler"])
def test_whatever_the_caller_does(code):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=TIMEOUT, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_crash_in_a_helper_is_told(tmp_path):
    """One page is missing, so that one thread crashes: the caller or a helper, for which Python has no name."""
    for _ in range(30):
        done = subprocess.run(
            [sys.executable, "-c", CRASHED, str(tmp_path / "x")], capture_output=True, text=True, timeout=TIMEOUT,
            check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.returncode < 0
        assert "Fatal Python error: Bus error" in done.stderr
        if "Current thread" not in done.stderr:
            return
    pytest.fail("no helper crashed in 30 processes")


def test_interrupts_are_neither_lost_nor_delivered_later():
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError
    with uninterrupted():
        pass
