"""PCSS: classify by phases instead of magnitudes, and without single frequencies; also MCTformer, its basis.

Kwon et al., "Phase Concentration and Shortcut Suppression for Weakly Supervised Semantic Segmentation", ECCV 2024. A
transformer with class tokens (`wsss_lib.models.mctformer`) must find the same maps in

- x*, an image whose features have magnitudes mixed with those of another image (phase concentration, :class:`Passes`);
- x', an image without the frequencies that the classifier depends on most (shortcut suppression, :class:`Influence`).
  A census of frequencies, repeated every few epochs, finds those (:func:`census`).

The loss is ``L = BCE(x) + BCE(x') + w_s |n(A) - n(A')| + BCE(x*) + w_p |n(R) - n(R*)|`` (:meth:`PCSS.losses`), with the
maps A of the patches, the refined maps R and the normalisation n.

Xu et al., MCTformer-V1 and V2 (CVPR 2022) and MCTformer+ (2023) are the same code with ``network`` ``v1``, ``v2``,
``plus``, and without the two parts.

Differences from the authors' release (kwonhoyong3/PCSS-WSSS), which does not run without changes:

- A census takes place before the epoch that first uses it, so not after the last epoch. Only images still below the
  quota of one of their classes are loaded. All probes are distinct; in the release 6 of 112 are duplicates.
- The pass with mixed magnitudes starts from the tokens of the first pass; the release computes blocks 0 to 7 again. The
  only difference is stochastic depth, which the two passes then share; ``share_blocks=False`` draws it again.
- A class that does not occur in a census keeps the influence of an earlier census, or has none.
- timm is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from wsss_lib.data.randaugment import CropAugmentation
from wsss_lib.data.toy import ToyOptions
from wsss_lib.data.transforms import Augment
from wsss_lib.errors import InputError
from wsss_lib.methods.cam import classification_loss
from wsss_lib.methods.fields import Factors, Limits, Share
from wsss_lib.methods.method import Batch, CamConfig, CamMethod, Engine, Presets
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
"""Number of filtered images that go through the network together in a census."""


# ----------------------------------------------------------------------------------------------- shortcut suppression


def choose_census_images(labels: Tensor, quota: int) -> Tensor:
    """Return for which classes each image counts in a census: the first ``quota`` images of every class count.

    Args:
        labels: ``(n, C)``, 1 where an image shows a class, in the order of the census.
        quota: Number of images per class.

    Returns:
        ``(n, C)`` bool. Images without any True do not take part.
    """
    shown = labels > 0
    return shown & (shown.cumsum(0) <= quota)


class Influence(nn.Module):
    """How much the classifier depends on each frequency, by the last census.

    Args:
        num_classes: Number of classes C.
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
        """Store the losses ``(C, g, g)`` of a census; a class without any keeps those of an earlier census.

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
        """Return K, the influence ``(C, size, size)`` in [0, 1] of every frequency, with frequency 0 in the centre."""
        return influence_maps(self.table, self.highest, self.size)[0]

    def suppress(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return x', images in which the frequencies that their classes depend on are weakened.

        ``x' = mean over the image's classes k of Re IFFT(FFT(x) (1 - K_k))``; an image without classes is unchanged.

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
    """Return the loss of every class without each block of frequencies.

    ``T_k(r, c) = sum over images with class k of [softplus(-z_k) + softplus(-z'_k)]`` with the two logits z and z' of
    an image from which block (r, c) was removed.

    Args:
        logits: Function from ``(n, 3, size, size)`` images to the logits ``(n, C)`` of class tokens and of patches.
        images: Batches of images ``(B, 3, size, size)`` with ``(B, C)`` bool, the classes for which each image counts.
        size: Side of the images.
        block: Side of a block.
        mirror: Rule for the mirrored block, see :func:`wsss_lib.ops.frequency.probe_filters`.
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


# ------------------------------------------------------------------------------------------------ phase concentration


class Passes(nn.Module):
    """All passes of a step through the network, in one module, so that several devices can share the step.

    Args:
        network: The network.
        config: Settings that say where and how magnitudes are mixed.
    """

    def __init__(self, network: MCTformer, config: Config) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def forward(
        self, images: Tensor, suppressed: Tensor | None, order: Tensor | None, maps: bool
    ) -> tuple[Outputs, Outputs | None, Outputs | None]:
        """Return the outputs for images x, for suppressed images x', and for mixed magnitudes x*.

        Args:
            images: ``(B, 3, H, W)`` normalised images, x.
            suppressed: ``(B, 3, H, W)`` images without their most influential frequencies, x'; None skips this pass.
            order: ``(B,)`` int64: for each image, the index of the image whose magnitudes it receives; None skips this
                pass.
            maps: Whether the passes of x and x* return refined maps; only those of x* have gradients.
        """
        network, config = self.network, self.config
        of_suppressed = None if suppressed is None else network(suppressed)
        if order is None:
            return network(images), of_suppressed, None
        end, merge = network.backbone.depth, config.merge_block + 1
        differentiable: Literal["differentiable"] | None = "differentiable" if maps else None
        constant: Literal["constant"] | None = "constant" if maps else None
        at_merge = network.advance(network.start(images), merge, differentiable if config.share_blocks else constant)
        plain = network.finish(network.advance(at_merge.constant(), end, constant))
        to_mix = at_merge if config.share_blocks else network.advance(network.start(images), merge, differentiable)
        magnitudes = magnitude(network.backbone.patches(at_merge.tokens, at_merge.grid))
        mixture = config.own_magnitude * magnitudes + (1 - config.own_magnitude) * magnitudes[order].detach()
        mixed = network.with_patches(to_mix, lambda tokens: with_magnitude(tokens, mixture))
        return plain, of_suppressed, network.finish(network.advance(mixed, end, differentiable))


# ------------------------------------------------------------------------------------------------------------- losses


def map_difference(one: Tensor, other: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return ``|n(A) - n(A')|``, the mean absolute difference of maps ``(B, C, h, w)``, each stretched to [0, 1).

    Args:
        one: Maps A, at least 0.
        other: Maps A' of the same shape.
        weight: ``(B,)`` weights of the images; the sum is divided by the number of values all the same. None for 1.
    """
    difference = (normalise_range(one) - normalise_range(other)).abs()
    return difference.mean() if weight is None else (difference * weight[:, None, None, None]).mean()


def both_losses(outputs: Outputs, labels: Tensor) -> Tensor:
    """Return the sum of the classification losses of class tokens and of patches."""
    loss = classification_loss(outputs.class_logits.float(), labels)
    if outputs.patch_logits is not None:
        loss = loss + classification_loss(outputs.patch_logits.float(), labels)
    return loss


def class_token_contrast(class_tokens: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Return MCTformer+'s loss that makes the class tokens of an image different from each other.

    In every block, each row of the cosine similarities of the tokens has a cross-entropy with its own position as the
    target. The mean is over blocks and over the classes that the image shows, then over images.

    Args:
        class_tokens: For every block ``(B, C, D)``.
        labels: ``(B, C)``.
    """
    tokens = F.normalize(torch.stack(list(class_tokens)), dim=-1)  # (L, B, C, D)
    log_share = (tokens @ tokens.transpose(-2, -1)).log_softmax(-1).diagonal(dim1=-2, dim2=-1)  # (L, B, C)
    return ((-log_share * labels).sum(-1).mean(0) / (labels.sum(-1) + 1e-8)).mean()


# ------------------------------------------------------------------------------------------------------------- method


class PCSS(CamMethod):
    """PCSS or one of the MCTformers.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, C.

    Attributes:
        epoch: Number of the epoch, from 0 for the first one after the plain epochs.
    """

    config: Config
    needs = "census"

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__(config)
        options = {"positions": "separate"} if config.network == "plus" else {}
        backbone = create_backbone(config.backbone, classes=num_classes, **config.backbone_options, **options)
        assert isinstance(backbone, DeiT)
        self.network = MCTformer(backbone, config.network, config.layers)
        self.influence = Influence(num_classes, config.crop_size, backbone.patch)
        self.networks = {"network": self.network, "influence": self.influence}
        self.epoch = -config.plain_epochs

    @property
    def backbone(self) -> DeiT:
        """The transformer."""
        return self.network.backbone

    @property
    def census_quota(self) -> int:
        """Number of images of every class that take part in a census."""
        return self.config.probed_images

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Prepare training, see :meth:`Method.setup`, and move the influence to the device of the network."""
        super().setup(engine, total_steps)
        self.influence.to(self.backbone.cls_token.device)

    def trained(self) -> dict[str, nn.Module]:
        """Return the network with all its passes; the influence is not trained."""
        return {"network": Passes(self.network, self.config)}

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Return AdamW, without decay for biases, norms and positions."""
        named = list(self.network.named_parameters())
        groups = [
            {"params": [p for n, p in named if not decays(p, n)], "weight_decay": 0.0},
            {"params": [p for n, p in named if decays(p, n)], "weight_decay": self.config.weight_decay},
        ]
        return AdamW(groups, lr=self.config.learning_rate)

    def make_schedule(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """Return the cosine schedule with a warm-up."""
        config = self.config
        return warmed_cosine_schedule(
            optimizer,
            total_steps,
            config.epochs,
            config.warm_up,
            config.first_learning_rate / config.learning_rate,
            config.last_learning_rate / config.learning_rate,
            lag_one_epoch=config.network != "pcss",
        )

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: ARG002
        """Set the epoch, and take a census if one is due."""
        config = self.config
        self.epoch = epoch - config.plain_epochs
        since_first = self.epoch - 1 - config.shortcut_start
        if config.shortcut_weight and since_first >= 0 and since_first % config.shortcut_interval == 0:
            self.take_census(epoch)

    def take_census(self, epoch: int) -> None:
        """Measure how much the classifier now depends on each block of frequencies.

        Raises:
            InputError: :attr:`census_images` is not set.
        """
        if self.census_images is None:
            raise InputError(
                "shortcut suppression has no images for its census; set the attribute census_images first."
            )
        config = self.config
        self.network.eval()

        def logits(images: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.network(images)
            assert outputs.patch_logits is not None
            return outputs.class_logits, outputs.patch_logits

        with self.engine.autocast():
            table = census(logits, self.census_images(epoch), config.crop_size, self.backbone.patch, config.mirror)
        self.influence.update(self.engine.all_gather(table).reshape(-1, *table.shape).sum(0))
        self.network.train()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; the image whose magnitudes an image receives is drawn."""
        order = torch.randperm(len(batch.images)).to(batch.images.device)
        return self.update(batch.images, batch.labels, order)

    def update(self, images: Tensor, labels: Tensor, order: Tensor) -> dict[str, Tensor]:
        """Do one update, and return ``loss`` and its parts, see :meth:`losses`."""
        losses = self.losses(images, labels, order)
        return self.learn({"loss": torch.stack(list(losses.values())).sum(), **losses})

    def losses(self, images: Tensor, labels: Tensor, order: Tensor) -> dict[str, Tensor]:
        """Return the parts of the loss, with their weights.

        ``L = BCE(x) + BCE(x') + w_s |n(A) - n(A')| + BCE(x*) + w_p |n(R) - n(R*)|``, see the top of the file.

        Args:
            images: ``(B, 3, H, W)`` normalised images, x.
            labels: ``(B, C)``.
            order: ``(B,)`` int64: for each image, the index of the image whose magnitudes it receives.

        Returns:
            ``classification``; ``suppressed`` and ``suppressed_maps`` after the first census; ``mixed`` and
            ``mixed_maps``; ``contrast`` for MCTformer+.
        """
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
        """Return the class logits ``(B, C)``, the mean of those of class tokens and of patches."""
        return self.network(images).logits

    def cam(self, images: Tensor) -> Tensor:
        """Return the refined maps ``(B, C, h, w)``, at least 0."""
        refined = self.network(images, "constant", self.config.fused_power, self.config.spread_radius).refined
        assert refined is not None
        return refined

    def normalise_maps(self, maps: Tensor) -> Tensor:
        """Return summed maps ``(n, H, W)``, stretched to [0, 1)."""
        if self.config.network == "pcss":
            return normalise_range(maps)
        least, most = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
        return (maps - least) / (most - least + 1e-8)

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network trained with the authors' code, such as ``eccv24_pcss_wsss_69.5_pascal.pth``."""
        unused = not hasattr(self.backbone, "pos_embed")  # MCTformer+ does not use the positions in its files
        kept = {key: value for key, value in state.items() if not (unused and key == "pos_embed")}
        return load_into(self.network, kept, source=source, rename=self.network.official_key)


@dataclass(frozen=True)
class Config(CamConfig):
    """Settings of PCSS and MCTformer; the defaults are those of the authors' code for VOC 2012.

    Attributes:
        network: ``pcss``, or the network and the losses of MCTformer: ``v1``, ``v2`` or ``plus``.
        layers: See :class:`wsss_lib.models.mctformer.MCTformer`.
        crop_scale: Smallest and largest share of an image's area that is cropped for training.
        operations: Number of distortions that RandAugment draws for a training image.
        random_erasing: Probability that noise covers a part of a training image.
        first_learning_rate: Learning rate at the beginning of the warm-up.
        last_learning_rate: Learning rate at the end of the cosine schedule.
        warm_up: Epochs in which the learning rate grows linearly, before the cosine schedule.
        plain_share: Share of the epochs at the beginning without phases and shortcuts; they replace ImageNet weights.
        phase_weight: Weight w_p of the difference between the maps with original and with mixed magnitudes; 0 leaves
            phase concentration out.
        phase_start: First epoch of that difference, from 0 for the first one after the plain epochs.
        merge_block: Number of the block, from 0, after which magnitudes are mixed.
        own_magnitude: Share of an image's own magnitudes in the mixture.
        shortcut_weight: Weight w_s of the difference between the maps of an image with and without its most influential
            frequencies; 0 leaves shortcut suppression and the census out.
        shortcut_start: Epoch after which the first census takes place, from 0 for the first one after the plain epochs.
        shortcut_interval: Epochs from one census to the next.
        probed_images: Number of images of every class that take part in a census.
        mirror: Rule by which the census removes a block of frequencies, see
            :func:`wsss_lib.ops.frequency.probe_filters`.
        fused_power: Power of the product of attention and patch map before the product is spread among patches, at
            inference; 1 as in the paper, 0.5 for the geometric mean, which MCTformer+ uses.
        spread_radius: Largest distance over which the product is spread at inference, in patches; 0 for no limit, as in
            the paper. In a small network, the attention among patches does not become local by itself.
        share_blocks: Whether the pass with mixed magnitudes shares the blocks before the mixture with the first pass.
    """

    backbones: ClassVar[tuple[str, ...]] = ("deit_small",)
    inference_only: ClassVar[frozenset[str]] = CamConfig.inference_only | {"fused_power", "spread_radius"}
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
    crop_scale: Factors = (0.6, 1.2)
    operations: int = 2
    random_erasing: Share = 0.0
    first_learning_rate: float = 1e-6
    last_learning_rate: float = 1e-5
    warm_up: int = 5
    plain_share: Share = 0.0
    phase_weight: float = 2.0
    phase_start: int = 0
    merge_block: int = 7
    own_magnitude: Share = 0.3
    shortcut_weight: float = 2.0
    shortcut_start: int = 2
    shortcut_interval: Annotated[int, Limits(1)] = 3
    probed_images: int = 100
    mirror: Literal["official", "exact"] = "official"
    fused_power: Annotated[float, Limits(0, 1, above=True)] = 1.0
    spread_radius: int = 0
    share_blocks: bool = True

    presets: ClassVar[Presets] = {
        "toy": {
            "backbone_options": {"channels": 96, "depth": 4, "heads": 3, "patch": 8, "grid": 12},
            "pretrained": False,
            "epochs": 20,
            "batch_size": 16,
            "crop_size": 96,
            "learning_rate": 1e-3,
            "first_learning_rate": 1.6e-5,
            "operations": 0,
            "merge_block": 2,
            "plain_share": 0.2,
            "shortcut_start": 0,
            "shortcut_interval": 8,
            "probed_images": 8,
            "fused_power": 0.5,
            "spread_radius": 4,
        },
        "photos": {"epochs": 8, "batch_size": 16, "learning_rate": 3e-5, "warm_up": 1, "operations": 1},
        "coco14": {"phase_weight": 0.4, "phase_start": 3, "shortcut_weight": 0.4, "shortcut_start": 3},
    }
    _mctformer: ClassVar[Mapping[str, Any]] = {"crop_scale": (0.08, 1.0), "random_erasing": 0.25}
    _plus: ClassVar[Mapping[str, Any]] = {
        **_mctformer,
        "crop_size": 448,
        "batch_size": 32,
        "epochs": 45,
        "learning_rate": 3.125e-5,
        "scales": (1.0, 0.75, 1.25),
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:  # noqa: ARG003
        """Return the settings that depend on the preset and the backbone: none."""
        return {}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; a network of MCTformer's brings its published settings along."""
        network = changes.get("network", self.network)
        if network not in ("pcss", self.network):
            small = bool(self.backbone_options)  # the small network of the toy world keeps its own settings
            published = {} if small else self._plus if network == "plus" else self._mctformer
            changes = {"phase_weight": 0.0, "shortcut_weight": 0.0, **published, **changes}
        return super().replace(**changes)

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
        super().check()
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
                f"network {self.network} is MCTformer's and has neither phases nor shortcuts; set phase_weight and "
                "shortcut_weight to 0, or choose network pcss."
            )

    @property
    def plain_epochs(self) -> int:
        """Number of epochs without phases and shortcuts."""
        return int(self.plain_share * self.epochs)

    def augmentation(self) -> Augment:
        """Return the augmentation of a training image."""
        least, most = self.crop_scale
        return CropAugmentation(self.crop_size, least, most, self.operations, self.random_erasing)


METHOD = PCSS
