"""Background thresholds and powers of a CRF that are chosen without any mask, from maps and their pictures.

Each candidate rates every threshold of the sweep, or every power, and the one with the highest rating is chosen; of
equals the lowest. :data:`MEASURED` says how far the chosen values were from the best ones, ``docs/choices.md`` on which
maps.

At the threshold number t, a pixel belongs to an object if the pixel's highest score is greater than ``thresholds[t]``,
as in :func:`wsss_lib.ops.cam.cam_label`. The *level* of a pixel is the number of thresholds below the pixel's highest
score. So the pixel belongs to an object as long as t is below the level, and one pass over the pixels counts for all
thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.transforms import to_tensor
from wsss_lib.errors import InputError
from wsss_lib.ops.cam import argmax, background_power, cam_label
from wsss_lib.ops.dense_crf import dense_crf, unary_from_labels, unary_from_scores
from wsss_lib.ops.metrics import (
    class_mean,
    confusion_matrix,
    intersection_over_union,
    sweep_confusions,
    sweep_histogram,
)
from wsss_lib.runs.report import FIXED_ALPHA, FIXED_THRESHOLD
from wsss_lib.show.progress import bar
from wsss_lib.stages.evaluate import THRESHOLDS
from wsss_lib.stages.refine import label_map
from wsss_lib.stages.store import CamStore, read_cams

OBJECT_SHARE = 0.3
"""Share of the pixels that the quantile gives to objects."""

REACH = 2
"""Distance of the two pixels whose colours the boundary contrast compares."""

LEAST_BOUNDARY = 0.1
"""Length of the boundary, as a share of the longest one, below which the boundary contrast rates no threshold."""

ALPHAS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Powers of the background that are rated."""

BY_OTSU = "agreement with the seed at Otsu's threshold"
"""The way that chooses an alpha by its masks' agreement with a seed."""

TWO_STEPS = "agreement with the CRF of the alpha that Otsu's seed chooses"
"""The way that chooses a threshold with the alpha of `BY_OTSU`."""

CONFIDENCE = 0.7
"""Probability that a seed's label is right, for the CRF of each seed; IRN's value."""

STEP = 5
"""Every which threshold of the sweep has a CRF of its own."""


MEASURED: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "threshold": {
        "fixed": (1.99, 9.77),
        "Otsu": (2.06, 7.16),
        "objects cover 30%": (0.64, 4.27),
        "boundary contrast": (25.49, 38.92),
        "explained colour": (7.36, 16.01),
        "agreement with a CRF, alpha 8": (2.90, 12.56),
        TWO_STEPS: (0.88, 4.41),
        "agreement with the seed's own CRF": (8.68, 18.25),
        "agreement with other maps": (15.80, 25.56),
    },
    "alpha": {
        "fixed": (3.30, 12.47),
        BY_OTSU: (1.15, 7.49),
        "agreement with the seed at the fixed threshold": (4.14, 13.30),
        "objects cover what they cover at the fixed threshold": (2.75, 10.71),
    },
}
"""The mean and the greatest regret of each way, in points of mean IoU, as in the tables of ``docs/choices.md``."""

NOTE = f"""\
A regret is how many points of mean IoU a way lost against the best choice, on average and at most, on the sets of maps
in docs/choices.md. The defaults are the fixed values, threshold {FIXED_THRESHOLD:g} and alpha {FIXED_ALPHA:g}."""


def fixed_choice(name: str) -> str:
    """Return a sentence on the masks that count without true masks, with the regret if their alpha is the fixed one.

    Args:
        name: Name of the masks, such as ``crf-8``.
    """
    average, greatest = MEASURED["alpha"]["fixed"]
    reason = f", since no other alpha is nearer to {FIXED_ALPHA:g}"
    if name == f"crf-{FIXED_ALPHA:g}":
        reason = (
            f"; alpha {FIXED_ALPHA:g} lost {average:.1f} points of mean IoU on average and {greatest:.1f} at most in "
            "docs/choices.md"
        )
    return f"train has no masks: {name} is the fixed choice{reason}; wsss choose prints other choices"


def levels(cams: Tensor, thresholds: Tensor) -> Tensor:
    """Return how many thresholds are below the highest score of each pixel.

    Args:
        cams: ``(n, H, W)`` float in [0, 1], with n of at least 1.
        thresholds: ``(T,)`` ascending.

    Returns:
        ``(H, W)`` int64 in [0, T].
    """
    return torch.bucketize(cams.amax(0), thresholds)


