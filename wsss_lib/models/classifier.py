"""An image classifier that can say where it looked: backbone, 1×1 head, global average pooling.

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

        They are not normalised. For VGG-16 the authors take the square root.
        """
        maps = relu(self.head(self.features(images)))
        return torch.sqrt(maps) if self.backbone.square_root_cam else maps
