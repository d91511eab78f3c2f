"""Scores of label maps and of classifiers. Label maps are counted once; all scores are computed from the counts.

C is the number of classes with background, and K = C - 1 is their number without background. A confusion matrix has the
true class in its rows and the predicted class in its columns. Pixels whose truth is 255 are left out.
"""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Literal

import torch
from torch import Tensor

from wsss_lib.ops.values import all_finite, all_within

IGNORE = 255
"""Value of ``truth`` for pixels that are left out."""


def confusion_matrix(truth: Tensor, prediction: Tensor, num_classes: int, ignore: int = IGNORE) -> Tensor:
    """Count how often each true class was given each label.

    Args:
        truth: Integer tensor of any shape; values outside 0..C-1 are left out, as is ``ignore``.
        prediction: Integer tensor of the same shape, values 0..C-1.
        num_classes: Number of classes C.
        ignore: Value of ``truth`` for pixels that are left out.

    Returns:
        ``(C, C)`` int64.

    Raises:
        ValueError: The shapes differ, values are not integers, or a label where ``truth`` counts is outside 0..C-1.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth is {tuple(truth.shape)} but prediction is {tuple(prediction.shape)}")
    for name, labels in {"truth": truth, "prediction": prediction}.items():
        if labels.is_floating_point():
            raise ValueError(f"{name} holds {labels.dtype}, not integers; give label maps, not scores")
    counted = (truth != ignore) & (truth >= 0) & (truth < num_classes)
    labels = prediction[counted].long()
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"prediction holds {int(labels.min())} to {int(labels.max())}, not 0 to {num_classes - 1}")
    cells = truth[counted].long() * num_classes + labels
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def sweep_histogram(scores: Tensor, classes: Tensor, truth: Tensor, thresholds: Tensor, num_classes: int) -> Tensor:
    """Count the labels of :func:`wsss_lib.ops.cam.cam_label` for all background thresholds in one pass.

    A pixel is background if the threshold is at least its highest score. Otherwise it has the class of that score. So
    one histogram over true class × class of the highest score × number of thresholds below that score holds the
    confusion matrices of all thresholds.

    Args:
        scores: ``(n, H, W)`` float in [0, 1], the normalised maps of the n classes that the image shows; n may be 0.
        classes: ``(n,)`` int64, the class of each map, from 0, without repetition.
        truth: ``(H, W)`` uint8, 0..C-1 or 255.
        thresholds: ``(T,)`` thresholds in ascending order; compared in float32.
        num_classes: Number of classes C.

    Returns:
        ``(C, C, T + 1)`` int64. The histograms of several images can be added.

    Raises:
        ValueError: Sizes do not fit, a score is not a number in [0, 1], a value of ``truth`` or ``classes`` is not a
            class, or the thresholds do not ascend.

    Example:
        >>> import torch
        >>> scores, truth = torch.tensor([[[0.1, 0.4, 0.9]]]), torch.tensor([[0, 1, 1]], dtype=torch.uint8)
        >>> counts = sweep_histogram(scores, torch.tensor([0]), truth, torch.tensor([0.2, 0.5]), num_classes=2)
        >>> intersection_over_union(sweep_confusions(counts)).tolist()  # a row for each threshold
        [[1.0, 1.0], [0.5, 0.5]]
    """
    if scores.shape[1:] != truth.shape:
        raise ValueError(f"scores are {tuple(scores.shape[1:])} but truth is {tuple(truth.shape)}")
    _check_sweep(scores, classes.tolist(), truth, thresholds.tolist(), num_classes)
    bins, columns = len(thresholds) + 1, max(1, len(classes))
    cells = truth.flatten().int() * (columns * bins)  # ignored pixels get a row of their own, dropped below
    if len(classes):
        best, which = _maximum(scores.flatten(1).float())
        cells += which * bins + torch.bucketize(best, thresholds.float(), out_int32=True)  # thresholds below the score
    counts = torch.bincount(cells, minlength=256 * columns * bins).view(256, columns, bins)
    if counts[num_classes:IGNORE].any():
        raise ValueError(f"truth holds values of {num_classes} to {IGNORE - 1}, which are not classes")
    histogram = counts.new_zeros(num_classes, num_classes, bins)
    histogram[:, classes + 1 if len(classes) else [0]] = counts[:num_classes]
    return histogram


def _check_sweep(scores: Tensor, classes: list[int], truth: Tensor, thresholds: list[float], num_classes: int) -> None:
    if truth.dtype != torch.uint8:
        raise ValueError(f"truth holds {truth.dtype}, not uint8")
    if len(classes) != len(scores) or len({*classes}) != len(classes) or not {*classes} <= {*range(num_classes - 1)}:
        raise ValueError(f"classes {classes} do not name {len(scores)} of {num_classes - 1} classes")
    if not all(low <= high for low, high in pairwise([-inf, *thresholds, inf])):  # NaN is not below anything
        raise ValueError("thresholds do not ascend")
    if not all_within(scores):
        raise ValueError("scores hold negative or non-finite values or values above 1; give maps in [0, 1]")


def _maximum(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``scores.max(dim=0)`` of ``(n, N)`` scores, the first of equal ones; for small n, a loop is faster."""
    best = scores[0]
    which = torch.zeros_like(best, dtype=torch.int32)
    for i in range(1, len(scores)):
        which = which.masked_fill(scores[i] > best, i)
        best = torch.maximum(best, scores[i])
    return best, which


