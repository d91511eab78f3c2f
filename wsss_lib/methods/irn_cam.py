"""IRN's classifier and its class activation maps, which IRN refines.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019. It is
the classifier of `wsss_lib.methods.cam` on a ResNet-50 of stride 16 without dilation, trained without colour jitter.

Differences from the authors' release (jiwoon-ahn/irn):

- The release passes the weight decay in the place of the momentum, so its momentum is 1e-4. That is the default here,
  too.
- Layers up to ``layer2`` and the statistics of all batch normalisation are frozen once, when the network is made.
- A run stores maps that are aligned with the image. The authors enlarge each map to a multiple of 16 pixels and crop
  it, or resize it to the cells of the walk; either shifts it. :func:`official_maps` returns the authors' maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from wsss_lib.data.transforms import Augmentation
from wsss_lib.methods import cam
from wsss_lib.methods.method import Presets, backbone_options
from wsss_lib.methods.optimisers import create_optimizer
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import normalise_maximum, upsample

_FROZEN = ("conv1", "bn1", "layer1", "layer2")
_STRIDE_16 = {"output_stride": 16, "dilated": False}
_ALIASES = ("stage", "backbone.", "newly_added.")
"""Prefixes of second names that the authors' checkpoints have for the same tensors."""


def official_maps(views: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the maps of an image as the authors store them, slightly shifted against the image.

    Args:
        views: For each scale ``(n, h, w)``, the sum of the rectified maps of the image and of its mirror image.
        size: ``(H, W)`` of the image.

    Returns:
        ``(n, ceil(H / 4), ceil(W / 4))`` for the walk, and ``(n, H, W)`` for the labels; both in [0, 1).
    """
    height, width = size
    whole = (-(-height // 16) * 16, -(-width // 16) * 16)
    strided = sum(upsample(maps[None], (-(-height // 4), -(-width // 4)))[0] for maps in views)
    full = sum(upsample(maps[None], whole)[0, :, :height, :width] for maps in views)
    return normalise_maximum(torch.as_tensor(strided)), normalise_maximum(torch.as_tensor(full))


def official_key(key: str) -> str | None:
    """Return the name here of a tensor that the authors' checkpoints call ``key``; None for a tensor not needed."""
    if key.startswith(_ALIASES):
        return None
    return (
        key.replace("resnet50.", "backbone.", 1) if key.startswith("resnet50.") else key.replace("classifier.", "head.")
    )


class IRNCam(cam.CAM):
    """IRN's classifier, and its class activation maps.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        torch.nn.Conv2d.reset_parameters(self.network.head)
        if config.pretrained:
            self.backbone.requires_grad_(True)
            for name in _FROZEN:
                self.backbone.get_submodule(name).requires_grad_(False)

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Return the optimiser, with decay for everything that is trained."""
        config = self.config
        groups = []
        for module, factor in ((self.network.backbone, 1.0), (self.network.head, config.head_factor)):
            trained = [p for p in module.parameters() if p.requires_grad]
            groups.append({"params": trained, "lr": factor * config.learning_rate, "weight_decay": config.weight_decay})
        return create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a classifier trained with the authors' code, such as ``res50_cam.pth.pth``."""
        return load_into(self.network, state, source=source, rename=official_key)


@dataclass(frozen=True)
class Config(cam.Config):
    """Settings of IRN's classifier; the defaults are those of the authors' code."""

    backbones: ClassVar[tuple[str, ...]] = ("resnet50",)

    backbone: str = "resnet50"
    backbone_options: dict[str, Any] = field(default_factory=lambda: {**_STRIDE_16})
    epochs: int = 5
    crop_size: int = 512
    min_long_side: int = 320
    max_long_side: int = 640
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 1e-4
    dropout: float = 0.0

    presets: ClassVar[Presets] = {
        name: {**vars(cam.Config()), **values, "backbone": "resnet50", "dropout": 0.0}
        for name, values in cam.Config.presets.items()
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone."""
        return {"backbone_options": backbone_options(preset, backbone) if preset == "toy" else {**_STRIDE_16}}

    def augmentation(self) -> Augmentation:
        """Return the augmentation of a training image, which multiplies both sides by one factor."""
        least, most = self.min_long_side, self.max_long_side
        return Augmentation(least, most, self.crop_size, self.colour_jitter, self.hue_jitter, by_factor=True)


METHOD = IRNCam
