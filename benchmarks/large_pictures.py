"""Time and memory of large photographs: one picture of each size through all stages, in a process for each size.

The picture is a JPEG of blobs, its mask a PNG. Networks are MobileNetV2 with random weights. Maps are made at the
scales 0.5 to 2, plain and mirrored. Columns: seconds, and growth of the process's memory at its peak, in MiB, with the
networks. The row "training example" is what each worker of a loader needs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import answers, begin, forget_peak, machine, parser, peak_of, seconds
from PIL import Image

from wsss_lib.data.folder import load_folder
from wsss_lib.methods import affinitynet, cam, segmentation
from wsss_lib.methods.method import Method
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import make_fabric
from wsss_lib.stages.evaluate import score_cams, score_masks
from wsss_lib.stages.examples import LabelledImages, PseudoLabelled
from wsss_lib.stages.infer import infer
from wsss_lib.stages.refine import PowerBackgrounds, refine
from wsss_lib.stages.segment import infer_masks
from wsss_lib.stages.store import CamStore, MaskStore, ScoreStore
from wsss_lib.stages.walk import walk


def write_picture(root: Path, megapixels: float) -> None:
    """Write a folder with one picture of three to four, which shows two classes, and its mask."""
    rng = np.random.default_rng(0)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    size = (round(height * 4 / 3), height)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    blobs = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    blobs.resize(size, Image.Resampling.BILINEAR).save(root / "images" / "a.jpg", quality=90)
    cells = Image.fromarray(rng.integers(0, 3, (6, 8), dtype=np.uint8))
    cells.resize(size, Image.Resampling.NEAREST).save(root / "masks" / "a.png")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "labels.csv").write_text("image,labels\na.jpg,cat;dog\n")


def measure(megapixels: float, device: torch.device) -> dict[str, tuple[float, float]]:
    """Return seconds and MiB of every stage for a picture."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_picture(root / "data", megapixels)
        data = load_folder(root / "data", "all")
        fabric = make_fabric(device.type, 1, "32-true")
        torch.manual_seed(0)
        classifier = cam.CAM(cam.Config.preset("photos").replace(scales=(0.5, 1.0, 1.5, 2.0)), 2)
        affinity = affinitynet.AffinityNet(affinitynet.Config.preset("photos"), 2)
        final = segmentation.Segmentation(segmentation.Config.preset("photos"), 2)
        methods: tuple[Method, ...] = (classifier, affinity, final)
        for method in methods:
            for network in method.networks.values():
                network.to(device)
        normalise = classifier.backbone.normalisation
        context = Context(fabric, normalise)
        cams, masks = CamStore(root / "cams"), [MaskStore(root / "masks" / str(alpha)) for alpha in (4, 32)]
        walked, scores, own = ScoreStore(root / "walk"), ScoreStore(root / "scores"), MaskStore(root / "masks" / "own")
        example = LabelledImages(data, classifier.config.augmentation(), normalise)
        config = final.config
        labelled = PseudoLabelled(
            data, masks[0], config.augmentation(), config.colour_jitter, config.hue_jitter, normalise
        )
        stages: dict[str, Callable[[], object]] = {
            "training example": lambda: example(0, random.Random(0)),
            "maps at four scales, mirrored": lambda: infer(classifier, data, cams, context),
            "scores of the maps, 100 thresholds": lambda: score_cams(cams, data),
            "masks by a CRF, two powers": lambda: refine(data, PowerBackgrounds(cams, (4.0, 32.0)), masks, fabric),
            "scores of the masks": lambda: score_masks(masks[0], data),
            "random walk": lambda: walk(affinity, data, cams, walked, context),
            "final network: training example": lambda: labelled(0, random.Random(0)),
            "final network: masks": lambda: infer_masks(final, data, own, scores, set(), context),
        }
        return {stage: _measured(function, device) for stage, function in stages.items()}


def _measured(function: Callable[[], object], device: torch.device) -> tuple[float, float]:
    times: list[float] = []
    forget_peak()
    peak = peak_of(lambda: times.append(seconds(function, device)), device)
    return times[0], peak


def sizes(text: str) -> list[str]:
    """Read ``--megapixels``.

    Raises:
        SystemExit: The text is not a list of numbers from 0.01 to 170.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.replace(".", "", 1).isdecimal() and 0.01 <= float(part) <= 170 for part in parts):
        raise SystemExit(f"--megapixels must be numbers from 0.01 to 170, with commas such as 1,12, not {text!r}.")
    return parts


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=1)
    options.add_argument(
        "--megapixels", default="0.2,1,12,50", metavar="N,N", help="sizes, with commas (default: 0.2,1,12,50)"
    )
    return options.parse_args()


def main() -> None:
    """Measure every size in turns and print the table."""
    options = arguments()
    device = begin(options)
    if options.measure:
        print(json.dumps(measure(float(options.measure), device)))
        return
    chosen = sizes(options.megapixels)
    turns: list[dict[str, Any]] = [answers(chosen) for _ in range(options.repeats)]
    print(machine(device))
    print(f"\n| one picture of | {' | '.join(f'{size} megapixels' for size in chosen)} |\n|---{'|---' * len(chosen)}|")
    for stage in turns[0][chosen[0]]:
        cells = []
        for size in chosen:
            times, peaks = zip(*(turn[size][stage] for turn in turns), strict=True)
            cells.append(f"{statistics.median(times):.1f} s, {statistics.median(peaks):,.0f} MiB")
        print(f"| {stage} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
