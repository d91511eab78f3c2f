"""The base class of all backbones: named taps, input normalisation, and freezing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Normalisation:
    """Input normalisation of a network: ``(pixel / divisor - mean) / std`` per channel.

    Attributes:
        mean: Mean of the red, green and blue channel, after the division.
        std: Standard deviation of the red, green and blue channel, after the division.
        divisor: 255 for networks that expect 0-1, 1 for those that expect 0-255.
        bgr: Whether the network expects the channels in the order blue, green, red.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    divisor: float = 255.0
    bgr: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """Convert ``(..., 3, H, W)`` RGB values 0-255, uint8 or float32, to the float32 input of the network."""
        mean, std = self._columns(image.device)
        normalised = (image.to(torch.float32) / self.divisor - mean) / std
        return normalised.flip(-3) if self.bgr else normalised

    def undo(self, image: Tensor) -> Tensor:
        """Convert network inputs back to ``(..., 3, H, W)`` uint8 RGB, for pictures."""
        return self._pixels(image.detach().float()).round().clamp(0, 255).to(torch.uint8)

    def convert(self, images: Tensor, other: Normalisation) -> Tensor:
        """Convert ``(..., 3, H, W)`` inputs with this normalisation to inputs with another normalisation."""
        return images if other == self else other(self._pixels(images))

    def _pixels(self, images: Tensor) -> Tensor:
        mean, std = self._columns(images.device)
        return ((images.flip(-3) if self.bgr else images) * std + mean) * self.divisor

    def _columns(self, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return mean, std


@dataclass(frozen=True)
class Tap:
    """A place where features can be taken: number of channels, and input pixels per feature along an axis."""

    channels: int
    stride: int


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that can be frozen.

    A frozen layer always uses its running statistics and is one multiply-add. If its scale and shift are frozen too,
    autograd stores nothing for the layer, whereas ``nn.BatchNorm2d`` in evaluation mode stores its whole input for the
    backward pass.
    """

    frozen: bool = False

    def freeze(self, affine: bool = True) -> None:
        """Use the running statistics from now on and, unless ``affine`` is False, train neither scale nor shift."""
        self.frozen = True
        if affine:
            self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a frozen layer stays frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` features."""
        if not self.frozen:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        scale, shift = (v.to(features.dtype).view(1, -1, 1, 1) for v in (scale, shift))
        return (features * scale).add_(shift)  # on a CPU several times faster than addcmul


class Backbone(nn.Module, ABC):
    """A network from images to features, without its classifier.

    Some backbones can run :meth:`forward` in two parts, :meth:`until_last` and :meth:`last`, so that the caller can
    change the features in between.

    Attributes:
        taps: Places where features can be taken, by name, shallow to deep; the last is the output.
        normalisation: Normalisation that :meth:`forward` expects of its input.
        frozen_layers: Names of the first layers, which the papers keep at their ImageNet values.
        square_root_cam: Whether the authors take the square root of this network's class activation maps.
    """

    frozen_layers: ClassVar[tuple[str, ...]] = ()
    square_root_cam: ClassVar[bool] = False
    classifier_keys: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the keys in weight files that belong to the ImageNet classifier, which is not used."""

    def __init__(self, taps: Mapping[str, Tap], normalisation: Normalisation | None = None) -> None:
        super().__init__()
        self.taps = dict(taps)
        self.normalisation = normalisation or Normalisation()

    @property
    def out(self) -> Tap:
        """Channels and stride of the last tap."""
        return list(self.taps.values())[-1]

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the tensors of an ImageNet weight file to this network's shapes; by default they are unchanged."""
        return dict(state)

    def channels_last(self) -> None:
        """Store the channels of a pixel side by side, in the weights and therefore in the features.

        Depthwise convolutions are faster in this order (`benchmarks/memory_format.py`). Shapes stay as they are.
        """
        self.to(memory_format=torch.channels_last)

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` normalised images to the features ``(B, channels, h, w)`` of every tap."""

    def until_last(self, images: Tensor) -> Tensor:
        """Return the features of the last tap but one."""
        raise NotImplementedError

    def last(self, features: Tensor) -> Tensor:
        """Return the features of the last tap, computed from those of the last tap but one."""
        raise NotImplementedError

    def freeze(self, first_layers: bool = True, affine: bool = True) -> None:
        """Freeze all batch normalisation and, by default, the layers named in `frozen_layers`.

        Args:
            first_layers: Whether the layers named in `frozen_layers` are frozen.
            affine: Whether scale and shift of the batch normalisations are frozen as well as their statistics.
        """
        for module in self.modules():
            if isinstance(module, BatchNorm2d):
                module.freeze(affine)
        if first_layers:
            for name in self.frozen_layers:
                self.get_submodule(name).requires_grad_(False)


def scaled(channels: int, width: float) -> int:
    """Return ``channels * width`` as a positive multiple of 8, so that the networks can divide it."""
    return max(8, int(channels * width + 4) // 8 * 8)


def initialise(module: nn.Module) -> None:
    """Initialise all convolutions for training from scratch with ReLU (He et al., ICCV 2015, equation 10)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def relu(features: Tensor) -> Tensor:
    """Apply ReLU in place; the caller must not need the features before ReLU."""
    return F.relu(features, inplace=True)
