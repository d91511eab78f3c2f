"""Table of the results of many runs: the scores of CAM seed, CRF, walk and final network."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_lib.errors import InputError
from wsss_lib.methods.fields import Kind
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.parameters import COMMON, NOTEBOOKS, check_final_network, existing, read_values, refuse_unknown
from wsss_lib.runs.report import choose_masks
from wsss_lib.runs.run import Run
from wsss_lib.runs.settings import project_root
from wsss_lib.show.tables import markdown_table
from wsss_lib.stages.store import read_json

STAGES = ("CAM seed", "CRF", "walk", "walk, CRF", "network", "network, CRF")
"""Names of the results that a run may have, in the order of the columns."""


@dataclass(frozen=True)
class Result:
    """The results of one run.

    Attributes:
        folder: Folder of the run.
        seed: Random seed of the run.
        threshold: Background threshold of the CAM seeds, best on ``train`` if ``train`` has masks; None without masks.
        stages: Mean IoU in [0, 1] of each result that the run has scored, by split and by name, see `STAGES`.
        seconds: Sum of the seconds of all stages, with those of the final network.
        memory: Peak memory in MiB.
        network: Folder of the final network, the best on ``train`` if there are several; None if there is none.
    """

    folder: Path
    seed: int
    threshold: float | None
    stages: Mapping[str, Mapping[str, float]]
    seconds: float
    memory: float
    network: Path | None = None


def find_results(runs: Path, preset: str, variant: str = "") -> dict[str, list[Result]]:
    """Return the results of all finished runs with the settings of a preset, by notebook and ordered by random seed.

    Args:
        runs: Folder with a folder for each notebook, such as ``runs``.
        preset: Name of the preset.
        variant: Setting, other than the random seed, in which the runs differ from the preset, as in the names of their
            folders, such as ``precision=bf16-mixed``; "" for none.

    Raises:
        InputError: A ``metrics.json`` is damaged or of another version.
    """
    found: dict[str, list[Result]] = {}
    wanted = f"{preset}-{variant}" if variant else preset
    for path in sorted(runs.glob("[0-9]*/*/metrics.json")):
        if re.sub(r"-seed=\d+", "", path.parent.name) == wanted:
            found.setdefault(path.parent.parent.name, []).append(read_result(path.parent))
    return {name: sorted(results, key=lambda result: result.seed) for name, results in found.items()}


def read_result(folder: Path) -> Result:
    """Return the results of the run in a folder.

    Raises:
        InputError: Its ``metrics.json`` is damaged or of another version.
    """
    path = folder / "metrics.json"
    metrics = read_json(path)
    try:
        networks = {one.parent: read_json(one) for one in sorted(folder.glob("segmentation/*/metrics.json"))}
        best = max(networks, key=lambda one: _on_train(networks[one]), default=None)
        cams = _cam_scores(metrics)
        last = sum(sum(network["seconds"].values()) for network in networks.values())
        return Result(
            folder=folder,
            seed=int(metrics["seed"]),
            threshold=next(iter(cams.values()))["swept"]["threshold"] if cams else None,
            stages=_stages(metrics, networks[best] if best else None),
            seconds=sum(metrics["seconds"].values()) + last,
            memory=max(one["peak_memory_mib"] for one in (metrics, *networks.values())),
            network=best,
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise InputError(f"{path} is of another version; run the notebook of this run again to its end.") from None


def _stages(metrics: Mapping[str, Any], network: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Return the scores by split and name. A score of null, whose masks ignore all pixels, is left out."""
    refined: Mapping[str, Mapping[str, Any]] = metrics.get("refinements", {})
    beginnings = {"CRF": "crf-", "walk": "walk", "walk, CRF": "walk-crf"}
    found: dict[str, dict[str, Any]] = {
        split: {"CAM seed": rows["swept"]["mean_iou"]} for split, rows in _cam_scores(metrics).items()
    }
    for stage, beginning in beginnings.items():
        train = refined.get("train") or next(iter(refined.values()), {})
        names = [name for name in train if (name.startswith(beginning) if stage == "CRF" else name == beginning)]
        if names:
            best = choose_masks({name: (refined.get("train", {}).get(name) or {}).get("mean_iou") for name in names})
            for split, rows in refined.items():
                found[split][stage] = rows[best]["mean_iou"]
    for split, rows in network["masks"].items() if network else ():
        found[split]["network"] = rows["segmentation"]["mean_iou"]
        found[split]["network, CRF"] = rows["segmentation-crf"]["mean_iou"]
    return {split: {s: float(v) for s, v in row.items() if v is not None} for split, row in found.items()}


