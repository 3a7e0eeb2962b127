"""bench/epoch.py: what an epoch costs beside PyTorch's, in turns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bench" / "epoch.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="away from the source tree")


@pytest.mark.slow
def test_an_epoch_of_the_digits(tmp_path):
    pytest.importorskip("torch", reason="PyTorch, the other side, is not installed")
    command = [
        sys.executable,
        str(SCRIPT),
        "digits",
        "--threads",
        "1",
        "--turn",
        "10",
        "--json",
        str(tmp_path / "a.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "a.json").read_text())
    assert f"PyTorch's best over fastconv: {result['ratio']:.2f}" in done.stdout
    ours, *theirs = result["seconds"].values()
    assert result["ratio"] == pytest.approx(min(theirs) / ours) and result["best"] in result["seconds"]
    losses = list(result["loss"].values())
    assert losses[1:] == pytest.approx([losses[0]] * 6, rel=0.01)  # the same steps on the same batches
    assert 1.0 < losses[0] < 2.0


@pytest.mark.parametrize("arguments", [["fashion"], ["mnist", "--threads", "many"]])
def test_wrong_calls(arguments):
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
