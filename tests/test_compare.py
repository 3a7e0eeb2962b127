"""`fastconv.lab.compare`: three versions of a kernel, verified, timed in turn, reported."""

import itertools
import json
import re
import sys
import time

import numpy as np
import pytest

from fastconv.lab import compare as module
from fastconv.lab.compare import KERNELS, Report, Row, Versions, compare, numpy_blas, race, verify
from fastconv.lab.numpy_baseline import CASES, PLAIN


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr(module, "TURN", 0.0)
    monkeypatch.setattr(module, "PAUSE", 0.0)


def row(**changes) -> Row:
    fields = {
        "kernel": "conv2d", "shape": "3x3 64-64 @32", "direction": "forward", "small_batch": 1,
        "naive_seconds": 2.0, "numpy_small_seconds": 0.004, "fastconv_small_seconds": 0.001,
        "naive_ratio": 2000.0, "numpy_small_ratio": 4.0, "batch": 64, "numpy_seconds": 0.2, "fastconv_seconds": 0.05,
        "numpy_ratio": 4.0, "gflops": 123.4, "gbytes": 5.6,
    }  # fmt: skip
    return Row(**{**fields, **changes})


@pytest.fixture(scope="module")
def report() -> Report:
    return compare(["max_pool2d", "linear"], quick=True, repeats=1)


def test_a_row_a_kernel_and_direction(report):
    assert [(row.kernel, row.direction) for row in report.rows] == [
        ("max_pool2d", "forward"), ("max_pool2d", "backward"), ("linear", "forward"), ("linear", "backward"),
    ]  # fmt: skip
    for found in report.rows:
        assert found.naive_seconds > 0 and found.naive_ratio > 0 and found.numpy_ratio > 0 and found.gbytes > 0
        assert (found.gflops is None) == (found.kernel == "max_pool2d")


def test_the_report_names_both_blas_libraries_and_their_threads(report):
    config = report.as_dict()["config"]
    assert {"blas", "blas_kernels", "threads", "numpy_blas", "numpy_blas_kernels", "numpy_blas_threads"} <= set(config)
    table = report.table()
    assert f"{config['numpy_blas']} ({config['numpy_blas_kernels']} kernels)" in table
    assert f"{config['threads']} threads" in table
    assert str(report) == table


def test_the_report_as_a_dictionary_is_json(report):
    assert json.loads(json.dumps(report.as_dict()))["rows"][0]["kernel"] == "max_pool2d"


def test_the_table_lines_up():
    blas = ("blas", "blas_kernels", "numpy_blas", "numpy_blas_kernels", "numpy_blas_threads")
    config = dict.fromkeys(("fastconv", "numpy", "threads", "cpu", "simd", *blas), "?")
    lines = Report((row(), row(kernel="relu", gflops=None, naive_ratio=12345.6)), config).table().splitlines()
    cells = re.split(r"  +", lines[-2])
    assert cells[:4] == ["conv2d", "3x3 64-64 @32", "forward", "1"]
    assert cells[4:9] == ["2,000", "4", "1", "2,000", "4.00"]
    assert cells[9:] == ["64", "200", "50", "4.00", "123 GFLOP/s"]
    assert lines[-1].split()[-2:] == ["5.6", "GB/s"]
    assert "12,346" in lines[-1]
    assert lines[-2].index("forward") == lines[-1].index("forward") == lines[-4].index("pass")


