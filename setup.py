"""Extensions, and how Cython and the C compiler make them; everything else stands in pyproject.toml."""

import logging
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

from setuptools import Extension, setup

COMPILING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "develop", "install"}
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")

KERNELS = Path("fastconv/_ext")
LONGEST = ["winograd", "depthwise", "direct", "pooling", "activation", "grouped"]  # to compile: they begin first
MEMORYVIEWS = "fastconv._ext.memoryviews"  # Cython's code for them, which else is part of every extension
THREADS = ["-pthread"]
COMPILE = ["-O3", "-g0", "-ffp-contract=fast", "-fno-trapping-math", "-Wno-unused-function"]
# A tenth of the compiler's time on the longest kernels is taken by passes that find nothing to do in loops written out.
LEAN = ["-fno-unswitch-loops", "-fno-split-loops", "-fno-split-paths", "-fno-ipa-cp-clone"]
LEAN_KERNELS = ["depthwise", "pooling"]  # winograd would fuse other products with sums
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
SANITIZED = bool(os.environ.get("FASTCONV_SANITIZE"))  # tools/sanitize.py sets it
CYTHON = {
    "shared_utility_qualified_name": MEMORYVIEWS,
    "compiler_directives": {
        "language_level": 3,
        "boundscheck": False,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": False,
        "embedsignature": True,
    },
}


def compiles(text: str, *options: str) -> bool:
    """Whether the C compiler builds and links a program; OSError where there is no compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(text)
        command = [*COMPILER, *options, str(source), "-o", str(Path(folder, "probe"))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def require_compiler() -> None:
    """Ends with one line where nothing can be compiled: at once, not after Cython's work."""
    headers = sysconfig.get_path("include")
    try:
        if compiles("#include <Python.h>\nint main(void) { return 0; }\n", f"-I{headers}"):
            return
        works = compiles("#include <stdlib.h>\nint main(void) { return 0; }\n")
        missing = f"Python's headers are missing in {headers}" if works else f"{COMPILER[0]} compiles no C program"
    except OSError:
        missing = f"there is no C compiler {COMPILER[0]}"
    sys.exit(f"fastconv: {missing}. Debian, Ubuntu: apt install gcc python3-dev; Fedora: dnf install gcc python3-devel")


if COMPILING.intersection(sys.argv):
    require_compiler()

from setuptools.command.build_ext import build_ext  # noqa: E402  it imports Cython
from setuptools.modified import newer_group  # noqa: E402


def headers_of(source: Path) -> set[Path]:
    """The headers that a file and the .pxd files that it cimports include, by their paths from KERNELS, and theirs."""
    text = source.read_text()
    found = {KERNELS / name for name in re.findall(r'"([\w/]+\.h)"', text)}
    declared = re.findall(r"^from fastconv\._ext\.?([\w.]*) cimport (\w+)", text, re.MULTILINE)
    modules = {KERNELS / f"{(module or name).replace('.', '/')}.pxd" for module, name in declared}
    return found.union(*map(headers_of, found | set(filter(Path.is_file, modules))))


def extensions() -> list[Extension]:
    sources = sorted(KERNELS.rglob("*.pyx"), key=lambda path: (*(path.stem != name for name in LONGEST), path))
    kernels = [
        Extension(
            ".".join(source.with_suffix("").parts), [str(source)], depends=sorted(map(str, headers_of(source))),
            include_dirs=[str(KERNELS)],
        )
        for source in sources
    ]  # fmt: skip
    return [*kernels, Extension(MEMORYVIEWS, [f"{KERNELS}/memoryviews.c"])]


class BuildExtensions(build_ext):
    """As many extensions at a time as there are CPUs; a line when one begins and when it is done."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or len(os.sched_getaffinity(0))

    def build_extensions(self) -> None:
        for ext in self.extensions:
            ext.extra_link_args = [*THREADS, *(SANITIZE if SANITIZED else [])]
        self.lean = LEAN if compiles("int main(void) { return 0; }\n", "-Werror", *LEAN) else []
        self.translating = threading.Lock()  # Cython is not made for threads
        self.done = 0
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        from Cython.Build import cythonize

        with self.translating:
            start = time.monotonic()
            [translated] = cythonize([ext], quiet=True, force=self.force or None, **CYTHON)
            name = ext.name.rpartition(".")[2]
            own = [*(translated.extra_compile_args or []), *(self.lean if name in LEAN_KERNELS else [])]
            ext.sources = translated.sources
            ext.extra_compile_args = [*COMPILE, *own, *THREADS, *([*SANITIZE, "-O1", "-g1"] if SANITIZED else [])]
        stale = self.force or newer_group(ext.sources + ext.depends, self.get_ext_fullpath(ext.name), "newer")
        if stale:
            self.announce(f"fastconv: {name} is compiled", logging.INFO)
        super().build_extension(ext)
        self.done += 1
        if stale:
            took = f"{time.monotonic() - start:.0f} s"
            self.announce(f"fastconv: {name} took {took}, {self.done} of {len(self.extensions)} done", logging.INFO)


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
