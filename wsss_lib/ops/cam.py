"""Class activation maps after the network: normalisation, CAM seeds, and the share of an object that a map finds."""

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
    """Yield the result of :func:`upsample` in bands of rows, so that large maps never have to fit into memory.

    Args:
        maps: ``(C, h, w)`` float.
        size: Size ``(H, W)`` of the result. Maps of this size are yielded unchanged, as one band.
        values: Greatest number of values in a band. A band has at least one row.

    Yields:
        The rows of a band as a slice, and their ``(C, rows, W)`` values, equal to :func:`upsample` up to rounding.
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


def argmax(scores: Tensor, dim: int) -> Tensor:
    """Return the index of the highest score along a dimension as int64; the first index if several are equal.

    The result equals that of :meth:`torch.Tensor.argmax`, which is ten times slower on a CPU unless ``dim`` is last.
    """
    return scores.max(dim).indices


def merge_mirrored(maps: Tensor) -> Tensor:
    """Add the maps of mirrored images to the maps of the plain images.

    Bilinear resizing commutes with mirroring, so the sum can be taken at feature resolution.

    Args:
        maps: ``(2B, K, h, w)``: maps of B plain images, then maps of the same images mirrored left to right.

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
    """Return the CAM seed: the class with the highest score at each pixel, or background.

    Background has the score ``threshold`` everywhere and wins ties; the first of several equal classes wins.

    Args:
        scores: ``(n, H, W)`` float, the normalised maps of the n classes that the image shows; n may be 0.
        classes: ``(n,)`` int64, the class of each map, from 0.
        threshold: Score of the background.

    Returns:
        ``(H, W)`` uint8: 0 for background, k + 1 for class k.

    Raises:
        InputError: A score is not finite, or the numbers of maps and classes differ.

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
    """Prepend the background score ``(1 - max_k A_k)^alpha`` to the maps (AffinityNet, equation 2).

    Args:
        cams: ``(n, H, W)`` float in [0, 1]; n may be 0.
        alpha: Power of the background; a higher power lowers the background score.

    Returns:
        ``(1 + n, H, W)`` scores, background first.

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
    """Return the share of the activation that lies inside a region.

    Args:
        maps: ``(..., H, W)`` float, at least 0.
        region: ``(..., H, W)`` bool.

    Returns:
        ``(...)`` in [0, 1]; NaN where a map is zero everywhere.
    """
    return (maps * region).sum(dim=(-2, -1)) / maps.sum(dim=(-2, -1))


def covered_share(maps: Tensor, region: Tensor, threshold: float) -> Tensor:
    """Return the share of a region's pixels whose activation is above ``threshold``.

    Args:
        maps: ``(..., H, W)`` float.
        region: ``(..., H, W)`` bool.
        threshold: Activation above which a pixel counts as found.

    Returns:
        ``(...)`` in [0, 1]; NaN where a region is empty.
    """
    found = (maps > threshold) & region
    return found.sum(dim=(-2, -1)) / region.sum(dim=(-2, -1))
