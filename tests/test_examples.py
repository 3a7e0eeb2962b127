"""The examples in their small form: they run, what they claim is so, and each leaves its picture."""

import importlib
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs an example by name; gives what its `main` returns."""

    def run_small(name):
        monkeypatch.syspath_prepend(EXAMPLES)
        result = importlib.import_module(name).main(["--small", "--out", str(tmp_path / "out")])
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert min(image.size) > 500
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50
        return result

    return run_small


def test_recognising_x(run):
    assert run("recognising_x") == {
        "one X": True,
        "two X": True,
        "an X in noise": True,
        "noise, no X": False,
        "an X that lacks a pixel": False,
    }


def test_strides_as_resampling(run):
    assert list(run("strides_as_resampling").values()) == [True] * 4


def test_what_layers_see(run):
    seen = run("what_layers_see")
    assert seen["accuracy"] > 0.7
    assert seen["inside"] == [True, True]
    assert seen["sizes"] == [3, 8]


def test_shift_invariance(run, tmp_path):
    """Read in the corner, all that was trained there; elsewhere only what shares its weights to the very end."""
    places = run("shift_invariance")
    connected, shifted, flat, at_any_place, slid = places.values()
    for values in (connected, flat):
        assert values[0, 0] > 0.7
        assert values.ravel()[1:].mean() < 0.3
    for values in (at_any_place, slid):
        assert values.min() > 0.6
    assert at_any_place.max() - at_any_place.min() < 0.05
    assert shifted.mean() > 0.3
    table = (tmp_path / "out" / "shift_invariance.csv").read_text().splitlines()
    assert table[0] == "net,top,left,accuracy"
    assert len(table) == 1 + 5 * 9


def test_every_example_is_tested():
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == {name.removeprefix("test_") for name in globals() if name.startswith("test_")} - {
        "every_example_is_tested"
    }
