"""Confident labels that two thresholds and a CRF make of class activation maps, and crops of images and labels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from wsss_lib.data.dataset import Dataset
from wsss_lib.data.large import resize_labels
from wsss_lib.data.scaled_crop import ScaledCrop
from wsss_lib.data.transforms import Normalise, to_tensor
from wsss_lib.errors import InputError
from wsss_lib.methods.irn import confident_labels, threshold_labels
from wsss_lib.ops import dense_crf
from wsss_lib.ops.affinity import UNKNOWN
from wsss_lib.stages.store import CamStore, MaskStore, read_cams


@dataclass(frozen=True)
class ThresholdLabels:
    """Labels of class activation maps at several thresholds, as probabilities for a CRF.

    Attributes:
        store: The maps.
        thresholds: Background scores; each gives one label map.
        confidence: Probability with which a label is right.
    """

    store: CamStore
    thresholds: Sequence[float]
    confidence: float

    def __call__(self, data: Dataset, index: int) -> tuple[Tensor, Tensor]:
        """Return classes and probabilities of an image."""
        classes, cams = read_cams(self.store, data, index)
        fields = torch.stack([threshold_labels(cams, threshold) for threshold in self.thresholds])
        return classes, (-dense_crf.unary_from_labels(fields, 1 + len(cams), self.confidence)).exp()


@dataclass(frozen=True)
class ConfidentLabels:
    """Labels of the pixels of every image, as far as they are known.

    Attributes:
        data: The images.
        objects: Masks of the images with the high threshold.
        background: Masks of the images with the low threshold.
    """

    data: Dataset
    objects: MaskStore
    background: MaskStore

    def __getitem__(self, index: int) -> Tensor:
        """Return ``(H, W)`` uint8 of the working size: 0 background, k + 1 class k, 255 not known.

        Raises:
            InputError: A mask is missing, damaged or does not fit the image.
        """
        data, size = self.data, self.data.own_size(index)
        pair = [store.read(data.ids[index], len(data.classes), size) for store in (self.objects, self.background)]
        return torch.from_numpy(resize_labels(confident_labels(*pair).numpy(), data.size(index)))

    def check(self) -> str:
        """Return a sentence on what the labels lack; "" if there are pixels of objects and pixels of background.

        Images are read until both kinds of pixels have been found, which rarely takes more than two images.

        Raises:
            InputError: The label of every pixel is unknown.
        """
        found = {"object": False, "background": False}
        for index in range(len(self.data)):
            labels = self[index]
            found["object"] |= bool(((labels > 0) & (labels < UNKNOWN)).any())
            found["background"] |= bool((labels == 0).any())
            if all(found.values()):
                return ""
        images = f"the {len(self.data)} images of {self.data.name}"
        if not any(found.values()):
            raise InputError(
                f"no pixel of {images} is confident object or confident background, so there is nothing to learn from; "
                "lower object_threshold, raise background_threshold, or give better maps."
            )
        missing = next(kind for kind, there in found.items() if not there)
        change = "lower object_threshold" if missing == "object" else "raise background_threshold"
        return f"no pixel of {images} is confident {missing}, so no boundary can be learned; {change}."


@dataclass(frozen=True)
class ConfidentCells:
    """The examples that IRN learns from: images and their confident labels, scaled and cut together.

    Attributes:
        labels: The images and their labels.
        crop: Scale, flip and window.
        normalise: Function that turns pixels into the network's input.
    """

    labels: ConfidentLabels
    crop: ScaledCrop
    normalise: Normalise

    def __call__(self, index: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Return ``(3, crop, crop)`` float32 and ``(crop / stride, crop / stride)`` uint8, rounded up."""
        labels = Image.fromarray(self.labels[index].numpy())
        return self.crop(self.labels.data.image(index), labels, self.normalise, rng)


class Corners(TorchDataset[Tensor]):
    """The upper left corners of all images, each on a canvas of the same size.

    Args:
        data: The images.
        side: Side of the canvas, in pixels.
        normalise: Function that turns pixels into the network's input.
    """

    def __init__(self, data: Dataset, side: int, normalise: Normalise) -> None:
        self.data = data
        self.side = side
        self.normalise = normalise

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        pixels = self.normalise(to_tensor(self.data.image(index)))[:, : self.side, : self.side]
        canvas = pixels.new_zeros(3, self.side, self.side)
        canvas[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return canvas
