"""What a method is: its networks, its optimisers and one training step. It knows no files, bars or devices."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsss_lib.data.toy import ToyOptions
from wsss_lib.data.transforms import Augment, Augmentation
from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.weights import LoadReport
from wsss_lib.ops.cam import normalise_maximum


@dataclass(frozen=True)
class Batch:
    """What a training step gets.

    Attributes:
        images: ``(B, 3, H, W)`` float32, normalised for the network.
        labels: Labels that are learned from: ``(B, K)`` float32, 1 where the image shows the class, else 0; or, for a
            method that learns from pixels, ``(B, h, w)`` uint8 label maps.
        indices: ``(B,)`` int64, positions in the data set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


PRESETS = ("toy", "photos", "voc12", "coco14")

LIGHT = ("efficientnet_lite0", "mobilenet_v2")
"""The networks that learn from photographs on a laptop; the first is that of the preset ``photos``."""

_SMALL: dict[str, dict[str, Any]] = {
    "resnet38d": {"width": 0.0625, "dropout": [0.0, 0.0]},
    "vgg16": {"width": 0.125},
    "resnet50": {"width": 0.25, "output_stride": 8},
    "efficientnet_lite0": {"width": 0.5, "output_stride": 8},
    "mobilenet_v2": {"width": 0.5, "output_stride": 8},
    "resnet101_caffe": {"width": 0.25},
}


def backbone_options(preset: str, backbone: str) -> dict[str, Any]:
    """Return the arguments of a backbone's class: the small variant for ``toy``, else the published network."""
    return dict(_SMALL[backbone]) if preset == "toy" else {}


def further_backbone(preset: str, backbone: str) -> str:
    """Return the backbone of a further network in a run; "" for the preset's.

    Args:
        preset: Preset of the run.
        backbone: Backbone of the run's own network.
    """
    return backbone if preset == "photos" and backbone in LIGHT else ""


