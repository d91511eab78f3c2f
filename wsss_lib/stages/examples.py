"""The training examples of every method. What an example looks like depends on seed, epoch and position alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.label_transforms import LabelledAugmentation
from wsss_lib.data.large import resize_labels
from wsss_lib.data.saliency import SaliencyMaps
from wsss_lib.data.transforms import (
    Augment,
    Augmentation,
    Normalise,
    crop_to_canvas,
    jitter_colour,
    random_crop_box,
    to_tensor,
)
from wsss_lib.errors import InputError
from wsss_lib.methods.affinitynet import semi_labels
from wsss_lib.methods.msal import saliency_canvas
from wsss_lib.stages.store import MaskStore, ScoreStore

Example = Callable[[int, random.Random], tuple[Tensor, Tensor]]
"""Makes the training example of an image, augmented with draws from the generator: network input, and what to learn."""


@dataclass(frozen=True)
class LabelledImages:
    """The examples that a classifier learns from: augmented images and their image-level labels.

    Attributes:
        data: The images and labels.
        augmentation: Augmentation of an image.
        normalise: Function that turns pixels into the network's input.
    """

    data: Dataset
    augmentation: Augment
    normalise: Normalise

    def __call__(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return ``(3, crop, crop)`` float32 and ``(K,)`` float32."""
        return self.augmentation(self.data.image(index), self.normalise, rng), self.data.labels[index]


class TrainingImages(TorchDataset[tuple[Tensor, Tensor, int]]):
    """Training examples. What one looks like depends on seed, epoch and its position, and on nothing else.

    Args:
        data: The images.
        example: Makes an example.
        seed: Seed of the run.
    """

    def __init__(self, data: Dataset, example: Example, seed: int) -> None:
        self.data = data
        self.example = example
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        rng = random.Random(f"{self.seed}/{self.epoch}/{index}")
        image, target = self.example(index, rng)
        return image, target, index


@dataclass(frozen=True)
class LabelledCells:
    """The examples that AffinityNet learns from: crops at the original resolution and what is known of their cells.

    Attributes:
        data: The images.
        low: Their CRF probabilities with the low alpha.
        high: Their CRF probabilities with the high alpha.
        crop: Side of the crops in pixels.
        stride: Side of a cell in pixels.
        colour: Strength of the brightness, contrast and saturation jitter.
        hue: Strength of the hue jitter.
        normalise: Function that turns pixels into the network's input.
    """

    data: Dataset
    low: ScoreStore
    high: ScoreStore
    crop: int
    stride: int
    colour: float
    hue: float
    normalise: Normalise

    def __call__(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return ``(3, crop, crop)`` float32 and ``(crop / stride, crop / stride)`` uint8, rounded up."""
        image = self.data.image(index)
        pixels = to_tensor(jitter_colour(image, self.colour, self.hue, rng))
        low, high = (self._scores(store, index) for store in (self.low, self.high))
        box = random_crop_box(image.height, image.width, self.crop, rng)
        pixels = self.normalise(crop_to_canvas(pixels, box, self.crop))  # black outside, as in the authors' code
        scores = crop_to_canvas(torch.cat([low, high]), box, self.crop)
        if rng.getrandbits(1):
            pixels, scores = pixels.flip(-1), scores.flip(-1)
        margin = -self.crop % self.stride
        cells = F.avg_pool2d(F.pad(scores, (0, margin, 0, margin)), self.stride)
        return pixels, semi_labels(cells[: len(low)], cells[len(low) :])

    def _scores(self, store: ScoreStore, index: int) -> Tensor:
        path = store.path(self.data.ids[index])
        _, scores = store.read(self.data.ids[index])
        size, own = self.data.size(index), self.data.own_size(index)
        if tuple(scores.shape[1:]) != size:
            image = f"the image is {own}" + (f", of which labels are made at {size}" if size != own else "")
            raise InputError(f"{path} is {tuple(scores.shape[1:])} pixels but {image}; remove it and start again.")
        return scores


@dataclass(frozen=True)
class PseudoLabelled:
    """The examples that a segmentation network learns from: augmented images and their pseudo masks.

    Attributes:
        data: The images.
        masks: Their pseudo masks.
        augmentation: Augmentation of an image and its mask.
        colour: Strength of the brightness, contrast and saturation jitter.
        hue: Strength of the hue jitter.
        normalise: Function that turns pixels into the network's input.
    """

    data: Dataset
    masks: MaskStore
    augmentation: LabelledAugmentation
    colour: float
    hue: float
    normalise: Normalise

    def __call__(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return ``(3, crop, crop)`` float32 and ``(crop, crop)`` uint8."""
        return self.at(index, rng, self.augmentation.draw_scale(rng))

    def at(self, index: int, rng: random.Random, scale: float) -> tuple[Tensor, Tensor]:
        """Return the same at a given scale."""
        mask = self.masks.read(self.data.ids[index], len(self.data.classes), self.data.own_size(index))
        labels = torch.from_numpy(resize_labels(mask.numpy(), self.data.size(index)))
        image = jitter_colour(self.data.image(index), self.colour, self.hue, rng)
        return self.augmentation.cut(image, labels, self.normalise, rng, scale)


class JointlyScaled(TrainingImages):
    """Training examples, all those of a batch having one scale, as in MCTformer's code.

    Args:
        data: The images.
        example: Makes an example.
        seed: Seed of the run.
    """

    def __init__(self, data: Dataset, example: PseudoLabelled, seed: int) -> None:
        super().__init__(data, example, seed)
        self.at = example.at
        self.draw_scale = example.augmentation.draw_scale

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor, int]]:
        """Return the examples of a batch; PyTorch's loader prefers this to asking for each."""
        scale = self.draw_scale(random.Random(f"{self.seed}/{self.epoch}/batch/{indices[0]}"))
        return [(*self.at(i, random.Random(f"{self.seed}/{self.epoch}/{i}"), scale), i) for i in indices]


@dataclass(frozen=True)
class SalientImages:
    """The examples of MSAL-S: augmented images with their saliency as a fourth channel, and image-level labels.

    Attributes:
        saliency: The maps and their images.
        augmentation: Augmentation of an image.
        normalise: Function that turns pixels into the network's input.
    """

    saliency: SaliencyMaps
    augmentation: Augmentation
    normalise: Normalise

    def __call__(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return ``(4, crop, crop)`` float32, the last channel in [0, 1], and ``(K,)`` float32."""
        data, other = self.saliency.data, self.saliency[index]
        image, values = self.augmentation.with_map(data.image(index), other, self.normalise, rng, saliency_canvas)
        return torch.cat([image, values / 255]), data.labels[index]


class ResizedToSquare(TorchDataset[tuple[Tensor, Tensor]]):
    """Images that are resized to a square, and the classes for which each of them counts.

    Args:
        data: The images.
        indices: Positions of the images that are used.
        used: ``(n, C)`` bool, the classes for which each of these images counts.
        size: Side of the square in pixels.
        normalise: Function that turns pixels into the network's input.
    """

    def __init__(self, data: Dataset, indices: Sequence[int], used: Tensor, size: int, normalise: Normalise) -> None:
        self.data = data
        self.indices = indices
        self.used = used
        self.size = size
        self.normalise = normalise

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        image = self.data.image(self.indices[position]).resize((self.size, self.size), Image.Resampling.BILINEAR)
        return self.normalise(to_tensor(image)), self.used[position]
