"""Threads, forks and BLAS: right answers, and no hangs, however a process is run."""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import functional, machine, vjp
from fastconv._ext.conv import lowering
from fastconv.machine import cgroup

TIMEOUT = 60  # seconds after which a process counts as hanging


def python(code, **environment):
    """Run code in a fresh interpreter, warnings as errors; the finished process."""
    cleaned = {
        key: value for key, value in os.environ.items() if not key.startswith(("FASTCONV_", "OPENBLAS_", "OMP_"))
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={**cleaned, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def printed(code, **environment):
    """What code prints, as JSON; it must succeed."""
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- how many threads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("3", 3), (" 5 ", 5)])
def test_threads_by_environment(text, expected):
    assert printed("import fastconv; print(fastconv.get_num_threads())", FASTCONV_NUM_THREADS=text) == expected


def test_a_slip_is_no_number_of_threads():
    with pytest.raises(ValueError, match="set_num_threads: n must be at most 1024, got 100000000000000000000"):
        fastconv.set_num_threads(10**20)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1,2", "²", "٣"])
def test_bad_environment_is_refused_in_one_line(text):
    done = python("import fastconv", FASTCONV_NUM_THREADS=text)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ValueError: FASTCONV_NUM_THREADS must be a positive integer, got {text!r}"


@pytest.mark.parametrize(
    ("text", "expected"), [("3", 3), ("4,2", 4), (" 3 ", 3), ("4, 2", 4), ("5,two", 5), ("007", 7), ("1024", 1024)]
)
def test_threads_by_openmps_environment(monkeypatch, text, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    monkeypatch.delenv("FASTCONV_NUM_THREADS", raising=False)
    assert machine.threads._initial_threads() == expected
    monkeypatch.setenv("FASTCONV_NUM_THREADS", " ")
    assert machine.threads._initial_threads() == expected
    monkeypatch.setenv("FASTCONV_NUM_THREADS", "2")
    assert machine.threads._initial_threads() == 2


@pytest.mark.parametrize(
    "text", ["", " ", "abc", "0", "-1", "1e3", "2.5", ",4", "+4", "²", "٣", "1025", "99999999999", "9" * 5000]
)
def test_what_openmps_environment_cannot_mean_is_ignored(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    monkeypatch.delenv("FASTCONV_NUM_THREADS", raising=False)
    assert machine.threads._initial_threads() == machine.threads.usable_cpus()


def test_openmps_environment_counts_in_a_process():
    code = "import fastconv; print(fastconv.get_num_threads())"
    assert printed(code, OMP_NUM_THREADS="4,2") == 4
    assert printed(code, OMP_NUM_THREADS="abc") == printed(code)


def test_default_is_the_cpus_this_process_may_use():
    code = "import os; {} import fastconv; print(fastconv.get_num_threads())"
    assert 1 <= printed(code.format("")) <= len(os.sched_getaffinity(0))
    assert printed(code.format("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});")) == 1
    assert printed(code.format(""), FASTCONV_NUM_THREADS="") == printed(code.format(""))


@pytest.mark.parametrize(("quota", "expected"), [(0.2, 1), (1.0, 1), (1.5, 2), (7.0, 4), (np.inf, 4)])
def test_quota_bounds_the_cpus(monkeypatch, quota, expected):
    monkeypatch.setattr(cgroup, "cpus", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5, 6})
    assert machine.threads.usable_cpus() == expected


@pytest.mark.parametrize("n", [1, 2, 7, np.int64(3), True, np.True_, np.array(2)])
def test_set_num_threads(n):
    fastconv.set_num_threads(n)
    assert fastconv.get_num_threads() == n
    assert type(fastconv.get_num_threads()) is int


@pytest.mark.parametrize("n", [0, -1, -(2**40)])
def test_too_few_threads(n):
    before = fastconv.get_num_threads()
    with pytest.raises(ValueError, match=rf"^set_num_threads: n must be at least 1, got {n}$"):
        fastconv.set_num_threads(n)
    assert fastconv.get_num_threads() == before


@pytest.mark.parametrize("n", [1.0, 1.5, "2", None, [2], np.float32(2)])
def test_threads_that_are_no_integer(n):
    for call, name in (
        (fastconv.set_num_threads, "set_num_threads: n"),
        (fastconv.set_workspace_limit, "set_workspace_limit: nbytes"),
        (fastconv.manual_seed, "manual_seed: seed"),
    ):
        with pytest.raises(TypeError, match=rf"^{name} must be an integer, got ") as error:
            call(n)
        assert str(error.value).endswith("; write 1") == (n == 1.0)


def test_threads_for_small_work():
    fastconv.set_num_threads(4)
    counts = [machine.threads.threads_for(nbytes) for nbytes in (0, 1, 1 << 10, 1 << 17, 1 << 18, 1 << 19, 1 << 40)]
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] == min(4, machine.threads.usable_cpus())


