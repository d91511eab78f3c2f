"""The final stage of every system: an ordinary segmentation network, trained on pseudo masks.

There are two published recipes and one for small machines:

- DeepLab-V2 (Chen et al., TPAMI 2018) with ResNet-101 follows kazuto1011/deeplab-pytorch.
- ResNet-38 follows the segmentation code of MCTformer (Xu et al., CVPR 2022).
- MobileNetV2 and EfficientNet-Lite0 are for small machines, a narrow ResNet-50 is for the toy world.

All of them have a network with logits for each position of its features (`wsss_lib.models.segmentation_net`), the cross
entropy with the pseudo mask, in which 255 is ignored (:func:`segmentation_loss`), and class probabilities over several
scales, which need no image-level label (:func:`probabilities`).

Differences from the authors' releases:

- Training is counted in epochs: 19 epochs of DeepLab-V2 on VOC are 20,102 steps instead of 20,000. No batch has images
  of two epochs.
- MCTformer's code passes the weight decay in the place of the momentum; the defaults here equal that, with
  ``momentum=1e-5`` and no decay. They also equal its one scale for a whole batch and its padding that is learned as
  background; see ``one_scale_per`` and ``padding_label``.
- DeepLab's code swaps height and width of the labels, which matters only for crops that are not square. It gives the
  CRF colours that are wrapped modulo 256, for which there is ``crf_image="wrapped"``.
- By default probabilities are averaged over scales and mirrored images. ``inference="max"`` is MCTformer's rule, and
  ``inference="plain"`` with the scale 1 is DeepLab's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from wsss_lib.data.files import IGNORE
from wsss_lib.data.label_transforms import LabelledAugmentation, ScaleChoice, UniformScale
from wsss_lib.errors import InputError
from wsss_lib.methods import method
from wsss_lib.methods.fields import Factors
from wsss_lib.methods.method import LIGHT, Batch, Method, Presets, backbone_options
from wsss_lib.methods.optimisers import (
    create_optimizer,
    parameter_groups,
    polynomial_schedule,
    stepped_polynomial_schedule,
)
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.segmentation_net import HEADS, SegmentationNet
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops import dense_crf
from wsss_lib.ops.cam import upsample

Rule = Literal["mirrored", "plain", "max"]


def create_network(config: Config, num_classes: int) -> SegmentationNet:
    """Return the network of a configuration for K classes and background, with random weights."""
    backbone = create_backbone(config.backbone, **config.backbone_options)
    if config.pretrained:
        wide = config.backbone == "resnet38d"
        backbone.freeze(first_layers=not wide)
        if wide:  # MCTformer's code trains the first blocks here, which are frozen in its classifiers
            backbone.get_submodule("conv1a").requires_grad_(False)
    head = HEADS[config.head](backbone.taps, num_classes + 1, **config.head_options)
    return SegmentationNet(backbone, head, config.pyramid)


def nearest_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``(B, H, W)`` labels, resized to ``(B, *size)``: position i is pixel ``floor((i + 0.5) n_in / n_out)``.

    If that value is a whole number, it may be the pixel before: as in Pillow, positions are added up in double
    precision.
    """

    def source(length: int, wanted: int) -> Tensor:
        steps = np.full(wanted, length / wanted)
        steps[0] /= 2
        places = steps.cumsum().astype(np.int64).clip(max=length - 1)
        return torch.from_numpy(places).to(labels.device)

    return labels[:, source(labels.shape[1], size[0])][:, :, source(labels.shape[2], size[1])]


def segmentation_loss(logits: Tensor, labels: Tensor, at: Literal["image", "logits"] = "image") -> Tensor:
    """Return the cross entropy, averaged over the pixels of a batch that have a label; 0 if no pixel has one.

    Args:
        logits: ``(B, C, h, w)``.
        labels: ``(B, H, W)`` uint8: 0 background, k + 1 class k, 255 ignored.
        at: Size of the comparison: the logits are enlarged bilinearly to the ``image``, or the labels are reduced to
            the ``logits``.
    """
    if at == "image":
        logits = upsample(logits, (labels.shape[1], labels.shape[2]))
    else:
        labels = nearest_labels(labels, (logits.shape[2], logits.shape[3]))
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


