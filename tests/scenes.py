"""Pictures and label maps that follow from their name, as the golden vectors of the segmentation stage have them."""

import numpy as np
import torch

from tests import recipe


def picture01(name, size):
    """A smooth picture with a little noise, ``(3, H, W)`` float32 in [0, 1]."""
    shape = (3, *size)
    return np.clip(recipe.smooth(name, shape, cells=6) + recipe.array(f"{name}/noise", shape, 0.05), 0, 1)


def picture(name, size):
    """The same as ``(H, W, 3)`` uint8."""
    return np.round(picture01(name, size) * 255).astype(np.uint8).transpose(1, 2, 0).copy()


def label_map(name, size, count):
    """A smooth label map ``(H, W)`` uint8 of the values 0 to ``count - 1``, with a few ignored pixels (255)."""
    fields = [recipe.smooth(f"{name}/{c}", (1, *size), cells=4)[0] for c in range(count)]
    void = recipe.uniform(f"{name}/void", size) < 0.06
    return np.where(void, 255, np.argmax(fields, axis=0)).astype(np.uint8)


def deeplab_checkpoint(name):
    """The made-up DeepLab-V2 of a golden vector, scaled down so that its values stay in range."""
    checkpoint = recipe.fill(recipe.shapes(name), "segmentation/deeplab")
    for key, value in checkpoint.items():
        if key.endswith("increase.bn.weight"):
            value *= np.float32(0.3)
        elif key == "base.layer1.conv1.bn.weight":
            value *= np.float32(0.02)
        elif key.startswith("base.aspp.") and key.endswith("weight"):
            value *= np.float32(0.1)
    return {key: torch.from_numpy(value) for key, value in checkpoint.items()}


def resnet38_checkpoint(name):
    """The made-up ResNet-38 of a golden vector."""
    checkpoint = recipe.fill(recipe.shapes(name), "segmentation/resnet38")
    checkpoint["fc8_seg_conv2.weight"] *= np.float32(0.05)
    return {key: torch.from_numpy(value) for key, value in checkpoint.items()}
