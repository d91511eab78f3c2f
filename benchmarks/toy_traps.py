"""Effect of each trap of the toy world on plain CAM: the baseline, trained in worlds that lack one trap.

By default only the most important trap is removed, and training is short. `--worlds all --epochs 0` runs the whole
training of the preset in each world and takes some minutes.

Columns: mAP of the classifier on val; share of the activation on an object, and of the peaks, that is on the part which
tells the class (14 % of the area); mean activation on a class's own and on other background; share of the training
images with all labels right, with and without the frequency pattern; mIoU of the CAM seed on val at the threshold that
is best on train.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from common import table

from wsss_lib.data.toy import ToyOptions
from wsss_lib.methods.cam import Config
from wsss_lib.ops.metrics import average_precision, class_mean
from wsss_lib.results.diagnose import context_leak, part_focus, shortcut_reliance
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.settings import Settings

WORLDS = {
    "all traps": ToyOptions(),
    "whole bodies differ": ToyOptions(part=False),
    "no context": ToyOptions(context=0.0),
    "no shortcut": ToyOptions(shortcut=0.0),
    "no clutter": ToyOptions(clutter=0.0),
}
DEFAULT = ["all traps", "whole bodies differ"]


def measure(options: ToyOptions, seed: int, epochs: int, folder: Path) -> list[str]:
    """Train the baseline in a world and return the cells of its row."""

    class ConfigOfWorld(Config):
        toy_world = options

    config = ConfigOfWorld.preset("toy")
    run = CamRun(Settings("00_cam", "cam", "toy", config.replace(epochs=epochs or config.epochs), folder, seed=seed))
    world = run.splits.scored
    run.train(report=lambda _: None)
    scores = {}
    for split in world:
        run.infer(split)
        scores[split] = run.score(split)
    val, best = world["val"], scores["train"].best
    focus = part_focus(run.cams("val"), val, scores["train"].thresholds[best])
    leak = context_leak(run.cams("val"), val)
    reliance = shortcut_reliance(run.classify, world["train"])
    return [
        f"{100 * class_mean(average_precision(run.classify(val), val.labels)):.1f}",
        f"{100 * focus.share:.0f} / {100 * focus.peak:.0f}",
        f"{leak.own:.2f} / {leak.other:.2f}",
        f"{100 * reliance.accuracy:.0f} / {100 * reliance.accuracy_without:.0f}",
        f"{100 * scores['val'].mean_iou[best]:.1f}",
    ]


def main() -> None:
    """Print one row for each world and random seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="number of trainings in each world")
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of each training, 0 for the preset's (default: 4)"
    )
    parser.add_argument(
        "--worlds",
        nargs="+",
        choices=["all", *WORLDS],
        default=DEFAULT,
        help=f"worlds to train in (default: {', '.join(DEFAULT)})",
    )
    arguments = parser.parse_args()
    worlds = list(WORLDS) if "all" in arguments.worlds else arguments.worlds
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in worlds:
            for seed in range(arguments.seeds):
                cells = measure(WORLDS[name], seed, arguments.epochs, Path(folder) / name / str(seed))
                rows.append([name, str(seed), *cells])
    heads = [
        "world",
        "seed",
        "mAP %",
        "part: share / peak %",
        "ground: own / other",
        "right: with / without %",
        "mIoU %",
    ]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