def probabilities(
    network: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float], rule: Rule = "mirrored"
) -> Tensor:
    """Return the class probabilities of images, merged over scales.

    Args:
        network: Function from ``(B, 3, h, w)`` normalised images to logits of any size.
        images: ``(B, 3, H, W)`` normalised images.
        scales: Factors of the size of the images; sizes are rounded down to whole pixels.
        rule: ``mirrored`` averages the probabilities over the scales and over the images and their mirror images,
            ``plain`` over the scales alone. ``max`` takes the maximum over the scales, so that the sum over classes
            exceeds 1, and resizes images with aligned corners, as MCTformer's ``infer_seg.py`` does.

    Returns:
        ``(B, C, H, W)`` float32 in [0, 1].
    """
    height, width = images.shape[2:]

    def of_views() -> Iterator[Tensor]:
        for scale in scales:
            size = max(1, int(height * scale)), max(1, int(width * scale))
            view = images
            if size != (height, width):
                view = F.interpolate(images, size, mode="bilinear", align_corners=rule == "max")
            yield upsample(network(view).float(), (height, width)).softmax(1)
            if rule == "mirrored":
                yield upsample(network(view.flip(-1)).flip(-1).float(), (height, width)).softmax(1)

    if rule == "max":
        return reduce(torch.maximum, of_views())
    return reduce(torch.add, of_views()) / (len(scales) * (2 if rule == "mirrored" else 1))


