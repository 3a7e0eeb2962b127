"""The command line, as its users call it: what it leaves behind, what it prints, and how it fails."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import augment, datasets, models, optim
from fastconv.cli import data, main, rundir
from fastconv.training.checkpoint import load_net
from fastconv.training.recipes import RECIPES

ALWAYS = {
    "config.json", "config.toml", "checkpoint.safetensors", "weights.safetensors", "history.csv", "history.json",
    "result.json", "report.json", "report.txt",
}  # fmt: skip
PICTURES = {"curve.png", "confusion.png", "mistakes.png"}
QUICK = ("--batch-size", "256", "--quiet", "--no-plots")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(capsys, *arguments):
    """(exit status, standard output, standard error) of a command."""
    capsys.readouterr()
    status = main(list(map(str, arguments)))
    return status, *capsys.readouterr()


def names(folder):
    return {entry.name for entry in Path(folder).iterdir()}


def state(folder):
    return load_net(Path(folder, "weights.safetensors")).state_dict()


def assert_same_weights(a, b):
    a, b = state(a), state(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


# --- train -----------------------------------------------------------------------------------------------------------


def test_train_leaves_a_run_folder(capsys):
    pytest.importorskip("matplotlib")
    status, out, err = call(capsys, "train", "digits", "--epochs", 2, "--threads", 1)
    assert status == 0
    assert names("runs/digits-1") == ALWAYS | PICTURES
    for name in PICTURES:
        assert Path("runs/digits-1", name).read_bytes().startswith(b"\x89PNG")
    lines = out.splitlines()
    assert lines[0].startswith("digits: 1,437 training images, 360 for the test; 10 classes, 1x8x8")
    assert "2 epochs in batches of" in lines[1]
    assert "1 thread" in lines[1]
    assert lines[2].startswith("test accuracy ")
    assert "s an epoch" in lines[2]
    assert lines[3].startswith("runs/digits-1/: ")
    assert set(" ".join(lines[3:]).split()[1:]) == names("runs/digits-1")
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in err.splitlines()] == ["1/2", "2/2"]

    with Path("runs/digits-1/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    history = json.loads(Path("runs/digits-1/history.json").read_text())
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in history]

    config = json.loads(Path("runs/digits-1/config.json").read_text())
    assert config["recipe"]["epochs"] == 2
    assert config["classes"] == list("0123456789")


def test_the_result_is_the_nets(capsys):
    status, out, _ = call(capsys, "train", "digits", "--epochs", 3, "--out", "a", "--json", *QUICK)
    assert status == 0
    result = json.loads(out)
    assert out.count("\n") == 1
    assert json.loads(Path("a/result.json").read_text()) == result
    _, (x, y) = datasets.load_digits()
    right = load_net("a/weights.safetensors").predict(x).argmax(axis=1) == y
    assert result["test_accuracy"] == right.mean()
    assert result["test_mistakes"] == (~right).sum()
    assert (result["test_images"], result["training_images"], result["epochs"]) == (360, 1437, 3)
    assert result["run"] == "a"
    assert result["seconds"] >= result["seconds_per_epoch"] > 0
    assert result["validation_accuracy"] is None
    assert names("a") == ALWAYS


def test_validation_images_are_not_trained_on(capsys):
    status, out, err = call(
        capsys, "train", "digits", "--epochs", 1, "--validation", "0.1", "--json", "--out", "a", *QUICK
    )
    assert status == 0
    result = json.loads(out)
    assert (result["validation_images"], result["training_images"]) == (144, 1293)
    assert 0 <= result["validation_accuracy"] <= 1
    assert names("a") == ALWAYS | {"best.safetensors"}

    assert "weights of epoch 1, the best and the last\n" in err

    x = np.arange(50.0).reshape(50, 1, 1, 1)
    (rest, _), (kept, labels) = data.split((x, np.arange(50)), 20, seed=3)
    assert sorted([*rest.ravel(), *kept.ravel()]) == list(range(50))
    np.testing.assert_array_equal(kept.ravel(), labels)
    assert not np.array_equal(kept, data.split((x, np.arange(50)), 20, seed=4)[1][0])


SHARES = {10: [0, 1, 1, 3, 5], 50: [0, 1, 2, 20, 27], 3: [0, 0, 1, 1, 1], 95: [0, 1, 2, 39, 53]}


@pytest.mark.parametrize("images", SHARES)
def test_a_split_has_its_share_of_every_class(images):
    labels = np.repeat([7, 3, 5, 4, 9], [1, 2, 3, 40, 54])
    rows = np.arange(100)
    (rest, _), (kept, kept_labels) = data.split((rows, labels), images, seed=0)
    assert [np.count_nonzero(kept_labels == label) for label in (7, 3, 5, 4, 9)] == SHARES[images]
    assert sorted([*rest, *kept]) == list(rows)
    assert (np.diff(rest) > 0).all()
    np.testing.assert_array_equal(labels[kept], kept_labels)
    np.testing.assert_array_equal(kept, data.split((rows, labels), images, seed=0)[1][0])
    assert len(data.split((rows, labels), 99, seed=0)[1][0]) == 99
    shuffled = np.random.default_rng((4, 2)).permutation(100)[:images]
    unstratified = data.split((rows, labels), images, seed=4, stratified=False)
    np.testing.assert_array_equal(unstratified[1][0], np.sort(shuffled))


def test_the_same_seed_the_same_bits_at_any_number_of_threads(capsys):
    for folder, options in (("a", ("--threads", 1)), ("b", ("--threads", 3)), ("c", ("--seed", 1))):
        assert call(capsys, "train", "digits", "--epochs", 1, "--out", folder, *options, *QUICK)[0] == 0
    assert_same_weights("a", "b")
    assert any((state("a")[name] != state("c")[name]).any() for name in state("a"))


def test_options_change_the_recipe(capsys):
    options = ("--net", "mnist-cnn", "--epochs", 1, "--batch-size", 512, "--lr", 0.01, "--seed", 5, "--no-augment")
    assert call(capsys, "train", "digits", "--out", "a", "--quiet", "--no-plots", *options)[0] == 0
    config = rundir.Config.read(Path("a"))
    assert (config.recipe.net, config.recipe.batch_size, config.seed) == ("mnist_cnn", 512, 5)
    assert config.recipe.augment is None
    assert config.recipe.optimizer["lr"]["lr"] == 0.01
    assert RECIPES["digits"].optimizer["lr"]["lr"] != 0.01


def test_runs_are_numbered_and_never_overwritten(capsys):
    assert [str(rundir.create("digits", None)) for _ in range(3)] == [f"runs/digits-{n}" for n in (1, 2, 3)]
    for folder in ("empty", "full"):
        Path(folder).mkdir()
    Path("full/precious").write_text("x")
    Path("file").write_text("x")
    assert call(capsys, "train", "digits", "--epochs", 1, "--out", "empty", *QUICK)[0] == 0
    for folder in ("full", "file", "empty"):
        status, out, err = call(capsys, "train", "digits", "--epochs", 1, "--out", folder, *QUICK)
        assert (status, out) == (2, "")
        assert err.startswith(f"fastconv train: --out {folder}: exists already and is never overwritten")
        assert ("--resume empty" in err) is (folder == "empty")


def test_without_matplotlib_it_still_trains(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, _ = call(capsys, "train", "digits", "--epochs", 1, "--batch-size", 256, "--out", "a", "--quiet")
    assert status == 0
    assert out.splitlines()[0] == 'no matplotlib here: pictures need pip install "fastconv[plot]"'
    assert names("a") == ALWAYS


def test_a_loss_that_is_not_finite_is_one_line(capsys):
    status, out, err = call(capsys, "train", "digits", "--epochs", 1, "--lr", 1e12, "--out", "a", *QUICK)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "try a lower learning rate" in err


# --- resume ----------------------------------------------------------------------------------------------------------


def environment():
    return {**os.environ, "PYTHONPATH": str(Path(fastconv.__file__).parents[1]), "OMP_WAIT_POLICY": "passive"}


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "fastconv", *map(str, arguments)],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition):
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("nothing happened in 20 seconds")


TRAIN = ("train", "digits", "--epochs", 3, "--batch-size", 32, "--no-plots")


def test_killed_and_resumed_ends_with_the_same_bits(capsys):
    assert call(capsys, *TRAIN, "--out", "whole", "--json")[0] == 0
    with start(*TRAIN, "--out", "cut", "--checkpoint-every", 5) as process:
        checkpoint = Path("cut/checkpoint.safetensors")
        wait_for(checkpoint.exists)
        first = checkpoint.stat().st_ino
        wait_for(lambda: checkpoint.stat().st_ino != first)
        process.kill()
    assert "weights.safetensors" not in names("cut")
    status, out, err = call(capsys, "predict", "cut", "image.png")
    assert status == 1
    assert "fastconv train --resume cut" in err

    status, out, _ = call(capsys, "train", "--resume", "cut", "--json", "--no-plots")
    assert status == 0
    assert_same_weights("whole", "cut")
    assert json.loads(out)["test_loss"] == json.loads(Path("whole/result.json").read_text())["test_loss"]

    status, _, _ = call(capsys, "train", "digits", "--resume", "cut", "--epochs", 3, "--out", "cut", "--no-plots")
    assert status == 0  # options that say what the run has are no contradiction, and a finished run may be told again
    assert_same_weights("whole", "cut")
    status, out, _ = call(capsys, "train", "--resume", "cut", "--epochs", 4, "--json", "--no-plots")
    assert (status, json.loads(out)["epochs"]) == (0, 4)


def test_killed_before_the_first_checkpoint(capsys):
    assert call(capsys, "train", "digits", "--epochs", 1, "--out", "whole", *QUICK)[0] == 0
    assert call(capsys, "train", "digits", "--epochs", 1, "--out", "cut", *QUICK)[0] == 0
    for name in names("cut") - {"config.json"}:
        Path("cut", name).unlink()
    assert call(capsys, "train", "--resume", "cut", "--quiet", "--no-plots")[0] == 0
    assert_same_weights("whole", "cut")


def test_ctrl_c_says_how_to_go_on():
    with start("train", "digits", "--epochs", 500, "--out", "a b", "--no-plots") as process:
        wait_for(Path("a b/checkpoint.safetensors").exists)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "fastconv train: interrupted; to go on: fastconv train --resume 'a b'"
    assert "Traceback" not in err


def test_two_processes_do_not_train_one_run(capsys):
    assert call(capsys, "train", "digits", "--epochs", 1, "--out", "a", *QUICK)[0] == 0
    with rundir.locked(Path("a")):
        status, _, err = call(capsys, "train", "--resume", "a", "--quiet")
    assert status == 1
    assert err == "fastconv train: a: another process is training this run\n"


def test_a_run_is_not_resumed_as_another(capsys):
    assert call(capsys, "train", "digits", "--epochs", 2, "--validation", 100, "--out", "a", *QUICK)[0] == 0
    before = {name: Path("a", name).read_bytes() for name in names("a")}
    for options in (
        ("--seed", 1), ("--batch-size", 3), ("--lr", 3), ("--net", "lenet5"), ("--no-augment",), ("--epochs", 1),
        ("--validation", 7), ("--out", "b"), ("--size", "8x8"),
    ):  # fmt: skip
        status, out, err = call(capsys, "train", "--resume", "a", "--quiet", *options)
        assert (status, out) == (2, ""), options
        assert options[0] in err
        assert err.count("\n") == 1
    assert call(capsys, "train", "mnist", "--resume", "a")[0] == 2
    assert {name: Path("a", name).read_bytes() for name in names("a")} == before
    Path("a/checkpoint.safetensors").write_bytes(b"broken")
    status, _, err = call(capsys, "train", "--resume", "a", "--quiet")
    assert status == 1
    assert err.startswith("fastconv train: a/checkpoint.safetensors: ")


# --- other data ------------------------------------------------------------------------------------------------------


def write_folder(test, *more, count=12):
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in (*(("train", "test") if test else (".",)), *more):
        for label, name in enumerate(("dark", "light")):
            folder = Path("images", part, name)
            folder.mkdir(parents=True)
            for at in range(count):
                pixels = rng.integers(0, 120, (12, 16, 3)) + 120 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{at}.png")


@pytest.mark.parametrize("test", [True, False])
def test_folders_of_images(capsys, test):
    pytest.importorskip("PIL")
    write_folder(test)
    options = ("--data", "images", "--epochs", 8, "--batch-size", 8, "--size", "16x12")
    status, out, _ = call(capsys, "train", "folder", "--out", "a", "--json", "--quiet", "--no-plots", *options)
    assert status == 0
    result = json.loads(out)
    assert (result["test_images"], result["validation_images"]) == ((24, 0) if test else (0, 3))
    assert result["test_accuracy"] == (1 if test else None)
    assert (result["validation_accuracy"] is None) is test
    image = next(Path("images").rglob("light/3.png"))
    status, out, _ = call(capsys, "predict", "a", image)
    assert status == 0
    assert out.startswith(f"{image}: light ")


def test_a_single_class_is_refused(capsys):
    """Which is what the folder above the classes' looks like."""
    pytest.importorskip("PIL")
    write_folder(False)
    Path("images").rename("photos.d")
    Path("images").mkdir()
    Path("photos.d/dark").rename("images/dark")
    status, out, err = call(capsys, "train", "images")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "one class alone, 'dark': there is nothing to tell it from; the folder must hold a subfolder for each" in err
    assert not Path("runs").exists()


