"""What shows in a notebook: tables, pictures, and a training that draws its curve as it goes."""

import base64
import html.parser
import json
import sys
import types

import numpy as np
import pytest

import fastconv as fc
from fastconv import notebook, optim
from fastconv.analysis import record, scan
from fastconv.datasets import quality
from fastconv.training.history import History
from fastconv.training.trainer import Evaluation

RNG = np.random.default_rng(0)
X, Y = RNG.uniform(0, 1, (40, 1, 4, 4)).astype(np.float32), RNG.integers(0, 3, 40)


def net():
    return fc.Sequential({"a<b": fc.Conv2d(1, 2, 3, rng=0), "flat": fc.Flatten(), "fc": fc.Linear(8, 3, rng=1)})


class Read(html.parser.HTMLParser):
    """The cells of a table's rows, the texts beside it, the pictures; and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.beside, self.images, self.open = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["p"]:
            self.beside.append(data)
        else:
            self.rows[-1][-1] += data


def shown(value):
    read = Read(value._repr_html_())
    assert len({len(row) for row in read.rows}) == 1
    return read


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_is_safe_and_has_sides():
    text = notebook.table([("<b>", "n"), ("a&b", "12")], above="x < y", below="")
    assert "<b>" not in text and "&lt;b&gt;" in text and "a&amp;b" in text and "<p>x &lt; y</p>" in text
    assert text.count("text-align: left") == text.count("text-align: right") == 2


@pytest.mark.parametrize("made", ["summary", "explain", "record", "report"])
def test_what_prints_as_a_table_shows_as_one(made):
    """The same cells."""
    value = {
        "summary": lambda: net().summary((1, 1, 4, 4)),
        "explain": lambda: fc.explain(net(), (2, 1, 4, 4)),
        "record": lambda: record(net(), X[:2], Y[:2]),
        "report": lambda: quality.report(X, Y, test=(X[:3], Y[:3])),
    }[made]()
    text, read = str(value), Read(value._repr_html_())
    assert repr(value) == text
    flat = " ".join(text.split())
    for row in read.rows:
        for cell in row:
            assert " ".join(cell.split()) in flat
    for beside in read.beside:
        for part in beside.split("; "):
            assert part in flat


def test_history_and_evaluation():
    trainer = fc.Trainer(net(), optim.SGD(0.1))
    trainer.fit(X, Y, epochs=3, batch_size=10, validation_data=(X, Y))
    heading, *rows = shown(trainer.history).rows
    assert heading == trainer.history.columns() and [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[1][heading.index("accuracy")] == f"{trainer.history[1]['accuracy']:.4f}"
    long = History({"epoch": i, "loss": 1 / i, "extra": i} if i > 3 else {"epoch": i} for i in range(1, 200))
    assert len(shown(long).rows) == 52 and shown(long).rows[26] == ["…"] * 3
    assert shown(long).rows[-1] == ["199", "0.005025", "199"]
    assert shown(History()).rows == [["no epochs yet"]]
    result = trainer.evaluate(X, Y)
    assert shown(result).rows == [["loss", "accuracy"], [f"{result.loss:.4g}", f"{result.accuracy:.4g}"]]
    assert shown(Evaluation(0.5, None)).rows[1] == ["0.5", ""]


def test_a_scan_shows_its_picture():
    pytest.importorskip("matplotlib")
    read = shown(scan(net(), RNG.uniform(0, 1, (8, 8)), image_shape=(1, 4, 4), threshold=0.3))
    assert read.rows[0][:2] == ["class", "score"] and len(read.rows) > 1 and len(read.images) == 1


def test_figures_show(tmp_path):
    """Without pyplot's machinery IPython asks a figure for its PNG."""
    pytest.importorskip("matplotlib")
    history = History([{"epoch": 1, "loss": 0.5, "accuracy": 0.9}, {"epoch": 2, "loss": 0.25, "accuracy": 1.0}])
    figure = history.plot(tmp_path / "curve.png")
    assert figure._repr_png_().startswith(b"\x89PNG") and (tmp_path / "curve.png").stat().st_size > 5000
    assert len(figure.axes) == 2 and figure.axes[1].get_ylim()[0] < 90
    without = History([{"epoch": 1, "loss": -0.5}, {"epoch": 2, "loss": -1.5}]).plot()
    assert len(without.axes) == 1 and without.axes[0].get_ylim()[0] < -1.5
    equal = History([{"epoch": i, "loss": 1e-6, "accuracy": 1.0} for i in (1, 2)]).plot()
    low, high = equal.axes[1].get_ylim()
    assert low < 99 and high > 100 and equal.axes[0].get_ylim()[1] > 1e-6


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(monkeypatch):
    """A stand-in for IPython in a kernel: what was displayed, in order, and what took its place."""
    seen: list = []

    class Handle:
        def update(self, value):
            seen.append(("update", value.data))

    def display(value, display_id):
        seen.append(("display", value.data))
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    displays = types.ModuleType("IPython.display")
    displays.HTML, displays.display = (lambda data: types.SimpleNamespace(data=data)), display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # its bar would talk to a kernel
    return seen


