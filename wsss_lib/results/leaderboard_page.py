"""The leaderboard's page: one table for each data set, made from the entries' files."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import wsss_lib
from wsss_lib.data.files import write_atomically
from wsss_lib.errors import InputError
from wsss_lib.results.collect import STAGES
from wsss_lib.results.leaderboard import Entry, check_control, read_entry
from wsss_lib.results.paired_difference import REPETITIONS, Difference, paired_difference
from wsss_lib.show.tables import markdown_table

_HEAD = f"""\
# Leaderboard

`wsss leaderboard page` makes this page from `leaderboard/*.json`; do not edit it by hand. `CONTRIBUTING.md` says how to
add a method.

- **mIoU** is the mean over random seeds ± the standard deviation between them, in percent, from the confusion matrix
  summed over all pictures of the split. Background thresholds and the power of the CRF are chosen on `train`.
- **Difference** is the mean IoU on `val` minus that of the control, in points, paired by seed and by picture, with a
  95 % interval. A walk is compared with the control's CAM seed, and a walk with CRF with its CRF. For the interval,
  {REPETITIONS} times, pictures are drawn with replacement (the same ones for both methods and all
  seeds), both mean IoUs are computed from the summed counts, and seeds are drawn with replacement. With 1 seed the
  interval covers the choice of pictures alone, and says nothing about another training. With 3 seeds it is still too
  narrow for the spread between trainings.
- **Minutes** and **peak MiB** are those of a run with its final network, without earlier runs that it uses. Minutes
  depend on the machine and on what else ran there.
- **older code** marks an entry whose training had another version of wsss_lib than the present one, or whose method's
  code has changed since the entry was made.
"""

_WITHOUT_WALK = {"walk": "CAM seed", "walk, CRF": "CRF"}

_CHOICE = """\
### What choosing on the scored masks would add

Each number is added, in points, to the mIoU of the CAM seed on `val` if the choice is made on the masks of `val`
themselves, as many published rows do, instead of on `train`. Such a score is not comparable with one that is not chosen
in this way. Epochs can be compared only if the run has kept them (`keep_epochs=True`); these are scored on a sample of
at most 100 pictures.
"""


def read_entries(folder: Path) -> list[Entry]:
    """Read all entries of a folder, by name.

    Raises:
        InputError: No entry exists, or a file is damaged or of another version.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no entry; make one with wsss leaderboard add.")
    return [read_entry(path) for path in paths]


def page(entries: Sequence[Entry]) -> str:
    """Return the page as Markdown.

    Args:
        entries: All entries.

    Raises:
        InputError: The control of an entry is missing or cannot be paired with it.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(json.dumps(dict(entry.data), sort_keys=True), []).append(entry)
    parts = [_HEAD]
    for data, group in sorted(groups.items(), key=lambda item: (item[1][0].preset, item[0])):
        first = group[0]
        pictures = ", ".join(f"{split}: {n}" for split in ("train", "val") if (n := first.data.get(f"data {split}")))
        digest = hashlib.sha256(data.encode()).hexdigest()[:8]
        parts += [f"## {first.preset}, data {digest}\n", f"{len(first.classes)} classes with background; {pictures}.\n"]
        parts += [_table(group, {entry.name: entry for entry in entries}), "", _CHOICE, _choices(group), ""]
    return "\n".join(parts)


def write_page(folder: Path, path: Path) -> Path:
    """Write the page of all entries of a folder, and return its path.

    Raises:
        InputError: An entry cannot be used.
    """
    text = page(read_entries(folder))
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def _table(group: Sequence[Entry], entries: dict[str, Entry]) -> str:
    head = ["entry", "seeds", "result", "mIoU % train", "mIoU % val", "control", "difference", "minutes", "peak MiB"]
    rows = []
    for entry in group:
        control = None
        if entry.control:
            control = entries.get(entry.control)
            if control is None:
                raise InputError(f"control {entry.control} of {entry.name} has no entry; add it first.")
            check_control(entry, control)
        mark = " (older code)" if is_older(entry) else ""
        numbers = ", ".join(str(one.seed) for one in entry.seeds)
        minutes = f"{statistics.mean(one.seconds for one in entry.seeds) / 60:.1f}"
        memory = f"{max(one.memory for one in entry.seeds):.0f}"
        for stage in STAGES:
            values = {split: _spread(entry, split, stage) for split in ("train", "val")}
            if any(values.values()):
                names = ["", ""] if control is None else [f"`{control.name}`", _difference(entry, control, stage)]
                rows.append([f"`{entry.name}`{mark}", numbers, stage, *values.values(), *names, minutes, memory])
    return markdown_table(head, rows)


def is_older(entry: Entry) -> bool:
    """Return whether a newer version trains the method, or its code has changed."""
    return entry.is_stale or any(one.version != wsss_lib.__version__ for one in entry.seeds)


def _spread(entry: Entry, split: str, stage: str) -> str:
    found = [value for one in entry.seeds if (value := one.mean_iou(split, stage)) is not None]
    if not found:
        return ""
    mean = f"{100 * statistics.mean(found):.1f}"
    return f"{mean} ± {100 * statistics.stdev(found):.1f}" if len(found) > 1 else mean


def difference(entry: Entry, control: Entry, stage: str) -> Difference | None:
    """Return the difference of two entries on ``val`` over the seeds that both have; None if there is none.

    Args:
        entry: Entry of a method.
        control: Entry of its control; see `wsss_lib.results.leaderboard.check_control`.
        stage: Name of a result, one of `STAGES`. A walk, which the control does not have, is compared with the
            control's CAM seed, and a walk with CRF with the control's CRF.
    """
    counts = [{one.seed: one.counts.get("val", {}) for one in part.seeds} for part in (entry, control)]
    pairs = []
    for seed in sorted(counts[0].keys() & counts[1].keys()):
        ours, theirs = counts[0][seed].get(stage), counts[1][seed]
        other = theirs.get(stage, theirs.get(_WITHOUT_WALK.get(stage, "")))
        if ours is not None and other is not None:
            pairs.append((ours, other))
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def _difference(entry: Entry, control: Entry, stage: str) -> str:
    found = difference(entry, control, stage)
    if found is None:
        return ""
    only = " (1 seed: pictures only)" if found.seeds == 1 else ""
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{only}"


def _choices(group: Sequence[Entry]) -> str:
    head = ["entry", "best threshold", "best epoch", "best epoch and threshold", "seeds with kept epochs"]
    rows = []
    for entry in group:
        thresholds = [one.best_threshold["val"] for one in entry.seeds if "val" in one.best_threshold]
        epochs = [one.choice for one in entry.seeds if one.choice]
        cells = [f"{100 * statistics.mean(thresholds):+.1f}"] if thresholds else [""]
        cells += [
            f"{100 * statistics.mean(choice[name] for choice in epochs):+.1f}" if epochs else ""
            for name in ("epoch_adds", "both_add")
        ]
        rows.append([f"`{entry.name}`", *cells, str(len(epochs))])
    return markdown_table(head, rows)
