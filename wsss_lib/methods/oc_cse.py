"""OC-CSE: erase one class with the network's own map, and ask a fixed classifier what it still recognises.

Kweon, Yoon, Kim, Park, Yoon, "Unlocking the Potential of Ordinary Classifier: Class-specific Adversarial Erasing
Framework for Weakly Supervised Semantic Segmentation", ICCV 2021. An erasing network learns to classify. It also
learns, for one class of each image, a mask with which that class is erased: a fixed, ordinary classifier must no longer
recognise the class in the erased image, but must still recognise all other classes.

With an image I of the labels y, the network's signed maps A and logits p (the means of A), the map a of the target
class and U, which enlarges it to the image:

- mask ``M = relu(U a) / (max relu(U a) + 1e-5)`` (:func:`erasing_mask`) and erased image ``I (1 - M)`` (:func:`erase`);
- loss ``L = BCE(p, y) + w BCE(q, y')`` (:meth:`OCCSE.losses`) with the logits q of the ordinary classifier for the
  erased image and the labels y' without the target (:func:`remaining_labels`); w grows with the epochs.

Differences from the authors' release (KAIST-vilab/OC-CSE):

- Here no gradients of the ordinary classifier's weights are computed. The release computes and drops them in each step.
- The release divides the mask by the largest value of the whole batch. That is the default here, too, over all devices;
  ``mask_norm="image"`` divides by the largest value of each image, as the paper says.
- The release passes the weight decay in the place of the momentum, so its momentum is 5e-4; its new head learns at the
  rate of the backbone. Both are the defaults here.
- Nothing is erased in an image without any class; in the release such an image stops the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor
from torch.optim import Optimizer

from wsss_lib.errors import InputError
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.method import LIGHT, Batch, CamMethod, LongSideConfig, Presets, draw_targets, pick
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups
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
    """Return masks from the signed maps of the targets, ``M = relu(U a) / (max relu(U a) + 1e-5)``.

    The maps are enlarged (U) before they are rectified, and gradients also flow through the largest value.

    Args:
        maps: ``(B, 1, h, w)`` float, a.
        size: ``(H, W)`` of the images.
        norm: Scope of the largest value: the whole ``batch``, or each ``image``.
        gather: Function that stacks the largest values of several processes; None if there is one process.

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


class OCCSE(CamMethod):
    """A classifier whose maps must cover all that an ordinary classifier recognises a class by.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K.
    """

    config: Config
    signed = True
    needs = "classifier"

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        backbone = create_backbone(config.backbone, **config.backbone_options)
        if config.pretrained:
            backbone.freeze()
        self.network = MapClassifier(backbone, num_classes)
        self.networks = {"network": self.network}
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

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Return the optimiser, with AffinityNet's four groups of parameters."""
        config, network = self.config, self.network
        groups = parameter_groups(
            network.backbone, network.head, config.learning_rate, config.weight_decay, config.head_factor
        )
        return create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        """Set the weight w of the erasing loss, which grows from 0.3 to 1.0 over the authors' 15 epochs."""
        self.erasing_weight = self.config.erasing_weight + self.config.erasing_slope * epoch

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; the class that is erased from each image is drawn."""
        return self.update(batch.images, batch.labels, draw_targets(batch.labels))

    def update(self, images: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Do one update, and return the values of :meth:`losses`, detached."""
        return self.learn(self.losses(images, labels, targets))

    def losses(self, images: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return ``L = BCE(p, y) + w BCE(q, y')`` and its parts.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            labels: ``(B, K)``, y.
            targets: ``(B,)`` int64, the class of each image that is erased.

        Returns:
            ``loss``; its two parts ``classification`` and ``erasing``, the latter times w; ``target_seen``, the mean
            probability that the ordinary classifier still gives to the erased class. If w is 0, nothing is erased, and
            the last two are missing.

        Raises:
            InputError: There is no ordinary classifier.
        """
        if self.ordinary is None:
            raise InputError("OC-CSE has no ordinary classifier; set the attribute ordinary before training.")
        maps = self.forward(images)  # (B, K, h, w)
        classification = classification_loss(maps.mean(dim=(2, 3)), labels)
        if not self.erasing_weight:
            return {"loss": classification, "classification": classification}
        mask = self.mask(maps, labels, targets, (images.shape[2], images.shape[3]))
        with self.engine.autocast():
            q = self.ordinary(erase(images, mask)).float()
        erasing = self.erasing_weight * classification_loss(q, remaining_labels(labels, targets))
        return {
            "loss": classification + erasing,
            "classification": classification,
            "erasing": erasing,
            "target_seen": q.sigmoid().gather(1, targets[:, None]).mean(),
        }

    def mask(self, maps: Tensor, labels: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the erasing masks M ``(B, 1, H, W)``, see :func:`erasing_mask`; 0 for an image without any class.

        Args:
            maps: ``(B, K, h, w)`` signed maps, A.
            labels: ``(B, K)``.
            targets: ``(B,)`` int64, the class of each image that is erased.
            size: ``(H, W)`` of the images.
        """
        a = pick(maps * labels[:, :, None, None], targets)
        return erasing_mask(a, size, self.config.mask_norm, partial(self.engine.all_gather, sync_grads=True))

    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, K)``."""
        return self.network(images).mean(dim=(2, 3))

    def cam(self, images: Tensor) -> Tensor:
        """Return the signed maps ``(B, K, h, w)``, whose means are the logits."""
        return self.network(images)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load an erasing network trained with the authors' code, such as ``014net_er.pth``."""
        return load_into(self.network, state, source=source, rename=self.network.official_key)


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of OC-CSE; the defaults are those of the authors' code.

    Attributes:
        start: Weights that the erasing network starts from: the ``imagenet`` weights (or none), or those of an ordinary
            ``classifier``.
        mask_norm: Scope of the largest value that masks are divided by: the ``batch``, or each ``image``.
        erasing_weight: Weight of the erasing loss in the first epoch.
        erasing_slope: Increase of ``erasing_weight`` in every further epoch.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the head learns faster than the backbone.
    """

    asks_classifier: ClassVar[bool] = True

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

    presets: ClassVar[Presets] = {
        "toy": {
            "backbone": "resnet50",
            "pretrained": False,
            "start": "classifier",
            "epochs": 4,
            "batch_size": 16,
            "crop_size": 88,
            "min_long_side": 96,
            "max_long_side": 96,
            "hue_jitter": 0.0,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-2,
            "scales": (1.0, 0.75, 1.5),
            "mask_norm": "image",
        },
        "photos": {
            "backbone": LIGHT[0],
            "start": "classifier",
            "epochs": 4,
            "batch_size": 16,
            "crop_size": 257,
            "min_long_side": 257,
            "max_long_side": 385,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "head_factor": 20.0,
            "view_multiple": 16,
            "mask_norm": "image",
            "erasing_weight": 0.5,
            "erasing_slope": 0.25,
        },
    }

    @property
    def starts_from_classifier(self) -> bool:
        """Whether training starts from an ordinary classifier."""
        return self.start == "classifier"


METHOD = OCCSE
