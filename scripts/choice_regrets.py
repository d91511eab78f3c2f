"""Measure how much mean IoU is lost by choices that are made without masks: threshold, alpha, refinement and method.

python scripts/choice_regrets.py WORK --measure RUN [RUN ...] [--refined RUN ...]     # then, on what WORK holds:
python scripts/choice_regrets.py WORK > tables.md

The runs have stored maps of `train` and `val`; nothing is trained, and nothing is written into their folders. A *set*
is the pictures of one split with the maps of one run; a folder's name is <method>-<seed>. Of each set WORK gets the
masks at the fixed threshold and after CRFs with all powers, and what the ways to choose need. A measurement that was
stopped continues, and several processes may share it (--part 0/2, --part 1/2).

Every way chooses on the pictures of a set, without their masks. Its regret is the mean IoU of the best choice on this
set less that of its own choice, in points.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from wsss_lib.data.dataset import Dataset, DatasetView
from wsss_lib.data.files import write_atomically
from wsss_lib.data.transforms import to_tensor
from wsss_lib.methods.method import CamMethod
from wsss_lib.ops.cam import argmax, background_power, cam_label, upsample
from wsss_lib.ops.dense_crf import PRESETS, Kernel, make_kernel, mean_field, unary_from_scores
from wsss_lib.ops.metrics import class_mean, intersection_over_union, sweep_confusions, sweep_histogram
from wsss_lib.results.choose import (
    ALPHAS,
    LEAST_BOUNDARY,
    REACH,
    TWO_STEPS,
    agreement,
    agreement_rating,
    candidates,
    evenly_spaced,
)
from wsss_lib.runs.cam import CamRun
from wsss_lib.runs.kinds import reopen
from wsss_lib.runs.refinement import RefinementRun
from wsss_lib.runs.report import FIXED_ALPHA, FIXED_THRESHOLD
from wsss_lib.show.progress import bar
from wsss_lib.show.tables import markdown_table
from wsss_lib.stages.evaluate import THRESHOLDS
from wsss_lib.stages.infer import views_for
from wsss_lib.stages.store import CamStore, MaskStore, read_cams, read_json

SEED = "seed"
CRFS = [f"crf-{alpha:g}" for alpha in ALPHAS]
GRID = torch.tensor(THRESHOLDS)
RATINGS = ("contrast", "pairs", "colour", "cut", "energy", "change", "entropy")
FIXED_CRF = f"crf-{FIXED_ALPHA:g}"
FIXED_METHOD = "cam"
TOY = (
    "cam",
    "cam-scratch",
    "oc-cse-without-erasing",
    "oc-cse",
    "acr-no-adversary",
    "acr",
    "pcss-neither",
    "pcss",
    "msal-plain",
    "msal",
)
SHOWN: dict[str, list[str]] = {
    "threshold": ["fixed, 0.2", "Otsu", TWO_STEPS],
    "alpha": ["fixed, 4", "fixed, 8", "fixed, 12", "fixed, 16", "agreement with the seed at Otsu's threshold"],
}


# ------------------------------------------------------------------------------ ratings of label maps, without masks


def contrasts(labels: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colour differences across the boundaries of label maps ``(M, H, W)``, and their numbers, ``(M,)``.

    They are those of :func:`wsss_lib.results.choose.boundary_contrast`, which counts for all thresholds instead.
    """
    colours, sums, pairs, all_differences = image.double(), torch.zeros(len(labels)), torch.zeros(len(labels)), []
    for dim in (1, 2):
        length = max(0, labels.shape[dim] - REACH)
        here, there = (colours.narrow(dim, start, length) for start in (0, min(REACH, labels.shape[dim])))
        difference = (here - there).square().sum(0).sqrt()
        boundary = labels.narrow(dim, 0, length) != labels.narrow(dim, min(REACH, labels.shape[dim]), length)
        sums, pairs = sums + (boundary * difference).sum((1, 2)), pairs + boundary.sum((1, 2))
        all_differences.append(difference.flatten())
    mean = torch.cat(all_differences).mean()
    return (sums / mean, pairs) if mean > 0 else (0 * sums, 0 * pairs)


