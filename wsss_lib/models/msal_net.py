"""MSAL's classification network: features and class maps that are mixed along superpixels.

Multi-type semantic affinity learning (MSAL, 2024). The release cannot run: the convolutions that predict the mixture
expect half as many inputs as they get. The mode ``concat`` takes all inputs (as in the authors' earlier ESC), ``noq``
leaves out the inputs from the superpixels, and ``off`` has no mixture. New layers have the official keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, scaled
from wsss_lib.ops.propagation import propagate_affinity
from wsss_lib.ops.superpixels import mix_neighbours

Mode = Literal["concat", "noq", "off"]

_SLOPE = 0.1


def _normed(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.LeakyReLU(_SLOPE))


def _plain(before: int, after: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, kernel, padding=(kernel - 1) // 2), nn.LeakyReLU(_SLOPE))


def _gate(channels: int) -> nn.Sequential:
    inner = max(1, channels // 16)
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1, bias=False), nn.ReLU(), nn.Conv2d(inner, channels, 1, bias=False), nn.Sigmoid()
    )


def _mean(features: Tensor) -> Tensor:
    return features.mean(dim=(2, 3), keepdim=True)


def _mix(maps: Tensor, weights: Tensor | None) -> Tensor:
    return maps if weights is None else mix_neighbours(maps, weights)


class FeaturesAndMaps(NamedTuple):
    """Features and class maps before affinity propagation.

    Attributes:
        features: ``(B, c, h, w)``, the last tap but one after DCR; AP compares these features.
        weights: ``(B, 9, h, w)``, with which DCR mixes the maps; None in the mode ``off``.
        plain: ``(B, 1 + K, h, w)``, the maps before DCR.
        mixed: ``(B, 1 + K, h, w)``, the maps after DCR.
    """

    features: Tensor
    weights: Tensor | None
    plain: Tensor
    mixed: Tensor


def mode_of(state: Mapping[str, Tensor]) -> Mode:
    """Return the mode of an authors' checkpoint: ``concat`` has twice as many input channels as ``noq``."""
    if (first := state.get("get_tran_conv4.0.0.weight")) is None:
        return "off"
    return "concat" if first.shape[:1] == first.shape[1:2] else "noq"


class MSALNet(nn.Module):
    """Dynamic convolutional reconstruction (DCR) and affinity propagation (AP) around a backbone of stride 16.

    DCR mixes every position with its eight neighbours, with weights that a small network predicts from the features
    and from how pixels belong to superpixels: once for the features before the backbone's last stage, once for the
    class maps.

    Args:
        backbone: Backbone of stride 16 at its last two taps, with :meth:`until_last` and :meth:`last`.
        num_classes: K foreground classes. The first channel is the background, which is not trained.
        mode: ``concat``, ``noq`` or ``off``, see the module.
        width: Factor of the channels of the small networks; 1 is the published width.
        own_weight: Weight of a position itself in DCR's mixtures before training. With 0 PyTorch's initialisation is
            kept, in which all nine positions weigh about 1/9. That blurs the features, and a pre-trained last stage has
            never seen blurred features.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        mode: Mode = "concat",
        width: float = 1.0,
        own_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.mode = mode
        middle, last = (tap.channels for tap in list(backbone.taps.values())[-2:])
        inner = scaled(128, width)
        joined = 2 * inner if mode == "concat" else inner
        if mode != "off":
            first = scaled(32, width)
            self.get_qfeats = nn.Sequential(
                _normed(9, first, 4, 4), _normed(first, inner, 4, 4), _plain(inner, inner, 3)
            )
            for tap, channels in ((4, middle), (5, last)):
                self.add_module(f"x{tap}_feats", nn.Sequential(_normed(channels, inner, 1)))
                predict = nn.Sequential(_plain(joined, 2 * inner, 3), _plain(2 * inner, 9, 1), nn.Softmax(dim=1))
                self.add_module(f"get_tran_conv{tap}", predict)
                if own_weight:
                    own = self.get_parameter(f"get_tran_conv{tap}.1.0.bias")[4]
                    nn.init.constant_(own, math.log(8 * own_weight / (1 - own_weight)))
        self.ala1 = _gate(middle)
        self.ala2 = _gate(last)
        self.classifier = nn.Sequential(nn.Conv2d(last, 1 + num_classes, 1, bias=False))

    @staticmethod
    def official_key(key: str) -> str | None:
        """Return our name of a tensor of the authors' checkpoints, which hold the backbone twice."""
        if key.startswith("stage"):
            return None
        return key.replace("model.", "backbone.", 1) if key.startswith("model.") else key

    def _weights(self, tap: int, features: Tensor, of_superpixels: Tensor | None) -> Tensor | None:
        """Predict the weights ``(B, 9, h, w)`` of a mixture from the features of tap 4 or 5."""
        if self.mode == "off":
            return None
        reduced = self.get_submodule(f"x{tap}_feats")(features.detach())
        joined = reduced if of_superpixels is None else torch.cat([reduced, of_superpixels], dim=1)
        return self.get_submodule(f"get_tran_conv{tap}")(joined)

    def features_and_maps(self, images: Tensor, association: Tensor) -> FeaturesAndMaps:
        """Return features and maps before affinity propagation; for the arguments see :meth:`forward`."""
        of_superpixels = self.get_qfeats(association) if self.mode == "concat" else None
        x4 = self.backbone.until_last(images)
        x4 = _mix(x4 * self.ala1(_mean(x4)), self._weights(4, x4, of_superpixels))
        x5 = self.backbone.last(x4)
        plain = self.classifier(x5 * self.ala2(_mean(x5.detach())))
        weights = self._weights(5, x5, of_superpixels)
        return FeaturesAndMaps(x4, weights, plain, _mix(plain, weights))

    def forward(
        self, images: Tensor, association: Tensor, iterations: int = 0, threshold: float = 0.6
    ) -> tuple[Tensor, Tensor]:
        """Return class maps and logits.

        Args:
            images: ``(B, 3, H, W)`` normalised images, H and W multiples of 16.
            association: ``(B, 9, H, W)``, see `wsss_lib.ops.superpixels`.
            iterations: Iterations of AP; 0 leaves AP out.
            threshold: Threshold of AP.

        Returns:
            Signed maps ``(B, 1 + K, H / 16, W / 16)``, and the means ``(B, 1 + K)`` of the maps before DCR.
        """
        way = self.features_and_maps(images, association)
        maps = propagate_affinity(way.mixed, way.features, iterations, threshold)
        return maps, F.adaptive_avg_pool2d(way.plain, 1).flatten(1)
