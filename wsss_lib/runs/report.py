"""What a run leaves for others to read: ``metrics.json``, and tables."""

from __future__ import annotations

import math
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_lib.data.names import listed
from wsss_lib.errors import printable
from wsss_lib.ops.metrics import average_precision, class_mean
from wsss_lib.runs.run import Run
from wsss_lib.runs.settings import project_root
from wsss_lib.show.tables import markdown_table
from wsss_lib.stages.evaluate import CamScores
from wsss_lib.stages.provenance import device_name, maker, versions
from wsss_lib.stages.store import read_json, write_json
from wsss_lib.stages.train import smaller_batches

FIXED_THRESHOLD = 0.2
"""The background score of AffinityNet's published CAM row, chosen without looking at masks."""

FIXED_ALPHA = 8.0
"""The power of the background in a CRF where no masks say which power is best; docs/choices.md has its regrets."""


def peak_memory(device: torch.device) -> int:
    """Return the most memory in use so far, in MiB: of PyTorch on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) // 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def choose_threshold(scores: Mapping[str, CamScores]) -> tuple[float, str]:
    """Return the background threshold of all splits, and how it was chosen.

    It is the best on ``train`` or, if that has no masks, the fixed one: nothing is chosen on the split that is reported
    last.
    """
    train = scores.get("train")
    if train is None or not train.confusions.any():
        return FIXED_THRESHOLD, "fixed"
    return train.thresholds[train.best], "best on train"


def choose_masks(scores: Mapping[str, float | None]) -> str:
    """Return the name of the masks that count among those that one refinement has made.

    They are the best. If there are no scores, they are those of the CRF whose power is nearest to the fixed one, as a
    ratio; the first of equals.

    Args:
        scores: Mean IoU on ``train``, or None, by name, such as ``crf-8``; not empty. Only a CRF has several.
    """
    known = {name: score for name, score in scores.items() if score is not None}
    if known:
        return max(known, key=known.__getitem__)
    return min(scores, key=_distance_from_fixed)


def _distance_from_fixed(name: str) -> float:
    """Return the logarithm of the ratio between the power in a name like ``crf-8`` and the fixed one, without sign."""
    power = re.fullmatch(r"crf-(\d*\.?\d+)", name)
    return abs(math.log(float(power[1]) / FIXED_ALPHA)) if power and float(power[1]) > 0 else math.inf


def cam_summaries(scores: Mapping[str, CamScores]) -> dict[str, dict[str, Any]]:
    """Return, for every split, the scores at three thresholds, each with how it was chosen.

    ``fixed`` is chosen without masks. ``swept`` is that of :func:`choose_threshold`. ``oracle`` is the best one on the
    split itself, as the papers report it.
    """
    threshold, how = choose_threshold(scores)
    return {
        split: {
            "fixed": score.summary(score.position(FIXED_THRESHOLD), "fixed"),
            "swept": score.summary(score.position(threshold), how),
            "oracle": score.summary(score.best, f"best on {split}"),
        }
        for split, score in scores.items()
    }


def refinement_table(
    results: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    stages: Mapping[str, str],
    seconds: Mapping[str, float],
) -> str:
    """Return the scores of masks and how long they took as a Markdown table.

    Args:
        results: Results of :func:`wsss_lib.stages.evaluate.confusion_summary`, by split and name.
        names: Names of the results to show, each with its title in the table.
        stages: Stages that made the masks, by name of the result.
        seconds: Seconds of every stage, as ``"<stage> <split>"``.
    """
    splits = list(results)
    last = splits[-1]
    head = ["", *(f"mIoU % {split}" for split in splits), f"precision % {last}", f"recall % {last}"]
    head += [f"seconds {split}" for split in splits]
    lines = []
    for name, title in names.items():
        rows = [results[split][name] for split in splits]
        percent = [f"{100 * row['mean_iou']:.1f}" for row in rows]
        percent += [f"{100 * rows[-1][f'mean_{column}']:.1f}" for column in ("precision", "recall")]
        times = [f"{seconds.get(f'{stages[name]} {split}', float('nan')):.0f}" for split in splits]
        lines.append([title, *percent, *times])
    return markdown_table(head, lines)


def network_table(results: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float]) -> str:
    """Return the scores of the final segmentation network as a Markdown table.

    Args:
        results: Result of :meth:`wsss_lib.runs.segmentation.SegmentationRun.complete`; not empty.
        seconds: Seconds of the network's stages.
    """
    names = {"segmentation": "network", "segmentation-crf": "network, then CRF"}
    return refinement_table(results, names, {"segmentation": "inference", "segmentation-crf": "crf"}, seconds)


def ranking_summary(logits: Tensor, data_labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return how well image-level labels are recognised: average precision per class, and its mean.

    Args:
        logits: ``(n, K)`` float.
        data_labels: ``(n, K)``, 1 where an image shows a class.
        classes: The names of the K classes.
    """
    precisions = average_precision(logits, data_labels)
    return {
        "mean_average_precision": float(class_mean(precisions)),
        "classes": {name: float(value) for name, value in zip(classes, precisions, strict=True)},
    }


