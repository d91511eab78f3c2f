"""Progress: a live bar where somebody watches, one line per finished stage where nobody does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

_COLUMNS = 110
"""What fits beside a notebook's cell numbers."""


def somebody_watches() -> bool:
    """Return whether a notebook front end shows this kernel's output as it comes.

    Jupyter's server names the notebook in the environment of the kernels that it starts; papermill and nbconvert
    start theirs without. ``WSSS_HEADLESS=1`` turns bars off everywhere.
    """
    if os.environ.get("WSSS_HEADLESS") == "1":
        return False
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ


def bars_are_seen() -> bool:
    """Return whether a bar reaches somebody: in a notebook that is watched, or in a terminal."""
    return somebody_watches() or (os.environ.get("WSSS_HEADLESS") != "1" and sys.stderr.isatty())


def bar(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` while a bar shows how many are done; without a watcher, just yield them."""
    yield from tqdm(items, desc=description, total=total, leave=False, disable=not bars_are_seen())


def epoch_line(row: Mapping[str, Any]) -> None:
    """Print the summary of a finished epoch as one line, with the minimised loss alone if all do not fit."""
    losses = [f"{k} {v:.4f}" for k, v in row.items() if k not in ("epoch", "learning_rate", "seconds")]
    end = f"learning rate {row['learning_rate']:.2g}  {row['seconds']:.1f} s"
    line = f"epoch {row['epoch']:3d}  {'  '.join(losses)}  {end}"
    print(line if len(line) <= _COLUMNS else f"epoch {row['epoch']:3d}  {losses[0]}  {end}", flush=True)
