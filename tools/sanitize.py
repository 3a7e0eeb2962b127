"""Build the kernels with AddressSanitizer and UndefinedBehaviorSanitizer and run tests on them: `make sanitize`. Before
that the thread team's stress program runs under ThreadSanitizer, for GCC and Clang at the same time.

    python tools/sanitize.py [--stress SECONDS] [pytest arguments]
                             600 by default; files by default: the operations' and the engine's tests

The build goes to build/sanitize and leaves the one in place alone. Arrays come from malloc at their exact size, not
from the free list, so that one element beyond the end is in a red zone. Any report ends the run with a failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "sanitize"
TEAM = ROOT / "fastconv" / "_ext" / "team"
STRESS = ROOT / "tests" / "team_stress.c"
TESTS = [
    "test_ops.py", "test_hypothesis_shapes.py", "test_pooling.py", "test_adjoint.py", "test_engine_fuzz.py",
    "test_planar.py", "test_pointwise.py", "test_narrow.py", "test_winograd.py", "test_depthwise.py",
]  # fmt: skip
RUN = """
import sys, pytest
from fastconv import _ext
from fastconv.machine import memory
from fastconv._ext.conv import lowering
assert lowering.__file__.startswith({library!r}), lowering.__file__
memory.allocate.pooled = memory.allocate_lasting.pooled = 1 << 62
sys.exit(pytest.main(sys.argv[1:]))
"""


def library_of(name: str) -> str:
    """The path of one of the compiler's libraries."""
    compiler = os.environ.get("CC", "cc").split()
    found = subprocess.run([*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    if not Path(path).is_absolute():
        raise SystemExit(f"sanitize: the compiler has no {name}")
    return path


def build() -> Path:
    """Compile the package with FASTCONV_SANITIZE=1; the folder that it can be imported from."""
    library = BUILD / "lib"
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", str(BUILD), "--build-lib", str(library)],
        cwd=ROOT, env={**os.environ, "FASTCONV_SANITIZE": "1"}, check=True,
    )  # fmt: skip
    return library


def stress(seconds: int) -> bool:
    """Run the thread team's stress program under ThreadSanitizer with every compiler found; whether all went well."""
    BUILD.mkdir(parents=True, exist_ok=True)
    running = {}
    for compiler in filter(shutil.which, ["gcc", "clang"]):
        program = BUILD / f"stress-{compiler}"
        options = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-g", "-fsanitize=thread"]
        subprocess.run(
            [compiler, *options, "-pthread", f"-I{TEAM}", STRESS, TEAM / "team.c", "-o", program], check=True
        )
        environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 die_after_fork=0"}
        running[compiler] = subprocess.Popen([program, str(seconds)], env=environment)
    if len(running) < 2:
        print(f"sanitize: of gcc and clang there is {' '.join(running) or 'none'}", file=sys.stderr)
    failed = [compiler for compiler, process in running.items() if process.wait()]
    print(f"sanitize: the team, {seconds} s each with {', '.join(running)}: {', '.join(failed) or 'none'} failed")
    return bool(running) and not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stress", type=int, default=600, metavar="SECONDS")
    args, rest = parser.parse_known_args()
    if args.stress and not stress(args.stress):
        return 1
    library = build()
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{library_of('libasan.so')} {library_of('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:abort_on_error=0",  # Python itself leaks by design
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONPATH": str(library),
        "PYTHONMALLOC": "malloc",
    }
    given = [str(Path(text).resolve()) if Path(text).exists() else text for text in rest]
    if not any(map(os.path.exists, given)):
        given += [str(path) for name in TESTS for path in sorted((ROOT / "tests").glob(name))]
    arguments = ["-q", "-x", "--capture=sys", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), *given]
    command = [sys.executable, "-c", RUN.format(library=str(library)), *arguments]
    return subprocess.run(command, cwd=library, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