def write_metrics(
    run: Run, scores: Mapping[str, CamScores], classification: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Write ``metrics.json`` into a run's folder and return what it says.

    Args:
        run: The run.
        scores: Scores of the CAM seeds, by split; empty without masks.
        classification: Results of :func:`ranking_summary`, by split.
        more: Other measurements of a notebook, as plain values.
    """
    settings, made = run.settings, made_by(run)
    metrics = {
        "notebook": settings.notebook,
        "method": settings.method,
        "preset": settings.preset,
        "seed": settings.seed,
        "limit": settings.limit,
        "parameters": settings.config.to_dict(),
        "precision": settings.precision,
        "device": device_name(run.fabric.device),
        "devices": settings.devices,
        "versions": _versions(run, made),
        "made": made,
        "seconds": run.seconds,
        "peak_memory_mib": peak_memory(run.fabric.device),
        "data": {
            name: {"name": split.name, "images": len(split), "masks": len(split.masked)}
            for name, split in run.splits.scored.items()
        },
        "cams": cam_summaries(scores) if scores else {},
        "classification": dict(classification),
        "doubts": [*doubts(run), *unseen_classes(run, scores)],
        **more,
    }
    with run.working():
        write_json(run.folder / "metrics.json", metrics)
    return metrics


def made_by(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return when, with which versions and on which device each part of a run was made.

    ``training`` is a list, since several versions may have trained a run, each from its ``epoch`` on. The folders of
    maps, scores and masks have such lists, too. ``numbers`` are the scores: they are counted when this is written.
    """
    stores = {name: record.get("made", []) for name, record in run.place.store_records().items()}
    training = run.training_record.read().get("made", [])
    return {"training": training, **stores, "numbers": [maker(run.fabric.device)]}


def _versions(run: Run, made: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Return the versions that trained a run last, else those that made its first maps."""
    path = run.folder / "metrics.json"
    if not made["training"] and run.place.is_old and path.is_file():
        return dict(read_json(path).get("versions", {}))  # runs of format 1 say so nowhere else
    return dict(next(parts for parts in made.values() if parts)[-1]["versions"])


def describe(run: Run) -> str:
    """Return what runs, on what and with what, in a few lines, and what makes its numbers doubtful."""
    settings, config, training = run.settings, run.settings.config, run.splits.fit
    options = " ".join(f"{name} {value}" for name, value in config.backbone_options.items())
    data = ", ".join(f"{name} {len(split)}" for name, split in run.splits.scored.items())
    return "\n".join(
        [
            f"preset {settings.preset}, seed {settings.seed}, backbone {config.backbone} {options}".rstrip(),
            f"device {device_name(run.fabric.device)}, devices {settings.devices}, precision {settings.precision}",
            f"training on {training.name}: {len(training)} images, {len(training.classes)} classes",
            f"maps for {data} images",
            f"files in {relative(run.folder)}",
            ", ".join(f"{name} {number}" for name, number in versions().items()),
            *(f"note: {line}" for line in doubts(run)),
        ]
    )


def doubts(run: Run) -> list[str]:
    """Return what a reader of a run's numbers has to know about its data, one sentence each.

    Args:
        run: The run.
    """
    settings, images, found = run.settings, len(run.splits.fit), list(run.splits.doubts)
    if settings.checkpoint is None:  # else nothing is trained
        smaller = smaller_batches(settings.config.batch_size, images, settings.devices)
        found += [smaller] if smaller else []
    train, val = run.splits.scored["train"], run.splits.scored["val"]
    if val.has_masks and not train.has_masks:
        found.append(f"train has no masks; the background threshold is {FIXED_THRESHOLD}, not the best on train.")
    return found


def unseen_classes(run: Run, scores: Mapping[str, CamScores]) -> list[str]:
    """Return a sentence for every split whose labels name a class that none of its masks shows.

    Args:
        run: The run.
        scores: Scores of the CAM seeds, by split.
    """
    lines = []
    for split, score in scores.items():
        labelled = run.data(split).labels.bool().any(0)
        missing = labelled & (score.confusions[0].sum(1)[1:] == 0)
        if missing.any():
            names = listed([score.classes[k + 1] for k in missing.nonzero().flatten().tolist()])
            lines.append(f"Labels of {split} name {names}, but no mask of {split} shows a pixel of it.")
    return lines


def relative(path: Path) -> str:
    """Return a path, to be printed, as seen from the project's root, if it lies in there."""
    root = project_root()
    return printable(path.relative_to(root) if path.is_relative_to(root) else path)


def cam_table(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the result of :func:`cam_summaries` as a Markdown table."""
    lines = []
    for split, rows in summaries.items():
        for row in {row["threshold_chosen"]: row for row in rows.values()}.values():
            values = [f"{100 * row[f'mean_{name}']:.1f}" for name in ("iou", "precision", "recall")]
            lines.append([split, f"{row['threshold']:.2f}", row["threshold_chosen"], *values])
    return markdown_table(["split", "threshold", "chosen", "mIoU %", "precision %", "recall %"], lines)
