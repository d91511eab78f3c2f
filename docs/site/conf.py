"""Settings of Sphinx for the site, which `scripts/build_site.py` builds."""

import sys
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).parent))  # for mathml

project = "wsss_lib"
html_title = "Weakly supervised semantic segmentation"
root_doc = "index"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "mathml"]

# Pages and lessons
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the lessons are shown as they were committed
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
# DejaVu Serif has what a browser needs to draw equations; computers without a font for mathematics get it from the site.
html_static_path = ["static", f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSerif.ttf"]
html_favicon = "static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = False
pygments_style, pygments_dark_style = "default", "github-dark"
