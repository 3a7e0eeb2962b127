"""setup.py where something is missing: one line, at once; and what needs no compiler gets by without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parent.parent / "setup.py"
PACKAGES = "Debian, Ubuntu: apt install gcc python3-dev; Fedora: dnf install gcc python3-devel"

setuptools = pytest.importorskip("setuptools")
if not SETUP.exists():
    pytest.skip("not in a tree of the sources", allow_module_level=True)


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", str(SETUP), *arguments],
        cwd=SETUP.parent, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if not line.startswith("import time:")]


def compiler(folder: Path, text: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("command", ["build", "build_ext", "bdist_wheel"])
def test_no_compiler(command, tmp_path):
    done = setup(command, CC="no-such-compiler", PATH=str(tmp_path))
    assert done.returncode == 1
    assert said(done) == [f"fastconv: there is no C compiler no-such-compiler. {PACKAGES}"]
    assert "Cython" not in done.stderr
    assert done.stdout == ""


def test_no_headers_of_python(tmp_path):
    done = setup(
        "build_ext", CC=compiler(tmp_path, 'for last; do :; done; ! grep -q Python.h "$(dirname "$last")/probe.c"')
    )
    assert done.returncode == 1
    [line] = said(done)
    assert line.startswith("fastconv: Python's headers are missing in ")
    assert line.endswith(PACKAGES)


def test_compiler_that_compiles_nothing(tmp_path):
    path = compiler(tmp_path, "exit 1")
    assert said(setup("build_ext", CC=path)) == [f"fastconv: {path} compiles no C program. {PACKAGES}"]


@pytest.mark.skipif(
    int(setuptools.__version__.partition(".")[0]) < 77, reason="this setuptools cannot read pyproject.toml's licence"
)
def test_metadata_need_no_compiler(tmp_path):
    done = setup("-q", "egg_info", "--egg-base", str(tmp_path), CC="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fastconv.egg-info" / "PKG-INFO").exists()
