"""The engine's constants stand in engine/tuning.py, each once, and each is used."""

import ast
import re
from pathlib import Path

import pytest

from fastconv import engine
from fastconv.engine import tuning

MODULES = sorted(path for path in Path(engine.__file__).parent.glob("*.py") if path.stem not in ("tuning", "trace"))
NOT_TUNED = {"ALIGNED", "BY_NAME", "MOST_PLANS"}  # whole vectors of any width, a cost that none exceeds, a cache's size


def constants(path):
    """Names of a module that are bound to a number, worked out or not."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                value = eval(compile(ast.Expression(node.value), path.name, "eval"), {})
            except Exception:  # it needs the module
                continue
            if isinstance(value, int | float):
                found[node.targets[0].id] = value
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_has_a_constant_of_its_own(path):
    assert set(constants(path)) <= NOT_TUNED


def test_every_constant_is_said_once_with_its_unit_and_used():
    text = Path(tuning.__file__).read_text()
    names = re.findall(r"^([A-Z_]+) = .*", text, re.M)
    assert len(names) > 40
    assert len(set(names)) == len(names)
    assert re.findall(r"^[A-Z_]+ = [^#]*\n", text, re.M) == []  # none without a comment
    used = "".join(path.read_text() for path in MODULES)
    assert [name for name in names if f"tuning.{name}" not in used] == []
