"""ResNet-38 with dilated convolutions, output stride 8.

Wu, Shen, van den Hengel, "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition" (Pattern Recognition
2019), Model A1, as AffinityNet (Ahn and Kwak, CVPR 2018) and most of its successors use it. The layer names are
those of the authors' code, so that its checkpoints load. No convolution has a bias.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, BatchNorm2d, Tap, initialise, relu, scaled


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Return a 3×3 convolution whose padding keeps ``ceil(n / stride)`` positions along an axis."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 1×1 convolution."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class Block(nn.Module):
    """Pre-activation residual block of two 3×3 convolutions.

    Args:
        inputs: Input channels.
        middle: Channels between the convolutions.
        outputs: Output channels.
        stride: Stride of the first convolution and of the shortcut.
        first_dilation: Dilation of the first convolution.
        dilation: Dilation of the second convolution.
    """

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int = 1, first_dilation: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.bn_branch2a = BatchNorm2d(inputs)
        self.conv_branch2a = conv3x3(inputs, middle, stride, first_dilation)
        self.bn_branch2b1 = BatchNorm2d(middle)
        self.conv_branch2b1 = conv3x3(middle, outputs, dilation=dilation)
        if inputs != outputs or stride != 1:
            self.conv_branch1 = conv1x1(inputs, outputs, stride)

    def activate(self, x: Tensor) -> Tensor:
        """Return the normalised and rectified input ``h``, which the papers tap."""
        return relu(self.bn_branch2a(x))

    def residual(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the residual computed from ``h`` plus the shortcut, which is ``x`` or a projection of ``h``."""
        shortcut = self.conv_branch1(h) if hasattr(self, "conv_branch1") else x
        y = self.conv_branch2a(h)
        y = self.conv_branch2b1(relu(self.bn_branch2b1(y)))
        return shortcut + y

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, outputs, ceil(h / stride), ceil(w / stride))``."""
        return self.residual(x, self.activate(x))


class BottleneckBlock(nn.Module):
    """Pre-activation residual block of a 1×1, a dilated 3×3 and a 1×1 convolution, with dropout between them.

    Args:
        inputs: Input channels.
        outputs: Output channels, a multiple of 4.
        dilation: Dilation of the 3×3 convolution.
        dropout: Probability that a channel is dropped, in training.
    """

    def __init__(self, inputs: int, outputs: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = BatchNorm2d(inputs)
        self.conv_branch2a = conv1x1(inputs, outputs // 4)
        self.bn_branch2b1 = BatchNorm2d(outputs // 4)
        self.conv_branch2b1 = conv3x3(outputs // 4, outputs // 2, dilation=dilation)
        self.bn_branch2b2 = BatchNorm2d(outputs // 2)
        self.conv_branch2b2 = conv1x1(outputs // 2, outputs)
        self.conv_branch1 = conv1x1(inputs, outputs)
        self.dropout = nn.Dropout2d(dropout)

    def activate(self, x: Tensor) -> Tensor:
        """Return the normalised and rectified input ``h``, which the papers tap."""
        return relu(self.bn_branch2a(x))

    def residual(self, h: Tensor) -> Tensor:
        """Return the residual computed from ``h`` plus a projection of ``h``."""
        y = self.conv_branch2a(h)
        y = self.conv_branch2b1(self.dropout(relu(self.bn_branch2b1(y))))
        y = self.conv_branch2b2(self.dropout(relu(self.bn_branch2b2(y))))
        return self.conv_branch1(h) + y

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, h, w)`` to ``(B, outputs, h, w)``."""
        return self.residual(self.activate(x))


class ResNet38d(Backbone):
    """ResNet-38, Model A1: 105 M parameters, 399 GMAC for a 448×448 image.

    Input: RGB, 0-1, ImageNet mean and standard deviation.
    Taps: ``conv4`` (512 channels), ``conv5`` (1024), ``conv6`` (4096), all at stride 8, each rectified.

    Args:
        width: Factor of all channel counts; 1 is the paper's network.
        dropout: Probabilities of the dropout in the last two blocks; OC-CSE's fixed classifier has (0.2, 0.2).
    """

    frozen_layers = ("conv1a", "b2", "b2_1", "b2_2")

    def __init__(self, width: float = 1.0, dropout: Sequence[float] = (0.3, 0.5)) -> None:
        c64, c128, c256, c512, c1024, c2048, c4096 = (scaled(64 * 2**i, width) for i in range(7))
        super().__init__({"conv4": Tap(c512, 8), "conv5": Tap(c1024, 8), "conv6": Tap(c4096, 8)})
        self.conv1a = conv3x3(3, c64)

        self.b2 = Block(c64, c128, c128, stride=2)
        self.b2_1 = Block(c128, c128, c128)
        self.b2_2 = Block(c128, c128, c128)

        self.b3 = Block(c128, c256, c256, stride=2)
        self.b3_1 = Block(c256, c256, c256)
        self.b3_2 = Block(c256, c256, c256)

        self.b4 = Block(c256, c512, c512, stride=2)
        self.b4_1 = Block(c512, c512, c512)
        self.b4_2 = Block(c512, c512, c512)
        self.b4_3 = Block(c512, c512, c512)
        self.b4_4 = Block(c512, c512, c512)
        self.b4_5 = Block(c512, c512, c512)

        self.b5 = Block(c512, c512, c1024, first_dilation=1, dilation=2)
        self.b5_1 = Block(c1024, c512, c1024, first_dilation=2, dilation=2)
        self.b5_2 = Block(c1024, c512, c1024, first_dilation=2, dilation=2)

        self.b6 = BottleneckBlock(c1024, c2048, dilation=4, dropout=dropout[0])
        self.b7 = BottleneckBlock(c2048, c4096, dilation=4, dropout=dropout[1])
        self.bn7 = BatchNorm2d(c4096)
        initialise(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` to the three taps ``(B, channels, ceil(H / 8), ceil(W / 8))``."""
        x = self.conv1a(images)
        x = self.b2_2(self.b2_1(self.b2(x)))  # stride 2
        x = self.b3_2(self.b3_1(self.b3(x)))  # stride 4
        x = self.b4_3(self.b4_2(self.b4_1(self.b4(x))))  # stride 8
        x = self.b4_5(self.b4_4(x))

        conv4 = self.b5.activate(x)
        x = self.b5_2(self.b5_1(self.b5.residual(x, conv4)))

        conv5 = self.b6.activate(x)
        x = self.b7(self.b6.residual(conv5))

        return {"conv4": conv4, "conv5": conv5, "conv6": relu(self.bn7(x))}
