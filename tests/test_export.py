"""`fastconv export`: a run's weights, for other programs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastconv
from fastconv.cli import main
from fastconv.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    arguments = "train digits --epochs 2 --batch-size 256 --validation 200 --quiet --no-plots --out"
    assert main([*arguments.split(), str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(run, name="weights.safetensors"):
    return checkpoint.load_net(run / name).state_dict()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_npz(run, capsys):
    capsys.readouterr()
    assert main(["export", str(run), "a.npz"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a.npz: ")
    assert out.count("\n") == 1
    with np.load("a.npz", allow_pickle=False) as file:
        assert_same(dict(file), weights(run))
    assert [entry.name for entry in Path().iterdir()] == ["a.npz"]


def test_safetensors(run):
    Path("a.safetensors").write_bytes(b"an older file")
    assert main(["export", str(run), "a.safetensors"]) == 0
    arrays, metadata = checkpoint.read("a.safetensors")
    assert_same(arrays, weights(run))
    assert metadata == {"format": "pt"}


def test_the_best_epoch(run):
    assert main(["export", str(run), "a.safetensors", "--best"]) == 0
    assert_same(checkpoint.read("a.safetensors")[0], weights(run, "best.safetensors"))


def test_json(run, capsys):
    capsys.readouterr()
    assert main(["export", str(run), "a.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == "a.npz"
    assert found["arrays"] == {
        name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in weights(run).items()
    }


def test_torch_loads_it(run):
    torch = pytest.importorskip("torch")
    assert main(["export", str(run), "a.npz"]) == 0
    inside = [torch.nn.Conv2d(1, 32, 3, padding=1, bias=False), torch.nn.BatchNorm2d(32), torch.nn.ReLU()]
    for inputs, filters, pool in ((32, 32, True), (32, 64, False), (64, 64, True)):
        inside += [torch.nn.Conv2d(inputs, filters, 3, padding=1, bias=False), torch.nn.BatchNorm2d(filters)]
        inside += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)] if pool else [torch.nn.ReLU()]
    net = torch.nn.Sequential(*inside, torch.nn.Flatten(), torch.nn.Linear(256, 10)).eval()
    with np.load("a.npz") as file:
        net.load_state_dict({name: torch.from_numpy(file[name]) for name in file})
    x = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    expected = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(checkpoint.load_net(run / "weights.safetensors").eval()(x), expected, atol=1e-4)


@pytest.mark.parametrize("damage", ["unfinished", "weights", "no best", "into the run", "folder"])
def test_what_cannot_be_exported_is_one_line(run, capsys, damage):
    copy, file, options = Path("copy"), "a.npz", []
    copy.mkdir()
    for entry in run.iterdir():
        (copy / entry.name).write_bytes(entry.read_bytes())
    if damage == "unfinished":
        (copy / "weights.safetensors").unlink()
    elif damage == "weights":
        (copy / "weights.safetensors").write_bytes(b"x" * 100)
    elif damage == "no best":
        (copy / "best.safetensors").unlink()
        options = ["--best"]
    elif damage == "into the run":
        file = "copy/checkpoint.safetensors"
    else:
        Path("a.npz").mkdir()
    before = {entry.name: entry.read_bytes() for entry in copy.iterdir()}
    capsys.readouterr()
    expected = {"unfinished": 1, "weights": 1}.get(damage, 2)
    assert main(["export", str(copy), file, *options]) == expected
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("fastconv export: ")
    assert {entry.name: entry.read_bytes() for entry in copy.iterdir()} == before


# --- a net file where a run's folder may stand -----------------------------------------------------------------------


@pytest.fixture
def net_file(run):
    shutil.copy(run / "weights.safetensors", "net.safetensors")
    return "net.safetensors"


def test_a_net_file_is_exported(run, net_file, capsys):
    assert main(["export", net_file, "a.npz"]) == 0
    with np.load("a.npz", allow_pickle=False) as file:
        assert_same(dict(file), weights(run))
    capsys.readouterr()
    assert main(["export", net_file, net_file]) == 2
    assert "net.safetensors: is the net itself" in capsys.readouterr().err
    assert main(["export", net_file, "a.npz", "--best"]) == 2
    assert "--best is for a run's folder; net.safetensors holds one set of weights" in capsys.readouterr().err


def test_a_net_file_is_summarised(run, net_file, capsys):
    assert main(["summary", str(run)]) == 0
    told = capsys.readouterr().out
    assert main(["summary", net_file]) == 0
    assert capsys.readouterr().out == told
    net = fastconv.Sequential(fastconv.layers.Linear(3, 2))
    fastconv.save(net, "plain")
    assert main(["summary", "plain"]) == 2
    assert "plain does not say what its net reads: give --input-shape N,C,H,W" in capsys.readouterr().err
    assert main(["summary", "plain", "--input-shape", "1,3"]) == 0


def test_a_net_file_predicts(run, net_file, capsys):
    Image.fromarray((255 * np.eye(20)).astype(np.uint8)).save("image.png")
    answers = []
    for place in (str(run), net_file):
        capsys.readouterr()
        assert main(["predict", place, "image.png", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["images"])
    assert answers[0] == answers[1]
    fastconv.save(fastconv.Sequential(fastconv.layers.Flatten(), fastconv.layers.Linear(64, 2)), "plain")
    assert main(["predict", "plain", "image.png"]) == 1
    assert "plain: does not say how its net reads images; in Python: net = fastconv.load(" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".onnx", ".npz", ".pt", ".PTH"])
def test_no_net_is_saved_by_the_name_of_another_format(suffix):
    net = fastconv.Sequential(fastconv.layers.Linear(3, 2))
    with pytest.raises(ValueError, match=r"save: the file is safetensors, its name must not end in \.[a-z]+; "):
        fastconv.save(net, f"net{suffix}")
    assert not list(Path().iterdir())
