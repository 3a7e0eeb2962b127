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
from fastconv.recipes import RECIPES
from fastconv.training.checkpoint import load_net

ALWAYS = {"config.json", "checkpoint.safetensors", "weights.safetensors", "history.csv", "history.json", "result.json"}
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
    assert set(lines[3].split()[1:]) == names("runs/digits-1")
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
    status, out, _ = call(
        capsys, "train", "digits", "--epochs", 1, "--validation", "0.1", "--json", "--out", "a", *QUICK
    )
    assert status == 0
    result = json.loads(out)
    assert (result["validation_images"], result["training_images"]) == (144, 1293)
    assert 0 <= result["validation_accuracy"] <= 1
    assert names("a") == ALWAYS | {"best.safetensors"}

    x = np.arange(50.0).reshape(50, 1, 1, 1)
    (rest, _), (kept, labels) = data.split((x, np.arange(50)), 20, seed=3)
    assert sorted([*rest.ravel(), *kept.ravel()]) == list(range(50))
    np.testing.assert_array_equal(kept.ravel(), labels)
    assert not np.array_equal(kept, data.split((x, np.arange(50)), 20, seed=4)[1][0])


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


def write_folder(test):
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "test") if test else (".",):
        for label, name in enumerate(("dark", "light")):
            folder = Path("images", part, name)
            folder.mkdir(parents=True)
            for at in range(12):
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
    if "AdaptiveAvgPool2d" in repr(net):  # takes images of any size
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
        ("", 2, "fastconv: the following arguments are required: COMMAND"),
        ("fly", 2, "invalid choice: 'fly'"),
        ("train", 2, "which data set: digits, mnist, cifar10, folder?"),
        ("train cats", 2, "invalid choice: 'cats'"),
        ("train mnist", 2, "mnist needs --data DIR"),
        ("train digits --data .", 2, "digits is part of fastconv"),
        ("train digits --size 8", 2, "--size belongs to folder"),
        ("train digits --size x", 2, "must be HEIGHTxWIDTH, e.g. 32x32, got 'x'"),
        ("train digits --epochs 0", 2, "--epochs: must be a positive integer, got '0'"),
        ("train digits --epochs 1.5", 2, "--epochs: must be a positive integer, got '1.5'"),
        ("train digits --lr nan", 2, "--lr: must be a positive number, got 'nan'"),
        ("train digits --seed -1", 2, "--seed"),
        ("train digits --ep 3", 2, "unrecognized arguments: --ep 3"),
        ("train digits --validation 2000", 2, "--validation: 2,000 of 1,437 training images would leave none"),
        ("train digits --validation -1", 2, "--validation"),
        ("train digits --net nothing", 2, "no net is called 'nothing'; there are lenet5"),
        ("train digits --net lenet5", 2, "lenet5: inputs of 8 x 8 are too small"),
        ("train digits --net m5", 2, "m5: inputs must have 2 axes, C and 1 in space, got (1, 8, 8)"),
        ("train --resume nowhere", 2, "nowhere: is no run folder: it has no config.json"),
        ("train mnist --data nowhere", 1, "nowhere: no such folder"),
        ("train mnist --data .", 1, "no MNIST training files"),
        ("train cifar10 --data .", 1, "no CIFAR-10 training files"),
        ("train folder --data .", 1, "the images must be in one subfolder per class"),
        ("predict", 2, "the following arguments are required: RUN, IMAGE"),
        ("predict nowhere a.png", 2, "nowhere: is no run folder"),
        ("export", 2, "the following arguments are required: RUN, FILE"),
        ("export nowhere a.npz", 2, "nowhere: is no run folder"),
        ("export nowhere a.pt", 2, "the name must end in .safetensors or .npz, got 'a.pt'"),
        ("export nowhere nowhere/a.npz", 2, "no such folder: nowhere"),
        ("bench", 1, "bench: no such folder: the benchmarks are in the source tree"),
        ("bench --load nothing.json", 1, "nothing.json: No such file or directory"),
        ("bench --load nothing.json -k x", 2, "--load runs nothing: -k does not go with it"),
        ("bench --plot a.doc", 2, "must end in .png, .svg, .pdf, got 'a.doc'"),
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


@pytest.mark.parametrize("command", ["", "train", "predict", "export", "compare", "bench", "info"])
def test_help(capsys, command):
    status, out, err = call(capsys, *command.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: fastconv {command}".rstrip())


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
        "    if module.name != 'fastconv.__main__': importlib.import_module(module.name)"
    )
    subprocess.run([sys.executable, "-OO", "-c", code], env=environment(), check=True)
