"""AffinityNet: learn from confident regions which pixels belong together, then let scores walk to their like.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018. Section 3.2: labels (:func:`semi_labels`), pairs and affinities (`wsss_lib.ops.affinity`,
equations 1-3), the loss (:func:`affinity_loss`, equation 7). Section 3.3: the random walk (`wsss_lib.ops.random_walk`,
equations 4-6).

Differences from the authors' release (jiwoon-ahn/psa):

- Pair features are sliced, not gathered: equal values and gradients at a fraction of the memory.
- The walk multiplies the few rows of scores by a sparse matrix 78 times, for a polynomial that is the 256th power to
  1e-6, instead of squaring a dense one 8 times.
- Pairs near the image's border are missing there. That is the default here too; ``border="full"`` has them.
- The momentum is 5e-4, because the weight decay is passed in its place, see `wsss_lib.methods.cam`; the learning rate
  of its README, 0.1, suits VGG-16 only.
- The paper's loss is four times the code's, its distance a sum over channels instead of a mean, and its high alpha 24
  instead of 32. Here it is as in the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_lib.errors import InputError
from wsss_lib.methods import method
from wsss_lib.methods.method import LIGHT, Batch, Engine, Method, backbone_options
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups, polynomial_schedule
from wsss_lib.models import create_backbone
from wsss_lib.models.affinity_net import AffinityNet as Network
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops import dense_crf
from wsss_lib.ops.affinity import UNKNOWN, Border, pair_affinities, pair_labels
from wsss_lib.ops.cam import background_power, highest, upsample
from wsss_lib.ops.random_walk import random_walk

_EPS = 1e-5


def semi_labels(low: Tensor, high: Tensor) -> Tensor:
    """Return what is known about each cell: section 3.2's confident object, confident background, or nothing.

    A cell is a confident object if a class wins although the background was raised (low alpha), and confident
    background if the background wins although it was lowered (high alpha).

    Args:
        low: ``(1 + n, h, w)`` scores with the low alpha, background first.
        high: ``(1 + n, h, w)`` scores with the high alpha.

    Returns:
        ``(h, w)`` uint8: 0 background, i the class of row i, 255 not known, which includes cells without any score.
    """
    label = highest(low, 0).to(torch.uint8)
    label[label == 0] = UNKNOWN
    label[highest(high, 0) == 0] = 0
    label[torch.maximum(low.amax(0), high.amax(0)) < _EPS] = UNKNOWN
    return label


def affinity_loss(affinities: Tensor, background: Tensor, object_: Tensor, different: Tensor) -> dict[str, Tensor]:
    """Return the loss of pairs, a cross-entropy balanced over three kinds of pairs (a quarter of equation 7).

    ``L = L_bg / 4 + L_fg / 4 + L_neg / 2``, where ``L_bg`` and ``L_fg`` are the means of ``-log a`` over the pairs
    within background and within a class, and ``L_neg`` is the mean of ``-log(1 - a)`` over pairs across a border.

    Args:
        affinities: ``(B, P, n)`` float in [0, 1].
        background: ``(B, P, n)`` bool, both pixels are background.
        object_: ``(B, P, n)`` bool, both are of the same class.
        different: ``(B, P, n)`` bool, they are different.

    Returns:
        Scalars ``loss``, ``background``, ``object`` and ``different``; 0 for a kind that does not occur.
    """
    near, far = -(affinities + _EPS).log(), -(1 + _EPS - affinities).log()

    def mean(cost: Tensor, where: Tensor) -> Tensor:
        return (cost * where).sum() / (where.sum() + _EPS)

    parts = {
        "background": mean(near, background),
        "object": mean(near, object_),
        "different": mean(far, different),
    }
    loss = parts["background"] / 4 + parts["object"] / 4 + parts["different"] / 2
    return {"loss": loss, **parts}


def enlarge(scores: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Enlarge ``(1 + n, h, w)`` walked scores ``stride`` times, cut to ``(1 + n, *size)``: the rest is padding."""
    height, width = scores.shape[1] * stride, scores.shape[2] * stride
    return upsample(scores[None], (height, width))[0, :, : size[0], : size[1]]


