"""Propagation of maps between positions with similar features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def propagate_affinity(maps: Tensor, features: Tensor, iterations: int, threshold: float = 0.6) -> Tensor:
    """Replace each value by the mean over positions with similar features, several times (MSAL's affinity propagation).

    ``M <- M a`` with ``a_ij = s_ij / sum_i s_ij``, where s holds the cosine similarities, clamped to [0.01, 0.999];
    similarities below the threshold are left out. Gradients also reach the features, through unclamped similarities.

    Args:
        maps: ``(B, C, h, w)`` float, M.
        features: ``(B, c, h, w)`` float.
        iterations: Number of replacements; 0 returns the maps as they are.
        threshold: Least similarity that counts.

    Returns:
        ``(B, C, h, w)``. A position whose features are all 0 is similar to no position, and its values become 0.
    """
    if not iterations:
        return maps
    if len(maps) > 1 and not torch.is_grad_enabled():  # image by image, because the similarities need much memory
        pairs = zip(maps.split(1), features.split(1), strict=True)
        return torch.cat([propagate_affinity(m, f, iterations, threshold) for m, f in pairs])
    directions = F.normalize(features.flatten(2), dim=1, eps=1e-12)
    similarity = (directions.transpose(1, 2) @ directions).clamp(0.01, 0.999)
    similarity = torch.where(similarity < threshold, torch.zeros_like(similarity), similarity)
    shares = similarity / similarity.sum(dim=1, keepdim=True).clamp(min=1e-12)
    spread = maps.flatten(2)
    for _ in range(iterations):
        spread = spread @ shares
    return spread.reshape(maps.shape)
