"""What every method has: settings, networks, optimisers and one training step, but no files, bars or devices."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from wsss_lib.data.toy import ToyOptions
from wsss_lib.data.transforms import Augment, Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods.fields import Factors, Limits, Share, kinds_of
from wsss_lib.methods.optimisers import polynomial_schedule
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.classifier import Classifier
from wsss_lib.models.pretrained import has_toy_weights
from wsss_lib.models.superpixel_net import SuperpixelNet
from wsss_lib.models.weights import LoadReport
from wsss_lib.ops.cam import normalise_maximum


@dataclass(frozen=True)
class Batch:
    """Input of a training step.

    Attributes:
        images: ``(B, 3, H, W)`` float32, normalised for the network.
        labels: ``(B, K)`` float32, 1 where the image shows the class, else 0; for a method that learns from label maps,
            ``(B, h, w)`` uint8.
        indices: ``(B,)`` int64, positions in the data set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


PRESETS = ("toy", "photos", "voc12", "coco14")

TOY_PRETRAINED = True
"""Whether the preset ``toy`` starts from weights by default, see `wsss_lib.models.pretrained.find_toy_weights`."""

LIGHT = ("efficientnet_lite0", "mobilenet_v2")
"""The networks that learn from photographs on a laptop; the preset ``photos`` uses the first."""

Presets = Mapping[str, Mapping[str, Any]]
"""For each preset, the settings that differ from the defaults; `PRESETS` that are not listed are the defaults."""

LARGEST_SIDE = 4096
"""Largest side of a training image, in pixels; a single larger image fills the memory."""

_SMALL: dict[str, dict[str, Any]] = {
    "resnet38d": {"width": 0.0625, "dropout": [0.0, 0.0]},
    "vgg16": {"width": 0.125},
    "resnet50": {"width": 0.25, "output_stride": 8},
    "efficientnet_lite0": {"width": 0.5, "output_stride": 8},
    "mobilenet_v2": {"width": 0.5, "output_stride": 8},
    "resnet101_caffe": {"width": 0.25},
}


def backbone_options(preset: str, backbone: str) -> dict[str, Any]:
    """Return the arguments of a backbone's class: a small variant for ``toy``, else none, for the published network."""
    return dict(_SMALL[backbone]) if preset == "toy" else {}


def further_backbone(preset: str, backbone: str) -> str:
    """Return the backbone of an additional network in a run; "" for the preset's.

    Args:
        preset: Preset of the run.
        backbone: Backbone of the run's own network.
    """
    return backbone if preset == "photos" and backbone in LIGHT else ""


