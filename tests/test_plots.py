"""The pictures: they are drawn without a warning, say what they should, and need no display."""

import functools
import itertools
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from PIL import Image

import fastconv
from fastconv import functional as F
from fastconv import models, plots

CLASSES = tuple("0123456789")
RNG = np.random.default_rng(0)


def history(epochs, validation=False):
    return [
        {"epoch": e + 1, "loss": 1 / (e + 1), "accuracy": 1 - 0.5 / (e + 1)}
        | ({"val_loss": 0.9 / (e + 1), "val_accuracy": 1 - 0.4 / (e + 1)} if validation else {})
        for e in range(epochs)
    ]


def answers(count, classes, wrong):
    """Labels, and probabilities that are wrong for the first `wrong` of them."""
    labels = np.arange(count) % classes
    probabilities = np.full((count, classes), 0.4 / classes)
    probabilities[np.arange(count), labels] += 0.6
    probabilities[:wrong] = np.roll(probabilities[:wrong], 1, axis=1)
    return labels, probabilities


def texts(figure):
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("epochs", [1, 100])
@pytest.mark.parametrize("validation", [False, True])
def test_training_curve(tmp_path, epochs, validation):
    figure = plots.training_curve(history(epochs, validation), title="A run", test_accuracy=0.9861)
    plots.save(figure, tmp_path / "curve.png")
    assert "A run" in texts(figure)
    assert "98.61 %" in texts(figure)
    assert ("validation" in texts(figure)) is validation
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size == (1440, 585)


def test_a_curve_without_accuracy_or_with_nan_is_drawn(tmp_path):
    plots.save(plots.training_curve([{"epoch": 1, "loss": 2.0}]), tmp_path / "a.png")
    plots.save(plots.training_curve([{"epoch": 1, "loss": float("nan"), "accuracy": 0.5}]), tmp_path / "b.png")


@pytest.mark.parametrize("classes", [2, 10, 40])
def test_confusion_matrix(tmp_path, classes):
    labels, probabilities = answers(4 * classes, classes, 3)
    names = [f"class {k}" for k in range(classes)]
    figure = plots.confusion_matrix(labels, probabilities.argmax(1), names, title="Digits")
    plots.save(figure, tmp_path / "confusion.png")
    assert f"{4 * classes - 3} of {4 * classes} right" in texts(figure)
    assert ("class 1" in texts(figure)) is (classes <= plots.MOST_NAMED)


def test_confusion_matrix_of_a_class_without_images(tmp_path):
    figure = plots.confusion_matrix([0, 0], [0, 1], ["a", "b", "c"], title="t")
    plots.save(figure, tmp_path / "confusion.png")
    assert "50.0 %" in texts(figure)


@pytest.mark.parametrize(("wrong", "shape"), [(0, (1, 8, 8)), (1, (3, 6, 9)), (9, (1, 9, 6)), (60, (3, 8, 8))])
def test_mistakes(tmp_path, wrong, shape):
    labels, probabilities = answers(70, 10, wrong)
    figure = plots.mistakes(RNG.random((70, *shape)), labels, probabilities, CLASSES, title="Digits")
    plots.save(figure, tmp_path / "mistakes.png")
    assert f"{wrong} of 70 read wrongly" in texts(figure)
    assert texts(figure).count("is ") == min(wrong, plots.MOST_MISTAKES)
    assert texts(figure).count("read ") == max(16, min(wrong, plots.MOST_MISTAKES)) + 1  # and the title


def test_mistakes_are_sorted_by_how_sure_the_net_was():
    probabilities = np.array([[0.4, 0.6], [0.1, 0.9], [0.8, 0.2]])
    figure = plots.mistakes(np.zeros((3, 1, 4, 4)), [0, 0, 0], probabilities, ["a", "b"], title="t")
    assert (
        texts(figure).index("read b  90 %") < texts(figure).index("read b  60 %") < texts(figure).index("read a  80 %")
    )


def test_long_and_foreign_class_names(tmp_path):
    names = ["a rather long name of a class", "数字", "$x$ & <b>"]
    labels, probabilities = answers(9, 3, 4)
    plots.save(plots.confusion_matrix(labels, probabilities.argmax(1), names, title="t"), tmp_path / "a.png")
    plots.save(plots.mistakes(np.zeros((9, 1, 8, 8)), labels, probabilities, names, title="t"), tmp_path / "b.png")


# --- captions --------------------------------------------------------------------------------------------------------


