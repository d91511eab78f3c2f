"""CRF-refined labels of a whole data set, AffinityNet's settings and alphas 4 and 32: the library against a plain loop.

Class activation maps are read from files: smooth random maps of the classes that each image shows, in 16 bits. From the
maps and the images, both versions compute the probabilities after a dense CRF with the background (1 - max)^alpha, for
both alphas, and write them. Decoding, solving and writing all count.

  plain   as in AffinityNet's infer_cls.py: one image after the other, one alpha after the other, with pydensecrf, and
          each result saved as a dictionary of float32 maps by np.save. Without pydensecrf, our torch backend solves one
          alpha at a time; the line above the table says so
  ours    wsss_lib.stages.refine.refine: both alphas over one lattice, compressed float16, on a CPU several images at
          once in processes of one thread each, on CUDA up to 16 images at once

The probabilities must agree within 2e-3 at more than 99 % of the pixels.

Columns: seconds for all images, median of the turns; images per second; ratio: speed-up over plain in the same turn,
median; MB written (10^6 bytes); ratio: MB of plain over these.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Blobs, alternate, begin, machine, megabytes, parser, smooth, speed_up, table
from lightning_fabric import Fabric

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.voc import load_voc
from wsss_lib.ops import dense_crf as crf
from wsss_lib.stages.engine import make_fabric
from wsss_lib.stages.refine import PowerBackgrounds, refine
from wsss_lib.stages.store import CamStore, ScoreStore

PLAIN, OURS = "plain", "ours"
ALPHAS = (4, 32)
STEPS = 10
TOLERANCE, SHARE = 2e-3, 0.99

Solve = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function from an image ``(H, W, 3)`` uint8 and scores ``(L, H, W)`` to probabilities ``(L, H, W)`` float32."""


def write_cams(data: Dataset, store: CamStore) -> None:
    """Write maps of the classes that each image shows; most values of a map are low."""
    rng = np.random.default_rng(1)
    for index, image_id in enumerate(data.ids):
        classes = data.labels[index].nonzero().flatten()
        maps = np.zeros((len(classes), *data.size(index)), np.float32)
        for one in maps:
            one[:] = np.maximum(1.25 * smooth(rng, *one.shape) - 0.3, 0)
        store.write(image_id, classes, torch.from_numpy(maps))


# -------------------------------------------------------------------------------------------------------- variants


