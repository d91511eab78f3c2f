"""MobileNetV2 from torchvision, with dilated convolutions in place of the last strides.

Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018). A small
network that trains on photographs on a laptop.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from wsss_lib.models.backbone import Backbone, BatchNorm2d, Tap


def dilate(features: nn.Sequential, output_stride: int) -> None:
    """Replace every stride beyond ``output_stride`` by dilation of the depthwise convolutions that follow it."""
    stride, dilation = 1, 1
    for block in features:
        for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)):
            conv.dilation = conv.padding = (dilation, dilation)
            if conv.stride == (2, 2):
                stride *= 2
                if stride > output_stride:
                    conv.stride = (1, 1)
                    dilation *= 2


class MobileNetV2(Backbone):
    """MobileNetV2: 2.2 M parameters without its classifier.

    Input: RGB, 0-1, ImageNet mean and standard deviation (a weight file may state others, see
    :func:`wsss_lib.models.weights.read_sidecar`).
    Taps, at width 1: ``features.2`` and ``features.3`` (24 channels, stride 4), ``features.6`` (32, 8),
    ``features.13`` (96) and ``features.18`` (1280), the last two at the output stride at most.

    Args:
        width: Factor of the channel counts; 1 is the paper's network.
        output_stride: 8 or 16.
    """

    frozen_layers = ("features.0", "features.1")
    classifier_keys = ("classifier.",)

    def __init__(self, width: float = 1.0, output_stride: Literal[8, 16] = 16) -> None:
        features = mobilenet_v2(width_mult=width, norm_layer=BatchNorm2d).features
        strides = {2: 4, 3: 4, 6: 8, 13: output_stride, 18: output_stride}
        super().__init__({f"features.{i}": Tap(features[i].out_channels, s) for i, s in strides.items()})
        dilate(features, output_stride)
        self.features = features
        self.channels_last()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` to the five taps ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        taps = {}
        x = images
        for i, block in enumerate(self.features):
            x = block(x)
            if f"features.{i}" in self.taps:
                taps[f"features.{i}"] = x
        return taps

    def until_last(self, images: Tensor) -> Tensor:
        """Return ``features.13``."""
        return self.features[:14](images)

    def last(self, features: Tensor) -> Tensor:
        """Return ``features.18`` of ``features.13``."""
        return self.features[14:](features)
