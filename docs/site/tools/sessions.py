"""A page of the site as a session: its ```python blocks in order, run, their output compared (no Sphinx needed)."""

import doctest
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FENCE = re.compile(r"^(`{3,})(\S*).*?\n(.*?)^\1\s*?$", re.DOTALL | re.MULTILINE)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def session(text: str, name: str) -> doctest.DocTest:
    """All ```python blocks of a page as one session, at the page's own line numbers."""
    kept = list(re.sub(r"[^\n]", " ", text))
    for fence in FENCE.finditer(text):
        if fence[2] == "python":
            kept[fence.start(3) : fence.end(3)] = fence[3]
    lines = "\n".join(line.rstrip() for line in "".join(kept).split("\n"))
    return doctest.DocTestParser().get_doctest(lines, {}, name, name, 0)


def run(page: Path, folder: Path) -> tuple[int, str]:
    """Runs a page's code in `folder`: how many lines, and what differs from the page ("" where nothing does)."""
    said: list[str] = []
    test = session(page.read_text(encoding="utf-8"), page.name)
    with inside(folder):
        doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    return len(test.examples), "".join(said)


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def sources(site: Path) -> list[Path]:
    """The pages that hold code."""
    return sorted(page for page in site.rglob("*.md") if "```python" in page.read_text(encoding="utf-8"))
