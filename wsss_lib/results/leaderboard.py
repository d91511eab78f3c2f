"""Entries of the leaderboard: one JSON file for each variant of a method on a data set, with counts of every picture.

An entry holds what the runs of several random seeds have in common (method, settings, data) and of each seed the
version, date, time and memory, and of each result and picture the counts from which the mean IoU follows. The file
holds no paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.errors import InputError
from wsss_lib.results.code_digest import code_digest
from wsss_lib.results.collect import read_result
from wsss_lib.results.epochs import follow, gain_of_choice
from wsss_lib.results.paired_difference import mean_iou
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.epochs import KeptEpochs
from wsss_lib.runs.folder import read_config
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.runs.run import Run
from wsss_lib.runs.settings import PATHS
from wsss_lib.stages.evaluate import image_confusions, mask_confusion
from wsss_lib.stages.store import read_json, write_json

FORMAT = 1
"""Format of an entry's file."""

_OTHER_RUNS = {name for name in PATHS if name not in ("weights", "checkpoint")}
"""Parts of a run's identity that name another run or a file made by it, which differs from seed to seed."""


@dataclass(frozen=True)
class Seed:
    """The results of one run.

    Attributes:
        seed: Random seed of the run.
        version: Version of the library that trained the run.
        at: Time at which the numbers were counted, as in ``metrics.json``.
        device: Device of the run.
        seconds: Seconds of all stages of the run and its final network, without other runs that it uses.
        memory: Peak memory in MiB.
        threshold: Background threshold of the CAM seeds, best on ``train`` if ``train`` has masks.
        counts: By split and name of the result (see `wsss_lib.results.collect.STAGES`) the counts ``(n, C, 3)`` int64
            of each picture and class: pixels that are right, true and predicted.
        best_threshold: Mean IoU in [0, 1] that the best threshold on the split itself would add, by split.
        choice: Points that choosing the best epoch on ``val`` would add, see `wsss_lib.results.epochs.Choice`; empty
            unless the run has kept its epochs.
    """

    seed: int
    version: str
    at: str
    device: str
    seconds: float
    memory: float
    threshold: float | None
    counts: Mapping[str, Mapping[str, np.ndarray]]
    best_threshold: Mapping[str, float]
    choice: Mapping[str, Any]

    def mean_iou(self, split: str, stage: str) -> float | None:
        """Return the mean IoU in [0, 1] of a result, or None if the run does not have the result."""
        counts = self.counts.get(split, {}).get(stage)
        return None if counts is None else float(mean_iou(counts.sum(0)))


@dataclass(frozen=True)
class Entry:
    """One variant of a method on a data set.

    Attributes:
        name: Name of the entry and of its file.
        control: Name of the entry that this one is compared with; "" for none.
        method: Name of the method.
        preset: Name of the preset.
        classes: The C class names, ``background`` first.
        data: Digests of the lists, labels and pictures of each split.
        settings: All that decides the numbers besides seed and data.
        code: Digest of the method's code when the entry was made, see :func:`wsss_lib.results.code_digest.code_digest`.
        sources: Files in which that code begins.
        seeds: Results of each seed, ascending.
    """

    name: str
    control: str
    method: str
    preset: str
    classes: tuple[str, ...]
    data: Mapping[str, str]
    settings: Mapping[str, Any]
    code: str
    sources: tuple[str, ...]
    seeds: tuple[Seed, ...]

    @property
    def is_stale(self) -> bool:
        """Whether the method's code has changed since the entry was made."""
        return code_digest(*self.sources) != self.code