def test_images_beside_the_classes_are_told_of(capsys):
    pytest.importorskip("PIL")
    write_folder(True)
    for name in ("a.png", "b.png"):
        Path("images/train", name).write_bytes(Path("images/train/dark/0.png").read_bytes())
    status, out, _ = call(capsys, "train", "images", "-e", 1, "--size", 8, "--no-plots")
    assert (status, "left out: 2 images beside the classes of train/\n" in out) == (0, True)


def test_runs_beside_the_classes_are_no_class(capsys, monkeypatch):
    pytest.importorskip("PIL")
    write_folder(False)
    monkeypatch.chdir("images")
    for number in (1, 2):
        status, out, _ = call(capsys, "train", ".", "--epochs", 1, "--size", 8)
        assert (status, "2 classes" in out) == (0, True)
        assert json.loads(Path(f"runs/folder-{number}/config.json").read_text())["classes"] == ["dark", "light"]


FOLDER = ("train", "folder", "--data", "images", "--batch-size", 8, "--no-plots", "--quiet")


@pytest.mark.parametrize("name", ["val", "Valid", "validation"])
def test_a_validation_folder_is_used(capsys, name):
    pytest.importorskip("PIL")
    write_folder(True, name, "val2", "extra")
    status, out, _ = call(capsys, *FOLDER, "--epochs", 2, "--out", "a")
    assert status == 0
    assert "left out: extra/, val2/\n" in out
    result = json.loads(Path("a/result.json").read_text())
    assert (result["training_images"], result["validation_images"], result["test_images"]) == (24, 24, 24)
    assert result["validation_accuracy"] is not None
    config = json.loads(Path("a/config.json").read_text())
    assert (config["split"], config["validation"]) == ("folder", 24)

    status, out, err = call(capsys, *FOLDER, "--validation", 3, "--out", "b")
    assert (status, out) == (2, "")
    assert "--validation: the folder has a validation part of its own" in err
    Path("images", name).rename("elsewhere")
    status, out, err = call(capsys, "train", "--resume", "a", "--epochs", 3, "--quiet")
    assert (status, out) == (2, "")
    assert "not the 24 validation images that the run began with" in err