def sweep_confusions(histogram: Tensor) -> Tensor:
    """Turn the ``(C, C, T + 1)`` histogram of :func:`sweep_histogram` into ``(T, C, C)`` confusion matrices."""
    above = histogram.flip(-1).cumsum(-1).flip(-1)[..., 1:]  # (C, C, T): score greater than threshold i
    confusions = above.movedim(-1, 0).clone()
    confusions[:, :, 0] = histogram.sum(dim=(1, 2)) - confusions[:, :, 1:].sum(dim=-1)
    return confusions


def intersection_over_union(confusion: Tensor) -> Tensor:
    """Return TP / (TP + FP + FN) of every class.

    Args:
        confusion: ``(..., C, C)``.

    Returns:
        ``(..., C)`` float64 in [0, 1]; NaN for a class that neither occurs nor is predicted.

    Example:
        >>> import torch
        >>> intersection_over_union(torch.tensor([[3, 1], [0, 4]])).tolist()
        [0.75, 0.8]
    """
    counts = confusion.double()
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return hits / (counts.sum(-1) + counts.sum(-2) - hits)


def precision(confusion: Tensor) -> Tensor:
    """Return TP / (TP + FP) of every class as ``(..., C)`` float64; NaN for a class that is never predicted."""
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1) / counts.sum(-2)


def recall(confusion: Tensor) -> Tensor:
    """Return TP / (TP + FN) of every class as ``(..., C)`` float64; NaN for a class that never occurs."""
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1) / counts.sum(-1)


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Return the share of pixels with the right label as ``(...)`` float64, from ``(..., C, C)`` confusion matrices."""
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1))


def frequency_weighted_iou(confusion: Tensor) -> Tensor:
    """Return the mean IoU, weighted by the number of pixels of each true class, as ``(...)`` float64."""
    counts = confusion.double()
    weighted = counts.sum(-1) * intersection_over_union(confusion).nan_to_num(0.0)
    return weighted.sum(-1) / counts.sum((-2, -1))


def occurring(values: Tensor, confusion: Tensor) -> Tensor:
    """Return ``(..., C)`` values with NaN for each class that never occurs in the truth, even if it is predicted.

    DeepLab's code averages these values. Our mean counts a class that is predicted but never occurs as 0.
    """
    return values.masked_fill(confusion.sum(-1) == 0, torch.nan)


def class_mean(values: Tensor, absent: Literal["skip", "zero"] = "skip") -> Tensor:
    """Average ``(..., C)`` values over the classes.

    Args:
        values: ``(..., C)`` float, for example the result of :func:`intersection_over_union`.
        absent: Treatment of NaN, the value of a class that does not occur: ``skip`` leaves it out, ``zero`` counts it
            as 0, as in the evaluation code of OC-CSE, ACR and PCSS.
    """
    return values.nanmean(-1) if absent == "skip" else values.nan_to_num(0.0).mean(-1)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the average precision of each class, which is high if images that show the class have the highest scores.

    It is the mean of a precision over the images that show the class: the precision among all images with at least the
    score of that image.

    Args:
        scores: ``(n, K)`` float, for example logits.
        labels: ``(n, K)``, 1 if image n shows class K, else 0.

    Returns:
        ``(K,)`` float64 in [0, 1]; NaN for a class that no image shows.

    Raises:
        ValueError: A score is not finite, or the shapes differ.
    """
    _check_ranking(scores, labels)
    results = []
    for score, label in zip(scores.T, labels.T, strict=True):
        positive = score[label > 0]
        hits, retrieved = (len(s) - torch.searchsorted(s.sort().values, positive) for s in (positive, score))
        results.append((hits / retrieved).double().mean())
    return torch.stack(results)


def top_recall(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the share of labels that are among the top scores; an image with m labels contributes its m top scores.

    Args:
        scores: ``(n, K)`` float, for example logits.
        labels: ``(n, K)``, 1 if image n shows class K, else 0.

    Returns:
        Scalar float64 in [0, 1]; NaN if no image has a label. Images without labels have no effect.

    Raises:
        ValueError: A score is not finite, or the shapes differ.
    """
    _check_ranking(scores, labels)
    counts = labels.sum(dim=1, keepdim=True)
    ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)
    hits = (labels > 0) & (ranks < counts)
    return hits.sum().double() / counts.sum()


def _check_ranking(scores: Tensor, labels: Tensor) -> None:
    if scores.shape != labels.shape:
        raise ValueError(f"scores are {tuple(scores.shape)} but labels are {tuple(labels.shape)}")
    if not all_finite(scores):
        raise ValueError("scores hold NaN or infinite values, which cannot be ranked")
