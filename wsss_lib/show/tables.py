"""Markdown tables for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
