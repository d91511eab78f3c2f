"""Scores of seeds at many background thresholds: one pass over the pixels against one pass per threshold.

Each image has a mask, and one normalised map for each class that it shows. Three ways to count are compared:

  argmax, 21 planes   for each threshold, one argmax over the background plane and all classes, then true positives,
                      predicted and true pixels class by class, as in OC-CSE's and SEAM's evaluators
  argmax, bincount    for each threshold, one argmax over the background plane and the present classes, then one
                      np.bincount of the confusion matrix, as in IRN's evaluator
  one pass (ours)     wsss_lib.ops.metrics.sweep_histogram, then sweep_confusions once

Before the timing, all counts must be equal as integers. Reading files does not count.

Columns: images; seconds for all images and all thresholds, median of the turns; images per second; ratio: speed-up over
`argmax, bincount` in the same turn, median; versus 21 planes: speed-up over `argmax, 21 planes`.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import alternate, begin, machine, parser, smooth, speed_up, table
from torch import Tensor

from wsss_lib.data.voc import load_voc
from wsss_lib.ops.metrics import sweep_confusions, sweep_histogram

PLANES, BINCOUNT, OURS = "argmax, 21 planes", "argmax, bincount", "one pass (ours)"


@dataclass(frozen=True)
class Scored:
    """One image: its classes ``(n,)`` from 0, their maps ``(n, H, W)`` float32, its mask ``(H, W)`` uint8."""

    classes: np.ndarray
    cams: np.ndarray
    truth: np.ndarray


def synthetic(count: int, height: int, width: int, num_classes: int, seed: int) -> list[Scored]:
    """Make images of one to three classes with blobs as objects, borders to ignore, and maps with errors."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        classes = np.sort(rng.choice(num_classes - 1, rng.integers(1, 4), replace=False))
        fields = np.stack([smooth(rng, height, width) for _ in classes])
        best = fields.max(0)
        truth = np.where(best > 0.6, classes[fields.argmax(0)] + 1, 0).astype(np.uint8)
        truth[np.abs(best - 0.6) < 0.02] = 255
        cams = np.stack([0.7 * field + 0.3 * smooth(rng, height, width) for field in fields]).astype(np.float16)
        images.append(Scored(classes, cams.astype(np.float32), truth))
    return images


def with_masks_of(root: Path, split: str, count: int, seed: int) -> tuple[list[Scored], int]:
    """Return C and images with the masks of a folder in VOC's layout and smooth maps for the classes of its labels."""
    rng = np.random.default_rng(seed)
    data = load_voc(root, split)
    images = []
    for i in range(min(count, len(data))):
        truth = data.mask(i)
        classes = data.labels[i].nonzero().flatten().numpy()
        cams = [0.5 * smooth(rng, *truth.shape) + 0.5 * (truth == k + 1) * smooth(rng, *truth.shape) for k in classes]
        stacked = np.stack(cams).astype(np.float16) if cams else np.empty((0, *truth.shape), np.float16)
        images.append(Scored(classes, stacked.astype(np.float32), truth))
    return images, len(data.classes) + 1


def count_planes(images: list[Scored], thresholds: np.ndarray, num_classes: int) -> np.ndarray:
    """Return true positives, predicted and true pixels ``(T, 3, C)`` int64, one plane and threshold at a time."""
    counts = np.zeros((len(thresholds), 3, num_classes), np.int64)
    for t, threshold in enumerate(thresholds):
        for image in images:
            planes = np.zeros((num_classes, *image.truth.shape), np.float32)
            planes[0] = threshold
            planes[image.classes + 1] = image.cams
            predicted = planes.argmax(0).astype(np.uint8)
            counted = image.truth < 255
            right = (predicted == image.truth) * counted
            for c in range(num_classes):
                counts[t, 0, c] += np.sum((image.truth == c) * right)
                counts[t, 1, c] += np.sum((predicted == c) * counted)
                counts[t, 2, c] += np.sum((image.truth == c) * counted)
    return counts


