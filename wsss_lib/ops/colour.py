"""Colours: RGB to CIELAB."""

from __future__ import annotations

import torch
from torch import Tensor

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