def explained(objects: Tensor, image: Tensor) -> Tensor:
    """Return the share of the colours' variance that divisions ``(M, H * W)`` bool explain, ``(M,)``, else 0."""
    colours = image.double().flatten(1)
    colours = colours - colours.mean(1, keepdim=True)
    inside, count = objects.double(), objects.sum(1)
    between = (inside @ colours.T).square().sum(1) * (1 / count + 1 / (objects.shape[1] - count))
    share = between / colours.square().sum()
    return torch.where((count > 0) & (count < objects.shape[1]) & share.isfinite(), share, 0.0)


def cuts(objects: Tensor, kernel: Kernel) -> Tensor:
    """Return the normalised cut of divisions ``(M, H * W)`` bool under a kernel of the CRF, ``(M,)``; 1 is chance."""
    columns = torch.cat([objects.float().T, torch.ones(objects.shape[1], 1)], 1)
    filtered = kernel(columns, 1).double()
    degree, columns = filtered[:, -1:], columns[:, :-1].double()
    linked = (columns * degree).sum(0)
    cut = linked - (columns * filtered[:, :-1]).sum(0)
    found = cut / linked + cut / (degree.sum() - linked)
    return torch.where(objects.any(1) & ~objects.all(1), found, 1.0)


def energies(q: Tensor, unary: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Return how well fields ``(G, L, N)`` fit maps and picture, ``(3, G)`` for each pixel; lower is better.

    The rows are the free energy, with unary terms that are probabilities, so that alphas can be compared; the
    Kullback-Leibler divergence of the field from these probabilities, which says how much the CRF changes; and the
    entropy.
    """
    groups, labels, points = q.shape
    logs = q.clamp(min=1e-20).log()
    change = (q * (logs - (-unary).log_softmax(1))).sum((1, 2))
    columns = q.view(groups * labels, points).t().contiguous()
    links = torch.stack([(columns * kernel(columns, labels)).sum(0).view(groups, labels).sum(1) for kernel in kernels])
    return torch.stack([change - links.sum(0), change, -(q * logs).sum((1, 2))]) / points


# ------------------------------------------------------------------------------------------------- measuring one set


class Job(NamedTuple):
    """One set that is measured.

    Attributes:
        run: The run.
        split: Name of the split.
        others: Further maps of the same pictures, by the name of a way.
        refined: Stored masks of refinements, by name.
    """

    run: CamRun
    split: str
    others: Mapping[str, CamStore]
    refined: Mapping[str, MaskStore]


def solve(cams: Tensor, classes: Tensor, kernels: Sequence[Kernel]) -> tuple[Tensor, Tensor]:
    """Return the masks ``(A, H, W)`` uint8 of CRFs with all powers, and their :func:`energies` ``(3, A)``."""
    if not len(classes):
        return torch.zeros(len(ALPHAS), *cams.shape[1:], dtype=torch.uint8), torch.zeros(3, len(ALPHAS))
    unary = unary_from_scores(torch.stack([background_power(cams, alpha) for alpha in ALPHAS])).flatten(2)
    q = mean_field(unary, kernels, PRESETS["psa"].steps)
    values = torch.cat([classes.new_zeros(1), classes + 1]).to(torch.uint8)
    return values[argmax(q, 1)].view(-1, *cams.shape[1:]), energies(q, unary, kernels)


def measure(job: Job, sample: int, most: int) -> dict[str, np.ndarray]:
    """Return what the tables need of a set, as arrays.

    Args:
        job: The set; pictures without a mask take no part.
        sample: Number of pictures on which CRFs are solved for the choices, evenly spaced.
        most: Greatest number of pictures that take part, evenly spaced.
    """
    whole, store = job.run.data(job.split), job.run.cams(job.split)
    data = DatasetView(whole, whole.name, evenly_spaced(whole.masked, most))
    num_classes = len(data.classes) + 1
    chosen = {*evenly_spaced([index for index in range(len(data)) if data.labels[index].any()], sample)}
    two = {name: torch.zeros(len(GRID), num_classes, num_classes, dtype=torch.int64) for name in job.others}
    sweep = torch.zeros(num_classes, num_classes, len(GRID) + 1, dtype=torch.int64)
    joint = torch.zeros(len(ALPHAS), *sweep.shape, dtype=torch.int64)
    masks, truths, ratings, sampled = [], [], [], []
    for index in bar(data.masked, f"{job.run.folder.name} {job.split}", len(data.masked)):
        classes, cams = read_cams(store, data, index)
        image, truth = to_tensor(data.image(index)), torch.from_numpy(data.mask(index))
        sweep += sweep_histogram(cams, classes, truth, GRID, num_classes)
        kernels = [make_kernel([image], pairwise) for pairwise in PRESETS["psa"].kernels]
        crfs, energy = solve(cams, classes, kernels)
        if index in chosen:
            joint += torch.stack([sweep_histogram(cams, classes, mask, GRID, num_classes) for mask in crfs])
        if len(classes):
            for name, other in job.others.items():
                two[name] += agreement(cams, read_cams(other, data, index)[1], classes, GRID, num_classes)
        size = (truth.shape[0], truth.shape[1])
        refined = [one.read(data.ids[index], len(data.classes), size) for one in job.refined.values()]
        labels = torch.stack([cam_label(cams, classes, FIXED_THRESHOLD), *crfs, *refined])
        objects = (labels > 0).flatten(1)
        rows = torch.zeros(len(RATINGS), len(labels), dtype=torch.float64)
        rows[0], rows[1] = contrasts(labels, image)
        rows[2], rows[3] = explained(objects, image), cuts(objects, kernels[-1])
        rows[4:, 1 : 1 + len(ALPHAS)] = energy
        masks.append(labels.flatten(1).numpy())
        truths.append(truth.flatten().numpy())
        ratings.append(rows.numpy())
        sampled.append(np.full(truth.numel(), index in chosen))
    views = {} if job.run.method.scales_itself else view_agreements(job.run, data)
    if job.split == "val":
        views |= epoch_agreement(job.run)
    found = {
        one.name: one.value
        for one in candidates(store, data, None, max(1, sample // 3))
        if one.of == "threshold" and one.name != "fixed"
    }
    labels_found = read_json(job.run.folder / "metrics.json")["classification"].get(job.split, {})
    about = {
        "classes": num_classes,
        "thresholds": found,
        "results": [SEED, *CRFS, *job.refined],
        "precision": labels_found.get("mean_average_precision"),
    }
    return {
        "about": np.array(json.dumps(about)),
        "masks": np.concatenate(masks, 1),
        "truth": np.concatenate(truths),
        "sampled": np.concatenate(sampled),
        "in_sample": np.array([bool(part[0]) for part in sampled]),
        "ratings": np.stack(ratings),
        "sweep": sweep.numpy(),
        "joint": joint.numpy(),
        **{f"two {name}": counts.numpy() for name, counts in {**two, **views}.items()},
    }


@torch.inference_mode()
def view_agreements(run: CamRun, data: Dataset) -> dict[str, Tensor]:
    """Count how seeds of the smallest and the greatest scale agree, and those of the pictures and their mirror images.

    Returns:
        By name, confusion matrices as in :func:`wsss_lib.results.choose.agreement`.
    """
    method: CamMethod = run.method
    run.to_device()
    method.train(False)
    views, num_classes = views_for(method, data, run.context.normalise), len(data.classes) + 1
    found = {name: torch.zeros(len(GRID), num_classes, num_classes, dtype=torch.int64) for name in ("scales", "mirror")}
    order = np.argsort(method.config.scales)
    todo = [index for index in data.masked if data.labels[index].any()]
    for index in bar(todo, f"views of {data.name}", len(todo)):
        classes, size = data.labels[index].nonzero().flatten(), data.size(index)
        plain, mirrored = [], []
        for pixels in views[index][1]:
            maps = method.cam(torch.stack([pixels, pixels.flip(-1)]).to(run.fabric.device)).float().cpu()[:, classes]
            maps[1] = maps[1].flip(-1)
            for parts, part in zip((plain, mirrored), upsample(maps, size).relu(), strict=True):
                parts.append(part)
        ends = [plain[i] + mirrored[i] for i in (order[0], order[-1])]
        for name, pair in (("scales", ends), ("mirror", [torch.stack(plain).sum(0), torch.stack(mirrored).sum(0)])):
            first, second = (method.normalise_maps(maps) for maps in pair)
            found[name] += agreement(first, second, classes, GRID, num_classes)
    return found


def epoch_agreement(run: CamRun) -> dict[str, Tensor]:
    """Count how seeds of the last two epochs agree on the few pictures whose maps a run has kept after every epoch."""
    epochs = [int(path.name) for path in sorted((run.folder / "growth").glob("[0-9]*"))][-2:]
    if len(epochs) < 2:
        return {}
    (data, before), (_, after) = map(run.growth, epochs)
    pairs = [(read_cams(before, data, index), read_cams(after, data, index)) for index in range(len(data))]
    counts = [agreement(a, b, classes, GRID, len(data.classes) + 1) for (classes, a), (_, b) in pairs if len(classes)]
    return {"epochs": torch.stack(counts).sum(0)} if counts else {}


def jobs(folders: Sequence[Path], refined: Sequence[Path]) -> Iterator[tuple[str, Callable[[], Job]]]:
    """Yield the name of every set and a function that opens it.

    The other seed of a run is the next one with the same name, and the other method is the next with the same seed, in
    the order of the folders.
    """
    refiners: dict[Path, list[RefinementRun]] = {}
    for folder in refined:
        run = reopen(folder, guest=True)
        assert isinstance(run, RefinementRun), f"{folder} does not refine maps"
        refiners.setdefault(run.cam_run.folder.resolve(), []).append(run)
    named = {name_and_seed(folder.name): folder for folder in folders}
    if len(named) < len(folders):
        raise SystemExit("two runs have the same method and seed in their names; give folders of other names.")
    for (name, seed), folder in named.items():
        seeds = [other for method, other in named if method == name]
        methods = [method for method, other in named if other == seed]
        following = {
            "other seed": named[name, seeds[(seeds.index(seed) + 1) % len(seeds)]],
            "other method": named[methods[(methods.index(name) + 1) % len(methods)], seed],
        }
        for split in ("train", "val"):

            def job(split: str = split, folder: Path = folder, following: dict[str, Path] = following) -> Job:
                others = {way: open_cams(other).cams(split) for way, other in following.items() if other != folder}
                masks = {
                    f"{run.settings.method} {kind}": run.masks(kind, split)
                    for run in refiners.get(folder.resolve(), [])
                    for kind in ("walk", "walk-crf")
                }
                return Job(open_cams(folder), split, others, masks)

            yield f"{name}-{seed}-{split}", job


def name_and_seed(folder: str) -> tuple[str, int]:
    """Return the two parts of ``<method>-<seed>``; the seed is 0 if there is none."""
    name, _, seed = folder.rpartition("-")
    return (name, int(seed)) if name and seed.isdigit() else (folder, 0)


@cache
def open_cams(folder: Path) -> CamRun:
    """Open a run with maps for reading; opening takes as long as measuring many pictures."""
    run = reopen(folder, guest=True)
    assert isinstance(run, CamRun), f"{folder} is not a run with class activation maps"
    return run


# ------------------------------------------------------------------------------------------ what the ways to choose say


def kappa(confusions: Tensor) -> Tensor:
    """Return Cohen's kappa, the agreement above that of labels which are distributed by chance."""
    counts = confusions.double()
    total = counts.sum((-2, -1))
    equal = counts.diagonal(dim1=-2, dim2=-1).sum(-1) / total
    chance = (counts.sum(-1) * counts.sum(-2)).sum(-1) / total**2
    return ((equal - chance) / (1 - chance)).nan_to_num(0.0)


AGREEMENTS = {"": agreement_rating, ", above chance": kappa}


def confusion(first: np.ndarray, second: np.ndarray, num_classes: int) -> Tensor:
    """Return the confusion matrix of label maps, without the pixels that the first ignores."""
    counted = first != 255
    cells = first[counted].astype(np.int64) * num_classes + second[counted]
    return torch.from_numpy(np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes))


