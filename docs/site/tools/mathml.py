"""Formulas as MathML, which browsers draw themselves: no script, no font from elsewhere. docutils translates TeX."""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _mathml(node: nodes.Node, block: bool) -> str:
    try:
        return tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logger.warning("a formula that cannot be MathML: %s", error, location=node)
        return node.astext()


def inline(translator: object, node: nodes.Node) -> None:
    translator.body.append(_mathml(node, block=False))
    raise nodes.SkipNode


def block(translator: object, node: nodes.Node) -> None:
    translator.body.append(f'<div class="math">{_mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
