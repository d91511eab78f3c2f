"""Build the site: the course as committed, the pages of `docs`, and a reference of the library from its docstrings.

``make site`` builds it into ``runs/site``. The pages are copied into ``runs/site/source``, README.md as the first page;
the reference gets a page for each module there. Sphinx makes ``runs/site/html`` of them. Warnings are errors.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from pkgutil import iter_modules

from sphinx.cmd.build import main as sphinx

import wsss_lib

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "notebooks")
FILES = ("data/README.md", "pretrained/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff")
"""What the site shows besides README.md, or what its pages link to."""

ROOMS = ("ops", "data", "models", "methods", "stages", "runs", "results", "exchange", "use", "show")

SMALL_PICTURE = re.compile(r'<img src="([^"]+)" width="\d+" alt="([^"]*)">')
"""A picture in README as HTML, which Sphinx would not copy."""

CONTENTS = """
```{toctree}
:caption: Course
:hidden:
:glob:

notebooks/0*
notebooks/solutions
```

```{toctree}
:caption: Documents
:hidden:

docs/glossary
data/README
pretrained/README
docs/own_code
docs/library
docs/devices
docs/results
docs/leaderboard
docs/choices
docs/how_good
docs/label_doubts
docs/speed
docs/gpu
docs/papers
docs/releases
CONTRIBUTING
CHANGELOG
```

```{toctree}
:caption: Reference
:hidden:

api/index
```
"""


def summaries(names: Iterable[str]) -> str:
    """Return a table of names, each with the first sentence of its docstring and a link."""
    free = ".. py:currentmodule:: None\n"  # as the table may follow the docstring of a module that it is not about
    return "\n".join([free, ".. autosummary::", "", *(f"   {name}" for name in names), "", ""])


def contents(pages: Iterable[str]) -> str:
    """Return a table of contents that only the navigation shows."""
    return "\n".join([".. toctree::", "   :hidden:", "", *(f"   {page}" for page in pages), ""])


def titled(title: str, *parts: str) -> str:
    """Return a page in reStructuredText."""
    return "\n\n".join([title + "\n" + "=" * len(title), *parts])


def write_reference(folder: Path) -> None:
    """Write a page for the public names and the rooms, one for each room, and one for each module."""
    folder.mkdir()
    for room in ROOMS:
        package = importlib.import_module(f"wsss_lib.{room}")
        modules = [f"{package.__name__}.{module.name}" for module in iter_modules(package.__path__)]
        text = f".. automodule:: {package.__name__}"
        page = titled(room, text, summaries(modules), contents(modules))
        (folder / f"{room}.rst").write_text(page, encoding="utf-8")
        for name in modules:
            page = titled(name.rpartition(".")[2], f".. automodule:: {name}")
            (folder / f"{name}.rst").write_text(page, encoding="utf-8")
    public = [f"{home.__module__}.{name}" for name in wsss_lib.__all__ if (home := getattr(wsss_lib, name))]
    rooms = [f"wsss_lib.{room}" for room in ROOMS]
    parts = ["``import wsss_lib`` offers these names:", summaries(public), "All of the library:", summaries(rooms)]
    page = titled("The library, name by name", *parts, contents(["errors", *ROOMS]))
    (folder / "index.rst").write_text(page, encoding="utf-8")
    (folder / "errors.rst").write_text(titled("errors", ".. automodule:: wsss_lib.errors"), encoding="utf-8")


def write_sources(folder: Path) -> None:
    """Copy the pages, and write the reference."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    readme = SMALL_PICTURE.sub(r"![\2](\1)", (ROOT / "README.md").read_text(encoding="utf-8"))
    (folder / "index.md").write_text(readme + CONTENTS, encoding="utf-8")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name)
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write_reference(folder / "api")


def build(out: Path) -> int:
    """Build the site into ``out/html``, and return Sphinx's exit status."""
    write_sources(out / "source")
    options = ["-W", "--keep-going", "-q", "-d", str(out / "doctrees"), "-c", str(ROOT / "docs" / "site")]
    return sphinx([*options, str(out / "source"), str(out / "html")])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "site", help="folder of the site")
    sys.exit(build(parser.parse_args().out))