# --- forks, processes, threads ---------------------------------------------------------------------------------------

LAYER = """
import json, os, sys, warnings
import numpy as np
import fastconv
from fastconv import functional
from fastconv._ext import team
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of a fork beside threads
rng = np.random.default_rng(0)
x = rng.integers(-4, 5, (16, 16, 20, 20)).astype(np.float32)
w = rng.integers(-4, 5, (32, 16, 3, 3)).astype(np.float32)
fastconv.set_num_threads(2)
def layer():
    y, pullback = fastconv.vjp(functional.conv2d, x, w, padding=1)
    return [y, *pullback(y)]
expected = layer()  # in parallel
def right():
    return all(np.array_equal(a, b) for a, b in zip(layer(), expected))
"""


def test_a_forked_child_computes():
    code = """
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            born = team.helpers()
            same = right() and fastconv.get_num_threads() == 2
            fastconv.set_num_threads(8)
            os._exit(0 if same and right() and born == 0 and team.helpers() <= 7 else 3)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps([statuses, right(), fastconv.get_num_threads()]))
    """
    assert printed(LAYER + textwrap.dedent(code)) == [[0, 0, 0], True, 2]


def test_a_fork_of_a_fork_computes():
    code = """
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if right() else 3)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) or (0 if right() else 3))
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    """
    assert printed(LAYER + textwrap.dedent(code)) == 0


def test_a_fork_while_another_thread_computes():
    code = """
    import threading
    stop = threading.Event()
    def work():
        while not stop.is_set():
            layer()
    thread = threading.Thread(target=work)
    thread.start()
    statuses = []
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if right() else 3)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    thread.join()
    print(json.dumps(statuses))
    """
    assert printed(LAYER + textwrap.dedent(code)) == [0] * 5


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method):
    code = f"""
    import multiprocessing
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        results = [pool.apply_async(functional.conv2d, (x, w), {{"padding": 1}}) for _ in range(4)]
        ys = [result.get(timeout=40) for result in results]
    print(json.dumps([all(np.array_equal(y, expected[0]) for y in ys), right()]))
    """
    assert printed(LAYER + textwrap.dedent(code)) == [True, True]


def test_python_threads_compute_at_once():
    """Different layers at the same time, each run several times, with the bits that they have alone."""
    fastconv.set_num_threads(2)
    rng = np.random.default_rng(3)
    layers = []
    for filters in (8, 16, 24, 32):
        x = rng.standard_normal((8, 8, 24, 24)).astype(np.float32)
        w = rng.standard_normal((filters, 8, 3, 3)).astype(np.float32)
        layers.append((x, w))

    def layer(index):
        y, pullback = vjp(functional.conv2d, *layers[index], padding=1)
        return [y, *pullback(y)]

    expected = [layer(index) for index in range(4)]
    before = machine.blas._blas.get_threads() if machine.blas._blas.controlled else None
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = [(i % 4, pool.submit(layer, i % 4)) for i in range(32)]
        for index, future in futures:
            for a, b in zip(future.result(timeout=TIMEOUT), expected[index], strict=True):
                np.testing.assert_array_equal(a, b)
    if before is not None:
        assert machine.blas._blas.get_threads() == before