def colliding(figure):
    """Pairs of horizontal or vertical texts that overlap, and texts that leave the figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = set()
    for axes in figure.axes:
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (axes.axison and min(limits) <= tick.get_loc() <= max(limits)):
                    hidden |= {tick.label1, tick.label2}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer()), text.get_rotation())
             for text in shown if text not in hidden]  # fmt: skip
    found = []
    for text, box, _ in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.width + 1 or box.y1 > figure.bbox.height + 1:
            found.append((text, "the figure's edge"))
    for (one, a, turned), (other, b, also) in itertools.combinations(boxes, 2):
        apart = min(a.x1, b.x1) - max(a.x0, b.x0) < 0.5 or min(a.y1, b.y1) - max(a.y0, b.y0) < 0.5
        if not (apart or turned % 90 or also % 90):
            found.append((one, other))
    return found


LONG = ("W" * 30, "m" * 23, "iiii", "a rather long name of a class that nobody would choose", "x") * 6
TITLE = "a folder with a long name, validation images, epoch 123 (best)"
MAPS = [("name " * 12, np.ones((3, 8, 8)), np.ones((3, 8, 8))), ("b" * 50, np.arange(30.0), None),
        ("s", np.ones((2, 90)), np.ones((2, 90)))]  # fmt: skip
RISE = list(np.linspace(2, 0, 80))


def captioned(kind, classes):
    labels, probabilities = answers(1200, classes, 60)
    if kind == "mistakes":
        return plots.mistakes(np.zeros((1200, 1, 4, 4)), labels, probabilities, LONG[:classes], title=TITLE)
    return plots.confusion_matrix(labels, probabilities.argmax(1), LONG[:classes], title=TITLE)


CAPTIONED = {
    **{f"{kind} {n}": functools.partial(captioned, kind, n) for kind in ("mistakes", "confusion") for n in (2, 5, 30)},
    "curve": lambda: plots.training_curve(history(300, True), title=3 * TITLE, test_accuracy=0.9),
    "record": lambda: plots.record_of_maps(MAPS, maps=3, title=2 * TITLE, left_out=3),
    "scan": lambda: plots.scan(
        RNG.random((1, 40, 60)), [("seven 99 %", 2, 3, 9, 9)], RNG.random((8, 9)), 0.5, title=2 * TITLE
    ),
    "dots": lambda: plots.dots({f"row {k} {TITLE}": {"fastconv": 1.0, "naive": 2} for k in range(30)}, title=2 * TITLE,
                               label="times"),
    "changes": lambda: plots.changes([(f"row {k}", 1 + k / 50, 0.9, 2, "slower") for k in range(40)], title=2 * TITLE),
    "rates": lambda: plots.learning_rates([1e-6 * 1.2**k for k in range(80)], RISE, RISE, 1e-3),
    "field": lambda: plots.receptive_field(
        RNG.random((3, 30, 30)), [slice(-3, 9), slice(20, 40)], RNG.random((30, 30)), title=2 * TITLE
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CAPTIONED)
def test_no_caption_overlaps_another(name):
    assert colliding(CAPTIONED[name]()) == []


def test_overlapping_captions_are_found():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.52, 0.5, "two")
    figure.text(0.99, 0.1, "outside")
    assert colliding(figure) == [("outside", "the figure's edge"), ("one", "two")]


@pytest.mark.parametrize("reference", [None, 1.0])
def test_dots(tmp_path, reference):
    groups = {"conv": {"numpy": 3.0, "fastconv": 1.0, "naive": 2000.0}, "relu": {"other": 1.5, "fastconv": 1.0}}
    figure = plots.dots(groups, title="t", label="times", reference=reference)
    plots.save(figure, tmp_path / "dots.svg")
    for name in ("conv", "relu", "numpy", "fastconv", "naive", "other", "times"):
        assert name in texts(figure)


@pytest.mark.parametrize("count", [1, 60])
def test_changes(tmp_path, count):
    rows = [(f"benchmark {k}", 1.2**k, 1.2**k / 1.1, 1.2**k * 1.1, "slower" if k else "") for k in range(count)]
    figure = plots.changes(rows, title="t")
    plots.save(figure, tmp_path / "changes.png")
    assert f"benchmark {count - 1}" in texts(figure)
    assert "1.1" in texts(figure)


def test_the_format_follows_the_name(tmp_path):
    figure = plots.training_curve(history(2))
    for suffix, start in ((".png", b"\x89PNG"), (".PNG", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        path = tmp_path / f"curve{suffix}"
        plots.save(figure, path)
        assert path.read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"curve\.doc: a picture's name must end in \.png"):
        plots.save(figure, tmp_path / "curve.doc")


def test_no_pyplot_and_no_matplotlib_before_it_is_needed(tmp_path):
    code = f"""
