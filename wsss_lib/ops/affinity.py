"""Pairs of nearby pixels on a feature grid, their affinities, and the labels that a label map gives to pairs.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (CVPR 2018), section 3.2. A pair has
a "from" pixel and a "to" pixel at one of P offsets in a half-disc, so that every unordered pair occurs once. Arrays of
pairs are ``(..., P, n)``: offset after offset, "from" pixels row by row.

In the authors' code (``border="official"``), a "from" pixel keeps enough distance from the left, right and lower border
that every offset stays inside the grid. Pairs nearer to a border are therefore missing. ``border="full"`` has all
pairs; an offset that leaves the grid then gets the affinity 0.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from wsss_lib.errors import InputError

UNKNOWN = 255
"""Value of a label map where the label is unknown."""

Border = Literal["official", "full"]
Window = tuple[slice, slice]
"""Rows and columns of a grid."""

_NOTHING: Window = (slice(0, 0), slice(0, 0))


def pair_offsets(radius: int = 5) -> list[tuple[int, int]]:
    """Return the P offsets (dy, dx) shorter than ``radius``, to the right in the same row and to all rows below.

    A radius of 5 gives 34 offsets.
    """
    offsets = [(0, dx) for dx in range(1, radius)]
    for dy in range(1, radius):
        offsets += [(dy, dx) for dx in range(-radius + 1, radius) if dx * dx + dy * dy < radius * radius]
    return offsets


def pair_count(height: int, width: int, radius: int = 5, border: Border = "official") -> tuple[int, int]:
    """Return the number of rows and of columns of the grid of "from" pixels; n is their product.

    Raises:
        InputError: The grid is too small for any pair.
    """
    reach = radius - 1
    rows, columns = (height - reach, width - 2 * reach) if border == "official" else (height, width)
    if rows < 1 or columns < 1:
        raise InputError(
            f"a grid of {height} × {width} features is too small for pairs of radius {radius}: it needs {radius} rows "
            f"and {2 * reach + 1} columns; use larger images, or border 'full'."
        )
    return rows, columns


def pair_windows(
    offset: tuple[int, int], height: int, width: int, radius: int = 5, border: Border = "official"
) -> tuple[Window, Window, Window]:
    """Return three windows for the pairs of one offset: their "from" pixels, their "to" pixels, and their place.

    The first two are windows of the feature grid. The place is a window of the grid of "from" pixels, see
    :func:`pair_count`; with the border ``official`` it is the whole grid.
    """
    dy, dx = offset
    rows, columns = pair_count(height, width, radius, border)
    if border == "official":
        left = radius - 1
        start = (slice(0, rows), slice(left, left + columns))
        end = (slice(dy, dy + rows), slice(left + dx, left + dx + columns))
        return start, end, (slice(0, rows), slice(0, columns))
    if dy >= height or abs(dx) >= width:
        return _NOTHING, _NOTHING, _NOTHING
    start = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
    end = (slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
    return start, end, start


class _Affinity(torch.autograd.Function):
    """``a = exp(-mean_c |f_to - f_from|)`` by slicing: no index is gathered, and backward computes differences anew."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int, border: Border) -> Tensor:
        batch, _, height, width = features.shape
        offsets = pair_offsets(radius)
        result = features.new_zeros(batch, len(offsets), *pair_count(height, width, radius, border))
        for k, offset in enumerate(offsets):
            start, end, place = pair_windows(offset, height, width, radius, border)
            difference = (features[..., *end] - features[..., *start]).abs_().mean(1)  # (B, rows, columns)
            result[:, k, *place] = difference.neg_().exp_()
        ctx.save_for_backward(features, result)
        ctx.pairs = radius, border
        return result.flatten(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        features, affinities = ctx.saved_tensors
        radius, border = ctx.pairs
        channels, height, width = features.shape[1:]
        factor = gradient.view_as(affinities) * affinities / -channels
        result = torch.zeros_like(features)
        for k, offset in enumerate(pair_offsets(radius)):
            start, end, place = pair_windows(offset, height, width, radius, border)
            part = (features[..., *end] - features[..., *start]).sign_()
            part *= factor[:, k, *place].unsqueeze(1)
            result[..., *end] += part
            result[..., *start] -= part
        return result, None, None


def pair_affinities(features: Tensor, radius: int = 5, border: Border = "official") -> Tensor:
    """Return the affinity of every pair, ``a_ij = exp(-mean_c |F_c(j) - F_c(i)|)`` (equation 1; there a sum over c).

    Args:
        features: ``(B, C, h, w)`` float.
        radius: Upper limit of the distance within a pair, in cells; pairs are closer than this.
        border: Rule for pairs near the border, ``official`` or ``full``.

    Returns:
        ``(B, P, n)`` float32 in [0, 1].

    Raises:
        InputError: The grid is too small for any pair.
    """
    return _Affinity.apply(features.float(), radius, border)


def pair_labels(labels: Tensor, radius: int = 5, border: Border = "official") -> tuple[Tensor, Tensor, Tensor]:
    """Return which pairs should have a high and which a low affinity (equation 3).

    Args:
        labels: ``(B, h, w)`` uint8: 0 is background, 255 is unknown, and any other value is a class.
        radius: Upper limit of the distance within a pair, in cells; pairs are closer than this.
        border: Rule for pairs near the border, ``official`` or ``full``.

    Returns:
        Three ``(B, P, n)`` bool tensors: pairs of two background pixels, pairs of two pixels of one class, and pairs
        with different labels. A pair with an unknown pixel is in none of them.

    Raises:
        InputError: The grid is too small for any pair.
    """
    height, width = labels.shape[1:]
    offsets = pair_offsets(radius)
    shape = (len(labels), len(offsets), *pair_count(height, width, radius, border))
    i, j = labels.new_full(shape, UNKNOWN), labels.new_full(shape, UNKNOWN)
    for k, offset in enumerate(offsets):
        start, end, place = pair_windows(offset, height, width, radius, border)
        i[:, k, *place] = labels[:, *start]
        j[:, k, *place] = labels[:, *end]
    i, j = i.flatten(2), j.flatten(2)
    known = (i != UNKNOWN) & (j != UNKNOWN)
    same = (i == j) & known
    return same & (i == 0), same & (i > 0), known & ~same


def affinity_of_pixel(
    affinities: Tensor, pixel: tuple[int, int], size: tuple[int, int], radius: int = 5, border: Border = "official"
) -> Tensor:
    """Return the affinities between one pixel and its neighbours, as a picture.

    Args:
        affinities: ``(P, n)`` affinities of one image.
        pixel: Row and column of the pixel in the grid.
        size: ``(h, w)`` of the grid.
        radius: Radius of the pairs, as in :func:`pair_affinities`.
        border: Rule for pairs near the border, as in :func:`pair_affinities`.

    Returns:
        ``(h, w)`` float32: 1 at the pixel itself, NaN at cells that form no pair with the pixel.
    """
    result = torch.full(size, torch.nan)
    grid = affinities.detach().cpu().view(-1, *pair_count(*size, radius, border))
    index = torch.arange(size[0] * size[1]).view(size)
    own = int(index[pixel])
    for k, offset in enumerate(pair_offsets(radius)):
        start, end, place = pair_windows(offset, *size, radius, border)
        for one, other in ((start, end), (end, start)):
            at = index[*one] == own
            result.view(-1)[index[*other][at]] = grid[k][place][at]
    result[pixel] = 1.0
    return result
