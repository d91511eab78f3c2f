"""Calibration of a network's probabilities (Guo et al., ICML 2017), for pixels."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = 255


def reliability(scores: Tensor, truth: Tensor, bins: int = 10) -> Tensor:
    """Count the pixels of an image by the network's confidence.

    The confidence at a pixel is the probability of its most probable class. Counts of several images can be added.

    Args:
        scores: Probabilities ``(C, H, W)``, float in [0, 1], background first.
        truth: True labels ``(H, W)`` uint8; pixels with 255 are left out.
        bins: Number of equal intervals of confidence between 0 and 1.

    Returns:
        ``(bins, 3)`` float64 with three values for each interval: the number of pixels, the sum of their confidences,
        and the number of pixels whose most probable class is the true class.

    Example:
        >>> scores = torch.tensor([[[0.875, 0.25]], [[0.125, 0.75]]])
        >>> reliability(scores, torch.tensor([[0, 0]], dtype=torch.uint8), bins=2).tolist()
        [[0.0, 0.0, 0.0], [2.0, 1.625, 1.0]]
    """
    confidence, found = scores.max(0)
    known = truth != IGNORE
    confidence, right = confidence[known].double(), (found == truth)[known].double()
    which = (confidence * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(bins, 3, dtype=torch.float64)
    return counts.index_add_(0, which, torch.stack([torch.ones_like(right), confidence, right], 1))


def calibration_error(counts: Tensor) -> float:
    """Return the expected calibration error: the mean difference between confidence and accuracy (equation 3).

    The difference is taken for each interval of confidence and averaged over all pixels.

    Args:
        counts: ``(bins, 3)``, sum of the results of :func:`reliability`.

    Example:
        >>> round(calibration_error(torch.tensor([[2.0, 0.8, 1.0], [8.0, 7.2, 6.0]])), 3)
        0.14
    """
    return float((counts[:, 2] - counts[:, 1]).abs().sum() / counts[:, 0].sum().clamp(min=1))
