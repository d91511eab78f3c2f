"""What every backbone shares: named taps, its input normalisation, and freezing."""

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
    """How pixel values become network inputs: ``(pixel / divisor - mean) / std`` per channel.

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
        """Turn ``(..., 3, H, W)`` uint8 RGB, or such values as float32, into the float32 input of the network."""
        mean, std = self._columns(image.device)
        normalised = (image.to(torch.float32) / self.divisor - mean) / std
        return normalised.flip(-3) if self.bgr else normalised

    def undo(self, image: Tensor) -> Tensor:
        """Turn network inputs back into ``(..., 3, H, W)`` uint8 RGB, for pictures."""
        return self._pixels(image.detach().float()).round().clamp(0, 255).to(torch.uint8)

    def convert(self, images: Tensor, other: Normalisation) -> Tensor:
        """Turn ``(..., 3, H, W)`` inputs that are normalised like this into those that another network wants."""
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
    """Batch normalisation that can be frozen for good.

    Frozen, it always uses its running statistics and becomes one multiply-add. If its scale and shift are frozen, too,
    autograd keeps nothing of it, whereas ``nn.BatchNorm2d`` in evaluation mode stores its whole input for the backward
    pass.
    """

    frozen: bool = False

    def freeze(self, affine: bool = True) -> None:
        """Use the running statistics from now on and, unless told otherwise, train neither scale nor shift."""
        self.frozen = True
        if affine:
            self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Set training mode, in which a frozen layer stays frozen."""
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
    """A network from images to features, its classifier taken off.

    :meth:`forward` of some can be done in two parts, :meth:`until_last` and :meth:`last`, with something in between.

    Attributes:
        taps: The places where features come out, shallow to deep; the last is the output.
        normalisation: Normalisation that :meth:`forward` expects of its input.
        frozen_layers: Names of the first layers, which the papers keep at their ImageNet values.
        square_root_cam: Whether the authors take the square root of this network's class activation maps.
    """

    frozen_layers: ClassVar[tuple[str, ...]] = ()
    square_root_cam: ClassVar[bool] = False
    classifier_keys: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the keys in weight files that belong to the ImageNet classifier, which is not used."""

    def __init__(self, taps: Mapping[str, Tap], normalisation: Normalisation | None = None) -> None:
        super().__init__()
        self.taps = dict(taps)
        self.normalisation = normalisation or Normalisation()

    @property
    def out(self) -> Tap:
        """Channels and stride of the last tap."""
        return list(self.taps.values())[-1]

    def adapt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make the tensors of a file of ImageNet weights fit this network, if need be; by default nothing is done."""
        return dict(state)

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map ``(B, 3, H, W)`` normalised images to the features ``(B, channels, h, w)`` of every tap."""

    def until_last(self, images: Tensor) -> Tensor:
        """Return the features of the last tap but one."""
        raise NotImplementedError

    def last(self, features: Tensor) -> Tensor:
        """Return those of the last tap, from those of the last but one."""
        raise NotImplementedError

    def freeze(self, first_layers: bool = True, affine: bool = True) -> None:
        """Freeze all batch normalisation and, unless told otherwise, the layers named in `frozen_layers`.

        Args:
            first_layers: Whether these layers are frozen.
            affine: Whether scale and shift of the batch normalisations are frozen, too, not only their statistics.
        """
        for module in self.modules():
            if isinstance(module, BatchNorm2d):
                module.freeze(affine)
        if first_layers:
            for name in self.frozen_layers:
                self.get_submodule(name).requires_grad_(False)


def scaled(channels: int, width: float) -> int:
    """Return ``channels * width`` as a positive multiple of 8, so that every division in the networks comes out."""
    return max(8, int(channels * width + 4) // 8 * 8)


def initialise(module: nn.Module) -> None:
    """Initialise all convolutions for training from scratch with ReLU (He et al., ICCV 2015, equation 10)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def relu(features: Tensor) -> Tensor:
    """Rectify in place: the caller owns ``features`` and does not need them unrectified."""
    return F.relu(features, inplace=True)
