"""Progress: a live bar in an interactive notebook, one line for each finished stage elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

_COLUMNS = 110
"""Greatest number of characters in a line beside the cell numbers of a notebook."""


def is_interactive() -> bool:
    """Return whether a notebook front end shows the output of this kernel live.

    Jupyter's server sets an environment variable with the notebook's name for each kernel that it starts; papermill and
    nbconvert do not. ``WSSS_HEADLESS=1`` turns bars off everywhere.
    """
    if os.environ.get("WSSS_HEADLESS") == "1":
        return False
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ


def bars_are_seen() -> bool:
    """Return whether bars are shown: in an interactive notebook or in a terminal."""
    return is_interactive() or (os.environ.get("WSSS_HEADLESS") != "1" and sys.stderr.isatty())


def bar(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` while a bar shows their number; without a front end that shows it, no bar is drawn."""
    yield from tqdm(items, desc=description, total=total, leave=False, disable=not bars_are_seen())


def epoch_line(row: Mapping[str, Any]) -> None:
    """Print a finished epoch as one line. If not all losses fit, the parts of the loss follow in further lines."""
    losses = [f"{k} {v:.4f}" for k, v in row.items() if k not in ("epoch", "learning_rate", "seconds")]
    end = f"learning rate {row['learning_rate']:.2g}  {row['seconds']:.1f} s"
    begin = f"epoch {row['epoch']:3d}"
    line = "  ".join([begin, *losses, end])
    if len(line) > _COLUMNS:
        line = "  ".join([begin, losses[0], end])
        below = " " * len(begin)
        for part in losses[1:]:
            if len(below) + 2 + len(part) > _COLUMNS:
                line, below = f"{line}\n{below}", " " * len(begin)
            below += f"  {part}"
        line = f"{line}\n{below}"
    print(line, flush=True)
