"""Measure how well masks are judged without true masks, and how exact estimates from a few drawn masks are.

python scripts/how_good.py RUN [RUN ...] > tables.md
python scripts/how_good.py --split train --every 3 --candidates --draws 0 RUN RUN [RUN ...]

With `--candidates`, the maps of a run are also compared with those of the next run (those of the last with the first).
The runs need stored maps of the split, or masks after a walk, and true masks; nothing is written into their folders.
Maps become masks at the threshold 0.2. The first table has Spearman's rank correlation of each rating with the true IoU
of a picture (the mean over the classes that the picture's mask or true mask shows). The second has the reliability
curve of the trust. The third compares the mean IoU of masks and CRF with the true mean IoU, and says how often the true
one lies in a bootstrap interval. The last simulates estimates from N drawn masks: bias, root mean square error, and how
often the 95 % interval holds the mean IoU of all pictures.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.files import write_atomically
from wsss_lib.data.transforms import to_tensor, view
from wsss_lib.exchange.paired import bootstrap, iou_of_counts
from wsss_lib.ops.cam import argmax, background_power, cam_label, upsample
from wsss_lib.ops.dense_crf import dense_crf, unary_from_labels, unary_from_scores
from wsss_lib.ops.metrics import class_mean, confusion_matrix
from wsss_lib.results.suggest import by_class, class_shares, draw, estimate, probabilities
from wsss_lib.results.trust import agreement_of_counts, rank_correlation, reliability_curve, trust_of_counts
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.report import FIXED_THRESHOLD
from wsss_lib.runs.run import Run
from wsss_lib.show.progress import bar
from wsss_lib.show.tables import markdown_table
from wsss_lib.stages.store import read_cams

NUMBERS = (10, 20, 40)
"""Numbers of drawn masks that are simulated."""

OWN = "agreement with the mask's own CRF"
TRUST = f"{OWN}, over n"
COUNTS = "true"

Measured = dict[str, Tensor]
"""What was counted for each picture: ``labels`` ``(n, K)``, counts ``(n, 3, C)``, and single numbers ``(n,)``."""


def count(truth: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Return right, predicted and true pixels ``(3, C)`` of a mask."""
    confusion = confusion_matrix(truth, mask, classes)
    return torch.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)])


def own_crf(image: Tensor, mask: Tensor, shown: Tensor) -> Tensor:
    """Return the mask that IRN's CRF makes of a mask ``(H, W)`` with the classes ``(n,)``, from 0."""
    values = torch.cat([shown.new_zeros(1), shown + 1])
    rows = torch.zeros(256, dtype=torch.int64)
    rows[values] = torch.arange(len(values))
    [solved] = dense_crf([image], [unary_from_labels(rows[mask.long()], len(values), 0.7)], "irn")
    return values[argmax(solved, 0)].to(torch.uint8)


def views(run: CamRun, data: Dataset, index: int, shown: Tensor) -> list[Tensor]:
    """Return the masks of the picture alone, of its mirror image, and of the picture at the last of the scales."""
    image, method = data.image(index), run.method
    run.to_device()
    method.train(False)
    multiple = method.config.view_multiple or None
    plain, scaled = (view(image, scale, run.normalise, multiple) for scale in (1.0, method.config.scales[-1]))
    masks = []
    for pixels, mirrored in ((plain, False), (plain.flip(-1), True), (scaled, False)):
        with torch.inference_mode():
            maps = method.cam(run.fabric.to_device(pixels)[None]).float().cpu()[:, shown]
        maps = method.normalise_maps(upsample(maps, (image.height, image.width))[0].relu())
        masks.append(cam_label(maps.flip(-1) if mirrored else maps, shown, FIXED_THRESHOLD))
    return masks


def mask_of(run: Run, split: str) -> Callable[[Dataset, int], Tensor]:
    """Return a function that reads the mask of a picture: the CAM seed, or the mask after the walk."""
    if isinstance(run, CamRun):
        store = run.cams(split)

        def seed(data: Dataset, index: int) -> Tensor:
            shown, cams = read_cams(store, data, index)
            return cam_label(cams, shown, FIXED_THRESHOLD)

        return seed
    masks = run.masks("walk-crf", split)
    return lambda data, index: masks.read(data.ids[index], len(data.classes), data.size(index))


