"""The documentation: every block of code in README.md and docs/site runs and gives what stands there.

`--site build/docs` looks through the built site as well: nothing on it asks for a network.
"""

import ast
import html.parser
import importlib
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import test_chapter as chapter

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "docs" / "site"
if not SITE.is_dir():
    pytest.skip("away from the source tree: no documentation", allow_module_level=True)
sys.path.insert(0, str(SITE / "tools"))
try:
    import notebooks
    import sessions
finally:
    sys.path.pop(0)

PAGES = sessions.sources(SITE)
CHAPTER = (ROOT / "docs" / "chapter.md").read_text(encoding="utf-8")


def named(text):
    return set(re.findall(r"`(fastconv(?:\.\w+)+)`", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_what_a_page_shows_is_what_its_code_gives(page, tmp_path):
    if "from PIL import" in page.read_text(encoding="utf-8"):
        pytest.importorskip("PIL", reason="the extra [plot] is not installed")
        pytest.importorskip("matplotlib", reason="the extra [plot] is not installed")
    attempted, said = sessions.run(page, tmp_path)
    assert not said
    assert attempted == page.read_text(encoding="utf-8").count("\n>>> ")
    for name in re.findall(r"```\{walkthrough\} (\S+)", page.read_text(encoding="utf-8")):
        assert (tmp_path / name).stat().st_size < 300_000


def statements(code):
    """How many, those inside of others counted too; imports apart."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
    return sum(not isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)


def beside_keras():
    """Per recipe its heading, its code, and the same in Keras: a ```py block behind a ```python block."""
    for name in ("recipes.md", "photographs.md"):
        text = (SITE / name).read_text(encoding="utf-8")
        fences = list(sessions.FENCE.finditer(text))
        for ours, theirs in itertools.pairwise(fences):
            if theirs[2] == "py":
                heading = re.findall(r"^##+ (.+)$", text[: ours.start()], re.MULTILINE)[-1]
                code = "".join(example.source for example in sessions.session(ours[0], name).examples)
                yield heading, code, theirs[3]


BESIDE_KERAS = list(beside_keras())


@pytest.mark.parametrize(
    ("ours", "theirs"), [pair for _, *pair in BESIDE_KERAS], ids=[each[0] for each in BESIDE_KERAS]
)
def test_no_more_statements_than_keras(ours, theirs):
    assert "fastconv" in ours and ">>>" not in ours and "keras" in theirs
    assert statements(ours) <= statements(theirs)


def test_every_recipe_stands_beside_keras():
    headings = " ".join(heading for heading, _, _ in BESIDE_KERAS)
    for recipe in ("student", "Photo|Train, test", "Deployment", "U-Net", "Autoencoder", "Siamese", "GAN", "Grad-CAM",
                   "Two inputs and two outputs", "Fine-tune"):  # fmt: skip
        assert re.search(recipe, headings), recipe
    assert statements("import a\nfor x in y:\n    z = 1; f(x)\n") == 3
    service = next(ours for heading, ours, _ in BESIDE_KERAS if heading.startswith("Deployment"))
    assert len(service[service.index("class ") :].splitlines()) <= 20


def test_a_wrong_number_on_a_page_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\n>>> 1 + 1\n3\n>>> 2\n2\n```\n\n```\n>>> no code\n```\n", encoding="utf-8")
    attempted, said = sessions.run(page, tmp_path)
    assert attempted == 2
    assert 'File "page.md", line 4' in said
    assert said.count("Failed example") == 1


def test_a_page_as_a_notebook_has_the_same_lines(tmp_path):
    page = SITE / "chapter" / "convolution.md"
    text = page.read_text(encoding="utf-8")
    notebooks.write(text, tmp_path / "convolution.ipynb")
    book = json.loads((tmp_path / "convolution.ipynb").read_text(encoding="utf-8"))
    code = [cell["source"] for cell in book["cells"] if cell["cell_type"] == "code"]
    of_pages = [cell for cell in code if "IFrame" not in cell]
    lines = "".join(example.source for example in sessions.session(text, "page").examples)
    assert "\n".join(of_pages) + "\n" == lines
    assert len(code) - len(of_pages) == text.count("{walkthrough}")
    names: dict = {}
    with sessions.inside(tmp_path):
        for cell in of_pages:
            exec(compile(cell, "convolution.ipynb", "exec"), names)
    np.testing.assert_allclose(names["Conv"](names["X"], names["W"])[0], [2.1, 1.1, 2.1, 3.8])


def test_the_chapters_tables_stand_on_the_pages():
    """As NumPy prints them; that the code gives them is the first test."""
    shown = {name: (SITE / "chapter" / f"{name}.md").read_text(encoding="utf-8") for name in ("convolution", "pooling")}
    for page, tables in (
        ("convolution", (chapter.CONVOLVED, chapter.CONVOLVED_2, chapter.CONVOLVED_2_PADDED)),
        ("pooling", (chapter.MAXIMA, chapter.PLACES, chapter.MEANS)),
    ):
        for table in tables:
            assert f"\n{np.array(table)}\n" in shown[page]


def test_every_section_of_the_chapter_has_a_page():
    """And every function that docs/chapter.md names for a definition stands on one of them."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (SITE / "chapter").glob("*.md"))
    titles = set(re.findall(r"^# (.+)$", pages, re.MULTILINE))
    assert set(re.findall(r"^## (.+)$", CHAPTER, re.MULTILINE)) <= titles
    inner = ("fastconv.reference", "fastconv.engine", "fastconv.ops", "fastconv.window")
    definitions = {name for name in named(CHAPTER) if not name.startswith(inner)}
    assert len(definitions) > 80
    assert definitions - named(pages) == set()


def test_pages_are_in_a_table_of_contents():
    listed = set()
    for page in SITE.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            listed |= {(page.parent / line).resolve() for line in block.split("\n") if line and line[0] != ":"}
    pages = {page.with_suffix("") for page in SITE.rglob("*") if page.suffix in (".md", ".rst")}
    assert pages - listed == {SITE / "index"}


def test_the_code_of_the_readme_runs(tmp_path):
    """With an epoch instead of ten."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names: dict = {}
    with sessions.inside(tmp_path):
        for block in blocks:
            exec(compile(block.replace("epochs=10", "epochs=1"), "README.md", "exec"), names)
    assert names["dx"].shape == (4, 1, 8, 8)
    assert names["trainer"].epoch == 1


# --- with Sphinx ------------------------------------------------------------------------------------------------------


@pytest.fixture
def api(monkeypatch):
    pytest.importorskip("sphinx", reason="the extra [docs] is not installed")
    monkeypatch.syspath_prepend(SITE / "tools")
    return importlib.import_module("api")


def test_docstrings_become_restructuredtext(api):
    made = api.to_rst(
        ["The `conv2d` of *args and a|b_.", "", "x    what `it` is,", "     and more", "y, z 1  two", "",
         ">>> 1", "1", "", "Text:", "    set off"], ("fastconv.functional",),
    )  # fmt: skip
    assert made == [
        r"The \ :py:obj:`conv2d <fastconv.functional.conv2d>`\  of \*args and a\|b\_.", "",
        "``x``", r"   what \ ``it``\  is,", "   and more", "``y, z 1``", "   two", "",
        ">>> 1", "1", "", "Text:", "", ".. code-block:: text", "", "       set off", "",
    ]  # fmt: skip


def test_every_public_module_has_a_page(api):
    pages = "".join(page.read_text(encoding="utf-8") for page in (SITE / "api").glob("*.*"))
    assert set(re.findall(r"^\.\. public:: (\S+)$", pages, re.MULTILINE)) == set(api.MODULES)


# --- the built site ---------------------------------------------------------------------------------------------------


class Asked(html.parser.HTMLParser):
    """What a browser fetches by itself for a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video") and given.get("src"):
            self.found.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.found.append(given["href"])


def test_the_site_reads_without_a_network(request):
    if not request.config.getoption("--site"):
        pytest.skip("no --site FOLDER")
    site = ROOT / request.config.getoption("--site")
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        asked = Asked()
        asked.feed(page.read_text(encoding="utf-8"))
        for address in asked.found:
            if not address.startswith("data:"):
                assert "//" not in address, (page, address)
                assert (page.parent / address.split("?")[0].split("#")[0]).exists(), (page, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
