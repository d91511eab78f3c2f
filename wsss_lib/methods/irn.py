"""IRN: learn where classes meet from pairs of pixels alone, then spread scores until a boundary stops them.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019. In the
order of the paper:

- Confident labels from the maps of any classifier (:func:`label`), which give labels of pairs of pixels.
- Boundaries B: the affinity of two cells is one minus the highest boundary probability on the path between them,
  ``a_ij = 1 - max_k B(x_k)`` (`wsss_lib.ops.paths`). Their loss is AffinityNet's (:func:`boundary_loss`): between two
  pixels of different classes there must be a boundary.
- Displacements d: ``d_i - d_j`` should be the offset from i to j within an object (:func:`displacement_loss`).
- The walk, ``T^t vec(M ⊙ (1 - B))`` with ``T = S⁻¹ A`` and ``A = a^beta`` (:meth:`IRN.walk`), and masks
  (:func:`final_scores`).

Differences from the authors' release (jiwoon-ahn/irn):

- Paths are not gathered: equal values and gradients at a fraction of time and memory, see `wsss_lib.ops.paths`.
- The walk is AffinityNet's sparse one (`wsss_lib.ops.random_walk`); the release squares a dense matrix 8 times.
- The release passes the weight decay in the place of the momentum, so its momentum is 1e-4. That is the default here,
  too.
- The release fails for images larger than its canvas of 512 pixels; here their canvas is the next multiple of 16.
- Where no map has any score, the result here is background. The release divides zero by zero, which gives the first
  class.
- The maps that walk in the release are slightly shifted against the image (:mod:`wsss_lib.methods.irn_cam`). Here maps
  of full size, which every run of this library stores, are reduced to cells, which aligns them.
- Only instances (:meth:`IRN.instances_on`) need displacements; the branch can be left out.
- With pre-trained weights the backbone is frozen, as in the release; from random weights the backbone is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from wsss_lib.errors import InputError
from wsss_lib.methods import method
from wsss_lib.methods.affinitynet import enlarge
from wsss_lib.methods.fields import Limits, Share
from wsss_lib.methods.method import Batch, Method, Presets
from wsss_lib.methods.optimisers import create_optimizer
from wsss_lib.models import create_backbone
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.irn_net import IRNNet, check_radius
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops import dense_crf, paths
from wsss_lib.ops.affinity import UNKNOWN, Border, Window, pair_count, pair_offsets, pair_windows
from wsss_lib.ops.cam import argmax, upsample
from wsss_lib.ops.instances import Instances, find_centres, group_cells, separate
from wsss_lib.ops.random_walk import random_walk
from wsss_lib.ops.values import all_within

_EPS = 1e-5


# ------------------------------------------------------------------------------------------------------------ labels


def threshold_labels(cams: Tensor, threshold: float) -> Tensor:
    """Return for each pixel the row of the highest map plus one, or 0 (background) where no map exceeds a threshold.

    Args:
        cams: ``(n, H, W)`` float in [0, 1]; n may be 0.
        threshold: Score of the background.

    Returns:
        ``(H, W)`` int64.

    Raises:
        InputError: A value is not a number in [0, 1].
    """
    if not all_within(cams):
        raise InputError("maps hold negative or non-finite values or values above 1; give maps in [0, 1].")
    return argmax(torch.cat([cams.new_full((1, *cams.shape[1:]), threshold), cams]), 0)


def confident_labels(objects: Tensor, background: Tensor) -> Tensor:
    """Return the label of each pixel: confident object, confident background, or unknown.

    Args:
        objects: ``(H, W)`` class ids with the high threshold, 0 background. An object here is a confident object.
        background: ``(H, W)`` class ids with the low threshold. Background in both arguments is confident background.

    Returns:
        ``(H, W)`` uint8: 0 background, another value a class, 255 unknown.
    """
    unknown = torch.where(background == 0, 0, UNKNOWN)
    return torch.where(objects > 0, objects, unknown).to(torch.uint8)


def label(images: Sequence[Tensor], cams: Sequence[Tensor], classes: Sequence[Tensor], config: Config) -> list[Tensor]:
    """Return confident labels: two thresholds, each followed by a CRF on labels (``cam_to_ir_label.py``).

    Args:
        images: For each image ``(3, H, W)`` uint8 RGB; sizes may differ.
        cams: For each image ``(n, H, W)`` float in [0, 1], on the same device.
        classes: For each image ``(n,)`` int64, the classes of its maps, from 0.
        config: Settings with the thresholds and the CRF.

    Returns:
        For each image ``(H, W)`` uint8: 0 background, k + 1 class k, 255 unknown. All may be 255.

    Raises:
        InputError: A value of a map is not a number in [0, 1], or an image and its maps differ in size.
    """
    unaries = []
    for maps in cams:
        fields = torch.stack(
            [threshold_labels(maps, t) for t in (config.object_threshold, config.background_threshold)]
        )
        unaries.append(dense_crf.unary_from_labels(fields, 1 + len(maps), config.label_confidence))
    results = []
    for fields, present in zip(dense_crf.dense_crf(images, unaries, config.label_crf), classes, strict=True):
        ids = F.pad(present.to(fields.device) + 1, (1, 0))  # of the rows: 0, then the classes
        results.append(confident_labels(*ids[argmax(fields, 1)]))
    return results


# ------------------------------------------------------------------------------------------------------------ losses


_KINDS = ("background", "object", "different")
"""The kinds of pairs: both background, both of one class, of different classes."""


def _kinds(labels: Tensor, start: Window, end: Window) -> tuple[Tensor, Tensor, Tensor]:
    """Return three times ``(B, rows, columns)`` bool: which pairs of one offset are of each kind of `_KINDS`."""
    i, j = labels[:, *start], labels[:, *end]
    background, unknown, same = i == 0, i == UNKNOWN, i == j
    known_same = same & ~unknown
    return known_same & background, known_same & ~background, ~(same | unknown | (j == UNKNOWN))


class _AffinitySums(torch.autograd.Function):
    """The sum of the costs and the number of all pairs of each kind, added up offset by offset.

    As the sums are scalars, their gradients are computed together with them. They are a few maps; nothing as large as
    all pairs is stored.
    """

    @staticmethod
    def forward(ctx: Any, boundaries: Tensor, labels: Tensor, radius: int, border: Border) -> tuple[Tensor, Tensor]:
        batch, height, width = boundaries.shape
        pair_count(height, width, radius, border)
        ranks = 2 * height * width
        codes = torch.where(labels == 0, 0, torch.where(labels == UNKNOWN, 3, 1)) * ranks
        logs, slopes, counts = boundaries.new_zeros(3, batch, 4 * ranks)  # the fourth kind is unknown
        for crossing in paths.crossings(boundaries, radius, border):
            start, end = (..., *crossing.start), (..., *crossing.end)
            unlike = labels[start] != labels[end]
            kind = torch.maximum(torch.maximum(unlike * (2 * ranks), codes[start]), codes[end])
            at = kind.add_(crossing.ranks).flatten(1)
            argument = (1 - crossing.values).sub_(unlike.float()).abs_().add_(_EPS).flatten(1)  # of the logarithm
            logs.scatter_add_(1, at, argument.log())
            counts.scatter_add_(1, at, torch.ones_like(argument))
            slopes.scatter_add_(1, at, argument.reciprocal_())
        log_sums, pairs = (x.unflatten(1, (4, -1))[:, :3].sum((0, 2), dtype=torch.float64) for x in (logs, counts))
        slopes = paths.per_cell(slopes.unflatten(1, (4, -1))[:, :3], height, width)  # by the boundary, but for the sign
        ctx.save_for_backward(slopes * slopes.new_tensor([1.0, 1.0, -1.0]).view(3, 1, 1))
        number = pairs.float()
        ctx.mark_non_differentiable(number)
        return -log_sums.float(), number

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return (gradient.view(-1, 1, 1) * slopes).sum(1), None, None, None


def boundary_loss(boundaries: Tensor, labels: Tensor, radius: int, border: Border = "official") -> dict[str, Tensor]:
    """Return the loss of boundaries, AffinityNet's loss of the affinities along paths.

    ``L = L_bg / 4 + L_fg / 4 + L_neg / 2``, where ``L_bg`` and ``L_fg`` are the means of ``-log a`` over the pairs
    within background and within a class, and ``L_neg`` is the mean of ``-log(1 - a)`` over pairs of different labels:
    between them there must be a boundary. It equals `wsss_lib.methods.affinitynet.affinity_loss` of
    `wsss_lib.ops.paths.path_affinities`, but never stores all pairs.

    Args:
        boundaries: ``(B, h, w)`` float in [0, 1].
        labels: ``(B, h, w)`` uint8: 0 background, another value a class, 255 unknown.
        radius: Upper bound, excluded, of the distance between the cells of a pair.
        border: Rule for pairs near the border, ``official`` or ``full``, see `wsss_lib.ops.affinity`.

    Returns:
        Scalars ``loss``, ``background``, ``object`` and ``different``; 0 for a kind that does not occur.

    Raises:
        InputError: The grid is too small for any pair, the radius is too small, or a boundary lies outside [0, 1].
    """
    paths.check_boundaries(boundaries, radius)
    sums, counts = _AffinitySums.apply(boundaries.float(), labels, radius, border)
    parts = dict(zip(_KINDS, sums / (counts + _EPS), strict=True))
    return {"loss": parts["background"] / 4 + parts["object"] / 4 + parts["different"] / 2, **parts}


class _DisplacementSums(torch.autograd.Function):
    """The sum of the errors and the number of all pairs within background, and the same within objects."""

    @staticmethod
    def forward(ctx: Any, displacements: Tensor, labels: Tensor, radius: int, border: Border) -> tuple[Tensor, Tensor]:
        height, width = displacements.shape[2:]
        costs, counts = displacements.new_zeros(2, dtype=torch.float64), displacements.new_zeros(2)
        slopes = displacements.new_zeros(2, *displacements.shape)
        for offset in pair_offsets(radius):
            start, end, _ = pair_windows(offset, height, width, radius, border)
            difference = displacements[..., *start] - displacements[..., *end]  # (B, 2, rows, columns)
            wanted = displacements.new_tensor(offset).view(2, 1, 1)
            background, object_, _ = _kinds(labels, start, end)
            for i, (kind, error) in enumerate(((background, difference), (object_, difference - wanted))):
                error = error * kind.unsqueeze(1)
                costs[i] += error.abs().sum()
                counts[i] += kind.count_nonzero()
                slope = error.sign_()
                slopes[i][..., *start] += slope
                slopes[i][..., *end] -= slope
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(counts)
        return costs.float(), counts

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return gradient[0] * slopes[0] + gradient[1] * slopes[1], None, None, None


def displacement_loss(
    displacements: Tensor, labels: Tensor, radius: int, border: Border = "official"
) -> dict[str, Tensor]:
    """Return the losses of displacements, which should lead from all pixels of an object to one point.

    For two pixels i and j of one class, ``d_i - d_j`` should be the offset from i to j, so that both lead to the same
    point. Within background, it should be 0. Each loss is the mean of ``|d_i - d_j - wanted|`` over pairs and
    components.

    Args:
        displacements: ``(B, 2, h, w)`` float, (dy, dx) in cells.
        labels: Label maps, as in :func:`boundary_loss`.
        radius: Radius of the pairs, as in :func:`boundary_loss`.
        border: Rule for pairs near the border, as in :func:`boundary_loss`.

    Returns:
        Scalars ``displacement_background`` and ``displacement_object``; 0 for a kind that does not occur.

    Raises:
        InputError: The grid is too small for any pair.
    """
    sums, counts = _DisplacementSums.apply(displacements.float(), labels, radius, border)
    names = "displacement_background", "displacement_object"
    return dict(zip(names, sums / (2 * counts + _EPS), strict=True))


# ------------------------------------------------------------------------------------------------------------- masks


def final_scores(walked: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return walked maps at the size of the image, divided by the highest score of all classes.

    `wsss_lib.ops.cam.cam_label` with the constant score `Config.background` turns them into the mask. Other scores of
    the background can be tried without another walk.

    Args:
        walked: ``(n, h, w)`` float, at least 0; n may be 0.
        stride: Pixels per cell along an axis.
        size: ``(H, W)`` of the image.

    Returns:
        ``(n, H, W)`` in [0, 1]; 0 everywhere if no score is above 0.
    """
    scores = enlarge(walked, stride, size)
    most = scores.amax() if scores.numel() else scores.new_zeros(())
    return scores / torch.where(most > 0, most, 1.0)


