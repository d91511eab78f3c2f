"""AffinityNet: learn from confident regions which pixels belong together, then spread scores among those pixels.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
Segmentation", CVPR 2018. In the order of the paper:

- Section 3.2: labels of cells (:func:`semi_labels`), labels of pairs of cells and affinities
  ``a_ij = exp(-|f_i - f_j|)`` (`wsss_lib.ops.affinity`, equations 1-3).
- The loss of pairs ``L = L_bg / 4 + L_fg / 4 + L_neg / 2`` (:func:`affinity_loss`, equation 7).
- Section 3.3: the random walk ``T^t vec(M)`` with ``T = S⁻¹ A`` and ``A = a^beta`` (:meth:`AffinityNet.walk`,
  `wsss_lib.ops.random_walk`, equations 4-6).

Differences from the authors' release (jiwoon-ahn/psa):

- Pair features are sliced, not gathered: equal values and gradients at a fraction of the memory.
- The walk multiplies the few rows of scores with a sparse matrix 78 times, for a polynomial that equals the 256th power
  to 1e-6. The release squares a dense matrix 8 times.
- The release leaves out pairs near the border of the image. That is the default here, too; ``border="full"`` has them.
- The release passes the weight decay in the place of the momentum, so its momentum is 5e-4, see `wsss_lib.methods.cam`;
  the learning rate 0.1 of its README suits VGG-16 only.
- The paper's loss is four times the release's, its distance a sum over channels instead of a mean, and its high alpha
  24 instead of 32. Here all three are as in the release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from wsss_lib.errors import InputError
from wsss_lib.methods import method
from wsss_lib.methods.fields import Limits
from wsss_lib.methods.method import LIGHT, Batch, Method, Presets, backbone_options
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups
from wsss_lib.models import create_backbone
from wsss_lib.models.affinity_net import AffinityNet as Network
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops import dense_crf
from wsss_lib.ops.affinity import UNKNOWN, Border, pair_affinities, pair_labels
from wsss_lib.ops.cam import argmax, background_power, upsample
from wsss_lib.ops.random_walk import random_walk

_EPS = 1e-5


def semi_labels(low: Tensor, high: Tensor) -> Tensor:
    """Return the label of each cell: confident object, confident background, or unknown (section 3.2).

    A cell is a confident object if the score of a class is the highest although a low alpha raises the background, and
    confident background if the score of the background is the highest although a high alpha lowers it.

    Args:
        low: ``(1 + n, h, w)`` scores with the low alpha, background first.
        high: ``(1 + n, h, w)`` scores with the high alpha.

    Returns:
        ``(h, w)`` uint8: 0 background, i the class of row i, 255 unknown; cells without any score are unknown.
    """
    label = argmax(low, 0).to(torch.uint8)
    label[label == 0] = UNKNOWN
    label[argmax(high, 0) == 0] = 0
    label[torch.maximum(low.amax(0), high.amax(0)) < _EPS] = UNKNOWN
    return label


def affinity_loss(affinities: Tensor, background: Tensor, object_: Tensor, different: Tensor) -> dict[str, Tensor]:
    """Return the loss of pairs, a cross-entropy balanced over three kinds of pairs; a quarter of equation 7.

    ``L = L_bg / 4 + L_fg / 4 + L_neg / 2``, where ``L_bg`` and ``L_fg`` are the means of ``-log a`` over the pairs
    within background and within a class, and ``L_neg`` is the mean of ``-log(1 - a)`` over pairs across a border.

    Args:
        affinities: ``(B, P, n)`` float in [0, 1].
        background: ``(B, P, n)`` bool, True for pairs of two background cells.
        object_: ``(B, P, n)`` bool, True for pairs of two cells of the same class.
        different: ``(B, P, n)`` bool, True for pairs of two cells of different classes.

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
    """Enlarge ``(1 + n, h, w)`` walked scores ``stride`` times and crop the padding, to ``(1 + n, *size)``."""
    height, width = scores.shape[1] * stride, scores.shape[2] * stride
    return upsample(scores[None], (height, width))[0, :, : size[0], : size[1]]


