"""Training that begins with a file's weights: what is taken, what is frozen, the head's learning rate."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import assert_same_weights, call, state

import fastconv as fc
from fastconv import Trainer, models, optim
from fastconv.cli import finetune, rundir
from fastconv.training.recipes import RECIPES

QUICK = ("-e", "1", "-b", "256", "-q", "--no-plots")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(classes=7, seed=9, **changes):
    """A file of digits_cnn's weights."""
    net = models.digits_cnn(classes, rng=seed)
    for _, layer, name in net.named_arrays():
        if name == "running_mean":
            getattr(layer, name)[...] = 0.25
    arrays = {**net.state_dict(), **changes}
    np.savez("file.npz", **{name: array for name, array in arrays.items() if array is not None})
    return arrays


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_head_of_another_size_is_replaced_and_said(capsys):
    before = weights()
    status, out, _ = call(
        capsys, "train", "digits", "-o", "a", "--no-plots", "-e", 1, "-b", 256, "-w", "file.npz", "--freeze", "backbone"
    )
    assert status == 0
    said = " ".join(out.split())
    path = Path("file.npz").absolute()
    assert f" {path}: 24 of the net's 26 arrays are from there" in said
    assert " the head, 15, begins anew: it has 10 outputs, in the file 7 " in said
    assert " digits_cnn: 67,754 weights; " in said and " frozen: 65,184 of 67,754 weights " in said
    assert json.loads(Path("a/result.json").read_text())["weights"] == 67754
    after, fresh = state("a"), models.digits_cnn(10, rng=0).state_dict()
    for name, array in after.items():
        if name.startswith("15."):
            assert not np.array_equal(array, fresh[name])  # it has learnt
        else:
            np.testing.assert_array_equal(array, before[name], err_msg=name)  # the batch norms' statistics, too
    assert json.loads(Path("a/config.json").read_text())["recipe"]["freeze"] == ["backbone"]
    assert call(capsys, "train", "-c", "a/config.toml", "-o", "b", "-q", "--no-plots")[0] == 0
    assert_same_weights("a", "b")


def test_names_that_do_not_match_are_listed_in_one_line(capsys):
    changes = {"0.weight": None, "odd": np.zeros(3), "head.bias": np.zeros(2), "1.num_batches_tracked": None}
    weights(10, **changes)
    status, out, _ = call(capsys, "train", "digits", "-o", "a", "--no-plots", "-e", 1, "-b", 256, "-w", "file.npz")
    assert status == 0
    lines = out.splitlines()
    assert "not in the file, so they begin anew: 0.weight" in lines
    assert "in the file alone: odd, head.bias" in lines
    assert not any("begins anew" in line for line in lines)
    np.savez("file.npz", x=np.zeros(3))
    status, out, err = call(capsys, "train", "digits", "-o", "b", *QUICK, "-w", "file.npz")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "none of its names is the net's; it has x; the net has 0.weight, 1.weight" in err
    assert err.endswith("; --net NAME chooses another\n")
    weights(**{"0.weight": np.zeros((32, 3, 3, 3), "f4")})
    status, out, err = call(capsys, "train", "digits", "-o", "b", *QUICK, "-w", "file.npz")
    assert (status, err.count("\n")) == (1, 1)
    assert "0.weight has shape (32, 3, 3, 3), the net's is (32, 1, 3, 3): another net, or images of another size" in err
    assert not Path("b").exists()


def test_a_file_that_is_not_there_is_seen_before_images_are_read(capsys, monkeypatch):
    monkeypatch.setattr("fastconv.cli.data.load", None)
    status, out, err = call(capsys, "train", "digits", "-w", "nowhere.npz")
    assert (status, out, err.count("\n")) == (1, "", 1) and "nowhere.npz: No such file or directory" in err


def test_weights_of_a_run(capsys):
    assert call(capsys, "train", "digits", "-o", "a", *QUICK)[0] == 0
    for given in ("a", "a/weights.safetensors", "a/checkpoint.safetensors"):
        folder = f"from-{Path(given).name}"
        assert call(capsys, "train", "digits", "-o", folder, *QUICK, "-w", given, "--lr", "1e-12")[0] == 0
        for name, array in state("a").items():
            if name.endswith(("weight", "bias")):
                np.testing.assert_allclose(state(folder)[name], array, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--freeze", "*"), 2, "--freeze: nothing is left to train; --freeze backbone leaves the head, 15"),
        (
            ("--freeze", "bakbone"),
            2,
            "no layer or parameter is called 'bakbone'; layers are .*; did you mean 'backbone'",
        ),
        (("--weights", "nowhere.pth"), 1, "nowhere.pth: No such file"),
        (("--weights", "text.pth"), 1, "text.pth: is none of .pt, .pth, .safetensors and .npz"),
        (("--head-lr", "0"), 2, "--head-lr: must be a positive number, got '0'"),
    ],
)
def test_wrong_calls(capsys, options, status, message):
    Path("text.pth").write_text("hello")
    found, out, err = call(capsys, "train", "digits", "-o", "a", *QUICK, *options)
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert err.startswith("fastconv train: ")
    assert pytest.raises(ValueError, match=message).matches(ValueError(err)) or message in err
    assert not Path("a").exists()


