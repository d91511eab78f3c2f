"""The augmentation of vision transformers: random crop, mirroring, distortions and random erasing.

RandomResizedCrop (Szegedy et al., CVPR 2015), RandAugment (Cubuk et al., CVPR Workshops 2020) in the form that DeiT's
code uses ("rand-m9-mstd0.5-inc1"), and random erasing (Zhong et al., AAAI 2020). The random numbers have
the distributions of the authors' code; they are not the same numbers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from wsss_lib.data.transforms import Normalise, to_tensor

FILL = (124, 116, 104)
"""ImageNet's mean colour, which fills the pixels that a distortion leaves empty."""

_ATTEMPTS = 10
_LEAST_RATIO = 3 / 4
_MAGNITUDE, _DEVIATION, _MOST = 9.0, 0.5, 10.0
_BICUBIC = Image.Resampling.BICUBIC

Box = tuple[int, int, int, int]


def random_part(width: int, height: int, least: float, most: float, rng: random.Random) -> Box:
    """Draw a part of an image: share of the area uniform in [least, most], ratio of sides log-uniform in [3/4, 4/3].

    A part that does not fit is drawn again. After ten draws the part is the largest centred part of the image whose
    ratio is allowed.

    Returns:
        left, top, right and bottom in pixels.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * rng.uniform(least, most)
        ratio = math.exp(rng.uniform(math.log(_LEAST_RATIO), -math.log(_LEAST_RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    w, h = width, height
    if width / height < _LEAST_RATIO:
        h = max(1, round(width / _LEAST_RATIO))
    elif width / height > 1 / _LEAST_RATIO:
        w = max(1, round(height / _LEAST_RATIO))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=_BICUBIC, fillcolor=FILL)


def _enhance(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
) -> Callable[[Image.Image, float, float], Image.Image]:
    return lambda image, m, sign: kind(image).enhance(max(0.1, 1 + sign * 0.09 * m))


def _solarize_add(image: Image.Image, m: float, _: float) -> Image.Image:
    added = int(11 * m)
    return image.point([min(255, v + added) if v < 128 else v for v in range(256)] * 3)


OPERATIONS: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "AutoContrast": lambda image, _m, _s: ImageOps.autocontrast(image),
    "Equalize": lambda image, _m, _s: ImageOps.equalize(image),
    "Invert": lambda image, _m, _s: ImageOps.invert(image),
    "Rotate": lambda image, m, s: image.rotate(s * 3 * m, resample=_BICUBIC, fillcolor=FILL),
    "Posterize": lambda image, m, _s: _keep_bits(image, 4 - int(0.4 * m)),
    "Solarize": lambda image, m, _s: ImageOps.solarize(image, 256 - int(25.6 * m)),
    "SolarizeAdd": _solarize_add,
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "ShearX": lambda image, m, s: _affine(image, (1, s * 0.03 * m, 0, 0, 1, 0)),
    "ShearY": lambda image, m, s: _affine(image, (1, 0, 0, s * 0.03 * m, 1, 0)),
    "TranslateX": lambda image, m, s: _affine(image, (1, 0, s * 0.045 * m * image.width, 0, 1, 0)),
    "TranslateY": lambda image, m, s: _affine(image, (1, 0, 0, 0, 1, s * 0.045 * m * image.height)),
}
"""The distortions that RandAugment draws from: functions of an RGB image, a magnitude in [0, 10] and a sign."""


def _keep_bits(image: Image.Image, bits: int) -> Image.Image:
    """Keep the upper bits of every value; with 0 bits the image is black."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def rand_augment(image: Image.Image, operations: int, rng: random.Random) -> Image.Image:
    """Distort an RGB image: draw ``operations`` distortions with replacement and apply each with probability 1/2."""
    for name in rng.choices(list(OPERATIONS), k=operations):
        if rng.random() < 0.5:
            m = min(max(rng.gauss(_MAGNITUDE, _DEVIATION), 0.0), _MOST)
            image = OPERATIONS[name](image, m, rng.choice((-1.0, 1.0)))
    return image


def erase_part(pixels: Tensor, rng: random.Random) -> Tensor:
    """Cover 2 % to a third of ``(3, H, W)`` normalised pixels with noise of standard deviation 1."""
    _, height, width = pixels.shape
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(0.02, 1 / 3)
        ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            noise = np.random.default_rng(rng.getrandbits(64)).standard_normal((3, h, w), np.float32)
            pixels[:, top : top + h, left : left + w] = torch.from_numpy(noise)
            break
    return pixels


@dataclass(frozen=True)
class CropAugmentation:
    """The augmentation of MCTformer and PCSS.

    Attributes:
        crop: Side of the resulting square in pixels.
        least: Least share of the area of the image that is kept.
        most: Greatest share of the area that is kept; it may be more than 1.
        operations: Number of distortions that are drawn.
        erasing: Probability that noise covers a part.
    """

    crop: int
    least: float
    most: float
    operations: int = 2
    erasing: float = 0.0

    def __call__(self, image: Image.Image, normalise: Normalise, rng: random.Random) -> Tensor:
        """Return ``(3, crop, crop)`` float32 for an RGB picture."""
        box = random_part(*image.size, self.least, self.most, rng)
        image = image.crop(box).resize((self.crop, self.crop), _BICUBIC)
        if rng.getrandbits(1):
            image = ImageOps.mirror(image)
        pixels = normalise(to_tensor(rand_augment(image, self.operations, rng)))
        return erase_part(pixels, rng) if rng.random() < self.erasing else pixels