class Segmentation(Method):
    """A segmentation network and its training on label maps.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        self.network = create_network(config, num_classes)
        self.networks = {"network": self.network}

    @property
    def backbone(self) -> Backbone:
        """The network in front of the head."""
        return self.network.backbone

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Return the optimiser, with AffinityNet's four groups of parameters."""
        config, network = self.config, self.network
        groups = parameter_groups(
            network.backbone,
            network.head,
            config.learning_rate,
            config.weight_decay,
            config.head_factor,
            config.bias_factor,
        )
        return create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)

    def make_schedule(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """Return the polynomial schedule, which changes once in ``steps_per_rate`` steps."""
        if self.config.steps_per_rate > 1:
            return stepped_polynomial_schedule(optimizer, total_steps, self.config.steps_per_rate)
        return polynomial_schedule(optimizer, total_steps)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update, with one backward pass for each part of the batch.

        Args:
            batch: Images with ``(B, H, W)`` uint8 label maps as labels.
        """
        self.optimizers["network"].zero_grad()
        parts = list(
            zip(batch.images.chunk(self.config.accumulation), batch.labels.chunk(self.config.accumulation), strict=True)
        )
        total = batch.images.new_zeros(())
        for images, labels in parts:
            loss = self.loss(self.forward(images), labels) / len(parts)
            self.engine.backward(loss)
            total += loss.detach()
        self.optimizers["network"].step()
        self.schedules["network"].step()
        return {"loss": total}

    def loss(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the sum of the losses of all outputs of the network, see `SegmentationNet.forward`."""
        return torch.stack([segmentation_loss(logits, labels, self.config.loss_at) for logits in outputs]).sum()

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the class probabilities ``(B, C, H, W)`` of ``(B, 3, H, W)`` normalised images."""
        return probabilities(self.network.logits, images, self.config.scales, self.config.inference)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network trained with the authors' code, such as ``deeplabv2_resnet101_msc-vocaug-20000.pth``."""
        return load_into(self.network, state, source=source, rename=self.network.official_key)


@dataclass(frozen=True)
class Config(method.Config):
    """Settings of the segmentation stage; the defaults are those of DeepLab-V2's code for VOC.

    Attributes:
        head: Name of the head behind the backbone, see `wsss_lib.models.segmentation_net`.
        head_options: Arguments of the head's class, such as ``channels``.
        pyramid: Factors, besides 1, at which the network always sees its input, see `SegmentationNet`.
        train_scales: Values from which the scale of a training image is drawn.
        scaling: Draw of the scale: a ``choice`` of these values, or ``uniform`` between the first and the last.
        one_scale_per: Unit that has a scale of its own: each ``image``, or each ``batch`` (of one process).
        padding_label: Label outside a training image: 255 is ignored, 0 is background.
        loss_at: Size at which logits and labels are compared, see :func:`segmentation_loss`.
        accumulation: Number of parts of a batch that are computed one after the other and whose mean losses are
            averaged.
        optimizer: ``sgd`` as in the papers, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the head learns faster than the backbone.
        bias_factor: Factor by which biases learn faster than weights.
        steps_per_rate: Number of steps after which the learning rate changes.
        scales: Factors of the image size at which probabilities are computed.
        inference: Rule by which the probabilities are merged, see :func:`probabilities`.
        crf: Settings of the CRF, see `wsss_lib.ops.dense_crf.PRESETS`.
        crf_image: Image that the CRF sees: ``true`` is the image itself, ``wrapped`` one with wrapped colours as in
            DeepLab's code.
    """

    backbones: ClassVar[tuple[str, ...]] = (
        "resnet101_caffe",
        "resnet38d",
        "resnet50",
        "efficientnet_lite0",
        "mobilenet_v2",
    )
    inference_only: ClassVar[frozenset[str]] = frozenset({"scales", "inference", "crf", "crf_image"})

    backbone: str = "resnet101_caffe"
    epochs: int = 19
    batch_size: int = 10
    crop_size: int = 321
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0
    learning_rate: float = 2.5e-4
    weight_decay: float = 5e-4
    head: Literal["aspp", "wide", "joined"] = "aspp"
    head_options: dict[str, Any] = field(default_factory=dict)
    pyramid: Factors = (0.5, 0.75)
    train_scales: Factors = (0.5, 0.75, 1.0, 1.25, 1.5)
    scaling: Literal["choice", "uniform"] = "choice"
    one_scale_per: Literal["image", "batch"] = "image"
    padding_label: int = IGNORE
    loss_at: Literal["logits", "image"] = "logits"
    accumulation: int = 2
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    head_factor: float = 10.0
    bias_factor: float = 2.0
    steps_per_rate: int = 10
    scales: Factors = (1.0,)
    inference: Rule = "mirrored"
    crf: str = "deeplab"
    crf_image: Literal["true", "wrapped"] = "true"

    presets: ClassVar[Presets] = {
        "toy": {  # from scratch, unless the package has weights for the backbone
            "backbone": "resnet50",
            "pretrained": False,
            "epochs": 15,
            "batch_size": 16,
            "crop_size": 96,
            "colour_jitter": 0.3,
            "learning_rate": 4e-3,
            "weight_decay": 1e-2,
            "head": "joined",
            "head_options": {"channels": 32},
            "pyramid": (),
            "train_scales": (0.75, 1.0, 1.25),
            "loss_at": "image",
            "accumulation": 1,
            "optimizer": "adamw",
            "head_factor": 1.0,
            "steps_per_rate": 1,
        },
        "photos": {"backbone": LIGHT[0]},
        "coco14": {"epochs": 12},  # 100,000 steps
    }
    _light: ClassVar[Mapping[str, Any]] = {  # a small network with ImageNet weights
        "epochs": 6,
        "batch_size": 8,
        "crop_size": 257,
        "colour_jitter": 0.3,
        "hue_jitter": 0.1,
        "learning_rate": 2e-4,
        "weight_decay": 1e-2,
        "head": "joined",
        "pyramid": (),
        "loss_at": "image",
        "accumulation": 1,
        "optimizer": "adamw",
        "steps_per_rate": 1,
        "scales": (0.75, 1.0, 1.25),
    }
    recipes: ClassVar[Presets] = {
        "resnet38d": {
            "epochs": 30,
            "batch_size": 4,
            "learning_rate": 7e-4,
            "weight_decay": 0.0,
            "head": "wide",
            "pyramid": (),
            "train_scales": (0.7, 1.3),
            "scaling": "uniform",
            "one_scale_per": "batch",
            "padding_label": 0,
            "loss_at": "image",
            "accumulation": 1,
            "momentum": 1e-5,
            "bias_factor": 1.0,
            "steps_per_rate": 1,
            "scales": (0.5, 0.75, 1.0, 1.25, 1.5),
            "crf": "mctformer_seg",
        },
        **dict.fromkeys(LIGHT, _light),
    }
    """Settings of each backbone besides ResNet-101, for all presets but ``toy``."""

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone."""
        if preset == "toy":
            return {"backbone_options": backbone_options(preset, backbone)}
        return dict(cls.recipes.get(backbone, {}))

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
        super().check()
        if not self.scales or not self.train_scales:
            raise InputError("scales and train_scales need at least one number each.")
        if self.padding_label not in (0, IGNORE):
            raise InputError(f"padding_label is {self.padding_label}; choose 0 (background) or 255 (ignored).")
        if self.accumulation > self.batch_size:
            raise InputError(
                f"accumulation is {self.accumulation}, more than batch_size {self.batch_size}; make it smaller."
            )
        dense_crf.check(self.crf)

    def augmentation(self) -> LabelledAugmentation:
        """Return the augmentation of a training image and its labels, after its colours have been changed."""
        kind = UniformScale if self.scaling == "uniform" else ScaleChoice
        return kind(self.train_scales, self.crop_size, self.padding_label)


METHOD = Segmentation
