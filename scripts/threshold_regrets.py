"""Measure how far the background thresholds that are chosen without masks are from the best ones.

python scripts/threshold_regrets.py RUN [RUN ...] > table.md
python scripts/threshold_regrets.py --agree RUN RUN [RUN ...]     # also the agreement with the maps of the next run

Every candidate chooses on the pictures of `train`, without their masks. Its regret on a split is the mean IoU of the
seeds at the threshold that is best on the split (among 0.00, 0.01, ..., 0.99) less the mean IoU at the chosen one. The
runs need stored maps of both splits; nothing is written into their folders. Against the fixed threshold, a candidate
wins on a run if its regret on `val` is lower.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

from wsss_lib.results.choose import Candidate, candidates
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.report import FIXED_THRESHOLD
from wsss_lib.show.tables import markdown_table
from wsss_lib.stages.evaluate import score_cams

FIXED = f"fixed, {FIXED_THRESHOLD}"
TRAIN = "best on train (needs masks)"


def open_cams(folder: Path) -> CamRun:
    """Open a run with maps for reading."""
    run = reopen(folder, guest=True)
    assert isinstance(run, CamRun), f"{folder} is not a run with class activation maps"
    return run


def regrets(run: CamRun, other: CamRun | None, sample: int) -> dict[str, tuple[float, float, float]]:
    """Return, by candidate, the chosen threshold and its regrets on ``train`` and ``val`` in points of mIoU."""
    train = run.data("train")
    found = candidates(run.cams("train"), train, None if other is None else other.cams("train"), sample)
    scores = {split: score_cams(run.cams(split), run.data(split)) for split in ("train", "val")}
    best = scores["train"].thresholds[scores["train"].best]
    rows = {}
    for one in (Candidate(FIXED, FIXED_THRESHOLD), Candidate(TRAIN, best), *found):
        losses = [
            100 * float(score.mean_iou[score.best] - score.mean_iou[score.position(one.threshold)])
            for score in scores.values()
        ]
        rows[one.name] = (one.threshold, losses[0], losses[1])
    return rows


def main() -> None:
    """Read the arguments, measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs with maps of train and val")
    parser.add_argument(
        "--agree", action="store_true", help="compare the maps of every run with those of the next (last with first)"
    )
    parser.add_argument("--sample", type=int, default=50, metavar="N", help="pictures with a CRF (default: 50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers to a file")
    options = parser.parse_args()
    measured = {}
    for folder, following in zip(options.runs, [*options.runs[1:], options.runs[0]], strict=True):
        other = open_cams(following) if options.agree else None
        measured[str(folder)] = regrets(open_cams(folder), other, options.sample)
        if options.json is not None:
            options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    lines = []
    by_name = defaultdict(list)
    for folder, rows in measured.items():
        for name, (threshold, train, val) in rows.items():
            lines.append([folder, name, f"{threshold:.2f}", f"{train:.2f}", f"{val:.2f}"])
            by_name[name].append((train, val, rows[FIXED][2]))
    print(markdown_table(["run", "threshold chosen by", "threshold", "regret train", "regret val"], lines), end="\n\n")
    summary = []
    for name, losses in by_name.items():
        trains, vals, fixed = zip(*losses, strict=True)
        wins = sum(val < there for val, there in zip(vals, fixed, strict=True))
        summary.append(
            [name, f"{mean(trains):.2f}", f"{mean(vals):.2f}", f"{max(vals):.2f}", f"{wins} of {len(losses)}"]
        )
    head = ["threshold chosen by", "mean regret train", "mean regret val", "greatest regret val", "better than fixed"]
    print(markdown_table(head, summary))


if __name__ == "__main__":
    main()
