"""OC-CSE: erase one class with your own map, and ask a classifier that cannot be fooled what is left.

Kweon, Yoon, Kim, Park, Yoon, "Unlocking the Potential of Ordinary Classifier: Class-specific Adversarial Erasing
Framework for Weakly Supervised Semantic Segmentation", ICCV 2021. An erasing network learns to classify, and to draw
for one class of each image a mask such that a fixed, ordinary classifier no longer sees that class behind it, but still
sees all the others.

Differences from the authors' release (KAIST-vilab/OC-CSE):

- The ordinary classifier's weights take no part in the gradient; there every step also computes theirs and drops them.
- The mask is divided by the largest value of the whole batch, over all devices. That is the default here too;
  `mask_norm="image"` divides by each image's own, as the paper says.
- The effective momentum is 5e-4, because the weight decay is passed in its place, and the new head learns at the rate
  of the backbone.
- An image without any class has nothing erased; there it would stop the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

from torch import Tensor, nn

from wsss_lib.errors import InputError
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.method import (
    LIGHT,
    Batch,
    CamMethod,
    Engine,
    LongSideConfig,
    backbone_options,
    draw_targets,
    pick,
)
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups, polynomial_schedule
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.classifier import Classifier, MapClassifier
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import upsample

_EPS = 1e-5


def erasing_mask(
    maps: Tensor,
    size: tuple[int, int],
    norm: Literal["batch", "image"] = "batch",
    gather: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Turn the signed maps of the targets into masks: ``M = relu(U a) / (max relu(U a) + 1e-5)``.

    Enlarging (U) comes before rectifying, and the largest value is differentiated, too.

    Args:
        maps: ``(B, 1, h, w)`` float, a.
        size: ``(H, W)`` of the images.
        norm: Whether the largest value is that of the ``batch`` or of each ``image``.
        gather: Stacks the largest values of several processes; None if there is one.

    Returns:
        ``(B, 1, H, W)`` in [0, 1).
    """
    rectified = upsample(maps, size).relu()
    if norm == "image":
        most = rectified.amax(dim=(1, 2, 3), keepdim=True)
    else:
        most = rectified.max()
        most = most if gather is None else gather(most).max()
    return rectified / (most + _EPS)


def erase(images: Tensor, mask: Tensor) -> Tensor:
    """Fade ``(B, 3, H, W)`` normalised images to the mean colour where the ``(B, 1, H, W)`` mask is 1."""
    return images * (1 - mask)


def remaining_labels(labels: Tensor, targets: Tensor) -> Tensor:
    """Return ``(B, K)`` labels without each image's target ``(B,)``."""
    return labels.scatter(1, targets[:, None], 0.0)


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of OC-CSE; the defaults are those of the authors' code.

    Attributes:
        start: Weights that the erasing network starts from: the ``imagenet`` weights (or none), or those of the
            ordinary ``classifier``.
        mask_norm: Whether masks are divided by the largest value of the ``batch`` or of the ``image``.
        erasing_weight: Weight of the erasing loss in the first epoch.
        erasing_slope: Increase of ``erasing_weight`` in every further epoch.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the head learns faster than the backbone.
    """

    batch_size: int = 8
    crop_size: int = 384
    max_long_side: int = 448
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    alphas: tuple[float, ...] = (6.0, 10.0, 24.0)
    start: Literal["imagenet", "classifier"] = "imagenet"
    mask_norm: Literal["batch", "image"] = "batch"
    erasing_weight: float = 0.3
    erasing_slope: float = 0.05
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 5e-4
    head_factor: float = 1.0

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset."""
        if name == "toy":
            backbone = backbone or "resnet50"
            return cls(
                backbone=backbone,
                backbone_options=backbone_options(name, backbone),
                pretrained=False,
                start="classifier",
                epochs=4,
                batch_size=16,
                crop_size=88,
                min_long_side=96,
                max_long_side=96,
                hue_jitter=0.0,
                optimizer="adamw",
                learning_rate=1e-3,
                weight_decay=1e-2,
                scales=(1.0, 0.75, 1.5),
                mask_norm="image",
            )
        if name == "photos":
            return cls(
                backbone=backbone or LIGHT[0],
                start="classifier",
                epochs=4,
                batch_size=16,
                crop_size=257,
                min_long_side=257,
                max_long_side=385,
                optimizer="adamw",
                learning_rate=1e-4,
                head_factor=20.0,
                view_multiple=16,
                mask_norm="image",
                erasing_weight=0.5,
                erasing_slope=0.25,
            )
        return cls(backbone=backbone or "resnet38d")


