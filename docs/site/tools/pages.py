"""The pages' code: what every ```python block gives is compared while the site is built; so does the test.

A page is one session, from its first line to its last. The pages that it writes land in `walkthroughs/` of the site,
and `{walkthrough} NAME.html` puts one in the page.
"""

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import notebooks
from docutils import nodes
from docutils.parsers.rst import directives
from sessions import run, sources
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

FOLDER = "walkthroughs"


def run_all(app: Sphinx) -> None:
    folder = Path(app.outdir) / FOLDER
    if app.builder.format != "html":
        return
    folder.mkdir(parents=True, exist_ok=True)
    for page in sources(Path(app.srcdir)):
        with tempfile.TemporaryDirectory() as scratch:
            _, said = run(page, Path(scratch))
            for made in Path(scratch).glob("*.html"):
                shutil.copy(made, folder)
        if said:
            logger.warning("its code gives something else:\n%s", said, location=str(page))


def as_notebook(app: Sphinx, page: str, source: list[str]) -> None:
    """Writes a page of code as a notebook, too, and links it at the end."""
    path = Path(app.env.doc2path(page))
    if app.builder.format != "html" or path not in sources(Path(app.srcdir)) or page.startswith(("api", "index")):
        return
    name = f"{notebooks.FOLDER}/{path.stem}.ipynb"
    notebooks.write(source[0], Path(app.outdir) / name)
    up = "../" * page.count("/")
    source[0] += f'\n\n<p class="notebook"><a href="{up}{name}" download>this page as a notebook</a></p>\n'


class Walkthrough(SphinxDirective):
    """`{walkthrough} NAME.html`: the page that this page's code has written, as a frame."""

    required_arguments = 1
    option_spec: ClassVar = {"height": directives.nonnegative_int}  # in em, of the page's 16 pixels

    def run(self) -> list[nodes.Node]:
        app, name = self.env.app, self.arguments[0]
        if app.builder.format == "html" and not (Path(app.outdir) / FOLDER / name).is_file():
            raise self.error(f"no code of this page writes {name}")
        address = "../" * self.env.docname.count("/") + f"{FOLDER}/{name}"
        height = self.options.get("height", 29)
        frame = (
            f'<iframe class="walkthrough" style="height: {height}rem" src="{address}" '
            f'title="{name}" loading="lazy"></iframe>'
            f'<p class="walkthrough"><a href="{address}">on a page of its own</a></p>'
        )
        return [nodes.raw("", frame, format="html")]


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", run_all)
    app.connect("source-read", as_notebook)
    app.add_directive("walkthrough", Walkthrough)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
