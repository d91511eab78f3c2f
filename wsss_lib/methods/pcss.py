"""PCSS: classify by phases, not by magnitudes, and not by single frequencies; with MCTformer, which it builds on.

Kwon et al., "Phase Concentration and Shortcut Suppression for Weakly Supervised Semantic Segmentation", ECCV 2024. A
transformer with class tokens (`wsss_lib.models.mctformer`) must find the same maps in an image whose features have
magnitudes of another image's features (phase concentration), and in an image from which the frequencies are taken that
the classifier depends on most (shortcut suppression). A census of frequencies, repeated every few epochs, finds those.

Xu et al., MCTformer-V1 and V2 (CVPR 2022) and MCTformer+ (2023) are the same code with ``network`` ``v1``, ``v2``,
``plus``, and without the two parts.

Differences from the authors' release (kwonhoyong3/PCSS-WSSS), which cannot be run as it is:

- The census takes place before the epoch that first uses it, so not after the last one. Only images that count are
  loaded, by their labels, and no two probes are alike; there 6 of 112 are.
- Mixing starts from the tokens of the first pass; there blocks 0 to 7 are passed again. That differs only in the draw
  of stochastic depth, which the two passes then share; ``share_blocks=False`` draws anew.
- A class that the census has not seen keeps the influence that it had, or none.
- No code of timm's is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from wsss_lib.data.randaugment import CropAugmentation
from wsss_lib.data.toy import ToyOptions
from wsss_lib.data.transforms import Augment
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.method import Batch, CamConfig, CamMethod, Engine
from wsss_lib.methods.optimisers import warmed_cosine_schedule
from wsss_lib.models import create_backbone
from wsss_lib.models.deit import DeiT, decays
from wsss_lib.models.mctformer import MCTformer, Outputs
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.cam import normalise_range
from wsss_lib.ops.frequency import (
    apply_filter,
    half_plane,
    influence_maps,
    magnitude,
    probe_filters,
    with_magnitude,
)

_AT_ONCE = 32
"""Filtered images that go through the network together in the census."""


_PLUS: dict[str, Any] = {
    "crop_size": 448,
    "batch_size": 32,
    "epochs": 45,
    "learning_rate": 3.125e-5,
    "scales": (1.0, 0.75, 1.25),
}
"""MCTformer+'s settings that differ from MCTformer's."""


@dataclass(frozen=True)
class Config(CamConfig):
    """Settings of PCSS and MCTformer; the defaults are those of the authors' code for VOC 2012.

    Attributes:
        network: ``pcss``, or the network and the losses of MCTformer: ``v1``, ``v2`` or ``plus``.
        layers: See :class:`wsss_lib.models.mctformer.MCTformer`.
        crop_scale: Least and greatest share of an image's area that is cut out for training.
        operations: Number of distortions that RandAugment draws for a training image.
        random_erasing: Probability that noise covers a part of a training image.
        first_learning_rate: Learning rate at the beginning of the warm-up.
        last_learning_rate: Learning rate at the end of the cosine schedule.
        warm_up: Epochs in which the learning rate grows linearly, before the cosine schedule.
        plain_share: Share of the epochs that come first, without phases and shortcuts, in place of ImageNet weights.
        phase_weight: Weight of the difference between the maps with own and with mixed magnitudes; 0 leaves phase
            concentration out.
        phase_start: First epoch of that difference, from 0, the plain ones not counted.
        merge_block: After which block, from 0, magnitudes are mixed.
        own_magnitude: Share of an image's own magnitudes in the mixture.
        shortcut_weight: Weight of the difference between the maps of an image with and without its most influential
            frequencies; 0 leaves shortcut suppression and the census out.
        shortcut_start: After this epoch, from 0, the plain ones not counted, the first census takes place.
        shortcut_interval: Epochs from one census to the next.
        probed_images: Images of every class that take part in a census.
        mirror: Rule by which the census takes a block of frequencies out, see
            :func:`wsss_lib.ops.frequency.probe_filters`.
        share_blocks: Whether the pass with mixed magnitudes shares the blocks before them with the first pass.
    """

    backbones: ClassVar[tuple[str, ...]] = ("deit_small",)
    toy_world: ClassVar[ToyOptions] = ToyOptions(shortcut=20.0, shortcut_share=0.8)

    backbone: str = "deit_small"
    epochs: int = 60
    batch_size: int = 64
    crop_size: int = 224
    learning_rate: float = 6.25e-5
    weight_decay: float = 0.05
    scales: tuple[float, ...] = (1.0,)
    alphas: tuple[float, ...] = (6.0, 10.0, 24.0)
    network: Literal["pcss", "v1", "v2", "plus"] = "pcss"
    layers: int = 0
    crop_scale: tuple[float, ...] = (0.6, 1.2)
    operations: int = 2
    random_erasing: float = 0.0
    first_learning_rate: float = 1e-6
    last_learning_rate: float = 1e-5
    warm_up: int = 5
    plain_share: float = 0.0
    phase_weight: float = 2.0
    phase_start: int = 0
    merge_block: int = 7
    own_magnitude: float = 0.3
    shortcut_weight: float = 2.0
    shortcut_start: int = 2
    shortcut_interval: int = 3
    probed_images: int = 100
    mirror: Literal["official", "exact"] = "official"
    share_blocks: bool = True

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset."""
        backbone = backbone or "deit_small"
        if name == "toy":
            return cls(
                backbone=backbone,
                backbone_options={"channels": 96, "depth": 4, "heads": 3, "patch": 8, "grid": 12},
                pretrained=False,
                epochs=20,
                batch_size=16,
                crop_size=96,
                learning_rate=1e-3,
                first_learning_rate=1.6e-5,
                operations=0,
                merge_block=2,
                plain_share=0.2,
                shortcut_start=0,
                shortcut_interval=8,
                probed_images=8,
            )
        if name == "photos":
            return cls(backbone=backbone, epochs=8, batch_size=16, learning_rate=3e-5, warm_up=1, operations=1)
        if name == "coco14":
            return cls(backbone=backbone, phase_weight=0.4, phase_start=3, shortcut_weight=0.4, shortcut_start=3)
        return cls(backbone=backbone)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; a network of MCTformer's brings its published settings along."""
        network = changes.get("network", self.network)
        if network not in ("pcss", self.network):
            brought: dict[str, Any] = {"phase_weight": 0.0, "shortcut_weight": 0.0}
            if not self.backbone_options:  # the small network of the toy world keeps its own
                brought |= {"crop_scale": (0.08, 1.0), "random_erasing": 0.25, **(_PLUS if network == "plus" else {})}
            changes = {**brought, **changes}
        return super().replace(**changes)

    def check(self) -> None:
        """Raise InputError if settings contradict each other."""
        patch, depth = self.backbone_options.get("patch", 16), self.backbone_options.get("depth", 12)
        if self.crop_size % patch:
            raise InputError(f"crop_size {self.crop_size} is not a multiple of a patch, {patch}; give one.")
        if not 0 <= self.merge_block < depth - 1:
            raise InputError(
                f"merge_block {self.merge_block} must leave a block of {depth} behind it; make it smaller."
            )
        if len(self.crop_scale) != 2 or self.crop_scale[0] > self.crop_scale[1]:
            raise InputError(f"crop_scale {self.crop_scale} must be two numbers, the smaller one first.")
        if self.network != "pcss" and (self.phase_weight or self.shortcut_weight):
            raise InputError(
                f"network {self.network} is MCTformer's and knows neither phases nor shortcuts; set phase_weight and "
                "shortcut_weight to 0, or choose network pcss."
            )

    @property
    def plain_epochs(self) -> int:
        """Number of epochs without phases and shortcuts."""
        return int(self.plain_share * self.epochs)

    def augmentation(self) -> Augment:
        """Return what is done to a training image."""
        least, most = self.crop_scale
        return CropAugmentation(self.crop_size, least, most, self.operations, self.random_erasing)


