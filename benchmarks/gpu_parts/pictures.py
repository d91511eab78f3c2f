"""Pictures of a wanted size from the toy world, whose own pictures are small."""

from __future__ import annotations

import numpy as np
import torch
from common import Pictures
from PIL import Image

from wsss_lib.data.toy import ToyOptions, ToyWorld

SIDE = 128


def mosaics(count: int, height: int, width: int) -> list[np.ndarray]:
    """Return ``(height, width, 3)`` uint8 pictures, each put together from pictures of the toy world."""
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    drawn = min(64, count * rows * columns)
    world = ToyWorld("train", drawn, options=ToyOptions(size=SIDE))
    order = np.random.default_rng(0).integers(0, drawn, (count, rows, columns))
    tiles = np.stack([np.asarray(world.image(i)) for i in range(drawn)])
    joined = tiles[order].transpose(0, 1, 3, 2, 4, 5).reshape(count, rows * SIDE, columns * SIDE, 3)
    return list(np.ascontiguousarray(joined[:, :height, :width]))


class Mosaics(Pictures):
    """Mosaics of toy pictures with one to three of K classes each; every fourth is a portrait.

    Args:
        count: Number of pictures.
        height: Height of a landscape picture.
        width: Width of a landscape picture.
        num_classes: Number of classes K.
    """

    def __init__(self, count: int, height: int, width: int, num_classes: int) -> None:
        pictures = mosaics(count, height, width)
        rng = np.random.default_rng(1)
        labels = torch.zeros(count, num_classes)
        for row in labels:
            row[torch.from_numpy(rng.choice(num_classes, rng.integers(1, 4), replace=False))] = 1
        turned = [Image.fromarray(p.swapaxes(0, 1) if i % 4 == 3 else p) for i, p in enumerate(pictures)]
        super().__init__("mosaics", turned, labels)
