"""Planted label errors, and how many of them the most doubtful labels are.

    python benchmarks/label_doubts.py                                 # the toy world
    python benchmarks/label_doubts.py --data VOC2012 my_pictures      # folders as for `wsss doubt`
    python benchmarks/label_doubts.py --choose                        # settings, on a toy world of another seed

Each of a share of the pictures gets one error: half of them lose one of their labels (missing), half get the label of a
class that they do not have (superfluous), both drawn evenly. The labels of all pictures are then ranked by doubt. Of m
planted errors, the precision is the share of planted errors among the first m labels, which then also is the share of
the errors that these labels hold. Chance is the precision of a random order. "missing" ranks only the labels that are
not given, "superfluous" only those that are. "half" is the number of labels that somebody must look at, from the top,
until half of the errors are found.

Errors that were in the labels before count as mistakes of the ranking. Every number is mean ± standard deviation over
the seeds and plantings. A seed draws the toy world, the errors and the folds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

import torch
from common import table
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.splits import open_splits
from wsss_lib.data.toy import ToyWorld
from wsss_lib.methods.cam import Config
from wsss_lib.models import create_backbone
from wsss_lib.models.pretrained import load_backbone
from wsss_lib.runs.settings import default_weights
from wsss_lib.stages.context import Context
from wsss_lib.stages.engine import make_fabric
from wsss_lib.stages.infer import pooled_features
from wsss_lib.stages.label_doubts import FOLDS, held_out_probabilities, label_quality

SHARES = (0.02, 0.1)
"""Shares of the pictures that get an error."""

CHOSEN_ON = 9
"""Seed of the toy world on which settings are chosen; no other number comes from it."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def features_of(data: Dataset, preset: str) -> Tensor:
    """Return the means and the maxima of the features, ``(n, 2 channels)``, as `wsss doubt` computes them."""
    config = Config.preset(preset)
    backbone = create_backbone(config.backbone, **config.backbone_options)
    load_backbone(backbone, default_weights(preset, config.backbone, Path("pretrained")))
    return pooled_features(backbone, data, Context(make_fabric("cpu"), backbone.normalisation), config.view_multiple)


def plant(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return labels with errors, and which labels are errors, both ``(n, K)``.

    Args:
        labels: ``(n, K)``, 1 for a label that is given, else 0.
        share: Share of the pictures that get an error; half of the errors are missing labels.
        seed: Seed of the draws.
    """
    draw = torch.Generator().manual_seed(seed)
    count = round(share * len(labels))
    order = torch.randperm(len(labels), generator=draw).tolist()
    labelled = [i for i in order if labels[i].any()]
    missing = labelled[: count // 2]
    superfluous = [i for i in order if i not in missing and not labels[i].all()][: count - count // 2]
    planted = torch.zeros_like(labels)
    for i in (*missing, *superfluous):
        candidates = labels[i] if i in missing else 1 - labels[i]
        planted[i, torch.multinomial(candidates, 1, generator=draw)] = 1
    return (labels - planted).abs(), planted


def precision(quality: Tensor, planted: Tensor, among: Tensor) -> float:
    """Return the share of planted errors among the first labels, as many as there are planted errors.

    Args:
        quality: ``(n, K)``; the lowest comes first.
        planted: ``(n, K)``, 1 for a planted error.
        among: ``(n, K)`` bool, the labels that are ranked.
    """
    found = planted[among][quality[among].argsort(stable=True)]
    return float(found[: int(found.sum())].mean())


def rows_to_half(quality: Tensor, planted: Tensor) -> int:
    """Return how many of the first labels hold at least half of the planted errors."""
    found = planted.flatten()[quality.flatten().argsort(stable=True)].cumsum(0)
    return int((found < found[-1] / 2).sum()) + 1


def measure(features: Tensor, labels: Tensor, share: float, seed: int) -> list[float]:
    """Plant errors, rank the labels, and return the numbers of a row."""
    given, planted = plant(labels, share, seed)
    quality = label_quality(given, held_out_probabilities(features, given, FOLDS, seed))
    everything = torch.ones_like(planted).bool()
    numbers = [planted.sum()]
    for among in (everything, given == 0, given == 1):
        numbers += [100 * precision(quality, planted, among), 100 * planted[among].mean()]
    return [float(number) for number in (*numbers, rows_to_half(quality, planted))]


def choose(repeats: int) -> list[list[str]]:
    """Return the mean precision of each setting over the shares and plantings, on the toy world of its own seed."""
    data = ToyWorld("train", seed=CHOSEN_ON)
    both = features_of(data, "toy")
    mean_part, maximum = both.chunk(2, 1)
    rows = []
    for name, features in {"mean": mean_part, "maximum": maximum, "mean and maximum": both}.items():
        for strength in STRENGTHS:
            found: dict[bool, list[float]] = {False: [], True: []}
            for share in SHARES:
                for seed in range(repeats):
                    given, planted = plant(data.labels, share, seed)
                    probabilities = held_out_probabilities(features, given, FOLDS, seed, strength)
                    for adjusted in found:
                        quality = label_quality(given, probabilities, adjusted)
                        found[adjusted].append(precision(quality, planted, torch.ones_like(planted).bool()))
            rows.append([name, f"{strength:g}", *(f"{100 * mean(values):.1f}" for values in found.values())])
    return rows


def row(name: str, share: float, found: Iterable[list[float]]) -> list[str]:
    """Return the cells of a row from the numbers of all plantings."""
    count, every, chance, missing, missed, extra, added, half = zip(*found, strict=True)

    def spread(values: tuple[float, ...]) -> str:
        return f"{mean(values):.0f} ± {stdev(values):.0f}"

    pairs = ((every, chance), (missing, missed), (extra, added))
    cells = [f"{spread(values)} ({mean(by_chance):.1f})" for values, by_chance in pairs]
    return [name, f"{100 * share:.0f} %", f"{mean(count):.0f}", *cells, f"{mean(half):.0f}"]


def main() -> None:
    """Print a row for each data set and share of errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", type=Path, default=[], metavar="FOLDER", help="folders of pictures")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--repeats", type=int, default=1, help="plantings for each seed (default: 1)")
    parser.add_argument("--choose", action="store_true", help="compare settings on the toy world of another seed")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its choice (default: 0)")
    options = parser.parse_args()
    if min(options.seeds, options.repeats) < 1 or (not options.choose and options.seeds * options.repeats < 2):
        raise SystemExit("--seeds and --repeats must be at least 1, and together give two plantings, for a deviation.")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.choose:
        print(table(["features", "C", "precision %", "precision %, adjusted"], choose(options.repeats)))
        return
    numbers: dict[tuple[str, float], list[list[float]]] = {}
    worlds = {f"toy world, seed {seed}": (ToyWorld("train", seed=seed), "toy") for seed in range(options.seeds)}
    folders = {folder.name: (open_splits("photos", folder).fit, "photos") for folder in options.data}
    for name, (data, preset) in {**worlds, **folders}.items():
        features = features_of(data, preset)
        print(f"{name}: {len(data)} pictures, {int(data.labels.sum())} labels", flush=True)
        for share in SHARES:
            seeds = [int(name.split()[-1])] if preset == "toy" else range(options.seeds)
            for seed in (s * 1000 + repeat for s in seeds for repeat in range(options.repeats)):
                found = measure(features, data.labels, share, seed)
                numbers.setdefault((name.partition(",")[0], share), []).append(found)
    head = ["data", "pictures with an error", "errors", "precision % (chance)", "missing", "superfluous", "half"]
    print(table(head, [row(name, share, found) for (name, share), found in numbers.items()]))


if __name__ == "__main__":
    main()