# --- BLAS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def blas():
    """SciPy's BLAS on two threads of its own."""
    if not machine.blas._blas.controlled:
        pytest.skip("this BLAS's threads cannot be counted")
    before = machine.blas._blas.get_threads()
    machine.blas._blas.set_threads(2)
    yield machine.blas._blas
    machine.blas._blas.set_threads(before)


def test_blas_is_held_and_restored(blas):
    with machine.blas.blas_held:
        assert blas.get_threads() == 1
        with machine.blas.blas_held:
            assert blas.get_threads() == 1
        assert blas.get_threads() == 1
    assert blas.get_threads() == 2


def test_blas_is_restored_after_an_exception(blas):
    with pytest.raises(RuntimeError, match="inside"), machine.blas.blas_held:
        raise RuntimeError("inside")
    assert blas.get_threads() == 2


def test_blas_is_restored_after_calls(blas):
    x, w = np.ones((2, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    y, pullback = vjp(functional.conv2d, x, w)
    pullback(y)
    assert blas.get_threads() == 2
    with pytest.raises(fastconv.ShapeError):
        functional.conv2d(x, w, stride=0)
    with pytest.raises(fastconv.ShapeError):
        pullback(y[:1])
    assert blas.get_threads() == 2


def test_blas_is_restored_when_a_kernel_fails(blas, monkeypatch):
    def failing(*arguments):
        assert blas.get_threads() == 1
        raise RuntimeError("inside a kernel")

    monkeypatch.setattr(lowering, "forward", failing)
    with pytest.raises(RuntimeError, match="inside a kernel"):
        functional.conv2d(np.ones((2, 3, 8, 8)), np.ones((4, 3, 3, 3)))
    assert blas.get_threads() == 2


def test_the_environment_is_left_as_it_was():
    code = "import json, os, fastconv; print(json.dumps(os.environ.get('OPENBLAS_CORETYPE')))"
    assert printed(code) is None
    assert printed(code, OPENBLAS_CORETYPE="Haswell") == "Haswell"


def test_import_loads_no_more_than_it_needs():
    code = "import json, sys, fastconv; print(json.dumps([name for name in {} if name in sys.modules]))"
    heavy = ["matplotlib", "PIL", "torch", "tqdm", "pytest", "hypothesis", "scipy.sparse", "multiprocessing"]
    assert printed(code.format(heavy)) == []


# --- report ----------------------------------------------------------------------------------------------------------


def test_sources_without_kernels_say_so(tmp_path):
    shutil.copytree(
        Path(fastconv.__file__).parent, tmp_path / "fastconv", ignore=shutil.ignore_patterns("*.so", "*.c", "*.pyc")
    )
    done = subprocess.run(
        [sys.executable, "-c", "import fastconv"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().rpartition("\n")[2]
    assert last.startswith(f"ImportError: {tmp_path}/fastconv/_ext: the kernels are not compiled here.")


def test_show_config(capsys):
    fastconv.set_num_threads(3)
    fastconv.set_workspace_limit(12345)
    config = fastconv.show_config()
    text = capsys.readouterr().out
    assert config["threads"] == 3
    assert config["workspace_limit"] == 12345
    assert config["fastconv"] == fastconv.__version__
    assert config["numpy"] == np.__version__
    for key in ("python", "scipy", "cpu", "simd", "blas", "blas_kernels", "usable_cpus", "team"):
        assert config[key]
        assert key in text
        assert str(config[key]) in text
    assert json.loads(json.dumps(config)) == config


def test_show_config_in_a_forked_child_has_no_helpers_yet():
    code = """
    child = os.fork()
    if child == 0:
        os._exit(0 if fastconv.show_config()["team"].endswith(" 0 helpers now") else 3)
    print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    """
    assert printed(LAYER + textwrap.dedent(code)) == 0
