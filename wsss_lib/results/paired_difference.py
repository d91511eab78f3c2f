"""Paired difference of two methods' mean IoU, with an interval over random seeds and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsss_lib.errors import InputError

REPETITIONS = 2000
"""Repetitions of the bootstrap."""


@dataclass(frozen=True)
class Difference:
    """The difference of two methods' mean IoU, in [-1, 1].

    Attributes:
        mean: Mean over the seeds of the difference on all pictures.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        seeds: Number of seeds. With 1 seed the interval covers the choice of pictures alone.
    """

    mean: float
    low: float
    high: float
    seeds: int


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Return the mean IoU of summed counts; a class that neither occurs nor is predicted is left out.

    Args:
        counts: ``(..., C, 3)``, for each class the pixels that are right, true and predicted.

    Returns:
        ``(...)`` float64; NaN where no class occurs.
    """
    right, true, predicted = np.moveaxis(counts.astype(np.float64), -1, 0)
    union = true + predicted - right
    found = union > 0
    iou = np.where(found, right / np.where(found, union, 1), 0)
    number = found.sum(-1)
    return np.where(number > 0, iou.sum(-1) / np.maximum(number, 1), np.nan)


def paired_difference(
    ours: Sequence[np.ndarray], control: Sequence[np.ndarray], repetitions: int = REPETITIONS, seed: int = 0
) -> Difference:
    """Return the mean IoU of a method minus that of its control, paired by seed and by picture.

    The interval is that of a bootstrap in which seeds and pictures are crossed: each repetition draws pictures with
    replacement, the same ones for both methods and all seeds, computes both mean IoUs of each seed from the summed
    counts, draws seeds with replacement, and takes the mean of the differences. The ends are the 2.5 % and 97.5 %
    quantiles.

    Args:
        ours: For each seed ``(n, C, 3)`` counts, see :func:`mean_iou`.
        control: The same of the control, with the same seeds and pictures in the same order.
        repetitions: Number of repetitions.
        seed: Random seed of the draws.

    Raises:
        InputError: No seed is given, or the two methods have different seeds, pictures or classes.
    """
    shapes = {counts.shape for counts in (*ours, *control)}
    if not ours or len(ours) != len(control) or len(shapes) != 1 or 0 in next(iter(shapes)):
        raise InputError("the method and its control cannot be paired; give the same seeds, pictures and classes.")
    number, generator = next(iter(shapes))[0], np.random.default_rng(seed)
    both = [(a.reshape(number, -1), b.reshape(number, -1)) for a, b in zip(ours, control, strict=True)]
    whole = [float(mean_iou(a.sum(0)) - mean_iou(b.sum(0))) for a, b in zip(ours, control, strict=True)]
    drawn = generator.multinomial(number, np.full(number, 1 / number), size=repetitions).astype(np.float64)
    classes = (repetitions, *ours[0].shape[1:])
    differences = np.stack(
        [mean_iou((drawn @ a).reshape(classes)) - mean_iou((drawn @ b).reshape(classes)) for a, b in both], axis=1
    )
    seeds = generator.integers(len(both), size=differences.shape)
    means = np.take_along_axis(differences, seeds, axis=1).mean(1)
    low, high = np.nanquantile(means, (0.025, 0.975)).tolist()
    return Difference(float(np.mean(whole)), low, high, len(both))
