"""Settings of Sphinx for the site, which `scripts/build_site.py` builds."""

import base64
import hashlib
import json
import sys
from contextlib import suppress
from inspect import isfunction
from pathlib import Path
from typing import get_type_hints

import matplotlib
from docutils import nodes
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))  # for mathml

project = "wsss_lib"
html_title = "Weakly supervised semantic segmentation"
root_doc = "index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "mathml"]

# Pages and lessons
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the lessons are shown as they were committed
nb_render_markdown_format = "myst"  # or tables that a cell makes would be lines of text
nb_ipywidgets_js = {}  # the outputs hold no widgets, and the scripts for widgets come from another host

# Docstrings
default_role = "literal"  # single backquotes mark code, as in Markdown
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "exclude-members": "set"}  # matplotlib gives `set` to each kind of figure
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # or an attribute that has a docstring, too, would be described twice

# Look
html_theme = "furo"
html_math_renderer = "mathml"
# Browsers draw equations with DejaVu Serif where the computer has no font for mathematics.
html_static_path = ["static", f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSerif.ttf"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = False
pygments_style, pygments_dark_style = "default", "github-dark"


def _read_types(_app: Sphinx, function: object, _bound: bool) -> None:
    """Read the types of a function, as Sphinx looks up their bare names for the constructor of a class."""
    if isfunction(function):
        with suppress(NameError):  # a data class inherits types whose names its own module does not know
            function.__annotations__ = get_type_hints(function)


def _describe_figures(app: Sphinx, page: nodes.document) -> None:
    """Give the figures of a lesson the words that its outputs hold; MyST-NB names each file by its content."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    words = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            for kind, about in output.get("metadata", {}).items():
                if "alt" in about:
                    content = base64.b64decode("".join(output["data"][kind]))
                    words[hashlib.sha256(content).hexdigest()] = about["alt"]
    for image in page.findall(nodes.image):
        if text := words.get(Path(image["uri"]).stem):
            image["alt"] = text


def setup(app: Sphinx) -> None:
    """Connect with Sphinx."""
    app.connect("doctree-read", _describe_figures)
    app.connect("autodoc-before-process-signature", _read_types)
