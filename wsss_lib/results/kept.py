"""What the committed runs of the leaderboard gave, for the cells of the lessons that train nothing by themselves."""

from __future__ import annotations

import statistics
from pathlib import Path

from wsss_lib.results.collect import STAGES
from wsss_lib.results.leaderboard import Entry, read_entry
from wsss_lib.results.leaderboard_page import difference
from wsss_lib.runs.settings import project_root
from wsss_lib.show.tables import markdown_table


def kept_table(*names: str, split: str = "val", folder: Path | None = None) -> str:
    """Return the scores of committed runs as a Markdown table with a row for each entry of the leaderboard.

    A score is the mean IoU in percent with its standard deviation over the random seeds. If one seed alone has the
    result, the seed is named. A sentence below the table says which entries have no final network.

    Args:
        names: Names of entries, such as ``msal``; one without a file is left out.
        split: Name of the split, ``train`` or ``val``.
        folder: Folder of the entries, ``leaderboard`` of the project if None.

    Raises:
        InputError: The file of an entry is damaged.
    """
    entries = _entries(names, folder)
    if not entries:
        return f"There is no committed run of {' or '.join(names)}; the folder of the leaderboard is not here."
    shown = [stage for stage in STAGES if any(_scores(entry, split, stage) for entry in entries)]
    rows = [[f"`{entry.name}`", _seeds(entry), *(_cell(entry, split, stage) for stage in shown)] for entry in entries]
    first = entries[0]
    title = f"Committed runs, preset `{first.preset}`, version {first.seeds[0].version}, mIoU in % on `{split}`:"
    lines = [title, "", markdown_table(["entry", "random seeds", *shown], rows)]
    without = [f"`{entry.name}`" for entry in entries if not _scores(entry, split, "network")]
    if without:
        lines += ["", f"No final network was trained for {' and '.join(without)}."]
    return "\n".join(lines)


def kept_differences(name: str, folder: Path | None = None) -> dict[str, tuple[float, float, float]]:
    """Return by how much a committed method is better than its control on ``val``, for an interval figure.

    Args:
        name: Name of the entry of the method.
        folder: Folder of the entries, ``leaderboard`` of the project if None.

    Returns:
        For each result that both have, its difference in points, and the lower and upper end of the 95 % interval;
        empty without the two files.

    Raises:
        InputError: The file of an entry is damaged.
    """
    found: dict[str, tuple[float, float, float]] = {}
    for entry in _entries((name,), folder):
        for control in _entries((entry.control,), folder):
            for stage in ("CAM seed", "CRF", "walk", "walk, CRF"):
                between = difference(entry, control, stage)
                if between is not None:
                    found[stage] = (100 * between.mean, 100 * between.low, 100 * between.high)
    return found


def _entries(names: tuple[str, ...], folder: Path | None) -> list[Entry]:
    folder = project_root() / "leaderboard" if folder is None else folder
    return [read_entry(path) for name in names if name and (path := folder / f"{name}.json").is_file()]


def _scores(entry: Entry, split: str, stage: str) -> dict[int, float]:
    """Return the mean IoU in percent by random seed."""
    return {one.seed: 100 * value for one in entry.seeds if (value := one.mean_iou(split, stage)) is not None}


def _seeds(entry: Entry) -> str:
    return ", ".join(str(one.seed) for one in entry.seeds)


def _cell(entry: Entry, split: str, stage: str) -> str:
    scores = _scores(entry, split, stage)
    if not scores:
        return ""
    mean = f"{statistics.mean(scores.values()):.1f}"
    if len(scores) > 1:
        return f"{mean} ± {statistics.stdev(scores.values()):.1f}"
    return mean if len(entry.seeds) == 1 else f"{mean} (seed {next(iter(scores))})"
