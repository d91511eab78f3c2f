"""Large pictures: everything is computed on a reduced copy of a picture, which bounds the memory needed.

The *own size* of a picture is the size in its file, the *working size* is the size of the copy. Both are the same for a
picture of at most :data:`WORKING_PIXELS` pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import numpy as np
from PIL import Image

WORKING_PIXELS = 2**19
"""Greatest number of pixels of a working size, such as 836 x 627. No picture of VOC or COCO has more.

At twice the size and with its mirror image, such a picture needs about 2 GiB in MobileNetV2 and ResNet-50.
"""

_BAND = 2**20
"""Number of pixels of a picture that are converted at a time."""


def working_size(height: int, width: int) -> tuple[int, int]:
    """Return the working size ``(height, width)`` of a picture of a given own size.

    Both sides are multiplied by the same factor, at most 1, so that there are at most :data:`WORKING_PIXELS` pixels,
    and rounded down.
    """
    if height * width <= WORKING_PIXELS:
        return height, width
    short, long = sorted((height, width))
    sides = max(1, isqrt(WORKING_PIXELS * short // long)), min(WORKING_PIXELS, isqrt(WORKING_PIXELS * long // short))
    return sides if height <= width else sides[::-1]


def reduced(picture: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return a copy of the working size of an opened picture that is larger, in mode ``RGB``.

    A JPEG is decoded at an eighth, a quarter or half of its size where that leaves twice the working size. Other
    formats cannot be decoded in parts: they need up to 4 bytes for each of their pixels.

    Args:
        picture: The picture, not decoded yet.
        to_rgb: Function that converts a part of the picture.
    """
    height, width = working_size(picture.height, picture.width)
    picture.draft(None, (2 * width, 2 * height))
    picture.load()
    factor = max(1, min(picture.height // (2 * height), picture.width // (2 * width)))
    rows = factor * max(1, _BAND // (factor * picture.width))
    copy = Image.new("RGB", (-(-picture.width // factor), -(-picture.height // factor)))
    for top in range(0, picture.height, rows):
        band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        band.format = picture.format
        copy.paste(to_rgb(band).reduce(factor), (0, top // factor))
    box = (0, 0, picture.width / factor, picture.height / factor)  # without the rest of the last cells
    return copy.resize((width, height), Image.Resampling.BICUBIC, box)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an ``(H, W)`` label map to ``size`` (height, width): every pixel shows the label at its centre."""
    if labels.shape == size:
        return labels
    rows, columns = ((2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]