def count_bincount(images: list[Scored], thresholds: np.ndarray, num_classes: int) -> np.ndarray:
    """Return confusion matrices ``(T, C, C)`` int64, threshold by threshold."""
    confusions = np.zeros((len(thresholds), num_classes, num_classes), np.int64)
    for t, threshold in enumerate(thresholds):
        for image in images:
            planes = np.pad(image.cams, ((1, 0), (0, 0), (0, 0)), constant_values=threshold)
            predicted = np.pad(image.classes + 1, (1, 0))[planes.argmax(0)].ravel()
            truth = image.truth.ravel()
            counted = truth != 255
            cells = num_classes * truth[counted].astype(np.int64) + predicted[counted]
            confusions[t] += np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    return confusions


def count_once(images: list[tuple[Tensor, Tensor, Tensor]], thresholds: Tensor, num_classes: int) -> Tensor:
    """Return confusion matrices ``(T, C, C)`` int64 from one histogram of classes, maps and masks."""
    shape = (num_classes, num_classes, len(thresholds) + 1)
    histogram = torch.zeros(shape, dtype=torch.int64, device=thresholds.device)
    for classes, cams, truth in images:
        histogram += sweep_histogram(cams, classes, truth, thresholds, num_classes)
    return sweep_confusions(histogram)


def summary(confusions: np.ndarray) -> np.ndarray:
    """Return true positives, predicted and true pixels ``(T, 3, C)`` of confusion matrices."""
    return np.stack([confusions.diagonal(axis1=1, axis2=2), confusions.sum(1), confusions.sum(2)], axis=1)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--images", type=int, default=12, help="number of images (default: 12)")
    options.add_argument("--height", type=int, default=281, help="height of synthetic images (default: 281)")
    options.add_argument("--width", type=int, default=375, help="width of synthetic images (default: 375)")
    options.add_argument(
        "--classes", type=int, default=21, help="classes of synthetic images, with background (default: 21)"
    )
    options.add_argument("--thresholds", type=int, default=60, help="number of thresholds i/100, from 0 (default: 60)")
    options.add_argument("--data-root", type=Path, help="folder in VOC's layout, to use its masks")
    options.add_argument("--split", default="val", help="split of --data-root (default: val)")
    options.add_argument("--skip-planes", action="store_true", help="leave out the slowest way to count")
    options.add_argument("--seed", type=int, default=0, help="random seed of the synthetic maps (default: 0)")
    return options.parse_args()


def main() -> None:
    """Compare, then time, then print the table."""
    options = arguments()
    device = begin(options)
    num_classes = options.classes
    if options.data_root is None:
        images = synthetic(options.images, options.height, options.width, num_classes, options.seed)
    else:
        images, num_classes = with_masks_of(options.data_root, options.split, options.images, options.seed)
    thresholds = np.array([i / 100 for i in range(options.thresholds)], np.float32)
    levels = torch.from_numpy(thresholds).to(device)
    tensors = [tuple(torch.from_numpy(v).to(device) for v in (i.classes, i.cams, i.truth)) for i in images]

    variants = {
        PLANES: lambda: count_planes(images, thresholds, num_classes),
        BINCOUNT: lambda: count_bincount(images, thresholds, num_classes),
        OURS: lambda: count_once(tensors, levels, num_classes),
    }
    ours, expected = variants[OURS]().cpu().numpy(), variants[BINCOUNT]()
    assert np.array_equal(ours, expected), "one pass counts differently from one confusion matrix per threshold"
    if options.skip_planes:
        del variants[PLANES]
    else:
        assert np.array_equal(summary(ours), variants[PLANES]()), "one pass counts differently from plane by plane"

    times = alternate(variants, options.repeats, device, warm_up=0)
    rows = []
    for name in variants:
        median = statistics.median(times[name])
        planes = "-" if options.skip_planes else f"{speed_up(times, PLANES, name):.1f}x"
        ratio = f"{speed_up(times, BINCOUNT, name):.1f}x"
        rows.append((name, len(images), f"{median:.4f}", f"{len(images) / median:.1f}", ratio, planes))
    pixels = sum(image.truth.size for image in images) / len(images)
    print(f"Threshold sweep: {len(thresholds)} thresholds, {num_classes} classes, {pixels:.0f} pixels per image")
    print(f"{machine(device)}; {options.repeats} turns; all counts are equal (integers, no tolerance)")
    print(table(("way to count", "images", "seconds", "images/s", "ratio", "versus 21 planes"), rows))


if __name__ == "__main__":
    main()
