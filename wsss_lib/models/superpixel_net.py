"""A network that divides images into superpixels.

Yang, Sun, Jin, Zhou, "Superpixel Segmentation with Fully Convolutional Networks", CVPR 2020, as MSAL uses it. The
parameters have the keys of the authors' checkpoints.
"""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Backbone, Normalisation, Tap

CELL = 16
"""Side of a cell of the grid of superpixels, in pixels."""

SPIXEL_FCN = Normalisation(mean=(0.411, 0.432, 0.45), std=(1.0, 1.0, 1.0))
"""Input normalisation of the network that Yang et al. published, ``SpixelNet_bsd_ckpt.tar``."""

_CHANNELS = (16, 32, 64, 128, 256)
_SLOPE = 0.1


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.LeakyReLU(_SLOPE))


def _enlargement(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE))


class SuperpixelNet(Backbone):
    """A U-Net from images to the association of pixels with the superpixels around them.

    Three layers, ``pred_mask1`` to ``pred_mask3``, are part of every checkpoint and are not used.

    Args:
        width: Factor of the channels; 1 is the published network.

    Attributes:
        given: Normalisation of the images that :meth:`forward` gets; None if it is that of the weights.
    """

    given: Normalisation | None = None

    def __init__(self, width: float = 1.0) -> None:
        super().__init__({"association": Tap(9, 1)})
        channels = [max(1, ceil(c * width)) for c in _CHANNELS]
        for level, after in enumerate(channels):
            before = channels[level - 1] if level else 3
            self.add_module(f"conv{level}a", _convolution(before, after, 2 if level else 1))
            self.add_module(f"conv{level}b", _convolution(after, after))
        for level in reversed(range(len(channels) - 1)):
            self.add_module(f"deconv{level}", _enlargement(channels[level + 1], channels[level]))
            self.add_module(f"conv{level}_1", _convolution(2 * channels[level], channels[level]))
            self.add_module(f"pred_mask{level}", nn.Conv2d(channels[level], 9, 3, padding=1))
        for level in (1, 2, 3):
            self.get_submodule(f"pred_mask{level}").requires_grad_(False)
        self.levels = len(channels)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` normalised images to the association ``(B, 9, H, W)``, of which the 9 channels sum to 1.

        Raises:
            InputError: A side is not a multiple of 16.
        """
        if images.shape[2] % CELL or images.shape[3] % CELL:
            height, width = images.shape[2:]
            raise InputError(f"images of {height} × {width} pixels have no whole cells of {CELL}; resize them.")
        shortcuts = []
        x = images if self.given is None else self.given.convert(images, self.normalisation)
        for level in range(self.levels):
            x = self.get_submodule(f"conv{level}b")(self.get_submodule(f"conv{level}a")(x))
            shortcuts.append(x)
        for level in reversed(range(self.levels - 1)):
            enlarged = self.get_submodule(f"deconv{level}")(x)
            x = self.get_submodule(f"conv{level}_1")(torch.cat([shortcuts[level], enlarged], dim=1))
        return {"association": F.softmax(self.get_submodule("pred_mask0")(x), dim=1)}
