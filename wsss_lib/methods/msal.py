"""MSAL: pixels belong to superpixels, superpixels to their neighbours, and all to a prototype of their class.

"Weakly Supervised Semantic Segmentation via Multi-Type Semantic Affinity Learning" (2024). Three affinities meet in one
classification network: of pixels with superpixels (dynamic convolutional reconstruction), of positions with each other
(affinity propagation), and of positions with class prototypes (the intra-patch prototype contrast, IPC).

Differences from the authors' release (CHENDL-SHEN/MSA), which cannot be run as it is:

- The convolutions that predict the mixing have as many inputs as they are given; there half as many.
- The superpixel network computes no gradients; there every step collects some for its weights that nobody uses.
- The weight decay is passed in the place of the momentum there, so the momentum is 4e-5; that is the default here, too.
- The superpixel network sees images as it did in its own training; there in the classifier's normalisation.
- A position without features stays without a map; there it makes everything NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from wsss_lib.data.transforms import Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.method import LIGHT, Batch, CamMethod, Engine, LongSideConfig, backbone_options
from wsss_lib.methods.optimisers import polynomial_schedule
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone, Normalisation
from wsss_lib.models.msal_net import MSALNet, mode_of
from wsss_lib.models.superpixel_net import CELL, SuperpixelNet
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import upsample
from wsss_lib.ops.superpixels import refine_on_superpixels, superpixel_pool, superpixel_upsample, tile

_EPS = 1e-5
_PIXELS_AT_ONCE = 2**21
"""Beyond so many pixels, a picture and its mirror image pass the networks one after the other, which bounds memory."""

_COCO = Normalisation(mean=(0.471, 0.448, 0.408), std=(0.234, 0.239, 0.242))


def normalise_cams(maps: Tensor) -> Tensor:
    """Divide signed maps ``(..., H, W)`` by their own maxima: ``relu(relu(M) - 1e-5) / (max relu(M) + 1e-5)``."""
    rectified = maps.relu()
    return F.relu(rectified - _EPS) / (rectified.amax(dim=(-2, -1), keepdim=True) + _EPS)


def valid_cells(images: Tensor, cell: int = 16) -> Tensor:
    """Return where ``(B, 3, H, W)`` normalised images are not padding, judged by the first pixel of every cell.

    Returns:
        ``(B, 1, H / S, W / S)`` float, 1 or 0.
    """
    return (images.sum(1, keepdim=True)[:, :, ::cell, ::cell] != 0).to(images)


def image_target(images: Tensor, association: Tensor) -> Tensor:
    """Return the mean colour of every superpixel, ``(B, 3, h, w)``, 0 in the padding: what MSAL-I rebuilds."""
    return superpixel_pool(images, association).detach() * valid_cells(images)


def saliency_target(saliency: Tensor, images: Tensor, association: Tensor) -> Tensor:
    """Return saliency s and 1 - s of every superpixel, ``(B, 2, h, w)``, 0 in the padding: what MSAL-S rebuilds.

    Args:
        saliency: ``(B, 1, H, W)`` float in [0, 1].
        images: ``(B, 3, H, W)`` normalised images.
        association: ``(B, 9, H, W)``.
    """
    pooled = superpixel_pool(saliency, association).detach()
    return torch.cat([pooled, 1 - pooled], dim=1) * valid_cells(images)


def saliency_canvas(saliency: Tensor) -> float:
    """Return what lies around a saliency map from 0 to 255 on the canvas of a training image, by the authors' rule.

    It is 0 for a map that is sure of something (above 100), and 255, salient, for any other.
    """
    return 0.0 if saliency.max() > 100 else 255.0


def ipc_loss(cams: Tensor, target: Tensor, patches: int = 9, gate: float = 0.1) -> Tensor:
    """Return how badly a target is rebuilt from one prototype per class, patch by patch.

    With the maps a_k, the background ``a_0 = 1 - max_k a_k`` and the directions T of the target's vectors, the
    prototype of a class is ``mu_k = sum_p a_k(p) T(p) / sum_p a_k(p)``, and ``R(p) = sum_k a_k(p) mu_k`` should be
    T(p). The squared difference is averaged over all positions that count.

    Args:
        cams: ``(B, K, h, w)`` normalised maps, 0 for classes that an image does not show.
        target: ``(B, d, h, w)``, 0 where nothing is to be rebuilt; it gets no gradient.
        patches: Into how many patches maps are cut, a square number.
        gate: A patch counts if it has a background above this, and something else above this; if none does, all do.

    Returns:
        A scalar.
    """
    cams, target = tile(cams, patches), tile(target.detach(), patches)
    known = (target.sum(1, keepdim=True) != 0).to(cams)
    background = 1 - cams.amax(1, keepdim=True)
    seen = known * background.detach()
    mixed = ((1 - seen).amax(dim=(1, 2, 3)) > gate) & (seen.amax(dim=(1, 2, 3)) > gate)
    if not mixed.any():
        mixed = torch.ones_like(mixed)
    counts = known * mixed[:, None, None, None]
    share = (counts * torch.cat([background, cams], dim=1)).flatten(2)  # (n, 1 + K, N)
    direction = (counts * F.normalize(target, dim=1, eps=1e-12)).flatten(2)  # (n, d, N)
    prototypes = direction @ share.transpose(1, 2) / (share.sum(2)[:, None] + _EPS)  # (n, d, 1 + K)
    difference = (prototypes @ share - direction).square().sum(1, keepdim=True)
    weights = counts.flatten(2)
    return (weights * difference).sum() / (weights.sum() + 1e-3)


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of MSAL; the defaults are those of the authors' code for the image variant.

    Attributes:
        statistics: Data set whose mean and standard deviation normalise the images. The authors' classifier sees those
            of ``coco`` on both data sets.
        target: Picture that the IPC loss rebuilds: the colours of the ``image`` (MSAL-I) or its ``saliency`` (MSAL-S).
        dcr: See :class:`wsss_lib.models.msal_net.MSALNet`.
        head_width: See :class:`wsss_lib.models.msal_net.MSALNet`.
        own_weight: See :class:`wsss_lib.models.msal_net.MSALNet`.
        iterations: Iterations of affinity propagation when maps are made; 0 leaves it out.
        training_iterations: Iterations of affinity propagation in training.
        threshold: Least similarity that affinity propagation counts.
        along_superpixels: Whether maps are enlarged along the superpixels, or bilinearly.
        sum_at: Size at which the maps of all scales are added: that of scale ``one``, as in the authors' evaluation of
            MSAL-S, or that of the ``last`` of the scales, as in their evaluation of MSAL-I.
        walk_steps: Steps of a random walk between superpixels that the maps do before they are enlarged; the authors'
            scripts do none.
        ipc_weight: Weight of the IPC loss; 0 leaves it out.
        patches: Number of patches that the maps are cut into for the IPC loss.
        gate: Threshold that a patch must exceed somewhere, both with background and with the rest, to count.
        optimizer: ``sgd`` as in the paper, with Nesterov's rule, or ``adamw``.
        momentum: Momentum of ``sgd``.
        power: Power of the polynomial schedule.
        head_factor: Factor by which the new layers learn faster than the backbone.
        clip: Greatest norm of all gradients together.
    """

    backbones: ClassVar[tuple[str, ...]] = ("resnet50", "efficientnet_lite0", "mobilenet_v2")
    inference_only: ClassVar[frozenset[str]] = LongSideConfig.inference_only | {
        "iterations",
        "along_superpixels",
        "sum_at",
        "walk_steps",
    }

    backbone: str = "resnet50"
    epochs: int = 12
    crop_size: int = 480
    min_long_side: int = 320
    max_long_side: int = 640
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0
    learning_rate: float = 0.1
    weight_decay: float = 4e-5
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    statistics: Literal["imagenet", "coco"] = "coco"
    target: Literal["image", "saliency"] = "image"
    dcr: Literal["concat", "noq", "off"] = "concat"
    head_width: float = 1.0
    own_weight: float = 0.0
    iterations: int = 8
    training_iterations: int = 8
    threshold: float = 0.6
    along_superpixels: bool = True
    sum_at: Literal["one", "last"] = "one"
    walk_steps: int = 0
    ipc_weight: float = 0.3
    patches: int = 9
    gate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 4e-5
    power: float = 0.5
    head_factor: float = 10.0
    clip: float = 1.0

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset."""
        backbone = backbone or (LIGHT[0] if name == "photos" else "resnet50")
        options = backbone_options(name, backbone)
        if backbone == "resnet50":
            options = {**options, "output_stride": 16, "dilated": False}
        elif name == "toy":
            options["output_stride"] = 16
        if name == "toy":
            return cls(
                backbone=backbone,
                backbone_options=options,
                pretrained=False,
                statistics="imagenet",
                crop_size=176,
                min_long_side=192,
                max_long_side=192,
                optimizer="adamw",
                learning_rate=2e-3,
                weight_decay=1e-2,
                head_factor=1.0,
                power=0.9,
                head_width=0.25,
                iterations=0,
                training_iterations=2,
                scales=(2.0,),
            )
        if name == "photos":
            return cls(
                backbone=backbone,
                backbone_options=options,
                statistics="imagenet",
                epochs=6,
                crop_size=256,
                min_long_side=257,
                max_long_side=385,
                optimizer="adamw",
                learning_rate=1e-4,
                head_factor=20.0,
                power=0.9,
                scales=(1.0, 0.5, 1.5),
            )
        return cls(backbone=backbone, backbone_options=options)

    def augmentation(self) -> Augmentation:
        """Return what is done to a training image."""
        return replace(super().augmentation(), by_factor=True)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; the target ``saliency`` brings the authors' settings for it along."""
        if changes.get("target") == "saliency" != self.target:
            changes = {"power": 0.9, "training_iterations": 0, "patches": 1, "gate": 0.01, **changes}
        return super().replace(**changes)

    @property
    def needs_superpixels(self) -> bool:
        """Whether any part that is switched on uses them."""
        return self.dcr == "concat" or self.ipc_weight > 0 or self.along_superpixels or self.walk_steps > 0

    def check(self) -> None:
        """Raise InputError if settings contradict each other."""
        super().check()
        if self.crop_size % CELL:
            raise InputError(f"crop_size {self.crop_size} is not a multiple of {CELL}; give one.")
        if math.isqrt(self.patches) ** 2 != self.patches:
            raise InputError(f"patches {self.patches} is not a square number; give 1, 4, 9 or 16.")
        if self.crop_size < CELL * math.isqrt(self.patches):
            raise InputError(
                f"crop_size {self.crop_size} leaves no cell for each of {self.patches} patches; "
                f"give at least {CELL * math.isqrt(self.patches)}."
            )


