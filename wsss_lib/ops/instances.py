"""Instances of a class from displacements: cells whose displacements end at the same centre form one instance.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations" (CVPR 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor


@dataclass(frozen=True)
class Instances:
    """Detections of one image.

    Attributes:
        classes: ``(N,)`` int64, from 0.
        scores: ``(N,)`` float32, the highest score within the mask; 0 for very small instances.
        masks: ``(N, H, W)`` bool; no two overlap.
    """

    classes: Tensor
    scores: Tensor
    masks: Tensor


def find_centres(displacements: Tensor, steps: int = 300) -> Tensor:
    """Follow the displacements from each cell, step by step.

    Args:
        displacements: ``(2, h, w)`` float, (dy, dx) in cells.
        steps: Number of steps. Each step adds the displacement at the current position.

    Returns:
        ``(2, h, w)`` int64, row and column of the cell at which the path of each cell ends.
    """
    height, width = displacements.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([y, x]).to(displacements)
    last = places.new_tensor([height - 1, width - 1]).view(2, 1, 1)
    flat = displacements.flatten(1)
    for _ in range(steps):
        low, high = places.floor().long(), places.ceil().long()
        part = places - low
        moved = torch.zeros_like(places)
        for rows, down in ((low[0], 1 - part[0]), (high[0], part[0])):
            for columns, right in ((low[1], 1 - part[1]), (high[1], part[1])):
                moved += flat[:, rows * width + columns] * (down * right)
        places = torch.minimum((places + moved).clamp(min=0), last)
    return places.round().long()


def group_cells(displacements: Tensor, centres: Tensor, weak: float = 2.5) -> Tensor:
    """Return the group of each cell as ``(h, w)`` int64, from 0.

    A cell with a short displacement lies at a centre. Connected cells of this kind form one centre.

    Args:
        displacements: ``(2, h, w)`` float, (dy, dx) in cells.
        centres: ``(2, h, w)`` int64, see :func:`find_centres`.
        weak: Length below which a displacement counts as short, in cells.
    """
    short = displacements.square().sum(0).sqrt() < weak
    regions = torch.from_numpy(ndimage.label(short.cpu().numpy())[0]).long().to(centres.device)
    return regions[centres[0], centres[1]].unique(return_inverse=True)[1]


def separate(scores: Tensor, classes: Tensor, background: float, least_share: float = 0.01) -> Instances:
    """Return one instance for each connected area in which the map of one class and one group has the highest score.

    Args:
        scores: ``(n, G, H, W)`` float in [0, 1], one map for each of n classes and G groups.
        classes: ``(n,)`` int64, the class of each row of ``scores``, from 0.
        background: Score of the background.
        least_share: Share of the image below which an area gets the score 0.
    """
    groups, height, width = scores.shape[1:]
    maps = scores.flatten(0, 1)
    best = torch.cat([maps.new_full((1, height, width), background), maps]).max(0).indices
    found: list[tuple[int, Tensor, Tensor]] = []
    for row in range(len(maps)):
        regions, count = ndimage.label((best == row + 1).cpu().numpy())
        for number in range(1, count + 1):
            mask = torch.from_numpy(regions == number).to(maps.device)
            large = int(mask.sum()) >= least_share * height * width
            found.append((row // groups, maps[row][mask].amax() * large, mask))
    if not found:
        empty = torch.zeros(0, height, width, dtype=torch.bool, device=maps.device)
        return Instances(classes[:0], maps.new_zeros(0), empty)
    which, heights, masks = zip(*found, strict=True)
    return Instances(classes[list(which)], torch.stack(heights), torch.stack(masks))
