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
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


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
    sanitize = SANITIZE if os.environ.get("FASTCONV_SANITIZE") else []  # tools/sanitize.py sets it
    debug = ["-O1", "-g1"] if sanitize else []
    return [
        Extension(
            f"fastconv._ext.{source.stem}",
            [str(source)],
            extra_compile_args=COMPILE + openmp + sanitize + debug,
            extra_link_args=openmp + sanitize,
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
    ),
    options={"build_ext": {"parallel": len(os.sched_getaffinity(0))}},
)
