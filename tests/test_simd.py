"""Every SIMD level that this machine has: FASTCONV_SIMD forces a lower one, and convolution passes its tests there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastconv.machine import simd

TESTS = Path(__file__).parent
# of test_ops.py: what looks at values, of the operations that have kernels of their own for a level
SUITE = "(equals_reference or random_cases or change_no_bit) and (conv or norm or resize or sample or prelu)"

if not hasattr(simd, "simd_levels"):
    pytest.skip("the kernels are built for one level", allow_module_level=True)


def python(*arguments: str, level: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FASTCONV_SIMD": level, "FASTCONV_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_levels_have_names_of_their_own():
    levels = simd.simd_levels()
    assert levels
    assert len(set(levels)) == len(levels)


@pytest.mark.parametrize("level", simd.simd_levels())
def test_a_level_is_in_force(level):
    done = python("-c", "import fastconv; print(fastconv.show_config()['simd'])", level=level)
    assert done.returncode == 0, done.stderr
    assert level in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("level", simd.simd_levels()[:-1])  # the whole suite runs at the highest
def test_operations_at_a_lower_level(level):
    files = [str(TESTS / name) for name in ("test_ops.py", "test_engine_fuzz.py")]
    done = python(
        "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-c", str(TESTS.parent / "pyproject.toml"),
        "-k", f"({SUITE}) or test_algorithms_agree", "--engine-fuzz", "20", *files, level=level,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_an_unknown_level_is_refused():
    done = python("-c", "import fastconv", level="v99")
    assert done.returncode != 0
    assert "FASTCONV_SIMD" in done.stderr.splitlines()[-1]
