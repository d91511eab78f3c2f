"""IRN's augmentation: random scale, mirroring and crop, the same for a picture and its label map."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from wsss_lib.data.transforms import Normalise, crop_to_canvas, random_crop_box, resize, to_tensor

_UNKNOWN = 255


@dataclass(frozen=True)
class ScaledCrop:
    """Augmentation of a training image and its label map.

    Attributes:
        min_scale: Least factor of both sides.
        max_scale: Greatest factor.
        crop: Side of the resulting square in pixels.
        stride: Side of a cell in pixels.
    """

    min_scale: float
    max_scale: float
    crop: int
    stride: int = 4

    def __call__(
        self, image: Image.Image, labels: Image.Image, normalise: Normalise, rng: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Return the training image and its labels, from the pixel in the middle of every cell.

        Args:
            image: RGB picture.
            labels: Grey picture of the same size: 0 background, another value a class, 255 unknown.
            normalise: Function that turns pixels into the network's input.
            rng: Source of the draws.

        Returns:
            ``(3, crop, crop)`` float32, 0 around the image, and ``(crop / stride, crop / stride)`` uint8, rounded up,
            255 around it.
        """
        scale = self.min_scale + rng.random() * (self.max_scale - self.min_scale)
        height, width = (max(1, round(side * scale)) for side in (image.height, image.width))
        image = resize(image, height, width)
        labels = labels.resize((width, height), Image.Resampling.NEAREST)
        if rng.getrandbits(1):
            image, labels = TF.horizontal_flip(image), TF.horizontal_flip(labels)
        box = random_crop_box(height, width, self.crop, rng)
        pixels = crop_to_canvas(normalise(to_tensor(image)), box, self.crop)
        values = crop_to_canvas(to_tensor(labels), box, self.crop, _UNKNOWN)
        cells = -(-self.crop // self.stride)
        middle = TF.pil_to_tensor(TF.to_pil_image(values).resize((cells, cells), Image.Resampling.NEAREST))
        return pixels, middle[0]