def fit(epochs=3, **options):
    trainer = fc.Trainer(net(), optim.SGD(0.1))
    trainer.fit(X, Y, epochs=epochs, batch_size=10, **options)
    return trainer


def test_the_curve_is_drawn_as_it_goes(kernel, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("fastconv.training.progress.REDRAW", (0.0, 0))
    trainer = fit()
    assert [what for what, _ in kernel] == ["display", "update", "update"]
    for epoch, (_, text) in enumerate(kernel, 1):
        read = Read(text)
        assert base64.b64decode(read.images[0]["src"].split(",")[1]).startswith(b"\x89PNG")
        assert read.rows[1][0] == str(epoch)
    assert capsys.readouterr() == ("", "")
    kernel.clear()
    trainer.fit(X, Y, epochs=3)
    assert kernel == []
    fit(progress=False)
    assert kernel == []


def test_drawing_takes_a_part_of_the_time_only(kernel):
    """The first epoch's and, however fast they are, the last's."""
    fit(epochs=20)
    assert [what for what, _ in kernel] == ["display", "update"]
    assert Read(kernel[-1][1]).rows[1][0] == "20"


def test_without_matplotlib_the_table(kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    fit(epochs=2)
    assert len(Read(kernel[-1][1]).rows) == 3 and "<img" not in kernel[-1][1]


def test_elsewhere_nothing_is_asked_of_ipython(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not notebook.is_running() and "IPython" not in sys.modules
    shell = types.ModuleType("IPython")
    shell.get_ipython = lambda: None  # imported, but no shell runs
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert not notebook.is_running()


CELLS = (
    "import numpy as np, fastconv\n"
    "X, y = np.random.default_rng(0).normal(size=(60, 1, 4, 4)), np.arange(60) % 3\n"
    "net = fastconv.Sequential(fastconv.Flatten(), fastconv.Linear(16, 3, rng=0))\n"
    "trainer = fastconv.Trainer(net, fastconv.optim.SGD(0.1))\n"
    "history = trainer.fit(X, y, epochs=3, batch_size=10)",
    "history", "history.plot()", "net.summary((1, 1, 4, 4))", "trainer.evaluate(X, y)",
    "fastconv.explain(net, (1, 1, 4, 4))", "fastconv.analysis.record(net, X[:2], y[:2])",
)  # fmt: skip


def test_a_notebook_is_executed(tmp_path):
    """In a kernel, where nbclient and ipykernel are installed."""
    nbclient = pytest.importorskip("nbclient", reason="no notebook is executed without nbclient")
    pytest.importorskip("ipykernel", reason="no notebook is executed without ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("matplotlib")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [[output.get("data", {}) for output in cell.outputs] for cell in book.cells]
    said = [output for cell in book.cells for output in cell.outputs if output.output_type == "stream"]
    assert all("Warning" not in output.text for output in said)  # the bar, where ipywidgets is missing
    (curve,) = (data["text/html"] for data in outputs[0] if "text/html" in data)
    assert Read(curve).rows[1][0] == "3" and Read(curve).images
    assert "image/png" in outputs[2][0]
    for place in (1, 3, 4, 5, 6):
        assert "<table>" in outputs[place][0]["text/html"]
    assert json.dumps(book)