@pytest.mark.parametrize("validation", ["folder", "stratified"])
def test_killed_with_validation_images_and_resumed_ends_with_the_same_bits(capsys, validation):
    pytest.importorskip("PIL")
    write_folder(False) if validation == "stratified" else write_folder(True, "val")
    assert call(capsys, *FOLDER, "--epochs", 20, "--out", "whole")[0] == 0
    with start(*FOLDER, "--epochs", 20, "--out", "cut", "--checkpoint-every", 1) as process:
        checkpoint = Path("cut/checkpoint.safetensors")
        wait_for(checkpoint.exists)
        first = checkpoint.stat().st_ino
        wait_for(lambda: checkpoint.stat().st_ino != first)
        process.kill()
    assert call(capsys, "train", "--resume", "cut", "--quiet", "--no-plots")[0] == 0
    assert_same_weights("whole", "cut")
    for name in ("best_epoch", "validation_accuracy"):
        results = [json.loads(Path(folder, "result.json").read_text())[name] for folder in ("whole", "cut")]
        assert results[0] == results[1]


def test_a_run_that_was_split_otherwise_goes_on_so(capsys):
    pytest.importorskip("PIL")
    write_folder(False)
    assert call(capsys, *FOLDER, "--epochs", 2, "--validation", 10, "--out", "a")[0] == 0
    config = json.loads(Path("a/config.json").read_text())
    assert config["split"] == "stratified"
    assert call(capsys, "train", "--resume", "a", "--epochs", 3, "--quiet", "--no-plots")[0] == 0
    del config["split"]  # as older runs have it: another split of the same size
    Path("a/config.json").write_text(json.dumps(config))
    status, out, err = call(capsys, "train", "--resume", "a", "--epochs", 4, "--quiet", "--no-plots")
    assert status == 1
    assert "fit: this run began with data" in err
    config["split"] = "alphabetical"
    Path("a/config.json").write_text(json.dumps(config))
    status, out, err = call(capsys, "train", "--resume", "a")
    assert (status, out) == (1, "")
    assert err.startswith("fastconv train: a/config.json: ")


