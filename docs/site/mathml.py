"""Equations as MathML, which browsers draw themselves: no script, no font and no other host is needed."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_INSTEAD = {r"\arg\max": r"\operatorname{arg\,max}"}
"""What latex2mathml does not know, and what it is given instead."""


def _mathml(node: nodes.Element, source: str, display: str) -> str:
    for command, known in _INSTEAD.items():
        source = source.replace(command, known)
    made = convert(source, display=display)
    for command in re.findall(r">(\\\w+)<", made):  # latex2mathml shows the names of commands that it does not know
        logging.getLogger(__name__).warning("%s is unknown to latex2mathml", command, location=node)
    return made


def _inline(page: HTML5Translator, node: nodes.Element) -> None:
    page.body.append(_mathml(node, node.astext(), "inline"))
    raise nodes.SkipNode


def _block(page: HTML5Translator, node: nodes.Element) -> None:
    source, *number = re.split(r"\\tag\{(.*?)\}", node.astext())
    page.body.append(page.starttag(node, "div", CLASS="math"))
    source = source.replace(r"\sum_", r"\sum\limits_")  # above a brace, latex2mathml draws sums as in a line of text
    page.body.append(_mathml(node, source, "block"))
    if number:
        page.body.append(f'<span class="eqno">({number[0]})</span>')
    page.body.append("</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the renderer."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
