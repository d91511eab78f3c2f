"""ACR's reconstructor: a network that redraws hidden segments of an image from the features of the other segments.

Kweon, Yoon, Yoon, "Weakly Supervised Semantic Segmentation via Adversarial Learning of Classifier and Reconstructor"
(CVPR 2023). The encoder is also a classifier, so that its features stay semantic; the decoder is a U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_lib.errors import InputError
from wsss_lib.models.backbone import scaled
from wsss_lib.models.classifier import MapClassifier
from wsss_lib.ops.masked_convolution import doubled_convolution, masked_convolution

MOST_LEVELS = 8
_FIRST_WITH_DROPOUT = 4
_REDUCED = {"dr1": 64, "dr2": 128, "fc_recon": 256}
"""Channels to which the three taps are reduced, by the official names of the layers."""


def decoder_levels(crop: int) -> int:
    """Return how many times a side of ``crop`` pixels can be halved, 8 times at most: 8 for 256, 5 for 96.

    Raises:
        InputError: The side cannot be halved three times.
    """
    levels = next(n for n in range(MOST_LEVELS, -1, -1) if crop % 2**n == 0)
    if levels < 3:
        raise InputError(
            f"crop_size {crop} can be halved {levels} times only; give a multiple of 8, best a power of 2, as the "
            "reconstructor's levels each halve it."
        )
    return levels


class UNet(nn.Module):
    """An encoder-decoder with shortcuts, from masked features to an image.

    Level i halves the size and has ``min(64 · 2^(i - 1), 512)`` channels at width 1. Instance normalisation has
    neither weights nor running statistics, so it is the same in training and evaluation. Dropout, from level 4 on, acts
    in training only.

    Args:
        channels: Channels of the features.
        levels: Number of times that the size is halved.
        width: Factor of the channels; 1 is the paper's network.
    """

    def __init__(self, channels: int, levels: int = MOST_LEVELS, width: float = 1.0) -> None:
        super().__init__()
        outputs = [scaled(min(64 * 2**i, 512), width) for i in range(levels)]
        self.levels = levels
        for level, (before, after) in enumerate(zip([channels, *outputs], outputs, strict=False), start=1):
            self.add_module(f"down{level}", nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False))
        for step, level in enumerate(range(levels - 1, 0, -1), start=1):
            before = outputs[level] if step == 1 else 2 * outputs[level]  # joined with the shortcut
            self.add_module(
                f"up{step}", nn.ConvTranspose2d(before, outputs[level - 1], 4, stride=2, padding=1, bias=False)
            )
        self.final = nn.Conv2d(2 * outputs[0], 3, 3, padding=1)

    @staticmethod
    def official_key(key: str) -> str:
        """Return our name of a tensor that the authors' checkpoints call ``key`` (``down1.model.0.weight``)."""
        return key.replace(".model.0.", ".").replace("final.1.", "final.")

    @property
    def transposed(self) -> nn.ModuleList:
        """The enlarging convolutions, which learn faster in the authors' code."""
        return nn.ModuleList([m for m in self.children() if isinstance(m, nn.ConvTranspose2d)])

    @property
    def plain(self) -> nn.ModuleList:
        """All other convolutions."""
        return nn.ModuleList([m for m in self.children() if isinstance(m, nn.Conv2d)])

    def encode_masked(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return ``down1`` of the enlarged and masked features: ``(B, 64, H / 2, W / 2)`` at width 1.

        Args:
            features: ``(B, channels, h, w)``.
            mask: ``(B, 1, H, W)`` in [0, 1], 1 where the image remains visible.
        """
        first = self.get_submodule("down1")
        assert isinstance(first, nn.Conv2d)
        return masked_convolution(features, mask, first.weight)

    def decode(self, x: Tensor) -> Tensor:
        """Return the image ``(B, 3, H, W)`` for the output of :meth:`encode_masked`."""
        shortcuts = [x := F.leaky_relu(x, 0.2)]
        for level in range(2, self.levels + 1):
            x = self.get_submodule(f"down{level}")(x)
            x = F.leaky_relu(x if level == self.levels else F.instance_norm(x), 0.2)
            shortcuts.append(x := self._drop(x, level))
        for step, level in enumerate(range(self.levels - 1, 0, -1), start=1):
            x = F.relu(F.instance_norm(self.get_submodule(f"up{step}")(x)))
            x = torch.cat([self._drop(x, level), shortcuts[level - 1]], dim=1)
        assert self.final.bias is not None
        return doubled_convolution(x, self.final.weight, self.final.bias)

    def _drop(self, x: Tensor, level: int) -> Tensor:
        return F.dropout(x, 0.5, self.training) if level >= _FIRST_WITH_DROPOUT else x

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the image ``(B, 3, H, W)`` twice: from the features behind a mask, and from those behind its complement.

        Args:
            features: ``(B, channels, h, w)``.
            mask: ``(B, 1, H, W)`` in [0, 1], 1 where the image remains visible.
        """
        seen = self.encode_masked(features, mask)
        hidden = self.encode_masked(features, torch.ones_like(mask)) - seen  # linear in the mask
        one, other = self.decode(torch.cat([seen, hidden])).chunk(2)
        return one, other


class Reconstructor(nn.Module):
    """A second classifier, whose features at three depths are joined and decoded to an image.

    Args:
        classifier: The encoder; its backbone starts from ImageNet weights.
        taps: Names of the three taps, shallow to deep; empty for the last three.
        levels: Levels of the decoder.
        width: Factor of the channels of joined features and decoder; 1 is the paper's network.
    """

    def __init__(
        self, classifier: MapClassifier, taps: Sequence[str] = (), levels: int = MOST_LEVELS, width: float = 1.0
    ) -> None:
        super().__init__()
        backbone = classifier.backbone
        self.classifier = classifier
        self.taps = list(taps) or list(backbone.taps)[-3:]
        channels = [scaled(count, width) for count in _REDUCED.values()]
        for tap, name, count in zip(self.taps, _REDUCED, channels, strict=True):
            self.add_module(name, nn.Conv2d(backbone.taps[tap].channels, count, 1, bias=False))
        self.decoder = UNet(sum(channels), levels, width)

    def official_key(self, key: str) -> str:
        """Return our name of a tensor that the authors' checkpoints call ``key``, without ``net_recon.``."""
        if key.startswith("genUnet."):
            return f"decoder.{self.decoder.official_key(key.removeprefix('genUnet.'))}"
        return key if key.startswith(tuple(_REDUCED)) else f"classifier.{self.classifier.official_key(key)}"

    @property
    def reductions(self) -> nn.ModuleList:
        """The layers that reduce the taps."""
        return nn.ModuleList([self.get_submodule(name) for name in _REDUCED])

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class maps ``(B, K, h, w)`` and joined features ``(B, 448, h', w')``, at width 1, of the images.

        The features have the size of the first of the three taps; coarser ones are enlarged.
        """
        taps = self.classifier.backbone(images)
        size = taps[self.taps[0]].shape[2:]
        reduced = []
        for tap, layer in zip(self.taps, self.reductions, strict=True):
            x = layer(taps[tap])
            reduced.append(x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False))
        return self.classifier.maps(list(taps.values())[-1]), torch.cat(reduced, dim=1)

    def forward(self, images: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return class maps, the image redrawn from all features, and the image redrawn from each masked copy of them.

        No gradient flows from the first of these images into the features, so only the decoder learns from it.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            masks: Masks ``(B, 1, H, W)`` in [0, 1], 1 where the image remains visible.
        """
        maps, features = self.encode(images)
        whole = self.decoder.encode_masked(features.detach(), torch.ones_like(images[:, :1]))
        encoded = torch.cat([whole, *(self.decoder.encode_masked(features, mask) for mask in masks)])
        whole, *drawn = self.decoder.decode(encoded).chunk(1 + len(masks))  # in one batch: the inner levels are tiny
        return maps, whole, drawn