def level_counts(cams: Tensor, thresholds: Tensor) -> Tensor:
    """Return the number of pixels at each level, ``(T + 1,)`` int64; see :func:`levels`."""
    return torch.bincount(levels(cams, thresholds).flatten(), minlength=len(thresholds) + 1)


def otsu(counts: Tensor) -> int:
    """Return the position of Otsu's threshold, which separates objects and background with the least variance inside.

    Args:
        counts: ``(T + 1,)`` int64, the sum of :func:`level_counts` over the pictures.
    """
    used = counts.nonzero().flatten()
    position = int(used[0])
    if len(used) > 1:  # scikit-image refuses a histogram with one value
        position = int(threshold_otsu(hist=(counts.numpy(), torch.arange(len(counts)).numpy())))
    return min(position, len(counts) - 2)


def evenly_spaced(positions: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the positions, or all if there are fewer."""
    count = min(count, len(positions))
    return [positions[i * len(positions) // count] for i in range(count)]


def agreement_rating(confusions: Tensor) -> Tensor:
    """Return the mean IoU of ``(..., C, C)`` confusion matrices, ``(...)``; a class that does not occur counts as 0.

    So masks do not agree because nothing is in them.
    """
    return class_mean(intersection_over_union(confusions), "zero")


def quantile(counts: Tensor, share: float = OBJECT_SHARE) -> int:
    """Return the position of the lowest threshold at which objects cover at most a share of the pixels.

    Args:
        counts: ``(T + 1,)`` int64, the sum of :func:`level_counts` over the pictures.
        share: Share in [0, 1].
    """
    covered = counts.flip(0).cumsum(0).flip(0)[1:]
    fits = covered <= share * counts.sum()
    return int(fits.int().argmax()) if fits.any() else len(counts) - 2


def boundary_contrast(cams: Tensor, image: Tensor, thresholds: Tensor, reach: int = REACH) -> tuple[Tensor, Tensor]:
    """Return colour differences across the boundary of the seed, at all thresholds in one pass.

    Two pixels of a row or of a column, ``reach`` apart, are a pair of the boundary if their labels differ. The colour
    difference is the Euclidean one, divided by the mean of all pairs of the picture.

    Args:
        cams: ``(n, H, W)`` float in [0, 1], with n of at least 1.
        image: ``(3, H, W)`` of any real type.
        thresholds: ``(T,)`` ascending.
        reach: Distance of the pixels of a pair.

    Returns:
        The sum of the differences over the pairs of the boundary, and the number of these pairs, both ``(T,)`` float64.
        They are 0 for a picture of one colour.
    """
    level, which, colours = levels(cams, thresholds), argmax(cams, 0), image.double()
    starts, ends, differences = [], [], []
    for dim in (0, 1):
        length = max(0, level.shape[dim] - reach)
        (a, b), (k, m) = (
            (values.narrow(dim, 0, length), values.narrow(dim, values.shape[dim] - length, length))
            for values in (level, which)
        )
        here, there = colours.narrow(dim + 1, 0, length), colours.narrow(dim + 1, image.shape[dim + 1] - length, length)
        starts.append(torch.where(k == m, torch.minimum(a, b), 0).flatten())
        ends.append(torch.maximum(a, b).flatten())
        differences.append((here - there).square().sum(0).sqrt().flatten())
    start, end, difference = torch.cat(starts), torch.cat(ends), torch.cat(differences)
    if not difference.any():
        return torch.zeros(len(thresholds)).double(), torch.zeros(len(thresholds)).double()
    difference /= difference.mean()
    sums, pairs = (
        torch.zeros(len(thresholds) + 1, dtype=torch.float64)
        .index_add(0, start, weights)
        .index_add(0, end, -weights)
        .cumsum(0)[:-1]
        for weights in (difference, torch.ones_like(difference))
    )
    return sums, pairs


def explained_colour(cams: Tensor, image: Tensor, thresholds: Tensor) -> Tensor:
    """Return the share of the colours' variance that the division into objects and background explains.

    Args:
        cams: ``(n, H, W)`` float in [0, 1], with n of at least 1.
        image: ``(3, H, W)`` of any real type.
        thresholds: ``(T,)`` ascending.

    Returns:
        ``(T,)`` float64 in [0, 1]; 0 if all pixels are on one side, or all have one colour.
    """
    level, colours = levels(cams, thresholds).flatten(), image.double().flatten(1)
    colours = colours - colours.mean(1, keepdim=True)
    variance = colours.square().sum()
    sums = torch.zeros(3, len(thresholds) + 1, dtype=torch.float64).index_add(1, level, colours)
    counts = torch.bincount(level, minlength=len(thresholds) + 1)
    inside, covered = (values.flip(-1).cumsum(-1).flip(-1)[..., 1:] for values in (sums, counts))
    # the sums inside and outside are opposite, since the colours have the mean 0
    between = inside.square().sum(0) * (1 / covered + 1 / (level.numel() - covered))
    share = between / variance
    return torch.where((covered > 0) & (covered < level.numel()) & (variance > 0), share, 0.0)


def agreement(first: Tensor, second: Tensor, classes: Tensor, thresholds: Tensor, num_classes: int) -> Tensor:
    """Count how two sets of maps of one picture agree, at all thresholds in one pass.

    Args:
        first: ``(n, H, W)`` float in [0, 1], with n of at least 1.
        second: Maps of the same shape and classes.
        classes: ``(n,)`` int64, the class of each map, from 0.
        thresholds: ``(T,)`` ascending; both sets have the same threshold.
        num_classes: C, with background.

    Returns:
        ``(T, C, C)`` int64, confusion matrices with the label of the first set in the rows.
    """
    bins = len(thresholds) + 1
    (a, k), (b, m) = (
        (levels(maps, thresholds).flatten(), (classes + 1)[argmax(maps, 0)].flatten()) for maps in (first, second)
    )
    low, high, zero = torch.minimum(a, b), torch.maximum(a, b), torch.zeros_like(a)
    between = torch.where(a > b, k * num_classes, m)  # only one set sees an object
    steps = torch.zeros(num_classes**2 * bins, dtype=torch.int64)
    for cell, begin, end in ((k * num_classes + m, zero, low), (between, low, high)):
        steps += torch.bincount(cell * bins + begin, minlength=len(steps))
        steps -= torch.bincount(cell * bins + end, minlength=len(steps))
    steps[:bins] += torch.bincount(high, minlength=bins)
    return steps.view(num_classes, num_classes, bins).cumsum(-1)[..., :-1].movedim(-1, 0)


def crf_agreement(
    cams: Tensor,
    classes: Tensor,
    image: Tensor,
    thresholds: Tensor,
    num_classes: int,
    alphas: Sequence[float] = ALPHAS,
) -> Tensor:
    """Count how the seeds of all thresholds agree with the masks of CRFs on the backgrounds ``(1 - max)^alpha``.

    Args:
        cams: ``(n, H, W)`` float in [0, 1], with n of at least 1.
        classes: ``(n,)`` int64, the class of each map, from 0.
        image: ``(3, H, W)`` uint8.
        thresholds: ``(T,)`` ascending.
        num_classes: C, with background.
        alphas: A powers of the background.

    Returns:
        ``(A, T, C, C)`` int64, confusion matrices with the label of the CRF in the rows.
    """
    scores = torch.stack([background_power(cams, alpha) for alpha in alphas])
    [solved] = dense_crf([image], [unary_from_scores(scores)])
    masks = [label_map(classes, q) for q in solved]
    return torch.stack(
        [sweep_confusions(sweep_histogram(cams, classes, mask, thresholds, num_classes)) for mask in masks]
    )


def own_crf_agreement(
    cams: Tensor, classes: Tensor, image: Tensor, thresholds: Tensor, num_classes: int, confidence: float = CONFIDENCE
) -> Tensor:
    """Count how the seed of each threshold agrees with the mask that IRN's CRF makes of the same seed.

    Args:
        cams: ``(n, H, W)`` float in [0, 1], with n of at least 1.
        classes: ``(n,)`` int64, the class of each map, from 0.
        image: ``(3, H, W)`` uint8.
        thresholds: ``(T,)``; each costs a field of its own.
        num_classes: C, with background.
        confidence: Probability that the seed's label is right.

    Returns:
        ``(T, C, C)`` int64, confusion matrices with the label of the CRF in the rows.
    """
    rows = torch.arange(len(classes))
    labels = torch.stack([cam_label(cams, rows, float(threshold)) for threshold in thresholds])
    [solved] = dense_crf([image], [unary_from_labels(labels, len(classes) + 1, confidence)], "irn")
    pairs = (
        (label_map(classes, q), cam_label(cams, classes, float(t))) for q, t in zip(solved, thresholds, strict=True)
    )
    return torch.stack([confusion_matrix(mask, seed, num_classes) for mask, seed in pairs])


def nearest_cover(counts: Tensor) -> int:
    """Return the position of the alpha with whose CRF objects cover most nearly what they cover in a seed.

    Args:
        counts: ``(A, C, C)`` int64, confusion matrices with the label of the CRF in the rows and of the seed in the
            columns.
    """
    crfs, seeds = counts[:, 1:].sum((1, 2)), counts[:, :, 1:].sum((1, 2))
    return int((crfs - seeds).abs().argmin())


@dataclass(frozen=True)
class Candidate:
    """A value that was chosen without masks.

    Attributes:
        of: Kind of the value, ``threshold`` or ``alpha``.
        name: Name of the way to choose.
        value: The chosen threshold or alpha.
    """

    of: str
    name: str
    value: float

    @property
    def regrets(self) -> tuple[float, float]:
        """The mean and the greatest regret of this way in our measurements, in points of mean IoU."""
        return MEASURED[self.of][self.name]


def candidates(store: CamStore, data: Dataset, other: CamStore | None = None, sample: int = 50) -> list[Candidate]:
    """Return the background thresholds, then the powers, that different ways choose. No mask is read.

    The fixed values, which are the defaults, are among them.

    Args:
        store: The maps, normalised to [0, 1].
        data: The pictures.
        other: Further maps of the same pictures, such as those of another seed; None leaves out their agreement.
        sample: Number of pictures on which CRFs are solved, evenly spaced; all pictures serve everything else.

    Raises:
        InputError: Maps are missing, damaged or do not fit, or no picture has a label.
    """
    grid = torch.tensor(THRESHOLDS)
    few, c = grid[STEP::STEP], len(data.classes) + 1
    labelled = data.labels.any(1).nonzero().flatten().tolist()
    if not labelled:
        raise InputError(f"no picture of {data.name} has a label, so it has no maps; give pictures with labels.")
    solved = {*evenly_spaced(labelled, max(1, sample))}
    counts = torch.zeros(len(grid) + 1, dtype=torch.int64)
    contrast, pairs, colour = torch.zeros(3, len(grid), dtype=torch.float64)
    own, two = (torch.zeros(len(some), c, c, dtype=torch.int64) for some in (few, grid))
    crfs = torch.zeros(len(ALPHAS), len(grid), c, c, dtype=torch.int64)
    for index in bar(labelled, f"choices on {data.name}", len(labelled)):
        classes, cams = read_cams(store, data, index)
        image = to_tensor(data.image(index))
        counts += level_counts(cams, grid)
        for total, part in zip((contrast, pairs), boundary_contrast(cams, image, grid), strict=True):
            total += part
        colour += explained_colour(cams, image, grid)
        if other is not None:
            two += agreement(cams, read_cams(other, data, index)[1], classes, grid, c)
        if index in solved:
            crfs += crf_agreement(cams, classes, image, grid, c)
            own += own_crf_agreement(cams, classes, image, few, c)
    contrast = torch.where(pairs >= LEAST_BOUNDARY * pairs.max(), contrast / pairs, -1)
    fixed, at_otsu = round(FIXED_THRESHOLD * len(grid)), otsu(counts)
    by_otsu = int(agreement_rating(crfs[:, at_otsu]).argmax())
    thresholds = {
        "fixed": FIXED_THRESHOLD,
        "Otsu": float(grid[at_otsu]),
        f"objects cover {OBJECT_SHARE:.0%}": float(grid[quantile(counts)]),
        "boundary contrast": _highest(grid, contrast),
        "explained colour": _highest(grid, colour),
        f"agreement with a CRF, alpha {FIXED_ALPHA:g}": _highest(
            grid, agreement_rating(crfs[ALPHAS.index(FIXED_ALPHA)])
        ),
        TWO_STEPS: _highest(grid, agreement_rating(crfs[by_otsu])),
        "agreement with the seed's own CRF": _highest(few, agreement_rating(own)),
    }
    if other is not None:
        thresholds["agreement with other maps"] = _highest(grid, agreement_rating(two))
    alphas = {
        "fixed": FIXED_ALPHA,
        "agreement with the seed at the fixed threshold": ALPHAS[int(agreement_rating(crfs[:, fixed]).argmax())],
        BY_OTSU: ALPHAS[by_otsu],
        "objects cover what they cover at the fixed threshold": ALPHAS[nearest_cover(crfs[:, fixed])],
    }
    return [
        Candidate(of, name, round(value, 2))
        for of, found in (("threshold", thresholds), ("alpha", alphas))
        for name, value in found.items()
    ]


def _highest(thresholds: Tensor, ratings: Tensor) -> float:
    return float(thresholds[int(ratings.nan_to_num(-1).argmax())])
