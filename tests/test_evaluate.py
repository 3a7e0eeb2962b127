"""What a net gets right, class by class: scikit-learn's figures; a folder of photographs trained, evaluated, read."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fastconv as fc
from fastconv import datasets
from fastconv.cli import main
from fastconv.training.classification import ClassReport, columns_of, fitted


def call(capsys, *arguments):
    """(exit status, standard output, standard error) of a command."""
    capsys.readouterr()
    status = main(list(map(str, arguments)))
    return status, *capsys.readouterr()


# --- the report ------------------------------------------------------------------------------------------------------

CASES = {
    "usual": (np.random.default_rng(0).integers(0, 5, 300), np.random.default_rng(1).integers(0, 5, 300), 5),
    "never read": ([0, 0, 1, 1, 2], [0, 0, 1, 1, 1], 3),  # a class without predictions
    "not there": ([0, 0, 1, 1], [0, 0, 1, 2], 3),  # and one without images
    "all wrong": ([0, 1, 2], [1, 2, 0], 3),
}


@pytest.mark.parametrize("case", CASES)
def test_the_figures_are_those_of_scikit_learn(case):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predictions, classes = CASES[case]
    names = [f"class {k}" for k in range(classes)]
    report = ClassReport.of(np.array(labels), np.array(predictions), names)
    expected = metrics.classification_report(
        labels, predictions, labels=range(classes), target_names=names, output_dict=True, zero_division=0
    )
    data = report.as_dict()
    for entry in data["classes"]:
        theirs = expected[entry["class"]]
        assert [entry[name] for name in ("precision", "recall", "f1")] == pytest.approx(
            [theirs[name] for name in ("precision", "recall", "f1-score")], rel=1e-15
        )
        assert entry["support"] == theirs["support"]
    for ours, theirs in (("macro", "macro avg"), ("weighted", "weighted avg")):
        found = [expected[theirs][name] for name in ("precision", "recall", "f1-score")]
        assert list(data[ours].values()) == pytest.approx(found, rel=1e-14)
    assert data["accuracy"] == metrics.accuracy_score(labels, predictions)
    np.testing.assert_array_equal(
        report.confusion, metrics.confusion_matrix(labels, predictions, labels=range(classes))
    )


def test_a_class_that_does_not_occur_is_not_in_the_mean():
    report = ClassReport.of(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), ("a", "b", "c"))
    assert report.macro == {"precision": pytest.approx(5 / 6), "recall": 0.75, "f1": pytest.approx(11 / 15)}
    assert report.precision.tolist() == pytest.approx([2 / 3, 1, 0])
    assert (report.images, report.right, report.accuracy, report.confusions()) == (4, 3, 0.75, [(1, 0, 1)])
    empty = ClassReport.of(np.array([], int), np.array([], int), ("a", "b"))
    assert (empty.accuracy, empty.macro["f1"], empty.weighted["recall"]) == (0, 0, 0)
    assert "macro mean" in str(empty)


def test_the_table():
    report = ClassReport.of(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 2, 2, 1, 1, 2]), ("cat", "dog", "sheep"))
    assert str(report).splitlines() == [
        "class          precision  recall      F1   images  most often read as",
        "cat               1.0000  0.3333  0.5000        3  sheep (2)",
        "dog               1.0000  1.0000  1.0000        2",
        "sheep             0.3333  1.0000  0.5000        1",
        "-" * 80,
        "macro mean        0.7778  0.7778  0.6667        6",
        "weighted mean     0.8889  0.6667  0.6667        6",
        "",
        "is / read as    cat    dog  sheep",
        "cat               1      .      2",
        "dog               .      2      .",
        "sheep             .      .      1",
    ]


@pytest.mark.parametrize("classes", [2, 9, 12, 25, 300])
def test_tables_have_80_columns(classes):
    rng = np.random.default_rng(0)
    names = [
        f"{'a very long name of a class ' * 3}{k}" if k % 3 else f"犬と猫のとても長い名前の写真 {k}"
        for k in range(classes)
    ]
    names[-1] = "line\nfeed\x1b[31m"
    labels = rng.integers(0, classes, 40_000)
    wrong = rng.random(40_000) < 0.3
    predictions = np.where(wrong, rng.integers(0, classes, 40_000), labels)
    lines = str(ClassReport.of(labels, predictions, names)).split("\n")
    assert max(map(columns_of, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    assert len(lines) == classes + 4 + (1 + 1 + classes if classes < 10 else 13)
    assert ("read wrongly, most often" in "\n".join(lines)) is (classes > 9)
    assert "other pairs of classes" in lines[-1] or classes < 10


def test_few_mistakes_of_many_classes():
    names = [f"class {k}" for k in range(20)]
    right = ClassReport.of(np.arange(20), np.arange(20), names)
    assert str(right).endswith("\n\nno image was read wrongly")
    one = ClassReport.of(np.arange(20), np.array([0, 0, *range(2, 20)]), names)
    assert str(one).endswith("\n\n1 image was read wrongly\n      1  class 1 as class 0 (100 % of them)")


def test_fitted():
    assert fitted("cat", 5) == "cat  "
    assert fitted("cat", 5, right=True) == "  cat"
    assert fitted("elephant", 5) == "elep…"
    assert fitted("犬犬犬", 5) == "犬犬…"
    assert fitted("e\u0301te\u0301", 5) == "e\u0301te\u0301  "


@pytest.mark.parametrize(
    ("labels", "predictions", "error"),
    [([0, 1], [0], fc.ShapeError), ([[0]], [[0]], fc.ShapeError), ([0], [2], ValueError), ([-1], [0], ValueError),
     ([0.0], [0], ValueError)],
)  # fmt: skip
def test_bad_labels(labels, predictions, error):
    with pytest.raises(error, match=r"^ClassReport: "):
        ClassReport.of(np.array(labels), np.array(predictions), ("a", "b"))


# --- a folder of photographs -----------------------------------------------------------------------------------------

COLOURS = {"blue": (20, 40, 200), "green": (30, 160, 40), "red": (210, 30, 30)}


def paint(pillow, path, colour, size, turn):
    """A photograph with a mark in its corner; stored as EXIF's orientation `turn` has it."""
    rng = np.random.default_rng(len(str(path)) + size[0])
    pixels = np.clip(np.array(colour) + rng.normal(0, 25, (*size, 3)), 0, 255).astype(np.uint8)
    image = pillow.fromarray(pixels)
    exif = pillow.Exif()
    exif[0x112] = turn
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = {".png": "P", ".webp": "RGB"}.get(path.suffix, "CMYK" if size[0] % 2 else "RGB")
    image.convert(mode).save(path, exif=exif)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    pillow = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("photographs")
    for part, count in (("train", 14), ("val", 4), ("test", 6)):
        for name, colour in COLOURS.items():
            for at in range(count):
                suffix = (".jpg", ".png", ".JPG", ".webp")[at % 4]
                folder = root / part / name / ("2024" if at % 3 == 2 else "")
                paint(pillow, folder / f"{at}{suffix}", colour, (30 + 7 * at, 70 - 3 * at), at % 8 + 1)
    return root


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "a"
    options = ["--epochs", "6", "--batch-size", "8", "--augment", "flip,colour,mixup,cutmix", "--lr", "0.01"]
    assert main(["train", str(photographs), "--out", str(folder), "--quiet", "--no-plots", *options]) == 0
    return folder


