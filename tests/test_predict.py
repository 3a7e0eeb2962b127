"""`fastconv predict`: the same digit in every size, mode and polarity, and files that are no image of one."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image, ImageDraw

from fastconv.cli import main
from fastconv.datasets import load_digits, preparation
from fastconv.errors import FormatError

MNIST, DIGITS = (1, 28, 28), (1, 8, 8)
RNG = np.random.default_rng(0)


def two(size=200, pen=0.09, margin=0.2, ink=0, paper=255):
    """A 2, drawn with a round pen."""
    image = Image.new("L", (size, size), paper)
    draw = ImageDraw.Draw(image)

    def at(x, y):
        return (size * (margin + (1 - 2 * margin) * x), size * (margin + (1 - 2 * margin) * y))

    points = [
        at(x, y)
        for x, y in ((0.2, 0.25), (0.35, 0.05), (0.6, 0.02), (0.8, 0.2), (0.75, 0.45), (0.2, 0.95), (0.9, 0.95))
    ]
    draw.line(points, fill=ink, width=max(1, round(pen * size)), joint="curve")
    return image


def prepared(image, form, tmp_path, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return preparation.prepare(path, form, MNIST if form == "mnist" else DIGITS)


def test_mnist_form(tmp_path):
    x = prepared(two(), "mnist", tmp_path)
    assert x.shape == MNIST
    assert x.dtype == np.float32
    assert 0 <= x.min() < 0.02
    assert 0.95 < x.max() <= 1
    rows = np.flatnonzero((x[0] > 0.2).any(axis=1))
    assert np.ptp(rows) + 1 in (19, 20)
    centre = [float((x[0].sum(axis=1 - axis) @ np.arange(28)) / x.sum()) for axis in (0, 1)]
    np.testing.assert_allclose(centre, 13.5, atol=0.6)


def test_digits_form(tmp_path):
    x = prepared(two(), "digits", tmp_path)
    (train, _), _ = load_digits()
    assert x.shape == DIGITS
    assert x[0, 0].max() > 0.3
    assert x[0, -1].max() > 0.3
    assert abs(x.mean() - train.mean()) < 0.02


@pytest.mark.parametrize("form", ["mnist", "digits"])
@pytest.mark.parametrize(
    "change",
    {
        "light on dark": lambda im: two(ink=255, paper=0),
        "faint": lambda im: two(ink=150, paper=210),
        "large": lambda im: two(1600),
        "small": lambda im: two(64),
        "in a corner": lambda im: _on_paper(im.crop((30, 30, 170, 170)), (500, 700), (300, 40)),
        "cropped to the ink": lambda im: im.crop((40, 28, 160, 170)),
        "black and white": lambda im: im.convert("1", dither=Image.Dither.NONE),
        "palette": lambda im: im.convert("RGB").quantize(8),
        "RGB": lambda im: Image.merge("RGB", (im, im.point(lambda v: v // 2 + 100), im)),
        "gray and alpha": lambda im: _as_alpha(im, "LA", 0),
        "black ink on nothing": lambda im: _as_alpha(im, "RGBA", 0),
        "white ink on nothing": lambda im: _as_alpha(im, "RGBA", 255),
        "16 bits": lambda im: Image.fromarray(np.asarray(im).astype(np.uint16) * 257),
        "noise": lambda im: _noisy(im, 12),
        "shadow": lambda im: _shaded(im),
        "specks": lambda im: _specked(im),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_the_same_digit_from_other_images(tmp_path, form, change):
    base = prepared(two(), form, tmp_path)
    x = prepared(change[1](two()), form, tmp_path, "changed.png")
    assert np.abs(x - base).mean() < (0.03 if form == "mnist" else 0.05)


def _on_paper(image, size, place):
    paper = Image.new("L", size, 255)
    paper.paste(image, place)
    return paper


def _as_alpha(image, mode, ink):
    result = Image.new(mode, image.size, ink if mode == "LA" else (ink, ink, ink))
    result.putalpha(image.point(lambda v: 255 - v))
    return result


def _noisy(image, sigma):
    return Image.fromarray(
        np.clip(np.asarray(image) * 0.6 + 60 + RNG.normal(0, sigma, image.size), 0, 255).astype(np.uint8)
    )


def _shaded(image):
    light = np.linspace(0.55, 1, image.width) * np.linspace(1, 0.8, image.height)[:, None]
    return Image.fromarray((np.asarray(image) * light).astype(np.uint8))


def _specked(image):
    image = image.copy()
    for x, y in ((10, 10), (185, 90), (20, 180)):
        ImageDraw.Draw(image).ellipse((x, y, x + 4, y + 4), fill=0)
    return image


@pytest.mark.parametrize("form", ["mnist", "digits"])
def test_thin_and_thick_pens_come_nearer_to_each_other(tmp_path, form):
    thin, thick = (prepared(two(400, pen), form, tmp_path) for pen in (0.01, 0.12))
    assert thin.sum() > 0.35 * thick.sum()  # a twelfth of the width


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a.gif", "a.pgm"])
def test_file_formats(tmp_path, name):
    assert np.abs(prepared(two(), "mnist", tmp_path, name) - prepared(two(), "mnist", tmp_path)).mean() < 0.02


def test_a_rotated_photograph_is_put_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # was taken with the camera turned
    x = prepared(two().rotate(90), "mnist", tmp_path, "turned.jpg", exif=exif)
    assert np.abs(x - prepared(two(), "mnist", tmp_path)).mean() < 0.03


@pytest.mark.parametrize("light_on_dark", [True, False])
def test_an_image_of_the_data_set_stays_as_it_is(tmp_path, light_on_dark):
    _, (images, _) = load_digits()
    for image in images[:40, 0]:
        pixels = np.round(255 * image).astype(np.uint8)
        stored = Image.fromarray(pixels if light_on_dark else 255 - pixels)
        np.testing.assert_allclose(prepared(stored, "digits", tmp_path)[0], image, atol=0.003)


@pytest.mark.parametrize("shape", [(1, 20, 30), (3, 20, 30)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "LA", "CMYK"])
def test_pictures_are_only_resized(tmp_path, shape, mode):
    from fastconv.datasets import load_folder

    image = two().convert("RGB") if mode in ("CMYK", "P") else two()
    image = Image.fromarray(np.asarray(two()).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    name = "image.tif" if mode == "CMYK" else "image.png"
    (tmp_path / "class").mkdir()
    image.save(tmp_path / "class" / name)
    x = preparation.prepare(tmp_path / "class" / name, "picture", shape)
    assert x.shape == shape
    assert x.dtype == np.float32
    (expected, _), _ = load_folder(tmp_path, size=shape[1:], channels=shape[0])
    np.testing.assert_array_equal(x, expected[0])


# --- what is no image of a digit -------------------------------------------------------------------------------------


def write_bad(path, kind):
    if kind == "missing":
        return
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no image")
    elif kind in ("truncated", "corrupt"):
        Image.fromarray(RNG.integers(0, 255, (90, 90), np.uint8)).save(path)
        data = bytearray(path.read_bytes())
        if kind == "truncated":
            del data[len(data) // 2 :]
        else:
            data[60:90] = bytes(30)
        path.write_bytes(data)
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path)
    elif kind == "blank":
        Image.new("RGB", (50, 50), (200, 200, 190)).save(path)
    elif kind == "noise":
        Image.fromarray(RNG.normal(128, 4, (300, 300)).astype(np.uint8)).save(path)
    elif kind == "transparent":
        Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(path)


BAD = ("missing", "folder", "pipe", "empty", "text", "truncated", "corrupt", "bomb", "blank", "noise", "transparent")


@pytest.mark.parametrize("kind", BAD)
def test_bad_images(tmp_path, kind):
    path = tmp_path / "bad.png"
    write_bad(path, kind)
    expected = {"missing": FileNotFoundError, "blank": ValueError, "noise": ValueError, "transparent": ValueError}
    with pytest.raises(expected.get(kind, FormatError)):
        preparation.prepare(path, "mnist", MNIST)


@pytest.mark.parametrize("form", ["mnist", "digits"])
@pytest.mark.parametrize("size", [(1, 700), (3000, 2), (2, 2), (1, 1), (60_000, 1)])
def test_thin_images_are_read_or_refused(tmp_path, form, size):
    for count in (1, 20):
        pixels = np.zeros(size[::-1], np.uint8)
        pixels.flat[:: max(2, pixels.size // count)] = 255
        Image.fromarray(pixels).save(tmp_path / "a.png")
        try:
            x = preparation.prepare(tmp_path / "a.png", form, MNIST if form == "mnist" else DIGITS)
        except ValueError as error:
            assert "the image" in str(error)
        else:
            assert np.isfinite(x).all()


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--epochs", "4", "--out", str(folder), "--no-plots", "--quiet"]) == 0
    return str(folder)


@pytest.mark.parametrize("size", [8, 20, 64])
@pytest.mark.parametrize("light_on_dark", [True, False])
def test_the_test_images_are_read(run, tmp_path, capsys, size, light_on_dark):
    _, (images, labels) = load_digits()
    count = 40
    names = []
    for at, image in enumerate(images[:count, 0]):
        pixels = np.round(255 * (image if light_on_dark else 1 - image)).astype(np.uint8)
        names.append(str(tmp_path / f"{at}.png"))
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(names[-1])
    assert main(["predict", run, *names, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)["images"]
    right = [answer["label"] == str(label) for answer, label in zip(answers, labels, strict=False)]
    assert len(right) == count
    assert np.mean(right) >= 0.88


def test_text_and_json(run, tmp_path, capsys):
    path = str(tmp_path / "two.png")
    two().save(path)
    assert main(["predict", run, path, "--top", "2"]) == 0
    line = capsys.readouterr().out
    assert main(["predict", run, path, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["run"] == run
    (entry,) = answer["images"]
    assert entry["image"] == path
    assert set(entry["probabilities"]) == set("0123456789")
    assert sum(entry["probabilities"].values()) == pytest.approx(1)
    assert entry["probability"] == max(entry["probabilities"].values())
    assert line.startswith(f"{path}: {entry['label']} {100 * entry['probability']:.1f} % (")
    assert line.count("%") == 2
    assert main(["predict", run, path, "--top", "1", "--as-is"]) == 0
    assert capsys.readouterr().out.count("%") == 1


def test_names_are_printed_not_obeyed(run, tmp_path, capsys):
    good, bad = tmp_path / "a\n\x1b[31mb.png", tmp_path / "\x1b]0;c.png"
    two().save(good)
    bad.write_bytes(b"")
    assert main(["predict", run, str(good), str(bad)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path}/a??[31mb.png: ") and out.count("\n") == 1
    assert err.startswith(f"fastconv predict: {tmp_path}/?]0;c.png: ") and err.count("\n") == 1


def test_a_bad_image_does_not_stop_the_others(run, tmp_path, capsys):
    good = tmp_path / "good.png"
    two().save(good)
    for kind in BAD:
        bad = tmp_path / f"{kind}.png"
        write_bad(bad, kind)
        assert main(["predict", run, str(bad), str(good)]) == 1
        out, err = capsys.readouterr()
        assert out.startswith(f"{good}: ")
        assert err.count("\n") == 1
        assert err.startswith(f"fastconv predict: {bad}: ")
    assert main(["predict", run, str(good), str(tmp_path / "blank.png"), "--json"]) == 1
    entries = json.loads(capsys.readouterr().out)["images"]
    assert "label" in entries[0]
    assert "blank" in entries[1]["error"]


CHANGES = {
    "channels": {"image_shape": [3, 8, 8]},
    "size": {"image_shape": [1, 9, 30]},
    "huge": {"image_shape": [1, 2**40, 2**40]},
    "classes": {"classes": ["one"]},
}


@pytest.mark.parametrize(
    "damage", ["no folder", "no config", "config", "foreign config", "weights", "unfinished", *CHANGES]
)
def test_damaged_runs(run, tmp_path, capsys, damage):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    if damage == "no folder":
        shutil.rmtree(folder)
    elif damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "config":
        (folder / "config.json").write_text("{")
    elif damage == "foreign config":
        (folder / "config.json").write_text('{"format": "fastconv.run/1", "data": 3}')
    elif damage in CHANGES:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **CHANGES[damage]}))
    elif damage == "weights":
        (folder / "weights.safetensors").write_bytes(b"x" * 100)
    else:
        (folder / "weights.safetensors").unlink()
    status = main(["predict", str(folder), "image.png"])
    out, err = capsys.readouterr()
    assert status == (2 if damage.startswith("no ") else 1)
    assert not out
    assert err.count("\n") == 1
    assert str(folder) in err
