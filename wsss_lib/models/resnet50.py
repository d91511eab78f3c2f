"""ResNet-50 from torchvision, with dilated convolutions in place of the last strides.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from wsss_lib.models.backbone import Backbone, BatchNorm2d, Tap


class ResNet50(Backbone):
    """ResNet-50: 23.5 M parameters without its classifier.

    Input: RGB, 0-1, ImageNet mean and standard deviation.
    Taps: ``layer1`` (256 channels, stride 4), ``layer2`` (512, 8), ``layer3`` (1024) and ``layer4`` (2048), the last
    two at the output stride.

    Args:
        width: Factor of the inner channel counts of the bottlenecks; 1 is the paper's network. Below 1, every stage
            also has one block only, which makes the small variant of the toy world.
        output_stride: 8 or 16.
        dilated: Whether dilation makes up for the strides that are left out, as far as ``layer4`` is concerned.
    """

    frozen_layers = ("conv1", "layer1")
    classifier_keys = ("fc.",)

    def __init__(self, width: float = 1.0, output_stride: Literal[8, 16] = 16, dilated: bool = True) -> None:
        super().__init__(
            {
                "layer1": Tap(256, 4),
                "layer2": Tap(512, 8),
                "layer3": Tap(1024, output_stride),
                "layer4": Tap(2048, output_stride),
            }
        )
        net = ResNet(
            Bottleneck,
            layers=[3, 4, 6, 3] if width >= 1 else [1, 1, 1, 1],
            width_per_group=max(1, round(64 * width)),
            replace_stride_with_dilation=[False, output_stride == 8, True],
            norm_layer=BatchNorm2d,
        )
        for convolution in (m for m in net.layer4.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)):
            if not dilated:
                convolution.dilation = convolution.padding = (1, 1)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` to the four taps ``(B, channels, ceil(H / stride), ceil(W / stride))``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        layer1 = self.layer1(x)
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        return {"layer1": layer1, "layer2": layer2, "layer3": layer3, "layer4": self.layer4(layer3)}

    def until_last(self, images: Tensor) -> Tensor:
        """Return ``layer3``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer3(self.layer2(self.layer1(x)))

    def last(self, features: Tensor) -> Tensor:
        """Return ``layer4`` of ``layer3``."""
        return self.layer4(features)
