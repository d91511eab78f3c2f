"""Convolutions of enlarged feature maps that never enlarge the features: the first and the last layer of ACR's decoder.

The decoder begins with a 4×4 convolution of stride 2 on ``m ⊙ U f``: coarse features f with hundreds of channels,
enlarged bilinearly (U) to the image and multiplied by a mask m. Enlarging, masking and convolving are linear, and the
first two act on each channel separately. So the channels can be mixed first, while the features are small:
``W * (m ⊙ U f) = sum_k S_k (m ⊙ U (W_k f))``, where k runs over the taps of the kernel, W_k is the tap's matrix from
input to output channels, and S_k shifts by the tap and keeps every second pixel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_STRIDE, _PADDING = 2, 1


def enlargement_matrix(length: int, size: int) -> Tensor:
    """Return the ``(size, length)`` float32 matrix of bilinear enlargement along one axis, pixel centres aligned."""
    identity = torch.eye(length)[None]  # (1, length, length)
    return F.interpolate(identity, size=size, mode="linear", align_corners=False)[0].T


def _tap_matrices(length: int, size: int, kernel: int, like: Tensor) -> Tensor:
    """Return ``(kernel, size / 2, length)``: for every tap, enlarge, shift by the tap and keep every second pixel."""
    rows = F.pad(enlargement_matrix(length, size), (0, 0, _PADDING, _PADDING))
    return torch.stack([rows[tap : tap + size : _STRIDE] for tap in range(kernel)]).to(like)


class _SumOverTaps(torch.autograd.Function):
    """``y = sum_{u, v} m[u, v] * (R_u z[u, v] C_v')``; backward computes the enlarged maps again."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, masks: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(mixed, masks, rows, columns)
        result = mixed.new_zeros(len(mixed), mixed.shape[3], rows.shape[1], columns.shape[1])
        for u, row in enumerate(rows):
            for v, column in enumerate(columns):
                result += (row @ (mixed[:, u, v] @ column.T)).mul_(_window(masks, u, v))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mixed, masks, rows, columns = ctx.saved_tensors
        for_mixed = torch.empty_like(mixed) if ctx.needs_input_grad[0] else None
        for_masks = torch.zeros_like(masks) if ctx.needs_input_grad[1] else None
        for u, row in enumerate(rows):
            for v, column in enumerate(columns):
                if for_mixed is not None:
                    for_mixed[:, u, v] = row.T @ ((gradient * _window(masks, u, v)) @ column)
                if for_masks is not None:
                    enlarged = row @ (mixed[:, u, v] @ column.T)
                    _window(for_masks, u, v).add_(enlarged.mul_(gradient).sum(1, keepdim=True))
        return for_mixed, for_masks, None, None


def _window(masks: Tensor, u: int, v: int) -> Tensor:
    """Return the view ``(B, 1, H / 2, W / 2)`` of the padded masks that one tap of the kernel reads."""
    height, width = masks.shape[2] - 2 * _PADDING, masks.shape[3] - 2 * _PADDING
    return masks[:, :, u : u + height : _STRIDE, v : v + width : _STRIDE]


def masked_convolution(features: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Convolve enlarged, masked features with stride 2 and padding 1; equal to the plain form up to rounding.

    The plain form is ``conv2d(mask * interpolate(features, mask's size, "bilinear"), weight, stride=2, padding=1)``.

    Args:
        features: ``(B, C, h, w)`` float.
        mask: ``(B, 1, H, W)`` float, H and W even.
        weight: ``(O, C, 4, 4)`` float.

    Returns:
        ``(B, O, H / 2, W / 2)``, differentiable once with respect to all three arguments.
    """
    outputs, inputs, kernel = weight.shape[:3]
    height, width = mask.shape[2:]
    taps = weight.permute(2, 3, 0, 1).reshape(-1, inputs, 1, 1)  # (4 · 4 · O, C, 1, 1)
    mixed = F.conv2d(features, taps).unflatten(1, (kernel, kernel, outputs))  # (B, 4, 4, O, h, w)
    rows = _tap_matrices(features.shape[2], height, kernel, mixed)
    columns = _tap_matrices(features.shape[3], width, kernel, mixed)
    return _SumOverTaps.apply(mixed, F.pad(mask.to(mixed), (_PADDING,) * 4), rows, columns)


_ROWS_READ = torch.tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
"""For an even and an odd pixel: the row of the small map (before, at, after) that each row of a 3×3 kernel reads."""


def doubled_convolution(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Double the size by repeating pixels, then convolve with padding 1; equal to the plain form up to rounding.

    The plain form is ``conv2d(interpolate(features, scale_factor=2, mode="nearest"), weight, bias, padding=1)``.
    Repeated pixels are equal, so the kernel values that multiply them can be added first. This gives four kernels for
    the small map, one for each of the four new pixels.

    Args:
        features: ``(B, C, h, w)`` float.
        weight: ``(O, C, 3, 3)`` float.
        bias: ``(O,)`` float.

    Returns:
        ``(B, O, 2h, 2w)``.
    """
    read = _ROWS_READ.to(weight)
    four = torch.einsum("aij,bkl,ocjl->oabcik", read, read, weight).flatten(0, 2)  # (4 · O, C, 3, 3)
    return F.pixel_shuffle(F.conv2d(features, four, bias.repeat_interleave(4), padding=1), 2)
