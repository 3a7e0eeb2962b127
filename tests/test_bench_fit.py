"""bench/fit.py: what fit costs beside its steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bench" / "fit.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="away from the source tree")


@pytest.mark.slow
def test_every_way_is_timed(tmp_path):
    pytest.importorskip("PIL", reason="Pillow, which writes the files, is not installed")
    path = tmp_path / "a.json"
    command = [sys.executable, str(SCRIPT), "--only", "mnist", "--threads", "1", "--rounds", "1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    assert [result["from"] for result in results] == ["arrays", "folder", "files"]
    for result in results:
        assert result["ready"]["ratio"] == 1
        assert all(result[way]["milliseconds"] > 0 for way in ("ready", "augmented", "in line", "beside"))
        assert f"{result['augmented']['milliseconds']:.2f}" in done.stdout
