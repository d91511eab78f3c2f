"""ACR: a classifier and a reconstructor as adversaries. One segment must not reveal what another contains.

Kweon, Yoon, Yoon, "Weakly Supervised Semantic Segmentation via Adversarial Learning of Classifier and Reconstructor",
CVPR 2023. If class activation maps divide an image into its true segments, no segment can be inferred from the others.
A reconstructor learns to draw what the maps hide; the classifier learns maps that make this impossible. They learn in
turn, as in a GAN.

With an image I, the normalised map s of its target class (:func:`target_map`), the rest ``1 - s``, a random grid g
(:func:`draw_grid`) and ``|X - I|_m``, the error within a mask m (:func:`masked_error`):

- The reconstructor draws X0 from the whole image, Xt without the target, hidden where ``et = s g``, and Xn without the
  rest, hidden where ``en = (1 - s) g``. It minimises
  ``L = BCE + 0.2 |X0 - I| + 0.3 |Xt - I|_et + 0.5 |Xn - I|_en`` (:func:`reconstructor_losses`).
- The reconstructor, now fixed, draws Yt from the target alone and Yn from the rest alone. The classifier minimises
  ``L = BCE - 0.8 |Yt - I|_mt - 0.3 |Yn - I|_mn`` (:func:`classifier_losses`), where ``mt = [s = 0]`` lies outside the
  target and ``mn = s [the target's raw map is the highest of all K]`` on it.

Differences from the authors' release (sangrockEG/ACR):

- The decoder's first layer is computed without enlarging its 448 channels to the image, see
  `wsss_lib.ops.masked_convolution`. The decoder takes all masks in one call, and is constant in the classifier's step.
- The classifier has neither the decoder nor the layers that make the decoder's features. The release's classifier
  carries an untrained copy of both.
- The release skips images of which at most 50 pixels remain visible; this does not happen within 40 epochs.
- Training ends after 40 epochs, when the learning rate reaches 0. The release goes on for 60 more.
- The release passes the weight decay in the place of the momentum, so its momentum is 5e-4. That is the default here,
  too.
- Losses that are not finite stop the training; the release skips such a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.fields import Share
from wsss_lib.methods.method import (
    LIGHT,
    Batch,
    CamMethod,
    LongSideConfig,
    Presets,
    backbone_options,
    draw_targets,
    pick,
)
from wsss_lib.methods.optimisers import create_optimizer, parameter_groups
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.classifier import Classifier, MapClassifier
from wsss_lib.models.reconstructor import Reconstructor, decoder_levels
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import argmax, normalise_range, upsample

_LARGEST_ERROR = 10.0
"""Normalised images lie within ±3, so what is drawn is no longer an image if its mean error is larger than this."""


def masked_error(drawn: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return ``|X - I|_m``: ``|X - I|`` of ``(B, 3, H, W)`` images times the ``(B, 1, H, W)`` mask m, averaged.

    The mean is over all ``3BHW`` values and not over the area of the mask, so a small segment counts little.
    """
    return ((drawn - images) * mask).abs().mean()


