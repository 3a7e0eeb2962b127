"""The house: which room of the package imports which, and that no two of them lean on each other."""

import ast
import textwrap
from collections import defaultdict
from pathlib import Path

import fastconv

PACKAGE = Path(fastconv.__file__).parent
NAME = "fastconv"


def modules(package):
    """Every Python module of the package: its dotted name, its text."""
    found = {}
    for path in package.rglob("*.py"):
        parts = (NAME, *path.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def nodes(tree):
    """Everything in a tree, functions' bodies too, but what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from nodes(other)
            continue
        yield child
        yield from nodes(child)


def imported(text, names):
    """The modules of `names` that a module's text imports; compiled ones by their folder."""
    for node in nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else node.module


def room(module):
    """The second name: a folder or a file of the package; the package itself is the hall that opens them all."""
    return module.split(".")[1] if "." in module else NAME


def rooms(texts):
    """{room: the rooms that it imports}."""
    graph = defaultdict(set)
    for module, text in texts.items():
        graph[room(module)] |= {room(name) for name in imported(text, texts) if name.split(".")[0] == NAME}
    return {name: others - {name} for name, others in graph.items()}


def circles(graph):
    """The sets of nodes that reach each other."""

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for other in graph.get(todo.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return seen

    reach = {name: reached(name) for name in graph}
    return {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in reach if a in reach[a]}


def test_no_room_leans_on_one_that_leans_on_it():
    graph = rooms(modules(PACKAGE))
    assert circles(graph) == set()
    assert graph["layers"] >= {"ops", "arrays"}  # it is the graph
    assert graph["analysis"] >= {"layers", "engine"}


def test_what_computes_knows_nothing_of_what_trains():
    graph = rooms(modules(PACKAGE))
    for low, high in (("window", set()), ("machine", {"_ext", "errors", "version"}), ("_ext", set())):
        assert graph.get(low, set()) <= {*high, "errors"}
    assert not {"layers", "training", "analysis", "datasets", "cli", "lab"} & (graph["ops"] | graph["engine"])


def test_a_circle_is_found():
    texts = {
        "fastconv": "from fastconv import a",
        "fastconv.a": "from fastconv.b.c import f",
        "fastconv.b": "",
        "fastconv.b.c": textwrap.dedent("""
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from fastconv import d
            def f():
                import fastconv.a
        """),
        "fastconv.d": "from fastconv import b",
    }
    assert rooms(texts) == {"fastconv": {"a"}, "a": {"b"}, "b": {"a"}, "d": {"b"}}
    assert circles(rooms(texts)) == {frozenset("ab")}
    del texts["fastconv.b.c"]
    assert circles(rooms(texts)) == set()