class AffinityNet(Method):
    """A network with similar features for pixels that belong together, and the random walk among those pixels.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K; not used, because affinities do not depend on classes.
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

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Return the optimiser, with AffinityNet's four groups of parameters."""
        config, network = self.config, self.network
        groups = parameter_groups(
            network.backbone, network.new_layers, config.learning_rate, config.weight_decay, config.head_factor
        )
        norms = list(network.group_norms)
        if norms:  # not among the new layers in the authors' code
            scales, shifts = [n.weight for n in norms], [n.bias for n in norms]
            groups.append({"params": scales, "lr": config.learning_rate, "weight_decay": config.weight_decay})
            groups.append({"params": shifts, "lr": 2 * config.learning_rate, "weight_decay": 0.0})
        return create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; the labels of the batch are `semi_labels` at the network's stride."""
        return self.update(batch.images, *pair_labels(batch.labels, self.config.radius, self.config.border))

    def update(self, images: Tensor, background: Tensor, object_: Tensor, different: Tensor) -> dict[str, Tensor]:
        """Do one update with the labels of pairs, see `affinity_loss`."""
        affinities = pair_affinities(self.forward(images), self.config.radius, self.config.border)
        return self.learn(affinity_loss(affinities, background, object_, different))

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network trained with the authors' code, such as ``res38_aff.pth``."""
        return load_into(self.network, state, source=source, rename=self.network.official_key)

    def affinities(self, images: Tensor) -> Tensor:
        """Return ``(B, P, n)`` float32, the affinities of the pairs of ``(B, 3, H, W)`` normalised images."""
        return pair_affinities(self.network(images), self.config.radius, self.config.border)

    def walk(self, images: Tensor, cams: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of images of one size after the random walk (``infer_aff.py``).

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            cams: For each image ``(n, H, W)`` float in [0, 1], the maps of the n classes that it shows.

        Returns:
            For each image ``(1 + n, h, w)`` float32 scores at the network's stride, background first.
        """
        stride = self.network.stride
        height, width = images.shape[2:]
        margin = (0, -width % stride, 0, -height % stride)  # in the padding all scores are 0, even the background's
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


@dataclass(frozen=True)
class Config(method.Config):
    """Settings of AffinityNet; the defaults are those of the authors' code with ResNet-38.

    Attributes:
        network_options: Arguments of the network's class besides its backbone.
        low_alpha: Power of the background in the labels of confident objects.
        high_alpha: Power of the background in the labels of confident background.
        radius: Upper bound, excluded, of the distance between the cells of a pair.
        border: Rule for pairs near the border: ``official`` leaves them out as the authors' code does, ``full`` does
            not.
        walk_alpha: Power of the background in the scores that the walk starts from.
        beta: Power of the affinities in the walk.
        walk_steps: Length t of the walk.
        walk_crf: Settings of the CRF after the walk, see `wsss_lib.ops.dense_crf.PRESETS`.
        alphas: Powers of the background with which the CRF is tried on the maps themselves, for comparison.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the new layers learn faster than the backbone.
    """

    inference_only: ClassVar[frozenset[str]] = frozenset({"alphas", "walk_alpha", "beta", "walk_steps", "walk_crf"})

    epochs: int = 8
    batch_size: int = 8
    network_options: dict[str, Any] = field(default_factory=lambda: {"group_norm": False})
    low_alpha: float = 4.0
    high_alpha: float = 32.0
    radius: Annotated[int, Limits(2, 64)] = 5
    border: Border = "official"
    walk_alpha: float = 16.0
    beta: float = 8.0
    walk_steps: Annotated[int, Limits(0, 100_000)] = 256
    walk_crf: str = "deeplab"
    alphas: Annotated[tuple[float, ...], Limits(0, 1000, above=True)] = (2.0, 4.0, 8.0, 16.0, 32.0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 5e-4
    head_factor: float = 10.0

    presets: ClassVar[Presets] = {
        "toy": {
            "backbone": "resnet50",
            "pretrained": False,
            "epochs": 4,
            "crop_size": 96,
            "hue_jitter": 0.0,
            "low_alpha": 8.0,
            "border": "full",
            "beta": 16.0,
            "walk_steps": 64,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-2,
            "head_factor": 1.0,
        },
        "photos": {
            "backbone": LIGHT[0],
            "epochs": 4,
            "crop_size": 256,
            "low_alpha": 2.0,
            "high_alpha": 16.0,
            "border": "full",
            "walk_alpha": 4.0,
            "walk_steps": 16,
            "optimizer": "adamw",
            "learning_rate": 2e-4,
        },
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone."""
        options = backbone_options(preset, backbone)
        if preset == "toy":
            finer_taps = {  # an object of the toy world is only a few cells large at stride 8
                "resnet50": {"taps": ["layer1", "layer2", "layer4"]},
                "efficientnet_lite0": {"taps": ["blocks.2", "blocks.4", "head"]},
                "mobilenet_v2": {"taps": ["features.3", "features.6", "features.18"]},
            }
            network = {"group_norm": True, "width": 0.25, **finer_taps.get(backbone, {})}
            return {"backbone_options": options, "network_options": network}
        if backbone == "vgg16":
            options = {"fc6_dilation": 4}
        values = {"backbone_options": options, "network_options": {"group_norm": backbone != "resnet38d"}}
        return values if preset == "photos" or backbone != "vgg16" else {**values, "learning_rate": 0.1}

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
        super().check()
        if self.low_alpha > self.high_alpha:
            raise InputError(
                f"low_alpha is {self.low_alpha:g}, more than high_alpha {self.high_alpha:g}; make it smaller."
            )
        dense_crf.check(self.walk_crf)


METHOD = AffinityNet
