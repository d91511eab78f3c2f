"""ACR: a classifier and a reconstructor as adversaries. What one segment shows must not tell what another hides.

Kweon, Yoon, Yoon, "Weakly Supervised Semantic Segmentation via Adversarial Learning of Classifier and Reconstructor",
CVPR 2023. If class activation maps cut an image into its true segments, no segment can be inferred from the others. A
reconstructor learns to draw what the maps hide; the classifier learns maps that make this impossible. They learn in
turn, as in a GAN: :func:`reconstructor_losses`, :func:`classifier_losses`.

Differences from the authors' release (sangrockEG/ACR):

- The decoder's first layer is computed without enlarging its 448 channels to the image, see
  `wsss_lib.ops.masked_convolution`; the decoder takes all masks in one go and is constant in the classifier's step.
- The classifier that is kept owns neither decoder nor reconstruction features; there it carries both, untrained.
- The authors leave out images of which 50 pixels at most remain visible, which does not happen within 40 epochs.
- Training ends after 40 epochs, when the learning rate is used up; there it goes on for 60 more.
- The effective momentum is 5e-4, because the weight decay is passed in its place. Losses that are not finite stop the
  training; there the step is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

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
from wsss_lib.models.reconstructor import Reconstructor, decoder_levels
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import argmax, normalise_range, upsample

_LARGEST_ERROR = 10.0
"""Normalised images lie within ±3, so a drawn one that is wrong by more than this on average is not an image."""


def masked_error(drawn: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Return ``|X - I|`` of ``(B, 3, H, W)`` images times the ``(B, 1, H, W)`` mask, averaged over all ``3BHW`` values.

    It is not divided by the mask's area, so a small segment counts little.
    """
    return ((drawn - images) * mask).abs().mean()