def target_map(maps: Tensor, labels: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """Return s, the normalised map of the target of each image, ``(B, 1, *size)`` in [0, 1).

    The maps are normalised, multiplied with the labels, and enlarged.

    Args:
        maps: ``(B, K, h, w)`` signed.
        labels: ``(B, K)``; s is 0 for an image without any class.
        targets: ``(B,)`` int64.
        size: ``(H, W)`` of the images.
    """
    normalised = normalise_range(maps.float()) * labels[:, :, None, None]
    return upsample(pick(normalised, targets), size)  # each map is enlarged by itself, so the others need not be


def draw_grid(count: int, size: tuple[int, int], cell: int, share: float, device: torch.device) -> Tensor:
    """Draw g, the cells that may be hidden: each with the probability ``share``. The others always stay visible.

    Args:
        count: Number of images, B.
        size: ``(H, W)`` of the images.
        cell: Side of a cell, in pixels.
        share: Probability of each cell.
        device: Device of the result.

    Returns:
        ``(B, 1, *size)`` float32, 0 or 1.
    """
    cells = torch.rand(count, 1, -(-size[0] // cell), -(-size[1] // cell)) < share
    large = cells.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[:, :, : size[0], : size[1]]
    return large.float().to(device)


def reconstructor_losses(
    config: Config,
    images: Tensor,
    labels: Tensor,
    maps: Tensor,
    *,
    x0: Tensor,
    xt: Tensor,
    xn: Tensor,
    et: Tensor,
    en: Tensor,
) -> dict[str, Tensor]:
    """Return the loss of the reconstructor, ``L = BCE + 0.2 |X0 - I| + 0.3 |Xt - I|_et + 0.5 |Xn - I|_en``.

    Args:
        config: Settings with the weights of the losses.
        images: ``(B, 3, H, W)``, I.
        labels: ``(B, K)``.
        maps: ``(B, K, h, w)``, signed class maps of the reconstructor's encoder.
        x0: ``(B, 3, H, W)``, drawn with everything visible.
        xt: ``(B, 3, H, W)``, drawn with the target hidden.
        xn: ``(B, 3, H, W)``, drawn with the rest hidden.
        et: ``(B, 1, H, W)``, 1 where the target is hidden.
        en: ``(B, 1, H, W)``, 1 where the rest is hidden.

    Returns:
        Scalars: ``loss``, and its parts without their weights.
    """
    parts = {
        "classification": classification_loss(maps.mean(dim=(2, 3)), labels),
        "whole": (x0 - images).abs().mean(),
        "hidden_target": masked_error(xt, images, et),
        "hidden_rest": masked_error(xn, images, en),
    }
    loss = (
        parts["classification"]
        + config.whole_weight * parts["whole"]
        + config.hidden_target_weight * parts["hidden_target"]
        + config.hidden_rest_weight * parts["hidden_rest"]
    )
    return {"loss": loss, **parts}


def classifier_losses(
    config: Config,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    s: Tensor,
    yt: Tensor,
    yn: Tensor,
) -> dict[str, Tensor]:
    """Return the loss of the classifier, ``L = BCE - 0.8 |Yt - I|_mt - 0.3 |Yn - I|_mn``.

    Outside the target (``mt = [s = 0]``), the image must not be inferable from the target. On the target
    (``mn = s [the target's raw map is the highest of all K]``), it must not be inferable from the rest. No gradients
    flow through either mask.

    Args:
        config: Settings with the weights of the losses.
        images: ``(B, 3, H, W)``, I.
        labels: ``(B, K)``.
        targets: ``(B,)`` int64.
        maps: ``(B, K, h, w)``, signed class maps.
        s: ``(B, 1, H, W)``, the result of :func:`target_map`.
        yt: ``(B, 3, H, W)``, drawn from the target alone, through s.
        yn: ``(B, 3, H, W)``, drawn from the rest alone, through 1 - s.

    Returns:
        Scalars: ``loss``, and its parts without their weights, the errors positive.
    """
    enlarged = upsample(maps.detach().float(), (images.shape[2], images.shape[3]))
    target_is_highest = (argmax(enlarged, 1) == targets[:, None, None])[:, None]
    mt, mn = s.detach() == 0, s.detach() * target_is_highest
    parts = {
        "classification": classification_loss(maps.mean(dim=(2, 3)), labels),
        "from_target": masked_error(yt, images, mt),
        "from_rest": masked_error(yn, images, mn),
    }
    loss = (
        parts["classification"]
        - config.adversarial_target_weight * parts["from_target"]
        - config.adversarial_rest_weight * parts["from_rest"]
    )
    return {"loss": loss, **parts}


class ACR(CamMethod):
    """A classifier and a reconstructor that learn in turn.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K.

    Attributes:
        epoch: Number of the epoch, from 0.
    """

    config: Config
    signed = True
    needs = "classifier"

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        self.classifier = self._classifier(num_classes)
        levels = decoder_levels(config.crop_size)
        self.reconstructor = Reconstructor(self._classifier(num_classes), levels=levels, **config.reconstructor)
        self.networks = {"classifier": self.classifier, "reconstructor": self.reconstructor}
        self.epoch = 0

    def _classifier(self, num_classes: int) -> MapClassifier:
        backbone = create_backbone(self.config.backbone, **self.config.backbone_options)
        if self.config.pretrained:
            backbone.freeze(first_layers=False)
        return MapClassifier(backbone, num_classes, self.config.hidden)

    @property
    def backbone(self) -> Backbone:
        """The classifier's backbone."""
        return self.classifier.backbone

    @property
    def backbones(self) -> list[Backbone]:
        """The backbones of the classifier and of the reconstructor's encoder."""
        return [self.classifier.backbone, self.reconstructor.classifier.backbone]

    def start_from(self, classifier: Classifier) -> None:
        """Take over the backbone of an ordinary classifier, for both networks.

        Raises:
            InputError: The classifier has another backbone.
        """
        for backbone in self.backbones:
            load_into(backbone, classifier.backbone.state_dict(), source="the ordinary classifier")

    def make_optimizer(self, name: str) -> Optimizer:
        """Return the optimiser of the classifier or of the reconstructor."""
        config, reconstructor = self.config, self.reconstructor
        rate, decay, factor = config.learning_rate, config.weight_decay, config.head_factor
        if name == "classifier":
            groups = parameter_groups(self.classifier.backbone, self.classifier.new_layers, rate, decay, factor)
        else:
            encoder, decoder = reconstructor.classifier, reconstructor.decoder
            new = nn.ModuleList([*encoder.new_layers, *reconstructor.reductions, *decoder.plain])
            groups = [
                *parameter_groups(encoder.backbone, new, rate, decay, factor),
                *parameter_groups(decoder.transposed, nn.ModuleList(), config.transposed_factor * rate, decay),
            ]
        return create_optimizer(config.optimizer, groups, rate, config.momentum)

    @property
    def is_adversarial(self) -> bool:
        """Whether the reconstructor takes part; without adversarial weights the classifier learns by itself."""
        return bool(self.config.adversarial_target_weight or self.config.adversarial_rest_weight)

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        """Set the epoch, on which the grid depends."""
        self.epoch = epoch

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update of both networks, with the same target class of each image; see :meth:`update`."""
        config, images, labels = self.config, batch.images, batch.labels
        share = config.grid_share + config.grid_slope * self.epoch
        grid = draw_grid(len(images), (images.shape[2], images.shape[3]), config.grid_cell, share, images.device)
        return self.update(images, labels, draw_targets(labels), grid)

    def update(self, images: Tensor, labels: Tensor, targets: Tensor, grid: Tensor) -> dict[str, Tensor]:
        """Do one update of the reconstructor, and then, with the new reconstructor, one of the classifier.

        Args:
            images: ``(B, 3, H, W)`` normalised images, H and W divisible by ``2 ** levels``.
            labels: ``(B, K)``.
            targets: ``(B,)`` int64, a class of each image.
            grid: ``(B, 1, H, W)``, g, 1 where something may be hidden from the reconstructor.

        Returns:
            The losses of :func:`classifier_losses`; if the reconstructor learns, also those of
            :func:`reconstructor_losses` with the prefix ``reconstructor_``.
        """
        learns = self.is_adversarial and self.config.train_reconstructor
        drawing = self.update_reconstructor(images, labels, targets, grid) if learns else {}
        losses = self.update_classifier(images, labels, targets)
        return {**losses, **{f"reconstructor_{name}": value for name, value in drawing.items()}}

    def update_reconstructor(self, images: Tensor, labels: Tensor, targets: Tensor, grid: Tensor) -> dict[str, Tensor]:
        """Train the reconstructor to draw what the classifier's maps hide; the classifier is frozen."""
        self.classifier.eval()
        self.reconstructor.train()
        with torch.no_grad(), self.engine.autocast():
            s = target_map(self.classifier(images), labels, targets, (images.shape[2], images.shape[3]))
        et, en = s * grid, (1 - s) * grid
        maps, x0, (xt, xn) = self.calls["reconstructor"](images, (1 - et, 1 - en))
        losses = reconstructor_losses(self.config, images, labels, maps, x0=x0, xt=xt, xn=xn, et=et, en=en)
        return self.learn(losses, "reconstructor")

    def update_classifier(self, images: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Train the classifier to make maps from which the frozen reconstructor cannot redraw the image."""
        self.classifier.train()
        self.reconstructor.eval()
        maps = self.calls["classifier"](images)
        if not self.is_adversarial or self.epoch < self.config.warm_up:
            loss = classification_loss(maps.mean(dim=(2, 3)), labels)
            return self.learn({"loss": loss, "classification": loss}, "classifier")
        s = target_map(maps, labels, targets, (images.shape[2], images.shape[3]))
        with self.engine.autocast():
            with torch.no_grad():
                features = self.reconstructor.encode(images)[1]
            decoder = self.reconstructor.decoder
            frozen = {name: weight.detach() for name, weight in decoder.named_parameters()}
            yt, yn = (y.float() for y in torch.func.functional_call(decoder, frozen, (features, s)))
        losses = classifier_losses(self.config, images, labels, targets, maps, s=s, yt=yt, yn=yn)
        return self.learn(losses, "classifier")

    def diverged(self, losses: Mapping[str, float]) -> str:
        """Return a message if an adversarial error, which has no bound, has become too large; otherwise ""."""
        for name in ("from_target", "from_rest"):
            if losses.get(name, 0.0) > _LARGEST_ERROR:
                return (
                    f"the classifier's adversarial error {name} is {losses[name]:.3g}, more than two images can differ"
                )
        return ""

    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, K)``."""
        return self.classifier(images).mean(dim=(2, 3))

    def cam(self, images: Tensor) -> Tensor:
        """Return the signed maps ``(B, K, h, w)``, whose means are the logits."""
        return self.classifier(images)

    def normalise_maps(self, maps: Tensor) -> Tensor:
        """Stretch summed maps ``(n, H, W)`` to [0, 1), see `normalise_range`."""
        return normalise_range(maps)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a classifier trained with the authors' code, from a Lightning checkpoint or a file of its own.

        The reconstructor, and the untrained copy of its parts in their classifier, are not loaded.
        """

        def rename(key: str) -> str | None:
            key = key.removeprefix("net_main.")
            unused = key.startswith(("net_recon.", "genUnet.", "dr1.", "dr2.", "fc_recon."))
            return None if unused else self.classifier.official_key(key)

        return load_into(self.classifier, state, source=source, rename=rename)


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of ACR; the defaults are those of the authors' code.

    Attributes:
        start: Weights that both backbones start from: the ``imagenet`` weights (or none), or those of an ordinary
            ``classifier``.
        hidden: Channels of the layer before the classifiers' heads.
        reconstructor: Arguments of the reconstructor's class besides its encoder and its levels.
        whole_weight: Weight, in the reconstructor's loss, of the error of X0, the whole image.
        hidden_target_weight: Weight of the error of Xt on the target where the target is hidden.
        hidden_rest_weight: Weight of the error of Xn on the rest where the rest is hidden.
        adversarial_target_weight: Weight, in the classifier's loss, of the error outside the target of Yt, drawn from
            the target.
        adversarial_rest_weight: Weight of the error on the target of Yn, drawn from the rest.
        grid_cell: Side in pixels of the cells that are hidden or stay visible together.
        grid_share: Share of the cells that may be hidden, in the first epoch.
        grid_slope: Increase of ``grid_share`` in every further epoch.
        warm_up: Epochs at the beginning in which the classifier learns without its adversarial losses; 0 with ImageNet
            weights.
        train_reconstructor: Whether the reconstructor learns. If not, it keeps its initial weights and the classifier
            still works against it, which shows how much the reconstructor's learning contributes.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        head_factor: Factor by which the heads learn faster than the backbone.
        transposed_factor: Factor by which the decoder's transposed convolutions learn faster.
    """

    epochs: int = 40
    batch_size: int = 8
    crop_size: int = 256
    min_long_side: int = 384
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    alphas: tuple[float, ...] = (6.0, 24.0)
    start: Literal["imagenet", "classifier"] = "imagenet"
    hidden: int = 256
    reconstructor: dict[str, Any] = field(default_factory=dict)
    whole_weight: float = 0.2
    hidden_target_weight: float = 0.3
    hidden_rest_weight: float = 0.5
    adversarial_target_weight: float = 0.8
    adversarial_rest_weight: float = 0.3
    grid_cell: int = 16
    grid_share: Share = 0.2
    grid_slope: float = 0.01
    warm_up: int = 0
    train_reconstructor: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 5e-4
    head_factor: float = 1.0
    transposed_factor: float = 10.0

    presets: ClassVar[Presets] = {
        "toy": {
            "backbone": "resnet50",
            "hidden": 64,
            "pretrained": False,
            "start": "classifier",
            "epochs": 4,
            "batch_size": 16,
            "crop_size": 96,
            "min_long_side": 96,
            "max_long_side": 96,
            "colour_jitter": 0.3,
            "grid_cell": 8,
            "grid_slope": 0.03,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-2,
            "transposed_factor": 1.0,
            "scales": (1.0, 0.75, 1.5),
        },
        "photos": {
            "backbone": LIGHT[0],
            "reconstructor": {"width": 0.125},
            "start": "classifier",
            "epochs": 4,
            "batch_size": 16,
            "crop_size": 192,
            "min_long_side": 257,
            "max_long_side": 385,
            "colour_jitter": 0.3,
            "hue_jitter": 0.1,
            "grid_slope": 0.06,
            "optimizer": "adamw",
            "learning_rate": 2e-4,
            "head_factor": 20.0,
            "view_multiple": 16,
        },
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone."""
        options = backbone_options(preset, backbone)
        if preset == "toy":
            fine = {"taps": ["layer2", "layer3", "layer4"]} if backbone == "resnet50" else {}
            return {"backbone_options": options, "reconstructor": {"width": 0.125, **fine}}
        if preset != "photos" and backbone == "resnet38d":
            options = {"dropout": [0.2, 0.2]}
        return {"backbone_options": options}

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
        super().check()
        decoder_levels(self.crop_size)

    @property
    def starts_from_classifier(self) -> bool:
        """Whether training starts from an ordinary classifier."""
        return self.start == "classifier"


METHOD = ACR
