"""How far the mask of each picture can be trusted, without true masks: its agreement with a CRF of the same mask.

The agreement is the mean IoU between the mask and what a dense CRF makes of it, when the CRF takes every label to be
right with the same probability, as IRN's does. A mask that follows the edges of its picture is changed little. The
trust is the agreement, divided by the number of classes that the picture shows, since masks of several classes are
worse. The trust ranks pictures; it is not an estimate of the IoU. ``docs/how_good.md`` says how well it ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor

from wsss_lib.exchange.paired import iou_of_counts
from wsss_lib.ops.metrics import class_mean


def agreement_of_counts(counts: Tensor, labels: Tensor) -> Tensor:
    """Return the agreement of two masks of each picture.

    Args:
        counts: ``(n, 3, C)`` int64: for each class the pixels on which the masks agree, the pixels of one mask, and
            those of the other, see :func:`wsss_lib.exchange.paired.image_counts`.
        labels: ``(n, K)``, 1 where a picture shows a class.

    Returns:
        ``(n,)`` float64 in [0, 1]: the mean IoU of the background and of the classes that a mask or the labels show. A
        class that the labels alone show counts as 0. NaN for a picture without labels.
    """
    shown = labels.bool()
    iou = iou_of_counts(counts)
    iou[:, 1:] = torch.where(shown & iou[:, 1:].isnan(), 0.0, iou[:, 1:])
    return class_mean(iou).masked_fill(~shown.any(1), torch.nan)


def trust_of_counts(counts: Tensor, labels: Tensor) -> Tensor:
    """Return the trust in the mask of each picture: its agreement with the CRF over the number of its classes.

    Args:
        counts: ``(n, 3, C)`` int64 of mask and CRF, see :func:`agreement_of_counts`.
        labels: ``(n, K)``, 1 where a picture shows a class.

    Returns:
        ``(n,)`` float64 in [0, 1]; NaN for a picture without labels.
    """
    return agreement_of_counts(counts, labels) / labels.double().sum(1)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's rank correlation in [-1, 1]; equal values share their mean rank.

    Args:
        one: ``(n,)`` float; a NaN leaves the pair out.
        other: ``(n,)`` float, likewise.

    Returns:
        The correlation; NaN for fewer than three pairs, or if all values of one side are equal.
    """
    known = ~(one.isnan() | other.isnan())
    if known.sum() < 3:
        return float("nan")
    ranks = torch.from_numpy(rankdata(torch.stack([one[known], other[known]]).double().numpy(), axis=1))
    return float(torch.corrcoef(ranks)[0, 1])


@dataclass(frozen=True)
class Bin:
    """Pictures with similar trust.

    Attributes:
        trust: Mean trust of the pictures.
        iou: Mean of their IoU.
        pictures: Number of the pictures.
    """

    trust: float
    iou: float
    pictures: int


def reliability_curve(trust: Tensor, iou: Tensor, bins: int = 5) -> list[Bin]:
    """Return mean trust and mean IoU of pictures in the order of their trust, in bins of equal numbers.

    Args:
        trust: ``(n,)`` float in [0, 1]; a NaN leaves the picture out.
        iou: ``(n,)`` float in [0, 1], the true one; likewise.
        bins: Number of bins; fewer pictures give fewer bins.
    """
    known = (~(trust.isnan() | iou.isnan())).nonzero().flatten()
    order = known[trust[known].argsort(stable=True)]
    parts = [part for part in order.tensor_split(bins) if len(part)]
    return [Bin(float(trust[part].mean()), float(iou[part].mean()), len(part)) for part in parts]
