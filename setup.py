"""Extensions and compiler directives; everything else stands in pyproject.toml."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNELS = Path("fastconv/_ext")
OPENMP = ["-fopenmp"]
COMPILE = ["-O3", "-g0", "-ffp-contract=fast", "-fno-trapping-math", "-Wno-unused-function"]


def compiler_has_openmp() -> bool:
    """Whether the C compiler builds and links a file with OpenMP; FASTCONV_NO_OPENMP=1 says no without asking."""
    if os.environ.get("FASTCONV_NO_OPENMP"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        command = [*os.environ.get("CC", "cc").split(), *OPENMP, str(source), "-o", str(Path(folder, "probe"))]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False


def extensions() -> list[Extension]:
    openmp = OPENMP if compiler_has_openmp() else []
    if not openmp:
        print("fastconv: no OpenMP, the kernels will run on one thread", file=sys.stderr)
    return [
        Extension(
            f"fastconv._ext.{source.stem}",
            [str(source)],
            extra_compile_args=COMPILE + openmp,
            extra_link_args=openmp,
        )
        for source in sorted(KERNELS.glob("*.pyx"))
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    )
)
