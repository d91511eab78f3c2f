"""Class activation maps after the network: normalisation, CAM seeds, and how much of an object they find."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.ops.values import all_finite, all_within


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(B, K, h, w)`` maps to ``(B, K, *size)``, bilinearly, pixel centres aligned; B and K may be 0."""
    if not maps.numel():
        return maps.new_zeros(*maps.shape[:2], *size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def enlarged_bands(maps: Tensor, size: tuple[int, int], values: int = 2**22) -> Iterator[tuple[slice, Tensor]]:
    """Yield what :func:`upsample` returns, some rows after others, so that large maps are never in memory as a whole.

    Args:
        maps: ``(C, h, w)`` float.
        size: ``(H, W)``. Maps that have this size already are yielded as they are, all rows together.
        values: Greatest number of values in a band, which has at least one row.

    Yields:
        Which rows, and their ``(C, rows, W)`` values; they differ from :func:`upsample`'s by rounding alone.
    """
    (channels, height, _), (rows, columns) = maps.shape, size
    if maps.shape[1:] == size:
        yield slice(0, rows), maps
        return
    places = (torch.arange(rows, dtype=torch.float64, device=maps.device) + 0.5) * (height / rows) - 0.5
    places = places.clamp(0, height - 1)
    above = places.long()
    below, shares = (above + 1).clamp(max=height - 1), (places - above).to(maps.dtype)[:, None]
    step = max(1, values // (columns * max(1, channels)))
    for top in range(0, rows, step):
        band = slice(top, min(top + step, rows))
        between = maps[:, above[band]].lerp(maps[:, below[band]], shares[band])
        found = maps.new_zeros(0, between.shape[1], columns)
        yield band, upsample(between[None], (between.shape[1], columns))[0] if channels else found


def highest(scores: Tensor, dim: int) -> Tensor:
    """Return where along a dimension the scores are highest, int64; of equals the first.

    It is what ``argmax`` returns, which on a CPU takes ten times as long along any but the last dimension.
    """
    return scores.max(dim).indices


def merge_mirrored(maps: Tensor) -> Tensor:
    """Add the maps of mirrored images to those of the plain ones.

    Bilinear resizing commutes with mirroring, so this may be done at feature resolution.

    Args:
        maps: ``(2B, K, h, w)``: B plain images, then the same B mirrored left to right.

    Returns:
        ``(B, K, h, w)``.
    """
    plain, mirrored = maps.chunk(2)
    return plain + mirrored.flip(-1)


def normalise_maximum(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Divide every map of ``(..., H, W)`` by its own maximum plus ``eps``; non-negative maps end up in [0, 1)."""
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + eps)


def normalise_range(maps: Tensor, eps: float = 1e-5) -> Tensor:
    """Stretch every map of ``(..., H, W)`` to [0, 1): ACR's normalisation N, with exact zeros at the bottom.

    ``N(A) = relu(r - min r - eps) / (max r - min r + eps)`` with ``r = relu(A)``. A map without any positive value
    becomes 0. Where several positions have the largest value, they share its gradient.
    """
    rectified = F.relu(maps)
    least, most = rectified.amin(dim=(-2, -1), keepdim=True), rectified.amax(dim=(-2, -1), keepdim=True)
    return F.relu(rectified - least - eps) / (most - least + eps)


def cam_label(scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Return the CAM seed: at every pixel the class of the highest score, or background.

    Background has the score ``threshold`` everywhere and wins ties; of two classes the first wins.

    Args:
        scores: ``(n, H, W)`` float, the normalised maps of the n classes that the image shows; n may be 0.
        classes: ``(n,)`` int64, which classes these are, from 0.
        threshold: The background score.

    Returns:
        ``(H, W)`` uint8: 0 background, k + 1 class k.

    Raises:
        InputError: A score is not finite, or there are not as many classes as scores.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[[0.1, 0.4, 0.9]], [[0.0, 0.7, 0.2]]])
        >>> cam_label(scores, classes=torch.tensor([7, 14]), threshold=0.2).tolist()
        [[0, 15, 8]]
    """
    if len(classes) != len(scores):
        raise InputError(f"there are maps of {len(scores)} classes but {len(classes)} classes; give one map for each.")
    if not all_finite(scores):
        raise InputError("scores hold NaN or infinite values; give normalised maps.")
    if scores.shape[0] == 0:
        return torch.zeros(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    best, which = scores.max(dim=0)
    labels = (classes + 1).to(torch.uint8)[which]
    return torch.where(best > best.new_tensor(threshold), labels, labels.new_zeros(()))


def background_power(cams: Tensor, alpha: float) -> Tensor:
    """Put a background score ``(1 - max_k A_k)^alpha`` before the maps (AffinityNet, equation 2).

    Args:
        cams: ``(n, H, W)`` float in [0, 1]; n may be 0.
        alpha: The higher, the lower the background.

    Returns:
        ``(1 + n, H, W)``.

    Raises:
        InputError: A value is not a number in [0, 1].

    Example:
        >>> import torch
        >>> background_power(torch.tensor([[[0.5, 0.0]]]), alpha=2).tolist()
        [[[0.25, 1.0]], [[0.5, 0.0]]]
    """
    if not all_within(cams):
        raise InputError("maps hold negative or non-finite values or values above 1; give maps in [0, 1].")
    if cams.shape[0] == 0:
        return cams.new_ones(1, *cams.shape[1:])
    return torch.cat([(1 - cams.amax(0, keepdim=True)).clamp(min=0) ** alpha, cams])


def activation_share(maps: Tensor, region: Tensor) -> Tensor:
    """Return which share of the activation falls into a region.

    Args:
        maps: ``(..., H, W)`` float, at least 0.
        region: ``(..., H, W)`` bool.

    Returns:
        ``(...)`` in [0, 1]; NaN where a map is zero everywhere.
    """
    return (maps * region).sum(dim=(-2, -1)) / maps.sum(dim=(-2, -1))


def covered_share(maps: Tensor, region: Tensor, threshold: float) -> Tensor:
    """Return which share of a region's pixels has an activation above ``threshold``.

    Args:
        maps: ``(..., H, W)`` float.
        region: ``(..., H, W)`` bool.
        threshold: The activation above which a pixel counts as found.

    Returns:
        ``(...)`` in [0, 1]; NaN where a region is empty.
    """
    found = (maps > threshold) & region
    return found.sum(dim=(-2, -1)) / region.sum(dim=(-2, -1))