def test_a_folder_is_trained_in_one_command(run, photographs, capsys):
    result = json.loads((run / "result.json").read_text())
    assert (result["training_images"], result["validation_images"], result["test_images"]) == (42, 12, 18)
    assert result["test_accuracy"] > 0.9
    config = json.loads((run / "config.json").read_text())
    assert (config["data"], config["path"], config["size"]) == ("folder", str(photographs), config["image_shape"][1:])
    assert config["recipe"]["augment"]["parts"][-1]["augment"] == "OneOf"
    report = json.loads((run / "report.json").read_text())
    assert (report["part"], report["accuracy"], report["loss"]) == (
        "test", result["test_accuracy"], result["test_loss"],
    )  # fmt: skip
    assert report["macro"]["f1"] == result["test_f1"]
    assert np.sum(report["confusion"]) == 18
    text = (run / "report.txt").read_text()
    assert text.startswith(f"test accuracy {100 * result['test_accuracy']:.2f} % (")
    assert "\ngreen " in text


def test_what_is_decided_is_said(photographs, tmp_path, capsys):
    options = ("--epochs", 1, "--no-plots")
    status, out, _ = call(capsys, "train", photographs, "--out", tmp_path / "a", *options, "--memory-limit", "50k")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80 + len(str(tmp_path))
    lines = out.replace("\n  ", " ").splitlines()
    assert lines[0].endswith("12 for validation, 18 for the test; 3 classes, 3x48x64")
    seen = "images of 30x70 to 100x40 pixels (height x width)"  # the least and the largest area
    assert lines[1] == f"{seen}, read as 48x64; --size HxW chooses another size"
    assert lines[2] == "5 of 72 images are in memory, the others in temporary storage (--memory-limit)"
    status, out, _ = call(capsys, "train", "folder", photographs, "--out", tmp_path / "b", *options, "--size", 24)
    assert "3 classes, 3x24x24\n" in out.replace("\n  ", " ")
    assert "read as" not in out


