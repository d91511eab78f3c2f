"""Images and features as sums of waves: magnitudes, phases, filters, and the blocks of frequencies that PCSS probes.

All filters here are real. They work on the half plane of frequencies that ``torch.fft.rfft2`` returns, in its order.
The authors' code multiplies the whole, centred spectrum by a mask that need not be symmetric about the origin, and
drops the imaginary part of the result. Multiplying by the symmetric part of that mask gives the same result, and half a
plane is enough to store the symmetric part.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def half_plane(mask: Tensor) -> Tensor:
    """Return the symmetric part ``(M(s) + M(-s)) / 2`` of masks of a whole, centred spectrum, as a half plane.

    Args:
        mask: ``(..., H, W)`` float, frequency 0 at ``(H // 2, W // 2)`` as after ``fftshift``.

    Returns:
        ``(..., H, W // 2 + 1)``, in the order of ``torch.fft.rfft2``.
    """
    plain = torch.fft.ifftshift(mask, dim=(-2, -1))
    mirrored = plain.flip(-2, -1).roll((1, 1), (-2, -1))
    return ((plain + mirrored) / 2)[..., : mask.shape[-1] // 2 + 1]


def apply_filter(images: Tensor, half: Tensor) -> Tensor:
    """Multiply the spectra of real ``(..., H, W)`` images by real ``(..., H, W // 2 + 1)``, see `half_plane`."""
    size = (images.shape[-2], images.shape[-1])
    return torch.fft.irfft2(torch.fft.rfft2(images) * half, s=size)


def magnitude(images: Tensor) -> Tensor:
    """Return the magnitude of each wave in ``(..., H, W)`` real images as ``(..., H, W // 2 + 1)``, at least 0."""
    return torch.fft.rfft2(images.float()).abs()


def with_magnitude(images: Tensor, wanted: Tensor) -> Tensor:
    """Return images with the phases of ``images`` and other magnitudes.

    Args:
        images: ``(..., H, W)`` real; only their phases count.
        wanted: ``(..., H, W // 2 + 1)``, at least 0.

    Returns:
        ``(..., H, W)`` float32.
    """
    size = (images.shape[-2], images.shape[-1])
    phase = torch.fft.rfft2(images.float()).angle()
    return torch.fft.irfft2(torch.polar(wanted, phase), s=size)


def probe_filters(
    size: int, block: int, mirror: Literal["official", "exact"] = "official"
) -> tuple[Tensor, list[list[tuple[int, int]]]]:
    """Return filters, called probes, each of which removes one block of frequencies from an image.

    The centred spectrum is divided into ``(size / block)^2`` blocks. In a real image, the opposite frequencies of a
    block carry the same information. A probe therefore removes two opposite blocks and measures both.

    Args:
        size: Side of the images, a multiple of the block.
        block: Side of a block.
        mirror: Position of the second block. ``official``: shifted by one frequency, as in the authors' code; as the
            result is made real, most coefficients are then halved instead of zeroed. ``exact``: the opposite
            frequencies; all coefficients of both blocks are zeroed.

    Returns:
        ``(P, size, size // 2 + 1)`` float32 in {0, 0.5, 1}, see :func:`half_plane`; and for each of the P probes the
        cells (row, column) of the table of blocks that it fills. All probes are distinct; each cell is filled once.
    """
    last = size // block - 1
    filters: list[Tensor] = []
    cells: list[list[tuple[int, int]]] = []
    for row, column in product(range(last + 1), repeat=2):
        if mirror == "exact":
            twin = (last - row, last - column)
        elif column == 0:
            twin = (row, column)
        else:
            twin = (-row % (last + 1), last + 1 - column)
        if twin < (row, column):  # done already
            continue
        twins = sorted({(row, column), twin})
        mask = torch.ones(size, size)
        for r, c in twins:
            mask[block * r : block * (r + 1), block * c : block * (c + 1)] = 0
        half = half_plane(mask)
        filters.append((half == 1).to(half) if mirror == "exact" else half)
        cells.append(twins)
    return torch.stack(filters), cells


def influence_maps(table: Tensor, highest: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Turn a table of losses into influence maps: how strongly a classifier depends on each frequency (PCSS).

    ``K = (U - min U) / (m - min U)``, where U is the table enlarged bicubically and m is the highest value of U in all
    tables so far. A class that no image showed has no losses and keeps its m.

    Args:
        table: ``(C, g, g)`` float, at least 0: the loss of each class after each block of frequencies is removed.
        highest: ``(C,)``, the value of m before this table; 0 before the first table.
        size: Side of the maps.

    Returns:
        ``(C, size, size)`` maps in [0, 1], centred, 0 for a class without losses; and the new ``(C,)`` value of m.
    """
    enlarged = F.interpolate(table[None], size=(size, size), mode="bicubic", align_corners=False)[0]
    low, high = enlarged.amin(dim=(1, 2)), enlarged.amax(dim=(1, 2))
    highest = torch.maximum(highest, high)
    low, span = low[:, None, None], (highest - low)[:, None, None]
    maps = torch.where(span > 0, (enlarged - low) / span.clamp(min=torch.finfo(span.dtype).tiny), 0.0)
    return maps, highest
