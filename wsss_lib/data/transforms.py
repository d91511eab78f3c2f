"""Conversion of a picture to the input of a network: augmentation for training, resized views for inference.

Every random draw comes from a ``random.Random`` that the caller seeds, in the order of the authors' code. So the
augmentation of a picture depends on that seed alone, not on worker processes or earlier draws.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

Normalise = Callable[[Tensor], Tensor]
"""Function from ``(3, H, W)`` uint8 RGB to the float32 input of a network."""

Augment = Callable[[Image.Image, Normalise, random.Random], Tensor]
"""Function from an RGB picture and a random generator to a training image ``(3, S, S)`` float32."""


def resize(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize with Pillow's bicubic filter (smoothed when it shrinks), as the papers' code does."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def resize_long_side(image: Image.Image, long_side: int, by_factor: bool = False) -> Image.Image:
    """Resize so that the longer side has ``long_side`` pixels and the ratio of the sides stays.

    Args:
        image: Any picture.
        long_side: Length of the longer side, in pixels.
        by_factor: Whether both sides are multiplied by the same factor, as in MSAL's code. The rounding of half a pixel
            may then differ.
    """
    width, height = image.size
    if by_factor:
        factor = long_side / max(width, height)
        return resize(image, max(1, round(height * factor)), max(1, round(width * factor)))
    if width < height:
        return resize(image, long_side, max(1, round(width * long_side / height)))
    return resize(image, max(1, round(height * long_side / width)), long_side)


@dataclass(frozen=True)
class CropBox:
    """A window of an image and its place on a canvas: both as (top, left), and their common size."""

    canvas: tuple[int, int]
    image: tuple[int, int]
    size: tuple[int, int]


def random_crop_box(height: int, width: int, crop: int, rng: random.Random) -> CropBox:
    """Draw a window of at most ``crop`` × ``crop`` pixels, and its place on a canvas of that size.

    Along an axis where the image is larger than the canvas, the window is random and fills the canvas. Along an axis
    where the image is smaller, the whole image is put at a random place. The horizontal place is drawn first.
    """

    def place(length: int) -> tuple[int, int]:
        space = length - crop
        if space > 0:
            return 0, rng.randrange(space + 1)
        return rng.randrange(-space + 1), 0

    canvas_left, image_left = place(width)
    canvas_top, image_top = place(height)
    size = (min(height, crop), min(width, crop))
    return CropBox((canvas_top, canvas_left), (image_top, image_left), size)


def crop_to_canvas(image: Tensor, box: CropBox, crop: int, fill: float = 0.0) -> Tensor:
    """Copy the window ``box`` of ``(C, H, W)`` onto a ``(C, crop, crop)`` canvas of value ``fill``.

    After normalisation, 0 is the mean colour.
    """
    height, width = box.size
    canvas = image.new_full((image.shape[0], crop, crop), fill)
    top, left = box.image
    window = image[:, top : top + height, left : left + width]
    top, left = box.canvas
    canvas[:, top : top + height, left : left + width] = window
    return canvas


def jitter_colour(image: Image.Image, strength: float, hue: float, rng: random.Random) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order.

    Args:
        image: RGB picture.
        strength: Factors of brightness, contrast and saturation lie in ``[1 - strength, 1 + strength]``.
        hue: Greatest rotation of the hue, as a share of the colour circle, 0-0.5.
        rng: Source of the draws.
    """
    changes: list[Callable[[Image.Image], Image.Image]] = []
    if strength:
        changes += [
            lambda x: TF.adjust_brightness(x, rng.uniform(1 - strength, 1 + strength)),
            lambda x: TF.adjust_contrast(x, rng.uniform(1 - strength, 1 + strength)),
            lambda x: TF.adjust_saturation(x, rng.uniform(1 - strength, 1 + strength)),
        ]
    if hue:
        changes.append(lambda x: TF.adjust_hue(x, rng.uniform(-hue, hue)))
    rng.shuffle(changes)
    for change in changes:
        image = change(image)
    return image


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of AffinityNet's classifier, which most later methods share.

    Attributes:
        min_long_side: Least length of the longer side after the random resizing, in pixels.
        max_long_side: Greatest length of the longer side, included.
        crop: Side of the resulting square in pixels.
        colour: Strength of the brightness, contrast and saturation jitter.
        hue: Strength of the hue jitter.
        by_factor: See `resize_long_side`.
    """

    min_long_side: int
    max_long_side: int
    crop: int
    colour: float = 0.3
    hue: float = 0.1
    by_factor: bool = False

    def __call__(self, image: Image.Image, normalise: Normalise, rng: random.Random) -> Tensor:
        """Return ``(3, crop, crop)`` float32 for an RGB picture: resize, flip, colour, normalise, crop."""
        return self.with_map(image, None, normalise, rng)[0]

    def with_map(
        self,
        image: Image.Image,
        other: Image.Image | None,
        normalise: Normalise,
        rng: random.Random,
        fill: Callable[[Tensor], float] = lambda _: 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return the training image, and another picture of the same size with the same augmentation.

        Args:
            image: RGB picture.
            other: A picture that is resized without interpolation and keeps its colours; None for none.
            normalise: Function that turns pixels into the network's input.
            rng: Source of the draws, which do not depend on ``other``.
            fill: Value of the canvas outside the resized ``other``.

        Returns:
            ``(3, crop, crop)`` float32, and ``(c, crop, crop)`` uint8, with c = 0 if ``other`` is None.
        """
        image = resize_long_side(image, rng.randint(self.min_long_side, self.max_long_side), self.by_factor)
        if mirrored := rng.getrandbits(1):
            image = TF.horizontal_flip(image)
        image = jitter_colour(image, self.colour, self.hue, rng)
        pixels = normalise(to_tensor(image))
        box = random_crop_box(pixels.shape[1], pixels.shape[2], self.crop, rng)
        cropped = crop_to_canvas(pixels, box, self.crop)
        if other is None:
            return cropped, torch.zeros(0, self.crop, self.crop, dtype=torch.uint8)
        values = to_tensor(other.resize(image.size, Image.Resampling.NEAREST))
        values = values.flip(-1) if mirrored else values
        return cropped, crop_to_canvas(values, box, self.crop, fill(values))


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB picture as ``(3, H, W)`` uint8, contiguous."""
    return TF.pil_to_tensor(image).contiguous()


def view_size(height: int, width: int, scale: float, multiple: int | None = None) -> tuple[int, int]:
    """Return the size of a rescaled view.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        scale: Factor of height and width.
        multiple: Number for rounding both lengths to the nearest ``multiple * i + 1``; None for no such rounding. At
            these sizes symmetric padding samples the picture at the same positions as TensorFlow's padding.
    """
    if multiple is None:
        return max(1, round(height * scale)), max(1, round(width * scale))

    def snap(length: int) -> int:
        return max(1, round((length * scale - 1) / multiple)) * multiple + 1

    return snap(height), snap(width)


def view(image: Image.Image, scale: float, normalise: Normalise, multiple: int | None = None) -> Tensor:
    """Return the picture, rescaled and normalised, as ``(3, h, w)`` float32; see :func:`view_size`."""
    height, width = view_size(image.height, image.width, scale, multiple)
    return normalise(to_tensor(resize(image, height, width)))