def test_evaluate_gives_the_numbers_of_the_run(run, photographs, tmp_path, capsys):
    result = json.loads((run / "result.json").read_text())
    report = json.loads((run / "report.json").read_text())
    for data in ((), (photographs,), (photographs / "test",)):
        status, out, err = call(capsys, "evaluate", run, *data, "--json", "--csv", tmp_path / "a.csv")
        found = json.loads(out)
        assert (status, err) == (0, "")
        assert {name: found[name] for name in report if name != "part"} == {
            name: value for name, value in report.items() if name != "part"
        }
        assert (found["weights_from"], found["weights_epoch"]) == ("last", 6)
    status, out, err = call(capsys, "evaluate", run)
    assert out == (run / "report.txt").read_text()
    assert err.startswith("fastconv evaluate: weights of epoch ")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(COLOURS)
    assert [[int(row[f"read as {name}"]) for name in COLOURS] for row in rows] == report["confusion"]
    assert [float(row["f1"]) for row in rows] == [entry["f1"] for entry in report["classes"]]
    status, out, _ = call(capsys, "evaluate", run, "--best", "--json")
    best = json.loads(out)
    assert (best["weights_from"], best["weights_epoch"]) == ("best", result["best_epoch"])
    status, out, _ = call(capsys, "evaluate", run, photographs / "val", "--best", "--json")
    history = json.loads((run / "history.json").read_text())
    assert json.loads(out)["accuracy"] == history[result["best_epoch"] - 1]["val_accuracy"]


