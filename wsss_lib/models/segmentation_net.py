"""Networks for the final segmentation stage: a backbone and a head with logits for every position.

Two heads are published. ``Aspp`` is the head of DeepLab-V2 (Chen et al., TPAMI 2018, figure 7), ``WideHead`` the head
that MCTformer's segmentation code has on ResNet-38. Their parameters have the authors' names. ``JoinedHead`` is
for small networks: it also sees finer features, as the decoder of DeepLab-V3+ does (Chen et al., ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, BatchNorm2d, Tap, initialise, relu, scaled
from wsss_lib.ops.cam import upsample


def deepest(taps: Mapping[str, Tensor]) -> Tensor:
    """Return the features of the last tap."""
    return list(taps.values())[-1]


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: the sum of 3×3 convolutions with several dilations.

    Args:
        taps: Taps of the backbone, of which the last is used.
        outputs: Number of classes, with background.
        dilations: Dilations of the convolutions.
    """

    def __init__(self, taps: Mapping[str, Tap], outputs: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        channels = list(taps.values())[-1].channels
        for i, dilation in enumerate(dilations):
            branch = nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation)
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)  # type: ignore[arg-type]
            self.add_module(f"c{i}", branch)

    def forward(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Map the features ``(B, channels, h, w)`` of all taps to logits ``(B, outputs, h, w)``, at the last tap."""
        features = deepest(taps)
        branches = [branch(features) for branch in self.children()]
        total = branches[0]
        for logits in branches[1:]:
            total = total + logits
        return total


class WideHead(nn.Module):
    """Two dilated 3×3 convolutions with a wide field of view.

    Args:
        taps: Taps of the backbone, of which the last is used.
        outputs: Number of classes, with background.
        width: Factor of the 512 channels between the convolutions.
    """

    def __init__(self, taps: Mapping[str, Tap], outputs: int, width: float = 1.0) -> None:
        super().__init__()
        channels, middle = list(taps.values())[-1].channels, scaled(512, width)
        self.fc8_seg_conv1 = nn.Conv2d(channels, middle, 3, padding=12, dilation=12)
        self.fc8_seg_conv2 = nn.Conv2d(middle, outputs, 3, padding=12, dilation=12)
        nn.init.xavier_uniform_(self.fc8_seg_conv1.weight)
        nn.init.xavier_uniform_(self.fc8_seg_conv2.weight)

    def forward(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Map the features ``(B, channels, h, w)`` of all taps to logits ``(B, outputs, h, w)``, at the last tap."""
        return self.fc8_seg_conv2(relu(self.fc8_seg_conv1(deepest(taps))))


class JoinedHead(nn.Module):
    """The deepest features of every stride, reduced, enlarged to the finest stride, joined and mixed.

    Args:
        taps: Taps of the backbone.
        outputs: Number of classes, with background.
        channels: Number of channels that every tap is reduced to.
    """

    def __init__(self, taps: Mapping[str, Tap], outputs: int, channels: int = 64) -> None:
        super().__init__()
        self.names = list({tap.stride: name for name, tap in taps.items()}.values())
        self.reduced = nn.ModuleList([_activated(taps[name].channels, channels, 1) for name in self.names])
        self.mixed = _activated(channels * len(self.names), 2 * channels, 3)
        self.classified = nn.Conv2d(2 * channels, outputs, 1)
        initialise(self)

    def forward(self, taps: Mapping[str, Tensor]) -> Tensor:
        """Map the features of all taps to logits ``(B, outputs, h, w)``, at the finest stride."""
        size = taps[self.names[0]].shape[2:]
        parts = [reduce(taps[name]) for name, reduce in zip(self.names, self.reduced, strict=True)]
        joined = torch.cat([upsample(part, (size[0], size[1])) for part in parts], dim=1)
        return self.classified(self.mixed(joined))


def _activated(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, BatchNorm2d(outputs), nn.ReLU(inplace=True))


HEADS: dict[str, Callable[..., nn.Module]] = {"aspp": Aspp, "wide": WideHead, "joined": JoinedHead}


class SegmentationNet(nn.Module):
    """A network that predicts the class of every position.

    Args:
        backbone: The network in front.
        head: Module that maps the features of the backbone's taps to logits.
        pyramid: Further scales, besides 1, at which the network sees its input; the result is the maximum of the
            logits over the scales, as in DeepLab-V2.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, pyramid: Sequence[float] = ()) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.pyramid = tuple(pyramid)

    @staticmethod
    def official_key(key: str) -> str:
        """Return our name of a tensor that the authors' checkpoints call ``key``."""
        key = key.removeprefix("base.")
        if key.startswith("aspp."):
            return f"head.{key.removeprefix('aspp.')}"
        return f"head.{key}" if key.startswith("fc8_seg_") else f"backbone.{key}"

    def single(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, C, h, w)`` of ``(B, 3, H, W)`` normalised images at scale 1."""
        return self.head(self.backbone(images))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return all logits that are trained, each ``(B, C, h, w)``; the last are the network's result.

        With a pyramid these are the logits at scale 1, the logits at every other scale, each of its own size, and the
        maximum over the scales, of the size of the first. Without a pyramid there are the logits at scale 1 alone.
        """
        outputs = [self.single(images)]
        for factor in self.pyramid:
            smaller = F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)
            outputs.append(self.single(smaller))
        if self.pyramid:
            size = (outputs[0].shape[2], outputs[0].shape[3])
            enlarged = [outputs[0], *(upsample(logits, size) for logits in outputs[1:])]
            outputs.append(torch.stack(enlarged).max(0).values)
        return outputs

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's result ``(B, C, h, w)``."""
        return self(images)[-1]
