"""The examples in their small form: they run, what they claim is so, and each leaves its picture."""

import importlib
import json
import re
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv

pytest.importorskip("matplotlib")
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")


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


def test_slides_cnn(run):
    read = run("slides_cnn")
    assert list(read) == ["maximum", "mean", "2-norm", "smooth maximum", "network", "none"]
    assert min(read[name] for name in ("maximum", "2-norm", "none")) > 0.7
    assert min(read.values()) > 0.4


def test_backpropagation(run):
    errors = run("backpropagation")
    assert set(errors["vjp"]) == {"X", "W", "b", "Z", "Y", "P", "V", "c", "s"}
    assert max(errors["vjp"].values()) < 1e-14
    assert set(errors["differences"]) == {"X", "W", "b", "V", "c"}
    assert max(errors["differences"].values()) < 1e-9


def test_training_techniques(run):
    found = run("training_techniques")
    assert list(found) == [
        "Dropout", "L1 and L2", "Normalisation, six convolutions deep", "Input normalisation", "Class weights",
        "Cleaning",
    ]  # fmt: skip
    norms = found["Normalisation, six convolutions deep"]
    assert min(value for name, value in norms.items() if name != "none") > norms["none"] + 20
    as_it_comes, slow, normalised = found["Input normalisation"].values()
    assert normalised > max(as_it_comes, slow) + 20
    alike, weighted = found["Class weights"].values()
    assert weighted > alike
    assert "weight" in list(found["Class weights"])[1]
    wrong, cleaned, right = found["Cleaning"].values()
    assert right > wrong
    assert cleaned > wrong - 10
    assert len(found["Dropout"]) == 2
    assert [name.split()[0] for name in found["L1 and L2"]] == ["without", "L2:", "L1:"]


def test_weight_sharing(run):
    found = run("weight_sharing")
    assert found["parameters"] == {"convolution": 80, "locally connected": 5120, "fully connected": 51712}
    shared, local, full = found["accuracies"].values()
    assert shared[-1] > local[-1] + 0.05
    assert shared[-1] > full[-1] - 0.03
    assert shared[-1] > 0.65


def test_signals_and_volumes(run):
    found = run("signals_and_volumes")
    assert found["signals"] > 0.5
    assert found["volumes"] > 0.45


def test_scanning(run):
    """Taught what nothing is, it finds the digits and little else; a net that is not finds digits everywhere."""
    found = run("scanning")
    (alarms, hits), (untaught, _) = found["taught"], found["untaught"]
    assert hits > 0.8
    assert alarms < 0.12
    assert untaught > 0.4
    digits, right, extra = found["three"]
    assert right > 0.75 * digits
    assert extra < 0.4 * digits


def test_cifar10_speedrun(run, tmp_path, monkeypatch, capsys):
    """On the digits, for three epochs."""
    found = run("cifar10_speedrun")
    assert found["accuracy"] > 0.5 and found["plain"] > 0.4
    said = capsys.readouterr().out
    assert "without views" in said and "mean: " in said
    net = fastconv.load(tmp_path / "out" / "seed_0.safetensors")
    assert net.predict(np.zeros((2, 3, 32, 32), np.float32)).shape == (2, 10)
    module = importlib.import_module("cifar10_speedrun")
    with pytest.raises(SystemExit, match="--data says where CIFAR-10's binary files are"):
        module.main(["--out", str(tmp_path / "out")])
    pytest.importorskip("torch")
    assert module.main(["--small", "--torch", "--out", str(tmp_path / "out")])["ratio"] > 0


def test_the_speedruns_first_filters_whiten():
    sys.path.insert(0, str(EXAMPLES))
    module = importlib.import_module("cifar10_speedrun")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3, 9, 9)) @ np.diag(np.linspace(0.5, 2, 9)) + rng.standard_normal((64, 1, 9, 9))
    filters = module.whitening(x.astype(np.float32), least=0)
    assert filters.shape == (24, 3, 2, 2)
    np.testing.assert_array_equal(filters[:12], -filters[12:])
    y = fastconv.functional.conv2d(x, filters[:12].astype(float)).transpose(1, 0, 2, 3).reshape(12, -1)
    np.testing.assert_allclose(y @ y.T / y.shape[1], np.eye(12), atol=1e-5)


