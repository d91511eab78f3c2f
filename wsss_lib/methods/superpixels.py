"""Superpixels from images alone: a network that learns to rebuild colours and positions from superpixel means.

Yang, Sun, Jin, Zhou, "Superpixel Segmentation with Fully Convolutional Networks", CVPR 2020, with the loss and the
training that MSAL uses: colours in CIELAB, no labels, Adam with a constant learning rate.

Differences from MSAL's release (CHENDL-SHEN/MSA): images are shuffled; the target is cut from the same resized image as
the input, where the authors resize it once more without smoothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsss_lib.ops.superpixels import superpixel_pool, superpixel_upsample

POSITION_WEIGHT = 0.003
_SCALE = 0.005
_WHITE = (0.950456, 1.0, 1.088754)
_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)


def rgb_to_lab(images: Tensor) -> Tensor:
    """Turn ``(..., 3, H, W)`` RGB in [0, 1] into CIELAB, in [0, 1] as in 8-bit files: L / 100, (a + 128) / 255."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92)
    matrix = images.new_tensor(_TO_XYZ) / images.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("ij,...jhw->...ihw", matrix, linear)
    f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(-3)
    luminance = torch.where(xyz.select(-3, 1) > 0.008856, 116 * y - 16, 903.3 * xyz.select(-3, 1))
    return torch.stack([luminance / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255], dim=-3)


def with_positions(values: Tensor) -> Tensor:
    """Put the column and the row of every pixel behind ``(B, c, H, W)`` values: ``(B, c + 2, H, W)``."""
    batch, _, height, width = values.shape
    rows = torch.arange(height, device=values.device, dtype=values.dtype)[:, None].expand(height, width)
    columns = torch.arange(width, device=values.device, dtype=values.dtype)[None].expand(height, width)
    return torch.cat([values, torch.stack([columns, rows]).expand(batch, -1, -1, -1)], dim=1)


def superpixel_loss(
    association: Tensor, values: Tensor, cell: int = 16, position_weight: float = POSITION_WEIGHT
) -> dict[str, Tensor]:
    """Return how badly pixels are rebuilt from the superpixels that they belong to.

    ``L = 0.005 sum_p [|T'_p - T_p| + 0.003 |x'_p - x_p|] / (B S)`` with the values T, the positions x, and what comes
    back, T' and x', after pooling and up-sampling. Values of more than three channels are one-hot labels, for which the
    first term is their cross-entropy, divided by B.

    Args:
        association: ``(B, 9, H, W)``, Q.
        values: ``(B, 3, H, W)`` colours, or ``(B, classes, H, W)`` one-hot labels.
        cell: S.
        position_weight: Weight of the second term.

    Returns:
        ``loss`` and its two terms, ``appearance`` and ``position``.
    """
    target = with_positions(values)
    rebuilt = superpixel_upsample(superpixel_pool(target, association, cell), association, cell)
    batch = len(values)
    if values.shape[1] == 3:
        appearance = (rebuilt[:, :3] - values).norm(dim=1).sum() / (batch * cell)
    else:
        appearance = -(values * torch.log(rebuilt[:, :-2] + 1e-8)).sum() / batch
    position = position_weight * (rebuilt[:, -2:] - target[:, -2:]).norm(dim=1).sum() / (batch * cell)
    terms = {"appearance": _SCALE * appearance, "position": _SCALE * position}
    return {"loss": terms["appearance"] + terms["position"], **terms}
