"""Several runs on the same data, side by side."""

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
    "part": "of the activation on an object, % on its part",
    "peaks": "% of the peaks on it",
    "covered": "% of the body found",
    "own": "activation on own background, %",
    "other": "on other, %",
}


def compare(runs: Mapping[str, CamRun]) -> Comparison:
    """Train, infer and score several runs, as far as this is not done yet.

    Args:
        runs: The runs by name, on the same data.

    Returns:
        For every run its ``threshold``, see :func:`wsss_lib.runs.report.choose_threshold`, and at this threshold
        the mean IoU on each split that has masks; on the toy world also what :func:`part_focus` and
        :func:`context_leak` measure on ``val``. Empty without masks.
    """
    results: Comparison = {}
    for name, run in runs.items():
        if not run.is_trained:
            run.train(_silent)
        for split in run.splits.scored:
            run.infer(split)
        scores = {split: run.score(split) for split, data in run.splits.scored.items() if data.has_masks}
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
    """Report nothing."""


def comparison_table(comparison: Comparison) -> str:
    """Return the result of :func:`compare` as a Markdown table."""
    if not comparison:
        return "Without masks there is nothing to compare."
    columns = [name for name in _PERCENT if name in next(iter(comparison.values()))]
    lines = []
    for name, row in comparison.items():
        values = [f"{100 * row[column]:.1f}" for column in columns]
        lines.append([name, *values, f"{row['threshold']:.2f}"])
    return markdown_table(["", *(_PERCENT[name] for name in columns), "threshold"], lines)


def differences(one: CamRun, other: CamRun, comparison: Comparison, names: tuple[str, str]) -> Tensor:
    """Return by how much the first run's mean IoU is higher on every image of ``val``, ``(n,)``, each at its threshold.

    Args:
        one: A run.
        other: Another run on the same data.
        comparison: The result of :func:`compare`.
        names: Names of the two runs in the comparison.

    Returns:
        NaN for an image without a mask.
    """
    val = one.splits.scored["val"]
    if not val.has_masks:
        return torch.full((len(val),), torch.nan, dtype=torch.float64)
    scores = [
        score_images(run.cams("val"), val, comparison[name]["threshold"])
        for run, name in zip((one, other), names, strict=True)
    ]
    return scores[0] - scores[1]