def named_groups(network: nn.Module, config: Config) -> list[dict[str, object]]:
    """Return the authors' four groups: by whether a name ends in ``weight``, and by whether it is the backbone's.

    Scales of batch normalisations count as weights. Biases learn twice as fast and do not decay.
    """
    groups = []
    for of_backbone, factor in ((True, 1.0), (False, config.head_factor)):
        named = [(n, p) for n, p in network.named_parameters() if n.startswith("backbone.") is of_backbone]
        for is_weight in (True, False):
            parameters = [p for n, p in named if p.requires_grad and n.endswith("weight") is is_weight]
            rate = config.learning_rate * factor * (1 if is_weight else 2)
            groups.append({"params": parameters, "lr": rate, "weight_decay": config.weight_decay if is_weight else 0.0})
    return groups


class MSAL(CamMethod):
    """A classifier of which the maps are mixed along superpixels and rebuild what the image shows.

    Args:
        config: Its settings.
        num_classes: K.

    Attributes:
        superpixels: The trained superpixel network, which is not trained here; needed by everything.
    """

    config: Config
    scales_itself = True

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        backbone = create_backbone(config.backbone, **config.backbone_options)
        if config.pretrained:
            backbone.freeze(first_layers=False, affine=False)
        if config.statistics == "coco":
            backbone.normalisation = _COCO
        self.network = MSALNet(backbone, num_classes, config.dcr, config.head_width, config.own_weight)
        self.networks = {"network": self.network}
        self.superpixels: SuperpixelNet | None = None

    @property
    def backbone(self) -> Backbone:
        """The classifier's backbone."""
        return self.network.backbone

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Make stochastic gradient descent with the authors' groups, and its polynomial schedule."""
        config = self.config
        groups = named_groups(self.network, config)
        optimizer: Optimizer = AdamW(groups, lr=config.learning_rate)
        if config.optimizer == "sgd":
            optimizer = SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)
        self.schedules["network"] = polynomial_schedule(optimizer, total_steps, config.power)
        self.engine = engine
        self.forward, self.optimizers["network"] = engine.setup(self.network, optimizer)

    def associate(self, images: Tensor) -> Tensor:
        """Return the association ``(B, 9, H, W)`` of ``(B, 3, H, W)`` images, without gradients.

        It is zero if the settings switch off all that would use it.

        Raises:
            InputError: There is no superpixel network.
        """
        if not self.config.needs_superpixels:
            return images.new_zeros(len(images), 9, images.shape[2], images.shape[3])
        if self.superpixels is None:
            raise InputError("MSAL has no superpixel network; set the attribute superpixels first.")
        with torch.no_grad():
            return self.superpixels.eval()(images)["association"]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; a fourth channel of the images, if there is one, is their saliency."""
        images, saliency = batch.images[:, :3].contiguous(), batch.images[:, 3:]
        return self.update(images, batch.labels, self.associate(images), saliency if saliency.shape[1] else None)

    def update(
        self, images: Tensor, labels: Tensor, association: Tensor, saliency: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Do one update: ``L = BCE + 0.3 IPC``.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            labels: ``(B, K)``.
            association: ``(B, 9, H, W)``.
            saliency: ``(B, 1, H, W)`` in [0, 1], for the saliency variant.

        Returns:
            ``loss`` and its parts ``classification`` and ``ipc``, the latter with its weight; ``gradient``: the norm of
            all gradients before they were clipped.

        Raises:
            InputError: Saliency is to be rebuilt, and there is none.
        """
        config = self.config
        maps, pooled = self.forward(images, association, config.training_iterations, config.threshold)
        losses = {"classification": classification_loss(pooled[:, 1:].float(), labels)}
        if config.ipc_weight:
            cams = normalise_cams(maps[:, 1:].float()) * labels[:, :, None, None]
            if config.target == "image":
                target = image_target(images, association)
            elif saliency is None:
                raise InputError("MSAL-S has no saliency maps; give them, or choose target image.")
            else:
                target = saliency_target(saliency, images, association)
            losses["ipc"] = config.ipc_weight * ipc_loss(cams, target, config.patches, config.gate)
        loss = torch.stack(list(losses.values())).sum()
        optimizer = self.optimizers["network"]
        optimizer.zero_grad()
        self.engine.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        optimizer.step()
        self.schedules["network"].step()
        parts = {"loss": loss, **losses, "gradient": norm}
        return {name: value.detach() for name, value in parts.items()}

    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, K)`` of images of any size, which are resized to whole cells."""
        whole = to_whole_cells(images)
        return self.network(whole, self.associate(whole))[1][:, 1:]

    def cam(self, images: Tensor) -> Tensor:
        """Return the signed maps ``(B, K, H', W')``, up-sampled along the superpixels to whole cells of pixels."""
        whole = to_whole_cells(images)
        association = self.associate(whole)
        return self.enlarge(self.maps(whole, association), association)

    def enlarge(self, maps: Tensor, association: Tensor) -> Tensor:
        """Enlarge ``(B, K, h, w)`` maps to the size of the association, along superpixels if the settings say so."""
        if self.config.walk_steps:
            maps = refine_on_superpixels(maps, association, self.config.walk_steps)
        if self.config.along_superpixels:
            return superpixel_upsample(maps, association)
        return upsample(maps, (association.shape[2], association.shape[3]))

    def maps(self, images: Tensor, association: Tensor) -> Tensor:
        """Return the signed maps ``(B, K, h, w)`` of the superpixels, after affinity propagation."""
        return self.network(images, association, self.config.iterations, self.config.threshold)[0][:, 1:]

    def multi_scale(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Sum the maps of all scales and of the mirrored images, and normalise the sum.

        As in the authors' code the classifier sees images that were resized twice, the superpixel network once. Only
        the maps of the classes that an image shows are up-sampled.
        """
        size = (images.shape[2], images.shape[3])
        common = whole_cells(_rescaled(size, 1.0 if self.config.sum_at == "one" else self.config.scales[-1]))
        present = [label.nonzero().flatten() for label in labels]
        sums: list[Tensor] = [images.new_zeros(1, len(classes), *common) for classes in present]
        for scale in self.config.scales:
            scaled = _rescaled(size, scale)
            once = _resize(images, whole_cells(scaled))
            twice = _resize(_resize(images, scaled), whole_cells(scaled))
            alone = len(images) == 1 and 2 * once[0, 0].numel() > _PIXELS_AT_ONCE
            parts = torch.cat([once, once.flip(-1)]).chunk(1 + alone)
            association = torch.cat([self.associate(part) for part in parts]).float()
            parts = torch.cat([twice, twice.flip(-1)]).chunk(1 + alone)
            pairs = zip(parts, association.chunk(1 + alone), strict=True)
            maps = torch.cat([self.maps(*pair) for pair in pairs]).float()
            for i, classes in enumerate(present):
                if not len(classes):
                    continue
                for j, mirrored in ((i, False), (len(images) + i, True)):
                    enlarged = self.enlarge(maps[[j]][:, classes], association[[j]])
                    part = _resize(enlarged, common)
                    sums[i] += part.flip(-1) if mirrored else part
        return [_resize(normalise_cams(total), size)[0] for total in sums]

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network that the authors' code trained.

        Raises:
            InputError: The network has another ``dcr`` than ours, or does not fit.
        """
        if "classifier.0.weight" in state and (mode := mode_of(state)) != self.config.dcr:
            raise InputError(f"{source} holds a network with dcr={mode}, not {self.config.dcr}; add dcr={mode}.")
        return load_into(self.network, state, source=source, rename=self.network.official_key)


def whole_cells(size: tuple[int, int]) -> tuple[int, int]:
    """Round a height and a width up to multiples of 16."""
    return CELL * math.ceil(size[0] / CELL), CELL * math.ceil(size[1] / CELL)


def _rescaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def to_whole_cells(images: Tensor) -> Tensor:
    """Resize ``(B, 3, H, W)`` images bilinearly so that both sides are multiples of 16, rounded up."""
    return _resize(images, whole_cells((images.shape[2], images.shape[3])))


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if not images.shape[1]:
        return images.new_zeros(len(images), 0, *size)
    return images if images.shape[2:] == size else upsample(images, size)


METHOD = MSAL
