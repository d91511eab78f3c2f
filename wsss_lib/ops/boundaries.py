"""Boundaries between regions, and measures of how well superpixels follow them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_lib.ops.cam import argmax

IGNORE = 255


def boundaries(labels: Tensor) -> Tensor:
    """Return the ``(H, W)`` bool boundary of ``(H, W)`` labels: both pixels of each neighbouring pair that differs."""
    result = torch.zeros_like(labels, dtype=torch.bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    result[:, 1:] |= across
    result[:, :-1] |= across
    result[1:] |= down
    result[:-1] |= down
    return result


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Dilate an ``(H, W)`` bool mask by ``radius`` pixels in each direction, with a square window."""
    return F.max_pool2d(mask[None, None].float(), 2 * radius + 1, stride=1, padding=radius)[0, 0] > 0


def fill_ignored(mask: Tensor) -> Tensor:
    """Fill the ignored pixels (255) of an ``(H, W)`` uint8 mask with the nearest labels, one ring of pixels at a time.

    A mask that holds no label is returned unchanged.
    """
    mask = mask.clone()
    while (mask == IGNORE).any() and (mask != IGNORE).any():
        known = F.pad(torch.where(mask == IGNORE, -1, mask.long()), [1, 1, 1, 1], value=-1)
        around = torch.stack([known[:-2, 1:-1], known[2:, 1:-1], known[1:-1, :-2], known[1:-1, 2:]]).amax(0)
        mask = torch.where((mask == IGNORE) & (around >= 0), around.to(mask.dtype), mask)
    return mask


def superpixel_labels(association: Tensor, cell: int = 16) -> Tensor:
    """Return the superpixel that each pixel belongs to most. Superpixels are numbered row by row from 0.

    Args:
        association: ``(B, 9, h S, w S)``, see `wsss_lib.ops.superpixels`; neighbours outside the image do not count.
        cell: Side S of a cell, in pixels.

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
    best = argmax(torch.where(torch.stack(inside), association, -1.0), 1)  # (B, H, W)
    every = torch.stack(numbers).expand(len(association), -1, -1, -1)
    return every.gather(1, best[:, None])[:, 0]


def achievable_accuracy(segments: Tensor, truth: Tensor) -> float:
    """Return the pixel accuracy if each segment gets the label of most of its pixels.

    Args:
        segments: ``(H, W)`` int64, the number of each pixel's segment, from 0.
        truth: ``(H, W)`` uint8 mask; 255 does not count.

    Returns:
        Accuracy in [0, 1]; NaN if no pixel counts.
    """
    known = truth != IGNORE
    counts = torch.zeros(int(segments.max()) + 1, 256, dtype=torch.int64)
    pairs = segments[known] * 256 + truth[known].long()
    counts.view(-1).index_add_(0, pairs, torch.ones_like(pairs))
    return float(counts.amax(1).sum() / known.sum())


def boundary_recall(segments: Tensor, truth: Tensor, radius: int = 2) -> float:
    """Return the share of the true boundary that lies within ``radius`` pixels of a boundary between segments.

    Args:
        segments: ``(H, W)`` int64, the number of each pixel's segment, from 0.
        truth: ``(H, W)`` uint8 mask; ignored pixels get the nearest labels, see :func:`fill_ignored`.
        radius: Greatest distance between the two boundaries, in pixels.

    Returns:
        Share in [0, 1]; NaN if the mask has no boundary.
    """
    true = boundaries(fill_ignored(truth))
    return float((dilate(boundaries(segments), radius) & true).sum() / true.sum())


def boundary_band(truth: Tensor, radius: int = 5) -> Tensor:
    """Return a mask with all pixels set to 255 that are more than ``radius`` pixels away from a boundary."""
    return torch.where(dilate(boundaries(fill_ignored(truth)), radius), truth, IGNORE)
