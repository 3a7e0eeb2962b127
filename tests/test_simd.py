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
SUITE = "(equals_reference or random_cases or change_no_bit) and (conv or dropout or norm or resize or sample or prelu)"

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
    files = [str(TESTS / name) for name in ("test_ops.py", "test_engine_fuzz.py", "test_moves.py")]
    done = python(
        "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-c", str(TESTS.parent / "pyproject.toml"),
        "-k", f"({SUITE}) or test_algorithms_agree or test_moves", "--engine-fuzz", "20", *files, level=level,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


BITS = """
import hashlib
import numpy as np
from fastconv import functional, vjp
from fastconv._ext import optim
rng = np.random.default_rng(0)
found = hashlib.sha256()
for dtype in (np.float32, np.float64):
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)
    for channels in (1, 3, 17, 64):
        x = draw(5, channels, 9, 7)
        w, b, mean, var = draw(channels), draw(channels), draw(channels), np.abs(draw(channels))
        calls = [
            (functional.batch_norm, (x, mean, var, w, b), {"training": True}),
            (functional.batch_norm, (x, mean, var, w, b), {}),
            (functional.prelu, (x, w), {}),
            (functional.resize, (x,), {"size": (13, 10), "mode": "linear"}),
            (functional.resize, (x,), {"size": (4, 15)}),
            (functional.conv2d, (x, draw(6, channels, 3, 3)), {"padding": 1, "algorithm": "im2col"}),
        ]
        for operation, arrays, options in calls:
            y, pullback = vjp(operation, *arrays, **options)
            for array in (y, *pullback(np.cos(y)), mean, var):
                if array is not None:
                    found.update(np.ascontiguousarray(array).tobytes())
    for size in (1, 7, 1000, 40_001):
        p, g, m, v, t = draw(size), draw(size), draw(size), draw(size) ** 2, draw(size) ** 2
        optim.sgd([(p, g, m, 0.9, 0.01, 0.1, 0.9, True)], 1)
        optim.adam([(p, g, m, v, t, 0.9, 0.01, 0.99, 0.9, 0.999, 0.01, 0.7, 1e-8)], 1)
        optim.rmsprop([(p, g, v, m, t, 0.9, 0.01, 0.1, 0.9, 1e-8, 0.5)], 1)
        for array in (p, m, v, t):
            found.update(array.tobytes())
print(found.hexdigest())
"""


def test_what_passes_over_memory_has_the_same_bits_at_every_level():
    """No fused multiply-adds: optim.pyx, norm.pyx and resampling.pyx are compiled with -ffp-contract=off."""
    found = {}
    for level in simd.simd_levels():
        done = python("-c", BITS, level=level)
        assert done.returncode == 0, done.stderr
        found[level] = done.stdout
    assert len(set(found.values())) == 1, found


def test_an_unknown_level_is_refused():
    done = python("-c", "import fastconv", level="v99")
    assert done.returncode != 0
    assert "FASTCONV_SIMD" in done.stderr.splitlines()[-1]
