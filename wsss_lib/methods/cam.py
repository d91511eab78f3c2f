"""CAM: class activation maps show where a classifier looks, a first guess of where an object is.

Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016
(equations 1 and 2: the map of a class is the classifier's weighted sum of features before pooling). Training,
augmentation and multi-scale inference follow the first two stages of AffinityNet (Ahn and Kwak, CVPR 2018).

Differences from the authors' release (jiwoon-ahn/psa):

- The release passes the weight decay in the place of the momentum, so its momentum is 5e-4. That is the default here,
  too; the setting ``momentum`` changes it.
- The learning rate 0.1 of the release's README suits VGG-16 only. ResNet-38 has 0.01 here, as the author advises.
- Layers are frozen once, when the network is made, and not in every call of ``train()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from wsss_lib.methods.fields import Share
from wsss_lib.methods.method import LIGHT, Batch, CamMethod, LongSideConfig, Presets, backbone_options
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.classifier import Classifier
from wsss_lib.models.weights import LoadReport, load_into


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the multi-label soft margin loss: binary cross-entropy per class, averaged over classes and images.

    ``L = -mean_bk [y_bk log s(z_bk) + (1 - y_bk) log(1 - s(z_bk))]`` with the logistic function s.

    Args:
        logits: ``(B, K)`` float, z.
        labels: ``(B, K)`` float, y: 0 or 1.
    """
    return F.binary_cross_entropy_with_logits(logits, labels)


class CAM(CamMethod):
    """A classifier with global average pooling, and its class activation maps.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        backbone = create_backbone(config.backbone, **config.backbone_options)
        if config.pretrained:
            backbone.freeze()
        self.network = Classifier(backbone, num_classes, config.dropout)
        self.networks = {"network": self.network}

    @property
    def backbone(self) -> Backbone:
        """The classifier's backbone."""
        return self.network.backbone

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Return the optimiser, with AffinityNet's four groups of parameters."""
        config, network = self.config, self.network
        groups = parameter_groups(
            network.backbone, network.head, config.learning_rate, config.weight_decay, config.head_factor
        )
        return create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update of the classifier; written out here, whereas other methods call :meth:`Method.learn`."""
        loss = classification_loss(self.forward(batch.images), batch.labels)
        self.optimizers["network"].zero_grad()
        self.engine.backward(loss)
        self.optimizers["network"].step()
        self.schedules["network"].step()
        return {"loss": loss.detach()}

    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, K)``."""
        return self.network(images)

    def cam(self, images: Tensor) -> Tensor:
        """Return ``relu(w_k · f(x, y))`` for every class and position, ``(B, K, h, w)``."""
        return self.network.cam(images)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a classifier trained with AffinityNet's code, such as ``res38_cls.pth``."""
        return load_into(self.network, state, source=source, rename=self.network.official_key)


_ALPHAS = (8.0, 4.0, 16.0, 32.0)
"""Powers of the background in the CRF of the small presets."""


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of the CAM baseline; the defaults are those of AffinityNet's classifier with ResNet-38.

    Attributes:
        dropout: Probability that a channel of the last features is dropped, in training.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the head learns faster than the backbone.
    """

    dropout: Share = 0.5
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 5e-4
    head_factor: float = 10.0

    presets: ClassVar[Presets] = {
        "toy": {
            "backbone": "resnet50",
            "pretrained": False,
            "epochs": 16,
            "crop_size": 88,
            "min_long_side": 96,
            "max_long_side": 96,
            "hue_jitter": 0.0,
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 1e-2,
            "head_factor": 1.0,
            "dropout": 0.0,
            "scales": (1.0, 0.75, 1.5),
            "alphas": _ALPHAS,
        },
        "photos": {
            "backbone": LIGHT[0],
            "epochs": 6,
            "crop_size": 257,
            "min_long_side": 257,
            "max_long_side": 385,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "head_factor": 20.0,
            "view_multiple": 16,
            "alphas": _ALPHAS,
        },
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone."""
        values: dict[str, Any] = {"backbone_options": backbone_options(preset, backbone)}
        if backbone == "vgg16" and preset == "toy":  # without batch normalisation or shortcuts it learns more slowly
            values |= {"epochs": 30, "learning_rate": 1e-3}
        elif backbone == "vgg16" and preset != "photos":
            values |= {"learning_rate": 0.1}
        return values


METHOD = CAM