import sys
import fastconv, fastconv.cli, fastconv.plots
assert "matplotlib" not in sys.modules
fastconv.plots.save(fastconv.plots.training_curve([{{"epoch": 1, "loss": 1.0}}]), {str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "", "MPLBACKEND": "TkAgg"})


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'a training curve needs matplotlib: pip install "fastconv\[plot\]"'):
        plots.training_curve(history(2))


@pytest.mark.parametrize("suffix", plots.FORMATS)
def test_the_timeline_of_a_training_step(tmp_path, suffix):
    told = fastconv.explain(models.lenet5(), (2, 1, 28, 28))
    told.plot(tmp_path / f"step{suffix}")
    assert (tmp_path / f"step{suffix}").stat().st_size > 5000
    drawn = texts(told.figure())
    for words in ("training step", "ReLU+MaxPool2d", "11 Linear", "update SGD", "backward", "kept, kB"):
        assert words in drawn
    memory, axes = told.figure().axes
    ends = [bar.get_x() + bar.get_width() for bars in axes.containers for bar in bars]
    assert max(ends) == pytest.approx(sum(span.milliseconds for span in told.spans))
    assert max(memory.get_lines()[0].get_ydata()) == pytest.approx(max(span.kept for span in told.spans) / 1e3)


def test_what_has_a_plot_gives_a_figure_that_shows_in_a_notebook(tmp_path):
    """Without a path nothing is written; with one the same is, too."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 1, 6, 6)).astype(np.float32), np.arange(30) % 3
    net = fastconv.Sequential(fastconv.Conv2d(1, 2, 3, rng=0), fastconv.Flatten(), fastconv.Linear(32, 3, rng=1))
    found = [
        fastconv.Trainer(net, fastconv.optim.SGD(0.1)).fit(x, y, epochs=2, progress=False),
        fastconv.Trainer(net, fastconv.optim.SGD(0.1)).find_lr(x, y, 10, steps=20),
        fastconv.explain(net, (2, 1, 6, 6)),
        fastconv.analysis.record(net, x[:2], y[:2]),
        fastconv.analysis.walkthrough(F.conv2d, x[:1], net[0].weight[:1]),
    ]
    for each in found:
        assert each.plot()._repr_png_().startswith(b"\x89PNG"), type(each)
        path = tmp_path / f"{type(each).__name__}.png"
        assert each.plot(path)._repr_png_() and path.stat().st_size
    assert len(list(tmp_path.iterdir())) == len(found)


def test_pictures_without_a_title():
    labels, scores = np.arange(4) % 2, np.eye(2)[[0, 1, 1, 1]]
    assert "3 of 4 right" in texts(plots.confusion_matrix(labels, scores.argmax(axis=1), ["a", "b"]))
    assert "1 of 4 read wrongly" in texts(plots.mistakes(np.zeros((4, 1, 2, 2)), labels, scores, ["a", "b"]))


def test_the_suggested_rate_is_the_one_that_is_printed():
    rates = fastconv.Trainer(fastconv.models.digits_cnn(rng=0), fastconv.optim.SGD(0.1)).find_lr(
        *fastconv.datasets.load_digits()[0], steps=60
    )
    assert f"suggested: {rates.suggestion:.3g}" in texts(rates.plot()) and f"{rates.suggestion:.3g}" in str(rates)


def test_the_timeline_of_an_inference_has_no_memory(tmp_path):
    told = fastconv.explain(models.lenet5(), (2, 1, 28, 28), training=False)
    told.plot(tmp_path / "inference.png")
    assert len(told.figure().axes) == 1
    assert "backward" not in texts(told.figure())
    fastconv.explain(fastconv.Sequential(), (1, 2)).plot(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="must end in"):
        told.plot(tmp_path / "inference.gif")


def test_a_timelines_bars_hold_their_floor():
    spans = [("a" * 100, "forward", 0.0, 4.0, 1.0, 10**9), ("b", "forward", 4.0, 2.0, 3.0, 10**9),
             ("a" * 100, "backward", 6.0, 1.0, 0.5, 0)]  # fmt: skip
    figure = plots.timeline(spans, title="t")
    (_, forward_floor, _, backward_floor) = figure.axes[1].containers
    assert [bar.get_width() for bar in forward_floor] == [1.0, 2.0]
    assert [bar.get_y() for bar in backward_floor] == [bar.get_y() for bar in forward_floor][:1]
    assert "kept, GB" in texts(figure)
    assert "…" in texts(figure)
