"""A whole pipeline over a data set: time and memory of each stage, and their growth with the number of images.

The data are a folder of pictures (preset `photos`): JPEGs of 64 x 64 pixels, masks, `labels.csv`. The toy world draws
200 of them; larger numbers repeat these pictures under other names. The files have just been written, so they are read
from the system's cache, but they are decoded whenever they are needed. Settings are those of the preset `toy` with its
small MobileNetV2, its small ResNet-101 for the final network, one epoch of each training, and maps at two scales. All
stages run in one process, unless `--workers` is set. Each number of images is measured in a separate process.

Stages that open a run read lists, labels and results of earlier runs; the final network's stage reads all its masks.
The first stage that uses a network also builds it. This time counts, and has an effect if there are few images.

Columns, for each number of images: seconds, median of the turns; images per second; MiB: peak of the resident memory of
the process during the stage, without its workers (on other systems than Linux, until the end of the stage). Then:
  kB/image    files that the stage writes, in 10^3 bytes, at the largest number
  per image   time per image at the largest number over that at the smallest; 1 is linear
The last row has the whole pipeline: sums, and the greatest memory.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from common import answers, begin, forget_peak, machine, megabytes, parser, resident_peak, seconds, table

from wsss_lib.data.files import write_mask
from wsss_lib.data.toy import ToyOptions, ToyWorld
from wsss_lib.methods import load_method
from wsss_lib.methods.method import Config
from wsss_lib.runs.affinitynet import AffinityNetRun
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.segmentation import SegmentationRun
from wsss_lib.runs.settings import Settings

SIDE = 64
"""Side of the pictures, in pixels."""
DISTINCT = 200
"""Number of pictures that are drawn."""
LEAST = 16
"""Number of images in a batch."""
VAL = 4
"""Number of images of the split `val`, on which nothing is measured."""

T = TypeVar("T")


@dataclass
class Meter:
    """Measurements of stages, one after the other.

    Attributes:
        folder: Folder that the stages write to.
        device: Device on which the stages compute.
        rows: Measured rows: name of the stage, seconds, MiB, 10^6 bytes.
    """

    folder: Path
    device: torch.device
    rows: list[tuple[str, float, float, float]] = field(default_factory=list)

    def __call__(self, stage: str, function: Callable[[], T]) -> T:
        """Measure a stage and return what it returns."""
        results: list[T] = []
        before = megabytes(self.folder)
        forget_peak()
        time = seconds(lambda: results.append(function()), self.device)
        self.rows.append((stage, time, resident_peak(), megabytes(self.folder) - before))
        return results[0]


def write_photographs(root: Path, count: int) -> None:
    """Write ``count`` pictures of the split ``train`` and a few of ``val``, with masks and labels."""
    world = ToyWorld("train", min(DISTINCT, count + VAL), options=ToyOptions(size=SIDE))
    pictures, masks, labels = [], [], []
    for i, image_id in enumerate(world.ids):
        jpeg, png = io.BytesIO(), root / f"{image_id}.png"
        world.image(i).save(jpeg, format="JPEG", quality=90)
        write_mask(png, world.mask(i))
        pictures.append(jpeg.getvalue())
        masks.append(png.read_bytes())
        labels.append(";".join(world.classes[k] for k in world.labels[i].nonzero().flatten()))
        png.unlink()
    (root / "images").mkdir()
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("\n".join(world.classes))
    with (root / "labels.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("image", "labels", "split"))
        for i in range(count + VAL):
            name, which = f"image_{i:06d}", i % len(world)
            (root / "images" / f"{name}.jpg").write_bytes(pictures[which])
            (root / "masks" / f"{name}.png").write_bytes(masks[which])
            rows.writerow((f"{name}.jpg", labels[which], "train" if i < count else "val"))


def config_of(method: str) -> Config:
    """Return the settings of the preset ``toy``, for one epoch with light networks on small pictures."""
    backbone = "" if method == "segmentation" else "mobilenet_v2"
    config: Config = load_method(method).Config.preset("toy", backbone).replace(epochs=1, crop_size=SIDE)
    if method != "cam":
        return config
    return config.replace(min_long_side=SIDE, max_long_side=SIDE, scales=(1.0, 0.5))


def silent(_row: object) -> None:
    """Ignore the report of an epoch."""


def measure(count: int, options: argparse.Namespace, device: torch.device) -> list[tuple[str, float, float, float]]:
    """Run the pipeline over the given number of images and return the rows of a :class:`Meter`."""
    with tempfile.TemporaryDirectory() as name:
        data, folder = Path(name) / "data", Path(name) / "runs"
        data.mkdir()
        write_photographs(data, count)
        meter = Meter(folder, device)
        configs = {method: config_of(method) for method in ("cam", "affinitynet", "segmentation")}
        settings = Settings(
            "00_cam",
            "cam",
            "photos",
            configs["cam"],
            folder / "cam",
            data_root=data,
            accelerator=device.type,
            workers=options.workers,
        )

        run = meter("CAM: open", lambda: CamRun(settings))
        meter("CAM: train", lambda: run.train(silent))
        meter("CAM: maps", lambda: run.infer("train"))
        meter("CAM: score at 100 thresholds", lambda: run.score("train"))
        stores = meter("CAM: masks by a CRF, two alphas", lambda: run.refine("crf", "train"))
        meter("CAM: score both", lambda: run.score_masks(stores, "train"))

        refining = replace(
            settings,
            notebook="01_affinitynet",
            method="affinitynet",
            config=configs["affinitynet"],
            folder=folder / "affinitynet",
            cams=run.folder,
        )
        affinity = meter("AffinityNet: open", lambda: AffinityNetRun(refining))
        meter("AffinityNet: labels by a CRF", affinity.label)
        meter("AffinityNet: train", lambda: affinity.train(silent))
        meter("AffinityNet: walk", lambda: affinity.infer("train"))
        walked = meter("AffinityNet: masks", lambda: affinity.refine("walk", "train"))

        final = replace(
            settings,
            method="segmentation",
            config=configs["segmentation"],
            folder=folder / "segmentation",
            pseudo_masks=walked["walk"].folder,
        )
        last = meter("final network: open", lambda: SegmentationRun(final))
        meter("final network: train", lambda: last.train(silent))
        meter("final network: masks", lambda: last.infer("train"))
        return meter.rows


def rows_of(results: dict[int, list[list[tuple[str, float, float, float]]]]) -> list[list[str]]:
    """Return the rows of the table from the measurements of all turns, by number of images."""
    counts = list(results)
    smallest, largest = min(counts), max(counts)
    stages = [row[0] for row in results[largest][0]]
    columns: dict[int, list[tuple[float, float, float]]] = {}
    for count, turns in results.items():
        by_stage = [list(zip(*(turn[i][1:] for turn in turns), strict=True)) for i in range(len(stages))]
        medians = [(statistics.median(times), max(peaks), written[0]) for times, peaks, written in by_stage]
        times, peaks, written = zip(*medians, strict=True)
        columns[count] = [*medians, (sum(times), max(peaks), sum(written))]
    rows = []
    for i, stage in enumerate([*stages, "all"]):
        row = [stage]
        for count in counts:
            time, peak, _ = columns[count][i]
            row += [f"{time:.1f}", f"{count / time:,.0f}", f"{peak:.0f}"]
        per_image = [columns[count][i][0] / count for count in (largest, smallest)]
        rows.append([*row, f"{1000 * columns[largest][i][2] / largest:.1f}", f"{per_image[0] / per_image[1]:.2f}x"])
    return rows


def numbers(text: str) -> list[int]:
    """Read ``--images``.

    Raises:
        SystemExit: The text is not a list of numbers that can be measured.
    """
    parts = text.split(",")
    counts = [int(part) for part in parts if part.strip().isdecimal()]
    if len(counts) < len(parts) or min(counts) < LEAST or len(set(counts)) < len(counts):
        raise SystemExit(
            f"--images must be different whole numbers from {LEAST}, with commas such as 100,1000, not {text!r}."
        )
    return counts


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=1)
    options.add_argument(
        "--images", default="100,1000", metavar="N,N", help="numbers of images, with commas (default: 100,1000)"
    )
    options.add_argument("--workers", type=int, default=0, help="processes that load and refine (default: 0)")
    chosen = options.parse_args()
    chosen.images = numbers(chosen.images)
    if chosen.workers < 0:
        raise SystemExit("--workers must be at least 0.")
    return chosen


def main() -> None:
    """Measure every number of images in turns and print the table."""
    options = arguments()
    device = begin(options)
    if options.measure:
        print(json.dumps(measure(int(options.measure), options, device)))
        return
    results: dict[int, list] = {count: [] for count in options.images}
    for _ in range(options.repeats):
        for count, turns in results.items():
            turns.append(answers([str(count)])[str(count)])
    heads: Sequence[str] = [head for n in options.images for head in (f"{n:,}: seconds", "images/s", "MiB")]
    print(f"Pipeline: {SIDE}x{SIDE} pixels, {options.workers} workers; imports alone take {resident_peak():.0f} MiB")
    print(f"{machine(device)}; {options.repeats} turns")
    print(table(("stage", *heads, "kB/image", "per image"), rows_of(results)))


if __name__ == "__main__":
    main()