def test_classes_too_rare_to_be_in_both_parts_are_told(capsys):
    pytest.importorskip("PIL")
    write_folder(False, count=20)
    for path in sorted(Path("images/light").iterdir())[1:]:
        path.unlink()
    status, out, _ = call(capsys, *FOLDER, "--epochs", 1, "--out", "a")
    assert status == 0
    assert "not among the validation images: light (1 training image)\n" in out
    assert json.loads(Path("a/result.json").read_text())["validation_images"] == 3
    status, out, err = call(capsys, *FOLDER, "--validation", 20, "--out", "b")
    assert (status, out) == (2, "")
    assert "--validation: 20 images would leave a class none to train on, 19 at most" in err


def test_the_best_epoch_judges_and_draws_where_it_is_wanted(capsys, monkeypatch):
    pytest.importorskip("PIL")
    write_folder(True, "val")
    monkeypatch.setattr("fastconv.training.trainer._score", lambda record: -record["epoch"])  # the first is the best
    status, out, _ = call(capsys, *FOLDER, "--epochs", 2, "--out", "a")
    assert status == 0
    assert "weights of epoch 2, the last; the best was epoch 1: --best\n" in out
    x, y = datasets.load_folder("images", validation=True)[2]
    image, results = "images/test/light/0.png", {}
    for name, epoch, file, told, *options in (
        ("last", 2, "a/weights.safetensors", "2, the last; the best was epoch 1: --best"),
        ("best", 1, "a/best.safetensors", "1, the best", "--best"),
    ):
        net = load_net(file)
        status, out, _ = call(capsys, "train", "--resume", "a", "--json", "--quiet", "--no-plots", *options)
        results[name] = result = json.loads(out)
        assert result["test_loss"] == float(fastconv.functional.cross_entropy(net.predict(x), y))
        assert (result["weights_from"], result["weights_epoch"], result["best_epoch"]) == (name, epoch, 1)

        status, out, err = call(capsys, "predict", "a", image, *options)
        assert (status, out.count("\n")) == (0, 1)
        assert err == f"fastconv predict: weights of epoch {told}\n"
        status, out, err = call(capsys, "predict", "a", image, "--json", *options)
        assert (status, err) == (0, "")
        answer = json.loads(out)
        assert (answer["weights_from"], answer["weights_epoch"], answer["best_epoch"]) == (name, epoch, 1)
        expected = fastconv.functional.softmax(net.predict(x[12:13]))[0, 1]
        assert answer["images"][0]["probabilities"]["light"] == pytest.approx(expected, rel=1e-5)
    assert results["last"]["test_loss"] != results["best"]["test_loss"]

    Path("a/best.safetensors").unlink()
    assert call(capsys, "predict", "a", image, "--best") == (
        2, "", "fastconv predict: --best: the run in a had no validation images\n",
    )  # fmt: skip
    Path("a/result.json").write_text('{"epochs": [1]}')
    status, out, err = call(capsys, "predict", "a", image)
    assert (status, out) == (1, "")
    assert err.startswith("fastconv predict: a/result.json: ")


def test_the_best_epoch_needs_validation(capsys):
    status, out, err = call(capsys, "train", "digits", "--best")
    assert (status, out) == (2, "")
    assert err.startswith("fastconv train: --best: there are no validation images")
    assert not names(".")


