"""Augmentation of images together with their label maps, for segmentation networks.

Both published recipes scale, crop and mirror, and differ in the order of their random draws. They resize images with
OpenCV's bilinear rule, which is PyTorch's with pixel centres aligned and no smoothing; the results differ by less than
1e-3 of a grey level, because OpenCV rounds its weights. Labels are resized to the nearest pixel by OpenCV's rule or by
Pillow's, which are half a pixel apart.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from wsss_lib.data.transforms import CropBox, Normalise, crop_to_canvas, to_tensor


def resize_pixels(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize ``(3, H, W)`` uint8 to ``(3, height, width)`` float32 with values of 0-255, bilinearly as OpenCV does."""
    return F.interpolate(pixels.double()[None], (height, width), mode="bilinear", align_corners=False)[0].float()


def nearest_as_opencv(labels: Tensor, height: int, width: int) -> Tensor:
    """Resize ``(H, W)`` labels to ``(height, width)``: position i is ``floor(i n_in / n_out)``."""

    def source(length: int, wanted: int) -> Tensor:
        step = 1 / (wanted / length)  # with OpenCV's rounding
        return (torch.arange(wanted, dtype=torch.float64) * step).floor().long().clamp(max=length - 1)

    return labels[source(labels.shape[0], height)][:, source(labels.shape[1], width)]


def nearest_as_pillow(labels: Tensor, height: int, width: int) -> Tensor:
    """Resize ``(H, W)`` uint8 labels to ``(height, width)``: position i is ``floor((i + 0.5) n_in / n_out)``."""
    picture = Image.fromarray(labels.numpy()).resize((width, height), Image.Resampling.NEAREST)
    return to_tensor(picture)[0]


@dataclass(frozen=True)
class LabelledAugmentation(ABC):
    """Base class of the augmentations of a training image and its labels.

    Attributes:
        scales: Values that the scale is drawn from.
        crop: Side of the resulting square in pixels.
        padding_label: Label of the padding around an image that is smaller than the square; 255 for ignored.
    """

    scales: tuple[float, ...]
    crop: int
    padding_label: int = 255

    @abstractmethod
    def draw_scale(self, rng: random.Random) -> float:
        """Draw a scale."""

    @abstractmethod
    def cut(
        self, image: Image.Image, labels: Tensor, normalise: Normalise, rng: random.Random, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return the training image and labels at a given scale, see :meth:`__call__`."""

    def __call__(
        self, image: Image.Image, labels: Tensor, normalise: Normalise, rng: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Return a training image and its labels.

        Args:
            image: RGB picture.
            labels: ``(H, W)`` uint8, of the same size.
            normalise: Function that turns pixels into the network's input.
            rng: Source of the draws.

        Returns:
            ``(3, crop, crop)`` float32, 0 outside the image, and ``(crop, crop)`` uint8.
        """
        return self.cut(image, labels, normalise, rng, self.draw_scale(rng))

    def place(self, pixels: Tensor, labels: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
        """Cut the square at (top, left) out of ``(3, H, W)`` and ``(H, W)``, padded at the bottom and at the right."""
        size = (min(pixels.shape[1], self.crop), min(pixels.shape[2], self.crop))
        box = CropBox((0, 0), (top, left), size)
        cut = crop_to_canvas(labels[None], box, self.crop, self.padding_label)[0]
        return crop_to_canvas(pixels, box, self.crop), cut


class UniformScale(LabelledAugmentation):
    """The augmentation of MCTformer's segmentation code: any scale between the two given scales.

    In that code all images of a batch have the same scale, and padding counts as background (``padding_label=0``).
    """

    def draw_scale(self, rng: random.Random) -> float:
        """Draw a scale between the first and the last."""
        return rng.uniform(self.scales[0], self.scales[-1])

    def cut(
        self, image: Image.Image, labels: Tensor, normalise: Normalise, rng: random.Random, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Draw the mirroring, then top and left, each only if the image is longer than the square."""
        height, width = scaled_size(image, scale)
        mirrored = rng.random() > 0.5
        pixels = resize_pixels(to_tensor(image), height, width)
        labels = nearest_as_opencv(labels, height, width)
        if mirrored:
            pixels, labels = pixels.flip(-1), labels.flip(-1)
        top, left = (int(rng.random() * (side - self.crop)) if side > self.crop else 0 for side in (height, width))
        return self.place(normalise(pixels), labels, top, left)


class ScaleChoice(LabelledAugmentation):
    """The augmentation of the DeepLab-V2 code (kazuto1011/deeplab-pytorch): one of the given scales."""

    def draw_scale(self, rng: random.Random) -> float:
        """Draw one of the scales."""
        return rng.choice(self.scales)

    def cut(
        self, image: Image.Image, labels: Tensor, normalise: Normalise, rng: random.Random, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Draw top and left, then the mirroring."""
        height, width = scaled_size(image, scale)
        pixels = normalise(resize_pixels(to_tensor(image), height, width))
        top, left = (rng.randint(0, max(side, self.crop) - self.crop) for side in (height, width))
        pixels, labels = self.place(pixels, nearest_as_pillow(labels, height, width), top, left)
        return (pixels.flip(-1), labels.flip(-1)) if rng.random() < 0.5 else (pixels, labels)


def scaled_size(image: Image.Image, scale: float) -> tuple[int, int]:
    """Return ``(height, width)`` of a scaled picture, rounded down as both codes do."""
    return max(1, int(image.height * scale)), max(1, int(image.width * scale))