def test_killed_and_resumed(capsys):
    weights()
    options = ("-w", "file.npz", "--freeze", "0", "--freeze", "1.*", "--head-lr", "0.5", "-b", 256, "-q", "--no-plots")
    assert call(capsys, "train", "digits", "-o", "whole", "-e", 2, *options)[0] == 0
    assert call(capsys, "train", "digits", "-o", "cut", "-e", 2, *options)[0] == 0
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        Path("cut", name).unlink()  # as if it had been killed before the first checkpoint
    assert call(capsys, "train", "-r", "cut", "-q", "--no-plots")[0] == 0
    assert_same_weights("whole", "cut")
    Path("file.npz").unlink()  # the checkpoint has them all
    assert call(capsys, "train", "-r", "cut", "-e", 3, "-q", "--no-plots")[0] == 0
    status, _, err = call(capsys, "train", "-r", "cut", "--head-lr", "0.1")
    assert (status, "--head-lr: the run in cut has 0.5" in err) == (2, True)


# --- its parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("vgg_cifar", "23"), ("lenet5", "11")])
def test_the_head(name, head):
    net = models.build(name, (3, 32, 32), 5, rng=0)
    assert finetune.head_of(net) == head
    assert finetune.head_of(fc.Linear(2, 3)) == ""


@pytest.mark.parametrize("name", RECIPES)
def test_the_heads_learning_rate(name):
    """In the shape of the recipe's schedule; biases keep their own options."""
    net = models.build(RECIPES[name].net, (3, 32, 32), 5, rng=0)
    changed = rundir.dataclasses.replace(RECIPES[name], head_lr=0.7)
    head = finetune.head_of(net)
    optimizer = optim.from_config(finetune.optimizer_for(changed, net))
    plain = optim.from_config(RECIPES[name].optimizer)
    optimizer.check_groups({full: getattr(layer, key) for full, layer, key in net.named_arrays(buffers=False)})
    for full, layer, key in net.named_arrays(buffers=False):
        found, before = (each.options_of(full, getattr(layer, key).ndim) for each in (optimizer, plain))
        assert {**found, "lr": 0} == {**before, "lr": 0}
        rate = found["lr"](50, 100) / before["lr"](50, 100)
        expected = 0.7 / RECIPES[name].optimizer["lr"].get("peak", RECIPES[name].optimizer["lr"].get("lr"))
        assert rate == pytest.approx(expected if full.startswith(f"{head}.") else 1)
    assert finetune.optimizer_for(RECIPES[name], net) == RECIPES[name].optimizer


def test_freezing_by_patterns():
    net = models.resnet18(5, rng=0)
    net.freeze("layer[12]*").freeze("*.bias")
    trained = net.parameters().keys()
    assert not any(name.startswith(("layer1", "layer2")) or name.endswith(".bias") for name in trained)
    assert {"conv1.weight", "bn1.weight", "layer3.0.conv1.weight", "fc.weight"} <= trained
    assert net.layer1._frozen_whole and not net.bn1._frozen_whole
    net.unfreeze("layer2.1*")
    assert "layer2.1.conv1.weight" in net.parameters() and "layer2.0.conv1.weight" not in net.parameters()
    with pytest.raises(ValueError, match=r"freeze: no layer or parameter is called 'layer9\*'; layers are"):
        net.freeze("layer9*")
    odd = fc.Sequential({"a[1]": fc.Linear(2, 2), "a1": fc.Linear(2, 2)})  # a name of one's own comes first
    odd.freeze("a[1]")
    assert odd.parameters().keys() == {"a1.weight", "a1.bias"}


def test_in_python_as_pytorch_does_it():
    """Frozen batch norm stays, the head has its own rate: a step of ours and one of PyTorch's."""
    torch = pytest.importorskip("torch")
    net = fc.Sequential(fc.Conv2d(1, 3, 3, rng=0), fc.BatchNorm2d(3), fc.ReLU(), fc.Flatten(), fc.Linear(108, 4, rng=1))
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(108, 4)
    )
    theirs.load_state_dict({name: torch.tensor(array) for name, array in net.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(20, 1, 8, 8)).astype(np.float32)
    y = np.arange(20) % 4
    net.freeze("1")
    theirs[1].eval().requires_grad_(False)
    optimizer = torch.optim.SGD([
        {"params": theirs[4].parameters(), "lr": 0.5}, {"params": theirs[0].parameters()}
    ], lr=0.01, momentum=0.9)  # fmt: skip
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y)).backward()
        optimizer.step()
    ours = optim.SGD(0.01, momentum=0.9, groups=[{"match": "4.*", "lr": 0.5}])
    Trainer(net, ours).fit([(x, y)], epochs=3)
    for name, array in net.state_dict().items():
        np.testing.assert_allclose(array, theirs.state_dict()[name].numpy(), rtol=2e-4, atol=1e-5, err_msg=name)


def test_from_a_file_of_pytorchs(capsys):
    torch = pytest.importorskip("torch")
    net = models.digits_cnn(3, rng=4)
    torch.save({name: torch.tensor(array) for name, array in net.state_dict().items()}, "zoo.pth")
    assert call(capsys, "train", "digits", "-o", "a", *QUICK, "-w", "zoo.pth", "--freeze", "backbone")[0] == 0
    np.testing.assert_array_equal(state("a")["0.weight"], net[0].weight)
