"""A page as a notebook: its text as Markdown, its ```python blocks without prompts and outputs as cells of code."""

import doctest
import json
import re
from pathlib import Path
from typing import Any

from sessions import FENCE

FOLDER = "notebooks"


def _markdown(text: str) -> dict[str, Any]:
    text = re.sub(
        r"<details><summary>(.*?)</summary>|</details>", lambda found: f"**{found[1]}**" if found[1] else "", text
    )
    text = re.sub(r"\]\((?:\.\./)+([^)/]+\.png)\)", r"](../_images/\1)", text)  # where the site keeps them
    text = re.sub(r"\[(.*?)\]\((?!http)([^)]*)\.md\)", r"[\1](\2.html)", text)
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip()}


def _code(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source.rstrip()}


def _shown(examples: list[doctest.Example]) -> list[dict[str, Any]]:
    """A cell ends where something is shown: a notebook shows no more than a cell's last expression."""
    made, lines = [], ""
    for example in examples:
        lines += example.source
        if example.want:
            made.append(_code(lines))
            lines = ""
    return [*made, _code(lines)]


def cells(text: str) -> list[dict[str, Any]]:
    """The cells of a page."""
    made, end = [], 0
    for fence in FENCE.finditer(text):
        if fence[2] == "py":  # of another library, to be read
            continue
        made.append(_markdown(text[end : fence.start()]))
        end = fence.end()
        if fence[2] == "python":
            made += _shown(doctest.DocTestParser().get_examples(fence[3]))
        elif fence[2] == "{walkthrough}":
            page = fence[0].split("\n")[0].split()[-1]
            made.append(_code(f"from IPython.display import IFrame\nIFrame({page!r}, '100%', 460)"))
    made.append(_markdown(text[end:]))
    return [cell for cell in made if cell["source"]]


def write(text: str, path: Path) -> None:
    numbered = [{"id": f"cell-{i}", **cell} for i, cell in enumerate(cells(text))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": numbered, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
