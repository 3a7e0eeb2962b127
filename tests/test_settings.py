"""Settings of a run: --set, --config, the file that repeats a run, and what is wrong with them."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from test_cli import assert_same_weights, call, names

from fastconv.cli import rundir, settings
from fastconv.cli.common import UsageError
from fastconv.training.recipes import RECIPES

QUICK = ("-b", "256", "-q", "--no-plots")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def after(*texts, recipe="digits"):
    return settings.changed(RECIPES[recipe], settings.of_line(list(texts)), "--set")


# --- what is changed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "way", "value"),
    [
        (["epochs=3"], "epochs", 3),
        (["net=lenet5"], "net", "lenet5"),
        (["net=mnist-cnn"], "net", "mnist_cnn"),
        (["label_smoothing = 0.2"], "label_smoothing", 0.2),
        (["label_smoothing=0"], "label_smoothing", 0.0),
        (["optimizer.momentum=0.8"], "optimizer.momentum", 0.8),
        (["optimizer.clip_norm=1"], "optimizer.clip_norm", 1),
        (["optimizer.nesterov=false"], "optimizer.nesterov", False),
        (["optimizer.lr=0.02"], "optimizer.lr", 0.02),
        (["optimizer.lr.warmup=3"], "optimizer.lr", {"schedule": "Cosine", "lr": 0.05, "warmup": 3}),
        (["optimizer.lr=OneCycle"], "optimizer.lr", {"schedule": "OneCycle", "peak": 0.05, "warmup": 0.15}),
        (["optimizer.lr.schedule=Step", "optimizer.lr.gamma=0.5"], "optimizer.lr",
         {"schedule": "Step", "lr": 0.05, "warmup": 0.15, "gamma": 0.5}),
        (["optimizer.lr=0.3", "optimizer.lr.warmup=3"], "optimizer.lr",
         {"schedule": "Cosine", "lr": 0.05, "warmup": 3}),
        (["lr=0.01"], "optimizer.lr", {"schedule": "Cosine", "lr": 0.01, "warmup": 0.15}),
        (["optimizer.groups=[{ndim = 1, weight_decay = 0.0}]"], "optimizer.groups", [{"ndim": 1, "weight_decay": 0.0}]),
        (["optimizer=Adam"], "optimizer", {
            "optimizer": "Adam", "lr": {"schedule": "Cosine", "lr": 1e-3, "warmup": 0.15}, "weight_decay": 0.01,
        }),
        (["optimizer=AdamW", "optimizer.betas=[0.8, 0.9]"], "optimizer.betas", [0.8, 0.9]),
        (["optimizer.optimizer=RMSprop"], "optimizer.lr.lr", 1e-2),
        (["augment=none"], "augment", None),
        (["augment.rotate=5"], "augment.rotate", 5),
        (["augment=Noise"], "augment.augment", "Noise"),
        (["augment=flip,noise"], "augment.augment", "Compose"),
        (["augment=['flip']"], "augment.augment", "Flip"),
        (["freeze=a.*,b"], "freeze", ("a.*", "b")),
        (["freeze=['a,b']"], "freeze", ("a,b",)),
        (["class_weight=balanced"], "class_weight", "balanced"),
        (["class_weight.3=2"], "class_weight", {"3": 2.0}),
        (["class_weight='none'"], "class_weight", None),
        (["average=0.99"], "average", 0.99),
        (["average=.9"], "average", 0.9),
        (["optimizer.momentum=.5"], "optimizer.momentum", 0.5),
        (["augment=Noise", "augment.std=1.e-2"], "augment.std", 0.01),
        (["optimizer.nesterov=True"], "optimizer.nesterov", True),
        (["augment=None"], "augment", None),
        (["augment=RandomResizedCrop"], "augment", {"augment": "RandomResizedCrop"}),  # none of Affine's scale
        (["augment=Compose", "augment.parts=[{augment='Flip'}]"], "augment.parts", [{"augment": "Flip"}]),
        (["metrics=f1,balanced_accuracy"], "metrics", ("f1", "balanced_accuracy")),
    ],
)  # fmt: skip
def test_what_is_set(texts, way, value):
    found = after(*texts)
    name, *inner = way.split(".")
    found = getattr(found, name)
    for key in inner:
        found = found[key]
    assert found == value
    assert type(found) is type(value)


def test_options_of_the_call_are_given_once(capsys):
    """In --set and beside it; a file's count less than either."""
    status, out, err = call(capsys, "train", "digits", "--seed", "4", "--set", "seed=3")
    assert (status, out) == (2, "") and "--set: seed is given twice, 4 and 3: which of them?" in err
    status, out, err = call(capsys, "train", "digits", "--set", "data=mnist")
    assert (status, out) == (2, "") and "--set: data is given twice, digits and mnist" in err
    Path("deep.toml").write_text(f"net{'.a' * 30_000} = 1")
    Path("data.toml").write_text("data = ['digits']")
    for name, message in (("deep", "must be nested at most 50 deep"), ("data", "data must be one of digits, ")):
        status, out, err = call(capsys, "train", "--config", f"{name}.toml")
        assert (status, out, err.count("\n")) == (2, "", 1) and f"{name}.toml: " in err and message in err