def test_evaluate_draws(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert call(capsys, "evaluate", run, "--plot", tmp_path / "a.png")[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_predict_a_folder_to_csv(run, photographs, tmp_path, capsys):
    status, out, _ = call(capsys, "predict", run, photographs / "test", "--csv", tmp_path / "a.csv")
    assert (status, out) == (0, f"{tmp_path / 'a.csv'}: 18 images read\n")
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows[:6]] == [  # a folder's own images first, by their names
        str(photographs / "test" / "blue" / name)
        for name in ("0.jpg", "1.png", "3.webp", "4.jpg", "2024/2.JPG", "2024/5.png")
    ]
    report = json.loads((run / "report.json").read_text())
    true = [Path(row["image"]).relative_to(photographs / "test").parts[0] for row in rows]
    confusion = np.zeros((3, 3), int)
    for name, row in zip(true, rows, strict=True):
        confusion[[*COLOURS].index(name), [*COLOURS].index(row["label"])] += 1
    assert confusion.tolist() == report["confusion"]
    loss = np.mean([-np.log(float(row[f"p({name})"])) for row, name in zip(rows, true, strict=True)])
    assert loss == pytest.approx(report["loss"], rel=1e-5)
    assert all(float(row["probability"]) == max(float(row[f"p({name})"]) for name in COLOURS) for row in rows)
    X, _ = datasets.load_folder(photographs, size=(48, 64), validation=True)[2]
    np.testing.assert_array_equal(
        [[np.float32(row[f"p({name})"]) for name in COLOURS] for row in rows],
        fc.functional.softmax(fc.load(run).predict(X, batch_size=8)),
    )
    again = tmp_path / "b.csv"
    assert call(capsys, "predict", run, photographs / "test", "--csv", again, "--threads", 1)[0] == 0
    assert again.read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_a_file_of_the_run_is_no_target(run, photographs, capsys):
    before = {path: path.read_bytes() for path in run.iterdir()}
    for command in (["evaluate", run], ["predict", run, photographs / "test"]):
        status, _, err = call(capsys, *command, "--csv", run / "history.csv")
        assert (status, f"{run / 'history.csv'}: belongs to the run itself" in err) == (2, True)
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_predict_goes_on(run, photographs, tmp_path, capsys):
    bad = tmp_path / "in" / "b.png"
    bad.parent.mkdir()
    bad.write_text("no image")
    shutil.copy(photographs / "test" / "red" / "0.jpg", tmp_path / "in" / "c.jpg")
    (tmp_path / "empty").mkdir()
    status, out, err = call(capsys, "predict", run, tmp_path / "in", tmp_path / "empty", "--csv", tmp_path / "a.csv")
    assert (status, out) == (1, f"{tmp_path / 'a.csv'}: 1 images read, 2 not\n")
    assert f"{bad}: no image that can be read: cannot identify image file\n" in err
    assert f"{tmp_path / 'empty'}: a folder without image files\n" in err
    with (tmp_path / "a.csv").open() as file:
        first, second, third = csv.DictReader(file)
    assert (first["label"], first["probability"], first["p(red)"]) == ("", "", "")
    assert "cannot identify" in first["error"]
    assert (second["label"], second["error"]) == ("red", "")
    assert third["error"].endswith("a folder without image files")
    status, out, _ = call(capsys, "predict", run, tmp_path / "in", "--json")
    assert [sorted(entry) for entry in json.loads(out)["images"]] == [
        ["error", "image"], ["image", "label", "probabilities", "probability"],
    ]  # fmt: skip
    before = (tmp_path / "a.csv").read_bytes()
    status, _, err = call(capsys, "predict", run, bad, "--csv", tmp_path / "a.csv", "--json")
    assert (status, (tmp_path / "a.csv").read_bytes()) == (2, before)


def test_unreadable_files_are_listed_all_at_once(photographs, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    bad = [data / "train" / "red" / "x.png", data / "test" / "blue" / "0.jpg"]
    for file in bad:
        file.write_bytes(b"no image")
    command = ("train", data, "--epochs", 1, "--no-plots", "--quiet", "--out", tmp_path / "a")
    status, out, err = call(capsys, *command)
    assert (status, out) == (1, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == [*map(str, bad), str(data)]
    assert err.endswith(f"fastconv train: {data}: 2 files cannot be read; --skip-unreadable goes on without\n")
    assert not (tmp_path / "a").exists()
    status, out, err = call(capsys, *command, "--skip-unreadable")
    assert status == 0
    assert [line.split(": ")[1] for line in err.splitlines()] == [*map(str, bad)]
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (result["training_images"], result["test_images"]) == (42, 17)
    assert call(capsys, "train", "--resume", tmp_path / "a", "--epochs", 2, "--quiet")[0] == 0  # what was said holds
    status, out, _ = call(capsys, "evaluate", tmp_path / "a", "--json")
    assert (status, json.loads(out)["images"]) == (0, 17)
    status, out, err = call(capsys, "evaluate", tmp_path / "a", data / "test")
    assert (status, out, err.count("\n")) == (1, "", 2)
    assert call(capsys, "evaluate", tmp_path / "a", data / "test", "--skip-unreadable")[0] == 0


def test_a_run_goes_on_wherever_its_images_are(photographs, tmp_path, capsys):
    options = ("--batch-size", 8, "--augment", "mixup,flip", "--quiet", "--no-plots", "--size", 16)
    assert call(capsys, "train", photographs, "--epochs", 2, "--out", tmp_path / "a", *options)[0] == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    resumed = ("--epochs", 4, "--quiet", "--no-plots")
    assert call(capsys, "train", photographs, "--resume", tmp_path / "a", *resumed, "--memory-limit", 0)[0] == 0
    moved = tmp_path / "moved"
    shutil.copytree(photographs, moved)
    assert call(capsys, "train", "folder", moved, "--resume", tmp_path / "b", *resumed)[0] == 0
    ours, theirs = (fc.load(tmp_path / name).state_dict() for name in "ab")
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    status, _, err = call(capsys, "train", "--resume", tmp_path / "a", *resumed, "--augment", "noise")
    assert status == 2
    assert err.startswith("fastconv train: --augment: the run in ")


def test_evaluate_without_test_images(photographs, tmp_path, capsys):
    """The images for validation, chosen as they were for the run."""
    command = ("train", photographs / "train", "--epochs", 2, "--size", 16, "--quiet", "--no-plots", "--validation", 9)
    assert call(capsys, *command, "--out", tmp_path / "a")[0] == 0
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    status, out, _ = call(capsys, "evaluate", tmp_path / "a", "--json")
    assert (json.loads(out)["part"], json.loads(out)["images"]) == ("validation", 9)
    assert json.loads(out)["accuracy"] == result["validation_accuracy"]
    assert call(capsys, *command[:-2], "--validation", 0, "--out", tmp_path / "b")[0] == 0
    assert not (tmp_path / "b" / "report.json").exists()
    status, _, err = call(capsys, "evaluate", tmp_path / "b")
    assert status == 2
    assert "has neither test nor validation images: fastconv evaluate RUN DATA" in err


def test_evaluate_what_does_not_fit(run, photographs, tmp_path, capsys):
    shutil.copytree(photographs / "test" / "red", tmp_path / "data" / "violet")
    status, _, err = call(capsys, "evaluate", run, tmp_path / "data")
    assert status == 1
    assert "violet: is no class of the training part (3 classes: blue, green, red)" in err
    (tmp_path / "data" / "violet").rename(tmp_path / "data" / "red")
    status, out, _ = call(capsys, "evaluate", run, tmp_path / "data", "--json")
    assert [entry["support"] for entry in json.loads(out)["classes"]] == [0, 0, 6]
    for path, message in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "data" / "red", "2024: is no class of the training part"),
        (run, "the images must be in one subfolder per class, found none"),
    ):
        status, _, err = call(capsys, "evaluate", run, path)
        assert (status, err.count("\n")) == (1, 1)
        assert message in err


def test_evaluate_a_net_file_and_digits(run, photographs, tmp_path, capsys):
    pillow = pytest.importorskip("PIL.Image")
    net = fc.load(run)
    fc.save(net, tmp_path / "net.safetensors")
    status, out, _ = call(capsys, "evaluate", tmp_path / "net.safetensors", photographs / "test", "--json")
    report = json.loads((run / "report.json").read_text())
    assert json.loads(out)["confusion"] == report["confusion"]
    status, _, err = call(capsys, "evaluate", tmp_path / "net.safetensors")
    assert (status, "a net file has no images of its own" in err) == (2, True)

    digits = tmp_path / "digits"
    assert call(capsys, "train", "digits", "--epochs", 3, "--out", digits, "--quiet", "--no-plots")[0] == 0
    status, out, _ = call(capsys, "evaluate", digits, "--json")
    assert json.loads(out)["accuracy"] == json.loads((digits / "result.json").read_text())["test_accuracy"]
    _, (images, labels) = datasets.load_digits()
    for at in range(30):
        path = tmp_path / "drawn" / str(labels[at]) / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(255 * (1 - images[at, 0])).astype(np.uint8)
        pillow.fromarray(pixels).resize((40, 40), pillow.Resampling.BICUBIC).save(path)
    (tmp_path / "drawn" / "0" / "no.png").write_text("no image")
    status, _, err = call(capsys, "evaluate", digits, tmp_path / "drawn")
    assert (status, "1 file cannot be read; --skip-unreadable" in err) == (1, True)
    status, out, err = call(capsys, "evaluate", digits, tmp_path / "drawn", "--json", "--skip-unreadable")
    assert (status, json.loads(out)["images"], err.count("\n")) == (0, 30, 1)
    assert json.loads(out)["accuracy"] > 0.8