def target_map(maps: Tensor, labels: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the normalised map of each image's target, ``(B, 1, *size)`` in [0, 1): N, labels, enlarge, pick.

    Args:
        maps: ``(B, K, h, w)`` signed.
        labels: ``(B, K)``; an image without any class gets 0.
        targets: ``(B,)`` int64.
        size: ``(H, W)`` of the images.
    """
    normalised = normalise_range(maps.float()) * labels[:, :, None, None]
    return upsample(pick(normalised, targets), size)  # each map is enlarged by itself, so the others need not be


def draw_grid(count: int, size: tuple[int, int], cell: int, share: float, device: torch.device) -> Tensor:
    """Draw which cells of ``cell`` pixels may be hidden, each with the probability ``share``.

    The other cells stay visible whatever the maps say.

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
    whole: Tensor,
    drawn: Sequence[Tensor],
    hidden: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Return what the reconstructor minimises, ``L = BCE + 0.2 |X0 - I| + 0.3 |Xt - I|_et + 0.5 |Xn - I|_en``.

    Args:
        config: Configuration with the weights of the losses.
        images: ``(B, 3, H, W)``, I.
        labels: ``(B, K)``.
        maps: ``(B, K, h, w)``, the encoder's own signed class maps.
        whole: ``(B, 3, H, W)``, X0, drawn with everything visible.
        drawn: The same with the target hidden (Xt) and with the rest hidden (Xn).
        hidden: ``(B, 1, H, W)`` each, where the target (et) and the rest (en) were hidden.

    Returns:
        Scalars: ``loss``, and its parts without their weights.
    """
    parts = {
        "classification": classification_loss(maps.mean(dim=(2, 3)), labels),
        "whole": (whole - images).abs().mean(),
        "hidden_target": masked_error(drawn[0], images, hidden[0]),
        "hidden_rest": masked_error(drawn[1], images, hidden[1]),
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
    share: Tensor,
    drawn: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Return what the classifier minimises, ``L = BCE - 0.8 |Yt - I|_mt - 0.3 |Yn - I|_mn``.

    Outside the target (``mt = [s = 0]``) the image must not be inferable from the target; on the target
    (``mn = s [the target's raw map is the highest of all K]``) not from the rest. Both masks are constants.

    Args:
        config: Configuration with the weights of the losses.
        images: ``(B, 3, H, W)``, I.
        labels: ``(B, K)``.
        targets: ``(B,)`` int64.
        maps: ``(B, K, h, w)``, signed class maps.
        share: ``(B, 1, H, W)``, s, the result of :func:`target_map`.
        drawn: Drawn from the target alone (Yt, through s) and from the rest alone (Yn, through 1 - s).

    Returns:
        Scalars: ``loss``, and its parts without their weights, the errors positive.
    """
    enlarged = upsample(maps.detach().float(), (images.shape[2], images.shape[3]))
    wins = (argmax(enlarged, 1) == targets[:, None, None])[:, None]
    fixed = share.detach()
    parts = {
        "classification": classification_loss(maps.mean(dim=(2, 3)), labels),
        "from_target": masked_error(drawn[0], images, fixed == 0),
        "from_rest": masked_error(drawn[1], images, fixed * wins),
    }
    loss = (
        parts["classification"]
        - config.adversarial_target_weight * parts["from_target"]
        - config.adversarial_rest_weight * parts["from_rest"]
    )
    return {"loss": loss, **parts}


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of ACR; the defaults are those of the authors' code.

    Attributes:
        start: Weights that both backbones start from: the ``imagenet`` weights (or none), or those of an ordinary
            ``classifier``.
        hidden: Channels of the layer before the classifiers' heads.
        reconstructor: Arguments of the reconstructor's class besides its encoder and its levels.
        whole_weight: Weight, in the reconstructor's loss, of the error of the whole image.
        hidden_target_weight: Weight of the error on the target where it is hidden.
        hidden_rest_weight: Weight of the error on the rest where that is hidden.
        adversarial_target_weight: Weight, in the classifier's loss, of the error outside the target, drawn from the
            target.
        adversarial_rest_weight: Weight of the error on the target, drawn from the rest.
        grid_cell: Side in pixels of the cells that are hidden or stay visible together.
        grid_share: Share of the cells that may be hidden, in the first epoch.
        grid_slope: Increase of ``grid_share`` in every further epoch.
        warm_up: Epochs at the beginning in which classifier and reconstructor do not meet; 0 with ImageNet weights.
        train_reconstructor: Whether the reconstructor learns. If not, it stays as it started and the classifier still
            works against it, which shows what the game is worth.
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
    grid_share: float = 0.2
    grid_slope: float = 0.01
    warm_up: int = 0
    train_reconstructor: bool = True
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 5e-4
    head_factor: float = 1.0
    transposed_factor: float = 10.0

    def check(self) -> None:
        """Raise InputError if settings contradict each other."""
        super().check()
        decoder_levels(self.crop_size)

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset."""
        if name == "toy":
            backbone = backbone or "resnet50"
            fine = {"resnet50": {"taps": ["layer2", "layer3", "layer4"]}}
            return cls(
                backbone=backbone,
                backbone_options=backbone_options(name, backbone),
                reconstructor={"width": 0.125, **fine.get(backbone, {})},
                hidden=64,
                pretrained=False,
                start="classifier",
                epochs=4,
                batch_size=16,
                crop_size=96,
                min_long_side=96,
                max_long_side=96,
                colour_jitter=0.3,
                grid_cell=8,
                grid_slope=0.03,
                optimizer="adamw",
                learning_rate=1e-3,
                weight_decay=1e-2,
                transposed_factor=1.0,
                scales=(1.0, 0.75, 1.5),
            )
        if name == "photos":
            return cls(
                backbone=backbone or LIGHT[0],
                reconstructor={"width": 0.125},
                start="classifier",
                epochs=4,
                batch_size=16,
                crop_size=192,
                min_long_side=257,
                max_long_side=385,
                colour_jitter=0.3,
                hue_jitter=0.1,
                grid_slope=0.06,
                optimizer="adamw",
                learning_rate=2e-4,
                head_factor=20.0,
                view_multiple=16,
            )
        options = {"resnet38d": {"dropout": [0.2, 0.2]}}
        backbone = backbone or "resnet38d"
        return cls(backbone=backbone, backbone_options=options.get(backbone, {}))


class ACR(CamMethod):
    """A classifier and a reconstructor that learn in turn.

    Args:
        config: Its settings.
        num_classes: K.
    """

    config: Config
    signed = True

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

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Make an optimiser and a polynomial schedule for each of the two networks."""
        config, reconstructor = self.config, self.reconstructor
        encoder, decoder = reconstructor.classifier, reconstructor.decoder
        new = nn.ModuleList([*encoder.new_layers, *reconstructor.reductions, *decoder.plain])
        rate, decay = config.learning_rate, config.weight_decay
        groups = {
            "classifier": parameter_groups(
                self.classifier.backbone, self.classifier.new_layers, rate, decay, config.head_factor
            ),
            "reconstructor": [
                *parameter_groups(encoder.backbone, new, rate, decay, config.head_factor),
                *parameter_groups(decoder.transposed, nn.ModuleList(), config.transposed_factor * rate, decay),
            ],
        }
        self.engine = engine
        self.calls: dict[str, Any] = {}
        for name, network in self.networks.items():
            optimizer = create_optimizer(config.optimizer, groups[name], rate, config.momentum)
            self.schedules[name] = polynomial_schedule(optimizer, total_steps)
            self.calls[name], self.optimizers[name] = engine.setup(network, optimizer)

    @property
    def has_adversary(self) -> bool:
        """Whether the reconstructor has a say at all; without weights the classifier learns by itself."""
        return bool(self.config.adversarial_target_weight or self.config.adversarial_rest_weight)

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        """Remember the epoch, from 0, on which the grid depends."""
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
            grid: ``(B, 1, H, W)``, 1 where something may be hidden from the reconstructor.

        Returns:
            The losses of :func:`classifier_losses`, and those of :func:`reconstructor_losses` with
            ``reconstructor_`` in front if the reconstructor learns.
        """
        learns = self.has_adversary and self.config.train_reconstructor
        drawn = self.update_reconstructor(images, labels, targets, grid) if learns else {}
        losses = self.update_classifier(images, labels, targets)
        return {**losses, **{f"reconstructor_{name}": value for name, value in drawn.items()}}

    def update_reconstructor(self, images: Tensor, labels: Tensor, targets: Tensor, grid: Tensor) -> dict[str, Tensor]:
        """Let the reconstructor learn to draw what the classifier's maps hide; the classifier is only asked."""
        self.classifier.eval()
        self.reconstructor.train()
        size = (images.shape[2], images.shape[3])
        with torch.no_grad(), self.engine.autocast():
            share = target_map(self.classifier(images), labels, targets, size)
        hidden_target, hidden_rest = share * grid, (1 - share) * grid
        maps, whole, pair = self.calls["reconstructor"](images, (1 - hidden_target, 1 - hidden_rest))
        losses = reconstructor_losses(self.config, images, labels, maps, whole, pair, (hidden_target, hidden_rest))
        return self._learn("reconstructor", losses)

    def update_classifier(self, images: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Let the classifier learn maps from which the reconstructor, which is constant, draws badly."""
        self.classifier.train()
        self.reconstructor.eval()
        maps = self.calls["classifier"](images)
        if not self.has_adversary or self.epoch < self.config.warm_up:
            loss = classification_loss(maps.mean(dim=(2, 3)), labels)
            return self._learn("classifier", {"loss": loss, "classification": loss})
        share = target_map(maps, labels, targets, (images.shape[2], images.shape[3]))
        with self.engine.autocast():
            with torch.no_grad():
                features = self.reconstructor.encode(images)[1]
            decoder = self.reconstructor.decoder
            constant = {name: weight.detach() for name, weight in decoder.named_parameters()}
            drawn = [x.float() for x in torch.func.functional_call(decoder, constant, (features, share))]
        return self._learn("classifier", classifier_losses(self.config, images, labels, targets, maps, share, drawn))

    def _learn(self, name: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        self.optimizers[name].zero_grad()
        self.engine.backward(losses["loss"])
        self.optimizers[name].step()
        self.schedules[name].step()
        return {part: value.detach() for part, value in losses.items()}

    def diverged(self, losses: Mapping[str, float]) -> str:
        """Say so if the classifier has driven the reconstructor out of the range of images; its loss has no bound."""
        for name in ("from_target", "from_rest"):
            if losses.get(name, 0.0) > _LARGEST_ERROR:
                return (
                    f"the classifier's adversarial error {name} is {losses[name]:.3g}, no image is so far from another"
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
        """Load the classifier of the authors' code, from a Lightning checkpoint or by itself.

        The reconstructor, and the untrained copy of its parts that their classifier carries, are left out.
        """

        def rename(key: str) -> str | None:
            key = key.removeprefix("net_main.")
            foreign = key.startswith(("net_recon.", "genUnet.", "dr1.", "dr2.", "fc_recon."))
            return None if foreign else self.classifier.official_key(key)

        return load_into(self.classifier, state, source=source, rename=rename)


METHOD = ACR
