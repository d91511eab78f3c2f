"""EfficientNet-Lite0, with dilated convolutions in place of the last strides.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019, table 1) without
squeeze-and-excitation and with ReLU6 in place of swish, as in TensorFlow's "lite" variants. A Python package
contains its ImageNet weights, see :mod:`wsss_lib.models.pretrained`.

Difference from the training on ImageNet: no block is skipped at random (drop connect).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, BatchNorm2d, Normalisation, Tap, initialise, scaled

_STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32
_HEAD = 1280
_DEEP = 10
"""The last block at stride 16, without dilation."""
_TAPS = {"blocks.2": 4, "blocks.4": 8, f"blocks.{_DEEP}": 16, "head": 32}
"""The stride of each tap, without dilation."""

_OUR_NAMES = {
    r"^_conv_stem\.": "stem.conv.",
    r"^_bn0\.": "stem.norm.",
    r"^_conv_head\.": "head.conv.",
    r"^_bn1\.": "head.norm.",
    r"^_blocks\.(\d+)\._expand_conv\.": r"blocks.\1.expand.conv.",
    r"^_blocks\.(\d+)\._bn0\.": r"blocks.\1.expand.norm.",
    r"^_blocks\.(\d+)\._depthwise_conv\.": r"blocks.\1.depthwise.conv.",
    r"^_blocks\.(\d+)\._bn1\.": r"blocks.\1.depthwise.norm.",
    r"^_blocks\.(\d+)\._project_conv\.": r"blocks.\1.project.conv.",
    r"^_blocks\.(\d+)\._bn2\.": r"blocks.\1.project.norm.",
}
"""Keys of this network by the keys of the published file."""


class Unit(nn.Module):
    """A convolution, batch normalisation and, by default, ReLU6.

    The padding is TensorFlow's "same": a convolution of stride 2 puts the odd pixel of an even size right and below.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Side of the kernel, odd.
        stride: 1 or 2.
        dilation: Distance of neighbours under the kernel; 1 where the stride is 2.
        groups: Number of groups of channels that are convolved separately.
        activated: Whether ReLU6 follows.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activated: bool = True,
    ) -> None:
        super().__init__()
        self.reach = kernel // 2
        padding = dilation * self.reach if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        self.norm = BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.activated = activated

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(B, inputs, H, W)`` to ``(B, outputs, ceil(H / stride), ceil(W / stride))``."""
        x = images
        if self.conv.stride == (2, 2):
            height, width = x.shape[-2:]
            above, left = self.reach - 1 + height % 2, self.reach - 1 + width % 2
            x = F.pad(x, (left, self.reach, above, self.reach))
        x = self.norm(self.conv(x))
        return F.relu6(x, inplace=True) if self.activated else x


class Block(nn.Module):
    """An inverted residual: expand, convolve each channel separately, project, and add the input.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Side of the depthwise kernel.
        stride: Stride of the depthwise convolution, 1 or 2.
        dilation: Dilation of the depthwise convolution.
        expansion: Factor by which the depthwise convolution has more channels than the input.
        joined: Whether the input is added.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int, expansion: int, joined: bool
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = Unit(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Unit(inner, inner, kernel, stride, dilation, groups=inner)
        self.project = Unit(inner, outputs, 1, activated=False)
        self.joined = joined

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, inputs, H, W)`` to ``(B, outputs, ceil(H / stride), ceil(W / stride))``."""
        x = self.project(self.depthwise(self.expand(features)))
        return x + features if self.joined else x


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0: 3.4 M parameters without its classifier.

    Input: RGB, 0-255, minus 127, divided by 128 (a weight file may state others, see
    :func:`wsss_lib.models.weights.read_sidecar`).
    Taps, at width 1: ``blocks.2`` (24 channels, stride 4), ``blocks.4`` (40, 8), ``blocks.10`` (112) and ``head``
    (1280), the last two at the output stride at most.

    Args:
        width: Factor of the channel counts; 1 is the published network.
        output_stride: 8 or 16.
    """

    frozen_layers = ("stem", "blocks.0")
    classifier_keys = ("_fc.",)

    def __init__(self, width: float = 1.0, output_stride: Literal[8, 16] = 16) -> None:
        blocks, inputs, reached, dilation = [], scaled(_STEM, width), 2, 1
        stem = Unit(3, inputs, 3, stride=2)
        for count, kernel, first_stride, expansion, channels in _STAGES:
            outputs = scaled(channels, width)
            for index in range(count):
                stride = first_stride if index == 0 else 1
                dense = reached * stride > output_stride
                blocks.append(
                    Block(inputs, outputs, kernel, 1 if dense else stride, dilation, expansion, joined=index > 0)
                )
                if dense:
                    dilation *= stride
                else:
                    reached *= stride
                inputs = outputs
        head = Unit(inputs, scaled(_HEAD, width), 1)
        parts = {**{f"blocks.{i}": block.project for i, block in enumerate(blocks)}, "head": head}
        super().__init__(
            {name: Tap(parts[name].conv.out_channels, min(stride, output_stride)) for name, stride in _TAPS.items()},
            Normalisation(mean=(127.0,) * 3, std=(128.0,) * 3, divisor=1.0),
        )
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.head = head
        initialise(self)
        self.channels_last()

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of the published file to the names of this network; other tensors keep their names."""
        return {_our_name(key): value for key, value in state.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` to the four taps ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        taps = {}
        x = self.stem(images)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if f"blocks.{i}" in self.taps:
                taps[f"blocks.{i}"] = x
        taps["head"] = self.head(x)
        return taps

    def until_last(self, images: Tensor) -> Tensor:
        """Return ``blocks.10``."""
        return self.blocks[: _DEEP + 1](self.stem(images))

    def last(self, features: Tensor) -> Tensor:
        """Return ``head`` of ``blocks.10``."""
        return self.head(self.blocks[_DEEP + 1 :](features))


def _our_name(key: str) -> str:
    for theirs, ours in _OUR_NAMES.items():
        if re.match(theirs, key):
            return re.sub(theirs, ours, key)
    return key
