"""Differences between sets of maps over the same pictures, with intervals from the bootstrap.

Pictures are drawn with replacement, the same pictures for both sets, and the mean intersection over union of each set
is computed over the drawn pictures. The interval says how much the difference depends on the choice of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.exchange.maps import MapSet
from wsss_lib.ops.cam import enlarged_bands
from wsss_lib.ops.metrics import class_mean, sweep_confusions, sweep_histogram
from wsss_lib.show.progress import bar
from wsss_lib.stages.evaluate import ahead, read_with_mask

_DRAWN_AT_ONCE = 2**24
"""Largest number of counts that are drawn at once: pictures times repetitions."""


@dataclass(frozen=True)
class Difference:
    """Difference between two sets of maps over the same pictures.

    Attributes:
        names: Names of both sets.
        mean_iou: Mean intersection over union of both sets, in [0, 1].
        difference: Mean of the first set minus mean of the second set.
        interval: Ends of the interval that holds the difference in 95 % of the repetitions.
        better: Share of the pictures on which the first set is better, among the pictures with different scores; NaN if
            the scores of all pictures are equal.
        images: Number of the pictures.
    """

    names: tuple[str, str]
    mean_iou: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    better: float
    images: int


def image_counts(one: MapSet, threshold: float) -> Tensor:
    """Count right, predicted and true pixels of every class in every picture that has a mask.

    Args:
        one: The maps and their pictures.
        threshold: The background score.

    Returns:
        ``(n, 3, C)`` int64, background first.

    Raises:
        InputError: There are no masks, or maps or masks are damaged or do not fit.
    """
    masked = one.data.masked
    if not masked:
        raise InputError(f"the pictures of {one.name} have no masks, so there is nothing to compare; give masks.")
    levels, num_classes = torch.tensor([threshold]), len(one.data.classes) + 1

    def count(index: int) -> Tensor:
        classes, cams, truth = read_with_mask(one.store, one.data, index)
        total = torch.zeros((), dtype=torch.int64)
        for rows, scores in enlarged_bands(cams, (truth.shape[0], truth.shape[1])):
            total = total + sweep_histogram(scores, classes, truth[rows], levels, num_classes)
        confusion = sweep_confusions(total)[0]
        return torch.stack([confusion.diagonal(), confusion.sum(0), confusion.sum(1)])

    with ThreadPoolExecutor(4) as pool:
        counts = bar(ahead(pool, count, masked), f"pictures of {one.name}", len(masked))
        return torch.stack([*counts])


def iou_of_counts(counts: Tensor) -> Tensor:
    """Return the intersection over union ``(..., C)`` float64 of counts ``(..., 3, C)``; NaN for an absent class."""
    right, predicted, true = counts.double().unbind(-2)
    return right / (predicted + true - right)


def difference(
    one: Tensor, other: Tensor, names: tuple[str, str], repetitions: int = 1000, seed: int = 0
) -> Difference:
    """Compare two sets of maps over the same pictures.

    Args:
        one: ``(n, 3, C)`` int64, see :func:`image_counts`.
        other: ``(n, 3, C)`` int64 of the other set, over the same pictures.
        names: Names of both sets.
        repetitions: Number of times that pictures are drawn.
        seed: Seed of the draws.
    """
    if one.shape != other.shape:
        raise ValueError(f"counts are {tuple(one.shape)} and {tuple(other.shape)}")
    images = len(one)
    scores = [class_mean(iou_of_counts(counts.sum(0))) for counts in (one, other)]
    drawn = bootstrap([one, other], repetitions, seed)
    low, high = (drawn[0] - drawn[1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    each = class_mean(iou_of_counts(one)) - class_mean(iou_of_counts(other))
    unequal = each[each != 0]
    return Difference(
        names,
        (float(scores[0]), float(scores[1])),
        float(scores[0] - scores[1]),
        (low, high),
        float((unequal > 0).double().mean()) if len(unequal) else float("nan"),
        images,
    )


def bootstrap(sets: Sequence[Tensor], repetitions: int, seed: int) -> Tensor:
    """Draw pictures with replacement, and return the mean intersection over union of each set of counts.

    Args:
        sets: ``(n, 3, C)`` int64 each, over the same n pictures, which are drawn alike for all sets.
        repetitions: R, the number of times that n pictures are drawn.
        seed: Seed of the draws.

    Returns:
        ``(sets, R)`` float64.
    """
    images, rng = len(sets[0]), np.random.default_rng(seed)
    counts = [one.double().flatten(1) for one in sets]
    results: list[Tensor] = []
    step = max(1, _DRAWN_AT_ONCE // images)
    for start in range(0, repetitions, step):
        share = rng.multinomial(images, np.full(images, 1 / images), min(step, repetitions - start))
        weights = torch.from_numpy(share).double()
        sums = torch.stack([weights @ one for one in counts])
        results.append(class_mean(iou_of_counts(sums.unflatten(-1, (3, -1)))))
    return torch.cat(results, dim=1)