@dataclass(frozen=True)
class Config:
    """The settings that every method has; each method adds its own.

    The annotation of a field gives its limits and choices, see `wsss_lib.methods.fields`.

    Attributes:
        backbones: Names of the networks that the method can use.
        toy_world: Options of the toy world that demonstrates the method.
        inference_only: Settings that affect inference only; changing one does not require retraining.
        presets: For each preset, the settings that differ from the defaults.
        toy_pretrained: Whether the preset ``toy`` starts from the package's weights, if there are any for the backbone.
        asks_classifier: Whether training asks an ordinary classifier, see :attr:`CamMethod.ordinary`.
        backbone: Name of the network, one of ``backbones``, see `wsss_lib.models.BACKBONES`.
        backbone_options: Arguments of the network's class, such as ``width``.
        pretrained: Whether training starts from ImageNet weights (on the toy world from those of the corpus, see
            `wsss_lib.data.corpus`); the first layers and all batch normalisation then stay as they are.
        epochs: Number of times that every training image is seen.
        batch_size: Images per step, over all devices together.
        crop_size: Side of the square training images, in pixels.
        colour_jitter: Strength of the random change of brightness, contrast and saturation; see `Augmentation`.
        hue_jitter: Strength of the random change of hue.
        learning_rate: Initial learning rate of pre-trained weights.
        weight_decay: Decay of the weights, not of the biases.
    """

    backbones: ClassVar[tuple[str, ...]] = ("resnet38d", "vgg16", "resnet50", "efficientnet_lite0", "mobilenet_v2")
    toy_world: ClassVar[ToyOptions] = ToyOptions()
    inference_only: ClassVar[frozenset[str]] = frozenset()
    presets: ClassVar[Presets] = {}
    toy_pretrained: ClassVar[bool] = True
    asks_classifier: ClassVar[bool] = False

    backbone: str = "resnet38d"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    epochs: Annotated[int, Limits(1)] = 15
    batch_size: Annotated[int, Limits(1)] = 16
    crop_size: Annotated[int, Limits(32, LARGEST_SIDE)] = 448
    colour_jitter: Share = 0.3
    hue_jitter: Annotated[float, Limits(0, 0.5)] = 0.1
    learning_rate: Annotated[float, Limits(0, above=True)] = 0.01
    weight_decay: float = 5e-4

    @classmethod
    def preset(cls, name: str, backbone: str = "") -> Self:
        """Return the settings of a preset.

        Args:
            name: One of `PRESETS`.
            backbone: Another network than the preset's; "" for the preset's.

        Raises:
            InputError: The preset or the backbone is unknown.
        """
        if name not in PRESETS:
            raise InputError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}.")
        if backbone not in ("", *cls.backbones):
            raise InputError(f"backbone {backbone!r} cannot be used; choose one of {', '.join(cls.backbones)}.")
        config = cls.for_preset(name, backbone)
        starts = TOY_PRETRAINED and cls.toy_pretrained and name == "toy" and has_toy_weights(config.backbone)
        return config.replace(pretrained=True) if starts else config

    @classmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset; :meth:`preset` has checked the names."""
        values = {**cls.presets.get(name, {})}
        values["backbone"] = backbone or values.get("backbone", cls.backbone)
        return cls(**{**values, **cls.for_backbone(name, values["backbone"])})

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:
        """Return the settings that depend on the preset and the backbone; by default the backbone's own options."""
        return {"backbone_options": backbone_options(preset, backbone)}

    def check(self) -> None:
        """Raise InputError if a setting is out of range; subclasses add what two settings must fulfil together."""
        for name, kind in kinds_of(type(self)).items():
            kind.check(name, getattr(self, name))

    @property
    def starts_from_classifier(self) -> bool:
        """Whether training starts from an ordinary classifier, see :meth:`CamMethod.start_from`."""
        return False

    @property
    def needs_superpixels(self) -> bool:
        """Whether any part that is switched on uses :attr:`CamMethod.superpixels`."""
        return False

    @property
    def needs_saliency(self) -> bool:
        """Whether saliency maps are a fourth channel of the training images."""
        return False

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Undo :meth:`to_dict`; a field that is missing, as it is newer than the values, takes its default.

        Raises:
            InputError: A field is unknown or of another type.
        """
        kinds = kinds_of(cls)
        unknown = sorted(values.keys() - kinds.keys())
        if unknown:
            raise InputError(f"the configuration has the unknown field {unknown[0]}.")
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        for name, value in fields.items():
            if not kinds[name].fits(value):
                raise InputError(f"{name} is {value!r} in the configuration; give a {kinds[name].base.__name__}.")
        return cls(**fields)


@dataclass(frozen=True)
class CamConfig(Config):
    """The settings of a method that makes class activation maps. The defaults are those of AffinityNet's classifier.

    Attributes:
        scales: Factors of the image size at which the CAMs are computed and summed, each also mirrored.
        view_multiple: Number of which the sides of views are a multiple, plus one, see
            `wsss_lib.data.transforms.view_size`; 0 for any size.
        alphas: Powers of the background with which a CRF is tried on the maps.
    """

    inference_only: ClassVar[frozenset[str]] = frozenset({"scales", "view_multiple", "alphas"})

    scales: Factors = (1.0, 0.5, 1.5, 2.0)
    view_multiple: int = 0
    alphas: Annotated[tuple[float, ...], Limits(0, 1000, above=True)] = (4.0, 32.0)

    @abstractmethod
    def augmentation(self) -> Augment:
        """Return the augmentation of a training image."""


@dataclass(frozen=True)
class LongSideConfig(CamConfig):
    """The settings of a method that trains like AffinityNet's classifier, on a window of the resized image.

    Attributes:
        min_long_side: Smallest length of the longer side of a training image after random resizing, in pixels.
        max_long_side: Largest length of the longer side of a training image after random resizing, in pixels.
    """

    min_long_side: Annotated[int, Limits(0, LARGEST_SIDE)] = 256
    max_long_side: Annotated[int, Limits(0, LARGEST_SIDE)] = 512

    def augmentation(self) -> Augmentation:
        """Return the augmentation of a training image."""
        return Augmentation(self.min_long_side, self.max_long_side, self.crop_size, self.colour_jitter, self.hue_jitter)

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
        super().check()
        least, most = self.min_long_side, self.max_long_side
        if least > most:
            raise InputError(f"min_long_side is {least}, more than max_long_side {most}; make it smaller.")


class Engine(Protocol):
    """The part of Lightning Fabric that a method uses."""

    def setup(self, module: nn.Module, *optimizers: Optimizer) -> Any:
        """Prepare a network and its optimisers for the devices and the precision in use."""

    def backward(self, tensor: Tensor) -> None:
        """Compute gradients."""

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in the precision in use; needed for a network that :meth:`setup` has not prepared."""

    def all_gather(self, tensor: Tensor, *, sync_grads: bool = False) -> Any:
        """Stack the tensors of all processes; with one process, return the tensor."""


