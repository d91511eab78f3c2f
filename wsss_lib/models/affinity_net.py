"""AffinityNet: a network that predicts which pixels belong together.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision" (CVPR 2018), figure 3. Features of
three depths are brought to a common scale, joined and mixed; pixels with similar mixed features have a high affinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, scaled

_CHANNELS = {"f8_3": 64, "f8_4": 128, "f8_5": 256}
"""Channels to which the three taps are reduced, by the official names of the layers."""


class AffinityNet(nn.Module):
    """Features whose distances are affinities, 448 channels at the stride of the first of three taps.

    The papers' networks have the same stride at their last three taps. In other networks coarser taps are enlarged,
    which is far cheaper than dilated convolutions.

    Args:
        backbone: The network in front.
        group_norm: Whether the reduced taps are normalised, as behind VGG-16, or not, as behind ResNet-38.
        taps: Names of the three taps, shallow to deep; empty for the last three.
        width: Factor of the channels of the new layers; 1 is the paper's network.
    """

    def __init__(self, backbone: Backbone, group_norm: bool, taps: Sequence[str] = (), width: float = 1.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = list(taps) or list(backbone.taps)[-3:]
        channels_of = {name: scaled(channels, width) for name, channels in _CHANNELS.items()}
        for tap, (name, channels) in zip(self.taps, channels_of.items(), strict=True):
            reduce = nn.Conv2d(backbone.taps[tap].channels, channels, 1, bias=False)
            nn.init.kaiming_normal_(reduce.weight, nonlinearity="relu")
            self.add_module(name, reduce)
            if group_norm:
                self.add_module(f"gn{name[1:]}", nn.GroupNorm(channels // 8, channels))
        total = sum(channels_of.values())
        self.f9 = nn.Conv2d(total, total, 1, bias=False)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    @staticmethod
    def official_key(key: str) -> str:
        """Return our name of a tensor that the authors' checkpoints call ``key``."""
        return key if key.startswith(("f8_", "gn8_", "f9.")) else f"backbone.{key}"

    @property
    def stride(self) -> int:
        """Input pixels per feature along an axis."""
        return self.backbone.taps[self.taps[0]].stride

    @property
    def new_layers(self) -> nn.ModuleList:
        """The convolutions that start from random weights and learn faster than the rest."""
        return nn.ModuleList([*(self.get_submodule(name) for name in _CHANNELS), self.f9])

    @property
    def group_norms(self) -> nn.ModuleList:
        """The group normalisations, if there are any; in the authors' code they learn like pre-trained layers."""
        return nn.ModuleList([m for m in self.children() if isinstance(m, nn.GroupNorm)])

    def join(self, taps: dict[str, Tensor]) -> Tensor:
        """Reduce and join the taps: the input of ``f9``, ``(B, 448, h, w)`` at width 1."""
        size = taps[self.taps[0]].shape[2:]
        reduced = []
        for tap, name in zip(self.taps, _CHANNELS, strict=True):
            x = self.get_submodule(name)(taps[tap])
            norm = getattr(self, f"gn{name[1:]}", None)
            x = F.elu(x if norm is None else norm(x))
            reduced.append(x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False))
        return torch.cat(reduced, dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` normalised images to the features ``(B, 448, h, w)``, at width 1."""
        return F.elu(self.f9(self.join(self.backbone(images))))