@dataclass(frozen=True)
class Config:
    """The settings that every method has; each adds its own.

    Attributes:
        backbones: Names of the networks that the method can use.
        toy_world: Kind of the toy world in which the method is shown.
        inference_only: Names of the settings that affect inference only; changing one does not require retraining.
        backbone: Name of the network, one of them, see `wsss_lib.models.BACKBONES`.
        backbone_options: Arguments of the network's class, such as ``width``.
        pretrained: Whether training starts from ImageNet weights; the first layers and all batch normalisation then
            stay as they are.
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
    inference_only: ClassVar[frozenset[str]] = frozenset({"scales", "view_multiple", "alphas"})

    backbone: str = "resnet38d"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    epochs: int = 15
    batch_size: int = 16
    crop_size: int = 448
    colour_jitter: float = 0.3
    hue_jitter: float = 0.1
    learning_rate: float = 0.01
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
        return cls.for_preset(name, backbone)

    @classmethod
    @abstractmethod
    def for_preset(cls, name: str, backbone: str) -> Self:
        """Return the settings of a preset; :meth:`preset` has checked the names."""

    def check(self) -> None:
        """Raise InputError if settings contradict each other."""

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
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InputError(f"the configuration has the unknown field {unknown[0]}.")
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        for name, usual in vars(cls()).items():
            if name not in fields:
                continue
            kinds = (int, float) if isinstance(usual, float) else type(usual)
            if not isinstance(fields[name], kinds):
                raise InputError(f"{name} is {fields[name]!r} in the configuration; give a {type(usual).__name__}.")
        return cls(**fields)


@dataclass(frozen=True)
class CamConfig(Config):
    """The settings of a method that makes class activation maps. The defaults are those of AffinityNet's classifier.

    Attributes:
        scales: Factors of the image size at which the CAMs are computed and summed, each also mirrored.
        view_multiple: If not 0, views are resized to this multiple plus one, see `wsss_lib.data.transforms.view_size`.
        alphas: PowerBackgrounds of the background with which a CRF is tried on the maps.
    """

    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)
    view_multiple: int = 0
    alphas: tuple[float, ...] = (4.0, 32.0)

    @abstractmethod
    def augmentation(self) -> Augment:
        """Return what is done to a training image."""


@dataclass(frozen=True)
class LongSideConfig(CamConfig):
    """The settings of a method that trains like AffinityNet's classifier, on a window of the resized image.

    Attributes:
        min_long_side: Least length of the longer side of a training image after random resizing, in pixels.
        max_long_side: Greatest length of it.
    """

    min_long_side: int = 256
    max_long_side: int = 512

    def augmentation(self) -> Augmentation:
        """Return what is done to a training image."""
        return Augmentation(self.min_long_side, self.max_long_side, self.crop_size, self.colour_jitter, self.hue_jitter)

    def check(self) -> None:
        """Raise InputError if settings contradict each other."""
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
        """Compute in the precision in use, where a network is not called through what :meth:`setup` returned."""

    def all_gather(self, tensor: Tensor, *, sync_grads: bool = False) -> Any:
        """Stack the tensors of all processes, if there are several."""


class Method(ABC):
    """A method for weakly supervised segmentation.

    Attributes:
        config: Its settings.
        networks: Networks that are trained, by name.
        optimizers: The optimisers, by name; filled by :meth:`setup`.
        schedules: The learning rate schedules, by name; filled by :meth:`setup`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.schedules: dict[str, Any] = {}

    @property
    @abstractmethod
    def backbone(self) -> Backbone:
        """The network that starts from ImageNet weights; images are normalised as it wants them."""

    @property
    def backbones(self) -> list[Backbone]:
        """All networks that start from the ImageNet weights; by default :attr:`backbone` alone."""
        return [self.backbone]

    @abstractmethod
    def setup(self, engine: Engine, total_steps: int) -> None:
        """Make the optimisers and schedules for ``total_steps`` calls of :meth:`step`."""

    def begin_epoch(self, epoch: int, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Do what has to be done before an epoch; by default nothing."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update: forward, backward, optimiser, schedule.

        Returns:
            Scalar losses by name, detached. The first is the one that is minimised.
        """

    def diverged(self, losses: Mapping[str, float]) -> str:  # noqa: ARG002
        """Say what is wrong with the losses of a step although they are finite, without a full stop; else ""."""
        return ""

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:  # noqa: ARG002
        """Put weights that the authors' code trained into the network that is kept.

        Args:
            state: Tensors by the authors' keys.
            source: The file's name for error messages.

        Raises:
            InputError: The weights are for another network, or the authors of this method published none.
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
        """Continue from what :meth:`state_dict` returned; before :meth:`setup` only the networks are loaded."""
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
    """

    config: CamConfig
    signed: ClassVar[bool] = False
    scales_itself: ClassVar[bool] = False

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return the class logits ``(B, K)`` of normalised ``(B, 3, H, W)`` images."""

    @abstractmethod
    def cam(self, images: Tensor) -> Tensor:
        """Return the class activation maps ``(B, K, h, w)`` of ``(B, 3, H, W)`` images, not normalised."""

    def multi_scale(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the normalised maps of all scales together, for a method that resizes images itself.

        Args:
            images: ``(B, 3, H, W)`` normalised images of their own size.
            labels: ``(B, K)``, 1 where an image shows a class.

        Returns:
            For each image ``(n, H, W)`` in [0, 1), of the n classes that it shows.
        """
        raise NotImplementedError

    def normalise_maps(self, maps: Tensor) -> Tensor:
        """Bring summed maps ``(n, H, W)``, at least 0, to [0, 1)."""
        return normalise_maximum(maps)


def draw_targets(labels: Tensor) -> Tensor:
    """Draw one class of each image, all that it shows being equally likely.

    Args:
        labels: ``(B, K)``, 1 where an image shows a class.

    Returns:
        ``(B,)`` int64; for an image without any class some class, drawn from all.
    """
    weights = labels + (labels.sum(dim=1, keepdim=True) == 0).to(labels)
    return torch.multinomial(weights.cpu(), 1).flatten().to(labels.device)


def pick(maps: Tensor, targets: Tensor) -> Tensor:
    """Return the maps ``(B, 1, h, w)`` of one class per image, of ``(B, K, h, w)``."""
    return maps[torch.arange(len(maps), device=maps.device), targets][:, None]