class Method(ABC):
    """A method for weakly supervised segmentation.

    Args:
        config: Settings of the method.

    Attributes:
        config: Settings of the method.
        networks: Networks that are saved, by name.
        engine: Object that runs the networks; set by :meth:`setup`.
        calls: Networks that are trained, as :attr:`engine` has prepared them, by name; filled by :meth:`setup`.
        optimizers: Optimisers by name; filled by :meth:`setup`.
        schedules: Learning rate schedules by name; filled by :meth:`setup`.
    """

    engine: Engine

    def __init__(self, config: Config) -> None:
        config.check()
        self.config = config
        self.networks: dict[str, nn.Module] = {}
        self.calls: dict[str, Any] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.schedules: dict[str, Any] = {}

    @property
    @abstractmethod
    def backbone(self) -> Backbone:
        """The network that starts from ImageNet weights; images are normalised as it requires."""

    @property
    def backbones(self) -> list[Backbone]:
        """All networks that start from the ImageNet weights; by default :attr:`backbone` alone."""
        return [self.backbone]

    # -------------------------------------------------------------------------------------------------------- training

    def setup(self, engine: Engine, total_steps: int) -> None:
        """Prepare ``total_steps`` calls of :meth:`step`: an optimiser and a schedule for each network."""
        self.engine = engine
        for name, network in self.trained().items():
            optimizer = self.make_optimizer(name)
            self.schedules[name] = self.make_schedule(optimizer, total_steps)
            self.calls[name], self.optimizers[name] = engine.setup(network, optimizer)

    def trained(self) -> dict[str, nn.Module]:
        """Return the networks that are trained, by name; by default all :attr:`networks`."""
        return self.networks

    @abstractmethod
    def make_optimizer(self, name: str) -> Optimizer:
        """Return the optimiser of the trained network ``name``."""

    def make_schedule(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """Return the learning rate schedule of an optimiser; by default the polynomial one."""
        return polynomial_schedule(optimizer, total_steps)

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs of the network called ``network``, which is being trained."""
        return self.calls["network"](*inputs)

    def learn(
        self, losses: Mapping[str, Tensor], name: str = "network", max_norm: float | None = None
    ) -> dict[str, Tensor]:
        """Minimise ``losses["loss"]``: backward pass, one step of the optimiser, one step of the schedule.

        Args:
            losses: Scalar losses by name.
            name: Name of the network that learns.
            max_norm: Norm to which the gradients of the network are clipped; None does not clip them.

        Returns:
            The losses, detached; after clipping also ``gradient``, the norm of all gradients before it.
        """
        self.optimizers[name].zero_grad()
        self.engine.backward(losses["loss"])
        if max_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.networks[name].parameters(), max_norm)
            losses = {**losses, "gradient": norm}
        self.optimizers[name].step()
        self.schedules[name].step()
        return {part: value.detach() for part, value in losses.items()}

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Prepare an epoch, counted from 0; by default nothing is done."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update, for which :meth:`learn` does all that follows the losses.

        Returns:
            Scalar losses by name, detached. The first is the one that is minimised.
        """

    def diverged(self, losses: Mapping[str, float]) -> str:  # noqa: ARG002
        """Return a message, without a full stop, if the losses are finite but have diverged; otherwise ""."""
        return ""

    # ---------------------------------------------------------------------------------------------- loading and saving

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:  # noqa: ARG002
        """Load weights trained with the authors' code into the network used for inference.

        Args:
            state: Tensors by the authors' keys.
            source: Name of the file, for error messages.

        Raises:
            InputError: The weights are for another network, or the method cannot load networks of its authors.
        """
        raise InputError(
            f"checkpoint {source} cannot be used: this method reads no networks of its authors; give none."
        )

    def train(self, mode: bool = True) -> None:
        """Put all networks into training or evaluation mode."""
        for network in self.networks.values():
            network.train(mode)

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimisers and schedules as tensors and plain values."""
        parts: list[tuple[str, dict[str, Any]]] = [
            ("networks", dict(self.networks)),
            ("optimizers", dict(self.optimizers)),
            ("schedules", self.schedules),
        ]
        return {group: {name: part.state_dict() for name, part in items.items()} for group, items in parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned; before :meth:`setup` only the networks are loaded."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(state["schedules"][name])


class CamMethod(Method):
    """A method that recognises classes, and makes class activation maps on the way.

    Attributes:
        signed: Whether the maps may be negative. Such maps are rectified after they are enlarged.
        scales_itself: Whether the method resizes images itself, in :meth:`multi_scale`.
        needs: Object that a run must provide besides images and labels: an ordinary ``classifier``, ``superpixels``,
            the images of a ``census``, or "" for no object. The kind of run follows from it, see `wsss_lib.runs.kinds`.
        ordinary: Ordinary classifier, fixed, from normalised images to logits ``(B, K)``. It is not saved.
        superpixels: Superpixel network, fixed. It is not saved.
        census_images: Function from the number of an epoch to the images of its census: batches of
            ``(B, 3, size, size)`` images with ``(B, K)`` bool, the classes for which each image counts. Each process
            has its share.
    """

    config: CamConfig
    signed: ClassVar[bool] = False
    scales_itself: ClassVar[bool] = False
    needs: ClassVar[Literal["", "classifier", "superpixels", "census"]] = ""

    def __init__(self, config: CamConfig) -> None:
        super().__init__(config)
        self.ordinary: nn.Module | None = None
        self.superpixels: SuperpixelNet | None = None
        self.census_images: Callable[[int], Iterable[tuple[Tensor, Tensor]]] | None = None

    def start_from(self, classifier: Classifier) -> None:
        """Take over weights of an ordinary classifier, for a method with :attr:`Config.starts_from_classifier`.

        Raises:
            InputError: The classifier has another backbone.
        """
        raise NotImplementedError

    @property
    def census_quota(self) -> int:
        """Number of images of every class that take part in a census."""
        return 0

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, K)`` of normalised ``(B, 3, H, W)`` images."""

    @abstractmethod
    def cam(self, images: Tensor) -> Tensor:
        """Return the class activation maps ``(B, K, h, w)`` of ``(B, 3, H, W)`` images, before normalisation."""

    def multi_scale(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the normalised maps of all scales together, for a method that resizes images itself.

        Args:
            images: ``(B, 3, H, W)`` normalised images at their original size.
            labels: ``(B, K)``, 1 where an image shows a class.

        Returns:
            For each image ``(n, H, W)`` in [0, 1), of the n classes that it shows.
        """
        raise NotImplementedError

    def normalise_maps(self, maps: Tensor) -> Tensor:
        """Return summed maps ``(n, H, W)``, which are at least 0, in [0, 1)."""
        return normalise_maximum(maps)


def draw_targets(labels: Tensor) -> Tensor:
    """Draw one of the classes that each image shows, all with the same probability.

    Args:
        labels: ``(B, K)``, 1 where an image shows a class.

    Returns:
        ``(B,)`` int64. For an image without any class, one of all K classes is drawn.
    """
    weights = labels + (labels.sum(dim=1, keepdim=True) == 0).to(labels)
    return torch.multinomial(weights.cpu(), 1).flatten().to(labels.device)


def pick(maps: Tensor, targets: Tensor) -> Tensor:
    """Return the map of one class of each image, ``(B, 1, h, w)`` of ``(B, K, h, w)``."""
    return maps[torch.arange(len(maps), device=maps.device), targets][:, None]
