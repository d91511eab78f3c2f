"""Maps in foreign .npy files: scores in one pass against a pass per threshold, and a CRF against a loop of pydensecrf.

Pictures with one to three classes each, their masks and their maps are written first, in the form of psa's
dictionaries of float32 maps of the pictures' own size. Then two things are done in the plain way and in ours:

  score    a pass over all files for every threshold, with an argmax over background and maps and an np.bincount of the
           confusion matrix, as IRN's evaluator does, in one process; only some of the passes are timed, and all passes
           are counted as if they took as long
           ours: wsss_lib.use.on_maps, with opening the folder: what a user waits for
  refine   a loop over the pictures in as many processes as there are cores, each with pydensecrf (10 steps, the
           settings of psa), once for every alpha, reading the .npy file and writing PNGs; ours: refine_maps

All counts of the timed passes must be equal, as integers. The labels of the refinement must agree on 99.9 % of pixels.

Columns: seconds, median of the turns; pictures per second; ratio: median over the turns of how many times longer the
plain way takes. Needs pydensecrf for the refinement (the optional extra crf).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import alternate, begin, machine, parser, smooth, speed_up, table
from PIL import Image

from wsss_lib.data.voc import VOC_CLASSES
from wsss_lib.exchange.maps import open_maps
from wsss_lib.stages.evaluate import THRESHOLDS
from wsss_lib.use.on_maps import refine_maps, score_maps

CLASSES = len(VOC_CLASSES) + 1


def write_pictures(root: Path, count: int, height: int, width: int, seed: int) -> None:
    """Write pictures, masks and maps; those of a few pictures are repeated, as drawing them takes long."""
    rng = np.random.default_rng(seed)
    for folder in ("pictures", "masks", "maps"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        name = f"{number:06d}"
        if number >= 40:
            for folder, end in (("pictures", "jpg"), ("masks", "png"), ("maps", "npy")):
                shutil.copyfile(root / folder / f"{number % 40:06d}.{end}", root / folder / f"{name}.{end}")
            continue
        classes = np.sort(rng.choice(CLASSES - 1, rng.integers(1, 4), replace=False))
        fields = np.stack([smooth(rng, height, width) for _ in classes])
        best = fields.max(0)
        truth = np.where(best > 0.6, classes[fields.argmax(0)] + 1, 0).astype(np.uint8)
        colours = rng.integers(30, 226, (CLASSES, 3))[truth] + 40 * (
            np.stack([smooth(rng, height, width)] * 3, 2) - 0.5
        )
        noisy = colours + rng.normal(0, 6, colours.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "pictures" / f"{name}.jpg", quality=92)
        truth[np.abs(best - 0.6) < 0.02] = 255
        Image.fromarray(truth).save(root / "masks" / f"{name}.png")
        maps = [0.7 * field + 0.3 * smooth(rng, height, width) for field in fields]
        content = {
            int(k): (m / m.max()).astype(np.float32) * np.float32(0.999) for k, m in zip(classes, maps, strict=True)
        }
        np.save(root / "maps" / f"{name}.npy", content)


def names_in(root: Path) -> list[str]:
    """Return the ids of all pictures."""
    return sorted(path.stem for path in (root / "maps").glob("*.npy"))


def one_pass(root: Path, threshold: float) -> np.ndarray:
    """Return the confusion matrix ``(C, C)`` at one threshold, from the files."""
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    for name in names_in(root):
        content = np.load(root / "maps" / f"{name}.npy", allow_pickle=True).item()
        truth = np.asarray(Image.open(root / "masks" / f"{name}.png"))
        planes = np.pad(np.stack([*content.values()]), ((1, 0), (0, 0), (0, 0)), constant_values=np.float32(threshold))
        predicted = np.array([0, *(k + 1 for k in content)])[planes.argmax(0)]
        counted = truth < 255
        cells = CLASSES * truth[counted].astype(np.int64) + predicted[counted]
        confusion += np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    return confusion


def score(root: Path) -> torch.Tensor:
    """Return the confusion matrices ``(T, C, C)`` of all thresholds, with our code."""
    return score_maps(open_maps(root / "maps", root / "pictures", root / "masks")).scores.confusions


def refine_one(root: Path, out: Path, alphas: list[float], name: str) -> None:
    """Write the masks of one picture after pydensecrf, as psa's ``crf_inference`` calls it."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    content = np.load(root / "maps" / f"{name}.npy", allow_pickle=True).item()
    image = np.array(Image.open(root / "pictures" / f"{name}.jpg").convert("RGB"))
    maps = np.stack([*content.values()])
    values = np.array([0, *(k + 1 for k in content)], np.uint8)
    for alpha in alphas:
        probabilities = np.concatenate([(1 - maps.max(0, keepdims=True)) ** alpha, maps])
        field = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(probabilities))
        field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
        labels = np.argmax(np.array(field.inference(10)), 0).reshape(image.shape[:2])
        Image.fromarray(values[labels]).save(out / f"crf-{alpha:g}" / f"{name}.png")


