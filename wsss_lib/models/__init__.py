"""Networks. A backbone is chosen by its name."""

from __future__ import annotations

from typing import Any

from wsss_lib.errors import InputError
from wsss_lib.models.backbone import Backbone
from wsss_lib.models.deit import DeiT
from wsss_lib.models.efficientnet_lite0 import EfficientNetLite0
from wsss_lib.models.mobilenet_v2 import MobileNetV2
from wsss_lib.models.resnet38d import ResNet38d
from wsss_lib.models.resnet50 import ResNet50
from wsss_lib.models.resnet101 import CaffeResNet101
from wsss_lib.models.vgg16 import VGG16

BACKBONES: dict[str, type[Backbone]] = {
    "resnet38d": ResNet38d,
    "vgg16": VGG16,
    "resnet50": ResNet50,
    "efficientnet_lite0": EfficientNetLite0,
    "mobilenet_v2": MobileNetV2,
    "resnet101_caffe": CaffeResNet101,
    "deit_small": DeiT,
}


def create_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone with random weights.

    Args:
        name: One of `BACKBONES`.
        options: Arguments of the backbone's class, such as ``width``; an unknown argument is an error.

    Raises:
        InputError: The name is not in `BACKBONES`.
    """
    if name not in BACKBONES:
        raise InputError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}.")
    return BACKBONES[name](**options)