def test_plot_writes_a_picture(report, tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_names_the_extra(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[plot\]"'):
        report.plot(tmp_path / "ratios.png")


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"no kernel is named 'conv9d'; there are .*conv2d"):
        compare(["conv9d"])
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        compare(["relu"], repeats=0)


def test_a_single_name_and_progress():
    told = []
    assert {row.kernel for row in compare("relu", quick=True, repeats=1, progress=told.append).rows} == {"relu"}
    assert told == ["relu: 64 @32"]


def test_the_first_kernel_is_the_convolution_that_is_quoted():
    assert next(iter(KERNELS)) == "conv2d"
    assert CASES["conv2d"][0].name == "3x3 64-64 @32"
    assert CASES["conv2d"][0].batch == 64


@pytest.mark.parametrize("wrong", ["output", "gradient", "shape", "nan"])
def test_versions_that_disagree_are_not_timed(wrong, monkeypatch):
    right = PLAIN["relu"]

    def plain(x):
        y, pullback = right(x)
        if wrong == "output":
            y = y * np.float32(1.001)
        elif wrong == "shape":
            y = y[:, :1]
        elif wrong == "nan":
            y[0, 0, 0, 0] = np.nan
        return y, (lambda dy: (-pullback(dy)[0],)) if wrong == "gradient" else pullback

    monkeypatch.setitem(PLAIN, "relu", plain)
    with pytest.raises(ArithmeticError, match=r"relu 64 @32, batch 2: (the output|gradient 0)"):
        verify(Versions(CASES["relu"][0].with_batch(2)))
    with pytest.raises(ArithmeticError):
        compare(["relu"], quick=True, repeats=1)


def test_running_statistics_do_not_leak_between_versions():
    versions = Versions(CASES["batch_norm"][0].with_batch(2))
    verify(versions)
    (again, _), first = versions.pull("fastconv"), versions.pull("fastconv")[0]
    np.testing.assert_array_equal(again, first)


def test_bytes_and_flops_of_both_directions():
    versions = Versions(CASES["linear"][0].with_batch(4))
    x, w, b = versions.case.arrays()
    y = 4 * 128 * 4
    given = x.nbytes + w.nbytes + b.nbytes
    assert versions.bytes("forward") == given + y
    assert versions.bytes("backward") == 2 * given + y
    assert versions.flops("backward") == 2 * versions.flops("forward") == 4 * 4 * 12544 * 128


def test_the_calls_take_turns():
    order: list[str] = []
    seconds = race({name: (lambda name=name: order.append(name)) for name in "ab"}, rounds=3)
    assert [name for name, _ in itertools.groupby(order[2:])] == ["a", "b"] * 3
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_slow_calls_run_once_a_turn(monkeypatch):
    monkeypatch.setattr(module, "ONCE", 0.005)
    calls = []
    race({"slow": lambda: (calls.append(1), time.sleep(0.01))}, rounds=2)
    assert len(calls) == 3  # the first tells that it is slow


def test_numpys_blas_is_asked():
    found = numpy_blas()
    assert set(found) == {"numpy_blas", "numpy_blas_kernels", "numpy_blas_threads"}
    assert found["numpy_blas"]


def test_pytorch_is_verified_and_timed_where_it_is_installed(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("matplotlib")
    threads = torch.get_num_threads()
    report = compare(["linear", "locally_connected2d"], quick=True, repeats=1, torch=True)
    assert torch.get_num_threads() == threads
    linear, unshared = report.rows[0], report.rows[2]
    assert linear.torch_seconds > 0 and linear.torch_ratio > 0
    assert (unshared.torch_seconds, unshared.torch_ratio) == (None, None)  # PyTorch has none
    assert f"PyTorch {torch.__version__}: {report.config['threads']} threads" in report.table()
    report.plot(tmp_path / "ratios.png")
    without = compare("linear", quick=True, repeats=1, torch=False)
    assert "PyTorch" not in without.table()
    assert without.rows[0].torch_seconds is None


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("op", sorted(CASES))
def test_pytorchs_version_is_the_same_operation(op):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for case in {case.name: case for case in CASES[op]}.values():
        versions = Versions(case.with_batch(2), torch=torch)
        assert ("torch" in versions.names) == (op not in ("function_pool2d", "locally_connected2d"))
        verify(versions)


def test_pytorch_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'fastconv\[peers\]'"):
        compare("relu", quick=True, repeats=1, torch=True)