def _cam_scores(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the scores of the CAM seeds by split; wsss_lib 0.1.0 called them ``seeds``."""
    scores: Mapping[str, Any] = metrics["cams"] if "cams" in metrics else metrics["seeds"]
    return scores


def _score(row: Mapping[str, Any] | None) -> float:
    mean = row["mean_iou"] if row else None
    return -1.0 if mean is None else mean


def _on_train(network: Mapping[str, Any]) -> float:
    rows = network["masks"].get("train")
    return _score(rows["segmentation"] if rows else None)


def open_first(results: Mapping[str, Sequence[Result]]) -> dict[str, Run]:
    """Open the first run of each notebook; if a run cannot be opened, print the reason.

    Args:
        results: Result of :func:`find_results`.
    """
    opened = {}
    for name, runs in results.items():
        try:
            opened[name] = reopen(runs[0].folder, guest=True)
        except InputError as error:
            print(f"{name} is left out: {str(error).replace(f'{project_root()}/', '')}")
    return opened


def results_table(results: Mapping[str, Sequence[Result]], split: str) -> str:
    """Return the results as a Markdown table: mean and standard deviation of each stage in percent, and number of runs.

    Args:
        results: Result of :func:`find_results`.
        split: Name of the split, ``train`` or ``val``.
    """
    shown = [s for s in STAGES if any(s in r.stages.get(split, {}) for runs in results.values() for r in runs)]
    head = ["", "runs", *shown, "threshold", "minutes", "peak MiB"]
    lines = []
    for name, runs in results.items():
        values = [[r.stages[split][stage] for r in runs if stage in r.stages.get(split, {})] for stage in shown]
        thresholds = sorted(f"{r.threshold:.2f}" for r in runs if r.threshold is not None)
        ends = dict.fromkeys([*thresholds[:1], *thresholds[-1:]])  # the lowest and the highest
        row = [f"`{name}`", str(len(runs)), *map(_spread, values), " to ".join(ends)]
        row += [f"{statistics.mean(r.seconds for r in runs) / 60:.1f}", f"{max(r.memory for r in runs):.0f}"]
        lines.append(row)
    return markdown_table(head, lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def missing(results: Mapping[str, Sequence[Result]], preset: str) -> list[str]:
    """Return a line for each notebook without a result, with the command that makes one."""
    data = "" if preset == "toy" else " -p data_root FOLDER"
    return [
        f"no run of {name}: papermill notebooks/{name}.ipynb runs/{name}.ipynb -p preset {preset}{data}"
        for name in NOTEBOOKS.values()
        if name not in results
    ]


def check_parameters(namespace: Mapping[str, Any]) -> tuple[Path, Path | None]:
    """Check the parameters of ``06_compare``.

    Args:
        namespace: ``globals()`` of the notebook.

    Returns:
        Folder of the runs, and file with the weights for the final network; None for the default file.

    Raises:
        InputError: A parameter is unknown, of the wrong type or out of range.
    """
    kinds = {name: COMMON[name] for name in ("preset", "backbone", "weights", "segmentation")}
    kinds |= {"variant": Kind(str), "runs": Kind(str), "images": Kind(int)}
    refuse_unknown(namespace, kinds)
    values = read_values(namespace, kinds)
    backbone, file = values["backbone"], existing("weights", values["weights"])
    if values["segmentation"]:
        check_final_network(values["preset"], backbone, file is not None)
    elif backbone or file:
        name = "backbone" if backbone else "weights"
        raise InputError(f"{name} applies to the final network, which is not trained; add segmentation=True.")
    folder = Path(values["runs"]).expanduser() if values["runs"] else project_root() / "runs"
    if values["runs"] and not folder.is_dir():
        raise InputError(f"runs {folder} is not a folder; give the folder with the runs of the notebooks.")
    return folder, file
