"""An HTML page in one file: it contains all pictures, executes nothing and loads nothing.

The content is a notebook that is never executed: its cells have no code, and this file makes the outputs. nbconvert
converts the notebook to HTML.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import wsss_lib
from wsss_lib.data.files import write_atomically
from wsss_lib.errors import InputError, printable

_MARK = '<meta name="generator" content="wsss_lib'
"""Beginning of a line that only pages of this library have."""

_NUMBER = re.compile(r"[-−+]?[\d,.]+( ?%)?|–|")

_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{mark} {version}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
"""


class Page:
    """A page that grows from top to bottom.

    Args:
        title: Title of the page.

    Raises:
        InputError: The packages that make the page are not installed.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._format = package("nbformat").v4
        self._exporter = package("nbconvert").HTMLExporter(template_name="basic", exclude_input=True)
        self._cells: list[Any] = []

    def heading(self, text: str) -> None:
        """Add a heading."""
        self._add_markdown(f"## {plain(text)}")

    def subheading(self, text: str) -> None:
        """Add a heading of the second level."""
        self._add_markdown(f"### {plain(text)}")

    def text(self, text: str) -> None:
        """Add a paragraph; its characters are shown unchanged, not read as Markdown."""
        self._add_markdown(plain(text))

    def points(self, lines: Iterable[str]) -> None:
        """Add a list of sentences; their characters are shown unchanged, not read as Markdown."""
        self._add_markdown("\n".join(f"- {plain(line)}" for line in lines))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table; columns that hold only numbers are aligned to the right."""
        lines = [*map(list, rows)]
        numbers = [all(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*lines, strict=True)]
        cells = [_row("th", head, numbers), *(_row("td", line, numbers) for line in lines)]
        self._add_output({"text/html": f"<table>\n{chr(10).join(cells)}\n</table>"})

    def figure(self, figure: Any, words: str) -> None:
        """Add a figure of `wsss_lib.show.figures`, with a description for readers who cannot see it."""
        kind, content = figure.encoded()
        self._add_output({kind: base64.b64encode(content).decode()}, {kind: {"alt": printable(words)}})

    def write(self, path: Path) -> Path:
        """Write the page to a file; an earlier page of this library is replaced.

        Raises:
            InputError: As for :func:`check_page`, or the file cannot be written.
        """
        check_page(path)
        body, _ = self._exporter.from_notebook_node(self._format.new_notebook(cells=self._cells))
        body = re.sub(r'<a class="anchor-link".*?</a>', "", body)  # these links need Jupyter's style sheet
        style = files("wsss_lib.use").joinpath("page.css").read_text("utf-8")
        head = _HEAD.format(mark=_MARK, version=wsss_lib.__version__, title=_escaped(self._title), style=style)
        content = f"{head}{body}\n</main>\n</body>\n</html>\n".encode()
        write_atomically(path, lambda file: file.write(content))
        return path

    def _add_markdown(self, text: str) -> None:
        self._cells.append(self._format.new_markdown_cell(text))

    def _add_output(self, data: dict[str, str], metadata: dict[str, Any] | None = None) -> None:
        output = self._format.new_output("display_data", data=data, metadata=metadata or {})
        self._cells.append(self._format.new_code_cell(outputs=[output]))


def check_page(path: Path) -> None:
    """Raise InputError if a page must not be written to a path."""
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"report {path} must end with .html; give it such a name.")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an HTML file; give the name of a file in it.")
    if path.is_file() and _MARK.encode() not in path.read_bytes()[:1000]:
        raise InputError(f"{path} exists and is not a report of wsss_lib; give another name.")


def plain(text: str) -> str:
    r"""Return Markdown that shows the characters of a text unchanged.

    Example:
        >>> print(plain("a_b <i> *c*"))
        a\_b &lt;i&gt; \*c\*
    """
    return re.sub(r"([\\`*_{}\[\]()#+.!|$~-])", r"\\\1", _escaped(" ".join(text.split())))


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=False)


def _row(tag: str, cells: Sequence[str], numbers: Sequence[bool]) -> str:
    kinds = [' class="number"' if number else "" for number in numbers] or [""] * len(cells)
    content = [f"<{tag}{kind}>{_escaped(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)]
    return f"<tr>{''.join(content)}</tr>"


def package(name: str) -> Any:
    """Import a module that needs the extra ``course``.

    Raises:
        InputError: A package is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"the package {error.name or name} is missing, which a report needs: type pip install 'wsss-lib[course]'."
        ) from None
