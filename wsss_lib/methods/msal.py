"""MSAL: three affinities: of pixels with superpixels, of positions with each other, and with prototypes of classes.

"Weakly Supervised Semantic Segmentation via Multi-Type Semantic Affinity Learning" (2024). One classification network
learns from three affinities:

- of pixels with superpixels, by dynamic convolutional reconstruction (DCR, `wsss_lib.models.msal_net`);
- of positions with each other, by affinity propagation (AP, `wsss_lib.ops.propagation`);
- of positions with class prototypes, by the intra-patch prototype contrast (IPC, :func:`ipc_loss`).

The loss is ``L = BCE + 0.3 IPC`` (:meth:`MSAL.losses`).

Differences from the authors' release (CHENDL-SHEN/MSA), which does not run without changes:

- The convolutions that predict the weights of the reconstruction have as many input channels as their input; in the
  release they have half as many.
- No gradients of the superpixel network are computed; the release computes some in each step and does not use them.
- The release passes the weight decay in the place of the momentum, so its momentum is 4e-5. That is the default here,
  too.
- The superpixel network sees images with the normalisation of its own training; in the release it sees them with that
  of the classifier.
- A position whose features are all 0 has no map; in the release it makes all values NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from wsss_lib.data.transforms import Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.fields import Limits, Share
from wsss_lib.methods.method import LIGHT, Batch, CamMethod, LongSideConfig, Presets, backbone_options
from wsss_lib.methods.optimisers import polynomial_schedule
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone, Normalisation
from wsss_lib.models.msal_net import MSALNet, mode_of
from wsss_lib.models.superpixel_net import CELL
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import upsample
from wsss_lib.ops.superpixels import refine_on_superpixels, superpixel_pool, superpixel_upsample, tile

_EPS = 1e-5
_PIXELS_AT_ONCE = 2**21
"""For more pixels than this, an image and its mirror image pass the networks one after the other, to save memory."""

_COCO = Normalisation(mean=(0.471, 0.448, 0.408), std=(0.234, 0.239, 0.242))


def whole_cells(size: tuple[int, int]) -> tuple[int, int]:
    """Return a height and a width, rounded up to multiples of 16."""
    return CELL * math.ceil(size[0] / CELL), CELL * math.ceil(size[1] / CELL)


def _rescaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def to_whole_cells(images: Tensor) -> Tensor:
    """Return ``(B, 3, H, W)`` images, resized bilinearly so that both sides are multiples of 16, rounded up."""
    return _resize(images, whole_cells((images.shape[2], images.shape[3])))


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if not images.shape[1]:
        return images.new_zeros(len(images), 0, *size)
    return images if images.shape[2:] == size else upsample(images, size)


def normalise_cams(maps: Tensor) -> Tensor:
    """Divide signed maps ``(..., H, W)`` by their own maxima: ``relu(relu(M) - 1e-5) / (max relu(M) + 1e-5)``."""
    rectified = maps.relu()
    return F.relu(rectified - _EPS) / (rectified.amax(dim=(-2, -1), keepdim=True) + _EPS)


def valid_cells(images: Tensor, cell: int = 16) -> Tensor:
    """Return where ``(B, 3, H, W)`` normalised images are not padding, decided by the first pixel of each cell.

    Returns:
        ``(B, 1, H / S, W / S)`` float, 1 or 0.
    """
    return (images.sum(1, keepdim=True)[:, :, ::cell, ::cell] != 0).to(images)


def image_target(images: Tensor, association: Tensor) -> Tensor:
    """Return the target of MSAL-I, the mean colour of each superpixel, ``(B, 3, h, w)``, 0 in the padding."""
    return superpixel_pool(images, association).detach() * valid_cells(images)


def saliency_target(saliency: Tensor, images: Tensor, association: Tensor) -> Tensor:
    """Return the target of MSAL-S, saliency s and 1 - s of each superpixel, ``(B, 2, h, w)``, 0 in the padding.

    Args:
        saliency: ``(B, 1, H, W)`` float in [0, 1].
        images: ``(B, 3, H, W)`` normalised images.
        association: ``(B, 9, H, W)``.
    """
    pooled = superpixel_pool(saliency, association).detach()
    return torch.cat([pooled, 1 - pooled], dim=1) * valid_cells(images)


def saliency_canvas(saliency: Tensor) -> float:
    """Return the value around a saliency map from 0 to 255 on the canvas of a training image, by the authors' rule.

    It is 0 if the map has a value above 100, and otherwise 255, salient.
    """
    return 0.0 if saliency.max() > 100 else 255.0


def ipc_loss(cams: Tensor, target: Tensor, patches: int = 9, gate: float = 0.1) -> Tensor:
    """Return the error of a target that is rebuilt from one prototype per class, in each patch by itself.

    With the maps a_k, the background ``a_0 = 1 - max_k a_k`` and the directions T of the target's vectors, the
    prototype of a class is ``mu_k = sum_p a_k(p) T(p) / sum_p a_k(p)``, and ``R(p) = sum_k a_k(p) mu_k`` should be
    T(p). The squared difference is averaged over all positions that count.

    Args:
        cams: ``(B, K, h, w)`` normalised maps, 0 for classes that an image does not show.
        target: ``(B, d, h, w)``, 0 where nothing is rebuilt. No gradient flows through the target.
        patches: Number of patches that each map is divided into, a square number.
        gate: Threshold for patches: a patch counts if somewhere its background exceeds this value, and somewhere the
            rest does. If no patch counts by this rule, all patches count.

    Returns:
        A scalar.
    """
    cams, target = tile(cams, patches), tile(target.detach(), patches)
    known = (target.sum(1, keepdim=True) != 0).to(cams)
    background = 1 - cams.amax(1, keepdim=True)
    certain = known * background.detach()
    mixed = ((1 - certain).amax(dim=(1, 2, 3)) > gate) & (certain.amax(dim=(1, 2, 3)) > gate)
    if not mixed.any():
        mixed = torch.ones_like(mixed)
    counts = known * mixed[:, None, None, None]
    a = (counts * torch.cat([background, cams], dim=1)).flatten(2)  # (n, 1 + K, N)
    direction = (counts * F.normalize(target, dim=1, eps=1e-12)).flatten(2)  # (n, d, N), T
    mu = direction @ a.transpose(1, 2) / (a.sum(2)[:, None] + _EPS)  # (n, d, 1 + K)
    difference = (mu @ a - direction).square().sum(1, keepdim=True)  # R - T, (n, 1, N)
    weights = counts.flatten(2)
    return (weights * difference).sum() / (weights.sum() + 1e-3)


def named_groups(network: nn.Module, config: Config) -> list[dict[str, object]]:
    """Return the authors' four groups of parameters: backbone or not, name ends in ``weight`` or not.

    The scales of batch normalisation count as weights. Biases learn twice as fast and do not decay.
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
    """A classifier whose maps are mixed along superpixels and rebuild the superpixels' colours or saliency.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K.
    """

    config: Config
    scales_itself = True
    needs = "superpixels"

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        backbone = create_backbone(config.backbone, **config.backbone_options)
        if config.pretrained:
            backbone.freeze(first_layers=False, affine=False)
        if config.statistics == "coco":
            backbone.normalisation = _COCO
        self.network = MSALNet(backbone, num_classes, config.dcr, config.head_width, config.own_weight)
        self.networks = {"network": self.network}

    @property
    def backbone(self) -> Backbone:
        """The classifier's backbone."""
        return self.network.backbone

    def make_optimizer(self, name: str) -> Optimizer:
        """Return the optimiser, with the authors' four groups of parameters."""
        config, groups = self.config, named_groups(self.networks[name], self.config)
        if config.optimizer == "sgd":
            return SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)
        return AdamW(groups, lr=config.learning_rate)

    def make_schedule(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """Return the polynomial schedule with the power of the settings."""
        return polynomial_schedule(optimizer, total_steps, self.config.power)

    def associate(self, images: Tensor) -> Tensor:
        """Return the association ``(B, 9, H, W)`` of ``(B, 3, H, W)`` images, without gradients.

        It is 0 if the settings switch off all parts that use it.

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
        """Do one update with clipped gradients.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            labels: ``(B, K)``.
            association: ``(B, 9, H, W)``.
            saliency: ``(B, 1, H, W)`` in [0, 1], for the saliency variant.

        Returns:
            ``loss``, the parts of :meth:`losses`, and ``gradient``: the norm of all gradients before clipping.
        """
        losses = self.losses(images, labels, association, saliency)
        loss = torch.stack(list(losses.values())).sum()
        return self.learn({"loss": loss, **losses}, max_norm=self.config.clip)

    def losses(
        self, images: Tensor, labels: Tensor, association: Tensor, saliency: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the parts of ``L = BCE + 0.3 IPC``, see :meth:`update`.

        Returns:
            ``classification``, and ``ipc`` times its weight if that is not 0.

        Raises:
            InputError: Saliency is the target, and there is none.
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
        return losses

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
        """Enlarge ``(B, K, h, w)`` maps to the size of the association, along superpixels or bilinearly."""
        if self.config.walk_steps:
            maps = refine_on_superpixels(maps, association, self.config.walk_steps)
        if self.config.along_superpixels:
            return superpixel_upsample(maps, association)
        return upsample(maps, (association.shape[2], association.shape[3]))

    def maps(self, images: Tensor, association: Tensor) -> Tensor:
        """Return the signed maps ``(B, K, h, w)`` of the superpixels, after affinity propagation."""
        return self.network(images, association, self.config.iterations, self.config.threshold)[0][:, 1:]

    def multi_scale(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the normalised sum of the maps of all scales and of the mirrored images.

        As in the authors' code, the classifier sees images that were resized twice, the superpixel network images that
        were resized once. Only the maps of the classes that an image shows are up-sampled.
        """
        size = (images.shape[2], images.shape[3])
        common = whole_cells(_rescaled(size, 1.0 if self.config.sum_at == "one" else self.config.scales[-1]))
        present = [label.nonzero().flatten() for label in labels]
        sums: list[Tensor] = [images.new_zeros(1, len(classes), *common) for classes in present]
        for scale in self.config.scales:
            scaled = _rescaled(size, scale)
            once = _resize(images, whole_cells(scaled))
            twice = _resize(_resize(images, scaled), whole_cells(scaled))
            chunks = 2 if len(images) == 1 and 2 * once[0, 0].numel() > _PIXELS_AT_ONCE else 1
            parts = torch.cat([once, once.flip(-1)]).chunk(chunks)
            association = torch.cat([self.associate(part) for part in parts]).float()
            parts = torch.cat([twice, twice.flip(-1)]).chunk(chunks)
            pairs = zip(parts, association.chunk(chunks), strict=True)
            maps = torch.cat([self.maps(*pair) for pair in pairs]).float()  # of the images, then of their mirror images
            for i, classes in enumerate(present):
                for position, mirrored in ((i, False), (len(images) + i, True)):
                    if len(classes):
                        part = self.enlarge(maps[[position]][:, classes], association[[position]])
                        part = _resize(part, common)
                        sums[i] += part.flip(-1) if mirrored else part
        return [_resize(normalise_cams(total), size)[0] for total in sums]

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network trained with the authors' code.

        Raises:
            InputError: The checkpoint uses another ``dcr`` mode than the settings, or its tensors have other shapes.
        """
        if "classifier.0.weight" in state and (mode := mode_of(state)) != self.config.dcr:
            raise InputError(f"{source} holds a network with dcr={mode}, not {self.config.dcr}; add dcr={mode}.")
        return load_into(self.network, state, source=source, rename=self.network.official_key)


@dataclass(frozen=True)
class Config(LongSideConfig):
    """Settings of MSAL; the defaults are those of the authors' code for the image variant, MSAL-I.

    Attributes:
        statistics: Data set whose mean and standard deviation normalise the images. The authors' classifier uses those
            of ``coco`` for both data sets.
        target: Target of the IPC loss: the colours of the ``image`` (MSAL-I) or its ``saliency`` (MSAL-S).
        dcr: See :class:`wsss_lib.models.msal_net.MSALNet`.
        head_width: See :class:`wsss_lib.models.msal_net.MSALNet`.
        own_weight: See :class:`wsss_lib.models.msal_net.MSALNet`.
        iterations: Iterations of affinity propagation when maps are made; 0 leaves it out.
        training_iterations: Iterations of affinity propagation in training.
        threshold: Smallest similarity that affinity propagation counts.
        along_superpixels: Whether maps are enlarged along the superpixels, or bilinearly.
        sum_at: Size at which the maps of all scales are added: that of scale ``one``, as in the authors' evaluation of
            MSAL-S, or that of the ``last`` of the scales, as in their evaluation of MSAL-I.
        walk_steps: Steps of a random walk between superpixels before maps are enlarged; 0 in the authors' scripts.
        ipc_weight: Weight of the IPC loss; 0 leaves it out.
        patches: Number of patches that each map is divided into for the IPC loss, a square number.
        gate: Threshold that a patch must exceed somewhere, both with background and with the rest, to count.
        optimizer: ``sgd`` as in the paper, with Nesterov's rule, or ``adamw``.
        momentum: Momentum of ``sgd``.
        power: Power of the polynomial schedule.
        head_factor: Factor by which the new layers learn faster than the backbone.
        clip: Norm to which all gradients together are clipped.
    """

    backbones: ClassVar[tuple[str, ...]] = ("resnet50", "efficientnet_lite0", "mobilenet_v2")
    toy_pretrained: ClassVar[bool] = False  # its parts help a network from scratch, and cost a pre-trained one several
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
    own_weight: Annotated[float, Limits(0, 0.999)] = 0.0
    iterations: int = 8
    training_iterations: int = 8
    threshold: Share = 0.6
    along_superpixels: bool = True
    sum_at: Literal["one", "last"] = "one"
    walk_steps: Annotated[int, Limits(0, 100_000)] = 0
    ipc_weight: float = 0.3
    patches: Annotated[int, Limits(1)] = 9
    gate: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 4e-5
    power: float = 0.5
    head_factor: float = 10.0
    clip: float = 1.0

    presets: ClassVar[Presets] = {
        "toy": {
            "backbone": "resnet50",
            "pretrained": False,
            "statistics": "imagenet",
            "crop_size": 176,
            "min_long_side": 192,
            "max_long_side": 192,
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 1e-2,
            "head_factor": 1.0,
            "power": 0.9,
            "head_width": 0.25,
            "iterations": 0,
            "training_iterations": 2,
            "scales": (2.0,),
        },
        "photos": {
            "backbone": LIGHT[0],
            "statistics": "imagenet",
            "epochs": 6,
            "crop_size": 256,
            "min_long_side": 257,
            "max_long_side": 385,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "head_factor": 20.0,
            "power": 0.9,
            "scales": (1.0, 0.5, 1.5),
        },
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone."""
        options = backbone_options(preset, backbone)
        if backbone == "resnet50":
            options |= {"output_stride": 16, "dilated": False}
        elif preset == "toy":
            options["output_stride"] = 16
        return {"backbone_options": options}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; the target ``saliency`` brings the authors' settings for it along."""
        if changes.get("target") == "saliency" != self.target:
            changes = {"power": 0.9, "training_iterations": 0, "patches": 1, "gate": 0.01, **changes}
        return super().replace(**changes)

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
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

    def augmentation(self) -> Augmentation:
        """Return the augmentation of a training image, which multiplies both sides by one factor."""
        return replace(super().augmentation(), by_factor=True)

    @property
    def needs_superpixels(self) -> bool:
        """Whether any part that is switched on uses superpixels."""
        return self.dcr == "concat" or self.ipc_weight > 0 or self.along_superpixels or self.walk_steps > 0

    @property
    def needs_saliency(self) -> bool:
        """Whether the IPC loss rebuilds saliency maps."""
        return self.target == "saliency"


METHOD = MSAL
