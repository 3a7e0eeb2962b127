"""What CI runs: the call of .ci/run, and that what a stage is for is there."""

import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"
if not RUN.is_file():
    pytest.skip("away from the source tree", allow_module_level=True)


def test_it_is_a_script_of_bash():
    subprocess.run(["bash", "-n", str(RUN)], check=True)


@pytest.mark.parametrize("stages", [["nosuch"], ["peers", "nosuch"], ["all", "nosuch"], [""]])
def test_an_unknown_stage_is_one_line(stages):
    done = subprocess.run([str(RUN), *stages], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "peers onnx sklearn mpi sanitizers arm wheels" in done.stderr


def test_a_machine_without_a_compiler_is_told_so():
    done = subprocess.run(
        [str(RUN)], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "CC": "nosuch"}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ".ci/run: this machine lacks a C compiler (nosuch)\n"
