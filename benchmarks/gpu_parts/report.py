"""What a part has found so far, written to a file after every row."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write a file such that a reader, or whoever comes after a kill, finds either the old text or the new one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


class Report:
    """Rows, notes and problems of a part.

    Args:
        path: JSON file that is written again after every change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, list[Any]] = {"rows": [], "notes": [], "problems": []}

    def row(self, **columns: Any) -> None:
        """Add a row to the table of the part; the names of the columns have underscores for spaces."""
        self._add("rows", columns)

    def note(self, sentence: str) -> None:
        """Add a sentence below the table."""
        self._add("notes", sentence)

    def problem(self, sentence: str) -> None:
        """Add a sentence on something that is wrong; the part then counts as failed."""
        print(sentence, flush=True)
        self._add("problems", sentence)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Turn an error within this context into a problem, so that the part goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or ["no message"]
            self.problem(f"{name}: {type(error).__name__}: {lines[0][:300]}")

    def _add(self, kind: str, value: Any) -> None:
        self.content[kind].append(value)
        write_whole(self.path, json.dumps(self.content, indent=1))