def test_parts_of_lists():
    found = after("augment.parts.0.padding=2", "optimizer.groups.0.weight_decay=0.5", recipe="cifar10")
    assert found.augment == {"augment": "Compose", "parts": [{"augment": "Crop", "padding": 2}, {"augment": "Flip"}]}
    assert found.optimizer["groups"] == [{"ndim": 1, "weight_decay": 0.5}]
    assert RECIPES["cifar10"].augment["parts"][0]["padding"] == 4
    with pytest.raises(UsageError, match=r"optimizer.groups.0 must be a table, got 3"):
        after("optimizer.groups.0=3", recipe="cifar10")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch=3", "--set: no setting is called 'epoch'; there are net, epochs, .*; did you mean 'epochs'?"),
        ("optimizer.momentun=1", "no setting is called 'optimizer.momentun'; SGD has .*; did you mean 'momentum'?"),
        ("optimizer.lr.warmpu=1", "no setting is called 'optimizer.lr.warmpu'; Cosine has .*; did you mean 'warmup'?"),
        ("augment.rotat=1", "no setting is called 'augment.rotat'; Affine has .*; did you mean 'rotate'?"),
        ("augment=Filp", "augment: no augmentation is called 'filp'; there are .*; did you mean 'flip'?"),
        ("optimizer=Adm", "optimizer.optimizer must be one of SGD, .*, got 'Adm'; did you mean 'Adam'?"),
        ("optimizer.lr=Cosin", "SGD: lr must be a number, got 'Cosin'"),
        ("net=lenet", "no net is called 'lenet'; there are .*; did you mean 'lenet5'?"),
        ("epochs=1.5", "epochs must be a positive integer, got 1.5"),
        ("epochs=true", "epochs must be a positive integer, got True"),
        ("epochs=many", "epochs must be a positive integer, got 'many'"),
        ("epochs=0", "epochs must be a positive integer, got 0"),
        ("label_smoothing=x", "label_smoothing must be a number from 0 to 1, 1 left out, got 'x'"),
        ("label_smoothing=nan", "label_smoothing must be a number from 0 to 1, 1 left out, got nan"),
        ("optimizer.momentum='a'", "SGD: momentum must be a number, got 'a'"),
        ("optimizer.nesterov=1", "SGD: nesterov must be True or False, got 1"),
        ("augment.rotate='a'", "Affine: rotate must be a number, got 'a'"),
        ("optimizer=3", "optimizer must be a table or one of SGD, .*, got 3"),
        ("class_weight=heavy", "class_weight must be 'balanced' or a table of numbers by .*, got 'heavy'"),
        ("metrics=f9", "none is called 'f9'"),
        ("epochs", "must be KEY=VALUE, e.g. optimizer.momentum=0.8, got 'epochs'"),
        ("=3", "must be KEY=VALUE"),
        ("optimizer..lr=3", "must be KEY=VALUE"),
        ("head_lr=0", "head_lr must be a positive number, got 0"),
        ("weights=3", "weights must be a text, got 3"),
        ("optimizer.optimizer=[1]", r"optimizer.optimizer must be one of SGD, .*, got \[1\]"),
        ("augment.augment={}", "augment.augment must be one of .*, got {}"),
        ("augment.parts=[]", "no setting is called 'augment.parts'; Affine has augment, rotate, scale, shift"),
        (f"epochs{'.a' * 3000}=1", "tables and lists must be nested at most 50 deep"),
    ],
)  # fmt: skip
def test_what_is_wrong(capsys, text, message):
    with pytest.raises(UsageError, match="--set: ") as caught:
        after(text)
    assert caught.match(message.replace("?", r"\?"))
    status, out, err = call(capsys, "train", "digits", "--set", text)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("fastconv train: --set: ")
    assert not list(Path().iterdir())


