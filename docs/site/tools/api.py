"""The API's pages from the package: `.. public:: MODULE` documents every name of MODULE's `__all__`.

The house's docstrings are plain text: paragraphs, columns of "name   what it is", and indented examples. `to_rst` makes
reStructuredText of them. A name in backticks that is public becomes a link, in docstrings and in pages alike.
"""

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

# What is public, and where it is documented: the packages' own names first.
MODULES = (
    "fastconv", "fastconv.functional", "fastconv.reference", "fastconv.chapter", "fastconv.analysis", "fastconv.optim",
    "fastconv.training.trainer", "fastconv.training.rates", "fastconv.callbacks", "fastconv.datasets",
    "fastconv.augment", "fastconv.models", "fastconv.onnx", "fastconv.sklearn", "fastconv.machine",
)  # fmt: skip
LATE = ("Trainer", "explain", "load", "load_weights", "save")  # of fastconv: imported when first used, not in `__all__`


@cache
def names(module: str) -> tuple[str, ...]:
    """The public names of a module, in its own order: no modules, nothing that stands in the package itself as well."""
    found, package = importlib.import_module(module), importlib.import_module("fastconv")
    if module == "fastconv.functional":
        return tuple(importlib.import_module("fastconv.reference").__all__)
    listed = [*found.__all__, *LATE] if found is package else found.__all__
    there = {name: getattr(found, name) for name in listed if not name.startswith("_")}
    return tuple(
        name for name, thing in there.items()
        if not inspect.ismodule(thing) and (found is package or getattr(package, name, None) is not thing)
    )  # fmt: skip


@cache
def public() -> frozenset[str]:
    """All that a link can lead to: modules, what is in them, and the methods of classes."""
    full = set(MODULES)
    for module in MODULES:
        for name in names(module):
            full.add(f"{module}.{name}")
            thing = getattr(importlib.import_module(module), name)
            if inspect.isclass(thing):
                for one in vars(thing):
                    if (
                        not one.startswith("_")
                        and callable(getattr(thing, one))
                        and inspect.getdoc(getattr(thing, one))
                    ):
                        full.add(f"{module}.{name}.{one}")
    return frozenset(full)


def target(name: str, owners: tuple[str, ...] = ()) -> str | None:
    """The full name behind `name`, as seen from within any of `owners`; None where nothing is documented so."""
    for full in (*(f"{owner}.{name}" for owner in owners), name):
        if full in public():
            return full
    return None


def kind(full: str) -> str:
    return "mod" if full in MODULES else "obj"


# --- docstrings -------------------------------------------------------------------------------------------------------

ROW = re.compile(r"(\S+(?: \S+)*?)\s{2,}(\S.*)")


def inline(text: str, owners: tuple[str, ...]) -> str:
    """A line of text, what reStructuredText would read as markup escaped, backticks as code or links."""
    parts = re.split(r"`([^`]+)`", text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"([\\*|_])", r"\\\1", part)
            continue
        full = target(part.removesuffix("()"), owners)
        link = f":py:{kind(full)}:`{part} <{full}>`" if full else f"``{part}``"
        parts[i] = f"\\ {link}\\ "
    return "".join(parts)


def _verbatim(lines: list[str]) -> list[str]:
    return [".. code-block:: text", "", *(f"   {line}" for line in lines), ""]


def _block(lines: list[str], owners: tuple[str, ...]) -> list[str]:
    if lines[0].startswith(">>>"):
        return [*lines, ""]
    if lines[0].startswith(" "):
        return _verbatim(lines)
    indented = [line.startswith(" ") for line in lines]
    if ROW.fullmatch(lines[0]):  # a table of two columns: flush lines begin a row, indented ones continue it
        out = []
        for line, more in zip(lines, indented, strict=True):
            row = None if more else ROW.fullmatch(line)
            if row:
                out += [f"``{row[1]}``", f"   {inline(row[2], owners)}"]
            elif more:
                out += [f"   {inline(line.strip(), owners)}"]
            else:
                return _verbatim(lines)
        return [*out, ""]
    rows = [more or bool(ROW.fullmatch(line)) for line, more in zip(lines, indented, strict=True)]
    if any(rows):  # a paragraph, then what is set off below it
        first = rows.index(True)
        return [*_block(lines[:first], owners), *_block(lines[first:], owners)]
    return [*(inline(line, owners) for line in lines), ""]


def to_rst(lines: list[str], owners: tuple[str, ...] = ()) -> list[str]:
    """The house's docstring as reStructuredText."""
    out: list[str] = []
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            out += _block(block, owners)
            block = []
    return out


def docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    parts = name.split(".")
    owners = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    defined = getattr(thing, "__module__", None) or ""
    if ".ops." in defined or defined.startswith("fastconv.layers"):
        owners += ["fastconv.functional"]
    lines[:] = to_rst(lines, (*owners, "fastconv.functional", "fastconv.analysis"))


def foreign(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """What other packages put into a class (scikit-learn's metadata requests) is theirs to document."""
    if (inspect.getdoc(thing) or "").startswith("Alias for field number"):  # of a named tuple: its class says more
        return True
    home = getattr(inspect.unwrap(getattr(thing, "__func__", thing)), "__module__", None) or "fastconv"
    return None if home.startswith("fastconv") else True


def _signature(function: Callable) -> str:
    signature = inspect.signature(function)
    plain = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))


class Public(SphinxDirective):
    """`.. public:: MODULE`: its docstring, then its public names.

    `:only:` and `:but:` take names, or modules for theirs; with `:only:` the module's docstring is left out.
    """

    required_arguments = 1
    option_spec: ClassVar = {"only": directives.unchanged, "but": directives.unchanged}

    def chosen(self, option: str) -> set[str]:
        words = self.options.get(option, "").split()
        return {name for word in words for name in (importlib.import_module(word).__all__ if "." in word else [word])}

    def run(self) -> list[nodes.Node]:
        module = self.arguments[0]
        found = importlib.import_module(module)
        only, but = self.chosen("only"), self.chosen("but")
        lines = [] if only else [f".. automodule:: {module}", "   :no-members:", ""]
        for name in names(module):
            thing = getattr(found, name)
            if name in but or (only and name not in only):
                continue
            if module == "fastconv.reference":  # the docstrings are their twins'
                lines += [f".. py:function:: {name}{_signature(thing)}", ""]
                lines += [f"   :py:obj:`fastconv.functional.{name}` in naive loops.", ""]
            elif inspect.isclass(thing):
                lines += [f".. autoclass:: {module}.{name}", "   :members:", ""]
            elif callable(thing):
                lines += [f".. autofunction:: {module}.{name}", ""]
            else:
                held = ", ".join(f"``{one}``" for one in thing)
                lines += [f".. py:data:: {module}.{name}", "", f"   A table by name: {held}.", ""]
        return self.parse_text_to_nodes("\n".join(lines))


# --- pages ------------------------------------------------------------------------------------------------------------


class Links(SphinxTransform):
    """`fastconv.functional.conv2d` in a page is a link to its entry."""

    default_priority = 400

    def apply(self, **_: object) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            full = target(text) if text.startswith("fastconv") else None
            if full and not isinstance(literal.parent, (pending_xref, nodes.reference)):
                link = pending_xref(
                    "", refdomain="py", reftype=kind(full), reftarget=full, refexplicit=True, refwarn=True,
                    refdoc=self.env.docname,
                )  # fmt: skip
                literal.replace_self(link)
                link += literal


def setup(app: Sphinx) -> dict:
    app.add_directive("public", Public)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-skip-member", foreign)
    app.add_transform(Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
