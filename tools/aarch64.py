"""Build the kernels for AArch64 and run tests on them under emulation: `.ci/run arm`.

    python tools/aarch64.py [pytest arguments]    files by default: the engine's tests

On Debian, with gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static. Its Python for arm64 is downloaded
and unpacked beside this system, whose packages stay as they are; wheels come from pip. The compiler runs natively,
Python and the kernels under QEMU, some twenty times slower than here. Everything goes to build/aarch64.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "aarch64"
SYSTEM, SITE, LIBRARY = BUILD / "system", BUILD / "site", BUILD / "lib"
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
PACKAGES = ["python3", "libpython3-dev", "libstdc++6"]
TESTS = [
    "test_engine_fuzz.py", "test_planar.py", "test_pointwise.py", "test_narrow.py", "test_winograd.py",
    "test_depthwise.py", "test_pooling.py", "test_plan.py",
]  # fmt: skip


def unpack_python() -> str:
    """Debian's Python for arm64, in SYSTEM; its version, as 3.11."""
    apt = BUILD / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    options = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache", "Dir::State::status": apt / "status",
    }  # fmt: skip
    command = ["apt-get", "-qq", *(text for name, value in options.items() for text in ("-o", f"{name}={value}"))]
    subprocess.run([*command, "update"], check=True)
    install = [*command, "--download-only", "--yes", "--no-install-recommends", "install", *PACKAGES]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        subprocess.run(["dpkg", "--extract", package, SYSTEM], check=True)
    [python] = (SYSTEM / "usr" / "bin").glob("python3.??")
    return python.name.removeprefix("python")


def install_wheels(version: str) -> None:
    """What the package and its tests need, in SITE."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", f"--target={SITE}", "--upgrade", *platforms,
         f"--python-version={version}", "--only-binary=:all:", *needed],
        check=True,
    )  # fmt: skip


def build(version: str) -> None:
    """The package in LIBRARY, compiled across."""
    headers = [f"-I{SYSTEM}/usr/include/python{version}", f"-I{SYSTEM}/usr/include"]  # before this Python's own
    environment = {**os.environ, "CC": " ".join([COMPILER, *headers]), "LDSHARED": f"{COMPILER} -shared"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", str(BUILD), "--build-lib", str(LIBRARY)],
        cwd=ROOT, env=environment, check=True,
    )  # fmt: skip
    for module in LIBRARY.rglob("*.cpython-*.so"):  # named for this machine
        module.replace(module.with_name(module.name.partition(".")[0] + ".so"))


def main() -> int:
    for program in ("apt-get", "dpkg", COMPILER, EMULATOR):
        if shutil.which(program) is None:
            raise SystemExit(f"aarch64: there is no {program}")
    version = unpack_python()
    install_wheels(version)
    build(version)
    given = sys.argv[1:] or [str(ROOT / "tests" / name) for name in TESTS]
    paths = f"PYTHONPATH={LIBRARY}:{SITE}"
    command = [EMULATOR, "-L", str(SYSTEM), "-E", paths, str(SYSTEM / "usr" / "bin" / f"python{version}")]
    arguments = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), *given]
    return subprocess.run([*command, *arguments], cwd=LIBRARY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
