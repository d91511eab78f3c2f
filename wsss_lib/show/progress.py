"""Progress: a live bar where somebody watches, one line per finished stage where nobody does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def somebody_watches() -> bool:
    """Return whether a notebook front end shows this kernel's output as it comes.

    Jupyter's server names the notebook in the environment of the kernels that it starts; papermill and nbconvert
    start theirs without. ``WSSS_HEADLESS=1`` turns bars off everywhere.
    """
    if os.environ.get("WSSS_HEADLESS") == "1":
        return False
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ


def bar(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` while a bar shows how many are done; without a watcher, just yield them."""
    yield from tqdm(items, desc=description, total=total, leave=False, disable=not somebody_watches())


def epoch_line(row: Mapping[str, Any]) -> None:
    """Print the summary of a finished epoch as one line."""
    losses = {k: v for k, v in row.items() if k not in ("epoch", "learning_rate", "seconds")}
    shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
    print(
        f"epoch {row['epoch']:3d}  {shown}  learning rate {row['learning_rate']:.2g}  {row['seconds']:.1f} s",
        flush=True,
    )
