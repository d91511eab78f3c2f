"""ResNet-50 from torchvision, with dilated convolutions in place of the last strides.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from wsss_lib.models.backbone import Backbone, BatchNorm2d, Tap, initialise, scaled


class ResNet50(Backbone):
    """ResNet-50: 23.5 M parameters without its classifier.

    Input: RGB, 0-1, ImageNet mean and standard deviation.
    Taps: ``maxpool`` (64 channels, stride 4), ``layer1`` (256, 4), ``layer2`` (512, 8), ``layer3`` (1024) and
    ``layer4`` (2048), the last two at the output stride.

    Args:
        width: Factor of all channel counts; 1 is the paper's network. Below 1, every stage has one block only: the
            small variant for the toy world.
        output_stride: 8 or 16.
        dilated: Whether the convolutions of ``layer4`` are dilated in place of the strides that are left out.
    """

    frozen_layers = ("conv1", "layer1")
    classifier_keys = ("fc.",)

    def __init__(self, width: float = 1.0, output_stride: Literal[8, 16] = 16, dilated: bool = True) -> None:
        planes = [scaled(64 * 2**i, width) for i in range(4)]
        channels = [Bottleneck.expansion * count for count in planes]
        strides = (4, 8, output_stride, output_stride)
        stages = {f"layer{i + 1}": Tap(channels[i], strides[i]) for i in range(4)}
        super().__init__({"maxpool": Tap(planes[0], 4), **stages})
        fine = output_stride == 8
        self.conv1 = nn.Conv2d(3, planes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = (3, 4, 6, 3) if width >= 1 else (1, 1, 1, 1)
        before = 2 if fine else 1  # a first block still has the dilation of the stage before
        self.layer1 = _stage(planes[0], planes[0], blocks[0])
        self.layer2 = _stage(channels[0], planes[1], blocks[1], stride=2)
        self.layer3 = _stage(channels[1], planes[2], blocks[2], stride=1 if fine else 2, dilations=(1, before))
        self.layer4 = _stage(channels[2], planes[3], blocks[3], dilations=(before, 2 * before) if dilated else (1, 1))
        initialise(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` to the five taps ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        x = images
        taps = {"maxpool": (x := self.maxpool(self.relu(self.bn1(self.conv1(x)))))}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            taps[name] = x = self.get_submodule(name)(x)
        return taps

    def until_last(self, images: Tensor) -> Tensor:
        """Return ``layer3``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer3(self.layer2(self.layer1(x)))

    def last(self, features: Tensor) -> Tensor:
        """Return ``layer4`` of ``layer3``."""
        return self.layer4(features)


def _stage(
    inputs: int, planes: int, blocks: int, stride: int = 1, dilations: tuple[int, int] = (1, 1)
) -> nn.Sequential:
    """Return torchvision's bottlenecks; the first has the stride, a projection and the first dilation."""
    outputs = Bottleneck.expansion * planes
    projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))
    first = Bottleneck(inputs, planes, stride, projection, dilation=dilations[0], norm_layer=BatchNorm2d)
    further = (Bottleneck(outputs, planes, dilation=dilations[1], norm_layer=BatchNorm2d) for _ in range(1, blocks))
    return nn.Sequential(first, *further)