def test_the_report_comes_first(capsys):
    status, out, _ = call(capsys, "train", "digits", "--epochs", 1, "--report", "--no-plots", "--batch-size", 256)
    assert status == 0
    assert "repeats an earlier image" in out.partition("test accuracy")[0]


# --- recipes and nets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_can_be_followed(name):
    recipe = RECIPES[name]
    assert name in data.SETS
    assert recipe.net in models.MODELS
    optimizer = optim.from_config(recipe.optimizer)
    optimizer.total_steps = 100
    assert optimizer.learning_rate(0) > 0
    if recipe.augment is not None:
        augment.from_config(recipe.augment)
    assert json.loads(json.dumps(recipe.optimizer)) == recipe.optimizer


NETS = [name for name in models.MODELS if models.AXES.get(name, 2) == 2]


@pytest.mark.parametrize("name", NETS)
def test_nets(name):
    options = {"hidden": 50} if name == "vgg16" else {}
    shapes = ((1, 28, 28), (3, 32, 40)) if name != "vgg16" else ((3, 32, 64),)
    for shape, classes in zip(shapes, (10, 4), strict=False):
        net = models.build(name, shape, classes, rng=0, **options)
        assert net.predict(np.zeros((2, *shape), np.float32)).shape == (2, classes)
    first, second = (models.build(name, shape, classes, rng=7, **options).state_dict() for _ in range(2))
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
    if "AdaptiveAvgPool2d(output_size=1)" in repr(net):  # takes images of any size
        assert models.build(name, (1, 1, 28), 10).predict(np.zeros((2, 1, 1, 28))).shape == (2, 10)
        return
    with pytest.raises(fastconv.ShapeError, match="too small"):
        models.build(name, (1, 1, 28), 10)


def test_train_a_net_that_branches(capsys):
    assert call(capsys, "train", "digits", "--net", "resnet20", "--epochs", 1, "--threads", 1, *QUICK)[0] == 0
    assert call(capsys, "train", "--resume", "runs/digits-1", "--epochs", 2, *QUICK)[0] == 0
    net = load_net(Path("runs/digits-1", "weights.safetensors"))
    assert isinstance(net["layer2"][0], fastconv.Residual)
    assert net.state_dict()["layer2.0.shortcut.1.num_batches_tracked"] == 2 * 6


def test_unknown_net():
    with pytest.raises(ValueError, match="no net is called 'x'; there are lenet5"):
        models.build("x", (1, 8, 8), 10)


# --- wrong calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("fly", 2, "invalid choice: 'fly'"),
        ("trian", 2, "summary, info, completion); did you mean 'train'? (see fastconv --help)"),
        ("train digits --epoch 3", 2, "unrecognized arguments: --epoch 3; did you mean '--epochs'? (see "),
        ("train digits --epochz=3", 2, "--epochz=3; did you mean '--epochs'? (see fastconv train --help)"),
        ("predict --tob 3", 2, "fastconv predict: unrecognized arguments: --tob; did you mean '--top'?"),
        ("info -x", 2, "fastconv info: unrecognized arguments: -x (see fastconv info --help)"),
        ("info more", 2, "fastconv info: unrecognized arguments: more (see fastconv info --help)"),
        ("onnx exprot a b", 2, "fastconv onnx: argument export|import: invalid choice: 'exprot'"),
        ("onnx export a b --opsets 3", 2, "fastconv onnx export: unrecognized arguments: --opsets 3; did you mean"),
        ("train", 2, "which data set: digits, mnist, cifar10, folder, or the path of a folder? (see"),
        ("train cats", 2, "no data set and no folder is called 'cats'; data sets are digits, mnist, cifar10, folder"),
        ("train minst", 2, "did you mean 'mnist'?"),
        ("train mnist", 2, "mnist needs the folder that holds its files: mnist DIR, or --data DIR"),
        ("train . nowhere", 2, "one folder is trained on, got . and nowhere"),
        ("train folder . --data .", 2, "the folder is given twice: . and --data ."),
        ("train digits --augment flip,fly", 2, "no augmentation is called 'fly'"),
        ("train digits --augment ,", 2, "it names no augmentation"),
        ("train digits --augment flip --no-augment", 2, "--augment and --no-augment: which of them?"),
        ("train digits --skip-unreadable", 2, "--skip-unreadable belongs to folder"),
        ("train digits --memory-limit 2G", 2, "--memory-limit belongs to folder"),
        ("train folder --memory-limit much", 2, "must be a number of bytes, e.g. 500M or 2G, got 'much'"),
        ("train digits --data .", 2, "digits is part of fastconv"),
        ("train digits --size 8", 2, "--size belongs to folder"),
        ("train digits --size x", 2, "must be N or HEIGHTxWIDTH, e.g. 32 or 32x48, got 'x'"),
        ("train digits --epochs 0", 2, "--epochs: must be a positive integer, got '0'"),
        ("train digits --epochs 1.5", 2, "--epochs: must be a positive integer, got '1.5'"),
        ("train digits --lr nan", 2, "--lr: must be a positive number, got 'nan'"),
        ("train digits --seed -1", 2, "--seed"),
        ("train digits --ep 3", 2, "unrecognized arguments: --ep 3; did you mean '--epochs'?"),
        ("train digits --validation 2000", 2, "--validation: 2,000 of 1,437 training images would leave none"),
        ("train digits --validation -1", 2, "--validation"),
        ("train digits --net nothing", 2, "no net is called 'nothing'; there are lenet5"),
        ("train digits --net lenet5", 2, "lenet5: inputs of 8 x 8 are too small"),
        ("train digits --net m5", 2, "m5: inputs must have 2 axes, C and 1 in space, got (1, 8, 8)"),
        ("train --resume nowhere", 2, "nowhere: is no run folder: nothing is called so"),
        ("train mnist --data nowhere", 1, "nowhere: no such folder"),
        ("train mnist --data .", 1, "no MNIST training files"),
        ("train cifar10 --data .", 1, "no CIFAR-10 training files"),
        ("train folder --data .", 1, "the images must be in one subfolder per class"),
        ("evaluate", 2, "the following arguments are required: RUN"),
        ("evaluate nowhere", 2, "nowhere: is no run folder"),
        ("evaluate nowhere --csv a.txt", 2, "the name must end in .csv, got 'a.txt'"),
        ("predict", 2, "the following arguments are required: RUN, IMAGE"),
        ("predict nowhere a.png", 2, "nowhere: is no run folder"),
        ("export", 2, "the following arguments are required: RUN, FILE"),
        ("export nowhere a.npz", 2, "nowhere: is no run folder"),
        ("export nowhere a.pt", 2, "the name must end in .safetensors or .npz, got 'a.pt'"),
        ("export nowhere nowhere/a.npz", 2, "no such folder: nowhere"),
        ("bench", 1, "bench: no such folder: the benchmarks are in the source tree"),
        ("bench --load nothing.json", 1, "nothing.json: No such file or directory"),
        ("bench --load nothing.json -k x", 2, "--load runs nothing: -k does not go with it"),
        ("bench --plot a.doc", 2, "must end in .png, .svg or .pdf, got 'a.doc'"),
        ("bench --plot nowhere/a.png", 2, "no such folder: nowhere"),
        ("compare nothing", 2, "no kernel is called 'nothing'"),
        ("compare --repeats 0", 2, "--repeats: must be a positive integer"),
        ("info --threads 0", 2, "--threads: must be a positive integer"),
    ],
)  # fmt: skip
def test_wrong_calls_are_one_line(capsys, arguments, status, message):
    found, out, err = call(capsys, *arguments.split())
    assert (found, out) == (status, "")
    assert err.count("\n") == 1
    assert err.startswith("fastconv")
    assert message in err
    assert not list(Path().iterdir())


