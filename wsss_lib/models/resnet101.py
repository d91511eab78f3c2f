"""ResNet-101 of DeepLab-V2: the network of Caffe, with dilated convolutions in place of the last strides.

Chen, Papandreou, Kokkinos, Murphy, Yuille, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
Convolution, and Fully Connected CRFs" (TPAMI 2018). The layer names are those of kazuto1011/deeplab-pytorch, so that
its checkpoints load. torchvision's ResNet-101 is another network: its blocks have their stride in the 3×3 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, BatchNorm2d, Normalisation, Tap, initialise, relu, scaled


class ConvNorm(nn.Sequential):
    """A convolution without bias, which keeps ``ceil(n / stride)`` positions along an axis, and its normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False))
        self.add_module("bn", BatchNorm2d(outputs))


class Block(nn.Module):
    """Residual block of a 1×1, a dilated 3×3 and a 1×1 convolution; the first has the stride.

    Args:
        inputs: Input channels.
        middle: Channels between the convolutions.
        outputs: Output channels.
        stride: Stride of the block.
        dilation: Dilation of the 3×3 convolution.
        project: Whether the shortcut is a 1×1 convolution instead of the input.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        self.reduce = ConvNorm(inputs, middle, 1, stride)
        self.conv3x3 = ConvNorm(middle, middle, 3, dilation=dilation)
        self.increase = ConvNorm(middle, outputs, 1)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, outputs, ceil(h / stride), ceil(w / stride))``."""
        y = relu(self.conv3x3(relu(self.reduce(x))))
        return relu(self.increase(y) + self.shortcut(x))


class CaffeResNet101(Backbone):
    """ResNet-101 with dilations 2 and 4 in the last two stages: 42.4 M parameters.

    Input: BGR, 0-255, minus the mean colour of ImageNet.
    Taps: ``layer2`` (256 channels, stride 4), ``layer3`` (512), ``layer4`` (1024) and ``layer5`` (2048) at stride 8.
    The pooling rounds up, so that a side of n pixels has ``ceil((ceil(n / 2) - 1) / 2) + 1`` positions at stride 4.

    Args:
        width: Factor of all channel counts; 1 is the paper's network. Below 1, every stage has one block only: the
            small variant for the toy world.
    """

    classifier_keys = ("fc.",)

    def __init__(self, width: float = 1.0) -> None:
        c64, c128, c256, c512, c1024, c2048 = (scaled(64 * 2**i, width) for i in range(6))
        super().__init__(
            {"layer2": Tap(c256, 4), "layer3": Tap(c512, 8), "layer4": Tap(c1024, 8), "layer5": Tap(c2048, 8)},
            Normalisation((122.675, 116.669, 104.008), (1.0, 1.0, 1.0), divisor=1.0, bgr=True),
        )
        self.layer1 = nn.Sequential()
        self.layer1.add_module("conv1", ConvNorm(3, c64, 7, stride=2))
        self.layer1.add_module("relu", nn.ReLU(inplace=True))
        self.layer1.add_module("pool", nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        counts = (3, 4, 23, 3) if width >= 1 else (1, 1, 1, 1)
        self.layer2 = _stage(counts[0], c64, c64, c256)
        self.layer3 = _stage(counts[1], c256, c128, c512, stride=2)
        self.layer4 = _stage(counts[2], c512, c256, c1024, dilation=2)
        self.layer5 = _stage(counts[3], c1024, c512, c2048, dilation=4)
        initialise(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` to the four taps."""
        layer2 = self.layer2(self.layer1(images))
        layer3 = self.layer3(layer2)
        layer4 = self.layer4(layer3)
        return {"layer2": layer2, "layer3": layer3, "layer4": layer4, "layer5": self.layer5(layer4)}


def _stage(count: int, inputs: int, middle: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return ``block1``, ``block2``, ..., the first with the stride and a projection."""
    stage = nn.Sequential()
    for i in range(count):
        first = i == 0
        block = Block(inputs if first else outputs, middle, outputs, stride if first else 1, dilation, project=first)
        stage.add_module(f"block{i + 1}", block)
    return stage
