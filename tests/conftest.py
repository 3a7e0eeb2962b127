"""What every test shares: settings of the machine are put back, hypothesis draws the same examples every time."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fastconv import get_num_threads, get_workspace_limit, set_num_threads, set_workspace_limit
from fastconv._ext import team

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz", type=int, default=200, help="random cases per operation that are held against PyTorch (default 200)"
    )
    parser.addoption(
        "--engine-fuzz", type=int, default=60, help="random convolutions through every algorithm (default 60)"
    )
    parser.addoption(
        "--mutations", type=int, default=8, help="damaged versions of each file of a run's folder (default 8)"
    )
    parser.addoption("--onnx-all", action="store_true", help="all of ONNX's conformance suite, and the large nets")
    parser.addoption("--onnx-mutations", type=int, default=150, help="mutated ONNX files (default 150)")
    parser.addoption(
        "--weights-fuzz", type=int, default=400, help="damaged files of PyTorch's that are read (default 400)"
    )
    parser.addoption(
        "--mpi-kills", type=int, default=2, help="trainings of several ranks in which one is killed (default 2)"
    )
    parser.addoption("--site", help="a folder with the built documentation, whose pages are looked through")
    parser.addoption(
        "--opinfo-all", action="store_true", help="PyTorch's samples with gaps in memory too, and in naive loops"
    )


def pytest_collection_finish() -> None:
    gc.freeze()  # thousands of tests: no collection need look at them again


@pytest.fixture(autouse=True, scope="session")
def away_from_the_sources(tmp_path_factory):
    """`python -c` finds a package in the current folder first: the tests are of the installed one."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("away"))
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def machine_settings():
    """Threads, what they have to do at least, and workspace limit as they were before the test."""
    threads, limit = get_num_threads(), get_workspace_limit()
    least = team.set_bytes_per_thread(1)
    team.set_bytes_per_thread(least)
    yield
    team.set_bytes_per_thread(least)
    set_num_threads(threads)
    set_workspace_limit(limit)