def measure(folder: Path, split: str, other: Path | None, every: int = 1) -> Measured:
    """Count everything in a run; with another run also the ratings that are candidates for the trust."""
    run = reopen(folder, guest=True)
    data, classes = run.data(split), len(run.data(split).classes) + 1
    read, there = mask_of(run, split), None if other is None else mask_of(reopen(other, guest=True), split)
    parts = defaultdict(list)
    indices = data.masked[::every]
    for index in bar(indices, f"{folder.name} {split}", len(indices)):
        mask, image, shown = read(data, index), to_tensor(data.image(index)), data.labels[index].nonzero().flatten()
        parts["labels"].append(data.labels[index])
        parts[COUNTS].append(count(torch.from_numpy(data.mask(index)), mask, classes))
        parts[OWN].append(count(own_crf(image, mask, shown), mask, classes))
        if there is None or not isinstance(run, CamRun):
            continue
        parts["agreement with the next run"].append(count(there(data, index), mask, classes))
        cams = read_cams(run.cams(split), data, index)[1]
        [solved] = dense_crf([image], [unary_from_scores(background_power(cams, 4.0))])
        solved = torch.cat([shown.new_zeros(1), shown + 1])[argmax(solved, 0)]
        parts["agreement with a CRF, alpha 4"].append(count(solved, mask, classes))
        low, high = (cam_label(cams, shown, threshold) for threshold in (0.1, 0.4))
        parts["agreement of the thresholds 0.1 and 0.4"].append(count(low, high, classes))
        if not run.method.scales_itself:
            plain, mirrored, scaled = views(run, data, index, shown)
            parts["agreement of picture and mirror image"].append(count(plain, mirrored, classes))
            parts["agreement of two scales"].append(count(plain, scaled, classes))
        inside, highest = mask > 0, cams.amax(0) if len(shown) else torch.zeros(mask.shape)
        parts["mean score inside the mask"].append(highest[inside].mean())
        parts["scores inside / (area + scores outside)"].append(
            highest[inside].sum() / (inside.sum() + highest[~inside].sum())
        )
        parts["share of the picture"].append(inside.double().mean())
    return {name: torch.stack(values) for name, values in parts.items()}


def load(folder: Path, split: str, other: Path | None, every: int, keep: Path | None) -> Measured:
    """Return what :func:`measure` does, from a file if it is there; other pictures have a file of their own."""
    path = None if keep is None else keep / f"{folder.name}-{split}{'' if every == 1 else f'-every-{every}'}.npz"
    if path is not None and path.is_file():
        with np.load(path) as found:
            return {name: torch.from_numpy(values) for name, values in found.items()}
    measured = measure(folder, split, other, every)
    if path is not None:
        arrays = {name: values.numpy() for name, values in measured.items()}
        write_atomically(path, lambda file: np.savez(file, **arrays), durable=False)
    return measured


def picture_iou(measured: Measured) -> Tensor:
    """Return the true IoU ``(n,)`` of each picture, NaN for a picture without labels."""
    return class_mean(iou_of_counts(measured[COUNTS])).masked_fill(~measured["labels"].any(1), torch.nan)


def ratings(measured: Measured) -> dict[str, Tensor]:
    """Return all ratings ``(n,)`` of the pictures; n in their names is the number of classes that a picture shows."""
    labels = measured["labels"]
    found = {"few classes": -labels.double().sum(1)}
    for name, values in measured.items():
        if name in ("labels", COUNTS):
            continue
        if values.ndim == 3:
            found[name] = agreement_of_counts(values, labels)
            found[f"{name}, over n"] = trust_of_counts(values, labels)
        else:
            found[name] = values.double()
    return found


def rank_table(runs: Mapping[str, Measured]) -> str:
    """Return the rank correlation of each rating with the true IoU; for pictures of one class in brackets."""
    found = {name: ratings(one) for name, one in runs.items()}
    rows = []
    for rating in dict.fromkeys(rating for one in found.values() for rating in one):
        every, single = [], []
        for name, one in found.items():
            if rating not in one:
                continue
            iou = picture_iou(runs[name])
            every.append(rank_correlation(one[rating], iou))
            single.append(rank_correlation(one[rating], iou.masked_fill(runs[name]["labels"].sum(1) != 1, torch.nan)))
        cells = iter(f"{a:.2f} ({b:.2f})" for a, b in zip(every, single, strict=True))
        average = _mean(every)
        row = [rating, f"{average:.2f} ({_mean(single):.2f})"]
        rows.append((average, [*row, *(next(cells) if rating in one else "" for one in found.values())]))
    rows.sort(key=lambda row: -row[0])
    return markdown_table(["rating", "mean", *runs], [row for _, row in rows])


def _mean(values: Sequence[float]) -> float:
    """Return the mean without NaN, the correlation with a rating that is the same for all pictures."""
    known = [value for value in values if value == value]
    return mean(known) if known else float("nan")


def curve_table(runs: Mapping[str, Measured]) -> str:
    """Return the reliability curve of the trust: true IoU of the pictures in each fifth."""
    rows = []
    for name, one in runs.items():
        curve = reliability_curve(ratings(one)[TRUST], picture_iou(one))
        rows.append([name, *(f"{part.trust:.2f}: {part.iou:.2f}" for part in curve)])
    return markdown_table(["trust: IoU", *(f"fifth {i}" for i in range(1, 6))], rows)


def level_table(runs: Mapping[str, Measured]) -> str:
    """Return the mean IoU of masks and CRF, with its bootstrap interval, beside the true one."""
    rows, held = [], []
    for name, one in runs.items():
        agreed, true = (float(class_mean(iou_of_counts(one[part].sum(0)))) for part in (OWN, COUNTS))
        [drawn] = bootstrap([one[OWN]], 1000, 0)
        low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        held.append(low <= true <= high)
        cells = [f"{100 * value:.1f}" for value in (agreed, low, high, true, agreed - true)]
        rows.append([name, cells[0], f"{cells[1]} to {cells[2]}", *cells[3:], "yes" if held[-1] else "no"])
    head = ["", "mIoU % with the CRF", "95 % interval", "true mIoU %", "difference", "inside"]
    return f"{markdown_table(head, rows)}\n\nInside: {sum(held)} of {len(held)}"