def refine_plain(root: Path, out: Path, alphas: list[float], processes: int) -> None:
    """Refine all pictures in a pool of processes."""
    shutil.rmtree(out, ignore_errors=True)
    for alpha in alphas:
        (out / f"crf-{alpha:g}").mkdir(parents=True)
    with ProcessPoolExecutor(processes) as pool:
        for _ in pool.map(partial(refine_one, root, out, alphas), names_in(root), chunksize=4):
            pass


def refine_ours(root: Path, out: Path, alphas: list[float], processes: int) -> None:
    """Refine all pictures with our code."""
    shutil.rmtree(out, ignore_errors=True)
    refine_maps(open_maps(root / "maps", root / "pictures"), out, alphas=alphas, workers=processes, device="cpu")


def agreement(one: Path, other: Path) -> float:
    """Return the share of pixels on which two folders of masks agree."""
    same = [
        np.mean(np.asarray(Image.open(path)) == np.asarray(Image.open(other / path.relative_to(one))))
        for path in one.glob("*/*.png")
    ]
    return float(np.mean(same))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--images", type=int, default=100, help="how many are scored (default: 100)")
    options.add_argument("--refined", type=int, default=16, help="how many are refined; 0 for none (default: 16)")
    options.add_argument("--alphas", default="4,32", help="powers of the background (default: 4,32, those of psa)")
    options.add_argument("--height", type=int, default=375, help="of the pictures (default: 375)")
    options.add_argument("--width", type=int, default=500, help="of the pictures (default: 500)")
    options.add_argument("--passes", type=int, default=4, help="thresholds that are timed the plain way (default: 4)")
    options.add_argument("--processes", type=int, default=0, help="that refine; 0 for one per core (default: 0)")
    options.add_argument("--seed", type=int, default=0, help="of the made-up pictures (default: 0)")
    return options.parse_args()


def main() -> None:
    """Compare, then time, then print the table."""
    options = arguments()
    device = begin(options)
    alphas = [float(alpha) for alpha in options.alphas.split(",")]
    processes = options.processes or os.cpu_count() or 1
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "scored"
        write_pictures(root, options.images, options.height, options.width, options.seed)
        chosen = [int(i) for i in np.linspace(10, 80, options.passes)]
        ours = score(root)
        for i in chosen:
            assert np.array_equal(ours[i], one_pass(root, THRESHOLDS[i])), (
                "one pass counts differently from the plain way"
            )
        plain: Callable[[], object] = lambda: [one_pass(root, THRESHOLDS[i]) for i in chosen]  # noqa: E731
        times = alternate({"plain": plain, "ours": lambda: score(root)}, options.repeats, device, warm_up=0)
        factor = len(THRESHOLDS) / len(chosen)
        times["plain"] = [factor * seconds for seconds in times["plain"]]
        rows += [(f"score, {options.images} pictures", *row) for row in lines(times, options.images)]
        shutil.rmtree(root)
        if options.refined:
            root, masks = Path(folder) / "refined", {n: Path(folder) / n for n in ("plain", "ours")}
            write_pictures(root, options.refined, options.height, options.width, options.seed)
            ways = {
                "plain": lambda: refine_plain(root, masks["plain"], alphas, processes),
                "ours": lambda: refine_ours(root, masks["ours"], alphas, processes),
            }
            times = alternate(ways, options.repeats, device, warm_up=0)
            equal = agreement(masks["plain"], masks["ours"])
            assert equal > 0.999, f"only {equal:.4f} of the pixels have equal labels"
            rows += [
                (f"refine, {options.refined} pictures, alphas {options.alphas}", *row)
                for row in lines(times, options.refined)
            ]
            print(f"refined labels agree on {100 * equal:.3f} % of the pixels; {processes} processes")
    print(f"{len(THRESHOLDS)} thresholds, the plain way timed at {len(chosen)}, {options.height} x {options.width}")
    print(f"{machine(device)}; {options.repeats} turns")
    print(table(("what", "way", "seconds", "pictures/s", "ratio"), rows))


def lines(times: dict[str, list[float]], count: int) -> list[tuple[str, str, str, str]]:
    """Return a row of the table for each way."""
    return [
        (
            way,
            f"{(median := statistics.median(times[way])):.2f}",
            f"{count / median:.1f}",
            f"{speed_up(times, 'plain', way):.1f}x",
        )
        for way in ("plain", "ours")
    ]


if __name__ == "__main__":
    main()