def crossing(alpha: float) -> int:
    """Return the position of the threshold at which a pixel's object and background have the same score."""
    grid = GRID.double()
    return int(((1 - grid) ** alpha >= grid).sum()) - 1


def nearest_power(threshold: float) -> int:
    """Return the position of the alpha with which objects begin at a threshold."""
    threshold = min(max(threshold, 0.01), 0.99)
    power = np.log(threshold) / np.log(1 - threshold)
    return int(np.abs(np.log(np.array(ALPHAS) / power)).argmin())


class Measured:
    """A set that has been measured.

    Args:
        path: File that holds the result of :func:`measure`.

    Attributes:
        name: Name of the method.
        seed: Random seed.
        split: Name of the split.
        scores: Mean IoU in percent of each result: the seed, CRFs, walks.
        thresholds: Mean IoU in percent at all thresholds, ``(T,)``.
        alphas: Mean IoU in percent after the CRF with each power, ``(A,)``.
    """

    def __init__(self, path: Path) -> None:
        run, _, self.split = path.stem.rpartition("-")
        self.name, self.seed = name_and_seed(run)
        with np.load(path) as file:
            self.arrays = dict(file)
        self.about = json.loads(str(self.arrays["about"]))
        self.num_classes = self.about["classes"]
        self.masks = dict(zip(self.about["results"], self.arrays["masks"], strict=True))
        self.scores = {name: self.score(mask) for name, mask in self.masks.items()}
        sweep = sweep_confusions(torch.from_numpy(self.arrays["sweep"]))
        self.thresholds = 100 * class_mean(intersection_over_union(sweep))
        self.alphas = torch.tensor([self.scores[name] for name in CRFS])
        self.joint = torch.stack([sweep_confusions(torch.from_numpy(counts)) for counts in self.arrays["joint"]])

    def score(self, mask: np.ndarray) -> float:
        """Return the mean IoU of label maps in percent."""
        counts = confusion(self.arrays["truth"], mask, self.num_classes)
        return 100 * float(class_mean(intersection_over_union(counts)))

    def agree(self, masks: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Return how masks agree with each other, ``(M, M)``, by the end of a way's name."""
        found = {end: torch.eye(len(masks), dtype=torch.float64) for end in AGREEMENTS}
        for i, j in combinations(range(len(masks)), 2):
            counts = confusion(masks[i], masks[j], self.num_classes)
            for end, rate in AGREEMENTS.items():
                found[end][i, j] = found[end][j, i] = rate(counts)
        return found

    def chosen_thresholds(self) -> dict[str, int]:
        """Return the position of the threshold that each way chooses."""
        found = {name: round(100 * threshold) for name, threshold in self.about["thresholds"].items()}
        two = {name[4:]: torch.from_numpy(counts) for name, counts in self.arrays.items() if name.startswith("two ")}
        for end, rate in AGREEMENTS.items():
            crfs = rate(self.joint)
            for power in (4.0, 8.0, 16.0):
                found[f"agreement with a CRF, alpha {power:g}{end}"] = int(crfs[ALPHAS.index(power)].argmax())
            by_otsu = int(crfs[:, found["Otsu"]].argmax())
            found[TWO_STEPS + end] = int(crfs[by_otsu].argmax())
            found[f"agreement with CRFs of all alphas{end}"] = int(crfs.mean(0).argmax())
            found[f"agreement with the CRF that agrees best{end}"] = int(crfs.amax(0).argmax())
            found |= {f"agreement of {name}{end}": int(rate(counts).argmax()) for name, counts in two.items()}
        return {f"fixed, {FIXED_THRESHOLD:g}": round(100 * FIXED_THRESHOLD), **found}

    def chosen_alphas(self) -> dict[str, int]:
        """Return the position of the alpha that each way chooses."""
        found = {f"fixed, {alpha:g}": position for position, alpha in enumerate(ALPHAS)}
        fixed, own = round(100 * FIXED_THRESHOLD), torch.tensor([crossing(alpha) for alpha in ALPHAS])
        at_otsu, at_share = (round(100 * self.about["thresholds"][way]) for way in ("Otsu", "objects cover 30%"))
        masks = [self.masks[name][self.arrays["sampled"]] for name in CRFS]
        among = self.agree(masks)
        for end, rate in AGREEMENTS.items():
            seeds = rate(self.joint)
            neighbours = among[end].diagonal(1)
            steady = [neighbours[max(0, i - 1) : i + 1].mean() for i in range(len(ALPHAS))]
            for name, ratings in {
                f"agreement with the seed at {FIXED_THRESHOLD:g}": seeds[:, fixed],
                "agreement with the seed at Otsu's threshold": seeds[:, at_otsu],
                "agreement with the seed that covers 30%": seeds[:, at_share],
                "agreement with the seed of the same background": seeds[range(len(ALPHAS)), own],
                "agreement with the seed that agrees best": seeds.amax(1),
                "agreement with the next alphas": torch.stack(steady),
                "agreement with all alphas": among[end].mean(1),
            }.items():
                found[name + end] = int(ratings.argmax())
        for name, ratings in self.ratings(self.arrays["in_sample"], CRFS).items():
            found[name] = int(ratings.argmax())
        for name, column in {"free energy": 4, "least change": 5, "least entropy": 6}.items():
            found[name] = int(
                self.arrays["ratings"][self.arrays["in_sample"]].sum(0)[column, 1 : 1 + len(CRFS)].argmin()
            )
        covered = np.array([(mask > 0).mean() for mask in masks])
        share = (self.masks[SEED][self.arrays["sampled"]] > 0).mean()
        found[f"covers what the seed at {FIXED_THRESHOLD:g} covers"] = int(np.abs(covered - share).argmin())
        found["objects cover 30%"] = int(np.abs(covered - 0.3).argmin())
        found["begins at Otsu's threshold"] = nearest_power(at_otsu / 100)
        return found

    def ratings(self, pictures: np.ndarray, results: Sequence[str]) -> dict[str, Tensor]:
        """Return the ratings of label maps by name, ``(M,)`` for the results that are asked for; higher is better."""
        positions = [self.about["results"].index(name) for name in results]
        sums = torch.from_numpy(self.arrays["ratings"][pictures].sum(0))[:, positions]
        contrast = torch.where(sums[1] >= LEAST_BOUNDARY * sums[1].max(), sums[0] / sums[1], -1.0)
        return {"boundary contrast": contrast, "explained colour": sums[2], "normalised cut": -sums[3]}


# ----------------------------------------------------------------------------------------------------------- the tables


class Choice(NamedTuple):
    """What one way chose on one set.

    Attributes:
        way: Name of the way.
        regret: Mean IoU of the best choice less that of this one, in points.
        fixed: Regret of the fixed choice on the same set.
        tuned: Whether the ways were chosen on this set.
        correlation: Rank correlation of the way's ratings with the mean IoU; NaN for a way without ratings.
    """

    way: str
    regret: float
    fixed: float
    tuned: bool
    correlation: float = float("nan")


def is_tuned(one: Measured) -> bool:
    """Return whether the ways were chosen on a set: those of the toy world's `train` with the random seed 0."""
    return (one.seed, one.split) == (0, "train") and one.name in TOY


def regrets(scores: Tensor, chosen: Mapping[str, int], fixed: str, tuned: bool) -> list[Choice]:
    """Return what each way loses.

    Args:
        scores: Mean IoU in percent of each possible choice.
        chosen: Position that each way chooses, by name.
        fixed: Name of the fixed choice, which is among the ways.
        tuned: See `Choice`.
    """
    losses = {way: float(scores.max() - scores[position]) for way, position in chosen.items()}
    return [Choice(way, loss, losses[fixed], tuned) for way, loss in losses.items()]


def refinement_choices(one: Measured) -> list[Choice]:
    """Return the choices between the seed, the CRF with the fixed alpha, and walks, if there are any."""
    names = [SEED, FIXED_CRF, *one.about["results"][1 + len(CRFS) :]]
    chosen = {f"fixed, {name}": position for position, name in enumerate(names)}
    everything = np.ones(len(one.arrays["ratings"]), dtype=bool)
    chosen |= {way: int(ratings.argmax()) for way, ratings in one.ratings(everything, names).items()}
    if len(names) > 2:
        for end, among in one.agree([one.masks[name] for name in names]).items():
            chosen[f"agreement with the others{end}"] = int(among.mean(1).argmax())
    return regrets(torch.tensor([one.scores[name] for name in names]), chosen, f"fixed, {FIXED_CRF}", is_tuned(one))


def method_choices(sets: Sequence[Measured], everyone: Sequence[Measured], result: str) -> list[Choice]:
    """Return the choices between methods on the pictures of one split.

    Args:
        sets: Sets of the same pictures and the same random seed, one for each method.
        everyone: All sets, among which those with other random seeds are found.
        result: Name of the result that is compared, such as ``seed``.
    """
    names, scores = [one.name for one in sets], torch.tensor([one.scores[result] for one in sets])
    ratings: dict[str, list[float]] = {}
    for one in sets:
        everything = np.ones(len(one.arrays["ratings"]), dtype=bool)
        for way, rating in one.ratings(everything, [result]).items():
            ratings.setdefault(way, []).append(float(rating))
        others = [
            other for other in everyone if (other.name, other.split) == (one.name, one.split) and other is not one
        ]
        for end, rate in AGREEMENTS.items():
            for way, masks in {
                "agreement with its CRF": [one.masks[FIXED_CRF if result == SEED else SEED]],
                "agreement of its random seeds": [other.masks[result] for other in others],
            }.items():
                counts = [confusion(mask, one.masks[result], one.num_classes) for mask in masks]
                values = [float(rate(count)) for count in counts] or [float("nan")]
                ratings.setdefault(way + end, []).append(sum(values) / len(values))
        if one.about["precision"] is not None:
            ratings.setdefault("average precision of the labels", []).append(one.about["precision"])
    for end, among in sets[0].agree([one.masks[result] for one in sets]).items():
        ratings[f"agreement with the other methods{end}"] = among.mean(1).tolist()
    full = {way: torch.tensor(values) for way, values in ratings.items() if len(values) == len(sets)}
    chosen = {f"fixed, {name}": position for position, name in enumerate(names)}
    chosen |= {way: int(values.argmax()) for way, values in full.items()}
    tuned = is_tuned(sets[0])
    found = regrets(scores, chosen, f"fixed, {FIXED_METHOD}", tuned)
    varied = {
        way: values for way, values in full.items() if values.max() > values.min() and scores.max() > scores.min()
    }
    ranks = {way: float(spearmanr(values.numpy(), scores.numpy()).statistic) for way, values in varied.items()}
    return [one._replace(correlation=ranks.get(one.way, float("nan"))) for one in found]


def summary(choices: Sequence[Choice]) -> str:
    """Return a table with a row for each way: regrets where the ways were chosen, and on all other sets."""
    ways = dict.fromkeys(one.way for one in choices)
    rows = []
    for way in ways:
        mine = [one for one in choices if one.way == way]
        tuned, rest = ([one for one in mine if one.tuned is side] for side in (True, False))
        cells = [f"{mean(one.regret for one in part):.2f}" if part else "" for part in (tuned, rest)]
        cells.append(f"{max(one.regret for one in rest):.2f}" if rest else "")
        better = sum(one.regret < one.fixed for one in rest)
        worse = sum(one.regret > one.fixed for one in rest)
        cells.append(f"{better} / {worse} of {len(rest)}")
        known = [one.correlation for one in mine if one.correlation == one.correlation]
        if any(one.correlation == one.correlation for one in choices):
            cells.append(f"{mean(known):+.2f} ({min(known):+.2f})" if known else "")
        rows.append([way, *cells])
    head = ["chosen by", "mean, chosen here", "mean, others", "greatest, others", "better / worse than fixed"]
    if rows and len(rows[0]) > len(head):
        head.append("rank correlation (least)")
    return markdown_table(head, sorted(rows, key=lambda row: float(row[2] or row[1])))


def single(choices: Mapping[str, Sequence[Choice]], ways: Sequence[str]) -> str:
    """Return a table with a row for each method and split: mean regret of some ways."""
    rows = [
        [
            name,
            *(f"{mean(values):.2f}" if (values := [c.regret for c in found if c.way == way]) else "" for way in ways),
        ]
        for name, found in choices.items()
    ]
    return markdown_table(["maps", *ways], rows)


def tables(sets: Sequence[Measured]) -> Iterator[tuple[str, str]]:
    """Yield the title and the text of every table."""
    lists: dict[str, dict[str, list[Choice]]] = {"threshold": {}, "alpha": {}}
    for one in sets:
        maps, tuned = f"{one.name}, {one.split}", is_tuned(one)
        for what, scores, chosen, fixed in (
            ("threshold", one.thresholds, one.chosen_thresholds(), f"fixed, {FIXED_THRESHOLD:g}"),
            ("alpha", one.alphas, one.chosen_alphas(), f"fixed, {FIXED_ALPHA:g}"),
        ):
            lists[what].setdefault(maps, []).extend(regrets(scores, chosen, fixed, tuned))
    for what, found in lists.items():
        yield what, summary([one for choices in found.values() for one in choices])
        yield f"{what}, each set", single(found, SHOWN[what])
    yield (
        "seed or CRF",
        summary([c for one in sets if len(one.masks) == 1 + len(CRFS) for c in refinement_choices(one)]),
    )
    yield "refinement", summary([c for one in sets if len(one.masks) > 1 + len(CRFS) for c in refinement_choices(one)])
    groups: dict[tuple[int, str], list[Measured]] = {}
    for one in sets:
        if one.name in TOY:
            groups.setdefault((one.seed, one.split), []).append(one)
    whole = [group for group in groups.values() if len(group) > 2 and FIXED_METHOD in [one.name for one in group]]
    for result in (SEED, FIXED_CRF):
        yield f"method, by its {result}", summary([c for group in whole for c in method_choices(group, sets, result)])


def main() -> None:
    """Read the arguments, measure what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for what is measured of each set")
    parser.add_argument("--measure", type=Path, nargs="+", default=[], metavar="RUN", help="runs with maps")
    parser.add_argument(
        "--refined", type=Path, nargs="+", default=[], metavar="RUN", help="walks on maps of these runs"
    )
    parser.add_argument(
        "--sample", type=int, default=50, metavar="N", help="pictures on which CRFs choose (default: 50)"
    )
    parser.add_argument(
        "--part", default="0/1", metavar="I/N", help="do every N-th set, beginning with I (default: 0/1)"
    )
    parser.add_argument("--most", type=int, default=50, metavar="N", help="pictures of a set (default: at most 50)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    part = re.fullmatch(r"(\d+)/(\d+)", options.part)
    if part is None or int(part[1]) >= int(part[2]):
        parser.error(f"--part {options.part} is not I/N with I below N, such as 0/2.")
    first, step = int(part[1]), int(part[2])
    for name, job in list(jobs(options.measure, options.refined))[first::step]:
        path = options.work / f"{name}.npz"
        if not path.exists():
            found = measure(job(), options.sample, options.most)
            write_atomically(path, lambda file, found=found: np.savez_compressed(file, **found), durable=False)
    if not options.measure:
        sets = [Measured(path) for path in sorted(options.work.glob("*.npz"))]
        for title, table in tables(sets):
            print(f"## {title}\n\n{table}\n")


if __name__ == "__main__":
    main()