def designs(one: Measured) -> dict[str, tuple[Tensor, Callable[[np.random.Generator], list[int]]]]:
    """Return sizes and order of each way to draw."""
    labels, number = one["labels"], len(one["labels"])
    trust = ratings(one)[TRUST]
    same, doubt = torch.ones(number), 1.1 - trust.nan_to_num(1)
    by_trust = trust.argsort().tolist()
    anyhow = lambda rng: rng.permutation(number).tolist()  # noqa: E731
    return {
        "at random": (same, anyhow),
        "evenly along the trust": (same, lambda rng: by_trust),  # noqa: ARG005
        "in proportion to the distrust": (doubt, anyhow),
        "evenly along the classes": (same, lambda rng: by_class(labels, rng)),
        "in proportion to the classes": (class_shares(labels), anyhow),
        "both, as `wsss suggest`": (class_shares(labels), lambda rng: by_class(labels, rng)),
    }


def simulate(
    one: Measured, draws: int, seed: int = 0
) -> dict[tuple[str, int], tuple[float, float, float, float, float]]:
    """Return bias, error, coverage of jackknife and bootstrap, and width of the interval, by way and number."""
    counts, number = one[COUNTS], len(one[COUNTS])
    true = float(class_mean(iou_of_counts(counts.sum(0))))
    results = {}
    for name, (sizes, order) in designs(one).items():
        for wanted in NUMBERS:
            chances, rng, rows = probabilities(sizes, wanted), np.random.default_rng(seed), []
            for _ in range(draws):
                chosen = draw(chances, order(rng), rng)
                found = estimate(counts[chosen], chances[chosen], number)
                [again] = bootstrap([counts[chosen] / chances[chosen, None, None]], 100, int(rng.integers(2**31)))
                low, high = again.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
                inside = found.interval[0] <= true <= found.interval[1]
                rows.append((found.mean_iou - true, inside, low <= true <= high, found.interval[1] - found.interval[0]))
            errors, inside, bootstrapped, width = np.array(rows).T
            results[name, wanted] = (
                errors.mean(),
                np.square(errors).mean() ** 0.5,
                inside.mean(),
                bootstrapped.mean(),
                width.mean(),
            )
    return results


def simulation_table(runs: Mapping[str, Measured], draws: int) -> str:
    """Return bias, error and coverage of estimates from a few masks, as means over the runs."""
    found = [simulate(one, draws, seed) for seed, one in enumerate(runs.values())]  # runs share pictures, not draws
    rows = []
    for wanted in NUMBERS:
        for name in dict.fromkeys(name for name, _ in found[0]):
            biases, errors, inside, bootstrapped, width = zip(*(one[name, wanted] for one in found), strict=True)
            wins = sum(error < one["at random", wanted][1] for error, one in zip(errors, found, strict=True))
            rows.append(
                [
                    str(wanted),
                    name,
                    f"{100 * mean(biases):+.2f}",
                    f"{100 * mean(errors):.2f}",
                    f"{wins} of {len(found)}" if name != "at random" else "",
                    f"{100 * mean(inside):.1f}",
                    f"{100 * min(inside):.1f}",
                    f"{100 * mean(bootstrapped):.1f}",
                    f"{100 * mean(width):.1f}",
                ]
            )
    head = ["N", "drawn", "bias", "RMSE", "better than at random", "inside %", "least", "inside %, bootstrap", "width"]
    return markdown_table(head, rows)


def main() -> None:
    """Read the arguments, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs with maps, or with a walk")
    parser.add_argument("--split", default="val", help="split that is measured (default: val)")
    parser.add_argument("--candidates", action="store_true", help="measure all ratings, not the trust alone")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth picture (default: 1, all)")
    parser.add_argument("--labelled", action="store_true", help="leave out pictures without labels")
    parser.add_argument("--draws", type=int, default=200, metavar="N", help="draws per run and way (default: 200)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the counts in files, and read those there")
    options = parser.parse_args()
    if len({folder.name for folder in options.runs}) < len(options.runs):
        parser.error("two folders have the same name, which the rows of the tables bear; give folders of other names.")
    measured = {}
    for folder, following in zip(options.runs, [*options.runs[1:], options.runs[0]], strict=True):
        other = following if options.candidates else None
        one = load(folder, options.split, other, options.every, options.keep)
        shown = one["labels"].any(1) | (not options.labelled)
        measured[folder.name] = {name: values[shown] for name, values in one.items()}
    print(rank_table(measured), end="\n\n")
    print(curve_table(measured), end="\n\n")
    print(level_table(measured), end="\n\n")
    if options.draws:
        print(simulation_table(measured, options.draws))


if __name__ == "__main__":
    main()