def read(folder):
    """A run's configuration, both files."""
    return json.loads(Path(folder, "config.json").read_text()), settings.read(Path(folder, "config.toml"))


# --- a file that repeats a run ---------------------------------------------------------------------------------------


def test_a_run_is_repeated_to_the_bit(capsys):
    chosen = (
        "-e", 2, "--validation", 80, "-s", 4, "--patience", 9, "--class-weight", "balanced", "-S", "average=0.9",
        "-S", "accumulate=2", "-S", "optimizer.lr.warmup=0.3", "-S", "augment.rotate=3", "-S", "metrics=f1",
        "-S", "class_weight.3=2.5",
    )  # fmt: skip
    assert call(capsys, "train", "digits", "-o", "a", *QUICK, *chosen)[0] == 0
    config = rundir.Config.read(Path("a"))
    assert config.recipe.class_weight == {"3": 2.5}
    assert "val_f1" in json.loads(Path("a/history.json").read_text())[0]
    assert call(capsys, "train", "--config", "a/config.toml", "-o", "b", "-q", "--no-plots")[0] == 0
    assert_same_weights("a", "b")
    assert read("a") == read("b")
    assert call(capsys, "train", "-c", "a/config.toml", "-o", "c", "-e", 1, "-S", "average=none", *QUICK)[0] == 0
    changed = rundir.Config.read(Path("c")).recipe
    assert (changed.epochs, changed.average, changed.accumulate) == (1, None, 2)


@pytest.mark.parametrize(
    "options", [("--no-augment", "--lr", "0.01"), ("-S", "optimizer=AdamW", "-S", "optimizer.lr=Step")]
)
def test_other_runs_are_repeated_too(capsys, options):
    assert call(capsys, "train", "digits", "-o", "a", "-e", 1, *QUICK, *options)[0] == 0
    assert call(capsys, "train", "--config", "a/config.toml", "-o", "b", "-q", "--no-plots")[0] == 0
    assert_same_weights("a", "b")
    assert read("a") == read("b")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_goes_through_a_file(name):
    Path("file.toml").write_text(settings.as_toml(
        rundir.Config(name, None, None, ("a", "b"), (1, 8, 8), RECIPES[name], 7, 3, "stratified").settings(), "x"
    ))  # fmt: skip
    read = settings.read(Path("file.toml"))
    assert (read.pop("data"), read.pop("seed"), read.pop("validation")) == (name, 3, 7)
    for start in RECIPES.values():
        found = settings.changed(start, read, "file.toml")
        assert {**found.__dict__, "validation": 0} == {**RECIPES[name].__dict__, "validation": 0}


AWKWARD = {
    "text": 'a "quoted" \\ back\nslash \x7f \x00 ü 漢 😀', "whole": 10**15, "small": 5e-324, "third": 1 / 3,
    "minus": -0.0, "yes": True, "list": [1, [2.5, "x"], {"a b": {"c": [False]}}],
    "a key": {"ünder": {"x": 1}, "dotted.key": 2},
}  # fmt: skip


def test_values_come_back_as_they_were():
    Path("file.toml").write_text(settings.as_toml({**AWKWARD, "none": None}, "x"), encoding="utf-8")
    found = settings.read(Path("file.toml"))
    assert found == AWKWARD
    assert math.copysign(1, found["minus"]) == -1
    assert [type(value) for value in found.values()] == [type(value) for value in AWKWARD.values()]


