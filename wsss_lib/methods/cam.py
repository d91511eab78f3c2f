"""Class activation maps: where a classifier looks, as the first guess of where an object is.

Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016
(equations 1 and 2: the map of a class is the classifier's weighted sum of features before pooling). Training,
augmentation and multi-scale inference follow the first two stages of AffinityNet (Ahn and Kwak, CVPR 2018).

Differences from the authors' release (jiwoon-ahn/psa):

- The effective momentum there is 5e-4, because the weight decay is passed in its place. That is the default here too;
  `momentum` changes it.
- The learning rate 0.1 of its README suits VGG-16 only; ResNet-38 has 0.01 here, as its author advises.
- Frozen layers are frozen once, at construction, not in every call of ``train()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch.nn.functional as F
from torch import Tensor

from wsss_lib.methods.method import LIGHT, Batch, CamMethod, Engine, LongSideConfig, backbone_options
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups, polynomial_schedule
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.classifier import Classifier
from wsss_lib.models.weights import LoadReport, load_into


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the multi-label soft margin loss: binary cross-entropy per class, averaged over classes and images.

    ``L = -mean_bk [y_bk log s(z_bk) + (1 - y_bk) log(1 - s(z_bk))]`` with the logistic function s.

    Args:
        logits: ``(B, K)`` float, z.
        labels: ``(B, K)`` float, y, 0 or 1.
    """
    return F.binary_cross_entropy_with_logits(logits, labels)


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of the CAM baseline; the defaults are those of AffinityNet's classifier with ResNet-38.

    Attributes:
        dropout: Probability that a channel of the last features is dropped, in training.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the head learns faster than the backbone.
    """

    dropout: float = 0.5
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 5e-4
    head_factor: float = 10.0

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset."""
        if name == "toy":
            backbone = backbone or "resnet50"
            plain = backbone == "vgg16"  # without batch normalisation or shortcuts it learns more slowly
            return cls(
                backbone=backbone,
                backbone_options=backbone_options(name, backbone),
                pretrained=False,
                epochs=30 if plain else 16,
                crop_size=88,
                min_long_side=96,
                max_long_side=96,
                hue_jitter=0.0,
                optimizer="adamw",
                learning_rate=1e-3 if plain else 2e-3,
                weight_decay=1e-2,
                head_factor=1.0,
                dropout=0.0,
                scales=(1.0, 0.75, 1.5),
            )
        if name == "photos":
            return cls(
                backbone=backbone or LIGHT[0],
                epochs=6,
                crop_size=257,
                min_long_side=257,
                max_long_side=385,
                optimizer="adamw",
                learning_rate=1e-4,
                head_factor=20.0,
                view_multiple=16,
                alphas=(8.0, 4.0, 16.0, 32.0),  # the first counts where no masks say which is best
            )
        return cls(backbone=backbone or "resnet38d", learning_rate=0.1 if backbone == "vgg16" else 0.01)


class CAM(CamMethod):
    """A classifier with global average pooling, and the maps that it makes on the way.

    Args:
        config: Its settings.
        num_classes: K.
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

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Make the optimiser with the four parameter groups, and its polynomial schedule."""
        config = self.config
        groups = parameter_groups(
            self.network.backbone, self.network.head, config.learning_rate, config.weight_decay, config.head_factor
        )
        optimizer = create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)
        self.schedules["network"] = polynomial_schedule(optimizer, total_steps)
        self.engine = engine
        self.forward, self.optimizers["network"] = engine.setup(self.network, optimizer)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update of the classifier."""
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
        """Load a classifier that AffinityNet's code trained, such as ``res38_cls.pth``."""
        return load_into(self.network, state, source=source, rename=self.network.official_key)


METHOD = CAM
