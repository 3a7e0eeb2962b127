"""docs/chapter.md names functions and tests: all of them exist."""

import ast
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "chapter.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(fastconv(?:\.\w+)+)`", PAGE)))
CITED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| definition")]


def find(name):
    """The object behind a dotted name; modules are imported on the way."""
    found = importlib.import_module("fastconv")
    path = "fastconv"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        if not hasattr(found, part):
            importlib.import_module(path)
        found = getattr(found, part)
    return found


def test_the_page_was_read():
    assert len(NAMES) > 60
    assert len(CITED) > 40
    assert len(ROWS) > 40


@pytest.mark.parametrize("name", NAMES)
def test_names_exist(name):
    find(name)


@pytest.mark.parametrize(("file", "name"), CITED)
def test_tests_exist(file, name):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_operations_stand_beside_their_references():
    """Every reference in a row is that of an operation in it."""
    beside = 0
    for row in ROWS:
        operations = re.findall(r"`fastconv\.functional\.(\w+)`", row)
        references = re.findall(r"`fastconv\.reference\.(\w+)`", row)
        if operations and references:
            beside += 1
            assert set(references) <= set(operations), row
    assert beside > 20


def test_links_lead_somewhere():
    for example in re.findall(r"`(examples/\w*(?:\.py)?)`", PAGE):
        assert (TESTS.parent / example).exists()
    for picture in re.findall(r"!\[[^]]*\]\((\w+\.png)\)", PAGE):
        assert (TESTS.parent / "docs" / picture).exists()


def test_its_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict = {}
        exec(compile(block, "docs/chapter.md", "exec"), names)
    np.testing.assert_allclose(names["Z"][0], [2.1, 1.1, 2.1])
    np.testing.assert_array_equal(names["H"], names["Conv"](names["uSample"](names["X"], 2), names["W"]))
    assert names["H"].shape == (6, 6)
    assert names["at"].min() >= 1
    assert names["at"].max() <= 4
