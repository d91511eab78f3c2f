"""Superpixels: a network learns, without labels, to rebuild colours and positions from the means of superpixels.

Yang, Sun, Jin, Zhou, "Superpixel Segmentation with Fully Convolutional Networks", CVPR 2020, with the loss and the
training that MSAL uses: colours in CIELAB, no labels, Adam with a constant learning rate. The loss is
``L = 0.005 sum_p [|T'_p - T_p| + 0.003 |x'_p - x_p|] / (B S)`` (:func:`superpixel_loss`).

Differences from MSAL's release (CHENDL-SHEN/MSA):

- Images are shuffled.
- The target is cropped from the same resized image as the input, with padding in the mean colour. The authors resize it
  once more without smoothing, pad it with black, and round its CIELAB colours to 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from wsss_lib.data.transforms import Augment, Augmentation
from wsss_lib.errors import InputError
from wsss_lib.methods import method
from wsss_lib.methods.fields import Limits
from wsss_lib.methods.method import LARGEST_SIDE, Batch, Method, Presets
from wsss_lib.models.superpixel_net import CELL, SuperpixelNet
from wsss_lib.models.weights import LoadReport, load_into
from wsss_lib.ops.colour import rgb_to_lab
from wsss_lib.ops.superpixels import superpixel_pool, superpixel_upsample

POSITION_WEIGHT = 0.003
_SCALE = 0.005


def with_positions(values: Tensor) -> Tensor:
    """Append the column and the row of each pixel to ``(B, c, H, W)`` values: ``(B, c + 2, H, W)``."""
    batch, _, height, width = values.shape
    rows = torch.arange(height, device=values.device, dtype=values.dtype)[:, None].expand(height, width)
    columns = torch.arange(width, device=values.device, dtype=values.dtype)[None].expand(height, width)
    return torch.cat([values, torch.stack([columns, rows]).expand(batch, -1, -1, -1)], dim=1)


def superpixel_loss(
    association: Tensor, values: Tensor, cell: int = 16, position_weight: float = POSITION_WEIGHT
) -> dict[str, Tensor]:
    """Return the error of pixels that are rebuilt from the superpixels they belong to.

    ``L = 0.005 sum_p [|T'_p - T_p| + 0.003 |x'_p - x_p|] / (B S)`` with the values T, the positions x, and the values
    T' and positions x' after pooling and up-sampling. Values of more than three channels are one-hot labels, for which
    the first term is the cross-entropy, divided by B.

    Args:
        association: ``(B, 9, H, W)``, Q.
        values: ``(B, 3, H, W)`` colours, or ``(B, classes, H, W)`` one-hot labels.
        cell: Side S of a cell in pixels.
        position_weight: Weight of the second term.

    Returns:
        ``loss`` and its two terms, ``appearance`` and ``position``.
    """
    target = with_positions(values)
    rebuilt = superpixel_upsample(superpixel_pool(target, association, cell), association, cell)
    batch = len(values)
    if values.shape[1] == 3:
        appearance = (rebuilt[:, :3] - values).norm(dim=1).sum() / (batch * cell)
    else:
        appearance = -(values * torch.log(rebuilt[:, :-2] + 1e-8)).sum() / batch
    position = position_weight * (rebuilt[:, -2:] - target[:, -2:]).norm(dim=1).sum() / (batch * cell)
    terms = {"appearance": _SCALE * appearance, "position": _SCALE * position}
    return {"loss": terms["appearance"] + terms["position"], **terms}


class Superpixels(Method):
    """The superpixel network and its training.

    Args:
        config: Settings of the method.
        num_classes: Number of classes; not used, because no labels are used.
    """

    config: Config

    def __init__(self, config: Config, num_classes: int) -> None:  # noqa: ARG002
        super().__init__(config)
        self.network = SuperpixelNet(config.width)
        self.networks = {"network": self.network}

    @property
    def backbone(self) -> SuperpixelNet:
        """The network."""
        return self.network

    def make_optimizer(self, name: str) -> Optimizer:
        """Return Adam."""
        trained = [p for p in self.networks[name].parameters() if p.requires_grad]
        return Adam(trained, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def make_schedule(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:  # noqa: ARG002
        """Return a schedule that keeps the learning rate as it is."""
        return LambdaLR(optimizer, lambda _: 1.0)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Do one update on the colours of the images."""
        colours = self.network.normalisation.undo(batch.images).to(batch.images) / 255
        return self.update(batch.images, rgb_to_lab(colours))

    def update(self, images: Tensor, values: Tensor) -> dict[str, Tensor]:
        """Do one update.

        Args:
            images: ``(B, 3, H, W)`` normalised images.
            values: Values to rebuild, see :func:`superpixel_loss`.

        Returns:
            The losses of :func:`superpixel_loss`.
        """
        association = self.forward(images)["association"]
        return self.learn(superpixel_loss(association, values, position_weight=self.config.position_weight))

    def load_official(self, state: Mapping[str, Tensor], source: Path) -> LoadReport:
        """Load a network of the authors, such as ``SpixelNet_bsd_ckpt.tar``."""
        return load_into(self.network, state, source=source)


@dataclass(frozen=True)
class Config(method.Config):
    """Settings of the superpixel network's training; the defaults are MSAL's.

    Attributes:
        width: Factor of the network's channels.
        min_long_side: Smallest length of the longer side of a training image after random resizing, in pixels.
        max_long_side: Largest length of the longer side of a training image after random resizing, in pixels.
        position_weight: Weight of the second term of the loss.
    """

    backbones: ClassVar[tuple[str, ...]] = ("superpixel_net",)

    backbone: str = "superpixel_net"
    pretrained: bool = False
    epochs: int = 50
    crop_size: int = 512
    colour_jitter: float = 0.0
    hue_jitter: float = 0.0
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    width: float = 1.0
    min_long_side: Annotated[int, Limits(0, LARGEST_SIDE)] = 320
    max_long_side: Annotated[int, Limits(0, LARGEST_SIDE)] = 640
    position_weight: float = POSITION_WEIGHT

    presets: ClassVar[Presets] = {
        "toy": {
            "epochs": 10,
            "batch_size": 4,
            "crop_size": 64,
            "min_long_side": 192,
            "max_long_side": 192,
            "learning_rate": 5e-3,
            "width": 0.25,
        },
        "photos": {
            "epochs": 6,
            "batch_size": 8,
            "crop_size": 256,
            "min_long_side": 320,
            "max_long_side": 500,
            "learning_rate": 1e-3,
            "width": 0.5,
        },
    }

    @classmethod
    def for_backbone(cls, preset: str, backbone: str) -> dict[str, Any]:  # noqa: ARG003
        """Return the settings that depend on the preset and the backbone: none."""
        return {}

    def check(self) -> None:
        """Raise InputError if a setting is out of range or settings contradict each other."""
        super().check()
        if self.crop_size % CELL:
            raise InputError(f"crop_size {self.crop_size} is not a multiple of {CELL}; give one.")

    def augmentation(self) -> Augment:
        """Return the augmentation of a training image."""
        return Augmentation(self.min_long_side, self.max_long_side, self.crop_size, 0.0, 0.0, by_factor=True)


METHOD = Superpixels
