"""VGG-16 with dilated convolutions, output stride 8.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015), in the
reduced 20 M parameter form of DeepLab (``fc6`` and ``fc7`` as small convolutions), as AffinityNet uses it. The layer
names are those of the authors' code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, Normalisation, Tap, initialise, relu, scaled


class VGG16(Backbone):
    """VGG-16: 20.5 M parameters, 96 GMAC for a 448×448 image.

    Input: BGR, 0-255, minus the mean colour (blue 104.008, green 116.669, red 122.675).
    Taps: ``conv4`` (512 channels), ``conv5`` (512), ``conv5fc`` (1024), all at stride 8, each rectified.

    Args:
        width: Factor of all channel counts; 1 is the paper's network.
        fc6_dilation: 1 in the classification network, 4 in AffinityNet.
    """

    frozen_layers = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
    square_root_cam = True

    def __init__(self, width: float = 1.0, fc6_dilation: int = 1) -> None:
        c64, c128, c256, c512, c1024 = (scaled(64 * 2**i, width) for i in range(5))
        super().__init__(
            {"conv4": Tap(c512, 8), "conv5": Tap(c512, 8), "conv5fc": Tap(c1024, 8)},
            Normalisation(mean=(122.675, 116.669, 104.008), std=(1.0, 1.0, 1.0), divisor=1.0, bgr=True),
        )
        self.conv1_1 = nn.Conv2d(3, c64, 3, padding=1)
        self.conv1_2 = nn.Conv2d(c64, c64, 3, padding=1)

        self.conv2_1 = nn.Conv2d(c64, c128, 3, padding=1)
        self.conv2_2 = nn.Conv2d(c128, c128, 3, padding=1)

        self.conv3_1 = nn.Conv2d(c128, c256, 3, padding=1)
        self.conv3_2 = nn.Conv2d(c256, c256, 3, padding=1)
        self.conv3_3 = nn.Conv2d(c256, c256, 3, padding=1)

        self.conv4_1 = nn.Conv2d(c256, c512, 3, padding=1)
        self.conv4_2 = nn.Conv2d(c512, c512, 3, padding=1)
        self.conv4_3 = nn.Conv2d(c512, c512, 3, padding=1)

        self.conv5_1 = nn.Conv2d(c512, c512, 3, padding=2, dilation=2)
        self.conv5_2 = nn.Conv2d(c512, c512, 3, padding=2, dilation=2)
        self.conv5_3 = nn.Conv2d(c512, c512, 3, padding=2, dilation=2)

        self.fc6 = nn.Conv2d(c512, c1024, 3, padding=fc6_dilation, dilation=fc6_dilation)
        self.dropout = nn.Dropout2d(0.5)
        self.fc7 = nn.Conv2d(c1024, c1024, 1)
        initialise(self)
        with torch.no_grad():
            self.conv1_1.weight /= 64  # about the standard deviation of the inputs, which He's rule assumes to be 1

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` to the three taps ``(B, channels, ceil(H / 8), ceil(W / 8))``."""
        x = relu(self.conv1_2(relu(self.conv1_1(images))))
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # stride 2

        x = relu(self.conv2_2(relu(self.conv2_1(x))))
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # stride 4

        x = relu(self.conv3_3(relu(self.conv3_2(relu(self.conv3_1(x))))))
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # stride 8

        conv4 = relu(self.conv4_3(relu(self.conv4_2(relu(self.conv4_1(x))))))
        x = F.max_pool2d(conv4, 3, stride=1, padding=1)

        conv5 = relu(self.conv5_3(relu(self.conv5_2(relu(self.conv5_1(x))))))
        x = self.dropout(relu(self.fc6(conv5)))
        return {"conv4": conv4, "conv5": conv5, "conv5fc": relu(self.fc7(x))}