class OCCSE(CamMethod):
    """A classifier whose maps must leave nothing of a class that an ordinary classifier would find.

    Args:
        config: Its settings.
        num_classes: K.

    Attributes:
        ordinary: The fixed classifier, from images normalised like the network's to logits ``(B, K)``; needed by
            :meth:`step` alone, and not part of what is saved.
    """

    config: Config
    signed = True

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        backbone = create_backbone(config.backbone, **config.backbone_options)
        if config.pretrained:
            backbone.freeze()
        self.network = MapClassifier(backbone, num_classes)
        self.networks = {"network": self.network}
        self.ordinary: nn.Module | None = None
        self.erasing_weight = config.erasing_weight

    @property
    def backbone(self) -> Backbone:
        """The erasing network's backbone."""
        return self.network.backbone

    def start_from(self, classifier: Classifier) -> None:
        """Take over the weights of an ordinary classifier with the same backbone.

        Raises:
            InputError: The classifier has another backbone.
        """
        load_into(self.network, classifier.state_dict(), source="the ordinary classifier")

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

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        """Set the weight of the erasing loss, 0.3 to 1.0 over the authors' 15 epochs."""
        self.erasing_weight = self.config.erasing_weight + self.config.erasing_slope * epoch

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; of every image a class is drawn that is to be erased."""
        return self.update(batch.images, batch.labels, draw_targets(batch.labels))

    def update(self, images: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Do one update.

        ``L = BCE(p, y) + w BCE(q, y')``, where p are the network's logits, q those of the ordinary classifier for the
        erased images, y' the labels without the target, and w grows with the epochs.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            labels: ``(B, K)``, y.
            targets: ``(B,)`` int64, the class of each image that is to be erased.

        Returns:
            ``loss`` and its two parts ``classification`` and ``erasing``, the latter with its weight; ``target_seen``:
            the mean probability that the ordinary classifier still gives to the erased class. With a weight of 0
            nothing is erased, and the last two are missing.

        Raises:
            InputError: There is no ordinary classifier.
        """
        if self.ordinary is None:
            raise InputError("OC-CSE has no ordinary classifier; set the attribute ordinary before training.")
        maps = self.forward(images)  # (B, K, h, w)
        loss = classification_loss(maps.mean(dim=(2, 3)), labels)
        values = {"loss": loss, "classification": loss}
        if self.erasing_weight:
            mask = self.mask(maps, labels, targets, (images.shape[2], images.shape[3]))
            with self.engine.autocast():
                seen = self.ordinary(erase(images, mask)).float()
            erasing = self.erasing_weight * classification_loss(seen, remaining_labels(labels, targets))
            target_seen = seen.sigmoid().gather(1, targets[:, None]).mean()
            values |= {"loss": loss + erasing, "erasing": erasing, "target_seen": target_seen}
        self.optimizers["network"].zero_grad()
        self.engine.backward(values["loss"])
        self.optimizers["network"].step()
        self.schedules["network"].step()
        return {name: value.detach() for name, value in values.items()}

    def mask(self, maps: Tensor, labels: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the erasing masks ``(B, 1, H, W)``, see :func:`erasing_mask`; 0 for an image without any class.

        Args:
            maps: ``(B, K, h, w)`` signed maps.
            labels: ``(B, K)``.
            targets: ``(B,)`` int64, the class of each image that is to be erased.
            size: ``(H, W)`` of the images.
        """
        chosen = pick(maps * labels[:, :, None, None], targets)
        return erasing_mask(chosen, size, self.config.mask_norm, partial(self.engine.all_gather, sync_grads=True))

    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, K)``."""
        return self.network(images).mean(dim=(2, 3))

    def cam(self, images: Tensor) -> Tensor:
        """Return the signed maps ``(B, K, h, w)``, whose means are the logits."""
        return self.network(images)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load an erasing network that the authors' code trained, such as ``014net_er.pth``."""
        return load_into(self.network, state, source=source, rename=self.network.official_key)


METHOD = OCCSE