@dataclass(frozen=True)
class Config(method.Config):
    """Settings of AffinityNet; the defaults are those of the authors' code with ResNet-38.

    Attributes:
        network_options: Arguments of the network's class besides its backbone.
        low_alpha: The power of the background in the labels of confident objects.
        high_alpha: The power of the background in the labels of confident background.
        radius: Pairs are nearer to each other than this, in features.
        border: Whether pairs near the border are left out, as in the authors' code, or not.
        walk_alpha: The power of the background in the scores that walk.
        beta: The power of the affinities in the walk.
        walk_steps: Length t of the walk.
        walk_crf: Settings of the CRF after the walk, see `wsss_lib.ops.dense_crf.PRESETS`.
        alphas: PowerBackgrounds of the background with which the CRF is tried on the maps themselves, for comparison.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the new layers learn faster than the backbone.
    """

    epochs: int = 8
    batch_size: int = 8
    network_options: dict[str, Any] = field(default_factory=lambda: {"group_norm": False})
    low_alpha: float = 4.0
    high_alpha: float = 32.0
    radius: int = 5
    border: Border = "official"
    walk_alpha: float = 16.0
    beta: float = 8.0
    walk_steps: int = 256
    walk_crf: str = "deeplab"
    alphas: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0, 32.0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 5e-4
    head_factor: float = 10.0

    def check(self) -> None:
        """Raise InputError if settings contradict each other."""
        if self.low_alpha > self.high_alpha:
            raise InputError(
                f"low_alpha is {self.low_alpha:g}, more than high_alpha {self.high_alpha:g}; make it smaller."
            )
        dense_crf.check(self.walk_crf)

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset."""
        if name == "toy":
            backbone = backbone or "resnet50"
            fine = {  # an object of the toy world is only a few cells large at stride 8
                "resnet50": {"taps": ["layer1", "layer2", "layer4"]},
                "efficientnet_lite0": {"taps": ["blocks.2", "blocks.4", "head"]},
                "mobilenet_v2": {"taps": ["features.3", "features.6", "features.18"]},
            }
            return cls(
                backbone=backbone,
                backbone_options=backbone_options(name, backbone),
                network_options={"group_norm": True, "width": 0.25, **fine.get(backbone, {})},
                pretrained=False,
                epochs=4,
                crop_size=96,
                hue_jitter=0.0,
                low_alpha=2.0,
                high_alpha=16.0,
                border="full",
                walk_alpha=8.0,
                beta=16.0,
                optimizer="adamw",
                learning_rate=1e-3,
                weight_decay=1e-2,
                head_factor=1.0,
            )
        options = {"vgg16": {"fc6_dilation": 4}}
        if name == "photos":
            backbone = backbone or LIGHT[0]
            return cls(
                backbone=backbone,
                backbone_options=options.get(backbone, {}),
                network_options={"group_norm": backbone != "resnet38d"},
                epochs=4,
                crop_size=256,
                low_alpha=2.0,
                high_alpha=16.0,
                border="full",
                walk_alpha=4.0,
                walk_steps=16,
                optimizer="adamw",
                learning_rate=2e-4,
            )
        backbone = backbone or "resnet38d"
        return cls(
            backbone=backbone,
            backbone_options=options.get(backbone, {}),
            network_options={"group_norm": backbone != "resnet38d"},
            learning_rate=0.1 if backbone == "vgg16" else 0.01,
        )


class AffinityNet(Method):
    """A network whose features are alike where pixels belong together, and the walk along them.

    Args:
        config: Its settings.
        num_classes: K; affinities know no classes, so it does not matter.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:  # noqa: ARG002
        super().__init__(config)
        backbone = create_backbone(config.backbone, **config.backbone_options)
        if config.pretrained:
            backbone.freeze()
        self.network = Network(backbone, **config.network_options)
        self.networks = {"network": self.network}

    @property
    def backbone(self) -> Backbone:
        """The network in front of the new layers."""
        return self.network.backbone

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Make the optimiser and its polynomial schedule."""
        config, network = self.config, self.network
        groups = parameter_groups(
            network.backbone, network.new_layers, config.learning_rate, config.weight_decay, config.head_factor
        )
        norms = list(network.group_norms)
        if norms:  # not among the new layers in the authors' code
            scales, shifts = [n.weight for n in norms], [n.bias for n in norms]
            groups.append({"params": scales, "lr": config.learning_rate, "weight_decay": config.weight_decay})
            groups.append({"params": shifts, "lr": 2 * config.learning_rate, "weight_decay": 0.0})
        optimizer = create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)
        self.schedules["network"] = polynomial_schedule(optimizer, total_steps)
        self.engine = engine
        self.forward, self.optimizers["network"] = engine.setup(network, optimizer)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; the labels of the batch are `semi_labels` at the network's stride."""
        return self.update(batch.images, *pair_labels(batch.labels, self.config.radius, self.config.border))

    def update(self, images: Tensor, background: Tensor, object_: Tensor, different: Tensor) -> dict[str, Tensor]:
        """Do one update with the labels of pairs, see `affinity_loss`."""
        affinities = pair_affinities(self.forward(images), self.config.radius, self.config.border)
        losses = affinity_loss(affinities, background, object_, different)
        self.optimizers["network"].zero_grad()
        self.engine.backward(losses["loss"])
        self.optimizers["network"].step()
        self.schedules["network"].step()
        return {name: loss.detach() for name, loss in losses.items()}

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network that the authors' code trained, such as ``res38_aff.pth``."""
        return load_into(self.network, state, source=source, rename=self.network.official_key)

    def affinities(self, images: Tensor) -> Tensor:
        """Return ``(B, P, n)`` float32, the affinities of the pairs of ``(B, 3, H, W)`` normalised images."""
        return pair_affinities(self.network(images), self.config.radius, self.config.border)

    def walk(self, images: Tensor, cams: Sequence[Tensor]) -> list[Tensor]:
        """Let the maps of images of one size walk (``infer_aff.py``).

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            cams: For each image ``(n, H, W)`` float in [0, 1], the maps of the n classes that it shows.

        Returns:
            For each image ``(1 + n, h, w)`` float32 scores at the network's stride, background first.
        """
        stride = self.network.stride
        height, width = images.shape[2:]
        margin = (0, -width % stride, 0, -height % stride)  # the padding has no score, also none of background
        affinities = self.affinities(F.pad(images, margin))
        scores = [
            F.avg_pool2d(F.pad(background_power(maps.float(), self.config.walk_alpha), margin), stride) for maps in cams
        ]
        return random_walk(
            scores,
            list(affinities.float()),
            self.config.beta,
            self.config.walk_steps,
            self.config.radius,
            self.config.border,
        )


METHOD = AffinityNet
