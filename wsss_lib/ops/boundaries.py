"""Boundaries between regions, and how well a division of an image respects them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_lib.ops.cam import highest

IGNORE = 255


def boundaries(labels: Tensor) -> Tensor:
    """Return where ``(H, W)`` labels differ from the pixel on the right or below, on both sides; ``(H, W)`` bool."""
    result = torch.zeros_like(labels, dtype=torch.bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    result[:, 1:] |= across
    result[:, :-1] |= across
    result[1:] |= down
    result[:-1] |= down
    return result


def near(places: Tensor, radius: int) -> Tensor:
    """Return which pixels are at most ``radius`` rows and columns away from a True of ``(H, W)`` bool."""
    return F.max_pool2d(places[None, None].float(), 2 * radius + 1, stride=1, padding=radius)[0, 0] > 0


def fill_ignored(mask: Tensor) -> Tensor:
    """Let the labels of a ``(H, W)`` uint8 mask grow into its ignored pixels (255), from all sides at the same speed.

    A mask without any label stays as it is.
    """
    mask = mask.clone()
    while (mask == IGNORE).any() and (mask != IGNORE).any():
        known = F.pad(torch.where(mask == IGNORE, -1, mask.long()), [1, 1, 1, 1], value=-1)
        around = torch.stack([known[:-2, 1:-1], known[2:, 1:-1], known[1:-1, :-2], known[1:-1, 2:]]).amax(0)
        mask = torch.where((mask == IGNORE) & (around >= 0), around.to(mask.dtype), mask)
    return mask


def superpixel_labels(association: Tensor, cell: int = 16) -> Tensor:
    """Return to which superpixel every pixel belongs most, row by row from 0.

    Args:
        association: ``(B, 9, h S, w S)``, see `wsss_lib.ops.superpixels`; neighbours outside the image do not count.
        cell: S.

    Returns:
        ``(B, h S, w S)`` int64.
    """
    height, width = association.shape[2] // cell, association.shape[3] // cell
    rows = torch.arange(height * cell, device=association.device)[:, None] // cell
    columns = torch.arange(width * cell, device=association.device)[None] // cell
    numbers, inside = [], []
    for k in range(9):
        row, column = rows + k // 3 - 1, columns + k % 3 - 1
        inside.append((row >= 0) & (row < height) & (column >= 0) & (column < width))
        numbers.append(row * width + column)
    best = highest(torch.where(torch.stack(inside), association, -1.0), 1)  # (B, H, W)
    every = torch.stack(numbers).expand(len(association), -1, -1, -1)
    return every.gather(1, best[:, None])[:, 0]


def achievable_accuracy(segments: Tensor, truth: Tensor) -> float:
    """Return the share of the pixels that are right if every segment gets the label that most of it has.

    Args:
        segments: ``(H, W)`` int64, numbers of segments from 0.
        truth: ``(H, W)`` uint8 mask; 255 does not count.

    Returns:
        In [0, 1]; NaN if nothing counts.
    """
    known = truth != IGNORE
    counts = torch.zeros(int(segments.max()) + 1, 256, dtype=torch.int64)
    pairs = segments[known] * 256 + truth[known].long()
    counts.view(-1).index_add_(0, pairs, torch.ones_like(pairs))
    return float(counts.amax(1).sum() / known.sum())


def boundary_recall(segments: Tensor, truth: Tensor, radius: int = 2) -> float:
    """Return the share of the true boundary that lies within ``radius`` of a boundary between segments.

    Args:
        segments: ``(H, W)`` int64.
        truth: ``(H, W)`` uint8 mask; into ignored pixels the labels around them are grown.
        radius: Greatest distance between the two boundaries, in pixels.

    Returns:
        In [0, 1]; NaN if there is no boundary.
    """
    true = boundaries(fill_ignored(truth))
    return float((near(boundaries(segments), radius) & true).sum() / true.sum())


def boundary_band(truth: Tensor, radius: int = 5) -> Tensor:
    """Return a mask of which only what lies within ``radius`` pixels of a boundary counts, the rest being 255."""
    return torch.where(near(boundaries(fill_ignored(truth)), radius), truth, IGNORE)
