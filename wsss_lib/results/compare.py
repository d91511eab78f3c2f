"""Comparison of several runs on the same data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wsss_lib.data.toy import ToyWorld
from wsss_lib.results.diagnose import context_leak, part_focus
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.report import choose_threshold
from wsss_lib.show.tables import markdown_table
from wsss_lib.stages.evaluate import score_images

Comparison = dict[str, dict[str, float]]

_PERCENT = {
    "train": "mIoU % train",
    "val": "mIoU % val",
    "boundary": "mIoU % val, near boundaries",
    "part": "activation on the part, %",
    "peaks": "peaks on the part, %",
    "covered": "body found, %",
    "own": "activation on own background, %",
    "other": "activation on other background, %",
}


def compare(runs: Mapping[str, CamRun]) -> Comparison:
    """Train, infer and score several runs; results that exist already are reused.

    Args:
        runs: Runs on the same data, by name.

    Returns:
        Scores of each run: its ``threshold``, see :func:`wsss_lib.runs.report.choose_threshold`, and at this threshold
        the mean IoU on each split that has masks; on the toy world also the results of :func:`part_focus` and
        :func:`context_leak` on ``val``. Empty without masks.
    """
    results: Comparison = {}
    for name, run in runs.items():
        if not run.is_trained:
            run.train(_silent)
        for split in run.splits.scored:
            run.infer(split)
        scores = {split: run.score(split) for split in run.splits.with_masks}
        if not scores:
            continue
        threshold, _ = choose_threshold(scores)
        reached = {split: float(s.mean_iou[s.position(threshold)]) for split, s in scores.items()}
        results[name] = {"threshold": threshold, **reached}
        world = run.splits.scored["val"]
        if isinstance(world, ToyWorld):
            focus, leak = part_focus(run.cams("val"), world, threshold), context_leak(run.cams("val"), world)
            results[name] |= {"part": focus.share, "peaks": focus.peak, "covered": focus.covered}
            results[name] |= {"own": leak.own, "other": leak.other}
    return results


def _silent(row: Mapping[str, Any]) -> None:
    """Ignore the report of an epoch."""


def comparison_table(comparison: Comparison) -> str:
    """Return the result of :func:`compare` as a Markdown table."""
    if not comparison:
        return "The data has no masks, so the runs cannot be compared."
    columns = [name for name in _PERCENT if name in next(iter(comparison.values()))]
    lines = []
    for name, row in comparison.items():
        values = [f"{100 * row[column]:.1f}" for column in columns]
        lines.append([name, *values, f"{row['threshold']:.2f}"])
    return markdown_table(["", *(_PERCENT[name] for name in columns), "threshold"], lines)


def differences(one: CamRun, other: CamRun, comparison: Comparison, names: tuple[str, str]) -> Tensor:
    """Return the mean IoU of the first run minus that of the second, for each image of ``val``.

    Args:
        one: First run.
        other: Second run, on the same data.
        comparison: Result of :func:`compare`, with the threshold of each run.
        names: Names of the two runs in the comparison.

    Returns:
        Differences ``(n,)`` float64; NaN for an image without a mask.
    """
    val = one.splits.scored["val"]
    if not val.has_masks:
        return torch.full((len(val),), torch.nan, dtype=torch.float64)
    scores = [
        score_images(run.cams("val"), val, comparison[name]["threshold"])
        for run, name in zip((one, other), names, strict=True)
    ]
    return scores[0] - scores[1]