def solve_pydensecrf(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Solve one field with pydensecrf."""
    from pydensecrf.densecrf import DenseCRF2D  # noqa: PLC0415, RUF100  # optional

    labels, height, width = scores.shape
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(-np.log(np.clip(scores, 1e-5, 1)).reshape(labels, -1))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.copy(image), compat=10)
    return np.array(field.inference(STEPS), np.float32).reshape(scores.shape)


def solve_torch(device: torch.device) -> Solve:
    """Return a function that solves one field with the library."""

    def solve(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous().to(device)
        unary = crf.unary_from_scores(torch.from_numpy(scores).to(device))
        return crf.dense_crf([pixels], [unary], "psa", backend="torch")[0].cpu().numpy()

    return solve


def run_plain(data: Dataset, cams: CamStore, folder: Path, solve: Solve) -> None:
    """Write the dictionaries of all images, one image and one alpha after the other."""
    shutil.rmtree(folder, ignore_errors=True)
    for alpha in ALPHAS:
        (folder / f"{alpha}").mkdir(parents=True)
    for index, image_id in enumerate(data.ids):
        classes, maps = (x.numpy() for x in cams.read(image_id))
        image = np.array(data.image(index))
        strongest = maps.max(0, initial=0)
        for alpha in ALPHAS:
            scores = np.concatenate([((1 - strongest) ** alpha)[None], maps])
            probabilities = solve(image, scores)
            named = dict(zip([0, *(classes + 1)], probabilities, strict=True))
            np.save(folder / f"{alpha}" / f"{image_id}.npy", np.array(named, object), allow_pickle=True)


def run_ours(data: Dataset, cams: CamStore, folder: Path, fabric: Fabric, workers: int) -> None:
    """Write the scores of all images with the library."""
    shutil.rmtree(folder, ignore_errors=True)
    stores = [ScoreStore(folder / f"{alpha}") for alpha in ALPHAS]
    refine(data, PowerBackgrounds(cams, ALPHAS), stores, fabric, "psa", workers=workers)


# ------------------------------------------------------------------------------------------------------------ main


def agreement(data: Dataset, plain: Path, ours: Path) -> float:
    """Return the share of pixels where both agree; raise AssertionError if the share is too small."""
    near = total = 0
    for alpha in ALPHAS:
        store = ScoreStore(ours / f"{alpha}")
        for image_id in data.ids:
            expected = np.load(plain / f"{alpha}" / f"{image_id}.npy", allow_pickle=True).item()  # our own file
            classes, probabilities = store.read(image_id)
            assert list(expected) == [0, *(classes + 1).tolist()], image_id
            difference = np.abs(probabilities.numpy() - np.stack(list(expected.values()))).max(0)
            near += int((difference < TOLERANCE).sum())
            total += difference.size
    assert near > SHARE * total, f"only {100 * near / total:.2f} % of the pixels agree"
    return near / total


def open_data(options: argparse.Namespace) -> Dataset:
    """Return the images."""
    if options.data_root is None:
        return Blobs(options.count, options.height, options.width, 20)
    return load_voc(options.data_root, "train").head(options.count)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=3, threads=1)
    options.add_argument("--data-root", type=Path, metavar="FOLDER", help="data in VOC's layout (default: drawn blobs)")
    options.add_argument("--count", type=int, default=24, help="number of images (default: 24)")
    options.add_argument("--height", type=int, default=375, help="height of drawn landscape images (default: 375)")
    options.add_argument("--width", type=int, default=500, help="width of drawn landscape images (default: 500)")
    options.add_argument("--workers", type=int, default=2, help="processes of ours; 0 for none (default: 2)")
    chosen = options.parse_args()
    if chosen.count < 1 or chosen.workers < 0 or min(chosen.height, chosen.width) < 8:
        raise SystemExit("--count must be at least 1, --workers 0, --height and --width 8.")
    return chosen


def main() -> None:
    """Time, then compare what the last turns wrote, then print the table."""
    options = arguments()
    device = begin(options)
    data = open_data(options)
    fabric = make_fabric(device.type)
    compiled = importlib.util.find_spec("pydensecrf") is not None
    solve = solve_pydensecrf if compiled else solve_torch(device)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders = {variant: root / variant for variant in (PLAIN, OURS)}
        cams = CamStore(root / "cams")
        write_cams(data, cams)
        variants = {
            PLAIN: lambda: run_plain(data, cams, folders[PLAIN], solve),
            OURS: lambda: run_ours(data, cams, folders[OURS], fabric, options.workers),
        }
        times = alternate(variants, options.repeats, device, warm_up=0)
        share = agreement(data, folders[PLAIN], folders[OURS])
        written = {variant: megabytes(folder) for variant, folder in folders.items()}

    rows = []
    for variant, turns in times.items():
        median = statistics.median(turns)
        ratio, saved = f"{speed_up(times, PLAIN, variant):.2f}x", f"{written[PLAIN] / written[variant]:.1f}x"
        rows.append((variant, f"{median:.1f}", f"{len(data) / median:.2f}", ratio, f"{written[variant]:.1f}", saved))
    source = f"made up, {options.width}x{options.height}" if options.data_root is None else data.name
    print(f"Refinement: {len(data)} images, {source}, alphas {ALPHAS[0]} and {ALPHAS[1]}, {options.workers} workers")
    print(f"{machine(device)}; {options.repeats} turns; {100 * share:.2f} % of the pixels agree within {TOLERANCE:g}")
    if not compiled:
        print("pydensecrf is not installed (pip install pydensecrf2): plain is our torch backend, one alpha at a time")
    print(table(("way", "seconds", "images/s", "ratio", "MB", "ratio"), rows))


if __name__ == "__main__":
    main()