def test_a_file_of_ones_own(capsys):
    Path("mine.toml").write_text('data = "digits"\nepochs = 1\nbatch_size = 256\n[optimizer]\nmomentum = 0.5\n')
    assert call(capsys, "train", "-c", "mine.toml", "-o", "a", "-q", "--no-plots")[0] == 0
    optimizer = rundir.Config.read(Path("a")).recipe.optimizer
    assert optimizer == {**RECIPES["digits"].optimizer, "momentum": 0.5}
    Path("mine.toml").write_text('data = "digits"\n[optimizer]\noptimizer = "SGD"\nlr = 0.1\n')
    found = settings.changed(RECIPES["digits"], {"optimizer": {"optimizer": "SGD", "lr": 0.1}}, "mine.toml")
    assert found.optimizer == {"optimizer": "SGD", "lr": 0.1}  # it says what it is: nothing of the recipe's is left


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("epochs = ", 2, "bad.toml: is no TOML: "),
        ("epochs = 1\nepochs = 2", 2, "bad.toml: is no TOML: "),
        ("[x" * 30_000, 2, "bad.toml: is no TOML: "),
        ("x = " + "[" * 100_000, 2, "bad.toml: is no TOML: "),
        ("a = 1\n" * 200_000, 2, "bad.toml: has more than 1,048,576 bytes"),
        ("\udc80", 2, "bad.toml: is no TOML: "),
        ('seed = "x"', 2, "bad.toml: seed must be an integer, 0 or more, got 'x'"),
        ("validation = -1", 2, "bad.toml: validation must be a number of images or a share below 1, got -1"),
        ("size = 8", 2, "--size belongs to folder"),
        ("size = 'x'", 2, "bad.toml: size must be N or HEIGHTxWIDTH, e.g. 32 or 32x48, got 'x'"),
        ("path = '.'", 2, "digits is part of fastconv"),
        ("path = 3", 2, "bad.toml: path must be a text, got 3"),
        ("[optimiser]\nlr = 1", 2, "bad.toml: no setting is called 'optimiser'; there are "),
        ("[optimizer]\noptimizer = 'SGD'", 2, "bad.toml: "),
        ("[class_weight]\nx = 1", 2, "class_weight: no class is called 'x'"),
    ],
)  # fmt: skip
def test_wrong_files(capsys, text, status, message):
    Path("bad.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    found, out, err = call(capsys, "train", "digits", "-c", "bad.toml", "-o", "a")
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert message in err
    assert names(".") == {"bad.toml"}


def test_more_wrong_files(capsys):
    assert call(capsys, "train", "digits", "-c", "nowhere.toml")[0] == 1
    os.mkfifo("pipe.toml")
    status, _, err = call(capsys, "train", "digits", "-c", "pipe.toml")
    assert (status, err) == (1, "fastconv train: pipe.toml: is not a regular file\n")


def test_a_resumed_run_keeps_its_settings(capsys):
    assert call(capsys, "train", "digits", "-o", "a", "-e", 1, *QUICK)[0] == 0
    for option in (("-S", "epochs=2"), ("-c", "a/config.toml")):
        status, _, err = call(capsys, "train", "-r", "a", *option)
        assert status == 2
        assert "a run that is resumed keeps its settings" in err
    assert call(capsys, "train", "-r", "a", "-e", 2, "-q", "--no-plots")[0] == 0
    assert settings.read(Path("a/config.toml"))["epochs"] == 2


def test_patience(capsys):
    long = ("-e", 60, "--validation", 300, "--patience", 2)
    status, out, _ = call(capsys, "train", "digits", "-o", "a", "-b", 256, "--no-plots", *long)
    assert status == 0
    result = json.loads(Path("a/result.json").read_text())
    assert result["epochs"] == result["best_epoch"] + 2 < 60
    assert f"ended after {result['epochs']} epochs: none was better for 2\n" in out
    assert call(capsys, "train", "-r", "a", "-q", "--no-plots")[0] == 0  # nothing is left to do
    assert json.loads(Path("a/result.json").read_text())["epochs"] == result["epochs"]
    status, _, err = call(capsys, "train", "digits", "--patience", 2)
    assert (status, err.count("\n")) == (2, 1)
    assert "--patience: there are no validation images" in err
    assert np.isfinite(result["test_loss"])