def test_search_distributed(run, capsys):
    """Every worker computes with its share of the processors, all of them with no more than there are."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    found = run("search_distributed")
    assert found["accuracy"] > 0.5
    [(threads, cpus)] = found["machines"].values()
    assert 1 <= threads <= cpus
    assert capsys.readouterr().out.count(" lr ") == 4


def test_a_search_without_dask_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SystemExit, match=r'needs dask\.distributed: pip install "fastconv\[search\]"$'):
        importlib.import_module("search_distributed").main(["--small", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_more_threads_than_processors_end_a_search(monkeypatch):
    """Workers of two machines, the second's with two threads too many."""
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module("search_distributed")

    class Client:
        def __init__(self, *placed):
            self.placed = dict(enumerate(placed))

        def run(self, function):
            assert function is module.placed
            return self.placed

    assert module.check(Client(("a", 2, 4), ("b", 1, 2), ("a", 2, 4))) == {"a": (4, 4), "b": (1, 2)}
    with pytest.raises(SystemExit, match=r"^b: set FASTCONV_NUM_THREADS"):
        module.check(Client(("a", 2, 4), ("b", 2, 2), ("b", 2, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_without_matplotlib_nothing_is_begun(name, tmp_path, monkeypatch, capsys):
    """One line, before the work."""
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit) as ended:
        module.main(["--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].endswith('the picture needs matplotlib: pip install "fastconv[plot]"')
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0


@pytest.fixture
def pictures(monkeypatch):
    """tools/pictures.py, which here starts nothing: `pictures.started` are the commands."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    module = importlib.import_module("pictures")
    module.started = []

    def start(command, **_):
        module.started.append([str(part) for part in command])
        for option, name in (("--plot", ""), ("--out", f"{Path(command[1]).stem}.png")):
            if option in command:
                Path(command[command.index(option) + 1], name).write_bytes(b"a picture")

    monkeypatch.setattr(module.subprocess, "run", start)
    return module


def test_every_picture_in_docs_is_made_by_one_command(pictures):
    assert {path.stem for path in (ROOT / "docs").glob("*.png")} == set(pictures.NAMES)


def test_pictures_are_put_where_they_belong(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "DOCS", tmp_path)
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    assert pictures.main(["grid", "peers", "scanning", "slides_cnn", "--data", "mnist"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "scanning.png", "slides_cnn.png"]
    grid, scanning, slides = pictures.started
    assert Path(grid[1]) == ROOT / "bench" / "grid.py" and grid[2:5] == ["--threads", "2", "--plot"]
    assert scanning[-2:] == ["--data", "mnist"] and "--data" not in slides
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith("peers is left as it is: PyTorch is not installed")
    for name, option in (("scanning", "--data"), ("cifar10_speedrun", "--cifar10")):
        with pytest.raises(SystemExit):
            pictures.main([name])
        assert f"{name} needs {option}" in capsys.readouterr().err.splitlines()[-1]
    assert pictures.main(["cifar10_speedrun", "--cifar10", "cifar"]) == 0
    assert pictures.started[-1][-2:] == ["--data", "cifar"]


def test_every_example_is_tested_and_has_its_picture():
    assert set(NAMES) <= {name.removeprefix("test_") for name in globals()}
    for name in NAMES:
        with Image.open(ROOT / "docs" / f"{name}.png") as image:
            assert min(image.size) > 500


# --- what README says of its pictures --------------------------------------------------------------------------------

README = ROOT / "README.md"
COLUMNS = ("step 1", "step 2", "inference 1", "inference 2", "memory")  # of its table, as bench/nets.py calls them


def shown(name):
    """The numbers that a picture was drawn from; None for one that does not bear them."""
    with Image.open(ROOT / "docs" / f"{name}.png") as image:
        text = image.text.get("numbers")
    return text and json.loads(text)


def test_the_readme_counts_the_digits_that_its_picture_shows():
    said = re.search(r"reads (\d+) of (\d+) test images", README.read_text(encoding="utf-8"))
    assert {"right": int(said[1]), "images": int(said[2])} == shown("digits")


def test_the_readmes_table_is_what_its_picture_shows():
    """A row a net, the last row but one the geometric means, the last one the worst."""
    cells = rf"^\| (.+?) \|{len(COLUMNS) * ' ([0-9.]+) [|]'}$"
    rows = [row[1:] for row in re.findall(cells, README.read_text(encoding="utf-8"), re.MULTILINE)]
    measured = [[ratios[column] for column in COLUMNS] for ratios in shown("nets").values()]
    columns = list(zip(*measured, strict=True))
    measured.append([statistics.geometric_mean(column) for column in columns])
    measured.append([*map(min, columns[:-1]), max(columns[-1])])
    assert [[*map(float, row)] for row in rows] == [[float(f"{ratio:.2f}") for ratio in row] for row in measured]
