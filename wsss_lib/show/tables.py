"""Markdown tables for notebooks, and sizes of files in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a Markdown table; vertical bars inside cells are escaped.

    Args:
        head: Titles of the columns.
        rows: Cells of each row, one for each title.

    Example:
        >>> print(markdown_table(["method", "mIoU %"], [["a|b", "50.0"]]))
        | method | mIoU % |
        |---|---|
        | a\|b | 50.0 |
    """
    lines = [_row(head), "|---" * len(head) + "|", *map(_row, rows)]
    return "\n".join(lines)


def file_size(path: Path) -> str:
    """Return the size of a file with the unit that suits it: bytes, KiB or MiB."""
    size = path.stat().st_size
    if size < 2**10:
        return f"{size} bytes"
    return f"{size / 2**10:.1f} KiB" if size < 2**20 else f"{size / 2**20:.1f} MiB"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
