"""Which pictures to draw masks of, and the mean IoU of all pictures estimated from these few masks.

The mean IoU of a set of pictures is a ratio of sums: for each class the right pixels of all pictures, divided by the
pixels of the union. A sum over all pictures is estimated without bias if every drawn picture counts with one over the
probability of being drawn (Horvitz and Thompson, 1952). The ratio of two such sums has a bias that is small beside
the interval. The probabilities are known because :func:`draw` chooses the pictures at random; so the masks must be
those of the chosen pictures, and none may be left out because its picture is hard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.exchange.paired import iou_of_counts
from wsss_lib.ops.metrics import class_mean
from wsss_lib.stages.store import read_json


@dataclass(frozen=True)
class Suggestion:
    """Pictures whose masks are to be drawn.

    Attributes:
        drawn: Ids of the pictures.
        probabilities: Probability with which each of them was chosen, in (0, 1].
        pictures: Number of pictures that could have been chosen.
        digest: Digest of the ids of these pictures.
        seed: Random seed of the choice.
    """

    drawn: tuple[str, ...]
    probabilities: tuple[float, ...]
    pictures: int
    digest: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """The mean IoU of all pictures, estimated from drawn masks.

    Attributes:
        mean_iou: The estimate, in [0, 1].
        interval: Ends of the 95 % interval, in [0, 1].
        iou: Estimate for each of the C classes, background first; NaN for a class that no drawn picture shows.
        drawn: Number of pictures with a drawn mask.
        pictures: Number of all pictures.
    """

    mean_iou: float
    interval: tuple[float, float]
    iou: tuple[float, ...]
    drawn: int
    pictures: int


def digest_of(ids: Sequence[str]) -> str:
    """Return a digest of ids, whatever their order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def class_shares(labels: Tensor) -> Tensor:
    """Return sizes for :func:`probabilities` with which rare classes are drawn as often as frequent ones.

    A picture gets a share of each class that it shows: one over the number of pictures with this class. The background
    is a class that all pictures show.

    Args:
        labels: ``(n, K)``, 1 where a picture shows a class.

    Returns:
        ``(n,)`` float64, above 0.
    """
    shown = labels.double()
    return 1 / len(shown) + (shown / shown.sum(0).clamp(min=1)).sum(1)


def probabilities(sizes: Tensor, count: int) -> Tensor:
    """Return the probabilities, proportional to sizes, with which pictures are drawn.

    A picture for which the proportional probability would exceed 1 is drawn for certain, and the others share the rest.

    Args:
        sizes: ``(n,)`` float above 0.
        count: Number of pictures that are drawn, at most n.

    Returns:
        ``(n,)`` float64 in (0, 1], with the sum ``count``.
    """
    sizes = sizes.double()
    certain = torch.zeros(len(sizes), dtype=torch.bool)
    while True:
        rest = sizes.masked_fill(certain, 0)
        found = torch.where(certain, 1.0, rest * ((count - int(certain.sum())) / rest.sum().clamp(min=1e-300)))
        above = (found >= 1) & ~certain
        if not above.any():
            return found
        certain |= above


def by_class(labels: Tensor, rng: np.random.Generator) -> list[int]:
    """Return the positions of all pictures, sorted by the rarest class that each picture shows.

    Pictures with the same rarest class stand together, in a random order.

    Args:
        labels: ``(n, K)``, 1 where a picture shows a class.
        rng: Source of the random order.
    """
    shown = labels.bool()
    ranks = shown.sum(0).argsort(stable=True).argsort()  # 0 for the rarest class
    rarest = torch.where(shown, ranks, labels.shape[1]).amin(1)
    order = torch.from_numpy(rng.permutation(len(labels)))
    return order[rarest[order].argsort(stable=True)].tolist()


def draw(chances: Tensor, order: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Draw pictures with given probabilities, evenly along an order (systematic sampling with a random start).

    Args:
        chances: ``(n,)`` in (0, 1], with a whole number as the sum.
        order: Positions of all pictures; neighbours are seldom drawn together.
        rng: Source of the random start.

    Returns:
        Positions of the drawn pictures, ascending, as many as the sum says.
    """
    along = chances.double()[list(order)].cumsum(0)
    count = round(float(along[-1]))
    along = along * (count / along[-1])
    passed = (along - rng.random()).floor()
    passed[-1] = count - 1  # rounding must not lose the last one
    steps = torch.diff(passed, prepend=passed.new_tensor([-1.0]))
    return sorted(order[place] for place in (steps > 0).nonzero().flatten().tolist())


def estimate(counts: Tensor, chances: Tensor, pictures: int) -> Estimate:
    """Estimate the mean IoU of all pictures from those that were drawn.

    The interval comes from the jackknife: each drawn picture is left out once, and the 95 % interval is the estimate
    plus and minus the jackknife's standard error times the quantile of Student's t distribution. A picture that was
    certain to be drawn adds nothing. The bootstrap, which needs several drawn pictures of each class, gave intervals
    that were too short, see ``docs/how_good.md``.

    Args:
        counts: ``(m, 3, C)`` int64 of the m drawn pictures, see :func:`wsss_lib.exchange.paired.image_counts`.
        chances: ``(m,)`` in (0, 1], the probability of each drawn picture.
        pictures: Number of all pictures.

    Raises:
        ValueError: There are fewer than two pictures, or a probability is out of range.
    """
    drawn = len(counts)
    if drawn < 2 or chances.shape != (drawn,) or not ((chances > 0) & (chances <= 1)).all():
        raise ValueError(f"{drawn} pictures with the probabilities {chances.tolist()} give no estimate")
    weighted = counts.double() / chances.double()[:, None, None]
    iou = iou_of_counts(weighted.sum(0))
    middle = float(class_mean(iou))
    without = weighted.flatten(1)
    without = ((1 - torch.eye(drawn, dtype=torch.float64)) @ without).unflatten(1, weighted.shape[1:])
    means = class_mean(iou_of_counts(without))
    parts = (1 - chances.double()) * (means - means.mean()).square()
    half = float(student.ppf(0.975, drawn - 1)) * float(((drawn - 1) / drawn * parts.sum()).sqrt())
    return Estimate(middle, (max(0.0, middle - half), min(1.0, middle + half)), tuple(iou.tolist()), drawn, pictures)


def read_suggestion(path: Path) -> Suggestion:
    """Read what `wsss suggest` has written.

    Raises:
        InputError: The file is missing, damaged or not a suggestion.
    """
    found = read_json(path, "put back a copy of it, or suggest again and draw the new pictures")
    advice = f"{path} was not written by wsss suggest; give the file that names the suggested pictures."
    names = {field.name for field in fields(Suggestion)}
    if not isinstance(found, dict) or {*found} != names:
        raise InputError(advice)
    drawn, chances = found["drawn"], found["probabilities"]
    lists = isinstance(drawn, list) and isinstance(chances, list) and len(drawn) == len(chances) >= 2
    if not lists or not all(isinstance(one, str) for one in drawn) or len({*drawn}) < len(drawn):
        raise InputError(advice)
    if not all(isinstance(p, int | float) and 0 < p <= 1 for p in chances) or not isinstance(found["pictures"], int):
        raise InputError(advice)
    return Suggestion(tuple(drawn), tuple(map(float, chances)), found["pictures"], found["digest"], found["seed"])