def collect_entry(folders: Sequence[Path], name: str, control: str = "") -> Entry:
    """Return the entry of some finished runs that differ in their random seed alone.

    Args:
        folders: Folders of the runs.
        name: Name of the entry: lower-case letters, digits and hyphens.
        control: Name of the entry of the control; "" for none.

    Raises:
        InputError: The name is unfit, a run is unfinished or has no masks, or the runs differ in more than the seed.
    """
    _check_name("name", name)
    if control:
        _check_name("control", control)
    if control == name:
        raise InputError(f"control {control} is the entry itself; give the name of another entry.")
    if not folders:
        raise InputError("no run is given; give the folder of at least one finished run.")
    parts = [_parts(folder) for folder in folders]
    _refuse_mixture(folders, parts)
    runs = [reopen(folder, guest=True) for folder in folders]
    seeds = [_seed(run) for run in runs]
    settings, data, _ = parts[0]
    first = runs[0]
    sources = (
        f"methods/{first.settings.method}.py",
        f"models/{first.settings.config.backbone}.py",
        f"{type(first).__module__.removeprefix('wsss_lib.').replace('.', '/')}.py",
    )
    return Entry(
        name=name,
        control=control,
        method=first.settings.method,
        preset=first.settings.preset,
        classes=("background", *first.data("val").classes),
        data=data,
        settings=settings,
        code=code_digest(*sources),
        sources=sources,
        seeds=tuple(sorted(seeds, key=lambda one: one.seed)),
    )


