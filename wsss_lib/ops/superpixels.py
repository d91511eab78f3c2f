"""Superpixels as a soft association of pixels with the cells of a grid: pooling, up-sampling, adjacency, random walk.

An image is divided into cells of S × S pixels, and each cell has one superpixel. A pixel belongs to the superpixels of
its own cell and of the eight cells around it, with probabilities ``Q_k`` that add up to 1 (Yang et al., "Superpixel
Segmentation with Fully Convolutional Networks", CVPR 2020). Neighbour k is ``3 (dy + 1) + (dx + 1)``: top left, top,
top right, left, own, right, bottom left, bottom, bottom right. At the border of the image some neighbours do not exist.
Their probabilities are dropped, as in the authors' code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_lib.errors import InputError

_EPS = 1e-8


def _cells(values: Tensor, size: int) -> Tensor:
    """Group ``(B, c, h S, w S)`` values by cell: ``(B, h w, c, S S)``."""
    batch, channels, height, width = values.shape
    cells = values.reshape(batch, channels, height // size, size, width // size, size)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels, size * size)


def _check(association: Tensor, height: int, width: int) -> None:
    if association.shape[1] != 9 or association.shape[2:] != (height, width):
        raise InputError(
            f"the association must have the shape (B, 9, {height}, {width}), which fits the features, not "
            f"{tuple(association.shape)}."
        )


def superpixel_pool(features: Tensor, association: Tensor, cell: int = 16) -> Tensor:
    """Average features over superpixels.

    ``pool(s) = sum_p Q(p, s) f(p) / (sum_p Q(p, s) + 1e-8)``, both sums as means over a cell's pixels.

    Args:
        features: ``(B, c, H, W)`` float, f.
        association: ``(B, 9, H, W)`` float in [0, 1], Q.
        cell: Side S of a cell, in pixels; rows and columns after the last whole cell do not count.

    Returns:
        ``(B, c, H // S, W // S)``.

    Raises:
        InputError: The association does not have the size of the features.
    """
    _check(association, features.shape[2], features.shape[3])
    height, width = features.shape[2] // cell, features.shape[3] // cell
    whole = (slice(None), slice(None), slice(height * cell), slice(width * cell))
    ones = features.new_ones(len(features), 1, *features.shape[2:])
    joined = _cells(torch.cat([features, ones], dim=1)[whole], cell)  # (B, N, c + 1, S S)
    shares = joined @ _cells(association[whole], cell).transpose(2, 3) / cell**2  # (B, N, c + 1, 9)
    sums = F.fold(shares.flatten(2).transpose(1, 2), (height, width), kernel_size=3, padding=1)
    return sums[:, :-1] / (sums[:, -1:] + _EPS)


def superpixel_upsample(maps: Tensor, association: Tensor, cell: int = 16) -> Tensor:
    """Give each pixel the weighted mean of its superpixels' values: ``up(p) = sum_s Q(p, s) g(s)``.

    Args:
        maps: ``(B, c, h, w)`` float, g.
        association: ``(B, 9, h S, w S)`` float in [0, 1], Q.
        cell: Side S of a cell, in pixels.

    Returns:
        ``(B, c, h S, w S)``.

    Raises:
        InputError: The association does not have S times the size of the maps.
    """
    batch, channels, height, width = maps.shape
    _check(association, height * cell, width * cell)
    around = F.unfold(maps, kernel_size=3, padding=1).reshape(batch, channels, 9, -1).permute(0, 3, 1, 2)
    pixels = around @ _cells(association, cell)  # (B, N, c, S S)
    pixels = pixels.reshape(batch, height, width, channels, cell, cell).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(batch, channels, height * cell, width * cell)


def mix_neighbours(features: Tensor, weights: Tensor) -> Tensor:
    """Filter ``(B, c, h, w)`` features with kernels ``(B, r r, h, w)`` of their own for each position, r odd.

    All channels share the kernels. Neighbours outside the features count as 0. With nine weights this equals
    :func:`superpixel_upsample` with cells of one pixel.
    """
    side = round(weights.shape[1] ** 0.5)
    height, width = features.shape[2:]
    padded = F.pad(features, [side // 2] * 4)
    result = None
    for k in range(side**2):  # views of one padded tensor; unfold would copy
        row, column = divmod(k, side)
        part = padded[:, :, row : row + height, column : column + width] * weights[:, k : k + 1]
        result = part if result is None else result + part
    assert result is not None
    return result


def superpixel_adjacency(association: Tensor, cell: int = 16) -> Tensor:
    """Return the adjacency of superpixels: how much the pixels of one superpixel also belong to its neighbours.

    ``A_k(s) = sum_p Q(p, s) Q(p, s + d_k) / (sum_p Q(p, s) + 1e-8)`` for the 25 neighbours ``d_k`` up to two cells
    away, k = ``5 (dy + 2) + (dx + 2)``; 0 for neighbours outside the image.

    Args:
        association: ``(B, 9, h S, w S)`` float in [0, 1], Q.
        cell: Side S of a cell, in pixels.

    Returns:
        ``(B, 25, h, w)``.
    """
    batch, _, height, width = association.shape
    height, width = height // cell, width // cell
    cells = _cells(association, cell)
    products = cells @ cells.transpose(2, 3) / cell**2  # (B, N, 9, 9)
    pairs = products.new_zeros(batch, height * width, 25, 9)
    for a in range(9):
        for b in range(9):
            down, across = b // 3 - a // 3, b % 3 - a % 3
            pairs[:, :, 5 * (down + 2) + across + 2, a] = products[:, :, a, b]
    joined = torch.cat([pairs, cells.mean(-1)[:, :, None]], dim=2)  # (B, N, 26, 9)
    sums = F.fold(joined.flatten(2).transpose(1, 2), (height, width), kernel_size=3, padding=1)
    inside = F.unfold(sums.new_ones(1, 1, height, width), kernel_size=5, padding=2).reshape(1, 25, height, width)
    return sums[:, :25] / (sums[:, 25:] + _EPS) * inside


def refine_on_superpixels(maps: Tensor, association: Tensor, steps: int, cell: int = 16) -> Tensor:
    """Refine maps by a random walk among superpixels. A step takes the mean over neighbours, weighted by adjacency.

    Args:
        maps: ``(B, c, h, w)`` maps of superpixels, or ``(B, c, h S, w S)`` maps of pixels. Maps of pixels are pooled
            first, which counts as one step, and up-sampled at the end.
        association: ``(B, 9, h S, w S)``, Q.
        steps: Number of steps.
        cell: Side S of a cell, in pixels.

    Returns:
        Maps of the size of the given maps.
    """
    adjacency = superpixel_adjacency(association, cell)
    whole = maps.shape[2:] == association.shape[2:]
    if whole:
        maps = superpixel_pool(maps, association, cell)
    for _ in range(steps - 1 if whole else steps):
        maps = mix_neighbours(maps, adjacency)
    return superpixel_upsample(maps, association, cell) if whole else maps


def tile(maps: Tensor, count: int) -> Tensor:
    """Cut ``(B, c, h, w)`` maps into ``count`` patches, a square number, and stack the patches along the batch.

    Rows and columns that do not fill a patch are dropped at the bottom and on the right.

    Returns:
        ``(count * B, c, h // q, w // q)`` with ``q = sqrt(count)``. Patches follow row by row; all images of the batch
        come first for the first patch, then for the second, and so on.
    """
    side = int(count**0.5)
    height, width = maps.shape[2] // side, maps.shape[3] // side
    cut = maps[:, :, : height * side, : width * side]
    patches = cut.reshape(*maps.shape[:2], side, height, side, width).permute(2, 4, 0, 1, 3, 5)
    return patches.reshape(-1, maps.shape[1], height, width)


def merge(patches: Tensor, count: int) -> Tensor:
    """Undo :func:`tile`: ``(count * B, c, h, w)`` to ``(B, c, h q, w q)``."""
    side = int(count**0.5)
    _, channels, height, width = patches.shape
    parts = patches.reshape(side, side, -1, channels, height, width).permute(2, 3, 0, 4, 1, 5)
    return parts.reshape(-1, channels, side * height, side * width)