# ------------------------------------------------------------------------------------------------------------- losses


def map_difference(one: Tensor, other: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean absolute difference of maps ``(B, C, h, w)``, each stretched to [0, 1).

    Args:
        one: Maps, at least 0.
        other: Other maps of the same shape.
        weight: ``(B,)`` weights of the images, which do not change the divisor; None for 1.
    """
    difference = (normalise_range(one) - normalise_range(other)).abs()
    return difference.mean() if weight is None else (difference * weight[:, None, None, None]).mean()


def both_losses(outputs: Outputs, labels: Tensor) -> Tensor:
    """Return the classification losses of class tokens and of patches, added."""
    loss = classification_loss(outputs.class_logits.float(), labels)
    if outputs.patch_logits is not None:
        loss = loss + classification_loss(outputs.patch_logits.float(), labels)
    return loss


def class_token_contrast(class_tokens: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Return MCTformer+'s loss that keeps the class tokens of an image apart.

    In every block, cross-entropy of each row of the tokens' cosine similarities with its own position as the answer;
    the mean over blocks and over the classes that the image shows, then over images.

    Args:
        class_tokens: For every block ``(B, C, D)``.
        labels: ``(B, C)``.
    """
    tokens = F.normalize(torch.stack(list(class_tokens)), dim=-1)  # (L, B, C, D)
    own = (tokens @ tokens.transpose(-2, -1)).log_softmax(-1).diagonal(dim1=-2, dim2=-1)  # (L, B, C)
    return ((-own * labels).sum(-1).mean(0) / (labels.sum(-1) + 1e-8)).mean()


# ------------------------------------------------------------------------------------------------------------- census


def choose_probed(labels: Tensor, quota: int) -> Tensor:
    """Return for which classes an image counts in a census: every class's first ``quota`` images.

    Args:
        labels: ``(n, C)``, 1 where an image shows a class, in the order of the census.
        quota: Images per class.

    Returns:
        ``(n, C)`` bool. Images without any True need not be looked at.
    """
    shown = labels > 0
    return shown & (shown.cumsum(0) <= quota)


class Influence(nn.Module):
    """How much the classifier depends on which frequencies, as the last census found it.

    Args:
        num_classes: C.
        size: Side of the training images, in pixels.
        block: Side of a block of frequencies.
    """

    table: Tensor
    highest: Tensor

    def __init__(self, num_classes: int, size: int, block: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("table", torch.zeros(num_classes, size // block, size // block))
        self.register_buffer("highest", torch.zeros(num_classes))
        self._half: Tensor | None = None

    def update(self, table: Tensor) -> None:
        """Take over the losses ``(C, g, g)`` of a census; classes without any keep what they had.

        Raises:
            InputError: A loss is not finite.
        """
        if not torch.isfinite(table).all():
            raise InputError("a loss of the census of frequencies is not finite; lower learning_rate.")
        seen = table.amax(dim=(1, 2)) > 0
        self.table = torch.where(seen[:, None, None], table, self.table)
        _, self.highest = influence_maps(self.table, self.highest, self.size)
        self._half = None

    def maps(self) -> Tensor:
        """Return the influence ``(C, size, size)`` in [0, 1] of every frequency, that of frequency 0 in the centre."""
        return influence_maps(self.table, self.highest, self.size)[0]

    def suppress(self, images: Tensor, labels: Tensor) -> Tensor:
        """Weaken in every image the frequencies that its classes depend on.

        ``x' = mean over the image's classes k of Re IFFT(FFT(x) (1 - K_k))``; an image without classes stays.

        Args:
            images: ``(B, 3, size, size)`` float32.
            labels: ``(B, C)``.
        """
        if self._half is None:
            self._half = half_plane(self.maps())
        share = labels / labels.sum(1, keepdim=True).clamp(min=1)
        return apply_filter(images, 1 - torch.einsum("bc,chw->bhw", share, self._half)[:, None])

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._half = None


@torch.inference_mode()
def census(
    logits: Callable[[Tensor], tuple[Tensor, Tensor]],
    images: Iterable[tuple[Tensor, Tensor]],
    size: int,
    block: int,
    mirror: Literal["official", "exact"] = "official",
    at_once: int = _AT_ONCE,
) -> Tensor:
    """Return how badly every class is recognised without each block of frequencies.

    ``T_k(r, c) = sum over images with class k of [softplus(-z_k) + softplus(-z'_k)]`` for the two logits of an image
    from which block (r, c) was taken.

    Args:
        logits: Maps ``(n, 3, size, size)`` images to the class tokens' and the patches' logits ``(n, C)``.
        images: Batches of images ``(B, 3, size, size)`` and of where they count, ``(B, C)`` bool.
        size: Side of the images.
        block: Side of a block.
        mirror: See :func:`wsss_lib.ops.frequency.probe_filters`.
        at_once: Number of filtered images that go through the network together.

    Returns:
        ``(C, g, g)`` float32 with g blocks a side, in the layout of a centred spectrum.

    Raises:
        InputError: There are no images.
    """
    filters, cells = probe_filters(size, block, mirror)
    table = None
    for batch, used in images:
        spectra = torch.fft.rfft2(batch)
        if table is None:
            table = torch.zeros(used.shape[1], len(filters), device=batch.device)
            filters = filters.to(batch.device)
        together = max(1, at_once // len(batch))
        for start in range(0, len(filters), together):
            some = filters[start : start + together]
            filtered = torch.fft.irfft2(spectra * some[:, None, None], s=(size, size)).flatten(0, 1)
            loss = sum(F.softplus(-z.float()) for z in logits(filtered))  # (P * B, C)
            assert isinstance(loss, Tensor)
            table[:, start : start + together] += (loss.unflatten(0, (-1, len(batch))) * used).sum(1).T
    if table is None:
        raise InputError("the census of frequencies has no image with a class; give training images with labels.")
    blocks = size // block
    result = table.new_zeros(len(table), blocks, blocks)
    for probe, filled in enumerate(cells):
        for row, column in filled:
            result[:, row, column] = table[:, probe]
    return result


# ----------------------------------------------------------------------------------------------------------- the step


class Passes(nn.Module):
    """What a step computes of the network, in one module, so that several devices can share it.

    Args:
        network: The network.
        config: Configuration that says where and how magnitudes are mixed.
    """

    def __init__(self, network: MCTformer, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def forward(
        self, images: Tensor, suppressed: Tensor | None, order: Tensor | None, maps: bool
    ) -> tuple[Outputs, Outputs | None, Outputs | None]:
        """Return the outputs for ``(B, 3, H, W)`` images, for suppressed ones, and for mixed magnitudes.

        Args:
            images: Normalised images.
            suppressed: The same without their most influential frequencies; None leaves the second pass out.
            order: ``(B,)`` int64: whose magnitudes every image gets; None leaves the third pass out.
            maps: Whether the first and the third have refined maps, of which only the third has gradients.
        """
        network, config = self.network, self.config
        of_suppressed = None if suppressed is None else network(suppressed)
        if order is None:
            return network(images), of_suppressed, None
        depth, behind = network.backbone.depth, config.merge_block + 1
        learned: Literal["differentiable"] | None = "differentiable" if maps else None
        fixed: Literal["constant"] | None = "constant" if maps else None
        middle = network.advance(network.start(images), behind, learned if config.share_blocks else fixed)
        plain = network.finish(network.advance(middle.constant(), depth, fixed))
        again = middle if config.share_blocks else network.advance(network.start(images), behind, learned)
        own = magnitude(network.backbone.patches(middle.tokens, middle.grid))
        mixture = config.own_magnitude * own + (1 - config.own_magnitude) * own[order].detach()
        mixed = network.with_patches(again, lambda tokens: with_magnitude(tokens, mixture))
        return plain, of_suppressed, network.finish(network.advance(mixed, depth, learned))


class PCSS(CamMethod):
    """PCSS or one of the MCTformers.

    Args:
        config: Its settings.
        num_classes: C.

    Attributes:
        epoch: The epoch, from 0, the plain ones not counted.
        probed: Returns, for the number of an epoch, the images of its census in batches ``(B, 3, size, size)`` with
            ``(B, C)`` bool, for which classes they count; each process its share. Needed by shortcut suppression.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        options = {"positions": "separate"} if config.network == "plus" else {}
        backbone = create_backbone(config.backbone, classes=num_classes, **config.backbone_options, **options)
        assert isinstance(backbone, DeiT)
        self.network = MCTformer(backbone, config.network, config.layers)
        self.influence = Influence(num_classes, config.crop_size, backbone.patch)
        self.networks = {"network": self.network, "influence": self.influence}
        self.probed: Callable[[int], Iterable[tuple[Tensor, Tensor]]] | None = None
        self.epoch = -config.plain_epochs

    @property
    def backbone(self) -> DeiT:
        """The transformer."""
        return self.network.backbone

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Make AdamW, and its cosine schedule with a warm-up."""
        config = self.config
        named = list(self.network.named_parameters())
        groups = [
            {"params": [p for n, p in named if not decays(p, n)], "weight_decay": 0.0},
            {"params": [p for n, p in named if decays(p, n)], "weight_decay": config.weight_decay},
        ]
        optimizer = AdamW(groups, lr=config.learning_rate)
        self.schedules["network"] = warmed_cosine_schedule(
            optimizer,
            total_steps,
            config.epochs,
            config.warm_up,
            config.first_learning_rate / config.learning_rate,
            config.last_learning_rate / config.learning_rate,
            behind=config.network != "pcss",
        )
        self.engine = engine
        self.forward, self.optimizers["network"] = engine.setup(Passes(self.network, config), optimizer)
        self.influence.to(self.backbone.cls_token.device)

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        """Hold a census, if one is due."""
        config = self.config
        self.epoch = epoch - config.plain_epochs
        since = self.epoch - 1 - config.shortcut_start
        if config.shortcut_weight and since >= 0 and since % config.shortcut_interval == 0:
            self.hold_census(epoch)

    def hold_census(self, epoch: int) -> None:
        """Find out on which frequencies the classifier depends now.

        Raises:
            InputError: :attr:`probed` is not set.
        """
        if self.probed is None:
            raise InputError("shortcut suppression has no images for its census; set the attribute probed first.")
        config = self.config
        self.network.eval()

        def logits(images: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.network(images)
            assert outputs.patch_logits is not None
            return outputs.class_logits, outputs.patch_logits

        with self.engine.autocast():
            table = census(logits, self.probed(epoch), config.crop_size, self.backbone.patch, config.mirror)
        self.influence.update(self.engine.all_gather(table).reshape(-1, *table.shape).sum(0))
        self.network.train()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; whose magnitudes an image gets is drawn."""
        order = torch.randperm(len(batch.images)).to(batch.images.device)
        return self.update(batch.images, batch.labels, order)

    def update(self, images: Tensor, labels: Tensor, order: Tensor) -> dict[str, Tensor]:
        """Do one update.

        ``L = BCE(x) + BCE(x') + w_s |n(A) - n(A')| + BCE(x*) + w_p |n(R) - n(R*)|`` with the image x, x' without its
        most influential frequencies and x* with mixed magnitudes; A the maps of the patches, R the refined maps.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            labels: ``(B, C)``.
            order: ``(B,)`` int64, whose magnitudes every image gets.

        Returns:
            ``loss`` and its parts, with their weights: ``classification``; ``suppressed`` and ``suppressed_maps`` after
            the first census; ``mixed`` and ``mixed_maps``; ``contrast`` for MCTformer+.
        """
        losses = self.losses(images, labels, order)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizers["network"].zero_grad()
        self.engine.backward(loss)
        self.optimizers["network"].step()
        self.schedules["network"].step()
        return {"loss": loss.detach(), **{name: value.detach() for name, value in losses.items()}}

    def losses(self, images: Tensor, labels: Tensor, order: Tensor) -> dict[str, Tensor]:
        """Return the parts of the loss, see :meth:`update`."""
        config = self.config
        suppresses = config.shortcut_weight > 0 and self.epoch > config.shortcut_start
        mixes = config.phase_weight > 0 and self.epoch >= 0
        compares = mixes and self.epoch >= config.phase_start
        suppressed = self.influence.suppress(images, labels) if suppresses else None
        plain, of_suppressed, mixed = self.forward(images, suppressed, order if mixes else None, compares)
        losses = {"classification": both_losses(plain, labels)}
        if config.network == "plus":
            losses["contrast"] = class_token_contrast(plain.class_tokens, labels)
        if of_suppressed is not None:
            known = (labels.sum(1) > 0).to(images)
            losses["suppressed"] = both_losses(of_suppressed, labels)
            difference = map_difference(plain.cams.float(), of_suppressed.cams.float(), known)
            losses["suppressed_maps"] = config.shortcut_weight * difference
        if mixed is not None:
            losses["mixed"] = both_losses(mixed, labels)
            if compares:
                difference = map_difference(plain.refined.detach().float(), mixed.refined.float())
                losses["mixed_maps"] = config.phase_weight * difference
        return losses

    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, C)``: of class tokens and patches, averaged."""
        return self.network(images).logits

    def cam(self, images: Tensor) -> Tensor:
        """Return the refined maps ``(B, C, h, w)``, at least 0."""
        refined = self.network(images, "constant").refined
        assert refined is not None
        return refined

    def normalise_maps(self, maps: Tensor) -> Tensor:
        """Stretch summed maps ``(n, H, W)`` to [0, 1)."""
        if self.config.network == "pcss":
            return normalise_range(maps)
        least, most = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
        return (maps - least) / (most - least + 1e-8)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network that the authors' code trained, such as ``eccv24_pcss_wsss_69.5_pascal.pth``."""
        unused = not hasattr(self.backbone, "pos_embed")  # MCTformer+'s files carry shared positions nevertheless
        kept = {key: value for key, value in state.items() if not (unused and key == "pos_embed")}
        return load_into(self.network, kept, source=source, rename=self.network.official_key)


METHOD = PCSS