def _check_name(what: str, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise InputError(f"{what} {name!r} is unfit; use lower-case letters, digits and hyphens, such as my-method.")


def _parts(folder: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Return settings, data and seed of the run in a folder."""
    identity = read_config(folder)["identity"]
    if not (folder / "metrics.json").is_file():
        raise InputError(f"{folder} is not finished: it has no metrics.json; run its notebook or command to the end.")
    is_data = [part for part in identity if part.startswith(("data ", "pictures "))]
    left_out = {"seed", *is_data, *(part for part in identity if part.split(" ")[0] in _OTHER_RUNS)}
    settings = {part: value for part, value in identity.items() if part not in left_out}
    return settings, {part: identity[part] for part in is_data}, int(identity["seed"])


def _refuse_mixture(folders: Sequence[Path], parts: Sequence[tuple[dict[str, Any], dict[str, str], int]]) -> None:
    known: dict[int, Path] = {}
    for folder, (settings, data, seed) in zip(folders, parts, strict=True):
        if seed in known:
            raise InputError(f"{folder} has the seed {seed}, as {known[seed]} has; give runs of different seeds.")
        known[seed] = folder
        for what, here, there in (("data", data, parts[0][1]), ("settings", settings, parts[0][0])):
            other = next((part for part in {**here, **there} if here.get(part) != there.get(part)), None)
            if other is not None:
                raise InputError(
                    f"{folder} has other {what} than {folders[0]} ({other} is {here.get(other)!r} and "
                    f"{there.get(other)!r}); give runs that differ in their seed alone."
                )


def _seed(run: Run) -> Seed:
    metrics, result = read_json(run.folder / "metrics.json"), read_result(run.folder)
    scored = run.splits.with_masks
    if not scored:
        raise InputError(f"the data of {run.folder} has no masks; the leaderboard needs scores.")
    cams = run.cam_run if isinstance(run, RefinementRun) else run
    counts: dict[str, dict[str, np.ndarray]] = {split: {} for split in scored}
    if isinstance(cams, CamRun) and result.threshold is not None:
        for split, data in scored.items():
            confusions = image_confusions(cams.cams(split), data, result.threshold)
            counts[split]["CAM seed"] = _counts(confusions)
    names = {"CRF": _best_crf(metrics), "walk": "walk", "walk, CRF": "walk-crf"}
    _add_masks(counts, run, {stage: name for stage, name in names.items() if name}, scored)
    if result.network is not None:
        network = reopen(result.network, guest=True)
        _add_masks(counts, network, {"network": "segmentation", "network, CRF": "segmentation-crf"}, scored)
    rows: Mapping[str, Any] = metrics.get("cams", {})
    choice: dict[str, Any] = {}
    if isinstance(run, CamRun) and KeptEpochs(run.folder).numbers():
        choice = asdict(gain_of_choice(follow(run), "val" if "val" in scored else next(iter(scored))))
    return Seed(
        seed=result.seed,
        version=str(metrics["versions"]["wsss_lib"]),
        at=str(metrics["made"]["numbers"][-1]["at"]),
        device=str(metrics["device"]),
        seconds=round(result.seconds, 1),
        memory=result.memory,
        threshold=result.threshold,
        counts=counts,
        best_threshold={s: row["oracle"]["mean_iou"] - row["swept"]["mean_iou"] for s, row in rows.items()},
        choice=choice,
    )


def _best_crf(metrics: Mapping[str, Any]) -> str:
    """Return the name of the masks of the CRF that is best on ``train``; "" if there are none."""
    refined = metrics.get("refinements", {})
    rows: Mapping[str, Any] = refined.get("train") or next(iter(refined.values()), {})
    names = [name for name in rows if name.startswith("crf-")]
    return max(names, key=lambda name: refined.get("train", {}).get(name, {}).get("mean_iou") or -1.0, default="")


def _add_masks(
    counts: Mapping[str, dict[str, np.ndarray]], run: Run, names: Mapping[str, str], scored: Mapping[str, Dataset]
) -> None:
    for split, data in scored.items():
        for stage, name in names.items():
            store = run.masks(name, split)
            if all(image_id in store for image_id in data.ids):
                counts[split][stage] = _counts(mask_confusion(store, data, i) for i in range(len(data)))


def _counts(confusions: Iterable[Tensor]) -> np.ndarray:
    """Return ``(n, C, 3)`` counts from the confusion matrices of n pictures."""
    return np.stack([np.stack([c.diagonal().numpy(), c.sum(1).numpy(), c.sum(0).numpy()], -1) for c in confusions])


# ----------------------------------------------------------------------------------------------------------- the files


def write_entry(entry: Entry, folder: Path) -> Path:
    """Write an entry to ``NAME.json`` in a folder, in place of an earlier one of this name; return the path.

    Of each picture a row holds, for every class that occurs or is predicted, its number and its three counts.

    Raises:
        InputError: The control has no file there, or its data are other ones.
    """
    if entry.control:
        check_control(entry, read_entry(folder / f"{entry.control}.json"))
    content = {**asdict(entry), "seeds": [_to_rows(one) for one in entry.seeds]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{entry.name}.json"
    write_json(path, {"format": FORMAT, **content}, indent=None)
    return path


def check_control(entry: Entry, control: Entry) -> None:
    """Raise InputError if an entry cannot be paired with its control."""
    if entry.data != control.data:
        raise InputError(
            f"control {control.name} was made on other data than {entry.name}; give a control on the same."
        )
    if not {one.seed for one in entry.seeds} & {one.seed for one in control.seeds}:
        raise InputError(
            f"control {control.name} has no seed in common with {entry.name}; run the control with the same seeds."
        )


def _to_rows(one: Seed) -> dict[str, Any]:
    counts = {split: {stage: [_row(p) for p in c] for stage, c in s.items()} for split, s in one.counts.items()}
    return {**{name: getattr(one, name) for name in one.__dataclass_fields__}, "counts": counts}


def _row(picture: np.ndarray) -> list[int]:
    found = np.flatnonzero(picture.any(-1))
    return [int(value) for k in found for value in (k, *picture[k])]


def read_entry(path: Path) -> Entry:
    """Read an entry.

    Raises:
        InputError: The file is missing, damaged, incomplete or of another version.
    """
    content = read_json(path, "have it made again with wsss leaderboard add")
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT:
        raise InputError(
            f"{path} has the format {number}, and this version reads format {FORMAT}; make the file again."
        )
    try:
        fields = {name: content[name] for name in Entry.__dataclass_fields__}
        classes = tuple(fields["classes"])
        fields["classes"], fields["sources"] = classes, tuple(fields["sources"])
        fields["seeds"] = tuple(_from_rows(one, len(classes)) for one in content["seeds"])
        if fields["name"] != path.stem or not fields["seeds"]:
            raise ValueError
        return Entry(**fields)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise InputError(f"{path} is damaged or incomplete; make it again with wsss leaderboard add.") from None


def _from_rows(one: Mapping[str, Any], number: int) -> Seed:
    fields = {name: one[name] for name in Seed.__dataclass_fields__}
    counts = {}
    for split, stages in one["counts"].items():
        counts[split] = {stage: _from_pictures(rows, number) for stage, rows in stages.items()}
    return Seed(**{**fields, "counts": counts})


def _from_pictures(rows: Sequence[Sequence[int]], number: int) -> np.ndarray:
    counts = np.zeros((len(rows), number, 3), dtype=np.int64)
    for picture, row in zip(counts, rows, strict=True):
        values = np.asarray(row, dtype=np.int64).reshape(-1, 4)
        if (values < 0).any():
            raise ValueError
        picture[values[:, 0]] = values[:, 1:]
    return counts