COMMANDS = ("", "train", "evaluate", "predict", "export", "compare", "bench", "info", "completion")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(capsys, command):
    status, out, err = call(capsys, *command.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: fastconv {command}".rstrip())


def test_no_arguments_are_a_question(capsys):
    status, out, err = call(capsys)
    assert (status, err) == (0, "")
    assert out == call(capsys, "--help")[1]


def test_short_options(capsys):
    assert call(capsys, "train", "digits", "-e", 1, "-b", 512, "-s", 3, "-n", "lenet5", "-o", "a", "-q")[0] == 2
    status, out, _ = call(capsys, "train", "digits", "-e", 1, "-b", 512, "-s", 3, "-t", 1, "-o", "a", "-q", "-j")
    assert (status, json.loads(out)["seed"]) == (0, 3)
    assert call(capsys, "train", "-r", "a", "-q", "--no-plots")[0] == 0
    assert call(capsys, "-V") == call(capsys, "--version")


def test_completion(capsys, tmp_path):
    pytest.importorskip("argcomplete")
    for shell in ("bash", "zsh", "fish"):
        status, out, _ = call(capsys, "completion", shell)
        assert status == 0 and "fastconv" in out

    def completed(line):
        answer = tmp_path / "answer"
        asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
        subprocess.run(
            [sys.executable, "-m", "fastconv"], check=False, capture_output=True,
            env={**environment(), **asked, "COMP_LINE": line, "COMP_POINT": str(len(line))},
        )  # fmt: skip
        return [word.strip() for word in answer.read_text().split("\n")]

    assert completed("fastconv tr") == ["train"]
    assert completed("fastconv train --batch") == ["--batch-size"]
    assert completed("fastconv train digits --net res") == ["resnet18", "resnet20"]
    assert {"digits", "mnist", "cifar10", "folder"} < set(completed("fastconv train "))
    assert completed("fastconv train digits --augment flip,cut") == ["flip,cutout", "flip,cutmix"]
    assert completed("fastconv train digits --set optim") == ["optimizer="]
    assert completed("fastconv summary len") == ["lenet5"]


def test_completion_without_argcomplete(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    message = 'fastconv completion: completion needs argcomplete: pip install "fastconv[completion]"\n'
    assert call(capsys, "completion", "bash") == (1, "", message)


def test_version(capsys):
    assert call(capsys, "--version") == (0, f"fastconv {fastconv.__version__}\n", "")


def test_a_closed_pipe_is_no_traceback():
    for target in ("true", "head -n 1"):
        done = subprocess.run(
            f"{sys.executable} -m fastconv info | {target}; echo ${{PIPESTATUS[0]}}",
            shell=True, executable="/bin/bash", env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stderr == ""


def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastconv", "info"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


# --- info, compare, bench --------------------------------------------------------------------------------------------


def test_info(capsys):
    status, out, _ = call(capsys, "info", "--json", "--threads", 1)
    assert status == 0
    assert json.loads(out)["threads"] == 1
    status, out, _ = call(capsys, "info")
    assert "blas_kernels" in out


def test_compare(capsys):
    pytest.importorskip("matplotlib")
    options = ("relu", "--quick", "--repeats", 1, "--plot", "a.png")
    status, out, err = call(capsys, "compare", *options)
    assert status == 0
    assert "relu" in out
    assert "picture: a.png" in out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert err.startswith("relu")
    status, out, err = call(capsys, "compare", "relu", "--quick", "--repeats", 1, "--json", "--quiet")
    assert (status, err) == (0, "")
    assert {row["kernel"] for row in json.loads(out)["rows"]} == {"relu"}


SUITE = """
import pytest
import fastconv

@pytest.mark.parametrize("version", ["naive", "numpy", "fastconv"])
def test_sum(benchmark, version):
    benchmark.group = "sum"
    benchmark.extra_info.update({"version": version, "threads": 2, "GB/s": 1.5})
    benchmark.pedantic(sum, args=([1, 2],), rounds=3)

def test_failing(benchmark):
    benchmark(lambda: 1 / 0)
"""


def test_bench(capsys):
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("matplotlib")
    Path("bench").mkdir()
    Path("bench/test_suite.py").write_text(SUITE)
    Path("fastconv").mkdir()  # sources beside bench/, as in a clone: the package that runs the suite is this one
    Path("fastconv/__init__.py").write_text("raise ImportError('the sources')")
    options = ("-k", "sum", "--quiet", "--save", "kept.json", "--plot", "a.png")
    status, out, err = call(capsys, "bench", *options)
    assert (status, err) == (0, "")
    assert [version for version in out.split() if version in ("naive", "numpy")] == ["naive", "numpy"]
    assert "1.5 GB/s" in out
    assert "2 threads" in out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    status, again, _ = call(capsys, "bench", "--load", "kept.json")
    assert (status, again) == (0, out.replace("\n\npicture: a.png", ""))
    status, out, _ = call(capsys, "bench", "--load", "kept.json", "--json")
    rows = json.loads(out)["benchmarks"]
    assert [row["version"] for row in rows] == ["naive", "numpy", "fastconv"]
    assert rows[2]["times_as_long"] == 1

    status, out, err = call(capsys, "bench", "--quiet")
    assert status == 1
    assert "sum" in out
    assert err.startswith("fastconv bench: bench: pytest ended with status 1: 1 failed, 3 passed")
    status, out, err = call(capsys, "bench", "-k", "nothing", "--quiet")
    assert (status, out) == (1, "")
    assert err == "fastconv bench: bench: no benchmark matches -k 'nothing'\n"
    Path("foreign.json").write_text('{"a": 1}')
    assert call(capsys, "bench", "--load", "foreign.json")[0] == 1


def benchmarks(**times):
    """pytest-benchmark's data of relu and of one convolution: {version: (min, q1, median, q3) in ms}, and `waited`."""
    waited = times.pop("waited", 0.0)
    return {
        "machine_info": {"cpu": {"brand_raw": "A CPU"}},
        "benchmarks": [
            {
                "group": f"{op} 3x3, batch 2, {direction}", "name": "test", "fullname": "test",
                "stats": {**dict(zip(("min", "q1", "median", "q3"), (t / 1e3 for t in ms), strict=True)), "rounds": 9},
                "extra_info": {"op": op, "case": "3x3", "batch": 2, "direction": direction, "version": version,
                               "threads": 2, "GB/s": 7.5, "waited": waited},
            }
            for op in ("conv2d", "relu") for direction in ("forward", "backward") for version, ms in times.items()
        ],
    }  # fmt: skip


def test_bench_shows_an_operation_on_a_screen(capsys):
    Path("a.json").write_text(json.dumps(benchmarks(fastconv=(1, 1.1, 1.25, 1.3), numpy=(4, 5, 5, 6))))
    status, out, _ = call(capsys, "bench", "--load", "a.json")
    lines = out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines if "forward" in line and "backward" in line] == ["conv2d", "relu"]
    row = next(line for line in lines if line.startswith("3x3"))
    assert row.split() == ["3x3", "2", "1.25", "1.00", "4.00", "7.50", "1.25", "1.00", "4.00", "7.50"]
    assert all(len(line) <= 80 for line in lines)
    assert "median over minimum: 1.25, at most 1.25" in out
    assert "BUSY" not in out


def test_bench_says_that_the_machine_was_busy(capsys):
    Path("busy.json").write_text(json.dumps(benchmarks(fastconv=(1, 2, 3, 4), waited=0.4)))
    status, out, _ = call(capsys, "bench", "--load", "busy.json")
    assert status == 0
    told = (
        "BUSY MACHINE, do not believe these times: in 4 of 4 benchmarks the threads waited for a core, 40% of the time"
    )
    assert told in " ".join(out.split())
    assert "BUSY" in json.loads(call(capsys, "bench", "--load", "busy.json", "--json")[1])["busy"]


def test_bench_beside_an_earlier_run(capsys):
    pytest.importorskip("matplotlib")
    then = benchmarks(fastconv=(1, 1.1, 1.2, 1.3), channels_last=(1, 1.1, 1.2, 1.3), numpy=(4, 5, 5, 6))
    now = benchmarks(fastconv=(1.9, 2, 2.4, 2.6), channels_last=(0.9, 1, 1.1, 1.2), numpy=(4, 5, 5, 6))
    storage = Path(".benchmarks/Linux-CPython")
    storage.mkdir(parents=True)
    for name, kept in (("0001_main", now), ("0002_main", then), ("0003_now", now)):
        (storage / f"{name}.json").write_text(json.dumps(kept))
        os.utime(storage / f"{name}.json", (int(name[:4]), int(name[:4])))
    status, out, _ = call(capsys, "bench", "--load", "now", "--compare", "main", "--plot", "a.png")
    assert status == 0
    lines = out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    titles = [line for line in lines if line.endswith("min")]
    assert [title.split("  ")[0] for title in titles] == ["slower beyond both spreads", "within the spreads"]
    rows = [line for line in lines if "3x3" in line]
    assert ["cl" in row.split() for row in rows] == [False] * 4 + [True] * 4
    assert rows[0].split() == ["conv2d", "3x3", "b2", "forward", "1.20", "8", "2.40", "12", "2.00", "1.90"]
    assert "4 slower and 0 faster beyond both spreads, 4 within; geometric mean 1.354" in out
    assert "by operation: relu 1.354, conv2d 1.354" in out
    assert "the same code in both runs: 1.000" in out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = call(capsys, "bench", "--load", "0003", "--compare", "0001_main", "--json")
    assert {row["ratio"] for row in json.loads(out)["benchmarks"]} == {1}
    status, out, err = call(capsys, "bench", "--load", "now", "--compare", "nothing")
    assert (status, out) == (1, "")
    assert "--compare: no run called 'nothing' in .benchmarks" in err
    status, out, err = call(capsys, "bench", "--load", "now", "--compare", "../main")
    assert status == 2
    assert "must be letters, digits and _ . + -" in err


def test_bench_keeps_runs_by_name(capsys):
    pytest.importorskip("pytest_benchmark")
    Path("bench").mkdir()
    Path("bench/test_suite.py").write_text(SUITE)
    assert call(capsys, "bench", "-k", "sum", "--quiet", "--save", "first")[0] == 0
    assert len(list(Path(".benchmarks").glob("*/0001_first.json"))) == 1
    status, out, _ = call(capsys, "bench", "-k", "sum", "--quiet", "--compare", "first")
    assert status == 0
    assert "sum" in out
    assert "geometric mean" in out


def test_bench_without_pytest_benchmark(capsys, monkeypatch):
    import importlib.util

    Path("bench").mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, out, err = call(capsys, "bench")
    assert (status, out) == (1, "")
    assert err == 'fastconv bench: pytest is not installed: pip install "fastconv[test]"\n'


# --- before the first line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["-m", "-OOm", "script"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FASTCONV_NUM_THREADS", "abc", "FASTCONV_NUM_THREADS must be a positive integer, got 'abc'"),
        ("FASTCONV_NUM_THREADS", "0", "FASTCONV_NUM_THREADS must be a positive integer, got '0'"),
        ("FASTCONV_SIMD", "v9", "FASTCONV_SIMD must be one of v2, v3, v4, got 'v9'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, how, name, value, message):
    if how == "script":  # as installers write it
        script = tmp_path / "fastconv"
        script.write_text("import sys\nfrom fastconv.cli import main\nsys.exit(main())\n")
    command = [sys.executable, *([str(script)] if how == "script" else [how, "fastconv"]), "info"]
    done = subprocess.run(command, env={**environment(), name: value}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"fastconv: {message}\n")


def test_settings_that_cannot_be_are_an_error_of_the_library():
    code = "import sys; sys.argv = ['train.py']\ntry: import fastconv\nexcept ValueError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**environment(), "FASTCONV_SIMD": "v9"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == "FASTCONV_SIMD must be one of v2, v3, v4, got 'v9'\n"


@pytest.mark.parametrize("module", ["numpy", "scipy.linalg", "fastconv.cli"])
def test_ctrl_c_while_modules_are_imported(tmp_path, module):
    """Python itself sends it, when the module is looked for."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    places = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "fastconv", "info"], env={**environment(), "PYTHONPATH": places}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "fastconv: interrupted\n")


def test_who_imports_the_package_keeps_signals_and_hooks():
    code = (
        "import signal, sys; hook = sys.excepthook; import fastconv.cli\n"
        "assert sys.excepthook is hook and signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


@pytest.mark.parametrize(
    "arguments", [["info"], ["--help"], ["train", "digits", "--epochs", "1", "--quiet"]], ids=" ".join
)  # fmt: skip
def test_without_docstrings_and_assertions(arguments):
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "fastconv", *arguments], env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_every_module_without_docstrings_and_assertions():
    code = (
        "import fastconv, importlib, pkgutil\n"
        "for module in pkgutil.walk_packages(fastconv.__path__, 'fastconv.'):\n"
        "    try:\n"
        "        if module.name != 'fastconv.__main__': importlib.import_module(module.name)\n"
        "    except ImportError as error:\n"  # an extra that is not installed
        "        if 'pip install' not in str(error): raise"
    )
    subprocess.run([sys.executable, "-OO", "-c", code], env=environment(), check=True)
