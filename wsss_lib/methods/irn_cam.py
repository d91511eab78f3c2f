"""IRN's classifier and its class activation maps: the seeds that IRN's authors refine.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019. It is
the classifier of `wsss_lib.methods.cam` on a ResNet-50 of stride 16 without dilation, and sees no changed colours.

Differences from the authors' release (jiwoon-ahn/irn):

- The momentum there is 1e-4, because the weight decay is passed in its place. That is the default here too.
- What is fixed (all up to ``layer2``, and the statistics of every batch normalisation) is fixed at construction.
- A run stores maps that are aligned with the image. The authors enlarge each map to a multiple of 16 pixels and cut it,
  or squeeze it into the cells of the walk, which shifts it; :func:`official_maps` does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from wsss_lib.data.transforms import Augmentation
from wsss_lib.methods import cam
from wsss_lib.methods.method import Engine, backbone_options
from wsss_lib.methods.optimisers import create_optimizer, polynomial_schedule
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import normalise_maximum, upsample

_FIXED = ("conv1", "bn1", "layer1", "layer2")
_ALIASES = ("stage", "backbone.", "newly_added.")
"""Beginnings of further names that the authors' checkpoints have for the same tensors."""


def official_maps(views: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the maps of an image as the authors store them, which is not quite aligned with the image.

    Args:
        views: For every scale ``(n, h, w)``, the rectified maps of the image and of its mirror image, added.
        size: ``(H, W)`` of the image.

    Returns:
        ``(n, ceil(H / 4), ceil(W / 4))``, which walk, and ``(n, H, W)``, from which labels are made; both in [0, 1).
    """
    height, width = size
    whole = (-(-height // 16) * 16, -(-width // 16) * 16)
    strided = sum(upsample(maps[None], (-(-height // 4), -(-width // 4)))[0] for maps in views)
    full = sum(upsample(maps[None], whole)[0, :, :height, :width] for maps in views)
    return normalise_maximum(torch.as_tensor(strided)), normalise_maximum(torch.as_tensor(full))


@dataclass(frozen=True)
class Config(cam.Config):
    """Settings of IRN's classifier; the defaults are those of the authors' code."""

    backbones: ClassVar[tuple[str, ...]] = ("resnet50",)

    backbone: str = "resnet50"
    backbone_options: dict[str, Any] = field(default_factory=lambda: {"output_stride": 16, "dilated": False})
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

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset."""
        if name not in ("toy", "photos"):
            return cls()
        usual = cam.Config.for_preset(name, backbone or "resnet50")
        changes = {key: value for key, value in vars(usual).items() if key not in ("backbone_options", "dropout")}
        if name == "toy":
            changes["backbone_options"] = backbone_options(name, "resnet50")
        return cls(**changes)

    def augmentation(self) -> Augmentation:
        """Return what is done to a training image; both sides are multiplied by one factor."""
        least, most = self.min_long_side, self.max_long_side
        return Augmentation(least, most, self.crop_size, self.colour_jitter, self.hue_jitter, by_factor=True)


class IRNCam(cam.CAM):
    """The classifier, and the maps that it makes on the way.

    Args:
        config: Its settings.
        num_classes: K.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config, num_classes)
        torch.nn.Conv2d.reset_parameters(self.network.head)
        if config.pretrained:
            self.backbone.requires_grad_(True)
            for name in _FIXED:
                self.backbone.get_submodule(name).requires_grad_(False)

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Make the optimiser, with decay for everything that is trained, and its polynomial schedule."""
        config = self.config
        groups = []
        for module, factor in ((self.network.backbone, 1.0), (self.network.head, config.head_factor)):
            trained = [p for p in module.parameters() if p.requires_grad]
            groups.append({"params": trained, "lr": factor * config.learning_rate, "weight_decay": config.weight_decay})
        optimizer = create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)
        self.schedules["network"] = polynomial_schedule(optimizer, total_steps)
        self.engine = engine
        self.forward, self.optimizers["network"] = engine.setup(self.network, optimizer)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a classifier that the authors' code trained, such as ``res50_cam.pth.pth``."""
        return load_into(self.network, state, source=source, rename=official_key)


def official_key(key: str) -> str | None:
    """Return our name of a tensor that the authors' checkpoints call ``key``, None for what is not needed."""
    if key.startswith(_ALIASES):
        return None
    return (
        key.replace("resnet50.", "backbone.", 1) if key.startswith("resnet50.") else key.replace("classifier.", "head.")
    )


METHOD = IRNCam
