"""Image classifiers with class activation maps: backbone, 1×1 head, global average pooling.

Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization" (CVPR 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsss_lib.models.backbone import Backbone, relu


class Classifier(nn.Module):
    """A multi-label classifier whose class activation maps are its own head, applied before the pooling.

    The head is linear and without bias, so pooling and head commute (equations 1 and 2 of the paper): the logit of
    class k is the mean over the positions of ``M_k(x, y) = sum_c w_kc f_c(x, y)``.

    Args:
        backbone: The network in front of the head.
        num_classes: K, the number of foreground classes.
        dropout: Probability that a channel of the features is dropped, in training.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(backbone.out.channels, num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.head.weight)

    @staticmethod
    def official_key(key: str) -> str:
        """Return our name of a tensor that the authors' checkpoints call ``key`` (``fc8.weight``, ``b2...``)."""
        return key.replace("fc8.", "head.") if key.startswith("fc8.") else f"backbone.{key}"

    def features(self, images: Tensor) -> Tensor:
        """Return the last tap of the backbone, ``(B, channels, h, w)``, for ``(B, 3, H, W)`` images."""
        return list(self.backbone(images).values())[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of ``(B, 3, H, W)`` normalised images."""
        pooled = self.dropout(self.features(images)).mean(dim=(2, 3), keepdim=True)  # (B, channels, 1, 1)
        return self.head(pooled).flatten(1)

    def cam(self, images: Tensor) -> Tensor:
        """Return the class activation maps ``(B, K, h, w)``, at least 0, of ``(B, 3, H, W)`` images.

        The maps are not normalised. For VGG-16 the authors take their square root.
        """
        maps = relu(self.head(self.features(images)))
        return torch.sqrt(maps) if self.backbone.square_root_cam else maps


class MapClassifier(nn.Module):
    """A multi-label classifier that returns its signed class maps; a logit is the mean of its map over the positions.

    Without a hidden layer this is `Classifier` with the pooling last, and has the same parameters. With a hidden layer,
    as in ACR, the maps are not linear in the features.

    Args:
        backbone: The network in front of the head.
        num_classes: K, the number of foreground classes.
        hidden: Channels of a rectified layer before the head; 0 for none.
    """

    def __init__(self, backbone: Backbone, num_classes: int, hidden: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        if hidden:
            self.hidden = nn.Conv2d(backbone.out.channels, hidden, 1, bias=False)
            nn.init.xavier_uniform_(self.hidden.weight)
        self.head = nn.Conv2d(hidden or backbone.out.channels, num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.head.weight)

    def official_key(self, key: str) -> str:
        """Return our name of a tensor that the authors' checkpoints call ``key``: ``fc8`` is the first new layer."""
        first, second = ("hidden.", "head.") if hasattr(self, "hidden") else ("head.", "fc9.")
        ours = {"fc8.": first, "fc9.": second}
        return f"{ours[key[:4]]}{key[4:]}" if key[:4] in ours else f"backbone.{key}"

    @property
    def new_layers(self) -> nn.ModuleList:
        """The layers that start from random weights."""
        return nn.ModuleList([*([self.hidden] if hasattr(self, "hidden") else []), self.head])

    def maps(self, features: Tensor) -> Tensor:
        """Return the signed class maps ``(B, K, h, w)`` of the last tap ``(B, channels, h, w)``."""
        if hasattr(self, "hidden"):
            features = relu(self.hidden(features))
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return the signed class maps ``(B, K, h, w)`` of ``(B, 3, H, W)`` normalised images."""
        return self.maps(list(self.backbone(images).values())[-1])