# ------------------------------------------------------------------------------------------------------------ method


class IRN(Method):
    """A network that finds boundaries between classes, and the random walk that boundaries stop.

    Args:
        config: Settings of the method.
        num_classes: Number of classes, K; not used, because boundaries do not depend on classes.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:  # noqa: ARG002
        super().__init__(config)
        backbone = create_backbone(config.backbone, **config.backbone_options)
        if config.pretrained:
            backbone.freeze()
            backbone.requires_grad_(False)
        self.network = IRNNet(backbone, config.displacements)
        self.networks = {"network": self.network}

    @property
    def backbone(self) -> Backbone:
        """The network in front of both branches."""
        return self.network.backbone

    # -------------------------------------------------------------------------------------------------------- training

    def make_optimizer(self, name: str) -> Optimizer:  # noqa: ARG002
        """Return the optimiser, with one group of parameters per branch and decay for all of them."""
        config, network = self.config, self.network
        layers = (
            (network.edge_layers, 1.0),
            (network.displacement_layers, config.displacement_factor),
            (network.backbone, 1.0),
        )
        groups = []
        for module, factor in layers:
            trained = [p for p in module.parameters() if p.requires_grad]
            if trained:
                rate = factor * config.learning_rate
                groups.append({"params": trained, "lr": rate, "weight_decay": config.weight_decay})
        return create_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update; the labels of the batch are `confident_labels` at the network's stride.

        ``L = (L_bg / 2 + L_fg / 2 + L_neg) / 2 + (L_d,fg + L_d,bg) / 2``: affinities, then displacements. A batch
        without any confident label has the loss 0.
        """
        config = self.config
        edges, displacements = self.forward(batch.images)
        losses = boundary_loss(edges.float().sigmoid()[:, 0], batch.labels, config.radius, config.border)
        if displacements is not None:
            parts = displacement_loss(displacements, batch.labels, config.radius, config.border)
            losses = {"loss": losses.pop("loss") + sum(parts.values()) / 2, **losses, **parts}
        return self.learn(losses)

    @torch.no_grad()
    def centre_displacements(self, batches: Iterable[Tensor]) -> None:
        """Measure the mean displacement of training images after training, which the network then subtracts.

        The losses leave this mean open.

        Args:
            batches: Normalised images ``(B, 3, H, W)``.
        """
        if not self.network.has_displacements:
            return
        self.train(False)
        self.network.mean_shift.running_mean.zero_()
        means = [self.network.displacements(self.backbone(images)).mean(dim=(0, 2, 3)) for images in batches]
        if means:
            self.network.mean_shift.running_mean.copy_(torch.stack(means).mean(0))

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network trained with the authors' code, such as ``res50_irn.pth``."""
        check_radius(state, self.config.radius, source)
        return load_into(self.network, state, source=source, rename=self.network.official_key)

    # ------------------------------------------------------------------------------------------------------- inference

    def boundaries(self, images: Tensor) -> Tensor:
        """Return the boundary probabilities ``(B, h, w)`` float32 of ``(B, 3, H, W)`` normalised images.

        The logits of an image and of its mirror image are averaged.
        """
        features = self.backbone(self._on_canvas(torch.cat([images, images.flip(-1)])))
        plain, mirrored = self._off_canvas(self.network.edges(features), images).float().chunk(2)
        return (plain / 2 + mirrored.flip(-1) / 2).sigmoid()[:, 0]

    def displacements(self, images: Tensor) -> Tensor:
        """Return ``(B, 2, h, w)`` float32: (dy, dx) in cells, from every cell to the centre of its object.

        Raises:
            InputError: The network was made without the displacement branch.
        """
        if not self.network.has_displacements:
            raise InputError("this network has no displacement branch; set displacements to True and train it anew.")
        features = self.backbone(self._on_canvas(images))
        return self._off_canvas(self.network.displacements(features), images).float()

    def walk(self, images: Tensor, cams: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps of images of one size after the random walk (``make_sem_seg_labels.py``).

        Scores on boundaries are left out, unless ``erase_boundaries`` is False. There is no row for the background.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            cams: For each image the maps of the n classes that it shows, float in [0, 1]: ``(n, H, W)``, or of another
                size, such as the official ``(n, h, w)``. Maps are resized to the cells.

        Returns:
            For each image ``(n, h, w)`` float32 scores at the network's stride, see :func:`final_scores`.
        """
        return self.walk_on(self.boundaries(images), cams)

    def walk_on(self, boundaries: Tensor, cams: Sequence[Tensor]) -> list[Tensor]:
        """Return maps after the random walk with given boundaries ``(B, h, w)``, see :meth:`walk`."""
        config = self.config
        size = (boundaries.shape[1], boundaries.shape[2])
        scores = []
        for maps, boundary in zip(cams, boundaries, strict=True):
            if not all_within(maps):
                raise InputError("maps hold negative or non-finite values or values above 1; give maps in [0, 1].")
            cells = maps.float() if maps.shape[1:] == size else upsample(maps[None].float(), size)[0]
            powers = cells.clamp(min=0) ** config.power
            scores.append(powers * (1 - boundary) if config.erase_boundaries else powers)
        affinities = paths.path_affinities(boundaries, config.walk_radius, "full")
        return random_walk(scores, list(affinities), config.beta, config.walk_steps, config.walk_radius, "full")

    def instances_on(
        self, boundaries: Tensor, displacements: Tensor, cams: Tensor, classes: Tensor, size: tuple[int, int]
    ) -> Instances:
        """Return the instances of one image (``make_ins_seg_labels.py``); each group of cells has a walk of its own.

        Args:
            boundaries: ``(h, w)``, see :meth:`boundaries`.
            displacements: ``(2, h, w)``, see :meth:`displacements`.
            cams: ``(n, h, w)`` float in [0, 1], or of another size.
            classes: ``(n,)`` int64, the classes of the maps, from 0.
            size: ``(H, W)`` of the image.
        """
        groups = group_cells(displacements, find_centres(displacements))
        members = F.one_hot(groups).movedim(-1, 0)  # (G, h, w)
        cells = upsample(cams[None].float(), (groups.shape[0], groups.shape[1]))[0]
        parts = (cells.unsqueeze(1) * members).flatten(0, 1)
        scores = final_scores(self.walk_on(boundaries[None], [parts])[0], self.network.stride, size)
        return separate(scores.unflatten(0, (len(cams), len(members))), classes, self.config.background)

    def _on_canvas(self, images: Tensor) -> Tensor:
        """Pad images on the right and at the bottom with the mean colour, up to the canvas."""
        height, width = (max(self.config.canvas, -(-side // 16) * 16) for side in images.shape[2:])
        return F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))

    def _off_canvas(self, outputs: Tensor, images: Tensor) -> Tensor:
        """Crop outputs to the cells of the images without the padding."""
        height, width = (-(-side // self.network.stride) for side in images.shape[2:])
        return outputs[..., :height, :width]


@dataclass(frozen=True)
class Config(method.Config):
    """Settings of IRN; the defaults are those of the authors' code.

    Attributes:
        displacements: Whether the displacement branch is trained, too; only instances need it.
        object_threshold: Score of the background in the labels of confident objects.
        background_threshold: Score of the background in the labels of confident background.
        label_crf: Settings of the CRF on both labels, see `wsss_lib.ops.dense_crf.PRESETS`.
        label_confidence: Probability, for that CRF, that a label is right.
        min_scale: Smallest factor of the size of a training image.
        max_scale: Largest factor of the size of a training image.
        radius: Upper bound, excluded, of the distance between the cells of a training pair.
        border: Rule for training pairs near the border: ``official`` leaves them out as the authors' code does,
            ``full`` does not.
        canvas: Smallest side of the canvas on which boundaries are found, in pixels; the network's group normalisation
            depends on the whole canvas.
        power: Power of the maps before the walk.
        erase_boundaries: Whether scores that lie on boundaries are left out of the walk, as in the paper.
        walk_radius: Upper bound, excluded, of the distance of one step of the walk, in cells.
        beta: Power of the affinities in the walk.
        walk_steps: Length t of the walk.
        background: Score of the background in the masks.
        walk_crf: Settings of a CRF after the walk.
        alphas: Powers of the background with which the CRF is tried on the maps themselves, for comparison.
        optimizer: ``sgd`` as in the paper, or ``adamw``.
        momentum: Momentum of ``sgd``.
        displacement_factor: Factor by which the displacement branch learns faster than the boundary branch.
    """

    backbones: ClassVar[tuple[str, ...]] = ("resnet50", "mobilenet_v2")
    inference_only: ClassVar[frozenset[str]] = frozenset(
        {"canvas", "power", "erase_boundaries", "walk_radius", "beta", "walk_steps", "background", "walk_crf", "alphas"}
    )

    backbone: str = "resnet50"
    backbone_options: dict[str, Any] = field(default_factory=lambda: {"output_stride": 16, "dilated": False})
    epochs: int = 3
    batch_size: int = 32
    crop_size: int = 512
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    displacements: bool = True
    object_threshold: Share = 0.3
    background_threshold: Share = 0.05
    label_crf: str = "irn"
    label_confidence: float = 0.7
    min_scale: float = 0.5
    max_scale: float = 1.5
    radius: Annotated[int, Limits(2, 64)] = 10
    border: Border = "official"
    canvas: int = 512
    power: Annotated[float, Limits(0, above=True)] = 1.0
    erase_boundaries: bool = True
    walk_radius: int = 5
    beta: float = 10.0
    walk_steps: Annotated[int, Limits(0, 100_000)] = 256
    background: Share = 0.25
    walk_crf: str = "deeplab"
    alphas: Annotated[tuple[float, ...], Limits(0, 1000, above=True)] = (2.0, 4.0, 8.0, 16.0, 32.0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 1e-4
    displacement_factor: float = 10.0

    presets: ClassVar[Presets] = {
        "toy": {
            "backbone": "resnet50",
            "pretrained": False,
            "epochs": 4,
            "batch_size": 8,
            "crop_size": 96,
            "radius": 5,
            "border": "full",
            "canvas": 96,
            "erase_boundaries": False,  # an object is a few cells large, and most of the cells lie near a boundary
            "beta": 20.0,
            "walk_steps": 64,
            "background": 0.12,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 1e-2,
            "displacement_factor": 1.0,
        },
        "photos": {
            "backbone": "mobilenet_v2",
            "epochs": 4,
            "batch_size": 16,
            "crop_size": 256,
            "border": "full",
            "canvas": 256,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "displacement_factor": 1.0,
        },
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone."""
        options: dict[str, Any] = {"output_stride": 16}
        if preset == "toy":
            options = {"width": 0.25 if backbone == "resnet50" else 0.5, **options}
        if backbone == "resnet50":
            options["dilated"] = False
        return {"backbone_options": options}

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
        paths.check_radius("radius", self.radius)  # says why, which the limits do not
        super().check()
        low, high = self.background_threshold, self.object_threshold
        if low > high:
            raise InputError(f"background_threshold is {low:g}, more than object_threshold {high:g}; make it smaller.")
        if not 0 < self.label_confidence < 1:
            raise InputError(f"label_confidence is {self.label_confidence}; it must lie between 0 and 1.")
        if not 0 < self.min_scale <= self.max_scale:
            raise InputError(
                f"min_scale is {self.min_scale:g} and max_scale {self.max_scale:g}; give 0 < min_scale <= max_scale."
            )
        paths.check_radius("walk_radius", self.walk_radius)
        cells = -(-self.crop_size // 4)
        if self.radius > cells:
            raise InputError(
                f"radius is {self.radius}, more than the {cells} × {cells} cells of crop_size {self.crop_size}; "
                f"make it at most {cells}, or crop_size larger."
            )
        if self.border == "official" and cells < 2 * self.radius - 1:
            raise InputError(
                f"radius is {self.radius}, too large for crop_size {self.crop_size}, which gives {cells} × {cells} "
                f"cells; make it at most {(cells + 1) // 2}, or choose border 'full'."
            )
        for preset in (self.label_crf, self.walk_crf):
            dense_crf.check(preset)


METHOD = IRN
